"""The two mappings that the page's *Take it with you* shows, read as they are printed there."""

import os
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr

from playbook.foundations.settings import CheckedSettings, Secret, development_default, read_environment
from playbook.kit.course import Course

KEY = "ohN7aequohqu3ieF9Wae8Ohghah5oosh"


class Shop(CheckedSettings, env_prefix="SHOP_"):
    secret: Secret
    url: SecretStr = development_default("sqlite:///shop.db", validation_alias="DATABASE_URL")


def shown(start: str) -> str:
    """The code in the page that begins with `start`."""
    text = Course().get("settings").prose.split("## Take it with you")[1]
    return next(code for code in re.findall(r"`([^`]+)`", text) if code.startswith(start))


@pytest.mark.parametrize("start", ["dotenv_values(", '{"SHOP_SECRET"'])
def test_settings_are_read_from_a_file(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_ENVIRONMENT", "test")
    Path(".env").write_text(f"SHOP_SECRET={KEY}\nSHOP_ENVIRONMENT=production\n", encoding="utf-8")
    Path("secret").write_text(f"{KEY}\n", encoding="utf-8")
    names = {"dotenv_values": dotenv_values, "os": os, "path": Path("secret")}
    settings = read_environment(Shop, eval(shown(start), names))
    assert settings.secret.get_secret_value() == KEY
    assert settings.environment == "test", "a variable of the process goes before the file"


def test_a_variable_without_the_prefix_is_named_by_an_alias() -> None:
    assert shown("validation_alias=") == 'validation_alias="DATABASE_URL"'
    found = read_environment(Shop, {"SHOP_SECRET": KEY, "DATABASE_URL": "sqlite://"})
    assert found.url.get_secret_value() == "sqlite://"
