# %% [markdown]
"""
# The auth wire

Speak a contract that somebody else wrote so exactly that their client works unchanged, with your own rules behind it.

| | |
|---|---|
| **Use it when** | a front end, an app or a library exists already, and your service has to answer it |
| **You need** | [settings](../foundations/settings.ipynb), [request_and_transaction](../foundations/request_and_transaction.ipynb), [errors](../api/errors.ipynb), [mail](mail.ipynb) |
| **Time** | 18 minutes |
| **Topics** | wire format, contract, compatibility, adapter, anti-corruption layer, better auth, better-auth client, zod, error code, error message, validation error, 400, 404, 405, 413, 415, 422, 503, form post, progressive enhancement, urlencoded, ISO 8601, timestamp, milliseconds, strict json, duplicate field, parameter pollution, nul byte, last resort error handler |
| **Standard** | RFC 9110; RFC 8259; RFC 7493; WHATWG URL 5 (forms); OWASP ASVS 5.0 (1.5.3, 15.3.5, 15.3.7, 16.5.1, 16.5.4) |
"""

# %% [markdown]
"""
## The decision

The front end signs people in with the npm package `better-auth/client`. It was written for a server in TypeScript.
Who adapts?

| option | good | costs |
|---|---|---|
| the front end calls our API | one form of errors in the service | every screen, and every app that is installed already, is written and tested again |
| Better Auth's own server, beside ours | exact by definition | a second runtime that writes the same tables, with its rules for passwords and sessions |
| a gateway translates | neither side changes | a third place that must know both, and cannot know what is not in the message |
| **one part of our service speaks their contract** | their client, our rules, one process | two forms of errors; their next release has to be watched |

We take the **part that speaks**: everything under `/api/auth`, and nothing else, answers as Better Auth does. Choose
Better Auth's server where Node runs in production anyway and its rules are yours. A contract is what clients rely on,
so it is *recorded*, not read about: more than 300 exchanges with a real server stand in `tests/contract`.
"""

# %% [markdown]
"""
## See it break

A sign-in as FastAPI offers it, correct in every line, and then with the problem details of the page
[errors](../api/errors.ipynb). The front end shows its own sentence for a `code` that it knows, else the `message`; it
hides what is answered with 404. `reads` and `date_of` do here what the npm client does (the tests run the real one).
Before you run the cell: which of the five calls does the person in front of the form understand?
"""

# %%
from datetime import UTC, datetime, timedelta

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show, show_http, table
from playbook.pantry.errors import install_problems

SENTENCES = {"INVALID_EMAIL_OR_PASSWORD": "Address and password do not belong together."}
PASSWORD, ENDS = "violet anchor rides a slow train", datetime(2026, 11, 9, 9, 0, 0, 700_000, UTC)


def reads(answer):
    """`(data, error)`, as @better-fetch/fetch makes them of an answer."""
    said = answer.json() if answer.content else None
    return (said, None) if answer.is_success else (None, (said or {}) | {"status": answer.status_code})


def date_of(text):
    """The time in an answer: the client takes the digits after the point for milliseconds, however many there are."""
    seconds, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    return datetime.fromisoformat(seconds) + timedelta(milliseconds=int(fraction))


def seen_by_the_person(answer):
    data, error = reads(answer)
    if error and error["status"] == 404:
        return "(hidden)"
    if error:
        return SENTENCES.get(error.get("code")) or error.get("message", "undefined")
    return f"until {date_of(data['session']['expiresAt']):%H:%M:%S}" if "session" in data else "Welcome"


# %%
class Credentials(BaseModel):
    email: str
    password: str


def by_the_framework(problems=False):
    app = FastAPI()

    @app.post("/api/auth/sign-in/email")
    def sign_in(sent: Credentials):
        if sent.password != PASSWORD:
            raise HTTPException(401, "Invalid email or password")
        return {"user": {"name": "Ada"}}

    @app.get("/api/auth/get-session")
    def get_session():
        return {"session": {"expiresAt": ENDS.isoformat()}}

    if problems:
        install_problems(app)
    return app


