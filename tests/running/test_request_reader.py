"""`playbook.pantry.request_reader`: where a request ends is no matter of opinion.

h11, another reader of HTTP/1.1, is the judge: what is read here, h11 reads in the same way, octet for octet. The other
way round it need not be so: what h11 takes out of kindness, such as a line that ends in LF alone, is refused here.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from playbook.pantry.request_reader import Refused, RequestReader

HEAD, LINES = 16_384, 100


class Message(NamedTuple):
    """A request that has come whole."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def read(pieces: Iterable[bytes]) -> tuple[list[Message], int]:
    """What the reader makes of the octets of one connection; the status of its refusal, or 0."""
    reader, found, request, body = RequestReader(HEAD, LINES, 256, 32), [], None, b""
    try:
        for piece in pieces:
            reader.unread += piece
            while reader.unread:
                if request is None:
                    if (request := reader.head()) is None:
                        break
                    body = b""
                if reader.in_body:
                    body += reader.body()
                if reader.in_body:
                    break
                method, target, version, headers, keep_alive, _ = request
                found.append(Message(method.encode(), target, version.encode(), headers, body))
                if not keep_alive:
                    return found, 0
                request = None
    except Refused as refused:
        return found, refused.status
    return found, 0


def read_by_h11(octets: bytes) -> list[Message]:
    """What h11 makes of them."""
    connection, found, request, body = h11.Connection(h11.SERVER, 10**6), [], None, b""
    connection.receive_data(octets)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return found
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                found.append(Message(request.method, request.target, request.http_version, list(request.headers), body))
                connection.send(h11.Response(status_code=404, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
    except h11.ProtocolError:
        return found


def same(mine: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether all of `mine` are the first of `other`. h11 writes `CHUNKED` small."""
    lower = [message._replace(headers=[(n, v.lower()) for n, v in message.headers]) for message in mine]
    others = [message._replace(headers=[(n, v.lower()) for n, v in message.headers]) for message in other]
    return lower == others[: len(lower)]


# ---------------------------------------------------------------- examples

HOST = b"Host: x\r\n"
GET, POST = b"GET / HTTP/1.1\r\n" + HOST, b"POST / HTTP/1.1\r\n" + HOST
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n"

TAKEN = {
    "an unknown method": b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT with a body": b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
    "a whole URL": b"GET http://x/y?z HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target that is none": b"GET foo#bar HTTP/1.1\r\n" + HOST + b"\r\n",
    "spaces around a value": GET + b"A:\t b\t c \t\r\n\r\n",
    "no value": GET + b"A:\r\nB: \r\n\r\n",
    "octets above 127": GET + b"A: \xff\r\n\r\n",
    "a length": POST + b"Content-Length: 5\r\n\r\nabcde",
    "no octets": POST + b"Content-Length: 0\r\n\r\n",
    "a body of GET": GET + b"Content-Length: 5\r\n\r\nabcde",
    "chunks": CHUNKS + b"5\r\nabcde\r\n00A\r\n0123456789\r\n0\r\n\r\n",
    "a chunk that looks like an end": CHUNKS + b"c\r\nab\r\n0\r\n\r\nGET\r\n0\r\n\r\n",
    "an extension of a chunk": CHUNKS + b'5;a="b";c\r\nabcde\r\n0\r\n\r\n',
    "a trailer": CHUNKS + b"5\r\nabcde\r\n0\r\nHost: evil\r\nX: y\r\n\r\n",
    "no chunk": POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
    "an offer to change the protocol": GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "such an offer with a body": POST + b"Connection: Upgrade\r\nUPGRADE: h2c\r\nContent-Length: 5\r\n\r\nabcde",
    "such an offer with chunks": POST
    + b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_taken_is_read_as_another_reader_reads_it(kind: str) -> None:
    octets = TAKEN[kind] + LAST
    whole, status = read([octets])
    assert status == 0
    assert [message.target for message in whole][1:] == [b"/last"], "the next request was not found"
    assert same(whole, read_by_h11(octets))
    assert read([octets[at : at + 1] for at in range(len(octets))]) == (whole, 0)
    for at in range(len(octets)):
        assert read([octets[:at], octets[at:]]) == (whole, 0), octets[:at]


def test_after_a_request_that_is_the_last_nothing_is_read() -> None:
    for octets in (GET + b"Connection: foo, Close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        assert len(read([octets + LAST])[0]) == 1


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
REFUSED = {
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc" + SMUGGLED,
    "two lengths that are equal": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a length with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length with a space": POST + b"Content-Length: 3 0\r\n\r\nabc",
    "a length with an underscore": POST + b"Content-Length: 3_0\r\n\r\nabc",
    "no length": POST + b"Content-Length:\r\n\r\nabc",
    "a length beyond all": POST + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "another coding": POST + b"Transfer-Encoding: gzip\r\n\r\n" + SMUGGLED,
    "another coding before chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks behind a control character": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding that is empty": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a field on two lines": GET + b"A: b\r\n c\r\n\r\n",
    "a length on two lines": POST + b"Content-Length:\r\n 3\r\n\r\nabc",
    "a first field that goes on": b"GET / HTTP/1.1\r\n A: b\r\n" + HOST + b"\r\n",
    "lines that end in LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "a field that ends in LF": b"GET / HTTP/1.1\r\nHost: x\n\r\n",
    "a head that ends in LF": GET + b"\n",
    "CR within a field": GET + b"A: b\rC: d\r\n\r\n",
    "NUL": GET + b"A: \x00\r\n\r\n",
    "no colon": GET + b"A\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": GET + HOST + b"\r\n",
    "an empty line first": b"\r\n" + GET + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target that cannot be seen": b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02",
    "a chunk's size in LF": CHUNKS + b"5\nabcde\r\n0\r\n\r\n",
    "a chunk's data in LF": CHUNKS + b"5\r\nabcde\n0\r\n\r\n",
    "chunks that end in LF": CHUNKS + b"5\r\nabcde\r\n0\r\n\n",
    "a size with a prefix": CHUNKS + b"0x5\r\nabcde\r\n0\r\n\r\n",
    "a size with a sign": CHUNKS + b"+5\r\nabcde\r\n0\r\n\r\n",
    "a size with an underscore": CHUNKS + b"5_0\r\nabcde\r\n0\r\n\r\n",
    "a size before a space": CHUNKS + b"5 \r\nabcde\r\n0\r\n\r\n",
    "no size": CHUNKS + b"\r\nabc",
    "a size beyond all": CHUNKS + b"fffffffffffffffff\r\nabc",
    "more data than the size says": CHUNKS + b"5\r\nabcdeX\r\n0\r\n\r\n",
    "less data than the size says": CHUNKS + b"5\r\nabc\r\n0\r\n\r\n",
    "a trailer that is none": CHUNKS + b"0\r\nX y\r\n\r\n",
    "crumbs": CHUNKS + b"1\r\na\r\n" * 300 + b"0\r\n\r\n",
    "a size with an endless extension": CHUNKS + b"1;" + b"a" * 20_000,
    "a trailer without an end": CHUNKS + b"0\r\n" + b"a: b\r\n" * 4000,
}


@pytest.mark.proves("ASVS 4.2.1")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_two_readers_could_read_differently_is_refused(kind: str) -> None:
    found, status = read([REFUSED[kind]])
    assert (found, status) == ([], 400)
    octets = REFUSED[kind]
    assert read([octets[at : at + 7] for at in range(0, len(octets), 7)]) == ([], 400)


def test_a_head_is_measured_before_it_is_parsed() -> None:
    line = b"a: b\r\n"
    for size, status in ((LINES - 2, 0), (LINES, 431), (10**5, 431)):
        assert read([GET + line * size + b"\r\n"])[1] == status
    for size, status in ((HEAD - 100, 0), (HEAD, 431)):
        assert read([GET + b"a: " + b"b" * size + b"\r\n\r\n"])[1] == status
        assert read([GET + b"a: " + b"b" * size])[1] == status, "an end that never comes"


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_body_on_whose_end_the_two_who_count_do_not_agree_is_refused(wrong: int) -> None:
    reader = RequestReader(HEAD, LINES, 256, 32)
    reader.unread = TAKEN["a length"] + LAST
    reader.head()
    reader.left += wrong
    with pytest.raises(Refused):
        reader.body()


def test_the_app_sees_no_trailer() -> None:
    (message,), _ = read([TAKEN["a trailer"]])
    assert (b"host", b"evil") not in message.headers


# ---------------------------------------------------------------- anything

PARTS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0", b"5", b"\r\n\r\n", b"abcde", b"\x00", b"\x0b", b",", b";a=b",
    b"0\r\n\r\n", b"5\r\nabcde\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 55\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"A: b\r\n", HOST, GET, POST, LAST, CHUNKS,
]  # fmt: skip
FIELDS = st.lists(st.sampled_from([part for part in PARTS if re.fullmatch(rb"[^\n]+: [^\n]+\r\n", part)]), max_size=4)
BODIES = st.lists(st.sampled_from([b"abcde", b"5\r\nabcde\r\n", b"1;a\r\nx\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n"]))
STARTS = st.sampled_from([GET, POST, b"BREW * HTTP/1.1\r\n" + HOST, b"GET / HTTP/1.0\r\n", CHUNKS[:-2]])
REQUESTS = st.builds(lambda start, fields, body: b"".join([start, *fields, b"\r\n", *body]), STARTS, FIELDS, BODIES)
EDITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from([b"", *PARTS])), max_size=3)


@pytest.mark.proves("ASVS 4.2.1")
@given(st.lists(REQUESTS, min_size=1, max_size=3), EDITS, st.lists(st.integers(0, 400), max_size=4))
@example([CHUNKS + b"5\r\nabcde\r\n0\r\n", LAST], [], [])
def test_whatever_comes_is_read_as_another_reader_reads_it(
    requests: list[bytes], edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    octets = b"".join(requests)
    for at, length, put in edits:
        octets = octets[:at] + put + octets[at + length :]
    found, status = read([octets])
    assert same(found, read_by_h11(octets))
    ends = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    assert read([octets[a:b] for a, b in pairwise(ends)]) == (found, status)
