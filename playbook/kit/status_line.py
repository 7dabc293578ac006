"""How far long work has come: one line of stderr, written again in place. Only a terminal gets it.

rich's bar is not used: it redirects stdout, so that results and progress would go to one stream, and it does not say
which pages are being worked on.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Self

TICK_SECONDS = 1.0
COLUMNS = 80  # where the terminal does not tell
CLEAR = "\r\x1b[2K"


def elapsed(seconds: float) -> str:
    """`65` as `1 min 05 s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class Progress:
    """`3 of 43 · 1 min 05 s · auth/mail, auth/sign_in`, until the block ends. Any thread may report."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total = total
        self.done = 0
        self._working: list[str] = []
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._shown = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Self:
        if self._shown:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over.set()
            self._write(CLEAR)

    def begin(self, name: str) -> None:
        """Say that `name` is being worked on."""
        with self._lock:
            self._working.append(name)
            self._draw()

    def end(self, name: str) -> None:
        """Say that `name` is done."""
        with self._lock:
            self.done += 1
            if name in self._working:
                self._working.remove(name)
            self._draw()

    def step(self, name: str) -> None:
        """Say that `name` is being worked on, and that what was before it is done."""
        with self._lock:
            for before in list(self._working):
                self.end(before)
            self.begin(name)

    @contextmanager
    def above(self) -> Iterator[None]:
        """What is printed in the block stands above the line."""
        with self._lock:
            self._write(CLEAR)
            try:
                yield
            finally:
                sys.stdout.flush()
                self._draw()

    def _tick(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if self._shown and not self._over.is_set():
            parts = [f"{self.done} of {self.total}", elapsed(time.monotonic() - self._began), ", ".join(self._working)]
            line = " · ".join(part for part in parts if part)
            self._write(CLEAR + line[: _columns() - 1])

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()


class Filling(Progress):
    """The progress of the first load of a catalogue, by its steps; without a terminal one line says that it began."""

    WORDS: ClassVar = {"read": "reading the catalogue", "packages": "storing packages", "releases": "storing releases"}

    def __init__(self) -> None:
        super().__init__(len(self.WORDS))

    def step(self, name: str) -> None:
        """A step of `load_catalog`; "done" ends the last one. A conflict begins with "read" again."""
        if name == "read":
            self.done = 0
            if not self._shown:
                print("the database is empty: loading the catalogue", file=sys.stderr, flush=True)
        if name in self.WORDS:
            super().step(self.WORDS[name])


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except (OSError, ValueError):
        return COLUMNS