ADA = {"email": "ada@example.com", "password": PASSWORD}
CALLS = {
    "a wrong password": ("POST", "sign-in/email", {"json": ADA | {"password": "guess"}}),
    "no password": ("POST", "sign-in/email", {"json": {"email": ADA["email"]}}),
    "a page without script": ("POST", "sign-in/email", {"data": ADA}),
    "a method that is not offered": ("GET", "sign-in/email", {}),
    "until when? (09:00:00)": ("GET", "get-session", {}),
}


def try_all(app):
    with serving(app) as client:
        answers = [client.request(method, f"/api/auth/{path}", **sent) for method, path, sent in CALLS.values()]
    return [f"{answer.status_code}: {seen_by_the_person(answer)}" for answer in answers]


columns = ("call", "FastAPI as it comes", "problem details")
show(table(zip(CALLS, try_all(by_the_framework()), try_all(by_the_framework(problems=True)), strict=True), columns))

# %% [markdown]
"""
None. Every answer is true, and says it in members that this client does not read. The form, which is how a page signs
in when its script did not load, is refused. The last line is the worst: no error anywhere, and the session seems to
end eleven minutes late, because `isoformat()` writes microseconds.

## Build it

First what all flows of this track share. `Auth` holds it in one value that is given to whoever needs it, so that a
test has another clock, other random bytes and a mailbox in memory.
"""

# %%
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, Request
from sqlalchemy import orm

from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, RandomBytes
from playbook.foundations.transactions import transaction
from playbook.pantry.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Auth:
    """What every flow needs. Lessons and tests give fixed clocks, seeded bytes and a mailbox in memory."""

    settings: Settings
    engine: sa.Engine
    clock: Clock
    ids: Identifiers
    postbox: Postbox
    random_bytes: RandomBytes = secrets.token_bytes
    admit: Callable[[UUID], None] = lambda user_id: None  # called for each request of an account; may refuse it

    def transact(self, work: Callable[[orm.Session], T]) -> T:
        """`work` in one transaction; see `transaction`."""
        return transaction(self.engine, work)


async def auth_of(request: Request) -> Auth:
    auth: Auth = request.app.state.auth
    return auth


Service = Annotated[Auth, Depends(auth_of)]

# %% [markdown]
"""
An error is `{"message", "code"}`. Front ends compare the code, so codes are the contract and live in one table, to
which a later page adds its own.
"""

# %%
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import Response
from fastapi.responses import JSONResponse

MESSAGES = {"UNAUTHORIZED": "Unauthorized", "PAYLOAD_TOO_LARGE": "Payload Too Large"}  # by code
CODES = {413: "PAYLOAD_TOO_LARGE", 422: "UNPROCESSABLE_ENTITY"}  # Python has renamed these two, Better Auth has not


