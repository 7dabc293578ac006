"""No child without a parent: each foreign key of the metadata, raced with the deletion of the row it names, on both
engines. On DuckDB there are no foreign keys to notice; on PostgreSQL there are, and a refusal must not become a 500.

The keys are read from the metadata. A new one is raced without a line here, if its table's rows can be filled by type;
a new parent table fails until `DELETIONS` says how its rows are deleted.
"""

import ast
import itertools
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth.mail import MemorySender
from playbook.auth.organizations import invite
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.engines import Base
from playbook.foundations.transactions import transaction
from playbook.foundations.write_skew import NO_PARENT
from playbook.kit import postgres
from playbook.kit.course import Course
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.auth.memberships import TABLES
from playbook.pantry.auth.wire import Auth
from playbook.pantry.catalog_file import load_catalog
from playbook.pantry.settings import Settings
from playbook.schema.relationships import Orphan, orphans

ORIGIN = "http://localhost:8000"
PASSWORD = "four quiet rivers and a spoon"
MODELS = {mapper.local_table.name: mapper.class_ for mapper in Base.registry.mappers}  # type: ignore[attr-defined]
REFERENCES = sorted(
    f"{table.name}.{key.parent.name} -> {key.column.table.name}"
    for table in Base.metadata.tables.values()
    for key in table.foreign_keys
)
# Whose key is the reference itself, such as a second factor's, has one row for each parent, and does not move.
WAYS = [
    pytest.param(reference, moved, id=f"{reference}-{'moved' if moved else 'inserted'}")
    for reference in REFERENCES
    for moved in (False, True)
    if not moved
    or [*Base.metadata.tables[(child := reference.split(".")[0])].primary_key.columns.keys()]
    != [reference.split(" ")[0].removeprefix(f"{child}.")]
]
_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    return f"{prefix}{next(_numbers)}"


@dataclass
class World:
    """The whole service on one engine, and `client`, nobody yet. `keep`: rows nobody deletes, by table."""

    client: LiveClient
    engine: sa.Engine
    clock: FixedClock
    auth: Auth
    keep: dict[str, uuid.UUID] = field(default_factory=dict)
    known: set[Orphan] = field(default_factory=set)

    def new_orphans(self) -> list[Orphan]:
        """Those since the last look: a race that fails does not make the next ones fail."""
        with self.engine.connect() as db:
            found = [orphan for orphan in orphans(db, Base.metadata) if orphan not in self.known]
        self.known |= set(found)
        return found

    def browser(self) -> LiveClient:
        return LiveClient(str(self.client.base_url), headers={"origin": ORIGIN})

    def sign_up(self, browser: LiveClient) -> uuid.UUID:
        sent = {"name": "Ada", "email": unique("ada") + "@example.com", "password": PASSWORD}
        answer = browser.post("/api/auth/sign-up/email", json=sent)
        assert answer.status_code == 200, answer.text
        return uuid.UUID(answer.json()["user"]["id"])

    def scalar(self, statement: sa.Select[Any]) -> Any:
        with self.engine.connect() as connection:
            return connection.scalar(statement)


def filled(world: World, table: sa.Table, **given: Any) -> dict[str, Any]:
    """Values for a row of any table, by the types of its columns; references lead to the rows that are kept."""
    special = {"role": "member", "kind": "wheel", "status": "pending", "state": "claimed"}
    if table.name == "package_roles":
        special["role"] = "uploader"
    made: dict[str, Any] = {}
    for column in table.columns:
        if column.name in given or column.nullable or column.default is not None:
            continue
        if keys := list(column.foreign_keys):
            made[column.name] = kept(world, keys[0].column.table)
        elif column.name in special:
            made[column.name] = special[column.name]
        else:
            kind = getattr(column.type, "impl", column.type).python_type  # of a decorator: what it decorates
            values: dict[type, Callable[[], Any]] = {
                uuid.UUID: uuid.uuid4, str: lambda: unique("text"), int: lambda: 1, bool: lambda: False,
                datetime: world.clock.now,
            }  # fmt: skip
            made[column.name] = values[kind]()
    return made | given


