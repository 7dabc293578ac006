# %% [markdown]
"""
# Password hashing

Keep passwords so that a stolen table does no harm.

| | |
|---|---|
| **Use it when** | people sign in with a password, or old hashes have to be taken over |
| **You need** | [identity](../schema/identity.ipynb) |
| **Time** | 20 minutes |
| **Topics** | password hashing, argon2id, bcrypt, scrypt, PBKDF2, MD5, salt |
| **Standard** | NIST SP 800-63B-4 3.1.1; OWASP ASVS 5.0 6.2 |
"""

# %% tags=["export"]
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import argon2

MEMORY = 19_456  # KiB. OWASP Password Storage Cheat Sheet: 19 MiB with 2 passes, or 46 MiB with 1
PASSES = 2
LANES = 1
LONGEST = 4_096  # code points, as received: a longer password is never looked at
CORES = (
    len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count() or 1
)
HASHERS = ThreadPoolExecutor(CORES, "hasher")
ARGON2 = argon2.PasswordHasher(PASSES, MEMORY, LANES)


def as_received(password: str) -> bytes:
    return password.encode(
        "utf-8", "surrogatepass"
    )  # what JSON can carry, any str, must not raise


def normal(password: str) -> bytes:
    """`password` in the form that is hashed. On one keyboard ä is a character, on another a followed by dots."""
    return as_received(unicodedata.normalize("NFKC", password))


def hash_password(password: str) -> str:
    """An argon2id hash of `password` in the PHC format (RFC 9106). Takes some 30 ms of a core: not in a transaction.

    Raises ValueError, before any work, for more than LONGEST code points.
    """
    if len(password) > LONGEST:
        raise ValueError(f"a password of more than {LONGEST} characters is not hashed")
    return HASHERS.submit(lambda: ARGON2.hash(normal(password))).result()


# %% [markdown]
"""
NIST's last revision says NFC; Better Auth's hashes are of NFKC, so NFKC it is: a password typed either way matches.

An imported hash says itself how it is verified. bcrypt and PBKDF2 were made of what was received, unnormalized. bcrypt
saw 72 bytes at most; version 5 of the package raises an error for more, so we cut where the old system did. The first
sign-in replaces such a hash by one of the whole password.

A stored hash is input: an import file that asks for 4 GiB must not be obeyed. Each limit is about a second.
"""

# %% tags=["export"]
import base64
import hashlib
import hmac
import re

import bcrypt
from argon2.exceptions import Argon2Error, VerifyMismatchError


def afford(asked: int, limit: int) -> int:
    if asked > limit:
        raise ValueError("this stored hash asks for more work than a sign-in may cost")
    return asked


def verify_argon2id(password: str, stored: re.Match[str]) -> bool:
    memory, passes, lanes = (int(number) for number in stored.groups())
    afford(memory, 2**18)
    afford(memory * passes, 2**20)
    afford(lanes, 16)
    try:
        return ARGON2.verify(stored[0], normal(password))
    except VerifyMismatchError:
        return False


def verify_better_auth(password: str, stored: re.Match[str]) -> bool:
    salt, key = (
        stored.groups()
    )  # the salt is the hex text itself, not the bytes it stands for
    made = hashlib.scrypt(
        normal(password),
        salt=salt.encode(),
        n=16_384,
        r=16,
        p=1,
        maxmem=2**26,
        dklen=64,
    )
    return hmac.compare_digest(made.hex(), key)


# %% tags=["export"]
def verify_bcrypt(password: str, stored: re.Match[str]) -> bool:
    afford(int(stored[1]), 14)
    return bcrypt.checkpw(as_received(password)[:72], stored[0].encode())


def verify_pbkdf2(password: str, stored: re.Match[str]) -> bool:
    digest, iterations, salt, key = stored.groups()
    made = hashlib.pbkdf2_hmac(
        digest, as_received(password), salt.encode(), afford(int(iterations), 4_000_000)
    )
    return hmac.compare_digest(base64.b64encode(made).decode(), key)


ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,9})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,86}"
)
FORMATS = {
    ARGON2ID: verify_argon2id,
    re.compile(r"([0-9a-f]{32}):([0-9a-f]{128})"): verify_better_auth,
    re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}"): verify_bcrypt,
    # Django's, salted with text
    re.compile(
        r"pbkdf2_(sha1|sha256)\$([1-9][0-9]{0,8})\$([!-#%-~]{1,128})\$([A-Za-z0-9+/]{27,43}=)"
    ): verify_pbkdf2,
}


