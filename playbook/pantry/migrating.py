"""The connection that Pantry migrates with: one process at a time, and no wait without an end, also behind a pooler.

On PostgreSQL a migration that waits for a lock keeps everybody waiting who comes after it, and one that holds a lock
does so until its statement ends. So both have a limit, as PyPI's own service has them (pypi/warehouse): 4 seconds for a
lock, 5 for a statement. PostgreSQL counts the wait as part of the statement, so the limit of the lock is the shorter
one, or the error would never name the lock. A proxy or a client that gives up after 10 seconds has seen no failure.
What met a limit has left nothing, and is run again.

A backfill holds no lock that readers or other rows' writers wait for, and may take longer. Its revision says so, until
the end of its transaction:

    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from playbook.foundations.engines import TRANSACTION

LOCK = 7_350_116_223  # any number, the same in every process that migrates this database
LIMITS = {"lock_timeout": "4s", "statement_timeout": "5s"}


def behind_pooler(connection: sa.Connection) -> bool:
    """Whether a pooler stands before PostgreSQL: the process that works is another than the one that was announced."""
    announced = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    return bool(connection.scalar(sa.select(sa.func.pg_backend_pid())) != announced)


def take_turn(connection: sa.Connection, lock: int, settings: dict[str, str]) -> None:
    """Wait until nobody else has `lock`. From then on `settings` are those of the connection's transactions.

    Nobody else may have it until the connection is closed; behind a pooler, until the open transaction ends.
    """
    pooled = behind_pooler(connection)
    connection.execute(sa.select((sa.func.pg_advisory_xact_lock if pooled else sa.func.pg_advisory_lock)(lock)))
    connection.info["transaction"] = TRANSACTION | settings
    if pooled:
        connection.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in settings.items())))
    else:
        connection.commit()


@contextmanager
def migration_connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection to migrate with, which waits for its turn; behind a pooler in a transaction, committed at the end.

    There all pending revisions are one transaction, and an exception to the limits holds until its end. READ COMMITTED,
    because a backfill with a snapshot from before the wait for a lock leaves out the row that was committed meanwhile.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.detach()  # closed at the end: neither its settings nor its lock go back to the pool
            take_turn(connection, LOCK, LIMITS)
        yield connection
        connection.commit()
