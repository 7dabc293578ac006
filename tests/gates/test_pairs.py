"""Text and stored notebook say the same, cell by cell; the notebook was run whole, and holds nothing that varies.

Proven able to fail by `test_sabotage.py`, and function by function by `tests/kit/test_pairing.py`.
"""

import json
import re
from typing import Any

import nbformat
import pytest

from playbook.kit import pairing
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT

OUTPUT_BYTES = 200_000  # of a notebook: outputs are to be read in a diff
NOT_COMPARED = 3  # cells of the whole course whose output nbval may ignore, because they measure time
# What makes nbval compare less. `nbval-ignore-output` is the one that is counted; the others hide failures.
IGNORED = re.compile(r"nbval[-_]ignore[-_]output|pytest_validate_ignore_output", re.I)
HIDDEN = re.compile(r"nbval[-_](?:skip|raises[-_]exception|check[-_]output)|raises-exception|skip-execution", re.I)
# Facts are printed, not what differs from run to run: addresses in memory, ports, temporary files, process folders.
VARIES = re.compile(
    r"0x[0-9a-f]{8,}|(?:127\.0\.0\.1|localhost):(?:3[3-9]|[45]\d|6[0-5])\d{3}\b|ipykernel_\d+"
    r"|playbook-(?:pg-)?(?=[a-z]*[0-9_])[a-z0-9_]{8}\b"
)


def notebook(pair: Playbook) -> Any:
    return pairing.read_notebook(pair)


def outputs(pair: Playbook) -> list[tuple[str, Any]]:
    return [(cell.id, o) for cell in notebook(pair).cells if cell.cell_type == "code" for o in cell.outputs]


def test_cell_by_cell_the_notebook_is_the_text(pair: Playbook) -> None:
    assert pairing.differences(pair) == []
    text, stored = pairing.from_text(pair).cells, notebook(pair).cells
    assert len(text) == len(stored)
    for ours, theirs in zip(text, stored, strict=True):
        for part in ("cell_type", "source", "metadata", "id"):
            assert theirs[part] == ours[part], f"cell {theirs.id}: run `playbook refresh {pair.name}`"


def test_the_notebook_written_as_text_is_the_text(pair: Playbook) -> None:
    """So saving in JupyterLab, or `--from-notebook`, changes only what was edited."""
    written = pairing.to_text(notebook(pair))
    assert written == pair.source, f"blank lines between cells: run `playbook refresh --from-notebook {pair.name}`"


def test_every_code_cell_was_run_in_order(pair: Playbook) -> None:
    """nbval compares nothing for a cell that was never run."""
    counts = [cell.execution_count for cell in notebook(pair).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), f"run `playbook refresh {pair.name}`"


def test_the_notebook_is_valid_and_in_the_form_that_is_kept(pair: Playbook) -> None:
    raw = pair.notebook.read_text(encoding="utf-8")
    nbformat.validate(json.loads(raw))
    assert notebook(pair).metadata == {"kernelspec": pairing.KERNELSPEC}
    assert pairing.dumps(notebook(pair)) == raw, f"another tool wrote it: run `playbook refresh {pair.name}`"


def test_outputs_hold_no_error_and_nothing_on_standard_error(pair: Playbook) -> None:
    for cell, output in outputs(pair):
        assert output.output_type != "error", f"cell {cell}"
        assert output.get("name") != "stderr", f"cell {cell} wrote to standard error: {output.text[:200]}"


def test_outputs_show_nothing_that_varies(pair: Playbook) -> None:
    for cell, output in outputs(pair):
        found = VARIES.search(json.dumps(output))
        assert not found, f"cell {cell} shows {found and found[0]!r}"


def test_outputs_are_small(pair: Playbook) -> None:
    size = sum(len(json.dumps(output)) for _, output in outputs(pair))
    assert size < OUTPUT_BYTES, f"{size:,} bytes of output: show less"


def test_no_cell_hides_from_the_comparison(pair: Playbook) -> None:
    for cell in notebook(pair).cells:
        if cell.cell_type == "code":
            marks = " ".join([*cell.metadata.get("tags", ()), *re.findall(r"^\s*#.*$", cell.source, re.M)])
            assert not HIDDEN.search(marks), f"cell {cell.id}"


def test_few_cells_are_left_out_of_the_comparison() -> None:
    ignored = [
        f"{pair.key}: {cell.id}"
        for pair in Course().pairs
        for cell in notebook(pair).cells
        if cell.cell_type == "code" and IGNORED.search(" ".join(cell.metadata.get("tags", ())) + cell.source)
    ]
    assert len(ignored) <= NOT_COMPARED, ignored


def test_every_notebook_has_a_text() -> None:
    known = {pair.notebook for pair in Course().pairs}
    found = {path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert sorted(found - known) == []


@pytest.mark.parametrize(
    "shown",
    ["<function f at 0x7f2d08753c60>", "http://127.0.0.1:43210/x", "/tmp/ipykernel_77/1.py", "playbook-0gs1prz7"],
)
def test_what_varies_is_recognised(shown: str) -> None:
    assert VARIES.search(shown)


@pytest.mark.parametrize("shown", ["0x1F", "127.0.0.1", "http://localhost:8000", "at 12:30", "playbook-postgres"])
def test_what_does_not_vary_is_let_through(shown: str) -> None:
    assert not VARIES.search(shown)
