"""What every request has: one transaction, a caller or none, a request id, an address. And the factory of the app.

The rules are recipes of the course (`request_and_transaction`, `deny_by_default`, `start_and_stop`). Here they meet the
app: what it was made with stands in `app.state`, and a route asks for it by a dependency below. A test makes another
app, and the routes stay as they are.
"""

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, NamedTuple

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import Scope

from playbook.api.errors import Problem
from playbook.auth.api_tokens import challenge
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.deny_by_default import CallerFirst, anyone, caller_of, refuse_undeclared, routes_of
from playbook.foundations.request_and_transaction import RequestId, T, Transact, request_id, transactions_of
from playbook.foundations.start_and_stop import Health
from playbook.pantry.errors import NOT_FRESH, OUT_OF_SCOPE
from playbook.pantry.reads import Reader, reader_of
from playbook.pantry.writes import InThread, Writer, Writes, writer_of

log = logging.getLogger("pantry")


@dataclass(frozen=True)
class Caller:
    """Who makes the request."""

    id: uuid.UUID
    name: str
    scopes: frozenset[str] | None = None  # of an API token; None: a session, for all that its owner may do
    fresh: bool = False  # signed in just now: may do what a stolen session must not


FindCaller = Callable[[Request], Caller | None]  # runs in a thread: it may ask the database
QuickCaller = Callable[[HTTPConnection], Awaitable[Caller | None]]  # on the event loop; None: ask `find_caller`
# Session, caller, action ("packages:write"), path parameters. It runs in the transaction of the work that it permits.
May = Callable[[Any, Caller, str, Mapping[str, Any]], bool]


def nobody(request: Request) -> Caller | None:
    """The default of `find_caller`: no request is signed in."""
    return None


def nothing(db: Any, caller: Caller, action: str, target: Mapping[str, Any]) -> bool:
    """The default of `may`: no action is permitted to anybody."""
    return False


# RFC 9110, 15.5.2: a 401 MUST say by which scheme one can authenticate; some clients take a 401 without it for a broken
# connection. Machines send an API token as Bearer. Basic with the user `__token__` is taken as well, but not named: for
# Basic browsers open a dialogue. No scheme is registered for the session cookie (RFC 9110, 16.4.1).
REALM = "pantry"
CHALLENGE = challenge(REALM)["WWW-Authenticate"]


# A route asks by naming a dependency: `CurrentCaller` for who, `permission("packages:write")` for whether they may. A
# route for everybody says so with `anyone`. One that says nothing stops the service from starting.


def find_by_app(connection: HTTPConnection) -> Caller | None:
    """What the app's `find_caller` finds. A bug in it is logged here: `CallerFirst` answers it, and says nothing."""
    try:
        found: Caller | None = connection.app.state.find_caller(Request(connection.scope))
    except (HTTPException, sa.exc.OperationalError, sa.exc.TimeoutError):
        raise
    except Exception as error:
        log.error("%s: %s", request_id.get(), type(error).__name__, exc_info=error)
        raise
    return found


surely = caller_of(find_by_app, challenge=CHALLENGE)


async def current_caller(connection: HTTPConnection) -> Caller:
    """Who makes the request, or 401. The quick way finds most of them, and what it does not know is no stranger yet."""
    scope, quick = connection.scope, connection.app.state.quick_caller
    if "caller" not in scope and quick is not None and (found := await quick(connection)) is not None:
        scope["caller"] = found
    caller: Caller = await surely(connection)
    return caller


CurrentCaller = Annotated[Caller, Depends(current_caller)]


async def caller_if_any(connection: HTTPConnection) -> Caller | None:
    """The caller, or None where `current_caller` answers 401: for what treats strangers otherwise."""
    try:
        caller: Caller = await current_caller(connection)
    except HTTPException as refusal:
        if refusal.status_code != 401:
            raise
        return None
    return caller


# A token may do what its scopes name, and of that what its owner may. So a permission, which has a name, is asked of
# both. A route that asks for none is closed to tokens: `SessionCaller` says so, or the service does not start.


def refuse_out_of_scope(caller: Caller, action: str) -> None:
    """Problem 403 for a token without the scope `action` (RFC 6750, 3.1)."""
    if caller.scopes is not None and action not in caller.scopes:
        headers = challenge(REALM, "insufficient_scope", action)
        raise Problem(OUT_OF_SCOPE, f"the token has no scope {action}", headers=headers)


async def own_session(caller: CurrentCaller) -> Caller:
    """The caller of a session. Problem 403 for a token, whatever its scopes are."""
    if caller.scopes is not None:
        headers = challenge(REALM, "insufficient_scope")
        raise Problem(OUT_OF_SCOPE, "no token can do this: sign in", headers=headers)
    return caller


SessionCaller = Annotated[Caller, Depends(own_session)]


