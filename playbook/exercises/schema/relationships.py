"""The exercise of the page "Relationships": its checker, its hints, wrong answers; and the rows of the page's stage."""

import itertools
import sqlite3
from collections.abc import Callable
from itertools import islice
from typing import Any

import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.kit.data import data_path
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_folder, on_postgres
from playbook.schema.bulk_load import Plan, drop_staging, move, stage, staging
from playbook.schema.relationships import TooManyStatements, at_most

HEADER = ("rank", "name", "version", "last_release")
PACKAGES = 2_000  # of the 14,985: each page of the list is one of them
PEOPLE = ("Ada", "Bob", "Carol")
ROLES = """INSERT INTO roles (package_name, person_name, role)
SELECT packages.name, people.name, CASE WHEN people.name = 'Ada' THEN 'maintainer' ELSE 'uploader' END
FROM packages, people WHERE people.name = 'Ada' OR mod(packages.rank, 2) = 0"""


def add_organization(row: dict[str, Any]) -> None:
    """What stands before the first hyphen of a name is taken for its organization."""
    row["organization"] = row["name"].split("-")[0]


def new_database(url: str, metadata: sa.MetaData) -> sa.Engine:
    """The tables of the page, with real packages: Ada has a role in each, Bob and Carol in every second one."""
    engine = make_engine(url)
    metadata.create_all(engine)
    organizations, packages = metadata.tables["organizations"], metadata.tables["packages"]
    path = lesson_folder() / "packages.csv"
    with data_path("packages.csv").open(encoding="utf-8", newline="") as file:
        path.write_text("".join(islice(file, PACKAGES + 1)), encoding="utf-8", newline="")
    raw = staging(HEADER, more=["organization"])
    rank = sa.cast(raw.c.rank, sa.Integer).label("rank")
    rows = sa.select(raw.c.name, rank, raw.c.organization, sa.literal("Ada").label("added_by"))
    names = sa.select(raw.c.organization.label("name")).distinct()
    plan = Plan(raw, [], packages, rows, ["name"], prepare=add_organization)
    with engine.begin() as db:
        db.execute(metadata.tables["people"].insert(), [{"name": name} for name in PEOPLE])
        stage(db, path, plan)
        move(db, plan._replace(table=organizations, rows=names))
        move(db, plan)
        drop_staging(db)
        db.exec_driver_sql(ROLES)
    return engine


_numbers = itertools.count(1)


def _left(engine: sa.Engine, metadata: sa.MetaData) -> dict[str, int]:
    people, roles, packages = (metadata.tables[name] for name in ("people", "roles", "packages"))
    counts = {
        "people": sa.select(sa.func.count()).select_from(people),
        "roles": sa.select(sa.func.count()).select_from(roles),
        "added by": sa.select(sa.func.count(packages.c.added_by)),
    }
    with engine.connect() as db:
        return {name: db.scalar(count) or 0 for name, count in counts.items()}


def plainly(db: sa.Connection, people: sa.Table, condition: sa.ColumnElement[bool]) -> None:
    """DELETE, and nothing besides."""
    db.execute(people.delete().where(condition))


def ada_leaves(metadata: sa.MetaData, delete: Callable[..., Any]) -> tuple[list[dict[str, Any]], sa.Engine]:
    """What is left when `delete(db, people, condition)` deletes Ada, on each engine; and the embedded one's engine."""

    def leave(url: str) -> tuple[dict[str, int], dict[str, int], sa.Engine]:
        engine = new_database(url, metadata)
        before = _left(engine, metadata)
        people = metadata.tables["people"]
        with engine.begin() as db:
            delete(db, people, people.c.name == "Ada")
        return before, _left(engine, metadata), engine

    def leave_postgres(url: str) -> dict[str, int]:
        _, after, engine = leave(url)
        engine.dispose()
        return after

    before, here, engine = leave(f"duckdb:///:memory:ada_{next(_numbers)}")  # whatever DATABASE_URL says
    there = on_postgres(leave_postgres) or here
    rows = {"before": before, "DuckDB": here, "PostgreSQL": there}
    return [{"": name, **counts} for name, counts in rows.items()], engine


HINTS = (
    "Look at 'The idea': one more statement brings what belongs to all packages of the\n"
    "page. Here it must bring one row for each package, and not all.",
    "A subquery can be a column of the outer SELECT. It may mention the package of the\n"
    "outer row, sort that package's releases, and keep one of them.",
)

