"""The exercise of the page "GraphQL": its checker, its hints, wrong answers; and the rows of the page's stage."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from fastapi import FastAPI

from playbook.foundations.engines import make_engine
from playbook.kit.exercises import checker
from playbook.kit.live import LiveClient, serving
from playbook.kit.stage import load_packages
from playbook.schema.relationships import TooManyStatements, at_most

T = TypeVar("T")
PACKAGES, RELEASES = 200, 100  # of the 14,985, in the order of their downloads; releases of each, made up

metadata = sa.MetaData()
packages = sa.Table(
    "packages", metadata,
    sa.Column("name", sa.String, primary_key=True), sa.Column("month", sa.String),
    sa.Column("owner", sa.String),
)  # fmt: skip
organizations = sa.Table("organizations", metadata, sa.Column("name", sa.String, primary_key=True))
releases = sa.Table(
    "releases", metadata,
    sa.Column("package", sa.String, primary_key=True), sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.String),
)  # fmt: skip


def new_database(url: str) -> sa.Engine:
    """200 real packages. What stands before the first hyphen is their organization; 100 made-up releases each."""
    engine = make_engine(url)
    load_packages(engine, packages, PACKAGES)
    organizations.create(engine)
    releases.create(engine)
    with engine.begin() as db:
        db.exec_driver_sql(f"DELETE FROM packages WHERE name NOT IN (SELECT name FROM packages LIMIT {PACKAGES})")
        db.exec_driver_sql("UPDATE packages SET owner = split_part(name, '-', 1)")
        db.exec_driver_sql("INSERT INTO organizations SELECT DISTINCT owner FROM packages")
        numbers = f"generate_series(1, {RELEASES}) AS numbers(number)"
        made = f"SELECT name, number, '1.' || CAST(number AS VARCHAR) FROM packages CROSS JOIN {numbers}"
        db.exec_driver_sql(f"INSERT INTO releases (package, number, version) {made}")
    return engine


class Reads:
    """What the resolvers read, each for any number of keys in one statement."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def rows(self, statement: sa.Select[Any]) -> list[Any]:
        with self.engine.connect() as db:
            return list(db.execute(statement))

    def first_packages(self, first: int) -> list[Any]:
        return self.rows(sa.select(packages).order_by(packages.c.name).limit(first))

    def organizations(self, names: list[str]) -> list[Any]:
        found = sa.select(organizations).where(organizations.c.name.in_(names))
        return self.rows(found.order_by(organizations.c.name.desc()))  # not in the order of the keys

    def packages_of(self, owners: list[str], first: int) -> list[Any]:
        return self.rows(newest_first(packages, packages.c.owner, owners, packages.c.name, first))

    def releases_of(self, names: list[str], first: int) -> list[Any]:
        return self.rows(newest_first(releases, releases.c.package, names, releases.c.number.desc(), first))


def newest_first(table: sa.Table, parent: Any, keys: list[str], order: Any, first: int) -> sa.Select[Any]:
    """The first `first` rows of each parent: one statement, with a window function."""
    place = sa.func.row_number().over(partition_by=parent, order_by=order).label("row_number")
    ranked = sa.select(table, place).where(parent.in_(keys)).subquery()
    return sa.select(ranked).where(ranked.c.row_number <= first).order_by(ranked.c[parent.name], ranked.c.row_number)


def rest(reads: Reads) -> FastAPI:
    """The same rows as resources, and a route that was written for the screen."""
    app = FastAPI()

    @app.get("/packages")
    def list_packages(limit: int) -> list[Any]:
        return [row._asdict() for row in reads.first_packages(limit)]

    @app.get("/organizations/{name}")
    def read_organization(name: str) -> Any:
        return reads.organizations([name])[0]._asdict()

    @app.get("/packages/{name}/releases")
    def list_releases(name: str, limit: int) -> list[Any]:
        return [row._asdict() for row in reads.releases_of([name], limit)]

    @app.get("/start-screen")
    def start_screen() -> list[Any]:
        found = reads.first_packages(20)
        names = [row.name for row in found]
        newest: dict[str, list[Any]] = {name: [] for name in names}
        for row in reads.releases_of(names, 3):
            newest[row.package].append({"version": row.version})
        owners = {row.name for row in reads.organizations([row.owner for row in found])}
        assert owners == {row.owner for row in found}
        return [
            {"name": row.name, "organization": {"name": row.owner}, "releases": newest[row.name]} for row in found
        ]  # fmt: skip

    return app


