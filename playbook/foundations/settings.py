# %% [markdown]
"""
# Settings

Run one program in development, test and production. A wrong configuration stops its
start, with one error that names each wrong variable and shows no secret.

| | |
|---|---|
| **Use it when** | a program reads a URL, a secret or a switch from its environment |
| **You need** | [start here](start_here.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | settings, configuration, environment variables, 12-factor, typo |
| **Standard** | OWASP ASVS 5.0 (13.3, 13.4, 16.2.5), CWE-209, CWE-532 |

```python
from playbook.foundations.settings import CheckedSettings, Secret
from playbook.foundations.settings import development_default, read_environment

class Settings(CheckedSettings, env_prefix="SHOP_"):
    secret: Secret = development_default("for development only, everybody can read it")

settings = read_environment(Settings)  # or a SettingsError with every mistake
```

*Lift: 79 lines in 1 file; needs pydantic, pydantic_core, pydantic_settings.*

## See it break

Ada's shop signs its receipts with a secret key. The folded cell imports `serving`,
which starts a real HTTP server, and `show_http`, which prints requests and answers.
With `patch` and `traceback` of the standard library we set variables for a while and
read an error. `sign(key)` makes the signature, by HMAC-SHA-256.
"""

# %% tags=["stage"]
import hmac
import traceback
from unittest.mock import patch

from playbook.kit.lesson import serving, show_http


def sign(key):
    return hmac.digest(key.encode(), b"receipt 1", "sha256").hex()


# %%
import os

from fastapi import FastAPI

naive_shop = FastAPI()


@naive_shop.get("/health")
def health():
    return {"status": "ok"}


@naive_shop.post("/receipts")
def sign_receipt():
    return {"signature": sign(os.environ["SHOP_SECRET"])}


# %% [markdown]
"""
Ada deploys it and types `SHOP_SECRT`. Her platform starts the new process and asks for
`/health`. It stops the old process as soon as the answer is 200. Predict: does the new
process start, and what are the two status codes?
"""

# %% tags=["predict"]
key = "ohN7aequohqu3ieF9Wae8Ohghah5oosh"
with patch.dict(os.environ, {"SHOP_SECRT": key}), serving(naive_shop) as client:
    client.get("/health")
    client.post("/receipts")
    show_http(client)

# %% [markdown]
"""
A program has to check its variables when it starts. Here the old process was gone when
the first customer found the typo.

The next version checks them with pydantic-settings. The field has the type `SecretStr`,
which hides its value. The name is right now, but Ada has pasted only 20 of the 32
characters. Predict: what will the log show of the key?
"""

# %% tags=["predict"]
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class NaiveSettings(BaseSettings, env_prefix="SHOP_"):
    secret: SecretStr = Field(min_length=32)


with patch.dict(os.environ, {"SHOP_SECRET": key[:20]}):
    try:
        NaiveSettings()
    except ValueError:
        print(*traceback.format_exc().splitlines()[-4:-1], sep="\n")

# %% [markdown]
"""
Many people and programs can read a log (CWE-532). `SecretStr` hides a value only after
it has accepted the value. This one was refused first, and pydantic's error quotes what
it refuses.

## The decision

| option | good | costs |
|---|---|---|
| `os.environ` where it is needed | no code | a mistake waits for a request |
| Django `settings.py`, Flask `from_prefixed_env` | there already | a typo is accepted |
| pydantic-settings as it is | types, all mistakes at once | typos; secrets in errors |
| **a checked class, read at the start** | a mistake stops the start | 79 lines |
| a configuration service | changes without a restart | one more server |

We choose the **checked class**, built on pydantic-settings. In a rolling deployment new
processes replace old ones step by step. When a new one refuses to start, the old ones
keep serving. Choose a configuration service when values must change while the program
runs.

## Build it

### The idea

Pydantic's error has a list of all faults. We translate this list. Each line keeps the
name and the reason, and leaves out the value.
"""

# %%
try:
    NaiveSettings(secret=key[:20])
except ValueError as error:
    for fault in error.errors(include_input=False):
        print(fault["loc"], fault["msg"])

