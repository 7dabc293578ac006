# %% [markdown]
"""
# Relationships

Load a page of rows and all that belongs to them in two statements. Delete a row with
what belongs to it. Prove that no reference points to a row that is gone.

| | |
|---|---|
| **Use it when** | a list shows other tables' rows, or rows with children are deleted |
| **You need** | [bulk_load](bulk_load.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | N+1, eager and lazy loading, on delete cascade, orphan, foreign key |

```python
from playbook.schema.relationships import at_most, delete_rows, orphans

with at_most(engine, 2) as sent:  # in a test; `sent` holds the statements
    client.get("/packages?limit=200")
delete_rows(db, people, people.c.name == "Ada")  # as ON DELETE says, on any engine
assert orphans(db, metadata) == []
```

*Lift: 100 lines in 1 file; needs sqlalchemy.*

## See it break

Ada lists packages. For each package, her page shows its organization, or the people who
may publish it. She writes what each line of the list shows:
"""


# %%
def owners(package):
    return package.name, package.owner.name


def people(package):
    return package.name, [role.person.name for role in package.roles]


# %% [markdown]
"""
`owner` and `roles` are **relationships** of SQLAlchemy's ORM: attributes that hold
objects of other tables. By default the ORM loads them **lazily**: when they are read
for the first time.

The folded cell defines the models `Organization`, `Package`, `Person` and `Role`, with
their `Base`. `new_database(url, metadata)` gives an engine with the first 2,000
packages of `data/packages.csv`. The organization is what stands before the first hyphen
of a name: `google-auth` belongs to `google`. Three people have roles. `page(size)`
selects the first `size` packages by rank. `sent_by(engine, select, line)` loads a page,
calls `line` for each package, and returns how many statements the engine sent. The cell
imports `orm`, `sa`, `show`, `table`, `er_diagram` and `lesson_url`, and for later
`ada_leaves` and `plainly`. Predict: how many statements does each list send?
"""

# %% tags=["stage"]
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.exercises.schema.relationships import ada_leaves, new_database, plainly
from playbook.foundations.engines import NAMING
from playbook.kit.lesson import er_diagram, lesson_url, show, table
from playbook.kit.stage import capture_sql


class Base(orm.DeclarativeBase):
    metadata = sa.MetaData(naming_convention=NAMING)


class Organization(Base):
    __tablename__ = "organizations"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)


class Person(Base):
    __tablename__ = "people"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)


class Package(Base):
    __tablename__ = "packages"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    rank: orm.Mapped[int]
    organization = orm.mapped_column(sa.ForeignKey(Organization.name), nullable=False)
    added_by = orm.mapped_column(sa.ForeignKey(Person.name, ondelete="SET NULL"))
    owner: orm.Mapped[Organization] = orm.relationship()
    roles: orm.Mapped[list["Role"]] = orm.relationship(order_by="Role.person_name")


class Role(Base):
    __tablename__ = "roles"
    package_name = orm.mapped_column(
        sa.ForeignKey(Package.name, ondelete="CASCADE"), primary_key=True
    )
    person_name = orm.mapped_column(
        sa.ForeignKey(Person.name, ondelete="CASCADE"), primary_key=True
    )
    role: orm.Mapped[str]
    person: orm.Mapped[Person] = orm.relationship()


def page(size):
    return sa.select(Package).order_by(Package.rank).limit(size)


def sent_by(engine, select, line):
    with orm.Session(engine) as session, capture_sql(engine) as sent:
        for package in session.scalars(select).unique():
            line(package)
    return sum(one.sql.startswith("SELECT") for one in sent)


# %% tags=["predict"]
engine = new_database(lesson_url(), Base.metadata)
for size in (20, 200):
    for line in (owners, people):
        count = sent_by(engine, page(size), line)
        print(line.__name__, "of", size, "packages:", count, "statements")

# %% [markdown]
"""
The roles of a package are a list, so each package needs a statement of its own. This is
called **N+1**: one statement for the page, and N more. Three more load the people. The
session keeps each object, so the second package finds Ada there. For the same reason
some owners cost nothing.

No test fails, and with three rows nobody notices. On a network, each statement waits
for the answer to the one before.

## The decision

How do the rows of other tables get into the page?

| option | good | costs |
|---|---|---|
| lazily, as Django does too | no thought | a statement per row |
| one join for all | one statement | repeats a package for each role |
| **join for one, `selectinload` for many** | no row twice | you name what is needed |
| Django's `select_related`, `prefetch_related` | the same | the same |
| DRF, Flask, Starlette | | have nothing of their own |

We choose a **join where a package has one row of a table**, such as its owner, and
**one more statement where it has many**. Choose one join for a single package with one
list. With two lists, a join returns each combination of both.

## Build it

### The idea

The second statement asks for the roles of all packages of the page at once:

```sql
SELECT * FROM packages JOIN organizations ... ORDER BY rank LIMIT 200;
SELECT * FROM roles JOIN people ... WHERE package_name IN ('boto3', 'packaging', ...);
```

SQLAlchemy's loader options do that. `joinedload` is the join. `raiseload("*")` makes
everything that you have not named an error, so it cannot become N+1 unnoticed.
`selectinload` and `subqueryload` both send one statement more. The first one lists the
keys, the second one repeats the query of the page. Predict: which of them needs more
statements for a page of 2,000?
"""

