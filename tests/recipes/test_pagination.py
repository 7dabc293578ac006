"""What the recipe promises, on SQLite. Needs pytest, hypothesis, sqlalchemy, fastapi and httpx, nothing else."""

from collections import Counter
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from playbook.api.pagination import Key, Order, after_key, are_unique, read_page

trees = sa.Table(
    "trees",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("height", sa.Integer),  # NULL: not measured
    sa.Column("row", sa.Integer, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("tag", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False, unique=True, index=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.UniqueConstraint("row", "place"),
)
unkeyed = sa.Table("unkeyed", sa.MetaData(), sa.Column("id", sa.Integer, nullable=False))
sa.Index("trees_of_oak", trees.c.tag, unique=True, sqlite_where=trees.c.height > 9)
height = sa.func.coalesce(trees.c.height, -1)
heights = st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=12)


def planted(given: list[int | None]) -> sa.Connection:
    connection = sa.create_engine("sqlite://").connect()
    trees.create(connection)
    for number, one in enumerate(given):
        values = {"id": number, "height": one, "row": number // 2, "place": number % 2, "tag": "oak"}
        connection.execute(trees.insert().values(values | {"label": f"no. {number}", "kind": "oak"}))
    return connection


@settings(max_examples=50, deadline=None)
@given(heights, st.integers(1, 5), st.booleans(), st.data())
def test_each_row_that_stays_comes_exactly_once(
    given: list[int | None], limit: int, descending: bool, data: st.DataObject
) -> None:
    order = Order([height, trees.c.id], descending)
    times: Counter[int] = Counter()
    deleted: set[int] = set()
    added = 0
    after: Key | None = None
    with planted(given) as connection:
        while True:
            page = read_page(connection, sa.select(trees.c.id), order, limit, after)
            assert len(page.rows) <= limit
            assert [order.key_of(row) for row in page.rows] == sorted(map(order.key_of, page.rows), reverse=descending)
            times.update(row.id for row in page.rows)
            assert max(times.values(), default=1) == 1
            if given:
                gone = data.draw(st.integers(0, len(given) - 1))
                connection.execute(trees.delete().where(trees.c.id == gone))
                deleted.add(gone)
            if added < 9:  # or the list grows as fast as it is read
                added += 1
                new = {"id": 100 + added, "height": data.draw(st.integers(0, 3)), "row": 100 + added}
                connection.execute(trees.insert().values(place=0, tag="new", label=f"new {added}", kind="new", **new))
            if page.next is None:
                break
            after = page.next
    assert all(times[number] == 1 for number in range(len(given)) if number not in deleted)


def test_the_last_page_has_no_next_whether_it_is_full_or_not() -> None:
    order = Order([trees.c.id])
    with planted([1, 1, 1, 1]) as connection:
        assert read_page(connection, sa.select(trees.c.id), order, 4).next is None
        assert read_page(connection, sa.select(trees.c.id), order, 3).next == (2,)
        assert read_page(connection, sa.select(trees.c.id), order, 9, (3,)).rows == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([trees.c.height, trees.c.id], "can be NULL"),
        ([sa.func.lower(trees.c.tag), trees.c.id], "can be NULL"),
        ([sa.func.coalesce(trees.c.height, trees.c.height), trees.c.id], "can be NULL"),
        ([sa.func.coalesce(trees.c.height, None), trees.c.id], "can be NULL"),
        ([], "ties"),
        ([height], "ties"),
        ([trees.c.row], "ties"),
        ([trees.c.tag], "ties"),  # unique for some rows only
    ],
)
def test_an_order_that_would_lose_rows_is_refused(columns: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Order(columns)


def test_two_columns_may_be_unique_together() -> None:
    assert are_unique([trees.c.row, trees.c.place])
    assert are_unique([trees.c.id, trees.c.row])
    assert not are_unique([trees.c.row, sa.literal(1)])


def test_one_index_is_unique_and_another_is_not() -> None:
    assert are_unique([trees.c.label])
    assert not are_unique([trees.c.kind])


def test_only_what_the_table_declares_counts() -> None:
    assert not are_unique([unkeyed.c.id])  # its primary key has no column
    assert not are_unique([unkeyed.c.id, trees.c.row])  # the `id` of another table


@pytest.mark.parametrize("key", [("3", 1), (3, "1"), (3,), (3, 1, 1), (None, 1), ()])
def test_a_key_with_other_types_is_refused(key: Key) -> None:
    with pytest.raises(ValueError, match=r"in the key|zip\(\)"):
        after_key(sa.select(trees.c.id), Order([height, trees.c.id]), key)


def test_a_join_that_repeats_rows_is_noticed_on_its_page() -> None:
    other = trees.alias()
    joined = sa.select(trees.c.id).join_from(trees, other, sa.true())
    with planted([1, 2]) as connection, pytest.raises(ValueError, match="join"):
        read_page(connection, joined, Order([trees.c.id]), limit=1)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_has_at_least_one_row(limit: int) -> None:
    with planted([1]) as connection, pytest.raises(ValueError, match="limit"):
        read_page(connection, sa.select(trees.c.id), Order([trees.c.id]), limit)


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    sent_on: Mapped[date]


newest = Order([Invoice.sent_on, Invoice.id], descending=True)
app = FastAPI()
engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@app.get("/invoices")
def list_invoices(after: Annotated[tuple[date, int] | None, Query()] = None) -> dict[str, Any]:
    with Session(engine) as session:
        page = read_page(session, sa.select(Invoice), newest, limit=2, after=after)
        numbers = [row.Invoice.id for row in page.rows]
    link = None
    if page.next is not None:
        link = "/invoices?" + urlencode({"after": page.next}, doseq=True)
    return {"items": numbers, "next": link}


def test_a_client_follows_next_to_the_end() -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number, day in enumerate((2, 2, 1, 2, 3), start=1):
            session.add(Invoice(id=number, sent_on=date(2026, 11, day)))
        session.commit()
    client = TestClient(app)
    seen: list[int] = []
    url = "/invoices"
    while url:
        body = client.get(url).json()
        seen += body["items"]
        assert len(seen) <= 5
        url = body["next"]
    assert seen == [5, 4, 2, 1, 3]
    assert client.get("/invoices?after=3").status_code == 422