def kept(world: World, table: sa.Table) -> uuid.UUID:
    """The id of a row of `table` that no test deletes."""
    if table.name not in world.keep:
        values = filled(world, table)
        with world.engine.begin() as connection:
            connection.execute(table.insert().values(values))
        world.keep[table.name] = values["id"]
    return world.keep[table.name]


# ---------------------------------------------------------------- how the service deletes each kind of parent

Delete = Callable[[], httpx.Response]
PATCH = {"if-match": "*"}


def a_user(world: World) -> tuple[uuid.UUID, Delete]:
    browser = world.browser()
    user = world.sign_up(browser)
    return user, lambda: browser.post("/api/auth/delete-user", json={"password": PASSWORD})


def an_organization(world: World) -> tuple[uuid.UUID, Delete]:
    browser, slug = world.browser(), unique("acme-")
    world.sign_up(browser)
    assert browser.post("/organizations", json={"slug": slug, "name": "Acme"}).status_code == 201
    organizations = Base.metadata.tables["organizations"]
    found = world.scalar(sa.select(organizations.c.id).where(organizations.c.slug == slug))
    return found, lambda: browser.delete(f"/organizations/{slug}", headers=PATCH)


def a_package(world: World) -> tuple[uuid.UUID, Delete]:
    browser, slug, name = world.browser(), unique("acme-"), unique("tool-")
    world.sign_up(browser)
    assert browser.post("/organizations", json={"slug": slug, "name": "Acme"}).status_code == 201
    assert browser.post("/packages", json={"name": name, "organization": slug}).status_code == 201
    packages = Base.metadata.tables["packages"]
    found = world.scalar(sa.select(packages.c.id).where(packages.c.name == name))
    return found, lambda: browser.delete(f"/packages/{name}", headers=PATCH)


def a_release(world: World) -> tuple[uuid.UUID, Delete]:
    """A release goes when its package goes."""
    package, delete = a_package(world)
    table = Base.metadata.tables["releases"]
    values = filled(world, table, package_id=package)
    with world.engine.begin() as connection:
        connection.execute(table.insert().values(values))
    return values["id"], delete


DELETIONS: dict[str, Callable[[World], tuple[uuid.UUID, Delete]]] = {
    "users": a_user, "organizations": an_organization, "packages": a_package, "releases": a_release,
}  # fmt: skip


