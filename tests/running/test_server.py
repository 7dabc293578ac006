"""`playbook.pantry.server`: what one connection may take of the service, and what all together may."""

import asyncio
import contextlib
import errno
import http.client
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import DEADLINE, Served, served

from playbook.kit.live import LiveClient
from playbook.pantry.server import Guard, HeadWithBody, Limits, Seldom, server_for
from playbook.pantry.stop import Stop

SHORT = Limits(
    head_seconds=0.3, body_seconds=0.3, idle_seconds=1, linger_seconds=0.3, unread_seconds=0.3, rate=10_000_000
)
# What `playbook serve` takes where it is installed, and what there always is.
LOOPS = [pytest.param("uvloop", marks=pytest.mark.skipif(not find_spec("uvloop"), reason="no uvloop")), "asyncio"]
NEVER = Limits(head_seconds=9e9, body_seconds=9e9, idle_seconds=10**9, linger_seconds=9e9, unread_seconds=9e9)


class Running:
    """An app behind `server_for` in a thread, swept often."""

    def __init__(self, app: Any, limits: Limits, most: int | None = None, loop: str = "auto") -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.server = server_for(app, Stop(), log_config=None, access_log=False, lifespan="off", loop=loop)
        self.guard = self.server.config.guard = Guard(limits, time.monotonic, most)
        self.server.config.timeout_keep_alive = limits.idle_seconds
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.address = self.socket.getsockname()

    def __enter__(self) -> "Running":
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE)

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address)
        connection.settimeout(DEADLINE)
        connection.sendall(sent)
        return connection


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body and says how long it was; /large answers with 64 MiB, /at-once without reading."""
    size, more = 0, scope["path"] != "/at-once"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1024 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
    await send({"type": "http.response.body", "body": str(size).encode()})


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes; fails when it does not."""
    said = b""
    try:
        while data := connection.recv(65_536):
            said += data
    except ConnectionResetError:
        pass
    return said


def ask(address: Any, path: str = "/") -> bytes:
    client = http.client.HTTPConnection(*address, timeout=DEADLINE)
    client.request("GET", path)
    answer = client.getresponse().read()
    client.close()
    return answer


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(echo, SHORT) as server:
        yield server


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408 "),
        (POST + b"X-Slow: ", b"HTTP/1.1 408 "),
        (POST + b"Content-Length: 10\r\n\r\nabc", b"HTTP/1.1 408 "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),  # then silent
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", b"HTTP/1.1 200 "),  # then a second head that never ends
        (b"POST /at-once HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "request line", "header", "body", "chunk", "silent after", "second head", "body after the answer"],
)
def test_a_client_that_stops_in_the_middle_is_closed(running: Running, sent: bytes, answer: bytes) -> None:
    said = everything(running.connect(sent))
    assert said.startswith(answer)
    assert bool(said) == bool(answer)
    assert not running.guard.connections


