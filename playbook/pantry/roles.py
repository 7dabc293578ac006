"""What a caller may do: by the role in the organization that owns the thing. What is not listed, no caller may.

The organization "mirror" of public packages has no members, so nothing of it can be changed.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from packaging.utils import canonicalize_name

from playbook.pantry.catalog import Package
from playbook.pantry.http import Caller, May
from playbook.pantry.reads import Reader
from playbook.schema.identity import ROLES, Member, Organization

OPEN = {"organizations:read", "packages:read", "organizations:create"}  # to everybody who is signed in
NEEDS = {
    "organizations:write": "admin", "organizations:delete": "owner",
    "packages:create": "member", "packages:write": "admin", "packages:delete": "admin",
}  # fmt: skip

# The role of :caller in the organization that is :named, or owns the package of that name. Built once: to put a
# statement together takes as long as to send it.
ROLE = (
    sa.select(Member.role)
    .join(Organization, Organization.id == Member.organization_id)
    .where(Member.user_id == sa.bindparam("caller"))
)
ROLE_BY_SLUG = ROLE.where(Organization.slug == sa.bindparam("named"))
ROLE_BY_PACKAGE = ROLE.where(
    Organization.id.in_(sa.select(Package.organization_id).where(Package.normalized_name == sa.bindparam("named")))
)


def by_membership(read: Reader) -> May:
    """Who may do what: by the caller's role in the organization that owns the thing. What is not listed, nobody may."""

    async def may(caller: Caller, action: str, target: Mapping[str, Any]) -> bool:
        if action in OPEN:
            return True
        if action not in NEEDS:
            return False
        named: str | None
        if "name" in target:
            role, named = ROLE_BY_PACKAGE, canonicalize_name(target["name"])
        else:
            role, named = ROLE_BY_SLUG, target.get("slug") or target.get("organization")

        def own_role(db: Any) -> Any:
            return db.execute(role, {"caller": caller.id, "named": named}).one_or_none()

        found = await read(own_role)
        return found is not None and ROLES.index(found[0]) >= ROLES.index(NEEDS[action])

    return may
