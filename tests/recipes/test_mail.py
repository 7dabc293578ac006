"""What the recipe promises, for any input. Needs pytest and hypothesis. Mail goes to this machine only."""

import email
import email.policy
import smtplib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.auth.mail import (
    Mail,
    MemorySender,
    Sender,
    SmtpSender,
    link,
    may_pass,
    message_of,
    smtp_server,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FROM = "Shop <shop@shop.example>"
words = st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"]))
line_ends = st.sampled_from(["\n", "\r", "\r\n", "\0", "\x0b", "\x1c", "\x85", "\u2028", "\u2029", "\ud800"])


class Noon:
    def now(self) -> datetime:
        return NOW


def mail_to(to: str = "ada@example.com", subject: str = "Verify", text: str = "Hello") -> Mail:
    return Mail(to, "verify-email", subject, text)


@given(words, line_ends, words)
def test_no_input_adds_a_header(before: str, end: str, after: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        mail_to(subject=f"{before}{end}{after}")
    with pytest.raises(ValueError, match="`to`"):
        mail_to(to=f"ada@example.com{end}Bcc: mallory@example.net")


@given(words, st.text(st.characters(exclude_categories=["Cs"])))
def test_a_message_arrives_with_the_headers_it_was_given(subject: str, text: str) -> None:
    wire = message_of(mail_to(subject=subject, text=text), FROM, NOW).as_bytes()
    read = email.message_from_bytes(wire, policy=email.policy.default)
    assert {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"} <= set(read.keys())
    assert not {"Cc", "Bcc", "Reply-To"} & set(read.keys())
    assert [address.addr_spec for address in read["To"].addresses] == ["ada@example.com"]
    assert wire.isascii()


@pytest.mark.parametrize(
    "to",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@x, eve@y",
        "Ada <ada@x>",
        "ada@x eve@y",
        "=?utf-8?q?a?=@x",
        "a@" + "x" * 253,
    ],
)
def test_a_mail_goes_to_one_address(to: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        mail_to(to=to)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_link_holds_what_it_was_given_and_leads_to_the_service(query: dict[str, str]) -> None:
    parts = urlsplit(link("https://shop.example", "/verify", **query))
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "shop.example", "/verify")
    assert dict(parse_qsl(parts.query, keep_blank_values=True)) == query


@pytest.mark.parametrize("path", ["", "verify", "/a b", "/a?b", "/a#b", "/a\nb"])
def test_a_link_needs_an_encoded_path(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        link("https://shop.example", path)


def test_what_gives_access_is_not_shown() -> None:
    mail = Mail("ada@example.com", "reset-password", "Reset", "secret text", "https://x/secret", "secret")
    assert "secret" not in repr(mail)


def test_the_memory_finds_the_newest_of_a_type() -> None:
    sender = MemorySender()
    for subject in ("first", "second"):
        sender.send(mail_to(subject=subject))
    assert sender.last("ada@example.com", "verify-email").subject == "second"
    with pytest.raises(LookupError):
        sender.last("ada@example.com", "notice")


@contextmanager
def server(*replies: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A mail server for one connection that says `replies`, one to each line that it hears: its port, what it heard."""
    heard: list[bytes] = []

    def talk() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as lines:
            for reply in replies:
                connection.sendall(reply)
                data = reply.startswith(b"354")
                for line in lines:
                    heard.append(line)
                    if not data or line == b".\r\n":
                        break

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=talk)
        thread.start()
        yield listening.getsockname()[1], heard
        thread.join(30)


def test_a_mail_is_handed_over() -> None:
    with server(b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"250 x\r\n", b"354 x\r\n", b"250 x\r\n") as (port, heard):
        SmtpSender(f"smtp://127.0.0.1:{port}", FROM, Noon()).send(mail_to(text="Hello Ada"))
    said = b"".join(heard)
    assert b"mail FROM:<shop@shop.example>" in said
    assert b"rcpt TO:<ada@example.com>" in said
    assert b"Hello Ada" in said


def test_no_mail_leaves_in_plain_text_where_encryption_is_required() -> None:
    with server(b"220 x\r\n", b"250 x\r\n") as (port, heard):
        sender = SmtpSender(f"smtp://127.0.0.1:{port}", FROM, Noon(), require_tls=True)
        with pytest.raises(smtplib.SMTPNotSupportedError) as refused:
            sender.send(mail_to())
    assert not any(line.lower().startswith((b"mail", b"rcpt", b"data")) for line in heard)
    assert not may_pass(refused.value)


def test_a_password_never_leaves_in_plain_text() -> None:
    with server(b"220 x\r\n", b"250 x\r\n") as (port, heard):
        sender = SmtpSender(f"smtp://ada:hunter2@127.0.0.1:{port}", FROM, Noon())
        with pytest.raises(smtplib.SMTPNotSupportedError, match="STARTTLS"):
            sender.send(mail_to())
    assert not any(line.lower().startswith((b"auth", b"mail", b"rcpt", b"data")) for line in heard)


@pytest.mark.parametrize(("code", "later"), [(421, True), (450, True), (550, False), (554, False)])
def test_a_reply_says_whether_to_try_again(code: int, later: bool) -> None:
    assert may_pass(smtplib.SMTPResponseException(code, b"")) is later
    assert may_pass(smtplib.SMTPRecipientsRefused({"a@x": (code, b"")})) is later


@pytest.mark.parametrize("url", ["", "http://x", "smtp://", "smtp://x:y", "smtp://u@x", "smtp://u:se/cret@x", "file:x"])
def test_a_wrong_url_is_refused_at_the_start_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="should") as error:
        SmtpSender(url, FROM, Noon())
    assert "cret" not in str(error.value)


@pytest.mark.parametrize("address", ["", "shop", "Shop <shop>", "a@x.example, b@x.example"])
def test_a_wrong_address_of_the_shop_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        SmtpSender("smtp://mail.example", address, Noon())


def test_host_port_and_login() -> None:
    assert smtp_server("smtp://mail.example") == ("mail.example", 25, None)
    assert smtp_server("smtp://u%40x:p%2F@[::1]") == ("::1", 587, ("u@x", "p/"))


def sign_up(sender: Sender, to: str) -> None:
    url = link("https://shop.example", "/verify", token="T")
    sender.send(Mail(to, "verify-email", "Welcome", f"Open {url}", url, "T"))


def test_a_service_is_tested_without_a_server() -> None:
    sender = MemorySender()
    sign_up(sender, "ada@example.com")
    mail = sender.last("ada@example.com", "verify-email")
    assert mail.url == link("https://shop.example", "/verify", token=mail.token)
