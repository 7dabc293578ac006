"""The quick way of `get-session`, by which a revoked session is refused at once all the same."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg
from sqlalchemy.engine import URL, make_url
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.request_and_transaction import ACCEPTED_ID
from playbook.pantry.auth.sessions import (
    NO_STORE,
    REMEMBER,
    SESSION,
    Cookies,
    cookies_of,
    lifetimes_of,
    session_view,
    user_view,
)
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.pantry.http import client_ip
from playbook.schema.identity import User


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


def columns(table: str, row: type[Any]) -> str:
    return ", ".join(f"{table}.{name}" for name in row._fields)


LOOK_UP = (
    f"SELECT s.token_hash, {columns('s', SessionRow)}, {columns('u', UserRow)}"
    " FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = ANY(%s)"
)


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


log = logging.getLogger("pantry.sessions")
CONNECTION: dict[str, Any] = {
    "autocommit": True, "prepare_threshold": None, "application_name": "pantry sessions",
    "connect_timeout": 5, "tcp_user_timeout": 5000,  # seconds; milliseconds
}  # fmt: skip
PATIENCE, REST = 5.0, 1.0  # seconds: for an answer; without an attempt, after one that failed


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


to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def body_of(auth: Auth, cookies: Cookies, header: str, row: Row) -> bytes | None:
    """What get-session answers for a row of LOOK_UP; None when there is something to write or to clear."""
    session, user = SessionRow(*row[1:8]), UserRow(*row[8:])
    if session.expires_at <= auth.clock.now():
        return None
    due = lifetimes_of(auth).moved_end(session.created_at, session.expires_at, auth.clock.now()) is not None
    if due and cookies.read(header, REMEMBER) is None:
        return None
    views = {"session": session_view(cast(UserSession, session)), "user": user_view(cast(User, user))}
    return to_json(views).encode()


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
