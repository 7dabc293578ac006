# %% [markdown]
"""
# Password hashing

Store passwords so that a stolen table gives few of them away, and a very long password
stops nobody's work.

| | |
|---|---|
| **Use it when** | people sign in with a password, or old hashes are taken over |
| **You need** | [transactions](../foundations/transactions.ipynb) (*background*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | argon2id, bcrypt, scrypt, PBKDF2, MD5, salt, timing, user enumeration |
| **Standard** | OWASP Password Storage; NIST SP 800-63B-4, 3.1.1; ASVS 5.0, 11.4.2 |

```python
from playbook.auth.password_hashing import check_password, hash_password, replace_hash

verdict = check_password(password, stored)  # stored: None for an unknown user
if verdict.outdated:
    new = hash_password(password)
    replace_hash(db, sa.update(people).where(mine), people.c.hash, stored, new)
```

*Lift: 104 lines in 1 file; needs argon2, bcrypt, fastapi, sqlalchemy.*

## See it break

A **hash** is a short value, made of a text, that cannot be turned back into the text. A
service stores the hash of each password. At a sign-in it hashes what was typed, and
compares. A **salt** is a random text for each account. It is hashed with the password
and stored beside the hash.

Mallory has stolen a table of 1,000 accounts with MD5 hashes. 700 people chose from a
real list of 30,000 common passwords. 300 let a program choose.

The folded cell defines that list as `common`, most common first, and the table in two
versions, `unsalted` and `salted`: each maps a salt to its hashes. It defines `md5`, and
imports `PHRASE`, a password, and what later cells explain: `FOREIGN`, `OF_72_LETTERS`,
`flood`, `hashes_computed`, `most_at_once`, `picture_of_costs`, `lesson_url`,
`on_postgres`, `show`. How many passwords does Mallory's `crack` find in each version?
"""

# %% tags=["stage"]
import hashlib

from playbook.exercises.auth.password_hashing import (
    FOREIGN,
    OF_72_LETTERS,
    PHRASE,
    flood,
    hashes_computed,
    most_at_once,
    people_choose,
    picture_of_costs,
)
from playbook.kit.lesson import lesson_url, on_postgres, serving, show


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


common, chosen = people_choose()
unsalted = {"": [md5(password) for password in chosen]}
salted = {f"{n:03}-": [md5(f"{n:03}-{chosen[n]}")] for n in range(1000)}


# %% tags=["predict"]
def crack(stolen, guesses):
    tried = {md5(salt + guess) for salt in stolen for guess in guesses}
    found = [one for hashes in stolen.values() for one in hashes if one in tried]
    print(f"{len(tried):,} hashes computed, {len(found)} passwords found")


crack(unsalted, common)
crack(salted, common[:100])

# %% [markdown]
"""
Mallory turns no hash back: she hashes guesses. Without a salt she computes the list
once. With salts she computes it once per account; even then 100 guesses find a third of
the people. A graphics card computes billions of MD5 in a second. So a salt is not
enough: the hash is too cheap.

## The decision

| option | good | costs |
|---|---|---|
| SHA-256 with a salt | fast | as fast for a thief |
| PBKDF2, Django's default | FIPS 140, a US standard, allows it | takes no memory |
| bcrypt | everywhere, old | 4 KiB of memory; reads 72 bytes |
| scrypt, Flask's (Werkzeug's) default | takes memory | no standard text format |
| **argon2id** | takes memory and time; says its parameters | compiled code |

We choose **argon2id**. Choose PBKDF2 where FIPS 140 is required. Starlette has nothing.

## Build it

### The idea

Each guess must cost Mallory time **and memory**. A graphics card has thousands of
cores, but not 19 MiB of fast memory for each. A **pass** is one walk through it.
"""

# %% tags=["export"]
import argon2

MEMORY = 19_456  # KiB: OWASP's minimum is 19 MiB with 2 passes, or 46 MiB with 1
PASSES = 2
LANES = 1  # threads for one hash: the other cores have other sign-ins to serve
ARGON2 = argon2.PasswordHasher(PASSES, MEMORY, LANES)

# %%
print(ARGON2.hash(PHRASE)[:30])

