"""Packages: what is published. The name in a URL may be spelled in any of its ways; answers have the normalized one."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, HTTPException, Query, Response
from packaging.utils import canonicalize_name
from pydantic import BaseModel, Field
from sqlalchemy import orm

from playbook.api.representations import JSON, MERGE_PATCH, Strict, apply_patch, gives_json, takes
from playbook.auth.authorization import Clause
from playbook.foundations.transactions import is_conflict
from playbook.foundations.write_skew import hold
from playbook.pantry.catalog import NO_RANK, Package, Release
from playbook.pantry.conditions import (
    IF_MATCH,
    IF_NONE_MATCH,
    ON_DELETE,
    ON_READ,
    ON_WRITE,
    Reading,
    Writing,
    representation,
)
from playbook.pantry.fields import PackageName, Slug, Text
from playbook.pantry.first_page import first_page, note_end, one_package
from playbook.pantry.http import NewIds, Now, Permit, Read, Transaction, Write, permission
from playbook.pantry.lists import MOST, NOT_THIS_LIST, Listing, PageOut, PageQuery, Pager, Paging, kept
from playbook.pantry.policy import VisiblePackages, allowed, seen
from playbook.pantry.reads import Reader
from playbook.schema.identity import Organization
from playbook.schema.relationships import delete_rows

router = APIRouter(dependencies=[Depends(gives_json)])


class NewPackage(Strict):
    name: PackageName
    organization: Slug
    summary: Text | None = None
    private: bool = Field(
        default_factory=bool, description="true: only for its organization and those with a role on it; left out: false"
    )


class PackagePatch(Strict):
    summary: Text | None = Field(default=None, description="left out: unchanged; null: removed")
    private: bool = Field(
        default_factory=bool, description="left out: unchanged; an admin of the organization may set it"
    )


class PackageOut(BaseModel):
    name: str
    organization: str
    summary: str | None
    private: bool
    popularity_rank: Annotated[int, Field(ge=1, le=NO_RANK)] | None
    latest_version: str | None
    created_at: datetime
    updated_at: datetime


class PackagePage(PageOut):
    items: Annotated[list[PackageOut], Field(max_length=MOST)]


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


def packages_with(newest: Any) -> sa.Select[Any]:
    """What is shown of packages, with `newest` in the place of the newest version.

    Columns and not objects: what is read to be shown needs no unit of work.
    """
    return sa.select(
        Package.normalized_name, Organization.slug, Package.summary, Package.private, Package.popularity_rank,
        newest, Package.created_at, Package.updated_at,
    ).join(Organization, Organization.id == Package.organization_id)  # fmt: skip


PACKAGES = packages_with(NEWEST)
PACKAGE_SORTS = {
    "name": (Package.normalized_name,),
    "popularity": (sa.func.coalesce(Package.popularity_rank, NO_RANK), Package.normalized_name),
    "updated": (Package.updated_at, Package.normalized_name),
}
FILTERS = {"organization": Organization.slug}
PACKAGE_LIST = Listing(PACKAGES, PackageQuery, PACKAGE_SORTS, FILTERS)

# DuckDB looks for the newest version of all packages, and then throws away what is not on the page: four fifths of the
# list's time. So there the page comes first, and the versions of its packages in a second statement of the transaction.
PAGE_LIST = Listing(packages_with(Package.id), PackageQuery, PACKAGE_SORTS, FILTERS)


SHOWN = tuple(PackageOut.model_fields)  # in the order of the columns of PACKAGES


def package_out(row: Any) -> PackageOut:
    """A row of PACKAGES, or one that begins like one, as it is shown."""
    return PackageOut(**dict(zip(SHOWN, row, strict=False)))


@lru_cache(2000)
def shown(row: tuple[Any, ...]) -> bytes:
    """What is sent for a row of PACKAGES. Kept is how it is written: the row was read just now, by whoever asks."""
    return representation(package_out(row))


def page_shown(rows: Sequence[Any], links: dict[str, Any]) -> bytes:
    """What is sent for a PackagePage."""
    return b'%s,"items":[%s]}' % (representation(PageOut(**links))[:-1], b",".join([shown(tuple(row)) for row in rows]))


def newest_of(session: orm.Session, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The newest version of each package, by the rule of NEWEST."""
    versions = sa.select(Release.package_id, Release.version)
    versions = versions.where(Release.package_id.in_(ids), Release.yanked_at.is_(None))
    newest_last = versions.order_by(Release.is_prerelease.desc(), Release.version_key)
    return {package: version for package, version in session.execute(newest_last)}


