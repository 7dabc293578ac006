# %% [markdown]
"""
# Test migrations

Run each migration up, down and up again over rows, and be told what it loses.

| | |
|---|---|
| **Use it when** | a migration is about to be merged, or a rollback is in the plan |
| **You need** | [first migration](first_migration.ipynb) (*code*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | migration test, up down up, downgrade, rollback, data loss |
| **Standard** | ISO/IEC 9075-2 (schema definition and manipulation) |

```python
from playbook.migrations.test_migrations import check_step, steps

for step in steps():
    assert check_step(empty_database(), step, fill) == []  # fill(engine, 0) adds rows
```

*Lift: 133 lines in 2 files; needs alembic, sqlalchemy.*

## See it break

A release of a package can be withdrawn ("yanked"). Now somebody wants to know why: the
text `reason` replaces the flag `yanked`. Two ways to write the downgrade:

| history | the downgrade |
|---|---|
| `FIRST` | adds `yanked`, NOT NULL, and drops `reason` |
| `SECOND` | adds `yanked`, NOT NULL, default false, and drops `reason` |

The folded cell has the histories `FIRST` and `SECOND`, and three releases, `ROWS`: 1.1
is yanked. `usual_test(folder, statement)` makes the old table, runs the statement, then
up, down and up. After one more downgrade it reads the flags. The cell imports `sa`
(SQLAlchemy), `make_engine`, `lesson_url`, `on_postgres`, `upgrade`, `downgrade`, and
`made`, a module with more. Predict: does each history pass on an empty table? And which
flags does it leave to the three releases?
"""

# %% tags=["stage"]
import sqlalchemy as sa

from playbook.exercises.migrations import test_migrations as made
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres
from playbook.migrations.first_migration import downgrade, upgrade

FIRST, SECOND = made.with_downgrade(made.FLAG), made.with_downgrade(made.DEFAULT)
ROWS = "INSERT INTO releases VALUES ('1.0', false), ('1.1', true), ('1.2', false)"


def yanked(engine):
    with engine.connect() as db:
        query = sa.text("SELECT version, yanked FROM releases ORDER BY version")
        return dict(db.execute(query).all())


def usual_test(folder, statement):
    engine = make_engine(lesson_url())
    upgrade(engine, "0001_releases", folder)
    with engine.begin() as db:
        db.execute(sa.text(statement))
    try:
        for go, to in ((upgrade, "head"), (downgrade, "-1"), (upgrade, "head")):
            go(engine, to, folder)
        downgrade(engine, "-1", folder)
        return yanked(engine)
    except sa.exc.DBAPIError as error:
        return str(error.orig).splitlines()[0]


# %% tags=["predict"]
for folder in (FIRST, SECOND):
    for statement in ("SELECT 1", ROWS):
        print(usual_test(folder, statement))

# %% [markdown]
"""
So a green test says nothing about the night in which the downgrade is needed. `FIRST`
fails then. `SECOND` is worse, because no error tells that 1.1, which was withdrawn, is
offered to all users again.

## The decision

| option | good | costs |
|---|---|---|
| up, down, up, empty | one test | sees no lost value, no lost index |
| pytest-alembic | a maintained plugin | rows by hand, no DuckDB |
| Django, Flask-Migrate | | bring no such test |
| **each [revision](../glossary.md#revision), with rows, compared** | finds what is lost | some code, here |
| a copy of production | real rows | hours, and personal data |

We choose **each revision with rows**. What a downgrade cannot bring back, the revision
declares with a reason. Choose a copy of production, without its people, when you
rehearse a large migration.

## Build it

### The idea

Look at the database in four places, and compare:

```text
  place 0 ---- upgrade ----> 1 ---- downgrade ----> 2 ---- upgrade ----> 3
     |                       |                      |                    |
     +------------- the same rows ------------------+                    |
                             +-------------- the same rows --------------+
```

Rows of the old program are there at place 0. Rows of the new program are added at
place 1. The upper comparison finds what the way back loses. The lower one finds what a
second upgrade can no longer know.

### The steps

Each revision is a **step**. `loses` is a variable in the revision's own file: what it
cannot keep, as `table` or `table.column`, and why.
"""

