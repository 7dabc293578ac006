# %% [markdown]
"""
# Retries

Send a request again only where that is safe and can help, and never so often that a
failing server stays down.

| | |
|---|---|
| **Use it when** | your code calls another service, which fails now and then |
| **You need** | [idempotency](idempotency.ipynb) (*background*) |
| **Time** | read 32 min, exercise 15 min |
| **Topics** | retry, backoff, jitter, retry budget, Retry-After, timeout, overload |
| **Standard** | RFC 9110 (9.2.2, 10.2.3), RFC 6585 (4) |

```python
from playbook.api.retries import Retries, RetryBudget, send_with_retries

retries = Retries(RetryBudget())  # one per service that is called
request = client.build_request("PUT", "/stock/7", json={"left": 3})
response = send_with_retries(client, request, retries)
```

*Lift: 88 lines in 1 file; needs httpx.*

## See it break

A shop sends 20 requests per second to a payment service. That service can answer 50 per
second. After a second with more it answers nothing but 503: it is overloaded. In the
seconds 5, 6 and 7 it is down for another reason. The shop retries each failed request
after a second, until it succeeds.

The folded cell defines `storm(next_wait)`. It plays 25 seconds of this (`SECONDS`) in
simulated time, with the numbers from above (`PER_SECOND` is 20, `CAPACITY` is 50). For
each answer it asks `next_wait(request, outcome, attempt, now)` after how many seconds
the shop sends the request again. None means never. A `#` stands for 10 requests that
were answered, an `x` for 10 that failed. The cell also imports `random`, `show`,
`table` and `serving`.
"""

# %% tags=["stage"]
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

import httpx

from playbook.kit.lesson import serving, show, table

START = datetime(2026, 11, 2, tzinfo=UTC)
PER_SECOND, CAPACITY, SECONDS = 20, 50, 25


