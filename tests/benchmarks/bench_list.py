"""The first page of the packages through Pantry, against a bare FastAPI endpoint that returns the same bytes.

One uvicorn process each, asked by `wrk` with one thread: one connection, where the time of a request shows, and
sixteen, where the throughput does. The floor has a sync endpoint, as all of Pantry's: it runs in the thread pool, too.
The ratio is what routing, permission, pagination, the statement, validation, ETag and strict input cost together.
`--profile` shows where Pantry's time goes instead: one process, one request after the other, no network.
"""

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from bench_server import uvicorn_process
from measure import Failed, Row, Sample, at_least_one, fresh, main, parser, show, take_all

PACKAGES = ["uvicorn", "fastapi", "starlette", "pydantic", "sqlalchemy", "duckdb", "psycopg"]
PATH = "/packages"
CONNECTIONS = (1, 16)
REMARKS = [
    "Seconds are those of the run divided by its requests; p50 and p99 are the latency of one of them, by wrk.",
    f"uvicorn speaks HTTP by {'httptools' if find_spec('httptools') else 'h11'}, "
    f"its loop is {'uvloop' if find_spec('uvloop') else 'asyncio'}: it takes the faster ones where they are installed.",
]


# ---------------------------------------------------------------- the two services, each in a process of its own


def make_pantry() -> Any:
    """Pantry over the database of BENCH_URL."""
    from before_sign_in import pantry

    from playbook.kit.data import data_path
    from playbook.pantry.settings import Settings

    return pantry(Settings(environment="test", database_url=os.environ["BENCH_URL"]), data_path("packages.csv"))


def make_bare() -> Any:
    """The floor: the bytes of BENCH_BODY, read once."""
    from fastapi import FastAPI, Response

    app, body = FastAPI(), Path(os.environ["BENCH_BODY"]).read_bytes()

    @app.get(PATH)
    def bare() -> Response:
        return Response(body, media_type="application/json")

    return app


def prepare(url: str) -> int:
    """Fill the database; how many bytes the page has."""
    from starlette.testclient import TestClient

    os.environ["BENCH_URL"] = url
    with TestClient(make_pantry()) as client:
        return len(client.get(PATH).raise_for_status().content)


# ---------------------------------------------------------------- the measurement


Latencies = dict[str, list[float]]  # ms, by share of the requests: "50%", "99%"


def wrk(url: str, connections: int, seconds: int, latencies: Latencies) -> Sample:
    """Seconds a request. Adds to `latencies`. Raises Failed when an answer was no success."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "--latency", url + PATH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    wrong = re.search(r"Non-2xx.*|Socket errors:.*", done.stdout)
    if rate is None or wrong or float(rate[1]) == 0:
        raise Failed(f"wrk: {wrong[0] if wrong else (done.stderr or done.stdout).strip() or 'no requests'}")
    for share in ("50%", "99%"):
        value, unit = re.findall(rf"{share}\s+([\d.]+)(us|ms|s)", done.stdout)[0]
        latencies.setdefault(share, []).append(float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit])
    return {"seconds": 1 / float(rate[1])}


def rows_for(stack: ExitStack, engine: str, url: str, folder: str, seconds: int) -> list[tuple[Row, Latencies]]:
    """Both services of one engine, started and warm, and their rows."""
    size = fresh(prepare, url=url)
    pantry = stack.enter_context(uvicorn_process("bench_list:make_pantry", {"BENCH_URL": url}))
    body = Path(folder) / f"{engine}.json"
    body.write_bytes(httpx.get(pantry + PATH, trust_env=False).raise_for_status().content)
    if body.stat().st_size != size:
        raise Failed(f"{engine}: the page has {body.stat().st_size} bytes, and had {size} before")
    bare = stack.enter_context(uvicorn_process("bench_list:make_bare", {"BENCH_BODY": str(body)}))
    with httpx.Client(trust_env=False) as client:
        for server in (pantry, bare):
            for _ in range(50):  # connections, compiled statements, whatever either side makes at first
                client.get(server + PATH).raise_for_status()
    rows = []
    for connections in CONNECTIONS:
        heading = f"{engine}, {connections} connection{'s' * (connections > 1)}, {size:,} bytes"
        floor = None
        for name, server in (("floor: bare FastAPI", bare), ("Pantry", pantry)):
            latencies: Latencies = {}
            take = partial(wrk, server, connections, seconds, latencies)
            row = Row(name, take, floor, group=heading)
            floor = floor or row
            rows.append((row, latencies))
    return rows


def profile(url: str, count: int) -> str:
    """Where the time of `count` requests goes: cProfile's table by own time."""
    import asyncio
    import cProfile
    import io
    import pstats

    os.environ["BENCH_URL"] = url
    app = make_pantry()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": PATH, "headers": [],
        "raw_path": PATH.encode(), "query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "scheme": "http", "root_path": "",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"{message['status']}")

    async def ask(count: int) -> None:
        for _ in range(count):
            await app(dict(scope), receive, send)

    # The endpoint runs in the thread pool, which a profiler of this thread would not see.
    import anyio.to_thread

    async def here(function: Any, *arguments: Any, **options: Any) -> Any:
        return function(*arguments)

    anyio.to_thread.run_sync = here  # type: ignore[assignment]
    asyncio.run(ask(50))
    profiler = cProfile.Profile()
    profiler.enable()
    asyncio.run(ask(count))
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(45)
    pstats.Stats(profiler, stream=text).sort_stats("cumtime").print_stats(70)
    return text.getvalue()


def work() -> None:
    from playbook.kit import postgres

    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=at_least_one, default=5, help="of one run of wrk (default: 5)")
    arguments.add_argument("--runs", type=at_least_one, default=2, help="of wrk for each row (default: 2)")
    arguments.add_argument("--profile", action="store_true", help="show where the time goes, on DuckDB")
    chosen = arguments.parse_args()
    seconds, runs = (2, 1) if chosen.quick else (chosen.seconds, chosen.runs)
    if not chosen.profile and shutil.which("wrk") is None:
        raise Failed("wrk is not installed: install it (apt-get install wrk, or brew install wrk) and run this again")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-"))
        urls = {"DuckDB": f"duckdb:///{folder}/bench.duckdb"}
        if chosen.profile:
            print(fresh(profile, url=urls["DuckDB"], count=500))
            return
        try:
            urls["PostgreSQL"] = stack.enter_context(postgres.database(stack.enter_context(postgres.server())))
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
        measured = [row for engine, url in urls.items() for row in rows_for(stack, engine, url, folder, seconds)]
        rows = [row for row, _ in measured]
        take_all(rows, runs)
    for row, latencies in measured:
        if row.samples:
            rate, (low, high) = 1 / median(row.seconds()), (median(latencies[share]) for share in ("50%", "99%"))
            row.note = f"{rate:,.0f} requests/s, p50 {low:.3g} ms, p99 {high:.3g} ms"
    show(f"GET {PATH}", rows, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
