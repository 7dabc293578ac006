"""Record Better Auth's plugin `twoFactor`, from the real better-auth on its memory adapter, in the form of extra.json:

    python record_two_factor.py > two_factor.json

A code is recorded as `<TOTP:WHO>`: that of the authenticator app of WHO when it was sent.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone, also where another one is installed

from better_auth_server import running
from one_time_codes import code_at
from record_extra import PASSWORD, Json, Recorder
from replay import PLACEHOLDER

NOTE = (
    "Exchanges of better-auth 1.7.25 with its plugin twoFactor (Node 20, memory adapter), written by "
    "record_two_factor.py from a running server. Not edited by hand."
)
NAMED_COOKIES = {"two_factor": "TWO_FACTOR", "trust_device": "TRUST_DEVICE"}
SECRET = re.compile(r"(?<=[?&]secret=)[A-Z2-7]+")


class TwoFactorRecorder(Recorder):
    """Also masks the secrets of authenticator apps, recovery codes, and the plugin's cookies; sends `<TOTP:WHO>`."""

    def masked_cookie(self, cookie: str, who: str) -> str:
        name, value = cookie.split(";", 1)[0].split("=", 1)
        kind = NAMED_COOKIES.get(name.partition(".")[2])
        if kind is None or not value:
            return super().masked_cookie(cookie, who)
        return cookie.replace(value, f"{self.name(unquote(value).rpartition('.')[0], kind)}.<SIG>")

    def masked_json(self, value: Any, who: str, key: str = "") -> Any:
        if key.endswith("totpURI"):
            for secret in SECRET.findall(value):
                self.placeholders[secret] = f"<TOTP_SECRET:{who}>"
        if key.endswith("backupCodes[]"):
            return self.name(value, f"RECOVERY_CODE:{who}")
        return super().masked_json(value, who, key)

    def exchange(self, request: Json, who: str) -> tuple[Json, list[Json]]:
        secrets = {shown: value for value, shown in self.placeholders.items()}

        def code(found: re.Match[str]) -> str:
            owner = re.fullmatch(r"TOTP(?:_AGAIN)?:(\w+)", found[1])
            return code_at(secrets[f"<TOTP_SECRET:{owner[1]}>"], time.time()) if owner else found[0]

        body = request["body"] and PLACEHOLDER.sub(code, request["body"])
        return super().exchange(request | {"body": body}, who)


def cookie(*names: str) -> Json:
    """A `Cookie` header of recorded values: `cookie("TWO_FACTOR#1")`."""
    shown = {kind: name for name, kind in NAMED_COOKIES.items()}
    pairs = [f"better-auth.{shown[name.split('#')[0]]}=<{name}>.<SIG>" for name in names]
    return {"cookie": "; ".join(pairs)}


def sign_in(ask: TwoFactorRecorder, label: str, who: str, password: str = PASSWORD, *cookies: str, **more: Any) -> None:
    body = {"email": f"{who}@example.com", "password": password, **more}
    ask(label, "POST /sign-in/email", body, who=who, headers=cookie(*cookies) if cookies else None)


def two_factor(ask: TwoFactorRecorder) -> None:
    enrolment(ask)
    signing_in(ask)
    recovery(ask)
    trusted(ask)
    disabling(ask)


def enrolment(ask: TwoFactorRecorder) -> None:
    ask.sign_up("alice")
    ask("enable, signed out", "POST /two-factor/enable", {"password": PASSWORD})
    ask("enable without a password", "POST /two-factor/enable", {}, as_="alice#1")
    ask("enable, wrong password", "POST /two-factor/enable", {"password": "wrong-password"}, as_="alice#1")
    ask("enable by codes in mails", "POST /two-factor/enable", {"password": PASSWORD, "method": "otp"}, as_="alice#1")
    ask("enable by a method that is not known", "POST /two-factor/enable", {"password": PASSWORD, "method": "sms"},
        as_="alice#1")  # fmt: skip
    ask("get-totp-uri before enable", "POST /two-factor/get-totp-uri", {"password": PASSWORD}, as_="alice#1")
    ask("generate-backup-codes before enable", "POST /two-factor/generate-backup-codes", {"password": PASSWORD},
        as_="alice#1")  # fmt: skip
    ask("verify-totp before enable", "POST /two-factor/verify-totp", {"code": "123456"}, as_="alice#1")
    ask("verify-backup-code before enable", "POST /two-factor/verify-backup-code", {"code": "aaaaa-bbbbb"},
        as_="alice#1")  # fmt: skip
    ask("enable", "POST /two-factor/enable", {"password": PASSWORD}, as_="alice#1")
    ask("get-totp-uri before the first code", "POST /two-factor/get-totp-uri", {"password": PASSWORD}, as_="alice#1")
    ask("get-totp-uri, wrong password", "POST /two-factor/get-totp-uri", {"password": "wrong-password"}, as_="alice#1")
    ask("nothing is enabled before the first code", "GET /get-session", as_="alice#1")
    sign_in(ask, "sign-in before the first code needs none", "alice")
    ask("the first code is wrong", "POST /two-factor/verify-totp", {"code": "12345"}, as_="alice#1")
    ask("verify-totp without a code", "POST /two-factor/verify-totp", {}, as_="alice#1")
    ask("the first code", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, as_="alice#1")
    ask("enabled", "GET /get-session", as_="alice#3")
    ask("enable again", "POST /two-factor/enable", {"password": PASSWORD}, as_="alice#3")
    ask("generate-backup-codes, wrong password", "POST /two-factor/generate-backup-codes",
        {"password": "wrong-password"}, as_="alice#3")  # fmt: skip
    ask("generate-backup-codes", "POST /two-factor/generate-backup-codes", {"password": PASSWORD}, as_="alice#3")
    ask("get-totp-uri", "POST /two-factor/get-totp-uri", {"password": PASSWORD}, as_="alice#3")
    ask("verify-totp in a session", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, as_="alice#3")
    ask("the same code again in a session", "POST /two-factor/verify-totp", {"code": "<TOTP_AGAIN:alice>"},
        as_="alice#3")  # fmt: skip


