# %% [markdown]
"""
# Pagination

Read a list page by page so that every row which stays is seen exactly once, whatever comes and goes meanwhile.

| | |
|---|---|
| **Use it when** | a list can grow beyond one answer, or somebody asks for `?page=2` |
| **You need** | [http_service](../foundations/http_service.ipynb), [catalog](../schema/catalog.ipynb), [resources](resources.ipynb), [errors](errors.ipynb) |
| **Time** | 20 minutes |
| **Topics** | pagination, paging, cursor, keyset, seek method, offset, limit, page size, page token, next link, infinite scroll, sorting, filtering, tie-breaker, null order, row comparison, HMAC, signed cursor, deep pages, load more |
| **Standard** | RFC 8288; RFC 2104; RFC 4648; OWASP API Security 2023 API4 |
"""

# %% [markdown]
"""
## The decision

How does a client say where it is in a list that changes meanwhile?

| option | good | costs |
|---|---|---|
| `OFFSET` in the URL | one line; one can jump to page 40 | rows are skipped and repeated; page 700 reads what 699 pages have shown |
| a page token with the offset inside | looks like a cursor, so it can become one later | until then all of the above, better hidden |
| **a cursor with the last row's sort key** | each row that stays comes exactly once; every page costs the same | no jumping, no "page 3 of 749"; every sort needs a total order and an index |
| a snapshot, kept for the reader | the list as it was at one instant | a transaction or a copy for each reader, and a rule for when it ends |

We take the **cursor**. It is *opaque*, so that we may change what is in it, and *signed*, so that nobody else can.
Choose `OFFSET` for a few hundred rows that people leaf through with page numbers. Choose a snapshot where the whole
must fit together, such as an export or an invoice run.
"""

# %% [markdown]
"""
## See it break

A colleague's list of the 14,971 real packages. A client follows `next`, as it should. Meanwhile somebody deletes one
package and publishes two. Predict: how many names are wrong on four pages of four?
"""

# %%
import itertools
from collections import Counter
from datetime import UTC, datetime

import sqlalchemy as sa
from fastapi import APIRouter, Depends

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.database import Base, capture_sql, make_engine, transaction
from playbook.kit.lesson import checker, data_path, lesson_url, on_postgres, serving, show, show_http, table
from playbook.pantry.http import Caller, Transaction, anyone, create_app
from playbook.pantry.problems import install_problems
from playbook.pantry.resources import PACKAGES, complete_methods, package_out, resources
from playbook.schema.catalog import Package, load_catalog
from playbook.schema.identity import Organization

naive = APIRouter(dependencies=[Depends(anyone)])


@naive.get("/by-offset")
def list_by_offset(transact: Transaction, offset: int = 0, limit: int = 4):
    select = PACKAGES.order_by(Package.normalized_name).limit(limit).offset(offset)
    items = [package_out(row) for row in transact(lambda session: session.execute(select).all())]
    return {"items": items, "next": f"/by-offset?offset={offset + limit}&limit={limit}"}


def service(url, routers=(resources, naive), catalog=data_path("packages.csv")):
    engine, now = make_engine(url), datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    Base.metadata.create_all(engine)
    ids = Identifiers(clock := FixedClock(now), SeededBytes(1))
    alice, mirror = Caller(ids.new(), "Alice"), ids.new()
    row = {"id": mirror, "slug": "mirror", "name": "Mirror", "created_at": now, "updated_at": now}
    transaction(engine, lambda session: session.add(Organization(**row)))
    if catalog:
        load_catalog(engine, catalog, mirror, now)
    app = create_app(engine, routers, clock, ids, lambda request: alice, lambda *asked: True)
    complete_methods(app)
    install_problems(app)
    return app


NEW = ("0-day", "0-config")


def names_in(engine):
    return transaction(engine, lambda session: session.scalars(sa.select(Package.normalized_name)).all())


