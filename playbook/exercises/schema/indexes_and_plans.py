"""The exercise of the page "Indexes and plans": its checker, its hints, wrong answers; and what the stage needs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.kit.data import data_path
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, on_postgres
from playbook.schema.bulk_load import Plan, bulk_load, staging
from playbook.schema.indexes_and_plans import Step, read_plan

HEADER = ("rank", "name", "version", "last_release")

packages = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("organization", sa.String, nullable=False),
    sa.Column("month", sa.String, nullable=False),
)
google = sa.select(packages).where(packages.c.organization == "google")
zope = sa.select(packages).where(sa.func.lower(packages.c.name) == "zope-interface")


def load(db: sa.Connection) -> None:
    """All 14,985 real packages. What stands before the first hyphen of a name is taken for its organization."""

    def prepare(row: dict[str, Any]) -> None:
        row["organization"] = row["name"].split("-")[0]

    packages.create(db)
    raw = staging(HEADER, more=["organization"])
    rows = sa.select(raw.c.name, raw.c.organization, raw.c.last_release.label("month"))
    bulk_load(db, data_path("packages.csv"), Plan(raw, [], packages, rows, ["name"], prepare=prepare))


def plans(url: str, tries: Iterable[tuple[str, sa.Select[Any]]]) -> list[Step]:
    """The plan of each query, with one index at a time: its columns as SQL."""
    engine = make_engine(url)
    found = []
    with engine.begin() as db:
        load(db)
    for columns, select in tries:
        with engine.begin() as db:
            db.exec_driver_sql(f"CREATE INDEX tried ON packages ({columns})")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.exec_driver_sql("ANALYZE packages")
        with engine.connect() as db:
            found.append(read_plan(db, select))
        with engine.begin() as db:
            db.exec_driver_sql("DROP INDEX tried")
    engine.dispose()
    return found


def steps(plan: Step) -> Iterator[Step]:
    """All steps of a plan, from the top."""
    yield plan
    for one in plan.below:
        yield from steps(one)


def in_words(plan: Step) -> str:
    """The kind of the step that reads the table, and how many rows it reads."""
    reads = next(step for step in steps(plan) if step.table)
    return f"{reads.kind}, {reads.read:,} rows"


def try_indexes(tries: list[tuple[str, sa.Select[Any]]]) -> tuple[list[dict[str, str]], list[Step]]:
    """What each engine does with one index at a time; and PostgreSQL's plans, or the embedded engine's."""
    here = plans(lesson_url(), tries)
    there = on_postgres(plans, tries) or here
    rows = [
        {"index": columns, "DuckDB": in_words(one), "PostgreSQL": in_words(other)}
        for (columns, _), one, other in zip(tries, here, there, strict=True)
    ]
    return rows, there


SHOP = (
    "CREATE TABLE customers (id INTEGER PRIMARY KEY, email VARCHAR)",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, placed_on DATE)",
    "CREATE TABLE items (sku VARCHAR, order_id INTEGER, PRIMARY KEY (sku, order_id))",
    "CREATE UNIQUE INDEX one_email ON customers (email)",
    "CREATE INDEX by_email ON customers (email)",
    "CREATE INDEX by_day ON orders (placed_on, id)",
)
models = sa.MetaData()
customers = sa.Table("customers", models, sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.String))
orders = sa.Table(
    "orders",
    models,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer_id", sa.ForeignKey("customers.id")),
    sa.Column("placed_on", sa.Date),
)
items = sa.Table(
    "items",
    models,
    sa.Column("sku", sa.String, primary_key=True),
    sa.Column("order_id", sa.ForeignKey("orders.id"), primary_key=True),
)


@contextmanager
def shop(url: str, *more: str) -> Iterator[sa.Connection]:
    """A shop with planted faults. After `more` statements, its two queries are run, so that they use an index."""
    engine = make_engine(url)
    try:
        with engine.begin() as db:
            for statement in (*SHOP, *more):
                db.exec_driver_sql(statement)
        if more and engine.dialect.name == "postgresql":
            with engine.begin() as db:
                for statement in USE:
                    db.exec_driver_sql(statement)
        with engine.connect() as db:
            yield db
    finally:
        engine.dispose()


USE = (
    "SET LOCAL enable_seqscan = off",  # the tables are empty, and would be read as a whole
    "SELECT * FROM orders WHERE customer_id = 7 ORDER BY placed_on",
    "SELECT * FROM items WHERE order_id = 7",
    "SELECT pg_stat_force_next_flush()",  # otherwise the server counts at most once in a second
)

MEND = (
    "CREATE INDEX by_customer ON orders (customer_id, placed_on)",
    "CREATE INDEX by_order ON items (order_id)",
    "DROP INDEX by_email",
    "DROP INDEX by_day",
)


def faults_of(url: str, audit: Callable[..., Any], lists: list[Any], mend: bool = False) -> Any:
    """What the page's audit finds in the shop, with its faults or without them."""
    with shop(url, *(MEND if mend else ())) as db:
        return audit(db, models, lists)


HINTS = (
    "Look at 'The idea': the columns that are compared come first in the index. Which\n"
    "columns must then come first of all?",
    "Sort the queries by the number of their columns. Each must have all columns of the\n"
    "one before; what it has besides comes behind.",
)

WRONG = (
    # all columns, in the order of the alphabet
    """
def one_index(queries):
    return sorted(set().union(*queries))
""",
    # the most frequent first, even where no order serves all
    """
def one_index(queries):
    columns = set().union(*queries)
    return sorted(columns, key=lambda column: (-sum(column in one for one in queries), column))
""",
    # only the largest query counts
    """
def one_index(queries):
    return sorted(max(queries, key=len))
""",
    # in the order in which the queries come
    """
def one_index(queries):
    order = []
    for query in queries:
        if not set(order) <= query:
            return None
        order += sorted(query - set(order))
    return order
""",
    # each only compared with the last one
    """
def one_index(queries):
    order = []
    for query in sorted(queries, key=len):
        order += [column for column in sorted(query) if column not in order]
    return order if set(order) == max(queries, key=len) else None
""",
)

CASES: tuple[tuple[list[set[str]], bool], ...] = (
    ([{"status"}, {"status", "city"}, {"status", "city", "age"}], True),
    ([{"status", "city", "age"}, {"status"}], True),
    ([{"zip", "city"}], True),
    ([{"zip"}, {"city", "zip"}, {"zip"}], True),
    ([{"city"}, {"zip"}], False),
    ([{"city"}, {"zip"}, {"city", "zip"}], False),
    ([{"city", "zip"}, {"zip", "age"}], False),
)


@checker
def check(one_index: Callable[..., Any]) -> str:
    """Sets of columns that are nested, in any order, and sets that are not."""
    for queries, possible in CASES:
        words = ", ".join("{" + ", ".join(sorted(one)) + "}" for one in queries)
        found = one_index([set(one) for one in queries])
        if not possible:
            if found is not None:
                return f"not yet: no order serves {words}, and there was {found!r}"
            continue
        if found is None:
            return f"not yet: an index can serve {words}, and there was None"
        if sorted(found) != sorted(set().union(*queries)):
            return f"not yet: for {words} the index has the columns {found!r}"
        for query in queries:
            if set(list(found)[: len(query)]) != query:
                return f"not yet: an index {found!r} does not begin with the columns of a query in {words}"
    return "right"
