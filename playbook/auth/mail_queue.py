# %% [markdown]
"""
# Mail queue

No answer waits for a mail server, and no mail waits until another is tried again.

| | |
|---|---|
| **Use it when** | a request sends mail, or calls another server that may be slow |
| **You need** | [mail](mail.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | background queue, timing leak, head-of-line blocking, backoff, outbox |
| **Standard** | RFC 5321 (4.5.4.1); OWASP ASVS 5.0 (6.3.8, 16.2.5) |

```python
from playbook.auth.mail_queue import MailQueue

queue = MailQueue(urgent=["reset-password", "verify-email"])  # one per process
lost = queue.add(mail)  # after the commit; returns at once
queue.send_next(sender)  # again and again, in a thread of its own
```

*Lift: 131 lines in 2 files; needs nothing.*

## See it break

Ada has forgotten her password and asks for a link. The service gives everybody the same
answer, because a stranger must not learn who has an account. But for Ada it also sends
a mail, before it answers.

The folded cell imports `who_is_answered(make)`. It starts a service that posts its
mails to `make(sender)`, and a mail server that accepts each mail and is slow to say so.
Mallory asks for Bob, who has no account, and for Ada. Who gets an answer while the mail
server is silent? `threading`, `Mail`, `MemorySender`, `OneThread`, `Away`,
`attempts_before_ada`, `reset_mail`, `two_invite`, `lesson_url` and `on_postgres` are
for later.
"""

# %% tags=["stage"]
import threading

from playbook.auth.mail import Mail, MemorySender
from playbook.exercises.auth.mail_queue import (
    Away,
    OneThread,
    attempts_before_ada,
    reset_mail,
    two_invite,
    who_is_answered,
)
from playbook.kit.lesson import lesson_url, on_postgres


# %% tags=["predict"]
class AtOnce:
    def __init__(self, sender):
        self.post = sender.send


print(who_is_answered(AtOnce))

# %% [markdown]
"""
A clock tells Mallory who has an account.

So the mails get a thread of their own, `OneThread`. It sends one mail after the other,
and sleeps before it tries one again, six times at most. Mallory signs up six times at a
mail server that answers *451, come back later*. Then Ada asks for her link. Predict:
how many attempts for Mallory come before Ada's mail?
"""

# %% tags=["predict"]
print(attempts_before_ada(OneThread))

# %% [markdown]
"""
With pauses of 1, 2, 4, 8 and 16 seconds, that is three minutes without an account. The
first in the line holds all others: **head-of-line blocking**.

## The decision

Who talks to the mail server?

| option | good | costs |
|---|---|---|
| the endpoint; Django's `send_mail` | a failure is seen | the answer waits |
| FastAPI's `BackgroundTasks` | one line | takes the endpoints' threads, tries once |
| **a bounded queue in the process** | no answer waits, tries again | lost at a kill |
| Celery, RQ, Django-Q | survives a kill | a broker and workers to run |
| a table of mails (*outbox*) | nothing is lost | a table of credentials; mails twice |

We choose the **queue**: a person who misses a link presses "send again". Choose the
outbox when nobody can ask again, as for an invoice.

## Build it

### The idea

The pause belongs to the mail, not to the thread. A mail that waits costs one entry of a
list, with the time when it is **due**: it is not tried before.

### The pause

A server may refuse strangers at first (*greylisting*) and take the mail ten minutes
later. So each pause is longer than the last, which is called
**[backoff](../glossary.md#exponential-backoff)**. Half of it is random, so that mails
do not come back at the same moment.
"""

# %% tags=["export"]
import random

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds


def backoff(attempt: int) -> float:
    """Seconds after attempt 1, 2, ...: four times the last, less up to half of it."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 4.0 ** (attempt - 1))
    return random.uniform(0.5, 1) * longest


# %%
longest = [min(LONGEST_PAUSE, 4.0**number) for number in range(7)]
print(f"pauses up to {longest} s, at most {sum(longest) / 60:.0f} minutes")

# %% [markdown]
"""
### One attempt

