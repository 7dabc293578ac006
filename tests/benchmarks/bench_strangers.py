"""What a stranger without an account can do to everybody else: the latency of /health beside one or six connections.

    python tests/benchmarks/bench_strangers.py [--seconds 4]

Each row starts nothing new: one `playbook serve`, attackers in a process of their own that send one shape of request
after the other on kept-alive connections, and one well-behaved client that asks /health. The ratio is against the same
client alone, once more before each row. The first rows run without limits per address: they show what a request costs.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import measure

JSON, FORM = {"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}
MEBI = 1_048_576
SHAPES = {
    "numbers": ("/organizations", b"[" + b"1," * (MEBI // 2 - 10) + b"1]", JSON),
    "objects": ("/organizations", b"[" + b"{}," * (MEBI // 3 - 10) + b"{}]", JSON),
    "names": ("/organizations", json.dumps({f"n{n}": 1 for n in range(70_000)}).encode(), JSON),
    "brackets": ("/organizations", b"[" + b"[]," * (MEBI // 3 - 10) + b"[]]", JSON),
    "escapes": ("/organizations", b'"' + rb"\ud83d\ude00" * (MEBI // 12 - 10) + b'"', JSON),
    "sign-in, numbers": ("/api/auth/sign-in/email", b"[" + b"1," * (MEBI // 2 - 10) + b"1]", JSON),
    "sign-in, form": ("/api/auth/sign-in/email", b"&" * (MEBI - 10), FORM),
    "a parameter given 1,000 times": ("/packages?" + "limit=1&" * 990, b"", {}),
    "cookies": ("/packages", b"", {"cookie": "a=b; " * 2500}),
    "accept": ("/packages", b"", {"accept": "a/b;q=0.1," * 1400}),
    "headers": ("/packages", b"", {f"x{n}": "" for n in range(90)}),
}


def attack(port: int, path: str, body: bytes, headers: dict[str, str], until: float, counts: list[int]) -> None:
    connection = None
    while time.monotonic() < until:
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST" if body else "GET", path, body or None, headers)
            connection.getresponse().read()
            counts.append(1)
        except (OSError, http.client.HTTPException):
            connection = None


def attacker(port: int, shape: str, connections: int, seconds: float) -> None:
    """In a process of its own: attack until `seconds` are over, then say how often."""
    path, body, headers = SHAPES[shape]
    counts: list[int] = []
    arguments = (port, path, body, headers, time.monotonic() + seconds, counts)
    threads = [threading.Thread(target=attack, args=arguments) for _ in range(connections)]
    print("ready", flush=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(counts), flush=True)


def health(port: int, seconds: float) -> list[float]:
    """How long each GET /health took, asked one after the other."""
    taken, until = [], time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < until:
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        taken.append(time.perf_counter() - started)
        time.sleep(0.002)
    return taken


@contextmanager
def serving(limits: str) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as folder:
        given = {"DATABASE_URL": f"duckdb:///{folder}/p.duckdb", "PANTRY_MAIL_URL": f"file:{folder}/mail.jsonl"}
        env = measure.environment(None) | given | {"PANTRY_RATE_LIMITS": limits, "PYTHONPATH": str(measure.ROOT)}
        command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0"]
        log = Path(folder, "log")  # a file: a pipe that nobody reads would stop the server at its 64 KiB
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
        try:
            until = time.monotonic() + 60
            while not (found := re.search(r"Pantry at http://127.0.0.1:(\d+)", log.read_text(encoding="utf-8"))):
                if process.poll() is not None or time.monotonic() > until:
                    raise measure.Failed(log.read_text(encoding="utf-8"))
                time.sleep(0.1)
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--attack", nargs=3, metavar=("PORT", "SHAPE", "CONNECTIONS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        return attacker(int(given.attack[0]), given.attack[1], int(given.attack[2]), given.seconds)
    columns = ["limits", "shape", "connections", "requests", "alone", "median", "ratio", "worst"]
    table = measure.new_table("/health beside a stranger", columns, columns[2:])
    for limits in ("off", "on"):
        with serving(limits) as port:
            health(port, 0.5)
            for connections in (1, 6):
                for shape in SHAPES:
                    if given.only not in shape or (connections == 6 and shape not in ("numbers", "sign-in, numbers")):
                        continue
                    alone = median(health(port, 0.5))
                    command = [sys.executable, __file__, "--seconds", str(given.seconds)]
                    command += ["--attack", str(port), shape, str(connections)]
                    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
                    assert other.stdout is not None
                    other.stdout.readline()
                    beside = health(port, given.seconds - 0.5)
                    sent = other.communicate()[0].strip()
                    middle = median(beside)
                    cells = [limits, shape, str(connections), sent, measure.duration(alone), measure.duration(middle)]
                    table.add_row(*cells, f"{middle / alone:,.3g}x", measure.duration(max(beside)))
    measure.print_all(["uvicorn", "fastapi"], table)


if __name__ == "__main__":
    main()
