"""Organizations, as Better Auth's plugin has them: found, look at, change and delete them, and work for one.

The same rows as those of the resource API, which knows them by their slug.
"""

import json
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy import orm

from playbook.pantry.auth.invitations import visible_invitations
from playbook.pantry.auth.members import MOST_MEMBERS, members_of
from playbook.pantry.auth.memberships import (
    allows,
    by_slug,
    chosen,
    member_view,
    organization_view,
    own_membership,
    refusal,
    touch,
    uuid_or_none,
    work_for,
)
from playbook.pantry.auth.sessions import CurrentSession, SignedIn, remembered, set_cookies
from playbook.pantry.auth.tables import OrganizationDetails
from playbook.pantry.auth.wire import AuthError, Sent, Service, Text, body
from playbook.pantry.fields import Name, Slug
from playbook.pantry.organizations import SlugTaken, dissolve, found_organization, packages_of
from playbook.schema.identity import Member, Organization

organization_routes = APIRouter(prefix="/api/auth/organization")
Metadata = dict[str, Any]
LONGEST_METADATA = 10_000  # characters of its JSON
NOBODYS = (403, "USER_IS_NOT_A_MEMBER_OF_THE_ORGANIZATION")
Row = tuple[Organization, OrganizationDetails | None]


class NewOrganization(Sent):
    name: Name
    slug: Slug
    logo: Text | None = None
    metadata: Metadata | None = None
    keepCurrentActiveOrganization: bool = False


class Changes(Sent):
    name: Name = ""
    slug: Slug = ""
    logo: Text | None = None
    metadata: Metadata | None = None


class UpdateOrganization(Sent):
    data: Changes
    organizationId: str | None = None


class TheSlug(Sent):
    slug: str


class TheOrganization(Sent):
    organizationId: str


class SetActive(Sent):
    organizationId: str | None = Field("", description='"": not given; null: none')
    organizationSlug: str = ""


class HasPermission(Sent):
    organizationId: str | None = None
    permission: dict[str, list[str]] | None = None
    permissions: dict[str, list[str]] | None = None


def read(db: orm.Session, condition: sa.ColumnElement[bool]) -> Row | None:
    """An organization and its details."""
    there = OrganizationDetails.organization_id == Organization.id
    found = sa.select(Organization, OrganizationDetails).outerjoin(OrganizationDetails, there).where(condition)
    row = db.execute(found).one_or_none()
    return (row[0], row[1]) if row else None


def keep_details(db: orm.Session, row: Row, given: dict[str, Any]) -> OrganizationDetails | None:
    """Store logo and metadata, as far as they were given. AuthError 400 for metadata that are too long."""
    organization, details = row
    new = {name: given[name] for name in ("logo", "metadata") if name in given}
    if not new:
        return details
    if details is None:
        details = OrganizationDetails(organization_id=organization.id)
        db.add(details)
    if "logo" in new:
        details.logo = new["logo"]
    if "metadata" in new:
        text = json.dumps(new["metadata"], ensure_ascii=False, separators=(",", ":"))
        if len(text) > LONGEST_METADATA:
            raise AuthError(400, "VALIDATION_ERROR", "[body.metadata] Too big")
        details.metadata_json = text if new["metadata"] else None
    db.flush()
    return details


def with_object(view: dict[str, Any], sent: Metadata | None) -> dict[str, Any]:
    """The answer to who has just written: metadata as an object, and none at all if none were sent."""
    rest = {name: value for name, value in view.items() if name != "metadata"}
    return rest | ({"metadata": sent} if sent else {})


