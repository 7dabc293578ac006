"""A front end that uses the npm client `better-auth/client` works against Pantry: it sees what it saw of better-auth.

`client.mjs` makes every call the client has for these flows, in Node, and says what it saw: data, errors, cookies, the
session store, mails and where their links lead. `client.json` holds what it saw of better-auth itself. Nothing may
differ. Masked are identifiers, tokens and times; a cookie's Max-Age is in whole hours, since Pantry gives a cookie that
is set again the time that is left of its session.

Two things that Pantry does not offer are left out: configuration I, which deletes accounts by a mailed link, and
`changeEmail` turned off.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from filled_database import filled_database
from pantry_process import served
from record_client import transcript

RECORDED = json.loads((Path(__file__).parent / "client.json").read_text(encoding="utf-8"))["transcripts"]
# Better Auth's configurations in Pantry's settings.
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "A": {},
    "B": {"REQUIRE_EMAIL_VERIFICATION": "on"},
    "C": {"RATE_LIMITS": "on"},
    "D": {"REQUIRE_EMAIL_VERIFICATION": "on", "SIGN_IN_AFTER_VERIFICATION": "on"},
    "F": {},
    "G": {"CONFIRM_EMAIL_CHANGE": "on"},
}
SHARED = {"A": "AK"}  # flows that one server is enough for; K is the plugin of organizations
# The long flow on both engines, the others on the embedded one: each has a server to start.
RUNS = [*((configuration, "duckdb") for configuration in CONFIGURATIONS), ("A", "postgresql")]


def same_words(entries: list[dict[str, Any]]) -> Any:
    """Python 3.13 and newer call 422 "Unprocessable Content", as RFC 9110 does; Node keeps the old name."""
    return json.loads(json.dumps(entries).replace("Unprocessable Content", "Unprocessable Entity"))


@pytest.mark.usefixtures("better_auth_packages")
@pytest.mark.parametrize(("configuration", "engine"), RUNS)
def test_the_client_sees_no_difference(
    configuration: str, engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = filled_database(tmp_path) if engine == "duckdb" else request.getfixturevalue("postgres_url")
    with served(url, tmp_path, CONFIGURATIONS[configuration]) as base:
        flows = SHARED.get(configuration, configuration)
        seen = {flow: same_words(transcript(flow, base, tmp_path / "mails.jsonl")) for flow in flows}
    differences = [
        f"{flow}, {wanted['label']}: expected {json.dumps(wanted)}, got {json.dumps(got)}"
        for flow, entries in seen.items()
        for wanted, got in zip(RECORDED[flow], entries, strict=True)
        if wanted != got
    ]
    assert not differences, "\n".join(differences)
