"""The exercise of the page "First migration": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from playbook.foundations.engines import NAMING, make_engine
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url
from playbook.migrations import first_migration as page

HINTS = (
    "See `REVIEWED` in 'Review': a column is added, filled, and only then another one is dropped.\n"
    "`NAME` is an expression of SQL; `length` and `substr` count from 1.",
    "The rest is all of the line behind the name, spaces included, so joining is `name` and `rest`\n"
    "side by side. In SQL any text || NULL is NULL. On DuckDB, drop in a batch.",
)

# Plausible, and refused in words.
WRONG = (
    # what autogenerate drafts
    """def split(op):
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.drop_column("requirements", "line")


def join(op):
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.drop_column("requirements", "name")
    op.drop_column("requirements", "rest")
""",
    # tidies the rest up
    """def split(op):
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.execute(f"UPDATE requirements SET name = {NAME}")
    op.execute("UPDATE requirements SET rest = nullif(trim(substr(line, length(name) + 1)), '')")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("line")


def join(op):
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.execute("UPDATE requirements SET line = name || coalesce(rest, '')")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("name")
        batch.drop_column("rest")
""",
    # NULL swallows the name
    """def split(op):
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.execute(f"UPDATE requirements SET name = {NAME}")
    op.execute("UPDATE requirements SET rest = nullif(substr(line, length(name) + 1), '')")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("line")


def join(op):
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.execute("UPDATE requirements SET line = name || rest")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("name")
        batch.drop_column("rest")
""",
    # the empty text where there is nothing
    """def split(op):
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.execute(f"UPDATE requirements SET name = {NAME}")
    op.execute("UPDATE requirements SET rest = substr(line, length(name) + 1)")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("line")


def join(op):
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.execute("UPDATE requirements SET line = name || coalesce(rest, '')")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("name")
        batch.drop_column("rest")
""",
)

NAME = "regexp_replace(line, '[^A-Za-z0-9._-].*$', '')"  # SQL: where the name in a line ends
TYPED: dict[str, tuple[str, str | None]] = {
    "httpx==0.28.1": ("httpx", "==0.28.1"),
    "pip": ("pip", None),
    "flask >= 3": ("flask", " >= 3"),
    "zope.interface[test] ; python_version < '4'": ("zope.interface", "[test] ; python_version < '4'"),
    "ruamel-yaml===1==2": ("ruamel-yaml", "===1==2"),
}
LATER: dict[str, tuple[str, str | None]] = {"ruff": ("ruff", None), "uv~=0.9": ("uv", "~=0.9")}
Step = Callable[[Operations], None]


def models(*columns: str) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=NAMING)
    key = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    sa.Table("requirements", metadata, key, *(sa.Column(name, sa.String) for name in columns))
    return metadata


OLD, NEW = models("line"), models("name", "rest")


def insert(engine: sa.Engine, metadata: sa.MetaData, rows: list[dict[str, Any]]) -> None:
    with engine.begin() as connection:
        connection.execute(metadata.tables["requirements"].insert(), rows)


def wrong_after(engine: sa.Engine, metadata: sa.MetaData, wanted: Mapping[str, tuple[str, str | None]]) -> str:
    """What is wrong with the table, in words, or nothing."""
    there = {column["name"] for column in sa.inspect(engine).get_columns("requirements")}
    columns = metadata.tables["requirements"].c.keys()
    if there != {*columns}:
        return f"its columns are {', '.join(sorted(there))}"
    with engine.connect() as connection:
        query = metadata.tables["requirements"].select().order_by(sa.column("id"))
        found = [tuple(row)[1:] for row in connection.execute(query)]
    for row, (line, parts) in zip(found, wanted.items(), strict=True):
        if row != (parts if len(row) == 2 else (line,)):
            return f"what was typed as {line!r} is now {dict(zip(columns[1:], row, strict=True))}"
    return ""


@checker
def check(split: Step, join: Step) -> str:
    """Rows of the old program go up, rows of the new one are added, all go down and up again."""
    assert issubclass(page.CopyingDuckDB, object)  # registered for DuckDB
    engine = make_engine(lesson_url())
    OLD.create_all(engine)
    insert(engine, OLD, [{"id": number, "line": line} for number, line in enumerate(TYPED)])
    every = TYPED
    for way, step, metadata in (("upgrade", split, NEW), ("downgrade", join, OLD), ("second upgrade", split, NEW)):
        with engine.connect() as connection, connection.begin():
            step(Operations(MigrationContext.configure(connection)))
        if wrong := wrong_after(engine, metadata, every):
            engine.dispose()
            return f"not yet: after the {way} {wrong}"
        if way == "upgrade":
            new = [{"id": 10 + i, "name": name, "rest": rest} for i, (name, rest) in enumerate(LATER.values())]
            insert(engine, NEW, new)
            every = TYPED | LATER
    engine.dispose()
    return "right"
