# %% [markdown]
"""
# First migration

Turn a changed model into a script that somebody has read, and run it on a database that
has rows.

| | |
|---|---|
| **Use it when** | a table with rows exists, and its model is about to change |
| **You need** | [engines](../foundations/engines.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | migration, alembic, autogenerate, drizzle, rename column, baseline |
| **Standard** | ISO/IEC 9075-2 (SQL-schema statements) |

```python
from playbook.migrations.first_migration import generate, stamp, upgrade

stamp(engine, "0001_baseline")  # a database that exists is adopted
draft = generate(engine, "respell license", models)  # a file: read it, correct it
upgrade(engine)
```

*Lift: 80 lines in 2 files; needs alembic, sqlalchemy.*

## See it break

A package index has a table `packages`. `create_all` made it, and it has rows. Two
columns shall change: `licence` becomes `license`, and `maintainer`, which holds a name
and often an address, is split into `author` and `email`.

The folded cell defines `OLD` and `NEW`, the models before and after, and three `ROWS`.
`new_shop()` is an engine for a database that has them, and `rows(engine)` reads them.
`operations(code)` takes the lines with `op.` out of a draft. It imports `sa`
(SQLAlchemy), `make_engine`, `Timestamp`, `lesson_url`, `on_postgres`, `show`, `table`.
"""

# %% tags=["stage"]
import sqlalchemy as sa

from playbook.foundations.engines import NAMING, Timestamp, make_engine
from playbook.kit.lesson import lesson_folder, lesson_url, on_postgres, show, table

ROWS = [
    {"name": "httpx", "licence": "BSD", "maintainer": "Tom <tom@example.com>"},
    {"name": "pip", "licence": "MIT", "maintainer": "the pip team"},
    {"name": "rich", "licence": "MIT", "maintainer": "Will <will@example.com>"},
]


def models(*columns):
    metadata = sa.MetaData(naming_convention=NAMING)
    more = [sa.Column(name, sa.String) for name in columns]
    key = sa.Column("name", sa.String, primary_key=True)
    return sa.Table("packages", metadata, key, *more).metadata


OLD = models("licence", "maintainer")
NEW = models("license", "author", "email")


def new_shop(url=None):
    engine = make_engine(url or lesson_url())
    OLD.create_all(engine)
    with engine.begin() as connection:
        connection.execute(OLD.tables["packages"].insert(), ROWS)
    return engine


def rows(engine):
    query = sa.text("SELECT * FROM packages ORDER BY name")
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def operations(code):
    lines = [line.strip() for line in code.partition("def downgrade")[0].splitlines()]
    return sorted(line for line in lines if line.startswith("op."))


# %% [markdown]
"""
Some tools have a command `push`: it compares the database with the models, and applies
the difference at once. Alembic, the migration tool of SQLAlchemy, can do it too.
Predict: which statements does it choose, and what do the rows say afterwards?
"""

# %% tags=["predict"]
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations


def push(engine, metadata):
    with engine.begin() as connection:
        comparison = MigrationContext.configure(connection)
        guess = produce_migrations(comparison, metadata).upgrade_ops
        print(*operations(render_python_code(guess)), sep="\n")
        for change in guess.ops[0].ops:
            Operations(comparison).invoke(change)


pushed = new_shop()
push(pushed, NEW)
show(table(rows(pushed)))

