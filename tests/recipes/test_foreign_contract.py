"""What the recipe promises, with a shop's orders. Needs pytest and fastapi (for its test client)."""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from playbook.auth.foreign_contract import (
    Deviation,
    Known,
    mask,
    match,
    record,
    replay,
    response_of,
    unify,
)

FORMS = {"ORDER": r"ord_[0-9a-f]{8}", "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"}
NUMBERS = itertools.count(0x10000000)
SECONDS = itertools.count(10)


def shop(**changed: Any) -> FastAPI:
    """A shop that answers with new ids and times in each run. `changed`: what it does otherwise."""
    app, orders = FastAPI(), dict[str, dict[str, str]]()

    @app.post("/orders", status_code=201)
    async def post(request: Request, response: Response) -> Any:
        key = f"ord_{next(NUMBERS):x}"
        orders[key] = {"item": (await request.json())["item"], "placed": f"2026-11-02T09:00:{next(SECONDS) % 60:02}Z"}
        response.headers["location"] = f"/orders/{key}"
        response.set_cookie("last", key)
        return {"id": key} | orders[key] | changed.get("more", {})

    @app.get("/orders/{key}")
    def read(key: str, request: Request) -> Any:
        if key not in orders:
            return Response(status_code=changed.get("gone", 404))
        return {"id": key, "mine": request.cookies.get("last") == key} | orders[key]

    @app.get("/orders")
    def every() -> Any:
        listed = [{"id": key} | order for key, order in orders.items()]
        return listed[::-1] if changed.get("turned") else listed + changed.get("surplus", [])

    @app.delete("/orders/{key}", status_code=204)
    def delete(key: str) -> None:
        if not changed.get("keeps"):
            orders.pop(key, None)

    return app


def story(client: httpx.Client) -> None:
    first = client.post("/orders", json={"item": "coffee"})
    second = client.post("/orders", json={"item": "tea"}).json()["id"]
    client.get(first.headers["location"])
    client.get("/orders")
    client.delete(f"/orders/{second}")
    client.get(f"/orders/{second}")


def recorded() -> list[dict[str, Any]]:
    return mask(record(TestClient(shop()), story), FORMS, unnamed={"TIME"})


def against(deviations: dict[str, Deviation] | None = None, **changed: Any) -> dict[str, list[str]]:
    return replay(TestClient(shop(**changed)), recorded(), Known(FORMS), deviations or {})


def unlike(expected: Any, actual: Any, known: Known | None = None) -> list[str]:
    return list(unify(expected, actual, known or Known(FORMS), "body"))


# ---------------------------------------------------------------- record and mask


def test_a_recording_holds_what_was_asked_and_answered() -> None:
    raw = record(TestClient(shop()), story)
    assert [one["label"].split("/")[1].split("_")[0] for one in raw] == ["orders"] * 6
    assert raw[0]["request"]["method"] == "POST"
    assert json.loads(raw[0]["request"]["content"]) == {"item": "coffee"}
    assert raw[0]["request"]["headers"] == {"content-type": "application/json"}
    assert "cookie" in raw[2]["request"]["headers"]
    assert raw[0]["response"]["status"] == 201
    assert raw[5]["response"] == {"status": 404, "headers": [], "body": ""}
    assert not any("content-length" in line for one in raw for line in one["response"]["headers"])


def test_after_the_story_the_client_records_nothing() -> None:
    client = TestClient(shop())
    raw = record(client, story)
    client.get("/orders")
    assert len(raw) == 6
    assert client.event_hooks["response"] == []


def test_no_value_made_by_chance_is_left_and_equal_ones_have_one_name() -> None:
    text = json.dumps(recorded())
    assert not re.search("|".join(FORMS.values()), text)
    assert set(re.findall("<ORDER:[0-9]+>", text)) == {"<ORDER:1>", "<ORDER:2>"}
    assert "<TIME>" in text
    assert "<TIME:" not in text


def test_two_recordings_of_one_story_are_one_text() -> None:
    assert recorded() == recorded()


def test_a_mask_can_be_replayed_from_a_file() -> None:
    assert json.loads(json.dumps(recorded())) == recorded()


# ---------------------------------------------------------------- compare


VALUES = [None, True, False, 0, 1, "", "a", [], [1], [1, 2], {}, {"a": 1}, {"a": [{"b": None}]}, "<", "<a>", "a.b*"]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_is_like_itself_and_unlike_each_other(value: Any) -> None:
    assert unlike(value, value) == []
    others = [other for other in VALUES if json.dumps(other) != json.dumps(value)]
    assert all(unlike(value, other) for other in others)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {}), ({}, {"a": 1}), ({"a": 1}, {"a": "1"}), (1, True), (None, ""), ([], {}), ([1], []),
        ([1, 2], [1, 1]), ([1], [1, 1]), ({"a": {"b": 1}}, {"a": {"b": 2}}), ("<TIME>", "2026-11-02T09:00:00.0Z"),
        ("<ORDER:1>", "ord_1"), ("<ORDER>", None), ("x <ORDER> y", "x ord_00000000"),
    ],
)  # fmt: skip
def test_what_is_not_as_recorded_is_said(expected: Any, actual: Any) -> None:
    assert unlike(expected, actual)


