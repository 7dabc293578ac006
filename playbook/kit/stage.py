"""What the stages of several pages share: real rows, the SQL that was sent, two clients at once, a timeline."""

import csv
import inspect
import linecache
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from playbook.kit import hook
from playbook.kit.data import data_path
from playbook.kit.display import Shown, table

LONGEST_WAIT = 60  # seconds; a busy machine is no fault of the page
_lane: ContextVar[str | None] = ContextVar("lane", default=None)


def package_names(count: int | None = None) -> list[str]:
    """The first `count` names of the real packages, by default all 14,985, as the file has them."""
    with data_path("packages.csv").open(encoding="utf-8", newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    return names[:count]


def load_packages(engine: sa.Engine, packages: sa.Table, count: int | None = None) -> None:
    """Make the table `packages`, which has the columns `name` and `month`, and fill it with the first real packages.

    `month` is that of the last release, as `2026-10`, or NULL: 14 of the 14,985 have none. The table may have more
    columns with defaults.
    """
    packages.create(engine)
    path = data_path("packages.csv")
    with engine.begin() as connection:
        if engine.dialect.name == "duckdb":  # 15,000 rows as VALUES take 44 s there
            limit = "" if count is None else f" LIMIT {count:d}"
            rows = f"SELECT name, last_release FROM read_csv('{path}', all_varchar = true){limit}"
            connection.exec_driver_sql(f"INSERT INTO {packages.name} (name, month) {rows}")
            return
        with path.open(encoding="utf-8", newline="") as file:
            values = [{"name": row["name"], "month": row["last_release"] or None} for row in csv.DictReader(file)]
        connection.execute(packages.insert(), values[:count])


def rows_scanned(connection: sa.Connection, statement: sa.Select[Any]) -> int:
    """How many rows PostgreSQL reads for `statement`, by EXPLAIN ANALYZE: those it returns and those it filters out."""
    sql = statement.compile(connection, compile_kwargs={"literal_binds": True})
    node = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").scalar_one()[0]["Plan"]
    while "Plans" in node:
        node = node["Plans"][0]
    return int(node["Actual Rows"]) + int(node.get("Rows Removed by Filter", 0))


@dataclass(frozen=True)
class Statement:
    """One statement as it was sent; `at` is `time.perf_counter()` in seconds."""

    sql: str
    parameters: Any
    at: float


@contextmanager
def capture_sql(engine: sa.Engine) -> Iterator[list[Statement]]:
    """Collect what `engine` sends during the block, BEGIN, COMMIT and ROLLBACK included, from all threads."""
    statements: list[Statement] = []

    def note(sql: str, parameters: Any = None) -> None:
        statements.append(Statement(sql, parameters, time.perf_counter()))

    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": lambda conn, cursor, sql, parameters, context, many: note(sql, parameters),
        "begin": lambda conn: note("BEGIN"),
        "commit": lambda conn: note("COMMIT"),
        "rollback": lambda conn: note("ROLLBACK"),
    }
    for name, listener in listeners.items():
        sa.event.listen(engine, name, listener)
    try:
        yield statements
    finally:
        for name, listener in listeners.items():
            sa.event.remove(engine, name, listener)


def together(**works: Callable[[], Any]) -> dict[str, Any]:
    """Run `works` at once, each in a thread with its name. What each returned, or the exception that it raised.

    In a Timeline the name is the lane: `together(Ada=first, Mallory=second)`.
    """
    results: dict[str, Any] = {}
    start = threading.Barrier(len(works))

    def run(name: str, work: Callable[[], Any]) -> None:
        _lane.set(name)
        start.wait(LONGEST_WAIT)
        try:
            results[name] = work()
        except Exception as error:
            results[name] = error

    threads = [threading.Thread(target=run, args=item, name=item[0], daemon=True) for item in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_WAIT)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} has not ended after {LONGEST_WAIT} s")
    return {name: results[name] for name in works}


def recipe_text(*things: Any) -> str:
    """The source of functions and classes of a page, as they stand there now, for a process of its own.

    In a notebook: the cells that define them. In a script: all export cells.
    """
    codes = [inspect.unwrap(_function_of(thing)).__code__ for thing in things]
    files = dict.fromkeys(code.co_filename for code in codes)
    texts = ["".join(linecache.getlines(file)) for file in files]
    return "\n".join(hook.exported(text) if text.startswith("# %%") else text for text in texts)


def _function_of(thing: Any) -> Any:
    """`thing`, or a method that a class defines, written there and not made by a decorator."""
    if not isinstance(thing, type):
        return thing
    functions = [value for value in vars(thing).values() if inspect.isfunction(value)]
    return next(each for each in functions if not each.__code__.co_filename.startswith("<"))


class Timeline:
    """What two or more transactions did, one lane each, in the order in which it happened.

    `watch(engine)` records statements, COMMIT, ROLLBACK and errors; `note` adds a line by hand. A lane is chosen by
    `with timeline.lane("Ada")`, or by `together(Ada=..., Mallory=...)`. What runs in no lane is not recorded.
    """

    def __init__(self, *lanes: str) -> None:
        self.lanes = lanes
        self.events: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    @contextmanager
    def lane(self, name: str) -> Iterator[None]:
        """What happens in the block stands in the lane `name`."""
        before = _lane.set(name)
        try:
            yield
        finally:
            _lane.reset(before)

    def note(self, text: str, lane: str | None = None) -> None:
        """Add `text` to `lane`, by default the lane of this block or thread."""
        name = lane or _lane.get()
        if name in self.lanes:
            with self._lock:
                self.events.append((name, text))

    def watch(self, engine: sa.Engine) -> "Timeline":
        """Record what is done through `engine` from now on."""

        def statement(_c: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
            self.note(in_short(sql, None if many else parameters))

        def failed(context: Any) -> None:
            self.note(f"error: {type(context.original_exception).__name__}")

        sa.event.listen(engine, "before_cursor_execute", statement)
        sa.event.listen(engine, "handle_error", failed)
        sa.event.listen(engine, "commit", lambda _c: self.note("COMMIT"))
        sa.event.listen(engine, "rollback", lambda _c: self.note("ROLLBACK"))
        return self

    def shown(self) -> Shown:
        """The lanes side by side, a row for each event: `show(timeline.shown())`."""
        rows = [[text if name == lane else "" for lane in self.lanes] for name, text in self.events]
        return table(rows, self.lanes)

    def __str__(self) -> str:
        return str(self.shown())


def in_short(sql: str, parameters: Any = None) -> str:
    """`sql` on one line, with its values, without a long list of columns and without what the engine adds."""
    text = re.sub(r" RETURNING 1$", "", " ".join(sql.split()))
    text = re.sub(r"^SELECT .{25,}? FROM ", "SELECT ... FROM ", text)
    if isinstance(parameters, Mapping):
        for name, value in parameters.items():
            for mark in (f"%({name})s", f":{name}"):
                text = text.replace(mark, _value(value))
        text = re.sub(r"::[A-Z]+\b(\(\d+\))?", "", text)  # psycopg's casts
    elif parameters:
        for number, value in enumerate(parameters, 1):
            text = (
                text.replace(f"${number}", _value(value))
                if f"${number}" in text
                else text.replace("?", _value(value), 1)
            )
    return text if len(text) <= 70 else f"{text[:67]}..."


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float, bool)) else "NULL" if value is None else str(value)
