# %% [markdown]
"""
# Mail queue

Let no answer wait for a mail server, and no mail wait for somebody else's.

| | |
|---|---|
| **Use it when** | a request sends mail, or calls any server that may be slow: a payment provider, a webhook |
| **You need** | [mail](mail.ipynb), [request_and_transaction](../foundations/request_and_transaction.ipynb), [transactions](../foundations/transactions.ipynb) |
| **Time** | 20 minutes |
| **Topics** | background queue, background task, timing leak, account enumeration, head-of-line blocking, bulkhead, retry, backoff, greylisting, tarpit, priority, bounded queue, graceful shutdown, celery, outbox |
| **Standard** | RFC 5321, 4.5.4.1; OWASP ASVS 5.0 (6.3.8, 16.2.5) |
"""

# %% [markdown]
"""
## The decision

A request decides that a mail goes out. Who talks to the mail server, and when?

| option | good | costs |
|---|---|---|
| the endpoint | the caller learns of a failure | the answer takes as long as somebody else's server; when that is down, so are you |
| FastAPI's `BackgroundTasks` | one line | a slow mail server takes the threads that answer requests; no second try; no bound |
| **a bounded queue in the process, filled after the commit** | every answer takes the same time; tries again; empties at shutdown | what is queued is lost when the process is killed |
| a table of mails, written in the transaction (*outbox*) | nothing is lost | a table with credentials in it, a relay, and mails that go out twice |

We take the **queue**: whoever misses a link presses "send again". Choose the outbox for what nobody can ask for again:
an invoice, a legal notice. The production track builds it.
"""

# %% [markdown]
"""
## See it break

The endpoint for a forgotten password. It gives everybody the same answer, because whether somebody has an account
is nobody's business. The mail server is slow today. What does a stranger learn who asks for two addresses?
"""

# %%
import smtplib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
from fastapi import BackgroundTasks, FastAPI

from playbook.auth.mail import Mail, MemorySender, SmtpSender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.lesson import checker, lesson_url, mail_server, on_postgres, serving, show_http

FROM, clock = "Pantry <pantry@pantry.example>", FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))


def reset_mail(to):
    return Mail(to, "reset-password", "A new password", "https://pantry.example/reset")


def send_at_once(url, to):
    SmtpSender(url, FROM, clock).send(reset_mail(to))


def service(send):
    app = FastAPI()

    @app.post("/forgot")
    def forgot(email: str, tasks: BackgroundTasks):
        if email == "ada@example.com":  # the one account
            send(email, tasks)
        return {"message": "If there is an account, a mail is on its way."}

    @app.get("/health")
    def health():
        return {"status": "alive"}

    return app


at_once = service(lambda email, tasks: send_at_once(mails.url, email))
with mail_server(hold=True) as mails, serving(at_once) as client, ThreadPoolExecutor(1) as threads:
    client.post("/forgot?email=bob@example.com")
    asked = threads.submit(client.post, "/forgot?email=ada@example.com")
    mails.wait_held()
    print("while the mail server thinks, ada's request is answered:", asked.done())
    mails.release()
    asked.result()
    show_http(client)

# %% [markdown]
"""
Equal answers, but for one of them the stranger waits: a clock is all it takes to find out who has an account.

With `BackgroundTasks` the mail goes out after the answer. The task runs in the pool of 40 threads that also runs your
endpoints. Somebody asks 40 times for each address, and the mail server is slow. What does `/health` say?
"""


# %%
def ask_forty_times(client, email):
    answers = {client.post(f"/forgot?email={email}").status_code for _ in range(40)}
    return f"40 times {email}: {answers}"


later = service(lambda email, tasks: tasks.add_task(send_at_once, mails.url, email))
with mail_server(hold=True) as mails, serving(later) as client:
    print(ask_forty_times(client, "bob@example.com"), client.get("/health").json())
    print(ask_forty_times(client, "ada@example.com"), end=" ")
    mails.wait_held(40)
    try:
        print(client.get("/health", timeout=0.5).json())
    except httpx.ReadTimeout:
        print("no answer")
    mails.release()

# %% [markdown]
"""
The whole service stands still for everybody, and it tells again who has an account.

So a queue and a thread of its own, with a pause before each retry, as every tutorial has it. Mallory signs up six times
at `slow.example`, whose server answers *451, come back later*. Then Ada asks for her link. Predict: when does it go out?
"""

