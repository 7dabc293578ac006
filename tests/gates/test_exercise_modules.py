"""Each exercise refuses its wrong answers in words. That one can pass is proven in `tests/kit/test_breaks.py`."""

import pytest

from playbook.kit import answers
from playbook.kit.course import Course, Playbook

PAGES = [page for page in Course().playbooks if answers.place(page).is_file()]
WRONG = [(page, number) for page in PAGES for number in range(len(answers.load(page).wrong))]
WORDS = 5  # fewer help nobody
ACCIDENTS = ("NameError", "ImportError", "ModuleNotFoundError", "nothing is written yet")


@pytest.mark.parametrize(("page", "number"), WRONG, ids=[f"{page.key}-{number}" for page, number in WRONG])
def test_a_wrong_answer_is_refused_in_words(page: Playbook, number: int) -> None:
    wrong = answers.load(page).wrong[number]
    verdict = answers.verdict(page, wrong)
    where = f"playbook/exercises/{page.key}.py: WRONG[{number}]"
    assert not verdict, f"{where} is accepted"
    said = repr(verdict)
    assert said.startswith("not yet: "), f"{where}: {said!r}"
    assert len(said.split()) >= WORDS, f"{where}: {said!r} helps nobody"
    assert not any(accident in said for accident in ACCIDENTS), f"{where} was not tried: {said!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.key)
def test_what_is_refused_differs(page: Playbook) -> None:
    """Three answers with the same mistake are one."""
    assert len(set(answers.load(page).wrong)) >= answers.WRONG
