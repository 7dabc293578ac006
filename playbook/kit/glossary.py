"""The glossary: one sentence a term, from `playbook/glossary.toml`; its page; and where pages use a term too early.

A term is explained on the page that it names as its home. Every other page links the first use, in its sentences and
tables, to the glossary or to that home. What the first page of the course explains is known: every page builds on it.
"""

import itertools
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError
from playbook.kit.pairing import write_whole
from playbook.kit.reading import Cell, cells, finding

SENTENCE_WORDS = 25
# Such a heading has the same anchor on GitHub, in JupyterLab and in the book, which agree on nothing else.
TERM = re.compile(r"[a-z0-9]+(?:[ -][a-z0-9]+)*")
KEYS = frozenset({"term", "also", "sentence", "page", "source", "other"})
NAME = "glossary.md"
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")
TARGET = re.compile(r"\]\([^)\s]*glossary\.md#[^)\s]*\)")
# What is no prose of the page's own. The letters are put out, so that all places stay what they are.
NO_PROSE = re.compile(
    r"^## Sources\n(?s:.*)"  # to the end: titles of standards
    r"|^```(?s:.*?)^```"  # a block of code
    r"|`[^`]*`"
    r"|^#+ .*$"  # a heading
    r"|^\| change \| to \|.*\n(?:\|.*\n)+",  # Break it: literal text
    re.MULTILINE,
)
OPENING = re.compile(r'\A"""\n# .*\n(?:[^|].*\n|\n)*(?:\|.*\n)+')  # title, promise, card: they are read elsewhere, too
HEAD = """# Glossary

One sentence for each term that the pages use and a newcomer may not know. The first use of a term on a page leads here.
"""


@dataclass(frozen=True)
class Term:
    """A term, its other spellings, its sentence, and the name of the page that explains it ("" when none does)."""

    term: str
    sentence: str
    also: tuple[str, ...] = ()
    page: str = ""
    source: str = ""
    other: tuple[str, ...] = ()  # pages on which the word means something else

    @property
    def anchor(self) -> str:
        return self.term.replace(" ", "-")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The term in any spelling, whole words, also across the end of a line."""
        spellings = sorted((self.term, *self.also), key=len, reverse=True)
        return re.compile(rf"(?<![\w.,/-])(?:{'|'.join(map(_spelling, spellings))})(?![\w-]|[.,]\d)")

    @cached_property
    def first_words(self) -> frozenset[str]:
        """Of each spelling, in small letters: where none of them stands the pattern matches nothing."""
        return frozenset(text.split()[0].lower() for text in (self.term, *self.also))


@dataclass(frozen=True)
class Use:
    """The first use of a term on a page that has not linked it: the cell, and where in the cell's content."""

    term: Term
    cell: Cell
    start: int
    stop: int


def _spelling(text: str) -> str:
    words = r"\s+".join(map(re.escape, text.split()))
    plural = "(?:s|es)?" if text[-1].isalpha() else ""
    return f"{words}{plural}" if text != text.lower() else f"(?i:{words}{plural})"


def terms(course: Course) -> tuple[Term, ...]:
    """The terms of `glossary.toml`, none when there is no such file. Raises InputError with every fault of the file."""
    path = course.root / "playbook" / "glossary.toml"
    if not path.is_file():
        return ()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8")).get("term", [])
        found = tuple(_term(entry) for entry in raw)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"playbook/glossary.toml cannot be read: {error}") from None
    if wrong := list(_faults(course, found)):
        raise InputError("\n".join(f"playbook/glossary.toml: {line}" for line in wrong))
    return found


def _term(entry: dict[str, object]) -> Term:
    if unknown := sorted(entry.keys() - KEYS):
        raise TypeError(
            f"{entry.get('term', 'an entry')!r} has {', '.join(unknown)}; known are {', '.join(sorted(KEYS))}"
        )
    also, other = (tuple(map(str, entry.get(key, ()))) for key in ("also", "other"))  # type: ignore[call-overload]
    page, source = (str(entry.get(key, "")) for key in ("page", "source"))
    return Term(str(entry["term"]), str(entry["sentence"]), also, page, source, other)


