"""Processor time of one request on Pantry's ordinary routes, beside its peer, another checkout, and bare FastAPI.

Processor time and not requests per second: it does not depend on what else the machine does. A fixed number of requests
goes over keep-alive connections; what the server's process has used meanwhile is divided by it (on PostgreSQL, beside
it, what the backends have used). The servers take turns, round by round, and each ratio is one of a round: its lowest
and highest show the noise, and a ratio whose range includes 1 is none. Aim: at most the peer's time, then two thirds.

The peer (`peer/peer.mjs`) is Hono, better-auth and Drizzle doing the same from the same tables. It needs Node and npm,
which puts its packages into the user's cache; without them it is left out. `--beside FOLDER` measures another checkout,
`--routes` and `--engines` less. Linux only: it reads the times of other processes.

Then requests per second and the 99th percentile of what they wait, by wrk, in rounds of the same kind (`--no-rates`).
These do depend on what else the machine does, wrk and the database among it. Aim: at least the peer's rate and no worse
percentile, then 1.5 times. Without `wrk` they are left out, which is said.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import BooleanOptionalAction
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from measure import ROOT, Failed, at_least_one, main, new_table, parser, print_all

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "contract"))

from ports import free_port

PACKAGES = ["uvicorn", "httptools", "fastapi", "starlette", "pydantic", "sqlalchemy", "psycopg", "duckdb"]
CONNECTIONS = 16
START_SECONDS = 120
PERSON = {"name": "Alice", "email": "alice@example.com", "password": "violet anchor rides a slow train"}
SETTINGS = {"ENVIRONMENT": "test", "RATE_LIMITS": "off", "REQUIRE_EMAIL_VERIFICATION": "off"}
ORGANIZATION = "bench"
JSON = {"content-type": "application/json"}


# ---------------------------------------------------------------- the servers, each in a process of its own


@dataclass
class Server:
    """A running server. `backends` gives the processes that work for it in PostgreSQL."""

    name: str
    url: str
    process: psutil.Process
    backends: Callable[[], list[psutil.Process]] = list
    headers: dict[str, str] = field(default_factory=dict)  # of every request: the session's cookie
    tags: dict[str, str] = field(default_factory=dict)  # of what PATCH changes, as last answered

    def used(self) -> dict[int, float]:
        """Seconds of processor time so far, by process: of the server, of its backends."""
        return {process.pid: seconds_of(process) for process in (self.process, *self.backends())}


def seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def started(command: list[str], folder: Path, env: Mapping[str, str], url: str) -> Iterator[psutil.Process]:
    """A process that answers at `url`. Raises Failed, with its last words, when it does not."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            until = time.monotonic() + START_SECONDS
            while not answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise Failed(f"{command[-1]} did not start: {log.read()[-500:]}")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def pantry(name: str, folder: Path, database: str, options: Sequence[str] = ()) -> Iterator[Server]:
    """Pantry of the checkout in `folder`, with a user who owns an organization and its packages."""
    from playbook.kit.running import environment

    port = free_port()
    base = f"http://127.0.0.1:{port}"
    own = {"BASE_URL": base, "SECRET": "a secret of the benchmarks, for nobody", "MAIL_URL": f"file:{os.devnull}"}
    env = environment(database) | {f"PANTRY_{key}": value for key, value in (SETTINGS | own).items()}
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", str(port), *options]
    env["PYTHONPATH"] = str(folder)
    with started(command, folder, env, f"{base}/api/auth/ok") as process:
        server = Server(name, base, process, backends_of(database))
        sign_up(server)
        send(server, "POST", "/organizations", JSON, {"slug": ORGANIZATION, "name": "Bench"}, 201)
        yield server


@contextmanager
def peer(database: str) -> Iterator[Server]:
    """The peer on a database that Pantry has filled."""
    import psycopg
    from better_auth_server import for_node, node, packages, plain_environment

    source = Path(__file__).parent / "peer"
    program, installed = node(), packages(source)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    env = plain_environment() | {"NODE_ENV": "production", "DATABASE_URL": for_node(database), "PORT": str(port)}
    with tempfile.TemporaryDirectory(prefix="playbook-peer-") as name:
        folder = Path(name)
        (folder / "node_modules").symlink_to(installed / "node_modules", target_is_directory=True)
        for part in source.iterdir():
            (folder / part.name).write_bytes(part.read_bytes())
        with started([program, "peer.mjs"], folder, env, f"{base}/api/auth/ok") as process:
            server = Server("peer", base, process, backends_of(database))
            sign_up(server)
            with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO organizations (id, slug, name, version, created_at, updated_at)"
                    " VALUES (gen_random_uuid(), %s, 'Bench', 1, now(), now())",
                    [ORGANIZATION],
                )
                connection.execute(
                    "INSERT INTO member SELECT o.id, u.id, 'owner' FROM organizations o, \"user\" u WHERE o.slug = %s",
                    [ORGANIZATION],
                )
            yield server


