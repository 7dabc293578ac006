# %% [markdown]
"""
# Resources

Give organizations and packages URLs, methods and status codes that clients, caches and proxies already understand.

| | |
|---|---|
| **Use it when** | you write the first endpoint, or a client asks "how do I know whether it worked?" |
| **You need** | [http_service](../foundations/http_service.ipynb), [identity](../schema/identity.ipynb), [catalog](../schema/catalog.ipynb) |
| **Time** | 20 minutes |
| **Topics** | rest, resources, crud, http methods, status codes, get, post, put, patch, delete, head, options, location header, allow header, method not allowed, merge patch, json patch, content negotiation, unsupported media type, not acceptable, payload too large, safe, idempotent |
| **Standard** | RFC 9110; RFC 5789; RFC 7396 |
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| procedures over POST (`/createPackage`) | reads like the code | nothing between client and server understands it: no cache, no safe retry, no standard error |
| **resources and HTTP's own methods** | what a method promises holds for every URL; caches, proxies, generators and browsers know it | some actions must be found a noun |
| GraphQL | the client chooses fields; one round trip | no HTTP caching; cost of a query must be bounded (see the api track) |

We take **resources**. The nouns are plural, the key in the URL is the natural one (`/packages/httpx`), nothing is
nested deeper than one level.

And how is a part of one changed?

| option | good | costs |
|---|---|---|
| `PUT` of the whole | simplest meaning | a client that does not know a new field erases it |
| JSON Patch (RFC 6902) | can move and test, edits lists | clients must compute operations |
| **JSON Merge Patch (RFC 7396)** | the body is what changes: `{"description": null}` | null means "remove", so no field can have the value null *and* be kept |

We take the **merge patch**. Choose procedures for what has no state (`POST /render`), JSON Patch for long lists.
"""

# %% [markdown]
"""
## See it break

The tempting API: a verb a path, and every answer 200, since "the request arrived". Its client asks for what does not
exist. Before you run the cell: does `raise_for_status` notice? And what is left after only the name was changed?
"""

# %%
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel

from playbook.kit.lesson import checker, data_path, lesson_url, on_postgres, serving, show, show_http, table

naive = FastAPI()
stored = {"acme": {"name": "Acme", "description": "Anvils and more"}}


class Organization(BaseModel):
    name: str | None = None
    description: str | None = None


@naive.post("/getOrganization")
def get_organization(slug: str):
    return stored.get(slug, {"error": "not found"})


@naive.patch("/organizations/{slug}")
def update_organization(slug: str, changes: Organization):
    stored[slug] = changes.model_dump()
    return stored[slug]


@naive.get("/organizations/{slug}")
def read_organization(slug: str):
    return stored[slug]


with serving(naive) as client:
    answer = client.post("/getOrganization?slug=acne").raise_for_status()
    print(f"raise_for_status saw nothing; the name is {answer.json().get('name')}")
    client.patch("/organizations/acme", json={"name": "Acme Ltd"})
    client.put("/organizations/acme", json={"name": "Acme Ltd"})
    client.head("/organizations/acme")
    show_http(client)

# %% [markdown]
"""
Three failures. A typo came back as success, and `None` goes on into the client's program. The change of a name erased
a description nobody had mentioned. And the last two: the framework answers 405, which is right for PUT, but `Allow`
names one of this URL's methods, and HEAD, which RFC 9110 demands beside GET and link checkers use, is refused.

## Build it

First the representations. What comes in is strict: an unknown field is an error, since its sender expects something
to happen. In a patch only what was sent counts: `model_fields_set` tells "not given" from "null".
"""

# %%
import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
BLANK = r" \u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"  # also what has no width
SEEN = rf"^[^{CONTROL}]*[^{CONTROL}{BLANK}][^{CONTROL}]*$"


def seen(name: str) -> str:
    """`name` without the spaces around it. Raises ValueError for one that nobody can see, or that moves a cursor."""
    if not re.fullmatch(SEEN[1:-1], name):
        raise ValueError("write something that can be seen, on one line")
    return name.strip()


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", min_length=2, max_length=40)]
Length = StringConstraints(min_length=1, max_length=100)
Name = Annotated[str, Length, AfterValidator(seen), Field(json_schema_extra={"pattern": SEEN})]
Text = Annotated[str, StringConstraints(pattern=r"^[^\u0000]*$", max_length=2000)]
PackageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=100)]


