"""The exercise of the page "Bulk load": its checker, its hints, wrong answers; and what the page's stage needs."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from playbook.kit.display import Shown, mermaid
from playbook.kit.exercises import checker


def load_row_by_row(engine: sa.Engine, packages: sa.Table, path: Path, skip: bool) -> str:
    """Insert each row in a transaction of its own. The error that ended the load; with `skip`, none does."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values = {"name": row["name"], "version": row["version"] or None, "month": row["last_release"] or None}
            try:
                with engine.begin() as db:
                    db.execute(packages.insert().values(values))
            except sa.exc.IntegrityError as error:
                if not skip:
                    return str(error.orig).splitlines()[0]
    return "no error"


def diagram(raw: sa.Table, target: sa.Table) -> Shown:
    """The staging table, and the table that takes its rows."""
    lines = ["erDiagram", f"  {raw.name} |o--o| {target.name} : reason is empty"]
    for one in (raw, target):
        kinds = [f"    {type(column.type).__name__} {column.name}" for column in one.columns]
        lines += [f"  {one.name} {{", *kinds, "  }"]
    return mermaid("\n".join(lines))


HINTS = (
    "Look at the four cases of a package: in the file or not, gone before or not.\n"
    "In two of them nothing is to do. See 'The idea' for statements about all rows.",
    "Two UPDATEs, each for one of the other cases. What an UPDATE returns can be\n"
    "counted. An exception undoes everything, so the limit can be checked last.",
)

WRONG = (
    # a row that was refused counts as missing
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name, raw.c.reason == '')\n"
    "    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))\n"
    "    db.execute(back.values(gone_on=None))\n"
    "    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    if len(went) > most:\n"
    "        raise ValueError('too many')\n"
    "    return len(went)",
    # who has gone goes again with each file
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name)\n"
    "    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))\n"
    "    db.execute(back.values(gone_on=None))\n"
    "    gone = packages.update().where(~in_file)\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    if len(went) > most:\n"
    "        raise ValueError('too many')\n"
    "    return len(went)",
    # nobody comes back
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name)\n"
    "    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    if len(went) > most:\n"
    "        raise ValueError('too many')\n"
    "    return len(went)",
    # the limit counts those of earlier days, too
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name)\n"
    "    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))\n"
    "    db.execute(back.values(gone_on=None))\n"
    "    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    gone = sa.select(packages.c.name).where(packages.c.gone_on.is_not(None))\n"
    "    if len(db.execute(gone).all()) > most:\n"
    "        raise ValueError('too many')\n"
    "    return len(went)",
    # no limit
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name)\n"
    "    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))\n"
    "    db.execute(back.values(gone_on=None))\n"
    "    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    return len(went)",
    # exactly `most` is not more than `most`
    "def mark_gone(db, raw, packages, today, most):\n"
    "    in_file = sa.exists().where(raw.c.name == packages.c.name)\n"
    "    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))\n"
    "    db.execute(back.values(gone_on=None))\n"
    "    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))\n"
    "    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()\n"
    "    if len(went) >= most:\n"
    "        raise ValueError('too many')\n"
    "    return len(went)",
)

BEFORE = {"stays": None, "bad": None, "leaves": None, "too": None, "left": "Friday", "old": "Friday", "back": "Friday"}
FILE = {"stays": "", "bad": "no version", "back": "", "new": "no version"}
AFTER = BEFORE | {"leaves": "Monday", "too": "Monday", "back": None}


@checker
def check(mark_gone: Callable[..., Any]) -> str:
    """Two loads of one file, over packages in all four cases; then a limit that is too low."""
    meta = sa.MetaData()
    raw = sa.Table("staging", meta, *(sa.Column(name, sa.String) for name in ("name", "reason")))
    packages = sa.Table("packages", meta, sa.Column("name", sa.String), sa.Column("gone_on", sa.String))
    engine = sa.create_engine("sqlite://")
    meta.create_all(engine)
    with engine.begin() as db:
        db.execute(raw.insert(), [{"name": name, "reason": reason} for name, reason in FILE.items()])
        db.execute(packages.insert(), [{"name": name, "gone_on": day} for name, day in BEFORE.items()])
    try:
        with engine.begin() as db:
            mark_gone(db, raw, packages, "Monday", 1)
        return "not yet: two packages would go where one may, and there was no ValueError"
    except ValueError:
        pass
    with engine.begin() as db:
        try:
            went = mark_gone(db, raw, packages, "Monday", 2)
        except ValueError:
            return "not yet: two packages go and two may, but there was a ValueError"
        days: dict[str, Any] = dict(db.execute(sa.select(packages)).all())
    for name, why in (
        ("bad", "is in the file, in a row that was refused"),
        ("left", "had gone before"),
        ("back", "is in the file again"),
        ("leaves", "is no longer in the file"),
        ("stays", "is in the file"),
    ):
        if days.get(name) != AFTER[name]:
            return f"not yet: a package that {why} has gone_on {days.get(name)!r}"
    if days != AFTER:
        return f"not yet: the table holds {days}"
    if went != 2:
        return f"not yet: two packages have gone with this file, and {went!r} was returned"
    with engine.begin() as db:
        if mark_gone(db, raw, packages, "Tuesday", 2) != 0:
            return "not yet: the same file again lets nothing go, so the result is 0"
        if dict(db.execute(sa.select(packages)).all()) != AFTER:
            return "not yet: the same file again changed the table"
    return "right"
