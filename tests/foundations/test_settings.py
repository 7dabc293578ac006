"""Settings: every mistake is refused at once and by name, and nothing that is secret is ever shown."""

import logging
import os
import pickle
import string
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from playbook.pantry.settings import (
    DEVELOPMENT_SECRET,
    Settings,
    SettingsError,
    database_url,
    load_settings,
    mail_server_url,
    masked,
    origin,
    variables,
)

SECRET = "Vohm5ohb-oot6Eigh-ahng4Pah-1234567890"
PRODUCTION = {
    "PANTRY_ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://pantry@db.example/pantry",
    "PANTRY_SECRET": SECRET,
    "PANTRY_BASE_URL": "https://pantry.example",
    "PANTRY_MAIL_URL": "smtp://mail.example",
}
PASSWORDS = st.text(string.ascii_letters + string.digits + "-_.~!$&'()*+,;=:/?#@ ", min_size=6, max_size=30)


def refused(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return str(caught.value).splitlines()


def test_an_empty_environment_is_development() -> None:
    settings = load_settings({})
    assert settings.environment == "development"
    assert settings.database_url == "duckdb:///pantry.duckdb"
    assert settings.base_url == "http://localhost:8000"
    assert settings.trusted_origins == ("http://localhost:8000",)
    assert settings.mail_url == "file:mail.jsonl"
    assert settings.secret == DEVELOPMENT_SECRET
    assert settings.require_email_verification
    assert settings.revoke_sessions_on_reset
    assert settings.rate_limits
    assert settings.password_min_length == 15
    assert settings.max_body_bytes == 2**20


AUTH: dict[str, tuple[str, object]] = {  # by field: what is written, and what arrives
    "password_max_length": ("64", 64), "password_blocklist": ("off", False), "session_lifetime": ("60", 60),
    "session_absolute_lifetime": ("90", 90), "session_refresh_after": ("0", 0), "session_fresh": ("5", 5),
    "strict_proof": ("off", False),
    "host_cookies": ("on", True), "reauthentication": ("7", 7), "verification_lifetime": ("8", 8),
    "reset_lifetime": ("9", 9), "verification_on_sign_in": ("off", False), "sign_in_after_verification": ("on", True),
    "confirm_email_change": ("off", False), "revoke_sessions_on_change": ("off", False),
    "mail_from": ("mail@pantry.example", "mail@pantry.example"), "invitation_lifetime": ("10", 10),
    "invitation_page": ("https://app.example/join", "https://app.example/join"),
}  # fmt: skip


def test_every_variable_arrives() -> None:
    settings = load_settings(
        {
            "DATABASE_URL": "duckdb:////var/pantry/pantry.duckdb",
            "PANTRY_ENVIRONMENT": "test",
            "PANTRY_SECRET": SECRET,
            "PANTRY_BASE_URL": "https://Pantry.Example:443",
            "PANTRY_TRUSTED_ORIGINS": "https://pantry.example, http://localhost:3000",
            "PANTRY_MAIL_URL": "memory:",
            "PANTRY_REQUIRE_EMAIL_VERIFICATION": "off",
            "PANTRY_PASSWORD_MIN_LENGTH": "8",
            "PANTRY_REVOKE_SESSIONS_ON_RESET": "off",
            "PANTRY_RATE_LIMITS": "off",
            "PANTRY_MAX_BODY_BYTES": "1000",
            "PANTRY_NETWORK_RATE": "12.5",
            "PANTRY_ACCOUNT_RATE": "7",
            "PANTRY_MAX_CONNECTIONS": "200",
            "PANTRY_STOP_SECONDS": "25",
            "PANTRY_KNOWN_QUERIES": "/etc/pantry/queries",
            **{f"PANTRY_{name.upper()}": text for name, (text, _) in AUTH.items()},
        }
    )
    assert dict(settings) == {
        **{name: value for name, (_, value) in AUTH.items()},
        "database_url": "duckdb:////var/pantry/pantry.duckdb",
        "environment": "test",
        "secret": settings.secret,
        "base_url": "https://pantry.example",
        "trusted_origins": ("https://pantry.example", "http://localhost:3000"),
        "mail_url": "memory:",
        "require_email_verification": False,
        "password_min_length": 8,
        "revoke_sessions_on_reset": False,
        "rate_limits": False,
        "max_body_bytes": 1000,
        "network_rate": 12.5,
        "account_rate": 7.0,
        "max_connections": 200,
        "stop_seconds": 25.0,
        "known_queries": Path("/etc/pantry/queries"),
    }
    assert settings.secret.get_secret_value() == SECRET


def test_the_process_s_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANTRY_RATE_LIMITS", "off")
    assert not load_settings().rate_limits
    monkeypatch.setenv("PANTRY_RATE_LIMIT", "off")
    with pytest.raises(SettingsError, match="PANTRY_RATE_LIMIT: is not a setting; did you mean PANTRY_RATE_LIMITS"):
        load_settings()


def test_the_constructor_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANTRY_ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    settings = Settings(password_min_length=9)
    assert (settings.environment, settings.database_url) == ("development", "duckdb:///pantry.duckdb")
    assert settings.password_min_length == 9


def test_a_given_mapping_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANTRY_ENVIRONMENT", "production")
    monkeypatch.setenv("PANTRY_NONSENSE", "1")
    assert load_settings({}).environment == "development"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(ValidationError):
        settings.rate_limits = False
    assert settings.rate_limits


def test_production_accepts_no_default_that_matters() -> None:
    lines = refused({"PANTRY_ENVIRONMENT": "production"})
    assert [line.split(":")[0] for line in lines] == [
        "DATABASE_URL",
        "PANTRY_BASE_URL",
        "PANTRY_SECRET",
        "PANTRY_MAIL_URL",
    ]
    assert load_settings(PRODUCTION).environment == "production"


@pytest.mark.parametrize("name", [n for n in PRODUCTION if n != "PANTRY_ENVIRONMENT"])
def test_production_misses_each_one_alone(name: str) -> None:
    (line,) = refused({k: v for k, v in PRODUCTION.items() if k != name})
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PANTRY_SECRET", DEVELOPMENT_SECRET.get_secret_value()),
        ("PANTRY_BASE_URL", "http://pantry.example"),
        ("PANTRY_TRUSTED_ORIGINS", "https://pantry.example,http://app.example"),
        ("PANTRY_TRUSTED_ORIGINS", "*"),
        ("PANTRY_MAIL_URL", "memory:"),
    ],
)
def test_production_refuses(name: str, value: str) -> None:
    (line,) = refused(PRODUCTION | {name: value})
    assert line.startswith(f"{name}: ")


