"""What the recipe promises, over a queue of its own and senders that hold and fail. Needs pytest, nothing else."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from playbook.auth.mail_threads import Postbox, Queue, may_go


class Item:
    """Something to send: its destination is the letter before the first dash."""

    def __init__(self, mail: Any) -> None:
        self.mail, self.destination, self.due, self.attempts = mail, str(mail).partition("-")[0], 0.0, 0


class Line:
    """First in, first out; an attempt that raises is repeated after `pause` seconds."""

    def __init__(self, capacity: int = 1000, pause: float = 0.0) -> None:
        self.capacity, self.pause, self.attempts = capacity, pause, 8
        self.lock = threading.RLock()
        self.waiting, self.under_way = list[Any](), list[Any]()
        self.sent, self.lost = list[Any](), list[tuple[Any, str]]()

    @property
    def full(self) -> bool:
        return len(self.waiting) + len(self.under_way) >= self.capacity

    def clock(self) -> float:
        return time.monotonic()

    def enter(self, mail: Any) -> Item:
        self.waiting.append(Item(mail))
        return self.waiting[-1]  # type: ignore[no-any-return]

    def add(self, mail: Any) -> Any:
        full, item = self.full, self.enter(mail)
        return self.lose(item, "full") if full else None

    def due(self) -> list[Any]:
        return [item for item in self.waiting if item.due <= self.clock()]

    def take(self, queued: Any) -> None:
        self.waiting.remove(queued)
        self.under_way.append(queued)

    def lose(self, queued: Any, why: str) -> Any:
        self.waiting.remove(queued)
        self.lost.append((queued.mail, why))
        return queued.mail

    def attempt(self, queued: Any, sender: Any) -> None:
        queued.attempts += 1
        try:
            sender.send(queued.mail)
        except OSError:
            with self.lock:
                self.under_way.remove(queued)
                self.waiting.append(queued)
                queued.due = self.clock() + self.pause
                if queued.attempts >= self.attempts:
                    self.lose(queued, "given up")
            return
        with self.lock:
            self.under_way.remove(queued)
            self.sent.append(queued.mail)


class Sender:
    """Notes what it is given. Raises `errors` in turn, and holds mails to `held` destinations until `go_on`."""

    def __init__(self, *errors: Exception, held: str = "") -> None:
        self.errors, self.held, self.mails = list(errors), held, list[Any]()
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()

    def send(self, mail: Any) -> None:
        self.entered.release()
        if str(mail)[0] in self.held:
            assert self.go_on.wait(60)
        if self.errors:
            raise self.errors.pop(0)
        self.mails.append(mail)


@contextmanager
def posting(sender: Sender, queue: Any = None, **options: Any) -> Iterator[Postbox]:
    postbox = Postbox(sender, Line() if queue is None else queue, **options)
    try:
        yield postbox
    finally:
        sender.go_on.set()
        postbox.close(60)


def until(reached: Any) -> None:
    while not reached():
        time.sleep(0.001)


def test_the_test_s_queue_is_one() -> None:
    assert isinstance(Line(), Queue)


def test_post_does_not_wait_for_the_sender() -> None:
    sender = Sender(held="abc")
    with posting(sender) as postbox:
        for number in range(100):
            assert postbox.post(f"{'abc'[number % 3]}-{number}") is None
        assert sender.mails == []
        sender.go_on.set()
        assert postbox.drain(60)
    assert len(sender.mails) == 100


def test_a_destination_that_never_answers_holds_half_of_the_threads() -> None:
    sender = Sender(held="m")
    with posting(sender) as postbox:
        for number in range(20):
            postbox.post(f"m-{number}")
        for number in range(20):
            postbox.post(f"{number}-x")
        until(lambda: len(sender.mails) == 20 and len(postbox.queue.under_way) == 2)
        assert {item.destination for item in postbox.queue.under_way} == {"m"}


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_the_share_of_a_destination(threads: int, most: int) -> None:
    due, under_way = [Item("m-1"), Item("a-1"), Item("m-2")], [Item("m-0")] * (most - 1)
    assert may_go(due, under_way, threads) == due
    assert may_go(due, [*under_way, Item("m-0")], threads) == [due[1]]


def test_all_threads_work_and_no_more() -> None:
    sender = Sender(held="abcdef")
    with posting(sender) as postbox:
        for letter in "abcdef":
            postbox.post(f"{letter}-1")
        assert all(sender.entered.acquire(timeout=60) for _ in range(4))
        assert not sender.entered.acquire(blocking=False)
        assert (postbox.running, len(postbox.queue.waiting)) == (4, 2)


def test_a_pause_gives_its_thread_back_and_ends() -> None:
    sender, queue = Sender(OSError()), Line(pause=3600)
    with posting(sender, queue, threads=1) as postbox:
        postbox.post("m-1")
        until(lambda: not sender.errors)
        postbox.post("a-1")
        until(lambda: sender.mails)
        assert sender.mails == ["a-1"]
        assert not postbox.drain(0.0), "the other one waits for its next attempt"
    sender = Sender(OSError())
    with posting(sender, Line(pause=0.01)) as postbox:
        postbox.post("m-1")
        assert postbox.drain(60), "nobody posts: the thread wakes by itself"


def test_a_full_queue_says_what_is_lost() -> None:
    sender = Sender(held="a")
    with posting(sender, Line(capacity=1)) as postbox:
        assert not postbox.full
        assert postbox.post("a-1") is None
        assert postbox.full
        assert postbox.post("a-2") == "a-2"


def test_closing_sends_the_rest_without_pauses_and_takes_no_more() -> None:
    sender, queue = Sender(OSError(), OSError()), Line(pause=3600)
    postbox = Postbox(sender, queue)
    for number in range(2):
        postbox.post(f"{number}-x")
    until(lambda: not sender.errors and len(queue.waiting) == 2)
    assert postbox.close(60)
    assert sorted(sender.mails) == ["0-x", "1-x"]
    assert postbox.full
    assert postbox.post("2-x") == "2-x"
    assert (queue.lost, postbox.close(60)) == ([("2-x", "dropped, closed")], True), "twice is once"


def test_at_the_stop_each_mail_is_tried_once_more() -> None:
    sender, queue = Sender(*[OSError() for _ in range(9)]), Line(pause=3600)
    postbox = Postbox(sender, queue)
    postbox.post("a-1")
    until(lambda: len(sender.errors) == 8 and queue.waiting)
    assert postbox.close(60)
    assert (len(sender.errors), queue.lost) == (7, [("a-1", "given up")])


def test_closing_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    sender, queue = Sender(held="a"), Line()
    with posting(sender, queue, threads=1) as postbox:
        for number in range(4):
            postbox.post(f"a-{number}")
        assert sender.entered.acquire(timeout=60)
        assert not postbox.close(0.01)
        assert queue.lost == [(f"a-{number}", "lost, the service stops") for number in (1, 2, 3)]
        assert "still being sent: 1" in caplog.text
    assert sender.mails == ["a-0"]


def test_many_threads_post_and_nothing_is_lost() -> None:
    sender = Sender()
    with posting(sender, Line(10_000), threads=3) as postbox:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: postbox.post(f"{n % 50}-{n}"), range(1000)))
        assert postbox.drain(60)
    assert len(sender.mails) == 1000


def test_a_thread_that_goes_is_seen_by_who_posts_next() -> None:
    sender = Sender()
    with posting(sender, threads=2) as postbox:
        for number in range(1000):
            postbox.post(f"a-{number}")
            assert postbox.drain(60)
    assert len(sender.mails) == 1000


@pytest.mark.parametrize("threads", [0, -1])
def test_a_postbox_without_threads_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        Postbox(Sender(), Line(), threads=threads)


def test_a_shop_closes_its_postbox_when_it_stops() -> None:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state.postbox = Postbox(app.state.sender, app.state.queue, threads=8)
        yield
        await asyncio.to_thread(app.state.postbox.close, 7)

    def place_order(postbox: Postbox, order: dict[str, str]) -> int:
        if postbox.full:
            return 503  # to everybody, before anything is looked up
        postbox.post(order)
        return 201

    class App:
        class state:
            sender, queue = Sender(), Line()
            postbox: Any = None

    async def serve() -> list[int]:
        async with lifespan(App):
            answers = [place_order(App.state.postbox, {"item": str(number)}) for number in range(3)]
        return [*answers, place_order(App.state.postbox, {"item": "late"})]

    assert asyncio.run(serve()) == [201, 201, 201, 503]
    assert len(App.state.sender.mails) == 3
