"""uvicorn with limits: on the time that a client takes, on the size of a head, on how many connections are open.

uvicorn closes a connection that is silent *after* a response, and no other one. A client that sends an octet a second,
or nothing, or never reads an answer, keeps its connection, and 1,024 of them are all that a process can have. Here each
phase of a connection has a limit (compare Apache's mod_reqtimeout and nginx's `client_header_timeout`). When all
connections are taken, one that waits for its client is closed, of the network that has most: one address cannot lock
out another.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from playbook.auth.throttling import network_of
from playbook.pantry.headers import ALWAYS, NOTHING
from playbook.pantry.request_reader import Refused, Request, RequestReader
from playbook.pantry.stop import Stop

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

log = logging.getLogger("uvicorn.error")
OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True)
class Limits:
    """What one client may take: seconds, octets, and octets per second."""

    head_seconds: float = 10  # from the connection, or from the first octet of a later request, to the end of its head
    head_octets: int = 16_384
    head_lines: int = 100
    body_seconds: float = 20  # for a body, and a second more for each `rate` octets that came
    rate: int = 1024
    pieces: int = 256  # from so many pieces on, a body's pieces must have `piece` octets on average
    piece: int = 32
    idle_seconds: int = 5  # between two requests
    linger_seconds: float = 5  # for the rest of a body that was answered, and of an answer when the connection closes
    unread_seconds: float = 30  # for 64 KiB of an answer to be read
    connections: int = 1000

    def open_files(self, files: int | None) -> tuple[int, int]:
        """How many connections may be open, and how many may wait to be accepted, when the process may open `files`.

        asyncio accepts as many at once as may wait, and more before it tells of the first. The rest is for the
        database, the mail and the log.
        """
        if files is None:
            return self.connections, 128
        waiting = max(8, min(128, files // 16))
        return max(16, min(self.connections, files - 4 * waiting - 64)), waiting


def open_files() -> int | None:
    """How many files this process may open, after it has asked for as many as it may have. None: not limited."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


class Seldom:
    """A log line for what may happen very often: at once for the first, then one each `every` seconds, with a count."""

    def __init__(self, words: str, clock: Callable[[], float], every: float = 60) -> None:
        self.words, self.clock, self.every = words, clock, every
        self.silent_until, self.count = float("-inf"), 0

    def __call__(self, number: int = 1) -> None:
        self.count += number
        self.tell()

    def tell(self) -> None:
        """Log what has happened since the last line, when it is time."""
        if self.count and self.clock() >= self.silent_until:
            log.warning("%s: %d (said once in %g s)", self.words, self.count, self.every)
            self.silent_until, self.count = self.clock() + self.every, 0


class Guard:
    """All connections of one server: admits them, and closes those whose client takes too long."""

    def __init__(self, limits: Limits, clock: Callable[[], float], most: int | None = None) -> None:
        self.limits, self.clock = limits, clock
        self.most = limits.connections if most is None else most
        self.connections: set[LimitedProtocol] = set()
        self.out_of_files = Seldom("no file is left for another connection", clock)
        self.made_room = Seldom(
            f"all {self.most} connections are taken: closed some that waited for their client", clock
        )
        self.refused = Seldom(f"all {self.most} connections are at work: refused some", clock)
        self.too_slow = Seldom("closed connections whose client took too long", clock)

    def admit(self, new: "LimitedProtocol") -> bool:
        """Whether there is room for `new`, after another one has been closed for it where needed."""
        if len(self.connections) >= self.most and not self.make_room():
            self.refused()
            return False
        self.connections.add(new)
        return True

    def make_room(self, number: int = 1) -> int:
        """Close up to `number` connections that wait for their client; how many. The network with most comes first."""
        held = Counter(each.network for each in self.connections)
        waiting = [each for each in self.connections if each.waits_for_client()]
        waiting.sort(key=lambda each: (-held[each.network], each.since))
        for each in waiting[:number]:
            self.connections.discard(each)
            each.transport.abort()
        if waiting:
            self.made_room(min(number, len(waiting)))
        return min(number, len(waiting))

    def sweep(self) -> None:
        """Close every connection whose time is over."""
        for each in list(self.connections):
            if each.overdue():
                self.too_slow()
                each.give_up()
        for line in (self.out_of_files, self.made_room, self.refused, self.too_slow):
            line.tell()

    async def sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.sweep()

    def loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's exception handler. It calls this for each connection that it could not accept."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF:
            self.out_of_files()
            self.make_room(16)  # asyncio tries again in a second
        else:
            loop.default_exception_handler(context)


