"""The list of pages that still have the form of before only becomes shorter."""

import re

import pytest

from playbook.kit.course import Course

# The pages that are left of the form of before. No name joins them; one that is written anew leaves here, too.
FROZEN = frozenset[str]()


def joined(listed: tuple[str, ...]) -> list[str]:
    """What is on the list and was not on that day, in words."""
    return [
        f"{key} joined old_form in playbook/course.toml; a new page has roles and a budget: take it from the list and "
        "mend what `playbook check` says"
        for key in listed
        if key not in FROZEN
    ]


def test_no_page_joins_the_old_form() -> None:
    assert joined(Course().old_form) == []


def test_the_list_names_each_page_once() -> None:
    assert len(set(Course().old_form)) == len(Course().old_form)


@pytest.mark.parametrize("key", ["api/cursors", "start_here"])
def test_a_page_that_joins_is_found(key: str) -> None:
    [line] = joined((*Course().old_form, key))
    assert re.match(rf"{key} joined old_form in playbook/course\.toml; .* take it from the list", line)


def test_a_rewritten_page_has_left() -> None:
    assert set(Course().old_form) == FROZEN, "take the pages that are written anew out of FROZEN"
