"""Record what the recorded page has not, from the real better-auth on PostgreSQL, in the same form:

    python record_extra.py [SECTION...] > extra.json

The page stops at deleting with a password. Here are: changing the address, in the three ways it can be configured;
deleting by a link in a mail; and the rules of origins, cookies and bodies that the page only hints at.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone, also where another one is installed

from better_auth_server import SECRET, Running, running
from raw_http import TRANSPORT, send, signed
from replay import TIME

from playbook.kit import postgres

NOTE = (
    "Exchanges of better-auth 1.7.25 (Node 20, PostgreSQL 18) that the recorded page has not, written by "
    "record_extra.py from a running server. Not edited by hand."
)
PASSWORD = "correct-horse-1"
EVIL = "http://evil.example"
TOKENS = {"/verify-email?": "VERIFY_JWT", "/reset-password/": "RESET_TOKEN", "/delete-user/callback?": "DELETE_TOKEN"}
Json = dict[str, Any]


class Recorder:
    """One configuration's exchanges, masked as they come in."""

    def __init__(self, server: Running, configuration: str, section: int, title: str) -> None:
        self.server, self.configuration, self.section, self.title = server, configuration, section, title
        self.exchanges: list[Json] = []
        self.placeholders: dict[str, str] = {}  # what was seen, and how it is called
        self.counts: dict[str, int] = {}
        self.mails_seen = 0

    # -- names for what comes by chance

    def name(self, value: str, kind: str) -> str:
        if value not in self.placeholders:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.placeholders[value] = f"<{kind}#{self.counts[kind]}>"
        return self.placeholders[value]

    def masked(self, text: str) -> str:
        for value in sorted(self.placeholders, key=len, reverse=True):
            text = text.replace(value, self.placeholders[value])
        return text.replace(self.server.base_url, "<BASE>")

    def masked_cookie(self, cookie: str, who: str) -> str:
        name, value = cookie.split(";", 1)[0].split("=", 1)
        if not value:
            return cookie
        plain, _, signature = unquote(value).rpartition(".")
        if len(signature) != 44:
            raise ValueError(f"not signed: {cookie}")
        shown = self.name(plain, f"SESSION_TOKEN:{who}") if name.endswith("session_token") else plain
        return cookie.replace(value, f"{shown}.<SIG>")

    def masked_json(self, value: Any, who: str, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: self.masked_json(v, who, f"{key}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [self.masked_json(v, who, f"{key}[]") for v in value]
        if not isinstance(value, str):
            return value
        if re.fullmatch(TIME, value):
            days = (datetime.fromisoformat(value) - datetime.now(UTC)).total_seconds() / 86400
            return f"<ISO_MS_Z now+{round(days)}d>" if key.endswith("expiresAt") else "<ISO_MS_Z>"
        if key.endswith(("user.id", "userId", "accountId")) and value not in self.placeholders:
            self.placeholders[value] = f"<USER_ID:{who}>"
        if key.endswith(("session.id", "[].id")):
            return "<ID32>"
        return self.masked(value)

    # -- one exchange

    def __call__(
        self, label: str, call: str, body: Any = None, *, as_: str = "", who: str = "", headers: Json | None = None,
        origin: str | None = "<BASE>", kind: str = "application/json",
    ) -> None:  # fmt: skip
        """`call` is "METHOD PATH" below /api/auth with placeholders; `as_` whose session to send, `who` whose comes."""
        method, path = call.split(" ", 1)
        sent: Json = {}
        if body is not None:
            sent["content-type"] = kind
        if method == "POST" and origin is not None:
            sent["origin"] = origin
        if as_:
            sent["cookie"] = f"better-auth.session_token=<SESSION_TOKEN:{as_}>.<SIG>"
        sent |= headers or {}
        text = body if body is None or isinstance(body, str) else json.dumps(body, separators=(",", ":"))
        request = {"method": method, "path": f"/api/auth{path}", "headers": sent, "body": text}
        response, mails = self.exchange(request, who or as_.split("#")[0])
        where = {"section": self.section, "title": self.title, "label": label, "configuration": self.configuration}
        self.exchanges.append(where | {"request": request, "response": response, "mails": mails})

    def real(self) -> dict[str, str]:
        """What each placeholder stands for."""
        return {shown: value for value, shown in self.placeholders.items()} | {"<BASE>": self.server.base_url}

    def exchange(self, request: Json, who: str) -> tuple[Json, list[Json]]:
        real = self.real()

        def unmasked(text: str) -> str:
            return re.sub(r"<[^<>]+>", lambda found: real.get(found[0], found[0]), text)

        headers = {
            name: cookies(unmasked(value)) if name == "cookie" else unmasked(value)
            for name, value in request["headers"].items()
        }
        body = request["body"] if request["body"] is None else unmasked(request["body"])
        answer = send(self.server.base_url, request["method"], unmasked(request["path"]), headers, body)
        kept = [(name, value) for name, value in answer.headers if name not in TRANSPORT]
        kept = [(name, self.masked_cookie(value, who) if name == "set-cookie" else value) for name, value in kept]
        # Mails before the body: their tokens may be in it.
        mails = [self.mail(mail) for mail in self.new_mails()]
        shown = json.dumps(self.masked_json(json.loads(answer.body), who), separators=(",", ":"), ensure_ascii=False) \
            if answer.body else ""  # fmt: skip
        return {
            "status": answer.status,
            "reason": answer.reason,
            "headers": [[name, self.masked(value)] for name, value in kept],
            "body": shown,
        }, mails

    def new_mails(self) -> list[Json]:
        every = self.server.mails()
        new: list[Json] = every[self.mails_seen :]
        self.mails_seen = len(every)
        return new

    def mail(self, mail: Json) -> Json:
        kind = next(kind for part, kind in TOKENS.items() if part in mail["url"])
        self.name(mail["token"], kind)
        return {"type": mail["type"], "to": mail["to"], "url": self.masked(mail["url"])}

    def sign_up(self, who: str) -> None:
        """Recorded like the rest, so that nothing happens between the exchanges that they do not show."""
        person = {"name": who.title(), "email": f"{who}@example.com", "password": PASSWORD}
        self(f"{who} signs up", "POST /sign-up/email", person, who=who)


def cookies(text: str) -> str:
    """A Cookie header, with each `VALUE.<SIG>` signed."""
    pairs = [pair.partition("=") for pair in text.split("; ")]
    return "; ".join(
        f"{name}={signed(SECRET, value.removesuffix('.<SIG>')) if value.endswith('.<SIG>') else value}"
        for name, _, value in pairs
    )


# ---------------------------------------------------------------- what is recorded


def change_email_off(ask: Recorder) -> None:
    ask.sign_up("alice")
    ask("change-email is off", "POST /change-email", {"newEmail": "new@example.com"}, as_="alice#1")


def refused_changes(ask: Recorder) -> None:
    """What is the same in all three configurations."""
    ask.sign_up("alice")
    ask.sign_up("bob")
    ask("signed out", "POST /change-email", {"newEmail": "new@example.com"})
    ask("newEmail missing", "POST /change-email", {}, as_="alice#1")
    ask("newEmail missing, signed out: validation comes first", "POST /change-email", {})
    ask("no e-mail address", "POST /change-email", {"newEmail": "bad"}, as_="alice#1")
    ask("the same address (no code)", "POST /change-email", {"newEmail": "ALICE@example.com"}, as_="alice#1")
    ask("somebody's address: as if it were free, but no mail", "POST /change-email", {"newEmail": "bob@example.com"},
        as_="alice#1")  # fmt: skip
    ask("foreign callbackURL", "POST /change-email", {"newEmail": "new@example.com", "callbackURL": f"{EVIL}/"},
        as_="alice#1")  # fmt: skip


def old_and_new_address(ask: Recorder, new: str) -> None:
    ask("the first verification link is dead", "GET /verify-email?token=<VERIFY_JWT#1>")
    ask("sign-in with the old address", "POST /sign-in/email", {"email": "alice@example.com", "password": PASSWORD})
    ask("sign-in with the new address", "POST /sign-in/email", {"email": new, "password": PASSWORD}, who="alice")
    ask("send-verification-email, the old address (no mail)", "POST /send-verification-email",
        {"email": "alice@example.com"})  # fmt: skip


def change_unverified(ask: Recorder) -> None:
    """F and G: an unverified user gets a link to the new address at once."""
    ask("unverified: a link to the new address", "POST /change-email",
        {"newEmail": "New@Example.com", "callbackURL": "/changed"}, as_="alice#1")  # fmt: skip
    ask("nothing has changed yet", "GET /get-session", as_="alice#1")
    ask("the link with another user's session", "GET /verify-email?token=<VERIFY_JWT#3>", as_="bob#1")
    ask("the link with another user's session, callbackURL",
        "GET /verify-email?token=<VERIFY_JWT#3>&callbackURL=%2Fchanged", as_="bob#1")  # fmt: skip
    ask("the link, own session: the same token is set again",
        "GET /verify-email?token=<VERIFY_JWT#3>&callbackURL=%2Fchanged", as_="alice#1")  # fmt: skip
    ask("the link again, callbackURL", "GET /verify-email?token=<VERIFY_JWT#3>&callbackURL=%2Fchanged", as_="alice#1")
    ask("the link again", "GET /verify-email?token=<VERIFY_JWT#3>")
    ask("the address is changed and still unverified", "GET /get-session", as_="alice#1")
    old_and_new_address(ask, "new@example.com")


def verified(ask: Recorder, who: str, link: str) -> None:
    ask.sign_up(who)
    ask(f"{who} is verified", f"GET /verify-email?token=<{link}>")


def change_email(ask: Recorder) -> None:
    refused_changes(ask)
    change_unverified(ask)
    verified(ask, "carol", "VERIFY_JWT#4")
    ask("verified: a link to the new address", "POST /change-email", {"newEmail": "carol2@example.com"}, as_="carol#1")
    ask("the link, signed out", "GET /verify-email?token=<VERIFY_JWT#5>")
    ask("the address is changed and still verified", "GET /get-session", as_="carol#1")
    ask("again", "POST /change-email", {"newEmail": "carol3@example.com"}, as_="carol#1")
    ask("the link, own session", "GET /verify-email?token=<VERIFY_JWT#6>", as_="carol#1")
    taken_meanwhile(ask, "VERIFY_JWT#7")


def taken_meanwhile(ask: Recorder, link: str) -> None:
    ask("an address that is free", "POST /change-email", {"newEmail": "dave@example.com"}, as_="carol#1")
    ask.sign_up("dave")
    ask("the link, somebody has the address by now", f"GET /verify-email?token=<{link}>")
    ask("her address has not changed", "GET /get-session", as_="carol#1")


def change_email_confirmed(ask: Recorder) -> None:
    refused_changes(ask)
    change_unverified(ask)
    verified(ask, "carol", "VERIFY_JWT#4")
    new = {"newEmail": "carol2@example.com", "callbackURL": "/changed"}
    ask("verified: a link to the old address", "POST /change-email", new, as_="carol#1")
    ask("the confirmation with another user's session", "GET /verify-email?token=<VERIFY_JWT#5>", as_="bob#1")
    ask("the confirmation: a link to the new address", "GET /verify-email?token=<VERIFY_JWT#5>")
    time.sleep(1.1)  # a JWT of the same second would be the same
    ask("the confirmation with callbackURL: another mail",
        "GET /verify-email?token=<VERIFY_JWT#5>&callbackURL=%2Fchanged", as_="carol#1")  # fmt: skip
    ask("verified: nothing has changed yet", "GET /get-session", as_="carol#1")
    ask("the link in the new mailbox, signed out", "GET /verify-email?token=<VERIFY_JWT#7>")
    ask("the link in the new mailbox again", "GET /verify-email?token=<VERIFY_JWT#7>")
    ask("the confirmation again", "GET /verify-email?token=<VERIFY_JWT#5>")
    ask("the address is changed and still verified", "GET /get-session", as_="carol#1")


def change_email_at_once(ask: Recorder) -> None:
    refused_changes(ask)
    ask("unverified: changed at once", "POST /change-email",
        {"newEmail": "New@Example.com", "callbackURL": "/changed"}, as_="alice#1")  # fmt: skip
    ask("the address is changed", "GET /get-session", as_="alice#1")
    old_and_new_address(ask, "new@example.com")
    ask("the link verifies", "GET /verify-email?token=<VERIFY_JWT#3>&callbackURL=%2Fchanged", as_="alice#1")
    ask("verified: a link to the new address", "POST /change-email", {"newEmail": "third@example.com"}, as_="alice#1")


def delete_by_mail(ask: Recorder) -> None:
    ask.sign_up("alice")
    ask.sign_up("bob")
    ask("a link in a mail", "POST /delete-user", {"callbackURL": "/goodbye"}, as_="alice#1")
    ask("wrong password", "POST /delete-user", {"password": "wrong-password"}, as_="alice#1")
    ask("a good password: a link all the same", "POST /delete-user", {"password": PASSWORD}, as_="alice#1")
    ask("foreign callbackURL", "POST /delete-user", {"callbackURL": EVIL}, as_="alice#1")
    ask("bad token", "POST /delete-user", {"token": "bad-token"}, as_="alice#1")
    link = "GET /delete-user/callback?token=<DELETE_TOKEN#{}>&callbackURL={}"
    ask("the link, signed out", link.format(1, "%2Fgoodbye"))
    ask("the link, foreign callbackURL", link.format(1, "http%3A%2F%2Fevil.example"), as_="alice#1")
    ask("the link with another user's session", link.format(2, "%2Fgoodbye"), as_="bob#1")
    ask("… and it is used up", link.format(2, "%2Fgoodbye"), as_="alice#1")
    ask("the link", link.format(1, "%2Fgoodbye"), as_="alice#1")
    ask("the session is gone", "GET /get-session", as_="alice#1")
    ask("another link", "POST /delete-user", {}, as_="bob#1")
    ask("the token in a POST", "POST /delete-user", {"token": "<DELETE_TOKEN#3>"}, as_="bob#1")


CALLBACKS = {  # where a browser may be sent, and where not
    "allowed": ["/ok", "/a?x=%2f", "/a#b", "/ä", "http://app.example", "HTTP://APP.example/x", "<BASE>/x", ""],
    "refused": ["//evil.example", "/\\evil.example", "/%2fevil.example", "/%5Cevil.example", "/a\tb", " /x", "relative",
                "https://app.example/", "http://app.example:8080/", "http://app.example.evil.example/",
                "http://app.example@evil.example/", "javascript:alert(1)"],
}  # fmt: skip


def origins(ask: Recorder) -> None:
    ask.sign_up("alice")
    wrong = {"email": "alice@example.com", "password": "wrong-password"}
    for kind, urls in CALLBACKS.items():
        for url in urls:
            ask(f"callbackURL {url!r} is {kind}", "POST /sign-in/email", wrong | {"callbackURL": url})
    ask("callbackURL of another type (no code)", "POST /sign-in/email", wrong | {"callbackURL": 5})
    ask("callbackURL null", "POST /sign-in/email", wrong | {"callbackURL": None})
    ask("foreign callbackURL in the query of a POST", f"POST /sign-in/email?callbackURL={EVIL}", wrong)
    ask("foreign errorCallbackURL", "POST /sign-in/email", wrong | {"errorCallbackURL": EVIL})
    ask("foreign newUserCallbackURL", "POST /sign-in/email", wrong | {"newUserCallbackURL": EVIL})
    ask("empty callbackURL, signed in: a url, no Location", "POST /sign-in/email",
        {"email": "alice@example.com", "password": PASSWORD, "callbackURL": ""}, who="alice")  # fmt: skip
    ask(
        "any cookie makes Origin necessary", "POST /sign-in/email", wrong, origin=None, headers={"cookie": "theme=dark"}
    )
    ask("so does Sec-Fetch-Mode, which Node's fetch sends", "POST /sign-in/email", wrong, origin=None,
        headers={"sec-fetch-mode": "cors"})  # fmt: skip
    ask("… on sign-in and sign-up only", "POST /request-password-reset", {"email": "nobody@example.com"}, origin=None,
        headers={"sec-fetch-mode": "cors"})  # fmt: skip
    ask("cross-site navigation, also from a trusted origin", "POST /sign-in/email", wrong,
        headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})  # fmt: skip
    ask("cross-site, but no navigation", "POST /sign-in/email", wrong,
        headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"})  # fmt: skip
    ask("an Origin is compared by its origin", "POST /sign-in/email", wrong, origin="HTTP://APP.example:80")
    ask("foreign Referer, no Origin", "POST /sign-in/email", wrong, origin=None, headers={"referer": f"{EVIL}/x"})
    ask("foreign Origin, trusted Referer", "POST /sign-in/email", wrong, origin=EVIL, headers={"referer": "<BASE>/x"})
    ask("a path as Origin", "POST /sign-in/email", wrong, origin="/x")
    cookie = {"cookie": "better-auth.session_token=<SESSION_TOKEN:alice#1>.<SIG>"}
    ask("an unknown path is 404 before the origin is looked at", "POST /no-such", {}, origin=EVIL, headers=cookie)
    ask("broken JSON is 400 before the origin is looked at", "POST /sign-out", "{no", origin=EVIL, headers=cookie)
    ask("the origin before the body, with a cookie", "POST /sign-in/email", {}, origin=EVIL, headers=cookie)
    ask("the body before the origin, without", "POST /sign-in/email", {}, origin=EVIL)


def bodies_and_paths(ask: Recorder) -> None:
    ask.sign_up("alice")
    for call in ("GET /ok/", "GET /OK", "GET ", "GET /", "GET //ok", "HEAD /ok", "PUT /sign-in/email",
                 "OPTIONS /sign-in/email", "DELETE /sign-out", "POST /set-password"):  # fmt: skip
        ask(f"{call} is unknown", call)
    ask("a form where none is taken", "POST /sign-out", "a=b", kind="application/x-www-form-urlencoded")
    ask("JSON with a charset", "POST /sign-in/email", {"email": "alice@example.com", "password": "wrong-password"},
        kind="application/json; charset=utf-8")  # fmt: skip
    ask("another kind of JSON", "POST /sign-in/email", {}, kind="application/vnd.api+json")
    ask(
        "a form with rememberMe: text is no boolean",
        "POST /sign-in/email",
        "email=alice%40example.com&password=correct-horse-1&rememberMe=false",
        kind="application/x-www-form-urlencoded",
    )
    ask("a bad body signed out: validation comes first", "POST /change-password", {})
    ask("sign-out with a number", "POST /sign-out", "5", as_="alice#1")
    ask("sign-in: spaces around the address", "POST /sign-in/email", {"email": " a@example.com ", "password": PASSWORD})
    ask("sign-up: image null", "POST /sign-up/email",
        {"name": "X", "email": "x@example.com", "password": PASSWORD, "image": None})  # fmt: skip
    ask("update-user: an array", "POST /update-user", [1], as_="alice#1")
    ask("update-user: an empty e-mail and a name", "POST /update-user", {"email": "", "name": "Alice"}, as_="alice#1")
    ask("change-password: newPassword missing", "POST /change-password", {"currentPassword": PASSWORD}, as_="alice#1")
    ask("reset-password: newPassword missing", "POST /reset-password", {"token": "bad-token"})
    ask("reset-password: the token in the query", "POST /reset-password?token=bad-token",
        {"newPassword": "battery-staple-2"})  # fmt: skip
    ask("reset link, callbackURL with a query", "GET /reset-password/bad-token?callbackURL=%2Freset%3Fa%3D1%23b")
    ask("reset link, absolute callbackURL", "GET /reset-password/bad-token?callbackURL=http%3A%2F%2Fapp.example%2Fr")
    ask("reset link, empty callbackURL", "GET /reset-password/bad-token?callbackURL=")
    ask("reset mail without redirectTo", "POST /request-password-reset", {"email": "alice@example.com"})
    ask("verify-email, callbackURL with a fragment", "GET /verify-email?token=x&callbackURL=%2Fr%3Fa%3D1%2520b%23c")
    ask("verify-email, absolute callbackURL", "GET /verify-email?token=x&callbackURL=http%3A%2F%2Fapp.example")
    ask("verify-email, empty callbackURL", "GET /verify-email?token=x&callbackURL=")
    ask("verify-email, two callbackURLs", "GET /verify-email?token=x&callbackURL=%2Fa&callbackURL=%2Fb")
    ask("verify-password, right", "POST /verify-password", {"password": PASSWORD}, as_="alice#1")
    ask("verify-password, wrong", "POST /verify-password", {"password": "wrong-password"}, as_="alice#1")
    ask("verify-password, signed out", "POST /verify-password", {"password": PASSWORD})
    ask("delete-user, bad token", "POST /delete-user", {"token": "bad-token"}, as_="alice#1")
    ask("delete-user/callback, bad token", "GET /delete-user/callback?token=bad-token", as_="alice#1")
    ask("delete-user/callback, signed out", "GET /delete-user/callback?token=bad-token")


def cookies_of_sessions(ask: Recorder) -> None:
    ask.sign_up("alice")
    session = "better-auth.session_token=<SESSION_TOKEN:alice#{}>.<SIG>"
    keep = "better-auth.dont_remember=true.<SIG>"
    ask("two cookies of one name: the first counts", "GET /get-session",
        headers={"cookie": "better-auth.session_token=x; " + session.format(1)})  # fmt: skip
    ask("the secure name over http is another cookie", "GET /get-session",
        headers={"cookie": "__Secure-" + session.format(1)})  # fmt: skip
    ask("a session_data cookie is cleared", "GET /get-session",
        headers={"cookie": session.format(1) + "; better-auth.session_data=abc"})  # fmt: skip
    ask("update-user with dont_remember keeps it so", "POST /update-user", {"name": "Alice"},
        headers={"cookie": f"{session.format(1)}; {keep}"}, who="alice")  # fmt: skip
    ask("an unsigned dont_remember does not count", "POST /update-user", {"name": "Alice"},
        headers={"cookie": f"{session.format(1)}; better-auth.dont_remember=true"}, who="alice")  # fmt: skip
    ask("sign-in to be remembered clears dont_remember", "POST /sign-in/email",
        {"email": "alice@example.com", "password": PASSWORD}, headers={"cookie": keep}, who="alice")  # fmt: skip
    ask("sign-in not to be remembered", "POST /sign-in/email",
        {"email": "alice@example.com", "password": PASSWORD, "rememberMe": False}, who="alice")  # fmt: skip
    ask("it is not prolonged", "GET /get-session", headers={"cookie": f"{session.format(3)}; {keep}"})
    ask("a guarded call does not prolong it either", "GET /list-sessions",
        headers={"cookie": f"{session.format(3)}; {keep}"})  # fmt: skip
    ask("revoke-session of one's own: cookies are cleared", "POST /revoke-session",
        {"token": "<SESSION_TOKEN:alice#2>"}, as_="alice#2")  # fmt: skip
    ask("get-session by POST with a cookie and no Origin", "POST /get-session", origin=None,
        headers={"cookie": session.format(1)})  # fmt: skip


SECTIONS: dict[int, tuple[str, str, Callable[[Recorder], None]]] = {
    30: ("A", "change-email is off", change_email_off),
    31: ("F", "change-email with a link to the new address", change_email),
    32: ("G", "change-email confirmed at the old address first", change_email_confirmed),
    33: ("H", "change-email at once for an unverified user", change_email_at_once),
    34: ("I", "delete-user by a link in a mail", delete_by_mail),
    35: ("A", "Origins and redirects", origins),
    36: ("A", "Bodies and paths", bodies_and_paths),
    37: ("A", "Cookies of a session", cookies_of_sessions),
}


def recorded(chosen: list[int]) -> Iterator[Json]:
    with postgres.server() as server:
        for section in chosen:
            configuration, title, scenario = SECTIONS[section]
            with postgres.database(server) as url, running(configuration, url) as auth:
                recorder = Recorder(auth, configuration, section, title)
                scenario(recorder)
                yield from recorder.exchanges


if __name__ == "__main__":
    asked = [int(number) for number in sys.argv[1:]] or list(SECTIONS)
    print(json.dumps({"source": NOTE, "exchanges": list(recorded(asked))}, indent=1, ensure_ascii=False))
