"""`playbook serve` in a process of its own, and everything it has written."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import httpx

from playbook.kit.data import ROOT
from playbook.kit.live import NO_TLS
from playbook.kit.running import environment

ORIGIN = "http://localhost:8000"
PASSWORD = "four quiet rivers and a spoon"
DEADLINE = 60  # seconds
PRODUCTION = {
    "PANTRY_ENVIRONMENT": "production", "PANTRY_BASE_URL": "https://pantry.example",
    "PANTRY_SECRET": "a secret of the tests, 32 characters or more", "PANTRY_MAIL_URL": "smtp://127.0.0.1:9",
}  # fmt: skip


@dataclass
class Process:
    """A running service. `client` sends the front end's Origin; `mails` are the lines of its mail file so far."""

    url: str
    client: httpx.Client
    log: Path
    mail: Path

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def another(self) -> httpx.Client:
        """Another browser."""
        return httpx.Client(base_url=self.url, trust_env=False, verify=NO_TLS, timeout=30, headers={"origin": ORIGIN})

    def post(self, path: str, body: Any, client: httpx.Client | None = None, **options: Any) -> httpx.Response:
        return (client or self.client).post(f"/api/auth{path}", json=body, **options)

    def sign_up(self, email: str, client: httpx.Client | None = None, **headers: str) -> httpx.Response:
        return self.post("/sign-up/email", {"name": "Ada", "email": email, "password": PASSWORD}, client,
                         headers=headers)  # fmt: skip

    def mails(self, least: int = 0) -> list[dict[str, Any]]:
        """Waits until there are at least `least`: mail goes out after the answer."""
        until = time.monotonic() + DEADLINE
        while True:
            text = self.mail.read_text(encoding="utf-8") if self.mail.exists() else ""
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            if len(found) >= least:
                return found
            assert time.monotonic() < until, f"{len(found)} mails instead of {least}"
            time.sleep(0.02)

    def raw(self, sent: bytes) -> bytes:
        """Send these bytes, close that direction, and read until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received


@contextmanager
def serve(database_url: str, folder: Path, *options: str, **settings: str) -> Iterator[Process]:
    """`playbook serve` on this database; ended with SIGTERM. `log` has its stdout and stderr."""
    log, mail = folder / "serve.log", folder / "mail.jsonl"
    given = {"PANTRY_ENVIRONMENT": "test", "PANTRY_MAIL_URL": f"file:{mail}"} | settings
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0", *options]
    env = environment(database_url) | {"PYTHONUNBUFFERED": "1"}
    env.pop("FORWARDED_ALLOW_IPS", None)  # unset is not empty: unset, uvicorn believes 127.0.0.1
    env |= given
    with log.open("w") as output:
        process = forked.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + DEADLINE
        while "Application startup complete" not in (text := log.read_text(encoding="utf-8")):
            assert process.poll() is None, text
            assert time.monotonic() < until, text
            time.sleep(0.05)
        said = next(line for line in text.splitlines() if line.startswith("Pantry at "))
        url = said.removeprefix("Pantry at ").split(",")[0].split(";")[0]
        with httpx.Client(
            base_url=url, trust_env=False, verify=NO_TLS, timeout=30, headers={"origin": ORIGIN}
        ) as client:
            yield Process(url, client, log, mail)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