def page_of(db: Any, pager: Pager, query: PackageQuery, visible: Clause) -> tuple[list[Any], dict[str, Any]]:
    """The rows of a page, like those of PACKAGES, and its links."""
    if not isinstance(db, orm.Session) or db.get_bind().dialect.name != "duckdb":
        return pager.page(db, PACKAGE_LIST, query, visible)
    rows, links = pager.page(db, PAGE_LIST, query, visible)
    place = SHOWN.index("latest_version")
    newest = newest_of(db, [row[place] for row in rows])
    return [(*row[:place], newest.get(row[place]), *row[place + 1 :]) for row in rows], links


FIRST = {"sort": "name"}  # the parameters of what `first_page` can answer; the cursor is none of them


def is_first(query: PackageQuery) -> bool:
    return query.cursor is None and query.parameters() == FIRST


async def quick_page(read: Reader, query: PackageQuery, visible: Clause) -> list[Any] | None:
    """The rows of a first page, with one more, by its statement if it is kept, or else as `first_page` finds them; None
    for another page, and where neither works.
    """
    statement = kept(PACKAGE_LIST, query, visible)
    found = None if statement is None else await read.rows(statement)
    if found is not None or not is_first(query):
        return found
    return await read.look_up(lambda plans: first_page(plans, visible, query.limit), (visible, query.limit))


async def quick_one(read: Reader, name: str, visible: Clause) -> Any:
    """A row like one of PACKAGES, with the least that the database takes for it; None where that does not work.

    HTTPException 404 for one that is not there, or not visible.
    """
    key = canonicalize_name(name)
    found: Sequence[Any] | None = await read.rows(seen(ONE, visible), {"key": key})
    if found is None:
        found = await read.look_up(lambda plans: one_package(plans, visible, key), (visible, key))
    return None if found is None else one_or_404(found, name)


async def note_page(read: Reader, query: PackageQuery, visible: Clause, last: str | None) -> None:
    if is_first(query):
        await read.look_up(lambda plans: note_end(plans, visible, query.limit, last))


# Built once: to put a statement together takes as long as to send it.
BY_NAME = Package.normalized_name == sa.bindparam("key")
ONE = PACKAGES.where(BY_NAME)
ONE_TO_CHANGE = PACKAGES.add_columns(Package.id, Package.version).where(BY_NAME)
OWNER = sa.select(Organization.id, Organization.slug).where(Organization.slug == sa.bindparam("slug"))
TABLE = Package.metadata.tables["packages"]
INSERT = TABLE.insert().values({column.name: sa.bindparam(column.name) for column in TABLE.columns})
CHANGED: dict[str, Any] = {name: sa.bindparam(f"to_{name}") for name in ("summary", "private", "updated_at")}
CHANGE = TABLE.update().where(TABLE.c.id == sa.bindparam("of")).values(version=TABLE.c.version + 1, **CHANGED)


# Who may, and what must not have changed, as conditions of the one statement that writes: see `Writes.one`.


@lru_cache(500)
def creation(may_create: Clause) -> sa.Insert:
    """INSERT of a package into the organization `slug`, on the condition `may_create`."""
    owner, columns = Organization.id, TABLE.columns
    row = [
        owner if column.name == "organization_id" else sa.bindparam(column.name, type_=column.type)
        for column in columns
    ]
    rows = sa.select(*row).where(Organization.slug == sa.bindparam("slug"), may_create)
    return TABLE.insert().from_select(columns.keys(), rows).returning(TABLE.c.id)


@lru_cache(500)
def change(may_change: Clause) -> sa.Update:
    """CHANGE, on the condition `may_change`, and that the version is still the one that was `read`."""
    return CHANGE.where(TABLE.c.version == sa.bindparam("read"), may_change).returning(TABLE.c.id)


def package_or_404(db: Any, name: str, visible: Clause, found: Any = ONE) -> Any:
    """A row of PACKAGES, or of `found`, which begins like it. HTTPException 404 also for one that is not visible."""
    return one_or_404(db.execute(seen(found, visible), {"key": canonicalize_name(name)}).all(), name)


def one_or_404(found: Sequence[Any], name: str) -> Any:
    """The only row of those of a unique name. HTTPException 404 for none."""
    if not found:
        raise HTTPException(404, f"there is no package {name!r}")
    (row,) = found
    return row


