# %% [markdown]
"""
# Keyset pagination

Read a list page by page. Each row that stays comes exactly once, while other rows come
and go.

| | |
|---|---|
| **Use it when** | a list can outgrow one response, or a client asks for `?page=2` |
| **You need** | [resources](resources.ipynb) (*background*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | pagination, paging, keyset, seek, offset, infinite scroll, total order |

```python
from playbook.api.pagination import Order, read_page

newest = Order([Invoice.sent_on, Invoice.id], descending=True)
page = read_page(session, sa.select(Invoice), newest, limit=20)
page = read_page(session, sa.select(Invoice), newest, limit=20, after=page.next)
```

*Lift: 73 lines in 1 file; needs sqlalchemy.*

## See it break

A client reads the names of real packages in alphabetical order, page by page.
"""

# %%
import sqlalchemy as sa

packages = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("month", sa.String),  # of the last release; NULL: unknown
)
by_name = sa.select(packages.c.name).order_by(packages.c.name)

# %% [markdown]
"""
The folded cell defines `three_pages(read, start)` and an `engine` whose table holds
14,985 names. It reads three pages of four names, each in its own transaction, as a web
service would. After page 1 another user deletes the first package of that page. After
page 2 another user publishes `0-config` and `0-day`. `show`, `table` and
`show_sql` display things.
"""

# %% tags=["stage"]
from collections import Counter

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, serving, show, show_sql, table
from playbook.kit.stage import load_packages, package_names, rows_scanned


def loaded(url):
    engine = make_engine(url)
    load_packages(engine, packages)
    return engine


def change(engine, deleted, published, month="2026-11"):
    with engine.begin() as connection:
        connection.execute(packages.delete().where(packages.c.name == deleted))
        for name in published:
            connection.execute(packages.insert().values(name=name, month=month))


def three_pages(read, start):
    engine = loaded(lesson_url())
    pages = []
    for published in ([], ["0-config", "0-day"], []):
        with engine.connect() as connection:
            names, start = read(connection, start)
        pages.append(names)
        change(engine, pages[0][0], published)
    show(table(enumerate(map(", ".join, pages), 1), ["page", "names"]))
    seen = Counter(name for names in pages for name in names)
    passed = all_names[: all_names.index(names[-1])]
    print("skipped:", [name for name in passed if name not in seen])
    print("repeated:", [name for name in seen if seen[name] > 1])


engine = loaded(lesson_url())
all_names = sorted(package_names())

# %% [markdown]
"""
The next cell counts rows from the start of the list. Predict: how many names does the
client miss, and how many come twice?
"""


# %% tags=["predict"]
def by_offset(connection, offset):
    names = list(connection.scalars(by_name.offset(offset).limit(4)))
    return names, offset + 4


three_pages(by_offset, start=0)

# %% [markdown]
"""
The offset stays the same while the rows move:

```text
                 page 1         page 2
at first         A  B  C  D  |  E  F  G  H  |  I
A is deleted     B  C  D  E  |  F  G  H  I  |  J

OFFSET 4                        F  G  H  I       E is skipped
name > 'D'                E     F  G  H          nothing is skipped
```

New rows push the list the other way, and the client reads names again. The last line
counts nothing. It names the last row that the client has seen.

## The decision

| option | good | costs |
|---|---|---|
| `OFFSET` | a client can jump to page 40 | skips and repeats; deep pages are slow |
| **keyset** | each row that stays comes once | no jump; needs a unique column |
| snapshot | the list at one instant | a copy or long transaction per reader |
| Django `Paginator`, DRF, Flask-SQLAlchemy | built in | `OFFSET`, but for one class |

The one class is DRF's `CursorPagination`. It keeps the value of one column, and counts
the rows that share this value.

We choose **keyset**. A row's *key* is its values in the columns of the order, here its
name. A page starts after the key of the last row. Choose `OFFSET` for a few hundred
rows with page numbers. Choose a snapshot for an export whose rows must fit together.

## Build it

### The idea

The position is now the last name that the client has seen. `WHERE` replaces `OFFSET`:
"""


# %%
def by_key(connection, last):
    rest = by_name.where(packages.c.name > last)
    names = list(connection.scalars(rest.limit(4)))
    return names, names[-1]


three_pages(by_key, start="")

# %% [markdown]
"""
The list changed as before. The client saw every name that stayed exactly once.

### No ties, no NULL

Next, we read the newest releases first. The key is the month of the release. Many
packages share a month, and some have none:
"""

# %%
per_month = sa.select(packages.c.month, sa.func.count()).group_by(packages.c.month)
with engine.connect() as connection:
    sizes = dict(connection.execute(per_month).all())
