"""The code in *Take it with you* of the page second_factor, run in a project with users of its own."""

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from playbook.auth.mailed_links import find_link, links, new_link, take_link
from playbook.auth.second_factor import enrol, has_second_factor, hotp, second_factors, step_of, use_code
from playbook.auth.throttling import Allowance, Timestamp, spend, throttles
from playbook.exercises.auth.second_factor import attack
from playbook.foundations.transactions import transaction
from playbook.kit.course import Course

NINE, STEP = datetime(2026, 11, 2, 9, 0, tzinfo=UTC), timedelta(seconds=30)
KEYS = [secrets.token_bytes(32)]


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    email: orm.Mapped[str]


class Login(Base):
    __tablename__ = "logins"
    token: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    user_id: orm.Mapped[str]
    proven_at: orm.Mapped[datetime | None] = orm.mapped_column(Timestamp)


def start(db: Session, user_id: str, proven_at: datetime | None) -> str:
    assert isinstance(user_id, str), "the column is a text, and PostgreSQL compares no text with a number"
    login = Login(token=f"session {secrets.token_hex(8)}", user_id=user_id, proven_at=proven_at)
    db.add(login)
    db.flush()
    return login.token


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What the page shows, executed."""
    page = next(page for page in Course().playbooks if page.name == "second_factor")
    [code] = re.findall(r"```python\n(GUESSES = .*?)```", page.text.read_text(encoding="utf-8"), re.DOTALL)
    names = {
        "Session": Session, "User": User, "Login": Login, "datetime": datetime, "timedelta": timedelta, "KEYS": KEYS,
        "has_second_factor": has_second_factor, "use_code": use_code, "start": start, "new_link": new_link,
        "find_link": find_link, "take_link": take_link, "Allowance": Allowance, "spend": spend,
    }  # fmt: skip
    exec(code, names)
    return names


@pytest.fixture(autouse=True)
def engine(shown: dict[str, Any]) -> Iterator[None]:
    """Where guesses are counted, whatever becomes of the transaction."""
    shown["ENGINE"] = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    throttles.create(shown["ENGINE"])
    yield
    shown["ENGINE"].dispose()


@pytest.fixture
def db() -> Iterator[Session]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    for metadata in (Base.metadata, links.metadata, second_factors.metadata):
        metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(User(id=7, email="ada@example.com"))
        yield session


def sessions(db: Session) -> list[datetime | None]:
    return list(db.scalars(sa.select(Login.proven_at)))


def test_no_session_begins_between_the_steps(shown: dict[str, Any], db: Session) -> None:
    ada = db.get(User, 7)
    secret = enrol(db, "7", KEYS)
    assert secret is not None
    [(kind, token)] = shown["password_is_right"](db, ada, NINE).items()
    assert kind == "session", "it does not count yet"
    assert token.startswith("session")
    assert use_code(db, "7", hotp(secret, step_of(NINE)), NINE, KEYS, first=True)
    later = NINE + STEP
    [(kind, token)] = shown["password_is_right"](db, ada, NINE).items()
    assert kind == "next"
    assert sessions(db) == [None]
    assert shown["code_is_sent"](db, token, "123", later) is None
    assert shown["code_is_sent"](db, "another token", hotp(secret, step_of(later)), later) is None
    assert shown["code_is_sent"](db, token, hotp(secret, step_of(later)), later).startswith("session")
    assert sessions(db) == [None, later]
    assert shown["code_is_sent"](db, token, hotp(secret, step_of(later) + 1), later + STEP) is None
    late = shown["password_is_right"](db, ada, later)["next"]
    much_later = later + timedelta(minutes=10)
    assert shown["code_is_sent"](db, late, hotp(secret, step_of(much_later)), much_later) is None
    assert sessions(db) == [None, later]


KEY = '("second factor", "ada")'  # by what the page's shop counts guesses


@pytest.mark.parametrize(
    ("counted", "compared"),
    [
        (KEY, "20 compared"),
        ('("second factor", "ada", shop.network)', "50 compared"),  # a botnet has many networks
    ],
)
def test_a_shop_that_counts_guesses_by_network_is_found_out(counted: str, compared: str) -> None:
    """The page's own `sign_in`, and what it must not be: then the page's assertion about guesses is red."""
    source = next(page for page in Course().playbooks if page.name == "second_factor").source
    [stage] = re.findall(r"^(GUESSES = .*?)^# %%$", source, re.DOTALL | re.MULTILINE)
    assert stage.count(KEY) == 1
    names: dict[str, Any] = {"Allowance": Allowance, "timedelta": timedelta, "spend": spend, "use_code": use_code}
    names["transaction"] = transaction
    exec(stage.replace(KEY, counted), names)
    found = attack(names["sign_in"], names["reset"])
    assert found["guesses"] == compared
    assert (f'assert heard["guesses"] == "{compared}", "guesses are not counted"' in source) is (counted == KEY)


def test_a_code_of_long_ago_switches_nothing_off(shown: dict[str, Any]) -> None:
    login = Login(token="t", user_id="ada", proven_at=NINE)
    minutes = (0, 9, 10)
    asked = [shown["may_switch_off"](login, NINE + timedelta(minutes=each)) for each in minutes]
    assert asked == [True, True, False]
    assert shown["may_switch_off"](Login(token="t", user_id="ada", proven_at=None), NINE) is False, "it gave no code"


def test_an_account_has_twenty_guesses_and_then_one_an_hour(shown: dict[str, Any], db: Session) -> None:
    """Wherever they come from, and whichever password was typed before."""
    secret = enrol(db, "7", KEYS)
    assert secret is not None
    assert use_code(db, "7", hotp(secret, step_of(NINE)), NINE, KEYS, first=True)
    user, at = db.get(User, 7), NINE + STEP
    good = hotp(secret, step_of(at))
    for _ in range(20):
        assert shown["code_is_sent"](db, shown["password_is_right"](db, user, at)["next"], "123", at) is None
    assert shown["code_is_sent"](db, shown["password_is_right"](db, user, at)["next"], good, at) is None, "the 21st"
    at += timedelta(hours=1)
    good = hotp(secret, step_of(at))
    assert shown["code_is_sent"](db, shown["password_is_right"](db, user, at)["next"], good, at).startswith("session")
