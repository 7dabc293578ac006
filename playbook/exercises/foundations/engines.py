"""The exercise of the page "Engines": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from playbook.kit.exercises import checker

HINTS = (
    "One function listens to `checkout`, one to `checkin`. Both get the same `record`, the place in the pool.",
    "Keep a dict with an entry for each place that is lent. Its value is the name at that moment.",
)

WRONG = (
    # one connection per name
    """
def watch_pool(engine, request_name):
    holders = set()
    sa.event.listen(engine, "checkout", lambda dbapi_connection, record, proxy: holders.add(request_name()))
    sa.event.listen(engine, "checkin", lambda dbapi_connection, record: holders.discard(request_name()))
    return lambda: sorted(holders)
""",
    # the name when asked, not when lent
    """
def watch_pool(engine, request_name):
    lent = []
    sa.event.listen(engine, "checkout", lambda dbapi_connection, record, proxy: lent.append(record))
    sa.event.listen(engine, "checkin", lambda dbapi_connection, record: lent.remove(record))
    return lambda: sorted(request_name() for record in lent)
""",
    # a connection that has been invalidated comes back as None
    """
def watch_pool(engine, request_name):
    holders = {}
    def lent(dbapi_connection, record, proxy):
        holders[id(dbapi_connection)] = request_name()
    def returned(dbapi_connection, record):
        holders.pop(id(dbapi_connection), None)
    sa.event.listen(engine, "checkout", lent)
    sa.event.listen(engine, "checkin", returned)
    return lambda: sorted(holders.values())
""",
    # `connect` happens once per connection, not each time it is lent
    """
def watch_pool(engine, request_name):
    holders = {}
    def lent(dbapi_connection, record):
        holders[record] = request_name()
    def returned(dbapi_connection, record):
        holders.pop(record, None)
    sa.event.listen(engine, "connect", lent)
    sa.event.listen(engine, "checkin", returned)
    return lambda: sorted(holders.values())
""",
    # a list, made once
    """
def watch_pool(engine, request_name):
    holders = {}
    def lent(dbapi_connection, record, proxy):
        holders[record] = request_name()
    def returned(dbapi_connection, record):
        holders.pop(record, None)
    sa.event.listen(engine, "checkout", lent)
    sa.event.listen(engine, "checkin", returned)
    now = sorted(holders.values())
    return lambda: now
""",
)


@checker
def check(watch_pool: Callable[[sa.Engine, Callable[[], str]], Callable[[], list[str]]]) -> str:
    """Lend connections of a real pool to requests with names, and ask who holds them."""
    engine = sa.create_engine("duckdb:///:memory:watched", poolclass=sa.QueuePool, pool_size=3)
    current = ["GET /a"]
    holders = watch_pool(engine, lambda: current[0])
    if not callable(holders):
        return f"not yet: return a function without arguments, not {holders!r}"

    def wrong(story: str, due: list[str]) -> str:
        found: Any = holders()
        return "" if found == due else f"not yet: {story}: the list is {found!r}, and {due!r} would be right"

    try:
        return story(engine, current, wrong) or "right"
    finally:
        engine.dispose()


def story(engine: sa.Engine, current: list[str], wrong: Callable[[str, list[str]], str]) -> str:
    """The first thing that is wrong, or nothing."""
    first = engine.connect()
    said = wrong("GET /a holds a connection", ["GET /a"])
    current[0] = "GET /b"
    said = said or wrong("GET /a holds a connection, and GET /b is asked now", ["GET /a"])
    second = engine.connect()
    said = said or wrong("GET /a and GET /b hold a connection each", ["GET /a", "GET /b"])
    first.close()
    said = said or wrong("GET /a has given its connection back, while GET /b was asked", ["GET /b"])
    current[0] = "GET /c"
    third, fourth = engine.connect(), engine.connect()
    said = said or wrong("GET /b holds one connection and GET /c two", ["GET /b", "GET /c", "GET /c"])
    third.close()
    said = said or wrong("GET /c has given one of two back", ["GET /b", "GET /c"])
    fourth.invalidate()
    fourth.close()
    said = said or wrong("the database has closed GET /c's connection, and GET /c gave it back", ["GET /b"])
    second.close()
    return said or wrong("all connections have come back", [])
