"""The exercise of the page "Start and stop": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

from playbook.kit.exercises import checker

HINTS = (
    "See 'A check with a time limit': a check says something by raising or by returning.\n"
    "Which two things must the new check keep between two calls?",
    "Keep when the last run began, and the error that it raised, or None. A call first\n"
    "decides whether that is old enough to ask again. Then it raises the error, if any.",
)

WRONG = (
    # a failure is not remembered
    """
def remembered(check, seconds, clock):
    began = None
    def answer():
        nonlocal began
        if began is None or clock() - began >= seconds:
            check()
            began = clock()
    return answer
""",
    # a failure is remembered as a success
    """
def remembered(check, seconds, clock):
    began = None
    def answer():
        nonlocal began
        if began is None or clock() - began >= seconds:
            began = clock()
            check()
    return answer
""",
    # the error stays for ever
    """
def remembered(check, seconds, clock):
    began, error = None, None
    def answer():
        nonlocal began, error
        if began is None or clock() - began >= seconds:
            began = clock()
            try:
                check()
            except Exception as raised:
                error = raised
        if error is not None:
            raise error
    return answer
""",
    # each question starts the time again
    """
def remembered(check, seconds, clock):
    asked, error = None, None
    def answer():
        nonlocal asked, error
        before, asked = asked, clock()
        if before is None or asked - before >= seconds:
            error = None
            try:
                check()
            except Exception as raised:
                error = raised
        if error is not None:
            raise error
    return answer
""",
    # one memory for all checks
    """
memory = {}
def remembered(check, seconds, clock):
    def answer():
        if not memory or clock() - memory["began"] >= seconds:
            memory.update(began=clock(), error=None)
            try:
                check()
            except Exception as raised:
                memory["error"] = raised
        if memory["error"] is not None:
            raise memory["error"]
    return answer
""",
    # asked once and never again
    """
def remembered(check, seconds, clock):
    said = []
    def answer():
        if not said:
            try:
                check()
                said.append(None)
            except Exception as raised:
                said.append(raised)
        if said[0] is not None:
            raise said[0]
    return answer
""",
)

SECONDS = 5.0
# At second, the check is well?, (is it asked?, is the answer well?), what that shows.
STORY: tuple[tuple[float, bool, bool, bool, str], ...] = (
    (1000.0, True, True, True, "at the first call"),
    (1001.0, False, False, True, "a second after a run that went well"),
    (1004.9, False, False, True, "4.9 seconds after a run that went well"),
    (1005.0, False, True, False, "5 seconds after the last run"),
    (1006.0, True, False, False, "a second after a run that failed"),
    (1009.5, True, False, False, "4.5 seconds after a run that failed"),
    (1010.0, True, True, True, "5 seconds after a run that failed"),
    (1011.0, False, False, True, "a second after it recovered"),
    (1030.0, False, True, False, "long after the last run"),
)
Remembered = Callable[[Callable[[], Any], float, Callable[[], float]], Callable[[], Any]]


class Broken(Exception):
    """What the checks of this exercise raise."""


class Asked:
    """A check that counts its runs, and fails when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.well = True

    def __call__(self) -> None:
        self.runs += 1
        if not self.well:
            raise Broken("no connection")


@checker
def check(remembered: Remembered) -> str:
    """Tell a story of nine questions; then see that two checks have two memories."""
    now = [0.0]
    asked = Asked()
    answer = remembered(asked, SECONDS, lambda: now[0])
    if not callable(answer):
        return f"not yet: return a check, a function without arguments, not {answer!r}"
    if asked.runs:
        return "not yet: the check ran before anybody asked the new one"
    for second, well, runs, answers_well, when in STORY:
        now[0] = second
        asked.well = well
        before = asked.runs
        said = outcome(answer)
        if asked.runs - before > 1:
            return f"not yet: {when}, one question ran the check {asked.runs - before} times"
        if (asked.runs > before) != runs:
            return f"not yet: {when}, the check was {'asked again' if asked.runs > before else 'not asked'}"
        if (said is None) != answers_well:
            what = "said that all is well" if said is None else "raised an error"
            return f"not yet: {when}, the new check {what}, and that is not what the last run said"
        if said is not None and not isinstance(said, Broken):
            return f"not yet: {when}, it raised {type(said).__name__} in place of the check's own error"
    other = Asked()
    second_answer = remembered(other, SECONDS, lambda: now[0])
    if outcome(second_answer) is not None or other.runs != 1:
        return "not yet: a second check answers with what the first one said"
    return "right"


def outcome(answer: Callable[[], Any]) -> Exception | None:
    """What a check raises, or None. An error of the reader's own code goes on to the reader."""
    try:
        answer()
    except (NameError, TypeError, AttributeError):
        raise
    except Exception as error:
        return error
    return None
