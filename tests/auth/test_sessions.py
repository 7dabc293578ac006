"""Sessions: cookies, lifetimes, and what is over is refused at the next request; over real HTTP on both engines."""

import math
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Request

from playbook.foundations.clock_and_identifiers import is_token
from playbook.foundations.engines import Base
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth.sessions import (
    REMEMBER,
    SESSION,
    Cookies,
    cookies_of,
    end_sessions,
    find_session,
    prolong,
    remembered,
    start_session,
)
from playbook.pantry.auth.tables import UserSession, delete_user
from playbook.pantry.auth.wire import Auth
from playbook.schema.identity import User, add_user
from tests.auth.conftest import ORIGIN, PASSWORD, Service

COOKIE = "better-auth.session_token"
CLEARED = [
    f"better-auth.{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
    for name in ("session_token", "session_data", "dont_remember")
]
DAY = timedelta(days=1)
SIGN_UP = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}
Start = Callable[..., Service]


def request_with(cookie: str = "") -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode())], "client": ("192.0.2.7", 1)})


def enter(service: Service, name: str = "ada", client: httpx.Client | None = None, remember: bool = True) -> str:
    """Sign `name` in without a password, in `client` (the service's own), and return the handle of the session."""
    auth, browser = service.auth, client or service.client
    request = request_with("; ".join(f"{key}={value}" for key, value in browser.cookies.items()))

    def work(db: Any) -> tuple[UserSession, str]:
        user = db.scalar(sa.select(User).where(User.name == name))
        user = user or add_user(db, auth.clock, auth.ids, f"{name}@example.com", name)
        return start_session(db, auth, user.id, request, remember)

    session, token = auth.transact(work)
    browser.cookies.clear()
    for cookie in remembered(auth, request, session, token, remember):
        key, _, value = cookie.split(";")[0].partition("=")
        if value:
            browser.cookies.set(key, value)
    return str(session.id)


def ask(service: Service, cookie: str = "", query: str = "", **headers: str) -> httpx.Response:
    """get-session with this `Cookie` header and no other."""
    sent = {"cookie": cookie.encode("latin-1")} if cookie else {}
    with service.another_client() as client:
        return client.get(f"/api/auth/get-session{query}", headers=sent | headers)


def cookie_of(client: httpx.Client) -> str:
    return f"{COOKIE}={client.cookies[COOKIE]}"


def token_of(client: httpx.Client) -> str:
    return unquote(client.cookies[COOKIE]).rpartition(".")[0]


