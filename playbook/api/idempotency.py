# %% [markdown]
"""
# Idempotency

Let a client send a POST again after a lost answer, so that it acts once and every answer is the first one.

| | |
|---|---|
| **Use it when** | a request creates, sends, pays or publishes, and its client must not guess whether it worked |
| **You need** | [database](../foundations/database.ipynb), [http_service](../foundations/http_service.ipynb), [resources](resources.ipynb), [errors](errors.ipynb) |
| **Time** | 20 minutes |
| **Topics** | idempotency, idempotency key, idempotent post, retry, safe retry, exponential backoff, jitter, retry-after, duplicate request, double submit, exactly once, at least once, lost response, timeout, crash recovery, replay, fingerprint, lease, fencing |
| **Standard** | draft-ietf-httpapi-idempotency-key-header; RFC 9110 9.2.2; RFC 9457 |
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| `PUT` to a URL that the client chooses | nothing to store: HTTP promises it | only where the client may choose the name, and where "set it to this" is the whole meaning |
| look for an equal row first | the client need not know | two equal orders may both be meant; two at once see no row, both |
| **`Idempotency-Key`, with the answer kept** | any POST; the client gets the answer it missed | a table, a lifetime, answers at rest |
| a queue that delivers exactly once | sounds final | no network can; it delivers at least once, and the receiver needs this table |

We take the **key**. Choose `PUT` where the resource's name comes from the client, as a file's does.

Where is the key written? In the work's transaction nobody sees it before the commit: on PostgreSQL the second request
waits on the index, on DuckDB both work and one is thrown away. So a **short claim first**, then the work and its answer
in one transaction: the second hears 409 at once. It costs a commit, and the claim of a dead process must run out.
"""

# %% [markdown]
"""
## See it break

A team announces a release: `POST /announcements` writes a row, which goes out to everybody. The server, a process of
its own, commits and is killed (SIGKILL) before its answer has left. The platform starts it again, and the client sends
again. Before you run the cell: what does the client believe, and what is true?
"""

# %%
import inspect
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import sqlalchemy as sa

from playbook.foundations.database import make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show_http


def service(url, install, in_the_work=lambda: None, at_the_end=lambda: None, time="2026-11-02T09:00+00:00"):
    import uuid  # all imports are in here, because another process runs this function from its source
    from datetime import datetime

    import sqlalchemy as sa
    from fastapi import APIRouter, Body

    from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
    from playbook.foundations.database import Base, make_engine
    from playbook.pantry.http import Caller, NewIds, Transaction, create_app, permission
    from playbook.pantry.problems import install_problems
    from playbook.pantry.resources import complete_methods, resources

    engine, clock, router = make_engine(url), FixedClock(datetime.fromisoformat(time)), APIRouter()
    rows = sa.Table("announcements", sa.MetaData(), sa.Column("id", sa.Uuid), sa.Column("text", sa.String))
    Base.metadata.create_all(engine)
    rows.create(engine, checkfirst=True)

    caller_of = lambda request: Caller(uuid.UUID(int=int(request.headers.get("x-caller", 1))), "somebody")  # noqa: E731

    @router.post("/announcements", status_code=201, dependencies=[permission("announce")])
    def announce(transact: Transaction, ids: NewIds, text: str = Body(embed=True)):
        def work(session):
            session.execute(rows.insert().values(id=ids.new(), text=text))
            in_the_work()

        transact(work)
        return at_the_end() or {"text": text}

    app = create_app(engine, [resources, router], clock, Identifiers(clock), caller_of, lambda *asked: True)
    complete_methods(app), install_problems(app), install(app)
    return app


SERVER = """
import importlib, socket, sys, threading, uvicorn

url, descriptor, page, dies, time = sys.argv[1:]

def reach(point):
    if dies == point:
        print("now", flush=True)
        threading.Event().wait()  # until the kill

install = importlib.import_module(page).install_idempotency if page else lambda app: None
app = service(url, install, lambda: reach("in the work"), time=time)

@app.middleware("http")
async def die_before_the_answer(request, call_next):
    response = await call_next(request)
    reach("before the answer")
    return response

uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[socket.socket(fileno=int(descriptor))])
"""


