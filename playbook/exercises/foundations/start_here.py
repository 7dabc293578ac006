"""The exercise of the page "Start here": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable

import sqlalchemy as sa

from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url

HINTS = (
    "See 'See it break': the table `packages` accepts two rows with the same name.\n"
    "Look at the arguments of `sa.Column` in SQLAlchemy's documentation.",
    "Which column may not repeat a value? Declare that for this column, and for no other.",
)

TABLE = """
def make_table(metadata):
    name = sa.Column("name", sa.String{name})
    owner = sa.Column("owner", sa.String{owner})
    return sa.Table("packages", metadata, name, owner{more})
"""
WRONG = (
    'import sqlalchemy as sa\nexec(TABLE.format(name="", owner="", more=""))',
    'import sqlalchemy as sa\nexec(TABLE.format(name=", index=True", owner="", more=""))',
    'import sqlalchemy as sa\nexec(TABLE.format(name="", owner=", unique=True", more=""))',
    'import sqlalchemy as sa\nexec(TABLE.format(name=", unique=True", owner=", unique=True", more=""))',
    'import sqlalchemy as sa\nexec(TABLE.format(name="", owner="", more=", sa.UniqueConstraint(\'name\', \'owner\')"))',
    'import sqlalchemy as sa\nexec(TABLE.format(name=", primary_key=True", owner=", primary_key=True", more=""))',
)


@checker
def check(make_table: Callable[[sa.MetaData], sa.Table]) -> str:
    """Let Ada and Mallory claim names in the table that `make_table` gives."""
    table = make_table(sa.MetaData())
    if not isinstance(table, sa.Table) or set(table.columns.keys()) != {"name", "owner"}:
        return "not yet: return a table with the columns name and owner"
    engine = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)
    table.create(engine)
    for name in ("http", "flask"):
        if not accepted(engine, table, name, "Ada"):
            return f"not yet: Ada claims http and then flask, and {name} is refused"
    if accepted(engine, table, "http", "Mallory"):
        return "not yet: Ada owns http, and Mallory's claim of http is accepted too"
    if not accepted(engine, table, "pandas", "Mallory"):
        return "not yet: pandas has no owner, and Mallory's claim is refused"
    return "right"


def accepted(engine: sa.Engine, table: sa.Table, name: str, owner: str) -> bool:
    """Whether the database takes the row."""
    try:
        with engine.begin() as connection:
            connection.execute(table.insert().values(name=name, owner=owner))
    except sa.exc.IntegrityError:
        return False
    return True