def signing_in(ask: TwoFactorRecorder) -> None:
    sign_in(ask, "sign-in, wrong password: no word of a second factor", "alice", "wrong-password")
    sign_in(ask, "sign-in: a second factor is needed", "alice")
    ask("no session with the cookie of the first factor", "GET /get-session", headers=cookie("TWO_FACTOR#1"))
    ask("verify-totp without a cookie", "POST /two-factor/verify-totp", {"code": "123456"})
    ask("verify-totp with a forged cookie", "POST /two-factor/verify-totp", {"code": "123456"},
        headers={"cookie": "better-auth.two_factor=<TWO_FACTOR#1>.<WRONG_SIG>"})  # fmt: skip
    ask("verify-totp, wrong code", "POST /two-factor/verify-totp", {"code": "12345"}, headers=cookie("TWO_FACTOR#1"))
    ask("verify-totp", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, who="alice",
        headers=cookie("TWO_FACTOR#1"))  # fmt: skip
    ask("signed in", "GET /get-session", as_="alice#4")
    ask("the cookie of the first factor again", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"},
        headers=cookie("TWO_FACTOR#1"))  # fmt: skip
    sign_in(ask, "sign-in, not to be remembered", "alice", rememberMe=False)
    ask("verify-totp, not to be remembered", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, who="alice",
        headers={"cookie": f"{cookie('TWO_FACTOR#2')['cookie']}; better-auth.dont_remember=true.<SIG>"})  # fmt: skip
    sign_in(ask, "another sign-in", "alice")
    ask("the same code again at sign-in", "POST /two-factor/verify-totp", {"code": "<TOTP_AGAIN:alice>"}, who="alice",
        headers=cookie("TWO_FACTOR#3"))  # fmt: skip


def recovery(ask: TwoFactorRecorder) -> None:
    sign_in(ask, "sign-in for a recovery code", "alice")
    four = cookie("TWO_FACTOR#4")
    ask("verify-backup-code without a cookie", "POST /two-factor/verify-backup-code", {"code": "aaaaa-bbbbb"})
    ask("verify-backup-code, wrong code", "POST /two-factor/verify-backup-code", {"code": "aaaaa-bbbbb"}, headers=four)
    ask("verify-backup-code, one of the replaced", "POST /two-factor/verify-backup-code",
        {"code": "<RECOVERY_CODE:alice#1>"}, headers=four)  # fmt: skip
    ask("verify-backup-code without a code", "POST /two-factor/verify-backup-code", {}, headers=four)
    ask("verify-backup-code", "POST /two-factor/verify-backup-code", {"code": "<RECOVERY_CODE:alice#11>"}, who="alice",
        headers=four)  # fmt: skip
    sign_in(ask, "sign-in for the same recovery code", "alice")
    ask("the same recovery code again", "POST /two-factor/verify-backup-code", {"code": "<RECOVERY_CODE:alice#11>"},
        headers=cookie("TWO_FACTOR#5"))  # fmt: skip
    ask("verify-backup-code in a session", "POST /two-factor/verify-backup-code", {"code": "<RECOVERY_CODE:alice#12>"},
        as_="alice#3")  # fmt: skip
    ask("verify-backup-code without a session for it", "POST /two-factor/verify-backup-code",
        {"code": "<RECOVERY_CODE:alice#13>", "disableSession": True}, headers=cookie("TWO_FACTOR#5"))  # fmt: skip


