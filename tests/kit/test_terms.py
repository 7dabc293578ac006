"""The glossary: what its list must hold, the page made of it, and how uses of a term are found in prose."""

from pathlib import Path

import pytest
import small_course

from playbook.kit import glossary
from playbook.kit.course import Course
from playbook.kit.errors import InputError

LIST = """
[[term]]
term = "entity tag"
also = ["ETag"]
sentence = "A text that names one version."
page = "second"
source = "RFC 9110, 8.8.3"

[[term]]
term = "lost update"
sentence = "A write that undoes another one."

[[term]]
term = "update"
sentence = "A write."
other = ["second"]
"""
HOME = "An entity tag names a version."
TO_UPDATE = "../glossary.md#lost-update"


def page(prose: str, *more: str) -> str:
    cells = "".join(f'\n# %% [markdown]\n"""\n{text}\n"""\n' for text in more)
    return (
        f'# %% [markdown]\n"""\n# A page\n\nDo it.\n\n| | |\n|---|---|\n| **Topics** | ETag |\n\n{prose}\n"""\n{cells}'
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A course of three pages: `first` is what all others build on, `second` explains a term, `third` is tried."""
    root = tmp_path / "course"
    small_course.start(root)
    toml = small_course.TOML.replace("# nothing yet", '"first", "second", "third"')
    (root / "playbook" / "course.toml").write_text(toml, encoding="utf-8")
    (root / "playbook" / "foundations").mkdir()
    (root / "playbook" / "glossary.toml").write_text(LIST, encoding="utf-8")
    for name, prose in {"first": "Begin.", "second": HOME, "third": "Nothing."}.items():
        write(root, name, page(prose))
    return root


def write(root: Path, name: str, text: str) -> None:
    (root / "playbook" / "foundations" / f"{name}.py").write_text(text, encoding="utf-8")


def early(root: Path, name: str = "third") -> list[tuple[str, str]]:
    course = Course(root)
    uses = glossary.early(course, course.get(name), glossary.terms(course))
    return [(use.term.term, use.cell.content[use.start : use.stop]) for use in uses]


@pytest.mark.parametrize(
    ("prose", "found"),
    [
        ("A lost update, and lost updates.", [("lost update", "lost update")]),
        ("Lost\nupdates happen.", [("lost update", "Lost\nupdates")]),
        ("- **Traps**: an ETag changes.", [("entity tag", "ETag")]),
        ("| one | two |\n|---|---|\n| a lost update | bad |", [("lost update", "lost update")]),
        ("An update. A lost update.", [("update", "update"), ("lost update", "lost update")]),
        ("## A lost update\n\nNothing.", []),
        ("The call `ETag` and an etag or ETagger, `a lost update`.", []),
        ("```text\na lost update\n```\n\nNothing.", []),
        ("## Sources\n\nN. N., *Lost Update* (1995).", []),
        ("| change | to |\n|---|---|\n| `a` | a lost update |\n\nNothing.", []),
        (f"A [lost update]({TO_UPDATE}), then a lost update.", []),
        (f"A lost update, then [lost update]({TO_UPDATE}).", [("lost update", "lost update")]),
        ("See [the ETag](second.ipynb): an ETag is a text.", []),
        ("See [the page](second.ipynb): an ETag is a text.", [("entity tag", "ETag")]),
        ("An [ETag](first.ipynb) is a text, this ETag too.", [("entity tag", "ETag")]),
    ],
)
def test_first_uses_in_prose(root: Path, prose: str, found: list[tuple[str, str]]) -> None:
    write(root, "third", page(prose))
    assert early(root) == found


def test_a_link_holds_for_the_cells_below_it(root: Path) -> None:
    write(root, "third", page("Begin.", f"A [lost update]({TO_UPDATE}).", "A lost update again."))
    assert early(root) == []
    write(root, "third", page("A lost update.", f"A [lost update]({TO_UPDATE})."))
    assert early(root) == [("lost update", "lost update")]


def test_the_home_of_a_term_and_a_page_on_which_it_means_something_else_need_no_link(root: Path) -> None:
    write(root, "second", page("An entity tag names a version. An update brings another."))
    assert early(root, "second") == []


@pytest.mark.parametrize(
    ("prose", "said"),
    [
        ("`ETag` is a header.\n\n## ETag", "1: 'entity tag' stands only in title, card, headings and code"),
        ("| one | two |\n|---|---|\n| an ETag | good |\n\nAn ETag is a text.", "13: 'entity tag' stands in a table"),
        ("| one | two |\n|---|---|\n| an **ETag** | good |\n\nAn ETag is a text.", ""),
        (
            "| one | two |\n|---|---|\n| **one** more ETag | good |\n\nAn ETag is a text.",
            "13: 'entity tag' stands in a table",
        ),
        ("| one | two |\n|---|---|\n| an [ETag](../glossary.md#entity-tag) | good |\n\nAn ETag is a text.", ""),
        ("An ETag is a text.\n\n| one | two |\n|---|---|\n| an ETag | good |", ""),
    ],
)
def test_the_home_of_a_term_introduces_it_in_a_sentence(root: Path, prose: str, said: str) -> None:
    write(root, "second", page(prose))
    found = glossary.findings(Course(root))
    assert len(found) == bool(said)
    assert f"second.py:{said}" in "".join(found) or not said


def test_what_the_first_page_explains_is_known(root: Path) -> None:
    text = LIST.replace('page = "second"', 'page = "first"')
    (root / "playbook" / "glossary.toml").write_text(text, encoding="utf-8")
    write(root, "first", page(HOME))
    write(root, "third", page("An ETag."))
    assert early(root) == []


def test_findings_say_where_and_what_to_write(root: Path) -> None:
    write(root, "third", page("One.\n\nA lost\nupdate.", "Two, with a [link](../glossary.md#nowhere)."))
    assert glossary.findings(Course(root)) == [
        "playbook/foundations/third.py:13: 'lost update' is neither explained nor linked; "
        f"write `[lost update]({TO_UPDATE})`, or explain it before",
        "playbook/foundations/third.py:19: a link to ../glossary.md#nowhere, which has no entry; correct it",
    ]


def test_the_page_is_made_once_and_again_after_a_change(root: Path) -> None:
    course = Course(root)
    path = root / "notebooks" / "glossary.md"
    assert glossary.outdated(course)
    assert glossary.update(course) == [path]
    assert glossary.update(course) == []
    assert glossary.outdated(course) == []
    text = path.read_text(encoding="utf-8")
    about = "Also: ETag. Explained in [A page](foundations/second.ipynb). Source: RFC 9110, 8.8.3.\n"
    assert f"\n### entity tag\n\nA text that names one version.\n\n{about}" in text
    path.write_text(text + "by hand\n", encoding="utf-8")
    assert glossary.outdated(course) == [
        "notebooks/glossary.md: is not what playbook/glossary.toml says; run `playbook refresh index`"
    ]


def test_a_course_without_a_list_needs_no_page(root: Path) -> None:
    (root / "playbook" / "glossary.toml").unlink()
    course = Course(root)
    assert glossary.update(course) == []
    assert glossary.outdated(course) + glossary.findings(course) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('term = "update"', 'term = "ETag"', "'ETag' is out of order; sort the terms by their letters"),
        ('term = "update"', 'term = "Xy"', "'Xy' needs another anchor in each program; write it in lower case"),
        ('also = ["ETag"]', 'also = ["Update"]', "'update' stands there twice; leave one"),
        ('"A write."', '"a write"', "'update' has no sentence; begin it with a capital and end it with one full stop"),
        ('"A write."', f'"A{" b" * 25}."', "the sentence of 'update' has 26 words; 25 are the limit"),
        ('page = "second"', 'page = "fourth"', "'entity tag' names the page 'fourth', which does not exist"),
        ('page = "second"', 'page = "third"', "the page 'third' does not use the term 'entity tag'"),
        ("other =", "others =", "'update' has others; known are also, other, page, sentence, source, term"),
        ('sentence = "A write."', "", "cannot be read: 'sentence'"),
    ],
)
def test_a_wrong_list_is_refused_in_words(root: Path, old: str, new: str, said: str) -> None:
    assert LIST.count(old) == 1
    (root / "playbook" / "glossary.toml").write_text(LIST.replace(old, new), encoding="utf-8")
    write(root, "third", '# %% [markdown]\n"""\n# A page\n\nDo it.\n"""\n')
    with pytest.raises(InputError) as caught:
        glossary.terms(Course(root))
    assert said in str(caught.value)


def test_a_query_that_names_a_term_gets_its_sentence(root: Path) -> None:
    course = Course(root)
    assert [term.term for term in glossary.named(course, "etags")] == ["entity tag"]
    assert [term.term for term in glossary.named(course, "Lost  update")] == ["lost update"]
    assert glossary.named(course, "how to prevent an update") == []