@contextmanager
def process(url, page=""):
    """A client, and a function that starts the server's next process: the one before was killed where it `dies`."""
    lives, program = [], inspect.getsource(service) + SERVER
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def start(dies="never", time="2026-11-02T09:00+00:00"):
            [life.wait() for life in lives]
            command = [sys.executable, "-c", program, url, str(listening.fileno()), page, dies, time]
            life = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[listening.fileno()])
            threading.Thread(target=lambda: life.stdout.readline() and life.kill()).start()
            lives.append(life)

        try:
            port = listening.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                yield client, start
        finally:
            lives[-1].kill(), lives[-1].wait()


def count(engine):
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT count(*) FROM announcements"))


url = lesson_url(file=True)
with process(url) as (client, start):
    start(dies="before the answer")
    try:
        client.post("/announcements", json={"text": "httpx 1.0"})
    except httpx.TransportError:
        start()
    answer = client.post("/announcements", json={"text": "httpx 1.0"})
print(f"the only answer: {answer.status_code}, rows: {count(make_engine(url))}")

# %% [markdown]
"""
The client announced once; everybody reads it twice. A unique name would only turn the second answer into a wrong 409.

## Build it

First the table. A key belongs to one caller and one route: the row's name is a hash over all three. `fingerprint` is a
hash of the request, `claim` says who is at work, `claimed_until` how long others believe it.
"""

# %%
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.database import Base

LIFETIME = timedelta(hours=24)  # how long an answer is kept: longer than any client goes on trying
LEASE = timedelta(seconds=60)  # how long a claim holds: longer than any request may take


