"""HTTP/1.1 as it is on the wire: what goes out is what was given, what comes back keeps its order and its repeats."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

AGENT = "curl/7.88.1"
# What the recorded page leaves out, and what a server may add without breaking a client. Anything else is a difference.
TRANSPORT = frozenset({"date", "connection", "keep-alive", "transfer-encoding", "content-length", "server"})


@dataclass(frozen=True)
class Answer:
    """One response: `headers` are (lower-cased name, value) in the order they came, Set-Cookie once per cookie."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def cookies(self) -> list[str]:
        return [value for key, value in self.headers if key == "set-cookie"]


def send(base: str, method: str, path: str, headers: dict[str, str], body: str | None, timeout: float = 30) -> Answer:
    """One request on a connection of its own, with no header but those given, Host, User-Agent and Content-Length."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in ({"user-agent": AGENT} | headers).items():
            connection.putheader(name, value)
        data = None if body is None else body.encode()
        if data is not None:
            connection.putheader("content-length", str(len(data)))
        connection.endheaders(data)
        response = connection.getresponse()
        pairs = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, response.reason, pairs, response.read().decode())
    finally:
        connection.close()


def signature(secret: str, value: str) -> str:
    """Better Auth's signature of a cookie: base64 with padding, so 44 characters that end in `=`."""
    return base64.b64encode(hmac.new(secret.encode(), value.encode(), hashlib.sha256).digest()).decode()


def signed(secret: str, value: str) -> str:
    """`VALUE.SIGNATURE` as encodeURIComponent writes it, ready to be the value of a cookie."""
    return quote(f"{value}.{signature(secret, value)}", safe="!'()*-._~")
