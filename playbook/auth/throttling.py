# %% [markdown]
"""
# Throttling

Make guessing slow, on every process together, without a lock that an attacker can pull.

| | |
|---|---|
| **Use it when** | a password, a code or a PIN can be guessed, or a call costs money |
| **You need** | [engines](../foundations/engines.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | rate limit, brute force, account lockout, GCRA, token bucket, 429 |
| **Standard** | OWASP ASVS 5.0, 6.1.1 and 6.3.1; RFC 6585, 4; CWE-307, CWE-645 |

```python
from playbook.auth.throttling import Allowance, forget, network_of, spend

five = Allowance(burst=5, every=timedelta(minutes=1))
key = ("sign-in", email, network_of(address))
wait = spend(engine, five, key, now)  # 0, or the seconds to wait: answer 429
forget(db, key)  # the password was right
```

*Lift: 140 lines in 3 files; needs sqlalchemy.*

## See it break

Many services lock an account after five wrong passwords. `people` has one row, for Ada,
with a counter. `matches` is the slow hash.
"""

# %%
import sqlalchemy as sa


def sign_in_or_lock(engine, password):
    with engine.connect() as db:
        failures = db.scalar(sa.select(people.c.failures))
    if failures >= 5:
        return "locked"
    if matches(password):
        return "signed in"
    with engine.begin() as db:
        db.execute(people.update().values(failures=people.c.failures + 1))
    return "wrong"


# %% [markdown]
"""
The folded cell defines `people` and `matches`. `attack(at_once)` makes a new account
and sends Mallory's wrong passwords: seven in turn, or fifty at once. Then Ada sends her
right one. The function returns how many of Mallory's passwords were compared, and what
Ada hears. The cell also imports `show`, `table`, `lesson_url`, `make_engine` and
`together`. How many are compared each time, and what does Ada hear?
"""

# %% tags=["stage"]
import threading

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, show, table
from playbook.kit.stage import together

failures = sa.Column("failures", sa.Integer, nullable=False)
people = sa.Table("people", sa.MetaData(), failures)
compared = []
meeting = threading.Barrier(1)


def matches(password):
    compared.append(password)
    meeting.wait(60)  # a slow hash: all that have come this far are here together
    return password == "right"


def attack(at_once):
    global meeting
    engine = make_engine(lesson_url())
    people.create(engine)
    with engine.begin() as db:
        db.execute(people.insert().values(failures=0))
    compared.clear()
    meeting = threading.Barrier(50 if at_once else 1)
    if at_once:
        guess = {f"{n}": lambda: sign_in_or_lock(engine, "wrong") for n in range(50)}
        together(**guess)
    else:
        for _ in range(7):
            sign_in_or_lock(engine, "wrong")
    guesses = len(compared)
    meeting = threading.Barrier(1)
    return guesses, sign_in_or_lock(engine, "right")


# %% tags=["predict"]
rows = [("seven in turn", *attack(False)), ("fifty at once", *attack(True))]
show(table(rows, ["Mallory's guesses", "compared", "Ada hears"]))

# %% [markdown]
"""
The lock is a button that everybody can press who knows Ada's address. And it does not
limit guessing. All fifty requests read the counter before one of them raised it.

## The decision

| option | good | costs |
|---|---|---|
| lock the account (django-axes can) | one counter | anybody locks Ada out |
| CAPTCHA | no counter | programs solve it; some people cannot |
| fixed window, "five a minute" | one counter | ten in two seconds, at its border |
| DRF's `SimpleRateThrottle` | built in | they look, then write: not for security |
| **GCRA per account and network** | a burst, then a rate | one write per attempt |

We choose **GCRA**, which the next section explains, with one count for each pair of
account and network. Mallory uses up her own attempts, not Ada's. The count stands in
the database, so that all processes share it. Choose the memory of the process, or
Redis, where the limit protects only the process and a restart may forget it.

An attacker can rent many networks. [Sign in](sign_in.ipynb) adds a second count against
them.

## Build it

### The idea

A **throttle** limits how often something is tried. A key may make `burst` attempts at
once, and then one after each interval `every`. For this, one time per key is enough:
`whole_at`, when the allowance is whole again. Each attempt moves it on by one interval.
Telephone networks call this the *generic cell rate algorithm* (GCRA). A **token
bucket**, refilled at the same rate, grants the same.
"""