class IdempotencyKey(Base):
    """One use of a key: `claimed` while the work runs, `answered` with the answer that every retry gets."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (sa.CheckConstraint("state IN ('claimed', 'answered')", "state"),)

    key_hash: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    state: Mapped[str]
    claim: Mapped[UUID]
    claimed_until: Mapped[datetime]
    status: Mapped[int | None]
    headers: Mapped[str | None]
    body: Mapped[bytes | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


# %% [markdown]
"""
The header is a *string* of structured fields, so it has quotes. At least 16 characters: a client that counts from 1
begins again after its restart, and would get last week's answers.
"""

# %%
import hashlib
import re

from playbook.pantry.problems import Problem, problem_type

BAD_KEY = problem_type("bad-idempotency-key", 400, "The Idempotency-Key is missing or malformed", "Send a good one.")
IN_FLIGHT = problem_type("in-flight", 409, "The first request is still being worked on", "Repeat it a little later.")
KEY_REUSED = problem_type("key-reused", 422, "The key belongs to another request", "Use a new key for a new request.")
KEY = re.compile(r'"[!#-\[\]-~]{16,128}"')  # visible ASCII without the quote and the backslash
SOON = {"Retry-After": "1"}  # seconds


def read_key(sent: list[str]) -> str:
    """The key in the values of `Idempotency-Key`. Raises Problem 400 for none, several, or a malformed one."""
    if len(sent) != 1 or not KEY.fullmatch(sent[0]):
        raise Problem(BAD_KEY, "give one Idempotency-Key, 16 to 128 visible characters between double quotes")
    return sent[0]


def digest(*parts: str | bytes) -> str:
    """SHA-256 over `parts`, which stay apart: ("ab", "c") is not ("a", "bc")."""
    return hashlib.sha256(ascii(parts).encode()).hexdigest()


# %% [markdown]
"""
The claim's unique index decides who is first; the others read the row. A claim that ran out belonged to the dead.
"""

# %%
import json

from starlette.responses import Response

from playbook.foundations.database import is_conflict, somebody_was_first, transaction


def claim(session: orm.Session, key_hash: str, fingerprint: str, mine: UUID, now: datetime) -> Response | None:
    """Take the key for `mine` and return None, or return the stored answer. Raises Problem 409 or 422."""
    row = session.get(IdempotencyKey, key_hash)
    if row is None:
        row = IdempotencyKey(key_hash=key_hash)
        session.add(row)
    elif row.expires_at > now:
        if row.fingerprint != fingerprint:
            raise Problem(KEY_REUSED, "this Idempotency-Key came with another request before")
        if row.state == "answered":
            stored = [*json.loads(row.headers or "[]"), ("idempotency-replayed", "true")]
            answer = Response(row.body, row.status or 200)
            answer.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in stored]
            return answer
        if row.claimed_until > now:
            raise Problem(IN_FLIGHT, headers=SOON)
    row.fingerprint, row.state, row.claim = fingerprint, "claimed", mine
    row.status = row.headers = row.body = None
    row.created_at, row.claimed_until, row.expires_at = now, now + LEASE, now + LIFETIME
    return None


# %% [markdown]
"""
Two ways out of a claim. `settle` names the claim, which makes taking over safe: a process that was only slow and has
lost its claim finds no row, and its work is rolled back (a *fencing token*). `release` is for when nothing was done.
"""


# %%
def held_by(key_hash: str, mine: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(IdempotencyKey.key_hash == key_hash, IdempotencyKey.claim == mine, IdempotencyKey.state == "claimed")


def settle(session: orm.Session, key_hash: str, mine: UUID, answer: Response) -> None:
    """Store `answer` in the open transaction. Raises Problem 409 when the claim is no longer `mine`."""
    headers = json.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers])
    values = {"state": "answered", "status": answer.status_code, "headers": headers, "body": bytes(answer.body)}
    update = sa.update(IdempotencyKey).where(held_by(key_hash, mine)).values(values)
    if not session.scalars(update.returning(IdempotencyKey.key_hash)).all():
        raise Problem(IN_FLIGHT, headers=SOON)


def release(session: orm.Session, key_hash: str, mine: UUID) -> None:
    session.execute(sa.delete(IdempotencyKey).where(held_by(key_hash, mine)))


def purge_keys(session: orm.Session, now: datetime) -> None:
    """Delete the keys whose lifetime is over. For a daily job."""
    session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.expires_at <= now))


# %% [markdown]
"""
Now the difficult part. The answer must be in the transaction of the work, but it is made *after* the endpoint's
`transact` has committed. So for a request with a key `transact` does not commit: its session is held open until the
answer is made, then both are committed. The endpoints stay as they are: their `transact` is the one that the middleware
puts into the request. (An override of the dependency would do, too; FastAPI then takes the dependencies of every
request apart anew, also of those without a key.)
"""

# %%
from collections.abc import Callable

from playbook.pantry.http import T, find_once


class Held:
    """A `transact` that leaves the commit to others. Work that fails is rolled back at once, as without a key."""

    def __init__(self, session: orm.Session) -> None:
        self.session = session
        self.conflict: sa.exc.DBAPIError | None = None

    def transact(self, work: Callable[[orm.Session], T]) -> T:
        try:
            result = work(self.session)
            self.session.flush()  # what the database refuses is raised here, where the endpoint expects it
            return result
        except BaseException as error:
            self.session.rollback()
            self.conflict = error if isinstance(error, sa.exc.DBAPIError) and is_conflict(error) else self.conflict
            raise


# %% [markdown]
"""
Final is success, and a refusal that is about the request: not 5xx, nor what passes while the request stays the same:
401, 403, 408, 425, 429. A conflict runs the whole endpoint again, from the kept body.
"""

# %%
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PASSING = {401, 403, 408, 425, 429}


def again(body: bytes, receive: Receive) -> Receive:
    """`receive`, whose `body` has been read, as if it had not."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


