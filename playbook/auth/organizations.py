# %% [markdown]
"""
# Organizations
"""

# %% tags=["export"]
import sqlalchemy as sa

from playbook.foundations.engines import Timestamp

metadata = sa.MetaData()
members = sa.Table(
    "members",
    metadata,
    sa.Column("organization_id", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
)
invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("organization_id", sa.String, primary_key=True),
    sa.Column("email", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("inviter_id", sa.String, nullable=False),
    sa.Column("token_hash", sa.String, nullable=False, unique=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
)

# %% tags=["export"]
ROLES = ("member", "admin", "owner")  # each may do what those before it may


class Refused(Exception):
    """The rules of organizations do not allow it: roll back."""


class NotAllowed(Refused):
    """The caller's role does not allow it, or there is no such member."""


class LastOwner(Refused):
    """The organization would have no owner."""


class NoInvitation(Refused):
    """No invitation that is good now, for this address."""


class AlreadyMember(Refused):
    """The user is a member already."""


def may_manage(own: str | None, *others: str) -> bool:
    """Whether `own` may give, change and take the roles `others`. ValueError: no role."""
    ranks = [ROLES.index(role) for role in others]
    return own in ("admin", "owner") and max(ranks) <= ROLES.index(own)


# %% tags=["export"]
from typing import Any, NamedTuple

from sqlalchemy import orm

Database = sa.Connection | orm.Session


class Tables(NamedTuple):
    """Where members and invitations are. Any tables with the same columns serve."""

    members: sa.Table
    invitations: sa.Table


OURS = Tables(members, invitations)


def hold_roles(
    db: Database, organization_id: Any, *user_ids: Any, tables: Tables = OURS
) -> dict[Any, str]:
    """The roles of these users and of all owners. The rows stay until the commit."""
    rows = tables.members
    some = sa.or_(rows.c.role == "owner", rows.c.user_id.in_(user_ids))
    same = rows.update().where(rows.c.organization_id == organization_id, some)
    held = same.values(role=rows.c.role).returning(rows.c.user_id, rows.c.role)
    return {user_id: role for user_id, role in db.execute(held)}


def keep_an_owner(roles: dict[Any, str]) -> None:
    """Raises LastOwner if no owner is among `roles`, as they will be."""
    if "owner" not in roles.values():
        raise LastOwner("the organization needs another owner first")


# %% tags=["export"]
def change_role(
    db: Database,
    organization_id: Any,
    user_id: Any,
    role: str,
    by: Any,
    tables: Tables = OURS,
) -> None:
    """Give a member another role. Raises NotAllowed or LastOwner."""
    roles = hold_roles(db, organization_id, user_id, by, tables=tables)
    old = roles.get(user_id)
    if old is None or not may_manage(roles.get(by), old, role):
        raise NotAllowed(f"may not make {old or 'a stranger'} {role}")
    keep_an_owner(roles | {user_id: role})
    rows = tables.members
    mine = [rows.c.organization_id == organization_id, rows.c.user_id == user_id]
    db.execute(rows.update().where(*mine).values(role=role))


def remove_member(
    db: Database, organization_id: Any, user_id: Any, by: Any, tables: Tables = OURS
) -> None:
    """Take a member out; `by` themselves, they leave. Raises NotAllowed or LastOwner."""
    roles = hold_roles(db, organization_id, user_id, by, tables=tables)
    old = roles.pop(user_id, None)
    if old is None or not (by == user_id or may_manage(roles.get(by), old)):
        raise NotAllowed(f"may not remove {old or 'a stranger'}")
    keep_an_owner(roles)
    rows = tables.members
    mine = [rows.c.organization_id == organization_id, rows.c.user_id == user_id]
    db.execute(rows.delete().where(*mine))


# %% tags=["export"]
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from playbook.foundations.clock_and_identifiers import hash_token


def invite(
    db: Database,
    organization_id: Any,
    email: str,
    role: str,
    by: Any,
    now: datetime,
    lifetime: timedelta,
    *,
    make_token: Callable[[], str] = secrets.token_urlsafe,
    tables: Tables = OURS,
    **more: Any,
) -> str:
    """The token for a mail to `email`. An older one of theirs is dead. NotAllowed."""
    roles = hold_roles(db, organization_id, by, tables=tables)
    if not may_manage(roles.get(by), role):
        raise NotAllowed(f"may not invite: {role}")
    token, rows = make_token(), tables.invitations
    new = {"role": role, "inviter_id": by, "token_hash": hash_token(token)}
    new |= {"status": "pending", "created_at": now, "expires_at": now + lifetime}
    same = [rows.c.organization_id == organization_id, rows.c.email == email]
    again = rows.update().where(*same).values(new).returning(rows.c.email)
    if db.execute(again).first() is None:
        new |= {"organization_id": organization_id, "email": email}
        db.execute(rows.insert().values(new | more))
    return token


# %% tags=["export"]
def take_invitation(
    db: Database,
    token: str,
    proven: str | None,
    now: datetime,
    status: str = "rejected",
    tables: Tables = OURS,
) -> sa.Row[Any]:
    """The invitation of `token`, answered by this. Raises NoInvitation.

    `proven`: the address that the caller has shown to be theirs, None without one.
    """
    rows = tables.invitations
    good = [rows.c.token_hash == hash_token(token), rows.c.email == proven]
    good += [rows.c.status == "pending", rows.c.expires_at > now]
    answered = rows.update().where(*good).values(status=status).returning(*rows.c)
    row = db.execute(answered).one_or_none()
    if row is None:
        raise NoInvitation("no invitation that is good, for this address")
    return row


def accept(
    db: Database,
    token: str,
    user_id: Any,
    proven: str | None,
    now: datetime,
    tables: Tables = OURS,
    **more: Any,
) -> sa.Row[Any]:
    """Make the user a member: the invitation. Raises NoInvitation or AlreadyMember."""
    row = take_invitation(db, token, proven, now, "accepted", tables)
    users = (row.inviter_id, user_id)
    roles = hold_roles(db, row.organization_id, *users, tables=tables)
    if not may_manage(roles.get(row.inviter_id), row.role):
        raise NoInvitation("whoever has invited may not do so any more")
    if user_id in roles:
        raise AlreadyMember("a member already")
    new = {"organization_id": row.organization_id, "user_id": user_id}
    new |= {"role": row.role, "created_at": now}
    db.execute(tables.members.insert().values(new | more))
    return row


# %% tags=["export"]
def found(
    db: Database,
    organization_id: Any,
    user_id: Any,
    now: datetime,
    tables: Tables = OURS,
    **more: Any,
) -> None:
    """The first member of a new organization is its owner."""
    new = {"organization_id": organization_id, "user_id": user_id}
    new |= {"role": "owner", "created_at": now}
    db.execute(tables.members.insert().values(new | more))


def cancel(
    db: Database, organization_id: Any, email: str, by: Any, tables: Tables = OURS
) -> bool:
    """Take an invitation back: whether there was one. Raises NotAllowed."""
    rows = tables.invitations
    roles = hold_roles(db, organization_id, by, tables=tables)
    if not may_manage(roles.get(by), "member"):
        raise NotAllowed("may not cancel an invitation")
    mine = [rows.c.organization_id == organization_id, rows.c.email == email]
    open_one = rows.update().where(*mine, rows.c.status == "pending")
    canceled = open_one.values(status="canceled").returning(rows.c.email)
    return db.execute(canceled).first() is not None


def purge_invitations(db: Database, now: datetime, tables: Tables = OURS) -> None:
    """Delete the invitations whose time is over."""
    rows = tables.invitations
    db.execute(rows.delete().where(rows.c.expires_at <= now))
