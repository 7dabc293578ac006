"""Where the real better-auth comes from: skipped, with the reason, where there is no Node, but not in CI."""

import os
from pathlib import Path

import pytest
from better_auth_server import SOURCE, NodeUnavailable, packages


def installed(source: Path) -> Path:
    """The npm packages of `source`. Without Node or a network that reaches npm the test is skipped, in CI it fails."""
    try:
        return packages(source)
    except NodeUnavailable as error:
        if os.environ.get("CI") or os.environ.get("REQUIRE_NODE"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def better_auth_packages() -> Path:
    """The real better-auth and what it needs."""
    return installed(SOURCE)


@pytest.fixture(scope="session")
def openapi_packages() -> Path:
    """openapi-typescript, openapi-fetch and tsc."""
    return installed(SOURCE.with_name("openapi_client"))
