"""How an answer is compared with the recorded one of a real better-auth, and where the two differ on purpose."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx

from playbook.pantry.auth.sessions import Cookies

UUID_FORM = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
FORMS = {  # what Pantry's values look like, by kind of placeholder; the recorded server's had other forms
    "SESSION_TOKEN": UUID_FORM, "USER_ID": UUID_FORM, "ID32": UUID_FORM,
    "ISO_MS_Z": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "COOKIE": r"session_\w{38}",
}  # fmt: skip
PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]*)([:# ][^<>]*)?>")


def unify(expected: Any, actual: Any, known: dict[str, str], where: str = "body") -> Iterator[str]:
    """Where `actual` is not what was recorded, in words.

    Binds placeholders in `known`; order in lists does not count.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        yield from (f"{where}.{name} is missing" for name in expected.keys() - actual.keys())
        yield from (f"{where}.{name} is new" for name in actual.keys() - expected.keys())
        for name in sorted(expected.keys() & actual.keys()):
            yield from unify(expected[name], actual[name], known, f"{where}.{name}")
    elif isinstance(expected, list) and isinstance(actual, list):
        for item in expected:
            if not any(not list(unify(item, other, dict(known))) for other in actual):
                yield f"{where}: nothing in it is like {item}"
        if len(expected) != len(actual):
            yield f"{where} has {len(actual)} items, not {len(expected)}"
    elif isinstance(expected, str) and isinstance(actual, str) and (found := PLACEHOLDER.fullmatch(expected)):
        yield from bind(found, actual, known, where)
    elif type(expected) is not type(actual) or expected != actual:
        yield f"{where} is {actual!r}, not {expected!r}"


def bind(found: re.Match[str], actual: str, known: dict[str, str], where: str) -> Iterator[str]:
    """Learn what a placeholder stands for, or compare with what was learned. Without a name it is only a form."""
    kind, name = found[1], found[2] or ""
    if not re.fullmatch(FORMS[kind], actual):
        yield f"{where} is {actual!r}, which does not look like {found[0]}"
    elif name.startswith(":") and known.setdefault(found[0], actual) != actual:
        yield f"{where} is {actual!r}, but {found[0]} was {known[found[0]]!r}"


def unify_cookie(expected: str, actual: str, known: dict[str, str], cookies: Cookies) -> Iterator[str]:
    """Where a `Set-Cookie` value is not what was recorded."""
    (name, value), (actual_name, actual_value) = expected.split("=", 1), actual.split("=", 1)
    (value, *attributes), (actual_value, *actual_attributes) = value.split("; "), actual_value.split("; ")
    if (name, attributes) != (actual_name, actual_attributes):
        yield f"cookie {actual_name}; {actual_attributes}, not {name}; {attributes}"
    token = unquote(actual_value).rpartition(".")[0]
    if token and cookies.signed(token) != actual_value:
        yield f"cookie {name} is not signed"
    recorded = value.removesuffix(".<SIG>")
    if found := PLACEHOLDER.fullmatch(recorded.replace("SESSION_TOKEN", "COOKIE")):
        yield from bind(found, token, known, f"cookie {name}")
    elif recorded != token:
        yield f"cookie {name} is {token!r}, not {recorded!r}"


def filled(text: str, known: dict[str, str], base: str) -> str:
    """`text` with every placeholder replaced by what it stands for."""
    return PLACEHOLDER.sub(lambda found: base if found[1] == "BASE" else known[found[0]], text)


def cookie_header(recorded: str, known: dict[str, str], cookies: Cookies) -> str:
    """A `Cookie` header as recorded: signed, signed wrongly, or not at all."""
    sent = []
    for name, value in (pair.split("=", 1) for pair in recorded.split("; ")):
        token, _, signature = value.replace("SESSION_TOKEN", "COOKIE").partition(".<")
        token = filled(token, known, "")
        sent.append(f"{name}={token}" if not signature else f"{name}={cookies.signed(token)}")
        sent[-1] += "x" if signature == "WRONG_SIG>" else ""
    return "; ".join(sent)


