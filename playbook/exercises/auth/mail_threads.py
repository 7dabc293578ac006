"""The exercise of the page "Mail threads": its checker, its hints, wrong answers; and what the page's stage needs."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi import BackgroundTasks, FastAPI

from playbook.auth.mail import Mail, Sender, SmtpSender
from playbook.auth.mail_queue import MailQueue, Queued
from playbook.exercises.auth.mail_queue import FROM, NOON, Away, reset_mail
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.exercises import checker
from playbook.kit.lesson import mail_server, serving

__all__ = [
    "HINTS",
    "WRONG",
    "Held",
    "at_the_end",
    "check",
    "during_a_tarpit",
    "health",
    "queue_with_a_pause",
    "reset_mail",
]
logging.getLogger("mail_threads").addHandler(logging.NullHandler())


class Held:
    """A sender that waits until `go_on` is set."""

    def __init__(self) -> None:
        self.go_on, self._entered = threading.Event(), threading.Semaphore(0)

    def send(self, mail: Mail) -> None:
        self._entered.release()
        self.go_on.wait(60)

    def wait_entered(self, number: int) -> None:
        """Wait until `number` mails are being sent."""
        for _ in range(number):
            if not self._entered.acquire(timeout=60):
                raise TimeoutError("waited 60 s for a mail to be sent")


def queue_with_a_pause() -> MailQueue:
    """One mail to Ada, which is due in an hour: an attempt has failed."""
    queue = MailQueue(pause=lambda attempt: 3600)
    queue.add(reset_mail())
    queue.send_next(Away())
    return queue


def health(make: Callable[[Sender], Any]) -> str:
    """Ask 40 times for Ada's address while the mail server holds each mail, and say what `/health` does then.

    `make(sender)` returns `send(mail, tasks)`, which the endpoint calls.
    """
    app = FastAPI()
    with mail_server(hold=True) as mails:
        send = make(SmtpSender(mails.url, FROM, FixedClock(NOON), timeout=60))

        @app.post("/forgot")
        def forgot(tasks: BackgroundTasks) -> None:
            send(reset_mail(), tasks)

        @app.get("/free")
        async def free() -> float:
            return anyio.to_thread.current_default_thread_limiter().available_tokens

        @app.get("/health")
        def alive() -> str:
            return "alive"

        with serving(app) as client, ThreadPoolExecutor(40) as threads:
            asked = [threads.submit(client.post, "/forgot", timeout=60) for _ in range(40)]
            mails.wait_held(40)
            free_threads = client.get("/free", timeout=60).json()
            said = "answers" if free_threads and client.get("/health", timeout=60).json() else "waits for a thread"
            mails.release()
            for one in asked:
                one.result()
    return f"/health {said}"


def during_a_tarpit(make: Callable[[Sender], Any]) -> str:
    """Mallory signs up six times at a server that never replies, then Ada asks for her link; what becomes of it."""
    with mail_server(hold=["tar.example"]) as mails:
        box = make(SmtpSender(mails.url, FROM, FixedClock(NOON), timeout=60))
        for number in range(6):
            box.post(reset_mail(f"mallory{number}@tar.example"))
        while mails.held < 2:
            time.sleep(0.001)
        box.post(reset_mail())
        while mails.held < 4 and not mails.deliveries:
            time.sleep(0.001)
        said = f"{'arrives' if mails.deliveries else 'waits'}, the tarpit holds {mails.held}"
        mails.release()
        box.close()
    return said


PROGRAM = """
import logging, sys
from datetime import UTC, datetime
from playbook.auth.mail import Mail, SmtpSender
from playbook.auth.mail_queue import MailQueue
from playbook.auth.mail_threads import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock

logging.disable()
sender = SmtpSender(sys.argv[1], "shop@shop.example", FixedClock(datetime(2026, 11, 2, tzinfo=UTC)), timeout=60)
postbox = Postbox(sender, MailQueue())
for number in range(3):
    postbox.post(Mail("ada@example.com", "reset-password", "A new password", "https://pantry.example/reset"))
