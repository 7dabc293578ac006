"""The exercise of the page "Mail queue": its checker, its hints, wrong answers; and what the page's stage needs."""

import logging
import smtplib
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI

from playbook.auth.mail import Mail, MemorySender, Sender, SmtpSender, may_pass
from playbook.foundations.clock_and_identifiers import Clock, FixedClock
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import mail_server, serving

FROM = "Pantry <pantry@pantry.example>"
logging.getLogger("mail_queue").addHandler(logging.NullHandler())  # it names ids, which differ in each run
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def reset_mail(to: str = "ada@example.com") -> Mail:
    """A mail with a link that opens an account."""
    return Mail(to, "reset-password", "A new password", "https://pantry.example/reset")


def who_is_answered(make: Callable[[Sender], Any]) -> dict[str, bool]:
    """Who gets an answer while the mail server says nothing: Bob, who has no account, and Ada.

    `make(sender)` returns something with `post(mail)`, which the endpoint calls, and perhaps with `close()`.
    """
    app = FastAPI()
    with mail_server(hold=True) as mails:
        box = make(SmtpSender(mails.url, FROM, FixedClock(NOON), timeout=60))

        @app.post("/forgot/{name}")
        def forgot(name: str) -> str:
            if name == "ada":  # the one account
                box.post(reset_mail())
            return "If there is an account, a mail is on its way."

        with serving(app) as client, ThreadPoolExecutor(2) as threads:
            asked = {name: threads.submit(client.post, f"/forgot/{name}", timeout=60) for name in ("bob", "ada")}
            mails.wait_held()
            asked["bob"].result()
            if hasattr(box, "close"):
                asked["ada"].result()  # whoever has a thread of its own answers, however busy the machine is
            answered = {name: one.done() for name, one in asked.items()}
            mails.release()
            for one in asked.values():
                one.result()
        getattr(box, "close", lambda: None)()
    return answered


class Away:
    """A sender whose mail server is down. `tried` counts."""

    tried = 0

    def send(self, mail: Mail) -> None:
        self.tried += 1
        raise ConnectionRefusedError


class OneThread:
    """One thread for all mails, which sleeps before it tries one again: what many write first."""

    def __init__(self, sender: Sender, pause: Callable[[int], float]) -> None:
        self.sender, self.pause = sender, pause
        self._thread = ThreadPoolExecutor(1)
        self.close = self._thread.shutdown

    def post(self, mail: Mail) -> None:
        self._thread.submit(self._send, mail)

    def _send(self, mail: Mail) -> None:
        for attempt in range(1, 7):
            try:
                return self.sender.send(mail)
            except OSError:
                time.sleep(self.pause(attempt))


def attempts_before_ada(make: Callable[..., Any], pause: float = 0.0) -> str:
    """Mallory signs up six times at a server that says "451 come back later", then Ada asks for her link.

    `make(sender, pause=...)` returns a box with `post` and `close`. How often Mallory's mails were tried before Ada's.
    """
    with mail_server(domains={"slow.example": "451 4.7.1 come back later"}) as mails:
        box = make(SmtpSender(mails.url, FROM, FixedClock(NOON)), pause=lambda attempt: pause)
        for number in range(6):
            box.post(reset_mail(f"mallory{number}@slow.example"))
        box.post(reset_mail())
        mails.wait_for(1)
        number = mails.recipients.index("ada@example.com")
        box.close()
    return str(number) if number > 6 else "at most 6"


def two_invite(url: str, inside: bool) -> tuple[int, int]:
    """Two owners invite somebody at the same moment, and one transaction runs again. `inside`: the work posts the mail.

    How many mails went out, and how many of their links belong to a row.
    """
    engine = make_engine(url)
    demo = sa.MetaData()
    organizations = sa.Table("organizations", demo, sa.Column("invited", sa.Integer))
    invitations = sa.Table("invitations", demo, sa.Column("token", sa.String))
    demo.drop_all(engine)
    demo.create_all(engine)
    transaction(engine, lambda db: db.execute(organizations.insert().values(invited=0)))
    meeting, won = threading.Barrier(2), threading.Event()
    posted: list[Mail] = []

    def invite(to: str) -> None:
        def work(db: Any) -> Mail:
            invited, token = db.scalar(sa.select(organizations.c.invited)), uuid.uuid4().hex
            db.execute(invitations.insert().values(token=token))
            mail = Mail(to, "invitation", "Join us", "...", None, token)
            if inside:
                posted.append(mail)
            if not won.is_set():
                meeting.wait(60)
            db.execute(organizations.update().values(invited=invited + 1))
            return mail

        def pause(seconds: float) -> None:
            won.wait(60)

        mail = transaction(engine, work, sleep=pause)
        won.set()
        if not inside:
            posted.append(mail)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(invite, ["bob@example.com", "eve@example.com"]))
    rows = transaction(engine, lambda db: set(db.scalars(sa.select(invitations.c.token))))
    engine.dispose()
    return len(posted), sum(mail.token in rows for mail in posted)


