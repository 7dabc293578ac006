# %% [markdown]
"""
# Bulk load

Load a file of thousands of rows into any table, all or nothing, and name each refused
row by its line and a reason.

| | |
|---|---|
| **Use it when** | a file from somebody else has to get into a table, once or daily |
| **You need** | [natural_keys](natural_keys.ipynb) (*code*) |
| **Time** | read 32 min, exercise 15 min |
| **Topics** | bulk load, import csv, COPY, staging table, upsert, rejected rows |
| **Standard** | RFC 4180 |

```python
from playbook.schema.bulk_load import Plan, bulk_load, repeated, staging

raw = staging(["sku", "price"])                  # the header of the file
checks = [("no price", raw.c.price == ""), ("a SKU twice", repeated(raw, raw.c.sku))]
plan = Plan(raw, checks, items, sa.select(raw.c.sku, cents), key=["sku"])
with engine.begin() as db:
    report = bulk_load(db, path, plan)
```

*Lift: 140 lines in 2 files; needs sqlalchemy.*

## See it break

Ada has a list of 14,985 packages, `data/packages.csv`. It begins like this:

```text
rank,name,version,last_release
1,boto3,1.44.5,2026-11
2,packaging,26.3,2026-08
3,urllib3,2.8.0,2026-09
4,certifi,,
```

Her table `packages` takes no package without a version or a month. She loads the file
row by row, each in a transaction of its own:

```python
for row in csv.DictReader(file):
    with engine.begin() as db:
        db.execute(packages.insert().values(columns_of(row)))
```

She loads the whole file twice. Then she loads a copy of it into another table, and
skips each row that the table refuses. The copy broke off after 4 KiB, and its last row
is the 145th: `145,g`.

The folded cell defines `ada_tries()`, which does this. `whole` and `cut` are the paths
of the two files, `odd` is for later. `new_table(url)` gives an engine with the empty
table `packages`. The cell imports `diagram`, which draws two tables, `show`, `table`,
`lesson_url` and `on_postgres`. What does Ada hear each time, and how many rows does the
table have?
"""

# %% tags=["stage"]
import sqlalchemy as sa

from playbook.exercises.schema.bulk_load import diagram, load_row_by_row
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import (
    data_path,
    lesson_folder,
    lesson_url,
    on_postgres,
    show,
    table,
)

packages = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("month", sa.String, nullable=False),
)
whole = data_path("packages.csv")
cut = lesson_folder() / "cut.csv"
cut.write_bytes(whole.read_bytes()[: 4 * 1024])
odd = cut.with_name("odd.csv")
odd.write_text('name\n"two\n\nlines"\n\nthird\n" fourth "\n')


def new_table(url):
    engine = make_engine(url)
    packages.create(engine)
    return engine


def count(engine):
    with engine.connect() as db:
        return db.scalar(sa.select(sa.func.count()).select_from(packages))


def ada_tries():
    rows = []
    loaded, other = new_table(lesson_url()), new_table(lesson_url())
    for engine, path, skip in [(loaded, whole, False)] * 2 + [(other, cut, True)]:
        said = load_row_by_row(engine, packages, path, skip)
        rows.append([path.name, said, count(engine)])
    return rows


# %% tags=["predict"]
show(table(ada_tries(), ["Ada loads", "and hears", "rows"]))

