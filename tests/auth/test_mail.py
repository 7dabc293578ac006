"""Mail: one recipient whatever is typed, no answer that waits, no secret in a log. Over real SMTP."""

import json
import logging
import os
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import threading
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI

from playbook.auth.mail import Mail, MemorySender, link, may_pass, smtp_server
from playbook.auth.mail_queue import MailQueue, Postbox, backoff, take
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.data import ROOT
from playbook.kit.live import serving
from playbook.kit.smtp import mail_server
from playbook.pantry.mail_senders import BoundedSender as SmtpSender
from playbook.pantry.mail_senders import FileSender, sender_of

FROM = "Pantry <pantry@pantry.example>"
TOKEN = "reset_7hQe4TtN1m"
URL = f"https://pantry.example/reset?token={TOKEN}"


def mail(to: str = "ada@example.com", subject: str = "A new password?", **more: object) -> Mail:
    values = {"text": f"Open {URL}\n", "url": URL, "token": TOKEN} | more
    return Mail(to, "reset-password", subject, **values)  # type: ignore[arg-type]


@contextmanager
def posting(sender: object, **options: object) -> Iterator[Postbox]:
    """A postbox that is closed afterwards, and that does not really pause."""
    postbox = Postbox(sender, **{"pause": lambda attempt: 0.0} | options)  # type: ignore[arg-type]
    try:
        yield postbox
    finally:
        postbox.close(timeout=0)


class Failing:
    """Raises what it is given, in turn, and then accepts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls, self.called = list(errors), 0, threading.Event()

    def send(self, mail: Mail) -> None:
        self.calls += 1
        self.called.set()
        if self.errors:
            raise self.errors.pop(0)


class Held:
    """Accepts nothing before `go_on`."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()

    def send(self, mail: Mail) -> None:
        self.entered.release()
        assert self.go_on.wait(20)
        self.mails.append(mail)


# ---------------------------------------------------------------- what a mail may be

LINE_ENDS = [
    chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) in {"Cc", "Zl", "Zp", "Cs"}
]  # fmt: skip


@pytest.mark.proves("ASVS 1.3.11", "CWE-93")
def test_no_character_that_ends_a_line_for_anybody() -> None:
    assert {"\r", "\n", "\0", "\x85", "\u2028", "\u2029"} < set(LINE_ENDS)
    for character in LINE_ENDS:
        for wrong in (
            {"subject": f"Welcome{character}Bcc: mallory@evil.example"},
            {"subject": character},
            {"to": f"ada@example.com{character}"},
            {"to": f"{character}ada@example.com"},
            {"to": f"ada{character}Bcc@example.com"},
        ):
            with pytest.raises(ValueError, match="control character"):
                mail(**wrong)