def storm(next_wait):
    load, failed = Counter(), Counter()
    request = httpx.Request("PUT", "http://payments.example/payments/7")
    queue = [(n / PER_SECOND, n, 1) for n in range(PER_SECOND * SECONDS)]
    while queue and queue[0][0] < SECONDS:
        moment, number, attempt = heappop(queue)
        second = int(moment)
        load[second] += 1
        down = second in (5, 6, 7) or load[second - 1] > CAPACITY
        failed[second] += down
        outcome = httpx.Response(503 if down else 200)
        now = START + timedelta(seconds=moment)
        wait = next_wait(request, outcome, attempt, now)
        if wait is not None:
            heappush(queue, (moment + wait, number, attempt + 1))
    for second in range(SECONDS):
        bar = "x" * (failed[second] // 10)
        bar = bar or "#" * (load[second] // 10)
        print(f"{second:2} s {load[second]:4} requests {bar}")
    return load, failed


# %% [markdown]
"""
Predict: in which second does the payment service work again?
"""


# %% tags=["predict"]
def after_a_second(request, outcome, attempt, now):
    return 1.0 if outcome.status_code == 503 else None


load, failed = storm(after_a_second)

# %% [markdown]
"""
Each failed request joins the new ones of the next second. This is a **retry storm**:
the cause is over, and the retries keep the overload alive. It ends only when the shop
stops sending. A longer pause delays the storm, but the waiting requests still add up.

## The decision

| option | good | costs |
|---|---|---|
| no retry | adds no load | the user sees each lost packet as an error |
| fixed pause | simple | clients send again together; load adds up |
| **backoff, [jitter](../glossary.md#jitter), budget** | bounded load | some requests fail early |
| a queue, work later | survives hours | the answer comes later |
| urllib3 `Retry`, Celery, tenacity | backoff, jitter | no budget |

httpx itself repeats failed connections only; Django and Flask bring nothing.

We choose **backoff with jitter and a budget**. Choose no retry where a person can press
the button again. Choose a queue for what may happen later, such as mail.

## Build it

### The idea

The longest pause doubles with each attempt (*exponential backoff*). The client waits a
random part of it (*full jitter*). So clients that failed together do not send again
together. Ten clients failed at the same moment. Each `o` is a wait, in tenths of a
second:
"""

# %%
chance = random.Random(1)
for attempt in (1, 2, 3, 4):
    longest = 0.5 * 2 ** (attempt - 1)
    waits = [chance.uniform(0, longest) for client in range(10)]
    line = [" "] * 41
    for wait in waits:
        line[int(wait * 10)] = "o"
    print(f"pause {attempt}: |{''.join(line).rstrip()}")

# %% [markdown]
"""
### Which failures

Two questions decide. *Can it help?* A 404 stays a 404; a 503 may pass. *Can it do
harm?* If the answer was lost, the server may have acted. Then only a request that may
be repeated is safe: an **[idempotent](../glossary.md#idempotent)** method, or a POST
with an [idempotency key](../glossary.md#idempotency-key). One failure is always safe:
no connection, so the server has seen nothing.
"""

# %% tags=["export"]
import httpx

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110, 9.2.2
PASSING = frozenset({408, 425, 429, 502, 503, 504})
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LOST = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)

Outcome = httpx.Response | httpx.TransportError


def may_retry(request: httpx.Request, outcome: Outcome) -> bool:
    """Whether sending `request` again can help, and can do no harm."""
    if isinstance(outcome, UNSENT):
        return True
    if isinstance(outcome, httpx.Response):
        busy = outcome.status_code == 409 and "retry-after" in outcome.headers
        passing = busy or outcome.status_code in PASSING
    else:
        passing = isinstance(outcome, LOST)
    has_key = "idempotency-key" in request.headers
    return passing and (request.method in IDEMPOTENT or has_key)


# %%
get = httpx.Request("GET", "http://payments.example/payments")
post = httpx.Request("POST", "http://payments.example/payments")
with_key = httpx.Request("POST", get.url, headers={"Idempotency-Key": '"order-7"'})
outcomes = {
    "404": httpx.Response(404),
    "503": httpx.Response(503),
    "no connection": httpx.ConnectError(""),
    "no answer": httpx.ReadTimeout(""),
}
rows = []
for name, outcome in outcomes.items():
    rows.append([name] + [may_retry(one, outcome) for one in (get, post, with_key)])
show(table(rows, ["outcome", "GET", "POST", "POST with a key"]))

# %% [markdown]
"""
The recipe of [idempotency](idempotency.ipynb) answers 409 with `Retry-After` while the
first request with this key is still running. `may_retry` counts this as busy.

### How long the server wants

`Retry-After` has two forms, seconds and a date:
"""

# %% tags=["export"]
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(outcome: Outcome, now: datetime) -> float:
    """Seconds that the server asks to wait, 0 if it does not (RFC 9110, 10.2.3)."""
    if not isinstance(outcome, httpx.Response):
        return 0
    value = outcome.headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, (moment - now).total_seconds())


# %%
now = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
for value in (
    "7",
    "Mon, 02 Nov 2026 09:00:07 GMT",
    "Mon, 02 Nov 2026 08:00:00 GMT",
    "soon",
):
    answer = httpx.Response(503, headers={"Retry-After": value})
    print(f"{retry_after(answer, now):3.0f} s  {value}")

# %% [markdown]
"""
### The budget

Backoff spreads retries; it does not limit them. In an outage every request fails, so
four attempts are four times the load. A **retry budget** limits the share: each request
adds a tenth of a token, each retry takes a whole one. So retries are at most a tenth of
the requests, and a small reserve. The reserve is for a service that is called rarely.
Predict: 1,000 requests fail. How many retries does the budget allow?
"""

# %% tags=["export"]
import threading


class RetryBudget:
    """Tokens for retries: `share` more per request, at most `reserve`. Thread-safe."""

    def __init__(self, share: float = 0.1, reserve: float = 10.0) -> None:
        self.share = share
        self.reserve = reserve
        self.tokens = reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a request."""
        with self._lock:
            self.tokens = min(self.reserve, self.tokens + self.share)

    def spend(self) -> bool:
        """Whether a retry may be sent now; if so, it is paid."""
        with self._lock:
            if self.tokens < 1:
                return False
            self.tokens -= 1
            return True


# %% tags=["predict"]
budget = RetryBudget()
retried = 0
for _ in range(1000):
    budget.earn()
    retried += budget.spend()
print(f"1,000 requests fail: {retried} retries")

# %% [markdown]
"""
### The policy

