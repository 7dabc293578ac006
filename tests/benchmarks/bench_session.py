"""`get-session`, the call that every page view makes: Pantry beside better-auth on Node, on one PostgreSQL.

One process each, one user, `wrk -t1 -c16`, in turns. Aim: at least 3 times better-auth's requests per second, and a
99th percentile that is no worse. `/ok` looks nothing up: what is left of it is what the look-up costs. The last line is
the same question by the long way, which `session_lookup` leaves to the app. Needs wrk, Node and npm; better-auth comes
from npm into the user's cache. DATABASE_URL names the PostgreSQL to use, or the packaged one is started.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from measure import ROOT, Failed, main, new_table, parser, print_all

sys.path.insert(0, str(ROOT / "tests" / "contract"))

PACKAGES = ["uvicorn", "fastapi", "sqlalchemy", "psycopg"]
AIM_RATIO = 3.0  # times better-auth's requests per second
CONNECTIONS = 16
PERSON = {"name": "Alice", "email": "alice@example.com", "password": "correct-horse-1"}
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}  # as wrk writes times


@dataclass
class Rate:
    """One run of wrk: requests per second, and latencies in seconds."""

    rps: float
    p50: float
    p99: float


def wrk(url: str, seconds: int, *options: str) -> Rate:
    """`wrk -t1 -c16` on `url`. Raises Failed when it cannot run, or when an answer was not a success."""
    if shutil.which("wrk") is None:
        raise Failed("wrk is not installed")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "--latency", *options, url]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=seconds + 60)
    said = done.stdout
    if done.returncode or "Non-2xx" in said or "Socket errors" in said:
        bad = [line.strip() for line in said.splitlines() if "Non-2xx" in line or "errors" in line]
        raise Failed(f"wrk on {url}: {(bad or [done.stderr.strip() or 'failed'])[0]}")
    percentiles = {
        found[1]: float(found[2]) * UNITS[found[3]] for found in re.finditer(r"(\d+)%\s+([\d.]+)(\w+)", said)
    }
    rps = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rps is None or not {"50", "99"} <= percentiles.keys():
        raise Failed(f"wrk said something else than expected: {said[-300:]}")
    return Rate(float(rps[1]), percentiles["50"], percentiles["99"])


def signed_up(base: str, person: dict[str, str] = PERSON) -> str:
    """Make the user; the Cookie header of their session, which is known to work."""
    from raw_http import send

    headers = {"content-type": "application/json", "origin": base}
    answer = send(base, "POST", "/api/auth/sign-up/email", headers, json.dumps(person))
    if answer.status != 200 or not answer.cookies:
        raise Failed(f"sign-up at {base} answered {answer.status}: {answer.body[:200]}")
    cookie = answer.cookies[0].split(";")[0]
    session = send(base, "GET", "/api/auth/get-session", {"cookie": cookie}, None)
    if session.status != 200 or json.loads(session.body)["user"]["email"] != person["email"]:
        raise Failed(f"get-session at {base} answered {session.status}: {session.body[:200]}")
    return cookie


@contextmanager
def both_servers() -> Iterator[tuple[str, str]]:
    """The base URLs of Pantry and of better-auth, each on a new database of one PostgreSQL server."""
    from better_auth_server import NodeUnavailable, running
    from pantry_process import served

    from playbook.kit import postgres

    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.server())
            databases = [stack.enter_context(postgres.database(server)) for _ in range(2)]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-")))
            ours = stack.enter_context(served(databases[0], folder))
            theirs = stack.enter_context(running("A", databases[1])).base_url
        except (NodeUnavailable, postgres.PostgresUnavailable, RuntimeError) as error:
            raise Failed(str(error)) from None
        yield ours, theirs


@dataclass
class Line:
    """A line of the table; `against` is what its requests per second are divided by."""

    name: str
    take: Callable[[int], Rate]
    against: "Line | None" = None
    runs: list[Rate] = field(default_factory=list)

    def middle(self, member: str) -> float:
        return median(getattr(run, member) for run in self.runs)


def take_turns(lines: list[Line], seconds: int, runs: int, pause: float = 0) -> None:
    """Warm up each line, then measure all of them round by round.

    `pause`, in seconds, after each: when wrk leaves, the server goes on with what was asked, and the next line pays.
    """
    for line in lines:
        line.take(1)
        time.sleep(pause)
    for _ in range(runs):
        for line in lines:
            line.runs.append(line.take(seconds))
            time.sleep(pause)
            if not line.runs[-1].rps:
                raise Failed(f"{line.name}: no answer in {seconds} s")


def cells(line: Line, aim: str) -> list[str]:
    ratio = f"{line.middle('rps') / line.against.middle('rps'):.2f}x" if line.against else ""
    rates = [run.rps for run in line.runs]
    span = f"{min(rates):,.0f} to {max(rates):,.0f}" if len(rates) > 1 else ""
    times = [f"{line.middle(member) * 1000:.1f} ms" for member in ("p50", "p99")]
    return [
        line.name,
        f"{line.middle('rps'):,.0f}",
        span,
        *times,
        ratio,
        line.against.name if line.against else "",
        aim,
    ]


HEADINGS = ["measured", "req/s", "lowest to highest", "p50", "p99", "ratio", "against", "aim"]
RIGHT = HEADINGS[1:6]


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def work() -> None:
    chosen = parser(__doc__).parse_args()
    seconds, runs = (2, 1) if chosen.quick else (8, 3)
    with both_servers() as (ours, theirs):

        def line(name: str, base: str, path: str, cookie: str, against: Line | None = None) -> Line:
            return Line(
                name, lambda seconds: wrk(f"{base}/api/auth/{path}", seconds, "-H", f"Cookie: {cookie}"), against
            )

        cookies = {base: signed_up(base) for base in (ours, theirs)}
        their_ok = line("better-auth /ok", theirs, "ok", cookies[theirs])
        our_ok = line("Pantry /ok", ours, "ok", cookies[ours], their_ok)
        peer = line("better-auth get-session", theirs, "get-session", cookies[theirs])
        session = line("Pantry get-session", ours, "get-session", cookies[ours], peer)
        # A query that asks for nothing new takes the long way: threads, a transaction, objects.
        long = line("Pantry get-session, the long way", ours, "get-session?disableRefresh=true", cookies[ours], session)
        lines = [their_ok, our_ok, peer, session, long]
        take_turns(lines, seconds, runs)
    fast = session.middle("rps") >= AIM_RATIO * peer.middle("rps")
    even = session.middle("p99") <= peer.middle("p99")
    aims = {id(session): f"at least {AIM_RATIO:g}x: {verdict(fast)}, p99 no worse: {verdict(even)}"}
    table = new_table("get-session on PostgreSQL", HEADINGS, RIGHT)
    for each in lines:
        table.add_row(*cells(each, aims.get(id(each), "")))
    node = subprocess.run(["node", "--version"], capture_output=True, encoding="utf-8").stdout.strip()
    print_all(
        PACKAGES,
        table,
        [
            f"wrk -t1 -c{CONNECTIONS} -d{seconds}s, runs: {runs}, medians. better-auth 1.7.25 on Node {node} with pg.",
            "wrk, the two servers and PostgreSQL share the cores; only one of the servers works at a time.",
        ],
    )


if __name__ == "__main__":
    main(work)
