"""The releases of a package, for DuckDB: the list looks for the newest version of each of its packages.

PostgreSQL reads the index on package and version for that. DuckDB asks no index of two columns, and reads all releases.
"""

from alembic import op

revision = "0011_releases_by_package"
down_revision = "0010_second_factor"
branch_labels = None
depends_on = None
loses: dict[str, str] = {}


def upgrade() -> None:
    if op.get_context().dialect.name == "duckdb":
        op.create_index("ix_releases_package_id", "releases", ["package_id"])


def downgrade() -> None:
    if op.get_context().dialect.name == "duckdb":
        op.drop_index("ix_releases_package_id", "releases")
