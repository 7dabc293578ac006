"""A real SMTP server on loopback, for lessons and tests: it keeps what arrives, and misbehaves when it is told to."""

import asyncio
import contextlib
import email
import logging
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

READY_SECONDS = 60  # a busy machine is no fault of the app
STOP_SECONDS = 10
SCRIPTED = frozenset({"MAIL", "RCPT", "DATA", "QUIT"})

# Without a handler Python prints aiosmtpd's warnings, ports and all, into the lesson's output.
logging.getLogger("mail.log").addHandler(logging.NullHandler())

# For `localhost` and 127.0.0.1, signed by itself, valid until 2120. Everybody can read this key: nothing but a test
# may trust it.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBjzCCATWgAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN1bRG8KyGpgyIiu
P4OYCCpyrJk2BbZXCfsmhAtr1GSZCKzKAQ+duysIKYP+T5D4Mag507FnKKzIc7pV
sC3nqAujdjB0MBIGA1UdEwEB/wQIMAYBAf8CAQAwDgYDVR0PAQH/BAQDAgKEMBMG
A1UdJQQMMAoGCCsGAQUFBwMBMB0GA1UdDgQWBBS8fqDMkN0FvdYBz4rd4AtG9gD3
+DAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZIzj0EAwIDSAAwRQIh
ANcpyCVHOvceNWlhacc2Uf6RCoe/wx+Io0BOaMARVrW1AiBUpEBH/v2FjnwZzD2w
tZSEj78ezVTzJt/9ESVWKVBv0g==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgB3aHGgHXsycGP2eS
8gZEJP3DJT5G/KM2VLzJLdqAeaShRANCAATdW0RvCshqYMiIrj+DmAgqcqyZNgW2
Vwn7JoQLa9RkmQisygEPnbsrCCmD/k+Q+DGoOdOxZyisyHO6VbAt56gL
-----END PRIVATE KEY-----
"""


@dataclass(frozen=True)
class Delivery:
    """One message as it was accepted: whom the envelope named, the message (its lines end in LF), the bytes that came,
    and whether the connection had TLS."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    raw: bytes
    encrypted: bool