# %% tags=["export"]
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from playbook.migrations.first_migration import HERE, Location, alembic_config


@dataclass(frozen=True)
class Step:
    """A revision, what it stands on (a merge: on several), what it cannot keep."""

    before: tuple[str, ...]
    after: str
    loses: Mapping[str, str]


def steps(location: Location = HERE) -> list[Step]:
    """The revisions of a history, each after those that it stands on."""
    scripts = ScriptDirectory.from_config(alembic_config(None, location))
    found = []
    for one in scripts.walk_revisions():
        below = one.down_revision or ()
        before = (below,) if isinstance(below, str) else tuple(below)
        found.append(Step(before, one.revision, getattr(one.module, "loses", {})))
    return found[::-1]


# %%
print(*steps(FIRST), sep="\n")

# %% [markdown]
"""
### What was kept

Values are compared as their `repr`, which tells `1` from `True`.
"""

# %% tags=["export"]
from collections import Counter

Rows = dict[str, list[dict[str, str]]]


def contents(engine: sa.Engine) -> Rows:
    """All rows of all tables but Alembic's, each value as its `repr`."""
    found = {}
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            everything = sa.select(sa.text("*")).select_from(sa.table(name))
            rows = connection.execute(everything).mappings()
            found[name] = [{key: repr(row[key]) for key in row} for row in rows]
    found.pop("alembic_version", None)
    return found


# %%
engine = make_engine(lesson_url())
upgrade(engine, "0001_releases", FIRST)
with engine.begin() as db:
    db.execute(sa.text(ROWS))
print(contents(engine)["releases"][0])

# %% [markdown]
"""
`lost` looks for the old values among the new ones, column by column. Then it looks for
whole rows, because two rows may have exchanged a value. With `new_columns=False` it
looks only at columns that are on both sides. That suits neighbouring places, between
which a column comes or goes.
"""


# %% tags=["export"]
def values(rows: list[dict[str, str]], *columns: str) -> Counter[tuple[str, ...]]:
    """How often each combination of values is there."""
    return Counter(tuple(row.get(column, "") for column in columns) for row in rows)


def lost(old: Rows, new: Rows, new_columns: bool = True) -> set[str]:
    """What of `old` is not in `new`: columns, or tables whose rows differ.

    Without `new_columns` a table or a column that `new` lacks is no loss.
    """
    found: set[str] = set()
    for name, rows in old.items():
        there = new.get(name, [])
        if not rows or (name not in new and not new_columns):
            continue
        if len(there) < len(rows):
            found.add(name)
            continue
        columns = sorted(key for key in rows[0] if new_columns or key in there[0])
        gone = {key for key in columns if values(rows, key) - values(there, key)}
        kept = [key for key in columns if key not in gone]
        found |= {f"{name}.{key}" for key in gone}
        found |= {name} if values(rows, *kept) - values(there, *kept) else set()
    return found


# %%
old = [{"v": "1.0", "yanked": "True"}, {"v": "1.1", "yanked": "False"}]
new = [{"v": "1.0", "yanked": "False"}, {"v": "1.1", "yanked": "True"}]
print(lost({"releases": old}, {"releases": new}))

# %% [markdown]
"""
The flags were exchanged. If one row is there twice and the other not at all:
"""

# %%
print(lost({"releases": old}, {"releases": new[1:] * 2}))

# %% [markdown]
"""
### The schema

A downgrade can also forget an index, a constraint or a default. Then every row is kept,
and nothing keeps the next wrong row out. `schema` returns what SQLAlchemy's inspector
reads, as one set.
"""

