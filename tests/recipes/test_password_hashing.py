"""What the recipe promises, with customers of a shop on SQLite. Needs pytest, hypothesis, fastapi, httpx."""

import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import argon2
import pytest
import sqlalchemy as sa
from fastapi import Body, FastAPI, HTTPException
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.auth.password_hashing import (
    ARGON2,
    CORES,
    HASHING_TURN,
    LONGEST,
    NOBODY,
    Verdict,
    check_password,
    hash_password,
    is_of,
    replace_hash,
    report_unreadable,
)

PASSWORD = "correct horse battery staple"
BCRYPT = "$2b$04$vB4Wmbdt8KjRzPEjzGMwkO5MzrqOd0JRZwr3sXGBsqgKmNZ/t9mC6"
BCRYPT_72 = "$2b$04$KA9FlE3gul3/evc45c6RUu7P4LkJ4bS3cG.RR.GSJ9M1QgskC4LFy"  # of 72 times x
DJANGO = "pbkdf2_sha256$1000$seasalt1234567890abcdef$L2Lb9Vlw8HjirWYE1xoNExMcpcZAGf0VvTKcsUa4gns="
DJANGO_SHA1 = "pbkdf2_sha1$1000$seasalt1234567890abcdef$XV+HENGIM5XARZEuTcy4JasY8AA="
BETTER_AUTH = (
    "4212ccd4eec87ffc99af41f5f7a0f7be:52732efc06fe92cf6a934330089c6c1e307df27f7101b4d9ddbdf5eada3aed16"
    "bf147b7f26a971e6078d914ec3385fc7a995cabb2660eb2cce7363a4843e4cba"
)
WEAKER = "$argon2id$v=19$m=19456,t=1,p=1$c2l4dGVlbiBieXRlcyEhIQ$TkKsU3/SnLFBWRj9AKadHhoO2jOvM1lk+y6UxcArWNY"
CURRENT = "$argon2id$v=19$m=19456,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$sJ/UyrNCFp6Wf2JThYKStJ8RlSwiwr8dbkZqEAoJRhg"
STRONGER = "$argon2id$v=19$m=47104,t=2,p=1$c2l4dGVlbiBieXRlcyEhIQ$ybzeeR4O/gDQp9RsNkKEhGqKeTJD25zsFLYOwH2RXP0"
any_text = st.text(max_size=40)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}")
    Base.metadata.create_all(made)
    with Session(made) as session, session.begin():
        session.add(Customer(id=1, email="ada@example.com", password_hash=BCRYPT))
        session.add(Customer(id=2, email="bob@example.com", password_hash=BCRYPT))
    yield made
    made.dispose()


def stored(engine: sa.Engine, customer: int = 1) -> Any:
    with Session(engine) as session:
        return session.get_one(Customer, customer).password_hash


def shop(engine: sa.Engine) -> FastAPI:
    app = FastAPI()

    @app.post("/sign-in", dependencies=[HASHING_TURN])
    def sign_in(email: str = Body(), password: str = Body()) -> None:
        with Session(engine) as session:
            customer = session.scalar(select(Customer).where(Customer.email == email))
        stored = customer.password_hash if customer else None
        verdict = check_password(password, stored)
        if not verdict:
            raise HTTPException(401, "wrong address or password")
        if verdict.outdated:
            new = hash_password(password)
            mine = update(Customer).where(Customer.id == customer.id)
            with Session(engine) as session, session.begin():
                replace_hash(session, mine, Customer.password_hash, stored, new)

    return app


def test_a_hash_is_argon2id_with_owasp_s_parameters_at_least_and_a_salt_of_its_own() -> None:
    made = argon2.extract_parameters(hash_password(PASSWORD))
    assert made.type is argon2.Type.ID
    assert made.memory_cost >= 19_456
    assert made.time_cost >= 2
    assert made.salt_len >= 16
    assert made.hash_len >= 32
    assert hash_password(PASSWORD) != hash_password(PASSWORD)


@pytest.mark.parametrize("hashed", [CURRENT, STRONGER])
def test_a_current_or_stronger_hash_matches_and_stays(hashed: str) -> None:
    assert check_password(PASSWORD, hashed) == Verdict(True, False)
    for near in (PASSWORD.upper(), PASSWORD + " ", PASSWORD[:-1], PASSWORD + "\0", ""):
        assert check_password(near, hashed) == Verdict(False, False)


@pytest.mark.parametrize("hashed", [BETTER_AUTH, BCRYPT, BCRYPT.replace("$2b", "$2y"), DJANGO, DJANGO_SHA1, WEAKER])
def test_a_foreign_or_weaker_hash_matches_and_is_outdated(hashed: str) -> None:
    assert check_password(PASSWORD, hashed) == Verdict(True, True)
    assert check_password("a guess", hashed) == Verdict(False, False)


def test_bcrypt_s_72_bytes_end_with_the_new_hash() -> None:
    assert check_password("x" * 72 + "tail", BCRYPT_72) == Verdict(True, True)
    assert not check_password("x" * 72, hash_password("x" * 72 + "tail"))


