"""Pagination: what stays is seen exactly once, on both engines; a cursor is good for one list and nothing else."""

import hmac
import itertools
import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from before_sign_in import RESOURCES, finished, pantry
from fastapi import APIRouter, Depends, Query, Response
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field
from sqlalchemy.dialects import postgresql
from tables import make_tables

from playbook.api.cursors import Cursors
from playbook.api.errors import Problem
from playbook.api.pagination import Order
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.deny_by_default import anyone, refuse_undeclared
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.pantry import reads
from playbook.pantry.catalog import Package, Release
from playbook.pantry.errors import BAD_CURSOR
from playbook.pantry.http import DOCUMENTATION, Caller, Transaction, create_app, current_caller
from playbook.pantry.lists import (
    Listing,
    PageQuery,
    Pager,
    Paging,
    cursors_of,
    index_sql,
)
from playbook.pantry.organizations import ORGANIZATION_LIST, OrganizationQuery
from playbook.pantry.packages import PACKAGE_LIST, PACKAGE_SORTS, PACKAGES, PackageQuery
from playbook.pantry.reads import InThread
from playbook.pantry.settings import Settings
from playbook.schema.identity import Organization, add_user
from playbook.schema.relationships import at_most

ALL = sa.true()  # no row is hidden
SECRET = "a secret of the tests, 32 characters"
NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
SORTS = get_args(PackageQuery.model_fields["sort"].annotation)


def app_of(url: str, clock: FixedClock, ids: Identifiers, *more: APIRouter) -> Any:
    engine = make_engine(url)
    make_tables(engine)
    ada = transaction(engine, lambda session: add_user(session, clock, ids, "ada@example.com", "Ada"))
    caller = Caller(ada.id, ada.name)
    routers = [*RESOURCES, *more]
    app = create_app(engine, routers, clock, ids, lambda request: caller, lambda *asked: True)
    return finished(app)


@pytest.fixture
def client(url: str, clock: FixedClock, ids: Identifiers) -> Iterator[LiveClient]:
    with serving(app_of(url, clock, ids)) as client:
        for slug in ("acme", "globex", "initech"):
            client.post("/organizations", json={"slug": slug, "name": slug})
            client.post("/packages", json={"name": f"{slug}-tool", "organization": "acme"})
        yield client


def cursor_at(sort: str, to: str, key: list[Any] | None = None) -> str:
    """A genuine cursor of the packages; without a key it is at an end of the list."""
    query = PackageQuery(sort=sort)  # type: ignore[arg-type]
    return cursors_of(SECRET).sign([to, key], PACKAGE_LIST.asked("/packages", query).name)


def cursor_in(url: str | None) -> str:
    return parse_qs(urlsplit(url or "").query).get("cursor", [""])[0]


# ---------------------------------------------------------------- the property


class Rows:
    """The packages of one database, made and deleted as Hypothesis says."""

    def __init__(self, url: str, ids: Identifiers) -> None:
        self.engine, self.ids, self.there = make_engine(url), ids, set[str]()
        make_tables(self.engine)
        owner = {"id": ids.new(), "slug": "acme", "name": "Acme", "version": 1, "created_at": NOW, "updated_at": NOW}
        self.owner = owner["id"]
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Organization).values(**owner))

    def change(self, number: int, rank: int | None, day: int) -> str:
        """Delete the package of this number when it is there, make it otherwise. Its name."""
        name = f"p{number}"
        with self.engine.begin() as connection:
            if name in self.there:
                self.there.remove(name)
                connection.execute(sa.delete(Package).where(Package.name == name))
                return name
            self.there.add(name)
            row = {"id": self.ids.new(), "name": name, "normalized_name": name, "popularity_rank": rank, "version": 1}
            times = {"created_at": NOW, "updated_at": NOW + timedelta(days=day, microseconds=day)}
            connection.execute(sa.insert(Package).values(**row, **times, organization_id=self.owner))
            return name

    def clear(self) -> None:
        self.there.clear()
        with self.engine.begin() as connection:
            connection.execute(sa.delete(Package))


change = st.tuples(st.integers(0, 25), st.sampled_from([None, 1, 1, 2, 2**31 - 1]), st.integers(0, 2))


