"""Replay recorded exchanges against a server and say where it speaks otherwise.

The recording has placeholders where a value was made by chance. A placeholder that a server sends for the first time
must have the right form and is remembered; from then on it must be that value. What the harness must send itself it
takes from what it remembers, from the mails, or makes with the secret.

What is not compared: the order of JSON keys and of lists, the words of VALIDATION_ERROR beyond `[body.FIELD]`, the
reason phrase, which HTTP/2 does not have, and the headers in `raw_http.TRANSPORT` and `Forms.extra_headers`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from raw_http import TRANSPORT, Answer, send, signed

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "data" / "better_auth.json"
SECTIONS = (HERE / "extra.json", HERE / "organizations.json")  # each section stands alone
ALNUM32 = "[A-Za-z0-9]{32}"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]*(?:[:# ][^<>]*)?)>")
FIELD = re.compile(r"\[((?:body|query)[^\]]*)\]")
SLACK = 120.0  # seconds between two clocks, and between making a session and looking at it


# ---------------------------------------------------------------- what a target has to say about itself


@dataclass(frozen=True)
class Forms:
    """What a value made by chance looks like, as regular expressions of the whole value."""

    user_id: str = ALNUM32
    session_id: str = ALNUM32
    cookie_token: str = ALNUM32
    handle: str = ALNUM32  # the JSON field `token`
    verify_token: str = r"[\w-]+\.[\w-]+\.[\w-]+"
    reset_token: str = "[A-Za-z0-9]{24}"
    delete_token: str = "[a-z0-9]{32}"
    other_id: str = ALNUM32  # of an organization, a member, an invitation
    invitation_token: str = ALNUM32  # what the mail of an invitation holds
    handle_is_cookie: bool = True  # False: `token` in a body must not be what the cookie holds
    absent_is_null: frozenset[str] = frozenset()  # members that may be missing where null was recorded
    extra_headers: frozenset[str] = frozenset()  # response headers that may come on top


@dataclass(frozen=True)
class Deviation:
    """A deliberate difference: what the target answers in place of the recorded answer, and why."""

    why: str
    response: Mapping[str, Any] = field(default_factory=dict)  # members of the recorded `response` to replace
    mails: list[dict[str, str]] | None = None  # in place of the recorded mails


def _not_offered(*_: Any) -> str:
    raise NotImplementedError("the target does not offer this")


@dataclass
class Target:
    """A running server and what the harness may do to it."""

    base_url: str
    secret: str
    mails: Callable[[], list[dict[str, Any]]]  # all so far: to, type, url, token
    advance: Callable[[float], None]  # seconds
    forms: Forms = Forms()
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    make_expired_token: Callable[[], str] = _not_offered  # a verification token whose time is over
    make_ghost_token: Callable[[], str] = _not_offered  # a good verification token of a user who is gone
    deviations: Mapping[str, Deviation] = field(default_factory=dict)  # by "SECTION LABEL"
    send: Callable[..., Answer] = send


# ---------------------------------------------------------------- comparing


class Mismatch(Exception):
    """Something is not as recorded; the message says what."""


@dataclass
class Known:
    """What the placeholders stand for so far."""

    target: Target
    values: dict[str, str] = field(default_factory=dict)

    def form(self, name: str, kind: str) -> str:
        """The regular expression of a placeholder that has no value yet."""
        forms = self.target.forms
        if kind == "SESSION_TOKEN":
            return forms.cookie_token if name.startswith("cookie ") else forms.handle
        known = {
            "USER_ID": forms.user_id,
            "ID32": forms.session_id,
            "VERIFY_JWT": forms.verify_token,
            "RESET_TOKEN": forms.reset_token,
            "DELETE_TOKEN": forms.delete_token,
            "ORG": forms.other_id,
            "MEMBER": forms.other_id,
            "INVITATION": forms.other_id,
            "INVITATION_TOKEN": forms.invitation_token,
            "ISO_MS_Z": TIME,
        }
        if kind not in known:
            raise Mismatch(f"the placeholder <{name}> cannot be compared")
        return known[kind]

    def match(self, expected: str, actual: str, cookie: bool = False) -> dict[str, str]:
        """What `actual` binds, when it is `expected`. Raises Mismatch."""
        pattern, names, last = "", list[str](), 0
        for found in PLACEHOLDER.finditer(expected):
            pattern += re.escape(expected[last : found.start()])
            last = found.end()
            kind = re.split("[:# ]", found[1])[0]
            name = f"{'cookie ' if cookie else ''}{found[1]}" if kind == "SESSION_TOKEN" else found[1]
            if kind == "BASE":
                pattern += re.escape(self.target.base_url)
            elif name in self.values:
                pattern += re.escape(self.values[name])
            else:
                pattern += f"(?P<p{len(names)}>{self.form(name, kind)})"
                names.append(name)
        matched = re.fullmatch(pattern + re.escape(expected[last:]), actual)
        if matched is None:
            raise Mismatch(f"expected {self.fill(expected)!r}, got {actual!r}")
        bound = {name: matched[f"p{number}"] for number, name in enumerate(names)}
        for name, value in bound.items():
            self.check_time(name, value)
        return {name: value for name, value in bound.items() if not name.startswith(("ISO_MS_Z", "ID32"))}

    def check_time(self, name: str, value: str) -> None:
        if ahead := re.fullmatch(r"ISO_MS_Z now\+(\d+)d", name):
            wanted = self.target.now() + timedelta(days=int(ahead[1]))
            if abs((datetime.fromisoformat(value) - wanted).total_seconds()) > SLACK:
                raise Mismatch(f"expected {wanted.isoformat(timespec='seconds')}, got {value}")

    def fill(self, text: str) -> str:
        """`text` with what is known, for a message."""
        return PLACEHOLDER.sub(lambda found: self.values.get(found[1], found[0]), text)

    def match_json(self, expected: Any, actual: Any, at: str = "body") -> dict[str, str]:
        """What `actual` binds. Keys must be the same, lists the same in any order. Raises Mismatch."""
        if isinstance(expected, str) and isinstance(actual, str):
            try:
                return self.match(expected, actual)
            except Mismatch as error:
                raise Mismatch(f"{at}: {error}") from None
        if isinstance(expected, dict) and isinstance(actual, dict):
            may_miss = self.target.forms.absent_is_null
            missing = {k for k in expected.keys() - actual.keys() if k not in may_miss or expected[k] is not None}
            if missing or actual.keys() - expected.keys():
                extra = sorted(actual.keys() - expected.keys())
                raise Mismatch(f"{at}: members missing {sorted(missing)}, not expected {extra}")
            bound: dict[str, str] = {}
            for key in expected.keys() & actual.keys():
                bound |= self.match_json(expected[key], actual[key], f"{at}.{key}")
            return bound
        if isinstance(expected, list) and isinstance(actual, list):
            return self.match_list(expected, actual, at)
        if type(expected) is not type(actual) or expected != actual:
            raise Mismatch(f"{at}: expected {expected!r}, got {actual!r}")
        return {}

    def match_list(self, expected: list[Any], actual: list[Any], at: str) -> dict[str, str]:
        if len(expected) != len(actual):
            raise Mismatch(f"{at}: expected {len(expected)} elements, got {len(actual)}")
        left, bound = list(actual), dict[str, str]()
        for number, wanted in enumerate(expected):
            for candidate in left:
                try:
                    bound |= self.match_json(wanted, candidate, f"{at}[{number}]")
                except Mismatch:
                    continue
                left.remove(candidate)
                break
            else:
                raise Mismatch(f"{at}: no element is {self.fill(json.dumps(wanted))}")
        return bound

    def match_cookie(self, expected: str, actual: str) -> dict[str, str]:
        """One Set-Cookie: name, attributes and their order, and that the signature is the secret's."""
        (name, value), (sent_name, sent) = (text.split(";", 1)[0].split("=", 1) for text in (expected, actual))
        attributes, sent_attributes = expected.partition(";")[2], actual.partition(";")[2]
        if name != sent_name or attributes != sent_attributes:
            raise Mismatch(f"set-cookie: expected {name}=…;{attributes}, got {sent_name}=…;{sent_attributes}")
        if not value.endswith(".<SIG>"):
            if value != sent:
                raise Mismatch(f"set-cookie {name}: expected {value!r}, got {sent!r}")
            return {}
        token = unquote(sent).rpartition(".")[0]
        if sent != signed(self.target.secret, token):
            raise Mismatch(f"set-cookie {name}: {sent!r} is not signed and encoded as recorded")
        try:
            return self.match(value.removesuffix(".<SIG>"), token, cookie=True)
        except Mismatch as error:
            raise Mismatch(f"set-cookie {name}: {error}") from None


