"""Find a playbook by what a reader would type: ranked search over titles, topics, promises, sections and bodies.

SQLite's FTS5 does the splitting, the stemming ("tokens" finds "token") and the prefixes ("organi" finds
"organization"). The index is made in memory at each call: a course has tens of pages, not millions.

FTS5's own ranking (bm25) is not used: it lets a word repeated in a long page outrank a title. Here the best place in
which each word occurs decides, then whether the words stand together.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from playbook.kit import hook
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

# A title is worth more than anything else, a topic more than a sentence about it, prose more than code.
WEIGHTS = {"title": 100.0, "topic": 60.0, "promise": 30.0, "section": 12.0, "text": 5.0, "code": 2.0}
PREFIX = 0.5  # what "pass" is worth where "password" stands, against "password" itself
SHORTEST_PREFIX = 3  # letters
FILLERS = {"a", "an", "and", "are", "can", "do", "does", "for", "from", "how", "i", "in", "is", "it", "my", "of", "on"}
FILLERS |= {"or", "the", "to", "what", "when", "which", "with"}


@dataclass(frozen=True)
class Found:
    """A playbook that answers, how well, and where: `topic "lost update"`, `text in "See it break"`."""

    playbook: Playbook
    score: float
    words: int  # how many of the words it has
    where: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What was found, best first. `hint` says in words why nothing, or not everything, was."""

    found: tuple[Found, ...]
    hint: str = ""


@dataclass(frozen=True)
class _Row:
    page: int  # the playbook's place in the course
    field: str
    label: str
    text: str


def _rows(page: int, playbook: Playbook, moved: Mapping[str, Sequence[str]]) -> Iterator[_Row]:
    yield _Row(page, "title", "title", playbook.title)
    for old, now in moved.items():
        if playbook.name in now:
            yield _Row(page, "title", f"the page {old} of before", old.replace("_", " "))
    yield _Row(page, "title", "name", playbook.name.replace("_", " "))
    yield _Row(page, "promise", "promise", playbook.promise)
    for row in ("Use it when", "Standard"):
        yield _Row(page, "promise" if row == "Use it when" else "topic", row.lower(), playbook.card.get(row, ""))
    for topic in playbook.topics:
        yield _Row(page, "topic", f'topic "{topic}"', topic)
    for section, kind, text in _body(playbook.source):
        yield _Row(page, kind, f'{kind} in "{section}"', text)
    for section in playbook.sections:
        yield _Row(page, "section", f'section "{section}"', section)


def _body(source: str) -> Iterator[tuple[str, str, str]]:
    """(section, "text" or "code", content): the page below its card, without its links, cut at its `## ` headings."""
    lines = source.split("\n")
    section = ""
    for cell in hook.cells(source):
        content = "\n".join(lines[cell.start : cell.stop]).strip()
        if not cell.markdown:
            if section:
                yield section, "code", content
            continue
        if "nav" in cell.tags:
            continue
        before, *parts = re.split(r"^## (.+)$", content.strip('"'), flags=re.M)
        if section and before.strip():
            yield section, "text", before
        for heading, text in zip(parts[::2], parts[1::2], strict=True):
            section = heading.strip()
            yield section, "text", text


def _connect(rows: Sequence[_Row]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE entry USING fts5(content, tokenize = 'porter unicode61')")
    except sqlite3.OperationalError:
        raise InputError(
            "this Python's sqlite3 was built without FTS5, which `playbook find` needs: use `playbook list`"
        ) from None
    connection.executemany(
        "INSERT INTO entry (rowid, content) VALUES (?, ?)", [(i, row.text) for i, row in enumerate(rows)]
    )
    return connection


def _tokens(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _matching(connection: sqlite3.Connection, expression: str) -> set[int]:
    return {i for (i,) in connection.execute("SELECT rowid FROM entry WHERE entry MATCH ?", (expression,))}


def find(course: Course, query: str) -> Answer:
    """The playbooks that have all words of `query`; where no playbook has all, those that have most of them.

    Raises InputError when `query` has no word.
    """
    words = _tokens(query)
    words = list(dict.fromkeys([w for w in words if w not in FILLERS] or words))
    if not words:
        raise InputError(f"nothing to look for in {query!r}: give a word, as in `playbook find idempotency`")
    rows = [row for page, playbook in enumerate(course.playbooks) for row in _rows(page, playbook, course.moved)]
    connection = _connect(rows)
    try:
        hits = {word: _hits(connection, word) for word in words}
        together = _matching(connection, '"' + " ".join(words) + '"') if len(words) > 1 else set()
    finally:
        connection.close()
    unknown = [word for word in words if not hits[word]]
    hint = "; ".join(_suggestion(word, rows) for word in unknown)
    found = [f for page, p in enumerate(course.playbooks) if (f := _judge(p, page, rows, hits, together)) is not None]
    most = max((f.words for f in found), default=0)
    if most < len(words) and not hint:
        hint = "no playbook has all of these words"
    # Sorting is stable: among equals, what comes first in the course explains it first.
    best = sorted((f for f in found if f.words == most), key=lambda f: -f.score)
    return Answer(tuple(best), hint)


def _hits(connection: sqlite3.Connection, word: str) -> dict[int, float]:
    """The rows in which `word` occurs: 1 for the word itself in any inflection, less for a word it begins."""
    begun = _matching(connection, f'"{word}" *') if len(word) >= SHORTEST_PREFIX else set()
    return {i: PREFIX for i in begun} | {i: 1.0 for i in _matching(connection, f'"{word}"')}


def _judge(
    playbook: Playbook, page: int, rows: Sequence[_Row], hits: dict[str, dict[int, float]], together: set[int]
) -> Found | None:
    """How well one playbook answers; None when it has none of the words."""
    score, places, words = 0.0, set[int](), 0
    for found in hits.values():
        own = [i for i in found if rows[i].page == page]
        if own:
            best = max(own, key=lambda i: (WEIGHTS[rows[i].field] * found[i], -i))
            places.add(best)
            words += 1
            score += WEIGHTS[rows[best].field] * found[best]
            if rows[best].field in ("text", "code"):
                score += 0.1 * min(len(own), 10)  # prose may mention a word in passing; less so when it comes back
    if not words:
        return None
    shared = [i for i in set.intersection(*(set(found) for found in hits.values())) if rows[i].page == page]
    bonus, best = max(((_closeness(rows[i], i in together, len(hits)), -i) for i in shared), default=(0.0, 0))
    if bonus:
        places.add(-best)
    reasons = [rows[i].label for i in sorted(places, key=lambda i: (-WEIGHTS[rows[i].field], i))]
    return Found(playbook, score + bonus, words, tuple(dict.fromkeys(reasons))[:2])


def _closeness(row: _Row, together: bool, words: int) -> float:
    """What words that stand in one place are worth beyond each alone: more as a phrase, most as the whole entry."""
    weight = WEIGHTS[row.field] * words / 2
    if len(_tokens(row.text)) == words and (together or words == 1):
        return weight * 2
    if words == 1:
        return 0.0
    return weight * 1.5 if together else weight / 2


def _suggestion(word: str, rows: Sequence[_Row]) -> str:
    vocabulary = {token for row in rows if row.field != "code" for token in _tokens(row.text) if len(token) > 2}
    near = get_close_matches(word, sorted(vocabulary), n=1, cutoff=0.7) if word.isalpha() else []
    return f"{word!r} occurs nowhere" + (f": did you mean {near[0]!r}?" if near else "")
