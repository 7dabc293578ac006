# %% [markdown]
"""
# Clock and identifiers

Let a test choose the time, the ids and the random bytes. Give each row an id that sorts
by age and counts nothing.

| | |
|---|---|
| **Use it when** | code asks what time it is, makes an id, or makes a token |
| **You need** | [start here](start_here.ipynb) (*background*) |
| **Time** | read 36 min, exercise 15 min |
| **Topics** | time zone, flaky test, primary key, UUID, serial, seed, token, API key |
| **Standard** | RFC 9562 (5.7, 6.2, 8), OWASP ASVS 5.0 (11.5.1) |

```python
from playbook.foundations.clock_and_identifiers import (
    Identifiers, SystemClock, hash_token, new_token,
)

ids = Identifiers(SystemClock())  # one generator per process
order_id = ids.new()  # a UUIDv7, greater than the one before
token = new_token("shop")  # shown to its owner once
stored = hash_token(token)  # kept in the table, looked up later
```

*Lift: 97 lines in 1 file; needs nothing.*

## See it break

A page lists the releases of today. A test publishes a release and looks at the page:
"""

# %%
from datetime import datetime

releases = []


def publish(name):
    releases.append((name, datetime.now()))


def released_today():
    return [name for name, at in releases if at.date() == datetime.now().date()]


def test_todays_page():
    publish("httpx")
    assert released_today() == ["httpx"]


# %% [markdown]
"""
The folded cell defines `run_at(moment)`. It runs the test on a machine whose clock
shows `moment` at the first look, and one millisecond more at each further look.
"""

# %% tags=["stage"]
from datetime import timedelta
from unittest.mock import patch


def run_at(moment):
    releases.clear()
    start = datetime.fromisoformat(f"2026-11-30 {moment}")
    with patch("__main__.datetime") as machine:
        machine.now.side_effect = [start + timedelta(milliseconds=n) for n in range(9)]
        try:
            test_todays_page()
        except AssertionError:
            return "fails"
    return "passes"


# %% [markdown]
"""
Predict: which of these three runs fail? Is the mistake in the code or in the test?
"""

# %% tags=["predict"]
for moment in ("12:00:00.000", "23:59:59.998", "23:59:59.999"):
    print(moment, run_at(moment))

# %% [markdown]
"""
Such a test turns red one night in the build, and green when it is run again. At
midnight the release becomes yesterday's, and the page is right not to show it. The
mistake is in the test, which cannot say at which time it runs.

Now the ids. A shop numbers its customers, and links to their pages contain the number.
A competitor found five such links. The folded cell makes a table with `customers` rows.
It prints `seen`, the five ids.
"""

# %% tags=["stage"]
import random

import sqlalchemy as sa

from playbook.kit.lesson import lesson_url

with sa.create_engine(lesson_url()).begin() as connection:
    run = connection.exec_driver_sql
    run("CREATE SEQUENCE numbers")
    run("CREATE TABLE customers (id BIGINT DEFAULT nextval('numbers'), name VARCHAR)")
    many = "SELECT 'Ada' FROM generate_series(1, 8653)"
    run(f"INSERT INTO customers (name) {many}")
    numbers = run("SELECT id FROM customers ORDER BY id").scalars().all()
customers = len(numbers)
seen = random.Random(7).sample(numbers, 5)
print(seen)

# %% [markdown]
"""
Predict: how many customers does the shop have? How near can five ids bring you?
"""

# %% tags=["predict"]
estimate = max(seen) + max(seen) / len(seen) - 1
print(f"estimated {estimate:,.0f}, in truth {customers:,}")

