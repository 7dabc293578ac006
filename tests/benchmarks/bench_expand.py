"""A column of a million rows is renamed while two clients read and write: the longest wait of one of their statements.

Naive: one migration that adds the column, copies all rows and drops the old one. Safe: the five releases of
`expand_and_contract`. A wait is a statement's whole transaction, its repetitions after a conflict included. The floor
is the longest wait of the same clients while nothing is changed. Requests that fail are counted in the notes.
"""

import itertools
import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from measure import Row, Sample, fresh, main, parser, show, take_all

PACKAGES = ["alembic", "duckdb", "duckdb-sqlalchemy", "sqlalchemy", "psycopg"]
CLIENTS = 2  # threads
SIZES = {"duckdb": 2_000, "postgresql": 5_000}  # rows of one transaction of the backfill
PAUSE = 0.002  # seconds between two statements of a client, as between two requests
QUIET = 3.0  # seconds for which the floor is measured
REMARKS = [
    f"{CLIENTS} clients, each a thread: a random row is written, then one is read, {PAUSE * 1000:g} ms apart.",
    f"The backfill copies {SIZES['duckdb']:,} rows a transaction on DuckDB, {SIZES['postgresql']:,} on PostgreSQL.",
    f"The floor: {QUIET:g} s of the same clients. Lost: a write that was answered and is not there afterwards.",
    "Naive on DuckDB: three transactions, since DuckDB cannot drop a column in the transaction that filled another.",
    "On DuckDB the clients are held while a table is altered, so a wait there is mostly for that.",
]
CREATE = "CREATE TABLE packages (name VARCHAR PRIMARY KEY, licence VARCHAR NOT NULL)"
EXPAND = ["ADD COLUMN license VARCHAR", "ALTER COLUMN licence DROP NOT NULL"]
CONTRACT = ["ALTER COLUMN license SET NOT NULL", "DROP COLUMN licence"]
# What a release reads, and what it writes.
RELEASES = {"0": ("licence", ("licence",)), "2": ("licence", ("licence", "license"))}
RELEASES |= {"4": ("license", ("licence", "license")), "5": ("license", ("license",))}


def alter(steps: list[str]) -> Callable[[Any], None]:
    """A change of the table, to be called with a connection."""

    def change(connection: Any) -> None:
        for step in steps:
            connection.exec_driver_sql(f"ALTER TABLE packages {step}")

    return change


class Clients:
    """Threads that write and read random rows through the statements of `release`, and note each wait in seconds."""

    def __init__(self, engine: Any, count: int) -> None:
        from playbook.kit.rollout import Front

        self.engine, self.count, self.release = engine, count, "0"
        self.front = Front()
        self.front.rotation.append("the statements of a client")
        self.waits: list[float] = []
        self.wrote: dict[str, str] = {}
        self.failed = 0
        self.last = ["0"] * CLIENTS  # the release that each client has used last
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(mine,)) for mine in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        self.roll_out("0")
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def client(self, mine: int) -> None:
        import sqlalchemy as sa

        from playbook.foundations.transactions import transaction

        draw = random.Random(mine)
        for number in itertools.count():
            if self.ending.is_set():
                return
            release, name = self.release, f"package-{draw.randrange(mine, self.count, CLIENTS):07}"
            reads, writes = RELEASES[release]
            statement = sa.text(f"SELECT {reads} FROM packages WHERE name = :name").bindparams(name=name)
            if number % 2 == 0:
                values = ", ".join(f"{column} = :text" for column in writes)
                statement = sa.text(f"UPDATE packages SET {values} WHERE name = :name RETURNING 1")
                statement = statement.bindparams(name=name, text=f"{mine}-{number}")
            started = time.perf_counter()
            try:
                # As many attempts as it takes: what a client would hear after twelve is measured as its wait.
                with self.front.server(number, timeout=600):
                    transaction(self.engine, lambda session, s=statement: session.execute(s), attempts=1000)
                if number % 2 == 0:
                    self.wrote[name] = f"{mine}-{number}"
            except sa.exc.ProgrammingError:
                self.failed += 1
            self.waits.append(time.perf_counter() - started)
            self.last[mine] = release
            time.sleep(PAUSE)

    def quiet(self) -> AbstractContextManager[None]:
        return self.front.held() if self.engine.dialect.name == "duckdb" else nullcontext()

    def roll_out(self, release: str) -> None:
        """Every client uses `release` from now on; wait until none is at work through the one before."""
        self.release, self.last = release, [""] * CLIENTS
        while set(self.last) != {release}:
            time.sleep(0.001)


