"""The published document is the service's: `docs/openapi.json` is up to date, real answers agree with it, and what
would break a client is named.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from before_sign_in import pantry as open_pantry

from playbook.api.contract import Exchange, find_operation, undocumented
from playbook.kit.cli import main
from playbook.kit.data import ROOT
from playbook.kit.live import LiveClient, serving
from playbook.pantry.published import breaking_changes, document
from playbook.pantry.settings import Settings

Json = dict[str, Any]
PUBLISHED = ROOT / "docs" / "openapi.json"
MAKE = "playbook openapi > docs/openapi.json"


def test_the_published_document_is_that_of_the_service() -> None:
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    broken = breaking_changes(published, document())
    assert broken == [], f"clients of the published contract break; if they may, say so in the commit, then: {MAKE}"
    assert published == document(), f"nothing breaks a client; publish the change: {MAKE}"


def test_the_command_prints_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["openapi"])
    assert capsys.readouterr().out == PUBLISHED.read_text(encoding="utf-8")


# ---------------------------------------------------------------- the answers of the service


@pytest.fixture
def client(url: str) -> Iterator[LiveClient]:
    with serving(open_pantry(Settings(environment="test", database_url=url))) as client:
        yield client


def story(client: LiveClient) -> None:
    """Every operation, with success and with what clients do wrong."""
    tag = {"if-match": "*"}
    client.post("/organizations", json={"slug": "acme", "name": "Acme"})
    client.post("/organizations", json={"slug": "acme", "name": "Acme"})
    client.post("/organizations", json={"slug": "ACME", "name": ""})
    client.post("/organizations", content="{", headers={"content-type": "application/json"})
    client.post("/organizations", content="<x/>", headers={"content-type": "text/xml"})
    client.post("/packages", json={"name": "Anvil.Tools", "organization": "acme"})
    client.post("/packages", json={"name": "anvil", "organization": "nobody-here"})
    for path, name in (("/organizations", "acme"), ("/packages", "anvil-tools")):
        listed = client.get(path, params={"limit": 1})
        client.get(path, headers={"if-none-match": listed.headers["etag"]})
        client.get(path, params={"limit": 0})
        client.get(path, params={"cursor": "none"})
        client.get(path, headers={"accept": "text/html"})
        one = client.get(f"{path}/{name}")
        client.get(f"{path}/{name}", headers={"if-none-match": one.headers["etag"]})
        client.get(f"{path}/{name}", headers={"if-match": '"other"'})
        client.get(f"{path}/no-such-thing")
        client.patch(f"{path}/{name}", json={}, headers=tag)
        client.patch(f"{path}/{name}", json={})
        client.patch(f"{path}/{name}", json={}, headers={"if-match": '"other"'})
        client.patch(f"{path}/{name}", json={"colour": 1}, headers=tag)
        client.delete(f"{path}/{name}")
        client.delete(f"{path}/no-such-thing", headers=tag)
    client.post("/graphql", json={"query": "{ packages(first: 1) { nodes { name } } }"})
    client.post("/graphql", json={"query": "{ nothing }"})
    client.post("/graphql", json={"query": 1})
    made = client.post("/tokens", json={"name": "CI", "scopes": ["packages:read"], "days": 1}).json()
    client.post("/tokens", json={"name": "CI", "scopes": ["everything"], "days": 0})
    client.get("/tokens")
    for token in (made["id"], made["id"], "none"):
        client.get(f"/tokens/{token}")
        client.delete(f"/tokens/{token}")
    client.delete("/organizations/acme", headers=tag)
    client.delete("/packages/anvil-tools", headers=tag)
    client.delete("/organizations/acme", headers=tag)
    for path in ("/health", "/ready", "/problems/conflict", "/problems/nothing"):
        client.get(path)


def exchanges(client: LiveClient) -> list[Exchange]:
    return [
        Exchange(
            one.method, one.path, one.status, one.response_headers.get("content-type", "").split(";")[0],
            one.response_body,
        )
        for one in client.exchanges
    ]  # fmt: skip


def test_every_answer_is_as_the_document_says(client: LiveClient) -> None:
    said = client.get("/openapi.json").json()
    client.exchanges.clear()
    story(client)
    assert [fault for one in exchanges(client) for fault in undocumented(said, one)] == []
    assert {fault for one in exchanges(client) for fault in undocumented(without_defaults(said), one)} == set()
    shown = {(one.method, id(find_operation(said, one.method, one.path))): one.status for one in exchanges(client)}
    operations = {(method.upper(), id(one)) for item in said["paths"].values() for method, one in item.items()}
    assert shown.keys() == operations
    statuses = {one.status for one in exchanges(client)}
    assert statuses == {200, 201, 204, 304, 400, 404, 406, 409, 412, 415, 422, 428}


def without_defaults(said: Json) -> Json:
    """The document without `default`, which would cover every status."""
    said = copy.deepcopy(said)
    for item in said["paths"].values():
        for operation in item.values():
            operation["responses"].pop("default", None)
    return said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: schemas(said)["PackageOut"]["properties"].pop("summary"), "'summary' was unexpected"),
        (lambda said: schemas(said)["OrganizationOut"]["properties"].update(name={"type": "null"}), "$.name: 'Acme'"),
        (lambda said: schemas(said)["Problem"]["required"].append("help"), "'help' is a required property"),
        (lambda said: said["paths"]["/packages"]["post"]["responses"].pop("409"), "POST /packages: status 409"),
        (lambda said: said["paths"].pop("/ready"), "GET /ready: no such operation"),
    ],
)
def test_a_document_that_says_something_else_is_found(change: Callable[[Json], Any], words: str) -> None:
    with serving(open_pantry(Settings(environment="test", database_url="duckdb:///:memory:published_lies"))) as client:
        said = without_defaults(client.get("/openapi.json").json())
        client.exchanges.clear()
        change(said)
        story(client)
        assert words in "\n".join(fault for one in exchanges(client) for fault in undocumented(said, one))


def schemas(said: Json) -> Json:
    found: Json = said["components"]["schemas"]
    return found


# ---------------------------------------------------------------- what breaks a client


def operation(said: Json, name: str) -> Json:
    method, path = name.split()
    found: Json = said["paths"][path][method.lower()]
    return found


def parameter(said: Json, name: str, named: str) -> Json:
    [found] = [one for one in operation(said, name)["parameters"] if one["name"] == named]
    assert isinstance(found, dict)
    return found


def rename(members: Json, old: str, new: str) -> None:
    members["properties"][new] = members["properties"].pop(old)
    members["required"] = [new if name == old else name for name in members["required"]]


BREAKS: list[tuple[Callable[[Json], Any], list[str]]] = [
    (lambda d: d["paths"].pop("/ready"), ["GET /ready: it is gone"]),
    (lambda d: d["paths"]["/packages/{name}"].pop("delete"), ["DELETE /packages/{name}: it is gone"]),
    (
        lambda d: operation(d, "GET /packages")["parameters"].append(
            {"name": "since", "in": "query", "required": True, "schema": {"type": "string"}}
        ),
        ["GET /packages: query since: it is required now"],
    ),
    (
        lambda d: parameter(d, "POST /packages", "Idempotency-Key").update(required=True),
        ["POST /packages: header Idempotency-Key: it is required now"],
    ),
    (
        lambda d: operation(d, "GET /packages")["parameters"].remove(parameter(d, "GET /packages", "organization")),
        ["GET /packages: query organization: it is gone"],
    ),
    (
        lambda d: parameter(d, "GET /packages", "sort")["schema"]["enum"].remove("popularity"),
        ["GET /packages: query sort: 'popularity' is not taken any more"],
    ),
    (
        lambda d: parameter(d, "GET /packages", "cursor")["schema"].update(enum=["first"]),
        ["GET /packages: query cursor: what is not listed is not taken any more"],
    ),
    (lambda d: operation(d, "POST /packages")["responses"].pop("409"), ["POST /packages: 409: it is gone"]),
    (
        lambda d: operation(d, "POST /packages")["responses"]["201"]["headers"].pop("Location"),
        ["POST /packages: 201: header Location: it is gone"],
    ),
    (
        lambda d: operation(d, "PATCH /packages/{name}")["requestBody"]["content"].pop("application/json"),
        ["PATCH /packages/{name}: body application/json: it is gone"],
    ),
    (lambda d: schemas(d)["NewPackage"]["properties"].pop("summary"), ["POST /packages: body: summary: it is gone"]),
    (
        lambda d: schemas(d)["NewPackage"]["required"].append("summary"),
        ["POST /packages: body: summary: it is required now"],
    ),
    (
        lambda d: schemas(d)["NewPackage"]["properties"].update(summary={"type": "string"}),
        ["POST /packages: body: summary: null is not taken any more"],
    ),
    (
        lambda d: rename(schemas(d)["NewPackage"], "organization", "owner"),
        ["POST /packages: body: organization: it is gone", "POST /packages: body: owner: it is required now"],
    ),
    (
        lambda d: schemas(d)["OrganizationPage"]["properties"].pop("complete"),
        ["GET /organizations: 200: complete: it is gone"],
    ),
    (
        lambda d: schemas(d)["OrganizationPage"]["required"].remove("complete"),
        ["GET /organizations: 200: complete: it is not always there any more"],
    ),
    (
        lambda d: schemas(d)["PackagePage"]["properties"]["complete"].update(type=["boolean", "null"]),
        ["GET /packages: 200: complete: null is possible now"],
    ),
    (
        lambda d: operation(d, "GET /health").update(security=[{"session": []}]),
        ["GET /health: it asks for session now"],
    ),
    (
        lambda d: operation(d, "GET /problems/{slug}")["parameters"][0]["schema"]["enum"].remove("conflict"),
        ["GET /problems/{slug}: path slug: 'conflict' is not taken any more"],
    ),
]


@pytest.mark.parametrize(("change", "expected"), BREAKS)
def test_what_breaks_a_client_is_named(change: Callable[[Json], Any], expected: list[str]) -> None:
    new = document()
    change(new)
    assert breaking_changes(document(), new) == expected


def test_a_member_deep_in_a_list_is_found_in_every_answer_that_has_it() -> None:
    new = document()
    rename(schemas(new)["PackageOut"], "summary", "about")
    found = breaking_changes(document(), new)
    assert {re.sub(r"^\w+ ", "", one) for one in found} == {
        "/packages: 200: items[]: summary: it is gone", "/packages: 201: summary: it is gone",
        "/packages/{name}: 200: summary: it is gone",
    }  # fmt: skip
    assert len(found) == 4


HARMLESS: list[Callable[[Json], Any]] = [
    lambda d: d["paths"].update({"/new": {"get": {"responses": {"200": {"description": "New."}}}}}),
    lambda d: operation(d, "GET /packages")["parameters"].append(
        {"name": "since", "in": "query", "schema": {"type": "string"}}
    ),
    lambda d: parameter(d, "GET /packages", "sort")["schema"]["enum"].append("size"),
    lambda d: parameter(d, "PATCH /packages/{name}", "If-Match").update(required=False),
    lambda d: schemas(d)["NewPackage"]["properties"].update(colour={"type": "string"}),
    lambda d: schemas(d)["NewPackage"]["required"].remove("organization"),
    lambda d: schemas(d)["PackageOut"]["properties"].update(size={"type": "integer"}),
    lambda d: schemas(d)["Problem"]["required"].append("detail"),
    lambda d: schemas(d)["PackageOut"]["properties"].update(summary={"type": "string"}),
    lambda d: operation(d, "POST /packages")["responses"].update({"402": {"description": "Pay."}}),
    lambda d: d["info"].update(description="Other words."),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_what_only_adds_breaks_nobody(change: Callable[[Json], Any]) -> None:
    new = document()
    change(new)
    assert new != document()
    assert breaking_changes(document(), new) == []


@pytest.mark.parametrize("change", HARMLESS[2:9])
def test_what_was_added_cannot_be_taken_away(change: Callable[[Json], Any]) -> None:
    old = document()
    change(old)
    assert breaking_changes(old, document()) != []
