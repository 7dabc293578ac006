"""Loading the catalogue (`playbook.pantry.catalog_file.load_catalog`) against what the engines do at the least.

The floor on DuckDB is its own `CREATE TABLE AS SELECT * FROM read_csv(...)`, on PostgreSQL psycopg's COPY into a table
of text without an index: both read the file and check nothing. The peer is an ORM object for each row, all in one
transaction. Two files: the real one, and made rows like it; `--rows 1000000` takes ten times as long as the default.
`--profile` shows the statements of one load instead.
"""

import csv
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from measure import (
    Row,
    Sample,
    at_least_one,
    duration,
    fresh,
    main,
    new_table,
    parser,
    peak_mb,
    print_all,
    show,
    take_all,
    timed,
)

PACKAGES = ["duckdb", "duckdb-sqlalchemy", "sqlalchemy", "psycopg"]
SEED = 1
AIM = 5  # times the floor
SAMPLE = 500  # rows that the peer loads
REMARKS = [
    "Peak MB: above what the process had after its imports and with an empty database; nothing of the server's.",
    "Extrapolated: the time of the rows loaded, times the rows of the file; their memory is that of the part.",
]


# ---------------------------------------------------------------- made rows


def made_rows(source: Path, count: int) -> Iterator[list[str]]:
    """`count` rows like those of `source`: real names made longer, real versions or a step from one, real months."""
    with source.open(encoding="utf-8", newline="") as file:
        real = list(csv.DictReader(file))
    randomly, seen = random.Random(SEED), set()
    words = [word for row in real for word in re.split("[-_.]+", row["name"])]
    # The share of versions seen once is the chance that the next one is new (Good and Turing).
    versions = Counter(row["version"] for row in real)
    new = sum(times == 1 for times in versions.values()) / len(real)
    while len(seen) < count:
        row = randomly.choice(real)
        name = row["name"] + randomly.choice("--_.") + randomly.choice(words)
        key = re.sub("[-_.]+", "-", name.lower())
        if key in seen:
            continue
        seen.add(key)
        typed = row["version"]
        if randomly.random() < new:
            typed = re.sub(r"\d+(?=\D*$)", lambda last: str(int(last[0]) + randomly.randrange(1, 100)), typed)
        yield [str(len(seen)), name, typed, row["last_release"]]


def write_made(path: str, source: str, count: int) -> int:
    """Write the file of made rows; returns how many distinct versions it has."""
    versions = set()
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", "name", "version", "last_release"])
        for row in made_rows(Path(source), count):
            versions.add(row[2])
            writer.writerow(row)
    return len(versions)


# ---------------------------------------------------------------- measured, each in a process of its own


def database(url: str) -> tuple[Any, Any, Any]:
    """A database with Pantry's tables and one organization: engine, the organization's id, the time."""
    from playbook.foundations.clock_and_identifiers import Identifiers, SystemClock
    from playbook.foundations.engines import Base, make_engine
    from playbook.foundations.transactions import transaction
    from playbook.pantry import catalog  # noqa: F401  (declares the tables)
    from playbook.schema.identity import Organization

    engine, clock = make_engine(url), SystemClock()
    Base.metadata.create_all(engine)
    now, new_id = clock.now(), Identifiers(clock).new()
    mirror = Organization(id=new_id, slug="mirror", name="Mirror", created_at=now, updated_at=now)
    transaction(engine, lambda session: session.add(mirror))
    return engine, new_id, now


def read_csv(url: str, path: str) -> Sample:
    """The floor on DuckDB."""
    import duckdb

    from playbook.foundations.engines import open_duckdb

    with open_duckdb(lambda: duckdb.connect(url.removeprefix("duckdb:///"))) as connection, timed() as sample:
        connection.execute("CREATE TABLE floor AS SELECT * FROM read_csv($1)", [path])
    return sample


