"""A real HTTP server for a lesson: uvicorn in a background thread, and a client that remembers what was said."""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import uvicorn

READY_SECONDS = 60  # a busy machine is no fault of the app
STOP_SECONDS = 10
GRACE_SECONDS = 5  # for the requests that run when the server is stopped
# Loopback speaks no TLS. httpx would read all certificates for each client, which takes 70 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Without a handler Python prints uvicorn's errors, tracebacks with this machine's paths, into the lesson's output.
_log = logging.getLogger("uvicorn.error")
_log.propagate = False
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Exchange:
    """One request and its response as they went over the wire; `started`, `ended`: `time.perf_counter()` seconds."""

    method: str
    path: str
    request_headers: httpx.Headers
    request_body: bytes
    status: int
    response_headers: httpx.Headers
    response_body: bytes
    started: float
    ended: float

    @property
    def status_line(self) -> str:
        """`201 Created`."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)

    def json(self) -> Any:
        """The response's body as JSON. Raises ValueError when it is not."""
        return json.loads(self.response_body)


class LiveClient(httpx.Client):
    """An `httpx.Client` for the lesson's server. `exchanges` holds everything said so far, oldest first."""

    def __init__(self, base_url: str, **options: Any) -> None:
        self.exchanges: list[Exchange] = []
        self.server: LiveServer | None = None
        self.shown = 0  # how many of them `show_http` has printed
        # trust_env: a proxy in the reader's environment must not come between a lesson and loopback.
        super().__init__(base_url=base_url, trust_env=False, timeout=30, verify=NO_TLS, **options)

    @property
    def server_errors(self) -> list[str]:
        """The exceptions that no endpoint handled, oldest first: `RuntimeError: ...`."""
        return self.server.errors if self.server else []

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        started = time.perf_counter()
        response = super().send(request, **options)
        if not options.get("stream"):
            self._record(response, started)
        return response

    def _record(self, last: httpx.Response, started: float) -> None:
        for response in (*last.history, last):
            request = response.request
            self.exchanges.append(
                Exchange(
                    request.method,
                    request.url.raw_path.decode("ascii"),
                    request.headers,
                    request.content if hasattr(request, "_content") else b"",
                    response.status_code,
                    response.headers,
                    response.content,
                    started,
                    time.perf_counter(),
                )
            )


class _Server(uvicorn.Server):
    """uvicorn, telling when it is ready or has given up instead of being asked again and again, and told to end.

    uvicorn's own looks ten times a second whether it is to end, and then sleeps as long before it looks whether
    anything is left to end: 0.2 s for each server of a lesson, and for each of two thousand in the tests.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()
        self.closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._loop = asyncio.get_running_loop()
        self.settled.set()

    def end(self) -> None:
        """To be called from another thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        beats = 0  # tenths of a second
        while not await self.on_tick(beats):
            beats += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.closing.set()
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        left = self.server_state
        for connection in list(left.connections):
            connection.shutdown()
        until = time.monotonic() + GRACE_SECONDS
        while (left.connections or left.tasks) and time.monotonic() < until:
            await asyncio.sleep(0.001)
        for task in left.tasks:
            task.cancel()
        await self.lifespan.shutdown()


class _ClosingFailures:
    """ASGI: a 500 says that its connection ends. uvicorn closes it after an exception, and the next request of a client
    that was not told would go into it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_closing(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 500:
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, send_closing)


class _Errors(logging.Handler):
    """Collects the exceptions that one server's thread logs, as one line each."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.thread: int | None = None
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self.thread:
            return
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self.lines.append(f"{type(error).__name__}: {error}".splitlines()[0])
        elif (text := record.getMessage().strip()).startswith("Traceback"):  # a lifespan's, already formatted
            self.lines.append(text.splitlines()[-1])


@dataclass
class LiveServer:
    """A uvicorn server in a background thread on a free loopback port. `stop` ends it; the port is free again then."""

    app: Any
    error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # With the protocol named, asyncio switches Nagle's algorithm off; without, each answer waits 40 ms for an ACK.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # Named, or uvicorn takes uvloop and httptools where they happen to be installed, and answers would depend on
        # that: httptools refuses an unknown method by itself, with 400 in plain text.
        app = _ClosingFailures(self.app) if callable(self.app) else self.app
        # Idle connections stay: closed after uvicorn's five seconds, the client of a busy machine finds one reset.
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            http="h11",
            loop="asyncio",
            timeout_keep_alive=3600,
        )
        self._server = _Server(config)
        self._errors = _Errors()
        self._thread = threading.Thread(target=self._run, name=f"uvicorn:{self.port}", daemon=True)

    def _run(self) -> None:
        self._errors.thread = threading.get_ident()
        _log.addHandler(self._errors)
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            self.error = error
        finally:
            _log.removeHandler(self._errors)
            self._server.settled.set()

    def start(self) -> "LiveServer":
        """Start and wait until it answers. Raises RuntimeError, with the reason, when the app's start-up fails."""
        self._thread.start()
        self._server.settled.wait(READY_SECONDS)
        if not self._server.started:
            self.stop()
            reason = self.errors[-1] if self.errors else f"the app's lifespan took longer than {READY_SECONDS} s"
            raise RuntimeError(f"the server did not start: {reason}")
        return self

    @property
    def errors(self) -> list[str]:
        """The errors logged so far, one line each. A request's error is logged after its answer: running ones are
        waited for, at most a second."""
        until = time.monotonic() + 1
        while self._server.server_state.tasks and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.001)
        return list(self._errors.lines)

    def wait_until_closing(self) -> None:
        """Wait until no new connection is accepted, after `stop` was called in another thread."""
        self._server.closing.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Let running requests finish, then close the port."""
        self._server.end()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)
        self._socket.close()


@contextlib.contextmanager
def serving(app: Any, **client_options: Any) -> Iterator[LiveClient]:
    """Serve `app` for the length of the block and give a client for it: `with serving(app) as client:`.

    The server is stopped when the block ends, also when it ends with an exception, so a cell can be run again.
    Raises RuntimeError when the app does not start.
    """
    server = LiveServer(app).start()
    try:
        with LiveClient(server.url, **client_options) as client:
            client.server = server
            yield client
    finally:
        server.stop()
