"""What the recipe promises, of real processes that get real signals. Needs pytest and httpx, nothing else."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playbook.foundations.start_and_stop import DrainingServer, Health, Probe, StopTimes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
MODULE = Probe.__module__
PROGRAM = """
import sys, threading, time
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from MODULE import Health, StopTimes, serve

finished = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), finished.set()), daemon=True).start()

def work(request):
    return PlainTextResponse("done")

def wait(request):
    sys.stderr.write("waiting\\n")  # print would write the end of the line by itself
    finished.wait(60)
    return PlainTextResponse("done")

health = Health({})
app = Starlette(routes=[Route(f"/{e.__name__}", e) for e in (work, wait, health.live, health.ready)])
serve(app, health, StopTimes(TIMES), port=0, access_log=False)
"""


class Shop:
    """A process of its own that serves the program above."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.url = self.line_with("running on").split("running on ")[1].split()[0]

    def line_with(self, word: str) -> str:
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if word in line)

    def get(self, path: str) -> int | str:
        """The status, or the name of the error."""
        try:
            return httpx.get(self.url + path, timeout=60, trust_env=False, verify=False).status_code
        except httpx.TransportError as error:
            return type(error).__name__

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def shop(times: str) -> Iterator[Shop]:
    program = PROGRAM.replace("MODULE", MODULE).replace("TIMES", times)
    path = os.pathsep.join([str(Path.cwd()), *sys.path])
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, env=os.environ | {"PYTHONPATH": path})
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        yield Shop(process)
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            assert stream is not None
            stream.close()


def test_sigterm_loses_no_request() -> None:
    """Clients send requests as long as the balancer sees green; the port closes only after it has seen red."""
    red = threading.Event()

    def client(_: int) -> list[int | str]:
        statuses: list[int | str] = []
        while not red.is_set() or not statuses:
            statuses.append(running.get("/work"))
        return statuses

    with shop("notice=60, total=90") as running, ThreadPoolExecutor(8) as threads:
        in_flight = [threads.submit(running.get, "/wait") for _ in range(4)]
        for _ in in_flight:
            running.line_with("waiting")
        clients = [threads.submit(client, number) for number in range(4)]
        assert running.get("/ready") == 200
        running.process.send_signal(signal.SIGTERM)
        while running.get("/ready") == 200:
            pass
        assert [running.get("/work") for _ in range(5)] == [200] * 5, "it serves on while /ready is red"
        running.process.send_signal(signal.SIGTERM)  # a supervisor may send it twice
        assert running.get("/ready") == 503
        assert running.get("/live") == 200
        red.set()
        answers = [status for each in clients for status in each.result()]
        running.process.send_signal(signal.SIGINT)  # ends the notice
        running.finish()
        answers += [each.result() for each in in_flight]
        assert set(answers) == {200}, f"lost among {len(answers)} requests"
        assert len(answers) >= 8
        assert running.process.wait(60) == 0
        assert running.get("/work") == "ConnectError"


def test_the_process_ends_by_itself_after_the_notice() -> None:
    with shop("notice=0.2, finish=5, total=60") as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0


def test_a_thread_that_hangs_ends_with_the_budget() -> None:
    with shop("notice=0.1, finish=1, total=2.0") as running, ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(running.get, "/wait")
        running.line_with("waiting")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 1
        assert hanging.result() != 200


def test_a_second_sigterm_gives_no_more_time() -> None:
    server = DrainingServer(uvicorn.Config(Starlette()), Health({}), StopTimes(60, 5, 90))
    before = signal.getsignal(signal.SIGALRM)
    try:
        server.handle_exit(signal.SIGTERM, None)
        left, closes_at = signal.getitimer(signal.ITIMER_REAL)[0], server._closes_at
        server.handle_exit(signal.SIGTERM, None)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= left, "the alarm was set again"
        assert server._closes_at == closes_at, "the notice began again"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def endpoints(health: Health) -> TestClient:
    app = Starlette()
    app.add_route("/live", health.live)
    app.add_route("/ready", health.ready)
    return TestClient(app)


def fail() -> None:
    raise OSError("no such host")


def test_only_readiness_depends_on_the_checks() -> None:
    client = endpoints(Health({"database": fail, "disk": lambda: True}, seconds=30))
    assert client.get("/live").status_code == 200
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["failing"] == ["database"]
    assert "host" not in answer.text, "no cause is told"


def test_without_a_failing_check_it_is_ready_again() -> None:
    broken = threading.Event()
    broken.set()
    client = endpoints(Health({"database": lambda: fail() if broken.is_set() else None}, seconds=30))
    assert client.get("/ready").status_code == 503
    broken.clear()
    assert client.get("/ready").status_code == 200
    assert endpoints(Health({})).get("/ready").status_code == 200


def test_a_check_that_hangs_is_red_and_runs_once() -> None:
    repaired, runs = threading.Event(), []

    def hang() -> None:
        runs.append(1)
        repaired.wait(60)

    client = endpoints(Health({"mail": hang}, seconds=0.05))
    for _ in range(3):
        assert client.get("/ready").json()["failing"] == ["mail"]
    assert len(runs) == 1, "each question started another thread"
    repaired.set()


def test_draining_is_red_whatever_the_checks_say() -> None:
    health = Health({"disk": lambda: True})
    health.draining = True
    assert endpoints(health).get("/ready").status_code == 503
    assert endpoints(health).get("/live").status_code == 200
    assert asyncio.run(health.failing()) == []


@pytest.mark.parametrize(("notice", "finish"), [(3.0, 5), (8.0, 1), (0.0, 8)])
def test_times_that_do_not_fit_are_refused(notice: float, finish: int) -> None:
    with pytest.raises(ValueError, match="no time is left"):
        StopTimes(notice, finish, total=8.0)
