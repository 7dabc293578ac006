"""Every term of the glossary is explained or linked where a page first uses it; the glossary's page is up to date."""

from playbook.kit import glossary
from playbook.kit.course import Course
from playbook.kit.data import ROOT


def test_no_page_uses_a_term_before_it_is_explained_or_linked() -> None:
    assert glossary.findings(Course()) == []


def test_the_page_is_what_the_list_says() -> None:
    assert glossary.outdated(Course()) == []
    page = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    assert "\n### lost update\n" in page


def test_there_are_terms_enough_to_look_up_and_few_enough_to_read() -> None:
    assert 60 <= len(glossary.terms(Course())) <= 130


def test_what_must_be_there_is_there() -> None:
    spelled = {text for term in glossary.terms(Course()) for text in (term.term, *term.also)}
    wanted = (
        "lost update, write skew, isolation level, keyset, cursor, ETag, idempotent, CSRF, origin, HMAC, salt, token"
    )
    assert set(wanted.split(", ")) <= spelled