def four_pages(app, url):
    """Follow `next` over four pages. After the first a package is deleted, after the second two are published."""
    pages = []
    with serving(app) as client:
        while len(pages) < 4:
            answer = client.get(url).json()
            pages.append([item["name"] for item in answer["items"]])
            url = answer["next"]
            if len(pages) == 1:
                client.delete(f"/packages/{pages[0][0]}")
            for name in NEW if len(pages) == 2 else ():
                client.post("/packages", json={"name": name, "organization": "mirror"})
        stayed = set(names_in(app.state.engine)) - set(NEW)
    show(table({"page": number, "names": ", ".join(names)} for number, names in enumerate(pages, 1)))
    seen = Counter(itertools.chain(*pages))
    print("skipped:", sorted(name for name in stayed - seen.keys() if name < max(seen)), end="; ")
    print("repeated:", sorted(name for name in seen if seen[name] > 1))


four_pages(service(lesson_url()), "/by-offset")

# %% [markdown]
"""
One skipped for the one deleted, two repeated for the two published. The offset counts from the start, and the start
moves. What does not move is the row the reader has seen last.

## Build it

So the next page is "what comes after *this key*". That needs an order without ties: with two packages updated at the
same moment and the page ending between them, one is lost. So each sort ends in a unique column. And it needs an order
without NULL, which compares with nothing and which the engines sort to different ends: `coalesce` gives it a place.

The allow-list of sorts stands in the query model, so that it is in the OpenAPI document and everything else is a 422.
A page of more than a hundred is refused and not cut: who asks for 5,000 and gets 100 may believe that this is all.
"""

# %%
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class PageQuery(BaseModel):
    """The query of a list. A list's own adds `sort` as a Literal (`name`, `-name` for descending) and its filters."""

    model_config = ConfigDict(extra="forbid")  # an unknown parameter is an error

    limit: Annotated[int, Field(ge=1, le=100, description="at most this many items")] = 20
    cursor: Annotated[str | None, Field(max_length=4000, description="from a `next` or `prev` link")] = None
    sort: str

    def filters(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude_none=True, exclude={"limit", "cursor", "sort"})


# %% [markdown]
"""
A `Listing` says what a list is. A sort with ties or NULLs loses rows only now and then, and no test of an endpoint will
find it, so it is refused when the module is imported.
"""

# %%
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import sqlalchemy as sa


@dataclass(frozen=True)
class Listing:
    """A list that can be paged. `sorts`: columns that are never NULL, the last one unique. `filters`: equal to.

    Raises ValueError for a sort that is not total, and where `query` and the two allow-lists differ.
    """

    select: sa.Select[Any]
    query: type[PageQuery]
    sorts: Mapping[str, tuple[Any, ...]]
    filters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        offered = set(get_args(self.query.model_fields["sort"].annotation))
        if offered != {sign + name for name in self.sorts for sign in ("", "-")}:
            raise ValueError(f"{self.query.__name__}.sort and sorts differ: each has to offer `name` and `-name`")
        if self.query.model_fields.keys() - PageQuery.model_fields.keys() != self.filters.keys():
            raise ValueError(f"the fields of {self.query.__name__} and filters differ")
        for name, columns in self.sorts.items():
            if any(getattr(column, "nullable", False) for column in columns):
                raise ValueError(f"sort {name!r} has a column that can be NULL: use coalesce(column, value)")
            if not is_unique(columns[-1]):
                raise ValueError(f"sort {name!r} has ties: let it end in a unique column")


def is_unique(column: Any) -> bool:
    """Whether no two rows have the same value: a primary key or a unique index of this column alone."""
    table = getattr(column, "table", None)
    keys = [table.primary_key, *(index for index in table.indexes if index.unique)] if table is not None else []
    return any([key.name for key in unique.columns] == [column.key] for unique in keys)


# %% [markdown]
"""
The cursor goes through the client's hands and comes back into a WHERE clause, so it is signed, over the text as it is
sent and not the bytes inside: base64 has many spellings for the same bytes (Python skips what is not in its alphabet,
the last letter has unused bits), and all but one are refused *before* anything is decoded.

The key is derived from the service's secret with a label: a signature made for any other purpose is none here. Signed
is not encrypted: put nothing into a cursor that the page did not show.
"""

# %%
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import cast
from uuid import UUID

from playbook.pantry.problems import Problem, problem_type

BAD_CURSOR = problem_type("bad-cursor", 400, "The cursor cannot be used here", "Start again without `cursor`.")


TAGS = {datetime: "$time", UUID: "$uuid"}  # what JSON has no type for
READ: dict[str, Any] = {"$time": datetime.fromisoformat, "$uuid": UUID}


