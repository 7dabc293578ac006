# %% [markdown]
"""
# Mail

Send mail that no input can redirect, that no answer waits for, and that every test can read.

| | |
|---|---|
| **Use it when** | the service writes to people: confirm an address, reset a password, invite, tell of a change |
| **You need** | [settings](../foundations/settings.ipynb), [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb), [database](../foundations/database.ipynb), [http_service](../foundations/http_service.ipynb) |
| **Time** | 20 minutes |
| **Topics** | mail, e-mail, email, smtp, smtplib, starttls, utf-8 subject, smtputf8, header injection, crlf injection, bcc, timing leak, account enumeration, background task, background queue, retry, greylisting, test mail, aiosmtpd, notification, encodeURIComponent |
| **Standard** | RFC 5321, 5322, 3207, 3834, 6531; OWASP ASVS 5.0 (1.2.2, 1.3.11, 6.3.8, 12.3.1, 12.3.2, 16.2.5); CWE-93 |
"""

# %% [markdown]
"""
## The decision

A request decides that a mail goes out. Who talks to the mail server, and when?

| option | good | costs |
|---|---|---|
| the endpoint | the caller learns of a failure | the answer takes as long as somebody else's server; when that is down, so are you |
| FastAPI's `BackgroundTasks` | one line | a slow mail server takes the threads that answer requests; no second try; no bound |
| **a bounded queue in the process, filled after the commit** | every answer takes the same time; tries again; empties at shutdown | what is queued is lost when the process is killed |
| a table of mails, written in the transaction (*outbox*) | nothing is lost | a table with credentials in it, a relay, and mails that go out twice |

We take the **queue**: whoever misses a link presses "send again". Choose the outbox for what nobody can ask for again:
an invoice, a legal notice. The production track builds it.
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

from playbook.kit.lesson import checker, lesson_folder, lesson_url, mail_server, on_postgres, serving, show_http


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

Next, the endpoint for a forgotten password. It gives everybody the same answer, because whether somebody has an account
is nobody's business. The mail server is slow today. What does a stranger learn who asks for two addresses?
"""

# %%
from concurrent.futures import ThreadPoolExecutor

import httpx
from fastapi import BackgroundTasks, FastAPI


def service(send):
    app = FastAPI()

    @app.post("/forgot")
    def forgot(email: str, tasks: BackgroundTasks):
        if email == "ada@example.com":  # the one account
            send(email, tasks)
        return {"message": "If there is an account, a mail is on its way."}

    @app.get("/health")
    def health():
        return {"status": "alive"}

    return app


at_once = service(lambda email, tasks: send_in_a_naive_way(mails.url, email, "again"))
with mail_server(hold=True) as mails, serving(at_once) as client, ThreadPoolExecutor(1) as threads:
    client.post("/forgot?email=bob@example.com")
    asked = threads.submit(client.post, "/forgot?email=ada@example.com")
    mails.wait_held()
    print("while the mail server thinks, ada's request is answered:", asked.done())
    mails.release()
    asked.result()
    show_http(client)

# %% [markdown]
"""
Equal answers, but for one of them the stranger waits: a clock is all it takes to find out who has an account.

With `BackgroundTasks` the mail goes out after the answer. The task runs in the pool of 40 threads that also runs your
endpoints. Somebody asks 40 times for each address, and the mail server is slow. What does `/health` say?
"""


# %%
def ask_forty_times(client, email):
    answers = {client.post(f"/forgot?email={email}").status_code for _ in range(40)}
    return f"40 times {email}: {answers}"


later = service(lambda email, tasks: tasks.add_task(send_in_a_naive_way, mails.url, email, "again"))
with mail_server(hold=True) as mails, serving(later) as client:
    print(ask_forty_times(client, "bob@example.com"), client.get("/health").json())
    print(ask_forty_times(client, "ada@example.com"), end=" ")
    mails.wait_held(40)
    try:
        print(client.get("/health", timeout=0.5).json())
    except httpx.ReadTimeout:
        print("no answer")
    mails.release()

# %% [markdown]
"""
The whole service stands still for everybody, and it tells again who has an account.

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

from playbook.foundations.settings import origin


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
remove the offer. Every wait ends. A failing QUIT is no failure: the mail was accepted, and would be sent twice.
"""

