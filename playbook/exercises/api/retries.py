"""The exercise of the page "Retries": its checker, its two hints, and answers that are wrong."""

from typing import Any

from playbook.kit.exercises import checker

HINTS = (
    "See 'The budget': a class that keeps a number, and two methods that change it.\n"
    "Which two numbers does a breaker have to remember?",
    "Keep the failures in a row and the second until which the breaker refuses. `allows`\n"
    "can move that second itself, so that the next caller is refused while a trial runs.",
)

WRONG = (
    # after the pause all callers come at once
    "class Breaker:\n"
    "    def __init__(self, failures=3, pause=10):\n"
    "        self.failures, self.pause, self.count, self.until = failures, pause, 0, 0\n"
    "    def allows(self, now):\n"
    "        return self.count < self.failures or now >= self.until\n"
    "    def record(self, succeeded, now):\n"
    "        self.count = 0 if succeeded else self.count + 1\n"
    "        self.until = now + self.pause",
    # a success between failures is not noticed
    "class Breaker:\n"
    "    def __init__(self, failures=3, pause=10):\n"
    "        self.failures, self.pause, self.count, self.until = failures, pause, 0, 0\n"
    "    def allows(self, now):\n"
    "        if self.count < self.failures:\n"
    "            return True\n"
    "        if now < self.until:\n"
    "            return False\n"
    "        self.until = float('inf')\n"
    "        return True\n"
    "    def record(self, succeeded, now):\n"
    "        if not succeeded:\n"
    "            self.count += 1\n"
    "        elif self.count >= self.failures:\n"
    "            self.count = 0\n"
    "        self.until = now + self.pause",
    # the trial's failure counts as the first of three
    "class Breaker:\n"
    "    def __init__(self, failures=3, pause=10):\n"
    "        self.failures, self.pause, self.count, self.until = failures, pause, 0, 0\n"
    "    def allows(self, now):\n"
    "        if self.count < self.failures:\n"
    "            return True\n"
    "        if now < self.until:\n"
    "            return False\n"
    "        self.count = 0\n"
    "        return True\n"
    "    def record(self, succeeded, now):\n"
    "        self.count = 0 if succeeded else self.count + 1\n"
    "        self.until = now + self.pause",
    # the pause is counted from the first failure
    "class Breaker:\n"
    "    def __init__(self, failures=3, pause=10):\n"
    "        self.failures, self.pause, self.count, self.until = failures, pause, 0, 0\n"
    "    def allows(self, now):\n"
    "        if self.count < self.failures:\n"
    "            return True\n"
    "        if now < self.until:\n"
    "            return False\n"
    "        self.until = float('inf')\n"
    "        return True\n"
    "    def record(self, succeeded, now):\n"
    "        self.count = 0 if succeeded else self.count + 1\n"
    "        if self.count == 1 or self.until == float('inf'):\n"
    "            self.until = now + self.pause",
)


def failed_at(breaker: Any, *moments: float) -> None:
    """Requests that were allowed and failed, one at each moment."""
    for moment in moments:
        breaker.allows(moment)
        breaker.record(False, moment)


def is_open(breaker: Any, now: float) -> bool:
    """Whether the breaker lets a request pass, as a truth value."""
    return bool(breaker.allows(now))


@checker
def check(breaker: Any) -> str:
    """Play several short stories, each with a breaker of its own."""
    new = breaker(failures=3, pause=10)
    if not is_open(new, 0):
        return "not yet: a new breaker should let requests pass"
    failed_at(new, 0, 1)
    if not is_open(new, 1):
        return "not yet: two failures of three should let the next request pass"
    new.record(True, 2)
    failed_at(new, 3, 4)
    if not is_open(new, 4):
        return "not yet: it should count failures *in a row*; a success stood between these four"

    broken = breaker(failures=3, pause=10)
    failed_at(broken, 0, 4, 8)
    if is_open(broken, 8):
        return "not yet: after the third failure in a row no request should pass"
    if is_open(broken, 17.9):
        return "not yet: the pause lasts 10 seconds from the *last* failure, at 8; at 17.9 a request passed"
    if not is_open(broken, 18):
        return "not yet: after the pause one request should pass as a trial"
    if is_open(broken, 18) or is_open(broken, 60):
        return "not yet: while the trial is under way, a second request passed. All callers would come at once"
    broken.record(False, 61)
    if is_open(broken, 62) or is_open(broken, 70.9):
        return "not yet: the trial failed at 61, so no request should pass until 71"
    if not is_open(broken, 71):
        return "not yet: the second pause ends at 71, and then there is another trial"
    broken.record(True, 72)
    if not (is_open(broken, 72) and is_open(broken, 72)):
        return "not yet: the trial succeeded, so all requests should pass again"
    failed_at(broken, 73, 74)
    if not is_open(broken, 74):
        return "not yet: after a success the count of failures should begin again"

    other = breaker(failures=1, pause=2)
    failed_at(other, 100)
    if is_open(other, 101.9) or not is_open(other, 102):
        return "not yet: use the numbers that the breaker was made with: here one failure, and a pause of 2 seconds"
    return "right"
