"""Sign-in with a password: how much of the machine goes into the hash, and how much into everything else.

The ceiling is bare argon2id with Pantry's parameters in as many threads as there are cores, nothing else running: no
service that checks a password can be quicker. Aim: sign-in over HTTP, on PostgreSQL, reaches 90 % of it. Better-auth on
Node is shown beside it, with its own scrypt. Needs wrk, Node and npm, as `bench_session` does.
"""

import json
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from bench_session import (
    CONNECTIONS,
    HEADINGS,
    PACKAGES,
    PERSON,
    RIGHT,
    Line,
    Rate,
    both_servers,
    cells,
    signed_up,
    take_turns,
    verdict,
    wrk,
)
from measure import cores, fresh, main, new_table, parser, print_all

AIM = 0.9  # of the bare hash
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Origin"] = "{origin}"
wrk.body = [=[{body}]=]
"""


def bare(seconds: float, threads: int) -> dict[str, float]:
    """Hashes verified per second, in `threads` threads that do nothing else, and how long each took."""
    from playbook.auth.passwords import ARGON2

    password = PERSON["password"]
    stored = ARGON2.hash(password)
    took: list[float] = []
    ends = time.perf_counter() + seconds

    def verify() -> None:
        while (started := time.perf_counter()) < ends:
            ARGON2.verify(stored, password)  # raises when it does not match
            took.append(time.perf_counter() - started)

    workers = [threading.Thread(target=verify) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - started
    took.sort()
    return {"rps": len(took) / elapsed, "p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}


def ceiling(seconds: int) -> Rate:
    return Rate(**fresh(bare, seconds=seconds, threads=cores()))


def sign_in(base: str, folder: Path, seconds: int) -> Rate:
    script = folder / "sign-in.lua"
    body = json.dumps({member: PERSON[member] for member in ("email", "password")})
    script.write_text(SCRIPT.format(origin=base, body=body), encoding="utf-8")
    return wrk(f"{base}/api/auth/sign-in/email", seconds, "-s", str(script))


def work() -> None:
    chosen = parser(__doc__).parse_args()
    seconds, runs = (8, 1 if chosen.quick else 3)  # a shorter run would end before the 16 have had their turns
    with both_servers() as (ours, theirs), tempfile.TemporaryDirectory(prefix="playbook-wrk-") as name:
        for base in (ours, theirs):
            signed_up(base)
        top = Line(f"bare argon2id, {cores()} threads", ceiling)
        signing = Line("Pantry sign-in", partial(sign_in, ours, Path(name)), top)
        peer = Line("better-auth sign-in (scrypt)", partial(sign_in, theirs, Path(name)))
        lines = [top, signing, peer]
        take_turns(lines, seconds, runs)
    reached = signing.middle("rps") / top.middle("rps")
    aims = {id(signing): f"at least {AIM:g}x: {verdict(reached >= AIM)}"}
    table = new_table("Sign-in on PostgreSQL", HEADINGS, RIGHT)
    for each in lines:
        table.add_row(*cells(each, aims.get(id(each), "")))
    node = subprocess.run(["node", "--version"], capture_output=True, encoding="utf-8").stdout.strip()
    print_all(
        [*PACKAGES, "argon2-cffi"],
        table,
        [
            f"wrk -t1 -c{CONNECTIONS} -d{seconds}s, runs: {runs}, medians. better-auth 1.7.25 on Node {node} with pg.",
            f"The latency of a sign-in holds the wait of {CONNECTIONS} connections for {cores()} cores.",
        ],
    )


if __name__ == "__main__":
    main(work)
