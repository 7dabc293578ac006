"""Rules of the API, checked over every route that Pantry has: a new route is checked on the day it is written.

A rule is a function over the live service and one operation. Its requests are made from the route's own declaration.
"""

import itertools
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from before_sign_in import pantry
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import iter_route_contexts
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.api.errors import PROBLEM_JSON
from playbook.api.representations import JSON
from playbook.api.resources import HeadAsGet, allowed_methods
from playbook.foundations.deny_by_default import anyone, refuse_undeclared
from playbook.kit.live import LiveClient, serving
from playbook.pantry.errors import PROBLEM_TYPES
from playbook.pantry.http import DOCUMENTATION, current_caller
from playbook.pantry.keys import BAD_KEY, IN_FLIGHT, KEY_REUSED, install_idempotency
from playbook.pantry.settings import Settings

LEAKS = re.compile(r"Traceback|File \"|\.py\b|sqlalchemy|duckdb|psycopg|SELECT |INSERT |UPDATE |hunter2", re.IGNORECASE)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW")
MISSING = {"uuid": "00000000-0000-0000-0000-000000000000", "integer": "0"}


@dataclass(frozen=True)
class Operation:
    """One method of one path, with what the OpenAPI document says of it."""

    method: str
    path: str
    says: dict[str, Any]

    @property
    def url(self) -> str:
        """The path with parameters that are well-formed and name nothing."""
        url = self.path
        for parameter in self.says.get("parameters", []):
            if parameter["in"] == "path":
                schema = parameter["schema"]
                value = MISSING.get(schema.get("format", schema.get("type")), "missing-hunter")
                url = url.replace("{" + parameter["name"] + "}", value)
        return url

    @property
    def media_types(self) -> list[str]:
        return list(self.says.get("requestBody", {}).get("content", {}))


def operations(app: FastAPI) -> list[Operation]:
    return [
        Operation(method.upper(), path, says)
        for path, item in app.openapi()["paths"].items()
        for method, says in item.items()
    ]


def new_pantry(url: str) -> FastAPI:
    return pantry(Settings(environment="test", database_url=url))


@pytest.fixture
def client(url: str) -> Iterator[LiveClient]:
    app = new_pantry(url)
    with serving(app) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


def is_problem(answer: Any, *statuses: int) -> str:
    """What is wrong with `answer` as a problem of one of `statuses`; empty when nothing is."""
    if answer.status_code not in statuses:
        return f"{answer.status_code} instead of {' or '.join(map(str, statuses))}: {answer.text[:200]}"
    if answer.headers.get("content-type") != PROBLEM_JSON:
        return f"{answer.status_code} as {answer.headers.get('content-type')}"
    if answer.request.method == "HEAD":
        return "it has a body" if answer.content else ""
    problem = answer.json()
    types = {"about:blank"} | {kind.uri for kind in PROBLEM_TYPES.values() if kind.status == answer.status_code}
    if problem["type"] not in types or problem["status"] != answer.status_code:
        return f"{answer.status_code} says {problem['type']} and {problem['status']}"
    if problem["request_id"] != answer.headers["x-request-id"]:
        return "its request_id is not that of the header"
    leak = LEAKS.search(answer.text)
    return f"it shows {leak[0]!r}" if leak else ""


# ---------------------------------------------------------------- the rules: each yields what is wrong


def errors_are_documented(client: LiveClient, operation: Operation) -> Iterator[str]:
    answers = operation.says["responses"]
    if "default" not in answers:
        yield "errors are not in the OpenAPI document"
    for status, answer in answers.items():
        if status >= "4" and list(answer.get("content", {})) != [PROBLEM_JSON]:
            yield f"{status} is documented as {list(answer.get('content', {}))}"


def other_methods_are_405_with_all_that_work(client: LiveClient, operation: Operation) -> Iterator[str]:
    allowed = allowed_methods(client.app, operation.url)  # type: ignore[attr-defined]
    for method in METHODS:
        if method not in allowed:
            answer = client.request(method, operation.url)
            if wrong := is_problem(answer, 405):
                yield f"{method}: {wrong}"
            elif answer.headers["allow"].split(", ") != allowed:
                yield f"{method}: Allow is {answer.headers['allow']}"
    if operation.method not in allowed:
        yield "its own method is not in Allow"
    if client.options(operation.url).headers.get("allow", "").split(", ") != allowed:
        yield "OPTIONS has another Allow"


