# %% [markdown]
"""
# Mail threads

A silent server holds up only its own mails, and a stop sends what was promised.

| | |
|---|---|
| **Use it when** | threads call servers that may never answer |
| **You need** | [mail_queue](mail_queue.ipynb) (*code*) |
| **Time** | read 32 min, exercise 15 min |
| **Topics** | bulkhead, tarpit, thread pool, background task, graceful shutdown |
| **Standard** | OWASP ASVS 5.0 (6.3.8, 16.2.5) |

```python
from playbook.auth.mail_threads import Postbox

postbox = Postbox(sender, queue)  # one per process
postbox.post(mail)  # after the commit; returns at once
postbox.close(timeout=7)  # seconds, when the service stops
```

*Lift: 88 lines in 1 file; needs nothing.*

## See it break

FastAPI's `BackgroundTasks` run after the answer, so no answer waits for the mail
server. They run in the 40 threads that also run the endpoints.

The folded cell imports `health(make)`. Its service is asked for a new password 40
times, and its mail server accepts each mail and says nothing. Then somebody asks
`/health`. `during_a_tarpit`, `at_the_end`, `reset_mail`, `Held`, `queue_with_a_pause`,
`MailQueue`, `MemorySender` and `ThreadPoolExecutor` are for later. Predict: does
`/health` answer?
"""

# %% tags=["stage"]
from concurrent.futures import ThreadPoolExecutor

from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import MailQueue
from playbook.exercises.auth.mail_threads import (
    Held,
    at_the_end,
    during_a_tarpit,
    health,
    queue_with_a_pause,
    reset_mail,
)


# %% tags=["predict"]
def in_background(sender):
    return lambda mail, tasks: tasks.add_task(sender.send, mail)


print(health(in_background))

# %% [markdown]
"""
All endpoints share these threads with the mails. So the mails get four threads of their
own, a *pool*. Mallory owns the mail server of `tar.example`. It takes each mail and
never says so, which is called a **tarpit**. She signs up six times, and then Ada asks
for her link. Predict: does her mail arrive, and how many threads does the tarpit hold?
"""


# %% tags=["predict"]
class Pool:
    def __init__(self, sender):
        self.threads = ThreadPoolExecutor(4)
        self.close = self.threads.shutdown
        self.post = lambda mail: self.threads.submit(sender.send, mail)


print(during_a_tarpit(Pool))

# %% [markdown]
"""
A timeout does not help much. With ten seconds each, Mallory needs one sign-up every two
and a half seconds to hold four threads for ever.

## The decision

Which threads talk to the mail servers?

| option | good | costs |
|---|---|---|
| a pool for all; `BackgroundTasks` | one line | one server holds every thread |
| a pool for each destination | no server holds another | threads without a bound |
| **a few threads, a share for each destination** | the same, and bounded | this page |
| `asyncio` (aiosmtplib) | thousands of connections | another library; a share, too |
| Celery, RQ, Django-Q | other processes wait | a broker; one pool for all again |

We choose **a share for each destination**. Choose `asyncio` when the service sends
thousands of mails at the same time.

## Build it

### The idea

A ship has walls inside, so that one leak does not fill it. These walls are called
**bulkheads**. Here the threads are the ship: mails to one destination get at most half
of them.
"""

# %% tags=["export"]
from typing import Any


