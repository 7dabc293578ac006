"""Better Auth's recording against Pantry, by the recipe `auth/foreign_contract`; and the deliberate differences."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx

from playbook.auth import foreign_contract
from playbook.auth.foreign_contract import Exchange, Known
from playbook.pantry.auth.sessions import Cookies

UUID_FORM = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
FORMS = {  # what Pantry's values look like, by kind of placeholder; the recorded server's had other forms
    "SESSION_TOKEN": UUID_FORM, "USER_ID": UUID_FORM, "ID32": UUID_FORM,
    "ISO_MS_Z": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "COOKIE": r"session_\w{38}\.[^;]+",
    "WORDS": "(?s:.*)",
}  # fmt: skip
TOKEN = re.compile(r"<SESSION_TOKEN:([^<>]*)>(\.<\w+>)?")
FIELD = re.compile(r"\[[a-z.]+\w*\]")


class InPantry(Known):
    """A cookie's value is signed. `<COOKIE:NAME>` is token and signature, `<UNSIGNED:NAME>` the token alone."""

    def __init__(self, base: str, cookies: Cookies) -> None:
        super().__init__(FORMS, {"BASE": base})
        self.cookies = cookies

    def fill(self, text: str) -> str:
        plain = re.sub("<UNSIGNED:([^<>]*)>", lambda name: self.values[f"COOKIE:{name[1]}"].partition(".")[0], text)
        return super().fill(plain)

    def learn(self, name: str, value: str) -> bool:
        genuine = not name.startswith("COOKIE:") or self.cookies.signed(unquote(value).rpartition(".")[0]) == value
        return genuine and super().learn(name, value)


def as_cookie(recorded: str, cookies: Cookies) -> str:
    """A `Cookie` or `Set-Cookie` header with Pantry's own placeholders.

    The value in a cookie and `token` in JSON are one for Better Auth, and two for Pantry: a secret, and a handle that
    can revoke and not sign in.
    """

    def whole(found: re.Match[str]) -> str:
        signature = found[2]
        name = f"<COOKIE:{found[1]}>" if signature else f"<UNSIGNED:{found[1]}>"
        return f"{name}x" if signature == ".<WRONG_SIG>" else name

    return re.sub(r"(\w+)\.<SIG>", lambda found: cookies.signed(found[1]), TOKEN.sub(whole, recorded))


def without_words(body: str) -> Any:
    """The value of a body. Of a validation error only the first field: its words are a library's of the original."""
    value: Any = json.loads(body) if body else ""
    if isinstance(value, dict) and value.get("code") == "VALIDATION_ERROR":
        value["message"] = "".join(FIELD.findall(value["message"])[:1]) + "<WORDS>"
    return value


def prepared(exchange: Exchange, cookies: Cookies) -> Exchange:
    """A recorded exchange with Pantry's own placeholders, for `foreign_contract.replay`."""
    asked, answered = exchange["request"], exchange["response"]
    cookie = {"cookie", "set-cookie"}
    sent = {name: as_cookie(text, cookies) if name in cookie else text for name, text in asked["headers"].items()}
    got = [f"{name}: {as_cookie(text, cookies) if name in cookie else text}" for name, text in answered["headers"]]
    response = {"status": answered["status"], "headers": got, "body": without_words(answered["body"])}
    label = f"{exchange['section']} {exchange['label']}"
    request = {"method": asked["method"], "url": asked["path"], "headers": sent, "content": asked["body"] or ""}
    return {"label": label, "request": request, "response": response}


def replay(client: httpx.Client, exchanges: Sequence[Exchange], base: str, cookies: Cookies) -> dict[str, list[str]]:
    """Send what was recorded, in order; by label, where an answer differs. `client` must keep no cookies of its own."""
    recording = [prepared(exchange, cookies) for exchange in exchanges]
    return foreign_contract.replay(client, recording, InPantry(base, cookies), {})


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


DIFFERENCES += (
    Difference(
        "organizations, signed out", "401 in four forms, or 400", "401 UNAUTHORIZED", "one question, one answer"
    ),
    Difference("an empty or unknown role", "an error without a code", "ROLE_NOT_FOUND", "a front end reads the code"),
    Difference(
        "answering an invitation",
        "by any account with the address",
        "the address must be proven",
        "whoever signs up with it first would join",
    ),
    Difference(
        "`id` of an invitation in JSON",
        "accepts it",
        "takes it back; the mail's token accepts",
        "lists show it, and a mailbox may have changed hands since the address was proven",
        "STRICT_PROOF",
    ),
    Difference("invitation in the database", "what accepts it", "the hash of that", STORED),
    Difference("sending an invitation again", "the same link", "a new one, and the old one is dead", "mails are lost"),
    Difference("invitation of who may invite no more", "good", "dead", "a removed admin would come back by it"),
    Difference("older invitations of an address", "are kept and listed", "only the newest", "one offer, one row"),
    Difference("taking back an answered invitation", "marks it canceled", "INVITATION_NOT_FOUND", "it was answered"),
    Difference(
        "mails of invitations", "as often as asked", "20 an hour, 3 to one address", "mail bombing", "RATE_LIMITS"
    ),
    Difference("sessions of a removed member", "name the organization", "name none", "ASVS 8.3.2: at once"),
    Difference("no active organization", "null", "left out", "sessions look as they do without the plugin"),
    Difference(
        "two owners leave at once", "no owner is left", "one is told to stay", "the team would belong to nobody"
    ),
    Difference("roles of a member", "several, with commas", "one", "each role may do what those below it may"),
    Difference(
        "an admin and an owner's invitation", "may take it back", "may not", "no role decides about a higher one"
    ),
    Difference("slug of an organization", "any text", "a-z, 0-9 and -", "it stands in URLs and in mails"),
    Difference("deleting an organization with packages", "deletes", "409", "nobody could change them any more"),
    Difference("filters of list-members", "any column and operator", "ignored", "ASVS 15.3.5: bounded input"),
    Difference("a code of the app, twice", "works for 90 seconds", "401 INVALID_CODE", "ASVS 6.5.1"),
    Difference("a code of the step before, or of the next", "works", "401 INVALID_CODE", "ASVS 6.5.5: 30 seconds"),
    Difference("wrong codes", "a lock after ten; none in a session", "throttled; recovery codes apart", "CWE-645"),
    Difference("recovery codes", "59 bits, encrypted", "120 bits, hashed", "ASVS 6.5.2"),
    Difference("secret of the app", "one key for all", "a key for each user, by HKDF", "rows cannot be exchanged"),
    Difference("answer to the first code", "the old session's token", "the new one's", "the old one has ended"),
    Difference("new second factor, other sessions", "go on", "end", "they never gave it"),
    Difference("`twoFactorEnabled` without one", "false", "left out", "answers of the core stay as they were"),
    Difference("second factor off, its secret, new codes", "the password", "and a code of this session", "ASVS 7.5.3"),
    Difference("new password or address, deletion", "the password", "and a code of this session", "ASVS 7.5.1"),
    Difference("new password, second steps and trusted devices", "stay good", "end", "whoever had the old one"),
    Difference("trusted device", "as long as it is used", "30 days after a code", "ASVS 7.3.2"),
    Difference("a mailed link that signs in", "without a second factor", "does not sign in", "who reads mails has one"),
    Difference("codes by mail", "an option", "not offered", "the mailbox resets the password already"),
    Difference("second factor on, off, recovery", "nobody is told", "a notice", "ASVS 6.3.7"),
)
