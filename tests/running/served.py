"""`playbook serve` as a process, for the tests of the server: where it listens, and what it has logged."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import forked

DEADLINE = 120  # seconds: for what takes a moment on a machine that is not busy


@dataclass
class Served:
    """A running `playbook serve`. Its output goes to a file, so that no pipe fills up."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def logged(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in the log. Fails when the process ends before."""
        until = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.logged)):
            assert self.process.poll() is None, self.logged
            assert time.monotonic() < until, self.logged
            time.sleep(0.05)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code, after one signal."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def served(folder: Path, files: int | None = None, ready: bool = True, **environ: str) -> Iterator[Served]:
    """`playbook serve` on DuckDB in `folder`; it may open `files` files."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PANTRY_", "DATABASE_URL"))}
    given = {"DATABASE_URL": f"duckdb:///{folder}/pantry.duckdb", "PANTRY_MAIL_URL": f"file:{folder}/mail.jsonl"}
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # type: ignore[arg-type]

    log = folder / "serve.log"
    with log.open("wb") as out:
        environ = ours | given | environ
        limited = limit if files is not None else None
        process = forked.Popen(command, env=environ, stdout=out, stderr=out, preexec_fn=limited)
    try:
        server = Served(process, log)
        if ready:
            server.port = int(server.wait_for(r"Pantry at http://127\.0\.0\.1:(\d+)")[1])
            server.wait_for("Application startup complete")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE)
