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
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from playbook.auth.mailed_links import links, new_link
from playbook.auth.password_reset import RESET, find_reset, finish_reset, start_reset

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD = "the hash of the old password"
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
            session.add(Customer(id=number, email=f"{name}@example.com", password_hash=OLD))
            session.add(Visit(customer=str(number)))
    yield made
    made.dispose()


def hash_password(password: str) -> str:
    return f"the hash of {password}"


def end_sessions(session: Any, customer_id: str) -> None:
    session.execute(sa.delete(Visit).where(Visit.customer == customer_id))


def find_customer(session, email):
    customer = session.scalar(select(Customer).where(Customer.email == email))
    return None if customer is None else str(customer.id)


def set_password(session, customer_id, email, password_hash):
    customer = session.get(Customer, int(customer_id), with_for_update=True)
    if customer is None or customer.email != email:
        return False
    customer.password_hash = password_hash
    return True


def reset(token, password, now):
    with Session.begin() as session:
        if find_reset(session, token, now) is None:
            return False
    own = (hash_password(password), now, set_password, end_sessions)
    with Session.begin() as session:
        return finish_reset(session, token, *own) is not None


def asked(email: str = "ada@example.com", now: datetime = NOW, **options: Any) -> Any:
    with Session.begin() as session:
        return start_reset(session, email, now, find_customer, **options)


def stored(name: str = "ada") -> str:
    with Session.begin() as session:
        return str(session.scalar(select(Customer.password_hash).where(Customer.email == f"{name}@example.com")))


def visits() -> list[str]:
    with Session.begin() as session:
        return sorted(session.scalars(select(Visit.customer)))


def test_the_new_password_is_set_once_and_the_sessions_of_the_user_end() -> None:
    token = asked()
    assert [reset(token, "new", NOW), reset(token, "again", NOW)] == [True, False]
    assert (stored(), stored("bob"), visits()) == ("the hash of new", OLD, ["2"])


def test_nobody_gets_a_link_for_an_address_that_nobody_has() -> None:
    assert asked("nobody@example.com") is None
    with Session.begin() as session:
        assert session.execute(select(links)).all() == []


def test_of_fifty_at_once_one_succeeds_and_it_is_its_password() -> None:
    token, gate = asked(), threading.Barrier(16)

    def use(number: int) -> bool:
        if number < 16:
            gate.wait(60)
        return bool(reset(token, f"password {number}", NOW))

    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(use, range(50)))
    assert done.count(True) == 1
    assert stored() == f"the hash of password {done.index(True)}"


@pytest.mark.parametrize(("lifetime", "after", "works"), [(HOUR, HOUR - timedelta(seconds=1), True),
                                                          (HOUR, HOUR, False), (2 * HOUR, HOUR, True)])  # fmt: skip
def test_a_link_has_its_time(lifetime: timedelta, after: timedelta, works: bool) -> None:
    token = asked(lifetime=lifetime)
    with Session.begin() as session:
        assert (find_reset(session, token, NOW + after) is not None) == works
        own = ("x", NOW + after, set_password, end_sessions)
        assert (finish_reset(session, token, *own) is not None) == works
    assert (stored() == "x") == works


def test_a_link_lasts_an_hour_unless_the_project_says_otherwise() -> None:
    token = asked()
    with Session.begin() as session:
        link = find_reset(session, token, NOW)
        assert link is not None
        assert link.expires_at == NOW + HOUR


def test_a_new_link_ends_older_ones_of_the_same_user_only() -> None:
    older, bobs, newer = asked(), asked("bob@example.com"), asked()
    assert [reset(token, "new", NOW) for token in (older, bobs, newer)] == [False, True, True]


def test_asking_keeps_links_of_other_purposes_and_finishing_ends_them() -> None:
    with Session.begin() as session:
        other = new_link(session, "change-email", "1", "mallory@evil.example", NOW, HOUR)
    token = asked()

    def purposes() -> list[str]:
        with Session.begin() as session:
            return sorted(session.scalars(select(links.c.purpose)))

    assert purposes() == ["change-email", RESET]
    assert not reset(other, "new", NOW), "a link of another purpose"
    assert reset(token, "new", NOW)
    assert purposes() == []


def test_looking_uses_nothing_up() -> None:
    token = asked()
    with Session.begin() as session:
        found = [find_reset(session, token, NOW) for _ in range(3)]
        assert {link and (link.user_id, link.email) for link in found} == {("1", "ada@example.com")}
        assert find_reset(session, "made up", NOW) is None
    assert reset(token, "new", NOW)


@pytest.mark.parametrize("change", [{"email": "ada@new.example"}, None])
def test_a_link_does_not_open_an_account_that_has_another_address_or_is_gone(change: Any) -> None:
    token = asked()
    with Session.begin() as session:
        ada = session.get(Customer, 1)
        if change is None:
            session.delete(ada)
        else:
            ada.email = change["email"]
    assert not reset(token, "new", NOW)
    assert visits() == ["1", "2"], "no session ends when nothing was set"


def test_what_the_project_raises_undoes_everything() -> None:
    token = asked()

    def fail(session: Any, customer_id: str) -> None:
        raise RuntimeError("the sessions are elsewhere")

    with pytest.raises(RuntimeError), Session.begin() as session:
        finish_reset(session, token, "x", NOW, set_password, fail)
    assert (stored(), reset(token, "new", NOW), stored()) == (OLD, True, "the hash of new")


def test_the_table_holds_nothing_that_opens_the_account() -> None:
    token = asked()
    with Session.begin() as session:
        assert token not in str(session.execute(select(links)).all())


def test_a_table_of_the_project_serves_with_columns_of_its_own(engine: sa.Engine) -> None:
    columns = [sa.Column(column.name, column.type) for column in links.c]
    mine = sa.Table("my_links", sa.MetaData(), *columns, sa.Column("asked_from", sa.String))
    mine.create(engine)
    token = asked(table=mine, asked_from="192.0.2.1", make_token=lambda: "chosen")
    assert token == "chosen"
    with Session.begin() as session:
        assert find_reset(session, token, NOW) is None
        link = find_reset(session, token, NOW, mine)
        assert link is not None
        assert link.asked_from == "192.0.2.1"
        done = finish_reset(session, token, "x", NOW, set_password, end_sessions, mine)
        assert done is not None
        assert done.email == "ada@example.com"
        assert session.execute(select(mine)).all() == []
    assert stored() == "x"