@pytest.mark.parametrize("head", [POST + b"X: ", POST + b"Content-Length: 1000000\r\n\r\n"], ids=["head", "body"])
def test_a_client_that_sends_an_octet_now_and_then_is_closed(running: Running, head: bytes) -> None:
    """Each octet must not begin the time anew."""
    connection, done = running.connect(head), threading.Event()

    def drip() -> None:
        while not done.wait(0.02):
            try:
                connection.sendall(b"a")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        everything(connection)  # ends only because the server closes
    finally:
        done.set()
        dripping.join()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_never_reads_is_closed(loop: str) -> None:
    with Running(echo, SHORT, loop=loop) as running:
        connection = running.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        until = time.monotonic() + DEADLINE
        while not running.guard.connections:
            assert time.monotonic() < until
            time.sleep(0.01)
        while running.guard.connections:
            assert time.monotonic() < until, "kept for a client that does not read"
            time.sleep(0.05)
        connection.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_within_the_limits_is_served(loop: str) -> None:
    with Running(echo, Limits(), loop=loop) as server:
        connection = server.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"1\r\na\r\n")
        connection.sendall(b"0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = everything(connection)
        assert said.count(b"HTTP/1.1 200") == 2
        assert b"\r\n\r\n100" in said or b"100\r\n" in said


@pytest.mark.parametrize("loop", LOOPS)
def test_the_head_of_an_answer_does_not_wait_for_a_late_body(loop: str) -> None:
    """Nor does one without a body, and what is asked behind it is answered behind it."""
    later = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        while scope["path"] == "/late" and not later.is_set():
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b"body"})

    with Running(app, NEVER, loop=loop) as server:
        connection = server.connect(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            said += connection.recv(65_536)
        later.set()
        assert connection.recv(65_536) == b"body"
        ask_for_head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(2 * ask_for_head + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heads = everything(connection).split(b"\r\n\r\n")
        assert [part[:12] for part in heads] == [*[b"HTTP/1.1 200"] * 3, b"body"]


def test_head_and_body_are_sent_by_one_call_and_what_follows_as_it_comes() -> None:
    class Transport:
        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.closed = False

        def write(self, data: bytes) -> None:
            self.sent.append(data)

        def is_closing(self) -> bool:
            return self.closed

        def close(self) -> None:
            self.closed = True

    async def story() -> None:
        loop = asyncio.get_running_loop()
        for pieces, close in (([b"head", b"body"], True), ([b"head", b"1", b"2", b"3"], False), ([b"head"], True)):
            transport: Any = Transport()
            joined = HeadWithBody(transport, loop)
            for piece in pieces:
                joined.write(piece)
            if close:
                joined.close()
            assert transport.sent == [b"".join(pieces[:2]), *pieces[2:]]
            assert joined.is_closing() == transport.closed == close
            await asyncio.sleep(0)
            assert len(transport.sent) == max(1, len(pieces) - 1)  # nothing is sent again

    asyncio.run(story())


HEADS = {
    "long": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "many": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 30_000 + b"\r\n",
    "endless": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 200,
    "the second": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 30_000 + b"\r\n",
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_measured_before_it_is_parsed(kind: str) -> None:
    """A head in one piece may have 256 KiB and 60,000 fields, and each of them costs the loop time."""
    with Running(echo, NEVER) as server:
        connection = server.connect(HEADS[kind])
        said = everything(connection)
        assert said.count(b"HTTP/1.1 431 ") == 1
        for name in ("cache-control: no-store", "x-content-type-options: nosniff", "content-security-policy: default"):
            assert name.encode() in said.lower(), "the server's own answers carry what all others do"
        assert said.count(b"HTTP/1.1 200 ") == (kind == "the second")


def test_a_body_in_crumbs_is_refused() -> None:
    """A chunk of one octet costs an event: 1 MiB of them would hold the loop for 20 s."""
    with Running(echo, NEVER) as server:
        connection = server.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            connection.sendall(b"1\r\na\r\n" * 20_000)
        assert everything(connection).startswith(b"HTTP/1.1 400 ")


def test_an_upgrade_that_is_not_offered_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("uvicorn.error").propagate = True
    with Running(echo, NEVER) as server:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
        assert everything(server.connect(head)).startswith(b"HTTP/1.1 200 ")
    assert "upgrade" not in caplog.text.lower()


# ---------------------------------------------------------------- all connections together


def test_the_one_that_waits_longest_makes_room() -> None:
    with Running(echo, NEVER, most=10) as server:
        first = server.connect(b"GET / HT")
        while len(server.guard.connections) < 1:
            time.sleep(0.01)
        others = [server.connect(b"GET / HT") for _ in range(9)]
        while len(server.guard.connections) < 10:
            time.sleep(0.01)
        assert ask(server.address) == b"0"
        assert everything(first) == b""
        assert others[-1].send(b"T") == 1
        assert len(server.guard.connections) <= 10


class Fake:
    """A connection as the guard sees it."""

    def __init__(self, guard: Guard, network: str, since: float, waits: bool = True) -> None:
        self.guard, self.network, self.since, self.waits, self.closed = guard, network, since, waits, False
        self.transport = self

    def waits_for_client(self) -> bool:
        return self.waits

    def abort(self) -> None:
        self.closed = True


def test_a_stranger_cannot_close_the_connections_of_others() -> None:
    guard = Guard(Limits(), lambda: 0.0, most=10)
    ada: Any = Fake(guard, "ada", since=0)  # the oldest of all
    strangers: list[Any] = [Fake(guard, "mallory", since=number) for number in range(1, 30)]
    assert guard.admit(ada)
    assert all(guard.admit(each) for each in strangers)
    assert not ada.closed
    assert [each.since for each in strangers if each.closed] == list(range(1, 21))
    busy: list[Any] = [Fake(guard, str(number), since=0, waits=False) for number in range(10)]
    guard.connections = set(busy)
    assert not guard.admit(ada), "what is being worked on is not closed for somebody new"


def test_a_connection_that_cannot_be_accepted_makes_room() -> None:
    """asyncio tells of it in this way; uvloop closes such connections by itself."""
    guard, loop = Guard(Limits(), lambda: 0.0), asyncio.new_event_loop()
    waiting: list[Any] = [Fake(guard, "mallory", since=number) for number in range(20)]
    guard.connections = set(waiting)
    guard.loop_error(loop, {"exception": OSError(errno.EMFILE, "Too many open files")})
    loop.close()
    assert [each.since for each in waiting if each.closed] == list(range(16))


def test_connections_leave_files_for_the_rest() -> None:
    for files in (128, 256, 1024, 4096, 10**6):
        most, waiting = Limits().open_files(files)
        assert most + 3 * waiting + 60 <= files, files
        assert most <= 1000
    assert Limits().open_files(1024)[0] >= 600
    assert Limits().open_files(None)[0] == 1000


def test_a_line_is_logged_once_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("uvicorn.error")
    # A server that ran in this process before may have left the logger at its own level.
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "disabled", False)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    logger.addHandler(handler)
    now = [0.0]
    line = Seldom("no file", lambda: now[0])
    for _ in range(1000):
        line()
    now[0] = 61.0
    line.tell()
    line.tell()
    logger.removeHandler(handler)
    assert said == ["no file: 1 (said once in 60 s)", "no file: 999 (said once in 60 s)"]


# ---------------------------------------------------------------- as a process


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, files=512) as server:
        yield server


def test_more_idle_sockets_than_files_lock_nobody_out(process: Served) -> None:
    """The issue's case: at that time nobody was answered, and the log grew by 158 MB in 75 s."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    sockets = []
    try:
        for number in range(600):
            connection = socket.create_connection(process.address, timeout=DEADLINE)
            connection.sendall(b"GET / HTTP/1.1\r\nX: " if number % 2 else b"")
            sockets.append(connection)
            if number % 100 == 99:
                with LiveClient(f"http://127.0.0.1:{process.port}") as client:
                    assert client.get("/health").status_code == 200
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.send(b"a")
        with LiveClient(f"http://127.0.0.1:{process.port}") as client:
            assert client.get("/health").status_code == 200
            assert client.get("/ready").status_code == 200, "no file was left for the database"
    finally:
        for connection in sockets:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process.logged.count("\n") < 60
    assert process.logged.count("are taken: closed some") <= 3
    assert process.stop() == 143
