"""What the tests of the playbooks share: each engine in turn, fixed time and identifiers, and where the browser is."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, NoReturn

import argon2
import before_sign_in
import debian_servers
import pytest
from prepared import (
    Remembered,
    one_thread_for_duckdb,
    remember_documents,
    remember_routes,
    remember_signatures,
)
from reused import Databases

from playbook.auth import password_hashing
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.kit import postgres
from playbook.pantry import app as pantry_app
from playbook.pantry.connections import do_without_pandas

pantry_app.prepare = before_sign_in.prepare = Remembered(pantry_app.prepare)
remember_signatures()
one_thread_for_duckdb()
remember_routes()
remember_documents()
do_without_pandas()  # as Pantry does at its start: DuckDB looks for it at each statement with values

# Folders and files whose tests begin with Pantry's tables: on PostgreSQL they get a database that others had before, as
# long as they do not fill it: `test_catalog.py` would have a new one each time. Not where the tables are another
# service's, as in what *Take it with you* says.
AT_HEAD = {"auth", "api", "test_as_recorded.py"}
NOT_PANTRYS = {"test_authorization_use.py", "test_organizations_use.py", "test_second_factor_use.py"}

_numbers = itertools.count(1)
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


@pytest.fixture(params=["duckdb", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A new, empty database: the test runs once on each engine."""
    if request.param == "duckdb":
        return f"duckdb:///:memory:test_{next(_numbers)}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(scope="session")
def databases(postgres_server: str, database_options: str) -> Iterator[Databases]:
    """With Pantry's tables, for the tests of this process."""
    made = Databases(postgres_server, pantry_app.prepare, database_options)
    yield made
    made.close()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database on PostgreSQL that is the test's alone: with Pantry's tables where they are wanted, or a new one."""
    if request.path.name in NOT_PANTRYS or not {request.path.name, request.path.parent.name} & AT_HEAD:
        yield request.getfixturevalue("empty_postgres_url")
        return
    with request.getfixturevalue("databases").database() as at_head:
        yield at_head


FULL_PRICE = ("test_passwords.py", "test_password_hashing.py")  # they are about what a hash costs


@pytest.fixture(autouse=True)
def cheap_hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed and compared by the same code, for a tenth of a millisecond and not for twenty.

    All of the recipe's numbers change together: what is stored is not too weak for it.
    """
    if request.path.name in FULL_PRICE:
        return
    monkeypatch.setattr(password_hashing, "MEMORY", 64)  # KiB
    monkeypatch.setattr(password_hashing, "PASSES", 1)
    monkeypatch.setattr(password_hashing, "ARGON2", argon2.PasswordHasher(1, 64, 1))
    monkeypatch.setattr(password_hashing, "NOBODY", f"$argon2id$v=19$m=64,t=1,p=1${'A' * 22}${'A' * 43}")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))


@pytest.fixture
def ids(clock: FixedClock) -> Identifiers:
    return Identifiers(clock, SeededBytes(1))


@pytest.fixture(scope="session")
def browser_program() -> str:
    """The path of a Chromium or Chrome. Without one the test is skipped, where REQUIRE_BROWSER is set it fails."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        reason = "no Chromium or Chrome is installed: nothing was opened in a browser"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def missing(reason: object, required: str) -> NoReturn:
    """Skip, with the reason; where the environment variable `required` is set, as in CI, fail."""
    if os.environ.get(required):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def older_server() -> Iterator[str]:
    """A PostgreSQL server of Debian's, older than the packaged one: see `debian_servers.py`. Roles have passwords."""
    try:
        with debian_servers.postgres() as url:
            yield url
    except debian_servers.Missing as error:
        missing(error, "REQUIRE_OLDER_POSTGRES")


@pytest.fixture
def older_url(older_server: str) -> Iterator[str]:
    """A new, empty database on the older server; dropped after the test."""
    with postgres.database(postgres.driver_url(older_server)) as url:
        yield url


@pytest.fixture
def pooler_before() -> Iterator[Callable[..., str]]:
    """`pooler_before(url)`: PgBouncer before a database, in transaction mode with two sessions; its URL."""
    with ExitStack() as stack:

        def start(url: str, **options: Any) -> str:
            try:
                return stack.enter_context(debian_servers.pgbouncer(url, **options))
            except debian_servers.Missing as error:
                missing(error, "REQUIRE_PGBOUNCER")

        yield start
