"""Look-ups on DuckDB by plans that are kept: how a request reads there without a session and mostly without a thread.

DuckDB takes three times as long to plan a look-up as to run it. It plans at each execute, and twice when the statement
has values. Only what was prepared *without* parameters keeps its plan: so a text has its values in it, as literals, and
one that is asked again and again, of a session or of the first page of a list, is prepared at its second use.

Such a plan is kept beyond the moment that it was made for, which DuckDB does not think of: what the statistics of that
moment rule out is left out of it, a row that comes later too. So a plan is made without that step, and a test holds
that rows which come later are found. What has one table and no ORDER BY is planned to one scan: nothing else is
promised to be right.

And what was asked need not be asked again while nobody can have written: DuckDB gives a file to one process, and who
writes in that takes a connection of the engine (`Unwritten`).
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import duckdb
import sqlalchemy as sa
from duckdb_sqlalchemy import Dialect
from sqlalchemy.sql.operators import in_op
from sqlalchemy.sql.visitors import replacement_traverse
from starlette.concurrency import run_in_threadpool

T = TypeVar("T")
Rows = list[tuple[Any, ...]]
log = logging.getLogger("pantry.plans")

KEPT = 500  # plans of a connection, at some 20 KB each
# What would make a plan depend on today's rows; and what would make a hash join of an IN, in place of look-ups.
WITHOUT = "statistics_propagation,in_clause"
PLANNING = threading.Lock()  # the setting is one for all connections


def literal(value: str | UUID) -> str:
    """`value` in SQL for DuckDB. Raises TypeError for any other type, ValueError for a NUL."""
    if isinstance(value, UUID):
        return f"'{value}'::UUID"
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} has no literal here")
    if "\0" in value:
        raise ValueError("a NUL ends a statement")
    return "'" + value.replace("'", "''") + "'"  # a backslash means nothing here


def one_of(values: Collection[str | UUID]) -> str:
    """`values` for IN; nothing is equal to NULL, which stands for none."""
    return f"({', '.join(map(literal, values)) or 'NULL'})"


class Plans:
    """One connection to the database of `engine`, with the plans of what it is asked. For one thread at a time.

    `hints` are for the callers: how something was found last time. A hint may be wrong, and no answer depends on it.
    """

    def __init__(self, engine: sa.Engine, hints: dict[Any, Any] | None = None, keep: int = KEPT) -> None:
        self.hints: dict[Any, Any] = {} if hints is None else hints
        self.owner = engine.raw_connection()
        driver: Any = self.owner.driver_connection
        self.connection: duckdb.DuckDBPyConnection = driver.duplicate()  # without the layers of the dialect
        self.owner.detach()  # the pool would close it, and what was made from it
        self.connection.execute("SET TimeZone = 'UTC'")
        self.keep, self.number = keep, 0
        self.begin, self.commit = (self.connection.extract_statements(sql)[0] for sql in ("BEGIN", "COMMIT"))
        self.known: OrderedDict[str, tuple[str, Any] | None] = OrderedDict()  # None: asked once

    def rows(self, sql: str) -> Rows:
        """The rows of a SELECT of one table, without ORDER BY. Raises duckdb.Error."""
        if sql not in self.known:
            self.known[sql] = None
            if len(self.known) > self.keep:
                self.forget(*self.known.popitem(last=False))
            return self.connection.execute(sql).fetchall()
        plan = self.known[sql] or self.prepare(sql)
        self.known.move_to_end(sql)
        return self.connection.execute(plan[1]).fetchall()

    def prepare(self, sql: str) -> tuple[str, Any]:
        self.number += 1
        name = f"kept_{self.number}"
        with PLANNING:
            before = self.connection.execute("SELECT current_setting('disabled_optimizers')").fetchall()[0][0]
            self.connection.execute(f"SET GLOBAL disabled_optimizers = '{WITHOUT}'")
            try:
                self.connection.execute(f"PREPARE {name} AS {sql}")
            finally:
                self.connection.execute(f"SET GLOBAL disabled_optimizers = '{before}'")
        self.known[sql] = plan = (name, self.connection.extract_statements(f"EXECUTE {name}")[0])
        return plan

    def forget(self, sql: str, plan: tuple[str, Any] | None) -> None:
        if plan is not None:
            self.connection.execute(f"DEALLOCATE {plan[0]}")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment."""
        self.connection.execute(self.begin)
        try:
            yield
        finally:
            self.connection.execute(self.commit)

    def close(self) -> None:
        self.owner.close()