async def fresh_session(caller: SessionCaller) -> Caller:
    """The caller of a session that began just now. Problem 403 for an older one."""
    if not caller.fresh:
        raise Problem(NOT_FRESH, "sign in again, then repeat this")
    return caller


FreshCaller = Annotated[Caller, Depends(fresh_session)]


def refuse_unscoped(app: FastAPI) -> None:
    """ValueError names the routes that need a caller, and neither a permission nor a session."""
    known = {permit_of, own_session}

    def asks(call: Any) -> bool:
        return call in known or getattr(call, "__name__", "").startswith((SIGHT, PERMISSION))

    silent = [r.name for r in routes_of(app.routes) if current_caller in r.calls and not any(map(asks, r.calls))]
    if silent:
        raise ValueError(f"say which scope a token needs, or `SessionCaller`: {', '.join(silent)}")


class Permission(NamedTuple):
    """`permit(session, action, target)`, or 403: by `may`, of `caller`."""

    may: May
    caller: Caller

    def __call__(self, session: Any, action: str, target: Mapping[str, Any]) -> None:
        refuse_out_of_scope(self.caller, action)
        if not self.may(session, self.caller, action, target):
            raise HTTPException(403, f"{self.caller.name} may not do this: {action}")


async def permit_of(request: Request, caller: CurrentCaller) -> Permission:
    """For work whose body, not its path, names what is acted on."""
    return Permission(request.app.state.may, caller)


Permit = Annotated[Permission, Depends(permit_of)]
PERMISSION = "permission "  # the names of these dependencies begin so, for those who list them
SIGHT = "sight "  # and of those that say what a caller may see, see `policy`


def permission(action: str) -> Any:
    """A dependency of a route that changes something: 403 for a caller who may not do `action` to what the path names.

    The recipe's `permission_of` asks before the work, so a role may be taken away between the two. Ours is asked by
    `transact`, as the first statement of the transaction that does the work, and again when that is tried again. A
    route that reads has no permission of its own: what its caller may see is a condition of its SELECT (`policy`).
    """

    async def declare(request: Request, caller: CurrentCaller) -> None:
        refuse_out_of_scope(caller, action)  # before the work, since it needs no question
        permit = Permission(request.app.state.may, caller)  # no dependency: FastAPI takes its time for each
        target = request.path_params  # and not the request: a scope that leads to itself is left to the collector

        def ask(session: Any) -> None:
            permit(session, action, target)

        request.scope.setdefault("permissions", []).append(ask)

    declare.__name__ = PERMISSION + action
    return Depends(declare)


# What a request needs to do its work: a way to run a transaction, the time, and new identifiers. The dependencies wait
# for nothing, so they are `async`: FastAPI sends a plain `def` to a thread, and the way there and back costs more.


async def transact_of(request: Request) -> Transact:
    """The recipe's `Transact` on the app's engine, unless a middleware has put another one into the request.

    Each of its transactions begins with the permissions that the route names.
    """
    given: Transact = request.scope.get("transact") or await request.app.state.transactions()

    def transact(work: Callable[[Any], T], **options: Any) -> T:
        return given(permitted(request, work), **options)

    return transact


def permitted(request: Request, work: Callable[[Any], T]) -> Callable[[Any], T]:
    """`work`, after the permissions that the route names: in the same transaction, and again with each attempt."""

    def ask_and_work(db: Any) -> T:
        for ask in request.scope.get("permissions", ()):
            ask(db)
        return work(db)

    return ask_and_work


def refuse_unasked(app: FastAPI) -> None:
    """ValueError names the routes with a permission and without a transaction, in which it would be asked."""
    unasked = [
        route.name
        for route in routes_of(app.routes)
        if not {transact_of, write_of} & set(route.calls)
        and any(getattr(call, "__name__", "").startswith(PERMISSION) for call in route.calls)
    ]
    if unasked:
        raise ValueError(
            f"nothing asks for the permission of {', '.join(unasked)}: give the route a Transaction or Write"
        )


async def clock_of(request: Request) -> Clock:
    clock: Clock = request.app.state.clock
    return clock


async def identifiers_of(request: Request) -> Identifiers:
    identifiers: Identifiers = request.app.state.identifiers
    return identifiers


async def read_of(request: Request) -> Reader:
    """How a GET asks its one statement; see `reads`."""
    reader: Reader = request.app.state.read
    return reader


FAILED = "failed"  # in the scope: what the request has met before, in the middle of its work


async def write_of(request: Request) -> Writes:
    """How an endpoint writes by a few statements; see `writes`. A middleware's transaction goes first.

    Each of its transactions begins with the permissions that the route names, too. Raises what is FAILED.
    """
    if (failed := request.scope.get(FAILED)) is not None:
        raise failed
    given: Transact | None = request.scope.get("transact")
    return Permitted(request, request.app.state.write if given is None else InThread(given))