# %% [markdown]
"""
The formula adds the average gap to the greatest id. In the Second World War it
estimated the production of tanks from serial numbers (the *German tank problem*).

## The decision

**Where does code get the time?**

| option | good | costs |
|---|---|---|
| `datetime.now()`, Django's `timezone.now()` | no code | a test cannot choose it |
| patch in tests (freezegun) | old code too | patches libraries as well |
| **a clock as an argument** | a test chooses | one more argument |

**What is the primary key?**

| option | good | costs |
|---|---|---|
| serial (Django's `BigAutoField`) | short, sorted by age | counts your rows |
| UUIDv4 | made anywhere, tells nothing | scattered over the index |
| **UUIDv7** | made anywhere, sorted by age | 16 bytes; tells its millisecond |

We choose the **clock as an argument** and **UUIDv7**. Choose a serial number for rows
that stay inside. Choose UUIDv4 where the time of creation must stay private.

## Build it

What a test cannot choose, it cannot test. Time and random bytes come from outside of
the program. Here both become arguments.

### The clock

A clock has one method. Only the place that assembles the program says `SystemClock()`.
"""

# %% tags=["export"]
import threading
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Any object with this method: the machine's clock, or one of a test."""

    def now(self) -> datetime:
        """The current time: aware, in UTC."""


class SystemClock:
    """The machine's clock. It can jump, also back, when the machine corrects it."""

    def now(self) -> datetime:
        return datetime.now(UTC)


# %%
print(datetime.now().tzinfo, SystemClock().now().tzinfo)

# %% [markdown]
"""
`datetime.now()` has no time zone, so it means something else on each machine. A test
uses the next class, which refuses such a time.
"""


# %% tags=["export"]
class FixedClock:
    """For tests: shows `start`, and `step` more after each look. Thread safe."""

    def __init__(self, start: datetime, step: timedelta = timedelta(0)) -> None:
        if start.tzinfo is None:
            raise ValueError("start should have a time zone: datetime(..., tzinfo=UTC)")
        self._now = start.astimezone(UTC)
        self._step = step
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            now = self._now
            self._now += self._step
        return now

    def advance(self, by: timedelta) -> None:
        """Move the clock on, or back with a negative `by`."""
        with self._lock:
            self._now += by


# %%
evening = datetime(2026, 11, 30, 23, 59, 59, 999_000, tzinfo=UTC)
clock = FixedClock(evening)
print(clock.now(), "and still", clock.now().time())
clock.advance(timedelta(milliseconds=1))
print(clock.now())

# %% [markdown]
"""
### Random bytes

Randomness is a function from a number of bytes to bytes. The default is
`secrets.token_bytes`. A test seeds it, so that it gets the same ids in each run.
"""

# %% tags=["export"]
import hashlib
import secrets
from collections.abc import Callable

RandomBytes = Callable[[int], bytes]


class SeededBytes:
    """The same bytes for the same seed: for tests, never in production. Thread safe."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0
        self._lock = threading.Lock()

    def __call__(self, size: int) -> bytes:
        with self._lock:
            self._calls += 1
            call = self._calls
        return hashlib.shake_256(f"{self._seed}/{call}".encode()).digest(size)


# %%
for seed in (1, 1, 2):
    print(seed, SeededBytes(seed)(8).hex())

# %% [markdown]
"""
### An id that sorts by age

A UUIDv7 begins with the time. The *tail* is 74 further bits, 12 and 62 of them. The
digit 7 is the version, and the two bits of *var* are always 10.

```text
 48 bits: milliseconds since 1970 |  7 | 12 bits | var | 62 bits
 017f22e2-79b0                    - 7    cc3     -  98c4-dc0c0c07398f
```

