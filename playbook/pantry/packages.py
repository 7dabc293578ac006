"""Packages: what is published. The name in a URL may be spelled in any of its ways; answers have the normalized one."""

from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, HTTPException, Query, Response
from packaging.utils import canonicalize_name
from pydantic import BaseModel, Field
from sqlalchemy import orm

from playbook.api.representations import JSON, MERGE_PATCH, Strict, apply_patch, gives_json, takes
from playbook.foundations.write_skew import hold
from playbook.pantry.catalog import NO_RANK, Package, Release
from playbook.pantry.conditions import IF_MATCH, IF_NONE_MATCH, ON_DELETE, ON_READ, ON_WRITE, Reading, Writing
from playbook.pantry.fields import PackageName, Slug, Text
from playbook.pantry.http import NewIds, Now, Permit, Transaction, permission
from playbook.pantry.lists import NOT_THIS_LIST, Listing, PageOut, PageQuery, Paging
from playbook.schema.identity import Organization
from playbook.schema.relationships import delete_rows

router = APIRouter(dependencies=[Depends(gives_json)])


class NewPackage(Strict):
    name: PackageName
    organization: Slug
    summary: Text | None = None


class PackagePatch(Strict):
    summary: Text | None = Field(default=None, description="left out: unchanged; null: removed")


class PackageOut(BaseModel):
    name: str
    organization: str
    summary: str | None
    popularity_rank: int | None
    latest_version: str | None
    created_at: datetime
    updated_at: datetime


class PackagePage(PageOut):
    items: list[PackageOut]


class PackageQuery(PageQuery):
    sort: Literal["name", "-name", "popularity", "-popularity", "updated", "-updated"] = "name"
    organization: Annotated[str | None, Field(max_length=100)] = None


# The newest version comes in the same statement: none that was yanked, a pre-release only if there is nothing else.
NEWEST = (
    sa.select(Release.version)
    .where(Release.package_id == Package.id, Release.yanked_at.is_(None))
    .order_by(Release.is_prerelease, Release.version_key.desc())
    .limit(1)
    .correlate(Package)
    .scalar_subquery()
)
PACKAGES = sa.select(Package, Organization.slug, NEWEST).join(Organization, Organization.id == Package.organization_id)
PACKAGE_SORTS = {
    "name": (Package.normalized_name,),
    "popularity": (sa.func.coalesce(Package.popularity_rank, NO_RANK), Package.normalized_name),
    "updated": (Package.updated_at, Package.normalized_name),
}
PACKAGE_LIST = Listing(PACKAGES, PackageQuery, PACKAGE_SORTS, {"organization": Organization.slug})


def package_out(row: Any) -> PackageOut:
    package, organization, latest = row
    values = {field: getattr(package, field) for field in ("summary", "popularity_rank", "created_at", "updated_at")}
    return PackageOut(name=package.normalized_name, organization=organization, latest_version=latest, **values)


def package_or_404(session: orm.Session, name: str) -> Any:
    """The package, its organization's slug, its newest version. Raises HTTPException 404."""
    row = session.execute(PACKAGES.where(Package.normalized_name == canonicalize_name(name))).one_or_none()
    if row is None:
        raise HTTPException(404, f"there is no package {name!r}")
    return row


@router.get(
    "/packages",
    dependencies=[permission("packages:read")],
    response_model=PackagePage,
    responses=NOT_THIS_LIST | ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
def list_packages(
    query: Annotated[PackageQuery, Query()], pager: Paging, transact: Transaction, conditions: Reading
) -> Response:
    rows, links = transact(lambda session: pager.page(session, PACKAGE_LIST, query))
    return conditions.answer(PackagePage(items=[package_out(row) for row in rows], **links))


@router.get(
    "/packages/{name}",
    dependencies=[permission("packages:read")],
    response_model=PackageOut,
    responses=ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
def read_package(name: str, transact: Transaction, conditions: Reading) -> Response:
    return conditions.answer(transact(lambda session: package_out(package_or_404(session, name))))


@router.post("/packages", status_code=201, dependencies=[takes(JSON)])
def create_package(
    new: NewPackage, response: Response, permit: Permit, transact: Transaction, clock: Now, ids: NewIds
) -> PackageOut:
    # Whether the caller may depends on the organization, and a dependency sees the path only, not the body.
    permit("packages:create", {"organization": new.organization})
    key = canonicalize_name(new.name)

    def work(session: orm.Session) -> PackageOut:
        owner = session.scalar(sa.select(Organization).where(Organization.slug == new.organization))
        if owner is None or not hold(session, Organization.id, owner.id):
            raise HTTPException(409, f"there is no organization {new.organization!r} to own the package")
        package = Package(id=ids.new(), organization_id=owner.id, name=new.name, normalized_name=key)
        package.summary = new.summary
        package.created_at = package.updated_at = clock.now()
        session.add(package)
        try:
            session.flush()
        except sa.exc.IntegrityError:
            raise HTTPException(409, f"the name {new.name!r} is taken by package {key!r}") from None
        return package_out((package, owner.slug, None))

    created = transact(work)
    response.headers["Location"] = f"/packages/{key}"
    return created


@router.patch(
    "/packages/{name}",
    dependencies=[takes(MERGE_PATCH, JSON), permission("packages:write")],
    responses=ON_WRITE,
    openapi_extra=IF_MATCH,
)
def change_package(
    name: str,
    changes: Annotated[PackagePatch, Body(media_type=MERGE_PATCH)],
    transact: Transaction,
    clock: Now,
    conditions: Writing,
) -> PackageOut:
    def work(session: orm.Session) -> PackageOut:
        row = package_or_404(session, name)
        conditions.check(package_out(row))
        package = row[0]
        if apply_patch(package, changes):
            package.updated_at = clock.now()
            package.version += 1
        session.flush()
        return package_out(row)

    return conditions.tagged(transact(work))


@router.delete(
    "/packages/{name}",
    status_code=204,
    dependencies=[permission("packages:delete")],
    responses=ON_DELETE,
    openapi_extra=IF_MATCH,
)
def delete_package(name: str, transact: Transaction, conditions: Writing) -> None:
    def work(session: orm.Session) -> None:
        row = package_or_404(session, name)
        conditions.check(package_out(row))
        packages = Package.metadata.tables["packages"]
        delete_rows(session, packages, packages.c.id == row[0].id)

    transact(work)
