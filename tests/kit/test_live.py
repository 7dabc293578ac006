"""A lesson's server is real, ready at once, and gone when its block ends, however it ends."""

import asyncio
import contextlib
import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse

from playbook.kit import live
from playbook.kit.display import format_exchange, show_http
from playbook.kit.live import LiveServer, serving


@pytest.fixture
def app() -> FastAPI:
    made = FastAPI()

    @made.get("/hello")
    def hello(name: str = "you") -> dict[str, str]:
        return {"hello": name}

    @made.post("/notes", status_code=201)
    async def post(request: Request, response: Response) -> dict[str, object]:
        response.headers.update({"Location": "/notes/1", "ETag": '"1"', "X-Noise": "port and time"})
        return {"received": await request.json()}

    @made.get("/old")
    def old() -> RedirectResponse:
        return RedirectResponse("/older", status_code=308)

    @made.get("/older")
    def older() -> RedirectResponse:
        return RedirectResponse("/hello?name=new", status_code=307)

    @made.get("/boom")
    def boom() -> None:
        raise ValueError("a bug")

    @made.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse((b"%d\n" % n for n in range(3)), media_type="text/plain")

    return made


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def servers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("uvicorn:")]


def test_it_answers_and_is_gone_afterwards(app: FastAPI) -> None:
    started = time.perf_counter()
    with serving(app) as client:
        ready = time.perf_counter() - started
        port = client.base_url.port
        assert client.get("/hello").json() == {"hello": "you"}
        assert port is not None
        assert not refused(port)
        assert client.base_url.host == "127.0.0.1"
    print(f"ready after {ready * 1000:.0f} ms")
    assert refused(port)
    assert servers() == []


def test_it_is_gone_when_the_block_raises(app: FastAPI) -> None:
    port = None

    def cell() -> None:
        nonlocal port
        with serving(app) as client:
            port = client.base_url.port
            raise KeyError("a cell that fails")

    with pytest.raises(KeyError):
        cell()
    assert port is not None
    assert refused(port)
    assert servers() == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))  # the port can be had again at once


def test_what_is_being_answered_when_it_stops_is_answered(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GRACE_SECONDS", 60)
    entered, held = threading.Event(), threading.Event()

    @app.get("/held")
    def wait() -> bool:
        entered.set()
        return held.wait(60)

    server = live.LiveServer(app).start()
    with ThreadPoolExecutor() as pool, live.LiveClient(server.url) as client:
        answer = pool.submit(client.get, "/held")
        assert entered.wait(60)
        stopped = pool.submit(server.stop)
        server.wait_until_closing()
        held.set()
        assert answer.result(60).json() is True
        stopped.result(60)


def test_the_same_cell_can_be_run_again(app: FastAPI) -> None:
    for _ in range(5):
        with serving(app) as client:
            assert client.get("/hello").status_code == 200
    assert servers() == []


def test_two_servers_at_once(app: FastAPI) -> None:
    with serving(app) as one, serving(app) as two:
        assert one.base_url.port != two.base_url.port
        assert one.get("/hello").status_code == two.get("/hello").status_code == 200


def failing_lifespan(moment: str) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if moment == "start":
            raise RuntimeError("no database at the door")
        yield
        raise RuntimeError("no database on the way out")

    return FastAPI(lifespan=lifespan)


def test_an_app_that_does_not_start_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(RuntimeError, match="did not start: RuntimeError: no database at the door") as caught,
        serving(failing_lifespan("start")),
    ):
        pytest.fail("the block was entered")
    assert "\n" not in str(caught.value)
    assert servers() == []
    assert capfd.readouterr() == ("", ""), "a traceback with this machine's paths would be in the notebook"


def test_a_lifespan_that_fails_at_the_end_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(failing_lifespan("stop")) as client:
        pass
    assert client.server_errors == ["RuntimeError: no database on the way out"]
    assert servers() == []
    assert capfd.readouterr() == ("", "")


def test_an_error_in_an_endpoint_is_a_500_and_is_told(app: FastAPI, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(app) as client:
        assert client.get("/boom").status_code == 500
    assert client.server_errors == ["ValueError: a bug"]
    assert capfd.readouterr() == ("", ""), "a traceback with this machine's paths would be in the notebook"


def test_errors_are_those_of_ones_own_server(app: FastAPI) -> None:
    with serving(app) as one, serving(app) as two:
        one.get("/boom")
        assert (len(one.server_errors), len(two.server_errors)) == (1, 0)
    handlers = logging.getLogger("uvicorn.error").handlers
    assert [h for h in handlers if type(h).__module__.startswith("playbook")] == [], "a stopped server still listens"


def test_a_socket_is_not_leaked_by_an_app_that_is_none() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        LiveServer("no.such.module:app").start()
    assert servers() == []


def test_twenty_requests_at_once_overlap(app: FastAPI) -> None:
    """All twenty are inside the endpoint at the same moment, or the barrier would break."""
    together = threading.Barrier(20)

    @app.get("/together")
    def meet() -> dict[str, bool]:
        together.wait(timeout=60)
        return {"met": True}

    with serving(app) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.get("/together").json(), range(20)))
        assert answers == [{"met": True}] * 20
        assert len(client.exchanges) == 20


