"""Invitations to an organization: sent to an address, answered by whoever has it and reads its mail."""

from datetime import timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter
from sqlalchemy import orm

from playbook.auth.mail import Mail
from playbook.auth.mailed_links import mailed_url
from playbook.auth.organizations import Refused, accept, invite, may_manage
from playbook.foundations.clock_and_identifiers import hash_token, new_token
from playbook.foundations.write_skew import hold
from playbook.pantry.auth.members import MOST_MEMBERS, one_role
from playbook.pantry.auth.memberships import (
    TABLES,
    allows,
    chosen,
    invitation_view,
    member_of,
    member_view,
    own_membership,
    refusal,
    touch,
    uuid_or_none,
    work_for,
)
from playbook.pantry.auth.sessions import CurrentSession, SignedIn
from playbook.pantry.auth.sign_in import Allowance, spend
from playbook.pantry.auth.sign_up import address, in_background
from playbook.pantry.auth.tables import Invitation
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body
from playbook.schema.identity import Member, Organization, User

invitation_routes = APIRouter(prefix="/api/auth/organization")
MOST_INVITATIONS = 100  # that are open, of one organization, as in Better Auth
BY_ONE, TO_ONE = Allowance(20, timedelta(hours=1)), Allowance(3, timedelta(hours=1))  # of one inviter; to one address
MAY_INVITE = {"invitation": ["create"]}


class Invite(Sent):
    email: Text
    role: str | list[str]
    organizationId: str | None = None
    resend: bool = False


class Answer(Sent):
    """`invitationId`: what came in the mail."""

    invitationId: str


def visible_invitations(db: orm.Session, own: Member) -> list[dict[str, Any]]:
    """The invitations of an organization that a member may see: those that they could have sent, oldest first."""
    if not allows(own.role, MAY_INVITE):
        return []
    here = sa.select(Invitation).where(Invitation.organization_id == own.organization_id)
    rows = db.scalars(here.order_by(Invitation.created_at, Invitation.id)).all()
    return [invitation_view(row) for row in rows if may_manage(own.role, row.role)]


def invitation_mail(auth: Auth, slug: str, inviter: User, email: str, token: str) -> Mail:
    """The mail with the token. Of what people chose there is the slug only, which can hold no link."""
    site, hours = auth.settings.base_url, auth.settings.invitation_lifetime // 3600
    url = mailed_url(auth.settings.invitation_page or f"{site}/accept-invitation", token)
    text = (
        f"{inviter.email} invites you to the organization {slug} at {site}.\n\n"
        f"This link accepts it, for {hours} hours, when you are signed in with this address:\n\n{url}\n\n"
        "If you do not know what this is about, do nothing.\n"
    )
    return Mail(email, "invitation", "An invitation", text, url, token)


def has_account_here(db: orm.Session, organization_id: UUID, email: str) -> bool:
    """Whether a member has this address."""
    found = sa.select(Member.id).join(User, User.id == Member.user_id)
    return db.scalar(found.where(Member.organization_id == organization_id, User.email == email)) is not None


def check_room(db: orm.Session, auth: Auth, organization_id: UUID, email: str, resend: bool) -> None:
    """AuthError when the address is a member's, when it is invited already, or when too many are."""
    if has_account_here(db, organization_id, email):
        raise refusal(400, "USER_IS_ALREADY_A_MEMBER_OF_THIS_ORGANIZATION")
    still_open = (Invitation.status == "pending", Invitation.expires_at > auth.clock.now())
    waiting = set(
        db.scalars(sa.select(Invitation.email).where(Invitation.organization_id == organization_id, *still_open))
    )
    if email in waiting and not resend:
        raise refusal(400, "USER_IS_ALREADY_INVITED_TO_THIS_ORGANIZATION")
    if email not in waiting and len(waiting) >= MOST_INVITATIONS:
        raise refusal(403, "INVITATION_LIMIT_REACHED")


def write_invitation(
    db: orm.Session, auth: Auth, organization_id: UUID, email: str, role: str, caller: SignedIn
) -> tuple[Invitation, Mail]:
    """Store the invitation, and what to mail. AuthError 403 for a role above the caller's."""
    now = auth.clock.now()
    expires_at = now + timedelta(seconds=auth.settings.invitation_lifetime)
    given = (
        organization_id,
        email,
        role,
        caller.user.id,
        expires_at,
        partial(new_token, "invitation", auth.random_bytes),
    )
    try:
        token = invite(db, *given, TABLES, id=auth.ids.new(), created_at=now)
    except Refused:
        raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_INVITE_USER_WITH_THIS_ROLE") from None
    slug = db.scalars(sa.select(Organization.slug).where(Organization.id == organization_id)).one()
    row = db.scalars(sa.select(Invitation).where(Invitation.token_hash == hash_token(token))).one()
    return row, invitation_mail(auth, slug, caller.user, email, token)


