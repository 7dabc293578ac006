"""What the recipe promises, with the orders of a shop on SQLite. Needs pytest, hypothesis, fastapi, httpx."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.production.performance import (
    StatementLog,
    compare,
    note_statements,
    open_loop,
    percentile,
    sent,
    take_turns,
)

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing that is due: no test waits, none depends on the machine."""

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


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def service(took: float, stall: tuple[float, float] = (0, 0)) -> Callable[[], Awaitable[bool]]:
    """Answers one request after the other, none during the stall."""
    free = 0.0

    async def send() -> bool:
        nonlocal free
        now = asyncio.get_running_loop().time()
        begin = max(now, free)
        free = (stall[1] if stall[0] <= begin < stall[1] else begin) + took
        await asyncio.sleep(free - now)
        return True

    return send


# ---------------------------------------------------------------- the load


def test_a_service_that_keeps_up_shows_its_own_time() -> None:
    latencies = run(open_loop(service(0.01), rate=50, seconds=10))
    assert len(latencies) == 500
    assert latencies == pytest.approx([0.01] * 500)


def test_a_stall_touches_everybody_who_came_meanwhile() -> None:
    latencies = run(open_loop(service(0.01, stall=(3, 4)), rate=50, seconds=10))
    assert sum(latency > 0.011 for latency in latencies) == 100
    assert max(latencies) == pytest.approx(1.01)


def test_a_service_that_is_too_slow_gets_slower_and_slower() -> None:
    """Twice the requests that it can answer: the last one waits for half of the time."""
    latencies = run(open_loop(service(0.02), rate=100, seconds=10))
    assert latencies == sorted(latencies)
    assert latencies[-1] == pytest.approx(10, rel=0.01)


def test_a_failure_is_infinitely_slow_and_stops_nothing() -> None:
    number = 0

    async def send() -> bool:
        nonlocal number
        number += 1
        if number == 3:
            raise ConnectionError
        return number != 5

    latencies = run(open_loop(send, rate=10, seconds=1))
    assert [math.isinf(latency) for latency in latencies] == [False, False, True, False, True] + [False] * 5


def test_who_gives_up_ends_all_requests() -> None:
    running = 0

    async def never() -> bool:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
        return True

    async def story() -> int:
        task = asyncio.create_task(open_loop(never, rate=10, seconds=1))
        await asyncio.sleep(2)
        assert running == 10
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return running

    assert run(story()) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=2000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_a_latency_that_the_part_does_not_exceed(latencies: list[float], part: float) -> None:
    found = percentile(latencies, part)
    if found is None:
        assert len(latencies) * (1 - part) < 5.001
        return
    assert found in latencies
    assert sum(latency <= found for latency in latencies) >= part * len(latencies) - 1e-6
    assert sum(latency < found for latency in latencies) < part * len(latencies) + 1e-6


@pytest.mark.parametrize(("count", "part"), [(9, 0.5), (49, 0.9), (499, 0.99)])
def test_too_few_for_a_percentile(count: int, part: float) -> None:
    assert percentile([1.0] * count, part) is None
    assert percentile([1.0] * (count + 1), part) == 1.0


# ---------------------------------------------------------------- the statements

