"""The program that the page's *Take it with you* shows, run as it is printed there, in a process of its own."""

import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from playbook.kit.course import Course

BEFORE = """
import sqlalchemy as sa
from starlette.applications import Starlette
from playbook.foundations.start_and_stop import Health, StopTimes, serve

orders_engine, stock_engine = sa.create_engine("sqlite://"), sa.create_engine("sqlite:////no/such/folder/stock.db")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_the_shown_program_starts_says_what_fails_and_stops() -> None:
    page = next(page for page in Course().playbooks if page.name == "start_and_stop")
    block = re.search(r"```python\n(.*?)```", page.source.split("## Take it with you")[1], re.DOTALL)
    assert block is not None
    shown = block[1].replace('host="0.0.0.0"', 'host="127.0.0.1", port=0')
    assert shown != block[1]
    command = [sys.executable, "-c", BEFORE + shown]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on" in line)
        url = line.split("running on ")[1].split()[0]
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            assert client.get("/live").status_code == 200
            assert client.get("/ready").json()["failing"] == ["stock"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        guard.cancel()
        process.kill()
        process.wait()
