"""A request is one transaction; doors are closed by default; the process starts and stops honestly."""

import asyncio
import gc
import socket
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import orm

from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.foundations.request_and_transaction import ACCEPTED_ID, request_id
from playbook.kit.live import LiveClient, serving
from playbook.pantry.http import (
    Caller,
    CurrentCaller,
    Transaction,
    create_app,
    permission,
)

alice = Caller(uuid.UUID(int=1), "alice")
metadata = sa.MetaData()
things = sa.Table("things", metadata, sa.Column("name", sa.String, primary_key=True))


def router_with(*dependencies: object) -> APIRouter:
    router = APIRouter()

    @router.post("/things", status_code=201, dependencies=list(dependencies))  # type: ignore[arg-type]
    def create(transact: Transaction, name: str, fail: bool = False) -> dict[str, str]:
        def work(session: orm.Session) -> None:
            session.execute(things.insert().values(name=name))
            if fail:
                raise HTTPException(409, "changed its mind")

        transact(work)
        return {"request_id": request_id.get()}

    return router


def count(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(things))


def test_an_http_error_inside_the_work_rolls_back(url: str) -> None:
    engine = make_engine(url)
    metadata.create_all(engine)
    with serving(create_app(engine, [router_with(Depends(anyone))])) as client:
        assert client.post("/things?name=a&fail=true").status_code == 409
        assert count(engine) == 0
        assert client.post("/things?name=a").status_code == 201
        assert client.post("/things?name=a").status_code == 500
        assert count(engine) == 1
        assert engine.pool.checkedout() == 0


def allow(db: object, caller: Caller, action: str, target: object) -> bool:
    return action == "things:create"


@pytest.mark.parametrize(
    ("find_caller", "may", "action", "status"),
    [
        (lambda request: None, allow, "things:create", 401),
        (lambda request: alice, allow, "things:create", 201),
        (lambda request: alice, allow, "things:delete", 403),
        (lambda request: alice, lambda *asked: False, "things:create", 403),
    ],
)
def test_doors(find_caller: Callable[[Request], Caller | None], may: object, action: str, status: int) -> None:
    engine = make_engine(f"duckdb:///:memory:doors_{uuid.uuid4().hex}")
    metadata.create_all(engine)
    app = create_app(engine, [router_with(permission(action))], find_caller=find_caller, may=may)  # type: ignore[arg-type]
    with serving(app) as client:
        answer = client.post("/things?name=a")
        assert answer.status_code == status
        assert answer.headers.get("www-authenticate") == ('Bearer realm="pantry"' if status == 401 else None)
        assert count(engine) == (1 if status == 201 else 0)


def test_a_request_leaves_nothing_to_the_collector() -> None:
    """A scope from which a way leads back to it waits for the collector, which took a tenth of the time of a PATCH."""
    engine = make_engine(f"duckdb:///:memory:collector_{uuid.uuid4().hex}")
    metadata.create_all(engine)
    routers = [router_with(permission("things:create"))]
    app = create_app(engine, routers, find_caller=lambda request: alice, may=allow)

    async def ask(name: str) -> list[dict[str, object]]:
        said: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            said.append(message)

        target: dict[str, object] = {"path": "/things", "raw_path": b"/things", "query_string": f"name={name}".encode()}
        scope = {"type": "http", "method": "POST", "headers": [], "root_path": "", "state": {}, **target}
        await app(scope, receive, send)  # type: ignore[arg-type]
        return said

    async def left_after_one() -> int:
        await ask("first")  # what is made once
        await ask("second")
        gc.collect()
        gc.disable()
        try:
            said = await ask("third")
            assert said[0]["status"] == 201
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(left_after_one()) == 0


def test_the_defaults_let_nobody_in() -> None:
    engine = make_engine("duckdb:///:memory:nobody")
    router = APIRouter()

    @router.get("/me")
    def me(caller: CurrentCaller) -> str:
        return caller.name

    with serving(create_app(engine, [router])) as client:
        assert client.get("/me").status_code == 401


