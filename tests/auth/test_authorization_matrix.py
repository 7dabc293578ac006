"""Each route for each role, on one's own, the organization's and foreign things: from the app's routes, and run.

The table below is the policy as people decided it, so it is written by hand and compared with what the service answers.
A route that is not in it fails the test. The app runs in process, with the policy of `playbook.pantry.policy`; only who
is calling comes from a header. What lies under /api/auth has a table of its own: `test_auth_matrix`.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, HTTPException
from sqlalchemy import orm

from playbook.api.representations import MERGE_PATCH, apply_patch
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone, routes_of
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import postgres
from playbook.kit.live import LiveClient, serving
from playbook.pantry import packages
from playbook.pantry.app import resource_api
from playbook.pantry.catalog import Package, PackageRole
from playbook.pantry.http import (
    DOCUMENTATION,
    PERMISSION,
    Caller,
    Transaction,
    create_app,
    own_session,
    permission,
    permit_of,
)
from playbook.pantry.policy import PERMITS, SIGHT, may, visible_to
from playbook.pantry.settings import Settings
from playbook.pantry.tokens import ApiToken
from playbook.schema.identity import Member, Organization, add_user

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
TOKEN = UUID(int=7)
# The organization acme owns `open` and `secret`. Roles on a package are on `secret`; the foreign one owns another
# organization, and has a role on a package of it.
PEOPLE = ("nobody", "foreign", "uploader", "maintainer", "member", "admin", "owner")
NAMES = ("open", "secret", "missing")
PATCH = {"content-type": MERGE_PATCH, "if-match": "*"}

# Route; what it is about: its answers, in the order of PEOPLE. A list says whether it has the thing: `+` or `-`.
MATRIX = """
GET /health                       -         200  200  200  200  200  200  200
GET /ready                        -         200  200  200  200  200  200  200
GET /problems/{slug}              -         200  200  200  200  200  200  200
GET /organizations                acme      401  +    +    +    +    +    +
POST /organizations               -         401  201  201  201  201  201  201
GET /organizations/{slug}         acme      401  200  200  200  200  200  200
GET /organizations/{slug}         missing   401  404  404  404  404  404  404
PATCH /organizations/{slug}       acme      401  403  403  403  403  200  200
PATCH /organizations/{slug}       missing   401  404  404  404  404  404  404
DELETE /organizations/{slug}      acme      401  403  403  403  403  403  204
DELETE /organizations/{slug}      missing   401  404  404  404  404  404  404
GET /packages                     open      401  +    +    +    +    +    +
GET /packages                     secret    401  -    +    +    +    +    +
POST /packages                    acme      401  403  403  403  201  201  201
POST /packages                    missing   401  403  403  403  403  403  403
GET /packages/{name}              open      401  200  200  200  200  200  200
GET /packages/{name}              secret    401  404  200  200  200  200  200
GET /packages/{name}              missing   401  404  404  404  404  404  404
PATCH /packages/{name}            open      401  403  403  403  403  200  200
PATCH /packages/{name}            secret    401  404  403  200  403  200  200
PATCH /packages/{name}            missing   401  404  404  404  404  404  404
PATCH /packages/{name} private    open      401  403  403  403  403  200  200
PATCH /packages/{name} private    secret    401  404  403  403  403  200  200
DELETE /packages/{name}           open      401  403  403  403  403  204  204
DELETE /packages/{name}           secret    401  404  403  403  403  204  204
DELETE /packages/{name}           missing   401  404  404  404  404  404  404
GET /tokens                       -         401  200  200  200  200  200  200
POST /tokens                      -         401  201  201  201  201  201  201
GET /tokens/{token_id}            owner's   401  404  404  404  404  404  200
GET /tokens/{token_id}            missing   401  404  404  404  404  404  404
DELETE /tokens/{token_id}         owner's   401  404  404  404  404  404  204
DELETE /tokens/{token_id}         missing   401  404  404  404  404  404  404
POST /graphql                     open      401  +    +    +    +    +    +
POST /graphql                     secret    401  -    +    +    +    +    +
POST /graphql                     missing   401  -    -    -    -    -    -
"""


def rows_of(text: str) -> list[tuple[str, str, list[str]]]:
    """Route, thing and answers of each line."""
    count = len(PEOPLE)
    lines = [line.split() for line in text.splitlines() if line]
    return [(" ".join(words[: -count - 1]), words[-count - 1], words[-count:]) for words in lines]


@dataclass
class World:
    """The service on one engine, with acme and its people."""

    app: FastAPI
    client: LiveClient
    ids: Identifiers
    people: dict[str, UUID]
    untouched: bool | None = None  # the value of `owning` it was made with, until something is changed

    @property
    def engine(self) -> sa.Engine:
        engine: sa.Engine = self.app.state.engine
        return engine

    def ask(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"x-caller": who} | options.pop("headers", {})
        answer = self.client.request(method, path, headers=headers, **options)
        if method != "GET" and answer.is_success:
            self.untouched = None
        if answer.status_code == 204:  # RFC 9110, 8.3 and 8.6: they describe a content, and here is none
            assert not {"content-type", "content-length"} & set(answer.headers), f"{method} {path}"
        return answer

    def caller(self, who: str) -> Caller:
        return Caller(self.people[who], who)

    def begin_again(self, owning: bool = True) -> None:
        """acme, its people and, when it is `owning`, its packages, as if nothing had happened."""
        if self.untouched is owning:
            return

        def work(db: orm.Session) -> None:
            for model in (PackageRole, Package, Member, Organization, ApiToken):
                db.execute(sa.delete(model))
            times: dict[str, Any] = {"created_at": NOW, "updated_at": NOW}
            acme, other = self.ids.new(), self.ids.new()
            for key, slug in ((acme, "acme"), (other, "other")):
                db.add(Organization(id=key, slug=slug, name=slug, **times))
            db.flush()
            roles = [(acme, "member", "member"), (acme, "admin", "admin"), (acme, "owner", "owner")]
            for key, who, role in (*roles, (other, "foreign", "owner")):
                user = self.people[who]
                db.add(Member(id=self.ids.new(), organization_id=key, user_id=user, role=role, created_at=NOW))
            token = {"name": "ci", "token_hash": "0" * 64, "scopes": "packages:read", "expires_at": NOW + timedelta(1)}
            db.add(ApiToken(id=TOKEN, user_id=self.people["owner"], created_at=NOW, **token))
            for name, key in (("open", acme), ("secret", acme), ("others", other)) if owning else ():
                values = {"name": name, "normalized_name": name, "private": name != "open"} | times
                package = Package(id=self.ids.new(), organization_id=key, **values)
                db.add(package)
                db.flush()
                given = {"secret": ("uploader", "maintainer"), "others": ("foreign",)}.get(name, ())
                for who in given:
                    role = "maintainer" if who == "foreign" else who
                    user = self.people[who]
                    keys = {"id": self.ids.new(), "package_id": package.id, "user_id": user}
                    db.add(PackageRole(**keys, role=role, created_at=NOW))

        transaction(self.engine, work)
        self.untouched = owning


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One service and one database for all tests of this file on an engine."""
    databases = ExitStack()
    if request.param == "duckdb":
        url = "duckdb:///:memory:authorization_matrix"
    else:
        url = databases.enter_context(postgres.database(request.getfixturevalue("postgres_server")))
    engine, clock = make_engine(url), FixedClock(NOW)
    Base.metadata.create_all(engine)
    ids = Identifiers(clock, SeededBytes(1))

    def sign_up(db: orm.Session) -> dict[str, UUID]:
        return {who: add_user(db, clock, ids, f"{who}@example.com", who).id for who in PEOPLE[1:]}

    people = transaction(engine, sign_up)

    def find_caller(connection: Any) -> Caller | None:
        who = connection.headers["x-caller"]
        return Caller(people[who], who, fresh=True) if who in people else None

    settings = Settings(environment="test", database_url=url)
    app = resource_api(engine, settings, clock, ids, find_caller, may)
    with databases, serving(app) as client:
        yield World(app, client, ids, people)


