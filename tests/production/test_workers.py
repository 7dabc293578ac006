"""`playbook serve --workers N`: real processes on a real PostgreSQL, which count together, come back, and stop as one.

Who answers is decided here and not by chance: all workers but one are halted (SIGSTOP) while a connection is made.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import forked
import psutil
import pytest
import sqlalchemy as sa

from playbook.auth.sign_in import PER_ACCOUNT
from playbook.auth.throttling import spend
from playbook.foundations.engines import make_engine
from playbook.kit import postgres, ready
from playbook.kit.cli import _exit_code
from playbook.kit.data import ROOT
from playbook.kit.running import environment
from playbook.pantry import workers
from playbook.pantry.app import MEMORIES, engine_for, pantry
from playbook.pantry.limits import Counts, Rate
from playbook.pantry.memory import ALONE, Crowd, Share, SharedMemory, shares
from playbook.pantry.reads import CONNECTIONS as READS
from playbook.pantry.server import LimitedConfig, Limits
from playbook.pantry.settings import Settings
from playbook.pantry.stop import Stop
from playbook.pantry.writes import CONNECTIONS as WRITES

DEADLINE = 180  # seconds until something counts as hung: no verdict about speed
WORKERS = 2
_addresses = count(1)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@dataclass
class Service:
    """A running `playbook serve --workers 2`, in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0

    @property
    def logged(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, pattern: str, times: int = 1, orphaned: bool = False) -> list[str]:
        """What in the log matches, when it is there so often. Fails when the parent ends before: unless `orphaned`."""
        until = time.monotonic() + DEADLINE
        while True:
            over = self.process.poll() is not None and not orphaned  # looked at first: it may say it and end
            if len(found := re.findall(pattern, self.logged)) >= times:
                return found
            assert not over, self.logged
            assert time.monotonic() < until, self.logged
            time.sleep(0.02)

    @property
    def workers(self) -> list[psutil.Process]:
        return sorted(psutil.Process(self.process.pid).children(), key=lambda each: each.pid)

    @contextmanager
    def only(self, worker: psutil.Process) -> Iterator[None]:
        """In the block this worker is the only one that runs."""
        others = [each for each in self.workers if each.pid != worker.pid]
        try:
            for each in others:
                each.suspend()
            until = time.monotonic() + DEADLINE
            while any(each.status() != psutil.STATUS_STOPPED for each in others):
                assert time.monotonic() < until
                time.sleep(0.001)
            yield
        finally:
            for each in others:
                each.resume()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def ask(self, path: str, body: object = None, address: str | None = None) -> int:
        """The status, on a connection of its own; by default from an address that has not asked before."""
        headers = {"x-forwarded-for": address or new_address(), "connection": "close"}
        if body is not None:
            headers |= {"content-type": "application/json", "origin": "http://localhost:8000"}
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def begin(self, worker: psutil.Process) -> socket.socket:
        """A request whose body has not come yet, and which this worker is waiting for."""
        head = (
            "POST /api/auth/sign-in/email HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:8000\r\n"
            f"X-Forwarded-For: {new_address()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(WRONG)}\r\nExpect: 100-continue\r\n\r\n"
        )
        with self.only(worker):
            connection = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        return connection

    def end(self) -> int:
        return self.process.wait(DEADLINE)


WRONG = json.dumps({"email": "nobody@example.com", "password": "not the right one"}).encode()


def finish(connection: socket.socket) -> int:
    """Send the body; the status of the answer."""
    with connection:
        with contextlib.suppress(OSError):
            connection.sendall(WRONG)
        return int(connection.makefile("rb").readline().split()[1])


ANSWERED = {401, 408}  # 408: on a machine so busy that the body came after 20 seconds


def new_address() -> str:
    number = next(_addresses)
    return f"198.51.{number // 250}.{number % 250 + 1}"