for month in ("2026-11", "2026-10", "2026-09", None):
    print(f"{sizes[month]:5,} packages have the month {month}")

# %% [markdown]
"""
The next cell reads pages of 100 months until a page is empty. This time the list does
not change. Predict: how many packages of each of these months does the client see?
"""

# %% tags=["predict"]
seen = []
last = "9999-12"
with engine.connect() as connection:
    while last:
        older = sa.select(packages.c.month).where(packages.c.month < last)
        newest_first = older.order_by(packages.c.month.desc())
        months = connection.scalars(newest_first.limit(100)).all()
        seen += months
        last = months[-1] if months else None
for month in ("2026-11", "2026-10", "2026-09", None):
    print(f"{seen.count(month):5,} of {sizes[month]:,}")
print(f"{len(seen):5,} of {sum(sizes.values()):,} in all")

# %% [markdown]
"""
Two things are wrong with this order:

- **Ties.** A page ends within a month. The next page skips the rest of it. So the
  columns of an order must be unique together.
- **NULL.** A comparison with NULL is never true, so 14 packages never come. `coalesce`
  must replace NULL with a value.

An order without ties and NULL is *total*. Which columns are unique is declared by the
table of the last one:
"""

# %% tags=["export"]
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


def are_unique(columns: Sequence[Any]) -> bool:
    """Whether a table declares that no two rows share the values of `columns`."""
    table = getattr(columns[-1], "table", None)
    if not isinstance(table, sa.Table):
        return False
    unique = (sa.PrimaryKeyConstraint, sa.UniqueConstraint)
    rules: list[list[Any]] = [
        list(rule.columns) for rule in table.constraints if isinstance(rule, unique)
    ]
    for index in table.indexes:
        if index.unique and not index.dialect_kwargs:  # with options it may be partial
            rules.append(list(index.expressions))
    mine = {c.name for c in columns if getattr(c, "table", None) is table}
    names = [{getattr(part, "name", None) for part in rule} for rule in rules]
    return any(rule and rule <= mine for rule in names)


# %%
print(are_unique([packages.c.month]), are_unique([packages.c.month, packages.c.name]))

# %% [markdown]
"""
Tests of an endpoint rarely notice a missing row. So `Order` refuses a wrong order when
the program starts:
"""

# %% tags=["export"]
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.sql.functions import coalesce

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Order:
    """Columns that are never NULL and together unique. Raises ValueError."""

    columns: Sequence[Any]
    descending: bool = False

    def __post_init__(self) -> None:
        for column in self.columns:
            last = [*column.clauses][-1] if isinstance(column, coalesce) else column
            if getattr(last, "nullable", not isinstance(last, sa.BindParameter)):
                raise ValueError(f"{column} can be NULL: use coalesce({column}, value)")
        if not self.columns or not are_unique(self.columns):
            raise ValueError("this order has ties: add a unique column at the end")

    @cached_property
    def name(self) -> str:
        """Columns with their types, and the direction; made once, for it is slow."""
        columns = [f"{c} {type(c.type).__name__}" for c in self.columns]
        return f"{columns} {self.descending}"

    def key_of(self, row: Sequence[Any]) -> Key:
        """The key of a row that `read_page` returned: its last columns."""
        return tuple(row[-len(self.columns) :])


# %% [markdown]
"""
The folded cell defines `verdict(call, ...)`: what the ValueError of a call says, or
"accepted".
"""


