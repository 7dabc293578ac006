# %% [markdown]
"""
# Mail

Send mail that no input can redirect, and that every test can read.

| | |
|---|---|
| **Use it when** | a service writes to people: confirm an address, reset a password |
| **You need** | [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb) (*code*) |
| **Time** | read 30 min, exercise 20 min |
| **Topics** | e-mail, SMTP, STARTTLS, header injection, Host header, test mail |
| **Standard** | RFC 5321, 5322, 3207; OWASP ASVS 5.0, 1.2.2, 1.3.11, 12.3; CWE-93 |

```python
from playbook.auth.mail import Mail, MemorySender, SmtpSender, link

sender = SmtpSender("smtp://mail.example", "Shop <shop@shop.example>", clock)
url = link("https://shop.example", "/verify", token=token)
sender.send(Mail("ada@example.com", "verify-email", "Welcome", f"Open {url}", url))
```

*Lift: 120 lines in 2 files; needs nothing.*

## See it break

**SMTP** is the protocol that carries mail. A message begins with **headers**, one line
each, such as `To: ada@example.com`. An empty line ends them, and the text follows.

The folded cell imports `mail_server`, a real SMTP server that keeps what arrives. It
defines `welcome(url, to, name)`, which puts headers and text together and sends them
with `smtplib`, and `tell(mails)`, which prints who got what.

Somebody signs up with Ada's address, and with a line feed in the name. Who gets the
link?
"""

# %% tags=["stage"]
import smtplib
from email import message_from_string
from urllib.parse import urlsplit

from playbook.kit.lesson import lesson_folder, mail_server, serving


def welcome(url, to, name):
    text = f"From: shop@shop.example\nTo: {to}\nSubject: Welcome, {name}\n\nOpen ..."
    with smtplib.SMTP(urlsplit(url).hostname, urlsplit(url).port) as smtp:
        smtp.send_message(message_from_string(text))


def tell(mails):
    for delivery in mails.deliveries:
        print(*delivery.recipients, "| headers:", *delivery.message.keys())


# %% tags=["predict"]
with mail_server() as mails:
    welcome(mails.url, "ada@example.com", "Ada\nBcc: mallory@evil.example")
    tell(mails)

# %% [markdown]
"""
The line feed ended the header `Subject`, and began another one. That is **header
injection**. `Bcc` adds a recipient, and is removed on the way. So Mallory has a link
that confirms Ada's address, and Ada cannot see it.

## The decision

| option | good | costs |
|---|---|---|
| one text, given to `smtplib` | four lines | the failure above |
| a provider's HTTP API | statistics, bounces | tests talk to a mock; an account each |
| Django's `send_mail`, Flask-Mail | refuse line feeds | any number of recipients |
| **a checked `Mail`, a `Sender` of one method** | SMTP, file or memory | one more class |

We choose **a checked `Mail` behind a `Sender`**. Starlette brings nothing. Choose the
provider's API when bounces must come back into your tables; it fits behind a `Sender`.

## Build it

### The idea

A mail is checked **when it is made**, inside of the request, where somebody can still
be told. It has one address. Neither address nor subject holds anything that some
program takes for the end of a line. The link opens an account, so `repr` hides it.
"""

# %% tags=["export"]
import re
import unicodedata
import uuid
from dataclasses import dataclass, field

MailType = str  # your own name for each kind of mail, for logs and tests
ONE_ADDRESS = re.compile(r"""(?!.*=\?)[^\s@<>()\[\],;:\\"]+@[^\s@<>()\[\],;:\\"]+""")
ENDS_A_LINE = {"Cc", "Zl", "Zp", "Cs"}  # control, separators, half a character


@dataclass(frozen=True)
class Mail:
    """A mail to one person. Raises ValueError for what is unsafe. `url`: a secret."""

    to: str
    type: MailType
    subject: str
    text: str = field(repr=False)
    url: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    id: uuid.UUID = field(
        default_factory=uuid.uuid4, repr=False, compare=False, kw_only=True
    )

    def __post_init__(self) -> None:
        if any(unicodedata.category(c) in ENDS_A_LINE for c in self.to + self.subject):
            raise ValueError("no line break or control character in `to`, `subject`")
        if not ONE_ADDRESS.fullmatch(self.to) or len(self.to.encode()) > 254:
            raise ValueError("a mail's `to` should be one address: name@example.com")
        self.text.encode()  # half a character: UnicodeEncodeError, a ValueError


# %%
for to in ["ada@example.com", "ada@example.com,mallory@evil.example"]:
    try:
        print(Mail(to, "welcome", "Welcome", "Open https://..."))
    except ValueError as error:
        print(error)

# %% [markdown]
"""
### The link

A link must lead to this service. Many programs build it from the request. The folded
cell defines `visit(path, host)`. It asks a FastAPI service that answers with
`request.url_for("verify")`, and sends `host` as the header `Host`. What is the answer?
"""

# %% tags=["stage"]
from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/verify")
def verify():
    """Where the link leads."""


@app.get("/sign-up")
def sign_up(request: Request):
    return str(request.url_for("verify"))


def visit(path, host):
    with serving(app) as client:
        return client.get(path, headers={"host": host}).json()


# %% tags=["predict"]
print(visit("/sign-up", host="evil.example"))

# %% [markdown]
"""
Whoever sends the request chooses the header `Host`. Ada would get a link to Mallory's
machine, with Ada's token in it. So `link` takes the service's own address, an
**origin**, from the settings. It encodes values as JavaScript's `encodeURIComponent`.
"""

# %% tags=["export"]
from urllib.parse import quote

HOST = r"[a-z0-9._-]+|\[[0-9a-f:.]+\]"


