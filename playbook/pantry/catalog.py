"""The tables of the catalogue: packages, their releases and files, and who may change them.

`catalog_file` loads a file of packages into them.
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.engines import Base

NO_RANK = 2**31 - 1  # sorts a package without a rank after all others; the largest INTEGER
BY_RANK = f"coalesce(popularity_rank, {NO_RANK})"


class Package(Base):
    """A named package. `normalized_name` (PEP 503) is its natural key; `popularity_rank` 1 is the most downloaded.

    A `private` one exists only for those whom `policy` names: every SELECT of packages needs `policy.visible_to`.

    The last two indexes are for lists read page by page. DuckDB would keep them up to date at every write and never
    read them, so only PostgreSQL has them.
    """

    __tablename__ = "packages"
    __table_args__ = (
        sa.Index(None, "normalized_name", unique=True),
        sa.Index("ix_packages_popularity", sa.text(BY_RANK), "normalized_name").ddl_if("postgresql"),
        sa.Index("ix_packages_updated", "updated_at", "normalized_name").ddl_if("postgresql"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organizations.id"), index=True)
    name: Mapped[str]
    normalized_name: Mapped[str]
    summary: Mapped[str | None]
    popularity_rank: Mapped[int | None]
    private: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class PackageRole(Base):
    """What a person may do with one package beyond their role in its organization: "maintainer" or "uploader"."""

    __tablename__ = "package_roles"
    __table_args__ = (
        sa.Index(None, "package_id", "user_id", unique=True),
        sa.CheckConstraint("role IN ('maintainer', 'uploader')", "role"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    package_id: Mapped[UUID] = mapped_column(sa.ForeignKey("packages.id", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    created_at: Mapped[datetime]


class Release(Base):
    """One version of a package: `version` as typed, `version_key` to compare; `released_at` may be exact to the month.

    Yanking keeps the row: an installer that asks for exactly this version still gets it, all others no longer see it.

    DuckDB asks no index of two columns, so there the releases of a package have one of their own.
    """

    __tablename__ = "releases"
    __table_args__ = (
        sa.Index(None, "package_id", "version_key", unique=True),
        sa.Index(None, "package_id").ddl_if("duckdb"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    package_id: Mapped[UUID] = mapped_column(sa.ForeignKey("packages.id", ondelete="CASCADE"))
    version: Mapped[str]
    version_key: Mapped[str]
    is_prerelease: Mapped[bool]
    released_at: Mapped[datetime]
    yanked_at: Mapped[datetime | None]
    yanked_reason: Mapped[str | None]
    created_at: Mapped[datetime]


class File(Base):
    """A file of a release. `size_bytes` and `sha256` (hex) are those of the content, and never change."""

    __tablename__ = "files"
    __table_args__ = (
        sa.Index(None, "filename", unique=True),
        sa.CheckConstraint("kind IN ('sdist', 'wheel')", "kind"),
        sa.CheckConstraint("size_bytes >= 0", "size"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("releases.id", ondelete="CASCADE"), index=True)
    filename: Mapped[str]
    kind: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    uploaded_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    uploaded_at: Mapped[datetime]