# %%
burst, every = 3, 10  # three attempts at once; then one every ten seconds


def attempt(whole_at, now):
    """Whether it is granted, and the new `whole_at`. Times in seconds."""
    latest = now + (burst - 1) * every
    if whole_at > latest:
        return False, whole_at
    return True, max(whole_at, now) + every


# %% [markdown]
"""
Six attempts, at the seconds 0, 0, 0, 4, 12 and 90. The folded cell defines
`draw(attempt, seconds)`, which makes them and draws what happened. Predict: which are
refused? After the last one, how far is `whole_at` from 90?
"""


# %% tags=["stage"]


def draw(attempt, seconds):
    """A line for each attempt: `*` is now; `=` lasts until `whole_at`."""
    whole_at = 0
    answers = []
    for now in seconds:
        granted, whole_at = attempt(whole_at, now)
        answers.append("granted" if granted else "refused")
        line = " " * (now // 2) + "*" + "=" * ((whole_at - now) // 2)
        print(f"second {now:2}  {answers[-1]}  {line}| {whole_at}")
    return answers


# %% tags=["predict"]
steps = draw(attempt, [0, 0, 0, 4, 12, 90])

# %% [markdown]
"""
Look at the length of `=`. It never exceeds three intervals. An attempt adds one
interval, so it is granted while at most two are there: `whole_at <= latest`. Time eats
the line from the left. A long silence leaves no line, and never a credit.

### The table

`Allowance` has the two numbers. The table has one row for each key, and holds only the
key's hash: people type their passwords into the wrong field, too.
"""

# %% tags=["export"]
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from playbook.foundations.engines import Timestamp

Key = tuple[str, ...]
throttles = sa.Table(
    "throttles",
    sa.MetaData(),
    sa.Column("key_hash", sa.String(64), primary_key=True),
    sa.Column("whole_at", Timestamp(), nullable=False),
)


@dataclass(frozen=True)
class Allowance:
    """`burst` attempts at once; then one after each `every` (whole milliseconds)."""

    burst: int
    every: timedelta

    def __post_init__(self) -> None:
        whole = self.every % timedelta(milliseconds=1) == timedelta(0)
        if self.burst < 1 or self.every <= timedelta(0) or not whole:
            raise ValueError(f"{self} allows nothing, or less than a millisecond")


def key_hash(key: Key) -> str:
    """SHA-256 of the parts, which stay apart: ("ab", "c") is not ("a", "bc")."""
    text = "\0".join(part.replace("\0", "\ufffd") for part in key)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# %%
engine = make_engine(lesson_url())
throttles.create(engine)
five = Allowance(burst=5, every=timedelta(minutes=1))
for key in [("ab", "c"), ("a", "bc")]:
    print(key, key_hash(key)[:16])

# %% [markdown]
"""
### One statement

Mallory's fifty requests came between a look and a write. So one statement looks,
decides and writes. These are its values for `five` at 9:00:

| value | is | at 9:00 |
|---|---|---|
| `:first` | `now + every`: the row of a new or quiet key | 9:01 |
| `:latest` | `now + (burst - 1) * every` | 9:04 |
| `{moved}` | `whole_at + every` | |

If the row exists, PostgreSQL locks it, and then looks at the `WHERE` again. If
`whole_at` is beyond `latest`, the statement changes nothing and returns nothing. SQLite
cannot add an interval to a time, so the function `moved` writes that part of the SQL:
"""

# %% tags=["export"]
from typing import Any

from sqlalchemy.orm import Session

SPEND = """
    INSERT INTO throttles (key_hash, whole_at) VALUES (:key_hash, :first)
    ON CONFLICT (key_hash) DO UPDATE SET whole_at =
        CASE WHEN throttles.whole_at < :now THEN :first ELSE {moved} END
    WHERE throttles.whole_at <= :latest
    RETURNING key_hash
"""
TIMES = [sa.bindparam(name, type_=Timestamp()) for name in ("first", "now", "latest")]
Database = sa.Connection | Session


def moved(db: Database, by: timedelta) -> tuple[str, Any]:
    """SQL for `whole_at` moved by `by`, and the value of its parameter `:by`."""
    bind = db if isinstance(db, sa.Connection) else db.get_bind()
    if bind.dialect.name != "sqlite":
        return "throttles.whole_at + :by", by
    seconds = f"{by.total_seconds():.3f} seconds"
    return "strftime('%Y-%m-%d %H:%M:%f000', throttles.whole_at, :by)", seconds


# %%
with sa.create_engine("sqlite://").connect() as db:
    print(moved(db, five.every))

# %% [markdown]
"""
### Spend

`spend` runs the statement and **commits at once, before the attempt**. A count that
waits for the end of the request would let fifty requests through again. The [isolation
level](../glossary.md#isolation-level) is AUTOCOMMIT. At REPEATABLE READ PostgreSQL
would refuse most of the fifty, because the row has changed since their transaction
began.
"""

# %% tags=["export"]
import math

from playbook.foundations.transactions import somebody_was_first, transaction


def spend(engine: sa.Engine, allowance: Allowance, key: Key, now: datetime) -> int:
    """Take one attempt of `key`, committed at once. 0, or the seconds to wait.

    The generic cell rate algorithm (ITU-T I.371, annex A).
    """
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as SQLite counts
    latest = now + (allowance.burst - 1) * allowance.every
    row = {"key_hash": key_hash(key), "first": now + allowance.every}

    def work(db: Session) -> int:
        sql, by = moved(db, allowance.every)
        statement = sa.text(SPEND.format(moved=sql)).bindparams(*TIMES)
        if db.scalar(statement, {**row, "now": now, "latest": latest, "by": by}):
            return 0
        mine = throttles.c.key_hash == row["key_hash"]
        whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine)) or now
        return max(1, math.ceil((whole_at - latest).total_seconds()))

    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    return transaction(autocommit, work, retry=somebody_was_first)


