"""The exercise of the page "Throttling": its checker, its two hints, and answers that are wrong."""

import math  # noqa: F401  for WRONG
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from playbook.auth.throttling import Allowance, Key, give_back, key_hash, spend, throttles
from playbook.foundations.engines import make_engine
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url

HINTS = (
    "See 'The idea', and the drawing: how long may the line of = be at most? How much of\nit does one attempt add?",
    "Count the intervals from `now` to `whole_at`. A begun interval counts as a whole one.\n"
    "Two kinds of rows have no intervals left, and one kind of key has no row.",
)

WRONG = (
    # a begun interval is not counted
    """
def attempts_left(db, allowance, key, now):
    mine = throttles.c.key_hash == key_hash(key)
    whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine)) or now
    return allowance.burst - (max(now, whole_at) - now) // allowance.every
""",
    # a quiet key saves up credit
    """
def attempts_left(db, allowance, key, now):
    mine = throttles.c.key_hash == key_hash(key)
    whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine)) or now
    return max(0, allowance.burst + (now - whole_at) // allowance.every)
""",
    # in minutes, whatever `every` is
    """
def attempts_left(db, allowance, key, now):
    mine = throttles.c.key_hash == key_hash(key)
    whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine)) or now
    minutes = max(0, (whole_at - now).total_seconds()) / 60
    return max(0, allowance.burst - math.ceil(minutes))
""",
    # tries it out, and gives nothing back
    """
def attempts_left(db, allowance, key, now):
    left = 0
    while spend(db.engine, allowance, key, now) == 0:
        left += 1
    return left
""",
    # a key without a row is taken for one that has used up everything
    """
def attempts_left(db, allowance, key, now):
    mine = throttles.c.key_hash == key_hash(key)
    whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine))
    if whole_at is None:
        return 0
    return max(0, allowance.burst + (now - max(now, whole_at)) // allowance.every)
""",
)

NINE = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


class Used:
    """One key in a new database, with its allowance and its clock."""

    def __init__(self, attempts_left: Callable[..., Any], burst: int, every: timedelta) -> None:
        self.count = attempts_left
        self.allowance = Allowance(burst, every)
        self.key: Key = ("exercise", str(burst), str(every))
        self.now = NINE
        self.engine = make_engine(lesson_url())
        throttles.create(self.engine)

    def left(self) -> Any:
        with self.engine.begin() as db:
            return self.count(db, self.allowance, self.key, self.now)

    def spend(self, times: int = 1) -> None:
        for _ in range(times):
            spend(self.engine, self.allowance, self.key, self.now)

    def whole_at(self) -> datetime | None:
        mine = throttles.c.key_hash == key_hash(self.key)
        with self.engine.connect() as db:
            return db.scalar(sa.select(throttles.c.whole_at).where(mine))

    def granted(self) -> int:
        """How many `spend` really grants now; it uses them up."""
        number = 0
        while spend(self.engine, self.allowance, self.key, self.now) == 0:
            number += 1
        return number


@checker
def check(attempts_left: Callable[..., Any]) -> str:
    """What `attempts_left` says, and then what `spend` grants, in situations of two allowances."""
    minute = timedelta(minutes=1)
    for burst, every in ((5, minute), (3, timedelta(seconds=90))):
        one = Used(attempts_left, burst, every)
        if (said := one.left()) != burst:
            return f"not yet: a key that was never used has {burst} attempts, and not {said!r}"
        if one.whole_at() is not None:
            return "not yet: after the question the key has used something up; only `spend` may do that"
        one.spend(2)
        before = one.whole_at()
        if (said := one.left()) != burst - 2:
            return f"not yet: two attempts of {burst} are used; {burst - 2} are left at once, and not {said!r}"
        if one.whole_at() != before:
            return "not yet: after the question the key's `whole_at` is another one"
        seconds = every.total_seconds() / 2
        one.now += every / 2
        if (said := one.left()) != burst - 2:
            return f"not yet: {seconds:g} seconds later no attempt has come back, but you say {said!r}"
        one.now += every / 2
        if (said := one.left()) != burst - 1:
            return f"not yet: after a whole interval of {every} one attempt is back, but you say {said!r}"
        one.spend(burst)
        if (said := one.left()) != 0:
            return f"not yet: all are used up, and `spend` refuses; you say {said!r}"
        one.now += 100 * every
        if (said := one.left()) != burst:
            return f"not yet: after a long silence {burst} attempts are there; you say {said!r}"
    one = Used(attempts_left, 4, minute)
    one.spend()
    with one.engine.begin() as db:
        give_back(db, one.allowance, one.key)
        give_back(db, one.allowance, one.key)
    if (said := one.left()) != 4:
        return f"not yet: more was given back than was used, and the key has 4 attempts; you say {said!r}"
    one.spend(3)
    for seconds in (0, 20, 59, 61, 130):
        one.now = NINE + timedelta(seconds=seconds)
        said, granted = one.left(), one.granted()
        if said != granted:
            return f"not yet: {seconds} seconds after nine you say {said!r}, and `spend` grants {granted}"
    return "right"
