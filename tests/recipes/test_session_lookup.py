"""No answer is older than its question, and the connection heals. Needs pytest, fastapi and psycopg, no database."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
import pytest
from fastapi import FastAPI, HTTPException, Path
from fastapi.testclient import TestClient

from playbook.auth.session_lookup import KeyedQuery, Resting, Together, open_cursor


class Gate:
    """A database whose statements see it as it is when they are sent, and come back when they are let through."""

    def __init__(self, **rows: tuple[Any, ...]) -> None:
        self.rows = rows
        self.sent: list[list[str]] = []
        self.on_its_way, self.open = asyncio.Event(), asyncio.Event()

    async def ask(self, keys: list[str]) -> dict[str, Any]:
        self.sent.append(keys)
        found = {key: self.rows[key] for key in keys if key in self.rows}
        self.on_its_way.set()
        await self.open.wait()
        return found


def test_nobody_is_answered_by_a_statement_that_was_sent_before() -> None:
    async def story() -> None:
        gate = Gate(a=(1,), b=(2,))
        reader = Together(gate.ask)
        early = asyncio.create_task(reader.read("a"))
        await gate.on_its_way.wait()
        del gate.rows["a"]
        late = [asyncio.create_task(reader.read(key)) for key in "aba"]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.wait_for(early, 10) == (1,)
        assert await asyncio.wait_for(asyncio.gather(*late), 10) == [None, (2,), None]
        assert gate.sent == [["a"], ["a", "b", "a"]]

    asyncio.run(story())


def test_a_thousand_at_once_are_one_statement() -> None:
    async def story() -> None:
        gate = Gate(**{f"k{n}": (n,) for n in range(0, 1000, 2)})
        gate.open.set()
        reader = Together(gate.ask)
        rows = await asyncio.gather(*(reader.read(f"k{n}") for n in range(1000)))
        assert rows == [None if n % 2 else (n,) for n in range(1000)]
        assert len(gate.sent) == 1
        assert await reader.read("k8") == (8,), "and it goes on"
        assert len(gate.sent) == 2

    asyncio.run(story())


def test_who_hangs_up_takes_nobody_along() -> None:
    async def story() -> None:
        gate = Gate(a=(1,))
        reader = Together(gate.ask)
        first, second, third = (asyncio.create_task(reader.read("a")) for _ in range(3))
        await gate.on_its_way.wait()
        first.cancel()
        third.cancel()
        gate.open.set()
        assert await asyncio.wait_for(second, 10) == (1,)
        assert await asyncio.wait_for(reader.read("a"), 10) == (1,)

    asyncio.run(story())


def test_what_the_statement_raises_is_raised_to_all_who_wait() -> None:
    async def story() -> None:
        failing = True

        async def ask(keys: list[str]) -> dict[str, Any]:
            await asyncio.sleep(0)
            if failing:
                raise ConnectionError("gone")
            return {key: (key,) for key in keys}

        reader = Together(ask)
        results = await asyncio.gather(*(reader.read("a") for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["gone"] * 3
        failing = False
        assert await reader.read("a") == ("a",), "and it goes on"

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(5))
def test_no_read_is_answered_by_a_statement_that_began_before_it(seed: int) -> None:
    """Readers come at any moment and some hang up; the row holds the number of its last change."""

    async def story() -> None:
        chance, version, begun, at_work = random.Random(seed), 0, 0, 0

        async def ask(keys: list[str]) -> dict[str, Any]:
            nonlocal begun, at_work
            at_work += 1
            assert at_work == 1, "two statements at once on one connection"
            begun += 1
            found = {key: (key, version) for key in keys}
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            at_work -= 1
            return found

        reader = Together(ask)

        async def one(key: str) -> None:
            before = version
            row = await reader.read(key)
            assert row is not None
            assert row[0] == key
            assert row[1] >= before, "older than the question"

        tasks = []
        for number in range(200):
            version += chance.randrange(2)
            tasks.append(asyncio.create_task(one(f"key {number % 7}")))
            if chance.random() < 0.1:
                chance.choice(tasks).cancel()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(r) for r in results} <= {type(None), asyncio.CancelledError}
        assert begun < 200

    asyncio.run(story())


# ---------------------------------------------------------------- the connection


class Server:
    """Stands for psycopg and its server. `announced` is the process that it names at the connect."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = [("a", 1), ("b", 2)]
        self.opened = self.closed = 0
        self.announced, self.process = 7, 7
        self.error: Exception | None = None
        self.never = False
        self.options: dict[str, Any] = {}

    async def connect(self, conninfo: str, **options: Any) -> "Server.Connection":
        self.opened += 1
        self.options = options
        if self.error:
            raise self.error
        return Server.Connection(self)

    class Connection:
        def __init__(self, server: "Server") -> None:
            self.server, self.connection = server, self
            self.prepare_threshold = server.options["prepare_threshold"]
            self.info = self
            self.backend_pid = server.announced
            self.sent = ""

        def cursor(self) -> "Server.Connection":
            return self

        async def execute(self, sql: str, parameters: Any = None) -> "Server.Connection":
            if self.server.never:
                await asyncio.Event().wait()
            if self.server.error:
                raise self.server.error
            self.sent, self.keys = sql, parameters and parameters[0]
            return self

        async def fetchone(self) -> tuple[int]:
            return (self.server.process,)

        async def fetchall(self) -> list[tuple[Any, ...]]:
            return [row for row in self.server.rows if row[0] in self.keys]

        async def close(self) -> None:
            self.server.closed += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(psycopg.AsyncConnection, "connect", server.connect)
    return server


