"""Which requests may act with the browser's cookie, and where a browser may be sent: asked of the functions, of every
route of the whole service, of a real Chromium, and of the URL parser of Node, which is that of browsers.

Chromium and Node are skipped, visibly, where they are missing, unless `REQUIRE_BROWSER` or `REQUIRE_NODE` is set.
"""

import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import sync_playwright
from recipes import test_cross_site as recipe
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.auth.cross_site import location, origin_of, trusted_redirect
from playbook.auth.mail import MemorySender
from playbook.exercises.auth.cross_site import GOES_TO, Browser
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import Base, make_engine
from playbook.kit.lesson import lesson_url
from playbook.kit.live import LiveClient, serving
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.cross_site import (
    check_cross_site,
    check_first_sign_in,
    check_origin,
    trusted_origins,
)
from playbook.pantry.auth.wire import FORM, FORMS, JSON, Auth, AuthError, Sent, Service, Text, auth_app, body
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings

OURS, APP, EVIL = "https://pantry.example", "https://app.example:8443", "https://evil.example"
TRUSTED = (OURS, APP)


def refusal(check: Callable[..., None], **headers: str) -> str:
    """The code with which `check` refuses a request with these headers; empty when it does not."""
    try:
        check(Headers({name.replace("_", "-"): value for name, value in headers.items()}), TRUSTED)
    except AuthError as error:
        return str(error.code if error.status == 403 else error.status)
    return ""


# ---------------------------------------------------------------- who sent it


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": OURS}, ""),
        ({"origin": APP}, ""),
        ({"origin": "HTTPS://PANTRY.EXAMPLE:443"}, ""),
        ({"origin": f"{OURS}/a/path"}, ""),
        ({"referer": f"{OURS}/packages?q=1"}, ""),
        ({"origin": "", "referer": f"{OURS}/"}, ""),
        ({"origin": "null", "sec_fetch_site": "same-origin"}, ""),
        ({}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": "null"}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": "null", "referer": f"{OURS}/"}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": "null", "sec_fetch_site": "same-site"}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": "null", "sec_fetch_site": "cross-site"}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": EVIL}, "INVALID_ORIGIN"),
        ({"origin": EVIL, "referer": f"{OURS}/"}, "INVALID_ORIGIN"),
        ({"origin": EVIL, "sec_fetch_site": "same-origin"}, "INVALID_ORIGIN"),
        ({"referer": f"{EVIL}/?{OURS}"}, "INVALID_ORIGIN"),
        ({"origin": "https://blog.pantry.example"}, "INVALID_ORIGIN"),
        ({"origin": "https://example"}, "INVALID_ORIGIN"),
        ({"origin": "http://pantry.example"}, "INVALID_ORIGIN"),
        ({"origin": "https://pantry.example:444"}, "INVALID_ORIGIN"),
        ({"origin": "https://app.example"}, "INVALID_ORIGIN"),
        ({"origin": "https://pantry.example.evil.example"}, "INVALID_ORIGIN"),
        ({"origin": "https://evilpantry.example"}, "INVALID_ORIGIN"),
        ({"origin": "https://pantry.example@evil.example"}, "INVALID_ORIGIN"),
        ({"origin": "/"}, "INVALID_ORIGIN"),
        ({"origin": "*"}, "INVALID_ORIGIN"),
        ({"origin": "file://"}, "INVALID_ORIGIN"),
        ({"origin": "Null", "sec_fetch_site": "same-origin"}, "INVALID_ORIGIN"),
    ],
)
def test_a_request_with_a_cookie_comes_from_a_trusted_page(headers: dict[str, str], code: str) -> None:
    assert refusal(check_origin, **headers) == code
    if headers:
        assert refusal(check_first_sign_in, **headers) == code, "a browser that signs in for the first time, too"