# %% tags=["export"]
READ = ("columns", "foreign_keys", "indexes", "unique_constraints", "check_constraints")


def schema(engine: sa.Engine) -> set[str]:
    """Columns with type and default, keys, indexes and constraints of all tables."""
    inspector = sa.inspect(engine)
    found = set()
    for name in set(inspector.get_table_names()) - {"alembic_version"}:
        key = inspector.get_pk_constraint(name)["constrained_columns"]
        found.add(f"{name}: primary key {key}")
        for what in READ:
            parts = getattr(inspector, f"get_{what}")(name)
            found |= {f"{name}: {what} {part}" for part in parts}
    return found


def not_restored(step: Step, schemas: list[set[str]]) -> list[str]:
    """What the way back, and the second way there, leave behind or do not restore."""
    found = []
    for place, way in ((0, "downgrade"), (1, "second upgrade")):
        old, new = schemas[place], schemas[place + 2]
        for part in sorted(old ^ new):
            word = "lacks" if part in old else "leaves"
            found.append(f"{step.after}: the {way} {word} {part}")
    return found


# %%
print(*sorted(schema(engine)), sep="\n")

# %% [markdown]
"""
### One step

`walk` brings an empty database through the four places. `fill(engine, place)` is
yours: it adds rows at place 0 and 1, and returns the tables that took none. The folded
cell defines one for `releases`, which writes to the columns that are there.
"""

# %% tags=["export"]
from collections.abc import Callable, Iterator

from playbook.migrations.first_migration import downgrade, upgrade

Fill = Callable[[sa.Engine, int], list[str]]


class StepFailed(ValueError):
    """An upgrade or a downgrade raised an error. The message is one line."""


def walk(engine: sa.Engine, step: Step, location: Location = HERE) -> Iterator[int]:
    """From an empty database to places 0, 1, 2 and 3. Raises StepFailed."""
    for revision in step.before:
        upgrade(engine, revision, location)
    yield 0
    below = step.before[0] if step.before else "base"
    ways = [
        ("upgrade", upgrade, step.after),
        ("downgrade", downgrade, below),
        ("second upgrade", upgrade, step.after),
    ]
    for place, (way, go, to) in enumerate(ways, 1):
        try:
            go(engine, to, location)
        except sa.exc.DBAPIError as error:
            line = str(error.orig).splitlines()[0]
            raise StepFailed(f"{step.after}: the {way} fails: {line}") from error
        yield place


# %% tags=["stage"]
def fill(engine, place):
    if not sa.inspect(engine).has_table("releases"):
        return []
    table = sa.Table("releases", sa.MetaData(), autoload_with=engine)
    texts = [("1.0", False, None), ("1.1", True, ""), ("1.2", False, "it leaks")]
    rows = []
    for version, yanked, reason in texts:
        row = {"version": f"{place}{version}", "yanked": yanked, "reason": reason}
        rows.append({key: row[key] for key in row if key in table.c})
    with engine.begin() as db:
        db.execute(table.insert(), rows)
    return []


# %%
engine = make_engine(lesson_url())
for place in walk(engine, steps(SECOND)[1], SECOND):
    if place < 2:
        fill(engine, place)
    print(place, contents(engine)["releases"][-1])

# %% [markdown]
"""
`changes` compares the rows that each place has at its end (`left`) with those of the
next at its beginning (`arrived`), and with those two places on. Every value that a step
changes must be declared, and every declaration must be true.
"""


# %% tags=["export"]
def changes(step: Step, left: list[Rows], arrived: list[Rows]) -> list[str]:
    """What happened to rows and is not declared, or is declared and did not happen."""
    changed = lost(left[0], arrived[2]) | lost(left[1], arrived[3])
    for old, new in zip(left, arrived[1:], strict=False):
        changed |= lost(old, new, False) | lost(new, old, False)
    silent, untrue = sorted(changed - step.loses.keys()), step.loses.keys() - changed
    found = [f"{step.after}: changes or loses {name}" for name in silent]
    return found + [f"{step.after}: declares {name}, and keeps it" for name in untrue]