def set_cookies(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("set-cookie")


# ---------------------------------------------------------------- cookies


def cookies_over_https(auth_service: Start, **settings: Any) -> list[str]:
    """Every cookie that sign-up, sign-in and sign-out set, as the browser gets it."""
    service = auth_service(base_url="https://pantry.example", require_email_verification=False, **settings)
    service.client.headers["origin"] = "https://pantry.example"
    answers = [service.sign_up(), service.sign_in(rememberMe=False), service.post("/sign-out")]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    found = [cookie for answer in answers for cookie in set_cookies(answer)]
    assert len(found) == 6
    return found


@pytest.mark.proves("ASVS 3.3.1", "NIST 800-63B-4 5.1.1")
@pytest.mark.parametrize("url", ["duckdb"], indirect=True)  # cookies do not come from the database
def test_asvs_3_3_1_cookies_are_secure_and_say_so_in_their_name(auth_service: Start) -> None:
    for cookie in cookies_over_https(auth_service):
        assert cookie.startswith("__Secure-better-auth.")
        assert "Secure" in cookie.split("; ")


@pytest.mark.proves("ASVS 3.3.2", "NIST 800-63B-4 5.1.1")
@pytest.mark.parametrize("url", ["duckdb"], indirect=True)  # cookies do not come from the database
def test_asvs_3_3_2_cookies_are_not_sent_by_other_sites(auth_service: Start) -> None:
    for cookie in cookies_over_https(auth_service):
        assert "SameSite=Lax" in cookie.split("; ")


@pytest.mark.proves("ASVS 3.3.3")
@pytest.mark.parametrize("url", ["duckdb"], indirect=True)  # cookies do not come from the database
def test_asvs_3_3_3_cookies_of_one_host(auth_service: Start) -> None:
    """By name when the settings say so; by default Better Auth's name, and all that `__Host-` asks for besides."""
    for cookie in cookies_over_https(auth_service, host_cookies=True):
        assert cookie.startswith("__Host-better-auth.")
        attributes = cookie.split("; ")
        assert {"Secure", "Path=/"} <= set(attributes)
        assert not any(attribute.startswith("Domain") for attribute in attributes)


def test_without_the_host_prefix_the_cookies_differ_by_name_only() -> None:
    named, unnamed = (Cookies("s" * 32, guard) for guard in ("__Host-", "__Secure-"))
    assert unnamed.put(SESSION, "t", 7).replace("__Secure-", "__Host-") == named.put(SESSION, "t", 7)
    assert [c.replace("__Secure-", "__Host-") for c in unnamed.drop()] == named.drop()


def test_over_plain_http_the_guarded_names_are_other_cookies(auth_service: Start) -> None:
    service = auth_service(host_cookies=True)
    enter(service)
    assert service.whoami()["user"]["name"] == "ada"
    for guard in ("__Secure-", "__Host-"):
        assert ask(service, guard + cookie_of(service.client)).json() is None


@pytest.mark.proves("ASVS 3.3.4", "NIST 800-63B-4 5.1.1")
def test_asvs_3_3_4_no_script_can_read_the_token(auth_service: Start) -> None:
    """HttpOnly, and what stands in the cookie stands nowhere else in any answer."""
    service = auth_service(require_email_verification=False)
    assert service.sign_up().status_code == 200
    tokens = [token_of(service.client)]
    service.sign_in()
    tokens.append(token_of(service.client))
    service.client.get("/api/auth/get-session")
    service.client.get("/api/auth/list-sessions")
    service.post("/update-user", {"name": "Countess"})
    service.post("/change-password", {"currentPassword": PASSWORD, "newPassword": PASSWORD[::-1]})
    tokens.append(token_of(service.client))
    service.post("/revoke-session", {"token": service.whoami()["session"]["token"]})
    assert len(set(tokens)) == 3
    for exchange in service.client.exchanges:
        assert exchange.status == 200
        others = [value for name, value in exchange.response_headers.multi_items() if name != "set-cookie"]
        for token in tokens:
            assert not any(token in text for text in [exchange.response_body.decode(), *others])
        assert all("HttpOnly" in c.split("; ") for c in exchange.response_headers.get_list("set-cookie"))


@pytest.mark.proves("ASVS 3.3.5")
def test_asvs_3_3_5_a_cookie_is_small_whatever_was_sent(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False)
    answer = service.sign_up(name="n" * 200, client=None)
    assert all(len(cookie) < 400 for cookie in set_cookies(answer))


def test_a_cookie_is_read_as_better_auth_reads_it() -> None:
    cookies = Cookies("s" * 32)
    good = cookies.put(SESSION, "tök.en").split(";")[0]
    name, _, value = good.partition("=")
    assert cookies.read(f"theme=dark; {good}; {name}=x", SESSION) == "tök.en"
    assert cookies.read(f"{name}={unquote(value)}", SESSION) == "tök.en", "percent-encoding is not required"
    for bad in ("", "=", name, f"{name}=", f"{name}=x; {good}", f"x{good}", f"{name}={value}x", f"{name}=.{value}",
                good.replace(name, f"{name}x"), f"{name}=tök.en", f"{name}=\xff.{value}"):  # fmt: skip
        assert cookies.read(bad, SESSION) is None, bad
    assert cookies.read(good.replace(SESSION, REMEMBER), REMEMBER) == "tök.en"


def test_a_forged_cookie_is_no_cookie(auth_service: Start) -> None:
    """Nothing is cleared, and the database is not asked. Every single change is noticed."""
    service = auth_service()
    enter(service)
    good = service.client.cookies[COOKIE]
    cookies = cookies_of(service.auth)
    with capture_sql(service.auth.engine) as statements:
        for place, character in enumerate(good):
            forged = good[:place] + ("A" if character != "A" else "B") + good[place + 1 :]
            assert cookies.read(f"{COOKIE}={forged}", SESSION) is None, place
        for forged in (good[:-9], unquote(good).rpartition(".")[0], "\xff", f'"{good}', good + "=", ""):
            answer = ask(service, f"{COOKIE}={forged}")
            assert (answer.status_code, answer.json(), set_cookies(answer)) == (200, None, []), forged
    assert not statements
    assert ask(service, f"{COOKIE}={good}").json()["user"]["name"] == "ada"


# ---------------------------------------------------------------- tokens


@pytest.mark.proves("ASVS 7.2.1", "ASVS 7.2.2")
def test_asvs_7_2_1_only_the_server_can_tell_who_somebody_is(auth_service: Start) -> None:
    """What the cookie holds says nothing by itself: signed by us and of no session, it opens nothing."""
    service = auth_service()
    enter(service)
    signed = cookies_of(service.auth).signed
    for made_up in ("ada", str(service.whoami()["user"]["id"]), "session_" + "A" * 38):
        answer = ask(service, f"{COOKIE}={signed(made_up)}")
        assert answer.json() is None
        assert set_cookies(answer) == CLEARED


@pytest.mark.proves("ASVS 7.2.3", "NIST 800-63B-4 5.1")
def test_asvs_7_2_3_tokens_are_random(auth_service: Start) -> None:
    service = auth_service()
    tokens = set()
    for _ in range(20):
        enter(service)
        tokens.add(token_of(service.client))
    assert len(tokens) == 20
    assert all(is_token(token, "session") for token in tokens)
    assert 32 * math.log2(62) >= 128  # the random digits of a token
    assert Auth.__dataclass_fields__["random_bytes"].default is secrets.token_bytes


@pytest.mark.proves("NIST 800-63B-4 5.1", "ASVS 7.2.3")
def test_a_stolen_database_opens_nothing(auth_service: Start) -> None:
    """Not even for who knows the key that signs cookies."""
    service = auth_service(require_email_verification=False)
    service.sign_up()
    token = token_of(service.client)
    with service.auth.engine.connect() as connection:
        stolen = [str(v) for t in Base.metadata.tables.values() for row in connection.execute(t.select()) for v in row]
    assert len(stolen) > 20
    assert not any(token in value for value in stolen)
    cookies = [f"{COOKIE}={v}" for value in stolen for v in (cookies_of(service.auth).signed(value),)]
    assert all(ask(service, cookie).json() is None for cookie in cookies)
    assert service.whoami() is not None


@pytest.mark.proves("ASVS 7.2.4")
def test_asvs_7_2_4_a_sign_in_makes_a_new_token_and_ends_the_old_session(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False)
    service.sign_up()
    first = cookie_of(service.client)
    service.sign_in()
    second = cookie_of(service.client)
    assert first != second
    assert ask(service, first).json() is None
    service.post("/change-password", {"currentPassword": PASSWORD, "newPassword": PASSWORD[::-1]})
    assert ask(service, second).json() is None
    assert service.whoami()["user"]["name"] == "Ada"


@pytest.mark.proves("ASVS 7.2.4")
def test_a_planted_cookie_is_worth_nothing_after_the_sign_in(auth_service: Start) -> None:
    service = auth_service()
    with service.another_client() as mallory:
        enter(service, "mallory", mallory)
        service.client.cookies.update(mallory.cookies)
        enter(service, "ada")
        assert service.whoami(mallory) is None
    assert service.whoami()["user"]["name"] == "ada"


# ---------------------------------------------------------------- lifetimes


@pytest.mark.proves("ASVS 7.3.1", "NIST 800-63B-4 5.2")
def test_asvs_7_3_1_a_session_ends_without_use(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    short = service.another_client()
    enter(service, client=short, remember=False)
    for client, lifetime in ((short, DAY), (service.client, 7 * DAY)):
        enter(service, client=client, remember=lifetime > DAY)
        cookie = "; ".join(f"{key}={value}" for key, value in client.cookies.items())
        service.clock.advance(lifetime - timedelta(seconds=1))
        assert ask(service, cookie, "?disableRefresh=true").json() is not None
        service.clock.advance(timedelta(seconds=1))
        answer = ask(service, cookie)
        assert (answer.json(), set_cookies(answer)) == (None, CLEARED)
    short.close()


@pytest.mark.proves("ASVS 7.3.2", "NIST 800-63B-4 2.1.3")
def test_asvs_7_3_2_a_session_ends_also_when_it_is_used_all_the_time(auth_service: Start) -> None:
    service = auth_service(session_absolute_lifetime=10 * 86_400)
    enter(service)
    began, cookie = service.clock.now(), cookie_of(service.client)
    ages = []
    while (answer := ask(service, cookie)).json() is not None:
        for sent in set_cookies(answer):
            stays = int(sent.split("Max-Age=")[1].split(";")[0])
            assert service.clock.now() + timedelta(seconds=stays) <= began + 10 * DAY
        service.clock.advance(timedelta(hours=8))
        ages.append(service.clock.now() - began)
    assert ages[-1] == 10 * DAY


def test_a_session_is_not_longer_than_the_absolute_lifetime_from_the_start(auth_service: Start) -> None:
    service = auth_service(session_absolute_lifetime=3600)
    for remember in (True, False):
        enter(service, remember=remember)
        cookie = cookie_of(service.client)
        service.clock.advance(timedelta(seconds=3599))
        assert ask(service, cookie).json() is not None
        service.clock.advance(timedelta(seconds=1))
        assert ask(service, cookie).json() is None


def test_it_is_prolonged_once_a_day_and_says_so(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    cookie, began = cookie_of(service.client), service.whoami()["session"]
    service.clock.advance(DAY - timedelta(seconds=1))
    with capture_sql(service.auth.engine) as statements:
        answer = ask(service, cookie)
    assert (answer.json()["session"], set_cookies(answer)) == (began, [])
    assert [s.sql.split()[0] for s in statements] == ["BEGIN", "SELECT", "COMMIT"]
    service.clock.advance(timedelta(seconds=1))
    with capture_sql(service.auth.engine) as statements:
        answer = ask(service, cookie)
    assert [s.sql.split()[0] for s in statements] == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]
    now = answer.json()["session"]
    assert now == began | {"expiresAt": "2026-11-10T09:00:00.000Z", "updatedAt": "2026-11-03T09:00:00.000Z"}
    assert set_cookies(answer) == [f"{cookie}; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"]
    again = ask(service, cookie)
    assert (again.json()["session"], set_cookies(again)) == (now, [])


def test_a_guarded_call_prolongs_it_too(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    service.clock.advance(DAY)
    answer = service.client.get("/api/auth/list-sessions")
    assert answer.status_code == 403, "a day after the sign-in the list is no longer shown"
    assert service.whoami()["session"]["updatedAt"] == "2026-11-03T09:00:00.000Z"


@pytest.mark.parametrize("query", ["?disableRefresh=true", "?disableRefresh=false", "?disableRefresh=1"])
def test_a_caller_can_ask_not_to_prolong(auth_service: Start, query: str) -> None:
    service = auth_service()
    enter(service)
    service.clock.advance(2 * DAY)
    answer = service.client.get(f"/api/auth/get-session{query}")
    assert (answer.json()["session"]["updatedAt"], set_cookies(answer)) == ("2026-11-02T09:00:00.000Z", [])
    assert service.client.get("/api/auth/get-session?disableRefresh=").headers["set-cookie"]


def test_what_is_not_to_be_remembered_is_never_prolonged_while_the_mark_is_there(auth_service: Start) -> None:
    service = auth_service()
    enter(service, remember=False)
    marked = "; ".join(f"{key}={value}" for key, value in service.client.cookies.items())
    service.clock.advance(DAY / 2)
    answer = ask(service, marked)
    assert (answer.json()["session"]["expiresAt"], set_cookies(answer)) == ("2026-11-03T09:00:00.000Z", [])
    unmarked = ask(service, cookie_of(service.client))  # as Better Auth does it
    assert unmarked.json()["session"]["expiresAt"] == "2026-11-09T21:00:00.000Z"


@pytest.mark.parametrize("told", [True, False])
def test_the_mark_follows_what_the_last_sign_in_said(auth_service: Start, told: bool) -> None:
    service = auth_service(require_email_verification=False)
    service.sign_up(rememberMe=False)
    assert len(service.client.cookies) == 2
    answer = service.sign_in(rememberMe=told)
    token, mark = set_cookies(answer)
    assert ("Max-Age=604800" in token) is told
    assert mark.startswith("better-auth.dont_remember=;" if told else "better-auth.dont_remember=true.")


# ---------------------------------------------------------------- the end


@pytest.mark.proves("ASVS 7.4.1", "NIST 800-63B-4 5.1")
@pytest.mark.parametrize("way", ["sign-out", "revoke-session", "revoke-sessions", "expiry"])
def test_asvs_7_4_1_what_has_ended_is_refused_at_the_next_request(auth_service: Start, way: str) -> None:
    service = auth_service()
    handle, cookie = enter(service), cookie_of(service.client)
    if way == "expiry":
        service.clock.advance(7 * DAY)
    else:
        answer = service.post(f"/{way}", {"token": handle} if way == "revoke-session" else {})
        assert (answer.status_code, set_cookies(answer)) == (200, CLEARED)
    answer = ask(service, cookie)
    assert (answer.status_code, answer.json(), set_cookies(answer)) == (200, None, CLEARED)
    assert answer.headers["cache-control"] == "no-store", "the back button shows nothing"
    service.client.cookies.clear()
    for path, body in {"/list-sessions": None, "/revoke-sessions": {}, "/update-user": {"name": "x"}}.items():
        method = "GET" if body is None else "POST"
        refused = service.client.request(method, f"/api/auth{path}", json=body, headers={"cookie": cookie})
        assert (refused.status_code, refused.json()["code"], set_cookies(refused)) == (401, "UNAUTHORIZED", CLEARED)


@pytest.mark.proves("ASVS 7.4.2")
def test_asvs_7_4_2_a_deleted_user_has_no_session(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    user = service.auth.transact(lambda db: db.scalar(sa.select(User.id)))
    service.auth.transact(lambda db: delete_user(db, user))
    assert service.whoami() is None


@pytest.mark.proves("ASVS 7.4.3", "ASVS 7.5.2")
def test_asvs_7_4_3_all_other_sessions_can_be_ended(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    with service.another_client() as phone, service.another_client() as bob:
        enter(service, client=phone)
        enter(service, "bob", bob)
        answer = service.post("/revoke-other-sessions")
        assert (answer.json(), set_cookies(answer)) == ({"status": True}, [])
        assert service.whoami(phone) is None
        assert service.whoami(bob) is not None
    assert service.whoami() is not None


@pytest.mark.proves("ASVS 7.4.4")
def test_asvs_7_4_4_signing_out_needs_nothing_but_the_cookie(auth_service: Start) -> None:
    """A front end can offer it on every page: one request, whatever the state, with or without a body."""
    service = auth_service()
    for options in ({}, {"json": {}}):
        enter(service)
        cookie = cookie_of(service.client)
        for _ in range(2):
            answer = service.client.post("/api/auth/sign-out", **options)
            assert (answer.status_code, answer.json(), set_cookies(answer)) == (200, {"success": True}, CLEARED)
        assert ask(service, cookie).json() is None


@pytest.mark.proves("ASVS 7.5.2")
def test_asvs_7_5_2_sessions_can_be_seen_after_a_sign_in_and_ended(auth_service: Start) -> None:
    service = auth_service()
    with service.another_client() as phone, service.another_client() as tablet:
        handles = [enter(service, client=client) for client in (service.client, phone, tablet)]
        listed = service.client.get("/api/auth/list-sessions").json()
        assert [s["token"] for s in listed] == handles
        assert {s["ipAddress"] for s in listed} == {"192.0.2.7"}
        service.post("/revoke-session", {"token": handles[1]})
        assert service.whoami(phone) is None
        assert service.whoami(tablet) is not None
        assert [s["token"] for s in service.client.get("/api/auth/list-sessions").json()] == [handles[0], handles[2]]
        service.clock.advance(DAY)
        old = service.client.get("/api/auth/list-sessions")
        assert (old.status_code, old.json()["code"]) == (403, "SESSION_NOT_FRESH")
        service.post("/revoke-sessions")
        assert service.whoami() is service.whoami(tablet) is None


def test_expired_sessions_are_not_listed(auth_service: Start) -> None:
    service = auth_service()
    with service.another_client() as short:
        enter(service, client=short, remember=False)
    service.clock.advance(DAY)
    handle = enter(service)
    assert [s["token"] for s in service.client.get("/api/auth/list-sessions").json()] == [handle]


def test_revoking_says_the_same_whatever_the_handle(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    with service.another_client() as bob:
        foreign = enter(service, "bob", bob)
        for handle in (foreign, "no-such-token", "", str(service.auth.ids.new()), token_of(service.client)):
            answer = service.post("/revoke-session", {"token": handle})
            assert (answer.status_code, answer.json(), set_cookies(answer)) == (200, {"status": True}, []), handle
        assert service.whoami(bob) is not None
    assert service.whoami() is not None
    signed_out = service.another_client()
    assert service.post("/revoke-session", {"token": 1}, signed_out).json()["code"] == "VALIDATION_ERROR"
    assert service.post("/revoke-session", {"token": foreign}, signed_out).status_code == 401
    signed_out.close()


def test_the_handle_opens_nothing(auth_service: Start) -> None:
    service = auth_service()
    handle = enter(service)
    for value in (handle, cookies_of(service.auth).signed(handle)):
        assert ask(service, f"{COOKIE}={value}").json() is None
    assert ask(service, authorization=f"Bearer {handle}").json() is None


def test_get_session_by_post_is_refused(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    answer = service.post("/get-session")
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED")
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    del service.client.headers["origin"]
    assert service.post("/get-session").json()["code"] == "MISSING_OR_NULL_ORIGIN"


def test_what_the_browser_says_of_itself_is_kept_in_part(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False)
    raw = {"user-agent": ("ü" * 2000).encode("latin-1")}
    service.client.post("/api/auth/sign-up/email", json=SIGN_UP, headers=raw)
    session = service.whoami()["session"]
    assert (session["userAgent"], session["ipAddress"]) == ("ü" * 500, "127.0.0.1")


# ---------------------------------------------------------------- at the same moment


def together(auth: Auth, *works: Callable[[Any, Callable[[], None]], Any]) -> list[Any]:
    """Run `works` in a transaction each; each calls its second argument when it has read, and waits for the others."""
    meeting = threading.Barrier(len(works))

    def read() -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(60)
        meeting.abort()  # who comes again after a conflict does not wait

    with ThreadPoolExecutor(len(works)) as threads:
        return [f.result() for f in [threads.submit(auth.transact, lambda db, w=w: w(db, read)) for w in works]]


def rows(auth: Auth) -> int:
    return auth.transact(lambda db: db.scalar(sa.select(sa.func.count()).select_from(UserSession)))


@pytest.mark.proves("ASVS 7.4.1")
@pytest.mark.parametrize("first", ["prolong", "revoke"])
def test_prolonging_does_not_bring_back_what_was_revoked_at_the_same_moment(auth_service: Start, first: str) -> None:
    """Both have read the row before either writes; whichever writes first."""
    service = auth_service()
    enter(service)
    auth, token = service.auth, token_of(service.client)
    service.clock.advance(2 * DAY)
    wrote = threading.Event()

    def prolonging(db: Any, read: Callable[[], None]) -> bool:
        found = find_session(db, token, auth.clock.now())
        read()
        if first == "revoke":
            wrote.wait(60)
        moved = found is not None and prolong(db, auth, found)
        wrote.set()
        return moved

    def revoking(db: Any, read: Callable[[], None]) -> None:
        user = db.scalar(sa.select(UserSession.user_id))
        read()
        if first == "prolong":
            wrote.wait(60)
        if user is not None:
            end_sessions(db, user)
        wrote.set()

    together(auth, prolonging, revoking)
    assert rows(auth) == 0
    assert service.whoami() is None


def test_two_requests_prolong_once(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    auth, token = service.auth, token_of(service.client)
    service.clock.advance(2 * DAY)

    def prolonging(db: Any, read: Callable[[], None]) -> bool:
        found = find_session(db, token, auth.clock.now())
        read()
        assert found is not None
        return prolong(db, auth, found)

    assert sorted(together(auth, prolonging, prolonging)) == [False, True]
    assert service.whoami()["session"]["expiresAt"] == "2026-11-11T09:00:00.000Z"


def test_a_page_that_asks_twenty_times_at_once_is_answered_twenty_times(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    cookie = cookie_of(service.client)
    service.clock.advance(2 * DAY)
    start = threading.Barrier(20)

    def request() -> tuple[int, str]:
        with service.another_client() as client:
            start.wait(60)
            answer = client.get("/api/auth/get-session", headers={"cookie": cookie})
        return answer.status_code, answer.json()["session"]["expiresAt"]

    with ThreadPoolExecutor(20) as threads:
        answers = {f.result() for f in [threads.submit(request) for _ in range(20)]}
    assert answers == {(200, "2026-11-11T09:00:00.000Z")}


# ---------------------------------------------------------------- in another process

PROCESS = """
import socket, sys, uvicorn
from datetime import UTC, datetime
from playbook.pantry.auth.better_auth import better_auth
from playbook.auth.mail import MemorySender
from playbook.pantry.postbox import Postbox
from playbook.pantry.auth.wire import Auth
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import make_engine
from playbook.pantry.settings import Settings

url, descriptor, origin = sys.argv[1:]
settings = Settings(environment="test", database_url=url, base_url=origin)
clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
auth = Auth(settings, make_engine(url), clock, Identifiers(clock), Postbox(MemorySender()))
listening = socket.socket(fileno=int(descriptor))
uvicorn.Server(uvicorn.Config(better_auth(auth), log_config=None)).run(sockets=[listening])
"""


@contextmanager
def another_process(url: str, program: str = PROCESS) -> Iterator[LiveClient]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", program, url, str(listening.fileno()), ORIGIN]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        try:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with LiveClient(address, headers={"origin": ORIGIN}) as client:
                yield client
        finally:
            process.kill()
            process.wait()


@pytest.mark.proves("ASVS 7.4.1")
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_revoked_in_one_process_is_refused_at_the_next_request_in_another(auth_service: Start, url: str) -> None:
    service = auth_service()
    with another_process(url) as there:
        for way in ("/sign-out", "/revoke-sessions", "/revoke-session"):
            handle = enter(service)
            there.cookies.update(service.client.cookies)
            before = service.whoami(there)
            assert before["session"]["token"] == handle
            service.post(way, {"token": handle})
            assert service.whoami(there) is None
        enter(service)
        there.cookies.update(service.client.cookies)
        assert service.post("/revoke-sessions", client=there).status_code == 200
        assert service.whoami() is None, "and the other way round"
