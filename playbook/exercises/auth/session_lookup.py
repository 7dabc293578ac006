"""The exercise of the page "Session lookup": its checker, its hints, wrong answers; and what the page's stage needs."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import anyio.to_thread
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

from playbook.kit.exercises import checker
from playbook.kit.stage import capture_sql

LONGEST_WAIT = 60  # seconds; a busy machine is no fault of the page
Row = tuple[Any, ...]
Ask = Callable[[list[str]], Awaitable[Mapping[str, Row]]]


@contextmanager
def hand_overs() -> Iterator[Counter[str]]:
    """Count how often work goes to a thread, under "hand-overs"."""
    counted: Counter[str] = Counter()
    run_sync = anyio.to_thread.run_sync

    async def count(*args: Any, **options: Any) -> Any:
        counted["hand-overs"] += 1
        return await run_sync(*args, **options)

    anyio.to_thread.run_sync = count  # type: ignore[assignment]
    try:
        yield counted
    finally:
        anyio.to_thread.run_sync = run_sync


async def ask_app(app: Any, token: str) -> tuple[int, bytes]:
    """`GET /me` with the session `token`, without a network; status and body."""
    headers = [(b"host", b"localhost"), (b"cookie", f"session={token}".encode())]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/me", "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "root_path": "", "client": None}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def name_of(app: Any, token: str) -> tuple[str | None, int]:
    """Who the app says it is, and how many hand-overs that took."""
    with hand_overs() as counted:
        _, body = await ask_app(app, token)
    return json.loads(body)["name"], counted["hand-overs"]


@contextmanager
def own_statements() -> Iterator[list[str]]:
    """What async cursors of psycopg send, which SQLAlchemy does not see."""
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def count(self: Any, sql: Any, *args: Any, **options: Any) -> Any:
        sent.append(str(sql))
        return await execute(self, sql, *args, **options)

    psycopg.AsyncCursor.execute = count  # type: ignore[method-assign, assignment]
    try:
        yield sent
    finally:
        psycopg.AsyncCursor.execute = execute  # type: ignore[method-assign]


async def cost(app: Any, engine: sa.Engine, token: str, requests: int) -> dict[str, int]:
    """What `requests` requests at once take, after one that opens connections and is not counted."""
    await ask_app(app, token)
    with hand_overs() as counted, capture_sql(engine) as statements, own_statements() as own:
        answers = await asyncio.gather(*(ask_app(app, token) for _ in range(requests)))
    if {status for status, _ in answers} != {200}:
        raise AssertionError(f"not every answer was a success: {answers}")
    return {
        "requests": requests,
        "hand-overs": counted["hand-overs"],
        "transactions": sum(statement.sql == "BEGIN" for statement in statements),
        "statements": len(statements) + len(own),
    }


def plain(url: str) -> str:
    """A PostgreSQL database as psycopg takes it; connections are called "look-up"."""
    libpq = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return make_conninfo(libpq.replace(" ", "%20"), application_name="look-up")


async def error_of(query: Any) -> str:
    """The name of the error that `query.ask` raises; an empty text when it answers."""
    try:
        await query.ask(["key"])
    except Exception as error:
        return type(error).__name__
    return ""


def states_of(engine: sa.Engine, table: sa.Table, now: datetime) -> Iterator[str]:
    """Give the one row of `table` the states that a session can be in, one after another."""

    def write(**values: Any) -> None:
        with engine.begin() as db:
            db.execute(table.update().values(**values))

    with engine.connect() as db:
        row = dict(db.execute(sa.select(table)).mappings().one())
    yield "alive"
    write(expires_at=now + timedelta(days=5))
    yield "due to be prolonged"
    write(expires_at=now)
    yield "expired"
    write(created_at=now - timedelta(days=29), expires_at=now + timedelta(days=1))
    yield "on its last day"
    with engine.begin() as db:
        db.execute(table.delete())
    yield "signed out"
    with engine.begin() as db:
        db.execute(table.insert().values(**row))
    yield "alive again"
    yield "the connection is lost"
    yield "the next request"


def kill_connections(engine: sa.Engine, name: str) -> None:
    """End the server's processes of the connections with this application name."""
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()"
    end = time.monotonic() + LONGEST_WAIT
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text(f"SELECT pg_terminate_backend(pid) FROM ({ours}) ours"), {"name": name}).all()
        while db.execute(sa.text(ours), {"name": name}).all() and time.monotonic() < end:
            time.sleep(0.01)


