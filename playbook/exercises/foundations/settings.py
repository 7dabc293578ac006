"""The exercise of the page "Settings": its checker, its two hints, and answers that are wrong."""

import traceback
from ipaddress import ip_network
from typing import Any

from playbook.foundations.settings import SettingsError, read_environment
from playbook.kit.exercises import checker

HINTS = (
    "See 'Development defaults': a validator finds the environment in `info.data`, if it is right.\n"
    "`ip_network` raises a ValueError; look at what its message says about 'hunter2/24'.",
    "A BeforeValidator turns the text into networks, and raises an error in its own words.\n"
    "Two halves make a whole: look at `ipaddress.collapse_addresses`, once for each IP version.",
)

PARSE = """
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pydantic import BeforeValidator

def networks(value):
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(part.strip()) for part in value.split(","))
    except ValueError:
        raise ValueError("should be networks, separated by commas") from None

Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(networks)]
"""

WRONG = (
    # only looks for a network that is everything by itself
    """
exec(PARSE)

class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Networks = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check(cls, value, info):
        if info.data.get("environment") == "production" and any(n.prefixlen == 0 for n in value):
            raise ValueError("should not trust every address")
        return value
""",
    # lets ip_network's own message through, which quotes the part
    """
exec(PARSE)

class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        BeforeValidator(lambda v: tuple(ip_network(p.strip()) for p in v.split(",")) if isinstance(v, str) else v),
    ] = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check(cls, value, info):
        joined = [n for version in (4, 6) for n in collapse_addresses(n for n in value if n.version == version)]
        if info.data.get("environment") == "production" and any(n.prefixlen == 0 for n in joined):
            raise ValueError("should not trust every address")
        return value
""",
    # forgets that `info.data` has no environment when that is wrong itself
    """
exec(PARSE)

class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Networks = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check(cls, value, info):
        joined = [n for version in (4, 6) for n in collapse_addresses(n for n in value if n.version == version)]
        if info.data["environment"] == "production" and any(n.prefixlen == 0 for n in joined):
            raise ValueError("should not trust every address")
        return value
""",
    # counts addresses, and counts some of them twice
    """
exec(PARSE)

class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Networks = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check(cls, value, info):
        sizes = {version: sum(n.num_addresses for n in value if n.version == version) for version in (4, 6)}
        if info.data.get("environment") == "production" and (sizes[4] >= 2**32 or sizes[6] >= 2**128):
            raise ValueError("should not trust every address")
        return value
""",
    # refuses it everywhere
    """
exec(PARSE)

class ProxySettings(CheckedSettings, env_prefix="SHOP_"):
    trusted_proxies: Networks = ()

    @field_validator("trusted_proxies")
    @classmethod
    def _check(cls, value):
        if any(n.prefixlen == 0 for n in value):
            raise ValueError("should not trust every address")
        return value
""",
)

NAME = "SHOP_TRUSTED_PROXIES"
EVERYBODY = (
    "0.0.0.0/0",
    "10.0.0.0/8,::/0",
    "128.0.0.0/1,10.0.0.0/8,0.0.0.0/1",
    "::/1,fd00::/8,8000::/1",
    "64.0.0.0/2,192.0.0.0/2,0.0.0.0/2,128.0.0.0/2",
)
NOT_EVERYBODY = ("128.0.0.0/1", "0.0.0.0/1,0.0.0.0/1,10.0.0.0/8", "0.0.0.0/1,8000::/1")


@checker
def check(kind: Any) -> str:
    """Start with many values of SHOP_TRUSTED_PROXIES, in development and in production."""
    if read_environment(kind, {}).trusted_proxies != ():
        return f"not yet: without {NAME} the tuple should be empty"
    two = (ip_network("10.0.0.0/8"), ip_network("192.168.1.7/32"))
    for environment in ("production", "development"):
        found = proxies(kind, "10.0.0.0/8, 192.168.1.7", environment)
        if found != two:
            return f"not yet: in {environment} '10.0.0.0/8, 192.168.1.7' should become two networks, not {found!r}"
    given = kind(environment="test", trusted_proxies=two).trusted_proxies
    if given != two:
        return "not yet: a test that gives a tuple of networks should get them back"
    everybody = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    if proxies(kind, "0.0.0.0/0,::/0", "development") != everybody:
        return "not yet: development should accept 0.0.0.0/0,::/0"
    return refused(kind) or "right"


def proxies(kind: Any, value: str, environment: str) -> Any:
    """What a start with `value` gives: the networks, or the text of the error."""
    try:
        return read_environment(kind, {NAME: value, "SHOP_ENVIRONMENT": environment}).trusted_proxies
    except SettingsError as error:
        return "".join(traceback.format_exception_only(error)).split("Error: ", 1)[1].strip()


def refused(kind: Any) -> str:
    """What is wrong with the refusals; empty if nothing is."""
    for value in EVERYBODY:
        said = proxies(kind, value, "production")
        if not isinstance(said, str):
            return f"not yet: {value} trusts every address of one kind, and production accepts it"
        if not said.startswith(f"{NAME}: "):
            return f"not yet: the error should begin with {NAME}, not with {said[:30]!r}"
    for value in NOT_EVERYBODY:
        said = proxies(kind, value, "production")
        if isinstance(said, str):
            return f"not yet: {value} leaves half of the addresses out, and production refuses it: {said}"
    for environment in ("production", "development"):
        said = proxies(kind, "10.0.0.0/8,hunter2/24", environment)
        if not isinstance(said, str):
            return "not yet: hunter2/24 is no network"
        if "hunter2" in said:
            return f"not yet: the error shows the value: {said}"
        if not said.startswith(f"{NAME}: "):
            return f"not yet: the error should begin with {NAME}, not with {said[:30]!r}"
    said = proxies(kind, "10.0.0.0/8", "prodution")
    if not isinstance(said, str) or not said.startswith("SHOP_ENVIRONMENT: "):
        return f"not yet: with SHOP_ENVIRONMENT=prodution the error should name SHOP_ENVIRONMENT, not say {said!r}"
    return ""