# %% tags=["stage"]
def verdict(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ValueError as error:
        return str(error)
    return "accepted"


# %%
month = sa.func.coalesce(packages.c.month, "")
with_null = verdict(Order, [packages.c.month, packages.c.name])
with_ties = verdict(Order, [month])
total = verdict(Order, [month, packages.c.name])
print(with_null, with_ties, total, sep="\n")

# %% [markdown]
"""
### The statement

SQL compares rows as a dictionary sorts words: by the first column, and within ties by
the next. So one comparison is enough for any number of columns. The statement also
selects the columns of the order, because they are the key for the next page.

A key travels through a URL and comes back as text. SQLite compares a text with a date
without an error, and returns page 1 again. So each value must have its column's type.
"""


# %% tags=["export"]
def after_key(select: sa.Select[Any], order: Order, key: Key | None) -> sa.Select[Any]:
    """`select` in this order, after the row with `key`; rows end with their own key."""
    select = select.add_columns(*order.columns)
    for column in order.columns:
        select = select.order_by(column.desc() if order.descending else column.asc())
    if key is None:
        return select
    values = []
    for column, value in zip(order.columns, key, strict=True):
        wanted = column.type.python_type
        if not isinstance(value, wanted):
            raise ValueError(f"{value!r} in the key is no {wanted.__name__}")
        values.append(sa.literal(value, column.type))
    row = sa.tuple_(*order.columns)
    last = sa.tuple_(*values)
    return select.where(row < last if order.descending else row > last)


# %%
listing = sa.select(packages.c.name)
newest = Order([month, packages.c.name], descending=True)
statement = after_key(listing, newest, ("2026-10", "zarr"))
show_sql([str(statement.compile(compile_kwargs={"literal_binds": True}))])
of_another_type = verdict(after_key, listing, newest, (2026, "zarr"))
print(of_another_type)

# %% [markdown]
"""
### The page

`read_page` reads one row more than it returns. That row tells whether a next page
exists, without a `count(*)`. It also reveals a join that repeats rows, whatever the
table declares: two neighbours have the same key.
"""

# %% tags=["export"]
from itertools import pairwise

from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Page:
    """Rows, each with its key at the end; `next`: the key to read on from, or None."""

    rows: list[Any]
    next: Key | None


def read_page(
    db: sa.Connection | Session,
    select: sa.Select[Any],
    order: Order,
    limit: int,
    after: Key | None = None,
) -> Page:
    """Up to `limit` rows of `select`, in this order. Raises ValueError."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    found = db.execute(after_key(select, order, after).limit(limit + 1)).all()
    keys = [order.key_of(row) for row in found]
    for key, following in pairwise(keys):
        if key == following:
            raise ValueError(f"two rows have the key {key}: does a join repeat rows?")
    return Page(list(found[:limit]), keys[limit - 1] if len(found) > limit else None)


# %%
with engine.connect() as connection:
    first = read_page(connection, listing, newest, limit=3)
    second = read_page(connection, listing, newest, limit=3, after=first.next)
print([row.name for row in first.rows], first.next)
print([row.name for row in second.rows], second.next)

# %%
twice = sa.values(sa.column("n", sa.Integer), name="twice").data([(1,), (2,)])
joined = listing.join_from(packages, twice, sa.true())
with engine.connect() as connection:
    print(verdict(read_page, connection, joined, newest, limit=3))

# %% [markdown]
"""
## See it work

A route serves the list. FastAPI turns `after=2026-10&after=zarr` into a tuple of the
annotated types, and answers 422 where that fails.
"""

# %%
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query

app = FastAPI()


@app.get("/packages")
def list_packages(after: Annotated[tuple[str, str] | None, Query()] = None):
    with engine.connect() as connection:
        page = read_page(connection, listing, newest, limit=250, after=after)
    link = None
    if page.next is not None:
        link = "/packages?" + urlencode({"after": page.next}, doseq=True)
    return {"items": [row.name for row in page.rows], "next": link}


# %% [markdown]
"""
The folded cell defines `read_all(app, url)`: a client follows `next` until it is null.
After each response another user deletes a random package and publishes a fork of it,
sometimes without a month. It returns how often the packages that stayed were seen, and
how many they are. Predict: which numbers stand below *times seen*?
"""

# %% tags=["stage"]
import random


def read_all(app, url):
    chance = random.Random(1)
    stayed = all_names.copy()
    times = Counter()
    with serving(app) as client:
        while url:
            body = client.get(url).json()
            times.update(body["items"])
            url = body["next"]
            name = stayed.pop(chance.randrange(len(stayed)))
            month = chance.choice(["2026-11", "2026-10", "2019-05", None])
            change(engine, name, [f"{name}-fork"], month)
    return Counter(times[name] for name in stayed)


# %% tags=["predict"]
how_often = read_all(app, "/packages")
show(table(how_often.items(), ["times seen", "packages"]))

# %% [markdown]
"""
The promise has a limit. If the key of a row changes while you read, the row moves. It
can then come twice or not at all. To copy a whole list, order it by columns that never
change.

## On PostgreSQL

A deep page is cheap only with an index on the same expressions in the same order. The
folded cell defines `compare(url, index)`. It asks `EXPLAIN ANALYZE` how many rows
PostgreSQL reads for page 1 and for page 700, with 20 rows per page. `on_postgres` calls
it with a database of a PostgreSQL server.
"""


# %% tags=["stage"]
def compare(url, index):
    in_order = after_key(listing, newest, None)
    with loaded(url).begin() as connection:
        connection.exec_driver_sql(f"{index}; ANALYZE packages")
        key = newest.key_of(connection.execute(in_order.offset(13_979)).first())
        deep = after_key(listing, newest, key)
        pages = [in_order.limit(21), in_order.offset(13_980).limit(20), deep.limit(21)]
        counts = [rows_scanned(connection, page) for page in pages]
    names = ["page 1", "page 700 by OFFSET", "page 700 by key"]
    for name, count in zip(names, counts, strict=True):
        print(f"{name:18} {count:6,} rows {'#' * (count // 400)}".rstrip())
    return counts


# %%
from playbook.kit.lesson import on_postgres

index = "CREATE INDEX packages_newest ON packages (coalesce(month, ''), name)"
rows_read = on_postgres(compare, index)

# %% [markdown]
"""
By `OFFSET`, page 700 reads all rows before it. By key, it reads what page 1 reads: 20
rows, and the one that announces the next page.

## Check it
"""

# %%
assert set(how_often) == {1}, "a package that stayed was skipped or repeated"
assert "NULL" in with_null, "an order with NULL was accepted"
assert "ties" in with_ties, "an order with ties was accepted"
assert "is no str" in of_another_type, "a key with another type was accepted"
if rows_read:
    assert rows_read[-1] == 21, "a deep page reads more rows than page 1"
print("each row that stays comes once; NULL, ties and wrong types are refused")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `row < last if` | `row <= last if` | a package that stayed was skipped or repeated |
| `if getattr(last` | `if False and getattr(last` | an order with NULL was accepted |
| `not are_unique(self.columns)` | `False` | an order with ties was accepted |

## Your turn

A shop lists tools by downloads, most first. Tools with the same number stand in
alphabetical order: `ORDER BY downloads DESC, name ASC`. A row comparison has one
direction for all columns, so it does not fit.

Write `comes_after`. It returns the condition for `WHERE` that finds the rows after a
given tool. An index on `(downloads DESC, name)` must help: every later row must pass a
comparison of `downloads` alone, outside of any OR. Two hints are folded below.
"""


# %% tags=["exercise"]
def comes_after(tools, downloads, name):
    """The condition for rows of the table `tools` after the one with these values."""
    raise NotImplementedError


# %%
from playbook.exercises.api.pagination import HINTS, check

check(comes_after)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def comes_after(tools, downloads, name):
    fewer = tools.c.downloads < downloads
    fewer_or_same = tools.c.downloads <= downloads
    # `fewer_or_same` stands outside the OR: an index on downloads can start there.
    return sa.and_(fewer_or_same, sa.or_(fewer, tools.c.name > name))


assert check(comes_after)

# %% [markdown]
"""
## Take it with you

`playbook lift pagination INTO` copies the recipe and its tests into your project. It
asks little of it:

| seam | your project gives |
|---|---|
| `db` | a connection or an ORM session, one transaction per page |
| `select` | the columns or models to list, filtered, in no order |
| `order` | columns or mapped attributes of a table, made at import |
| key | the types of the columns again, as the annotation above does |

A row holds what you select, here one object, and then its key. The recipe's tests run
this route:

```python
class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    sent_on: Mapped[date]


newest = Order([Invoice.sent_on, Invoice.id], descending=True)


@app.get("/invoices")
def list_invoices(after: Annotated[tuple[date, int] | None, Query()] = None):
    with Session(engine) as session:
        page = read_page(session, sa.select(Invoice), newest, limit=2, after=after)
        numbers = [row.Invoice.id for row in page.rows]
    link = None
    if page.next is not None:
        link = "/invoices?" + urlencode({"after": page.next}, doseq=True)
    return {"items": numbers, "next": link}
```

Traps:

- An outer join makes NULL of any column. Use `coalesce` there too.
- A select with its own `GROUP BY`, `ORDER BY` or `LIMIT` must become a subquery. Join
  it to its table, and end the order with a unique column of that table.
- Take values by name. `row._mapping` also holds the key.

Hand it over:

- **Front end**: follow `next` until it is null.
- **Reviewer**: accept no `OFFSET` in a route, and no new order without its index.
- **Tests**: keep the property "each row that stays comes once", with ties and NULL.
- **Security**: check permissions on every page, as on the first.

Here the key is plain text in the URL. A client can change it, or use it with another
order. The next page, [cursors](cursors.ipynb), closes this gap.

## In short

Counting rows fails when rows move, so a page starts after the last row's key. Such a
key points to one place only if the order has neither ties nor NULL. An index on the
same order lets the database begin at that place.

## Sources

PostgreSQL documentation: 9.25.5 (row comparison), 11.4 (indexes and `ORDER BY`), 7.6
(`LIMIT` and `OFFSET`). M. Winand, *SQL Performance Explained*, "Paging Through
Results". Google AIP-158 (pagination). Django REST framework, "Pagination".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Errors](errors.ipynb) · [course map](../index.ipynb) · Next: [Signed cursors](cursors.ipynb)
"""
