"""The models of a shop that the page's *Take it with you* shows, run as they are printed there, on SQLite."""

import re
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.foundations.transactions import notice_conflicts, transaction
from playbook.kit.course import Course
from playbook.kit.stage import together


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    stock: Mapped[int]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id))
    count: Mapped[int]


def test_no_product_is_sold_twice(tmp_path: Path) -> None:
    shown = Course().get("transactions").source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert block is not None
    used = (Engine, Order, Product, Session, transaction)
    names: dict[str, Any] = {each.__name__: each for each in used}
    exec(block[1], names)

    engine = notice_conflicts(create_engine(f"sqlite:///{tmp_path}/shop.db"))
    Base.metadata.create_all(engine)
    transaction(engine, lambda session: session.add(Product(id=1, stock=5)))
    orders = together(**{f"client {n}": lambda: names["post_order"](engine, 1, 2) for n in range(6)})
    placed = [order for order in orders.values() if isinstance(order, Order)]
    assert sorted(order.id for order in placed) == [1, 2]
    assert [order for order in orders.values() if order is not None and order not in placed] == []
    assert transaction(engine, lambda session: session.get_one(Product, 1)).stock == 1
    engine.dispose()
