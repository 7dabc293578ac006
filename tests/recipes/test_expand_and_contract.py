"""What the recipe promises, with a shop's customers on SQLite. Needs pytest and sqlalchemy, nothing else."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.migrations.expand_and_contract import (
    backfill,
    copy_range,
    differing,
    dual_write,
    migrate,
)

from playbook.foundations.transactions import transaction  # isort: skip


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    """The release that reads `telefone` and writes both columns. Its key is an integer."""

    __tablename__ = "customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    phone: orm.Mapped[str | None] = orm.mapped_column("telefone")
    other: orm.Mapped[str | None] = orm.mapped_column("telephone")


dual_write(Customer.phone, Customer.other)
customers: Any = Customer.__table__
OLD, NEW = customers.c.telefone, customers.c.telephone
TEXTS = [None, "1", "2", "3"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}")
    sa.event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))  # also for DDL
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def run(engine: sa.Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def fill(engine: sa.Engine, number: int) -> dict[int, str | None]:
    """Rows of each kind: not copied, stale, equal, NULL on either side. Returns what each must say."""
    draw = random.Random(1)
    keys = draw.sample(range(-1000, 1000), number)
    rows = [{"id": key, "telefone": draw.choice(TEXTS), "telephone": draw.choice(TEXTS)} for key in keys]
    if rows:
        run(engine, customers.insert().values(rows))
    return {row["id"]: row["telefone"] for row in rows}  # type: ignore[misc]


def both(engine: sa.Engine) -> dict[int, tuple[str | None, str | None]]:
    with engine.connect() as connection:
        return {row.id: (row.telefone, row.telephone) for row in connection.execute(sa.select(customers))}


def same(wanted: dict[int, str | None]) -> dict[int, tuple[str | None, str | None]]:
    return {key: (text, text) for key, text in wanted.items()}


def test_each_way_to_assign_writes_both_columns(engine: sa.Engine) -> None:
    def make(session: orm.Session) -> None:
        late = Customer(id=2)
        late.phone = "2"
        session.add_all([Customer(id=1, phone="1"), late, Customer(id=3, phone="3"), Customer(id=4, phone="4")])

    def change(session: orm.Session) -> None:
        session.get_one(Customer, 3).phone = "new"
        session.get_one(Customer, 4).phone = None

    transaction(engine, make)
    transaction(engine, change)
    assert both(engine) == same({1: "1", 2: "2", 3: "new", 4: None})


def test_a_write_repairs_the_other_column_even_when_nothing_changes_in_the_first(engine: sa.Engine) -> None:
    run(engine, customers.insert().values(id=1, telefone="1"))
    transaction(engine, lambda session: setattr(session.get_one(Customer, 1), "phone", "1"))
    assert both(engine) == same({1: "1"})


def test_a_bulk_statement_goes_past_it_and_is_found(engine: sa.Engine) -> None:
    transaction(engine, lambda session: session.add(Customer(id=1, phone="1")))
    assert differing(engine, OLD, NEW) == 0
    transaction(engine, lambda session: session.execute(sa.update(Customer).values(phone="2")))
    assert differing(engine, OLD, NEW) == 1


@pytest.mark.parametrize(("number", "size"), [(0, 10), (1, 1), (57, 1), (57, 10), (60, 10), (57, 1000)])
def test_after_a_backfill_the_columns_agree_whatever_they_said(engine: sa.Engine, number: int, size: int) -> None:
    wanted = fill(engine, number)
    unequal = sum(old != new for old, new in both(engine).values())
    assert differing(engine, OLD, NEW) == unequal
    assert backfill(engine, OLD, NEW, size=size) == unequal
    assert both(engine) == same(wanted)
    assert differing(engine, OLD, NEW) == 0
    assert backfill(engine, OLD, NEW, size=size) == 0, "a second one has nothing to do"


def test_a_range_is_so_many_keys_and_nothing_beyond(engine: sa.Engine) -> None:
    run(engine, customers.insert().values([{"id": key, "telefone": "1"} for key in range(0, 50, 2)]))
    ranges = []
    after = None
    while not ranges or after is not None:
        with orm.Session(engine) as db, db.begin():
            after, number = copy_range(db, OLD, NEW, 10, after)
        ranges.append((after, number))
    assert ranges == [(18, 10), (38, 10), (48, 5), (None, 0)]


def test_a_backfill_that_was_stopped_is_repeated(engine: sa.Engine) -> None:
    wanted = fill(engine, 50)

    def stop(conn: Any, cursor: Any, sql: str, *rest: Any, left: Any = itertools.count(3, -1)) -> None:  # noqa: B008
        if sql.startswith("UPDATE") and next(left) == 0:
            raise KeyboardInterrupt

    sa.event.listen(engine, "before_cursor_execute", stop)
    with pytest.raises(KeyboardInterrupt):
        backfill(engine, OLD, NEW, size=10)
    sa.event.remove(engine, "before_cursor_execute", stop)
    done = 50 - differing(engine, OLD, NEW)
    assert 30 <= done < 50
    backfill(engine, OLD, NEW, size=10)
    assert both(engine) == same(wanted)


def test_an_expression_may_be_the_source(engine: sa.Engine) -> None:
    run(engine, customers.insert().values([{"id": 1, "telefone": "+39 1"}, {"id": 2, "telefone": None}]))
    plain = sa.func.replace(OLD, " ", "")
    assert (differing(engine, plain, NEW), backfill(engine, plain, NEW), differing(engine, plain, NEW)) == (1, 1, 0)
    assert both(engine) == {1: ("+39 1", "+391"), 2: (None, None)}


def test_a_table_without_one_key_is_refused(engine: sa.Engine) -> None:
    pair = sa.Table("pairs", sa.MetaData(), *[sa.Column(name, sa.String, primary_key=True) for name in "ab"],
                    sa.Column("c", sa.String))  # fmt: skip
    pair.create(engine)
    with pytest.raises(ValueError, match="unpack"):
        backfill(engine, pair.c.a, pair.c.c)


ADD = "ALTER TABLE customers ADD COLUMN note VARCHAR"


def notes(engine: sa.Engine) -> bool:
    return any(column["name"] == "note" for column in sa.inspect(engine).get_columns("customers"))


def test_alone_it_runs_once(engine: sa.Engine) -> None:
    pauses: list[float] = []
    assert migrate(engine, lambda connection: connection.exec_driver_sql(ADD), sleep=pauses.append) == 0
    assert (notes(engine), pauses) == (True, [])


class Busy(Exception):
    """What SQLite's driver and psycopg raise, told by these names."""

    def __init__(self, **names: str) -> None:
        super().__init__("busy")
        vars(self).update(names)


