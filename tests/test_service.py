"""`pantry`: the service that `playbook serve` runs."""

from pathlib import Path

import pytest
from before_sign_in import pantry

from playbook.foundations.deny_by_default import refuse_undeclared
from playbook.kit.data import data_path
from playbook.kit.live import serving
from playbook.pantry.http import DOCUMENTATION, current_caller
from playbook.pantry.settings import Settings


def test_starts_on_an_empty_database_and_serves_the_catalogue(url: str) -> None:
    settings = Settings(environment="test", database_url=url)
    with serving(pantry(settings, data_path("packages.csv"))) as client:
        assert client.get("/packages/httpx").json()["organization"] == "mirror"
        assert client.get("/packages?limit=1").json()["complete"] is False
        assert client.post("/organizations", json={"slug": "mine", "name": "Mine"}).status_code == 201
        assert client.get("/ready").status_code == 200


def test_a_second_start_keeps_what_is_there(tmp_path: Path) -> None:
    settings = Settings(environment="development", database_url=f"duckdb:///{tmp_path / 'pantry.duckdb'}")
    with serving(pantry(settings, data_path("packages.csv"))) as client:
        assert client.delete("/packages/httpx", headers={"if-match": "*"}).status_code == 204
        assert client.post("/organizations", json={"slug": "mine", "name": "Mine"}).status_code == 201
    with serving(pantry(settings, data_path("packages.csv"))) as client:
        assert client.get("/packages/httpx").status_code == 404
        assert client.get("/organizations/mine").status_code == 200


def test_refuses_to_be_production_without_sign_in() -> None:
    settings = Settings(
        environment="production",
        database_url="postgresql://pantry@db.example/pantry",
        base_url="https://pantry.example",
        secret="x" * 40,
        mail_url="smtp://mail.example",
    )
    with pytest.raises(ValueError, match="has no sign-in"):
        pantry(settings)


def test_every_route_says_who_may_use_it() -> None:
    app = pantry(Settings(environment="test", database_url="duckdb:///:memory:declared"))
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    assert app.openapi()["paths"].keys() >= {"/organizations", "/packages/{name}", "/health"}


def test_the_body_limit_is_the_settings(url: str) -> None:
    settings = Settings(environment="test", database_url=url, max_body_bytes=100)
    with serving(pantry(settings)) as client:
        assert client.post("/organizations", json={"slug": "mine", "name": "x" * 100}).status_code == 413