# %%
from datetime import UTC

nine = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
waits = [spend(engine, five, ("a", "key"), nine) for _ in range(7)]
print(waits)

# %% [markdown]
"""
Predict: what do three more calls return, 90 seconds later? One attempt and a half have
come back.
"""

# %% tags=["predict"]
later = nine + timedelta(seconds=90)
print([spend(engine, five, ("a", "key"), later) for _ in range(3)])

# %% [markdown]
"""
### Give back

A right password is no guess. `give_back` returns one attempt, `forget` all. They run in
the transaction that uses the right password. A daily job calls `purge_throttles`; a row
whose time is past means nothing.
"""


# %% tags=["export"]


def give_back(db: Database, allowance: Allowance, key: Key) -> None:
    """Put one attempt of `key` back: it was right."""
    sql, by = moved(db, -allowance.every)
    # RETURNING makes DuckDB notice what another transaction has written.
    update = f"""UPDATE throttles SET whole_at = {sql}
        WHERE key_hash = :key_hash RETURNING key_hash"""
    db.execute(sa.text(update), {"by": by, "key_hash": key_hash(key)})


def forget(db: Database, *keys: Key) -> None:
    """Make the allowances of `keys` whole."""
    hashes = [key_hash(key) for key in keys]
    db.execute(throttles.delete().where(throttles.c.key_hash.in_(hashes)))


def purge_throttles(db: Database, now: datetime) -> None:
    """Delete the rows that mean nothing any more."""
    db.execute(throttles.delete().where(throttles.c.whole_at <= now))


# %%
with engine.begin() as db:
    give_back(db, five, ("a", "key"))
print([spend(engine, five, ("a", "key"), later) for _ in range(2)])

# %% [markdown]
"""
### Whose attempts

The key names the account and the client's network. IPv6 gives a household a whole /64:
2**64 addresses that share their first 64 bits. A limit per address would give each of
them five attempts.
"""

