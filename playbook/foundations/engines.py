# %% [markdown]
"""
# Engines

Run one code base on an embedded database and on PostgreSQL, and get every connection
back.

| | |
|---|---|
| **Use it when** | a program must start on a laptop without a database server |
| **You need** | [start here](start_here.ipynb), [transactions](transactions.ipynb) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | engine, connection pool, duckdb, postgresql, pgbouncer, time zone |

```python
from playbook.foundations.engines import Base, make_engine

engine = make_engine("duckdb:///shop.duckdb")  # or postgresql+psycopg://host/shop
Base.metadata.create_all(engine)
```

*Lift: 90 lines in 1 file; needs psycopg, sqlalchemy.*

## See it break

DuckDB is a database in a library, as SQLite is. In memory it needs no file, which suits
tests. This program makes a table, and a thread reads it, as a request of a web server
would. (`together` runs functions in threads and returns their results or errors.)
Predict: what does the thread find?
"""

# %% tags=["predict"]
import sqlalchemy as sa

from playbook.kit.stage import together

in_memory = sa.create_engine("duckdb:///:memory:")
with in_memory.begin() as connection:
    connection.execute(sa.text("CREATE TABLE packages AS SELECT 'httpx' AS name"))


def read(engine):
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT name FROM packages"))


found = together(request=lambda: read(in_memory))
print(str(found["request"]).splitlines()[0])

# %% [markdown]
"""
SQLAlchemy has opened a second connection for the second thread. Without a name after
`:memory:`, each connection has a database of its own.

A **connection pool** lends connections to requests. The next pool has two. Three
requests fail one after the other, and an error tracker keeps their exceptions. Predict:
does each request fail for its own reason?
"""

# %% tags=["predict"]
pool = {"poolclass": sa.QueuePool, "pool_size": 2, "max_overflow": 0}
small = sa.create_engine("duckdb:///:memory:small", pool_timeout=0.1, **pool)
tracker = []


def handle_request():
    connection = small.connect()
    connection.execute(sa.text("SELECT * FROM no_such_table"))
    connection.close()


for _ in range(3):
    try:
        handle_request()
    except sa.exc.SQLAlchemyError as error:
        tracker.append(error)
        print(type(error).__name__, "connections out:", small.pool.checkedout())

# %% [markdown]
"""
The line with `close` was never reached, and the tracked exceptions keep the connections
alive. So none was left for the third request. In production a log handler or a debugger
does the same.

## The decision

Which database does a developer have?

| option | good | costs |
|---|---|---|
| PostgreSQL in a container | one engine everywhere | no start without Docker |
| two code paths | each engine at its best | only one is tested |
| Django: SQLite at first | nothing to install | types and locks differ |
| **one set of models, by URL** | starts everywhere | only what both can do |

We choose **one set of models** on DuckDB and PostgreSQL. Both have [snapshot
isolation](../glossary.md#snapshot-isolation), strict types and time zones. Choose
PostgreSQL alone if you need what only it has, for example **row-level security**: rules
that decide who sees which row. Choose SQLite if several processes write to one file.

## Build it

### Points in time

A datetime without a time zone is not a point in time. This column type refuses it, and
returns UTC on every engine.
"""

# %% tags=["export"]
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import orm


class Timestamp(sa.types.TypeDecorator[datetime]):
    """A point in time, returned in UTC. Raises ValueError without a time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> Any:
        if value is not None and value.utcoffset() is None:
            raise ValueError(f"{value!r} has no time zone: use datetime.now(UTC)")
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> Any:
        if value is None:
            return None
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


# %%
in_rome = datetime.fromisoformat("2026-11-02T00:30+01:00")
with in_memory.connect() as connection:
    print(connection.scalar(sa.select(sa.literal(in_rome, Timestamp))))

# %% [markdown]
"""
### Names of constraints

A migration can drop a constraint only by its name, and each engine invents other names.
So `Base` makes them by a rule. It also gives each `datetime` the type `Timestamp`. The
models below it are used until the end of the page.
"""

# %% tags=["export"]
NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(orm.DeclarativeBase):
    """The base of every model."""

    metadata = sa.MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Timestamp}


# %%
class Package(Base):
    __tablename__ = "packages"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    total: orm.Mapped[int]


class Release(Base):
    __tablename__ = "releases"
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    package: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey(Package.name))
    published_at: orm.Mapped[datetime]


print(sorted(rule.name for rule in Release.__table__.constraints))

# %% [markdown]
"""
### DuckDB's oddities

DuckDB is made for analysis. As the database of a service it needs care in six places:

