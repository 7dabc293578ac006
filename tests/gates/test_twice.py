"""Every notebook can be run twice in one kernel, and shows the same on another machine: `SecondRun` in conftest.py.

It stands behind the cells of each notebook. Here it is seen to fail.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import nbformat
import pytest

from playbook.kit import pairing
from playbook.kit.course import Course
from playbook.kit.data import ROOT


def run(folder: Path, *cells: tuple[str, str], shown: str = "") -> tuple[int, str]:
    """nbval with our conftest.py over a notebook of these sources and what is stored: printed, and then `shown`."""
    shutil.copy(ROOT / "conftest.py", folder)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": pairing.KERNELSPEC})
    for number, (source, text) in enumerate(cells, 1):
        output = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        if shown:
            output.append(nbformat.v4.new_output("display_data", {"text/plain": shown}))
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=number, outputs=output))
    nbformat.write(notebook, folder / "page.ipynb")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # the kernels are forks, as those of the real notebooks
    env = kept | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ("-p", "nbval.plugin", "-p", "xdist.plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, "--nbval", "--nbval-current-env", "-q"]
    done = forked.run([*command, "page.ipynb"], 300, folder, env, text=True)
    return done.returncode, done.stdout


def test_a_notebook_that_is_right(tmp_path: Path) -> None:
    code, said = run(tmp_path, ("made = globals().get('made', 0) + 1", ""), ("print('once')", "once\n"))
    assert (code, "3 passed" in said) == (0, True), said


def test_a_cell_that_only_works_once_is_noticed(tmp_path: Path) -> None:
    code, said = run(tmp_path, ("assert 'made' not in globals(), 'made already'", ""), ("made = True", ""))
    assert code == 1
    assert "cell 0 cannot be run twice in one kernel" in said
    assert re.search(r"^FAILED .*second_run", said, re.M), said
    assert "1 failed, 2 passed" in said


def test_what_nbval_does_not_compare_is_noticed(tmp_path: Path) -> None:
    """The order of what was shown and what was printed."""
    code, said = run(tmp_path, ("display(1)\nprint('a')", "a\n"), shown="1")
    assert (code, "1 failed, 1 passed" in said) == (1, True), said
    assert "Cell 0 shows something else on another machine" in said


@pytest.mark.parametrize(
    "source",
    [
        "import time; print(time.timezone)",
        "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))",
        "import locale; print(locale.setlocale(locale.LC_ALL, ''))",
    ],
    ids=["zone", "order of sets", "locale"],
)
def test_another_machine_is_really_there(tmp_path: Path, source: str) -> None:
    """Stored as it is here, each of these shows something else there."""
    here = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    stored = subprocess.run(
        [sys.executable, "-c", source], env=os.environ | here, capture_output=True, text=True, check=True
    ).stdout
    code, said = run(tmp_path, (source, stored))
    assert (code, "Cell 0" in said) == (1, True), said


def test_each_notebook_has_a_second_run() -> None:
    """Also the landing page; and it is the last of its notebook."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "notebooks"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = forked.run(command, 300, ROOT, env, text=True)
    last: dict[str, str] = {}
    for path, name in re.findall(r"^notebooks/(\S+)\.ipynb::(.+)$", done.stdout, re.M):
        last[path] = name
    assert last == {page.key: "second_run" for page in Course().pairs}
