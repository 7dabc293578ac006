"""The exercise of the page "Drift": its checker, its two hints, wrong answers, and what the page's stage uses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_folder

HINTS = (
    "SQLAlchemy decides only when it makes a table. DuckDB's view `duckdb_columns()` shows what came\n"
    "of it: `table_name`, `column_name`, `column_default`.",
    "Make the tables in a database in memory and read their defaults. `CAST('f' AS BOOLEAN)` and\n"
    "`'now()'` are constants: take the texts in quotes out first, then look for other calls.",
)

# Plausible, and refused in words.
WRONG = (
    # every default
    """def risky(metadata):
    found = []
    for table in metadata.tables.values():
        found += [f"{table.name}.{c.name}" for c in table.c if c.server_default is not None]
    return sorted(found)
""",
    # only what SQLAlchemy knows as a function
    """def risky(metadata):
    found = []
    for table in metadata.tables.values():
        for c in table.c:
            made = c.server_default
            if made is not None and isinstance(made.arg, sa.sql.functions.FunctionElement):
                found.append(f"{table.name}.{c.name}")
    return sorted(found)
""",
    # also what is written as text, but not the key that nobody gave a default
    """def risky(metadata):
    found = []
    for table in metadata.tables.values():
        for c in table.c:
            made = c.server_default
            written = made is not None and not isinstance(made.arg, str)
            if written and str(made.arg).endswith(")"):
                found.append(f"{table.name}.{c.name}")
    return sorted(found)
""",
    # asks the database, and takes a text for a call
    """def risky(metadata):
    engine = sa.create_engine("duckdb:///:memory:")
    with engine.begin() as db:
        metadata.create_all(db)
        rows = db.execute(sa.text("SELECT table_name, column_name, column_default FROM duckdb_columns()"))
        found = [f"{t}.{c}" for t, c, d in rows if d and "(" in d.replace("CAST(", "")]
    return sorted(found)
""",
)


# What a case is, its columns, and which of them get a function.
CASES: tuple[tuple[str, Callable[[], list[sa.Column[Any]]], list[str]], ...] = (
    ("no default", lambda: [sa.Column("name", sa.String)], []),
    ("a constant", lambda: [sa.Column("yanked", sa.Boolean, server_default=sa.false())], []),
    ("sa.func.now()", lambda: [sa.Column("seen", sa.DateTime, server_default=sa.func.now())], ["seen"]),
    ("sa.text('uuid()')", lambda: [sa.Column("code", sa.Uuid, server_default=sa.text("uuid()"))], ["code"]),
    ("the text 'now()', a constant", lambda: [sa.Column("note", sa.String, server_default="now()")], []),
    ("an integer as primary key", lambda: [sa.Column("id", sa.Integer, primary_key=True)], ["id"]),
    (
        "such a key with autoincrement=False",
        lambda: [sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)],
        [],
    ),
    (
        "a default that Python computes",
        lambda: [sa.Column("seen", sa.DateTime, default=sa.func.now)],
        [],
    ),
)


@checker
def check(risky: Callable[[sa.MetaData], list[str]]) -> str:
    """One table for each case, and then all of them in one metadata."""
    everything, all_wanted = sa.MetaData(), []
    for number, (what, columns, names) in enumerate(CASES):
        metadata, key = sa.MetaData(), f"t{number}"
        for one in (metadata, everything):
            sa.Table(key, one, sa.Column("other", sa.String), *columns())
        wanted = [f"{key}.{name}" for name in names]
        all_wanted += wanted
        found = risky(metadata)
        if found != wanted:
            return f"not yet: {what}: {wanted or 'nothing'} is at risk, yours says {found or 'nothing'}"
    if risky(everything) != sorted(all_wanted):
        return f"not yet: of all tables together {sorted(all_wanted)} are at risk, sorted"
    return "right"


# ---------------------------------------------------------------- for the stage of the page

KILLED = """
import duckdb, os, sys
db = duckdb.connect(sys.argv[1])
db.execute(f"CREATE TABLE packages (name VARCHAR, more {sys.argv[2]})")
db.execute("CHECKPOINT")
db.execute("ALTER TABLE packages ADD COLUMN summary VARCHAR")
db.execute("INSERT INTO packages (name) VALUES ('httpx')")
os._exit(9)
"""


def after_kill(column: str) -> str:
    """Whether a file opens whose table has `column` and was altered by a process that ended without closing it."""
    path = str(lesson_folder() / "shop.duckdb")
    subprocess.run([sys.executable, "-c", KILLED, path, column], check=False)
    try:
        with duckdb.connect(path) as db:
            rows = db.execute("SELECT name FROM packages").fetchall()
    except duckdb.Error as error:
        return str(error).partition(" WAL ")[0] + " WAL"
    return f"opened, {len(rows)} row"


ENV = """from playbook.migrations.first_migration import run_environment

run_environment(None, None)
"""
REVISION = """import sqlalchemy as sa
from alembic import op

revision, down_revision = {!r}, {!r}


def upgrade():
    {}
"""
BASELINE = """key = sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False)
    op.create_table("packages", key, sa.Column("name", sa.String()))"""
SUMMARY = """op.add_column("packages", sa.Column("summary", sa.String()))
    op.create_index("one_name", "packages", ["name"], unique=True)"""


def two_revisions() -> Path:
    """A history: 0001_baseline makes the table `packages`, 0002_summary adds a column and a unique index."""
    history = lesson_folder()
    (history / "versions").mkdir()
    (history / "env.py").write_text(ENV, encoding="utf-8")
    below = None
    for name, code in (("0001_baseline", BASELINE), ("0002_summary", SUMMARY)):
        text = REVISION.format(name, below, code)
        (history / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
        below = name
    return history
