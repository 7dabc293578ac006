"""What the recipe promises, in a shop on SQLite whose sessions commit. Needs pytest, fastapi and httpx."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from sqlalchemy import orm

from playbook.api.idempotency import (
    Claim,
    Limits,
    begin,
    call_once,
    digest,
    keys,
    once,
    one_commit,
    purge_keys,
    read_key,
    write,
)

KEY = '"0123456789abcdef"'
ASKED = ("a caller's key", "an order")
Base = orm.declarative_base()
LEASE, LIFETIME, LARGEST = Limits()


class Order(Base):  # type: ignore[misc, valid-type]
    __tablename__ = "orders"
    id = sa.Column(sa.Integer, primary_key=True)
    item = sa.Column(sa.String)


class Shop:
    """A service as many are: integer ids, `session.commit()` in the route. `during`: what else the work does."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.now = engine, 1_000_000
        self.transact = one_commit(engine, orm.sessionmaker(expire_on_commit=True))
        self.during: Callable[[], object] = lambda: None
        self.app = FastAPI()

        async def asked(request: Request) -> tuple[str, str]:
            return await read_key(request, request.headers.get("x-user", "ada"))

        read = Depends(asked)

        @self.app.post("/orders/{shelf}", status_code=201)
        @self.app.patch("/orders/{shelf}", status_code=201)
        def place_order(shelf: str, item: str = Body(embed=True), asked: Any = read) -> Any:
            return once(self.transact, asked, lambda session: self.place(session, item), self.now)

    def place(self, session: orm.Session, item: str = "tea") -> Any:
        order = Order(item=item)
        session.add(order)
        session.commit()
        self.during()
        session.refresh(order)
        return {"id": order.id}

    def once(self, now: int = 0, **options: Any) -> Any:
        return once(self.transact, ASKED, self.place, now, **options)

    def orders(self, table: Any = Order.__table__) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def row(self) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(keys)).one()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}", connect_args={"timeout": 60})
    Base.metadata.create_all(engine)
    keys.metadata.create_all(engine)
    yield Shop(engine)
    engine.dispose()


@pytest.fixture
def client(shop: Shop) -> Iterator[TestClient]:
    with TestClient(shop.app, raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, url: str = "/orders/1", key: str = KEY, **sent: Any) -> Any:
    headers = {"Idempotency-Key": key} | sent.pop("headers", {})
    return client.post(url, **({"json": {"item": "tea"}} | sent), headers=headers)


def status(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except HTTPException as refused:
        return refused.status_code


def fails_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_the_same_answer_five_times_and_one_order(shop: Shop, client: TestClient) -> None:
    answers = [post(client) for _ in range(5)]
    assert {(one.status_code, one.content, *one.headers.items()) for one in answers} == {
        (201, b'{"id":1}', *answers[0].headers.items())
    }
    assert shop.orders() == 1


def test_twenty_at_once_act_once_and_nobody_waits_for_the_work(shop: Shop, client: TestClient) -> None:
    refused: list[str | None] = []
    all_heard = threading.Event()
    place = shop.place

    def place_late(session: orm.Session, item: str) -> Any:
        all_heard.wait(60)  # before the work writes: SQLite lets no other claim in while a transaction has written
        return place(session, item)

    shop.place = place_late  # type: ignore[method-assign]

    def one() -> int:
        answer = post(client)
        if answer.status_code == 409:
            refused.append(answer.headers.get("retry-after"))
        if len(refused) == 19:
            all_heard.set()
        return int(answer.status_code)

    with ThreadPoolExecutor(20) as threads:
        heard = [future.result() for future in [threads.submit(one) for _ in range(20)]]
    assert sorted(heard) == [201, *[409] * 19]
    assert (refused, shop.orders()) == (["1"] * 19, 1)


@pytest.mark.parametrize(
    "change", [{"url": "/orders/2"}, {"url": "/orders/1?x=1"}, {"json": {"item": "cake"}},
               {"content": b'{"item":"tea"} ', "json": None, "headers": {"content-type": "application/json"}}]
)  # fmt: skip
def test_the_key_is_bound_to_its_request(shop: Shop, client: TestClient, change: dict[str, Any]) -> None:
    post(client)
    assert (post(client, **change).status_code, shop.orders()) == (422, 1)


def test_the_key_is_bound_to_its_method_and_content_type(shop: Shop, client: TestClient) -> None:
    sent = {"content": b'{"item":"tea"}', "headers": {"Idempotency-Key": KEY, "content-type": "application/json"}}
    assert client.post("/orders/1", **sent).status_code == 201  # type: ignore[arg-type]
    assert client.patch("/orders/1", **sent).status_code == 422  # type: ignore[arg-type]
    sent["headers"] = {"Idempotency-Key": KEY, "content-type": "application/merge-patch+json"}
    assert client.post("/orders/1", **sent).status_code == 422  # type: ignore[arg-type]
    assert shop.orders() == 1


def test_two_keys_of_one_caller_are_two_orders(shop: Shop, client: TestClient) -> None:
    longest = f'"{"x" * 128}"'
    assert [post(client, key=key).json() for key in (KEY, longest, longest)] == [{"id": 1}, {"id": 2}, {"id": 2}]


def test_the_key_is_bound_to_its_caller(shop: Shop, client: TestClient) -> None:
    assert [post(client, headers={"x-user": name}).json() for name in ("ada", "bob")] == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("key", ["0123456789abcdef", '"short"', f'"{"x" * 129}"', '"0123456789 abcdef"',
                                 '"0123456789"abcdef"', '"0123456789\\abcdef"', KEY + ";a=1", ""])  # fmt: skip
def test_a_bad_key_is_refused_and_not_stored(shop: Shop, client: TestClient, key: str) -> None:
    assert post(client, key=key).status_code == 400
    assert client.post("/orders/1", json={"item": "tea"}).status_code == 400
    two = client.post("/orders/1", json={"item": "tea"}, headers=[("Idempotency-Key", KEY)] * 2)  # type: ignore[arg-type]
    assert (two.status_code, shop.orders(), shop.orders(keys)) == (400, 0, 0)


def test_a_body_that_the_route_refuses_claims_no_key(shop: Shop, client: TestClient) -> None:
    assert (post(client, json={}).status_code, shop.orders(keys)) == (422, 0)
    assert post(client).status_code == 201


@pytest.mark.parametrize("error", [HTTPException(404), HTTPException(503), RuntimeError(), KeyboardInterrupt()])
def test_what_is_raised_is_not_kept_and_its_writes_are_undone(shop: Shop, error: BaseException) -> None:
    shop.during = fails_with(error)
    with pytest.raises(type(error)):
        shop.once()
    assert (shop.orders(), shop.row().answer) == (0, None)
    shop.during = lambda: None
    assert (shop.once(), shop.orders()) == ({"id": 1}, 1)


@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), ("x" * LARGEST, ValueError)])
def test_what_cannot_be_kept_is_an_error_and_undone(shop: Shop, value: object, error: type[Exception]) -> None:
    def work(session: orm.Session) -> object:
        shop.place(session)
        return value

    with pytest.raises(error):
        once(shop.transact, ASKED, work, 0)
    assert shop.orders() == 0


