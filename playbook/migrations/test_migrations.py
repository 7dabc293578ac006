# %% [markdown]
"""
# Test migrations

Run every migration up, down and up again over rows that nobody chose, and be told what it loses, what it leaves behind
and where it works on an empty table only.

| | |
|---|---|
| **Use it when** | a migration is about to be merged, or a downgrade is in the plan for a bad release |
| **You need** | [transactions](../foundations/transactions.ipynb), [catalog](../schema/catalog.ipynb), [first_migration](first_migration.ipynb) |
| **Time** | 20 minutes |
| **Topics** | test a migration, migration test, up down up, downgrade, rollback, data loss, NOT NULL on existing rows, one head, pytest-alembic, hypothesis, property-based testing, generated rows, test data, leftovers, enum type already exists, schema diff, round trip, continuous integration |
| **Standard** | ISO/IEC 9075-2 (schema definition and manipulation) |
"""

# %% [markdown]
"""
## The decision

How is a migration tested?

| option | good | costs |
|---|---|---|
| up, down and up again on an empty database | one test, written once | dropping a column and adding it again looks right when no row is there to lose a value |
| pytest-alembic | a maintained plugin: one head, models match, each revision up and down | you write each revision's rows by hand; its search for leftovers is experimental and needs savepoints, which DuckDB lacks |
| **each revision alone, over made rows, compared before and after** | a new revision is tested on the day it is written; the rows are nobody's idea of normal | some 200 lines; what a migration is meant to change needs a test of its own |
| a restored copy of production | the real sizes, the real oddities | hours; personal data in a test; only what happens to be there today |

We take **made rows**, as functions for any Alembic history. What a downgrade cannot bring back, its revision has to
declare, with the reason. Choose pytest-alembic where PostgreSQL is the only engine and revisions with data are rare.
Choose a copy of production, without its people, as the rehearsal of one large migration.
"""

# %% [markdown]
"""
## See it break

A release can be yanked: it stays, and no installer takes it any more. Now somebody wants to know why, so a reason
takes the place of the flag. Two ways to write the downgrade, and the test that everybody writes. Predict: does it
pass? And what happens to three rows that go up and down, with the first and with the second?
"""

# %%
import textwrap

import sqlalchemy as sa

from playbook.foundations.engines import NAMING, Base, make_engine
from playbook.kit.lesson import checker, lesson_folder, lesson_url, on_postgres, show, table
from playbook.migrations.first_migration import downgrade, upgrade

ENVIRONMENT = "from playbook.migrations.first_migration import run_environment\n\nrun_environment(None, None)\n"
REVISION = """import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on, loses = {!r}, {!r}, None, None, {!r}

def upgrade():
{}

def downgrade():
{}
"""