def copy(url: str, path: str) -> Sample:
    """The floor on PostgreSQL."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        connection.execute("CREATE TABLE floor (rank text, name text, version text, last_release text)")
        connection.commit()
        with timed() as sample, open(path, "rb") as file:
            with connection.cursor().copy("COPY floor FROM STDIN (FORMAT csv, HEADER)") as stream:
                while block := file.read(1 << 20):
                    stream.write(block)
            connection.commit()
    return sample


def insert_ready(url: str, path: str) -> Sample:
    """What DuckDB takes for the last step alone: rows that are ready, into Pantry's two tables with their indexes."""
    from playbook.foundations.engines import Base
    from playbook.pantry.catalog import Package, Release
    from playbook.pantry.catalog_file import load_catalog

    tables = [Package.__tablename__, Release.__tablename__]
    engine, organization, now = database(url)
    load_catalog(engine, Path(path), organization, now)
    with engine.connect() as connection:
        for table in tables:
            connection.exec_driver_sql(f"CREATE TEMP TABLE ready_{table} AS FROM {table}")
        connection.commit()
        Base.metadata.drop_all(connection)
        Base.metadata.create_all(connection)
        connection.commit()
        with timed() as sample:
            for table in tables:
                connection.exec_driver_sql(f"INSERT INTO {table} FROM ready_{table}")
            connection.commit()
    engine.dispose()
    return {"seconds": sample["seconds"]}  # the peak was reached while they were made ready


def load(url: str, path: str, again: bool = False) -> Sample:
    """Load the file by `load_catalog`; with `again`, measure the second load, which changes nothing."""
    from playbook.pantry.catalog_file import load_catalog

    engine, organization, now = database(url)
    if again:
        load_catalog(engine, Path(path), organization, now)
    with timed() as sample:
        load_catalog(engine, Path(path), organization, now)
    engine.dispose()
    return {"seconds": sample["seconds"]} if again else sample  # the first load reached the peak


def row_by_row(url: str, path: str, count: int) -> Sample:
    """The peer: look the package up, add objects, for the first `count` rows, all in one transaction."""
    from datetime import UTC, datetime

    import sqlalchemy as sa
    from packaging.utils import canonicalize_name
    from packaging.version import Version
    from sqlalchemy import orm

    from playbook.foundations.clock_and_identifiers import Identifiers, SystemClock
    from playbook.foundations.transactions import transaction
    from playbook.pantry.catalog import Package, Release
    from playbook.schema.natural_keys import version_key

    engine, organization, now = database(url)
    ids = Identifiers(SystemClock())

    def one(session: orm.Session, row: dict[str, str]) -> None:
        name = canonicalize_name(row["name"], validate=True)
        month = datetime.strptime(row["last_release"], "%Y-%m").replace(tzinfo=UTC)
        version, key = Version(row["version"]), version_key(row["version"])
        if session.scalar(sa.select(Package).where(Package.normalized_name == name)):
            return
        package = Package(
            id=ids.new(), organization_id=organization, name=row["name"], normalized_name=name,
            popularity_rank=int(row["rank"]), created_at=now, updated_at=now,
        )  # fmt: skip
        release = Release(
            id=ids.new(), package_id=package.id, version=row["version"], version_key=key,
            is_prerelease=version.is_prerelease, released_at=month, created_at=now,
        )  # fmt: skip
        session.add_all([package, release])

    def work(session: orm.Session) -> None:
        with open(path, encoding="utf-8", newline="") as file:
            for row in islice(csv.DictReader(file), count):
                if row["version"]:
                    one(session, row)

    with timed() as sample:
        transaction(engine, work)
    engine.dispose()
    return sample


def profile(url: str, path: str) -> list[tuple[str, float, float]]:
    """One load, statement by statement: the SQL, the seconds and the MB of peak memory until the next one was sent.

    What Python does after a statement counts with it: the version keys are made after SELECT DISTINCT version.
    """
    import sqlalchemy as sa

    from playbook.pantry.catalog_file import load_catalog

    engine, organization, now = database(url)
    sent: list[tuple[str, float, float]] = []

    def note(sql: str) -> None:
        sent.append((" ".join(sql.split()), time.perf_counter(), peak_mb()))

    # All engines: on the way to PostgreSQL, DuckDB reads the file and checks it.
    sa.event.listen(sa.Engine, "before_cursor_execute", lambda conn, cursor, sql, *_: note(sql))
    sa.event.listen(sa.Engine, "commit", lambda conn: note("COMMIT"))
    load_catalog(engine, Path(path), organization, now)
    note("end")
    engine.dispose()
    return [(sql, later - at, above - below) for (sql, at, below), (_, later, above) in pairwise(sent)]


# ---------------------------------------------------------------- the tables