def test_the_limits_that_are_given_hold(shop: Shop) -> None:
    limits = Limits(lease=5, lifetime=7, largest=4)
    with pytest.raises(ValueError, match="too long"):
        once(shop.transact, ASKED, lambda session: "abc", 0, limits)  # five characters of JSON
    assert once(shop.transact, ASKED, lambda session: "ab", 0, limits) == "ab"
    assert [once(shop.transact, ASKED, lambda session: "cd", now, limits) for now in (6, 7)] == ["ab", "cd"]
    slow = ("another key", "an order")
    heard: list[Any] = []

    def call(claim: Claim) -> Callable[[orm.Session], Any]:
        heard.append(status(lambda: begin(shop.transact, slow, 4, limits.lease)))
        heard.append(begin(shop.transact, slow, 5, limits.lease).attempt)
        return lambda session: 1

    assert status(lambda: call_once(shop.transact, slow, call, 0, limits)) == 409
    assert heard == [409, 2]


def test_a_rollback_in_the_work_is_an_error_and_not_half_an_answer(shop: Shop) -> None:
    def work(session: orm.Session) -> dict[str, bool]:
        shop.place(session)
        session.rollback()
        return {"ok": True}

    with pytest.raises(sa.exc.InvalidRequestError):
        once(shop.transact, ASKED, work, 0)
    assert (shop.orders(), shop.row().answer) == (0, None)


def test_a_claim_lasts_as_long_as_its_lease(shop: Shop) -> None:
    first = begin(shop.transact, ASKED, 0, LEASE)
    assert status(lambda: shop.once(LEASE - 1)) == 409
    assert shop.row().reference == first.reference
    assert (shop.once(LEASE), shop.row().reference, shop.row().attempt) == ({"id": 1}, first.reference, 2)


@pytest.mark.parametrize("error", [sa.exc.IntegrityError, sa.exc.OperationalError])  # on DuckDB the second
def test_who_loses_the_race_for_the_first_row_hears_409(shop: Shop, error: type[sa.exc.DBAPIError]) -> None:
    def other_is_first(work: Any) -> Any:
        begin(shop.transact, ASKED, 0, LEASE)
        raise error("INSERT", None, Exception("duplicate key"))

    calls = iter([other_is_first, shop.transact])
    assert status(lambda: once(lambda work: next(calls)(work), ASKED, shop.place, 0)) == 409


def test_who_finds_the_key_in_the_index_and_no_row_hears_409(shop: Shop) -> None:
    """DuckDB, 20 at once in a file: the INSERT is refused, looked for again, refused again."""

    def refused(work: Any) -> NoReturn:
        raise sa.exc.IntegrityError("INSERT", None, Exception("duplicate key"))

    assert status(lambda: once(refused, ASKED, shop.place, 0)) == 409


def test_another_error_that_stays_is_not_called_work(shop: Shop) -> None:
    def gone(work: Any) -> NoReturn:
        raise sa.exc.OperationalError("INSERT", None, Exception("no connection"))

    with pytest.raises(sa.exc.OperationalError):
        once(gone, ASKED, shop.place, 0)