# %%
class Strict(BaseModel):
    """A body that comes in: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewOrganization(Strict):
    slug: Slug
    name: Name
    description: Text | None = None


class OrganizationPatch(Strict):
    name: Name = Field(default_factory=str, description="left out: unchanged")  # no default in the schema
    description: Text | None = Field(default=None, description="left out: unchanged; null: removed")


class NewPackage(Strict):
    name: PackageName
    organization: Slug
    summary: Text | None = None


class PackagePatch(Strict):
    summary: Text | None = Field(default=None, description="left out: unchanged; null: removed")


# %%
class OrganizationOut(BaseModel):
    slug: str
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime


class PackageOut(BaseModel):
    name: str
    organization: str
    summary: str | None
    popularity_rank: int | None
    latest_version: str | None
    created_at: datetime
    updated_at: datetime


class OrganizationList(BaseModel):
    """An object, not a bare array, so that a field such as `next` can be added later. `complete`: these are all."""

    items: list[OrganizationOut]
    complete: bool


class PackageList(BaseModel):
    items: list[PackageOut]
    complete: bool


# %% [markdown]
"""
Then what HTTP promises for *every* URL. 415 says what media type would be taken, 406 that the answer has another one
than asked for; dependencies do it, before the body is looked at. A patch may come as `application/json`, too, and means
the same: generated clients (openapi-fetch) send nothing else.
"""

# %%
from fastapi import APIRouter, Body, Depends, HTTPException, Request

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
PatchBody = Body(media_type=MERGE_PATCH)  # for the document; `takes` enforces it
MAX_ACCEPT = 1000  # characters; a longer Accept is disregarded, as RFC 9110, 12.5.1 allows
ELEMENT = re.compile(r'(?:^|,)\s*([^\s;,"]+)((?:"(?:[^"\\]|\\.)*"|[^,"])*)')  # a range, its parameters
MEDIA_RANGE = re.compile(r"\*|(\*|[^*/]+)/(\*|[^*/]+)")
WEIGHT, VARIANT = re.compile(r";\s*q\s*=\s*(\d+\.?\d*|\.\d+)\s*(;|$)"), re.compile(r";\s*(?!q\s*=|charset\s*=)[^\s;]")


def quality(accept: str, offered: str) -> float:
    """How much a client wants media type `offered`, 0 to 1, by its Accept header (RFC 9110, 12.5.1).

    What cannot be read is not "never": a weight that is no number is 1, a header without a media range takes anything.
    """
    precision = {"*": 0, "*/*": 0, offered.split("/")[0] + "/*": 1, offered: 3}  # "*" is what older Java sends
    best, readable = (-1, 0.0), False  # the most precise range decides, whatever its weight
    for media_range, rest in ELEMENT.findall(accept.lower()) if len(accept) <= MAX_ACCEPT else ():
        parameters = re.sub('"[^"]*"', "", rest)
        weight = min(float(number[1]), 1.0) if (number := WEIGHT.search(parameters)) else 1.0
        variant = VARIANT.search(parameters) is not None  # `version=2` may be wanted, but only that is excluded by q=0
        if media_range in precision and (weight or not variant):
            best = max(best, (precision[media_range] - variant, weight))
        readable = readable or MEDIA_RANGE.fullmatch(media_range) is not None
    return best[1] if readable else 1.0


# %%
async def gives_json(request: Request) -> None:
    """406 for a client that does not take JSON (RFC 9110, 15.5.7)."""
    if quality(",".join(request.headers.getlist("accept")), JSON) == 0:
        raise HTTPException(406, f"this resource is given as {JSON}")


def takes(*media_types: str) -> Any:
    """A dependency: 415 for a body of another type, with the header that says which would do (RFC 5789, 2.2)."""
    header, these = "Accept-Patch" if MERGE_PATCH in media_types else "Accept", ", ".join(media_types)

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if sent not in media_types:
            raise HTTPException(415, f"send {these}, not {sent or 'a body without a type'}", {header: these})

    return Depends(check)


# %% [markdown]
"""
And the methods. HEAD is GET without the body. `Allow` names all methods of a URL, so it has to look at every route
that matches, not at the first. OPTIONS answers with the same list.
"""

# %%
from fastapi import FastAPI, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: a HEAD request runs as GET and loses its body, but not its headers (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


# %%
def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """All methods that `path` has, for the Allow header; empty for an unknown path."""
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if route.path and route.methods and compile_path(route.path)[0].match(path):
            found |= route.methods
    return sorted(found | ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set()))


def complete_methods(app: FastAPI) -> None:
    """Give every URL of `app` HEAD, OPTIONS and a complete Allow header on 405."""
    app.add_middleware(HeadAsGet)

    @app.exception_handler(405)
    async def method_not_allowed(request: Request, error: StarletteHTTPException) -> Response:
        headers = {"Allow": ", ".join(allowed_methods(app, request.url.path))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return await http_exception_handler(request, StarletteHTTPException(405, error.detail, headers))


# %% [markdown]
"""
Now the organizations. Each endpoint is one transaction. Who makes an organization owns it, so the creator is held. The
answer to POST is 201, the new resource and its URL.
"""

# %%
import sqlalchemy as sa
from fastapi import Query
from sqlalchemy import orm

from playbook.foundations.database import hold
from playbook.pantry.http import CurrentCaller, NewIds, Now, Permit, Transaction, permission
from playbook.schema.catalog import File, Package, PackageRole, Release
from playbook.schema.identity import Invitation, Member, Organization, User

resources = APIRouter(dependencies=[Depends(gives_json)])
Limit = Annotated[int, Query(ge=1, le=100, description="at most this many items")]


def organization_or_404(session: orm.Session, slug: str) -> Organization:
    found = session.scalar(sa.select(Organization).where(Organization.slug == slug))
    if found is None:
        raise HTTPException(404, f"there is no organization {slug!r}")
    return found


def shown(organization: Organization) -> OrganizationOut:
    return OrganizationOut.model_validate(organization, from_attributes=True)


# %%
@resources.get("/organizations", dependencies=[permission("organizations:read")])
def list_organizations(transact: Transaction, limit: Limit = 20) -> OrganizationList:
    rows = transact(lambda s: s.scalars(sa.select(Organization).order_by(Organization.slug).limit(limit + 1)).all())
    return OrganizationList(items=[shown(row) for row in rows[:limit]], complete=len(rows) <= limit)


@resources.post("/organizations", status_code=201, dependencies=[takes(JSON), permission("organizations:create")])
def create_organization(
    new: NewOrganization, response: Response, caller: CurrentCaller, transact: Transaction, clock: Now, ids: NewIds
) -> OrganizationOut:
    def work(session: orm.Session) -> Organization:
        if not hold(session, User.id, caller.id):
            raise HTTPException(401, "your account was deleted", {"WWW-Authenticate": "Bearer"})
        now = clock.now()
        organization = Organization(id=ids.new(), **new.model_dump(), created_at=now, updated_at=now)
        session.add(organization)
        try:
            session.flush()
        except sa.exc.IntegrityError:
            raise HTTPException(409, f"there is an organization {new.slug!r} already") from None
        session.add(
            Member(id=ids.new(), organization_id=organization.id, user_id=caller.id, role="owner", created_at=now)
        )
        return organization

    organization = transact(work)
    response.headers["Location"] = f"/organizations/{organization.slug}"
    return shown(organization)


# %% [markdown]
"""
Reading, changing, deleting. `Location` and all links are paths: a whole URL would be built from the Host header, which
the client chooses. An organization that owns packages is not deleted: 409, and the client knows what to do first.
"""


# %%
@resources.get("/organizations/{slug}", dependencies=[permission("organizations:read")])
def read_organization(slug: str, transact: Transaction) -> OrganizationOut:
    return shown(transact(lambda session: organization_or_404(session, slug)))


@resources.patch("/organizations/{slug}", dependencies=[takes(MERGE_PATCH, JSON), permission("organizations:write")])
def change_organization(
    slug: str, changes: Annotated[OrganizationPatch, PatchBody], transact: Transaction, clock: Now
) -> OrganizationOut:
    def work(session: orm.Session) -> Organization:
        organization = organization_or_404(session, slug)
        given = changes.model_dump(include=changes.model_fields_set)
        if any(getattr(organization, field) != value for field, value in given.items()):
            for field, value in given.items():
                setattr(organization, field, value)
            organization.version += 1
            organization.updated_at = clock.now()
        return organization

    return shown(transact(work))


@resources.delete("/organizations/{slug}", status_code=204, dependencies=[permission("organizations:delete")])
def delete_organization(slug: str, transact: Transaction) -> None:
    def work(session: orm.Session) -> None:
        organization = organization_or_404(session, slug)
        owned = session.scalar(sa.select(sa.func.count()).where(Package.organization_id == organization.id))
        if owned:
            raise HTTPException(409, f"organization {slug!r} owns {owned} packages: delete or transfer them first")
        for model in (Member, Invitation):
            session.execute(sa.delete(model).where(model.organization_id == organization.id))
        session.delete(organization)

    transact(work)


# %% [markdown]
"""
Packages are alike; two things are new. The name in the URL may be spelled in any of its ways, the answer has the
normalized one. And the newest version comes in the same statement: none that was yanked, a pre-release for want of others.
"""

# %%
from packaging.utils import canonicalize_name

NEWEST = (
    sa.select(Release.version)
    .where(Release.package_id == Package.id, Release.yanked_at.is_(None))
    .order_by(Release.is_prerelease, Release.version_key.desc())
    .limit(1)
    .correlate(Package)
    .scalar_subquery()
)
PACKAGES = sa.select(Package, Organization.slug, NEWEST).join(Organization, Organization.id == Package.organization_id)


def package_out(row: Any) -> PackageOut:
    package, organization, latest = row
    values = {field: getattr(package, field) for field in ("summary", "popularity_rank", "created_at", "updated_at")}
    return PackageOut(name=package.normalized_name, organization=organization, latest_version=latest, **values)


def package_or_404(session: orm.Session, name: str) -> Any:
    row = session.execute(PACKAGES.where(Package.normalized_name == canonicalize_name(name))).one_or_none()
    if row is None:
        raise HTTPException(404, f"there is no package {name!r}")
    return row


@resources.get("/packages", dependencies=[permission("packages:read")])
def list_packages(transact: Transaction, organization: str | None = None, limit: Limit = 20) -> PackageList:
    select = PACKAGES.order_by(Package.normalized_name).limit(limit + 1)
    if organization is not None:
        select = select.where(Organization.slug == organization)
    rows = transact(lambda session: session.execute(select).all())
    return PackageList(items=[package_out(row) for row in rows[:limit]], complete=len(rows) <= limit)


@resources.get("/packages/{name}", dependencies=[permission("packages:read")])
def read_package(name: str, transact: Transaction) -> PackageOut:
    return package_out(transact(lambda session: package_or_404(session, name)))


# %% [markdown]
"""
Who may create a package depends on the organization, which is in the body. A dependency sees only the path, so this
endpoint asks itself.
"""


# %%
@resources.post("/packages", status_code=201, dependencies=[takes(JSON)])
def create_package(
    new: NewPackage, response: Response, permit: Permit, transact: Transaction, clock: Now, ids: NewIds
) -> PackageOut:
    permit("packages:create", {"organization": new.organization})
    key = canonicalize_name(new.name)

    def work(session: orm.Session) -> Any:
        now, owner = clock.now(), session.scalar(sa.select(Organization).where(Organization.slug == new.organization))
        if owner is None or not hold(session, Organization.id, owner.id):
            raise HTTPException(409, f"there is no organization {new.organization!r} to own the package")
        package = Package(
            id=ids.new(), organization_id=owner.id, name=new.name, normalized_name=key, summary=new.summary
        )
        package.created_at = package.updated_at = now
        session.add(package)
        try:
            session.flush()
        except sa.exc.IntegrityError:
            raise HTTPException(409, f"the name {new.name!r} is taken by package {key!r}") from None
        return package, owner.slug, None

    created = package_out(transact(work))
    response.headers["Location"] = f"/packages/{key}"
    return created


# %%
@resources.patch("/packages/{name}", dependencies=[takes(MERGE_PATCH, JSON), permission("packages:write")])
def change_package(
    name: str, changes: Annotated[PackagePatch, PatchBody], transact: Transaction, clock: Now
) -> PackageOut:
    def work(session: orm.Session) -> Any:
        row = package_or_404(session, name)
        if "summary" in changes.model_fields_set and changes.summary != row[0].summary:
            row[0].summary, row[0].updated_at = changes.summary, clock.now()
            row[0].version += 1
        return row

    return package_out(transact(work))


# %%
@resources.delete("/packages/{name}", status_code=204, dependencies=[permission("packages:delete")])
def delete_package(name: str, transact: Transaction) -> None:
    def work(session: orm.Session) -> None:
        package, _, _ = package_or_404(session, name)
        releases = sa.select(Release.id).where(Release.package_id == package.id)
        session.execute(sa.delete(File).where(File.release_id.in_(releases)))
        for model in (Release, PackageRole):
            session.execute(sa.delete(model).where(model.package_id == package.id))
        session.delete(package)

    transact(work)


# %% [markdown]
"""
## See it work

