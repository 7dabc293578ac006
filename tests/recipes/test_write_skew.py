"""No child without a parent, in either order and whatever the engine. Needs pytest, and DuckDB or nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.write_skew import NO_PARENT, NoParent, hold, hold_parents


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "shop_customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    name: orm.Mapped[str]


class Order(Base):
    """The foreign key is declared; the table below is made without it, as on an engine that has none."""

    __tablename__ = "shop_orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    customer: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey(Customer.id))


class Company(Customer):
    """Its id is a foreign key to the row of the customer, which the same flush makes."""

    __tablename__ = "shop_companies"
    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(Customer.id), primary_key=True)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """With snapshots: on SQLite a WAL, and a BEGIN before the first read."""
    if request.param == "duckdb":
        pytest.importorskip("duckdb_sqlalchemy")
    engine = sa.create_engine(f"{request.param}:///{tmp_path / 'shop.db'}", poolclass=sa.QueuePool)
    if request.param == "duckdb":
        engine.dialect.supports_sane_rowcount = False  # whoever imports `engines` adds RETURNING to each UPDATE
    if request.param == "sqlite":
        sa.event.listen(engine, "connect", lambda c, record: c.execute("PRAGMA journal_mode = WAL"))
        sa.event.listen(engine, "connect", lambda c, record: c.execute("PRAGMA busy_timeout = 100"))
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE shop_customers (id INTEGER PRIMARY KEY, name VARCHAR)"))
        connection.execute(sa.text("CREATE TABLE shop_orders (id INTEGER PRIMARY KEY, customer INTEGER)"))
        connection.execute(sa.text("CREATE TABLE shop_companies (id INTEGER PRIMARY KEY)"))
        connection.execute(sa.insert(Customer).values([{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bob"}]))
    yield engine
    engine.dispose()


def delete_customer(engine: sa.Engine, number: int = 1) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(Customer).where(Customer.id == number))


def orphans(engine: sa.Engine) -> int | None:
    parents = sa.select(Customer.id)
    with engine.begin() as connection:
        return connection.scalar(sa.select(sa.func.count(Order.id)).where(Order.customer.not_in(parents)))


def refuses_no_parent(session: orm.Session) -> None:
    with pytest.raises(sa.exc.IntegrityError, match=r"shop_orders\.customer -> shop_customers\.id") as raised:
        session.commit()
    assert isinstance(raised.value.orig, NoParent)
    assert raised.value.orig.sqlstate == NO_PARENT


def test_the_parent_goes_before_the_child_is_written(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        assert session.get(Customer, 1) is not None
        delete_customer(engine)
        session.add(Order(id=1, customer=1))
        with pytest.raises(sa.exc.DBAPIError):
            session.commit()
    assert orphans(engine) == 0


def test_the_child_is_written_before_the_parent_goes(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, engine.connect() as other:
        assert other.scalar(sa.select(sa.func.count(Order.id))) == 0
        session.add(Order(id=1, customer=1))
        session.commit()
        with pytest.raises(sa.exc.DBAPIError):
            other.execute(sa.delete(Customer).where(Customer.id == 1))
    assert orphans(engine) == 0


def test_a_child_that_moves_holds_its_new_parent(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add(Order(id=1, customer=1))
    with orm.Session(engine) as session:
        session.get_one(Order, 1).customer = 9
        refuses_no_parent(session)
    with orm.Session(engine) as session, engine.connect() as other:
        assert other.scalar(sa.select(sa.func.count(Order.id))) == 1
        session.get_one(Order, 1).customer = 2
        session.commit()
        with pytest.raises(sa.exc.DBAPIError):
            other.execute(sa.delete(Customer).where(Customer.id == 2))


def test_what_needs_no_parent_or_makes_it_is_written(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add_all([Order(id=1, customer=None), Order(id=2, customer=3), Customer(id=3, name="Eve")])
    assert orphans(engine) == 0


def test_a_row_of_two_tables_makes_its_own_parent(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add_all([Company(id=5, name="Eve"), Order(id=1, customer=5)])
    assert orphans(engine) == 0


def test_another_column_with_the_same_value_holds_no_parent(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Customer).values(id=4, name="9"))
    with orm.Session(engine) as session:
        assert hold(session, Customer.name, "9")
        session.add(Order(id=1, customer="9"))  # type: ignore[arg-type]
        refuses_no_parent(session)


def test_a_savepoint_that_is_rolled_back_takes_its_parents_along(engine: sa.Engine) -> None:
    if engine.dialect.name == "duckdb":
        pytest.skip("DuckDB has no savepoints")
    with orm.Session(engine) as session:
        savepoint = session.begin_nested()
        session.add(Customer(id=3, name="Eve"))
        session.flush()
        savepoint.rollback()
        session.add(Order(id=1, customer=3))
        refuses_no_parent(session)


def test_hold_says_whether_the_row_exists(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, engine.connect() as other:
        assert other.scalar(sa.select(sa.func.count(Order.id))) == 0
        assert not hold(session, Customer.id, 9)
        assert hold(session, Customer.id, 1)
        assert hold(session, Customer.__table__.c.name, "Bob", alone=True)
        session.commit()
        with pytest.raises(sa.exc.DBAPIError):
            other.execute(sa.delete(Customer).where(Customer.id == 1))


def test_a_row_is_held_once_and_until_the_end_of_the_transaction(engine: sa.Engine) -> None:
    sent: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, *more: sent.append(sql))
    with orm.Session(engine) as session:
        for number in (1, 2):
            session.add(Order(id=number, customer=1))
            session.flush()
        assert sum(sql.startswith("UPDATE shop_customers") for sql in sent) == 1
        session.commit()
        delete_customer(engine)
        session.add(Order(id=3, customer=1))
        refuses_no_parent(session)


def test_the_listener_is_registered() -> None:
    assert sa.event.contains(orm.Session, "before_flush", hold_parents)
