# %% [markdown]
"""
# Session lookup

Answer cheaply what every page asks. Still refuse a revoked session at once.

| | |
|---|---|
| **Use it when** | one small read is most of your traffic, and must never be stale |
| **You need** | [sessions](sessions.ipynb) (*code*) |
| **Time** | read 31 min, exercise 10 min |
| **Topics** | hot path, cache, revocation, asyncio, thread pool, batching, psycopg |
| **Standard** | OWASP ASVS 5.0, 7.4.1 |

```python
from playbook.auth.session_lookup import KeyedQuery, Together

query = KeyedQuery(conninfo, "SELECT hash, name FROM t WHERE hash = ANY(%s)")
reader = Together(query.ask)  # one per event loop
row = await reader.read(key)  # None: there is no such row
```

*Lift: 64 lines in 1 file; needs psycopg.*

## See it break

Every page of a site asks the server who is signed in. The tempting way to make that
cheap keeps each answer for a minute. `look_up(token, now)` asks the database:
"""

# %%
from datetime import timedelta


def cached(look_up):
    kept = {}

    def who(token, now):
        name, until = kept.get(token, (None, now))
        if until <= now:
            name = look_up(token, now)
            kept[token] = (name, now + timedelta(minutes=1))
        return name

    return who


# %% [markdown]
"""
Two processes serve the site, each with a memory of its own. A thief has Ada's laptop.
With her phone Ada signs out everywhere, after both processes have answered the thief.

The folded cell defines `stolen_laptop(make, url)`. It calls `make(look_up)` twice, once
per process, and asks both as the thief: before Ada signs out, and some seconds
after. It imports `lesson_url`, `on_postgres`, `show`, `table`, and from the last page
`Lifetimes` and `find_session`. `signed_in(url)` is an engine and Ada's
[token](../glossary.md#token), `monday` is now. Predict: in which process does the thief
stay signed in, and until when?
"""

# %% tags=["stage"]
from datetime import UTC, datetime

import sqlalchemy as sa

from playbook.auth.sessions import (
    Lifetimes,
    end_sessions,
    find_session,
    sessions,
    start_session,
)
from playbook.kit.lesson import lesson_url, on_postgres, show, table

monday = datetime(2026, 11, 2, tzinfo=UTC)


def signed_in(url):
    engine = sa.create_engine(url, poolclass=sa.QueuePool)
    sessions.metadata.create_all(engine)
    with engine.begin() as db:
        return engine, start_session(db, "ada", monday, Lifetimes(), old=None)


def look_up_in(engine):
    def look_up(token, now):
        with engine.begin() as db:
            found = find_session(db, token, now, Lifetimes())
        return found and found.user_id

    return look_up


def stolen_laptop(make, url):
    engine, token = signed_in(url)
    look_up = look_up_in(engine)
    first, second = make(look_up), make(look_up)
    rows = [("before", first(token, monday), second(token, monday))]
    with engine.begin() as db:
        end_sessions(db, "ada")
    for seconds in (0, 59, 60):
        now = monday + timedelta(seconds=seconds)
        rows.append((f"{seconds} s after", first(token, now), second(token, now)))
    return rows


# %% tags=["predict"]
late = stolen_laptop(cached, lesson_url())
show(table(late, ["the thief is", "in process 1", "in process 2"]))

# %% [markdown]
"""
A cache answers with what was true when it asked. The sign-out reached the database, and
neither memory.

## The decision

| option | good | costs |
|---|---|---|
| keep the answer for a minute | no statement | what was revoked lives on |
| keep it in a signed cookie (Better Auth) | no memory | the same |
| Django's `cached_db` sessions | one cache for all | a cache server; who clears it? |
| keep it, and tell all processes | fast | a message that is lost |
| **ask each time, by a shorter way** | refused at once | a second way, for one read |

We choose the **shorter way**. Choose a cache where a stale answer harms nobody: names,
pictures, a public page.

What is long about the usual way? The next visible cell has the route of most services.
The folded cell imports `cost(app, engine, token, requests)`, which sends requests at
once, without a network, and counts what they take. BEGIN and ROLLBACK are statements
too. The **event loop** runs all coroutines in one thread. A **hand-over** gives work
from it to another thread, and the result back. `in_a_loop(coroutine)` runs a coroutine
to its end; `error_of(query)` asks a query and returns the name of its error;
`plain(url)` is a URL in psycopg's form. Predict: how many hand-overs and statements
does one request take?
"""