def test_the_published_secret_is_not_deployed_by_forgetting_the_environment() -> None:
    (line,) = refused({"PANTRY_BASE_URL": "https://pantry.example"})
    assert line.startswith("PANTRY_SECRET: ")
    assert load_settings({"PANTRY_BASE_URL": "https://pantry.example", "PANTRY_SECRET": SECRET})
    assert load_settings({"PANTRY_BASE_URL": "https://pantry.example", "PANTRY_ENVIRONMENT": "test"})


@pytest.mark.parametrize("name", sorted(variables(Settings).values()))
def test_an_empty_value_is_a_mistake_not_a_default(name: str) -> None:
    (line,) = refused({name: ""})
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PANTRY_ENVIRONMENT", "prod"),
        ("PANTRY_ENVIRONMENT", "Production"),
        ("PANTRY_SECRET", "x" * 31),
        ("PANTRY_REQUIRE_EMAIL_VERIFICATION", "maybe"),
        ("PANTRY_PASSWORD_MIN_LENGTH", "7"),
        ("PANTRY_PASSWORD_MIN_LENGTH", "129"),
        ("PANTRY_PASSWORD_MIN_LENGTH", "fifteen"),
        ("PANTRY_MAX_BODY_BYTES", "0"),
        ("PANTRY_MAX_BODY_BYTES", "1MB"),
        ("PANTRY_TRUSTED_ORIGINS", "https://pantry.example,"),
        ("PANTRY_TRUSTED_ORIGINS", "https://*.pantry.example"),
        ("PANTRY_KNOWN_QUERIES", ""),
        ("PANTRY_KNOWN_QUERIES", "queries"),
    ],
)
def test_one_wrong_value_is_one_line_with_an_example(name: str, value: str) -> None:
    (line,) = refused({name: value})
    assert line.startswith(f"{name}: ")
    assert f"; for example {name}=" in line


def test_all_mistakes_come_at_once_and_without_values() -> None:
    wrong = {name: f"<mark-{number}>" for number, name in enumerate(variables(Settings).values())}
    lines = refused(wrong | {"PANTRY_SECRT": "<mark-99>"})
    assert [line.split(":")[0] for line in lines] == ["PANTRY_SECRT", *wrong]
    assert "<mark-" not in "\n".join(lines)


