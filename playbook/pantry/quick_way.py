"""What is asked most, answered without FastAPI: the same endpoints, given by hand what they depend on.

For a list or a package FastAPI takes as long to find the route and what it depends on, and its layers to pass on what
does not concern them, as the endpoint takes with its statement. So a plain GET by somebody who is known is answered
here. Whatever is not plain is handed on, and so is all that would be refused: a stranger, another media type, a
missing package. The long way knows the words for it. Neither keeps anything: who has lost a right has lost it in both.
"""

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.api.representations import gives_json
from playbook.foundations.request_and_transaction import ACCEPTED_ID, request_id
from playbook.pantry.auth.better_auth import liveness
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.wire import AuthError
from playbook.pantry.conditions import Conditions
from playbook.pantry.http import Caller, client_ip
from playbook.pantry.lists import Pager
from playbook.pantry.packages import PackageQuery, list_packages, read_package
from playbook.pantry.policy import sees

OK, OK_BODY = f"{liveness.prefix}/ok".encode(), b'{"ok":true}'
LIST = b"/packages"
# Names that are spelled as they are sent.
ASKED_MOST = re.compile(rb"/api/auth/ok|/packages(?:/[A-Za-z0-9._-]{1,200})?")
NOT_PLAIN = {b"content-length", b"transfer-encoding", b"content-type"}  # a body, or the look of one
FIRST = PackageQuery()

Endpoint = Callable[[Request, Caller], Awaitable[Response]]


def is_plain(scope: Scope) -> bool:
    """Whether this asks for what is answered here: a GET without a query and a body."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"] or scope.get("root_path"):
        return False
    if not ASKED_MOST.fullmatch(scope.get("raw_path") or b""):
        return False
    return not any(name in NOT_PLAIN for name, _ in scope["headers"])


def blank() -> Response:
    """Takes the headers that an endpoint adds; FastAPI gives it the same."""
    response = Response()
    del response.headers["content-length"]
    return response


async def the_list(request: Request, caller: Caller) -> Response:
    state, response = request.app.state, blank()
    pager = Pager(state.cursors, request.scope["path"], response)
    return await list_packages(FIRST, sees(caller, "packages:read"), pager, state.read, Conditions(request, response))


async def one(request: Request, caller: Caller) -> Response:
    name, conditions = request.scope["path"].rpartition("/")[2], Conditions(request, blank())
    return await read_package(name, sees(caller, "packages:read"), request.app.state.read, conditions)


class QuickWay:
    """ASGI, in front of both parts of `service`: answers `ok`, the first page of the packages, and one package."""

    def __init__(self, app: ASGIApp, service: FastAPI, limits: AddressLimits) -> None:
        self.app, self.service, self.limits = app, service, limits
        routes = {route.endpoint: route for route in iter_route_contexts(service.routes)}
        self.routes = {the_list: routes[list_packages], one: routes[read_package]}  # for the log

    async def answer(self, request: Request, endpoint: Endpoint) -> Response | None:
        """What `endpoint` answers; None when the long way must be taken."""
        try:
            await gives_json(request)
            caller = await self.service.state.quick_caller(request)
            if caller is None:
                return None
            request.scope["caller"] = caller  # the long way need not ask again
            return await endpoint(request, caller)
        except Exception:  # the long way meets it as well, and knows what to say, and what to log
            return None

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
        if is_plain(scope):
            path = scope["raw_path"]
            if path == OK:
                if self.admits(scope):
                    return await say_ok(self.named(scope), send)
            else:
                id, endpoint = self.named(scope), the_list if path == LIST else one
                if (response := await self.answer(Request(scope), endpoint)) is not None:
                    scope["route"] = self.routes[endpoint]
                    response.raw_headers.append((b"x-request-id", id))
                    return await response(scope, receive, send)
        await self.app(scope, receive, send)


OK_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(OK_BODY)).encode())]


async def say_ok(id: bytes, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*OK_HEADERS, (b"x-request-id", id)]})
    await send({"type": "http.response.body", "body": OK_BODY})