def test_redirects_are_recorded_one_by_one(app: FastAPI) -> None:
    with serving(app) as client:
        client.get("/old", follow_redirects=True)
        assert [(e.method, e.path, e.status) for e in client.exchanges] == [
            ("GET", "/old", 308),
            ("GET", "/older", 307),
            ("GET", "/hello?name=new", 200),
        ]
        client.get("/old")
        assert client.exchanges[-1].status_line == "308 Permanent Redirect"


def test_what_is_recorded_went_over_the_wire(app: FastAPI) -> None:
    with serving(app) as client:
        client.post("/notes", json={"text": "hi"}, headers={"Idempotency-Key": "k"})
        [seen] = client.exchanges
        assert seen.request_body == b'{"text":"hi"}'
        assert seen.request_headers["idempotency-key"] == "k"
        assert seen.json() == {"received": {"text": "hi"}}
        assert seen.response_headers["location"] == "/notes/1"
        assert seen.started <= seen.ended <= time.perf_counter()
        client.delete("/nothing/here")
        assert client.exchanges[-1].status_line == "404 Not Found"


def test_show_http_prints_what_happened_and_nothing_else(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(app) as client:
        client.post(
            "/notes",
            json={"text": "hi"},
            headers={"Authorization": "Bearer secret", "If-Match": '"0"', "User-Agent": "varies"},
        )
        client.get("/hello", params={"name": "Ada"})
        show_http(client)
        client.get("/stream")
        show_http(client)
    assert capsys.readouterr().out == (
        "> POST /notes\n"
        "> Authorization: Bearer ...\n"
        '> If-Match: "0"\n'
        '> {"text": "hi"}\n'
        "< 201 Created\n"
        "< Location: /notes/1\n"
        '< Etag: "1"\n'
        '< {"received": {"text": "hi"}}\n'
        "\n"
        "> GET /hello?name=Ada\n"
        "< 200 OK\n"
        '< {"hello": "Ada"}\n'
        "> GET /stream\n"
        "< 200 OK\n"
        "< Content-Type: text/plain; charset=utf-8\n"
        "< 0\n"
        "< 1\n"
        "< 2\n"
    )


def test_nothing_said_is_nothing_shown(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(app) as client:
        show_http(client)
    assert capsys.readouterr().out == ""


def test_a_proxy_in_the_environment_is_not_asked(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(app) as client:
        assert client.get("/hello").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{client.base_url}/hello")  # an ordinary client would ask it


def test_a_streamed_answer_stays_a_stream(app: FastAPI) -> None:
    with serving(app) as client:
        with client.stream("GET", "/stream") as response:
            assert not response.is_stream_consumed
            assert list(response.iter_lines()) == ["0", "1", "2"]
        assert client.exchanges == [], "recording it would have read it whole"


def test_a_form_and_a_file_can_be_sent(app: FastAPI) -> None:
    @app.post("/raw")
    async def raw(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    def parts() -> Iterator[bytes]:
        yield b"abc"
        yield b"def"

    with serving(app) as client:
        client.post("/raw", data={"a": "1 2"})
        client.post("/raw", content=parts())
        client.post("/raw", files={"f": ("f.bin", os.urandom(64))})
        client.post("/raw", content=b"\xff\xfe")
        assert [e.status for e in client.exchanges] == [200] * 4
        shown = [format_exchange(e).splitlines() for e in client.exchanges]
    assert shown[0][2:4] == ["> a=1+2", "< 200 OK"]
    assert shown[1][:2] == ["> POST /raw", "< 200 OK"]  # a streamed body is not kept
    assert shown[3][1] == "> (2 bytes)"


def test_options_reach_the_client(app: FastAPI) -> None:
    with serving(app, headers={"X-From": "lesson"}, follow_redirects=True) as client:
        assert client.get("/old").json() == {"hello": "new"}
        assert client.exchanges[0].request_headers["x-from"] == "lesson"
    with pytest.raises(TypeError), serving(app, nonsense=1):
        pass
    assert servers() == [], "the server outlived a client that could not be made"


def test_a_request_after_a_failure_gets_its_answer() -> None:
    """uvicorn closes the connection after an exception; the next request must not go into it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/fails":
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            raise RuntimeError("after the answer")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with serving(app) as client:
        for _ in range(50):
            assert client.post("/fails").status_code == 500
            assert client.post("/works").status_code == 204


def test_a_connection_that_was_idle_for_half_an_hour_is_still_open() -> None:
    """On a busy machine a client's pause was longer than the five seconds after which uvicorn closes: ECONNRESET."""
    app = FastAPI()

    @app.get("/later")
    async def later() -> None:
        loop = asyncio.get_running_loop()
        loop.time = lambda: time.monotonic() + 1800  # type: ignore[method-assign]

    with serving(app) as client:
        assert client.server is not None
        idle = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=30)
        for _ in range(2):
            idle.request("GET", "/nothing")
            assert idle.getresponse().read() == b'{"detail":"Not Found"}'
            client.get("/later")
            client.get("/later")  # the timers that are due have run
        idle.close()
