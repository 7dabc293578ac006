# %% [markdown]
"""
# Performance

Find out where the time of a slow request goes, and prove that a change made it quicker.

| | |
|---|---|
| **Use it when** | a page is slow, or a change promises to make it quicker |
| **You need** | [session lookup](../auth/session_lookup.ipynb) (*background*) |
| **Time** | read 36 min, exercise 10 min |
| **Topics** | load test, percentile, p99, coordinated omission, N+1, flame graph |
| **Standard** | none |

```python
from playbook.production.performance import (
    StatementLog, compare, note_statements, open_loop, percentile, take_turns,
)

p99 = percentile(await open_loop(send, rate=50, seconds=10), 0.99)
note_statements(engine)  # once
app = StatementLog(app, report)  # report(route, how often which SQL)
rounds = take_turns({"before": before, "after": after})
ratio, chance = compare(rounds["before"], rounds["after"])
```

*Lift: 75 lines in 1 file; needs sqlalchemy.*

## See it break

Pantry answers each request in 10 ms, one after the other. Once, from second 3 to second
4, it stands still. A **load test** sends requests and keeps each **latency**, the time
until the answer. Its result is in **percentiles**: *p99 is 80 ms* means that 99 of 100
requests took at most 80 ms.

The next cell is the loop at the heart of most load test tools: a client sends a
request, waits for the answer, then sends the next.
"""

# %%
import asyncio


async def closed_loop(send, seconds):
    loop = asyncio.get_running_loop()
    latencies = []
    while loop.time() < seconds:
        sent_at = loop.time()
        await send()
        latencies.append(loop.time() - sent_at)
    return latencies


# %% [markdown]
"""
The folded cell imports `stalling()`, which makes that Pantry.
`in_virtual_time(coroutine)` runs a coroutine with a clock that starts at 0 and jumps
over waits. For later cells it imports `catalogue`, `NAMES`, `LATEST`, `releases`,
`TEMPLATE`, `with_engine`, `app_of`, `flame_graph`, `before_and_after`, `RECORDED`,
`lesson_url`, `on_postgres`, `serving`, `show`. Predict: what are the p90 and the p99?
"""

# %% tags=["stage"]
from playbook.exercises.production.performance import (
    LATEST,
    NAMES,
    RECORDED,
    TEMPLATE,
    app_of,
    before_and_after,
    catalogue,
    flame_graph,
    in_virtual_time,
    releases,
    stalling,
    with_engine,
)
from playbook.kit.lesson import lesson_url, on_postgres, serving, show

# %% tags=["predict"]
closed = sorted(in_virtual_time(closed_loop(stalling(), seconds=10)))
p90, p99 = (closed[int(len(closed) * part)] for part in (0.9, 0.99))
print(f"{len(closed)} requests, p90 {1000 * p90:.0f} ms, p99 {1000 * p99:.0f} ms")

# %% [markdown]
"""
While Pantry stood still, the client waited for one answer, and sent nothing. So the
stall is **one** latency of 902. Real users do not wait for each other. This mistake is
called **coordinated omission**: tool and service agree to leave out the bad time.

## The decision

| option | good | costs |
|---|---|---|
| change what looks slow | quick | most guesses are wrong |
| closed loop: `ab`, `wrk`, `hey` | finds the highest rate | leaves out the stalls |
| timers in production | real users | needs traffic; says what, not why |
| debug toolbars of Django, Flask | statements of each page | for HTML, not for JSON |
| **open loop, counts, profile** | each answers its own question | three tools |

We choose the last: **measure** from outside, **count** statements, **profile**,
**compare** before and after. Choose a closed loop when only the highest rate matters.

## Build it

### The idea

Each request has a moment at which it is due, and its latency begins **there**, whether
or not others were answered.
"""

# %% tags=["export"]
import asyncio
from collections.abc import Awaitable, Callable


async def open_loop(
    send: Callable[[], Awaitable[bool]], rate: float, seconds: float
) -> list[float]:
    """The latencies, in seconds, of `rate` calls of `send` per second.

    A call that returns False, or raises, has failed: its latency is infinite.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def one(number: int) -> float:
        due = started + number / rate
        await asyncio.sleep(due - loop.time())
        try:
            good = await send()
        except Exception:
            good = False
        return loop.time() - due if good else float("inf")

    return await asyncio.gather(*map(one, range(int(rate * seconds))))


# %%
async def fails():
    raise ConnectionError


print(in_virtual_time(open_loop(fails, rate=2, seconds=1)))

# %% [markdown]
"""
An error at once is no quick answer: it counts as infinitely slow.

