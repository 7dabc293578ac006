"""Whose word is taken for a client's address: nobody's, unless the operator names a proxy, and then only an address."""

import asyncio
import ipaddress
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from filled_database import filled_database
from serve_process import ORIGIN, PASSWORD, PRODUCTION, Process, serve
from test_access_log import enter

from playbook.kit.cli import _exit_code
from playbook.pantry.proxies import TrustedProxies, parse_address, trusted_networks

HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "X-Forwarded", "Client-IP", "Forwarded-For",
           "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "X-ProxyUser-Ip",
           "X-Original-Forwarded-For")  # fmt: skip
OPEN = {"PANTRY_REQUIRE_EMAIL_VERIFICATION": "off"}


def file_of(folder: Path) -> str:
    return f"duckdb:///{folder}/pantry.duckdb"


def address_stored(process: Process, *lines: tuple[str, str], number: int = 0) -> Any:
    """What list-sessions shows after a sign-up that sends these headers."""
    with process.another() as client:
        sent = [(name.encode(), value.encode()) for name, value in [("origin", ORIGIN), *lines]]
        body = {"name": "Ada", "email": f"ada{number}-{abs(hash(lines))}@example.com", "password": PASSWORD}
        answer = client.post("/api/auth/sign-up/email", json=body, headers=sent)
        assert answer.status_code == 200, answer.text
        return client.get("/api/auth/list-sessions").json()[0]["ipAddress"]


