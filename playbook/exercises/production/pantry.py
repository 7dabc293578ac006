"""The page "Pantry": what it looks at the service with; its checker, its two hints, and answers that are wrong."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.deny_by_default import anyone
from playbook.kit.exercises import checker
from playbook.kit.lesson import serving
from playbook.kit.stage import in_short
from playbook.pantry.app import pantry
from playbook.pantry.auth import account_changes, sessions, sign_in, sign_up
from playbook.pantry.auth.wire import AuthError, answer_auth_error
from playbook.pantry.settings import Settings

logging.getLogger("pantry").addHandler(logging.NullHandler())  # of errors on purpose
AT_HOME = {"origin": "http://localhost:8000"}  # the page that sends the request
ADA = {"email": "ada@example.com", "password": "four quiet rivers and a spoon"}


def pantry_at(url: str) -> FastAPI:
    """The service, with mails in memory and a clock that stands."""
    off: dict[str, Any] = {"require_email_verification": False, "rate_limits": False}
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    settings = Settings(environment="test", database_url=url, **off)
    return pantry(settings, clock=clock, sender=MemorySender())


def layers(app: Any) -> Iterator[Any]:
    """The layers of the service, from the outside."""
    app.middleware_stack = layer = app.middleware_stack or app.build_middleware_stack()
    while layer is not None:
        yield layer
        layer = getattr(layer, "app", None) or getattr(layer, "rest", None)


def one_app(url: str) -> FastAPI:
    """Both contracts in one application: every request passes the middleware of the resources."""
    app = pantry_at(url)
    app.add_exception_handler(AuthError, answer_auth_error)
    together = APIRouter(dependencies=[Depends(anyone)])  # each of their routes asks for the session itself
    for routes in (sessions.session_routes, sign_up.sign_up_routes, sign_in.sign_in_routes):
        together.include_router(routes)
    together.include_router(account_changes.account_routes)
    app.include_router(together)
    handover: Any = next(layer for layer in layers(app) if type(layer).__name__ == "Handover")
    handover.prefix = "/nothing"  # so it hands nothing over
    return app


def ask(client: httpx.Client, path: str, body: Any = None, **headers: str) -> str:
    """Status and `code` of what /api/auth answers: GET without a body, POST with one."""
    method = "POST" if body is not None else "GET"
    answer = client.request(method, f"/api/auth{path}", json=body, headers=AT_HOME | headers)
    read = answer.json() if "json" in answer.headers.get("content-type", "") else None
    return f"{answer.status_code} {(read or {}).get('code', '')}".strip()


def four_requests(app: FastAPI) -> list[str]:
    """Ada signs up; then what the front end sends."""
    new = {"currentPassword": ADA["password"], "newPassword": "the spoon sailed away"}
    with serving(app) as client:
        ask(client, "/sign-up/email", ADA | {"name": "Ada"})
        return [
            ask(client, "/sign-in/email", ADA | {"password": "wrong"}),
            ask(client, "/update-user", {"name": "Ada", "theme": "dark"}),
            ask(client, "/get-session?disableCookieCache=true"),
            ask(client, "/change-password", new, **{"idempotency-key": f'"{"1" * 16}"'}),
        ]


def own_layers(app: FastAPI) -> list[tuple[str, str]]:
    """Name and module of the layers that the course has written, from the outside."""
    found = [(type(layer).__name__, type(layer).__module__) for layer in layers(app)]
    return [(name, module.removeprefix("playbook.")) for name, module in found if module.startswith("playbook.")]


@contextmanager
def who_sends(engine: sa.Engine) -> Iterator[list[tuple[int, str, str]]]:
    """Collect what is sent to the database: number of the transaction, function of Pantry, statement."""
    found: list[tuple[int, str, str]] = []
    began = [0]

    def begin(connection: sa.Connection) -> None:
        began[0] += 1

    def statement(_c: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool) -> None:
        frames = [frame for frame in traceback.extract_stack() if "pantry" in Path(frame.filename).parts]
        names = [frame.name for frame in frames if frame.name not in ("__call__", "transact", "permitted")]
        module = Path(frames[-1].filename).stem
        outer = next(name for name in reversed(names) if name not in ("work", "<lambda>"))
        found.append((began[0], f"{module}.{outer}", in_short(sql)[:40]))

    sa.event.listen(engine, "begin", begin)
    sa.event.listen(engine, "before_cursor_execute", statement)
    try:
        yield found
    finally:
        sa.event.remove(engine, "begin", begin)
        sa.event.remove(engine, "before_cursor_execute", statement)


HINTS = (
    "See 'The layers': a layer gets `scope`, `receive` and `send`, and calls the next one or answers by itself.\n"
    "Starlette has `RedirectResponse`, `PlainTextResponse` and `MutableHeaders`; each response is an ASGI app, too.",
    "There are three cases: a request to be passed on untouched, one over http (a GET is moved, the rest is refused),\n"
    "and one over https, whose `http.response.start` gets a header. The host of `Location` is not the client's word.",
)

NOTHING = """
class OnlyHttps:
    def __init__(self, app, base_url):
        self.app, self.base_url = app, base_url
    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""
