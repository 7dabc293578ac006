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
import logging
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from playbook.auth.throttling import network_of
from playbook.pantry.headers import ALWAYS, NOTHING
from playbook.pantry.stop import Stop

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

log = logging.getLogger("uvicorn.error")
OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
BLANK_LINE = re.compile(rb"\n\r?\n")


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


class BoundedConnection(h11.Connection):
    """h11's connection, whose heads are measured before they are parsed, and which refuses a body in crumbs."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.head_octets)
        self.limits, self.pieces, self.octets = limits, 0, 0
        self.status = 400  # of the answer to what cannot be read

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self.pieces = self.octets = 0
            data = self.trailing_data[0]
            end = BLANK_LINE.search(data)
            head = data[: end.start()] if end else data
            if len(head) > self.limits.head_octets or head.count(b"\n") > self.limits.head_lines:
                self.status = 431
                raise h11.RemoteProtocolError("the head is too large")
        event = super().next_event()
        if isinstance(event, h11.Data):
            self.pieces, self.octets = self.pieces + 1, self.octets + len(event.data)
            if self.pieces > self.limits.pieces and self.octets < self.pieces * self.limits.piece:
                raise h11.RemoteProtocolError("the body comes in crumbs")
        return event


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


class LimitedProtocol(H11Protocol):
    """One connection. `phase` says what it waits for: "head", "body", "idle", "rest" (of a body already answered) or
    "app", and `since` from when on."""

    def __init__(self, config: uvicorn.Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        assert isinstance(config, LimitedConfig)
        self.guard: Guard = config.guard
        self.limits = self.guard.limits
        self.conn: BoundedConnection = BoundedConnection(self.limits)
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
        self.received += len(data)
        super().data_received(data)
        self.note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.note()

    def resume_writing(self) -> None:
        self.unread_since = None  # it reads, if slowly: the next 64 KiB have their own time
        super().resume_writing()

    def note(self) -> None:
        """Look at what the connection waits for now; a new phase, or the same one of another request, begins anew."""
        answered = self.cycle is None or self.cycle.response_complete
        if self.conn.their_state is h11.SEND_BODY:
            phase = "rest" if answered else "body"
        elif not answered:
            phase = "app"
        else:
            phase = "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"
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
        begun = self.phase == "body" or (self.phase == "head" and self.conn.trailing_data[0])
        if begun and not self.transport.is_closing() and self.unread_since is None:
            self.refuse(408)
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that cannot be read; here also for one that is too large."""
        self.refuse(self.conn.status)

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.ProtocolError:  # the answer was under way
            self.transport.abort()

    def refuse(self, status: int) -> None:
        """Answer `status` in plain text and close; nothing of it reaches the app."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                return self.transport.abort()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        phrase = HTTPStatus(status).phrase.encode()
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(phrase)),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", NOTHING.encode()),
            *((name.lower().encode(), value.encode()) for name, value in ALWAYS.items()),
        ]
        answer = h11.Response(status_code=status, headers=headers, reason=phrase)
        try:
            for event in (answer, h11.Data(data=phrase), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        except h11.ProtocolError:
            self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False  # no WebSocket here; uvicorn would log two lines for each that asks


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration with a Guard that all connections share. `options` are uvicorn's."""

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
