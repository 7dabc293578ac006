"""The reader's stub is told what is wrong, and the solution, folded away, is executed and passes the checker."""

import re
from typing import Any

from playbook.kit import pairing
from playbook.kit.course import Playbook


def said(cells: list[Any]) -> list[str]:
    """The lines that cells printed, in order."""
    texts = [output.text for cell in cells for output in cell.get("outputs", ()) if output.output_type == "stream"]
    return "".join(texts).splitlines()


def split(lesson: Playbook) -> tuple[list[Any], Any]:
    """The cells from the exercise to the solution, and the solution."""
    cells = pairing.read_notebook(lesson).cells
    [start] = [i for i, cell in enumerate(cells) if "exercise" in cell.metadata.get("tags", ())]
    [end] = [i for i, cell in enumerate(cells) if "solution" in cell.metadata.get("tags", ())]
    assert start < end
    return cells[start:end], cells[end]


def test_the_stub_is_told_what_is_wrong(lesson: Playbook) -> None:
    before, _ = split(lesson)
    answers = [line for line in said(before) if line.startswith("not yet: ") or line == "right"]
    assert answers, "the checker was not called on the stub"
    assert all(answer.startswith("not yet: ") for answer in answers)
    assert len(answers[-1].split()) > 4, f"{answers[-1]!r} helps nobody"


def test_the_solution_passes_the_checker(lesson: Playbook) -> None:
    _, solution = split(lesson)
    assert said([solution])[-1:] == ["right"]
    assert solution.execution_count


def test_the_solution_is_folded_away(lesson: Playbook) -> None:
    _, solution = split(lesson)
    assert solution.metadata.get("jupyter") == {"source_hidden": True}


def test_stub_and_solution_go_through_the_same_checker(lesson: Playbook) -> None:
    """Otherwise the reader is asked for one thing and the solution shown for another."""
    before, solution = split(lesson)
    called = re.compile(r"^(?:assert )?(check\w*)\(", re.M)
    asked = {name for cell in before if cell.cell_type == "code" for name in called.findall(cell.source)}
    assert asked
    assert set(called.findall(solution.source)) <= asked
    assert called.search(solution.source.strip().splitlines()[-1])
