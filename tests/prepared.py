"""What each start of Pantry would find again, found once in a process: its schema's statements, functions' signatures.

Some thousand tests begin with the service on a database of its own. Alembic imports ten revisions, renders their
statements and notes each in its table: more than half of a start. That it makes what the models say is proven in
`tests/migrations`, which does not come here.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import duckdb
import sqlalchemy as sa
from fastapi.dependencies import utils as dependencies

from playbook.pantry import history

CHANGES = ("ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "DELETE")


def is_empty(engine: sa.Engine) -> bool:
    names = {
        "duckdb": "SELECT count(*) FROM duckdb_tables()",
        "postgresql": "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    }
    with engine.connect() as connection:
        return connection.exec_driver_sql(names[engine.dialect.name]).scalar_one() == 0


class Remembered:
    """`prepare`, remembered for each engine. A database in a file, with tables or of another history gets the real."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real, self.texts = real, dict[str, str]()

    def __call__(self, engine: sa.Engine, location: Any = history.PANTRY, baseline: str = "head") -> None:
        kind = engine.dialect.name
        in_a_file = kind == "duckdb" and not (engine.url.database or "").startswith(":memory:")
        if location != history.PANTRY or in_a_file or not is_empty(engine):
            self.real(engine, location, baseline)
        elif kind not in self.texts:
            self.texts[kind] = self.heard(engine, baseline)
        else:
            connection = engine.raw_connection()
            try:
                connection.cursor().execute(self.texts[kind])
                connection.commit()
            finally:
                connection.close()

    def heard(self, engine: sa.Engine, baseline: str) -> str:
        """The statements by which the real one changed the database."""
        sent = list[str]()

        def hear(connection: Any, cursor: Any, sql: str, values: Any, *rest: Any) -> None:
            if sql.lstrip().upper().startswith(CHANGES):
                assert not values, f"it cannot be sent as text: {sql}"
                sent.append(sql.replace(" CONCURRENTLY", ""))

        sa.event.listen(engine, "before_cursor_execute", hear)
        try:
            self.real(engine, history.PANTRY, baseline)
        finally:
            sa.event.remove(engine, "before_cursor_execute", hear)
        return ";\n".join(sent)


def remember_signatures() -> None:
    """FastAPI reads that of every function of every route, and of all that it depends on, for each app that is made.

    Only functions of modules are remembered: one that is made for an app would keep that app.
    """
    read, known = dependencies.get_typed_signature, dict[Any, inspect.Signature]()

    def remembered(call: Callable[..., Any]) -> inspect.Signature:
        if not isinstance(call, FunctionType) or call.__closure__ is not None or "<locals>" in call.__qualname__:
            return read(call)
        if call not in known:
            known[call] = read(call)
        return known[call]

    dependencies.get_typed_signature = remembered


def one_thread_for_duckdb() -> None:
    """As Pantry has it (`connections.py`), for the engines that tests make without it: a second thread, woken for each
    statement, is a tenth to a fifth of what a request takes.

    DuckDB's threads share the work on more than 122,880 rows, and no test here has as many. Those of tests and of the
    service are others: each of their statements runs in the one that sends it.
    """
    connect = duckdb.connect

    def with_one(database: Any = ":memory:", read_only: bool = False, config: dict[str, Any] | None = None) -> Any:
        return connect(database, read_only=read_only, config={"threads": 1} | (config or {}))

    duckdb.connect = with_one
