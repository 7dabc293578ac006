"""Idempotency: under one key a POST acts once, whatever dies, waits or collides, and every retry gets the answer."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from before_sign_in import RESOURCES, finished
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from tables import make_tables

from playbook.api.errors import Problem
from playbook.api.idempotency import begin, digest, keys
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.kit.stage import capture_sql
from playbook.pantry.http import Caller, NewIds, Transaction, create_app, permission
from playbook.pantry.keys import (
    AT_ONCE,
    LEASE,
    LIFETIME,
    LIMITS,
    install_idempotency,
    purge_keys,
    read_key,
    seconds,
)
from playbook.schema.identity import User

KEY = '"0123456789abcdef"'
notes = sa.Table("notes", sa.MetaData(), sa.Column("id", sa.Uuid), sa.Column("text", sa.String))


class Board:
    """A service with one more route, `POST /notes/{text}`, that does what the test says during and after its work."""

    def __init__(self, url: str, clock: FixedClock, ids: Identifiers, **options: Any) -> None:
        self.during: Callable[[], object] = lambda: None
        self.after: Callable[[], Any] = lambda: None
        self.clock, self.engine = clock, make_engine(url)
        make_tables(self.engine)
        notes.create(self.engine, checkfirst=True)
        transaction(self.engine, self.add_people)
        router = APIRouter()

        @router.post("/notes/{text}", status_code=201, dependencies=[permission("notes:create")])
        def write(text: str, transact: Transaction, ids: NewIds) -> Any:
            def work(session: sa.orm.Session) -> UUID:
                number = ids.new()
                session.execute(notes.insert().values(id=number, text=text))
                self.during()
                return number

            number = transact(work)
            return self.after() or JSONResponse({"id": str(number)}, 201, {"Location": f"/notes/{number}"})

        def find_caller(request: Any) -> Caller | None:
            number = int(request.headers.get("x-caller", 1))
            return Caller(UUID(int=number), "somebody") if number else None

        self.app: FastAPI = create_app(
            self.engine, [*RESOURCES, router], clock, ids, find_caller, lambda *asked: True, 10_000
        )
        finished(self.app)
        install_idempotency(self.app, **options)

    def add_people(self, session: sa.orm.Session) -> None:
        now = self.clock.now()
        for number in (1, 2):
            mail = f"user{number}@example.com"
            session.add(User(id=UUID(int=number), email=mail, name="Somebody", created_at=now, updated_at=now))

    def rows(self, table: Any = notes) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def board(url: str, clock: FixedClock, ids: Identifiers) -> Board:
    return Board(url, clock, ids)


@pytest.fixture
def client(board: Board) -> Iterator[LiveClient]:
    with serving(board.app) as client:
        yield client


def write(client: httpx.Client, text: str = "a", key: str | None = KEY, **headers: str) -> httpx.Response:
    return client.post(f"/notes/{text}", headers=headers | ({"Idempotency-Key": key} if key else {}))


def test_a_repeated_request_gets_the_first_answer(board: Board, client: LiveClient) -> None:
    first, *others = [write(client) for _ in range(4)]
    assert (first.status_code, board.rows()) == (201, 1)
    assert "idempotency-replayed" not in first.headers
    for other in others:
        assert (other.status_code, other.content) == (first.status_code, first.content)
        assert other.headers["idempotency-replayed"] == "true"
        for name in ("location", "content-type", "content-length"):
            assert other.headers[name] == first.headers[name]
        assert other.headers["x-request-id"] != first.headers["x-request-id"]


def test_without_a_key_nothing_changes(board: Board, client: LiveClient) -> None:
    assert [write(client, key=None).status_code for _ in range(2)] == [201, 201]
    assert (board.rows(), board.rows(keys)) == (2, 0)


def test_fifty_at_once_act_once(board: Board, client: LiveClient) -> None:
    start = threading.Barrier(50)
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: (start.wait(60), write(client))[1], range(50)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 409)
    assert (board.rows(), board.engine.pool.checkedout()) == (1, 0)  # type: ignore[attr-defined]


def test_fifty_different_keys_act_fifty_times(board: Board, client: LiveClient) -> None:
    """More than there are threads or connections: nobody waits for somebody who waits."""
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda n: write(client, key=f'"{n:016}"').status_code, range(50)))
    assert (set(answers), board.rows()) == ({201}, 50)


def test_the_second_is_told_to_wait_while_the_first_is_at_work(board: Board, client: LiveClient) -> None:
    working, go_on = threading.Event(), threading.Event()
    board.during = lambda: (working.set(), go_on.wait(60))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(write, client)
        assert working.wait(60)
        second = write(client)
        other = write(client, "b")
        go_on.set()
        assert first.result().status_code == 201
    assert (second.status_code, second.headers["retry-after"]) == (409, "1")
    assert second.json()["type"] == "/problems/in-flight"
    assert other.status_code == 422
    assert board.rows() == 1


def test_nobody_waits_for_a_place_at_work_to_hear_that_the_key_is_taken(board: Board, client: LiveClient) -> None:
    """As many as may work at once do, and one more has claimed its key: its duplicate hears so, and a replay comes."""
    write(client, key='"kept-answer-number-1"')
    begun, go_on = threading.Semaphore(0), threading.Event()
    board.during = lambda: (begun.release(), go_on.wait(30))
    with ThreadPoolExecutor(AT_ONCE + 1) as threads:
        firsts = [threads.submit(write, client, key=f'"{number:016}"') for number in range(AT_ONCE + 1)]
        try:
            assert all(begun.acquire(timeout=60) for _ in range(AT_ONCE))
            assert not begun.acquire(timeout=0.3), "more than AT_ONCE are at work"
            assert write(client, key='"kept-answer-number-1"').headers["idempotency-replayed"] == "true"
            assert {write(client, key=f'"{number:016}"').status_code for number in range(AT_ONCE + 1)} == {409}
        finally:
            go_on.set()
        assert {first.result().status_code for first in firsts} == {201}


@pytest.mark.parametrize(
    "body", [b"{", b'{"slug": "a", "slug": "b"}', b'{"slug": "\\ud800"}', b'"\\u0000"', b"[" * 9999]
)
def test_a_malformed_body_claims_no_key(board: Board, client: LiveClient, body: bytes) -> None:
    """Its sender is asked for first, and once: nothing of a stranger is read."""
    headers, callers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}, []
    find_caller = board.app.state.find_caller
    board.app.state.find_caller = lambda request: callers.append(1) or find_caller(request)
    with capture_sql(board.engine) as statements:
        refused = client.post("/organizations", content=body, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (400, "/problems/malformed-request")
    assert (statements, callers, board.rows(keys)) == ([], [1], 0)
    good = b'{"slug": "acme", "name": "Acme"}'
    answers = [client.post("/organizations", content=good, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert callers


def test_nobody_gets_the_answer_that_nobody_gets_without_a_key(client: LiveClient) -> None:
    """Also the body reaches the route, although the middleware has read it."""
    for body in (b'{"slug": "acme", "name": "Acme"}', b"{}"):
        sent = {"content": body, "headers": {"x-caller": "0", "content-type": "application/json"}}
        plain = client.post("/organizations", **sent)
        with_key = client.post("/organizations", **sent | {"headers": sent["headers"] | {"idempotency-key": KEY}})
        assert (with_key.status_code, with_key.json()["type"]) == (plain.status_code, plain.json()["type"])


def test_a_replay_is_the_same_however_the_body_is_cut(client: LiveClient) -> None:
    body = b'{"slug": "acme", "name": "Acm\xc3\xa9"}'
    headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
    parts = (body[place : place + 1] for place in range(len(body)))
    answers = [client.post("/organizations", content=content, headers=headers) for content in (body, parts, body)]
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    refused = [client.post("/packages", content=b'{"name": 5}', headers=headers) for _ in range(2)]
    assert {(answer.status_code, answer.content) for answer in refused} == {(422, refused[0].content)}


def test_keys_come_after_problems(url: str) -> None:
    with pytest.raises(ValueError, match="call install_strict_input first"):
        install_idempotency(create_app(make_engine(url)))


def test_the_document_says_which_routes_take_a_key(url: str, clock: FixedClock, ids: Identifiers) -> None:
    board = Board(url, clock, ids, exempt=("/packages",), required=frozenset({"POST /notes/{text}"}))
    later = APIRouter()
    later.add_api_route("/later", lambda: None, methods=["POST"])
    for _ in range(2):
        takes = {
            f"{method} {path}": [
                p["required"] for p in operation.get("parameters", ()) if p["name"] == "Idempotency-Key"
            ]
            for path, item in board.app.openapi()["paths"].items()
            for method, operation in item.items()
        }
        assert takes.pop("post /notes/{text}") == [True]
        assert takes.pop("post /organizations") == [False]
        assert takes.pop("post /later", [False]) == [False]
        assert set(map(len, takes.values())) == {0}
        board.app.include_router(later)


@pytest.mark.parametrize(
    "change", [{"url": "/notes/b"}, {"url": "/notes/a?x"}, {"content": b"{}"}, {"headers": {"content-type": "text/x"}}]
)
def test_another_request_under_the_key_is_refused(board: Board, client: LiveClient, change: dict[str, Any]) -> None:
    write(client)
    asked: dict[str, Any] = {"url": "/notes/a", "headers": {}} | change
    answer = client.post(asked.pop("url"), headers={"Idempotency-Key": KEY} | asked.pop("headers"), **asked)
    assert answer.status_code == 422
    assert board.rows() == 1


def test_caller_and_route_have_their_own_keys(board: Board, client: LiveClient) -> None:
    write(client)
    assert "idempotency-replayed" not in write(client, **{"x-caller": "2"}).headers
    acme = {"slug": "acme", "name": "Acme"}
    assert client.post("/organizations", json=acme, headers={"Idempotency-Key": KEY}).status_code == 201
    assert (board.rows(), board.rows(keys)) == (2, 3)


def test_pantrys_own_routes_take_keys(client: LiveClient) -> None:
    for path, body in (
        ("organizations", {"slug": "acme", "name": "A"}),
        ("packages", {"name": "x", "organization": "acme"}),
    ):
        answers = [client.post(f"/{path}", json=body, headers={"Idempotency-Key": KEY}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[1].headers["location"] == answers[0].headers["location"]
        assert client.post(f"/{path}", json=body).status_code == 409


@pytest.mark.parametrize("status", [401, 403, 408, 425, 429, 500, 503])
def test_what_may_pass_is_not_kept_and_not_done(board: Board, client: LiveClient, status: int) -> None:
    board.after = lambda: JSONResponse({}, status)
    assert write(client).status_code == status
    assert (board.rows(), board.rows(keys)) == (0, 0)
    board.after = lambda: None
    assert write(client, "another request").status_code == 201
    assert board.rows() == 1


def test_an_answer_of_a_megabyte_is_kept_with_every_byte(board: Board, client: LiveClient) -> None:
    whole = bytes(range(256)) * 4096
    board.after = lambda: Response(whole, 201, {"X-Name": "Andr\xe9"}, "application/octet-stream")
    first, again = write(client), write(client)
    assert first.content == again.content == whole
    assert first.headers["x-name"] == again.headers["x-name"]
    assert "idempotency-replayed" in again.headers


def test_an_exception_is_500_and_leaves_nothing(board: Board, client: LiveClient) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    board.after = fail
    answer = write(client)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (board.rows(), board.rows(keys)) == (0, 0)
    board.after, board.during = lambda: None, fail
    assert write(client).status_code == 500
    board.during = lambda: None
    assert write(client).status_code == 201
    assert board.rows() == 1


def test_a_refusal_stays_when_its_cause_has_gone(client: LiveClient) -> None:
    body = {"name": "x", "organization": "acme"}
    before = client.post("/packages", json=body, headers={"Idempotency-Key": KEY})
    client.post("/organizations", json={"slug": "acme", "name": "Acme"})
    after = client.post("/packages", json=body, headers={"Idempotency-Key": KEY})
    assert 400 <= before.status_code < 500
    assert (after.status_code, after.content) == (before.status_code, before.content)


def test_a_key_expires_and_is_purged(board: Board, client: LiveClient) -> None:
    write(client)
    board.clock.advance(LIFETIME - timedelta(seconds=1))
    assert write(client).headers["idempotency-replayed"] == "true"
    transaction(board.engine, lambda session: purge_keys(session, board.clock.now()))
    assert board.rows(keys) == 1
    board.clock.advance(timedelta(seconds=1))
    assert "idempotency-replayed" not in write(client).headers
    assert board.rows() == 2
    board.clock.advance(LIFETIME)
    transaction(board.engine, lambda session: purge_keys(session, board.clock.now()))
    assert board.rows(keys) == 0


def test_the_claim_of_the_dead_runs_out(board: Board, client: LiveClient) -> None:
    name = digest(str(UUID(int=1)), "POST /notes/{text}", KEY)
    print_ = digest("/notes/a", b"", "", b"")
    now = board.clock.now()
    begin(lambda work: transaction(board.engine, work), (name, print_), seconds(now), LIMITS.lease)
    assert write(client).status_code == 409
    board.clock.advance(LEASE)
    assert write(client).status_code == 201
    assert (board.rows(), board.rows(keys)) == (1, 1)


def test_who_lost_the_claim_commits_nothing(board: Board, client: LiveClient) -> None:
    others: list[int] = []

    def too_slow() -> None:
        if not others:
            others.append(0)
            board.clock.advance(LEASE)
            others[0] = write(client).status_code

    board.during = too_slow
    assert (write(client).status_code, others, board.rows()) == (409, [201], 1)
    assert write(client).headers["idempotency-replayed"] == "true"


def test_a_conflict_runs_the_endpoint_again(board: Board, client: LiveClient) -> None:
    transaction(board.engine, lambda session: session.execute(notes.insert().values(text="counter")))
    tries: list[int] = []

    def add(engine: sa.Engine, text: str) -> None:
        with engine.begin() as connection:
            connection.execute(notes.update().where(notes.c.text.startswith("counter")).values(text=text))

    router = APIRouter()

    @router.post("/count", status_code=201, dependencies=[permission("notes:create")])
    def count(transact: Transaction) -> str:
        def work(session: sa.orm.Session) -> str:
            tries.append(1)
            text = session.scalar(sa.select(notes.c.text)) or ""
            if len(tries) == 1:
                add(board.engine, text + "+")
            session.execute(notes.update().values(text=text + "+"))
            return text

        return transact(work)

    board.app.include_router(router)
    assert client.post("/count", headers={"Idempotency-Key": KEY}).json() == "counter+"
    assert client.post("/count", headers={"Idempotency-Key": KEY}).json() == "counter+"
    assert len(tries) == 2
    with board.engine.connect() as connection:
        assert connection.scalars(sa.select(notes.c.text)).all() == ["counter++"]


def test_a_cookie_is_never_stored(board: Board, client: LiveClient) -> None:
    board.after = lambda: JSONResponse({}, 201, {"Set-Cookie": "session=secret"})
    assert write(client).status_code == 500
    assert (board.rows(), board.rows(keys)) == (0, 0)


def test_nobody_has_no_keys(board: Board, client: LiveClient) -> None:
    assert (
        client.post("/organizations", json={"slug": "a"}, headers={"Idempotency-Key": KEY, "x-caller": "0"}).status_code
        == 401
    )
    assert client.post("/nowhere", headers={"Idempotency-Key": KEY}).status_code == 404
    assert client.put("/notes/a", headers={"Idempotency-Key": KEY}).status_code == 405
    assert board.rows(keys) == 0


def test_a_body_too_large_is_413(client: LiveClient) -> None:
    answer = client.post("/organizations", content=b"x" * 20_000, headers={"Idempotency-Key": KEY})
    assert (answer.status_code, answer.json()["status"]) == (413, 413)


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_failure_of_the_service(board: Board) -> None:
    ended = threading.Event()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await board.app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                ended.set()

    with serving(watched) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            head = b"POST /organizations HTTP/1.1\r\nHost: pantry\r\nContent-Type: application/json\r\n"
            head += b'Idempotency-Key: "0123456789abcdef"\r\n'
            connection.sendall(head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100")  # the service is waiting for the body
            connection.sendall(b'{"slug"')
        assert ended.wait(60)
        assert board.rows(keys) == 0
    assert client.server_errors == []


def test_required_and_exempt(url: str, clock: FixedClock, ids: Identifiers) -> None:
    board = Board(url, clock, ids, exempt=("/notes/free",), required=frozenset({"POST /notes/{text}"}))
    with serving(board.app) as client:
        assert write(client, key=None).json()["type"] == "/problems/bad-idempotency-key"
        assert [write(client, "free").status_code for _ in range(2)] == [201, 201]
        assert client.post("/organizations", json={"slug": "acme", "name": "Acme"}).status_code == 201
        assert board.rows(keys) == 0


@pytest.mark.parametrize(
    "sent",
    [[], [KEY, KEY], ["0123456789abcdef"], ['"short"'], ['"' + "x" * 129 + '"'], ['"0123456789 abcdef"'],
     ['"0123456789"abcdef"'], ['"0123456789\\abcdef"'], ['"0123456789abcdé"'], [KEY + ";a=1"], [KEY + "\n"], [""]],
)  # fmt: skip
def test_a_bad_key_is_refused(sent: list[str]) -> None:
    with pytest.raises(Problem) as refused:
        read_key(sent)
    assert refused.value.status_code == 400


def test_parts_of_a_digest_stay_apart() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest(b"ab", "c"), digest("ab", "c", "")}) == 5
