"""Strict nbval over all notebooks, with the project's own options, against as many notebooks with one empty cell.

The floor is what pytest, its workers and the kernels cost before anything is learnt. Both run on the cores that pytest
takes by itself. Below stands each notebook's own time in the same runs: its cells and the start of its kernel, while
another notebook ran beside it.
"""

import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import nbformat
from measure import ROOT, Failed, Row, Sample, at_least_one, main, parser, run, show, take_all

PACKAGES = ["pytest", "nbval", "pytest-xdist", "ipykernel"]
AIM = 3  # times the floor
TIMEOUT = 900  # seconds for one run over all notebooks
PASSED, TESTS_FAILED = 0, 1  # pytest's exit codes


class Suite:
    """pytest over the notebooks below `folder`. `own`: each one's seconds, run by run; `failed`: each one's cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own: dict[str, list[float]] = defaultdict(list)
        self.failed: Counter[str] = Counter()

    def notebooks(self) -> list[Path]:
        return [p for p in sorted(self.folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]

    def take(self) -> Sample:
        with tempfile.TemporaryDirectory(prefix="playbook-bench-") as folder:
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-q"]
            command += ["-p", "no:cacheprovider", f"--junitxml={report}", str(self.folder)]
            seconds, _ = run(command, timeout=TIMEOUT, codes=(PASSED, TESTS_FAILED))
            self._read(ElementTree.parse(report))
        return {"seconds": seconds}

    def _read(self, report: "ElementTree.ElementTree[ElementTree.Element]") -> None:
        own: Counter[str] = Counter()
        self.failed.clear()
        for case in report.iter("testcase"):
            name = case.attrib["classname"].removesuffix(".ipynb").removeprefix("notebooks.").replace(".", "/")
            own[name] += float(case.attrib["time"])  # of the set-up too, which starts the kernel
            self.failed[name] += any(case.find(outcome) is not None for outcome in ("failure", "error"))
        for name, seconds in own.items():
            self.own[name].append(seconds)


def make_empty(folder: Path, count: int) -> None:
    """`count` executed notebooks with one cell that does nothing."""
    for number in range(count):
        cell = nbformat.v4.new_code_cell("pass", execution_count=1)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"empty_{number}.ipynb")


def work() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=at_least_one, default=1, help="over all notebooks (default: 1)")
    chosen = arguments.parse_args()
    course = Suite(ROOT / "notebooks")
    count = len(course.notebooks())
    if not count:
        raise Failed("there are no notebooks: `playbook refresh` makes them")
    with tempfile.TemporaryDirectory(prefix="playbook-bench-") as folder:
        make_empty(Path(folder), count)
        empty = Suite(Path(folder))
        floor = Row(f"floor: {count} empty notebooks", empty.take)
        whole = Row(f"all {count} notebooks", course.take, floor, aim_ratio=AIM)
        take_all([floor, whole], 1 if chosen.quick else chosen.runs)
    one = Row("floor: an empty notebook", empty.take, group="each notebook's own time")
    one.samples = [{"seconds": seconds} for runs in empty.own.values() for seconds in runs]
    each = [one]
    for name, runs in sorted(course.own.items(), key=lambda item: -median(item[1])):
        row = Row(name, course.take, one, group=one.group)
        if failed := course.failed[name]:
            row.note = f"failed: {failed} {'cell' if failed == 1 else 'cells'}"
        row.samples = [{"seconds": seconds} for seconds in runs]
        each.append(row)
    show("Strict nbval", [floor, whole, *each], PACKAGES)


if __name__ == "__main__":
    main(work)
