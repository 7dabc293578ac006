"""Idempotency keys: a POST that is sent again acts once, and every answer is the first one."""

import hashlib
import json
import random
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import anyio.from_thread
import httpx
import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.api.errors import Problem
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

# The table. A key belongs to one caller and one route: the row's name is a hash over all three. `fingerprint`
# is a hash of the request, `claim` says who is at work, `claimed_until` how long others believe it.


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


# The header is a *string* of structured fields, so it has quotes. At least 16 characters: a client that counts from 1
# begins again after its restart, and would get last week's answers.


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


# The claim's unique index decides who is first; the others read the row. A claim that ran out belonged to the dead.


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


# Two ways out of a claim. `settle` names the claim, which makes taking over safe: a process that was only slow and
# has lost its claim finds no row, and its work is rolled back (a *fencing token*). `release` is for when nothing was
# done.


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


# Now the difficult part. The answer must be in the transaction of the work, but it is made *after* the endpoint's
# `transact` has committed. So for a request with a key `transact` does not commit: its session is held open until the
# answer is made, then both are committed. The endpoints stay as they are: their `transact` is the one that the
# middleware puts into the request. (An override of the dependency would do, too; FastAPI then takes the dependencies
# of every request apart anew, also of those without a key.)


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


# Final is success, and a refusal that is about the request: not 5xx, nor what passes while the request stays the
# same: 401, 403, 408, 425, 429. A conflict runs the whole endpoint again, from the kept body.


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


# A request of nobody passes as if it had no key: such a key would belong to everybody. So do routes whose answers are
# secrets. Of `transaction` we want the attempts and not the session, which we end ourselves. And the threads are
# counted apart: each waits for an endpoint, which needs one too, and forty who wait would leave none to wait for.


AT_ONCE = 8  # requests with a key that are worked on at a time: fewer than the pool has connections


def route_of(scope: Scope) -> str:
    """`POST /packages/{name}/releases`: the route that a POST request reaches; empty if there is none."""
    paths = (route.path for route in iter_route_contexts(scope["app"].routes) if "POST" in (route.methods or ()))
    return next((f"POST {path}" for path in paths if path and compile_path(path)[0].match(scope["path"])), "")


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
        if (caller := await caller_if_any(Request(scope))) is None:
            return None
        body = await Request(scope, receive).body()  # raises 400 if it is not strict JSON, before anything is done
        key_hash = digest(str(caller.id), route, read_key(headers.getlist("idempotency-key")))
        told = scope["path"], scope["query_string"], headers.get("content-type", ""), body
        print_ = await to_thread.run_sync(digest, *told)  # for a megabyte that is 20 ms

        def request(held: Held) -> Response:
            return anyio.from_thread.run(ask, self.app, {**scope, "transact": held.transact}, again(body, receive))

        arguments = state.engine, state.clock.now(), state.identifiers.new(), key_hash, print_, request
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


# The client makes the key *before* the first attempt and keeps it. It repeats what may pass: a lost connection, 408,
# 425, 429, 502, 503, 504, a 409 that says when; not 500, which is a bug. Pauses grow and are drawn at random, or a
# thousand clients that were cut off together come back together. `Retry-After` is a minimum, to which the random part
# is added.


REPEATABLE = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST"}  # POST: with its key
TRANSIENT = {408, 425, 429, 502, 503, 504}


def wait_asked(response: httpx.Response) -> int | None:
    """Seconds that `response` wants a client to wait before it repeats; None when repeating cannot help."""
    after = response.headers.get("retry-after", "")
    seconds = int(after) if re.fullmatch(r"[0-9]{1,6}", after) else None
    if response.status_code in TRANSIENT:
        return seconds or 0
    return seconds if response.status_code == 409 else None


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
