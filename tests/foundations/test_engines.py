"""One code base, two engines: conflicts are tried again and nothing else is, and every connection comes back."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import Base, Timestamp, make_engine
from playbook.foundations.transactions import is_conflict, transaction
from playbook.kit.stage import capture_sql

metadata = sa.MetaData()
counts = sa.Table(
    "counts", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("total", sa.Integer), sa.Column("note", sa.String), sa.Column("name", sa.String, unique=True),
)  # fmt: skip
notes = sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.String))
moments = sa.Table("moments", metadata, sa.Column("at", Timestamp))


class Model(orm.DeclarativeBase):
    metadata = metadata


class Count(Model):
    __table__ = counts


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(counts.insert().values(id=1, total=0))
        connection.execute(notes.insert().values(id=1, note="n"))
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    engine.dispose()


def total(engine: sa.Engine) -> int | None:
    return transaction(engine, lambda session: session.scalar(sa.select(counts.c.total).where(counts.c.id == 1)))


def conflict_once(engine: sa.Engine) -> tuple[list[str], Callable[[orm.Session], int | None]]:
    """Work that meets another writer at its first attempt, for real."""
    attempts: list[str] = []

    def work(session: orm.Session) -> int | None:
        attempts.append("attempt")
        seen = session.scalar(sa.select(counts.c.total))
        if len(attempts) == 1:
            thread = threading.Thread(
                target=lambda: transaction(engine, lambda s: s.execute(counts.update().values(total=10)))
            )
            thread.start()
            thread.join()
        session.execute(counts.update().values(total=(seen or 0) + 1))
        return seen

    return attempts, work


def test_retries_on_a_real_conflict_and_sees_the_other_writers_row(engine: sa.Engine) -> None:
    attempts, work = conflict_once(engine)
    pauses: list[float] = []
    assert transaction(engine, work, sleep=pauses.append) == 10
    assert (total(engine), len(attempts), len(pauses)) == (11, 2, 1)


def test_gives_up_after_the_attempts_it_was_given(engine: sa.Engine) -> None:
    attempts, work = conflict_once(engine)
    with pytest.raises(sa.exc.DBAPIError) as raised:
        transaction(engine, work, attempts=1)
    assert is_conflict(raised.value)
    assert (total(engine), len(attempts)) == (10, 1)


@pytest.mark.parametrize("wrong", [sa.text("SELECT nonsense"), counts.insert().values(id=1, total=5)])
def test_never_retries_what_cannot_succeed(engine: sa.Engine, wrong: sa.Executable) -> None:
    calls = []

    def work(session: orm.Session) -> None:
        calls.append(1)
        session.execute(counts.update().values(total=99))
        session.execute(wrong)

    with pytest.raises(sa.exc.DBAPIError) as raised:
        transaction(engine, work, sleep=lambda seconds: pytest.fail("paused"))
    assert not is_conflict(raised.value)
    assert (total(engine), len(calls)) == (0, 1)


def test_an_exception_of_the_work_itself_rolls_back(engine: sa.Engine) -> None:
    def work(session: orm.Session) -> None:
        session.execute(counts.update().values(total=99))
        raise KeyError("the work failed")

    with pytest.raises(KeyError):
        transaction(engine, work)
    assert total(engine) == 0


def test_pauses_double_up_to_a_bound_and_are_drawn_at_random(url: str) -> None:
    class Conflict(Exception):
        sqlstate = "40001"

    def work(session: orm.Session) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Conflict())

    engine, pauses = make_engine(url), []
    with pytest.raises(sa.exc.OperationalError):
        transaction(engine, work, attempts=40, sleep=pauses.append)
    engine.dispose()
    assert len(pauses) == 39
    assert all(0 <= pause <= min(0.2, 0.002 * 2**n) for n, pause in enumerate(pauses))
    assert len(set(pauses)) > 30, "without jitter the same writers meet again"


def test_zero_attempts_are_refused(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        transaction(engine, total, attempts=0)  # type: ignore[arg-type]


WRITES: dict[str, Callable[[orm.Session], Any]] = {
    "a column": lambda s: s.execute(counts.update().values(total=7)),
    "nothing new": lambda s: s.execute(counts.update().values(total=counts.c.total)),
    "another column": lambda s: s.execute(counts.update().values(note="x")),
    "a unique column": lambda s: s.execute(counts.update().values(name="y")),
    "the key": lambda s: s.execute(counts.update().values(id=2)),
    "from another table": lambda s: s.execute(
        counts.update().values(note=notes.c.note).where(notes.c.id == counts.c.id)
    ),
    "with returning": lambda s: s.execute(counts.update().values(total=8).returning(counts.c.id)).all(),
    "for many at once": lambda s: s.connection().execute(
        counts.update().where(counts.c.id == sa.bindparam("row")), [{"row": 1, "total": 9}, {"row": 2, "total": 9}]
    ),
    "an object": lambda s: setattr(s.get_one(Count, 1), "note", "z"),
    "a deletion": lambda s: s.execute(counts.delete()),
}


def written_by_two(engine: sa.Engine, first: str, second: str, commit_first: bool) -> None:
    """Two transactions that both have read the row before either writes it."""
    with engine.begin() as connection:
        connection.execute(counts.delete())
        connection.execute(counts.insert().values(id=1, total=0))
    with orm.Session(engine) as one, orm.Session(engine) as other:
        for session in (one, other):
            assert session.scalar(sa.select(counts.c.total)) == 0
        WRITES[first](one)
        one.flush()
        if commit_first:
            one.commit()
        WRITES[second](other)
        other.flush()
        one.commit()
        other.commit()


@pytest.mark.parametrize("first", WRITES)
def test_two_writes_of_one_row_are_a_conflict(engine: sa.Engine, first: str) -> None:
    """Whatever they write: DuckDB commits half of the pairs if its UPDATE has no RETURNING."""
    orders = [True] if engine.dialect.name == "postgresql" else [True, False]  # there the second waits for the first
    both_committed = []
    for second, commit_first in itertools.product(WRITES, orders):
        try:
            written_by_two(engine, first, second, commit_first)
            both_committed.append((second, commit_first))
        except sa.exc.DBAPIError as error:
            if not is_conflict(error):
                raise
    assert both_committed == []


def test_objects_are_written_one_by_one_and_many_at_a_time(engine: sa.Engine) -> None:
    """Beside a RETURNING DuckDB counts no rows, so the ORM must not miss them."""
    transaction(engine, lambda session: session.add_all([Count(id=n, total=0) for n in (2, 3)]))

    def work(session: orm.Session) -> None:
        for row in session.scalars(sa.select(Count)):
            row.total = row.id
        session.flush()
        session.get_one(Count, 2).note = "two"

    transaction(engine, work)
    found = transaction(engine, lambda session: session.execute(sa.select(counts).order_by("id")).all())
    assert found == [(1, 1, None, None), (2, 2, "two", None), (3, 3, None, None)]


@pytest.mark.parametrize("sqlstate", ["23505", "08006", "57014", None])
def test_other_errors_of_postgresql_are_no_conflict(sqlstate: str | None) -> None:
    cause = type("Cause", (Exception,), {"sqlstate": sqlstate})("could not serialize")
    assert not is_conflict(sa.exc.OperationalError("UPDATE", {}, cause))


def test_a_naive_time_is_refused_and_others_come_back_in_utc(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.StatementError, match="no time zone"):
        transaction(engine, lambda s: s.execute(moments.insert().values(at=datetime(2026, 1, 1))))
    noon = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    transaction(engine, lambda s: s.execute(moments.insert().values(at=noon)))
    back = transaction(engine, lambda s: s.scalar(sa.select(moments.c.at)))
    assert back == noon
    assert back.tzinfo is UTC


def test_returned_objects_can_be_read_after_the_commit_without_a_statement(url: str) -> None:
    from playbook.schema.identity import User

    engine, now = make_engine(url), datetime(2026, 1, 1, tzinfo=UTC)
    Base.metadata.create_all(engine)
    import uuid

    user = User(id=uuid.UUID(int=1), name="Ada", email="ada@example.com", created_at=now, updated_at=now)
    transaction(engine, lambda s: s.add(user))
    with capture_sql(engine) as statements:
        assert user.email == "ada@example.com"
    assert statements == []
    engine.dispose()


def test_capture_sees_all_threads_and_stops_at_the_end_of_the_block(engine: sa.Engine) -> None:
    with capture_sql(engine) as statements:
        threads = [threading.Thread(target=total, args=(engine,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = [s.sql for s in statements]
    assert seen.count("BEGIN") == seen.count("COMMIT") == 4
    assert [s.at for s in statements] == sorted(s.at for s in statements)
    total(engine)
    assert len(statements) == len(seen)


def test_foreign_keys_are_declared_on_both_and_emitted_on_postgresql_only(url: str) -> None:
    from playbook.schema.identity import Account

    engine = make_engine(url)
    Base.metadata.create_all(engine)
    declared = {key.target_fullname for key in Account.__table__.foreign_keys}
    emitted = sa.inspect(engine).get_foreign_keys("accounts")
    engine.dispose()
    assert declared == {"users.id"}
    assert [key["referred_table"] for key in emitted] == (["users"] if engine.dialect.name == "postgresql" else [])


def test_threads_share_one_embedded_database() -> None:
    engine = make_engine("duckdb:///:memory:shared")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t AS SELECT 42 AS n"))
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(engine.connect().scalar(sa.text("SELECT n FROM t"))))
    thread.start()
    thread.join()
    assert found == [42]
    engine.dispose()


@pytest.mark.parametrize("wrong", ["sqlite:///x.db", "mysql://localhost/x"])
def test_other_databases_are_refused_with_what_would_do(wrong: str) -> None:
    with pytest.raises(ValueError, match="use duckdb"):
        make_engine(wrong)
