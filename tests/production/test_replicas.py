"""Several processes that start at once, or fill the same database: whoever looks and then inserts is not alone."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import forked
import httpx
import pytest
import sqlalchemy as sa
from before_sign_in import DEVELOPER
from before_sign_in import pantry as without_sign_in
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import Identifiers, SystemClock
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.migrations.first_migration import current
from playbook.pantry import history
from playbook.pantry.app import mirror_of
from playbook.pantry.history import heads, prepare, upgrade
from playbook.pantry.settings import Settings

AT_ONCE = 4
TESTS = Path(__file__).parents[1]
PATIENCE = 180  # seconds until a start counts as hung: no verdict about speed


def program(*command: str, url: str) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PANTRY_", "DATABASE_URL"))}
    environ = ours | {"DATABASE_URL": url, "PANTRY_ENVIRONMENT": "test", "PANTRY_MAIL_URL": "file:mail.jsonl"}
    return forked.Popen(
        [sys.executable, *command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def serve(url: str) -> subprocess.Popen[str]:
    return program("-m", "playbook.kit.cli", "serve", "--port", "0", url=url)


def address(process: subprocess.Popen[str]) -> str:
    """Where it serves. AssertionError, with what it said, when it has ended instead."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    line = process.stdout.readline() if ready else ""
    if not line.startswith("Pantry at "):
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not start (exit {process.returncode}): {line}{out}{err[-3000:]}")
    return line.split(",")[0].removeprefix("Pantry at ")


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def rows(url: str, sql: str) -> int:
    engine = make_engine(url)
    with engine.connect() as connection:
        found: int = connection.execute(sa.text(sql)).scalar_one()
    engine.dispose()
    return found


@pytest.mark.parametrize("migrated", [False, True], ids=["nothing is there", "a job has migrated"])
def test_replicas_start_at_once(
    postgres_url: str, migrated: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All four serve, and what they find missing is there once."""
    monkeypatch.chdir(tmp_path)
    if migrated:
        engine = make_engine(postgres_url)
        upgrade(engine)
        engine.dispose()
    with ExitStack() as stack:
        started = [serve(postgres_url) for _ in range(AT_ONCE)]
        for process in started:
            stack.callback(stop, process)
        for url in map(address, started):
            assert httpx.get(f"{url}/ready", trust_env=False, timeout=PATIENCE).status_code == 200
    assert rows(postgres_url, "SELECT count(*) FROM organizations") == 1
    assert rows(postgres_url, "SELECT count(*) FROM packages") == 14_971
    assert rows(postgres_url, "SELECT count(*) FROM releases") == 14_971


def test_migration_jobs_start_at_once(postgres_url: str) -> None:
    """`alembic upgrade head`, four times: each revision runs once, also the making of Alembic's own table."""
    started = [program("-m", "alembic", "upgrade", "head", url=postgres_url) for _ in range(AT_ONCE)]
    said = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0] * AT_ONCE, said
    assert rows(postgres_url, "SELECT count(*) FROM alembic_version") == 1


def test_the_mirror_that_another_replica_has_just_made(postgres_url: str) -> None:
    """Reproduction 4: one replica before its commit, the other looks, inserts, waits for the first, and loses."""
    clock, engine = SystemClock(), make_engine(postgres_url)
    ids = Identifiers(clock)
    upgrade(engine)
    looked: list[object] = []

    def other(session: orm.Session) -> tuple[object, bool]:
        if not looked:  # its snapshot is from before the first one's commit
            looked.append(session.scalar(sa.text("SELECT count(*) FROM organizations")))
            made.append(transaction(engine, lambda first: mirror_of(first, clock, ids)))
        return mirror_of(session, clock, ids)

    made: list[tuple[object, bool]] = []
    assert transaction(engine, other, retry=somebody_was_first) == made[0]
    assert looked == [0]
    engine.dispose()


def test_another_process_migrates_between_two_looks(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica that was quicker takes the lock as soon as `prepare` gives it up: its tables are no stranger's."""
    engine, turn = make_engine(postgres_url), history.migration_connection

    @contextmanager
    def then_the_other(engine: sa.Engine) -> Iterator[sa.Connection]:
        with turn(engine) as connection:
            yield connection
        monkeypatch.undo()
        upgrade(engine)

    monkeypatch.setattr(history, "migration_connection", then_the_other)
    prepare(engine)
    assert current(engine) == heads()
    engine.dispose()


def test_the_service_without_sign_in_finds_its_developer_made(postgres_url: str) -> None:
    """Two of them at once on one database: the mirror and the developer are there once."""
    settings = Settings(environment="test", database_url=postgres_url)
    engine = make_engine(postgres_url)
    upgrade(engine)
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); from playbook.pantry.settings import load_settings;"
        "from before_sign_in import pantry;"
        "pantry(load_settings())"
    )
    started = [program("-c", code, url=postgres_url) for _ in range(AT_ONCE)]
    said = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0] * AT_ONCE, said
    without_sign_in(settings).state.engine.dispose()
    assert rows(postgres_url, f"SELECT count(*) FROM users WHERE email = '{DEVELOPER}'") == 1
    assert rows(postgres_url, "SELECT count(*) FROM members") == 1
    engine.dispose()


def test_a_second_process_on_one_duckdb_file_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever opens the file first serves; the other ones end with a line that says what to do."""
    monkeypatch.chdir(tmp_path)
    url = f"duckdb:///{tmp_path / 'pantry.duckdb'}"
    with ExitStack() as stack:
        started = [serve(url) for _ in range(3)]
        for process in started:
            stack.callback(stop, process)
        until = time.monotonic() + PATIENCE
        while sum(process.poll() is None for process in started) > 1 and time.monotonic() < until:
            time.sleep(0.1)
        alive = [process for process in started if process.poll() is None]
        assert len(alive) == 1
        assert httpx.get(f"{address(alive[0])}/ready", trust_env=False, timeout=PATIENCE).status_code == 200
        for process in started:
            if process is not alive[0]:
                out, err = process.communicate(timeout=PATIENCE)
                assert process.returncode == 2
                # Who comes while the first one writes the file's head is told that, too: it cannot know.
                assert re.search("another program (has it open: stop that|is making it now: name another)", err), err
                assert "Traceback" not in out + err
                assert len(err.strip().splitlines()) == 1, err
