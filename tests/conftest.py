"""What the tests of the playbooks share: each engine in turn, and fixed time and identifiers."""

import itertools
from datetime import UTC, datetime

import pytest

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes

_numbers = itertools.count(1)


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