def make_bare() -> Any:
    """The floor: bare FastAPI, whose endpoint runs in a thread as Pantry's do, with the bytes of BENCH_BODY."""
    from fastapi import FastAPI, Response

    app, body = FastAPI(), Path(os.environ["BENCH_BODY"]).read_bytes()

    @app.get("/packages")
    def bare() -> Response:
        return Response(body, media_type="application/json")

    return app


# The least that a list needs of DuckDB: neither who may see what, nor the newest versions.
WHO = "SELECT s.*, u.* FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = '{}'"
PAGE = (
    "SELECT normalized_name, slug, summary, private, popularity_rank, p.created_at, p.updated_at"
    " FROM packages p JOIN organizations o ON o.id = p.organization_id ORDER BY normalized_name LIMIT 21"
)


def make_asking() -> Any:
    """Bare FastAPI that asks DuckDB two statements first, by the driver alone: BENCH_DATABASE, a file of Pantry's."""
    import duckdb
    from fastapi import FastAPI, Response

    app, body = FastAPI(), Path(os.environ["BENCH_BODY"]).read_bytes()
    local = threading.local()
    connection = duckdb.connect(os.environ["BENCH_DATABASE"], read_only=True, config={"threads": 1})
    ((token,),) = connection.execute("SELECT token_hash FROM sessions").fetchall()

    @app.get("/packages")
    def asking() -> Response:
        if not hasattr(local, "cursor"):
            local.cursor = connection.cursor()
        if len(local.cursor.execute(WHO.format(token)).fetchall()) != 1:
            raise RuntimeError("nobody is signed in")
        if len(local.cursor.execute(PAGE).fetchall()) != 21:
            raise RuntimeError("there are too few packages")
        return Response(body, media_type="application/json")

    return app


BARE, ASKING = "bare FastAPI", "bare, two statements"


@contextmanager
def bare(body: bytes, database: Path | None = None) -> Iterator[Server]:
    """Bare FastAPI, or with `database` the one that asks DuckDB."""

    port = free_port()
    with tempfile.NamedTemporaryFile(prefix="playbook-bench-") as file:
        file.write(body)
        file.flush()
        factory = "make_bare" if database is None else "make_asking"
        command = [sys.executable, "-m", "uvicorn", "--factory", f"bench_ordinary:{factory}", "--port", str(port)]
        command += ["--log-level", "critical", "--no-access-log"]
        url = f"http://127.0.0.1:{port}"
        env = {**os.environ, "BENCH_BODY": file.name, "BENCH_DATABASE": str(database)}
        with started(command, Path(__file__).parent, env, f"{url}/packages") as process:
            yield Server(BARE if database is None else ASKING, url, process)


def backends_of(database: str) -> Callable[[], list[psutil.Process]]:
    """The processes of PostgreSQL that are connected to `database`; none where they run on another machine."""
    if not database.startswith("postgresql"):
        return list
    import psycopg

    def find() -> list[psutil.Process]:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(database.replace("+psycopg", "")) as connection:
            pids = [row[0] for row in connection.execute(query)]
        return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]

    return find


# ---------------------------------------------------------------- requests


