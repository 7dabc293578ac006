"""A rollout in a lesson: the servers of releases on one database, a front that takes turns, clients that go on.

The service of every release has `PUT /packages/NAME`, which takes and returns `{"license": TEXT}`, and a GET that
returns the same.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Self

import httpx
import sqlalchemy as sa

from playbook.kit.display import Shown, mermaid
from playbook.kit.live import NO_TLS, serving

LONGEST_WAIT = 60  # seconds; a busy machine is no fault of the page
PAUSE = 0.01  # seconds between two rounds of a client, so that the machine has time for what is rolled out


class Front:
    """What a load balancer does: hands out the base URLs in `rotation`, in turn, and knows which servers are busy."""

    def __init__(self) -> None:
        self.rotation: list[str] = []
        self.busy: Counter[str] = Counter()
        self.changed = threading.Condition()

    def remove(self, url: str, timeout: float = LONGEST_WAIT) -> None:
        """Take a server out and wait, `timeout` seconds, for what it has begun. Raises TimeoutError."""
        with self.changed:
            self.rotation.remove(url)
            if not self.changed.wait_for(lambda: not self.busy[url], timeout):
                raise TimeoutError(f"{self.busy[url]} requests did not end")

    @contextmanager
    def server(self, number: int, timeout: float = LONGEST_WAIT) -> Iterator[str]:
        """The server for request `number`, busy for the length of the block. Raises TimeoutError if there is none."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.rotation, timeout):
                raise TimeoutError("no server is in rotation")
            url = self.rotation[number % len(self.rotation)]
            self.busy[url] += 1
        try:
            yield url
        finally:
            with self.changed:
                self.busy[url] -= 1
                self.changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """End what has begun, and let nothing begin before the end of the block. Raises TimeoutError like `remove`."""
        servers = list(self.rotation)
        try:
            for url in servers:
                self.remove(url)
            yield
        finally:
            with self.changed:
                self.rotation[:] = servers
                self.changed.notify_all()


def write_and_read(http: httpx.Client, front: Front, first: int, wrote: dict[str, str], name: str) -> list[str]:
    """PUT one package and GET it twice, as requests `first` to `first + 2`. With two releases in rotation each writes
    what the other reads. Returns what failed: "GET 500", or "GET MIT" for a row that should say something else."""
    failed = []
    text = f"LicenseRef-{first}"
    for number, method in enumerate(("PUT", "GET", "GET"), first):
        body = {"license": text} if method == "PUT" else None
        said: Any = None
        with front.server(number) as url:
            try:
                answer = http.request(method, f"{url}/packages/{name}", json=body)
                said = answer.json()["license"] if answer.is_success else answer.status_code
            except httpx.TransportError as error:
                said = type(error).__name__
            if method == "PUT" and said == text:
                wrote[name] = text
            elif method == "PUT" or said != wrote.get(name, 404):
                failed.append(f"{method} {said}")
    return failed


class Traffic:
    """Clients in threads that go on for the length of a `with` block. `wrote` is what each row must say."""

    def __init__(self, front: Front, clients: int = 2) -> None:
        self.front, self.wrote = front, dict[str, str]()
        self.rounds: list[list[list[str]]] = [[] for _ in range(clients)]  # of each client: what failed in each round
        self.changed, self.ending = threading.Condition(), threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Traffic":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def client(self, mine: int) -> None:
        with httpx.Client(trust_env=False, timeout=LONGEST_WAIT, verify=NO_TLS) as http:
            while not self.ending.wait(PAUSE):
                number = len(self.rounds[mine])
                row = number if number % 3 == 0 else number % 3  # a new one, or one of two old ones
                failed = write_and_read(http, self.front, 3 * number, self.wrote, f"{mine}-{row}")
                with self.changed:
                    self.rounds[mine].append(failed)
                    self.changed.notify_all()

    def flow(self, rounds: int = 2) -> tuple[int, int]:
        """Wait for `rounds` more rounds of each client; how many requests failed, and of how many. Raises
        TimeoutError."""
        begun = [len(done) + 1 for done in self.rounds]  # the round under way began before
        pairs = list(zip(self.rounds, begun, strict=True))
        with self.changed:
            if not self.changed.wait_for(
                lambda: all(len(done) >= start + rounds for done, start in pairs), LONGEST_WAIT
            ):
                raise TimeoutError("a client does not go on")
        those = [failed for done, start in pairs for failed in done[start : start + rounds]]
        return sum(map(len, those)), 3 * len(those)


