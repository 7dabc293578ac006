"""Pantry is killed while people write to it, started again, and asked whether everything it acknowledged is there.

`python tests/production/killing.py DATABASE_URL --rounds 100` runs as many rounds as you want; the test runs a few.

A round: Pantry starts over the database (in a forked process, or as `playbook serve` of its own); clients sign up, make
organizations and packages, rename and delete them, sign in and out, and note each answer in a file. At a random moment
it gets SIGKILL. In most rounds somebody then looks at the database and goes away in good order. Then Pantry starts
again, every row that was acknowledged is asked for by key and by scan, over SQL and over HTTP, doubles are inserted,
and orphans counted.
This process itself never opens the database, so that each fork begins without one.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from forked import Popen
from sqlalchemy import orm

from playbook.foundations.engines import Base, make_engine
from playbook.kit import postgres, ready
from playbook.kit.errors import InputError
from playbook.kit.live import NO_TLS, LiveClient, LiveServer, serving
from playbook.kit.running import environment
from playbook.migrations.first_migration import current
from playbook.pantry.app import pantry
from playbook.pantry.catalog import Package
from playbook.pantry.indexes import find_damage
from playbook.pantry.settings import Settings
from playbook.schema.identity import Organization, User
from playbook.schema.relationships import orphans

ORIGIN = {"origin": "http://localhost:8000"}
PASSWORD = "violet anchor rides a slow train"
SETTINGS: dict[str, Any] = {
    "environment": "test", "require_email_verification": False, "rate_limits": False, "password_blocklist": False,
    "mail_url": "memory:",
}  # fmt: skip
CLIENTS = 3
MOST = 60  # acknowledged changes of a round before the kill
START_SECONDS = 120  # how long a start may take on a busy machine; nothing is measured by it
ASKED_OVER_HTTP = 2  # of the newest people and sessions, in each round


class Notes:
    """What clients were answered: a file that is appended to, one line each. It outlives whoever writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def add(self, what: str, key: str, more: Any = None) -> None:
        os.write(self._file, (json.dumps([what, key, more]) + "\n").encode())

    def read(self) -> list[tuple[str, str, Any]]:
        return [tuple(json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]


def use(base: str, notes: Notes, name: str) -> None:
    """What one client does until nobody answers any more. What takes something away is noted before and after."""
    with httpx.Client(base_url=base, headers=ORIGIN, trust_env=False, verify=NO_TLS, timeout=30) as client:

        def ask(due: int, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response | None:
            answer = client.request(method, path, json=body, headers=headers)
            if answer.status_code == due:
                return answer
            notes.add("odd", f"{method} {path}", [answer.status_code, answer.text[:300]])
            return None

        def cookie() -> dict[str, str]:
            return dict(client.cookies)

        try:
            for number in range(10_000):
                client.cookies.clear()
                email = f"{name}-{number}@example.com"
                person = {"name": name, "email": email, "password": PASSWORD}
                if not ask(200, "POST", "/api/auth/sign-up/email", person):
                    continue
                notes.add("user", email)
                notes.add("session", client.cookies.get("better-auth.session_token") or "?", cookie())
                for part in range(8):
                    slug = f"{name}-{number}-{part}"
                    if ask(201, "POST", "/organizations", {"slug": slug, "name": slug}):
                        notes.add("organization", slug)
                    if ask(201, "POST", "/packages", {"name": slug, "organization": slug}):
                        notes.add("package", slug)
                    if part % 3 == 1:
                        notes.add("renaming", slug, "Renamed")
                        kind = {"content-type": "application/merge-patch+json", "if-match": "*"}
                        if ask(200, "PATCH", f"/organizations/{slug}", {"name": "Renamed"}, **kind):
                            notes.add("renamed", slug, "Renamed")
                    if part % 3 == 2:
                        notes.add("deleting package", slug)
                        if ask(204, "DELETE", f"/packages/{slug}", **{"if-match": "*"}):
                            notes.add("deleted package", slug)
                    if part % 4 == 3:
                        kept = cookie()
                        client.cookies.clear()
                        if ask(200, "POST", "/api/auth/sign-in/email", {"email": email, "password": PASSWORD}):
                            token = client.cookies.get("better-auth.session_token") or "?"
                            notes.add("session", token, cookie())
                            notes.add("ending session", token)
                            if ask(200, "POST", "/api/auth/sign-out", {}):
                                notes.add("ended session", token)
                        client.cookies.clear()
                        client.cookies.update(kept)
        except httpx.TransportError:
            return


def clients(base: str, notes: Notes, name: str) -> list[threading.Thread]:
    threads = [threading.Thread(target=use, args=(base, notes, f"{name}{n}"), daemon=True) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    return threads


def forked(work: Callable[[], Any], path: Path | None = None) -> int:
    """Run `work` in a fork and return its process id. Its result, or its traceback, goes to `path` as JSON."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        result = work()
        if path is not None:
            path.write_text(json.dumps({"result": result}))
        code = 0
    except BaseException:
        if path is not None:
            path.write_text(json.dumps({"error": traceback.format_exc()}))
    finally:
        os._exit(code)  # no atexit handlers of the parent


def finished(child: int, path: Path, what: str) -> Any:
    """The result of `forked`. Raises AssertionError with its traceback when it failed or died."""
    _, status = os.waitpid(child, 0)
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"error": f"it died with status {status}"}
    path.unlink(missing_ok=True)
    assert "error" not in told, f"{what}: {told['error']}"
    return told["result"]


def settings_of(url: str) -> Settings:
    return Settings(database_url=url, **SETTINGS)


def serve_and_write(url: str, notes: Notes, name: str) -> None:
    """Pantry and its clients in one process, which somebody will kill."""
    server = LiveServer(pantry(settings_of(url))).start()
    for thread in clients(server.url, notes, name):
        thread.join()


def wait_for(notes: Notes, lines: int, alive: Callable[[], bool], chance: random.Random) -> None:
    """Until so many lines were added to the notes of before, and then a moment, which falls into the next change."""
    until = time.monotonic() + START_SECONDS
    before = notes.path.stat().st_size
    while notes.path.stat().st_size == before or notes.path.read_bytes().count(b"\n", before) < lines:
        assert time.monotonic() < until, f"Pantry did not do {lines} changes"
        assert alive(), "Pantry ended by itself"
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.02))


def kill_a_fork(url: str, notes: Notes, name: str, chance: random.Random) -> str:
    """One round's writing in a fork. One in five is killed while it starts. Returns when it was killed."""
    child = forked(lambda: serve_and_write(url, notes, name))
    ended = []

    def alive() -> bool:
        if not ended and os.waitpid(child, os.WNOHANG)[0]:
            ended.append(child)
        return not ended

    if chance.random() < 0.8:
        wait_for(notes, chance.randint(2, MOST), alive, chance)
        when = "while writing"
    else:
        time.sleep(chance.uniform(0, 0.5))
        when = "in the start"
        assert alive(), "Pantry ended by itself"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return when


def kill_serve(url: str, notes: Notes, name: str, chance: random.Random) -> str:
    """One round's writing through `playbook serve`, the way an operator starts it."""
    given = {f"PANTRY_{k.upper()}": {True: "on", False: "off"}.get(v, v) for k, v in SETTINGS.items()}
    log = notes.path.with_suffix(".log")
    with log.open("w") as errors:
        process = Popen(
            [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0"],
            env=environment(url) | given, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"Pantry at (\S+),", line)
        assert found, f"playbook serve did not start: {line} {log.read_text(encoding='utf-8')[-2000:]}"
        threads = clients(found[1], notes, name)
        wait_for(notes, chance.randint(2, MOST), lambda: process.poll() is None, chance)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    for thread in threads:
        thread.join()
    return "playbook serve"


def look(url: str, how: str) -> None:
    """Somebody opens the database and goes away in good order. Each of these once ended in lost entries."""
    if how == "reach":
        ready.reach(url)
        return
    engine = make_engine(url)
    if how == "current":
        current(engine)
    else:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT count(*) FROM users"))
    engine.dispose()


LOOKS = ("nobody", "reach", "current", "users")


def by_key_and_scan(engine: sa.Engine, column: Any, expected: set[str], gone: set[str]) -> int:
    """Each expected value exactly once, asked for by index and found by a scan; none of `gone`."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*column.table.c)).all()  # all of it, and compared here: no index
    scanned = Counter(getattr(row, column.name) for row in rows)
    assert not (twice := [value for value, n in scanned.items() if n > 1]), f"twice in {column}: {twice}"
    assert not (lost := expected - set(scanned)), f"acknowledged and not in {column}: {sorted(lost)[:5]}"
    assert not (back := gone & set(scanned)), f"deleted and still in {column}: {sorted(back)[:5]}"
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET enable_seqscan = off"))
        for value in sorted(expected | gone):
            found = connection.scalar(sa.select(sa.func.count()).select_from(column.table).where(column == value))
            assert found == scanned[value], f"{column} = {value!r}: {found} rows by key, {scanned[value]} by scan"
    return len(scanned)


def insert_doubles(engine: sa.Engine, newest: int = 3) -> int:
    """A second row for each unique key of each table, made of its newest rows: all refused. Returns how many."""
    refused = 0
    for table in Base.metadata.sorted_tables:
        uniques = [tuple(index.columns) for index in table.indexes if index.unique] + [tuple(table.primary_key)]
        order = table.c.created_at if "created_at" in table.c else next(iter(table.primary_key))
        with engine.connect() as connection:
            rows = connection.execute(sa.select(table).order_by(order.desc()).limit(newest)).mappings().all()
        for row in rows:
            for key in uniques:
                values = dict(row)
                for other in uniques:
                    for column in other if other != key else ():
                        if column not in key:
                            fresh = uuid.uuid4()
                            values[column.name] = fresh if isinstance(row[column.name], uuid.UUID) else fresh.hex
                try:
                    with engine.begin() as connection:
                        connection.execute(sa.insert(table).values(values))
                except sa.exc.IntegrityError:
                    refused += 1
                else:
                    raise AssertionError(f"{table.name} took {[c.name for c in key]} a second time: {values}")
    return refused


def ask_over_http(client: LiveClient, people: list[str], sessions: list[Any], ended: list[Any]) -> None:
    """Sign in, be refused a second account, be known by the cookies of before."""
    for email in people:
        person = {"email": email, "password": PASSWORD}
        client.cookies.clear()
        again = client.post("/api/auth/sign-up/email", json=person | {"name": "Again"})
        assert again.status_code == 422, f"{email} signed up a second time: {again.status_code}"
        signed_in = client.post("/api/auth/sign-in/email", json=person)
        assert signed_in.status_code == 200, f"{email} cannot sign in: {signed_in.status_code} {signed_in.text}"
    for cookies, known in [(c, True) for c in sessions] + [(c, False) for c in ended]:
        client.cookies.clear()
        client.cookies.update(cookies)
        answer = client.get("/api/auth/get-session")
        assert (answer.json() is not None) is known, f"session {cookies}: {answer.text}"


def audit(url: str, notes: Notes) -> dict[str, int]:
    """Start Pantry again and compare the database with the notes. Raises AssertionError on the first difference."""
    told = notes.read()
    of = defaultdict(list)
    for what, key, more in told:
        of[what].append((key, more))
    names = {what: {key for key, _ in found} for what, found in of.items()}
    engine = make_engine(url)
    if found := find_damage(engine):
        raise AssertionError(f"the indexes have lost entries: {'; '.join(map(str, found))}")
    counts = Counter(
        acknowledged=sum(what in ("user", "organization", "package", "renamed", "session") for what, *_ in told)
    )
    app = pantry(settings_of(url), sender=None)
    counts["users"] = by_key_and_scan(engine, User.__table__.c.email, names.get("user", set()), set())
    counts["organizations"] = by_key_and_scan(
        engine, Organization.__table__.c.slug, names.get("organization", set()), set()
    )
    counts["packages"] = by_key_and_scan(
        engine,
        Package.__table__.c.normalized_name,
        names.get("package", set()) - names.get("deleting package", set()),
        names.get("deleted package", set()),
    )
    with orm.Session(engine) as session:
        for slug, name in of["renamed"]:
            now = session.scalar(sa.select(Organization.name).where(Organization.slug == slug))
            assert now == name, f"{slug} was renamed to {name!r}, and is {now!r}"
    with engine.connect() as db:
        lost = orphans(db, Base.metadata)
    assert not lost, f"orphans: {lost[:5]}"
    counts["doubles refused"] = insert_doubles(engine)
    leaving, left = names.get("ending session", set()), names.get("ended session", set())
    stays = [cookies for token, cookies in of["session"] if token not in leaving]
    over = [cookies for token, cookies in of["session"] if token in left]
    with serving(app, headers=ORIGIN) as client:
        newest = [email for email, _ in of["user"]][-ASKED_OVER_HTTP:]
        ask_over_http(client, newest, stays[-ASKED_OVER_HTTP:], over[-ASKED_OVER_HTTP:])
        assert not client.server_errors, client.server_errors
    app.state.engine.dispose()
    engine.dispose()
    return dict(counts)


def kill_postgres(server: postgres.Server) -> None:
    """SIGKILL for the server and all of its processes, as a power cut looks to them, and start it again."""
    import psutil

    process = psutil.Process(server._server.get_pid())
    family = [*process.children(recursive=True), process]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=10)
    # In a container nobody may reap the dead, and a lock file that names one of them seems to be in use.
    for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (server._folder / "data" / left).unlink(missing_ok=True)
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            server._server.ensure_postgres_running()  # waits 10 s, which is not enough on a busy machine
            postgres.reach(server.url)
            return
        except (subprocess.SubprocessError, InputError):
            assert time.monotonic() < until, "PostgreSQL did not start again"


def rounds(
    url: str, folder: Path, number: int, serve_every: int, chance: random.Random, server: postgres.Server | None = None
) -> Counter[str]:
    """Run the rounds. Raises AssertionError at the first one that lost something. Counts what was done and found."""
    notes, answer, total = Notes(folder / "notes"), folder / "answer", Counter[str]()
    finished(forked(lambda: pantry(settings_of(url)) and None, answer), answer, "the first start")
    for one in range(number):
        name = f"r{one}x"
        if server is not None:
            child = forked(lambda name=name: serve_and_write(url, notes, name))  # type: ignore[misc]
            try:
                wait_for(notes, chance.randint(2, MOST), lambda: True, chance)
                kill_postgres(server)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            when = "the server"
        elif serve_every and one % serve_every == serve_every - 1:
            when = kill_serve(url, notes, name, chance)
        else:
            when = kill_a_fork(url, notes, name, chance)
        how = LOOKS[one % len(LOOKS)]
        total[f"killed {when}"] += 1
        if how != "nobody":
            finished(forked(lambda how=how: look(url, how), answer), answer, f"round {one}, {how}")  # type: ignore[misc]
        total[f"looked: {how}"] += 1
        found = finished(forked(lambda: audit(url, notes), answer), answer, f"round {one}, killed {when}, then {how}")
        total["doubles refused"] += found.pop("doubles refused")
        total.update({"rounds": 1})
        for what, count in found.items():
            total[what] = count
    odd = Counter(f"{more[0]} {key.split('/')[1]}" for what, key, more in notes.read() if what == "odd")
    total.update({f"answered {what}": count for what, count in odd.items()})
    return total


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url", help="an empty database, or `server` for a packaged PostgreSQL that is killed itself")
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--serve-every", type=int, default=5, help="each n-th round is `playbook serve`; 0 for none")
    arguments.add_argument("--seed", type=int, default=None)
    arguments.add_argument("--folder", type=Path, required=True, help="for the notes")
    given = arguments.parse_args()
    seed = random.randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", file=sys.stderr)
    server = postgres.Server() if given.url == "server" else None
    try:
        url = given.url if server is None else server.url
        total = rounds(url, given.folder, given.rounds, given.serve_every, random.Random(seed), server)
    finally:
        if server is not None:
            server.stop()
    print(json.dumps(total))


if __name__ == "__main__":
    main()
