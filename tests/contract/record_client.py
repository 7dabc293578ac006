"""Record what the npm client sees of the real better-auth on PostgreSQL: `python record_client.py > client.json`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone, also where another one is installed

from better_auth_server import node, plain_environment, running, workplace

from playbook.kit import postgres

NOTE = (
    "What the client of better-auth 1.7.25 saw of its own server on PostgreSQL, by configuration; written by "
    "record_client.py. Not edited by hand."
)
CONFIGURATIONS = "ABCDFGIK"  # those that client.mjs has a flow for
SECONDS = 120  # for all calls of one configuration


def transcript(configuration: str, base_url: str, mail_file: Path) -> list[dict[str, Any]]:
    """What the client saw of the server at `base_url`. Raises RuntimeError when the script fails."""
    with workplace() as folder:
        done = subprocess.run(
            [node(), "client.mjs", configuration, base_url],
            cwd=folder, env=plain_environment() | {"MAILS": str(mail_file)},
            capture_output=True, encoding="utf-8", timeout=SECONDS,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr.strip()[-2000:]}")
    entries: list[dict[str, Any]] = json.loads(done.stdout)
    return entries


def of_better_auth(configuration: str, server: str) -> list[dict[str, Any]]:
    with postgres.database(server) as url, running(configuration, url) as auth:
        return transcript(configuration, auth.base_url, auth.mail_file)


if __name__ == "__main__":
    os.environ.pop("DATABASE_URL", None)
    with postgres.server() as server:
        recorded = {configuration: of_better_auth(configuration, server) for configuration in CONFIGURATIONS}
    print(json.dumps({"source": NOTE, "transcripts": recorded}, indent=1, ensure_ascii=False))