Answer = tuple[Mapping[str, str], bytes]


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: Any, status: int
) -> Answer:
    """Headers and body of the answer. Raises Failed when its status is another one."""
    connection.request(method, path, json.dumps(body) if body is not None else None, dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != status:
        raise Failed(f"{method} {path} answered {answer.status}: {content[:300]!r}")
    return {name.lower(): value for name, value in answer.getheaders()}, content


def send(server: Server, method: str, path: str, headers: Mapping[str, str], body: Any, status: int) -> Answer:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    try:
        return exchange(connection, method, path, {**server.headers, **headers}, body, status)
    finally:
        connection.close()


def sign_up(server: Server) -> None:
    """Make the user; from here on `server.headers` carry their session, and the Origin of a page."""
    server.headers["origin"] = server.url
    answer, _ = send(server, "POST", "/api/auth/sign-up/email", JSON, PERSON, 200)
    server.headers["cookie"] = answer["set-cookie"].split(";")[0]


@dataclass
class Route:
    """One request. `ask(server, connection, lane, number)`: `lane` is its connection's number, `number` its own.

    wrk asks for `path`, or for what `writes.lua` makes of the arguments that `script(server, folder, label)` gives.
    """

    name: str
    ask: Callable[[Server, http.client.HTTPConnection, int, str], None]
    path: str = ""
    script: Callable[[Server, Path, str], list[str]] | None = None


def get(path: str) -> Route:
    def ask(server: Server, connection: http.client.HTTPConnection, lane: int, number: str) -> None:
        exchange(connection, "GET", path, server.headers, None, 200)

    return Route(f"GET {path}", ask, path)


def make(server: Server, connection: http.client.HTTPConnection, lane: int, number: str) -> None:
    body = {"name": f"zz-{number}", "organization": ORGANIZATION, "summary": "made by the benchmark"}
    exchange(connection, "POST", "/packages", server.headers | JSON, body, 201)


def change(server: Server, connection: http.client.HTTPConnection, lane: int, number: str) -> None:
    """Each connection changes a package of its own, whose tag it knows from the answer before."""
    path = f"/packages/zz-lane-{lane}"
    if path not in server.tags:
        make(server, connection, lane, f"lane-{lane}")
        server.tags[path] = exchange(connection, "GET", path, server.headers, None, 200)[0]["etag"]
    headers = server.headers | JSON | {"if-match": server.tags[path]}
    answer, _ = exchange(connection, "PATCH", path, headers, {"summary": f"changed by {number}"}, 200)
    server.tags[path] = answer["etag"]


def script_of_post(server: Server, folder: Path, label: str) -> list[str]:
    return ["post", label]


def script_of_patch(server: Server, folder: Path, label: str) -> list[str]:
    """A file with new packages and their tags; more of them than there are connections.

    New ones, since wrk leaves with requests under way, and these change the packages of the run before a little later.
    """
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    lines = []
    try:
        for lane in range(4 * CONNECTIONS):
            make(server, connection, lane, f"{label}-{lane}")
            name = f"zz-{label}-{lane}"
            tag = exchange(connection, "GET", f"/packages/{name}", server.headers, None, 200)[0]["etag"]
            lines.append(f"{name} {tag}\n")
    finally:
        connection.close()
    (folder / "tags").write_text("".join(lines), encoding="ascii")
    return ["patch", str(folder / "tags")]


ROUTES = {
    "ok": get("/api/auth/ok"),
    "session": get("/api/auth/get-session"),
    "list": get("/packages"),
    "one": get("/packages/numpy"),
    "post": Route("POST /packages", make, script=script_of_post),
    "patch": Route("PATCH /packages/{name}", change, script=script_of_patch),
}


def ask_all(server: Server, route: Route, count: int, label: str) -> None:
    """`count` requests over CONNECTIONS connections, each one after the other. Raises what one of them raised."""
    failures: list[BaseException] = []

    def lane(number: int) -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        try:
            for each in range(number, count, CONNECTIONS):
                route.ask(server, connection, number, f"{label}-{each}")
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=lane, args=[number]) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# ---------------------------------------------------------------- the measurement


@dataclass
class Cost:
    """What one request of a route costs one server: seconds of processor time, one entry a round."""

    server: Server
    own: list[float] = field(default_factory=list)
    database: list[float] = field(default_factory=list)

    def take(self, route: Route, count: int, label: str) -> None:
        before = self.server.used()
        ask_all(self.server, route, count, label)
        took = {pid: after - before.get(pid, 0) for pid, after in self.server.used().items()}
        self.own.append(took.pop(self.server.process.pid) / count)
        self.database.append(sum(took.values()) / count)


def measure(servers: Sequence[Server], route: Route, count: int, rounds: int) -> list[Cost]:
    """Warm up (Node compiles what runs often), then let the servers take turns.

    Every second round begins with the last of them.
    """
    costs = [Cost(server) for server in servers]
    for cost in costs:
        ask_all(cost.server, route, count, f"{route.name.split()[0].lower()}-warm")
    for number in range(rounds):
        for cost in costs if number % 2 == 0 else costs[::-1]:
            cost.take(route, count, f"{route.name.split()[0].lower()}-{number}")
    return costs