def test_a_process_that_lost_its_claim_commits_nothing(shop: Shop) -> None:
    others: list[Any] = []

    def too_slow(session: orm.Session) -> Any:
        others.append(shop.once(LEASE))  # before this transaction writes: SQLite has one writer
        return shop.place(session)

    assert status(lambda: once(shop.transact, ASKED, too_slow, 0)) == 409
    assert (others, shop.orders(), shop.once(LEASE)) == ([{"id": 1}], 1, {"id": 1})


def test_nor_does_it_while_the_other_is_still_at_work(shop: Shop) -> None:
    def overtaken(session: orm.Session) -> Any:
        assert begin(shop.transact, ASKED, LEASE, LEASE).attempt == 2
        return shop.place(session)

    assert status(lambda: once(shop.transact, ASKED, overtaken, 0)) == 409
    assert (shop.orders(), shop.row().until) == (0, 2 * LEASE)


def test_an_answer_expires_and_unfinished_work_does_not(shop: Shop) -> None:
    shop.once(0)
    assert (shop.once(LIFETIME - 1), shop.orders()) == ({"id": 1}, 1)
    before = shop.row().reference
    assert (shop.once(LIFETIME), shop.orders(), shop.row().reference == before) == ({"id": 2}, 2, False)
    again = begin(shop.transact, ("another", "order"), 0, LEASE)
    later = begin(shop.transact, ("another", "order"), 10 * LIFETIME, LEASE)
    assert (later.reference, later.attempt) == (again.reference, 2)
    assert status(lambda: begin(shop.transact, ("another", "cake"), 20 * LIFETIME, LEASE)) == 422


def test_an_expired_key_is_free_for_another_request(shop: Shop) -> None:
    shop.once(0)
    assert status(lambda: begin(shop.transact, (ASKED[0], "a cake"), LIFETIME - 1, LEASE)) == 422
    assert begin(shop.transact, (ASKED[0], "a cake"), LIFETIME, LEASE).attempt == 1


def test_a_process_that_sleeps_until_its_key_has_a_new_life_writes_nothing(shop: Shop) -> None:
    old = begin(shop.transact, ASKED, 0, LEASE)
    shop.once(LEASE)
    new = begin(shop.transact, ASKED, LEASE + LIFETIME, LEASE)
    assert (old.attempt, new.attempt, old.reference == new.reference) == (1, 1, False)
    with pytest.raises(HTTPException) as refused:
        shop.transact(lambda session: write(session, old, {"until": 0}))
    assert (refused.value.status_code, refused.value.headers) == (409, {"Retry-After": "1"})


def test_purge_keeps_what_a_retry_needs(shop: Shop) -> None:
    shop.once(0)
    begin(shop.transact, ("another", "order"), 0, LEASE)
    month = 30 * 24 * 3600
    left = []
    for now in (LIFETIME - 1, LIFETIME, LEASE + month - 1, LEASE + month):
        shop.transact(lambda session, now=now: purge_keys(session, now))
        left.append(shop.orders(keys))
    assert left == [2, 1, 1, 0]


def test_an_outside_call_has_one_reference_and_is_never_repeated_by_itself(shop: Shop) -> None:
    seen: list[Claim] = []
    refusals = iter([TimeoutError(), None, None])

    def call(claim: Claim) -> Callable[[orm.Session], Any]:
        seen.append(claim)
        if (error := next(refusals)) is not None:
            raise error
        return shop.place

    def conflict() -> None:
        raise sa.exc.OperationalError("a statement", None, Exception("conflict"))

    shop.during = conflict
    for now, error in enumerate([TimeoutError, sa.exc.OperationalError]):
        with pytest.raises(error):
            call_once(shop.transact, ASKED, call, now)
    shop.during = lambda: None
    assert [call_once(shop.transact, ASKED, call, now) for now in (2, 3)] == [{"id": 1}] * 2
    assert [claim.attempt for claim in seen] == [1, 2, 3]
    assert len({claim.reference for claim in seen}) == 1


def test_an_error_after_the_commit_does_not_free_an_answered_key(shop: Shop) -> None:
    def lost(work: Any) -> Any:
        shop.transact(work)
        raise ConnectionError  # the commit is done, its answer is lost

    calls = iter([shop.transact, lost, shop.transact])
    with pytest.raises(ConnectionError):
        once(lambda work: next(calls)(work), ASKED, shop.place, 0)
    assert (shop.once(1), shop.orders()) == ({"id": 1}, 1)


def test_the_session_is_made_by_what_the_project_passes(shop: Shop) -> None:
    transact = one_commit(shop.engine, orm.sessionmaker(info={"of": "the project"}, autoflush=False))

    def work(session: orm.Session) -> Any:
        session.add(Order(item="tea"))  # neither flushed nor committed
        return session.info

    assert once(transact, ASKED, work, 0) == {"of": "the project"}
    assert shop.orders() == 1


def test_parts_of_a_digest_stay_apart() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest(b"ab", "c"), digest("ab", "c", "")}) == 5