@router.get(
    "/packages",
    response_model=PackagePage,
    responses=NOT_THIS_LIST | ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
async def list_packages(
    query: Annotated[PackageQuery, Query()], visible: VisiblePackages, pager: Paging, read: Read, conditions: Reading
) -> Response:
    found = await quick_page(read, query, visible)
    if found is not None:
        rows, links = pager.first_page(PACKAGE_LIST, query, found)
    else:
        rows, links = await read(lambda db: page_of(db, pager, query, visible))
        await note_page(read, query, visible, rows[-1][0] if links["next"] else None)
    return conditions.answer_bytes(page_shown(rows, links))


@router.get(
    "/packages/{name}",
    response_model=PackageOut,
    responses=ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
async def read_package(name: str, visible: VisiblePackages, read: Read, conditions: Reading) -> Response:
    row = await quick_one(read, name, visible) or await read(lambda db: package_or_404(db, name, visible))
    return conditions.answer_bytes(shown(tuple(row[: len(SHOWN)])))


def held(db: Any, organization: UUID) -> bool:
    """Whether the organization exists until the commit. On PostgreSQL its foreign key asks that by itself."""
    return db.get_bind().dialect.name == "postgresql" or hold(db, Organization.id, organization)


@router.post("/packages", status_code=201, dependencies=[takes(JSON)])
async def create_package(
    new: NewPackage, response: Response, permit: Permit, write: Write, clock: Now, ids: NewIds
) -> PackageOut:
    key = canonicalize_name(new.name)

    now = clock.now()
    row = {"id": ids.new(), "name": new.name, "normalized_name": key, "version": 1, "summary": new.summary}
    row |= {"private": new.private, "popularity_rank": None, "created_at": now, "updated_at": now}

    def work(db: Any) -> None:
        # It depends on the organization, and what a route declares is asked for the path, not for the body.
        permit(db, "packages:create", {"organization": new.organization})
        owner = db.execute(OWNER, {"slug": new.organization}).one_or_none()
        if owner is None or not held(db, owner[0]):
            raise HTTPException(409, f"there is no organization {new.organization!r} to own the package")
        try:
            db.execute(INSERT, row | {"organization_id": owner[0]})
        except sa.exc.IntegrityError as error:
            if is_conflict(error):  # the organization was deleted meanwhile: the next attempt finds none
                raise
            raise HTTPException(409, f"the name {new.name!r} is taken by package {key!r}") from None

    may_create = allowed(permit, "packages:create", "organizations:read")
    if may_create is None or not await write.one(creation(may_create), row | {"slug": new.organization}):
        await write(work)  # it says why not
    response.headers["Location"] = f"/packages/{key}"
    return package_out((key, new.organization, new.summary, new.private, None, None, now, now))


@router.patch(
    "/packages/{name}",
    dependencies=[takes(MERGE_PATCH, JSON), permission("packages:write")],
    responses=ON_WRITE,
    openapi_extra=IF_MATCH,
)
async def change_package(
    name: str,
    changes: Annotated[PackagePatch, Body(media_type=MERGE_PATCH)],
    permit: Permit,
    visible: VisiblePackages,
    read: Read,
    write: Write,
    clock: Now,
    conditions: Writing,
) -> PackageOut:
    def patched(row: Any) -> tuple[PackageOut, dict[str, Any] | None]:
        """The package afterwards, and what is to be written; None for nothing."""
        after = (before := package_out(row)).model_copy()
        conditions.check(before)
        if not apply_patch(after, changes):
            return after, None
        after.updated_at = clock.now()
        return after, {f"to_{name}": getattr(after, name) for name in CHANGED}

    def work(db: Any) -> PackageOut:
        if "private" in changes.model_fields_set:
            permit(db, "packages:publish", {"name": name})
        *row, package, _ = package_or_404(db, name, visible, ONE_TO_CHANGE)
        after, values = patched(row)
        if values:
            db.execute(CHANGE, values | {"of": package})
        return after

    # The same by two statements: nobody else has changed it meanwhile, or the version would be another one.
    may_change = None if "private" in changes.model_fields_set else allowed(permit, "packages:write")
    if may_change is not None and (
        found := await read.rows(seen(ONE_TO_CHANGE, may_change), {"key": canonicalize_name(name)})
    ):
        *row, package, version = found[0]
        after, values = patched(row)
        if values and await write.one(change(may_change), values | {"of": package, "read": version}):
            return conditions.tagged(after)
    return conditions.tagged(await write(work))


@router.delete(
    "/packages/{name}",
    status_code=204,
    response_class=Response,
    dependencies=[permission("packages:delete")],
    responses=ON_DELETE,
    openapi_extra=IF_MATCH,
)
def delete_package(name: str, visible: VisiblePackages, transact: Transaction, conditions: Writing) -> None:
    def work(session: orm.Session) -> None:
        *row, package, _ = package_or_404(session, name, visible, ONE_TO_CHANGE)
        conditions.check(package_out(row))
        delete_rows(session, TABLE, TABLE.c.id == package)

    transact(work)