def naive(engine: Any, clients: Clients) -> int:
    """Add, copy and drop, in one transaction where that is possible; how often the copy began again."""
    import sqlalchemy as sa

    from playbook.foundations.transactions import is_conflict

    steps = [
        "ALTER TABLE packages ADD COLUMN license VARCHAR",
        "UPDATE packages SET license = licence",
        "ALTER TABLE packages DROP COLUMN licence",
    ]
    again = 0
    groups = [steps] if engine.dialect.name == "postgresql" else [[step] for step in steps]
    for group in groups:
        while True:
            try:
                # A migration runs in READ COMMITTED and without the limit of a request.
                with engine.connect() as connection:
                    if engine.dialect.name == "postgresql":
                        connection.execution_options(isolation_level="READ COMMITTED")
                        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                    for step in group:
                        connection.execute(sa.text(step))
                    connection.commit()
                break
            except sa.exc.DBAPIError as error:
                again += 1
                if not is_conflict(error) or again == 100:
                    raise
    clients.release = "5"
    return again


def safe(engine: Any, clients: Clients) -> int:
    import sqlalchemy as sa

    from playbook.migrations.expand_and_contract import backfill, differing, migrate

    columns = [sa.Column("licence", sa.String), sa.Column("license", sa.String)]
    sa.Table("packages", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), *columns)
    with clients.quiet():
        again = migrate(engine, alter(EXPAND))
    clients.roll_out("2")
    backfill(engine, *columns, size=SIZES[engine.dialect.name])
    if differing(engine, *columns):
        raise RuntimeError("the columns differ after the backfill")
    clients.roll_out("4")
    clients.roll_out("5")
    with clients.quiet():
        return again + migrate(
            engine, alter(CONTRACT), attempts=1000, sleep=lambda seconds: time.sleep(min(seconds, 0.1))
        )


def change(url: str, way: str, count: int) -> dict[str, float]:
    """The longest wait in seconds while `way` was done; how long it took, what failed or was lost, how often it began
    again."""
    import sqlalchemy as sa

    from playbook.foundations.engines import make_engine

    engine = make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS packages")
        connection.exec_driver_sql(CREATE)
    padded = "'package-' || lpad(CAST(i AS VARCHAR), 7, '0')"
    with engine.begin() as connection:
        connection.execute(
            sa.text(f"INSERT INTO packages SELECT {padded}, 'MIT' FROM generate_series(0, {count - 1}) AS t(i)")
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT" if engine.dialect.name == "duckdb" else "VACUUM ANALYZE packages")
    again = 0
    with Clients(engine, count) as clients:
        for _ in range(3):
            clients.roll_out("0")
        begun, started = len(clients.waits), time.perf_counter()
        if way == "floor":
            time.sleep(QUIET)
        else:
            if way == "naive":
                with clients.quiet():
                    again = naive(engine, clients)
            else:
                again = safe(engine, clients)
        seconds = time.perf_counter() - started
    wait, column = max(clients.waits[begun:]), "licence" if way == "floor" else "license"
    with engine.connect() as connection:
        query = f"SELECT name, {column} FROM packages WHERE {column} IS DISTINCT FROM 'MIT'"
        found = {name: text for name, text in connection.exec_driver_sql(query)}
    lost = sum(found.get(name) != text for name, text in clients.wrote.items())
    engine.dispose()
    return {"seconds": wait, "took": seconds, "failed": clients.failed, "lost": lost, "again": again}


def rows_for(url: str, engine: str, count: int) -> list[Row]:
    def row(name: str, way: str, against: Row | None = None) -> Row:
        def take() -> Sample:
            sample: Sample = fresh(change, url=url, way=way, count=count)
            if way != "floor":
                made.note = (
                    f"took {sample['took']:.1f} s, {sample['failed']:.0f} failed, {sample['lost']:.0f} writes lost"
                )
                made.note += f", began again {sample['again']:.0f} times" if sample["again"] else ""
            return sample

        made = Row(name, take, against, group=engine)
        return made

    floor = row("floor: nothing is changed", "floor")
    releases = row("safe: five releases", "safe", floor)
    return [floor, releases, row("naive: one migration", "naive", releases)]


def work() -> None:
    from playbook.kit import postgres

    chosen = parser(__doc__).parse_args()
    runs, count = (1, 50_000) if chosen.quick else (3, 1_000_000)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-"))
        urls = {"DuckDB, a file": f"duckdb:///{folder}/bench.duckdb"}
        try:
            server = stack.enter_context(postgres.server())
            urls["PostgreSQL"] = stack.enter_context(postgres.database(server))
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")
        rows = [row for engine, url in urls.items() for row in rows_for(url, engine, count)]
        take_all(rows, runs)
    show(f"The longest wait of a statement while a column of {count:,} rows is renamed", rows, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
