"""The orders of the package list, by popularity and by date of change: the indexes that `api/pagination` reads.

On PostgreSQL only: DuckDB would keep them up to date at every write and never read them. A plain CREATE INDEX keeps
writers waiting while it reads the table: milliseconds for 15,000 packages, too long for millions.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_list_indexes"
down_revision = "0003_idempotency_keys"
branch_labels = None
depends_on = None
loses: dict[str, str] = {}


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        rank = sa.text("coalesce(popularity_rank, 2147483647)")
        op.create_index("ix_packages_popularity", "packages", [rank, "normalized_name"])
        op.create_index("ix_packages_updated", "packages", ["updated_at", "normalized_name"])


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_index("ix_packages_updated", "packages")
        op.drop_index("ix_packages_popularity", "packages")
