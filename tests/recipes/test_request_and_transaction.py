"""What the recipe promises: told after the commit, all or nothing, an id on each answer and log line.

Needs pytest, hypothesis and what FastAPI's test client needs. The database is SQLite.
"""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Response, WebSocket
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import orm

from playbook.foundations.request_and_transaction import (
    ACCEPTED_ID,
    RequestId,
    RequestIdFilter,
    Transact,
    request_id,
    transactions_of,
)

metadata = sa.MetaData()
customers = sa.Table("customers", metadata, sa.Column("id", sa.Integer, primary_key=True))
owner = sa.ForeignKey("customers.id", deferrable=True, initially="DEFERRED")  # checked at the commit
invoices = sa.Table(
    "invoices", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("customer", sa.Integer, owner)
)


def new_engine(folder: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{folder / 'shop.db'}")

    @sa.event.listens_for(engine, "connect")
    def check_foreign_keys(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(customers.insert().values(id=1))
    return engine


def stored(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(invoices.c.id)))


def shop(engine: sa.Engine) -> FastAPI:
    app = FastAPI()
    Transaction = Annotated[Transact, Depends(transactions_of(engine))]

    @app.post("/invoices/{number}", status_code=201)
    def create(number: int, transact: Transaction, customer: int = 1, fails: str = "") -> int:
        def work(session: orm.Session) -> int:
            session.execute(invoices.insert().values(id=number, customer=customer))
            if fails == "refused":
                raise HTTPException(409, "refused")
            return number // len("x" if not fails else "")

        return transact(work)

    return app


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = new_engine(tmp_path)
    yield engine
    engine.dispose()


def client_of(app: Any) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def test_what_was_told_is_committed(engine: sa.Engine) -> None:
    answer = client_of(shop(engine)).post("/invoices/7")
    assert (answer.status_code, answer.json(), stored(engine)) == (201, 7, [7])


@pytest.mark.parametrize(
    ("query", "status"), [("customer=9", 500), ("fails=refused", 409), ("fails=division", 500)], ids=str
)
def test_a_failure_is_told_and_leaves_nothing(engine: sa.Engine, query: str, status: int) -> None:
    """`customer=9` breaks a constraint that is checked at the commit, and not before."""
    assert client_of(shop(engine)).post(f"/invoices/7?{query}").status_code == status
    assert stored(engine) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_options_reach_the_transaction(engine: sa.Engine) -> None:
    transact = asyncio.run(transactions_of(engine)())
    attempts: list[orm.Session] = []

    def work(session: orm.Session) -> str:
        attempts.append(session)
        number = 1 if len(attempts) == 1 else 2
        session.execute(customers.insert().values(id=number))
        return f"attempt {len(attempts)}"

    assert transact(work, retry=lambda error: isinstance(error, sa.exc.IntegrityError)) == "attempt 2"
    assert attempts[0] is not attempts[1]
    with pytest.raises(sa.exc.IntegrityError):
        transact(lambda session: session.execute(customers.insert().values(id=1)))


def test_a_test_replaces_the_engine(engine: sa.Engine) -> None:
    transact_of = transactions_of(sa.create_engine("sqlite://"))  # has no table
    app = FastAPI()

    @app.post("/invoices")
    def create(transact: Annotated[Transact, Depends(transact_of)]) -> None:
        transact(lambda session: session.execute(invoices.insert().values(id=1, customer=1)))

    app.dependency_overrides[transact_of] = transactions_of(engine)
    assert client_of(app).post("/invoices").status_code == 200
    assert stored(engine) == [1]


class Kept(logging.Handler):
    """Keeps the request id of each record."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RequestIdFilter())
        self.ids: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.ids.append(record.request_id)  # type: ignore[attr-defined]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logging.getLogger("shop").addHandler(handler)
    yield handler
    logging.getLogger("shop").removeHandler(handler)


def logging_app() -> FastAPI:
    app = FastAPI()

    @app.get("/divide/{number}")
    def divide(number: int) -> float:
        logging.getLogger("shop").warning("1 / %s", number)
        return 1 / number

    @app.websocket("/feed")
    async def feed(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(request_id.get())

    return app


@pytest.mark.parametrize(("path", "status"), [("/divide/1", 200), ("/nowhere", 404), ("/divide/0", 500)])
def test_each_answer_and_each_log_line_has_the_id(kept: Kept, path: str, status: int) -> None:
    answer = client_of(RequestId(logging_app())).get(path)
    assert answer.status_code == status
    assert ACCEPTED_ID.fullmatch(answer.headers["x-request-id"])
    assert set(kept.ids) <= {answer.headers["x-request-id"]}
    assert len(kept.ids) == (status != 404)


def test_a_handler_of_your_own_can_tell_the_id() -> None:
    app = logging_app()

    @app.exception_handler(Exception)
    async def in_words(_: Any, __: Exception) -> Response:
        return Response(request_id.get(), 500)

    answer = client_of(RequestId(app)).get("/divide/0")
    assert answer.text == answer.headers["x-request-id"]


def test_outside_of_a_request_there_is_none(kept: Kept) -> None:
    logging.getLogger("shop").warning("started")
    assert kept.ids == ["-"]


@example("x" * 64)
@example("x" * 65)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80) | st.from_regex(ACCEPTED_ID))
def test_a_foreign_id_is_kept_only_in_the_narrow_format(sent: str) -> None:
    app = RequestId(logging_app(), new_id=lambda: "made here")
    back = client_of(app).get("/nowhere", headers={"X-Request-Id": sent.encode("utf-8", "replace")})
    narrow = 8 <= len(sent) <= 64 and all(c.isascii() and (c.isalnum() or c in "-_") for c in sent)
    assert back.headers["x-request-id"] == (sent if narrow else "made here")


def test_a_socket_has_an_id_and_requests_have_their_own() -> None:
    client = client_of(RequestId(logging_app()))
    with client.websocket_connect("/feed") as socket:
        assert ACCEPTED_ID.fullmatch(socket.receive_text())
    assert client.get("/nowhere").headers["x-request-id"] != client.get("/nowhere").headers["x-request-id"]


def test_requests_at_once_do_not_mix() -> None:
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = request_id.get()
        await asyncio.sleep(0)
        seen.append((before, request_id.get()))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"the app's own")]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["headers"])

    async def both() -> None:
        ids = iter(["first-id", "second-id"])
        wrapped = RequestId(app, lambda: next(ids))
        scope = {"type": "http", "headers": []}
        await asyncio.gather(wrapped(dict(scope), None, send), wrapped(dict(scope), None, send))  # type: ignore[arg-type]

    asyncio.run(both())
    assert seen == [("first-id", "first-id"), ("second-id", "second-id")]
    assert sent == [[(b"x-request-id", b"first-id")], [(b"x-request-id", b"second-id")]]


def test_the_lifespan_passes() -> None:
    started: list[str] = []
    with TestClient(RequestId(FastAPI(on_startup=[lambda: started.append(request_id.get())]))):
        assert started == ["-"]