# %% [markdown]
"""
The tool saw two states and not the step between them. So it dropped two columns and
added three, and their content is lost. A test with an empty table would notice nothing.

## The decision

How does a database follow the models?

| option | good | costs |
|---|---|---|
| `create_all` at the start | nothing to write | it never changes a table |
| SQL files by hand | you see what will run | nothing compares them with the models |
| push (drizzle-kit) | quick on a laptop | a guess runs before it is read |
| Django: `makemigrations` | asks "was it renamed?" | only for Django's models |
| **generate, review, migrate** | a draft, corrected by a person | a file per change |

We choose **generate, review, migrate** with Alembic. Choose push for a database that
you can throw away. If you know drizzle-kit:

| drizzle-kit | Alembic | difference |
|---|---|---|
| `generate` | `alembic revision --autogenerate -m TEXT` | compares with a database |
| `migrate` | `alembic upgrade head` | `downgrade -1` goes back |
| `push` | none | |
| `pull` | none; the tool `sqlacodegen` | |
| `check` | `alembic heads` | more than one: merge them |
| its files are SQL | `alembic upgrade A:B --sql` | prints the SQL, to be read |

## Build it

### The idea

A **migration** or *revision* is a Python file with `upgrade()` and `downgrade()`. Each
names the revision before it, so they form a **history**. The database itself keeps the
name of its revision, in the table `alembic_version`.

```text
  models --- generate ---> draft --- a person ---> revision --- upgrade ---> database
                ^                                                               |
                +------------------------- compared with -----------------------+
```

A history is a folder: the revisions in `versions/`, a template for new ones, and
`env.py`, which Alembic runs for each command. `alembic_config` tells Alembic where the
folder is, and hands the engine to `env.py`.
"""

# %% tags=["export"]
from argparse import Namespace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config

Location = str | Path  # a folder, or package:folder
HERE = "migrations"


def alembic_config(
    engine: sa.Engine | None, location: Location = HERE, metadata: Any = None
) -> Config:
    """Alembic's configuration. `metadata`: what a draft is compared with."""
    given = {"engine": engine, "metadata": metadata}
    config = Config(cmd_opts=Namespace(quiet=True), attributes=given)
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s")
    return config


# %% [markdown]
"""
The folded cell defines `new_history()`, which makes such a folder as `alembic init`
does. Its `env.py` is one call of `run_environment`, which is built below.
`review(draft, code)` does what a person does in an editor: it replaces the two
functions of the file `draft`.
"""

# %% tags=["stage"]
import shutil

import alembic

ENV = """from __main__ import run_environment

run_environment(make=None, models=None)
"""


def new_history():
    folder = lesson_folder()
    template = Path(alembic.__file__).parent / "templates/generic/script.py.mako"
    shutil.copy(template, folder)
    (folder / "env.py").write_text(ENV, encoding="utf-8")
    (folder / "versions").mkdir()
    return folder


def review(draft, code):
    head = draft.read_text(encoding="utf-8").partition("def upgrade")[0]
    draft.write_text(head + code, encoding="utf-8")


# %%
history = new_history()
print(sorted(path.name for path in history.iterdir()))

# %% [markdown]
"""
### The environment

`run_environment` is all of an `env.py`. Each revision is a transaction of its own.
`plain_type` writes a type of your own as the plain type below it, because a revision
must not import code that will change. `Timestamp` of the page
[engines](../foundations/engines.ipynb) is such a type.
"""

# %% tags=["export"]
from collections.abc import Callable
from contextlib import ExitStack

from alembic import context

from playbook.foundations.engines import NAMING


def plain_type(kind: str, item: Any, context: Any) -> str | bool:
    """How a draft writes a type decorator: as its plain type."""
    decorator = kind == "type" and isinstance(item, sa.types.TypeDecorator)
    return f"sa.{item.impl_instance!r}" if decorator else False


OPTIONS: dict[str, Any] = {
    "transaction_per_migration": True,
    "compare_server_default": True,
    "render_item": plain_type,
}

# %%
print(written := plain_type("type", Timestamp(), None))


# %% tags=["export"]
def run_environment(
    make: Callable[[], sa.Engine] | None,
    models: Callable[[], sa.MetaData] | None,
    connect: Callable[[sa.Engine], Any] = sa.Engine.connect,
    **options: Any,
) -> None:
    """All of an `env.py`. `make` and `models` are called on the command line only."""
    given = context.config.attributes
    if make and models and "engine" not in given:
        given |= {"engine": make(), "metadata": models()}
    engine, plain = given["engine"], sa.MetaData(naming_convention=NAMING)
    options = OPTIONS | options | {"target_metadata": given["metadata"] or plain}
    options["connection"] = given.get("connection")  # the caller's, if it has one
    with ExitStack() as stack:
        if context.is_offline_mode():  # SQL to read: no connection
            options |= {"dialect_name": engine.dialect.name, "literal_binds": True}
        elif options["connection"] is None:
            options["connection"] = stack.enter_context(connect(engine))
        context.configure(**options)
        with context.begin_transaction():
            context.run_migrations()