@contextmanager
def serving_together(folder: Path, url: str, **settings: str) -> Iterator[Service]:
    """With limits so low that time gives nobody a second request: each address has one in 1,000 seconds."""
    given = {
        "PANTRY_ENVIRONMENT": "test", "PANTRY_MAIL_URL": f"file:{folder / 'mail.jsonl'}", "PANTRY_STOP_SECONDS": "600",
        "PANTRY_NETWORK_RATE": "0.001", "FORWARDED_ALLOW_IPS": "127.0.0.1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    log = folder / "serve.log"
    with log.open("wb") as out:
        process = forked.Popen(
            [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0", "--workers", str(WORKERS)],
            cwd=ROOT, env=environment(url) | given | settings, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    service = Service(process, log)
    try:
        service.port = int(service.wait_for(r"Pantry at http://127\.0\.0\.1:(\d+),.* 2 workers; ")[0])
        yield service
    finally:
        left = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
        psutil.wait_procs(left, DEADLINE)


def assert_nobody_is_left(service: Service, workers: list[psutil.Process]) -> None:
    assert psutil.wait_procs(workers, DEADLINE)[1] == []
    ready.listen("127.0.0.1", service.port).close()  # InputError when somebody has the port


@pytest.fixture(scope="module")
def url(postgres_server: str) -> Iterator[str]:
    with postgres.database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
def service(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving_together(tmp_path_factory.mktemp("together"), url) as running:
        yield running


# ---------------------------------------------------------------- a service that runs


def test_the_parent_prepares_once_and_all_workers_answer(service: Service) -> None:
    assert service.logged.count("the database is empty: loading the catalogue") == 1
    assert len(service.workers) == WORKERS
    for worker in service.workers:
        with service.only(worker):
            assert service.ask("/packages/numpy", address=new_address()) == 401
            assert service.ask("/ready") == 200


def test_the_parent_has_nothing_that_two_processes_cannot_use(service: Service) -> None:
    parent = psutil.Process(service.process.pid)
    assert [each.status for each in parent.net_connections()] == [psutil.CONN_LISTEN]
    for worker in service.workers:
        assert worker.ppid() == parent.pid


def test_a_network_is_counted_over_all_workers(service: Service) -> None:
    address, statuses = new_address(), []
    for worker in service.workers:
        with service.only(worker):
            statuses.append(service.ask("/packages", address=address))
    assert statuses == [401, 429]


def test_guesses_at_one_account_are_counted_over_all_workers(service: Service, url: str) -> None:
    """From eight networks at once, when four guesses are left to strangers this week."""
    engine = make_engine(url)
    for _ in range(PER_ACCOUNT.burst - 4):
        assert not spend(engine, PER_ACCOUNT, ("from", "ada@example.com", "strangers"), datetime.now(UTC))
    engine.dispose()
    guess = {"email": "ada@example.com", "password": "not the right one"}

    def ask(number: int) -> int:
        return service.ask("/api/auth/sign-in/email", guess)

    with ThreadPoolExecutor(8) as strangers:
        assert sorted(strangers.map(ask, range(8))) == [401] * 4 + [429] * 4
    for worker in service.workers:
        with service.only(worker):
            assert service.ask("/api/auth/sign-in/email", guess) == 429


def test_a_worker_that_dies_comes_back(service: Service) -> None:
    first, second = service.workers
    first.kill()
    service.wait_for(rf"worker \d \(process {first.pid}\) has ended \(signal 9 \(SIGKILL\)\); it is started again")
    with service.only(second):
        assert service.ask("/ready") == 200, "the other one serves meanwhile"
    service.wait_for("Application startup complete", times=WORKERS + 1)
    assert first.pid not in [each.pid for each in service.workers]
    assert len(service.workers) == WORKERS
    for worker in service.workers:
        with service.only(worker):
            assert service.ask("/ready") == 200
    assert service.logged.count("it is started again") == 1


def test_a_stop_of_the_whole_group_answers_what_is_under_way(service: Service) -> None:
    """The workers are told twice, by the system and by the parent. Ends the service of this module."""
    workers = service.workers
    under_way = [service.begin(worker) for worker in workers]
    os.killpg(service.process.pid, signal.SIGTERM)
    service.wait_for("Shutting down", times=WORKERS)
    assert {finish(each) for each in under_way} <= ANSWERED
    assert service.end() == 128 + signal.SIGTERM, service.logged
    assert_nobody_is_left(service, workers)
    assert service.logged.count("Application shutdown complete") == WORKERS
    assert "killed" not in service.logged
    assert "Traceback" not in service.logged


# ---------------------------------------------------------------- the end of one


def test_no_worker_outlives_its_parent(url: str, tmp_path: Path) -> None:
    with serving_together(tmp_path, url) as service:
        workers = service.workers
        under_way = [service.begin(worker) for worker in workers]
        service.process.kill()
        service.wait_for("the process that started this one is gone", WORKERS, orphaned=True)
        service.wait_for("Shutting down", WORKERS, orphaned=True)
        assert {finish(each) for each in under_way} <= ANSWERED
        assert_nobody_is_left(service, workers)


def test_a_second_ctrl_c_hurries_all_of_them(url: str, tmp_path: Path) -> None:
    """The first alone would wait for three eighths of 600 seconds."""
    with serving_together(tmp_path, url) as service:
        workers = service.workers
        under_way = [service.begin(worker) for worker in workers]
        service.process.send_signal(signal.SIGINT)
        service.wait_for("Shutting down", times=WORKERS)
        service.process.send_signal(signal.SIGINT)
        assert service.end() == 128 + signal.SIGINT, service.logged
        assert "killed" not in service.logged
        assert_nobody_is_left(service, workers)
        for each in under_way:
            each.close()


# ---------------------------------------------------------------- what does not start


def test_a_duckdb_file_has_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"duckdb:///{tmp_path}/pantry.duckdb")
    assert _exit_code(["serve", "--port", "0", "--workers", "2"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --workers needs PostgreSQL, as a DuckDB file has one process")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing has begun"


def test_a_system_that_cannot_fork_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ValueError, match="can fork, and this one cannot"):
        workers.check("postgresql+psycopg://db.example/pantry")


@pytest.mark.parametrize("number", ["0", "-1", "257", "two"])
def test_a_number_of_workers_that_cannot_be_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["serve", "--port", "0", "--workers", number]) == 2
    assert "'--workers'" in capsys.readouterr().err


def test_workers_that_cannot_start_end_the_service_with_one_reason(url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0", "--workers", "2"]
    environ = {"PANTRY_ENVIRONMENT": "test", "PANTRY_MAIL_URL": f"file:{tmp_path}/no/mail.jsonl"}
    done = forked.run(command, DEADLINE, cwd=ROOT, env=environment(url) | environ)
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert said.count("the folder of the mail file should exist") == 1
    assert said.splitlines()[-1].startswith("error: ")


# ---------------------------------------------------------------- the parent, with workers that are only a few lines


def supervised(
    folder: Path, *works: workers.Work, prepare: Callable[[], None] = lambda: None, seconds: float = 600
) -> tuple[int, str]:
    """The exit code of a fork of this process that runs these, and all that it and they have written."""
    said = folder / "said"

    def all_serve() -> None:
        print("all serve", flush=True)
        (folder / "all").write_text("")

    def supervise() -> int:
        supervisor = workers.Supervisor(Stop(seconds), socket.create_server(("127.0.0.1", 0)))
        try:
            return supervisor.run(prepare, works, all_serve)
        except ValueError as error:
            print(f"refused: {error}", flush=True)
            return 2

    if not (child := os.fork()):
        code = 99
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE)  # or a parent that does not end would hold the tests
        try:
            with said.open("w") as output:
                os.dup2(output.fileno(), 1)
                sys.stdout = sys.stderr = open(1, "w", 1, "utf-8", closefd=False)  # noqa: SIM115
                signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # as `playbook` has it
                logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
                logging.disable(logging.NOTSET)  # whatever this process has made of it
                workers.log.handlers, workers.log.propagate, workers.log.disabled = [], True, False
                workers.log.setLevel(logging.NOTSET)
                workers.FIRST_PAUSE = workers.LONGEST_PAUSE = 0.01
                code = supervise()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text(encoding="utf-8")


def turn(folder: Path) -> int:
    """How often this was called, by whatever process."""
    with (folder / "turns").open("a") as file:
        file.write(".")
    return (folder / "turns").stat().st_size


def until_all_serve(folder: Path) -> None:
    while not (folder / "all").exists():
        time.sleep(0.001)


def steady(stop: Stop, say: workers.Say) -> int:
    say(workers.READY)
    while True:
        signal.pause()


def test_a_replacement_that_cannot_start_is_tried_again_while_another_serves(tmp_path: Path) -> None:
    """The fourth can, and tells the parent to end."""

    def unsteady(stop: Stop, say: workers.Say) -> int:
        number = turn(tmp_path)
        if number in (2, 3):
            raise ValueError("no room")
        say(workers.READY)
        until_all_serve(tmp_path)
        if number == 1:
            return 7
        os.kill(os.getppid(), signal.SIGTERM)
        return steady(stop, say)

    code, said = supervised(tmp_path, steady, unsteady)
    assert code == 128 + signal.SIGTERM, said
    assert said.count("all serve") == 1
    assert len(re.findall(r"worker 2 \(process \d+\) has ended \(exit code 7\); it is started again", said)) == 1
    assert len(re.findall(r"worker 2 .* could not start: no room \(exit code 2\); it is started again", said)) == 2


def test_a_service_that_nobody_serves_any_more_ends(tmp_path: Path) -> None:
    def once(stop: Stop, say: workers.Say) -> int:
        if turn(tmp_path) > 2:
            raise ValueError("no room")
        say(workers.READY)
        until_all_serve(tmp_path)
        return 7

    code, said = supervised(tmp_path, once, once)
    assert code == 2, said
    assert "refused: no room" in said


def test_one_of_the_first_that_cannot_start_ends_all(tmp_path: Path) -> None:
    def killed(stop: Stop, say: workers.Say) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    code, said = supervised(tmp_path, steady, killed)
    assert code == 128 + signal.SIGKILL, said
    assert "worker 2 could not start (signal 9 (SIGKILL)): the service ends" in said
    assert "all serve" not in said


def test_what_the_preparation_refuses_starts_no_worker(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ValueError("the database is away")

    assert supervised(tmp_path, steady, prepare=refuse) == (2, "refused: the database is away\n")


def test_an_error_in_the_preparation_starts_no_worker(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    code, said = supervised(tmp_path, steady, prepare=fail)
    assert code == 1, said
    assert "the preparation could not start (exit code 1): the service ends" in said
    assert "all serve" not in said


def test_what_cannot_end_itself_is_ended_with_the_budget(tmp_path: Path) -> None:
    """A halted process does not even hear its signal."""

    def ending(stop: Stop, say: workers.Say) -> int:
        say(workers.READY)
        until_all_serve(tmp_path)
        os.kill(os.getppid(), signal.SIGTERM)
        return steady(stop, say)

    def halted(stop: Stop, say: workers.Say) -> int:
        say(workers.READY)
        os.kill(os.getpid(), signal.SIGSTOP)
        return steady(stop, say)

    code, said = supervised(tmp_path, halted, ending, seconds=0.2)
    assert code == 128 + signal.SIGTERM, said
    assert "worker 1 did not end by itself: killed" in said


def test_the_pause_grows_and_has_an_end() -> None:
    pauses = [workers.pause(failures) for failures in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert workers.pause(10_000) == 30


# ---------------------------------------------------------------- what each worker has


def forks(number: int, work: Callable[[int], bytes]) -> list[bytes]:
    """What `work(n)` gives in processes that are forked at once."""
    found = []
    for n in range(number):
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                os.write(write, work(n))
            finally:
                os._exit(0)
        os.close(write)
        found.append(read)
    answers = []
    for read in found:
        with open(read, "rb") as pipe:
            answers.append(pipe.read())
        os.wait()
    return answers


def test_processes_count_together_exactly() -> None:
    counts = Counts(Rate("network", 1, 1000), lambda: 0.0, SharedMemory(100))
    allowed = forks(4, lambda n: str(sum(counts.take("ada") == 0 for _ in range(400))).encode())
    assert sum(map(int, allowed)) == 1000
    assert counts.take("ada") > 0
    assert counts.take("bob") == 0


def test_a_process_that_is_killed_holds_no_memory() -> None:
    memory = SharedMemory(8)

    def die(number: int) -> bytes:
        with memory.of("ada"):
            os.kill(os.getpid(), signal.SIGKILL)
        return b""

    assert forks(1, die) == [b""]
    with memory.of("ada") as kept:
        assert kept == [0, 0]


def test_who_keeps_coming_is_not_forgotten_and_no_stranger_finds_their_place() -> None:
    memory = SharedMemory(80)
    with memory.of("ada") as kept:
        kept[:] = [1, 2]
    for number in range(1000):
        with memory.of(f"stranger {number}") as kept:
            assert kept == [0, 0]
        with memory.of("ada") as kept:
            assert kept == [1, 2]
    assert len(memory) == 80
    assert SharedMemory(80)._secret != memory._secret


def test_who_has_more_connections_leaves_the_next_to_another() -> None:
    """Three more than another worker: it steps back, and takes what nobody else has taken meanwhile."""

    class Others:
        least = 0.0

        def say(self, number: int, connections: int) -> None:
            pass

        def least_of_others(self, number: int) -> float:
            return self.least

    async def accept(others: float, mine: int, patient: bool) -> tuple[int, list[float]]:
        crowd = Others()
        crowd.least = others
        config = LimitedConfig(None, Limits(), Stop(1))
        server = workers.WorkerServer(config, Share(0, 2, {}, crowd), lambda word: None)  # type: ignore[arg-type]
        server.server_state.connections = set(range(mine))  # type: ignore[arg-type]
        backs: list[float] = []
        server.step_back = lambda listening, seconds: backs.append(seconds)  # type: ignore[method-assign]
        server.protocol = asyncio.Protocol  # type: ignore[method-assign]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
            server.accept(listening, patient)
            taken = [each.result()[0] for each in (await asyncio.wait(server.arriving))[0]] if server.arriving else []
            for each in [*taken, *clients]:
                each.close()
        return len(taken), backs

    back = [workers.WorkerServer.MOMENT]
    assert asyncio.run(accept(others=0, mine=2, patient=False)) == (1, [])
    assert asyncio.run(accept(others=0, mine=3, patient=False)) == (0, back)
    assert asyncio.run(accept(others=0, mine=3, patient=True)) == (1, [])
    assert asyncio.run(accept(others=float("inf"), mine=3, patient=False)) == (1, []), "there is nobody else"


def test_who_is_quiet_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("playbook.pantry.memory.time.monotonic", lambda: now[0])
    crowd = Crowd(3)
    assert crowd.least_of_others(0) == float("inf"), "nobody has said anything"
    for number, connections in enumerate((1, 5, 3)):
        crowd.say(number, connections)
    assert [crowd.least_of_others(number) for number in range(3)] == [3, 1, 1]
    now[0] += 0.9
    crowd.say(1, 5)
    now[0] += 0.2
    assert crowd.least_of_others(2) == 5


def test_what_is_divided_and_what_is_done_once(url: str) -> None:
    settings = Settings(environment="test", database_url=url, mail_url="memory:")
    engines = [engine_for(settings, share) for share in (ALONE, *shares(2, {}), *shares(4, {}), *shares(16, {}))]
    most = [each.pool.size() + each.pool._max_overflow + READS + WRITES + 1 for each in engines]  # type: ignore[attr-defined]
    assert most == [29] + [19] * 2 + [14] * 4 + [14] * 16, "as `playbook serve --help` says"
    first, second = (pantry(settings, share=share).state.auth for share in shares(2, MEMORIES))
    assert [each.postbox.threads for each in (first, second)] == [2, 2]


def test_of_several_processes_one_sweeps(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[sa.Engine] = []

    async def sweep(engine: sa.Engine, clock: object) -> None:
        swept.append(engine)

    monkeypatch.setattr("playbook.pantry.app.sweep_for_ever", sweep)
    settings = Settings(environment="test", database_url=url, mail_url="memory:")
    apps = [pantry(settings, share=share) for share in shares(3, MEMORIES)]

    async def start_and_stop() -> None:
        for app in apps:
            async with app.router.lifespan_context(app):
                await asyncio.sleep(0)

    asyncio.run(start_and_stop())
    assert swept == [apps[0].state.engine]