print("posted", flush=True)
"""


def at_the_end(last_line: str) -> int:
    """Run a process that posts three mails, runs `last_line` and ends. How many mails the server has accepted then.

    The server holds each mail, and answers as soon as the process waits for it.
    """
    with mail_server(hold=True) as mails:
        command = [sys.executable, "-c", PROGRAM + last_line, mails.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if last_line:
                mails.wait_held()
                mails.release()
            process.wait(60)
        return len(mails.deliveries)


HINTS = (
    "How many threads are busy when only one is left? What is that number when there is\nonly one thread at all?",
    "Begin with what `may_go` returns. If `threads - 1` mails, and at least one, are under\n"
    "way, keep those of it that reset a password.",
)

WRONG = (
    # forgets the share of a destination
    """
def keep_one(due, under_way, threads):
    if len(under_way) < max(1, threads - 1):
        return due
    return [queued for queued in due if queued.mail.type == "reset-password"]
""",
    # one thread: it is always the last one, and sends resets only
    """
def keep_one(due, under_way, threads):
    allowed = may_go(due, under_way, threads)
    if len(under_way) < threads - 1:
        return allowed
    return [queued for queued in allowed if queued.mail.type == "reset-password"]
""",
    # keeps the last one for nobody
    """
def keep_one(due, under_way, threads):
    if len(under_way) >= max(1, threads - 1):
        return []
    return may_go(due, under_way, threads)
""",
    # resets first, but any mail may take the last thread
    """
def keep_one(due, under_way, threads):
    return sorted(may_go(due, under_way, threads), key=lambda q: q.mail.type != "reset-password")
""",
    # counts the destination's share for one thread less
    """
def keep_one(due, under_way, threads):
    allowed = may_go(due, under_way, max(1, threads - 1))
    if len(under_way) < max(1, threads - 1):
        return allowed
    return [queued for queued in allowed if queued.mail.type == "reset-password"]
""",
)


@dataclass(frozen=True)
class Case:
    due: str
    under_way: str
    threads: int
    expected: str
    words: str


def mails_of(text: str) -> list[Queued]:
    """`r1 n2`: a reset to `1.example`, a notice to `2.example`."""
    kinds = {"r": "reset-password", "n": "notice", "v": "verify-email"}
    return [Queued(Mail(f"{one}@{one[1:]}.example", kinds[one[0]], "Hello", ""), 0) for one in text.split()]


CASES = (
    Case("n1 r2", "", 4, "n1 r2", "four threads are free, and not all that is due may go, in its order"),
    Case("n1 r2 v3", "n4 n5", 4, "n1 r2 v3", "two of four threads are busy, and not all that is due may go"),
    Case("n1 n2", "n3 n4 n5", 4, "", "the last of four threads takes a notice"),
    Case("n1 r2 v3 r4", "n5 n6 n7", 4, "r2 r4", "the last of four threads does not take just the resets"),
    Case("n1 r2", "r3 r4 r5", 4, "r2", "three resets are under way, and the last thread takes a notice, or no reset"),
    Case("n1 n2", "n1 n1", 4, "n2", "a destination has more than half of the threads"),
    Case("r1 r2", "n1 r1 n3", 4, "r2", "a reset takes more than its destination's share, or another waits"),
    Case("n1", "n1 n2", 5, "n1", "a destination may have two of five threads, and has one"),
    Case("n1 r2", "n1", 4, "n1 r2", "a destination may have two of four threads, and has one"),
    Case("n1 r2", "", 1, "n1 r2", "there is one thread, and it does not take everything"),
    Case("n1 r2", "n3", 2, "r2", "one of two threads is busy, and the last one does not take just the reset"),
)


@checker
def check(keep_one: Callable[[list[Any], list[Any], int], list[Any]]) -> str:
    """What may go, in eleven situations."""
    for case in CASES:
        due, under_way = mails_of(case.due), mails_of(case.under_way)
        answer = keep_one(list(due), list(under_way), case.threads)
        if not isinstance(answer, list):
            return "not yet: a list of what may go should come back"
        if " ".join(queued.mail.to.partition("@")[0] for queued in answer) != case.expected:
            return f"not yet: {case.words}"
    return "right"
