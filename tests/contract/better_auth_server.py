"""The real better-auth in a Node process of its own, as a target of the replay and a peer of the benchmarks.

Its packages are not part of the repository: `npm install` puts them into the user's cache, in a folder named after
`package.json`, and they are reused from there. No lock file is written or kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for the scripts here, which pytest does not start

from ports import free_port
from replay import Deviation, Forms, Target, forged_jwt

SOURCE = Path(__file__).parent / "better_auth"
SECRET = "a-secret-of-the-contract-tests-0123456789"
OLDEST_NODE = 20
INSTALL_SECONDS, START_SECONDS = 300, 30


class NodeUnavailable(Exception):
    """The real better-auth cannot run here. The message is one line and says why."""


def node() -> str:
    """The path of a Node that is new enough. Raises NodeUnavailable."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        raise NodeUnavailable("node and npm are not installed: the real better-auth was not run")
    version = subprocess.run([found, "--version"], capture_output=True, encoding="utf-8").stdout.strip()
    major = re.match(r"v(\d+)\.", version)
    if major is None or int(major[1]) < OLDEST_NODE:
        raise NodeUnavailable(f"node is {version or 'broken'}, {OLDEST_NODE} or newer is needed")
    return found


def cache() -> Path:
    """Where the packages are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "backend-playbook"


def packages(source: Path = SOURCE) -> Path:
    """A folder with the `node_modules` of `source`, installed when it is not there yet. Raises NodeUnavailable."""
    node()
    wanted = (source / "package.json").read_bytes()
    folder = cache() / f"node-{hashlib.sha256(wanted).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="installing-", dir=folder.parent))
    try:
        (fresh / "package.json").write_bytes(wanted)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev"]
        command = [shutil.which("npm") or "npm", "install", "--prefix", str(fresh), *options]
        try:
            done = subprocess.run(
                command, cwd=fresh, capture_output=True, encoding="utf-8", errors="replace", timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NodeUnavailable(f"npm install took longer than {INSTALL_SECONDS} s") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason was given"]
            raise NodeUnavailable(f"npm install failed: {said[0]}")
        try:
            fresh.rename(folder)  # whole or not at all; another worker may have been quicker
        except OSError:
            if not folder.is_dir():
                raise
        return folder
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder with our scripts beside the packages: Node looks for packages where the script is."""
    installed = packages()
    with tempfile.TemporaryDirectory(prefix="playbook-node-") as name:
        folder = Path(name)
        (folder / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
        shutil.copy2(installed / "package.json", folder)
        for script in [*SOURCE.glob("*.mjs"), *Path(__file__).parent.glob("*.mjs")]:
            shutil.copy2(script, folder)
        yield folder


def plain_environment() -> dict[str, str]:
    """The environment without what would change better-auth, which reads several variables by itself."""
    words = ("BETTER_AUTH", "BASE_URL", "AUTH_", "NODE_", "DATABASE_URL", "NEXT_PUBLIC", "NUXT_", "PUBLIC_")
    # Development: a request without X-Forwarded-For comes from 127.0.0.1, as it was recorded.
    return {name: value for name, value in os.environ.items() if not name.startswith(words)} | {
        "NODE_ENV": "development"
    }


def for_node(database_url: str) -> str:
    """SQLAlchemy's name of a PostgreSQL database as `pg` wants it."""
    url = re.sub(r"^postgresql\+\w+://", "postgresql://", database_url)
    return re.sub(r"^postgresql://([^@/]*)@/", r"postgresql://\1@localhost/", url)


@dataclass
class Running:
    """A server that answers at `base_url`."""

    base_url: str
    mail_file: Path

    def mails(self) -> list[dict[str, Any]]:
        lines = self.mail_file.read_text(encoding="utf-8").splitlines() if self.mail_file.exists() else []
        return [json.loads(line) for line in lines]


@contextmanager
def running(configuration: str, database_url: str | None = None) -> Iterator[Running]:
    """A server of `configuration`, on the memory adapter or on a new PostgreSQL database. Raises NodeUnavailable."""
    program = node()
    with ExitStack() as stack:
        folder, port = stack.enter_context(workplace()), free_port()
        environment = plain_environment() | {"SECRET": SECRET, "MAILS": str(folder / "mails.jsonl")}
        if database_url:
            environment["DATABASE_URL"] = for_node(database_url)
        log = stack.enter_context((folder / "log").open("w"))
        process = subprocess.Popen(
            [program, "server.mjs", configuration, str(port)],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, encoding="utf-8",
        )  # fmt: skip
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("listening"):
                process.wait(START_SECONDS)
                raise RuntimeError(f"better-auth did not start: {(folder / 'log').read_text()[-2000:]}")
            yield Running(f"http://127.0.0.1:{port}", folder / "mails.jsonl")
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


CAROL = (
    '"user":{"name":"Carol","email":"dave@example.com","emailVerified":true,"image":null,'
    '"createdAt":"<ISO_MS_Z>","updatedAt":"<ISO_MS_Z>","id":"<USER_ID:carol>"}'
)
SESSION = (
    '"session":{"expiresAt":"<ISO_MS_Z now+7d>","token":"<SESSION_TOKEN:carol#1>","createdAt":"<ISO_MS_Z>",'
    '"updatedAt":"<ISO_MS_Z>","ipAddress":"127.0.0.1","userAgent":"curl/7.88.1","userId":"<USER_ID:carol>","id":"<ID32>"}'
)
WHY = "the memory adapter knows no unique index, so two users get one address"
IN_MEMORY = {
    "31 the link, somebody has the address by now": Deviation(
        WHY,
        {
            "status": 200,
            "headers": [["content-type", "application/json"]],
            "body": f'{{"status":true,{CAROL}}}',
        },
    ),
    "31 her address has not changed": Deviation(WHY, {"body": f"{{{SESSION},{CAROL}}}"}),
}


@contextmanager
def real_target(configuration: str, database_url: str | None = None) -> Iterator[Target]:
    """The real server as a target: waiting is real there."""
    with running(configuration, database_url) as server:
        now = int(time.time())
        gone = {"email": "ghost@example.com", "userId": "G" * 32, "iat": now, "exp": now + 3600}
        old = {"email": "alice@example.com", "iat": now - 7200, "exp": now - 3600}
        yield Target(
            base_url=server.base_url,
            secret=SECRET,
            mails=server.mails,
            advance=time.sleep,
            # The memory adapter has no column for a picture that was never given; on SQL it is null, as recorded.
            forms=Forms(absent_is_null=frozenset() if database_url else frozenset({"image"})),
            deviations={} if database_url else IN_MEMORY,
            make_expired_token=lambda: forged_jwt(SECRET, old),
            make_ghost_token=lambda: forged_jwt(SECRET, gone),
        )