# %% [markdown]
"""
By skipping, Ada learns neither which rows were refused nor that 14,840 never came.
Without, the rows before the first bad one stay, and a second attempt stops at them.

## The decision

How do the rows get from the file into the table?

| option | good | costs |
|---|---|---|
| one transaction, row by row | all or nothing | slow; one error at a time |
| the engine reads into the table | fastest | one bad row refuses all, unnamed |
| Django `bulk_create` | fast, with models | the caller finds and names bad rows |
| **staging table, checks, then the table** | each bad row named | a second table |
| DRF, Flask, Starlette | | have nothing for this |

We choose a **staging table**: a temporary table that takes every row as it came. Choose
row by row for some hundred rows.

## Build it

### The idea

Three statements, each for all rows at once:

```sql
CREATE TEMP TABLE staging AS
SELECT *, '' AS reason FROM read_csv('packages.csv', all_varchar = true);

UPDATE staging SET reason = CASE WHEN version IS NULL THEN 'no version'
                                 WHEN last_release IS NULL THEN 'no month' ELSE '' END;

INSERT INTO packages SELECT name, version, last_release FROM staging WHERE reason = '';
```

The first statement takes the rows as texts, so no value can be wrong yet. The second
one gives bad rows a **reason**. The third one moves the others. The recipe adds what is
missing: the line of each bad row, other engines, and a second load.

### The staging table

All its columns but `line` are texts. Here a missing value is an empty text, never NULL,
so that no check has to think of NULL. `more` names columns that your own function
fills.

A **check** is a reason, and a condition about the rows of the staging table. `repeated`
is one: it is true for a row whose key stands on an earlier line, too.
"""

# %% tags=["export"]
import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

Condition = sa.ColumnElement[bool]


def staging(header: Sequence[str], more: Sequence[str] = ()) -> sa.Table:
    """A temporary table for files with `header`. Its name is `staging`."""
    texts = [sa.Column(name, sa.String) for name in (*header, *more, "reason")]
    line = sa.Column("line", sa.BigInteger)
    raw = sa.Table("staging", sa.MetaData(), line, *texts, prefixes=["TEMPORARY"])
    raw.info["header"] = header
    return raw


def drop_staging(db: sa.Connection) -> None:
    """Drop the temporary table, if there is one; never a table of yours."""
    schema = "pg_temp" if db.dialect.name == "postgresql" else "temp"
    db.exec_driver_sql(f"DROP TABLE IF EXISTS {schema}.staging")


def repeated(raw: sa.Table, *key: sa.ColumnElement[Any]) -> Condition:
    """True for all rows with one `key` but the first."""
    return sa.func.row_number().over(partition_by=key, order_by=raw.c.line) > 1


# %% [markdown]
"""
This is for Ada's file:
"""

# %%
raw = staging(["rank", "name", "version", "last_release"])
is_month = raw.c.last_release.regexp_match("^[0-9]{4}-[0-9]{2}$")
checks = [
    ("no version", raw.c.version == ""),
    ("not a month, such as 2026-10", ~is_month),
    ("the name stands on an earlier line", repeated(raw, raw.c.name)),
]
show(diagram(raw, packages))

# %% [markdown]
"""
### The rows and their lines

The number of a row is not its line: empty lines are no rows, and a value in quotes may
contain line ends. Neither `read_csv` nor `COPY` tells the line of a row. So
Python's `csv` reads the file, in `numbered_rows` of the page
[profile_data](profile_data.ipynb). A fault of *form*, such as a field too few, refuses
the whole file: it is not known what the fields mean.

A `Plan` says where rows go. `rows` selects from `raw` what the table takes, with the
names of its columns. `key` identifies a row. `changes` are the columns that a later
file may change, and `also` is what such an UPDATE writes besides.

`prepare(row)` gets each row as a dictionary. It may strip values, or compute more. If
it raises a ValueError, the words of the error become the reason. Any other error,
such as that of `Decimal`, ends the load.
"""

# %% tags=["export"]
from playbook.schema.profile_data import numbered_rows

Row = dict[str, Any]
Prepare = Callable[[Row], Any]


class Plan(NamedTuple):
    """How a file gets into `table`, which has a unique index on `key`."""

    raw: sa.Table
    checks: Sequence[tuple[str, Condition]]
    table: sa.Table
    rows: sa.Select[Any]
    key: Sequence[str]
    changes: Sequence[str] = ()
    also: Row = {}  # noqa: RUF012  # never changed
    prepare: Prepare = dict.keys  # which changes nothing


