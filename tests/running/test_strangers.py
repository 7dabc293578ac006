"""What a stranger sends costs little: who asks is known before a body is read, and no request holds the loop.

Every route of the service is walked, so a new one is checked on the day it is written. Nothing here measures time:
`tests/benchmarks/bench_strangers.py` does.
"""

import asyncio
import itertools
import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from playbook.api.representations import JSON, MERGE_PATCH
from playbook.auth.mail import MemorySender
from playbook.foundations.deny_by_default import calls_of
from playbook.pantry.app import pantry
from playbook.pantry.auth import sessions
from playbook.pantry.auth.sessions import cookies_of
from playbook.pantry.http import Caller, current_caller
from playbook.pantry.settings import Settings

MEBI = 1_048_576
FORM = "application/x-www-form-urlencoded"
OPERATIONS = 40_000  # calls on the loop for one request; a small one has some 1,500
_numbers = itertools.count(1)


def filled(piece: bytes, begin: bytes, end: bytes) -> bytes:
    return begin + piece * ((MEBI - 200) // len(piece)) + end


BODIES = {
    "numbers": filled(b"1,", b"[", b"1]"),
    "arrays": filled(b"[],", b"[", b"[]]"),
    "objects": filled(b"{},", b"[", b"{}]"),
    "texts": filled(b'"",', b"[", b'""]'),
    "names": json.dumps({f"n{n}": 1 for n in range(80_000)}).encode(),
    "names, as many as are taken": json.dumps({f"n{n}": 1 for n in range(2400)}).encode(),
    "deep": b"[" * 500_000 + b"]" * 500_000,
    "closing": b"]" * 1_000_000,
    "a long text": filled(b"a", b'{"name": "', b'"}'),
    "escapes": filled(rb"\ud83d\ude00", b'{"name": "', b'"}'),
    "backslashes": filled(rb"\\", b'{"name": "', b'"}'),
    "half of a pair": filled(rb"\ud83d", b'{"name": "', b'"}'),
    "a huge number": filled(b"9", b"[", b"]"),
    "numbers of forty digits": filled(b"9" * 40 + b",", b"[", b"9]"),
    "spaces": filled(b" ", b"", b"{}"),
    "not UTF-8": filled(b"\xff", b'"', b'"'),
}
FORMS = {
    "fields": filled(b"a=b&", b"", b"a=b"),
    "separators": filled(b"&", b"", b""),
    "one long field": filled(b"%41", b"email=", b""),
    "semicolons": filled(b";", b"a=", b""),
}
HEADERS = {
    "cookies": (b"cookie", b"a=b; " * 3000),
    "one cookie": (b"cookie", b"better-auth.session_token=" + b"%41" * 2500),
    "dots": (b"cookie", b"better-auth.session_token=" + b"." * 8000),
    "accept": (b"accept", b"a/b;q=0.1," * 1500),
    "accept, parameters": (b"accept", b"a/b" + b";q" * 4000),
    "if-match": (b"if-match", b'"a", ' * 3000),
    "if-none-match": (b"if-none-match", b'W/"' + b"a" * 8000),
    "x-request-id": (b"x-request-id", b"a" * 8000),
    "idempotency-key": (b"idempotency-key", b'"' + b"!" * 8000),
    "content-type": (b"content-type", b"application/" + b"a+" * 4000),
    "content-type, parameters": (b"content-type", b"application/json" + b"; a=b" * 1600),
    "origin": (b"origin", b"http://" + b"a." * 4000),
    "referer": (b"referer", b"http://" + b"a" * 8000),
    "user-agent": (b"user-agent", b"a/1 " * 2000),
    "range": (b"range", b"bytes=" + b"0-1," * 2000),
    "authorization": (b"authorization", b"Bearer " + b"a." * 4000),
}
QUERIES = {
    "one parameter many times": b"limit=1&" * 990,
    "names": b"".join(b"a%d&" % n for n in range(1200)),
    "separators": b"&" * 7900,
    "percent": b"cursor=" + b"%41" * 2600,
    "percent, as many as are taken": b"cursor=" + b"%41" * 1000,
    "a long cursor": b"cursor=" + b"A" * 7900,
    "callback": b"callbackURL=/" + b"a" * 7900,
}


@dataclass
class Said:
    """What happened during one request, in order, how many calls the loop's thread made, and the answer."""

    events: list[str] = field(default_factory=list)
    calls: int = 0
    status: int = 0


class Service:
    """Pantry without a server: one request at a time, on this thread's loop."""

    def __init__(self, signed_in: bool = False, **settings: Any) -> None:
        url = f"duckdb:///:memory:strangers_{next(_numbers)}"
        given = {"environment": "test", "database_url": url, "rate_limits": False} | settings
        self.app = pantry(Settings(**given), sender=MemorySender())
        self.app.openapi()
        find, self.said = self.app.state.find_caller, Said()

        def spy(request: Any) -> Caller | None:
            self.said.events.append("caller")
            return Caller(uuid.UUID(int=1), "Ada") if signed_in else find(request)

        self.app.state.find_caller = spy
        stack: Any = self.app.build_middleware_stack()
        self.app.middleware_stack = stack
        self.auth_app: FastAPI = self.app.state.auth_part

    def routes(self) -> Iterator[tuple[str, str, bool]]:
        """Method, path, and whether the route needs a caller. Paths that are not there come last."""
        for app in (self.app, self.auth_app):
            for route in iter_route_contexts(app.routes):
                if (dependant := getattr(route, "dependant", None)) is not None and route.path:
                    path = route.path.replace("{", "").replace("}", "")
                    for method in route.methods or ():
                        yield method, path, bool({current_caller, sessions.current_caller} & calls_of(dependant))
        for path in ("/nowhere", "/api/auth/nowhere"):
            yield "POST", path, False

    def ask(self, method: str, path: str, body: bytes = b"", query: bytes = b"", *headers: tuple[bytes, bytes]) -> Said:
        self.said = said = Said()
        pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)] or [b""]

        async def receive() -> dict[str, Any]:
            if not pieces:
                await asyncio.Event().wait()
            said.events.append("body")
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            said.status = message.get("status", said.status)

        def count(frame: Any, event: str, argument: Any) -> None:
            said.calls += 1

        async def handle() -> None:
            sys.setprofile(count)  # this thread only
            try:
                await self.app(scope, receive, send)
            finally:
                sys.setprofile(None)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "state": {},
            "headers": [(b"content-length", str(len(body)).encode()), *headers], "client": ("192.0.2.1", 5),
            "server": ("localhost", 8000),
        }  # fmt: skip
        asyncio.run(asyncio.wait_for(handle(), 60))
        return said


