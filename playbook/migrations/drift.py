# %% [markdown]
"""
# Drift

Find where a database is not what the models say, before a request finds it.

| | |
|---|---|
| **Use it when** | people can change the database by hand, or `create_all` made it |
| **You need** | [first migration](first_migration.ipynb) (*code*) |
| **Time** | read 25 min, exercise 15 min |
| **Topics** | schema drift, alembic check, stamp, create_all, server default |
| **Standard** | ISO/IEC 9075-11 (information schema) |

```python
from playbook.migrations.drift import check_revision, drift

check_revision(engine)  # at the start; raises WrongSchema
assert drift(engine, metadata) == []  # in a test, and every night in production
```

*Lift: 77 lines in 2 files; needs alembic, sqlalchemy.*

## See it break

A service calls `create_all` when it starts. Its new release has two changes in the
model: a column `summary`, and a [unique index](../glossary.md#unique-index) on `name`.

The folded cell imports `sa` (SQLAlchemy), `make_engine`, `lesson_url`, `on_postgres`,
`show` and `table`. `models(*more)` is metadata with a table `packages`: an `id`, a
`name` and `more`. The database of `new_shop(metadata)` was made by `create_all`.
Predict: which columns does the table have after a second `create_all` with the new
models? Does a SELECT of all columns of the model work?
"""

# %% tags=["stage"]
import sqlalchemy as sa

from playbook.foundations.engines import NAMING, make_engine
from playbook.kit.lesson import lesson_url, on_postgres, show, table


def models(*more, key="id", kind=sa.String, **options):
    metadata = sa.MetaData(naming_convention=NAMING)
    number = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    name = sa.Column("name", kind, primary_key=key == "both", **options)
    return sa.Table("packages", metadata, number, name, *more).metadata


def new_shop(metadata, url=None):
    engine = make_engine(url or lesson_url())
    metadata.create_all(engine)
    return engine


# %% tags=["predict"]
NEW = models(sa.Column("summary", sa.String), sa.Index("one_name", "name", unique=True))
shop = new_shop(models())
NEW.create_all(shop)
print([column["name"] for column in sa.inspect(shop).get_columns("packages")])
try:
    with shop.connect() as db:
        db.execute(NEW.tables["packages"].select())
except sa.exc.DBAPIError as error:
    print(str(error.orig).splitlines()[0])

# %% [markdown]
"""
The service has started well, and the first request that needs the column fails, because
`create_all` changes no table that exists. The missing index is worse: no request fails,
and one day two packages have one name.

## The decision

When does a program find out?

| option | good | costs |
|---|---|---|
| at a request | nothing to write | one in a thousand fails, or none |
| the [revision](../glossary.md#revision), at the start | one SELECT | does not see a change by hand |
| Django: `makemigrations --check` | no database needed | compares files only |
| **revision at the start, tables at night** | both are seen | one job more |

Choose the revision alone if nobody but migrations may alter tables.

## Build it

### The idea

Alembic's *autogenerate* writes what would make the database like the models. If that is
nothing, they agree. If not, there is **drift**, and each line of the draft is a
difference. Below, somebody has worked on the database by hand.
"""

# %% tags=["export"]
import re
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext

from playbook.migrations.first_migration import OPTIONS


def missing_steps(
    connection: sa.Connection, metadata: sa.MetaData, **options: Any
) -> list[str]:
    """What autogenerate would write, one operation each. `options` are Alembic's."""
    context = MigrationContext.configure(connection, opts=OPTIONS | options)
    draft: Any = produce_migrations(context, metadata).upgrade_ops
    code = render_python_code(draft, migration_context=context)
    parts = re.split(r"\n *(?=op\.|#)", code)
    return [" ".join(part.split()) for part in parts if part.startswith("op.")]


# %%
with shop.begin() as db:
    db.execute(sa.text("ALTER TABLE packages ADD COLUMN nickname VARCHAR"))
    db.execute(sa.text("CREATE TABLE packages_backup (id INTEGER)"))
with shop.connect() as db:
    print(*sorted(missing_steps(db, NEW)), sep="\n")

# %% [markdown]
"""
Read it from the database's side: an `add_column` is a column that the database lacks, a
`drop_table` is a table that no model knows.

### What autogenerate does not see

The folded cell defines `CHANGES`: six models that differ from `models()` in one thing.
This is NOT NULL, a default, an index, a CHECK, the primary key, or another type. The
database is that of `models()`. Predict: which two does `missing_steps` not find?
"""

# %% tags=["stage"]
CHANGES = {
    "NOT NULL": models(nullable=False),
    "a default": models(server_default="x"),
    "an index": models(sa.Index("by_name", "name")),
    "a CHECK": models(sa.CheckConstraint("id > 0", "positive")),
    "the primary key": models(key="both", nullable=True),
    "another type": models(kind=sa.Integer),
}


# %% tags=["predict"]
def found_by(compare, url=None):
    with new_shop(models(), url).connect() as db:
        return {what: len(compare(db, new)) > 0 for what, new in CHANGES.items()}


found = found_by(missing_steps)
show(table(found.items(), ["what has changed", "found"]))

