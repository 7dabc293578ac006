"""Lists read page by page, with signed cursors."""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, cast, get_args
from urllib.parse import quote, urlencode
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql

from playbook.api.errors import Problem
from playbook.pantry.errors import BAD_CURSOR

# A list has an allow-list of sorts, in its query model: so they are in the OpenAPI document, and everything else is a
# 422. A page of more than a hundred is refused and not cut: a client that asks for 5,000 rows and gets 100 may take
# them for the whole list.


class PageQuery(BaseModel):
    """The query of a list. A list's own adds `sort` as a Literal (`name`, `-name` for descending) and its filters."""

    model_config = ConfigDict(extra="forbid")  # an unknown parameter is an error

    limit: Annotated[int, Field(ge=1, le=100, description="at most this many items")] = 20
    cursor: Annotated[str | None, Field(max_length=4000, description="from a `next` or `prev` link")] = None
    sort: str

    def filters(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude_none=True, exclude={"limit", "cursor", "sort"})


# A `Listing` says what a list is. A sort with ties or NULLs loses rows only now and then, and no test of an endpoint
# will find it, so it is refused when the module is imported.


@dataclass(frozen=True)
class Listing:
    """A list that can be paged. `sorts`: columns that are never NULL, the last one unique. `filters`: equal to.

    Raises ValueError for a sort that is not total, and where `query` and the two allow-lists differ.
    """

    select: sa.Select[Any]
    query: type[PageQuery]
    sorts: Mapping[str, tuple[Any, ...]]
    filters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        offered = set(get_args(self.query.model_fields["sort"].annotation))
        if offered != {sign + name for name in self.sorts for sign in ("", "-")}:
            raise ValueError(f"{self.query.__name__}.sort and sorts differ: each has to offer `name` and `-name`")
        if self.query.model_fields.keys() - PageQuery.model_fields.keys() != self.filters.keys():
            raise ValueError(f"the fields of {self.query.__name__} and filters differ")
        for name, columns in self.sorts.items():
            if any(getattr(column, "nullable", False) for column in columns):
                raise ValueError(f"sort {name!r} has a column that can be NULL: use coalesce(column, value)")
            if not is_unique(columns[-1]):
                raise ValueError(f"sort {name!r} has ties: let it end in a unique column")


def is_unique(column: Any) -> bool:
    """Whether no two rows have the same value: a primary key or a unique index of this column alone."""
    table = getattr(column, "table", None)
    keys = [table.primary_key, *(index for index in table.indexes if index.unique)] if table is not None else []
    return any([key.name for key in unique.columns] == [column.key] for unique in keys)


# The cursor goes through the client's hands and comes back into a WHERE clause, so it is signed, over the text as it
# is sent and not the bytes inside: base64 has many spellings for the same bytes (Python skips what is not in its
# alphabet, the last letter has unused bits), and all but one are refused *before* anything is decoded.
#
# The key is derived from the service's secret with a label: a signature made for any other purpose is none here.
# Signed is not encrypted: put nothing into a cursor that the page did not show.


TAGS = {datetime: "$time", UUID: "$uuid"}  # what JSON has no type for
READ: dict[str, Any] = {"$time": datetime.fromisoformat, "$uuid": UUID}


@dataclass(frozen=True)
class Cursors:
    """Signs and reads cursors with `key`, 32 bytes; make it with `cursors_of(secret)`."""

    key: bytes = field(repr=False)

    def sign(self, content: Mapping[str, Any]) -> str:
        """`content` as JSON in base64url (RFC 4648, 5), a dot, its HMAC-SHA-256 (RFC 2104).

        KeyError for a type not in `TAGS`.
        """
        text = json.dumps(content, default=lambda value: {TAGS[type(value)]: str(value)}, separators=(",", ":"))
        body = urlsafe_b64encode(text.encode()).rstrip(b"=")
        return (body + b"." + self.mac(body)).decode()

    def read(self, cursor: str) -> dict[str, Any]:
        """What was signed. Raises Problem (400) for anything `sign` has not made with this key."""
        body, _, mac = cursor.encode(errors="replace").rpartition(b".")
        if not hmac.compare_digest(mac, self.mac(body)):  # takes as long for a wrong first letter as for a last
            raise Problem(BAD_CURSOR, "it was changed on its way, or made by another service")
        text = urlsafe_b64decode(body + b"=" * (-len(body) % 4))
        content = json.loads(text, object_hook=lambda o: next((READ[k](v) for k, v in o.items() if k in READ), o))
        return cast(dict[str, Any], content)

    def mac(self, body: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(self.key, body, "sha256")).rstrip(b"=")


