"""Every page keeps the rules of `playbook check`. That each rule can fail is proven in `tests/kit/test_check.py`."""

from collections.abc import Callable

import pytest

from playbook.kit import check
from playbook.kit.course import Course, Playbook


@pytest.mark.parametrize("rule", check.PAGE_RULES, ids=lambda rule: rule.__name__)
def test_pages_keep_the_rule(pair: Playbook, rule: Callable[[Playbook], list[str]]) -> None:
    assert rule(pair) == []


@pytest.mark.parametrize("rule", check.COURSE_RULES, ids=lambda rule: rule.__name__)
def test_the_course_keeps_the_rule(rule: Callable[[Course], list[str]]) -> None:
    assert rule(Course()) == []


def test_nothing_else_is_found() -> None:
    """What `playbook check` prints is what is tested above: a rule in neither list would be held by nobody."""
    assert check.findings(Course()) == []
    assert check.drift(Course()) == []