# %% [markdown]
"""
The text names the algorithm and its parameters; salt and hash follow. So a stored hash
can be checked after the parameters have changed.

`picture_of_costs` measures hashes here. The black dots are five pairs of
memory and passes that OWASP calls equally good. Do they cost the same time?
"""

# %% tags=["predict", "nbval-ignore-output"]
show(picture_of_costs())

# %% [markdown]
"""
Time grows with memory times passes, and more steeply beyond the processor's caches. So
measure on your servers.

### A password is input

The letter `ä` is one character on one keyboard, and `a` with dots on another. **NFKC**
gives both one form, so a password is normalized before it is hashed.

`flood(sign_up)` serves a route that calls `sign_up(password)`, and sends it `½` 500,000
times: a megabyte, nginx's default limit. It returns the status, the number of
characters normalized, and how many *other* requests were answered meanwhile. What does
it give?
"""

# %% tags=["predict"]
import unicodedata


def naive_sign_up(password):
    ARGON2.hash(unicodedata.normalize("NFKC", password))


print(*flood(naive_sign_up))

# %% [markdown]
"""
Python normalizes with its interpreter lock (GIL) held, so no other thread runs. The
length must be checked first.

The server pays for the memory, too: FastAPI's 40 worker threads would take 760 MiB. So
threads of their own compute the hashes, one per core, and the others wait.
"""

# %% tags=["export"]
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor

LONGEST = 4_096  # code points, as received: a longer password is not looked at
COUNTED = hasattr(os, "sched_getaffinity")  # a container may have fewer cores
CORES = len(os.sched_getaffinity(0)) if COUNTED else os.cpu_count() or 1
HASHERS = ThreadPoolExecutor(CORES, "hasher")


def as_received(password: str) -> bytes:
    """`password` as bytes. What JSON can carry, any str, must not raise."""
    return password.encode("utf-8", "surrogatepass")


def normal(password: str) -> bytes:
    """What is hashed: the same for each way to type the same characters."""
    return as_received(unicodedata.normalize("NFKC", password))


def hash_password(password: str) -> str:
    """An argon2id hash (RFC 9106). Raises ValueError beyond LONGEST."""
    if len(password) > LONGEST:
        raise ValueError(f"a password has at most {LONGEST} characters")
    return HASHERS.submit(lambda: ARGON2.hash(normal(password))).result()


# %%
flooded = flood(hash_password)
at_once = most_at_once(lambda: hash_password(PHRASE), number=CORES + 4)
print(*flooded[:2], "more hashes at once than cores:", at_once > CORES)

# %% [markdown]
"""
### Hashes of other systems

A stored hash says how it was made. It is input, too: an import file may ask for 4 GiB.
So each format has a limit of about a second.
"""

# %% tags=["export"]
import re
from contextlib import suppress

from argon2.exceptions import Argon2Error, VerifyMismatchError

ARGON2ID = re.compile(
    r"(?a)\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})"
    r"\$[\w+/]{11,86}\$[\w+/]{16,86}"
)


def is_argon2id(password: str, stored: re.Match[str]) -> bool:
    """argon2id of any parameters. Raises ValueError for too much work."""
    memory, passes, lanes = map(int, stored.groups())
    if memory > 2**18 or memory * passes > 2**20 or lanes > 16:
        raise ValueError("this stored hash asks for too much work")
    with suppress(VerifyMismatchError):
        return ARGON2.verify(stored[0], normal(password))
    return False


# %% tags=["export"]
import hashlib
import hmac

import bcrypt

SCRYPT = re.compile(r"([0-9a-f]{32}):([0-9a-f]{128})")
BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}")


def is_scrypt(password: str, stored: re.Match[str]) -> bool:
    """Better Auth's scrypt: the salt is the hexadecimal text itself."""
    cost = {"n": 2**14, "r": 16, "p": 1, "maxmem": 2**26, "dklen": 64}
    made = hashlib.scrypt(normal(password), salt=stored[1].encode(), **cost)
    return hmac.compare_digest(made.hex(), stored[2])


def is_bcrypt(password: str, stored: re.Match[str]) -> bool:
    """bcrypt, of what was received; version 5 of the package raises beyond 72 bytes."""
    return bcrypt.checkpw(as_received(password)[:72], stored[0].encode())


