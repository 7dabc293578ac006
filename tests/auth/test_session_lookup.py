"""The quick way to answer get-session says what the long way says, and sees what was revoked at once."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from playbook.foundations.clock_and_identifiers import hash_token
from playbook.kit.live import LiveClient, serving
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.session_lookup import LOOK_UP, QuickSessions, SessionLookup, query_of
from playbook.pantry.auth.sessions import REMEMBER, SESSION, cookies_of
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.tables import UserSession
from playbook.schema.identity import User
from tests.auth.conftest import ORIGIN, Service
from tests.auth.test_sessions import CLEARED, DAY, PROCESS, another_process, cookie_of, enter, set_cookies

WHO = "/api/auth/get-session"
Start = Callable[..., Service]
postgresql_only = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@dataclass
class Quick:
    """The service behind a SessionLookup. `reached` has the requests that came to the app behind it."""

    client: LiveClient
    lookup: SessionLookup
    reached: list[str]

    def ask(self, cookie: str = "", query: str = "", **headers: str) -> tuple[httpx.Response, bool]:
        """get-session, and whether it was answered the quick way."""
        self.reached.clear()
        sent = {"cookie": cookie.encode("latin-1")} if cookie else {}
        answer = self.client.get(WHO + query, headers=sent | headers)
        return answer, not self.reached


@contextmanager
def quick_way(service: Service) -> Iterator[Quick]:
    limits, reached = AddressLimits(service.auth), []
    app = better_auth(service.auth, limits)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])
        await app(scope, receive, send)

    lookup = SessionLookup(watched, QuickSessions(service.auth), limits)
    with serving(lookup) as client:
        client.headers["origin"] = ORIGIN
        yield Quick(client, lookup, reached)


def change(service: Service, **values: Any) -> None:
    service.auth.transact(lambda db: db.execute(sa.update(UserSession).values(values)))


def on_postgresql(service: Service) -> bool:
    return service.auth.engine.dialect.name == "postgresql"


# ---------------------------------------------------------------- the same answers

LAST_DAY = {"created_at": timedelta(days=-29), "expires_at": timedelta(days=1)}
STATES: dict[
    str, tuple[dict[str, Any], bool, bool]
] = {  # changes of the row, whether it is quick, without and with mark
    "alive": ({}, True, True),
    "a moment before it is due": ({"expires_at": 6 * DAY + timedelta(microseconds=1)}, True, True),
    "due": ({"expires_at": 6 * DAY}, False, True),
    "due, and over in a moment": ({"expires_at": timedelta(microseconds=1)}, False, True),
    "at the end of its thirty days": (LAST_DAY, True, True),
    "over now": ({"expires_at": timedelta(0)}, False, False),
    "long over": ({"expires_at": -DAY}, False, False),
    "without address and browser": ({"ip_address": None, "user_agent": None}, True, True),
    "of a strange browser": ({"user_agent": '"ü\\\u2028</script>\x01🙂'}, True, True),
    "with a second factor": ({"second_factor_at": timedelta(0)}, True, True),
    "revoked": ({"token_hash": "0" * 64}, False, False),
}


@pytest.mark.parametrize("marked", [False, True], ids=["remembered", "not to be remembered"])
@pytest.mark.parametrize("state", STATES)
def test_both_ways_say_the_same(auth_service: Start, state: str, marked: bool) -> None:
    """Status, headers and bytes, whatever the session is."""
    service = auth_service(rate_limits=False)
    enter(service)
    names = {"name": "Zoë 🙂", "image": 'https://x.example/"ü"'}
    service.auth.transact(lambda db: db.execute(sa.update(User).values(names)))
    now, cookies = service.clock.now(), cookies_of(service.auth)
    changes, *quick = STATES[state]
    row = service.auth.transact(lambda db: dict(db.execute(sa.select(UserSession.__table__)).mappings().one()))
    row |= {key: now + value if isinstance(value, timedelta) else value for key, value in changes.items()}
    cookie = cookie_of(service.client)
    if marked:
        cookie += f"; {cookies.put(REMEMBER, 'true').split(';')[0]}"

    def answer(ask: Callable[[], httpx.Response]) -> Any:
        change(service, **row)
        said = ask()
        headers = sorted((k, v) for k, v in said.headers.multi_items() if k != "date")
        return said.status_code, headers, said.content

    headers = {"cookie": cookie, "x-request-id": "from-the-test"}
    service.client.cookies.clear()
    expected = answer(lambda: service.client.get(WHO, headers=headers))
    with quick_way(service) as way:
        ways = []

        def ask() -> httpx.Response:
            said, was_quick = way.ask(**headers)
            ways.append(was_quick)
            return said

        assert answer(ask) == expected
    assert ways == [quick[marked]]


def test_what_is_not_a_plain_question_takes_the_long_way(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    good = cookie_of(service.client)
    service.client.cookies.clear()
    requests = [
        ("GET", WHO + "?disableRefresh=true", good), ("GET", WHO + "?callbackURL=//evil.example", good),
        ("GET", WHO + "/", good), ("GET", "/api/auth//get-session", good), ("GET", "/API/auth/get-session", good),
        ("HEAD", WHO, good), ("OPTIONS", WHO, good), ("POST", WHO, good), ("GET", "/api/auth/ok", good),
        ("GET", WHO, ""), ("GET", WHO, "theme=dark"), ("GET", WHO, good + "x"),
        ("GET", WHO, f"better-auth.session_token=x; {good}"), ("GET", WHO, f"__Secure-{good}"),
    ]  # fmt: skip
    with quick_way(service) as way:
        for method, path, cookie in requests:
            headers = {"cookie": cookie} if cookie else {}
            way.reached.clear()
            said, expected = (c.request(method, path, headers=headers) for c in (way.client, service.client))
            assert (said.status_code, said.content) == (expected.status_code, expected.content), (method, path, cookie)
            assert way.reached == ["http"], (method, path, cookie)


@postgresql_only
@pytest.mark.parametrize("guard", [False, True])
def test_it_knows_the_cookies_of_https(auth_service: Start, guard: bool) -> None:
    service = auth_service(base_url="https://pantry.example", host_cookies=guard)
    enter(service)
    (name, value), *_ = service.client.cookies.items()
    with quick_way(service) as way:
        answer, quick = way.ask(f"{name}={value}")
    assert (name.split("-")[0], quick, answer.json()["user"]["name"]) == (
        "__Host" if guard else "__Secure",
        True,
        "ada",
    )


def test_every_answer_has_a_request_id(auth_service: Start) -> None:
    service = auth_service()
    enter(service)
    with quick_way(service) as way:
        for sent, kept in (("from-the-client", True), ("short", False), ("semi;colon;and;more", False)):
            answer, _ = way.ask(cookie_of(service.client), **{"x-request-id": sent})
            assert (answer.headers["x-request-id"] == sent) is kept


@postgresql_only
def test_the_limit_of_an_address_counts_each_request_once(auth_service: Start) -> None:
    service = auth_service(rate_limits=True)
    enter(service)
    alive, dead = cookie_of(service.client), cookies_of(service.auth).put(SESSION, "gone").split(";")[0]
    with quick_way(service) as way:
        for cookie, quick in ((alive, True), (dead, False)):
            answers = [way.ask(cookie) for _ in range(100)]
            assert {(answer.status_code, was_quick) for answer, was_quick in answers} == {(200, quick)}
            refused, was_quick = way.ask(cookie)
            assert (refused.status_code, was_quick, refused.headers["x-retry-after"]) == (429, False, "10")
            service.clock.advance(timedelta(seconds=10))


# ---------------------------------------------------------------- revoked is refused


@pytest.mark.proves("ASVS 7.4.1")
@pytest.mark.parametrize("way_out", ["sign-out", "revoke-session", "revoke-sessions"])
def test_what_has_ended_is_refused_at_the_next_request(auth_service: Start, way_out: str) -> None:
    service = auth_service(rate_limits=False)
    with quick_way(service) as way:
        for _ in range(5):
            handle = enter(service)
            cookie = cookie_of(service.client)
            assert way.ask(cookie)[0].json()["session"]["token"] == handle
            service.post(f"/{way_out}", {"token": handle})
            answer, quick = way.ask(cookie)
            assert (answer.json(), set_cookies(answer), quick) == (None, CLEARED, False)


@pytest.mark.proves("ASVS 7.4.1")
def test_no_request_that_begins_after_the_end_is_answered(auth_service: Start) -> None:
    """Eight clients ask without a pause, so that there is always a statement under way that a late one could join."""
    service = auth_service(rate_limits=False)
    enter(service)
    cookie = cookie_of(service.client)
    seen: list[tuple[float, bool]] = []
    over = threading.Event()

    def hammer(base_url: str) -> None:
        with LiveClient(base_url) as client:
            while not over.is_set():
                began = time.perf_counter()
                seen.append((began, client.get(WHO, headers={"cookie": cookie}).json() is not None))

    with quick_way(service) as way, ThreadPoolExecutor(8) as threads:
        running = [threads.submit(hammer, str(way.client.base_url)) for _ in range(8)]
        while len(seen) < 100:
            time.sleep(0.001)
        service.post("/revoke-sessions")
        ended, before = time.perf_counter(), len(seen)
        while len(seen) < before + 50:
            time.sleep(0.001)
        over.set()
        for each in running:
            each.result()
    assert sum(alive for began, alive in seen if began < ended) >= 90
    assert [alive for began, alive in seen if began > ended].count(True) == 0


LOOKUP_PROCESS = PROCESS.replace(
    "uvicorn.Config(better_auth(auth),",
    "uvicorn.Config(SessionLookup(better_auth(auth, limits), QuickSessions(auth), limits),",
).replace(
    "listening =",
    "from playbook.pantry.auth.session_lookup import QuickSessions, SessionLookup\n"
    "from playbook.pantry.auth.sign_in import AddressLimits\n"
    "limits = AddressLimits(auth)\n"
    "listening =",
)


@pytest.mark.proves("ASVS 7.4.1")
@postgresql_only
def test_revoked_in_one_process_is_refused_the_quick_way_in_another(auth_service: Start, url: str) -> None:
    assert LOOKUP_PROCESS.count("SessionLookup") == 2
    service = auth_service()
    with quick_way(service) as here, another_process(url, LOOKUP_PROCESS) as there:
        for ending in (here.client, there):
            enter(service)
            cookie = cookie_of(service.client)
            for client in (here.client, there):
                assert client.get(WHO, headers={"cookie": cookie}).json()["user"]["name"] == "ada"
            ended = ending.post("/api/auth/revoke-sessions", json={}, headers={"cookie": cookie, "origin": ORIGIN})
            assert ended.status_code == 200
            for client in (here.client, there):
                assert client.get(WHO, headers={"cookie": cookie}).json() is None


# ---------------------------------------------------------------- the connection


@postgresql_only
def test_a_lost_connection_is_replaced(
    auth_service: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = auth_service(rate_limits=False)
    enter(service)
    cookie = cookie_of(service.client)
    ours = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pantry sessions' AND datname = current_database()"
    )
    with quick_way(service) as way, service.auth.engine.connect() as connection:
        assert way.ask(cookie)[1]
        ends = sa.text(f"SELECT pg_terminate_backend(pid) FROM ({ours}) ours")
        assert connection.execute(ends).scalars().all() == [True]
        connection.rollback()
        monkeypatch.setattr(way.lookup.quick.query, "rest", 60.0)
        with caplog.at_level(logging.WARNING, "pantry.sessions"):
            answers = [way.ask(cookie) for _ in range(3)]
        assert [(a.json()["user"]["name"], quick) for a, quick in answers] == [("ada", False)] * 3
        said = [one.getMessage() for one in caplog.records if one.name == "pantry.sessions"]
        assert said == ["session look-up: AdminShutdown"], "tried once, then not for a while"
        way.lookup.quick.query.rest_until = 0.0
        assert way.ask(cookie)[1]
        assert len(connection.execute(sa.text(ours)).all()) == 1
        connection.rollback()
    until = time.monotonic() + 10  # the server notices a closed connection a moment later
    while left := service.auth.transact(lambda db: db.execute(sa.text(ours)).all()):
        assert time.monotonic() < until, f"not closed when the service stopped: {left}"


@postgresql_only
def test_without_its_database_it_says_so_as_the_long_way_does(auth_service: Start, url: str) -> None:
    service = auth_service(rate_limits=False)
    enter(service)
    cookie = cookie_of(service.client)
    with quick_way(service) as way:
        assert way.ask(cookie)[1]
        database = sa.make_url(url)
        with sa.create_engine(database.set(database="postgres"), isolation_level="AUTOCOMMIT").connect() as admin:
            may_connect = f'ALTER DATABASE "{database.database}" ALLOW_CONNECTIONS '
            admin.execute(sa.text(may_connect + "false"))
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            admin.execute(sa.text(kill), {"name": database.database})
            answer, quick = way.ask(cookie)
            assert (answer.status_code, quick) == (503, False)
            admin.execute(sa.text(may_connect + "true"))
        assert way.ask(cookie)[0].json()["user"]["name"] == "ada"


@postgresql_only
def test_a_locked_table_does_not_hold_the_loop(auth_service: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration locks the table: get-session waits, everything else is answered, and it goes on afterwards."""
    service = auth_service(rate_limits=False)
    enter(service)
    cookie = cookie_of(service.client)
    with quick_way(service) as way, ThreadPoolExecutor(1) as threads:
        assert way.ask(cookie)[1]
        with service.auth.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE sessions"))
            waits = threads.submit(
                service.another_client().get, str(way.client.base_url) + WHO, headers={"cookie": cookie}
            )
            with LiveClient(str(way.client.base_url)) as other:
                assert other.get("/api/auth/ok").status_code == 200
            assert not waits.done()
        assert waits.result(60).json()["user"]["name"] == "ada"


@postgresql_only
def test_the_statement_uses_the_index(auth_service: Start, url: str) -> None:
    service = auth_service()
    enter(service)
    many = """
        INSERT INTO sessions (id, user_id, token_hash, expires_at, created_at, updated_at)
        SELECT gen_random_uuid(), u.id, encode(sha256(n::text::bytea), 'hex'), now(), now(), now()
        FROM users u, generate_series(1, 20000) n
    """
    with service.auth.engine.begin() as connection:
        connection.execute(sa.text(many))
    with psycopg.connect(query_of(sa.make_url(url)).conninfo, autocommit=True) as connection:
        connection.execute("ANALYZE")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        for count in (1, 20):
            hashes = [hash_token(str(n)) for n in range(1, count + 1)]
            plan = connection.execute(f"EXPLAIN {LOOK_UP}", (hashes,)).fetchall()
            assert "ix_sessions_token_hash" in str(plan)
            assert "Seq Scan on sessions" not in str(plan)
            assert len(connection.execute(LOOK_UP, (hashes,)).fetchall()) == count
