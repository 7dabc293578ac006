# %% [markdown]
"""
# Signed cursors

Hand a client its position in a list. Accept only what you handed out, and only for the
same list.

| | |
|---|---|
| **Use it when** | a position travels through a URL, or a list has filters |
| **You need** | [pagination](pagination.ipynb) (*code*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | cursor, page token, next link, HMAC, signature, key rotation |
| **Standard** | RFC 2104, RFC 4648 (3.5, 5), RFC 8288 |

```python
from playbook.api.cursors import Cursors, Listing, read_list

cursors = Cursors([new_secret, old_secret])  # the first signs, each is accepted
listing = Listing("/invoices", {"sort": sort}, ORDERS[sort], caller)
rows, links = read_list(db, sa.select(invoices), listing, limit, cursors, cursor)
```

*Lift: 160 lines in 2 files; needs fastapi, sqlalchemy.*

## See it break

A shop lists invoices. The position is a *cursor*: text that a client gets and sends
back. A client need not read it: to a client it is **opaque**. This service packs what
it needs for the next page into the cursor, as JSON in base64.

The folded cell makes a table `invoices` with six invoices each of Ada and Mallory, and
its `engine`. `by_amount` is an order of it. `Caller` reads the header `X-Caller`, which
stands for a sign-in. The cell imports `sa`, `json`, `urlsafe_b64decode`,
`urlsafe_b64encode`, `FastAPI`, `Literal`, `Order`, `read_page`, and `serving`, which
runs a service.
"""

# %% tags=["stage"]
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from datetime import date
from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import FastAPI, Header

from playbook.api.pagination import Order, read_page
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, serving