Of 50 requests the p99 is just the slowest one. `percentile` returns None where fewer
than five requests are slower: a p99 needs 500 requests.
"""

# %% tags=["export"]
import math
from collections.abc import Sequence


def percentile(latencies: Sequence[float], part: float) -> float | None:
    """The latency that `part` (0.99) of them do not exceed; None for too few."""
    if round(len(latencies) * (1 - part), 6) < 5:
        return None
    return sorted(latencies)[math.ceil(len(latencies) * part) - 1]


# %% [markdown]
"""
The same Pantry gets 50 requests per second, half of what it can do. Predict: how many
of 500 requests does the stall of one second touch? What is the p90?
"""

# %% tags=["predict"]
latencies = in_virtual_time(open_loop(stalling(), rate=50, seconds=10))
touched = sum(latency > 0.011 for latency in latencies)
print(touched, [round(percentile(latencies, part), 2) for part in (0.5, 0.9, 0.99)])

# %% [markdown]
"""
After the stall there is a queue. Fifty requests were due meanwhile. Pantry needs half a
second for them, but more come and queue behind them.

### Count the statements

Now a page that is slow all the time: a list of 20 packages with their newest versions.
`TEMPLATE` has 800 classifiers, the tags of PyPI, in nested dictionaries.
`catalogue(url)` is an engine with data. `NAMES` selects the names, `LATEST` is the
highest version in `releases`. `with_engine(engine, listed)` returns a function that
opens a connection and calls `listed`.
"""

# %%
import copy

import sqlalchemy as sa

engine = catalogue(lesson_url())


def newest(db, name):
    return db.scalar(sa.select(LATEST).where(releases.c.package == name))


def as_it_was(db):
    items = []
    for name in db.scalars(NAMES).all():
        item = copy.deepcopy(TEMPLATE)
        item.update(name=name, latest=newest(db, name))
        items.append({key: item[key] for key in ("name", "latest")})
    return items


print(with_engine(engine, as_it_was)()[0])

# %% [markdown]
"""
Write your guess down: what takes the time of `as_it_was`?

Statements are counted with a `ContextVar`: a variable of which each request has its own
value. FastAPI runs a plain `def` route in a thread, with a copy of these variables. The
value is a list, so the copy holds the same list.
"""

# %% tags=["export"]
from contextvars import ContextVar
from typing import Any

import sqlalchemy as sa

sent: ContextVar[list[str] | None] = ContextVar("sent", default=None)


def note_statements(engine: sa.Engine) -> None:
    """From now on `sent` gets the SQL of this engine, without values. Call it once."""

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        statements = sent.get()
        if statements is not None:
            statements.append(sql)


# %% [markdown]
"""
Predict: how many statements does one list send, and how many of them differ?
"""

# %% tags=["predict"]
note_statements(engine)
sent.set([])
with engine.connect() as db:
    as_it_was(db)
print(len(sent.get()), "statements,", len(set(sent.get())), "texts")

# %% [markdown]
"""
A loop that sends a statement for each row of a list is called **N+1**. A middleware
counts for each request of a service, and tells `report`.
"""

# %% tags=["export"]
from collections import Counter


class StatementLog:
    """ASGI middleware: calls `report(route, counts of SQL texts)` per request."""

    def __init__(self, app: Any, report: Callable[[str, Counter[str]], None]) -> None:
        self.app = app
        self.report = report

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # tasks of a lifespan would fill a list for ever
            await self.app(scope, receive, send)
            return
        statements: list[str] = []
        token = sent.set(statements)
        try:
            await self.app(scope, receive, send)
        finally:
            sent.reset(token)
            path = getattr(scope.get("route"), "path", "no route")
            self.report(f"{scope['method']} {path}", Counter(statements))


# %%
counted = []
app = StatementLog(app_of(engine, as_it_was), lambda *told: counted.append(told))
with serving(app) as client:
    client.get("/packages")
print([(route, texts.total()) for route, texts in counted])

# %% [markdown]
"""
Most people guess the database. Is that all?

### Profile

