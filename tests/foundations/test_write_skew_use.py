"""The page write_skew on both engines: what `hold` sends to each, and that it keeps a rule without a foreign key."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.foundations.write_skew import hold


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=False)


class Order(Base):
    __tablename__ = "orders"
    id = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    customer = orm.mapped_column(sa.ForeignKey(Customer.id))


class Rating(Base):
    """Has no foreign key on any engine."""

    __tablename__ = "ratings"
    id = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    customer = orm.mapped_column(sa.Integer)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    transaction(engine, lambda session: session.add(Customer(id=1)))
    yield engine
    engine.dispose()


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    sent: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, *more: sent.append(sql))
    yield sent


@pytest.mark.parametrize("alone", [False, True])
def test_postgresql_locks_the_row_and_other_engines_write_it(engine: sa.Engine, alone: bool) -> None:
    with orm.Session(engine) as session, statements(engine) as sent:
        assert hold(session, Customer.id, 1, alone=alone)
    [statement] = sent
    locks = engine.dialect.name == "postgresql" and not alone
    assert ("FOR KEY SHARE" in statement, "UPDATE" in statement) == (locks, not locks)


def test_the_listener_leaves_parents_to_the_foreign_keys_of_postgresql(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, statements(engine) as sent:
        session.add(Order(id=1, customer=1))
        session.commit()
    held = [each for each in sent if "UPDATE" in each or "FOR KEY SHARE" in each]
    assert len(held) == (0 if engine.dialect.name == "postgresql" else 1)


def test_without_a_foreign_key_only_alone_keeps_the_parent(engine: sa.Engine) -> None:
    """The deletion has counted before the rating is written; after its wait nothing else checks the rule."""
    attempts: list[int | None] = []

    def rate(session: orm.Session) -> None:
        assert hold(session, Customer.id, 1, alone=True)
        session.add(Rating(id=1, customer=1))

    def delete(session: orm.Session) -> str:
        attempts.append(session.scalar(sa.select(sa.func.count(Rating.id))))
        if len(attempts) == 1:
            transaction(engine, rate)
        if attempts[-1]:
            return "refused"
        session.execute(sa.delete(Customer).where(Customer.id == 1))
        return "deleted"

    assert transaction(engine, delete) == "refused"
    assert attempts == [0, 1]