# %% tags=["stage"]
import asyncio
from concurrent.futures import ThreadPoolExecutor

from playbook.exercises.auth.session_lookup import cost, error_of, plain


def in_a_loop(coroutine):
    with ThreadPoolExecutor(1) as thread:  # a notebook's thread has a loop already
        return thread.submit(asyncio.run, coroutine).result()


# %% tags=["predict"]
from fastapi import Depends, FastAPI, Request
from sqlalchemy import orm


def long_way(engine):
    app = FastAPI()

    def get_db():
        with orm.Session(engine) as db:
            yield db

    def caller(request: Request, db=Depends(get_db)):
        token = request.cookies.get("session", "")
        return find_session(db, token, monday, Lifetimes())

    @app.get("/me")
    def me(found=Depends(caller)):
        return {"name": found and found.user_id}

    return app


engine, token = signed_in(lesson_url())
counted = in_a_loop(cost(long_way(engine), engine, token, requests=1))
show(table([counted]))

# %% [markdown]
"""
The statement itself is the smallest part. Around it there are a transaction, and
threads for both ends of the session, for the dependency and for the route. All of that
is right where something is written.

## Build it

### The idea

No thread and no transaction: one statement, on the event loop. While it is under way,
other requests come in. They gather, and go together into the next statement: `= ANY`
takes a list of keys. One connection is enough, and all who wait share its cost.

A request is answered only by a statement that **began after it came**. That is the
difference to a cache. So nobody joins a statement that is on its way, not even for the
same token. Below, `running` is on its way, and `next` gathers.
"""

# %% tags=["export"]
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Row = Sequence[Any]
Ask = Callable[[list[str]], Awaitable[Mapping[str, Row]]]


class Together:
    """Reads that come while `ask` works go together into its next call."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.keys: list[str] = []  # that have gathered
        self.running: asyncio.Task[Mapping[str, Row]] | None = None
        self.next: asyncio.Task[Mapping[str, Row]] | None = None

    async def read(self, key: str) -> Row | None:
        """The row of `key`, or None. Raises what `ask` raised."""
        self.keys.append(key)
        if self.next is None:
            self.next = asyncio.create_task(self.call())
        rows = await asyncio.shield(self.next)
        return rows.get(key)

    async def call(self) -> Mapping[str, Row]:
        if self.running is not None and not self.running.done():
            await asyncio.wait([self.running])
        keys, self.keys, self.running = self.keys, [], self.next
        self.next = None  # whoever comes now waits for another call
        return await self.ask(keys)


# %% [markdown]
"""
`shield`: a client that hangs up cancels its own wait, and not the call of all.

The folded cell imports `in_flight(Together)`. Its database reads when a statement is
sent, and answers later. Ada's read is sent; then her session ends; then three more
reads come: for Ada, for Bob, and for Ada from a client that hangs up. Predict: what
does each of the four get?
"""

# %% tags=["stage"]
from playbook.exercises.auth.session_lookup import in_flight

# %% tags=["predict"]
results = in_a_loop(in_flight(Together))
print(*results)

# %% [markdown]
"""
The first read came before the end, so it may see the session.

### One connection, opened again

