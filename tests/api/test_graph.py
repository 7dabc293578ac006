"""GraphQL over the catalogue, on both engines: what it answers, what it costs, what it refuses, and to whom."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from graphql import get_introspection_query, get_named_type, is_leaf_type
from sqlalchemy import orm

from playbook.api.errors import PROBLEM_JSON
from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import postgres
from playbook.pantry.app import pantry, resource_api
from playbook.pantry.catalog import Package, Release
from playbook.pantry.graph import STATEMENTS_PER_REQUEST, VALUES_PER_REQUEST
from playbook.pantry.http import Caller
from playbook.pantry.known_queries import known_queries
from playbook.pantry.limits import AccountLimits, Counts, Rate
from playbook.pantry.policy import may
from playbook.pantry.settings import Settings
from playbook.schema.identity import Member, Organization, add_user
from playbook.schema.relationships import at_most

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
PACKAGES, RELEASES = 30, 4  # of each of three organizations; of each package


@dataclass
class World:
    """The catalogue on one engine, served in process. Ada is a member of org-0, Mallory of nothing."""

    client: TestClient
    engine: sa.Engine
    people: dict[str, UUID]

    def post(self, query: Any, who: str = "ada", variables: Any = None, **options: Any) -> Any:
        body = {"query": query} | ({"variables": variables} if variables is not None else {})
        return self.client.post("/graphql", json=body | options.pop("more", {}), headers={"x-caller": who} | options)

    def data(self, query: str, who: str = "ada", **variables: Any) -> Any:
        answer = self.post(query, who, variables or None)
        assert answer.status_code == 200, answer.text
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    def refusal(self, query: str, **variables: Any) -> str:
        """The one error of a query that did not run."""
        with at_most(self.engine, 0):
            answer = self.post(query, variables=variables or None)
        assert answer.status_code == 200
        assert answer.json().keys() == {"errors"}, answer.text
        [error] = answer.json()["errors"]
        return str(error["message"])


def fill(db: orm.Session, clock: FixedClock, ids: Identifiers) -> dict[str, UUID]:
    times: dict[str, Any] = {"created_at": NOW, "updated_at": NOW}
    people = {who: add_user(db, clock, ids, f"{who}@example.com", who).id for who in ("ada", "mallory")}
    for number in range(3):
        organization = Organization(id=ids.new(), slug=f"org-{number}", name=f"Org {number}", **times)
        db.add(organization)
        db.flush()
        for place in range(PACKAGES):
            name = f"pkg-{place:02}-{number}"
            package = Package(
                id=ids.new(), organization_id=organization.id, name=name, normalized_name=name, private=place == 0,
                **times,
            )  # fmt: skip
            db.add(package)
            for release in range(RELEASES):
                yanked = NOW if (place, release) == (1, RELEASES - 2) else None
                db.add(
                    Release(
                        id=ids.new(), package_id=package.id, version=f"1.{release}", version_key=f"{release:05}",
                        is_prerelease=release == RELEASES - 1, released_at=NOW + timedelta(days=release),
                        yanked_at=yanked, created_at=NOW,
                    )
                )  # fmt: skip
    db.flush()
    own = db.scalars(sa.select(Organization).where(Organization.slug == "org-0")).one()
    db.add(Member(id=ids.new(), organization_id=own.id, user_id=people["ada"], role="member", created_at=NOW))
    return people


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One catalogue for all tests of this file on an engine. Nothing changes it."""
    databases = ExitStack()
    if request.param == "duckdb":
        url = "duckdb:///:memory:graph"
    else:
        url = databases.enter_context(postgres.database(request.getfixturevalue("postgres_server")))
    engine, clock = make_engine(url), FixedClock(NOW)
    Base.metadata.create_all(engine)
    ids = Identifiers(clock, SeededBytes(1))
    people = transaction(engine, lambda db: fill(db, clock, ids))

    def find_caller(connection: Any) -> Caller | None:
        who = connection.headers.get("x-caller")
        return Caller(people[who], who) if who in people else None

    app = resource_api(engine, Settings(environment="test", database_url=url), clock, ids, find_caller, may)
    with databases, TestClient(app, raise_server_exceptions=False) as client:
        yield World(client, engine, people)


