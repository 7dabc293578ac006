"""Every notebook can be run twice in one kernel, and shows the same on another machine: `SecondRun` in conftest.py.

It stands behind the cells of each notebook. Here it is seen to fail.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import forked
import nbformat
import pytest

from playbook.kit import pairing
from playbook.kit.course import Course
from playbook.kit.data import ROOT

# What varies from machine to machine: stored as it is here, each of these shows something else there.
VARIES = {
    "zone": "import time; print(time.timezone)",
    "sets": "print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))",
    "locale": "import locale; print(locale.setlocale(locale.LC_ALL, ''))",
}


def write(path: Path, *cells: tuple[str, str], shown: str = "") -> None:
    """A notebook of these sources and what is stored: printed, and then `shown`."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": pairing.KERNELSPEC})
    for number, (source, text) in enumerate(cells, 1):
        output = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        if shown:
            output.append(nbformat.v4.new_output("display_data", {"text/plain": shown}))
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=number, outputs=output))
    nbformat.write(notebook, path)


def here(source: str) -> str:
    env = os.environ | {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    return subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """nbval with our conftest.py over the notebooks: what each item of each says, "" when it passed."""
    folder = tmp_path_factory.mktemp("twice")
    shutil.copy(ROOT / "conftest.py", folder)
    write(folder / "right.ipynb", ("made = globals().get('made', 0) + 1", ""), ("print('once')", "once\n"))
    write(folder / "once.ipynb", ("assert 'made' not in globals(), 'made already'", ""), ("made = True", ""))
    write(folder / "order.ipynb", ("display(1)\nprint('a')", "a\n"), shown="1")
    for name, source in VARIES.items():
        write(folder / f"{name}.ipynb", (source, here(source)))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # the kernels are forks, as those of the real notebooks
    env = kept | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ("-p", "nbval.plugin", "-p", "xdist.plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, "--nbval", "--nbval-current-env", "-q", "--junitxml=said.xml"]
    done = forked.run([*command, "."], 300, folder, env, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {path.stem: dict[str, str]() for path in folder.glob("*.ipynb")}
    for case in ElementTree.parse(folder / "said.xml").iter("testcase"):
        texts = "".join(part.text or "" for part in case)
        found[case.get("classname", "").removesuffix(".ipynb")][case.get("name", "")] = texts
    return found


def test_a_notebook_that_is_right(said: dict[str, dict[str, str]]) -> None:
    assert said["right"] == {"Cell 0": "", "Cell 1": "", "second_run": ""}


def test_a_cell_that_only_works_once_is_noticed(said: dict[str, dict[str, str]]) -> None:
    assert said["once"].keys() == {"Cell 0", "Cell 1", "second_run"}
    assert said["once"]["Cell 0"] == said["once"]["Cell 1"] == ""
    assert "cell 0 cannot be run twice in one kernel" in said["once"]["second_run"]


def test_what_nbval_does_not_compare_is_noticed(said: dict[str, dict[str, str]]) -> None:
    """The order of what was shown and what was printed."""
    assert said["order"]["Cell 0"] == ""
    assert "Cell 0 shows something else on another machine" in said["order"]["second_run"]


@pytest.mark.parametrize("what", VARIES)
def test_another_machine_is_really_there(what: str, said: dict[str, dict[str, str]]) -> None:
    assert said[what]["Cell 0"]


def test_each_notebook_has_a_second_run() -> None:
    """Also the landing page; and it is the last of its notebook."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "notebooks"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = forked.run(command, 300, ROOT, env, text=True)
    last: dict[str, str] = {}
    for path, name in re.findall(r"^notebooks/(\S+)\.ipynb::(.+)$", done.stdout, re.M):
        last[path] = name
    assert last == {page.key: "second_run" for page in Course().pairs}
