"""What the calls of organizations have in common: whose organization it is, what a role allows, how rows are shown."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth.organizations import Tables
from playbook.pantry.auth.sessions import SignedIn
from playbook.pantry.auth.tables import OrganizationDetails, UserSession
from playbook.pantry.auth.wire import AuthError, iso
from playbook.schema.identity import Member, Organization, User

TABLES: Tables = Member.metadata.tables  # "members" and "invitations" are called as in the recipe

WORDS = {  # by code: what Better Auth's plugin says, word for word
    "NO_ACTIVE_ORGANIZATION": "No active organization",
    "ORGANIZATION_ALREADY_EXISTS": "Organization already exists",
    "ORGANIZATION_SLUG_ALREADY_TAKEN": "Organization slug already taken",
    "ORGANIZATION_NOT_FOUND": "Organization not found",
    "ORGANIZATION_MEMBERSHIP_LIMIT_REACHED": "Organization membership limit reached",
    "USER_IS_NOT_A_MEMBER_OF_THE_ORGANIZATION": "User is not a member of the organization",
    "USER_IS_ALREADY_A_MEMBER_OF_THIS_ORGANIZATION": "User is already a member of this organization",
    "USER_IS_ALREADY_INVITED_TO_THIS_ORGANIZATION": "User is already invited to this organization",
    "YOU_ARE_NOT_A_MEMBER_OF_THIS_ORGANIZATION": "You are not a member of this organization",
    "YOU_ARE_NOT_ALLOWED_TO_UPDATE_THIS_ORGANIZATION": "You are not allowed to update this organization",
    "YOU_ARE_NOT_ALLOWED_TO_DELETE_THIS_ORGANIZATION": "You are not allowed to delete this organization",
    "YOU_ARE_NOT_ALLOWED_TO_UPDATE_THIS_MEMBER": "You are not allowed to update this member",
    "YOU_ARE_NOT_ALLOWED_TO_DELETE_THIS_MEMBER": "You are not allowed to delete this member",
    "YOU_ARE_NOT_ALLOWED_TO_INVITE_USERS_TO_THIS_ORGANIZATION": (
        "You are not allowed to invite users to this organization"
    ),
    "YOU_ARE_NOT_ALLOWED_TO_INVITE_USER_WITH_THIS_ROLE": "You are not allowed to invite a user with this role",
    "YOU_ARE_NOT_ALLOWED_TO_CANCEL_THIS_INVITATION": "You are not allowed to cancel this invitation",
    "YOU_ARE_NOT_ALLOWED_TO_LIST_INVITATIONS": "You are not allowed to list invitations for this organization",
    "YOU_ARE_NOT_THE_RECIPIENT_OF_THE_INVITATION": "You are not the recipient of the invitation",
    "YOU_CANNOT_LEAVE_THE_ORGANIZATION_AS_THE_ONLY_OWNER": "You cannot leave the organization as the only owner",
    "YOU_CANNOT_LEAVE_THE_ORGANIZATION_WITHOUT_AN_OWNER": "You cannot leave the organization without an owner",
    "EMAIL_VERIFICATION_REQUIRED_BEFORE_ACCEPTING_OR_REJECTING_INVITATION": (
        "Email verification required before accepting or rejecting invitation"
    ),
    "EMAIL_VERIFICATION_REQUIRED_FOR_INVITATION": (
        "Email verification required to view or list invitations for the session email"
    ),
    "INVITATION_NOT_FOUND": "Invitation not found",
    "INVITATION_LIMIT_REACHED": "Invitation limit reached",
    "INVITER_IS_NO_LONGER_A_MEMBER_OF_THE_ORGANIZATION": "Inviter is no longer a member of the organization",
    "MEMBER_NOT_FOUND": "Member not found",
    "ROLE_NOT_FOUND": "Role not found",
}


def refusal(status: int, code: str) -> AuthError:
    """The error of a code of Better Auth's plugin."""
    return AuthError(status, code, WORDS[code])


# ---------------------------------------------------------------- what a role allows

EVERYTHING = {
    "organization": ("update", "delete"),
    "member": ("create", "update", "delete"),
    "invitation": ("create", "cancel"),
}
PERMISSIONS: dict[str, Mapping[str, Sequence[str]]] = {
    "owner": EVERYTHING,
    "admin": EVERYTHING | {"organization": ("update",)},
    "member": {},
}


