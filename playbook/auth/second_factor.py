# %% [markdown]
"""
# Second factor

Ask for a code from the owner's phone. A stolen password then opens nothing.

| | |
|---|---|
| **Use it when** | a password may be guessed, phished or reused |
| **You need** | [throttling](throttling.ipynb), [sessions](sessions.ipynb) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | 2FA, MFA, TOTP, authenticator app, recovery code, step-up |
| **Standard** | RFC 4226; RFC 6238; OWASP ASVS 5.0, 6.5.1 to 6.5.5, 6.6.3 and 7.5.3 |

```python
from playbook.auth.second_factor import enrol, new_recovery_codes, use_code

secret = enrol(db, user_id, keys)  # show app_uri(secret, "Pantry", email)
use_code(db, user_id, code, now, keys, first=True)  # from now on it counts
codes = new_recovery_codes(db, user_id)  # shown once
use_code(db, user_id, code, now, keys)  # at each sign-in: True once
```

*Lift: 103 lines in 1 file; needs cryptography, sqlalchemy.*

## See it break

Mallory knows Ada's password. So the shop asks for a second **factor**: a proof of
another kind. Ada knows a password, and she has a phone. An app on it shares a secret
with the shop. Both compute six digits from the secret and the clock, new ones every 30
seconds. This is a **time-based one-time password**, TOTP.

The folded cell imports `code_at(secret, moment)`, which computes the six digits, and
`attack`, `show`, `table`, `UTC`, `timedelta`, `on_postgres`. A `shop` has Ada's
`password`, the `secret` and the time `now`. `naive_reset` is where the link of a reset
mail leads: it stores a new password and signs in. `engine` and `keys` come later.
"""

# %% tags=["stage"]
from datetime import UTC, datetime, timedelta

from playbook.exercises.auth.second_factor import KEYS, attack, code_at
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, show, table

engine, keys = make_engine(lesson_url()), KEYS


def naive_reset(shop, password):
    shop.password = password
    return "signed in"


# %%
def naive_sign_in(shop, password, code):
    if password != shop.password:
        return "wrong password"
    moments = [shop.now + timedelta(seconds=n) for n in (-30, 0, 30)]
    right = [code_at(shop.secret, moment) for moment in moments]
    return "signed in" if code in right else "wrong code"


# %% [markdown]
"""
The shop accepts the codes of three steps, because clocks differ and people type slowly.
`attack(sign_in, reset)` makes five attacks. Mallory always has the password:

1. She sends no code.
2. She looks over Ada's shoulder, and sends the code that Ada has just sent.
3. Fifty of her programs send one such code at once.
4. She sends 50 guesses from 50 networks. How many does the shop compare?
5. She also reads Ada's mail, and resets the password.

Predict: what does Mallory hear each time?
"""

# %% tags=["predict"]
show(table(attack(naive_sign_in, naive_reset).items(), ["attack", "Mallory hears"]))

# %% [markdown]
"""
A "one-time" password was good for 90 seconds, for everybody. Nobody counted guesses,
and three codes of a million are right. The reset proved that somebody reads a mailbox.
That is *one* factor.

## The decision

What does Ada have?

| option | good | costs |
|---|---|---|
| a code by SMS or mail | no app | numbers are stolen; mail resets the password |
| **an app's code, TOTP** | no network; any app | a phishing site passes it on |
| a passkey (WebAuthn) | cannot be phished | another way when it is lost |
| `django-otp` | ready, once per step | Django only |
| Better Auth's `twoFactor` | ready | takes a code twice |

We choose **TOTP**: every phone has an app for it. Choose passkeys where your users have
them, and keep TOTP.

What the shop promises Ada:

| Mallory | hears |
|---|---|
| sends a used code, or fifty at once | wrong code; one of the fifty gets in at most |
| guesses from everywhere | 20 times, then "too many" |
| resets the password by mail | sign in, with a code |
| has a stolen session, and switches it off | a code first |
| reads a copy of the table | nothing that makes a code |

## Build it

### The idea

A code is a keyed hash of a number, cut to six digits (**HOTP**). The hash's last four
bits say where to cut. For TOTP the number is the **step**: how many times 30 seconds
have passed since 1970.
"""

# %% tags=["export"]
import hmac
import struct
from datetime import datetime

STEP = 30  # seconds
LIFETIME = 30  # seconds: ASVS 6.5.5


def hotp(secret: bytes, counter: int) -> str:
    """The code of a counter: HMAC-SHA-1, cut to six digits (RFC 4226, 5.3)."""
    mac = hmac.digest(secret, struct.pack(">Q", counter), "sha1")
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"


def step_of(now: datetime) -> int:
    """The counter that the clock gives (RFC 6238)."""
    return int(now.timestamp()) // STEP


