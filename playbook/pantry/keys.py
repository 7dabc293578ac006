"""Idempotency keys: a POST that is sent again acts once, and every answer is the first one."""

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio.from_thread
import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import orm
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.api import idempotency
from playbook.api.errors import Problem
from playbook.api.idempotency import KEY, Asked, Claim, Limits, Work, call_once, digest, keys
from playbook.foundations.engines import Base
from playbook.foundations.request_and_transaction import T
from playbook.foundations.transactions import is_conflict, somebody_was_first, transaction
from playbook.pantry.errors import (
    BAD_KEY,
    IN_FLIGHT,
    KEY_REUSED,
    PROBLEM_CONTENT,
    answer_error,
    complete_document,
)
from playbook.pantry.http import caller_if_any
from playbook.pantry.strict_input import StrictInput

# The recipe `api/idempotency` has the table, the claim and its lease, and the one commit of work and answer. Here is
# what lets the routes know nothing of it: a middleware in front of all of them, which keeps whole answers.

keys.to_metadata(Base.metadata)  # for the migrations

LIFETIME = timedelta(hours=24)  # how long an answer is kept: longer than any client goes on trying
LEASE = timedelta(seconds=60)  # how long a claim holds: longer than any request may take
# The answers are those of our own routes, and as large as these make them.
LIMITS = Limits(int(LEASE.total_seconds()), int(LIFETIME.total_seconds()), largest=sys.maxsize)


def read_key(sent: list[str]) -> str:
    """The key in the values of `Idempotency-Key`. Raises Problem 400 for none, several, or a malformed one."""
    if len(sent) != 1 or not KEY.fullmatch(sent[0]):
        raise Problem(BAD_KEY, "give one Idempotency-Key, 16 to 128 visible characters between double quotes")
    return sent[0]


def seconds(now: datetime) -> int:
    """`now` as the table counts it."""
    return int(now.timestamp())


def purge_keys(session: orm.Session, now: datetime) -> None:
    """Delete the keys whose lifetime is over, a day after they were claimed, answered or not. For a frequent job."""
    idempotency.purge_keys(session, seconds(now), unfinished=LIMITS.lifetime - LIMITS.lease)


def free(session: orm.Session, key_hash: str, now: int) -> None:
    """Delete an ended claim, which makes the key as good as new, for another request too.

    The recipe keeps its row, for the reference of a call outside. No work of Pantry's routes calls outside. Whoever has
    claimed the key meanwhile has a longer lease, and keeps it.
    """
    session.execute(keys.delete().where(keys.c.key_hash == key_hash, keys.c.answer.is_(None), keys.c.until <= now))


# The difficult part. The answer must be in the transaction of the work, but it is made *after* the endpoint's
# `transact` has committed. So for a request with a key `transact` does not commit: its session is held open until the
# answer is made, then both are committed. The endpoints stay as they are: their `transact` is the one that the
# middleware puts into the request. (An override of the dependency would do, too; FastAPI then takes the dependencies
# of every request apart anew, also of those without a key.)


class Held:
    """A `transact` that leaves the commit to others. Work that fails is rolled back at once, as without a key."""

    def __init__(self, session: orm.Session) -> None:
        self.session = session
        self.conflict: sa.exc.DBAPIError | None = None

    def transact(self, work: Callable[[orm.Session], T], **options: Any) -> T:
        try:
            result = work(self.session)
            self.session.flush()  # what the database refuses is raised here, where the endpoint expects it
            return result
        except BaseException as error:
            self.session.rollback()
            self.conflict = error if isinstance(error, sa.exc.DBAPIError) and is_conflict(error) else self.conflict
            raise


# Kept is success, and a refusal that is about the request. Not kept is what can be another answer although the request
# stays the same: 5xx, and these.
PASSING = {401, 403, 408, 425, 429}


