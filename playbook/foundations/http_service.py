# %% [markdown]
"""
# HTTP service

Turn a request into exactly one transaction and one honest response, and start and stop the process without losing
either.

| | |
|---|---|
| **Use it when** | you start a service, or an endpoint writes more than one row |
| **You need** | [settings](settings.ipynb), [clock_and_identifiers](clock_and_identifiers.ipynb), [database](database.ipynb) |
| **Time** | 18 minutes |
| **Topics** | http, fastapi, uvicorn, app factory, dependency injection, lifespan, middleware, request id, correlation id, transaction per request, commit after response, graceful shutdown, health check, readiness, liveness, deny by default |
| **Standard** | RFC 9110; Kubernetes probes; OWASP ASVS 5.0 8.2.1 |
"""

# %% [markdown]
"""
## The decision

Where does the transaction of a request begin and end?

| option | good | costs |
|---|---|---|
| every helper commits what it did | easy to write | a failure in the middle leaves half of the work |
| a dependency opens a session and commits after the endpoint | endpoints look clean | FastAPI runs it after the response was sent: the client can hold a 201 for a row that never was |
| a middleware wraps every request | nobody forgets | reads pay for it too; a conflict cannot be tried again, the body is consumed |
| **the endpoint passes one function to `transaction`** | one commit, before the response; conflicts are tried again | one more line in each endpoint |

We take the **last**. The line is worth it: a reviewer sees where the transaction starts and ends. Choose the
middleware for a service in which every request is one small write and nothing conflicts.
"""

# %% [markdown]
"""
## See it break

A new organization needs an owner, and somebody gets a mail. Three helpers, each correct. The mail server is down.
Before you run the cell: what does the client see, and what is in the database?
"""

# %%
import smtplib
import threading
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show_http

demo = sa.MetaData()
organizations = sa.Table("organizations", demo, sa.Column("name", sa.String, primary_key=True))
owners = sa.Table("owners", demo, sa.Column("organization", sa.String), sa.Column("name", sa.String))


def in_database(engine):
    with engine.connect() as connection:
        return {t.name: connection.scalar(sa.select(sa.func.count()).select_from(t)) for t in (organizations, owners)}


def new_database():
    engine = make_engine(lesson_url())
    demo.create_all(engine)
    return engine


def send_mail(to):
    with smtplib.SMTP("127.0.0.1", port=1, timeout=5) as server:  # nobody listens there
        server.sendmail("pantry@example.com", to, "Subject: Welcome")


engine = new_database()
halves = FastAPI()


@halves.post("/organizations", status_code=201)
def create_in_steps(name: str):
    with engine.begin() as connection:
        connection.execute(organizations.insert().values(name=name))
    send_mail("alice@example.com")
    with engine.begin() as connection:
        connection.execute(owners.insert().values(organization=name, name="alice"))
    return {"name": name}


with serving(halves) as client:
    client.post("/organizations?name=acme")
    show_http(client)
print(in_database(engine))

# %% [markdown]
"""
The client was told that nothing happened, and acme exists, without an owner, for ever: the name is taken, so trying
again fails too.

The usual answer is a session from a dependency that commits when the endpoint is done. Two clients ask for one name
at the same moment. `organizations.name` is a primary key. Predict: which two status codes?
"""

# %%
engine = new_database()
late = FastAPI()
meeting = threading.Barrier(2)


def session_of_request():
    with orm.Session(engine) as session:
        yield session
        session.commit()


@late.post("/organizations", status_code=201)
def create_with_dependency(name: str, session: orm.Session = Depends(session_of_request)):
    session.execute(organizations.insert().values(name=name))
    try:
        meeting.wait(30)
    except threading.BrokenBarrierError:
        pass
    return {"name": name}


with serving(late) as client, ThreadPoolExecutor(2) as threads:
    answers = list(threads.map(lambda _: client.post("/organizations?name=acme").status_code, range(2)))
