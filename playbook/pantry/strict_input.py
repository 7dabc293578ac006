"""Input that two readers cannot understand differently: URLs, queries and JSON bodies, once for all routes."""

import json
import re
from functools import lru_cache
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.api.errors import MAX_ERRORS, Problem, problem_response
from playbook.foundations.request_and_transaction import request_id
from playbook.pantry.errors import INVALID, MALFORMED, URL_TOO_LONG, without_tokens
from playbook.pantry.http import off_the_loop

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
    odd = b"%" in raw or b"\0" in raw or not raw.isascii()  # most have nothing to decode
    if odd and {"\0", "\ufffd"} & set(unquote_to_bytes(raw).decode("utf-8", "replace")):
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


IS_JSON = re.compile(rb"application/(?:json|[^;\s]+\+json)\s*(?:;|$)", re.IGNORECASE)


class StrictInput:
    """ASGI middleware: refuses URLs and JSON bodies that two readers could understand differently."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (fault := url_fault(scope) or query_fault(scope)) is not None:
            return await without_tokens(problem_response(fault, request_id.get()))(scope, receive, send)
        if IS_JSON.match(next((value for name, value in scope["headers"] if name == b"content-type"), b"")):
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


def install_strict_input(app: FastAPI) -> None:
    """Refuse ambiguous input to any route of `app`. Innermost, so that the refusals get a request id."""
    app.user_middleware.append(Middleware(StrictInput))
