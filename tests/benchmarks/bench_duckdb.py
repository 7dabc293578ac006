"""Two claims of the pages about DuckDB: what a RETURNING costs an UPDATE (`database`), and what becomes of a table that
is altered while its rows are written (`expand_and_contract`).

The floor of an UPDATE is the same one without RETURNING: it changes the column in place, and may be lost. A table is
altered in a process of its own for each run, since the process may be ended by it; the remarks say how many were.
"""

import threading
import time
from functools import partial

from measure import Failed, Row, Sample, fresh, main, parser, show, take_all

PACKAGES = ["duckdb"]
ROWS = 20_000  # of the table that is updated
COUNT = 300  # updates of one row each
WRITERS, ALTERED = 2, 40  # threads; statements of a run
ALTER = {
    "CREATE INDEX": ["CREATE INDEX i{n} ON t (total)", "DROP INDEX i{n}"],
    "ADD COLUMN": ["ALTER TABLE t ADD COLUMN c{n} INTEGER"],
}
WRITES = {
    "UPDATE in place": ["UPDATE t SET total = total + 1 WHERE id = $id"],
    "UPDATE with RETURNING": ["UPDATE t SET total = total + 1 WHERE id = $id RETURNING 1"],
    "DELETE and INSERT": ["DELETE FROM t WHERE id = $id", "INSERT INTO t (id, total) VALUES ($id, 0)"],
}


def updates(returning: bool, one_row: bool) -> Sample:
    """Seconds for one UPDATE of one row, or of all rows, of a table with a key and a unique index."""
    import duckdb

    connection, end = duckdb.connect(), " RETURNING 1" if returning else ""
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, total INTEGER, name VARCHAR UNIQUE)")
    connection.execute(f"INSERT INTO t SELECT i, 0, 'package-' || i FROM range({ROWS}) AS r(i)")
    started = time.perf_counter()
    if not one_row:
        connection.execute(f"UPDATE t SET total = 1{end}").fetchall()
        return {"seconds": time.perf_counter() - started}
    for number in range(COUNT):
        connection.execute(f"UPDATE t SET total = ? WHERE id = ?{end}", [number + 1, number]).fetchall()
    return {"seconds": (time.perf_counter() - started) / COUNT}


def altered_beside_writers(alter: str, write: str) -> dict[str, float]:
    """Alter a table while threads write it. Raises FatalException, if DuckDB does not end the process by itself."""
    import duckdb

    database, ending, fatal = duckdb.connect(), threading.Event(), list[duckdb.FatalException]()
    database.execute("CREATE TABLE t (id VARCHAR PRIMARY KEY, total INTEGER)")
    database.execute("INSERT INTO t SELECT 'p' || i, 0 FROM range(100) AS r(i)")

    def attempt(cursor: duckdb.DuckDBPyConnection, statements: list[str], values: dict[str, str]) -> bool:
        try:
            cursor.begin()
            for sql in statements:
                cursor.execute(sql, values).fetchall()
            cursor.commit()
        except duckdb.FatalException as error:
            fatal.append(error)
        except duckdb.Error:  # a conflict
            cursor.rollback()
            return False
        return True

    def writer(mine: int) -> None:
        cursor, number = database.cursor(), 0
        while not ending.is_set() and not fatal:
            number += 1
            attempt(cursor, WRITES[write], {"id": f"p{mine + WRITERS * (number % 50)}"})

    threads = [threading.Thread(target=writer, args=(mine,), daemon=True) for mine in range(WRITERS)]
    for thread in threads:
        thread.start()
    cursor = database.cursor()
    for n in range(ALTERED):
        time.sleep(0.005)
        for sql in ALTER[alter]:
            while not fatal and not attempt(cursor, [sql.format(n=n)], {}):
                time.sleep(0.001)
    ending.set()
    for thread in threads:
        thread.join()
    if fatal:
        raise fatal[0]
    return {"statements": ALTERED}


def ended(alter: str, write: str, runs: int) -> str:
    fatal = 0
    for _ in range(runs):
        try:
            fresh(altered_beside_writers, alter=alter, write=write)
        except Failed:
            fatal += 1
    return (
        f"{ALTERED} times {alter} beside {WRITERS} threads of {write}: {fatal} of {runs} runs ended with a fatal error."
    )


def work() -> None:
    chosen = parser(__doc__).parse_args()
    rows = []
    for one_row, group in ((True, "one row"), (False, f"all {ROWS:,} rows")):
        floor = Row("floor: in place", partial(fresh, updates, returning=False, one_row=one_row), group=group)
        rows += [floor, Row("RETURNING", partial(fresh, updates, returning=True, one_row=one_row), floor, group=group)]
    take_all(rows, 1 if chosen.quick else 5)
    remarks = [ended(alter, write, 2 if chosen.quick else 8) for alter in ALTER for write in WRITES]
    show("An UPDATE on DuckDB, and a table that is altered beside writers", rows, PACKAGES, remarks)


if __name__ == "__main__":
    main(work)