# ---------------------------------------------------------------- the two orders


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One service for all races on one engine; what is left in it is counted after each."""
    if request.param == "duckdb":
        yield from served(f"duckdb:///:memory:{unique('parents_')}_{os.getpid()}")
    else:
        with postgres.database(request.getfixturevalue("postgres_server")) as url:
            yield from served(url)


def served(url: str) -> Iterator[World]:
    from datetime import UTC

    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    settings = Settings(environment="test", database_url=url, require_email_verification=False, rate_limits=False)
    app = pantry(settings, clock=clock, sender=MemorySender())
    with serving(app, headers={"origin": ORIGIN}) as client:
        yield World(client, app.state.engine, clock, app.state.auth)


def parts(reference: str) -> tuple[sa.Table, str, str]:
    child, parent = reference.split(" -> ")
    table, column = child.split(".")
    return Base.metadata.tables[table], column, parent


def writer(world: World, reference: str, parent: uuid.UUID, moved: bool) -> Callable[[orm.Session], None]:
    """What writes a child of `parent`: a new row, or one that another row was the parent of."""
    table, column, _ = parts(reference)
    model = MODELS[table.name]
    if not moved:
        return lambda session: session.add(model(**filled(world, table, **{column: parent})))
    values = filled(world, table, **{column: kept(world, Base.metadata.tables[parts(reference)[2]])})
    if table.name in ("members", "package_roles"):  # unique for a pair: another row for the other half of the pair
        other = "organization_id" if table.name == "members" else "package_id"
        if column == other:
            other = "user_id"
        owner = next(iter(table.c[other].foreign_keys)).column.table
        row = filled(world, owner)
        with world.engine.begin() as connection:
            connection.execute(owner.insert().values(row))
        values[other] = row["id"]
    with world.engine.begin() as connection:
        connection.execute(table.insert().values(values))
    key = tuple(values[one.name] for one in table.primary_key)
    return lambda session: setattr(session.get_one(model, key), column, parent)


def try_to_write(world: World, write: Callable[[orm.Session], None], first: Callable[[], None]) -> str:
    """Write in a transaction that has read before `first` runs: "written", or "refused" by a foreign key."""
    attempts: list[int] = []

    def work(session: orm.Session) -> None:
        session.execute(sa.text("SELECT count(*) FROM users"))  # from here on the transaction sees its snapshot
        attempts.append(1)
        if len(attempts) == 1:
            first()
        write(session)

    try:
        transaction(world.engine, work, attempts=3)
    except sa.exc.IntegrityError as error:
        return "refused" if getattr(error.orig, "sqlstate", None) == NO_PARENT else repr(error)
    return "written"


@pytest.mark.parametrize(("reference", "moved"), WAYS)
def test_the_parent_goes_while_the_child_is_written(world: World, reference: str, moved: bool) -> None:
    parent, delete = DELETIONS[parts(reference)[2]](world)
    write = writer(world, reference, parent, moved)
    answers: list[httpx.Response] = []
    outcome = try_to_write(world, write, first=lambda: answers.append(delete()))
    assert answers[0].status_code in (200, 204), answers[0].text
    assert world.new_orphans() == []
    assert outcome == "refused"


@pytest.mark.parametrize(("reference", "moved"), WAYS)
def test_the_child_is_written_while_the_parent_goes(world: World, reference: str, moved: bool) -> None:
    table, column, parent_table = parts(reference)
    parent, delete = DELETIONS[parent_table](world)
    write = writer(world, reference, parent, moved)
    outcomes: list[str] = []

    def before(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if sql.startswith(f"DELETE FROM {parent_table} ") and not outcomes:
            outcomes.append("")
            other = Thread(target=lambda: outcomes.append(try_to_write(world, write, first=lambda: None)))
            other.start()
            other.join()

    sa.event.listen(world.engine, "before_cursor_execute", before)
    try:
        answer = delete()
    finally:
        sa.event.remove(world.engine, "before_cursor_execute", before)
    assert outcomes == ["", "written"], "the deletion passed no such statement, or the child was refused too early"
    assert world.new_orphans() == []
    owned = parent_table == "organizations" and table.name == "packages"
    assert answer.status_code == 409 if owned else answer.status_code in (200, 204), answer.text
    left = world.scalar(sa.select(sa.func.count()).where(table.c[column] == parent))
    assert left == (1 if owned else 0)


# ---------------------------------------------------------------- the service's own writers, with real threads

ROUNDS = 6
Ask = Callable[[], int]  # makes a request and returns the status


@dataclass
class Race:
    """`writers` run at the same moment as `deletion`; what they may be answered."""

    deletion: Delete
    writers: list[Ask]
    answers: set[int]


def cookie_of(browser: LiveClient) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}


def organizations_of_who_leaves(world: World, tmp_path: Path) -> Race:
    browser = world.browser()
    world.sign_up(browser)
    known = cookie_of(browser)

    def create() -> int:
        with world.browser() as other:
            body = {"slug": unique("late-"), "name": "Late"}
            return other.post("/organizations", json=body, headers=known).status_code

    return Race(lambda: browser.post("/api/auth/delete-user", json={}), [create] * 4, {201, 401})


def packages_of_what_is_deleted(world: World, tmp_path: Path) -> Race:
    browser, slug = world.browser(), unique("acme-")
    world.sign_up(browser)
    assert browser.post("/organizations", json={"slug": slug, "name": "Acme"}).status_code == 201
    known = cookie_of(browser)

    def create() -> int:
        with world.browser() as other:
            body = {"name": unique("late-"), "organization": slug}
            return other.post("/packages", json=body, headers=known).status_code

    return Race(lambda: browser.delete(f"/organizations/{slug}", headers=PATCH), [create] * 3, {201, 403, 409})


def sign_ins_of_who_leaves(world: World, tmp_path: Path) -> Race:
    browser, email = world.browser(), unique("ada") + "@example.com"
    sent = {"name": "Ada", "email": email, "password": PASSWORD}
    assert browser.post("/api/auth/sign-up/email", json=sent).status_code == 200

    def sign_in() -> int:
        with world.browser() as other:
            return other.post("/api/auth/sign-in/email", json={"email": email, "password": PASSWORD}).status_code

    return Race(lambda: browser.post("/api/auth/delete-user", json={"password": PASSWORD}), [sign_in] * 3, {200, 401})


def links_of_who_leaves(world: World, tmp_path: Path) -> Race:
    browser, email = world.browser(), unique("ada") + "@example.com"
    sent = {"name": "Ada", "email": email, "password": PASSWORD}
    assert browser.post("/api/auth/sign-up/email", json=sent).status_code == 200
    known = cookie_of(browser)

    def ask(path: str, **body: str) -> Ask:
        def run() -> int:
            with world.browser() as other:
                status = other.post(f"/api/auth/{path}", json=body, headers=known).status_code
            world.auth.postbox.drain()  # the link is written after the answer
            return status

        return run

    writers = [ask("request-password-reset", email=email), ask("send-verification-email", email=email)]
    writers.append(ask("change-email", newEmail=unique("eve") + "@example.com"))
    return Race(lambda: browser.post("/api/auth/delete-user", json={}), writers, {200, 401})


def releases_of_what_is_deleted(world: World, tmp_path: Path) -> Race:
    browser, slug, name = world.browser(), unique("acme-"), unique("tool-")
    world.sign_up(browser)
    assert browser.post("/organizations", json={"slug": slug, "name": "Acme"}).status_code == 201
    assert browser.post("/packages", json={"name": name, "organization": slug}).status_code == 201
    organizations = Base.metadata.tables["organizations"]
    owner = world.scalar(sa.select(organizations.c.id).where(organizations.c.slug == slug))
    file = tmp_path / f"{name}.csv"
    file.write_text(f"rank,name,version,last_release\n1,{name},1.0,2026-01\n", encoding="utf-8")

    def load() -> int:
        return 200 if load_catalog(world.engine, file, owner, world.clock.now()).read == 1 else 500

    return Race(lambda: browser.delete(f"/packages/{name}", headers=PATCH), [load] * 2, {200})


def team(world: World) -> tuple[LiveClient, uuid.UUID, uuid.UUID]:
    """A browser of an owner who has just signed up, the owner's id, and that of the organization."""
    browser, slug = world.browser(), unique("team-")
    owner = world.sign_up(browser)
    made = browser.post("/api/auth/organization/create", json={"name": "Team", "slug": slug})
    return browser, owner, uuid.UUID(made.json()["id"])


