"""The exercise of the page "Expand and contract": its checker, its hints, wrong answers; and the page's service."""

from collections.abc import Callable
from typing import Any

import httpx
import sqlalchemy as sa
from fastapi import Body, FastAPI, HTTPException
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url
from playbook.kit.live import NO_TLS
from playbook.kit.rollout import Fleet
from playbook.migrations.expand_and_contract import backfill, differing, dual_write  # noqa: F401  for WRONG

HINTS = (
    "See the table of releases in 'Build it'. Which columns hold what release 5 wrote?\n"
    "Which two releases may serve side by side?",
    "Walk the steps backwards, one release at a time. What was copied from the old column\n"
    "to the new one on the way there is copied the other way round, and again it matters when.",
)

WRONG = (
    # release 2 reads the old column, which release 5 has not written
    """
def go_back(fleet):
    fleet.start("2")
    fleet.stop("5")
""",
    # the copy is made while release 5 still writes one column alone
    """
def go_back(fleet):
    fleet.start("4")
    backfill(fleet.engine, packages.c.license, packages.c.licence)
    fleet.stop("5")
    fleet.start("2")
    fleet.stop("4")
""",
    # the copy goes the wrong way, and overwrites what release 5 wrote
    """
def go_back(fleet):
    fleet.start("4")
    fleet.stop("5")
    backfill(fleet.engine, packages.c.licence, packages.c.license)
    fleet.start("2")
    fleet.stop("4")
""",
    # release 2 serves before the copy
    """
def go_back(fleet):
    fleet.start("4")
    fleet.stop("5")
    fleet.start("2")
    backfill(fleet.engine, packages.c.license, packages.c.licence)
    fleet.stop("4")
""",
    # no copy at all
    """
def go_back(fleet):
    fleet.start("4")
    fleet.stop("5")
    fleet.start("2")
    fleet.stop("4")
""",
    # nobody serves for a moment
    """
def go_back(fleet):
    fleet.stop("5")
    backfill(fleet.engine, packages.c.license, packages.c.licence)
    fleet.start("2")
""",
)

columns = [sa.Column(name, sa.String) for name in ("licence", "license")]
packages = sa.Table("packages", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), *columns)


def ddl(*statements: str) -> Callable[[sa.Connection], None]:
    """A change of the schema: `ALTER TABLE packages` with each of the statements."""

    def change(connection: sa.Connection) -> None:
        for statement in statements:
            connection.execute(sa.text(f"ALTER TABLE packages {statement}"))

    return change


def database(url: str, rows: int = 1) -> sa.Engine:
    """A database with the table of before, which has the column `licence` and some rows."""
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS packages"))
        connection.execute(sa.text("CREATE TABLE packages (name VARCHAR PRIMARY KEY, licence VARCHAR NOT NULL)"))
        names = [{"name": f"package-{number:03}"} for number in range(rows)]
        connection.execute(sa.text("INSERT INTO packages (name, licence) VALUES (:name, 'MIT')"), names)
    return engine


def service(engine: sa.Engine, model: Any) -> FastAPI:
    """The service of one release: `model` has the attributes `name` and `license`."""
    app = FastAPI()

    @app.put("/packages/{name}")
    def write(name: str, license: str = Body(embed=True)) -> dict[str, str]:
        def work(session: orm.Session) -> None:
            row = session.get(model, name) or model(name=name)
            row.license = license
            session.add(row)

        transaction(engine, work)
        return {"license": license}

    @app.get("/packages/{name}")
    def read(name: str) -> dict[str, str]:
        row = transaction(engine, lambda session: session.get(model, name))
        if row is None:
            raise HTTPException(404)
        return {"license": row.license}

    return app


def model(column: str, other: str | None = None) -> Any:
    """The model of one release, which reads `column`, and writes `other` too."""

    class Package(orm.declarative_base()):  # type: ignore[misc]
        __tablename__ = "packages"
        name = orm.mapped_column(sa.String, primary_key=True)
        license = orm.mapped_column(column, sa.String)

    if other:
        Package.other = orm.mapped_column(other, sa.String)
        dual_write(Package.license, Package.other)
    return Package


MODELS = {
    "2": model("licence", "license"),
    "4": model("license", "licence"),
    "5": model("license"),
}


class Watched(Fleet):
    """After each start, and before each stop, every release that serves writes two rows and reads all there are."""

    def __init__(self, engine: sa.Engine) -> None:
        releases = {name: lambda one=one: service(engine, one) for name, one in MODELS.items()}
        super().__init__(engine, releases)
        self.written: dict[str, str] = {}
        self.wrong: list[str] = []

    def watch(self, moment: str) -> None:
        with httpx.Client(trust_env=False, timeout=60, verify=NO_TLS) as http:
            for release, (_, url) in self.running.items():
                for name in ("the first row", f"row {len(self.written)} of release {release}"):
                    self.written[name] = f"LicenseRef-{len(self.written)}-{release}"
                    http.put(f"{url}/packages/{name}", json={"license": self.written[name]})
            for release, (_, url) in self.running.items():
                for name, text in self.written.items():
                    answer = http.get(f"{url}/packages/{name}")
                    said = answer.json()["license"] if answer.is_success else answer.status_code
                    if said != text:
                        self.wrong.append(f"{moment}, release {release} says {said} for {name!r}, not {text}")

    def start(self, release: str) -> None:
        if release not in self.releases:
            raise AssertionError(f"there is no release {release!r} to go to: they are 2, 4 and 5")
        super().start(release)
        self.watch(f"when release {release} has started")

    def stop(self, release: str) -> None:
        if release not in self.running:
            raise AssertionError(f"release {release!r} does not serve, so it cannot be stopped")
        if list(self.running) == [release]:
            self.wrong.append(f"when release {release} stops, nobody serves")
        self.watch(f"before release {release} stops")
        super().stop(release)


@checker
def check(go_back: Callable[[Fleet], None]) -> str:
    """From release 5 back to 2, while every release that serves is asked for all rows."""
    engine = make_engine(lesson_url())
    with Watched(engine) as fleet:
        packages.create(engine)
        fleet.start("4")
        fleet.start("5")
        fleet.stop("4")
        go_back(fleet)
        fleet.watch("at the end")
        if list(fleet.running) != ["2"]:
            serving = " and ".join(fleet.running) or "nobody"
            fleet.wrong.append(f"at the end {serving} serves, and only release 2 should")
        if differing(engine, packages.c.licence, packages.c.license):
            fleet.wrong.append("at the end the columns differ, so release 4 could not be started again")
        verdict = f"not yet: {fleet.wrong[0]}" if fleet.wrong else "right"
    engine.dispose()
    return verdict