class HeadWithBody:
    """The transport of one answer: its head waits for the first of its body, and both are sent by one system call.

    It waits no longer than until the loop comes round: an answer may begin long before there is a body. What follows is
    sent as it comes, so that a client who does not read holds up the app, and nothing piles up here.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop = transport, loop
        self.head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self.head is None:
            self.head = data
            self.loop.call_soon(self.flush)
        else:
            data, self.head = self.head + data, b""
            self.transport.write(data)

    def flush(self) -> None:
        if self.head and not self.is_closing():
            self.transport.write(self.head)
            self.head = b""

    def close(self) -> None:
        self.flush()
        self.transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `phase` says what it waits for: "head", "body", "idle", "rest" (of a body already answered) or
    "app", and `since` from when on."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        assert isinstance(config, LimitedConfig)
        self.guard: Guard = config.guard
        self.limits = self.guard.limits
        limits = self.limits
        self.reader = RequestReader(limits.head_octets, limits.head_lines, limits.pieces, limits.piece)
        self.phase, self.since, self.received, self.network = "head", self.guard.clock(), 0, ""
        self.unread_since: float | None = None
        self._counted: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else ""
        if not self.guard.admit(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.received += len(data)
        self.reader.unread += data
        self.read()
        self.note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.read()
        self.note()

    def read(self) -> None:
        """Take what has come: the rest of a body; or, when the request before is answered, the next head."""
        reader = self.reader
        try:
            while reader.unread and not self.transport.is_closing():
                if reader.in_body:
                    self.take_body(reader.body())
                    if reader.in_body:
                        break
                elif self.cycle is not None and not self.cycle.response_complete:
                    self.flow.pause_reading()
                    break
                elif (request := reader.head()) is not None:
                    self.begin(request)
                else:
                    break
        except Refused as refused:
            self.logger.warning("Invalid HTTP request received.")
            self.refuse(refused.status)

    def take_body(self, body: bytes) -> None:
        """Give it to the app, unless that has answered already."""
        if not self.cycle.response_complete and (body or not self.reader.in_body):
            self.cycle.body += body
            self.cycle.more_body = self.reader.in_body
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            self.cycle.message_event.set()

    def begin(self, request: Request) -> None:
        """Let the app answer."""
        self._unset_keepalive_if_required()
        raw_path, _, query = request.target.partition(b"?")
        path = raw_path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": request.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": request.method,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": request.headers,
            "state": self.app_state.copy(),
        }
        transport: Any = HeadWithBody(self.transport, self.loop)
        self.cycle = RequestResponseCycle(
            scope=self.scope, transport=transport, flow=self.flow, logger=self.logger,
            access_logger=self.access_logger, access_log=self.access_log,
            default_headers=self.server_state.default_headers, message_event=asyncio.Event(),
            expect_100_continue=request.expects_continue, keep_alive=request.keep_alive,
            on_response=self.on_response_complete,
        )  # fmt: skip
        if not self.reader.in_body:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        self._start_asgi_task(self.cycle, self.app)

    def resume_writing(self) -> None:
        self.unread_since = None  # it reads, if slowly: the next 64 KiB have their own time
        super().resume_writing()

    def note(self) -> None:
        """Look at what the connection waits for now; a new phase, or the same one of another request, begins anew."""
        answered = self.cycle is None or self.cycle.response_complete
        if self.reader.in_body:
            phase = "rest" if answered else "body"
        elif not answered:
            phase = "app"
        else:
            phase = "head" if self.cycle is None or self.reader.unread else "idle"
        if (phase, self.cycle) != (self.phase, self._counted):
            if phase != "head" or self.phase != "head":  # the first head counts from the connection
                self.since, self.received = self.guard.clock(), 0
            self.phase, self._counted = phase, self.cycle

    def waits_for_client(self) -> bool:
        """Whether this connection may be closed for another one: nothing is being worked on, or nobody reads."""
        return self.phase != "app" or self.unread_since is not None or self.transport.is_closing()

    def overdue(self) -> bool:
        """Whether the client has had its time."""
        now, limits = self.guard.clock(), self.limits
        if self.transport.get_write_buffer_size() == 0:
            self.unread_since = None
        elif self.unread_since is None:
            self.unread_since = now
        if self.unread_since is not None:
            closing = self.transport.is_closing()
            return now - self.unread_since > (limits.linger_seconds if closing else limits.unread_seconds)
        waited = now - self.since
        if self.phase == "body":  # while nobody reads the body here, the client is not the one who is slow
            return not self.flow.read_paused and waited > limits.body_seconds + self.received / limits.rate
        allowed = {"head": limits.head_seconds, "rest": limits.linger_seconds, "idle": 2.0 * limits.idle_seconds}
        return waited > allowed.get(self.phase, float("inf"))

    def give_up(self) -> None:
        """Close, with a 408 where a request has begun and nothing has been said (RFC 9110, 15.5.9)."""
        begun = self.phase == "body" or (self.phase == "head" and self.reader.unread)
        if begun and not self.transport.is_closing() and self.unread_since is None:
            self.refuse(408)
        else:
            self.transport.abort()

    def refuse(self, status: int) -> None:
        """Answer `status` in plain text and close; nothing of it reaches the app."""
        cycle = self.cycle
        if cycle is not None and (self.reader.in_body or not cycle.response_complete):
            if cycle.response_started:
                return self.transport.abort()
            cycle.disconnected = True
            cycle.message_event.set()
        phrase = HTTPStatus(status).phrase
        headers = {
            "content-type": "text/plain",
            "content-length": str(len(phrase)),
            "connection": "close",
            "cache-control": "no-store",
            "content-security-policy": NOTHING,
            **{name.lower(): value for name, value in ALWAYS.items()},
        }
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", phrase]
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration with a Guard that all connections share. `options` are uvicorn's.

    Its loop is uvloop where that is installed, and asyncio's elsewhere, on Windows.
    """

    def __init__(self, app: Any, limits: Limits, stop: Stop, **options: Any) -> None:
        most, waiting = limits.open_files(open_files())
        super().__init__(
            app, http=LimitedProtocol, ws="none", backlog=waiting, timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=max(1, int(stop.for_requests)), **options,
        )  # fmt: skip
        self.stop, self.guard = stop, Guard(limits, time.monotonic, most)