# %%
asleep, wake = threading.Event(), threading.Event()


def try_and_sleep(url, to, attempts=6):
    for _ in range(attempts):
        try:
            return send_at_once(url, to)
        except smtplib.SMTPException:
            asleep.set()
            wake.wait(60)  # stands for the pause


with mail_server(domains={"slow.example": "451 4.7.1 come back later"}) as mails, ThreadPoolExecutor(1) as one_thread:
    for number in range(6):
        one_thread.submit(try_and_sleep, mails.url, f"mallory{number}@slow.example")
    for_ada = one_thread.submit(try_and_sleep, mails.url, "ada@example.com")
    asleep.wait(30)
    print(f"in Mallory's first pause: Ada's mail is done: {for_ada.done()}")
    wake.set()
    for_ada.result()
    print(f"it went out after {mails.recipients.index('ada@example.com')} attempts for Mallory")

# %% [markdown]
"""
With pauses of one second, then two, and so on up to sixteen, that is three minutes, in which nobody who has forgotten
a password gets back in. Sixty sign-ups make it half an hour. (*Head-of-line blocking*: the first in the line holds all.)

## Build it

`deliver` makes one attempt and never raises. The pause before the next one belongs to the mail, not to
the thread: a thread that sleeps keeps every other mail waiting for one destination. A server that refuses strangers at
first (*greylisting*) takes the mail after some ten minutes. When the connection is lost before the reply, nobody knows
whether the mail was accepted. It is sent again, so it can arrive twice.
"""

# %% tags=["export"]
import logging
import random

from playbook.auth.mail import Mail, MailType, Sender, may_pass, reply_code

log = logging.getLogger("pantry.mail")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds


def backoff(attempt: int) -> float:
    """Seconds from attempt number `attempt` to the next: four times the last, less up to half, drawn at random."""
    return random.uniform(0.5, 1) * min(LONGEST_PAUSE, FIRST_PAUSE * 4.0 ** (attempt - 1))


def deliver(sender: Sender, mail: Mail, attempt: int) -> bool | None:
    """True: sent. False: refused for good. None: may be accepted later. A failure is logged without the link."""
    try:
        sender.send(mail)
        return True
    except Exception as error:
        later = may_pass(error)
        kind = f"{type(error).__name__} {reply_code(error) or ''}".rstrip()
    log.warning("mail %s (%s): attempt %d failed, %s", mail.id, mail.type, attempt, kind)
    return None if later else False


# %% [markdown]
"""
Which mail is next? A reset before a notice. One destination, the part behind the `@`, gets half of the threads and of
the queue at most: it may be slow, or refuse for ever. And one thread takes nothing but resets, so that a hundred
sign-ups at slow addresses keep nobody out of an account.
"""

# %% tags=["export"]
URGENCY: dict[MailType, int] = {"reset-password": 0, "verify-email": 1, "invitation": 2, "notice": 3}


class Queued:
    """A mail in the queue. `due`: not tried before, in seconds of `time.monotonic()`."""

    def __init__(self, mail: Mail, number: int) -> None:
        self.mail, self.attempts, self.due = mail, 0, 0.0
        self.rank = (URGENCY[mail.type], number)  # the lowest goes first
        self.destination = mail.to.rpartition("@")[2].lower()


def rank(queued: Queued) -> tuple[int, int]:
    return queued.rank


