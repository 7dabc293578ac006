"""How many guesses are compared, who is kept out, what answers tell, and which session starts. Needs an engine."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, orm, select, update
from sqlalchemy.orm import Session

from playbook.auth.sign_in import (
    KNOWN_FOR,
    PER_ACCOUNT,
    PER_NETWORK,
    Attempt,
    Proven,
    TooManyAttempts,
    WrongPassword,
    enter,
    is_known,
    prove,
    recognize,
)
from playbook.auth.throttling import throttles

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
ADA, HOME, ROAD = "ada@example.com", "192.0.2.7", "198.51.100.9"
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)
Base = orm.declarative_base()


class Customer(Base):  # type: ignore[misc, valid-type]
    __tablename__ = "customers"
    id = sa.Column(sa.Integer, primary_key=True, autoincrement=False)
    email = sa.Column(sa.String)
    password_hash = sa.Column(sa.String)


class Login(Base):  # type: ignore[misc, valid-type]
    __tablename__ = "logins"
    id = sa.Column(sa.Integer, primary_key=True, autoincrement=False)
    customer = sa.Column(sa.Integer)


class Shop:
    """A service as many are: integer ids, an ORM. Its hashes cost nothing and are counted."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
        self.compared: list[str | None] = []
        self.meanwhile: Callable[[], object] = lambda: None
        with orm.Session(engine) as db, db.begin():
            db.add_all([Customer(id=1, email=ADA, password_hash="#right"), Customer(id=2, email="invited@example.com")])

    def check(self, password: str, stored: str | None) -> bool:
        self.compared.append(stored)
        self.meanwhile()
        return stored == f"#{password}"

    def start(self, db: orm.Session, customer: Customer) -> int:
        number = self.logins(db) + 1
        db.add(Login(id=number, customer=customer.id))
        return number

    def logins(self, db: orm.Session) -> int:
        return db.scalar(sa.select(sa.func.count()).select_from(Login)) or 0

    def set_hash(self, value: str) -> None:
        with orm.Session(self.engine) as db, db.begin():
            db.execute(sa.update(Customer).where(Customer.id == 1).values(password_hash=value))
            db.execute(sa.delete(Login))

    def prove(self, password: str, network: str, email: str = ADA) -> Proven:
        return prove(self.engine, Attempt(email, network, self.now), password, find, self.check)

    def sign_in(self, password: str = "right", network: str = HOME, email: str = ADA) -> Any:
        """The number of the new session, or the refusal."""
        try:
            return enter(self.engine, self.prove(password, network, email), keep, self.start)
        except WrongPassword:
            return 401
        except TooManyAttempts as error:
            return 429 if error.args[0] > 0 else "no time to wait"

    def knows(self, network: str) -> bool:
        with orm.Session(self.engine) as db:
            return is_known(db, ADA, network, self.now)


