"""Whom a package is for: `private`. Who has a role on a private package stands in `package_roles`, since 0002.

The release before does not know the column: its rows are public, by the default, and it shows every package to
everybody. So make no package private before the last process of it has stopped, and none may be private when the column
is taken away again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008_package_roles"
down_revision = "0007_active_organization"
branch_labels = None
depends_on = None
loses = {"packages.private": "the release before has no private packages: it would show them to everybody"}


def upgrade() -> None:
    # On DuckDB a copy of the table, since it can add no column that is NOT NULL.
    with op.batch_alter_table("packages") as batch:
        batch.add_column(sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("packages") as batch:
        batch.drop_column("private")
