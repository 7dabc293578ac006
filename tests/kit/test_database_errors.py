"""A database that cannot be used is one line that says what to do, exit code 2, and no password; never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import forked
import psycopg
import pytest
import sqlalchemy as sa

from playbook.kit.data import ROOT
from playbook.kit.database_errors import advice, in_one_line, unfit
from playbook.kit.postgres import driver_url
from playbook.kit.running import environment

SECRET = "hunter2 & co"
SECONDS = 120
SERVE = ("-m", "playbook.kit.cli", "serve", "--port", "0")
ALEMBIC = ("-m", "alembic", "upgrade", "head")


def said(url: str, *command: str) -> tuple[int, str]:
    """The exit code and everything that was said, in one line: Alembic breaks lines where the terminal ends."""
    done = forked.run([sys.executable, *command], SECONDS, ROOT, environment(url), text=True)
    if command == SERVE:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def role(older_server: str) -> Iterator[Callable[..., sa.URL]]:
    """`role(*grants)`: the URL of a new database on the older server, for a role that has a password and few rights."""
    admin = sa.create_engine(driver_url(older_server), isolation_level="AUTOCOMMIT").connect()
    names = f"reader_{os.getpid()}", f"errors_{os.getpid()}"
    quoted = SECRET.replace("'", "''")

    def run(*statements: str) -> None:
        for statement in statements:
            admin.execute(sa.text(statement.format(role=names[0], database=names[1])))

    def make(*statements: str) -> sa.URL:
        run(f"CREATE ROLE {{role}} LOGIN PASSWORD '{quoted}'", "CREATE DATABASE {database}", *statements)
        return sa.make_url(driver_url(older_server)).set(username=names[0], password=SECRET, database=names[1])

    yield make
    run("DROP DATABASE IF EXISTS {database} WITH (FORCE)", "DROP ROLE IF EXISTS {role}")
    admin.close()


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    # what is done to the server, what is changed in the URL, and what to do about it
    "a wrong password": ((), {"password": f"not {SECRET}"}, "correct the user or the password in DATABASE_URL"),
    "no such database": ((), {"database": "gone"}, "make it (`createdb NAME`)"),
    "no right to make tables": ((), {}, "`GRANT USAGE, CREATE ON SCHEMA public TO ROLE`"),
    "no right to connect": (("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",), {}, "GRANT CONNECT ON DATABASE"),
    "no connection left": (("ALTER DATABASE {database} CONNECTION LIMIT 0",), {}, "all its connections are taken"),
    "no login": (("ALTER ROLE {role} NOLOGIN",), {}, "let this role in"),
    "no writes": (("ALTER DATABASE {database} SET default_transaction_read_only = on",), {}, "name the primary"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_postgresql_refuses(what: str, role: Callable[..., sa.URL]) -> None:
    statements, changes, to_do = REFUSED[what]
    url = role(*statements).set(**changes).render_as_string(hide_password=False)
    for command in (SERVE, ALEMBIC) if what in ("a wrong password", "no right to make tables") else (SERVE,):
        code, line = said(url, *command)
        assert code == 2 if command == SERVE else code != 0, line
        assert to_do in line
        assert "Traceback" not in line
        assert "hunter2" not in line


def test_lessons_need_a_role_that_may_make_databases(role: Callable[..., sa.URL]) -> None:
    url = role().render_as_string(hide_password=False)
    code, line = said("", "-m", "playbook.kit.cli", "run", "clock_and_identifiers", "--database", url)
    assert code == 2
    assert line.startswith("error: the role")
    assert "`ALTER ROLE NAME CREATEDB`" in line
    assert "hunter2" not in line


def test_alembic_on_a_server_that_takes_no_writes(role: Callable[..., sa.URL]) -> None:
    """A revision that fails for another reason keeps its traceback: somebody has to find the line."""
    grant = "ALTER DATABASE {database} SET default_transaction_read_only = on"
    code, line = said(role(grant).render_as_string(hide_password=False), *ALEMBIC)
    assert code != 0
    assert "name the primary in DATABASE_URL" in line
    assert "Traceback" not in line


# ---------------------------------------------------------------- the embedded database


def no_database(file: Path) -> None:
    file.write_bytes(b"rank,name\n" * 2000)


def damaged(file: Path) -> None:
    duckdb.connect(file).close()
    content = bytearray(file.read_bytes())
    content[12:20] = (1 << 20).to_bytes(8, "little")
    file.write_bytes(content)


def a_folder(file: Path) -> None:
    file.mkdir()


def in_no_folder(file: Path) -> None:
    file.parent.rmdir()


def without_rights(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    file.parent.chmod(0o500)


FILES = {
    no_database: "that is no DuckDB database",
    damaged: "it is damaged: restore a backup",
    a_folder: "cannot be opened",
    in_no_folder: "make the directory first",
    without_rights: "let this user read and write",
}


@pytest.mark.parametrize("arrange", FILES)
def test_what_a_file_may_be(arrange: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    arrange(folder / "pantry.duckdb")
    for command in (SERVE, ALEMBIC) if arrange is no_database else (SERVE,):
        code, line = said(f"duckdb:///{folder}/pantry.duckdb", *command)
        assert code == 2 if command == SERVE else code != 0, line
        assert FILES[arrange] in line
        assert "Traceback" not in line


def test_a_file_that_another_program_has(tmp_path: Path) -> None:
    file = tmp_path / "pantry.duckdb"
    other = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", other, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        code, line = said(f"duckdb:///{file}", *SERVE)
        process.communicate("\n", timeout=30)
    assert code == 2
    assert "another program has it open: stop that" in line


# ---------------------------------------------------------------- what cannot be arranged here

URL = "postgresql+psycopg://reader:hunter2%20%26%20co@db.example/pantry"


@pytest.mark.parametrize(
    ("version", "says"), [(120_022, "PostgreSQL 12 "), (110_000, "PostgreSQL 11 "), (90_624, "PostgreSQL 9.6 ")]
)
def test_a_server_that_is_too_old(version: int, says: str) -> None:
    problem = unfit(URL, version, read_only=False)
    assert problem is not None
    assert problem.startswith(f"{says}at db.example is not supported: Pantry needs 13 or newer")
    assert unfit(URL, 130_000, read_only=False) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (psycopg.errors.DiskFull('could not extend file "base/5/1": No space left on device'), "make room"),
        (psycopg.errors.TooManyConnections("sorry, too many clients already"), "all its connections are taken"),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), "another program holds a lock"),
        (psycopg.errors.CannotConnectNow("the database system is starting up"), "wait until it is up"),
        (psycopg.errors.ProtocolViolation("query_wait_timeout"), "look at the pooler's log"),
        (psycopg.OperationalError("FATAL:  unsupported startup parameter: options"), "ignore_startup_parameters"),
    ],
)
def test_what_is_known_of_other_errors(error: psycopg.Error, says: str) -> None:
    wrapped = sa.exc.OperationalError("SELECT 'hunter2 & co'", {}, error)
    for given in (error, wrapped):
        line = advice(given, URL)
        assert line is not None
        assert line.startswith("PostgreSQL at db.example ")
        assert says in line


def test_a_file_of_another_version() -> None:
    said = "IO Error: Trying to read a database file with version number 99, but we can only read version 64."
    line = advice(duckdb.IOException(said), "duckdb:////srv/pantry.duckdb")
    assert line == (
        f"the database file '/srv/pantry.duckdb' cannot be opened ({said}): another version of DuckDB wrote it: "
        "install that one, or name another file in DATABASE_URL"
    )


def test_an_error_that_nobody_has_seen_is_one_line_all_the_same() -> None:
    error = psycopg.OperationalError("connection to hunter2 & co failed:\n\tanother line")
    assert advice(error, URL) is None
    line = in_one_line(error, URL)
    assert "\n" not in line
    assert "hunter2" not in line
    assert "DATABASE_URL" in line
