"""Look-up: what a reader would type leads to the right page, the best first, and says why."""

from pathlib import Path

import pytest
import small_course

from playbook.kit import lookup
from playbook.kit.course import Course
from playbook.kit.errors import InputError


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """Four pages that say one word, "quota", in four places: title, topic, promise, body; and one that never does."""
    root = tmp_path / "course"
    small_course.start(root)
    body = small_course.add(root, "foundations/mentions", topics="things")
    small_course.replace(
        body, "The same number again.", "The same number again. A quota is a bound, and a quota helps."
    )
    promise = small_course.add(root, "foundations/promises", topics="lost, update")
    small_course.replace(promise, "Keep a number between its bounds,", "Keep a number below its quota,")
    small_course.add(
        root, "foundations/listed", topics="quota, token bucket, composite index, the lost update problem, pass"
    )
    titled = small_course.add(root, "foundations/quotas", topics="limits")
    assert titled.title == "Quotas"
    small_course.add(root, "api/others", topics="index")
    return Course(root)


def names(answer: lookup.Answer) -> list[str]:
    return [hit.playbook.name for hit in answer.found]


def test_prefers_a_title_to_a_topic_to_a_promise_to_a_mention(course: Course) -> None:
    assert names(lookup.find(course, "quota")) == ["quotas", "listed", "promises", "mentions"]


def test_says_where_the_word_stands(course: Course) -> None:
    where = {hit.playbook.name: hit.where for hit in lookup.find(course, "quota").found}
    assert where == {
        "quotas": ("title",),
        "listed": ('topic "quota"',),
        "promises": ("promise",),
        "mentions": ('text in "See it work"',),
    }


@pytest.mark.parametrize("query", ["quotas", "QUOTA", "quot", "what is the quota"])
def test_plurals_capitals_beginnings_and_fillers_make_no_difference(course: Course, query: str) -> None:
    assert names(lookup.find(course, query)) == ["quotas", "listed", "promises", "mentions"]


def test_a_word_is_better_than_a_word_it_begins(course: Course) -> None:
    listed = course.get("listed")
    small_course.replace(course.get("mentions"), "| things |", "| password |")
    assert names(lookup.find(Course(listed.root), "pass")) == ["listed", "mentions"]


def test_words_that_stand_together_beat_words_that_stand_apart(course: Course) -> None:
    assert names(lookup.find(course, "lost update")) == ["listed", "promises"]
    assert lookup.find(course, "lost update").found[0].where[0] == 'topic "the lost update problem"'
    assert names(lookup.find(course, "update lost")) == ["listed", "promises"]


def test_a_whole_topic_beats_a_part_of_one(course: Course) -> None:
    assert names(lookup.find(course, "index")) == ["others", "listed"]


def test_every_word_has_to_occur(course: Course) -> None:
    assert names(lookup.find(course, "quota bucket")) == ["listed"]


def test_where_no_page_has_all_words_the_nearest_are_given_and_it_is_said(course: Course) -> None:
    small_course.replace(course.get("others"), "| index |", "| zebra |")
    answer = lookup.find(Course(course.root), "quota zebra")
    assert set(names(answer)) == {"quotas", "listed", "promises", "mentions", "others"}
    assert all(hit.words == 1 for hit in answer.found)
    assert answer.hint == "no playbook has all of these words"


def test_a_misspelt_word_gets_a_suggestion(course: Course) -> None:
    answer = lookup.find(course, "qutoa")
    assert not answer.found
    assert answer.hint == "'qutoa' occurs nowhere: did you mean 'quota'?"


def test_among_equals_the_course_order_decides(course: Course) -> None:
    assert names(lookup.find(course, "keep a number whatever comes")) == [p.name for p in course.playbooks]


def test_sections_and_code_are_found(course: Course) -> None:
    assert lookup.find(course, "See it break").found[0].where == ('section "See it break"',)
    small_course.replace(course.get("others"), 'print("no database")', "frobnicate = 1\nprint(frobnicate)")
    assert lookup.find(Course(course.root), "frobnicate").found[0].where == ('code in "On PostgreSQL"',)


@pytest.mark.parametrize("query", ['"quota', "quota*", "quota AND", "(quota)", "NEAR(quota", "quota:"])
def test_what_the_search_engine_would_take_for_syntax_is_text(course: Course, query: str) -> None:
    lookup.find(course, query)


def test_a_query_without_a_word_is_refused(course: Course) -> None:
    with pytest.raises(InputError, match="nothing to look for"):
        lookup.find(course, "?!")


def test_every_topic_of_the_course_leads_to_its_playbook() -> None:
    """The promise to the reader: a topic on a card is found on the first page of answers."""
    course = Course()
    for playbook in course.playbooks:
        for topic in playbook.topics:
            assert playbook.name in names(lookup.find(course, topic))[:3], f"{topic!r} does not lead to {playbook.key}"
