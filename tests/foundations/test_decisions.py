"""Records are read from pages as they stand, and the smallest change that matters is really the smallest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.foundations.decisions import decisions_in, flip, weigh

PAGE = """# Title

## The decision

| option | good | costs |
|---|---|---|
| a queue | decoupled | one more thing to run |
| **a table** | there already | polling |

We take the **table**. Choose a queue when two services consume.

## See it break

| option | good | costs |
|---|---|---|
| not | a | decision |
"""

weights = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)


def test_reads_options_choice_and_condition() -> None:
    (decision,) = decisions_in(PAGE, "queues")
    assert (decision.page, decision.choice, len(decision.options)) == ("queues", "a table", 2)
    assert decision.otherwise == "Choose a queue when two services consume."
    assert decision.faults() == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("**a table**", "a table", "no option is set in bold"),
        ("| polling |", "|  |", "without costs"),
        ("| a queue | decoupled | one more thing to run |\n", "", "1 options"),
        ("Choose a queue when two services consume.", "", "when to choose otherwise"),
    ],
)
def test_says_what_a_record_lacks(old: str, new: str, fault: str) -> None:
    (decision,) = decisions_in(PAGE.replace(old, new), "queues")
    assert any(fault in found for found in decision.faults())


def test_a_page_without_the_section_has_no_decision() -> None:
    assert decisions_in("# Title\n\n| option | good | costs |\n", "x") == []


@given(weights, st.data())
def test_a_smaller_change_than_the_flip_changes_no_winner(weights: dict[str, int], data: st.DataObject) -> None:
    points = {o: {c: data.draw(st.integers(1, 5)) for c in weights} for o in ("x", "y", "z")}
    (winner, best), (_, second), *_ = weigh(weights, points)
    found = flip(weights, points)
    if found is None or best == second:
        return
    for criterion in weights:
        for share in (-0.999, -0.5, 0.5, 0.999):
            changed = {**weights, criterion: weights[criterion] + abs(found.change) * share}
            assert changed[criterion] < 0 or weigh(changed, points)[0][0] == winner
    over = {**weights, found.criterion: weights[found.criterion] + found.change * 1.001}
    if over[found.criterion] >= 0:
        assert weigh(over, points)[0][0] != winner


def test_missing_points_are_named() -> None:
    with pytest.raises(ValueError, match="b has no points for speed"):
        weigh({"speed": 1}, {"a": {"speed": 1}, "b": {}})