@organization_routes.post("/create")
def create(
    auth: Service, sent: Annotated[NewOrganization, body(NewOrganization)], caller: CurrentSession
) -> dict[str, Any]:
    """A new organization, whose owner the caller is. Their session works for it, unless they want another."""

    def work(db: orm.Session) -> dict[str, Any]:
        new = {"name": sent.name, "slug": sent.slug}
        try:
            organization, owner = found_organization(db, auth.clock, auth.ids, caller.user.id, **new)
        except LookupError:
            raise AuthError(401, "UNAUTHORIZED") from None
        except SlugTaken:
            raise refusal(400, "ORGANIZATION_ALREADY_EXISTS") from None
        details = keep_details(db, (organization, None), sent.model_dump(exclude_none=True))
        if not sent.keepCurrentActiveOrganization:
            work_for(db, caller.session.id, organization.id)
        view = with_object(organization_view(organization, details), sent.metadata)
        return view | {"members": [member_view(owner)]}

    return auth.transact(work)


@organization_routes.post("/check-slug")
def check_slug(auth: Service, sent: Annotated[TheSlug, body(TheSlug)], caller: CurrentSession) -> dict[str, bool]:
    """Whether a slug is free. Everybody who is signed in may know: `/organizations` shows them all."""
    if auth.transact(lambda db: by_slug(db, sent.slug)) is not None:
        raise refusal(400, "ORGANIZATION_SLUG_ALREADY_TAKEN")
    return {"status": True}


@organization_routes.get("/list")
def list_organizations(auth: Service, caller: CurrentSession) -> list[dict[str, Any]]:
    """The caller's organizations, oldest first."""
    there = OrganizationDetails.organization_id == Organization.id
    mine = sa.select(Organization, OrganizationDetails).outerjoin(OrganizationDetails, there)
    mine = mine.join(Member, Member.organization_id == Organization.id).where(Member.user_id == caller.user.id)
    mine = mine.order_by(Organization.created_at, Organization.id)
    return [organization_view(*row) for row in auth.transact(lambda db: db.execute(mine).all())]


@organization_routes.get("/get-full-organization", response_model=None)
def get_full_organization(
    auth: Service, caller: CurrentSession, organizationId: str = "", organizationSlug: str = "",
    membersLimit: Annotated[int, Query(ge=1, le=MOST_MEMBERS)] = MOST_MEMBERS,
) -> dict[str, Any] | None:  # fmt: skip
    """An organization with its members, and for who may invite also with its invitations; null when none is active."""

    def work(db: orm.Session) -> dict[str, Any] | None:
        active = caller.session.active_organization_id
        if not (organizationId or organizationSlug) and active is None:
            return None
        sent = uuid_or_none(organizationId) if organizationId else active
        same = Organization.slug == organizationSlug if organizationSlug else Organization.id == sent
        row = read(db, same)
        if row is None:
            raise refusal(400, "ORGANIZATION_NOT_FOUND")
        own = own_membership(db, row[0].id, caller, *NOBODYS)
        members, _ = members_of(db, row[0].id, limit=membersLimit)
        return organization_view(*row) | {"members": members, "invitations": visible_invitations(db, own)}

    return auth.transact(work)


def choose(db: orm.Session, sent: SetActive, caller: SignedIn) -> dict[str, Any] | None:
    """Let the caller's session work for an organization of theirs, or for none, which is null.

    AuthError 403 when they are not a member, 400 for an unknown slug.
    """
    wanted = caller.session.active_organization_id
    if sent.organizationId:
        wanted = uuid_or_none(sent.organizationId) or UUID(int=0)
    elif sent.organizationId is None:
        wanted = None
    elif sent.organizationSlug:
        wanted = by_slug(db, sent.organizationSlug)
        if wanted is None:
            raise refusal(400, "ORGANIZATION_NOT_FOUND")
    if wanted is not None:
        own_membership(db, wanted, caller, *NOBODYS)
    row = read(db, Organization.id == wanted) if wanted else None
    work_for(db, caller.session.id, wanted if row else None)
    return organization_view(*row) if row else None