def try_out(world: World, who: str, route: str, thing: str) -> str:
    """What `route` answers `who` about `thing`, as the table writes it."""
    method, path, *field = route.split()
    world.begin_again(owning=route != "DELETE /organizations/{slug}")  # one that owns packages is not deleted: 409
    url = path.replace("{slug}", "conflict" if thing == "-" else thing).replace("{name}", thing)
    url = url.replace("{token_id}", str(TOKEN if thing == "owner's" else UUID(int=1)))
    options: dict[str, Any] = {}
    if method == "PATCH":
        fields = {"/packages/{name}": {"summary": "changed"}, "/organizations/{slug}": {"name": "changed"}}[path]
        changes = {"private": thing == "open"} if field else fields
        options = {"content": json.dumps(changes), "headers": PATCH}
    elif method == "DELETE":
        options = {"headers": {"if-match": "*"}}
    elif method == "POST":
        bodies = {"/packages": {"name": "new", "organization": thing}, "/organizations": {"slug": "new", "name": "New"}}
        bodies["/tokens"] = {"name": "new", "scopes": ["packages:read"], "days": 1}
        options = {"json": bodies.get(path)}
    if path == "/graphql":
        return in_graph(world, who, thing)
    answer = world.ask(who, method, url, **options)
    if "{" in path or method != "GET" or answer.status_code != 200 or thing == "-":
        return str(answer.status_code)
    return "+" if thing in [item.get("name") for item in answer.json()["items"]] else "-"