@pytest.mark.proves("ASVS 1.3.11")
@pytest.mark.parametrize(
    "to",
    [
        "", "ada", "@example.com", "eve,ada@example.com", "eve;ada@example.com", "ada@example.com,eve",
        "ada@", "ada@b@c", "ada@example.com,eve@evil.example", "ada@b.example;eve@b.example",
        "ada@example.com eve@evil.example", "Ada <ada@example.com>", "<ada@example.com>", '"a b"@example.com',
        "ada(comment)@example.com", "ada@[127.0.0.1]", "group:ada@example.com", "ada@example.com\\",
        "=?utf-8?q?eve=40evil.example=2c?=@example.com", "ada@=?utf-8?q?evil.example?=", "a" * 243 + "@example.com",
    ],
)  # fmt: skip
def test_a_mail_names_one_address(to: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        mail(to=to)


@pytest.mark.parametrize(
    "to", ["a@b", "ada+tag@example.com", "o'neil@example.com", "jörg@bücher.example", "a" * 242 + "@example.com"]
)
def test_addresses_that_people_have_are_accepted(to: str) -> None:
    assert mail(to=to).to == to


def test_other_mistakes_are_found_when_the_mail_is_made() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        mail(text="\ud800")


def test_an_error_does_not_repeat_what_was_typed() -> None:
    for wrong in ({"subject": f"{TOKEN}\n"}, {"to": TOKEN}):
        with pytest.raises(ValueError, match=r"should") as error:
            mail(**wrong)
        assert TOKEN not in str(error.value)


@pytest.mark.proves("ASVS 16.2.5")
def test_a_mail_does_not_show_its_link() -> None:
    for shown in (repr(mail()), str(mail()), f"{[mail()]}"):
        assert "ada@example.com" in shown
        assert TOKEN not in shown


def test_equal_mails_are_equal_and_still_two() -> None:
    assert mail() == mail()
    assert mail().id != mail().id


# ---------------------------------------------------------------- links


@pytest.mark.proves("ASVS 1.2.2")
def test_a_link_encodes_like_encode_uri_component() -> None:
    kept = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()"  # ECMA-262, 19.2.6.4
    for number in range(0x250):
        character = chr(number)
        expected = character if character in kept else "".join(f"%{byte:02X}" for byte in character.encode())
        assert link("https://pantry.example", "/v", token=character) == f"https://pantry.example/v?token={expected}"
    assert link("https://pantry.example", "/v", token="🙂").endswith("=%F0%9F%99%82")


def test_a_link_is_the_one_better_auth_sends() -> None:
    made = link("http://localhost:8000", "/api/auth/verify-email", token="T.T-T_T", callbackURL="/welcome?x=1")
    assert made == "http://localhost:8000/api/auth/verify-email?token=T.T-T_T&callbackURL=%2Fwelcome%3Fx%3D1"
    assert link("https://pantry.example", "/") == "https://pantry.example/"


@pytest.mark.parametrize(
    "value", ["&token=stolen", "#fragment", "a=b&c=d", "\r\nLocation: //evil.example", "+ %20", "//evil"]
)
def test_a_value_stays_one_value(value: str) -> None:
    parts = urlsplit(link("https://pantry.example", "/v", token="T", callbackURL=value))
    assert (parts.netloc, parts.path, parts.fragment) == ("pantry.example", "/v", "")
    assert parse_qs(parts.query) == {"token": ["T"], "callbackURL": [value]}


@pytest.mark.parametrize(
    "path", ["", "verify", "@evil.example/", ".evil.example", "/v?x=1", "/v#x", "/v w", "/v\n", "/ü"]
)
def test_a_path_cannot_change_where_the_link_leads(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        link("https://pantry.example", path)


@pytest.mark.parametrize(
    "base_url", ["", "pantry.example", "javascript:alert(1)", "https://pantry.example/app", "https://a@b"]
)
def test_a_link_begins_with_an_origin(base_url: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        link(base_url, "/v")


# ---------------------------------------------------------------- real SMTP


@pytest.mark.proves("RFC 5322 3.6", "RFC 3834 5")
def test_what_arrives_over_real_smtp(clock: FixedClock) -> None:
    sent = mail(subject="Ein neues Passwort für Zoë? 🙂", text="Grüße!\n")
    with mail_server() as mails:
        SmtpSender(mails.url, FROM, clock).send(sent)
    (delivery,) = mails.deliveries
    message = delivery.message
    assert (delivery.sender, delivery.recipients) == ("pantry@pantry.example", ("ada@example.com",))
    assert (message["From"], message["To"], message["Subject"]) == (FROM, "ada@example.com", sent.subject)
    assert message["Date"].datetime == clock.now()
    assert message["Message-ID"] == f"<{sent.id}@pantry.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content() == sent.text


@pytest.mark.proves("RFC 5322 2.1.1")
@pytest.mark.parametrize(
    "text", ["plain\n", "Grüße!\n", "long " * 500 + "\n", "lang und schön " * 500 + "\n", f"{URL}\n" * 50]
)
def test_any_text_travels_as_short_lines_of_ascii(text: str, clock: FixedClock) -> None:
    with mail_server() as mails:
        SmtpSender(mails.url, FROM, clock).send(mail(text=text))
    (delivery,) = mails.deliveries
    assert delivery.message.get_content() == text
    assert delivery.raw.isascii()
    assert max(len(line) for line in delivery.raw.split(b"\r\n")) <= 998


@pytest.mark.proves("RFC 6531")
def test_an_address_beyond_ascii(clock: FixedClock) -> None:
    with mail_server() as mails:
        SmtpSender(mails.url, FROM, clock).send(mail(to="jörg@bücher.example"))
    assert mails.deliveries[0].recipients == ("jörg@bücher.example",)
    assert mails.messages[0]["To"] == "jörg@bücher.example"
    with mail_server(utf8=False) as mails:
        SmtpSender(mails.url, FROM, clock).send(mail(subject="für Zoë"))
        with pytest.raises(smtplib.SMTPNotSupportedError) as error:
            SmtpSender(mails.url, FROM, clock).send(mail(to="jörg@example.com"))
    assert not may_pass(error.value)
    assert [message["Subject"] for message in mails.messages] == ["für Zoë"]


@pytest.mark.proves("ASVS 1.3.11")
@pytest.mark.parametrize(
    "text",
    [
        "Bcc: mallory@evil.example\n\nhello",
        "\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<mallory@evil.example>\r\nDATA\r\nSubject: forged\r\n\r\n.\r\n",
        "\n.\nMAIL FROM:<a@b>\nRCPT TO:<mallory@evil.example>\nDATA\n\n.\n",
        "\n.\r\nQUIT\r\n",
        "\r.\rQUIT\r",
        "..\n.leading dot\n",
    ],
)
def test_a_text_cannot_become_a_command_or_a_header(text: str, clock: FixedClock) -> None:
    with mail_server() as mails:
        SmtpSender(mails.url, FROM, clock).send(mail(text=text))
    (delivery,) = mails.deliveries
    assert delivery.recipients == ("ada@example.com",)
    assert "Bcc" not in delivery.message
    arrived = delivery.message.get_content().splitlines()
    assert arrived == text.splitlines()


@pytest.mark.proves("ASVS 12.3.1", "ASVS 12.3.2", "RFC 3207")
def test_the_connection_is_encrypted_and_the_certificate_checked(clock: FixedClock) -> None:
    with mail_server(tls=True) as mails:
        SmtpSender(mails.url, FROM, clock, tls=mails.trust).send(mail())
        assert [delivery.encrypted for delivery in mails.deliveries] == [True]
        with pytest.raises(ssl.SSLCertVerificationError) as error:
            SmtpSender(mails.url, FROM, clock).send(mail())
        assert mails.attempts == 1
    assert not may_pass(error.value)


def test_the_operator_can_trust_a_private_authority(
    clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playbook.kit.smtp import CERTIFICATE

    authority = tmp_path / "authority.pem"
    authority.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with mail_server(tls=True) as mails:
        SmtpSender(mails.url, FROM, clock).send(mail())
    assert mails.deliveries[0].encrypted


@pytest.mark.proves("ASVS 12.3.1")
def test_no_plain_text_where_it_was_not_allowed(clock: FixedClock) -> None:
    with mail_server() as mails:
        for sender in (
            SmtpSender(mails.url, FROM, clock, require_tls=True),
            SmtpSender(f"smtp://pantry:p0stbox@127.0.0.1:{mails.port}", FROM, clock),
        ):
            with pytest.raises(smtplib.SMTPNotSupportedError, match="STARTTLS"):
                sender.send(mail())
        assert mails.attempts == 0
        SmtpSender(mails.url, FROM, clock).send(mail())
        assert [delivery.encrypted for delivery in mails.deliveries] == [False]


def test_user_and_password(clock: FixedClock) -> None:
    with mail_server(tls=True, login=("pantry@relay", "p:0/st b@x%")) as mails:
        SmtpSender(mails.url, FROM, clock, tls=mails.trust).send(mail())
        wrong = SmtpSender(f"smtp://pantry%40relay:wrong@127.0.0.1:{mails.port}", FROM, clock, tls=mails.trust)
        with pytest.raises(smtplib.SMTPAuthenticationError) as error:
            wrong.send(mail())
    assert len(mails.messages) == 1
    assert not may_pass(error.value), "a wrong password is not tried again: the account would be locked"
    for shown in (repr(wrong), str(wrong), repr(error.value)):
        assert "wrong" not in shown


@pytest.mark.proves("RFC 5321 4.2.1")
@pytest.mark.parametrize(("command", "code"), [("DATA", 451), ("RCPT", 450), ("MAIL", 421), ("DATA", 452)])
def test_a_temporary_refusal_is_tried_again(command: str, code: int, clock: FixedClock) -> None:
    asked: list[int] = []

    def pause(attempt: int) -> float:
        asked.append(attempt)
        return 0.0

    with mail_server({command: [f"{code} later"] * 3}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock), pause=pause) as postbox:
            sent = mail()
            postbox.post(sent)
            assert postbox.drain()
        assert (postbox.sent, postbox.dropped) == (1, 0)
    assert [message["Message-ID"] for message in mails.messages] == [f"<{sent.id}@pantry.example>"]
    assert asked == [1, 2, 3], "a pause after each attempt that failed"


@pytest.mark.proves("RFC 5321 4.2.1")
@pytest.mark.parametrize(("command", "code"), [("DATA", 554), ("RCPT", 550), ("MAIL", 552)])
def test_a_final_refusal_is_not_tried_again(command: str, code: int, clock: FixedClock) -> None:
    with mail_server({command: [f"{code} never"]}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
            assert (postbox.sent, postbox.dropped) == (0, 1)
            assert mails.messages == []
            postbox.post(mail())  # the server would take this one
            assert postbox.drain()
        assert (postbox.sent, len(mails.messages)) == (1, 1)


def test_what_was_accepted_is_not_sent_twice(clock: FixedClock) -> None:
    with mail_server({"QUIT": ["421 too busy to say goodbye"]}) as mails:
        with posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
        assert (postbox.sent, len(mails.messages)) == (1, 1)


def test_a_server_that_is_away_or_silent_is_tried_again(clock: FixedClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        sender = SmtpSender(f"smtp://127.0.0.1:{silent.getsockname()[1]}", FROM, clock, timeout=0.1)
        with pytest.raises(OSError) as error:  # noqa: PT011
            sender.send(mail())
        assert may_pass(error.value)
    with pytest.raises(ConnectionRefusedError) as error:
        sender.send(mail())
    assert may_pass(error.value)


@pytest.mark.parametrize(
    "address", ["", "pantry", "a@example.com, b@example.com", "Pantry <>", "a@example.com\nBcc: b@example.com"]
)
def test_a_wrong_sender_address_is_refused_at_the_start(address: str, clock: FixedClock) -> None:
    with pytest.raises(ValueError, match=r"address|linefeed|header"):
        SmtpSender("smtp://127.0.0.1", address, clock)


# ---------------------------------------------------------------- from settings to a sender


def test_each_mail_url_has_its_sender(clock: FixedClock, tmp_path: Path) -> None:
    assert isinstance(sender_of("memory:", FROM, clock), MemorySender)
    assert isinstance(sender_of(f"file:{tmp_path / 'mail.jsonl'}", FROM, clock), FileSender)
    assert isinstance(sender_of("smtp://mail.example:587", FROM, clock), SmtpSender)
    assert isinstance(sender_of("smtp://127.0.0.1", "pantry@localhost", clock), SmtpSender)
    with mail_server() as mails:
        with pytest.raises(smtplib.SMTPNotSupportedError):
            sender_of(mails.url, FROM, clock, require_tls=True).send(mail())
        sender_of(mails.url, FROM, clock).send(mail())
    assert len(mails.messages) == 1


def test_host_port_and_login() -> None:
    assert smtp_server("smtp://mail.example") == ("mail.example", 25, None)
    assert smtp_server("smtp://u:p@mail.example") == ("mail.example", 587, ("u", "p"))
    assert smtp_server("smtp://u%40x:p%2F@[::1]:2525") == ("::1", 2525, ("u@x", "p/"))


@pytest.mark.parametrize(
    "url",
    [
        "smtp://pantry:hun/ter2@mail.example",
        "smtp://hunter2@mail.example",
        "smtps://u:hunter2@mail.example",
        "hunter2",
        "",
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str, clock: FixedClock) -> None:
    with pytest.raises(ValueError, match="smtp://") as error:
        sender_of(url, FROM, clock)
    assert "ter2" not in str(error.value)


# ---------------------------------------------------------------- the file


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_of_the_file(clock: FixedClock, tmp_path: Path) -> None:
    path = tmp_path / "mail.jsonl"
    FileSender(path, clock).send(mail(subject="für Zoë\u202f!", text="two\nlines\u2028three\n"))
    FileSender(path, clock).send(Mail("ada@example.com", "notice", "Your password was changed", "It was."))
    first, second = read(path)
    assert list(first) == ["to", "type", "subject", "text", "url", "token", "sent_at"]
    assert first["text"] == "two\nlines\u2028three\n"
    assert (first["url"], first["token"], first["sent_at"]) == (URL, TOKEN, "2026-11-02T09:00:00.000Z")
    assert datetime.fromisoformat(first["sent_at"]) == clock.now()
    assert (second["type"], second["url"], second["token"]) == ("notice", None, None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_is_its_owners_alone(clock: FixedClock, tmp_path: Path) -> None:
    path, pipe = tmp_path / "mail.jsonl", tmp_path / "pipe"
    before = os.umask(0)
    try:
        FileSender(path, clock).send(mail())
        assert mode(path) == 0o600
        path.chmod(0o644)
        FileSender(path, clock).send(mail())
        assert mode(path) == 0o600
        os.mkfifo(pipe, 0o644)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        FileSender(pipe, clock).send(mail())
        assert mode(pipe) == 0o644, "a device or a pipe keeps its mode: /dev/stdout belongs to others too"
        os.close(reader)
    finally:
        os.umask(before)


def test_the_file_stays_where_it_was_meant(clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sender = sender_of("file:mail.jsonl", FROM, clock)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sender.send(mail())
    assert len(read(tmp_path / "mail.jsonl")) == 1
    with pytest.raises(ValueError, match="folder"):
        sender_of("file:nowhere/mail.jsonl", FROM, clock)


def test_a_line_is_one_write_at_the_end(clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next test depends on, and would show only now and then."""
    opened: list[int] = []
    written: list[bytes] = []
    really_open, really_write = os.open, os.write
    monkeypatch.setattr(os, "open", lambda path, flags, mode: opened.append(flags) or really_open(path, flags, mode))
    monkeypatch.setattr(os, "write", lambda to, line: written.append(line) or really_write(to, line))
    FileSender(tmp_path / "mail.jsonl", clock).send(mail(text="long " * 10_000))
    assert [flags & os.O_APPEND for flags in opened] == [os.O_APPEND]
    assert written == [(tmp_path / "mail.jsonl").read_bytes()]
    monkeypatch.setattr(os, "write", lambda to, line: 5)
    with pytest.raises(OSError, match="cut"):
        FileSender(tmp_path / "mail.jsonl", clock).send(mail())


WRITER = """
import sys
from playbook.auth.mail import Mail
from playbook.pantry.mail_senders import FileSender
from playbook.foundations.clock_and_identifiers import SystemClock

sender = FileSender(sys.argv[1], SystemClock())
print("ready", flush=True)
sys.stdin.readline()
for number in range(300):
    sender.send(Mail("ada@example.com", "notice", f"{sys.argv[2]} {number}", sys.argv[2] * 20_000))
"""


def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    path, environ = tmp_path / "mail.jsonl", os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        writer.stdin and writer.stdin.close()
        writer.stdout and writer.stdout.close()
    lines = read(path)
    for name in "ab":
        mine = [line for line in lines if line["subject"].startswith(name)]
        assert [line["subject"] for line in mine] == [f"{name} {number}" for number in range(300)]
        assert {line["text"] for line in mine} == {name * 20_000}
    assert len(lines) == 600


# ---------------------------------------------------------------- memory


def test_the_newest_mail_is_found_by_address_and_type() -> None:
    sender = MemorySender()
    for made in (mail(), mail("bob@example.com"), Mail("ada@example.com", "notice", "Changed", "")):
        sender.send(made)
    assert sender.last("ada@example.com").type == "notice"
    assert sender.last("ada@example.com", "reset-password").token == TOKEN
    with pytest.raises(LookupError, match=r"bob@example\.com") as error:
        sender.last("bob@example.com", "notice")
    assert TOKEN not in str(error.value)


# ---------------------------------------------------------------- the postbox


@pytest.mark.proves("ASVS 6.3.8")
def test_an_answer_does_not_wait_for_the_mail_server(clock: FixedClock) -> None:
    with mail_server(hold=True) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        app = FastAPI()

        @app.post("/forgot")
        def forgot(email: str) -> dict[str, str]:
            if email == "ada@example.com":
                postbox.post(mail())
            return {"message": "on its way"}

        with serving(app) as client:
            for _ in range(60):  # more than there are threads
                known, unknown = (client.post(f"/forgot?email={name}@example.com") for name in ("ada", "bob"))
                assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
                assert known.headers.keys() == unknown.headers.keys()
            mails.wait_held(1)
            assert mails.messages == [], "all were answered before the first mail was accepted"
            mails.release()
            assert postbox.drain()
        assert len(mails.inbox("ada@example.com")) == 60


def test_a_full_queue_drops_and_never_waits(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    with posting(sender, capacity=5) as postbox:
        for number in range(50):
            postbox.post(mail(f"ada@{number}.example"))
        assert postbox.dropped == 45
        assert caplog.text.count("dropped") == 45
        assert postbox.full
        sender.go_on.set()
        assert postbox.drain()
        assert (postbox.sent, len(sender.mails)) == (5, 5)
        assert not postbox.full
        postbox.post(mail())
        assert postbox.drain()
        assert (postbox.sent, postbox.dropped) == (6, 45), "there is room again"


def test_one_thread_keeps_the_order_and_four_work_at_once() -> None:
    sender = MemorySender()
    with posting(sender, threads=1) as postbox:
        for number in range(100):
            postbox.post(mail(subject=str(number)))
        assert postbox.drain()
    assert [made.subject for made in sender.mails] == [str(number) for number in range(100)]
    held = Held()
    with posting(held, threads=4) as postbox:
        for number in range(6):
            postbox.post(mail(f"ada@{number}.example"))
        assert all(held.entered.acquire(timeout=10) for _ in range(4))
        assert not held.entered.acquire(blocking=False)
        held.go_on.set()
        assert postbox.drain()
    assert len(held.mails) == 6


def test_posting_from_many_threads_loses_nothing() -> None:
    sender = MemorySender()
    with posting(sender, threads=3, capacity=10_000) as postbox:
        threads = [threading.Thread(target=lambda: [postbox.post(mail()) for _ in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert postbox.drain(30)
        assert (postbox.sent, postbox.dropped, len(sender.mails)) == (1600, 0, 1600)


def test_drain_says_when_it_gave_up_waiting() -> None:
    sender = Held()
    with posting(sender) as postbox:
        assert postbox.drain(timeout=0)
        postbox.post(mail())
        assert not postbox.drain(timeout=0.01)
        sender.go_on.set()
        assert postbox.drain()


def test_closing_sends_what_is_queued_and_takes_no_more(caplog: pytest.LogCaptureFixture) -> None:
    sender = MemorySender()
    postbox = Postbox(sender)
    for _ in range(20):
        postbox.post(mail())
    assert postbox.close()
    assert len(sender.mails) == 20
    postbox.post(mail())
    assert (len(sender.mails), postbox.dropped) == (20, 1)
    assert "takes no more" in caplog.text
    assert postbox.close(), "twice is once"


def test_closing_says_what_it_had_to_leave(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    postbox = Postbox(sender, threads=1)
    for _ in range(4):
        postbox.post(mail())
    assert sender.entered.acquire(timeout=10)
    assert not postbox.close(timeout=0.01)
    assert caplog.text.count("lost, the service stops") == 3
    assert "1 mail is still being sent" in caplog.text
    sender.go_on.set()
    assert postbox.drain()
    assert (postbox.sent, postbox.dropped) == (1, 3), "only the one that was under way goes out"


def test_closing_does_not_wait_for_pauses() -> None:
    sender = Failing(*[smtplib.SMTPServerDisconnected()] * 100)
    postbox = Postbox(sender)  # with real pauses: at least fifteen seconds a mail
    for _ in range(5):
        postbox.post(mail())
    assert sender.called.wait(10)
    assert postbox.close(timeout=10)
    assert postbox.dropped == 5
    assert sender.calls <= 10, "one attempt, and a last one at the stop"


def test_attempts_are_bounded_and_pauses_grow() -> None:
    sender = Failing(*[smtplib.SMTPServerDisconnected()] * 100)
    with posting(sender, attempts=9) as postbox:
        postbox.post(mail())
        assert postbox.drain()
    assert (sender.calls, postbox.dropped) == (9, 1)
    longest = [min(300, 4**n) for n in range(8)]
    for _ in range(100):
        assert all(most / 2 <= backoff(n) <= most for n, most in enumerate(longest, 1))


def test_a_bug_in_a_sender_costs_one_mail_only(caplog: pytest.LogCaptureFixture) -> None:
    sender = Failing(TypeError("a bug"))
    with posting(sender) as postbox:
        postbox.post(mail())
        postbox.post(mail())
        assert postbox.drain()
        assert (postbox.sent, postbox.dropped, sender.calls) == (1, 1, 2)
    assert "TypeError" in caplog.text


# ---------------------------------------------------------------- nobody's mail waits for somebody else's


def verification(to: str) -> Mail:
    return Mail(to, "verify-email", "Confirm your address", f"Open {URL}\n", URL, TOKEN)


def test_a_retry_gives_its_thread_back(clock: FixedClock) -> None:
    """Six sign-ups at a server that says 451, with real pauses, and the reset goes out meanwhile."""
    with mail_server(domains={"slow.example": "451 4.7.1 later"}) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock), pause=lambda attempt: 3600.0)
        for number in range(6):
            postbox.post(verification(f"eve{number}@slow.example"))
        postbox.post(mail())
        (delivered,) = mails.wait_for(1, timeout=60)
        assert delivered["To"] == "ada@example.com"
        mails.wait_tried(7, timeout=60)
        postbox.post(mail("bob@example.com"))
        assert len(mails.wait_for(2, timeout=60)) == 2, "six mails wait an hour, and hold nobody"
        assert not postbox.drain(timeout=0.01), "a mail that waits for its next attempt is not done"
        assert postbox.dropped == 0
        assert postbox.close(timeout=60)
        assert mails.recipients.count("eve0@slow.example") == 2, "at the stop each is tried once more, without a pause"
        assert postbox.dropped == 6


def test_a_server_that_never_replies_holds_two_of_four_threads(clock: FixedClock) -> None:
    with mail_server(hold=["tar.example"]) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock, timeout=600, within=600))
        for number in range(9):
            postbox.post(verification(f"eve{number}@tar.example"))
        mails.wait_held(2, timeout=60)
        for number in range(5):
            postbox.post(verification(f"bob{number}@example.com"))
        assert len(mails.wait_for(5, timeout=60)) == 5
        assert mails.held == 2
        mails.release()
        assert postbox.close(timeout=60)
        assert postbox.sent == 14


def test_many_slow_destinations_leave_a_thread_for_resets(clock: FixedClock) -> None:
    slow = [f"{number}.example" for number in range(9)]
    with mail_server(hold=slow) as mails:
        postbox = Postbox(SmtpSender(mails.url, FROM, clock, timeout=600, within=600))
        for domain in slow:
            postbox.post(verification(f"eve@{domain}"))
        mails.wait_held(3, timeout=60)
        postbox.post(mail())
        (delivered,) = mails.wait_for(1, timeout=60)
        assert delivered["To"] == "ada@example.com"
        assert mails.held == 3
        mails.release()
        assert postbox.close(timeout=60)


def test_a_line_now_and_then_does_not_keep_a_mail_for_ever(clock: FixedClock) -> None:
    """A greeting of any number of lines: each is in time, the mail as a whole is not."""
    stop = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"220-wait\r\n")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,), daemon=True)
        thread.start()
        url = f"smtp://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises((OSError, smtplib.SMTPException)) as error:
            SmtpSender(url, FROM, clock, timeout=200, within=0.5).send(mail())
        stop.set()
        thread.join(10)
    assert may_pass(error.value)


def test_what_is_urgent_goes_first_and_stays_in_a_full_queue(caplog: pytest.LogCaptureFixture) -> None:
    sender = Held()
    with posting(sender, threads=1, capacity=8) as postbox:
        notice = Mail("ada@0.example", "notice", "Changed", "")
        for number in range(8):
            postbox.post(replace(notice, to=f"ada@{number}.example"))
        assert sender.entered.acquire(timeout=10)
        postbox.post(mail("bob@example.com"))
        postbox.post(verification("eve@example.com"))
        assert caplog.text.count("(notice): dropped") == 2, "two notices gave way"
        sender.go_on.set()
        assert postbox.drain()
    assert [made.to for made in sender.mails[:4]] == [
        "ada@0.example",
        "bob@example.com",
        "eve@example.com",
        "ada@1.example",
    ]


def test_one_destination_gets_half_of_the_queue() -> None:
    queue = MailQueue(threads=4, capacity=10)
    taken = [queue.add(verification(f"eve{number}@Slow.example")) for number in range(8)]
    assert [lost is None for lost in taken] == [True] * 5 + [False] * 3
    assert queue.add(mail()) is None
    assert take(queue, 0.0).mail.to == "ada@example.com"  # type: ignore[union-attr]
    # What is under way counts as well, and so does what waits for its next attempt.
    assert take(queue, 0.0) is not None
    assert queue.add(verification("eve@slow.EXAMPLE")) is not None


def test_a_thread_that_goes_is_seen_by_who_posts_next() -> None:
    """Threads end when nothing is left; a mail posted at that moment must not wait for one that has gone."""
    sender = MemorySender()
    with posting(sender, threads=2) as postbox:
        for number in range(3000):
            postbox.post(mail(f"ada@{number % 7}.example"))
            if number % 3 == 0:
                assert postbox.drain(60)
        assert postbox.drain(60)
    assert len(sender.mails) == 3000


def test_looking_up_does_not_wait_behind_mails() -> None:
    sender, done = Held(), threading.Event()
    with posting(sender) as postbox:
        for number in range(20):
            postbox.post(mail(f"ada@{number}.example"))
        assert postbox.submit(done.set)
        assert done.wait(30)
        assert sender.mails == []
        sender.go_on.set()


def test_a_call_that_was_taken_before_the_stop_may_still_post() -> None:
    sender, go_on = MemorySender(), threading.Event()
    postbox = Postbox(sender)

    def look_up() -> None:
        assert go_on.wait(30)
        postbox.post(mail())

    assert postbox.submit(look_up)
    closing = threading.Thread(target=postbox.close, args=(60,))
    closing.start()
    while not postbox._closed.is_set():
        pass
    go_on.set()
    closing.join(60)
    assert len(sender.mails) == 1
    assert not postbox.submit(look_up)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": -1}])
def test_a_postbox_without_threads_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="threads"):
        Postbox(MemorySender(), **wrong)  # type: ignore[arg-type]


def refusing(reply: str) -> Callable[[FixedClock], None]:
    def run(clock: FixedClock) -> None:
        with mail_server({"DATA": [reply] * 8}) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
            postbox.post(mail())
            assert postbox.drain()
            assert postbox.dropped == 1

    return run


def distrusted(clock: FixedClock) -> None:
    with mail_server(tls=True) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        postbox.post(mail())
        assert postbox.drain()
        assert postbox.dropped == 1


def failing_with(*errors: Exception) -> Callable[[FixedClock], None]:
    def run(clock: FixedClock) -> None:
        with posting(Failing(*errors), attempts=2) as postbox:
            postbox.post(mail())
            assert postbox.drain()

    return run


def overflowing(clock: FixedClock) -> None:
    sender = Held()
    with posting(sender, capacity=1) as postbox:
        postbox.post(mail())
        postbox.post(mail())
        sender.go_on.set()
        assert postbox.drain()


@pytest.mark.proves("ASVS 16.2.5", "ASVS 16.3.4")
@pytest.mark.parametrize(
    ("accident", "kind"),
    [
        (refusing(f"550 5.7.1 the link {URL} is on a list"), "SMTPDataError 550"),
        (refusing(f"451 4.7.1 ada@example.com: {TOKEN}"), "SMTPDataError 451"),
        (distrusted, "SSLCertVerificationError"),
        (failing_with(smtplib.SMTPRecipientsRefused({"ada@example.com": (550, TOKEN.encode())})), "Refused 550"),
        (failing_with(ConnectionResetError(URL), ConnectionResetError(URL)), "ConnectionResetError"),
        (failing_with(KeyError(mail().text)), "KeyError"),
        (overflowing, "dropped"),
    ],
    ids=["filter quotes the link", "greylisted", "certificate", "recipient", "connection", "bug", "full"],
)
def test_a_log_tells_the_mail_and_the_kind_and_no_secret(
    accident: Callable[[FixedClock], None], kind: str, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    accident(clock)
    records = [record for record in caplog.records if record.name == "pantry.mail"]
    assert records
    written = "\n".join(caplog.handler.format(record) for record in records)
    assert "(reset-password)" in written
    assert kind in written
    for secret in (TOKEN, "token=", "ada@example.com"):
        assert secret not in written


def test_the_log_names_the_mail_that_the_message_id_names(clock: FixedClock, caplog: pytest.LogCaptureFixture) -> None:
    known = uuid.UUID(int=7)
    with mail_server({"DATA": ["451 later"]}) as mails, posting(SmtpSender(mails.url, FROM, clock)) as postbox:
        postbox.post(replace(mail(), id=known))
        assert postbox.drain()
    assert str(known) in caplog.text
    assert str(known) in mails.messages[0]["Message-ID"]
