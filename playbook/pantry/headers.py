"""The headers that every answer of Pantry has, whoever made it.

OWASP ASVS 5.0, 3.2.1, 3.4 and 14.3.2; OWASP Secure Headers Project. Answers are data, never a page's parts: nothing
may be loaded, framed, sniffed or kept, unless the answer itself says so.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.pantry.proxies import FORWARDED_PROTO
from playbook.pantry.settings import Settings

AUTH = "/api/auth"
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # ASVS 3.4.3, 3.4.6
ALWAYS = {
    "X-Content-Type-Options": "nosniff",  # 3.4.4
    "Referrer-Policy": "no-referrer",  # 3.4.5: links have tokens in them
    "Cross-Origin-Opener-Policy": "same-origin",  # 3.4.8
    "Cross-Origin-Resource-Policy": "same-origin",  # 3.5.8; a request with CORS is not touched by it
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}
Pair = tuple[bytes, bytes]
RAW: list[Pair] = [(name.lower().encode(), value.encode()) for name, value in ALWAYS.items()]
UNLESS_SAID: list[Pair] = [(b"content-security-policy", NOTHING.encode()), (b"cache-control", b"no-store")]
OURS = {name for name, _ in RAW} | {b"strict-transport-security"}
HSTS = "max-age=63072000; includeSubDomains"  # 3.4.1; seconds: two years


def strict_transport(base_url: str) -> bool:
    """Whether browsers are told to use https only. Not of localhost: all other programs of a developer live there."""
    url = urlsplit(base_url)
    host = url.hostname or ""
    return url.scheme == "https" and host != "localhost" and not host.endswith(".localhost")


class SecurityHeaders:
    """ASGI, outside of both apps: ALWAYS on every answer, and `Cache-Control: no-store` unless the answer says else.

    What lies under /api/auth or sets a cookie is `no-store` whatever it says. An exception that nobody has answered is
    answered here, since the server's own 500 has no headers; it is raised again, for the log.
    """

    def __init__(self, app: ASGIApp, hsts: bool) -> None:
        self.app, self.hsts = app, hsts

    def completed(self, scope: Scope, headers: Iterable[Pair]) -> list[Pair]:
        """`headers` with those of every answer."""
        found = [pair for pair in headers if pair[0] not in OURS]
        names = {name for name, _ in found}
        path = scope["path"]
        if path == AUTH or path.startswith(f"{AUTH}/") or b"set-cookie" in names:
            found = [pair for pair in found if pair[0] != b"cache-control"]
            names.discard(b"cache-control")
        found += RAW
        found += [pair for pair in UNLESS_SAID if pair[0] not in names]
        if self.hsts and scope.get(FORWARDED_PROTO) != "http":  # RFC 6797, 7.2: not over a connection in clear
            found.append((b"strict-transport-security", HSTS.encode()))
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": self.completed(scope, message.get("headers", ()))}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            if not started:  # uvicorn closes the connection after an exception; the client must not reuse it
                failure = PlainTextResponse("Internal Server Error", 500, {"Connection": "close"})
                await failure(scope, receive, send_with_headers)
            raise


def secure(app: FastAPI, settings: Settings) -> None:
    """Put `SecurityHeaders` around everything that `app` has, also around what was put around it before."""
    build = app.build_middleware_stack
    hsts = strict_transport(settings.base_url)
    app.build_middleware_stack = lambda: SecurityHeaders(build(), hsts)  # type: ignore[method-assign]