# %% [markdown]
"""
`current` tells where a database is. That of the shop has no history yet:
"""

# %% tags=["export"]
from alembic.migration import MigrationContext


def current(database: sa.Engine | sa.Connection) -> tuple[str, ...]:
    """The revisions that the database is at, sorted; none before the first."""
    if isinstance(database, sa.Engine):
        with database.connect() as connection:
            return current(connection)
    return tuple(sorted(MigrationContext.configure(database).get_current_heads()))


# %%
print(current(shop := new_shop()))

# %% [markdown]
"""
### Generate

A draft has a number and a name, not Alembic's random id. The first draft is compared
with an empty database, so it makes the tables of the old models. This is the
**baseline**.
"""

# %% tags=["export"]
import re
import threading

from alembic import command
from alembic.script import ScriptDirectory

ONE_AT_A_TIME = threading.RLock()  # Alembic keeps its environment in globals


def generate(
    engine: sa.Engine, message: str, metadata: Any = None, location: Location = HERE
) -> Path:
    """Write the next revision: a draft of what `metadata` has and the database lacks.

    Without `metadata` it is empty. Raises CommandError if the database is not at head.
    """
    config = alembic_config(engine, location, metadata)
    number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
    words = re.sub(r"\W+", "_", message.lower())
    name = f"{number:04}_{words}"[:32].strip("_")  # `alembic_version` holds 32
    with ONE_AT_A_TIME:
        made: Any = command.revision(config, message, metadata is not None, rev_id=name)
    return Path(made.path)


# %%
empty = make_engine(lesson_url())
baseline = generate(empty, "baseline", OLD, history)
print(baseline.read_text(encoding="utf-8").partition("\n\n\n")[2])

# %% [markdown]
"""
### Run, and adopt

`upgrade` runs what is missing. `stamp` runs nothing: it only writes down where the
database is. So a database that `create_all` made is **adopted** by a stamp with the
baseline.
"""


# %% tags=["export"]
def upgrade(engine: sa.Engine, to: str = "head", location: Location = HERE) -> None:
    """Run the revisions up to `to`, each in a transaction of its own."""
    with ONE_AT_A_TIME:
        command.upgrade(alembic_config(engine, location), to)


def downgrade(engine: sa.Engine, to: str, location: Location = HERE) -> None:
    """Go back to the revision `to`; "-1" is one step, "base" is all of them."""
    with ONE_AT_A_TIME:
        command.downgrade(alembic_config(engine, location), to)


def stamp(engine: sa.Engine, to: str, location: Location = HERE) -> None:
    """Write down that the database is at `to`, and run nothing."""
    with ONE_AT_A_TIME:
        command.stamp(alembic_config(engine, location), to)


# %%
stamp(shop, "0001_baseline", history)
print(current(shop))

# %% [markdown]
"""
### Review

Now the change from the beginning, as a draft:
"""

# %%
draft = generate(shop, "Respell and split", NEW, history)
print(*operations(draft.read_text(encoding="utf-8")), sep="\n")

# %% [markdown]
"""
It is the guess again, but nothing has run. The reviewer writes renames where it says
drop and add, and fills `email` from the old texts:
"""

# %%
REVIEWED = """def upgrade() -> None:
    op.alter_column("packages", "licence", new_column_name="license")
    op.alter_column("packages", "maintainer", new_column_name="author")
    op.add_column("packages", sa.Column("email", sa.String()))
    address = "nullif(rtrim(split_part(author, ' <', 2), '>'), '')"
    op.execute(f"UPDATE packages SET email = {address}")
    op.execute("UPDATE packages SET author = split_part(author, ' <', 1)")


def downgrade() -> None:
    address = "coalesce(' <' || email || '>', '')"
    op.execute(f"UPDATE packages SET author = author || {address}")
    with op.batch_alter_table("packages") as batch:
        batch.drop_column("email")
        batch.alter_column("author", new_column_name="maintainer")
        batch.alter_column("license", new_column_name="licence")
"""
review(draft, REVIEWED)
upgrade(shop, "head", history)
show(table(rows(shop)))