# %% tags=["export"]
import ipaddress


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one (RFC 4291). Other text as it is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip), 64), strict=False))


# %%
for address in ("192.0.2.7", "2001:db8:1:2:aaaa::9", "::ffff:192.0.2.7"):
    print(network_of(address))

# %% [markdown]
"""
## See it work

A service with the recipe. It answers 429, *Too Many Requests*, with `Retry-After`.
"""

# %%
from fastapi import Body, FastAPI, HTTPException, Request


def service(engine):
    app = FastAPI()

    @app.post("/sign-in/{email}")
    def sign_in(email: str, request: Request, password: str = Body(embed=True)):
        key = ("sign-in", email, network_of(request.client.host))
        wait = spend(engine, five, key, nine)  # in production: datetime.now(UTC)
        if wait:
            raise HTTPException(429, "too many", {"Retry-After": str(wait)})
        compared.append(password)
        if password != "right":
            raise HTTPException(401, "wrong e-mail address or password")
        with engine.begin() as db:
            forget(db, key)
        return "signed in"

    return app


# %% [markdown]
"""
The folded cell imports `on_postgres`, `serving` and `show_http`. It defines
`siege(url)`: two processes serve one database, here two engines and two servers.
Mallory sends fifty wrong passwords at once, to both, from fifty addresses of one IPv6
household. Then Ada signs in eight times from home. The function returns how many of
Mallory's passwords were compared, what Mallory heard, and what Ada heard.
`proxied(address)` makes the header of a **proxy**, a server in front of ours that ours
trusts. Predict: what do Mallory and Ada hear?
"""

# %% tags=["stage"]
from collections import Counter

from playbook.kit.lesson import on_postgres, serving, show_http


def proxied(address):
    return {"x-forwarded-for": address}


def siege(url):
    engines = [make_engine(url), make_engine(url)]
    throttles.create(engines[0])
    compared.clear()
    with serving(service(engines[0])) as one, serving(service(engines[1])) as other:

        def sign_in(number, address, password):
            client = [one, other][number % 2]
            sent = {"json": {"password": password}, "headers": proxied(address)}
            return client.post("/sign-in/ada", **sent).status_code

        def guess(number):
            return lambda: sign_in(number, f"2001:db8:0:1::{number:x}", "wrong")

        guesses = together(**{f"{n}": guess(n) for n in range(50)})
        heard = dict(sorted(Counter(guesses.values()).items()))
        count = len(compared)
        ada = Counter(sign_in(n, "192.0.2.7", "right") for n in range(8))
    return {"compared": count, "Mallory": heard, "Ada": dict(ada)}


# %% tags=["predict"]
besieged = siege(lesson_url())
show(table(besieged.items(), ["", "found"]))

# %% [markdown]
"""
Ada's key is another one, and each right password makes it whole. Now what a client of
the service sees when it is refused:
"""

# %%
with serving(service(engine)) as client:
    for _ in range(6):
        client.post("/sign-in/ada", json={"password": "wrong"})
    client.shown = 5  # leave the first five out
    show_http(client)

# %% [markdown]
"""
## On PostgreSQL

The fifty wait in line for the row's lock. On DuckDB they collide, and `transaction`
repeats them. Does PostgreSQL grant the same number?
"""

# %%
there = on_postgres(siege)
print("the same" if there == besieged else there)

# %% [markdown]
"""
## Check it
"""

# %%
assert waits == [0, 0, 0, 0, 0, 60, 60], "more or less than the burst at once"
quiet = nine + timedelta(days=1)
rested = [spend(engine, five, ("a", "key"), quiet) for _ in range(6)]
assert rested == [0, 0, 0, 0, 0, 60], "a quiet key saves up attempts"
assert besieged["compared"] == 5, "fifty at once got more than five"
assert besieged["Ada"] == {200: 8}, "Mallory locks Ada out"
assert there in (besieged, None), "PostgreSQL allows something else"
print("five of fifty, from two processes; a day later five again; Ada is let in")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `(allowance.burst - 1)` | `allowance.burst` | more or less than the burst at once |
| `throttles.whole_at < :now` | `:now < :now` | a quiet key saves up attempts |
| `(int(ip), 64)` | `(int(ip), 128)` | fifty at once got more than five |