def asks(world: World, browser: LiveClient, path: str, *bodies: dict[str, Any]) -> list[Ask]:
    """A request of `browser`'s session for each of `bodies`, each with a client of its own."""
    known = cookie_of(browser)

    def ask(body: dict[str, Any]) -> Ask:
        def run() -> int:
            with world.browser() as other:
                return other.post(path, json=body, headers=known).status_code

        return run

    return [ask(body) for body in bodies]


def invitations_of_what_is_deleted(world: World, tmp_path: Path) -> Race:
    browser, _, organization = team(world)
    named = {"role": "member", "organizationId": str(organization)}
    bodies = [named | {"email": unique("bob") + "@example.com"} for _ in range(3)]
    writers = asks(world, browser, "/api/auth/organization/invite-member", *bodies)
    body = {"organizationId": str(organization)}
    return Race(lambda: browser.post("/api/auth/organization/delete", json=body), writers, {200, 400, 403})


def members_of_what_is_deleted(world: World, tmp_path: Path) -> Race:
    browser, owner, organization = team(world)
    end, writers = world.clock.now() + timedelta(days=1), list[Ask]()
    users = Base.metadata.tables["users"]
    for _ in range(3):
        bob = world.browser()
        user = world.sign_up(bob)
        email = world.scalar(sa.select(users.c.email).where(users.c.id == user))

        def work(db: orm.Session, user: uuid.UUID = user, email: str = email) -> str:
            db.execute(sa.update(users).where(users.c.id == user).values(email_verified=True))
            more = {"id": uuid.uuid4(), "created_at": world.clock.now()}
            return invite(db, organization, email, "member", owner, end, tables=TABLES, **more)

        token = transaction(world.engine, work)
        writers += asks(world, bob, "/api/auth/organization/accept-invitation", {"invitationId": token})
    body = {"organizationId": str(organization)}
    return Race(lambda: browser.post("/api/auth/organization/delete", json=body), writers, {200, 400, 403})