The time can be read back from any UUIDv7. This one is the example of RFC 9562:
"""

# %% tags=["export"]
import uuid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def uuid7_time(identifier: uuid.UUID) -> datetime:
    """When a UUIDv7 was made, in UTC. Raises ValueError for any other UUID."""
    if identifier.version != 7:
        raise ValueError("should be a UUID of version 7")
    try:
        return EPOCH + (identifier.int >> 80) * MILLISECOND
    except OverflowError:
        raise ValueError("should have a time before the year 10000") from None


# %%
print(uuid7_time(uuid.UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")))

# %% [markdown]
"""
Many ids are made in one millisecond, and a clock can go back. In both cases the next id
keeps the time of the last one. It adds a random step to its tail, so that it is greater
(RFC 9562, 6.2, method 2).
"""


# %% tags=["export"]
class Identifiers:
    """Makes UUIDv7 (RFC 9562, 5.7), each greater than the last. Thread safe."""

    def __init__(self, clock: Clock, random_bytes: RandomBytes = secrets.token_bytes):
        self._clock = clock
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._time = -1  # of the last id: milliseconds since 1970
        self._tail = 0  # of the last id: 74 bits

    def new(self) -> uuid.UUID:
        """A new id. Raises ValueError when the clock stands before 1970."""
        fresh = int.from_bytes(self._random_bytes(10))
        with self._lock:
            time = (self._clock.now() - EPOCH) // MILLISECOND
            if time < 0:
                raise ValueError("the clock stands before 1970: UUIDv7 cannot say so")
            self._tail += 1 + fresh % 2**32
            if time > self._time or self._tail >= 2**74:
                self._time = max(time, self._time + 1)
                self._tail = fresh % 2**73  # the first bit is free: room to count on
            high, low = divmod(self._tail, 2**62)
            bits = self._time << 80 | 7 << 76 | high << 64 | 2 << 62 | low
        return uuid.UUID(int=bits)


# %% [markdown]
"""
The clock stands at midnight now. Predict: it goes back an hour after the second id.
Which digits does the third id share with the second?
"""

# %% tags=["predict"]
ids = Identifiers(clock, SeededBytes(1))
made = [ids.new(), ids.new()]
clock.advance(timedelta(hours=-1))
made.append(ids.new())
print(*made, sep="\n")

# %% [markdown]
"""
The ids of two processes stand in the order of their clocks, and 73 random bits keep
them apart. The ids of one generator always rise.

Python 3.14 has `uuid.uuid7()`, PostgreSQL 18 has `uuidv7()`. Both read the machine's
clock, so a test cannot choose the time.

A bulk load makes its rows in SQL, thousands at once. `counting_on` makes their ids
there, in the same way, for DuckDB. The cell below it compares three such ids with the
last one:
"""


# %% tags=["export"]
def counting_on(first: uuid.UUID, order: str) -> str:
    """DuckDB SQL: a UUIDv7 per row, after `first`, of its time, rising in `order`."""
    tail = (first.int >> 64) % 2**12 * 2**62 + first.int % 2**62
    steps = f"sum(1 + floor(random() * {2**32})::BIGINT) OVER (ORDER BY {order})"
    high = f"tail // {2**62}"
    low = f"{2**63}::HUGEINT + tail % {2**62}"
    text = f"format('{first.int >> 80:012x}7{{:03x}}{{:016x}}', {high}, {low})"
    return f"list_transform([{tail}::HUGEINT + {steps}], lambda tail: {text})[1]::UUID"


# %%
import duckdb

sql = f"SELECT {counting_on(made[-1], 'line')} FROM range(3) t(line) ORDER BY line"
three = [row[0] for row in duckdb.sql(sql).fetchall()]
print(str(three[0])[:23], made[-1] < three[0] < three[1] < three[2])

# %% [markdown]
"""
### A token

An id is no secret: it stands in addresses and logs, and much of it is time. What gives
access is a *token*, with three properties:

- **Random**: 32 digits to the base 62 are 190 bits. OWASP ASVS asks for 128.
- **Recognizable**: a prefix and a checksum. A scanner finds it in a public repository
  without asking us.
- **Stored as a hash**: a stolen table opens nothing. Django REST Framework's
  `TokenAuthentication` stores the token itself.

One fast SHA-256 is enough here. A password needs a slow hash, because an attacker can
try a list of likely passwords. No list holds 190 random bits.
"""

# %% tags=["export"]
import re
import zlib

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base62(number: int, length: int) -> str:
    """The last `length` digits of `number` in base 62."""
    places = reversed(range(length))
    return "".join(DIGITS[number // 62**place % 62] for place in places)


def new_token(prefix: str, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """`prefix_`, 32 random digits, 6 of checksum. Raises ValueError: a bad prefix."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,19}", prefix):
        raise ValueError("prefix should be 2 to 20 of a-z, 0-9 and _, a letter first")
    number = int.from_bytes(random_bytes(32))
    body = f"{prefix}_{base62(number, 32)}"
    return body + base62(zlib.crc32(body.encode()), 6)


