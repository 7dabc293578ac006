"""Several processes behind one listening socket: `playbook serve --workers N`, on PostgreSQL.

One process that has no threads, no connections and no application forks the others and looks after them: first one that
prepares the database and ends, then the workers, which only serve. uvicorn's own supervisor (`uvicorn.supervisors`) is
not used, because it does not keep what one process keeps: its stop has no end and no second Ctrl-C, a worker that dies
is started again without a pause, each worker imports everything anew, and when the parent is killed the workers stay
and keep the port. gunicorn keeps more of it, and is a server of its own. What is theirs too: a worker that cannot start
ends the service, since the next one could not either.

**Fork** and not new interpreters: a worker begins in some milliseconds and shares the imported code's memory. Nothing
may be forked that two processes cannot both use: a connection, a thread, a generator of identifiers. So all of these
are made after the fork, and the parent, which lives as long as the service, has none. (DuckDB's allocator starts a
thread when it is imported, and knows what to do about a fork.)

**What each process has** was looked at one by one (what is meant by `Share`):

- Limits on requests (`limits`, Better Auth's per path, mails to one mailbox): *shared*, see `memory`. What protects an
  account from guessing is in the database.
- Sweeps of what has expired: *made single*, by the first worker. Two at once would only delete each other's rows.
- Threads that hash passwords, threads that send mail, connections of the pool: *divided*, with a least. The first cost
  memory and cores, which the machine has once; a mail server and PostgreSQL count connections of all of them. One
  worker has at most pool + 4 (`reads`) + 4 (`writes`) + 1 (sessions): 29 alone, 19 of two, 14 of four or more.
- The queue of mails: *each its own*, 1,000 mails. Mail is sent by the process that has answered, and one that is killed
  loses only its own.
- Connections of clients (`PANTRY_MAX_CONNECTIONS`): *each its own*, as nginx's `worker_connections`. What runs out are
  the files of a process; to divide them would close connections of one worker while another one has room.
- Idempotency keys, sessions, cursors: in the database, or signed by the secret that all of them have.
- Session look-ups that are gathered into one statement: *each its own*. Fewer are gathered, so a `get-session` costs
  more.

**A worker that hangs** is not killed. gunicorn's `timeout` does that by the clock, and then also to a worker that a
busy machine has made slow. Here the others wait for it no longer after a second, and take the connections that come.
"""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from types import FrameType
from typing import Any

from playbook.auth import password_hashing
from playbook.pantry.memory import Share
from playbook.pantry.server import LimitedConfig, LimitedServer, Limits, collect_seldom
from playbook.pantry.stop import RESERVE, Stop

HURRIED = 5.0  # seconds after a second Ctrl-C; each worker ends itself much sooner
SIGNALS = (signal.SIGTERM, signal.SIGINT)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker is started again
STEADY = 60.0  # seconds that a worker has served after which its next end is a first one
REFUSED, FAILED = 2, 1  # exit codes: with a reason that somebody can act on, and without

log = logging.getLogger("uvicorn.error")


def check(database_url: str) -> None:
    """Raises ValueError, which says what to do, where several processes cannot serve together."""
    if not hasattr(os, "fork"):
        raise ValueError("--workers needs a system whose processes can fork, and this one cannot: leave it out")
    if not database_url.startswith("postgresql"):
        raise ValueError(
            "--workers needs PostgreSQL, as a DuckDB file has one process: name one in DATABASE_URL, or leave it out"
        )


