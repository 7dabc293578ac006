"""How a request reads what one statement can say: on PostgreSQL without a transaction and without a thread.

A single statement is a snapshot by itself, so BEGIN and COMMIT would only be two more questions to the server. And the
event loop can wait for the answer by itself: the way into a thread and back costs more than the statement. Together
that is a fifth of the processor time of a session in a transaction. What does not work in this way, because the
database is away, or does not answer in time, is done again in the long one, which knows how to retry and what to say.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.engine import URL
from sqlalchemy.util import LRUCache, await_only, greenlet_spawn
from starlette.concurrency import run_in_threadpool

from playbook.auth.session_lookup import PATIENCE, open_cursor
from playbook.foundations.transactions import transaction
from playbook.pantry.plans import LookUps, Plans

T = TypeVar("T")
log = logging.getLogger("pantry.reads")


class Reader(Protocol):
    """Runs `work(db)` and returns what it returned. `work` executes one statement, which is a SELECT."""

    async def __call__(self, work: Callable[[Any], T]) -> T: ...

    async def rows(self, statement: Any, values: Mapping[str, Any] | None = None) -> "Rows | None":
        """The rows of a SELECT, with the least that it takes; None where there is no such way, or it does not work."""

    async def look_up(self, work: Callable[[Plans], T | None], key: Hashable = None) -> T | None:
        """What `work(plans)` returns, see `plans`; None where there are none, or they do not answer.

        `key` tells all that it depends on beside the database.
        """

    async def close(self) -> None: ...


def reader_of(engine: sa.Engine) -> "Reader":
    """The way to read on `engine`."""
    in_thread = InThread(engine)
    return OnLoop(engine.url, in_thread) if engine.dialect.name == "postgresql" else WithPlans(engine)


class InThread:
    """A Reader: one transaction in a thread, with the one retry rule."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    async def __call__(self, work: Callable[[Any], T]) -> T:
        return await run_in_threadpool(transaction, self.engine, work)

    async def rows(self, statement: Any, values: Mapping[str, Any] | None = None) -> "Rows | None":
        return None

    async def look_up(self, work: Callable[[Plans], T | None], key: Hashable = None) -> T | None:
        return None

    async def close(self) -> None:
        """The engine closes its connections itself."""


class WithPlans(InThread):
    """The Reader for DuckDB: what is a look-up is asked by plans that are kept."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.look_ups = LookUps(engine)

    async def look_up(self, work: Callable[[Plans], T | None], key: Hashable = None) -> T | None:
        return await self.look_ups(work, key)

    async def close(self) -> None:
        self.look_ups.close()


# ---------------------------------------------------------------- on the event loop

CONNECTIONS = 4  # of one process: more do not make it quicker, since one loop reads their answers
REST = 1  # seconds after a failure, in which all reads take the long way


def conninfo_of(url: URL, name: str) -> str:
    """`url` for psycopg; the server knows the connection by `name`."""
    libpq = url.set(drivername="postgresql").render_as_string(hide_password=False).replace(" ", "%20")
    return make_conninfo(libpq, application_name=name)


DIALECT: sa.Dialect = psycopg_dialect()  # type: ignore[no-untyped-call]
COMPILED: LRUCache[Any, Any] = LRUCache(200)  # statements, as SQLAlchemy's engines keep theirs


class Ready(NamedTuple):
    """A statement for psycopg. `own` are the values that stand in it, `wanted` the names that want one."""

    sql: str
    own: dict[str, Any]
    wanted: frozenset[str]
    convert: Mapping[str, Callable[[Any], Any]]


# By the object itself. To see that a new statement is one of COMPILED takes longer than to send it, so whoever asks
# the same again and again keeps it.
READY: WeakKeyDictionary[Any, Ready] = WeakKeyDictionary()


def sql_of(statement: Any, values: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """`statement` for psycopg, with `values` for its named parameters. KeyError names those that have none."""
    ready = READY.get(statement)
    if ready is None:
        ready = READY[statement] = ready_of(statement)
    given = dict(values or ())
    if missing := ready.wanted - given.keys():
        raise KeyError(*missing)
    return ready.sql, ready.own | {n: ready.convert[n](v) if n in ready.convert else v for n, v in given.items()}


def ready_of(statement: Any) -> Ready:
    """`statement` compiled, which happens once for all that differ in their values only.

    The call is the one that SQLAlchemy's own connections make; there is no public name for it.
    """
    compiled: Any
    compiled, given, *_ = statement._compile_w_cache(DIALECT, compiled_cache=COMPILED, column_keys=[])
    assert not compiled.post_compile_params, "an IN with a list is not rendered here"
    assert not any(bind.callable for bind in compiled.binds.values()), "a value that changes is not kept"
    wanted = frozenset(name for name, bind in compiled.binds.items() if bind.required)
    own = compiled.construct_params(None, extracted_parameters=given, escape_names=False, _check=False)
    convert = compiled._bind_processors
    own = {n: convert[n](v) if n in convert else v for n, v in own.items() if n not in wanted}
    return Ready(compiled.string, own, wanted, convert)


def in_utc(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row with its times in UTC: a connection has the zone of the server."""
    return tuple([value.astimezone(UTC) if isinstance(value, datetime) else value for value in row])


