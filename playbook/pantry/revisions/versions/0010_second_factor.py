"""A second factor of an account, its recovery codes, and when it was given in a session."""

import sqlalchemy as sa
from alembic import op

revision = "0010_second_factor"
down_revision = "0009_api_tokens"
branch_labels = None
depends_on = None
loses = {
    "second_factors": "the table begins here: without it the password is enough again",
    "recovery_codes": "the table begins here, with the second factors",
    "sessions.second_factor_at": "the column begins here: no session has had a second factor before",
}


def user_id() -> sa.Column[object]:
    return sa.Column("user_id", sa.Uuid(), nullable=False)


def users(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_user_id_users")
    return sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    op.create_table(
        "second_factors",
        user_id(),
        sa.Column("sealed_secret", sa.String(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        users("second_factors"),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_second_factors")),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        user_id(),
        users("recovery_codes"),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_recovery_codes")),
    )
    op.create_index(op.f("ix_recovery_codes_user_id"), "recovery_codes", ["user_id"], unique=False)
    op.add_column("sessions", sa.Column("second_factor_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("sessions", "second_factor_at")
    op.drop_table("recovery_codes")
    op.drop_table("second_factors")