def is_token(text: str, prefix: str) -> bool:
    """Whether `text` has the format of a token; not whether it gives access."""
    pattern = rf"{re.escape(prefix)}_[0-9A-Za-z]{{38}}"
    formed = re.fullmatch(pattern, text) is not None
    return formed and text[-6:] == base62(zlib.crc32(text[:-6].encode()), 6)


def hash_token(token: str) -> str:
    """SHA-256 of a token, 64 hexadecimal digits: what is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


# %%
token = new_token("shop", SeededBytes(1))
mistyped = token.replace("1", "l", 1)
print(token, is_token(token, "shop"))
print(mistyped, is_token(mistyped, "shop"))
print(hash_token(token))

# %% [markdown]
"""
## See it work

The folded cell defines `release_service(clock, ids)`, the page of today's releases as
an HTTP service. `serving` runs it on a real server, `show_http` prints requests and
answers, and `said(client)` returns the bytes of the answers.
"""

# %% tags=["stage"]
from fastapi import FastAPI

from playbook.kit.lesson import serving, show_http


def release_service(clock, ids):
    app = FastAPI()
    releases = []

    @app.post("/releases/{name}", status_code=201)
    def publish(name: str):
        releases.append((ids.new(), name, clock.now().date()))
        return {"id": releases[-1][0]}

    @app.get("/releases/today")
    def today():
        return [name for _, name, day in releases if day == clock.now().date()]

    return app


def said(client):
    return [exchange.response_body for exchange in client.exchanges]


# %%
def one_evening():
    clock = FixedClock(evening)
    app = release_service(clock, Identifiers(clock, SeededBytes(1)))
    with serving(app) as client:
        client.post("/releases/httpx")
        client.get("/releases/today")
        clock.advance(MILLISECOND)
        client.get("/releases/today")
    return client


first = one_evening()
show_http(first)

# %% [markdown]
"""
Each run of this evening gives the same bytes.

## On PostgreSQL

The index of a primary key is a B-tree, sorted pages of 8 kB. A UUIDv7 goes to the last
page. A UUIDv4 can go to any page. After a checkpoint (all pages are saved), the first
change to a page writes the **whole page** to the [write-ahead
log](../glossary.md#write-ahead-log), which backups and **replicas** (copies that
follow) receive.

The folded cell defines `compare(url)`. A table has 23,000 rows, then 500 more come.
`on_postgres` runs it on a new database. Each `#` is about ten changed pages.
"""

# %% tags=["stage"]
from playbook.kit.lesson import on_postgres


def compare(url):
    random_bytes = SeededBytes(2)
    seven = Identifiers(FixedClock(evening, 7 * MILLISECOND), SeededBytes(1))
    version7 = [seven.new() for _ in range(23_500)]
    version4 = [uuid.UUID(bytes=random_bytes(16), version=4) for _ in version7]
    insert = sa.text("INSERT INTO things SELECT unnest(CAST(:ids AS uuid[]))")
    explain = sa.text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {insert}")
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        if connection.exec_driver_sql("SHOW is_superuser").scalar_one() != "on":
            return print("skipped: CHECKPOINT needs a superuser")
        for version, made in (("UUIDv4", version4), ("UUIDv7", version7)):
            connection.exec_driver_sql("CREATE TABLE things (id uuid PRIMARY KEY)")
            connection.execute(insert, {"ids": made[:23_000]})
            connection.exec_driver_sql("CHECKPOINT")
            plan = connection.execute(explain, {"ids": made[23_000:]}).scalar_one()
            tens = round(plan[0]["Plan"]["Shared Dirtied Blocks"] / 10)
            print(f"{version} {'#' * tens}")
            connection.exec_driver_sql("DROP TABLE things")


# %%
on_postgres(compare)

# %% [markdown]
"""
## Check it
"""

# %%
assert said(first)[1:] == [b'["httpx"]', b"[]"], "today's page is wrong at midnight"
assert said(one_evening()) == said(first), "the same evening gave other bytes"
assert made == sorted(set(made)), "an id is not greater than the last"
assert not is_token(mistyped, "shop"), "a mistyped token was accepted"
print("both sides of midnight, twice the same; ids rise; typing errors are seen")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `self._now += by` | `pass` | today's page is wrong at midnight |
| `self._tail += 1` | `self._tail = 1` | an id is not greater than the last |
| `formed and text[-6:]` | `formed or text[-6:]` | a mistyped token was accepted |

## Your turn

"The releases of a day" can be read from the primary key, without an index on a date:

```sql
WHERE id >= :first AND id < :after
```

Write `ids_of_day(day, zone)`. It returns the two bounds for a calendar day in a time
zone. An id of the first millisecond of the day belongs to it, whatever its tail. An id
of the next day's first millisecond does not.
"""