async def ask(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """What `app` answers to the request, whole."""
    said: list[Message] = []

    async def keep(message: Message) -> None:
        said.append(message)

    await app(scope, receive, keep)
    answer = Response(b"".join(message.get("body", b"") for message in said[1:]), said[0]["status"])
    answer.raw_headers = list(said[0]["headers"])
    return answer


# %%
def act(session: orm.Session, key_hash: str, mine: UUID, request: Callable[[Held], Response]) -> Response:
    """Make the request; commit its work with its answer, or, if that is not final, neither, and release the key."""
    held = Held(session)
    answer = request(held)
    if held.conflict is not None:
        raise held.conflict
    if answer.status_code >= 500 or answer.status_code in PASSING:
        session.rollback()
        release(session, key_hash, mine)
    elif "set-cookie" in answer.headers:
        raise RuntimeError("an answer with a cookie is a credential and must not be stored: exempt the route")
    else:
        settle(session, key_hash, mine, answer)
    session.commit()
    return answer


# %% [markdown]
"""
A request of nobody passes as if it had no key: such a key would belong to everybody. So do routes whose answers are
secrets. Of `transaction` we want the attempts and not the session, which we end ourselves. And the threads are counted
apart: each waits for an endpoint, which needs one too, and forty who wait would leave none to wait for.
"""

# %%
from contextlib import suppress

import anyio.from_thread
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import compile_path

from playbook.pantry.problems import answer_error

AT_ONCE = 8  # requests with a key that are worked on at a time: fewer than the pool has connections


def route_of(scope: Scope) -> str:
    """`POST /packages/{name}/releases`: the route that a POST request reaches; empty if there is none."""
    paths = (route.path for route in iter_route_contexts(scope["app"].routes) if "POST" in (route.methods or ()))
    return next((f"POST {path}" for path in paths if path and compile_path(path)[0].match(scope["path"])), "")


# %%
def once(
    engine: sa.Engine, now: datetime, mine: UUID, key_hash: str, print_: str, request: Callable[[Held], Response]
) -> Response:
    """The answer of the one time that `request` acts under its key. Raises Problem 409 or 422."""

    stored = transaction(engine, lambda session: claim(session, key_hash, print_, mine, now), retry=somebody_was_first)
    if stored is not None:
        return stored

    def attempt(unused: orm.Session) -> Response:
        with orm.Session(engine, expire_on_commit=False) as session:
            return act(session, key_hash, mine, request)

    try:
        return transaction(engine, attempt)
    except BaseException:
        with suppress(sa.exc.SQLAlchemyError):  # then the claim runs out by itself
            transaction(engine, lambda session: release(session, key_hash, mine))
        raise


# %%
class IdempotencyKeys:
    """ASGI middleware: a POST with an Idempotency-Key acts once, and its retries get the first answer."""

    def __init__(self, app: ASGIApp, exempt: tuple[str, ...] = (), required: frozenset[str] = frozenset()) -> None:
        self.app, self.exempt, self.required, self.threads = app, exempt, required, CapacityLimiter(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].startswith(self.exempt):
            try:
                answer = await self.answer(scope, receive, route_of(scope)) or self.app
            except (HTTPException, sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                answer = await answer_error(Request(scope), error)
        await answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, route: str) -> ASGIApp | None:
        headers, state = Headers(scope=scope), scope["app"].state
        if not route or ("idempotency-key" not in headers and route not in self.required):
            return None
        if (caller := await to_thread.run_sync(find_once, Request(scope))) is None:
            return None
        body = await Request(scope, receive).body()  # raises 400 if it is not strict JSON, before anything is done
        key_hash = digest(str(caller.id), route, read_key(headers.getlist("idempotency-key")))
        told = scope["path"], scope["query_string"], headers.get("content-type", ""), body
        print_ = await to_thread.run_sync(digest, *told)  # for a megabyte that is 20 ms

        def request(held: Held) -> Response:
            return anyio.from_thread.run(ask, self.app, {**scope, "transact": held.transact}, again(body, receive))

        arguments = state.engine, state.clock.now(), state.identifiers.new(), key_hash, print_, request
        return await to_thread.run_sync(once, *arguments, limiter=self.threads)


# %% [markdown]
"""
Each route that takes a key says so in the OpenAPI document, which is all that a generated client knows. And the
middleware stands *inside* of `StrictInput`: a body that nobody can read claims no key.
"""

# %%
from functools import partial
from typing import Any

from playbook.pantry.problems import StrictInput

HEADER = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"}}


def describe_keys(document: dict[str, Any], exempt: tuple[str, ...], required: frozenset[str]) -> None:
    """Write into an OpenAPI document which routes take a key, and the three refusals that it can cause."""
    for path, item in document["paths"].items():
        if "post" in item and not path.startswith(exempt):
            item["post"].setdefault("parameters", []).append(HEADER | {"required": f"POST {path}" in required})
            for kind in (BAD_KEY, IN_FLIGHT, KEY_REUSED):
                answer = item["post"]["responses"].setdefault(str(kind.status), {})
                answer["description"] = "; ".join(filter(None, [answer.get("description"), kind.title]))


# %%
def install_idempotency(app: FastAPI, exempt: tuple[str, ...] = (), required: frozenset[str] = frozenset()) -> None:
    """Let POST routes take a key, but not paths beginning with `exempt`; `required` ones (`POST /orders`) need it.

    Raises ValueError before `install_problems`.
    """
    layers: list[object] = [middleware.cls for middleware in app.user_middleware]
    if StrictInput not in layers:
        raise ValueError("call install_problems first: a body must be checked before it can claim a key")
    app.user_middleware.append(Middleware(IdempotencyKeys, exempt=exempt, required=required))  # innermost
    app.state.describers.insert(0, partial(describe_keys, exempt=exempt, required=required))


# %% [markdown]
"""
The client makes the key *before* the first attempt and keeps it. It repeats what may pass: a lost connection, 408, 425,
429, 502, 503, 504, a 409 that says when; not 500, which is a bug. Pauses grow and are drawn at random, or a thousand
clients that were cut off together come back together. `Retry-After` is a minimum, to which the random part is added.
"""

# %%
import random
import time
import uuid

import httpx

REPEATABLE = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST"}  # POST: with its key
TRANSIENT = {408, 425, 429, 502, 503, 504}


def wait_asked(response: httpx.Response) -> int | None:
    """Seconds that `response` wants a client to wait before it repeats; None when repeating cannot help."""
    after = response.headers.get("retry-after", "")
    seconds = int(after) if re.fullmatch(r"[0-9]{1,6}", after) else None
    if response.status_code in TRANSIENT:
        return seconds or 0
    return seconds if response.status_code == 409 else None


# %%
def send_with_retry(
    client: httpx.Client,
    request: httpx.Request,
    attempts: int = 6,
    first: float = 0.5,
    longest: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[float, float], float] = random.uniform,
) -> httpx.Response:
    """Send `request` until its answer is final, at most `attempts` times, and return the last answer.

    `first` and `longest`, in seconds: the first pause's bound, which doubles, and that of any pause or Retry-After.
    A POST without an Idempotency-Key gets one. Raises httpx.TransportError if the last attempt got no answer.
    """
    if request.method == "POST":
        request.headers.setdefault("Idempotency-Key", f'"{uuid.uuid4()}"')
    attempts = attempts if request.method in REPEATABLE else 1
    for attempt in range(attempts):
        asked: int | None = 0
        try:
            asked = wait_asked(response := client.send(request))
            if asked is None or asked > longest or attempt == attempts - 1:
                return response
        except (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError):
            if attempt == attempts - 1:
                raise
        sleep((asked or 0) + draw(0, min(longest, first * 2**attempt)))
    raise ValueError(f"attempts must be at least 1, not {attempts}")