def history(*revisions, loses=None):
    """A folder with an environment and `revisions`: each a name, what upgrade does, and what downgrade does."""
    folder, below = lesson_folder(), None
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENVIRONMENT, encoding="utf-8")
    for name, *code in revisions:
        code = [textwrap.indent(part, "    ") for part in code]
        text = REVISION.format(name, below, (loses or {}).get(name, {}), *code)
        (folder / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
        below = name
    return folder


MADE_OF = """
version = sa.Column("version", sa.String(), primary_key=True)
op.create_table("releases", version, sa.Column("yanked", sa.Boolean(), nullable=False))
"""
REASON = """
op.add_column("releases", sa.Column("reason", sa.String()))
op.execute("UPDATE releases SET reason = 'none given' WHERE yanked")
with op.batch_alter_table("releases") as batch:
    batch.drop_column("yanked")
"""
FLAG = """
with op.batch_alter_table("releases") as batch:
    batch.add_column(sa.Column("yanked", sa.Boolean(), nullable=False{}))
    batch.drop_column("reason")
"""
RELEASES = ("0001_releases", MADE_OF, 'op.drop_table("releases")')
FIRST = history(RELEASES, ("0002_reason", REASON, FLAG.format("")))
SECOND = history(RELEASES, ("0002_reason", REASON, FLAG.format(", server_default=sa.false()")))

for folder in (FIRST, SECOND):
    engine = make_engine(lesson_url())
    for go, to in ((upgrade, "head"), (downgrade, "base"), (upgrade, "head")):
        go(engine, to, folder)
    print("up, down and up again on an empty database: passed")
for folder in (FIRST, SECOND):
    engine = make_engine(lesson_url())
    upgrade(engine, "0001_releases", folder)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO releases VALUES ('1.0', false), ('1.1', true), ('1.2', false)"))
    upgrade(engine, "0002_reason", folder)
    try:
        downgrade(engine, "0001_releases", folder)
    except sa.exc.IntegrityError as error:
        print(str(error.orig).splitlines()[0])
with engine.connect() as connection:
    show(table(connection.execute(sa.text("SELECT * FROM releases ORDER BY version")).mappings()))

# %% [markdown]
"""
Both passed. The first works on an empty table only, so the rollback fails in the night in which it is needed. The
second, the quick correction, gives every release back to the installers, 1.1 too, which was withdrawn.

## Build it

First the history as steps, so that each revision is tested, also one that is written next year. `loses` is a variable
in the revision's own file, beside the code that loses, where its reviewer reads it.
"""

# %% tags=["export"]
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from playbook.migrations.first_migration import HERE, Location, alembic_config, downgrade, drift, heads, upgrade


@dataclass(frozen=True)
class Step:
    """One revision. `before`: what it stands on, nothing for the first, several for a merge.

    `loses`: the values that going up or down cannot keep, as `table` or `table.column`, each with the reason.
    """

    before: tuple[str, ...]
    after: str
    loses: Mapping[str, str]


def steps(location: Location = HERE) -> list[Step]:
    """The revisions of a history, each after those it stands on."""
    found = []
    for script in ScriptDirectory.from_config(alembic_config("duckdb", location)).walk_revisions():
        below = script.down_revision or ()
        before = (below,) if isinstance(below, str) else tuple(below)
        found.append(Step(before, script.revision, getattr(script.module, "loses", {})))
    return found[::-1]


def one_head(location: Location = HERE) -> list[str]:
    """What is wrong with the end of a history: nothing, or more than one head."""
    found = heads(location)
    return [] if len(found) == 1 else [f"{len(found)} heads: {', '.join(found)}; merge them"]


# %% [markdown]
"""
Each step is walked up, down and up again, on a database of its own.
"""


# %% tags=["export"]
class StepFailed(ValueError):
    """An upgrade or a downgrade raised an error of the database. The message is one line."""


def walk(engine: sa.Engine, step: Step, location: Location = HERE) -> Iterator[int]:
    """An empty database goes to the step's beginning, then up, down and up: 0 to 3 on arrival. Raises StepFailed."""
    for revision in step.before:
        upgrade(engine, revision, location)
    yield 0
    below = step.before[0] if step.before else "base"
    ways = [("upgrade", upgrade, step.after), ("downgrade", downgrade, below), ("second upgrade", upgrade, step.after)]
    for place, (way, go, to) in enumerate(ways, 1):
        try:
            go(engine, to, location)
        except sa.exc.DBAPIError as error:
            raise StepFailed(f"{step.after}: the {way} fails: {str(error.orig).splitlines()[0]}") from error
        yield place


# %% [markdown]
"""
To compare two states of a database we need them as values: one query over the engine's catalogue gives lines. Not of
tables only: what is left behind is most often a sequence, a view, an ENUM type. And as a *set*, since a column that was
dropped and added again stands last, and no query by name can tell.
"""

# %% tags=["export"]
DUCKDB = """
    SELECT 'table ' || table_name FROM duckdb_tables() WHERE NOT internal
    UNION ALL SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type ||
        CASE WHEN is_nullable THEN '' ELSE ' NOT NULL' END || coalesce(' DEFAULT ' || column_default, '')
        FROM duckdb_columns() WHERE NOT internal
    UNION ALL SELECT 'constraint of ' || table_name || ' ' || constraint_text
        FROM duckdb_constraints() WHERE constraint_type <> 'NOT NULL'
    UNION ALL SELECT sql FROM duckdb_indexes()
    UNION ALL SELECT 'sequence ' || sequence_name FROM duckdb_sequences() WHERE NOT temporary
    UNION ALL SELECT sql FROM duckdb_views() WHERE NOT internal
    UNION ALL SELECT 'type ' || type_name || coalesce(labels::VARCHAR, '') FROM duckdb_types() WHERE NOT internal
    UNION ALL SELECT 'macro ' || function_name FROM duckdb_functions() WHERE NOT internal
    UNION ALL SELECT 'schema ' || schema_name FROM duckdb_schemas() WHERE NOT internal"""


def schema(engine: sa.Engine) -> set[str]:
    """All that migrations have made in a database, a line each; not the order of columns, and nothing of Alembic's."""
    query = {"duckdb": DUCKDB, "postgresql": POSTGRESQL}[engine.dialect.name]
    with engine.connect() as connection:
        lines = connection.scalars(sa.text(query)).all()
    return {str(line).strip() for line in lines if "alembic_version" not in line}


# %% [markdown]
"""
On PostgreSQL whatever the installation did not bring has an OID from 16384 on.
"""

# %% tags=["export"]
POSTGRESQL = """
    SELECT CASE WHEN relkind IN ('v', 'm') THEN 'view ' || pg_get_viewdef(oid) || ' ' WHEN relkind = 'S' THEN 'sequence '
        ELSE 'table ' END || relname FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'S', 'v', 'm')
    UNION ALL SELECT 'column ' || relname || '.' || attname || ' ' || format_type(atttypid, atttypmod) ||
        CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '') ||
        attidentity::text || attgenerated::text
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE pg_class.oid >= 16384 AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint of ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE oid >= 16384 AND contype <> 'n'
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid >= 16384 AND NOT indisprimary
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE oid >= 16384 AND typtype IN ('d', 'e', 'r')
    UNION ALL SELECT 'value ' || enumlabel || ' of ' || enumtypid::regtype FROM pg_enum
    UNION ALL SELECT 'function ' || oid::regprocedure || prosrc FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'policy ' || polname || ' of ' || polrelid::regclass FROM pg_policy
    UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384 AND NOT starts_with(nspname, 'pg_')"""

# %% [markdown]
"""
That is the first test: at the same place the database looks the same. A downgrade that leaves a type behind shows it
here, or fails when the second upgrade makes it again.
"""


# %% tags=["export"]
def up_down_up(engine: sa.Engine, step: Step, location: Location = HERE) -> list[str]:
    """What a revision leaves behind or does not bring back, on an empty database, without a row."""
    seen, found = list[set[str]](), list[str]()
    try:
        for _ in walk(engine, step, location):
            seen.append(schema(engine))
    except StepFailed as failed:
        found.append(f"{failed} (on empty tables)")
    for way, first, later in (("downgrade", seen[:1], seen[2:3]), ("second upgrade", seen[1:2], seen[3:])):
        for old, new in zip(first, later, strict=False):
            found += [f"{step.after}: the {way} leaves behind: {line}" for line in sorted(new - old)]
            found += [f"{step.after}: the {way} does not bring back: {line}" for line in sorted(old - new)]
    return found


# %% [markdown]
"""
Now the rows. Written by hand they are what somebody thought of: no empty text, no NULL, no `ß`, no year 2099.
Hypothesis makes them from each column's type, the simplest first and then whatever it finds odd. From a CHECK
constraint we take what is easy to take: the texts that it names, small letters, positive numbers.
"""

# %% tags=["export"]
import datetime as dt
import re
import uuid

from hypothesis import strategies as st

TEXT = st.characters(codec="utf-8", exclude_characters="\0")  # PostgreSQL stores no NUL
Given = Mapping[str, st.SearchStrategy[Any]]  # strategies of your own, by `table.column`
BY_TYPE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    bytes: st.binary(max_size=12),
    dt.date: st.dates(dt.date(1900, 1, 1)),
    dt.time: st.times(),
    dt.timedelta: st.timedeltas(dt.timedelta(0), dt.timedelta(1000)),
    float: st.floats(allow_nan=False, allow_infinity=False, width=32),
    uuid.UUID: st.uuids(),
}