def logos_of_what_is_deleted(world: World, tmp_path: Path) -> Race:
    browser, _, organization = team(world)
    body = {"organizationId": str(organization)}
    bodies = [body | {"data": {"logo": f"https://app.example/{number}.png"}} for number in range(3)]
    writers = asks(world, browser, "/api/auth/organization/update", *bodies)
    return Race(lambda: browser.post("/api/auth/organization/delete", json=body), writers, {200, 400, 403})


def second_factors_of_who_leaves(world: World, tmp_path: Path) -> Race:
    browser = world.browser()
    world.sign_up(browser)
    writers = asks(world, browser, "/api/auth/two-factor/enable", *[{"password": PASSWORD}] * 3)
    return Race(lambda: browser.post("/api/auth/delete-user", json={}), writers, {200, 400, 401})


def tokens_of_who_leaves(world: World, tmp_path: Path) -> Race:
    browser = world.browser()
    world.sign_up(browser)
    body = {"name": "CI", "scopes": ["packages:read"], "days": 1}
    return Race(
        lambda: browser.post("/api/auth/delete-user", json={}), asks(world, browser, "/tokens", *[body] * 3), {201, 401}
    )


# Every place of the service that writes a row which names another one: (module, table) -> the race of it, or why none
# is needed. The test below reads the modules and knows when a place is missing here.
NEW = "its parent is written in the same transaction"
WRITERS: dict[tuple[str, str], Callable[[World, Path], Race] | str] = {
    ("playbook.pantry.organizations", "members"): organizations_of_who_leaves,
    ("playbook.pantry.packages", "packages"): packages_of_what_is_deleted,
    ("playbook.pantry.first_page", "packages"): "it only reads: a table is taken by its name",
    ("playbook.pantry.auth.sessions", "sessions"): sign_ins_of_who_leaves,
    ("playbook.pantry.auth.sign_up", "verifications"): links_of_who_leaves,
    ("playbook.pantry.auth.sign_up", "accounts"): NEW,
    ("playbook.pantry.auth.password_reset", "accounts"): "the UPDATE of the user in use_link comes first",
    ("playbook.pantry.catalog_file", "packages"): releases_of_what_is_deleted,
    ("playbook.pantry.catalog_file", "releases"): releases_of_what_is_deleted,
    ("playbook.auth.organizations", "invitations"): invitations_of_what_is_deleted,
    ("playbook.auth.organizations", "members"): members_of_what_is_deleted,
    ("playbook.pantry.auth.organizations", "organization_details"): logos_of_what_is_deleted,
    ("playbook.pantry.auth.second_step", "recovery_codes"): second_factors_of_who_leaves,
    ("playbook.pantry.auth.sessions", "second_factors"): second_factors_of_who_leaves,
    ("playbook.pantry.graph_schema", "packages"): "a type of GraphQL with the name of a model: no row",
    ("playbook.pantry.graph_schema", "releases"): "a type of GraphQL with the name of a model: no row",
    ("playbook.pantry.tokens", "api_tokens"): tokens_of_who_leaves,
    ("playbook.pantry.package_roles", "package_roles"): "no route calls it; the session's flush holds its parents",
    ("before_sign_in", "members"): "the developer of the lessons: nobody can delete them, there is no /api/auth",
}  # fmt: skip
RACES = sorted({race for race in WRITERS.values() if not isinstance(race, str)}, key=lambda race: race.__name__)