# %% [markdown]
"""
## See it work

The same with a key, and worse: the first process is killed in the work, the second between commit and answer.
"""


# %%
def killed_twice(url):
    second = {"dies": "before the answer", "time": "2026-11-02T09:01+00:00"}
    lives, story = iter([second, {"time": "2026-11-02T09:02+00:00"}]), []
    with process(url, "playbook.pantry.keys") as (client, start):

        def platform(seconds):
            story.append("no answer")
            start(**next(lives))

        start(dies="in the work")
        request = client.build_request("POST", "/announcements", json={"text": "httpx 1.0"})
        answer = send_with_retry(client, request, sleep=platform)
    replayed = answer.headers.get("idempotency-replayed", "false")
    return [*story, f"{answer.status_code}, replayed: {replayed}", f"rows: {count(make_engine(url))}"]


killed = killed_twice(lesson_url(file=True))
print(*killed, sep="\n")

# %% [markdown]
"""
The second process took over the claim of the first; the third found the answer. Then, with nobody killed:
"""

# %%
from concurrent.futures import ThreadPoolExecutor

from fastapi.responses import JSONResponse


def announce(client, text="httpx 1.0", key='"release-httpx-1.0"', caller="1"):
    headers = {"Idempotency-Key": key, "X-Caller": caller, "X-Request-Id": "from-the-lesson"}
    return client.post("/announcements", json={"text": text}, headers=headers)


