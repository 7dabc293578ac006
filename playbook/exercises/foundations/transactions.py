"""The exercise of the page "Transactions": its checker, its two hints, and answers that are wrong."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from playbook.foundations.transactions import notice_conflicts, transaction  # noqa: F401  for WRONG
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url

HINTS = (
    "See 'What is outside of the database': how often does the work run, and what\ndoes `transaction` return?",
    "The work only reads, decides, writes and returns a value. `transaction` returns\n"
    "the value of the one run that was committed. Then call `tell`, or do not.",
)

storage = sa.Table(
    "storage",
    sa.MetaData(),
    sa.Column("organization", sa.String, primary_key=True),
    sa.Column("used", sa.Integer, nullable=False),
)

WRONG = (
    # tells inside the work
    """
def upload_once(engine, size, tell):
    def work(session):
        used = session.scalar(sa.select(storage.c.used))
        if used + size > 100:
            return None
        session.execute(storage.update().values(used=used + size))
        tell(used + size)
        return used + size
    return transaction(engine, work)
""",
    # tells inside the work, before the write
    """
def upload_once(engine, size, tell):
    def work(session):
        used = session.scalar(sa.select(storage.c.used))
        if used + size > 100:
            return None
        tell(used + size)
        session.execute(storage.update().values(used=used + size))
        return used + size
    return transaction(engine, work)
""",
    # reads before the transaction
    """
def upload_once(engine, size, tell):
    used = transaction(engine, lambda session: session.scalar(sa.select(storage.c.used)))
    if used + size > 100:
        return None
    transaction(engine, lambda session: session.execute(storage.update().values(used=used + size)))
    tell(used + size)
    return used + size
""",
    # keeps what a run that was undone has noted
    """
def upload_once(engine, size, tell):
    told = []
    def work(session):
        used = session.scalar(sa.select(storage.c.used))
        if used + size > 100:
            return None
        told.append(used + size)
        session.execute(storage.update().values(used=used + size))
        return used + size
    result = transaction(engine, work)
    for value in told:
        tell(value)
    return result
""",
    # no retry
    """
def upload_once(engine, size, tell):
    with engine.begin() as connection:
        used = connection.scalar(sa.select(storage.c.used))
        if used + size > 100:
            return None
        connection.execute(storage.update().values(used=used + size))
    tell(used + size)
    return used + size
""",
    # reads the value again after the commit, when it may be another one's
    """
def upload_once(engine, size, tell):
    statement = storage.update().values(used=storage.c.used + size).where(storage.c.used + size <= 100)
    transaction(engine, lambda session: session.execute(statement))
    used = transaction(engine, lambda session: session.scalar(sa.select(storage.c.used)))
    tell(used)
    return used
""",
)


def used_now(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.scalar(sa.select(storage.c.used)) or 0)


def other_request(engine: sa.Engine, size: int) -> Callable[[], None]:
    """Make another request add `size`: after the first read of the row, or just before its first UPDATE."""
    done: list[bool] = []

    def write() -> None:
        if done:
            return
        done.append(True)
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # a row that the reader has locked is not waited for
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
            connection.execute(storage.update().values(used=storage.c.used + size))

    def before(_c: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("UPDATE"):
            write()

    def after(_c: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if "FROM storage" in sql:
            write()

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)

    def stop() -> None:
        sa.event.remove(engine, "before_cursor_execute", before)
        sa.event.remove(engine, "after_cursor_execute", after)

    return stop


@checker
def check(upload_once: Callable[[sa.Engine, int, Callable[[int], None]], int | None]) -> str:
    """Upload alone, and beside another request that leaves room, or none."""
    engine = notice_conflicts(sa.create_engine(lesson_url(), poolclass=sa.QueuePool))
    storage.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(storage.insert().values(organization="acme", used=0))
    try:
        for before, other, size in ((0, 0, 60), (60, 0, 60), (0, 30, 60), (0, 50, 60), (40, 0, 60)):
            wrong = one_upload(engine, upload_once, before, other, size)
            if wrong:
                return f"not yet: {wrong}"
    finally:
        engine.dispose()
    return "right"


def one_upload(engine: sa.Engine, upload_once: Any, before: int, other: int, size: int) -> str:
    """What is wrong with one upload of `size`, when `before` is used and another request adds `other`."""
    with engine.begin() as connection:
        connection.execute(storage.update().values(used=before))
    told: list[tuple[Any, int]] = []
    stop = other_request(engine, other) if other else lambda: None
    try:
        result = upload_once(engine, size, lambda value: told.append((value, used_now(engine))))
    finally:
        stop()
    story = f"{before} MB are used"
    if other:
        story += f", another request adds {other} MB while yours runs"
    story += f", you upload {size} MB"
    due = before + other + size if before + other + size <= 100 else None
    left = before + other if due is None else due
    for value, stored in told:
        if value != stored:
            return f"{story}: `tell` was called with {value} when the database held {stored}"
    if used_now(engine) != left:
        return f"{story}: {used_now(engine)} MB are stored as used, and {left} would be right"
    if result != due:
        return f"{story}: you returned {result!r}, and {due!r} would be right"
    times = 0 if due is None else 1
    if len(told) != times:
        return f"{story}: `tell` was called {len(told)} times instead of {times}"
    return ""
