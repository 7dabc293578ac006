"""Pantry's `prepare` on an empty database: what Alembic sent the first time in this process, sent again as one text.

Some thousand tests begin with the service on a database of its own. Alembic imports ten revisions, renders their
statements and notes each in its table: more than half of a start. That it makes what the models say is proven in
`tests/migrations`, which does not come here.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

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