def by_resource(client: LiveClient) -> list[Any]:
    """The screen as a front end puts it together from resources: each organization once."""
    screen, known = [], {}
    for package in client.get("/packages?limit=20").json():
        owner = package["owner"]
        if owner not in known:
            known[owner] = client.get(f"/organizations/{owner}").json()["name"]
        newest = client.get(f"/packages/{package['name']}/releases?limit=3").json()
        releases = [{"version": one["version"]} for one in newest]
        screen.append({"name": package["name"], "organization": {"name": known[owner]}, "releases": releases})
    return screen


class Cost(NamedTuple):
    """What it took: requests, bytes of their bodies, statements; and what came."""

    requests: int
    sent: int
    received: int
    statements: int
    answer: Any


def cost_of(app: Any, engine: sa.Engine, use: Callable[[LiveClient], Any]) -> Cost:
    """Serve `app`, let `use(client)` use it over HTTP, and count."""
    with serving(app) as client, at_most(engine, 10_000) as statements:
        answer = use(client)
        said = client.exchanges
    sent = sum(len(one.request_body) for one in said)
    return Cost(len(said), sent, sum(len(one.response_body) for one in said), len(statements), answer)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """What `coroutine` returns. In a thread: a notebook has an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def ask(query: str) -> Callable[[LiveClient], Any]:
    """Sends one query, and returns what was answered."""
    return lambda client: client.post("/graphql", json={"query": query}).json()


HINTS = (
    "Look at `batch`: what are the keys, and which rows does one statement have to bring\n"
    "for all of them? Two keys may share a package and differ in the other half.",
    "Read the numbers of all these packages, from the smallest `since` on. Then count, for\n"
    "each key, those that are not below its own `since`.",
)

WRONG = (
    # a statement for each key
    """
def counts(db, releases, keys):
    found = []
    for package, since in keys:
        mine = sa.select(sa.func.count()).where(releases.c.package == package, releases.c.number >= since)
        found.append(db.scalar(mine))
    return found
""",
    # the smallest `since` for everybody
    """
def counts(db, releases, keys):
    names, since = [key[0] for key in keys], min(key[1] for key in keys)
    mine = sa.select(releases.c.package, sa.func.count()).group_by(releases.c.package)
    found = dict(db.execute(mine.where(releases.c.package.in_(names), releases.c.number >= since)).all())
    return [found.get(package, 0) for package, _ in keys]
""",
    # in the order of the database, and nothing for a package without releases
    """
def counts(db, releases, keys):
    wanted = sa.or_(*((releases.c.package == name) & (releases.c.number >= since) for name, since in keys))
    mine = sa.select(sa.func.count()).where(wanted).group_by(releases.c.package)
    return list(db.scalars(mine.order_by(releases.c.package)))
""",
    # one number for each package: the second key of a package overwrites the first
    """
def counts(db, releases, keys):
    since = dict(keys)
    wanted = sa.or_(*((releases.c.package == name) & (releases.c.number >= low) for name, low in since.items()))
    mine = sa.select(releases.c.package, sa.func.count()).where(wanted).group_by(releases.c.package)
    found = dict(db.execute(mine).all())
    return [found.get(name, 0) for name, _ in keys]
""",
)


@checker
def check(counts: Callable[..., Any]) -> str:
    """Keys in any order, two of one package, one of none: the numbers in the order of the keys, in one statement."""
    engine = sa.create_engine("sqlite://")
    table = releases.to_metadata(sa.MetaData())
    table.create(engine)
    with engine.begin() as db:
        rows = [
            {"package": name, "number": number, "version": f"1.{number}"}
            for name, most in (("a", 3), ("b", 40), ("c", 7))
            for number in range(1, most + 1)
        ]
        db.execute(table.insert(), rows)
    keys = [("c", 2), ("b", 31), ("none", 1), ("a", 1), ("b", 1), ("a", 9)]
    expected = [6, 10, 0, 3, 40, 0]
    for some, right in ((keys, expected), (keys[:1], expected[:1])):
        try:
            with engine.connect() as db, at_most(engine, 1):
                found = list(counts(db, table, some))
        except TooManyStatements as error:
            return f"not yet: for {len(some)} keys there were {str(error).split(',')[0]}"
        if len(found) != len(some):
            return f"not yet: {len(some)} keys got {len(found)} numbers"
        for key, one, number in zip(some, found, right, strict=True):
            if one != number:
                return f"not yet: for the key {key} among {len(some)} it is {number}, and not {one}"
    return "right"
