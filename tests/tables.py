"""Pantry's tables in an empty database: what `Base.metadata.create_all` sends, compiled once and sent as one text.

Some thousand tests begin so. `create_all` compiles some forty statements each time, and asks for each table whether it
is there.
"""

import re
from functools import cache
from typing import Any

import sqlalchemy as sa

from playbook.foundations.engines import Base


@cache
def script(dialect: str, tables: tuple[str, ...]) -> str:
    """The statements for `tables`, which are all that there are now. What is there already is left alone."""
    sent = list[str]()

    def hear(statement: Any, *rest: Any) -> None:
        text = str(statement.compile(dialect=engine.dialect))
        sent.append(re.sub(r"^(\s*CREATE (?:UNIQUE )?(?:TABLE|INDEX)) ", r"\1 IF NOT EXISTS ", text))

    engine = sa.create_mock_engine(f"{dialect}://", hear)
    Base.metadata.create_all(engine, checkfirst=False)
    return ";\n".join(sent)


def make_tables(engine: sa.Engine) -> None:
    """As `Base.metadata.create_all(engine)`."""
    with engine.begin() as connection:
        connection.exec_driver_sql(script(engine.dialect.name, tuple(Base.metadata.tables)))