def test_several_wrong_origins_are_one_line() -> None:
    (line,) = refused({"PANTRY_TRUSTED_ORIGINS": "*,https://pantry.example,*"})
    assert "an item should be an origin" in line


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("PANTRY_SECRT", "PANTRY_SECRET"),
        ("PANTRY_BASEURL", "PANTRY_BASE_URL"),
        ("pantry_mail_ulr", "PANTRY_MAIL_URL"),
        ("PANTRY_RATELIMITS", "PANTRY_RATE_LIMITS"),
        ("PANTRY_DATABASE_URL", "DATABASE_URL"),
    ],
)
def test_a_typo_is_corrected(typed: str, meant: str) -> None:
    assert refused({typed: "x"}) == [f"{typed}: is not a setting; did you mean {meant}?"]


def test_an_unknown_name_like_no_other_and_foreign_ones() -> None:
    assert refused({"PANTRY_COLOUR": "1"}) == ["PANTRY_COLOUR: is not a setting; remove it"]
    assert load_settings({"PATH": "/bin", "PANTRYISH": "1", "DATABASE_URL_OLD": "x"})


def test_names_are_read_in_any_case() -> None:
    assert not load_settings({"pantry_rate_limits": "off"}).rate_limits


def test_the_examples_are_accepted() -> None:
    """What an error tells the operator to type must be right."""
    examples = {name: Settings.model_fields[field].examples[0] for field, name in variables(Settings).items()}
    command = examples["PANTRY_SECRET"].removeprefix("$(python -c '").removesuffix("')")
    made = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    assert load_settings(examples | {"PANTRY_SECRET": made}).environment == "production"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://pantry.example", "https://pantry.example"),
        ("HTTPS://Pantry.Example:443", "https://pantry.example"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:08000", "http://[::1]:8000"),
        ("http://api_1:3000 ", "http://api_1:3000"),
    ],
)
def test_origins(given: str, kept: str) -> None:
    assert origin(given) == kept
    assert origin(kept) == kept


@pytest.mark.parametrize(
    "text",
    ["", "*", "null", "pantry.example", "https://", "https://a/", "https://a/b", "https://a?b", "https://a#b", "ftp://a",
     "https://u:p@a", "https://a:0", "https://a:65536", "https://a:", "https://a b", "https://*.a", "https://a\nb",
     "//a", "javascript:alert(1)", "https://pantry.example\u3002evil.example"],
)  # fmt: skip
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match=r"should (be an origin|have a port)"):
        origin(text)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgres://u:p@h:5432/d", "postgresql+psycopg://u:p@h:5432/d"),
        ("postgresql://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg:///d?host=/run/pg", "postgresql+psycopg:///d?host=/run/pg"),
        ("postgresql://[::1]:5432/d", "postgresql+psycopg://[::1]:5432/d"),
        ("postgresql://u:p%40w@h/d", "postgresql+psycopg://u:p%40w@h/d"),
        ("duckdb:///pantry.duckdb", "duckdb:///pantry.duckdb"),
        ("duckdb:////var/x.duckdb", "duckdb:////var/x.duckdb"),
        ("duckdb:///:memory:lesson_1", "duckdb:///:memory:lesson_1"),
    ],
)
def test_database_urls(given: str, kept: str) -> None:
    assert database_url(given) == kept
    assert database_url(kept) == kept


@pytest.mark.parametrize(
    "text",
    ["", "postgres", "postgres:/h/d", "mysql://h/d", "sqlite:///x", "postgresql+psycopg2://h/d", "postgresql+asyncpg://h",
     "duckdb:///", "duckdb://pantry.duckdb", "duckdb://var/pantry.duckdb", "duckdb:pantry.duckdb", "jdbc:postgresql://h/d",
     "postgresql://h:port/d", "postgresql://h:99999/d", "postgresql://u:p@w@h/d"],
)  # fmt: skip
def test_what_is_no_database_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is not a URL|should begin|should have three|has a host)"):
        database_url(text)
    (line,) = refused({"DATABASE_URL": text})
    assert line.startswith("DATABASE_URL: ")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("memory:", "memory:"),
        ("file:mail.jsonl", "file:mail.jsonl"),
        ("file:/var/mail.jsonl", "file:/var/mail.jsonl"),
        ("file:///var/mail.jsonl", "file:/var/mail.jsonl"),
        ("smtp://mail.example", "smtp://mail.example"),
        ("smtp://u:p@mail.example:587", "smtp://u:p@mail.example:587"),
        ("smtp://[::1]:1025", "smtp://[::1]:1025"),
    ],
)
def test_mail_urls(given: str, kept: str) -> None:
    assert mail_server_url(given) == kept
    assert mail_server_url(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file:",
        "file://mail.jsonl",
        "memory",
        "memory:x",
        "smtp:mail",
        "smtp://",
        "http://m",
        "smtp://h:x",
        "smtp://h:65536",
        "smtp://h:0",
    ],
)
def test_what_is_no_mail_url(text: str) -> None:
    with pytest.raises(ValueError, match="should be file:PATH"):
        mail_server_url(text)


