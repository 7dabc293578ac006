"""Roles on one package: how they begin, and how they end with a membership. `policy` says what they permit.

No route gives a role yet: who writes one calls `give_role`. Somebody from outside may have one. A member's end with the
membership, or whoever was removed would still write to the packages, and come back with more than the new invitation
gives.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.write_skew import hold
from playbook.pantry.catalog import Package, PackageRole
from playbook.schema.identity import Organization


def give_role(
    db: orm.Session, id: UUID, package: Package, user_id: UUID, role: Literal["maintainer", "uploader"], now: datetime
) -> None:
    """Give a role on a package, in place of an earlier one.

    It writes the row of the organization, as each change of its members does. So a removal that goes on meanwhile
    conflicts with it, and the later one reads again who is a member (`write_skew`).
    """
    hold(db, Organization.id, package.organization_id, alone=True)
    mine = [PackageRole.package_id == package.id, PackageRole.user_id == user_id]
    db.execute(sa.delete(PackageRole).where(*mine).execution_options(synchronize_session=False))
    db.add(PackageRole(id=id, package_id=package.id, user_id=user_id, role=role, created_at=now))


def end_roles(db: orm.Session, user_id: UUID, organization_id: UUID) -> None:
    """Take the roles of a user on all packages of an organization. The caller has written the organization's row."""
    packages = sa.select(Package.id).where(Package.organization_id == organization_id)
    mine = sa.delete(PackageRole).where(PackageRole.user_id == user_id, PackageRole.package_id.in_(packages))
    db.execute(mine.execution_options(synchronize_session=False))
