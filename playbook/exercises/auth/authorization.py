"""The exercise of the page "Authorization": its checker, its hints, wrong answers; and what the page's stage needs."""

from typing import Any

import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url
from playbook.kit.stage import capture_sql

HINTS = (
    "See 'For one thing': how does `decide` learn two answers with one SELECT? What does\n"
    "`permitted` say for an action that no policy lists?",
    "SELECT the condition of `read`, and beside it one condition for each name in `changes`.\n"
    "A field that `fields` does not list has no action, so nobody may change it.",
)

# Plausible, and refused in words. They may use what the page exports and what this module defines.
WRONG = (
    # Asks for the row, and not for the field.
    "def refused(db, permits, fields, relations, thing, changes):\n"
    "    decision = decide(db, permits, 'write', relations, thing)\n"
    "    return None if decision is None else set() if decision else set(changes)",
    # A field that nobody has thought of is open.
    "def refused(db, permits, fields, relations, thing, changes):\n"
    "    names = [name for name in changes if name in fields]\n"
    "    asked = [permitted(permits, fields[name], relations) for name in names]\n"
    "    found = db.execute(sa.select(permitted(permits, 'read', relations), *asked).where(thing)).one_or_none()\n"
    "    if found is None or not found[0]:\n"
    "        return None\n"
    "    return {name for name, may in zip(names, found[1:]) if not may}",
    # One statement for each field.
    "def refused(db, permits, fields, relations, thing, changes):\n"
    "    said = {n: decide(db, permits, fields.get(n, ''), relations, thing) for n in changes}\n"
    "    if decide(db, permits, 'read', relations, thing) is None:\n"
    "        return None\n"
    "    return {name for name, may in said.items() if not may}",
    # A hidden row is told from a missing one.
    "def refused(db, permits, fields, relations, thing, changes):\n"
    "    names = list(changes)\n"
    "    asked = [permitted(permits, fields.get(name, ''), relations) for name in names]\n"
    "    found = db.execute(sa.select(sa.true(), *asked).where(thing)).one_or_none()\n"
    "    return None if found is None else {name for name, may in zip(names, found[1:]) if not may}",
    # All or nothing.
    "def refused(db, permits, fields, relations, thing, changes):\n"
    "    may = [permitted(permits, fields.get(name, ''), relations) for name in changes]\n"
    "    found = db.execute(sa.select(permitted(permits, 'read', relations), sa.and_(sa.true(), *may)).where(thing))\n"
    "    row = found.one_or_none()\n"
    "    if row is None or not row[0]:\n"
    "        return None\n"
    "    return set() if row[1] else set(changes)",
)

metadata = sa.MetaData()
documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("team", sa.String, nullable=False),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("public", sa.Boolean, nullable=False),
)
members = sa.Table(
    "members",
    metadata,
    sa.Column("team", sa.String, primary_key=True),
    sa.Column("person", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
)
guests = sa.Table(
    "guests",
    metadata,
    sa.Column("document", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("person", sa.String, primary_key=True),
)
TEAMS = [(1, "north"), (2, "north"), (3, "south")]
ROLES = [("north", "Ada", "editor"), ("north", "Rita", "reader")]


def fill(engine: sa.Engine) -> None:
    """The tables of the page, with the rows that it begins with, and no others."""
    metadata.create_all(engine)
    with engine.begin() as db:
        for each in metadata.sorted_tables:
            db.execute(each.delete())
        for number, team in TEAMS:
            row = (number, team, f"plan {number}", number == 2)
            db.execute(documents.insert().values(row))
        for role in [*ROLES, ("south", "Mallory", "editor")]:
            db.execute(members.insert().values(role))
        db.execute(guests.insert().values((3, "Gus")))


folders = sa.Table(
    "folders",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("editor", sa.String, nullable=False),
    sa.Column("reader", sa.String, nullable=False),
)
PERMITS = {"read": ["reader", "editor", "owner"], "write": ["editor", "owner"], "publish": ["owner"]}
FIELDS = {"title": "write", "text": "write", "public": "publish"}
CASES: list[tuple[str, dict[str, Any], set[str] | None, str]] = [
    ("olga", {"title": "x", "public": True}, set(), "an owner may change both fields"),
    ("edda", {"title": "x"}, set(), "an editor may change the title"),
    ("edda", {"title": "x", "public": True}, {"public"}, "an editor may change the title, and not `public`"),
    ("edda", {"public": True, "text": "x"}, {"public"}, "an editor may change the text, and not `public`"),
    ("rita", {"title": "x", "public": True}, {"title", "public"}, "a reader may change no field"),
    ("olga", {"title": "x", "owner": "me"}, {"owner"}, "no action is listed for the field `owner`"),
    ("edda", {"owner": "me", "color": "red"}, {"owner", "color"}, "no action is listed for either field"),
    ("rita", {}, set(), "no field is changed"),
    ("mallory", {"title": "x"}, None, "the caller may not read this row"),
    ("mallory", {}, None, "the caller may not read this row, and changes nothing"),
]


def relations(caller: str) -> dict[str, sa.ColumnElement[bool]]:
    return {name: folders.c[name] == caller for name in ("owner", "editor", "reader")}


@checker
def check(refused: Any) -> str:
    """Ask about a row for each caller, and about one that is missing; count the statements."""
    engine = make_engine(lesson_url())
    folders.metadata.create_all(engine)
    with engine.begin() as db:
        db.execute(folders.insert().values(id=1, owner="olga", editor="edda", reader="rita"))
        db.execute(folders.insert().values(id=2, owner="mallory", editor="mallory", reader="mallory"))
    missing = ("olga", {"title": "x"}, None, "there is no such row")
    for number, (caller, changes, wanted, why) in [(1, case) for case in CASES] + [(3, missing)]:
        with engine.begin() as db, capture_sql(engine) as sent:
            found = refused(db, PERMITS, FIELDS, relations(caller), folders.c.id == number, changes)
        if found != wanted or (wanted is not None and not isinstance(found, set)):
            return f"not yet: {why}, and the answer for {changes} is {found!r}"
        if len(sent) > 1:
            return f"not yet: the answer is right, and took {len(sent)} statements"
    engine.dispose()
    return "right"
