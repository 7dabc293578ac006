# %% [markdown]
"""
# Expand and contract

Rename a column in five releases while clients read and write. No request fails, and
every row is right.

| | |
|---|---|
| **Use it when** | a column is renamed while the old release still serves |
| **You need** | [transactions](../foundations/transactions.ipynb) (*code*) |
| **Time** | read 33 min, exercise 15 min |
| **Topics** | parallel change, zero downtime, dual write, backfill, rolling update |
| **Standard** | ISO/IEC 9075-2 (ALTER TABLE) |

```python
from playbook.migrations.expand_and_contract import dual_write, migrate
from playbook.migrations.expand_and_contract import backfill, differing

migrate(engine, expand)  # expand(connection) adds the column `license`
dual_write(Package.license, Package.other)  # in the model of the next release
copied = backfill(engine, packages.c.licence, packages.c.license)
left = differing(engine, packages.c.licence, packages.c.license)  # must be 0
```

*Lift: 106 lines in 2 files; needs sqlalchemy.*

## See it break

The table `packages` has a column that is spelled `licence`. It shall be `license`. The
rename is one statement, `ALTER TABLE packages RENAME licence TO license`, and one word
in the model:
"""

# %%
import sqlalchemy as sa
from sqlalchemy import orm


def model(column):
    class Package(orm.declarative_base()):
        __tablename__ = "packages"
        name = orm.mapped_column(sa.String, primary_key=True)
        license = orm.mapped_column(column, sa.String)

    return Package


# %% [markdown]
"""
A platform replaces a release without a pause. The new release starts beside the old
one, a **[load balancer](../glossary.md#load-balancer)** sends requests to both in turn,
and then the old one stops.

Two clients write and read through it and never stop. Before the first step of a rename,
and after each step, we count how many of their next 12 requests fail.

The folded cell defines `try_order(*steps)`, with the steps `migrate_now`, `start_new`
and `stop_old`. It also gives us `database(url)` with the old column, the table
`packages` with both, `ddl(*statements)`, which makes a migration of `ALTER TABLE`
statements, and `fleet_of(url, models)`. It imports `Session`, `make_engine`,
`lesson_url`, `on_postgres`, `show`, `table` and `picture`. Predict the four numbers of
each order: which order is better?
"""

# %% tags=["stage"]
from sqlalchemy.orm import Session

from playbook.exercises.migrations.expand_and_contract import (
    database,
    ddl,
    packages,
    service,
)
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, show, table
from playbook.kit.rollout import Fleet, picture
from playbook.kit.stage import Timeline

rename = ddl("RENAME licence TO license")


def fleet_of(url, models, rows=1):
    engine = database(url, rows)
    apps = {name: lambda one=one: service(engine, one) for name, one in models.items()}
    return Fleet(engine, apps, clients=2)


def migrate_now(fleet):
    with fleet.quiet(), fleet.engine.begin() as connection:
        rename(connection)


def start_new(fleet):
    fleet.start("new")


def stop_old(fleet):
    fleet.stop("old")


def try_order(*steps):
    models = {"old": model("licence"), "new": model("license")}
    with fleet_of(lesson_url(), models) as fleet:
        fleet.start("old")
        fleet.look()
        for step in steps:
            step(fleet)
            fleet.look()
        return [moment["failed"] for moment in fleet.seen]


# %% tags=["predict"]
broken = [
    ["the migration first", *try_order(migrate_now, start_new, stop_old)],
    ["the release first", *try_order(start_new, stop_old, migrate_now)],
]
show(table(broken, ["order", "before", "step 1", "step 2", "step 3"]))

# %% [markdown]
"""
The migration takes a moment, but the outage lasts as long as the rollout. While both
releases serve, no schema suits both, so neither order is better.

## The decision

| option | good | costs |
|---|---|---|
| stop, rename, start | one release | an outage, and a second one to go back |
| rename the attribute only (`db_column`) | one line | the column keeps its name |
| trigger that copies each write | the code stays | PostgreSQL only; hidden logic |
| **expand and contract** | each step but the last can be undone | five releases |
| Django's `RenameField`, Alembic | generated | the outage from above |

We choose **expand and contract**. It also serves when a column gets another type.
Choose the attribute when only the word is wrong. Choose the stop when a minute without
service costs less than five releases.

## Build it

### The idea

For a while the table has both columns, so that every two neighbouring releases
understand it:

| release | reads | writes | when it is everywhere |
|---|---|---|---|
| 0, today | `licence` | `licence` | |
| 1, **expand** | `licence` | `licence` | add `license`; both may be NULL |
| 2, **dual write** | `licence` | both | |
| 3, **backfill** | `licence` | both | copy the old rows |
| 4, **switch** | `license` | both | |
| 5, **contract** | `license` | `license` | drop `licence` |

Release 4 still writes the old column, because release 3 reads it beside release 4.

### Dual write

The code of the service assigns `row.license` in many places. Only the model knows that
there are two columns:
"""

