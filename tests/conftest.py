"""What the tests of the playbooks share: each engine in turn, fixed time and identifiers, and where the browser is."""

import itertools
import os
import shutil
from datetime import UTC, datetime

import pytest

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes

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
