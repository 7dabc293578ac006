"""What the recipe promises, with a shop, on SQLite with and without foreign keys, and on DuckDB where it is there.

Needs pytest, hypothesis and sqlalchemy; duckdb-sqlalchemy where it is there.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from playbook.schema.relationships import (
    AT_ONCE,
    Orphan,
    StillReferred,
    TooManyStatements,
    at_most,
    delete_rows,
    orphans,
    references_to,
    what_goes,
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship(passive_deletes="all")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id = mapped_column(ForeignKey("customers.id", ondelete="CASCADE"))


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id = mapped_column(ForeignKey("orders.id"), nullable=False)


def forget(session: Session, number: int) -> dict[str, int] | None:
    table = Customer.__table__
    try:
        return delete_rows(session, table, table.c.id == number)
    except StillReferred:
        session.rollback()
        return None  # 409 Conflict


TREE = sa.MetaData()
nodes = sa.Table(
    "nodes",
    TREE,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.ForeignKey("nodes.id", ondelete="cascade")),
    sa.Column("twin", sa.ForeignKey("nodes.id", ondelete="SET NULL")),
    sa.Column("needs", sa.ForeignKey("nodes.id")),
)
PAIRS = sa.MetaData()
rooms = sa.Table(
    "rooms",
    PAIRS,
    sa.Column("house", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
)
desks = sa.Table(
    "desks",
    PAIRS,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("house", sa.String),
    sa.Column("number", sa.Integer),
    sa.ForeignKeyConstraint(["house", "number"], ["rooms.house", "rooms.number"], ondelete="CASCADE"),
)


def without_references(metadata: sa.MetaData, engine: sa.Engine) -> None:
    """Make the tables as they are where nothing enforces a foreign key."""
    bare = sa.MetaData()
    for table in metadata.tables.values():
        columns = [sa.Column(one.name, one.type, primary_key=one.primary_key) for one in table.columns]
        sa.Table(table.name, bare, *columns)
    bare.create_all(engine)


@pytest.fixture(params=["sqlite", "sqlite, enforced", "duckdb"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An engine with `info["enforced"]`: whether it checks foreign keys itself."""
    if request.param == "duckdb":
        pytest.importorskip("duckdb_sqlalchemy")
        engine = sa.create_engine("duckdb:///:memory:")
    else:
        engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})
    if request.param == "sqlite, enforced":
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    for metadata in (Base.metadata, TREE, PAIRS):
        if request.param == "sqlite, enforced":
            metadata.create_all(engine)
        else:
            without_references(metadata, engine)
    yield engine
    engine.dispose()


def rows(db: Any, table: sa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in db.execute(sa.select(table).order_by(*table.primary_key))]


def shop(session: Session) -> None:
    """Two customers; the second has an order with an invoice."""
    session.add_all([Customer(id=1), Customer(id=2)])
    session.flush()
    session.add_all([Order(id=1, customer_id=1), Order(id=2, customer_id=2), Order(id=3, customer_id=None)])
    session.flush()
    session.add(Invoice(id=1, order_id=2))
    session.commit()


# ---------------------------------------------------------------- statements


def send(engine: sa.Engine, most: int, *statements: sa.Executable, then: type[Exception] | None = None) -> None:
    with at_most(engine, most), engine.connect() as db:
        for statement in statements:
            db.execute(statement)
        if then is not None:
            raise then


def test_a_block_within_the_limit_gives_its_statements(engine: sa.Engine) -> None:
    with at_most(engine, 2) as sent, engine.connect() as db:
        db.execute(sa.select(nodes.c.id))
        db.execute(sa.text("SELECT\n  1"))
    assert sent == ["SELECT nodes.id FROM nodes", "SELECT 1"]


def test_one_statement_too_many_names_the_most_frequent(engine: sa.Engine) -> None:
    with pytest.raises(TooManyStatements, match=r"^3 statements, at most 2; 2 times SELECT nodes.id FROM nodes$"):
        send(engine, 2, sa.select(nodes.c.id), sa.text("SELECT 1"), sa.select(nodes.c.id))


def test_it_counts_nothing_after_the_block_and_hides_no_error(engine: sa.Engine) -> None:
    with at_most(engine, 0) as sent:
        pass
    with engine.connect() as db:
        db.execute(sa.text("SELECT 1"))
    assert sent == []
    with pytest.raises(KeyError):
        send(engine, 0, sa.text("SELECT 1"), then=KeyError)


def test_it_counts_other_threads() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})

    def work() -> None:
        with engine.connect() as db:
            db.execute(sa.text("SELECT 1"))

    def in_a_thread() -> None:
        with at_most(engine, 0):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    with pytest.raises(TooManyStatements):
        in_a_thread()


# ---------------------------------------------------------------- deletion


def test_a_shop_forgets_a_customer_and_keeps_one_with_an_invoice(engine: sa.Engine) -> None:
    with Session(engine) as session:
        shop(session)
        assert forget(session, 1) == {"customers": 1, "orders": 1}
        session.commit()
        assert forget(session, 2) is None
        assert forget(session, 3) == {"customers": 0}
        assert rows(session, Customer.__table__) == [(2,)]
        assert rows(session, Order.__table__) == [(2, 2), (3, None)]
        assert orphans(session, Base.metadata) == []


def test_what_a_session_has_not_written_yet_is_deleted_too(engine: sa.Engine) -> None:
    with Session(engine, autoflush=False) as session:
        customer = Customer(id=7)
        session.add(customer)
        assert forget(session, 7) == {"customers": 1, "orders": 0}
        assert sa.inspect(customer).expired
        assert rows(session, Customer.__table__) == []


