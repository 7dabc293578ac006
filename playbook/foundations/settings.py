# %% [markdown]
"""
# Settings

Run one program in development, test and production, and have it refuse a wrong configuration before the first request.

| | |
|---|---|
| **Use it when** | a program reads anything from its environment: a URL, a secret, a switch |
| **You need** | nothing |
| **Time** | 20 minutes |
| **Topics** | settings, configuration, environment variables, secrets, 12-factor, pydantic-settings, SecretStr, DATABASE_URL, typo, masking, secrets in logs, trusted origins |
| **Standard** | OWASP ASVS 5.0 (13.3, 13.4, 16.2.5), CWE-209, CWE-532, RFC 6454 |
"""

# %% [markdown]
"""
## The decision

The same build runs on a laptop, in a test and in production. Something outside it has to say which of them this is.

| option | good | costs |
|---|---|---|
| `os.environ[...]` where it is needed | no code | nobody knows all the names; types are guessed; a mistake waits for the first request that takes that path |
| a file per environment in the repository | reviewed, versioned | secrets in version control, for everybody, for ever; a new environment needs a new build |
| **one typed object, read from the environment once, at start** | one list of names, types and defaults; a mistake stops the start | a module that all others depend on |
| a configuration service | changed without a restart; every access recorded | one more thing that must run first, and its own credentials come from the environment |

We take the **typed object** (`pydantic-settings`). In a rolling deployment a version that refuses to start is not
rolled out: the old one keeps serving. One that starts with a wrong value serves that value. Add a configuration
service when values must change without a deployment, or when somebody has to say who read a secret; the typed object
stays in front of it.
"""

# %% [markdown]
"""
## See it break

An operator sets `PANTRY_SECRT`: one letter is missing, in a file nobody looks at again. Before you run the cell: which
of the two requests fails, and who notices?
"""

# %%
import hmac
import io
import logging
import os
from unittest.mock import patch

from fastapi import FastAPI

from playbook.kit.lesson import checker, on_postgres, serving, show, show_http, table

app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/sign-in")
def sign_in() -> dict[str, str]:
    key = os.environ["PANTRY_SECRET"]
    return {"session": hmac.new(key.encode(), b"ada", "sha256").hexdigest()}


log = io.StringIO()
logger, handler = logging.getLogger("uvicorn.error"), logging.StreamHandler(log)
logger.addHandler(handler)
with patch.dict(os.environ, {"PANTRY_SECRT": "ohN7aequohqu3ieF9Wae8Ohghah5oosh"}), serving(app) as client:
    client.get("/health")
    client.post("/sign-in")
logger.removeHandler(handler)
show_http(client)
print("\nlast line of the log:", log.getvalue().splitlines()[-1])

# %% [markdown]
"""
The process started, the health check is green, the old version was stopped. The first person to sign in finds the typo.
With `os.environ.get("PANTRY_SECRET", "")` nobody finds it, and every session is signed with an empty key.

So the next attempt checks the length at start, with a type that promises to hide its value. This time the name is
right, and the value was cut short when it was pasted. Which line will be in the log?
"""

