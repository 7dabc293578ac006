"""Pantry's side of Better Auth's recording: signed cookies, two tokens for one, the table of deliberate differences."""

from typing import Any

import httpx
import pytest

from playbook.auth.foreign_contract import match, response_of, unify
from playbook.kit.data import data_path
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.recorded import DIFFERENCES, InPantry, as_cookie, prepared
from playbook.pantry.auth.sessions import Cookies
from playbook.pantry.settings import AuthFields
from tests.auth.conftest import Service

ID, OTHER = "01a19b7c-a680-7294-afb1-a1e31c33ba86", "01a19b7c-a680-7294-afb1-a1e31c33ba87"
TIME = "2026-11-02T09:00:00.000Z"
COOKIES = Cookies("a secret of this test, of more than 32 characters")
TOKEN = "session_" + "a" * 38


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("<ISO_MS_Z>", "2026-11-02T09:00:00Z"), ("<USER_ID:ada>", "ada"), ("<ID32>", None),
        ("<SESSION_TOKEN:ada#1>", TOKEN), ("<COOKIE:ada#1>", ID), ("[body.email]<WORDS>", "[body.name] Invalid"),
    ],
)  # fmt: skip
def test_what_is_not_as_recorded_is_said(expected: Any, actual: Any) -> None:
    assert list(unify(expected, actual, InPantry("", COOKIES), "body"))


def test_a_name_stands_for_one_value() -> None:
    known = InPantry("http://pantry.test", COOKIES)
    recorded, answered = {"id": "<USER_ID:ada>", "at": "<ISO_MS_Z now+7d>"}, {"id": ID, "at": TIME}
    assert list(unify(recorded, answered, known, "body")) == []
    assert match("<USER_ID:ada>", ID, known)
    assert not match("<USER_ID:ada>", OTHER, known)
    assert match("<USER_ID:bob>", OTHER, known)
    assert match("<ID32>", ID, known)
    assert match("<ID32>", OTHER, known)
    assert known.values == {"BASE": "http://pantry.test", "USER_ID:ada": ID, "USER_ID:bob": OTHER}


RECORDED = "better-auth.session_token=<SESSION_TOKEN:ada#1>.<SIG>; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"


def test_a_cookie_is_compared_by_its_parts() -> None:
    good = COOKIES.put("session_token", TOKEN, 604800)
    recorded = as_cookie(RECORDED, COOKIES)

    known = InPantry("", COOKIES)
    assert match(recorded, good, known)
    assert known.values["COOKIE:ada#1"] == COOKIES.signed(TOKEN)
    for wrong in (
        good.replace("HttpOnly; ", ""),
        good.replace("Lax", "None"),
        good.replace("604800", "60"),
        good.replace("Path=/; HttpOnly", "HttpOnly; Path=/"),
        good.replace("%3D", ""),
        good.replace("better-auth", "x"),
        COOKIES.put("session_token", ID, 604800),
        Cookies("another secret, also of more than 32 characters").put("session_token", TOKEN, 604800),
    ):
        assert not match(recorded, wrong, InPantry("", COOKIES)), wrong
    assert not match(recorded, COOKIES.put("session_token", TOKEN.replace("a", "b"), 604800), known)


def test_a_cookie_header_is_signed_as_recorded() -> None:
    known = InPantry("", COOKIES)
    known.values["COOKIE:ada#1"] = COOKIES.signed(TOKEN)
    name = "better-auth.session_token"

    def sent(recorded: str) -> str:
        return known.fill(as_cookie(recorded, COOKIES))

    assert sent(f"{name}=<SESSION_TOKEN:ada#1>.<SIG>") == f"{name}={COOKIES.signed(TOKEN)}"
    assert sent(f"{name}=<SESSION_TOKEN:ada#1>") == f"{name}={TOKEN}"
    assert sent(f"{name}=AAAA.<SIG>") == f"{name}={COOKIES.signed('AAAA')}"
    for recorded in (f"{name}=<SESSION_TOKEN:ada#1>.<WRONG_SIG>", f"{name}=<SESSION_TOKEN:ada#1>"):
        assert COOKIES.read(sent(recorded), "session_token") is None


def test_status_headers_and_body_are_compared() -> None:
    response = {"status": 200, "headers": [["content-type", "application/json"]], "body": "null"}
    request = {"method": "GET", "path": "/", "headers": {}, "body": None}
    wanted = prepared({"section": 1, "label": "nobody", "request": request, "response": response}, COOKIES)

    def found(status: int = 200, content: bytes = b"null", **headers: str) -> list[str]:
        got = httpx.Response(status, content=content, headers={"content-type": "application/json"} | headers)
        return list(unify(wanted["response"], response_of(got), InPantry("", COOKIES), "answer"))

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