def may_go(due: list[Any], under_way: list[Any], threads: int) -> list[Any]:
    """Those of `due` whose destination has less than half of the threads."""
    busy = [queued.destination for queued in under_way]
    most = max(1, threads // 2)
    return [queued for queued in due if busy.count(queued.destination) < most]


# %% [markdown]
"""
Three of Mallory's mails and one of Ada's are due. Threads take the first mail that may
go, as long as there is one. Predict: whose mails do four threads take, and in which
order?
"""

# %% tags=["predict"]
queue = MailQueue()
for to in ["m1@tar.example", "m2@tar.example", "m3@tar.example", "ada@example.com"]:
    queue.add(reset_mail(to))
while may := may_go(queue.due(), queue.under_way, threads=4):
    queue.take(may[0])
first = [queued.mail.to for queued in queue.under_way]
print(first)

# %% [markdown]
"""
A thread may stay free although a mail is due. It waits for a mail to somebody else.

### The queue

The threads know nothing of mails. They need a queue that says what is **due**, and that
makes an attempt. `MailQueue` of the page before is one.
"""

# %% tags=["export"]
from typing import Protocol, runtime_checkable


@runtime_checkable
class Queue(Protocol):
    """What the threads need. What it queues has a `destination` and a time `due`."""

    lock: Any  # an RLock: whoever uses the lists holds it
    waiting: list[Any]
    under_way: list[Any]
    attempts: int  # at most, for each mail

    @property
    def full(self) -> bool: ...
    def clock(self) -> float: ...
    def add(self, mail: Any) -> Any: ...
    def enter(self, mail: Any) -> Any: ...
    def due(self) -> list[Any]: ...
    def take(self, queued: Any) -> None: ...
    def attempt(self, queued: Any, sender: Any) -> None: ...
    def lose(self, queued: Any, why: str) -> Any: ...


# %%
print(isinstance(MailQueue(), Queue), isinstance([], Queue))

# %% [markdown]
"""
### What a thread does next

`next_mail` takes what may go. If nothing may, the thread sleeps until something is due
or until another thread is done. It sleeps in a **condition**: a lock that threads can
wait for, and that others wake them from. It gives the lock back while it waits.
"""

# %% tags=["export"]
import logging
import threading

log = logging.getLogger("mail_threads")


class MailThreads:
    """At most `threads` threads that send what waits in `queue`."""

    choose = staticmethod(may_go)  # a subclass may choose in another way

    def __init__(self, sender: Any, queue: Queue, threads: int = 4) -> None:
        if threads < 1:
            raise ValueError("mail needs threads: at least 1")
        self.sender, self.queue, self.threads = sender, queue, threads
        self.running, self.closed = 0, False
        self.changed = threading.Condition(queue.lock)

    def next_mail(self) -> Any:
        """Waits for a mail that may go, and takes it. None: the thread ends."""
        with self.changed:
            while self.queue.waiting:
                due, now = self.queue.due(), self.queue.clock()
                for queued in self.choose(due, self.queue.under_way, self.threads):
                    self.queue.take(queued)
                    return queued
                later = [q.due - now for q in self.queue.waiting if q not in due]
                self.changed.wait(min(later, default=None))
            self.running -= 1  # in the same turn: `post` sees that it goes
            return None


# %%
one = MailThreads(MemorySender(), MailQueue())
one.queue.add(reset_mail())
print(one.next_mail().mail.to)

# %% [markdown]
"""
### Posting

`post` starts a thread if a mail waits and there are fewer than four. A thread ends when
no mail waits. It is a **daemon** thread: a process that ends does not wait for it.
"""


# %% tags=["export"]
class Posting(MailThreads):
    """Sends in the background: `post` returns at once."""

    def over(self) -> bool:
        return self.closed

    def post(self, mail: Any) -> Any:
        """Queue `mail`. Returns the mail that is lost for want of room, if one is."""
        with self.changed:
            if self.over():
                return self.queue.lose(self.queue.enter(mail), "dropped, closed")
            lost = self.queue.add(mail)
            if self.queue.waiting and self.running < self.threads:
                self.running += 1
                threading.Thread(target=self.work, name="mail", daemon=True).start()
            self.changed.notify_all()
            return lost

    def work(self) -> None:
        while (queued := self.next_mail()) is not None:
            self.queue.attempt(queued, self.sender)
            with self.changed:
                self.changed.notify_all()


# %% [markdown]
"""
`Held` is a sender that waits for `go_on`. Six mails are posted to six destinations.
"""

# %%
held = Held()
six = Posting(held, MailQueue())
for number in range(6):
    six.post(reset_mail(f"ada@{number}.example"))
held.wait_entered(4)
print(six.running, "threads,", len(six.queue.waiting), "mails wait")
held.go_on.set()

# %% [markdown]
"""
### The stop

A service was told to stop, and three of its mails are not sent yet. The folded output
is what a real process did. `at_the_end(last_line)` starts it. It posts three mails to
Ada, and the mail server is slow. Then it runs `last_line` and ends. The server answers
when the process waits for it. Predict: how many mails arrive without a last line?
"""

# %% tags=["predict"]
print(at_the_end(""), "of 3 arrive")

# %% [markdown]
"""
Ada was told that a mail is on its way. Threads that are no daemons would be no better:
the process would wait for a silent server, until somebody kills it. Docker kills after
ten seconds. So the stop has a **budget** of seconds. Within it each mail is tried once
more, without a pause. What is left then is lost, and the log says so.

`queue_with_a_pause()` is a `MailQueue` with one mail to Ada. An attempt has failed, and
the next one is due in an hour. A second mail is posted, and the postbox is closed.
Predict: how many mails go out?
"""


# %% tags=["export"]
class Postbox(Posting):
    """The threads, and an orderly stop."""

    @property
    def full(self) -> bool:
        """Whether there is no room. Ask before a mail is promised."""
        return self.closed or self.queue.full

    def idle(self) -> bool:
        return not self.queue.waiting and not self.queue.under_way

    def drain(self, timeout: float = 10) -> bool:
        """Wait until nothing waits. False: `timeout` seconds were too short."""
        with self.changed:
            return self.changed.wait_for(self.idle, timeout)

    def close(self, timeout: float = 10) -> bool:
        """Take no more, try the rest once, at once. False: mails are lost."""
        with self.changed:
            self.closed, self.queue.attempts = True, 0
            for queued in self.queue.waiting:
                queued.due = 0.0
            self.changed.notify_all()
            settled = self.drain(timeout)
            for queued in list(self.queue.waiting):
                self.queue.lose(queued, "lost, the service stops")
            if self.queue.under_way:
                log.error("still being sent: %d", len(self.queue.under_way))
            return settled


# %% tags=["predict"]
box = Postbox(MemorySender(), queue_with_a_pause())
box.post(reset_mail("bob@example.com"))
print(box.close(timeout=60), box.queue.sent)

# %% [markdown]
"""
A stop has no hour to spare, so it ends all pauses.

## See it work

The tarpit again, and then a stop with a budget of a minute. Predict: does Ada's mail
arrive, and how many of the three mails?
"""


# %% tags=["predict"]
class Fair(Postbox):
    def __init__(self, sender):
        super().__init__(sender, MailQueue(urgent=["reset-password"]))


ada = during_a_tarpit(Fair)
arrive = at_the_end("postbox.close(timeout=60)")
print(ada, "|", arrive, "of 3 arrive")

# %% [markdown]
"""
And a stop whose budget is too small: a silent server holds one of two threads, and
three more mails to it wait. Predict: what does `close` return, and how many are lost?
"""

# %% tags=["predict"]
silent = Held()
tight = Postbox(silent, MailQueue(), threads=2)
for number in range(4):
    tight.post(reset_mail(f"mallory{number}@tar.example"))
silent.wait_entered(1)
settled = tight.close(timeout=0.1)
silent.go_on.set()
print(settled, tight.queue.lost)

# %% [markdown]
"""
The one that was being sent is not counted: nobody knows whether it will arrive.

## Check it
"""

# %%
assert first[2:] == ["ada@example.com"], "a silent server takes all threads"
assert ada == "arrives, the tarpit holds 2", "Ada's mail waits for Mallory's"
assert arrive == 3, "a promised mail is lost at the stop"
assert (settled, tight.queue.lost) == (False, 3), "a mail is lost in silence"
assert box.full and box.post(reset_mail()), "a closed postbox takes mails"
print("no server holds all threads, no stop loses a mail in silence")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, run the page again, and see the assertion
fail:

| change | to | the assertion says |
|---|---|---|
| `busy.count(queued.destination) < most` | `True` | a silent server takes all threads |
| `list(self.queue.waiting)` | `[]` | a mail is lost in silence |
| `self.closed or self.queue.full` | `self.queue.full` | a closed postbox takes mails |

## Your turn

Mallory now has nine mail servers, and all of them are silent. Each holds two threads at
most, and together they hold four. Write `keep_one`, for a subclass of `Postbox` with
`choose = staticmethod(keep_one)`:

- The last free thread takes nothing but mails of the type `reset-password`.
- All other threads take what `may_go` lets go, in its order.
- With one thread there is no last one to keep: it takes everything.
"""

# %% tags=["exercise"]
from playbook.exercises.auth.mail_threads import HINTS, check


def keep_one(due, under_way, threads):
    raise NotImplementedError


# %%
check(keep_one)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def keep_one(due, under_way, threads):
    allowed = may_go(due, under_way, threads)
    last = len(under_way) >= max(1, threads - 1)
    if not last:
        return allowed
    return [queued for queued in allowed if queued.mail.type == "reset-password"]


assert check(keep_one)

# %% [markdown]
"""
## Take it with you

`playbook lift mail_threads INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| queue | lifts `mail_queue`, too, or passes an object with the methods of `Queue` |
| sender | passes what the queue's `attempt` sends with; each call ends some day |
| stop | calls `close` after the last request, with the seconds that are left |
| choice | makes a subclass with another `choose` if some mails must never wait |

In a shop on FastAPI, with a queue for webhooks of its own:

```python
@asynccontextmanager
async def lifespan(app):
    app.state.postbox = Postbox(app.state.sender, app.state.queue, threads=8)
    yield
    await asyncio.to_thread(app.state.postbox.close, 7)


def place_order(postbox: Postbox, order: dict[str, str]) -> int:
    if postbox.full:
        return 503  # to everybody, before anything is looked up
    postbox.post(order)
    return 201
```

Traps:

- **The budget is shared.** Requests get their seconds first, and all of it ends before
  the platform kills.
- **`close` blocks.** Call it in a thread, not in the [event
  loop](../glossary.md#event-loop).
- **Several processes** have their own threads: the share is per process.
- **A kill** still loses what is queued.

Hand it over:

- **Reviewer**: no other code waits for a mail server; `close` stands in the lifespan.
- **Security**: a stranger's server cannot stop the mails of others.
- **Operations**: watch the logs `mail_queue` and `mail_threads` for "lost" and "still
  being sent"; give the platform more seconds than the stop has.
- **Tests**: `drain()` after each request.

## In short

You can explain why a pool of threads is held by the slowest server, and what a bulkhead
costs. You know what a daemon thread does at the end of a process. You can say who gets
how many seconds of a stop.

## Sources

OWASP ASVS 5.0, 6.3.8 and 16.2.5. M. Nygard, *Release It!*, "Bulkheads". Python
documentation, `threading`: daemon threads, conditions. Docker documentation, `docker
container stop`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail queue](mail_queue.ipynb) · [course map](../index.ipynb) · Next: [Mailed links](mailed_links.ipynb)
"""
