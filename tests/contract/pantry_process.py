"""Pantry in a process of its own, as `playbook serve` starts it, with Better Auth's policy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import forked
import httpx
from ports import free_port

from playbook.kit.data import ROOT
from playbook.kit.live import NO_TLS
from playbook.kit.running import environment

START_SECONDS = 60
# Pantry's own defaults are stricter.
LIKE_BETTER_AUTH = {
    "ENVIRONMENT": "test",
    "SECRET": "the secret of the client tests, 32 characters or more",
    "PASSWORD_MIN_LENGTH": "8",
    "PASSWORD_BLOCKLIST": "off",
    "RATE_LIMITS": "off",
    "REQUIRE_EMAIL_VERIFICATION": "off",
    "CONFIRM_EMAIL_CHANGE": "off",
    "REVOKE_SESSIONS_ON_CHANGE": "off",
    "STRICT_PROOF": "off",
}


@contextmanager
def served(database_url: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """`playbook serve` on this database; its base URL. Mails go to `mails.jsonl` in `folder`, output to `log`.

    Raises RuntimeError, with the end of the output, when it does not start.
    """
    port = free_port()
    base, log = f"http://127.0.0.1:{port}", folder / "log"
    own = {"BASE_URL": base, "TRUSTED_ORIGINS": f"{base},http://app.example", "MAIL_URL": f"file:{folder}/mails.jsonl"}
    prefixed = {f"PANTRY_{name}": value for name, value in (LIKE_BETTER_AUTH | own | dict(settings or {})).items()}
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", str(port)]
    with log.open("w") as output:
        process = forked.Popen(
            command, cwd=ROOT, env=environment(database_url) | prefixed, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        ends = time.monotonic() + START_SECONDS
        while not answers(base):
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"Pantry did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield base
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/api/auth/ok", trust_env=False, verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False
