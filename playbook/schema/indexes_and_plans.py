# %% [markdown]
"""
# Indexes and plans

Read in a plan whether a query uses an index. Know in advance which one it needs. Find
the indexes of a database that are missing, double, unused or in the wrong order.

| | |
|---|---|
| **Use it when** | a query is slow, or nobody knows whether an index is needed |
| **You need** | [engines](../foundations/engines.ipynb) (*background*) |
| **Time** | read 33 min, exercise 10 min |
| **Topics** | index, EXPLAIN, query plan, slow query, unused index, column order |

```python
from playbook.schema.indexes_and_plans import audit, read_plan

plan = read_plan(db, select)  # it runs the query
print(plan.kind, plan.read, plan.rows, plan.below)
faults = audit(db, metadata, [("orders", ("customer_id", "placed_on"))])
```

*Lift: 112 lines in 1 file; needs sqlalchemy.*

## See it break

Pantry wants each name once in an organization. So Ada makes a
[unique index](../glossary.md#unique-index) on `(name, organization)`. It has the column
that the first of these queries compares. A second index is on `name`, for the second
query:

```sql
SELECT * FROM packages WHERE organization = 'google';
SELECT * FROM packages WHERE lower(name) = 'zope-interface';
```

The table has all 14,985 packages of `data/packages.csv`. The organization is what
stands before the first hyphen of a name; 148 belong to `google`. The folded cell
imports `try_indexes(tries)`. A try is the columns of an index, and a query. On each
engine it makes the index, runs the query, and drops the index. It returns rows that say
how the table was read, and PostgreSQL's plans. The cell imports the two queries,
`google` and `zope`, and for later `packages`, `shop`, `faults_of`, `lesson_url`,
`on_postgres`, `show` and `table`. How many rows does each engine read?
"""

# %% tags=["stage"]
from playbook.exercises.schema.indexes_and_plans import (
    faults_of,
    google,
    packages,
    shop,
    try_indexes,
    zope,
)
from playbook.kit.lesson import lesson_url, on_postgres, show, table

# %% tags=["predict"]
tried, before = try_indexes([("name, organization", google), ("name", zope)])
show(table(tried))

# %% [markdown]
"""
An index is a sorted list. By `(name, organization)` it is sorted like a telephone book:
first by name. All entries of one organization are spread over the whole list. And a
list sorted by `name` is not sorted by `lower(name)`: the function hides the index.

## The decision

How do you find out which index is needed?

| option | good | costs |
|---|---|---|
| index every column | no thought | each write changes each index |
| Django's `db_index`, by feeling | one word | nobody looks afterwards |
| wait for slow requests | real queries | found by your users |
| **rule, plan and audit** | known before, proven after | a test for each query |
| DRF, Flask, Starlette | | have nothing for this |

We choose the **rule, the plan and the audit**. Choose to wait for slow requests where
you cannot know the queries, as with free searches. Then `pg_stat_statements` lists
them.

## Build it

### The idea

An index on several columns is sorted by the first, then by the second. So the columns
that a query compares with `=` come first, in any order. After them comes what it sorts
by, or a range (`<`, `BETWEEN`):

```sql
SELECT * FROM packages WHERE organization = 'google' ORDER BY month;
CREATE INDEX ON packages (organization, month);
```

A comparison that has a function on the left side needs an index on this expression.
What do the engines do with the three indexes of the next cell?
"""

# %% tags=["predict"]
better = [("organization, name", google), ("organization", google)]
tried, after = try_indexes([*better, ("lower(name)", zope)])
show(table(tried))

# %% [markdown]
"""
For DuckDB an index on several columns only keeps a rule, such as a unique key. It never
looks up in it, and reads all rows of one column quickly instead.

### Read a plan

`EXPLAIN` shows a **plan**: a tree of steps, in which each step takes rows from those
below. With `ANALYZE` the query is run, and each step counts its rows. Below a join a
step may run many times: these are its *loops*. `Step` has what the plans of both
engines have in common.
"""

# %% tags=["export"]
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa


class Step(NamedTuple):
    """A step of a plan. It took `read` rows from `table`, and handed on `rows`."""

    kind: str
    table: str  # "": it takes rows from the steps below
    read: int
    rows: int
    below: list["Step"]


