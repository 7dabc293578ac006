"""Schemathesis reads Pantry's OpenAPI document and tries to prove it wrong against the live service.

All its checks and phases. What it finds is a fault of the service or of its document; the waivers, each with its
reason, are in `schemathesis.toml`. `schemathesis_hooks.py` gives it genuine cursors and keys.
"""

import os
import re
import subprocess
import sys
import uuid
from collections import defaultdict
from pathlib import Path

import forked
import pytest
from before_sign_in import pantry
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from playbook.foundations.deny_by_default import anyone
from playbook.kit.live import serving
from playbook.pantry.limits import RequestLimits
from playbook.pantry.lists import sign_cursors
from playbook.pantry.settings import Settings

EXAMPLES = 20  # per operation and phase


def schemathesis(base_url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it with a fixed seed and nothing remembered from earlier runs. It writes into `folder` only."""
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
        "run", f"{base_url}/openapi.json", "--checks", "all", "--seed", "1", "--max-examples", str(EXAMPLES),
        "--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
        *options,
    ]  # fmt: skip
    env = os.environ | {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("schemathesis_hooks.py"))}
    return forked.run(command, 300, folder, env, libraries=("schemathesis.cli",), text=True)


class Recorder:
    """ASGI: which statuses and headers each operation has answered; with the limits of a head, but for no network."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.seen = app, defaultdict[tuple[str, str], dict[str, set[str]]](dict)
        self.limited = RequestLimits(app, None, uuid.uuid4)
        self.paths = [(compile_path(path)[0], path) for path in app.openapi()["paths"]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = next((path for pattern, path in self.paths if pattern.match(scope["path"])), "")
                statuses = self.seen[scope["method"].lower(), path]
                names = {name.decode().lower() for name, _ in message["headers"]}
                statuses[str(message["status"])] = statuses.get(str(message["status"]), set()) | names
            await send(message)

        await self.limited(scope, receive, record)

    def undocumented(self) -> list[str]:
        """Statuses that only `default` covers, and headers that are not said, of the documented operations."""
        found = []
        for (method, path), statuses in self.seen.items():
            if (operation := self.app.openapi()["paths"].get(path, {}).get(method)) is None:
                continue  # HEAD, OPTIONS, 405
            for status, names in statuses.items():
                if (answer := operation["responses"].get(status)) is None:
                    found.append(f"{method} {path}: {status}")
                elif more := names - {name.lower() for name in answer["headers"]} - OF_EVERY_ANSWER:
                    found.append(f"{method} {path}: {status} with {sorted(more)}")
        return found


# Of HTTP itself, and those that browsers obey on any site.
OF_EVERY_ANSWER = {
    "content-type", "content-length", "connection", "date", "cache-control", "x-content-type-options",
    "content-security-policy", "referrer-policy", "strict-transport-security", "x-frame-options",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy",
}  # fmt: skip


def test_nothing_is_found(url: str, tmp_path: Path) -> None:
    app = Recorder(pantry(Settings(environment="test", database_url=url)))
    with serving(app) as client:
        done = schemathesis(str(client.base_url), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.server_errors == []
    assert app.undocumented() == []
    answered = {status for statuses in app.seen.values() for status in statuses}
    assert {"200", "201", "400", "404", "412", "415", "422", "428"} <= answered


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("fails", "Server error"), ("lies", "Response violates schema"), ("refuses", "Schema-valid request rejected")],
)
def test_a_fault_would_be_found(fault: str, expected: str, tmp_path: Path) -> None:
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.get("/fails")
    def fails(number: int) -> int:
        return 1 // (number * 0)

    @router.get("/lies", responses={200: {"content": {"application/json": {"schema": {"type": "string"}}}}})
    def lies() -> int:
        return 1

    @router.put("/refuses")
    def refuses(number: int) -> None:
        from playbook.api.errors import Problem
        from playbook.pantry.errors import INVALID

        raise Problem(INVALID, "always")

    app = pantry(Settings(environment="test", database_url=f"duckdb:///:memory:schemathesis_{fault}"))
    app.include_router(router)
    with serving(app) as client:
        done = schemathesis(str(client.base_url), tmp_path, "--include-path", f"/{fault}", "--phases", "fuzzing")
    assert done.returncode == 1, done.stdout + done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("fault", ["cursor", "key"])
def test_a_genuine_cursor_or_key_that_is_refused_would_be_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hooks put in place of made-up ones is not waived."""
    if fault == "key":
        monkeypatch.setattr("playbook.pantry.keys.KEY", re.compile("never"))
    app = pantry(Settings(environment="test", database_url=f"duckdb:///:memory:schemathesis_{fault}"))
    if fault == "cursor":
        sign_cursors(app, "the secret of another service")
    options = ["--include-path", "/packages", "--include-method", {"cursor": "GET", "key": "POST"}[fault]]
    with serving(app) as client:
        done = schemathesis(str(client.base_url), tmp_path, *options, "--phases", "coverage")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Schema-valid request rejected" in done.stdout
    assert {"cursor": "/problems/bad-cursor", "key": "/problems/bad-idempotency-key"}[fault] in done.stdout
