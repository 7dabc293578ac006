"""The catalogue as a graph: types, resolvers, and what they read. The route is in `graph`.

A query is one transaction, so all levels of its answer are of one moment. It runs in a thread of its own, on an event
loop that only it uses: a resolver that waits for the database holds up nobody else. Each relation is read once for all
rows of a level, and each SELECT has the policy's condition: what REST does not show does not exist here either.

`python -m playbook.pantry.graph_schema` writes the schema as text to `schema.graphql`, which clients are built from.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import sqlalchemy as sa
import strawberry
from graphql import DocumentNode, ExecutionResult, GraphQLError, GraphQLSchema, execute
from packaging.utils import canonicalize_name
from pydantic import ValidationError
from sqlalchemy import orm
from starlette.responses import Response
from strawberry.dataloader import DataLoader

from playbook.api.cursors import Cursors
from playbook.api.errors import Problem
from playbook.api.graphql_api import batch, shown
from playbook.api.graphql_limits import Limits
from playbook.pantry import organizations, packages
from playbook.pantry.catalog import Package as PackageRow
from playbook.pantry.catalog import Release as ReleaseRow
from playbook.pantry.lists import Listing, PageQuery, Pager
from playbook.schema.identity import Organization as OrganizationRow

# A page of a hundred packages with all their fields and their organizations has 1,500 values, from four statements.
# Introspection is for tools, in development. In production it is one more way to ask for much; the schema is a file.
CLOSED = Limits(tokens=1000, depth=8, cost=5000, statements=20, also=frozenset({"latestVersion"}))
LIMITS = replace(CLOSED, introspection=True)
MOST = 100  # rows of one list, as in REST
SDL = Path(__file__).with_name("schema.graphql")


# ---------------------------------------------------------------- what a query has, and how it reads


class Relation(NamedTuple):
    """How the rows of one kind are found: `read(context, keys, *arguments)`, and the attribute that has the key."""

    read: Callable[..., Sequence[Any]]
    key: str
    many: bool = False


@dataclass
class Context:
    """What the resolvers of one query share. Made for each query, since its loaders remember what its caller sees."""

    session: orm.Session
    cursors: Cursors
    visible_packages: sa.ColumnElement[bool]
    visible_organizations: sa.ColumnElement[bool]
    loaders: dict[Any, DataLoader[Any, Any]] = field(default_factory=dict)

    async def load(self, relation: Relation, key: Any, *arguments: Any) -> Any:
        """What `relation` has for `key`. What a level asks for with the same arguments is one statement."""
        if (relation, arguments) not in self.loaders:

            def read(keys: list[Any]) -> Sequence[Any]:
                return relation.read(self, keys, *arguments)

            load = batch(read, lambda row: getattr(row, relation.key), relation.many)
            self.loaders[relation, arguments] = DataLoader(load_fn=load)
        return await self.loaders[relation, arguments].load(key)

    def page(
        self, path: str, listing: Listing, query: Callable[[], PageQuery], visible: sa.ColumnElement[bool]
    ) -> tuple[list[Any], str | None, str | None]:
        """The rows of a page of a REST list, and its two cursors, which are those of the list's links."""
        pager = Pager(self.cursors, path, Response())
        try:
            rows, links = pager.page(self.session, listing, query(), visible)
        except Problem as problem:
            raise GraphQLError(f"cursor: {problem.detail}") from None
        except ValidationError as error:
            raise GraphQLError("; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())) from None
        return rows, cursor_of(links["next"]), cursor_of(links["prev"])


Info = strawberry.Info[Context, None]


def cursor_of(link: str | None) -> str | None:
    return parse_qs(urlsplit(link).query)["cursor"][0] if link else None


def checked(first: int) -> int:
    """`first`. Raises GraphQLError for what REST refuses, too."""
    if not 1 <= first <= MOST:
        raise GraphQLError(f"first: 1 to {MOST}")
    return first


def first_rows(select: sa.Select[Any], of: Any, order: Sequence[Any], first: int) -> sa.Select[Any]:
    """The first rows of each `of`, with a window function: one statement for all of them."""
    place = sa.func.row_number().over(partition_by=of, order_by=order).label("place")
    ranked = select.add_columns(place).subquery()
    *columns, last = ranked.c
    return sa.select(*columns).where(last <= first).order_by(last)


# ---------------------------------------------------------------- the types


@strawberry.type(description="One version of a package.")
class Release:
    package_id: strawberry.Private[UUID]
    version: str
    is_prerelease: bool
    released_at: datetime
    yanked_at: datetime | None


@strawberry.type(description="Who publishes.")
class Organization:
    slug: str
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime

    @strawberry.field(description="Its first packages by name; page through all with `packages(organization:)`.")
    async def packages(self, info: Info, first: int = 20) -> list["Package"]:
        found: list[Package] = await info.context.load(PACKAGES_OF, self.slug, checked(first))
        return found


@strawberry.type(description="What is published.")
class Package:
    name: str
    organization_slug: strawberry.Private[str]
    summary: str | None
    private: bool
    popularity_rank: int | None
    id: strawberry.Private[UUID]
    created_at: datetime
    updated_at: datetime

    @strawberry.field
    async def organization(self, info: Info) -> Organization | None:
        found: Organization | None = await info.context.load(ORGANIZATION, self.organization_slug)
        return found

    @strawberry.field(description="The newest version: none that was yanked, a pre-release only if there is no other.")
    async def latest_version(self, info: Info) -> str | None:
        newest: Newest | None = await info.context.load(NEWEST, self.id)
        return newest.version if newest else None

    @strawberry.field(description="The newest releases, by version.")
    async def releases(self, info: Info, first: int = 20) -> list[Release]:
        found: list[Release] = await info.context.load(RELEASES, self.id, checked(first))
        return found


@strawberry.type(description="A page. `next` and `prev` are the `cursor` of its neighbours, null where there is none.")
class PackagePage:
    nodes: list[Package]
    next: str | None
    prev: str | None


@strawberry.type(description="A page. `next` and `prev` are the `cursor` of its neighbours, null where there is none.")
class OrganizationPage:
    nodes: list[Organization]
    next: str | None
    prev: str | None


@strawberry.enum
class PackageSort(Enum):
    NAME = "name"
    NAME_DESCENDING = "-name"
    POPULARITY = "popularity"
    POPULARITY_DESCENDING = "-popularity"
    UPDATED = "updated"
    UPDATED_DESCENDING = "-updated"


@strawberry.enum
class OrganizationSort(Enum):
    SLUG = "slug"
    SLUG_DESCENDING = "-slug"
    UPDATED = "updated"
    UPDATED_DESCENDING = "-updated"


@strawberry.type
class Query:
    @strawberry.field(description="By any spelling of its name; null for one that its caller may not see.")
    async def package(self, info: Info, name: str) -> Package | None:
        found: Package | None = await info.context.load(PACKAGE, canonicalize_name(name))
        return found

    @strawberry.field
    async def organization(self, info: Info, slug: str) -> Organization | None:
        found: Organization | None = await info.context.load(ORGANIZATION, slug)
        return found

    @strawberry.field(description="Cursors are those of `GET /packages` with the same sort and organization.")
    async def packages(
        self, info: Info, first: int = 20, cursor: str | None = None, organization: str | None = None,
        sort: PackageSort = PackageSort.NAME,
    ) -> PackagePage:  # fmt: skip
        given: dict[str, Any] = {
            "limit": checked(first),
            "cursor": cursor,
            "organization": organization,
            "sort": sort.value,
        }
        query = partial(packages.PackageQuery, **given)
        visible = info.context.visible_packages
        rows, following, before = info.context.page("/packages", packages.PAGE_LIST, query, visible)
        return PackagePage(nodes=[package_of(row) for row in rows], next=following, prev=before)

    @strawberry.field(description="Cursors are those of `GET /organizations` with the same sort.")
    async def organizations(
        self, info: Info, first: int = 20, cursor: str | None = None, sort: OrganizationSort = OrganizationSort.SLUG
    ) -> OrganizationPage:
        query = partial(organizations.OrganizationQuery, limit=checked(first), cursor=cursor, sort=sort.value)
        listing, visible = organizations.ORGANIZATION_LIST, info.context.visible_organizations
        rows, following, before = info.context.page("/organizations", listing, query, visible)
        return OrganizationPage(nodes=[organization_of(row) for row in rows], next=following, prev=before)


# ---------------------------------------------------------------- the statements: one each, for any number of keys

PACKAGE_FIELDS = (
    "name", "organization_slug", "summary", "private", "popularity_rank", "id", "created_at", "updated_at",
)  # fmt: skip
RELEASE_FIELDS = ("package_id", "version", "is_prerelease", "released_at", "yanked_at")
PACKAGE_ROWS = packages.packages_with(PackageRow.id)
RELEASE_ROWS = sa.select(*(getattr(ReleaseRow, name) for name in RELEASE_FIELDS))


NEWEST_COLUMNS: tuple[Any, ...] = (ReleaseRow.package_id, ReleaseRow.version)


class Newest(NamedTuple):
    package_id: UUID
    version: str


def package_of(row: Any) -> Package:
    return Package(**dict(zip(PACKAGE_FIELDS, row, strict=True)))


def organization_of(row: Any) -> Organization:
    return Organization(**dict(zip(organizations.SHOWN, row, strict=True)))


def read_packages(context: Context, names: list[str]) -> list[Package]:
    found = PACKAGE_ROWS.where(PackageRow.normalized_name.in_(names), context.visible_packages)
    return [package_of(row) for row in context.session.execute(found)]


def read_packages_of(context: Context, slugs: list[str], first: int) -> list[Package]:
    visible = context.visible_packages, context.visible_organizations
    found = PACKAGE_ROWS.where(OrganizationRow.slug.in_(slugs), *visible)
    found = first_rows(found, OrganizationRow.slug, [PackageRow.normalized_name], first)
    return [package_of(row) for row in context.session.execute(found)]


def read_organizations(context: Context, slugs: list[str]) -> list[Organization]:
    found = organizations.ORGANIZATIONS.where(OrganizationRow.slug.in_(slugs), context.visible_organizations)
    return [organization_of(row) for row in context.session.execute(found)]


def releases_of(context: Context, ids: list[UUID], select: sa.Select[Any]) -> sa.Select[Any]:
    """The releases of packages that the caller may see: whoever called this has seen them, and it is asked again."""
    found = select.join(PackageRow, PackageRow.id == ReleaseRow.package_id)
    return found.where(ReleaseRow.package_id.in_(ids), context.visible_packages)


def read_releases(context: Context, ids: list[UUID], first: int) -> list[Release]:
    found = releases_of(context, ids, RELEASE_ROWS)
    found = first_rows(found, ReleaseRow.package_id, [ReleaseRow.version_key.desc()], first)
    rows = context.session.execute(found)
    return [Release(**dict(zip(RELEASE_FIELDS, row, strict=True))) for row in rows]


def read_newest(context: Context, ids: list[UUID]) -> list[Newest]:
    """By the rule of `packages.NEWEST`."""
    found = releases_of(context, ids, sa.select(*NEWEST_COLUMNS))
    order = [ReleaseRow.is_prerelease, ReleaseRow.version_key.desc()]
    found = first_rows(found.where(ReleaseRow.yanked_at.is_(None)), ReleaseRow.package_id, order, 1)
    return [Newest(*row) for row in context.session.execute(found)]


PACKAGE = Relation(read_packages, "name")
ORGANIZATION = Relation(read_organizations, "slug")
PACKAGES_OF = Relation(read_packages_of, "organization_slug", many=True)
NEWEST = Relation(read_newest, "package_id")
RELEASES = Relation(read_releases, "package_id", many=True)


# ---------------------------------------------------------------- the schema, and one query on it

STRAWBERRY = strawberry.Schema(Query)
SCHEMA: GraphQLSchema = STRAWBERRY._schema  # graphql-core's: the recipe needs no more of Strawberry


def run(
    make_context: Callable[[], Context], document: DocumentNode, variables: dict[str, Any] | None, operation: str | None
) -> dict[str, Any]:
    """The answer to an admitted query. What the database raises is raised here: the transaction knows what to do."""

    async def on_a_loop() -> ExecutionResult:
        context = make_context()  # on this loop, as its loaders need
        result = execute(
            SCHEMA, document, context_value=context, variable_values=variables, operation_name=operation
        )  # fmt: skip
        return result if isinstance(result, ExecutionResult) else await result

    result = asyncio.run(on_a_loop())
    for error in result.errors or ():
        if isinstance(error.original_error, (sa.exc.DBAPIError, sa.exc.TimeoutError)):
            raise error.original_error
    errors = [shown(error) for error in result.errors or ()]
    return {"data": result.data} | ({"errors": errors} if errors else {})


def as_text() -> str:
    """The schema in its own language (SDL)."""
    return STRAWBERRY.as_str() + "\n"


if __name__ == "__main__":
    SDL.write_text(as_text(), encoding="utf-8", newline="\n")
