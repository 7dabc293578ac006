"""The members of an organization: who they are, what role they have, and how they go. One owner always stays."""

from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query
from sqlalchemy import orm

from playbook.auth.organizations import ROLES, LastOwner, Refused, set_role
from playbook.pantry.auth.memberships import (
    TABLES,
    allows,
    by_slug,
    chosen,
    member_of,
    member_view,
    own_membership,
    refusal,
    stop_working_for,
    touch,
    uuid_or_none,
)
from playbook.pantry.auth.sessions import CurrentSession, SignedIn
from playbook.pantry.auth.wire import AuthError, Sent, Service, body
from playbook.pantry.package_roles import end_roles
from playbook.schema.identity import Member, User, normal_email

member_routes = APIRouter(prefix="/api/auth/organization")
MOST_MEMBERS = 100  # of an organization, as in Better Auth
SORTS = {"createdAt": Member.created_at, "role": Member.role, "userId": Member.user_id}
STRANGER = (403, "YOU_ARE_NOT_A_MEMBER_OF_THIS_ORGANIZATION")


def members_of(
    db: orm.Session, organization_id: UUID, limit: int = MOST_MEMBERS, offset: int = 0,
    sort: str = "createdAt", descending: bool = False,
) -> tuple[list[dict[str, Any]], int]:  # fmt: skip
    """Members with who they are, and how many there are. Two statements whatever the number."""
    here = Member.organization_id == organization_id
    order = [SORTS[sort], Member.id]
    rows = sa.select(Member, User).join(User, User.id == Member.user_id).where(here)
    rows = rows.order_by(*(column.desc() if descending else column for column in order)).limit(limit).offset(offset)
    total = db.scalar(sa.select(sa.func.count()).where(here)) or 0
    return [member_view(*row) for row in db.execute(rows)], total


def asked(db: orm.Session, caller: SignedIn, id: str, slug: str) -> UUID:
    """The organization of a query: by slug, by id, or the active one. AuthError 400."""
    if not slug:
        return chosen(id, caller, 400, "NO_ACTIVE_ORGANIZATION")
    found = by_slug(db, slug)
    if found is None:
        raise refusal(400, "ORGANIZATION_NOT_FOUND")
    return found


@member_routes.get("/list-members")
def list_members(
    auth: Service, caller: CurrentSession, organizationId: str = "", organizationSlug: str = "",
    limit: Annotated[int, Query(ge=1, le=MOST_MEMBERS)] = MOST_MEMBERS,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    sortBy: Literal["createdAt", "role", "userId"] = "createdAt", sortDirection: Literal["asc", "desc"] = "asc",
) -> dict[str, Any]:  # fmt: skip
    """Who the members are, for members."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = asked(db, caller, organizationId, organizationSlug)
        own_membership(db, id, caller, *STRANGER)
        members, total = members_of(db, id, limit, offset, sortBy, sortDirection == "desc")
        return {"members": members, "total": total}

    return auth.transact(work)


@member_routes.get("/get-active-member")
def get_active_member(auth: Service, caller: CurrentSession) -> dict[str, Any]:
    """The caller's membership of the organization that their session works for."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen("", caller, 400, "NO_ACTIVE_ORGANIZATION")
        return member_view(own_membership(db, id, caller, 400, "MEMBER_NOT_FOUND"), caller.user)

    return auth.transact(work)


@member_routes.get("/get-active-member-role")
def get_active_member_role(
    auth: Service, caller: CurrentSession, userId: str = "", organizationId: str = "", organizationSlug: str = ""
) -> dict[str, str]:
    """The caller's role, or that of another member."""

    def work(db: orm.Session) -> dict[str, str]:
        id = asked(db, caller, organizationId, organizationSlug)
        member: Member | None = own_membership(db, id, caller, *STRANGER)
        if userId:
            other = uuid_or_none(userId)
            member = member_of(db, id, other) if other else None
        if member is None:
            raise refusal(*STRANGER)
        return {"role": member.role}

    return auth.transact(work)


def one_role(sent: str | list[str]) -> str:
    """The role that was sent, alone or in a list of one. AuthError 400: a member has one role here."""
    roles = [role.strip() for text in ([sent] if isinstance(sent, str) else sent) for role in text.split(",")]
    roles = [role for role in roles if role]
    if not roles:
        raise refusal(400, "ROLE_NOT_FOUND")
    if len(roles) > 1 or roles[0] not in ROLES:
        raise AuthError(400, "ROLE_NOT_FOUND", f"ROLE_NOT_FOUND: {', '.join(roles)[:200]}")
    return roles[0]