def _faults(course: Course, found: tuple[Term, ...]) -> Iterator[str]:
    by_name = {p.name: p for p in course.playbooks}
    names = [term.term for term in found]
    if names != sorted(names):
        first = next(after for before, after in itertools.pairwise(names) if before > after)
        yield f"{first!r} is out of order; sort the terms by their letters"
    spelled = [text.lower() for term in found for text in {t.lower(): t for t in (term.term, *term.also)}]
    for text in sorted({text for text in spelled if spelled.count(text) > 1}):
        yield f"{text!r} stands there twice; leave one"
    for term in found:
        if not TERM.fullmatch(term.term):
            yield f"{term.term!r} needs another anchor in each program; write it in lower case, abbreviations in `also`"
        if not re.fullmatch(r"[A-Z0-9].*[^.]\.", term.sentence):
            yield f"{term.term!r} has no sentence; begin it with a capital and end it with one full stop"
        if (count := len(term.sentence.split())) > SENTENCE_WORDS:
            yield f"the sentence of {term.term!r} has {count} words; {SENTENCE_WORDS} are the limit"
        for name in {term.page, *term.other} - {""} - by_name.keys():
            yield f"{term.term!r} names the page {name!r}, which does not exist"
        if term.page in by_name and not term.pattern.search(by_name[term.page].prose):
            yield f"the page {term.page!r} does not use the term {term.term!r}; name the one that explains it"


def named(course: Course, query: str) -> list[Term]:
    """The terms whose name, in any spelling, is the whole of `query`."""
    words = " ".join(query.split())
    return [term for term in terms(course) if re.fullmatch(term.pattern.pattern, words, re.IGNORECASE)]


# ---------------------------------------------------------------- the page


def path(course: Course) -> Path:
    """Beside the notebooks, so that their links to it hold wherever they are copied together."""
    return course.index.notebook.with_name(NAME)


def text(course: Course) -> str:
    """The glossary's page: a heading for each term, then its sentence, its home and its source."""
    homes = {p.name: p for p in course.playbooks}
    parts = [HEAD]
    for term in terms(course):
        about = [f"Also: {', '.join(term.also)}."] if term.also else []
        if term.page:
            home = homes[term.page]
            link = Path(os.path.relpath(home.notebook, path(course).parent)).as_posix()
            about.append(f"Explained in [{home.title}]({link}).")
        if term.source:
            about.append(f"Source: {term.source}.")
        parts += [f"### {term.term}\n", f"{term.sentence}\n", *([" ".join(about) + "\n"] if about else [])]
    return "\n".join(parts)


def update(course: Course) -> list[Path]:
    """Write the page when it is out of date; the files that changed."""
    if not terms(course) or _stored(course) == text(course):
        return []
    write_whole(path(course), text(course))
    return [path(course)]


def outdated(course: Course) -> list[str]:
    """A finding when the page is missing, or not what `glossary.toml` says."""
    if not terms(course) or _stored(course) == text(course):
        return []
    return [f"notebooks/{NAME}: is not what playbook/glossary.toml says; run `playbook refresh index`"]


def _stored(course: Course) -> str:
    return path(course).read_text(encoding="utf-8") if path(course).is_file() else ""


# ---------------------------------------------------------------- the pages


def prose(cell: Cell) -> str:
    """The content of a Markdown cell with everything put out that is not the page's own prose; links too."""
    return _without(LINK, _without(NO_PROSE, _without(OPENING, cell.content)))


def _without(pattern: re.Pattern[str], content: str) -> str:
    return pattern.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), content)


def link(course: Course, playbook: Playbook, term: Term) -> str:
    """The target of a link from `playbook`'s notebook to the glossary's entry."""
    return f"{_from(playbook, path(course))}#{term.anchor}"


def _from(playbook: Playbook, target: Path) -> str:
    return Path(os.path.relpath(target, playbook.notebook.parent)).as_posix()


def early(course: Course, playbook: Playbook, known: Sequence[Term]) -> list[Use]:
    """The terms that `playbook` uses before it explains or links them, in the order of the page."""
    first = course.playbooks[0].name
    settled = {term for term in known if playbook.name in (term.page, *term.other) or term.page == first}
    found: dict[Term, Use] = {}
    for start, stop, term, linked, cell in _mentions(course, playbook, known):
        if linked:
            settled.add(term)
        elif term not in settled and term not in found:
            found[term] = Use(term, cell, start, stop)
    return list(found.values())


