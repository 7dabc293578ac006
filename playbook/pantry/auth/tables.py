"""The tables of sessions, mailed links, invitations, second factors and details of organizations.

They are as Better Auth's contract wants their rows.

No token is in them: a session's, a link's and an invitation's is stored as its hash, so that a backup opens nothing.
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.engines import Base
from playbook.schema.identity import User
from playbook.schema.relationships import delete_rows

HASH = sa.String(64)  # SHA-256 in hex: enough for a random token, never for a password


class UserSession(Base):
    """A signed-in browser or program. `id` lists and revokes it and may be shown; its token is only in the cookie.

    `expires_at` moves with use, `created_at` does not: the absolute lifetime is counted from it. `second_factor_at`:
    when the second factor was given last; NULL exactly when the account has none.
    """

    __tablename__ = "sessions"
    __table_args__ = (sa.Index(None, "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(HASH)
    expires_at: Mapped[datetime]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    active_organization_id: Mapped[UUID | None] = mapped_column(
        sa.ForeignKey("organizations.id", ondelete="SET NULL"), index=True
    )
    second_factor_at: Mapped[datetime | None]


class Verification(Base):
    """A link that was mailed. `purpose`: verify-email, reset-password, change-email; `email`: the address it proves."""

    __tablename__ = "verifications"
    __table_args__ = (sa.Index(None, "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    purpose: Mapped[str]
    email: Mapped[str]
    token_hash: Mapped[str] = mapped_column(HASH)
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


class SecondFactor(Base):
    """The authenticator app of a user, by the recipe `auth/second_factor`. Not confirmed: it does not count yet."""

    __tablename__ = "second_factors"

    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    sealed_secret: Mapped[str]
    confirmed: Mapped[bool]
    last_step: Mapped[int] = mapped_column(sa.BigInteger)


class RecoveryCode(Base):
    """A code in place of the app's, for one use. Random enough that a fast hash is enough (ASVS 6.5.2)."""

    __tablename__ = "recovery_codes"

    code_hash: Mapped[str] = mapped_column(HASH, primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)


class Invitation(Base):
    """An offer of membership to an address, at most one for each organization and address.

    It goes to an address, because who is invited may not be a user yet, or may be one under another address.
    """

    __tablename__ = "invitations"
    __table_args__ = (
        sa.Index(None, "organization_id", "email", unique=True),
        sa.Index(None, "token_hash", unique=True),
        sa.CheckConstraint("status IN ('pending', 'accepted', 'rejected', 'canceled')", "status"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organizations.id", ondelete="CASCADE"))
    email: Mapped[str]
    role: Mapped[str]
    inviter_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    token_hash: Mapped[str] = mapped_column(HASH)
    status: Mapped[str] = mapped_column(default="pending")
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


class OrganizationDetails(Base):
    """What Better Auth's organizations have besides: a logo's URL, and any object, as JSON. No row: neither."""

    __tablename__ = "organization_details"

    organization_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    logo: Mapped[str | None]
    metadata_json: Mapped[str | None]


def delete_user(db: orm.Session, user_id: UUID) -> bool:
    """Delete a user and what the foreign keys of the models let go with them; the rest stays, without the user.

    Returns whether there was such a user. Does not look whether an organization loses its last owner. PostgreSQL would
    cascade; DuckDB has no foreign keys here. The same statements run on both, so both keep the same rows.
    """
    users = User.metadata.tables["users"]
    return bool(delete_rows(db, users, users.c.id == user_id)["users"])
