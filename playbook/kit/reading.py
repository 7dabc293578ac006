"""A page's text as the rules read it: cells with their lines, and how a finding is written."""

import re
from dataclasses import dataclass
from functools import lru_cache

from playbook.kit import hook
from playbook.kit.course import Playbook


@dataclass(frozen=True)
class Cell:
    """A cell's content; `line` is the line of the text at which the content begins."""

    line: int
    content: str
    markdown: bool
    tags: frozenset[str]
    options: str

    def at(self, pattern: str) -> int:
        """The line of the text at which `pattern` first matches within the cell."""
        match = re.search(pattern, self.content, re.M)
        return self.line + (self.content.count("\n", 0, match.start()) if match else 0)


@lru_cache(maxsize=256)
def _cells(source: str) -> tuple[Cell, ...]:
    lines = source.split("\n")
    return tuple(
        Cell(c.start + 1, "\n".join(lines[c.start : c.stop]), c.markdown, c.tags, lines[c.start - 1])
        for c in hook.cells(source)
    )


def cells(playbook: Playbook) -> tuple[Cell, ...]:
    """The cells of a page with their contents."""
    return _cells(playbook.source)


def finding(playbook: Playbook, line: int, what: str, to_do: str) -> str:
    return f"playbook/{playbook.key}.py:{line}: {what}; {to_do}"