GRAPH = """query($name: String!) {
  package(name: $name) { name }
  packages(first: 100) { nodes { name } }
  organization(slug: "acme") { packages(first: 100) { name } }
  again: package(name: "open") { organization { packages(first: 100) { name } } }
}"""


def in_graph(world: World, who: str, name: str) -> str:
    """Whether GraphQL has the package `name`; all ways to it have to agree."""
    answer = world.ask(who, "POST", "/graphql", json={"query": GRAPH, "variables": {"name": name}})
    if answer.status_code != 200:
        return str(answer.status_code)
    data = answer.json()["data"]
    lists = [data["packages"]["nodes"], data["organization"]["packages"], data["again"]["organization"]["packages"]]
    ways = {data["package"] is not None, *(name in [one["name"] for one in found] for found in lists)}
    return {(True,): "+", (False,): "-"}.get(tuple(ways), f"not agreed: {data}")


def not_in(app: FastAPI, table: str) -> set[str]:
    """The routes of `app` that have no row in `table`, and the rows that have no route."""
    routes = {route.name for route in routes_of(app.routes) if route.name.split()[1] not in DOCUMENTATION}
    return routes ^ {" ".join(route.split()[:2]) for route, _, _ in rows_of(table)}


def test_every_route_without_content_is_asked_for_it(world: World) -> None:
    """So each 204 that the document promises is looked at, in `World.ask`."""
    paths = world.app.openapi()["paths"].items()
    promised = {
        f"{method.upper()} {path}"
        for path, item in paths
        for method, says in item.items()
        if "204" in says["responses"]
    }
    assert promised == {route for route, _, answers in rows_of(MATRIX) if "204" in answers}
    assert len(promised) == 3


@pytest.mark.proves("ASVS 8.2.1", "ASVS 8.2.2", "ASVS 8.2.3", "ASVS 8.3.1", "ASVS 8.4.1")
def test_every_route_answers_every_role_as_decided(world: World) -> None:
    assert not_in(world.app, MATRIX) == set(), "a route without a row, or a row without a route"
    wrong = []
    for route, thing, expected in rows_of(MATRIX):
        found = [try_out(world, who, route, thing) for who in PEOPLE]
        wrong += [f"{route} {thing}: {found} instead of {expected}"] if found != expected else []
    assert wrong == []


