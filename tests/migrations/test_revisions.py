"""The gate of Pantry's own history, on both engines. A new revision is tested the day it is written.

The parameters come from the history itself, the functions from `migrations/test_migrations`. What is tested of them is
in `test_test_migrations.py`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import before_sign_in  # noqa: F401  its imports register every table of Pantry
import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base, make_engine
from playbook.kit.data import ROOT
from playbook.migrations.first_migration import drift, upgrade
from playbook.migrations.test_migrations import Step, contents, fill, one_head, rows_survive, steps, up_down_up

STEPS = steps()


@pytest.fixture
def engine(url: str) -> Any:
    made = make_engine(url)
    yield made
    made.dispose()


def test_there_is_one_head() -> None:
    assert one_head() == []


def test_no_revision_is_left_out() -> None:
    files = {path.stem for path in (ROOT / "playbook" / "pantry" / "revisions" / "versions").glob("*.py")}
    assert [step.after for step in STEPS] == sorted(files)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_up_down_and_up_again_leaves_nothing_behind(engine: sa.Engine, step: Step) -> None:
    assert up_down_up(engine, step) == []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_rows_survive_or_their_loss_is_declared(engine: sa.Engine, step: Step) -> None:
    assert rows_survive(engine, step, Base.metadata) == []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_a_declared_loss_has_a_reason(step: Step) -> None:
    assert all(len(reason.split()) > 2 for reason in step.loses.values()), step.loses


def test_the_models_match(engine: sa.Engine) -> None:
    upgrade(engine)
    assert drift(engine, Base.metadata) == []


def test_the_made_rows_can_show_a_loss(engine: sa.Engine) -> None:
    """Every table took rows, and no column has one value only: otherwise its loss could go unseen."""
    upgrade(engine)
    for seed in (0, 1):
        assert fill(engine, Base.metadata, seed, {}) == []
    for name, rows in contents(engine).items():
        poor = [column for column in rows[0] if len({row[column] for row in rows}) < 2]
        assert poor == [], name


# ---------------------------------------------------------------- the real command, as CI runs it


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`alembic ...` in the repository, with the settings of pyproject.toml and the database of DATABASE_URL."""
    environment = os.environ | {"DATABASE_URL": url}
    command = [sys.executable, "-m", "alembic", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def server_url(url: str, tmp_path: Path) -> str:
    """A database that other processes can open."""
    return f"duckdb:///{tmp_path / 'pantry.duckdb'}" if url.startswith("duckdb") else url


PLANTED = {
    "remove_column": "ALTER TABLE organizations ADD COLUMN planted VARCHAR",
    "remove_index": "CREATE INDEX planted ON packages (summary)",
    "remove_table": "CREATE TABLE planted_too (id INTEGER)",
}


def test_alembic_check_is_green_at_head_and_red_with_drift(server_url: str) -> None:
    """Green means on DuckDB also: the indexes of the lists are neither made nor missed."""
    done = alembic(server_url, "upgrade", "head")
    assert done.returncode == 0, done.stdout + done.stderr
    green = alembic(server_url, "check")
    assert (green.returncode, green.stdout) == (0, "No new upgrade operations detected.\n"), green.stderr
    engine = make_engine(server_url)
    for statement in PLANTED.values():
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()
    red = alembic(server_url, "check")
    assert red.returncode != 0, "drift was not noticed"
    assert all(operation in red.stdout for operation in PLANTED), red.stdout
