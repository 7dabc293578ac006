# %% [markdown]
"""
# Mail

Send mail that no input can redirect, that nobody has to wait for without end, and that every test can read.

| | |
|---|---|
| **Use it when** | the service writes to people: confirm an address, reset a password, invite, tell of a change |
| **You need** | [settings](../foundations/settings.ipynb), [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb) |
| **Time** | 20 minutes |
| **Topics** | mail, e-mail, email, smtp, smtplib, starttls, utf-8 subject, smtputf8, header injection, crlf injection, bcc, 4yz, 5yz, test mail, aiosmtpd, notification, encodeURIComponent |
| **Standard** | RFC 5321, 5322, 3207, 3834, 6531; OWASP ASVS 5.0 (1.2.2, 1.3.11, 12.3.1, 12.3.2, 16.2.5); CWE-93 |
"""

# %% [markdown]
"""
## The decision

Who puts a mail together, and who may be its recipient?

| option | good | costs |
|---|---|---|
| one text with `To:` and `Subject:` in it, handed to `smtplib` | four lines | whoever fills in a field writes headers, as the next cell shows |
| a provider's HTTP API and SDK | no SMTP, statistics | an account for every developer; tests talk to a mock; another library for another provider |
| Django's `send_mail`, Flask-Mail | there already; Django refuses line breaks in headers | a text that is put together by hand is as unsafe as before; links from the `Host` header, if you build them from the request |
| **`EmailMessage` for one checked address, behind a sender of one method** | headers are encoded or refused; SMTP, a file or a list, as the settings say | a relay is needed for what providers do: reputation, bounces |

We take the last one. Choose the provider's API when bounces must come back into your own tables.
"""

# %% [markdown]
"""
## See it break

The text of a welcome mail, put together like any other text, and sent to a real SMTP server. Somebody signs up with
Ada's address and a name that has a line feed in it. Before you run the cell: who gets the link?
"""

# %%
import smtplib
from email import message_from_string
from urllib.parse import urlsplit

from playbook.kit.lesson import checker, lesson_folder, mail_server


def send_in_a_naive_way(url, to, name):
    text = f"From: pantry@pantry.example\nTo: {to}\nSubject: Welcome, {name}\n\nhttps://pantry.example/verify?token=..."
    with smtplib.SMTP(urlsplit(url).hostname, urlsplit(url).port) as smtp:
        smtp.send_message(message_from_string(text))


with mail_server() as mails:
    send_in_a_naive_way(mails.url, "ada@example.com", "friend\nBcc: mallory@evil.example")
    for mailbox in ("ada@example.com", "mallory@evil.example"):
        (message,) = mails.inbox(mailbox)
        print(f"{mailbox} got {message['Subject']!r}; headers: {', '.join(message.keys())}")

# %% [markdown]
"""
Mallory has a link that confirms Ada's address, and Ada cannot see it: `Bcc` is removed on the way, as it should be.

## Build it

A mail is checked when it is made, inside the request, where somebody can still be told. `to` is **one** address: a
comma would make it two. Neither `to` nor `subject` holds anything that some program takes for the end of a line. The
link is a credential, so `repr` shows neither it nor the text that quotes it.
"""

# %% tags=["export"]
import re
import unicodedata
import uuid
from dataclasses import dataclass, field
from typing import Literal, get_args

MailType = Literal["verify-email", "reset-password", "invitation", "notice"]
ONE_ADDRESS = re.compile(r"""(?!.*=\?)[^\s@<>()\[\],;:\\"]+@[^\s@<>()\[\],;:\\"]+""")  # =? begins an encoded word
ENDS_A_LINE = {"Cc", "Zl", "Zp", "Cs"}  # control characters, line and paragraph separators, lone surrogates


