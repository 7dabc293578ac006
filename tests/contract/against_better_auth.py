"""The real better-auth answers as recorded, and its client sees of it what is recorded: the data is right.

    python -m pytest tests/contract/against_better_auth.py

Not part of the suite: it says something about the recordings, not about Pantry, and it really waits for what expires.
Run it when a recording or the version of better-auth changes. Where it and a recording differ, better-auth is right.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from better_auth_server import real_target
from record_client import of_better_auth
from replay import recordings, replay

CLIENT = json.loads((Path(__file__).parent / "client.json").read_text(encoding="utf-8"))["transcripts"]
pytestmark = pytest.mark.usefixtures("better_auth_packages")


@pytest.mark.parametrize("database", ["memory", "postgresql"])
@pytest.mark.parametrize(
    ("configuration", "exchanges"),
    [pytest.param(c, e, id=name.replace(" ", "_")) for name, c, e in recordings()],
)
def test_answers_as_recorded(
    configuration: str, exchanges: list[dict[str, Any]], database: str, request: pytest.FixtureRequest
) -> None:
    url = None if database == "memory" else request.getfixturevalue("postgres_url")
    with real_target(configuration, url) as target:
        differences = replay(target, exchanges)
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("configuration", CLIENT)
def test_its_client_sees_what_is_recorded(configuration: str, postgres_server: str) -> None:
    assert of_better_auth(configuration, postgres_server) == CLIENT[configuration]
