"""Reads on the event loop: one statement, what breaks them, and that the long way answers then."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from tables import make_tables

from playbook.foundations.engines import make_engine
from playbook.kit import postgres
from playbook.pantry.reads import READY, InThread, OnLoop, WithPlans, reader_of, sql_of
from playbook.schema.identity import Organization

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
READ = sa.select(Organization.name, Organization.created_at)


class Noted(InThread):
    """The long way, which notes that it was taken."""

    taken = 0

    async def __call__(self, work: Callable[[Any], Any]) -> Any:
        self.taken += 1
        return await super().__call__(work)


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    try:
        with postgres.server() as server, postgres.database(server) as url:
            engine = make_engine(url)
            make_tables(engine)
            with engine.begin() as connection:
                row = {"id": "01890000-0000-7000-8000-000000000001", "slug": "acme", "name": "Acme", "version": 1}
                connection.execute(sa.insert(Organization).values(**row, created_at=NOW, updated_at=NOW))
            yield engine
            engine.dispose()
    except postgres.PostgresUnavailable as error:
        pytest.skip(str(error))


def run(engine: sa.Engine, story: Callable[[OnLoop, Noted], Awaitable[None]]) -> None:
    async def whole() -> None:
        long = Noted(engine)
        read = OnLoop(engine.url, long)
        try:
            await story(read, long)
        finally:
            await read.close()

    asyncio.run(whole())


def one(slug: str) -> Callable[[Any], Any]:
    return lambda db: db.execute(READ.where(Organization.slug == slug)).one_or_none()


def test_both_ways_find_the_same(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        for slug in ("acme", "nobody"):
            quick = await read(one(slug))
            assert long.taken == 0
            slow = await InThread(engine)(one(slug))
            assert quick == (None if slow is None else tuple(slow))
        assert await read(one("acme")) == ("Acme", NOW)
        assert (await read(one("acme")))[1].tzinfo is UTC
        assert len(read.idle) == 1

    run(engine, story)


def test_each_engine_has_its_way(engine: sa.Engine) -> None:
    assert isinstance(reader_of(engine), OnLoop)
    assert isinstance(reader_of(make_engine("duckdb:///:memory:reads")), WithPlans)


def test_a_second_statement_is_refused(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        def work(db: Any) -> None:
            db.execute(READ)
            db.execute(READ)

        with pytest.raises(RuntimeError, match="one statement is one snapshot"):
            await read(work)
        assert await read(one("acme")) == ("Acme", NOW)
        assert long.taken == 0

    run(engine, story)


def test_what_the_work_raises_passes_and_costs_no_connection(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        def work(db: Any) -> None:
            raise LookupError("nothing here")

        await read(one("acme"))
        before = list(read.idle)
        with pytest.raises(LookupError):
            await read(work)
        assert read.idle == before
        assert long.taken == 0

    run(engine, story)


def test_a_connection_that_was_closed_is_replaced_and_the_read_is_answered(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        await read(one("acme"))
        pid = read.idle[0].connection.info.backend_pid
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert tuple(await read(one("acme"))) == ("Acme", NOW)
        assert (long.taken, read.idle) == (1, [])
        await read(one("acme"))
        assert long.taken == 2  # it rests
        read.rest_until = 0
        await read(one("acme"))
        assert long.taken == 2
        assert read.idle[0].connection.info.backend_pid != pid

    run(engine, story)


def test_a_bad_value_of_one_client_does_not_send_the_others_the_long_way(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            await read(one("a\0b"))
        assert (long.taken, read.rest_until) == (1, 0)

    run(engine, story)


def test_a_request_that_is_given_up_leaves_no_half_read_connection(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        await read(one("acme"))
        sleep = sa.select(sa.func.pg_sleep(30))
        task = asyncio.create_task(read(lambda db: db.execute(sleep).all()))  # type: ignore[arg-type]
        while read.idle:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert read.idle == []
        assert await read(one("acme")) == ("Acme", NOW)

    run(engine, story)


def test_no_database_is_what_the_long_way_says() -> None:
    engine = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    async def story(read: OnLoop, long: Noted) -> None:
        with pytest.raises(sa.exc.OperationalError):
            await read(one("acme"))
        assert long.taken == 1

    run(engine, story)


# ---------------------------------------------------------------- rows, with the least that it takes


def test_rows_are_found_without_the_long_way_or_not_at_all(engine: sa.Engine) -> None:
    async def story(read: OnLoop, long: Noted) -> None:
        by_slug = READ.where(Organization.slug == sa.bindparam("slug"))
        assert await read.rows(by_slug, {"slug": "acme"}) == [("Acme", NOW)]
        assert await read.rows(by_slug, {"slug": "nobody"}) == []
        assert await read.rows(by_slug, {"slug": "a\0b"}) is None
        assert read.rest_until == 0
        assert await read.rows(READ) == [("Acme", NOW)]
        with engine.connect() as connection:
            pid = read.idle[0].connection.info.backend_pid
            connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert await read.rows(READ) is None
        assert read.idle == []
        assert await read.rows(READ) is None, "it rests"
        read.rest_until = 0
        assert await read.rows(READ) == [("Acme", NOW)]
        assert long.taken == 0
        assert await long.rows(READ) is None

    run(engine, story)


def test_times_are_in_utc_whatever_zone_the_connection_has(engine: sa.Engine) -> None:
    """Behind a pooler another client may have left its own; otherwise the connection is told at its beginning."""

    async def story(read: OnLoop, long: Noted) -> None:
        read.conninfo = make_conninfo(read.conninfo, options="-c timezone=Asia/Kathmandu")
        assert await read.rows(READ) is not None
        assert read.idle[0].connection.info.timezone is UTC, "each time would be moved"
        for zone in ("UTC", "Asia/Kathmandu"):
            await read.idle[0].execute(f"SET TIME ZONE '{zone}'")
            found = await read.rows(READ)
            assert found == [("Acme", NOW)]
            assert found[0][1].tzinfo is UTC
            assert (await read(one("acme")))[1].tzinfo is UTC

    run(engine, story)


# ---------------------------------------------------------------- statements that are kept


def test_each_statement_keeps_its_own_values() -> None:
    """Two that differ in a value only are compiled once; whose value goes along must not depend on who came first."""
    ada, bob = (READ.where(Organization.slug == slug) for slug in ("ada", "bob"))
    for _ in range(2):
        for statement, slug in ((ada, "ada"), (bob, "bob")):
            values = sql_of(statement)[1]
            assert list(values.values()) == [slug]
    assert sql_of(ada)[0] is sql_of(bob)[0]
    one_more = ada.where(Organization.name == "Acme")  # made of a kept one, and another
    assert sorted(sql_of(one_more)[1].values()) == ["Acme", "ada"]


def test_a_parameter_gets_the_value_of_this_time() -> None:
    statement = READ.where(Organization.slug == sa.bindparam("slug"), Organization.name == "Acme")
    assert [sorted(sql_of(statement, {"slug": slug})[1].values()) for slug in "ab"] == [["Acme", "a"], ["Acme", "b"]]
    for values in (None, {}, {"name": "x"}):
        with pytest.raises(KeyError, match="slug"):
            sql_of(statement, values)


def test_who_lets_go_of_a_statement_lets_go_of_what_is_kept() -> None:
    statement = READ.where(Organization.slug == "for a moment")
    sql_of(statement)
    before = len(READY)
    del statement
    gc.collect()
    assert len(READY) < before
