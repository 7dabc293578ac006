"""A session that is prolonged is prolonged in the browser as well, whatever the answer is and whoever makes it.

Every route of both apps is asked in many ways; routes of this file stand beside them and answer in every other way.
The session is due each time. The rule: the answer renews the cookie if and only if the row's end moved; it clears the
cookies if the session is dead; and it sets no cookie twice.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi.routing import iter_route_contexts

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, hash_token
from playbook.kit import postgres
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.auth import better_auth as better_auth_contract
from playbook.pantry.auth.sessions import (
    SESSION,
    CurrentSession,
    cookies_of,
    end_sessions,
    find_session,
    lifetimes_of,
    remembered,
    start_session,
)  # fmt: skip
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.pantry.http import CurrentCaller
from playbook.pantry.settings import Settings
from playbook.schema.identity import User, add_user
from tests.auth.conftest import ORIGIN

DAY = timedelta(days=1)
COOKIE = "better-auth.session_token"
ANSWERS = "/answers"  # the routes of this file, in the resource API; /api/auth/answers in the other
STATUSES = (400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 423, 428, 429, 500, 503)


# ---------------------------------------------------------------- routes that answer in every way there is


def other_ways(prefix: str, caller: Any, error: Callable[[int], Exception]) -> APIRouter:
    """Routes that know their caller and then answer without the `Response` that FastAPI would have given them."""
    routes = APIRouter(prefix=prefix)

    @routes.post("/error/{status}")
    def error_of_the_app(status: int, who: caller) -> None:
        raise error(status)

    @routes.post("/http/{status}")
    def error_of_the_framework(status: int, who: caller) -> None:
        raise HTTPException(status)

    @routes.post("/own/{status}", response_model=None)
    def own_response(status: int, who: caller) -> Response:
        return JSONResponse({}, status)

    @routes.get("/redirect", response_model=None)
    def redirect(who: caller) -> Response:
        return RedirectResponse("/elsewhere", 303)

    @routes.get("/not-modified", response_model=None)
    def not_modified(who: caller) -> Response:
        return Response(status_code=304)

    @routes.get("/stream", response_model=None)
    def stream(who: caller) -> Response:
        return StreamingResponse(iter([b"a", b"b"]))

    @routes.get("/asked-twice")
    def asked_twice(request: Request, who: caller) -> None:
        request.app.state.find_caller(request) if hasattr(request.app.state, "find_caller") else None

    @routes.get("/bug")
    def bug(who: caller) -> None:
        raise RuntimeError("hunter2")

    @routes.get("/no-database")
    def no_database(who: caller) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("gone"))

    return routes


THEIRS = other_ways(ANSWERS, CurrentCaller, HTTPException)
OURS = other_ways(f"/api/auth{ANSWERS}", CurrentSession, lambda status: AuthError(status, "FOR_THE_TEST"))
# Asked some thousand times, so written once.
MINE = UserSession.token_hash == sa.bindparam("mine")
END = sa.select(UserSession.expires_at).where(MINE, UserSession.expires_at > sa.bindparam("now"))
MOVE = sa.update(UserSession).where(MINE).returning(UserSession.id)


@dataclass
class Both:
    """Pantry with both apps, somebody whose session is due, and every route that there is."""

    client: LiveClient
    browser: LiveClient  # keeps no cookies and no connections
    app: FastAPI
    parts: dict[str, FastAPI]
    auth: Auth
    user: Any
    token: str = ""

    @property
    def clock(self) -> FixedClock:
        assert isinstance(self.auth.clock, FixedClock)
        return self.auth.clock

    def sign_in(self, age: timedelta = 2 * DAY) -> None:
        """A new session that is `age` old, in the client's cookies."""
        nobody = Request({"type": "http", "headers": [], "client": None})

        def work(db: Any) -> str:
            end_sessions(db, self.user)
            if db.get(User, self.user) is None:
                db.add(User(id=self.user, name="Ada", email="ada@example.com", email_verified=True,
                            created_at=self.clock.now(), updated_at=self.clock.now()))  # fmt: skip
                db.flush()
            return start_session(db, self.auth, self.user, nobody)[1]

        self.clock.advance(-age)
        self.token = self.auth.transact(work)
        self.clock.advance(age)

    def be_due(self) -> None:
        """The session as `sign_in` makes it: moved back, as long as it is there, which costs one statement."""
        began = self.clock.now() - 2 * DAY
        values = {"created_at": began, "updated_at": began, "expires_at": began + lifetimes_of(self.auth).idle}
        with self.auth.engine.begin() as connection:
            there = connection.execute(MOVE, {"mine": hash_token(self.token)} | values).first()
        if there is None:
            self.sign_in()

    @property
    def cookie(self) -> str:
        return cookies_of(self.auth).put(SESSION, self.token).split(";")[0]

    def end(self) -> datetime | None:
        """When the session ends; None when it is over."""
        with self.auth.engine.connect() as connection:
            return connection.scalar(END, {"mine": hash_token(self.token), "now": self.clock.now()})

    def routes(self) -> list[tuple[str, str]]:
        """Method and path of every route of the product, its parameters filled in."""
        found = []
        for part in self.parts.values():
            for route in iter_route_contexts(part.routes):
                if hasattr(route, "dependant") and route.path and ANSWERS not in route.path:
                    path = re.sub(r"\{(\w+)(:\w+)?\}", "none", route.path)
                    found += [(method, path) for method in sorted(route.methods or ())]
        return sorted(set(found))


