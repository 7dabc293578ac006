"""No column on DuckDB has an expression as default.

DuckDB before 2.0 cannot open a file again if a table with such a default was altered and the process was killed before
the next checkpoint: "Failure while replaying WAL". Every migration alters tables, so one such default anywhere is a
file that an ill-timed kill can lose. A constant is harmless.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import before_sign_in  # noqa: F401  its imports register every table of Pantry
import duckdb
import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base, make_engine
from playbook.kit.data import ROOT
from playbook.migrations.test_migrations import steps
from playbook.pantry.history import PANTRY, downgrade, upgrade

CONSTANT = r"(?:'(?:[^']|'')*'|-?\d[\w.+-]*|NULL|true|false)"
HARMLESS = re.compile(rf"{CONSTANT}|CAST\({CONSTANT} AS [\w ()\",]+\)", re.IGNORECASE)
ASK = "SELECT table_name, column_name, column_default FROM duckdb_columns() WHERE column_default IS NOT NULL"


def risky(rows: Any) -> list[str]:
    """Those of ASK's answer that are not a constant."""
    return [f"{table}.{column} DEFAULT {value}" for table, column, value in rows if not HARMLESS.fullmatch(value)]


@contextmanager
def watched(engine: sa.Engine) -> Iterator[set[str]]:
    """What `engine` has of such defaults after any of its statements, though the next one may remove it again."""
    found = set[str]()

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if re.match(r"\s*(CREATE|ALTER)", statement, re.IGNORECASE):
            own = connection.connection.driver_connection
            found.update(risky(own.execute(ASK).fetchall()))

    sa.event.listen(engine, "after_cursor_execute", look)
    try:
        yield found
    finally:
        sa.event.remove(engine, "after_cursor_execute", look)


def of_history(url: str, *location: str) -> set[str]:
    """Such defaults in any moment of a history, up and down again."""
    engine = make_engine(url)
    with watched(engine) as found:
        for step in steps(*(location or (PANTRY,))):
            upgrade(engine, step.after, *location)
        downgrade(engine, "base", *location)
    engine.dispose()
    return found


def test_no_model_has_one() -> None:
    engine = make_engine("duckdb:///:memory:defaults_of_models")
    with watched(engine) as found:
        Base.metadata.create_all(engine)
    engine.dispose()
    assert found == set()


def test_no_revision_makes_one_even_for_a_moment() -> None:
    assert of_history("duckdb:///:memory:defaults_of_revisions") == set()


PLANTED = {
    "now()": 'op.add_column("packages", sa.Column("seen", sa.DateTime(timezone=True), server_default=sa.func.now()))',
    "uuid()": 'op.add_column("packages", sa.Column("code", sa.Uuid(), server_default=sa.text("uuid()")))',
    "nextval": 'op.create_table("numbers", sa.Column("id", sa.Integer(), primary_key=True))',
    "for a moment": (
        'op.add_column("packages", sa.Column("seen", sa.DateTime(timezone=True), server_default=sa.func.now()))\n'
        '    op.alter_column("packages", "seen", server_default=None)'
    ),
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_one_planted_in_a_revision_is_found(planted: str, tmp_path: Path) -> None:
    history = tmp_path / "history"
    shutil.copytree(ROOT / "playbook" / "pantry" / "revisions", history, ignore=shutil.ignore_patterns("__pycache__"))
    head = steps(PANTRY)[-1].after
    (history / "versions" / "0099_planted.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '0099_planted', '{head}'\n\n\n"
        f"def upgrade():\n    {PLANTED[planted]}\n\n\ndef downgrade():\n    pass\n"
    )
    engine = make_engine(f"duckdb:///:memory:planted_{planted}")
    with watched(engine) as found:
        upgrade(engine, "0099_planted", str(history))
    engine.dispose()
    assert len(found) == 1, found


KILLED = """
import duckdb, os, sys

connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE SEQUENCE numbers")
connection.execute(f"CREATE TABLE packages (name VARCHAR, made {sys.argv[2]})")
connection.execute("CHECKPOINT")
connection.execute("ALTER TABLE packages ADD COLUMN summary VARCHAR")
connection.execute("INSERT INTO packages (name) VALUES ('httpx')")
os._exit(9)
"""


def after_a_kill(file: Path, column: str) -> list[Any]:
    """The rows of a file whose table was altered before its process ended without closing it."""
    subprocess.run([sys.executable, "-c", KILLED, str(file), column], check=False, timeout=120)
    assert Path(f"{file}.wal").stat().st_size > 0
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute("SELECT name FROM packages").fetchall()


@pytest.mark.parametrize("column", ["BOOLEAN DEFAULT false", "VARCHAR DEFAULT 'now()'", "INTEGER DEFAULT 0"])
def test_a_constant_default_outlives_a_kill(column: str, tmp_path: Path) -> None:
    assert after_a_kill(tmp_path / "x.duckdb", column) == [("httpx",)]


@pytest.mark.xfail(raises=duckdb.Error, reason="DuckDB before 2.0; once it passes, this rule can go", strict=True)
@pytest.mark.parametrize(
    "column",
    [
        "BIGINT DEFAULT nextval('numbers')",
        "TIMESTAMPTZ DEFAULT now()",
        "UUID DEFAULT uuid()",
        "INTEGER DEFAULT (1 + 1)",
    ],
)
def test_what_the_rule_protects_from(column: str, tmp_path: Path) -> None:
    """Strict: when a DuckDB comes that opens such a file, this test says so by failing."""
    assert after_a_kill(tmp_path / "x.duckdb", column) == [("httpx",)]


def test_the_catalogue_is_loaded_without_one(tmp_path: Path) -> None:
    """It makes its identifiers in its statements, and neither of its tables gets a default by that."""
    from playbook.kit.data import data_path
    from playbook.pantry.app import pantry
    from playbook.pantry.settings import Settings

    url = f"duckdb:///{tmp_path / 'pantry.duckdb'}"
    app = pantry(Settings(environment="test", database_url=url), data_path("packages.csv"))
    with app.state.engine.connect() as connection:
        assert risky(connection.exec_driver_sql(ASK).all()) == []
    app.state.engine.dispose()
