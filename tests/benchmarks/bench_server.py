"""The lesson's live server (`playbook.kit.live.serving`): until it is ready, until it has stopped, requests per second.

The peer is the same app under plain `uvicorn` in a process of its own. The lesson's server shares its process, and so
one Python thread at a time, with the client; `LiveClient` also keeps every exchange, for `show_http`.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from measure import Failed, Row, Sample, fresh, main, parser, show, take_all

PACKAGES = ["uvicorn", "httpx", "fastapi", "starlette"]
AIM_READY = 0.3  # seconds
READY_SECONDS = 30
REMARKS = [
    "One request: the mean of a run's, one after the other on one connection. First answer: ready, and one request.",
]


def make_app() -> Any:
    """An app that does nothing: one sync endpoint (in a thread, as all of Pantry's) and one async."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/sync")
    def sync_endpoint() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/async")
    async def async_endpoint() -> dict[str, bool]:
        return {"ok": True}

    return app


@contextmanager
def uvicorn_process(factory: str = "bench_server:make_app", env: Mapping[str, str] | None = None) -> Iterator[str]:
    """An app under plain uvicorn in a subprocess, with `env` added; its URL, once it accepts connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port)]
    command += ["--log-level", "critical", "--no-access-log", "--app-dir", str(Path(__file__).parent)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | dict(env or {}), stdout=quiet, stderr=quiet)
    try:
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise Failed("uvicorn did not start") from None
                time.sleep(0.002)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(READY_SECONDS)


# ---------------------------------------------------------------- measured, each in a process of its own


def start_and_stop(what: str, before: int) -> Sample:
    """Seconds until the server is `ready`, until it has given its first `answer`, or to `stop` it.

    `before`: how many servers this process has started already. The first imports uvicorn's event loop and protocol.
    """
    from playbook.kit.live import serving

    app = make_app()
    for _ in range(before):
        with serving(app):
            pass
    started = time.perf_counter()
    with serving(app) as client:
        ready = time.perf_counter()
        client.get("/sync").raise_for_status()
        answered = time.perf_counter()
    stopped = time.perf_counter()
    return {"seconds": {"ready": ready - started, "answer": answered - started, "stop": stopped - answered}[what]}


def start_process() -> Sample:
    """The peer: seconds until plain uvicorn, Python and its imports included, accepts connections."""
    started = time.perf_counter()
    with uvicorn_process():
        return {"seconds": time.perf_counter() - started}


def requests(server: str, client: str, path: str, count: int) -> Sample:
    """Seconds for one request, over `count` of them one after the other on one connection."""
    import httpx

    from playbook.kit.live import LiveClient, serving

    with ExitStack() as stack:
        if server == "serving":
            live = stack.enter_context(serving(make_app()))
            url = str(live.base_url)
        else:
            url = stack.enter_context(uvicorn_process())
        make: Callable[..., httpx.Client] = LiveClient if client == "LiveClient" else httpx.Client
        asking = stack.enter_context(make(base_url=url))
        for _ in range(50):  # the connection, and whatever either side makes at first
            asking.get(path).raise_for_status()
        started = time.perf_counter()
        for _ in range(count):
            asking.get(path)
        return {"seconds": (time.perf_counter() - started) / count}


# ---------------------------------------------------------------- the table


def work() -> None:
    chosen = parser(__doc__).parse_args()
    runs, count = (3, 200) if chosen.quick else (9, 1000)

    def start(name: str, what: str, before: int, against: Row | None = None, aim: float | None = None) -> Row:
        take = partial(fresh, start_and_stop, what=what, before=before)
        return Row(name, take, against, aim_seconds=aim, group="starting and stopping")

    process = Row("peer: uvicorn process, ready", start_process, group="starting and stopping")
    rows = [
        process,
        start("serving: ready, first time", "ready", 0, process, AIM_READY),
        start("serving: ready, second time", "ready", 1, process, AIM_READY),
        start("serving: first answer", "answer", 1),
        start("serving: stopped", "stop", 1),
    ]

    def ask(name: str, path: str, server: str, client: str, against: Row | None = None) -> Row:
        take = partial(fresh, requests, server=server, client=client, path=path, count=count)
        return Row(name, take, against, group=f"one request, {path} endpoint")

    asking = []
    for path in ("/sync", "/async"):
        peer = ask("peer: uvicorn process, httpx.Client", path, "process", "Client")
        asking += [
            peer,
            ask("serving, httpx.Client", path, "serving", "Client", peer),
            ask("serving, LiveClient", path, "serving", "LiveClient", peer),
        ]
    take_all(rows, runs)
    take_all(asking, min(runs, 5))
    for row in filter(Row.seconds, asking):
        row.note = f"{1 / median(row.seconds()):,.0f} requests/s"
    show("The live server", rows + asking, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
