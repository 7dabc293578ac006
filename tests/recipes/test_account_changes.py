"""What the recipe promises, in a shop on SQLite with integer ids. Needs pytest and sqlalchemy, nothing else."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from playbook.auth.account_changes import (
    APPROVE,
    PROVE,
    Step,
    Yours,
    approve_change,
    change_password,
    finish_change,
    is_proven,
    start_change,
)
from playbook.auth.mailed_links import links, new_link

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
ADA, NEW = "ada@example.com", "ada@new.example"
Session: Any = sessionmaker()


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]


class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


@pytest.fixture(autouse=True)
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/shop.sqlite", connect_args={"timeout": 60})
    Session.configure(bind=made)
    Base.metadata.create_all(made)
    links.metadata.create_all(made)
    with Session.begin() as session:
        for number, name in enumerate(("ada", "bob"), 1):
            session.add(Customer(id=number, email=f"{name}@example.com", password_hash="old"))
            session.add(Visit(customer=str(number)))
    yield made
    made.dispose()


def hold(session, customer_id):
    customer = session.get(Customer, int(customer_id), with_for_update=True)
    return None if customer is None else customer.email


def find_customer(session: Any, email: str) -> Any:
    return session.scalar(select(Customer.id).where(Customer.email == email))


def set_address(session, customer_id, new):
    session.get(Customer, int(customer_id)).email = new
    session.flush()  # a taken address is refused here


yours = Yours(hold, find_customer, set_address)


def prove(token, now):
    try:
        with Session.begin() as session:
            return finish_change(session, token, now, yours)
    except IntegrityError:
        return None  # somebody was quicker with this address


def start(new: str = NEW, user_id: str = "1", now: datetime = NOW, own: Yours = yours, **more: Any) -> Any:
    with Session.begin() as session:
        return start_change(session, user_id, new, now, own, **more)


def approve(token: str | None, now: datetime = NOW, own: Yours = yours, **more: Any) -> Any:
    with Session.begin() as session:
        return approve_change(session, token or "", now, own, **more)


def asked(new: str = NEW, user_id: str = "1", own: Yours = yours) -> str:
    """The token in the new mailbox, after the old one has agreed."""
    return str(approve(start(new, user_id, own=own).token, own=own).token)


def email(number: int = 1) -> str:
    with Session.begin() as session:
        return str(session.scalar(select(Customer.email).where(Customer.id == number)))


def purposes(user_id: str = "1") -> list[str]:
    with Session.begin() as session:
        return sorted(session.scalars(select(links.c.purpose).where(links.c.user_id == user_id)))


def test_the_address_is_unchanged_after_each_step_but_the_last() -> None:
    asked_old = start()
    assert (asked_old.old, asked_old.new, email()) == (ADA, NEW, ADA)
    asked_new = approve(asked_old.token)
    assert (asked_new.old, asked_new.new, email()) == (ADA, NEW, ADA)
    assert asked_new.token != asked_old.token
    assert prove(asked_new.token, NOW) == Step(ADA, NEW)
    assert (email(), email(2), purposes()) == (NEW, "bob@example.com", [])


def test_no_step_takes_the_link_of_another_or_the_same_link_twice() -> None:
    first = start().token
    assert prove(first, NOW) is None, "the old mailbox alone"
    second = approve(first).token
    assert approve(first) is None
    assert approve(second) is None
    assert prove(second, NOW) is not None
    assert prove(second, NOW) is None
    for token in ("", "made up"):
        assert approve(token) is None
        assert prove(token, NOW) is None
    assert email() == NEW


@pytest.mark.parametrize(("after", "works"), [(HOUR - SECOND, True), (HOUR, False)])
@pytest.mark.parametrize("own", [yours, Yours(hold, find_customer, set_address, 2 * HOUR)])
def test_each_link_has_its_time(after: timedelta, works: bool, own: Yours) -> None:
    works = works or own.lifetime > HOUR
    assert (approve(start(own=own).token, NOW + after, own) is not None) == works
    token = asked(own=own)
    with Session.begin() as session:
        assert (finish_change(session, token, NOW + after, own) is not None) == works
    assert (email() == NEW) == works


def test_a_new_request_ends_the_older_one_of_the_same_user_only() -> None:
    proof, bobs = asked(), start("bob@new.example", "2").token
    newer = start("ada@third.example")
    assert prove(proof, NOW) is None
    older = newer.token
    newest = start("ada@fourth.example")
    assert approve(older) is None
    assert approve(newest.token).new == "ada@fourth.example"
    assert approve(bobs).new == "bob@new.example"


def test_whose_address_it_is_hears_nothing_and_no_link_is_made() -> None:
    step = approve(start("bob@example.com").token)
    assert step == Step(ADA, "bob@example.com", None)
    assert (purposes(), email()) == ([], ADA)


def test_an_address_that_is_taken_after_the_approval_is_refused_and_nothing_changes() -> None:
    token = asked()
    with Session.begin() as session:
        session.get(Customer, 2).email = NEW
    assert prove(token, NOW) is None
    assert (email(), purposes()) == (ADA, [PROVE]), "it was undone"


def test_of_two_who_prove_one_address_at_once_one_has_it() -> None:
    tokens = [asked("team@example.com", user_id) for user_id in ("1", "2")] * 10
    gate = threading.Barrier(len(tokens))

    def use(token: str) -> bool:
        gate.wait(60)
        return prove(token, NOW) is not None

    with ThreadPoolExecutor(len(tokens)) as threads:
        assert list(threads.map(use, tokens)).count(True) == 1
    assert [email(1), email(2)].count("team@example.com") == 1


def test_a_change_ends_all_links_of_the_user_and_no_others() -> None:
    with Session.begin() as session:
        for user_id in ("1", "2"):
            new_link(session, "reset-password", user_id, "x@example.com", NOW, HOUR)
    assert prove(asked(), NOW) is not None
    assert (purposes("1"), purposes("2")) == ([], ["reset-password"])


def test_an_account_that_is_gone_changes_nothing() -> None:
    first, second = start().token, asked("bob@new.example", "2")
    with Session.begin() as session:
        session.execute(sa.delete(Customer))
    assert [start(), approve(first), prove(second, NOW)] == [None, None, None]


def test_an_address_that_was_never_proven_need_not_be_asked() -> None:
    with Session.begin() as session:
        step = start_change(session, "1", NEW, NOW, yours)
        assert step is not None
        step = approve_change(session, step.token or "", NOW, yours)
        assert step is not None
    assert purposes() == [PROVE]
    assert prove(step.token, NOW) == Step(ADA, NEW)


def test_the_row_of_the_user_is_held_before_anything_is_written() -> None:
    """Of a request and a click at the same moment, one comes after the other."""
    done: list[str] = []

    def holding(session: Any, customer_id: str) -> str | None:
        done.append(str(session.scalar(select(sa.func.count()).select_from(links).where(links.c.purpose == PROVE))))
        return hold(session, customer_id)

    own = Yours(holding, find_customer, set_address)
    proof = asked(own=own)
    start(own=own)
    assert done == ["0", "0", "1"], "an older request ends only then"
    assert prove(proof, NOW) is None


@pytest.mark.parametrize(
    ("ago", "password", "proven"),
    [
        (timedelta(minutes=10) - SECOND, None, True),
        (timedelta(minutes=10), None, False),
        (timedelta(days=20), "old", True),
        (timedelta(0), "a guess", False),
        (timedelta(0), "", False),
    ],
)
def test_the_password_or_a_recent_sign_in_proves(ago: timedelta, password: str | None, proven: bool) -> None:
    assert is_proven(NOW - ago, NOW, password, lambda given: given == "old") is proven


def change(old: str, new: str) -> bool:
    def replace(session: Any) -> bool:
        mine = sa.update(Customer).where(Customer.id == 1, Customer.password_hash == old)
        return bool(session.execute(mine.values(password_hash=new)).rowcount)

    def end_visits(session: Any, customer_id: str) -> None:
        session.execute(sa.delete(Visit).where(Visit.customer == customer_id))

    with Session.begin() as session:
        return change_password(session, "1", replace, end_visits)


def state() -> tuple[Any, ...]:
    with Session.begin() as session:
        return session.get(Customer, 1).password_hash, sorted(session.scalars(select(Visit.customer))), purposes()


def test_a_new_password_ends_sessions_changes_and_resets_and_nothing_else() -> None:
    with Session.begin() as session:
        for purpose in (APPROVE, PROVE, "reset-password", "verify-email"):
            for user_id in ("1", "2"):
                new_link(session, purpose, user_id, "x@example.com", NOW, HOUR)
    assert change("old", "new")
    assert state() == ("new", ["2"], ["verify-email"])
    assert len(purposes("2")) == 4


def test_a_password_that_was_changed_meanwhile_is_kept_and_nothing_ends() -> None:
    token = asked()
    assert not change("of before", "new")
    assert state() == ("old", ["1", "2"], [PROVE])
    assert prove(token, NOW) is not None


def test_the_table_holds_nothing_that_changes_an_address() -> None:
    first = start().token
    second = approve(first).token
    with Session.begin() as session:
        rows = str(session.execute(select(links)).all())
    assert first not in rows
    assert second not in rows


def test_a_table_of_the_project_serves_with_columns_of_its_own(engine: sa.Engine) -> None:
    columns = [sa.Column(column.name, column.type) for column in links.c]
    mine = sa.Table("my_links", sa.MetaData(), *columns, sa.Column("asked_from", sa.String))
    mine.create(engine)
    own = Yours(hold, find_customer, set_address, HOUR, mine)
    first = start(own=own, asked_from="192.0.2.1", make_token=lambda: "first")
    second = approve(first.token, own=own, asked_from="192.0.2.2", make_token=lambda: "second")
    assert (first.token, second.token) == ("first", "second")
    with Session.begin() as session:
        assert session.scalars(select(mine.c.asked_from)).all() == ["192.0.2.2"]
        assert finish_change(session, "second", NOW, yours) is None, "another table"
        assert finish_change(session, "second", NOW, own) == Step(ADA, NEW)
        assert session.execute(select(mine)).all() == []
    assert purposes() == []
