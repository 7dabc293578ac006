"""Run playbooks as scripts, several at a time, and say of one that fails which cell it was and why."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from playbook.kit import hook, pairing
from playbook.kit.course import Playbook

STOP_SECONDS = 30  # what an interrupted script gets to stop the servers it started


@dataclass(frozen=True)
class Failure:
    """Where a script failed. `number` counts code cells from 1, as a notebook does; `line` is the playbook's."""

    number: int
    cell: str  # its id in the notebook: "check-it-2"
    first_line: str  # of the cell's code
    line: int
    error: str  # "ValueError: ..."


@dataclass(frozen=True)
class Result:
    """One script's run: seconds, exit code, what it wrote, and where it failed, if that can be told."""

    playbook: Playbook
    seconds: float
    code: int
    output: str
    errors: str
    failure: Failure | None = None

    @property
    def passed(self) -> bool:
        return self.code == 0


def environment(database: str | None) -> dict[str, str]:
    """The environment of a script: nothing points Pantry elsewhere, unless `database` does; output is plain UTF-8."""
    env = pairing.clean_environment() | {"PYTHONIOENCODING": "utf-8", "PYTHON_COLORS": "0"}
    return env | ({"DATABASE_URL": database} if database else {})


def cores() -> int:
    """The processors this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Runner:
    """Runs scripts in subprocesses. Whatever ends it early also ends them."""

    def __init__(self, database: str | None = None) -> None:
        self.database = database
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, playbook: Playbook) -> Result:
        """Run one script in an empty temporary folder and wait for it. Raises InputError when there is no text."""
        _ = playbook.source  # says so in one line when the file is missing
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="playbook-run-", ignore_cleanup_errors=True) as folder:
            with self._lock:
                if self._stopped:
                    return Result(playbook, 0.0, 130, "", "")
                process = subprocess.Popen(
                    [sys.executable, str(playbook.text)],
                    cwd=folder,
                    env=environment(self.database),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                    # A group of its own: Ctrl-C reaches it once, through `stop`, and not again from the terminal
                    # while it stops its servers.
                    start_new_session=True,
                )
                self._running.add(process)
            output, errors = process.communicate()
        with self._lock:
            self._running.discard(process)
        seconds, code = time.perf_counter() - started, process.returncode
        failure = locate(playbook, errors) if code else None
        return Result(playbook, seconds, code, output, errors, failure)

    def stop(self) -> None:
        """Interrupt what runs, give it time to clean up, then kill it. Nothing starts afterwards."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def run_many(
    playbooks: Sequence[Playbook],
    jobs: int,
    database: str | None,
    report: Callable[[Result], None],
    begin: Callable[[str], None] = lambda key: None,
) -> list[Result]:
    """Run the scripts, `jobs` at a time; `begin` gets the key of each that starts, `report` each result as it comes.

    Returns all results, in the order given.
    """
    runner = Runner(database)

    def run(playbook: Playbook) -> Result:
        begin(playbook.key)
        return runner.run(playbook)

    results: dict[str, Result] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = [pool.submit(run, playbook) for playbook in playbooks]
        try:
            for future in as_completed(futures):
                result = future.result()
                results[result.playbook.key] = result
                report(result)
        except BaseException:
            for future in futures:
                future.cancel()
            runner.stop()
            raise
    return [results[playbook.key] for playbook in playbooks]


def locate(playbook: Playbook, errors: str) -> Failure | None:
    """The failing cell, from the traceback a script left on stderr; None when there is none."""
    path = re.escape(str(playbook.text))
    frames = re.findall(rf'File "{path}", line (\d+), in <module>', errors)
    frames = frames or re.findall(rf'File "{path}", line (\d+)$', errors, re.M)  # a syntax error has no frame
    if not frames:
        return None
    line = int(frames[-1])
    code = [cell for cell in hook.cells(playbook.source) if not cell.markdown]
    number = next((n for n, cell in enumerate(code, 1) if cell.start < line <= cell.stop), None)
    if number is None:
        return None
    lines = playbook.source.split("\n")[code[number - 1].start : code[number - 1].stop]
    first_line = next((text.strip() for text in lines if text.strip()), "")
    return Failure(number, _cell_id(playbook, number), first_line, line, error_line(errors))


def _cell_id(playbook: Playbook, number: int) -> str:
    cells = [cell for cell in pairing.from_text(playbook).cells if cell.cell_type == "code"]
    return str(cells[number - 1]["id"]) if number <= len(cells) else "?"


def error_line(errors: str) -> str:
    """`ValueError: ...` out of what a script left on stderr: the first line below its last traceback."""
    last = errors.rpartition("Traceback (most recent call last):")[2].splitlines()
    lines = [re.sub(r"^ *\| ", "", line) for line in last]  # the margin of an exception group
    below = [line for line in lines if re.match(r"(?:\w+\.)*\w+(?:$|: )", line)]
    return (below or [line.strip() for line in lines if line.strip()] or ["no error was shown"])[0]