@dataclass(frozen=True)
class Cursors:
    """Signs and reads cursors with `key`, 32 bytes; make it with `cursors_of(secret)`."""

    key: bytes = field(repr=False)

    def sign(self, content: Mapping[str, Any]) -> str:
        """`content` as JSON in base64url (RFC 4648, 5), a dot, its HMAC-SHA-256 (RFC 2104). KeyError for a type not in `TAGS`."""
        text = json.dumps(content, default=lambda value: {TAGS[type(value)]: str(value)}, separators=(",", ":"))
        body = urlsafe_b64encode(text.encode()).rstrip(b"=")
        return (body + b"." + self.mac(body)).decode()

    def read(self, cursor: str) -> dict[str, Any]:
        """What was signed. Raises Problem (400) for anything `sign` has not made with this key."""
        body, _, mac = cursor.encode(errors="replace").rpartition(b".")
        if not hmac.compare_digest(mac, self.mac(body)):  # takes as long for a wrong first letter as for a last
            raise Problem(BAD_CURSOR, "it was changed on its way, or made by another service")
        text = urlsafe_b64decode(body + b"=" * (-len(body) % 4))
        content = json.loads(text, object_hook=lambda o: next((READ[k](v) for k, v in o.items() if k in READ), o))
        return cast(dict[str, Any], content)

    def mac(self, body: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self.key, body, "sha256")).rstrip(b"=")


# %%
def cursors_of(secret: str) -> Cursors:
    """Cursors with a key for this purpose only, derived from the service's secret."""
    return Cursors(hmac.digest(secret.encode(), b"pantry page cursors, version 1", "sha256"))


# %% [markdown]
"""
A genuine cursor can still be in the wrong place: at another list, with another filter, in another order. Its key would
be compared with the wrong columns, and the pages would look plausible. So it names all three. The list is named by its
path, which also tells the releases of one package from those of another. With them stand a direction and the key.
Without a key it is the start, or going backwards the end.
"""

# %%
Key = tuple[Any, ...]


def position(content: Mapping[str, Any], belongs: Mapping[str, Any], columns: Key) -> tuple[str, Key | None]:
    """Direction and key of a cursor. Raises Problem (400) when it belongs to another list, filter or sort."""
    for what, here in belongs.items():
        if content[what] != here:
            raise Problem(BAD_CURSOR, f"it was made for another {what}")
    key = content["key"]
    if key is not None and len(key) != len(columns):  # this sort had other columns when the cursor was made
        raise Problem(BAD_CURSOR, "it was made for an older form of this list")
    return content["to"], None if key is None else tuple(key)


# %% [markdown]
"""
The statement compares **rows**: `(rank, name) > (7, 'six')` means what the ORDER BY means, for any number of columns,
and PostgreSQL can start in the middle of an index with it. Backwards is the same with both signs turned, and the rows
turned round at the end. One row more than asked for tells whether there is more, without a `count(*)`.
"""

# %%
from sqlalchemy import orm


def read_rows(
    session: orm.Session, listing: Listing, query: PageQuery, to: str, key: Key | None
) -> tuple[list[tuple[Any, Key]], bool]:
    """Rows after `key` in the direction `to`, each with its key, and whether there are more."""
    columns = listing.sorts[query.sort.removeprefix("-")]
    falling = query.sort.startswith("-") != (to == "prev")
    select = listing.select.add_columns(*columns)
    for name, value in query.filters().items():
        select = select.where(listing.filters[name] == value)
    if key is not None:
        here, values = sa.tuple_(*columns), zip(key, columns, strict=True)
        last = sa.tuple_(*(sa.literal(value, column.type) for value, column in values))
        select = select.where(here < last if falling else here > last)
    order = [column.desc() if falling else column.asc() for column in columns]
    found = session.execute(select.order_by(*order).limit(query.limit + 1)).all()
    rows = [(row[: -len(columns)], tuple(row[-len(columns) :])) for row in found]
    return rows[: query.limit], len(rows) > query.limit


