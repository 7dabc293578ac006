"""What the recipe promises, on SQLite with a table of its own. Needs pytest, hypothesis, fastapi and sqlalchemy."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.api.conditional_requests import (
    check_match,
    check_write,
    etag,
    lock_row,
    matches,
    not_modified,
    read_tags,
)

opaque = st.text(st.characters(min_codepoint=0x23, max_codepoint=0x7E), max_size=8).filter(lambda t: "gzip" not in t)
tags = st.builds(lambda weak, text: f'{weak}"{text}"', st.sampled_from(["", "W/"]), opaque)


class Shop(DeclarativeBase):
    pass


class Shelf(Shop):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]


def asked(**headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": pairs})


def status(current: str | None, **headers: str) -> int:
    try:
        check_write(asked(**headers), current)
    except HTTPException as error:
        return error.status_code
    return 204


@pytest.mark.parametrize(
    ("sent", "current", "headers", "words"),
    [
        ({"if_match": '"2"'}, '"1"', {"ETag": '"1"'}, "changed"),
        ({"if_none_match": "*"}, '"1"', {"ETag": '"1"'}, "exists already"),
        ({"if_match": '"2"'}, None, {}, "changed"),
    ],
)
def test_412_brings_the_current_tag(
    sent: dict[str, str], current: str | None, headers: dict[str, str], words: str
) -> None:
    with pytest.raises(HTTPException, match=words) as refused:
        check_write(asked(**sent), current)
    assert (refused.value.status_code, refused.value.headers) == (412, headers)


def test_two_lines_of_a_header_are_one_list() -> None:
    def lines(name: bytes) -> Request:
        return Request({"type": "http", "headers": [(name, b'"0"'), (name, b'"1"')]})

    check_write(lines(b"if-match"), '"1"')
    assert not_modified(lines(b"if-none-match"), '"1"') is not None
    with pytest.raises(HTTPException, match="412"):
        check_write(lines(b"if-none-match"), '"1"')


@given(st.binary(), st.binary())
def test_equal_tags_mean_equal_bytes(one: bytes, other: bytes) -> None:
    assert (etag(one) == etag(other)) == (one == other)
    assert read_tags(etag(one)) == [etag(one)]
    assert len(etag(one)) == len('""') + 32
    assert read_tags(" * ") == ["*"]


@given(st.lists(tags, min_size=1), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_a_list_is_read_as_it_was_written(listed: list[str], comma: str) -> None:
    assert read_tags(comma.join(listed)) == listed


@pytest.mark.parametrize("field", ["", "a", '"a', 'a"', '"a" "b"', 'w/"a"', '*, "a"', '"a b"', "W/"])
def test_what_is_no_list_of_tags_is_not_read(field: str) -> None:
    assert read_tags(field) == []


@pytest.mark.parametrize("mark", ["-gzip", "-x-gzip", "--gzip", ";gzip", ":br", "-zstd", "-deflate"])
def test_the_mark_of_a_proxy_is_taken_off(mark: str) -> None:
    assert read_tags(f'"abc{mark}", W/"d"') == ['"abc"', 'W/"d"']


def test_the_comparison_table_of_rfc_9110() -> None:
    assert matches(['"1"'], '"1"', weak=False)
    assert matches(['"1"'], '"1"', weak=True)
    assert not matches(['W/"1"'], '"1"', weak=False)
    assert matches(['W/"1"'], '"1"', weak=True)
    assert not matches(['"2"'], '"1"', weak=True)
    assert not matches(['W/"1"'], 'W/"1"', weak=False)
    assert matches(['W/"1"'], 'W/"1"', weak=True)
    assert matches(['"1"'], 'W/"1"', weak=True)
    for weak in (False, True):
        assert matches(["*"], '"1"', weak)
        assert not matches(["*"], None, weak)


def test_a_write_needs_the_current_tag() -> None:
    assert status('"1"', if_none_match='W/"1"') == 412
    assert status('"1"', if_none_match="2") == 428  # what cannot be read is not a condition
    assert status('"1"', if_match='"1"') == status('"1"', if_match='"0", "1"') == status('"1"', if_match="*") == 204
    assert status('"1"', if_match='"2"') == status('"1"', if_match='W/"1"') == 412
    assert status(None, if_match='"1"') == status(None, if_match="*") == 412
    assert status('"1"') == 428
    assert status('"1"', if_match="1") == status('"1"', if_match="") == status(None, if_match="") == 400


@pytest.mark.parametrize("field", ['"2"', "unreadable", ""])
def test_if_none_match_does_not_replace_if_match(field: str) -> None:
    assert status('"1"', if_none_match=field) == 428
    assert status('"1"', if_match='"1"', if_none_match=field) == 204


def test_if_match_is_compared_first_and_a_get_may_send_it() -> None:
    assert status('"1"', if_match="unreadable", if_none_match="*") == 400
    check_match(asked(), '"1"')
    check_match(asked(if_match='"2", "1"'), '"1"')
    for field, refusal in (('"2"', 412), ('W/"1"', 412), ("unreadable", 400)):
        with pytest.raises(HTTPException) as refused:
            check_match(asked(if_match=field, if_none_match='"1"'), '"1"')
        assert refused.value.status_code == refusal


def test_a_put_can_ask_to_create_only() -> None:
    assert status(None, if_none_match="*") == status(None) == 204
    assert status('"1"', if_none_match="*") == status('"1"', if_match='"1"', if_none_match='"1"') == 412


def test_a_reader_with_the_current_content_gets_304() -> None:
    answer = not_modified(asked(if_none_match='"0", W/"1"'), '"1"')
    assert answer is not None
    assert (answer.status_code, answer.body, answer.headers["etag"]) == (304, b"", '"1"')
    assert answer.headers["cache-control"] == "private, no-cache"
    assert not_modified(asked(if_none_match='"2"'), '"1"') is None
    assert not_modified(asked(), '"1"') is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}", connect_args={"timeout": 60})
    Shop.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Shelf(id=1, label="start"))
    yield engine
    engine.dispose()


def shop(engine: sa.Engine) -> FastAPI:
    app = FastAPI()

    @app.get("/shelves/{number}")
    def read(number: int, request: Request) -> Response:
        with Session(engine) as session:
            body = session.get_one(Shelf, number).label.encode()
        return not_modified(request, etag(body)) or Response(body, headers={"ETag": etag(body)})

    @app.put("/shelves/{number}", status_code=204)
    def save(number: int, label: str, request: Request) -> None:
        with Session(engine) as session:
            lock_row(session, Shelf.id, number)
            shelf = session.get_one(Shelf, number)
            check_write(request, etag(shelf.label.encode()))
            shelf.label = label
            session.commit()

    return app


@pytest.mark.parametrize("seed", range(5))
def test_no_accepted_change_is_lost_in_any_order(engine: sa.Engine, seed: int) -> None:
    chance = random.Random(seed)
    accepted = []
    with TestClient(shop(engine)) as client:
        read = {name: client.get("/shelves/1") for name in "ab"}
        for step in range(40):
            name = chance.choice("ab")
            if chance.random() < 0.5:
                read[name] = client.get("/shelves/1")
                continue
            label = f"{read[name].text} {name}{step}"
            tag = {"if-match": read[name].headers["etag"]}
            answer = client.put("/shelves/1", params={"label": label}, headers=tag)
            assert answer.status_code in (204, 412)
            if answer.status_code == 204:
                accepted.append(f"{name}{step}")
        assert client.get("/shelves/1").text.split()[1:] == accepted
    assert accepted


def test_no_accepted_change_is_lost_at_the_same_moment(engine: sa.Engine) -> None:
    """Each thread writes with the tag that all have read, inside of transactions of their own."""
    passed: list[str] = []
    start = threading.Barrier(8)

    def save(name: str) -> None:
        start.wait(60)
        with Session(engine) as session:
            lock_row(session, Shelf.id, 1)
            shelf = session.get_one(Shelf, 1)
            try:
                check_write(asked(if_match=etag(b"start")), etag(shelf.label.encode()))
            except HTTPException:
                return
            shelf.label = name
            session.commit()
            passed.append(name)

    threads = [threading.Thread(target=save, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with Session(engine) as session:
        assert [session.get_one(Shelf, 1).label] == passed


def test_the_lock_keeps_other_writers_out_of_its_row(engine: sa.Engine) -> None:
    impatient = sa.create_engine(engine.url, connect_args={"timeout": 0})
    with Session(engine) as session, Session(impatient) as other:
        lock_row(session, Shelf.id, 1)
        with pytest.raises(sa.exc.OperationalError):
            lock_row(other, Shelf.id, 1)
        other.rollback()
        session.commit()
        lock_row(other, Shelf.id, 1)  # the lock ends with the transaction
        assert other.get_one(Shelf, 1).label == "start"  # and changes nothing
    impatient.dispose()


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=["postgresql", "mysql"])
def test_a_database_with_row_locks_gets_one_for_this_row(dialect: Any) -> None:
    sent: list[str] = []

    class Recorded(Session):
        def get_bind(self, *arguments: Any, **options: Any) -> Any:
            return SimpleNamespace(dialect=dialect)

        def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})))

    lock_row(Recorded(), Shelf.id, 7)
    assert [" ".join(text.split()) for text in sent] == [
        "SELECT shelves.id FROM shelves WHERE shelves.id = 7 FOR UPDATE"
    ]


def test_what_was_read_before_the_lock_is_read_again(engine: sa.Engine) -> None:
    with Session(engine) as session:
        shelf = session.get_one(Shelf, 1)
        session.connection().exec_driver_sql("UPDATE shelves SET label = 'newer' WHERE id = 1")
        lock_row(session, Shelf.id, 1)
        assert shelf.label == "newer"
