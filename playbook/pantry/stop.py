"""One budget for an orderly stop: requests, mails and everything else share it, and then the process ends by itself.

Docker kills after ten seconds, and a kill loses what an orderly stop would still have saved. So the parts must not have
ten seconds each.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

SECONDS = 8.0  # the whole stop; Docker's `stop` kills after 10
RESERVE = 0.5  # seconds at the end for closing the engine and the sockets

log = logging.getLogger("uvicorn.error")


class Stop:
    """The budget of one stop, in seconds. It begins with the first signal, or when `begin` is called.

    When it is used up, the process is ended with the exit code of its signal, whatever still runs in it. A thread that
    waits for a mail server, or for a lock in the database, would otherwise hold the interpreter's exit.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.signal: int = signal.SIGTERM
        self._ends: float | None = None
        self._lock = threading.RLock()  # a signal may come while `begin` runs
        self._begun = threading.Event()

    @property
    def for_requests(self) -> float:
        """Seconds that requests get which are being answered when the stop begins: less than half, mails follow."""
        return self.seconds * 3 / 8

    @property
    def began(self) -> bool:
        return self._ends is not None

    def left(self) -> float:
        """Seconds that are left; all of them before the stop has begun."""
        return self.seconds if self._ends is None else max(0.0, self._ends - time.monotonic())

    def for_mails(self) -> float:
        """Seconds that the queued mails get: what is left, but for the reserve."""
        return max(0.0, self.left() - RESERVE)

    def begin(self, number: int | None = None) -> None:
        """Start the clock. Later calls change nothing: a supervisor may send its signal twice."""
        with self._lock:
            if self._ends is not None:
                return
            self.signal = number or self.signal
            self._ends = time.monotonic() + self.seconds
            self._begun.set()

    def hurry(self) -> None:
        """Spend what is left but for the reserve: for a second Ctrl-C."""
        self.begin()
        self._ends = min(self._ends or 0.0, time.monotonic() + RESERVE)

    def watch(self) -> None:
        """From `begin` on, end the process when the budget is used up. Call it in the process that is to be ended."""
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def _watch(self) -> None:
        self._begun.wait()
        while self.left() > 0:  # `hurry` may shorten it meanwhile
            time.sleep(0.05)
        log.error("the stop took all of its %g s: what still ran was ended", self.seconds)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(128 + self.signal)

    def on_signals(self) -> None:
        """Let SIGTERM and Ctrl-C begin the stop, then do what they did before. For the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)

            def handler(number: int, frame: FrameType | None, before: Any = before) -> None:
                self.begin(number)
                try:
                    if callable(before):
                        before(number, frame)
                except SystemExit:  # raised in the middle of a library's call it may come out as another error
                    sys.stdout.flush()
                    os._exit(128 + number)

            signal.signal(number, handler)