Mention = tuple[int, int, Term, bool, Cell]  # start, stop, the term, whether it is a link, and in which cell


def _mentions(course: Course, playbook: Playbook, known: Sequence[Term]) -> list[Mention]:
    """All that `playbook` says of terms, in order; of uses that overlap the longest counts."""
    return _mentions_in(cells(playbook), _links(course, playbook, known), tuple(known))


Leads = tuple[str, Term, bool]  # a link's target, the term it leads to, and whether only with the term's name


@lru_cache(maxsize=4)  # two rules ask one after the other
def _mentions_in(page: tuple[Cell, ...], links: tuple[Leads, ...], known: tuple[Term, ...]) -> list[Mention]:
    found: list[Mention] = []
    for cell in page:
        if not cell.markdown or "nav" in cell.tags:
            continue
        content = prose(cell)
        letters = content.lower()
        there = [term for term in known if any(word in letters for word in term.first_words)]
        uses = [(m.start(), m.end(), term) for term in there for m in term.pattern.finditer(content)]
        inner = [(a, b, term) for a, b, term in uses if not any(_within((a, b), (c, d)) for c, d, _ in uses)]
        mentions = [(*use, False, cell) for use in inner]
        for match in LINK.finditer(_without(NO_PROSE, cell.content)):
            target, home = match[2], match[2].partition("#")[0]
            for to, term, by_name in links:
                if (home == to and term.pattern.search(match[1])) if by_name else target == to:
                    mentions.append((match.start(), match.end(), term, True, cell))
        found += sorted(mentions, key=lambda mention: mention[:2])
    return found


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def _links(course: Course, playbook: Playbook, known: Sequence[Term]) -> tuple[Leads, ...]:
    """What links of `playbook` lead to a term: its entry, and by its name the page that explains it."""
    entries, homes = _from(playbook, path(course)), {p.name: _from(playbook, p.notebook) for p in course.playbooks}
    to_entries = [(f"{entries}#{term.anchor}", term, False) for term in known]
    return (*to_entries, *((homes[term.page], term, True) for term in known if term.page in homes))


def unexplained(course: Course, playbook: Playbook, known: Sequence[Term]) -> list[tuple[Term, int, str]]:
    """(term, line, what is wrong) for the terms of which `playbook` is the home, but which it does not introduce.

    It does when the first use in its own prose is in a sentence, or in a row of a table as a link or emphasized.
    """
    found: list[tuple[Term, int, str]] = []
    uses = _mentions(course, playbook, known)
    for term in known:
        if playbook.name != term.page:
            continue
        first = next(((start, linked, cell) for start, _, used, linked, cell in uses if used == term), None)
        if first is None:
            found.append((term, 1, "stands only in title, card, headings and code of the page that should explain it"))
            continue
        start, linked, cell = first
        row = cell.content[cell.content.rfind("\n", 0, start) + 1 : start]
        if row.startswith("|") and not linked and len(re.findall(r"\*+", row)) % 2 == 0:
            line = cell.line + cell.content.count("\n", 0, start)
            found.append((term, line, "stands in a table before the page explains it"))
    return found


def findings(course: Course) -> list[str]:
    """Terms used before they are explained or linked, homes that do not introduce theirs, links that lead nowhere."""
    found, known = [], terms(course)
    for playbook in course.playbooks if known else ():
        for term, at, what in unexplained(course, playbook, known):
            found.append(finding(playbook, at, f"{term.term!r} {what}", "name it in a sentence that explains it"))
        for use in early(course, playbook, known):
            word = " ".join(use.cell.content[use.start : use.stop].split())
            line = use.cell.line + use.cell.content.count("\n", 0, use.start)
            to_do = f"write `[{word}]({link(course, playbook, use.term)})`, or explain it before"
            found.append(finding(playbook, line, f"{word!r} is neither explained nor linked", to_do))
        targets = {link(course, playbook, term) for term in known}
        for cell in cells(playbook):
            for match in LINK.finditer(cell.content if cell.markdown else ""):
                if f"{NAME}#" in match[2] and match[2] not in targets:
                    line = cell.line + cell.content.count("\n", 0, match.start())
                    found.append(finding(playbook, line, f"a link to {match[2]}, which has no entry", "correct it"))
    return found
