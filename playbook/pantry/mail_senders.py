"""Where Pantry's mail goes, as PANTRY_MAIL_URL says: over SMTP, into a file of JSON lines, or into memory."""

import json
import os
import re
import smtplib
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from playbook.auth.mail import Mail, MemorySender, Sender, SmtpSender
from playbook.foundations.clock_and_identifiers import Clock


def mail_server_url(text: str) -> str:
    """Where mail goes: `file:PATH` (JSON lines), `smtp://[user:password@]host[:port]`, `memory:`. Raises ValueError."""
    url = re.sub(r"^file:/{2}/", "file:/", text.strip())
    smtp = re.fullmatch(r"smtp://([^@/\s]+@)?([\w.-]+|\[[0-9a-fA-F:.]+\])(:([0-9]{1,5}))?", url)
    if url == "memory:" or re.fullmatch(r"file:(?!//).+", url) or (smtp and 0 < int(smtp[4] or 25) < 65536):
        return url
    raise ValueError("should be file:PATH, smtp://host:port or memory:")


class FileSender:
    """Appends to a file of JSON lines that only its owner may read. Raises ValueError when its folder is missing.

    For development, and for tests in other languages. The file holds links that open accounts. A line is one `write` to
    a file opened for appending: the lines of several processes do not mix.
    """

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


class Connection(smtplib.SMTP):
    """An SMTP connection of at most `within` seconds: a byte every nine seconds is no silence, and never ends."""

    def __init__(self, within: float, *where: Any) -> None:
        self._end = threading.Timer(within, self._cut)
        self._end.daemon = True
        self._end.start()
        super().__init__(*where)

    def _cut(self) -> None:
        if (sock := self.sock) is not None:
            with suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._end.cancel()
        super().close()


class BoundedSender(SmtpSender):
    """The recipe's sender, with an end for each mail as a whole: `within` seconds. `timeout` is for each reply."""

    def __init__(
        self, url: str, from_address: str, clock: Clock, *, within: float = 30, timeout: float = 10, **options: Any
    ) -> None:
        super().__init__(mail_server_url(url), from_address, clock, timeout=timeout, **options)
        self._within = within

    def connect(self, *where: Any) -> smtplib.SMTP:  # type: ignore[override]
        return Connection(self._within, *where)


def sender_of(mail_url: str, from_address: str, clock: Clock, require_tls: bool = False) -> Sender:
    """The sender for the setting `mail_url`: `file:PATH`, `smtp://...` or `memory:`. Raises ValueError."""
    url = mail_server_url(mail_url)
    if url == "memory:":
        return MemorySender()
    if url.startswith("file:"):
        return FileSender(url.removeprefix("file:"), clock)
    return BoundedSender(url, from_address, clock, require_tls=require_tls)
