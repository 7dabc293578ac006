"""The exercise of the page "Cookies": its checker, its hints, wrong answers; and the browser of the page's stage."""

import json  # noqa: F401  for WRONG
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from playbook.auth.cookies import SignedCookie
from playbook.kit.exercises import checker


class Browser:
    """A browser's cookies, by the rules of RFC 6265bis that tell planted, read and sent cookies apart.

    `store` takes a `Set-Cookie` value from a host, `header` is what that host is sent, `script` is `document.cookie`.
    Paths are left out: all are `/`.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, bool], tuple[str, frozenset[str]]] = {}

    def store(self, line: str, host: str, secure: bool = True) -> bool:
        """Whether the cookie was taken."""
        pair, *written = [part.strip() for part in line.split(";")]
        name, _, value = pair.partition("=")
        attributes = {key.lower(): text for key, _, text in (part.partition("=") for part in written)}
        domain = attributes.get("domain", "").lstrip(".")
        guarded = "secure" in attributes and secure
        if domain and host != domain and not host.endswith(f".{domain}"):
            return False
        if "secure" in attributes and not secure:
            return False
        if name.startswith("__Secure-") and not guarded:
            return False
        if name.startswith("__Host-") and not (guarded and not domain and attributes.get("path") == "/"):
            return False
        key = (name, domain or host, not domain)
        if attributes.get("max-age") == "0":
            self.kept.pop(key, None)
        else:
            self.kept[key] = (value, frozenset(attributes))
        return True

    def _cookies(self, host: str, secure: bool, script: bool) -> str:
        sent = []
        for (name, domain, one_host), (value, attributes) in self.kept.items():
            fits = host == domain if one_host else host == domain or host.endswith(f".{domain}")
            if fits and (secure or "secure" not in attributes) and not (script and "httponly" in attributes):
                sent.append(f"{name}={value}")
        return "; ".join(sent)

    def header(self, host: str, secure: bool = True) -> str:
        """The `Cookie` header of a request to `host`."""
        return self._cookies(host, secure, script=False)

    def script(self, host: str) -> str:
        """What a script in a page of `host` reads."""
        return self._cookies(host, True, script=True)


HINTS = (
    "Whoever has a voucher can copy it: see what the signature does not stop.\n"
    "What must the signed value say besides the percent?",
    "Put the customer into the value, and compare the whole name. A name may contain\n"
    "any character that you put between the two.",
)

WRONG = (
    # the signature does not say whose it is
    """
def give_voucher(cookie, customer, percent, now):
    return cookie.put(str(percent), now, timedelta(days=30))
def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    return int(voucher)
""",
    # a separator that is part of a name
    """
def give_voucher(cookie, customer, percent, now):
    return cookie.put(f"{customer}:{percent}", now, timedelta(days=30))
def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    owner, percent = voucher.split(":")
    return int(percent) if owner == customer else 0
""",
    # no separator: "ada1" with 5 is "ada" with 15
    """
def give_voucher(cookie, customer, percent, now):
    return cookie.put(f"{customer}{percent}", now, timedelta(days=30))
def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    if not voucher.startswith(customer):
        return 0
    return int(voucher.removeprefix(customer) or 0)
""",
    # a name that begins in the same way
    """
def give_voucher(cookie, customer, percent, now):
    return cookie.put(f"{percent}:{customer}", now, timedelta(days=30))
def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    percent, _, owner = voucher.partition(":")
    return int(percent) if owner.startswith(customer) else 0
""",
    # a week is not thirty days
    """
def give_voucher(cookie, customer, percent, now):
    return cookie.put(json.dumps([customer, percent]), now, timedelta(days=7))
def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    owner, percent = json.loads(voucher)
    return percent if owner == customer else 0
""",
)
GIVEN = datetime(2026, 11, 2, tzinfo=UTC)
NAMES = ("ada", "ada1", "ad", "ada:5", "5:ada", ":", "Zoë; the 2nd", 'a,b.c"d', "1")
Give = Callable[[SignedCookie, str, int, datetime], str]
Read = Callable[[SignedCookie, list[str], str, datetime], int]


@checker
def check(give: Give, read: Read) -> str:
    """Vouchers of customers with odd names, in their own browsers and in those of the others."""
    cookie = SignedCookie("__Host-voucher", [b"k" * 32])

    def worth(owner: str, percent: int, customer: str, days: float = 1) -> int:
        line = give(cookie, owner, percent, GIVEN).split(";")[0]
        return read(cookie, ["theme=dark", line], customer, GIVEN + timedelta(days=days))

    if read(cookie, [], "ada", GIVEN) != 0:
        return "not yet: without a voucher the reduction is 0"
    if worth("ada", 10, "ada") != 10:
        return f"not yet: ada has a voucher of 10 percent, and is given {worth('ada', 10, 'ada')!r}"
    if worth("ada", 10, "bob") != 0:
        return "not yet: bob has copied ada's cookie, and is given her voucher"
    for owner in NAMES:
        for percent in (5, 10, 15):
            try:
                own = worth(owner, percent, owner)
            except ValueError:
                return f"not yet: a customer is called {owner!r}, and the voucher of that customer cannot be read"
            if own != percent:
                return f"not yet: a customer is called {owner!r}, and is given {own!r} instead of {percent} percent"
    for owner in NAMES:
        for customer in NAMES:
            try:
                stolen = worth(owner, 5, customer) if customer != owner else 0
            except ValueError:
                return f"not yet: {customer!r} has copied the cookie of {owner!r}, and the page of the shop is an error"
            if stolen:
                return f"not yet: {customer!r} has copied the cookie of {owner!r}, and is given {stolen!r} percent"
    ends = [worth("ada", 5, "ada", days) for days in (29.9, 30.1)]
    if ends != [5, 0]:
        return f"not yet: on day 29 and on day 30 a voucher should be worth [5, 0], and is worth {ends}"
    return "right"