# %% tags=["export"]
def of_type(kind: sa.types.TypeEngine[Any]) -> st.SearchStrategy[Any]:
    """Values of a column's type. Raises NotImplementedError or KeyError for one that nobody has taught it."""
    if isinstance(kind, sa.Enum):
        return st.sampled_from(kind.enums)
    if isinstance(kind, sa.ARRAY):
        return st.lists(of_type(kind.item_type), max_size=3)
    if isinstance(kind, sa.JSON):
        return st.dictionaries(st.text("abc", max_size=3), st.integers(0, 9), max_size=3)
    if isinstance(kind, sa.String):
        return st.text(TEXT, max_size=min(kind.length or 8, 8))
    if isinstance(kind, sa.Integer):
        bits = 16 if isinstance(kind, sa.SmallInteger) else 64 if isinstance(kind, sa.BigInteger) else 32
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if isinstance(kind, sa.DateTime):
        zones = st.just(dt.UTC) if kind.timezone else st.none()
        return st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1), timezones=zones)
    if isinstance(kind, sa.Numeric) and kind.asdecimal:
        places = kind.scale or 0
        largest = 10 ** ((kind.precision or 18) - places) - 1
        return st.decimals(-largest, largest, places=places)
    return BY_TYPE[kind.python_type]


# %% tags=["export"]
def values(column: sa.Column[Any]) -> st.SearchStrategy[Any]:
    """Values for a column. For a reference a number: which of the parents it will be."""
    if column.foreign_keys:
        return st.none() | st.integers(0, 10**6) if column.nullable else st.integers(0, 10**6)
    found, keys = of_type(column.type), list[Any]([column.table.primary_key])
    keys += (index for index in column.table.indexes if index.unique)
    rules = [str(c.sqltext) for c in column.table.constraints if isinstance(c, sa.CheckConstraint)]
    rules = [rule for rule in rules if re.search(rf"\b{re.escape(column.name)}\b", rule)]
    if isinstance(column.type, sa.String):
        if any(column.name in key.columns for key in keys):
            found = found.filter(bool)  # the empty text would fit once
        if any("lower(" in rule for rule in rules):
            found = found.map(str.lower)
        if named := [text.replace("''", "'") for rule in rules for text in re.findall(r"'((?:[^']|'')*)'", rule)]:
            listed = any(re.search(r" IN \(|= ANY \(", rule) for rule in rules)  # as DuckDB and PostgreSQL write it
            found = st.sampled_from(named) if listed else st.sampled_from(named) | found
    elif any(re.search(">=? 0", rule) for rule in rules):
        found = found.filter(lambda value: value > 0)
    return st.none() | found if column.nullable else found


