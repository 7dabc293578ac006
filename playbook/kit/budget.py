"""How long and how dense a page is, counted from its text and the outputs that are stored for it, as a reader sees it.

What is counted: words of prose (Markdown without code, the targets of links, and generated cells); visible code, which
is every code cell whose source is not folded, in lines that are not blank and in tokens; the longest visible cell; the
share of visible cells that show something; the longest run of visible lines without an output. What stands between
"Your turn" and the next section is the exercise, and is only counted as words.
"""

import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WORDS_PER_MINUTE, LINES_PER_MINUTE, OUTPUTS_PER_MINUTE = 130, 8, 2  # two readers took 35 and 50 where it says 33 and 35
AT_MOST = {"words": 1200, "lines": 160, "tokens": 1700, "longest": 25, "gap": 30, "minutes": 40}
AT_LEAST = {"shown": 60}  # per cent
STAGE_LINES = 60  # of all stage cells of a page
COLUMNS = 88
FOLDED = frozenset({"stage", "solution", "hide-input"})
GENERATED = frozenset({"nav", "map"})
# What to do about a number that is over, or under.
CURE = {
    "words": "cut what the code says already, or make two pages of it",
    "lines": "move plumbing into a stage cell or the kit, or make two pages of it",
    "tokens": "say it with less code, or make two pages of it",
    "longest": "divide the cell, and show what each half does",
    "gap": "show something in between: after each definition a cell uses it",
    "minutes": "make two pages of it",
    "shown": "end more cells with something to see, or take away cells that show nothing",
}
NAMES = ("words", "lines", "tokens", "longest", "cells", "shown", "gap", "minutes")
_KINDS = frozenset({tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP})


@dataclass(frozen=True)
class Measure:
    """The numbers of a page. `shown` is per cent; `minutes` are to read, without the exercise."""

    words: int
    lines: int
    tokens: int
    longest: int
    cells: int
    shown: int
    gap: int
    minutes: int
    longest_at: int  # index of the longest visible cell among all cells of the notebook
    gap_at: int  # index of the cell that ends the longest run

    def over(self) -> list[str]:
        """The names of the numbers that are outside of the budget."""
        return [
            *(name for name, most in AT_MOST.items() if getattr(self, name) > most),
            *(name for name, least in AT_LEAST.items() if getattr(self, name) < least),
        ]


def tokens(source: str) -> int:
    """Names, numbers, strings and operators of `source`; those before the place where it stops being Python."""
    count = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            count += token.type in _KINDS or tokenize.tok_name[token.type].startswith("FSTRING")
    except (tokenize.TokenError, SyntaxError):
        pass
    return count


def code_lines(source: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in source.split("\n"))


def prose_words(source: str) -> int:
    """Words of Markdown, without code and the targets of links."""
    text = re.sub(r"```.*?```|`[^`]*`", " ", source, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return len(re.findall(r"[^\W\d_][\w'\u2019-]*", text))


def hidden(cell: Any) -> bool:
    """Whether the source of a cell is folded."""
    tags = set(cell["metadata"].get("tags", ()))
    return bool(cell["metadata"].get("jupyter", {}).get("source_hidden") or tags & FOLDED)


def measure(cells: Iterable[Any]) -> Measure:
    """The numbers of a notebook's cells, as `nbformat` reads them or as plain JSON."""
    words = lines = count = longest = outputs = visible = showing = gap = run = 0
    longest_at = gap_at = 0
    in_exercise = False
    for index, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if not GENERATED & set(cell["metadata"].get("tags", ())):
                words += prose_words(source)
            in_exercise = in_exercise and not re.search(r"^## (?!Your turn)", source, re.MULTILINE)
            in_exercise = in_exercise or "## Your turn" in source
            continue
        if not source.strip():
            continue
        shows = bool(cell["outputs"])
        outputs += shows and not in_exercise
        if hidden(cell) or in_exercise:
            run = 0 if shows else run
            continue
        size = code_lines(source)
        visible, showing = visible + 1, showing + shows
        lines, count, run = lines + size, count + tokens(source), run + size
        if size > longest:
            longest, longest_at = size, index
        if run > gap:
            gap, gap_at = run, index
        run = 0 if shows else run
    minutes = words / WORDS_PER_MINUTE + lines / LINES_PER_MINUTE + outputs / OUTPUTS_PER_MINUTE
    shown = round(100 * showing / visible) if visible else 100
    return Measure(words, lines, count, longest, visible, shown, gap, round(minutes), longest_at, gap_at)