SCREEN = """query screen($first: Int!) {
  packages(first: $first) {
    nodes { name latestVersion organization { slug name } releases(first: 3) { version yankedAt } }
    next
  }
}"""


def test_a_screen_is_a_statement_for_each_relation_however_long_the_page(world: World) -> None:
    """The list, the newest versions, the organizations, the releases."""
    for first in (2, 80):
        with at_most(world.engine, 4) as sent:
            page = world.data(SCREEN, first=first)["packages"]
        assert len(sent) == 4
        assert len(page["nodes"]) == first
    second = page["nodes"][2]
    assert second == {
        "name": "pkg-01-1",
        "latestVersion": "1.1",  # 1.2 was yanked, 1.3 is a pre-release
        "organization": {"slug": "org-1", "name": "Org 1"},
        "releases": [
            {"version": "1.3", "yankedAt": None},
            {"version": "1.2", "yankedAt": NOW.isoformat()},
            {"version": "1.1", "yankedAt": None},
        ],
    }


def test_levels_below_and_aliases_share_their_statements(world: World) -> None:
    query = """{
      a: package(name: "PKG_05.1") { ...p }
      b: package(name: "pkg-06-2") { ...p }
      c: package(name: "nothing") { ...p }
    }
    fragment p on Package { name organization { packages(first: 2) { name organization { slug } } } }"""
    with at_most(world.engine, 3):  # packages, organizations, their packages; the last level was read already
        found = world.data(query)
    assert found["c"] is None
    assert found["a"]["organization"]["packages"] == [
        {"name": f"pkg-0{n}-1", "organization": {"slug": "org-1"}} for n in (1, 2)
    ]
    assert [one["name"] for one in found["b"]["organization"]["packages"]] == ["pkg-01-2", "pkg-02-2"]


def test_it_says_what_rest_says(world: World) -> None:
    headers = {"x-caller": "ada"}
    rest = world.client.get("/packages/pkg-07-1", headers=headers).json()
    fields = "name summary private popularityRank latestVersion organization { slug } createdAt updatedAt"
    graph = world.data(f'{{ package(name: "pkg-07-1") {{ {fields} }} }}')["package"]
    assert graph["organization"] == {"slug": rest["organization"]}
    same = {"popularityRank": "popularity_rank", "latestVersion": "latest_version"}
    for name in ("name", "summary", "private", *same):
        assert graph[name] == rest[same.get(name, name)], name
    for ours, theirs in (("createdAt", "created_at"), ("updatedAt", "updated_at")):
        assert datetime.fromisoformat(graph[ours]) == datetime.fromisoformat(rest[theirs]) == NOW


@pytest.mark.parametrize(
    ("sort", "word"), [("name", "NAME"), ("-name", "NAME_DESCENDING"), ("popularity", "POPULARITY")]
)
def test_cursors_are_those_of_rest(world: World, sort: str, word: str) -> None:
    """Every second page by REST, the others by GraphQL: no row twice, none left out."""
    page = "query($cursor: String) { packages(first: 25, sort: SORT, cursor: $cursor) { nodes { name } next prev } }"
    page = page.replace("SORT", word)
    names, cursor, headers = [], None, {"x-caller": "mallory"}
    for turn in range(9):
        if turn % 2:
            listed = world.client.get(
                "/packages", params={"limit": 25, "sort": sort, "cursor": cursor}, headers=headers
            )
            assert listed.status_code == 200, listed.text
            names += [one["name"] for one in listed.json()["items"]]
            link = listed.json()["next"]
            cursor = parse_qs(urlsplit(link).query)["cursor"][0] if link else None
        else:
            found = world.data(page, "mallory", cursor=cursor)["packages"]
            names += [one["name"] for one in found["nodes"]]
            cursor = found["next"]
        if cursor is None:
            break
    whole = sorted(f"pkg-{place:02}-{number}" for place in range(1, PACKAGES) for number in range(3))
    assert names == (whole[::-1] if sort == "-name" else whole)


