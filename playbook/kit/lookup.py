"""Find a playbook by what a reader would type: a topic, a whole question, a symptom, the name of an error.

Each page has entries: its title, the questions that `course.toml` gives it, topics, promise, sections, prose, code.
SQLite's FTS5 does the stemming ("tokens" finds "token") and the prefixes ("organi" finds "organization"). The index is
made in memory for each command: a course has tens of pages, not millions.

FTS5's own ranking (bm25) is not used: it lets a word repeated in a long page outrank a title. Here the best entry in
which each word occurs decides, a rare word more than a common one; then how much of the query one entry answers.
"""

import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from playbook.kit import hook
from playbook.kit.course import Course, Playbook
from playbook.kit.errors import InputError

# What a word is worth by where it stands.
WEIGHTS = {
    "title": 10.0, "question": 7.0, "topic": 7.0, "promise": 4.0, "section": 2.0, "text": 1.0, "code": 0.4,
}  # fmt: skip
SHORT = {"title", "question", "topic", "promise"}  # entries that a query can answer as a whole
TOGETHER = 1.5  # what such an entry is worth beyond its single words, when it is the query
PREFIX = 0.4  # what "pass" is worth where "password" stands, against "password" itself
SYNONYM = 0.8  # what another word for the same thing is worth
NUMBER = 1.5  # a status code is what was meant, whatever stands beside it
SHORTEST_PREFIX = 3  # letters
BRIEF = 2  # words: a longer query is a sentence, and its words are not the beginnings of others
LATE = {"Check it", "Your turn", "Take it with you", "In short", "Sources"}  # sections that presuppose the others
LATER = 0.5  # what a word counts there when the section to begin at is chosen
FAR = 0.25  # of the best page's score: what is below it does not answer a sentence