class Fleet(ExitStack):
    """The servers of `releases` that run on the database of `engine`, the front before them, and what was seen.

    `releases` names the function that makes the app of each: `{"1": lambda: service(engine, Package)}`. With
    `clients`, they begin with the first start and never stop.
    """

    def __init__(self, engine: sa.Engine, releases: Mapping[str, Callable[[], Any]], clients: int = 0) -> None:
        super().__init__()
        self.engine, self.releases, self.clients = engine, releases, clients
        self.front = Front()
        self.running: dict[str, tuple[ExitStack, str]] = {}
        self.traffic: Traffic | None = None
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.enter_context(self.engine.connect())  # without one a database in memory is gone
        self.callback(self._stop_all)
        return self

    def start(self, release: str) -> None:
        server = ExitStack()
        client = server.enter_context(serving(self.releases[release]()))
        self.running[release] = server, str(client.base_url)
        self.front.rotation.append(str(client.base_url))
        if self.clients and self.traffic is None:
            self.traffic = self.enter_context(Traffic(self.front, self.clients))

    def _stop_all(self) -> None:
        for release in list(self.running):
            Fleet.stop(self, release)

    def stop(self, release: str) -> None:
        """Stop a release when what it has begun is done; the last one only when the clients have ended."""
        server, url = self.running.pop(release)
        self.front.remove(url)
        server.close()

    def replace(self, release: str) -> None:
        """Start a release beside the one that serves, then stop that one. Looks before, and while both serve."""
        (before,) = self.running
        self.look()
        self.start(release)
        self.look()
        self.stop(before)

    def quiet(self) -> AbstractContextManager[None]:
        """For a change of the schema: on DuckDB hold the requests, since it must have no writers meanwhile."""
        return self.front.held() if self.engine.dialect.name == "duckdb" else nullcontext()

    def look(self, rounds: int = 2) -> None:
        """Note who serves, which columns the table has, and how many of the clients' next requests fail."""
        assert self.traffic is not None, "a fleet without clients has nothing to look at"
        failed, requests = self.traffic.flow(rounds)
        names = [column["name"] for column in sa.inspect(self.engine).get_columns("packages")]
        self.seen.append(
            {
                "serving": " and ".join(self.running),
                "columns": " and ".join(sorted(set(names) - {"name"})),
                "failed": f"{failed} of {requests}",
            }
        )

    def wrong_rows(self, column: str) -> int:
        """How many of the rows that the clients wrote say something else in `column` now."""
        wrote = {} if self.traffic is None else self.traffic.wrote
        with self.front.held(), self.engine.connect() as connection:
            found: dict[str, Any] = dict(connection.execute(sa.text(f"SELECT name, {column} FROM packages")).all())
            return sum(found.get(name) != text for name, text in wrote.items())

    def failures(self) -> list[str]:
        """What failed since the first start, in `look` and between."""
        rounds = [] if self.traffic is None else [failed for done in self.traffic.rounds for failed in done]
        return [failure for failed in rounds for failure in failed]


def picture(seen: Sequence[Mapping[str, Any]]) -> Shown:
    """A Gantt chart of what a fleet has seen: how long which columns were there, and which release served. A day
    stands for each look."""
    lines = ["gantt", "  dateFormat YYYY-MM-DD", "  axisFormat %d"]
    for section, key in (("columns", "columns"), ("releases", "serving")):
        lines.append(f"  section {section}")
        days: dict[str, list[int]] = {}
        for day, moment in enumerate(seen, 1):
            names = [moment[key]] if key == "columns" else moment[key].split(" and ")
            for name in names:
                days.setdefault(name, []).append(day)
        for name, there in days.items():
            shown = name if key == "columns" else f"release {name}"
            lines.append(f"  {shown} : 2026-01-{there[0]:02}, {there[-1] - there[0] + 1}d")
    return mermaid("\n".join(lines))