def test_a_cursor_of_another_list_is_an_error_and_no_page(world: World) -> None:
    cursor = world.data("{ packages(first: 1) { next } }")["packages"]["next"]
    query = "query($c: String) { organizations(cursor: $c) { nodes { slug } } }"
    answer = world.post(query, variables={"c": cursor}).json()
    assert answer["data"] is None
    assert answer["errors"][0]["message"].startswith("cursor: it was made for another list")
    answer = world.post(query, variables={"c": "x" * 4001}).json()
    assert answer["errors"][0]["message"] == "cursor: String should have at most 4000 characters"


PAGES = (
    "{ packages(first: %s) { next } }",
    "{ organizations(first: %s) { next } }",
    '{ organization(slug: "org-0") { packages(first: %s) { name } } }',
    '{ package(name: "pkg-01-0") { releases(first: %s) { version } } }',
)


@pytest.mark.parametrize("first", [0, 101])
@pytest.mark.parametrize("query", PAGES)
def test_a_page_has_the_sizes_of_rest(world: World, first: int, query: str) -> None:
    answer = world.post(query % first).json()
    assert [error["message"] for error in answer["errors"]] == ["first: 1 to 100"]


@pytest.mark.proves("ASVS 8.2.2", "ASVS 8.4.1")
def test_a_private_package_of_others_does_not_exist(world: World) -> None:
    """By name, in lists, below its organization, in counts of pages and in cursors."""
    query = """{
      package(name: "pkg-00-0") { name releases { version } }
      organization(slug: "org-0") { packages(first: 100) { name } }
      packages(first: 100, organization: "org-0") { nodes { name } next }
    }"""
    seen = world.data(query, "mallory")
    assert seen["package"] is None
    assert "pkg-00-0" not in json.dumps(seen)
    assert len(seen["organization"]["packages"]) == len(seen["packages"]["nodes"]) == PACKAGES - 1
    assert "pkg-00-0" not in json.dumps(world.data(query.replace("first: 100, org", "first: 29, org"), "mallory"))
    own = world.data(query)
    assert len(own["package"]["releases"]) == RELEASES
    assert len(own["packages"]["nodes"]) == PACKAGES


def deep(levels: int) -> str:
    """A query of `levels` levels, two at a time, after those of the list."""
    turns = (levels - 3) // 2
    return "{ packages { nodes {" + " organization { packages {" * turns + " name" + " } }" * turns + " } } }"


MANY = "Syntax Error: Document contains more than 1000 tokens. Parsing aborted."
NESTED = "Syntax Error: Document is nested too deeply. Parsing aborted."
HOSTILE = {
    "large": ("{ packages(first: 99) { nodes { releases(first: 99) { next } } } }", "cost: 19702, at most 5000"),
    "aliases": ("{" + " a: packages(first: 51) { nodes { name } }" * 49 + "}", "cost: 5047, at most 5000"),
    "90 small aliases": (
        "{" + "".join(f" a{number}: packages(first: 1) {{ next }}" for number in range(90)) + "}",
        "statements: 90, at most 20",  # for 180 values
    ),
    "90 organizations": (
        "{" + "".join(f' a{number}: organization(slug: "org-{number}") {{ slug }}' for number in range(90)) + "}",
        "statements: 90, at most 20",
    ),
    "newest versions of seven pages": (
        "{" + "".join(f" a{number}: packages(first: 2) {{ nodes {{ latestVersion }} }}" for number in range(7)) + "}",
        "statements: 21, at most 20",
    ),
    "deep": (deep(9), "depth: 9, at most 8"),
    "very deep": (deep(101), "depth: 101, at most 8"),
    "a thousand levels": (deep(1001), MANY),
    "long": ("{" + " a: packages { next }" * 400 + "}", MANY),
    "a mutation": ("mutation { deletePackage }", "The mutation operation is not supported by the schema."),
    "below 0": ("{ packages(first: -1) { next } }", "packages: a number of rows is below 0"),
}  # fmt: skip


