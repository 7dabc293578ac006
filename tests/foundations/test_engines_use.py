"""The model that the page's *Take it with you* shows, run as it is printed there; and what its trap says."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from playbook.foundations.engines import NAMING, Timestamp, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.course import Course
from playbook.kit.lesson import on_postgres


def placed(url: str) -> tuple[int, Any]:
    """Place an order with what the page defines, on a base as the recipe's with tables of its own."""

    class Base(DeclarativeBase):
        metadata = sa.MetaData(naming_convention=NAMING)
        type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Timestamp}

    shown = Course().get("engines").source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert block is not None
    used = (Base, sa.Engine, Mapped, datetime, mapped_column, transaction)
    names: dict[str, Any] = {each.__name__: each for each in used} | {"uuid": uuid, "UTC": UTC}
    names["__name__"] = __name__  # SQLAlchemy looks the annotations up in this module
    exec(block[1], names)

    engine = make_engine(url)
    Base.metadata.create_all(engine)
    order = names["place_order"](engine, 1200)
    found = transaction(engine, lambda session: session.scalars(sa.select(names["Order"])).one())
    engine.dispose()
    assert (found.id, found.placed_at) == (order.id, order.placed_at)
    return found.cents, found.placed_at.tzinfo


def test_an_order_comes_back_in_utc() -> None:
    assert placed("duckdb:///:memory:test_engines_use") == (1200, UTC)
    assert on_postgres(placed) in ((1200, UTC), None)


@pytest.mark.parametrize(("options", "due"), [({}, True), ({"autoincrement": False}, False)])
def test_an_integer_key_has_a_function_as_default_unless_told(options: dict[str, Any], due: bool) -> None:
    table = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, **options))
    sql = str(CreateTable(table).compile(make_engine("duckdb:///:memory:test_engines_use")))
    assert ("nextval" in sql) is due