def test_a_name_stands_for_one_value() -> None:
    known = Known(FORMS)
    one, two = "ord_00000001", "ord_00000002"
    assert match("/orders/<ORDER:1>", f"/orders/{one}", known)
    assert match("<ORDER:1>", one, known)
    assert not match("<ORDER:1>", two, known)
    assert match("<ORDER:2> and <ORDER>", f"{two} and {one}", known)
    assert not match("<ORDER:3> <ORDER:3>", f"{one} {two}", known)
    assert known.values["ORDER:1"] == one
    assert known.values["ORDER:2"] == two
    assert known.fill("<ORDER:2>/<ORDER:9>") == f"{two}/<ORDER:9>"


def test_lists_have_no_order_and_nothing_to_spare() -> None:
    assert unlike([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]) == []
    assert unlike([{"a": 1}], [{"a": 1}, {"a": 1}])
    assert unlike([{"a": 1}, {"a": 1}], [{"a": 1}])


def test_a_trial_in_a_list_binds_nothing() -> None:
    known = Known(FORMS)
    wanted = [{"id": "<ORDER:1>", "n": 1}, {"id": "<ORDER:2>", "n": 2}]
    got = [{"id": "ord_00000002", "n": 2}, {"id": "ord_00000001", "n": 1}]
    assert unlike(wanted, got, known) == []
    assert known.values == {"ORDER:1": "ord_00000001", "ORDER:2": "ord_00000002"}


def test_a_kind_without_a_form_is_an_error() -> None:
    with pytest.raises(KeyError, match="OTHER"):
        match("<OTHER:1>", "x", Known(FORMS))


def test_pages_pictures_and_redirects_are_recorded_too() -> None:
    app = FastAPI()
    app.get("/page")(lambda: Response("<HTML><B>Coffee</B></HTML>", media_type="text/html"))
    app.get("/picture")(lambda: Response(b"\x89PNG\xff", media_type="image/png"))
    app.get("/old")(lambda: Response(status_code=307, headers={"location": "/page"}))

    def look(client: httpx.Client) -> None:
        for path in ("/page", "/picture", "/old"):
            client.get(path)

    recording = mask(record(TestClient(app), look), FORMS)  # a TestClient follows redirects
    assert [one["response"]["status"] for one in recording] == [200, 200, 307, 200]
    assert replay(TestClient(app), recording, Known(FORMS), {}) == {}
    recording[0]["response"]["body"] = "<HTML><I>Coffee</I></HTML>"
    recording[1]["response"]["body"] = r"\x89PNG\xfe"
    assert list(replay(TestClient(app), recording, Known(FORMS), {})) == ["1 /page", "2 /picture"]


def test_what_a_form_cannot_say_is_said_by_a_subclass() -> None:
    class Even(Known):
        def learn(self, name: str, value: str) -> bool:
            return int(value[-1], 16) % 2 == 0 and super().learn(name, value)

    assert match("<ORDER:1>", "ord_00000002", Even(FORMS))
    assert not match("<ORDER:1>", "ord_00000003", Even(FORMS))


# ---------------------------------------------------------------- replay


@pytest.mark.parametrize(
    ("changed", "label"),
    [
        ({"more": {"note": None}}, "1 /orders"),
        ({"gone": 410}, "6 /orders/<ORDER:2>"),
        ({"surplus": [{"id": 1}]}, "4 /orders"),
        ({"keeps": True}, "6 /orders/<ORDER:2>"),
    ],
)
def test_each_change_is_noticed(changed: dict[str, Any], label: str) -> None:
    assert label in against(**changed)


def test_the_recorded_server_is_as_recorded_with_other_ids_and_another_order() -> None:
    assert against() == {}
    assert against(turned=True) == {}


def test_a_deviation_is_accepted_and_nothing_else() -> None:
    gone = {"6 /orders/<ORDER:2>": Deviation("RFC 9110, 15.5.11", {"status": 410})}
    assert against(gone, gone=410) == {}
    assert against(gone, gone=409) == {"6 /orders/<ORDER:2>": ["answer.status is 409, not 410"]}


def test_a_deviation_that_is_not_needed_or_fits_nothing_is_said() -> None:
    label = "6 /orders/<ORDER:2>"
    assert against({label: Deviation("none", {"status": 410})}) == {
        label: ["is as recorded: the deviation is not needed"]
    }
    assert against({"7 /no": Deviation("none", {"status": 410})}) == {"7 /no": ["no exchange has this label"]}


def test_a_request_that_needs_what_never_came_differs() -> None:
    recording = recorded()[2:]
    found = replay(TestClient(shop()), recording, Known(FORMS), {})
    assert set(found) >= {recording[0]["label"]}


def test_cookies_of_the_client_are_not_sent() -> None:
    client = TestClient(shop(), cookies={"last": "ord_00000000"})
    assert replay(client, recorded(), Known(FORMS), {}) == {}


@pytest.mark.parametrize(
    ("content", "body"), [(b"", ""), (b"null", None), (b'{"a":1}', {"a": 1}), (b"text", "text"), (b"NULL", "NULL")]
)
def test_a_body_is_parsed_if_it_is_json(content: bytes, body: Any) -> None:
    make: Callable[..., httpx.Response] = httpx.Response
    answer = make(200, content=content, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Date", "x")])
    assert response_of(answer) == {"status": 200, "headers": ["set-cookie: a=1", "set-cookie: b=2"], "body": body}
