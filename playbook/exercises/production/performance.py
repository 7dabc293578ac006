"""The exercise of the page "Performance": checker, hints, wrong answers; and what the page's stage needs."""

import asyncio
import base64
import io
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from types import FrameType
from typing import Any, TypeVar

import sqlalchemy as sa
from fastapi import FastAPI

from playbook.foundations.engines import make_engine
from playbook.kit.display import Shown
from playbook.kit.exercises import checker

T = TypeVar("T")

# ---------------------------------------------------------------- time that a page can repeat


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing that is due, so that nobody waits and nothing varies."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            self.now += timeout or 0
            return select(0 if timeout else timeout)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def _run(coroutine: Coroutine[Any, Any, T], loop: Any = None) -> T:
    def work() -> T:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(coroutine)

    with ThreadPoolExecutor(1) as thread:  # a notebook's thread has a loop already
        return thread.submit(work).result()


def in_virtual_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop whose clock jumps over each wait."""
    return _run(coroutine, _VirtualLoop)


def in_a_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop in a thread of its own."""
    return _run(coroutine)


def stalling(took: float = 0.01, stall: tuple[float, float] = (3, 4)) -> Callable[[], Awaitable[bool]]:
    """A service that answers one request after the other, each in `took` seconds, and none during the stall."""
    free = 0.0

    async def send() -> bool:
        nonlocal free
        now = asyncio.get_running_loop().time()
        begin = max(now, free)
        if stall[0] <= begin < stall[1]:
            begin = stall[1]
        free = begin + took
        await asyncio.sleep(free - now)
        return True

    return send


# ---------------------------------------------------------------- the slow page

metadata = sa.MetaData()
packages = sa.Table("packages", metadata, sa.Column("name", sa.String))
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("package", sa.String),
    sa.Column("version", sa.Integer),
)
NAMES = sa.select(packages.c.name).order_by(packages.c.name)
LATEST = sa.func.max(releases.c.version).label("latest")
TEMPLATE: dict[str, Any] = {
    "name": None,
    "latest": None,
    "classifiers": {f"Topic :: {number}": {"set": False, "by": None} for number in range(800)},
}


def catalogue(url: str) -> sa.Engine:
    """An engine for `url`, with 20 packages of 30 releases each."""
    engine = make_engine(url)
    metadata.create_all(engine)
    names = [f"package-{number:02}" for number in range(20)]
    with engine.begin() as db:
        db.execute(releases.delete())
        db.execute(packages.delete())
        db.execute(packages.insert(), [{"name": name} for name in names])
        rows = [{"package": name, "version": version} for name in names for version in range(30)]
        db.execute(releases.insert(), rows)
    return engine


def with_engine(engine: sa.Engine, listed: Callable[[sa.Connection], T]) -> Callable[[], T]:
    """`listed` as work without arguments."""

    def work() -> T:
        with engine.connect() as db:
            return listed(db)

    return work


def app_of(engine: sa.Engine, listed: Callable[[sa.Connection], Any]) -> FastAPI:
    """A service whose GET /packages is `listed`."""
    app = FastAPI()
    app.get("/packages")(with_engine(engine, listed))
    return app


# ---------------------------------------------------------------- pictures


class Picture(Shown):
    """An image for a notebook, its title for a script."""

    def __init__(self, title: str, figure: Any) -> None:
        super().__init__(title, title)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.png = file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {
            "text/plain": self.text,
            "image/png": base64.b64encode(self.png).decode("ascii"),
        }


def _figure(height: float) -> Any:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports where its font cache is
    from matplotlib.figure import Figure

    return Figure(figsize=(7, height), dpi=80, layout="constrained")


def stacks_of(work: Callable[[], object], seconds: float = 0.3, every: float = 0.002) -> Counter[tuple[str, ...]]:
    """How often each stack of functions was found in `work()`, which is repeated for `seconds` of processor time.

    A signal interrupts this thread after each `every` seconds of processor time. Another thread that looks at this one
    would do on Windows only: it gets its turn when this one lets go of the interpreter, in a statement say, and so it
    finds hardly anything else.
    """
    found: Counter[tuple[str, ...]] = Counter()
    top: Any = work.__code__

    def look(number: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None and frame.f_code is not top:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        if frame is not None:
            found[(top.co_name, *reversed(names))] += 1

    until = time.process_time() + seconds
    with _interrupted(look, every):
        while time.process_time() < until or not found:
            work()
    return found


@contextmanager
def _interrupted(look: Callable[[int, FrameType | None], None], every: float) -> Iterator[None]:
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, every, every)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        return
    this, done = threading.get_ident(), threading.Event()

    def repeat() -> None:
        while not done.wait(every):
            look(0, sys._current_frames().get(this))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def flame_graph(work: Callable[[], object], deepest: int = 7) -> Picture:
    """Where `work` spends its time: each bar is a function, as wide as its part of the time, above its caller."""
    stacks = stacks_of(work)
    figure = _figure(3.2)
    axes = figure.subplots()
    total = sum(stacks.values())

    def draw(level: int, left: float, those: Mapping[tuple[str, ...], int]) -> None:
        groups: dict[str, dict[tuple[str, ...], int]] = {}
        for stack, count in those.items():
            if len(stack) > level:
                groups.setdefault(stack[level], {})[stack] = count
        for name, group in sorted(groups.items()):
            width = sum(group.values()) / total * 100
            axes.barh(
                level,
                width,
                left=left,
                height=0.92,
                color=f"C{1 + sum(map(ord, name)) % 5}",
                edgecolor="white",
            )
            if width > 1.3 * len(name):
                axes.text(left + width / 2, level, name, ha="center", va="center", fontsize=8)
            if level < deepest:
                draw(level + 1, left, group)
            left += width

    draw(0, 0, stacks)
    axes.set(xlabel="part of the time (%)", xlim=(0, 100), yticks=[])
    return Picture("[picture: a flame graph, the time of each function above its caller]", figure)


