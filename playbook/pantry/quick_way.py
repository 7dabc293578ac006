"""What is asked most, answered without FastAPI: the same endpoints, called directly.

For a list or a package FastAPI takes as long to find the route and what it depends on, and its layers to pass on what
does not concern them, as the endpoint takes with its statement. So a plain request by somebody who is known is answered
here. Whatever is not plain is handed on, and so is all that would be refused: a stranger, another media type, a
missing package. The long way knows the words for it. Who has lost a right has lost it in both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.api.representations import JSON, MERGE_PATCH
from playbook.foundations.request_and_transaction import ACCEPTED_ID, request_id
from playbook.pantry.auth.better_auth import liveness
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.wire import AuthError
from playbook.pantry.direct import Direct
from playbook.pantry.http import FAILED, Caller, client_ip, current_caller
from playbook.pantry.keys import again
from playbook.pantry.packages import change_package, create_package, list_packages, read_package
from playbook.pantry.strict_input import json_fault

OK, OK_BODY = f"{liveness.prefix}/ok".encode(), b'{"ok":true}'
ASKED_MOST: tuple[Callable[..., Any], ...] = (list_packages, read_package, create_package, change_package)
SHORT = 16_384  # octets of a body: a longer one is read in a thread
TYPES = {JSON.encode(), MERGE_PATCH.encode()}


class Asked(NamedTuple):
    """One of ASKED_MOST, and what stands in the path."""

    route: Direct
    words: dict[str, str]


def is_plain(scope: Scope, longest: int) -> bool:
    """Whether nothing is unusual: no query; of a GET no body, or the look of one, and of others one up to `longest`."""
    if scope["type"] != "http" or scope["query_string"] or scope.get("root_path"):
        return False
    headers: dict[bytes, bytes] = dict(scope["headers"])
    length, kind = headers.get(b"content-length"), headers.get(b"content-type")
    if b"transfer-encoding" in headers or b"idempotency-key" in headers:
        return False
    if scope["method"] == "GET":
        return length is None and kind is None
    return kind in TYPES and length is not None and len(length) < 6 and length.isdigit() and int(length) <= longest


class QuickWay:
    """ASGI, in front of both parts of `service`: answers `ok`, and the routes of ASKED_MOST."""

    def __init__(self, app: ASGIApp, service: FastAPI, limits: AddressLimits, max_body_bytes: int) -> None:
        self.app, self.service, self.limits = app, service, limits
        self.longest = min(SHORT, max_body_bytes)
        routes = [route for route in iter_route_contexts(service.routes) if route.endpoint in ASKED_MOST]
        self.routes = [(method, Direct(route, [current_caller])) for route in routes for method in route.methods or ()]

    def asked(self, scope: Scope) -> Asked | None:
        path = scope.get("raw_path") or b""
        for method, route in self.routes:
            if method == scope["method"] and (found := route.path.fullmatch(path)):
                return Asked(route, {name: word.decode() for name, word in found.groupdict().items()})
        return None

    async def answer(self, scope: Scope, asked: Asked, body: bytes) -> Response | None:
        """What the endpoint answers; None when the long way must be taken.

        What it raises is raised there as well, where it would write: that is not done again, since nobody knows how far
        it is done, and there the words are known. What only reads is asked again.
        """
        try:
            sent = asked.route.read(body)
        except ValueError:
            return None
        request = Request({**scope, "path_params": asked.words})
        try:
            return await asked.route(request, {current_caller: scope["caller"]}, sent)
        except Exception as error:
            scope[FAILED] = error
            return None

    async def who(self, scope: Scope) -> Caller | None:
        """Who asks; None for a stranger, or when that takes the long way. That need not ask again."""
        try:
            caller: Caller | None = await self.service.state.quick_caller(Request(scope))
        except Exception:  # the long way meets it as well, and knows what to say, and what to log
            return None
        if caller is not None:
            scope["caller"] = caller
        return caller

    def admits(self, scope: Scope) -> bool:
        """Whether `ok` may be said. Counted as the long way does it, which also says what is refused."""
        try:
            self.limits.take(client_ip(scope) or "", scope["path"])
        except AuthError:
            return False
        scope["counted"] = True
        return True

    def named(self, scope: Scope) -> bytes:
        """The request's id, as `RequestId` gives it."""
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        found = sent if ACCEPTED_ID.fullmatch(sent) else str(self.service.state.identifiers.new())
        request_id.set(found)
        return found.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_plain(scope, self.longest):
            if scope["raw_path"] == OK:
                if scope["method"] == "GET" and self.admits(scope):
                    return await say_ok(self.named(scope), send)
            elif (asked := self.asked(scope)) is not None:
                id = self.named(scope)
                if await self.who(scope) is not None:
                    body, receive = await taken(receive) if asked.route.body else (b"", receive)
                    if body is not None and (response := await self.answer(scope, asked, body)) is not None:
                        scope["route"] = asked.route.route  # for the log
                        response.raw_headers.append((b"x-request-id", id))
                        return await response(scope, receive, send)
        await self.app(scope, receive, send)


async def taken(receive: Receive) -> tuple[bytes | None, Receive]:
    """The body, None for one that comes in pieces or is no strict JSON; and `receive` as if it had not been asked."""
    message = await receive()
    whole = message["type"] == "http.request" and not message.get("more_body", False)
    body = message.get("body", b"")
    if whole and body and not json_fault(body):
        return body, again(body, receive)

    unread = [message]

    async def receive_again() -> Any:
        return unread.pop() if unread else await receive()

    return None, receive_again


OK_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(OK_BODY)).encode())]


async def say_ok(id: bytes, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*OK_HEADERS, (b"x-request-id", id)]})
    await send({"type": "http.response.body", "body": OK_BODY})
