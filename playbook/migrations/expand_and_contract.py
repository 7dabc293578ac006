# %% [markdown]
"""
# Expand and contract

Rename a column in five releases while clients read and write, so that no request fails and no row is wrong.

| | |
|---|---|
| **Use it when** | a column is renamed, split, moved or retyped, and the old release serves until the new one has taken over |
| **You need** | [transactions](../foundations/transactions.ipynb), [request_and_transaction](../foundations/request_and_transaction.ipynb), [first_migration](first_migration.ipynb) |
| **Time** | 20 minutes |
| **Topics** | expand and contract, parallel change, zero downtime migration, online migration, rename column, dual write, backfill, rolling deployment, rolling update, blue green, backward compatible schema, lock_timeout, access exclusive, queue behind alter table, connection draining, load balancer, rollback |
| **Standard** | ISO/IEC 9075-2 (ALTER TABLE) |
"""

# %% [markdown]
"""
## The decision

The column of [first_migration](first_migration.ipynb) again: it is spelled `licence` and shall be `license`. The file
that renames it is right. What happens to the requests meanwhile?

| option | good | costs |
|---|---|---|
| stop, rename, start | one migration, one release | everybody waits or fails, and again if you must go back |
| rename the attribute of the model only | one line, no migration | the database keeps the old word; no help when the type or the place changes |
| a trigger that copies each write | no release need know of it, bulk updates neither | PostgreSQL only; a copy in each direction that must not call itself; logic where nobody looks |
| **expand, dual write, backfill, switch, contract** | nothing fails; every step but the last can be taken back | five releases, and code that writes twice for a while |

We take the **five releases**; a column that is split, moved or retyped takes the same. Choose the attribute alone when
it is only a word.
"""

# %% [markdown]
"""
## See it break

As the page before this one taught it: the migration runs, the new release starts beside the old one, the old one
stops. Clients go on between the steps. At which of these moments do their requests fail, and how many of them?

To count, two instruments. `Front` does what a load balancer does while a platform replaces a release: the old and the
new one answer in turn, and whoever is taken out finishes what it has begun.
"""

