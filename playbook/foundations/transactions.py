# %% [markdown]
"""
# Transactions

Read a row, decide, and write it, while other requests do the same. No change is lost.

| | |
|---|---|
| **Use it when** | code reads a row, decides in Python, and writes what it decided |
| **You need** | [start here](start_here.ipynb) (*background*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | lost update, race condition, unit of work, retry, jitter, isolation |
| **Standard** | SQL:2023 isolation levels; PostgreSQL error class 40 |

```python
from playbook.foundations.transactions import notice_conflicts, transaction

engine = notice_conflicts(sa.create_engine(url))
answer = transaction(engine, lambda session: upload(session, 60))
```

*Lift: 62 lines in 1 file; needs sqlalchemy.*

## See it break

An organization may store 100 megabytes. The table `storage` has one row for it, with
the column `used`. Uploads are often written like this. Django does the same without
`atomic()`: each query is its own transaction.
"""

# %%
import sqlalchemy as sa
from sqlalchemy.orm import Session


def in_two_transactions(engine, meanwhile):
    with engine.begin() as connection:
        used = connection.scalar(sa.select(storage.c.used))
    meanwhile()  # another request
    if used + 60 > 100:
        return "refused"
    with engine.begin() as connection:
        connection.execute(storage.update().values(used=used + 60))
    return "accepted"


# %% [markdown]
"""
Ada and Bob upload 60 megabytes each, at the same moment. Predict: what is each of them
told, and what is `used` afterwards? The folded cell makes `plain`, an engine for the
new DuckDB of `lesson_url`. It defines `storage`, `empty_storage(engine)` and
`used_now(engine)`. `two_uploads(engine, request)` starts Bob's request, runs Ada's
whole request as its `meanwhile`, and shows what happened.
"""

# %% tags=["stage"]
from playbook.kit.lesson import lesson_url, show
from playbook.kit.stage import Timeline

storage = sa.Table(
    "storage",
    sa.MetaData(),
    sa.Column("organization", sa.String, primary_key=True),
    sa.Column("used", sa.Integer, nullable=False),
)


def empty_storage(engine):
    storage.metadata.drop_all(engine)
    storage.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(storage.insert().values(organization="acme", used=0))


def used_now(engine):
    with engine.begin() as connection:
        return connection.scalar(sa.select(storage.c.used))


def two_uploads(engine, request, timeline=True):
    """Bob's request, with Ada's whole request in its middle; what both were told."""
    empty_storage(engine)
    lanes = Timeline("Ada", "Bob").watch(engine)
    answers = {}

    def answer(name, meanwhile):
        with lanes.lane(name):
            try:
                answers[name] = request(engine, meanwhile)
            except sa.exc.DBAPIError as error:
                answers[name] = type(error.orig).__name__

    def ada():
        if "Ada" not in answers:
            answer("Ada", lambda: None)

    answer("Bob", ada)
    if timeline:
        show(lanes.shown())
    result = f"Ada: {answers['Ada']}, Bob: {answers['Bob']}, used: {used_now(engine)}"
    print(result)
    return result


plain = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)

# %% tags=["predict"]
broken = two_uploads(plain, in_two_transactions)

# %% [markdown]
"""
Each request wrote what was right for the value it had read. Bob's value was no longer
true, and his write replaced Ada's: a **lost update**. The service stores 120 megabytes
and counts 60. This is a **race condition**: the order decides.

The usual advice is to read and write in one transaction. Predict: what does it change?
"""


# %%
def upload(session, size, meanwhile=lambda: None):
    used = session.scalar(sa.select(storage.c.used))
    meanwhile()
    if used + size > 100:
        return "refused"
    session.execute(storage.update().values(used=used + size))
    return "accepted"


def in_one_transaction(engine, meanwhile):
    with Session(engine) as session, session.begin():
        return upload(session, 60, meanwhile)


# %% tags=["predict"]
one = two_uploads(plain, in_one_transaction)

# %% [markdown]
"""
DuckDB has **snapshot isolation**. A transaction reads the data as it was when the
transaction began. If it writes a row that has changed since then, the database raises
an error: a **conflict**. Nothing is lost, but Bob's client sees status 500.

## The decision

| option | good | costs |
|---|---|---|
| one statement: `SET used = used + 60` | fastest, cannot race | few rules fit in one |
| [row lock](../glossary.md#row-lock): `SELECT ... FOR UPDATE` | no work is repeated | waiting, [deadlocks](../glossary.md#deadlock) |
| SQLAlchemy's `version_id_col` | works at every level | a column; still a retry |
| **snapshot isolation and retry** | any rule, any engine | the work may run twice |
| Django's `atomic()`, Flask's session | commit and rollback | a weak level, no retry |

We choose **snapshot isolation and retry**, because the code of a rule needs no special
care. Choose one statement where the rule fits. Choose a row lock (in Django
`select_for_update`) for a row that is so busy that most attempts fail. DuckDB and
SQLite have no row locks.

## Build it

### The idea

Run the work in a transaction. After a conflict, run it again from its first line. The
second run reads the new value and decides again.
"""