LAYER = """
from starlette.datastructures import URL, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

class OnlyHttps:
    def __init__(self, app, base_url):
        self.app, self.base_url = app, base_url
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" {local}:
            return await self.app(scope, receive, send)
        async def strict(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
            await send(message)
        if scope["scheme"] != "https" {health}:
            query = scope["query_string"].decode()
            url = {url}
            if {moved}:
                return await RedirectResponse(url, 308)(scope, receive, {sent})
            return await PlainTextResponse("use https", 403)(scope, receive, send)
        await self.app(scope, receive, {passed})
"""
PARTS = {
    "local": 'or not self.base_url.startswith("https:")',
    "health": 'and scope["path"] != "/health"',
    "url": 'self.base_url + scope["raw_path"].decode() + (f"?{query}" if query else "")',
    "moved": 'scope["method"] in ("GET", "HEAD")',
    "sent": "send",
    "passed": 'strict if scope["scheme"] == "https" else send',
}
WRONG = (
    "exec(NOTHING)",
    'exec(LAYER.format(**PARTS | {"moved": "True"}))',
    'exec(LAYER.format(**PARTS | {"url": \'str(URL(scope=scope).replace(scheme="https"))\'}))',
    'exec(LAYER.format(**PARTS | {"url": \'self.base_url + scope["path"]\'}))',
    'exec(LAYER.format(**PARTS | {"url": PARTS["url"].replace(\'["raw_path"].decode()\', \'["path"]\')}))',
    'exec(LAYER.format(**PARTS | {"health": ""}))',
    'exec(LAYER.format(**PARTS | {"local": ""}))',
    'exec(LAYER.format(**PARTS | {"sent": "strict"}))',
    'exec(LAYER.format(**PARTS | {"passed": "send"}))',
)
YEAR = 31_536_000  # seconds


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """What stands behind the layer: says to any request that it was reached, starts and stops."""
    if scope["type"] == "http":
        await PlainTextResponse("reached")(scope, receive, send)
    elif scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})


def over(client: httpx.Client, scheme: str, method: str, path: str, **headers: str) -> httpx.Response:
    """A request as a proxy hands it on that ends TLS: it says which scheme the client used."""
    return client.request(method, path, headers={"x-forwarded-proto": scheme} | headers)


@checker
def check(layer: Callable[[ASGIApp, str], ASGIApp]) -> str:
    """Ask services behind `layer`, one with an https address and one on localhost."""
    with serving(layer(service, "https://pantry.example")) as client:
        secure = over(client, "https", "GET", "/packages")
        policy = secure.headers.get("strict-transport-security", "").lower().replace(" ", "").split(";")
        ages = [part.removeprefix("max-age=") for part in policy if part.startswith("max-age=")]
        if secure.text != "reached":
            return "not yet: a request over https does not reach the service"
        if not ages or int(ages[0]) < YEAR or "includesubdomains" not in policy:
            return "not yet: an answer over https has no Strict-Transport-Security of a year, for subdomains too"
        moved = over(client, "http", "GET", "/packages?sort=name", host="evil.example")
        if moved.text == "reached" or moved.status_code not in (301, 307, 308):
            return "not yet: a GET over http is not redirected"
        if "evil" in moved.headers.get("location", ""):
            return f"not yet: the client is sent to {moved.headers['location']}; who has named that host?"
        if moved.headers.get("location") != "https://pantry.example/packages?sort=name":
            return f"not yet: GET /packages?sort=name leads to {moved.headers.get('location')}"
        encoded = over(client, "http", "GET", "/packages/a%2Fb").headers.get("location")
        if encoded != "https://pantry.example/packages/a%2Fb":
            return f"not yet: GET /packages/a%2Fb leads to {encoded}; `raw_path` of the scope is what the client sent"
        posted = over(client, "http", "POST", "/api/auth/sign-in/email")
        if posted.status_code < 400 or posted.text == "reached":
            return "not yet: a POST over http works, so the client goes on sending passwords in the clear"
        if "strict-transport-security" in moved.headers:
            return "not yet: browsers ignore Strict-Transport-Security over http, where anybody can add it"
        if over(client, "http", "GET", "/health").text != "reached":
            return "not yet: the platform asks /health without TLS and believes that the service is down"
    with serving(layer(service, "http://localhost:8000")) as client:
        local = over(client, "http", "GET", "/packages")
        if local.text != "reached" or "strict-transport-security" in local.headers:
            return "not yet: a developer on http://localhost:8000 must see no difference"
    return "right"