def cursors_of(secret: str) -> Cursors:
    """Cursors with a key for this purpose only, derived from the service's secret."""
    return Cursors(hmac.digest(secret.encode(), b"pantry page cursors, version 1", "sha256"))


# A genuine cursor can still be in the wrong place: at another list, with another filter, in another order. Its key
# would be compared with the wrong columns, and the pages would look plausible. So it names all three. The list is
# named by its path, which also tells the releases of one package from those of another. With them stand a direction
# and the key. Without a key it is the start, or going backwards the end.


Key = tuple[Any, ...]


def position(content: Mapping[str, Any], belongs: Mapping[str, Any], columns: Key) -> tuple[str, Key | None]:
    """Direction and key of a cursor. Raises Problem (400) when it belongs to another list, filter or sort."""
    for what, here in belongs.items():
        if content[what] != here:
            raise Problem(BAD_CURSOR, f"it was made for another {what}")
    key = content["key"]
    if key is not None and len(key) != len(columns):  # this sort had other columns when the cursor was made
        raise Problem(BAD_CURSOR, "it was made for an older form of this list")
    return content["to"], None if key is None else tuple(key)


# The statement compares **rows**: `(rank, name) > (7, 'six')` means what the ORDER BY means, for any number of
# columns, and PostgreSQL can start in the middle of an index with it. Backwards is the same with both signs turned,
# and the rows turned round at the end. One row more than asked for tells whether there is more, without a `count(*)`.


def read_rows(
    session: orm.Session, listing: Listing, query: PageQuery, to: str, key: Key | None
) -> tuple[list[tuple[Any, Key]], bool]:
    """Rows after `key` in the direction `to`, each with its key, and whether there are more."""
    columns = listing.sorts[query.sort.removeprefix("-")]
    falling = query.sort.startswith("-") != (to == "prev")
    select = listing.select.add_columns(*columns)
    for name, value in query.filters().items():
        select = select.where(listing.filters[name] == value)
    if key is not None:
        here, values = sa.tuple_(*columns), zip(key, columns, strict=True)
        last = sa.tuple_(*(sa.literal(value, column.type) for value, column in values))
        select = select.where(here < last if falling else here > last)
    order = [column.desc() if falling else column.asc() for column in columns]
    found = session.execute(select.order_by(*order).limit(query.limit + 1)).all()
    rows = [(row[: -len(columns)], tuple(row[-len(columns) :])) for row in found]
    return rows[: query.limit], len(rows) > query.limit


# Then the links. Ahead there is a page if there was a row too many. Behind there is one if we came from there, even
# when this page is empty because all after the key was deleted: then it leads to the list's end. They go into the
# body and, for programs that know RFC 8288 and not Pantry, into `Link`. Both are paths: a whole URL would need the
# Host header, which the client chooses.


@dataclass(frozen=True)
class Pager:
    """Reads pages for one request. `path` names the list; the `Link` header goes to `response`."""

    cursors: Cursors
    path: str
    response: Response

    def page(self, session: orm.Session, listing: Listing, query: PageQuery) -> tuple[list[Any], dict[str, Any]]:
        """The rows of `listing` that `query` asks for; `next`, `prev`, `complete`. Raises Problem (400)."""
        belongs = {"list": self.path, "filter": query.filters(), "sort": query.sort}
        columns, to, key = listing.sorts[query.sort.removeprefix("-")], "next", None
        if query.cursor is not None:
            to, key = position(self.cursors.read(query.cursor), belongs, columns)
        rows, more = read_rows(session, listing, query, to, key)
        links: dict[str, Any] = {"next": None, "prev": None}
        if more:
            links[to] = self.url(query, {**belongs, "to": to, "key": rows[-1][1]})
        if key is not None:
            back = "next" if to == "prev" else "prev"
            links[back] = self.url(query, {**belongs, "to": back, "key": rows[0][1] if rows else None})
        self.response.headers["Link"] = ", ".join(f'<{url}>; rel="{rel}"' for rel, url in links.items() if url)
        ordered = [row for row, _ in rows]
        return ordered if to == "next" else ordered[::-1], links | {"complete": not any(links.values())}

    def url(self, query: PageQuery, content: Mapping[str, Any]) -> str:
        """A path with the client's own parameters and a cursor."""
        given = query.model_dump(mode="json", exclude={"cursor"}, exclude_defaults=True, exclude_none=True)
        return f"{self.path}?{urlencode(given | {'cursor': self.cursors.sign(content)})}"


def sign_cursors(app: FastAPI, secret: str) -> None:
    """Give `app` the key of its cursors. Every process of a service needs the same secret."""
    app.state.cursors = cursors_of(secret)


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