## Your turn

A polite answer says how many attempts are left. Write `attempts_left`. It spends
nothing and changes nothing. The next `attempts_left` calls of `spend` at `now` are
granted, and the one after them is not.
"""


# %% tags=["exercise"]
def attempts_left(db, allowance, key, now):
    """How many attempts `key` has at `now`: 0 to `allowance.burst`."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.throttling import HINTS, check

check(attempts_left)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def attempts_left(db, allowance, key, now):
    mine = throttles.c.key_hash == key_hash(key)
    whole_at = db.scalar(sa.select(throttles.c.whole_at).where(mine))
    if whole_at is None or whole_at <= now:
        return allowance.burst
    # Begun intervals are used up: rounded up, which // does for a negative number.
    used = -((now - whole_at) // allowance.every)
    return max(0, allowance.burst - used)


assert check(attempts_left)

# %% [markdown]
"""
## Take it with you

`playbook lift throttling INTO` copies the recipe and its tests, for PostgreSQL, DuckDB
and SQLite.

| seam | what your project does |
|---|---|
| engine | passes the engine: `spend` takes a connection of its own and commits |
| transaction | passes its own to `give_back` and `forget`; retries [conflicts](../glossary.md#conflict) |
| table | `throttles.metadata.create_all`; Alembic: `target_metadata` may be a list |
| key | passes a tuple of texts: purpose, account, network |
| clock | passes `now` with a time zone |
| cleanup | calls `purge_throttles` once a day |

With lockers, which have integer ids and a PIN:

```python
def opens(engine: Engine, locker_id: int, pin: str, address: str, now: datetime):
    key = ("locker", str(locker_id), network_of(address))
    wait = spend(engine, Allowance(5, timedelta(minutes=1)), key, now)
    if wait:
        return 429, {"Retry-After": str(wait)}
    with Session(engine) as session:
        locker = session.get(Locker, locker_id)
    if not check_password(pin, locker.pin_hash if locker else None):  # slow
        return 401, "wrong locker or PIN"
    with engine.begin() as db:
        forget(db, key)
    return 200, "open"
```

Traps:

- **Many networks.** Five a minute from each of 2,000 networks try all PINs of four
  digits in a minute. Add a second key, as [Sign in](sign_in.ipynb) does.
- **Proxy.** Without uvicorn's `--forwarded-allow-ips` all clients behind your proxy are
  one network. With `*`, each client chooses its own.
- **Order.** Call `spend` before you open a session, or a request holds two connections.
- **Unknown accounts.** Count them as well, or a refusal tells who has an account.
- **SQLite in memory.** With one shared connection, `spend` commits your work too.

Hand it over:

- **Front end**: 429 has `Retry-After` in seconds. Offer a reset of the password.
- **Reviewer**: accept no look at the count without `spend`; no `spend` after the work.
- **Security**: anybody behind Ada's address shares her five attempts.
- **Operations**: `DELETE FROM throttles` forgives everybody. Watch the number of 429.
- **Tests**: count what was compared, fifty at once, not what was answered.

## In short

You can explain why a look and a write must be one statement, and why it is committed
before the attempt. One time per key holds burst and rate. The key decides who can lock
out whom.

## Sources

ITU-T I.371, annex A (generic cell rate algorithm). OWASP ASVS 5.0, 6.1.1, 6.3.1.
CWE-307 (no limit), CWE-645 (lockout), CWE-367 (look, then act). RFC 6585, 4 (429). RFC
9110, 10.2.3 (Retry-After). RFC 4291, 2.5.4 (/64). PostgreSQL, INSERT, "ON CONFLICT".
Django REST framework, "Throttling", on what its throttles are not.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Sign up](sign_up.ipynb) · [course map](../index.ipynb) · Next: [Sign in](sign_in.ipynb)
"""