def test_one_connection_without_a_transaction(server: Server) -> None:
    async def story() -> None:
        query = KeyedQuery("", "SELECT")
        assert await query.ask(["a", "c"]) == {"a": ("a", 1)}
        assert await query.ask(["b"]) == {"b": ("b", 2)}
        assert (server.opened, server.options["autocommit"]) == (1, True)
        await query.close()
        await query.close()
        assert server.closed == 1

    asyncio.run(story())


@pytest.mark.parametrize(("process", "threshold"), [(7, 0), (8, None)])
def test_nothing_is_prepared_behind_a_pooler(server: Server, process: int, threshold: int | None) -> None:
    server.process = process
    cursor = asyncio.run(open_cursor(""))
    assert cursor.connection.prepare_threshold == threshold


def test_a_lost_connection_is_opened_again_after_a_rest(server: Server) -> None:
    async def story() -> None:
        query = KeyedQuery("", "SELECT", rest=60)
        assert await query.ask(["a"])
        server.error = psycopg.OperationalError("lost")
        with pytest.raises(psycopg.OperationalError):
            await query.ask(["a"])
        assert server.closed == 1
        server.error = None
        for _ in range(3):
            with pytest.raises(Resting):
                await query.ask(["a"])
        assert server.opened == 1, "nothing was tried"
        query.rest_until = 0
        assert await query.ask(["a"]) == {"a": ("a", 1)}
        assert server.opened == 2

    asyncio.run(story())


@pytest.mark.parametrize("error", [psycopg.DataError("NUL"), "\ud800"])
def test_a_key_that_cannot_be_takes_the_quick_way_from_nobody(server: Server, error: Any) -> None:
    async def story() -> None:
        query = KeyedQuery("", "SELECT", rest=60)
        assert await query.ask(["a"])
        if isinstance(error, str):
            with pytest.raises(UnicodeError) as caught:
                error.encode()
            server.error = caught.value
        else:
            server.error = error
        with pytest.raises(type(server.error)):
            await query.ask(["bad"])
        server.error = None
        assert await query.ask(["a"]) == {"a": ("a", 1)}, "no rest"
        assert (server.opened, server.closed) == (1, 0), "the same connection"

    asyncio.run(story())


def test_a_server_that_never_answers_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_cursor.__globals__, "PATIENCE", 0.01)
    server.never = True
    query = KeyedQuery("", "SELECT", rest=0)
    with pytest.raises(TimeoutError):
        asyncio.run(query.ask(["a"]))
    server.never = False
    assert asyncio.run(query.ask(["a"])) == {"a": ("a", 1)}


# ---------------------------------------------------------------- the use that the page shows

PRICES = "SELECT number, cents FROM prices WHERE number = ANY(%s)"


def price_service(conninfo: str) -> FastAPI:
    query = KeyedQuery(conninfo, PRICES)
    reader = Together(query.ask)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await query.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/prices/{number}")
    async def read_price(number: Annotated[str, Path(pattern="^[A-Za-z0-9-]+$")]) -> dict[str, int]:
        try:
            row = await reader.read(number)
        except (psycopg.Error, OSError):
            raise HTTPException(503, headers={"Retry-After": "1"}) from None
        if row is None:
            raise HTTPException(404)
        return {"cents": row[1]}

    return app


def test_prices_by_number(server: Server) -> None:
    with TestClient(price_service("")) as client:
        assert client.get("/prices/a").json() == {"cents": 1}
        assert client.get("/prices/x").status_code == 404
        for bad in ("%00", "a%0A", "%ED%A0%80", "a b"):
            assert client.get(f"/prices/{bad}").status_code == 422
        server.error = psycopg.OperationalError("lost")
        assert [client.get("/prices/a").status_code for _ in range(2)] == [503, 503]
    assert server.closed == server.opened == 1