@pytest.mark.proves("ASVS 4.3.1")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_query_is_refused_before_a_statement(world: World, name: str) -> None:
    query, says = HOSTILE[name]
    said = world.refusal(query)
    assert said == says or (name == "a thousand levels" and said == NESTED)  # whichever Python reaches first


def any_query(random: Random) -> str:
    """A query that is valid, of any fields below each other."""
    from playbook.pantry import graph_schema

    names = (f"a{number}" for number in count())

    def chosen(kind: Any, levels: int) -> str:
        plain = [name for name, field in kind.fields.items() if is_leaf_type(get_named_type(field.type))]
        other = [name for name in kind.fields if name not in plain]
        picked = random.choices(plain, k=2) if plain else []
        picked += random.choices(other, k=random.randint(1, 3)) if other and levels else []
        return "{ " + " ".join(written(name, kind.fields[name], levels - 1) for name in picked or ["__typename"]) + " }"

    def written(name: str, field: Any, levels: int) -> str:
        given = {
            "first": random.randint(1, 4),
            "name": f'"pkg-0{random.randint(0, 3)}-{random.randint(0, 2)}"',
            "slug": f'"org-{random.randint(0, 3)}"',
        }
        wanted = [f"{key}: {value}" for key, value in given.items() if key in field.args]
        arguments = f"({', '.join(wanted)})" if wanted else ""
        below = get_named_type(field.type)
        return f"{next(names)}: {name}{arguments} {'' if is_leaf_type(below) else chosen(below, levels)}"

    return chosen(graph_schema.SCHEMA.query_type, random.randint(1, 6))


def test_no_query_takes_more_statements_than_it_was_weighed_with(world: World) -> None:
    from playbook.api.graphql_limits import Refused, admit
    from playbook.pantry import graph_schema

    taken = []
    for seed in range(60):
        query = any_query(Random(seed))
        try:
            _, weight = admit(graph_schema.SCHEMA, query, graph_schema.CLOSED)
        except Refused:
            continue
        with at_most(world.engine, weight.statements) as sent:
            world.data(query)
        taken.append(len(sent))
    assert len(taken) > 20
    assert max(taken) > 8


def test_each_plain_field_that_asks_the_database_is_counted() -> None:
    from playbook.pantry import graph_schema

    asking = set()
    for kind in graph_schema.SCHEMA.type_map.values():
        for name, field in getattr(kind, "fields", {}).items():
            ours = (field.extensions or {}).get("strawberry-definition")
            if ours and ours.base_resolver and is_leaf_type(get_named_type(field.type)):
                asking.add(name)
    assert asking == graph_schema.CLOSED.also == graph_schema.LIMITS.also


def test_variables_count(world: World) -> None:
    query = "query($n: Int!) { packages(first: $n) { nodes { releases(first: $n) { version } } } }"
    assert world.refusal(query, n=100) == "cost: 20101, at most 5000"
    assert len(world.data(query, n=2)["packages"]["nodes"]) == 2


