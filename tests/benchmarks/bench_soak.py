"""Does Pantry stay as it is under work that goes on? Errors, memory, threads, connections and open files over minutes.

One process with 16 connections, each of which asks for something else all the time: lists, single packages, sessions,
and packages that it makes, changes and deletes. At intervals a line is printed. Then each measure is judged by the
slope of a straight line through the samples of the second half: in the first, pools and caches fill, which takes the
longer the fewer requests there are. By how much has it grown from there to the end? Memory may grow by 3 %, a count by
2, since a pool may open one connection more. An answer with another status than the expected one
is an error. Exit code 1 for an error, or for a measure that grew.

    playbook bench soak        one minute on each engine
    python tests/benchmarks/bench_soak.py --minutes 10 --engines PostgreSQL
"""

import http.client
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, linear_regression

import psutil
from bench_ordinary import CONNECTIONS, JSON, ORGANIZATION, ROUTES, Server, exchange, pantry
from measure import MB, ROOT, Failed, at_least_one, main, new_table, parser, print_all

PACKAGES = ["uvicorn", "fastapi", "sqlalchemy", "psycopg", "duckdb"]
WARM = 0.5  # of the time: pools, caches and the allocator fill
MAY_GROW = {"MB": 0.03}  # as a part of the mean; all other measures are counts, and may grow by TWO
TWO = 2.0  # one step of 1 in the middle makes a slope of 1.5
WEIGHTS = {"list": 3, "one": 4, "session": 3, "patch": 2, "come and go": 1}


# ---------------------------------------------------------------- the work


@dataclass
class Traffic:
    """What the lanes have done so far."""

    server: Server
    stop: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def lane(self, number: int) -> None:
        """Ask until `stop`. An error is counted, and the connection opened again."""
        draw = random.Random(number)
        connection, count = http.client.HTTPConnection(self.server.url.removeprefix("http://")), 0
        while not self.stop.is_set():
            name = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            count += 1
            try:
                if name == "come and go":
                    come_and_go(self.server, connection, f"{number}-{count}")
                else:
                    ROUTES[name].ask(self.server, connection, number, f"{number}-{count}")
                self.answered[name] += 1
            except (Failed, OSError, http.client.HTTPException) as error:
                self.errors[f"{name}: {type(error).__name__} {str(error)[:120]}"] += 1
                self.server.tags.pop(f"/packages/zz-lane-{number}", None) if name == "patch" else None
                connection.close()
        connection.close()


def come_and_go(server: Server, connection: http.client.HTTPConnection, name: str) -> None:
    """Make a package and delete it: the tables stay as large as they are."""
    path = f"/packages/zz-{name}"
    body = {"name": f"zz-{name}", "organization": ORGANIZATION}
    exchange(connection, "POST", "/packages", server.headers | JSON, body, 201)
    tag = exchange(connection, "GET", path, server.headers, None, 200)[0]["etag"]
    exchange(connection, "DELETE", path, server.headers | {"if-match": tag}, None, 204)


# ---------------------------------------------------------------- what is measured


def sample(server: Server) -> dict[str, float]:
    """The measures of this moment. Raises Failed when the process is gone."""
    try:
        with server.process.oneshot():
            found = {"MB": server.process.memory_info().rss / MB, "threads": float(server.process.num_threads())}
            found["files"] = float(server.process.num_fds())
    except psutil.NoSuchProcess:
        raise Failed("the server's process has ended") from None
    if backends := server.backends():
        found["connections"] = float(len(backends))
    return found


def growth(times: Sequence[float], values: Sequence[float]) -> float:
    """By how much a straight line through the values rises from the first time to the last."""
    return linear_regression(times, values).slope * (times[-1] - times[0])


def judge(times: Sequence[float], samples: Sequence[dict[str, float]]) -> dict[str, tuple[float, bool]]:
    """Of each measure its growth after the warm part, and whether that is flat. Needs two samples after it."""
    first = next(index for index, at in enumerate(times) if at >= WARM * times[-1])
    later, verdicts = times[first:], {}
    for name in samples[-1]:
        values = [each.get(name, 0.0) for each in samples[first:]]
        grown = growth(later, values)
        verdicts[name] = grown, grown <= MAY_GROW.get(name, 0.0) * fmean(values) + (name not in MAY_GROW) * TWO
    return verdicts


def soak(name: str, server: Server, seconds: float, every: float) -> str:
    """Run the traffic and print the table. What was wrong; empty when nothing was."""
    traffic = Traffic(server)
    lanes = [threading.Thread(target=traffic.lane, args=[number]) for number in range(CONNECTIONS)]
    times: list[float] = []
    samples: list[dict[str, float]] = []
    started = time.monotonic()
    for lane in lanes:
        lane.start()
    try:
        while (now := time.monotonic() - started) < seconds:
            traffic.stop.wait(min(every, seconds - now))
            times.append(time.monotonic() - started)
            samples.append(sample(server))
            done, wrong = traffic.answered.total(), traffic.errors.total()
            measures = ", ".join(f"{value:.0f} {measure}" for measure, value in samples[-1].items())
            print(f"{name} {times[-1]:5.0f} s: {done} answered, {wrong} errors, {measures}", flush=True)
    finally:
        traffic.stop.set()
        for lane in lanes:
            lane.join()
    verdicts = judge(times, samples)
    table = new_table(
        f"{name}, {seconds:.0f} s: {traffic.answered.total()} answered, {traffic.errors.total()} errors",
        ["measure", "first", "after the warm part", "last", "most", "growth", "verdict"],
        ["first", "after the warm part", "last", "most", "growth"],
    )
    warm = next(index for index, at in enumerate(times) if at >= WARM * times[-1])
    for measure, (grown, flat) in verdicts.items():
        column = [each.get(measure, 0.0) for each in samples]
        numbers = [f"{value:.1f}" for value in (column[0], column[warm], column[-1], max(column), grown)]
        table.add_row(measure, *numbers, "flat" if flat else "grows")
    print_all(PACKAGES, table, [f"{count} x {error}" for error, count in traffic.errors.most_common(5)])
    grows = [measure for measure, (_, flat) in verdicts.items() if not flat]
    return ", ".join([f"{name}: {each} grows" for each in grows] + [f"{name}: errors"] * bool(traffic.errors))


def work() -> None:
    from playbook.kit import postgres

    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=at_least_one, default=1, help="on each engine (default: 1)")
    arguments.add_argument("--engines", nargs="+", choices=["PostgreSQL", "DuckDB"], default=["PostgreSQL", "DuckDB"])
    chosen = arguments.parse_args()
    if not sys.platform.startswith("linux"):
        raise Failed("this counts the open files of another process, which only Linux shows to everybody")
    seconds = 20.0 if chosen.quick else 60.0 * chosen.minutes
    wrong = []
    for engine in chosen.engines:
        try:
            with ExitStack() as stack:
                if engine == "DuckDB":
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-soak-"))
                    database = f"duckdb:///{Path(folder)}/soak.duckdb"
                else:
                    database = stack.enter_context(postgres.database(stack.enter_context(postgres.server())))
                server = stack.enter_context(pantry("Pantry", ROOT, database))
                wrong.append(soak(engine, server, seconds, seconds / 20))
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
    if any(wrong):
        raise Failed("; ".join(filter(None, wrong)))


if __name__ == "__main__":
    main(work)