# %% [markdown]
"""
DuckDB refuses an ALTER after an UPDATE in one transaction. `op.batch_alter_table` may
copy the table instead. With this class it does so on DuckDB only; on PostgreSQL the
lines are plain ALTERs.
"""

# %% tags=["export"]
from duckdb_sqlalchemy.alembic_impl import DuckDBImpl


class CopyingDuckDB(DuckDBImpl):
    """Alembic on DuckDB: a batch is one copy of the table. Defining it registers it."""

    __dialect__ = "duckdb"

    def requires_recreate_in_batch(self, batch_op: Any) -> bool:
        return any(not name.endswith("_index") for name, *_ in batch_op.batch)

    def drop_table(self, table: sa.Table, **options: Any) -> None:
        if not table.name.startswith("_alembic_tmp_"):  # of a failed batch
            super().drop_table(table, **options)


# %% [markdown]
"""
## See it work

Each step again on a new database: up, down and up. Between up and down, the new program
writes a row. Predict: what does the old program find in `maintainer` after `downgrade`?
"""


# %% tags=["predict"]
def adopt_and_change(url):
    shop = new_shop(url)
    stamp(shop, "0001_baseline", history)
    upgrade(shop, "head", history)
    with shop.begin() as db:
        db.execute(sa.text("INSERT INTO packages VALUES ('uv', 'MIT', 'Ada', NULL)"))
    downgrade(shop, "-1", history)
    old = rows(shop)
    upgrade(shop, "head", history)
    return old, rows(shop)


here = adopt_and_change(lesson_url())
show(table(here[0]))

# %% [markdown]
"""
Three rows prove little. `Ada <a@x>, Bob <b@x>` would come back as `Ada <a@x>, Bob>`. So
look for such texts with a SELECT before you run the revision.

## On PostgreSQL

The same files:
"""

# %%
there = on_postgres(adopt_and_change)
print("the same rows" if there == here else there)

# %% [markdown]
"""
The folded cell defines `half_way(url)`. A database is at revision one; `upgrade` runs
two more. Revision three adds a column, and then its SQL fails. `half_way` returns where
the database is then, and whether it has the column. What does it return on DuckDB and
on PostgreSQL?
"""

# %% tags=["stage"]
FAILS = """def upgrade():
    op.add_column("packages", sa.Column("summary", sa.String()))
    op.execute("UPDATE packages SET summary = no_such_column")
"""


def half_way(url):
    shop, history = new_shop(url), new_history()
    for message in ("one", "two", "three"):
        draft = generate(shop, message, None, history)
    review(draft, FAILS)
    stamp(shop, "0001_one", history)
    try:
        upgrade(shop, "head", history)
    except sa.exc.DBAPIError:
        columns = [
            column["name"] for column in sa.inspect(shop).get_columns("packages")
        ]
        return current(shop), "summary" in columns


# %% tags=["predict"]
ends = [half_way(lesson_url()), on_postgres(half_way)]
print(*ends, sep="\n")

# %% [markdown]
"""
MySQL would keep the column: there each DDL statement commits. SQLite would keep it too,
because Python's driver sends no BEGIN before DDL.

## Check it
"""

# %%
assert here[0][:3] == ROWS, "a text changed on the way there and back"
assert there in (here, None), "PostgreSQL has other rows"
assert draft.stem == "0002_respell_and_split", "a revision has no readable name"
assert written == "sa.DateTime(timezone=True)", "a revision depends on our code"
assert {*ends} <= {(("0002_two",), False), None}, "a failure takes others back"
print("adopted, up, down and up: each text is kept, and a failure leaves nothing")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `message.lower()` | `message` | a revision has no readable name |
| `f"sa.{item.impl_instance!r}"` | `False` | a revision depends on our code |
| `per_migration": True` | `per_migration": False` | a failure takes others back |

## Your turn

Each requirement of a project is one text, as a person typed it: `httpx==0.28.1`,
`flask >= 3`, `pip`. The table `requirements` has an `id` and the `line`. It shall have
`name`, and in `rest` all that follows it, or NULL. Write both directions. The new
program adds rows before somebody goes back. On the way there and back no text may
change, not by one space. `NAME` is SQL that cuts a line where its name ends.
"""


# %% tags=["exercise"]
def split(op):
    """From `line` to `name` and `rest`; `op` is Alembic's."""
    raise NotImplementedError