@pytest.fixture(params=["sqlite", "duckdb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[request.param])
    url = f"{request.param}:///{tmp_path}/shop.db{ALONE[request.param]}"
    engine = sa.create_engine(url, poolclass=sa.QueuePool, pool_timeout=60)
    Base.metadata.create_all(engine)
    throttles.metadata.create_all(engine)
    yield Shop(engine)
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    engine.dispose()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_fifty_guesses_at_once_from_one_network_compare_five(shop: Shop) -> None:
    heard = at_once(50, lambda number: shop.sign_in(f"guess {number}"))
    assert sorted(heard) == [401] * 5 + [429] * 45
    assert len(shop.compared) == PER_NETWORK.burst


def test_sixty_guesses_at_once_from_sixty_networks_compare_fifty(shop: Shop) -> None:
    heard = at_once(60, lambda number: shop.sign_in(f"guess {number}", f"10.0.0.{number}"))
    assert sorted(heard) == [401] * 50 + [429] * 10
    assert len(shop.compared) == PER_ACCOUNT.burst


def test_at_most_a_hundred_failures_while_nobody_signs_in(shop: Shop) -> None:
    """NIST SP 800-63B-4, 3.2.2: any number of networks, for fifty weeks."""
    number = 0
    for week in range(50):
        for _ in range(PER_ACCOUNT.burst + 2 if week == 0 else 2):
            number += 1
            shop.sign_in("a guess", f"10.0.{number >> 8}.{number & 255}")
        shop.now += WEEK
    assert 95 <= len(shop.compared) <= 100


def besiege(shop: Shop, count: int = 60) -> None:
    for number in range(count):
        shop.sign_in("a guess", f"10.0.0.{number}")


def test_the_owner_signs_in_from_a_known_network_during_the_attack(shop: Shop) -> None:
    assert shop.sign_in() == 1
    besiege(shop)
    shop.now += KNOWN_FOR - DAY
    besiege(shop)
    assert shop.sign_in(network=ROAD) == 429
    assert shop.sign_in() == 2
    shop.now += KNOWN_FOR - DAY
    assert shop.knows(HOME), "known since the last sign-in, not since the first"
    shop.now += DAY
    assert not shop.knows(HOME)


def test_who_has_reset_the_password_gets_in_and_strangers_notice_nothing(shop: Shop) -> None:
    besiege(shop)
    assert shop.sign_in(network=ROAD) == 429
    with orm.Session(shop.engine) as db, db.begin():
        recognize(db, ADA, ROAD, shop.now)
    assert shop.sign_in("a guess", "10.0.1.1") == 429
    assert shop.sign_in(network=ROAD) == 1
    assert shop.sign_in("a guess", "10.0.1.2") == 429


def test_a_neighbour_in_a_known_network_cannot_guess_without_end(shop: Shop) -> None:
    shop.sign_in()
    shop.compared.clear()
    for _ in range(60):
        shop.now += timedelta(minutes=10)
        shop.sign_in("a guess")
    assert len(shop.compared) == PER_ACCOUNT.burst
    assert shop.sign_in(network=ROAD) == 2, "nor keep the owner out elsewhere"


def test_a_right_password_uses_nothing_up(shop: Shop) -> None:
    assert [shop.sign_in() for _ in range(15)] == list(range(1, 16))
    for _ in range(4):
        assert [shop.sign_in("mistyped") for _ in range(4)] == [401] * 4
        assert shop.sign_in() > 0
    strangers = [shop.sign_in("a guess", f"10.0.0.{number}") for number in range(51)]
    assert strangers == [401] * 50 + [429]


def test_a_password_that_was_right_but_opened_nothing_makes_no_network_known(shop: Shop) -> None:
    shop.prove("right", ROAD)
    assert not shop.knows(ROAD)


@pytest.mark.parametrize("email", ["nobody@example.com", "invited@example.com"])
def test_without_a_password_the_answers_and_the_work_are_the_same(shop: Shop, email: str) -> None:
    networks = [HOME] * 7 + [f"10.0.0.{number}" for number in range(50)]

    def seen(email: str) -> list[Any]:
        statements: list[str] = []
        shop.compared.clear()

        def note(_c: Any, _cursor: Any, sql: str, *_: Any) -> None:
            statements.append(sql)

        sa.event.listen(shop.engine, "before_cursor_execute", note)
        heard = [shop.sign_in("a guess", network, email) for network in networks]
        sa.event.remove(shop.engine, "before_cursor_execute", note)
        return [heard, statements, len(shop.compared)]

    assert seen(ADA) == seen(email)
    assert shop.compared[0] is None, "which `check` compares with a hash that nobody has"


def test_an_account_is_not_disturbed_by_guesses_at_another(shop: Shop) -> None:
    for number in range(60):
        shop.sign_in("a guess", f"10.0.0.{number}", "nobody@example.com")
    assert shop.sign_in(network=ROAD) == 1


def test_a_password_that_is_changed_while_it_is_compared_opens_nothing(shop: Shop) -> None:
    shop.meanwhile = lambda: shop.set_hash("#new")
    assert shop.sign_in() == 401
    with orm.Session(shop.engine) as db:
        assert shop.logins(db) == 0
    assert not shop.knows(HOME)


def test_no_session_of_the_old_password_outlives_a_change_that_is_under_way(shop: Shop) -> None:
    """The change has written and deleted, and has not committed; then the old password signs in."""
    proven = shop.prove("right", HOME)
    written, tried = threading.Event(), threading.Event()

    def change_password() -> None:
        with orm.Session(shop.engine) as db, db.begin():
            change = sa.update(Customer).where(Customer.id == 1).values(password_hash="#new")
            db.execute(change.returning(Customer.id))  # or DuckDB finds no conflict
            db.execute(sa.delete(Login))
            written.set()
            tried.wait(0.5)

    def keep_meanwhile(db: orm.Session, customer: Customer, stored: str) -> bool:
        written.wait(30)
        try:
            return keep(db, customer, stored)
        finally:
            tried.set()

    with ThreadPoolExecutor(1) as threads:
        changing = threads.submit(change_password)
        with pytest.raises(WrongPassword):
            enter(shop.engine, proven, keep_meanwhile, shop.start)
        changing.result()
    with orm.Session(shop.engine) as db:
        assert shop.logins(db) == 0


# ---------------------------------------------------------------- the whole of it, as the page shows it

lifetimes = timedelta(days=30)
started: list[tuple[Any, ...]] = []


def start_session(db: orm.Session, user_id: str, now: datetime, lifetimes: Any, old: str | None) -> str:
    """The page `sessions` has one with these arguments."""
    started.append((user_id, lifetimes, old))
    return "a token"


def normal_email(text: str) -> str:
    """The page `identity` has one."""
    return text.strip().lower()


def check_password(password: str, stored: str | None) -> bool:
    """The page `password_hashing` has one, which is slow."""
    return stored == f"#{password}"


def network_of(address: str) -> str:
    """The page `throttling` has one, which is exact."""
    return address.rpartition("::")[0] or address


def find(db: Session, email: str) -> tuple[Customer, str | None] | None:
    customer = db.scalar(select(Customer).where(Customer.email == email))
    return (customer, customer.password_hash) if customer else None


def keep(db: Session, customer: Customer, stored: str) -> bool:
    mine = [Customer.id == customer.id, Customer.password_hash == stored]
    same = update(Customer).where(*mine).values(password_hash=stored)
    return db.scalar(same.returning(Customer.id)) is not None


def start(db: Session, customer: Customer) -> str:
    return start_session(db, str(customer.id), datetime.now(UTC), lifetimes, old=None)


def sign_in(engine: Engine, email: str, password: str, address: str) -> tuple[int, Any]:
    attempt = Attempt(normal_email(email), network_of(address), datetime.now(UTC))
    try:
        proven = prove(engine, attempt, password, find, check_password)
        return 200, enter(engine, proven, keep, start)
    except TooManyAttempts as refused:
        return 429, {"Retry-After": str(refused.args[0])}
    except WrongPassword:
        return 401, "wrong e-mail address or password"


def test_a_sign_in_starts_a_session(shop: Shop) -> None:
    assert sign_in(shop.engine, " Ada@Example.com", "right", HOME) == (200, "a token")
    assert started.pop() == ("1", lifetimes, None)


def test_a_refused_sign_in_says_why_and_how_long(shop: Shop) -> None:
    for email in (ADA, "nobody@example.com", "invited@example.com"):
        heard = [sign_in(shop.engine, email, "a guess", "2001:db8::1") for _ in range(5)]
        assert heard == [(401, "wrong e-mail address or password")] * 5
        status, headers = sign_in(shop.engine, email, "right", "2001:db8::2")
        assert status == 429
        assert 0 < int(headers["Retry-After"]) <= 60
    assert started == []


def test_what_the_check_said_is_handed_on(shop: Shop) -> None:
    shop.check = lambda password, stored: {"outdated": True}  # type: ignore[assignment, method-assign, return-value]
    proven = shop.prove("right", HOME)
    assert (proven.verdict, proven.user.id, proven.stored) == ({"outdated": True}, 1, "#right")