def before_and_after(rounds: Mapping[str, Sequence[float]]) -> Picture:
    """A row for each variant: its rounds as dots, their median as a line. Processor time in milliseconds."""
    figure = _figure(0.9 + 0.55 * len(rounds))
    axes = figure.subplots()
    for row, seconds in enumerate(rounds.values()):
        axes.scatter([1000 * one for one in seconds], [row] * len(seconds), s=18, alpha=0.6)
        axes.plot([1000 * median(seconds)] * 2, [row - 0.3, row + 0.3], color="black")
    axes.set(xlabel="processor time of one list (ms)", xlim=(0, None))
    axes.set_yticks(range(len(rounds)), list(rounds))
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    return Picture("[picture: the rounds of each variant, and their medians]", figure)


# Milliseconds of processor time of one `POST /packages`, recorded by `playbook bench ordinary` on a machine with two
# cores and nine users: eight rounds before a change, after it, and of the version of before in a second process.
RECORDED: dict[str, tuple[float, ...]] = {
    "before": (4.87, 5.20, 5.40, 4.20, 4.27, 3.93, 5.33, 6.93),
    "after": (3.67, 3.53, 3.20, 3.33, 3.47, 3.47, 4.00, 4.00),
    "itself": (5.07, 5.33, 5.07, 5.93, 4.33, 4.73, 5.60, 6.53),
}


# ---------------------------------------------------------------- the exercise

HINTS = (
    "Look at the four numbers above. While the client waited for the answer of 1,000 ms,\n"
    "when would the next requests have been sent? How long would each have waited?",
    "A latency that is longer than the pause stands for several: itself, one pause less,\n"
    "two pauses less, and so on, as long as something is left.",
)

WRONG = (
    # each of the missing requests waits as long as the first
    """
def corrected(latencies, pause):
    found = []
    for latency in latencies:
        found += [latency] * max(1, int(latency / pause))
    return found
""",
    # the waits alone
    """
def corrected(latencies, pause):
    found = []
    for latency in latencies:
        left = latency - pause
        while left > 0:
            found.append(left)
            left -= pause
    return found
""",
    # one missing request
    """
def corrected(latencies, pause):
    found = []
    for latency in latencies:
        found.append(latency)
        if latency > pause:
            found.append(latency - pause)
    return found
""",
    # requests that were due when the answer came, or later
    """
def corrected(latencies, pause):
    found = []
    for latency in latencies:
        found.append(latency)
        left = latency - pause
        while left > -pause:
            found.append(left)
            left -= pause
    return found
""",
)


@checker
def check(corrected: Any) -> str:
    """Latencies in milliseconds, with and without a stall."""
    quick = [10, 12, 20]
    if sorted(corrected(list(quick), 20)) != quick:
        return "not yet: nobody was kept waiting here (10, 12, 20 with a pause of 20), so nothing is missing"
    found = sorted(corrected([100], 20))
    if 100 not in found:
        return "not yet: the latency that was measured has gone"
    if found[0] <= 0:
        return f"not yet: one of the waits is {found[0]}: a request that was due when the answer came waits for nothing"
    if len(found) < 5:
        return f"not yet: in 100 ms, with a pause of 20, more than {len(found)} requests were due"
    if found != [20, 40, 60, 80, 100]:
        return f"not yet: they came one by one, so their waits differ. Yours of 100 with a pause of 20: {found}"
    if sorted(corrected([5, 100, 30], 40)) != [5, 20, 30, 60, 100]:
        return "not yet: look at 5, 100 and 30 with a pause of 40"
    given = [100]
    corrected(given, 20)
    if given != [100]:
        return "not yet: the list that was given has changed"
    return "right"