# %% [markdown]
"""
### A class that hides its input

`ExplicitSettings` differs from pydantic-settings in three ways:

- Its constructor takes only what it is given: `settings_customise_sources` leaves all
  other sources out. So no test depends on the variables of a laptop.
- It is frozen: no code can change a setting later.
- Its errors do not quote their input.

`Secret` is a type for the fields of your class. It holds at least 32 characters: a key
of HMAC-SHA-256 should be as long as the signature, 32 bytes.
"""

# %% tags=["export"]
from typing import Annotated, Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ExplicitSettings(BaseSettings):
    """Frozen settings from the constructor's arguments. Errors hide their input."""

    model_config = SettingsConfigDict(
        frozen=True,
        hide_input_in_errors=True,
        loc_by_alias=False,  # errors name the field
        populate_by_name=True,  # and the constructor takes its name
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any
    ) -> tuple[Any, ...]:
        return (init_settings,)


Secret = Annotated[SecretStr, Field(min_length=32)]  # RFC 2104, section 3


# %%
class Draft(ExplicitSettings, env_prefix="SHOP_"):
    secret: Secret


try:
    Draft(secret=key[:20])
except ValueError as error:
    pydantics_own = str(error)
    print(pydantics_own)

# %% [markdown]
"""
### Development defaults

A default lets a colleague start the shop without any variable. In production the same
default is a published secret. `development_default` marks such a field, and
`CheckedSettings` refuses the default in production. Its validator has the mode
"before": it sees a text before pydantic converts it. It sees defaults too, because
pydantic-settings validates them. `info.data` has the fields above this one;
`environment` is the first.
"""

# %% tags=["export"]
from typing import Literal

from pydantic import ValidationInfo, field_validator

DEVELOPMENT: Any = {"development_default": True}


def development_default(text: str, **options: Any) -> Any:
    """A pydantic Field with a default that production refuses."""
    return Field(text, json_schema_extra=DEVELOPMENT, **options)