Over the catalogue of 14,971 real packages:
"""

# %%
from datetime import UTC

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.database import Base, make_engine, transaction
from playbook.pantry.http import Caller, create_app
from playbook.schema.catalog import load_catalog
from playbook.schema.identity import add_user


def service(url, catalog=None, extra=()):
    """The service with a fixed clock and Alice as its caller, who owns the organization "mirror"."""
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.create_all(engine)
    ids, now = Identifiers(clock, SeededBytes(1)), clock.now()
    mirror = Organization(id=ids.new(), slug="mirror", name="Mirror", created_at=now, updated_at=now)
    mirror_id = mirror.id
    transaction(engine, lambda session: session.add(mirror))
    user = transaction(engine, lambda session: add_user(session, clock, ids, "alice@example.com", "Alice"))
    if catalog:
        load_catalog(engine, catalog, mirror_id, now)
    alice = Caller(user.id, user.name)
    app = create_app(engine, [resources, *extra], clock, ids, lambda request: alice, lambda *asked: True)
    complete_methods(app)
    return app


with serving(service(lesson_url(), data_path("packages.csv"))) as client:
    client.get("/packages?limit=2")
    client.get("/packages/Zope_Interface")
    client.post("/packages", json={"name": "zope.interface", "organization": "mirror"})
    show_http(client)

# %% [markdown]
"""
A name that looks free is taken. Now an organization's life, with the change that lost a description before:
"""

# %%
patch_type = {"content-type": MERGE_PATCH}
with serving(service(lesson_url())) as client:
    created = client.post("/organizations", json={"slug": "acme", "name": "Acme", "description": "Anvils"})
    client.patch(created.headers["Location"], content='{"name": "Acme Ltd"}', headers=patch_type)
    client.patch("/organizations/acme", content='{"description": null}', headers=patch_type)
    client.delete("/organizations/acme")
    client.delete("/organizations/acme")
    show_http(client)

# %% [markdown]
"""
And what each URL answers to each method, asked of the running server:
"""

# %%
BODIES = {
    ("POST", "/organizations"): (JSON, '{"slug": "acme", "name": "Acme"}'),
    ("POST", "/packages"): (JSON, '{"name": "new", "organization": "mirror"}'),
    ("PATCH", "/organizations/mirror"): (MERGE_PATCH, '{"name": "Mirror 2"}'),
    ("PATCH", "/packages/tool"): (MERGE_PATCH, '{"summary": "a tool"}'),
}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
TOOL = {"name": "tool", "organization": "mirror"}


def snapshot(client):  # everything a client can see
    return [client.get(f"/{kind}?limit=100").json() for kind in ("organizations", "packages")]


def method_table(url):
    rows, facts = [], []
    with serving(service(url)) as client:
        client.post("/packages", json=TOOL)
        for path in ("/organizations", "/organizations/mirror", "/packages", "/packages/tool"):
            row = {"URL": path}
            for method in METHODS:
                content_type, body = BODIES.get((method, path), (JSON, "{}"))
                before = snapshot(client)
                first = client.request(method, path, content=body, headers={"content-type": content_type})
                after_one = snapshot(client)
                client.request(method, path, content=body, headers={"content-type": content_type})
                facts.append((method, path, first, before, after_one, snapshot(client)))
                row[method] = str(first.status_code)
                client.post("/packages", json=TOOL)
            rows.append(row)
    return rows, facts


rows, facts = method_table(lesson_url())
show(table(rows))

# %% [markdown]
"""
`DELETE /organizations/mirror` is 409: it owns a package.