def resets(process: Process, header: str, values: list[str]) -> tuple[int, int]:
    """Ask for a reset with each value of a header: how many passed, and how many may by the limit of one network.

    Three in a window of sixty seconds, which begins anew when nothing was allowed for that long.
    """
    began, passed = time.monotonic(), 0
    for number, value in enumerate(values):
        body = {"email": f"nobody{number}@example.com"}
        passed += process.post("/request-password-reset", body, headers={header: value}).status_code == 200
    return passed, 3 * (1 + int(time.monotonic() - began) // 60)


def test_a_stranger_does_not_evade_a_limit_with_a_header(tmp_path: Path) -> None:
    """Seven of eight passed with X-Forwarded-For from loopback: one network for each text."""
    with serve(filled_database(tmp_path), tmp_path) as process:
        began = time.monotonic()
        found = {}
        for header in HEADERS:
            form = "for={}" if header == "Forwarded" else "{}"
            values = [form.format(f"not an address {n}") for n in range(4)]
            values += [form.format(f"203.0.113.{n}") for n in range(4)]
            found[header], _ = resets(process, header, values)
        may = 3 * (1 + int(time.monotonic() - began) // 60)
    assert 3 <= sum(found.values()) <= may, found


def test_nobody_is_believed_unless_told(tmp_path: Path) -> None:
    with serve(filled_database(tmp_path), tmp_path, PANTRY_RATE_LIMITS="off", **OPEN) as process:
        for number, value in enumerate(("203.0.113.9", "x" * 6000, "127.0.0.1, 203.0.113.9", "")):
            assert address_stored(process, ("x-forwarded-for", value), number=number) == "127.0.0.1"


CHAINS = {
    "one": (["203.0.113.9"], "203.0.113.9"),
    "what the client wrote stays left": (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
    "through two proxies": (["198.51.100.1, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
    "through three, in several lines": (["198.51.100.1", "203.0.113.9, 10.1.2.3", "10.4.5.6,10.7.8.9"], "203.0.113.9"),
    "lines of another order": (["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
    "only proxies": (["10.1.2.3, 10.4.5.6"], "10.1.2.3"),
    "a port": (["203.0.113.9:5678"], "203.0.113.9"),
    "IPv6": (["2001:DB8::1"], "2001:db8::1"),
    "IPv6 with a port": (["[2001:db8::1]:80"], "2001:db8::1"),
    "IPv6 in brackets": (["[2001:db8::1]"], "2001:db8::1"),
    "IPv4 in IPv6": (["::ffff:203.0.113.9"], "203.0.113.9"),
    "IPv4 in IPv6, in brackets, with a port": (["[::ffff:203.0.113.9]:80"], "203.0.113.9"),
    "a proxy as IPv4 in IPv6": (["203.0.113.9, ::ffff:10.1.2.3"], "203.0.113.9"),
    "a zone": (["fe80::1%eth0"], "fe80::1"),
    "spaces": (["203.0.113.9 \t,  10.1.2.3"], "203.0.113.9"),
    "no address": (["not an address"], "127.0.0.1"),
    "no address behind a proxy": (["203.0.113.9, nonsense, 10.1.2.3"], "10.1.2.3"),
    "nothing": ([""], "127.0.0.1"),
    "only commas": ([",,,"], "127.0.0.1"),
    "unknown": (["unknown"], "127.0.0.1"),
    "a name": (["pantry.example"], "127.0.0.1"),
    "a network": (["203.0.113.0/24"], "127.0.0.1"),
    "a number": (["3405803785"], "127.0.0.1"),
    "leading zeros": (["203.0.113.009"], "127.0.0.1"),
    "a long one": (["x" * 6000], "127.0.0.1"),
    "a long zone": (["fe80::1%" + "x" * 6000], "127.0.0.1"),
    "half a bracket": (["[2001:db8::1"], "127.0.0.1"),
    "IPv4 in brackets": (["[203.0.113.9]:80"], "127.0.0.1"),
    "two ports": (["203.0.113.9:80:80"], "127.0.0.1"),
    "quotes": (['"203.0.113.9"'], "127.0.0.1"),
    "markup": (["<script>alert(1)</script>"], "127.0.0.1"),
    "digits of another script": (["\uff12\uff10\uff13.0.113.9"], "127.0.0.1"),
    "as many proxies as a field may have": ([", ".join(["203.0.113.9", *["10.1.2.3"] * 199])], "203.0.113.9"),
}  # fmt: skip


def test_a_named_proxy_is_believed_about_addresses_and_nothing_else(tmp_path: Path) -> None:
    trusted = {"FORWARDED_ALLOW_IPS": "127.0.0.1, 10.0.0.0/8", "PANTRY_RATE_LIMITS": "off"} | OPEN
    with serve(filled_database(tmp_path), tmp_path, **trusted) as process:
        found = {
            what: address_stored(process, *(("x-forwarded-for", line) for line in lines), number=number)
            for number, (what, (lines, _)) in enumerate(CHAINS.items())
        }
    assert found == {what: address for what, (_, address) in CHAINS.items()}
    log = process.log.read_text()
    assert '203.0.113.9 "POST /api/auth/sign-up/email" 200' in log, "the log has the client's address"


def test_a_client_behind_a_named_proxy_has_its_own_limit_and_no_other(tmp_path: Path) -> None:
    """Each real address has its own; garbage has the proxy's, however it varies."""
    with serve(filled_database(tmp_path), tmp_path, FORWARDED_ALLOW_IPS="127.0.0.1") as process:
        own = [f"nonsense {n}, 203.0.113.{n}" for n in range(8)]
        assert resets(process, "x-forwarded-for", own)[0] == 8
        garbage = [f"203.0.113.{n}, fe80::1%{n}/, garbage {n}" for n in range(8)]
        passed, may = resets(process, "x-forwarded-for", garbage)
    assert 3 <= passed <= may


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_peer_is_an_address_on_every_kind_of_socket(tmp_path: Path, family: int) -> None:
    host, shown = {socket.AF_INET: ("0.0.0.0", "127.0.0.1"), socket.AF_INET6: ("::1", "::1")}[family]
    with serve(filled_database(tmp_path), tmp_path, "--host", host, **OPEN) as process:
        process.client.base_url = process.url = process.url.replace("0.0.0.0", "127.0.0.1")
        assert address_stored(process) == shown


# ---------------------------------------------------------------- without a server: what no socket here can show


def scope_after(client: Any, trusted: str, *headers: tuple[str, str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    scope = {"type": "http", "client": client, "scheme": "http", "path": "/",
             "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in headers]}  # fmt: skip
    asyncio.run(TrustedProxies(app, trusted_networks(trusted, False))(scope, None, None))  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("peer", [None, ("", 0), ("/run/pantry.sock", 0), ("testclient", 50000)])
def test_who_has_no_address_is_no_proxy(peer: Any) -> None:
    for trusted in ("", "127.0.0.1", "*"):
        seen = scope_after(peer, trusted, ("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"))
        assert (seen["client"], seen["scheme"]) == (None, "http")


@pytest.mark.parametrize(
    ("values", "scheme"),
    [(["https"], "https"), (["HTTPS "], "https"), (["http, https"], "https"), (["https", "http"], "http"),
     (["https://evil"], "http"), (["ws"], "http"), ([""], "http"), (["javascript"], "http")],
)  # fmt: skip
def test_a_named_proxy_says_whether_it_was_https(values: list[str], scheme: str) -> None:
    lines = [("x-forwarded-proto", value) for value in values]
    assert scope_after(("10.1.2.3", 1), "10.0.0.0/8", *lines)["scheme"] == scheme
    assert scope_after(("192.0.2.1", 1), "10.0.0.0/8", *lines)["scheme"] == "http"
    assert scope_after(("192.0.2.1", 1), "", *lines)["scheme"] == "http"


def test_the_zone_of_the_peer_is_not_part_of_its_address() -> None:
    assert scope_after(("fe80::1%eth0", 5), "")["client"] == ("fe80::1", 5)
    assert scope_after(("::ffff:192.0.2.1", 5), "")["client"] == ("192.0.2.1", 5)


def test_what_is_an_address() -> None:
    assert parse_address("203.0.113.9:99999999") is None
    assert parse_address("") is None
    assert parse_address("2001:db8::1:80") == ipaddress.ip_address("2001:db8::1:80")


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8,hunter2/24", "hunter2", "10.0.0.1/8", ",", "10.0.0.0/8,", "localhost", "::1%eth0/64"]
)
def test_a_list_that_cannot_be_read_stops_the_start(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", text)
    monkeypatch.setenv("DATABASE_URL", file_of(tmp_path))
    assert _exit_code(["serve", "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "FORWARDED_ALLOW_IPS: should be addresses or networks" in said
    assert said.count("\n") == 1
    assert "hunter2" not in said


@pytest.mark.parametrize("text", ["*", "0.0.0.0/0", "::/0", "10.0.0.0/8,*", "128.0.0.0/1,0.0.0.0/1", "::/1,8000::/1"])
def test_production_does_not_believe_everybody(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for name, value in PRODUCTION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", text)
    monkeypatch.setenv("DATABASE_URL", file_of(tmp_path))
    assert _exit_code(["serve", "--port", "0"]) == 2
    assert "FORWARDED_ALLOW_IPS: trusts every address" in capsys.readouterr().err
    assert trusted_networks(text, production=False)


# ---------------------------------------------------------------- what else a browser says of itself


def test_what_a_browser_says_of_itself_is_short_and_harmless(tmp_path: Path) -> None:
    with serve(filled_database(tmp_path), tmp_path, PANTRY_RATE_LIMITS="off") as process:
        process.client.headers = {"origin": ORIGIN, "user-agent": b"a\x9b2J\xadb" + b"x" * 6000}  # type: ignore[assignment]
        enter(process, "ada@example.com")
        shown = process.client.get("/api/auth/list-sessions").json()[0]["userAgent"]
    assert shown.startswith("a?2J?bxxx")
    assert len(shown) == 500