orders = sa.Table("orders", sa.MetaData(), sa.Column("number", sa.Integer), sa.Column("secret", sa.String))


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    orders.create(engine)
    with engine.begin() as db:
        db.execute(orders.insert(), [{"number": number, "secret": "hunter2"} for number in range(3)])
    note_statements(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def counted() -> list[tuple[str, Counter[str]]]:
    return []


@pytest.fixture
def client(engine: sa.Engine, counted: list[tuple[str, Counter[str]]]) -> Iterator[TestClient]:
    app = FastAPI()

    @app.get("/orders")
    def list_orders() -> int:
        with engine.connect() as db:
            numbers = db.scalars(sa.select(orders.c.number)).all()
            db.execute(sa.select(orders.c.secret).where(orders.c.secret == "hunter2"))
        return len(numbers)

    @app.get("/orders/{number}")
    async def read_order(number: int) -> int:
        for _ in range(number):
            with engine.connect() as db:
                db.execute(sa.select(orders.c.number).where(orders.c.number == number))
        if number == 2:
            raise RuntimeError("a bug")
        return number

    with TestClient(StatementLog(app, lambda *told: counted.append(told)), raise_server_exceptions=False) as client:
        yield client


def test_the_list_of_orders_sends_two_statements(client: TestClient, counted: list[tuple[str, Counter[str]]]) -> None:
    client.get("/orders")
    [(route, statements)] = counted
    assert route == "GET /orders"
    assert statements.total() == 2, statements.most_common(1)


def test_each_request_is_counted_for_itself_also_one_that_fails(client: TestClient, counted: list[Any]) -> None:
    statuses = [client.get(path).status_code for path in ("/orders/3", "/orders/2", "/orders/0", "/nothing")]
    assert statuses == [200, 500, 200, 404]
    one = "GET /orders/{number}"
    assert [(route, texts.total()) for route, texts in counted] == [(one, 3), (one, 2), (one, 0), ("GET no route", 0)]
    assert len(counted[0][1]) == 1


def test_no_value_is_told(client: TestClient, counted: list[Any]) -> None:
    client.get("/orders")
    assert "hunter2" not in str(counted)


def test_what_is_sent_outside_of_a_request_is_nobody_s(engine: sa.Engine, client: TestClient, counted: Any) -> None:
    with engine.connect() as db:
        db.execute(sa.select(orders))
    assert (sent.get(), counted) == (None, [])


def test_a_task_of_the_lifespan_fills_no_list() -> None:
    """Such a task lives as long as the process, and its list would, too."""
    seen: list[list[str] | None] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def look() -> None:
            seen.append(sent.get())

        await asyncio.create_task(look())
        yield

    told: list[Any] = []
    with TestClient(StatementLog(FastAPI(lifespan=lifespan), lambda *one: told.append(one))):
        pass
    assert (seen, told) == ([None], [])


# ---------------------------------------------------------------- the comparison


def test_works_take_turns_and_every_second_round_goes_backwards() -> None:
    done: list[str] = []
    works = {name: lambda name=name: done.append(name) for name in "abc"}
    taken = take_turns(works, rounds=4, clock=iter(range(100)).__next__)
    assert "".join(done) == "abc" + "cba" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in taken.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_machine_that_slows_down_favours_nobody() -> None:
    slower = (number**2 for number in range(1000))
    taken = take_turns({"a": list, "b": list, "c": list}, clock=lambda: next(slower))
    assert len({sum(times) for times in taken.values()}) == 1


def test_a_constant_difference_is_one() -> None:
    ratio, chance = compare([5.0] * 6, [4.0] * 6)
    assert ratio == pytest.approx(0.8)
    assert chance == 2 / 64


ROUNDS = st.lists(st.floats(0.1, 10), min_size=6, max_size=8)


@settings(deadline=None, max_examples=30)
@given(ROUNDS, st.randoms(use_true_random=False))
def test_both_directions_agree_and_equal_times_are_chance(times: list[float], random: Any) -> None:
    other = random.sample(times, len(times))
    (there, chance), (back, chance_back) = compare(times, other), compare(other, times)
    assert chance == chance_back
    assert 0 < chance <= 1
    assert compare(times, times) == (1.0, 1.0)
    if len(times) % 2:
        assert there * back == pytest.approx(1)


def test_chance_is_what_it_says() -> None:
    """Of many comparisons of a thing with itself about one in twenty is below 0.05."""
    from random import Random

    draw = Random(7)
    runs = [[[draw.lognormvariate(0, 0.3) for _ in range(8)] for _ in range(2)] for _ in range(200)]
    below = sum(compare(before, after)[1] < 0.05 for before, after in runs)
    assert 3 <= below <= 20


@pytest.mark.parametrize("count", [0, 5, 15])
def test_too_few_or_too_many_rounds(count: int) -> None:
    with pytest.raises(ValueError, match="6 to 14 rounds"):
        compare([1.0] * count, [2.0] * count)


@pytest.mark.parametrize("time", [0, 0.0])
def test_a_round_shorter_than_a_tick_of_the_clock(time: float) -> None:
    with pytest.raises(ValueError, match="a tick of the clock"):
        compare([1.0] * 6, [1.0] * 5 + [time])


def test_rounds_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([1.0] * 6, [2.0] * 7)
