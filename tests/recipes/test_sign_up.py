"""What the recipe promises, in a club on SQLite with integer ids. Needs pytest and sqlalchemy, nothing else."""

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

from playbook.auth.mailed_links import links, new_link, take_link
from playbook.auth.sign_up import SIGN_UP, find_sign_up, finish_sign_up, start_sign_up

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Session: Any = sessionmaker()


class Base(DeclarativeBase):
    pass


class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]


@pytest.fixture(autouse=True)
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/club.sqlite", connect_args={"timeout": 60})
    Session.configure(bind=made)
    Base.metadata.create_all(made)
    links.metadata.create_all(made)
    with Session.begin() as session:
        session.add(Member(email="bob@example.com", name="Bob", password_hash="-"))
    yield made
    made.dispose()


def hash_password(password: str) -> str:
    return f"the hash of {password}"


def find_member(session, email):
    member_id = session.scalar(select(Member.id).where(Member.email == email))
    return None if member_id is None else str(member_id)


def transact(work):
    with Session.begin() as session:
        return work(session)


def join(token, name, password, now):
    if transact(lambda session: find_sign_up(session, token, now)) is None:
        return None
    password_hash = hash_password(password)  # outside of a transaction: it is slow

    def add_member(session, email):
        member = Member(email=email, name=name, password_hash=password_hash)
        session.add(member)
        session.flush()  # now the member has its id
        return member.id

    return finish_sign_up(transact, token, now, find_member, add_member)


def asked(email: str = "ada@example.com", **options: Any) -> Any:
    return transact(lambda session: start_sign_up(session, email, NOW, find_member, **options))


def members() -> list[tuple[str, str]]:
    with Session.begin() as session:
        return sorted((one.email, one.password_hash) for one in session.scalars(select(Member)))


BOB = ("bob@example.com", "-")


def test_nothing_exists_before_the_click_and_the_password_is_that_of_who_clicked() -> None:
    asked()  # Mallory's
    token = asked()
    assert members() == [BOB]
    assert join(token, "Ada", "own", NOW) == 2
    assert members() == [("ada@example.com", "the hash of own"), BOB]


def test_a_link_is_used_once_and_no_other_link_of_the_address_after_it() -> None:
    first, second = asked(), asked()
    assert [join(token, "Ada", "own", NOW) for token in (second, second, first)] == [2, None, None]


def test_a_new_link_does_not_end_the_older_one() -> None:
    older = asked()
    asked()
    assert join(older, "Ada", "own", NOW) is not None


def test_the_owner_of_an_account_gets_no_link_and_nothing_changes() -> None:
    assert asked("bob@example.com") is None
    with Session.begin() as session:
        [row] = session.execute(select(links)).all()
    assert (row.user_id, row.email) == ("1", "bob@example.com")
    assert row.purpose != SIGN_UP
    assert members() == [BOB]


def test_the_row_of_a_taken_address_opens_nothing() -> None:
    made: list[str] = []

    def make_token() -> str:
        made.append(f"token {len(made)}")
        return made[-1]

    assert asked("bob@example.com", make_token=make_token) is None
    assert made == ["token 0"]
    assert join("token 0", "Mallory", "x", NOW) is None


def test_both_kinds_of_addresses_cost_the_same_statements(engine: sa.Engine) -> None:
    ran: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *event: ran.append(event[2]))
    asked("bob@example.com")
    known = list(ran)
    ran.clear()
    asked("carol@example.com")
    assert known == ran
    assert [sql.split()[0] for sql in ran] == ["SELECT", "INSERT"]


@pytest.mark.parametrize(("lifetime", "after", "works"), [(HOUR, HOUR - timedelta(seconds=1), True),
                                                          (HOUR, HOUR, False), (2 * HOUR, HOUR, True)])  # fmt: skip
