"""Errors: one form, from wherever they come; nothing of the inside; input that two readers could read differently."""

import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from before_sign_in import RESOURCES, finished
from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator, model_validator
from starlette.exceptions import HTTPException
from tables import make_tables

from playbook.api.errors import MAX_ERRORS, PROBLEM_JSON, Problem, as_problem, problem_response
from playbook.api.representations import JSON
from playbook.api.resources import complete_methods
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.pantry import errors
from playbook.pantry.errors import CONFLICT, GENERAL, PROBLEM_TYPES, install_problems
from playbook.pantry.http import CHALLENGE, Caller, create_app, nobody
from playbook.pantry.reads import InThread
from playbook.pantry.strict_input import MAX_DEPTH, MAX_URL, json_fault
from playbook.schema.identity import add_user

open_router = APIRouter(dependencies=[Depends(anyone)])


class Checked(BaseModel):
    password: str = ""
    again: str = ""

    @field_validator("password")
    @classmethod
    def quotes_what_it_refuses(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is too common")
        return value

    @model_validator(mode="after")
    def alike(self) -> "Checked":
        if self.again:
            raise ValueError(f"differs from {self.again}")
        return self


@open_router.get("/raise/{status}")
def raise_status(status: int) -> None:
    raise HTTPException(status, "the detail", {"Retry-After": "7", "X-Kept": "yes"})


@open_router.get("/answer/{status}")
def answer_status(status: int) -> JSONResponse:
    response = JSONResponse({"error": "SELECT secret"}, status, {"X-Kept": "yes"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@open_router.get("/problem")
def raise_problem() -> None:
    raise Problem(CONFLICT, "too little", headers={"X-Kept": "yes"}, balance=30)


@open_router.get("/not-modified")
def not_modified() -> None:
    raise HTTPException(304, headers={"ETag": '"1"'})


@open_router.get("/bug")
def bug() -> None:
    raise RuntimeError("SELECT secret FROM inside.py")


@open_router.get("/bug-of-sql")
def bug_of_sql(request: Request) -> None:
    with request.app.state.engine.connect() as connection:
        connection.execute(sa.text("SELECT secret FROM nowhere"))


@open_router.get("/bad-answer", response_model=Checked)
def bad_answer() -> Any:
    return {"password": "hunter2"}


@open_router.post("/checked")
def checked(body: Checked) -> str:
    return "taken"


@open_router.post("/anything")
def anything(body: Annotated[Any, Body()] = None) -> Any:
    return "taken"


@open_router.get("/many")
def many(tag: Annotated[list[str], Query()] = [], one: int = 0) -> int:  # noqa: B006
    return len(tag)


@pytest.fixture
def app(url: str, clock: FixedClock, ids: Identifiers) -> Any:
    engine = make_engine(url)
    make_tables(engine)
    ada = transaction(engine, lambda session: add_user(session, clock, ids, "ada@example.com", "Ada"))
    caller = Caller(ada.id, ada.name)
    app = create_app(engine, [*RESOURCES, open_router], clock, ids, lambda request: caller, lambda *asked: True)
    return finished(app)


@pytest.fixture
def client(app: Any) -> Iterator[LiveClient]:
    with serving(app) as client:
        yield client


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """The body of `answer`, after what every problem keeps."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_JSON), answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["type"]) == (status, kind)
    assert body["request_id"] == answer.headers["x-request-id"]
    assert not re.search(r"SELECT|secret|Traceback|\.py|hunter2", answer.text)
    return body


# ---------------------------------------------------------------- one form, from wherever it comes


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 451, 500, 502, 503, 599])
def test_every_http_exception_is_a_problem_and_keeps_its_headers(client: LiveClient, status: int) -> None:
    answer = client.get(f"/raise/{status}")
    body = problem(answer, status, GENERAL[status].uri if status in GENERAL else "about:blank")
    assert (answer.headers["retry-after"], answer.headers["x-kept"]) == ("7", "yes")
    assert body.get("detail") == ("the detail" if status < 500 else None)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_an_answer_in_another_form_loses_its_body_and_keeps_its_headers(client: LiveClient, status: int) -> None:
    answer = client.get(f"/answer/{status}")
    problem(answer, status, GENERAL[status].uri)
    assert answer.headers["x-kept"] == "yes"
    assert [value.split(";")[0] for value in answer.headers.get_list("set-cookie")] == ["a=1", "b=2"]


def test_a_success_is_left_alone(client: LiveClient) -> None:
    answer = client.get("/answer/200")
    assert (answer.status_code, answer.json()) == (200, {"error": "SELECT secret"})
    assert client.get("/not-modified").headers["etag"] == '"1"'
    assert client.get("/not-modified").status_code == 304


def test_a_problem_has_its_detail_and_its_members(client: LiveClient) -> None:
    body = problem(client.get("/problem"), 409, "/problems/conflict")
    assert (body["detail"], body["balance"], body["title"]) == ("too little", 30, CONFLICT.title)
    assert client.get("/problem").headers["x-kept"] == "yes"


@pytest.mark.parametrize("path", ["/bug", "/bug-of-sql", "/bad-answer"])
def test_a_bug_tells_nothing_and_the_log_has_it_by_its_id(
    client: LiveClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "pantry.errors"):
        body = problem(client.get(path), 500, "/problems/internal-error")
        assert "detail" not in body
        assert len(client.server_errors) == 1
    assert [record.args[0] for record in caplog.records if record.name == "pantry.errors"] == [body["request_id"]]


def test_head_has_the_headers_of_the_problem_and_no_body(client: LiveClient) -> None:
    for path in ("/nowhere", "/answer/404", "/raise/404", "/organizations/none", "/packages?x=1", "/%ff"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == PROBLEM_JSON


def test_405_has_a_complete_allow_and_options_still_answers(client: LiveClient) -> None:
    answer = client.put("/packages")
    problem(answer, 405, "/problems/method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    options = client.options("/packages")
    assert (options.status_code, options.headers["allow"], options.content) == (204, answer.headers["allow"], b"")


def test_installing_before_complete_methods_is_the_same(url: str, clock: FixedClock, ids: Identifiers) -> None:
    app = create_app(make_engine(url), RESOURCES, clock, ids)
    install_problems(app)
    complete_methods(app)
    with serving(app) as client:
        assert problem(client.put("/packages"), 405, "/problems/method-not-allowed")
        assert client.put("/packages").headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert client.options("/packages").status_code == 204


def test_401_keeps_its_challenge(url: str, clock: FixedClock, ids: Identifiers) -> None:
    app = create_app(make_engine(url), RESOURCES, clock, ids, nobody)
    finished(app)
    with serving(app) as client:
        answer = client.get("/packages")
        problem(answer, 401, "/problems/not-signed-in")
        assert answer.headers["www-authenticate"] == CHALLENGE


def test_415_says_what_would_do(client: LiveClient) -> None:
    answer = client.patch("/packages/none", content="{}", headers={"content-type": "text/plain"})
    problem(answer, 415, "/problems/wrong-media-type")
    assert answer.headers["accept-patch"] == "application/merge-patch+json, application/json"


def test_406_is_a_problem_although_the_client_does_not_accept_it(client: LiveClient) -> None:
    problem(client.get("/packages", headers={"accept": "text/html"}), 406, "/problems/not-acceptable")
    problem(client.get("/packages/none", headers={"accept": JSON}), 404, "/problems/not-found")


@pytest.mark.parametrize("declared", [True, False])
def test_413_is_a_problem_with_a_request_id(client: LiveClient, declared: bool) -> None:
    content = b'"' + b"x" * 1_048_576 + b'"'
    parts = content if declared else (content[i : i + 60_000] for i in range(0, len(content), 60_000))
    answer = client.post("/anything", content=parts, headers={"content-type": JSON})
    problem(answer, 413, "/problems/too-large")
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_readiness_is_a_problem_too(url: str, clock: FixedClock, ids: Identifiers) -> None:
    engine = make_engine(url)
    app = create_app(engine, [], clock, ids)
    install_problems(app)

    @sa.event.listens_for(engine, "before_cursor_execute")
    def refuse(*arguments: Any) -> None:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    with serving(app) as client:
        problem(client.get("/ready"), 503, "/problems/unavailable")


# ---------------------------------------------------------------- the database


def answer_for(error: Exception, url: str, clock: FixedClock, ids: Identifiers) -> Any:
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.get("/fail")
    def fail() -> None:
        raise error

    app = create_app(make_engine(url), [router], clock, ids)
    install_problems(app)
    with serving(app) as client:
        return client.get("/fail")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (sa.exc.OperationalError("SELECT secret", {}, Exception("conflict")), 503),
        (sa.exc.TimeoutError("QueuePool limit"), 503),
        (sa.exc.IntegrityError("INSERT INTO secret", {}, Exception("duplicate")), 500),
        (sa.exc.ProgrammingError("SELECT secret", {}, Exception("syntax")), 500),
        (sa.exc.DataError("SELECT secret", {}, Exception("too long")), 500),
        (TimeoutError("not the pool's"), 500),
    ],
)
def test_only_what_passes_is_503(error: Exception, status: int, clock: FixedClock, ids: Identifiers) -> None:
    answer = answer_for(error, "duckdb:///:memory:only_what_passes", clock, ids)
    problem(answer, status, GENERAL[status].uri)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_after_a_failure_the_client_does_not_use_the_connection_again(clock: FixedClock, ids: Identifiers) -> None:
    answer = answer_for(RuntimeError("nobody expected it"), "duckdb:///:memory:closed_after_it", clock, ids)
    problem(answer, 500, "/problems/internal-error")
    assert answer.headers["connection"] == "close"


def test_a_pool_that_is_empty(url: str, clock: FixedClock, ids: Identifiers) -> None:
    engine = make_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    make_tables(engine)
    caller = Caller(ids.new(), "Ada")
    app = create_app(engine, RESOURCES, clock, ids, lambda request: caller, lambda *asked: True)
    finished(app)
    app.state.read = InThread(engine)  # on PostgreSQL a list is read beside the pool
    with serving(app) as client:
        with engine.connect():
            answer = client.get("/packages")
        problem(answer, 503, "/problems/unavailable")
        assert answer.headers["retry-after"] == "1"
        assert client.get("/packages").status_code == 200


# ---------------------------------------------------------------- validation


def post(client: LiveClient, path: str, content: bytes | str, media_type: str = JSON) -> Any:
    return client.post(path, content=content, headers={"content-type": media_type})


def test_fields_are_named_by_pointers_and_parameters_by_name(client: LiveClient) -> None:
    answer = client.post("/organizations", json={"slug": 5, "a/b~c %": 1, "é": 2})
    found = problem(answer, 422, "/problems/invalid-input")["errors"]
    assert {error["pointer"] for error in found} == {"#/slug", "#/name", "#/a~1b~0c%20%25", "#/%C3%A9"}
    assert {error["in"] for error in found} == {"body"}
    assert problem(client.get("/packages?limit=1000"), 422, "/problems/invalid-input")["errors"][0]["name"] == "limit"


@pytest.mark.parametrize("content", ['{"password": "hunter2"}', '{"again": "hunter2"}', '{"again": ["hunter2"]}'])
def test_what_was_sent_is_not_repeated(client: LiveClient, content: str) -> None:
    assert problem(post(client, "/checked", content), 422, "/problems/invalid-input")["errors"]


def test_many_mistakes_do_not_buy_a_large_answer(client: LiveClient) -> None:
    answer = client.post("/organizations", json={f"unknown-{n}" + "x" * 300: n for n in range(2000)})
    assert len(problem(answer, 422, "/problems/invalid-input")["errors"]) == MAX_ERRORS
    assert len(answer.content) < 10_000


# ---------------------------------------------------------------- strict JSON

REFUSED = {
    "empty name twice": b'{"": 1, "": 2}',
    "name twice, escaped": rb'{"a": 1, "\u0061": 2}',
    "name twice, deep": b'[{"x": [{"a": 1, "b": 1, "a": 1}]}]',
    "not a number": b"NaN",
    "infinity": b"[-Infinity]",
    "overflow": b"1e400",
    "negative overflow": b"-1e400",
    "4,301 digits": b"9" * 4301,
    "a million digits": b"9" * 1_000_000,
    "long fraction": b"0." + b"0" * 100,
    "NUL": rb'["\u0000"]',
    "NUL as name": rb'{"\u0000": 1}',
    "NUL after a backslash": rb'"\\\u0000"',
    "high surrogate": rb'"\ud83d"',
    "low surrogate": rb'"\uDE00"',
    "wrong order": rb'"\ude00\ud83d"',
    "surrogate as name": rb'{"\udead": 1}',
    "raw surrogate": b'"\xed\xa0\x80"',
    "Latin-1": b'"\xe9"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32-be"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "overlong": b'"\xc0\x80"',
    "raw NUL": b'"\x00"',
    "line feed in a text": b'"\n"',
    "trailing comma": b"[1,]",
    "comment": b"{} // no",
    "single quotes": b"{'a': 1}",
    "two documents": b"{}{}",
    "unclosed": b'{"a": "',
    "only blanks": b"  ",
    "one level too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "objects too deep": b'{"a":' * 33 + b"1" + b"}" * 33,
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "500,000 open": b"[" * 500_000,
}
TAKEN = {
    "deepest": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "wide": b"[" + b"[]," * 1000 + b"[]]",
    "brackets in a text": b'"' + b"[" * 1000 + b'"',
    "brackets after an escaped quote": rb'["\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["]',
    "a pair": rb'"\ud83d\ude00"',
    "an emoji": '"😀"'.encode(),
    "an escaped escape": rb'"\\u0000 \\ud83d"',
    "largest double": b"1.7976931348623157e308",
    "small": b"1e-400",
    "64 bits": b"18446744073709551616",
    "null": b"null",
    "same name in two objects": b'[{"a": 1}, {"a": 1}]',
    "blanks around": b" \r\n\t{} ",
    "nothing": b"",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    assert json_fault(REFUSED[name])


@pytest.mark.parametrize("name", [name for name in TAKEN if name != "nothing"])
def test_taken(name: str) -> None:
    assert json_fault(TAKEN[name]) == ""


def test_the_service_answers_what_json_fault_says(client: LiveClient) -> None:
    for media_type in (JSON, "Application/JSON; charset=utf-8", "application/merge-patch+json"):
        for content in REFUSED.values():
            assert problem(post(client, "/anything", content, media_type), 400, "/problems/malformed-request")["detail"]
        for name, content in TAKEN.items():
            assert post(client, "/anything", content, media_type).json() == "taken", name
    assert client.server_errors == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    # no surrogates, no NUL
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\\\"[{/é😀", max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300)
@given(json_values, st.booleans())
def test_whatever_is_json_and_unambiguous_is_taken(value: Any, ascii_only: bool) -> None:
    assert json_fault(json.dumps(value, ensure_ascii=ascii_only).encode()) == ""


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text('{}[]":,\\ud80fDa0 19eE+-.', max_size=60).map(str.encode))
def test_what_is_taken_is_read_alike_and_can_be_stored(body: bytes) -> None:
    if json_fault(body) == "":
        value = json.loads(body)  # what FastAPI does
        assert json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) == value


def test_a_hostile_body_costs_little() -> None:
    megabytes = [
        b"[" * 1_000_000, b"[" + b"[]," * 330_000 + b"[]]", b"[" + b"{}," * 330_000 + b"{}]", b'"' * 1_000_000,
        b"[" + b"1," * 500_000 + b"1]", b'"' + b"\\\\" * 500_000 + b'"', b'"' + b'\\"' * 500_000, b"\\" * 1_000_000,
        b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}", b'"' + rb"\ud83d\ude00" * 83_000 + b'"',
    ]  # fmt: skip
    for body in megabytes:
        before = time.thread_time()
        json_fault(body)
        assert time.thread_time() - before < 2, body[:20]


def test_a_body_in_many_small_parts_is_whole(client: LiveClient) -> None:
    content = json.dumps({"slug": "acme", "name": "x" * 100}).encode()
    parts = (content[i : i + 1] for i in range(len(content)))
    assert client.post("/organizations", content=parts, headers={"content-type": JSON}).status_code == 201


# ---------------------------------------------------------------- strict URLs


@pytest.mark.parametrize(
    "path",
    ["/packages/%00", "/packages/a%00b", "/packages/%ff", "/%ED%A0%80", "/packages?organization=%00", "/health?%ff"],
)
def test_a_url_that_is_not_text_is_refused(client: LiveClient, path: str) -> None:
    problem(client.get(path), 400, "/problems/malformed-request")


def test_a_url_of_any_other_text_is_read(client: LiveClient) -> None:
    for path in ("/packages/%F0%9F%98%80", "/packages/a%2Fb", "/packages/%0A", "/packages/%25"):
        problem(client.get(path), 404, "/problems/not-found")


def test_the_length_of_a_url_is_bounded(client: LiveClient) -> None:
    prefix = "/packages/"
    assert client.get(prefix + "a" * (MAX_URL - len(prefix) - 1)).status_code == 404
    problem(client.get(prefix + "a" * MAX_URL), 414, "/problems/url-too-long")


@pytest.mark.parametrize(
    ("path", "name", "detail"),
    [
        ("/packages?limi=5", "limi", "unknown; known: limit, cursor, sort, organization"),
        ("/packages?limit=5&limit=5", "limit", "given twice"),
        ("/packages/x?a=", "a", "unknown; known: none"),
        ("/health?verbose", "verbose", "unknown; known: none"),
        ("/many?tag=1&one=1&one=2", "one", "given twice"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(client: LiveClient, path: str, name: str, detail: str) -> None:
    body = problem(client.get(path), 422, "/problems/invalid-input")
    assert body["errors"] == [{"in": "query", "name": name, "detail": detail}]


def test_a_list_may_be_given_again_and_pages_outside_the_document_take_anything(client: LiveClient) -> None:
    assert client.get("/many?tag=1&tag=2&one=1").json() == 2
    assert client.get("/docs?x=1").status_code == 200
    problem(client.get("/nowhere?x=1"), 404, "/problems/not-found")


# ---------------------------------------------------------------- catalogue and document


def test_every_type_has_a_page(client: LiveClient) -> None:
    for slug, kind in PROBLEM_TYPES.items():
        page = client.get(kind.uri)
        assert page.headers["content-type"].startswith("text/html")
        assert kind.uri == f"/problems/{slug}"
        assert str(kind.status) in page.text
    problem(client.get("/problems/none"), 404, "/problems/not-found")


def test_a_page_of_a_type_is_safe_html(client: LiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = errors.PantryType("escaped", 400, "<script>", "a & b")
    monkeypatch.setitem(PROBLEM_TYPES, kind.slug, kind)
    assert "&lt;script&gt;" in client.get("/problems/escaped").text


def test_a_special_type_is_not_the_general_one_of_its_status() -> None:
    for error, slug in ((Problem(errors.BAD_CURSOR), "bad-cursor"), (HTTPException(400), "malformed-request")):
        body = json.loads(bytes(problem_response(as_problem(error, errors.PROBLEMS.general)).body))
        assert (body["type"], body["status"]) == (f"/problems/{slug}", 400)
    assert len(PROBLEM_TYPES) == len(GENERAL) + len(errors.SPECIAL + errors.ABOUT_TOKENS)  # no slug is there twice


def test_the_document_says_problem_for_every_error_also_after_a_route_is_added(app: Any) -> None:
    later = APIRouter(dependencies=[Depends(anyone)])
    later.add_api_route("/later", lambda: PlainTextResponse(""))
    for _ in range(2):
        document = app.openapi()
        for operation in (o for path in document["paths"].values() for o in path.values()):
            for status, answer in operation["responses"].items():
                if status >= "4":
                    assert list(answer["content"]) == [PROBLEM_JSON]
            assert operation["responses"]["default"]["description"]
        assert "HTTPValidationError" not in json.dumps(document)
        app.include_router(later)
    assert "/later" in app.openapi()["paths"]
