"""The exercise of the page "Mail": its checker, its hints, wrong answers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from playbook.auth.mail import Mail, MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.exercises import checker

HINTS = (
    "Keep the times at which mails went out, for each mailbox. Which of them count now?\n"
    "When must a mail be counted, if another thread looks while it is being sent?",
    "Under a lock: drop the old times, look whether there is room, and take the place.\n"
    "Send without the lock. If that fails, give the place back, and raise again.",
)

WRONG = (
    # capitals are another mailbox
    """
class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent, self.lock = {}, threading.Lock()

    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now = self.clock.now()
        with self.lock:
            recent = [at for at in self.sent.get(mail.to, []) if at > now - self.per]
            if len(recent) >= self.most:
                return
            self.sent[mail.to] = [*recent, now]
        try:
            self.sender.send(mail)
        except Exception:
            with self.lock:
                self.sent[mail.to].remove(now)
            raise
""",
    # counted after it was sent: two at once find the same room
    """
class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent = {}

    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now, mailbox = self.clock.now(), mail.to.lower()
        recent = [at for at in self.sent.get(mailbox, []) if at > now - self.per]
        if len(recent) >= self.most:
            return
        self.sender.send(mail)
        self.sent[mailbox] = [*recent, now]
""",
    # a failure takes the place for an hour
    """
class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent, self.lock = {}, threading.Lock()

    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now, mailbox = self.clock.now(), mail.to.lower()
        with self.lock:
            recent = [at for at in self.sent.get(mailbox, []) if at > now - self.per]
            if len(recent) >= self.most:
                return
            self.sent[mailbox] = [*recent, now]
        self.sender.send(mail)
""",
    # a window that begins anew each hour: six mails in two minutes
    """
class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.began, self.sent, self.lock = None, {}, threading.Lock()

    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now, mailbox = self.clock.now(), mail.to.lower()
        with self.lock:
            if self.began is None or now >= self.began + self.per:
                self.began, self.sent = now, {}
            if self.sent.get(mailbox, 0) >= self.most:
                return
            self.sent[mailbox] = self.sent.get(mailbox, 0) + 1
        try:
            self.sender.send(mail)
        except Exception:
            with self.lock:
                self.sent[mailbox] -= 1
            raise
""",
    # notices are stopped, too
    """
class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent, self.lock = {}, threading.Lock()

    def send(self, mail):
        now, mailbox = self.clock.now(), mail.to.lower()
        with self.lock:
            recent = [at for at in self.sent.get(mailbox, []) if at > now - self.per]
            if len(recent) >= self.most:
                return
            self.sent[mailbox] = [*recent, now]
        try:
            self.sender.send(mail)
        except Exception:
            with self.lock:
                self.sent[mailbox].remove(now)
            raise
""",
)


class Down(MemorySender):
    """A mail server that is away."""

    def send(self, mail: Mail) -> None:
        raise ConnectionRefusedError("the mail server is away")


class Slow(MemorySender):
    """Takes the first mail only when another has come to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def send(self, mail: Mail) -> None:
        super().send(mail)
        if len(self.mails) == 1:
            self.entered.set()
            self.go_on.wait(60)


class Told:
    """What a sender of the reader's does to mails, on a clock that we move."""

    def __init__(self, calm: Callable[..., Any], inner: MemorySender, most: int = 3) -> None:
        self.clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
        self.inner, self.sender = inner, calm(inner, self.clock, most, timedelta(hours=1))

    def got(self, number: int = 1, to: str = "ada@example.com", type: str = "reset-password") -> int:
        """How many of so many mails went out."""
        before = len(self.inner.mails)
        for _ in range(number):
            self.sender.send(Mail(to, type, "Subject", "text"))
        return len(self.inner.mails) - before


@checker
def check(calm: Any) -> str:
    """Five requests within the hour, other mailboxes, notices, a server that is away, two threads at once."""
    told = Told(calm, MemorySender())
    early = []
    for _ in range(5):
        early.append(told.got())
        told.clock.advance(timedelta(minutes=10))
    if early != [1, 1, 1, 0, 0]:
        return f"not yet: of five requests within 40 minutes {sum(early)} brought mail; three should, the first ones"
    if told.got(to="ADA@example.COM"):
        return "not yet: in capitals it is the same mailbox, and Ada got a fourth mail"
    if told.got(to="bob@example.com") != 1:
        return "not yet: Bob has got nothing so far, and gets nothing because of Ada"
    if told.got(5, type="notice") != 5:
        return "not yet: Ada's password was changed, and the notice was dropped"
    told.clock.advance(timedelta(minutes=12))
    late = told.got(3)
    if late != 1:
        return f"not yet: after 62 minutes one of the three mails is older than an hour; one may go out, and {late} did"
    if (told.got(3, "eve@example.com", "notice"), told.got(4, "eve@example.com")) != (3, 3):
        return "not yet: three notices to Eve should take no room from the mails that are counted"

    down, heard = Told(calm, Down(), most=1), 0
    for _ in range(3):
        try:
            down.got()
        except ConnectionRefusedError:
            heard += 1
    if heard != 3:
        return f"not yet: the mail server was away three times, and the caller heard of it {heard} times"

    slow = Slow()
    two = Told(calm, slow, most=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(two.got)
        slow.entered.wait(60)
        other = threads_end(two, slow)
        first.result()
    return "not yet: while one mail was being sent, a second took the same place" if other else "right"


def threads_end(two: Told, slow: Slow) -> int:
    """How many mails a second thread gets out while the first is being sent; it is let go on after that."""
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(two.got)
        try:
            return second.result(2)
        except TimeoutError:  # it waits for the first: a lock around all of it, slow but right
            slow.go_on.set()
            return second.result(60)
        finally:
            slow.go_on.set()