# %% [markdown]
"""
Then the links. Ahead there is a page if there was a row too many. Behind there is one if we came from there, even when
this page is empty because all after the key was deleted: then it leads to the list's end. They go into the body and,
for programs that know RFC 8288 and not Pantry, into `Link`. Both are paths: a whole URL would need the Host header,
which the client chooses.
"""

# %%
from urllib.parse import quote, urlencode

from fastapi import Depends, FastAPI, Request, Response


@dataclass(frozen=True)
class Pager:
    """Reads pages for one request. `path` names the list; the `Link` header goes to `response`."""

    cursors: Cursors
    path: str
    response: Response

    def page(self, session: orm.Session, listing: Listing, query: PageQuery) -> tuple[list[Any], dict[str, Any]]:
        """The rows of `listing` that `query` asks for; `next`, `prev`, `complete`. Raises Problem (400)."""
        belongs = {"list": self.path, "filter": query.filters(), "sort": query.sort}
        columns, to, key = listing.sorts[query.sort.removeprefix("-")], "next", None
        if query.cursor is not None:
            to, key = position(self.cursors.read(query.cursor), belongs, columns)
        rows, more = read_rows(session, listing, query, to, key)
        links: dict[str, Any] = {"next": None, "prev": None}
        if more:
            links[to] = self.url(query, {**belongs, "to": to, "key": rows[-1][1]})
        if key is not None:
            back = "next" if to == "prev" else "prev"
            links[back] = self.url(query, {**belongs, "to": back, "key": rows[0][1] if rows else None})
        self.response.headers["Link"] = ", ".join(f'<{url}>; rel="{rel}"' for rel, url in links.items() if url)
        ordered = [row for row, _ in rows]
        return ordered if to == "next" else ordered[::-1], links | {"complete": not any(links.values())}

    def url(self, query: PageQuery, content: Mapping[str, Any]) -> str:
        """A path with the client's own parameters and a cursor."""
        given = query.model_dump(mode="json", exclude={"cursor"}, exclude_defaults=True, exclude_none=True)
        return f"{self.path}?{urlencode(given | {'cursor': self.cursors.sign(content)})}"


# %%
def sign_cursors(app: FastAPI, secret: str) -> None:
    """Give `app` the key of its cursors. Every process of a service needs the same secret."""
    app.state.cursors = cursors_of(secret)


async def pager_of(request: Request, response: Response) -> Pager:
    return Pager(request.app.state.cursors, quote(request.scope["path"]), response)


Paging = Annotated[Pager, Depends(pager_of)]

# %% [markdown]
"""
With that, a list is a query, a listing and four lines. The answer is the earlier one with two members more, so a
client that knows nothing of pages goes on working.
"""

# %%
from typing import Literal

from fastapi import APIRouter, Query

from playbook.pantry.http import Transaction, permission
from playbook.pantry.resources import PACKAGES, OrganizationList, PackageList, gives_json, package_out, shown
from playbook.schema.catalog import NO_RANK, Package
from playbook.schema.identity import Organization


class OrganizationQuery(PageQuery):
    sort: Literal["slug", "-slug", "updated", "-updated"] = "slug"


class PackageQuery(PageQuery):
    sort: Literal["name", "-name", "popularity", "-popularity", "updated", "-updated"] = "name"
    organization: Annotated[str | None, Field(max_length=100)] = None


PACKAGE_SORTS = {
    "name": (Package.normalized_name,),
    "popularity": (sa.func.coalesce(Package.popularity_rank, NO_RANK), Package.normalized_name),
    "updated": (Package.updated_at, Package.normalized_name),
}
ORGANIZATION_SORTS = {"slug": (Organization.slug,), "updated": (Organization.updated_at, Organization.slug)}
PACKAGE_LIST = Listing(PACKAGES, PackageQuery, PACKAGE_SORTS, {"organization": Organization.slug})
ORGANIZATION_LIST = Listing(sa.select(Organization), OrganizationQuery, ORGANIZATION_SORTS)


# %%
class Links(BaseModel):
    next: str | None
    prev: str | None


class OrganizationPage(Links, OrganizationList): ...


class PackagePage(Links, PackageList): ...


paginated = APIRouter(dependencies=[Depends(gives_json)], responses={400: {"description": "Not this list's cursor."}})
OfOrganizations = Annotated[OrganizationQuery, Query()]
OfPackages = Annotated[PackageQuery, Query()]


