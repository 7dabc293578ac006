"""An embedded database keeps what was committed, and its pool gets each connection back. Needs pytest and DuckDB."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from playbook.foundations.engines import NAMING, Base, Timestamp, make_engine, open_duckdb

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("duckdb_sqlalchemy")


class Shop(Base):
    """With tables of its own: a project that uses `Base` has others."""

    __abstract__ = True
    metadata = sa.MetaData(naming_convention=NAMING)


class Customer(Shop):
    __tablename__ = "shop_customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    name: orm.Mapped[str] = orm.mapped_column(unique=True)
    visits: orm.Mapped[int] = orm.mapped_column(default=0)
    since: orm.Mapped[datetime | None]


class Order(Shop):
    __tablename__ = "shop_orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    customer: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(Customer.id))
    price: orm.Mapped[int] = orm.mapped_column(sa.CheckConstraint("price > 0", name="price"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = make_engine(f"duckdb:///{tmp_path / 'shop.duckdb'}", pool_size=2, max_overflow=0, pool_timeout=0.5)
    Shop.metadata.create_all(engine, [Customer.__table__, Order.__table__])  # type: ignore[list-item]
    with orm.Session(engine) as session, session.begin():
        session.add(Customer(id=1, name="Ada", visits=0))
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    engine.dispose()


WRITES: dict[str, Callable[[], Any]] = {
    "a column": lambda: sa.update(Customer).values(visits=Customer.visits + 1),
    "a unique column": lambda: sa.update(Customer).values(name="Bob"),
    "another column": lambda: sa.update(Customer).values(since=datetime(2026, 1, 1, tzinfo=UTC)),
    "with returning": lambda: sa.update(Customer).values(visits=9).returning(Customer.id),
    "a deletion": lambda: sa.delete(Customer),
}


@pytest.mark.parametrize("second", WRITES)
@pytest.mark.parametrize("first", WRITES)
def test_of_two_writers_of_one_row_one_is_told(engine: sa.Engine, first: str, second: str) -> None:
    with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            connection.execute(sa.select(Customer.visits)).all()
        one.execute(WRITES[first]())
        one.commit()
        with pytest.raises(sa.exc.DBAPIError, match=r"(?i)conflict"):
            other.execute(WRITES[second]())
        other.rollback()


def test_the_orm_writes_one_row_and_many(engine: sa.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add_all([Customer(id=number, name=str(number)) for number in (2, 3)])
    with orm.Session(engine) as session, session.begin():
        for customer in session.scalars(sa.select(Customer)):
            customer.visits += customer.id
    with orm.Session(engine) as session:
        assert session.scalars(sa.select(Customer.visits).order_by(Customer.id)).all() == [1, 2, 3]


def test_a_time_needs_a_zone_and_comes_back_in_utc(engine: sa.Engine) -> None:
    noon = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    for on in (engine, sa.create_engine("sqlite://")):
        with on.begin() as connection:
            table = sa.Table("moments", sa.MetaData(), sa.Column("at", Timestamp))
            table.create(connection)
            connection.execute(table.insert(), [{"at": noon}, {"at": None}])
            found = connection.scalars(sa.select(table.c.at).where(table.c.at.is_not(None))).one()
            assert (found, found.tzinfo) == (noon, UTC)
            assert connection.scalar(sa.select(sa.func.count()).where(table.c.at.is_(None))) == 1
            with pytest.raises(sa.exc.StatementError, match="no time zone"):
                connection.execute(table.insert().values(at=datetime(2026, 1, 1)))


def test_constraints_have_names_and_foreign_keys_are_for_postgresql(engine: sa.Engine) -> None:
    there = str(CreateTable(Order.__table__).compile(dialect=postgresql.dialect()))  # type: ignore[arg-type]
    here = str(CreateTable(Order.__table__).compile(engine))  # type: ignore[arg-type]
    for name in ("pk_shop_orders", "ck_shop_orders_price"):
        assert name in there
        assert name in here
    assert "fk_shop_orders_customer" in there
    assert "FOREIGN KEY" not in here
    assert isinstance(Customer.__table__.c.since.type, Timestamp)


def test_threads_share_one_database_in_memory() -> None:
    engine = make_engine("duckdb:///:memory:test_engines_shared")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t AS SELECT 42 AS n"))
    found: list[int | None] = []

    def read() -> None:
        with engine.connect() as connection:
            found.append(connection.scalar(sa.text("SELECT n FROM t")))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    engine.dispose()
    assert found == [42]


KILLED = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE names (name VARCHAR)")
connection.execute("CREATE UNIQUE INDEX by_name ON names (name)")
connection.execute("CHECKPOINT")
connection.execute("INSERT INTO names VALUES ('Ada')")
os._exit(9)
"""


@pytest.mark.parametrize("how", ["engine", "open_duckdb"])
def test_a_crash_loses_no_entry_of_an_index(tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "crash.duckdb")
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    if how == "engine":
        engine = make_engine(f"duckdb:///{path}")
        engine.connect().close()
        engine.dispose()
    else:
        open_duckdb(lambda: duckdb.connect(path)).close()
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT * FROM names WHERE name = 'Ada'").fetchall() == [("Ada",)]


def test_an_error_shows_no_values_and_the_zone_is_utc(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_setting('TimeZone')")) == "UTC"
        with pytest.raises(sa.exc.DBAPIError) as raised:
            connection.execute(sa.text("SELECT nonsense FROM t WHERE x = :secret"), {"secret": "hunter2"})
    assert "hunter2" not in str(raised.value)


def test_options_go_first_and_other_databases_are_refused() -> None:
    for url in ("postgresql+psycopg://nowhere/x", "duckdb:///:memory:options"):
        assert make_engine(url, pool_size=3).pool.size() == 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="mysql"):
        make_engine("mysql://localhost/x")