Every few milliseconds a **profiler** looks which functions are running. In a **flame
graph** each bar is a function, above the one that called it. The wider a bar, the more
time was spent in it. Look for the widest bar that you can do without.
"""

# %% tags=["nbval-ignore-output"]
show(flame_graph(with_engine(engine, as_it_was)))

# %% [markdown]
"""
You can do without `deepcopy`, a wide bar: for each row it walks through 800
classifiers, and none is shown. Remove each cost on its own, to learn what it gains.
"""


# %%
def no_copies(db):
    names = db.scalars(NAMES).all()
    return [{"name": name, "latest": newest(db, name)} for name in names]


def one_statement(db):
    found = sa.select(releases.c.package.label("name"), LATEST).group_by("name")
    return [dict(row) for row in db.execute(found.order_by("name")).mappings()]


variants = (as_it_was, no_copies, one_statement)
works = {each.__name__: with_engine(engine, each) for each in variants}
print("the same answer:", len({str(work()) for work in works.values()}) == 1)

# %% [markdown]
"""
### Compare

Other programs use the machine, too. If one measures *before* in the morning and *after*
at noon, one compares morning and noon. So the variants take turns, round by round, and
every second round goes backwards. Processor time counts only the process's own work.
"""

# %% tags=["export"]
import time
from collections.abc import Mapping


def take_turns(
    works: Mapping[str, Callable[[], object]],
    rounds: int = 8,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds by `clock` of each work, round by round. Each ran once before."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, rounds):
        names = list(works) if number % 2 else list(works)[::-1]
        for name in names:
            began = clock()
            works[name]()
            if number >= 0:  # the first run fills caches
                taken[name].append(clock() - began)
    return taken


# %% tags=["nbval-ignore-output"]
rounds = take_turns(works)
show(before_and_after(rounds))

# %% [markdown]
"""
Is a difference more than noise? Suppose that it is not. Then it was chance which of a
round's two times was the shorter, and they could as well be exchanged. `compare` tries
all exchanges, and counts how many give a difference as large as the measured one. This
is a **permutation test**.
"""

# %% tags=["export"]
from itertools import product
from statistics import median


def compare(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """The median ratio after / before; how often chance alone makes as much of it.

    Below 0.05 it is probably a difference. ValueError unless 6 to 14 pairs.
    """
    if not 6 <= len(before) <= 14 or not all((*before, *after)):
        raise ValueError("send 6 to 14 rounds, each longer than a tick of the clock")
    ratios = [late / early for early, late in zip(before, after, strict=True)]
    logs = [math.log(ratio) for ratio in ratios]  # of exchanged times: the other sign
    measured = abs(sum(logs)) - 1e-9
    exchanges = product(*((log, -log) for log in logs))
    sums = [sum(exchange) for exchange in exchanges]
    as_large = sum(abs(one) >= measured for one in sums)
    return median(ratios), as_large / len(sums)


# %%
print(compare([5.0] * 6, [4.0] * 6))

# %% [markdown]
"""
Of the 64 exchanges two give as much: none, and all.

`RECORDED` has real rounds of Pantry's `POST /packages`, of a busy machine: before a
change, after it, and *itself*, the version of before in a second process. Predict: is
the ratio of *itself* 1.00, and is it taken for a difference?
"""

# %% tags=["predict"]
for name in ("after", "itself"):
    ratio, chance = compare(RECORDED["before"], RECORDED[name])
    print(f"{name}: {ratio:.2f} times the processor time, by chance {chance:.3f}")

# %% [markdown]
"""
## See it work

Over real HTTP: 20 requests to the quickest variant, 80 per second. The folded cell
defines `load(listed, url)`, which returns how many requests, failures and statements
there were.
"""

# %% tags=["stage"]
import httpx

from playbook.exercises.production.performance import in_a_loop


def load(listed, url):
    counted = []
    engine = catalogue(url)
    note_statements(engine)
    app = StatementLog(app_of(engine, listed), lambda *told: counted.append(told))
    with serving(app) as server:

        async def send_all():
            limits = httpx.Limits(max_connections=None)
            # This is http: the certificates, which a client reads all the same, would
            # be the dearest part of the measurement.
            options = {"trust_env": False, "verify": False}
            async with httpx.AsyncClient(
                base_url=str(server.base_url), timeout=60, limits=limits, **options
            ) as client:

                async def send():
                    return (await client.get("/packages")).is_success

                return await open_loop(send, rate=80, seconds=0.25)

        latencies = in_a_loop(send_all())
    engine.dispose()
    failed = sum(map(math.isinf, latencies))
    return len(latencies), failed, sum(texts.total() for _, texts in counted)


# %%
print(*load(one_statement, lesson_url()))

# %% [markdown]
"""
## On PostgreSQL