| what DuckDB 1.5 does | what the recipe does |
|---|---|
| a connection to `:memory:` has its own database | you give a name: `:memory:shop` |
| two updates of one row can both commit | `add_returning` |
| a parent with children cannot be updated | `leave_out_foreign_keys` |
| no row count beside a RETURNING | tells the ORM not to ask |
| a crash can lose entries of an index | `open_duckdb` |
| a function as default can break recovery | you set defaults in Python |

For the last one, `Release` says `autoincrement=False`: otherwise an integer key gets
the default `nextval`, a function. Its ids come from the program.

Two of the six need other SQL. `@compiles` replaces what SQLAlchemy writes for a
statement on one engine:
"""

# %% tags=["export"]
from sqlalchemy.ext.compiler import compiles


@compiles(sa.Update, "duckdb")
def add_returning(update: sa.Update, compiler: Any, **options: Any) -> str:
    """Make DuckDB find conflicts by row. SQL given as text must do it itself."""
    sql: str = compiler.visit_update(update, **options)
    return sql if compiler.effective_returning else f"{sql} RETURNING 1"


@compiles(sa.ForeignKeyConstraint, "duckdb")
def leave_out_foreign_keys(key: sa.Constraint, compiler: Any, **options: Any) -> None:
    """Leave the clause out of CREATE TABLE."""


# %% [markdown]
"""
One transaction counts a download and commits. A second one, which began earlier, then
renames the package. They change different columns of one row. The folded cell defines
`written_by_two(count, rename)`, which returns the total or `"conflict"`. It has the
two statements as SQL in `text`, and as SQLAlchemy has `built` them. Predict: what is
left of the download in each case?
"""


# %% tags=["stage"]
def written_by_two(count, rename):
    engine = sa.create_engine("duckdb:///:memory:oddities", **pool)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Package).values(name="httpx", total=0))
    with engine.connect() as one, engine.connect() as other:
        one.scalar(sa.select(Package.total))
        other.scalar(sa.select(Package.total))
        one.execute(count)
        one.commit()
        try:
            other.execute(rename)
            other.commit()
        except sa.exc.DBAPIError:
            return "conflict"
    with engine.connect() as connection:
        return f"total {connection.scalar(sa.select(Package.total))}"


changes = ["total = total + 1", "name = 'HTTPX'"]
text = [sa.text(f"UPDATE packages SET {change}") for change in changes]
update = sa.update(Package)
built = [update.values(total=Package.total + 1), update.values(name="HTTPX")]

# %% tags=["predict"]
as_text = written_by_two(*text)
as_built = written_by_two(*built)
print(f"as text: {as_text}, built: {as_built}")

# %% [markdown]
"""
DuckDB does an UPDATE of an indexed column as a DELETE and an INSERT. It inserts the row
*as its snapshot has it*, and so takes back what another transaction has written to
other columns. With a RETURNING, DuckDB reports the [conflict](../glossary.md#conflict).

### Open a DuckDB file

DuckDB writes changes to a **write-ahead log** first. After a crash it reads the log
when the file is opened. If the file is closed again before its indexes were used, their
new entries are lost. A `CHECKPOINT` as the first statement keeps them.
"""

# %% tags=["export"]
import threading
from collections.abc import Callable

OPENING = threading.Lock()


def open_duckdb(connect: Callable[[], Any]) -> Any:
    """What `connect()` returns, recovered from a crash. Or duckdb.Error."""
    with OPENING:  # a second connection must not write before the CHECKPOINT
        connection = connect()
        try:  # "user" means nothing to DuckDB and lasts as long as the file is open
            user = connection.execute("SELECT current_setting('user')").fetchone()
            if user[0] != "recovered":
                connection.execute("PRAGMA disable_checkpoint_on_shutdown")
                connection.execute("CHECKPOINT")
                connection.execute("PRAGMA enable_checkpoint_on_shutdown")
                connection.execute("SET GLOBAL user = 'recovered'")
            connection.execute("SET TimeZone = 'UTC'")
        except BaseException:
            connection.close()
            raise
        return connection


# %% [markdown]
"""
The folded cell defines `found_after_crash(open_file)`. In a `lesson_folder`, a process
inserts a package and is killed. Then the file is opened with `open_file` and closed.
The function looks the package up by its unique name and returns what is found.
"""

# %% tags=["stage"]
import subprocess
import sys

import duckdb

from playbook.kit.lesson import lesson_folder

KILLED = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE packages (name VARCHAR)")
connection.execute("CREATE UNIQUE INDEX by_name ON packages (name)")
connection.execute("CHECKPOINT")
connection.execute("INSERT INTO packages VALUES ('httpx')")
os._exit(9)
"""


def found_after_crash(open_file):
    path = str(lesson_folder() / "crash.duckdb")
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    open_file(lambda: duckdb.connect(path)).close()
    with duckdb.connect(path, read_only=True) as connection:
        found = connection.execute("SELECT * FROM packages WHERE name = 'httpx'")
        return found.fetchall()


# %%
print("as usual:   ", found_after_crash(lambda connect: connect()))
print("open_duckdb:", found_after_crash(open_duckdb))

# %% [markdown]
"""
### The engine

`make_engine` puts it together. Every wait has an end, and the text of an error, which
goes to a log, holds no values. `POSTGRESQL` and `begin_on_postgresql` are defined in
the section *On PostgreSQL*.
"""

# %% tags=["export"]
SILENT = {"hide_parameters": True}
POOL = SILENT | {"pool_size": 10, "max_overflow": 10, "pool_timeout": 5}  # seconds
DUCKDB = POOL | {"poolclass": sa.QueuePool}


def make_engine(url: str, **options: Any) -> sa.Engine:
    """A lazy engine for DuckDB or PostgreSQL, else ValueError. `options` go first."""
    backend = sa.make_url(url).get_backend_name()
    if backend == "postgresql":
        engine = sa.create_engine(url, **(POSTGRESQL | options))
        engine.dialect.do_begin = begin_on_postgresql  # type: ignore
        return engine
    if backend == "duckdb":
        engine = sa.create_engine(url, **(DUCKDB | options))
        engine.dialect.supports_sane_rowcount = False
        sa.event.listen(engine, "do_connect", connect_to_duckdb)
        return engine
    raise ValueError(f"no support for {backend!r}: use duckdb:/// or postgresql://")


def connect_to_duckdb(dialect: Any, record: Any, args: Any, options: Any) -> Any:
    """A new connection for SQLAlchemy's event `do_connect`. Or duckdb.Error."""
    return open_duckdb(lambda: dialect.connect(*args, **options))


# %% [markdown]
"""
## See it work

The thread of the first failure, and then ten failing requests on a pool of two. They
use `transaction`, which gives its connection back whatever happens.
"""

# %%
from playbook.foundations.transactions import transaction

engine = make_engine(f"duckdb:///{lesson_folder()}/shop", pool_size=2, max_overflow=0)
Base.metadata.create_all(engine)
transaction(engine, lambda session: session.add(Package(name="httpx", total=0)))
found = together(request=lambda: read(engine))
print(found["request"])


# %%
def fail():
    transaction(engine, lambda session: session.execute(sa.text("SELECT nonsense")))


tracker = together(**{f"request {number}": fail for number in range(10)})
out = engine.pool.checkedout()
print({type(error).__name__ for error in tracker.values()}, "connections out:", out)

# %% [markdown]
"""
## On PostgreSQL

The folded cell defines `show_settings(url, make)`, which opens a connection with the
engine `make(url)`. `on_postgres` hands on its second argument as `make`. These are
SQLAlchemy's and the server's defaults:
"""


# %% tags=["stage"]
def show_settings(url, make):
    engine = make(url)
    with engine.connect() as connection:
        for name in ("transaction_isolation", "statement_timeout"):
            print(f"{name}: {connection.scalar(sa.text(f'SHOW {name}'))}")


# %%
from playbook.kit.lesson import on_postgres

on_postgres(show_settings, sa.create_engine)

# %% [markdown]
"""
A timeout of 0 means no end. A plain `SET` is not enough: a pooler such as PgBouncer
shares the sessions of the server among clients, often anew for each transaction. The
`SET` would reach other clients. A prepared statement, which a session keeps for later
use, would be missing in the next session. So nothing is prepared, and the settings
travel with each `BEGIN`, in the same message.
"""

# %% tags=["export"]
import psycopg

POSTGRESQL = POOL | {
    "isolation_level": "REPEATABLE READ",
    "pool_pre_ping": True,  # replaces a connection that the server has closed
    "connect_args": {"connect_timeout": 5, "prepare_threshold": None},  # seconds
}
TRANSACTION = {
    "timezone": "UTC",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
}


def begin_on_postgresql(connection: Any) -> None:
    """BEGIN with TRANSACTION, or with what `connection.info["transaction"]` has."""
    driver = connection.dbapi_connection
    if driver.autocommit:
        return
    level = driver.isolation_level.name.replace("_", " ")
    settings = connection.info.get("transaction", TRANSACTION)
    sql = [f"BEGIN ISOLATION LEVEL {level}"]
    sql += [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
    result = driver.pgconn.exec_("; ".join(sql).encode())
    if result.error_message:
        error = psycopg.errors.error_from_result(result)
        raise error if error.sqlstate else psycopg.OperationalError(str(error))


# %%
on_postgres(show_settings, make_engine)

# %% [markdown]
"""
## Check it

The folded cell defines `write_and_read(url)`. It makes the tables of the models above,
stores a release with a time in Rome, and returns what comes back.
"""


# %% tags=["stage"]
def write_and_read(url):
    engine = make_engine(url)
    Base.metadata.drop_all(engine)  # of an earlier run of this cell
    Base.metadata.create_all(engine)

    def write(session):
        session.add(Package(name="httpx", total=0))
        session.flush()
        session.add(Release(number=1, package="httpx", published_at=in_rome))

    transaction(engine, write)
    with orm.Session(engine) as session, session.begin():
        session.get(Package, "httpx").total = 1
    release = transaction(engine, lambda session: session.get(Release, 1))
    return release.package, str(release.published_at), engine.pool.checkedout()


# %%
here = write_and_read("duckdb:///:memory:models")
assert here == ("httpx", "2026-11-01 23:30:00+00:00", 0), "DuckDB returns other values"
assert on_postgres(write_and_read) in (here, None), "PostgreSQL returns other values"
assert (found["request"], out) == ("httpx", 0), "a thread or a connection was lost"
assert as_built == "conflict", "a rename took a download back"
assert found_after_crash(open_duckdb), "a crash lost the entry of an index"
print("the same models, the same values, and no connection out")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `datetime: Timestamp` | `datetime: sa.DateTime` | DuckDB returns other values |
| `f"{sql} RETURNING 1"` | `sql` | a rename took a download back |
| `execute("CHECKPOINT")` | `execute("SELECT 1")` | a crash lost the entry of an index |

## Your turn

A pool is empty in production. Which requests hold its connections? Write `watch_pool`.
It returns a function that lists the names of the requests that hold a connection now,
sorted. SQLAlchemy's pool calls `checkout(dbapi_connection, record, proxy)` when it
lends a connection, and `checkin(dbapi_connection, record)` when it gets one back.
`sa.event.listen(engine, "checkout", function)` registers a function.
"""


# %% tags=["exercise"]
def watch_pool(engine, request_name):
    """A function that lists who holds a connection; `request_name()` tells who asks."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.engines import HINTS, check

check(watch_pool)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def watch_pool(engine, request_name):
    holders = {}

    def lent(dbapi_connection, record, proxy):
        holders[record] = request_name()

    def returned(dbapi_connection, record):
        holders.pop(record, None)

    sa.event.listen(engine, "checkout", lent)
    sa.event.listen(engine, "checkin", returned)
    return lambda: sorted(holders.values())


assert check(watch_pool)

# %% [markdown]
"""
## Take it with you

`playbook lift engines INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| URL | passes `DATABASE_URL`; the driver for PostgreSQL is psycopg |
| models | derive from `Base`; ids and defaults come from Python |
| one engine | makes it once per process and disposes it at the end |
| pool | sets `pool_size`; times processes it stays below `max_connections` |

With a model of a shop (for ids that rise, see
[Clock and identifiers](clock_and_identifiers.ipynb)):

```python
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    placed_at: Mapped[datetime]
    cents: Mapped[int]


def place_order(engine: Engine, cents: int) -> Order:
    order = Order(id=uuid.uuid4(), placed_at=datetime.now(UTC), cents=cents)
    transaction(engine, lambda session: session.add(order))
    return order
```

Traps:

- A DuckDB file has one writing process. Two workers need PostgreSQL.
- `:memory:` without a name is another database for each connection.
- An integer key without `autoincrement=False` has a function as default on DuckDB.
- An UPDATE given as text, or within `ON CONFLICT`, needs its own RETURNING.
- DuckDB checks no foreign key. [Write skew](write_skew.ipynb) builds the replacement.

Hand it over:

- **Reviewer**: accept `engine.connect()` only in a `with` statement.
- **Migrations**: names of constraints come from `NAMING`; use no function as default.
- **Operations**: a wait for a connection ends after 5 seconds, a statement after 30, an
  idle transaction after 60. Open a DuckDB file only with `open_duckdb`.
- **Tests**: run the same tests on both engines.

## In short

You can explain why a connection that is lent in a failing request may never come back.
You can name what DuckDB does differently, and which line of the recipe answers it. You
can say why settings of PostgreSQL belong into the transaction.

## Sources

SQLAlchemy documentation, "Connection Pooling" and "Custom SQL Constructs". DuckDB
documentation, "Concurrency" and "Indexes" (over-eager constraint checking). PostgreSQL
documentation, 19.11 (client connection defaults). PgBouncer documentation, "Features"
(transaction pooling).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Transactions](transactions.ipynb) · [course map](../index.ipynb) · Next: [Write skew](write_skew.ipynb)
"""
