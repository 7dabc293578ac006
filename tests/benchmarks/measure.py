"""What the benchmarks share: fresh processes, rounds, medians, and one table of ratios.

    python tests/benchmarks/bench_import.py [--quick]

A benchmark asserts nothing: it prints what it measured beside a named floor or peer and the aim, and the reader judges.
Everything is measured in a process of its own, because a second measurement in one process finds caches warm and
memory taken. The rounds are interleaved, because a machine that is busy for some seconds should be so for all rows.
"""

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

try:
    import resource
except ImportError:  # Windows counts memory in another way: the column stays empty there
    resource = None

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this clone is measured, also where another one is installed

from playbook.kit.running import cores, environment  # noqa: E402

PIPE_WIDTH = 160  # columns of a table that goes into a file
LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before the benchmark adds its own
TIMEOUT = 300  # seconds for one measurement
MB = 1_000_000  # bytes

Sample = dict[str, float]  # "seconds", and "mb" where memory was measured


# ---------------------------------------------------------------- in the measured process


def peak_mb() -> float:
    """The most memory this process has had in use so far, in MB; 0 where the system does not say."""
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


@contextmanager
def timed() -> Iterator[Sample]:
    """Fill in `seconds` for the block, and `mb`: by how much it raised the process's peak above what it began with."""
    sample: Sample = {}
    before, started = peak_mb(), time.perf_counter()
    yield sample
    sample["seconds"] = time.perf_counter() - started
    sample["mb"] = peak_mb() - before


# ---------------------------------------------------------------- in the measuring process


class Failed(Exception):
    """What should have been measured did not run."""


def run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    codes: Sequence[int] = (0,),  # the exit codes that mean it did its work
) -> tuple[float, str]:
    """Run `command` in the repository; wall-clock seconds and its output. Raises Failed when it fails or takes long."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = environment(None) | {"PYTHONPATH": path} | dict(env or {})
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"took longer than {timeout:.0f} s") from None
    seconds = time.perf_counter() - started
    if done.returncode not in codes:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Failed(f"exit code {done.returncode}, {reason}")
    return seconds, done.stdout


def fresh(function: Callable[..., Any], **arguments: Any) -> Any:
    """`function(**arguments)` in a fresh interpreter. Arguments and result pass as JSON."""
    module = Path(function.__code__.co_filename).stem  # `__module__` of a script is "__main__"
    call = [module, function.__name__, json.dumps(arguments)]
    return json.loads(run([sys.executable, str(Path(__file__)), *call])[1].splitlines()[-1])


@dataclass
class Row:
    """One line of the table. `take` measures once.

    `against` is the floor or the peer it is divided by. The aim is a ratio to that, or seconds. A sample is multiplied
    by `times`: the rows of the whole file divided by those of the part that was measured, say.
    """

    name: str
    take: Callable[[], Sample]
    against: "Row | None" = None
    aim_ratio: float | None = None
    aim_seconds: float | None = None
    times: float = 1
    note: str = ""
    group: str = ""  # the heading it stands below
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""  # why it could not be measured

    def seconds(self) -> list[float]:
        return [sample["seconds"] * self.times for sample in self.samples]


def take_all(rows: Sequence[Row], runs: int) -> None:
    """Measure all rows `runs` times, round by round. A row that fails is left out from then on. A bar shows the way."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=runs * len(rows))
        for _ in range(runs):
            for row in rows:
                progress.update(task, description=row.name)
                try:
                    if not row.failure:
                        row.samples.append(row.take())
                except Failed as error:
                    row.failure = str(error)
                progress.advance(task)


def show(title: str, rows: Sequence[Row], packages: Sequence[str], remarks: Sequence[str] = ()) -> None:
    """Print the machine in a line, and the table: medians, the range of the runs, the ratios, the aims.

    Raises Failed, below the table, when a row could not be measured.
    """
    memory = any(sample.get("mb") for row in rows for sample in row.samples)
    notes = any(row.note for row in rows)
    left, right = ["measured", "against", "aim", "note"], ["median", "lowest to highest", "runs", "ratio", "peak MB"]
    headings = [left[0], *right[:4], *left[1:3], *right[4:] * memory, *left[3:] * notes]
    table = new_table(title, headings, right)
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(group, style="bold")
        table.add_row(*(_cells(row) + [""] * 7)[:7], *[_memory(row)] * memory, *[row.note] * notes)
    print_all(packages, table, remarks)
    if reasons := dict.fromkeys(row.failure for row in rows if row.failure):
        raise Failed("; ".join(reasons))


def new_table(title: str, headings: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table; the columns `right` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading in right)
    return table


def print_all(packages: Sequence[str], table: Table, remarks: Sequence[str] = ()) -> None:
    """Print the machine in a line, the table, and what should be known about it."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)
    console.print(machine(packages), soft_wrap=True)
    console.print(table)
    for remark in remarks:
        console.print(remark, soft_wrap=True)


def _cells(row: Row) -> list[str]:
    seconds, base = row.seconds(), row.against.seconds() if row.against else []
    if not seconds:
        return [row.name, "not measured"]
    middle = median(seconds)
    span = f"{duration(min(seconds))} to {duration(max(seconds))}" if len(seconds) > 1 else ""
    ratio = middle / median(base) if base else None
    shown = "" if ratio is None else f"{ratio:.3g}x" if ratio < 1000 else f"{ratio:,.0f}x"
    aims = []
    if ratio is not None and row.aim_ratio is not None:
        aims.append((f"at most {row.aim_ratio:g}x", ratio <= row.aim_ratio))
    if row.aim_seconds is not None:
        aims.append((f"at most {duration(row.aim_seconds)}", middle <= row.aim_seconds))
    aim = ", ".join(f"{text}: {'met' if met else 'missed'}" for text, met in aims)
    runs = str(len(seconds))
    return [row.name, duration(middle), span, runs, shown, row.against.name if row.against else "", aim]


def _memory(row: Row) -> str:
    megabytes = [sample["mb"] for sample in row.samples if resource and "mb" in sample]
    return f"{median(megabytes):,.0f}" if megabytes else ""


def duration(seconds: float) -> str:
    """`3.5 ms`, `170 ms`, `2.31 s`, `12 min`."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 300 else f"{seconds / 60:,.0f} min"


def machine(packages: Sequence[str]) -> str:
    """What the numbers depend on, in one line. Load: how many programs ran at a time in the minute before."""
    parts = [f"{cores()} cores", f"{platform.system()} {platform.machine()}"]
    parts += [f"{platform.python_implementation()} {platform.python_version()}"]
    parts += [f"{package} {version(package)}" for package in packages]
    return ", ".join(parts if LOAD is None else [*parts, f"load {LOAD:.1f} at the start"])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (`{self.prog} --help` shows what there is)\n")


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with the option every benchmark has. `text` is the benchmark's docstring."""
    made = _Parser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="less input and fewer runs")
    return made


def at_least_one(text: str) -> int:
    """The type of an option that counts: rows, runs, seconds."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def main(work: Callable[[], None]) -> None:
    """Run a benchmark. What could not be measured is one line and exit code 1; bad input is exit code 2."""
    from playbook.kit.errors import InputError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and temporary folders go, too
    try:
        work()
    except Failed as error:
        sys.exit(f"not measured: {error}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":  # `fresh` runs this file
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(arguments))))