# %%
def run_until_it_commits(engine, meanwhile):
    while True:
        try:
            with Session(engine) as session, session.begin():
                return upload(session, 60, meanwhile)
        except sa.exc.DBAPIError:
            continue


idea = two_uploads(plain, run_until_it_commits)

# %% [markdown]
"""
Bob is refused for the right reason. Does every database report the conflict? Which
errors are conflicts? When must the loop end?

### Does the database report it?

PostgreSQL reports a conflict only at the [isolation
level](../glossary.md#isolation-level) REPEATABLE READ. Its default is READ COMMITTED.
SQLite needs a [write-ahead log](../glossary.md#write-ahead-log) (WAL) for snapshots,
and a `BEGIN` before the first read, which Python's driver leaves out. Below the
definition, the two uploads run on SQLite, without and with it.
"""

# %% tags=["export"]
import sqlalchemy as sa


def notice_conflicts(engine: sa.Engine) -> sa.Engine:
    """`engine`, refusing to overwrite what changed since it was read. Or ValueError."""
    name = engine.dialect.name
    if name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ")
    if name == "sqlite":
        wal = "PRAGMA journal_mode = WAL"
        sa.event.listen(engine, "connect", lambda c, record: c.execute(wal))
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
    elif name != "duckdb":
        raise ValueError(f"{name} is not known to report a lost update")
    return engine


# %%
from playbook.kit.lesson import lesson_folder

url = f"sqlite:///{lesson_folder()}/storage.db"
for sqlite in (sa.create_engine(url), notice_conflicts(sa.create_engine(url))):
    two_uploads(sqlite, in_one_transaction, timeline=False)

# %% [markdown]
"""
### Which errors are conflicts?

After a conflict, the database has undone the transaction, and a new run can succeed. A
broken connection is no conflict. The commit may have succeeded before the connection
broke, and a second run would count the upload twice.
"""