# %%
import traceback

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Naive(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PANTRY_")
    secret: SecretStr = Field(min_length=32)


pasted = "ohN7aequohqu3ieF9Wae"
with patch.dict(os.environ, {"PANTRY_SECRET": pasted}):
    try:
        Naive()
    except ValueError:
        print(*(line.strip() for line in traceback.format_exc().splitlines() if pasted in line), sep="\n")

# %% [markdown]
"""
`SecretStr` hides a value once it *is* a `SecretStr`. This one was refused before it became one, and the error quotes
what it refused. Logs travel to places that are guarded less well than a secret (CWE-532); twenty of its 32 characters
are there now.

## Build it

Each kind of value gets a function that turns text into something checked, or says what is wrong **without repeating the
text**: sooner or later somebody pastes a secret into the wrong variable.

An origin is compared, as a string, with what browsers send in `Origin`. So it is kept in their form: lower case, no
path, no default port (RFC 6454, section 6.2).
"""

# %%
import re


def origin(text: str) -> str:
    """`text` as a browser would send it in `Origin`: `https://pantry.example`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", text.strip().lower())
    if match is None:
        raise ValueError("should be an origin: http or https, a host, perhaps a port; no path, no *")
    scheme, host, port = match[1], match[2], int(match[3] or 0)
    if match[3] and not 0 < port < 65536:
        raise ValueError("should have a port between 1 and 65535")
    return f"{scheme}://{host}" + (f":{port}" if port not in (0, {"http": 80, "https": 443}[scheme]) else "")


# %% [markdown]
"""
Hosting services hand out `postgres://` and `postgresql://`; SQLAlchemy wants the driver's name as well. Anything else
is refused here, because the alternative is an error from deep inside the engine: `duckdb://pantry.duckdb`, two slashes
where three belong, names a host, and DuckDB answers with a `TypeError` about its own arguments.
"""

# %%
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


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


def mail_url(text: str) -> str:
    """Where mail goes: `file:PATH` (JSON lines), `smtp://[user:password@]host[:port]`, `memory:`. Raises ValueError."""
    url = re.sub(r"^file:/{2}/", "file:/", text.strip())
    smtp = re.fullmatch(r"smtp://([^@/\s]+@)?([\w.-]+|\[[0-9a-fA-F:.]+\])(:([0-9]{1,5}))?", url)
    if url == "memory:" or re.fullmatch(r"file:(?!//).+", url) or (smtp and 0 < int(smtp[4] or 25) < 65536):
        return url
    raise ValueError("should be file:PATH, smtp://host:port or memory:")


# %% [markdown]
"""
A URL can carry a password, so it is as secret as the secret. `masked` hides too much rather than too little: up to the
last `@`, and also a `password=` in the query, which PostgreSQL accepts.

`Guarded` is what any settings class of yours can inherit. It cannot be changed after the start, it masks what it
shows, and its constructor takes **only what it is given**: one that also reads the environment makes a test pass on
one laptop and fail on the next.
"""

# %%
from collections.abc import Iterable
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


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


# %% [markdown]
"""
Now the types, each with its check, and then the list itself: one line a setting, with its default and an example that
the error can offer. Defaults are safe (verification on, limits on, NIST's fifteen characters) or, in development,
convenient.
"""

# %%
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, ValidationInfo, field_validator

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
MailUrl = Annotated[str, AfterValidator(mail_url), PlainSerializer(masked)]


# %%
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


# %% [markdown]
"""
The auth track has settings of its own; what they do is said where they are used. Two of them can contradict each other,
and the one that is read later says so:
"""


# %%
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


# %% [markdown]
"""
Some values are right alone and wrong together. A field sees the fields above it (`info.data`), so these rules are field
rules too, and their faults arrive in one list with all others. A rule over the whole object would run only after every
field is right: an operator would restart once a mistake.

The published secret is refused with `https` as well: somebody deployed this and forgot `PANTRY_ENVIRONMENT`.
"""


# %%
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


# %% [markdown]
"""
pydantic-settings ignores a variable it does not know: the environment belongs to everybody. The *prefix* is ours,
though, so an unknown name behind it is a typo, and is refused. A typo in the prefix itself (`PANTY_SECRET`) looks like
somebody else's variable; it is found because production accepts no default that matters.
"""

# %%
from collections.abc import Mapping
from difflib import get_close_matches


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


# %% [markdown]
"""
The error is raised **after** the `except` block. Raised inside it, it would keep pydantic's error as its `__context__`,
refused values and all. `from None` hides that from a traceback, not from a program that walks the chain.
"""

# %%
import os
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

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


# %% [markdown]
"""
## See it work

The service again. It gets its settings as an argument, so it cannot exist without them. The operator makes the first
mistake, the second, and three more.
"""


# %%
def create_app(settings: Settings) -> FastAPI:
    app = FastAPI()

    @app.post("/sign-in")
    def sign_in() -> dict[str, str]:
        key = settings.secret.get_secret_value()
        return {"session": hmac.new(key.encode(), b"ada", "sha256").hexdigest()}

    return app


environ = {
    "DATABASE_URL": "postgres://pantry:h0tel-key@db.example/pantry",
    "PANTRY_ENVIRONMENT": "production",
    "PANTRY_BASE_URL": "https://pantry.example/",
    "PANTRY_SECRT": "ohN7aequohqu3ieF9Wae8Ohghah5oosh",
    "PANTRY_SECRET": pasted,
    "PANTRY_RATE_LIMITS": "yep",
}
try:
    create_app(load_settings(environ))
except SettingsError as error:
    print(error)

# %% [markdown]
"""
Every mistake at once, also the variable that nobody set (nobody would have got mail), each on a line that says what to
type, and not one value among them. Corrected, the service starts and signs. When somebody logs the whole object, this
is what they get.
"""

# %%
environ["PANTRY_SECRET"] = environ.pop("PANTRY_SECRT")
environ["PANTRY_BASE_URL"] = "https://pantry.example"
environ["PANTRY_MAIL_URL"] = "smtp://pantry:p0stbox@mail.example:587"
environ["PANTRY_RATE_LIMITS"] = "on"
settings = load_settings(environ)
with serving(create_app(settings)) as client:
    client.post("/sign-in")
show_http(client)
print(f"\n{settings}".replace(" ", "\n"))

# %% [markdown]
"""
The operator's page is made from the class, so it cannot be out of date.
"""

# %%
defaults = Settings().model_dump(mode="json")
rows = [(name, str(defaults[field]), Settings.model_fields[field]) for field, name in variables(Settings).items()]
show(table([(name, default, field.examples[0]) for name, default, field in rows], ["variable", "default", "example"]))

# %% [markdown]
"""
## On PostgreSQL

Nothing but `DATABASE_URL` changes. The three spellings that hosting services and manuals use reach the same server.
"""

# %%
import sqlalchemy


def reach(url: str) -> None:
    for scheme in ("postgres://", "postgresql://", "postgresql+psycopg://"):
        given = scheme + url.removeprefix("postgresql+psycopg://")
        engine = sqlalchemy.create_engine(load_settings({"DATABASE_URL": given}).database_url)
        with engine.connect():
            print(f"{scheme:22} connected through {engine.dialect.driver}")
        engine.dispose()


on_postgres(reach)

# %% [markdown]
"""
## Check it

Three properties, over every variable there is: a wrong value is refused by name and not repeated, a typo is refused and
corrected, and production starts on no default that matters.
"""


# %%
def refusal(environ: dict[str, str]) -> SettingsError:
    try:
        load_settings(environ)
    except SettingsError as error:
        return error
    raise AssertionError(f"accepted: {sorted(environ)}")


names = list(variables(Settings).values())
wrong = {name: f"://{number}-qX7" for number, name in enumerate(names)}
refused = refusal(wrong)
assert [line.split(":")[0] for line in str(refused).splitlines()] == names, "each variable once, in a line of its own"
assert not any(value in "".join(traceback.format_exception(refused)) for value in wrong.values())
assert refused.__context__ is None, "pydantic's error, with the values, came along"

for name in names:
    for at in range(len("PANTRY_"), len(name) if name.startswith("PANTRY_") else 0):
        assert f"did you mean {name}?" in str(refusal({name[:at] + name[at + 1 :]: "x"}))
for name in ("DATABASE_URL", "PANTRY_BASE_URL", "PANTRY_SECRET", "PANTRY_MAIL_URL"):
    assert f"{name}: " in str(refusal({"PANTRY_ENVIRONMENT": "production"}))

shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
assert not any(secret in shown for secret in (environ["PANTRY_SECRET"], "h0tel-key", "p0stbox"))
print("wrong values, typos and forgotten variables are refused by name; no secret is shown")

# %% [markdown]
"""
## Your turn

Behind a load balancer every request comes from the balancer's address; the caller's own arrives in `X-Forwarded-For`, a
header that anybody can write. So Pantry must know whose header to believe. Give it a setting `trusted_proxies`:

- `PANTRY_TRUSTED_PROXIES=10.0.0.0/8, 192.168.1.7` becomes a tuple of networks (`ipaddress.ip_network`); by default nobody;
- on a laptop everybody may be trusted; **production must refuse a list that trusts everybody**, however it is written;
- its error keeps the promise that all the others keep.
"""


# %% tags=["exercise"]
class WithProxies(Settings):
    trusted_proxies: tuple[str, ...] = ()  # replace this, and add what production needs


# %%
from ipaddress import ip_network


@checker
def check_proxies(kind: type[Settings]) -> str:
    def proxies(value: str, environ: dict[str, str]) -> tuple | str:
        try:
            return read_environment(kind, environ | {"PANTRY_TRUSTED_PROXIES": value}).trusted_proxies
        except SettingsError as error:
            return str(error)

    if read_environment(kind, {}).trusted_proxies != ():
        return "not yet: without the variable nobody should be trusted"
    if proxies("10.0.0.0/8, 192.168.1.7", environ) != (ip_network("10.0.0.0/8"), ip_network("192.168.1.7/32")):
        return "not yet: '10.0.0.0/8, 192.168.1.7' should become two networks"
    if proxies("0.0.0.0/0,::/0", {}) != (ip_network("0.0.0.0/0"), ip_network("::/0")):
        return "not yet: development should accept 0.0.0.0/0"
    for value in ("0.0.0.0/0", "10.0.0.0/8,::/0", "128.0.0.0/1,10.0.0.0/8,0.0.0.0/1", "::/1,0.0.0.0/1,8000::/1"):
        answer = proxies(value, environ)
        if not isinstance(answer, str):
            return f"not yet: {value} trusts every address there is, and production accepted it"
        if "PANTRY_TRUSTED_PROXIES: " not in answer:
            return "not yet: the error should name PANTRY_TRUSTED_PROXIES"
    answer = proxies("10.0.0.0/8,hunter2/24", environ)
    if not isinstance(answer, str):
        return "not yet: hunter2/24 is no network"
    return "not yet: the error repeats what was typed" if "hunter2" in answer else "right"


check_proxies(WithProxies)

# %% tags=["solution"]
from ipaddress import IPv4Network, IPv6Network, collapse_addresses


def networks(text: object) -> object:
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",")) if isinstance(text, str) else text
    except ValueError:  # its message quotes the part
        raise ValueError("should be addresses or networks, separated by commas") from None


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(networks)]


class WithProxies(Settings):
    trusted_proxies: Networks = Field((), examples=["10.0.0.0/8,192.168.1.7"])

    @field_validator("trusted_proxies")
    @classmethod
    def _somebody_is_a_stranger(cls, value: Networks, info: ValidationInfo) -> Networks:
        # Two halves make a whole, so neighbours are joined first; versions 4 and 6 cannot be mixed.
        joined = [n for version in (4, 6) for n in collapse_addresses(n for n in value if n.version == version)]
        if info.data.get("environment") == "production" and any(n.prefixlen == 0 for n in joined):
            raise ValueError("should leave somebody out, because PANTRY_ENVIRONMENT is production")
        return value


assert check_proxies(WithProxies)

# %% [markdown]
"""
## Hand it over

- **Operator**: `PANTRY_ENVIRONMENT=production`, and four values of your own: `DATABASE_URL`, `PANTRY_SECRET`, `PANTRY_BASE_URL`, `PANTRY_MAIL_URL`. The start fails with a line for each one that is missing.
- **Front end**: your origin belongs in `PANTRY_TRUSTED_ORIGINS`. What is given there replaces the default, so name the service's own origin too.
- **Security reviewer**: `get_secret_value` is the one word to search for, and a new setting that can hold a password needs `PlainSerializer(masked)`. A debugger, a core dump and the process's own environment still show the values.
- **Reviewer**: no `os.environ` outside `load_settings`; no validator quotes its input.
- **Test engineer**: build `Settings(environment="test", ...)`; the constructor never reads the environment.

## Sources

The Twelve-Factor App, III "Config". OWASP ASVS 5.0, 13.3 (secret management), 13.4 (unintended information leakage),
16.2.5 (sensitive data in logs). CWE-209, CWE-532. RFC 6454, section 6.2 (serializing an origin). RFC 2104, section 3
(length of an HMAC key). NIST SP 800-63B-4, section 3.1.1.2 (password length). Pydantic documentation, "Settings
Management".
"""

# %% [markdown] tags=["nav"]
"""
[course map](../index.ipynb) · Next: [Clock and identifiers](clock_and_identifiers.ipynb)
"""