@invitation_routes.post("/invite-member")
def invite_member(auth: Service, sent: Annotated[Invite, body(Invite)], caller: CurrentSession) -> dict[str, Any]:
    """Invite an address. With `resend` an open invitation begins again, with another token: the old one is dead."""
    try:
        email = address(sent.email)
    except ValueError:
        raise AuthError(400, "INVALID_EMAIL") from None

    def work(db: orm.Session) -> tuple[dict[str, Any], Mail]:
        id = chosen(sent.organizationId, caller, 400, "ORGANIZATION_NOT_FOUND")
        own = own_membership(db, id, caller, 400, "MEMBER_NOT_FOUND")
        if not allows(own.role, MAY_INVITE):
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_INVITE_USERS_TO_THIS_ORGANIZATION")
        role = one_role(sent.role)
        touch(db, id)
        check_room(db, auth, id, email, sent.resend)
        mine = (Invitation.organization_id == id, Invitation.email == email, Invitation.status == "pending")
        waiting = db.scalar(sa.select(Invitation.role).where(*mine))
        if waiting is not None and not may_manage(own.role, waiting):  # an owner's offer is not an admin's to replace
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_INVITE_USERS_TO_THIS_ORGANIZATION")
        row, mail = write_invitation(db, auth, id, email, role, caller)
        return invitation_view(row), mail

    if auth.settings.rate_limits:
        spend(auth, BY_ONE, "invite", str(caller.user.id))
        spend(auth, TO_ONE, "invite", str(caller.user.id), email)
    in_background(auth)  # or 503, before anything is written
    view, mail = auth.transact(work)
    auth.postbox.post(mail)
    return view


# ---------------------------------------------------------------- answers


def named(db: orm.Session, auth: Auth, sent: str) -> Invitation:
    """The invitation that was sent: its token, or with the setting `strict_proof` off its id. AuthError 400."""
    row = db.scalar(sa.select(Invitation).where(Invitation.token_hash == hash_token(sent)))
    id = None if auth.settings.strict_proof else uuid_or_none(sent)
    if row is None and id is not None:
        row = db.get(Invitation, id)
    if row is None:
        raise refusal(400, "INVITATION_NOT_FOUND")
    return row


def token_of(db: orm.Session, auth: Auth, row: Invitation, sent: str) -> str:
    """A token that opens the invitation: what was sent, or a new one for who was let in by its id."""
    if row.token_hash == hash_token(sent):
        return sent
    token = new_token("invitation", auth.random_bytes)
    row.token_hash = hash_token(token)
    db.flush()
    return token


def check_recipient(caller: SignedIn, row: Invitation, code: str) -> None:
    """AuthError 403 unless it was sent to the caller's address, which they have proven."""
    if row.email != caller.user.email:
        raise refusal(403, "YOU_ARE_NOT_THE_RECIPIENT_OF_THE_INVITATION")
    if not caller.user.email_verified:
        raise refusal(403, code)


ANSWERING = "EMAIL_VERIFICATION_REQUIRED_BEFORE_ACCEPTING_OR_REJECTING_INVITATION"
LOOKING = "EMAIL_VERIFICATION_REQUIRED_FOR_INVITATION"


def proven_now(db: orm.Session, caller: SignedIn) -> str | None:
    """The address that the caller has proven, as the database says it now; their row stays until the commit."""
    if not hold(db, User.id, caller.user.id):
        raise AuthError(401, "UNAUTHORIZED")
    return db.scalar(sa.select(User.email).where(User.id == caller.user.id, User.email_verified))


def close(db: orm.Session, invitation_id: UUID, status: str) -> bool:
    """End an invitation that nobody has answered; whether it was one."""
    still_open = sa.update(Invitation).where(Invitation.id == invitation_id, Invitation.status == "pending")
    closed = still_open.values(status=status).returning(Invitation.id)
    return db.scalar(closed.execution_options(synchronize_session=False)) is not None


@invitation_routes.post("/accept-invitation")
def accept_invitation(auth: Service, sent: Annotated[Answer, body(Answer)], caller: CurrentSession) -> dict[str, Any]:
    """Become a member. The session works for the organization from now on."""

    def work(db: orm.Session) -> dict[str, Any]:
        row = named(db, auth, sent.invitationId)
        if row.status != "pending" or row.expires_at <= auth.clock.now():
            raise refusal(400, "INVITATION_NOT_FOUND")
        check_recipient(caller, row, ANSWERING)
        id, user_id = row.organization_id, caller.user.id
        touch(db, id)
        members = db.scalar(sa.select(sa.func.count()).where(Member.organization_id == id)) or 0
        if members >= MOST_MEMBERS:
            raise refusal(403, "ORGANIZATION_MEMBERSHIP_LIMIT_REACHED")
        if member_of(db, id, user_id) is not None:
            raise refusal(400, "USER_IS_ALREADY_A_MEMBER_OF_THIS_ORGANIZATION")
        token = token_of(db, auth, row, sent.invitationId)
        now, more = auth.clock.now(), {"id": auth.ids.new()}
        try:
            accepted = accept(db, token, user_id, proven_now(db, caller), now, TABLES, created_at=now, **more)
        except Refused:
            raise refusal(400, "INVITATION_NOT_FOUND") from None
        work_for(db, caller.session.id, id)
        member = member_of(db, id, user_id)
        return {"invitation": invitation_view(accepted), "member": member and member_view(member)}

    return auth.transact(work)