print(f"answers {sorted(answers)}, rows {in_database(engine)['organizations']}")
print(f"in the server's log: {len(client.server_errors)} error")

# %% [markdown]
"""
Two clients hold a 201, one of them for a row that was rolled back. FastAPI runs what follows the `yield` after the
response has gone out, so the refusal reached the log and nobody else. DuckDB checks a key of two open transactions at
the commit; on PostgreSQL the same happens with a deferred constraint or a serialization failure.

## Build it

First who is asking. These two questions are declared here and answered later, in the auth track: until then the
lessons name their caller. Without an answer the answer is no: `nobody` is signed in, and nothing is permitted.
"""

# %% tags=["export"]
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.transactions import transaction

T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """Who makes the request."""

    id: uuid.UUID
    name: str


FindCaller = Callable[[Request], Caller | None]
May = Callable[[Caller, str, Mapping[str, Any]], bool]  # caller, action ("packages:write"), path parameters


def nobody(request: Request) -> Caller | None:
    """The default of `find_caller`: no request is signed in."""
    return None


def nothing(caller: Caller, action: str, target: Mapping[str, Any]) -> bool:
    """The default of `may`: no action is permitted to anybody."""
    return False


# %% [markdown]
"""
A route asks by naming a dependency: `CurrentCaller` for who, `permission("packages:write")` for whether they may. A
route for everybody says so with `anyone`. So a route that says nothing is a mistake, and a mistake can be found.
"""


# %% tags=["export"]
def find_once(request: Request) -> Caller | None:
    """Who makes the request, or None. A request is looked up once, however many ask."""
    if "caller" not in request.scope:
        request.scope["caller"] = request.app.state.find_caller(request)
    found: Caller | None = request.scope["caller"]
    return found


def current_caller(request: Request) -> Caller:
    """The caller. Raises 401 for a request that is not signed in (RFC 9110, 15.5.2)."""
    if (caller := find_once(request)) is None:
        raise HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})
    return caller


CurrentCaller = Annotated[Caller, Depends(current_caller)]


async def permit_of(request: Request, caller: CurrentCaller) -> Callable[[str, Mapping[str, Any]], None]:
    """For an endpoint whose body, not its path, names what is acted on: `permit(action, target)`, or 403."""

    def permit(action: str, target: Mapping[str, Any]) -> None:
        if not request.app.state.may(caller, action, target):
            raise HTTPException(403, f"{caller.name} may not do this: {action}")

    return permit


Permit = Annotated[Callable[[str, Mapping[str, Any]], None], Depends(permit_of)]


def permission(action: str) -> Any:
    """A dependency that lets only those pass who may do `action` on what the path names; 403 for others."""

    def check(request: Request, caller: CurrentCaller, permit: Permit) -> Caller:
        permit(action, request.path_params)
        return caller

    check.__name__ = f"permission:{action}"
    return Depends(check)


async def anyone() -> None:
    """Declare a route open to everybody, signed in or not."""


# %% [markdown]
"""
Then what a request needs to do its work: a way to run a transaction, the time, and new identifiers. They come from
the app, so that a test gives it other ones. Dependencies that wait for nothing are `async`: FastAPI sends a plain
`def` to a thread, and the way there and back costs more than they do.
"""


# %% tags=["export"]
class Transact(Protocol):
    """`transaction` with the service's engine already given."""

    def __call__(self, work: Callable[[orm.Session], T]) -> T: ...


async def transact_of(request: Request) -> Transact:
    """`transaction` with the app's engine, unless a middleware has put another `transact` into the request."""
    engine: sa.Engine = request.app.state.engine
    given: Transact | None = request.scope.get("transact")
    return given or (lambda work: transaction(engine, work))


async def clock_of(request: Request) -> Clock:
    clock: Clock = request.app.state.clock
    return clock


async def identifiers_of(request: Request) -> Identifiers:
    identifiers: Identifiers = request.app.state.identifiers
    return identifiers


