# %% [markdown]
"""
# Session lookup

Answer the request that every page makes at a small part of its cost, and still refuse a revoked session at once.

| | |
|---|---|
| **Use it when** | one small read is most of your traffic, and nobody may see it stale |
| **You need** | [transactions](../foundations/transactions.ipynb), [sessions](sessions.ipynb), [sign_in](sign_in.ipynb) |
| **Time** | 18 minutes |
| **Topics** | performance, profiling, hot path, session cache, cookie cache, stale cache, cache invalidation, immediate revocation, async, event loop, asyncio, asgi, thread pool, round trips, batching, data loader, psycopg, autocommit, prepared statement, wrk, requests per second |
| **Standard** | OWASP ASVS 5.0 7.4.1 |
"""

# %% [markdown]
"""
## The decision

Every page view asks `get-session`. What makes it cheap? More processes would, at the price of four processors for the
work of one. Otherwise:

| option | good | costs |
|---|---|---|
| keep the answer in the process for a minute | no statement | what was revoked lives on for a minute, in every process |
| keep it in a signed cookie (Better Auth's `cookieCache`) | no statement, no memory | the same, and nobody can take it back |
| keep it, and tell all processes when it ends | fast, and nearly always right | a message that was lost keeps a thief signed in |
| **ask the database each time, by a shorter way** | what is revoked is refused | one statement, and a second way that must say the same |

We take the **last**. Choose a cache where what is stale harms nobody: names, pictures, a public page.
"""

# %% [markdown]
"""
## See it break

The tempting version: answers are kept for a minute. Two processes serve it (here two apps, each with a memory of its
own). Alice's laptop was stolen; with her phone she signs out everywhere, at the first process, which forgets all it
keeps. Before you run the cell: for how long does the thief stay signed in?
"""

# %%
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from fastapi import FastAPI, Request

from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show, table
from playbook.kit.stage import capture_sql
from playbook.pantry.auth.cross_site import check_cross_site
from playbook.pantry.auth.sessions import (
    SESSION,
    cookies_of,
    end_sessions,
    look_up,
    session_routes,
    start_session,
    user_view,
)
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.wire import AnswerCookies, Auth, auth_app
from playbook.pantry.settings import Settings
from playbook.schema.identity import UserSession, add_user

WHO = "/api/auth/get-session"


def new_auth(url, **settings):
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    settings, ids = Settings(environment="test", database_url=url, **settings), Identifiers(clock, SeededBytes(1))
    return Auth(settings, engine, clock, ids, Postbox(MemorySender()), SeededBytes(2))


def enter(auth):
    """Alice signs in: her id, and the Cookie header."""
    nobody_yet = Request({"type": "http", "headers": [], "client": None})
    user = auth.transact(lambda db: add_user(db, auth.clock, auth.ids, "alice@example.com", "alice").id)
    _, token = auth.transact(lambda db: start_session(db, auth, user, nobody_yet))
    return user, cookies_of(auth).put(SESSION, token).split(";")[0]


def with_a_cache(auth):
    app, kept = FastAPI(), {}

    @app.get(WHO)
    def get_session(request: Request):
        cookie, now = request.headers.get("cookie"), auth.clock.now()
        answer, until = kept.get(cookie, (None, now))
        if until <= now:
            found = look_up(request, auth)
            answer = found and {"user": user_view(found.user)}
            kept[cookie] = answer, now + timedelta(minutes=1)
        return answer

    @app.post("/api/auth/revoke-sessions")
    def revoke_sessions(request: Request):
        found = look_up(request, auth)
        auth.transact(lambda db: end_sessions(db, found.user.id))
        kept.clear()

    return AnswerCookies(app)


def who(client, cookie):
    answer = client.get(WHO, headers={"cookie": cookie}).json()
    return answer["user"]["name"] if answer else "nobody"


def stolen_laptop(auth, make):
    """Who the thief is, at each process, after `seconds`."""
    _, cookie = enter(auth)
    with serving(make(auth)) as first, serving(make(auth)) as second:
        seen = [{"seconds": "before", "first": who(first, cookie), "second": who(second, cookie)}]
        first.post("/api/auth/revoke-sessions", headers={"cookie": cookie, "origin": "http://localhost:8000"}, json={})
        for seconds in (0, 59, 60):
            seen.append({"seconds": seconds, "first": who(first, cookie), "second": who(second, cookie)})
            auth.clock.advance(timedelta(seconds=59 if seconds == 0 else 1))
    return seen