# ---------------------------------------------------------------- rates, by wrk

WRK = "wrk is not installed: on Debian and Ubuntu `apt-get install wrk`, on Fedora `dnf install wrk`"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def read_wrk(said: str) -> tuple[float, float]:
    """Requests per second and the 99th percentile, in seconds, of what wrk printed.

    Raises Failed when something was refused, timed out or not read: what was fast then was no answer.
    """
    faults = re.findall(r"(?m)^ *(?:Non-2xx or 3xx responses|Socket errors): .*", said)
    rate = re.search(r"Requests/sec: +([0-9.]+)", said)
    slow = re.search(r"(?m)^ +99% +([0-9.]+)(us|ms|s|m) *$", said)
    if faults or rate is None or slow is None or float(rate[1]) == 0:
        raise Failed(f"wrk: {'; '.join(map(str.strip, faults)) or said.strip()[-300:] or 'no output'}")
    return float(rate[1]), float(slow[1]) * UNITS[slow[2]]


@dataclass
class Rate:
    """What one server answers on one route: requests per second, 99th percentiles in seconds, one entry a round."""

    server: Server
    rates: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)

    def take(self, route: Route, seconds: int, label: str) -> None:
        program = shutil.which("wrk")
        if program is None:
            raise Failed(WRK)
        with tempfile.TemporaryDirectory(prefix="playbook-wrk-") as folder:
            script = route.script(self.server, Path(folder), label) if route.script else []
            headers = self.server.headers | (JSON if script else {})
            command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
            command += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
            command += ["--script", str(Path(__file__).with_name("writes.lua"))] if script else []
            command += [self.server.url + route.path, *(["--", *script] if script else [])]
            try:
                done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=seconds + 60)
            except subprocess.TimeoutExpired:  # it was ended
                raise Failed(f"wrk took longer than {seconds + 60} s") from None
        try:
            if done.returncode:
                raise Failed(f"wrk: {done.stderr.strip()[-300:]}")
            rate, slow = read_wrk(done.stdout)
        except Failed as failed:
            raise Failed(f"{self.server.name}, {route.name}: {failed}") from None
        self.rates.append(rate)
        self.slow.append(slow)


def measure_rates(servers: Sequence[Server], route: Route, seconds: int, rounds: int) -> list[Rate]:
    """In turns, as `measure` does it, after a second each to warm up."""
    word = route.name.split()[0].lower()
    for server in servers:
        Rate(server).take(route, 1, f"{word}-wrk-warm")
    found = [Rate(server) for server in servers]
    for number in range(rounds):
        for each in found if number % 2 == 0 else found[::-1]:
            each.take(route, seconds, f"{word}-wrk-{number}")
    return found


def add_rates(table: Any, title: str, found: Sequence[Rate]) -> None:
    table.add_section()
    table.add_row(title, style="bold")
    mine = found[0]
    for each in found:
        span = f"{min(each.rates):,.0f} to {max(each.rates):,.0f}"
        quotients = sorted(a / b for a, b in zip(mine.rates, each.rates, strict=True))
        ratio = f"{median(quotients):.2f} ({quotients[0]:.2f} to {quotients[-1]:.2f})" if each is not mine else ""
        slow = f"{median(each.slow) * 1000:,.1f}"
        table.add_row(each.server.name, f"{median(each.rates):,.0f}", span, slow, ratio)