class Passing(Exception):
    """The work's answer is not to be kept, so nothing of the work is."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


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


def work_of(request: Callable[[Held], Response]) -> Work:
    """`request` as work of the recipe: what it returns is kept with the rows. Raises Passing, and the conflict that the
    endpoint has seen, so that the whole endpoint runs again, from the kept body.
    """

    def work(session: orm.Session) -> Any:
        held = Held(session)
        answer = request(held)
        if held.conflict is not None:
            raise held.conflict
        if answer.status_code >= 500 or answer.status_code in PASSING:
            raise Passing(answer)
        if "set-cookie" in answer.headers:
            raise RuntimeError("an answer with a cookie is a credential and must not be stored: exempt the route")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers]
        return [answer.status_code, headers, bytes(answer.body).decode("latin-1")]

    return work


def answer_of(value: Any, replayed: bool) -> Response:
    """What `work_of` returned, byte for byte as an answer again."""
    status, headers, body = value
    answer = Response(body.encode("latin-1"), status)
    answer.raw_headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers]
    if replayed:
        answer.raw_headers.append((b"idempotency-replayed", b"true"))
    return answer


def once(
    engine: sa.Engine, at_work: threading.Semaphore, asked: Asked, now: int, request: Callable[[Held], Response]
) -> Response:
    """The answer of the one time that `request` acts under its key. Raises Problem 409 or 422.

    Who has claimed the key waits for a place `at_work`; who hears that another has it, or an answer, does not.
    """
    claimed: list[Claim] = []
    place = ExitStack()

    def retry(error: sa.exc.DBAPIError) -> bool:  # a claim inserts what is missing, the work does not
        return is_conflict(error) if claimed else somebody_was_first(error)

    def transact(work: Work) -> Any:
        def attempt(unused: orm.Session) -> Any:  # `transaction` gives the attempts; `Held` may end its session early
            with orm.Session(engine, expire_on_commit=False) as session:
                result = work(session)
                session.commit()
                return result

        return transaction(engine, attempt, retry=retry)

    def call(claim: Claim) -> Work:
        claimed.append(claim)
        place.enter_context(at_work)
        return work_of(request)

    try:
        with place:
            value = call_once(transact, asked, call, now, LIMITS)
    except BaseException as error:
        if claimed:
            with suppress(sa.exc.SQLAlchemyError):  # then the row stays until it is purged
                transact(lambda session: free(session, asked[0], now))
        if isinstance(error, Passing):
            return error.answer
        if isinstance(error, HTTPException) and error.status_code == IN_FLIGHT.status:
            raise Problem(IN_FLIGHT, headers=error.headers) from None
        if isinstance(error, HTTPException) and error.status_code == KEY_REUSED.status:
            raise Problem(KEY_REUSED, "this Idempotency-Key came with another request before") from None
        raise
    return answer_of(value, replayed=not claimed)


# Each request with a key waits in a thread for its endpoint, which needs a thread, too. So these are counted apart, or
# forty who wait would leave none to wait for. And of those who wait few work: each keeps a connection while it does.
THREADS = 100  # requests with a key that have begun
AT_ONCE = 8  # of these, how many are at work: fewer than the pool has connections


def route_of(scope: Scope) -> str:
    """`POST /packages/{name}/releases`: the route that a POST request reaches; empty if there is none."""
    paths = (route.path for route in iter_route_contexts(scope["app"].routes) if "POST" in (route.methods or ()))
    return next((f"POST {path}" for path in paths if path and compile_path(path)[0].match(scope["path"])), "")


class IdempotencyKeys:
    """ASGI middleware: a POST with an Idempotency-Key acts once, and its retries get the first answer.

    Not for a request of nobody, since such a key would belong to everybody, nor for the exempt routes, whose answers
    are secrets.
    """

    def __init__(self, app: ASGIApp, exempt: tuple[str, ...] = (), required: frozenset[str] = frozenset()) -> None:
        self.app, self.exempt, self.required = app, exempt, required
        self.threads, self.at_work = CapacityLimiter(THREADS), threading.BoundedSemaphore(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].startswith(self.exempt):
            try:
                answer = await self.answer(scope, receive) or self.app
            except (HTTPException, sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                answer = await answer_error(Request(scope), error)
        await answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        headers, state = Headers(scope=scope), scope["app"].state
        if not self.required and "idempotency-key" not in headers:
            return None  # most have none, and to look for the route costs more than the rest
        route = route_of(scope)
        if not route or ("idempotency-key" not in headers and route not in self.required):
            return None
        if (caller := await caller_if_any(Request(scope))) is None:
            return None
        body = await Request(scope, receive).body()  # raises 400 if it is not strict JSON, before anything is done
        # A key belongs to one caller and one route.
        key_hash = digest(str(caller.id), route, read_key(headers.getlist("idempotency-key")))
        told = scope["path"], scope["query_string"], headers.get("content-type", ""), body
        asked = key_hash, await to_thread.run_sync(digest, *told)  # for a megabyte that is 20 ms

        def request(held: Held) -> Response:
            return anyio.from_thread.run(ask, self.app, {**scope, "transact": held.transact}, again(body, receive))

        arguments = state.engine, self.at_work, asked, seconds(state.clock.now()), request
        return await to_thread.run_sync(once, *arguments, limiter=self.threads)


# Each route that takes a key says so in the OpenAPI document, which is all that a generated client knows. And the
# middleware stands *inside* of `StrictInput`: a body that nobody can read claims no key.


HEADER = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"}}


def describe_keys(document: dict[str, Any], exempt: tuple[str, ...], required: frozenset[str]) -> None:
    """Write into an OpenAPI document which routes take a key, and the three refusals that it can cause."""
    for path, item in document["paths"].items():
        if "post" in item and not path.startswith(exempt):
            item["post"].setdefault("parameters", []).append(HEADER | {"required": f"POST {path}" in required})
            for kind in (BAD_KEY, IN_FLIGHT, KEY_REUSED):
                answer = item["post"]["responses"].setdefault(str(kind.status), {})
                answer["description"] = "; ".join(filter(None, [answer.get("description"), kind.title]))
                answer["content"] = PROBLEM_CONTENT


def install_idempotency(app: FastAPI, exempt: tuple[str, ...] = (), required: frozenset[str] = frozenset()) -> None:
    """Let POST routes take a key, but not paths beginning with `exempt`; `required` ones (`POST /orders`) need it.

    Raises ValueError before `install_strict_input`.
    """
    layers: list[object] = [middleware.cls for middleware in app.user_middleware]
    if StrictInput not in layers:
        raise ValueError("call install_strict_input first: a body must be checked before it can claim a key")
    app.user_middleware.append(Middleware(IdempotencyKeys, exempt=exempt, required=required))  # innermost
    complete_document(app, partial(describe_keys, exempt=exempt, required=required))