def postgresql_step(node: dict[str, Any]) -> Step:
    """From EXPLAIN (ANALYZE, FORMAT JSON). Its rows are an average of all loops."""
    below = [postgresql_step(one) for one in node.get("Plans", ())]
    rows, loops = node["Actual Rows"], node["Actual Loops"]
    name = node.get("Relation Name", "")
    thrown = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    read = rows + sum(node.get(one, 0) for one in thrown) if name else 0
    kind = node["Node Type"]
    return Step(kind, name, round(read * loops), round(rows * loops), below)


# %%
node = {"Node Type": "Seq Scan", "Relation Name": "packages", "Actual Loops": 1}
scan = postgresql_step(node | {"Actual Rows": 148, "Rows Removed by Filter": 14837})
print(scan)

# %% [markdown]
"""
Only a SELECT is taken: `ANALYZE` would really delete what a DELETE deletes. Its WITH
may have no DELETE.
"""


# %% tags=["export"]
def duckdb_step(node: dict[str, Any]) -> Step:
    """From EXPLAIN (ANALYZE, FORMAT json)."""
    below = [duckdb_step(one) for one in node["children"]]
    more = node["extra_info"]
    kind = more.get("Type") or node["operator_type"]
    name = more.get("Table", "").rpartition(".")[2]
    counts = node["operator_rows_scanned"], node["operator_cardinality"]
    return Step(kind, name, *counts, below)


def read_plan(db: sa.Connection, select: sa.Select[Any]) -> Step:
    """Run a SELECT, and read its plan. ValueError: not a SELECT, or another engine."""
    engine = db.dialect.name
    if not isinstance(select, sa.Select) or engine not in ("postgresql", "duckdb"):
        raise ValueError("EXPLAIN ANALYZE is for a SELECT, on PostgreSQL or DuckDB")
    parts = sa.sql.visitors.iterate(select)
    if any(isinstance(one, sa.UpdateBase) for one in parts):
        raise ValueError("EXPLAIN ANALYZE would write what this SELECT writes")
    sql = select.compile(db, compile_kwargs={"literal_binds": True})
    row = db.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").one()
    if engine == "postgresql":
        return postgresql_step(row[0][0]["Plan"])
    return duckdb_step(json.loads(row[1])["children"][0]["children"][0])


# %% [markdown]
"""
`after[0]` is what `read_plan` returned for PostgreSQL and the index
`(organization, name)`:
"""

# %%
print(after[0])

# %% [markdown]
"""
*Bitmap Index Scan* collects the places of the rows from the index. Then *Bitmap Heap
Scan* reads each block of the table that has such rows, once.

### The audit

A plan is about one query. An audit looks at all indexes of a database. Engines write an
indexed expression differently: `place` takes direction, casts and quotes away. The
audit passes over an index that is no sorted list of all rows: with a WHERE, for `LIKE`,
of another kind (`gin`), or invalid.
"""

# %% tags=["export"]
import re


class Index(NamedTuple):
    """An index, a primary key or a unique constraint."""

    table: str
    name: str
    columns: tuple[str, ...]
    unique: bool


UNIQUE = (sa.PrimaryKeyConstraint, sa.UniqueConstraint)


def place(part: Any) -> str:
    """A column or expression of an index, as `lower(name)`."""
    text = re.sub(r" (ASC|DESC|NULLS (FIRST|LAST))\b", "", str(part))
    text = re.sub(r'::[a-z ]+|\w+\.|[" ]', "", text)
    text = re.sub(r"(?<!\w)\((\w+)\)", r"\1", text)  # a name alone in brackets
    while text.startswith("("):
        text = text[1:-1]
    return text


# %%
print(place(packages.c.name), place("lower((name)::text)"), place("(lower(name))"))

# %% tags=["export"]
SPECIAL = ("where", "using", "ops", "invalid")  # as in postgresql_where


def indexes(db: sa.Connection) -> list[Index]:
    """The indexes of the default schema that are a sorted list of all rows."""
    found, there = [], sa.MetaData()
    there.reflect(db)
    for one in there.sorted_tables:
        keys = [rule for rule in one.constraints if isinstance(rule, UNIQUE)]
        for rule in (*keys, *one.indexes):
            options = (*rule.dialect_kwargs, *rule.reflect_only_elements["postgresql"])
            parts = getattr(rule, "expressions", rule.columns)
            more = rule.dialect_kwargs.get("postgresql_include") or ()
            columns = (*map(place, parts), *(f"include {one}" for one in more))
            if columns and not any(option.endswith(SPECIAL) for option in options):
                unique = bool(getattr(rule, "unique", True))
                found.append(Index(one.name, str(rule.name), columns, unique))
    return sorted(found)