def staged_rows(path: Path, raw: sa.Table, prepare: Prepare) -> Iterator[Row]:
    """The rows of the staging table. Raises ValueError or OSError for the file."""
    header = raw.info["header"]
    for line, *values in numbered_rows(path, header):
        row: Row = dict.fromkeys(raw.columns.keys(), "") | {"line": line}
        for name, value in zip(header, values, strict=True):
            row[name] = str(value).replace("\0", "\ufffd")  # PostgreSQL has no NUL
        try:
            prepare(row)
        except ValueError as error:
            row["reason"] = str(error) or "refused"
        yield row


# %% [markdown]
"""
The file `odd` has one column, and these lines:

```text
name
"two

lines"

third
" fourth "
```

The next cell refuses what is no package name. On which line does each row begin, and
which of them gets a reason?
"""

# %% tags=["predict"]
from playbook.schema.natural_keys import name_key


def use_name_key(row):
    row["name"] = name_key(row["name"])


show(table(staged_rows(odd, staging(["name"]), use_name_key)))

# %% [markdown]
"""
### Fill the table

PostgreSQL takes rows by `COPY` while they are made. DuckDB reads a file, so the rows go
through one; the options forbid `read_csv` to guess. Other engines get INSERTs.
"""

# %% tags=["export"]
READ = """INSERT INTO staging FROM read_csv($1, columns = {}, header = false,
    auto_detect = false, delim = ',', quote = '"', escape = '"', new_line = '\\r\\n',
    allow_quoted_nulls = false, parallel = false, max_line_size = 4000000)"""


def fill(db: sa.Connection, raw: sa.Table, rows: Iterator[Row]) -> None:
    """Write `rows` into the new staging table."""
    values = (row.values() for row in rows)
    if db.dialect.name == "postgresql":
        command = "COPY staging FROM STDIN (FORMAT csv)"
        with db.connection.cursor().copy(command) as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(values)
    elif db.dialect.name == "duckdb":
        columns = dict.fromkeys(raw.columns.keys(), "VARCHAR")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.csv")
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows(values)
            db.exec_driver_sql(READ.format(columns), (str(path),))
    else:
        for row in rows:
            db.execute(raw.insert(), row)


# %%
month = raw.c.last_release.label("month")
columns = sa.select(raw.c.name, raw.c.version, month)
plan = Plan(raw, checks, packages, columns, ["name"], changes=["version", "month"])
engine = new_table(lesson_url())
with engine.begin() as db:
    raw.create(db)
    fill(db, raw, staged_rows(whole, raw, plan.prepare))
    print(db.execute(raw.select()).first())

# %% [markdown]
"""
### Refuse and move

The first condition that is true gives a row its reason. Then the others are moved. A
row that is in the target and equal is left alone, so a second load does nothing.
"""


# %% tags=["export"]
def refuse(db: sa.Connection, plan: Plan) -> None:
    """Write reasons. A row that `prepare` gave a reason keeps it."""
    raw = plan.raw
    cases = [(condition, reason) for reason, condition in plan.checks]
    reason = sa.case((raw.c.reason != "", raw.c.reason), *cases, else_="")
    found = sa.select(raw.c.line, reason.label("reason")).subquery("found")
    bad = [raw.c.line == found.c.line, raw.c.reason != found.c.reason]
    db.execute(raw.update().where(*bad).values(reason=found.c.reason))


def move(db: sa.Connection, plan: Plan) -> tuple[int, int]:
    """Move the rows without a reason: how many were added, and how many changed."""
    table = plan.table
    changed = 0
    ready = plan.rows.where(plan.raw.c.reason == "").subquery("ready")
    same = [table.c[name] == ready.c[name] for name in plan.key]
    if plan.changes:
        values = {name: ready.c[name] for name in plan.changes}
        differs = [table.c[name].is_distinct_from(values[name]) for name in values]
        update = table.update().where(*same, sa.or_(*differs))
        update = update.values({**values, **plan.also})
        changed = len(db.execute(update.returning(table.c[plan.key[0]])).all())
    new = sa.select(ready).where(~sa.exists().where(*same))
    insert = table.insert().from_select(ready.c.keys(), new, include_defaults=False)
    counted = {"preserve_rowcount": True}
    return db.execute(insert, execution_options=counted).rowcount, changed