# %% tags=["predict"]
one = orm.joinedload(Package.owner)
in_list = orm.selectinload(Package.roles).joinedload(Role.person)
again = orm.subqueryload(Package.roles).joinedload(Role.person)
rest = orm.raiseload("*")
for size in (200, 2000):
    for roles in (in_list, again):
        count = sent_by(engine, page(size).options(one, roles, rest), people)
        print(size, "packages:", count, "statements")

# %% [markdown]
"""
One statement of `selectinload` lists at most 500 keys, hence the five. A page of a list
has fewer rows. For more, `subqueryload` needs two statements for every size. It needs
an order without ties, or the repeated query may choose other rows.

### An association with attributes

A package has many people, and a person many packages. The table between them has the
pair as its key, and a column of its own, `role`:
"""

# %%
show(er_diagram(Organization, Package, Role, Person))

# %% [markdown]
"""
SQLAlchemy's `secondary=` hides such a table and its `role`, so `Role` is a model.

### A limit in a test

The next template or serializer that reads one attribute more brings N+1 back, unless
a test notices:
"""

# %% tags=["export"]
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm


class TooManyStatements(AssertionError):
    """More statements were sent than a test allows."""


@contextmanager
def at_most(engine: sa.Engine, most: int) -> Iterator[list[str]]:
    """Collect the statements of the block, of all threads. Or TooManyStatements."""
    sent: list[str] = []

    def note(db: Any, cursor: Any, sql: str, *more: Any) -> None:
        sent.append(" ".join(sql.split()))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    if len(sent) > most:
        [(sql, times)] = Counter(sent).most_common(1)
        message = f"{len(sent)} statements, at most {most}; {times} times {sql}"
        raise TooManyStatements(message)


# %%
refused = ""
try:
    with at_most(engine, 2):
        sent_by(engine, page(200), people)
except TooManyStatements as error:
    refused = str(error)
print(refused[:72])

# %% [markdown]
"""
### What goes with a row

`ON DELETE` of a foreign key says what becomes of a child when its parent is deleted:

| rule | in the models | when the parent goes |
|---|---|---|
| `CASCADE` | `Role.person_name` | the child goes, too |
| `SET NULL` | `Package.added_by` | the child stays, without the parent |
| none | `Package.organization` | the deletion is refused |

PostgreSQL does this. DuckDB accepts no foreign key with `CASCADE` or `SET NULL`, and
refuses to change an indexed column of a parent with children. So the page
[engines](../foundations/engines.ipynb) leaves all foreign keys out there.

Ada leaves: `DELETE FROM people WHERE name = 'Ada'`. `ada_leaves(metadata, delete)` runs
`delete` in a new database of each engine, here `plainly`, which is this DELETE. It
counts people, roles, and packages that say who added them. It returns these rows, and
DuckDB's engine. Predict: what does each engine keep?
"""

# %% tags=["predict"]
rows, broken = ada_leaves(Base.metadata, plainly)
show(table(rows))

# %% [markdown]
"""
A row whose reference points to no row is an **[orphan](../glossary.md#orphan)**. On
DuckDB, 2,000 roles and 2,000 packages are orphans. If another Ada joins, she has the
rights of the first.

The recipe reads the rules from the models and carries them out on any engine.
`references_to` gives the foreign keys that lead to a table.
"""

# %% tags=["export"]
Database = sa.Connection | orm.Session
Condition = sa.ColumnElement[bool]
Reference = sa.ForeignKeyConstraint
Rows = dict[Any, Any]  # by primary key
Going = dict[sa.Table, Rows]
AT_ONCE = 500  # keys in one statement


def references_to(parent: sa.Table) -> list[tuple[Reference, str]]:
    """The foreign keys in the models that lead to `parent`, with their ON DELETE."""
    tables = parent.metadata.tables.values()
    keys = [key for child in tables for key in child.foreign_key_constraints]
    leading = [key for key in keys if key.referred_table is parent]
    leading.sort(key=lambda key: (key.table.fullname, key.column_keys))
    return [(key, (key.ondelete or "").upper()) for key in leading]


def among(columns: Any, values: list[Any]) -> Iterator[Condition]:
    """Conditions for rows whose `columns` have one of `values`, AT_ONCE in each."""
    for start in range(0, len(values), AT_ONCE):
        yield sa.tuple_(*columns).in_(values[start : start + AT_ONCE])


