"""Writes on the event loop: one transaction, what breaks it, and what is done again in the long way, or never."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.foundations.write_skew import hold
from playbook.kit import postgres
from playbook.pantry import writes
from playbook.pantry.connections import has_something_to_read
from playbook.pantry.writes import InThread, OnLoop, Unknown, writer_of
from playbook.schema.identity import Organization

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
TABLE = Organization.metadata.tables["organizations"]
NAME = sa.select(TABLE.c.name).where(TABLE.c.slug == sa.bindparam("slug"))
RENAME = TABLE.update().where(TABLE.c.slug == sa.bindparam("of")).values(name=sa.bindparam("new"))


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
            Base.metadata.create_all(engine)
            yield engine
            engine.dispose()
    except postgres.PostgresUnavailable as error:
        pytest.skip(str(error))


def add(db: Any, slug: str) -> UUID:
    row = {"id": uuid4(), "slug": slug, "name": slug.title(), "version": 1, "created_at": NOW, "updated_at": NOW}
    db.execute(TABLE.insert(), row) if hasattr(db, "commit") else db.execute(TABLE.insert().values(**row))
    return row["id"]  # type: ignore[return-value]


def name_of(engine: sa.Engine, slug: str) -> str | None:
    with engine.connect() as connection:
        found: str | None = connection.scalar(NAME, {"slug": slug})
        return found


def run(engine: sa.Engine, story: Callable[[OnLoop, Noted], Awaitable[None]]) -> None:
    async def whole() -> None:
        long = Noted(lambda work, **options: transaction(engine, work, **options))
        write = OnLoop(engine, long)
        try:
            await story(write, long)
        finally:
            await write.close()

    asyncio.run(whole())


def rename(slug: str, new: str) -> Callable[[Any], Any]:
    def work(db: Any) -> Any:
        before = db.scalar(NAME, {"slug": slug})
        db.execute(RENAME, {"of": slug, "new": new})
        return before

    return work


@pytest.fixture
def slug(engine: sa.Engine) -> str:
    slug = f"acme-{uuid4().hex[:12]}"
    transaction(engine, lambda session: add(session, slug))
    return slug


def test_a_write_is_committed_and_read_by_others(engine: sa.Engine, slug: str) -> None:
    async def story(write: OnLoop, long: Noted) -> None:
        assert await write(rename(slug, "One")) == slug.title()
        assert await write(rename(slug, "Two")) == "One"
        assert (long.taken, len(write.idle)) == (0, 1)

    run(engine, story)
    assert name_of(engine, slug) == "Two"


def test_each_engine_has_its_way(engine: sa.Engine) -> None:
    assert isinstance(writer_of(engine), OnLoop)
    assert isinstance(writer_of(make_engine("duckdb:///:memory:writes")), InThread)


def test_it_is_a_snapshot_in_utc_with_the_limits_of_every_transaction(engine: sa.Engine, slug: str) -> None:
    settings = ("transaction_isolation", "timezone", "statement_timeout", "idle_in_transaction_session_timeout")

    def work(db: Any) -> list[Any]:
        first = db.scalar(NAME, {"slug": slug})
        transaction(engine, rename(slug, "Of another"))
        assert db.scalar(NAME, {"slug": slug}) == first
        return [db.scalar(sa.text(f"SHOW {name}")) for name in settings]  # type: ignore[arg-type]

    async def story(write: OnLoop, long: Noted) -> None:
        assert await write(work) == ["repeatable read", "UTC", "30s", "1min"]

    run(engine, story)


def test_what_the_work_raises_is_rolled_back_and_costs_no_connection(engine: sa.Engine, slug: str) -> None:
    async def story(write: OnLoop, long: Noted) -> None:
        def work(db: Any) -> None:
            rename(slug, "Gone")(db)
            raise LookupError("nothing here")

        await write(rename(slug, "Kept"))
        before = list(write.idle)
        with pytest.raises(LookupError):
            await write(work)
        assert (write.idle, long.taken) == (before, 0)

    run(engine, story)
    assert name_of(engine, slug) == "Kept"


def test_a_duplicate_is_an_integrity_error_of_sqlalchemy_without_values(engine: sa.Engine, slug: str) -> None:
    seen: list[str] = []

    def work(db: Any) -> None:
        try:
            add(db, slug)
        except sa.exc.IntegrityError as error:
            seen.append(str(error))
            raise LookupError("taken") from None

    async def story(write: OnLoop, long: Noted) -> None:
        with pytest.raises(LookupError):
            await write(work)
        assert (long.taken, len(write.idle)) == (0, 1)
        await write(rename(slug, "Still works"))

    run(engine, story)
    assert len(seen) == 1
    assert "[SQL" not in seen[0]


def test_a_conflict_goes_the_long_way_which_tries_again(engine: sa.Engine, slug: str) -> None:
    attempts: list[int] = []

    def work(db: Any) -> None:
        attempts.append(len(attempts))
        before = db.scalar(NAME, {"slug": slug})
        if len(attempts) < 3:
            transaction(engine, rename(slug, f"{before}."))
        db.execute(RENAME, {"of": slug, "new": f"{before}!"})

    async def story(write: OnLoop, long: Noted) -> None:
        await write(work)
        assert long.taken == 1
        assert write.rest_until == 0  # others are not sent the long way

    run(engine, story)
    assert len(attempts) == 3
    assert name_of(engine, slug) == f"{slug.title()}..!"


def test_a_wait_for_a_lock_is_for_threads(engine: sa.Engine, slug: str) -> None:
    """The loop goes on: it is what lets the lock go."""

    async def story(write: OnLoop, long: Noted) -> None:
        with engine.connect() as connection:
            connection.execute(TABLE.update().where(TABLE.c.slug == slug).values(name="Locked"))
            waiting = asyncio.create_task(write(rename(slug, "After")))  # type: ignore[arg-type]
            while not long.taken:
                await asyncio.sleep(0.01)
            connection.rollback()
        await waiting
        assert write.rest_until == 0  # nothing was wrong with the connection

    run(engine, story)
    assert name_of(engine, slug) == "After"


def test_a_connection_that_was_closed_is_replaced_and_the_work_is_done_once(engine: sa.Engine, slug: str) -> None:
    async def story(write: OnLoop, long: Noted) -> None:
        await write(rename(slug, "Before"))
        end(engine, write.idle[0].connection.info.backend_pid)
        assert await write(rename(slug, "After")) == "Before"
        assert (long.taken, write.idle) == (1, [])
        await write(rename(slug, "Rests"))
        assert long.taken == 2
        write.rest_until = 0
        await write(rename(slug, "Back"))
        assert (long.taken, len(write.idle)) == (2, 1)

    run(engine, story)
    assert name_of(engine, slug) == "Back"


def end(engine: sa.Engine, pid: int) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


def test_a_connection_that_breaks_in_the_middle_has_written_nothing(engine: sa.Engine, slug: str) -> None:
    runs: list[int] = []

    def work(db: Any) -> Any:
        runs.append(0)
        before = rename(slug, "Once")(db)
        if len(runs) == 1:
            end(engine, db.cursor.connection.info.backend_pid)
            db.scalar(NAME, {"slug": slug})
        return before

    async def story(write: OnLoop, long: Noted) -> None:
        assert await write(work) == slug.title()  # and not "Once": the first run was rolled back
        assert (long.taken, write.idle) == (1, [])

    run(engine, story)


def test_no_answer_to_commit_is_not_done_again(engine: sa.Engine, slug: str) -> None:
    def work(db: Any) -> None:
        rename(slug, "Perhaps")(db)
        end(engine, db.cursor.connection.info.backend_pid)

    async def story(write: OnLoop, long: Noted) -> None:
        with pytest.raises(sa.exc.OperationalError) as caught:
            await write(work)
        assert isinstance(caught.value, Unknown)
        assert (long.taken, write.idle) == (0, [])

    run(engine, story)


def test_no_answer_to_commit_in_time_is_not_done_again(
    engine: sa.Engine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = psycopg.AsyncCursor.execute

    async def silent(self: Any, sql: Any, *rest: Any, **options: Any) -> Any:
        return await (asyncio.Event().wait() if sql == "COMMIT" else execute(self, sql, *rest, **options))

    async def story(write: OnLoop, long: Noted) -> None:
        commit = write.commit

        async def impatient(cursor: Any) -> None:
            monkeypatch.setattr(writes, "PATIENCE", 0)
            await commit(cursor)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", silent)
        monkeypatch.setattr(write, "commit", impatient)
        with pytest.raises(Unknown):
            await write(rename(slug, "Perhaps"))
        assert (long.taken, write.idle) == (0, [])

    run(engine, story)


def test_work_that_goes_on_after_a_refused_statement_is_a_bug_and_not_a_success(engine: sa.Engine, slug: str) -> None:
    def work(db: Any) -> str:
        rename(slug, "Lost")(db)
        try:
            add(db, slug)
        except sa.exc.IntegrityError:
            return "done"
        raise AssertionError

    async def story(write: OnLoop, long: Noted) -> None:
        with pytest.raises(RuntimeError, match="went on"):
            await write(work)
        assert (long.taken, write.idle) == (0, [])

    run(engine, story)
    assert name_of(engine, slug) == slug.title()


def test_a_request_that_is_given_up_leaves_no_half_done_transaction(engine: sa.Engine, slug: str) -> None:
    started = threading.Event()

    def work(db: Any) -> None:
        rename(slug, "Half")(db)
        started.set()
        db.execute(sa.text("SELECT pg_sleep(30)"))

    async def story(write: OnLoop, long: Noted) -> None:
        task = asyncio.create_task(write(work))  # type: ignore[arg-type]
        while not started.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (long.taken, write.idle) == (0, [])

    run(engine, story)
    assert name_of(engine, slug) == slug.title()


def test_hold_keeps_a_parent(engine: sa.Engine, slug: str) -> None:
    def work(db: Any) -> tuple[bool, bool]:
        return hold(db, Organization.slug, slug), hold(db, Organization.slug, "none")

    async def story(write: OnLoop, long: Noted) -> None:
        assert await write(work) == (True, False)
        assert long.taken == 0

    run(engine, story)


def test_no_database_is_what_the_long_way_says() -> None:
    engine = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    async def story(write: OnLoop, long: Noted) -> None:
        with pytest.raises(sa.exc.OperationalError):
            await write(rename("acme", "None"))
        assert long.taken == 1

    run(engine, story)


# ---------------------------------------------------------------- a write of one statement

ALONE = RENAME.where(TABLE.c.version == sa.bindparam("read")).returning(TABLE.c.id)
OTHER_SLUG = TABLE.update().where(TABLE.c.slug == sa.bindparam("of")).values(slug=sa.bindparam("new"))


def test_one_statement_is_committed_by_itself_and_says_whether_it_changed_anything(
    engine: sa.Engine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def noted(self: Any, sql: Any, *rest: Any, **options: Any) -> Any:
        sent.append(str(sql).split()[0])
        return await execute(self, sql, *rest, **options)

    async def story(write: OnLoop, long: Noted) -> None:
        await write(rename(slug, "Opened"))
        monkeypatch.setattr(psycopg.AsyncCursor, "execute", noted)
        assert await write.one(ALONE, {"of": slug, "new": "Alone", "read": 1})
        assert not await write.one(ALONE, {"of": slug, "new": "Late", "read": 2})
        assert (sent, long.taken, len(write.idle)) == (["UPDATE", "UPDATE"], 0, 1)

    run(engine, story)
    assert name_of(engine, slug) == "Alone"


def test_one_statement_has_the_limits_of_every_transaction(engine: sa.Engine) -> None:
    async def story(write: OnLoop, long: Noted) -> None:
        cursor = await writes.open_with_limits(write.conninfo)
        for name, value in {"lock_timeout": "100ms", "statement_timeout": "30s", "timezone": "UTC"}.items():
            await cursor.execute(f"SHOW {name}")
            assert await cursor.fetchone() == (value,)
        await cursor.connection.close()

    run(engine, story)


def test_what_the_database_refuses_is_nothing_done_and_costs_no_connection(engine: sa.Engine, slug: str) -> None:
    """A duplicate; a text that no database takes; a row that another transaction holds: that wait is for threads."""
    taken = f"{slug}-taken"
    transaction(engine, lambda session: add(session, taken))

    async def story(write: OnLoop, long: Noted) -> None:
        for new in (taken, "a\0b"):
            assert not await write.one(OTHER_SLUG.returning(TABLE.c.id), {"of": slug, "new": new})
        with engine.connect() as connection:
            connection.execute(TABLE.update().where(TABLE.c.slug == slug).values(name="Locked"))
            assert not await write.one(ALONE, {"of": slug, "new": "Waited", "read": 1})
        assert (long.taken, len(write.idle), write.rest_until) == (0, 1, 0)
        assert await write.one(ALONE, {"of": slug, "new": "Still works", "read": 1})

    run(engine, story)
    assert name_of(engine, slug) == "Still works"


def test_a_closed_connection_is_seen_before_one_statement_is_sent(
    engine: sa.Engine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and after a silence, in which a network may have forgotten it without a word."""

    async def story(write: OnLoop, long: Noted) -> None:
        for silence in (writes.SILENCE, 0):
            await write(rename(slug, "Before"))
            end(engine, write.idle[0].connection.info.backend_pid)
            while not has_something_to_read(write.idle[0].connection):
                await asyncio.sleep(0.01)
            monkeypatch.setattr(writes, "SILENCE", silence)
            if not silence:
                monkeypatch.setattr(writes, "has_something_to_read", lambda connection: False)
            assert not await write.one(ALONE, {"of": slug, "new": "Alone", "read": 1})
            assert (long.taken, write.idle) == (0, [])
            write.rest_until = 0

    run(engine, story)
    assert name_of(engine, slug) == "Before"