def test_what_is_not_graphql_s_is_a_problem(world: World) -> None:
    post = world.client.post
    me = {"x-caller": "ada"}
    answers = {
        401: world.post("{ packages { next } }", who="stranger"),
        405: world.client.get("/graphql", params={"query": "{ packages { next } }"}, headers=me),
        406: world.post("{ packages { next } }", accept="text/html"),
        415: post("/graphql", content="{ packages { next } }", headers=me | {"content-type": "application/graphql"}),
        400: post("/graphql", content='{"query": ', headers=me | {"content-type": "application/json"}),
    }
    unreadable = [
        world.post(None), world.post(""), world.post("{ packages { next } }" + " " * 20_000), world.post(7),
        post("/graphql", json=[{"query": "{ packages { next } }"}] * 2, headers=me),
        world.post("{ packages { next } }", more={"variables": []}),
        world.post("{ packages { next } }", more={"unknown": 1}),
    ]  # fmt: skip
    for status, answer in [*answers.items(), *((422, one) for one in unreadable)]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == PROBLEM_JSON


def test_what_clients_send_along_is_taken(world: World) -> None:
    more = {"operationName": "b", "variables": None, "extensions": {"clientLibrary": {"name": "x"}}}
    accept = "application/graphql-response+json, application/json;q=0.9"
    query = "query a { packages { nope } } query b { organizations(first: 1) { nodes { slug } } }"
    answer = world.post(query, more=more, accept=accept)
    assert answer.json()["errors"][0]["message"].startswith("Cannot query field 'nope' on type 'PackagePage'.")
    answer = world.post(query.replace("nope", "next"), more=more, accept=accept)
    assert answer.json() == {"data": {"organizations": {"nodes": [{"slug": "org-0"}]}}}


def test_a_database_that_is_away_is_a_503_and_a_fault_is_hidden(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from playbook.pantry import graph_schema

    def away(*_: Any) -> Any:
        raise sa.exc.OperationalError("SELECT s3cret", {}, Exception("no answer from s3cret@db"))

    def broken(*_: Any) -> Any:
        raise KeyError("s3cret")

    query = '{ organizations(first: 1) { nodes { slug } } package(name: "pkg-01-0") { name } }'
    monkeypatch.setattr(graph_schema, "PACKAGE", graph_schema.Relation(away, "name"))
    answer = world.post(query)
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM_JSON)
    assert "s3cret" not in answer.text
    monkeypatch.setattr(graph_schema, "PACKAGE", graph_schema.Relation(broken, "name"))
    answer = world.post(query)
    assert answer.status_code == 200
    assert answer.json()["data"] == {"organizations": {"nodes": [{"slug": "org-0"}]}, "package": None}
    assert [error["message"] for error in answer.json()["errors"]] == ["internal error"]


# ---------------------------------------------------------------- known queries only

COUNTED = "query($n: Int!) { packages(first: $n) { nodes { name } } }"


def hash_of(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()}"