def pause(failures: int) -> float:
    """Seconds to wait after so many ends in a row, from 1."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))


# ---------------------------------------------------------------- in a worker

Say = Callable[[str], None]
Work = Callable[[Stop, Say], int]  # what a forked process does; it returns its exit code
READY = ""  # what a worker says when it serves; any other text is why it cannot start


class WorkerServer(LimitedServer):
    """The server of one worker: shares the connections evenly with the others, and says when it serves.

    Whoever wakes up first would take all connections that wait, and keep them: 32 of 32, measured, and then one worker
    works and the others sleep. (asyncio accepts as many as there are; the kernel wakes all.) A socket for each worker,
    SO_REUSEPORT, would spread them by chance, and those that wait for a worker that dies would wait for its successor.
    So a worker that has some more than another one steps back for a moment, as nginx's workers do, and takes the
    connection when nobody else has.
    """

    AHEAD, MOMENT = 2, 0.002  # connections more than another worker; seconds

    def __init__(self, config: LimitedConfig, share: Share, say: Say) -> None:
        super().__init__(config)
        assert share.crowd is not None
        self.number, self.crowd, self.say = share.number, share.crowd, say
        self.arriving = set[asyncio.Task[Any]]()
        self.listening: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for each in sockets or ():
            each.setblocking(False)
            each.listen(self.config.backlog)
            self.listening.append(each)
            self.resume(each)
        self.tell()
        self.say(READY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for each in self.listening:
            asyncio.get_running_loop().remove_reader(each)
        self.listening.clear()
        await super().shutdown(sockets=sockets)

    async def on_tick(self, counter: int) -> bool:
        self.tell()
        return await super().on_tick(counter)

    def tell(self) -> int:
        """Tell the others how many connections there are here."""
        many = len(self.server_state.connections) + len(self.arriving)
        self.crowd.say(self.number, many)
        return many

    def accept(self, listening: socket.socket, patient: bool = False) -> None:
        """A connection waits: take it, or, when there are more here than elsewhere, leave it to another worker."""
        if not patient and self.tell() > self.crowd.least_of_others(self.number) + self.AHEAD:
            return self.step_back(listening, self.MOMENT)
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return None  # another worker has it
        except OSError as error:
            context = {"message": "a connection cannot be accepted", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)  # Guard makes room
            return self.step_back(listening, 1)
        connection.setblocking(False)
        arriving = asyncio.ensure_future(
            asyncio.get_running_loop().connect_accepted_socket(self.protocol, sock=connection)
        )
        self.arriving.add(arriving)
        arriving.add_done_callback(self.arrived)

    def arrived(self, task: "asyncio.Task[Any]") -> None:
        self.arriving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # the client has gone already
            log.info("a connection was gone before it was served: %s", type(error).__name__)

    def step_back(self, listening: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(seconds, self.resume, listening, True)

    def resume(self, listening: socket.socket, patient: bool = False) -> None:
        if listening in self.listening:
            asyncio.get_running_loop().add_reader(listening, self.accept, listening)
            if patient:
                self.accept(listening, patient)

    def protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def serve(
    app: Any, listening: socket.socket, stop: Stop, share: Share, say: Say, connections: int, **options: Any
) -> int:
    """Serve `app` until a signal ends it; the exit code when it ends otherwise. `options` are uvicorn's."""
    server = WorkerServer(LimitedConfig(app, Limits(connections=connections), stop, **options), share, say)
    collect_seldom()
    server.run(sockets=[listening])
    return 0 if server.started else FAILED


def divide_hashers(share: Share) -> None:
    """Let this process hash as many passwords at once as is its part of the cores. Before the first is hashed."""
    password_hashing.HASHERS = ThreadPoolExecutor(share.part(password_hashing.CORES), "hasher")


# ---------------------------------------------------------------- in the parent


@dataclass(eq=False)
class Child:
    """A process that the parent has forked, or is going to. `name` is what the log calls it."""

    name: str
    work: Work
    process: Any = None
    said: "connection.Connection[Any, Any] | None" = None
    serves_since: float | None = None
    failures: int = 0  # ends in a row
    due: float = 0.0  # when it is started again
    reason: str = ""  # why it could not start, in its own words

    def listen(self) -> None:
        """Take in what it has said."""
        with contextlib.suppress(EOFError, OSError):
            while self.said is not None and self.said.poll():
                self.reason = self.said.recv()
                if self.reason == READY:
                    self.serves_since = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.exitcode is not None

    @property
    def how(self) -> str:
        """How its process has ended, in words."""
        code: int = self.process.exitcode
        return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"

    def forget(self) -> None:
        """Give back what belongs to a process that has ended."""
        self.process.join()
        self.process.close()
        if self.said is not None:
            self.said.close()
        self.process = self.said = self.serves_since = None


