"""What the page's *Take it with you* shows, run as printed: a shop is recorded, another one replayed."""

import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from playbook.auth.foreign_contract import Deviation, Known, mask, record, replay
from playbook.kit.course import Course


def shop(gone: str) -> TestClient:
    app, orders = FastAPI(), dict[str, str]()

    @app.post("/orders")
    def post() -> dict[str, str]:
        key = f"ord_{secrets.token_hex(6)}"
        orders[key] = "2026-11-02T09:00:00.123Z"
        return {"id": key, "placed": orders[key]}

    @app.get("/orders/{key}")
    def read(key: str) -> dict[str, str]:
        if key not in orders:
            raise HTTPException(404, gone)
        return {"id": key, "placed": orders[key]}

    return TestClient(app)


def place_and_read(client: Any) -> None:
    key = client.post("/orders").json()["id"]
    client.get(f"/orders/{key}")
    client.get("/orders/gone")


def test_a_shop_is_recorded_and_another_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = Course().get("foreign_contract").source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert block is not None
    used = (Deviation, Known, Path, mask, record, replay, place_and_read)
    names: dict[str, Any] = {each.__name__: each for each in used} | {"json": json}
    exec(block[1], names)
    names["keep"](shop("not here"))
    assert "<ORDER:1>" not in (text := Path("old_shop.json").read_text(encoding="utf-8"))
    assert "<ID:1>" in text
    names["test_the_new_shop_answers_as_the_old_one"](shop("gone"))
    with pytest.raises(AssertionError):
        names["test_the_new_shop_answers_as_the_old_one"](shop("away"))