class LimitedServer(uvicorn.Server):
    """uvicorn's server that sweeps its connections, and stops within the budget of its configuration."""

    config: LimitedConfig

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        guard = self.config.guard
        asyncio.get_running_loop().set_exception_handler(guard.loop_error)
        self._sweeping = asyncio.create_task(guard.sweep_for_ever())
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and self.should_exit:
            self.config.stop.hurry()
            asyncio.get_event_loop().call_soon(self.cut_off)  # a signal's handler runs in the loop's thread
        self.config.stop.begin(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End within the budget: requests first, then what the lifespan does, the mails among it."""
        stop = self.config.stop
        stop.begin()
        # A little before uvicorn would cancel what still runs: a request that waits for its client ends without a word.
        patience = max(0.1, float(self.config.timeout_graceful_shutdown or 1) - 0.5)
        cutting = asyncio.get_running_loop().call_later(patience, self.cut_off)
        await super().shutdown(sockets=sockets)
        cutting.cancel()
        self._sweeping.cancel()
        if self.force_exit:  # uvicorn leaves this out, and with it the word about the mails that are lost
            await asyncio.sleep(0.1)  # for the requests that were cut off
            await self.lifespan.shutdown()

    def cut_off(self) -> None:
        """Close what is still open, and say once how many had not got their answer."""
        left = list(self.config.guard.connections)
        requests = sum(each.phase in ("body", "app") for each in left)
        for each in left:
            if each.phase != "app" or each.unread_since is not None:
                each.transport.abort()
        if requests:
            log.error("the stop does not wait any longer: %d requests were not finished", requests)


def server_for(app: Any, stop: Stop, connections: int = Limits.connections, **options: Any) -> LimitedServer:
    """The server of `playbook serve`: `app` behind the limits above. `options` are uvicorn's."""
    return LimitedServer(LimitedConfig(app, Limits(connections=connections), stop, **options))


def collect_seldom() -> None:
    """For a process that has started: what there is by now stays, so Python's collector needs not look at it again.

    A request leaves nothing behind for it. But a list makes so many objects that it would look after every tenth, and
    each look at all objects of the service takes a tenth of a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 100)