@paginated.get("/organizations", dependencies=[permission("organizations:read")])
def list_organizations(query: OfOrganizations, pager: Paging, transact: Transaction) -> OrganizationPage:
    rows, links = transact(lambda session: pager.page(session, ORGANIZATION_LIST, query))
    return OrganizationPage(items=[shown(row[0]) for row in rows], **links)


@paginated.get("/packages", dependencies=[permission("packages:read")])
def list_packages(query: OfPackages, pager: Paging, transact: Transaction) -> PackagePage:
    rows, links = transact(lambda session: pager.page(session, PACKAGE_LIST, query))
    return PackagePage(items=[package_out(row) for row in rows], **links)


# %% [markdown]
"""
These replace two routes of `resources`. To include the new router before the old one is enough for answers: the first
route that matches wins. But in the OpenAPI document the *last* one wins, and that does not know `cursor`: a generated
client could not ask for page two, and the strict check of query parameters, which reads the document, would refuse our
own links. So the old routes are left out.
"""


# %%
def replacing(old: APIRouter, new: APIRouter) -> APIRouter:
    """The routes of `new`, and those of `old` that it does not replace. ValueError for a new one that replaces none."""

    def operations(router: Any) -> list[set[tuple[str, str]]]:
        return [{(route.path, method) for method in route.methods} for route in router.routes]

    taken = set[tuple[str, str]]().union(*operations(new))
    if new_ones := taken.difference(*operations(old)):
        raise ValueError(f"{sorted(new_ones)} replace nothing: include the router beside the old one")
    kept = [route for route, its in zip(old.routes, operations(old), strict=True) if not its & taken]
    return APIRouter(routes=[*new.routes, *kept])


# %% [markdown]
"""
## See it work

The same client, the same changes:
"""

# %%
SECRET = "a secret of a lesson, and of no service"


def paged_service(url, routers=(), **options):
    app = service(url, [replacing(resources, paginated), *routers], **options)
    sign_cursors(app, SECRET)
    return app


four_pages(paged_service(lesson_url()), "/packages?limit=4")

# %% [markdown]
"""
Nothing skipped, nothing twice. What a link looks like, and what happens to one that is used elsewhere or changed:
"""

# %%
with serving(paged_service(lesson_url())) as client:
    following = client.get("/packages?sort=popularity&limit=1").json()["next"]
    client.get(following.replace("sort=popularity", "sort=name"))
    client.get(following + "A")
    show_http(client)

# %% [markdown]
"""
Now all of it. While each request of a client is under way, another thread publishes a package or deletes one. How often
does the client see each package that was there all the time?
"""

# %%
import random
from concurrent.futures import ThreadPoolExecutor


def walk_while_it_changes(url):
    app = paged_service(url)
    names = sorted(names_in(app.state.engine))
    deleted, forked = random.Random(1).sample(names, 60), random.Random(2).sample(names, 60)
    seen, page, pages = Counter(), "/packages?limit=100", 0
    with serving(app) as client, ThreadPoolExecutor(1) as another:
        changes = [lambda name=name: client.delete(f"/packages/{name}") for name in deleted]
        new = [{"name": f"{name}-fork", "organization": "mirror"} for name in forked]
        changes += [lambda body=body: client.post("/packages", json=body) for body in new]
        random.Random(3).shuffle(changes)
        while page:
            change = another.submit(changes.pop() if changes else lambda: client.get("/health"))
            answer = client.get(page).json()
            change.result().raise_for_status()
            seen.update(item["name"] for item in answer["items"])
            page, pages = answer["next"], pages + 1
    times = Counter(seen[name] for name in set(names) - set(deleted))
    print(f"{pages} pages, all changes made: {not changes}; how often those came that stayed: {dict(times)}")
    return set(times) == {1} and max(seen.values()) == 1


once_each = walk_while_it_changes(lesson_url())

# %% [markdown]
"""
The promise has an edge. A row that *moves* is a row that goes and comes: a package that is changed during the walk may
come twice by `updated`, and by `-updated` not at all. Whoever mirrors a list walks by name.

## On PostgreSQL

What does a page cost? We count rows, not milliseconds: `EXPLAIN ANALYZE` says how many the scan of `packages` read,
for the very statements of the requests. By name there is an index already, the unique one. By popularity and by date
of change the list needs its own, of the same expressions in the same order. They stand with the model in
[catalog](../schema/catalog.ipynb); Pantry's migration `0004_list_indexes` made them. Which index a sort needs:
"""

