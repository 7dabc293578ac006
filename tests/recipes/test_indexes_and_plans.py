"""What the recipe promises: the audit on SQLite and DuckDB, plans on DuckDB and from what PostgreSQL says.

Needs pytest, hypothesis and sqlalchemy; duckdb-sqlalchemy where it is there.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.schema.indexes_and_plans import (
    Finding,
    Index,
    Step,
    audit,
    idle,
    indexes,
    place,
    postgresql_step,
    read_plan,
    unmet,
)

meta = sa.MetaData()
customers = sa.Table(
    "customers",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("email", sa.String),
)
orders = sa.Table(
    "orders",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("customer_id", sa.ForeignKey("customers.id")),
    sa.Column("placed_on", sa.Date),
    sa.Column("cents", sa.Integer),
)
bare = sa.MetaData()  # as they are where foreign keys are left out
for one in (customers, orders):
    sa.Table(one.name, bare, *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in one.columns))


@pytest.fixture(params=["sqlite://", "duckdb:///:memory:"])
def db(request: pytest.FixtureRequest) -> Iterator[sa.Connection]:
    if request.param.startswith("duckdb"):
        pytest.importorskip("duckdb_sqlalchemy")
    engine = sa.create_engine(request.param)
    with engine.connect() as connection:
        bare.create_all(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def duckdb() -> Iterator[sa.Connection]:
    pytest.importorskip("duckdb_sqlalchemy")
    engine = sa.create_engine("duckdb:///:memory:")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE orders AS SELECT i AS id, i % 500 AS customer_id FROM range(9000) t(i)"
        )
        connection.commit()
        yield connection
    engine.dispose()


def run(db: sa.Connection, *statements: str) -> None:
    for statement in statements:
        db.exec_driver_sql(statement)


# ---------------------------------------------------------------- the code that the page shows


def audit_any(url: str) -> list[Finding]:
    with sa.create_engine(url).connect() as db:
        there = sa.MetaData()
        there.reflect(db)
        return audit(db, there)


def rows_read(plan: Step) -> int:
    return plan.read + sum(rows_read(one) for one in plan.below)


def test_a_database_without_models_is_audited(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    meta.create_all(engine)
    engine.dispose()
    assert audit_any(url) == [Finding("missing", "orders", ("customer_id",))]


# ---------------------------------------------------------------- plans


def scans(plan: Step) -> list[Step]:
    """The steps that read a table."""
    return [plan] * bool(plan.table) + [scan for one in plan.below for scan in scans(one)]


def test_a_plan_says_what_was_read_and_what_was_handed_on(duckdb: sa.Connection) -> None:
    mine = sa.select(sa.table("orders", sa.column("id"), sa.column("customer_id"))).where(sa.column("customer_id") == 7)
    before = read_plan(duckdb, mine)
    run(duckdb, "CREATE INDEX by_customer ON orders (customer_id)")
    duckdb.commit()
    after = read_plan(duckdb, mine)
    assert [(one.kind, one.read, one.rows) for one in scans(before)] == [("Sequential Scan", 9000, 18)]
    assert [(one.kind, one.read, one.rows) for one in scans(after)] == [("Index Scan", 18, 18)]
    assert (rows_read(before), rows_read(after)) == (9000, 18)


def test_a_plan_has_all_its_steps(duckdb: sa.Connection) -> None:
    table = sa.table("orders", sa.column("id"), sa.column("customer_id"))
    other = table.alias()
    joined = sa.select(sa.func.count()).select_from(table.join(other, table.c.id == other.c.customer_id))
    plan = read_plan(duckdb, joined)
    assert [one.table for one in scans(plan)] == ["orders", "orders"]
    assert plan.rows == 1


def test_values_with_quotes_and_signs_of_percent_are_explained(duckdb: sa.Connection) -> None:
    text = sa.cast(sa.column("id"), sa.String)
    few = sa.select(sa.table("orders", sa.column("id"))).where(text.like("%89%9"))
    assert read_plan(duckdb, few).rows == len(duckdb.execute(few).all()) > 0
    assert read_plan(duckdb, few.where(text != "it's")).rows == read_plan(duckdb, few).rows


def test_only_a_select_on_an_engine_that_explains_is_taken(db: sa.Connection) -> None:
    statement: Any = orders.delete()
    with pytest.raises(ValueError, match="for a SELECT"):
        read_plan(db, statement)
    if db.dialect.name == "sqlite":
        with pytest.raises(ValueError, match="PostgreSQL or DuckDB"):
            read_plan(db, sa.select(orders))


@pytest.mark.parametrize("change", [orders.delete(), orders.update().values(cents=0), orders.insert().values(id=1)])
def test_a_select_that_writes_is_refused_and_nothing_is_written(duckdb: sa.Connection, change: Any) -> None:
    gone = change.returning(orders.c.id).cte("gone")
    for select in (sa.select(gone), sa.select(orders.c.id).where(orders.c.id.in_(sa.select(gone.c.id)))):
        with pytest.raises(ValueError, match="would write"):
            read_plan(duckdb, select)
    assert duckdb.exec_driver_sql("SELECT count(*) FROM orders").scalar() == 9000


def test_what_an_index_brought_and_the_table_threw_away_is_counted() -> None:
    scan = {"Node Type": "Bitmap Heap Scan", "Relation Name": "orders", "Actual Rows": 3, "Actual Loops": 2}
    plan = postgresql_step(scan | {"Rows Removed by Index Recheck": 40, "Rows Removed by Filter": 7})
    assert (plan.read, plan.rows) == (100, 6)


def test_postgresql_counts_an_average_of_loops_and_what_a_filter_removes() -> None:
    scan = {
        "Node Type": "Index Scan",
        "Relation Name": "orders",
        "Actual Rows": 1.5,
        "Rows Removed by Filter": 2,
        "Actual Loops": 4,
    }
    plan = postgresql_step({"Node Type": "Nested Loop", "Actual Rows": 6, "Actual Loops": 1, "Plans": [scan]})
    assert plan == Step("Nested Loop", "", 0, 6, [Step("Index Scan", "orders", 14, 6, [])])


# ---------------------------------------------------------------- indexes


def test_keys_indexes_and_expressions_are_listed(db: sa.Connection) -> None:
    run(
        db,
        "CREATE INDEX by_day ON orders (placed_on, id)",
        "CREATE UNIQUE INDEX one_email ON customers (lower(email))",
    )
    found = {(one.table, one.columns, one.unique) for one in indexes(db)}
    expected = {
        ("customers", ("id",), True),
        ("customers", ("lower(email)",), True),
        ("orders", ("id",), True),
        ("orders", ("placed_on", "id"), False),
    }
    # SQLAlchemy cannot reflect an expression of SQLite, and says so.
    assert found == expected - ({("customers", ("lower(email)",), True)} if db.dialect.name == "sqlite" else set())


@pytest.mark.parametrize(
    "text",
    [
        "lower(email)",
        "(lower(email))",
        "lower(email::text)",
        "lower((email)::text)",
        'lower(t."email") DESC NULLS LAST',
    ],
)
def test_an_expression_has_one_text(text: str) -> None:
    assert place(sa.text(text)) == "lower(email)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lower(trim(email))", "lower(trim(email))"),
        ("lower(btrim((email)::text))", "lower(btrim(email))"),
        ("((a)::text || (b)::text)", "a||b"),
        ("(((data ->> 'x'::text)))", "data->>'x'"),
    ],
)
def test_no_bracket_is_lost_that_is_needed(text: str, expected: str) -> None:
    assert place(sa.text(text)) == expected


def test_an_index_of_some_rows_is_left_out() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as db:
        meta.create_all(db)
        run(db, "CREATE INDEX few ON orders (customer_id) WHERE cents > 9", "CREATE INDEX all_rows ON orders (cents)")
        assert [one.name for one in indexes(db) if one.table == "orders" and not one.unique] == ["all_rows"]
        assert Finding("missing", "orders", ("customer_id",)) in audit(db, meta)
    engine.dispose()


# ---------------------------------------------------------------- the audit


def test_each_planted_fault_is_found(db: sa.Connection) -> None:
    run(
        db,
        "CREATE INDEX by_day ON orders (placed_on, customer_id)",
        "CREATE INDEX by_email ON customers (email)",
        "CREATE INDEX by_mail ON customers (email)",
    )
    found = audit(db, meta, [("orders", ("cents",)), ("orders", ("placed_on",))])
    assert found == [
        Finding("double", "customers", ("email",), "by_mail"),
        Finding("missing", "orders", ("cents",)),
        Finding("unused", "orders", ("placed_on", "customer_id"), "by_day"),
        Finding("wrong order", "orders", ("customer_id",), "by_day"),
    ]


def test_a_mended_database_has_no_fault(db: sa.Connection) -> None:
    run(db, "CREATE INDEX by_customer ON orders (customer_id)", "CREATE UNIQUE INDEX one_email ON customers (email)")
    assert audit(db, meta, [("customers", ("email",))]) == []


def test_what_keeps_a_rule_is_never_superfluous(db: sa.Connection) -> None:
    run(
        db,
        "CREATE UNIQUE INDEX a ON customers (email)",
        "CREATE UNIQUE INDEX b ON customers (email)",
        "CREATE UNIQUE INDEX c ON orders (customer_id, placed_on)",
    )
    assert audit(db, meta) == []


def test_where_uses_are_counted_a_shorter_index_is_double_and_an_idle_one_unused() -> None:
    short = Index("t", "short", ("a",), False)
    long = Index("t", "long", ("a", "b"), False)
    other = Index("other", "long", ("a", "b"), False)
    uses = {"short": 5, "long": 7}
    assert [*idle(short, [short, long], uses)] == [Finding("double", "t", ("a",), "short")]
    assert [*idle(long, [short, long], uses)] == []
    assert [*idle(short, [short, other], uses)] == []
    assert [*idle(long, [long], {"long": 0})] == [Finding("unused", "t", ("a", "b"), "long")]
    assert [*idle(short, [short, long], {})] == []  # where an index on several columns is not read
    assert [*idle(long, [long], {"part_of_long": 0})] == []  # of a partitioned table: its parts are counted alone


COLUMNS = st.permutations("abc").flatmap(lambda order: st.integers(1, 3).map(lambda size: tuple(order[:size])))


@settings(max_examples=200, deadline=None)
@given(have=COLUMNS, wanted=COLUMNS)
def test_an_index_serves_what_it_begins_with(have: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Against a sorted list: rows that are equal in `wanted` stand together, in the order of `wanted`."""
    rows = list(itertools.product(range(2), repeat=3))
    at = [["abc".index(name) for name in names] for names in (have, wanted)]
    entries = sorted(tuple(row[place] for place in at[0]) for row in rows)
    serves = have[: len(wanted)] == wanted
    if serves:
        keys = [tuple(entry[have.index(name)] for name in wanted) for entry in entries]
        assert keys == sorted(keys)
    index = Index("t", "i", have, False)
    [*found] = unmet("t", wanted, [index])
    assert found == ([] if serves else found)
    assert bool(found) == (not serves)
    together = set(have[: len(wanted)]) == set(wanted)
    assert bool([*unmet("t", frozenset(wanted), [index])]) == (not together)
    if not serves:
        assert found[0].fault == ("wrong order" if set(wanted) <= set(have) else "missing")