class TooLate(Exception):
    """The mail's link would be dead when it arrives."""


HINTS = (
    "Which field of a mail is the same at every attempt, and different for two mails to\n"
    "Ada? And which function of the page says whether there will be another attempt?",
    "Keep the time of the first attempt in a dict, by `mail.id`. Compare, then send.\n"
    "Forget the entry when the mail is sent, is too late, or `may_pass` says no.",
)

WRONG = (
    # by address: a second mail to Ada is taken for the first
    """
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}
    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now = self.clock.now()
        if now - self.first.setdefault(mail.to, now) > self.most:
            raise TooLate
        self.sender.send(mail)
        self.first.pop(mail.to, None)
""",
    # never forgets
    """
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}
    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now = self.clock.now()
        if now - self.first.setdefault(mail.id, now) > self.most:
            raise TooLate
        self.sender.send(mail)
""",
    # swallows the error: the queue thinks that the mail is sent
    """
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}
    def send(self, mail):
        now = self.clock.now()
        if mail.type != "notice" and now - self.first.setdefault(mail.id, now) > self.most:
            del self.first[mail.id]
            raise TooLate
        try:
            self.sender.send(mail)
        except Exception as error:
            if may_pass(error):
                return
        self.first.pop(mail.id, None)
""",
    # forgets at each failure: every attempt is the first
    """
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}
    def send(self, mail):
        now = self.clock.now()
        if mail.type != "notice" and now - self.first.setdefault(mail.id, now) > self.most:
            raise TooLate
        try:
            self.sender.send(mail)
        finally:
            self.first.pop(mail.id, None)
""",
    # a notice is too late, too
    """
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}
    def send(self, mail):
        now = self.clock.now()
        if now - self.first.setdefault(mail.id, now) > self.most:
            del self.first[mail.id]
            raise TooLate
        try:
            self.sender.send(mail)
        except Exception as error:
            if not may_pass(error):
                del self.first[mail.id]
            raise
        del self.first[mail.id]
""",
)


class Inner(MemorySender):
    """A sender that fails with `error` as long as there is one."""

    error: Exception | None = None

    def send(self, mail: Mail) -> None:
        if self.error is not None:
            raise self.error
        super().send(mail)


@checker
def check(fresh: Callable[[Sender, Clock, timedelta], Any]) -> str:
    """Attempts before and after `most`, two mails to one address, a notice, a thousand mails."""
    clock, most, inner = FixedClock(NOON), timedelta(minutes=10), Inner()
    sender = fresh(inner, clock, most)

    def attempt(mail: Mail, error: Exception | None = None) -> str:
        inner.error = error
        try:
            sender.send(mail)
        except Exception as raised:
            return type(raised).__name__
        return "sent"

    def remembered() -> int:
        return sum(len(value) for value in vars(sender).values() if isinstance(value, (dict, set, list)))

    away = smtplib.SMTPServerDisconnected("away")
    first, second = reset_mail(), reset_mail()
    if attempt(first, away) != "SMTPServerDisconnected":
        return "not yet: the mail server went away, and the queue did not hear of it"
    clock.advance(most - timedelta(seconds=1))
    if attempt(first, away) != "SMTPServerDisconnected":
        return "not yet: the second attempt came a second before the end of `most`, and was not made"
    clock.advance(timedelta(seconds=2))
    if attempt(first) != "TooLate" or inner.mails:
        return "not yet: the third attempt came after `most`; nothing may go out, and the queue must hear TooLate"
    if may_pass(TooLate()):
        return "not yet: the queue would try again after TooLate"
    if attempt(second) != "sent":
        return "not yet: Ada asked for a second mail, its first attempt is now, and it was not sent"
    notice = Mail("ada@example.com", "notice", "Changed", "")
    attempt(notice, away)
    clock.advance(10 * most)
    if attempt(notice) != "sent":
        return "not yet: a notice is sent however late it is"
    before = remembered()
    for error in (None, smtplib.SMTPDataError(550, b"never")):
        for _ in range(500):
            attempt(reset_mail(), error)
    if remembered() > before + 1:
        return f"not yet: after 500 mails that were sent and 500 refused for good, {remembered()} are remembered"
    return "right"
