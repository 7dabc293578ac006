"""Schemathesis reads Pantry's OpenAPI document and tries to prove it wrong against the live service.

All its checks and phases. What it finds is a fault of the service or of its document; the waivers, each with its
reason, are in `schemathesis.toml`. `schemathesis_hooks.py` gives it genuine cursors and keys.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import APIRouter, Depends

from playbook.api.pagination import sign_cursors
from playbook.foundations.http_service import anyone
from playbook.foundations.settings import Settings
from playbook.kit.live import serving
from playbook.service import pantry

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
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_nothing_is_found(url: str, tmp_path: Path) -> None:
    with serving(pantry(Settings(environment="test", database_url=url))) as client:
        done = schemathesis(str(client.base_url), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert client.server_errors == []


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
        from playbook.api.errors import INVALID, Problem

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
        monkeypatch.setattr("playbook.api.idempotency.KEY", re.compile("never"))
    app = pantry(Settings(environment="test", database_url=f"duckdb:///:memory:schemathesis_{fault}"))
    if fault == "cursor":
        sign_cursors(app, "the secret of another service")
    options = ["--include-path", "/packages", "--include-method", {"cursor": "GET", "key": "POST"}[fault]]
    with serving(app) as client:
        done = schemathesis(str(client.base_url), tmp_path, *options, "--phases", "coverage")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Schema-valid request rejected" in done.stdout
    assert {"cursor": "/problems/bad-cursor", "key": "/problems/bad-idempotency-key"}[fault] in done.stdout