# %%
with engine.begin() as db:
    refuse(db, plan)
    print([move(db, plan) for _ in range(2)])

# %% [markdown]
"""
### All of it

For more tables than one, such as parents and children, call `stage`, `move` for each
plan, and `drop_staging`, in one transaction.
"""


# %% tags=["export"]
class Report(NamedTuple):
    """What a load did, in rows. `read` is loaded, unchanged and rejected."""

    read: int
    rejected: list[Row]  # as the staging table has them, `reason` included
    added: int
    changed: int


def stage(db: sa.Connection, path: Path, plan: Plan) -> tuple[int, list[Row]]:
    """Read and check a file: how many rows were read, and those that were refused."""
    raw = plan.raw
    drop_staging(db)
    raw.create(db)
    fill(db, raw, staged_rows(path, raw, plan.prepare))
    refuse(db, plan)
    read = db.scalar(sa.select(sa.func.count()).select_from(raw)) or 0
    bad = sa.select(raw).where(raw.c.reason != "").order_by(raw.c.line)
    return read, [dict(row) for row in db.execute(bad).mappings()]


def bulk_load(db: sa.Connection, path: Path, plan: Plan) -> Report:
    """Load a file into one table. Raises ValueError, OSError: then roll back."""
    read, rejected = stage(db, path, plan)
    report = Report(read, rejected, *move(db, plan))
    drop_staging(db)
    return report


# %% [markdown]
"""
## See it work

With the recipe:
"""

# %%
engine = new_table(lesson_url())
with engine.begin() as db:
    report = bulk_load(db, whole, plan)
show(table(report.rejected[:3]))

# %% [markdown]
"""
Then she loads it a second time, then the copy that broke off, and then a file of
tomorrow, in which one package has a new version. The folded cell defines `loads(url)`,
which does all this in a new database. For each file it returns the name, what was
heard, and the rows in the table. What does Ada hear from the last three files?
"""

# %% tags=["stage"]
tomorrow = cut.with_name("tomorrow.csv")
text = whole.read_text(encoding="utf-8")
tomorrow.write_text(
    text.replace("1,boto3,1.44.5,", "1,boto3,1.44.6,"), encoding="utf-8"
)


def loads(url):
    engine = new_table(url)
    rows = []
    for path in (whole, whole, cut, tomorrow):
        try:
            with engine.begin() as db:
                report = bulk_load(db, path, plan)
            heard = f"{report.added} added, {report.changed} changed"
        except ValueError as error:
            heard = str(error)
        rows.append([path.name, heard, count(engine)])
    engine.dispose()
    return rows


# %% tags=["predict"]
here = loads(lesson_url())
show(table(here, ["file", "heard", "rows"]))

# %% [markdown]
"""
A fault of form ends the transaction.

## On PostgreSQL

The rows come by `COPY`; all other statements are the same.
"""

# %%
there = on_postgres(loads)
print("the same as above" if there == here else there)

# %% [markdown]
"""
## Check it
"""

# %%
refused = [one["line"] for one in report.rejected]
assert refused[0] == 5, "a refused row has the wrong line"
assert (report.read, report.added, len(refused)) == (14985, 14971, 14), "rows are lost"
assert here[1][1] == "0 added, 0 changed", "loading again changes something"
assert here[2][2] == here[3][2] == 14971, "a file that broke off changed the table"
print("14,971 loaded and 14 named; again nothing; all or nothing")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `{"line": line}` | `{"line": line - 1}` | a refused row has the wrong line |
| `plan.rows.where(plan.raw.c.reason == "")` | `plan.rows` | rows are lost |
| `is_distinct_from(` | `is_not_distinct_from(` | loading again changes something |