`Retries` puts it all together: which failures, how long, and the budget. `next_wait` is
called with every outcome, a success too: each first attempt earns. If the server asks
for a longer wait than `longest`, the result is None, and the caller gets the error.
"""

# %% tags=["export"]
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Retries:
    """When to send again. `first` and `longest` are pauses in seconds."""

    budget: RetryBudget
    attempts: int = 4
    first: float = 0.5
    longest: float = 30.0
    draw: Callable[[float, float], float] = random.uniform

    def next_wait(
        self, request: httpx.Request, outcome: Outcome, attempt: int, now: datetime
    ) -> float | None:
        """Seconds until the next attempt, or None. `attempt` counts from 1."""
        if attempt == 1:
            self.budget.earn()
        if attempt >= self.attempts or not may_retry(request, outcome):
            return None
        asked = retry_after(outcome, now)
        if asked > self.longest or not self.budget.spend():
            return None
        return asked + self.draw(0, min(self.longest, self.first * 2 ** (attempt - 1)))


# %%
retries = Retries(RetryBudget(), draw=random.Random(1).uniform)
load, failed = storm(retries.next_wait)

# %% [markdown]
"""
The overload is gone in the second in which its cause is gone.

### The loop

`send_with_retries` sends, asks, and sleeps. Clock and sleep are arguments, so a test
needs no time.
"""


# %% tags=["export"]
def send_with_retries(
    client: httpx.Client,
    request: httpx.Request,
    retries: Retries,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> httpx.Response:
    """The last response. Raises httpx.TransportError if the last attempt got none."""
    for attempt in count(1):
        try:
            outcome: Outcome = client.send(request)
        except httpx.TransportError as error:
            outcome = error
        wait = retries.next_wait(request, outcome, attempt, now())
        if wait is None:
            break
        sleep(wait)
    if isinstance(outcome, httpx.TransportError):
        raise outcome
    return outcome


# %% [markdown]
"""
## See it work

A real server is busy twice, and says how long in both forms. The clock stands still at
9:00, and pauses are noted and not slept. `draw` always takes the longest pause, 0.5 and
then 1 second. The folded cell defines `busy_twice()`, which makes such a service: first
it asks for 5 seconds, then for 9:00:20. Predict: how often do the POST and the PUT
arrive, and which pauses are noted?
"""

# %% tags=["stage"]
from fastapi import FastAPI, Response


def busy_twice():
    app = FastAPI()
    waits = ["5", "Mon, 02 Nov 2026 09:00:20 GMT"]

    @app.api_route("/payments/7", methods=["PUT", "POST"])
    def pay(response: Response):
        if waits:
            response.headers["Retry-After"] = waits.pop(0)
            response.status_code = 503
        return {}

    return app


# %% tags=["predict"]
pauses = []
retries = Retries(RetryBudget(), draw=lambda low, high: high)
arrived = {}
for method in ("POST", "PUT"):
    with serving(busy_twice()) as client:
        request = client.build_request(method, "/payments/7")
        send_with_retries(client, request, retries, lambda: now, pauses.append)
        arrived[method] = [exchange.status for exchange in client.exchanges]
print(arrived, pauses)

# %% [markdown]
"""
All clients of a busy server get the same `Retry-After`, so the jitter comes on top of
it. After a failed POST without a key, the shop cannot know whether the payment was
made. So it does not repeat it.

