"""Exercises: a checker says in words what is still wrong, and never raises a traceback at the reader."""

import functools
import sysconfig
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

from playbook.kit import progress

RIGHT = progress.RIGHT
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Verdict:
    """A checker's answer. True when the solution is right; already printed, so a notebook shows it once."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __bool__(self) -> bool:
        return self.text == RIGHT

    def __repr__(self) -> str:
        return self.text

    def _ipython_display_(self) -> None:
        """Nothing: it was printed."""


def checker(check: Callable[..., str]) -> Callable[..., Verdict]:
    """Make `check` a checker. It gets the reader's work and returns "right", or "not yet: ..." with what is wrong.

    Whatever the reader's code raises becomes a sentence that names the error and the line it came from. In a notebook
    of the workbook the verdict is remembered.
    """

    @functools.wraps(check)
    def run(*work: Any, **options: Any) -> Verdict:
        try:
            text = check(*work, **options)
        except (Exception, SystemExit) as error:
            text = f"not yet: {_in_words(error, check)}"
        if not isinstance(text, str):
            text = f"not yet: the checker itself gave no verdict, but {text!r}"
        verdict = Verdict(text)
        print(text)
        progress.remember(check.__module__, text)
        return verdict

    return run


def _in_words(error: BaseException, check: Callable[..., str]) -> str:
    """`your code raised KeyError: 'id' at "return row['id']"`; for the checker's own asserts, their message."""
    if isinstance(error, NotImplementedError):
        return "nothing is written yet"
    reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _foreign(frame)]
    theirs = [frame for frame in frames if not _inside(frame, check.__code__)]
    if not theirs:  # raised while the checker used what the reader's code gave it
        own_words = str(error).splitlines() if isinstance(error, AssertionError) else []
        return own_words[0].removeprefix("not yet: ") if own_words else f"checking it raised {reason}"
    return f"your code raised {reason}" + (f' at "{theirs[-1].line}"' if theirs[-1].line else "")


def _foreign(frame: traceback.FrameSummary) -> bool:
    """Whether the frame belongs to this module or to a library, which the reader did not write."""
    return frame.filename == __file__ or frame.filename.startswith(LIBRARIES) or frame.filename.startswith("<frozen")


def _inside(frame: traceback.FrameSummary, code: CodeType) -> bool:
    """Whether the frame's line is one of `code`'s own, functions and comprehensions in it included."""
    inner = any(isinstance(c, CodeType) and _inside(frame, c) for c in code.co_consts)
    own = frame.filename == code.co_filename and frame.lineno in {line for _, _, line in code.co_lines()}
    return own or inner