# %% tags=["export"]
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Front:
    """Hands out the base URLs in `rotation`, in turn, and knows which of their servers are busy."""

    def __init__(self) -> None:
        self.rotation: list[str] = []
        self.busy: Counter[str] = Counter()
        self.changed = threading.Condition()

    def remove(self, url: str, timeout: float = 30) -> None:
        """Take a server out and wait, `timeout` seconds, for what it has begun. Raises TimeoutError."""
        with self.changed:
            self.rotation.remove(url)
            if not self.changed.wait_for(lambda: not self.busy[url], timeout):
                raise TimeoutError(f"{self.busy[url]} requests did not end")

    @contextmanager
    def server(self, number: int, timeout: float = 30) -> Iterator[str]:
        """The server for request `number`, busy for the length of the block. Raises TimeoutError if there is none."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.rotation, timeout):
                raise TimeoutError("no server is in rotation")
            url = self.rotation[number % len(self.rotation)]
            self.busy[url] += 1
        try:
            yield url
        finally:
            with self.changed:
                self.busy[url] -= 1
                self.changed.notify_all()


# %% [markdown]
"""
`Traffic` is clients that never stop. Each writes a row and reads it back twice, from whichever server is next, and
knows what it must say. `flow` waits for rounds that began after the call, so its numbers are about this moment.
"""

# %% tags=["export"]
from typing import Any

import httpx


def write_and_read(http: httpx.Client, front: Front, first: int, wrote: dict[str, str], name: str) -> list[str]:
    """PUT one package and GET it twice, as requests `first` to `first + 2`. With two releases in rotation each writes
    what the other reads. Returns what failed: "GET 500", or "GET MIT" for a row that should say something else."""
    failed, text = [], f"LicenseRef-{first}"
    for number, method in enumerate(("PUT", "GET", "GET"), first):
        body, said = {"license": text} if method == "PUT" else None, None
        with front.server(number) as url:
            try:
                answer = http.request(method, f"{url}/packages/{name}", json=body)
                said = answer.json()["license"] if answer.is_success else answer.status_code
            except httpx.TransportError as error:
                said = type(error).__name__
        if method == "PUT" and said == text:
            wrote[name] = text
        elif method == "PUT" or said != wrote.get(name, 404):
            failed.append(f"{method} {said}")
    return failed


# %% tags=["export"]
class Traffic:
    """Clients in threads that go on for the length of a `with` block. `wrote` is what each row must say."""

    def __init__(self, front: Front, clients: int = 2, wrote: dict[str, str] | None = None) -> None:
        self.front, self.wrote = front, wrote or dict[str, str]()
        self.rounds: list[list[list[str]]] = [[] for _ in range(clients)]  # of each client: what failed in each round
        self.changed, self.ending = threading.Condition(), threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Traffic":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def client(self, mine: int) -> None:
        with httpx.Client(trust_env=False, timeout=30) as http:
            while not self.ending.is_set():
                number = len(self.rounds[mine])
                row = number if number % 3 == 0 else number % 3  # a new one, or one of two old ones
                failed = write_and_read(http, self.front, 3 * number, self.wrote, f"{mine}-{row}")
                with self.changed:
                    self.rounds[mine].append(failed)
                    self.changed.notify_all()


# %% tags=["export"]
def flow(traffic: Traffic, rounds: int = 4) -> tuple[int, int]:
    """Wait for `rounds` more rounds of each client; how many requests failed, and of how many. Raises TimeoutError."""
    begun = [len(done) + 1 for done in traffic.rounds]  # the round under way began before
    with traffic.changed:
        pairs = list(zip(traffic.rounds, begun, strict=True))
        if not traffic.changed.wait_for(lambda: all(len(done) >= start + rounds for done, start in pairs), 60):
            raise TimeoutError("a client does not go on")
    those = [failed for done, start in pairs for failed in done[start : start + rounds]]
    return sum(map(len, those)), 3 * len(those)


# %% [markdown]
"""
The service, small and the same in every release. What differs is one line of the model: in which column the attribute
`license` lives. Each release brings the migrations it knows, and refuses to start on any other schema.
"""

# %%
import shutil
from contextlib import ExitStack, nullcontext
from importlib.resources import files

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, HTTPException
from sqlalchemy import orm

from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import checker, lesson_folder, lesson_url, on_postgres, serving, show, table
from playbook.migrations.first_migration import current, drift, prepare, upgrade
from playbook.pantry.http import Transaction, create_app


def model(column):
    """The model of one release: another program, so with a base of its own."""

    class Package(orm.declarative_base()):
        __tablename__ = "packages"
        name = orm.mapped_column(sa.String, primary_key=True)
        license = orm.mapped_column(column, sa.String, nullable=False)

    return Package


def service(url, package, history, also=()):
    engine, router = make_engine(url), APIRouter(dependencies=[Depends(anyone)])
    prepare(engine, history, also=also)

    @router.put("/packages/{name}")
    def write(name: str, transact: Transaction, license: str = Body(embed=True)):
        def work(session):
            row = session.get(package, name) or package(name=name)
            row.license = license
            session.add(row)

        transact(work)
        return {"license": license}

    @router.get("/packages/{name}")
    def read(name: str, transact: Transaction):
        if row := transact(lambda session: session.get(package, name)):
            return {"license": row.license}
        raise HTTPException(404)

    return create_app(engine, [router])


# %%
REVISION = """import sqlalchemy as sa
from alembic import op

revision, down_revision = {name!r}, {before!r}


def upgrade():
    {body}
