"""What the recipe promises, for a settings class of our own. Needs pytest and hypothesis, nothing else."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from playbook.foundations.settings import (
    CheckedSettings,
    Secret,
    SettingsError,
    development_default,
    read_environment,
    unknown_variables,
    variables,
)

KEY = "ohN7aequohqu3ieF9Wae8Ohghah5oosh"
PUBLISHED = "for development only, everybody can read it"


class Clinic(CheckedSettings, env_prefix="CLINIC_"):
    secret: Secret = development_default(PUBLISHED)
    database_url: SecretStr = development_default("sqlite:///clinic.db", validation_alias="DATABASE_URL")
    beds: int = Field(20, ge=1, le=500)
    night_shift: bool = True

    @field_validator("beds")
    @classmethod
    def _beds(cls, value: int, info: ValidationInfo) -> int:
        if value > 100 and not info.data.get("environment") == "production":
            raise ValueError("should be at most 100 here")
        return value

    @model_validator(mode="after")
    def _staffed(self) -> "Clinic":
        if self.beds > 200 and not self.night_shift:
            raise ValueError("more than 200 beds need a night shift")
        return self


RIGHT = {"CLINIC_SECRET": KEY, "DATABASE_URL": "postgresql+psycopg://clinic:h0tel@db/clinic"}


def refused(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_environment(Clinic, environ)
    return str(caught.value).splitlines()


def test_typed_values_arrive_and_others_are_ignored() -> None:
    settings = read_environment(Clinic, RIGHT | {"CLINIC_BEDS": "300", "HOME": "/", "CLINI_BEDS": "1"})
    assert (settings.environment, settings.beds, settings.night_shift) == ("production", 300, True)
    assert settings.secret.get_secret_value() == KEY
    assert settings.database_url.get_secret_value() == RIGHT["DATABASE_URL"]


def test_the_processs_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLINIC_BEDS", "7")
    assert read_environment(Clinic).beds == 7
    assert Clinic(environment="test").beds == 20, "the constructor reads no environment"
    with pytest.raises(SettingsError):
        read_environment(Clinic, {})


def test_all_mistakes_are_named_at_once() -> None:
    environ = {"CLINIC_SECRT": KEY, "CLINIC_BEDS": "x", "CLINIC_NIGHT_SHIFT": "perhaps", "CLINIC_ENVIRONMENT": "live"}
    names = [line.split(":")[0] for line in refused(environ)]
    assert names == [
        "CLINIC_SECRT", "CLINIC_ENVIRONMENT", "CLINIC_SECRET", "DATABASE_URL", "CLINIC_BEDS", "CLINIC_NIGHT_SHIFT",
    ]  # fmt: skip


def test_the_words_name_the_variable_also_behind_an_alias() -> None:
    assert refused(RIGHT | {"DATABASE_URL": "sqlite:///clinic.db", "CLINIC_BEDS": ""}) == [
        "DATABASE_URL: needs a value of its own in production",
        "CLINIC_BEDS: should be a valid integer, unable to parse string as an integer",
    ]
    assert refused(RIGHT | {"CLINIC_BEDS": "101", "CLINIC_ENVIRONMENT": "test"}) == [
        "CLINIC_BEDS: should be at most 100 here"
    ]
    given = Clinic(environment="test", database_url="sqlite://").database_url
    assert given.get_secret_value() == "sqlite://"


class Kiosk(CheckedSettings, env_prefix="KIOSK_"):
    url: SecretStr = development_default("sqlite:///kiosk.db", validation_alias="DATABASE_URL")


def test_a_field_may_have_another_name_than_its_alias() -> None:
    settings = read_environment(Kiosk, {"DATABASE_URL": "sqlite:///orders.db"})
    assert settings.url.get_secret_value() == "sqlite:///orders.db"
    assert Kiosk(environment="test", url=SecretStr("sqlite://")).url.get_secret_value() == "sqlite://"
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: needs a value of its own in production$"):
        read_environment(Kiosk, {})


def test_a_rule_about_several_fields_is_told_without_a_name() -> None:
    [line] = refused(RIGHT | {"CLINIC_BEDS": "300", "CLINIC_NIGHT_SHIFT": "off"})
    assert line == "more than 200 beds need a night shift"


@pytest.mark.parametrize("environment", [{}, {"CLINIC_ENVIRONMENT": "production"}, {"CLINIC_ENVIRONMENT": "prod"}])
def test_only_development_and_test_accept_what_is_published(environment: dict[str, str]) -> None:
    given = environment | {"CLINIC_SECRET": PUBLISHED}
    names = [line.split(":")[0] for line in refused(given)]
    assert {"CLINIC_SECRET", "DATABASE_URL"} <= set(names)
    for name in ("development", "test"):
        assert read_environment(Clinic, {"CLINIC_ENVIRONMENT": name}).secret.get_secret_value() == PUBLISHED


@given(st.sampled_from(sorted(variables(Clinic).values())), st.data())
def test_one_missing_letter_is_found_and_corrected(name: str, data: st.DataObject) -> None:
    if not name.startswith("CLINIC_"):
        return
    at = data.draw(st.integers(len("CLINIC_"), len(name) - 1))
    typo = name[:at] + name[at + 1 :]
    assert unknown_variables(Clinic, {typo: "x"}) == [f"{typo}: is not a setting; did you mean {name}?"]
    assert any(line.startswith(f"{typo}: ") for line in refused(RIGHT | {typo: "x"}))


def test_other_case_and_nothing_near_are_unknown_too() -> None:
    assert unknown_variables(Clinic, {"clinic_beds": "3"}) == [
        "clinic_beds: is not a setting; did you mean CLINIC_BEDS?"
    ]
    assert unknown_variables(Clinic, {"CLINIC_ZZZZ": "3"}) == ["CLINIC_ZZZZ: is not a setting; remove it"]
    assert unknown_variables(Clinic, RIGHT) == []


def test_a_class_without_a_prefix_is_refused() -> None:
    class Bare(CheckedSettings):
        beds: int = 1

    with pytest.raises(TypeError, match="Bare needs an env_prefix"):
        read_environment(Bare, {})


@pytest.mark.parametrize("as_mapping", [False, True])
@given(value=st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=31))
def test_no_value_is_in_the_error_its_chain_or_its_frames(value: str, as_mapping: bool) -> None:
    names = ("CLINIC_SECRET", "CLINIC_BEDS", "CLINIC_NIGHT_SHIFT", "CLINIC_ENVIRONMENT", "CLINIC_SECRT")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            read_environment(Clinic, dict.fromkeys(names, value) if as_mapping else None)
        error = caught.value
        assert error.__traceback__ is not None
        inside = error.__traceback__.tb_next
        report = traceback.TracebackException(type(error), error, inside, capture_locals=True)
        assert "read_environment" in "".join(report.format())
        assert value not in "".join(report.format())
    assert error.__context__ is None
    assert error.__cause__ is None


def test_secrets_are_masked_and_nothing_changes() -> None:
    settings = read_environment(Clinic, RIGHT)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert not [secret for secret in (KEY, "h0tel") if secret in shown]
    with pytest.raises(ValidationError):
        settings.beds = 3
    with pytest.raises(ValidationError) as caught:
        Clinic(environment="test", secret=KEY[:20])
    assert KEY[:20] not in str(caught.value)


def test_a_secret_has_32_characters() -> None:
    assert read_environment(Clinic, RIGHT | {"CLINIC_SECRET": KEY[:32]})
    assert refused(RIGHT | {"CLINIC_SECRET": KEY[:31]})[0].startswith("CLINIC_SECRET: ")
