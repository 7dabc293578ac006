"""Every answer of both apps, whatever its status and whoever made it, has the headers that browsers are told by."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from before_sign_in import pantry as without_sign_in
from fastapi import APIRouter, Depends
from fastapi.routing import iter_route_contexts
from serve_process import PRODUCTION, serve

from playbook.auth.mail import MemorySender
from playbook.foundations.deny_by_default import anyone
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.docs import describe
from playbook.pantry.headers import strict_transport
from playbook.pantry.settings import Settings

ORIGIN = "http://localhost:8000"
PASSWORD = "four quiet rivers and a spoon"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "BREW")
MADE_FOR = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
            "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin"}  # fmt: skip
RESOURCE = "private, no-cache"  # a representation with a validator: kept by its reader, asked about before each use


def wrong(answer: httpx.Response) -> list[str]:
    """What an answer lacks."""
    headers, path = answer.headers, answer.request.url.path
    found = [f"{name}: {headers.get(name)}" for name, value in MADE_FOR.items() if headers.get_list(name) != [value]]
    policy = headers.get_list("content-security-policy")
    if len(policy) != 1 or any(
        part not in policy[0].split("; ")
        for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'")
    ):
        found.append(f"content-security-policy: {policy}")
    if "script" in "".join(policy) or "http" in "".join(policy):
        found.append(f"content-security-policy lets scripts or others in: {policy}")
    cache = headers.get_list("cache-control")
    personal = (
        path.startswith("/api/auth") or "set-cookie" in headers or "etag" not in headers or answer.status_code >= 400
    )
    if cache != (["no-store"] if personal else [RESOURCE]):
        found.append(f"cache-control: {cache}")
    if answer.status_code == 204:  # RFC 9110, 8.3 and 8.6
        found += [f"{name} of no content" for name in ("content-type", "content-length") if name in headers]
    return found


@contextmanager
def running(url: str, **changes: Any) -> Iterator[LiveClient]:
    given = {"environment": "test", "database_url": url, "require_email_verification": False, "rate_limits": False}
    app = pantry(Settings(**given | changes), sender=MemorySender())
    broken = APIRouter(dependencies=[Depends(anyone)])

    @broken.get("/breaks")
    def breaks() -> None:
        raise RuntimeError("on purpose")

    app.include_router(broken)
    app.state.auth_part.include_router(broken, prefix="/api/auth")
    with serving(app, headers={"origin": ORIGIN}) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


def paths(client: LiveClient) -> list[str]:
    app = client.app  # type: ignore[attr-defined]
    found = {str(route.path) for part in (app, app.state.auth_part) for route in iter_route_contexts(part.routes)}
    return sorted(found)


def sign_up(client: LiveClient, name: str = "ada") -> None:
    body = {"name": "Ada", "email": f"{name}@example.com", "password": PASSWORD}
    assert client.post("/api/auth/sign-up/email", json=body).status_code == 200


@pytest.mark.proves("ASVS 3.4.3", "ASVS 3.4.4", "ASVS 3.4.5", "ASVS 3.4.6", "ASVS 3.4.8", "ASVS 14.3.2")
@pytest.mark.parametrize("signed_in", [False, True], ids=["a stranger", "signed in"])
def test_every_route_in_every_method_answers_with_all_headers(url: str, signed_in: bool) -> None:
    faults, seen = {}, set()
    with running(url) as client:
        for number, path in enumerate(paths(client)):
            for method in METHODS:
                if signed_in and method == "GET" and not client.get("/api/auth/get-session").json():
                    sign_up(client, f"ada{number}")
                for target in {path, re.sub(r"\{\w+(:\w+)?\}", "missing", path), path.rstrip("/") + "/more"}:
                    bodies = [None, "{", '{"email": 1}'] if method in ("POST", "PUT", "PATCH") else [None]
                    for body in bodies:
                        answer = client.request(method, target, content=body,
                                                headers={"content-type": "application/json"})  # fmt: skip
                        seen.add(answer.status_code)
                        if found := wrong(answer):
                            faults[f"{method} {target} {answer.status_code}"] = found
    assert faults == {}
    assert {200, 204, 400, 401, 404, 405, 500} <= seen | ({401} if signed_in else set())


@pytest.mark.proves("ASVS 14.3.2")
def test_every_status_has_all_headers(url: str) -> None:
    with running(url, max_body_bytes=2000) as client:
        sign_up(client)
        made = client.post("/organizations", json={"slug": "team", "name": "Team"})
        tag = client.get("/organizations/team").headers["etag"]
        big = {"content": b"[" + b"1," * 2000, "headers": {"content-type": "application/json"}}
        answers = {
            201: made,
            200: client.get("/organizations/team"),
            304: client.get("/organizations/team", headers={"if-none-match": tag}),
            412: client.delete("/organizations/team", headers={"if-match": '"other"'}),
            428: client.delete("/organizations/team"),
            406: client.get("/organizations/team", headers={"accept": "image/png"}),
            409: client.post("/organizations", json={"slug": "team", "name": "Team"}),
            415: client.post("/organizations", content="a=b", headers={"content-type": "text/csv"}),
            413: client.post("/organizations", **big),
            414: client.get("/organizations/team?a=" + "a" * 9000),
            422: client.post("/organizations", json={"slug": 1}),
            400: client.get("/packages/%00"),
            403: client.post("/organizations", json={}, headers={"origin": "https://evil.example"}),
            404: client.get("/nowhere"),
            405: client.put("/health"),
            500: client.get("/breaks"),
            302: client.get("/api/auth/reset-password/token?callbackURL=/x"),
            204: client.delete("/organizations/team", headers={"if-match": tag}),
        }
        auth = {
            500: client.get("/api/auth/breaks"),
            413: client.post("/api/auth/sign-in/email", **big),
            401: client.post("/api/auth/sign-in/email", json={"email": "ada@example.com", "password": "x"}),
            404: client.get("/api/auth/nowhere"),
            405: client.post("/api/auth/get-session"),
            200: client.get("/api/auth/list-sessions"),
        }
        assert {status: a.status_code for status, a in answers.items()} == {status: status for status in answers}
        assert {status: a.status_code for status, a in auth.items()} == {status: status for status in auth}
        assert {a.request.url: wrong(a) for a in [*answers.values(), *auth.values()] if wrong(a)} == {}
        assert answers[200].headers["cache-control"] == answers[304].headers["cache-control"] == RESOURCE
        assert "set-cookie" in client.post("/api/auth/sign-in/email", json={"email": "ada@example.com",
                                                                            "password": PASSWORD}).headers  # fmt: skip


def test_an_exception_outside_of_both_apps_is_answered_with_all_headers() -> None:
    """The 500 of the outermost layer: a guard around everything, here the session look-up, fails."""
    with running("duckdb:///:memory:outside") as client:
        app = client.app  # type: ignore[attr-defined]
        client.get("/health")
        layer = app.middleware_stack.app  # the first layer inside
        inner, layer.app = layer.app, None  # calling it is a TypeError
        answer = client.get("/health")
        layer.app = inner
        assert (answer.status_code, answer.headers["connection"], wrong(answer)) == (500, "close", [])
        assert client.get("/health").status_code == 200


def test_a_database_that_fails_is_answered_with_all_headers(postgres_url: str) -> None:
    with running(postgres_url) as client:
        sign_up(client)
        engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text("ALTER TABLE users RENAME TO gone"))
        engine.dispose()
        answers = [client.get(path) for path in ("/organizations", "/api/auth/get-session", "/api/auth/list-sessions")]
        assert [a.status_code for a in answers] == [500] * 3
        assert [wrong(a) for a in answers] == [[]] * 3


def test_the_service_before_sign_in_has_them_too() -> None:
    app = without_sign_in(Settings(environment="test", database_url="duckdb:///:memory:before_sign_in"))
    with serving(app) as client:
        for path in ("/health", "/packages", "/docs", "/openapi.json", "/problems/not-found", "/nowhere"):
            assert wrong(client.get(path)) == []


# ---------------------------------------------------------------- the description


def test_the_description_loads_nothing_and_shows_every_operation() -> None:
    with running("duckdb:///:memory:docs") as client:
        page = client.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"<script|<link|<img|<iframe|src=|https?://|javascript:|\son\w+=", page.text)
        for path, item in client.get("/openapi.json").json()["paths"].items():
            for method in item:
                assert f"{method.upper()} {path}" in page.text
        assert client.get("/redoc").status_code == client.get("/docs/oauth2-redirect").status_code == 404


def test_the_description_escapes_what_the_document_says() -> None:
    from fastapi import FastAPI

    app = FastAPI(title="<script>")
    said = {"summary": "<script>", "description": "<script>", "responses": {418: {"description": "<script>"}}}
    app.get("/<script>", **said)(lambda: None)
    describe(app, public=True)
    with serving(app) as client:
        assert "<script" not in client.get("/docs").text


def test_the_style_of_the_description_is_used_by_a_browser(browser_program: str) -> None:
    """The policy of the page lets its own style in, and a browser complains of nothing."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with running("duckdb:///:memory:browser") as client, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{client.base_url}/docs")
        margin = page.evaluate("getComputedStyle(document.body).maxWidth")
        browser.close()
    assert margin == "960px"
    assert [text for text in said if "favicon" not in text and "404" not in text] == []
    assert all(url.startswith(str(client.base_url)) for url in asked)


