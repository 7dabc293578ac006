"""Whose word is taken for a client's address: only that of proxies that the operator has named.

`FORWARDED_ALLOW_IPS` names them (the variable that uvicorn and gunicorn read, too). Without it nobody is believed, not
even this machine itself: a tunnel or a TCP proxy on it hands on whatever a stranger wrote.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "FORWARDED_ALLOW_IPS"
FORWARDED_PROTO = "forwarded_proto"  # key of the scope: "http" or "https", when a proxy that is believed said so
LONGEST = 64  # characters of an address with brackets and port; IPv6 has 45
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_networks(text: str, production: bool) -> tuple[Network, ...]:
    """The networks of `10.0.0.0/8, 192.168.1.7`; `*` is every address. Nobody for an empty text.

    Raises ValueError, which says what to do and does not repeat the text, for anything else, and in production for a
    list that trusts every address: then every client writes its own.
    """
    if not text.strip():
        return ()
    try:
        parts = [part.strip() for part in text.split(",")]
        found = [
            ipaddress.ip_network(each) for part in parts for each in (("0.0.0.0/0", "::/0") if part == "*" else (part,))
        ]
    except ValueError:
        found = []
    if not found:
        raise ValueError(
            f"{VARIABLE}: should be addresses or networks of your proxies, separated by commas; "
            f"for example {VARIABLE}=10.0.0.0/8,192.168.1.7"
        )
    whole = [
        network
        for version in (4, 6)
        for network in ipaddress.collapse_addresses(n for n in found if n.version == version)  # type: ignore[type-var]
        if network.prefixlen == 0  # two halves are a whole
    ]
    if production and whole:
        raise ValueError(
            f"{VARIABLE}: trusts every address, so every client could choose its own; name the networks of your "
            f"proxies, for example {VARIABLE}=10.0.0.0/8"
        )
    return tuple(found)


@lru_cache(4096)  # a client asks more than once
def parse_address(text: str) -> Address | None:
    """The address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; None for anything else.

    IPv4 in IPv6 (`::ffff:192.0.2.1`) is IPv4. A zone (`fe80::1%eth0`) is dropped: it names an interface of one machine.
    """
    text = text.strip(" \t")
    if not 0 < len(text) <= LONGEST or not text.isascii():
        return None
    if bracketed := re.fullmatch(r"\[([^\[\]]+)\](?::[0-9]{1,5})?", text):
        text = bracketed[1]
        if ":" not in text:
            return None
    elif ported := re.fullmatch(r"([0-9.]+):[0-9]{1,5}", text):
        text = ported[1]
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or ipaddress.IPv6Address(int(ip))


def from_the_right(headers: Sequence[str]) -> Iterator[str]:
    """The entries of a list header, last first: each proxy appends what it saw."""
    for line in reversed(headers):
        while line:
            line, _, last = line.rpartition(",")
            yield last


class TrustedProxies:
    """ASGI, outermost: `scope["client"]` is an IP address or None, and `scope["scheme"]` what a proxy said it is.

    Of X-Forwarded-For the entries are read from the right, for as long as the one who appended them is trusted; what
    is no address ends it, and the last hop that is known counts. Of X-Forwarded-Proto the last word counts. Forwarded,
    X-Forwarded-Host, X-Real-IP and the like are believed from nobody.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network] = ()) -> None:
        self.app, self.trusted = app, tuple(trusted)

    def trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.trusted)

    def client_of(self, peer: Address, forwarded: Sequence[str]) -> Address:
        """Who speaks through `peer`, by what trusted proxies say."""
        client = peer
        for entry in from_the_right(forwarded):
            if not self.trusts(client) or (said := parse_address(entry)) is None:
                break
            client = said
        return client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            host, port = scope.get("client") or ("", 0)
            peer = parse_address(host)
            scope["client"] = None if peer is None else (str(peer), port)
            if peer is not None and self.trusts(peer):
                headers = Headers(scope=scope)
                client = self.client_of(peer, headers.getlist("x-forwarded-for"))
                if client != peer:
                    scope["client"] = (str(client), 0)
                proto = next(from_the_right(headers.getlist("x-forwarded-proto")), "").strip().lower()
                if proto in ("http", "https"):
                    scope["scheme"] = scope[FORWARDED_PROTO] = proto
        await self.app(scope, receive, send)