# %% [markdown]
"""
What is not found protects rows. A database that has lost it takes wrong rows, and no
check would tell. SQLAlchemy can read both from the database. The text of a CHECK
differs from engine to engine, so the recipe compares how many there are.
"""


# %% tags=["export"]
def keys_and_checks(connection: sa.Connection, metadata: sa.MetaData) -> list[str]:
    """The differences in primary keys and in the number of CHECK constraints."""
    inspector, found = sa.inspect(connection), []
    for model in metadata.tables.values():
        place = (model.name, model.schema)
        if not inspector.has_table(*place):
            continue
        key = inspector.get_pk_constraint(*place)["constrained_columns"]
        wanted = [column.name for column in model.primary_key]
        if key != wanted:
            found.append(f"{model.name}: the primary key is {key}, not {wanted}")
        checks = len(inspector.get_check_constraints(*place))
        rules = sum(isinstance(c, sa.CheckConstraint) for c in model.constraints)
        if checks != rules:
            found.append(f"{model.name}: {checks} CHECK constraints, not {rules}")
    return found


def drift(engine: sa.Engine, metadata: sa.MetaData, **options: Any) -> list[str]:
    """The differences, sorted lines: what is missing to make the database like it.

    Not seen: the text of a CHECK, triggers, views, the order of columns.
    """
    with engine.connect() as connection:
        found = missing_steps(connection, metadata, **options)
        return sorted(found + keys_and_checks(connection, metadata))


# %%
all_found = found_by(lambda db, new: drift(db.engine, new))
print("not found:", [what for what, seen in all_found.items() if not seen])
print(drift(new_shop(models()), CHANGES["a CHECK"]))

# %% [markdown]
"""
### At the start

A program must not serve from a database that it was not made for. `check_revision`
compares the database's revision with the newest one that the program knows. The message
of its error says what to run. It has a class of its own for a database that is *ahead*.
During a rollout this is no mistake: the release before still serves.
"""

# %% tags=["export"]
from alembic.script import ScriptDirectory

from playbook.migrations.first_migration import HERE, Location, alembic_config, current


class WrongSchema(ValueError):
    """The database is not at head. The message is one line and says what to run."""


class NewerSchema(WrongSchema):
    """The database is at a revision of a later release, or of another branch."""


def check_revision(engine: sa.Engine, location: Location = HERE) -> None:
    """Raise WrongSchema unless the database is at the program's newest revision.

    NewerSchema, if the program does not know the database's revision.
    """
    history = ScriptDirectory.from_config(alembic_config(engine, location))
    at, wanted = current(engine), sorted(history.get_heads())
    if sorted(at) == wanted:
        return
    known = {revision.revision for revision in history.walk_revisions()}
    here, there = ", ".join(at) or "no revision", ", ".join(wanted)
    message = f"the database is at {here}, this program needs {there}"
    if known.issuperset(at):
        raise WrongSchema(f"{message}: run `alembic upgrade head`")
    message += " and does not know that one: start the release that does, "
    raise NewerSchema(f"{message}or there run `alembic downgrade {there}`")


# %% [markdown]
"""
The folded cell makes a history: `0001_baseline` is `models()`, and `0002_summary` adds
what `NEW` has. `start(engine)` returns what a program says at its start: "starts", or
the error. `shops` has four databases: one is empty, one is behind, one was stamped as
0002 by somebody who did not look, one comes from a newer release. Predict: which of
them start, and in which does `drift` find no difference? The cell also imports
`after_kill`.
"""

# %% tags=["stage"]
from playbook.exercises.migrations.drift import after_kill, two_revisions
from playbook.migrations.first_migration import stamp, upgrade

history = two_revisions()
shops = {name: make_engine(lesson_url()) for name in ("empty", "behind", "stamped")}
shops["newer"] = new_shop(NEW)
upgrade(shops["behind"], "0001_baseline", history)
models().create_all(shops["stamped"])
stamp(shops["stamped"], "0002_summary", history)
stamp(shops["newer"], "0002_summary", history)
with shops["newer"].begin() as db:
    db.execute(sa.text("UPDATE alembic_version SET version_num = '0003_next'"))


def start(engine):
    try:
        check_revision(engine, history)
    except WrongSchema as error:
        return str(error)
    return "starts"


# %% tags=["predict"]
said = {name: start(engine) for name, engine in shops.items()}
for name, engine in shops.items():
    print(f"{name}, {len(drift(engine, NEW))} differences: {said[name]}")

# %% [markdown]
"""
A stamp is a claim, and the revision repeats it. Only `drift` looked at the tables. So
compare before you stamp, and mend what differs, or write it into the models.

## See it work

DuckDB has two traps for models. The first is the type `sa.Text`. A reviewer runs what
the draft says, and compares again. Predict: is the difference gone?
"""

# %% tags=["predict"]
LONG = models(kind=sa.Text)
shop = new_shop(LONG)
print(drift(shop, LONG))
with shop.begin() as db:
    db.execute(sa.text("ALTER TABLE packages ALTER name TYPE TEXT"))
never_ends = drift(shop, LONG)
print("the same" if never_ends else "gone")