# %% [markdown]
"""
`check_step` is all of it, for one revision:
"""


# %% tags=["export"]
def check_step(
    engine: sa.Engine, step: Step, fill: Fill, location: Location = HERE
) -> list[str]:
    """What is wrong with a revision, as lines. `engine` is an empty database."""
    arrived, left = list[Rows](), list[Rows]()
    schemas, found = list[set[str]](), list[str]()
    try:
        for place in walk(engine, step, location):
            schemas.append(schema(engine))
            arrived.append(contents(engine))
            empty = fill(engine, place) if place < 2 else []
            found += [f"{step.after}: no row for {name}" for name in empty]
            left.append(contents(engine))
    except StepFailed as failed:
        return [*found, str(failed)]
    return found + not_restored(step, schemas) + changes(step, left, arrived)


# %%
print(*check_step(make_engine(lesson_url()), steps(FIRST)[1], fill, FIRST), sep="\n")

# %% [markdown]
"""
## See it work

A third downgrade computes the flag from the reason. The old table has no place for the
text of a reason, and no downgrade can change that. So step 2 declares in `loses` what
it loses, and why. `made.with_downgrade(down, loses)` writes such a history. The folded
cell defines `step_two(url, folder)`: what `check_step` says of step 2, without what
differs from engine to engine. `finds(words)`, for later, says whether it finds a fault.
Predict: of which history does it say most?
"""


# %% tags=["stage"]
def step_two(url, folder):
    found = check_step(make_engine(url), steps(folder)[1], fill, folder)
    return [line.partition(" fails")[0].partition(" {")[0] for line in found]


def finds(words):
    folder = made.with_fault(*made.FAULTS[words])
    found = check_step(make_engine(lesson_url()), steps(folder)[1], fill, folder)
    return f"0002_fault: {words}" in [line.partition(" {")[0] for line in found]


# %% tags=["predict"]
loses = {"releases.reason": "the old program knows only that there is one"}
third = made.with_downgrade(made.COMPUTED, loses)
histories = {"first": FIRST, "second": SECOND, "third": third}
said = {name: step_two(lesson_url(), one) for name, one in histories.items()}
for name, lines in said.items():
    print(f"{name}:", *(lines or ["nothing"]), sep="\n  ")

# %% [markdown]
"""
A reviewer of the third reads in `loses` what a rollback costs, and decides.

## On PostgreSQL

The same histories there:
"""

# %%
there = {name: on_postgres(step_two, one) for name, one in histories.items()}
print("the same" if there == said else there)

# %% [markdown]
"""
## Check it

A test must be able to fail. `made.FAULTS` has revisions with one fault each, and the
words that `check_step` must say.
"""

# %%
heard = [finds(words) for words in made.FAULTS]
changed, gone, schema_lost, untrue = heard
assert said["third"] == [], "what is right is refused"
assert changed and gone, "a lost value or row is not found"
assert schema_lost, "a lost constraint or default is not found"
assert untrue, "a declaration that is not true is not found"
assert there in (said, dict.fromkeys(said)), "PostgreSQL has other findings"
print(f"each of {len(heard)} faults is found")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `getattr(one.module, "loses", {})` | `{}` | what is right is refused |
| `found.add(name)` | `found.discard(name)` | a lost value or row is not found |
| `step.loses.keys() - changed` | `[]` | a declaration that is not true is not found |

## Your turn

