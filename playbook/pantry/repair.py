"""`playbook repair`: what is wrong with the indexes of a DuckDB file, and the way out."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.pantry.indexes import DamagedDatabase, Double, describe, find_damage, in_memory, rebuild

# Whoever imports this module has the models' tables, for what refers to a row.
import playbook.pantry.app  # noqa: F401  isort: skip

BEFORE = ".before-repair"


def repair(url: str, remove: Sequence[str], say: Callable[[str], object]) -> bool:
    """Look, tell in lines, make all indexes again. False when rows collide: then nothing was changed.

    `remove` are rows to delete, `TABLE=PRIMARY KEY`. Raises ValueError for a database that cannot be repaired like
    this, and DamagedDatabase, one of them, for a row that cannot be removed.
    """
    engine = make_engine(url)
    if engine.dialect.name != "duckdb":
        raise ValueError("DATABASE_URL names PostgreSQL, whose indexes outlive a crash: see amcheck and REINDEX")
    file = Path(engine.url.database or "")
    if in_memory(engine) or not file.is_file():
        raise ValueError(f"there is no database file {str(file)!r}: name it in DATABASE_URL")
    without: dict[str, set[str]] = defaultdict(set)
    for given in remove:
        table, equals, key = given.partition("=")
        if not (table and equals and key):
            raise ValueError(f"--remove {given!r} should be TABLE=KEY, for example users=019a2b1c-...")
        without[table].add(key)
    try:
        damage = find_damage(engine)
        for found in damage:
            say(str(found))
        collisions = [found for found in damage if isinstance(found, Double)]
        if [double for double in collisions if len(set(double.rows) - without[double.key.table]) > 1]:
            for double in collisions:
                for line in describe(engine, double):
                    say(f"  {line}")
            say(
                "nothing was changed: of the rows that collide one may stay. `playbook repair --remove TABLE=KEY` "
                "deletes a row and what belongs to it"
            )
            return False
        saved = None
        if remove:
            engine.dispose()  # while a file is copied nothing may write to it, and its log must be empty
            saved = file.with_name(file.name + BEFORE)
            if saved.exists():
                raise ValueError(f"{saved} is from an earlier repair: move it away first")
            shutil.copy2(file, saved)
            say(f"the file as it was: {saved}")
        try:
            changed = rebuild(engine, without)
        except DamagedDatabase:
            if saved is not None:
                saved.unlink()  # nothing was changed
            raise
        for table, count in changed.items():
            say(f"{table}: {count} {'row' if count == 1 else 'rows'} removed or cut off")
        say("all indexes were made again" + ("" if damage else "; nothing was wrong with them"))
        return True
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise ValueError(f"the database file cannot be opened ({reason}): stop the program that has it open") from None
    finally:
        engine.dispose()