UNLIKE = {"x-request-id", "content-length", "date"}
HIDDEN = [row[0] for row in rows_of(MATRIX) if "{name}" in row[0] and row[1] == "secret"]


@pytest.mark.proves("ASVS 8.2.2", "ASVS 8.4.1")
@pytest.mark.parametrize("route", HIDDEN)
def test_a_foreign_private_package_answers_as_one_that_does_not_exist(world: World, route: str) -> None:
    """Byte for byte, but for the name that was asked for and the id of the request."""
    method, path, *field = route.split()
    seen = []
    for name in ("secret", "missing"):
        world.begin_again()
        content = json.dumps({"private": False} if field else {"summary": "x"}) if method == "PATCH" else None
        answer = world.ask("foreign", method, path.replace("{name}", name), headers=PATCH, content=content)
        headers = {key: value for key, value in answer.headers.items() if key not in UNLIKE}
        problem = json.loads(answer.text.replace(name, "NAME"))
        del problem["request_id"]
        seen.append((answer.status_code, problem, headers))
    assert seen[0] == seen[1]
    assert seen[0][0] == 404


def test_a_taken_name_is_refused_alike_whoever_has_it(world: World) -> None:
    """It tells that the name is taken, since names are unique across organizations, and not by whom or for what."""
    world.begin_again()
    said = []
    for name in ("open", "secret", "SECRET"):
        answer = world.ask("foreign", "POST", "/packages", json={"name": name, "organization": "other"})
        said.append((answer.status_code, answer.json()["detail"].replace(name, "N").replace(name.lower(), "n")))
    assert {status for status, _ in said} == {409}
    assert len({words for _, words in said[:2]}) == 1
    assert not any("acme" in words or "private" in words for _, words in said)


@pytest.mark.proves("ASVS 8.2.2", "ASVS 8.4.1")
def test_no_page_no_link_and_no_cursor_shows_a_foreign_private_package(world: World) -> None:
    world.begin_again()
    admin = ("admin", "POST", "/packages")
    for number, private in enumerate((False, True, True, False, True)):
        body = {"name": f"tool-{number}{'-hidden' if private else ''}", "organization": "acme", "private": private}
        assert world.ask(*admin, json=body).status_code == 201
    for sort in ("name", "-name", "updated", "popularity"):
        for way in ("next", "prev"):
            names, link, seen = [], f"/packages?limit=1&sort={sort}&organization=acme", ""
            while link:
                page = world.ask("foreign", "GET", link)
                seen += page.text + "".join(map(readable, page.json().values())) + str(page.headers)
                names += [item["name"] for item in page.json()["items"]]
                link, last = page.json()[way], link
            if way == "next":
                assert sorted(names) == ["open", "tool-0", "tool-3"]
            assert "hidden" not in seen, (sort, way, last)
    whole = world.ask("foreign", "GET", "/packages?organization=acme&limit=3").json()
    assert whole["complete"], "the service counts rows that the caller may not see"
    assert len(world.ask("member", "GET", "/packages?organization=acme").json()["items"]) == 7


def readable(value: Any) -> str:
    """What a cursor says: it is signed, and not encrypted."""
    cursor = str(value).rpartition("cursor=")[2].partition("&")[0].partition(".")[0]
    return base64.urlsafe_b64decode(cursor + "==").decode(errors="replace") if "cursor=" in str(value) else ""


@pytest.mark.proves("ASVS 8.3.2")
def test_a_role_that_was_taken_away_holds_at_the_next_request(world: World) -> None:
    for table, person in ((Member, "admin"), (PackageRole, "maintainer")):
        world.begin_again()
        world.untouched = None
        assert try_patch(world, person) == 200
        lose = sa.delete(table).where(table.user_id == world.people[person])
        transaction(world.engine, lambda db, lose=lose: db.execute(lose))  # type: ignore[misc]
        assert try_patch(world, person) == 404
        assert world.ask(person, "GET", "/packages/secret").status_code == 404