# %%
from sqlalchemy.dialects import postgresql


def index_sql(listing: Listing, sort: str) -> str:
    """CREATE INDEX for one sort, for PostgreSQL; it is read in both directions. For a migration."""
    options: dict[str, Any] = {"compile_kwargs": {"literal_binds": True, "include_table": False}}
    texts = [str(column.compile(dialect=postgresql.dialect(), **options)) for column in listing.sorts[sort]]  # type: ignore[no-untyped-call]
    return f"CREATE INDEX ix_{(table := listing.sorts[sort][-1].table.name)}_{sort} ON {table} ({', '.join(texts)})"


# %%
def explained(connection, page, sql, parameters):
    (found,) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters).scalar_one()
    nodes = [found["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    (scan,) = (node for node in nodes if node.get("Relation Name") == "packages")
    read = int(scan["Actual Rows"] * scan["Actual Loops"]) + scan.get("Rows Removed by Filter", 0)
    index, condition = scan.get("Index Name", "none"), scan.get("Index Cond", "").replace("::text", "")
    return {"page": page, "rows read": read, "index": index, "Index Cond": condition}


def rows_read(url):
    app, rows = paged_service(url, [naive]), []
    with app.state.engine.connect() as connection, serving(app) as client:
        print(index_sql(PACKAGE_LIST, "popularity"), index_sql(PACKAGE_LIST, "updated"), sep="\n")
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
        urls = {f"by OFFSET, page {n}": f"/by-offset?limit=20&offset={n * 20 - 20}" for n in (1, 700)}
        for sort, columns in PACKAGE_SORTS.items():
            key = list(connection.execute(sa.select(*columns).order_by(*columns).offset(13_979).limit(1)).one())
            content = {"list": "/packages", "filter": {}, "sort": sort, "to": "next", "key": key}
            urls[f"by {sort}, page 1"] = f"/packages?sort={sort}"
            urls[f"by {sort}, page 700"] = f"/packages?sort={sort}&cursor={cursors_of(SECRET).sign(content)}"
        for page, path in urls.items():
            with capture_sql(app.state.engine) as statements:
                client.get(path).raise_for_status()
            (sent,) = [statement for statement in statements if statement.sql.startswith("SELECT packages")]
            rows.append(explained(connection, page, sent.sql, sent.parameters))
        when, name = columns
        with_or = PACKAGES.where(sa.or_(when > key[0], sa.and_(when == key[0], name > key[1])))
        written = with_or.order_by(when, name).limit(21).compile(connection)
        rows.append(explained(connection, "the last, with OR", str(written), written.params))
        connection.exec_driver_sql("DROP INDEX ix_packages_updated")  # and back, as nothing here is committed
        rows.append(explained(connection, "the last, no index", sent.sql, sent.parameters))
    show(table(rows))
    return {row["page"]: row for row in rows}


costs = on_postgres(rows_read)

# %% [markdown]
"""
Page 700 reads 21 rows, as page 1 does. By `OFFSET` it reads 14,000 and looks up the newest version of each, to show
twenty. With the same condition written out with OR the planner cannot start in the index, reads from the front and
throws away; without the index it reads all and sorts. DuckDB compares a column from start to end, for page 1 as for
page 700: it would never read these indexes and update them at each write, so it has none.

## Check it

On both engines: random rows with ties and missing ranks, random inserts and deletes between the pages, every sort, both
directions. Then every way to misuse a cursor.
"""

# %%
SORTS = get_args(PackageQuery.model_fields["sort"].annotation)
DAYS = [datetime(2026, 11, day, tzinfo=UTC) for day in (2, 3, 4)]


def stays_once(url, rounds):
    engine, chance, there = service(url, catalog=None).state.engine, random.Random(4), set()
    ids, pager = Identifiers(FixedClock(DAYS[0]), SeededBytes(2)), Pager(cursors_of(SECRET), "/packages", Response())
    owner = transaction(engine, lambda session: session.scalar(sa.select(Organization.id)))

    def change(least):
        if len(there) > least and chance.random() < 0.5:
            there.remove(gone := chance.choice(sorted(there)))
            return sa.delete(Package).where(Package.name == gone)
        there.add(name := f"{chance.choice('abc')}-{ids.new()}")
        row = {"id": ids.new(), "name": name, "normalized_name": name, "organization_id": owner, "version": 1}
        row |= {"popularity_rank": chance.choice([1, 2, 900, None]), "updated_at": chance.choice(DAYS)}
        return sa.insert(Package).values(**row, created_at=DAYS[0])

    def changes(least=0):
        with engine.begin() as connection:
            while len(there) < least or chance.random() < 0.6:
                connection.execute(change(least))

    for sort, to in itertools.product(SORTS * rounds, ("next", "prev")):
        changes(25)
        stayed, names = set(there), []
        cursor = pager.cursors.sign({"list": "/packages", "filter": {}, "sort": sort, "to": to, "key": None})
        while cursor:
            query = PackageQuery(sort=sort, limit=chance.randint(1, 9), cursor=cursor)
            rows, links = transaction(engine, lambda session: pager.page(session, PACKAGE_LIST, query))
            names += [row[0].name for row in rows]
            cursor = (links[to] or "").partition("cursor=")[2]
            changes()
            stayed &= there
        assert len(names) == len(set(names)) and stayed <= set(names), f"{sort}, {to}"
    return True


assert once_each and stays_once(lesson_url(), 2) and on_postgres(stays_once, 1) in (True, None)
if costs:
    for sort, number in itertools.product(PACKAGE_SORTS, (1, 700)):
        cost = costs[f"by {sort}, page {number}"]
        assert cost["rows read"] <= 21 and cost["index"] != "none" and bool(cost["Index Cond"]) is (number == 700)
    assert min(costs[page]["rows read"] for page in ("by OFFSET, page 700", "the last, no index")) >= 14_000
made = {str(sa.schema.CreateIndex(index).compile(dialect=postgresql.dialect())) for index in Package.__table__.indexes}
assert made.issuperset(index_sql(PACKAGE_LIST, sort) for sort in ("popularity", "updated"))

cursors, content = cursors_of(SECRET), {"list": "/packages", "filter": {}, "sort": "name", "to": "next", "key": ["m"]}
genuine = cursors.sign(content)
flips = itertools.product(enumerate(genuine), range(7))
forged = [genuine[:place] + chr(ord(letter) ^ 1 << bit) + genuine[place + 1 :] for (place, letter), bit in flips]
for cursor in [*forged, genuine[:-1], genuine + "=", "." + genuine, "", "ä", cursors_of("another").sign(content)]:
    try:
        cursors.read(cursor)
    except Problem as problem:
        assert (problem.kind, problem.status_code) == (BAD_CURSOR, 400)
    else:
        raise AssertionError(f"{cursor} was taken")

with serving(paged_service(lesson_url(), catalog=None)) as client:
    for name in ("anvil", "bolt"):
        client.post("/packages", json={"name": name, "organization": "mirror"})
    lists = [f"/packages?limit=1{more}" for more in ("", "&sort=-name", "&organization=mirror")]
    for made, used in itertools.product(lists, lists):
        cursor = client.get(made).json()["next"].partition("cursor=")[2]
        assert client.get(f"{used}&cursor={cursor}").status_code == (200 if used == made else 400), (made, used)
    for wrong in ("limit=101", "limit=0", "sort=size", "page=2", "cursor=a&cursor=b"):
        assert client.get(f"/packages?{wrong}").status_code == 422, wrong
print("what stays is seen once, in each order and direction; cursors cannot be changed or moved; pages end at 100")

# %% [markdown]
"""
## Your turn

A row comparison has one direction for all columns. "Most downloads first, by name within the same number" has two:
`ORDER BY downloads DESC, name ASC`. Write `beyond(keys, last)`: the condition for "comes after the row with the values
`last`", where `keys` are pairs of a column and whether it falls. Any number of columns, any mix; no column is NULL.

Then a second thought, for the index: the condition must also contain a bound on the first column alone that stands
beside everything else and not inside an OR. It changes no result, and PostgreSQL can start in the index with it.
"""


# %% tags=["exercise"]
def beyond(keys: list[tuple[sa.Column, bool]], last: list) -> sa.ColumnElement[bool]:
    raise NotImplementedError


# %%
def turned(row, falls):
    return [-value if fall else value for value, fall in zip(row, falls, strict=False)]


@checker
def check_beyond(beyond):
    columns = [sa.Column(name, sa.Integer) for name in "abc"]
    rows = list(itertools.product(range(3), repeat=3))
    numbers = sa.Table("numbers", sa.MetaData(), *columns)
    with make_engine(lesson_url()).begin() as connection:
        numbers.create(connection)
        connection.execute(numbers.insert(), [dict(zip("abc", row, strict=True)) for row in rows])
        for width in (1, 2, 3):
            for falls in itertools.product([False, True], repeat=width):
                keys = list(zip(columns, falls, strict=False))
                order = ", ".join(f"{column.name} {'DESC' if fall else 'ASC'}" for column, fall in keys)
                for last in itertools.product(range(-1, 4), repeat=width):
                    found = {*map(tuple, connection.execute(sa.select(numbers).where(beyond(keys, list(last)))))}
                    wanted = {row for row in rows if turned(row, falls) > turned(last, falls)}
                    if found - wanted:
                        return f"not yet: by {order}, {sorted(found - wanted)[0]} does not come after {last}"
                    if wanted - found:
                        return f"not yet: by {order}, {sorted(wanted - found)[0]} comes after {last} and is missing"
                condition = beyond(keys, [1] * width)
                whole = sa.and_(sa.true(), condition).self_group()
                parts = getattr(getattr(whole, "element", whole), "clauses", [whole])
                bound = [p for p in parts if getattr(getattr(p, "left", None), "name", "") == "a"]
                if not bound:
                    return f"not yet: by {order} the right rows, but no bound on `a` stands outside of the OR"
    return "right"


check_beyond(beyond)


# %% tags=["solution"]
def beyond(keys: list[tuple[sa.Column, bool]], last: list) -> sa.ColumnElement[bool]:
    pairs = list(zip(keys, last, strict=True))
    options = []
    for place, ((column, falls), value) in enumerate(pairs):
        equal = [earlier == its for (earlier, _), its in pairs[:place]]
        options.append(sa.and_(*equal, column < value if falls else column > value))
    (first, falls), value = pairs[0]
    # Implied by every option, so it changes nothing; alone it is something an index can start at.
    return sa.and_(first <= value if falls else first >= value, sa.or_(*options))


assert check_beyond(beyond)

# %% [markdown]
"""
## Hand it over

- **Front end**: follow `next` and `prev` as they are, until they are null; never build or store a cursor. A page can be
  shorter than asked for, even empty. On a problem of type `/problems/bad-cursor` start again without a cursor.
- **Reviewer**: every list is a `Listing`; no `OFFSET` in a route. A new sort comes with its index, from `index_sql`, in
  the same change.
- **Security reviewer**: a cursor is a position and no permission: filter and permission apply to every page anew. It is
  signed, not encrypted.
- **Migration owner**: a column that gets another type, or a sort other columns, ends the cursors that are under way
  (400). `coalesce(popularity_rank, ...)` in the index must be the list's own, to the letter. With a locale's collation
  an upgrade of the operating system can change the order of texts: `C.UTF-8` cannot.
- **Operator**: all processes need the same `PANTRY_SECRET`; after changing it, readers start again.
- **Test engineer**: keep the property "seen exactly once while rows come and go", with ties and NULLs in the data.

## Sources

RFC 8288, 3 (Link header). RFC 4648, 3.5 and 5 (canonical base64url). RFC 2104 (HMAC); NIST SP 800-108r1, 4.1 (a key
for each purpose). OWASP API Security Top 10 2023, API4 (unrestricted resource consumption). PostgreSQL documentation,
9.25.5 (row comparison), 11.4 (indexes and ORDER BY), 7.6 (LIMIT and OFFSET). M. Winand, *SQL Performance Explained*,
"Paging Through Results". Google AIP-158.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Errors](errors.ipynb) · [course map](../index.ipynb) · Next: [Conditional requests](conditional_requests.ipynb)
"""
