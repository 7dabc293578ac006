"""POST and PATCH of a package by one statement that writes: who may, and what must not have changed, are in it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.live import LiveClient, serving
from playbook.pantry.app import pantry
from playbook.pantry.catalog import Package
from playbook.pantry.settings import Settings
from playbook.schema.identity import Member, Organization

MONDAY = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
PERSON = {"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}
NEW = {"name": "Tool", "organization": "acme", "summary": "first"}


class Watched:
    """The app's Writer. `before` happens before a statement that writes alone; `alone` is what these have said."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.before: Callable[[], object] = lambda: None
        self.alone: list[bool] = []
        self.long = 0

    async def __call__(self, work: Callable[[Any], Any]) -> Any:
        self.long += 1
        return await self.writer(work)

    async def one(self, statement: Any, values: Any) -> bool:
        self.before()
        self.alone.append(await self.writer.one(statement, values))
        return self.alone[-1]

    async def close(self) -> None:
        await self.writer.close()


@pytest.fixture
def app(url: str) -> FastAPI:
    given: dict[str, Any] = {"environment": "test", "database_url": url}
    settings = Settings(**given, require_email_verification=False, rate_limits=False)
    app = pantry(settings, clock=FixedClock(MONDAY), sender=MemorySender())
    app.state.write = Watched(app.state.write)
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[LiveClient]:
    with serving(app, headers={"origin": "http://localhost:8000"}) as client:
        assert client.post("/api/auth/sign-up/email", json=PERSON).status_code == 200
        assert client.post("/organizations", json={"slug": "acme", "name": "Acme"}).status_code == 201
        app.state.write.long = 0
        yield client
        assert client.server_errors == []


def patch(client: LiveClient, summary: str, tag: str) -> Any:
    return client.patch("/packages/tool", json={"summary": summary}, headers={"if-match": tag})


def is_postgres(app: FastAPI) -> bool:
    return bool(app.state.engine.dialect.name == "postgresql")


def test_on_postgresql_nothing_else_is_needed_and_on_duckdb_it_is_not_offered(app: FastAPI, client: LiveClient) -> None:
    write = app.state.write
    made = client.post("/packages", json=NEW)
    assert made.status_code == 201
    read = client.get("/packages/tool")
    assert made.json() == read.json()
    changed = patch(client, "second", read.headers["etag"])
    again = client.get("/packages/tool")
    assert (changed.status_code, changed.json(), changed.headers["etag"]) == (200, again.json(), again.headers["etag"])
    assert again.json()["summary"] == "second"
    assert (write.alone, write.long) == (([True, True], 0) if is_postgres(app) else ([False], 2))


def between(app: FastAPI, act: Callable[[sa.Connection], object]) -> None:
    """`act` after a request was found good, before its statement; before the request where there is none such."""

    def in_transaction() -> None:
        with app.state.engine.begin() as db:
            act(db)

    if is_postgres(app):
        app.state.write.before = in_transaction
    else:
        in_transaction()


def test_a_role_that_is_lost_meanwhile_is_lost(app: FastAPI, client: LiveClient) -> None:
    """An owner becomes a member, who may make packages and not change them; then nobody."""
    client.post("/packages", json=NEW)
    tag = client.get("/packages/tool").headers["etag"]
    between(app, lambda db: db.execute(sa.update(Member).values(role="member")))
    assert patch(client, "second", tag).status_code == 403
    between(app, lambda db: db.execute(sa.delete(Member)))
    assert client.post("/packages", json=NEW | {"name": "Other"}).status_code == 403
    with app.state.engine.connect() as db:
        assert db.execute(sa.select(Package.normalized_name, Package.summary)).all() == [("tool", "first")]
    assert app.state.write.alone[1:] == ([False, False] if is_postgres(app) else [False])


def test_what_another_has_changed_meanwhile_is_not_written_over(app: FastAPI, client: LiveClient) -> None:
    client.post("/packages", json=NEW)
    tag = client.get("/packages/tool").headers["etag"]
    table = Package.metadata.tables["packages"]
    theirs = table.update().values(summary="of another", version=table.c.version + 1)
    between(app, lambda db: db.execute(theirs))
    assert patch(client, "mine", tag).status_code == 412
    assert client.get("/packages/tool").json()["summary"] == "of another"


def test_an_organization_that_goes_meanwhile_gets_no_package(app: FastAPI, client: LiveClient) -> None:
    between(app, lambda db: (db.execute(sa.delete(Member)), db.execute(sa.delete(Organization))))
    assert client.post("/packages", json=NEW).status_code == 403
    with app.state.engine.connect() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(Package)) == 0


def test_of_many_at_once_one_name_is_given_once(app: FastAPI, client: LiveClient) -> None:
    with ThreadPoolExecutor(20) as threads:
        made = threads.map(lambda number: client.post("/packages", json=NEW).status_code, range(20))
        assert sorted(made) == [201] + [409] * 19


def test_a_token_without_the_scope_writes_nothing(app: FastAPI, client: LiveClient) -> None:
    made = client.post("/tokens", json={"name": "ci", "scopes": ["packages:read", "packages:write"], "days": 1})
    token = {"authorization": f"Bearer {made.json()['token']}"}
    assert client.post("/packages", json=NEW, headers=token).status_code == 403
    assert app.state.write.alone == []