Transaction = Annotated[Transact, Depends(transact_of)]
Now = Annotated[Clock, Depends(clock_of)]
NewIds = Annotated[Identifiers, Depends(identifiers_of)]

# %% [markdown]
"""
Every answer carries a request id, so that a user's "it failed" leads to one line of the log. A client may send its
own, but not anything: it ends up in log files, and a line feed in it would forge entries there.
"""

# %% tags=["export"]
import re
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("request_id", default="-")
ACCEPTED_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


# %% tags=["export"]
class RequestId:
    """ASGI middleware: `X-Request-Id` on every response, and in `request_id` while the request runs."""

    def __init__(self, app: ASGIApp, new_id: Callable[[], object]) -> None:
        self.app, self.new_id = app, new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = Headers(scope=scope).get("x-request-id", "")
        current = sent if ACCEPTED_ID.fullmatch(sent) else str(self.new_id())
        request_id.set(current)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = current
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            if not started:  # Starlette makes its 500 outside of all middleware: it would be the one without an id
                # uvicorn closes the connection after an exception; without the header a client would reuse it
                failure = PlainTextResponse("Internal Server Error", 500, {"Connection": "close"})
                await failure(scope, receive, send_with_id)
            raise


# %% [markdown]
"""
FastAPI reads the body before it runs a dependency: a stranger could make the service take and parse a megabyte before
the 401. So the caller is asked when the body is first read, and a route that needs one reads nothing of a stranger's.
"""

# %% tags=["export"]
from functools import lru_cache

from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.routing import compile_path

compiled = lru_cache(compile_path)


class CallerFirst:
    """ASGI middleware: reading the body of a request raises 401 first, when the route needs a caller and has none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] != "http"

        async def receive_after_caller() -> Message:
            nonlocal asked
            if not asked and (asked := True) and needs_caller(scope):
                await run_in_threadpool(current_caller, Request(scope))
            return await receive()

        await self.app(scope, receive if asked else receive_after_caller, send)


async def off_the_loop(read: Callable[[bytes], T], body: bytes) -> T:
    """`read(body)`; when `body` is longer than 16 KiB in a thread, so that the loop answers others meanwhile."""
    return read(body) if len(body) <= 16_384 else await run_in_threadpool(read, body)


def needs_caller(scope: Scope) -> bool:
    """Whether the route of a request names the caller among its dependencies."""
    for route in iter_route_contexts(scope["app"].routes):
        if scope["method"] in (route.methods or ()) and compiled(route.path or "")[0].match(scope["path"]):
            dependant = getattr(route, "dependant", None)
            return dependant is not None and "current_caller" in calls_of(dependant)
    return False


# %% [markdown]
"""
Where a request came from, and by what, is stored and shown later. Behind a proxy it is a header's text. So it is an
address or nothing, and a browser's name is short and does nothing to a terminal.
"""

# %% tags=["export"]
from ipaddress import ip_address


def client_ip(scope: Scope) -> str | None:
    """The client's IP address. None for what is none: a socket file, or nonsense in the header of a trusted proxy."""
    try:
        ip = ip_address((scope.get("client") or ("",))[0].partition("%")[0])  # a zone names a card of this machine
    except ValueError:
        return None
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def browser_of(scope: Scope) -> str:
    """What the client says of itself (User-Agent): at most 500 characters, and none that cannot be printed."""
    said = Headers(scope=scope).get("user-agent", "")[:500]
    return "".join(character if character.isprintable() else "?" for character in said)


# %% [markdown]
"""
Two questions from outside look alike and are not. *Alive?* means: is the process stuck, must it be restarted?
*Ready?* means: may it get requests now? A service whose database is gone is alive and not ready. A check that mixes
them makes the platform restart every process while the database is being restarted, and nothing comes back.
"""

# %% tags=["export"]
from fastapi import APIRouter, Response

operations = APIRouter(tags=["operations"], dependencies=[Depends(anyone)])