`deliver` never raises. `may_pass`, of the page on mail, says whether a later attempt
can succeed. The log names the mail by its id, without address and link.
"""

# %% tags=["export"]
import logging

from playbook.auth.mail import Mail, Sender, may_pass, reply_code

log = logging.getLogger("mail_queue")


def deliver(sender: Sender, mail: Mail, attempt: int) -> bool | None:
    """True: sent. False: refused for good. None: may be accepted later."""
    try:
        sender.send(mail)
        return True
    except Exception as error:
        kind = f"{type(error).__name__} {reply_code(error) or ''}".rstrip()
        log.warning("mail %s (%s): attempt %d, %s", mail.id, mail.type, attempt, kind)
        return None if may_pass(error) else False


# %%
away = Away()  # a mail server that is down
print(deliver(MemorySender(), reset_mail(), 1), deliver(away, reset_mail(), 1))

# %% [markdown]
"""
### What waits

The lowest **urgency** goes first. The **destination** of a mail is the part behind the
`@`: somebody else's server.
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(eq=False)
class Queued:
    """A mail in the queue. `due`: not tried before, in seconds of the queue's clock."""

    mail: Mail
    urgency: int
    attempts: int = 0
    due: float = 0.0

    @property
    def destination(self) -> str:
        return self.mail.to.rpartition("@")[2].lower()


# %%
print(Queued(reset_mail("bob@Slow.example"), urgency=0).destination)

# %% [markdown]
"""
`Waiting` holds the mails that wait, and those that are being sent. Requests and threads
use these lists at once, so whoever uses them holds `lock`.
"""

# %% tags=["export"]
import threading
import time
from collections.abc import Callable, Sequence


