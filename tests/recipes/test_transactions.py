"""No change is lost, whatever the engine: conflicts are retried, and nothing else is. Needs pytest and an engine."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.transactions import (
    ATTEMPTS,
    LONGEST_PAUSE,
    SECOND_ATTEMPTS,
    is_conflict,
    longest_pause,
    notice_conflicts,
    somebody_was_first,
    transaction,
)

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
THREADS, EACH = 4, 25


class Base(orm.DeclarativeBase):
    pass


class Seat(Base):
    __tablename__ = "seats"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    taken: orm.Mapped[int] = orm.mapped_column(default=0)
    guest: orm.Mapped[str | None]


def engine_for(name: str, folder: Path) -> sa.Engine:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[name])
    return sa.create_engine(f"{name}:///{folder}/seats.db{ALONE[name]}", poolclass=sa.QueuePool)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = notice_conflicts(engine_for(request.param, tmp_path))
    Base.metadata.create_all(engine)
    transaction(engine, lambda session: session.add(Seat(id=1)))
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    engine.dispose()


def take(session: orm.Session, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Read, let something happen, write."""
    taken = session.scalar(sa.select(Seat.taken).where(Seat.id == 1)) or 0
    meanwhile()
    session.execute(sa.update(Seat).where(Seat.id == 1).values(taken=taken + 1))
    return taken + 1


def taken(engine: sa.Engine) -> int | None:
    return transaction(engine, lambda session: session.scalar(sa.select(Seat.taken)))


def once(work: Callable[[], object]) -> Callable[[], None]:
    left = [work]

    def run() -> None:
        if left:
            left.pop()()

    return run


def test_the_second_run_sees_what_the_other_one_wrote(engine: sa.Engine) -> None:
    pauses: list[float] = []
    other = once(lambda: transaction(engine, take))
    assert transaction(engine, lambda session: take(session, other), sleep=pauses.append) == 2
    assert (taken(engine), len(pauses)) == (2, 1)


def test_the_last_conflict_is_raised_and_nothing_is_written(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError) as raised:
        transaction(engine, lambda session: take(session, lambda: transaction(engine, take)), attempts=2)
    assert is_conflict(raised.value)
    assert taken(engine) == 2, "the other one wrote twice, and this one not at all"


def test_threads_lose_no_increment_with_the_default(engine: sa.Engine) -> None:
    failed: list[Exception] = []

    def run() -> None:
        try:
            for _ in range(EACH):
                transaction(engine, take)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, taken(engine)) == ([], THREADS * EACH)


@pytest.mark.parametrize("wrong", [sa.text("SELECT nonsense"), sa.insert(Seat).values(id=1)])
def test_what_cannot_succeed_runs_once_and_leaves_nothing(engine: sa.Engine, wrong: sa.Executable) -> None:
    def work(session: orm.Session) -> None:
        take(session)
        session.execute(wrong)

    with pytest.raises(sa.exc.DBAPIError) as raised:
        transaction(engine, work, sleep=lambda seconds: pytest.fail("it was retried"))
    assert not is_conflict(raised.value)
    assert taken(engine) == 0


def test_a_missing_value_is_no_duplicate_and_runs_once(engine: sa.Engine) -> None:
    runs: list[int] = []

    def work(session: orm.Session) -> None:
        runs.append(1)
        session.execute(sa.text("INSERT INTO seats (id) VALUES (2)"))  # `taken` may not be NULL

    with pytest.raises(sa.exc.IntegrityError):
        transaction(engine, work, retry=somebody_was_first, sleep=lambda seconds: None)
    assert len(runs) == 1


@pytest.mark.parametrize(("sqlstate", "due"), [("23505", True), ("40001", True), ("23502", False), ("23514", False)])
def test_what_of_postgresql_is_a_duplicate(sqlstate: str, due: bool) -> None:
    cause = type("Cause", (Exception,), {"sqlstate": sqlstate})("in the words of the server's language")
    assert somebody_was_first(sa.exc.IntegrityError("INSERT", {}, cause)) is due