@pytest.fixture
def rows(url: str, ids: Identifiers) -> Rows:
    return Rows(url, ids)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    sort=st.sampled_from(SORTS),
    to=st.sampled_from(["next", "prev"]),
    first=st.lists(change, max_size=20),
    between=st.lists(st.lists(change, max_size=3), max_size=12),
    limits=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_what_stays_is_seen_exactly_once(
    rows: Rows, sort: str, to: str, first: list[Any], between: list[list[Any]], limits: list[int]
) -> None:
    rows.clear()
    for made in first:
        rows.change(*made)
    pager = Pager(cursors_of(SECRET), "/packages", Response())
    stayed, seen, changes, sizes = set(rows.there), [], iter(between), itertools.cycle(limits)
    cursor = cursor_at(sort, to)
    while cursor:
        limit = next(sizes)
        query = PackageQuery(sort=sort, limit=limit, cursor=cursor)  # type: ignore[arg-type]
        found, links = transaction(rows.engine, lambda session, q=query: pager.page(session, PACKAGE_LIST, q, ALL))  # type: ignore[misc]
        assert len(found) <= limit
        names = [row[0] for row in found]
        seen += names if to == "next" else names[::-1]
        cursor = cursor_in(links[to])
        for made in next(changes, []):
            stayed.discard(rows.change(*made))  # deleted; or made again, at another place perhaps
    assert sorted(name for name in seen if name in stayed) == sorted(stayed)


@pytest.mark.parametrize("sort", SORTS)
def test_both_directions_give_the_same_order(rows: Rows, sort: str) -> None:
    for number in range(20):
        rows.change(number, (None, 3, 3, 1)[number % 4], number % 3)
    pager = Pager(cursors_of(SECRET), "/packages", Response())

    def walk(to: str) -> list[list[str]]:
        pages = []
        cursor = cursor_at(sort, to)
        while cursor:
            query = PackageQuery(sort=sort, limit=4, cursor=cursor)  # type: ignore[arg-type]
            found, links = transaction(rows.engine, lambda session, q=query: pager.page(session, PACKAGE_LIST, q, ALL))  # type: ignore[misc]
            pages.append([row[0] for row in found])
            cursor = cursor_in(links[to])
        return pages

    forwards = walk("next")
    assert walk("prev") == forwards[::-1]
    names = sum(forwards, [])  # noqa: RUF017
    assert sorted(names) == sorted(rows.there)
    if "popularity" in sort:  # no rank comes after every rank, so first when the order is turned
        without = [name for name in names if int(name[1:]) % 4 == 0]
        assert without == (names[:5] if sort.startswith("-") else names[-5:])


# ---------------------------------------------------------------- over HTTP


def test_links_lead_there_and_back(client: LiveClient) -> None:
    first = client.get("/packages?limit=1&sort=-name").json()
    second = client.get(first["next"]).json()
    third = client.get(second["next"]).json()
    assert [page["items"][0]["name"] for page in (first, second, third)] == [
        "initech-tool",
        "globex-tool",
        "acme-tool",
    ]
    assert (first["prev"], third["next"]) == (None, None)
    assert client.get(third["prev"]).json()["items"] == second["items"]
    back = client.get(second["prev"]).json()
    assert (back["items"], back["prev"]) == (first["items"], None)
    assert client.get(back["next"]).json()["items"] == second["items"]
    assert {page["complete"] for page in (first, second, third, back)} == {False}
    assert client.get("/packages").json()["complete"] is True


def test_the_link_header_says_what_the_body_says(client: LiveClient) -> None:
    second = client.get(client.get("/organizations?limit=1").json()["next"])
    assert second.headers["link"] == ", ".join(f'<{second.json()[rel]}>; rel="{rel}"' for rel in ("next", "prev"))
    assert second.links.keys() == {"next", "prev"}
    for rel in ("next", "prev"):
        assert second.json()[rel].startswith("/organizations?")


def test_an_empty_page_leads_back(client: LiveClient) -> None:
    last = client.get("/packages?limit=2").json()["next"]
    client.delete("/packages/initech-tool", headers={"if-match": "*"})
    empty = client.get(last).json()
    assert (empty["items"], empty["next"], empty["complete"]) == ([], None, False)
    back = client.get(empty["prev"]).json()
    assert [item["name"] for item in back["items"]] == ["acme-tool", "globex-tool"]
    assert (back["next"], back["prev"]) == (None, None)


def test_the_filter_goes_with_the_links_and_holds(client: LiveClient) -> None:
    client.post("/packages", json={"name": "b-tool", "organization": "globex"})
    page, names = "/packages?organization=acme&limit=1", []
    while page:
        answer = client.get(page).json()
        names += [item["name"] for item in answer["items"]]
        page = answer["next"]
    assert names == ["acme-tool", "globex-tool", "initech-tool"]
    assert client.get("/packages?organization=none").json()["items"] == []