FILLERS = """
    a about all am an and any are as at be because been best but by can could did do does for from get gets getting
    give good got had has have how i if in into is it its just know let like make makes making me mean my need needs
    never of on or our please proper properly right should show so some still than that the their them then there
    these they this to use used uses using versus vs want was way we were what when where whether which while who why
    will with without work works would you your
"""
# One spelling for what is written in several ways, in the pages and in the query: (a part that the text must have, so
# that most texts are passed over at once; what is replaced; by what).
SPELLINGS = [
    ("log", r"\blog(?:s|ged|ging)?[ -]?in\b|\blogins\b", "signin"),
    ("sign", r"\bsign(?:s|ed|ing)?[ -]?in\b", "signin"),
    ("log", r"\blog(?:s|ged|ging)?[ -]?(?:out|off)\b", "signout"),
    ("sign", r"\bsign(?:s|ed|ing)?[ -]?out\b", "signout"),
    ("sign", r"\bsign(?:s|ed|ing)?[ -]?ups?\b", "signup"),
    ("e-mail", r"\be-mail", "email"),
    ("multi", r"\bmulti-(?=tenan)", ""),
    ("js", r"\b(next|node|auth|express|vue|nest)\.?js\b", r"\1js"),
    ("end", r"\b(back|front)[ -]end", r"\1end"),
    ("1", r"\bn ?\+ ?1\b", "nplus1"),
    ("many", r"\bmany[ -]to[ -]many\b", "manytomany"),
    ("pwned", r"\bhave ?i ?been ?pwned\b", "haveibeenpwned"),
    ("real", r"\breal-time\b", "realtime"),
    ("data ", r"\bdata base", "database"),
    ("time", r"\btime[ -](zone|out)", r"time\1"),
]
# Another word that the pages may use for it; each word is looked for with the others of its line.
SYNONYMS = [
    "db database", "auth authentication", "config configuration settings", "env environment", "prod production",
    "email mail", "signup register registration", "delete remove erase", "error failure exception",
    "concurrent simultaneous parallel", "quick fast faster speed performance", "slow performance latency",
    "postgres postgresql",
    "pagination paginate paging page", "retry again", "twice duplicate", "route endpoint", "schema table",
    "spelling case", "documentation document", "token key", "limit throttling", "rollback downgrade",
    "permission authorization role rbac", "forgot forgotten", "frontend client", "deploy release", "body payload",
    "test check", "choice choose decision", "var variable", "csv file", "crash fail",
    "login signin", "verify confirm verification confirmation", "person user people customer",
]  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A playbook that answers, how well, in which section, and why: `topic "lost update"`, `text in "See it break"`."""

    playbook: Playbook
    score: float
    words: int  # how many of the words it has
    section: str  # the one with most of the words; the first when none has any
    where: tuple[str, ...]
    nearest: bool = False  # it answers no more than that: the course has no page for what was asked


@dataclass(frozen=True)
class Answer:
    """What was found, best first. `hint` says why nothing, or not everything, was; `not_yet` what is only planned."""

    found: tuple[Found, ...]
    hint: str = ""
    not_yet: str = ""


@dataclass(frozen=True)
class _Row:
    page: int  # the playbook's place in the course, or that of what is not yet there
    field: str
    label: str
    text: str
    section: str = ""


@dataclass
class _Term:
    """A word of the query: the rows that have it, how surely, and how rare it is."""

    word: str
    hits: dict[int, float] = field(default_factory=dict)
    rarity: float = 0.0


def _rows(page: int, playbook: Playbook, course: Course) -> Iterator[_Row]:
    yield _Row(page, "title", "title", playbook.title)
    for old, now in course.moved.items():
        if playbook.name in now:
            yield _Row(page, "topic", f"the page {old} of before", old.replace("_", " "))
    yield _Row(page, "title", "name", playbook.name.replace("_", " "))
    for asked in course.questions.get(playbook.name, ()):
        question, _, section = asked.partition(" > ")
        yield _Row(page, "question", f'question "{question}"', question, section)
    yield _Row(page, "promise", "promise", playbook.promise)
    yield _Row(page, "promise", "use it when", playbook.card.get("Use it when", ""))
    yield _Row(page, "section", "standard", playbook.card.get("Standard", ""))
    for topic in playbook.topics:
        yield _Row(page, "topic", f'topic "{topic}"', topic)
    for section, kind, text in _body(playbook.source):
        yield _Row(page, kind, f'{kind} in "{section}"', text, section)
    for section in playbook.sections:
        yield _Row(page, "section", f'section "{section}"', section, section)


def _body(source: str) -> Iterator[tuple[str, str, str]]:
    """(section, "text" or "code", content): the page below its card, cut at its `## ` headings; of links the words."""
    lines = source.split("\n")
    section = ""
    for cell in hook.cells(source):
        content = "\n".join(lines[cell.start : cell.stop]).strip()
        if cell.markdown:
            content = re.sub(r"\]\([^)\s]*\)", "]", content)  # a link's target: "glossary", "md"
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


def _spelled(text: str) -> str:
    text = text.casefold()
    for part, pattern, spelling in SPELLINGS:
        if part in text:
            text = re.sub(pattern, spelling, text)
    return text


def _tokens(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", _spelled(text))


def _words(text: str) -> list[str]:
    """The words that say something, each once; all of them when none does."""
    words, fillers = _tokens(text), FILLERS.split()
    return list(dict.fromkeys([w for w in words if w not in fillers] or words))


def _others(word: str) -> set[str]:
    """Other words for the same thing; the plural has the same ones."""
    lines = [line.split() for line in SYNONYMS]
    return {other for line in lines if {word, word.removesuffix("s")} & set(line) for other in line} - {word}


class Index:
    """The entries of all pages of a course, to be asked many times. Close it, or use it as a context manager.

    Raises InputError when this Python's SQLite has no FTS5.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.rows = [row for page, p in enumerate(course.playbooks) for row in _rows(page, p, course)]
        self.not_yet = list(course.not_yet.values())
        for at, planned in enumerate(self.not_yet):
            self.rows += [_Row(at, "not yet", "", words) for words in planned.words]
        self.lengths = [len(_words(row.text)) if row.field in SHORT | {"not yet"} else 0 for row in self.rows]
        self.connection = sqlite3.connect(":memory:")
        try:
            self.connection.execute("CREATE VIRTUAL TABLE entry USING fts5(content, tokenize = 'porter unicode61')")
        except sqlite3.OperationalError:
            self.close()
            raise InputError(
                "this Python's sqlite3 was built without FTS5, which `playbook find` needs: use `playbook list`"
            ) from None
        entries = [(i, _spelled(row.text)) for i, row in enumerate(self.rows)]
        self.connection.executemany("INSERT INTO entry (rowid, content) VALUES (?, ?)", entries)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def find(self, query: str) -> Answer:
        """The playbooks that answer `query`, best first. Raises InputError when it has no word."""
        words = _words(query)
        if not words:
            raise InputError(f"nothing to look for in {query!r}: give a word, as in `playbook find idempotency`")
        terms = [self._term(word, brief=len(words) <= BRIEF) for word in words]
        hint = "; ".join(self._suggestion(term.word) for term in terms if not term.hits)
        # "cache" and "caching" are one word, and count once.
        terms = list({(term.word[:4], *sorted(term.hits)): term for term in terms}.values())
        phrase = self._matching('"' + " ".join(_tokens(query)) + '"')
        judged = [self._judge(page, playbook, terms, phrase) for page, playbook in enumerate(self.course.playbooks)]
        found = [hit for hit in judged if hit]
        planned, nearest = self._planned(terms)
        best = max((hit.score for hit in found), default=0.0)
        far = 0.0 if len(words) <= BRIEF else FAR * best
        found = [hit for hit in found if hit.score >= far and hit.playbook.name not in nearest]
        if not hint and len(words) <= BRIEF and all(hit.words < len(words) for hit in found):
            hint = "no page has all of these words"
        # Sorting is stable: among equals, what comes first in the course explains it first.
        found.sort(key=lambda hit: -hit.score)
        if planned:
            hint = ""
            pages = [self.course.get(name) for name in nearest]
            found = [Found(page, best, 0, "", (), nearest=True) for page in pages] + found
        return Answer(tuple(found), hint, planned)

    def _matching(self, expression: str) -> set[int]:
        return {i for (i,) in self.connection.execute("SELECT rowid FROM entry WHERE entry MATCH ?", (expression,))}

    def _term(self, word: str, brief: bool) -> _Term:
        hits = {i: 1.0 for i in self._matching(f'"{word}"')}
        if brief and len(word) >= SHORTEST_PREFIX:
            hits = {i: PREFIX for i in self._matching(f'"{word}" *')} | hits
        for other in _others(word):
            hits = {i: SYNONYM for i in self._matching(f'"{other}"')} | hits
        pages = {self.rows[i].page for i, surely in hits.items() if surely == 1 and self.rows[i].field != "not yet"}
        rarity = math.log(1 + len(self.course.playbooks) / max(len(pages), 1))
        return _Term(word, hits, rarity * (NUMBER if word.isdigit() else 1.0))

    def _judge(self, page: int, playbook: Playbook, terms: Sequence[_Term], phrase: set[int]) -> Found | None:
        """How well one playbook answers; None when it has none of the words."""
        score, has, places = 0.0, 0, dict[int, float]()
        shared, sections = dict[int, float](), dict.fromkeys(playbook.sections, 0.0)
        asked = sum(term.rarity for term in terms if term.hits)
        for term in terms:
            worth, within = dict[int, float](), dict[str, float]()
            for i, surely in term.hits.items():
                row = self.rows[i]
                if row.page != page or row.field == "not yet":
                    continue
                worth[i] = WEIGHTS[row.field] * surely * term.rarity
                if row.field in SHORT:
                    shared[i] = shared.get(i, 0.0) + surely * term.rarity
                if row.section:
                    within[row.section] = max(within.get(row.section, 0.0), worth[i])
            for name, most in within.items():
                sections[name] += most * (LATER if name in LATE else 1.0)
            if worth:
                has += 1
                best = max(worth, key=lambda i: (worth[i], -i))
                places[best] = places.get(best, 0.0) + worth[best]
                # Prose may mention a word in passing; less so when it comes back.
                score += worth[best] + 0.02 * term.rarity * min(len(worth), 10)
        if not places:
            return None
        for i, mass in shared.items():
            # Of the query, the part that this entry has; of the entry, the part that was asked for.
            words = sum(1 for term in terms if i in term.hits)
            answered = (mass / asked) ** 2 * min(1.0, words / self.lengths[i])
            shared[i] = TOGETHER * WEIGHTS[self.rows[i].field] * mass * answered * (1.2 if i in phrase else 1.0)
        if shared:
            best = max(shared, key=lambda i: (shared[i], -i))
            score += shared[best]
            if led := self.rows[best].section:
                sections[led] = math.inf
            places[best] = places.get(best, 0.0) + shared[best]
        reasons = [self.rows[i].label for i in sorted(places, key=lambda i: (-places[i], i))]
        section = max(sections, key=lambda name: sections[name], default="")  # of equals the first on the page
        return Found(playbook, score, has, section, tuple(dict.fromkeys(reasons))[:2])

    def _planned(self, terms: Sequence[_Term]) -> tuple[str, tuple[str, ...]]:
        """What `course.toml` knows to be asked for and not there, when the query has one of its entries whole."""
        best: tuple[int, str, tuple[str, ...]] = (0, "", ())
        for i, row in enumerate(self.rows):
            words = sum(1 for term in terms if term.hits.get(i) == 1)
            if row.field == "not yet" and words >= self.lengths[i] and words > best[0]:
                planned = self.not_yet[row.page]
                best = (words, planned.what, planned.nearest)
        return best[1], best[2]

    def _suggestion(self, word: str) -> str:
        rows = [row for row in self.rows if row.field != "code"]
        vocabulary = {token for row in rows for token in _tokens(row.text) if len(token) > 2}
        near = get_close_matches(word, sorted(vocabulary), n=3, cutoff=0.7) if word.isalpha() else []
        return f"{word!r} occurs nowhere" + (f": did you mean {' or '.join(map(repr, near))}?" if near else "")


def find(course: Course, query: str) -> Answer:
    """The playbooks that answer `query`, best first. Raises InputError when `query` has no word."""
    with Index(course) as index:
        return index.find(query)
