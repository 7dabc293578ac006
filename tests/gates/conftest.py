"""What the gates share: the process that runs pages as scripts."""

from collections.abc import Iterator

import pytest
from forked import Scripts


@pytest.fixture(scope="session")
def scripts() -> Iterator[Scripts]:
    running = Scripts()
    yield running
    running.close()