kept_too_long = stolen_laptop(new_auth(lesson_url()), with_a_cache)
show(table(kept_too_long))

# %% [markdown]
"""
A minute, in every process but the one that was asked to forget. So the statement stays. Is it the statement that is
slow? Here is the processor time of one `get-session` and of what it consists of, each measured against the bare
statement on an open connection:
"""

# %%
import psycopg

SCOPE = {"type": "http", "method": "GET", "path": WHO, "query_string": b"", "client": ("127.0.0.1", 1)}
SCOPE |= {"http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 8000), "root_path": ""}


def in_a_loop(work, *arguments):
    """Run a coroutine function to its end in a loop and a thread of its own: a notebook's thread has a loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work(*arguments)).result()


async def ask_often(app, cookie, times):
    """`times` requests, ten at a time."""
    scope = SCOPE | {"headers": [(b"cookie", cookie.encode())]}

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message): ...

    async def browser():
        for _ in range(times // 10):
            await app(dict(scope), receive, send)

    await asyncio.gather(*(browser() for _ in range(10)))


def processor_time(work, times=60, rounds=5):
    """Seconds of processor time for one of `times`, all threads together, in the best of `rounds`."""
    work(10)
    best = []
    for _ in range(rounds):
        began = time.process_time()
        work(times)
        best.append((time.process_time() - began) / times)
    return min(best)


def repeated(call):
    return lambda times: [call() for _ in range(times)]


def long_way(auth, limits):
    return auth_app(auth, [session_routes], guards=[limits.guard, check_cross_site])


def plain(url):
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def where_it_goes(url):
    auth = new_auth(url, rate_limits=False)
    _, cookie = enter(auth)
    app, request = long_way(auth, AddressLimits(auth)), Request(SCOPE | {"headers": [(b"cookie", cookie.encode())]})
    statement = "SELECT * FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = %s"
    with capture_sql(auth.engine) as statements:
        look_up(request, auth)
        sent = ", ".join(s.sql.split()[0] for s in statements)
    with psycopg.connect(plain(url), autocommit=True) as connection:
        bare = processor_time(repeated(lambda: connection.execute(statement, ("a" * 64,)).fetchone()), times=500)
    select_1 = repeated(lambda: auth.transact(lambda db: db.execute(sa.text("SELECT 1")).all()))
    parts = [
        ("the whole request", lambda times: in_a_loop(ask_often, app, cookie, times), 8),
        ("its look-up: a transaction and two objects", repeated(lambda: look_up(request, auth)), 4),
        ("a transaction with SELECT 1 in it", select_1, 2),
    ]
    costs = [(what, f"more than {least} times", processor_time(work) > least * bare) for what, work, least in parts]
    return f"sent: {sent}", costs


found = on_postgres(where_it_goes)
if found:
    print(found[0])
    show(table(found[1], ["processor time", "of the statement", "so it is"]))

# %% [markdown]
"""
The statement is the smallest part. The rest is what makes the other endpoints pleasant to write: three statements
where one would do (and a ping before them, to see whether the connection still lives), objects that remember what was
changed, a thread for the endpoint and for each of its dependencies. All of it is right where something is written.

## Build it

So: no thread, no transaction, no objects; one statement, by an async driver, on the event loop. What the row must have
is what `session_view` and `user_view` show. They are used as they are: a second way that words its own answers would
soon word them differently.
"""

# %%
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID


class SessionRow(NamedTuple):
    """The columns that `session_view` shows, under the same names."""

    id: UUID
    user_id: UUID
    expires_at: datetime
    created_at: datetime
    updated_at: datetime
    ip_address: str | None
    user_agent: str | None


class UserRow(NamedTuple):
    """The columns that `user_view` shows, under the same names."""

    id: UUID
    name: str
    email: str
    email_verified: bool
    image: str | None
    created_at: datetime
    updated_at: datetime


# %%
def columns(table: str, row: type[Any]) -> str:
    return ", ".join(f"{table}.{name}" for name in row._fields)


LOOK_UP = (
    f"SELECT s.token_hash, {columns('s', SessionRow)}, {columns('u', UserRow)}"
    " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = ANY(%s)"
)

# %% [markdown]
"""
`ANY`: the statement takes many hashes. While it is under way, the requests that come in gather, and go together in the
next one. One connection is enough, and the cost of a statement is shared by all who wait for it. A request is answered
only by a statement that was sent *after* it came. That is the whole difference to a cache, and it is why nobody joins
the statement that is on its way, not even for the same token.
"""

# %%
import asyncio
from collections.abc import Awaitable, Callable, Sequence

Row = Sequence[Any]
Ask = Callable[[list[str]], Awaitable[dict[str, Row]]]  # must not raise


class Together:
    """Asks for many keys at once: `read`s that come while `ask` is at work go together into the next call."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.waiting: list[tuple[str, asyncio.Future[Row | None]]] = []
        self.working: asyncio.Task[None] | None = None

    async def read(self, key: str) -> Row | None:
        """The row of `key`, from a call of `ask` that began after this one; None when there is none."""
        answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self.waiting.append((key, answer))
        if self.working is None:
            self.working = asyncio.create_task(self.work())
        return await answer

    async def work(self) -> None:
        """Call after call, until nobody waits."""
        while self.waiting:
            batch, self.waiting = self.waiting, []
            rows = await self.ask([key for key, _ in batch])
            for key, answer in batch:
                if not answer.done():  # else its request was cancelled
                    answer.set_result(rows.get(key))
        self.working = None


# %% [markdown]
"""
The connection is opened when it is needed and again after it was lost. When the database does not answer, this side
finds nothing for a second, and every request takes the long way, which says so. Where a pooler shares the session with
others, nothing is prepared in it; nothing is set in any.
"""

# %%
import logging
import time

import psycopg
from sqlalchemy.engine import URL

log = logging.getLogger("pantry.sessions")
CONNECTION: dict[str, Any] = {
    "autocommit": True, "prepare_threshold": None, "application_name": "pantry sessions",
    "connect_timeout": 5, "tcp_user_timeout": 5000,  # seconds; milliseconds
}  # fmt: skip
PATIENCE, REST = 5.0, 1.0  # seconds: for an answer; without an attempt, after one that failed


# %%
class SessionTable:
    """LOOK_UP on one connection of the event loop, without a transaction around it."""

    def __init__(self, url: URL) -> None:
        self.conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False).replace(" ", "%20")
        self.cursor: psycopg.AsyncCursor[Any] | None = None
        self.rest_until = 0.0

    async def ask(self, hashes: list[str]) -> dict[str, Row]:
        """The rows of these token hashes; none when the database does not answer."""
        if time.monotonic() < self.rest_until:
            return {}
        try:
            async with asyncio.timeout(PATIENCE):
                cursor = self.cursor or await self.connect()
                rows = await (await cursor.execute(LOOK_UP, (hashes,))).fetchall()
                return {r[0]: [v.astimezone(UTC) if isinstance(v, datetime) else v for v in r] for r in rows}
        except Exception as error:
            log.warning("session look-up: %s", type(error).__name__)
            self.rest_until = time.monotonic() + REST
            await self.close()
            return {}

    async def connect(self) -> psycopg.AsyncCursor[Any]:
        connection = await psycopg.AsyncConnection.connect(self.conninfo, **CONNECTION)
        self.cursor = connection.cursor()
        await self.cursor.execute("SELECT pg_backend_pid()")
        if await self.cursor.fetchone() == (connection.info.backend_pid,):  # the process that was announced: no pooler
            connection.prepare_threshold = 0
        return self.cursor

    async def close(self) -> None:
        cursor, self.cursor = self.cursor, None
        if cursor is not None:
            await cursor.connection.close()