# ---------------------------------------------------------------- conditions

DIALECT = Dialect()
MOST = 200  # values that a subquery may find, for a text that can still be parsed at once


def text_of(element: sa.ClauseElement) -> str:
    """`element` in SQL, with its values as literals."""
    return str(element.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


@dataclass(frozen=True)
class Condition:
    """A condition on one table, taken apart: its `x IN (SELECT ...)` are look-ups of their own, asked first.

    As a part of one statement each of them would be a join, which takes DuckDB five times as long.
    """

    subqueries: tuple[str, ...]
    parts: tuple[str, ...]  # of the text: what the subqueries find comes between them

    def text(self, plans: Plans) -> str | None:
        """The condition in SQL, as it is now; None when a subquery finds too much. Ask inside of a snapshot."""
        text = self.parts[0]
        for sql, part in zip(self.subqueries, self.parts[1:], strict=True):
            found = plans.rows(sql)
            if len(found) > MOST:
                return None
            text += one_of(sorted(value for (value,) in found)) + part
        return text


@lru_cache(KEPT)
def condition_of(clause: sa.ColumnElement[bool], table: sa.Table) -> Condition:
    """`clause`, on the rows of `table`, taken apart. Raises ValueError for a subquery that depends on the row."""
    subqueries: list[str] = []

    def replace(element: Any, **unused: Any) -> Any:
        if not isinstance(element, sa.BinaryExpression) or not isinstance(element.right, sa.ScalarSelect):
            return None
        select: Any = element.right.element
        if element.operator is not in_op or table in select.get_final_froms():
            raise ValueError("only x IN (SELECT ...) can be asked first, and nothing that depends on the row")
        subqueries.append(text_of(select))
        return sa.literal_column(f"{text_of(element.left)} IN \0", sa.Boolean)

    text = text_of(replacement_traverse(clause, {}, replace))
    return Condition(tuple(subqueries), tuple(text.split("\0")))


# ---------------------------------------------------------------- on the event loop

SLOW = 0.05  # seconds on the loop; after more the next look-ups are done in a thread, ten times as long
REST = 1  # seconds after a failure, in which all take the long way


class Desk:
    """Where one at a time works with plans, which are opened when they are needed."""

    def __init__(self, engine: sa.Engine, hints: dict[Any, Any]) -> None:
        self.engine, self.hints, self.lock = engine, hints, threading.Lock()
        self.plans: Plans | None = None

    def work(self, work: Callable[[Plans], T]) -> T:
        """What `work` returned. The lock is held. Raises duckdb.Error or SQLAlchemyError; the next one opens anew."""
        try:
            self.plans = self.plans or Plans(self.engine, self.hints)
            return work(self.plans)
        except (duckdb.Error, sa.exc.SQLAlchemyError):
            self.drop()
            raise

    def drop(self) -> None:
        plans, self.plans = self.plans, None
        if plans is not None:
            plans.close()

    def close(self) -> None:
        with self.lock:
            self.drop()


class Unwritten:
    """What was read of a database that one process has, for as long as nobody can have written since.

    Who writes takes a connection of the engine. So a look-up that was done while none was out stands until one goes
    out: then all is forgotten, and what is read while it is out is not kept. A revoked session is a write.
    """

    def __init__(self, engine: sa.Engine, most: int = 2000) -> None:
        self.engine, self.most = engine, most
        self.turn = 0  # how many connections have gone out
        self.found: dict[Hashable, Any] = {}
        self.found_at = -1  # the turn in which all of it was read
        sa.event.listen(engine, "checkout", self.note)

    def note(self, *connection: Any) -> None:
        self.turn += 1

    def forget(self) -> None:
        self.found, self.found_at = {}, -1

    def now(self) -> int | None:
        """The turn; None while a connection is out, and where the engine's pool cannot tell."""
        turn, pool = self.turn, self.engine.pool
        return turn if isinstance(pool, sa.QueuePool) and pool.checkedout() == 0 else None

    def get(self, key: Hashable) -> Any:
        """What was found under `key`; None for nothing that still stands."""
        return self.found.get(key) if self.found_at == self.now() else None

    def put(self, key: Hashable, value: Any, turn: int | None) -> None:
        """Keep `value`, which was read after `turn`: it is found while that is the turn."""
        if turn is None:
            return
        if turn != self.found_at or len(self.found) >= self.most:
            self.found, self.found_at = {}, turn
        self.found[key] = value


class LookUps:
    """Runs `work(plans)`, which asks a few look-ups, on the event loop while nothing can hold it up there.

    A look-up takes a tenth of a millisecond, less than the way into a thread. But DuckDB lets it wait while another
    thread commits, and a large commit takes long. So it is done on the loop only while no connection of the engine is
    in use: nothing else in this process writes, and no other process can. And whatever holds it up all the same does so
    for at most a tenth of the time.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        hints: dict[Any, Any] = {}
        self.on_loop, self.in_thread = Desk(engine, hints), Desk(engine, hints)
        self.unwritten = Unwritten(engine)
        self.rest_until = self.in_thread_until = 0.0
        sa.event.listen(engine, "engine_disposed", lambda engine: self.close())  # the file is to be closed

    async def __call__(self, work: Callable[[Plans], T | None], key: Hashable = None) -> T | None:
        """What `work` returned; None when the long way must be taken, which knows how to retry and what to say.

        With a `key`, which tells all that `work` depends on beside the database, it is `Unwritten`: nobody may change
        it.
        """
        if key is None:
            return await self.ask(work)
        found: T | None = self.unwritten.get(key)
        if found is None:
            turn = self.unwritten.now()
            found = await self.ask(work)
            self.unwritten.put(key, found, turn)
        return found

    async def ask(self, work: Callable[[Plans], T | None]) -> T | None:
        now = monotonic()
        if now < self.rest_until:
            return None
        try:
            if self.free(now) and self.on_loop.lock.acquire(blocking=False):
                return self.here(work)
            return await run_in_threadpool(self.there, work)
        except (duckdb.Error, sa.exc.SQLAlchemyError) as error:
            log.warning("look-up: %s", type(error).__name__)
            self.rest_until = monotonic() + REST
            return None

    def free(self, now: float) -> bool:
        """Whether the loop has a connection, and no other thread of this process is in a transaction."""
        pool = self.engine.pool
        quiet = isinstance(pool, sa.QueuePool) and pool.checkedout() == 0
        return quiet and self.on_loop.plans is not None and now >= self.in_thread_until

    def here(self, work: Callable[[Plans], T]) -> T:
        started = monotonic()
        try:
            return self.on_loop.work(work)
        finally:
            self.on_loop.lock.release()
            if (took := monotonic() - started) > SLOW:
                self.in_thread_until = monotonic() + 10 * took

    def there(self, work: Callable[[Plans], T]) -> T:
        with self.in_thread.lock:
            result = self.in_thread.work(work)
        if self.on_loop.plans is None:
            with self.on_loop.lock:  # opened here, since it may take long
                self.on_loop.work(lambda plans: None)
        return result

    def close(self) -> None:
        """Close the connections; the next look-up opens others."""
        self.unwritten.forget()  # others may have the file then
        self.on_loop.close()
        self.in_thread.close()
