"""A page of twenty of the real packages: page 1 against page 700, by cursor and by OFFSET, on both engines.

Each row is one statement of `GET /packages` in a transaction of its own, without HTTP. The floor is page 1 of the same
list by the same way. The third group is a database before revision `0004_list_indexes`; its floors are those of the
database at head.
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
OLDER = "0003_idempotency_keys", "0004_list_indexes"  # the revision of the third group, and what it lacks
SECRET = "the secret of a benchmark, for nobody"
REMARKS = [
    "One page: the mean of a run's pages, read one after the other, after five that are not counted.",
    "OFFSET also looks up the newest version of each row it skips; by cursor the same statement starts at the key.",
]


def prepare(url: str, revision: str) -> int:
    """Migrate to `revision` and load the catalogue; how many packages there are."""
    from datetime import UTC, datetime

    import sqlalchemy as sa

    from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
    from playbook.foundations.engines import make_engine
    from playbook.foundations.transactions import transaction
    from playbook.kit.data import data_path
    from playbook.pantry.catalog import Package
    from playbook.pantry.catalog_file import load_catalog
    from playbook.pantry.history import upgrade
    from playbook.schema.identity import Organization

    engine, now = make_engine(url), datetime(2026, 11, 2, tzinfo=UTC)
    upgrade(engine, revision)
    ids = Identifiers(FixedClock(now))
    owner = ids.new()
    mirror = {"id": owner, "slug": "mirror", "name": "Mirror", "created_at": now, "updated_at": now}
    transaction(engine, lambda session: session.add(Organization(**mirror)))
    load_catalog(engine, data_path("packages.csv"), owner, now)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
        count = connection.scalar(sa.select(sa.func.count()).select_from(Package)) or 0
    engine.dispose()
    return count


def read(url: str, sort: str, number: int, offset: bool, count: int) -> Sample:
    """Seconds for page `number` in the order `sort`, by `offset` or by cursor: the mean of `count`."""
    from typing import cast

    import sqlalchemy as sa
    from fastapi import Response

    from playbook.foundations.engines import make_engine
    from playbook.foundations.transactions import transaction
    from playbook.pantry.lists import Pager, cursors_of
    from playbook.pantry.packages import PACKAGE_LIST, PackageQuery

    engine, columns = make_engine(url), PACKAGE_LIST.sorts[sort]
    skipped = (number - 1) * LIMIT
    pager, cursor = Pager(cursors_of(SECRET), "/packages", Response()), None
    if skipped:
        select = sa.select(*columns).order_by(*columns).offset(skipped - 1).limit(1)
        with engine.connect() as connection:
            key = list(connection.execute(select).one())
        asked = PACKAGE_LIST.asked("/packages", PackageQuery(sort=cast(Any, sort)))
        cursor = pager.cursors.sign(["next", key], asked.name)
    query = PackageQuery(sort=cast(Any, sort), limit=LIMIT, cursor=cursor)
    by_offset = PACKAGE_LIST.select.order_by(*columns).limit(LIMIT).offset(skipped)

    def by_cursor(session: sa.orm.Session) -> int:
        return len(pager.page(session, PACKAGE_LIST, query, sa.true())[0])

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


def rows_for(url: str, engine: str, count: int, older: str | None = None) -> list[Row]:
    """The rows of one engine. `older` is the URL of a database before the revision that made the indexes."""

    def row(at: str, group: str, sort: str, number: int, offset: bool, against: Row | None, aim: float | None) -> Row:
        take = partial(fresh, read, url=at, sort=sort, number=number, offset=offset, count=count)
        named = f"{'floor: ' * (against is None)}by {sort}, {'OFFSET' if offset else 'cursor'}, page {number}"
        return Row(named, take, against, aim_ratio=aim, group=group)

    rows, before = [], []
    for sort in ("name", "popularity", "updated"):
        first = row(url, engine, sort, 1, False, None, None)
        first.note = f"the first {LIMIT}"
        rows += [first, row(url, engine, sort, DEEP, False, first, 1.5)]
        by_offset = row(url, engine, sort, 1, True, None, None)
        rows += [by_offset, row(url, engine, sort, DEEP, True, by_offset, None)]
        if older and sort != "name":
            group = f"{engine}, before {OLDER[1]}"
            before += [row(older, group, sort, number, False, first, None) for number in (1, DEEP)]
    return rows + before


def work() -> None:
    from playbook.kit import postgres

    chosen = parser(__doc__).parse_args()
    runs, count = (1, 10) if chosen.quick else (7, 100)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-"))
        url = f"duckdb:///{folder}/bench.duckdb"
        packages = fresh(prepare, url=url, revision="head")
        rows = rows_for(url, "DuckDB, a file", count)
        try:
            server = stack.enter_context(postgres.server())
            url, older = (stack.enter_context(postgres.database(server)) for _ in range(2))
            for at, revision in ((url, "head"), (older, OLDER[0])):
                fresh(prepare, url=at, revision=revision)
            rows += rows_for(url, "PostgreSQL", count, older)
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
        take_all(rows, runs)
    show(f"Pages of {LIMIT} of {packages:,} packages", rows, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