def join(op):
    """From `name` and `rest` to `line`."""
    raise NotImplementedError


# %%
from playbook.exercises.migrations.first_migration import HINTS, NAME, check

check(split, join)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def split(op):
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.execute(f"UPDATE requirements SET name = {NAME}")
    rest = "nullif(substr(line, length(name) + 1), '')"
    op.execute(f"UPDATE requirements SET rest = {rest}")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("line")


def join(op):
    op.add_column("requirements", sa.Column("line", sa.String()))
    # A text || NULL is NULL, so the empty text stands in.
    op.execute("UPDATE requirements SET line = name || coalesce(rest, '')")
    with op.batch_alter_table("requirements") as batch:
        batch.drop_column("name")
        batch.drop_column("rest")


assert check(split, join)

# %% [markdown]
"""
## Take it with you

`playbook lift first_migration INTO` copies the recipe and its tests. `alembic init
migrations` makes the folder. Then the whole of `migrations/env.py` is:

```python
from shop.database import engine, metadata
from shop.first_migration import run_environment

run_environment(lambda: engine, lambda: metadata)
```

| seam | what your project does |
|---|---|
| engine | any of SQLAlchemy |
| connection | on PostgreSQL, `connect` with limits: see below |
| models | a metadata with a naming convention, or a list of them |
| SQLite | alter tables in `op.batch_alter_table`; send BEGIN yourself |
| DuckDB | lift it with `--only CopyingDuckDB`, too |

On PostgreSQL a migration that waits keeps all later queries of the table waiting. The
service of PyPI ends a wait for a lock after 4 seconds and a statement after 5. The
lock's limit is the shorter one, so that the error names the lock:

```python
@contextmanager
def limited(engine):
    with engine.connect() as connection:
        connection.detach()  # these settings must not go back to the pool
        connection.execute(sa.text("SET lock_timeout = '4s'"))
        connection.execute(sa.text("SET statement_timeout = '5s'"))
        connection.commit()
        yield connection


run_environment(lambda: engine, lambda: metadata, connect=limited)
```

An engine of `make_engine` sets its own limits at each BEGIN. There, write yours into
`connection.info["transaction"]`.

A **[backfill](../glossary.md#backfill)**, an UPDATE of many rows, may take longer. It
gets a revision without any ALTER, whose lock would last as long. That revision lifts
the limit until its transaction ends: `op.execute("SET LOCAL statement_timeout = 0")`.
Pantry also handles a [pooler](../glossary.md#pooler) and processes that start at once
(`playbook/pantry/migrating.py`).

Traps:

- Run `upgrade` first, then start the release. The older release is still running: see
  [expand and contract](expand_and_contract.ipynb).
- A revision that has run somewhere is never edited. The next one corrects it.
- On the command line the ids are random. Choose a name: `--rev-id 0002_respell`.
- `location` is relative to the current folder, unless it is `package:folder`.
- On DuckDB a default that is a function, as `now()`, can cost the file: see
  [drift](drift.ipynb).

Hand it over:

- **Reviewer**: read the SQL (`alembic upgrade A:B --sql`). Ask of each `drop_column`
  where its content went.
- **Operations**: a revision that failed has left nothing (not on MySQL and SQLite).
  Mend it and run it again.
- **Security**: the user that serves needs no right to alter tables.
- **Tests**: run each migration with rows, see [test_migrations](test_migrations.ipynb).

## In short

A tool compares two states and guesses the step between them. So it writes a draft, and
a person corrects it before it runs. A database that exists is adopted by a stamp. Each
revision is one transaction, up and down.

## Sources

Alembic documentation, "Auto Generating Migrations", "Running Batch Migrations".
Drizzle documentation, "Migrations". pypi/warehouse,
`warehouse/migrations/env.py`. PostgreSQL documentation, 19.11 (timeouts). P. Sadalage
and S. Ambler, *Refactoring Databases*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Indexes and plans](../schema/indexes_and_plans.ipynb) · [course map](../index.ipynb) · Next: [Drift](drift.ipynb)
"""