## On PostgreSQL

The same table, cell by cell. There the rows of a deleted package would go by themselves, through foreign keys; here the
same statements delete them on both.
"""

# %%
on_production = on_postgres(method_table)
if on_production:
    print("the same answers" if on_production[0] == rows else "the engines differ")

# %% [markdown]
"""
## Check it

Of every URL: safe methods change nothing, idempotent ones nothing the second time, 405 names what would work and it
does. Then the merge patch, over every combination of absent, null and new.
"""

# %%
import itertools
import json

assert on_production is None or on_production[0] == rows
for method, path, answer, before, once, twice in facts:
    if method in ("GET", "HEAD", "OPTIONS"):
        assert before == once, f"{method} {path} is not safe"
    if method != "POST":
        assert once == twice, f"{method} {path} is not idempotent"
    if answer.status_code == 405:
        would_work = {m for m, p, a, *_ in facts if p == path and a.status_code != 405}
        assert set(answer.headers["allow"].split(", ")) == would_work, f"{method} {path}: Allow is wrong"
    if method == "HEAD":
        get = next(a for m, p, a, *_ in facts if (m, p) == ("GET", path))
        assert (answer.content, answer.headers["content-type"]) == (b"", get.headers["content-type"])

with serving(service(lesson_url())) as client:
    for number, (name, description) in enumerate(itertools.product(("absent", "New"), ("absent", None, "new"))):
        old = {"slug": f"o{number}", "name": "Old", "description": "old"}
        url = client.post("/organizations", json=old).headers["location"]
        patch = {k: v for k, v in (("name", name), ("description", description)) if v != "absent"}
        after = client.patch(url, content=json.dumps(patch), headers=patch_type).json()
        assert (after["name"], after["description"]) == (patch.get("name", "Old"), patch.get("description", "old"))
    answers = {
        415: client.post("/organizations", content="slug=acme", headers={"content-type": "text/plain"}),
        406: client.get("/organizations", headers={"accept": "text/html, application/json;q=0"}),
        413: client.post("/organizations", content=b'"' + b"x" * 1_048_576 + b'"', headers={"content-type": JSON}),
        422: client.post("/organizations", json={"slug": "acme", "name": "Acme", "colour": "red"}),
        404: client.get("/packages/no-such-package"),
    }
    assert {status: answer.status_code for status, answer in answers.items()} == {status: status for status in answers}
    assert client.patch(url, content='{"name": null}', headers=patch_type).status_code == 422
print("safe methods are safe, idempotent ones idempotent, Allow is complete, a patch changes what it names and no more")

# %% [markdown]
"""
## Your turn

