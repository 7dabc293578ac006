"""Every failure as problem details (RFC 9457), and input that two readers cannot understand differently."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from http.client import responses
from itertools import accumulate, islice
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.pantry.http import anyone, off_the_loop, request_id

# Four forms, and no media type that tells them from a success. Two answers are 500 although the client was wrong, so
# somebody is woken at night: half an emoji could not be encoded for the database, and the endless number not even for
# the report of the error. A password was sent back, and a stranger reads our SQL. The last two are worse, because
# they are silent: a proxy that checks one `name` and a service that takes the other disagree about what was allowed,
# and a filter that is not known is left out, so that the answer has everybody's packages.
#
# First the catalogue. A problem has a **type**, a URI that programs compare and people open. Each says what the
# client should do, since that is the only question a client has. A later page adds its own with one line.


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


# Code raises `Problem(CONFLICT, "why")`. An `HTTPException`, as FastAPI raises it, gets the type of its status and
# keeps its headers. From 500 upwards only a `Problem`, whose author chose the words, has a detail; an unexpected
# error's text is for the log.


PROBLEM_JSON = "application/problem+json"


class Problem(HTTPException):
    """An error with its type. `members` are extension members of the answer (RFC 9457, 3.2)."""

    def __init__(
        self, kind: ProblemType, detail: str = "", headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(kind.status, detail, headers)
        self.kind, self.members = kind, members


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


# Validation errors become a list, so that a form can show each beside its field; a JSON Pointer says where. What was
# sent is never repeated: Pydantic's messages do not, but your own validators may, and then a plain sentence replaces
# them. At most twenty: 80,000 unknown fields must not buy an answer of ten megabytes.


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


# Then strict input, once for all routes. RFC 8259 lets a parser do as it likes with names given twice and half
# characters; RFC 7493 (I-JSON) forbids them, and so do we: who reads differently can be lied to. Depth and numbers
# get a bound. The parser goes first, with hooks, because the pattern for strings is fast on valid JSON only.


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


# The URL is input too: what is not UTF-8 or contains NUL is refused before anybody compares or stores it. A query
# parameter that the route does not declare in the OpenAPI document is an error, as an unknown field is.


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


# The body is checked when the route first reads it, where the handlers see the `Problem`. Who asks is known by then.


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


# `OperationalError` is the database's "not now": conflicts after the last attempt, timeouts, no connection. A
# `TimeoutError` is an empty pool. They will pass: 503 with `Retry-After`. Anything else is a bug, and 500.


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


# Some answers are made beyond all handlers and middleware, in plain text: FastAPI's 413, Starlette's 500. So the
# outermost layer has the last word: an error of any other form keeps its status and headers and loses its body.


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


# Each type has a page, and the OpenAPI document says of every route that its errors are problems.


problem_pages = APIRouter(tags=["problems"], dependencies=[Depends(anyone)])


@problem_pages.get("/problems/{slug}", response_class=HTMLResponse)
def read_problem_type(slug: str) -> str:
    """What one type means and what to do about it, for people."""
    if slug not in PROBLEM_TYPES:
        raise Problem(NOT_FOUND, "there is no such type of problem")
    title, client = escape(PROBLEM_TYPES[slug].title), escape(PROBLEM_TYPES[slug].client)
    return f"<!doctype html><title>{title}</title><h1>{PROBLEM_TYPES[slug].status} {title}</h1><p>{client}"


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
