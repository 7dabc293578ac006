"""Every page runs as a script, from any folder, on both engines: exit 0, nothing on standard error, nothing left."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
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


def check(code: int, stdout: bytes, stderr: bytes, elsewhere: Path, temporary: Path) -> None:
    """What it printed can be read in its encoding, and it left nothing behind."""
    assert code == 0, (stdout[-2000:] + stderr[-4000:]).decode("cp1252")
    assert stderr == b""
    assert list(elsewhere.iterdir()) == [], "it wrote into the folder it was started in"
    assert list(temporary.iterdir()) == [], "it left temporary files"


def test_on_the_embedded_database(pair: Playbook, tmp_path: Path, temporary: Path) -> None:
    """In a process of its own, into a pipe that knows no arrow and no accent, as an old terminal is."""
    env = os.environ | {"TMPDIR": str(temporary), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, str(pair.text)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=SECONDS)
    check(done.returncode, done.stdout, done.stderr, tmp_path, temporary)


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


def test_on_postgresql(
    pair: Playbook,
    tmp_path: Path,
    temporary: Path,
    own_server: str,
) -> None:
    """The same page, sent to a server by DATABASE_URL alone. That it really went there is seen in the server."""
    number = "SELECT pg_current_xact_id()::text::bigint"  # grows with every transaction that writes
    before = query(own_server, number)
    env = {"TMPDIR": str(temporary), "DATABASE_URL": own_server, "PYTHONIOENCODING": "cp1252"}  # a pipe on Windows
    done = forked.run([sys.executable, pair.text], SECONDS, tmp_path, os.environ | env)
    check(done.returncode, done.stdout, done.stderr, tmp_path, temporary)
    written = query(own_server, number) - before - 1
    if "lesson_url(" in pair.source or "on_postgres(" in pair.source:
        assert written > 0, "nothing reached PostgreSQL"
    left = query(own_server, "SELECT count(*) FROM pg_database WHERE datname LIKE 'lesson%'")
    assert left == 0, "databases were left behind"