class UpdateRole(Sent):
    role: str | list[str]
    memberId: str
    organizationId: str | None = None


@member_routes.post("/update-member-role")
def update_member_role(
    auth: Service, sent: Annotated[UpdateRole, body(UpdateRole)], caller: CurrentSession
) -> dict[str, Any]:
    """Give a member another role, none above the caller's own. It holds at their next request.

    AuthError 400 for the last owner, who stays one; 403 for a role that may not.
    """
    role, not_allowed = one_role(sent.role), (403, "YOU_ARE_NOT_ALLOWED_TO_UPDATE_THIS_MEMBER")

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen(sent.organizationId, caller, 400, "NO_ACTIVE_ORGANIZATION")
        own = own_membership(db, id, caller, 400, "MEMBER_NOT_FOUND")
        if not allows(own.role, {"member": ["update"]}):
            raise refusal(*not_allowed)
        member = db.get(Member, uuid_or_none(sent.memberId) or UUID(int=0))
        if member is None or member.organization_id != id:
            raise refusal(400, "MEMBER_NOT_FOUND")
        touch(db, id)
        try:
            set_role(db, id, member.user_id, role, caller.user.id, TABLES)
        except LastOwner:
            raise refusal(400, "YOU_CANNOT_LEAVE_THE_ORGANIZATION_WITHOUT_AN_OWNER") from None
        except Refused:
            raise refusal(*not_allowed) from None
        return member_view(member) | {"role": role}

    return auth.transact(work)


def take_out(db: orm.Session, organization_id: UUID, member: Member, by: UUID) -> None:
    """Remove a member, whose sessions work for the organization no more, with all roles on its packages.

    AuthError 400 or 401.
    """
    touch(db, organization_id)
    try:
        set_role(db, organization_id, member.user_id, None, by, TABLES)
    except LastOwner:
        raise refusal(400, "YOU_CANNOT_LEAVE_THE_ORGANIZATION_AS_THE_ONLY_OWNER") from None
    except Refused:
        raise refusal(401, "YOU_ARE_NOT_ALLOWED_TO_DELETE_THIS_MEMBER") from None
    stop_working_for(db, member.user_id, organization_id)
    end_roles(db, member.user_id, organization_id)


def named(db: orm.Session, organization_id: UUID, sent: str) -> tuple[Member, User | None] | None:
    """A member by id or, with who that is, by address."""
    if "@" not in sent:
        member = db.get(Member, uuid_or_none(sent) or UUID(int=0))
        return (member, None) if member is not None and member.organization_id == organization_id else None
    try:
        email = normal_email(sent)
    except ValueError:
        return None
    found = sa.select(Member, User).join(User, User.id == Member.user_id)
    row = db.execute(found.where(Member.organization_id == organization_id, User.email == email)).one_or_none()
    return (row[0], row[1]) if row else None


class RemoveMember(Sent):
    memberIdOrEmail: str
    organizationId: str | None = None


@member_routes.post("/remove-member")
def remove_member(
    auth: Service, sent: Annotated[RemoveMember, body(RemoveMember)], caller: CurrentSession
) -> dict[str, Any]:
    """Take a member out, who is refused at their next request. The last owner stays."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen(sent.organizationId, caller, 400, "NO_ACTIVE_ORGANIZATION")
        own = own_membership(db, id, caller, 400, "MEMBER_NOT_FOUND")
        if not allows(own.role, {"member": ["delete"]}):
            raise refusal(401, "YOU_ARE_NOT_ALLOWED_TO_DELETE_THIS_MEMBER")
        found = named(db, id, sent.memberIdOrEmail)
        if found is None:
            raise refusal(400, "MEMBER_NOT_FOUND")
        member, user = found
        if member.role == "owner" and own.role != "owner":
            raise refusal(400, "YOU_CANNOT_LEAVE_THE_ORGANIZATION_AS_THE_ONLY_OWNER")
        take_out(db, id, member, caller.user.id)
        return {"member": member_view(member, user)}

    return auth.transact(work)


class Leave(Sent):
    organizationId: str


@member_routes.post("/leave")
def leave(auth: Service, sent: Annotated[Leave, body(Leave)], caller: CurrentSession) -> dict[str, Any]:
    """The caller leaves. AuthError 400 for the last owner, who gives the organization to another member first."""

    def work(db: orm.Session) -> dict[str, Any]:
        id = chosen(sent.organizationId, caller, 400, "MEMBER_NOT_FOUND")
        member = own_membership(db, id, caller, 400, "MEMBER_NOT_FOUND")
        take_out(db, id, member, caller.user.id)
        return member_view(member, caller.user)

    return auth.transact(work)
