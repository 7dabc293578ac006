# %% [markdown]
"""
# Start and stop

Tell the platform when a process may get traffic, and stop the process without losing a
request.

| | |
|---|---|
| **Use it when** | you deploy: a new process starts while an old one gets SIGTERM |
| **You need** | [start here](start_here.ipynb) (*background*) |
| **Time** | read 33 min, exercise 15 min |
| **Topics** | health check, readiness, liveness, SIGTERM, graceful shutdown, drain |
| **Standard** | RFC 9110 (15.6.4); Kubernetes probes; The Twelve-Factor App (IX) |

```python
from playbook.foundations.start_and_stop import Health, serve

health = Health({"database": ping})  # ping() raises when there is no database
app.add_route("/live", health.live)  # red: restart me
app.add_route("/ready", health.ready)  # red: send the traffic elsewhere
serve(app, health, port=8000)  # instead of uvicorn.run
```

*Lift: 74 lines in 1 file; needs starlette, uvicorn.*

## See it break

A *platform* (Kubernetes, Docker, systemd) starts and stops processes. A *load balancer*
gives each request to one of them. Both ask the process how it is. This shop answers at
`/health`. Its database cannot be reached: no server listens on that port.
"""

# %%
import sqlalchemy as sa
from fastapi import FastAPI

from playbook.kit.lesson import on_postgres, serving, show_http

engine = sa.create_engine("postgresql+psycopg://127.0.0.1:1/shop")
shop = FastAPI()


@shop.get("/health")
def health_of_shop():
    return {"status": "green"}


@shop.get("/orders")
def orders():
    engine.connect()


with serving(shop) as client:
    client.get("/health")
    client.get("/orders")
    show_http(client)

# %% [markdown]
"""
The balancer goes on sending customers to this process.

Next, the stop. SIGTERM is the signal that asks a process to end. If it has not ended
after some seconds, the platform kills it. `naive(app)` serves an app with uvicorn,
which ends gracefully at SIGTERM: it finishes the requests in flight.
"""


# %%
def naive(app):
    @app.get("/ready")
    def ready():
        return {"status": "ready"}

    uvicorn.run(app, port=0, access_log=False)


# %% [markdown]
"""
The folded cell imports `uvicorn` and defines `stop_under_traffic(serve_app)`. It runs
`serve_app` in a process of its own. Three clients wait for a slow report when the
platform sends SIGTERM. The balancer has not asked since, so it still sends five orders.
Then it asks `/ready`. The function shows what happened, and returns how many requests
were answered. `recipe_text(...)` is used later: it gives the text of definitions on
this page.
"""

# %% tags=["stage"]
import inspect
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import uvicorn

from playbook.kit.lesson import show
from playbook.kit.stage import Timeline, recipe_text

SHOP = """
import sys, threading, uvicorn
from fastapi import FastAPI

app, finished = FastAPI(), threading.Event()
wait = lambda: finished.set() if sys.stdin.read() == "" else None
threading.Thread(target=wait, daemon=True).start()

@app.get("/order")
def order(): return "ordered"

@app.get("/report")
def report(): sys.stderr.write("reporting\\n"), finished.wait()
"""


def stop_under_traffic(serve_app, recipe=""):
    program = [recipe, SHOP, inspect.getsource(serve_app), f"{serve_app.__name__}(app)"]
    command = [sys.executable, "-c", "\n".join(program)]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    timeline = Timeline("platform", "clients", "balancer")
    with subprocess.Popen(command, **pipes) as process:
        options = {"timeout": 60, "trust_env": False, "verify": False}
        patience = threading.Timer(60, process.kill)
        patience.start()
        line = next(line for line in process.stderr if "running on" in line)
        url = re.search(r"http://[\d.:]+", line)[0]
        with ThreadPoolExecutor(3) as clients:

            def ask(path):
                try:
                    return httpx.get(url + path, **options).status_code
                except httpx.TransportError:
                    return "no connection"

            reports = [clients.submit(ask, "/report") for _ in range(3)]
            for _ in reports:
                next(line for line in process.stderr if "reporting" in line)
            timeline.note("3 wait for a report", "clients")
            process.send_signal(signal.SIGTERM)
            timeline.note("SIGTERM", "platform")
            while ask("/ready") == 200:
                threading.Event().wait(0.01)
            threading.Event().wait(0.3)  # three ticks of uvicorn
            orders = [ask("/order") for _ in range(5)].count(200)
            timeline.note(f"5 order, {orders} get an answer", "clients")
            seen = ask("/ready")
            timeline.note(f"GET /ready: {seen}", "balancer")
            if seen == 503:
                process.send_signal(signal.SIGINT)
            process.stdin.close()
            answered = [report.result() for report in reports].count(200)
            timeline.note(f"{answered} get their report", "clients")
    patience.cancel()
    show(timeline.shown())
    return orders, answered, seen