def test_many_children_need_few_statements(engine: sa.Engine) -> None:
    many = 2 * AT_ONCE + 1
    with engine.begin() as db:
        db.execute(sa.text("INSERT INTO customers (id) VALUES (1)"))
        numbers = sa.text(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :many) "
            "INSERT INTO orders (id, customer_id) SELECT i, 1 FROM n"
            if engine.dialect.name == "sqlite"
            else "INSERT INTO orders (id, customer_id) SELECT i, 1 FROM range(1, CAST(:many AS BIGINT) + 1) AS n(i)"
        )
        db.execute(numbers, {"many": many})
    with at_most(engine, 12), engine.begin() as db:
        gone = delete_rows(db, Customer.__table__, Customer.__table__.c.id == 1)
    assert gone == {"customers": 1, "orders": many}


def test_a_reference_of_two_columns(engine: sa.Engine) -> None:
    with engine.begin() as db:
        db.execute(rooms.insert(), [{"house": "north", "number": 1}, {"house": "south", "number": 1}])
        values = [(1, "north", 1), (2, "south", 1), (3, "north", None)]
        db.execute(desks.insert(), [dict(zip(("id", "house", "number"), one, strict=True)) for one in values])
        assert delete_rows(db, rooms, rooms.c.house == "north") == {"rooms": 1, "desks": 1}
        assert rows(db, desks) == [(2, "south", 1), (3, "north", None)]
        assert orphans(db, PAIRS) == []


def test_a_table_without_a_primary_key_is_refused() -> None:
    metadata = sa.MetaData()
    parents = sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table("both", metadata, sa.Column("parent", sa.ForeignKey("parents.id", ondelete="CASCADE")))
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as db:
        db.execute(parents.insert(), {"id": 1})
        with pytest.raises(ValueError, match="both has no primary key"):
            delete_rows(db, parents, parents.c.id == 1)


def test_the_rules_of_the_models_in_a_fixed_order() -> None:
    assert [(key.column_keys, rule) for key, rule in references_to(nodes)] == [
        (["needs"], ""),
        (["parent"], "CASCADE"),
        (["twin"], "SET NULL"),
    ]


number = st.none() | st.integers(0, 5)
FORESTS = st.lists(st.tuples(number, number, number), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(forest=FORESTS, start=st.integers(0, 5))
def test_any_graph_of_rows_ends_as_the_rules_say(forest: list[tuple[Any, ...]], start: int) -> None:
    """Rings of rows included: against a model that knows no SQL."""
    size = len(forest)
    given_rows = {
        index: tuple(None if other is None else other % size for other in row) for index, row in enumerate(forest)
    }
    goes = {start % size}
    while True:
        more = {index for index, row in given_rows.items() if row[0] in goes}
        if more <= goes:
            break
        goes |= more
    stay = {index: row for index, row in given_rows.items() if index not in goes}
    refused = any(row[2] in goes for row in stay.values())
    expected = [(index, parent, None if twin in goes else twin, needs) for index, (parent, twin, needs) in stay.items()]
    engine = sa.create_engine("sqlite://")
    without_references(TREE, engine)
    with engine.connect() as db:
        names = ("parent", "twin", "needs")
        values = [{"id": index, **dict(zip(names, row, strict=True))} for index, row in given_rows.items()]
        db.execute(nodes.insert(), values)
        before = rows(db, nodes)
        db.commit()
        if refused:
            with pytest.raises(StillReferred, match="nodes needs nodes"):
                delete_rows(db, nodes, nodes.c.id == start % size)
            db.rollback()
            assert rows(db, nodes) == before
        else:
            assert delete_rows(db, nodes, nodes.c.id == start % size) == {"nodes": len(goes)}
            assert rows(db, nodes) == expected
            assert orphans(db, TREE) == []


def test_nothing_is_written_to_find_what_goes(engine: sa.Engine) -> None:
    with Session(engine) as session:
        shop(session)
        with at_most(engine, 9) as sent:
            found = what_goes(session, Customer.__table__, sa.true())
    assert {table.name: len(keys) for table, keys in found.items()} == {"customers": 2, "orders": 2}
    assert all(one.startswith("SELECT") for one in sent)


# ---------------------------------------------------------------- audit


def test_orphans_are_named_with_their_keys_and_limited() -> None:
    engine = sa.create_engine("sqlite://")
    without_references(TREE, engine)
    with engine.begin() as db:
        db.execute(nodes.insert(), [{"id": one, "parent": 99, "twin": 1, "needs": None} for one in (1, 2, 3)])
        assert orphans(db, TREE) == [Orphan("nodes(parent) -> nodes", (one,)) for one in (1, 2, 3)]
        assert len(orphans(db, TREE, limit=2)) == 2


def test_an_orphan_of_a_table_without_a_primary_key_is_named_by_its_reference(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    sa.Table("parents", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    tags = sa.Table("tags", metadata, sa.Column("parent", sa.ForeignKey("parents.id")), sa.Column("tag", sa.String))
    without_references(metadata, engine)
    with engine.begin() as db:
        db.execute(tags.insert(), [{"parent": 8, "tag": "a"}, {"parent": 7, "tag": "b"}, {"parent": None, "tag": "c"}])
        name = "tags(parent) -> parents"
        assert orphans(db, metadata) == [Orphan(name, (7,)), Orphan(name, (8,))]


def test_a_null_in_one_of_two_columns_is_no_reference() -> None:
    engine = sa.create_engine("sqlite://")
    without_references(PAIRS, engine)
    with engine.begin() as db:
        values = [(1, "gone", 1), (2, "gone", None), (3, None, None)]
        db.execute(desks.insert(), [dict(zip(("id", "house", "number"), one, strict=True)) for one in values])
        assert orphans(db, PAIRS) == [Orphan("desks(house, number) -> rooms", (1,))]