def test_two_origins_are_the_origin_of_nobody() -> None:
    for first, second in ((OURS, EVIL), (EVIL, OURS), (OURS, OURS)):
        raw = [(b"origin", first.encode()), (b"origin", second.encode())]
        with pytest.raises(AuthError) as refused:
            check_origin(Headers(raw=raw), TRUSTED)
        assert refused.value.code == "INVALID_ORIGIN"


def test_a_program_may_sign_in_and_what_looks_like_a_browser_must_say_where_it_is() -> None:
    assert refusal(check_first_sign_in) == ""
    assert refusal(check_first_sign_in, origin="", sec_fetch_site=" ") == ""
    for name in ("sec_fetch_site", "sec_fetch_mode", "sec_fetch_dest"):
        assert refusal(check_first_sign_in, **{name: "cors"}) == "MISSING_OR_NULL_ORIGIN"
        assert refusal(check_first_sign_in, origin=APP, **{name: "cors"}) == ""
    crossing = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert refusal(check_first_sign_in, origin=OURS, **crossing) == "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED"
    assert refusal(check_first_sign_in, origin=APP, **crossing | {"sec_fetch_mode": "cors"}) == ""


def test_the_service_trusts_itself_and_what_the_settings_name() -> None:
    assert trusted_origins(Settings(base_url=OURS, trusted_origins=(APP,), environment="test")) == (OURS, APP)
    assert set(trusted_origins(Settings(base_url=OURS, environment="test"))) == {OURS}


# ---------------------------------------------------------------- where to


def of_pantry(urls: list[str]) -> list[str]:
    """The table that travels with the recipe, about Pantry's host."""
    return [url.replace("shop", "pantry").replace("SHOP", "PANTRY") for url in urls]


ACCEPTED = of_pantry(recipe.ACCEPTED)
REFUSED = [*of_pantry(recipe.REFUSED), "https://\uff50antry.example", "https://pan\xadtry.example"]


@pytest.mark.proves("ASVS 3.7.2", "ASVS 1.2.2")
@pytest.mark.parametrize("url", ACCEPTED)
def test_asvs_3_7_2_a_path_of_ours_or_a_trusted_origin(url: str) -> None:
    assert trusted_redirect(url, TRUSTED)


@pytest.mark.proves("ASVS 3.7.2", "ASVS 1.2.2")
@pytest.mark.parametrize("url", REFUSED)
def test_asvs_3_7_2_everything_else_is_refused(url: str) -> None:
    assert not trusted_redirect(url, TRUSTED)