WRONG = (
    # a statement for each package
    """
def newest(db, packages, releases, size):
    names = db.scalars(sa.select(packages.c.name).order_by(packages.c.name).limit(size)).all()
    found = []
    for name in names:
        mine = sa.select(releases.c.month).where(releases.c.package == name)
        found.append((name, db.scalar(mine.order_by(releases.c.number.desc()).limit(1))))
    return found
""",
    # two statements, and every release that a package ever had
    """
def newest(db, packages, releases, size):
    names = db.scalars(sa.select(packages.c.name).order_by(packages.c.name).limit(size)).all()
    mine = sa.select(releases).where(releases.c.package.in_(names)).order_by(releases.c.number)
    months = {row.package: row.month for row in db.execute(mine)}
    return [(name, months.get(name)) for name in names]
""",
    # an inner join loses packages without a release
    """
def newest(db, packages, releases, size):
    last = sa.select(releases.c.package, sa.func.max(releases.c.number).label("number")).group_by(
        releases.c.package
    ).subquery()
    rows = (
        sa.select(packages.c.name, releases.c.month)
        .join(last, last.c.package == packages.c.name)
        .join(releases, (releases.c.package == last.c.package) & (releases.c.number == last.c.number))
    )
    return [tuple(row) for row in db.execute(rows.order_by(packages.c.name).limit(size))]
""",
    # the latest month is not the month of the newest release
    """
def newest(db, packages, releases, size):
    month = sa.select(sa.func.max(releases.c.month)).where(releases.c.package == packages.c.name)
    rows = sa.select(packages.c.name, month.scalar_subquery()).order_by(packages.c.name).limit(size)
    return [tuple(row) for row in db.execute(rows)]
""",
    # LIMIT counts the rows of the join, not packages
    """
def newest(db, packages, releases, size):
    both = packages.outerjoin(releases, releases.c.package == packages.c.name)
    rows = sa.select(packages.c.name, releases.c.month).select_from(both)
    rows = rows.order_by(packages.c.name, releases.c.number.desc()).limit(size)
    months = {}
    for name, month in db.execute(rows):
        months.setdefault(name, month)
    return list(months.items())
""",
)

RELEASES = 40  # of each package; a page must not load them all


def _database() -> tuple[sa.Engine, sa.Table, sa.Table, list[int]]:
    """Packages whose newest release is not the last month, one without releases, and a count of the rows sent."""
    meta = sa.MetaData()
    packages = sa.Table("packages", meta, sa.Column("name", sa.String, primary_key=True))
    releases = sa.Table(
        "releases",
        meta,
        sa.Column("package", sa.ForeignKey("packages.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("month", sa.String, nullable=False),
    )
    fetched = [0]

    def count(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        fetched[0] += 1
        return row

    engine = sa.create_engine("sqlite://")
    sa.event.listen(engine, "connect", lambda connection, record: setattr(connection, "row_factory", count))
    meta.create_all(engine)
    with engine.begin() as db:
        db.execute(packages.insert(), [{"name": f"p{number:03}"} for number in range(100)])
        rows = [
            {"package": f"p{package:03}", "number": number, "month": f"20{59 - number:02}-{package % 12 + 1:02}"}
            for package in range(100)
            if package != 2
            for number in range(1, RELEASES + 1)
        ]
        db.execute(releases.insert(), rows)
    fetched[0] = 0
    return engine, packages, releases, fetched


@checker
def check(newest: Callable[..., Any]) -> str:
    """A page of five and one of fifty: the same rows as one by one, in two statements, without all releases."""
    engine, packages, releases, fetched = _database()
    for size in (5, 50):
        expected = [
            (f"p{number:03}", None if number == 2 else f"20{59 - RELEASES:02}-{number % 12 + 1:02}")
            for number in range(size)
        ]
        fetched[0] = 0
        try:
            with engine.connect() as db, at_most(engine, 2):
                found = [tuple(row) for row in newest(db, packages, releases, size)]
        except TooManyStatements as error:
            return f"not yet: for a page of {size} packages there were {str(error).split(';')[0]}"
        if len(found) != size:
            return f"not yet: a page of {size} has {len(found)} packages"
        if found != expected:
            wrong, right = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
            if wrong[0] == right[0]:
                return f"not yet: the newest release of {right[0]} is of {right[1]}, and not of {wrong[1]}"
            return f"not yet: {right[0]} should come where {wrong[0]} comes"
        if fetched[0] > 2 * size:
            return f"not yet: the database sent {fetched[0]} rows for a page of {size}"
    return "right"
