"""What the recipe promises: what agrees is never found, what differs always is, whatever the document's form.

Needs pytest, hypothesis, httpx and jsonschema.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.api.contract import (
    Exchange,
    Json,
    closed,
    find_answer,
    find_operation,
    resolved,
    undocumented,
)

CUSTOMER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "phone": {"type": ["string", "null"]},
        "orders": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
    },
    "required": ["name", "phone"],
}
ORDER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
PROBLEM = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


def body(schema: Json, media_type: str = "application/json") -> Json:
    return {"description": "said", "content": {media_type: {"schema": schema}}}


DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {"title": "A shop", "version": "1"},
    "paths": {
        "/customers/{id}": {
            "get": {
                "responses": {
                    "200": body({"$ref": "#/components/schemas/Customer"}),
                    "4XX": {"$ref": "#/components/responses/Problem"},
                }
            },
            "delete": {"responses": {"204": {"description": "gone"}}},
            "post": {"responses": {"201": {"description": "any", "content": {"application/json": {}}}}},
        },
        "/customers/newest": {
            "get": {"responses": {"200": body({"type": "string"}), "default": body({}, "text/plain")}}
        },
        "/customers/stream": {"get": {"responses": {"200": body({}, "application/x-ndjson")}}},
        "/customers/{id}/orders/{number}.pdf": {"get": {"responses": {"200": body({}, "application/pdf")}}},
    },
    "components": {
        "schemas": {"Customer": CUSTOMER, "Order": ORDER, "Problem": PROBLEM},
        "responses": {"Problem": body({"$ref": "#/components/schemas/Problem"}, "application/problem+json")},
    },
}
ADA = {"name": "Ada", "phone": None, "orders": [{"number": 1}]}


def said(value: Any, path: str = "/customers/7", status: int = 200, media_type: str = "application/json") -> Exchange:
    return Exchange("GET", path, status, media_type, json.dumps(value).encode())


# ---------------------------------------------------------------- which operation, which answer


@pytest.mark.parametrize(
    ("asked", "template"),
    [
        ("GET /customers/7", "/customers/{id}"),
        ("GET /customers/7?full=1/2", "/customers/{id}"),
        ("GET /customers/newest", "/customers/newest"),
        ("DELETE /customers/newest", "/customers/{id}"),
        ("GET /customers/7/orders/8.pdf", "/customers/{id}/orders/{number}.pdf"),
        ("GET /customers/7/orders/8xpdf", None),
        ("GET /customers/", None),
        ("GET /customers/7/", None),
        ("GET /customers/7/8", None),
        ("PUT /customers/7", None),
        ("GET /customer/7", None),
        ("PARAMETERS /customers/7", None),
    ],
)
def test_a_request_finds_its_operation(asked: str, template: str | None) -> None:
    method, path = asked.split()
    expected = template and DOCUMENT["paths"][template][method.lower()]
    assert find_operation(DOCUMENT, method, path) is expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="/?\r\n"), min_size=1))
def test_any_text_without_a_slash_fills_a_place(name: str) -> None:
    expected = DOCUMENT["paths"]["/customers/newest" if name == "newest" else "/customers/{id}"]["get"]
    assert find_operation(DOCUMENT, "GET", f"/customers/{name}") is expected


def test_an_exact_status_comes_before_its_class_and_the_default() -> None:
    answers = {"404": {}, "4XX": {"a": 1}, "default": {"b": 2}}
    operation = {"responses": answers}
    found = [find_answer(DOCUMENT, operation, status) for status in (404, 409, 500)]
    assert [one is answers[name] for one, name in zip(found, ("404", "4XX", "default"), strict=True)] == [True] * 3
    assert find_answer(DOCUMENT, {"responses": {"200": {}}}, 201) is None


def test_a_reference_to_a_reference_is_followed() -> None:
    document = {"components": {"a": {"$ref": "#/components/b"}, "b": {"c": 1}}}
    assert resolved(document, {"$ref": "#/components/a"}) == {"c": 1}
    with pytest.raises(KeyError):
        resolved(document, {"$ref": "#/components/nothing"})


# ---------------------------------------------------------------- what agrees, and what does not

orders = st.lists(st.builds(lambda number: {"number": number}, st.integers()), max_size=3)
customers = st.fixed_dictionaries({"name": st.text(), "phone": st.none() | st.text()}, optional={"orders": orders})


@given(customers)
def test_what_the_document_describes_is_never_found(customer: Json) -> None:
    assert undocumented(DOCUMENT, said(customer)) == []


@given(customers, st.sampled_from(["name", "phone"]), st.data())
def test_a_member_that_is_gone_renamed_or_of_another_kind_is_found(
    customer: Json, name: str, data: st.DataObject
) -> None:
    value = customer.pop(name)
    for wrong in ({}, {f"{name}_": value}, {name: data.draw(st.integers() | st.lists(st.none()) | st.booleans())}):
        assert undocumented(DOCUMENT, said({**customer, **wrong})) != []


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        (said(ADA), []),
        (said(ADA, "/customers/7?full=1"), []),
        (said({**ADA, "vip": True}), ["$: Additional properties are not allowed ('vip' was unexpected)"]),
        (said({**ADA, "orders": [{"number": "1"}]}), ["$.orders[0].number: '1' is not of type 'integer'"]),
        (
            said({**ADA, "orders": [{"number": 1, "paid": 1}]}),
            ["$.orders[0]: Additional properties are not allowed ('paid' was unexpected)"],
        ),
        (said({"phone": 5}), ["$.phone: 5 is not of type 'string', 'null'", "$: 'name' is a required property"]),
        (said({"title": "No"}, status=404, media_type="application/problem+json"), []),
        (said({"title": 4}, status=409, media_type="application/problem+json"), ["$.title: 4 is not of type 'string'"]),
        (said({"title": "No"}, status=404), "GET /customers/7: 404 with application/json"),
        (said({}, status=500), "GET /customers/7: status 500"),
        (said({}, "/nothing"), "GET /nothing: no such operation"),
        (Exchange("GET", "/customers/7", 200, "application/json", b"{"), ["no JSON"]),
        (Exchange("GET", "/customers/7", 200, "application/json", b"\xff"), ["no JSON"]),
        (Exchange("GET", "/customers/7", 200, "application/json", b""), "GET /customers/7: 200 with no body"),
        (Exchange("POST", "/customers/7", 201, "application/json", b'{"any": 1}'), []),
        (Exchange("DELETE", "/customers/7", 204, "", b""), []),
        (Exchange("DELETE", "/customers/7", 204, "application/json", b""), []),
        (Exchange("DELETE", "/customers/7", 204, "text/plain", b"gone"), "DELETE /customers/7: 204 with text/plain"),
        (Exchange("GET", "/customers/newest", 503, "text/plain", b"\xff{"), []),
        (Exchange("GET", "/customers/7/orders/8.pdf", 200, "application/pdf", b"%PDF"), []),
        (Exchange("GET", "/customers/stream", 200, "application/x-ndjson", b"{}\n{}\n"), []),
    ],
)
def test_each_kind_of_difference_is_named(exchange: Exchange, expected: list[str] | str) -> None:
    start = f"{exchange.method} {exchange.path.split('?')[0]}: {exchange.status} "
    wanted = [expected] if isinstance(expected, str) else [start + fault for fault in expected]
    assert sorted(undocumented(DOCUMENT, exchange)) == sorted(wanted)


def test_the_document_is_not_changed() -> None:
    before = copy.deepcopy(DOCUMENT)
    undocumented(DOCUMENT, said(ADA))
    assert before == DOCUMENT


def test_older_documents_are_refused() -> None:
    for version in ("3.0.3", "2.0"):
        with pytest.raises(ValueError, match=f"OpenAPI {version}: make a document of 3.1"):
            undocumented(DOCUMENT | {"openapi": version}, said(ADA))


def test_an_object_that_says_what_more_it_may_have_stays_as_it_is() -> None:
    free = {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}
    names = {"type": "object", "properties": {"properties": {"type": "string"}}}
    assert closed(free) == free
    assert closed({"type": "object"}) == {"type": "object"}
    assert closed([names])[0]["additionalProperties"] is False
    document = copy.deepcopy(DOCUMENT)
    document["components"]["schemas"]["Customer"] = free
    assert undocumented(document, said({"a": 1})) == []
    assert undocumented(document, said({"a": "1"})) != []


# ---------------------------------------------------------------- in a project's own tests


def keep_contract(client: httpx.Client, document: Json) -> None:
    def check(response: httpx.Response) -> None:
        response.read()
        media_type = response.headers.get("content-type", "").split(";")[0]
        request = response.request
        said = (request.method, request.url.path, response.status_code)
        exchange = Exchange(*said, media_type, response.content)
        assert undocumented(document, exchange) == []

    client.event_hooks["response"].append(check)


def answers(**options: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(options.pop("status", 200), **options)


def test_a_client_with_the_hook_checks_every_answer() -> None:
    with httpx.Client(transport=httpx.MockTransport(answers(json=ADA)), base_url="http://shop.example") as client:
        keep_contract(client, DOCUMENT)
        assert client.get("/customers/7?full=1").json() == ADA
        with pytest.raises(AssertionError, match="no such operation"):
            client.get("/customers")
    wrong = httpx.MockTransport(answers(text="Ada"))
    with httpx.Client(transport=wrong, base_url="http://shop.example") as client:
        keep_contract(client, DOCUMENT)
        with pytest.raises(AssertionError, match="200 with text/plain"):
            client.get("/customers/7")
