"""Which organization a session works for, and what Better Auth's organizations have besides: a logo, metadata.

Both belong to its plugin. The details have a table of their own, since an organization of the resource API has none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007_active_organization"
down_revision = "0006_answers_as_json"
branch_labels = None
depends_on = None
loses = {
    "sessions.active_organization_id": "the column begins here; going up again, no session works for an organization",
    "organization_details": "the table begins here; logos and metadata go",
}


def upgrade() -> None:
    op.add_column("sessions", sa.Column("active_organization_id", sa.Uuid(), nullable=True))
    index = op.f("ix_sessions_active_organization_id")
    op.create_index(index, "sessions", ["active_organization_id"], unique=False)
    if op.get_context().dialect.name == "postgresql":
        key = op.f("fk_sessions_active_organization_id")
        columns = ["active_organization_id"], ["id"]
        op.create_foreign_key(key, "sessions", "organizations", *columns, ondelete="SET NULL")
    op.create_table(
        "organization_details",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("logo", sa.String(), nullable=True),
        sa.Column("metadata_json", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"],
            name=op.f("fk_organization_details_organization_id"), ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_organization_details")),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("organization_details")
    op.drop_index(op.f("ix_sessions_active_organization_id"), "sessions")
    op.drop_column("sessions", "active_organization_id")
