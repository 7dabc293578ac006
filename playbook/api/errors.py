# %% [markdown]
"""
# Errors

Answer every failure of a service in one form that tells the client what to do next and a stranger nothing.

| | |
|---|---|
| **Use it when** | a client must react to a failure, or a response shows something of your inside |
| **You need** | [http_service](../foundations/http_service.ipynb), [resources](resources.ipynb) |
| **Time** | 20 minutes |
| **Topics** | errors, error handling, problem details, problem+json, status codes, exception handler, validation errors, field errors, json pointer, stack trace, information leak, request id, trace id, 400, 404, 413, 414, 422, 500, 503, retry-after, strict json, duplicate keys, unknown query parameter, nul byte, lone surrogate, deep nesting, denial of service |
| **Standard** | RFC 9457; RFC 6901; RFC 7493; RFC 8259; OWASP ASVS 5.0 16.5.1 |
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| `{"error": "..."}` where it happens | one line | a new form with every author; a program can only compare sentences |
| the framework's default | nothing to write | FastAPI has a text, a list and plain text, by who noticed; validation errors repeat what was sent |
| **problem details (RFC 9457)** | one form, a media type that says so, a type that a program can compare and a person can open | a catalogue to keep |
| 200 with `errors`, as GraphQL does | partial answers | caches, proxies, monitors and `raise_for_status` see success |

We take **problem details**, for every error, also those that no endpoint raises. Choose GraphQL's way when a request
asks for twenty things of which nineteen can be given.
"""

# %% [markdown]
"""
## See it break

The service as it stands, and one endpoint by a helpful colleague. Eight mistakes. Before you run the cell: how many
forms of an error does a client have to know, and what does it learn that it should not?
"""

# %%
from datetime import UTC, datetime

import sqlalchemy as sa
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from playbook.api.resources import JSON, MERGE_PATCH, complete_methods, resources
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.foundations.http_service import Caller, Transaction, anyone, create_app
from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show, show_http, table
from playbook.schema.identity import add_user

helpful = APIRouter(dependencies=[Depends(anyone)])


@helpful.get("/report")
def report(transact: Transaction):
    try:
        return transact(lambda session: session.scalar(sa.text("SELECT max(size) FROM organizations")))
    except Exception as error:
        return JSONResponse({"error": str(error)}, 500)


def service(engine=None, extra=(helpful,), last=lambda app: None):
    engine, clock = engine or make_engine(lesson_url()), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    ids = Identifiers(clock, SeededBytes(1))
    Base.metadata.create_all(engine)
    user = transaction(engine, lambda session: add_user(session, clock, ids, "alice@example.com", "Alice"))
    alice = Caller(user.id, user.name)
    app = create_app(engine, [resources, *extra], clock, ids, lambda request: alice, lambda *asked: True)
    complete_methods(app), last(app)
    return app


MISTAKES = {
    "a path that is not there": ("GET", "/nowhere", None),
    "a field too many": ("POST", "/organizations", b'{"slug": "acme", "name": "Acme", "password": "hunter2"}'),
    "half of an emoji": ("POST", "/organizations", rb'{"slug": "acme", "name": "\ud83d"}'),
    "a number without end": ("POST", "/organizations", b'{"slug": "acme", "name": 1e999}'),
    "two megabytes": ("POST", "/organizations", b'"' + b"x" * 2_000_000 + b'"'),
    "the colleague's report": ("GET", "/report", None),
    "a name given twice": ("POST", "/organizations", b'{"slug": "acme", "name": "Acme", "name": "Evil"}'),
    "a filter spelled wrong": ("GET", "/packages?organisation=nobody", None),
}


def form(answer):
    if "json" not in answer.headers["content-type"]:
        return "text"
    body = answer.json()
    return body.get("type") or ", ".join(f"{key}: {type(value).__name__}" for key, value in body.items())