class Databases:
    """URLs of new, empty databases, each gone after its measurement."""

    def __init__(self, stack: ExitStack) -> None:
        from playbook.kit import postgres

        self.server_url: str | None = None
        try:
            self.server_url = stack.enter_context(postgres.server())
        except postgres.PostgresUnavailable as error:
            print(f"PostgreSQL is left out: {error}")

    def take(self, kind: str, function: Callable[..., Any], **arguments: Any) -> Any:
        """`function(url, ...)` in a fresh process, on a new database of `kind`: file, memory or postgresql."""
        from playbook.kit import postgres

        if kind == "postgresql":
            with postgres.database(str(self.server_url)) as url:
                return fresh(function, url=url, **arguments)
        with tempfile.TemporaryDirectory(prefix="playbook-bench-") as folder:
            name = f"{folder}/bench.duckdb" if kind == "file" else ":memory:"
            return fresh(function, url=f"duckdb:///{name}", **arguments)


def rows_for(databases: Databases, path: str, count: int, sample: int, title: str) -> list[Row]:
    """The rows of the table for one file of `count` rows. `sample`: how many of them the peer loads."""

    def row(name: str, kind: str, function: Callable[..., Any], against: Row | None = None, **more: Any) -> Row:
        take = partial(databases.take, kind, function, path=path, **more)
        aim = AIM if function is load and kind != "postgresql" else None
        return Row(name, take, against, aim_ratio=aim, group=title)

    file = row("floor: read_csv, file", "file", read_csv)
    bulk = row("load_catalog, file", "file", load, file)
    again = row("load_catalog again, file", "file", load, file, again=True)
    ready = row("floor: ready rows into the indexed tables, file", "file", insert_ready, file)
    memory = row("floor: read_csv, memory", "memory", read_csv)
    in_memory = row("load_catalog, memory", "memory", load, memory)
    peer = row(f"peer: ORM row by row, file ({sample:,} rows, extrapolated)", "file", row_by_row, bulk, count=sample)
    peer.times = count / sample
    rows = [file, ready, bulk, again, memory, in_memory, peer]
    if databases.server_url:
        floor = row("floor: COPY, PostgreSQL", "postgresql", copy)
        rows += [floor, row("load_catalog, PostgreSQL", "postgresql", load, floor)]
    return rows


def show_profile(rows: Sequence[tuple[str, float, float]], title: str) -> None:
    whole = sum(seconds for _, seconds, _ in rows)
    right = ["time", "share", "peak MB"]
    table = new_table(title, ["statement", *right], right)
    for sql, seconds, megabytes in rows:
        short = sql if len(sql) <= 100 else sql[:97] + "..."
        table.add_row(short, duration(seconds), f"{seconds / whole:.0%}", f"+{megabytes:,.0f}")
    print_all(PACKAGES, table, [f"{duration(whole)} in all. After SELECT DISTINCT, Python makes the version keys."])


def work() -> None:
    from playbook.kit.data import data_path

    arguments = parser(__doc__)
    arguments.add_argument("--profile", action="store_true", help="show the statements of one load of the made rows")
    arguments.add_argument("--rows", type=at_least_one, default=100_000, help="to make (default: 100000)")
    arguments.add_argument("--runs", type=at_least_one, default=3, help="of each measurement (default: 3)")
    chosen = arguments.parse_args()
    made, runs = (50_000, 1) if chosen.quick else (chosen.rows, chosen.runs)
    real = data_path("packages.csv")
    with real.open(encoding="utf-8", newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    with ExitStack() as stack:
        databases = Databases(stack)
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix="playbook-bench-")) + "/made.csv"
        # In its own process as well: on Linux the peak of a child begins with that of its parent.
        versions = fresh(write_made, path=path, source=str(real), count=made)
        title = f"made rows: {made:,}, with {versions:,} versions"
        if chosen.profile:
            for kind in ["file", *["postgresql"] * bool(databases.server_url)]:
                show_profile(databases.take(kind, profile, path=path), f"load_catalog, {kind}, {title}")
            return
        few = rows_for(databases, str(real), count, SAMPLE, f"packages.csv: {count:,} rows")
        take_all(few, runs)
        many = rows_for(databases, path, made, SAMPLE, title)
        take_all(many, runs)
    show("Loading the catalogue", few + many, PACKAGES, REMARKS)


if __name__ == "__main__":
    main(work)
