"""A page of twenty of the real packages: page 1 against page 700, by cursor and by OFFSET, on both engines.

Each row is one statement of `GET /packages` in a transaction of its own, without HTTP. The floor is page 1 of the same
list by the same way. The index of the sort by popularity is the one that `index_sql` writes.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from measure import Row, Sample, fresh, main, parser, show, take_all

PACKAGES = ["duckdb", "duckdb-sqlalchemy", "sqlalchemy", "psycopg"]
LIMIT, DEEP = 20, 700  # rows of a page; which page is the deep one
SECRET = "the secret of a benchmark, for nobody"
REMARKS = [
    "One page: the mean of a run's pages, read one after the other, after five that are not counted.",
    "OFFSET also looks up the newest version of each row it skips; by cursor the same statement starts at the key.",
]


def prepare(url: str) -> int:
    """Load the catalogue and make the index; how many packages there are."""
    from datetime import UTC, datetime

    import sqlalchemy as sa

    from playbook.api.pagination import PACKAGE_LIST, index_sql
    from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
    from playbook.foundations.database import Base, make_engine, transaction
    from playbook.kit.data import data_path
    from playbook.schema.catalog import Package, load_catalog
    from playbook.schema.identity import Organization

    engine, now = make_engine(url), datetime(2026, 11, 2, tzinfo=UTC)
    Base.metadata.create_all(engine)
    ids = Identifiers(FixedClock(now))
    owner = ids.new()
    mirror = {"id": owner, "slug": "mirror", "name": "Mirror", "created_at": now, "updated_at": now}
    transaction(engine, lambda session: session.add(Organization(**mirror)))
    load_catalog(engine, data_path("packages.csv"), owner, now)
    with engine.begin() as connection:
        connection.exec_driver_sql(index_sql(PACKAGE_LIST, "popularity"))
        connection.exec_driver_sql("ANALYZE")
        count = connection.scalar(sa.select(sa.func.count()).select_from(Package)) or 0
    engine.dispose()
    return count


def read(url: str, sort: str, number: int, offset: bool, count: int) -> Sample:
    """Seconds for page `number` in the order `sort`, by `offset` or by cursor: the mean of `count`."""
    from typing import cast

    import sqlalchemy as sa
    from fastapi import Response

    from playbook.api.pagination import PACKAGE_LIST, PackageQuery, Pager, cursors_of
    from playbook.foundations.database import make_engine, transaction

    engine, columns = make_engine(url), PACKAGE_LIST.sorts[sort]
    skipped = (number - 1) * LIMIT
    pager, cursor = Pager(cursors_of(SECRET), "/packages", Response()), None
    if skipped:
        select = sa.select(*columns).order_by(*columns).offset(skipped - 1).limit(1)
        with engine.connect() as connection:
            key = list(connection.execute(select).one())
        position = {"list": "/packages", "filter": {}, "sort": sort, "to": "next", "key": key}
        cursor = pager.cursors.sign(position)
    query = PackageQuery(sort=cast(Any, sort), limit=LIMIT, cursor=cursor)
    by_offset = PACKAGE_LIST.select.order_by(*columns).limit(LIMIT).offset(skipped)

    def by_cursor(session: sa.orm.Session) -> int:
        return len(pager.page(session, PACKAGE_LIST, query)[0])

    work: Callable[[Any], int] = (lambda session: len(session.execute(by_offset).all())) if offset else by_cursor
    for _ in range(5):  # connections, compiled statements, whatever either side makes at first
        if transaction(engine, work) != LIMIT:
            raise RuntimeError(f"page {number} is not a whole page")
    started = time.perf_counter()
    for _ in range(count):
        transaction(engine, work)
    seconds = (time.perf_counter() - started) / count
    engine.dispose()
    return {"seconds": seconds}


def rows_for(url: str, engine: str, count: int) -> list[Row]:
    rows = []
    for sort in ("name", "popularity"):
        for offset in (False, True):
            way = "OFFSET" if offset else "cursor"

            def row(number: int, against: Row | None = None, sort: str = sort, offset: bool = offset) -> Row:
                take = partial(fresh, read, url=url, sort=sort, number=number, offset=offset, count=count)
                named = f"{'floor: ' * (against is None)}by {sort}, {'OFFSET' if offset else 'cursor'}, page {number}"
                return Row(named, take, against, aim_ratio=None if offset or against is None else 1.5, group=engine)

            first = row(1)
            first.note = f"the first {LIMIT}" if way == "cursor" else ""
            rows += [first, row(DEEP, first)]
    return rows


def work() -> None:
    from playbook.kit import postgres

    chosen = parser(__doc__).parse_args()
    runs, count = (1, 10) if chosen.quick else (7, 100)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-"))
        urls = {"DuckDB, a file": f"duckdb:///{folder}/bench.duckdb"}
        try:
            server = stack.enter_context(postgres.server())
            urls["PostgreSQL"] = stack.enter_context(postgres.database(server))
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
        rows, packages = [], 0
        for engine, url in urls.items():
            packages = fresh(prepare, url=url)
            rows += rows_for(url, engine, count)
        take_all(rows, runs)
    show(f"Pages of {LIMIT} of {packages:,} packages", rows, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