# %% [markdown]
"""
Predict: eight clients send a request, three before SIGTERM and five after it. How many
get an answer?
"""

# %% tags=["predict"]
stop_under_traffic(naive)

# %% [markdown]
"""
A balancer asks every second or so. Until its next question it sends orders to a port
that is closed. uvicorn saved the requests in flight and lost the new ones.

## The decision

**How does a process stop?**

| option | good | costs |
|---|---|---|
| gunicorn, uvicorn alone | requests in flight end | the port closes first |
| Kubernetes: `preStop` with a sleep | no code | there only; `/ready` stays green |
| take it from the balancer, then SIGTERM | exact | a script per platform |
| **drain in the process** | any platform | each stop takes seconds longer |

We choose to **drain**: the process turns `/ready` red, and serves on until the balancer
has seen it. Choose the script where the platform has it, as Amazon ECS does. Django,
Flask and FastAPI bring no health endpoints. One endpoint is not enough, because the
platform asks two questions, **liveness** and **readiness**:

| question | red means | depends on |
|---|---|---|
| Does it live? `/live` | restart this process | the process alone |
| Is it ready? `/ready` | send traffic elsewhere | database, drain |

A `/live` that asks the database restarts every process while the database restarts.

## Build it

### A check with a time limit

A *check* is a function that raises when something is missing. It can also hang, such as
a connection through a broken network. So it runs in a thread, and we wait for a limited
time. A check that still hangs is not started again, or each question of the balancer
would leave one more thread behind.
"""

# %% tags=["export"]
import threading
from collections.abc import Callable
from concurrent.futures import Future

Check = Callable[[], object]


class Probe:
    """Runs a check in a thread of its own, at most once at a time."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._run: Future[Exception | None] | None = None

    def start(self) -> Future[Exception | None]:
        """The run under way, or a new one. Result: what the check raised, or None."""
        if self._run is None or self._run.done():
            self._run = Future()
            threading.Thread(target=self._work, args=[self._run], daemon=True).start()
        return self._run

    def _work(self, run: Future[Exception | None]) -> None:
        try:
            self._check()
        except Exception as error:
            run.set_result(error)
        else:
            run.set_result(None)


# %%
mail = Probe(threading.Event().wait)  # hangs
print("two questions, one run:", mail.start() is mail.start())

# %% [markdown]
"""
### Two endpoints

`live` depends on nothing. `ready` starts all checks at once and waits `seconds` for
them. It names what fails, and no cause: anyone can read the answer.
"""

# %% tags=["export"]
import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse


class Health:
    """Does this process live, may it get traffic? All checks together get `seconds`."""

    def __init__(self, checks: Mapping[str, Check], seconds: float = 1.0) -> None:
        self.probes = {name: Probe(check) for name, check in checks.items()}
        self.seconds = seconds
        self.draining = False

    async def failing(self) -> list[str]:
        """The names of the checks that raise or take too long."""
        runs = {n: asyncio.wrap_future(p.start()) for n, p in self.probes.items()}
        if runs:
            await asyncio.wait(runs.values(), timeout=self.seconds)
        return [name for name, run in runs.items() if not run.done() or run.result()]

    async def live(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def ready(self, request: Request) -> JSONResponse:
        """200, or 503 with the names of what fails (RFC 9110, 15.6.4)."""
        failing = ["draining"] if self.draining else await self.failing()
        body = {"status": "not ready" if failing else "ready", "failing": failing}
        return JSONResponse(body, 503 if failing else 200)


# %% [markdown]
"""
Now the shop of the beginning. Its database cannot be reached, and its mail server
hangs. Predict: what do `/live` and `/ready` say?
"""

# %% tags=["predict"]
health = Health({"database": engine.connect, "mail": threading.Event().wait})
shop.add_route("/live", health.live)
shop.add_route("/ready", health.ready)
with serving(shop) as client:
    client.get("/live")
    client.get("/ready")
    show_http(client)

# %% [markdown]
"""
The answer came after a second, although the mail server never said anything.

