"""How a connection of the pool is known to be alive: by a look at its socket, before anything is sent.

The recipe asks the server `SELECT 1` each time that a connection leaves the pool, which is a fourth of the questions of
a small transaction. A server that closes a connection says so, and then there is something to read where nothing should
be (go-sql-driver calls it `connCheck`). Only then, or after a long silence, in which a network may have forgotten the
connection and told nobody, the server is asked.
"""

import select
import sys
import time
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from playbook.foundations.engines import connect_to_duckdb, open_duckdb


def do_without_pandas() -> None:
    """Say once that there is no pandas. DuckDB looks for it at each statement with values, on all of `sys.path`."""
    if "pandas" not in sys.modules and find_spec("pandas") is None:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # `import pandas` fails as before, at once


# For many small questions. A second thread is woken for each of them, which takes longer than to answer it. And of
# compressed UUIDs DuckDB unpacks two thousand to read one: fifty times as long, for files a tenth smaller.
FOR_LOOK_UPS = ("SET GLOBAL threads = 1", "SET GLOBAL force_compression = 'uncompressed'")


def suit_look_ups(engine: sa.Engine) -> sa.Engine:
    """`engine`; on DuckDB its database is set up for many small questions. Before the CHECKPOINT, which compresses."""
    if engine.dialect.name == "duckdb":

        def connect(dialect: sa.Dialect, record: Any, args: Any, options: Any) -> Any:
            def suited() -> Any:
                connection: Any = dialect.connect(*args, **options)
                for setting in FOR_LOOK_UPS:
                    connection.execute(setting)
                return connection

            return open_duckdb(suited)

        sa.event.remove(engine, "do_connect", connect_to_duckdb)
        sa.event.listen(engine, "do_connect", connect)
    return engine


SILENCE = 30  # seconds in the pool


def has_something_to_read(connection: Any) -> bool:
    """Whether the server has sent anything, or closed the connection. True where the system cannot tell."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def look_before_asking(engine: sa.Engine) -> sa.Engine:
    """`engine`; on PostgreSQL its pool looks at a connection, and asks the server only when that says too little."""
    if engine.dialect.name != "postgresql":
        return engine
    returned: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    ask = engine.dialect.do_ping

    @sa.event.listens_for(engine, "checkin")
    def note(connection: Any, record: Any) -> None:
        if connection is not None:
            returned[connection] = time.monotonic()

    def alive(connection: Any) -> bool:
        quiet = time.monotonic() - returned.get(connection, float("-inf")) < SILENCE
        return (quiet and not has_something_to_read(connection)) or ask(connection)

    engine.dialect.do_ping = alive  # type: ignore[assignment, method-assign]
    return engine