Each statement is a question to a server. Over a network it takes half a millisecond or
more, in which this process does nothing. So processor time does not show what N+1 costs
there; the count does.
"""


# %%
def both(url):
    return [load(each, url) for each in (no_copies, one_statement)]


print(on_postgres(both))

# %% [markdown]
"""
## Check it
"""

# %%
errors = in_virtual_time(open_loop(fails, rate=10, seconds=1))
slower = (number**2 for number in range(100))  # the clock of a machine that slows down
fair = take_turns({"a": list, "b": list}, clock=lambda: next(slower))
assert touched == 100, "the stall is hidden"
assert percentile(errors, 0.5) == math.inf, "errors made it quicker"
assert counted[0][1].total() == 21, "statements of a thread were lost"
assert sum(fair["a"]) == sum(fair["b"]), "a machine that slows down decided"
assert compare(RECORDED["before"], RECORDED["itself"])[1] > 0.05, "noise was believed"
assert compare(rounds["as_it_was"], rounds["one_statement"])[0] < 0.8, (
    "nothing was gained"
)
print("no stall hidden, no statement lost, no noise believed")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `good = False` | `good = True` | errors made it quicker |
| `statements.append(sql)` | `sent.set([sql])` | statements of a thread were lost |
| `list(works)[::-1]` | `list(works)` | a machine that slows down decided |

## Your turn

Somebody gives you the latencies of a closed loop, in milliseconds. Its client should
have sent a request each `pause` milliseconds, and waited for slow answers instead.

Write `corrected(latencies, pause)`: a new list, with the latencies of the requests that
were never sent, too. The next cell shows them for a pause of 250: the request sent at
second 3, and those due before its answer at second 4.
"""

# %%
print([4000 - due for due in (3000, 3250, 3500, 3750)])


# %% tags=["exercise"]
def corrected(latencies, pause):
    raise NotImplementedError


# %%
from playbook.exercises.production.performance import HINTS, check

check(corrected)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def corrected(latencies, pause):
    found = []
    for latency in latencies:
        found.append(latency)
        # The next request was due a pause later, so it would have waited less.
        left = latency - pause
        while left > 0:
            found.append(left)
            left -= pause
    return found


assert check(corrected)

# %% [markdown]
"""
## Take it with you

`playbook lift performance INTO` copies the recipe and its tests.

| seam | what your project does |
|---|---|
| send | asks one thing, returns True for a right answer: None counts as failed |
| engine | `note_statements` once; of an async engine, its `sync_engine` |
| report | writes a log line, or a test's list; in Flask, `sent.set([])` counts |
| works | functions that do the same each time, far longer than a tick of `clock` |

A test that keeps N+1 out of a shop (`report` appends to `counted`):

```python
def test_the_list_of_orders_sends_two_statements(client, counted):
    client.get("/orders")
    [(route, statements)] = counted
    assert route == "GET /orders"
    assert statements.total() == 2, statements.most_common(1)
```

Traps: never load a service that is not yours. Run the generator on another machine: a
busy one makes long latencies itself. The client of `send` needs a timeout, and no limit
of connections: with `httpx`, more than 100 wait in the client. Profile with
`py-spy record`: it looks from outside, in production too.

Hand it over:

- **Reviewer**: a change "for performance" names the cost, and shows both rounds.
- **Tests**: count statements, do not measure times. Times fail on busy machines.
- **Operations**: alarms on p99 over a time, from the server's own log.
- **Front end**: one page sends many requests, so most pages meet the p99.

## In short

You can explain why a closed loop hides a stall, and why errors must count as slow. You
can find a cost by counting and by a profile, and tell a gain from noise.

## Sources

G. Tene, *How NOT to Measure Latency* (2015); wrk2. B. Gregg, *The Flame Graph* (2016).
R. A. Fisher, *The Design of Experiments* (1935), on permutation. Jain, *The Art of
Computer Systems Performance Analysis* (1991). SQLAlchemy: core events.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [A foreign contract](../auth/foreign_contract.ipynb) · [course map](../index.ipynb) · Next: [Pantry](pantry.ipynb)
"""
