"""How a request writes by a few Core statements: on PostgreSQL in a transaction on the event loop, without a thread.

A session, its unit of work, the way into a thread and back are two fifths of the processor time of a small write. So
`work` says what it does by `db.execute` with statements of Core, and gets a session or this transaction in its place.
Both are at snapshot isolation. Whatever the database refuses here is rolled back and done again in the long way, which
has the one retry rule and knows what to say. So is a wait for another transaction's lock: that is for threads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa
from sqlalchemy.util import await_only, greenlet_spawn
from starlette.concurrency import run_in_threadpool

from playbook.auth.session_lookup import PATIENCE, open_cursor
from playbook.foundations.engines import TRANSACTION
from playbook.foundations.request_and_transaction import Transact
from playbook.foundations.transactions import transaction
from playbook.pantry.connections import SILENCE, has_something_to_read
from playbook.pantry.reads import REST, Rows, conninfo_of, in_utc, is_own, sql_of

T = TypeVar("T")
log = logging.getLogger("pantry.writes")


class Writes(Protocol):
    """Runs `work(db)` in one transaction and returns what it returned, committed. `work` may run again."""

    async def __call__(self, work: Callable[[Any], T]) -> T: ...

    async def one(self, statement: Any, values: Mapping[str, Any]) -> bool:
        """Whether this single statement, with a RETURNING, has changed something, and that is committed.

        False: nothing is changed, by it or for lack of such a way. The work that could say why is to be done. Who may
        do it, and what must not have changed meanwhile, are conditions of the statement.
        """


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

    async def one(self, statement: Any, values: Mapping[str, Any]) -> bool:
        return False

    async def close(self) -> None:
        """Nothing is its own."""


# ---------------------------------------------------------------- on the event loop

CONNECTIONS = 4  # of one process
NEVER = float("inf")
SETTINGS = TRANSACTION | {"lock_timeout": "100ms"}  # who must wait longer for another's lock waits in a thread
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ"
BEGIN_SHARED = "; ".join([BEGIN, *(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items())])


async def open_with_limits(conninfo: str) -> psycopg.AsyncCursor[Any]:
    """A cursor, with SETTINGS if it `is_own`."""
    cursor = await open_cursor(conninfo)
    if is_own(cursor):
        await cursor.execute("; ".join(f"SET {name} = '{value}'" for name, value in SETTINGS.items()), prepare=False)
    return cursor


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


def was_refused(error: BaseException) -> bool:
    """Whether the server says that it rolled back, or nothing was sent: psycopg had no form for a value."""
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate[:2] not in ("08", "57") if error.sqlstate else isinstance(error, psycopg.DataError)


class OnLoop:
    """A Writer: a few connections on the event loop. `otherwise` does what they cannot."""

    def __init__(self, engine: sa.Engine, otherwise: Writer) -> None:
        self.engine, self.otherwise = engine, otherwise
        self.conninfo = conninfo_of(engine.url, "pantry writes")
        self.idle: list[psycopg.AsyncCursor[Any]] = []
        self.returned: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # when each was put there
        self.places = asyncio.Semaphore(CONNECTIONS)
        self.rest_until = 0.0

    async def __call__(self, work: Callable[[Any], T]) -> T:
        done = await self.quickly(lambda cursor: self.in_transaction(cursor, work))
        return await self.otherwise(work) if done is None else done[0]

    async def one(self, statement: Any, values: Mapping[str, Any]) -> bool:
        sql, given = sql_of(statement, values)
        done = await self.quickly(lambda cursor: self.alone(cursor, sql, given))
        return done is not None and done[0]

    async def quickly(self, do: Callable[[psycopg.AsyncCursor[Any]], Awaitable[T]]) -> tuple[T] | None:
        """What `do` returns, committed; None when nothing is done. Raises Unknown, and what the work itself raises."""
        loop = asyncio.get_running_loop()
        if loop.time() < self.rest_until:
            return None
        try:
            async with self.places:
                return (await do(self.idle.pop() if self.idle else await open_with_limits(self.conninfo)),)
        except Unknown:
            raise
        except sa.exc.DBAPIError as error:  # of a statement: it was rolled back
            log.info("write on the loop: %s", type(error.orig).__name__)
        except (psycopg.Error, OSError) as error:  # of the connection, before COMMIT was sent; a TimeoutError too
            self.rest_until = loop.time() + REST
            log.warning("write on the loop: %s", type(error).__name__)
        return None

    async def alone(self, cursor: psycopg.AsyncCursor[Any], sql: str, values: Mapping[str, Any]) -> bool:
        """A statement is a transaction by itself: BEGIN and COMMIT would be two more questions to the server."""
        if not is_own(cursor):  # without the limits nothing is sent
            self.put_back(cursor)
            return False
        if has_something_to_read(cursor.connection) or time.monotonic() - self.returned.get(cursor, NEVER) > SILENCE:
            await self.ask(cursor)
        await self.commit(cursor, sql, values, prepare=None)
        changed = cursor.rowcount > 0
        self.put_back(cursor)
        return changed

    async def ask(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        """Raises psycopg's errors for a connection that was closed meanwhile: what is sent there is not known later."""
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.execute("SELECT 1")
        except BaseException:
            await cursor.connection.close()
            raise

    def put_back(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        self.returned[cursor] = time.monotonic()
        self.idle.append(cursor)

    async def in_transaction(self, cursor: psycopg.AsyncCursor[Any], work: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.execute(BEGIN if is_own(cursor) else BEGIN_SHARED, prepare=False)
                result = await greenlet_spawn(work, OnLoopTransaction(cursor, self.engine))
        except BaseException as error:
            await self.give_up(cursor, error)
            raise
        await self.commit(cursor)
        if cursor.statusmessage != "COMMIT":  # of a transaction that had failed, and whose work went on
            await cursor.connection.close()
            raise RuntimeError("the work went on after a statement that was refused")
        self.put_back(cursor)
        return result

    async def give_up(self, cursor: psycopg.AsyncCursor[Any], error: BaseException) -> None:
        """Roll back. What `work` itself raised, a 404 say, or a refused statement leaves a connection that is good."""
        good = isinstance(error, Exception) and not isinstance(error, psycopg.Error | OSError)
        try:
            if good and not cursor.connection.broken:
                async with asyncio.timeout(PATIENCE):
                    await cursor.execute("ROLLBACK", prepare=False)
                self.put_back(cursor)
                return
        except (psycopg.Error, OSError):
            pass
        await cursor.connection.close()

    async def commit(
        self, cursor: psycopg.AsyncCursor[Any], sql: str = "COMMIT", values: Any = None, prepare: bool | None = False
    ) -> None:
        """Send `sql`, which commits. Raises what is to be done again only when the server says that it rolled back.

        When the connection breaks here, nobody knows whether the work is done: Unknown, which is answered and not done
        again.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.execute(sql, values, prepare=prepare)
        except BaseException as error:
            refused = was_refused(error)
            if refused and sql != "COMMIT":
                self.put_back(cursor)
            else:
                await cursor.connection.close()
            if refused and isinstance(error, psycopg.Error):
                raise as_sqlalchemy(error) from error
            if isinstance(error, psycopg.Error | OSError):
                raise Unknown from error
            raise

    async def close(self) -> None:
        """Close the connections; the next write opens new ones."""
        while self.idle:
            await self.idle.pop().connection.close()


class Unknown(sa.exc.OperationalError):
    """The connection broke at COMMIT: the work is done, or it is not."""

    def __init__(self) -> None:
        super().__init__("COMMIT", {}, ConnectionError("no answer to COMMIT"), hide_parameters=True)
