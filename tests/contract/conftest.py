"""Where the real better-auth comes from: skipped, with the reason, where there is no Node, but not in CI."""

import os
from pathlib import Path

import pytest
from better_auth_server import NodeUnavailable, packages


@pytest.fixture(scope="session")
def better_auth_packages() -> Path:
    """The installed npm packages. Without Node or a network that reaches npm the test is skipped, in CI it fails."""
    try:
        return packages()
    except NodeUnavailable as error:
        if os.environ.get("CI") or os.environ.get("REQUIRE_NODE"):
            pytest.fail(str(error))
        pytest.skip(str(error))