While a migration runs, the program of the release before is still running. It does not
know the new columns, and goes on writing. Write
`refused(engine, step, statements, location)`. `statements` are INSERTs of that program.
Return those that the tables take before the upgrade and refuse after it, in their
order. `engine` is an empty database.
"""


# %% tags=["exercise"]
def refused(engine, step, statements, location):
    """Those of `statements` that only the upgrade makes fail."""
    raise NotImplementedError


# %%
from playbook.exercises.migrations.test_migrations import HINTS, check

check(refused)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def refused(engine, step, statements, location):
    def takes(statement):
        try:
            # Rolled back at the end, so it can be tried again.
            with engine.connect() as db:
                db.execute(sa.text(statement))
        except sa.exc.DBAPIError:  # a broken rule, or a column that is not there
            return False
        return True

    for revision in step.before:
        upgrade(engine, revision, location)
    before = [statement for statement in statements if takes(statement)]
    upgrade(engine, step.after, location)
    return [statement for statement in before if not takes(statement)]


assert check(refused)

# %% [markdown]
"""
## Take it with you

`playbook lift test_migrations INTO` copies the recipe and its tests. Your part is
`fill`. It meets each state of the tables, so it asks the database for them. In the
report of your tests, one line is one revision:

```python
def rows(place):
    one, two = 10 * place + 1, 10 * place + 2  # at place 1, rows are added
    customers = [{"id": one, "email": f"{one}@x"}, {"id": two, "email": f"ß'{two}@x"}]
    order = {"id": one, "customer_id": two, "note": None}
    orders = [order, order | {"id": two, "note": ""}]
    return {"customers": customers, "orders": orders}


def fill(engine, place):
    there = sa.MetaData()
    there.reflect(engine)
    tables = [one for one in there.sorted_tables if one.name != "alembic_version"]
    with engine.begin() as db:
        for table in tables:  # customers first, because orders refer to them
            for row in rows(place).get(table.name, []):
                known = {key: row[key] for key in row if key in table.c}
                db.execute(table.insert(), known)
    return [table.name for table in tables if table.name not in rows(place)]


STEPS = steps()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_a_revision_keeps_what_it_does_not_declare(empty_database, step):
    assert check_step(empty_database, step, fill) == []
```

| seam | what your project does |
|---|---|
| engine | a new database in memory, or an empty one on the server |
| `fill` | rows of each kind: NULL, the empty text, long ones, odd signs |
| `loses` | a variable in the revision; add it to `script.py.mako` |
| engines | PostgreSQL, DuckDB, SQLite |

**What it finds**: rows and values that are lost, changed or exchanged; columns, types,
defaults, NOT NULL, keys, indexes, UNIQUE, CHECK and foreign keys that a way back does
not leave as they were. **What it does not**: sequences, views, ENUM types,
triggers, permissions, the order of columns, and the expression of an index.

Traps:

- A table without a row passes every test. So `fill` returns the tables that took none,
  and `rows` keeps the columns that later revisions drop.
- A new column with `now()` or a random default has another value after the second
  upgrade. Declare it in `loses`.
- On PostgreSQL, only the tables of the first schema in `search_path` are compared.
- What a revision is *meant* to change needs a test of its own: `check_step` knows that
  a value changed, not whether to the right one.
- Ten rows say nothing about locks and minutes. Rehearse a large migration on a copy.

Hand it over:

- **Reviewer**: read `loses` first. Its reason must convince you.
- **Tests**: also look for what is left behind and is no table: on PostgreSQL an ENUM
  type stays when its table goes.
- **Operations**: `loses` says what a rollback costs.

## In short

An empty table hides what a migration loses. So each revision goes up, down and up with
rows, and the rows and the schema of the places are compared. A value that cannot come
back is declared in the revision.

## Sources

Alembic documentation, "Cookbook". pytest-alembic documentation, "Built-in tests".
PostgreSQL documentation, 52 (system catalogs), 8.7 (ENUM), 66.2.2 (OIDs). DuckDB
documentation, "Metadata functions". P. Sadalage and S. Ambler, *Refactoring Databases*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Expand and contract](expand_and_contract.ipynb) · [course map](../index.ipynb) · Next: [Resources](../api/resources.ipynb)
"""