LISTS = [
    "/packages?limit=1",
    "/packages?limit=1&sort=-name",
    "/packages?limit=1&sort=popularity",
    "/packages?limit=1&sort=updated",
    "/packages?limit=1&organization=acme",
    "/organizations?limit=1",
    "/organizations?limit=1&sort=-updated",
]


def test_a_cursor_is_good_for_its_list_filter_and_sort_only(client: LiveClient) -> None:
    cursors = {made: cursor_in(client.get(made).json()["next"]) for made in LISTS}
    for (made, cursor), used in itertools.product(cursors.items(), LISTS):
        answer = client.get(used, params=None) if not cursor else client.get(f"{used}&cursor={cursor}")
        if made == used:
            assert answer.status_code == 200
            continue
        problem = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert problem["type"] == BAD_CURSOR.uri
        assert problem["detail"].startswith("it was made for another ")
        assert cursor not in answer.text


def test_the_page_size_may_change_on_the_way(client: LiveClient) -> None:
    cursor = cursor_in(client.get("/packages?limit=1").json()["next"])
    assert len(client.get(f"/packages?limit=2&cursor={cursor}").json()["items"]) == 2


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "sort=size", "sort=id", "sort=", "sort=--name", "page=2",
     "offset=4", "cursor=a&cursor=b", "sort=name&sort=name", "organization=" + "x" * 101],
)  # fmt: skip
def test_what_is_not_on_the_lists_is_refused(client: LiveClient, query: str) -> None:
    answer = client.get(f"/packages?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"]


@pytest.mark.parametrize("cursor", ["", ".", "a", "a.b", "%C3%A4", "eyJ9.x", "null.", "e30." + "A" * 43])
def test_what_was_never_signed_is_a_clear_400(client: LiveClient, cursor: str) -> None:
    answer = client.get(f"/packages?cursor={cursor}")
    assert (answer.status_code, answer.json()["type"]) == (400, BAD_CURSOR.uri)


