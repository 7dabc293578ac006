"""API tokens in Pantry: what a machine may do, what it may not, and that no token is shown twice. Over real HTTP."""

import asyncio
import base64
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from starlette.requests import Request

from playbook.auth.api_tokens import find_leaks
from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, hash_token, is_token, new_token
from playbook.foundations.deny_by_default import anyone, routes_of
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.kit.stage import capture_sql, together
from playbook.pantry.access_log import AccessLog, OnlyKnown
from playbook.pantry.app import pantry
from playbook.pantry.auth.sessions import SESSION
from playbook.pantry.http import CurrentCaller, current_caller, refuse_unscoped
from playbook.pantry.keys import keys
from playbook.pantry.policy import PERMITS
from playbook.pantry.settings import Settings
from playbook.pantry.tokens import KEPT, MOST, ApiToken, Scope, purge_tokens
from playbook.schema.identity import User
from tests.auth.conftest import ORIGIN, PASSWORD

DAY = timedelta(days=1)
ALL = ["organizations:create", "organizations:delete", "organizations:read", "organizations:write",
       "packages:create", "packages:delete", "packages:publish", "packages:read", "packages:write"]  # fmt: skip
BEARER = 'Bearer realm="pantry"'


class Service:
    """Pantry with Ada, who has just signed in. `machine(token)` is a client without her cookie."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.clock, self.sender = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), MemorySender()
        settings = Settings(environment="test", database_url=url, base_url=ORIGIN, require_email_verification=False,
                            rate_limits=False)  # fmt: skip
        self.app = pantry(settings, clock=self.clock, sender=self.sender)
        self.client, self.stack = stack.enter_context(serving(self.app)), stack
        self.client.headers["origin"] = ORIGIN
        self.sign("up", "ada")

    @property
    def engine(self) -> sa.Engine:
        engine: sa.Engine = self.app.state.engine
        return engine

    def sign(self, how: str, name: str) -> None:
        person = {"name": name, "email": f"{name}@example.com", "password": PASSWORD}
        answer = self.client.post(f"/api/auth/sign-{how}/email", json=person)
        assert answer.status_code == 200, answer.text

    def make(self, *scopes: str, name: str = "CI", days: int = 90) -> str:
        body = {"name": name, "scopes": list(scopes or ALL), "days": days}
        answer = self.client.post("/tokens", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def machine(self, token: str = "", **headers: str) -> LiveClient:
        sent = {"authorization": f"Bearer {token}"} if token else {}
        return self.stack.enter_context(LiveClient(str(self.client.base_url), headers=sent | headers))

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/tokens").json()["items"]
        return found


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(url, stack)


def refused(answer: httpx.Response, status: int, challenge: str | None = None) -> dict[str, Any]:
    """The problem of a refusal, whose challenge is that of RFC 6750."""
    assert answer.status_code == status, answer.text
    assert answer.headers.get("www-authenticate") == challenge
    problem: dict[str, Any] = answer.json()
    return problem


# ---------------------------------------------------------------- sign in


def test_a_machine_works_with_a_token_and_nothing_else(service: Service) -> None:
    machine = service.machine(service.make())
    organization = {"slug": "acme", "name": "Acme"}
    assert machine.post("/organizations", json=organization).status_code == 201, "no Origin, no cookie"
    assert machine.post("/packages", json={"name": "tool", "organization": "acme"}).status_code == 201
    tag = machine.get("/packages/tool").headers["etag"]
    assert machine.patch("/packages/tool", json={"summary": "x"}, headers={"if-match": tag}).status_code == 200
    assert machine.get("/organizations/acme").json()["name"] == "Acme"
    assert service.client.get("/organizations/acme").status_code == 200, "her cookie works as before"
    assert machine.get("/packages").headers.get("set-cookie") is None


def test_a_token_is_shown_once_and_stored_as_a_hash(service: Service) -> None:
    made = service.client.post("/tokens", json={"name": "CI", "scopes": ["packages:read"] * 2, "days": 30})
    body = made.json()
    token = body.pop("token")
    assert is_token(token, "pantry")
    assert made.headers["cache-control"] == "no-store"
    assert body == service.client.get(made.headers["location"]).json() == service.listed()[0]
    assert body["scopes"] == ["packages:read"]
    assert body["expires_at"] == "2026-12-02T09:00:00Z"
    assert body["last_used_at"] is None
    with service.engine.connect() as db:
        [row] = db.execute(sa.select(ApiToken.__table__)).mappings()
    assert row["token_hash"] == hash_token(token)
    assert token not in str(dict(row))
    assert token not in service.client.get("/tokens").text


def test_a_key_does_not_keep_the_answer_that_shows_a_token(service: Service) -> None:
    body, key = {"name": "CI", "scopes": ["packages:read"], "days": 1}, {"idempotency-key": '"0123456789abcdef0"'}
    first, second = (service.client.post("/tokens", json=body, headers=key).json()["token"] for _ in "12")
    assert first != second
    with service.engine.connect() as db:
        assert db.execute(sa.select(keys)).all() == []


def test_it_may_come_as_basic_from_tools_that_know_nothing_else(service: Service) -> None:
    """As `twine upload` and `pip` send it, by httpx, and by the library that both of them use: requests."""
    requests = pytest.importorskip("requests")
    token = service.make("packages:read", "organizations:create")
    url = str(service.client.base_url)
    machine = service.machine()
    assert machine.get("/packages", auth=("__token__", token)).status_code == 200
    made = machine.post("/organizations", json={"slug": "acme", "name": "A"}, auth=("__token__", token))
    assert made.status_code == 201
    assert requests.get(f"{url}/packages", auth=("__token__", token), timeout=60).status_code == 200
    in_url = url.replace("://", f"://__token__:{token}@")
    assert requests.get(f"{in_url}/packages", timeout=60).status_code == 200, "an index URL of pip"
    refused(machine.get("/packages", auth=("ada", token)), 401, BEARER)
    refused(machine.get("/packages", auth=("__token__", token[:-1])), 401, f'{BEARER}, error="invalid_token"')


def test_what_opens_nothing_is_401_and_says_why(service: Service) -> None:
    good = service.make()
    wrong = ["x", good[:-1], good.swapcase(), good + "a", new_token("pantry"), new_token("pan"), hash_token(good)]
    for token in wrong:
        for headers in ({"authorization": f"Bearer {token}"}, {"authorization": f"bearer   {token}"}):
            answer = service.client.get("/packages", headers=headers)  # with a cookie that is good
            problem = refused(answer, 401, f'{BEARER}, error="invalid_token"')
            assert problem["type"] == "/problems/invalid-token"
    refused(
        service.client.get("/packages", headers={"authorization": "Bearer"}), 401, f'{BEARER}, error="invalid_token"'
    )
    two = httpx.Headers([("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")])
    refused(service.machine().get("/packages", headers=two), 401, f'{BEARER}, error="invalid_token"')
    refused(service.machine().get("/packages"), 401, BEARER)
    assert service.machine(good).get("/packages").status_code == 200


def test_an_authorization_of_somebody_else_says_nothing_here(service: Service) -> None:
    """A proxy that asks for a password sends it along with the cookie of a user."""
    for sent in ("Basic YWRhOnNlY3JldA==", "Basic %", "Digest username=x", "Negotiate YII", "x"):
        assert service.client.get("/packages", headers={"authorization": sent}).status_code == 200
        refused(service.machine().get("/packages", headers={"authorization": sent}), 401, BEARER)


def test_what_is_no_token_costs_no_question(service: Service) -> None:
    machine = service.machine("pantry_" + "0" * 38)
    with capture_sql(service.engine) as statements:
        assert machine.get("/packages").status_code == 401
    assert [each.sql for each in statements if "api_tokens" in each.sql] == []


# ---------------------------------------------------------------- scopes


def test_the_scopes_are_the_actions_of_the_roles() -> None:
    assert sorted(Scope.__args__) == sorted(PERMITS) == ALL  # type: ignore[attr-defined]


def requests_of(app: FastAPI) -> list[tuple[str, str, list[str]]]:
    """Method, path and scopes of every operation that needs a caller."""
    found = []
    for path, item in app.openapi()["paths"].items():
        for method, says in item.items():
            if says["security"]:
                scopes = next((each["token"] for each in says["security"] if "token" in each), [])
                found.append((method.upper(), path, scopes))
    return found


BODIES: dict[str, Any] = {
    "/organizations": {"slug": "new", "name": "New"}, "/packages": {"name": "new", "organization": "acme"},
    "/graphql": {"query": "{ packages(first: 1) { nodes { name } } }"},
}  # fmt: skip


def ask(machine: httpx.Client, method: str, path: str) -> httpx.Response:
    url = path.replace("{slug}", "acme").replace("{name}", "tool").replace("{token_id}", "0" * 32)
    body = {"POST": BODIES.get(path, {"name": "x", "scopes": ["packages:read"], "days": 1}), "PATCH": {}}.get(method)
    return machine.request(method, url, json=body, headers={"if-match": "*"} if method in ("PATCH", "DELETE") else {})


@pytest.mark.proves("ASVS 8.2.1", "ASVS 13.2.2")
def test_on_every_route_a_token_does_what_its_scopes_say_and_nothing_else(service: Service) -> None:
    """Each route with each scope. A route without a scope is closed to all of them."""
    service.client.post("/organizations", json={"slug": "acme", "name": "Acme"})
    service.client.post("/packages", json={"name": "tool", "organization": "acme"})
    routes = requests_of(service.app)
    documented = {f"{method} {path}" for method, path, _ in routes}
    assert {r.name for r in routes_of(service.app.routes) if current_caller in r.calls} == documented
    assert {scope for *_, scopes in routes for scope in scopes} == set(ALL) - {"packages:publish"}  # by a field
    assert [f"{m} {p}" for m, p, scopes in routes if not scopes] == [
        "GET /tokens", "POST /tokens", "GET /tokens/{token_id}", "DELETE /tokens/{token_id}",
    ]  # fmt: skip
    machines = {scope: service.machine(service.make(scope)) for scope in ALL}
    machines["all"] = service.machine(service.make(*ALL))
    for method, path, scopes in sorted(routes, key=lambda route: route[0] == "DELETE"):
        for scope, machine in machines.items():
            answer = ask(machine, method, path)
            missing = [needed for needed in scopes if needed != scope]
            if scopes and not missing:
                assert answer.status_code in (200, 201, 204, 409), f"{scope}: {method} {path} {answer.text}"
                continue
            if scopes and scope == "all":  # what was to be deleted is gone by now, and nobody's
                assert answer.status_code in (200, 204, 403, 409), f"{method} {path} {answer.text}"
                assert "insufficient-scope" not in answer.text
                continue
            said = answer.headers["www-authenticate"]
            named = [f', scope="{needed}"' for needed in missing if f'"{needed}"' in said]  # one of them
            wanted = named[0] if scopes else ""
            problem = refused(answer, 403, f'{BEARER}, error="insufficient_scope"{wanted}')
            assert problem["type"] == "/problems/insufficient-scope", f"{scope}: {method} {path}"
    assert service.listed() != [], "her tokens are still there"


@pytest.mark.proves("ASVS 8.2.1")
def test_a_token_may_do_no_more_than_its_owner(service: Service) -> None:
    service.client.post("/organizations", json={"slug": "acme", "name": "Acme"})
    service.client.post("/packages", json={"name": "tool", "organization": "acme"})
    service.client.cookies.clear()
    service.sign("up", "mallory")
    machine = service.machine(service.make(*ALL))
    for method, path in (("PATCH", "/packages/tool"), ("DELETE", "/packages/tool"), ("DELETE", "/organizations/acme")):
        problem = refused(ask(machine, method, path), 403)
        assert problem["type"] == "/problems/not-permitted"
    refused(machine.post("/packages", json={"name": "new", "organization": "acme"}), 403)


def test_a_token_is_nobody_under_api_auth(service: Service) -> None:
    machine = service.machine(service.make())
    machine.headers["origin"] = ORIGIN
    assert machine.get("/api/auth/get-session").json() is None
    assert machine.get("/api/auth/list-sessions").status_code == 401
    for path, body in (
        ("change-password", {"newPassword": PASSWORD[::-1], "currentPassword": PASSWORD}),
        ("update-user", {"name": "Mallory"}), ("delete-user", {"password": PASSWORD}), ("revoke-sessions", {}),
    ):  # fmt: skip
        assert machine.post(f"/api/auth/{path}", json=body).status_code == 401, path
    token = machine.headers["authorization"].split()[1]
    assert (
        machine.get("/api/auth/list-sessions", headers={"cookie": f"better-auth.{SESSION}={token}"}).status_code == 401
    )


def test_a_route_that_asks_for_a_caller_and_for_no_scope_is_not_started() -> None:
    app = FastAPI()

    @app.get("/profile")
    def profile(caller: CurrentCaller) -> str:
        return caller.name

    @app.get("/open", dependencies=[Depends(anyone)])
    def read() -> None: ...

    with pytest.raises(ValueError, match=r"say which scope a token needs.*: GET /profile$"):
        refuse_unscoped(app)


# ---------------------------------------------------------------- made by whom, and when it ends


def test_only_somebody_who_has_just_signed_in_makes_one(service: Service) -> None:
    body = {"name": "CI", "scopes": ["packages:read"], "days": 1}
    service.clock.advance(timedelta(seconds=599))
    assert service.client.post("/tokens", json=body).status_code == 201
    service.clock.advance(timedelta(seconds=1))
    answer = service.client.post("/tokens", json=body)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/session-not-fresh")
    assert len(service.listed()) == 1, "to look and to revoke, an older session will do"
    assert service.client.delete(f"/tokens/{service.listed()[0]['id']}").status_code == 204
    service.sign("in", "ada")
    assert service.client.post("/tokens", json=body).status_code == 201


def test_another_site_makes_and_ends_none(service: Service) -> None:
    token, other = service.make(), {"origin": "https://evil.example"}
    body = {"name": "CI", "scopes": ["packages:read"], "days": 1}
    assert service.client.post("/tokens", json=body, headers=other).status_code == 403
    assert service.client.delete(f"/tokens/{service.listed()[0]['id']}", headers=other).status_code == 403
    machine, new = service.machine(token), {"slug": "acme", "name": "Acme"}
    basic = {"auth": ("__token__", token), "json": new}
    assert service.machine().post("/organizations", headers=other, **basic).status_code == 403, "a browser adds Basic"
    assert (
        service.machine().post("/organizations", headers={"sec-fetch-site": "cross-site"}, **basic).status_code == 403
    )
    assert machine.post("/organizations", json=new, headers=other).status_code == 201, "but never Bearer"


def test_a_token_ends_and_stays_in_the_list_for_a_while(service: Service) -> None:
    machine = service.machine(service.make("packages:read", days=1))
    service.clock.advance(DAY - timedelta(microseconds=1))
    assert machine.get("/packages").status_code == 200
    service.clock.advance(timedelta(microseconds=1))
    refused(machine.get("/packages"), 401, f'{BEARER}, error="invalid_token"')
    now = service.clock.now()
    transaction(service.engine, lambda db: purge_tokens(db, now + KEPT - timedelta(seconds=1)))
    assert [each["expires_at"] for each in service.listed()] == ["2026-11-03T09:00:00Z"]
    transaction(service.engine, lambda db: purge_tokens(db, now + KEPT))
    assert service.listed() == []


@pytest.mark.proves("ASVS 7.4.1")
def test_a_revoked_token_is_refused_at_the_next_request(service: Service) -> None:
    machine, other = service.machine(service.make()), service.machine(service.make(name="other"))
    for each in (machine, other):
        assert [each.get("/packages").status_code for _ in "123"] == [200] * 3
    first, _ = service.listed()
    assert service.client.delete(f"/tokens/{first['id']}").status_code == 204
    refused(machine.get("/packages"), 401, f'{BEARER}, error="invalid_token"')
    assert other.get("/packages").status_code == 200
    assert service.client.delete(f"/tokens/{first['id']}").status_code == 404


@pytest.mark.proves("ASVS 8.2.2")
def test_the_tokens_of_others_are_not_there(service: Service) -> None:
    service.make()
    [ada] = service.listed()
    service.client.cookies.clear()
    service.sign("up", "mallory")
    assert service.listed() == []
    for method in ("GET", "DELETE"):
        assert service.client.request(method, f"/tokens/{ada['id']}").status_code == 404
    with service.engine.connect() as db:
        assert len(db.execute(sa.select(ApiToken.id)).all()) == 1


def test_a_use_is_noted_at_most_once_an_hour(service: Service) -> None:
    machine = service.machine(service.make("packages:read"))

    def writes() -> int:
        with capture_sql(service.engine) as statements:
            assert machine.get("/packages").status_code == 200
        return sum(each.sql.startswith("UPDATE api_tokens") for each in statements)

    counts = []
    for minutes in (0, 30, 29, 1, 59):
        service.clock.advance(timedelta(minutes=minutes))
        counts.append(writes())
    assert counts == [1, 0, 0, 1, 0]
    assert service.listed()[0]["last_used_at"] == "2026-11-02T10:00:00Z"


def test_the_quick_way_finds_what_the_long_one_finds(service: Service) -> None:
    """By one statement; when the use is to be noted, or nothing is found, it leaves it to the other."""
    token = service.make("packages:read")
    assert service.machine(token).get("/packages").status_code == 200  # notes the use
    find, quick = service.app.state.find_caller, service.app.state.quick_caller

    def request(sent: str) -> Request:
        headers = [(b"authorization", f"Bearer {sent}".encode())]
        return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})

    found = asyncio.run_coroutine_threadsafe(quick(request(token)), loop_of(service)).result(60)
    assert found == find(request(token))
    for wrong in (new_token("pantry"), "x"):
        assert asyncio.run_coroutine_threadsafe(quick(request(wrong)), loop_of(service)).result(60) is None
    service.clock.advance(timedelta(hours=1))
    assert asyncio.run_coroutine_threadsafe(quick(request(token)), loop_of(service)).result(60) is None


def loop_of(service: Service) -> asyncio.AbstractEventLoop:
    """The event loop on which the service runs."""
    found: list[asyncio.AbstractEventLoop] = []
    real = service.app.state.quick_caller

    async def note(connection: Any) -> Any:
        found.append(asyncio.get_running_loop())
        return await real(connection)

    service.app.state.quick_caller = note
    service.client.get("/packages")
    service.app.state.quick_caller = real
    return found[0]


def test_fifty_tokens_are_the_most_also_of_two_requests_at_once(service: Service) -> None:
    for number in range(MOST - 1):
        service.make("packages:read", name=f"n{number}")
    body = {"name": "last", "scopes": ["packages:read"], "days": 1}

    def post() -> int:
        cookie = "; ".join(f"{name}={value}" for name, value in service.client.cookies.items())
        headers = {"origin": ORIGIN, "cookie": cookie}
        return httpx.post(f"{service.client.base_url}/tokens", json=body, headers=headers, timeout=60).status_code

    assert sorted(together(first=post, second=post).values()) == [201, 409]
    service.clock.advance(DAY)
    assert len(service.listed()) == MOST
    service.sign("in", "ada")
    service.make(name="the one of a day has ended")


# ---------------------------------------------------------------- the account


@pytest.mark.proves("ASVS 7.4.2")
def test_a_deleted_user_has_no_token(service: Service) -> None:
    machine = service.machine(service.make())
    assert machine.get("/packages").status_code == 200
    assert service.client.post("/api/auth/delete-user", json={"password": PASSWORD}).status_code == 200
    refused(machine.get("/packages"), 401, f'{BEARER}, error="invalid_token"')
    with service.engine.connect() as db:
        assert db.execute(sa.select(ApiToken.id)).all() == db.execute(sa.select(User.id)).all() == []


def reset(service: Service) -> None:
    client, email = service.client, {"email": "ada@example.com", "redirectTo": "/"}
    assert client.post("/api/auth/request-password-reset", json=email).status_code == 200
    service.app.state.auth.postbox.drain()
    token = next(mail.token for mail in reversed(service.sender.mails) if mail.token)
    done = client.post("/api/auth/reset-password", json={"newPassword": PASSWORD[::-1], "token": token})
    assert done.status_code == 200, done.text


def change(service: Service) -> None:
    body = {"newPassword": PASSWORD[::-1], "currentPassword": PASSWORD}
    assert service.client.post("/api/auth/change-password", json=body).status_code == 200


@pytest.mark.parametrize("renew", [reset, change])
def test_a_new_password_ends_the_tokens(service: Service, renew: Callable[[Service], None]) -> None:
    """Whoever was in the account could have made one."""
    machine = service.machine(service.make())
    assert machine.get("/packages").status_code == 200
    renew(service)
    refused(machine.get("/packages"), 401, f'{BEARER}, error="invalid_token"')


def test_a_sign_out_ends_no_token(service: Service) -> None:
    machine = service.machine(service.make())
    assert service.client.post("/api/auth/revoke-sessions").status_code == 200
    assert machine.get("/packages").status_code == 200


# ---------------------------------------------------------------- never shown


@pytest.mark.proves("ASVS 16.2.5")
def test_no_error_and_no_line_of_the_log_shows_a_token(service: Service) -> None:
    """Wherever somebody puts it: in paths, queries, bodies, names, and as Basic in base64."""
    token = service.make("packages:read")
    basic = base64.b64encode(f"__token__:{token}".encode()).decode()
    log, handler = io.StringIO(), logging.StreamHandler()
    handler.setStream(log)
    handler.setFormatter(OnlyKnown())
    logged = AccessLog(service.app, [service.app, service.app.state.auth_part])
    loggers = [logging.getLogger(name) for name in ("pantry", "pantry.access", "uvicorn.error", "uvicorn.access")]
    before = [(each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG)
    try:
        with serving(logged) as client:
            client.headers["authorization"] = f"Bearer {token}"
            answers = [
                answer
                for text in (token, basic, f"x{token}x")
                for answer in (
                    client.get(f"/packages/{text}"), client.get(f"/organizations/{text}"),
                    client.get("/packages", params={"access_token": text}), client.get(f"/{text}/{text}"),
                    client.get("/packages", params={text: text}), client.get("/packages", params={"sort": text}),
                    client.post("/packages", json={"name": text, "organization": "acme"}),
                    client.post("/packages", json={text: text}), client.get(f"/problems/{text}"),
                    client.get("/packages", headers={"x-request-id": text}),
                    client.get("/packages", headers={"accept": text}), client.get(f"/api/auth/{text}"),
                    client.post("/packages", content=text, headers={"content-type": text}),
                    client.get("/packages", headers={"if-none-match": text}),
                )
            ]  # fmt: skip
            logging.getLogger("pantry").warning("sent by hand: %s, %s", token, basic)
    finally:
        for each, (level, propagate) in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
            each.propagate = propagate
    assert len([answer for answer in answers if answer.status_code >= 400]) >= 30
    for answer in answers:
        assert list(find_leaks(answer.text, "pantry")) == [], answer.text
        assert basic not in answer.text
    lines = log.getvalue()
    assert "GET /packages/{name}" in lines
    assert list(find_leaks(lines, "pantry")) == []
    assert "sent by hand: pantry_" + "*" * 38 + ", ****" in lines