class Waiting:
    """Mails in their order. `urgent`: types of mail, the most urgent first."""

    def __init__(
        self, capacity: int = 1000, urgent: Sequence[str] = (), attempts: int = 8,
        pause: Callable[[int], float] = backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.capacity, self.urgent, self.attempts = capacity, urgent, attempts
        self.pause, self.clock, self.lock = pause, clock, threading.RLock()
        self.waiting: list[Queued] = []
        self.under_way: list[Queued] = []
        self.sent = self.lost = 0

    def enter(self, mail: Mail) -> Queued:
        order = [*self.urgent, mail.type]  # what is not named comes last
        queued = Queued(mail, order.index(mail.type))
        self.waiting.append(queued)
        return queued

    def due(self) -> list[Queued]:
        """What may be tried now, the most urgent first."""
        due = [queued for queued in self.waiting if queued.due <= self.clock()]
        return sorted(due, key=lambda queued: queued.urgency)


# %%
line = Waiting(urgent=["reset-password"], clock=lambda: 59.0)
line.enter(Mail("bob@example.com", "notice", "Changed", "")).due = 60.0
line.enter(Mail("eve@example.com", "notice", "Changed", ""))
line.enter(reset_mail())
print([queued.mail.to for queued in line.due()])

# %% [markdown]
"""
### No room

A queue without a bound eats the memory while a mail server is down. So there is a
`capacity`, and one destination gets half of it. To wait for room would make the answer
wait. An error for Ada alone would tell that she has an account. So a mail is lost, the
log says so, and `add` returns the lost mail. And a request asks `full` **before** it
looks anything up. If so, it answers 503 to everybody, and promises nobody a mail.
"""


# %% tags=["export"]
class Bounded(Waiting):
    """At most `capacity` mails, half of them to one destination."""

    @property
    def full(self) -> bool:
        """Ask before a mail is promised."""
        return len(self.waiting + self.under_way) >= self.capacity

    def add(self, mail: Mail) -> Mail | None:
        """Queue `mail`. Returns the mail that is lost for want of room, if one is."""
        with self.lock:
            full, new = self.full, self.enter(mail)
            there = [queued.destination for queued in self.waiting + self.under_way]
            if there.count(new.destination) > max(1, self.capacity // 2):
                return self.lose(new, "dropped, too many for one destination")
            last = max(reversed(self.waiting), key=lambda queued: queued.urgency)
            return self.lose(last, "dropped, the queue is full") if full else None

    def take(self, queued: Queued) -> None:
        self.waiting.remove(queued)
        self.under_way.append(queued)

    def lose(self, queued: Queued, why: str) -> Mail:
        self.waiting.remove(queued)
        self.lost += 1
        log.error("mail %s (%s): %s", queued.mail.id, queued.mail.type, why)
        return queued.mail


# %% [markdown]
"""
The queue has room for six mails. Mallory posts five mails to one destination. Then
three people get a notice, and Ada asks for her link. Predict: which three mails are
lost?
"""

# %% tags=["predict"]
small = Bounded(6, urgent=["reset-password"])
mallory = [small.add(reset_mail(f"m{number}@slow.example")) for number in range(5)]
people = ["bob@a.example", "eve@b.example", "kim@c.example"]
notices = [small.add(Mail(to, "notice", "Changed", "")) for to in people]
for_ada = small.add(reset_mail())
lost = [mail.to for mail in [*mallory, *notices, for_ada] if mail is not None]
print(lost, small.full)

# %% [markdown]
"""
### The queue

After an attempt, a mail is done, waits for its pause, or is given up. The lock is not
held while a mail is sent: nobody who adds a mail waits for a sender.
"""


# %% tags=["export"]
class MailQueue(Bounded):
    """Mails that wait for their next attempt; at most `attempts` each."""

    def attempt(self, queued: Queued, sender: Sender) -> None:
        """Send what was taken. Then it is done, waits for its pause, or is lost."""
        queued.attempts += 1
        sent = deliver(sender, queued.mail, queued.attempts)
        with self.lock:
            self.under_way.remove(queued)
            if sent:
                self.sent += 1
                return
            self.waiting.append(queued)
            queued.due = self.clock() + self.pause(queued.attempts)
            if sent is False or queued.attempts >= self.attempts:
                self.lose(queued, "given up")

    def send_next(self, sender: Sender) -> bool:
        """One attempt at the most urgent mail that is due. False if none is."""
        with self.lock:
            due = self.due()[:1]
            for queued in due:
                self.take(queued)
        for queued in due:
            self.attempt(queued, sender)
        return bool(due)


# %%
queue = MailQueue()
queue.add(reset_mail())
print(queue.send_next(MemorySender()), queue.send_next(MemorySender()), queue.sent)

# %% [markdown]
"""
A sender can be dead for hours. Here `now` is the time in seconds, and the thread looks
once a minute. Predict: how often is the dead sender tried, and is Ada's mail still in
the queue after an hour?
"""

# %% tags=["predict"]
now = 0.0
dead = Away()
hours = MailQueue(clock=lambda: now)
hours.add(reset_mail())
while now <= 3600:
    hours.send_next(dead)
    now += 60
print(dead.tried, "attempts;", len(hours.waiting), "in the queue;", hours.lost, "lost")

# %% [markdown]
"""
All pauses together take twelve minutes on average. Then the mail is lost, and the log
says so as an *error*. The queue bridges a short failure only.

## See it work

One thread looks ten times a second whether a mail is due.
"""


# %%
class Queue(MailQueue):
    def __init__(self, sender, **options):
        super().__init__(**options)
        self.post, self.stop = self.add, threading.Event()
        self.thread = threading.Thread(target=self.work, args=[sender])
        self.thread.start()

    def work(self, sender):
        while not self.stop.is_set():
            if not self.send_next(sender):
                self.stop.wait(0.1)

    def close(self):
        self.stop.set()
        self.thread.join()


answered = who_is_answered(Queue)
before_ada = attempts_before_ada(Queue, pause=3600)
print(answered, "| attempts for Mallory before Ada's mail:", before_ada)

# %% [markdown]
"""
Both got their answer while the mail server was silent. Mallory's mails wait an hour,
and Ada's goes out. But a silent server still holds the one thread. The page on mail
threads goes on from here.

## On PostgreSQL

Is a mail added in the transaction, or after it? Two owners invite somebody at the same
moment. Each stores an invitation with a [token](../glossary.md#token). Both also write
the organization's row, so one of the two transactions runs again. `two_invite` returns
how many mails went out, and how many of their tokens are stored. Predict both.
"""


# %% tags=["predict"]
def both_ways(url):
    return {"inside": two_invite(url, inside=True), "after": two_invite(url, False)}


here, there = both_ways(lesson_url()), on_postgres(both_ways)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
A mail cannot be rolled back, on either engine. So the work *returns* the mail, and the
caller adds it after the commit. A crash in between loses it: press "send again".

## Check it
"""

# %%
assert answered == {"bob": True, "ada": True}, "an answer waits for the mail server"
assert before_ada == "at most 6", "Ada's mail waits for Mallory's"
assert "ada@example.com" not in lost, "a notice takes the place of a reset"
assert (dead.tried, hours.lost) == (8, 1), "a mail is tried for ever"
assert here["after"] == (2, 2) and there in (here, None), "a mail has a dead link"
assert backoff(5) > 100, "the pauses do not grow"
print("no answer waits, no pause holds another mail, no loss is silent")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, run the page again, and see the assertion
fail:

| change | to | the assertion says |
|---|---|---|
| `* 4.0 **` | `* 1.0 **` | the pauses do not grow |
| `max(reversed(self.waiting),` | `max([new],` | a notice takes the place of a reset |
| ` or queued.attempts >= self.attempts` | ` ` | a mail is tried for ever |

## Your turn

A link lives for fifteen minutes. A mail that arrives later is worse than none. Write
`Fresh(sender, clock, most)`, a sender around a sender:

- From its first attempt on, a mail has the time `most` (a `timedelta`). A later attempt
  sends nothing and raises `TooLate`.
- A `notice` has no link and is sent however late it is.
- The queue hears of each failure.
- What needs no further attempt is forgotten, since the service runs for months.
"""

# %% tags=["exercise"]
from playbook.exercises.auth.mail_queue import HINTS, TooLate, check


class Fresh:
    """A sender around `sender`, in the time `most` per mail; `clock.now()` tells it."""

    def __init__(self, sender, clock, most):
        raise NotImplementedError

    def send(self, mail):
        raise NotImplementedError


# %%
check(Fresh)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
class Fresh:
    def __init__(self, sender, clock, most):
        self.sender, self.clock, self.most = sender, clock, most
        self.first = {}  # one operation of a dict at a time needs no lock

    def send(self, mail):
        if mail.type == "notice":
            self.sender.send(mail)
            return
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


assert check(Fresh)

# %% [markdown]
"""
## Take it with you

`playbook lift mail_queue INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| sender | passes an object with `send(mail)`, which may wait and raise |
| thread | calls `send_next` again and again, one process, one queue |
| room | asks `full` first, and answers 503 with `Retry-After` to everybody |
| urgency | names the types of mail, the most urgent first |

In a shop on FastAPI, with a thread for the life of the service:

```python
queue, stop = MailQueue(urgent=["reset-password"]), threading.Event()


def work(sender: Sender) -> None:
    while not stop.is_set():
        if not queue.send_next(sender):
            stop.wait(0.1)


@asynccontextmanager
async def lifespan(app):
    thread = threading.Thread(target=work, args=[app.state.sender], daemon=True)
    thread.start()
    yield
    stop.set()
```

Traps:

- **A stop loses what is queued**, until you add the recipe `mail_threads`.
- **Twice.** If the connection breaks before the reply, a mail may arrive twice.
- **Work before the mail**, such as a new link, also takes time for Ada only. Do it in
  the background, too.

Hand it over:

- **Reviewer**: `add` stands after the transaction; no `sleep` in a shared thread.
- **Security**: equal answers in equal time, also when the queue is full.
- **Operations**: watch the log `mail_queue` for "given up" and "dropped".
- **Tests**: `MailQueue(clock=...)` and `send_next`, without any thread.

## In short

You can explain what an answer's time tells a stranger. You know why a pause must not
belong to a thread, and why a mail is added after the commit. You can say what a queue
in the process loses.

## Sources

RFC 5321, 4.2.1 (reply codes) and 4.5.4.1 (retries). RFC 6647 (greylisting). OWASP ASVS
5.0, 6.3.8 and 16.2.5. OWASP Forgot Password Cheat Sheet. M. Brooker, *Exponential
Backoff And Jitter*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail](mail.ipynb) · [course map](../index.ipynb) · Next: [Mail threads](mail_threads.ipynb)
"""