## Your turn

A file that broke off at the end of a line has no fault of form: it is only shorter.
And a package that has left the list should not stay for ever. Write
`mark_gone(db, raw, packages, today, most)`. It runs in the same transaction, after the
rows were moved. `packages` has the columns `name` and `gone_on`, a text or NULL.

- A package that is not in the file gets `gone_on = today`. One that is gone already
  keeps its day. One that is in the file again gets NULL.
- A row that was refused is in the file, too.
- If more than `most` packages would go at once, it raises a ValueError.
- It returns how many packages have gone now.
"""


# %% tags=["exercise"]
def mark_gone(db, raw, packages, today, most):
    """How many packages have left the file since the last load."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.bulk_load import HINTS, check

check(mark_gone)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def mark_gone(db, raw, packages, today, most):
    in_file = sa.exists().where(raw.c.name == packages.c.name)
    back = packages.update().where(in_file, packages.c.gone_on.is_not(None))
    db.execute(back.values(gone_on=None))
    gone = packages.update().where(~in_file, packages.c.gone_on.is_(None))
    went = db.execute(gone.values(gone_on=today).returning(packages.c.name)).all()
    if len(went) > most:
        raise ValueError(f"{len(went)} packages would go: is the file complete?")
    return len(went)


assert check(mark_gone)

# %% [markdown]
"""
## Take it with you

`playbook lift bulk_load INTO` copies recipe and tests:

| seam | what your project does |
|---|---|
| transaction | passes a `Connection`: `engine.begin()`, or `session.connection()` |
| error | lets ValueError and OSError end the transaction; shows their words |
| target | any table with a [unique index](../glossary.md#unique-index) on `key`; `rows` gives each column |
| ids | `prepare` makes them: a default of the column is not used |
| checks | in `prepare` for one row; in SQL for what other rows say |

Prices of a shop, with cents as integers:

```python
raw = staging(["sku", "price"], more=["cents"])


def prepare(row):
    row["sku"] = row["sku"].strip().upper()
    if not re.fullmatch("[0-9]{1,6}[.][0-9]{2}", row["price"]):
        raise ValueError("not a price, such as 9.90")
    row["cents"] = row["price"].replace(".", "")


cents = sa.cast(raw.c.cents, sa.Integer).label("cents")
twice = ("a SKU twice", repeated(raw, raw.c.sku))
rows = sa.select(raw.c.sku, cents)
plan = Plan(raw, [twice], items, rows, ["sku"], changes=["cents"], prepare=prepare)
with engine.begin() as db:
    report = bulk_load(db, path, plan)
```

Traps:

- **A key twice** in a file is an IntegrityError without `repeated`.
- **Two loads at once.** One gets an IntegrityError or a
  [conflict](../glossary.md#conflict). Repeat its transaction, which then finds the
  rows.
- **Casts** belong into `rows`: in a check, `cast('many' AS INTEGER)` ends the load.
- **No value** is an empty text: for a NULL, write `sa.func.nullif(raw.c.end, "")`.
- **`repeated` counts refused rows, too**: a good row after a bad one is refused.
- **A column `line` or `reason`** in the file raises DuplicateColumnError: rename it.
- **A complete file.** Compare `report.read` with the number that the sender announces.

Hand it over:

- **Front end**: show line, reason and values of refused rows.
- **Security**: add a check that refuses rows of somebody else's.
- **Operations**: stop a load at any moment; run it again.
- **Tests**: keep "loaded and refused is read", and "twice is once".

## In short

Take each row as text, give each bad one a reason, and move the others, in one
transaction. So the one who mends the file learns all faults at once, and a load that
fails or is repeated leaves the table as it was.

## Sources

RFC 4180, 2. PostgreSQL documentation, "COPY" and "Populating a Database". DuckDB
documentation, "CSV Import".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Natural keys](natural_keys.ipynb) · [course map](../index.ipynb) · Next: [Relationships](relationships.ipynb)
"""
