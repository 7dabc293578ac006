"""What all tests and notebooks share: a clean environment, one PostgreSQL server, and the pages as parameters.

Nothing here hides a failure: the only thing skipped is what needs a PostgreSQL server where none can be had, and the
reason is shown.
"""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams
from sqlalchemy import create_engine, text

from playbook.kit import postgres
from playbook.kit.course import Course, Playbook

# Tests and notebooks choose their database themselves. A server that DATABASE_URL names is kept aside for the tests
# that want PostgreSQL; the workers of xdist inherit it under this name.
SERVER = "PLAYBOOK_TEST_POSTGRES"
WORKER = "PYTEST_XDIST_WORKER" in os.environ

# No test fails because the machine is busy: an example may take as long as it takes.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")

# Half a million objects live as long as a worker: modules, tests, cells. Going over them while they come would be a
# third of collecting, and later most of each full collection: `pytest_runtestloop` takes them out.
gc.disable()

sys.path.append(str(Path(__file__).parent / "tests"))  # for `pytest notebooks`, which loads nothing of it

if (given := postgres.given_url()) is not None:
    os.environ[SERVER] = given
for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("PANTRY_")]:
    del os.environ[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`DATABASE_URL=... pytest --on-postgresql` tries the service on another version of the server."""
    parser.addoption("--on-postgresql", action="store_true", help="only the tests that use a PostgreSQL server")


def pytest_configure(config: pytest.Config) -> None:
    """nbval ends a kernel by killing it, which leaves temporary files behind: give all of them one folder."""
    if sys.flags.optimize or os.environ.get("PYTHONOPTIMIZE"):
        raise pytest.UsageError("asserts are switched off (`python -O` or PYTHONOPTIMIZE): every test would pass")
    config.pluginmanager.register(Elsewhere())
    if not WORKER:
        tempfile.gettempdir()  # decided before TMPDIR changes, so that pytest's own folders stay where they are
        folder = Path(tempfile.mkdtemp(prefix="playbook-test-"))
        folder.chmod(0o755)  # as root, PostgreSQL runs as another user
        os.environ["TMPDIR"] = str(folder)
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        # One server for all lessons of all workers: each page would start one, five times in a run.
        # A pytest that a test starts uses it, too.
        if not os.environ.keys() & {SERVER, postgres.SHARED} and not config.option.collectonly:
            with suppress(postgres.PostgresUnavailable):
                shared = postgres.Server()
                with create_engine(shared.url, isolation_level="AUTOCOMMIT").connect() as connection:
                    # It need not survive a crash, and no database of a test grows old enough for autovacuum.
                    for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
                        connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
                    connection.execute(text("SELECT pg_reload_conf()"))
                os.environ[postgres.SHARED] = shared.url
                config.add_cleanup(shared.stop)


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: some wait for a server or a process meanwhile."""
    return (os.cpu_count() or 1) + 1


@cache
def course() -> Course:
    """The course, read once a process and not once for each test."""
    return Course()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`pair` is every page with a text and a notebook, `lesson` the same without the landing page."""
    if "pair" in metafunc.fixturenames:
        metafunc.parametrize("pair", course().pairs, ids=lambda page: page.key)
    if "lesson" in metafunc.fixturenames:
        metafunc.parametrize("lesson", course().playbooks, ids=lambda page: page.key)


# A file is the unit that goes to a worker. The long ones go first, or the last of them keeps all other workers waiting.
LONG = (
    "test_binder.py",
    "test_break_it.py",
    "test_scripts.py",
    "test_lift.py",
    "test_older_postgres.py",
    "test_oracles.py",
    "test_renewal.py",
    "test_schemathesis.py",
    "test_cli.py",
    "test_sabotage.py",
    "test_crash.py",
    "test_book.py",
    ".ipynb",
    "test_postgres.py",
)


def uses_postgresql(item: pytest.Item) -> bool:
    """Whether a test gets a database on a server, by the fixture `postgres_url` or as one of the engines of `url`."""
    engine = item.callspec.params.get("url") if hasattr(item, "callspec") else None
    return engine == "postgresql" or "postgres_url" in getattr(item, "fixturenames", ())


def run_where_they_landed(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a run of everything, the tests of a recipe run once, where `playbook lift` put them: see `test_lift.py`.

    There they prove all that they prove in `tests/recipes`, and besides that nothing of the course is needed. Whoever
    names files or words gets what they named.
    """
    if config.args_source != pytest.Config.ArgsSource.TESTPATHS or config.option.keyword or config.option.markexpr:
        return
    landed = {
        f"test_{item.callspec.params['name']}.py"
        for item in items
        if hasattr(item, "callspec") and item.originalname == "test_the_tests_that_landed_pass_there"  # type: ignore[attr-defined]
    }
    here = [item for item in items if item.path.parent.name == "recipes" and item.path.name in landed]
    config.hook.pytest_deselected(items=here)
    twice = set(here)
    items[:] = [item for item in items if item not in twice]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, in the order of `LONG`; within a file nothing moves."""
    run_where_they_landed(config, items)
    if config.getoption("--on-postgresql"):
        config.hook.pytest_deselected(items=[item for item in items if not uses_postgresql(item)])
        items[:] = filter(uses_postgresql, items)
    with_second_runs(items)
    items.sort(key=lambda item: next((n for n, name in enumerate(LONG) if item.path.name.endswith(name)), len(LONG)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """From here on, garbage is what tests leave: looked for at 5,000 new objects, not at 700 as by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 10, 10)
    gc.enable()


