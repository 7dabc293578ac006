"""The numbers of a page, as they were counted by hand and by the tool that the budget was decided with."""

import json
from pathlib import Path
from typing import Any

import pytest

from playbook.kit import budget

# Two pages in the form that the budget was made for, with their outputs emptied: what their authors measured.
MEASURED = {
    "pagination": {"words": 975, "lines": 149, "tokens": 1390, "longest": 19, "gap": 26, "shown": 76, "minutes": 33},
    "sessions": {"words": 1194, "lines": 158, "tokens": 1577, "longest": 22, "gap": 27, "shown": 60, "minutes": 35},
}
STAGE = {"pagination": 60, "sessions": 53}


def cells_of(page: str) -> list[Any]:
    return json.loads((Path(__file__).parent / f"measured_{page}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", MEASURED)
def test_the_numbers_are_those_that_were_measured(page: str) -> None:
    found = budget.measure(cells_of(page))
    assert {name: getattr(found, name) for name in MEASURED[page]} == MEASURED[page]
    assert found.over() == []
    stage = [c["source"] for c in cells_of(page) if "stage" in c["metadata"].get("tags", ())]
    assert sum(map(budget.code_lines, stage)) == STAGE[page] <= budget.STAGE_LINES


def test_the_longest_cell_is_found() -> None:
    cells = cells_of("pagination")
    found = budget.measure(cells)
    assert budget.code_lines(cells[found.longest_at]["source"]) == 19


def code(source: str, *tags: str, shows: bool = False, **metadata: Any) -> dict[str, Any]:
    outputs = [{"output_type": "stream"}] if shows else []
    return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags), **metadata}, "outputs": outputs}


def prose(source: str, *tags: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {"tags": list(tags)}}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("One two, three.", 3),
        ("It's a read-only `not = counted` row", 4),
        ("[a link](https://not.counted/at-all)", 2),
        ("before\n```python\nnot counted\n```\nafter", 2),
        ("2 numbers and 3 more", 3),
        ("| a | b |\n|---|---|", 2),
    ],
)
def test_words(source: str, words: int) -> None:
    assert budget.prose_words(source) == words
    assert budget.measure([prose(source)]).words == words
    assert budget.measure([prose(source, "nav")]).words == 0, "generated cells are not read"


def test_what_is_folded_is_not_counted_and_an_output_ends_a_run() -> None:
    found = budget.measure(
        [
            code("a = 1\n\nb = 2"),
            code("hidden = 3\n" * 50, "stage"),
            code("c = 3"),
            code("hidden = 3\n" * 50, jupyter={"source_hidden": True}, shows=True),
            code("d = 4\ne = 5", shows=True),
            code("   \n"),
            code("f = 6", shows=True),
        ]
    )
    assert (found.lines, found.tokens, found.longest, found.cells) == (6, 18, 2, 4)
    assert (found.gap, found.gap_at, found.shown) == (3, 2, 50)
    assert found.minutes == round(6 / 8 + 3 / 2)


def test_the_exercise_is_no_reading_time() -> None:
    exercise = [prose("## Your turn\n\nGo."), code("x = 1\n" * 40, "exercise", shows=True), prose("## In short")]
    found = budget.measure([*exercise, code("y = 1", shows=True)])
    assert (found.lines, found.cells, found.words) == (1, 1, 5)


def test_a_number_outside_is_named() -> None:
    lines = "x = 1\n" * 170
    found = budget.measure([prose("word " * 1300), code(lines), code("y = 2", shows=True)])
    assert set(found.over()) == {"words", "lines", "longest", "gap", "shown"}
    assert set(budget.CURE) == set(budget.AT_MOST) | set(budget.AT_LEAST)


@pytest.mark.parametrize("name", [*budget.AT_MOST, *budget.AT_LEAST])
def test_each_number_has_its_own_limit(name: str) -> None:
    inside = dict.fromkeys(budget.NAMES, 0) | budget.AT_MOST | budget.AT_LEAST
    assert budget.Measure(**inside, longest_at=0, gap_at=0).over() == []
    outside = inside | {name: inside[name] + (1 if name in budget.AT_MOST else -1)}
    assert budget.Measure(**outside, longest_at=0, gap_at=0).over() == [name]
