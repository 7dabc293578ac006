"""The exercise of the page "Clock and identifiers": its checker, its two hints, and answers that are wrong."""

import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from playbook.foundations.clock_and_identifiers import MILLISECOND, FixedClock, Identifiers
from playbook.kit.exercises import checker

HINTS = (
    "See 'An id that sorts by age': which bits of an id are the time, and which id\n"
    "of a millisecond is the lowest? `datetime.combine` makes a midnight in a zone.",
    "A day begins at midnight in its zone and ends before the next midnight. The bound\n"
    "is the lowest number with that millisecond: all bits after the time are 0.",
)

WRONG = (
    # the day of Greenwich
    """
def ids_of_day(day, zone):
    first = (datetime.combine(day, time.min, UTC) - EPOCH) // MILLISECOND
    after = (datetime.combine(day + timedelta(days=1), time.min, UTC) - EPOCH) // MILLISECOND
    return uuid.UUID(int=first << 80), uuid.UUID(int=after << 80)
""",
    # an ordinary id of that millisecond as the bound
    """
def ids_of_day(day, zone):
    first = FixedClock(datetime.combine(day, time.min, zone))
    after = FixedClock(datetime.combine(day + timedelta(days=1), time.min, zone))
    return Identifiers(first).new(), Identifiers(after).new()
""",
    # the last millisecond of the day as the end
    """
def ids_of_day(day, zone):
    first = (datetime.combine(day, time.min, zone) - EPOCH) // MILLISECOND
    last = (datetime.combine(day, time.max, zone) - EPOCH) // MILLISECOND
    return uuid.UUID(int=first << 80), uuid.UUID(int=last << 80)
""",
    # a day of 24 hours
    """
def ids_of_day(day, zone):
    start = datetime.combine(day, time.min, zone).astimezone(UTC)
    bounds = [(start - EPOCH) // MILLISECOND, (start + timedelta(days=1) - EPOCH) // MILLISECOND]
    return tuple(uuid.UUID(int=bound << 80) for bound in bounds)
""",
    # seconds for milliseconds
    """
def ids_of_day(day, zone):
    first = int(datetime.combine(day, time.min, zone).timestamp())
    after = int(datetime.combine(day + timedelta(days=1), time.min, zone).timestamp())
    return uuid.UUID(int=first << 80), uuid.UUID(int=after << 80)
""",
)

ZONES = ("UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Auckland", "Europe/Berlin")
# An ordinary day, the last of a year, and the two of 23 and 25 hours in Berlin.
DAYS = (date(2026, 6, 10), date(2026, 12, 31), date(2026, 3, 29), date(2026, 10, 25))
TAILS: tuple[bytes, ...] = (bytes(10), b"\xff" * 10)  # the lowest and the highest in a new millisecond
Bounds = Callable[[date, tzinfo], tuple[uuid.UUID, uuid.UUID]]


def made_at(instant: datetime, tail: bytes) -> uuid.UUID:
    """An id of this instant."""
    return Identifiers(FixedClock(instant), lambda size: tail).new()


@checker
def check(ids_of_day: Bounds) -> str:
    """Ask for days of several zones; try ids of the first and last milliseconds, and of each hour around."""
    for day, name in itertools.product(DAYS, ZONES):
        zone = ZoneInfo(name)
        bounds = ids_of_day(day, zone)
        if not (isinstance(bounds, tuple) and [type(bound) for bound in bounds] == [uuid.UUID, uuid.UUID]):
            return f"not yet: return two UUIDs in a tuple, not {bounds!r}"
        first, after = bounds
        start = datetime.combine(day, time.min, zone).astimezone(UTC)
        for hour, early in itertools.product((12, *range(-3, 29)), (0, 1, 333)):
            instant = start + timedelta(hours=hour) - early * MILLISECOND
            local = instant.astimezone(zone)
            for tail in TAILS:
                inside = first <= made_at(instant, tail) < after
                if inside != (local.date() == day):
                    return wrong(day, local, tail, inside)
    return "right"


def wrong(day: date, local: datetime, tail: bytes, inside: bool) -> str:
    """One id that is on the wrong side, in words."""
    which = "lowest" if tail == TAILS[0] else "highest"
    what = "is counted in" if inside else "is left out"
    moment = local.isoformat(sep=" ", timespec="milliseconds")
    return f"not yet: asked for {day} in {local.tzinfo}, the {which} id of {moment} {what}"
