"""Rollouts in lessons: a front that takes turns and waits, clients that count what fails, fleets and their picture."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Body, FastAPI, HTTPException

from playbook.foundations.engines import make_engine
from playbook.kit.live import serving
from playbook.kit.rollout import Fleet, Front, Traffic, picture, write_and_read


def test_requests_take_turns_and_a_server_is_removed_when_it_has_finished() -> None:
    front, removed, inside = Front(), threading.Event(), threading.Event()
    front.rotation += ["a", "b"]
    taken = []
    for number in range(4):
        with front.server(number) as url:
            taken.append(url)
    assert taken == ["a", "b", "a", "b"]

    def remove() -> None:
        inside.wait(60)
        front.remove("a")
        removed.set()

    thread = threading.Thread(target=remove)
    thread.start()
    with front.server(0) as url:
        assert url == "a"
        inside.set()
        while "a" in front.rotation:
            time.sleep(0.001)
        assert not removed.is_set(), "removed while it was busy"
        with front.server(2) as next_url:
            assert next_url == "b"
    assert removed.wait(60)
    thread.join()


def test_a_server_that_does_not_finish_is_an_error() -> None:
    front = Front()
    front.rotation.append("a")
    with front.server(0), pytest.raises(TimeoutError, match="1 requests"):
        front.remove("a", timeout=0.01)
    with pytest.raises(TimeoutError, match="no server"), front.server(0, timeout=0.01):
        pytest.fail("there is none")


def test_an_error_while_requests_are_held_lets_them_go_on() -> None:
    front = Front()
    front.rotation += ["a", "b"]
    with pytest.raises(RuntimeError), front.held():
        raise RuntimeError
    with front.server(1) as url:
        assert url == "b"


def test_who_comes_while_requests_are_held_waits_and_those_under_way_end_first() -> None:
    front, under_way, ends = Front(), threading.Barrier(2), threading.Event()
    front.rotation += ["a", "b"]
    seen: list[str] = []

    def before() -> None:
        with front.server(0):
            under_way.wait(60)
            ends.wait(60)
            seen.append("before")

    def meanwhile() -> None:
        while front.rotation:
            time.sleep(0.001)
        waiting.set()
        with front.server(1) as url:
            seen.append(url)

    waiting = threading.Event()
    threads = [threading.Thread(target=work) for work in (before, meanwhile)]
    for thread in threads:
        thread.start()
    under_way.wait(60)
    threading.Timer(0.05, ends.set).start()
    with front.held():
        assert waiting.wait(60)
        assert seen == ["before"]
        seen.append("held")
    for thread in threads:
        thread.join()
    assert seen == ["before", "held", "b"]


def test_an_error_frees_the_server() -> None:
    front = Front()
    front.rotation.append("a")
    with pytest.raises(RuntimeError), front.server(0):
        raise RuntimeError
    front.remove("a", timeout=0.01)


def store(get: Callable[[str, dict[str, str]], str | None], put_status: int = 200) -> FastAPI:
    """A service over a dictionary that answers reads with `get`."""
    app, rows = FastAPI(), dict[str, str]()

    @app.put("/packages/{name}")
    def put(name: str, license: str = Body(embed=True)) -> dict[str, str]:
        if put_status != 200:
            raise HTTPException(put_status)
        rows[name] = license
        return {"license": license}

    @app.get("/packages/{name}")
    def read(name: str) -> dict[str, str | None]:
        if name not in rows:
            raise HTTPException(404)
        return {"license": get(name, rows)}

    return app


@pytest.mark.parametrize(
    ("app", "failed"),
    [
        (lambda: store(lambda name, rows: rows[name]), 0),
        (lambda: store(lambda name, rows: "MIT"), 2),
        (lambda: store(lambda name, rows: None), 2),
        (lambda: store(lambda name, rows: rows[name], 500), 1),
    ],
    ids=["right", "stale", "null", "refused"],
)
def test_traffic_counts_what_fails_in_each_round(app: Callable[[], FastAPI], failed: int) -> None:
    front = Front()
    with serving(app()) as client:
        front.rotation.append(str(client.base_url))
        with Traffic(front, clients=3) as traffic:
            assert traffic.flow(5) == (5 * 3 * failed, 5 * 3 * 3)
            assert traffic.flow(2) == (2 * 3 * failed, 2 * 3 * 3)
    assert not any(thread.is_alive() for thread in traffic.threads)


def test_a_server_that_is_not_there_fails_every_request() -> None:
    front = Front()
    with serving(store(lambda name, rows: rows[name])) as client:
        front.rotation.append(str(client.base_url))
    with Traffic(front) as traffic:
        assert traffic.flow(3) == (18, 18)
    assert {failure for done in traffic.rounds for failed in done for failure in failed} == {
        "PUT ConnectError",
        "GET ConnectError",
    }


def test_each_of_two_servers_writes_and_each_reads_it() -> None:
    """Two stores that know nothing of each other: whatever one writes, the other does not have."""
    front = Front()
    with serving(store(lambda name, rows: rows[name])) as one, serving(store(lambda name, rows: rows[name])) as two:
        front.rotation += [str(one.base_url), str(two.base_url)]
        with httpx.Client(trust_env=False, timeout=60) as http:
            assert write_and_read(http, front, 0, {}, "a") == ["GET 404"]
            assert write_and_read(http, front, 3, {}, "b") == ["GET 404"]


# ---------------------------------------------------------------- fleets


@pytest.fixture
def packages(url: str) -> sa.Engine:
    engine = make_engine(url)
    return engine


def fleet_of(engine: sa.Engine) -> Fleet:
    """Two releases of a store that is right, on one dictionary."""
    app = store(lambda name, rows: rows[name])
    fleet = Fleet(engine, {"1": lambda: app, "2": lambda: app}, clients=2)
    fleet.callback(engine.dispose)
    return fleet


def test_a_fleet_notes_who_serves_and_what_there_is(packages: sa.Engine) -> None:
    with fleet_of(packages) as fleet:
        with packages.begin() as connection:
            connection.execute(sa.text("CREATE TABLE packages (name VARCHAR, b VARCHAR, a VARCHAR)"))
        fleet.start("1")
        fleet.replace("2")
        fleet.look(rounds=1)
        said = [(moment["serving"], moment["columns"], moment["failed"]) for moment in fleet.seen]
    assert said == [("1", "a and b", "0 of 12"), ("1 and 2", "a and b", "0 of 12"), ("2", "a and b", "0 of 6")]
    assert (fleet.failures(), fleet.running) == ([], {})


def test_a_fleet_counts_rows_that_say_something_else(packages: sa.Engine) -> None:
    with fleet_of(packages) as fleet:
        with packages.begin() as connection:
            connection.execute(sa.text("CREATE TABLE packages (name VARCHAR, license VARCHAR)"))
        fleet.start("1")
        fleet.look()
        assert fleet.wrong_rows("license") >= 2, "the store keeps its rows elsewhere"
        assert fleet.failures() == []


def test_requests_are_held_on_duckdb_only(packages: sa.Engine) -> None:
    with fleet_of(packages) as fleet:
        fleet.start("1")
        with fleet.quiet():
            assert bool(fleet.front.rotation) == (packages.dialect.name == "postgresql")
        assert fleet.front.rotation


def test_a_picture_has_a_bar_for_each_state_and_release() -> None:
    seen = [{"serving": "0", "columns": "a"}, {"serving": "0 and 1", "columns": "a"}, {"serving": "1", "columns": "b"}]
    assert str(picture(seen)).splitlines()[3:] == [
        "  section columns",
        "  a : 2026-01-01, 2d",
        "  b : 2026-01-03, 1d",
        "  section releases",
        "  release 0 : 2026-01-01, 2d",
        "  release 1 : 2026-01-02, 2d",
    ]