# %% tags=["export"]
import smtplib
import ssl
from urllib.parse import unquote, urlsplit

from playbook.foundations.settings import mail_url as checked_mail_url


def smtp_server(url: str) -> tuple[str, int, tuple[str, str] | None]:
    """Host, port (by default 587 with a password, else 25) and login. Raises ValueError, without the URL in it."""
    parts = urlsplit(checked_mail_url(url))
    if parts.scheme != "smtp" or (parts.username is not None and not parts.password):
        raise ValueError("should be smtp://host:port or smtp://user:password@host:port")
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return parts.hostname or "", parts.port or (587 if login else 25), login


# %% tags=["export"]
from contextlib import closing, suppress

from playbook.foundations.clock_and_identifiers import EPOCH


class SmtpSender:
    """Sends over SMTP, a connection a mail. Raises ValueError when made with a wrong URL or `from_address`.

    `tls` is by default a context that trusts the system's authorities. `timeout` (seconds) is for each reply.
    """

    def __init__(
        self, url: str, from_address: str, clock: Clock, *, require_tls: bool = False,
        tls: ssl.SSLContext | None = None, timeout: float = 10,
    ) -> None:  # fmt: skip
        self._host, self._port, self._login = smtp_server(url)
        self._tls, self._require_tls = tls or ssl.create_default_context(), require_tls or self._login is not None
        self._from, self._clock, self._timeout = from_address, clock, timeout
        any_message = message_of(Mail("nobody@localhost", "notice", "", ""), from_address, EPOCH)
        self._address = any_message["From"].addresses[0]

    def send(self, mail: Mail) -> None:
        message = message_of(mail, self._from, self._clock.now())
        with closing(smtplib.SMTP(self._host, self._port, self._address.domain, self._timeout)) as smtp:
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
    url = checked_mail_url(mail_url)
    if url == "memory:":
        return MemorySender()
    if url.startswith("file:"):
        return FileSender(url.removeprefix("file:"), clock)
    return SmtpSender(url, from_address, clock, require_tls=require_tls)


# %% [markdown]
"""
Last, the queue. `deliver` tries, pauses and never raises. A pause holds its worker, so give the service a relay that
accepts everything and does the long waiting (days: RFC 5321, 4.5.4.1) itself. When the connection is lost before the
reply, nobody knows whether the mail was accepted. It is sent again, so it can arrive twice.
"""

# %% tags=["export"]
import logging
import random
from collections.abc import Callable

log = logging.getLogger("pantry.mail")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds
Sleep = Callable[[float], object]  # waits that many seconds; a true answer means that no time is left


def deliver(sender: Sender, mail: Mail, attempts: int, sleep: Sleep) -> bool:
    """Send `mail` in at most `attempts` attempts; whether one succeeded. A failure is logged without the link."""
    for attempt in range(1, attempts + 1):
        try:
            sender.send(mail)
            return True
        except Exception as error:
            again = attempt < attempts and may_pass(error)
            kind = f"{type(error).__name__} {reply_code(error) or ''}".rstrip()
        log.warning("mail %s (%s): attempt %d failed, %s", mail.id, mail.type, attempt, kind)
        if not again or sleep(random.uniform(0.5, 1) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))):
            break
    log.error("mail %s (%s): given up", mail.id, mail.type)
    return False


# %% [markdown]
"""
The library's thread pool has no bound, cannot say when it is empty, and keeps an exception until somebody asks for it.
"""

# %% tags=["export"]
import threading
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs calls in threads, in turn; at most `capacity` are queued or running. Counts what they return as sent or not."""

    def __init__(self, workers: int, capacity: int) -> None:
        self._threads, self._capacity, self._unfinished = ThreadPoolExecutor(workers), capacity, 0
        self._changed, self._closed = threading.Condition(), threading.Event()
        self.sent = self.dropped = 0

    def submit(self, call: Callable[[], bool]) -> bool:
        """Queue `call` without waiting; False when there is no room, or after closing."""
        with self._changed:
            if room := self._unfinished < self._capacity and not self._closed.is_set():
                self._unfinished += 1
                self._threads.submit(call).add_done_callback(self._finished)
            self.dropped += not room
            return room

    def _finished(self, future: Future[bool]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("in the background: %s", type(error).__name__, exc_info=error)
        sent = not future.cancelled() and error is None and future.result()
        with self._changed:
            self._unfinished, self.sent = self._unfinished - 1, self.sent + sent
            self.dropped += not sent
            self._changed.notify_all()

    def drain(self, timeout: float = 10) -> bool:
        """Wait until nothing is queued or running; False when `timeout` seconds were too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unfinished, timeout)


