"""The table *Break it* of a page: changes to its recipe, each of which turns an assertion of the page red.

A row is literal: the old text, which stands once in the export cells; the new text; the words of the assertion. None
of them holds a `|`, which ends a cell of the table.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from playbook.kit.course import Playbook
from playbook.kit.reading import cells

SECONDS = 300  # for a changed page to fail
Script = Callable[[Path, Path, Mapping[str, str]], tuple[int, str]]  # its exit code and what it said on stderr
CODE = r"(`+)\s?(.+?)\s?\{}"
ROW = re.compile(rf"^\|\s*{CODE.format(1)}\s*\|\s*{CODE.format(3)}\s*\|\s*(.+?)\s*\|$", re.MULTILINE)
BEGIN = re.compile(r"^(?:\*\*Break it\b|#{2,3} Break it\b)", re.MULTILINE)
HEADING = re.compile(r"^## (?!Break it)", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """One row: put `new` in the place of `old`, and an assertion fails with `words`."""

    old: str
    new: str
    words: str
    line: int  # of the page's text


def table(playbook: Playbook) -> tuple[int, str]:
    """The line at which *Break it* begins and its text, up to the next section; 0 and nothing when there is none."""
    for cell in cells(playbook):
        begin = BEGIN.search(cell.content) if cell.markdown else None
        if begin:
            rest = cell.content[begin.start() :]
            end = HEADING.search(rest)
            return cell.at(BEGIN.pattern), rest[: end.start()] if end else rest
    return 0, ""


def changes(playbook: Playbook) -> list[Change]:
    """The rows of the table, in order."""
    start, text = table(playbook)
    found = []
    for row in ROW.finditer(text):
        line = start + text.count("\n", 0, row.start())
        found.append(Change(row[2], row[4], row[5], line))
    return found


def occurrences(playbook: Playbook, text: str) -> int:
    """How often `text` stands in the export cells."""
    return sum(cell.content.count(text) for cell in cells(playbook) if "export" in cell.tags)


def changed(playbook: Playbook, change: Change) -> str:
    """The page's text with the change made in its export cells."""
    lines = playbook.source.split("\n")
    for cell in cells(playbook):
        if "export" in cell.tags and change.old in cell.content:
            before, after = lines[: cell.line - 1], lines[cell.line - 1 + cell.content.count("\n") + 1 :]
            return "\n".join([*before, cell.content.replace(change.old, change.new, 1), *after])
    return playbook.source


def messages(playbook: Playbook) -> Iterator[re.Pattern[str]]:
    """What the page's assertions say; an f-string may say anything where its values go."""
    for cell in cells(playbook):
        if cell.markdown or cell.tags & {"exercise", "solution"}:
            continue
        try:
            tree = ast.parse(cell.content)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and node.msg is not None:
                yield _pattern(node.msg)


def _pattern(message: ast.expr) -> re.Pattern[str]:
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return re.compile("".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts))


def run(playbook: Playbook, change: Change, folder: Path, script: Script | None = None) -> str:
    """Run the changed page as a script, from a copy in `folder`; the last line it wrote to standard error.

    "" when the page ran to its end. The course's own files stay as they are. `script` runs a file in `folder` with an
    environment; by default in a new process of Python's.
    """
    from playbook.kit.pairing import clean_environment

    copy = folder / f"{playbook.name}.py"
    copy.write_text(changed(playbook, change), encoding="utf-8")
    env = clean_environment() | {"PYTHONPATH": str(playbook.root), "PYTHONIOENCODING": "utf-8"}
    code, said = (script or _in_a_process)(copy, folder, env)
    if code == 0:
        return ""
    return said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"


def _in_a_process(script: Path, folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=SECONDS)
    return done.returncode, done.stderr