SQLAlchemy's pool opens a transaction around each statement. So the look-up has a
connection of its own, in autocommit. PostgreSQL can keep the plan of a statement
(*prepare*), but not where a [pooler](../glossary.md#pooler) shares the server's process
among connections. `pg_backend_pid` tells: behind a pooler it is not the process that
was announced.
"""

# %% tags=["export"]
import time
from dataclasses import dataclass

import psycopg

PATIENCE = 5  # seconds, for an answer
OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "prepare_threshold": None,  # prepare nothing
    "connect_timeout": PATIENCE,
    "tcp_user_timeout": 1000 * PATIENCE,  # milliseconds
}


class Resting(ConnectionError):
    """A statement failed a moment ago, so none is tried."""


async def open_cursor(conninfo: str) -> psycopg.AsyncCursor[Any]:
    """A cursor without transactions, which prepares where no pooler is between."""
    connection = await psycopg.AsyncConnection.connect(conninfo, **OPTIONS)
    cursor = connection.cursor()
    await cursor.execute("SELECT pg_backend_pid()")
    if await cursor.fetchone() == (connection.info.backend_pid,):
        connection.prepare_threshold = 0  # prepare at the first use
    return cursor


# %%
async def prepares(conninfo):
    cursor = await open_cursor(conninfo)
    await cursor.connection.close()
    return cursor.connection.prepare_threshold == 0


print("prepares:", on_postgres(lambda url: in_a_loop(prepares(plain(url)))))

# %% [markdown]
"""
When the database does not answer, each request would wait `PATIENCE` seconds. So after
a failure the query rests, and fails at once. It does not rest after a key that cannot
be, such as a text with a NUL: one client could then take the quick way from all.
"""


# %% tags=["export"]
@dataclass
class KeyedQuery:
    """`ask` runs `sql`: rows by first column. Raises Resting, or psycopg's errors."""

    conninfo: str
    sql: str
    rest: float = 1  # seconds, after a failure
    rest_until: float = 0
    cursor: psycopg.AsyncCursor[Any] | None = None

    async def ask(self, keys: list[str]) -> dict[str, Row]:
        if time.monotonic() < self.rest_until:
            raise Resting
        try:
            async with asyncio.timeout(PATIENCE):
                self.cursor = self.cursor or await open_cursor(self.conninfo)
                answer = await self.cursor.execute(self.sql, (keys,))
                return {row[0]: row for row in await answer.fetchall()}
        except Exception as error:
            if not isinstance(error, psycopg.DataError | UnicodeError):  # a bad key
                self.rest_until = time.monotonic() + self.rest
                await self.close()
            raise

    async def close(self) -> None:
        if self.cursor is not None:
            await self.cursor.connection.close()
        self.cursor = None


# %%
nowhere = KeyedQuery("host=127.0.0.1 port=1", "SELECT 1", rest=60)
failed = [in_a_loop(error_of(nowhere)) for _ in range(2)]
print("no server listens:", failed)

# %% [markdown]
"""
### The second way

The quick way answers for a session that is alive and stays where it is. To move an end
is to write, so that is the long way's, as are all doubts. `moved_end` decides for both.
It is `quick_way` in the next visible cell.

## On PostgreSQL

DuckDB lives in the process and has no async driver: there the long way is the only one.
The folded cell imports `hash_token` and defines `on_a_server(url)`. It counts twenty
requests at once, both ways. Then it asks about a session that is alive, due to be
prolonged, expired, on its last day, signed out; at last it kills the connection of the
quick way. Predict for the twenty: how many statements? Which states take a hand-over?
"""

# %% tags=["stage"]
from playbook.exercises.auth.session_lookup import kill_connections, name_of, states_of
from playbook.foundations.clock_and_identifiers import hash_token


def on_a_server(url):
    engine, token = signed_in(url)
    query = KeyedQuery(plain(url), SQL, rest=0)
    quick, long = quick_way(query, look_up_in(engine)), long_way(engine)

    async def story():
        costs = []
        for way, app in (("long", long), ("quick", quick)):
            costs.append({"way": way, **await cost(app, engine, token, requests=20)})
        seen = []
        for state in states_of(engine, sessions, monday):
            name, hand_overs = await name_of(quick, token)
            other, _ = await name_of(long, token)
            seen.append((state, name or "nobody", other or "nobody", hand_overs))
            if state == "alive again":
                kill_connections(engine, "look-up")
        await query.close()
        return costs, seen

    return in_a_loop(story())


# %% tags=["predict"]
from fastapi.concurrency import run_in_threadpool

SQL = """SELECT token_hash, user_id, created_at, expires_at
    FROM sessions WHERE token_hash = ANY(%s)"""


def quick_way(query, look_up):
    app = FastAPI()
    reader = Together(query.ask)

    @app.get("/me")
    async def me(request: Request):
        token = request.cookies.get("session", "")
        try:
            row = await reader.read(hash_token(token))
        except (psycopg.Error, OSError):  # Resting and TimeoutError are OSErrors
            row = None
        if row is not None:
            _, user_id, created_at, expires_at = row
            moves = Lifetimes().moved_end(created_at, expires_at, monday) is not None
            if expires_at > monday and not moves:
                return {"name": user_id}
        return {"name": await run_in_threadpool(look_up, token, monday)}

    return app


there = on_postgres(on_a_server)
if there:
    costs, seen = there
    show(table(costs))
    show(table(seen, ["session", "quick way", "long way", "hand-overs"]))

# %% [markdown]
"""
Only what must be written or doubted goes the long way. On its last day a session's end
moves no more. The ratio depends on the machine, so a
benchmark measures it: `playbook bench session`. On two busy cores, a quick request of
Pantry took a fifth of the processor time of a long one.

## Check it
"""

# %%
assert [row[2] for row in late] == ["ada", "ada", "ada", None], "the cache forgot early"
assert results[2] != "hung up", "a client that hung up took others along"
late_reads = ["None", "('Bob',)"]
assert results[1:3] == late_reads, "a late read was answered by an early statement"
assert failed == ["OperationalError", "Resting"], "it does not rest after a failure"
if there:
    assert costs[1]["statements"] == 1, "twenty reads took more than one statement"
    assert all(row[1] == row[2] for row in seen), "the two ways differ"
print("no answer is older than its question; both ways say the same")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `self.next = None  #` | `pass  #` | a late read was answered by an early statement |
| `asyncio.shield(self.next)` | `self.next` | a client that hung up took others along |
| `time.monotonic() + self.rest` | `0.0` | it does not rest after a failure |

## Your turn

A statement with thousands of keys holds up the others. Write `in_parts(ask, most)`: it
returns another `ask` for `Together`, which calls the given one with at most `most` keys
at a time. Many reads may have the same key. The connection bears one statement at a
time.
"""


# %% tags=["exercise"]
def in_parts(ask, most):
    """An `ask` that calls `ask` with at most `most` keys at a time."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.session_lookup import HINTS, check

check(in_parts, Together)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def in_parts(ask, most):
    async def ask_in_parts(keys):
        different = list(dict.fromkeys(keys))
        rows = {}
        # One after another, and nothing is kept for the next call.
        for start in range(0, len(different), most):
            rows |= await ask(different[start : start + most])
        return rows

    return ask_in_parts


assert check(in_parts, Together)

# %% [markdown]
"""
## Take it with you

`playbook lift session_lookup INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| statement | any table: the key first, as text, then columns, `WHERE key = ANY(%s)` |
| connection | a psycopg conninfo that leads to the primary, no [replica](../glossary.md#replica) |
| event loop | one `Together` and one `KeyedQuery` per process; `close` at the end |
| failure | catches `psycopg.Error` and `OSError`, and takes the long way |

Prices by number, in a shop on FastAPI:

```python
PRICES = "SELECT number, cents FROM prices WHERE number = ANY(%s)"


def price_service(conninfo: str):
    query = KeyedQuery(conninfo, PRICES)
    reader = Together(query.ask)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        await query.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/prices/{number}")
    async def read_price(number: Annotated[str, Path(pattern="^[A-Za-z0-9-]+$")]):
        try:
            row = await reader.read(number)
        except (psycopg.Error, OSError):
            raise HTTPException(503, headers={"Retry-After": "1"}) from None
        if row is None:
            raise HTTPException(404)
        return {"cents": row[1]}

    return app
```

Traps:

- **Bad keys.** One fails the statement for all who gathered. Check keys before `read`,
  as `pattern` does. A hash is always good.
- **Integer keys.** The row is looked up by a text, so 7 is never found. Write
  `SELECT id::text, cents FROM prices WHERE id = ANY(%s::int[])`, and read `str(id)`.
- **Two ways.** A column that the long way shows belongs into the statement, too.
- **Threads.** `async def` with a call that blocks stops the whole process.
- **Zones.** psycopg returns times in the zone of the connection.
- **Several processes.** Each has one connection more.

Hand it over:

- **Reviewer**: accept nothing between a request and its statement that remembers.
- **Security**: check a cookie's signature first; count attempts on both ways.
- **Operations**: measure with `wrk -t1 -c16`; a replica knows of a revocation late.
- **Tests**: keep the table of states, and "revoked, then asked, then refused".

## In short

You can explain why gathering reads is no cache. You know what a request costs besides
its statement, and how to count it. Your quick way gives up when in doubt, so it never
says anything else than the long one.

## Sources

OWASP ASVS 5.0, 7.4.1. psycopg 3, "Concurrent operations" and "Prepared statements".
PostgreSQL, 34.1.2 (`tcp_user_timeout`) and 55.2.3 ("Extended Query"). PgBouncer,
"Features". GraphQL's DataLoader, which made gathering known.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Sessions](sessions.ipynb) · [course map](../index.ipynb) · Next: [Sign up](sign_up.ipynb)
"""