def what_is_not_there_is_404(client: LiveClient, operation: Operation) -> Iterator[str]:
    if wrong := is_problem(client.request(operation.method, operation.url + "/hunter/hunter"), 404):
        yield f"a path below: {wrong}"
    names_one = "{" in operation.path and operation.method in ("GET", "DELETE")
    if names_one and (wrong := is_problem(client.request(operation.method, operation.url), 404)):
        yield f"a resource that is not there: {wrong}"


def an_unknown_parameter_is_refused(client: LiveClient, operation: Operation) -> Iterator[str]:
    if wrong := is_problem(client.request(operation.method, operation.url + "?hunter=hunter2"), 422):
        yield wrong


def a_url_that_is_not_text_is_refused(client: LiveClient, operation: Operation) -> Iterator[str]:
    for suffix in ("/%00", "/%ff", "/%ed%a0%80", "?a=%00", "?%ff"):
        if wrong := is_problem(client.request(operation.method, operation.url + suffix), 400):
            yield f"{suffix}: {wrong}"
    if wrong := is_problem(client.request(operation.method, operation.url + "?a=" + "a" * 9000), 414):
        yield wrong


def parameters_of_a_wrong_type_are_refused(client: LiveClient, operation: Operation) -> Iterator[str]:
    for parameter in operation.says.get("parameters", []):
        if parameter["in"] == "query" and parameter["schema"].get("type") in ("integer", "number", "boolean"):
            for value in ("hunter2", "", "9" * 5000, "1e999", "NaN"):
                answer = client.request(operation.method, operation.url, params={parameter["name"]: value})
                if wrong := is_problem(answer, 422):
                    yield f"{parameter['name']}={value[:9]}: {wrong}"


MALFORMED = [
    b"{", b"\xff", b'{"a": 1, "a": 2}', b"[NaN]", b'"\\u0000"', b'"\\ud800"', b'{"a": 1e999}', b"9" * 5000,
    b"[" * 100_000 + b"]" * 100_000, '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b'{"hunter2": }',
]  # fmt: skip
NOT_ACCEPTABLE = [b"", b"[]", b"null", b'"hunter2"', b"0", b"true", b'{"hunter": "hunter2"}', b'[{"a": "hunter2"}]']


def a_wrong_body_is_refused(client: LiveClient, operation: Operation) -> Iterator[str]:
    for media_type in operation.media_types:
        for bodies, status in ((MALFORMED, 400), (NOT_ACCEPTABLE, 422), ([b"[" + b"1," * 600_000 + b"1]"], 413)):
            for body in bodies:
                headers = {"content-type": media_type}
                answer = client.request(operation.method, operation.url, content=body, headers=headers)
                if wrong := is_problem(answer, status):
                    yield f"{body[:20]!r}: {wrong}"


def another_media_type_is_415(client: LiveClient, operation: Operation) -> Iterator[str]:
    if operation.media_types:
        for media_type in {"text/plain", "application/xml", JSON, "application/merge-patch+json"} - set(
            operation.media_types
        ):
            headers = {"content-type": media_type}
            answer = client.request(operation.method, operation.url, content=b"{}", headers=headers)
            if wrong := is_problem(answer, 415):
                yield f"{media_type}: {wrong}"
            elif not {"accept", "accept-patch"} & set(answer.headers):
                yield f"{media_type}: 415 does not say what would do"


def head_is_get_without_a_body(client: LiveClient, operation: Operation) -> Iterator[str]:
    if operation.method == "GET":
        get, head = client.get(operation.url), client.head(operation.url)
        if (head.status_code, head.content) != (get.status_code, b""):
            yield f"HEAD is {head.status_code} with {len(head.content)} bytes, GET is {get.status_code}"
        if head.headers["content-type"] != get.headers["content-type"]:
            yield "HEAD has another content-type"


# What GraphQL leaves to the query and to the client. Their size has the bounds of every JSON body (`strict_input`).
FREE = ("POST /graphql variables", "POST /graphql extensions")