# %%
for key, rule in references_to(Person.__table__):
    print(key.table, key.column_keys, rule)

# %% [markdown]
"""
`what_goes` follows each `CASCADE` until it finds nothing new, so a tree in one table
(folders in folders) is no problem.
"""


# %% tags=["export"]
def children(db: Database, key: Reference, parents: Any) -> Rows:
    """The rows that refer to one of `parents`, by primary key."""
    values = [[row._mapping[one.column] for one in key.elements] for row in parents]
    found: Rows = {}
    for condition in among(key.columns, values):
        found |= by_key(db, key.table, condition)
    return found


def by_key(db: Database, table: sa.Table, condition: Condition) -> Rows:
    """Rows by primary key. ValueError: the table has none."""
    if not list(table.primary_key):
        raise ValueError(f"the table {table.name} has no primary key")
    rows = db.execute(sa.select(table).where(condition))
    return {tuple(row._mapping[one] for one in table.primary_key): row for row in rows}


# %% tags=["export"]
def what_goes(db: Database, parent: sa.Table, condition: Condition) -> Going:
    """The rows that a deletion takes along, by table."""
    found: Going = {}
    waiting = [(parent, by_key(db, parent, condition))]
    while waiting:
        table, rows = waiting.pop()
        known = found.setdefault(table, {})
        new = [row for key, row in rows.items() if key not in known]
        known |= rows
        for key, rule in references_to(table):
            if new and rule == "CASCADE":
                waiting.append((key.table, children(db, key, new)))
    return found


# %%
with engine.connect() as db:
    goes = what_goes(db, Person.__table__, sa.column("name") == "Ada")
print({one.name: len(rows) for one, rows in goes.items()})

# %% [markdown]
"""
`delete_rows` sets references to NULL, refuses the deletion if a row would lose a parent
that it needs, and deletes children before their parents.
"""


# %% tags=["export"]
class StillReferred(Exception):
    """Rows that stay need a row that would go."""


def delete_rows(db: Database, parent: sa.Table, condition: Condition) -> dict[str, int]:
    """Delete as the models' foreign keys say: how many rows went, by table.

    Raises StillReferred: then roll back. An ORM session forgets what it has loaded.
    """
    if isinstance(db, orm.Session):
        db.flush()
        db.expire_all()
    goes = what_goes(db, parent, condition)
    for key, rule in [pair for one in goes for pair in references_to(one)]:
        below = children(db, key, goes[key.referred_table].values())
        stay = [one for one in below if one not in goes.get(key.table, {})]
        if stay and rule != "SET NULL":
            raise StillReferred(f"{key.table.name} needs {key.referred_table.name}")
        for some in among(key.table.primary_key, stay):
            nothing = dict.fromkeys(key.columns)
            db.execute(key.table.update().where(some).values(nothing))
    for one in reversed(parent.metadata.sorted_tables):
        for some in among(one.primary_key, list(goes.get(one, ()))):
            db.execute(one.delete().where(some))
    return {one.name: len(rows) for one, rows in goes.items()}


# %%
rows, engine = ada_leaves(Base.metadata, delete_rows)
show(table(rows))

# %% [markdown]
"""
### The audit

A restore, a foreign key that is `NOT VALID`, or code that forgot `delete_rows` leaves
orphans. `orphans` looks for them, for each foreign key in the models:
"""

# %% tags=["export"]
from typing import NamedTuple


class Orphan(NamedTuple):
    """A row whose parent is gone: `roles(person_name) -> people`, its primary key."""

    reference: str
    key: tuple[Any, ...]  # without a primary key, the columns of the reference


def orphans(db: Database, metadata: sa.MetaData, limit: int = 100) -> list[Orphan]:
    """The rows without a parent, at most `limit` for each foreign key of the models."""
    found: list[Orphan] = []
    for parent in metadata.tables.values():
        for key, _ in references_to(parent):
            there = parent.alias()
            same = [one.parent == there.c[one.column.key] for one in key.elements]
            given = [column.is_not(None) for column in key.columns]
            primary = list(key.table.primary_key) or list(key.columns)
            lost = sa.select(*primary).where(*given, ~sa.exists().where(*same))
            rows = db.execute(lost.order_by(*primary).limit(limit))
            name = f"{key.table.name}({', '.join(key.column_keys)}) -> {parent.name}"
            found += [Orphan(name, tuple(row)) for row in rows]
    return sorted(found)


# %%
with broken.connect() as db:
    audited = orphans(db, Base.metadata)
for name, count in Counter(one.reference for one in audited).items():
    print(count, name)

# %% [markdown]
"""
It stopped at 100 for each foreign key. A reference that is NULL is no orphan.

## See it work

The folded cell defines `app`. Its route `/packages` returns `people(package)` for each
package of `page(limit)`, with the loader options. `serving` serves it. Its test:
"""

