"""Every failure as problem details (RFC 9457): Pantry's catalogue of types for the recipe `playbook.api.errors`.

Code raises `Problem(CONFLICT, "why")` of the recipe. An `HTTPException` gets the type of its status. A validator that
wants its words to be shown raises `PydanticCustomError`; those of a ValueError are replaced, because they often quote
what was sent.
"""

import logging
from collections.abc import Callable
from html import escape
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.api.errors import PROBLEM_JSON, Problem, Problems, ProblemType, add_handlers, as_problem, problem_response
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.request_and_transaction import request_id
from playbook.pantry.redaction import hide


class PantryType(ProblemType):
    """A type with a page at its URI: `client` says there what who gets the error should do."""

    slug: str
    client: str

    def __new__(cls, slug: str, status: int, title: str, client: str) -> "PantryType":
        kind = super().__new__(cls, f"/problems/{slug}", status, title)
        kind.slug, kind.client = slug, client
        return kind


# An error that names no type gets the one of its status.
MALFORMED = PantryType("malformed-request", 400, "The request cannot be read", "Correct it; do not send it again.")
NOT_SIGNED_IN = PantryType("not-signed-in", 401, "Nobody is signed in", "Sign in, then send the request again.")
NOT_PERMITTED = PantryType("not-permitted", 403, "You may not do this", "Ask an owner for the permission.")
NOT_FOUND = PantryType("not-found", 404, "There is nothing here", "Check the URL; it may have been deleted.")
NOT_A_METHOD = PantryType("method-not-allowed", 405, "Not a method of this URL", "Use one that `Allow` names.")
NOT_ACCEPTABLE = PantryType("not-acceptable", 406, "Not given in the type asked for", "Accept application/json.")
CONFLICT = PantryType("conflict", 409, "The present state forbids it", "Read the resource, then decide anew.")
TOO_LARGE = PantryType("too-large", 413, "The body is too large", "Send less, or in parts.")
URL_TOO_LONG = PantryType("url-too-long", 414, "The URL is too long", "Ask for less at once.")
WRONG_MEDIA_TYPE = PantryType("wrong-media-type", 415, "Not a type taken here", "Send what `Accept` names.")
INVALID = PantryType("invalid-input", 422, "Some of the input is not acceptable", "Correct what `errors` names.")
INTERNAL = PantryType("internal-error", 500, "The service failed", "Report `request_id`; try again later.")
UNAVAILABLE = PantryType("unavailable", 503, "Not possible just now", "Try again after `Retry-After` seconds.")
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
BAD_CURSOR = PantryType("bad-cursor", 400, "The cursor cannot be used here", "Start again without `cursor`.")
BAD_KEY = PantryType("bad-idempotency-key", 400, "The Idempotency-Key is missing or malformed", "Send a good one.")
IN_FLIGHT = PantryType("in-flight", 409, "The first request is still being worked on", "Repeat it a little later.")
CHANGED = PantryType("precondition-failed", 412, "It has changed since you read it", "Read it again, merge, retry.")
WEAKENED = PantryType("weak-tag", 412, "Nothing has changed, but the tag is weak", "Send it without `W/`.")
KEY_REUSED = PantryType("key-reused", 422, "The key belongs to another request", "Use a new key for a new request.")
UNCONDITIONAL = PantryType("precondition-required", 428, "Say what you change", "Send `If-Match` with the ETag.")
TOO_MANY = PantryType("too-many-requests", 429, "Too many requests", "Try again after `Retry-After` seconds.")
HEAD_TOO_LARGE = PantryType("head-too-large", 431, "A field of the head is too large", "Send fewer, shorter fields.")
BAD_TOKEN = PantryType("invalid-token", 401, "The token opens nothing", "Make a new one; it has ended, or is mistyped.")
OUT_OF_SCOPE = PantryType("insufficient-scope", 403, "No token, or not this one, may do it", "See `WWW-Authenticate`.")
NOT_FRESH = PantryType("session-not-fresh", 403, "You signed in too long ago", "Sign in again, then repeat it.")
SPECIAL = (TOO_MANY, HEAD_TOO_LARGE, BAD_CURSOR, BAD_KEY, IN_FLIGHT, CHANGED, WEAKENED, KEY_REUSED, UNCONDITIONAL)
ABOUT_TOKENS = (BAD_TOKEN, OUT_OF_SCOPE, NOT_FRESH)
PROBLEM_TYPES = {kind.slug: kind for kind in (*GENERAL.values(), *SPECIAL, *ABOUT_TOKENS)}


# What passes by itself is 503 with `Retry-After`. `OperationalError` is the database's "not now": conflicts after the
# last attempt, timeouts, no connection. SQLAlchemy's `TimeoutError` is an empty pool. Anything else is a bug, and 500.
def without_tokens(response: Response) -> Response:
    """`response`, which may quote what a client has sent, without API tokens."""
    response.body = hide(bytes(response.body).decode()).encode()  # as long as before
    return response


class PantryProblems(Problems):
    """The recipe's, without tokens."""

    async def answer(self, request: Request, error: Exception) -> Response:
        return without_tokens(await super().answer(request, error))


PROBLEMS = PantryProblems(
    general=tuple(GENERAL.values()),
    request_id=lambda request: request_id.get(),
    not_now=(sa.exc.OperationalError, sa.exc.TimeoutError),
)
answer_error = PROBLEMS.answer  # for a middleware that answers by itself

log = logging.getLogger("pantry.errors")


class OnlyProblems:
    """ASGI, outermost: an error that is not problem+json is replaced by the problem of its status.

    Some answers are made beyond all handlers, in plain text: FastAPI's 413, and what a middleware answers. They keep
    their status and headers and lose their body. ASGI and not the recipe's `only_problems`, which wraps each request in
    Starlette's `BaseHTTPMiddleware`: that costs every answer a task and a queue, and here only an error costs anything.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal replaced
            if message["type"] != "http.response.start" or message["status"] < 400:
                return None if replaced else await send(message)
            headers = MutableHeaders(raw=message["headers"])
            headers.setdefault("X-Request-Id", request_id.get())  # what fails outside of RequestId has none
            if message["status"] == 500:  # uvicorn closes the connection after an exception: nobody must use it again
                headers["Connection"] = "close"
            if headers.get("content-type") == PROBLEM_JSON:
                return await send(message)
            replaced = True
            problem = as_problem(HTTPException(message["status"], ""), PROBLEMS.general)
            response = problem_response(problem, request_id.get())
            del headers["content-type"], headers["content-length"], headers["content-encoding"]  # of what is dropped
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
    add_handlers(app, PROBLEMS)
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