# %% tags=["export"]
class MailQueue:
    """The mails that wait, and those under way in `threads` threads, `running` now. The caller holds a lock."""

    def __init__(self, threads: int, capacity: int) -> None:
        if threads < 1:
            raise ValueError("mail needs threads: at least 1")
        self.threads, self.capacity, self.added, self.running = threads, capacity, 0, 0
        self.waiting: list[Queued] = []
        self.under_way: list[Queued] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.under_way)

    def add(self, mail: Mail) -> Mail | None:
        """Add `mail`. Returns the mail that there is no room for: a less urgent one, or `mail` itself."""
        self.added += 1
        new = Queued(mail, self.added)
        full, lost = len(self) >= self.capacity, new
        same = sum(q.destination == new.destination for q in self.waiting + self.under_way)
        self.waiting.append(new)
        if same < max(1, self.capacity // 2):
            if not full:
                return None
            lost = max(self.waiting, key=rank)
        self.waiting.remove(lost)
        return lost.mail


# %% tags=["export"]
def take(queue: MailQueue, now: float) -> Queued | None:
    """The most urgent mail that is due and may have a thread; it is under way from now on."""
    destinations = [q.destination for q in queue.under_way]
    only_resets = len(queue.under_way) >= max(1, queue.threads - 1)
    share = max(1, queue.threads // 2)
    due = [q for q in queue.waiting if q.due <= now and not (only_resets and q.rank[0])]
    free = [q for q in due if destinations.count(q.destination) < share]
    if not free:
        return None
    chosen = min(free, key=rank)
    queue.waiting.remove(chosen)
    queue.under_way.append(chosen)
    return chosen


# %% [markdown]
"""
Some work ends in a mail and must not make an answer wait, as looking up who has forgotten a password. It has a thread
of its own, so that it never stands behind mails. The library's pool has no bound, cannot say when it is empty, and
keeps an exception until somebody asks for it.
"""

# %% tags=["export"]
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Calls:
    """Runs calls in one thread, in turn; at most `capacity` are queued or running. An exception is logged."""

    def __init__(self, capacity: int) -> None:
        self._thread, self._capacity, self._unfinished = ThreadPoolExecutor(1), capacity, 0
        self._changed, self._closed = threading.Condition(), threading.Event()

    def submit(self, call: Callable[[], object]) -> bool:
        """Queue `call` without waiting; False when there is no room, or after closing."""
        with self._changed:
            if room := self._unfinished < self._capacity and not self._closed.is_set():
                self._unfinished += 1
                self._thread.submit(call).add_done_callback(self._finished)
            return room

    def _finished(self, future: Future[object]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("in the background: %s", type(error).__name__, exc_info=error)
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()


# %% tags=["export"]
class Background(Calls):
    """Calls, and an end to them."""

    def _idle(self) -> bool:
        return not self._unfinished

    def drain(self, timeout: float = 10) -> bool:
        """Wait until nothing is queued or running; False when `timeout` seconds were too short."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def close(self, timeout: float = 10) -> bool:
        """Take no more and finish what was taken; False when `timeout` seconds were too short."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        settled = self.drain(timeout)
        self._thread.shutdown(wait=settled, cancel_futures=True)
        return settled


# %% tags=["export"]
import time


def next_mail(queue: MailQueue, changed: threading.Condition, closed: threading.Event) -> Queued | None:
    """Wait until a mail may go, and take it; None when no mail is left. After closing nothing is paused for."""
    with changed:
        while queue.waiting:
            now = float("inf") if closed.is_set() else time.monotonic()
            if (queued := take(queue, now)) is not None:
                return queued
            later = [q.due - now for q in queue.waiting if q.due > now]
            changed.wait(min(later, default=None))
        queue.running -= 1  # in the same turn: who posts the next mail must see that this thread goes
    return None


# %% [markdown]
"""
The threads come with the mails and go with them, and a process that ends does not wait for them. Each takes what is
next, or waits until something is due.
"""

# %% tags=["export"]
Pause = Callable[[int], float]  # seconds after this attempt


class MailThreads(Background):
    """The threads that send. `sent` and `dropped` count mails; `sender` is the one given."""

    def __init__(self, queue: MailQueue, sender: Sender, attempts: int, pause: Pause) -> None:
        super().__init__(queue.capacity)
        self.sender, self.sent, self.dropped = sender, 0, 0
        self._queue, self._attempts, self._pause = queue, attempts, pause

    def _send_while_there_are(self) -> None:
        while (queued := next_mail(self._queue, self._changed, self._closed)) is not None:
            queued.attempts += 1
            self._settle(queued, deliver(self.sender, queued.mail, queued.attempts))

    def _settle(self, queued: Queued, sent: bool | None) -> None:
        with self._changed:
            self._queue.under_way.remove(queued)
            self._changed.notify_all()
            if sent:
                self.sent += 1
            elif sent is None and queued.attempts < self._attempts and not self._closed.is_set():
                queued.due = time.monotonic() + self._pause(queued.attempts)
                self._queue.waiting.append(queued)
            else:
                self._lose(queued.mail, "given up")

    def _idle(self) -> bool:
        return not self._unfinished and not len(self._queue)

    def _lose(self, mail: Mail, why: str) -> None:
        self.dropped += 1
        log.error("mail %s (%s): %s", mail.id, mail.type, why)


# %% [markdown]
"""
A full queue drops a mail and says so: to wait would tell who has an account. When the service stops there are no pauses
any more: what waits is tried once.
"""


# %% tags=["export"]
class Postbox(MailThreads):
    """Sends in the background: `post` returns at once."""

    def __init__(
        self, sender: Sender, threads: int = 4, capacity: int = 1000, attempts: int = 8, pause: Pause = backoff
    ) -> None:
        super().__init__(MailQueue(threads, capacity), sender, attempts, pause)

    def post(self, mail: Mail) -> None:
        """Queue `mail`. Without room, or after `close`, the least urgent is dropped, and the log says so."""
        with self._changed:
            over = self._closed.is_set() and not self._unfinished  # a call that was taken may still post
            if (lost := mail if over else self._queue.add(mail)) is not None:
                self._lose(lost, "dropped, the queue takes no more")
            if self._queue.waiting and self._queue.running < self._queue.threads:
                self._queue.running += 1
                threading.Thread(target=self._send_while_there_are, name="mail", daemon=True).start()
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Whether there is no room. Ask before a mail is promised, and tell everybody alike."""
        return self._closed.is_set() or len(self._queue) >= self._queue.capacity

    def close(self, timeout: float = 10) -> bool:
        """Take no more, send what is queued; False when `timeout` seconds were too short, and the rest is lost."""
        settled = super().close(timeout)
        with self._changed:
            while self._queue.waiting:
                self._lose(self._queue.waiting.pop().mail, "lost, the service stops")
            if self._queue.under_way:
                log.error("%d mail is still being sent: nobody waits for it", len(self._queue.under_way))
        return settled


# %% [markdown]
"""
## See it work

The forty requests again, with the mail server held. Then the service stops.
"""

# %%
queued = service(lambda email, tasks: postbox.post(reset_mail(email)))
with mail_server(hold=True) as mails:
    postbox = Postbox(SmtpSender(mails.url, FROM, clock))
    with serving(queued) as client:
        print(ask_forty_times(client, "ada@example.com"), client.get("/health").json())
        mails.release()
    postbox.close()
    print(f"after the stop: {len(mails.messages)} delivered, {postbox.dropped} dropped")

# %% [markdown]
"""
Mallory once more: six sign-ups at a server that says 451, six at one that takes the mail and never replies. The pauses
are real. Where is Ada's link?
"""

# %%
lines, handler = [], logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
log.handlers, log.propagate = [handler], False


def sign_up_mail(to):
    return Mail(to, "verify-email", "Confirm your address", "https://pantry.example/verify")


with mail_server(domains={"slow.example": "451 4.7.1 come back later"}, hold=["tar.example"]) as mails:
    postbox = Postbox(SmtpSender(mails.url, FROM, clock))
    for number in range(6):
        postbox.post(sign_up_mail(f"mallory{number}@slow.example"))
        postbox.post(sign_up_mail(f"mallory{number}@tar.example"))
    mails.wait_held(2)
    postbox.post(reset_mail("ada@example.com"))
    mails.wait_for(1, timeout=60)
    print("delivered:", [message["To"] for message in mails.messages])
    print(f"the server that never replies holds {mails.held} of its six")
    mails.release()
    postbox.close()
print(
    f"the log says how often a mail failed: {any('attempt' in line for line in lines)}; to whom: {'mallory' in str(lines)}"
)

# %% [markdown]
"""
Those two hold two threads until their half minute is over, and no third mail of that destination gets one. Ada's went
before all that wait, in the thread that is kept for it.
"""

# %% [markdown]
"""
## On PostgreSQL

Is a mail posted inside the transaction, or after it? Two owners of an organization invite somebody at the same moment.
Each invitation is a row with a token, and both also write the organization's row, so one of the two transactions runs
again. Predict: how many mails, and how many of their links open something?
"""

# %%
import sqlalchemy as sa

from playbook.auth.mail import link
from playbook.foundations.clock_and_identifiers import hash_token, new_token
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction

demo = sa.MetaData()
organizations = sa.Table("organizations", demo, sa.Column("invited", sa.Integer))
invitations = sa.Table("invitations", demo, sa.Column("token_hash", sa.String))


def two_invite(url, inside):
    engine, postbox, meeting, won = make_engine(url), Postbox(MemorySender()), threading.Barrier(2), threading.Event()
    demo.drop_all(engine)
    demo.create_all(engine)
    transaction(engine, lambda session: session.execute(organizations.insert().values(invited=0)))

    def invite(to):
        def work(session):
            invited, token = session.scalar(sa.select(organizations.c.invited)), new_token("invite")
            session.execute(invitations.insert().values(token_hash=hash_token(token)))
            mail = Mail(
                to, "invitation", "Join us", "...", link("https://pantry.example", f"/invitations/{token}"), token
            )
            if inside:
                postbox.post(mail)
            if not won.is_set():
                meeting.wait(10)
            session.execute(organizations.update().values(invited=invited + 1))
            return mail

        mail = transaction(engine, work, sleep=lambda seconds: won.wait(10))
        won.set()
        if not inside:
            postbox.post(mail)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(invite, ["bob@example.com", "eve@example.com"]))
    postbox.close()
    rows = transaction(engine, lambda session: set(session.scalars(sa.select(invitations.c.token_hash))))
    engine.dispose()
    opening = sum(hash_token(mail.token) in rows for mail in postbox.sender.mails)
    return len(postbox.sender.mails), opening


def both_ways(url):
    return {"inside": two_invite(url, inside=True), "after": two_invite(url, inside=False)}


embedded, there = both_ways(lesson_url()), on_postgres(both_ways)
for when, (number, opening) in embedded.items():
    print(f"posted {when} the transaction: {number} mails, {opening} links that open something")

# %% [markdown]
"""
A mail cannot be rolled back, on either engine. So `work` *returns* it, and the endpoint posts what came out of the
transaction that was committed. A crash in between loses it: a row without a mail, which "send again" repairs.

## Check it
"""

# %%
assert embedded == {"inside": (3, 2), "after": (2, 2)} and there in (embedded, None)

box = MailQueue(threads=4, capacity=100)
refused = [box.add(sign_up_mail(f"mallory{number}@slow.example")) for number in range(60)]
assert sum(mail is None for mail in refused) == 50, "one destination gets half of the queue"
assert all(box.add(sign_up_mail(f"eve@{number}.example")) is None for number in range(50))
lost = box.add(reset_mail("ada@example.com"))
assert lost is not None and lost.type == "verify-email", "in a full queue the least urgent gives way"
taken = [take(box, now=0.0) for _ in range(5)]
assert taken[0].mail.to == "ada@example.com", "a reset goes before what came earlier"
assert sum(queued is not None for queued in taken) == 3, "the last thread is kept for resets"
assert [queued.destination for queued in taken[1:3]] == ["slow.example"] * 2
assert box.add(reset_mail("bob@example.com")) is not None or take(box, now=0.0).mail.to == "bob@example.com"

with mail_server(hold=True) as mails:
    postbox = Postbox(SmtpSender(mails.url, FROM, clock), capacity=6)
    for _ in range(10):
        postbox.post(reset_mail("ada@example.com"))
    assert postbox.dropped == 7, "a full queue drops, and nobody waits"
    mails.release()
    assert postbox.close() and postbox.sent == len(mails.inbox("ada@example.com")) == 3
print("no destination holds another; resets go first; a full queue says so and makes nobody wait")

# %% [markdown]
"""
## Your turn

A link lives for fifteen minutes, and the queue tries for twelve. With longer pauses a mail may arrive whose link is
dead already: worse than none, since Ada will try it. Write `Fresh(sender, clock, most)`, a sender around a sender:

- from the first attempt on a mail has the time `most`; an attempt after that raises `TooLate`, and nothing is sent;
- a `notice` has no link and is sent however late;
- the queue must hear of each failure, and must not try again after `TooLate`;
- what needs no further attempt is forgotten: the service runs for months. Several threads send at once.
"""

# %% tags=["exercise"]
from datetime import timedelta

from playbook.auth.mail import Sender
from playbook.foundations.clock_and_identifiers import Clock


class TooLate(Exception):
    """The mail's link would be dead when it arrives."""


class Fresh:
    def __init__(self, sender: Sender, clock: Clock, most: timedelta) -> None:
        self.sender = sender

    def send(self, mail: Mail) -> None:
        self.sender.send(mail)  # replace this


# %%
@checker
def check_fresh(fresh):
    clock, most = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), timedelta(minutes=10)
    errors = []

    class Inner(MemorySender):
        def send(self, mail):
            if errors:
                raise errors[0]
            super().send(mail)

    inner = Inner()
    sender = fresh(inner, clock, most)

    def attempt(mail):
        """What became of one attempt: "sent", or the error's name."""
        try:
            sender.send(mail)
        except Exception as error:
            return type(error).__name__
        return "sent"

    def remembered():
        return sum(len(value) for value in vars(sender).values() if isinstance(value, (dict, set, list)))

    first, second = reset_mail("ada@example.com"), reset_mail("ada@example.com")
    errors[:] = [smtplib.SMTPServerDisconnected("away")]
    if attempt(first) != "SMTPServerDisconnected":
        return "not yet: the queue did not hear that the server went away"
    clock.advance(most - timedelta(seconds=1))
    if attempt(first) != "SMTPServerDisconnected":
        return "not yet: a second before the end an attempt is still worth it"
    clock.advance(timedelta(seconds=2))
    errors.clear()
    if attempt(first) != "TooLate" or inner.mails:
        return "not yet: after `most` nothing goes out, and the error is TooLate"
    if may_pass(TooLate()):
        return "not yet: the queue would try again after TooLate"
    if attempt(second) != "sent":
        return "not yet: a second mail to Ada is not the first one: which of its fields is the same at every attempt?"
    notice = Mail("ada@example.com", "notice", "Changed", "")
    errors[:] = [ConnectionRefusedError()]
    attempt(notice)
    clock.advance(10 * most)
    errors.clear()
    if attempt(notice) != "sent":
        return "not yet: a notice is sent however late"
    before = remembered()
    for error in (None, smtplib.SMTPDataError(550, b"never")):
        errors[:] = [error] if error else []
        for _ in range(500):
            attempt(reset_mail("ada@example.com"))
    if remembered() > before + 1:
        return "not yet: what was sent, or refused for good, is remembered for ever"
    return "right"


check_fresh(Fresh)


# %% tags=["solution"]
class Fresh:
    def __init__(self, sender: Sender, clock: Clock, most: timedelta) -> None:
        self.sender, self.clock, self.most = sender, clock, most
        self.first: dict[uuid.UUID, datetime] = {}  # one dict operation at a time: no lock needed

    def send(self, mail: Mail) -> None:
        if mail.type == "notice":
            return self.sender.send(mail)
        now = self.clock.now()
        if now - self.first.setdefault(mail.id, now) > self.most:
            del self.first[mail.id]
            raise TooLate
        try:
            self.sender.send(mail)
        except Exception as error:
            if may_pass(error):
                raise  # there will be another attempt, or the queue gives up
            del self.first[mail.id]
            raise
        del self.first[mail.id]


assert check_fresh(Fresh)

# %% [markdown]
"""
(When the queue gives up after its last attempt, `Fresh` does not hear of it, and keeps one entry. A service that runs
for months removes entries older than `most` now and then.)

## Hand it over

- **Reviewer**: `post` stands after the transaction and gets what `work` returned. A route that takes an
  Idempotency-Key commits after its endpoint, so it does not post. No `sleep` in a thread that others wait for.
- **Security reviewer**: ask `full` before anything is looked up, and answer 503 to everybody alike.
- **Front end**: no answer says whether a mail went out. Offer "send again". A 503 with `Retry-After` means later.
- **Operator**: watch the log `pantry.mail` for "given up", "dropped" and "lost". A process that is killed loses what is
  queued; so does one whose mail server is away longer than the attempts last, some twelve minutes.
- **Test engineer**: `Postbox(MemorySender())` and `drain()`.

## Sources

RFC 5321, 4.2.1 (reply codes), 4.5.4.1 (retries). RFC 6647 (greylisting). OWASP ASVS 5.0, 6.3.8, 16.2.5; OWASP Forgot
Password Cheat Sheet. M. Nygard, *Release It!*, "Bulkheads". M. Brooker, "Exponential Backoff and Jitter".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail](mail.ipynb) · [course map](../index.ipynb) · Next: [Mailed links](mailed_links.ipynb)
"""