@pytest.fixture
def only_known(world: World, tmp_path: Path) -> Iterator[None]:
    """The service answers `SCREEN` and `COUNTED` only."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "screen.graphql").write_text(SCREEN, "utf-8")
    (tmp_path / "counted.graphql").write_text(COUNTED, "utf-8")
    (tmp_path / "README.md").write_text("no query", "utf-8")
    state = world.client.app.state  # type: ignore[attr-defined]
    assert state.known_queries is None
    state.known_queries = known_queries(tmp_path)
    yield
    state.known_queries = None


def by_hash(world: World, document_id: Any, **more: Any) -> Any:
    return world.client.post("/graphql", json={"documentId": document_id, **more}, headers={"x-caller": "ada"})


@pytest.mark.usefixtures("only_known")
def test_a_known_query_is_answered_by_its_hash_or_its_text(world: World) -> None:
    answer = by_hash(world, hash_of(SCREEN), variables={"first": 2})
    assert answer.json()["data"] == world.data(SCREEN, first=2)
    assert len(answer.json()["data"]["packages"]["nodes"]) == 2


@pytest.mark.usefixtures("only_known")
def test_an_unknown_query_is_refused_before_a_statement(world: World) -> None:
    almost = SCREEN.replace("yankedAt", "yankedAt releasedAt")
    only = "this service answers known queries only, and {} is none"
    assert world.refusal(almost, first=2) == only.format(hash_of(almost))
    assert world.refusal("{ packages { ") == only.format(hash_of("{ packages { "))
    with at_most(world.engine, 0):
        for name in (hash_of(almost), hash_of(SCREEN).removeprefix("sha256:"), "sha256:"):
            assert by_hash(world, name).json() == {"errors": [{"message": only.format(name)}]}


@pytest.mark.usefixtures("only_known")
def test_a_known_query_has_the_limits_of_all(world: World) -> None:
    """The client chooses the variables."""
    with at_most(world.engine, 0):
        answer = by_hash(world, hash_of(COUNTED), variables={"n": 5000})
        assert answer.json() == {"errors": [{"message": "cost: 10001, at most 5000"}]}


def test_without_a_list_any_query_is_answered_and_no_hash(world: World) -> None:
    assert world.data(COUNTED, n=1)["packages"]["nodes"]
    with at_most(world.engine, 0):
        answers = [
            by_hash(world, hash_of(COUNTED), variables={"n": 1}),
            by_hash(world, hash_of(COUNTED), query=COUNTED, variables={"n": 1}),
            world.client.post("/graphql", json={}, headers={"x-caller": "ada"}),
        ]
    words = ["this service knows no queries by `documentId`: send `query`"] + [
        "send either `query` or `documentId`"
    ] * 2
    assert [answer.json() for answer in answers] == [{"errors": [{"message": word}]} for word in words]
    assert [by_hash(world, name).status_code for name in ("", None, "é", "x" * 201, 7)] == [422] * 5


def test_a_list_of_a_code_generator_is_read_by_its_values(tmp_path: Path) -> None:
    manifest = tmp_path / "persisted-documents.json"
    manifest.write_text(json.dumps({"1": SCREEN, "abc": COUNTED}), "utf-8")
    assert known_queries(manifest) == {hash_of(SCREEN): SCREEN, hash_of(COUNTED): COUNTED}


BROKEN: dict[str, tuple[bytes | None, str]] = {  # by name of a file: its content, and what is said
    "missing.json": (None, "missing.json cannot be read: No such file or directory"),
    "text.json": (b"{ packages", "text.json: neither a folder nor JSON in UTF-8: "),
    "bytes.json": (b'{"1": "\xff"}', "bytes.json: neither a folder nor JSON in UTF-8: "),
    "list.json": (b'["{ packages { next } }"]', "list.json should be a JSON object whose values are queries"),
    "number.json": (b'{"1": 7}', "number.json should be a JSON object whose values are queries"),
    "empty.json": (b"{}", "empty.json has no query"),
    "unknown.json": (b'{"a": "{ nothing }"}', "unknown.json: a: Cannot query field 'nothing' on type 'Query'."),
    "folder/bad.graphql": (b"{ packages ", "folder/bad.graphql: Syntax Error: Expected Name, found <EOF>."),
    "folder/bytes.graphql": (b"\xff", "folder: neither a folder nor JSON in UTF-8"),
    "empty/none.txt": (b"", "empty has no query"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_that_cannot_be_used_stops_the_start_and_is_named(name: str, tmp_path: Path) -> None:
    content, says = BROKEN[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = tmp_path / name.partition("/")[0]
    settings = Settings(environment="test", database_url="duckdb:///:memory:never", known_queries=path)
    clock = FixedClock(NOW)
    engine = make_engine(settings.database_url)
    with pytest.raises(ValueError, match=r"^PANTRY_KNOWN_QUERIES: ") as caught:
        resource_api(engine, settings, clock, Identifiers(clock), lambda _: None, may)
    assert f"{tmp_path}/{says}" in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the assembled service, once, in memory


def test_the_schema_in_the_repository_is_the_one_that_is_served() -> None:
    from playbook.pantry import graph_schema

    renew = "run `python -m playbook.pantry.graph_schema`, and look at what changes for clients"
    assert graph_schema.SDL.read_text("utf-8") == graph_schema.as_text(), renew


@pytest.mark.proves("ASVS 4.3.2")
def test_introspection_is_for_development_only() -> None:
    from playbook.pantry import graph_schema

    clock = FixedClock(NOW)
    engine = make_engine("duckdb:///:memory:introspection")
    for environment, answers in (("development", True), ("production", False)):
        settings = Settings.model_construct(environment=environment, max_body_bytes=1_000_000, secret=_secret())
        app = resource_api(engine, settings, clock, Identifiers(clock), lambda _: Caller(UUID(int=1), "ada"), may)
        with TestClient(app) as client:
            answer = client.post("/graphql", json={"query": get_introspection_query()}).json()
            word = client.post("/graphql", json={"query": "{ package { name } }"}).json()["errors"][0]["message"]
        assert ("data" in answer) is answers, environment
        if answers:
            assert {one["name"] for one in answer["data"]["__schema"]["types"]} >= {"Package", "Release"}
        else:
            assert answer == {"errors": [{"message": "this service does not answer introspection"}]}
        assert "Did you mean" not in word or answers
    assert graph_schema.CLOSED.introspection is False


def _secret() -> Any:
    return Settings(environment="test", database_url="duckdb:///:memory:none").secret


def test_large_queries_use_more_of_the_allowance(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = AccountLimits(Counts(Rate("account", per_second=1, burst=5), clock=lambda: 0.0))
    monkeypatch.setattr(world.client.app.state, "spend", limits.take, raising=False)  # type: ignore[attr-defined]
    small = "{ packages(first: 10) { nodes { name } } }"
    many = "{" + " ".join(f'a{number}: organization(slug: "{number}") {{ slug }}' for number in range(10)) + "}"
    fields = "name summary private popularityRank createdAt updatedAt releases(first: 1) { version yankedAt }"
    large = f"{{ packages(first: 100) {{ nodes {{ {fields} }} }} }}"  # 1,001 values: worth two requests
    for _ in range(9):  # too small to be counted here; each request was counted when its session was found
        assert world.post(small).status_code == 200
    statuses = [world.post(large).status_code for _ in range(6)]
    assert statuses == [200, 200, 429, 429, 429, 429]
    assert VALUES_PER_REQUEST == 500
    refused = world.post(large)
    assert refused.headers["content-type"] == PROBLEM_JSON
    assert "retry-after" in refused.headers
    assert [world.post(many, who="mallory").status_code for _ in range(3)] == [200, 200, 429], "another account's own"
    assert STATEMENTS_PER_REQUEST == 5


def test_with_the_session_of_a_browser_and_from_no_other_site() -> None:
    """The service as it is assembled: 401 without a session, 403 from another site, the account's one allowance."""
    origin = "http://localhost:8000"
    settings = Settings(
        environment="test", database_url="duckdb:///:memory:graph_signed_in", base_url=origin,
        require_email_verification=False,
    )  # fmt: skip
    person = {"name": "Ada", "email": "ada@example.com", "password": "violet anchor rides a slow train"}
    query = {"query": "{ organizations { nodes { slug } } }"}
    app = pantry(settings, sender=MemorySender())
    assert app.state.spend == app.state.auth.admit, "large queries are counted apart from requests"
    with TestClient(app, base_url=origin) as client:
        answer = client.post("/graphql", json=query, headers={"origin": origin})
        assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM_JSON)
        signed = client.post("/api/auth/sign-up/email", json=person, headers={"origin": origin})
        assert signed.status_code == 200, signed.text
        answer = client.post("/graphql", json=query, headers={"origin": origin})
        assert answer.json() == {"data": {"organizations": {"nodes": []}}}
        for elsewhere in ("http://evil.example", "null"):
            answer = client.post("/graphql", json=query, headers={"origin": elsewhere})
            assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM_JSON)