def test_a_link_has_its_time(lifetime: timedelta, after: timedelta, works: bool) -> None:
    token = asked(lifetime=lifetime)

    def add(session: Any, email: str) -> str:
        return "added"

    assert (transact(lambda session: find_sign_up(session, token, NOW + after)) is not None) == works
    assert (finish_sign_up(transact, token, NOW + after, find_member, add) == "added") == works


def test_a_link_lasts_an_hour_unless_the_project_says_otherwise() -> None:
    token = asked()
    link = transact(lambda session: find_sign_up(session, token, NOW))
    assert link.expires_at == NOW + HOUR


def test_a_link_of_another_purpose_lets_nobody_join() -> None:
    token = transact(lambda session: new_link(session, "confirm", None, "ada@example.com", NOW, HOUR))
    assert join(token, "Ada", "own", NOW) is None
    token = asked()
    assert transact(lambda session: take_link(session, token, "confirm", NOW)) is None


def test_looking_uses_nothing_up() -> None:
    token = asked()
    for _ in range(3):
        assert transact(lambda session: find_sign_up(session, token, NOW)).email == "ada@example.com"
    assert join(token, "Ada", "own", NOW) is not None


def test_of_fifty_links_used_at_once_one_succeeds_and_it_is_its_password() -> None:
    tokens, gate = [asked() for _ in range(25)] * 2, threading.Barrier(16)

    def use(number: int) -> Any:
        if number < 16:
            gate.wait(60)
        return join(tokens[number], "Ada", f"password {number}", NOW)

    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(use, range(50)))
    [winner] = [number for number, member_id in enumerate(done) if member_id is not None]
    assert members() == [("ada@example.com", f"the hash of password {winner}"), BOB]


def test_who_loses_the_race_after_the_look_hears_that_the_link_is_no_more() -> None:
    """Another request commits between the look of this one and its INSERT."""
    token, other = asked(), asked()
    looked: list[str] = []

    def find_and_be_late(session: Any, email: str) -> Any:
        found = find_member(session, email)
        if not looked:
            looked.append(email)
            session.rollback()  # SQLite has one writer: let the other one write
            assert join(other, "Ada", "the other's", NOW) is not None
        return found

    def add(session: Any, email: str) -> Any:
        session.execute(sa.insert(Member).values(email=email, name="Ada", password_hash="late"))
        return "added"

    def loosely(work: Any) -> Any:
        with Session() as session:
            result = work(session)
            session.commit()
            return result

    assert finish_sign_up(loosely, token, NOW, find_and_be_late, add) is None
    assert looked == ["ada@example.com"]
    assert members() == [("ada@example.com", "the hash of the other's"), BOB]


def test_what_the_project_raises_undoes_everything_and_is_raised() -> None:
    token = asked()

    def fail(session: Any, email: str) -> Any:
        session.add(Member(email=email, name="Ada", password_hash="x"))
        session.flush()
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        finish_sign_up(transact, token, NOW, find_member, fail)
    assert members() == [BOB]
    assert join(token, "Ada", "own", NOW) is not None


def test_an_error_of_the_database_that_stays_is_raised() -> None:
    token, calls = asked(), []

    def fail(session: Any, email: str) -> Any:
        calls.append(email)
        raise sa.exc.OperationalError("INSERT", {}, Exception("the disk is full"))

    with pytest.raises(sa.exc.OperationalError):
        finish_sign_up(transact, token, NOW, find_member, fail)
    assert len(calls) == 2


def test_a_table_of_the_project_serves_with_columns_of_its_own(engine: sa.Engine) -> None:
    columns = [sa.Column(column.name, column.type) for column in links.c]
    mine = sa.Table("my_links", sa.MetaData(), *columns, sa.Column("campaign", sa.String))
    mine.create(engine)
    token = asked(table=mine, campaign="winter")
    assert transact(lambda session: find_sign_up(session, token, NOW)) is None
    assert transact(lambda session: find_sign_up(session, token, NOW, mine)).campaign == "winter"
    assert finish_sign_up(transact, token, NOW, find_member, lambda session, email: email, mine) == "ada@example.com"