@pytest.mark.parametrize("where", ["route", "router", "nested"])
def test_a_forgotten_declaration_is_found_wherever_it_was_forgotten(where: str) -> None:
    inner = APIRouter(prefix="/inner", dependencies=[Depends(anyone)] if where == "router" else [])

    @inner.get("/thing", dependencies=[Depends(anyone)] if where == "route" else [])
    def thing() -> None: ...

    outer = APIRouter(dependencies=[Depends(anyone)] if where == "nested" else [])
    outer.include_router(inner)
    engine = make_engine("duckdb:///:memory:forgotten")
    create_app(engine, [outer])

    bare = APIRouter()

    @bare.get("/thing")
    def other() -> None: ...

    outside = APIRouter(prefix="/outside")
    outside.include_router(bare)
    with pytest.raises(ValueError, match="say who may use GET /outside/thing"):
        create_app(engine, [outside])


@pytest.fixture(scope="module")
def client() -> Iterator[LiveClient]:
    with serving(create_app(make_engine("duckdb:///:memory:ids"))) as client:
        yield client


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=80))
def test_an_id_from_outside_is_kept_only_in_its_narrow_form(client: LiveClient, sent: str) -> None:
    back = client.get("/health", headers={"X-Request-Id": sent}).headers["x-request-id"]
    assert (back == sent) == bool(ACCEPTED_ID.fullmatch(sent))
    assert ACCEPTED_ID.fullmatch(back)


def test_every_response_has_an_id_also_404_and_500() -> None:
    engine = make_engine("duckdb:///:memory:everywhere")
    with serving(create_app(engine, [router_with(Depends(anyone))])) as client:
        answers = [client.get("/nowhere"), client.post("/things?name=a"), client.get("/health")]
    assert [a.status_code for a in answers] == [404, 500, 200]
    assert len({a.headers["x-request-id"] for a in answers}) == 3
    assert [a.headers.get("connection") for a in answers] == [None, "close", None], "uvicorn closes after a failure"


def test_a_large_body_is_refused_before_it_has_come_whole() -> None:
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.post("/bodies")
    def take(body: dict[str, int]) -> int:
        return len(body)

    with serving(create_app(make_engine("duckdb:///:memory:large"), [router], max_body_bytes=100_000)) as client:
        assert client.post("/bodies", json={"a": 1}).status_code == 200
        assert client.post("/bodies", content=b"x" * 100_001).status_code == 413
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as connection:
            headers = ["Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked"]
            head = "\r\n".join(["POST /bodies HTTP/1.1", *headers, "", ""])
            connection.sendall(head.encode() + b"40000\r\n" + b"x" * 0x40000 + b"\r\n")  # and never the last chunk
            assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_no_link_is_built_from_the_host_header() -> None:
    with serving(create_app(make_engine("duckdb:///:memory:host"))) as client:
        answer = client.get("/health/", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "evil.example" not in str(answer.headers)


def test_a_database_that_hangs_is_not_ready_and_holds_nobody_up() -> None:
    engine, goes_on = make_engine("duckdb:///:memory:hangs"), threading.Event()
    app = create_app(engine)
    app.state.health.seconds = 0.2

    @sa.event.listens_for(engine, "before_cursor_execute")
    def hang(*_: object) -> None:
        goes_on.wait(60)

    with serving(app) as client:
        try:
            answers = [client.get("/ready"), client.get("/health"), client.get("/ready")]
        finally:
            goes_on.set()
        assert [(a.status_code, a.json()) for a in answers] == [
            (503, {"status": "not ready"}), (200, {"status": "alive"}), (503, {"status": "not ready"})
        ]  # fmt: skip


def test_stopping_closes_the_pool(url: str) -> None:
    engine = make_engine(url)
    with serving(create_app(engine)) as client:
        assert client.get("/ready").status_code == 200
        before = engine.pool
    assert engine.pool is not before
