"""The octets of a connection as requests: llhttp (httptools) reads them, and here is what it does not know.

Where a message ends must not be a matter of opinion, or a proxy in front sees other requests than the service does
(request smuggling, RFC 9112, 11.2). So llhttp is given a head, or what came of a body, and never what follows: that is
the next request. Both count, llhttp and this module, and a request on whose end they do not agree is refused.

The request line is read here. llhttp knows the methods of its time, and has a mind of its own about targets; the
service answers by itself to any method and any target.
"""

import re
from typing import NamedTuple

import httptools

# RFC 9112, 3 and 7.1. Whether a target is a path, `RequestTarget` and `StrictInput` say.
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n]*)?\r\n")
BLANK_LINE = re.compile(rb"\n\r?\n")
UPGRADE = re.compile(rb"(?<=\n)upgrade(?=:)", re.IGNORECASE)
NOT_OFFERED = b"x-upgrade"
AT_ONCE = 256  # chunks between two looks of llhttp, which counts their crumbs

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The request cannot be read, nor what follows it. `status` is that of the answer."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class Request(NamedTuple):
    """A head. The names of its fields are in lower case. `keep_alive`: another request may follow."""

    method: str
    target: bytes
    version: str
    headers: Headers
    keep_alive: bool
    expects_continue: bool


class RequestReader:
    """Put what comes behind `unread`; `head` and `body` take it from there, the body of a request before the next head.

    A head has at most `octets` and `lines`. From so many `pieces` of a body on, they have `piece` octets on average.
    """

    def __init__(self, octets: int, lines: int, pieces: int, piece: int) -> None:
        self.octets, self.lines, self.pieces, self.piece = octets, lines, pieces, piece
        self.unread = b""
        self.in_body = False  # of the request whose head was read last something is still to come
        self.parser = httptools.HttpRequestParser(self)
        self.begin()

    def begin(self) -> None:
        """For a new request."""
        self.headers: Headers = []
        self.hosts, self.chunked, self.expects_continue, self.keep_alive = 0, False, False, False
        self.head_read = self.ended = False  # says llhttp
        self.left, self.trailer, self.over = 0, 0, False  # says this module
        self.came: list[bytes] = []
        self.count = self.size = 0

    # ---------------------------------------------------------------- a head

    def head(self) -> Request | None:
        """The next head; None when it has not come whole. Raises Refused."""
        end = BLANK_LINE.search(self.unread)
        head = self.unread[: end.start()] if end else self.unread
        if len(head) > self.octets or head.count(b"\n") > self.lines:
            raise Refused("the head is too large", 431)
        if end is None:
            if head and head[0] < 0x21:  # TLS, for example: its "head" would never end
                raise Refused("no method begins with this octet")
            return None
        line = REQUEST_LINE.match(self.unread)
        if line is None:
            raise Refused("no request line")
        fields, self.unread = self.unread[line.end() : end.end()], self.unread[end.end() :]
        try:
            self.read_fields(fields)
        except httptools.HttpParserUpgrade:  # llhttp leaves what follows to the other protocol, the body too
            self.parser = httptools.HttpRequestParser(self)
            self.read_fields(UPGRADE.sub(NOT_OFFERED, fields))
        method, target, version = line.groups()
        if self.hosts > 1 or (not self.hosts and version == b"1.1"):
            raise Refused("not one Host (RFC 9112, 3.2)")
        self.in_body = not self.ended
        new = version >= b"1.1"
        keep, expects = new and self.keep_alive, new and self.expects_continue
        return Request(method.decode(), target, version.decode(), self.headers, keep, expects)

    def read_fields(self, fields: bytes) -> None:
        """Raises Refused, and HttpParserUpgrade for an offer to change the protocol."""
        self.begin()
        self.feed(b"POST / HTTP/1.1\r\n" + fields)
        if not self.head_read:
            raise Refused("no agreement on where the head ends")

    def feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise
        except httptools.HttpParserError as error:
            raise Refused(str(error)) from error

    # ---------------------------------------------------------------- a body

    def body(self) -> bytes:
        """What has come of the body; `in_body` says afterwards whether there is more. Raises Refused."""
        while self.in_body and (end := self.end_of_chunks() if self.chunked else self.end_of_length()):
            part, self.unread = self.unread[:end], self.unread[end:]
            self.feed(part)
            if self.ended != self.over:
                raise Refused("no agreement on where the body ends")
            self.in_body = not self.ended
        came, self.came = b"".join(self.came), []
        return came

    def end_of_length(self) -> int:
        """How many octets of `unread` belong to a body with a Content-Length."""
        end = min(self.left, len(self.unread))
        self.left -= end
        self.over = not self.left
        return end

    def end_of_chunks(self) -> int:
        """How many octets of `unread` belong to a body in chunks (RFC 9112, 7.1), as far as they can be told apart."""
        at = 0
        for _ in range(AT_ONCE):
            step = min(self.left, len(self.unread) - at)
            at, self.left = at + step, self.left - step
            end = 0 if self.left else self.unread.find(b"\n", at) + 1
            if not end:
                if not self.left and len(self.unread) - at > self.octets:
                    raise Refused("the line of a chunk is too long")
                break
            line, at = self.unread[at:end], end
            if self.trailer:
                self.trailer += len(line)
                self.over = line == b"\r\n"
                if self.over:
                    break
                if self.trailer > self.octets:
                    raise Refused("the trailer is too large")
            elif (size := CHUNK_SIZE.fullmatch(line)) is None:
                raise Refused("no size of a chunk")
            elif octets := int(size[1], 16):
                self.left = octets + 2  # the end of its line
            else:
                self.trailer = 1
        return at

    # ---------------------------------------------------------------- llhttp calls these

    def on_message_begin(self) -> None:
        if self.head_read:
            raise Refused("llhttp sees another request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_read:
            return  # a trailer, which nobody here expects: it must not become a field of the head
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            self.left = int(value)
        elif name == b"transfer-encoding":
            self.chunked = value.lower() == b"chunked"
            if not self.chunked:
                raise Refused("a coding that is not known here")
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif name == NOT_OFFERED:
            name = b"upgrade"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_read, self.keep_alive = True, self.parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        self.came.append(piece)
        self.count, self.size = self.count + 1, self.size + len(piece)
        if self.count > self.pieces and self.size < self.count * self.piece:
            raise Refused("the body comes in crumbs")

    def on_message_complete(self) -> None:
        self.ended = True