def allows(role: str, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether a role allows all of `wanted`, actions by resource. What is not listed, no role allows."""
    own = PERMISSIONS.get(role, {})
    return bool(wanted) and all(actions and set(actions) <= set(own.get(kind, ())) for kind, actions in wanted.items())


# ---------------------------------------------------------------- whose organization


def uuid_or_none(text: str | None) -> UUID | None:
    """An identifier as it was sent. What is none is nobody's, so it finds nothing."""
    try:
        return UUID(text or "")
    except ValueError:
        return None


def by_slug(db: orm.Session, slug: str) -> UUID | None:
    """The organization with this slug."""
    return db.scalar(sa.select(Organization.id).where(Organization.slug == slug))


def chosen(sent: str | None, caller: SignedIn, status: int, code: str) -> UUID:
    """The organization of a call: the one that was sent, or the session's active one. AuthError without either.

    What is no identifier becomes one that no organization has.
    """
    if sent:
        return uuid_or_none(sent) or UUID(int=0)
    if caller.session.active_organization_id is None:
        raise refusal(status, code)
    return caller.session.active_organization_id


def member_of(db: orm.Session, organization_id: UUID, user_id: UUID) -> Member | None:
    """Somebody's membership, read at each call: who was removed is refused at the next one."""
    mine = sa.select(Member).where(Member.organization_id == organization_id, Member.user_id == user_id)
    return db.scalar(mine)


def own_membership(db: orm.Session, organization_id: UUID, caller: SignedIn, status: int, code: str) -> Member:
    """The caller's membership. AuthError without one: the same whether there is such an organization or not."""
    member = member_of(db, organization_id, caller.user.id)
    if member is None:
        raise refusal(status, code)
    return member


def touch(db: orm.Session, organization_id: UUID) -> None:
    """Write the row of the organization, before its members or invitations change. AuthError 400 when it is gone.

    So two changes of one organization come one after the other, and none survives its deletion (`write_skew`).
    """
    same = sa.update(Organization).where(Organization.id == organization_id)
    changed = same.values(version=Organization.version + 1).returning(Organization.id)
    if db.scalar(changed.execution_options(synchronize_session=False)) is None:
        raise refusal(400, "ORGANIZATION_NOT_FOUND")


def work_for(db: orm.Session, session_id: UUID, organization_id: UUID | None) -> None:
    """Which organization a session works for from now on."""
    mine = sa.update(UserSession).where(UserSession.id == session_id)
    done = mine.values(active_organization_id=organization_id).returning(UserSession.id)
    db.execute(done.execution_options(synchronize_session=False))


def stop_working_for(db: orm.Session, user_id: UUID, organization_id: UUID) -> None:
    """No session of the user works for the organization any more."""
    mine = (UserSession.user_id == user_id, UserSession.active_organization_id == organization_id)
    done = sa.update(UserSession).where(*mine).values(active_organization_id=None).returning(UserSession.id)
    db.execute(done.execution_options(synchronize_session=False))


# ---------------------------------------------------------------- how rows are shown


def organization_view(organization: Organization, details: OrganizationDetails | None) -> dict[str, Any]:
    """An organization as Better Auth shows it, with its metadata as the text that it has stored."""
    return {
        "id": str(organization.id), "name": organization.name, "slug": organization.slug,
        "logo": details.logo if details else None, "createdAt": iso(organization.created_at),
        "metadata": details.metadata_json if details else None,
    }  # fmt: skip


def member_view(member: Member, user: User | None = None) -> dict[str, Any]:
    """A membership; with `user`, who that is."""
    view = {
        "id": str(member.id), "organizationId": str(member.organization_id), "userId": str(member.user_id),
        "role": member.role, "createdAt": iso(member.created_at),
    }  # fmt: skip
    if user is None:
        return view
    return view | {"user": {"id": str(user.id), "name": user.name, "email": user.email, "image": user.image}}


def invitation_view(row: Any) -> dict[str, Any]:
    """An invitation, a row or an object. Its `id` takes it back; what accepts it is in its mail only."""
    return {
        "id": str(row.id), "organizationId": str(row.organization_id), "email": row.email, "role": row.role,
        "status": row.status, "expiresAt": iso(row.expires_at), "createdAt": iso(row.created_at),
        "inviterId": str(row.inviter_id) if row.inviter_id else None,
    }  # fmt: skip
