"""Exercises: a checker says in words what is still wrong, and never raises a traceback at the reader."""

import functools
import traceback
from collections.abc import Callable
from typing import Any

RIGHT = "right"


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

    Whatever the reader's code raises becomes a sentence that names the error and the line it came from.
    """

    @functools.wraps(check)
    def run(*work: Any, **options: Any) -> Verdict:
        try:
            text = check(*work, **options)
        except Exception as error:
            text = f"not yet: {_in_words(error, check)}"
        verdict = Verdict(text)
        print(text)
        return verdict

    return run


def _in_words(error: Exception, check: Callable[..., str]) -> str:
    """`your code raised KeyError: 'id' at "return row['id']"`; for the checker's own asserts, their message."""
    if isinstance(error, NotImplementedError):
        return "nothing is written yet"
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    own = check.__code__.co_name
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name not in (own, "run") and f.line]
    where = f' at "{frames[-1].line}"' if frames and "site-packages" not in frames[-1].filename else ""
    return f"your code raised {reason.splitlines()[0]}{where}"
