"""Who may do what: the one place that decides it, for REST and for GraphQL, for a single thing and for lists.

The recipe is `auth/authorization`. `of_package` and `of_organization` say how a caller can stand to a thing, each
relation a condition on its row; PERMITS says which relations permit an action. What is not listed, no caller may.

`visible_to` makes a SQL condition of them, for lists, counts and cursors, and for a GET of one thing. `may` asks for
one thing, in the transaction that changes it: a role that is taken away holds at the next request, and at the next
attempt of one that met a conflict.

A private package of others does not exist: every answer is that for a name which nobody has. One answer cannot be: who
creates a package learns that a name is taken, because names are unique across organizations. The answer is the one for
a public package's name. So it tells that the name is in use, and neither by whom nor for what.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, HTTPException
from packaging.utils import canonicalize_name

from playbook.auth.authorization import Clause, Permits, Relations, permitted
from playbook.pantry.catalog import Package, PackageRole
from playbook.pantry.http import SIGHT, Caller, CurrentCaller, Permission, refuse_out_of_scope
from playbook.schema.identity import Member, Organization

# Each relation implies those before it of its kind: an owner is an admin is a member, a maintainer is an uploader.
PERMITS: Permits = {
    "organizations:create": ("anybody",),
    "organizations:read": ("anybody",),
    "organizations:write": ("admin",),
    "organizations:delete": ("owner",),
    "packages:create": ("member",),  # in this organization
    "packages:read": ("public", "member", "uploader"),
    "packages:write": ("admin", "maintainer"),
    "packages:publish": ("admin",),  # make a private package public, or a public one private
    "packages:delete": ("admin",),
}
IN_ORGANIZATION = {"member": ("member", "admin", "owner"), "admin": ("admin", "owner"), "owner": ("owner",)}
ON_PACKAGE = {"uploader": ("uploader", "maintainer"), "maintainer": ("maintainer",)}


def one_of(column: Any, roles: Collection[str]) -> Clause:
    """Whether `column` has one of `roles`. An IN with a list would be rendered anew for each request."""
    return sa.or_(*(column == role for role in roles))


def of_organization(user_id: UUID, organization: Any) -> Relations:
    """How a user can stand to the organization with the id `organization`, a column."""
    mine = sa.select(Member.organization_id).where(Member.user_id == user_id)
    roles = {name: organization.in_(mine.where(one_of(Member.role, roles))) for name, roles in IN_ORGANIZATION.items()}
    return {"anybody": sa.true(), **roles}


def of_package(user_id: UUID) -> Relations:
    """How a user can stand to a package, by its row: also to its organization."""
    mine = sa.select(PackageRole.package_id).where(PackageRole.user_id == user_id)
    roles = {name: Package.id.in_(mine.where(one_of(PackageRole.role, roles))) for name, roles in ON_PACKAGE.items()}
    public = Package.private.is_(sa.false())
    return {"public": public, **of_organization(user_id, Package.organization_id), **roles}


# What is kept is the question, never an answer: to build a condition takes four times as long as to read the package.
KEPT = 500  # callers, at 13 KB each


@lru_cache(KEPT)
def relations_of(user_id: UUID, action: str) -> Relations:
    """How a user can stand to what `action` is done to, by its row: a package, or an organization."""
    return of_package(user_id) if action.startswith("packages:") else of_organization(user_id, Organization.id)


@lru_cache(KEPT)
def condition(user_id: UUID, action: str, reading: str = "") -> Clause:
    """The rows on which `action` is permitted: of what it names itself, or of what `reading` reads."""
    return permitted(PERMITS, action, relations_of(user_id, reading or action))


def visible_to(caller: Caller, action: str = "packages:read") -> Clause:
    """What exists for `caller`, as a condition on `packages`, or `organizations`. Every SELECT of packages needs it."""
    return condition(caller.id, action)


@lru_cache(4 * KEPT)
def seen(found: sa.Select[Any], visible: Clause) -> sa.Select[Any]:
    """`found`, and of it only what is visible."""
    return found.where(visible)


def sees(caller: Caller, action: str) -> Clause:
    """`visible_to`; 403 for a token without the scope `action`."""
    refuse_out_of_scope(caller, action)
    return visible_to(caller, action)


def sight(action: str) -> Any:
    """A dependency of a route that reads: what the caller `sees`."""

    async def visible(caller: CurrentCaller) -> Clause:
        return sees(caller, action)

    visible.__name__ = SIGHT + action
    return Depends(visible)


VisiblePackages = Annotated[Clause, sight("packages:read")]
VisibleOrganizations = Annotated[Clause, sight("organizations:read")]


def allowed(permit: Permission, action: str, reading: str = "") -> Clause | None:
    """`condition`, for a statement that acts; None where another `may` decides. To make a package is done to what
    "organizations:read" reads.

    403 for a token without the scope `action`.
    """
    refuse_out_of_scope(permit.caller, action)
    return condition(permit.caller.id, action, reading) if permit.may is may else None


@lru_cache(KEPT)
def question(user_id: UUID, action: str, reading: str) -> sa.Select[bool, bool]:
    """What the recipe's `decide` asks of one thing: the parameter `thing` is its name."""
    relations = relations_of(user_id, reading)
    named: sa.BindParameter[str] = sa.bindparam("thing")
    which = Package.normalized_name == named if reading == "packages:read" else Organization.slug == named
    seen, may = (permitted(PERMITS, each, relations) for each in (reading, action))
    return sa.select(seen.label("seen"), may.label("may")).where(which)


def may(db: Any, caller: Caller, action: str, target: Mapping[str, Any]) -> bool:
    """Whether `caller` may do `action` to what `target` names: a package by `name`, an organization by `slug`.

    Raises HTTPException 404 where the thing does not exist for the caller. An organization that a body names, as
    `organization`, is no URL: there the answer is False. `db` is the session of the transaction that acts: the role is
    never older than that, and is read again when the transaction meets a conflict.
    """
    if "name" in target:
        words, reading, thing = f"package {target['name']!r}", "packages:read", canonicalize_name(target["name"])
    else:
        thing = target.get("slug", target.get("organization"))
        if thing is None:  # it is about no thing
            return "anybody" in PERMITS.get(action, ())
        words, reading = f"organization {thing!r}", "organizations:read"
    found = db.execute(question(caller.id, action, reading), {"thing": thing}).one_or_none()
    exists = found is not None and bool(found[0])
    if not exists and "organization" not in target:
        raise HTTPException(404, f"there is no {words}")
    return exists and bool(found[1])
