"""Break it tables are read, made and seen red; exercises outside of their pages are loaded and refuse wrong answers."""

from pathlib import Path

import new_page
import pytest
import small_course

from playbook.kit import answers, breaks
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError


@pytest.fixture
def page(tmp_path: Path) -> Playbook:
    return new_page.make(tmp_path / "course")


def again(page: Playbook) -> Playbook:
    return Course(page.root).get(page.key)


def test_the_rows_are_read_as_they_are_written(page: Playbook) -> None:
    rows = breaks.changes(page)
    assert [(row.old, row.new, row.words) for row in rows] == [
        ("self.low > self.high", "self.low > self.high + 15", "crossed bounds were accepted"),
        ("max(bounds.low, number)", "number", "a number is below its bound"),
        ("min(bounds.high, at_least_low)", "at_least_low", "101 stays above its bound"),
    ]
    assert [page.source.split("\n")[row.line - 1].startswith(f"| `{row.old}` |") for row in rows] == [True] * 3


def test_code_with_a_backtick_is_read_too(page: Playbook) -> None:
    small_course.replace(page, "| `number` | a number is", "| `` f`x` `` | a number is")
    assert breaks.changes(again(page))[1].new == "f`x`"


@pytest.mark.parametrize("heading", ["### Break it\n\nMake", "**Break it**. Make"])
def test_the_table_may_have_a_heading(page: Playbook, heading: str) -> None:
    small_course.replace(page, "**Break it.** Make", heading)
    assert len(breaks.changes(again(page))) == 3


def test_only_the_recipe_is_changed(page: Playbook) -> None:
    """The same text may stand in the prose, in the story and in the exercise."""
    small_course.replace(page, "The service does what it is asked.", "No `max(bounds.low, number)` yet.")
    page = again(page)
    changed = breaks.changed(page, breaks.changes(page)[1])
    wanted = page.source.replace("at_least_low = max(bounds.low, number)", "at_least_low = number")
    assert changed == wanted != page.source


@pytest.mark.parametrize("number", range(3))
def test_each_change_turns_its_assertion_red(page: Playbook, tmp_path: Path, number: int) -> None:
    change = breaks.changes(page)[number]
    before = page.text.read_bytes()
    assert breaks.run(page, change, tmp_path) == f"AssertionError: {change.words}"
    assert page.text.read_bytes() == before


def test_a_change_that_breaks_nothing_is_seen_and_so_is_one_that_breaks_something_else(
    page: Playbook, tmp_path: Path
) -> None:
    harmless = breaks.Change("at_least_low = max", "at_least_low = 0 + max", "a number is below its bound", 1)
    assert breaks.run(page, harmless, tmp_path) == ""
    other = breaks.Change("max(bounds.low, number)", "undefined", "a number is below its bound", 1)
    assert breaks.run(page, other, tmp_path) == "NameError: name 'undefined' is not defined"


def test_messages_with_values_match_what_they_become(page: Playbook) -> None:
    patterns = list(breaks.messages(page))
    assert any(pattern.fullmatch("7 stays above its bound") for pattern in patterns)
    assert not any(pattern.fullmatch("stays above its bound") for pattern in patterns)


# --- exercises ---


def test_the_exercise_is_loaded(page: Playbook) -> None:
    exercise = answers.load(page)
    assert len(exercise.hints) == 2
    assert len(exercise.wrong) == 3
    assert answers.call(page) == "check(outside)"


def test_wrong_answers_are_refused_and_a_right_one_passes(page: Playbook) -> None:
    for wrong in answers.load(page).wrong:
        verdict = answers.verdict(page, wrong)
        assert not verdict
        assert repr(verdict).startswith("not yet: ")
    assert answers.verdict(page, "def outside(number, bounds):\n    return abs(number - clamp(number, bounds))")


FAULTS = [  # (what is replaced in the module, by what, what is said)
    ("def check(", "def check_it(", "has no function `check`"),
    ("HINTS = (", "HINT = (", "has no tuple of texts HINTS"),
    ("HINTS = (", "HINTS = ('a third', ", "3 different texts in HINTS; write 2"),
    ("WRONG = (", "WRONG = sorted((", "not Python"),
    ('    "def outside(number, bounds):\\n    return 0",\n', "", "2 different texts in WRONG; write at least 3"),
    ('return 0"', 'return number - clamp(number, bounds)"', "2 different texts in WRONG"),
    ("WRONG = (", "WRONG = (1,", "has no tuple of texts WRONG"),
]


@pytest.mark.parametrize(("old", "new", "says"), FAULTS)
def test_a_module_without_the_form_is_found_and_not_loaded(page: Playbook, old: str, new: str, says: str) -> None:
    path = answers.place(page)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(says in f"{what}; {to_do}" for _, what, to_do in answers.faults(page)), answers.faults(page)
    with pytest.raises(InputError, match=r"^playbook/exercises/api/clamp\.py:\d+: .*; "):
        answers.load(page)


def test_a_page_without_its_module_is_found(page: Playbook) -> None:
    answers.place(page).unlink()
    [(line, what, to_do)] = answers.faults(page)
    assert (line, what) == (1, "does not exist")
    assert "three wrong answers" in to_do


def test_a_checker_that_is_none_is_found(page: Playbook) -> None:
    path = answers.place(page)
    path.write_text(path.read_text(encoding="utf-8").replace("@checker\n", ""), encoding="utf-8")
    with pytest.raises(InputError, match="`check` is no checker"):
        answers.verdict(page, answers.load(page).wrong[0])