def matching_step(secret: bytes, code: str, now: datetime) -> int | None:
    """The step of this code, if it began less than LIFETIME ago; or None."""
    typed = "".join(code.split()).encode("utf-8", "surrogatepass")
    seconds = int(now.timestamp())
    for step in range((seconds - LIFETIME) // STEP + 1, seconds // STEP + 1):
        if hmac.compare_digest(hotp(secret, step).encode(), typed):
            return step
    return None


# %%
example = b"12345678901234567890"  # of RFC 4226, appendix D
print([hotp(example, counter) for counter in range(4)])

# %% [markdown]
"""
The RFC prints the same codes. SHA-1 is broken for signatures, not for this.

### Which step

The RFC lets a code count in the next step, too: 60 seconds. ASVS allows 30, so only the
present step counts:
"""

# %%
nine = datetime(2026, 11, 2, 9, tzinfo=UTC)
code = hotp(example, step_of(nine))
for at in (-1, 0, 29, 30):
    print(at, matching_step(example, code, nine + timedelta(seconds=at)))

# %% [markdown]
"""
A code that Ada sends a second late is wrong; she types the next one.
`LIFETIME = 40` gives her ten seconds more.

### The secret

The shop needs the secret itself, so a hash will not do. It is encrypted with a key from
the settings, which no backup of the database has. **HKDF** derives another key for each
user: a row copied to another user cannot be decrypted. The first of `keys` encrypts;
older ones still decrypt.
"""

# %% tags=["export"]
import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Keys = Sequence[bytes]  # 32 random octets each


def box_of(keys: Keys, user_id: Any) -> MultiFernet:
    """What encrypts and decrypts the secret of one user (HKDF: RFC 5869)."""
    info = f"second factor of {user_id}".encode()
    derived = [HKDF(SHA256(), 32, salt=None, info=info).derive(key) for key in keys]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])


def app_uri(secret: bytes, issuer: str, account: str) -> str:
    """What an authenticator app reads, most often from a QR code."""
    text = base64.b32encode(secret).decode().rstrip("=")
    query = {"secret": text, "issuer": issuer, "digits": 6, "period": STEP}
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    return f"otpauth://totp/{label}?{urlencode(query)}"


# %%
print(app_uri(example, "Pantry", "ada@example.com"))

# %% [markdown]
"""
### The tables

Your id of the user is a plain column. The second table is for later.
"""

# %% tags=["export"]
import hashlib
import secrets

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
recovery_codes = sa.Table(
    "recovery_codes",
    second_factors.metadata,
    sa.Column("code_hash", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False, index=True),
)

# %%
second_factors.metadata.create_all(engine)
print(second_factors.columns.keys())

# %% [markdown]
"""
### Enrol

Ada's app reads the address above. Then she types the first code. Only that shows that
the app has the secret, so until then the secret does not count.
"""


# %% tags=["export"]
def has_second_factor(db: Db, user_id: Any, table: sa.Table = second_factors) -> bool:
    """Whether a sign-in of this user needs a second factor."""
    mine = [table.c.user_id == user_id, table.c.confirmed.is_(True)]
    return db.scalar(sa.select(table.c.user_id).where(*mine)) is not None


def enrol(
    db: Db, user_id: Any, keys: Keys, table: sa.Table = second_factors
) -> bytes | None:
    """A new secret, which counts after its first code. None: there is one already."""
    if has_second_factor(db, user_id, table):
        return None
    secret = secrets.token_bytes(20)
    sealed = box_of(keys, user_id).encrypt(secret).decode()
    new = {"sealed_secret": sealed, "confirmed": False, "last_step": 0}
    waiting = [table.c.user_id == user_id, table.c.confirmed.is_(False)]
    replace = table.update().where(*waiting).values(new).returning(table.c.user_id)
    if db.execute(replace).first() is None:
        db.execute(table.insert().values(user_id=user_id, **new))
    return secret


# %%
with engine.begin() as db:
    secret = enrol(db, "ada", keys)
    print(len(secret), has_second_factor(db, "ada"))

# %% [markdown]
"""
### Once

The row remembers the last step that was used. One UPDATE looks and writes: it changes
the row only if the step of this code is later.
"""


# %% tags=["export"]
def use_code(
    db: Db,
    user_id: Any,
    code: str,
    now: datetime,
    keys: Keys,
    first: bool = False,
    table: sa.Table = second_factors,
) -> bool:
    """Whether the code is right and new. `first`: it confirms a new secret."""
    mine = table.c.user_id == user_id
    sealed = db.scalar(sa.select(table.c.sealed_secret).where(mine))
    box = box_of(keys, user_id)
    step = matching_step(box.decrypt(sealed), code, now) if sealed else None
    if step is None:
        return False
    same = [mine, table.c.sealed_secret == sealed, table.c.confirmed.is_(not first)]
    use = table.update().where(*same, table.c.last_step < step)
    used = use.values(last_step=step, confirmed=True).returning(table.c.user_id)
    return db.execute(used).first() is not None