@given(st.text())
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_location_is_ascii_and_the_same_to_who_reads_it(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate: read_body and urllib let none in
    if trusted_redirect(f"/{text}", TRUSTED):
        written = location(f"/{text}")
        assert re.fullmatch(r"[ -~]*", written)
        assert httpx.URL(written) == httpx.URL(location(written)), "to encode it again changes nothing"
        assert trusted_redirect(written, TRUSTED)


# ---------------------------------------------------------------- what a browser makes of it

NODE = """
const [bases, urls] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const read = (url, base) => {
  try { const u = new URL(url, base); return [u.origin, u.hostname]; } catch { return null; }
};
console.log(JSON.stringify(bases.map(base => urls.map(url => read(url, base)))));
"""


@pytest.fixture(scope="module")
def browsers_read() -> Callable[[list[str], list[str]], list[list[tuple[str, str] | None]]]:
    """For each base, each URL's origin and host as `new URL(url, base)` has them (WHATWG URL); None for no URL."""
    node = shutil.which("node")
    if node is None:
        reason = "Node is not installed: no browser's URL parser was asked"
        if os.environ.get("REQUIRE_NODE"):
            pytest.fail(reason)
        pytest.skip(reason)

    def read(bases: list[str], urls: list[str]) -> list[list[tuple[str, str] | None]]:
        sent = json.dumps([bases, urls])
        done = subprocess.run([node, "-e", NODE], input=sent, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


def hostile_urls() -> Iterator[str]:
    """The tables above, each with every troublesome character at every place, and random text of such characters."""
    trouble = [chr(n) for n in range(0x100)] + list(
        "\u2028\u2029\u3002\uff0e\uff0f\uff3c\uff1a\uff20\u212a\u017f\ufeff\u200b\u00ad"
    )
    for url in ("/x", "//x", OURS, f"{OURS}/x", f"{APP}/", f"{OURS}@evil.example/", "https://evil.example/"):
        for place in range(len(url) + 1):
            for character in trouble:
                yield url[:place] + character + url[place:]
                yield url[:place] + character + url[place + 1 :]
    yield from ACCEPTED
    yield from REFUSED
    dice, pieces = (
        random.Random(4),
        ["/", "\\", ":", "@", "?", "#", ".", "%", "%2f", "%5c", "%2e", "\t", "\n", " ", "..", "//"],
    )
    pieces += [
        "http",
        "https:",
        "https://",
        OURS,
        APP,
        "pantry.example",
        "evil.example",
        "443",
        "javascript:",
        "\u3002",
        "[",
        "]",
    ]
    for _ in range(40_000):
        yield "".join(dice.choices(pieces, k=dice.randint(1, 7)))


@pytest.mark.proves("ASVS 1.5.3", "ASVS 3.7.2")
def test_asvs_1_5_3_no_accepted_redirect_leads_a_browser_away(browsers_read: Callable[..., Any]) -> None:
    urls = list(dict.fromkeys(hostile_urls()))
    accepted = [url for url in urls if trusted_redirect(url, TRUSTED)]
    bases = [f"{OURS}/", f"{OURS}/a/b?c#d", f"{APP}/x", "http://localhost:3000/y"]
    assert 1000 < len(accepted) < len(urls) / 2
    for base, found in zip(bases, browsers_read(bases, accepted), strict=True):
        here = origin_of(base)
        for url, read in zip(accepted, found, strict=True):
            assert read is not None, f"{url!r} is no URL for a browser"
            assert read[0] == here if url.startswith("/") else read[0] in TRUSTED, (
                f"{url!r} leads from {base} to {read[0]}"
            )


def test_what_is_taken_for_a_trusted_origin_is_one_to_a_browser(browsers_read: Callable[..., Any]) -> None:
    """Also for `Origin` and `Referer`, which `trusted_redirect` does not see."""
    urls = [url for url in dict.fromkeys(hostile_urls()) if origin_of(url) in TRUSTED]
    assert len(urls) > 1000
    for url, read in zip(urls, browsers_read(["http://localhost:3000/"], urls)[0], strict=True):
        assert read is not None, f"{url!r} is no URL for a browser"
        assert read[0] == origin_of(url), repr(url)


def test_the_page_says_where_browsers_go(browsers_read: Callable[..., Any]) -> None:
    found = browsers_read(["http://pantry.localhost/app/"], list(GOES_TO))[0]
    assert {url: read[1] or None for url, read in zip(GOES_TO, found, strict=True)} == GOES_TO


# ---------------------------------------------------------------- every route of the whole service


CODES = {
    "callbackURL": ("INVALID_CALLBACK_URL", "Invalid callbackURL"),
    "redirectTo": ("INVALID_REDIRECT_URL", "Invalid redirectURL"),
    "errorCallbackURL": ("INVALID_ERROR_CALLBACK_URL", "Invalid errorCallbackURL"),
    "newUserCallbackURL": ("INVALID_NEW_USER_CALLBACK_URL", "Invalid newUserCallbackURL"),
}


def routes(auth: Any, method: str) -> list[str]:
    """The paths that take `method`, parameters filled in."""
    found = iter_route_contexts(better_auth(auth).routes)
    return [re.sub(r"{.*?}", "missing", route.path) for route in found if method in (route.methods or ())]


def rows(engine: sa.Engine) -> dict[str, list[Any]]:
    """All that is stored."""
    with engine.connect() as connection:
        return {
            name: connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all()
            for name, table in Base.metadata.tables.items()
            if name in ("users", "accounts", "sessions", "verifications")
        }


@pytest.fixture
def service(auth_service: Callable[..., Any]) -> Any:
    """The service, with Ada signed in."""
    service = auth_service(rate_limits=False, require_email_verification=False, trusted_origins=("http://app.example",))
    assert service.sign_up().status_code == 200
    service.mails()
    return service


@pytest.mark.proves("ASVS 3.5.1")
def test_asvs_3_5_1_no_other_origin_acts_with_the_cookie(service: Any) -> None:
    before, posts = rows(service.auth.engine), routes(service.auth, "POST")
    assert len(posts) >= 10
    forged = (
        ({"origin": "http://evil.example"}, "INVALID_ORIGIN"),
        ({"origin": "http://blog.localhost:8000", "sec-fetch-site": "same-site"}, "INVALID_ORIGIN"),
        ({"origin": "http://localhost:8001"}, "INVALID_ORIGIN"),
        ({"origin": "https://localhost:8000"}, "INVALID_ORIGIN"),
        ({"origin": "null", "sec-fetch-site": "cross-site"}, "MISSING_OR_NULL_ORIGIN"),
        ({"origin": "", "referer": "http://evil.example/localhost:8000"}, "INVALID_ORIGIN"),
        ({"origin": ""}, "MISSING_OR_NULL_ORIGIN"),
    )
    for path in posts:
        for headers, code in forged:
            for content in ({"json": {}}, {"content": b""}):
                answer = service.client.post(path, headers=headers, **content)
                assert (answer.status_code, answer.json()["code"]) == (403, code), f"{path} {headers}"
                assert "set-cookie" not in answer.headers
    assert rows(service.auth.engine) == before
    assert service.whoami()["user"]["email"] == "ada@example.com"


@pytest.mark.proves("ASVS 3.5.1")
def test_asvs_3_5_1_no_other_origin_signs_a_browser_in_or_up(service: Any) -> None:
    before = rows(service.auth.engine)
    person = {"name": "M", "email": "mallory@example.com", "password": "a long password of hers"}
    forged = (
        {"origin": "http://evil.example"},
        {"origin": "http://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"origin": "http://localhost:8000", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"origin": "null", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"referer": "http://evil.example/"},
        {"sec-fetch-mode": "no-cors"},
    )
    for path in FORMS:
        for headers in forged:
            for content in ({"json": person}, {"data": person}):
                with LiveClient(str(service.client.base_url)) as browser:
                    answer = browser.post(path, headers=headers, **content)
                assert answer.status_code == 403, f"{path} {headers}"
                assert not {"set-cookie", "location"} & answer.headers.keys()
    assert rows(service.auth.engine) == before
    with LiveClient(str(service.client.base_url)) as program:
        assert program.post(FORMS[1], data=person).status_code == 200


@pytest.mark.proves("ASVS 3.5.2")
def test_asvs_3_5_2_what_needs_no_preflight_is_refused(service: Any) -> None:
    """Pages of other sites may send these three types without being asked: none reaches a route, but for the forms."""
    for path in routes(service.auth, "POST"):
        for kind in ("text/plain", "text/plain;charset=application/json", "multipart/form-data; boundary=x", FORM):
            answer = service.client.post(path, content=b'{"a": "b"}', headers={"content-type": kind})
            assert answer.status_code == 415 or (kind == FORM and path in FORMS), f"{path} {kind}"


@pytest.mark.proves("ASVS 3.4.2", "ASVS 3.5.2")
def test_asvs_3_4_2_no_other_origin_may_read_an_answer(service: Any) -> None:
    for method in ("GET", "POST"):
        for path in routes(service.auth, method):
            for origin in ("http://evil.example", "http://app.example", "null"):
                asked = {
                    "origin": origin,
                    "access-control-request-method": method,
                    "access-control-request-headers": "content-type",
                }
                assert service.client.options(path, headers=asked).status_code == 404
                for answer in (
                    service.client.options(path, headers=asked),
                    service.client.request(method, path, headers={"origin": origin}),
                ):
                    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.proves("ASVS 3.5.3")
def test_asvs_3_5_3_a_link_on_another_site_changes_nothing(service: Any) -> None:
    before = rows(service.auth.engine)
    for path in routes(service.auth, "GET"):
        for method in ("GET", "HEAD", "OPTIONS"):
            headers = {"origin": "http://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
            service.client.request(method, f"{path}?token=missing&callbackURL=/", headers=headers)
    for path in routes(service.auth, "POST"):
        assert service.client.get(path).status_code in (200, 404)
    assert rows(service.auth.engine) == before


@pytest.mark.proves("ASVS 3.7.2")
def test_asvs_3_7_2_every_route_checks_every_redirect(service: Any) -> None:
    before = rows(service.auth.engine)
    for method in ("GET", "POST"):
        for path in routes(service.auth, method):
            for name, (code, words) in CODES.items():
                for url in ("//evil.example", "javascript:alert(1)"):
                    asked = [service.client.request(method, path, params={name: url, "token": "x"})]
                    asked.append(service.client.request(method, path, params=[(name, "/"), (name, url), (name, "/")]))
                    if method == "POST":
                        asked.append(service.client.post(path, json={name: url}))
                        asked.append(service.client.post(path, json={name: ""}, params={name: url}))
                    for answer in asked:
                        assert (answer.status_code, answer.json()["code"]) == (403, code), (
                            f"{method} {path} {name} {url}"
                        )
                        assert not {"location", "set-cookie"} & answer.headers.keys()
                if method == "POST":
                    for value in (7, True, ["/"], {"a": "/"}):
                        answer = service.client.post(path, json={name: value})
                        assert (answer.status_code, answer.json()) == (400, {"message": f"{words}: expected a string"})
    assert rows(service.auth.engine) == before


def test_a_front_end_of_a_trusted_origin_goes_on_working(service: Any) -> None:
    front_end = {"origin": "http://app.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    answer = service.sign_in(callbackURL="http://app.example/welcome?x=1", headers=None)
    assert answer.headers["location"] == "http://app.example/welcome?x=1"
    assert service.post("/update-user", {"name": "Ada L."}, headers=front_end).status_code == 200
    assert service.whoami()["user"]["name"] == "Ada L."
    with LiveClient(str(service.client.base_url), headers=front_end) as browser:
        assert service.sign_in(client=browser).status_code == 200
        assert service.post("/sign-out", client=browser).json() == {"success": True}


def test_who_follows_a_link_from_another_site_is_still_signed_in(service: Any) -> None:
    followed = {
        "origin": "",
        "referer": "http://evil.example/",
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
    }
    for headers in (followed, {"origin": "http://evil.example"}, {"origin": "null"}):
        answer = service.client.get("/api/auth/get-session", headers=headers)
        assert answer.json()["user"]["email"] == "ada@example.com"


def test_an_unknown_path_is_unknown_before_anything_is_checked(service: Any) -> None:
    answer = service.client.post(
        "/api/auth/nowhere?callbackURL=http://evil.example", headers={"origin": "http://evil.example"}
    )
    assert (answer.status_code, answer.content) == (404, b"")


# ---------------------------------------------------------------- a real browser

THEN = {"ada": "/sign-out", "bob": "/sign-in/email", "carol": ""}  # where the form of each story leads
COMPARED = ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "cookie")


@dataclass
class Recorder:
    """ASGI: remembers what was sent to /api/auth, and passes it on."""

    app: ASGIApp
    seen: list[dict[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/auth"):
            headers = Headers(scope=scope)
            sent = {name: headers[name] for name in COMPARED if name in headers}
            self.seen.append({"request": f"{scope['method']} {scope['path']}"} | sent)
        await self.app(scope, receive, send)
        with self.changed:
            self.changed.notify_all()

    def first(self, request: str) -> dict[str, str]:
        """The first one of this kind since `seen` was cleared, waited for at most 20 seconds."""

        def found() -> dict[str, str] | None:
            return next((row for row in self.seen if row["request"] == request), None)

        with self.changed:
            row = self.changed.wait_for(found, 20)
        assert row, f"{request} did not arrive; {self.seen}"
        return row


PASSWORDS = {name: f"the long password of {name}" for name in ("ada", "mallory")}
HERE, BLOG, THERE = "http://pantry.localhost", "http://blog.pantry.localhost", "http://evil.localhost"
LINK = f"{HERE}/api/auth/verify-email?callbackURL={THERE}/sign-in"
STORIES = (("ada", f"{BLOG}/recipes"), ("bob", f"{THERE}/kittens"), ("carol", LINK))


class SignIn(Sent):
    email: Text
    password: str


def small_routes() -> APIRouter:
    """Four routes in Pantry's wire, which remember sessions in a dictionary."""
    router = APIRouter(prefix="/api/auth", dependencies=[Depends(anyone)])
    sessions: dict[str | None, str] = {}

    @router.post("/sign-in/email")
    def sign_in(response: Response, auth: Service, sent: Annotated[SignIn, body(SignIn)]) -> dict[str, str]:
        if PASSWORDS.get(sent.email) != sent.password:
            raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD", "Invalid email or password")
        token = auth.random_bytes(16).hex()
        sessions[token] = sent.email
        response.set_cookie("session", token, httponly=True, samesite="lax")
        return {"user": sent.email}

    @router.get("/get-session")
    def get_session(request: Request) -> str | None:
        return sessions.get(request.cookies.get("session"))

    @router.post("/sign-out")
    def sign_out(request: Request) -> dict[str, bool]:
        return {"success": sessions.pop(request.cookies.get("session"), None) is not None}

    @router.get("/verify-email")
    def verify_email(callbackURL: str = "/") -> Response:
        return Response(status_code=302, headers={"location": callbackURL})

    return router


def small_pantry(guards: list[Any]) -> FastAPI:
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    ids = Identifiers(clock, SeededBytes(1))
    settings, engine = Settings(environment="test", base_url=HERE), make_engine(lesson_url())
    auth = Auth(settings, engine, clock, ids, Postbox(MemorySender()), SeededBytes(2))
    return auth_app(auth, [small_routes()], guards)


def submitting(path: str, **fields: str) -> HTMLResponse:
    """A page with a form of ours that its script submits."""
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    script = "<script>document.forms[0].submit()</script>"
    return HTMLResponse(f'<form method="post" action="{HERE}/api/auth{path}">{inputs}</form>{script}')


extra = APIRouter(prefix="/api/auth", dependencies=[Depends(anyone)])
others = FastAPI()
others.get("/recipes")(lambda: submitting("/sign-out"))
others.get("/kittens")(lambda: submitting("/sign-in/email", email="mallory", password=PASSWORDS["mallory"]))
others.get("/sign-in")(lambda: HTMLResponse("It looks like ours. Your password, please?"))


@extra.get("/form")
def form_of_ours() -> HTMLResponse:
    """A form on a page that tells nobody where it is."""
    page = '<form method="post" action="/api/auth/sign-out"></form><script>document.forms[0].submit()</script>'
    return HTMLResponse(page, headers={"referrer-policy": "no-referrer"})


@others.get("/framed")
def framed(to: str) -> HTMLResponse:
    """A sandboxed frame with a form in it: its origin is `null`."""
    inner = f"<form method=post action={to}></form><script>document.forms[0].submit()</script>"
    return HTMLResponse(f'<iframe sandbox="allow-scripts allow-forms" srcdoc="{inner}"></iframe>')


@dataclass
class World:
    """Two servers, ours and theirs, and a Chromium that finds them under their names."""

    chromium: Chromium
    ours: LiveClient
    theirs: LiveClient
    recorder: Recorder

    def stand_in(self) -> Any:
        hosts = {"pantry.localhost": self.ours, "blog.pantry.localhost": self.theirs, "evil.localhost": self.theirs}
        return Browser({name: str(client.base_url) for name, client in hosts.items()})


@pytest.fixture(scope="module")
def open_world(browser_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """A function that opens a World with these guards; what was opened with the same ones is used again."""
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        opened: dict[bool, World] = {}

        def open(guarded: bool) -> World:
            if guarded not in opened:
                app = small_pantry([check_cross_site] if guarded else [])
                app.include_router(extra, dependencies=[Depends(check_cross_site)] if guarded else [])
                recorder = Recorder(app)
                ours, theirs = stack.enter_context(serving(recorder)), stack.enter_context(serving(others))
                names = {"pantry.localhost": ours, "*.localhost": theirs}
                rules = ", ".join(f"MAP {n}:80 127.0.0.1:{server.base_url.port}" for n, server in names.items())
                flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
                home = str(tmp_path_factory.mktemp("home"))
                chromium = playwright.chromium.launch(
                    executable_path=browser_program, headless=True, args=[*flags, f"--host-resolver-rules={rules}"],
                    env=dict(os.environ) | {"HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home},
                )  # fmt: skip
                stack.callback(chromium.close)
                opened[guarded] = World(chromium, ours, theirs, recorder)
            return opened[guarded]

        yield open


@contextmanager
def a_person(world: World, who: str | None = None) -> Iterator[Any]:
    """A page of a new browser profile; `who` is signed in."""
    context = world.chromium.new_context()
    try:
        shown = context.new_page()
        if who:
            shown.goto(f"{HERE}/api/auth/get-session")
            fetch(shown, "/api/auth/sign-in/email", {"email": who, "password": PASSWORDS[who]})
        yield shown
    finally:
        context.close()


def fetch(shown: Any, url: str, content: dict[str, str] | None = None, **options: str) -> Any:
    """What a script on the page shown gets: the status, or the kind of failure."""
    sent = (
        {"method": "POST", "headers": {"content-type": JSON}, "body": json.dumps(content)}
        if content is not None
        else {}
    )
    script = (
        "async ([url, options]) => { try { return (await fetch(url, options)).status } catch (e) { return e.name } }"
    )
    return shown.evaluate(script, [url, sent | options])


def signed_in(world: World, shown: Any) -> str | None:
    """Who the browser is, asked by a page of ours in the same profile."""
    other = shown.context.new_page()
    other.goto(f"{HERE}/api/auth/get-session")
    return json.loads(other.evaluate("document.body.innerText"))


def arrive(shown: Any, url: str, then: str = "") -> None:
    """Go to a page; with `then`, until a form on it has led on to that path."""
    shown.goto(url, wait_until="commit" if then else "load")
    if then:
        shown.wait_for_url(f"**/api/auth{then}", wait_until="commit")


def test_the_stand_in_of_the_page_sends_what_chromium_sends(open_world: Callable[..., World]) -> None:
    world = open_world(guarded=False)
    ada = {"email": "ada", "password": PASSWORDS["ada"]}
    start, urls = f"{HERE}/api/auth/get-session", [f"{BLOG}/recipes", f"{THERE}/kittens", LINK]
    assert urls == [url for _, url in STORIES]

    stand_in = world.stand_in()
    world.recorder.seen.clear()
    for url in urls:
        stand_in.page = None
        stand_in.open(start)
        stand_in.send("POST", f"{HERE}/api/auth/sign-in/email", "cors", json=ada)
        stand_in.page = None
        stand_in.open(url)
    ours = list(world.recorder.seen)

    world.recorder.seen.clear()
    with a_person(world) as shown:
        for url, then in zip(urls, THEN.values(), strict=True):
            arrive(shown, start)
            fetch(shown, "/api/auth/sign-in/email", ada)
            with shown.context.new_page() as typed:  # an address that was typed has no page before it
                arrive(typed, url, then)
    theirs = list(world.recorder.seen)

    def comparable(sent: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{name: "yes" if name == "cookie" else value for name, value in row.items()} for row in sent]

    assert comparable(ours) == comparable(theirs)
    assert len(ours) == 9


@pytest.mark.parametrize("guarded", [False, True])
def test_the_stories_of_the_page_end_in_chromium_as_they_do_there(
    open_world: Callable[..., World], guarded: bool
) -> None:
    world = open_world(guarded)
    ends = {}
    for who, url in STORIES:
        with a_person(world, who if who == "ada" else None) as shown:
            arrive(shown, url, THEN[who])
            ends[who] = (signed_in(world, shown), httpx.URL(shown.url).host)
    expected = (
        {"ada": None, "bob": "mallory", "carol": None} if not guarded else {"ada": "ada", "bob": None, "carol": None}
    )
    assert {who: name for who, (name, _) in ends.items()} == expected
    assert ends["carol"][1] == ("pantry.localhost" if guarded else "evil.localhost")


@pytest.mark.proves("ASVS 3.5.1", "ASVS 3.5.2")
def test_asvs_3_5_2_scripts_of_other_origins_in_chromium(open_world: Callable[..., World]) -> None:
    world = open_world(guarded=True)
    with a_person(world, "ada") as shown:
        shown.goto(f"{BLOG}/sign-in")
        world.recorder.seen.clear()
        assert fetch(shown, f"{HERE}/api/auth/sign-out", {}, credentials="include") == "TypeError"
        assert [row["request"] for row in world.recorder.seen] == ["OPTIONS /api/auth/sign-out"], (
            "the preflight, and no more"
        )
        world.recorder.seen.clear()
        fetch(shown, f"{HERE}/api/auth/sign-out", method="POST", mode="no-cors", credentials="include")
        assert [row["request"] for row in world.recorder.seen] == ["POST /api/auth/sign-out"]
        assert {"cookie", "origin"} <= world.recorder.seen[0].keys(), (
            "SameSite does not keep the cookie from a subdomain"
        )
        assert signed_in(world, shown) == "ada"


def test_null_is_refused_from_a_sandbox_and_taken_from_a_page_of_ours_in_chromium(
    open_world: Callable[..., World],
) -> None:
    world = open_world(guarded=True)
    with a_person(world, "ada") as shown:
        world.recorder.seen.clear()
        arrive(shown, f"{BLOG}/framed?to={HERE}/api/auth/sign-out")
        sent = world.recorder.first("POST /api/auth/sign-out")
        assert (sent["origin"], sent["sec-fetch-site"]) == ("null", "cross-site")
        assert signed_in(world, shown) == "ada"
        world.recorder.seen.clear()
        arrive(shown, f"{HERE}/api/auth/form", THEN["ada"])
        sent = world.recorder.first("POST /api/auth/sign-out")
        assert (sent["origin"], sent["sec-fetch-site"]) == ("null", "same-origin")
        assert signed_in(world, shown) is None


def test_strict_is_no_better_against_a_subdomain_in_chromium(open_world: Callable[..., World]) -> None:
    world = open_world(guarded=False)
    with a_person(world, "ada") as shown:
        cookie = shown.context.cookies()[0] | {"sameSite": "Strict"}
        shown.context.clear_cookies()
        shown.context.add_cookies([cookie])
        arrive(shown, f"{BLOG}/recipes", THEN["ada"])
        assert signed_in(world, shown) is None, "signed out by the blog"


def test_a_redirect_beyond_latin_1_is_percent_encoded(auth_service: Callable[..., Any]) -> None:
    """A header is ASCII; until this was encoded, the session was committed and the answer was 500."""
    service = auth_service(require_email_verification=False, rate_limits=False)
    service.sign_up(callbackURL="/€")
    answer = service.sign_in(callbackURL="/€")
    assert (answer.status_code, answer.headers["location"]) == (200, "/%E2%82%AC")
    service.auth.postbox.drain()
    mail = service.sender.last("ada@example.com", "verify-email")
    answer = service.client.get(mail.url.removeprefix("http://localhost:8000"))
    assert (answer.status_code, answer.headers["location"]) == (302, "/%E2%82%AC")
