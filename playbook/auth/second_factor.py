# %% [markdown]
"""
# Second factor

Build it.
"""

# %% tags=["export"]
import hmac
import struct
from datetime import datetime

STEP = 30  # seconds


def hotp(secret: bytes, counter: int, digits: int = 6) -> str:
    """The code of a counter: HMAC-SHA-1, cut to some digits (RFC 4226, 5.3)."""
    mac = hmac.digest(secret, struct.pack(">Q", counter), "sha1")
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 10**digits:0{digits}}"


def step_of(now: datetime) -> int:
    """The counter that the clock gives: steps of 30 seconds since 1970 (RFC 6238)."""
    return int(now.timestamp()) // STEP


# %% tags=["export"]
def matching_step(secret: bytes, code: str, now: datetime) -> int | None:
    """The step of this code, if it is the present one or the one before; or None."""
    typed = "".join(code.split()).encode("utf-8", "surrogatepass")
    matching = None
    for step in (step_of(now) - 1, step_of(now)):
        if hmac.compare_digest(hotp(secret, step).encode(), typed):
            matching = step
    return matching


# %% tags=["export"]
import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def box_of(keys: Sequence[bytes], user_id: Any) -> MultiFernet:
    """Encrypts with the first key, decrypts with each. Each user has keys of their own.

    They are derived by HKDF (RFC 5869). `keys`: 32 random octets each, in settings.
    """
    info = f"second factor of {user_id}".encode()
    derived = [HKDF(SHA256(), 32, salt=None, info=info).derive(key) for key in keys]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])


def app_uri(secret: bytes, issuer: str, account: str) -> str:
    """What an authenticator app reads, most often from a QR code."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    text = base64.b32encode(secret).decode().rstrip("=")
    query = {"secret": text, "issuer": issuer, "digits": 6, "period": STEP}
    return f"otpauth://totp/{label}?{urlencode(query)}"


# %% tags=["export"]
import secrets
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import orm

Db = sa.Connection | orm.Session
second_factors = sa.Table(
    "second_factors",
    sa.MetaData(),
    sa.Column("user_id", sa.String, primary_key=True),
    sa.Column("sealed_secret", sa.String, nullable=False),
    sa.Column("confirmed", sa.Boolean, nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
)


def enrol(
    db: Db,
    user_id: Any,
    now: datetime,
    keys: Sequence[bytes],
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    table: sa.Table = second_factors,
) -> bytes | None:
    """A new secret, which counts after its first code. None: there is one already."""
    secret = random_bytes(20)
    sealed = box_of(keys, user_id).encrypt(secret).decode()
    before = step_of(now) - 2
    new = {"sealed_secret": sealed, "confirmed": False, "last_step": before}
    waiting = [table.c.user_id == user_id, table.c.confirmed.is_(False)]
    replace = table.update().where(*waiting).values(new).returning(table.c.user_id)
    if db.execute(replace).first() is None:
        if read_secret(db, user_id, keys, table) is not None:
            return None
        db.execute(table.insert().values(user_id=user_id, **new))
    return secret


# %% tags=["export"]
def read_secret(
    db: Db, user_id: Any, keys: Sequence[bytes], table: sa.Table = second_factors
) -> bytes | None:
    """The secret of a user, or None. InvalidToken: it was encrypted with another key."""
    mine = sa.select(table.c.sealed_secret).where(table.c.user_id == user_id)
    sealed = db.scalar(mine)
    return box_of(keys, user_id).decrypt(sealed) if sealed else None


def has_second_factor(db: Db, user_id: Any, table: sa.Table = second_factors) -> bool:
    """Whether a sign-in of this user needs a second factor."""
    mine = [table.c.user_id == user_id, table.c.confirmed.is_(True)]
    return db.scalar(sa.select(table.c.user_id).where(*mine)) is not None


def use_code(
    db: Db,
    user_id: Any,
    code: str,
    now: datetime,
    keys: Sequence[bytes],
    first: bool = False,
    table: sa.Table = second_factors,
) -> bool:
    """Whether the code is right and new. It is used up, and so are all older ones.

    `first`: the code that confirms a new secret; no other one does.
    """
    mine = table.c.user_id == user_id
    sealed = db.scalar(sa.select(table.c.sealed_secret).where(mine))
    if sealed is None:
        return False
    secret = box_of(keys, user_id).decrypt(sealed)
    step = matching_step(secret, code, now)
    if step is None:
        return False
    same = [mine, table.c.sealed_secret == sealed, table.c.confirmed.is_(not first)]
    use = table.update().where(*same, table.c.last_step < step)
    used = use.values(last_step=step, confirmed=True).returning(table.c.user_id)
    return db.execute(used).first() is not None


# %% tags=["export"]
import hashlib
import re

recovery_codes = sa.Table(
    "recovery_codes",
    second_factors.metadata,
    sa.Column("code_hash", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False, index=True),
)


def code_hash(code: str) -> str:
    """SHA-256 of the letters and digits, however the code was typed."""
    typed = re.sub(r"[^A-Z2-7]", "", code.upper())
    return hashlib.sha256(typed.encode()).hexdigest()


def new_recovery_codes(
    db: Db,
    user_id: Any,
    count: int = 10,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    table: sa.Table = recovery_codes,
    factors: sa.Table = second_factors,
) -> list[str]:
    """New codes of 120 random bits, to be shown once. The old ones end."""
    letters = [base64.b32encode(random_bytes(15)).decode() for _ in range(count)]
    codes = ["-".join(re.findall("....", text)) for text in letters]
    # Written first: two requests at once would leave the codes of both.
    hold = factors.update().where(factors.c.user_id == user_id)
    held = hold.values(last_step=factors.c.last_step).returning(factors.c.user_id)
    db.execute(held).all()
    db.execute(table.delete().where(table.c.user_id == user_id))
    rows = [{"code_hash": code_hash(code), "user_id": user_id} for code in codes]
    db.execute(table.insert(), rows)
    return codes


def use_recovery_code(
    db: Db, user_id: Any, code: str, table: sa.Table = recovery_codes
) -> bool:
    """Whether it is one of the user's codes. It is used up by this."""
    mine = [table.c.user_id == user_id, table.c.code_hash == code_hash(code)]
    used = table.delete().where(*mine).returning(table.c.code_hash)
    return db.execute(used).first() is not None


# %% tags=["export"]
from datetime import timedelta


def remove_second_factor(
    db: Db,
    user_id: Any,
    table: sa.Table = second_factors,
    codes: sa.Table = recovery_codes,
) -> None:
    """Back to the password alone."""
    for each in (table, codes):
        db.execute(each.delete().where(each.c.user_id == user_id))


def purge_enrolments(
    db: Db,
    now: datetime,
    table: sa.Table = second_factors,
    codes: sa.Table = recovery_codes,
) -> None:
    """Delete the secrets that were not confirmed within a day, and their codes."""
    old = table.c.last_step < step_of(now - timedelta(days=1))
    db.execute(table.delete().where(table.c.confirmed.is_(False), old))
    theirs = sa.select(table.c.user_id)
    db.execute(codes.delete().where(codes.c.user_id.not_in(theirs)))


def is_fresh(proven_at: datetime | None, now: datetime, within: timedelta) -> bool:
    """Whether the second factor was given lately. None: in this session never."""
    return proven_at is not None and now - proven_at < within