@invitation_routes.post("/reject-invitation")
def reject_invitation(auth: Service, sent: Annotated[Answer, body(Answer)], caller: CurrentSession) -> dict[str, Any]:
    """Decline."""

    def work(db: orm.Session) -> dict[str, Any]:
        row = named(db, auth, sent.invitationId)
        if row.status != "pending":
            raise AuthError(400, "INVITATION_NOT_FOUND", "Invitation not found!")
        check_recipient(caller, row, ANSWERING)
        if row.expires_at <= auth.clock.now() or not close(db, row.id, "rejected"):
            raise AuthError(400, "INVITATION_NOT_FOUND", "Invitation not found!")
        return {"invitation": invitation_view(row) | {"status": "rejected"}, "member": None}

    return auth.transact(work)


@invitation_routes.post("/cancel-invitation")
def cancel_invitation(auth: Service, sent: Annotated[Answer, body(Answer)], caller: CurrentSession) -> dict[str, Any]:
    """Take an invitation back, by its id. What was answered stays answered."""

    def work(db: orm.Session) -> dict[str, Any]:
        row = db.get(Invitation, uuid_or_none(sent.invitationId) or UUID(int=0))
        if row is None:
            raise refusal(400, "INVITATION_NOT_FOUND")
        own = own_membership(db, row.organization_id, caller, 400, "MEMBER_NOT_FOUND")
        if not allows(own.role, {"invitation": ["cancel"]}) or not may_manage(own.role, row.role):
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_CANCEL_THIS_INVITATION")
        touch(db, row.organization_id)
        if not close(db, row.id, "canceled"):
            raise refusal(400, "INVITATION_NOT_FOUND")
        return invitation_view(row) | {"status": "canceled"}

    return auth.transact(work)


# ---------------------------------------------------------------- lists


@invitation_routes.get("/get-invitation")
def get_invitation(auth: Service, id: str, caller: CurrentSession) -> dict[str, Any]:
    """An invitation to the caller, by what came in the mail."""

    def work(db: orm.Session) -> dict[str, Any]:
        row = named(db, auth, id)
        if row.status != "pending" or row.expires_at <= auth.clock.now():
            raise refusal(400, "INVITATION_NOT_FOUND")
        check_recipient(caller, row, LOOKING)
        organization = db.get(Organization, row.organization_id)
        inviter = db.get(User, row.inviter_id) if row.inviter_id else None
        if organization is None or inviter is None or not member_of(db, organization.id, inviter.id):
            raise refusal(400, "INVITER_IS_NO_LONGER_A_MEMBER_OF_THE_ORGANIZATION")
        more = {"organizationName": organization.name, "organizationSlug": organization.slug}
        return invitation_view(row) | more | {"inviterEmail": inviter.email}

    return auth.transact(work)


@invitation_routes.get("/list-invitations")
def list_invitations(auth: Service, caller: CurrentSession, organizationId: str = "") -> list[dict[str, Any]]:
    """The last invitation to each address, for who may invite."""

    def work(db: orm.Session) -> list[dict[str, Any]]:
        if not organizationId and caller.session.active_organization_id is None:
            raise AuthError(400, None, "Organization ID is required")
        id = chosen(organizationId, caller, 400, "ORGANIZATION_NOT_FOUND")
        own = member_of(db, id, caller.user.id)
        if own is None:
            raise AuthError(403, None, "You are not a member of this organization")
        if not allows(own.role, MAY_INVITE):
            raise refusal(403, "YOU_ARE_NOT_ALLOWED_TO_LIST_INVITATIONS")
        return visible_invitations(db, own)

    return auth.transact(work)


@invitation_routes.get("/list-user-invitations")
def list_user_invitations(auth: Service, caller: CurrentSession, email: str = "") -> list[dict[str, Any]]:
    """What the caller's proven address is invited to. Their mails say how to accept."""
    if email:
        raise AuthError(400, None, "User email cannot be passed for client side API calls.")
    if not caller.user.email_verified:
        raise refusal(403, LOOKING)
    mine = (Invitation.email == caller.user.email, Invitation.status == "pending")
    query = sa.select(Invitation, Organization.name).join(Organization, Organization.id == Invitation.organization_id)
    query = query.where(*mine, Invitation.expires_at > auth.clock.now()).order_by(Invitation.created_at, Invitation.id)
    rows = auth.transact(lambda db: db.execute(query).all())
    return [invitation_view(row) | {"organizationName": name} for row, name in rows]