"""


def history(steps):
    """A folder with Pantry's Alembic environment and the revisions `steps`, (id, body) each."""
    folder, before = lesson_folder(), None
    (folder / "versions").mkdir()
    shutil.copy(files("playbook") / "pantry" / "revisions" / "env.py", folder)
    for name, body in steps:
        text = REVISION.format(name=name, before=before, body=body.strip().replace("\n", "\n    "))
        (folder / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
        before = name
    return folder


class Fleet(ExitStack):
    """One empty database, the servers of the releases that run on it, and the front before them."""

    def __init__(self, url, releases):
        super().__init__()
        self.releases, self.front, self.running, self.engine = releases, Front(), {}, make_engine(url)
        self.callback(self.engine.dispose)
        connection = self.enter_context(self.engine.connect())  # kept: without one a database in memory is gone
        for name in ("packages", "alembic_version"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
        connection.commit()
        self.callback(lambda: [Fleet.stop(self, release) for release in list(self.running)])

    def start(self, release):
        server = ExitStack()
        app = service(self.engine.url.render_as_string(hide_password=False), *self.releases[release])
        self.running[release] = server, str(server.enter_context(serving(app)).base_url)
        self.front.rotation.append(self.running[release][1])

    def stop(self, release):
        server, url = self.running.pop(release)
        self.front.remove(url)
        server.close()


def look(moment, fleet, traffic):
    """Count requests, whoever serves them at this moment."""
    failed, requests = flow(traffic)
    at, serving = current(fleet.engine)[0], " and ".join(fleet.running)
    return {"moment": moment, "schema": at, "serving": serving, "failed": f"{failed} of {requests}"}


# %% [markdown]
"""
Two clients, four rounds at each moment, three requests a round. Your prediction: how many of the 24 fail?
"""

# %%
FIRST = """op.create_table("packages", sa.Column("name", sa.String(), primary_key=True),
    sa.Column("licence", sa.String(), nullable=False))"""
PLAIN = [("0001_packages", FIRST), ("0002_rename", 'op.alter_column("packages", "licence", new_column_name="license")')]
NAIVE = {"old": (model("licence"), history(PLAIN[:1])), "new": (model("license"), history(PLAIN))}


def plain_rename(url):
    with Fleet(url, NAIVE) as fleet:
        fleet.start("old")
        with Traffic(fleet.front) as traffic:
            seen = [look("before", fleet, traffic)]
        upgrade(fleet.engine, location=NAIVE["new"][1])
        with Traffic(fleet.front, wrote=traffic.wrote) as traffic:
            seen.append(look("migrated", fleet, traffic))
            fleet.start("new")
            seen.append(look("the new one starts", fleet, traffic))
            fleet.stop("old")
            seen.append(look("the old one stops", fleet, traffic))
    return seen


broken = plain_rename(lesson_url())
show(table(broken))

# %% [markdown]
"""
The migration itself took a moment; the clients even waited for it. The outage is as long as the deployment: the old
release names a column that is gone. The new one first? It does not start, and if it did, it would be the one to fail.
"""

# %% [markdown]
"""
## Build it

The way out is a schema that *both* of two neighbouring releases understand, at each moment:

| release | reads | writes | its migration |
|---|---|---|---|
| 0, today | `licence` | `licence` | |
| 1, expand | `licence` | `licence` | add `license`, may be NULL; `licence` may be NULL from now on |
| 2, dual write | `licence` | both | |
| 3, backfill | `licence` | both | copy the old rows, compare |
| 4, switch | `license` | both | |
| 5, contract | `license` | `license` | `license` required, `licence` dropped |

Release 4 still writes the old column, for release 2, which reads it beside it. Release 5 is the first to leave it
out, which is why expand also makes it nullable: otherwise every new row of release 5 would be refused.

**Dual write.** The rest of the code says `row.license = ...` and must not learn of two columns. So the model does it:
"""

# %% tags=["export"]
import sqlalchemy as sa
from sqlalchemy.orm.attributes import QueryableAttribute


def dual_write(source: QueryableAttribute[Any], target: QueryableAttribute[Any]) -> None:
    """From now on whatever is assigned to the attribute `source` is assigned to `target` as well.

    Bulk statements (`sa.update(Model)`, SQL) go past it and must name both; `differing` finds those that do not.
    """

    def copy(row: object, value: object, before: object, initiator: object) -> None:
        setattr(row, target.key, value)

    sa.event.listen(source, "set", copy)


# %% [markdown]
"""
**Backfill.** One UPDATE over the table holds each row it has touched until the last one is done, so here it goes in
ranges of the primary key, a transaction each. Which rows? The obvious condition is `license IS NULL`, and it is wrong:
while release 1 and 2 serve together, a row that 2 has written in both columns is changed by 1 in one of them. It is not
NULL, it is *stale*. So look for rows in which the columns differ, here, and again before anybody reads the new one.
"""

# %% tags=["export"]
from functools import partial

from sqlalchemy import orm

from playbook.foundations.transactions import transaction


def copy_range(
    session: orm.Session, table: sa.Table, source: str, target: str, size: int, after: Any
) -> tuple[Any, int]:
    """Copy in the next `size` rows after the key `after`; the last of their keys or None, and how many were changed."""
    (key,) = table.primary_key
    old, new = table.c[source], table.c[target]
    beyond = sa.true() if after is None else key > after
    keys = sa.select(key).where(beyond).order_by(key).limit(size).subquery()
    last = session.scalar(sa.select(sa.func.max(keys.c[key.name])))
    if last is None:
        return None, 0
    agree = table.update().where(beyond, key <= last, new.is_distinct_from(old)).values({new: old})
    return last, len(session.execute(agree.returning(key)).all())


def backfill(engine: sa.Engine, table: sa.Table, source: str, target: str, size: int = 1000) -> int:
    """Make `target` equal to `source` in each row, `size` rows a transaction; how many rows were changed.

    Only after the last release that writes `source` alone has stopped. It can be repeated.
    """
    copy = partial(copy_range, table=table, source=source, target=target, size=size)
    after, changed = transaction(engine, partial(copy, after=None))
    while after is not None:
        after, number = transaction(engine, partial(copy, after=after))
        changed += number
    return changed


# %% tags=["export"]
def differing(engine: sa.Engine, table: sa.Table, source: str, target: str) -> int:
    """How many rows have another value, or NULL, in one of the two columns."""
    unequal = table.c[target].is_distinct_from(table.c[source])
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(unequal)) or 0


# %% [markdown]
"""
**Migrate.** An ALTER takes a moment, but on PostgreSQL it first waits for whoever reads the table, and everybody who
comes later waits behind *it*. So it must give up soon, let them pass, and try again; the 5 s of `upgrade` are too long.

DuckDB must have no writers meanwhile. Beside threads that delete and insert rows, or update them as `database` does,
`CREATE INDEX` ended DuckDB 1.5.6 with a fatal error in 8 of 8 runs (`playbook bench duckdb`), `ADD COLUMN` now and then.
One process has the file, so that process can hold its requests for a moment.
"""


# %% tags=["export"]
@contextmanager
def held(front: Front) -> Iterator[None]:
    """End what has begun, and let nothing begin before the end of the block. Raises TimeoutError like `remove`."""
    servers = list(front.rotation)
    try:
        for url in servers:
            front.remove(url)
        yield
    finally:
        with front.changed:
            front.rotation[:] = servers
            front.changed.notify_all()


# %% tags=["export"]
import random
import time
from collections.abc import Callable

from alembic import command

from playbook.migrations.first_migration import HERE, ONE_AT_A_TIME, Location, alembic_config


def gave_way(error: sa.exc.DBAPIError) -> bool:
    """Whether a migration did nothing, only because others were at work: no lock, a deadlock, DuckDB's conflicts."""
    waiting = getattr(error.orig, "sqlstate", None) in {"55P03", "40P01"}  # PostgreSQL: lock_timeout, deadlock
    return waiting or type(error.orig).__name__ == "TransactionException"


# %% tags=["export"]
def migrate(
    engine: sa.Engine,
    revision: str = "head",
    location: Location = HERE,
    lock_timeout: str = "200ms",
    attempts: int = 100,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Like `upgrade`, under traffic: give way to whoever is at work on a table, try again; how often it gave way.

    A revision must be quick, with no copying of rows; on DuckDB put it in `held`. Raises DBAPIError after `attempts`.
    """
    config, times = alembic_config(engine, location), 0
    config.attributes["lock_timeout"] = lock_timeout
    while True:
        try:
            with ONE_AT_A_TIME:
                command.upgrade(config, revision)
            return times
        except sa.exc.DBAPIError as error:
            times += 1
            if not gave_way(error) or times >= attempts:
                raise
        sleep(random.uniform(0, min(1.0, 0.02 * 2**times)))


# %% [markdown]
"""
## See it work

The two migrations, the models and what each release knows. Releases 1 and 5 bring a migration and serve on both sides
of it (`also`): it runs when they are everywhere, since release 0 does not know the revision and could not restart.
"""

# %%
EXPAND = """
op.add_column("packages", sa.Column("license", sa.String()))
op.alter_column("packages", "licence", existing_type=sa.String(), nullable=True)"""
CONTRACT = """
op.alter_column("packages", "license", existing_type=sa.String(), nullable=False)
op.drop_column("packages", "licence")"""
STEPS = [("0001_packages", FIRST), ("0002_expand", EXPAND), ("0003_contract", CONTRACT)]
BEFORE, EXPANDED, CONTRACTED = (history(STEPS[:number]) for number in (1, 2, 3))


def model_of_both(reads, other):
    package = model(reads)
    package.other = orm.mapped_column(other, sa.String)
    dual_write(package.license, package.other)
    return package


RELEASES = {
    "0": (model("licence"), BEFORE),
    "1 expand": (model("licence"), EXPANDED, ("0001_packages",)),
    "2 dual write": (model_of_both("licence", "license"), EXPANDED),
    "4 switch": (model_of_both("license", "licence"), EXPANDED),
    "5 contract": (model("license"), CONTRACTED, ("0002_expand",)),
}
PACKAGES = sa.Table(
    "packages", sa.MetaData(), sa.Column("name", primary_key=True), sa.Column("licence"), sa.Column("license")
)
OLD_ROWS = {f"package-{number:03}": "MIT" for number in range(500)}


def quiet(fleet):
    return held(fleet.front) if fleet.engine.dialect.name == "duckdb" else nullcontext()


def five_releases(url):
    def note(moment):
        steps.append(look(moment, fleet, traffic))

    def roll_out(release):
        (before,) = fleet.running
        fleet.start(release)
        note(release)
        fleet.stop(before)

    steps = []
    with Fleet(url, RELEASES) as fleet:
        fleet.start("0")
        with fleet.engine.begin() as connection:
            connection.execute(PACKAGES.insert(), [{"name": name, "licence": text} for name, text in OLD_ROWS.items()])
        with Traffic(fleet.front) as traffic:
            note("0")
            roll_out("1 expand")
            with quiet(fleet):
                migrate(fleet.engine, location=EXPANDED)
            note("1 expand, migrated")
            roll_out("2 dual write")
            backfill(fleet.engine, PACKAGES, "licence", "license", size=100)
            assert differing(fleet.engine, PACKAGES, "licence", "license") == 0, "too early to switch"
            note("3 backfill")
            roll_out("4 switch")
            roll_out("5 contract")
            with quiet(fleet):
                migrate(fleet.engine, location=CONTRACTED)
            note("5 contract, migrated")
        with fleet.engine.connect() as connection:
            rows = dict(connection.execute(sa.select(PACKAGES.c.name, PACKAGES.c.license)).all())
        failed = [failure for done in traffic.rounds for failures in done for failure in failures]
        return steps, failed, rows == OLD_ROWS | traffic.wrote, drift(fleet.engine, RELEASES["5 contract"][0].metadata)


done = five_releases(lesson_url())
show(table(done[0]))
print(f"failed over the whole change: {len(done[1])}; every row right: {done[2]}; drift: {done[3]}")

# %% [markdown]
"""
Nothing failed, not even while the two migrations ran (on DuckDB the requests waited). Each line is a moment at which
requests were counted, and each pair of releases really served together: what one wrote, the other had to read.

Now two shortcuts: the backfill with `IS NULL`, and the backfill while release 1 is still there. Release 1 and 2 serve
together, and three requests come in. Predict the rows that differ after each step:
"""

# %%
shortcuts = []
with Fleet(lesson_url(), RELEASES) as fleet:

    def put(release, name, text):
        httpx.put(f"{fleet.running[release][1]}/packages/{name}", json={"license": text}, trust_env=False)

    def step(what):
        number = differing(fleet.engine, PACKAGES, "licence", "license")
        shortcuts.append({"step": what, "rows that differ": number})

    fleet.start("1 expand")
    fleet.start("2 dual write")
    put("1 expand", "httpx", "BSD-3-Clause")
    put("2 dual write", "pip", "MIT")
    put("1 expand", "pip", "Apache-2.0")
    step("1 writes httpx, 2 writes pip, 1 writes pip")
    with fleet.engine.begin() as connection:
        connection.execute(sa.text("UPDATE packages SET license = licence WHERE license IS NULL"))
    step("copied where license IS NULL")
    backfill(fleet.engine, PACKAGES, "licence", "license")
    step("backfill")
    put("1 expand", "ruff", "MIT")
    step("1 writes ruff")
    fleet.stop("1 expand")
    backfill(fleet.engine, PACKAGES, "licence", "license")
    step("1 stops, backfill again")
    put("2 dual write", "ruff", "Apache-2.0")
    step("2 writes ruff")
show(table(shortcuts))

# %% [markdown]
"""
After the second step no `license` is NULL, `SET NOT NULL` would go through, and the new column says MIT for pip.

## On PostgreSQL

The same change there. Then somebody's report: a transaction that has read `packages` and stays open. The migration
asks for an ACCESS EXCLUSIVE lock, does not get it, and gives way; the clients go on; at last the report ends.
"""


# %%
def behind_a_report(url):
    with Fleet(url, RELEASES) as fleet, fleet.engine.connect() as report:
        pauses = []

        def pause(seconds):
            pauses.append(look("gave way", fleet, traffic))
            if len(pauses) == 2:
                report.rollback()

        fleet.start("0")
        with Traffic(fleet.front) as traffic:
            report.execute(sa.text("SELECT count(*) FROM packages"))
            migrate(fleet.engine, location=EXPANDED, lock_timeout="50ms", sleep=pause)
            pauses[2:] = [look("the report ended", fleet, traffic)]
    return pauses


there = on_postgres(lambda url: (five_releases(url), plain_rename(url), behind_a_report(url)))
if there:
    print("the same as on DuckDB:", there[:2] == (done, broken))
    show(table(there[2]))

# %% [markdown]
"""
`SET NOT NULL` reads the whole table under its lock: a moment for a million rows, too long for a hundred million. There,
add `CHECK (license IS NOT NULL) NOT VALID` first and validate it in a migration of its own.

On DuckDB Alembic makes a copy of a table with an index, and the requests are held as long as that takes. Where that is
too long, run one migration that drops the index, then the change, then one that makes it again.

## Check it
"""

# %%
for change, rename in filter(None, ((done, broken), there and there[:2])):
    steps, failed, every_row_right, differences = change
    assert failed == [] and every_row_right and differences == []
    assert sum(" and " in step["serving"] for step in steps) == 4, "each release serves beside the one before it"
    assert [moment["failed"] for moment in rename] == ["0 of 24", "24 of 24", "12 of 24", "0 of 24"]
assert [step["rows that differ"] for step in shortcuts] == [2, 1, 0, 1, 0, 0]
print("each engine: the rename failed every request of the old release; five releases failed none, every row is right")

# %% [markdown]
"""
## Your turn

Release 5 has replaced release 4 everywhere; its migration has not run. For a day rows have been made and changed.
Then release 5 turns out to have a fault, release 4 has it too, and everybody must go back to release 2.

Write `go_back(fleet)`. You may start and stop releases (`fleet.start("4 switch")`), and use `backfill`, `differing` and
`fleet.engine`. The clients never stop: no request may fail, and nothing that was written may be lost.
"""


# %% tags=["exercise"]
def go_back(fleet: Fleet) -> None:
    fleet.start("2 dual write")  # it serves from this schema, after all
    fleet.stop("5 contract")


# %%
class Watched(Fleet):
    """After each start, and before each stop, every release that serves writes two rows and reads all there are."""

    def __init__(self, url):
        super().__init__(url, RELEASES)
        self.written, self.wrong = {}, []

    def watch(self, moment):
        with httpx.Client(trust_env=False) as http:
            for release, (_, url) in self.running.items():
                for name in ("the first row", f"row {len(self.written)} (by release {release[0]})"):
                    self.written[name] = f"LicenseRef-{len(self.written)}-{release[0]}"
                    http.put(f"{url}/packages/{name}", json={"license": self.written[name]})
            for release, (_, url) in self.running.items():
                for name, text in self.written.items():
                    answer = http.get(f"{url}/packages/{name}")
                    said = answer.json()["license"] if answer.is_success else answer.status_code
                    if said != text:
                        self.wrong.append(f"{moment}, release {release[0]} says {said} for {name!r}, not {text}")

    def start(self, release):
        super().start(release)
        self.watch(f"when {release} has started")

    def stop(self, release):
        if list(self.running) == [release]:
            self.wrong.append(f"when {release} stops, nobody serves")
        self.watch(f"before {release} stops")
        super().stop(release)


@checker
def check_go_back(go_back) -> str:
    with Watched(lesson_url()) as fleet:
        fleet.start("4 switch")
        fleet.start("5 contract")
        fleet.stop("4 switch")
        go_back(fleet)
        fleet.watch("at the end")
        if list(fleet.running) != ["2 dual write"]:
            fleet.wrong.append(f"at the end {' and '.join(fleet.running) or 'nobody'} serves")
        if differing(fleet.engine, PACKAGES, "licence", "license"):
            fleet.wrong.append("at the end the columns differ, and release 4 could not be started again")
        return f"not yet: {fleet.wrong[0]}" if fleet.wrong else "right"


check_go_back(go_back)


# %% tags=["solution"]
def go_back(fleet: Fleet) -> None:
    # The same way in the mirror: what release 5 alone wrote is in the new column only, so that is the source now.
    fleet.start("4 switch")  # reads what 5 writes, and writes both
    fleet.stop("5 contract")  # from here on nobody writes one column alone, so the copy stays complete
    backfill(fleet.engine, PACKAGES, "license", "licence")
    assert differing(fleet.engine, PACKAGES, "license", "licence") == 0
    fleet.start("2 dual write")  # the first to read the old column
    fleet.stop("4 switch")


assert check_go_back(go_back)

# %% [markdown]
"""
## Hand it over

- **Operator**: a release that serves on both sides of its migration (`also`) is everywhere first, then the migration
  runs. The way back is one release at a time; after release 5's first write it needs a backfill the other way round.
- **Migration owner**: no step begins before the one before it is everywhere, and the switch not before `differing` is 0.
  A contract waits until nobody wants to go back: dropping a column is the one step that cannot be undone.
- **Reviewer**: bulk statements name both columns while there are two. No `SELECT *`: the columns come and go.
- **Front end**: the field in the JSON was `license` all the time. A renamed field is another change, of a contract.
- **Test engineer**: keep `Traffic` running over a rollout in staging; the number to watch is zero.

## Sources

P. Sadalage and S. Ambler, *Refactoring Databases*, "Rename Column". D. Sato, "ParallelChange" (martinfowler.com, 2014).
PostgreSQL documentation, 13.3.1 (table-level locks), 19.11 (`lock_timeout`), "ALTER TABLE" (notes on NOT NULL). DuckDB
documentation, "ALTER TABLE" and "Concurrency". SQLAlchemy documentation, "Attribute Events".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Drift](drift.ipynb) · [course map](../index.ipynb) · Next: [Test migrations](test_migrations.ipynb)
"""