# %%
with shop(lesson_url()) as db:
    there = indexes(db)
show(table(one._asdict() for one in there))

# %% [markdown]
"""
This is a shop with planted faults. `orders.customer_id` and `items.order_id` are
foreign keys. Without an index on a foreign key, each deletion of a parent reads all
children.

A list needs an index, too: the orders of a customer, by day. So the audit is told that
`orders` needs `("customer_id", "placed_on")`, in this order. A foreign key of several
columns may have them in any order, so it is a set.
"""


# %% tags=["export"]
class Finding(NamedTuple):
    """`fault`: missing, wrong order, double or unused. `name`: of an index, or ""."""

    fault: str
    table: str
    columns: tuple[str, ...]
    name: str = ""


Columns = tuple[str, ...] | frozenset[str]


def unmet(table: str, wanted: Columns, there: list[Index]) -> Iterator[Finding]:
    """The fault, if no index begins with `wanted`: a tuple in order, a set in any."""
    near = ""
    mine = [one for one in there if one.table == table]
    for one in mine:
        if type(wanted)(one.columns[: len(wanted)]) == wanted:  # a tuple or a set
            return
        if set(one.columns).issuperset(wanted):
            near = one.name
    fault = "wrong order" if near else "missing"
    yield Finding(fault, table, (*wanted,), near)


# %%
recent = ("customer_id", "placed_on")
print(*unmet("orders", recent, there), *unmet("items", frozenset(["order_id"]), there))

# %% [markdown]
"""
An index that another one begins with is *double*: the longer one serves its queries. An
index is *unused* if PostgreSQL has not counted a use of it. DuckDB counts nothing, but
never reads an index on several columns. A unique index keeps a rule, so it is neither.
`faults_of(url, audit, lists)` makes the shop and audits it. Which faults does it name?
"""

# %% tags=["export"]
USES = """SELECT indexrelname, idx_scan FROM pg_stat_user_indexes
    WHERE schemaname = current_schema()"""


def idle(one: Index, there: list[Index], uses: dict[str, int]) -> Iterator[Finding]:
    """The fault, if no query would miss an index. `uses`: empty where none counts."""
    size, mine = len(one.columns), (one.table, one.columns)
    used = uses.get(one.name, 1) if uses else int(size == 1)  # no count: used
    begin = [other for other in there if (other.table, other.columns[:size]) == mine]
    same = [other for other in begin if len(other.columns) == size]
    twins = [other for other in same if other.unique or other.name < one.name]
    if twins or (uses and len(begin) > len(same)):
        yield Finding("double", *mine, one.name)
    elif used == 0:
        yield Finding("unused", *mine, one.name)


# %% tags=["export"]
def audit(db: sa.Connection, metadata: sa.MetaData, lists: Any = ()) -> list[Finding]:
    """Idle indexes, and those that foreign keys and `lists` (table, columns) miss."""
    there = indexes(db)
    rows = db.exec_driver_sql(USES) if db.dialect.name == "postgresql" else ()
    uses = {name: times for name, times in rows}
    tables = metadata.sorted_tables
    keys = [key for one in tables for key in one.foreign_key_constraints]
    wanted = [(key.table.name, frozenset(key.column_keys)) for key in keys]
    found = [one for name, key in (*wanted, *lists) for one in unmet(name, key, there)]
    for one in there:
        if not one.unique:
            found += idle(one, there, uses)
    return sorted(set(found))


# %% tags=["predict"]
lists = [("orders", recent)]
found = faults_of(lesson_url(), audit, lists)
show(table(one._asdict() for one in found))

# %% [markdown]
"""
## See it work

One index serves the foreign key and the list:

```sql
CREATE INDEX by_customer ON orders (customer_id, placed_on);
CREATE INDEX by_order ON items (order_id);
DROP INDEX by_email;
DROP INDEX by_day;
```

`faults_of(url, audit, lists, mend=True)` runs these first. What does the audit find
now?
"""

# %% tags=["predict"]
mended = faults_of(lesson_url(), audit, lists, mend=True)
show(table(one._asdict() for one in mended))