# %% tags=["export"]
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm.attributes import QueryableAttribute


def dual_write(
    source: QueryableAttribute[Any], target: QueryableAttribute[Any]
) -> None:
    """From now on, what is assigned to `source` is assigned to `target` as well."""

    def copy(row: object, value: object, *_: object) -> None:
        setattr(row, target.key, value)

    sa.event.listen(source, "set", copy)


# %%
def model_of_both(reads, other):
    package = model(reads)
    package.other = orm.mapped_column(other, sa.String)
    dual_write(package.license, package.other)
    return package


both = model_of_both("licence", "license")
row = both(name="pip", license="MIT")
print(row.license, row.other)

# %% [markdown]
"""
### Backfill

The **backfill** copies the rows that existed before. Which rows are they? An obvious
answer is `license IS NULL`. While releases 1 and 2 serve side by side, three requests
come in, and then that copy runs. Predict `license` of both rows:
"""

# %% tags=["predict"]
old = model("licence")
engine = make_engine(lesson_url())
packages.create(engine)
requests = [(old, "httpx", "MIT"), (both, "pip", "MIT"), (old, "pip", "PSF-2.0")]
for package, name, text in requests:
    with Session(engine) as db, db.begin():
        db.merge(package(name=name, license=text))
copy = "UPDATE packages SET license = licence WHERE license IS NULL"
with engine.begin() as connection:
    connection.execute(sa.text(copy))
    rows = connection.execute(sa.select(packages).order_by(packages.c.name)).all()
show(table(rows, ["name", "licence", "license"]))

# %% [markdown]
"""
Release 1 changed one column of `pip`, so the other one is **stale**. No value is NULL,
a constraint `NOT NULL` would accept the table, and release 4 would show an old licence.
So the recipe copies where the columns *differ*.

One UPDATE over a large table holds every row until its commit. The recipe walks through
the primary key and copies up to `size` rows in each transaction. A `source` may also be
an expression, such as `sa.func.lower(...)`.
"""

# %% tags=["export"]
from functools import partial

from sqlalchemy.orm import Session

from playbook.foundations.transactions import code_of, is_conflict, transaction

Value = sa.ColumnElement[Any]
Column = sa.Column[Any]


def copy_range(
    db: Session, source: Value, target: Column, size: int, after: Any
) -> tuple[Any, int]:
    """Copy `size` rows beyond the key `after`. The last key, and how many changed."""
    (key,) = target.table.primary_key
    beyond = sa.true() if after is None else key > after
    keys = sa.select(key).where(beyond).order_by(key).limit(size).subquery()
    last = db.scalar(sa.select(sa.func.max(keys.c[key.name])))
    if last is None:
        return None, 0
    stale = target.is_distinct_from(source)
    update = sa.update(target.table).where(beyond, key <= last, stale)
    changed = db.execute(update.values({target: source}).returning(key))
    return last, len(changed.all())


# %%
source, target = packages.c.licence, packages.c.license
with Session(engine) as db, db.begin():
    first = copy_range(db, source, target, 1, None)
    second = copy_range(db, source, target, 1, "httpx")
print(first, second)

# %% [markdown]
"""
Each pair is the last key of a range, and how many of its rows were changed. `backfill`
goes on until there is no key left, with a transaction for each range. Release 4 may
start when `differing` is 0.
"""


# %% tags=["export"]
def backfill(engine: sa.Engine, source: Value, target: Column, size: int = 1000) -> int:
    """Make `target` equal to `source` in all rows; how many were changed.

    Run it when no release writes `source` alone. It can be repeated.
    """
    copy = partial(copy_range, source=source, target=target, size=size)
    after, changed = transaction(engine, partial(copy, after=None))
    while after is not None:
        after, number = transaction(engine, partial(copy, after=after))
        changed += number
    return changed


def differing(engine: sa.Engine, source: Value, target: Column) -> int:
    """In how many rows `target` has another value than `source`, or NULL."""
    unequal = target.is_distinct_from(source)
    rows = sa.select(sa.func.count()).select_from(target.table).where(unequal)
    with engine.connect() as connection:
        return connection.scalar(rows) or 0