def test_a_page_costs_one_statement_on_duckdb_two(client: LiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from playbook.kit.stage import capture_sql

    on_the_loop: list[str] = []
    ask = reads.rows_of  # all that is asked there goes through it
    monkeypatch.setattr(
        reads, "rows_of", lambda cursor, sql, values: on_the_loop.append(sql) or ask(cursor, sql, values)
    )
    engine = client.server.app.state.engine  # type: ignore[union-attr]
    with capture_sql(engine) as statements:
        client.get(client.get("/packages?limit=1&sort=popularity").json()["next"]).raise_for_status()
    said = [sql.split()[1] for sql in (*on_the_loop, *(s.sql for s in statements)) if sql.lstrip().startswith("SELECT")]
    page = ["packages.normalized_name,"]
    versions = ["releases.package_id,"] if engine.dialect.name == "duckdb" else []
    assert said == [*page, *versions] * 2


# ---------------------------------------------------------------- cursors


def refused(cursor: str, by: Cursors | None = None) -> bool:
    """Whether the packages refuse it with the problem, without a look at the database: there is none."""
    pager = Pager(by or cursors_of(SECRET), "/packages", Response())
    query = PackageQuery.model_construct(sort="updated", cursor=cursor)
    try:
        pager.page(cast(Any, None), PACKAGE_LIST, query, ALL)
    except Problem as problem:
        return (problem.kind, problem.status_code) == (BAD_CURSOR, 400)
    except AttributeError:  # the None was asked for rows
        return False
    return False


def test_every_flipped_bit_is_noticed() -> None:
    genuine = cursor_at("updated", "next", [NOW, "a"])
    assert not refused(genuine)
    for place, bit in itertools.product(range(len(genuine)), range(7)):
        assert refused(genuine[:place] + chr(ord(genuine[place]) ^ 1 << bit) + genuine[place + 1 :])


@given(st.text(st.characters(), max_size=100))
@example("\0")
@example("a.\ud800")
@example("\ud800.a")
def test_no_text_is_an_exception_of_another_kind(text: str) -> None:
    assert refused(text)


def test_other_spellings_of_the_same_bytes_are_refused() -> None:
    body, mac = cursor_at("updated", "next", [NOW, "a"]).split(".")
    for spelling in (f"{body}=.{mac}", f"{body}==.{mac}", f"{body}\n.{mac}", f"{body}.{mac}=", f" {body}.{mac}", body):
        assert refused(spelling)


def test_keys_are_of_one_secret_and_one_purpose() -> None:
    genuine = cursor_at("updated", "next", [NOW, "a"])
    for other in (cursors_of(SECRET + "!"), Cursors([SECRET.encode()])):
        assert refused(genuine, by=other)
    assert SECRET not in repr(cursors_of(SECRET))


def test_a_cursor_in_the_form_before_the_recipes_is_refused() -> None:
    """Such cursors are with clients when a service is upgraded: the body was another one, the key the same."""
    key = hmac.digest(SECRET.encode(), b"pantry page cursors, version 1", "sha256")
    position = {"to": "next", "key": [{"$time": NOW.isoformat()}, "a"]}
    old = {"list": "/packages", "filter": {}, "sort": "updated", **position}
    body = urlsafe_b64encode(json.dumps(old, separators=(",", ":")).encode()).rstrip(b"=")
    mac = urlsafe_b64encode(hmac.digest(key, body, "sha256")).rstrip(b"=")
    assert refused(f"{body.decode()}.{mac.decode()}")


@pytest.mark.parametrize(
    "before",
    [
        (Package.updated_at,),
        (Package.updated_at, Package.id),
        (sa.type_coerce(Package.updated_at, sa.String), Package.normalized_name),
        (Package.normalized_name, Package.updated_at),
    ],
)
def test_a_cursor_from_before_a_sort_changed_is_refused(before: tuple[Any, ...]) -> None:
    query = PackageQuery(sort="updated")
    now = PACKAGE_LIST.asked("/packages", query)
    order = Order.__new__(Order)  # unchecked: some of these would be refused today
    object.__setattr__(order, "columns", before)
    object.__setattr__(order, "descending", False)
    assert refused(cursors_of(SECRET).sign(["next", ["a"] * len(before)], replace(now, order=order).name))


def test_a_page_needs_as_many_statements_for_three_rows_as_for_one(
    url: str, clock: FixedClock, ids: Identifiers
) -> None:
    app = app_of(url, clock, ids)
    app.state.read = InThread(app.state.engine)  # what is read on the event loop, the engine does not see
    with serving(app) as client:
        for slug in ("acme", "globex", "initech"):
            client.post("/organizations", json={"slug": slug, "name": slug})
            client.post("/packages", json={"name": f"{slug}-tool", "organization": slug})
        for path in ("/packages", "/organizations"):
            counts = []
            for limit in (1, 3):
                with at_most(app.state.engine, 3) as sent:
                    assert len(client.get(f"{path}?limit={limit}").json()["items"]) == limit
                counts.append(len(sent))
            assert counts[0] == counts[1] > 0, path


# ---------------------------------------------------------------- listings


class ByRank(PageQuery):
    sort: Literal["rank", "-rank"] = "rank"


class Filtered(ByRank):
    organization: Annotated[str | None, Field(max_length=40)] = None


@pytest.mark.parametrize(
    ("query", "sorts", "said"),
    [
        (ByRank, {"rank": (Package.popularity_rank, Package.normalized_name)}, "can be NULL"),
        (ByRank, {"rank": (Package.updated_at, Package.created_at)}, "has ties"),
        (ByRank, {"rank": (sa.func.lower(Package.name),)}, "can be NULL"),
        (ByRank, {"other": (Package.id,)}, "sorts differ"),
        (ByRank, {"rank": (Package.id,), "other": (Package.id,)}, "sorts differ"),
        (Filtered, {"rank": (Package.id,)}, "filters differ"),
    ],
)
def test_a_listing_that_would_lose_rows_is_refused(query: type[PageQuery], sorts: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Listing(PACKAGES, query, sorts)


class ReleaseQuery(PageQuery):
    sort: Literal["version", "-version"] = "-version"


def test_a_list_below_a_resource_uses_the_same_four_lines(url: str, clock: FixedClock, ids: Identifiers) -> None:
    below = APIRouter(dependencies=[Depends(anyone)])

    @below.get("/packages/{name}/releases")
    def releases(
        name: str, query: Annotated[ReleaseQuery, Query()], pager: Paging, transact: Transaction
    ) -> dict[str, Any]:
        owned = (
            sa.select(Release).join(Package, Package.id == Release.package_id).where(Package.normalized_name == name)
        )
        listing = Listing(owned, ReleaseQuery, {"version": (Release.version_key, Release.id)})
        found, links = transact(lambda session: pager.page(session, listing, query, ALL))
        return {"items": [row[0].version for row in found], **links}

    app = app_of(url, clock, ids, below)
    with serving(app) as client:
        client.post("/organizations", json={"slug": "acme", "name": "Acme"})
        for name in ("a", "b"):
            client.post("/packages", json={"name": name, "organization": "acme"})

        def publish(session: Any) -> None:
            for package, key in itertools.product(session.scalars(sa.select(Package)).all(), ("1", "2", "3")):
                values = {"version": key, "version_key": key, "is_prerelease": False}
                session.add(Release(id=ids.new(), package_id=package.id, released_at=NOW, created_at=NOW, **values))

        transaction(app.state.engine, publish)
        first = client.get("/packages/a/releases?limit=2").json()
        assert first["items"] == ["3", "2"]
        assert client.get(first["next"]).json()["items"] == ["1"]
        assert client.get(first["next"].replace("/a/", "/b/")).status_code == 400


# ---------------------------------------------------------------- in the service


def test_the_document_knows_the_query_of_each_list(url: str) -> None:
    app = pantry(Settings(environment="test", database_url=url))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # FastAPI warns of an operation that is there twice
        document = app.openapi()
    for path, listing in (("/packages", PACKAGE_LIST), ("/organizations", ORGANIZATION_LIST)):
        parameters = document["paths"][path]["get"]["parameters"]
        assert {p["name"] for p in parameters if p["in"] == "query"} == listing.query.model_fields.keys()
        assert {"get", "post"} <= document["paths"][path].keys()
        assert "400" in document["paths"][path]["get"]["responses"]
    operations = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(operations) == len(set(operations))
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    with serving(app) as client:
        for slug in ("acme", "globex"):
            client.post("/organizations", json={"slug": slug, "name": slug})
        following = client.get("/organizations?limit=1").json()["next"]
        assert client.get(following).json()["items"][0]["slug"] == "globex"
        assert client.request("TRACE", "/packages").headers["allow"] == "GET, HEAD, OPTIONS, POST"


# ---------------------------------------------------------------- on PostgreSQL


@pytest.mark.parametrize("sort", [*PACKAGE_SORTS])
def test_each_sort_has_an_index_that_a_page_starts_in(postgres_url: str, ids: Identifiers, sort: str) -> None:
    rows = Rows(postgres_url, ids)
    with rows.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO packages (id, organization_id, name, normalized_name, popularity_rank, version,"
                " created_at, updated_at) SELECT gen_random_uuid(), :owner, 'p' || n, 'p' || n, nullif(n % 500, 7), 1,"
                " :now, :now + n * interval '1 s' FROM generate_series(1, 5000) n"
            ),
            {"owner": rows.owner, "now": NOW},
        )
    with rows.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    from playbook.kit.stage import capture_sql

    columns = PACKAGE_SORTS[sort]
    pager = Pager(cursors_of(SECRET), "/packages", Response())
    with rows.engine.connect() as connection:
        key = list(connection.execute(sa.select(*columns).order_by(*columns).offset(4000).limit(1)).one())
        for name in (sort, f"-{sort}"):
            query = PackageQuery(sort=name, cursor=cursor_at(name, "next", key))  # type: ignore[arg-type]
            with capture_sql(rows.engine) as statements:
                transaction(rows.engine, lambda session, q=query: pager.page(session, PACKAGE_LIST, q, ALL))  # type: ignore[misc]
            (sent,) = [s for s in statements if s.sql.startswith("SELECT")]
            (plan,) = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {sent.sql}", sent.parameters
            ).scalar_one()
            nodes = [plan["Plan"]]
            for node in nodes:
                nodes += node.get("Plans", [])
            (scan,) = [node for node in nodes if node.get("Relation Name") == "packages"]
            assert "Index Cond" in scan, scan
            assert "Filter" not in scan, scan
            assert scan["Actual Rows"] <= query.limit + 1


@pytest.mark.parametrize("sort", [sort for sort in PACKAGE_SORTS if sort != "name"])
def test_the_index_of_the_model_is_the_one_of_the_sort(sort: str) -> None:
    """To the letter: another `coalesce` would make an index that no page can use."""
    dialect = postgresql.dialect()
    made = {str(sa.schema.CreateIndex(index).compile(dialect=dialect)) for index in Package.__table__.indexes}
    assert index_sql(PACKAGE_LIST, sort) in made


def test_duckdb_has_no_index_that_it_would_never_read() -> None:
    engine = make_engine("duckdb:///:memory:no_list_indexes")
    make_tables(engine)
    there = {index["name"] for index in sa.inspect(engine).get_indexes("packages")}
    assert there == {"ix_packages_normalized_name", "ix_packages_organization_id"}


def test_the_organizations_have_their_query() -> None:
    assert get_args(OrganizationQuery.model_fields["sort"].annotation) == ("slug", "-slug", "updated", "-updated")
