"""Never more than is allowed, whoever asks at once; nobody uses up what is another's. Needs pytest and an engine."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, orm
from sqlalchemy.orm import Session

from playbook.auth.throttling import (
    Allowance,
    forget,
    give_back,
    key_hash,
    network_of,
    purge_throttles,
    spend,
    throttles,
)

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
NINE = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEY = ("sign-in", "ada@example.com", "192.0.2.7")


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[request.param])
    url = f"{request.param}:///{tmp_path}/shop.db{ALONE[request.param]}"
    engine = sa.create_engine(url, poolclass=sa.QueuePool, pool_timeout=60)
    throttles.metadata.create_all(engine)
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    engine.dispose()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def whole_at(engine: sa.Engine, key: tuple[str, ...] = KEY) -> datetime | None:
    with engine.connect() as db:
        return db.scalar(sa.select(throttles.c.whole_at).where(throttles.c.key_hash == key_hash(key)))


@pytest.mark.parametrize("burst", [1, 5, 1000])
def test_fifty_at_once_get_what_is_allowed(engine: sa.Engine, burst: int) -> None:
    allowance = Allowance(burst, MINUTE)
    waits = at_once(50, lambda number: spend(engine, allowance, KEY, NINE))
    granted = min(burst, 50)
    assert sorted(waits) == [0] * granted + [60] * (50 - granted)
    assert whole_at(engine) == NINE + granted * MINUTE


def test_two_processes_share_it(engine: sa.Engine) -> None:
    if engine.dialect.name == "duckdb":
        pytest.skip("a DuckDB file has one process")
    other = sa.create_engine(engine.url)
    allowance = Allowance(5, MINUTE)
    waits = at_once(50, lambda number: spend([engine, other][number % 2], allowance, KEY, NINE))
    assert sorted(waits) == [0] * 5 + [60] * 45
    other.dispose()


@pytest.mark.parametrize("seed", range(8))
def test_it_is_a_bucket_that_fills_again(engine: sa.Engine, seed: int) -> None:
    """The model: `burst` tokens, one more each `every`, never more than `burst`; an attempt takes one if there."""
    chance = Random(seed)
    allowance = Allowance(chance.randint(1, 5), timedelta(milliseconds=chance.choice([1, 250, 1500, 60_000])))
    tokens, now = Fraction(allowance.burst), NINE + timedelta(microseconds=chance.randrange(10**6))
    for _ in range(60):
        step = chance.choice(["try", "try", "try", "right", "pause"])
        if step == "pause":
            pause = allowance.every * chance.choice([0.25, 0.5, 1, 3, 20])
            pause -= pause % timedelta(milliseconds=1)
            now += pause
            gained = Fraction(pause // timedelta(milliseconds=1), allowance.every // timedelta(milliseconds=1))
            tokens = min(Fraction(allowance.burst), tokens + gained)
            continue
        granted = spend(engine, allowance, KEY, now) == 0
        assert granted == (tokens >= 1)
        tokens -= granted
        if step == "right" and granted:
            with engine.begin() as db:
                give_back(db, allowance, KEY)
            tokens += 1


def test_the_wait_is_long_enough_and_not_a_second_longer(engine: sa.Engine) -> None:
    allowance = Allowance(2, timedelta(seconds=90))
    assert [spend(engine, allowance, KEY, NINE) for _ in range(3)] == [0, 0, 90]
    later = NINE + timedelta(seconds=29.5)
    wait = spend(engine, allowance, KEY, later)
    assert wait == 61
    assert spend(engine, allowance, KEY, later + timedelta(seconds=wait - 1)) == 1
    assert spend(engine, allowance, KEY, later + timedelta(seconds=wait)) == 0


def test_a_refusal_uses_nothing_up(engine: sa.Engine) -> None:
    allowance = Allowance(1, MINUTE)
    spend(engine, allowance, KEY, NINE)
    before = whole_at(engine)
    assert {spend(engine, allowance, KEY, NINE) for _ in range(20)} == {60}
    assert whole_at(engine) == before


def test_keys_do_not_meet(engine: sa.Engine) -> None:
    one = Allowance(1, MINUTE)
    keys = [("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""), ("a\0b",), ("a", "b\0")]
    assert [spend(engine, one, key, NINE) for key in keys + keys] == [0] * 7 + [60] * 7
    with engine.begin() as db:
        forget(db, ("a",), ("b", "a"))
    assert [spend(engine, one, key, NINE) for key in keys] == [0, 60, 60, 0, 60, 60, 60]


def test_any_text_makes_a_key_and_none_is_in_the_table(engine: sa.Engine) -> None:
    for text in ("my password", "\ud800", "x" * 100_000, "ä" * 3, ""):
        assert spend(engine, Allowance(1, MINUTE), (text,), NINE) == 0
    with engine.connect() as db:
        hashes = db.scalars(sa.select(throttles.c.key_hash)).all()
    assert len(set(hashes)) == 5
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in hashes)


def test_what_is_given_back_is_never_more_than_the_burst(engine: sa.Engine) -> None:
    five = Allowance(5, MINUTE)
    for _ in range(5):
        with engine.begin() as db:
            give_back(db, five, KEY)  # at first there is no row
        spend(engine, five, KEY, NINE)
        with orm.Session(engine) as session, session.begin():
            give_back(session, five, KEY)
            give_back(session, five, KEY)
    assert [spend(engine, five, KEY, NINE) for _ in range(6)] == [0] * 5 + [60]


def test_what_is_rolled_back_is_not_given_back_and_what_is_spent_stays_spent(engine: sa.Engine) -> None:
    one = Allowance(1, MINUTE)
    assert spend(engine, one, KEY, NINE) == 0
    with engine.connect() as db:
        forget(db, KEY)
        db.rollback()
    assert spend(engine, one, KEY, NINE) == 60


def test_purged_rows_meant_nothing(engine: sa.Engine) -> None:
    five = Allowance(5, MINUTE)
    for key, times in ((KEY, 5), (("other",), 1)):
        for _ in range(times):
            spend(engine, five, key, NINE)
    now = NINE + 2 * MINUTE
    with engine.begin() as db:
        purge_throttles(db, now)
    assert whole_at(engine, ("other",)) is None
    assert [spend(engine, five, KEY, now) for _ in range(3)] == [0, 0, 60]
    assert [spend(engine, five, ("other",), now) for _ in range(6)] == [0] * 5 + [60]


def test_times_need_a_zone(engine: sa.Engine) -> None:
    with pytest.raises((ValueError, sa.exc.StatementError)):
        spend(engine, Allowance(1, MINUTE), KEY, datetime(2026, 11, 2, 9, 0))
    rome = datetime.fromisoformat("2026-11-02T10:00+01:00")
    assert spend(engine, Allowance(1, MINUTE), KEY, rome) == 0
    assert spend(engine, Allowance(1, MINUTE), KEY, NINE) == 60


@pytest.mark.parametrize("values", [(0, MINUTE), (5, timedelta(0)), (5, -MINUTE), (5, timedelta(microseconds=1500))])
def test_an_allowance_that_allows_nothing_is_refused(values: tuple[int, timedelta]) -> None:
    with pytest.raises(ValueError, match="allows nothing"):
        Allowance(*values)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"), ("", ""), ("unix socket", "unix socket"), ("192.0.2.7, 10.0.0.1", "192.0.2.7, 10.0.0.1"),
    ],
)  # fmt: skip
def test_network(address: str, network: str) -> None:
    assert network_of(address) == network


# ---------------------------------------------------------------- the use that the page shows

Base = orm.declarative_base()


class Locker(Base):  # type: ignore[misc, valid-type]
    __tablename__ = "lockers"
    id = sa.Column(sa.Integer, primary_key=True, autoincrement=False)
    pin_hash = sa.Column(sa.String)


def check_password(password: str, stored: str | None) -> bool:
    """The page `password_hashing` has one, which is slow."""
    return stored == f"#{password}"


def opens(engine: Engine, locker_id: int, pin: str, address: str, now: datetime) -> tuple[int, Any]:
    key = ("locker", str(locker_id), network_of(address))
    wait = spend(engine, Allowance(5, timedelta(minutes=1)), key, now)
    if wait:
        return 429, {"Retry-After": str(wait)}
    with Session(engine) as session:
        locker = session.get(Locker, locker_id)
    if not check_password(pin, locker.pin_hash if locker else None):  # slow
        return 401, "wrong locker or PIN"
    with engine.begin() as db:
        forget(db, key)
    return 200, "open"


@pytest.mark.parametrize("locker_id", [7, 8])
def test_a_locker_compares_five_pins_and_says_nothing_of_those_that_do_not_exist(
    engine: sa.Engine, locker_id: int
) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Locker(id=7, pin_hash="#2718"))
    thief, owner = "203.0.113.66", "192.0.2.7"
    heard = at_once(50, lambda number: opens(engine, locker_id, f"{number:04}", thief, NINE))
    assert sorted(status for status, _ in heard) == [401] * 5 + [429] * 45
    assert opens(engine, locker_id, "2718", thief, NINE) == (429, {"Retry-After": "60"})
    once = 200 if locker_id == 7 else 401
    assert [opens(engine, locker_id, "2718", owner, NINE)[0] for _ in range(5)] == [once] * 5
    assert opens(engine, locker_id, "2718", owner, NINE)[0] == (200 if locker_id == 7 else 429)