async def in_flight(together: Any) -> list[str]:
    """What four reads got. The first is sent; then its row is deleted; then come the others, and one hangs up."""
    rows = {"ada": ("Ada",), "bob": ("Bob",)}
    sent, answer = asyncio.Event(), asyncio.Event()

    async def ask(keys: list[str]) -> dict[str, Row]:
        found = {key: rows[key] for key in keys if key in rows}
        sent.set()
        await answer.wait()
        return found

    reader = together(ask)
    reads = [asyncio.create_task(reader.read("ada"))]
    await sent.wait()
    del rows["ada"]
    reads += [asyncio.create_task(reader.read(key)) for key in ("ada", "bob", "ada")]
    await asyncio.sleep(0)
    reads[3].cancel()
    answer.set()
    results = await asyncio.gather(*reads, return_exceptions=True)
    return ["hung up" if isinstance(result, asyncio.CancelledError) else repr(result) for result in results]


HINTS = (
    "Look at `Ask`: what does it take, and what does it return? Your function has the\n"
    "same form. What do twenty reads of one key send?",
    "Leave each key in once. Then ask for one slice of the list after another, and put\nthe answers together.",
)

WRONG = (
    # the rest is lost
    """
def in_parts(ask, most):
    async def ask_in_parts(keys):
        return await ask(keys[:most])
    return ask_in_parts
""",
    # all parts at once, on one connection
    """
def in_parts(ask, most):
    async def ask_in_parts(keys):
        different = list(dict.fromkeys(keys))
        parts = [different[start : start + most] for start in range(0, len(different), most)]
        rows = {}
        for found in await asyncio.gather(*(ask(part) for part in parts)):
            rows |= found
        return rows
    return ask_in_parts
""",
    # what was found once is found for ever
    """
def in_parts(ask, most):
    rows = {}
    async def ask_in_parts(keys):
        different = list(dict.fromkeys(keys))
        for start in range(0, len(different), most):
            rows.update(await ask(different[start : start + most]))
        return rows
    return ask_in_parts
""",
    # the same key again and again
    """
def in_parts(ask, most):
    async def ask_in_parts(keys):
        rows = {}
        for start in range(0, len(keys), most):
            rows |= await ask(keys[start : start + most])
        return rows
    return ask_in_parts
""",
    # only the last part is returned
    """
def in_parts(ask, most):
    async def ask_in_parts(keys):
        different = list(dict.fromkeys(keys))
        for start in range(0, len(different), most):
            rows = await ask(different[start : start + most])
        return rows
    return ask_in_parts
""",
    # one too many
    """
def in_parts(ask, most):
    async def ask_in_parts(keys):
        different = list(dict.fromkeys(keys))
        rows = {}
        for start in range(0, len(different), most + 1):
            rows |= await ask(different[start : start + most + 1])
        return rows
    return ask_in_parts
""",
)
MOST = 10


class Database:
    """Rows by key; notes each statement, and whether two were on their way at once."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {f"key {number}": (number,) for number in range(0, 60, 2)}
        self.sent: list[list[str]] = []
        self.at_work = 0
        self.most_at_work = 0

    async def ask(self, keys: list[str]) -> dict[str, Row]:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        self.sent.append(list(keys))
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await asyncio.sleep(0)
        self.at_work -= 1
        return found


@checker
def check(in_parts: Callable[[Ask, int], Ask], together: Any) -> str:
    """Read many keys at once, twice, through the reader's `ask`."""
    with ThreadPoolExecutor(1) as thread:  # a notebook's thread has a loop already
        return thread.submit(asyncio.run, verdict(in_parts, together)).result()


async def verdict(in_parts: Callable[[Ask, int], Ask], together: Any) -> str:
    database = Database()
    reader = together(in_parts(database.ask, MOST))

    async def wrong_reads(keys: list[str]) -> int:
        expected = [database.rows.get(key) for key in keys]
        got = await asyncio.gather(*(reader.read(key) for key in keys))
        return sum(one != other for one, other in zip(got, expected, strict=True))

    keys = [f"key {number}" for number in range(60)]
    wrong = await wrong_reads(keys)
    longest = max(map(len, database.sent))
    if longest > MOST:
        return f"not yet: at most {MOST} keys were allowed in a statement, and one has {longest}"
    if wrong:
        return f"not yet: of {len(keys)} reads with different keys, {wrong} got a wrong row or none"
    if database.most_at_work > 1:
        return f"not yet: {database.most_at_work} statements were on their way at once, and there is one connection"
    del database.rows["key 0"]
    if await wrong_reads(keys[:3]):
        return "not yet: a row was deleted, and a read that came later still got it"
    database.sent.clear()
    if await wrong_reads(["key 2"] * 45) or len(database.sent) != 1:
        return f"not yet: 45 reads of the same key should take one statement, and took {len(database.sent)}"
    return "right"