@operations.get("/health")
def health() -> dict[str, str]:
    """Liveness: answers as long as the process can answer anything."""
    return {"status": "alive"}


@operations.get("/ready", responses={503: {"description": "The database does not answer."}})
def ready(request: Request, response: Response) -> dict[str, str]:
    """Readiness: 200 when a statement goes through, 503 otherwise. Names no cause: the log has it."""
    engine: sa.Engine = request.app.state.engine
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError:
        response.status_code = 503
        return {"status": "not ready"}
    return {"status": "ready"}


# %% [markdown]
"""
The factory puts it together. A function and not a module-level `app`, so that importing the code connects to nothing
and two tests can have two services. The lifespan closes the pool after the last response has gone out.
"""

# %% tags=["export"]
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


def create_app(
    engine: sa.Engine,
    routers: Sequence[APIRouter] = (),
    clock: Clock | None = None,
    identifiers: Identifiers | None = None,
    find_caller: FindCaller = nobody,
    may: May = nothing,
    max_body_bytes: int = 1_048_576,
) -> FastAPI:
    """The service. Raises ValueError for a route that does not say who may use it.

    A request body above `max_body_bytes` is answered with 413 before it is read whole. `engine` is disposed of when
    the service stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    # redirect_slashes would answer /packages/ with a link built from the Host header, which the client chooses.
    app = FastAPI(title="Pantry", lifespan=lifespan, max_body_size=max_body_bytes, redirect_slashes=False)
    app.state.engine, app.state.clock = engine, clock or SystemClock()
    app.state.identifiers = identifiers or Identifiers(app.state.clock)
    app.state.find_caller, app.state.may = find_caller, may
    app.add_middleware(CallerFirst)
    app.add_middleware(RequestId, new_id=app.state.identifiers.new)
    for router in (operations, *routers):
        app.include_router(router)
    if undeclared := undeclared_routes(app):
        raise ValueError(f"say who may use {', '.join(undeclared)}: add CurrentCaller, permission(...) or anyone")
    return app


# %% [markdown]
"""
And the rule that keeps a forgotten check from going live. It looks at the dependencies FastAPI will really run, also
those of a router.
"""

# %% tags=["export"]
from fastapi.dependencies.models import Dependant


def calls_of(dependant: Dependant) -> set[str]:
    """The names of every dependency that runs for a route, those of dependencies too."""
    names = {getattr(dependant.call, "__name__", "")}
    return names.union(*(calls_of(inner) for inner in dependant.dependencies))


def undeclared_routes(app: FastAPI) -> list[str]:
    """Routes (`POST /packages`) that name neither caller, permission, nor `anyone`; FastAPI's own pages left out."""
    found = []
    for route in iter_route_contexts(app.routes):
        if (dependant := getattr(route, "dependant", None)) is None:
            continue  # FastAPI's own /docs and /openapi.json
        names = calls_of(dependant)
        if not names & {"current_caller", "anyone"}:
            found.append(f"{'/'.join(sorted(route.methods or ()))} {route.path}")
    return found


# %% [markdown]
"""
## See it work

The same organization, the same broken mail server, one transaction. The mail goes last and outside: a mail for an
organization that does not exist is worse than a missing one. (A mail that must not get lost needs the outbox of the
production track.)
"""

# %%
from datetime import UTC, datetime

from playbook.foundations.clock_and_identifiers import FixedClock, SeededBytes

alice = Caller(uuid.UUID(int=1), "alice")
router = APIRouter()


@router.post("/organizations", status_code=201, dependencies=[permission("organizations:create")])
def create_organization(name: str, caller: CurrentCaller, transact: Transaction):
    def work(session):
        if session.scalar(sa.select(organizations.c.name).where(organizations.c.name == name)):
            raise HTTPException(409, f"there is an organization {name} already")
        session.execute(organizations.insert().values(name=name))
        session.execute(owners.insert().values(organization=name, name=caller.name))
        meet_before_commit()

    transact(work)
    return {"name": name}