class MailServer:
    """The server behind `mail_server`. Everything here may be read while it runs."""

    def __init__(
        self, replies: Mapping[str, Sequence[str]], domains: Mapping[str, str], hold: bool | Collection[str],
        tls: bool, login: tuple[str, str] | None, utf8: bool,
    ) -> None:  # fmt: skip
        if unknown := set(replies) - SCRIPTED:
            raise ValueError(f"no replies to {', '.join(sorted(unknown))}: choose from {', '.join(sorted(SCRIPTED))}")
        if login and not tls:
            raise ValueError("a login needs tls=True: the server takes no password in plain text")
        self.deliveries: list[Delivery] = []
        self.recipients: list[str] = []  # of every attempt, accepted or not
        self._replies = {command: list(said) for command, said in replies.items()}
        self._domains, self._hold = dict(domains), hold
        self._tls, self._login, self._utf8 = tls, login, utf8
        self._attempts = self._held = 0
        self._changed = threading.Condition()
        self._ready = threading.Event()
        # With the protocol named, asyncio switches Nagle's algorithm off.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"smtp:{self.port}", daemon=True)

    @property
    def url(self) -> str:
        """`smtp://127.0.0.1:PORT`, with the login where there is one."""
        who = ":".join(quote(part, safe="") for part in self._login) + "@" if self._login else ""
        return f"smtp://{who}127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts this server's certificate and no other."""
        return ssl.create_default_context(cadata=CERTIFICATE)

    @property
    def messages(self) -> list[EmailMessage]:
        """The messages accepted so far, oldest first."""
        return [delivery.message for delivery in self.deliveries]

    @property
    def attempts(self) -> int:
        """How many messages were handed over so far, accepted or not."""
        return self._attempts

    @property
    def held(self) -> int:
        """How many messages are being held now."""
        return self._held

    def inbox(self, address: str) -> list[EmailMessage]:
        """What lies in the mailbox of `address`: the envelope decides, whatever the headers say."""
        return [delivery.message for delivery in self.deliveries if address in delivery.recipients]

    def wait_held(self, number: int = 1, timeout: float = 60) -> None:
        """Wait until `number` messages are being held. Raises TimeoutError after `timeout` seconds."""
        self._wait(lambda: self._held >= number, f"{number} held", timeout)

    def wait_for(self, number: int = 1, timeout: float = 60) -> list[EmailMessage]:
        """Wait until `number` messages are accepted, and give them. Raises TimeoutError after `timeout` seconds."""
        self._wait(lambda: len(self.deliveries) >= number, f"{number} accepted", timeout)
        return self.messages

    def wait_tried(self, number: int, timeout: float = 60) -> None:
        """Wait until so many recipients were named, accepted or not. Raises TimeoutError after `timeout` seconds."""
        self._wait(lambda: len(self.recipients) >= number, f"{number} recipients", timeout)

    def release(self) -> None:
        """Hold no longer: answer those who wait, and whoever comes later at once."""
        with self._changed:
            self._hold = False
            self._changed.notify_all()
        self._loop.call_soon_threadsafe(self._released.set)

    def wait_released(self, timeout: float = 60) -> None:
        """Wait until `release` is called. Raises TimeoutError after `timeout` seconds."""
        self._wait(lambda: self._hold is False, "the release", timeout)

    def _wait(self, reached: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(reached, timeout):
                state = f"{self._attempts} came, {self._held} held, {len(self.deliveries)} accepted"
                raise TimeoutError(f"waited {timeout} s for {what}: {state}")

    # -------------------------------------------------------------- the server's own thread

    def start(self) -> "MailServer":
        self._thread.start()
        if not self._ready.wait(READY_SECONDS):
            raise RuntimeError("the SMTP server did not start")
        return self

    def stop(self) -> None:
        self.release()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())  # what is still connected when `_serve` returns is cancelled, which closes it

    async def _serve(self) -> None:
        from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword  # not at import: most lessons send no mail

        self._loop = asyncio.get_running_loop()
        self._stopping, self._released = asyncio.Event(), asyncio.Event()
        expected = tuple(part.encode() for part in self._login) if self._login else None
        handler, tls = _Handler(self), _server_context() if self._tls else None

        def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> Any:
            right = isinstance(given, LoginPassword) and (given.login, given.password) == expected
            return AuthResult(success=right, handled=False)

        def protocol() -> Any:
            return SMTP(
                handler, hostname="localhost", tls_context=tls, auth_required=bool(expected),
                authenticator=authenticate, enable_SMTPUTF8=self._utf8, loop=self._loop,
            )  # fmt: skip

        server = await self._loop.create_server(protocol, sock=self._socket)
        self._ready.set()
        await self._stopping.wait()
        server.close()

    def _reply(self, command: str) -> str | None:
        """What the next `command` is answered with when the script says so."""
        script = self._replies.get(command)
        return script.pop(0) if script else None

    async def _data(self, session: Any, envelope: Any) -> str:
        domains = {address.rpartition("@")[2] for address in envelope.rcpt_tos}
        holding = self._hold if isinstance(self._hold, bool) else bool(domains & set(self._hold))
        with self._changed:
            self._attempts += 1
            self._held += holding
            self._changed.notify_all()
        if holding:
            await self._released.wait()
            with self._changed:
                self._held -= 1
        if (reply := self._reply("DATA")) is not None:
            return reply
        raw: bytes = envelope.original_content
        message = email.message_from_bytes(raw.replace(b"\r\n", b"\n"), policy=policy.default)
        with self._changed:
            self.deliveries.append(
                Delivery(envelope.mail_from, tuple(envelope.rcpt_tos), message, raw, session.ssl is not None)
            )
            self._changed.notify_all()
        return "250 OK"


class _Handler:
    """The hooks that aiosmtpd calls, found by their names."""

    def __init__(self, server: MailServer) -> None:
        self._server = server

    async def handle_MAIL(self, smtp: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if (reply := self._server._reply("MAIL")) is not None:
            return reply
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, smtp: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        with self._server._changed:
            self._server.recipients.append(address)
            self._server._changed.notify_all()
        refusal = self._server._domains.get(address.rpartition("@")[2])
        if (reply := refusal or self._server._reply("RCPT")) is not None:
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, smtp: Any, session: Any, envelope: Any) -> str:
        return await self._server._data(session, envelope)

    async def handle_QUIT(self, smtp: Any, session: Any, envelope: Any) -> str:
        return self._server._reply("QUIT") or "221 Bye"


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads a certificate chain from files only
        path = Path(folder, "localhost.pem")
        path.write_text(CERTIFICATE + KEY, encoding="ascii")
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def mail_server(
    replies: Mapping[str, Sequence[str]] | None = None,
    domains: Mapping[str, str] | None = None,
    hold: bool | Collection[str] = False,
    tls: bool = False,
    login: tuple[str, str] | None = None,
    utf8: bool = True,
) -> Iterator[MailServer]:
    """An SMTP server on a free loopback port for the length of the block: `with mail_server() as mails:`.

    `replies` says what the next uses of a command are answered with, in turn, before it works again:
    `{"DATA": ["451 try later"] * 2}`; commands are MAIL, RCPT, DATA and QUIT. `domains` says how every recipient at a
    domain is refused: `{"slow.example": "451 try later"}`. `hold` lets messages in and answers none before `release()`;
    with a list of domains, only those to them. `tls` offers STARTTLS with a certificate that only `trust` trusts;
    `login` (user, password) is then required. Without `utf8` the server does not offer SMTPUTF8.
    """
    server = MailServer(replies or {}, domains or {}, hold, tls, login, utf8).start()
    try:
        yield server
    finally:
        server.stop()