class Supervisor:
    """The parent: keeps a service of several processes running until a signal ends it.

    To be made in the main thread of a process that has no other one. `stop` is the one budget of the end. A process
    that raises `refusal` cannot start for a reason that somebody can act on.
    """

    def __init__(self, stop: Stop, listening: socket.socket, refusal: type[Exception] = ValueError) -> None:
        self.stop, self.listening, self.refusal = stop, listening, refusal
        self.children: list[Child] = []
        self.hurried = False
        self._wake, self._woken = socket.socketpair()
        # Nobody writes into this pipe. It ends when no process has its second end any more, and only the parent does.
        self._parent_lives, self._lifeline = os.pipe()
        self._handlers: dict[signal.Signals, Any] = {}

    def run(self, prepare: Callable[[], None], works: Sequence[Work], ready: Callable[[], None]) -> int:
        """Run `prepare` in a process of its own, then each of `works` in one; call `ready` when all of them serve.

        Returns the exit code. Raises `refusal` with the words of a process that cannot start.
        """
        gc.collect()
        gc.freeze()  # or each worker's collector would go over all of it, and copy its memory by that
        with self.signals():
            try:
                return self.once(prepare) or self.keep(works, ready)
            finally:
                self.end()

    def once(self, prepare: Callable[[], None]) -> int:
        """`prepare` in a process that ends. Its exit code, or that of the signal that has ended it."""

        def work(stop: Stop, say: Say) -> int:
            prepare()
            return 0

        child = Child("the preparation", work)
        self.children = [child]
        self.start(child)
        if child.process is None:
            raise self.refusal(child.reason)
        while not child.ended and not self.stop.began:
            self.wait()
        return self.end() if self.stop.began else self.given_up(child)

    def keep(self, works: Sequence[Work], ready: Callable[[], None]) -> int:
        """All workers, for as long as the service runs."""
        self.children = [Child(f"worker {number}", work) for number, work in enumerate(works, 1)]
        complete = False
        while not self.stop.began:
            for child in self.children:
                child.listen()
                if child.ended:
                    if child.serves_since is None and not (complete and self.anybody_serves()):
                        return self.given_up(child)
                    self.put_off(child)
                if child.process is None and time.monotonic() >= child.due:
                    self.start(child)
                    if child.process is None and not complete:
                        raise self.refusal(child.reason)
            if not complete and all(child.serves_since is not None for child in self.children):
                complete = True
                ready()
            self.wait()
        return self.end()

    def anybody_serves(self) -> bool:
        return any(child.serves_since is not None and not child.ended for child in self.children)

    # ------------------------------------------------------------ one process

    def start(self, child: Child) -> None:
        """Fork; later, when there cannot be another process now."""
        child.said, say = multiprocessing.Pipe(duplex=False)
        child.reason = ""
        child.process = multiprocessing.get_context("fork").Process(target=self.be, args=(child, say), name=child.name)
        # A signal that comes before the child has handlers of its own would go to a copy of ours, and be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            child.process.start()
        except OSError as error:
            child.said.close()
            child.process = child.said = None
            child.reason = f"{child.name} cannot be started: {error.strerror}"
            child.due = time.monotonic() + LONGEST_PAUSE
            log.error("%s; it is tried again in %g s", child.reason, LONGEST_PAUSE)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            say.close()

    def be(self, child: Child, say: "connection.Connection[Any, Any]") -> None:
        """In the forked process: become `child`. Ends by SystemExit."""
        signal.set_wakeup_fd(-1)  # or our signals would wake the parent
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._lifeline)
        for end in (self._wake, self._woken, child.said):
            end.close()  # type: ignore[union-attr]
        stop = Stop(self.stop.seconds)
        stop.on_signals()
        stop.watch()
        threading.Thread(target=end_with_parent, args=[self._parent_lives], name="parent", daemon=True).start()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = child.work(stop, say.send)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except self.refusal as error:
            say.send(str(error) or type(error).__name__)
            code = REFUSED
        except Exception as error:
            log.error("%s failed", child.name, exc_info=error)
            code = FAILED
        sys.exit(code)

    def put_off(self, child: Child) -> None:
        """Say once that a worker has ended, and when it is started again."""
        served = 0.0 if child.serves_since is None else time.monotonic() - child.serves_since
        child.failures = 1 if served > STEADY else child.failures + 1
        seconds = pause(child.failures)
        child.due = time.monotonic() + seconds
        what = "has ended" if child.serves_since is not None else f"could not start: {child.reason or '-'}"
        words = "%s (process %d) %s (%s); it is started again in %g s"
        log.error(words, child.name, child.process.pid, what, child.how, seconds)
        child.forget()

    def given_up(self, child: Child) -> int:
        """The exit code of a process that has ended without serving, and of the service. Or `refusal`."""
        child.listen()
        code: int = child.process.exitcode
        reason, how = child.reason, child.how
        child.forget()
        if reason:
            raise self.refusal(reason)
        if code:
            log.error("%s could not start (%s): the service ends", child.name, how)
        return 128 - code if code < 0 else code  # as a shell has it

    # ------------------------------------------------------------ all of them

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C begin the stop, a second Ctrl-C hurries it; each ends `wait`."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.hurried = self.hurried or (number == signal.SIGINT and self.stop.began)
            self.stop.begin(number)

        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, handle)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def wait(self, seconds: float | None = None) -> None:
        """Until a process ends or says something, a signal comes, a start is due, or `seconds` are over."""
        alive = [child for child in self.children if child.process is not None]
        what: list[Any] = [self._wake, *(child.process.sentinel for child in alive)]
        if not self.stop.began:
            what += [child.said for child in alive]
            due = [child.due - time.monotonic() for child in self.children if child.process is None]
            seconds = max(0.0, min(due)) if due else seconds
        connection.wait(what, seconds)
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass

    def tell(self, number: int) -> None:
        for child in self.children:
            if child.process is not None and not child.ended:
                os.kill(child.process.pid, number)

    def end(self) -> int:
        """Stop all processes; the exit code. Each has the same budget and keeps it by itself: what is left half a
        second after it is not able to."""
        self.stop.begin()
        self.listening.close()  # the port is free when the workers have closed theirs, which is the first thing they do
        self.tell(signal.SIGTERM)  # who has it already, because a whole group was told, does not mind
        ends, told = time.monotonic() + self.stop.left() + RESERVE, False
        while alive := [child for child in self.children if child.process is not None]:
            if self.hurried and not told:
                told, ends = True, min(ends, time.monotonic() + HURRIED)
                self.tell(signal.SIGINT)
            if time.monotonic() >= ends:
                log.error("%s did not end by itself: killed", ", ".join(child.name for child in alive))
                self.tell(signal.SIGKILL)
                ends = float("inf")
            for child in alive:
                if child.ended:
                    child.forget()
            if any(child.process is not None for child in alive):
                self.wait(None if ends == float("inf") else max(0.0, ends - time.monotonic()))
        return 128 + self.stop.signal


def end_with_parent(parent_lives: int) -> None:
    """In a thread of a forked process: wait until the parent is gone, however that was; then stop in good order.

    A worker without a parent would keep the port, and nobody would start it again.
    """
    with contextlib.suppress(OSError):
        os.read(parent_lives, 1)
    log.error("the process that started this one is gone: it stops")
    os.kill(os.getpid(), signal.SIGTERM)