@cache
def why_no_packaged_server() -> str:
    """Why the packaged PostgreSQL cannot run here; empty when it can."""
    if postgres.SHARED in os.environ:
        return ""
    try:
        postgres.Server().stop()
    except postgres.PostgresUnavailable as error:
        return str(error)
    return ""


# Where nbval's kernels are: fourteen hours ahead of UTC, where the date is another one; a locale without UTF-8; an
# order of sets that was never stored. A notebook must show there what is stored.
ELSEWHERE = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "20261"}


def kernel(command: list[str], **options: Any) -> Any:
    """A kernel's process. A copy of the course that `test_sabotage.py` makes has no `forked.py`."""
    try:
        forked = import_module("forked")
    except ImportError:
        return subprocess.Popen(command, **options)
    return forked.Popen(command, forked.KERNEL, **options)


class Elsewhere:
    """A plugin that starts the kernels of notebooks there: forks of a process that has the libraries, see `forked.py`.

    That a page imports what it uses is seen where it runs as a script, in a process of its own.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        if item.path.suffix != ".ipynb":
            return (yield)  # what its fixtures set stays set: `patch.dict` would put everything back
        with patch.dict(os.environ, ELSEWHERE), patch("jupyter_client.launcher.Popen", kernel):
            return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, visibly, the cells of notebooks whose subject is PostgreSQL where the packaged server cannot run."""
    if item.path.suffix == ".ipynb" and "on_postgres" in item.path.read_text(encoding="utf-8"):
        reason = why_no_packaged_server()
        if reason:
            pytest.skip(f"needs PostgreSQL: {reason}")


class SecondRun(pytest.Item):
    """All cells once more in nbval's kernel, as readers do: none raises.

    Before it, the first run is compared with what is stored in every field, of which nbval leaves some out.
    """

    parent: Any

    def runtest(self) -> None:
        first = [item for item in self.session.items if item.parent is self.parent and isinstance(item, IPyNbCell)]
        if any(item.stash.get(FAILED, False) for item in first):
            return  # it is red already, and this would only say so again
        for item in first:
            if not item.options["check"]:
                continue  # it shows times, and nbval does not compare it either
            stored, shown = (outputs(found) for found in (item.cell.outputs, item.test_outputs or []))
            assert shown == stored, f"{item.name} shows something else on another machine"
        cells = [cell for cell in self.parent.nb.cells if cell.cell_type == "code"]
        for number, cell in enumerate(cells):
            again = {"name": f"Cell {number}", "cell_num": number, "cell": cell, "options": defaultdict(bool)}
            try:
                IPyNbCell.from_parent(self.parent, **again).runtest()
            except Exception as error:
                trace = getattr(error, "inner_traceback", "") or error
                pytest.fail(f"cell {number} cannot be run twice in one kernel\n{cell.source}\n{trace}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.nodeid


FAILED = pytest.StashKey[bool]()


def outputs(found: list[Any]) -> list[dict[str, Any]]:
    """A cell's outputs without their numbers."""
    return [{k: v for k, v in output.items() if k != "execution_count"} for output in coalesce_streams(deepcopy(found))]


def with_second_runs(items: list[pytest.Item]) -> None:
    """Put a second run behind the last cell of each notebook."""
    last = {item.parent: place for place, item in enumerate(items) if isinstance(item.parent, IPyNbFile)}
    for notebook, place in sorted(last.items(), key=lambda pair: -pair[1]):
        items.insert(place + 1, SecondRun.from_parent(notebook, name="second_run"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def packaged_server_for(request: pytest.FixtureRequest) -> Callable[[Playbook], None]:
    """Skips the test when the page given needs the packaged server, and it cannot run here."""

    def check(page: Playbook) -> None:
        if "on_postgres" in page.source and (reason := why_no_packaged_server()):
            pytest.skip(f"needs PostgreSQL: {reason}")

    return check


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server: the one DATABASE_URL named, or the packaged one that all workers share."""
    if url := os.environ.get(SERVER) or os.environ.get(postgres.SHARED):
        yield url
        return
    pytest.skip(f"needs PostgreSQL: {why_no_packaged_server() or 'none was started'}")


@pytest.fixture(scope="session")
def database_options(postgres_server: str) -> str:
    """Of CREATE DATABASE: no copy of every page in the log, which takes half of the time. Others' may not know it."""
    return "STRATEGY file_copy" if postgres_server == os.environ.get(postgres.SHARED) else ""


@pytest.fixture
def empty_postgres_url(postgres_server: str, database_options: str) -> Iterator[str]:
    """A new, empty PostgreSQL database; dropped after the test."""
    with postgres.database(postgres_server, database_options) as url:
        yield url


@pytest.fixture
def postgres_url(empty_postgres_url: str) -> str:
    """The same. In `tests`, those of Pantry get one with its tables."""
    return empty_postgres_url
