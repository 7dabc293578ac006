"""Lists read page by page, on the recipes `pagination` and `cursors`.

What they do not have and Pantry adds: a strict query for each list, with an allow-list of sorts; the problem type of a
bad cursor; `complete`, and the `Link` header.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects import postgresql
from sqlalchemy.util import LRUCache

from playbook.api import cursors as recipe
from playbook.api.cursors import Cursors, link, read_list
from playbook.api.errors import Problem
from playbook.api.pagination import Order
from playbook.pantry.errors import BAD_CURSOR

# A list has an allow-list of sorts, in its query model: so they are in the OpenAPI document, and everything else is a
# 422. A page of more than a hundred is refused and not cut: a client that asks for 5,000 rows and gets 100 may take
# them for the whole list.


MOST = 100  # items of a page


class PageQuery(BaseModel):
    """The query of a list. A list's own adds `sort` as a Literal (`name`, `-name` for descending) and its filters."""

    model_config = ConfigDict(extra="forbid")  # an unknown parameter is an error

    limit: Annotated[int, Field(ge=1, le=MOST, description="at most this many items")] = 20
    cursor: Annotated[str | None, Field(max_length=4000, description="from a `next` or `prev` link")] = None
    sort: str

    def parameters(self) -> dict[str, Any]:
        """The sort and the filters, also where they are the default: a link means the same after a default changed."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"limit", "cursor"})


@dataclass(frozen=True)
class Listing:
    """A list that can be paged. `sorts`: columns that are never NULL and together unique. `filters`: equal to.

    Made when its module is imported. Raises ValueError for a sort that would lose rows, and where `query` and the two
    allow-lists differ.
    """

    select: sa.Select[Any]
    query: type[PageQuery]
    sorts: Mapping[str, tuple[Any, ...]]
    filters: Mapping[str, Any] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(init=False, repr=False)  # by the value of `sort`: "name", "-name"

    def __post_init__(self) -> None:
        orders: dict[str, Order] = {}
        for name, columns in self.sorts.items():
            try:
                orders |= {name: Order(columns), f"-{name}": Order(columns, descending=True)}
            except ValueError as error:
                raise ValueError(f"sort {name!r}: {error}") from None
        if set(get_args(self.query.model_fields["sort"].annotation)) != orders.keys():
            raise ValueError(f"{self.query.__name__}.sort and sorts differ: each has to offer `name` and `-name`")
        if self.query.model_fields.keys() - PageQuery.model_fields.keys() != self.filters.keys():
            raise ValueError(f"the fields of {self.query.__name__} and filters differ")
        object.__setattr__(self, "orders", orders)

    def asked(self, path: str, query: PageQuery) -> recipe.Listing:
        """What a cursor is bound to. The path also tells the releases of one package from those of another."""
        return recipe.Listing(path, query.parameters(), self.orders[query.sort])

    def filtered(self, query: PageQuery) -> sa.Select[Any]:
        given = query.parameters()
        return self.select.where(*(column == given[name] for name, column in self.filters.items() if name in given))


# The key of the cursors is derived from the service's secret with a label: a signature made for any other purpose is
# none here. Signed is not encrypted, so sort by nothing that the page does not show.


def cursors_of(secret: str) -> Cursors:
    """Cursors with a key for this purpose only. Every process of a service needs the same secret."""
    return Cursors([hmac.digest(secret.encode(), b"pantry page cursors, version 1", "sha256")])


def sign_cursors(app: FastAPI, secret: str) -> None:
    """Give `app` its cursors."""
    app.state.cursors = cursors_of(secret)


# The links are in the body and, for programs that know RFC 8288 and not Pantry, in `Link`. They are paths: a whole URL
# would need the Host header, which the client chooses.


# The first page is asked for again and again, and to see that a statement is a known one takes longer than to send it.
# So its statement is kept, by all that it is made of. Behind a cursor each statement has its own key in it.
FIRST: LRUCache[Any, Any] = LRUCache(500)
LINKS: LRUCache[Any, Any] = LRUCache(500)  # the same for what leads on from there: to encode and sign takes its time


class Kept:
    """What `read_list` gets in place of `db`: the statement for `key` is the one of the last time."""

    def __init__(self, db: Any, key: tuple[Any, ...]) -> None:
        self.db, self.key = db, key

    def execute(self, statement: sa.Select[Any]) -> Any:
        kept = FIRST.get(self.key)
        if kept is None:
            kept = FIRST[self.key] = statement
        return self.db.execute(kept)


def key_of(listing: Listing, query: PageQuery, visible: Any) -> tuple[Any, ...]:
    return (listing.select, *sorted(query.parameters().items()), query.limit, visible)


def kept(listing: Listing, query: PageQuery, visible: Any) -> Any:
    """The statement for a first page that was asked for before; None for another one."""
    return FIRST.get(key_of(listing, query, visible)) if query.cursor is None else None


@dataclass(frozen=True)
class Pager:
    """Reads pages for one request. `path` names the list; the `Link` header goes to `response`."""

    cursors: Cursors
    path: str
    response: Response

    def page(
        self, db: Any, listing: Listing, query: PageQuery, visible: sa.ColumnElement[bool]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The rows of `listing` that `query` asks for; `next`, `prev`, `complete`. Raises Problem (400).

        `visible` is a condition on the rows: what the caller may not see is on no page, and no link begins at it.
        """
        asked, wanted = listing.asked(self.path, query), listing.filtered(query).where(visible)
        if query.cursor is None:
            db = Kept(db, key_of(listing, query, visible))
        try:
            found, links = read_list(db, wanted, asked, query.limit, self.cursors, query.cursor)
        except HTTPException:  # of the cursor: the code over it and its list is wrong, and that is all that is known
            detail = "it was made for another list, filter or sort, by another service, or was changed on its way"
            raise Problem(BAD_CURSOR, detail) from None
        return self.linked(found, asked, links)

    def first_page(self, listing: Listing, query: PageQuery, found: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The same for the first page, of rows that were found otherwise: with their key, and one more than fit.

        Raises ValueError for two rows with one key, as `read_page` does.
        """
        asked, rows = listing.asked(self.path, query), found[: query.limit]
        keys = [row[-len(asked.order.columns) :] for row in found]
        if len(set(keys)) < len(keys):
            raise ValueError("two rows have one key: does a join repeat rows?")
        further = self.next_link(rows, asked, query.limit) if len(found) > query.limit else None
        return self.linked(rows, asked, {"next": further, "prev": None})

    def next_link(self, rows: Sequence[Any], asked: recipe.Listing, limit: int) -> str:
        """The recipe's `link`, which makes the same one for the same page: nothing in it is of the moment."""
        page = (self.path, asked.order.name, *sorted(asked.parameters.items()), limit, asked.order.key_of(rows[-1]))
        key = (*self.cursors.secrets, *page)
        if (found := LINKS.get(key)) is None:
            found = LINKS[key] = link("next", rows, asked, limit, self.cursors)
        return str(found)

    def linked(
        self, found: Sequence[Any], asked: recipe.Listing, links: dict[str, str | None]
    ) -> tuple[list[Any], dict[str, Any]]:
        self.response.headers["Link"] = ", ".join(f'<{url}>; rel="{rel}"' for rel, url in links.items() if url)
        rows = [row[: -len(asked.order.columns)] for row in found]  # without the key at the end
        return rows, {**links, "complete": not any(links.values())}


async def pager_of(request: Request, response: Response) -> Pager:
    return Pager(request.app.state.cursors, quote(request.scope["path"]), response)


Paging = Annotated[Pager, Depends(pager_of)]


class PageOut(BaseModel):
    """What every list answers with; its own adds `items`. An object, not a bare array, so that it can grow."""

    complete: bool
    next: str | None
    prev: str | None


NOT_THIS_LIST: dict[int | str, dict[str, Any]] = {400: {"description": "Not this list's cursor."}}


def index_sql(listing: Listing, sort: str) -> str:
    """CREATE INDEX for one sort, for PostgreSQL; it is read in both directions. For a migration."""
    options: dict[str, Any] = {"compile_kwargs": {"literal_binds": True, "include_table": False}}
    texts = [str(column.compile(dialect=postgresql.dialect(), **options)) for column in listing.sorts[sort]]  # type: ignore[no-untyped-call]
    return f"CREATE INDEX ix_{(table := listing.sorts[sort][-1].table.name)}_{sort} ON {table} ({', '.join(texts)})"
