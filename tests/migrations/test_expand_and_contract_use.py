"""The model of a shop and its migration that the page's *Take it with you* shows, run as printed, on SQLite."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.kit.course import Course
from playbook.migrations.expand_and_contract import backfill, differing, dual_write, migrate

ENV = """
import sqlalchemy as sa

from playbook.migrations.first_migration import run_environment

run_environment(lambda: sa.create_engine("sqlite:///shop.db"), sa.MetaData)
"""
REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.add_column("customers", sa.Column("telephone", sa.String))
"""


class Base(DeclarativeBase):
    pass


def test_a_shop_renames_the_telephone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("alembic.ini").write_text("[alembic]\nscript_location = history\npath_separator = os\n", encoding="utf-8")
    Path("history/versions").mkdir(parents=True)
    Path("history/env.py").write_text(ENV, encoding="utf-8")
    Path("history/versions/0001.py").write_text(REVISION, encoding="utf-8")

    shown = Course().get("expand_and_contract").source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"__name__": "shop", "Base": Base, "Mapped": Mapped, "mapped_column": mapped_column}
    names |= {"dual_write": dual_write, "backfill": backfill, "Config": Config, "command": command}
    exec(block[1], names)

    engine = sa.create_engine("sqlite:///shop.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE customers (id INTEGER PRIMARY KEY, telefone VARCHAR)"))
        connection.execute(sa.text("INSERT INTO customers VALUES (1, '+39'), (2, NULL)"))
    connects: list[Any] = []

    def connected(connection: sa.Connection) -> None:
        connects.append(connection)

    sa.event.listen(sa.Engine, "engine_connect", connected)
    try:
        assert migrate(engine, names["to_revision"]) == 0
    finally:
        sa.event.remove(sa.Engine, "engine_connect", connected)
    assert len(connects) == 1, "the migration has left the connection that has the limit"
    with Session(engine) as session, session.begin():
        session.add(names["Customer"](id=3, phone="+44"))
    assert names["backfill_phones"](engine) == 1
    columns = names["Customer"].__table__.c
    assert differing(engine, columns.telefone, columns.telephone) == 0
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT telephone FROM customers ORDER BY id")).scalars().all()
        assert found == ["+39", None, "+44"]
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0001"
    engine.dispose()
