"""Every page runs as a script, from any folder, on both engines: exit 0, nothing on standard error, nothing left."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from playbook.kit import postgres
from playbook.kit.course import Playbook

SECONDS = 300


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder for the script's temporary files. Not pytest's: as root, PostgreSQL must be able to enter it."""
    folder = Path(tempfile.mkdtemp(prefix="script-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(pair: Playbook, elsewhere: Path, temporary: Path, **env: str) -> str:
    """What the page prints as a script that is started somewhere else."""
    done = subprocess.run(
        [sys.executable, str(pair.text)],
        cwd=elsewhere,
        env=os.environ | {"TMPDIR": str(temporary)} | env,
        capture_output=True,
        encoding="cp1252",  # what both of the encodings below can be read with
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stderr == ""
    assert list(elsewhere.iterdir()) == [], "it wrote into the folder it was started in"
    assert list(temporary.iterdir()) == [], "it left temporary files"
    return done.stdout


def test_on_the_embedded_database(pair: Playbook, tmp_path: Path, temporary: Path) -> None:
    """Into a pipe that knows no arrow and no accent, as an old terminal is."""
    run(pair, tmp_path, temporary, PYTHONIOENCODING="ascii")


def query(url: str, statement: str) -> int:
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def own_server(postgres_server: str) -> Iterator[str]:
    """A server that nobody else uses meanwhile: what is counted in it is the page's."""
    if os.environ.get(postgres.SHARED) != postgres_server:
        yield postgres_server
        return
    server = postgres.Server()
    yield server.url
    server.stop()


def test_on_postgresql(pair: Playbook, tmp_path: Path, temporary: Path, own_server: str) -> None:
    """The same page, sent to a server by DATABASE_URL alone. That it really went there is seen in the server."""
    number = "SELECT pg_current_xact_id()::text::bigint"  # grows with every transaction that writes
    before = query(own_server, number)
    run(pair, tmp_path, temporary, DATABASE_URL=own_server, PYTHONIOENCODING="cp1252")  # a pipe on Windows
    written = query(own_server, number) - before - 1
    if "lesson_url(" in pair.source or "on_postgres(" in pair.source:
        assert written > 0, "nothing reached PostgreSQL"
    left = query(own_server, "SELECT count(*) FROM pg_database WHERE datname LIKE 'lesson%'")
    assert left == 0, "databases were left behind"