# %% [markdown]
"""
`OF_72_LETTERS` is the bcrypt hash of 72 times the letter `x`. Which passwords match?
"""

# %% tags=["predict"]
stored = BCRYPT.fullmatch(OF_72_LETTERS)
print([is_bcrypt("x" * 72 + end, stored) for end in ("", "y", " and a long tail")])

# %% [markdown]
"""
bcrypt never read more. The first sign-in stores a new hash, of all that was typed:
typing errors beyond byte 72, too. A hash is **outdated** if it is foreign, or cheaper
than today's. `FOREIGN` has hashes of `PHRASE` from several systems, and two bad
imports.
"""

# %% tags=["export"]
import base64

DJANGO = r"pbkdf2_(sha1|sha256)\$([1-3]?\d{1,6})\$([!-#%-~]{1,128})\$([\w+/]{27,43}=)"
PBKDF2 = re.compile(DJANGO, re.ASCII)


def is_pbkdf2(password: str, stored: re.Match[str]) -> bool:
    """Django's PBKDF2, of what was received."""
    digest, rounds, salt, key = stored.groups()
    text = as_received(password)
    made = hashlib.pbkdf2_hmac(digest, text, salt.encode(), int(rounds))
    return hmac.compare_digest(base64.b64encode(made).decode(), key)


CHECKS = [is_argon2id, is_scrypt, is_bcrypt, is_pbkdf2]
FORMATS = dict(zip([ARGON2ID, SCRYPT, BCRYPT, PBKDF2], CHECKS, strict=True))


def format_of(stored: str) -> re.Match[str] | None:
    """`stored` taken apart, if it is a hash in a known format."""
    found = (form.fullmatch(stored) for form in FORMATS)
    return next((match for match in found if match), None)


def is_weak(found: re.Match[str]) -> bool:
    """Whether a hash is in another format, or of less memory or fewer passes."""
    return found.re is not ARGON2ID or int(found[1]) < MEMORY or int(found[2]) < PASSES


# %%
print("not recognized:", [name for name in FOREIGN if not format_of(FOREIGN[name])])

# %% [markdown]
"""
### The unknown user

If a service finds no user and answers at once, the missing delay tells Mallory so: a
**timing side channel**. So an unknown user costs one hash, too: that of `NOBODY`, which
no password matches. A stored text that is no hash costs the same. It is reported
without its text, which may be a password.
"""

# %% tags=["export"]
import functools
import logging

log = logging.getLogger(__name__)
NOBODY = f"$argon2id$v=19$m={MEMORY},t={PASSES},p={LANES}${'A' * 22}${'A' * 43}"


@functools.lru_cache(maxsize=1024)
def report_unreadable(stored: str) -> None:
    """Log once that this is no hash."""
    log.error("a stored hash of %d characters cannot be read", len(stored))


def is_of(password: str, found: re.Match[str] | None) -> bool | None:
    """Whether the hash is of `password`. None, after the same work, if unreadable."""
    if found:
        with suppress(ValueError, Argon2Error):  # a known format, impossible contents
            return FORMATS[found.re](password, found)
    with suppress(VerifyMismatchError):
        ARGON2.verify(NOBODY, normal(password))
    return None


# %% [markdown]
"""
`hashes_computed` counts argon2 hashes while a guess is checked for an unknown user, for
a bcrypt hash and for an argon2id hash. What does it count?
"""

# %% tags=["predict"]
found = [None, *(format_of(FOREIGN[name]) for name in ("bcrypt", "argon2id, 19 MiB"))]
works = [hashes_computed(lambda: is_of("a guess", each)) for each in found]
print(works)