def test_a_foreign_key_that_names_no_row_has_three_attempts(engine: sa.Engine) -> None:
    runs: list[int] = []

    def work(session: orm.Session) -> None:
        runs.append(1)
        raise sa.exc.IntegrityError("INSERT", {}, type("Cause", (Exception,), {"sqlstate": "23503"})())

    with pytest.raises(sa.exc.IntegrityError):
        transaction(engine, work, sleep=lambda seconds: None)
    assert len(runs) == 3


def test_an_exception_of_the_work_rolls_back(engine: sa.Engine) -> None:
    with pytest.raises(KeyError):
        transaction(engine, lambda session: {}[take(session)])
    assert taken(engine) == 0


def test_work_that_inserts_what_is_missing_finds_it_in_its_second_run(engine: sa.Engine) -> None:
    other = once(lambda: transaction(engine, lambda session: session.add(Seat(id=2, guest="Ada"))))

    def guest_of_two(session: orm.Session) -> str | None:
        seat = session.get(Seat, 2)
        if seat is None:
            other()
            seat = Seat(id=2, guest="Bob")
            session.add(seat)
        return seat.guest

    found = transaction(engine, guest_of_two, retry=somebody_was_first)
    assert found == "Ada"


def free_for_others() -> bool:
    """Whether another thread could run a second attempt now."""
    found: list[bool] = []

    def look() -> None:
        found.append(SECOND_ATTEMPTS.acquire(blocking=False))
        if found[0]:
            SECOND_ATTEMPTS.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_second_attempts_run_one_at_a_time(engine: sa.Engine) -> None:
    seen: list[bool] = []
    other = once(lambda: transaction(engine, take))

    def work(session: orm.Session) -> None:
        seen.append(free_for_others())
        take(session, other)

    transaction(engine, work)
    assert [*seen, free_for_others()] == [True, False, True]


def test_duckdb_notices_a_second_insert_at_the_commit(tmp_path: Path) -> None:
    engine = engine_for("duckdb", tmp_path)
    Base.metadata.create_all(engine)
    other = once(lambda: transaction(engine, lambda session: session.add(Seat(id=2))))
    runs: list[int] = []

    def work(session: orm.Session) -> None:
        runs.append(1)
        session.execute(sa.insert(Seat).values(id=2))
        other()

    with pytest.raises(sa.exc.IntegrityError):
        transaction(engine, work)
    assert len(runs) == 2, "the second run finds the row and raises the error that the caller should see"


def test_what_is_returned_can_be_read_after_the_commit(engine: sa.Engine) -> None:
    assert transaction(engine, lambda session: session.get_one(Seat, 1)).taken == 0


@pytest.mark.parametrize(
    ("sqlstate", "due"), [("40001", True), ("40P01", True), ("23503", True), ("23505", False), ("08006", False)]
)
def test_the_codes_of_postgresql(sqlstate: str, due: bool) -> None:
    cause = type("Cause", (Exception,), {"sqlstate": sqlstate})("could not serialize")
    assert is_conflict(sa.exc.OperationalError("UPDATE", {}, cause)) is due


def test_pauses_grow_to_a_limit_and_are_drawn_at_random(engine: sa.Engine) -> None:
    pauses: list[float] = []
    cause = type("Cause", (Exception,), {"sqlstate": "40001"})()

    def work(session: orm.Session) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, cause)

    with pytest.raises(sa.exc.OperationalError):
        transaction(engine, work, sleep=pauses.append)
    assert len(pauses) == ATTEMPTS - 1
    assert all(0 <= pause <= longest_pause(n) <= LONGEST_PAUSE for n, pause in enumerate(pauses))
    assert len(set(pauses)) > ATTEMPTS // 2


def test_no_attempt_and_unknown_databases_are_refused(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        transaction(engine, take, attempts=0)
    with pytest.raises(ValueError, match="mysql"):
        notice_conflicts(sa.create_mock_engine("mysql://", lambda *_: None))  # type: ignore[arg-type]
