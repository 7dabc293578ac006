"""Every page keeps the rules of `playbook check`. That each rule can fail is proven in `tests/kit/test_check.py`."""

from collections.abc import Callable

import pytest

from playbook.kit import check, pairing
from playbook.kit.course import Course, Playbook


@pytest.mark.parametrize("rule", check.PAGE_RULES, ids=lambda rule: rule.__name__)
def test_pages_keep_the_rule(pair: Playbook, rule: Callable[[Playbook], list[str]]) -> None:
    assert rule(pair) == []


@pytest.mark.parametrize("rule", check.COURSE_RULES, ids=lambda rule: rule.__name__)
def test_the_course_keeps_the_rule(rule: Callable[[Course], list[str]]) -> None:
    assert rule(Course()) == []


def test_nothing_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `playbook check` prints is what is tested above: a rule in neither list would be held by nobody."""
    course = Course()
    monkeypatch.setattr(check, "PAGE_RULES", [lambda page: [page.key]])
    monkeypatch.setattr(check, "COURSE_RULES", [lambda whole: [str(whole is course)]])
    assert check.findings(course) == [*(page.key for page in course.pairs), "True"]


def test_nothing_else_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each text and notebook differ in is tested in `test_pairs.py`."""
    monkeypatch.setattr(pairing, "differences", lambda page: [page.key])
    assert check.drift(Course()) == [page.key for page in Course().pairs]