# %% [markdown]
"""
A foreign hash costs what its own system takes. Until replaced, its account can be told
from an unknown one.
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """`matches`: it is the password. `outdated`: it is; hash it again, and store it."""

    matches: bool
    outdated: bool

    def __bool__(self) -> bool:
        return self.matches


def check_password(password: str, stored: str | None) -> Verdict:
    """Whether `stored` is a hash of `password`. Raises nothing, whatever both are.

    `stored` is None for a user who does not exist: that takes as long, and never
    matches. Nor does a password of more than LONGEST characters.
    """
    if len(password) > LONGEST:
        return Verdict(False, False)
    found = format_of(stored or "")
    matches = HASHERS.submit(is_of, password, found).result()
    if matches is None and stored is not None:
        report_unreadable(stored)
    outdated = bool(matches and found and is_weak(found))
    return Verdict(bool(matches), outdated)


# %%
for name, stored in FOREIGN.items():
    print(f"{name:19}", check_password(PHRASE, stored))

# %% [markdown]
"""
### In a service

A new hash is computed between two transactions, since that is slow. Meanwhile the
password may be changed. `replace_hash` writes only where the old hash still stands.

Forty sign-ins that wait for a hasher hold all worker threads. A route with HASHING_TURN
waits before it takes one.
"""

# %% tags=["export"]
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa
from fastapi import Depends
from sqlalchemy import orm


def replace_hash(
    db: sa.Connection | orm.Session, mine: sa.Update, column: Any, old: str, new: str
) -> bool:
    """Store `new` in `column` of the row of `mine`, if `old` still stands there."""
    update = mine.where(column == old).values({column: new}).returning(column)
    return db.execute(update).first() is not None


async def hashing_turn() -> AsyncIterator[None]:
    """Nothing: how many requests are past this point is what counts."""
    yield


# Scope "function": the turn ends before the answer is sent to a slow reader.
TURNS = min(4 * CORES, 20)
HASHING_TURN = Depends(hashing_turn, scope="function", max_concurrency=TURNS)

# %% [markdown]
"""
## See it work

Ada's hash is bcrypt's. While her sign-in computes a new hash, she changes her password
in another window.

The folded cell defines `overtaken(url)`, which does so over HTTP. It returns the status
of that sign-in, of one with her old password and of one with her new one. It also
returns whether an undisturbed sign-in replaces the hash. Which password holds?
"""

# %% tags=["stage"]
from fastapi import Body, FastAPI, HTTPException

from playbook.foundations.engines import make_engine

columns = [sa.Column(name, sa.String) for name in ("email", "hash")]
people = sa.Table("people", sa.MetaData(), *columns)


def service(engine, hash_password=hash_password):
    app = FastAPI()

    @app.post("/sign-in", dependencies=[HASHING_TURN])
    def sign_in(email: str = Body(), password: str = Body()):
        mine = people.c.email == email
        with engine.connect() as db:
            stored = db.scalar(sa.select(people.c.hash).where(mine))
        verdict = check_password(password, stored)
        if verdict.outdated:
            new = hash_password(password)
            row = sa.update(people).where(mine)
            with engine.begin() as db:
                replace_hash(db, row, people.c.hash, stored, new)
        if not verdict:
            raise HTTPException(401)

    return app


def sign_in(client, password):
    sent = {"email": "ada@example.com", "password": password}
    return client.post("/sign-in", json=sent).status_code


def overtaken(url):
    engine = make_engine(url)
    people.create(engine)

    def store(hash):
        with engine.begin() as db:
            db.execute(people.delete())
            db.execute(people.insert().values(email="ada@example.com", hash=hash))

    def while_she_changes_it(password):
        store(hash_password("another horse entirely"))
        return hash_password(password)

    store(FOREIGN["bcrypt"])
    with serving(service(engine, while_she_changes_it)) as client:
        changed = [sign_in(client, PHRASE) for _ in range(2)]
        changed.append(sign_in(client, "another horse entirely"))
    store(FOREIGN["bcrypt"])
    with serving(service(engine)) as client, engine.connect() as db:
        sign_in(client, PHRASE)
        [now] = db.scalars(sa.select(people.c.hash))
    engine.dispose()
    return changed, format_of(now).re is ARGON2ID


# %% tags=["predict"]
statuses, replaced = overtaken(lesson_url())
print(statuses, replaced)

# %% [markdown]
"""
The first sign-in compared before the change, and succeeds. Its new hash is not stored,
since another one stood there.

## On PostgreSQL

