"""A code works once, whoever sends it at once; the table alone opens nothing. Needs pytest and an engine.

On PostgreSQL the UPDATE waits for the other one and looks again, also at READ COMMITTED.
"""

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from cryptography.fernet import InvalidToken
from sqlalchemy import orm

from playbook.auth.second_factor import (
    LIFETIME,
    app_uri,
    box_of,
    code_hash,
    enrol,
    has_second_factor,
    hotp,
    matching_step,
    new_recovery_codes,
    recovery_codes,
    second_factors,
    step_of,
    use_code,
    use_recovery_code,
)

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
NINE = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
STEP = timedelta(seconds=30)
KEYS = [b"a key of the tests, 32 octets long"]


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[request.param])
    url = f"{request.param}:///{tmp_path}/shop.db{ALONE[request.param]}"
    engine = sa.create_engine(url, poolclass=sa.QueuePool, pool_timeout=60)
    second_factors.metadata.create_all(engine)
    yield engine
    engine.dispose()


def enrolled(db: sa.Connection, user: Any = "ada", **tables: Any) -> bytes:
    """The secret of a user with a second factor that counts."""
    secret = enrol(db, user, KEYS, **tables)
    assert secret is not None
    assert use_code(db, user, hotp(secret, step_of(NINE) - 1), NINE - STEP, KEYS, first=True, **tables)
    return secret


def read_secret(db: sa.Connection, user: Any, keys: list[bytes], table: sa.Table = second_factors) -> bytes | None:
    sealed = db.scalar(sa.select(table.c.sealed_secret).where(table.c.user_id == user))
    return box_of(keys, user).decrypt(sealed) if sealed else None


def remove(db: sa.Connection, user: Any, *tables: sa.Table) -> None:
    for table in tables or (second_factors, recovery_codes):
        db.execute(table.delete().where(table.c.user_id == user))


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def tried(engine: sa.Engine, work: Callable[[sa.Connection], bool]) -> bool:
    """`work` in one transaction; a conflict is a failed attempt, as it is for a service that does not retry."""
    try:
        with engine.begin() as db:
            return work(db)
    except sa.exc.DBAPIError as error:
        if "onflict" not in str(error) and "locked" not in str(error):
            raise
        return False


# ---------------------------------------------------------------- the standards' own numbers


def test_the_codes_are_rfc_4226s() -> None:
    codes = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
    assert [hotp(b"12345678901234567890", counter) for counter in range(10)] == codes


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"), (1234567890, "89005924"),
     (2000000000, "69279037"), (20000000000, "65353130")],
)  # fmt: skip
def test_the_steps_are_rfc_6238s(seconds: int, code: str) -> None:
    """The RFC prints eight digits of the same number."""
    assert hotp(b"12345678901234567890", step_of(datetime.fromtimestamp(seconds, UTC))) == code[-6:]