@dataclass(frozen=True)
class Mail:
    """One mail to one person; `id` is the same at every attempt to send it. Raises ValueError for what is unsafe.

    `to` has at most 254 octets (RFC 5321, 4.5.3.1.3) and no display name; `url` and `token` are credentials.
    """

    to: str
    type: MailType
    subject: str
    text: str = field(repr=False)
    url: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    id: uuid.UUID = field(default_factory=uuid.uuid4, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.type not in get_args(MailType):
            raise ValueError(f"a mail's type should be one of {', '.join(get_args(MailType))}")
        if any(unicodedata.category(character) in ENDS_A_LINE for character in self.to + self.subject):
            raise ValueError("a mail's `to` and `subject` should hold no line break or other control character")
        if not ONE_ADDRESS.fullmatch(self.to) or len(self.to.encode()) > 254:
            raise ValueError("a mail's `to` should be one address: name@example.com")
        self.text.encode()  # a lone surrogate: UnicodeEncodeError, which is a ValueError


# %% [markdown]
"""
Links begin with the `base_url` of the settings. The `Host` header is chosen by whoever sends the request: a link built
from it sends Ada's token to Mallory's machine. Values are encoded as JavaScript's `encodeURIComponent` does.
"""

# %% tags=["export"]
from urllib.parse import quote


def origin(text: str) -> str:
    """`text` as a browser would send it in `Origin`: `https://pantry.example`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", text.strip().lower())
    if match is None:
        raise ValueError("should be an origin: http or https, a host, perhaps a port; no path, no *")
    scheme, host, port = match[1], match[2], int(match[3] or 0)
    if match[3] and not 0 < port < 65536:
        raise ValueError("should have a port between 1 and 65535")
    return f"{scheme}://{host}" + (f":{port}" if port not in (0, {"http": 80, "https": 443}[scheme]) else "")


def link(base_url: str, path: str, **query: str) -> str:
    """`base_url`, which is an origin, then `path`, then `query` in the order given. Raises ValueError."""
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", path):
        raise ValueError("a link's path should begin with / and be encoded already")
    as_component = "!'()*"  # what encodeURIComponent leaves as it is, besides letters, digits and _.-~
    pairs = (f"{name}={quote(value, safe=as_component)}" for name, value in query.items())
    return origin(base_url) + path + ("?" if query else "") + "&".join(pairs)


# %% [markdown]
"""
A sender is one method. Memory is for tests: the mail is an object, and nobody looks for a link in a text. The file is
for development, one JSON object a line, and for tests in other languages. It holds links that open accounts, so it is
its owner's alone. A line is one `write` to a file opened for appending: those of several processes do not mix.
"""

# %% tags=["export"]
import json
import os
import stat
from pathlib import Path
from typing import Protocol

from playbook.foundations.clock_and_identifiers import Clock


class Sender(Protocol):
    """Hands a mail over. Whatever it raises, `may_pass` says whether trying again can help."""

    def send(self, mail: Mail) -> None: ...


class MemorySender:
    """Keeps mails in `mails`, oldest first."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    def send(self, mail: Mail) -> None:
        self.mails.append(mail)

    def last(self, to: str, type: MailType | None = None) -> Mail:
        """The newest mail to this address, of this type if one is given. Raises LookupError when there is none."""
        found = [mail for mail in self.mails if mail.to == to and type in (None, mail.type)]
        if not found:
            raise LookupError(f"no such mail; sent so far: {self.mails}")
        return found[-1]


# %% tags=["export"]
class FileSender:
    """Appends to a file of JSON lines that only its owner may read. Raises ValueError when its folder is missing."""

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self._path, self._clock = Path(path).absolute(), clock
        if not self._path.parent.is_dir():
            raise ValueError("the folder of the mail file should exist")

    def send(self, mail: Mail) -> None:
        names = ("to", "type", "subject", "text", "url", "token")
        sent_at = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({name: getattr(mail, name) for name in names} | {"sent_at": sent_at}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:  # it was there before, open to others
                os.chmod(self._path, 0o600)
            if os.write(descriptor, line.encode("ascii")) < len(line):
                raise OSError("the mail file's disk is full: its last line is cut")
        finally:
            os.close(descriptor)


# %% [markdown]
"""
`EmailMessage` of the standard library encodes what is not ASCII. `Message-ID` comes from the mail's id: when one mail
arrives twice, the mailbox can tell. `Auto-Submitted` keeps holiday replies from answering it (RFC 3834).
"""

# %% tags=["export"]
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP

WIRE = SMTP.clone(cte_type="7bit")  # what is not ASCII is encoded: not every server takes it as it is


def message_of(mail: Mail, from_address: str, now: datetime) -> EmailMessage:
    """`mail` as a message (RFC 5322). `from_address` is `name@host` or `Pantry <name@host>`; else ValueError."""
    message = EmailMessage(WIRE)
    message["From"] = from_address
    sender = message["From"].addresses
    if len(sender) != 1 or not sender[0].username or not sender[0].domain:
        raise ValueError("the address that mails come from should be one address")
    message["To"], message["Subject"], message["Date"] = mail.to, mail.subject, now
    message["Message-ID"], message["Auto-Submitted"] = f"<{mail.id}@{sender[0].domain}>", "auto-generated"
    message.set_content(mail.text)
    return message


# %% [markdown]
"""
The recipient is passed beside the message, so no header can add one. STARTTLS is used when the server offers it, and
the certificate is checked. With a password, or `require_tls`, nothing goes in plain text: somebody on the way can
remove the offer. Every wait ends, and so does the mail as a whole. A failing QUIT is no failure: the mail was accepted, and would be sent twice.
"""

# %% tags=["export"]
import smtplib
import ssl
from urllib.parse import unquote, urlsplit


def mail_server_url(text: str) -> str:
    """Where mail goes: `file:PATH` (JSON lines), `smtp://[user:password@]host[:port]`, `memory:`. Raises ValueError."""
    url = re.sub(r"^file:/{2}/", "file:/", text.strip())
    smtp = re.fullmatch(r"smtp://([^@/\s]+@)?([\w.-]+|\[[0-9a-fA-F:.]+\])(:([0-9]{1,5}))?", url)
    if url == "memory:" or re.fullmatch(r"file:(?!//).+", url) or (smtp and 0 < int(smtp[4] or 25) < 65536):
        return url
    raise ValueError("should be file:PATH, smtp://host:port or memory:")


def smtp_server(url: str) -> tuple[str, int, tuple[str, str] | None]:
    """Host, port (by default 587 with a password, else 25) and login. Raises ValueError, without the URL in it."""
    parts = urlsplit(mail_server_url(url))
    if parts.scheme != "smtp" or (parts.username is not None and not parts.password):
        raise ValueError("should be smtp://host:port or smtp://user:password@host:port")
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return parts.hostname or "", parts.port or (587 if login else 25), login


# %% tags=["export"]
import socket
import threading
from contextlib import suppress


class Connection(smtplib.SMTP):
    """An SMTP connection of at most `within` seconds: a byte every nine seconds is no silence, and never ends."""

    def __init__(self, host: str, port: int, local: str, timeout: float, within: float) -> None:
        self._end = threading.Timer(within, self._cut)
        self._end.daemon = True
        self._end.start()
        super().__init__(host, port, local, timeout)

    def _cut(self) -> None:
        if (sock := self.sock) is not None:
            with suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._end.cancel()
        super().close()


# %% tags=["export"]
from contextlib import closing

from playbook.foundations.clock_and_identifiers import EPOCH


class SmtpSender:
    """Sends over SMTP, a connection a mail. Raises ValueError when made with a wrong URL or `from_address`.

    `tls` is by default a context that trusts the system's authorities. `timeout` (seconds) is for each reply, `within`
    for the whole mail.
    """

    def __init__(
        self, url: str, from_address: str, clock: Clock, *, require_tls: bool = False,
        tls: ssl.SSLContext | None = None, timeout: float = 10, within: float = 30,
    ) -> None:  # fmt: skip
        self._host, self._port, self._login = smtp_server(url)
        self._tls, self._require_tls = tls or ssl.create_default_context(), require_tls or self._login is not None
        self._from, self._clock, self._limits = from_address, clock, (timeout, within)
        any_message = message_of(Mail("nobody@localhost", "notice", "", ""), from_address, EPOCH)
        self._address = any_message["From"].addresses[0]

    def send(self, mail: Mail) -> None:
        message = message_of(mail, self._from, self._clock.now())
        with closing(Connection(self._host, self._port, self._address.domain, *self._limits)) as smtp:
            smtp.ehlo_or_helo_if_needed()
            if smtp.has_extn("starttls"):
                smtp.starttls(context=self._tls)
            elif self._require_tls:
                raise smtplib.SMTPNotSupportedError("the mail server offers no STARTTLS")
            if self._login:
                smtp.login(*self._login)
            smtp.send_message(message, self._address.addr_spec, [mail.to])
            with suppress(OSError):
                smtp.quit()


# %% [markdown]
"""
A reply 4yz asks you to come back; 5yz is final (RFC 5321, 4.2.1). The kind of the error and the code will go to the
log, the server's sentence will not: spam filters quote the link they refuse.
"""


# %% tags=["export"]
def reply_code(error: Exception) -> int | None:
    """The SMTP reply that `error` stands for, if it does."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return max(code for code, _ in error.recipients.values())
    return error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else None


def may_pass(error: Exception) -> bool:
    """Whether the same mail may be accepted later: a 4yz reply, or a server that cannot be reached or went away."""
    if (code := reply_code(error)) is not None:
        return 400 <= code < 500
    if isinstance(error, smtplib.SMTPException):  # also an OSError
        return isinstance(error, smtplib.SMTPServerDisconnected)
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)


def sender_of(mail_url: str, from_address: str, clock: Clock, require_tls: bool = False) -> Sender:
    """The sender for the setting `mail_url`: `file:PATH`, `smtp://...` or `memory:`. Raises ValueError."""
    url = mail_server_url(mail_url)
    if url == "memory:":
        return MemorySender()
    if url.startswith("file:"):
        return FileSender(url.removeprefix("file:"), clock)
    return SmtpSender(url, from_address, clock, require_tls=require_tls)


# %% [markdown]
"""
## See it work

Ada has forgotten her password, her address is fine, and the subject has an umlaut. Once over SMTP, once into a file.
What stands in the subject's line on the wire?
"""

# %%
from datetime import UTC

from playbook.foundations.clock_and_identifiers import FixedClock, SeededBytes, new_token

FROM, BASE = "Pantry <pantry@pantry.example>", "https://pantry.example"
clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))


def reset_mail(to):
    token = new_token("reset", SeededBytes(1))
    url = link(BASE, f"/api/auth/reset-password/{token}", callbackURL="/reset?step=2")
    return Mail(to, "reset-password", "A new password, Zoë?", f"Choose it here:\n\n{url}\n", url, token)


mail = reset_mail("ada@example.com")
with mail_server() as mails:
    SmtpSender(mails.url, FROM, clock).send(mail)
    raw, message = mails.deliveries[0].raw, mails.messages[0]
print(next(line for line in raw.decode("ascii").splitlines() if line.startswith("Subject")), "\n")
headers = (f"{name}: {message[name]}" for name in ("From", "To", "Subject", "Date", "Auto-Submitted"))
print(*headers, "", message.get_content(), sep="\n")

# %%
print(mail)
path = lesson_folder() / "mail.jsonl"
sender_of(f"file:{path}", FROM, clock).send(mail)
print(path.read_text(encoding="utf-8"))

# %% [markdown]
"""
`repr` shows neither link nor text, so a log line that holds a mail by mistake opens nothing. Then two refusals. Which
of them is worth another attempt?
"""

# %%
quoting = f"550 5.7.1 link refused: {mail.url}"
with mail_server({"DATA": ["451 4.7.1 greylisted", quoting]}) as mails:
    for _ in range(2):
        try:
            SmtpSender(mails.url, FROM, clock).send(mail)
        except smtplib.SMTPException as error:
            print(reply_code(error), "may pass" if may_pass(error) else "is final")

# %% [markdown]
"""
## Check it
"""

# %%
import sys
from urllib.parse import parse_qs


def refused(make):
    try:
        make()
    except ValueError:
        return
    raise AssertionError("accepted")


control = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) in ENDS_A_LINE - {"Cs"}]
assert {"\r", "\n", "\0", "\x85", "\u2028"} < set(control)
for character in control:
    refused(lambda: Mail("ada@example.com", "notice", f"Welcome{character}Bcc: mallory@evil.example", ""))
    refused(lambda: Mail(f"ada@example.com{character}", "notice", "Welcome", ""))
for to in ("ada@example.com,eve@evil.example", "<ada@example.com>", "Ada ada@example.com", "ada@b@c", "ada", "", "@b"):
    refused(lambda: Mail(to, "notice", "Welcome", ""))

for awkward in ("/welcome?x=1&y=#z", "a b+c", "%2F", "ünïcode/🙂", "-_.!~*'()", "\r\nHost: evil.example"):
    query = urlsplit(link(BASE, "/verify", token="T", callbackURL=awkward)).query
    assert parse_qs(query) == {"token": ["T"], "callbackURL": [awkward]}
assert link(BASE, "/v", u="/welcome?x=1 (é!)") == "https://pantry.example/v?u=%2Fwelcome%3Fx%3D1%20(%C3%A9!)"

with mail_server(hold=True) as mails:
    try:
        SmtpSender(mails.url, FROM, clock, timeout=60, within=0.2).send(mail)
        raise AssertionError("a server that never replies held the mail")
    except OSError as error:
        assert may_pass(error), "a mail that took too long may be tried again"
assert mail.token not in repr(mail)
print("no input adds a recipient; links survive any value; nothing shows a token; a mail ends")

# %% [markdown]
"""
## Your turn

Anybody can type Ada's address into the form, a thousand times. Write `Calm(sender, clock, most, per)`, a sender around
a sender:

- within any stretch of time as long as `per`, at most `most` mails reach one mailbox (`Ada@Example.com` is the same
  one); what is too much is dropped, without an error;
- a `notice` tells Ada that her password was changed. It always goes out and is not counted, or three harmless requests
  would keep from her the mail that matters;
- a mail that `sender` could not send is not counted, and the postbox must hear of it;
- two workers may send to one address at the same moment.
"""

# %% tags=["exercise"]
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta


class Calm:
    def __init__(self, sender: Sender, clock: Clock, most: int, per: timedelta) -> None:
        self.sender = sender

    def send(self, mail: Mail) -> None:
        self.sender.send(mail)  # replace this


# %%
@checker
def check_calm(calm):
    hour, clock, inner = timedelta(hours=1), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), MemorySender()
    sender = calm(inner, clock, 3, hour)

    def got(number=1, to="ada@example.com", type="reset-password"):
        before = len(inner.mails)
        for _ in range(number):
            sender.send(Mail(to, type, "Subject", "text"))
        return len(inner.mails) - before

    early = []
    for _ in range(5):
        early.append(got())
        clock.advance(hour / 6)
    if early != [1, 1, 1, 0, 0]:
        return f"not yet: five requests within 40 minutes brought {sum(early)} mails, and the first three should go out"
    if got(to="ADA@example.COM"):
        return "not yet: in capitals it is the same mailbox"
    if got(to="bob@example.com") != 1:
        return "not yet: Bob has got nothing so far, and gets nothing because of Ada"
    if got(5, type="notice") != 5:
        return "not yet: a notice always goes out"
    clock.advance(hour / 5)
    if (late := got(3)) != 1:
        return f"not yet: after 62 minutes only the first of three is over an hour old; one more may go out, not {late}"
    if (got(3, "eve@example.com", "notice"), got(4, "eve@example.com")) != (3, 3):
        return "not yet: notices are not counted"

    class Down(MemorySender):
        def send(self, mail):
            raise ConnectionRefusedError

    inner = Down()
    sender, told = calm(inner, clock, 1, hour), 0
    for _ in range(3):
        try:
            got()
        except ConnectionRefusedError:
            told += 1
    if told != 3:
        return "not yet: a mail that could not be sent was counted, or its error was kept from the postbox"

    entered, go_on = threading.Event(), threading.Event()

    class Slow(MemorySender):
        def send(self, mail):
            super().send(mail)
            if len(self.mails) == 1:
                entered.set()
                go_on.wait(1)

    inner = Slow()
    sender = calm(inner, clock, 1, hour)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(sender.send, Mail("ada@example.com", "reset-password", "Subject", "text"))
        entered.wait(10)
        second = got()
        go_on.set()
        first.result()
    return "not yet: while one mail is being sent, a second took the same place" if second else "right"


check_calm(Calm)


# %% tags=["solution"]
class Calm:
    def __init__(self, sender: Sender, clock: Clock, most: int, per: timedelta) -> None:
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent: dict[str, list[datetime]] = {}
        self.lock = threading.Lock()

    def send(self, mail: Mail) -> None:
        if mail.type == "notice":
            return self.sender.send(mail)
        now, mailbox = self.clock.now(), mail.to.lower()
        with self.lock:  # only for the counting: a slow server must not hold up the other workers
            recent = [at for at in self.sent.get(mailbox, []) if at > now - self.per]
            if len(recent) >= self.most:
                return
            self.sent[mailbox] = [*recent, now]  # the place is taken before the mail goes out
        try:
            self.sender.send(mail)
        except Exception:
            with self.lock:
                self.sent[mailbox].remove(now)
            raise


assert check_calm(Calm)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: nobody calls `send` while a request is answered: [mail_queue](mail_queue.ipynb).
- **Security reviewer**: a mail goes to the address in the row, never to the one in the request. What one person typed,
  a name too, does not stand in a mail to another: it is an advertisement sent by your domain.
- **Operator**: without a password, and unless `require_tls` is set, mails with links in them leave in plain text where
  the server offers nothing better. A private authority goes into `SSL_CERT_FILE`.
- **Test engineer**: `MemorySender().last(to)`; `mail_server()` where the wire is the subject.

## Sources

RFC 5321, 4.2.1 (reply codes), 4.5.3.1.3 (length of an address). RFC 5322, 3.6. RFC 3207 (STARTTLS),
6 on removed offers. RFC 3834, 5 (Auto-Submitted). RFC 6531 (SMTPUTF8). OWASP ASVS 5.0, 1.2.2, 1.3.11, 12.3.1, 12.3.2,
16.2.5. CWE-93. G. Heyes, "Splitting the email atom" (PortSwigger, 2024):
encoded words in addresses. ECMA-262, encodeURIComponent.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Password rules](password_rules.ipynb) · [course map](../index.ipynb) · Next: [Mail queue](mail_queue.ipynb)
"""
