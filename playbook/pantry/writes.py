"""How a request writes by a few Core statements: on PostgreSQL in a transaction on the event loop, without a thread.

A session, its unit of work, the way into a thread and back are two fifths of the processor time of a small write. So
`work` says what it does by `db.execute` with statements of Core, and gets a session or this transaction in its place.
Both are at snapshot isolation. Whatever the database refuses here is rolled back and done again in the long way, which
has the one retry rule and knows what to say. So is a wait for another transaction's lock: that is for threads.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy.util import await_only, greenlet_spawn
from starlette.concurrency import run_in_threadpool

from playbook.auth.session_lookup import PATIENCE, open_cursor
from playbook.foundations.engines import TRANSACTION
from playbook.foundations.request_and_transaction import Transact
from playbook.foundations.transactions import transaction
from playbook.pantry.reads import REST, Rows, conninfo_of, in_utc, sql_of

T = TypeVar("T")
log = logging.getLogger("pantry.writes")


class Writes(Protocol):
    """Runs `work(db)` in one transaction and returns what it returned, committed. `work` may run again."""

    async def __call__(self, work: Callable[[Any], T]) -> T: ...


class Writer(Writes, Protocol):
    """That, over connections of its own."""

    async def close(self) -> None: ...


def writer_of(engine: sa.Engine) -> "Writer":
    """The way to write on `engine`."""
    in_thread = InThread(lambda work, **options: transaction(engine, work, **options))
    return OnLoop(engine, in_thread) if engine.dialect.name == "postgresql" else in_thread


class InThread:
    """A Writer: `transact` in a thread, with the one retry rule."""

    def __init__(self, transact: Transact) -> None:
        self.transact = transact

    async def __call__(self, work: Callable[[Any], T]) -> T:
        return await run_in_threadpool(self.transact, work)

    async def close(self) -> None:
        """Nothing is its own."""


# ---------------------------------------------------------------- on the event loop

CONNECTIONS = 4  # of one process
SETTINGS = TRANSACTION | {"lock_timeout": "100ms"}  # who must wait longer for another's lock waits in a thread
BEGIN = "; ".join(
    ["BEGIN ISOLATION LEVEL REPEATABLE READ", *(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items())]
)


class OnLoopTransaction:
    """What `work` gets in place of a session: `execute`, `scalar`, and what `hold` asks of a session."""

    def __init__(self, cursor: psycopg.AsyncCursor[Any], engine: sa.Engine) -> None:
        self.cursor, self.engine = cursor, engine
        self.info: dict[str, Any] = {}

    def get_bind(self) -> sa.Engine:
        return self.engine

    def scalar(self, statement: Any, values: Mapping[str, Any] | None = None) -> Any:
        row = self.execute(statement, values).one_or_none()
        return None if row is None else row[0]

    def execute(self, statement: Any, values: Mapping[str, Any] | None = None) -> Rows:
        """Raises SQLAlchemy's errors, as a session does."""
        sql, given = sql_of(statement, values)
        try:
            return await_only(self.ask(sql, given))  # `work` runs in a greenlet, so it can wait without `await`
        except psycopg.Error as error:
            raise as_sqlalchemy(error) from error

    async def ask(self, sql: str, values: Mapping[str, Any]) -> Rows:
        await self.cursor.execute(sql, values)
        if self.cursor.description is None:
            return Rows()
        return Rows(map(in_utc, await self.cursor.fetchall()))


def as_sqlalchemy(error: psycopg.Error) -> sa.exc.DBAPIError:
    """`error` as an engine raises it. Without the statement, whose values nobody is to see."""
    wrapped: Any = sa.exc.DBAPIError.instance("", {}, error, psycopg.Error, hide_parameters=True)
    assert isinstance(wrapped, sa.exc.DBAPIError)
    return wrapped


class OnLoop:
    """A Writer: a few connections on the event loop. `otherwise` does what they cannot."""

    def __init__(self, engine: sa.Engine, otherwise: Writer) -> None:
        self.engine, self.otherwise = engine, otherwise
        self.conninfo = conninfo_of(engine.url, "pantry writes")
        self.idle: list[psycopg.AsyncCursor[Any]] = []
        self.places = asyncio.Semaphore(CONNECTIONS)
        self.rest_until = 0.0

    async def __call__(self, work: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        if loop.time() >= self.rest_until:
            try:
                async with self.places:
                    return await self.on_connection(work)
            except Unknown:
                raise
            except sa.exc.DBAPIError as error:  # of a statement: it was rolled back
                log.info("write on the loop: %s", type(error.orig).__name__)
            except (psycopg.Error, OSError) as error:  # of the connection, before COMMIT was sent; a TimeoutError too
                self.rest_until = loop.time() + REST
                log.warning("write on the loop: %s", type(error).__name__)
        return await self.otherwise(work)

    async def on_connection(self, work: Callable[[Any], T]) -> T:
        cursor = self.idle.pop() if self.idle else await open_cursor(self.conninfo)
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.execute(BEGIN, prepare=False)
                result = await greenlet_spawn(work, OnLoopTransaction(cursor, self.engine))
        except BaseException as error:
            await self.give_up(cursor, error)
            raise
        await self.commit(cursor)
        self.idle.append(cursor)
        return result

    async def give_up(self, cursor: psycopg.AsyncCursor[Any], error: BaseException) -> None:
        """Roll back. What `work` itself raised, a 404 say, or a refused statement leaves a connection that is good."""
        good = isinstance(error, Exception) and not isinstance(error, psycopg.Error | OSError)
        try:
            if good and not cursor.connection.broken:
                async with asyncio.timeout(PATIENCE):
                    await cursor.execute("ROLLBACK", prepare=False)
                self.idle.append(cursor)
                return
        except (psycopg.Error, OSError):
            pass
        await cursor.connection.close()

    async def commit(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        """Raises what is to be done again, psycopg's own errors, only when the server has said that it rolled back.

        When the connection breaks here, nobody knows whether the work is done: OperationalError from `unknown`, which
        is answered and not done again.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.execute("COMMIT", prepare=False)
        except BaseException as error:
            await cursor.connection.close()
            if isinstance(error, psycopg.Error) and error.sqlstate and not error.sqlstate.startswith(("08", "57")):
                raise as_sqlalchemy(error) from error
            if isinstance(error, psycopg.Error | OSError):
                raise Unknown from error
            raise
        if cursor.statusmessage != "COMMIT":  # of a transaction that had failed, and whose work went on
            await cursor.connection.close()
            raise RuntimeError("the work went on after a statement that was refused")

    async def close(self) -> None:
        """Close the connections; the next write opens new ones."""
        while self.idle:
            await self.idle.pop().connection.close()


class Unknown(sa.exc.OperationalError):
    """The connection broke at COMMIT: the work is done, or it is not."""

    def __init__(self) -> None:
        super().__init__("COMMIT", {}, ConnectionError("no answer to COMMIT"), hide_parameters=True)