## Check it
"""

# %%
assert max(load.values()) <= CAPACITY, "a failing server gets too much"
assert not failed[8], "the server stays down after its failure"
sent = sum(load.values())
assert sent <= 1.1 * PER_SECOND * SECONDS + 10, "more than a tenth is retried"
assert arrived["POST"] == [503], "an unsafe request was repeated"
assert arrived["PUT"] == [503, 503, 200], "a safe request was given up"
assert pauses == [5.5, 21.0], "a pause is shorter than asked for"
print("bounded load, no repeated payment, no attempt before its time")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `not self.budget.spend()` | `False` | a failing server gets too much |
| `in IDEMPOTENT or has_key)` | `or True)` | an unsafe request was repeated |
| `return asked + self.draw` | `return self.draw` | a pause is shorter than asked for |

## Your turn

A budget stops retries, but the first attempts still arrive, and each caller waits for
its error. A **circuit breaker** stops these too. Like a fuse, it is *closed* while
requests may pass, and *open* while none may. Write the class `Breaker`:

- After `failures` failures in a row it opens: `allows(now)` is false for `pause`
  seconds from the last of them. `now` is a number of seconds.
- Then it is true once, for a single trial, and false until the trial has a result.
- `record(succeeded, now)` notes the result of a request. A trial that succeeds closes
  the breaker. One that fails starts the pause again.
"""


# %% tags=["exercise"]
class Breaker:
    def __init__(self, failures=3, pause=10):
        self.failures = failures
        self.pause = pause

    def allows(self, now):
        """Whether a request may be sent at the second `now`."""
        raise NotImplementedError

    def record(self, succeeded, now):
        """Note the result of a request that was allowed."""
        raise NotImplementedError


# %%
from playbook.exercises.api.retries import HINTS, check

check(Breaker)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
class Breaker:
    def __init__(self, failures=3, pause=10):
        self.failures = failures
        self.pause = pause
        self.in_a_row = 0
        self.open_until = 0

    def allows(self, now):
        if self.in_a_row < self.failures:
            return True
        if now < self.open_until:
            return False
        self.open_until = float("inf")  # the trial is under way
        return True

    def record(self, succeeded, now):
        self.in_a_row = 0 if succeeded else self.in_a_row + 1
        self.open_until = now + self.pause


assert check(Breaker)

# %% [markdown]
"""
## Take it with you

`playbook lift retries INTO` copies the recipe and its tests.

| seam | your project gives |
|---|---|
| `client` | an `httpx.Client` with a timeout; without one nothing is ever retried |
| `Retries` | one per process and called service, made at start; it holds the budget |
| `now`, `sleep` | nothing in production; a fixed clock and a list in tests |
| async | your own loop over `next_wait`, with `await asyncio.sleep(wait)` |

The recipe's tests run this:

```python
class Stock:
    def __init__(self, client: httpx.Client, retries: Retries) -> None:
        self.client = client
        self.retries = retries

    def reserve(self, order: str, item: int) -> bool:
        headers = {"Idempotency-Key": f'"reserve-{order}-{item}"'}
        request = self.client.build_request("POST", f"/items/{item}", headers=headers)
        response = send_with_retries(self.client, request, self.retries)
        return response.status_code == 201
```

Traps:

- Retry in one layer only. Three layers with four attempts each send 64 requests.
- A key belongs to one purpose. Make it before the first attempt, and store it.
- A body from a generator cannot be sent twice. Give bytes.
- Four attempts and their pauses can take minutes. A user waits for ten seconds.

Hand it over:

- **Reviewer**: no loop around `client.send`; no POST without a key.
- **Operations**: plot retries divided by requests. More than a tenth is a bug.
- **Tests**: keep "a failing server gets at most a tenth more".
- **Front end**: the same rules hold in the browser; `fetch` retries nothing.

## In short

A retry is safe if the server has seen nothing or the request may be repeated. Jitter
spreads retries over time, and only a budget limits how many there are. Without it, a
short outage can hold itself up for as long as clients go on.

## Sources

RFC 9110, 9.2.2 (idempotent methods) and 10.2.3 (Retry-After). RFC 6585, 4 (429). M.
Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). Google, *Site
Reliability Engineering*, chapters 21 and 22. Bronson and others, "Metastable Failures
in Distributed Systems" (HotOS 2021). Documentation of httpx (transports) and urllib3.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Idempotency](idempotency.ipynb) · [course map](../index.ipynb) · Next: [Contract](contract.ipynb)
"""
