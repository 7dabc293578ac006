"""What the recipe promises, on SQLite. Needs pytest, hypothesis, sqlalchemy, fastapi and httpx, nothing else."""

import hmac
import json
import uuid
from base64 import urlsafe_b64encode
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Query
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from playbook.api.cursors import Cursors, Listing, pack, read_list, unpack
from playbook.api.pagination import Order

SECRET, OLD = b"a secret of a test, and of no service", b"an older secret of a test, 32 bytes"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \xe9"
cursors = Cursors([SECRET])
values = st.one_of(
    st.integers(), st.text(), st.booleans(), st.none(), st.uuids(), st.dates(), st.datetimes(timezones=st.just(UTC))
)
names = st.text(max_size=20)


def status(cursor: str, of: str, by: Cursors = cursors) -> int:
    try:
        by.read(cursor, of)
    except HTTPException as error:
        return error.status_code
    return 200


@given(st.lists(values, max_size=4))
def test_a_key_keeps_its_types(key: list[Any]) -> None:
    found = unpack(pack(["next", key]))
    assert found == ["next", key]
    assert [type(value) for value in found[1]] == [type(value) for value in key]


def test_a_type_that_cannot_come_back_is_refused_when_signing() -> None:
    with pytest.raises(TypeError, match="READERS"):
        cursors.sign(["next", [object()]], "a list")


@settings(deadline=None, max_examples=30)
@given(st.lists(values, max_size=3), names)
def test_every_change_of_one_character_is_a_400(key: list[Any], of: str) -> None:
    cursor = cursors.sign(["next", key], of)
    assert cursors.read(cursor, of) == ["next", key]
    for place in range(len(cursor)):
        changed = {cursor[:place] + other + cursor[place + 1 :] for other in LETTERS[place % 7 :: 7]}
        changed |= {cursor[:place] + cursor[place + 1 :], cursor[:place] + "A" + cursor[place:]}
        assert {status(one, of) for one in changed - {cursor}} == {400}


@given(st.text(st.characters()))
@example("a.\ud800")  # what a JSON body can hold
@example("\ud800.a")
@example("\0")
def test_any_other_text_is_a_400(text: str) -> None:
    assert status(text, "a list") == 400


@given(names, names)
def test_a_cursor_is_for_one_list(of: str, other: str) -> None:
    assert status(cursors.sign(["next", None], of), other) == (200 if of == other else 400)


def test_the_first_secret_signs_and_each_is_accepted() -> None:
    both = Cursors([SECRET, OLD])
    assert status(Cursors([OLD]).sign([1], "a list"), "a list", both) == 200
    assert status(both.sign([1], "a list"), "a list", Cursors([OLD])) == 400
    assert status(both.sign([1], "a list"), "a list", cursors) == 200
    assert SECRET.decode() not in repr(both)


