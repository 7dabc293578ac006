"""Organizations and packages: bodies, methods and routes."""

import re
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.routing import iter_route_contexts
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import orm
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.foundations.database import hold
from playbook.pantry.http import CurrentCaller, NewIds, Now, Permit, Transaction, permission
from playbook.schema.catalog import File, Package, PackageRole, Release
from playbook.schema.identity import Invitation, Member, Organization, User

# Three failures. A typo came back as success, and `None` goes on into the client's program. The change of a name
# erased a description nobody had mentioned. And the last two: the framework answers 405, which is right for PUT, but
# `Allow` names one of this URL's methods, and HEAD, which RFC 9110 demands beside GET and link checkers use, is
# refused.
#
# First the representations. What comes in is strict: an unknown field is an error, since its sender expects something
# to happen. In a patch only what was sent counts: `model_fields_set` tells "not given" from "null".


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


# Then what HTTP promises for *every* URL. 415 says what media type would be taken, 406 that the answer has another
# one than asked for; dependencies do it, before the body is looked at. A patch may come as `application/json`, too,
# and means the same: generated clients (openapi-fetch) send nothing else.


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


# And the methods. HEAD is GET without the body. `Allow` names all methods of a URL, so it has to look at every route
# that matches, not at the first. OPTIONS answers with the same list.


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


# Now the organizations. Each endpoint is one transaction. Who makes an organization owns it, so the creator is held.
# The answer to POST is 201, the new resource and its URL.


resources = APIRouter(dependencies=[Depends(gives_json)])
Limit = Annotated[int, Query(ge=1, le=100, description="at most this many items")]


def organization_or_404(session: orm.Session, slug: str) -> Organization:
    found = session.scalar(sa.select(Organization).where(Organization.slug == slug))
    if found is None:
        raise HTTPException(404, f"there is no organization {slug!r}")
    return found


def shown(organization: Organization) -> OrganizationOut:
    return OrganizationOut.model_validate(organization, from_attributes=True)


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


# Reading, changing, deleting. `Location` and all links are paths: a whole URL would be built from the Host header,
# which the client chooses. An organization that owns packages is not deleted: 409, and the client knows what to do
# first.


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


# Packages are alike; two things are new. The name in the URL may be spelled in any of its ways, the answer has the
# normalized one. And the newest version comes in the same statement: none that was yanked, a pre-release for want of
# others.


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


# Who may create a package depends on the organization, which is in the body. A dependency sees only the path, so this
# endpoint asks itself.


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