class AuthError(Exception):
    """An error of the auth API. Without `message` it has the one of MESSAGES, or else the status's phrase.

    `code` None leaves the member out, as Better Auth does here and there.
    """

    def __init__(
        self, status: int, code: str | None, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code = status, code
        self.message = message or MESSAGES.get(code or "", HTTPStatus(status).phrase)
        self.headers = dict(headers or {})
        super().__init__(self.message)


# %%
from datetime import datetime


def general(status: int, headers: Mapping[str, str] | None = None) -> AuthError:
    """The error of a status about which nothing else is to be said."""
    return AuthError(status, CODES.get(status, HTTPStatus(status).name), headers=headers)


def in_wire_form(error: AuthError) -> Response:
    """`error` as an answer."""
    body = {"message": error.message} | ({"code": error.code} if error.code else {})
    return JSONResponse(body, error.status, error.headers)


def iso(moment: datetime) -> str:
    """A time in UTC as JavaScript writes it, in milliseconds: `2026-11-23T02:28:47.339Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# %% [markdown]
"""
Then what comes in. JSON goes through `json_fault`, the strict reading of the page errors: a name given twice, NUL,
half a character, endless nesting are refused, since whoever stands between may have read the other value (RFC 7493).
Forms get the same care. Text that is not UTF-8 must not be repaired: with every wrong byte turned into the same sign,
two different passwords become one. Only two paths take forms at all; the next page says why that number matters.
"""

# %%
import json
from typing import Any
from urllib.parse import parse_qsl

from playbook.pantry.http import off_the_loop
from playbook.pantry.strict_input import json_fault

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
FORMS = ("/api/auth/sign-in/email", "/api/auth/sign-up/email")  # what a page without script may send
MAX_FIELDS, MAX_ESCAPES = 50, 10_000  # counted before a form is taken apart: both cost time
UNDEFINED = object()  # no body at all; named as JavaScript does, because front ends show the message


def read_form(raw: bytes) -> dict[str, str]:
    """The fields of a form (WHATWG URL, 5.1). Raises ValueError when it is not UTF-8, has NUL or a name twice."""
    if raw.count(b"&") >= MAX_FIELDS or raw.count(b"%") > MAX_ESCAPES:
        raise ValueError("too many fields, or too many escapes")
    text = raw.decode("utf-8")
    pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    fields = dict(pairs)
    if len(fields) < len(pairs) or any("\0" in part for pair in pairs for part in pair):
        raise ValueError("a name is given twice, or there is a NUL")
    return fields


# %%
async def read_body(request: Request) -> Any:
    """The body as JSON, or a form as texts; UNDEFINED without one. Raises AuthError 400 or 415. Read once a request.

    A body without a Content-Type is none, as for Better Auth.
    """
    if hasattr(request.state, "sent"):
        return request.state.sent
    named = request.headers.get("content-type", "")
    kind, sent = named.split(";")[0].strip().lower(), UNDEFINED
    allowed = (FORM, JSON) if request.scope["path"] in FORMS else (JSON,)
    if raw := await request.body() if kind else b"":
        if kind not in allowed:
            words = f'Content-Type "{named[:100]}" is not allowed. Allowed types: {", ".join(allowed)}'
            raise AuthError(415, "UNSUPPORTED_MEDIA_TYPE", words)
        fault = await off_the_loop(json_fault, raw) if kind == JSON else ""
        if fault:
            raise AuthError(400, "BAD_REQUEST", "Invalid JSON in request body")
        try:
            sent = json.loads(raw) if kind == JSON else await off_the_loop(read_form, raw)
        except ValueError:
            raise AuthError(400, "BAD_REQUEST", "Invalid form in request body") from None
    request.state.sent = sent
    return sent


# %% [markdown]
"""
Pydantic checks the fields, zod's words name them: `[body.email] Invalid input: expected string, received number`.
Forms highlight the field by that prefix, so it is exact; the words behind it are close. What was sent is never
repeated, not even by a validator that quotes it.
"""

# %%
from pydantic import BaseModel, ConfigDict, Field

from playbook.api.errors import QUOTING


class Sent(BaseModel):
    """A request body. Strict: the text "true" is no boolean. Unknown members are ignored, as Better Auth does."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


Text = Annotated[str, Field(max_length=2000)]
KINDS: dict[Any, str] = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
EXPECTED = {f"{python.__name__}_type": name for python, name in KINDS.items()} | {"string_type": "string"}


def in_words(fault: Mapping[str, Any], place: str, types: Mapping[str, str]) -> str:
    """One of Pydantic's errors as zod would word it. `types`: JavaScript's name of each field's type."""
    where = "[" + ".".join([place, *map(str, fault["loc"])]) + "]"
    kind, value = fault["type"], fault.get("input")
    if kind in ("string_too_short", "string_too_long"):
        few, limit = kind == "string_too_short", next(iter(fault["ctx"].values()))
        compared = f"to have {'>=' if few else '<='}{limit} characters"
        return f"{where} Too {'small' if few else 'big'}: expected string {compared}"
    if kind == "missing":
        return f"{where} Invalid input: expected {types.get(str(fault['loc'][0]), 'string')}, received undefined"
    if kind in EXPECTED:
        return f"{where} Invalid input: expected {EXPECTED[kind]}, received {KINDS.get(type(value), 'null')}"
    return f"{where} {'Invalid input' if kind in QUOTING else fault['msg']}"


# %%
from typing import get_origin

from pydantic import ValidationError

Model = TypeVar("Model", bound=Sent)


def body(model: type[Model], optional: bool = False) -> Any:
    """A dependency: the request's body as `model`. AuthError 400 VALIDATION_ERROR names every wrong field.

    With `optional`, no body is an empty one.
    """
    annotations = {name: field.annotation for name, field in model.model_fields.items()}
    types = {name: KINDS.get(get_origin(kind) or kind, "string") for name, kind in annotations.items()}

    async def read(request: Request) -> Model:
        sent = await read_body(request)
        if sent is UNDEFINED and optional:
            sent = {}
        if not isinstance(sent, dict):
            received = "undefined" if sent is UNDEFINED else KINDS.get(type(sent), "null")
            raise AuthError(400, "VALIDATION_ERROR", f"[body] Invalid input: expected object, received {received}")
        try:
            return model.model_validate(sent)
        except ValidationError as error:
            faults = error.errors(include_url=False)
        raise AuthError(400, "VALIDATION_ERROR", "; ".join(in_words(fault, "body", types) for fault in faults))

    return Depends(read)


# %% [markdown]
"""
Now errors that others raise. 404 has no body, and a wrong method is an unknown path: Better Auth's router knows no
405. The database's "not now" is 503, and its text is for the log.
"""

# %%
import logging

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from playbook.foundations.request_and_transaction import request_id

log = logging.getLogger("pantry.auth")


def answer_auth_error(request: Request, error: Exception) -> Response:
    """The exception handler of everything under /api/auth."""
    if isinstance(error, HTTPException):
        if error.status_code in (404, 405):
            return Response(status_code=404)
        error = general(error.status_code, error.headers)
    elif isinstance(error, RequestValidationError):  # a parameter of the URL
        words = [in_words({**fault, "loc": fault["loc"][1:]}, str(fault["loc"][0]), {}) for fault in error.errors()]
        error = AuthError(400, "VALIDATION_ERROR", "; ".join(words))
    elif isinstance(error, sa.exc.SQLAlchemyError):
        log.error("%s: %s", request_id.get(), type(error).__name__, exc_info=error)
        error = AuthError(503, "SERVICE_UNAVAILABLE", headers={"Retry-After": "1"})
    assert isinstance(error, AuthError)
    return in_wire_form(error)


# %% [markdown]
"""
Two answers are made where no handler sees them, as plain text: FastAPI's 413, and the 500 of an exception that nobody
expected. The outermost layer gives them the form of the others. What went wrong stays in the log, under the request
id.
"""

# %%
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class LastResort:
    """ASGI: an error that was answered in plain text is answered as an AuthError; an exception is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_in_form(message: Message) -> None:
            nonlocal replaced
            begins = message["type"] == "http.response.start" and message["status"] >= 400
            if not begins or PLAIN not in message["headers"]:
                return None if replaced else await send(message)
            replaced, response = True, in_wire_form(general(message["status"]))
            if message["status"] == 500:  # uvicorn closes the connection then: the client must not reuse it
                response.headers["connection"] = "close"
            await response(scope, receive, send)

        try:
            await self.app(scope, receive, send_in_form)
        except ClientDisconnect:  # in the middle of its request: nothing has failed
            log.info("%s: the client has gone", request_id.get())
        except Exception as error:
            log.error("%s: %s", request_id.get(), type(error).__name__)  # the server logs the traceback
            raise


# %% [markdown]
"""
Some cookies belong to the request: one that was renewed, one that turned out to be dead. An error, or a `Response` of a
route's own, drops what others have set. So they are kept aside and added last, outside of everything.
"""

# %%
from starlette.datastructures import MutableHeaders


def keep_cookies(request: Request, cookies: Sequence[str]) -> None:
    """`Set-Cookie` values for the answer to this request, whatever it will be. Needs `AnswerCookies` around the app."""
    if cookies:
        request.scope["answer_cookies"].update((cookie.partition("=")[0], cookie) for cookie in cookies)


class AnswerCookies:
    """ASGI, outermost: adds what `keep_cookies` kept. Of one name only the last cookie is set, the answer's own if any."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept: dict[str, str] = {}

        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start" and kept:
                headers = MutableHeaders(scope=message)
                own = {cookie.partition("=")[0]: cookie for cookie in headers.getlist("set-cookie")}
                del headers["set-cookie"]
                for cookie in (kept | own).values():
                    headers.append("set-cookie", cookie)
                if any("Max-Age=0" not in cookie for cookie in kept.values()):  # a credential (RFC 9111, 7.3)
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        scope["answer_cookies"] = kept  # in the scope itself: layers outside read there which route it was
        await self.app(scope, receive, send_with_cookies)


# %% [markdown]
"""
The assembly. `guards` run before every route, whatever a later page forgets; the next page brings the first. And a
route that does not say who may use it stops the service from starting.
"""

# %%
from fastapi import APIRouter, FastAPI

from playbook.foundations.deny_by_default import anyone, refuse_undeclared
from playbook.foundations.request_and_transaction import RequestId


def auth_app(auth: Auth, routers: Sequence[APIRouter], guards: Sequence[Callable[..., Any]]) -> FastAPI:
    """The app that answers under /api/auth. `guards` are dependencies that run first, for every route."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, max_body_size=auth.settings.max_body_bytes)
    app.state.auth = auth
    for kind in (HTTPException, RequestValidationError, AuthError, sa.exc.OperationalError, sa.exc.TimeoutError):
        app.add_exception_handler(kind, answer_auth_error)
    for router in routers:
        app.include_router(router, dependencies=[Depends(guard) for guard in guards])
    refuse_undeclared(app, anyone)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: AnswerCookies(  # type: ignore[method-assign]
        RequestId(LastResort(build()), auth.ids.new)
    )
    return app


# %% [markdown]
"""
## See it work

The same five calls. The routes of this page are a lesson's: they know one person and no database.
"""

# %%
from logging.handlers import BufferingHandler

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine

log.handlers, log.propagate = [BufferingHandler(capacity=1000)], False  # a lesson's output is not a log


class SignIn(Sent):
    email: Text
    password: str
    rememberMe: bool = True


lesson = APIRouter(prefix="/api/auth", dependencies=[Depends(anyone)])


@lesson.post("/sign-in/email")
def sign_in(sent: Annotated[SignIn, body(SignIn)]):
    if sent.password != PASSWORD:
        raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD", "Invalid email or password")
    return {"user": {"name": "Ada"}}


@lesson.get("/get-session")
def get_session():
    return {"session": {"expiresAt": iso(ENDS)}}


@lesson.post("/update-user")
def update_user(sent: Annotated[SignIn, body(SignIn)], auth: Service):
    return {"stored": auth.transact(lambda db: db.scalar(sa.select(sa.literal(sent.email))))}


@lesson.get("/broken")
def broken(times: int = 1):
    raise RuntimeError("SELECT password_hash FROM accounts")


def service(url, **settings):
    settings, clock = Settings(environment="test", database_url=url, **settings), FixedClock(ENDS)
    ids, postbox = Identifiers(clock, SeededBytes(1)), Postbox(MemorySender())
    return auth_app(Auth(settings, make_engine(url), clock, ids, postbox, SeededBytes(2)), [lesson], guards=[])


show(table(zip(CALLS, try_all(service(lesson_url())), strict=True), ("call", "the contract, spoken")))

# %% [markdown]
"""
And what went over the wire for some that are not well meant: three wrong fields, a name given twice, a form with NUL,
a type that is not taken, a wrong method, a wrong parameter, a bug.
"""

# %%
with serving(service(lesson_url())) as client:
    client.post("/api/auth/sign-in/email", json={"email": 7, "rememberMe": "true"})
    for kind, content in ((JSON, b'{"email": "a", "email": "b"}'), (FORM, b"email=ada%00"), ("text/plain", b"{}")):
        client.post("/api/auth/sign-in/email", content=content, headers={"content-type": kind})
    client.put("/api/auth/sign-in/email")
    client.get("/api/auth/broken?times=x")
    client.get("/api/auth/broken")
    show_http(client)

# %% [markdown]
"""
Look at the second request: it had two addresses, `a` and `b`. The display of this page reads JSON as well, and kept
the last. A proxy that checks the first would have let it pass.

## On PostgreSQL

Two answers depend on the database. DuckDB stores a NUL, PostgreSQL refuses it, so a service that passes it on has a
500 on one engine only, in production. And a database that goes away is 503, the first time and every time:
"""


# %%
def on_this_engine(url):
    engine = make_engine(url)
    try:
        stored = transaction(engine, lambda db: db.scalar(sa.select(sa.literal("a" + chr(0)))))
        unchecked = f"stores {len(stored)} characters"
    except sa.exc.SQLAlchemyError as error:
        unchecked = f"raises {type(error.orig).__name__}"
    with serving(service(url)) as client:
        answer = client.post("/api/auth/sign-in/email", data=ADA | {"email": "a" + chr(0)})
    return unchecked, answer.status_code


def without_its_database(url):
    with serving(service(url)) as client:
        before = client.post("/api/auth/update-user", json=ADA)
        server = sa.make_url(url)
        with sa.create_engine(server.set(database="postgres"), isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(sa.text(f'DROP DATABASE "{server.database}" WITH (FORCE)'))
        client.exchanges.clear()
        after = [client.post("/api/auth/update-user", json=ADA) for _ in range(2)]
        return [before, *after]


embedded, there = on_this_engine("duckdb:///:memory:"), on_postgres(on_this_engine)
lost = on_postgres(without_its_database)
print("a text with NUL: DuckDB {}, the service answers {}".format(*embedded))
if there:
    print("a text with NUL: PostgreSQL {}, the service answers {}".format(*there))
    for answer in lost:
        print(answer.status_code, answer.headers.get("retry-after", "-"), answer.json())

# %% [markdown]
"""
## Check it

Every wrong type of every field, every body that two readers could understand differently, and what may never be told.
"""

# %%
import re

assert embedded == ("stores 2 characters", 400) and there in (("raises DataError", 400), None)
VALUES = {"string": "x", "boolean": True, "number": 7, "array": [], "object": {}, "null": None}
FIELDS = {"email": "string", "password": "string", "rememberMe": "boolean"}
LEAKS = re.compile(r"Traceback|\.py|sqlalchemy|psycopg|SELECT|password_hash", re.IGNORECASE)
TWICE, NUL, BOTTOMLESS = b'{"email": "a", "email": "b"}', b'{"email": "\\u0000"}', b"[" * 100_000 + b"]" * 100_000
BODIES = {JSON: [TWICE, NUL, BOTTOMLESS, b"{", b"\xff", b"[1e999]", b'["\\ud800"]', b"9" * 5000]}
BODIES[FORM] = [b"email=a&email=b", b"email=%00", b"email=\0", b"email=%ff", b"&".join(b"f%d=" % n for n in range(51))]

with serving(service(lesson_url(), max_body_bytes=300_000)) as client:
    for field, expected in FIELDS.items():
        for received in VALUES.keys() - {expected}:
            answer = client.post("/api/auth/sign-in/email", json=ADA | {field: VALUES[received]})
            words = f"[body.{field}] Invalid input: expected {expected}, received {received}"
            assert (answer.status_code, answer.json()) == (400, {"message": words, "code": "VALIDATION_ERROR"})
    for kind, bodies in BODIES.items():
        for content in bodies:
            answer = client.post("/api/auth/sign-in/email", content=content, headers={"content-type": kind})
            assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST"), content[:40]
    assert client.post("/api/auth/update-user", data=ADA).status_code == 415, "only two paths take forms"
    client.post("/api/auth/update-user", content=b" " * 300_001, headers={"content-type": JSON})
    for method, path in (
        ("GET", "/broken"),
        ("HEAD", "/get-session"),
        ("OPTIONS", "/broken"),
        ("GET", "/get-session/"),
    ):
        client.request(method, f"/api/auth{path}")
assert [e.status for e in client.exchanges[-5:]] == [413, 500, 404, 404, 404]
for answer in client.exchanges:
    assert "x-request-id" in answer.response_headers and not LEAKS.search(answer.response_body.decode())
    assert not answer.response_body if answer.status == 404 else answer.json().keys() == {"message", "code"}
assert there is None or [answer.status_code for answer in lost] == [200, 503, 503]
assert not any(LEAKS.search(answer.text) for answer in lost or ())

forgotten = APIRouter(prefix="/api/auth")
forgotten.add_api_route("/delete-everything", lambda: None, methods=["POST"])
try:
    auth_app(Auth(Settings(environment="test"), *[None] * 4), [forgotten], guards=[])
    raise AssertionError("a route that names nobody was let in")
except ValueError as error:
    assert "POST /api/auth/delete-everything" in str(error)
print(
    "each fault is named by its field, ambiguous input refused, every error in one form that tells nothing of the inside"
)

# %% [markdown]
"""
## Your turn

Their next release will answer differently here and there, and so will yours. Write `breaks(recorded, answered)`:
where does `answered` break a client that was written against `recorded`? Both are JSON, already parsed. The result is
a list of places such as `body.user.name` and `body[2].id`, in any order.

- A member that is gone breaks; one that is new does not: clients ignore what they do not know.
- Another type breaks, also `null` where there was a value. JSON knows *number*, not int and float; true is no number.
- Where `null` was recorded, the client has learned nothing, so anything may come. The same for an empty list.
- Each element of a list must do for what the first recorded element did for.
- A recorded time (`2026-11-23T02:28:47.339Z`) may be another time, in exactly that form.
"""


# %% tags=["exercise"]
def breaks(recorded, answered) -> list[str]:
    return [] if recorded == answered else ["body"]  # replace this


# %%
@checker
def check_breaks(breaks):
    now, later, python = "2026-11-23T02:28:47.339Z", "2027-01-01T00:00:00.000Z", "2026-11-23T02:28:47.339000+00:00"
    user = {"name": "Ada", "image": None, "admin": False, "age": 36, "born": now, "tags": ["a"], "keys": []}
    cases = [
        ("the same", user, dict(user), []),
        ("another name and another time", user, user | {"name": "Bob", "born": later}, []),
        ("a new member", {"user": user}, {"user": user | {"nick": "A"}}, []),
        (
            "a member that is gone",
            {"user": user},
            {"user": {k: v for k, v in user.items() if k != "name"}},
            ["body.user.name"],
        ),
        ("null for a text", user, user | {"name": None}, ["body.name"]),
        ("an image where null was recorded", user, user | {"image": {"url": "x"}}, []),
        ("36.5 where 36 was recorded", user, user | {"age": 36.5}, []),
        ("true where 36 was recorded", user, user | {"age": True}, ["body.age"]),
        ("0 where false was recorded", user, user | {"admin": 0}, ["body.admin"]),
        ("a time with microseconds", user, user | {"born": python}, ["body.born"]),
        ("a time where any text was recorded", user, user | {"name": now}, []),
        ("a list where an object was recorded", user, [user], ["body"]),
        ("anything in a list that was empty", user, user | {"keys": [1, "b", None]}, []),
        ("a list that is empty now", user, user | {"tags": []}, []),
        ("elements after the first", user, user | {"tags": ["b", 1, "c", None]}, ["body.tags[1]", "body.tags[3]"]),
        ("objects in lists", [{"id": 1}], [{"id": 2}, {}, {"id": "3"}], ["body[1].id", "body[2].id"]),
        ("null where an object was recorded", {"user": user}, None, ["body"]),
        ("two faults at once", user, user | {"name": 1, "age": "1"}, ["body.age", "body.name"]),
        ("a time with a line feed behind it", now, now + chr(10), ["body"]),
    ]
    for what, recorded, answered, expected in cases:
        if sorted(found := breaks(recorded, answered)) != expected:
            return f"not yet: {what} should give {expected}, and gives {found}"
    return "right"


check_breaks(breaks)


# %% tags=["solution"]
def breaks(recorded, answered, place="body") -> list[str]:
    time_form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

    def kind(value):
        # bool first: in Python True is an int. A time is a kind of its own, and does where any text is wanted.
        for types, name in (
            (bool, "boolean"),
            ((int, float), "number"),
            (str, "text"),
            (list, "list"),
            (dict, "object"),
        ):
            if isinstance(value, types):
                return name
        return "null"

    if recorded is None:
        return []
    if kind(recorded) != kind(answered):
        return [place]
    if isinstance(recorded, str):
        return [place] if time_form.fullmatch(recorded) and not time_form.fullmatch(answered) else []
    if isinstance(recorded, list):
        elements = enumerate(answered if recorded else [])
        return [found for number, value in elements for found in breaks(recorded[0], value, f"{place}[{number}]")]
    if isinstance(recorded, dict):
        found = []
        for name, value in recorded.items():
            path = f"{place}.{name}"
            found += breaks(value, answered[name], path) if name in answered else [path]
        return found
    return []


assert check_breaks(breaks)

# %% [markdown]
"""
## Hand it over

- **Front end**: nothing changes. Compare `code`, show your own sentence for it; expect `VALIDATION_ERROR` to name
  fields, and 413, 500 and 503 in the same form, with `X-Request-Id`.
- **Reviewer**: an endpoint under `/api/auth` takes its body through `body(Model)` and raises `AuthError`; times leave
  through `iso`; a new code gets its words in `MESSAGES`.
- **Security reviewer**: only the paths in `FORMS` take what a form can send. What is stricter than Better Auth: a
  name given twice, NUL, text that is not UTF-8, nesting and size.
- **Test engineer**: `tests/contract` replays the recording, and runs the npm client; a difference on purpose stands
  there with its reason. A new release of the client means a new recording, then a comparison (your `breaks`).
- **Operator**: alert on 500, which is always a bug; 503 is the database, and its cause is in the log.

## Sources

Better Auth 1.7.25 and @better-fetch/fetch, their source, and exchanges recorded from a real server. RFC 9110, 15.5
and 15.6 (status codes), 10.2.3 (Retry-After). RFC 8259, 4 and 8; RFC 7493, 2 (names given twice, surrogates). WHATWG
URL, 5.1 (application/x-www-form-urlencoded). OWASP ASVS 5.0: 1.5.3 (parsers that agree), 15.3.5 (types), 15.3.7
(parameter pollution), 16.5.1 and 16.5.4 (generic errors, last resort).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail queue](mail_queue.ipynb) · [course map](../index.ipynb) · Next: [Cross-site requests](cross_site.ipynb)
"""