@pytest.mark.proves("ASVS 13.4.5", "ASVS 3.4.1", "ASVS 3.6.1")
def test_production_describes_itself_to_nobody_and_demands_https(tmp_path: Path) -> None:
    with serve(f"duckdb:///{tmp_path}/pantry.duckdb", tmp_path, **PRODUCTION) as process:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/docs/", "/api/auth/docs"):
            answer = process.client.get(path)
            assert answer.status_code == 404
            assert wrong(answer) == []
        for answer in (
            process.client.get("/health"),
            process.client.get("/nowhere"),
            process.client.get("/api/auth/ok"),
        ):
            assert wrong(answer) == []
            parts = answer.headers["strict-transport-security"].split("; ")
            assert int(parts[0].removeprefix("max-age=")) >= 31_536_000
            assert "includeSubDomains" in parts
        assert "/docs" not in process.log.read_text().splitlines()[0]


def test_https_is_demanded_where_the_base_url_has_it_and_no_proxy_says_otherwise(tmp_path: Path) -> None:
    trusted = PRODUCTION | {"FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with serve(f"duckdb:///{tmp_path}/pantry.duckdb", tmp_path, **trusted) as process:
        for proto, expected in (("https", True), ("http", False)):
            answer = process.client.get("/health", headers={"x-forwarded-proto": proto})
            assert ("strict-transport-security" in answer.headers) is expected
    with running("duckdb:///:memory:no_https") as client:
        assert "strict-transport-security" not in client.get("/health").headers
    assert strict_transport("https://pantry.example")
    assert not any(map(strict_transport, ("http://pantry.example", "https://localhost:8443", "https://a.localhost")))
