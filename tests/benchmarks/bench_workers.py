"""`playbook serve --workers N` on PostgreSQL: what a request costs, and how many there are a second.

Requests per second of processor time do not depend on what else the machine does: of all of the service's processes
together, the parent too. That they stay as many is what several workers can promise: as many times the rate as there
are cores for them. The rate itself is printed beside it, and needs a machine with nothing else to do and with cores for
the workers, for PostgreSQL's processes and for the clients, which run in processes of their own. How even the work was
spread is the part of the worker with most. The services take turns, round by round; a ratio is one of a round, to one
worker, with its lowest and highest: one whose range includes 1 is none. Linux only: it reads the times of others.
"""

import http.client
import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench_ordinary import CONNECTIONS, PACKAGES, ROUTES, Route, Server, pantry, seconds_of
from measure import MB, ROOT, Failed, at_least_one, main, new_table, parser, print_all

from playbook.kit.running import cores

ASKED = ("ok", "session", "list", "one", "post")  # PATCH needs what its last answer said, which a client forgets here


# ---------------------------------------------------------------- the clients


def be_client(server: Server, route: Route, lanes: Sequence[int], count: int, label: str, failed: Any) -> None:
    """Ask `count` times on each lane, a connection. In a process of its own."""

    def lane(number: int) -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        try:
            for each in range(count):
                route.ask(server, connection, number, f"{label}-{number}-{each}")
        except BaseException as error:
            failed.put(f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    threads = [threading.Thread(target=lane, args=[number]) for number in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask_all(server: Server, route: Route, count: int, label: str, clients: int) -> float:
    """About `count` requests over CONNECTIONS connections of `clients` processes; how many a second. Raises Failed."""
    context = multiprocessing.get_context("fork")
    failed = context.SimpleQueue()
    each = max(1, count // CONNECTIONS)
    started = time.perf_counter()
    processes = [
        context.Process(
            target=be_client, args=(server, route, range(number, CONNECTIONS, clients), each, label, failed)
        )
        for number in range(clients)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    if not failed.empty():
        raise Failed(failed.get())
    return each * CONNECTIONS / seconds


# ---------------------------------------------------------------- the measurement


@dataclass
class Cost:
    """What was measured of one service, one entry a round."""

    server: Server
    per_cpu_second: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    database: list[float] = field(default_factory=list)  # seconds of PostgreSQL's processes, of one request
    busiest: list[float] = field(default_factory=list)

    def take(self, route: Route, count: int, label: str, clients: int) -> None:
        family = [self.server.process, *self.server.process.children()]
        before = {each.pid: seconds_of(each) for each in family}
        backends = {each.pid: seconds_of(each) for each in self.server.backends()}
        rate = ask_all(self.server, route, count, label, clients)
        used = [seconds_of(each) - before[each.pid] for each in family]
        later = [seconds_of(each) - backends.get(each.pid, 0.0) for each in self.server.backends()]
        asked = count // CONNECTIONS * CONNECTIONS
        self.per_second.append(rate)
        self.per_cpu_second.append(asked / max(sum(used), 0.01))
        self.database.append(sum(later) / asked)
        self.busiest.append(max(used) / max(sum(used), 0.01))


def measure(servers: Sequence[Server], route: Route, count: int, rounds: int, clients: int) -> list[Cost]:
    """Warm up, then let the services take turns. Every second round begins with the last of them."""
    costs = [Cost(server) for server in servers]
    name = route.name.split()[0].lower()
    for cost in costs:
        ask_all(cost.server, route, count, f"{name}-warm", clients)
    for number in range(rounds):
        for cost in costs if number % 2 == 0 else costs[::-1]:
            cost.take(route, count, f"{name}-{number}", clients)
    return costs


def ratio(mine: Sequence[float], other: Sequence[float]) -> str:
    """The median of the rounds' ratios, with the lowest and the highest."""
    each = sorted(a / b for a, b in zip(mine, other, strict=True))
    return f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def memory_of(server: Server) -> float:
    """MB of all its processes; what they share is counted once."""
    return sum(each.memory_full_info().pss for each in (server.process, *server.process.children())) / MB


def work() -> None:
    from playbook.kit import postgres

    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=at_least_one, default=1600, help="of one round and route (default: 1600)")
    arguments.add_argument("--rounds", type=at_least_one, default=5, help="default: 5")
    arguments.add_argument("--routes", nargs="+", choices=ASKED, default=list(ASKED))
    powers = [2**n for n in range(1, 6) if 2**n <= cores()]
    arguments.add_argument(
        "--workers", nargs="+", type=at_least_one, default=powers or [2], help="beside 1; default: 2, 4, ... cores"
    )
    chosen = arguments.parse_args()
    if not sys.platform.startswith("linux"):
        raise Failed("this reads the processor times of other processes, which only Linux shows to everybody")
    count, rounds = (320, 2) if chosen.quick else (max(CONNECTIONS, chosen.requests), chosen.rounds)
    headings = ["workers", "requests per CPU s", "to 1 worker", "PostgreSQL ms", "per s", "to 1", "most", "MB"]
    table = new_table("Several workers", headings, headings[1:])
    numbers = list(dict.fromkeys([1, *chosen.workers]))
    try:
        with ExitStack() as stack:
            running = stack.enter_context(postgres.server())
            servers = []
            for number in numbers:
                database = stack.enter_context(postgres.database(running))
                options = [] if number == 1 else ["--workers", str(number)]
                servers.append(stack.enter_context(pantry(str(number), ROOT, database, options)))
            for name in chosen.routes:
                costs = measure(servers, ROUTES[name], count, rounds, min(cores(), CONNECTIONS))
                table.add_section()
                table.add_row(ROUTES[name].name, style="bold")
                for cost in costs:
                    alone = cost is costs[0]
                    table.add_row(
                        cost.server.name,
                        f"{median(cost.per_cpu_second):,.0f}",
                        "" if alone else ratio(cost.per_cpu_second, costs[0].per_cpu_second),
                        f"{median(cost.database) * 1000:.2f}",
                        f"{median(cost.per_second):,.0f}",
                        "" if alone else ratio(cost.per_second, costs[0].per_second),
                        f"{median(cost.busiest):.0%}",
                        f"{memory_of(cost.server):,.0f}",
                    )
    except postgres.PostgresUnavailable as error:
        raise Failed(str(error)) from None
    remarks = [
        f"{count} requests over {CONNECTIONS} connections in each of {rounds} rounds; medians of the rounds.",
        f"{cores()} cores for workers, PostgreSQL and clients together: where they are few, the rate says little.",
        "PostgreSQL ms: processor time of its processes for one request. Most: the busiest worker's part of the work.",
        "MB: of all processes of the service together, what they share counted once.",
        "get-session gathers what is asked at once into one statement: each worker has fewer to gather.",
    ]
    print_all(PACKAGES, table, remarks)


if __name__ == "__main__":
    main(work)
