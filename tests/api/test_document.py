"""The OpenAPI document says what the service does: a validator takes it, every operation is described, and for every
field the document and the service agree about which values are good.
"""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from before_sign_in import pantry as open_pantry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from playbook.api.errors import PROBLEM_JSON
from playbook.auth.mail import MemorySender
from playbook.foundations.deny_by_default import refuse_undeclared
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.http import DOCUMENTATION, current_caller
from playbook.pantry.settings import Settings

Json = dict[str, Any]


def document(**changes: Any) -> Json:
    given = {"environment": "test", "database_url": "duckdb:///:memory:document"}
    app = pantry(Settings(**given | changes), sender=MemorySender())
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    return app.openapi()


def operations(said: Json) -> Iterator[tuple[str, Json]]:
    for path, item in said["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


@pytest.fixture(scope="module")
def said() -> Json:
    return document()


def faults(said: Json) -> list[str]:
    return [error.message for error in OpenAPIV31SpecValidator(said).iter_errors()]


def test_a_validator_finds_nothing(said: Json) -> None:
    assert faults(said) == []


def test_the_validator_would_find_a_default_that_breaks_its_own_rule(said: Json) -> None:
    broken = json.loads(json.dumps(said))
    broken["components"]["schemas"]["OrganizationPatch"]["properties"]["name"]["default"] = ""
    assert faults(broken) != []


def test_nothing_that_may_be_left_out_of_a_body_has_a_default(said: Json) -> None:
    """A default reads as "always there" to generators; here it means "left out is a value", which it is not."""
    bodies = {
        content["schema"]["$ref"].rsplit("/", 1)[1]
        for _, operation in operations(said)
        for content in operation.get("requestBody", {}).get("content", {}).values()
    }
    read = {"NewOrganization", "OrganizationPatch", "NewPackage", "PackagePatch", "NewToken", "GraphQuery"}
    assert bodies == read
    for name in bodies:
        for field, schema in said["components"]["schemas"][name]["properties"].items():
            assert "default" not in schema, f"{name}.{field}"


def test_what_is_always_in_an_answer_is_required(said: Json) -> None:
    for name, schema in said["components"]["schemas"].items():
        if name.endswith(("Out", "Page")):
            assert set(schema["required"]) == set(schema["properties"]), name
    assert {"type", "title", "status", "request_id"} <= set(said["components"]["schemas"]["Problem"]["required"])


def test_every_operation_is_described(said: Json) -> None:
    declared = {tag["name"] for tag in said["tags"]}
    for name, operation in operations(said):
        assert operation["summary"], name
        assert len(operation["description"]) > 20, name
        assert set(operation["tags"]) <= declared, name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{name}: {parameter['name']}"
            assert "null" not in json.dumps(parameter["schema"]), f"{name}: a {parameter['in']} cannot say null"
        for status, answer in operation["responses"].items():
            assert answer["description"], f"{name} {status}"
            assert "X-Request-Id" in answer["headers"], f"{name} {status}"
            assert status in ("200", "201", "204", "304") or list(answer["content"]) == [PROBLEM_JSON]
    for word in ("Origin", "If-Match", "ETag", "Idempotency-Key", "application/json", "/api/auth/sign-in/email"):
        assert word in said["info"]["description"]


def test_each_operation_says_who_may_call_it(said: Json) -> None:
    open_to_all = {name for name, operation in operations(said) if operation["security"] == []}
    assert open_to_all == {"GET /health", "GET /ready", "GET /problems/{slug}"}
    for name, operation in operations(said):
        headers = {p["name"] for p in operation.get("parameters", []) if p["in"] == "header"}
        if name not in open_to_all:
            session, *token = operation["security"]
            assert session == {"session": []}, name
            assert [[*each] for each in token] == ([] if " /tokens" in name else [["token"]]), name
            assert "401" in operation["responses"], name
            assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
        assert ("Origin" in headers) == (not name.startswith("GET")), name
        if name == "DELETE /tokens/{token_id}":  # nothing of a token changes, so there is nothing to overlook
            assert "If-Match" not in headers
            assert {"403", "404"} <= operation["responses"].keys()
        elif name.startswith(("PATCH", "DELETE")):
            assert "If-Match" in headers, name
            assert {"403", "404", "412", "428"} <= operation["responses"].keys(), name
        if name.startswith("POST"):
            assert ("Idempotency-Key" in headers) == (name != "POST /tokens")
            if name != "POST /graphql":  # it creates nothing
                assert "Location" in operation["responses"]["201"]["headers"]
        if name.startswith("PATCH"):
            content = operation["requestBody"]["content"]
            assert content["application/json"] == content["application/merge-patch+json"]


def test_each_operation_says_what_scope_a_token_needs(said: Json) -> None:
    needed = {name: token[0]["token"] for name, o in operations(said) if (token := o["security"][1:])}
    assert needed["GET /packages"] == ["packages:read"]
    assert needed["POST /packages"] == ["packages:create"]
    assert needed["DELETE /organizations/{slug}"] == ["organizations:delete"]
    assert {name: scopes for name, scopes in needed.items() if len(scopes) != 1} == {
        "POST /graphql": ["organizations:read", "packages:read"],  # it can show both
        "PATCH /packages/{name}": ["packages:read", "packages:write"],  # whose answer shows it
        "DELETE /packages/{name}": ["packages:delete", "packages:read"],  # compared with If-Match
    }
    scheme = said["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "better-auth.session_token"),
        ({"base_url": "https://pantry.example"}, "__Secure-better-auth.session_token"),
        ({"base_url": "https://pantry.example", "host_cookies": True}, "__Host-better-auth.session_token"),
    ],
)
def test_the_cookie_has_the_name_that_the_service_sets(changes: Json, name: str) -> None:
    scheme = document(**changes)["components"]["securitySchemes"]["session"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", name)
    app = pantry(
        Settings(
            environment="test", database_url="duckdb:///:memory:cookie", require_email_verification=False, **changes
        ),
        sender=MemorySender(),
    )
    origin = changes.get("base_url", "http://localhost:8000")
    ada = {"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}
    with serving(app) as client:
        cookies = client.post("/api/auth/sign-up/email", json=ada, headers={"origin": origin}).headers["set-cookie"]
        assert cookies.startswith(f"{name}=")
        value = cookies.split(";")[0]
        assert client.get("/packages", headers={"cookie": value}).status_code == 200
        assert client.get("/packages", headers={"cookie": f"x{value}"}).status_code == 401


# ---------------------------------------------------------------- the document and the service agree about each value

LETTERS = "aA0zZ9-._ \t\n\r\x00\x01\x1b\x1f\x7f\x80\x85\x9f\xa0é\u0130\u1680\u2003\u200b\u200d\u200e\u2028\u2029"
LETTERS += "\u202e\u3000\ufeff😀"
TEXTS = [
    *LETTERS, "", "ab", "a-b", "a--b", "-ab", "ab-", "Ab", "AB", "ab\n", "\nab", " ab", "ab ", "a b", "a_b", "a.b",
    "a/b", "  ", "\u200b\u200b", " \u3000", "a\x00b", "a\x1bb", "a\u2028b", "e\u0301x", "\u00e9x", "a" * 39, "a" * 40,
    "a" * 41, "a" * 99, "a" * 100, "a" * 101, " " * 99 + "a", " " * 100 + "a", "a" * 100 + " ", "😀" * 100, "😀" * 101,
    "a" * 2000, "a" * 2001, "😀" * 2000, "😀" * 2001, "\n" * 2000,
]  # fmt: skip
OTHERS = [None, True, 0, 1.5, [], {}, ["ab"], {"a": "b"}]
BODIES = {  # an operation, the rest of a good body, and how it is asked
    "NewOrganization": ("POST", "/organizations", {"slug": "acme", "name": "Acme"}),
    "OrganizationPatch": ("PATCH", "/organizations/mirror", {}),
    "NewPackage": ("POST", "/packages", {"name": "tool", "organization": "mirror"}),
    "PackagePatch": ("PATCH", "/packages/tool", {}),
    "NewToken": ("POST", "/tokens", {"name": "CI", "scopes": ["packages:read"], "days": 1}),
}


@pytest.fixture(scope="module")
def client() -> Iterator[LiveClient]:
    app = open_pantry(Settings(environment="test", database_url="duckdb:///:memory:document_agrees"))
    with serving(app) as client:
        client.post("/packages", json={"name": "tool", "organization": "mirror"})
        client.said = app.openapi()  # type: ignore[attr-defined]
        yield client


def disagreement(client: LiveClient, name: str, body: Any) -> str:
    """Empty when the service takes `body` if and only if the document says that it is good."""
    said = client.said  # type: ignore[attr-defined]
    schema = {**said["components"]["schemas"][name], "components": said["components"]}
    good = jsonschema_rs.validator_for(schema).is_valid(body)
    method, path, _ = BODIES[name]
    headers = {"if-match": "*", "content-type": "application/json"}
    status = client.request(method, path, content=json.dumps(body), headers=headers).status_code
    taken = status in (200, 201, 409)  # 409: the name is taken, or there is no such organization; the value is good
    return "" if taken == good and status in (200, 201, 400, 409, 422) else f"{status} for {body!r:.80}, valid: {good}"


@pytest.mark.parametrize("name", BODIES)
def test_every_field_takes_what_the_document_says(client: LiveClient, name: str) -> None:
    fields = client.said["components"]["schemas"][name]["properties"]  # type: ignore[attr-defined]
    rest = BODIES[name][2]
    found = [
        wrong
        for field in fields
        for value in [*TEXTS, *OTHERS]
        if (wrong := disagreement(client, name, {**rest, field: value}))
    ]
    left_out = [{k: v for k, v in rest.items() if k != field} for field in fields]
    found += [
        wrong for body in [*left_out, {**rest, "colour": 1}, *OTHERS] if (wrong := disagreement(client, name, body))
    ]
    assert found == []


@pytest.mark.parametrize("name", BODIES)
def test_no_text_is_found_about_which_they_disagree(client: LiveClient, name: str) -> None:
    fields = sorted(client.said["components"]["schemas"][name]["properties"])  # type: ignore[attr-defined]

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(fields), st.one_of(st.text(LETTERS, max_size=6), st.text(max_size=8)))
    def agrees(field: str, value: str) -> None:
        assert disagreement(client, name, {**BODIES[name][2], field: value}) == ""

    agrees()


def test_half_a_surrogate_pair_is_refused_in_every_field(client: LiveClient) -> None:
    """No schema can say it: such a text is no Unicode, and no validator gets to see it."""
    for name, (method, path, rest) in BODIES.items():
        for field in client.said["components"]["schemas"][name]["properties"]:  # type: ignore[attr-defined]
            body = json.dumps({**rest, field: "a\ud800"})
            answer = client.request(
                method, path, content=body, headers={"if-match": "*", "content-type": "application/json"}
            )
            assert answer.status_code == 400, (name, field)


QUERIES = {
    "limit": ["1", "100", "0", "101", "-1", "", "x", "1.5", "1_0", "+5", " 5", "05", "5.0", "1e1", "\u0665", "0x5"],
    "sort": ["updated", "-updated", "", "Updated", "version", "updated "],
    "organization": ["mirror", "", "a" * 100, "a" * 101, "😀" * 100],
}  # fmt: skip


def test_every_query_parameter_takes_what_the_document_says(client: LiveClient) -> None:
    said, found = client.said, []  # type: ignore[attr-defined]
    for path in ("/organizations", "/packages"):
        for parameter in said["paths"][path]["get"]["parameters"]:
            for value in QUERIES.get(parameter["name"], []) if parameter["in"] == "query" else []:
                schema, read = parameter["schema"], value
                if schema.get("type") == "integer":
                    read = int(value) if value.isascii() and value.lstrip("-").isdigit() else value
                good = jsonschema_rs.validator_for(schema).is_valid(read)
                status = client.get(path, params={parameter["name"]: value}).status_code
                if (status == 200) != good or status not in (200, 422):
                    found.append(f"{path}?{parameter['name']}={value[:20]}: {status}, valid: {good}")
    assert found == []