EXTRA = {"content-length", "date", "x-request-id"}  # headers that say nothing about the contract


def replay(
    client: httpx.Client, exchanges: Sequence[Mapping[str, Any]], base: str, cookies: Cookies
) -> dict[str, list[str]]:
    """Send what was recorded, in order; by label, where an answer differs. `client` must keep no cookies of its own."""
    known: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for exchange in exchanges:
        asked, answered = exchange["request"], exchange["response"]
        headers = {name: filled(value, known, base) for name, value in asked["headers"].items() if name != "cookie"}
        if "cookie" in asked["headers"]:
            headers["cookie"] = cookie_header(asked["headers"]["cookie"], known, cookies)
        body = filled(asked["body"] or "", known, base)
        got = client.request(asked["method"], asked["path"], content=body, headers=headers)
        client.cookies.clear()
        different = list(differences(answered, got, known, cookies))
        if different:
            found[exchange["label"]] = different
    return found


def differences(
    answered: Mapping[str, Any], got: httpx.Response, known: dict[str, str], cookies: Cookies
) -> Iterator[str]:
    """Where an answer is not what was recorded: status, headers, cookies, body."""
    if got.status_code != answered["status"]:
        yield f"status {got.status_code}, not {answered['status']}"
    headers = {name: value for name, value in answered["headers"] if name != "set-cookie"}
    actual = {name: value for name, value in got.headers.items() if name not in EXTRA | {"set-cookie"}}
    yield from unify(headers, actual, known, "headers")
    set_before = [value for name, value in answered["headers"] if name == "set-cookie"]
    set_now = got.headers.get_list("set-cookie")
    if len(set_before) != len(set_now):
        yield f"{len(set_now)} cookies, not {len(set_before)}"
    for before, now in zip(set_before, set_now, strict=False):
        yield from unify_cookie(before, now, known, cookies)
    yield from unify(read(answered["body"]), read(got.text), known)


def read(body: str) -> Any:
    """JSON, of which a validation error's words are not part: they are a library's of the original."""
    value = json.loads(body) if body else ""
    if isinstance(value, dict) and value.get("code") == "VALIDATION_ERROR":
        value["message"] = re.findall(r"\[[a-z.]+\w*\]", value["message"])[:1]
    return value


STORED = "whoever reads the database must not be signed in by it"
PRIVATE = "ASVS 6.3.8"


@dataclass(frozen=True)
class Difference:
    """A deliberate difference from Better Auth 1.7.

    `setting`: what brings the original's behaviour back, if anything.
    """

    what: str
    better_auth: str
    pantry: str
    why: str
    setting: str = ""


DIFFERENCES: tuple[Difference, ...] = (
    Difference("password hash", "scrypt", "argon2id; scrypt is verified and replaced", "OWASP Password Storage"),
    Difference(
        "password", "8 characters", "15, and none that is known", "NIST 800-63B-4 3.1.1.2", "PASSWORD_MIN_LENGTH"
    ),
    Difference(
        "password's length", "UTF-16 units as sent", "characters after NFKC", "what is hashed is what is counted"
    ),
    Difference("session in the database", "the token", "its hash", STORED),
    Difference(
        "`token` in JSON", "the session's secret", "a handle that revokes", "scripts read JSON, and logs keep it"
    ),
    Difference("reset link in the database", "the token", "its hash", STORED),
    Difference("verification link", "a JWT", "a random token, its hash stored", "it can be taken back"),
    Difference("link of a deleted user, or of an old address", "USER_NOT_FOUND", "INVALID_TOKEN", "it went with them"),
    Difference("redirect of a link", "as it is", "with Referrer-Policy: no-referrer", "its URL has a token in it"),
    Difference("sign-in in a browser with a session", "the old one goes on", "the old one ends", "ASVS 7.2.4"),
    Difference("session in use", "lives for ever", "30 days at most", "ASVS 7.3.2", "SESSION_ABSOLUTE_LIFETIME"),
    Difference("Max-Age of a renewed cookie", "the full lifetime", "what is left", "it ends with its session"),
    Difference("cookie `session_data`", "cleared when seen", "ignored", "it is never set"),
)