# ---------------------------------------------------------------- one exchange after the other


@dataclass
class Replay:
    """The exchanges of one configuration against one target. `differences` is empty when all is as recorded."""

    target: Target
    known: Known = field(init=False)
    differences: list[str] = field(default_factory=list)
    where: str = "before the first exchange"
    mails_seen: int = 0

    def __post_init__(self) -> None:
        self.known = Known(self.target)

    # -- what is sent

    def substituted(self, text: str, in_body: bool) -> str:
        """`text` with values for its placeholders: in a body `token` is the handle, elsewhere the cookie's token."""

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name == "BASE":
                return self.target.base_url
            if name.startswith("SESSION_TOKEN:") and not in_body:
                name = f"cookie {name}"
            if name not in self.known.values:
                raise Mismatch(f"cannot be sent: <{name}> is not known")
            return self.known.values[name]

        return PLACEHOLDER.sub(value, text)

    def cookie_header(self, text: str) -> str:
        """The Cookie header, with each `TOKEN.<SIG>` signed, and `<WRONG_SIG>` the signature of another secret."""
        pairs = []
        for pair in text.split("; "):
            name, _, value = pair.partition("=")
            plain, _, kind = value.rpartition(".")
            if kind == "<SIG>":
                value = signed(self.target.secret, self.substituted(plain, False))
            elif kind == "<WRONG_SIG>":
                value = signed(self.target.secret[::-1] + "another", self.substituted(plain, False))
            else:
                value = self.substituted(value, False)
            pairs.append(f"{name}={value}")
        return "; ".join(pairs)

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Send one recorded request. Raises Mismatch when a placeholder in it has no value."""
        headers = {
            name: self.cookie_header(value) if name == "cookie" else self.substituted(value, False)
            for name, value in request["headers"].items()
        }
        body = request["body"] and self.substituted(request["body"], True)
        return self.target.send(
            self.target.base_url, request["method"], self.substituted(request["path"], False), headers, body
        )

    # -- what comes back

    def differs(self, text: str) -> None:
        self.differences.append(f"{self.where}: {text}")

    def learn(self, match: Callable[..., dict[str, str]], *arguments: Any) -> None:
        try:
            self.known.values |= match(*arguments)
        except Mismatch as error:
            self.differs(str(error))

    def compare(self, response: Mapping[str, Any], answer: Answer) -> None:
        if answer.status != response["status"]:
            self.differs(f"status: expected {response['status']}, got {answer.status}, {answer.body[:200]!r}")
            return  # the rest would only say it again
        self.compare_headers(response["headers"], answer)
        self.compare_body(response["body"], answer.body)
        self.check_secrecy(answer)

    def compare_headers(self, expected: Iterable[Iterable[str]], answer: Answer) -> None:
        pairs = [(name, value) for name, value in expected]
        wanted = {name: value for name, value in pairs if name != "set-cookie"}
        allowed = TRANSPORT | self.target.forms.extra_headers
        got = {name: value for name, value in answer.headers if name != "set-cookie"}
        for name in sorted(wanted.keys() - got.keys()):
            self.differs(f"header {name} is missing")
        for name in sorted(got.keys() - wanted.keys() - allowed):
            self.differs(f"header {name}: {got[name]} is not expected")
        for name in sorted(wanted.keys() & got.keys()):
            if name == "x-retry-after":
                self.learn(self.match_seconds, wanted[name], got[name])
            else:
                self.learn(self.known.match, wanted[name], got[name])
        cookies = [value for name, value in pairs if name == "set-cookie"]
        if len(cookies) != len(answer.cookies):
            self.differs(f"expected {len(cookies)} cookies, got {answer.cookies}")
            return
        for cookie, sent in zip(cookies, answer.cookies, strict=True):
            self.learn(self.known.match_cookie, cookie, sent)

    def match_seconds(self, expected: str, actual: str) -> dict[str, str]:
        """Whole seconds until a window ends: one may have gone by since it began."""
        if actual not in (expected, str(int(expected) - 1)):
            raise Mismatch(f"x-retry-after: expected {expected}, got {actual!r}")
        return {}

    def compare_body(self, expected: str, actual: str) -> None:
        if not expected or not actual:
            if expected != actual:
                self.differs(f"body: expected {expected!r}, got {actual!r}")
            return
        try:
            wanted, got = json.loads(expected), json.loads(actual)
        except ValueError:
            self.differs(f"body: not JSON: {actual[:200]!r}")
            return
        if isinstance(wanted, dict) and wanted.get("code") == "VALIDATION_ERROR" and isinstance(got, dict):
            words = got.get("message")
            named = set(FIELD.findall(wanted["message"]))
            if not isinstance(words, str) or set(FIELD.findall(words)) != named:
                self.differs(f"body.message: expected to name {sorted(named)}, got {words!r}")
            wanted, got = wanted | {"message": ""}, got | {"message": ""}
        self.learn(self.known.match_json, wanted, got)

    def check_secrecy(self, answer: Answer) -> None:
        """Where the JSON token is a handle, no body holds what a cookie holds."""
        if self.target.forms.handle_is_cookie:
            return
        for name, value in self.known.values.items():
            if name.startswith("cookie ") and value in answer.body:
                self.differs(f"the body holds the secret of <{name.removeprefix('cookie ')}>")

    # -- mails

    def new_mails(self) -> list[dict[str, Any]]:
        """The mails since the last call, but for notices, which only some targets send."""
        every = self.target.mails()
        new, self.mails_seen = every[self.mails_seen :], len(every)
        return [mail for mail in new if mail["type"] != "notice"]

    def compare_mails(self, expected: list[dict[str, str]] | None) -> None:
        got = self.new_mails()
        if expected is None:
            return
        if len(expected) != len(got):
            self.differs(f"expected {len(expected)} mails, got {[(mail['type'], mail['to']) for mail in got]}")
            return
        for wanted, mail in zip(expected, got, strict=True):
            for member, text in wanted.items():
                if member != "type":
                    self.learn(self.known.match, text, mail[member])

    # -- steps that the recording does not show

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        headers = {"content-type": "application/json", "origin": self.target.base_url}
        path = f"/api/auth/{path}"
        answer = self.target.send(self.target.base_url, "POST", path, headers, json.dumps(body))
        if answer.status != 200:
            self.differs(f"a step before it, POST {path}, answered {answer.status}, {answer.body[:200]!r}")
        return answer

    def enter(self, path: str, who: str, number: int, password: str) -> None:
        """Sign in or up as `who`, who is `<SESSION_TOKEN:who#number>` from then on."""
        address = {"name": who.title(), "email": f"{who}@example.com", "password": password}
        answer = self.post(path, address if path == "sign-up/email" else {k: address[k] for k in ("email", "password")})
        for cookie in answer.cookies:
            name, value = cookie.split(";")[0].split("=", 1)
            if name == "better-auth.session_token" and answer.status == 200:
                body = json.loads(answer.body)
                self.known.values[f"cookie SESSION_TOKEN:{who}#{number}"] = unquote(value).rpartition(".")[0]
                self.known.values[f"SESSION_TOKEN:{who}#{number}"] = body["token"]
                self.known.values[f"USER_ID:{who}"] = body["user"]["id"]

    def take_token(self, name: str) -> None:
        """Let `<name>` be the token of the last mail."""
        self.new_mails()
        mails = [mail for mail in self.target.mails() if mail["type"] != "notice"]
        if mails:
            self.known.values[name] = mails[-1]["token"]
        else:
            self.differs(f"no mail for <{name}> was sent")

    # -- all of it

    def run(self, exchanges: Iterable[Mapping[str, Any]], steps: Steps) -> list[str]:
        """Replay; each difference is one line. A step or a deviation that fits no exchange raises ValueError."""
        chosen = list(exchanges)
        names, sections = {key_of(exchange) for exchange in chosen}, {str(exchange["section"]) for exchange in chosen}
        for key in [*steps, *self.target.deviations]:
            if key not in names and key.split(" ")[0] in sections:
                raise ValueError(f"no exchange is called {key!r}")
        self.new_mails()
        for exchange in chosen:
            self.where = key = key_of(exchange)
            for step in steps.get(key, ()):
                step(self)
            deviation = self.target.deviations.get(key)
            response = dict(exchange["response"]) | dict(deviation.response if deviation else {})
            expected_mails = exchange["mails"] if deviation is None or deviation.mails is None else deviation.mails
            before = len(self.differences)
            try:
                answer = self.ask(exchange["request"])
            except Mismatch as error:
                self.differs(str(error))
                continue
            self.compare(response, answer)
            self.compare_mails(expected_mails)
            if deviation and deviation.response and len(self.differences) == before:
                self.check_needed(exchange, answer)
        return self.differences

    def check_needed(self, exchange: Mapping[str, Any], answer: Answer) -> None:
        """A deviation that the target no longer makes must go."""
        trial = Replay(self.target)
        trial.known.values = dict(self.known.values)
        trial.compare(exchange["response"], answer)
        if not trial.differences:
            self.differs("answers as recorded: its deviation is no longer needed")


Steps = dict[str, list[Callable[[Replay], None]]]


def key_of(exchange: Mapping[str, Any]) -> str:
    """`7 another own session`: how steps and deviations name an exchange."""
    return f"{exchange['section']} {exchange['label']}"


# ---------------------------------------------------------------- the steps between the recorded exchanges


def sign_up(who: str, number: int = 1) -> Callable[[Replay], None]:
    return lambda replay: replay.enter("sign-up/email", who, number, "correct-horse-1")


def sign_in(who: str, number: int, password: str = "correct-horse-1") -> Callable[[Replay], None]:
    return lambda replay: replay.enter("sign-in/email", who, number, password)


def wait(seconds: float) -> Callable[[Replay], None]:
    return lambda replay: replay.target.advance(seconds)


def token(name: str) -> Callable[[Replay], None]:
    return lambda replay: replay.take_token(name)


def post(path: str, body: Mapping[str, Any], times: int = 1) -> Callable[[Replay], None]:
    def step(replay: Replay) -> None:
        for _ in range(times):
            replay.post(path, body)

    return step


def old_tokens(replay: Replay) -> None:
    """Tokens that take the target some time to become what they must be. At the very start: a clock is moved."""
    replay.known.values["EXPIRED_JWT#1"] = replay.target.make_expired_token()
    replay.known.values["GHOST_JWT#1"] = replay.target.make_ghost_token()
    replay.new_mails()


EVE = {"email": "eve@example.com", "redirectTo": "/reset"}
DAVE = {"name": "Dave", "email": "dave@example.com", "password": "correct-horse-1", "callbackURL": "/welcome"}
NOBODY = {"email": "nobody@example.com"}
STEPS: Steps = {
    "1 Liveness, unknown path, wrong method": [old_tokens],
    "7 another user's token (200, but not revoked)": [sign_up("bob")],
    "8 revoke-sessions ends all, the caller's too (no Set-Cookie)": [sign_in("bob", 2)],
    "9 signed in": [sign_in("alice", 7)],
    "10 signed in, someone else's e-mail": [sign_in("alice", 8)],
    "15 wrong current password": [sign_in("alice", 10, "battery-staple-2")],
    "18 without password on a fresh session (younger than freshAge, 1 day)": [sign_in("bob", 3)],
    "19 verify": [token("VERIFY_JWT#4")],
    "20 verify signs in": [post("sign-up/email", DAVE), token("VERIFY_JWT#5")],
    "21 the 4th request-password-reset within 60 s": [post("request-password-reset", NOBODY, 3)],
    "21 sign-in after the window": [wait(11)],
    # Server E: 4 s to live, prolonged when 1 s old, fresh for 2 s, a reset token for 1 s.
    "22 after updateAge: expiresAt is pushed out and the cookie is set again": [
        post("request-password-reset", EVE),
        token("RESET_TOKEN#2"),
        wait(1.5),
    ],
    "22 list-sessions on a session older than freshAge": [wait(0.7)],
    "22 expired session: null, cookies cleared": [wait(5)],
}


def recordings() -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(name, configuration, exchanges) of what can be replayed, each from a server that has just been started.

    The page's configurations are one sequence each; in the files of SECTIONS each section is one.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for file in (PAGE, *SECTIONS):
        for exchange in json.loads(file.read_text(encoding="utf-8"))["exchanges"]:
            name = f"page {exchange['configuration']}" if file == PAGE else f"{file.stem} {exchange['section']}"
            groups.setdefault(name, []).append(exchange)
    return [(name, exchanges[0]["configuration"], exchanges) for name, exchanges in groups.items()]


def replay(target: Target, exchanges: Iterable[Mapping[str, Any]]) -> list[str]:
    """The differences of `target` from what was recorded, one line each."""
    return Replay(target).run(exchanges, STEPS)


def forged_jwt(secret: str, claims: Mapping[str, Any]) -> str:
    """A JWT as Better Auth signs it: HS256, header `{"alg":"HS256"}`."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(encoded(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256"}, claims))
    return f"{text}.{encoded(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())}"