# %%
with Session(engine) as db, db.begin():
    db.add(old(name="ruff", license="MIT"))  # release 1
before = differing(engine, source, target)
copied = backfill(engine, source, target)
print(before, copied, differing(engine, source, target))

# %% [markdown]
"""
### Migrate

An `ALTER TABLE` takes a moment. On PostgreSQL it first waits for every transaction that
has read the table, and all later requests wait behind it. So it must give up soon, let
them pass, and try again. The limit of its wait is `lock_timeout`, in milliseconds.
"""

# %% tags=["export"]
import random
import time
from collections.abc import Callable


def migrate(
    engine: sa.Engine,
    change: Callable[[sa.Connection], object],
    lock_timeout: int = 200,
    attempts: int = 100,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run `change(connection)`, quick DDL, in a transaction; how often it gave way."""
    for times in range(attempts):
        try:
            with engine.begin() as connection:
                if engine.dialect.name == "postgresql":
                    limit = f"SET LOCAL lock_timeout = {lock_timeout:d}"
                    connection.exec_driver_sql(limit)
                change(connection)
            return times
        except sa.exc.DBAPIError as error:
            gave_way = is_conflict(error) or code_of(error) == "55P03"  # lock_timeout
            if not gave_way or times == attempts - 1:
                raise
        sleep(random.uniform(0, min(1.0, 0.02 * 2**times)))
    raise ValueError(f"attempts must be at least 1, not {attempts}")


# %% [markdown]
"""
The first migration runs beside another transaction, which changes the same table. That
one ends while `migrate` pauses:
"""

# %%
expand = ddl("ADD license VARCHAR", "ALTER licence DROP NOT NULL")
one = database(lesson_url())
with one.connect() as other:
    ddl("ADD size INTEGER")(other)
    print(migrate(one, expand, sleep=lambda seconds: other.rollback()))

# %% [markdown]
"""
DuckDB must have no writers while a table is altered. Its fleet holds the requests for
that moment (`fleet.quiet()`).

## See it work

All five releases, while the two clients write and read. `fleet.replace(release)` starts
a release beside the one that serves, and stops that one. It looks before, and while
both serve. Predict: how many requests fail in all? How many rows are wrong at the end?
"""

# %%
contract = ddl("ALTER license SET NOT NULL", "DROP licence")
switched = model_of_both("license", "licence")
models = [old, old, both, both, switched, model("license")]
RELEASES = dict(zip("012345", models, strict=True))


def five_releases(url):
    with fleet_of(url, RELEASES, rows=200) as fleet:
        fleet.start("0")
        fleet.replace("1")
        with fleet.quiet():
            migrate(fleet.engine, expand)
        fleet.replace("2")
        fleet.replace("3")
        backfill(fleet.engine, source, target)
        fleet.look()
        left = differing(fleet.engine, source, target)
        if left == 0:
            fleet.replace("4")
            fleet.replace("5")
            with fleet.quiet():
                migrate(fleet.engine, contract)
            fleet.look()
        return fleet.seen, fleet.failures(), left, fleet.wrong_rows("license")


# %% tags=["predict"]
seen, failed, left, wrong = five_releases(lesson_url())
show(table(seen))
print(f"failed: {len(failed)}, left: {left}, wrong rows: {wrong}")

# %% [markdown]
"""
Each line is a moment at which requests were counted. The same as a picture, with a day
for each moment:
"""

# %%
show(picture(seen))

# %% [markdown]
"""
Releases overlap, and the columns change while one release serves alone, which
understands them before and after.

## On PostgreSQL

A report has read `packages` and stays open while the first migration begins. Then the
five releases run as before. The folded cell defines `day_there(url)`. It shows what the
report, the migration and a client did, in the order in which it happened.
"""


# %% tags=["stage"]
def beside_a_report(url):
    engine = database(url)
    lanes = Timeline("report", "migration", "client").watch(engine)

    def read(connection):
        connection.execute(sa.text("SELECT licence FROM packages"))

    def pause(seconds):
        with lanes.lane("client"), engine.begin() as client:
            read(client)
        with lanes.lane("report"):
            report.commit()

    with engine.connect() as report:
        with lanes.lane("report"):
            read(report)
        with lanes.lane("migration"):
            migrate(engine, expand, lock_timeout=50, sleep=pause)
    show(lanes.shown())


def day_there(url):
    beside_a_report(url)
    return five_releases(url)


# %%
here = seen, failed, left, wrong
there = on_postgres(day_there)
print("the same as on DuckDB" if there == here else there)

# %% [markdown]
"""
The client read between the two attempts. With a long `lock_timeout` it would have
waited behind the migration, and the migration behind the report.

`SET NOT NULL` reads the whole table under its lock. For a hundred million rows, add
`CHECK (license IS NOT NULL) NOT VALID` first, and validate it in another migration.

## Check it
"""

# %%
assert broken[1][2:4] == ["6 of 12", "12 of 12"], "the plain rename failed no request"
assert row.other == "MIT", "a write missed the new column"
assert first == ("httpx", 0), "a transaction went beyond its range"
assert second == ("pip", 1), "a stale row was not copied"
assert (left, failed, wrong) == (0, [], 0), "a request failed, or a row is wrong"
assert there in (here, None), "PostgreSQL had another rollout"
print("the plain rename failed requests; five releases failed none, every row is right")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `last, stale)` | `last, target.is_(None))` | a stale row was not copied |
| `where(beyond, key <= last` | `where(beyond` | a transaction went beyond its range |
| `setattr(row, target.key, value)` | `return` | a write missed the new column |

## Your turn

Release 5 has replaced release 4, and its migration has not run yet. For a day rows are
written. Then releases 5 and 4 turn out to have a fault, and everybody must go back to
release 2.

Write `go_back(fleet)`. It may call `fleet.start("4")`, `fleet.stop("5")` and the
recipe, with `fleet.engine`. The clients never stop: no request may fail, and nothing
that was written may be lost.
"""


# %% tags=["exercise"]
def go_back(fleet):
    """From release 5 to release 2; the table still has both columns."""
    raise NotImplementedError


# %%
from playbook.exercises.migrations.expand_and_contract import HINTS, check

check(go_back)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def go_back(fleet):
    fleet.start("4")  # reads what 5 writes, and writes both columns
    fleet.stop("5")
    # Now no release writes one column alone. What 5 wrote is in the new one.
    backfill(fleet.engine, packages.c.license, packages.c.licence)
    fleet.start("2")
    fleet.stop("4")


assert check(go_back)

# %% [markdown]
"""
## Take it with you

`playbook lift expand_and_contract INTO` copies the recipe and its tests.

| seam | what your project does |
|---|---|
| engine | passes an engine; `backfill` retries [conflicts](../glossary.md#conflict), at any [isolation level](../glossary.md#isolation-level) |
| table | has a primary key of one column; `Customer.__table__` serves |
| change | a function of a connection: DDL, or Alembic on that connection |
| rollout | one release after the other; a release accepts both [revisions](../glossary.md#revision) |
| DuckDB | holds the requests while it calls `migrate` |

A shop, in the release that writes both columns. `migrate(engine, to_revision)` needs an
`env.py` that takes the connection, as that of [first migration](first_migration.ipynb)
does. On another connection, no limit holds.

```python
class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[str | None] = mapped_column("telefone")
    other: Mapped[str | None] = mapped_column("telephone")


dual_write(Customer.phone, Customer.other)


def to_revision(connection):
    config = Config("alembic.ini")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def backfill_phones(engine):
    columns = Customer.__table__.c
    return backfill(engine, columns.telefone, columns.telephone)
```

Traps:

- **Statements** such as a bulk INSERT or UPDATE go past `dual_write`, and so does
  `default=`. Name both columns in each, and give both the same default.
- **`SELECT *`** sees columns come and go.
- **The order.** Begin no step before the one before it is everywhere, and no switch
  before `differing` is 0.
- **Another type.** Convert in a listener of your own, and pass an expression as
  `source`.
- **DuckDB and an index.** Alembic copies such a table. Drop the index in one migration,
  change the table in the next, and make the index again in a third.

Hand it over:

- **Operations**: watch the number of failed requests during the rollout; it is zero.
- **Reviewer**: no copying of rows in a migration; that is the backfill.
- **Front end**: the JSON field never changed. To rename it is a change of the contract.
- **Migrations**: contract last, when nobody wants to go back: a dropped column is gone.

## In short

You can explain why no order of migration and release makes a plain rename safe. You
know why a backfill compares columns, and does not look for NULL. You can go back from
every step but the last.

## Sources

P. Sadalage and S. Ambler, *Refactoring Databases*, "Rename Column". D. Sato,
"ParallelChange" (martinfowler.com, 2014). PostgreSQL documentation, 13.3.1 (table-level
locks), 19.11 (`lock_timeout`), "ALTER TABLE". DuckDB documentation, "Concurrency".
SQLAlchemy documentation, "Attribute Events".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Drift](drift.ipynb) · [course map](../index.ipynb) · Next: [Test migrations](test_migrations.ipynb)
"""