invoices = sa.Table(
    "invoices",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
    sa.Column("sent_on", sa.Date, nullable=False),
)
engine = make_engine(lesson_url())
invoices.create(engine)
with engine.begin() as connection:
    for number in range(1, 13):
        owner = "ada" if number % 2 else "mallory"
        row = (number, owner, number * 7 % 12 * 100, date(2026, 11, 1 + number // 3))
        connection.execute(invoices.insert().values(row))
by_amount = Order([invoices.c.amount, invoices.c.id])
Caller = Annotated[str, Header(alias="X-Caller")]

# %% [markdown]
"""
The folded cell defines `forge(app)`. Mallory reads her first page, ordered by amount.
Then she sends the cursor of `next` back in four ways: as it came, with `mallory`
replaced by `ada`, in another order, and with a word in the place of the amount. Odd
numbers are Ada's, even ones Mallory's. Predict: what does this service return to each?
"""


# %% tags=["stage"]
def forge(app):
    with serving(app, headers={"X-Caller": "mallory"}) as mallory:
        cursor = mallory.get("/invoices?sort=amount").json()["next"]
        text = urlsafe_b64decode(cursor).decode()
        amount = str(json.loads(text)["after"][0])
        for forgery, old, new, sort in (
            ("as it came", "", "", "amount"),
            ("owner edited", "mallory", "ada", "amount"),
            ("in another order", "", "", "id"),
            ("amount edited", amount, '"much"', "amount"),
        ):
            changed = urlsafe_b64encode(text.replace(old, new, 1).encode()).decode()
            response = mallory.get(f"/invoices?sort={sort}&cursor={changed}")
            items = response.json()["items"] if response.is_success else ""
            print(f"{forgery:18} {response.status_code} {items}".rstrip())


# %% tags=["predict"]
naive = FastAPI()


@naive.get("/invoices")
def naive_list(caller: Caller, sort: str = "id", cursor: str | None = None):
    position = {"owner": caller, "after": [0, 0]}
    if cursor is not None:
        position = json.loads(urlsafe_b64decode(cursor))
    order = Order([invoices.c[sort], invoices.c.id])
    owned = sa.select(invoices).where(invoices.c.owner == position["owner"])
    with engine.connect() as connection:
        page = read_page(connection, owned, order, 3, tuple(position["after"]))
    text = json.dumps({"owner": position["owner"], "after": page.next})
    following = urlsafe_b64encode(text.encode()).decode()
    return {"items": [row.id for row in page.rows], "next": following}


forge(naive)

# %% [markdown]
"""
Base64 hides nothing and protects nothing. The service trusted what it had written down
itself, but the client is the one that sends it:

- A filter that comes from the cursor is a permission that the client writes.
- A genuine cursor in another order names another place. No error says so: the list just
  ends early or begins again.
- An edited key becomes an error inside the service: 500. A key of the right type
  reaches the database.

## The decision

| option | good | costs |
|---|---|---|
| plain key, `after=...` | a client can build it | any edit reaches the database |
| base64: DRF's `CursorPagination` | looks [opaque](../glossary.md#opaque) | an edit still works |
| **signed**: library itsdangerous, `hmac` | edits are refused | a secret to keep |
| encrypted | hides the key, too | a library; longer text |
| stored, with a [token](../glossary.md#token) | nothing to forge | a write per page |

We choose **signed**, for one list only. Django and Flask sign cookies in the same way,
but neither brings cursors. Choose encryption if a key must not be seen, such as a
salary. Signed is not secret: anybody can decode the text.

## Build it

### The idea

A **message authentication code** (MAC) is a short text made of a secret and a message.
Without the secret, a client cannot make the code for another message. **HMAC** makes
such a code with a hash function. Our message is the position together with the name of
the list. The name does not travel: the service knows which list a request asks for.

`code` does not use the secret itself. It derives a key for this purpose from the secret
and a label. So a code that another part of the service made with the same secret is not
valid here.
"""

# %% tags=["export"]
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode


def code(secret: bytes, of: str, body: str) -> str:
    """The code of `body` for the list named `of`: HMAC-SHA-256, base64url."""
    key = hmac.digest(secret, b"page cursors, version 1", "sha256")
    message = json.dumps([of, body]).encode()
    return urlsafe_b64encode(hmac.digest(key, message, "sha256")).rstrip(b"=").decode()


# %%
secret = b"a secret of this page, for no service"
for of in ("invoices of ada", "invoices of mallory"):
    print(code(secret, of, "after 3"), code(secret, of, "after 4"))

# %% [markdown]
"""
### The text

JSON has no dates, and `read_page` refuses a date that comes back as text. So values of
other types carry the name of their type:
"""

# %% tags=["export"]
from datetime import date, datetime
from typing import Any
from uuid import UUID

READERS: dict[str, Any] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "UUID": UUID,
}


def typed(value: Any) -> dict[str, str]:
    """A value that JSON has no type for. Raises TypeError if READERS lacks it."""
    name = type(value).__name__
    if name not in READERS:
        raise TypeError(f"a cursor cannot hold {value!r}: add {name} to READERS")
    return {name: str(value)}


# %%
print(json.dumps([7, date(2026, 11, 2)], default=typed))


# %% tags=["export"]
def untyped(found: dict[str, str]) -> Any:
    """The value of what `typed` made."""
    ((name, text),) = found.items()
    return READERS[name](text)


def pack(content: Any) -> str:
    """`content` as JSON in base64url without padding (RFC 4648, 5)."""
    text = json.dumps(content, default=typed, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def unpack(body: str) -> Any:
    """What `pack` was given; a tuple comes back as a list."""
    text = urlsafe_b64decode(body + "=" * (-len(body) % 4))
    return json.loads(text, object_hook=untyped)


# %%
kept = unpack(pack(["next", [date(2026, 11, 2), 7]]))
print(kept)

# %% [markdown]
"""
### Sign and read

The code covers the text *as it is sent*. Base64 has several spellings for the same
bytes, because the last letter has unused bits. All but one are refused before anything
is decoded. JSON can hold half a surrogate pair, which UTF-8 cannot: it is replaced.

To change the secret, put the new one first. The old one stays until yesterday's cursors
no longer matter.
"""

# %% tags=["export"]
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fastapi import HTTPException


@dataclass(frozen=True)
class Cursors:
    """Signs with the first of `secrets`, accepts all. Each has 32 bytes or more."""

    secrets: Sequence[bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secrets or min(map(len, self.secrets)) < 32:
            raise ValueError("cursors need secrets of at least 32 bytes")

    def sign(self, content: Any, of: str) -> str:
        """A cursor that `read` accepts for the list named `of` only."""
        body = pack(content)
        return f"{body}.{code(self.secrets[0], of, body)}"

    def read(self, cursor: str, of: str) -> Any:
        """What was signed. Raises HTTPException (400) for anything else."""
        body, _, given = cursor.encode(errors="replace").decode().rpartition(".")
        for secret in self.secrets:  # compare_digest: its time gives nothing away
            if hmac.compare_digest(given.encode(), code(secret, of, body).encode()):
                return unpack(body)
        raise HTTPException(400, "This cursor is not for this list: start without it.")


# %%
cursors = Cursors([secret])
cursor = cursors.sign(["next", [300, 4]], of="invoices of ada")
print(cursor, cursors.read(cursor, of="invoices of ada"))

# %% [markdown]
"""
### Which list

A `Listing` names everything that decides which rows come in which order: path, filters
and sort, columns, and the caller. The page size is not part of it, because a client may
change it on the way.
"""

# %% tags=["export"]
from collections.abc import Mapping

from playbook.api.pagination import Order, read_page


@dataclass(frozen=True)
class Listing:
    """One list: its path, the client's filters and sort, its order, and who asks."""

    path: str
    parameters: Mapping[str, str | int]
    order: Order
    caller: str = ""

    @property
    def name(self) -> str:
        """What a cursor of this list is bound to."""
        given = sorted(self.parameters.items())
        return json.dumps([self.path, given, self.order.name, self.caller])


# %%
listing = Listing("/invoices", {"sort": "amount"}, by_amount, caller="ada")
print(listing.name)

# %% [markdown]
"""
### Both directions

A cursor holds a direction and a key. For `prev` the list is read in the opposite order
from the key of the first row, and then the rows are turned round. A page can be empty,
because its rows were deleted. Then the key is null, and `prev` leads to the list's end.
"""

# %% tags=["export"]
from urllib.parse import urlencode

from sqlalchemy import Connection, Select, orm


def link(
    way: str, rows: Sequence[Any], listing: Listing, limit: int, cursors: Cursors
) -> str:
    """The link to the page after the last of `rows`, or before the first ("prev")."""
    end = -1 if way == "next" else 0
    key = listing.order.key_of(rows[end]) if rows else None
    cursor = cursors.sign([way, key], listing.name)
    query = {**listing.parameters, "limit": limit, "cursor": cursor}
    return f"{listing.path}?{urlencode(query)}"


# %%
print(link("prev", [], listing, limit=3, cursors=cursors))

# %% [markdown]
"""
`read_list` reads the page. Its extra row tells whether the list goes on. On the other
side there is a page if the client came from there.
"""


# %% tags=["export"]
def read_list(
    db: Connection | orm.Session,
    select: Select[Any],
    listing: Listing,
    limit: int,
    cursors: Cursors,
    cursor: str | None = None,
) -> tuple[list[Any], dict[str, str | None]]:
    """Rows and links `next`, `prev`. Raises HTTPException (400) for a wrong cursor."""
    way, key = ("next", None) if cursor is None else cursors.read(cursor, listing.name)
    backwards = way == "prev"
    order = listing.order
    if backwards:
        order = replace(order, descending=not order.descending)
    page = read_page(db, select, order, limit, None if key is None else tuple(key))
    rows = page.rows[::-1] if backwards else page.rows
    other = "next" if backwards else "prev"
    has = {way: page.next is not None, other: key is not None}
    links = {to: link(to, rows, listing, limit, cursors) for to in has if has[to]}
    return rows, {"next": None, "prev": None} | links


# %%
owned = sa.select(invoices).where(invoices.c.owner == "ada")
with engine.connect() as connection:
    rows, links = read_list(connection, owned, listing, 2, cursors)
print([(row.amount, row.id) for row in rows])

# %% [markdown]
"""
## See it work

The next route returns the links as they are, and `sort` names one of two orders.

The folded cell defines `forge_all(app)`. It takes a cursor of Ada's and sends it back
many times, each time with another character replaced. Two of these edits decode to the
same bytes as before. Then it sends the cursor in another order, and as Mallory. It
counts the statuses. Predict: which requests get 200?
"""

# %% tags=["stage"]
from string import ascii_letters, digits


def forge_all(app):
    statuses = Counter()
    letters = ascii_letters + digits + "-_."
    with serving(app, headers={"X-Caller": "ada"}) as client:
        url = client.get("/invoices?sort=amount&limit=2").json()["next"]
        statuses["as it came", client.get(url).status_code] += 1
        for place in range(url.index("cursor=") + 7, len(url)):
            other = letters[(letters.index(url[place]) + 1) % len(letters)]
            edited = url[:place] + other + url[place + 1 :]
            statuses["edited", client.get(edited).status_code] += 1
        elsewhere = client.get(url.replace("sort=amount", "sort=sent"))
        statuses["in another order", elsewhere.status_code] += 1
        mallory = client.get(url, headers={"X-Caller": "mallory"})
        statuses["by another caller", mallory.status_code] += 1
    for (cursor, status), count in statuses.items():
        print(f"{cursor:18} {status} {count:3} times")
    return statuses


# %% tags=["predict"]
ORDERS = {"amount": by_amount, "sent": Order([invoices.c.sent_on, invoices.c.id], True)}
app = FastAPI()


@app.get("/invoices")
def list_invoices(
    caller: Caller,
    sort: Literal["amount", "sent"] = "sent",
    limit: int = 20,
    cursor: str | None = None,
):
    listing = Listing("/invoices", {"sort": sort}, ORDERS[sort], caller)
    owned = sa.select(invoices).where(invoices.c.owner == caller)
    with engine.connect() as connection:
        rows, links = read_list(connection, owned, listing, limit, cursors, cursor)
    return {"items": [row.id for row in rows], **links}


forged = forge_all(app)

# %% [markdown]
"""
The code is compared before anything is decoded, so no forgery reaches the database.

Now the secret changes while a client is under way. It follows `next` to the end of the
list, and then `prev` back to the start:
"""

# %%
with serving(app, headers={"X-Caller": "ada"}) as client:
    pages = [client.get("/invoices?sort=amount&limit=2").json()]
    cursors = Cursors([b"the new secret of this page, 32 bytes", secret])
    for way in ("next", "prev"):
        while pages[-1].get(way):
            pages.append(client.get(pages[-1][way]).json())
walk = [page.get("items") for page in pages]
print(walk)

# %% [markdown]
"""
## Check it
"""

# %%
assert ("edited", 200) not in forged, "an edited cursor was accepted"
assert ("in another order", 400) in forged, "another order's cursor was accepted"
assert ("by another caller", 400) in forged, "another caller's cursor was accepted"
assert len(walk) == 5, "a cursor of the old secret was refused"
assert walk == walk[::-1], "the way back shows other pages"
assert kept == ["next", [date(2026, 11, 2), 7]], "a key lost its types"
print("each forgery is a 400; both directions and both secrets work")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `[of, body]` | `[body]` | another order's cursor was accepted |
| `order.name, self.caller]` | `order.name]` | another caller's cursor was accepted |
| `self.secrets:  #` | `self.secrets[:1]:  #` | a cursor of the old secret was refused |

## Your turn

The cursors of an export shall be valid for one day. After that they get *410 Gone*.
Write `sign_until`, which signs a position that is valid until a time, and `read_until`,
which returns the position while `now < until`. An expired cursor raises
`HTTPException(410)`. All other texts get 400 as before, and so do the plain cursors of
the same list, which have no time.
"""


# %% tags=["exercise"]
def sign_until(cursors, position, of, until):
    """A cursor for `position` in the list named `of`, valid before the time `until`."""
    raise NotImplementedError


def read_until(cursors, cursor, of, now):
    """The position. Raises HTTPException: 410 when it has expired, else 400."""
    raise NotImplementedError


# %%
from playbook.exercises.api.cursors import HINTS, check

check(sign_until, read_until)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def sign_until(cursors, position, of, until):
    return cursors.sign([until, position], f"{of} until")


def read_until(cursors, cursor, of, now):
    # another name: a plain cursor of this list is none here, and the other way round
    until, position = cursors.read(cursor, f"{of} until")
    if now >= until:
        raise HTTPException(410, "This cursor has expired: start without it.")
    return position


assert check(sign_until, read_until)

# %% [markdown]
"""
## Take it with you

`playbook lift cursors INTO` copies this recipe, `Order` and `read_page`, and the tests:

| seam | your project gives |
|---|---|
| `secrets` | from settings: bytes, 32 or more, the same in every process |
| `Listing.parameters` | filters and sort, as the client sent them; not `limit` |
| `Listing.caller` | whoever is signed in, as text; "" for a public list |
| 400 | an `HTTPException`, which your error handler answers as it answers others |

The recipe's tests run this route:

```python
@app.get("/shops/{shop}/purchases")
def list_purchases(
    shop: int,
    status: Literal["open", "paid"],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
):
    listing = Listing(f"/shops/{shop}/purchases", {"status": status}, newest)
    mine = Purchase.shop_id == shop
    select = sa.select(Purchase).where(mine, Purchase.status == status)
    with Session(engine) as session:
        rows, links = read_list(session, select, listing, limit, cursors, cursor)
        return {"items": [row.Purchase.number for row in rows], **links}
```

Traps:

- A filter belongs into `parameters` *and* into `select`. A cursor is no permission.
- Another type in the order, such as `Decimal`, needs a line in `READERS`.
- A change of the order's columns ends the cursors that are under way, with 400.
- Links are paths. A whole URL needs the `Host` header, which the client chooses.

Hand it over:

- **Front end**: follow `next` and `prev` as they are; after 400 start again.
- **Security**: signed is not encrypted; a key may hold only what the page shows.
- **Operations**: keep the old secret second for as long as links may live.
- **Tests**: send each cursor edited, in another list, and as another caller.

## In short

Text that a client returns is the client's text, whatever it looks like. A code over the
position and the name of its list makes every edit, and every use elsewhere, a 400. The
name contains all that chooses the rows, so the cursor itself carries only the key.

## Sources

RFC 2104 (HMAC). RFC 4648, 3.5 and 5 (canonical base64url). RFC 8288 (web links). NIST
SP 800-108r1, 4 (a key per purpose). OWASP API Security 2023, API1 (object level
authorization). Django REST framework, "Pagination"; itsdangerous, "Key Rotation".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Keyset pagination](pagination.ipynb) · [course map](../index.ipynb) · Next: [Conditional requests](conditional_requests.ipynb)
"""
