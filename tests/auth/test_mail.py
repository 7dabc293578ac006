"""Mail: one recipient whatever is typed, no answer that waits, no secret in a log. Over real SMTP."""

import json
import os
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import threading
import unicodedata
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from playbook.auth.mail import Mail, MemorySender, link, may_pass, smtp_server
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.data import ROOT
from playbook.kit.smtp import mail_server
from playbook.pantry.mail_senders import BoundedSender as SmtpSender
from playbook.pantry.mail_senders import FileSender, sender_of

FROM = "Pantry <pantry@pantry.example>"
TOKEN = "reset_7hQe4TtN1m"
URL = f"https://pantry.example/reset?token={TOKEN}"


def mail(to: str = "ada@example.com", subject: str = "A new password?", **more: object) -> Mail:
    values = {"text": f"Open {URL}\n", "url": URL, "token": TOKEN} | more
    return Mail(to, "reset-password", subject, **values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what a mail may be


@pytest.mark.proves("ASVS 1.3.11", "CWE-93")
def test_no_character_that_ends_a_line_for_anybody() -> None:
    everything = map(chr, range(sys.maxunicode + 1))
    line_ends = [one for one in everything if unicodedata.category(one) in {"Cc", "Zl", "Zp", "Cs"}]
    assert {"\r", "\n", "\0", "\x85", "\u2028", "\u2029"} < set(line_ends)
    for character in line_ends:
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
        thread.join(60)
    assert may_pass(error.value)