class Permitted(NamedTuple):
    """Writes of one request."""

    request: Request
    writer: Writer

    async def __call__(self, work: Callable[[Any], T]) -> T:
        return await self.writer(permitted(self.request, work))

    async def one(self, statement: Any, values: Mapping[str, Any]) -> bool:
        """As `Writes.one`. The route's permissions are not asked: they are conditions of the statement."""
        return await self.writer.one(statement, values)


Read = Annotated[Reader, Depends(read_of)]
Write = Annotated[Writes, Depends(write_of)]
Transaction = Annotated[Transact, Depends(transact_of)]
Now = Annotated[Clock, Depends(clock_of)]
NewIds = Annotated[Identifiers, Depends(identifiers_of)]


async def off_the_loop(read: Callable[[bytes], T], body: bytes) -> T:
    """`read(body)`; when `body` is longer than 16 KiB in a thread, so that the loop answers others meanwhile."""
    return read(body) if len(body) <= 16_384 else await run_in_threadpool(read, body)


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


# For the platform that runs the service. *Alive?* means: must the process be restarted? *Ready?* means: may it get
# requests? A service whose database is gone is alive and not ready; were that one question, the platform would restart
# every process while the database is restarted. Both paths and bodies are older than the recipe, and platforms know
# them: so the recipe's `Health` runs the checks, and the answers are made here. A 503 becomes a problem on its way out.
# Nobody turns it red for a stop: at the signal `server` closes its port at once, because the seconds of a stop belong
# to requests and mails. Where a balancer needs notice, let the platform wait before it sends the signal.


operations = APIRouter(tags=["operations"], dependencies=[Depends(anyone)])


@operations.get("/health")
async def health() -> dict[str, str]:
    """Liveness: answers as long as the process can answer anything."""
    return {"status": "alive"}


@operations.get("/ready", responses={503: {"description": "The database does not answer."}})
async def ready(request: Request, response: Response) -> dict[str, str]:
    """Readiness: 200 when the database answers in time, 503 otherwise. Names no cause."""
    checks: Health = request.app.state.health
    if await checks.failing():
        response.status_code = 503
        return {"status": "not ready"}
    return {"status": "ready"}


READY_SECONDS = 5.0  # a database that takes longer is as good as gone; without a limit the question would hang with it


def check_database(engine: sa.Engine) -> None:
    """Raises when no statement goes through. It takes one: a pool may hand out a connection that is dead."""
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))


async def answer_failure(request: Request, error: Exception) -> Response:
    """500 for what nobody has expected. uvicorn closes the connection after it, so the client must not use it again."""
    return PlainTextResponse("Internal Server Error", 500, {"Connection": "close"})


# FastAPI's own pages, which cannot say who may use them.
DOCUMENTATION = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")


# A function and not a module-level `app`, so that importing the code connects to nothing and two tests can have two
# services. The lifespan closes the pool after the last response has gone out.


def create_app(
    engine: sa.Engine,
    routers: Sequence[APIRouter] = (),
    clock: Clock | None = None,
    identifiers: Identifiers | None = None,
    find_caller: FindCaller = nobody,
    may: May = nothing,
    max_body_bytes: int = 1_048_576,
    read: Reader | None = None,
) -> FastAPI:
    """The service. Raises ValueError for a route that does not say who may use it.

    A request body above `max_body_bytes` is answered with 413 before it is read whole. `engine` is disposed of when
    the service stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.read.close()
        await app.state.write.close()
        engine.dispose()

    # redirect_slashes would answer /packages/ with a link built from the Host header, which the client chooses.
    app = FastAPI(title="Pantry", lifespan=lifespan, max_body_size=max_body_bytes, redirect_slashes=False)
    app.state.engine, app.state.clock = engine, clock or SystemClock()
    app.state.identifiers = identifiers or Identifiers(app.state.clock)
    app.state.find_caller, app.state.may = find_caller, may
    app.state.quick_caller = None
    app.state.transactions, app.state.read = transactions_of(engine), read or reader_of(engine)
    app.state.write = writer_of(engine)
    app.state.health = Health({"database": lambda: check_database(engine)}, READY_SECONDS)
    app.add_middleware(CallerFirst, caller=current_caller)
    app.add_exception_handler(Exception, answer_failure)
    for router in (operations, *routers):
        app.include_router(router)
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    refuse_unasked(app)
    build_stack, new_id = app.build_middleware_stack, app.state.identifiers.new
    # Around the whole: Starlette answers what nobody has expected outside of all middleware that is added to an app.
    app.build_middleware_stack = lambda: RequestId(build_stack(), new_id)  # type: ignore[method-assign]
    return app