# %% [markdown]
"""
A full queue drops the mail and says so: to wait would tell who has an account. Once closed it makes no pauses.
"""


# %% tags=["export"]
class Postbox(Background):
    """Sends in the background: `post` returns at once. `sent` and `dropped` count; `sender` is the one given."""

    def __init__(
        self, sender: Sender, workers: int = 1, capacity: int = 1000, attempts: int = 6, sleep: Sleep | None = None
    ) -> None:
        super().__init__(workers, capacity)
        self.sender, self._attempts, self._sleep = sender, attempts, sleep or self._closed.wait

    def post(self, mail: Mail) -> None:
        """Queue `mail`; when there is no room, or after `close`, drop it and say so in the log."""
        if not self.submit(lambda: deliver(self.sender, mail, self._attempts, self._sleep)):
            log.error("mail %s (%s): dropped, the queue takes no more", mail.id, mail.type)

    def close(self, timeout: float = 10) -> bool:
        """Take no more, send what is queued; False when `timeout` seconds were too short, and the rest is lost."""
        with self._changed:
            self._closed.set()
        if not (settled := self.drain(timeout)):
            log.error("closed with %d mails not sent", self._unfinished)
        self._threads.shutdown(wait=settled, cancel_futures=True)
        return settled


# %% [markdown]
"""
When the service stops it calls `close` and gives the queue ten seconds. A process that is killed loses what is queued;
so does one whose mail server is away longer than the attempts last, half a minute.

## See it work

The endpoint once more, the same forty requests, the same slow mail server. Then the service stops.
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


queued = service(lambda email, tasks: postbox.post(reset_mail(email)))
with mail_server(hold=True) as mails:
    postbox = Postbox(SmtpSender(mails.url, FROM, clock))
    with serving(queued) as client:
        print(ask_forty_times(client, "ada@example.com"), client.get("/health").json())
        mails.release()
    postbox.close()
    print(f"after the stop: {len(mails.messages)} delivered, {postbox.dropped} dropped")

message = mails.messages[0]
headers = (f"{name}: {message[name]}" for name in ("From", "To", "Subject", "Date", "Auto-Submitted"))
print(*headers, "", message.get_content(), sep="\n")

# %% [markdown]
"""
Some servers refuse a stranger's first attempts (*greylisting*); others refuse for good, and quote the link. The log:
"""

# %%
from dataclasses import replace

lines, handler = [], logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
log.handlers = [handler]

quoting = f"550 5.7.1 link refused: {reset_mail('ada@example.com').url}"
replies = {"DATA": ["451 4.7.1 greylisted", "451 4.7.1 greylisted", "250 OK", quoting]}
with mail_server(replies) as mails:
    pauses = []
    postbox = Postbox(SmtpSender(mails.url, FROM, clock), sleep=pauses.append)
    for number in (1, 2):
        postbox.post(replace(reset_mail("ada@example.com"), id=uuid.UUID(int=number)))
        postbox.drain()
print(*lines, sep="\n")
print(f"sent {postbox.sent}, dropped {postbox.dropped}, pauses {len(pauses)}")

# %% [markdown]
"""
And how a test reads a mail: in memory, after `drain`; in another language, or by hand, from the file.
"""

# %%
postbox = Postbox(MemorySender())
with serving(queued) as client:
    client.post("/forgot?email=ada@example.com")
    postbox.drain()
mail = postbox.sender.last("ada@example.com", "reset-password")
print(mail)

path = lesson_folder() / "mail.jsonl"
sender_of(f"file:{path}", FROM, clock).send(mail)
print(path.read_text())

# %% [markdown]
"""
## On PostgreSQL

