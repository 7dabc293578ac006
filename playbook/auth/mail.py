# %% [markdown]
"""
# Mail

Send mail that no input can redirect, and that every test can read.

| | |
|---|---|
| **Use it when** | a service writes to people: confirm an address, reset a password |
| **You need** | [clocks](../foundations/clock_and_identifiers.ipynb) (*code*) |
| **Time** | read 33 min, exercise 20 min |
| **Topics** | e-mail, SMTP, STARTTLS, header injection, Host header, test mail |
| **Standard** | RFC 5321, 5322, 3207; OWASP ASVS 5.0, 1.2.2, 1.3.11, 12.3; CWE-93 |

```python
from playbook.auth.mail import Mail, MemorySender, SmtpSender, link

sender = SmtpSender("smtp://mail.example", "Shop <shop@shop.example>", clock)
url = link("https://shop.example", "/verify", token=token)
sender.send(Mail("ada@example.com", "verify-email", "Welcome", f"Open {url}", url))
```

*Lift: 122 lines in 2 files; needs nothing.*

## See it break

**SMTP** is the protocol that carries mail. A message begins with **headers**, one line
each, such as `To: ada@example.com`. An empty line ends them, and the text follows.

Somebody signs up with Ada's address, and with a line feed in the name. The folded cell
imports `mail_server`, a real SMTP server that keeps what arrives. It defines
`welcome(url, to, name)`, which puts headers and text together and sends them with
`smtplib`. `tell(mails)` prints who got what, and `said(function, ...)` returns the
result or the error. `SHOP` is an address, `clock` always says noon. Who gets the link?
"""

# %% tags=["stage"]
import smtplib
from datetime import UTC, datetime
from email import message_from_string
from urllib.parse import urlsplit

from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.lesson import mail_server, serving

SHOP = "Shop <shop@shop.example>"
clock = FixedClock(datetime(2026, 11, 2, 12, 0, tzinfo=UTC))


def welcome(url, to, name):
    text = f"From: shop@shop.example\nTo: {to}\nSubject: Welcome, {name}\n\nOpen ..."
    with smtplib.SMTP(urlsplit(url).hostname, urlsplit(url).port) as smtp:
        smtp.send_message(message_from_string(text))


def tell(mails):
    for delivery in mails.deliveries:
        print(*delivery.recipients, "| headers:", *delivery.message.keys())


def said(function, *args):
    try:
        return function(*args)
    except ValueError as error:
        return error


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
| a provider's HTTP API | shows returned mail | tests talk to a mock; an account each |
| Django's `send_mail`, Flask-Mail | refuse line feeds | any number of recipients |
| **a checked `Mail`, a `Sender`** | SMTP, memory, your own | one more class |

We choose **a checked `Mail` behind a `Sender`**. Starlette brings nothing. A **bounce**
is a mail that comes back because nobody has the address. Choose the provider's API when
your tables must know of bounces; it fits behind a `Sender`.

## Build it

### The idea

A mail is checked **when it is made**, inside of the request, where somebody can still
be told. It has one address. Neither address nor subject holds anything that some
program takes for the end of a line. In an address `=?` is refused: some servers decode
what follows. The link opens an account, so `repr` hides it.
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
            raise ValueError("`to` and `subject` should hold no control character")
        if not ONE_ADDRESS.fullmatch(self.to) or len(self.to.encode()) > 254:
            raise ValueError("a mail's `to` should be one address: name@example.com")
        self.text.encode()  # half a character: UnicodeEncodeError, a ValueError