@pytest.mark.parametrize("secrets", [[], [b"short"], [SECRET, b""], [b"x" * 31]])
def test_secrets_are_long_enough(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Cursors(secrets)
    assert Cursors([b"x" * 32])


def test_a_code_that_the_secret_made_for_another_purpose_is_a_400() -> None:
    body = pack(["next", None])
    made = hmac.digest(SECRET, json.dumps(["a list", body]).encode(), "sha256")
    assert status(f"{body}.{urlsafe_b64encode(made).rstrip(b'=').decode()}", "a list") == 400


def test_name_and_position_stay_apart() -> None:
    cursor = cursors.sign(["next", None], "a list")
    assert status(cursor[1:], "a list" + cursor[0]) == 400
    assert "=" not in cursor


class Base(DeclarativeBase):
    pass


class Purchase(Base):
    __tablename__ = "purchases"
    number: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    shop_id: Mapped[int]
    status: Mapped[str]
    placed_at: Mapped[datetime]
    due_on: Mapped[date]


newest = Order([Purchase.placed_at, Purchase.due_on, Purchase.number], descending=True)
app = FastAPI()
engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@app.get("/shops/{shop}/purchases")
def list_purchases(
    shop: int,
    status: Literal["open", "paid"],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> dict[str, Any]:
    listing = Listing(f"/shops/{shop}/purchases", {"status": status}, newest)
    mine = Purchase.shop_id == shop
    select = sa.select(Purchase).where(mine, Purchase.status == status)
    with Session(engine) as session:
        rows, links = read_list(session, select, listing, limit, cursors, cursor)
        return {"items": [row.Purchase.number for row in rows], **links}


@pytest.fixture
def client() -> TestClient:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for n in range(1, 15):
            moment = datetime(2026, 11, 1 + n // 5, 12, 0, n // 3)
            session.add(
                Purchase(
                    number=uuid.UUID(int=n * 7919 % 101),
                    shop_id=1 + n % 2,
                    status="open" if n % 7 else "paid",
                    placed_at=moment,
                    due_on=date(2026, 12, 1),
                )
            )
        session.commit()
    return TestClient(app)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 100])
def test_forth_and_back_show_the_same_pages(client: TestClient, limit: int) -> None:
    pages = [client.get(f"/shops/1/purchases?status=open&limit={limit}").json()]
    assert pages[0]["prev"] is None
    while pages[-1]["next"]:
        pages.append(client.get(pages[-1]["next"]).json())
    assert [len(page["items"]) for page in pages] == [limit] * (6 // limit) + [6 % limit] * bool(6 % limit)
    with Session(engine) as session:
        mine = sa.select(Purchase.number).where(Purchase.shop_id == 1, Purchase.status == "open")
        newest_first = mine.order_by(Purchase.placed_at.desc(), Purchase.due_on.desc(), Purchase.number.desc())
        wanted = [str(number) for number in session.scalars(newest_first)]
    assert [number for page in pages for number in page["items"]] == wanted
    back = [pages[-1]]
    while back[-1]["prev"]:
        back.append(client.get(back[-1]["prev"]).json())
    assert [page["items"] for page in back[::-1]] == [page["items"] for page in pages]


def test_an_empty_page_leads_back_to_the_end(client: TestClient) -> None:
    page = client.get("/shops/1/purchases?status=open&limit=4").json()
    with Session(engine) as session:
        kept = {uuid.UUID(number) for number in page["items"]}
        session.execute(sa.delete(Purchase).where(Purchase.number.not_in(kept)))
        session.commit()
    empty = client.get(page["next"]).json()
    assert (empty["items"], empty["next"]) == ([], None)
    last = client.get(empty["prev"]).json()
    assert (last["items"], last["next"], last["prev"]) == (page["items"], None, None)


@pytest.mark.parametrize(("old", "new"), [("/1/", "/2/"), ("open", "paid"), ("cursor=W", "cursor=w")])
def test_a_link_edited_is_a_400(client: TestClient, old: str, new: str) -> None:
    link = client.get("/shops/1/purchases?status=open&limit=2").json()["next"]
    assert client.get(link.replace("limit=2", "limit=3")).status_code == 200
    assert client.get(link.replace(old, new)).status_code == 400
    assert client.get("/shops/1/purchases?status=open&cursor=").status_code == 400


def test_an_order_with_other_columns_or_another_caller_is_another_list() -> None:
    made = [
        Listing("/purchases", {"a": 1}, newest, "ada"),
        Listing("/purchases", {"a": 1}, newest, "mallory"),
        Listing("/purchases", {"a": 2}, newest, "ada"),
        Listing("/purchases", {"a": 1, "b": 1}, newest, "ada"),
        Listing("/purchases", {"a": 1}, Order([Purchase.number], descending=True), "ada"),
        Listing("/purchases", {"a": 1}, Order(newest.columns), "ada"),
    ]
    assert len({listing.name for listing in made}) == len(made)
    other_way_round = Listing("/purchases", {"b": 1, "a": 1}, newest, "ada")
    assert other_way_round.name == made[3].name


def test_a_column_of_another_type_makes_another_list() -> None:
    """After such a migration a key of before would be compared with values of another type."""
    listings = []
    for kind in (sa.Integer, sa.String):
        table = sa.Table("tickets", sa.MetaData(), sa.Column("number", kind(), primary_key=True))
        listings.append(Listing("/tickets", {}, Order([table.c.number])))
    old = cursors.sign(["next", [7]], listings[0].name)
    with Session(engine) as session, pytest.raises(HTTPException):
        read_list(session, sa.select(sa.literal(1)), listings[1], 2, cursors, old)
