"""What Pantry can be told: `DATABASE_URL` and the variables `PANTRY_*`, each checked at the start."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
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
from pydantic_settings import EnvSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from playbook.auth.mail import origin
from playbook.foundations.settings import CheckedSettings, SettingsError, unknown_variables, variables
from playbook.pantry.mail_senders import mail_server_url

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


def masked(url: str) -> str:
    """`url` with its passwords replaced by `***`; anything else comes back as it is."""
    url = re.sub(r"(//[^:]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z]*password=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


class Guarded(CheckedSettings, env_prefix="PANTRY_"):
    """Base of Pantry's settings: unknown arguments are refused, and URLs are masked when they are shown."""

    model_config = SettingsConfigDict(extra="forbid", populate_by_name=True, enable_decoding=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value) if isinstance(value, str) else value) for name, value in super().__repr_args__()]


# One line per setting, with its default and an example that the error can offer. Defaults are safe (verification on,
# limits on, NIST's fifteen characters) or, in development, convenient.


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


def whole_path(path: Path) -> Path:
    """`path`, if it is the same wherever the service is started. Raises ValueError for anything else."""
    if not (path.is_absolute() or PurePosixPath(path).is_absolute()):
        raise ValueError("should be the whole path of a folder or a file")
    return path


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
    max_connections: int = Field(1000, ge=16, le=60_000, examples=["1000"])  # of a process; fewer where few files are
    stop_seconds: float = Field(8, ge=2, le=600, examples=["8"])  # Docker kills after 10
    known_queries: Annotated[Path, AfterValidator(whole_path)] | None = Field(None, examples=["/etc/pantry/queries"])


# The auth track has settings of its own; what they do is said where they are used. Two of them can contradict each
# other, and the one that is read later says so:


def mail_address(text: str) -> str:
    """`text`, when mail can be sent from it: `name@host`. Raises ValueError for anything else."""
    if not re.fullmatch(r"[\w.+-]+@[A-Za-z0-9.-]+", text):
        raise ValueError("should be an address, like pantry@pantry.example")
    return text


def page_url(text: str) -> str:
    """`text`, when it is the whole URL of a page. Raises ValueError for anything else."""
    if not re.fullmatch(r"https?://[^/?#\s]+/[^?#\s]*", text):
        raise ValueError("should be the whole URL of a page, without ? and #")
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
    invitation_lifetime: int = Field(172_800, gt=0, examples=["172800"])
    invitation_page: Annotated[str, AfterValidator(page_url)] | None = Field(
        None, examples=["https://app.example/accept-invitation"]
    )  # None: on base_url; a page of the front end, which gets the token behind a #
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

    @field_validator("base_url", "trusted_origins", "invitation_page")
    @classmethod
    def _production_has_https(cls, value: str | tuple[str, ...] | None, info: ValidationInfo) -> Any:
        if value == ():
            value = (info.data["base_url"],) if "base_url" in info.data else ()
        origins = (value,) if isinstance(value, str) else value or ()
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


AnySettings = TypeVar("AnySettings", bound=Guarded)


def in_words(kind: type[Guarded], fault: ErrorDetails) -> str:
    """One line for one of pydantic's errors: the variable, what is wrong, an example; not what was typed."""
    field, *item = (str(part) for part in fault["loc"])
    words = re.sub(r"^(Value error, |Input )", "", fault["msg"])
    name, example = variables(kind)[field], (kind.model_fields[field].examples or ["..."])[0]
    return f"{name}: {'an item ' if item else ''}{words}; for example {name}={example}"


def read_environment(kind: type[AnySettings], environ: Mapping[str, str]) -> AnySettings:
    """The settings of class `kind` from `environ`, in any case. Raises SettingsError with every problem, one a line."""
    known = variables(kind).values()
    given = {name.upper() if name.upper() in known else name: value for name, value in environ.items()}
    source = EnvSettingsSource(kind)
    source.env_vars = {name.lower(): value for name, value in given.items() if name in known}
    problems = unknown_variables(kind, given)
    try:
        settings = kind(**source())
    except ValidationError as error:
        problems += dict.fromkeys(in_words(kind, fault) for fault in error.errors(include_input=False))
    if problems:  # not inside of `except`: pydantic's error, values and all, would be its `__context__`
        raise SettingsError("\n".join(problems))
    return settings


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Pantry's settings from `environ`, by default the process's own. Raises SettingsError."""
    return read_environment(Settings, os.environ if environ is None else environ)