# %%
hello = Mail("ada@example.com", "welcome", "Grüße, Ada", "Open https://...")
print(hello)
print(said(Mail, "ada@example.com,mallory@evil.example", "welcome", "Hello", ""))

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
machine, with Ada's [token](../glossary.md#token) in it. So `link` takes the service's
own address, an **[origin](../glossary.md#origin)**, from the settings. It encodes
values as JavaScript's `encodeURIComponent`.
"""

# %% tags=["export"]
from urllib.parse import quote, unquote

ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def origin(text: str) -> str:
    """`text` as a browser writes it in `Origin`: `https://shop.example`. ValueError."""
    match = ORIGIN.fullmatch(text.strip().lower())
    if match is None or not 0 < int(match[3] or 1) < 65536:
        raise ValueError("should be an origin: http(s), host, perhaps port; no path")
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
from datetime import datetime
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
print(message_of(hello, SHOP, clock.now()).as_string().splitlines()[2])

# %% [markdown]
"""
### Senders

A `Sender` has one method. `MemorySender` is for tests: the mail is an object with the
link in `url`, so no test searches a text for it.
"""

# %% tags=["export"]
from typing import Protocol


class Sender(Protocol):
    """Hands a mail over. Whatever it raises, `may_pass` says whether to try again."""

    def send(self, mail: Mail) -> None: ...


class MemorySender:
    """Keeps mails in `mails`, oldest first."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    def send(self, mail: Mail) -> None:
        self.mails.append(mail)

    def last(self, to: str, type: MailType | None = None) -> Mail:
        """The newest mail to `to`, of a type if one is given. Raises LookupError."""
        found = [one for one in self.mails if one.to == to and type in (None, one.type)]
        if not found:
            raise LookupError(f"no such mail; sent so far: {self.mails}")
        return found[-1]


# %%
memory = MemorySender()
url = link("https://shop.example", "/verify", token="T")
memory.send(Mail("ada@example.com", "verify-email", "Welcome", f"Open {url}", url))
print(memory.last("ada@example.com", "verify-email").url)

# %% [markdown]
"""
**STARTTLS** turns an SMTP connection into an encrypted one, if the server offers it.
Somebody on the way can remove the offer. So with `require_tls`, or with a password,
nothing is sent in plain text.
"""

# %% tags=["export"]
import smtplib
import ssl

SMTP_URL = r"smtp://(?:([^@:/\s]+):([^@/\s]+)@)?([\w.-]+|\[[\w:.]+\])(?::(\d{1,5}))?"


def smtp_server(url: str) -> tuple[str, int, tuple[str, str] | None]:
    """Host, port, login of `smtp://[user:password@]host[:port]`. Raises ValueError."""
    match = re.fullmatch(SMTP_URL, url)
    if match is None:
        raise ValueError("should be smtp://host:port or smtp://user:password@host:port")
    user, password, host, port = match.groups()
    login = (unquote(user), unquote(password)) if user else None
    return host.strip("[]"), int(port or (587 if login else 25)), login


def secure(smtp: smtplib.SMTP, tls: ssl.SSLContext, required: bool) -> None:
    """Encrypt the connection if the server can. Raises SMTPNotSupportedError."""
    smtp.ehlo_or_helo_if_needed()
    if smtp.has_extn("starttls"):
        smtp.starttls(context=tls)
    elif required:
        raise smtplib.SMTPNotSupportedError("the mail server offers no STARTTLS")


# %%
print(smtp_server("smtp://shop:secret@mail.example"))

# %% [markdown]
"""
### What went wrong

A server answers each command with a number. 4yz asks the client to come back; 5yz is
final. The log gets the number, never the server's sentence: spam filters quote the link
that they refuse.
"""


# %% tags=["export"]
def reply_code(error: Exception) -> int | None:
    """The SMTP reply that `error` stands for, if it does."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return max(code for code, _ in error.recipients.values())
    return error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else None


def may_pass(error: Exception) -> bool:
    """Whether a later attempt can succeed: a 4yz reply, or a server that is away."""
    code = reply_code(error)
    if code is not None:
        return 400 <= code < 500
    if isinstance(error, smtplib.SMTPException):  # also an OSError
        return isinstance(error, smtplib.SMTPServerDisconnected)
    wrong_server = isinstance(error, ssl.SSLCertVerificationError)
    return isinstance(error, OSError) and not wrong_server


# %%
print([may_pass(smtplib.SMTPResponseException(code, b"")) for code in (421, 550)])

# %% [markdown]
"""
### The sender

The recipient is handed over **beside** the message, so no header can add one. A failing
QUIT is no failure: the mail was accepted, and would be sent twice.
"""

# %% tags=["export"]
from contextlib import closing, suppress

from playbook.foundations.clock_and_identifiers import Clock


class SmtpSender:
    """Sends over SMTP. Raises ValueError, when made, for a wrong `url` or address."""

    connect = smtplib.SMTP  # host, port, own name, timeout of each reply in seconds

    def __init__(
        self, url: str, from_address: str, clock: Clock, *, require_tls: bool = False,
        tls: ssl.SSLContext | None = None, timeout: float = 10,
    ) -> None:  # fmt: skip
        self._host, self._port, self._login = smtp_server(url)
        self._tls = tls or ssl.create_default_context()
        self._require_tls = require_tls or self._login is not None
        self._from, self._clock, self._timeout = from_address, clock, timeout
        message_of(Mail("a@b", "", "", ""), from_address, clock.now())

    def send(self, mail: Mail) -> None:
        message = message_of(mail, self._from, self._clock.now())
        [sender] = message["From"].addresses
        server = (self._host, self._port, sender.domain, self._timeout)
        with closing(self.connect(*server)) as smtp:
            secure(smtp, self._tls, self._require_tls)
            if self._login:
                smtp.login(*self._login)
            smtp.send_message(message, sender.addr_spec, [mail.to])
            with suppress(OSError):
                smtp.quit()


# %% [markdown]
"""
The folded cell defines `attempt(server, require_tls)`. It sends `hello` and returns the
reply's number, the kind of error and `may_pass`, or "sent". The server answers 451,
then 550, then takes the mail. It has no STARTTLS, which the last attempt requires.
Which errors are worth another attempt?
"""


# %% tags=["stage"]
def attempt(server, require_tls=False):
    try:
        SmtpSender(server.url, SHOP, clock, require_tls=require_tls).send(hello)
    except OSError as error:
        return reply_code(error), type(error).__name__, may_pass(error)
    return "sent"


# %% tags=["predict"]
with mail_server({"DATA": ["451 busy", f"550 no {hello.text}"]}) as mails:
    outcomes = [attempt(mails, tls) for tls in (False, False, False, True)]
print(*outcomes, sep="\n")

# %% [markdown]
"""
## See it work

The folded cell defines `join(sender, to, name)`, a sign-up that mails to `to`, and
`people`: Bob and two attackers, one with the name of the beginning, one with two
addresses. What does each hear, and who gets mail?
"""

# %% tags=["stage"]
people = [
    ("ada@example.com", "Ada\nBcc: mallory@evil.example"),
    ("ada@example.com,mallory@evil.example", "Ada"),
    ("bob@example.com", "Bob"),
]


def join(sender, to, name):
    sender.send(Mail(to, "welcome", f"Welcome, {name}", "Open https://..."))
    return "sent"


# %% tags=["predict"]
with mail_server() as mails:
    sender = SmtpSender(mails.url, SHOP, clock)
    for to, name in people:
        print(said(join, sender, to, name))
    tell(mails)

# %% [markdown]
"""
## Check it
"""

# %%
split = said(Mail, "ada@example.com", "welcome", "Ada\nBcc: m@evil.example", "")
assert isinstance(split, ValueError), "a subject holds a line break"
assert mails.recipients == ["bob@example.com"], "an input added a recipient"
assert "&" not in link("https://x", "/", a="1&b=2"), "a value adds a parameter"
assert not outcomes[1][2], "a final refusal is tried again"
print("no input adds a header, a recipient or a parameter")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `in self.to + self.subject` | `in self.to` | a subject holds a line break |
| `quote(value, safe="!'()*")` | `value` | a value adds a parameter |
| `return 400 <= code < 500` | `return code >= 400` | a final refusal is tried again |

## Your turn

Anybody can type Ada's address into a form, a thousand times. Write `Calm`, a sender
around a sender:

- Within any stretch of time `per`, at most `most` mails reach one mailbox.
  `Ada@Example.com` is the same mailbox. What is too much is dropped, without an error.
- A mail of the type `notice` tells Ada that her password was changed. It always goes
  out and is not counted. Otherwise three harmless requests would hide it.
- A mail that `sender` could not send is not counted. Its error reaches the caller.
- Two threads may send to one address at the same moment.
"""


# %% tags=["exercise"]
class Calm:
    def __init__(self, sender, clock, most, per):
        """`clock.now()` is the time; `per` is a timedelta."""
        self.sender = sender

    def send(self, mail):
        raise NotImplementedError


# %%
from playbook.exercises.auth.mail import HINTS, check

check(Calm)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
import threading


class Calm:
    def __init__(self, sender, clock, most, per):
        self.sender, self.clock, self.most, self.per = sender, clock, most, per
        self.sent = {}  # mailbox: times
        self.lock = threading.Lock()

    def send(self, mail):
        if mail.type == "notice":
            return self.sender.send(mail)
        now, mailbox = self.clock.now(), mail.to.lower()
        with self.lock:  # for the counting only: a slow server must not hold others up
            recent = [at for at in self.sent.get(mailbox, []) if at > now - self.per]
            if len(recent) >= self.most:
                return
            self.sent[mailbox] = [*recent, now]  # the place is taken before the mail
        try:
            self.sender.send(mail)
        except Exception:
            with self.lock:
                self.sent[mailbox].remove(now)
            raise


assert check(Calm)

# %% [markdown]
"""
## Take it with you

`playbook lift mail INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| sender | makes one `SmtpSender` at start, from a setting; `MemorySender` in tests |
| clock | an object whose `now()` is an aware datetime; it dates mails |
| base URL | a setting such as `https://shop.example`; never the request |
| certificate | a private authority: `tls=ssl.create_default_context(cafile=...)` |
| thread | calls `send` outside of the request and of any transaction |

In your tests, with a service that takes any `Sender`:

```python
sender = MemorySender()
sign_up(sender, "ada@example.com")
mail = sender.last("ada@example.com", "verify-email")
assert mail.url == link("https://shop.example", "/verify", token=mail.token)
```

Traps:

- A timeout is for each reply, so a server that drips bytes holds a thread. Use several
  threads, or a `connect` with a limit.
- That `send` returns means that the server has accepted the mail, not that it arrived.
- Port 465 wants TLS from the first byte, and this sender waits there in vain. Use 587.
- In the URL, user and password are percent-encoded: `smtp://me%40shop.example:...`.
- `ada@exämple.com` is a valid `Mail`. A server without SMTPUTF8 does not take it, so
  `send` raises.

Hand it over:

- **Reviewer**: no `send` while a request is answered; see the page on mail queues.
- **Security**: a mail goes to the address in the row, not to the one in the request.
  What one person typed does not stand in a mail to another.
- **Operations**: without `require_tls` or a password, mail may leave in plain text.
- **Tests**: `sender.last(to)`; a real server only where SMTP is the subject.

## In short

You can explain how a line feed becomes a recipient, and how a header of the request
becomes the host of a link. You know which refusal of a mail server is worth a second
attempt.

## Sources

RFC 5321, 4.2.1 (replies), 4.5.3.1.3 (length of an address). RFC 5322, 3.6. RFC 3207, 6
(removed offers). RFC 3834, 5. OWASP ASVS 5.0, 1.2.2, 1.3.11, 12.3.1, 12.3.2, 16.2.5.
CWE-93. G. Heyes, *Splitting the email atom* (2024). ECMA-262, encodeURIComponent.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Password rules](password_rules.ipynb) · [course map](../index.ipynb) · Next: [Mail queue](mail_queue.ipynb)
"""