# %% [markdown]
"""
Then what may be answered from the row alone: a session that is alive and stays where it is. To prolong one is to write,
so that is the long way's; `moved_end` decides for both.
"""

# %%
import json
from typing import cast

from playbook.pantry.auth.sessions import REMEMBER, Cookies, moved_end, session_view, user_view
from playbook.pantry.auth.wire import Auth
from playbook.schema.identity import User, UserSession

to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def body_of(auth: Auth, cookies: Cookies, header: str, row: Row) -> bytes | None:
    """What get-session answers for a row of LOOK_UP; None when there is something to write or to clear."""
    session, user = SessionRow(*row[1:8]), UserRow(*row[8:])
    if session.expires_at <= auth.clock.now():
        return None
    due = moved_end(auth, session.created_at, session.expires_at) is not None
    if due and cookies.read(header, REMEMBER) is None:
        return None
    views = {"session": session_view(cast(UserSession, session)), "user": user_view(cast(User, user))}
    return to_json(views).encode()


# %% [markdown]
"""
And the layer around the service. Whatever it does not know goes on to `app`: another path, a query, a cookie that is
none of ours, a session that is gone, DuckDB. It counts the request for the address's limit, once.
"""

# %%
from sqlalchemy.engine import make_url
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.request_and_transaction import ACCEPTED_ID
from playbook.pantry.auth.sessions import NO_STORE, SESSION, cookies_of
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.wire import AuthError
from playbook.pantry.http import client_ip