def test_an_app_reads_secret_and_names() -> None:
    uri = urlsplit(app_uri(b"12345678901234567890", "The Shop: 1", "ada+x@example.com"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert uri.path == "/The%20Shop%3A%201:ada%2Bx%40example.com"
    query = parse_qs(uri.query)
    assert query["issuer"] == ["The Shop: 1"]
    assert query["period"] == ["30"]
    assert query["digits"] == ["6"]
    assert base64.b32decode(query["secret"][0]) == b"12345678901234567890"


# ---------------------------------------------------------------- once


@pytest.mark.parametrize("lifetime", [30, 31, 40, 60])
def test_a_code_is_good_for_its_lifetime(lifetime: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried at each half second. 30 is what is shipped, and all that ASVS 6.5.5 allows; 60 is the most of RFC 6238."""
    assert LIFETIME == 30
    monkeypatch.setitem(matching_step.__globals__, "LIFETIME", lifetime)
    secret, step = b"12345678901234567890", step_of(NINE)
    moments = [number / 2 for number in range(-200, 201)]
    said = [matching_step(secret, hotp(secret, step), NINE + timedelta(seconds=at)) for at in moments]
    assert said == [step if 0 <= at < lifetime else None for at in moments]


def test_what_is_no_code_is_refused(engine: sa.Engine) -> None:
    typed = ["", "12345", "1234567", "abcdef", "\ud800", "0" * 100_000, "١٢٣٤٥٦"]
    with engine.begin() as db:
        enrolled(db)
        assert not [text for text in typed if use_code(db, "ada", text, NINE, KEYS)]
        assert not [text for text in typed if use_recovery_code(db, "ada", text)]


def test_spaces_that_the_app_shows_do_not_matter(engine: sa.Engine) -> None:
    with engine.begin() as db:
        code = hotp(enrolled(db), step_of(NINE))
        assert use_code(db, "ada", f" {code[:3]} {code[3:]}\n", NINE, KEYS)


def test_a_code_and_all_older_ones_are_used_up(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matching_step.__globals__, "LIFETIME", 60)  # so that only its age refuses the older one
    with engine.begin() as db:
        secret = enrolled(db)
        now, older = (hotp(secret, step_of(NINE) + n) for n in (2, 1))
        later = NINE + 2 * STEP
        assert matching_step(secret, older, later) == step_of(NINE) + 1
        assert use_code(db, "ada", now, later, KEYS)
        assert not use_code(db, "ada", now, later, KEYS)
        assert not use_code(db, "ada", older, later, KEYS), "somebody has looked over her shoulder before"
        assert use_code(db, "ada", hotp(secret, step_of(NINE) + 3), later + STEP, KEYS)


def test_of_fifty_at_once_one_succeeds(engine: sa.Engine) -> None:
    with engine.begin() as db:
        code = hotp(enrolled(db), step_of(NINE))
        recovery = new_recovery_codes(db, "ada")[3]
    assert sum(at_once(50, lambda _: tried(engine, lambda db: use_code(db, "ada", code, NINE, KEYS)))) == 1
    assert sum(at_once(50, lambda _: tried(engine, lambda db: use_recovery_code(db, "ada", recovery)))) == 1


def test_a_code_is_not_used_up_when_the_transaction_fails(engine: sa.Engine) -> None:
    with engine.begin() as db:
        code = hotp(enrolled(db), step_of(NINE))
    with engine.connect() as db:
        assert use_code(db, "ada", code, NINE, KEYS)
        db.rollback()
        assert use_code(db, "ada", code, NINE, KEYS)


@pytest.mark.parametrize("seed", range(2))
def test_it_is_as_the_model_says(engine: sa.Engine, seed: int) -> None:
    """The model: a code is good when its step is now, and later than each that was used."""
    random, now, last, good = Random(seed), NINE, step_of(NINE) - 1, 0
    with engine.begin() as db:
        secret = enrolled(db)
        for _ in range(60):
            now += timedelta(seconds=random.choice([0, 1, 10, 29, 31]))
            step = step_of(now) + random.choice([-2, -1, 0, 0, 0, 1])
            expected = step == step_of(now) and step > last
            assert use_code(db, "ada", hotp(secret, step), now, KEYS) is expected
            last = step if expected else last
            good += expected
    assert 5 < good < 55


# ---------------------------------------------------------------- enrolment


def test_a_secret_counts_after_its_first_code(engine: sa.Engine) -> None:
    with engine.begin() as db:
        old, secret = enrol(db, "ada", KEYS), enrol(db, "ada", KEYS)
        assert old is not None
        assert secret is not None
        assert not has_second_factor(db, "ada")
        good = hotp(secret, step_of(NINE))
        assert not use_code(db, "ada", good, NINE, KEYS), "a sign-in must not confirm what its owner never saw"
        assert not use_code(db, "ada", hotp(old, step_of(NINE)), NINE, KEYS, first=True)
        assert use_code(db, "ada", good, NINE, KEYS, first=True)
        assert has_second_factor(db, "ada")
        assert not use_code(db, "ada", good, NINE, KEYS), "the first code is used up as well"
        later = NINE + STEP
        assert not use_code(db, "ada", hotp(secret, step_of(later)), later, KEYS, first=True)
        assert enrol(db, "ada", KEYS) is None
        assert read_secret(db, "ada", KEYS) == secret


def test_users_do_not_share_anything(engine: sa.Engine) -> None:
    with engine.begin() as db:
        secret, other = enrolled(db), enrolled(db, "bob")
        mine, _ = new_recovery_codes(db, "ada"), new_recovery_codes(db, "bob")
        assert secret != other
        assert not use_code(db, "bob", hotp(secret, step_of(NINE)), NINE, KEYS)
        assert not use_recovery_code(db, "bob", mine[0])
        remove(db, "ada")
        assert not has_second_factor(db, "ada")
        assert not use_recovery_code(db, "ada", mine[0])
        assert not use_code(db, "ada", hotp(secret, step_of(NINE)), NINE, KEYS)
        assert use_code(db, "bob", hotp(other, step_of(NINE)), NINE, KEYS)
        assert len(db.execute(sa.select(recovery_codes)).all()) == 10
        assert enrol(db, "ada", KEYS) is not None


# ---------------------------------------------------------------- the table


def test_the_table_alone_makes_no_code(engine: sa.Engine) -> None:
    with engine.begin() as db:
        secret, codes = enrolled(db), new_recovery_codes(db, "ada")
        rows = [*db.execute(sa.select(second_factors)).one(), *db.scalars(sa.select(recovery_codes.c.code_hash))]
        everything = " ".join(map(str, rows))
        forms = [base64.b32encode(secret).decode(), base64.b64encode(secret).decode(), secret.hex(), *codes]
        assert not [form for form in forms if form in everything]
        with pytest.raises(InvalidToken):
            read_secret(db, "ada", [b"another key, which is as long as it"])


def test_a_row_that_is_copied_to_another_user_opens_nothing(engine: sa.Engine) -> None:
    with engine.begin() as db:
        enrolled(db, "mallory")
        enrolled(db)
        hers = sa.select(second_factors.c.sealed_secret).where(second_factors.c.user_id == "mallory")
        mine = second_factors.c.user_id == "ada"
        db.execute(second_factors.update().where(mine).values(sealed_secret=db.scalar(hers)))
        with pytest.raises(InvalidToken):
            use_code(db, "ada", "123456", NINE, KEYS)


def test_a_key_can_be_replaced(engine: sa.Engine) -> None:
    keys = [b"a new key, which is also 32 octets", *KEYS]
    with engine.begin() as db:
        secret = enrolled(db)
        assert read_secret(db, "ada", keys) == secret
        assert enrol(db, "bob", keys) == read_secret(db, "bob", keys[:1])


# ---------------------------------------------------------------- recovery codes


def test_recovery_codes_are_random_and_work_once(engine: sa.Engine) -> None:
    with engine.begin() as db:
        enrolled(db)
        codes = new_recovery_codes(db, "ada")
        assert len(set(codes)) == 10
        assert all(len(code_letters(code)) == 24 for code in codes), "120 bits, so that a fast hash is enough"
        assert use_recovery_code(db, "ada", codes[0].lower().replace("-", " "))
        assert not use_recovery_code(db, "ada", codes[0])
        newer = new_recovery_codes(db, "ada", count=3)
        assert not use_recovery_code(db, "ada", codes[1])
        assert [use_recovery_code(db, "ada", code) for code in newer] == [True] * 3
        assert not use_recovery_code(db, "ada", "")


def code_letters(code: str) -> str:
    letters = code.replace("-", "")
    assert set(letters) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    return letters


def test_how_a_recovery_code_is_typed_does_not_matter() -> None:
    assert code_hash("ABCD-2345") == code_hash(" abcd 2345 ") != code_hash("ABCD-2346")


# ---------------------------------------------------------------- a table of one's own


class Base(orm.DeclarativeBase):
    pass


class Authenticator(Base):
    __tablename__ = "authenticators"
    user_id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    sealed_secret: orm.Mapped[str]
    confirmed: orm.Mapped[bool]
    last_step: orm.Mapped[int] = orm.mapped_column(sa.BigInteger)


class Spare(Base):
    __tablename__ = "spares"
    code_hash: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    user_id: orm.Mapped[int] = orm.mapped_column(index=True)


def test_any_tables_with_these_columns_serve(engine: sa.Engine) -> None:
    table: Any = Authenticator.__table__
    spares: Any = Spare.__table__
    Base.metadata.create_all(engine)
    with engine.begin() as db:
        secret = enrolled(db, 7, table=table)
        assert has_second_factor(db, 7, table)
        assert use_code(db, 7, hotp(secret, step_of(NINE)), NINE, KEYS, table=table)
        [code] = new_recovery_codes(db, 7, 1, spares)
        assert use_recovery_code(db, 7, code, spares)
        remove(db, 7, table, spares)
        assert read_secret(db, 7, KEYS, table) is None