# %% [markdown]
"""
A correct index is called unused, because DuckDB never looks up by two columns. On
DuckDB make an index on `customer_id` alone. PostgreSQL uses both columns.

## On PostgreSQL

The same shop, and then mended. After that a query by customer and one by order are run,
so that both new indexes have been used:
"""

# %%
found_there = on_postgres(faults_of, audit, lists)
mended_there = on_postgres(faults_of, audit, lists, mend=True)
print(mended_there)

# %% [markdown]
"""
## Check it
"""

# %%
assert scan.read == 14985, "a plan hides the rows that it threw away"
wrong = Index("orders", "by_day", ("placed_on", "customer_id"), unique=False)
assert [*unmet("orders", recent, [wrong])], "an index in the wrong order is taken"
faults = [one.fault for one in found]
planted = ["double", "missing", "missing", "unused", "wrong order"]
assert faults == planted, "a planted fault is not found"
faults_there = [one.fault for one in found_there or found]
assert faults_there == planted, "PostgreSQL differs"
assert not mended_there, "a mended fault is still found"
print("each planted fault is found, and none is left")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `rows + sum(` | `0 * rows + sum(` | a plan hides the rows that it threw away |
| `) == wanted:` | `) != wanted:` | an index in the wrong order is taken |
| `"wrong order" if near` | `"wrong order" if not near` | a planted fault is not found |

## Your turn

A table has many queries, and each compares some columns with `=`. Write
`one_index(queries)`. `queries` is a list of sets of columns. It returns the columns of
one index, in an order that serves all queries, or None if there is no such order. An
index serves a query if it begins with all columns of the query, in any order.
"""


# %% tags=["exercise"]
def one_index(queries):
    """The columns of one index that serves all queries, as a list; or None."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.indexes_and_plans import HINTS, check

check(one_index)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def one_index(queries):
    order = []
    for query in sorted(queries, key=len):
        if not query.issuperset(order):
            return None
        order += sorted(query.difference(order))
    return order


assert check(one_index)

# %% [markdown]
"""
## Take it with you

`playbook lift indexes_and_plans INTO` copies the recipe and its tests. Its seams:

| seam | what your project does |
|---|---|
| database | passes a `Connection`; an ORM session has `session.connection()` |
| metadata | `Base.metadata`; without models, `metadata.reflect(db)` |
| lists | names the columns an index must begin with: a tuple, or a `frozenset` |

Audit a database that you have never seen, and keep a query fast in a test:

```python
def audit_any(url):
    with sa.create_engine(url).connect() as db:
        there = sa.MetaData()
        there.reflect(db)
        return audit(db, there)


def rows_read(plan):
    return plan.read + sum(rows_read(one) for one in plan.below)
```

Traps:

- **`read_plan` runs the query**, and the functions in it, which may write. Give it a
  `statement_timeout` in production.
- **A small table** is read row by row even with a right index. Test with as many rows
  as production has, and after `ANALYZE`, which counts values.
- **"unused"** counts since the statistics began, and not on
  [replicas](../glossary.md#replica). Look again after a month. An index of a foreign
  key may wait for a rare delete: keep it.
- **Directions** do not count: beside `(a, b)`, the audit calls `(a, b DESC)` double.
- **Unique order.** `UNIQUE (organization, name)` keeps the same rule as
  `(name, organization)`, and also serves the list of an organization.
- **`CREATE INDEX`** stops all writes to the table. PostgreSQL has `CONCURRENTLY`,
  outside of a transaction. If it fails, an invalid index is left.

Hand it over:

- **Reviewer**: each new list is among `lists`, or says why not.
- **Tests**: `audit` finds nothing that is not explained in the test; `rows_read` of a
  list stays below a number.
- **Operations**: run the audit each month, against production.
- **Migrations**: one index more costs each write; look for one to drop.

## In short

You can say which columns an index needs, and in which order, before you make it. You
can read in a plan whether it is used and how many rows were thrown away. And you can
show which indexes of a database are missing and which only cost.

## Sources

PostgreSQL documentation, 11.3 (multicolumn indexes), 14.1 (using EXPLAIN), 28.2 (the
statistics views). DuckDB documentation, "Indexes" and "Profiling". M. Winand, *SQL
Performance Explained* (2012), chapter 2. SQLAlchemy documentation, "Reflecting Database
Objects".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Relationships](relationships.ipynb) · [course map](../index.ipynb) · Next: [First migration](../migrations/first_migration.ipynb)
"""