### The order of a stop

```text
SIGTERM        /ready is red, everything else goes on
notice is over the port closes, requests in flight go on
finish is over requests that still run are cancelled, the app shuts down
total is over  the process ends, whatever hangs
```

`notice` must be longer than the balancer needs to see red: its interval times its
number of failures. `total` must be shorter than the patience of the platform.
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class StopTimes:
    """Seconds of a stop. Raises ValueError when they do not fit into `total`."""

    notice: float = 3.0  # a balancer that asks each second, and believes two failures
    finish: int = 4  # for requests in flight
    total: float = 8.0  # from SIGTERM on; Docker kills after 10

    def __post_init__(self) -> None:
        if self.notice + self.finish >= self.total:
            raise ValueError(f"no time is left to shut down: {self}")


# %%
try:
    StopTimes(finish=30)
except ValueError as error:
    print(error)

# %% [markdown]
"""
uvicorn calls `handle_exit` at a signal, and `on_tick` ten times per second. At SIGTERM
we turn `/ready` red and set an alarm of the operating system. It rings even when a
thread hangs in a query that nothing can cancel.
"""

# %% tags=["export"]
import math
import os
import signal
import time
from types import FrameType

import uvicorn


class DrainingServer(uvicorn.Server):
    """uvicorn that gives notice at SIGTERM. Main thread only. Exit code 1: too late."""

    def __init__(self, config: uvicorn.Config, health: Health, times: StopTimes):
        super().__init__(config)
        self.health = health
        self.times = times
        self._closes_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM:  # Ctrl-C: no notice
            super().handle_exit(sig, frame)
        elif not self.health.draining:
            self.health.draining = True
            self._closes_at = time.monotonic() + self.times.notice
            signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
            signal.setitimer(signal.ITIMER_REAL, self.times.total)

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)


# %%
server = DrainingServer(uvicorn.Config(shop), health, StopTimes())
server.handle_exit(signal.SIGTERM, None)
signal.setitimer(signal.ITIMER_REAL, 0)  # no alarm: this page goes on
print("red:", health.draining, "| closes the port:", server.should_exit)

# %% [markdown]
"""
`serve` is what a program calls in place of `uvicorn.run`:
"""

# %% tags=["export"]
from contextlib import suppress
from typing import Any


def serve(
    app: Any, health: Health, times: StopTimes | None = None, **options: Any
) -> None:
    """Serve `app` until SIGTERM or Ctrl-C. `options` are uvicorn's."""
    times = times or StopTimes()
    options["timeout_graceful_shutdown"] = times.finish
    with suppress(KeyboardInterrupt):
        DrainingServer(uvicorn.Config(app, **options), health, times).run()


# %% [markdown]
"""
## See it work

The same stop again, with the recipe. Your machine may be slow, so the times are
longer here. As soon as the balancer has seen red, `stop_under_traffic` ends the notice
with Ctrl-C. `recipe_text` gives the definitions to the new process.
"""


# %%
def careful(app):
    health = Health({})
    app.add_route("/ready", health.ready)
    serve(app, health, StopTimes(20, 5, 30), port=0, access_log=False)


recipe = recipe_text(Probe, Health, StopTimes, DrainingServer, serve)
orders_answered, reports_answered, seen = stop_under_traffic(careful, recipe)

# %% [markdown]
"""
The orders were answered while `/ready` was red. Windows has no SIGTERM to send: it ends
the process at once. Run this page on Linux or macOS.

## On PostgreSQL

Here the database disappears while the service runs: it is dropped by force, with all
its connections. `on_postgres` runs the function on a new database.
"""


# %%
def lose_the_database(url):
    engine = sa.create_engine(url, pool_pre_ping=True)
    check = {"database": lambda: engine.connect().close()}
    health = Health(check, seconds=30)  # for slow test machines
    app = FastAPI()
    app.add_route("/live", health.live)
    app.add_route("/ready", health.ready)
    admin = engine.url.set(database="postgres")
    other = sa.create_engine(admin, isolation_level="AUTOCOMMIT").connect()
    with serving(app) as client, other:
        client.get("/ready")
        other.exec_driver_sql(f'DROP DATABASE "{engine.url.database}" WITH (FORCE)')
        client.get("/ready")
        client.get("/live")
    return [(exchange.path, exchange.status) for exchange in client.exchanges]