def service(engine, routers=(router,), find_caller=lambda request: alice, may=lambda caller, action, target: True):
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    return create_app(engine, routers, clock, Identifiers(clock, SeededBytes(1)), find_caller, may)


def meet_before_commit():
    try:
        meeting.wait(0.5)
    except threading.BrokenBarrierError:
        pass  # the other one waits for our commit, or has gone on


engine = new_database()
meeting = threading.Barrier(2)
with serving(service(engine)) as client, ThreadPoolExecutor(2) as threads:
    answers = list(threads.map(lambda _: client.post("/organizations?name=acme").status_code, range(2)))
    print(f"answers {sorted(answers)}, rows {in_database(engine)}")
    client.get("/health")
    client.get("/nowhere", headers={"X-Request-Id": "from-the-client"})
    print([e.response_headers["X-Request-Id"] for e in client.exchanges[2:]])

# %% [markdown]
"""
One 201, one 409, one organization with one owner. The loser's commit was refused, its work ran again, and this time
it saw the row.

Now the two doors, closed by default. The first app names no caller, the second a caller without permission, the third
forgot to say:
"""

# %%
with serving(service(new_database(), find_caller=nobody)) as client:
    client.post("/organizations?name=acme")
    show_http(client)
with serving(service(new_database(), may=nothing)) as client:
    client.post("/organizations?name=acme")
    show_http(client)

forgotten = APIRouter()


@forgotten.delete("/organizations/{name}")
def delete_organization(name: str): ...


try:
    service(new_database(), routers=[forgotten])
except ValueError as error:
    print(error)

# %% [markdown]
"""
Last, stopping. A request is being worked on when the platform says stop. The server takes no new ones, finishes this
one, then closes:
"""

# %%
from playbook.kit.live import LiveClient, LiveServer

working, go_on = threading.Event(), threading.Event()
slow = APIRouter(dependencies=[Depends(anyone)])


@slow.get("/slow")
def slow_report():
    working.set()
    return {"finished": go_on.wait(10)}


server = LiveServer(service(new_database(), routers=[slow])).start()
with LiveClient(server.url) as client, ThreadPoolExecutor(2) as threads:
    answer = threads.submit(client.get, "/slow")
    working.wait(30)
    stopping = threads.submit(server.stop)
    server.wait_until_closing()
    go_on.set()
    print(answer.result().status_code, answer.result().json())
    stopping.result()

# %% [markdown]
"""
## On PostgreSQL

Readiness is about the database, so take the database away while the service runs. The server drops it by force, with
everybody connected:
"""