@contextmanager
def both_apps(url: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Iterator[Both]:
    made: dict[str, FastAPI] = {}
    parts_of_auth = better_auth_contract.auth_app

    def with_other_ways(auth: Auth, routers: Any, guards: Any) -> FastAPI:
        made["auth"] = parts_of_auth(auth, [*routers, OURS], guards)
        return made["auth"]

    monkeypatch.setattr(better_auth_contract, "auth_app", with_other_ways)
    given = {"environment": "test", "database_url": url, "base_url": ORIGIN, "rate_limits": False}
    clock = FixedClock(datetime.fromisoformat("2026-11-02T09:00:00+00:00"))
    app = pantry(Settings(**given | changes), clock=clock, sender=MemorySender())
    app.include_router(THEIRS)
    made["resources"] = app
    auth = app.state.auth
    user = auth.transact(lambda db: add_user(db, auth.clock, auth.ids, "ada@example.com", "Ada").id)
    with serving(app) as client:
        client.headers["origin"] = ORIGIN
        with LiveClient(
            str(client.base_url), headers={"origin": ORIGIN}, limits=httpx.Limits(max_keepalive_connections=0)
        ) as browser:
            browser.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            yield Both(client, browser, app, made, auth, user)
    auth.engine.dispose()


@pytest.fixture
def both(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    with both_apps(url, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def shared(request: pytest.FixtureRequest) -> Iterator[Both]:
    """For tests that make no difference to each other: each asks every route, and begins with a session that is due."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "postgresql":
            database = postgres.database(request.getfixturevalue("postgres_server"))
            url = stack.enter_context(database)
        else:
            url = "duckdb:///:memory:renewal"
        yield stack.enter_context(both_apps(url, monkeypatch))


# ---------------------------------------------------------------- the rule


def names_set(answer: Any) -> list[str]:
    return [cookie.partition("=")[0] for cookie in answer.headers.get_list("set-cookie")]


def broken(both: Both, answer: Any, before: datetime | None, after: datetime | None, token: str) -> str:
    """How an answer breaks the rule; empty when it does not. `before`, `after`: the session's end then."""
    names = names_set(answer)
    if len(set(names)) != len(names):
        return f"a cookie is set twice: {names}"
    sent = [c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{COOKIE}=")]
    if before is None or after is None:  # dead, or ended by this request
        cleared = sent and "Max-Age=0" in sent[0]
        changed = sent and token not in sent[0]  # another session in its place
        return "" if cleared or changed or (before is None and not sent) else f"a dead session's cookie: {sent}"
    if after != before and not sent:
        return "the row's end moved, and the browser was not told"
    if after == before and sent:
        return f"the row stands where it was, and the browser was told {sent}"
    if sent:
        ages = re.findall(r"Max-Age=(\d+)", sent[0])
        left = (after - both.clock.now()).total_seconds()
        if not ages or not 0 < int(ages[0]) <= left or token not in sent[0]:
            return f"{sent} with {left} s left"
        if not re.search("no-store|private", answer.headers.get("cache-control", "")) and "update-user" not in str(
            answer.url
        ):
            return "a shared cache may keep the cookie"
    return ""


@dataclass(frozen=True)
class Kind:
    """A way to ask: what is sent besides the cookie."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    query: str = ""
    method: str = ""


JSON, KEY = {"content-type": "application/json"}, {"idempotency-key": '"0123456789abcdef"'}
KINDS = [
    Kind("plain"),
    Kind("empty object", JSON, b"{}"),
    Kind("bad JSON", JSON, b"{"),
    Kind("other type", {"content-type": "text/plain"}, b"x"),
    Kind("unknown parameter", query="?hunter=2"),
    Kind("URL that is no text", query="?%ff"),
    Kind("too large", JSON, b'"' + b"x" * 1_100_000 + b'"'),
    Kind("conditions that hold", {"if-none-match": "*", "if-match": "*"}),
    Kind("conditions that fail", {"if-match": '"x"', **JSON}, b"{}"),
    Kind("not acceptable", {"accept": "image/png"}),
    Kind("with a key", {**KEY, **JSON}, b"{}"),
    Kind("bad key", {"idempotency-key": "short", **JSON}, b"{}"),
    Kind("HEAD", method="HEAD"),
    Kind("OPTIONS", method="OPTIONS"),
    Kind("wrong method", method="PUT"),
    Kind("another site", {"origin": "https://evil.example", **JSON}, b"{}"),
]  # fmt: skip


def ask(both: Both, method: str, path: str, kind: Kind) -> Any:
    url, headers = path + kind.query, {"cookie": both.cookie} | kind.headers
    return both.browser.request(kind.method or method, url, headers=headers, content=kind.content)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_route_renews_the_cookie_if_and_only_if_the_row_moved(shared: Both, kind: Kind) -> None:
    found, moved = [], 0
    for method, path in shared.routes():
        shared.be_due()
        before, token = shared.end(), shared.token
        answer = ask(shared, method, path, kind)
        after = shared.end()
        if wrong := broken(shared, answer, before, after, token):
            found.append(f"{method} {path} {answer.status_code}: {wrong}")
        moved += after != before
    assert found == []
    assert moved > 4 or kind.name in ("URL that is no text", "wrong method", "OPTIONS", "another site")


@pytest.mark.parametrize("prefix", [ANSWERS, f"/api/auth{ANSWERS}"])
@pytest.mark.parametrize("way", ["error", "http", "own"])
def test_every_status_renews_it(shared: Both, prefix: str, way: str) -> None:
    for status in STATUSES:
        shared.sign_in()
        before = shared.end()
        answer = ask(shared, "POST", f"{prefix}/{way}/{status}", Kind("", JSON, b"{}"))
        assert answer.status_code == (404 if (way, status, prefix[:4]) == ("http", 405, "/api") else status)
        after = shared.end()
        assert after != before
        assert broken(shared, answer, before, after, shared.token) == "", status


@pytest.mark.parametrize("prefix", [ANSWERS, f"/api/auth{ANSWERS}"])
@pytest.mark.parametrize("way", ["redirect", "not-modified", "stream", "asked-twice", "bug", "no-database"])
def test_every_other_answer_renews_it(shared: Both, prefix: str, way: str) -> None:
    shared.sign_in()
    before = shared.end()
    answer = ask(shared, "GET", f"{prefix}/{way}", Kind(""))
    expected = {"redirect": 303, "not-modified": 304, "bug": 500, "no-database": 503}
    assert answer.status_code == expected.get(way, 200)
    after = shared.end()
    assert after != before
    assert broken(shared, answer, before, after, shared.token) == ""


@pytest.mark.parametrize("shared", ["duckdb"], indirect=True)  # what clears a cookie does not depend on the database
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_route_renews_the_cookie_of_a_dead_session_and_those_that_look_clear_it(shared: Both, kind: Kind) -> None:
    found, cleared = [], 0
    shared.sign_in()
    shared.auth.transact(lambda db: end_sessions(db, shared.user))
    for method, path in shared.routes():
        assert shared.end() is None, "the last request brought it back"
        answer = ask(shared, method, path, kind)
        cleared += "Max-Age=0" in answer.headers.get("set-cookie", "")
        if wrong := broken(shared, answer, None, shared.end(), shared.token):
            found.append(f"{method} {path} {answer.status_code}: {wrong}")
        refused = answer.status_code == 401 and kind.name == "plain" and "INVALID" not in answer.text
        if refused and len(names_set(answer)) != 3:
            found.append(f"{method} {path}: 401, and the cookies stay")
    assert found == []
    assert cleared > 4 or kind.name in ("URL that is no text", "wrong method", "OPTIONS", "another site")


FAULTS: list[Callable[[], Exception]] = [  # each time a new one: a traceback grows with each raise
    lambda: RuntimeError("hunter2"),
    lambda: sa.exc.OperationalError("SELECT", {}, Exception("gone")),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_after_the_row_has_moved(both: Both, fault: Callable[[], Exception]) -> None:
    """Every route again, with bodies that pass: once the session is prolonged, the next statement fails."""

    def fail(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if state["prolonged"]:
            state["failed"] += 1
            raise fault()
        state["seen"] |= sql.startswith("UPDATE sessions")

    def committed(connection: Any) -> None:
        state["prolonged"] |= state["seen"]

    state: dict[str, Any] = {}
    found, failures, statuses = [], 0, set()
    for method, path in both.routes():
        for content in BODIES:
            both.be_due()
            before, token = both.end(), both.token
            state |= {"seen": False, "prolonged": False, "failed": 0}
            sa.event.listen(both.auth.engine, "before_cursor_execute", fail)
            sa.event.listen(both.auth.engine, "commit", committed)
            try:
                answer = ask(both, method, path, Kind("", JSON | KEY, content))
                both.auth.postbox.drain()
            finally:
                sa.event.remove(both.auth.engine, "before_cursor_execute", fail)
                sa.event.remove(both.auth.engine, "commit", committed)
            if state["failed"]:
                failures += 1
                statuses.add(answer.status_code)
            if wrong := broken(both, answer, before, both.end(), token):
                found.append(f"{method} {path} {answer.status_code}: {wrong}")
    assert found == []
    assert failures > 10
    assert statuses & {500, 503}


BODIES = [
    b'{"newEmail": "new@example.com", "newPassword": "violet anchor rides a slow train", "currentPassword": "x", '
    b'"password": "x", "token": "x", "email": "ada@example.com", "name": "Ada"}',
    b'{"slug": "team", "name": "Team"}',
    b'{"name": "Team"}',
]


# ---------------------------------------------------------------- several cookies, several requests


def test_signed_out_in_the_request_that_renewed_it_is_signed_out(both: Both) -> None:
    for path in ("revoke-session", "revoke-sessions", "sign-out", "delete-user"):
        both.sign_in(age=timedelta(minutes=5) if path == "delete-user" else 2 * DAY)
        handle = str(both.auth.transact(lambda db: find_session(db, both.token, both.clock.now())).session.id)
        answer = ask(both, "POST", f"/api/auth/{path}", Kind("", JSON, f'{{"token": "{handle}"}}'.encode()))
        if path == "delete-user":
            answer = ask(both, "POST", f"/api/auth/{path}", Kind("", JSON, b"{}"))
        assert answer.status_code == 200, path
        assert both.end() is None
        assert len(names_set(answer)) == len(set(names_set(answer))) == 3
        assert all("Max-Age=0" in cookie for cookie in answer.headers.get_list("set-cookie")), path


def test_a_renewal_that_was_rolled_back_sets_no_cookie(both: Both) -> None:
    """The commit fails, every time: the row stays, the answer is 503, the browser keeps what it has."""
    both.sign_in()
    before = both.end()

    def fail(connection: Any) -> None:
        raise sa.exc.OperationalError("COMMIT", {}, Exception("gone"))

    sa.event.listen(both.auth.engine, "commit", fail)
    try:
        for path in ("/api/auth/list-sessions", "/packages"):
            answer = ask(both, "GET", path, Kind(""))
            assert (answer.status_code, names_set(answer)) == (503, []), path
    finally:
        sa.event.remove(both.auth.engine, "commit", fail)
    assert both.end() == before


@pytest.mark.parametrize("path", ["/api/auth/list-sessions", "/packages", "/packages/none", "/api/auth/get-session"])
def test_of_many_at_once_one_moves_the_row_and_its_answer_renews(both: Both, path: str) -> None:
    both.sign_in()
    before = both.end()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: ask(both, "GET", path, Kind("")), range(12)))
    assert both.end() != before
    assert sum(names_set(answer) == [COOKIE] for answer in answers) == 1
    assert {answer.status_code for answer in answers} <= {200, 403, 404}


@pytest.mark.parametrize("route", ["POST /organizations", "POST /answers/own/409"])
def test_an_answer_that_is_kept_for_retries_has_no_cookie_in_it(both: Both, route: str) -> None:
    """The first answer renews the cookie; what is stored, and what a retry gets, holds none."""
    both.sign_in()
    method, path = route.split()
    kind = Kind("", JSON | KEY, b'{"slug": "team", "name": "Team"}')
    before = both.end()
    first = ask(both, method, path, kind)
    assert both.end() != before
    assert names_set(first) == [COOKIE]
    again = ask(both, method, path, kind)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, names_set(again)) == (first.status_code, [])
    with both.auth.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT answer FROM idempotency_keys")).scalars().all()
    assert stored
    assert not any(both.token in text or "set-cookie" in text.lower() for text in stored)


def test_what_is_not_to_be_remembered_is_not_renewed_by_an_error_either(both: Both) -> None:
    both.sign_in(age=timedelta(0))
    both.clock.advance(2 * DAY)
    before = both.end()
    mark = cookies_of(both.auth).put("dont_remember", "true").split(";")[0]
    for path in ("/packages/none", "/api/auth/list-sessions"):
        answer = ask(both, "GET", path, Kind("", {"cookie": f"{both.cookie}; {mark}"}))
        assert (answer.status_code in (403, 404), names_set(answer), both.end()) == (True, [], before)


# ---------------------------------------------------------------- as a browser sees it


class Browser:
    """Keeps cookies as RFC 6265 says, under the test's clock."""

    def __init__(self, both: Both) -> None:
        self.both, self.kept = both, {}

    def take(self, values: list[str]) -> None:
        for value in values:
            pair, *attributes = value.split("; ")
            name, _, content = pair.partition("=")
            ages = [int(a.removeprefix("Max-Age=")) for a in attributes if a.startswith("Max-Age=")]
            self.kept[name] = (content, self.both.clock.now() + timedelta(seconds=ages[0]) if ages else None)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        now = self.both.clock.now()
        self.kept = {name: kept for name, kept in self.kept.items() if kept[1] is None or kept[1] > now}
        sent = "; ".join(f"{name}={content}" for name, (content, _) in self.kept.items())
        with LiveClient(str(self.both.client.base_url), headers={"origin": ORIGIN}) as client:
            answer = client.request(method, path, headers={"cookie": sent} if sent else {}, **options)
        self.take(answer.headers.get_list("set-cookie"))
        return answer


ONLY = {
    "errors of /api/auth": ("POST", "/api/auth/verify-password", {"json": {"password": "wrong"}}, 400),
    "own responses": ("POST", f"/api/auth{ANSWERS}/own/418", {}, 418),
    "bugs": ("GET", f"/api/auth{ANSWERS}/bug", {}, 500),
    "packages that are not there": ("GET", "/packages/none", {}, 404),
    "what they may not do": ("POST", "/packages", {"json": {"name": "tool", "organization": "none"}}, 403),
    "lists": ("GET", "/packages", {}, 200),
    "bugs of the resource API": ("GET", f"{ANSWERS}/bug", {}, 500),
}


@pytest.mark.proves("ASVS 7.3.1", "ASVS 7.3.2")
@pytest.mark.parametrize("only", ONLY)
def test_who_is_active_stays_signed_in_to_the_absolute_end_and_no_longer(both: Both, only: str) -> None:
    """One request every five days, always of this kind, until the thirtieth day."""
    method, path, options, status = ONLY[only]
    browser, nobody = Browser(both), Request({"type": "http", "headers": [], "client": None})
    session, token = both.auth.transact(lambda db: start_session(db, both.auth, both.user, nobody))
    browser.take(remembered(both.auth, nobody, session, token, True))
    for day in range(5, 30, 5):
        both.clock.advance(5 * DAY)
        options.pop("headers", None)
        answer = browser.ask(method, path, **options)
        assert answer.status_code == status, f"on day {day}: {answer.text[:200]}"
    both.clock.advance(5 * DAY - timedelta(seconds=1))
    assert browser.ask("GET", "/api/auth/get-session").json()["user"]["name"] == "Ada"
    both.clock.advance(timedelta(seconds=1))
    assert browser.kept, "the browser was told when, too"
    assert browser.ask("GET", "/api/auth/get-session").json() is None
    assert not browser.kept


def test_a_cookie_never_outlives_its_session(both: Both) -> None:
    """Max-Age is whole seconds, and what is left rarely is."""
    both.sign_in(age=29 * DAY)
    both.auth.transact(lambda db: db.execute(sa.update(UserSession).values(expires_at=both.clock.now() + DAY / 2)))
    both.clock.advance(timedelta(milliseconds=400))
    before = both.end()
    answer = ask(both, "GET", "/packages/none", Kind(""))
    assert both.end() != before
    assert "Max-Age=86399;" in answer.headers["set-cookie"]