# %% tags=["exercise"]
from datetime import date, time, tzinfo


def ids_of_day(day: date, zone: tzinfo) -> tuple[uuid.UUID, uuid.UUID]:
    """Bounds: an id of this day is at least the first, and less than the second."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.clock_and_identifiers import HINTS, check

check(ids_of_day)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def lowest_id(day: date, zone: tzinfo) -> uuid.UUID:
    midnight = datetime.combine(day, time.min, zone)
    return uuid.UUID(int=(midnight - EPOCH) // MILLISECOND << 80)


def ids_of_day(day: date, zone: tzinfo) -> tuple[uuid.UUID, uuid.UUID]:
    # The next midnight, not 24 hours later: twice a year a day has 23 or 25 hours.
    return lowest_id(day, zone), lowest_id(day + timedelta(days=1), zone)


assert check(ids_of_day)

# %% [markdown]
"""
## Take it with you

`playbook lift clock_and_identifiers INTO` copies the recipe and its tests into your
project. Its seams:

| seam | what your project does |
|---|---|
| clock | makes one `SystemClock()` and passes it on |
| generator | makes one `Identifiers` per process |
| columns | a UUID, as key or beside an integer key; `String(64)` for the hash |

With a model of your own:

```python
class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    made_at: Mapped[datetime]


def new_key(session: Session, ids: Identifiers, clock: Clock) -> str:
    token = new_token("shop")
    hashed = hash_token(token)
    session.add(ApiKey(id=ids.new(), hash=hashed, made_at=clock.now()))
    return token
```

Traps:

- SQLite drops the time zone of a `datetime`. [Engines](engines.ipynb) has a type that
  keeps it.
- A forked worker must make its own `Identifiers`, or two workers share a tail.
- An id never replaces a permission check (RFC 9562, 8).

Hand it over:

- **Reviewer**: accept no `datetime.now`, `time.time`, `uuid4` or `random` elsewhere.
- **Front end**: an id is an [opaque](../glossary.md#opaque) string. Its time is no
  promise.
- **Security**: a few UUIDv7 tell how often rows are made. Register the prefix with a
  secret scanner.
- **Tests**: call `advance` instead of sleeping. Test on both sides of a boundary.

## In short

A test can stand on both sides of midnight, because the clock is an argument. A UUIDv7
sorts by age and counts nothing. The ids of one generator rise even when the clock goes
back. Only the hash of a token is stored, and a fast hash is enough.

## Sources

RFC 9562, 5.7 (UUIDv7), 6.2 (monotonicity), 6.9 (unguessability), 8 (security). OWASP
ASVS 5.0, 11.5.1. NIST SP 800-63B-4, 3.1.2 (look-up secrets). GitHub, "Behind GitHub's
new authentication token formats". PostgreSQL documentation, `full_page_writes`. R.
Ruggles, H. Brodie, "An Empirical Approach to Economic Intelligence in World War II".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Settings](settings.ipynb) · [course map](../index.ipynb) · Next: [Transactions](transactions.ipynb)
"""
