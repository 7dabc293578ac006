"""The methods of every URL: HEAD beside GET, OPTIONS, and an `Allow` that is complete."""

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: a HEAD request runs as GET and loses its body, but not its headers (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """All methods that `path` has, for the Allow header; empty for an unknown path."""
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if route.path and route.methods and compile_path(route.path)[0].match(path):
            found |= route.methods
    return sorted(found | ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set()))


def complete_methods(app: FastAPI) -> None:
    """Give every URL of `app` HEAD, OPTIONS and a complete Allow header on 405."""
    app.add_middleware(HeadAsGet)

    @app.exception_handler(405)
    async def method_not_allowed(request: Request, error: StarletteHTTPException) -> Response:
        headers = {"Allow": ", ".join(allowed_methods(app, request.url.path))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return await http_exception_handler(request, StarletteHTTPException(405, error.detail, headers))