The UPDATE carries its condition with it, so PostgreSQL decides the same:
"""

# %%
there = on_postgres(overtaken)
print("the same" if there == (statuses, replaced) else there)

# %% [markdown]
"""
## Check it
"""

# %%
typed = check_password("Zwo\u0308lf Kekse", hash_password("Zw\u00f6lf Kekse"))
assert MEMORY >= 19_456 and PASSES >= 2, "cheaper than OWASP's minimum"
assert typed == Verdict(True, False), "the keyboard matters"
assert flooded == (400, 0, 0), "a megabyte was normalized"
assert works[0] == works[2], "an unknown user costs less"
assert statuses == [200, 401, 200], "a sign-in brought the old password back"
assert there in ((statuses, replaced), None), "PostgreSQL decides otherwise"
print("OWASP's minimum; any keyboard; no flood, no oracle, no password comes back")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `(unicodedata.normalize("NFKC", password))` | `(password)` | the keyboard matters |
| `ARGON2.verify(NOBODY, normal(password))` | `pass` | an unknown user costs less |
| `mine.where(column == old)` | `mine` | a sign-in brought the old password back |

## Your turn

An old system has MD5 hashes without salt. Its people come back over the years, but no
MD5 may lie in the table. Mallory has a copy of the old table.

Write `wrap(md5)`: what is stored in place of one MD5 (32 hexadecimal digits, in either
case), without knowing the password. Write `check_wrapped`: `check_password` for a table
with wrapped hashes, all others, and None. The old system hashed the UTF-8 bytes that it
received.
"""


# %% tags=["exercise"]
def wrap(md5):
    raise NotImplementedError


def check_wrapped(password, stored):
    """A Verdict; the MD5 itself must not sign in."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.password_hashing import HINTS, check

check(wrap, check_wrapped)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def wrap(md5):
    # The mark says what was hashed: without it the MD5 would be a password, too.
    return "md5:" + hash_password(md5.lower())


def check_wrapped(password, stored):
    if not stored or not stored.startswith("md5:") or len(password) > LONGEST:
        return check_password(password, stored)
    md5 = hashlib.md5(as_received(password)).hexdigest()
    matches = check_password(md5, stored.removeprefix("md5:")).matches
    return Verdict(matches, outdated=matches)


assert check(wrap, check_wrapped)

# %% [markdown]
"""
## Take it with you

`playbook lift password_hashing INTO` copies recipe and tests. Without FastAPI add
`--only hash_password,check_password,replace_hash`.

| seam | what your project does |
|---|---|
| column | a text of up to 255 characters, which may be NULL |
| row | passes an UPDATE of one row; add columns with `.values(...)` |
| transaction | hashes outside of transactions; `replace_hash` inside of one |
| route | declares HASHING_TURN, or your framework's own limit |
| log | sends the errors of this module to a person |

With an ORM model `Customer`:

```python
@app.post("/sign-in", dependencies=[HASHING_TURN])
def sign_in(email: str = Body(), password: str = Body()):
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
```

Traps: a sign-in that starts a session also writes the row whose hash it compared, as
[sessions](sessions.ipynb) explains.
Limit request bodies. Hashing blocks: an `async def` calls it through
`run_in_threadpool`. Do not hash before a fork: the child's threads are gone, and it
waits for ever.

Hand it over:

- **Reviewer**: no hashing in a transaction; HASHING_TURN on every route that hashes.
- **Security**: error reporters that record local variables leave out `password`.
  Consider a **pepper**, a secret key elsewhere.
- **Migration**: import hashes as they are; count those without `$argon2id$`.
- **Operations**: 19 MiB per core; raise MEMORY or PASSES on faster machines.

## In short

You can explain why a salt is not enough, why a hash takes memory, and what a megabyte
does. You can replace a hash without undoing a change.

## Sources

OWASP Password Storage Cheat Sheet. NIST SP 800-63B-4, 3.1.1.2. OWASP ASVS 5.0, 11.4.2.
RFC 9106 (Argon2), 7914 (scrypt), 8018 (PBKDF2). Unicode Standard Annex 15. CPython
issue 149079 (normalization in quadratic time). D. Wang et al., *Zipf's Law in
Passwords* (2017).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Contract](../api/contract.ipynb) · [course map](../index.ipynb) · Next: [Password rules](password_rules.ipynb)
"""