@given(PASSWORDS)
@example("p@ss:w/rd?x@#")
def test_no_password_survives_masking(password: str) -> None:
    assert masked(f"postgresql://user:{password}@host/db") == "postgresql://user:***@host/db"
    assert masked(f"smtp://user:{password}@host:25") == "smtp://user:***@host:25"


@given(PASSWORDS)
def test_a_password_in_the_query_is_masked(password: str) -> None:
    assume("&" not in password)
    url = f"postgresql://host/db?user=u&password=<{password}>&sslpassword=<{password}>&sslmode=require"
    assert f"<{password}>" not in masked(url)
    assert masked(url).endswith("&sslmode=require")


@pytest.mark.parametrize("text", ["duckdb:///pantry.duckdb", "http://localhost:8000", "postgresql://host:5432/db", ""])
def test_what_has_no_password_is_shown_whole(text: str) -> None:
    assert masked(text) == text


@given(PASSWORDS)
def test_nothing_shown_holds_a_secret(word: str) -> None:
    from urllib.parse import quote

    password = f"Zq{quote(word, safe='')}qZ"
    secret = "K" + word + SECRET
    settings = load_settings(
        {
            "DATABASE_URL": f"postgres://pantry:{password}@db.example/pantry",
            "PANTRY_MAIL_URL": f"smtp://pantry:{password}@mail.example:587",
            "PANTRY_SECRET": secret,
        }
    )
    record = logging.LogRecord("x", logging.INFO, "x", 1, "started with %s %r", (settings, settings), None)
    shown = [repr(settings), str(settings), f"{settings}", settings.model_dump_json(), str(settings.model_dump())]
    shown += [record.getMessage(), repr([settings]), str(settings.model_copy())]
    for text in shown:
        assert password not in text
        assert secret not in text
    assert password in settings.database_url  # the program itself still has it
    assert settings.secret.get_secret_value() == secret


@given(st.text(string.ascii_letters + string.digits, min_size=12, max_size=31))
def test_no_error_holds_a_secret(word: str) -> None:
    """The whole traceback, with everything chained to it, as a log would have it."""
    environ = {
        "PANTRY_SECRET": word,
        "DATABASE_URL": f"postgres://pantry:{word}@db@example/pantry",
        "PANTRY_MAIL_URL": f"smpt://pantry:{word}@mail.example",
        "PANTRY_BASE_URL": f"https://pantry:{word}@pantry.example",
        "PANTRY_TRUSTED_ORIGINS": f"https://{word}/x",
        "PANTRY_ENVIRONMENT": word,
        "PANTRY_RATE_LIMITS": word,
        "PANTRY_MAX_BODY_BYTES": word + "x",
        "PANTRY_SECRETS": word,
    }
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    error = caught.value
    assert len(str(error).splitlines()) == len(environ)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert word not in "".join(traceback.format_exception(error))


def test_the_constructor_s_own_error_hides_values_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(base_url="https://u:hunter2@h")
    assert "hunter2" not in str(caught.value)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(databaseurl="duckdb:///x")  # type: ignore[call-arg]


def test_settings_survive_a_process_boundary() -> None:
    settings = load_settings(PRODUCTION)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(settings) == hash(load_settings(PRODUCTION))


def test_a_process_with_a_typo_does_not_start() -> None:
    code = "from playbook.pantry.settings import load_settings; load_settings(); print('started')"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PANTRY_") and k != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | {"PANTRY_SECRT": SECRET}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "started" not in done.stdout
    assert done.stderr.rstrip().endswith("PANTRY_SECRT: is not a setting; did you mean PANTRY_SECRET?")
    assert SECRET not in done.stderr


def test_the_two_lengths_of_passwords_agree() -> None:
    lines = refused({"PANTRY_PASSWORD_MIN_LENGTH": "100", "PANTRY_PASSWORD_MAX_LENGTH": "64"})
    assert [line.split(":")[0] for line in lines] == ["PANTRY_PASSWORD_MAX_LENGTH"]
    assert "PANTRY_PASSWORD_MIN_LENGTH" in lines[0]


@pytest.mark.parametrize("text", ["", "pantry", "a b@c", "a@b\nBcc: c@d", "<a@b>", "a@b@c"])
def test_mail_is_sent_from_an_address(text: str) -> None:
    assert refused({"PANTRY_MAIL_FROM": text})[0].startswith("PANTRY_MAIL_FROM: ")
