"""What the reader has done: verdicts of checkers and hints that were shown, one line each in `workbook/progress.jsonl`.

Lines are only added, each in one write, so two notebooks that report at once lose nothing. Standard library only,
because every page imports it. A verdict counts when a notebook of the workbook is its reader's own: see `here`.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER, LOG = "workbook", "progress.jsonl"
RIGHT = "right"
LONGEST = 500  # letters of a verdict that are kept
EXERCISES = "playbook.exercises."


@dataclass
class Progress:
    """What the lines say. Pages are keys, as `foundations/settings`."""

    solved: set[str] = field(default_factory=set)
    verdicts: dict[str, str] = field(default_factory=dict)  # the last one of each page
    hints: dict[str, int] = field(default_factory=dict)  # how many have been shown
    unreadable: list[int] = field(default_factory=list)  # numbers of lines that are not ours


def here() -> Path | None:
    """The workbook whose notebook this process is the kernel of; None in a script, a test or an original.

    JupyterLab and VS Code tell the kernel which notebook it is for. nbval and nbclient do not.
    """
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return None
    told = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME", "")
    for folder in Path(os.path.abspath(told)).parents if told else ():
        if folder.name == FOLDER and (folder.parent / "playbook" / "course.toml").is_file():
            # A kernel that was started from such a notebook inherits its variable, but runs elsewhere.
            now = Path.cwd()
            return folder if any(os.path.samefile(folder, place) for place in (now, *now.parents)) else None
    return None


def read(folder: Path) -> Progress:
    """What the workbook in `folder` remembers; nothing when it remembers nothing. Raises OSError."""
    found = Progress()
    try:
        lines = (folder / LOG).read_bytes().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, 1):
        match _entry(line):
            case {"page": str(page), "verdict": str(verdict)}:
                found.verdicts[page] = verdict
                if verdict == RIGHT:
                    found.solved.add(page)
            case {"page": str(page), "hint": int(hint)}:
                found.hints[page] = max(hint, found.hints.get(page, 0))
            case _ if line.strip():
                found.unreadable.append(number)
    return found


def _entry(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def append(folder: Path, entry: dict[str, Any]) -> None:
    """Add one line. Raises OSError; then nothing is added."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    with (folder / LOG).open("a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line that was cut short must not spoil this one
                line = b"\n" + line
        file.write(line)


def remember(module: str, verdict: str) -> None:
    """Remember what the checker in `module` has said, if a reader asked it in the workbook. Raises nothing."""
    folder = here() if module.startswith(EXERCISES) else None
    if folder is None:
        return
    page, verdict = module.removeprefix(EXERCISES).replace(".", "/"), verdict[:LONGEST]
    try:
        if read(folder).verdicts.get(page) != verdict:
            append(folder, {"page": page, "verdict": verdict})
    except OSError as error:
        print(f"(not remembered: {FOLDER}/{LOG}: {error.strerror})")