# ---------------------------------------------------------------- the tables


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def ratios(mine: Cost, other: Cost) -> str:
    """The median of the rounds' ratios, with the lowest and the highest."""
    each = sorted(a / b for a, b in zip(mine.own, other.own, strict=True))
    return f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def servers_on(engine: str, chosen: Any, stack: ExitStack) -> list[Server]:
    """All that is to be compared on one engine, each on a database of its own; Pantry first."""
    from better_auth_server import NodeUnavailable

    from playbook.kit import postgres

    checkouts = {"Pantry": ROOT} | {str(folder.name): folder for folder in chosen.beside}
    if engine == "DuckDB":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-"))
        found = [
            stack.enter_context(pantry(name, checkout, f"duckdb:///{folder}/{name}.duckdb"))
            for name, checkout in checkouts.items()
        ]
        body = send(found[0], "GET", "/packages", {}, None, 200)[1]
        with pantry("to fill it", ROOT, f"duckdb:///{folder}/asked.duckdb"):
            pass
        asking = stack.enter_context(bare(body, Path(folder) / "asked.duckdb"))
        return [*found, asking, stack.enter_context(bare(body))]
    server = stack.enter_context(postgres.server())
    found = []
    for name, checkout in checkouts.items():
        database = stack.enter_context(postgres.database(server))
        found.append(stack.enter_context(pantry(name, checkout, database)))
    body = send(found[0], "GET", "/packages", {}, None, 200)[1]
    try:
        database = stack.enter_context(postgres.database(server))
        with pantry("to fill it", ROOT, database) as filled:
            send(filled, "DELETE", f"/organizations/{ORGANIZATION}", {"if-match": "*"}, None, 204)
        found.append(stack.enter_context(peer(database)))
    except NodeUnavailable as error:
        print(f"the peer is left out: {error}")
    return [*found, stack.enter_context(bare(body))]


def work() -> None:
    from playbook.kit import postgres

    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=at_least_one, default=400, help="of one round and route (default: 400)")
    arguments.add_argument("--rounds", type=at_least_one, default=5, help="default: 5")
    arguments.add_argument("--beside", type=Path, action="append", default=[], help="another checkout; repeatable")
    arguments.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    arguments.add_argument("--engines", nargs="+", choices=["PostgreSQL", "DuckDB"], default=["PostgreSQL", "DuckDB"])
    arguments.add_argument("--rates", action=BooleanOptionalAction, help="requests per second and p99, by wrk")
    arguments.add_argument(
        "--seconds", type=at_least_one, default=2, help="of one round and route, of --rates (default: 2)"
    )
    chosen = arguments.parse_args()
    if shutil.which("wrk") is None and chosen.rates is not False:
        if chosen.rates:
            raise Failed(WRK)
        print(f"the rates are left out: {WRK}")
        chosen.rates = False
    chosen.rates = chosen.rates is not False
    if not sys.platform.startswith("linux"):
        raise Failed("this reads the processor times of other processes, which only Linux shows to everybody")
    seconds = 1 if chosen.quick else chosen.seconds
    count, rounds = (80, 2) if chosen.quick else (chosen.requests, chosen.rounds)
    headings = ["measured", "ms", "lowest to highest", "PostgreSQL", "Pantry's ratio to it"]
    table = new_table("Processor time of one request", headings, headings[1:])
    columns = ["measured", "requests/s", "lowest to highest", "p99 ms", "Pantry's ratio to it"]
    rates = new_table("Requests per second", columns, columns[1:])
    for engine in chosen.engines:
        try:
            with ExitStack() as stack:
                servers = servers_on(engine, chosen, stack)
                for name in chosen.routes:
                    route = ROUTES[name]
                    those = [each for each in servers if each.name not in (BARE, ASKING) or name == "list"]
                    costs = measure(those, route, count, rounds)
                    table.add_section()
                    table.add_row(f"{engine}, {route.name}", style="bold")
                    for cost in costs:
                        span = f"{ms(min(cost.own))} to {ms(max(cost.own))}"
                        backends = ms(median(cost.database)) if engine == "PostgreSQL" and any(cost.database) else ""
                        ratio = "" if cost is costs[0] else ratios(costs[0], cost)
                        table.add_row(cost.server.name, ms(median(cost.own)), span, backends, ratio)
                    if chosen.rates:
                        add_rates(rates, f"{engine}, {route.name}", measure_rates(those, route, seconds, rounds))
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
    remarks = [
        f"{count} requests over {CONNECTIONS} connections in each of {rounds} rounds; medians of the rounds.",
        "PostgreSQL: of the backends that are connected at the end. One whose connection was closed is not counted.",
        "The floor, bare FastAPI, answers the list's bytes to everybody. On DuckDB also when it has asked, by the",
        "driver alone, for the session and for 21 packages in order: not who may see them, nor their versions.",
        "While nobody writes, Pantry asks DuckDB nothing again (plans.Unwritten): these are the rates between writes.",
    ]
    if chosen.rates:
        print_all(
            PACKAGES,
            rates,
            [f"wrk -t1 -c{CONNECTIONS}, {seconds} s in each of {rounds} rounds; medians of the rounds."],
        )
    print_all(PACKAGES, table, remarks)


if __name__ == "__main__":
    main(work)