DIFFERENCES += (
    Difference("guesses", "by address and path", "by account and network too", "NIST 800-63B-4 3.2.2", "RATE_LIMITS"),
    Difference("too many requests", "X-Retry-After", "Retry-After as well", "RFC 9110 10.2.3"),
    Difference(
        "unknown paths", "count as requests", "404, counted with all requests of a network", "one limit for all"
    ),
    Difference("a long body, signed out", "its faults are named", "401, and it is not read", "work for a stranger"),
    Difference("all requests", "no limit together", "one per network, one per account", "ASVS 2.4.1", "RATE_LIMITS"),
    Difference(
        "limit of a reset link", "one for each token", "one for all", "ASVS 2.4.1: each guess was a token of its own"
    ),
    Difference(
        "a client's address", "X-Forwarded-For", "from proxies that are trusted", "anybody can write that header"
    ),
    Difference("sign-up with a taken address", "nobody is told", "its owner gets a notice", PRIVATE),
    Difference("asking for a link, signed out", "answers after 500 ms", "answers before any look-up", PRIVATE),
    Difference("mails to one person", "as often as asked", "with a pause that doubles", "mail bombing", "RATE_LIMITS"),
    Difference(
        "names in mails", "as the template likes", "left out", "whoever signs up with your address chooses them"
    ),
    Difference("names and URLs", "any length, any type", "200 and 2,000 characters", "ASVS 15.3.5: bounded input"),
    Difference(
        "JSON with a name twice, NUL, endless nesting", "taken", "400 BAD_REQUEST", "two readers could disagree"
    ),
    Difference("redirects with userinfo, or encoded hosts", "by their host", "refused", "ASVS 3.7.2"),
    Difference("white space around an address", "INVALID_EMAIL", "ignored", "it is not part of the address"),
    Difference("check of origin and fields", "fields first", "origin first", "a stranger's page learns nothing"),
    Difference("one query parameter twice", "400", "the last one counts", "for the check and for the redirect alike"),
)


DIFFERENCES += (
    Difference("right password, unproven address", "403", "401, as if wrong", PRIVATE, "STRICT_PROOF"),
    Difference("two passwords, unproven address", "the first", "neither", "pre-hijacking", "STRICT_PROOF"),
    Difference("reset by a mailed link", "stays unverified", "is verified", "it proves as much", "STRICT_PROOF"),
    Difference("new password, other sessions", "go on unless asked", "end", "ASVS 7.4.3", "REVOKE_SESSIONS_ON_CHANGE"),
    Difference("new password, links under way", "stay good", "are dead", "a thief's request would outlive it"),
    Difference("change of address, deletion", "any session, a day", "signed in within ten minutes", "ASVS 7.5.1"),
    Difference("change to a taken address", "no mail", "the same mails as to a free one", PRIVATE),
    Difference("approving a change", "an option", "the old address is asked", "ASVS 7.5.1", "CONFIRM_EMAIL_CHANGE"),
    Difference("changed address", "stays unverified", "is verified", "who opens the link has proven it"),
    Difference("address taken while a change waits", "500", "INVALID_TOKEN", "a race is no failure of the server"),
    Difference("security changes", "nobody is told", "a notice, to the old address too", "ASVS 6.3.7"),
    Difference("deleting the last owner of a team", "deletes", "400 LAST_OWNER", "the team would belong to nobody"),
    Difference("deleting by a mailed link", "an option", "not offered", "the password is asked instead"),
)