# %% [markdown]
"""
A check that is always red is read by nobody. DuckDB has one type for texts, which it
calls VARCHAR, so models with `Text` differ from it for ever. `String` without a length
is unlimited on DuckDB and PostgreSQL. So use **`String`**.

The second is a **default that is a function**. `after_kill(column)` makes a table with
this column in a process of its own, and adds one more column. Then the process is
killed, as by a power cut, and the file is opened again. Predict: does it open with a
constant, and with a function?
"""

# %% tags=["predict"]
for column in ("BOOLEAN DEFAULT false", "TIMESTAMPTZ DEFAULT now()"):
    print(f"{column}: {after_kill(column)}")

# %% [markdown]
"""
Migrations alter tables, so each such column is a risk at each migration. Without a
backup the file is lost (DuckDB before 2.0). So on DuckDB set defaults in Python:
`default=` instead of `server_default=`.

## On PostgreSQL

Are the same differences found there?
"""

# %%
there = on_postgres(lambda url: found_by(lambda db, new: drift(db.engine, new), url))
print("the same" if there == all_found else there)

# %% [markdown]
"""
## Check it
"""

# %%
assert all(all_found.values()), "a difference is not found"
assert there in (all_found, None), "PostgreSQL is compared in another way"
assert said["behind"].endswith("`alembic upgrade head`"), "the advice is wrong"
assert said["newer"].endswith("`alembic downgrade 0002_summary`"), "the advice is wrong"
assert drift(shops["stamped"], NEW), "a stamp hides what differs"
print(f"{len(all_found)} of {len(all_found)} kinds of difference are found")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `part.startswith("op.")` | `"drop" in part` | a difference is not found |
| `if checks != rules` | `if checks` | a difference is not found |
| `if known.issuperset(at)` | `if known` | the advice is wrong |

## Your turn

Which columns are at risk? Write `risky(metadata)`. It returns the columns that get a
function as default on DuckDB, sorted, as `"table.column"`. Some do not look like it:
SQLAlchemy gives a column a default that nobody wrote.
"""


# %% tags=["exercise"]
def risky(metadata):
    """The columns with a function as default on DuckDB, as "table.column"."""
    raise NotImplementedError


# %%
from playbook.exercises.migrations.drift import HINTS, check

check(risky)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def risky(metadata):
    names = "SELECT table_name, column_name, column_default FROM duckdb_columns()"
    engine = sa.create_engine("duckdb:///:memory:")
    found = []
    with engine.begin() as db:
        metadata.create_all(db)
        for table_name, column_name, default in db.execute(sa.text(names)):
            # A text in quotes calls nothing.
            code = re.sub("'[^']*'", "", default or "")
            if "(" in code.replace("CAST(", ""):
                found.append(f"{table_name}.{column_name}")
    return sorted(found)


assert check(risky)

# %% [markdown]
"""
## Take it with you

`playbook lift drift INTO` copies the recipe and its tests. The start of a service, and
a test of yours:

```python
def start(engine):
    try:
        check_revision(engine)
    except NewerSchema as error:  # a rollout, or a release that was taken back
        logging.getLogger(__name__).warning("%s", error)
    return create_app(engine)


def test_migrations_and_models_agree(engine):
    upgrade(engine)
    assert drift(engine, metadata) == []
```

| seam | what your project does |
|---|---|
| engine | PostgreSQL, DuckDB, SQLite |
| models | one `MetaData` with all tables; import every model first |
| options | Alembic's: `include_object` leaves out tables that are not yours |
| time of the check | after each migration, and at night |

Traps:

- A table that another program owns is reported as `drop_table`. Leave it out, or one
  day somebody runs the draft.
- **Rollouts.** After an upgrade, a process of the old release may still start again. If
  `NewerSchema` stops it, the rollout becomes an outage. So `start` warns, and Pantry
  does. Each migration must suit the release before, as in
  [expand and contract](expand_and_contract.ipynb).
- `check_revision` reads the folder `migrations` in the current folder. A service passes
  `"shop:migrations"`, and packs that folder.
- A CHECK of a type (`create_constraint=True`) or of one engine (`ddl_if`) is counted,
  even where it is not made.
- Several schemas need `include_schemas=True`.
- Foreign keys on DuckDB: the recipe [engines](../foundations/engines.ipynb) makes none,
  so leave them out with `include_object`.

Hand it over:

- **Operations**: a red night check is a question to whoever was in the database.
- **Reviewer**: `String`, not `Text`; no function as `server_default` on DuckDB.
- **Tests**: keep one planted difference, so that the check can fail.

## In short

Autogenerate compares a database with models; an empty draft means that they agree.
Primary keys and CHECKs must be compared besides. The revision is what a database
claims, and only its tables prove it.

## Sources

Alembic documentation, "Auto Generating Migrations": what is detected and what is not.
SQLAlchemy documentation, "Reflecting Database Objects". DuckDB documentation, "Indexes"
and "Metadata functions".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [First migration](first_migration.ipynb) · [course map](../index.ipynb) · Next: [Expand and contract](expand_and_contract.ipynb)
"""