def row_of(there: sa.Table, given: Given) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of a table, without what the database computes."""
    written = [c for c in there.c if c.computed is None and not (c.identity and c.identity.always)]
    return st.fixed_dictionaries(
        {c.name: given[own] if (own := f"{there.name}.{c.name}") in given else values(c) for c in written}
    )


# %% [markdown]
"""
A row may need a parent. The database itself says what refers to what; where it has no foreign keys, the models do.
"""


# %% tags=["export"]
def reflected(engine: sa.Engine, models: sa.MetaData) -> sa.MetaData:
    """The tables as they are, without Alembic's, and with the references of `models` between columns that are there."""
    found = sa.MetaData()
    found.reflect(engine, only=lambda name, _: name != "alembic_version")
    unaware = [known for known in found.tables.values() if not known.foreign_keys and known.name in models.tables]
    for child in unaware:
        for key in models.tables[child.name].foreign_key_constraints:
            parent, names = found.tables.get(key.referred_table.name), [e.column.name for e in key.elements]
            if parent is not None and {*names} <= {*parent.c.keys()} and {*key.column_keys} <= {*child.c.keys()}:
                child.append_constraint(sa.ForeignKeyConstraint(key.column_keys, [parent.c[name] for name in names]))
    return found


# %% [markdown]
"""
The rows are made first and put in afterwards, so that a migration runs once over many and not once for each. With a
seed they are the same in every run: a test that fails on Monday only is worse than none.

Whether a row is allowed, the database knows best: what it refuses is left out. But a table that took no row at all
would pass every test that follows, so it is a finding.
"""