lost = on_postgres(lose_the_database)
print(lost)

# %% [markdown]
"""
The process lives all the time, so nothing restarts it. With `pool_pre_ping=True` a pool
tries each connection before it gives it away. Without it `connect()` gives a dead one,
and the check is green. Then a check must run a statement, such as `SELECT 1`.

## Check it
"""

# %%
statuses = [exchange.status for exchange in client.exchanges]
assert statuses == [200, 503], "/live or /ready answers wrongly"
assert "mail" in client.exchanges[-1].json()["failing"], "a check that hangs is green"
assert orders_answered == 5, "a request after SIGTERM was lost"
assert seen == 503, "the balancer was not told"
assert reports_answered == 3, "a request in flight was lost"
if lost:
    assert [status for _, status in lost] == [200, 503, 200], "it misses the loss"
print("SIGTERM loses no request; a check that fails or hangs is red; /live stays green")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `() + self.times.notice` | `()` | a request after SIGTERM was lost |
| `not run.done() or` | `run.done() and` | a check that hangs is green |
| `else await self.failing()` | `else []` | /live or /ready answers wrongly |

## Your turn

Each question of the balancer asks the database, and `/ready` is open to anyone. So an
attacker can make a query per request. Write `remembered(check, seconds, clock)`. It
returns a check that runs `check` at most once in `seconds`. Between two runs it says
what the last run said: it returns, or raises the same error.
`clock()` returns the time in seconds, as `time.monotonic` does.
"""


# %% tags=["exercise"]
def remembered(check, seconds, clock=time.monotonic):
    """A check that asks `check` only if its last run began at least `seconds` ago."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.start_and_stop import HINTS, check

check(remembered)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def remembered(check, seconds, clock=time.monotonic):
    began = -math.inf
    error = None

    def answer():
        nonlocal began, error
        now = clock()
        if now - began >= seconds:
            began = now
            error = None
            try:
                check()
            except Exception as raised:
                error = raised
        if error is not None:
            raise error

    return answer


assert check(remembered)

# %% [markdown]
"""
## Take it with you

`playbook lift start_and_stop INTO` copies the recipe and its tests into your project.
Its seams:

| seam | what your project does |
|---|---|
| app | passes any [ASGI](../glossary.md#asynchronous-server-gateway-interface) app; adds the two endpoints, open to the platform |
| checks | functions without arguments; only what every request needs |
| times | passes `StopTimes` that fit the balancer and the platform |
| start | runs this program: `serve` replaces `uvicorn.run` and the command |

A shop with two databases and a slow balancer, whose platform kills after 30 seconds:

```python
def ping(engine):
    return lambda: engine.connect().close()


health = Health({"orders": ping(orders_engine), "stock": ping(stock_engine)})
app = Starlette()
app.add_route("/live", health.live)
app.add_route("/ready", health.ready)
serve(app, health, StopTimes(notice=12, finish=10, total=28), host="0.0.0.0")
```

Traps:

- `CMD python shop.py` starts a shell, which keeps SIGTERM for itself. Write
  `CMD ["python", "shop.py"]`.
- A mail server in the checks takes the whole shop off line with it.
- One process per container: `workers` of uvicorn and gunicorn have other parents.

Hand it over:

- **Operations**: restart on `/live`, send traffic on `/ready`. Give the process longer
  than `total` before SIGKILL.
- **Reviewer**: accept no dependency in `/live`, and only needed ones in `/ready`.
- **Security**: `/ready` names checks and no causes. Keep both away from the internet.
- **Tests**: stop a real process under traffic, and count the answers.

## In short

A process can live and not be ready: the one asks for a restart, the other for other
traffic. At SIGTERM it must turn red, serve on until the balancer has seen it, and only
then close its port. An alarm ends whatever hangs, before the platform kills.

## Sources

Kubernetes documentation, "Pod Lifecycle" and "Liveness, Readiness, and Startup Probes".
Docker documentation, `docker container stop` (10 seconds). HAProxy configuration manual
(`inter`, `fall`). uvicorn documentation, "Server Behavior". RFC 9110, 15.6.4. The
Twelve-Factor App, IX (disposability). M. Nygard, *Release It!*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Deny by default](deny_by_default.ipynb) · [course map](../index.ipynb) · Next: [Decisions](decisions.ipynb)
"""
