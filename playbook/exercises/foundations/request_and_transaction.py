"""The exercise of the page "Request and transaction": its checker, its two hints, and answers that are wrong."""

import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url

HINTS = (
    "See 'The dependency': `transact(work)` gives `work` one argument, returns what it\n"
    "returns, and may call it several times. What must `transact` be given here?",
    "Write an inner function of one argument. It begins with an empty list, hands the\n"
    "list's `append` to `work`, and returns the result together with the list.",
)

# Plausible, and refused in words. They may use what the page exports and what this module defines.
WRONG = (
    # Announced in an attempt that was rolled back, and called all the same.
    "def transact_then(transact, work):\n"
    "    calls = []\n"
    "    result = transact(lambda session: work(session, calls.append))\n"
    "    for call in calls:\n"
    "        try:\n"
    "            call()\n"
    "        except Exception:\n"
    "            pass\n"
    "    return result",
    # Calls at once, inside the transaction.
    "def transact_then(transact, work):\n    return transact(lambda session: work(session, lambda call: call()))",
    # Calls at the end of the attempt, which is before the commit.
    "def transact_then(transact, work):\n"
    "    def attempt(session):\n"
    "        calls = []\n"
    "        result = work(session, calls.append)\n"
    "        for call in calls:\n"
    "            call()\n"
    "        return result\n"
    "    return transact(attempt)",
    # The first function that fails takes the answer and the other functions along.
    "def transact_then(transact, work):\n"
    "    def attempt(session):\n"
    "        calls = []\n"
    "        return work(session, calls.append), calls\n"
    "    result, calls = transact(attempt)\n"
    "    for call in calls:\n"
    "        call()\n"
    "    return result",
    # One guard around all of them: the first failure skips the rest.
    "def transact_then(transact, work):\n"
    "    def attempt(session):\n"
    "        calls = []\n"
    "        return work(session, calls.append), calls\n"
    "    result, calls = transact(attempt)\n"
    "    try:\n"
    "        for call in calls:\n"
    "            call()\n"
    "    except Exception:\n"
    "        pass\n"
    "    return result",
    # A rollback is hidden, and what was announced is called.
    "def transact_then(transact, work):\n"
    "    calls = []\n"
    "    def attempt(session):\n"
    "        calls.clear()\n"
    "        return work(session, calls.append)\n"
    "    try:\n"
    "        return transact(attempt)\n"
    "    finally:\n"
    "        for call in calls:\n"
    "            try:\n"
    "                call()\n"
    "            except Exception:\n"
    "                pass",
    # The order is turned round.
    "def transact_then(transact, work):\n"
    "    def attempt(session):\n"
    "        calls = []\n"
    "        return work(session, calls.append), calls\n"
    "    result, calls = transact(attempt)\n"
    "    while calls:\n"
    "        try:\n"
    "            calls.pop()()\n"
    "        except Exception:\n"
    "            pass\n"
    "    return result",
)

metadata = sa.MetaData()
bookings = sa.Table("bookings", metadata, sa.Column("seat", sa.String, primary_key=True))


class Airline:
    """A database, a `transact` on it, and the mails that were sent, each with the seats committed at that moment."""

    def __init__(self) -> None:
        self.engine = make_engine(lesson_url())
        metadata.create_all(self.engine)
        self.mails: list[tuple[str, bool]] = []
        self.attempts = 0

    def transact(self, work: Any, retry: Any = somebody_was_first) -> Any:
        return transaction(self.engine, work, retry=retry, sleep=lambda seconds: None)

    def committed(self, seat: str) -> bool:
        with self.engine.connect() as connection:
            found = connection.scalar(sa.select(bookings.c.seat).where(bookings.c.seat == seat))
        return found is not None

    def mail(self, text: str, seat: str) -> Any:
        return lambda: self.mails.append((text, self.committed(seat)))


@checker
def check(transact_then: Any) -> str:
    """What `work` announces is called once, in order, after the commit, whatever one of the functions does."""
    logging.disable(logging.CRITICAL)  # an answer may log the failure that is planted here
    try:
        return committed(transact_then) or rolled_back(transact_then) or run_again(transact_then) or "right"
    finally:
        logging.disable(logging.NOTSET)


def committed(transact_then: Any) -> str:
    """Three functions are announced; the second fails."""
    airline = Airline()

    def broken() -> None:
        raise ConnectionError("the mail server is down")

    def work(session: orm.Session, later: Any) -> str:
        session.execute(bookings.insert().values(seat="1A"))
        later(airline.mail("first", "1A"))
        later(broken)
        later(airline.mail("last", "1A"))
        return "done"

    try:
        result = transact_then(airline.transact, work)
    except ConnectionError:
        if not airline.committed("1A"):
            return "not yet: the mail server is down, and so there is no booking"
        return "not yet: one mail failed, and the client is told that the booking failed; it is committed"
    if result != "done":
        return f"not yet: `work` returned 'done', and `transact_then` returned {result!r}"
    if not airline.committed("1A"):
        return "not yet: nothing was committed"
    if any(not there for _, there in airline.mails):
        return "not yet: when the mail went out, the booking was not committed"
    sent = [text for text, _ in airline.mails]
    if sent == ["first"]:
        return "not yet: the second function failed, and the third was not called"
    if sent == ["last", "first"]:
        return "not yet: the functions were called in the wrong order"
    if sent != ["first", "last"]:
        return f"not yet: the mails 'first' and 'last' were announced, and {sent} went out"
    return ""


def rolled_back(transact_then: Any) -> str:
    """The work fails after it has announced a mail."""
    airline = Airline()

    def work(session: orm.Session, later: Any) -> None:
        session.execute(bookings.insert().values(seat="1A"))
        later(airline.mail("booked", "1A"))
        raise LookupError("no such passenger")

    try:
        transact_then(airline.transact, work)
    except LookupError:
        if airline.mails:
            return "not yet: the work was rolled back, and the mail went out all the same"
        return ""
    return "not yet: the work failed, and `transact_then` did not raise its exception"


def run_again(transact_then: Any) -> str:
    """Another transaction is first, so the work runs twice."""
    airline = Airline()

    def work(session: orm.Session, later: Any) -> None:
        airline.attempts += 1
        free = session.scalar(sa.select(bookings.c.seat).where(bookings.c.seat == "1A")) is None
        if airline.attempts == 1:
            with airline.engine.begin() as other:
                other.execute(bookings.insert().values(seat="1A"))
        seat = "1A" if free else "1B"
        later(airline.mail(seat, seat))
        session.execute(bookings.insert().values(seat=seat))

    transact_then(airline.transact, work)
    if airline.attempts != 2:
        return f"not yet: the work met a conflict and should have run twice, but ran {airline.attempts} times"
    sent = [text for text, _ in airline.mails]
    if sent != ["1B"]:
        return f"not yet: the work ran twice and booked 1B in the end; the mails that went out name {', '.join(sent)}"
    return ""