working, go_on = threading.Event(), threading.Event()
slow = service(lesson_url(), install_idempotency, lambda: (working.set(), go_on.wait(10)))
with serving(slow) as client, ThreadPoolExecutor(1) as threads:
    first = threads.submit(announce, client)
    working.wait(10)
    announce(client)
    go_on.set(), first.result()
    announce(client), announce(client, text="httpx 2.0")
    show_http(client)

# %% [markdown]
"""
Fifty identical requests at once, then all once more:
"""


# %%
def fifty(url):
    start, app = threading.Barrier(50), service(url, install_idempotency)
    with serving(app) as client, ThreadPoolExecutor(50) as threads:
        at_once = list(threads.map(lambda _: (start.wait(10), announce(client))[1].status_code, range(50)))
        later = {(answer.status_code, answer.text) for answer in threads.map(lambda _: announce(client), range(50))}
        told = f"201 or 409 at once: {set(at_once) <= {201, 409}}, later {sorted(later)}"
        return f"{told}, rows: {count(app.state.engine)}"


acted_once = fifty(lesson_url())
print(acted_once)

# %% [markdown]
"""
## On PostgreSQL

The same accident and the same fifty. There the claim earns its place: with the key in the transaction of the work 49
would wait on the index, each with a connection, until the pool has none.
"""

# %%
killed_there, acted_there = on_postgres(killed_twice), on_postgres(fifty)
if killed_there:
    print("the same" if (killed_there, acted_there) == (killed, acted_once) else (killed_there, acted_there))

# %% [markdown]
"""
## Check it
"""

# %%
assert killed_there in (killed, None) and acted_there in (acted_once, None)
assert (killed[2:], acted_once[-7:]) == (["201, replayed: true", "rows: 1"], "rows: 1")


def properties(url):
    ends = [None]
    app = service(url, install_idempotency, at_the_end=lambda: ends[0])
    engine = app.state.engine
    with serving(app) as client:
        assert len({(announce(client).status_code, announce(client).text) for _ in range(5)}) == 1 == count(engine)
        assert announce(client, text="other").status_code == 422 and count(engine) == 1
        assert announce(client, caller="2").status_code == 201 and count(engine) == 2, "a key is its caller's"
        app.state.clock.advance(LIFETIME)
        assert announce(client).status_code == 201 and count(engine) == 3, "an expired key acts again"
        for number, status in enumerate((500, 503, 403), 3):
            ends[0] = JSONResponse({}, status)
            assert announce(client, key=f'"attempt-with-{status}"').status_code == status and count(engine) == number
            ends[0] = None
            assert announce(client, key=f'"attempt-with-{status}"').status_code == 201 and count(engine) == number + 1
    return True


assert properties(lesson_url()) and on_postgres(properties) in (True, None)
print("once, whoever is killed; another request is refused, a failure is not kept, callers do not meet, keys expire")

# %% [markdown]
"""
## Your turn

A command line tool announces releases. It is killed, too: in the middle of a request, or the machine loses power. When
it is called again, it must finish what was begun and not begin anew. Write `announce_once(client, notes, body)`:
`notes` is a dictionary of strings that survives, everything else is forgotten. It sends `POST /announcements` with
`send_with_retry` and returns the answer. As long as an announcement has no final answer, a call with the same content
belongs to it; after that, the same content is a new announcement. A last answer that may pass (`wait_asked`) is not
final.
"""


# %% tags=["exercise"]
def announce_once(client: httpx.Client, notes: dict[str, str], body: dict[str, str]) -> httpx.Response:
    request = client.build_request("POST", "/announcements", json=body)
    return send_with_retry(client, request, sleep=lambda seconds: None)


# %%
class PowerCut(BaseException):
    """Nothing in the tool can catch it and go on."""