def typed(path: str, method: str) -> tuple[bytes, bytes]:
    return b"content-type", (MERGE_PATCH if method == "PATCH" else JSON).encode()


@pytest.fixture(scope="module")
def strangers() -> Service:
    return Service()


@pytest.fixture(scope="module")
def signed_in() -> Service:
    return Service(signed_in=True)


@pytest.mark.parametrize("kind", [*BODIES, "not JSON"])
def test_nothing_of_a_stranger_is_read_where_a_caller_is_needed(strangers: Service, kind: str) -> None:
    found = []
    for method, path, needs in strangers.routes():
        kinds = (b"content-type", b"text/plain") if kind == "not JSON" else typed(path, method)
        said = strangers.ask(
            method, path, BODIES.get(kind, b"a" * MEBI), b"", kinds, (b"idempotency-key", b'"' + b"k" * 20 + b'"')
        )
        if needs and ("body" in said.events or said.status != 401):
            found.append(f"{method} {path}: {said.status}, {said.events[:3]}")
        if said.calls > OPERATIONS:
            found.append(f"{method} {path}: {said.calls} calls on the loop")
    assert not found, "\n".join(found)


def test_the_walk_sees_the_routes(strangers: Service) -> None:
    routes = list(strangers.routes())
    assert ("POST", "/organizations", True) in routes
    assert ("POST", "/api/auth/change-password", True) in routes
    assert ("POST", "/api/auth/sign-in/email", False) in routes
    assert sum(needs for _, _, needs in routes) >= 15
    said = strangers.ask("POST", "/api/auth/sign-in/email", b"{}", b"", typed("", "POST"))
    assert (said.status, said.events) == (400, ["body"])
    assert 100 < said.calls < OPERATIONS / 4


@pytest.mark.parametrize("kind", BODIES)
def test_who_is_signed_in_is_asked_once_and_before_the_body(signed_in: Service, kind: str) -> None:
    found = []
    for method, path, needs in signed_in.routes():
        if needs and not path.startswith("/api/auth"):
            said = signed_in.ask(method, path, BODIES[kind], b"", typed(path, method))
            if said.events[:1] != ["caller"] or said.events.count("caller") != 1 or said.status == 401:
                found.append(f"{method} {path}: {said.status}, {said.events[:3]}")
            if said.calls > OPERATIONS:
                found.append(f"{method} {path}: {said.calls} calls on the loop")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("service", ["strangers", "signed_in"])
@pytest.mark.parametrize("kind", [*FORMS, *HEADERS, *QUERIES])
def test_no_head_and_no_form_holds_the_loop(request: pytest.FixtureRequest, service: str, kind: str) -> None:
    asked: Service = request.getfixturevalue(service)
    header = [HEADERS[kind]] if kind in HEADERS else []
    body = FORMS.get(kind, b"") if kind not in QUERIES else b""
    found = []
    for method, path, _ in asked.routes():
        kinds = (
            [(b"content-type", FORM.encode())] if body else [typed(path, method)] if kind[:12] != "content-type" else []
        )
        said = asked.ask(method, path, body, QUERIES.get(kind, b""), *kinds, *header)
        if said.calls > OPERATIONS // 2 or said.status >= 500:
            found.append(f"{method} {path}: {said.status}, {said.calls} calls on the loop")
    assert not found, "\n".join(found)


def test_a_session_is_looked_up_once_and_before_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under /api/auth, with a cookie that is signed and opens nothing: 401, and nothing was read."""
    service = Service()
    cookies = cookies_of(service.auth_app.state.auth)
    cookie = (b"cookie", cookies.put(sessions.SESSION, "session_" + "a" * 38).split(";")[0].encode())
    origin, found = (b"origin", b"http://localhost:8000"), []
    real = sessions.look_up

    def spy(*arguments: Any) -> Any:
        service.said.events.append("caller")
        return real(*arguments)

    monkeypatch.setattr(sessions, "look_up", spy)
    for method, path, needs in service.routes():
        if needs and path.startswith("/api/auth"):
            said = service.ask(method, path, BODIES["numbers"], b"", typed(path, method), cookie, origin)
            if (said.status, said.events) != (401, ["caller"]):
                found.append(f"{method} {path}: {said.status}, {said.events[:3]}")
    assert not found, "\n".join(found)


def test_another_sites_request_is_refused_before_the_session_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    cookie = (b"cookie", cookies_of(service.auth_app.state.auth).put(sessions.SESSION, "a").split(";")[0].encode())
    monkeypatch.setattr(sessions, "look_up", lambda *arguments: pytest.fail("looked up"))
    for method, path, needs in service.routes():
        if needs and path.startswith("/api/auth") and method != "GET":
            said = service.ask(
                method, path, BODIES["spaces"], b"", typed(path, method), cookie, (b"origin", b"http://evil.example")
            )
            assert (said.status, said.events) == (403, []), path