class CheckedSettings(ExplicitSettings):
    """Base of a class with an `env_prefix`. It is production unless told otherwise."""

    environment: Literal["development", "test", "production"] = "production"

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_development_default(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        marked = field.json_schema_extra == DEVELOPMENT and value == field.default
        if marked and info.data.get("environment", "production") == "production":
            raise ValueError("needs a value of its own in production")
        return value


# %%
class Settings(CheckedSettings, env_prefix="SHOP_"):
    database_url: SecretStr = development_default("sqlite:///shop.db")
    secret: Secret = development_default("for development only, everybody can read it")
    page_size: int = Field(100, ge=1, le=1000)


print(Settings(environment="test"))

# %% [markdown]
"""
A URL can contain a password, so it is a `SecretStr` too.

### Names

The environment belongs to many programs, so pydantic-settings ignores names that it
does not know. But the prefix `SHOP_` is ours: an unknown name behind it is a typo.
"""

# %% tags=["export"]
from collections.abc import Mapping
from difflib import get_close_matches

Environ = Mapping[str, str]


def variables(kind: type[CheckedSettings]) -> dict[str, str]:
    """Each field's variable: its alias, or prefix and field name in upper case."""
    prefix = kind.model_config.get("env_prefix", "").upper()
    if not prefix:
        raise TypeError(f"{kind.__name__} needs an env_prefix: without it typos pass")
    names = {}
    for field, info in kind.model_fields.items():
        names[field] = str(info.validation_alias or prefix + field.upper())
    return names


def unknown_variables(kind: type[CheckedSettings], environ: Environ) -> list[str]:
    """One line per variable that has the prefix of `kind` and belongs to no field."""
    prefix = kind.model_config.get("env_prefix", "").upper()
    known = {name.removeprefix(prefix): name for name in variables(kind).values()}
    lines = []
    for name in sorted(environ):
        if name.upper().startswith(prefix) and name not in known.values():
            near = get_close_matches(name.upper().removeprefix(prefix), known, n=1)
            advice = f"did you mean {known[near[0]]}?" if near else "remove it"
            lines.append(f"{name}: is not a setting; {advice}")
    return lines


# %%
typos = {"SHOP_SECRT": key, "SHOP_COLOUR": "red", "SHPO_SECRET": key, "HOME": "/"}
for line in unknown_variables(Settings, typos):
    print(line)

# %% [markdown]
"""
A typo in the prefix itself, as in `SHPO_SECRET`, looks like the variable of another
program. Production finds it if the field has a development default, or none.

### All mistakes at once

`in_words` writes one line for one of pydantic's faults. `validated` collects
all lines:
"""

# %% tags=["export"]
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

AnySettings = TypeVar("AnySettings", bound=CheckedSettings)


def in_words(kind: type[CheckedSettings], fault: ErrorDetails) -> str:
    """One line: the variable and what is wrong with it, never its value."""
    words = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not fault["loc"]:  # a rule about the whole object
        return words
    return f"{variables(kind)[str(fault['loc'][0])]}: {words}"


def validated(kind: type[AnySettings], environ: Environ) -> AnySettings | list[str]:
    """The settings in `environ`, or one line per problem."""
    names = variables(kind).items()
    values: Any = {field: environ[name] for field, name in names if name in environ}
    problems = unknown_variables(kind, environ)
    try:
        settings = kind(**values)
    except ValidationError as error:
        for fault in error.errors(include_input=False):
            problems.append(in_words(kind, fault))
    return problems or settings


# %%
print(*validated(Settings, {"SHOP_PAGE_SIZE": "5,000"}), sep="\n")

# %% [markdown]
"""
`read_environment` raises the error, in a function of its own for two reasons:

- An exception that is raised inside `except` keeps pydantic's error as its
  `__context__`, with every value.
- Error trackers such as Sentry send the local variables of each function in the
  traceback. When this function raises, none of its variables holds a value.
"""

# %% tags=["export"]
import os


class SettingsError(ValueError):
    """The environment is wrong: one line per problem, and never a value."""


def read_environment(
    kind: type[AnySettings], environ: Environ | None = None
) -> AnySettings:
    """The settings in `environ`, by default the process's. Raises SettingsError."""
    checked = validated(kind, os.environ if environ is None else environ)
    del environ  # it holds values, and a traceback keeps local variables
    if isinstance(checked, list):
        raise SettingsError("\n".join(checked))
    return checked


# %% [markdown]
"""
## See it work

The folded cell defines `make_shop(settings)`: the same shop, with its settings as an
argument, so that it cannot exist without them.
"""


# %% tags=["stage"]
def make_shop(settings):
    shop = FastAPI()

    @shop.post("/receipts")
    def sign_receipt():
        return {"signature": sign(settings.secret.get_secret_value())}

    return shop


# %% [markdown]
"""
`start` is what the program runs first. `SystemExit` with a text prints the text,
without a traceback, and ends the process with the code 1. Ada deploys with three
variables, and `SHOP_ENVIRONMENT` is not one of them. Predict: how many lines will the
error have?
"""


# %% tags=["predict"]
def start():
    try:
        return make_shop(read_environment(Settings))
    except SettingsError as error:
        raise SystemExit(str(error)) from None


deployed = {"SHOP_SECRT": key, "SHOP_SECRET": key[:20], "SHOP_PAGE_SIZE": "5000"}
with patch.dict(os.environ, deployed):
    try:
        start()
    except SystemExit as stopped:
        print(stopped)

# %% [markdown]
"""
One of these lines is about a variable that Ada did not set. Each line says what to
change, and none shows a value. Ada corrects all of them, and the shop starts:
"""

# %%
url = "postgresql+psycopg://shop:h0tel-key@db.example/shop"
corrected = {"SHOP_SECRET": key, "SHOP_DATABASE_URL": url}
with patch.dict(os.environ, corrected), serving(start()) as client:
    client.post("/receipts")
    show_http(client)

# %% [markdown]
"""
## Check it

The folded cell defines `refuse(environ)`. It returns the error for these variables, and
what an error tracker would send: the traceback with all local variables.
"""


# %% tags=["stage"]
def refuse(environ):
    try:
        read_environment(Settings, environ)
    except SettingsError as error:
        inside = error.__traceback__.tb_next  # `refuse` itself has `environ`
        report = traceback.TracebackException(
            type(error), error, inside, capture_locals=True
        )
        return str(error), "".join(report.format())
    raise AssertionError(f"accepted: {sorted(environ)}")


# %%
wrong = {"SHOP_SECRT": "hunter1", "SHOP_SECRET": "hunter2", "SHOP_PAGE_SIZE": "hunter3"}
error, report = refuse(wrong)
named = [line.split(":")[0] for line in error.splitlines()]
settings = read_environment(Settings, corrected)
shown = f"{settings!r} {settings.model_dump_json()} {pydantics_own}"

assert set(wrong) <= set(named), "a wrong variable is not named"
assert "SHOP_DATABASE_URL" in named, "production runs with a development default"
assert "hunter" not in report, "the error shows a value"
assert "h0tel" not in shown and key[:20] not in shown, "a secret is shown"
print("each mistake is named; no value and no secret is shown")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `and name not in known.values()` | `and False` | a wrong variable is not named |
| `== "production":` | `== "staging":` | production runs with a development default |
| `hide_input_in_errors=True` | `hide_input_in_errors=False` | a secret is shown |

## Your turn

Behind a [load balancer](../glossary.md#load-balancer), each request comes from the
balancer's address. The address of the client stands in the header `X-Forwarded-For`,
which any client can write. So the shop has to know whose header it may believe. Write
the setting `trusted_proxies`:

- `SHOP_TRUSTED_PROXIES=10.0.0.0/8, 192.168.1.7` becomes a tuple of networks
  (`ipaddress.ip_network`). Without the variable the tuple is empty.
- Production refuses a list that trusts every IPv4 address or every IPv6 address, also
  in parts, such as `0.0.0.0/1, 128.0.0.0/1`. Development accepts it.
- A mistake names the variable and does not show the value.
"""


# %% tags=["exercise"]
class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: tuple[str, ...] = ()  # replace this, and add a check


# %%
from playbook.exercises.foundations.settings import HINTS, check

check(ProxySettings)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from pydantic import BeforeValidator


def networks(value):
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(part.strip()) for part in value.split(","))
    except ValueError:  # its message quotes the part
        raise ValueError("should be networks, separated by commas") from None


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(networks)]


class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Networks = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _leave_an_address_out(cls, value, info):
        joined = []
        for version in (4, 6):  # collapse_addresses takes one version at a time
            same = [network for network in value if network.version == version]
            joined += collapse_addresses(same)
        trusts_all = any(network.prefixlen == 0 for network in joined)
        if trusts_all and info.data.get("environment", "production") == "production":
            raise ValueError("should not trust every address in production")
        return value


assert check(ProxySettings)

# %% [markdown]
"""
## Take it with you

`playbook lift settings INTO` copies the recipe and its tests.

| seam | what you write |
|---|---|
| your class | a subclass of `CheckedSettings` with `env_prefix`, one line per setting |
| names without the prefix | `validation_alias="DATABASE_URL"`, and no `AliasChoices` |
| the start | `start` as above, before any connection or thread |
| the environment | nothing, or a mapping of names to texts, as below |

A file `.env` is such a mapping: `dotenv_values(".env") | os.environ`, with the library
python-dotenv. So is a secret that Docker mounts as a file:
`{"SHOP_SECRET": path.read_text().strip()} | os.environ`. Write it into the call: an
error tracker would send a local variable of `start`.

Four traps:

- FastAPI's manual reads settings in a cached dependency. That dependency runs at the
  first request. Call `read_environment` before you make the app.
- Your own validators must not quote their input: `in_words` passes on what they say.
- A list needs a validator that splits the text, as in the exercise.
- If a Kubernetes service is called `shop`, each pod gets `SHOP_SERVICE_HOST`. Choose
  another prefix, or switch `enableServiceLinks` off.

Hand it over:

- **Operations**: each line of the error names one variable. The exit code is 1.
- **Security**: search for `get_secret_value`. A debugger and the process's own
  environment still show the values.
- **Reviewer**: no `os.environ` outside of the recipe, no secret of type `str`.
- **Tests**: write `Settings(environment="test")`; the constructor reads nothing else.

## In short

Read all settings once, at the start, so that a mistake stops a deployment and not a
request. An unknown name behind your own prefix is a typo. A type that hides a secret
does not hide a refused one, so an error must be built without the value and outside of
the `except` block.

## Sources

The Twelve-Factor App, III "Config". OWASP ASVS 5.0: 13.3 (secret management), 13.4
(information leakage), 16.2.5 (sensitive data in logs). CWE-209, CWE-532. RFC 2104,
section 3 (keys of HMAC). Pydantic documentation, "Settings Management". Kubernetes
documentation, "Service" (environment variables).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Start here](start_here.ipynb) · [course map](../index.ipynb) · Next: [Clock and identifiers](clock_and_identifiers.ipynb)
"""