# %%
def lose_the_database(url):
    engine = make_engine(url)
    with serving(service(engine)) as client:
        before = client.get("/ready").status_code
        drop = sa.make_url(url)
        with sa.create_engine(drop.set(database="postgres"), isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(sa.text(f'DROP DATABASE "{drop.database}" WITH (FORCE)'))
        client.get("/ready")
        client.get("/health")
        show_http(client)
        return before, [e.status for e in client.exchanges]


lost = on_postgres(lose_the_database)

# %% [markdown]
"""
Alive and not ready: the platform sends the requests elsewhere and leaves the process alone. When the database is
back, so is the service: `pool_pre_ping` replaces the dead connections.

## Check it
"""

# %%
assert lost in ((200, [200, 503, 200]), None)

for failing_step in range(3):
    engine = new_database()
    broken = APIRouter()

    @broken.post("/organizations", dependencies=[Depends(anyone)])
    def create_and_fail(transact: Transaction, step: int):
        def work(session):
            for number, table in enumerate((organizations, owners)):
                if number == step:
                    raise RuntimeError(f"failure before step {step}")
                session.execute(table.insert().values(name="acme"))
            if step == 2:
                raise RuntimeError("failure after the last step")

        transact(work)

    with serving(service(engine, routers=[broken])) as client:
        answer = client.post(f"/organizations?step={failing_step}")
        assert (answer.status_code, "X-Request-Id" in answer.headers) == (500, True)
        assert in_database(engine) == {"organizations": 0, "owners": 0}
        assert engine.pool.checkedout() == 0

with serving(service(new_database())) as client:
    for hostile in ("short", "x" * 65, "semi;colon;and;more", "späße-in-der-kopfzeile"):
        answer = client.get("/health", headers={"X-Request-Id": hostile.encode()})
        assert answer.headers["X-Request-Id"] != hostile
    assert client.post("/organizations?name=a", content=b"x" * 1_048_577).status_code == 413
print(
    "a failure at any step leaves nothing; foreign ids are checked; large bodies refused; a lost database is not ready"
)

# %% [markdown]
"""
## Your turn

Before a deployment a platform wants the old process to say *not ready* first, and to go on serving for a while, until
the load balancer has noticed. Otherwise requests are still routed to a port that is closing.

Write `drain(app)`: it adds `POST /drain` for callers with the permission `service:drain`. From then on `/ready` is
503 and everything else works. The obvious way, a second route for `/ready`, does not work: try it and find out which
of two equal routes answers.
"""


# %% tags=["exercise"]
def drain(app: FastAPI) -> None:
    raise NotImplementedError


# %%
@checker
def check_drain(drain):
    app = service(new_database())
    drain(app)
    if undeclared_routes(app):
        return "not yet: POST /drain does not say who may use it"
    with serving(app) as client:
        if client.get("/ready").status_code != 200:
            return "not yet: /ready must be 200 before anybody has asked to drain"
        if client.post("/drain").status_code >= 300:
            return f"not yet: POST /drain answered {client.exchanges[-1].status_line}"
        if client.get("/ready").status_code != 503:
            return "not yet: /ready is still 200 after POST /drain"
        if (client.get("/health").status_code, client.post("/organizations?name=acme").status_code) != (200, 201):
            return "not yet: other requests must still be served while the process drains"
    other = service(new_database(), may=nothing)
    drain(other)
    with serving(other) as client:
        if client.post("/drain").status_code != 403 or client.get("/ready").status_code != 200:
            return "not yet: a caller without the permission could take the service out of rotation"
    return "right"


check_drain(drain)


# %% tags=["solution"]
def drain(app: FastAPI) -> None:
    # Routes are tried in order and the first that matches answers, so the check comes before them: in a middleware.
    # The state is the app's own: two services in one process must not drain each other.
    app.state.draining = False

    @app.post("/drain", status_code=204, dependencies=[permission("service:drain")])
    def start_draining() -> None:
        app.state.draining = True

    @app.middleware("http")
    async def not_ready_while_draining(request, call_next):
        if app.state.draining and request.url.path == "/ready":
            return Response(status_code=503)
        return await call_next(request)


assert check_drain(drain)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: one `transact` per endpoint; mail, HTTP calls and files after it. No `yield` dependency that commits.
- **Security reviewer**: `create_app` refuses a route that names neither caller, permission nor `anyone`; search for
  `anyone` to list the open ones.
- **Operator**: `/health` for restarts, `/ready` for routing; give the process a few seconds between SIGTERM and
  SIGKILL.
- **Front end**: show `X-Request-Id` next to "something went wrong", and send your own (8 to 64 letters, digits, `-`,
  `_`) if you trace.
- **Test engineer**: keep the check "a failure at any step leaves nothing" for each endpoint that writes two rows.

## Sources

RFC 9110, 15.5.2 (401), 15.5.4 (403), 15.5.14 (413), 15.6.4 (503). Kubernetes documentation, "Configure Liveness,
Readiness and Startup Probes". FastAPI documentation, "Dependencies with yield". OWASP ASVS 5.0, 8.2.1 (function-level
access) and 16.4.1 (log injection). M. Nygard, *Release It!*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Deny by default](deny_by_default.ipynb) · [course map](../index.ipynb) · Next: [Decisions](decisions.ipynb)
"""