`PUT /organizations/{slug}` is missing. Write `add_put(router)`: PUT creates (201, with `Location`) or replaces (200)
the organization that the URL names. A replacement is whole: a description that is not sent is gone. The body is that
of POST, so it may contradict the URL. And two clients may PUT the same new organization at once: one gets 201, the
other 200, as if they had come one after the other.
"""


# %% tags=["exercise"]
def add_put(router: APIRouter) -> None:
    @router.put("/organizations/{slug}", dependencies=[takes(JSON), permission("organizations:write")])
    def put_organization(slug: str, new: NewOrganization, transact: Transaction) -> OrganizationOut:
        raise HTTPException(501, "nothing is written yet")


# %%
import threading
from concurrent.futures import ThreadPoolExecutor


@checker
def check_put(add_put):
    extra = APIRouter(dependencies=[Depends(gives_json)])
    add_put(extra)
    app = service(lesson_url(), extra=[extra])
    with serving(app) as client:

        def put(url, **body):
            return client.put(f"/organizations/{url}", json={"slug": url, "name": "Acme", **body})

        first = put("acme", description="Anvils")
        if first.status_code != 201 or first.headers.get("location") != "/organizations/acme":
            return f"not yet: the first PUT creates: 201 and Location, not {first.status_code}"
        second = put("acme", name="Acme Ltd")
        if second.status_code != 200:
            return f"not yet: the second PUT replaces: 200, not {second.status_code}"
        if client.get("/organizations/acme").json()["description"] is not None:
            return "not yet: a replacement is whole: the description was not sent and must be gone"
        if (second.json()["name"], second.json()["created_at"]) != ("Acme Ltd", first.json()["created_at"]):
            return "not yet: the replaced organization has the new name and keeps the time it was created"
        if put("acme", slug="other").status_code not in (400, 409, 422):
            return "not yet: the body names another organization than the URL; that is a client's mistake"
        with app.state.engine.connect() as connection:
            owners = connection.scalar(
                sa.select(sa.func.count())
                .select_from(sa.join(Member, Organization, Member.organization_id == Organization.id))
                .where(Organization.slug == "acme")
            )
        if owners != 1:
            return f"not yet: acme should have one owner, its creator, and has {owners}"
        start = threading.Barrier(2)

        def race(slug):
            start.wait(30)
            return put(slug).status_code

        for attempt in range(5):
            with ThreadPoolExecutor(2) as threads:
                statuses = sorted(threads.map(race, [f"race-{attempt}"] * 2))
            if statuses != [200, 201]:
                return f"not yet: two PUTs at once answered {statuses} instead of 200 and 201"
    return "right"


check_put(add_put)


# %% tags=["solution"]
def add_put(router: APIRouter) -> None:
    @router.put("/organizations/{slug}", dependencies=[takes(JSON), permission("organizations:write")])
    def put_organization(
        slug: str,
        new: NewOrganization,
        response: Response,
        caller: CurrentCaller,
        transact: Transaction,
        clock: Now,
        ids: NewIds,
    ) -> OrganizationOut:
        if new.slug != slug:
            raise HTTPException(422, f"the body is about {new.slug!r}, the URL about {slug!r}")

        def work(session: orm.Session) -> tuple[Organization, bool]:
            found = session.scalar(sa.select(Organization).where(Organization.slug == slug))
            if found is not None:
                found.name, found.description, found.updated_at = new.name, new.description, clock.now()
                found.version += 1
                return found, False
            now = clock.now()
            created = Organization(id=ids.new(), **new.model_dump(), created_at=now, updated_at=now)
            session.add(created)
            session.flush()
            session.add(
                Member(id=ids.new(), organization_id=created.id, user_id=caller.id, role="owner", created_at=now)
            )
            return created, True

        try:
            organization, created = transact(work)
        except (
            sa.exc.IntegrityError
        ):  # the other client was first: in a new transaction, its row is there to be replaced
            organization, created = transact(work)
        if created:
            response.status_code, response.headers["Location"] = 201, f"/organizations/{slug}"
        return shown(organization)


assert check_put(add_put)

# %% [markdown]
"""
## Hand it over

- **Front end**: trust the status code before the body; follow `Location`; send patches as
  `application/merge-patch+json`, null to remove.
- **Reviewer**: no verb in a path; a new route names its permission and its media type; what comes in is a `Strict`
  model.
- **Security reviewer**: names are compared by their PEP 503 form; no link is built from the Host header; bodies end
  at 1 MiB.
- **Test engineer**: the method table is data. Add a URL and its row is checked for safe, idempotent and `Allow`.
- **Operator**: list sizes are capped at 100; what is not complete says so.

## Sources

RFC 9110, 9.2 (safe, idempotent), 9.3 (methods), 12.5.1 (Accept), 15.3.2 (201), 15.5.6 (405), 15.5.7 (406), 15.5.10
(409), 15.5.14 (413), 15.5.16 (415). RFC 5789 (PATCH). RFC 7396 (JSON Merge Patch). OWASP API Security Top 10 2023,
API3 (mass assignment). R. Fielding, dissertation, chapter 5.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Test migrations](../migrations/test_migrations.ipynb) · [course map](../index.ipynb) · Next: [Errors](errors.ipynb)
"""