@pytest.mark.parametrize("names", [{"sqlstate": "55P03"}, {"sqlstate": "40P01"}, {"sqlite_errorname": "SQLITE_BUSY"}])
def test_it_gives_way_to_others_and_leaves_nothing_of_an_attempt(engine: sa.Engine, names: dict[str, str]) -> None:
    seen, pauses = list[bool](), list[float]()

    def change(connection: sa.Connection) -> None:
        connection.exec_driver_sql(ADD)
        if len(pauses) < 3:
            raise sa.exc.OperationalError("ALTER", None, Busy(**names))

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        seen.append(notes(engine))

    assert migrate(engine, change, sleep=sleep) == 3
    assert (seen, notes(engine)) == ([False] * 3, True)
    assert all(0 <= seconds <= 1 for seconds in pauses)


def test_it_ends_after_its_attempts(engine: sa.Engine) -> None:
    pauses: list[float] = []

    def change(connection: sa.Connection) -> None:
        connection.exec_driver_sql(ADD)
        raise sa.exc.OperationalError("ALTER", None, Busy(sqlstate="55P03"))

    with pytest.raises(sa.exc.OperationalError):
        migrate(engine, change, attempts=3, sleep=pauses.append)
    assert (len(pauses), notes(engine)) == (2, False)
    with pytest.raises(ValueError, match="at least 1"):
        migrate(engine, change, attempts=0)


def test_what_is_wrong_in_itself_is_tried_once(engine: sa.Engine) -> None:
    pauses: list[float] = []
    with pytest.raises(sa.exc.OperationalError):
        migrate(engine, lambda connection: connection.exec_driver_sql("ALTER TABLE no ADD x"), sleep=pauses.append)
    assert pauses == []


def test_pauses_grow_and_none_is_longer_than_a_second(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: limits.append(high) or low)

    def change(connection: sa.Connection) -> None:
        raise sa.exc.OperationalError("ALTER", None, Busy(sqlstate="55P03"))

    with pytest.raises(sa.exc.OperationalError):
        migrate(engine, change, sleep=lambda seconds: None)
    assert (len(limits), limits[0], max(limits)) == (99, 0.02, 1.0)
    assert limits == sorted(limits)
