"""The request target in all its forms (RFC 9112, 3.2), made one before any part of the service looks at the path.

Servers hand over what stands in the request line. A client that believes to speak to a proxy sends the whole URL
(absolute-form), and a server must take it; `OPTIONS *` asks about the server as such.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

# Scheme and host; no user, which RFC 9110, 4.2.4 wants to be treated as an error.
ABSOLUTE = re.compile(
    rb"https?://(?P<host>(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?)(?=/|$)", re.I
)
SLASH = re.compile(rb"%2f", re.IGNORECASE)


class RequestTarget:
    """ASGI, outermost: every part behind it sees a path, whatever form the request target has.

    - `http://host/path` becomes `/path`, an empty path `/`, and `host` replaces the Host header (RFC 9112, 3.2.2).
    - `OPTIONS *`, also as `OPTIONS http://host`, is answered with 204 (RFC 9110, 9.3.7).
    - `%2F` stays as it is: it is a part of a name, not the end of one (RFC 3986, 2.2). So `/api%2Fauth/ok` is not
      `/api/auth/ok`, and a rule of a proxy in front that goes by the path cannot be walked round.

    Any other target is left as it is; it does not begin with a slash, and `StrictInput` answers 400.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        if (absolute := ABSOLUTE.match(raw)) is not None:
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            raw, host = raw[absolute.end() :], absolute["host"]
            if not raw:
                raw = b"*" if scope["method"] == "OPTIONS" and not scope["query_string"] else b"/"
            scope.update(raw_path=raw, path=path_of(raw), headers=[(b"host", host), *headers])
        if raw == b"*" and scope["method"] == "OPTIONS":
            return await Response(status_code=204)(scope, receive, send)
        if SLASH.search(raw):
            scope["path"] = path_of(raw)
        await self.app(scope, receive, send)


def path_of(raw: bytes) -> str:
    """The decoded path, in which an encoded slash stays encoded."""
    return "".join(piece if SLASH.fullmatch(piece.encode()) else unquote(piece) for piece in split(raw))


def split(raw: bytes) -> list[str]:
    """`raw` cut into encoded slashes and what lies between them."""
    return re.split("(%2[Ff])", raw.decode("latin-1"))
