"""How much of an allowance is used up: the table of `auth/sign_in`."""

import sqlalchemy as sa
from alembic import op

revision = "0005_throttles"
down_revision = "0004_list_indexes"
branch_labels = None
depends_on = None
loses = {"throttles": "the table begins here; every allowance is whole again"}


def upgrade() -> None:
    op.create_table(
        "throttles",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("whole_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_throttles")),
    )


def downgrade() -> None:
    op.drop_table("throttles")
