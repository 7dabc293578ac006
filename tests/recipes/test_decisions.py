"""Records are read from texts as they stand, and the smallest change of a weight is really the smallest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.foundations.decisions import Decision, decisions_in, faults, flip, weigh

OLD_FORM = '''# %% [markdown]
"""
# Title
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| a queue | decoupled | one more thing to run |
| **a table** | there already | polling |

We take the **table**. Choose a queue when two services
consume.
"""

# %% [markdown]
"""
## See it break

| option | good | costs |
|---|---|---|
| not | a | decision |
"""
'''
# Since pages have roles, the section stands behind the failure, in one cell with other sections.
NEW_FORM = '''# %% [markdown]
"""
## See it break

| option | good | costs |
|---|---|---|
| not | a | decision |
"""

# %% tags=["predict"]
print("## The decision")

# %% [markdown]
"""
Both messages came twice.

## The decision

| option | good | costs |
|---|---|---|
| a queue | decoupled | one more thing to run |
| **a table** | there already | polling |

We take the **table**. Choose a queue when two services
consume.

## Build it

Choose nothing for this one.

| option | good | costs |
|---|---|---|
| neither | a | decision |
"""
'''
PLAIN = "## The decision\n\n|option|good|costs|\n|:--|:--|:--|\n|**a**|b|c|\n|d|e|f|\n\nUse d if a fails.\n"
weights = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)


def one_of(text: str) -> Decision:
    [decision] = decisions_in(text, "queues")
    return decision


@pytest.mark.parametrize("text", [OLD_FORM, NEW_FORM], ids=["old", "new"])
def test_reads_options_choice_and_condition(text: str) -> None:
    decision = one_of(text)
    assert [option.name for option in decision.options] == ["a queue", "a table"]
    assert (decision.page, decision.choice) == ("queues", "a table")
    assert [option.costs for option in decision.options] == ["one more thing to run", "polling"]
    assert decision.otherwise == "Choose a queue when two services consume."
    assert faults(decision) == []


def test_plain_markdown_to_its_end() -> None:
    decision = one_of(PLAIN)
    assert [(o.name, o.good, o.costs, o.chosen) for o in decision.options] == [
        ("a", "b", "c", True),
        ("d", "e", "f", False),
    ]
    assert decision.otherwise == "Use d if a fails."


def test_each_table_is_a_decision_and_two_choices_are_both_named() -> None:
    second = "\n| option | good | costs |\n|---|---|---|\n| **x** | 1 | 2 |\n| **y** | 3 | 4 |\n\nUse"
    found = decisions_in(PLAIN.replace("\nUse", second), "p")
    assert [decision.choice for decision in found] == ["a", "x, y"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("**a table**", "a table", "no option is set in bold"),
        ("| polling |", "|  |", "a table has no costs"),
        ("| a queue | decoupled | one more thing to run |\n", "", "fewer than two options"),
        ("Choose a queue when two services\nconsume.", "", "no sentence 'Choose ... when ...'"),
        ("Choose a queue when two services\nconsume.", "Choose well.", "no sentence 'Choose ... when ...'"),
    ],
)
def test_says_what_a_record_lacks(old: str, new: str, fault: str) -> None:
    assert old in NEW_FORM
    [line] = faults(one_of(NEW_FORM.replace(old, new)))
    assert line.startswith(f"queues: {fault}")


def test_a_table_of_something_else_is_no_decision() -> None:
    """A comparison of four columns beside the options, before or after them."""
    other = "\n| framework | HEAD | OPTIONS | Allow |\n|---|---|---|---|\n| Flask | yes | yes | yes |\n\n"
    named = "|option for a change|"
    assert len(decisions_in(PLAIN.replace("|option|", named), "p")) == 1
    for text in (PLAIN.replace("\nUse", other + "Use"), PLAIN.replace("|option", other.lstrip() + "|option", 1)):
        decision = one_of(text)
        assert [option.name for option in decision.options] == ["a", "d"]
        assert decision.otherwise == "Use d if a fails."


def test_a_text_without_the_section_has_no_decision() -> None:
    assert decisions_in("# Title\n\n| option | good | costs |\n", "x") == []
    assert decisions_in(PLAIN.replace("## The", "### The"), "x") == [], "another level is another heading"


def test_the_sums_are_ordered_and_missing_points_are_named() -> None:
    assert weigh({"speed": 2, "cost": 1}, {"x": {"speed": 1, "cost": 1}, "y": {"speed": 2, "cost": 0}}) == [
        ("y", 4),
        ("x", 3),
    ]
    with pytest.raises(ValueError, match="b has no points for cost, speed"):
        weigh({"speed": 1, "cost": 1}, {"a": {"speed": 1, "cost": 2}, "b": {}})


@given(weights, st.data())
def test_a_smaller_change_than_the_flip_changes_no_winner(weights: dict[str, int], data: st.DataObject) -> None:
    points = {o: {c: data.draw(st.integers(1, 5)) for c in weights} for o in ("x", "y", "z")}
    (winner, best), (_, second), *_ = weigh(weights, points)
    found = flip(weights, points)
    if best == second:
        return
    if found is None:
        for criterion in weights:
            for weight in (0, 1_000_000):
                changed = weigh({**weights, criterion: weight}, points)
                assert winner in [option for option, total in changed if total == changed[0][1]]
        return
    for criterion, weight in weights.items():
        for share in (-0.999, -0.5, 0.5, 0.999):
            changed_weights = {**weights, criterion: weight + abs(found.change) * share}
            assert changed_weights[criterion] < 0 or weigh(changed_weights, points)[0][0] == winner
    over = {**weights, found.criterion: weights[found.criterion] + found.change * 1.001}
    if over[found.criterion] >= 0:
        assert weigh(over, points)[0][0] != winner


def test_no_change_is_needed_where_one_option_is_better_everywhere() -> None:
    assert flip({"speed": 1, "cost": 3}, {"x": {"speed": 2, "cost": 2}, "y": {"speed": 1, "cost": 1}}) is None
    assert flip({"speed": 1}, {"alone": {"speed": 2}}) is None
