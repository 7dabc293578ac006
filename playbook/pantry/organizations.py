"""Organizations: who publishes. Whoever makes one is its owner.

Each endpoint is one transaction. `Location` and all links are paths: a whole URL would be built from the Host header,
which the client chooses.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, HTTPException, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import orm

from playbook.api.representations import JSON, MERGE_PATCH, Strict, apply_patch, gives_json, takes
from playbook.foundations.clock_and_identifiers import Clock, Identifiers
from playbook.foundations.write_skew import hold
from playbook.pantry.catalog import Package
from playbook.pantry.conditions import IF_MATCH, IF_NONE_MATCH, ON_DELETE, ON_READ, ON_WRITE, Reading, Writing
from playbook.pantry.fields import Name, Slug, Text
from playbook.pantry.http import CHALLENGE, CurrentCaller, NewIds, Now, Read, Transaction, permission
from playbook.pantry.lists import MOST, NOT_THIS_LIST, Listing, PageOut, PageQuery, Paging
from playbook.pantry.policy import VisibleOrganizations
from playbook.schema.identity import Member, Organization, User
from playbook.schema.relationships import delete_rows

router = APIRouter(dependencies=[Depends(gives_json)])


class NewOrganization(Strict):
    slug: Slug
    name: Name
    description: Text | None = None


class OrganizationPatch(Strict):
    """What is to change. `model_fields_set` tells what was not given from what is null."""

    name: Name = Field(default_factory=str, description="left out: unchanged")  # no default in the schema
    description: Text | None = Field(default=None, description="left out: unchanged; null: removed")


class OrganizationOut(BaseModel):
    slug: str
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime


class OrganizationPage(PageOut):
    items: Annotated[list[OrganizationOut], Field(max_length=MOST)]


class OrganizationQuery(PageQuery):
    sort: Literal["slug", "-slug", "updated", "-updated"] = "slug"


ORGANIZATION_SORTS = {"slug": (Organization.slug,), "updated": (Organization.updated_at, Organization.slug)}
SHOWN = tuple(OrganizationOut.model_fields)
ORGANIZATIONS = sa.select(*(getattr(Organization, name) for name in SHOWN))
ORGANIZATION_LIST = Listing(ORGANIZATIONS, OrganizationQuery, ORGANIZATION_SORTS)


def no_organization(slug: str) -> HTTPException:
    return HTTPException(404, f"there is no organization {slug!r}")


def organization_or_404(session: orm.Session, slug: str) -> Organization:
    """The organization, to be changed."""
    found = session.scalar(sa.select(Organization).where(Organization.slug == slug))
    if found is None:
        raise no_organization(slug)
    return found


def organization_out(row: Sequence[Any]) -> OrganizationOut:
    """A row of ORGANIZATIONS as it is shown."""
    return OrganizationOut(**dict(zip(SHOWN, row, strict=True)))


def shown(organization: Organization) -> OrganizationOut:
    return OrganizationOut.model_validate(organization, from_attributes=True)


class SlugTaken(ValueError):
    """Another organization has this slug."""


def found_organization(
    session: orm.Session, clock: Clock, ids: Identifiers, owner_id: UUID, **columns: Any
) -> tuple[Organization, Member]:
    """A new organization and its owner. Raises SlugTaken, or LookupError when the owner is gone: then roll back."""
    if not hold(session, User.id, owner_id):  # or the only owner is deleted meanwhile
        raise LookupError("the account was deleted")
    now = clock.now()
    organization = Organization(id=ids.new(), **columns, created_at=now, updated_at=now)
    session.add(organization)
    try:
        session.flush()
    except sa.exc.IntegrityError:
        raise SlugTaken("another organization has this slug") from None
    owner = {"id": ids.new(), "organization_id": organization.id, "user_id": owner_id, "created_at": now}
    member = Member(**owner, role="owner")
    session.add(member)
    session.flush()
    return organization, member


def packages_of(session: orm.Session, organization_id: UUID) -> int:
    """How many packages an organization owns: with any, it cannot be deleted."""
    owned = sa.select(sa.func.count()).where(Package.organization_id == organization_id)
    return session.scalar(owned) or 0


def dissolve(session: orm.Session, organization_id: UUID) -> None:
    """Delete an organization, and what the models let go with it. Raises StillReferred while it owns packages."""
    table = Organization.metadata.tables["organizations"]
    delete_rows(session, table, table.c.id == organization_id)


@router.get(
    "/organizations",
    response_model=OrganizationPage,
    responses=NOT_THIS_LIST | ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
async def list_organizations(
    query: Annotated[OrganizationQuery, Query()], visible: VisibleOrganizations, pager: Paging, read: Read,
    conditions: Reading,
) -> Response:  # fmt: skip
    rows, links = await read(lambda db: pager.page(db, ORGANIZATION_LIST, query, visible))
    return conditions.answer(OrganizationPage(items=[organization_out(row) for row in rows], **links))


@router.post("/organizations", status_code=201, dependencies=[takes(JSON), permission("organizations:create")])
def create_organization(
    new: NewOrganization, response: Response, caller: CurrentCaller, transact: Transaction, clock: Now, ids: NewIds
) -> OrganizationOut:
    def work(session: orm.Session) -> OrganizationOut:
        try:
            founded = found_organization(session, clock, ids, caller.id, **new.model_dump())
        except LookupError:
            raise HTTPException(401, "your account was deleted", {"WWW-Authenticate": CHALLENGE}) from None
        except SlugTaken:
            raise HTTPException(409, f"there is an organization {new.slug!r} already") from None
        return shown(founded[0])

    created = transact(work)
    response.headers["Location"] = f"/organizations/{created.slug}"
    return created


@router.get(
    "/organizations/{slug}",
    response_model=OrganizationOut,
    responses=ON_READ,
    openapi_extra=IF_NONE_MATCH,
)
async def read_organization(slug: str, visible: VisibleOrganizations, read: Read, conditions: Reading) -> Response:
    found = ORGANIZATIONS.where(Organization.slug == slug, visible)
    row = await read(lambda db: db.execute(found).one_or_none())
    if row is None:
        raise no_organization(slug)
    return conditions.answer(organization_out(row))


@router.patch(
    "/organizations/{slug}",
    dependencies=[takes(MERGE_PATCH, JSON), permission("organizations:write")],
    responses=ON_WRITE,
    openapi_extra=IF_MATCH,
)
def change_organization(
    slug: str,
    changes: Annotated[OrganizationPatch, Body(media_type=MERGE_PATCH)],
    transact: Transaction,
    clock: Now,
    conditions: Writing,
) -> OrganizationOut:
    def work(session: orm.Session) -> OrganizationOut:
        organization = organization_or_404(session, slug)
        conditions.check(shown(organization))
        if apply_patch(organization, changes):
            organization.version += 1
            organization.updated_at = clock.now()
        session.flush()
        return shown(organization)

    return conditions.tagged(transact(work))


@router.delete(
    "/organizations/{slug}",
    status_code=204,
    response_class=Response,
    dependencies=[permission("organizations:delete")],
    responses=ON_DELETE,
    openapi_extra=IF_MATCH,
)
def delete_organization(slug: str, transact: Transaction, conditions: Writing) -> None:
    def work(session: orm.Session) -> None:
        organization = organization_or_404(session, slug)
        conditions.check(shown(organization))
        if owned := packages_of(session, organization.id):
            raise HTTPException(409, f"organization {slug!r} owns {owned} packages: delete or transfer them first")
        dissolve(session, organization.id)

    transact(work)