def trusted(ask: TwoFactorRecorder) -> None:
    sign_in(ask, "sign-in on a device to be trusted", "alice")
    ask("verify-totp, trust this device", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>", "trustDevice": True},
        who="alice", headers=cookie("TWO_FACTOR#6"))  # fmt: skip
    sign_in(ask, "sign-in on the trusted device", "alice", PASSWORD, "TRUST_DEVICE#1")
    sign_in(ask, "the old cookie of the device", "alice", PASSWORD, "TRUST_DEVICE#1")
    ask.sign_up("bob")
    sign_in(ask, "bob on alice's device", "bob", PASSWORD, "TRUST_DEVICE#2")


def disabling(ask: TwoFactorRecorder) -> None:
    ask("disable, signed out", "POST /two-factor/disable", {"password": PASSWORD})
    ask("disable without a password", "POST /two-factor/disable", {}, as_="alice#3")
    ask("disable, wrong password", "POST /two-factor/disable", {"password": "wrong-password"}, as_="alice#3")
    ask("send-otp is not configured", "POST /two-factor/send-otp", {}, as_="alice#3")
    ask("disable", "POST /two-factor/disable", {"password": PASSWORD}, as_="alice#3")
    ask("disabled", "GET /get-session", as_="alice#10")
    ask("disabled for another session, too", "GET /get-session", as_="alice#9")
    sign_in(ask, "sign-in without a second factor", "alice")
    ask("disable again", "POST /two-factor/disable", {"password": PASSWORD}, as_="alice#10")
    ask("generate-backup-codes after disable", "POST /two-factor/generate-backup-codes", {"password": PASSWORD},
        as_="alice#12")  # fmt: skip


def enabled(ask: TwoFactorRecorder) -> None:
    ask.sign_up("alice")
    ask("enable", "POST /two-factor/enable", {"password": PASSWORD}, as_="alice#1")
    ask("the first code", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, as_="alice#1")


def too_many(ask: TwoFactorRecorder) -> None:
    enabled(ask)
    for attempt in (1, 2):
        sign_in(ask, f"sign-in {attempt}", "alice")
        for number in range(1, 6):
            ask(f"sign-in {attempt}, wrong code {number}", "POST /two-factor/verify-totp", {"code": "12345"},
                headers=cookie(f"TWO_FACTOR#{attempt}"))  # fmt: skip
        ask(f"sign-in {attempt}, a right code is too late", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"},
            who="alice", headers=cookie(f"TWO_FACTOR#{attempt}"))  # fmt: skip
    sign_in(ask, "sign-in 3", "alice")
    ask("a recovery code while the account is locked", "POST /two-factor/verify-backup-code",
        {"code": "<RECOVERY_CODE:alice#1>"}, who="alice", headers=cookie("TWO_FACTOR#3"))  # fmt: skip


def around_by_mail(ask: TwoFactorRecorder) -> None:
    """With the option that a link which verifies an address signs in, too."""
    enabled(ask)
    sign_in(ask, "sign-in on a device to be trusted", "alice")
    ask("verify-totp, trust this device", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>", "trustDevice": True},
        who="alice", headers=cookie("TWO_FACTOR#1"))  # fmt: skip
    sign_in(ask, "a sign-in under way", "alice")
    ask("a link that verifies and signs in", "GET /verify-email?token=<VERIFY_JWT#1>", who="alice")
    ask("request-password-reset", "POST /request-password-reset", {"email": "alice@example.com", "redirectTo": "/new"})
    ask("reset-password: nobody is signed in", "POST /reset-password",
        {"newPassword": "battery-staple-2", "token": "<RESET_TOKEN#1>"})  # fmt: skip
    sign_in(ask, "the new password alone", "alice", "battery-staple-2")
    ask("the sign-in under way, after the reset", "POST /two-factor/verify-totp", {"code": "<TOTP:alice>"}, who="alice",
        headers=cookie("TWO_FACTOR#2"))  # fmt: skip
    sign_in(ask, "the trusted device, after the reset", "alice", "battery-staple-2", "TRUST_DEVICE#1")


SCENARIOS = {
    50: ("T", "a second factor", two_factor),
    51: ("T", "too many wrong codes", too_many),
    52: ("U", "no way around it by mail", around_by_mail),
}


def recorded() -> list[Json]:
    exchanges: list[Json] = []
    for section, (configuration, title, scenario) in SCENARIOS.items():
        with running(configuration) as server:
            recorder = TwoFactorRecorder(server, configuration, section, title)
            scenario(recorder)
            exchanges += recorder.exchanges
    return exchanges


if __name__ == "__main__":
    print(json.dumps({"source": NOTE, "exchanges": recorded()}, indent=1, ensure_ascii=False))