def make_mistakes(app):
    with serving(app) as client:
        for name, (method, path, body) in MISTAKES.items():
            answer = client.request(method, path, content=body, headers={"content-type": JSON})
            leaks = [word for word in ("hunter2", "SELECT") if word in answer.text]
            row = {"mistake": name, "status": answer.status_code, "body": form(answer), "leaks": ", ".join(leaks)}
            yield row | ({"body": "(success)"} if answer.is_success else {})


show(table(make_mistakes(service())))

# %% [markdown]
"""
Four forms, and no media type that tells them from a success. Two answers are 500 although the client was wrong, so
somebody is woken at night: half an emoji could not be encoded for the database, and the endless number not even for
the report of the error. A password was sent back, and a stranger reads our SQL. The last two are worse, because they
are silent: a proxy that checks one `name` and a service that takes the other disagree about what was allowed, and a
filter that is not known is left out, so that the answer has everybody's packages.

## Build it

First the catalogue. A problem has a **type**, a URI that programs compare and people open. Each says what the client
should do, since that is the only question a client has. A later page adds its own with one line.
"""

# %% tags=["export"]
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ProblemType:
    """One kind of failure. `slug` is the last part of its URI, `client` says what who gets it should do."""

    slug: str
    status: int
    title: str
    client: str

    @property
    def uri(self) -> str:
        """The `type` member; `about:blank` says no more than the status (RFC 9457, 4.2.1)."""
        return f"/problems/{self.slug}" if self.slug else "about:blank"


PROBLEM_TYPES: dict[str, ProblemType] = {}


def problem_type(slug: str, status: int, title: str, client: str) -> ProblemType:
    """Add a type to the catalogue, or replace its texts. Raises ValueError if `slug` has another status already."""
    if slug in PROBLEM_TYPES and PROBLEM_TYPES[slug].status != status:
        raise ValueError(f"the problem type {slug!r} has the status {PROBLEM_TYPES[slug].status}: choose another slug")
    PROBLEM_TYPES[slug] = ProblemType(slug, status, title, client)
    return PROBLEM_TYPES[slug]


# %% tags=["export"]
MALFORMED = problem_type("malformed-request", 400, "The request cannot be read", "Correct it; do not send it again.")
NOT_SIGNED_IN = problem_type("not-signed-in", 401, "Nobody is signed in", "Sign in, then send the request again.")
NOT_PERMITTED = problem_type("not-permitted", 403, "You may not do this", "Ask an owner for the permission.")
NOT_FOUND = problem_type("not-found", 404, "There is nothing here", "Check the URL; it may have been deleted.")
NOT_A_METHOD = problem_type("method-not-allowed", 405, "Not a method of this URL", "Use one that `Allow` names.")
NOT_ACCEPTABLE = problem_type("not-acceptable", 406, "Not given in the type asked for", "Accept application/json.")
CONFLICT = problem_type("conflict", 409, "The present state forbids it", "Read the resource, then decide anew.")
TOO_LARGE = problem_type("too-large", 413, "The body is too large", "Send less, or in parts.")
URL_TOO_LONG = problem_type("url-too-long", 414, "The URL is too long", "Ask for less at once.")
WRONG_MEDIA_TYPE = problem_type("wrong-media-type", 415, "Not a type taken here", "Send what `Accept` names.")
INVALID = problem_type("invalid-input", 422, "Some of the input is not acceptable", "Correct what `errors` names.")
INTERNAL = problem_type("internal-error", 500, "The service failed", "Report `request_id`; try again later.")
UNAVAILABLE = problem_type("unavailable", 503, "Not possible just now", "Try again after `Retry-After` seconds.")
GENERAL = {kind.status: kind for kind in PROBLEM_TYPES.values()}  # for an error that names no type

# %% [markdown]
"""
Code raises `Problem(CONFLICT, "why")`. An `HTTPException`, as FastAPI raises it, gets the type of its status and
keeps its headers. From 500 upwards only a `Problem`, whose author chose the words, has a detail; an unexpected
error's text is for the log.
"""

# %% tags=["export"]
import json
from collections.abc import Mapping
from http.client import responses
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from playbook.foundations.http_service import request_id

PROBLEM_JSON = "application/problem+json"