def format_of(stored: str) -> re.Match[str] | None:
    """`stored` taken apart, when it is a hash in a known format."""
    return next((match for form in FORMATS if (match := form.fullmatch(stored))), None)


# %% [markdown]
"""
Where nobody has the address, the answer must take as long as where somebody has it, or the delay tells who has
an account. So an unknown user is checked against a hash that nobody's password has. A hash that cannot be read costs
the same, is no match, and is reported once: without its text, which may be somebody's password, imported by mistake.
"""

# %% tags=["export"]
import functools
import logging
from contextlib import suppress
from dataclasses import dataclass

log = logging.getLogger("pantry.passwords")
NOBODY = f"$argon2id$v=19$m={MEMORY},t={PASSES},p={LANES}${'A' * 22}${'A' * 43}"  # salt and hash all zero


def is_of(password: str, found: re.Match[str] | None) -> bool | None:
    """Whether the hash `found` is of `password`. None, after the work of one hash, when it cannot be read."""
    if found:
        with suppress(
            ValueError, Argon2Error
        ):  # a known format with impossible contents
            return FORMATS[found.re](password, found)
    with suppress(VerifyMismatchError):
        ARGON2.verify(NOBODY, normal(password))
    return None


@dataclass(frozen=True)
class Verdict:
    """`matches`: it is the password. `outdated`: it is, and should now be hashed again and stored."""

    matches: bool
    outdated: bool

    def __bool__(self) -> bool:
        return self.matches


@functools.lru_cache(maxsize=1024)
def report_unreadable(stored: str) -> None:
    log.error(
        "a stored password hash of %d characters cannot be read: nobody can sign in with it",
        len(stored),
    )


def is_weak(stored: re.Match[str]) -> bool:
    """Whether a hash in another format, or of less memory or fewer passes, is due to be replaced."""
    return (
        stored.re is not ARGON2ID or int(stored[1]) < MEMORY or int(stored[2]) < PASSES
    )


# %% tags=["export"]
def check_password(password: str, stored: str | None) -> Verdict:
    """Whether `stored` is a hash of `password`: argon2id, Better Auth's scrypt, bcrypt, or PBKDF2 as Django writes it.

    None, for a user who does not exist, takes as long as a current hash and never matches. Raises nothing: a hash that
    cannot be read is reported to the log and does not match; nor does a password of more than LONGEST code points.
    """
    if len(password) > LONGEST:
        return Verdict(False, False)
    found = format_of(stored or "")
    matches = HASHERS.submit(is_of, password, found).result()
    if matches is None and stored is not None:
        report_unreadable(stored)
    return Verdict(bool(matches), bool(matches and found and is_weak(found)))


# %% [markdown]
"""
The new hash is stored only where the old one still stands. Otherwise a sign-in that began before a password change
would bring the old password back after it.
"""

# %% tags=["export"]
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import Clock
from playbook.schema.identity import Account


def replace_hash(
    session: orm.Session, clock: Clock, account: UUID, old: str, new: str
) -> bool:
    """Store `new` for the account, unless its hash is no longer `old`. Returns whether it was."""
    mine = sa.update(Account).where(Account.id == account, Account.password_hash == old)
    changed = mine.values(password_hash=new, updated_at=clock.now()).returning(
        Account.id
    )
    return session.scalar(changed) is not None


# %% tags=["export"]
from collections.abc import AsyncIterator

from fastapi import Depends


async def hashing_turn() -> AsyncIterator[None]:
    yield


# The function's scope: the turn ends before the answer is sent, so that a slow reader does not keep it.
HASHING_TURN = Depends(
    hashing_turn, scope="function", max_concurrency=min(4 * CORES, 20)
)

# %% [markdown] tags=["nav"]
"""
"""