# %% tags=["export"]
RETRYABLE_SQLSTATES = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "23503",  # foreign key: another transaction deleted the parent, or added a child
}
DUPLICATE_KEY = {"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}


def code_of(error: sa.exc.DBAPIError) -> str:
    """The SQLSTATE, or SQLite's name of the error, or an empty text (DuckDB)."""
    names = ("sqlstate", "sqlite_errorname")
    return "".join(getattr(error.orig, name, None) or "" for name in names)


def is_conflict(error: sa.exc.DBAPIError) -> bool:
    """Whether the database undid the work only because another one came first."""
    code, message = code_of(error), str(error.orig)
    if type(error.orig).__name__ == "TransactionException":  # of DuckDB
        return "onflict" in message or "to commit" in message
    return code in RETRYABLE_SQLSTATES or code.startswith("SQLITE_BUSY")


def somebody_was_first(error: sa.exc.DBAPIError) -> bool:
    """A conflict or a duplicate key. For work that inserts only what is missing."""
    duplicate = code_of(error) in DUPLICATE_KEY or "uplicate key" in str(error.orig)
    return duplicate or is_conflict(error)


# %%
engine = notice_conflicts(plain)
for sql in ("SELECT nonsense", "INSERT INTO storage VALUES ('acme', 0)"):
    try:
        with engine.begin() as connection:
            connection.execute(sa.text(sql))
    except sa.exc.DBAPIError as error:
        print(sql[:6], is_conflict(error), somebody_was_first(error))

# %% [markdown]
"""
A second `INSERT` of a key fails in every run. But work that inserts only what is
missing finds the row in its second run. It passes `retry=somebody_was_first`.

### How many attempts?

The loop waits before each new attempt. The longest pause doubles, up to a limit. The
real pause is a random part of it (**full jitter**), so that the same transactions do
not meet again. This is how long a caller waits before it gets the error:
"""

# %% tags=["export"]
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

T = TypeVar("T")
ATTEMPTS = 30
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.2  # seconds


def longest_pause(attempt: int) -> float:
    """The upper limit of the pause after attempt 0, 1, 2, ..., in seconds."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt)


# %%
for number in (5, 12, ATTEMPTS, 60):
    total = sum(longest_pause(attempt) for attempt in range(number - 1))
    print(f"{number} attempts: at most {total:5.2f} s of pauses")

# %% [markdown]
"""
How many does the unluckiest transaction need? Measured with threads that increment one
row 100 times each (two cores, the most of three runs):

| threads | attempts on DuckDB | attempts on PostgreSQL |
|--:|--:|--:|
| 2 | 7 | 6 |
| 4 | 7 | 11 |
| 8 | 9 | 13 |
| 16 | 11 | 20 |

Twelve attempts are sometimes too few for eight writers. The default of 30 bears
sixteen, and lets a caller wait at most five seconds. With more writers, lock the row or
write it in one statement.

### The loop

The writers of an embedded engine are usually threads of one process. So a lock lets
second attempts run one at a time, so that fewer are needed. A foreign key that names no
row fails in every run, so it has three attempts (`no_parent`).
"""

# %% tags=["export"]
SECOND_ATTEMPTS = threading.RLock()


def transaction(
    engine: sa.Engine,
    work: Callable[[Session], T],
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
    retry: Callable[[sa.exc.DBAPIError], bool] = is_conflict,
) -> T:
    """What `work(session)` returns, committed. After a conflict it runs again."""
    embedded = engine.dialect.name in ("duckdb", "sqlite")
    for attempt in range(attempts):
        alone = embedded and attempt > 0 and SECOND_ATTEMPTS.acquire(timeout=2)
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                return work(session)
        except sa.exc.DBAPIError as error:  # rolled back
            no_parent = attempt >= 2 and code_of(error) == "23503"
            if not retry(error) or no_parent or attempt == attempts - 1:
                raise
        finally:
            if alone:
                SECOND_ATTEMPTS.release()
        sleep(random.uniform(0, longest_pause(attempt)))
    raise ValueError(f"attempts must be at least 1, not {attempts}")


# %%
def in_transaction(engine, meanwhile):
    return transaction(engine, lambda session: upload(session, 60, meanwhile))


right = two_uploads(engine, in_transaction, timeline=False)

# %% [markdown]
"""
### What is outside of the database

A rollback undoes what the work did in the database, and nothing else. This service
also charges a card for each upload. Predict: how often, for Ada's and Bob's uploads?
"""

# %%
charges = []


def charge_and_upload(engine, meanwhile):
    def work(session):
        charges.append("60 MB")  # in a real service: a call to the payment provider
        return upload(session, 60, meanwhile)

    return transaction(engine, work)


# %% tags=["predict"]
two_uploads(engine, charge_and_upload, timeline=False)
print(len(charges), "charges")

# %% [markdown]
"""
An e-mail would be sent as often. Bob's work ran twice, and each run charged him,
although his upload was refused. So the work returns what is to be done, and the caller
does it after the commit. *Your turn* is about this.

## See it work

Ten clients upload 30 megabytes at the same moment, over HTTP. Three uploads fit.
"""

# %%
from fastapi import FastAPI

from playbook.kit.lesson import serving
from playbook.kit.stage import together

app = FastAPI()


@app.post("/uploads")
def post_upload(size: int):
    return transaction(engine, lambda session: upload(session, size))


empty_storage(engine)
with serving(app) as client:
    clients = {
        f"client {n}": lambda: client.post("/uploads?size=30") for n in range(10)
    }
    responses = together(**clients).values()
accepted = sum("accepted" in response.text for response in responses)
print(accepted, "accepted, used:", used_now(engine))

# %% [markdown]
"""
## On PostgreSQL

The same two uploads: first one transaction each at its default level,
then with `transaction` at our level.
"""

# %%
from playbook.kit.lesson import on_postgres


def three_ways(url):
    default = sa.create_engine(url)
    strict = notice_conflicts(default)
    two_uploads(default, in_one_transaction)
    return two_uploads(strict, in_transaction, timeline=False)


there = on_postgres(three_ways)

# %% [markdown]
"""
At READ COMMITTED each *statement* sees the latest committed data, so PostgreSQL allows
Bob's `UPDATE`. Ada's upload is lost, in a transaction and without an error. At
REPEATABLE READ PostgreSQL has snapshot isolation too.

## Check it

Eight threads add 1 ten times each, with the default number of attempts, on both
engines. The folded cell defines `eight_threads(url)`, which returns the sum.
"""


# %% tags=["stage"]
def eight_threads(url):
    engine = notice_conflicts(sa.create_engine(url, poolclass=sa.QueuePool))
    empty_storage(engine)

    def increment(session):
        used = session.scalar(sa.select(storage.c.used))
        session.execute(storage.update().values(used=used + 1))

    def ten_times():
        for _ in range(10):
            transaction(engine, increment)

    threads = {f"thread {number}": ten_times for number in range(8)}
    failed = [error for error in together(**threads).values() if error]
    return failed or used_now(engine)


# %%
assert right == "Ada: accepted, Bob: refused, used: 60", "Bob's second run was wrong"
assert there in (right, None), "PostgreSQL answers differently"
assert accepted == 3, "more or less was accepted than fits"
pauses = []
try:
    row = storage.insert().values(organization="acme", used=0)
    transaction(engine, lambda session: session.execute(row), sleep=pauses.append)
except sa.exc.IntegrityError:
    assert not pauses, "a duplicate key was tried again"
assert eight_threads(lesson_url()) == 80, "an increment was lost"
assert on_postgres(eight_threads) in (80, None), "PostgreSQL lost an increment"
print("80 of 80, and a duplicate key is tried once")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `"REPEATABLE READ"` | `"READ COMMITTED"` | PostgreSQL answers differently |
| `if not retry(error) or` | `if` | a duplicate key was tried again |
| `attempts: int = ATTEMPTS` | `attempts: int = 1` | Bob's second run was wrong |

## Your turn

Write `upload_once`. It adds `size` to `used` if the sum is at most 100, and returns the
new value, else None. For an accepted upload it calls `tell` with the new value, once,
when every other transaction can read that value. Another request can write the row at
any moment.
"""


# %% tags=["exercise"]
def upload_once(engine, size, tell):
    """The new value of `used`, told once; None if `size` does not fit."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.transactions import HINTS, check

check(upload_once)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def upload_once(engine, size, tell):
    def work(session):
        used = session.scalar(sa.select(storage.c.used))
        if used + size > 100:
            return None
        session.execute(storage.update().values(used=used + size))
        return used + size

    # The value of the run that was committed; earlier runs leave nothing behind.
    used = transaction(engine, work)
    if used is not None:
        tell(used)
    return used


assert check(upload_once)

# %% [markdown]
"""
## Take it with you

`playbook lift transactions INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| engine | passes each new engine through `notice_conflicts` |
| work | a function of a session; reads in it what it decides with |
| attempts | the default, or fewer if clients wait less than five seconds |
| last conflict | answers 503 with `Retry-After`, where it handles errors |

With models of a shop, where an order takes its products out of the stock:

```python
def place_order(session: Session, product_id: int, count: int) -> Order | None:
    product = session.get_one(Product, product_id)  # in the work, not before it
    if product.stock < count:
        return None
    product.stock -= count
    order = Order(product_id=product_id, count=count)
    session.add(order)
    session.flush()  # now the order has its id
    return order


def post_order(engine: Engine, product_id: int, count: int) -> Order | None:
    return transaction(engine, lambda session: place_order(session, product_id, count))
```

Traps:

- Call `notice_conflicts` once per engine: on SQLite a second call makes BEGIN fail.
- An ORM object that was loaded before the work has its old values in each run.
- `expire_on_commit=False` keeps returned objects readable, but a relationship that was
  not loaded raises `DetachedInstanceError`.
- DuckDB compares columns, not rows: see [Engines](engines.ipynb).
- Transactions that write different rows do not conflict: see
  [Write skew](write_skew.ipynb).

Hand it over:

- **Reviewer**: accept no e-mail, HTTP call or file inside the work.
- **Tests**: keep the property "increments in = sum out", with threads, on your engine.
- **Operations**: count the retries. Many of them name a row that is too busy.

## In short

You can explain why a transaction alone does not prevent a lost update on PostgreSQL.
You can say which errors may be retried, and what must not happen inside the work. You
can defend a number of attempts.

## Sources

PostgreSQL documentation, 13.2 (transaction isolation) and appendix A, class 40. SQLite
documentation, "Isolation In SQLite". H. Berenson et al., *A Critique of ANSI SQL
Isolation Levels* (SIGMOD 1995). M. Fowler, *Patterns of Enterprise Application
Architecture*, "Unit of Work". M. Brooker, *Exponential Backoff And Jitter* (AWS
Architecture Blog, 2015).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Clock and identifiers](clock_and_identifiers.ipynb) · [course map](../index.ipynb) · Next: [Engines](engines.ipynb)
"""