HEADERS = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in NO_STORE.items())]


def asks_who(scope: Scope) -> bool:
    """Whether this is `GET /api/auth/get-session`, without a query."""
    asked = scope["type"] == "http" and scope["path"] == "/api/auth/get-session"
    return asked and scope["method"] == "GET" and not scope["query_string"]


async def send_answer(scope: Scope, send: Send, auth: Auth, body: bytes) -> None:
    """200 with `body`, and the headers that the long way sends."""
    sent = Headers(scope=scope).get("x-request-id", "")
    id = sent if ACCEPTED_ID.fullmatch(sent) else str(auth.ids.new())
    headers = [*HEADERS, (b"x-request-id", id.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def closing(receive: Receive, table: SessionTable) -> Receive:
    """`receive` of the service's lifespan, which closes the connection when the service stops."""

    async def receive_and_close() -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await table.close()
        return message

    return receive_and_close


# %%
class SessionLookup:
    """ASGI, outermost: answers get-session on the event loop, when that takes one look-up and no more.

    On PostgreSQL. Its connection is closed when the service stops.
    """

    def __init__(self, app: ASGIApp, auth: Auth, limits: AddressLimits) -> None:
        self.app, self.auth, self.limits, self.cookies = app, auth, limits, cookies_of(auth)
        url = make_url(auth.settings.database_url)
        self.table = SessionTable(url) if url.get_backend_name() == "postgresql" else None
        self.read = Together(self.table.ask).read if self.table else None

    async def quick_answer(self, scope: Scope) -> bytes | None:
        """The body, or None when the long way must be taken."""
        cookie = Headers(scope=scope).get("cookie", "")
        token = self.cookies.read(cookie, SESSION)
        if token is None or self.read is None:
            return None
        try:
            self.limits.take(client_ip(scope) or "", scope["path"])
        except AuthError:
            return None  # the long way refuses it as well, and says so
        scope["counted"] = True
        row = await self.read(hash_token(token))
        return body_of(self.auth, self.cookies, cookie, row) if row else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asks_who(scope) and (body := await self.quick_answer(scope)) is not None:
            return await send_answer(scope, send, self.auth, body)
        if scope["type"] == "lifespan" and self.table is not None:
            receive = closing(receive, self.table)
        await self.app(scope, receive, send)


# %% [markdown]
"""
## See it work

Is it the same service? A session in every state, asked about in both ways. What is compared is the whole answer: status,
headers and bytes. "quick" means that the request never reached the app.
"""

# %%
NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
STATES = {  # what the row has, and what the browser sends besides its cookie
    "alive": ({}, ""),
    "to be prolonged": ({"expires_at": NOW + timedelta(days=5)}, ""),
    "the same, not to be remembered": ({"expires_at": NOW + timedelta(days=5)}, "mark"),
    "at the end of its thirty days": ({"created_at": NOW - timedelta(29), "expires_at": NOW + timedelta(1)}, ""),
    "expired": ({"expires_at": NOW}, ""),
    "revoked": (None, ""),
    "alive, asked with a query": ({}, "query"),
    "alive, its signature damaged": ({}, "damage"),
}


def both_ways(url):
    """For each state: which way the outer app took, and whether both apps answered the same."""
    auth, seen, rows = new_auth(url, rate_limits=False), [], UserSession.__table__
    limits, (_, cookie) = AddressLimits(auth), enter(auth)
    app = long_way(auth, limits)
    row = dict(auth.transact(lambda db: db.execute(sa.select(rows)).mappings().one()))

    async def watched(scope, receive, send):
        seen.append(scope["type"])
        await app(scope, receive, send)

    def answer(client, changes, extra):
        auth.transact(lambda db: db.execute(rows.delete()))
        if changes is not None:
            auth.transact(lambda db: db.execute(rows.insert().values(row | changes)))
        seen.clear()
        mark = f"; {cookies_of(auth).put(REMEMBER, 'true').split(';')[0]}" if extra == "mark" else ""
        sent = {"cookie": cookie + mark + ("x" if extra == "damage" else ""), "x-request-id": "from-the-lesson"}
        said = client.get(WHO + ("?disableRefresh=true" if extra == "query" else ""), headers=sent)
        headers = sorted((k, v) for k, v in said.headers.multi_items() if k != "date")
        return (said.status_code, headers, said.content), "long" if seen else "quick"

    with serving(app) as old, serving(SessionLookup(watched, auth, limits)) as new:
        for state, (changes, extra) in STATES.items():
            (expected, _), (said, way) = answer(old, changes, extra), answer(new, changes, extra)
            yield state, way, said == expected, "null" if said[2] == b"null" else "alice"


compared = list(both_ways(lesson_url()))
show(table(compared, ["the session is", "way", "same answer", "who"]))

# %% [markdown]
"""
## On PostgreSQL

On DuckDB, which lives in the process and has no async driver, everything took the long way. On PostgreSQL: the same
comparison; the stolen laptop again, with two processes of the quick kind; and the price.
"""


# %%
def with_the_lookup(auth):
    limits = AddressLimits(auth)
    return SessionLookup(long_way(auth, limits), auth, limits)


def price(auth):
    """Fifty look-ups at once: how many are found, and the statements; whether four quick requests cost less than a long."""
    _, cookie = enter(auth)
    statements, token_hash = [], hash_token(cookies_of(auth).read(cookie, SESSION))

    async def fifty_at_once():
        sessions = SessionTable(sa.make_url(auth.settings.database_url))

        async def ask(hashes):
            statements.append(len(hashes))
            return await sessions.ask(hashes)

        reader = Together(ask)
        rows = await asyncio.gather(*(reader.read(token_hash) for _ in range(50)))
        await sessions.close()
        return sum(row is not None for row in rows)

    async def quick_requests(times):
        lookup = with_the_lookup(auth)
        await ask_often(lookup, cookie, times)
        await lookup.table.close()

    rows = in_a_loop(fifty_at_once)
    slow = processor_time(lambda times: in_a_loop(ask_often, long_way(auth, AddressLimits(auth)), cookie, times))
    quick = processor_time(lambda times: in_a_loop(quick_requests, times), times=300)
    return rows, statements, 4 * quick < slow


def on_a_server(url):
    without_limits = new_auth(url, rate_limits=False)
    paid = price(without_limits)
    return list(both_ways(url)), stolen_laptop(new_auth(url), with_the_lookup), paid


there = on_postgres(on_a_server)
if there:
    compared_there, refused_at_once, paid = there
    show(table([row for row in compared_there if row[1] == "quick"], ["the session is", "way", "same answer", "who"]))
    show(table(refused_at_once[:2]))
    print(f"fifty at once: {paid[0]} sessions found, statements: {len(paid[1])}")
    print("four quick requests cost less processor time than a long one:", paid[2])

# %% [markdown]
"""
Nobody, at once. On two cores, `wrk -t1 -c16` and one process each, Pantry answered four times the requests
of better-auth on Node, and its slowest hundredth sooner. `playbook bench` measures both on your machine.

## Check it

The property that separates gathering from caching, with a database of two rows and a gate in place of the network:
whoever comes while a statement is on its way is not answered by it.
"""


# %%
async def revoked_in_flight():
    database, on_its_way, may_return = {"alice": (1,), "bob": (2,)}, asyncio.Event(), asyncio.Event()

    async def ask(keys):
        found = {key: database[key] for key in keys if key in database}  # what the statement sees
        on_its_way.set()
        await may_return.wait()
        return found

    reader = Together(ask)
    early = asyncio.create_task(reader.read("alice"))
    await on_its_way.wait()
    del database["alice"]
    late = [asyncio.create_task(reader.read(key)) for key in ("alice", "bob", "alice")]
    late[2].cancel()
    may_return.set()
    return [await early, *await asyncio.gather(*late[:2])]


assert in_a_loop(revoked_in_flight) == [(1,), None, (2,)], "seen before it was revoked, and not after"
assert {way for _, way, _, _ in compared} <= {"long", "quick"} and all(same for _, _, same, _ in compared)
if there:
    assert all(same for _, _, same, _ in compared_there), "the same bytes in every state"
    quick = {state for state, way, _, _ in compared_there if way == "quick"}
    assert quick == {"alive", "the same, not to be remembered", "at the end of its thirty days"}
    assert {row["second"] for row in refused_at_once[1:]} == {"nobody"}, "ASVS 7.4.1"
    assert paid == (50, [50], True) and all(so_it_is for _, _, so_it_is in found[1])
assert [row["second"] for row in kept_too_long] == ["alice", "alice", "alice", "nobody"]
print("the same answers as the long way; revoked is refused at the next request; no answer is older than its question")

# %% [markdown]
"""
## Your turn

On a public page most visitors are nobody, and for them, too, `get-session` takes threads and the framework to say
`null`. Write `answer_nobody(scope, cookies, limits)`: the body, when it is certain without a database that the answer is
200, `null` and no cookie, otherwise None. It works on both engines. Mind who must still be counted, and whose cookies
have to be cleared.
"""


# %% tags=["exercise"]
def answer_nobody(scope: Scope, cookies: Cookies, limits: AddressLimits) -> bytes | None:
    return None if b"cookie" in dict(scope["headers"]) else b"null"


# %%
@checker
def check_answer_nobody(answer_nobody):
    auth = new_auth(lesson_url())
    _, alive = enter(auth)
    dead = cookies_of(auth).put(SESSION, "of no session").split(";")[0]
    name, _, value = alive.partition("=")
    requests = {
        "without a cookie": ("GET", "", {}),
        "with a cookie of somebody else": ("GET", "", {"cookie": "theme=dark"}),
        "with a forged cookie": ("GET", "", {"cookie": f"{name}=x{value}"}),
        "with a forged cookie before a good one": ("GET", "", {"cookie": f"{name}=x; {alive}"}),
        "of somebody signed in": ("GET", "", {"cookie": alive}),
        "with a well-signed cookie of no session": ("GET", "", {"cookie": dead}),
        "with another method": ("POST", "", {}),
        "for another path": ("GET", "/", {}),
        "with a callbackURL of another site": ("GET", "?callbackURL=//evil.example", {}),
    }
    reached, outer, inner = [], AddressLimits(auth), AddressLimits(auth)
    app = long_way(auth, outer)

    async def quick(scope, receive, send):
        body = answer_nobody(scope, cookies_of(auth), outer) if scope["type"] == "http" else None
        reached.append(body is None)
        await (send_answer(scope, send, auth, body) if body is not None else app(scope, receive, send))

    with serving(quick) as new, serving(long_way(auth, inner)) as old:
        for what, (method, rest, headers) in requests.items():
            said, expected = (c.request(method, WHO + rest, headers=headers) for c in (new, old))
            if (said.status_code, said.content) != (expected.status_code, expected.content):
                return f"not yet: a request {what} gets {said.status_code} {said.text[:40]}, not {expected.status_code}"
            if said.headers.get_list("set-cookie") != expected.headers.get_list("set-cookie"):
                return f"not yet: a request {what} must have its cookies cleared"
            if "forged" in what and reached[-1]:
                return f"not yet: a request {what} is nobody's: no database is needed to know"
        auth.clock.advance(timedelta(seconds=11))
        if [new.get(WHO).status_code for _ in range(101)] != [old.get(WHO).status_code for _ in range(101)]:
            return "not yet: the 101st request in ten seconds must be 429, and the 100th not: each counts once"
    return "right"


check_answer_nobody(answer_nobody)


# %% tags=["solution"]
def answer_nobody(scope: Scope, cookies: Cookies, limits: AddressLimits) -> bytes | None:
    if not asks_who(scope) or cookies.read(Headers(scope=scope).get("cookie", ""), SESSION) is not None:
        return None  # a good signature: only the database knows, and what is dead must be cleared
    try:
        limits.take((scope["client"] or ("",))[0], scope["path"])
    except AuthError:
        return None  # not counted, so the long way counts it, and refuses
    return b"null"


assert check_answer_nobody(answer_nobody)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: nothing between a request and its statement may remember an answer. A column that `session_view` or
  `user_view` begins to show belongs into `SessionRow` or `UserRow`; the comparison of all states fails without it.
- **Test engineer**: a second way needs one test: all states, both ways, the same bytes.
- **Operator**: one more connection a process. It must lead to the primary: a replica knows of a revocation late.
  Measure with `wrk -t1 -c16`; uvicorn takes `uvloop` and `httptools` when they are installed.
- **Security reviewer**: the signature is checked before the database is asked, the address's limit counts both ways.

## Sources

OWASP ASVS 5.0, 7.4.1. psycopg documentation, "Asynchronous operations" and "Prepared statements". PostgreSQL
documentation, 55.2.3 "Extended Query" and 34.1.2 (`tcp_user_timeout`). ASGI specification 3.0. GraphQL's DataLoader,
which made this kind of gathering known.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Account changes](account_changes.ipynb) · [course map](../index.ipynb) · Next: [A foreign contract](foreign_contract.ipynb)
"""