# %% [markdown]
"""
Ada confirms the app at nine. At once she signs in with the code that it still shows.
Thirty seconds later she sends its next code, twice. Predict: what does each of the four
calls return?
"""

# %% tags=["predict"]
half = nine + timedelta(seconds=STEP)
first = hotp(secret, step_of(nine))
with engine.begin() as db:
    print(use_code(db, "ada", first, nine, keys, first=True))
    for at in (nine, half, half):
        sent = hotp(secret, step_of(at))
        print(use_code(db, "ada", sent, at, keys))

# %% [markdown]
"""
No older code works after a newer one. The confirmation is a use too.

### Without the phone

Phones get lost. **Recovery codes** lie on paper, and each works once. They have 120
random bits, so a fast hash is enough; ASVS wants a slow one below 112. Count their
guesses apart: Mallory's guesses of app codes must not keep Ada out.
"""


# %% tags=["export"]
def code_hash(code: str) -> str:
    """SHA-256 of the letters and digits, however the code was typed."""
    typed = "".join(letter for letter in code.upper() if letter.isalnum())
    return hashlib.sha256(typed.encode()).hexdigest()


def new_recovery_codes(
    db: Db, user_id: Any, count: int = 10, table: sa.Table = recovery_codes
) -> list[str]:
    """New codes, to be shown once. The old ones end."""
    codes = [base64.b32encode(secrets.token_bytes(15)).decode() for _ in range(count)]
    db.execute(table.delete().where(table.c.user_id == user_id))
    rows = [{"code_hash": code_hash(code), "user_id": user_id} for code in codes]
    db.execute(table.insert(), rows)
    return ["-".join(code[n : n + 4] for n in range(0, 24, 4)) for code in codes]


def use_recovery_code(
    db: Db, user_id: Any, code: str, table: sa.Table = recovery_codes
) -> bool:
    """Whether it is one of the user's codes. It is used up by this."""
    mine = [table.c.user_id == user_id, table.c.code_hash == code_hash(code)]
    used = table.delete().where(*mine).returning(table.c.code_hash)
    return db.execute(used).first() is not None


# %%
with engine.begin() as db:
    codes = new_recovery_codes(db, "ada")
    print([use_recovery_code(db, "ada", codes[0].lower()) for _ in range(2)])

# %% [markdown]
"""
## See it work

The same attacks on the recipe. The folded cell defines `sign_in`: it counts
the account's guesses with [throttling](throttling.ipynb), and calls `use_code` in a
[transaction](../foundations/transactions.ipynb), which repeats it after a
[conflict](../glossary.md#conflict). Its `reset` stores the password and signs nobody
in.
"""

# %% tags=["stage"]
from playbook.auth.throttling import Allowance, spend
from playbook.foundations.transactions import transaction

GUESSES = Allowance(burst=20, every=timedelta(hours=1))


def sign_in(shop, password, code):
    if password != shop.password:
        return "wrong password"
    if spend(shop.engine, GUESSES, ("second factor", "ada"), shop.now):
        return "too many"
    given = ("ada", code, shop.now, shop.keys)
    used = transaction(shop.engine, lambda db: use_code(db, *given))
    return "signed in" if used else "wrong code"


def reset(shop, password):
    shop.password = password
    return sign_in(shop, password, "")


# %%
heard = attack(sign_in, reset)
show(table(heard.items(), ["attack", "Mallory hears"]))

# %% [markdown]
"""
## On PostgreSQL

Predict: are the results the same on PostgreSQL?
"""

# %% tags=["predict"]
there = on_postgres(attack, sign_in, reset)
print(there in (heard, None))

# %% [markdown]
"""
The UPDATE of the second program waits for the first one, or conflicts with it. Then it
looks at `last_step` again.

## Check it
"""

# %%
assert heard["Ada's code, at once"] == "1 of 50 signed in", "a code works twice"
assert heard["her mailbox"] == "wrong code", "a mail goes around it"
assert heard["guesses"] == "20 compared", "guesses are not counted"
with engine.begin() as db:
    assert not use_recovery_code(db, "mallory", codes[1]), "Mallory uses Ada's code"
assert matching_step(example, code, half) is None, "a code lives too long"
print("a code works once, and nothing goes around it")