def test_no_answer_to_one_statement_is_not_done_again(
    engine: sa.Engine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "has_something_to_read", lambda connection: False)

    async def story(write: OnLoop, long: Noted) -> None:
        await write(rename(slug, "Before"))
        end(engine, write.idle[0].connection.info.backend_pid)
        with pytest.raises(Unknown):
            await write.one(ALONE, {"of": slug, "new": "Perhaps", "read": 1})
        assert (long.taken, write.idle) == (0, [])
        assert await write.one(ALONE, {"of": slug, "new": "After", "read": 1})

    run(engine, story)
    assert name_of(engine, slug) == "After"


def test_where_others_get_the_connection_nothing_is_sent_without_limits(
    engine: sa.Engine, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(write: OnLoop, long: Noted) -> None:
        monkeypatch.setattr(writes, "is_own", lambda cursor: False)
        assert not await write.one(ALONE, {"of": slug, "new": "Alone", "read": 1})
        assert await write(lambda db: db.scalar(sa.text("SHOW statement_timeout"))) == "30s"  # type: ignore[arg-type]
        assert (long.taken, len(write.idle)) == (0, 1)

    run(engine, story)
    assert name_of(engine, slug) == slug.title()


def test_no_database_is_nothing_done() -> None:
    engine = make_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")

    async def story(write: OnLoop, long: Noted) -> None:
        assert not await write.one(ALONE, {"of": "acme", "new": "None", "read": 1})
        assert write.rest_until > 0

    run(engine, story)
    assert not asyncio.run(writer_of(make_engine("duckdb:///:memory:writes")).one(ALONE, {}))