class Rows(list[tuple[Any, ...]]):
    """The rows of an answer, for code that expects a Result."""

    def all(self) -> list[tuple[Any, ...]]:
        return self

    def one_or_none(self) -> tuple[Any, ...] | None:
        assert len(self) < 2, "a unique key has one row"
        return self[0] if self else None


class OneStatement:
    """What `work` gets in place of a session. RuntimeError for a second statement: it would see a later state."""

    def __init__(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        self.cursor, self.asked = cursor, False

    def execute(self, statement: Any, values: Mapping[str, Any] | None = None) -> Rows:
        if self.asked:
            raise RuntimeError("one statement is one snapshot: read the rest in it, or use a transaction")
        self.asked = True
        return await_only(self.ask(*sql_of(statement, values)))  # `work` runs in a greenlet

    async def ask(self, sql: str, values: dict[str, Any]) -> Rows:
        return await rows_of(self.cursor, sql, values)


async def rows_of(cursor: psycopg.AsyncCursor[Any], sql: str, values: dict[str, Any]) -> Rows:
    """What the statement finds, in UTC. TimeoutError after PATIENCE."""
    async with asyncio.timeout(PATIENCE):
        await cursor.execute(sql, values)
        found = await cursor.fetchall()
    return Rows(found if cursor.connection.info.timezone is UTC else map(in_utc, found))


def is_own(cursor: psycopg.AsyncCursor[Any]) -> bool:
    """Whether no pooler is between, from which others would get the connection with its settings."""
    return cursor.connection.prepare_threshold is not None


async def open_in_utc(conninfo: str) -> psycopg.AsyncCursor[Any]:
    """A cursor whose times need not be moved to UTC, if it `is_own`."""
    cursor = await open_cursor(conninfo)
    if is_own(cursor):
        await cursor.execute("SET TIME ZONE 'UTC'")
    return cursor


class OnLoop:
    """A Reader: a few connections in autocommit, on the event loop. `otherwise` does what they cannot."""

    def __init__(self, url: URL, otherwise: Reader) -> None:
        self.conninfo, self.otherwise = conninfo_of(url, "pantry reads"), otherwise
        self.idle: list[psycopg.AsyncCursor[Any]] = []
        self.places = asyncio.Semaphore(CONNECTIONS)
        self.rest_until = 0.0

    async def __call__(self, work: Callable[[Any], T]) -> T:
        found = await self.quickly(lambda cursor: greenlet_spawn(work, OneStatement(cursor)))
        return await self.otherwise(work) if found is None else found[0]

    async def rows(self, statement: Any, values: Mapping[str, Any] | None = None) -> Rows | None:
        sql, all_values = sql_of(statement, values)
        found = await self.quickly(lambda cursor: rows_of(cursor, sql, all_values))
        return None if found is None else found[0]

    async def quickly(self, ask: Callable[[psycopg.AsyncCursor[Any]], Awaitable[T]]) -> tuple[T] | None:
        """What `ask` returns; None when the database is away, or has been a moment ago."""
        loop = asyncio.get_running_loop()
        if loop.time() < self.rest_until:
            return None
        try:
            async with self.places:
                return (await self.on_connection(ask),)
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            if not isinstance(error, psycopg.DataError):  # of a bad value: others can be read
                self.rest_until = loop.time() + REST
            log.warning("read on the loop: %s", type(error).__name__)
        return None

    async def on_connection(self, ask: Callable[[psycopg.AsyncCursor[Any]], Awaitable[T]]) -> T:
        cursor = self.idle.pop() if self.idle else await open_in_utc(self.conninfo)
        try:
            result = await ask(cursor)
        except (psycopg.Error, OSError, asyncio.CancelledError):
            await cursor.connection.close()
            raise
        except Exception:  # of the work itself, a 404 say: the connection is as good as before
            self.idle.append(cursor)
            raise
        self.idle.append(cursor)
        return result

    async def look_up(self, work: Callable[[Plans], T | None], key: Hashable = None) -> T | None:
        return None

    async def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        while self.idle:
            await self.idle.pop().connection.close()