# %% [markdown]
"""
**Break it.** Make one of these changes, run the page again, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `, table.c.last_step < step)` | `)` | a code works twice |
| `LIFETIME = 30` | `LIFETIME = 60` | a code lives too long |
| `== user_id, table.c.code` | `> "", table.c.code` | Mallory uses Ada's code |

## Your turn

Ada does not want to type a code each day at her desk. Write `trust`, which makes a
[token](../glossary.md#token) for a cookie of this browser, and `is_trusted`, which says
whether a token lets this user sign in without a code. The trust lasts `DAYS` days. The
table `devices` has the columns `token_hash`, `user_id` and `until` (whole seconds since
1970). Mallory has a shop account too, and a copy of the table.
"""


# %% tags=["exercise"]
def trust(db, devices, user_id, now):
    """A new token for the cookie of a browser that the user trusts."""
    raise NotImplementedError


def is_trusted(db, devices, user_id, token, now):
    """Whether this browser may sign the user in without a code."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.second_factor import DAYS, HINTS, check

check(trust, is_trusted)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def trust(db, devices, user_id, now):
    token = secrets.token_urlsafe()
    until = int((now + timedelta(days=DAYS)).timestamp())
    row = {"token_hash": code_of(token), "user_id": user_id, "until": until}
    db.execute(devices.insert().values(row))
    return token


def is_trusted(db, devices, user_id, token, now):
    mine = [devices.c.token_hash == code_of(token), devices.c.user_id == user_id]
    alive = sa.select(devices.c.until).where(*mine, devices.c.until > now.timestamp())
    return db.scalar(alive) is not None


def code_of(token):
    return hashlib.sha256(token.encode()).hexdigest()


assert check(trust, is_trusted)

# %% [markdown]
"""
## Take it with you

`playbook lift second_factor INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| transaction | passes a `Connection` or ORM `Session`; commits; retries conflicts |
| tables | `second_factors.metadata.create_all`, or `table=` yours |
| keys | 32 random octets from settings; keeps an old one after a change |
| user id | passes `str(user.id)` |
| switching off | deletes the user's rows in both tables |
| clock | passes `now` with a time zone |
| guesses | counts them before `use_code`: `playbook lift throttling` |
| between the steps | a token, no session: `playbook lift mailed_links` |

One form asks for the password, another for the code. No session begins in between:

```python
GUESSES = Allowance(burst=20, every=timedelta(hours=1))


def password_is_right(db: Session, user: User, now: datetime) -> dict[str, str]:
    user_id = str(user.id)
    ten = timedelta(minutes=10)
    if not has_second_factor(db, user_id):
        return {"session": start(db, user_id, proven_at=None)}
    return {"next": new_link(db, "second factor", user_id, user.email, now, ten)}


def code_is_sent(db: Session, token: str, code: str, now: datetime) -> str | None:
    step = find_link(db, token, "second factor", now)
    if step is None or spend(ENGINE, GUESSES, ("second factor", step.user_id), now):
        return None
    if not use_code(db, step.user_id, code, now, KEYS):
        return None  # a form of its own, counted apart, calls use_recovery_code
    if take_link(db, token, "second factor", now) is None:
        return None
    return start(db, step.user_id, proven_at=now)


def may_switch_off(session: Login, now: datetime) -> bool:
    proven = session.proven_at  # None: no code was given in this session
    return proven is not None and now - proven < timedelta(minutes=10)
```

`start` is yours, and returns a session's token. The token `next` opens no session: the
second form sends it with the code. `GUESSES` are the account's, whatever the network.
With one per hour Mallory needs 114 years on average.

The last function is **step-up**: a stolen session gave its code long ago. Ask for a new
code before a change of password or address, before new recovery codes, and before
switching off. Ask for the password before `enrol`, or a stolen session enrols Mallory's
phone. After the first code end all other sessions: they never gave one.

`InvalidToken` means that the key was changed; recovery codes still work.

Hand it over:

- **Reviewer**: search for every place where a session begins, also by a link.
- **Front end**: `autocomplete="one-time-code"`, `inputmode="numeric"`. After "wrong
  code", ask for the next one.
- **Security**: tell the owner of each change, and of each used recovery code.
- **Operations**: keep time by NTP. A clock ten seconds wrong refuses one code in three.
- **Tests**: keep "of fifty at once one succeeds".

## In short

You can explain what a second factor adds, and why a reset by mail must not replace it.
You know how one UPDATE makes a code work once, and what Ada does without her phone.

## Sources

RFC 4226, 5.3, 7.3 and D. RFC 6238, 5.2. OWASP ASVS 5.0, 6.5, 6.6.3, 7.5.3. NIST SP
800-63B-4, 3.1.4 and 3.1.5. Google, *Key Uri Format*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [API tokens](api_tokens.ipynb) · [course map](../index.ipynb) · Next: [A foreign contract](foreign_contract.ipynb)
"""
