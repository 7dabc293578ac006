"""`playbook.pantry.stop`: an orderly stop has one budget, and ends by itself before a container is killed."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served import DEADLINE, Served, served

from playbook.pantry.server import LimitedConfig, Limits, server_for
from playbook.pantry.settings import Settings
from playbook.pantry.stop import RESERVE, Stop

DOCKER = 10  # seconds from SIGTERM to SIGKILL
ADA = b'{"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}'


def test_all_waits_together_end_before_a_container_is_killed() -> None:
    stop = Stop(Settings(environment="test").stop_seconds)
    config = server_for(None, stop).config
    assert isinstance(config, LimitedConfig)
    assert config.stop is stop
    assert stop.seconds < DOCKER - 1
    assert (config.timeout_graceful_shutdown or 99) + RESERVE < stop.seconds / 2, (
        "requests leave most of it to the mails"
    )


def test_requests_and_mails_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stop = Stop(8)
    now[0] = 500.0
    assert stop.for_mails() == 8 - RESERVE
    stop.begin()
    now[0] += 3
    stop.begin()  # the second SIGTERM of a supervisor begins nothing anew
    assert stop.left() == 5
    assert stop.for_mails() == 5 - RESERVE
    stop.hurry()
    assert stop.for_mails() == 0
    now[0] += 60
    assert stop.left() == 0


@contextmanager
def silent_mail_server() -> Iterator[tuple[str, threading.Event]]:
    """Accepts and never speaks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        called, held = threading.Event(), []

        def accept() -> None:
            while True:
                try:
                    held.append(listening.accept()[0])
                except OSError:
                    return
                called.set()

        threading.Thread(target=accept, daemon=True).start()
        yield f"smtp://127.0.0.1:{listening.getsockname()[1]}", called
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@contextmanager
def slow_client(server: Served) -> Iterator[None]:
    """Somebody whose body does not end: an octet now and then."""
    connection, done = socket.create_connection(server.address), threading.Event()
    fields = b"Host: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    connection.sendall(b"POST /api/auth/sign-in/email HTTP/1.1\r\n" + fields)

    def drip() -> None:
        while not done.wait(0.05):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield
    finally:
        done.set()
        dripping.join()
        connection.close()


def sign_up(server: Served) -> None:
    client = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    client.request("POST", "/api/auth/sign-up/email", ADA, {"content-type": "application/json"})
    assert client.getresponse().status == 200
    client.close()


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGTERM], 143), ([signal.SIGTERM] * 2, 143), ([signal.SIGINT], 130), ([signal.SIGINT] * 2, 130)],
    ids=["SIGTERM", "SIGTERM twice", "Ctrl-C", "Ctrl-C twice"],
)
def test_a_slow_client_and_a_silent_mail_server_do_not_hold_the_stop(
    tmp_path: Path, signals: list[int], code: int
) -> None:
    """20.8 s before: ten for the client, ten for the mails, and then the thread that waited for the mail server."""
    with silent_mail_server() as (url, called), served(tmp_path, PANTRY_MAIL_URL=url) as server, slow_client(server):
        sign_up(server)
        assert called.wait(DEADLINE)
        began = time.monotonic()
        for number in signals:
            server.process.send_signal(number)
            time.sleep(0.2)
        assert server.process.wait(DEADLINE) == code, server.logged
        print(f"the stop took {time.monotonic() - began:.1f} s")
        assert "1 requests were not finished" in server.logged
        assert "still being sent: 1" in server.logged
        assert "Traceback" not in server.logged
        # The watch ended it, or everything had ended before: either way within the budget that is configured.
        assert server.logged.count("the stop took all of its 8 s") <= 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_the_start_ends_it(tmp_path: Path, number: int, code: int) -> None:
    with served(tmp_path, ready=False) as server:
        until = time.monotonic() + DEADLINE
        while not (tmp_path / "pantry.duckdb").exists():  # it prepares the database
            assert time.monotonic() < until
            time.sleep(0.01)
        assert server.stop(number) == code
        assert "Pantry at" not in server.logged or "Shutting down" in server.logged


def test_what_hangs_is_ended_when_the_budget_is_used_up(tmp_path: Path) -> None:
    """A thread that waits for ever holds the interpreter's exit. The watch ends it, with the signal's exit code."""
    program = (
        "import threading, time\nfrom playbook.pantry.stop import Stop\n"
        "stop = Stop(0.3)\nstop.watch()\nstop.on_signals()\n"
        "threading.Thread(target=threading.Event().wait).start()\nprint('ready', flush=True)\n"
        "while not stop.began: time.sleep(0.01)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the stop took all of its 0.3 s" in said


def test_the_limits_of_a_stop_are_those_of_the_settings() -> None:
    assert Stop(2).for_requests < 1
    assert Limits().connections == Settings(environment="test").max_connections
