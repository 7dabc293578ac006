"""Sign-in with a password: how much of the machine goes into the hash, and how much into everything else.

The ceiling is bare argon2id with Pantry's parameters in as many threads as there are cores, nothing else running: no
service that checks a password can be quicker. Aim: sign-in over HTTP, on PostgreSQL, reaches 90 % of it. How much of it
is lost before there is a database shows a bare FastAPI endpoint: it reads the same body, checks such a hash with the
same hashers, and answers "true". Better-auth on Node is shown beside it, with its own scrypt. Needs wrk, Node and npm,
as `bench_session` does.

Of PEOPLE people each signs in when it is their turn. Sixteen sign-ins to one account at the same time write one row and
have to be repeated: that is a line of its own.
"""

import json
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench_server import uvicorn_process
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
PEOPLE = 64
PAUSE = 3.0  # seconds: the hashes of 16 requests whose client has gone
PATH = "/api/auth/sign-in/email"
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Origin"] = "{origin}"
local number, people = 0, {people}
request = function()
  number = number % people + 1
  return wrk.format(nil, nil, nil, string.format([=[{body}]=], number))
end
"""


def bare(seconds: float, threads: int) -> dict[str, float]:
    """Hashes verified per second, in `threads` threads that do nothing else, and how long each took."""
    from playbook.auth.password_hashing import ARGON2

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


def make_without_database() -> Any:
    """Bare FastAPI: the hash, and nothing that is remembered."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password

    app, stored = FastAPI(), hash_password(PERSON["password"])

    class Sent(BaseModel):
        email: str
        password: str

    @app.post(PATH, dependencies=[HASHING_TURN])
    def sign_in(sent: Sent) -> bool:
        return check_password(sent.password, stored).matches

    return app


def sign_in(base: str, folder: Path, people: int, seconds: int) -> Rate:
    script = folder / "sign-in.lua"
    email = PERSON["email"] if people == 1 else "%d." + PERSON["email"]
    body = json.dumps({"email": email, "password": PERSON["password"]})
    script.write_text(SCRIPT.format(origin=base, body=body, people=people), encoding="utf-8")
    return wrk(f"{base}{PATH}", seconds, "-s", str(script))


def everybody_signed_up(base: str) -> None:
    signed_up(base)
    for number in range(1, PEOPLE + 1):
        signed_up(base, PERSON | {"email": f"{number}.{PERSON['email']}"})


def work() -> None:
    chosen = parser(__doc__).parse_args()
    seconds, runs = (8, 1 if chosen.quick else 3)  # a shorter run would end before the 16 have had their turns
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(both_servers())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-wrk-")))
        alone = stack.enter_context(uvicorn_process("bench_sign_in:make_without_database"))
        for base in (ours, theirs):
            everybody_signed_up(base)
        top = Line(f"bare argon2id, {cores()} threads", ceiling)
        framework = Line("FastAPI and the hash, no database", partial(sign_in, alone, folder, PEOPLE), top)
        signing = Line("Pantry sign-in", partial(sign_in, ours, folder, PEOPLE), top)
        one = Line("Pantry, all to one account", partial(sign_in, ours, folder, 1), top)
        peer = Line("better-auth sign-in (scrypt)", partial(sign_in, theirs, folder, PEOPLE))
        lines = [top, framework, signing, one, peer]
        take_turns(lines, seconds, runs, PAUSE)
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
            "wrk, the servers and PostgreSQL share these cores with the hashes.",
        ],
    )


if __name__ == "__main__":
    main(work)
