"""Every notebook can be run twice in one kernel, as readers do, and shows the same on another machine.

The first run happens in another time zone, language and hash order than the stored one, and must show what is stored;
the second run must raise nothing.
"""

import os
import subprocess
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from playbook.kit import pairing
from playbook.kit.course import Playbook
from tests.gates.test_pairs import IGNORED

# Fourteen hours ahead of UTC, where the date is another one; a locale without UTF-8; an order of sets never stored.
ELSEWHERE = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "20261"}


def run_twice(cells: list[Any], folder: str) -> list[Any]:
    """The code cells, run from top to bottom and then once more in the same kernel; both runs, one after the other."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": pairing.KERNELSPEC})
    notebook.cells = [nbformat.v4.new_code_cell(cell.source) for _ in range(2) for cell in cells]
    client = NotebookClient(
        notebook,
        timeout=pairing.CELL_SECONDS,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )
    client.execute(env=os.environ | ELSEWHERE, stderr=subprocess.DEVNULL)
    return list(notebook.cells)


def shown(cell: Any) -> list[dict[str, Any]]:
    """A cell's outputs without their numbers."""
    return [{k: v for k, v in output.items() if k != "execution_count"} for output in cell.outputs]


def test_twice_in_one_kernel(pair: Playbook, packaged_server_for: Callable[[Playbook], None]) -> None:
    packaged_server_for(pair)
    stored = [cell for cell in pairing.read_notebook(pair).cells if cell.cell_type == "code" and cell.source.strip()]
    try:
        ran = run_twice(stored, str(pair.notebook.parent))
    except CellExecutionError as error:
        pytest.fail(f"a cell failed: {error}")
    assert len(ran) == 2 * len(stored)
    for expected, cell in zip(stored, ran, strict=False):
        if IGNORED.search(" ".join(expected.metadata.get("tags", ()))):
            continue  # it shows times; nbval does not compare it, either
        assert shown(cell) == shown(expected), f"cell {expected.id} shows something else on another machine"


def cell(source: str) -> Any:
    return nbformat.v4.new_code_cell(source)


def test_a_cell_that_only_works_once_is_noticed(tmp_path: Any) -> None:
    with pytest.raises(CellExecutionError, match="made already"):
        run_twice([cell("assert 'made' not in globals(), 'made already'"), cell("made = True")], str(tmp_path))


def test_another_zone_and_hash_order_are_really_there(tmp_path: Any) -> None:
    source = "import time, sys\nprint(time.timezone // 3600, list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))"
    here = subprocess.run(
        ["python", "-c", source], env=os.environ | {"PYTHONHASHSEED": "0", "TZ": "UTC"}, capture_output=True, text=True
    ).stdout
    first, second = (cell.outputs[0].text for cell in run_twice([cell(source)], str(tmp_path)))
    assert first == second != here
    assert first.startswith("-14 ")
