"""The replay itself: it accepts a server that answers as recorded, and refuses each single deviation from that.

No server is needed here. An echo answers with what was recorded, with values made up for the placeholders; then each
answer is damaged in every way we could think of, one at a time, and each must be noticed.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from raw_http import Answer, send, signed
from replay import PLACEHOLDER, STEPS, UUID, Deviation, Forms, Replay, Target, forged_jwt, key_of, recordings

SECRET = "the secret of the echo, long enough to be one"
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ECHO_FORMS = Forms(verify_token="[A-Z0-9_]+-.*", reset_token="[A-Z0-9_]+-.*", delete_token="[A-Z0-9_]+-.*")
GROUPS = recordings()


class Echo(Replay):
    """A replay whose server answers what was recorded."""

    def __init__(self, exchanges: list[dict[str, Any]], forms: Forms = ECHO_FORMS, **more: Any) -> None:
        self.by_request = {id(exchange["request"]): exchange for exchange in exchanges}
        self.made: dict[str, str] = {}
        self.sent: list[dict[str, Any]] = []  # mails
        target = Target(
            "http://127.0.0.1:1", SECRET, lambda: list(self.sent), lambda seconds: None, forms, lambda: NOW,
            lambda: "expired", lambda: "ghost", **more,
        )  # fmt: skip
        super().__init__(target)

    def value(self, name: str) -> str:
        """What a placeholder stands for: made up once."""
        if name == "BASE":
            return self.target.base_url
        if name.startswith("ISO_MS_Z"):
            days = re.search(r"\d+(?=d)", name)
            moment = NOW + timedelta(days=int(days[0]) if days else 0)
            return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if not name.startswith(("VERIFY", "RESET", "DELETE")):
            forms = self.target.forms
            session = forms.cookie_token if name.startswith("cookie ") else forms.handle
            form = session if "SESSION" in name else forms.user_id
            made = uuid.uuid5(uuid.NAMESPACE_URL, name.removeprefix("cookie ") if forms.handle_is_cookie else name)
            return self.made.setdefault(name, str(made) if form == UUID else made.hex)
        return self.made.setdefault(name, f"{name.replace('#', '-')}-made-up")

    def filled(self, text: str, cookie: bool = False) -> str:
        prefix = "cookie " if cookie else ""
        return PLACEHOLDER.sub(
            lambda found: self.value(f"{prefix if found[1].startswith('SESSION') else ''}{found[1]}"), text
        )

    def cookie(self, text: str) -> str:
        name, rest = text.split("=", 1)
        value, attributes = rest.split(";", 1)
        if value.endswith(".<SIG>"):
            value = signed(SECRET, self.filled(value.removesuffix(".<SIG>"), cookie=True))
        return f"{name}={value};{attributes}"

    def ask(self, request: Mapping[str, Any]) -> Answer:
        for name, value in request["headers"].items():
            self.cookie_header(value) if name == "cookie" else self.substituted(value, False)
        self.substituted(request["path"], False)
        exchange = self.by_request[id(request)]
        response = exchange["response"]
        headers = [(k, self.cookie(v) if k == "set-cookie" else self.filled(v)) for k, v in response["headers"]]
        for mail in exchange["mails"] or []:
            self.mail(mail)
        return Answer(response["status"], response["reason"], headers, self.filled(response["body"]))

    def mail(self, mail: Mapping[str, Any]) -> None:
        token = next(self.value(found[1]) for found in PLACEHOLDER.finditer(mail["url"]) if found[1] != "BASE")
        given = {"type": "verify-email", "to": "", "token": token}
        self.sent.append(given | {member: self.filled(text) for member, text in mail.items()})

    def enter(self, path: str, who: str, number: int, password: str) -> None:
        for name in (f"cookie SESSION_TOKEN:{who}#{number}", f"SESSION_TOKEN:{who}#{number}", f"USER_ID:{who}"):
            self.known.values[name] = self.value(name)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        return Answer(200, "OK", [], "{}")

    def take_token(self, name: str) -> None:
        self.known.values[name] = self.value(name)


# ---------------------------------------------------------------- damage


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every member and element of a JSON value, and of the value itself."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in inside:
        yield from leaves(member, (*path, key))


def damaged(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """`value` with the member at `path` gone, of another type, or another value of its own type."""
    copy = json.loads(json.dumps([value]))
    holder, key = copy, 0
    for step in path:
        holder, key = holder[key], step
    old = holder[key]
    others: dict[str, Any] = {"another type": [old]}
    if isinstance(old, str):
        others["another text"] = old.replace("[body", "[x").replace("[query", "[x") if "[" in old else f"{old}x"
        others["null"] = None
    elif isinstance(old, bool):
        others["flipped"] = not old
    elif old is None:
        others["empty"] = ""
    elif isinstance(old, dict):
        others["one more"] = old | {"surplus": 1}
    elif isinstance(old, list):
        others["one more"] = [*old, {}]
    for name, other in others.items():
        holder[key] = other
        yield f"{path}: {name}", json.loads(json.dumps(copy[0]))
    if path:
        del holder[key]
        yield f"{path}: gone", copy[0]


def damages(answer: Answer) -> Iterator[tuple[str, Answer]]:
    """Every damage to one answer, with its name."""
    yield "status", replace(answer, status=answer.status + 1)
    yield "one header more", replace(answer, headers=[*answer.headers, ("x-surplus", "1")])
    for number, (name, value) in enumerate(answer.headers):
        before, after = answer.headers[:number], answer.headers[number + 1 :]
        yield f"{name} gone", replace(answer, headers=before + after)
        yield f"{name} twice", replace(answer, headers=[*before, (name, f"{value}x"), *after])
        if name != "set-cookie":
            continue
        for what, other in (
            ("SameSite", value.replace("SameSite=Lax", "SameSite=None")),
            ("HttpOnly", value.replace("; HttpOnly", "")),
            ("order of attributes", value.replace("Path=/; HttpOnly", "HttpOnly; Path=/")),
            ("name", f"x{value}"),
            ("Max-Age", re.sub(r"Max-Age=\d+", "Max-Age=1", value) if "Max-Age" in value else f"{value}; Max-Age=1"),
            ("value", value.replace("=", "=x", 1)),
            ("not encoded", value.replace("%3D;", "=;") if "%3D;" in value else f" {value}"),
        ):
            yield f"set-cookie {what}", replace(answer, headers=[*before, (name, other), *after])
        swapped = [*before, *reversed(answer.headers[number : number + 2]), *answer.headers[number + 2 :]]
        if len(after) and after[0][0] == "set-cookie":
            yield "order of cookies", replace(answer, headers=swapped)
    yield "a body that is no JSON", replace(answer, body=answer.body + "}")
    if answer.body:
        yield "no body", replace(answer, body="")
        value = json.loads(answer.body)
        for path in leaves(value):
            for what, other in damaged(value, path):
                yield f"body {what}", replace(answer, body=json.dumps(other))


class Sabotage(Echo):
    """Damages each answer in every way before it is compared as it is. `unnoticed` is empty if all was seen."""

    unnoticed: list[str]
    tried = 0

    def compare(self, response: Mapping[str, Any], answer: Answer) -> None:
        for what, other in damages(answer):
            if (other.status, other.headers, other.body) == (answer.status, answer.headers, answer.body):
                continue
            trial = Replay(self.target)
            trial.known.values = dict(self.known.values)
            trial.compare(response, other)
            self.tried += 1
            if not trial.differences:
                self.unnoticed.append(f"{self.where}: {what}")
        super().compare(response, answer)


@pytest.mark.parametrize(("name", "exchanges"), [(name, exchanges) for name, _, exchanges in GROUPS])
def test_accepts_what_was_recorded_and_notices_each_damage(name: str, exchanges: list[dict[str, Any]]) -> None:
    echo = Sabotage(exchanges)
    echo.unnoticed = []
    assert echo.run(exchanges, STEPS) == []
    assert echo.tried > 10 * len(exchanges) / 2
    assert echo.unnoticed == []


@pytest.mark.parametrize("damage", ["gone", "one more", "another url"])
def test_notices_mails(damage: str) -> None:
    (exchanges,) = [exchanges for name, _, exchanges in GROUPS if name == "page A"]

    class Mails(Echo):
        def mail(self, mail: Mapping[str, Any]) -> None:
            if damage != "gone":
                super().mail(mail | ({"url": f"{mail['url']}x"} if damage == "another url" else {}))
            if damage == "one more":
                super().mail(mail)

    differences = Mails(exchanges).run(exchanges, STEPS)
    assert any("mail" in line or "expected" in line for line in differences)


def test_handle_must_not_be_the_cookie() -> None:
    """With forms that say so, a body that holds what a cookie holds is a difference."""
    (exchanges,) = [exchanges for name, _, exchanges in GROUPS if name == "page A"]
    forms = replace(ECHO_FORMS, handle=UUID, cookie_token=UUID, handle_is_cookie=False)
    assert Echo(exchanges, forms).run(exchanges, STEPS) == []

    class Leaky(Echo):
        def value(self, name: str) -> str:
            return super().value(name.removeprefix("cookie ") if name.startswith("cookie ") else name)

    assert any("holds the secret" in line for line in Leaky(exchanges, forms).run(exchanges, STEPS))


def test_a_deviation_is_needed_and_named_right() -> None:
    (exchanges,) = [exchanges for name, _, exchanges in GROUPS if name == "page B"]
    key = key_of(exchanges[0])
    needless = {key: Deviation("none", {"status": 200})}
    assert Echo(exchanges, deviations=needless).run(exchanges, STEPS) == [
        f"{key}: answers as recorded: its deviation is no longer needed"
    ]
    with pytest.raises(ValueError, match="no exchange is called"):
        Echo(exchanges, deviations={"19 no such": Deviation("none")}).run(exchanges, STEPS)


def test_every_step_belongs_to_an_exchange() -> None:
    assert set(STEPS) <= {key_of(exchange) for _, _, exchanges in GROUPS for exchange in exchanges}


def test_jwt_as_better_auth_signs_it() -> None:
    """Checked against the example of RFC 7515, A.1, in form: three parts, the header as recorded."""
    token = forged_jwt(SECRET, {"email": "a@example.com", "exp": 1})
    assert re.fullmatch(ECHO_FORMS.verify_token.replace("[A-Z0-9_]+-.*", Forms().verify_token), token)
    assert token.startswith("eyJhbGciOiJIUzI1NiJ9.")


def test_send_keeps_order_and_repeats() -> None:
    """The client neither folds cookies nor adds headers that would change a server's answer."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    seen: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.update({name.lower(): value for name, value in self.headers.items()})
            seen["body"] = self.rfile.read(int(self.headers["content-length"])).decode()
            self.send_response(200)
            for value in ("a=1, 2", "b=3"):
                self.send_header("Set-Cookie", value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        answer = send(f"http://127.0.0.1:{server.server_port}", "POST", "/x", {"origin": "null"}, "")
    assert answer.cookies == ["a=1, 2", "b=3"]
    assert set(seen) == {"host", "user-agent", "origin", "content-length", "body"}
    assert seen["body"] == ""
