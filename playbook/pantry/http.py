"""What every request has: one transaction, a caller or none, a request id, an address."""

import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated, Any, Protocol, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from sqlalchemy import orm
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.transactions import transaction

# Two clients hold a 201, one of them for a row that was rolled back. FastAPI runs what follows the `yield` after the
# response has gone out, so the refusal reached the log and nobody else. DuckDB checks a key of two open transactions
# at the commit; on PostgreSQL the same happens with a deferred constraint or a serialization failure.
#
# First who is asking. These two questions are declared here and answered later, in the auth track: until then the
# lessons name their caller. Without an answer the answer is no: `nobody` is signed in, and nothing is permitted.


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


# A route asks by naming a dependency: `CurrentCaller` for who, `permission("packages:write")` for whether they may. A
# route for everybody says so with `anyone`. So a route that says nothing is a mistake, and a mistake can be found.


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


# Then what a request needs to do its work: a way to run a transaction, the time, and new identifiers. They come from
# the app, so that a test gives it other ones. Dependencies that wait for nothing are `async`: FastAPI sends a plain
# `def` to a thread, and the way there and back costs more than they do.


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


# Every answer carries a request id, so that a user's "it failed" leads to one line of the log. A client may send its
# own, but not anything: it ends up in log files, and a line feed in it would forge entries there.


request_id: ContextVar[str] = ContextVar("request_id", default="-")
ACCEPTED_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


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


# FastAPI reads the body before it runs a dependency: a stranger could make the service take and parse a megabyte
# before the 401. So the caller is asked when the body is first read, and a route that needs one reads nothing of a
# stranger's.


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


# Where a request came from, and by what, is stored and shown later. Behind a proxy it is a header's text. So it is an
# address or nothing, and a browser's name is short and does nothing to a terminal.


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


# Two questions from outside look alike and are not. *Alive?* means: is the process stuck, must it be restarted?
# *Ready?* means: may it get requests now? A service whose database is gone is alive and not ready. A check that mixes
# them makes the platform restart every process while the database is being restarted, and nothing comes back.


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


# The factory puts it together. A function and not a module-level `app`, so that importing the code connects to
# nothing and two tests can have two services. The lifespan closes the pool after the last response has gone out.


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


# And the rule that keeps a forgotten check from going live. It looks at the dependencies FastAPI will really run,
# also those of a router.


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