@settings(max_examples=15, deadline=None)
@given(any_text)
def test_any_text_is_a_password_however_it_is_typed(password: str) -> None:
    made = hash_password(password)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert check_password(unicodedata.normalize(form, password), made) == Verdict(True, False)


@settings(max_examples=50, deadline=None)
@given(st.one_of(any_text, st.sampled_from([CURRENT, BCRYPT, DJANGO]).map(lambda text: text[:-1] + "\n")))
def test_what_is_no_hash_matches_nothing_and_raises_nothing(text: str) -> None:
    assert check_password(PASSWORD, text) == Verdict(False, False)


@pytest.mark.parametrize(
    "hostile",
    [
        CURRENT.replace("m=19456", "m=4194304"),
        CURRENT.replace("t=2", "t=999999999"),
        CURRENT.replace("p=1", "p=64"),
        CURRENT.replace("t=2", "t=0"),
        BCRYPT.replace("$04", "$31"),
        DJANGO.replace("$1000", "$999999999"),
        DJANGO.replace("$1000", "$0"),
        "x" * 1_000_000,
    ],
)
def test_a_hostile_hash_is_not_obeyed(hostile: str, computed: list[str]) -> None:
    assert check_password(PASSWORD, hostile) == Verdict(False, False)
    assert computed.pop() == NOBODY, "it costs what an unknown user costs"


class Watched:
    """In the place of the hasher: says what was computed, how much at a time, and can be held."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.go_on, self.lock, self.inside = threading.Event(), threading.Lock(), threading.Semaphore(0)
        self.now = self.most = 0
        self.go_on.set()

    def verify(self, hashed: str, password: bytes) -> bool:
        with self.lock:
            self.computed.append(hashed)
            self.now += 1
            self.most = max(self.most, self.now)
        self.inside.release()
        self.go_on.wait(30)
        with self.lock:
            self.now -= 1
        return ARGON2.verify(hashed, password) if hashed else True

    def hash(self, password: bytes) -> str:
        self.verify("", password)
        return CURRENT


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    made = Watched()
    monkeypatch.setitem(is_of.__globals__, "ARGON2", made)
    return made


@pytest.fixture
def computed(watched: Watched) -> list[str]:
    return watched.computed


def test_an_unknown_user_costs_one_hash_with_the_same_parameters(computed: list[str]) -> None:
    assert check_password("a guess", None) == Verdict(False, False)
    assert check_password("a guess", CURRENT) == Verdict(False, False)
    unknown, known = map(argon2.extract_parameters, computed)
    assert unknown == known


@pytest.mark.parametrize("long", ["½" * 5_000_000, "a" * (LONGEST + 1), "\u0301\u0316" * 100_000])
def test_a_very_long_password_is_neither_normalized_nor_hashed(
    long: str, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    normalized: list[str] = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: normalized.append(text) or text)
    with pytest.raises(ValueError, match="at most"):
        hash_password(long)
    for hashed in (None, CURRENT, BETTER_AUTH, BCRYPT, DJANGO, "?"):
        assert check_password(long, hashed) == Verdict(False, False)
    assert computed == normalized == []


def test_no_more_hashes_at_a_time_than_cores(watched: Watched) -> None:
    watched.go_on.clear()
    with ThreadPoolExecutor(CORES + 9) as threads:
        calls = [threads.submit(hash_password, PASSWORD) for _ in range(CORES + 9)]
        for _ in range(CORES):
            assert watched.inside.acquire(timeout=30)
        assert not watched.inside.acquire(timeout=0.1), "one more has begun"
        watched.go_on.set()
        assert [call.result(30) for call in calls] == [CURRENT] * (CORES + 9)
    assert watched.most == CORES


def test_what_cannot_be_read_is_reported_once_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    report_unreadable.cache_clear()
    for _ in range(3):
        check_password("a guess", "hunter2 hunter2")
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "hunter2" not in caplog.text


def test_a_sign_in_replaces_the_hash_of_one_row(engine: sa.Engine) -> None:
    with TestClient(shop(engine)) as client:
        for password, status in ((PASSWORD, 200), ("a guess", 401), (PASSWORD, 200)):
            sent = {"email": "ada@example.com", "password": password}
            assert client.post("/sign-in", json=sent).status_code == status
        assert client.post("/sign-in", json=sent | {"email": "eve@example.com"}).status_code == 401
    assert check_password(PASSWORD, stored(engine)) == Verdict(True, False)
    assert stored(engine, 2) == BCRYPT


def test_a_replacement_does_not_undo_a_change(engine: sa.Engine) -> None:
    mine = sa.update(Customer).where(Customer.id == 1)
    with engine.begin() as connection:
        assert replace_hash(connection, mine, Customer.password_hash, BCRYPT, "the changed one")
        assert not replace_hash(connection, mine, Customer.password_hash, BCRYPT, "the old one")
    assert stored(engine) == "the changed one"
    assert stored(engine, 2) == BCRYPT