def text_fields_that_come_in_are_bounded(client: LiveClient, operation: Operation) -> Iterator[str]:
    """Every text of a body has a longest length (or a closed list); every object refuses unknown fields."""
    document = client.app.openapi()  # type: ignore[attr-defined]

    def look(schema: dict[str, Any], where: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        for inner in itertools.chain(*(schema.get(key, []) for key in ("anyOf", "oneOf", "allOf"))):
            yield from look(inner, where)
        if schema.get("type") == "string" and not {"maxLength", "enum", "const", "format"} & set(schema):
            yield f"{where} has no longest length"
        if schema.get("type") == "array":
            if "maxItems" not in schema:
                yield f"{where} has no largest number of items"
            yield from look(schema.get("items", {}), f"{where}[]")
        if schema.get("type") == "object":
            named = f"{operation.method} {operation.path} {where}"
            if schema.get("additionalProperties") is not False and named not in FREE:
                yield f"{where or 'the body'} takes unknown fields"
            for name, inner in schema.get("properties", {}).items():
                yield from look(inner, f"{where}.{name}".lstrip("."))

    for content in operation.says.get("requestBody", {}).get("content", {}).values():
        yield from look(content["schema"], "")


SHOWN_ONCE = {"/tokens"}  # a kept answer would keep what is shown once


def a_post_says_that_it_takes_a_key_and_does(client: LiveClient, operation: Operation) -> Iterator[str]:
    """`Idempotency-Key` and its three refusals stand in the document, of POST only; a key is one request's."""
    named = [p for p in operation.says.get("parameters", []) if p["name"] == "Idempotency-Key"]
    if operation.method != "POST" or operation.path in SHOWN_ONCE:
        if named:
            yield "it promises to take an Idempotency-Key"
        return
    if not named:
        yield "Idempotency-Key is not in the document"
    for kind in (BAD_KEY, IN_FLIGHT, KEY_REUSED):
        if kind.title not in operation.says["responses"].get(str(kind.status), {}).get("description", ""):
            yield f"{kind.status} is not in the document: {kind.title}"

    def ask(key: str, body: bytes) -> Any:
        headers = {"content-type": (*operation.media_types, JSON)[0], "idempotency-key": key}
        return client.post(operation.url, content=body, headers=headers)

    key = f'"{uuid.uuid4()}"'
    bad, first, again, other = ask("short", b"{}"), ask(key, b'{"a": 1}'), ask(key, b'{"a": 1}'), ask(key, b'{"a": 2}')
    for answer, kind in ((bad, BAD_KEY), (other, KEY_REUSED)):
        if wrong := is_problem(answer, kind.status):
            yield wrong
        elif answer.json()["type"] != kind.uri:
            yield f"{answer.json()['type']} instead of {kind.uri}"
    if (again.status_code, again.content) != (first.status_code, first.content):
        yield "a repeated request gets another answer"
    elif again.headers.get("idempotency-replayed") != "true":
        yield "a repeated request is worked on again"


Rule = Callable[[LiveClient, Operation], Iterator[str]]
RULES: list[Rule] = [
    errors_are_documented,
    other_methods_are_405_with_all_that_work,
    what_is_not_there_is_404,
    an_unknown_parameter_is_refused,
    a_url_that_is_not_text_is_refused,
    parameters_of_a_wrong_type_are_refused,
    a_wrong_body_is_refused,
    another_media_type_is_415,
    head_is_get_without_a_body,
    text_fields_that_come_in_are_bounded,
    a_post_says_that_it_takes_a_key_and_does,
]


def findings(client: LiveClient, rule: Rule) -> list[str]:
    app = client.app  # type: ignore[attr-defined]
    return [f"{o.method} {o.path}: {wrong}" for o in operations(app) for wrong in rule(client, o)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_route_keeps(rule: Rule, client: LiveClient) -> None:
    assert findings(client, rule) == []
    assert client.server_errors == []


def test_every_route_is_in_the_document_and_says_who_may_use_it() -> None:
    app = new_pantry("duckdb:///:memory:every_route")
    documented = {(operation.method, operation.path) for operation in operations(app)}
    routes = {(m, r.path) for r in iter_route_contexts(app.routes) if hasattr(r, "dependant") for m in r.methods or ()}
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    assert {(m, path) for m, path in routes if path not in ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
            and m != "HEAD"} == documented  # fmt: skip
    assert len(documented) >= 12


# ---------------------------------------------------------------- each rule can fail


def test_a_route_that_breaks_a_rule_is_found() -> None:
    from pydantic import BaseModel

    class Loose(BaseModel):
        note: str = ""
        tags: list[str] = []

    bad = APIRouter(dependencies=[Depends(anyone)])

    @bad.get("/bad/{name:path}")
    def everything_is_there(name: str) -> str:
        return name

    @bad.get("/loud")
    def loud() -> JSONResponse:
        return JSONResponse({"type": "about:blank", "status": 404, "request_id": "-", "detail": "SELECT 1"}, 404,
                            media_type=PROBLEM_JSON)  # fmt: skip

    @bad.post("/loose")
    def loose(body: Loose) -> str:
        return "taken"

    @bad.get("/undocumented", responses={404: {"description": "as text"}})
    def undocumented() -> None: ...

    app = new_pantry("duckdb:///:memory:breaks_a_rule")
    app.include_router(bad)
    app.openapi()["paths"]["/undocumented"]["get"]["responses"] = {"404": {"content": {"text/plain": {}}}}
    with serving(app) as client:
        client.app = app  # type: ignore[attr-defined]
        found = {rule.__name__: " | ".join(findings(client, rule)) for rule in RULES}
        assert is_problem(client.get("/loud"), 404).startswith("its request_id")
    assert "GET /bad/{name}: a path below: 200" in found["what_is_not_there_is_404"]
    assert "POST /loose: note has no longest length" in found["text_fields_that_come_in_are_bounded"]
    assert "tags has no largest number of items" in found["text_fields_that_come_in_are_bounded"]
    assert "the body takes unknown fields" in found["text_fields_that_come_in_are_bounded"]
    assert "POST /loose: text/plain: 422 instead of 415" in found["another_media_type_is_415"]
    assert '{"hunter": "hunter2' in found["a_wrong_body_is_refused"]
    assert "404 is documented as ['text/plain']" in found["errors_are_documented"]
    assert "errors are not in the OpenAPI document" in found["errors_are_documented"]


def test_a_head_that_is_not_get_is_found() -> None:
    """Without `HeadAsGet` HEAD is 405; a cache in front that answers HEAD by itself may say something else, too."""

    class OwnHead:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            answer = PlainTextResponse("") if scope.get("method") == "HEAD" else self.app
            await answer(scope, receive, send)

    for fault, expected in (
        (Middleware(OwnHead), {"HEAD is 200 with 0 bytes, GET is 404", "HEAD has another content-type"}),
        (None, {"HEAD is 405 with 0 bytes, GET is 200", "HEAD is 405 with 0 bytes, GET is 404"}),
    ):
        app = new_pantry("duckdb:///:memory:another_head")
        others = [layer for layer in app.user_middleware if layer.cls is not HeadAsGet]
        assert len(others) == len(app.user_middleware) - 1
        app.user_middleware = [fault, *others] if fault else others
        with serving(app) as client:
            client.app = app  # type: ignore[attr-defined]
            found = " | ".join(findings(client, head_is_get_without_a_body))
        assert [wrong for wrong in expected if wrong not in found] == []


def test_a_post_without_its_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def silently(app: FastAPI, **options: Any) -> None:
        document = app.openapi
        install_idempotency(app, **options)
        app.openapi = document  # type: ignore[method-assign]

    def only_in_words(app: FastAPI, **options: Any) -> None:
        install_idempotency(app, **options)
        app.user_middleware.pop()

    for install, expected in (
        (silently, {"Idempotency-Key is not in the document", "409 is not in the document"}),
        (
            only_in_words,
            {"422 instead of 400", "a repeated request", "/problems/invalid-input instead of /problems/key"},
        ),
    ):
        monkeypatch.setattr("playbook.pantry.app.install_idempotency", install)
        app = new_pantry("duckdb:///:memory:without_keys")
        with serving(app) as client:
            client.app = app  # type: ignore[attr-defined]
            found = findings(client, a_post_says_that_it_takes_a_key_and_does)
        for path in ("POST /organizations: ", "POST /packages: "):
            its = " | ".join(wrong for wrong in found if wrong.startswith(path))
            assert [part for part in expected if part not in its] == []


def test_a_service_without_problems_breaks_nearly_every_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("install_problems", "install_strict_input", "install_idempotency"):
        monkeypatch.setattr(f"playbook.pantry.app.{name}", lambda app, **options: None)
    monkeypatch.setattr("playbook.pantry.app.complete_document", lambda app, complete: None)
    app = new_pantry("duckdb:///:memory:without_problems")
    with serving(app) as client:
        client.app = app  # type: ignore[attr-defined]
        broken = {rule.__name__ for rule in RULES if findings(client, rule)}
    assert broken == {rule.__name__ for rule in RULES} - {
        "head_is_get_without_a_body",
        "text_fields_that_come_in_are_bounded",
    }