# %% tags=["export"]
import hypothesis

MADE = 8  # rows for each table


def sample(strategy: st.SearchStrategy[Any], count: int, seed: int) -> list[Any]:
    """`count` values that `strategy` makes, the same for the same seed."""
    found: list[Any] = []
    once: dict[str, Any] = {"phases": [hypothesis.Phase.generate], "database": None, "deadline": None}

    @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck), **once)
    @hypothesis.seed(seed)
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


# %% tags=["export"]
def put(engine: sa.Engine, there: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert `rows` at once, or, where one of them is refused, one by one. How many were taken."""
    try:
        with engine.begin() as connection:
            connection.execute(there.insert().values(rows))
        return len(rows)
    except sa.exc.IntegrityError:
        return sum(put(engine, there, [row]) for row in rows) if len(rows) > 1 else 0


def fill(engine: sa.Engine, models: sa.MetaData, seed: int, given: Given) -> list[str]:
    """Put made rows into every table, parents first. Returns the tables that took none."""
    empty = []
    for there in reflected(engine, models).sorted_tables:
        rows = sample(row_of(there, given), MADE, seed)
        numbers = [dict(row) for row in rows]  # a column may be part of two references, the wider one wins
        for key in sorted(there.foreign_key_constraints, key=lambda key: (len(key.column_keys), key.column_keys)):
            columns = [element.column for element in key.elements]
            with engine.connect() as connection:
                parents = connection.execute(sa.select(*columns).order_by(*columns)).all()
            for row, made in zip(rows, numbers, strict=True):
                number = made[key.column_keys[0]]
                chosen = parents[number % len(parents)] if parents and number is not None else [None] * len(columns)
                row |= dict(zip(key.column_keys, chosen, strict=True))
        empty += [there.name] * (put(engine, there, rows) == 0)
    return empty


# %% [markdown]
"""
What was kept? `lost` looks for the old values among the new ones, column by column. Then, because two rows may have
exchanged theirs, for whole rows. On a single step only the columns of both sides can be compared; on the way there and
back, all of them.
"""

# %% tags=["export"]
from collections import Counter

Rows = dict[str, list[dict[str, str]]]


def contents(engine: sa.Engine) -> Rows:
    """All rows of all tables; each value as its `repr`, which tells 1 from True and can be counted."""
    found = {}
    with engine.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.select(sa.text("*")).select_from(sa.table(name))).mappings()
            found[name] = [{column: repr(value) for column, value in row.items()} for row in rows]
    found.pop("alembic_version", None)
    return found


def lost(old: Rows, new: Rows, all_columns: bool) -> set[str]:
    """Tables and columns of `old` with values that are not in `new`, as `table` or `table.column`."""
    found: set[str] = set()
    for name, rows in old.items():
        there = new.get(name, [])
        if not rows or (name not in new and not all_columns):
            continue
        if len(there) < len(rows):
            found.add(name)
            continue
        columns = [column for column in rows[0] if all_columns or column in there[0]]
        gone = {c for c in columns if Counter(row[c] for row in rows) - Counter(row.get(c, "") for row in there)}
        found |= {f"{name}.{column}" for column in gone}
        whole = [Counter(tuple(row.get(c, "") for c in columns if c not in gone) for row in r) for r in (rows, there)]
        found |= {name} if whole[0] - whole[1] else set()
    return found


# %% [markdown]
"""
The second test. Rows of the old program go up and come back; rows of the new program, written after the upgrade, go
down and come up again. Every value that this changes must be declared, and every declaration must be true.
"""


# %% tags=["export"]
def rows_survive(
    engine: sa.Engine, step: Step, models: sa.MetaData, location: Location = HERE, given: Given | None = None
) -> list[str]:
    """What a revision does to rows and does not declare, on an empty database. `models` know the references."""
    found, arrived, left = [], list[Rows](), list[Rows]()
    try:
        for place in walk(engine, step, location):
            arrived.append(contents(engine))
            empty = fill(engine, models, place, given or {}) if place < 2 else []
            found += [f"{step.after}: no row for {name}: give strategies for its columns" for name in empty]
            left.append(contents(engine) if place < 2 else arrived[-1])
    except StepFailed as failed:
        return [f"{failed} (on tables with rows)"]
    changed = lost(left[0], arrived[2], True) | lost(left[1], arrived[3], True)
    for here, there in zip(left, arrived[1:], strict=False):
        changed |= lost(here, there, False) | lost(there, here, False)
    found += [f"{step.after}: changes or loses {name}" for name in sorted(changed - step.loses.keys())]
    return found + [f"{step.after}: declares {name}, and keeps it" for name in sorted(step.loses.keys() - changed)]


# %% [markdown]
"""
All of it. `drift` is the test that the models match. In a suite let `steps()` be parameters: a line for each revision.
"""


# %% tags=["export"]
def check_history(new_engine: Callable[[], sa.Engine], models: sa.MetaData, location: Location = HERE) -> list[str]:
    """Everything that is wrong with a history, as lines. `new_engine()` gives an empty database each time."""
    found = one_head(location)
    for step in steps(location):
        found += up_down_up(new_engine(), step, location)
        found += rows_survive(new_engine(), step, models, location)
    if not found:
        upgrade(engine := new_engine(), "head", location)
        found = drift(engine, models)
    return found


# %% [markdown]
"""
## See it work

The two histories again. Nobody has to say what a release is, or which rows to try.
"""

# %%
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(lesson_folder())  # its notes; otherwise a folder beside this page


def databases(url):
    """A function that gives an empty database at each call; on PostgreSQL that of `url`, emptied."""

    def empty():
        engine = make_engine(url if url.startswith("postgresql") else lesson_url())
        if url.startswith("postgresql"):
            with engine.begin() as connection:
                connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
        return engine

    return empty


MODELS = sa.MetaData(naming_convention=NAMING)
key, reason = sa.Column("version", sa.String, primary_key=True), sa.Column("reason", sa.String)
sa.Table("releases", MODELS, key, reason)
first, second = (check_history(databases(lesson_url()), MODELS, folder) for folder in (FIRST, SECOND))
print(*first, "", *second, sep="\n")

# %% [markdown]
"""
Of the second it says more than we knew: a default stays behind. Now a downgrade that computes the flag. The old table
has no place for the text of a reason. That is no fault, but whoever rolls back must know it, so it is declared.
"""

# %%
COMPUTED = """
op.add_column("releases", sa.Column("yanked", sa.Boolean()))
op.execute("UPDATE releases SET yanked = reason IS NOT NULL")
with op.batch_alter_table("releases") as batch:
    batch.alter_column("yanked", existing_type=sa.Boolean(), nullable=False)
    batch.drop_column("reason")
"""
LOSES = {"0001_releases": {"releases": "there is no such table"}}
LOSES["0002_reason"] = {"releases.reason": "the old program knows only that there is one"}
THIRD = history(RELEASES, ("0002_reason", REASON, COMPUTED), loses=LOSES)
third = check_history(databases(lesson_url()), MODELS, THIRD)
print(third)

# %% [markdown]
"""
And Pantry's own history, with what it would cost to go down each of its revisions:
"""

# %%
import playbook.pantry.app  # noqa: F401  its imports are Pantry's models
from playbook.pantry.history import PANTRY

pantry_holds = check_history(databases(lesson_url()), Base.metadata, PANTRY)
print(f"{len(steps(PANTRY))} revisions, findings: {pantry_holds}")
show(table({"revision": s.after, "going down loses": ", ".join(s.loses) or "nothing"} for s in steps(PANTRY)))

# %% [markdown]
"""
## On PostgreSQL

The same findings there. And on both engines everybody's first leftover: an ENUM is a type beside the table, and does
not go when the table goes. DuckDB has one more, the sequence that it made for the integer key. No model knows either
of them, so no comparison with models does.
"""

# %%
FILES = """
kind = sa.Column("kind", sa.Enum("sdist", "wheel", name="file_kind"))
op.create_table("files", sa.Column("id", sa.Integer(), primary_key=True), kind)
"""


def leave_behind(url):
    folder = history(("0001_files", FILES, 'op.drop_table("files")'))
    print(f"{make_engine(url).dialect.name}:", *up_down_up(databases(url)(), steps(folder)[0], folder), sep="\n  ")


def in_short(*findings):
    words = re.compile(" fails:.*| DEFAULT.*")  # each engine has its own for an error and for an expression
    return [[words.sub("", line).lower() for line in found] for found in findings]


there = on_postgres(lambda url: in_short(*(check_history(databases(url), MODELS, f) for f in (FIRST, SECOND, THIRD))))
print("PostgreSQL says of the three histories what DuckDB says:", there in (in_short(first, second, third), None))
leave_behind(lesson_url())
on_postgres(leave_behind)

# %% [markdown]
"""
## Check it

A test must be able to fail, so for each kind of fault there is a revision that has it and no other. And rows must be
able to show it: every column of Pantry gets more than one value.
"""

# %%
FAULTS = {
    "leaves behind: sequence numbers": ('op.execute("CREATE SEQUENCE numbers")', "pass"),
    "does not bring back: CREATE INDEX ix_yanked": ('op.drop_index("ix_yanked")', "pass"),
    "changes or loses releases.version": ("op.execute(\"UPDATE releases SET version = version || '.0'\")", "pass"),
    "changes or loses releases": ('op.execute("DELETE FROM releases WHERE yanked")', "pass"),
    "declares releases.yanked, and keeps it": ("pass", "pass"),
}
for line, code in FAULTS.items():
    loses = {"0002_fault": {"releases.yanked": "a guess"} if "declares" in line else {}}
    indexed = MADE_OF + 'op.create_index("ix_yanked", "releases", ["yanked"])'
    fault = steps(folder := history(("0001_releases", indexed, "pass"), ("0002_fault", *code), loses=loses))[1]
    new = databases(lesson_url())
    found = up_down_up(new(), fault, folder) or rows_survive(new(), fault, MODELS, folder)
    assert any(line in there for there in found), f"{line}: {found}"

upgrade(engine := make_engine(lesson_url()), location=PANTRY)
assert fill(engine, Base.metadata, 0, {}) + fill(engine, Base.metadata, 1, {}) == []
for name, rows in contents(engine).items():
    assert all(len({row[column] for row in rows}) > 1 for column in rows[0]), name
assert there in (in_short(first, second, third), None) and third == pantry_holds == []
print(f"each of {len(FAULTS)} faults is found, and no revision of Pantry has any")

# %% [markdown]
"""
## Your turn

While a migration runs, and for minutes after it, the program of the release before is still running. It does not know
the new columns, and it goes on writing to the old ones. Write `refused(engine, step, location)`: the sorted names of
the tables that take fewer of the old program's rows after the upgrade than they took before it. `engine` is an empty
database. A row that the table refused before is no fault of this revision.
"""


# %% tags=["exercise"]
def refused(engine: sa.Engine, step: Step, location: Location) -> list[str]:
    walking = walk(engine, step, location)
    next(walking)
    next(walking)
    return sorted(fill(engine, MODELS, 0, {}))


# %%
NOTE = 'op.add_column("releases", sa.Column("note", sa.String(), server_default={}))'
REQUIRED = """
with op.batch_alter_table("releases") as batch:
    batch.alter_column("note", existing_type=sa.String(), nullable=False)
"""
NUMBERS = """
number = sa.Column("number", sa.Integer(), sa.CheckConstraint("number > 0", "low"), nullable=False)
op.create_table("numbers", sa.Column("id", sa.Uuid(), primary_key=True), number)
"""
TWO_TABLES = ("0001_two_tables", MADE_OF + NUMBERS, "pass")
CHANGES = {
    "a column that may be NULL": (NOTE.format("None"), []),
    "a required column with a default": (NOTE.format('""') + REQUIRED, []),
    "a required column without one": (NOTE.format("None") + REQUIRED, ["releases"]),
    "a column renamed": ('op.alter_column("releases", "yanked", new_column_name="hidden")', ["releases"]),
    "a unique index": ('op.create_index("one", "releases", ["yanked"], unique=True)', ["releases"]),
    "a table dropped": ('op.drop_table("numbers")', ["numbers"]),
    "a table made": ('op.create_table("more", sa.Column("id", sa.Integer(), primary_key=True))', []),
    "both changed": (
        'op.drop_column("releases", "yanked"); op.drop_column("numbers", "number")',
        ["numbers", "releases"],
    ),
}


@checker
def check_refused(refused):
    for what, (up, wanted) in CHANGES.items():
        folder = history(TWO_TABLES, ("0002_change", up, "pass"))
        found = refused(make_engine(lesson_url()), steps(folder)[1], folder)
        if found != wanted:
            return f"not yet: after {what} the old program cannot write to {wanted or 'nothing'}, yours says {found}"
    return "right"


check_refused(refused)


# %% tags=["solution"]
def refused(engine: sa.Engine, step: Step, location: Location) -> list[str]:
    walking = walk(engine, step, location)
    next(walking)
    old = reflected(engine, MODELS)  # what the old program knows: it goes on using these names
    rows = {there: sample(row_of(there, {}), MADE, 0) for there in old.sorted_tables}

    def taken(there):
        number = 0
        for row in rows[there]:
            try:
                with engine.begin() as connection:
                    connection.execute(there.insert().values(row))
                number += 1
            except sa.exc.DBAPIError:  # refused, or the table or column is not there any more
                continue
        return number

    before = {there: taken(there) for there in rows}
    with engine.begin() as connection:
        for there in reversed(rows):
            connection.execute(there.delete())  # so that the same rows can be tried again
    next(walking)
    return sorted(there.name for there in rows if taken(there) < before[there])


assert check_refused(refused)

# %% [markdown]
"""
## Hand it over

- **Test engineer**: one test a revision, its parameters from `steps()`, on every engine that is served. For what a
  revision is *meant* to change write a test by hand: these functions know that a value changed, not whether to the
  right one.
- **Reviewer**: read `loses` first. An entry says what a rollback will cost, and its reason must convince you.
- **Migration owner**: "no row for ..." means that a CHECK refuses everything that was made; give a strategy for the
  column. A downgrade must cope with what only the new program writes.
  A `server_default` that is a function passes here and can cost the DuckDB file in a crash: Pantry's own test looks for
  one after each statement of each revision.
- **Operator**: the size is not tested here. Ten rows tell nothing about locks and minutes; rehearse a large migration
  on a copy.
- **Security reviewer**: made rows are nobody's data, so they may stand in a log.

## Sources

Alembic documentation, "Cookbook" and "Batch migrations". Hypothesis documentation, "Settings" and "Reproducing
failures". pytest-alembic documentation, "Built-in tests" and "Experimental tests". PostgreSQL documentation, 52
(system catalogs), 8.7 (enumerated types), and `FirstNormalObjectId` in 66.2.2 (OID assignment). DuckDB documentation,
"Metadata functions". P. Sadalage and S. Ambler, *Refactoring Databases*, "Migrating source data".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Expand and contract](expand_and_contract.ipynb) · [course map](../index.ipynb) · Next: [Resources](../api/resources.ipynb)
"""