# %% tags=["stage"]
from fastapi import FastAPI

from playbook.kit.lesson import serving

app = FastAPI()


@app.get("/packages")
def list_packages(limit: int):
    select = page(limit).options(one, in_list, rest)
    with orm.Session(engine) as session:
        return [people(package) for package in session.scalars(select)]


# %%
with serving(app) as client, at_most(engine, 2) as sent:
    items = client.get("/packages?limit=200").json()
print(len(sent), items[1])

# %% [markdown]
"""
## Check it
"""

# %%
assert refused.startswith("204 statements"), "N+1 goes unnoticed"
with at_most(engine, 2):
    sent_by(engine, page(2000).options(one, again, rest), people)
before, here, there = rows
assert (here["roles"], here["added by"]) == (2000, 0), "something of Ada's is left"
assert here == there | {"": "DuckDB"}, "the engines keep different rows"
lost = {orphan.reference for orphan in audited}
assert len(lost) == 2, "the audit finds other rows than Ada's"
with engine.connect() as db:
    assert orphans(db, Base.metadata) == [], "a reference points to no row"
print("two statements, the same rows on both engines, no orphan")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `values(nothing)` | `values(rank=0)` | something of Ada's is left |
| `len(sent) > most` | `len(sent) > 999` | N+1 goes unnoticed |
| `~sa.exists()` | `sa.exists()` | the audit finds other rows than Ada's |

## Your turn

Each package of a page gets the month of its newest release. A package may have hundreds
of releases, so a loader option would bring far too many rows. Write `newest(db,
packages, releases, size)`. For the first `size` packages by name it returns a list of
pairs, the name and the month, or None if there is no release. `packages` has the column
`name`; `releases` has `package`, `number` and `month`. The greatest number is the
newest. Send at most two statements to SQLite, and load no more than two rows for each
package.
"""


# %% tags=["exercise"]
def newest(db, packages, releases, size):
    """The names of a page of packages, each with the month of its newest release."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.relationships import HINTS, check

check(newest)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def newest(db, packages, releases, size):
    mine = sa.select(releases.c.month).where(releases.c.package == packages.c.name)
    last = mine.order_by(releases.c.number.desc()).limit(1).scalar_subquery()
    rows = sa.select(packages.c.name, last).order_by(packages.c.name).limit(size)
    return [tuple(row) for row in db.execute(rows)]


assert check(newest)

# %% [markdown]
"""
## Take it with you

`playbook lift relationships INTO` copies the recipe and its tests.

| seam | what your project does |
|---|---|
| engine | gives `at_most` the engine that the application uses |
| transaction | passes a `Connection` or `Session`; commits; rolls back after an error |
| models | declare each foreign key with its `ondelete`; are all imported |
| rows | `delete_rows` takes a `Table`: `Customer.__table__` |

A shop, whose invoices must stay:

```python
class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship(passive_deletes="all")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id = mapped_column(ForeignKey("customers.id", ondelete="CASCADE"))


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id = mapped_column(ForeignKey("orders.id"), nullable=False)


def forget(session, number):
    table = Customer.__table__
    try:
        return delete_rows(session, table, table.c.id == number)
    except StillReferred:
        session.rollback()
        return None  # 409 Conflict
```

Traps:

- **`session.delete(parent)`** loads the children and sets their references to NULL,
  even with CASCADE. With `passive_deletes="all"` it leaves them to the database.
- **A child that is written meanwhile.** On DuckDB use `hold` of the page
  [write_skew](../foundations/write_skew.ipynb), or an orphan is left. PostgreSQL may
  raise `IntegrityError`.
- **A model that is not imported** is not in the metadata: its rows stay, unseen.
- **Many rows.** `delete_rows` reads the keys of all rows that go. Delete a million rows
  in parts.
- **A join and LIMIT** without the ORM: the limit counts joined rows, not packages.

Hand it over:

- **Reviewer**: each list has its loader options, and `raiseload("*")`.
- **Tests**: each list within `at_most`, with two sizes of a page.
- **Operations**: run `orphans` after each restore, and every night.
- **Migrations**: `ondelete` stands in the model and in the database. Each foreign key
  needs an [index](indexes_and_plans.ipynb).

## In short

You can say how many statements a page needs, and why the number grows with lazy
loading. You can say for each foreign key what becomes of the child, on each engine, and
prove that it was done.

## Sources

SQLAlchemy documentation, "Relationship Loading Techniques" and "Association Object".
PostgreSQL documentation, 5.5.5 (foreign keys). DuckDB documentation, "Constraints" and
"Indexes".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Bulk load](bulk_load.ipynb) · [course map](../index.ipynb) · Next: [Indexes and plans](indexes_and_plans.ipynb)
"""