@checker
def check_announce_once(announce_once):
    notes, sent, behaviour = {}, [], ["answers"]

    def server(request):
        sent.append((request.headers.get("Idempotency-Key"), request.content))
        if behaviour[0] == "power cut":
            raise PowerCut
        return httpx.Response({"answers": 201, "refuses": 422}.get(behaviour[0], 503))

    def call(now, **body):
        behaviour[0], before = now, len(sent)
        with httpx.Client(transport=httpx.MockTransport(server), base_url="http://pantry.example") as client:
            try:
                announce_once(client, notes, body)
            except PowerCut:
                pass
        if len({key for key, _ in sent[before:]}) != 1:
            raise AssertionError("not yet: all attempts of one call carry one key")
        return sent[-1]

    begun = call("power cut", text="1.0", lang="en")
    other = call("power cut", text="2.0", lang="en")
    if begun[0] == other[0]:
        return "not yet: another content is another announcement: the server would answer 422"
    if any(not isinstance(part, str) for note in notes.items() for part in note):
        return "not yet: notes keeps strings only"
    finished = call("busy", text="1.0", lang="en")
    if finished[0] != begun[0]:
        return "not yet: after the power cut the same content came with another key. Note the key before you send"
    again = call("answers", lang="en", text="1.0")
    if again[0] != begun[0]:
        return "not yet: 503 is not final, and the order of the fields does not make another announcement"
    if again[1] != begun[1]:
        return "not yet: the key is right, but the body has other bytes than before, and the server compares bytes"
    if call("answers", text="1.0", lang="en")[0] == begun[0]:
        return "not yet: the first announcement is finished; the same content again is a new one, with a new key"
    if call("refuses", text="2.0", lang="en")[0] != other[0] or call("answers", text="2.0", lang="en")[0] == other[0]:
        return "not yet: 2.0 was begun, so its key comes first; 422 is final, so after it comes a new one"
    return "right"


check_announce_once(announce_once)


# %% tags=["solution"]
def announce_once(client: httpx.Client, notes: dict[str, str], body: dict[str, str]) -> httpx.Response:
    content = json.dumps(body, sort_keys=True)  # one text for one content, and the same bytes each time
    key = notes.setdefault(content, f'"{uuid.uuid4()}"')  # kept before anything is sent
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    request = client.build_request("POST", "/announcements", content=content, headers=headers)
    answer = send_with_retry(client, request, sleep=lambda seconds: None)
    if wait_asked(answer) is None:
        del notes[content]  # final; a crash before this line is harmless: the next call gets the stored answer
    return answer


assert check_announce_once(announce_once)

# %% [markdown]
"""
## Hand it over

- **Front end**: one key for one press of the button, made before the first attempt; a new one when the form changes.
  `Idempotency-Replayed: true` marks an answer given again; the `request_id` in a problem is then the first request's.
- **Reviewer**: a POST route that does all its writing in `transact` needs nothing else; with a key all its `transact`
  calls are one transaction. Mail and calls to others are not undone by it.
- **Security reviewer**: answers are at rest for a day. Routes that answer with tokens or secrets are in `exempt`. A
  replay asks who is calling, not again whether they may.
- **Operator**: `LEASE` is longer than the longest request; run `purge_keys` daily; a client of a killed process waits
  up to one lease.
- **Migration owner**: `idempotency_keys` may be emptied, at the price of one day's protection.
- **Test engineer**: keep "killed at any point, the retry acts once" and "fifty at once act once", on both engines.

## Sources

IETF draft-ietf-httpapi-idempotency-key-header, 2 (the field, fingerprint, expiry, enforcement). RFC 9110, 9.2.2
(idempotent methods) and 10.2.3 (Retry-After). RFC 9651, 3.3.3 (strings). M. Brooker, "Exponential Backoff And Jitter"
(AWS Architecture Blog, 2015). M. Kleppmann, *Designing Data-Intensive Applications*, chapter 8 (leases and fencing).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Conditional requests](conditional_requests.ipynb) · [course map](../index.ipynb) · Next: [Passwords](../auth/passwords.ipynb)
"""
