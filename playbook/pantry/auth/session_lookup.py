"""The quick way of `get-session`, by which a revoked session is refused at once all the same."""

import json
import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast
from uuid import UUID

from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL, make_url
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.auth.session_lookup import KeyedQuery, Resting, Row, Together
from playbook.auth.sessions import Lifetimes
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
from playbook.pantry.plans import Plans, literal
from playbook.pantry.reads import Reader, reader_of
from playbook.schema.identity import User


class SessionRow(NamedTuple):
    """The columns that the views show, under the same names."""

    id: UUID
    user_id: UUID
    expires_at: datetime
    created_at: datetime
    updated_at: datetime
    ip_address: str | None
    user_agent: str | None
    active_organization_id: UUID | None
    second_factor_at: datetime | None


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


# DuckDB's look-up in two, since a join takes it three times as long as both; see `plans`.
SESSION_OF = f"SELECT s.token_hash, {columns('s', SessionRow)} FROM sessions s WHERE s.token_hash = "
USER_OF = f"SELECT {columns('u', UserRow)} FROM users u WHERE u.id = "
USER_ID = 1 + SessionRow._fields.index("user_id")


def look_up_by(plans: Plans, key: str) -> Row | None:
    """What LOOK_UP finds for the hash `key`."""
    with plans.snapshot():
        for session in plans.rows(SESSION_OF + literal(key)):
            for user in plans.rows(USER_OF + literal(session[USER_ID])):
                return session + user
    return None


log = logging.getLogger("pantry.sessions")


class SessionQuery(KeyedQuery):
    """LOOK_UP on a connection of its own. When the database does not answer it finds nothing: the long way says why."""

    async def ask(self, keys: list[str]) -> dict[str, Row]:
        try:
            return await super().ask(keys)
        except Resting:
            return {}
        except Exception as error:
            log.warning("session look-up: %s", type(error).__name__)
            return {}


def query_of(url: URL) -> SessionQuery:
    """The query for a database of SQLAlchemy's URL."""
    libpq = url.set(drivername="postgresql").render_as_string(hide_password=False).replace(" ", "%20")
    return SessionQuery(make_conninfo(libpq, application_name="pantry sessions"), LOOK_UP)


def in_utc(row: Row) -> list[Any]:
    """The row with its times in UTC: the connection has the zone of the server."""
    return [value.astimezone(UTC) if isinstance(value, datetime) else value for value in row]


to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


Found = tuple[SessionRow, UserRow]


def alive(now: datetime, lifetimes: Lifetimes, cookies: Cookies, header: str, row: Row) -> Found | None:
    """Session and user of a row of LOOK_UP; None when there is something to write or to clear."""
    values = in_utc(row)
    of_session = 1 + len(SessionRow._fields)  # the first column is the key
    session, user = SessionRow(*values[1:of_session]), UserRow(*values[of_session:])
    if session.expires_at <= now:
        return None
    due = lifetimes.moved_end(session.created_at, session.expires_at, now) is not None
    if due and cookies.read(header, REMEMBER) is None:
        return None
    return session, user


@lru_cache(1000)
def body_of(session: SessionRow, user: UserRow) -> bytes:
    """What get-session answers. Kept is how it is written: both rows were read just now."""
    views = {
        "session": session_view(cast(UserSession, session)),
        "user": user_view(cast(User, user), cast(UserSession, session)),
    }
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


def closing(receive: Receive, query: KeyedQuery) -> Receive:
    """`receive` of the service's lifespan, which closes the connection when the service stops."""

    async def receive_and_close() -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await query.close()
        return message

    return receive_and_close


class QuickSessions:
    """Sessions found on the event loop: on PostgreSQL many by one statement, on DuckDB by the `reader`'s plans.

    On PostgreSQL nothing is kept, on DuckDB nothing beyond the next moment in which somebody may write (`plans`): a
    session that has ended is not found from then on.
    """

    def __init__(self, auth: Auth, reader: Reader | None = None) -> None:
        self.auth, self.cookies, self.lifetimes = auth, cookies_of(auth), lifetimes_of(auth)
        url = make_url(auth.settings.database_url)
        self.query = query_of(url) if url.get_backend_name() == "postgresql" else None
        self.together = Together(self.query.ask) if self.query else None
        self.reader = reader or reader_of(auth.engine)

    async def row(self, key: str) -> Row | None:
        if self.together is not None:
            return await self.together.read(key)
        return await self.reader.look_up(lambda plans: look_up_by(plans, key), key)

    async def find(self, token: str, cookie: str) -> Found | None:
        """Session and user of `token`, from the header `cookie`; None when the long way must be taken."""
        row = await self.row(hash_token(token))
        return alive(self.auth.clock.now(), self.lifetimes, self.cookies, cookie, row) if row else None


class SessionLookup:
    """ASGI, outermost: answers get-session on the event loop, when that takes one look-up and no more.

    The connection of the look-ups is closed when the service stops.
    """

    def __init__(self, app: ASGIApp, quick: QuickSessions, limits: AddressLimits) -> None:
        self.app, self.quick, self.limits = app, quick, limits

    async def quick_answer(self, scope: Scope) -> bytes | None:
        """The body, or None when the long way must be taken."""
        cookie = Headers(scope=scope).get("cookie", "")
        token = self.quick.cookies.read(cookie, SESSION)
        if token is None:
            return None
        try:
            self.limits.take(client_ip(scope) or "", scope["path"])
        except AuthError:
            return None  # the long way refuses it as well, and says so
        scope["counted"] = True
        found = await self.quick.find(token, cookie)
        return body_of(*found) if found else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asks_who(scope) and (body := await self.quick_answer(scope)) is not None:
            return await send_answer(scope, send, self.quick.auth, body)
        if scope["type"] == "lifespan" and self.quick.query is not None:
            receive = closing(receive, self.quick.query)
        await self.app(scope, receive, send)
