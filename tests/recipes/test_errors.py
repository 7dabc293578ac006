"""What the recipe promises, for any route and any input. Needs pytest, hypothesis and fastapi."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response

from playbook.api.errors import (
    INVALID,
    PROBLEM_JSON,
    UNAVAILABLE,
    Problem,
    Problems,
    ProblemType,
    as_problem,
    install_problems,
    pointer,
    problem_response,
)

ON_LOAN = ProblemType("/problems/on-loan", 409, "The book is on loan")
MISSING = ProblemType("/problems/no-book", 404, "There is no such book")
UNREADABLE = ProblemType("/problems/no-form", 422, "That is not how a book is described")
SECRET = "hunter2"
BODIES = (b"", b"{", b"[]", b"null", b"\xff", b'{"hunter2": "hunter2"}', b'{"isbn": "hunter2"}')


class Shelf(BaseModel):
    kind: Literal["shelf"]


class Box(BaseModel):
    kind: Literal["box"]


class Book(BaseModel, extra="forbid"):
    isbn: str
    pages: int = 1
    shelf: Annotated[Shelf | Box, Field(discriminator="kind")] | None = None

    @field_validator("pages")
    @classmethod
    def enough(cls, value: int) -> int:
        raise PydanticCustomError("short", "Too short for a book")

    @field_validator("isbn")
    @classmethod
    def known(cls, value: str) -> str:
        raise ValueError(f"{value} is unknown")


def library(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["testserver"])

    @app.post("/books")
    def add(book: Book) -> None: ...

    @app.post("/loans/{book}")
    def lend(book: str) -> None:
        raise Problem(ON_LOAN, "It comes back on Friday.", book=book, status=200)

    @app.get("/books/{number}")
    def read(number: int, title: str | None = None) -> Any:
        raises = {
            1: RuntimeError(SECRET),
            2: HTTPException(500, SECRET),
            3: ConnectionError(SECRET),
            4: HTTPException(401, headers={"WWW-Authenticate": "Basic"}),
            6: HTTPException(400, {"isbn": SECRET}),
            5: HTTPException(304, headers={"ETag": '"1"'}),
        }
        if number in raises:
            raise raises[number]
        return JSONResponse({"error": SECRET * 99}, 599 if number == 599 else 502, {"X-Kept": "1"})

    @app.get("/token/{kind}")
    def token(kind: str) -> Response:
        return PlainTextResponse("invalid_grant", 400)

    settings = Problems(
        general=(INVALID, UNAVAILABLE, MISSING),
        request_id=lambda request: request.headers.get("x-id", "none"),
        not_now=(ConnectionError,),
        leave_alone=("/token/",),
    )
    install_problems(app, settings)
    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(library(), raise_server_exceptions=False) as client:
        yield client


def wrong_requests(app: FastAPI) -> Iterator[tuple[str, str, bytes]]:
    """Method, path and body of mistakes that need no knowledge of a route. For your own app, too."""
    for template, operations in app.openapi()["paths"].items():
        for value in ("missing", "1", "2", "3", "4", "7"):
            path = re.sub("{.*?}", value, template)
            yield "BREW", path, b""
            yield "GET", f"{path}/missing", b""
            for method, operation in operations.items():
                for body in BODIES if "requestBody" in operation else (b"",):
                    yield method.upper(), path, body


def test_every_error_of_every_route_is_a_problem_and_tells_nothing(client: TestClient) -> None:
    seen = set()
    for method, path, body in wrong_requests(library()):
        answer = client.request(method, path, content=body, headers={"x-id": "r-7"})
        if path.startswith("/token/") and "/missing/" not in path and answer.status_code == 400:
            continue
        where = f"{method} {path} {body!r}: {answer.status_code} {answer.text}"
        assert answer.status_code >= 400, where
        assert answer.headers["content-type"] == PROBLEM_JSON, where
        assert answer.json()["status"] == answer.status_code, where
        assert answer.json()["request_id"] == "r-7", where
        values = {key: value for key, value in answer.json().items() if key != "errors"}
        assert SECRET not in str(values) + str([one["detail"] for one in answer.json().get("errors", [])]), where
        seen.add(answer.status_code)
    assert seen == {401, 404, 405, 409, 422, 500, 502, 503}


def test_a_problem_has_its_type_and_members_that_cannot_replace_the_standard_ones(client: TestClient) -> None:
    body = client.post("/loans/emma").json()
    assert (body["type"], body["title"], body["status"]) == (ON_LOAN.uri, ON_LOAN.title, 409)
    assert (body["detail"], body["book"]) == ("It comes back on Friday.", "emma")


def test_an_error_without_a_type_gets_the_general_one_or_none(client: TestClient) -> None:
    assert client.get("/nowhere").json()["type"] == MISSING.uri
    assert client.request("BREW", "/books").json() == {
        "type": "about:blank",
        "title": "Method Not Allowed",
        "status": 405,
        "request_id": "none",
    }


def test_a_catalogue_can_name_the_type_of_validation_errors() -> None:
    error = RequestValidationError([{"type": "missing", "loc": ("body", "isbn"), "msg": "Field required"}])
    assert as_problem(error, [MISSING, UNREADABLE]).kind == UNREADABLE
    assert as_problem(error, [MISSING]).kind == INVALID


def test_a_problem_has_its_headers() -> None:
    answer = problem_response(as_problem(Problem(ON_LOAN, headers={"Retry-After": "7"}, book="emma"), []))
    assert (answer.headers["retry-after"], json.loads(answer.body)["book"]) == ("7", "emma")


def test_the_log_has_the_cause_of_what_passes_by_the_id_of_the_answer(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/books/3", headers={"x-id": "r-7"})
    (record,) = [record for record in caplog.records if record.name == "problems"]
    assert record.getMessage().startswith("r-7:")
    assert record.exc_info is not None
    assert record.exc_info[0] is ConnectionError


def test_a_status_that_has_no_name_is_a_problem_too(client: TestClient) -> None:
    assert client.get("/books/599").json()["title"] == "Error"


def test_only_a_text_is_a_detail(client: TestClient) -> None:
    assert "detail" not in client.get("/books/6").json()
    assert "detail" not in client.get("/books/2").json()


def test_a_failure_that_passes_does_not_reach_the_server() -> None:
    with TestClient(library()) as client:
        assert client.get("/books/3").json()["type"] == UNAVAILABLE.uri
        with pytest.raises(RuntimeError):
            client.get("/books/1")  # a defect does: the server logs it


def test_headers_stay(client: TestClient) -> None:
    assert client.get("/books/4").headers["www-authenticate"] == "Basic"
    replaced = client.get("/books/7")
    assert replaced.headers["x-kept"] == "1"
    assert replaced.headers.get_list("content-length") == [str(len(replaced.content))]
    assert client.get("/books/3").headers["retry-after"] == "1"
    assert client.request("BREW", "/books").headers["allow"] == "POST"


def test_what_is_no_error_or_another_standards_is_left_alone(client: TestClient) -> None:
    unchanged = client.get("/books/5")
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"1"')
    assert client.get("/token/x").text == "invalid_grant"
    assert client.get("/docs").status_code == 200


def test_a_middleware_that_answers_or_fails_is_covered() -> None:
    app = library()
    with TestClient(app) as client:
        refused = client.get("/books/1", headers={"host": "evil.example"})
    assert (refused.status_code, refused.headers["content-type"]) == (400, PROBLEM_JSON)
    app = FastAPI()

    @app.middleware("http")
    async def fail(request: Request, call_next: Any) -> Response:
        raise HTTPException(429, "slowly")

    install_problems(app, Problems())
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/").json()["detail"] == "slowly"


def test_the_list_of_field_errors_is_short_and_says_where(client: TestClient) -> None:
    many = client.post("/books", json={f"x{number}": SECRET for number in range(1000)}).json()["errors"]
    assert len(many) == 20
    query = client.get("/books/x?title=a").json()["errors"]
    assert query[0].items() >= {"in": "path", "name": "number"}.items()
    broken = client.post("/books", content=b'{"isbn', headers={"content-type": "application/json"})
    assert broken.json()["errors"][0]["pointer"] == "#"


def test_a_validators_own_words_are_not_shown_but_fixed_ones_are(client: TestClient) -> None:
    found = client.post("/books", json={"isbn": SECRET, "pages": 0, "shelf": {"kind": SECRET}}).json()["errors"]
    details = {one["pointer"]: one["detail"] for one in found}
    assert details == {
        "#/isbn": "This value is not acceptable",
        "#/pages": "Too short for a book",
        "#/shelf": "This value is not acceptable",
    }


@given(st.text(min_size=1), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_no_value_that_was_sent_comes_back(isbn: str, pages: Any) -> None:
    secret = f"secret-{isbn}"
    with TestClient(library(), raise_server_exceptions=False) as client:
        answer = client.post("/books", content=json.dumps({"isbn": secret, "pages": [secret, pages]}))
    assert answer.status_code == 422
    assert "secret-" not in answer.text


@given(st.lists(st.text(max_size=100) | st.integers()))
@example(["a~1b/~0", 0])
def test_a_pointer_leads_back_to_its_steps(steps: list[Any]) -> None:
    parts = unquote(pointer(steps)).removeprefix("#").split("/")[1:]
    assert [part.replace("~1", "/").replace("~0", "~") for part in parts] == [str(step) for step in steps]
    assert re.fullmatch(r"#(/[\w.~%-]*)*", pointer(steps), re.ASCII)


@given(st.text(st.characters()), st.dates())
def test_any_error_can_be_encoded(detail: str, day: Any) -> None:
    body = problem_response(Problem(ON_LOAN, detail + "\ud83d", due=day)).body
    assert json.loads(bytes(body))["due"] == str(day)