def origin(text: str) -> str:
    """`text` as a browser writes it in `Origin`: `https://shop.example`. ValueError."""
    match = re.fullmatch(
        rf"(https?)://({HOST})(?::([0-9]{{1,5}}))?", text.strip().lower()
    )
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise ValueError("should be http(s)://host or http(s)://host:port, no path")
    known = {"http": 80, "https": 443}[match[1]]
    port = int(match[3] or known)
    return f"{match[1]}://{match[2]}" + (f":{port}" if port != known else "")


def link(base_url: str, path: str, **query: str) -> str:
    """`base_url`, an origin, then `path`, then `query` in its order. ValueError."""
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", path):
        raise ValueError("a link's path should begin with / and be encoded already")
    values = {name: quote(value, safe="!'()*") for name, value in query.items()}
    pairs = "&".join(f"{name}={value}" for name, value in values.items())
    return origin(base_url) + path + ("?" if query else "") + pairs


# %%
print(link("https://shop.example", "/verify", token="T", next="/cart?sort=a&b=#1"))

# %% [markdown]
"""
### A message

`EmailMessage` encodes what is not ASCII. All attempts at one mail have one
`Message-ID`, so a mailbox can recognize the second. `Auto-Submitted` keeps holiday
replies away.
"""

# %% tags=["export"]
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP

WIRE = SMTP.clone(cte_type="7bit")  # not every server takes more than ASCII


def message_of(mail: Mail, from_address: str, now: datetime) -> EmailMessage:
    """`mail` from `name@host` or `Shop <name@host>`; else raises ValueError."""
    message = EmailMessage(WIRE)
    message["From"] = from_address
    sender = message["From"].addresses
    if len(sender) != 1 or not sender[0].username or not sender[0].domain:
        raise ValueError("the address that mails come from should be one address")
    message["To"], message["Subject"] = mail.to, mail.subject
    message["Date"], message["Auto-Submitted"] = now, "auto-generated"
    message["Message-ID"] = f"<{mail.id}@{sender[0].domain}>"
    message.set_content(mail.text)
    return message


# %%
noon = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
hello = Mail("ada@example.com", "welcome", "Grüße, Ada", "Open https://...")
print(message_of(hello, "Shop <shop@shop.example>", noon)["Subject"].encode())

# %% [markdown]
"""
### Over SMTP

The recipient is handed over beside the message, so no header can add one. **STARTTLS**
turns the connection into an encrypted one, if the server offers it. Somebody on the way
can remove the offer. So with `require_tls`, or with a password, nothing is sent in
plain text.

A timeout is for each reply. A server that sends one byte now and then never meets it.
So `Connection` ends after `within` seconds, whatever happens.
"""

# %% tags=["export"]
import smtplib
import socket
import threading
from contextlib import suppress
from typing import Any


class Connection(smtplib.SMTP):
    """An SMTP connection of at most `within` seconds in all."""

    def __init__(self, within: float, *args: Any) -> None:
        self._end = threading.Timer(within, self._cut)
        self._end.daemon = True
        self._end.start()
        super().__init__(*args)

    def _cut(self) -> None:
        with suppress(OSError, AttributeError):  # it is closed already, or not open
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._end.cancel()
        super().close()


# %% tags=["export"]
from urllib.parse import unquote

LOGIN = r"(?:([^@:/\s]+):([^@/\s]+)@)?"
SMTP_URL = re.compile(rf"smtp://{LOGIN}(?i:({HOST}))(?::([0-9]{{1,5}}))?")


def smtp_server(url: str) -> tuple[str, int, tuple[str, str] | None]:
    """Host, port, login of `smtp://[user:password@]host[:port]`. Raises ValueError."""
    match = SMTP_URL.fullmatch(url)
    port = int(match[4] or (587 if match[1] else 25)) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError("should be smtp://host:port or smtp://user:password@host:port")
    login = (unquote(match[1]), unquote(match[2])) if match[1] else None
    return match[3].strip("[]"), port, login


# %%
print(smtp_server("smtp://shop:secret@mail.example"))

# %% tags=["export"]
import ssl
from contextlib import closing

from playbook.foundations.clock_and_identifiers import Clock


class SmtpSender:
    """Sends over SMTP. Raises ValueError, when made, for a wrong `url` or address.

    `tls`: by default the system's authorities. `timeout`, `within` in seconds.
    """

    def __init__(
        self, url: str, from_address: str, clock: Clock, *, require_tls: bool = False,
        tls: ssl.SSLContext | None = None, timeout: float = 10, within: float = 30,
    ) -> None:  # fmt: skip
        self._host, self._port, self._login = smtp_server(url)
        self._tls = tls or ssl.create_default_context()
        self._require_tls = require_tls or self._login is not None
        self._from, self._clock, self._limits = from_address, clock, (within, timeout)
        any_mail = message_of(Mail("a@b", "", "", ""), from_address, clock.now())
        self._address = any_mail["From"].addresses[0]

    def send(self, mail: Mail) -> None:
        message = message_of(mail, self._from, self._clock.now())
        within, timeout = self._limits
        where = (self._host, self._port, self._address.domain, timeout)
        with closing(Connection(within, *where)) as smtp:
            smtp.ehlo_or_helo_if_needed()
            if smtp.has_extn("starttls"):
                smtp.starttls(context=self._tls)
            elif self._require_tls:
                raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS")
            if self._login:
                smtp.login(*self._login)
            smtp.send_message(message, self._address.addr_spec, [mail.to])
            with suppress(OSError):
                smtp.quit()  # accepted already: a failure here is none


# %%
class Clock12:
    def now(self):
        return noon


with mail_server() as mails:
    SmtpSender(mails.url, "Shop <shop@shop.example>", Clock12()).send(hello)
    tell(mails)
