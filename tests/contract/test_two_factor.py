"""Pantry answers what better-auth's plugin `twoFactor` answered, on both engines, but where it is stricter on purpose.

The clock of the replay moves on by a step before each new code: Pantry takes a code once.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import test_as_recorded
from one_time_codes import code_at
from record_two_factor_client import transcript
from replay import PLACEHOLDER, Deviation, Known, Replay, Target, key_of
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from test_as_recorded import LIKE_BETTER_AUTH

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.kit.live import serving
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.recorded import DIFFERENCES
from playbook.pantry.auth.wire import Auth
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings

HERE = Path(__file__).parent
CONFIGURATIONS: dict[str, dict[str, Any]] = {"T": {}, "U": {"sign_in_after_verification": True}}
OURS = {  # what Pantry's values look like
    "TOTP_SECRET": "[A-Z2-7]{32}", "RECOVERY_CODE": "(?:[A-Z2-7]{4}-){5}[A-Z2-7]{4}",
    "TWO_FACTOR": r"pass_[0-9A-Za-z]{38}", "TRUST_DEVICE": r"pass_[0-9A-Za-z]{38}",
}  # fmt: skip
WHY = {difference.what: difference.why for difference in DIFFERENCES}


def recorded() -> dict[int, list[dict[str, Any]]]:
    """The exchanges by section. `image` is null on SQL; a user without a second factor has no `twoFactorEnabled`."""
    text = (HERE / "two_factor.json").read_text(encoding="utf-8")
    sections: dict[int, list[dict[str, Any]]] = {}
    for exchange in json.loads(text)["exchanges"]:
        body = exchange["response"]["body"].replace('"twoFactorEnabled":false,', "")
        body = re.sub(r'("emailVerified":\w+),"createdAt"', r'\1,"image":null,"createdAt"', body)
        exchange["response"]["body"] = body
        sections.setdefault(exchange["section"], []).append(exchange)
    return sections


RECORDED = recorded()
AS_RECORDED = {key_of(exchange): exchange["response"] for group in RECORDED.values() for exchange in group}


def error(status: int, code: str, message: str, *headers: list[str]) -> dict[str, Any]:
    body = {"message": message, "code": code}
    content = ["content-type", "application/json"]
    return {"status": status, "body": json.dumps(body), "headers": [content, *headers]}


def first_code(key: str) -> dict[str, Any]:
    """The recorded answer, with the new session's handle, and of a user who has a second factor by now."""
    cookie = next(value for name, value in AS_RECORDED[key]["headers"] if name == "set-cookie")
    [new] = re.findall("<SESSION_TOKEN:[^>]*>", cookie)
    body = json.loads(AS_RECORDED[key]["body"])
    return {"body": json.dumps({"token": new, "user": body["user"] | {"twoFactorEnabled": True}})}


def like(key: str, old: str, new: str) -> dict[str, Any]:
    """The answer that was recorded for another exchange, with `new` in place of `old`."""
    response: dict[str, Any] = json.loads(json.dumps(AS_RECORDED[key]).replace(old, new))
    return response


CODE = ("INVALID_CODE", "Invalid code")
ONCE = Deviation(WHY["a code of the app, twice"], error(401, *CODE))
SIGNED_IN = [like("50 verify-totp", "alice#4", f"alice#9{number}") for number in range(3)]
COUNTED = [Deviation(WHY["wrong codes"], response) for response in SIGNED_IN]
ENDED = WHY["new password, second steps and trusted devices"]
UNTRUSTED = like("50 the old cookie of the device", "TWO_FACTOR#7", "TWO_FACTOR#97")
DEVIATIONS = {
    "50 the first code": Deviation(WHY["answer to the first code"], first_code("50 the first code")),
    "51 the first code": Deviation(WHY["answer to the first code"], first_code("51 the first code")),
    "52 the first code": Deviation(WHY["answer to the first code"], first_code("52 the first code")),
    "50 the same code again in a session": ONCE,
    "50 the same code again at sign-in": ONCE,
    "50 send-otp is not configured": Deviation(
        WHY["codes by mail"], {"status": 404, "body": "", "headers": []}
    ),
    "51 sign-in 1, a right code is too late": COUNTED[0],
    "51 sign-in 2, a right code is too late": COUNTED[1],
    "51 a recovery code while the account is locked": COUNTED[2],
    "52 a link that verifies and signs in": Deviation(
        WHY["a mailed link that signs in"], {"headers": [["content-type", "application/json"]]}
    ),
    "52 the trusted device, after the reset": Deviation(ENDED, UNTRUSTED),
    "52 the sign-in under way, after the reset": Deviation(
        ENDED, error(401, "INVALID_TWO_FACTOR_COOKIE", "Invalid two factor cookie")
    ),
}  # fmt: skip