@pytest.mark.proves("ASVS 8.3.2", "ASVS 8.3.1")
def test_a_role_that_is_taken_away_meanwhile_does_not_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of the role and the write: the write meets a conflict, and is decided anew."""
    world.begin_again()
    world.untouched = None  # what follows goes past `ask`
    once = [True]

    def taken_away(*given: Any) -> bool:
        if once:
            once.clear()
            with world.engine.begin() as other:
                other.execute(sa.update(Package).where(Package.name == "secret").values(version=7))
                other.execute(sa.update(Member).where(Member.role == "admin").values(role="member"))
        return apply_patch(*given)

    monkeypatch.setattr(packages, "apply_patch", taken_away)
    answer = try_patch(world, "admin")
    assert once == []
    assert answer == 403, "the role was read in another transaction than the one that writes"
    with world.engine.connect() as connection:
        assert connection.scalar(sa.select(Package.summary).where(Package.name == "secret")) is None


def try_patch(world: World, who: str) -> int:
    return world.ask(who, "PATCH", "/packages/secret", content='{"summary": "mine"}', headers=PATCH).status_code


def test_the_condition_for_lists_and_the_answer_for_one_thing_agree(world: World) -> None:
    """`visible_to` and `may`, for every person and package: a GraphQL field asks the same two."""
    world.begin_again()
    for who in PEOPLE[1:]:
        caller = world.caller(who)
        listed = sa.select(Package.name).where(visible_to(caller))
        found = transaction(world.engine, lambda db, listed=listed: set(db.scalars(listed)))  # type: ignore[misc]
        for name in ("open", "secret", "others"):
            assert (name in found) == asked(world, caller, "packages:read", name), (who, name)


def asked(world: World, caller: Caller, action: str, name: str) -> bool:
    try:
        return transaction(world.engine, lambda db: may(db, caller, action, {"name": name}))
    except HTTPException:
        return False


def test_what_is_not_listed_nobody_may(world: World) -> None:
    world.begin_again()
    for who in PEOPLE[1:]:
        caller = world.caller(who)
        assert not asked(world, caller, "packages:sell", "open")
        clause = visible_to(caller, "packages:sell")
        with world.engine.connect() as connection:
            assert connection.scalars(sa.select(Package.name).where(clause)).all() == []


# ---------------------------------------------------------------- the declarations of the routes


def test_every_route_with_a_caller_names_its_action(world: World) -> None:
    """By `permission`, by `sight`, or by `permit` in its work; and each action is one that the policy lists.

    What is only the caller's own, in a session, needs none.
    """
    named: set[str] = set()
    for route in routes_of(world.app.routes):
        names = {getattr(call, "__name__", "") for call in route.calls}
        actions = {name.partition(" ")[2] for name in names if name.startswith((PERMISSION, SIGHT))}
        silent = (
            not actions
            and not route.calls & {anyone, permit_of, own_session}
            and route.name.split()[1] not in DOCUMENTATION
        )
        assert not silent, f"{route.name} names no action"
        named |= actions
    assert named <= set(PERMITS)
    assert set(PERMITS) - named == {"packages:create", "packages:publish"}, "asked by `permit`, for what a body names"


def test_a_permission_that_nothing_asks_for_does_not_start() -> None:
    router = APIRouter()

    @router.get("/safe", dependencies=[permission("packages:read")])
    async def safe() -> None: ...

    @router.post("/asked", dependencies=[permission("packages:write")])
    def sound(transact: Transaction) -> None: ...

    with pytest.raises(ValueError, match=r"nothing asks for the permission of GET /safe:"):
        create_app(make_engine("duckdb:///:memory:unasked"), [router])


def test_a_new_route_without_a_row_is_found(world: World) -> None:
    router = APIRouter()

    @router.post("/packages/{name}/sell", dependencies=[permission("packages:write")])
    def sell(name: str, transact: Transaction) -> None: ...

    app = create_app(make_engine("duckdb:///:memory:new_route"), [router])
    assert "POST /packages/{name}/sell" in not_in(app, MATRIX)