Is a mail posted inside the transaction, or after it? Two owners of an organization invite somebody at the same moment.
Each invitation is a row with a token, and both also write the organization's row, so one of the two transactions runs
again. Predict: how many mails, and how many of their links open something?
"""

# %%
import sqlalchemy as sa

from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.database import make_engine, transaction

demo = sa.MetaData()
organizations = sa.Table("organizations", demo, sa.Column("invited", sa.Integer))
invitations = sa.Table("invitations", demo, sa.Column("token_hash", sa.String))


def two_invite(url, inside):
    engine, postbox, meeting, won = make_engine(url), Postbox(MemorySender()), threading.Barrier(2), threading.Event()
    demo.drop_all(engine)
    demo.create_all(engine)
    transaction(engine, lambda session: session.execute(organizations.insert().values(invited=0)))

    def invite(to):
        def work(session):
            invited, token = session.scalar(sa.select(organizations.c.invited)), new_token("invite")
            session.execute(invitations.insert().values(token_hash=hash_token(token)))
            mail = Mail(to, "invitation", "Join us", "...", link(BASE, f"/invitations/{token}"), token)
            if inside:
                postbox.post(mail)
            if not won.is_set():
                meeting.wait(10)
            session.execute(organizations.update().values(invited=invited + 1))
            return mail

        mail = transaction(engine, work, sleep=lambda seconds: won.wait(10))
        won.set()
        if not inside:
            postbox.post(mail)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(invite, ["bob@example.com", "eve@example.com"]))
    postbox.close()
    rows = transaction(engine, lambda session: set(session.scalars(sa.select(invitations.c.token_hash))))
    engine.dispose()
    opening = sum(hash_token(mail.token) in rows for mail in postbox.sender.mails)
    return len(postbox.sender.mails), opening


def both_ways(url):
    return {"inside": two_invite(url, inside=True), "after": two_invite(url, inside=False)}


embedded, there = both_ways(lesson_url()), on_postgres(both_ways)
for when, (number, opening) in embedded.items():
    print(f"posted {when} the transaction: {number} mails, {opening} links that open something")

# %% [markdown]
"""
A mail cannot be rolled back, on either engine. So `work` *returns* it, and the endpoint posts what came out of the
transaction that was committed. A crash in between loses it: a row without a mail, which "send again" repairs.

## Check it
"""

# %%
import sys
from urllib.parse import parse_qs

assert embedded == {"inside": (3, 2), "after": (2, 2)} and there in (embedded, None)


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
    postbox = Postbox(SmtpSender(mails.url, FROM, clock), capacity=3)
    for _ in range(10):
        postbox.post(mail)
    assert postbox.dropped == 7, "a full queue drops, and nobody waits"
    mails.release()
    assert postbox.close() and postbox.sent == len(mails.inbox(mail.to)) == 3
assert not any(mail.token in text for text in [repr(mail), *lines])
print("no input adds a recipient; links survive any value; nothing shows a token; a full queue makes nobody wait")

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


# %% jupyter={"source_hidden": true} tags=["solution"]
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

- **Reviewer**: `post` stands after the transaction and gets what `work` returned. A route that takes an
  Idempotency-Key commits after its endpoint, so it does not post.
- **Security reviewer**: a mail goes to the address in the row, never to the one in the request. What one person typed,
  a name too, does not stand in a mail to another: it is an advertisement sent by your domain.
- **Front end**: no answer says whether a mail went out. Offer "send again".
- **Operator**: without a password, and unless `require_tls` is set, mails with links in them leave in plain text where
  the server offers nothing better. A private authority goes into `SSL_CERT_FILE`. Watch the log `pantry.mail` for
  "given up" and "dropped".
- **Test engineer**: `Postbox(MemorySender())` and `drain()`; `mail_server()` where the wire is the subject.

## Sources

RFC 5321, 4.2.1 (reply codes), 4.5.3.1.3 (length of an address), 4.5.4.1 (retries). RFC 5322, 3.6. RFC 3207 (STARTTLS),
6 on removed offers. RFC 3834, 5 (Auto-Submitted). RFC 6531 (SMTPUTF8). OWASP ASVS 5.0, 1.2.2, 1.3.11, 6.3.8, 12.3.1,
12.3.2, 16.2.5; OWASP Forgot Password Cheat Sheet. CWE-93. G. Heyes, "Splitting the email atom" (PortSwigger, 2024):
encoded words in addresses. ECMA-262, encodeURIComponent.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Passwords](passwords.ipynb) · [course map](../index.ipynb) · Next: [The auth wire](wire.ipynb)
"""
