"""What Pantry can be told: `DATABASE_URL` and the variables `PANTRY_*`, each checked at the start."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from playbook.auth.mail import mail_server_url, origin

# `SecretStr` hides a value once it *is* a `SecretStr`. This one was refused before it became one, and the error
# quotes what it refused. Logs travel to places that are guarded less well than a secret (CWE-532); twenty of its 32
# characters are there now.
#
# Each kind of value gets a function that turns text into something checked, or says what is wrong **without repeating
# the text**: sooner or later somebody pastes a secret into the wrong variable.
#
# An origin is compared, as a string, with what browsers send in `Origin`. So it is kept in their form: lower case, no
# path, no default port (RFC 6454, section 6.2).


# Hosting services hand out `postgres://` and `postgresql://`; SQLAlchemy wants the driver's name as well. Anything
# else is refused here, because the alternative is an error from deep inside the engine: `duckdb://pantry.duckdb`, two
# slashes where three belong, names a host, and DuckDB answers with a `TypeError` about its own arguments.


def database_url(text: str) -> str:
    """`text` as a SQLAlchemy URL of DuckDB or of PostgreSQL through psycopg 3. Raises ValueError for anything else."""
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text.strip())
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("is not a URL") from None
    if parts.drivername not in ("duckdb", "postgresql+psycopg"):
        raise ValueError("should begin with duckdb:/// or postgresql://")
    if parts.drivername == "duckdb" and (parts.host or not parts.database):
        raise ValueError("should have three slashes and a path")
    if "@" in (parts.host or "") or (parts.port or 1) not in range(1, 65536):
        raise ValueError("has a host or port that cannot be; an @ in the password is written %40")
    return url


# A URL can carry a password, so it is as secret as the secret. `masked` hides too much rather than too little: up to
# the last `@`, and also a `password=` in the query, which PostgreSQL accepts.
#
# `Guarded` is what any settings class of yours can inherit. It cannot be changed after the start, it masks what it
# shows, and its constructor takes **only what it is given**: one that also reads the environment makes a test pass on
# one laptop and fail on the next.


def masked(url: str) -> str:
    """`url` with its passwords replaced by `***`; anything else comes back as it is."""
    url = re.sub(r"(//[^:]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z]*password=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


class Guarded(BaseSettings):
    """Base of settings classes: frozen, masked when shown or dumped, silent about values in errors."""

    model_config = SettingsConfigDict(
        env_prefix="PANTRY_", frozen=True, extra="forbid", populate_by_name=True,
        hide_input_in_errors=True, loc_by_alias=False, enable_decoding=False,
    )  # fmt: skip

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value) if isinstance(value, str) else value) for name, value in super().__repr_args__()]


# Now the types, each with its check, and then the list itself: one line a setting, with its default and an example
# that the error can offer. Defaults are safe (verification on, limits on, NIST's fifteen characters) or, in
# development, convenient.


DEVELOPMENT_SECRET = SecretStr("for development only, everybody can read this")
NEW_SECRET = "$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"


def long_enough(secret: SecretStr) -> SecretStr:
    """At least 32 characters, the length of what HMAC-SHA-256 makes of it (RFC 2104, section 3). Raises ValueError."""
    if len(secret.get_secret_value()) < 32:
        raise ValueError("should have at least 32 characters")
    return secret


Secret = Annotated[SecretStr, AfterValidator(long_enough)]
Origin = Annotated[str, AfterValidator(origin)]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(lambda v: v.split(",") if isinstance(v, str) else v)]
DatabaseUrl = Annotated[str, AfterValidator(database_url), PlainSerializer(masked)]
MailUrl = Annotated[str, AfterValidator(mail_server_url), PlainSerializer(masked)]


class Fields(Guarded):
    """What Pantry can be told: `DATABASE_URL`, and the others with the prefix `PANTRY_`. Sizes are in bytes."""

    environment: Literal["development", "test", "production"] = Field("development", examples=["production"])
    database_url: DatabaseUrl = Field(
        "duckdb:///pantry.duckdb", validation_alias="DATABASE_URL", examples=["postgresql://pantry@db.example/pantry"]
    )
    base_url: Origin = Field("http://localhost:8000", examples=["https://pantry.example"])
    trusted_origins: Origins = Field((), examples=["https://pantry.example,https://app.example"])  # () is base_url
    secret: Secret = Field(DEVELOPMENT_SECRET, examples=[NEW_SECRET])
    mail_url: MailUrl = Field("file:mail.jsonl", examples=["smtp://mail.example:587"])
    require_email_verification: bool = Field(True, examples=["on"])
    password_min_length: int = Field(15, ge=8, le=128, examples=["15"])
    revoke_sessions_on_reset: bool = Field(True, examples=["on"])
    rate_limits: bool = Field(True, examples=["on"])
    max_body_bytes: int = Field(1_048_576, gt=0, examples=["1048576"])
    network_rate: float = Field(50, gt=0, examples=["50"])  # requests per second of one address, or of an IPv6 /64
    account_rate: float = Field(20, gt=0, examples=["20"])  # requests per second of one account, wherever signed in
    max_connections: int = Field(1000, ge=16, le=60_000, examples=["1000"])  # fewer where few files may be open
    stop_seconds: float = Field(8, ge=2, le=600, examples=["8"])  # Docker kills after 10


# The auth track has settings of its own; what they do is said where they are used. Two of them can contradict each
# other, and the one that is read later says so:


def mail_address(text: str) -> str:
    """`text`, when mail can be sent from it: `name@host`. Raises ValueError for anything else."""
    if not re.fullmatch(r"[\w.+-]+@[A-Za-z0-9.-]+", text):
        raise ValueError("should be an address, like pantry@pantry.example")
    return text


class AuthFields(Fields):
    """What the auth flows can be told. Lifetimes are in seconds."""

    password_max_length: int = Field(128, ge=64, le=1024, examples=["128"])
    password_blocklist: bool = Field(True, examples=["on"])
    session_lifetime: int = Field(7 * 86_400, gt=0, examples=["604800"])  # without use
    session_absolute_lifetime: int = Field(30 * 86_400, gt=0, examples=["2592000"])
    session_refresh_after: int = Field(86_400, ge=0, examples=["86400"])
    session_fresh: int = Field(86_400, gt=0, examples=["86400"])
    host_cookies: bool = Field(False, examples=["on"])  # __Host- where Better Auth has __Secure-
    reauthentication: int = Field(600, gt=0, examples=["600"])  # for a change of e-mail
    verification_lifetime: int = Field(3600, gt=0, examples=["3600"])
    reset_lifetime: int = Field(3600, gt=0, examples=["3600"])
    strict_proof: bool = Field(True, examples=["on"])  # off: what an unproven address may do is Better Auth's
    verification_on_sign_in: bool = Field(True, examples=["on"])
    sign_in_after_verification: bool = Field(False, examples=["off"])
    confirm_email_change: bool = Field(True, examples=["on"])
    revoke_sessions_on_change: bool = Field(True, examples=["on"])
    mail_from: Annotated[str, AfterValidator(mail_address)] = Field(
        "pantry@localhost", examples=["pantry@pantry.example"]
    )

    @field_validator("password_max_length")
    @classmethod
    def _not_less_than_the_least(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("password_min_length", 0):
            raise ValueError("should not be less than PANTRY_PASSWORD_MIN_LENGTH")
        return value


# Some values are right alone and wrong together. A field sees the fields above it (`info.data`), so these rules are
# field rules too, and their faults arrive in one list with all others. A rule over the whole object would run only
# after every field is right: an operator would restart once a mistake.
#
# The published secret is refused with `https` as well: somebody deployed this and forgot `PANTRY_ENVIRONMENT`.


class Settings(AuthFields):
    """The settings of one Pantry process; read them with `load_settings`. Development's defaults stop at production."""

    @field_validator("base_url", "trusted_origins")
    @classmethod
    def _production_has_https(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        if value == ():
            value = (info.data["base_url"],) if "base_url" in info.data else ()
        origins = (value,) if isinstance(value, str) else value
        if info.data.get("environment") == "production" and any(o.startswith("http:") for o in origins):
            raise ValueError("should use https, because PANTRY_ENVIRONMENT is production")
        return value

    @field_validator("database_url", "secret", "mail_url")
    @classmethod
    def _production_has_its_own(cls, value: Any, info: ValidationInfo) -> Any:
        environment, base_url = info.data.get("environment"), info.data.get("base_url", "")
        default = cls.model_fields[str(info.field_name)].default
        if environment == "production" and value in (default, "memory:"):
            raise ValueError("has a value for development only, and PANTRY_ENVIRONMENT is production")
        if environment == "development" and base_url.startswith("https:") and value == DEVELOPMENT_SECRET:
            raise ValueError("has the value that everybody can read, and PANTRY_BASE_URL is https")
        return value


# pydantic-settings ignores a variable it does not know: the environment belongs to everybody. The *prefix* is ours,
# though, so an unknown name behind it is a typo, and is refused. A typo in the prefix itself (`PANTY_SECRET`) looks
# like somebody else's variable; it is found because production accepts no default that matters.


class SettingsError(ValueError):
    """The environment is wrong. One line a problem: the variable, what is wrong, an example; never a value."""


def variables(kind: type[Guarded]) -> dict[str, str]:
    """The environment variables that `kind` reads: by field, the name in upper case."""
    prefix = kind.model_config.get("env_prefix", "").upper()
    return {name: str(f.validation_alias or prefix + name.upper()) for name, f in kind.model_fields.items()}


def unknown_variables(kind: type[Guarded], environ: Mapping[str, str]) -> list[str]:
    """A line for every variable that has the prefix of `kind` and no field."""
    prefix = kind.model_config.get("env_prefix", "").upper()
    known = {name.removeprefix(prefix): name for name in variables(kind).values()}
    lines = []
    for name in sorted(environ):
        if prefix and name.upper().startswith(prefix) and name.upper() not in known.values():
            near = get_close_matches(name.upper().removeprefix(prefix), known, n=1)
            lines.append(f"{name}: is not a setting; " + (f"did you mean {known[near[0]]}?" if near else "remove it"))
    return lines


# The error is raised **after** the `except` block. Raised inside it, it would keep pydantic's error as its
# `__context__`, refused values and all. `from None` hides that from a traceback, not from a program that walks the
# chain.


AnySettings = TypeVar("AnySettings", bound=Guarded)


def in_words(kind: type[Guarded], fault: ErrorDetails) -> str:
    """One line for one of pydantic's errors: the variable, what is wrong, an example; not what was typed."""
    field, *item = (str(part) for part in fault["loc"])
    words = re.sub(r"^(Value error, |Input )", "", fault["msg"])
    name, example = variables(kind)[field], (kind.model_fields[field].examples or ["..."])[0]
    return f"{name}: {'an item ' if item else ''}{words}; for example {name}={example}"


def read_environment(kind: type[AnySettings], environ: Mapping[str, str]) -> AnySettings:
    """The settings of class `kind` from `environ`. Raises SettingsError with every problem found, one a line."""
    source, known = EnvSettingsSource(kind), variables(kind).values()
    source.env_vars = {name.lower(): value for name, value in environ.items() if name.upper() in known}
    problems = unknown_variables(kind, environ)
    try:
        settings = kind(**source())
    except ValidationError as error:
        problems += dict.fromkeys(in_words(kind, fault) for fault in error.errors(include_input=False))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Pantry's settings from `environ`, by default the process's own. Raises SettingsError."""
    return read_environment(Settings, os.environ if environ is None else environ)
