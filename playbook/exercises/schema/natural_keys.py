"""The exercise of the page "Natural keys": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from packaging.version import Version

from playbook.kit.exercises import checker
from playbook.schema.natural_keys import name_key, version_key

HINTS = (
    "See 'The decision': a rule that is written into a column can filter and sort.\n"
    " Which three columns decide, and which of them only order?",
    "Withdrawn versions never count, so they are filtered. Pre-releases may count, so\n"
    "they are not filtered: they come last. A boolean can be sorted, too.",
)

WRONG = (
    # the greatest text
    "def installed(db, table, name):\n"
    "    mine = sa.select(table.c.version).where(table.c.name_key == name_key(name), ~table.c.yanked)\n"
    "    return db.scalar(mine.order_by(table.c.is_prerelease, table.c.version.desc()).limit(1))",
    # a package with pre-releases only has no version
    "def installed(db, table, name):\n"
    "    usable = ~table.c.yanked & ~table.c.is_prerelease\n"
    "    mine = sa.select(table.c.version).where(table.c.name_key == name_key(name), usable)\n"
    "    return db.scalar(mine.order_by(table.c.version_key.desc()).limit(1))",
    # a final release that is withdrawn hides the pre-releases
    "def installed(db, table, name):\n"
    "    mine = sa.select(table).where(table.c.name_key == name_key(name))\n"
    "    best = db.execute(mine.order_by(table.c.is_prerelease, table.c.version_key.desc()).limit(1)).first()\n"
    "    return None if best is None or best.yanked else best.version",
    # the highest of all, pre-releases included
    "def installed(db, table, name):\n"
    "    mine = sa.select(table.c.version).where(table.c.name_key == name_key(name), ~table.c.yanked)\n"
    "    return db.scalar(mine.order_by(table.c.version_key.desc()).limit(1))",
    # the name as it was typed
    "def installed(db, table, name):\n"
    "    mine = sa.select(table.c.version).where(table.c.name_key == name, ~table.c.yanked)\n"
    "    return db.scalar(mine.order_by(table.c.is_prerelease, table.c.version_key.desc()).limit(1))",
)

# What each package has (! is yanked), and what an installer takes.
CASES = {
    "plain": (["1.9", "1.10", "1.2"], "1.10"),
    "with-pre": (["1.0", "2.0rc1", "2.0.dev1"], "1.0"),
    "only-pre": (["1.0a1", "1.0b2", "1.0b10"], "1.0b10"),
    "post": (["1.0", "1.0.post1", "1.0a1"], "1.0.post1"),
    "yanked": (["1.0", "!1.1", "1.2b1"], "1.0"),
    "yanked-final": (["!1.0", "2.0a1"], "2.0a1"),
    "all-yanked": (["!1.0", "!2.0a1"], None),
}


def made(name: str, typed: str) -> dict[str, Any]:
    """The row of a release."""
    version = typed.lstrip("!")
    keys = {"name_key": name_key(name), "version_key": version_key(version)}
    flags = {"is_prerelease": Version(version).is_prerelease, "yanked": typed != version}
    return {"version": version, **keys, **flags}


@checker
def check(installed: Callable[..., Any]) -> str:
    """Seven packages, one of them under another spelling, and one that does not exist."""
    texts = [sa.Column(name, sa.String) for name in ("name_key", "version_key", "version")]
    flags = [sa.Column(name, sa.Boolean) for name in ("is_prerelease", "yanked")]
    table = sa.Table("releases", sa.MetaData(), *texts, *flags)
    engine = sa.create_engine("sqlite://")
    table.create(engine)
    with engine.connect() as db:
        rows = [made(name, typed) for name, (versions, _) in CASES.items() for typed in versions]
        db.execute(table.insert(), rows)
        for name, (versions, expected) in CASES.items():
            found = installed(db, table, name)
            if found != expected:
                listed = ", ".join(versions)
                return f"not yet: of {listed} (! is yanked) an installer takes {expected}, yours took {found}"
        if installed(db, table, "With_Pre") != "1.0":
            return "not yet: somebody typed With_Pre for with-pre, and got something else"
        if installed(db, table, "no-such") is not None:
            return "not yet: a package that does not exist has no version, so the result is None"
    return "right"