@organization_routes.post("/set-active", response_model=None)
def set_active(
    request: Request, response: Response, auth: Service,
    sent: Annotated[SetActive, body(SetActive)], caller: CurrentSession,
) -> dict[str, Any] | None:  # fmt: skip
    """Which organization this session works for. The cookie is set again, for what is left of its session."""
    was = caller.session.active_organization_id
    answer = auth.transact(lambda db: choose(db, sent, caller))
    if was is not None or answer is not None:
        set_cookies(response, remembered(auth, request, caller.session, caller.token))
    return answer


def change(db: orm.Session, row: Row, changes: Changes) -> OrganizationDetails | None:
    """Change what was given. AuthError 400 for a slug that another organization has."""
    organization, given = row[0], changes.model_dump(include=changes.model_fields_set)
    for name in given.keys() & {"name", "slug"}:
        setattr(organization, name, given[name])
    try:
        db.flush()
    except sa.exc.IntegrityError:
        raise refusal(400, "ORGANIZATION_SLUG_ALREADY_TAKEN") from None
    return keep_details(db, row, given)


@organization_routes.post("/update")
def update(
    auth: Service, sent: Annotated[UpdateOrganization, body(UpdateOrganization)], caller: CurrentSession
) -> dict[str, Any]:
    """Change name, slug, logo or metadata. AuthError 403 for a role that may not."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen(sent.organizationId, caller, 400, "ORGANIZATION_NOT_FOUND")
        own = own_membership(db, id, caller, 400, "USER_IS_NOT_A_MEMBER_OF_THE_ORGANIZATION")
        if not allows(own.role, {"organization": ["update"]}):
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_UPDATE_THIS_ORGANIZATION")
        row = read(db, Organization.id == id)
        if row is None:
            raise refusal(400, "ORGANIZATION_NOT_FOUND")
        row[0].version += 1
        row[0].updated_at = auth.clock.now()
        details = change(db, row, sent.data)
        kept = json.loads(details.metadata_json) if details and details.metadata_json else None
        return with_object(organization_view(row[0], details), kept)

    return auth.transact(work)


@organization_routes.post("/delete")
def delete(
    auth: Service, sent: Annotated[TheOrganization, body(TheOrganization)], caller: CurrentSession
) -> dict[str, Any]:
    """Delete an organization with its members and invitations; owners may. AuthError 409 while it owns packages."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen(sent.organizationId, caller, 400, "ORGANIZATION_NOT_FOUND")
        own = own_membership(db, id, caller, 400, "USER_IS_NOT_A_MEMBER_OF_THE_ORGANIZATION")
        if not allows(own.role, {"organization": ["delete"]}):
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_DELETE_THIS_ORGANIZATION")
        touch(db, id)
        row = read(db, Organization.id == id)
        if row is None:
            raise refusal(400, "ORGANIZATION_NOT_FOUND")
        view = organization_view(*row)
        if owned := packages_of(db, id):
            words = f"The organization owns {owned} packages: delete or transfer them first"
            raise AuthError(409, "ORGANIZATION_HAS_PACKAGES", words)
        dissolve(db, id)
        return view

    return auth.transact(work)


@organization_routes.post("/has-permission")
def has_permission(
    auth: Service, sent: Annotated[HasPermission, body(HasPermission)], caller: CurrentSession
) -> dict[str, Any]:
    """Whether the caller's role allows all that was asked for. For menus: each call checks for itself."""
    wanted = sent.permission if sent.permissions is None else sent.permissions
    if wanted is None or (sent.permission is not None and sent.permissions is not None):
        raise AuthError(400, "VALIDATION_ERROR", "[body] Invalid input")

    def work(db: orm.Session) -> str:
        id = chosen(sent.organizationId, caller, 400, "NO_ACTIVE_ORGANIZATION")
        return own_membership(db, id, caller, 401, "USER_IS_NOT_A_MEMBER_OF_THE_ORGANIZATION").role

    return {"error": None, "success": allows(auth.transact(work), wanted)}