class Problem(HTTPException):
    """An error with its type. `members` are extension members of the answer (RFC 9457, 3.2)."""

    def __init__(
        self, kind: ProblemType, detail: str = "", headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(kind.status, detail, headers)
        self.kind, self.members = kind, members


# %% tags=["export"]
def problem_response(error: HTTPException) -> Response:
    """`error` as problem+json with its headers; a status below 400 is passed on without a body."""
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    status, phrase = error.status_code, responses.get(error.status_code, "Error")
    kind = error.kind if isinstance(error, Problem) else GENERAL.get(status, ProblemType("", status, phrase, ""))
    answer: dict[str, Any] = {"type": kind.uri, "title": kind.title, "status": status}
    if error.detail not in ("", phrase) and (isinstance(error, Problem) or status < 500):
        answer["detail"] = str(error.detail)
    answer["request_id"] = request_id.get()
    if isinstance(error, Problem):
        answer |= error.members
    # ASCII only: whatever came in, the report of an error can be encoded.
    return Response(json.dumps(answer), status, error.headers, PROBLEM_JSON)


# %% [markdown]
"""
Validation errors become a list, so that a form can show each beside its field; a JSON Pointer says where. What was
sent is never repeated: Pydantic's messages do not, but your own validators may, and then a plain sentence replaces
them. At most twenty: 80,000 unknown fields must not buy an answer of ten megabytes.
"""

# %% tags=["export"]
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from urllib.parse import quote

MAX_ERRORS = 20


def pointer(steps: Iterable[object]) -> str:
    """A JSON Pointer as URI fragment: `#/a~1b` is the member "a/b" (RFC 6901, 6). Long names are cut."""
    escaped = (str(step)[:100].replace("~", "~0").replace("/", "~1") for step in steps)
    return "#" + "".join(f"/{quote(step, safe='~', errors='replace')}" for step in escaped)


def texts_in(value: object) -> Iterator[str]:
    """The values in what was sent, as texts."""
    parts = list(value.values()) if isinstance(value, dict) else value
    return (text for part in parts for text in texts_in(part)) if isinstance(parts, list) else iter([str(value)])


def repeats(message: str, value: object) -> bool:
    """Whether `message` has one of the values in `value`. Of more than 100 values it is assumed, not looked up."""
    texts = list(islice(texts_in(value), 101))
    return len(texts) > 100 or any(len(text) > 3 and text in message for text in texts)


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Pydantic's errors as `{"in": "body", "pointer": "#/name", "detail": ...}`, or `name` for a parameter."""
    found = []
    for error in errors[:MAX_ERRORS]:
        place, *steps = error["loc"]
        message = str(error["msg"])
        if repeats(message, error.get("input")):
            message = "This value is not acceptable"
        where = {"pointer": pointer(steps)} if place == "body" else {"name": ".".join(map(str, steps))}
        found.append({"in": str(place), **where, "detail": message})
    return found


# %% [markdown]
"""
Then strict input, once for all routes. RFC 8259 lets a parser do as it likes with names given twice and half
characters; RFC 7493 (I-JSON) forbids them, and so do we: who reads differently can be lied to. Depth and numbers get
a bound. The parser goes first, with hooks, because the pattern for strings is fast on valid JSON only.
"""

# %% tags=["export"]
MAX_DEPTH, MAX_NUMBER, MAX_PARTS = 32, 40, 5000  # levels; characters; commas, colons and opening brackets
NOT_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^][{}"]+')
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`. Raises ValueError for a name that is given twice (RFC 7493, 2.3)."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def number(literal: str) -> float:
    """Raises ValueError for NaN, for what is infinite as a double (1e999), and for more than MAX_NUMBER characters."""
    if len(literal) > MAX_NUMBER or not abs(value := float(literal)) < float("inf"):
        raise ValueError("a number is too large, too long or no number")
    return value


# %% tags=["export"]
def json_fault(body: bytes) -> str:
    """Why `body` is not taken as JSON; empty when it is."""
    opening = body.count(b"[") + body.count(b"{")
    if opening + body.count(b",") + body.count(b":") > MAX_PARTS:
        return f"it has more than {MAX_PARTS} parts"
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_int=number, parse_float=number, parse_constant=number)
        brackets = NOT_BRACKETS.sub("", text) if opening > MAX_DEPTH else ""
        if max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0) > MAX_DEPTH:
            raise RecursionError
        if NUL.search(text):
            raise ValueError("a text contains the character NUL")
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # raises for half of a pair
    except RecursionError:
        return f"arrays and objects are nested deeper than {MAX_DEPTH} levels"
    except UnicodeError:
        return "a text is not UTF-8, or has half of a surrogate pair"
    except ValueError as error:
        return str(error)
    return ""


# %% [markdown]
"""
The URL is input too: what is not UTF-8 or contains NUL is refused before anybody compares or stores it. A query
parameter that the route does not declare in the OpenAPI document is an error, as an unknown field is.
"""

# %% tags=["export"]
from functools import lru_cache
from urllib.parse import parse_qsl, unquote_to_bytes

from fastapi import FastAPI
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_URL, MAX_PARAMETERS = 8000, 100  # octets, what RFC 9110, 4.1 asks everybody to support; in one query
compiled = lru_cache(compile_path)


def url_fault(scope: Scope) -> Problem | None:
    """The problem of a URL that is too long, is not UTF-8, contains NUL, or is no request target (RFC 9112, 3.2)."""
    raw = (scope.get("raw_path") or quote(scope["path"]).encode()) + b"?" + scope["query_string"]
    if len(raw) > MAX_URL or raw.count(b"&") >= MAX_PARAMETERS:
        return Problem(URL_TOO_LONG, f"at most {MAX_URL} octets and {MAX_PARAMETERS} parameters are taken")
    if {"\0", "\ufffd"} & set(unquote_to_bytes(raw).decode("utf-8", "replace")):
        return Problem(MALFORMED, "the URL is not UTF-8, or contains the character NUL")
    if not raw.startswith(b"/") or b"#" in raw:
        return Problem(MALFORMED, "the request target is not a path, or has a fragment")
    return None


# %% tags=["export"]
def query_fault(scope: Scope) -> Problem | None:
    """The problem of a query parameter that is unknown, given twice where one is taken, or an odd number (`1_0`)."""
    app, method = scope["app"], scope["method"].lower()
    for template, operations in app.openapi()["paths"].items() if scope["query_string"] else ():
        if method in operations and compiled(template)[0].match(scope["path"]):
            break
    else:
        return None
    parameters = [p for p in operations[method].get("parameters", ()) if p["in"] == "query"]
    known = {p["name"]: "array" in json.dumps(p["schema"]) for p in parameters}  # may it be given again?
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given, numbers = (
        [name for name, _ in pairs],
        {p["name"] for p in parameters if p["schema"].get("type") == "integer"},
    )
    faults = {name: f"unknown; known: {', '.join(known) or 'none'}" for name in given if name not in known}
    faults |= {name: "given twice" for name in given if not known.get(name, True) and given.count(name) > 1}
    faults |= {n: "not an integer" for n, value in pairs if n in numbers and not re.fullmatch("-?[0-9]+", value)}
    errors = [{"in": "query", "name": name[:100], "detail": why} for name, why in faults.items()]
    return Problem(INVALID, errors=errors[:MAX_ERRORS]) if errors else None


# %% [markdown]
"""
The body is checked when the route first reads it, where the handlers see the `Problem`. Who asks is known by then.
"""

# %% tags=["export"]
from starlette.datastructures import Headers, MutableHeaders

from playbook.foundations.http_service import off_the_loop

IS_JSON = re.compile(r"application/(?:json|[^;\s]+\+json)\s*(?:;|$)", re.IGNORECASE)


class StrictInput:
    """ASGI middleware: refuses URLs and JSON bodies that two readers could understand differently."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (fault := url_fault(scope) or query_fault(scope)) is not None:
            return await problem_response(fault)(scope, receive, send)
        if IS_JSON.match(Headers(scope=scope).get("content-type", "")):
            receive = checked_body(receive)
        await self.app(scope, receive, send)


# %% tags=["export"]
def checked_body(receive: Receive) -> Receive:
    """`receive` that gives the whole body at once and raises Problem when it is not strict JSON."""
    done = False

    async def receive_checked() -> Message:
        nonlocal done
        if done:
            return await receive()
        done, body, more = True, bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client has gone
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body and (fault := await off_the_loop(json_fault, bytes(body))):
            raise Problem(MALFORMED, fault)
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return receive_checked


# %% [markdown]
"""
`OperationalError` is the database's "not now": conflicts after the last attempt, timeouts, no connection. A
`TimeoutError` is an empty pool. They will pass: 503 with `Retry-After`. Anything else is a bug, and 500.
"""

# %% tags=["export"]
import logging

import sqlalchemy as sa
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect, Request

log = logging.getLogger("pantry.errors")


async def answer_error(request: Request, error: Exception) -> Response:
    """The exception handler of all that is listed in `install_problems`."""
    if isinstance(error, RequestValidationError):
        error = Problem(INVALID, errors=field_errors(error.errors()))
    elif isinstance(error, sa.exc.SQLAlchemyError):
        log.error("%s: %s", request_id.get(), type(error).__name__, exc_info=error)
        error = Problem(UNAVAILABLE, headers={"Retry-After": "1"})  # seconds; clients add jitter
    assert isinstance(error, HTTPException)
    return problem_response(error)


# %% [markdown]
"""
Some answers are made beyond all handlers and middleware, in plain text: FastAPI's 413, Starlette's 500. So the
outermost layer has the last word: an error of any other form keeps its status and headers and loses its body.
"""


# %% tags=["export"]
class OnlyProblems:
    """ASGI, outermost: an error that is not problem+json is replaced by the problem of its status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal replaced
            if message["type"] != "http.response.start" or message["status"] < 400:
                return None if replaced else await send(message)
            headers = MutableHeaders(raw=message["headers"])
            if headers.get("content-type") == PROBLEM_JSON:
                return await send(message)
            replaced = True
            response = problem_response(HTTPException(message["status"], ""))
            del headers["content-type"], headers["content-length"], headers["content-encoding"]  # of what is dropped
            headers.setdefault("X-Request-Id", request_id.get())  # what fails outside of RequestId has none
            response.raw_headers += headers.raw
            await response(scope, receive, send)

        try:
            await self.app(scope, receive, send_problem)
        except ClientDisconnect:  # in the middle of its request: nobody is there to answer, and nothing has failed
            log.info("%s: the client has gone", request_id.get())
        except Exception as error:
            log.error("%s: %s", request_id.get(), type(error).__name__)  # the server logs the traceback
            raise


# %% [markdown]
"""
Each type has a page, and the OpenAPI document says of every route that its errors are problems.
"""

# %% tags=["export"]
from html import escape

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse
from starlette.middleware import Middleware

from playbook.foundations.http_service import anyone

problem_pages = APIRouter(tags=["problems"], dependencies=[Depends(anyone)])


@problem_pages.get("/problems/{slug}", response_class=HTMLResponse)
def read_problem_type(slug: str) -> str:
    """What one type means and what to do about it, for people."""
    if slug not in PROBLEM_TYPES:
        raise Problem(NOT_FOUND, "there is no such type of problem")
    title, client = escape(PROBLEM_TYPES[slug].title), escape(PROBLEM_TYPES[slug].client)
    return f"<!doctype html><title>{title}</title><h1>{PROBLEM_TYPES[slug].status} {title}</h1><p>{client}"


# %% tags=["export"]
def describe_problems(document: dict[str, Any]) -> None:
    """Write into an OpenAPI document that every error of every operation is a problem."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None), schemas.pop("ValidationError", None)
    members: dict[str, Any] = {name: {"type": "string"} for name in ("type", "title", "detail", "request_id")}
    field = {"type": "object", "properties": {n: {"type": "string"} for n in ("in", "name", "pointer", "detail")}}
    members |= {"status": {"type": "integer"}, "errors": {"type": "array", "items": field}}
    schemas["Problem"] = {"type": "object", "properties": members, "required": ["type", "title", "status"]}
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for answers in (o["responses"] for path in document["paths"].values() for o in path.values()):
        answers["default"] = {"description": "Any error, as a problem (RFC 9457)."}
        for status in (status for status in answers if status >= "4"):
            answers[status]["content"] = content


# %% tags=["export"]
def install_problems(app: FastAPI) -> None:
    """Make every error of `app` problem+json and its input strict. Before or after `complete_methods`, once."""
    app.state.describers = [describe_problems]  # what a later page writes into the document goes in front
    app.include_router(problem_pages)
    app.user_middleware.append(Middleware(StrictInput))  # innermost: its answers get a request id
    for kind in (HTTPException, RequestValidationError, sa.exc.OperationalError, sa.exc.TimeoutError):
        app.add_exception_handler(kind, answer_error)
    build_stack, build_document = app.build_middleware_stack, app.openapi  # wrapped: FastAPI has no place for it

    def openapi() -> dict[str, Any]:
        document = build_document()  # the same object until a route is added
        if "Problem" not in document.get("components", {}).get("schemas", {}):
            for describe in app.state.describers:
                describe(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    app.build_middleware_stack = lambda: OnlyProblems(build_stack())  # type: ignore[method-assign]


# %% [markdown]
"""
## See it work

The same mistakes. Then one answer in full, with three wrong fields, the page of its type, and the catalogue:
"""

# %%
show(table(make_mistakes(service(last=install_problems))))
with serving(service(last=install_problems)) as client:
    client.post("/organizations", json={"slug": "Acme", "name": 5, "a/b": "hunter2"})
    client.get("/problems/invalid-input")
    show_http(client)
show(table([(kind.status, kind.slug, kind.client) for kind in GENERAL.values()], ("status", "type", "what to do")))

# %% [markdown]
"""
What does a hostile body cost? A megabyte each of what is worst for one of the checks, in processor time:
"""

# %%
import time
import timeit

HOSTILE = [b"[" * 1_000_000, b"[" * 500_000 + b"]" * 500_000, b"[" + b"[]," * 300_000 + b"[]]", b"9" * 1_000_000]
HOSTILE += [b"[" + b"{}," * 300_000 + b"{}]", b"[" + b"1," * 500_000 + b"1]", b'"' + rb"\"" * 500_000]
HOSTILE += [b'"' + b"\\\\" * 500_000 + b'"', b'"' + rb"\ud83d\ude00" * 80_000 + b'"']


costs = [timeit.timeit(lambda: json_fault(body), timer=time.thread_time, number=1) for body in HOSTILE]
print("each of them in less than a second:", max(costs) < 1)

# %% [markdown]
"""
## On PostgreSQL

Four ways in which a database says "not now", made for real: a row that somebody else changes between our read and our
write, each time; a statement that takes too long; a pool that is empty; a database that is gone.
"""

# %%
from logging.handlers import BufferingHandler


def database_failures(url):
    engine = make_engine(url, pool_size=2, max_overflow=0, pool_timeout=0.1)
    broken = APIRouter(dependencies=[Depends(anyone)])
    rename = sa.text("UPDATE users SET name = name || '!'")

    @broken.get("/overtaken")
    def overtaken():
        def work(session):
            session.execute(sa.text("SELECT name FROM users")).all()
            with engine.begin() as somebody_else:
                somebody_else.execute(rename)
            session.execute(rename)

        transaction(engine, work, attempts=2)

    @broken.get("/slow")
    def slow(transact: Transaction):
        transact(lambda session: session.execute(sa.text("SET LOCAL statement_timeout = 20; SELECT pg_sleep(60)")))

    with serving(service(engine, [broken], install_problems)) as client:
        client.get("/overtaken"), client.get("/slow")
        with engine.connect(), engine.connect():
            client.get("/packages")
        with sa.create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(sa.text(f'DROP DATABASE "{engine.url.database}" WITH (FORCE)'))
        client.get("/packages")
        return client.exchanges


log.handlers, log.propagate = [BufferingHandler(capacity=1000)], False
failed = on_postgres(database_failures) or []
causes = {record.args[0]: record.exc_info[1] for record in log.handlers[0].buffer}
for answer in failed:
    cause, after = causes[answer.json()["request_id"]], answer.response_headers["retry-after"]
    print(f"{answer.path}: {answer.status}, again after {after} s; log: {type(getattr(cause, 'orig', cause)).__name__}")

# %% [markdown]
"""
## Check it

Every route, generated from the app itself, with every mistake that can be made without knowing the route.
"""

# %%
from fastapi.routing import iter_route_contexts

LEAKS = re.compile(r"Traceback|File \"|\.py|sqlalchemy|duckdb|psycopg|SELECT|INSERT|hunter2", re.IGNORECASE)
BODIES = [b"", b"{", b"[]", b"null", b"\xff", b'{"a": 1, "a": 2}', b"[NaN]", b'"\\u0000"', b'{"a": 1e999}']
BODIES += [b'["\\ud800"]', b'{"hunter": "hunter2"}', b"x" * 1_100_000, b"[" * 100_000 + b"]" * 100_000, b"9" * 5000]
URLS = ["{}?hunter=hunter2", "{}/%00", "{}/%ff", "{}?a=%00", "{}/missing/missing", "{}?" + "a" * 9000]


def wrong_requests(app):
    """(method, URL, media type, body) for each route that is documented, and each mistake."""
    for route in iter_route_contexts(app.routes):
        if route.path in app.openapi()["paths"]:
            path = re.sub(r"{.*?}", "missing", route.path)
            yield "BREW", path, JSON, b""
            yield from ((method, url.format(path), JSON, b"") for method in route.methods for url in URLS)
            for method in route.methods & {"POST", "PUT", "PATCH"}:
                yield from ((method, path, kind, body) for kind in (JSON, MERGE_PATCH, "text/plain") for body in BODIES)


with serving(app := service(last=install_problems)) as client:
    for method, url, media_type, body in wrong_requests(app):
        answer = client.request(method, url, headers={"content-type": media_type}, content=body)
        problem, where = answer.json(), f"{method} {url[:60]} {body[:20]!r}: {answer.status_code}"
        assert 400 <= answer.status_code < 500 and answer.headers["content-type"] == PROBLEM_JSON, where
        assert (problem["status"], problem["type"]) == (answer.status_code, GENERAL[answer.status_code].uri), where
        assert problem["request_id"] == answer.headers["x-request-id"] and not LEAKS.search(answer.text), where
assert all(answer.status == 503 and not LEAKS.search(answer.response_body.decode()) for answer in failed)
print("every wrong request to every route is refused as a problem, named by its type, and told nothing of the inside")

# %% [markdown]
"""
## Your turn

The other end. Write `read_problem(response)` for a front end, which gets answers from the service and from whatever
stands before it. It returns a dictionary:

- `text`: what to show. The detail, or else the title; for an answer that is no problem, `"HTTP 502"` or whatever it
  is.
- `fields`: for each error in the body, a tuple of the steps to the field (`("releases", "0", "a/b")`) and its text.
- `again`: the seconds after which to send the same request again, or None if that cannot help. The status that counts
  is the response's, not the member: a proxy may have changed it, and says so only there.
"""


# %% tags=["exercise"]
def read_problem(response) -> dict:
    problem = response.json()
    return {"text": problem["detail"], "fields": {e["pointer"]: e["detail"] for e in problem["errors"]}, "again": 1}


# %%
import httpx


@checker
def check_read_problem(read_problem):
    def read(status=422, kind=PROBLEM_JSON, headers=(), content=None, **members):
        content = json.dumps({"type": "about:blank", "status": 422, **members}) if content is None else content
        return read_problem(httpx.Response(status, headers={"content-type": kind, **dict(headers)}, content=content))

    with serving(service(last=install_problems)) as client:
        told = read_problem(client.post("/organizations", json={"slug": "acme", "name": "Acme", "a/b~": 1}))
    if told["fields"] != {("a/b~",): "Extra inputs are not permitted"}:
        return f'not yet: the field is ("a/b~",), unescaped, and not {list(told["fields"])}'
    if told["text"] != "Some of the input is not acceptable" or told["again"] is not None:
        return "not yet: without a detail the title is shown, and wrong input stays wrong however often it is sent"
    place = {"in": "body", "pointer": "#/releases/0/%C3%A9~01", "detail": "bad"}
    other = {"in": "query", "name": "limit", "detail": "bad"}
    if read(errors=[place, other])["fields"] != {("releases", "0", "é~1"): "bad"}:
        return "not yet: ~01 is ~1, percent-encoding comes off first, and a parameter is no field of the body"
    if read(errors=[{"in": "body", "pointer": "#", "detail": "bad"}])["fields"] != {(): "bad"}:
        return "not yet: the pointer # is the whole body: no step at all"
    for content, kind in (("<h1>Bad Gateway</h1>", "text/html"), ("{", PROBLEM_JSON), ("[1]", PROBLEM_JSON)):
        if read(502, kind, content=content)["text"] != "HTTP 502":
            return f"not yet: {content} as {kind} is no problem: say HTTP 502"
    if read(422, "application/json", detail="the detail of another service")["text"] != "HTTP 422":
        return "not yet: only application/problem+json is a problem; elsewhere `detail` may mean anything"
    if read(422, PROBLEM_JSON + "; charset=utf-8", detail="no")["text"] != "no":
        return "not yet: a media type may have parameters"
    if read(503, headers={"Retry-After": "7"})["again"] != 7 or read(429, headers={"Retry-After": "0"})["again"] != 0:
        return "not yet: Retry-After says when the same request may be sent again"
    if read(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})["again"] is not None:
        return "not yet: Retry-After may be a date; without a clock that both trust, do not retry by yourself"
    return "right"


check_read_problem(read_problem)


# %% tags=["solution"]
def read_problem(response) -> dict:
    from urllib.parse import unquote

    def steps(pointer):
        # The percent-encoding is the URI's, so it comes off first. ~1 before ~0, or "~01", which stands for "~1",
        # would turn into "/".
        parts = unquote(pointer.removeprefix("#")).split("/")[1:]
        return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)

    problem = None
    if response.headers.get("content-type", "").split(";")[0].strip().lower() == PROBLEM_JSON:
        try:
            problem = response.json()
        except ValueError:
            pass
    if not isinstance(problem, dict):
        problem = {"title": f"HTTP {response.status_code}"}
    after = response.headers.get("retry-after", "")
    return {
        "text": problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}",
        "fields": {steps(e["pointer"]): e["detail"] for e in problem.get("errors", ()) if "pointer" in e},
        "again": int(after) if after.isascii() and after.isdigit() else None,
    }


assert check_read_problem(read_problem)

# %% [markdown]
"""
## Hand it over

- **Front end**: compare `type`, show `detail` or `title`, put `errors` beside their fields, show `request_id`; expect
  other forms from proxies.
- **Reviewer**: an endpoint raises `Problem` with a type of the catalogue; no `except Exception`, no sentence made
  from an exception's text.
- **Security reviewer**: search for a `Problem` of a 5xx type that is raised with a detail; the check above is the
  test that nothing else gets out.
- **Test engineer**: `tests/api/test_every_route.py` asks every route; a new route needs no new test of these rules.
- **Operator**: alert on 500, which is always a bug; 503 is load or the database, its cause is in the log under the
  request id.

## Sources

RFC 9457 (3.1 members, 3.2 extensions, 4.2.1 about:blank). RFC 6901, 4 and 6. RFC 7493, 2. RFC 8259, 4 and 8.2. RFC
9110, 4.1 (length of a URI), 10.2.3 (Retry-After), 15.5 and 15.6 (status codes). OWASP ASVS 5.0, 2.2.1 (input
validation) and 16.5.1 (generic errors). PostgreSQL documentation, appendix A (SQLSTATE).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Representations](representations.ipynb) · [course map](../index.ipynb) · Next: [Pagination](pagination.ipynb)
"""
