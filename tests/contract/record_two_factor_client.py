"""Record what `twoFactorClient` sees of its server: `python record_two_factor_client.py > two_factor_client.json`."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from better_auth_server import node, plain_environment, running, workplace

NOTE = "What `twoFactorClient` of better-auth 1.7.25 saw of its own server; by record_two_factor_client.py. Not edited."
SECONDS = 120


def transcript(base_url: str, codes: str = "") -> list[dict[str, Any]]:
    """What the client saw of the server at `base_url`. Raises RuntimeError when the script fails."""
    with workplace() as folder:
        done = subprocess.run(
            [node(), "two_factor_client.mjs", base_url, codes], cwd=folder, env=plain_environment(),
            capture_output=True, encoding="utf-8", timeout=SECONDS,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr.strip()[-2000:]}")
    entries: list[dict[str, Any]] = json.loads(done.stdout)
    return entries


if __name__ == "__main__":
    with running("T") as server:
        print(json.dumps({"source": NOTE, "transcript": transcript(server.base_url)}, indent=1, ensure_ascii=False))