def written_in(source: str) -> set[str]:
    """The tables with references that code inserts into: by a model's constructor, by insert(), or as text.

    A model's `__table__` counts, too: it is handed to a recipe that inserts.
    """
    referring = {table.name for table in Base.metadata.tables.values() if table.foreign_keys}
    classes = {model.__name__: name for name, model in MODELS.items() if name in referring}
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            names = [node.func] if not (isinstance(node.func, ast.Attribute) and node.func.attr == "insert") else []
            names += [argument for argument in node.args if getattr(node.func, "attr", "") == "insert"]
            found |= {classes[name.id] for name in names if isinstance(name, ast.Name) and name.id in classes}
        elif isinstance(node, ast.Attribute) and node.attr == "__table__" and isinstance(node.value, ast.Name):
            found |= {classes[node.value.id]} if node.value.id in classes else set()
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):  # TABLES["packages"]
            found |= referring & {node.slice.value}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= referring.intersection(re.findall(r"INSERT INTO (\w+)", node.value))
    return found


def service_code() -> Iterator[tuple[str, str]]:
    """What runs in the service: the exports of the pages, and the plain modules."""
    for page in Course().playbooks:
        exports = [cell for cell in re.split(r"(?m)^# %%", page.source) if 'tags=["export"]' in cell.split("\n")[0]]
        yield page.module, "\n".join(cell.partition("\n")[2] for cell in exports)
    root = Path(__file__).parents[2]
    yield "before_sign_in", (root / "tests" / "before_sign_in.py").read_text(encoding="utf-8")
    for path in sorted((root / "playbook" / "pantry").rglob("*.py")):
        yield ".".join(path.relative_to(root).with_suffix("").parts), path.read_text(encoding="utf-8")


def test_every_writer_of_a_reference_has_a_race_or_a_reason() -> None:
    found = {(module, table) for module, source in service_code() for table in written_in(source)}
    assert found == set(WRITERS)


def test_no_model_hides_its_references_behind_a_relationship() -> None:
    """`hold_parents` looks at columns before the flush; a relationship would fill them during it."""
    assert [name for name, model in MODELS.items() if sa.inspect(model).relationships] == []


@pytest.mark.parametrize("make", RACES, ids=lambda race: race.__name__)
def test_writers_beside_the_deletion(world: World, make: Callable[[World, Path], Race], tmp_path: Path) -> None:
    """Real requests, started by one barrier: no orphan, and nobody is answered 5xx."""
    for _ in range(ROUNDS):
        race = make(world, tmp_path)
        start, answers, deleted = Barrier(len(race.writers) + 1), list[int](), list[int]()

        def write(writer: Ask, start: Barrier = start, answers: list[int] = answers) -> None:
            start.wait()
            answers.append(writer())

        def delete(race: Race = race, start: Barrier = start, deleted: list[int] = deleted) -> None:
            start.wait()
            deleted.append(race.deletion().status_code)

        threads = [Thread(target=write, args=(writer,)) for writer in race.writers] + [Thread(target=delete)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.auth.postbox.drain()
        assert world.new_orphans() == []
        assert len(answers) == len(race.writers)
        assert set(answers) <= race.answers
        assert deleted[0] < 500
    assert world.client.server_errors == []
