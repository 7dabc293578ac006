"""`better_auth_contract`: comparing by unification, and the table of deliberate differences."""

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.kit.data import data_path
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.recorded import DIFFERENCES, cookie_header, differences, unify, unify_cookie
from playbook.pantry.auth.sessions import Cookies
from playbook.pantry.settings import AuthFields
from tests.auth.conftest import Service

ID, OTHER = "01a19b7c-a680-7294-afb1-a1e31c33ba86", "01a19b7c-a680-7294-afb1-a1e31c33ba87"
TIME = "2026-11-02T09:00:00.000Z"
COOKIES = Cookies("a secret of this test, of more than 32 characters")
TOKEN = "session_" + "a" * 38
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=3),
    max_leaves=6,
)


def unlike(expected: Any, actual: Any, known: dict[str, str] | None = None) -> list[str]:
    return list(unify(expected, actual, {} if known is None else known))


@given(values)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_value_is_like_itself(value: Any) -> None:
    assert unlike(value, value) == []


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {}), ({}, {"a": 1}), ({"a": 1}, {"a": "1"}), (1, True), (None, ""), ("", None), ([], {}), ([1], []),
        ([1, 2], [1, 1]), ({"a": {"b": 1}}, {"a": {"b": 2}}), ("<ISO_MS_Z>", "2026-11-02T09:00:00Z"),
        ("<USER_ID:ada>", "ada"), ("<ID32>", None), ("<SESSION_TOKEN:ada#1>", TOKEN),
    ],
)  # fmt: skip
def test_what_is_not_as_recorded_is_said(expected: Any, actual: Any) -> None:
    assert unlike(expected, actual)


def test_a_name_stands_for_one_value() -> None:
    known: dict[str, str] = {}
    assert unlike({"id": "<USER_ID:ada>", "at": "<ISO_MS_Z now+7d>"}, {"id": ID, "at": TIME}, known) == []
    assert unlike("<USER_ID:ada>", ID, known) == []
    assert unlike("<USER_ID:ada>", OTHER, known)
    assert unlike("<USER_ID:bob>", OTHER, known) == []
    assert unlike("<ID32>", ID, known) == unlike("<ID32>", OTHER, known) == []
    assert known == {"<USER_ID:ada>": ID, "<USER_ID:bob>": OTHER}


def test_lists_have_no_order_and_nothing_to_spare() -> None:
    assert unlike([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]) == []
    assert unlike([{"a": 1}], [{"a": 1}, {"a": 1}])


RECORDED = "better-auth.session_token=<SESSION_TOKEN:ada#1>.<SIG>; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"


def test_a_cookie_is_compared_by_its_parts() -> None:
    good = COOKIES.put("session_token", TOKEN, 604800)

    def unlike_cookie(actual: str, known: dict[str, str] | None = None) -> list[str]:
        return list(unify_cookie(RECORDED, actual, {} if known is None else known, COOKIES))

    known: dict[str, str] = {}
    assert unlike_cookie(good, known) == []
    assert known == {"<COOKIE:ada#1>": TOKEN}
    for wrong in (
        good.replace("HttpOnly; ", ""),
        good.replace("Lax", "None"),
        good.replace("604800", "60"),
        good.replace("Path=/; HttpOnly", "HttpOnly; Path=/"),
        good.replace("%3D", ""),
        good.replace("better-auth", "x"),
        COOKIES.put("session_token", ID, 604800),
    ):
        assert unlike_cookie(wrong), wrong
    assert unlike_cookie(COOKIES.put("session_token", TOKEN.replace("a", "b"), 604800), known)


def test_a_cookie_header_is_signed_as_recorded() -> None:
    known = {"<COOKIE:ada#1>": TOKEN}
    name = "better-auth.session_token"
    assert cookie_header(f"{name}=<SESSION_TOKEN:ada#1>.<SIG>", known, COOKIES) == f"{name}={COOKIES.signed(TOKEN)}"
    for recorded in (f"{name}=<SESSION_TOKEN:ada#1>.<WRONG_SIG>", f"{name}=<SESSION_TOKEN:ada#1>"):
        assert COOKIES.read(cookie_header(recorded, known, COOKIES), "session_token") is None


def test_status_and_headers_are_compared() -> None:
    answered = {"status": 200, "headers": [["content-type", "application/json"]], "body": "null"}

    def found(status: int = 200, content: bytes = b"null", **headers: str) -> list[str]:
        got = httpx.Response(status, content=content, headers={"content-type": "application/json"} | headers)
        return list(differences(answered, got, {}, COOKIES))

    assert found() == []
    assert found(201)
    assert found(content=b"1")
    assert found(location="/x")
    assert found(**{"content-type": "text/plain"})
    assert found(**{"set-cookie": "a=b"})


def test_every_setting_of_the_table_exists() -> None:
    known = {name.upper() for name in AuthFields.model_fields}
    assert {d.setting for d in DIFFERENCES if d.setting} <= known
    assert len({d.what for d in DIFFERENCES}) == len(DIFFERENCES)


def test_the_recording_is_whole() -> None:
    import json

    exchanges = json.loads(data_path("better_auth.json").read_text(encoding="utf-8"))["exchanges"]
    assert {exchange["section"] for exchange in exchanges} == set(range(1, 23))
    assert {exchange["configuration"] for exchange in exchanges} == set("ABCDE")


def test_liveness(auth_service: Any) -> None:
    service: Service = auth_service()
    assert service.client.get("/api/auth/ok").json() == {"ok": True}
    assert better_auth(service.auth).state.auth is service.auth
