"""Look-up: what a reader would type leads to the right page, the best first, and says why."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import find_questions
import pytest
import small_course
from typer.testing import CliRunner

from playbook.kit import cli, lookup
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


def test_a_page_with_every_word_beats_a_better_place_of_one(course: Course) -> None:
    assert names(lookup.find(course, "quota bucket"))[0] == "listed"


def test_where_no_page_has_all_words_the_nearest_are_given_and_it_is_said(course: Course) -> None:
    small_course.replace(course.get("others"), "| index |", "| zebra |")
    answer = lookup.find(Course(course.root), "quota zebra")
    assert set(names(answer)) == {"quotas", "listed", "promises", "mentions", "others"}
    assert all(hit.words == 1 for hit in answer.found)
    assert answer.hint == "no page has all of these words"


def test_a_misspelt_word_gets_a_suggestion(course: Course) -> None:
    answer = lookup.find(course, "qutoa")
    assert not answer.found
    assert answer.hint == "'qutoa' occurs nowhere: did you mean 'quota' or 'quotas'?"


def test_among_equals_the_course_order_decides(course: Course) -> None:
    assert names(lookup.find(course, "keep a number whatever comes")) == [p.name for p in course.playbooks]


def test_the_target_of_a_link_is_not_text(course: Course) -> None:
    small_course.replace(
        course.get("others"), "The same number again.", "See [the fathom](../glossary.md#zebra-crossing)."
    )
    linked = Course(course.root)
    assert not lookup.find(linked, "zebra").found
    assert not lookup.find(linked, "glossary").found
    assert names(lookup.find(linked, "fathom")) == ["others"]


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


# ---------------------------------------------------------------- the course itself


@pytest.fixture(scope="module")
def index() -> Iterator[lookup.Index]:
    with lookup.Index(Course()) as index:
        yield index


def test_every_topic_of_the_course_leads_to_its_playbook(index: lookup.Index) -> None:
    """The promise to the reader: a topic on a card is found on the first page of answers."""
    for playbook in index.course.playbooks:
        for topic in playbook.topics:
            assert playbook.name in names(index.find(topic))[:3], f"{topic!r} does not lead to {playbook.key}"


@pytest.mark.parametrize("batch", ["NAMED", "HELD_OUT", "SECOND", "THIRD"])
def test_what_people_ask_leads_to_the_right_page(index: lookup.Index, batch: str) -> None:
    wrong = {}
    for query, pages in getattr(find_questions, batch).items():
        answer = index.find(query)
        if answer.not_yet or names(answer)[:1] not in [[page] for page in pages.split()]:
            wrong[query] = (answer.not_yet, names(answer)[:3])
    assert wrong == {}


@pytest.mark.parametrize("batch", ["NOT_YET", "NOT_YET_HELD_OUT"])
def test_what_the_course_has_not_is_said_with_the_nearest_page(index: lookup.Index, batch: str) -> None:
    wrong = {}
    for query, page in getattr(find_questions, batch).items():
        answer = index.find(query)
        if not answer.not_yet or names(answer)[:1] != [page]:
            wrong[query] = (answer.not_yet, names(answer)[:3])
    assert wrong == {}


def test_the_questions_are_many_and_those_held_out_are_not_the_courses_own(index: lookup.Index) -> None:
    held_out = {**find_questions.HELD_OUT, **find_questions.SECOND, **find_questions.THIRD}
    assert len(held_out) >= max(60, len(find_questions.NAMED))
    own = {question.casefold() for asked in index.course.questions.values() for question in asked}
    # One word, or a status with its name, cannot be said in other words.
    assert [q for q in held_out if q.casefold() in own and not re.match(r"\d{3} |\S+$", q)] == []


def test_every_page_has_questions_and_each_leads_to_it_first(index: lookup.Index) -> None:
    lacking = [p.name for p in index.course.playbooks if len(index.course.questions.get(p.name, ())) < 3]
    assert lacking == [], "add what people ask to [questions] in playbook/course.toml"
    wrong = {}
    for name, asked in index.course.questions.items():
        for question in (text.partition(" > ")[0] for text in asked):
            answer = index.find(question)
            if answer.not_yet or names(answer)[:1] != [name]:
                wrong[question] = (name, answer.not_yet, names(answer)[:2])
    assert wrong == {}


def test_a_question_may_name_the_section_which_exists(index: lookup.Index) -> None:
    best = index.find("code review").found[0]
    assert (best.playbook.name, best.section) == ("transactions", "Take it with you")
    for playbook in index.course.playbooks:
        named = {text.partition(" > ")[2] for text in index.course.questions[playbook.name]} - {""}
        assert named <= {*playbook.sections}, playbook.name


def test_no_question_stands_at_two_pages(index: lookup.Index) -> None:
    asked = [question.casefold() for asked in index.course.questions.values() for question in asked]
    assert [question for question in asked if asked.count(question) > 1] == []


# ---------------------------------------------------------------- what course.toml may say, and what the reader sees


def with_lines(course: Course, lines: str) -> Course:
    toml = course.root / "playbook" / "course.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + lines, encoding="utf-8")
    return Course(course.root)


PLANNED = '[not_yet.NAME]\nwhat = "Zebras"\nwords = ["zebra crossing", "okapi"]\nnearest = ["others"]\n'


def test_a_question_of_the_course_beats_a_mention_and_is_named_as_the_reason(course: Course) -> None:
    asked = with_lines(course, '[questions]\nothers = ["how much may one customer store"]\n')
    best = lookup.find(asked, "customers store too much: quota?").found[0]
    assert (best.playbook.name, best.where[0]) == ("others", 'question "how much may one customer store"')


def test_what_is_only_planned_is_said_until_the_course_has_the_page(course: Course) -> None:
    planned = with_lines(course, PLANNED.replace("NAME", "zebras"))
    answer = lookup.find(planned, "how do I build zebra crossings")
    assert (answer.not_yet, names(answer)[0], answer.found[0].nearest) == ("Zebras", "others", True)
    assert lookup.find(planned, "okapi quota").not_yet == "Zebras"
    assert lookup.find(planned, "zebra").not_yet == "", "one of two words is another question"
    small_course.add(course.root, "api/zebras")
    assert lookup.find(Course(course.root), "zebra crossing").not_yet == ""


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('[questions]\nnowhere = ["a question"]\n', "name 'nowhere', which is no page"),
        (PLANNED.replace('"others"', '"nowhere"'), "name 'nowhere', which is no page"),
        (PLANNED.replace("what", "why"), "every \\[not_yet.NAME\\] needs `what`, `words` and `nearest`"),
        ("questions = 3\n", "needs `what`|\\[questions\\]"),
    ],
)
def test_a_mistake_in_the_words_is_one_clear_error(course: Course, lines: str, complaint: str) -> None:
    if lines.startswith("questions"):
        toml = course.root / "playbook" / "course.toml"
        toml.write_text(lines + toml.read_text(encoding="utf-8"), encoding="utf-8")
        lines = ""
    with pytest.raises(InputError, match=complaint):
        with_lines(course, lines)


def said(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, ["find", *words])
    return done.exit_code, done.stdout, done.stderr


def test_an_answer_has_the_page_the_section_the_reason_and_how_to_open_it() -> None:
    code, out, _ = said("two users overwrite each other", "--limit", "1")
    title, promise, reason, opened = out.splitlines()[:4]
    assert (code, title) == (0, "1. Transactions (foundations/transactions, 50 minutes)")
    assert promise.strip() == Course().get("transactions").promise
    assert re.fullmatch(r' {3}begin at ".+"; found by question "two users overwrite each other".*', reason)
    assert opened.strip() == "open: playbook lab transactions   (notebooks/foundations/transactions.ipynb)"


def test_the_section_to_begin_at_comes_before_those_that_presuppose_it(index: lookup.Index) -> None:
    """Unless the words stand only there."""
    assert index.find("DetachedInstanceError").found[0].section == "Take it with you"
    for query, page in (
        ("users stay logged in after password change", "account_changes"),
        ("IntegrityError duplicate key", "identity"),
    ):
        best = index.find(query).found[0]
        assert best.playbook.name == page
        assert best.section not in lookup.LATE, query


def test_what_is_not_there_yet_is_said_in_the_first_line() -> None:
    code, out, _ = said("passkeys")
    assert (code, out.splitlines()[0]) == (0, "not yet: Passkeys has no page; nearest: sign_in")


def test_nothing_found_is_one_line_that_says_what_to_try() -> None:
    code, out, err = said("pagnation")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("nothing found: 'pagnation' occurs nowhere: did you mean 'pagination'")
    assert "try one word of the subject, or `playbook list`" in err


def test_find_loads_nothing_heavy() -> None:
    """It answers in well under a second, because it imports neither the pages nor what they need."""
    code = (
        "import sys\n"
        "from playbook.kit.course import Course\n"
        "from playbook.kit.lookup import find\n"
        "find(Course(), 'lost update')\n"
        "heavy = {'sqlalchemy', 'fastapi', 'duckdb', 'nbformat', 'jupytext', 'pydantic', 'IPython'}\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
