"""Every failure as problem details (RFC 9457): one catalogue of types, one form, nothing of the inside in it."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from http.client import responses
from itertools import islice
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.foundations.deny_by_default import anyone
from playbook.foundations.request_and_transaction import request_id

# The catalogue. A problem has a **type**, a URI that programs compare and people open. Each says what the client should
# do, since that is the only question a client has.


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


# An error that names no type gets the one of its status.
MALFORMED = ProblemType("malformed-request", 400, "The request cannot be read", "Correct it; do not send it again.")
NOT_SIGNED_IN = ProblemType("not-signed-in", 401, "Nobody is signed in", "Sign in, then send the request again.")
NOT_PERMITTED = ProblemType("not-permitted", 403, "You may not do this", "Ask an owner for the permission.")
NOT_FOUND = ProblemType("not-found", 404, "There is nothing here", "Check the URL; it may have been deleted.")
NOT_A_METHOD = ProblemType("method-not-allowed", 405, "Not a method of this URL", "Use one that `Allow` names.")
NOT_ACCEPTABLE = ProblemType("not-acceptable", 406, "Not given in the type asked for", "Accept application/json.")
CONFLICT = ProblemType("conflict", 409, "The present state forbids it", "Read the resource, then decide anew.")
TOO_LARGE = ProblemType("too-large", 413, "The body is too large", "Send less, or in parts.")
URL_TOO_LONG = ProblemType("url-too-long", 414, "The URL is too long", "Ask for less at once.")
WRONG_MEDIA_TYPE = ProblemType("wrong-media-type", 415, "Not a type taken here", "Send what `Accept` names.")
INVALID = ProblemType("invalid-input", 422, "Some of the input is not acceptable", "Correct what `errors` names.")
INTERNAL = ProblemType("internal-error", 500, "The service failed", "Report `request_id`; try again later.")
UNAVAILABLE = ProblemType("unavailable", 503, "Not possible just now", "Try again after `Retry-After` seconds.")
GENERAL = {
    kind.status: kind
    for kind in (
        MALFORMED,
        NOT_SIGNED_IN,
        NOT_PERMITTED,
        NOT_FOUND,
        NOT_A_METHOD,
        NOT_ACCEPTABLE,
        CONFLICT,
        TOO_LARGE,
        URL_TOO_LONG,
        WRONG_MEDIA_TYPE,
        INVALID,
        INTERNAL,
        UNAVAILABLE,
    )
}

# More special ones, which only their own module raises.
BAD_CURSOR = ProblemType("bad-cursor", 400, "The cursor cannot be used here", "Start again without `cursor`.")
BAD_KEY = ProblemType("bad-idempotency-key", 400, "The Idempotency-Key is missing or malformed", "Send a good one.")
IN_FLIGHT = ProblemType("in-flight", 409, "The first request is still being worked on", "Repeat it a little later.")
CHANGED = ProblemType("precondition-failed", 412, "It has changed since you read it", "Read it again, merge, retry.")
WEAKENED = ProblemType("weak-tag", 412, "Nothing has changed, but the tag is weak", "Send it without `W/`.")
KEY_REUSED = ProblemType("key-reused", 422, "The key belongs to another request", "Use a new key for a new request.")
UNCONDITIONAL = ProblemType("precondition-required", 428, "Say what you change", "Send `If-Match` with the ETag.")
TOO_MANY = ProblemType("too-many-requests", 429, "Too many requests", "Try again after `Retry-After` seconds.")
HEAD_TOO_LARGE = ProblemType("head-too-large", 431, "A field of the head is too large", "Send fewer, shorter fields.")
SPECIAL = (TOO_MANY, HEAD_TOO_LARGE, BAD_CURSOR, BAD_KEY, IN_FLIGHT, CHANGED, WEAKENED, KEY_REUSED, UNCONDITIONAL)
PROBLEM_TYPES = {kind.slug: kind for kind in (*GENERAL.values(), *SPECIAL)}


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


PROBLEM_CONTENT = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}  # in an OpenAPI document


def describe_problems(document: dict[str, Any]) -> None:
    """Write into an OpenAPI document that every error of every operation is a problem."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None), schemas.pop("ValidationError", None)
    members: dict[str, Any] = {name: {"type": "string"} for name in ("type", "title", "detail", "request_id")}
    field = {"type": "object", "properties": {n: {"type": "string"} for n in ("in", "name", "pointer", "detail")}}
    members |= {"status": {"type": "integer"}, "errors": {"type": "array", "items": field}}
    schemas["Problem"] = {"type": "object", "properties": members, "required": ["type", "title", "status"]}
    for answers in (o["responses"] for path in document["paths"].values() for o in path.values()):
        answers["default"] = {"description": "Any error, as a problem (RFC 9457)."}
        for status in (status for status in answers if status >= "4"):
            answers[status]["content"] = PROBLEM_CONTENT


def install_problems(app: FastAPI) -> None:
    """Make every error of `app` problem+json, and say so in its OpenAPI document. Once."""
    app.include_router(problem_pages)
    for kind in (HTTPException, RequestValidationError, sa.exc.OperationalError, sa.exc.TimeoutError):
        app.add_exception_handler(kind, answer_error)
    complete_document(app, describe_problems)
    build_stack = app.build_middleware_stack  # wrapped: FastAPI has no place for what is outside of its own 500
    app.build_middleware_stack = lambda: OnlyProblems(build_stack())  # type: ignore[method-assign]


def complete_document(app: FastAPI, complete: Callable[[dict[str, Any]], None]) -> None:
    """Have `complete` write into the OpenAPI document of `app`, once for each document that FastAPI makes."""
    build, done = app.openapi, None

    def openapi() -> dict[str, Any]:
        nonlocal done
        document = build()  # the same object until a route is added
        if document is not done:
            complete(document)
            done = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]
