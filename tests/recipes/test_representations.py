"""What the recipe promises for bodies and media types. Needs pytest, hypothesis and httpx, nothing else."""

import asyncio
import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import Body, Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from playbook.api.representations import (
    JSON,
    MAX_ACCEPT,
    MERGE_PATCH,
    BodyLimit,
    Strict,
    apply_patch,
    gives_json,
    media_ranges,
    merge_patch,
    quality,
    takes,
)

LIMIT = 10_000
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"  # what HttpURLConnection sends by itself
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


class BookPatch(Strict):
    title: str = ""
    shelf: str | None = None
    copies: int = 1
    facts: dict[str, Any] | None = None


@pytest.fixture
def book() -> SimpleNamespace:
    return SimpleNamespace(
        title="Emma", shelf="A1", copies=1, facts={"pages": 400, "author": {"name": "Austen"}}, price=9
    )


@pytest.fixture
def client(book: SimpleNamespace) -> Iterator[TestClient]:
    app = FastAPI(dependencies=[Depends(gives_json)])
    app.add_middleware(BodyLimit, max_bytes=LIMIT)

    @app.patch("/book", dependencies=[takes(MERGE_PATCH, JSON)])
    def change(changes: Annotated[BookPatch, Body(media_type=MERGE_PATCH)]) -> dict[str, Any]:
        return {"changed": apply_patch(book, changes), **vars(book)}

    @app.post("/books", dependencies=[takes(JSON)], status_code=201)
    def create(new: BookPatch) -> BookPatch:
        return new

    with TestClient(app) as client:
        yield client


@given(values, values)
def test_a_merge_leaves_its_arguments_alone_and_a_second_one_changes_nothing(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert (target, patch) == before
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A, and section 3
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize("media_type", [MERGE_PATCH, JSON, "Application/JSON ; charset=utf-8"])
def test_a_patch_changes_what_it_names(client: TestClient, book: SimpleNamespace, media_type: str) -> None:
    before = copy.deepcopy(vars(book))
    facts = before["facts"]
    for body, changed in (
        ("{}", {}),
        ('{"title": "Persuasion"}', {"title": "Persuasion"}),
        ('{"shelf": null, "title": "Emma"}', {"shelf": None}),
        ('{"facts": {"author": {"born": 1775}}}', {"facts": facts | {"author": {"name": "Austen", "born": 1775}}}),
        ('{"facts": null}', {"facts": None}),
    ):
        vars(book).update(copy.deepcopy(before))
        held = book.facts
        answer = client.patch("/book", content=body, headers={"content-type": media_type})
        assert vars(book) == before | changed
        assert answer.json()["changed"] == bool(changed)
        assert held == facts  # an ORM notices a new object, and no change within one


@pytest.mark.parametrize(
    "body", ['{"title": null}', '{"title": 1}', '{"copies": "2"}', '{"price": 0}', "[]", "null", "{", ""]
)
def test_a_body_that_is_not_understood_changes_nothing(client: TestClient, book: SimpleNamespace, body: str) -> None:
    before = copy.deepcopy(vars(book))
    assert client.patch("/book", content=body, headers={"content-type": MERGE_PATCH}).status_code == 422
    assert vars(book) == before


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/json, application/json", "text/json"])
def test_another_type_is_refused_with_what_would_do(client: TestClient, media_type: str) -> None:
    headers = {"content-type": media_type} if media_type else {}
    patch = client.patch("/book", content=b"{}", headers=headers)
    post = client.post("/books", content=b"{}", headers=headers)
    assert (patch.status_code, patch.headers["accept-patch"]) == (415, f"{MERGE_PATCH}, {JSON}")
    assert (post.status_code, post.headers["accept"]) == (415, JSON)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (JSON, 1), ("*/*", 1), ("application/*;q=0.5", 0.5), ("text/html", 0), (JAVA, 0.2), ("*", 1), ("*;q=0", 0),
        ("text/html, application/json;q=0.3", 0.3), ("*/*, application/json;q=0", 0), ("text/*", 0),
        ("application/*;q=0, application/json", 1), ("APPLICATION/JSON ; Q=0.7", 0.7), ("a/b;q=9", 0),
        ("application/json;q=2", 1), ("application/json; q = 0.4", 0.4), ("application/json;q=.0", 0),
        ("application/json;q=nonsense", 1), ("application/json;q=0nonsense", 1), ("application/json;q=", 1),
        ("", 1), (" ,, ", 1), ("json", 1), ("application/*+json", 1), ("application/problem+json", 0),
        ("application/json;version=2;q=0, */*", 1), ("application/json;version=2;q=0.5, application/json;q=0", 0),
        ('application/json;charset="utf-8";q=0, */*', 0), ('text/html;a="x, application/json;q=1"', 0),
        ('application/json;a="b;q=0;"', 1), ("text/html," * 5000, 1), ("text/html;q=0.1," * 60, 0),
    ],
)  # fmt: skip
def test_the_most_precise_range_decides_and_the_unreadable_is_not_never(accept: str, expected: float) -> None:
    assert quality(accept, JSON) == expected


@given(st.text(st.characters(codec="latin-1"), max_size=2 * MAX_ACCEPT))
def test_no_accept_header_is_an_error_or_much_work(accept: str) -> None:
    assert 0 <= quality(accept, JSON) <= 1
    assert len(media_ranges(accept[:MAX_ACCEPT])) <= MAX_ACCEPT


@pytest.mark.parametrize("strict", [True, False])
def test_a_strict_body_takes_a_text_for_a_uuid_only_where_the_field_says_so(strict: bool) -> None:
    class Loan(Strict):
        book: Annotated[UUID, Field(strict=strict)]

    app = FastAPI()

    @app.post("/loans")
    def lend(loan: Loan) -> str:
        return str(loan.book)

    with TestClient(app) as client:
        answer = client.post("/loans", json={"book": str(UUID(int=7))})
    assert answer.status_code == (422 if strict else 200)


def test_two_accept_lines_are_one_list(client: TestClient) -> None:
    lines = [("accept", "text/html"), ("accept", "application/json;q=0.1"), ("content-type", JSON)]
    assert client.patch("/book", content="{}", headers=lines).status_code == 200
    assert client.patch("/book", content="{}", headers=[lines[0], lines[2]]).status_code == 406


@pytest.mark.parametrize("pieces", [1, 10])
def test_a_body_ends_at_the_limit_with_and_without_its_length(client: TestClient, pieces: int) -> None:
    for size, status in ((LIMIT, 422), (LIMIT + pieces, 413)):
        piece = b" " * (size // pieces)
        for content in (piece * pieces, iter([piece] * pieces)):
            assert client.patch("/book", content=content, headers={"content-type": JSON}).status_code == status


def test_the_pieces_of_a_body_are_added_up() -> None:
    async def read_all(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def piece() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 10, "more_body": next(more)}

    more = iter([True] * 2 + [False])
    asyncio.run(BodyLimit(read_all, 30)({"type": "http"}, piece, None))  # type: ignore[arg-type]
    more = iter([True] * 9)
    with pytest.raises(HTTPException) as refused:
        asyncio.run(BodyLimit(read_all, 30)({"type": "http"}, piece, None))  # type: ignore[arg-type]
    assert (refused.value.status_code, len(list(more))) == (413, 5)