class KnownCodes(Known):
    def form(self, name: str, kind: str) -> str:
        return OURS.get(kind) or super().form(name, kind)


class TwoFactorReplay(Replay):
    """Also sends the app's codes: `<TOTP:alice>` is a new one, `<TOTP_AGAIN:alice>` that which was sent last."""

    def __post_init__(self) -> None:
        self.known = KnownCodes(self.target)
        self.sent: dict[str, str] = {}

    def substituted(self, text: str, in_body: bool) -> str:
        return super().substituted(PLACEHOLDER.sub(self.code, text), in_body)

    def code(self, found: re.Match[str]) -> str:
        kind, _, who = found[1].partition(":")
        if kind == "TOTP":
            self.target.advance(30)
            self.sent[who] = code_at(self.known.values[f"TOTP_SECRET:{who}"], self.target.now().timestamp())
        return self.sent[who] if kind in ("TOTP", "TOTP_AGAIN") else found[0]


@pytest.fixture
def pantry(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Pantry as the configuration of a recording."""

    @contextmanager
    def started(configuration: str) -> Iterator[Target]:
        monkeypatch.setitem(test_as_recorded.CONFIGURATIONS, configuration, CONFIGURATIONS[configuration])
        with test_as_recorded.pantry_as(configuration, url) as target:
            yield replace(target, deviations=DEVIATIONS)

    return started


@pytest.mark.parametrize("section", RECORDED)
def test_answers_as_recorded(section: int, pantry: Callable[[str], Any]) -> None:
    exchanges = RECORDED[section]
    with pantry(exchanges[0]["configuration"]) as target:
        different = TwoFactorReplay(target).run(exchanges, {})
    assert not different, "\n".join(different)


def test_every_deviation_is_of_an_exchange() -> None:
    assert set(DEVIATIONS) <= set(AS_RECORDED)


# ---------------------------------------------------------------- the npm client

SEEN = json.loads((HERE / "two_factor_client.json").read_text(encoding="utf-8"))["transcript"]


def with_codes(app: ASGIApp, clock: FixedClock) -> ASGIApp:
    """`app`, and at `/codes?secret=` what an app with this secret shows next: the clock moves on by a step."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/codes":
            return await app(scope, receive, send)
        clock.advance(timedelta(seconds=30))
        secret = Request(scope).query_params["secret"]
        await PlainTextResponse(code_at(secret, clock.now().timestamp()))(scope, receive, send)

    return answer


@pytest.mark.usefixtures("better_auth_packages")
def test_its_client_sees_no_difference(url: str) -> None:
    settings = Settings(database_url=url, **LIKE_BETTER_AUTH)
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.create_all(engine)
    postbox = Postbox(MemorySender())
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), postbox, SeededBytes(2))
    with serving(with_codes(better_auth(auth), clock)) as client:
        seen = transcript(str(client.base_url).rstrip("/"), f"{client.base_url}/codes")
    postbox.close()
    engine.dispose()
    wanted = json.loads(json.dumps(SEEN))
    first = next(entry for entry in wanted if entry["label"] == "verifyTotp, the first code")
    first["data"]["user"]["twoFactorEnabled"] = True  # "answer to the first code"
    differences = [
        f"{one['label']}: expected {json.dumps(one)}, got {json.dumps(other)}"
        for one, other in zip(wanted, seen, strict=True)
        if one != other
    ]
    assert not differences, "\n".join(differences)
