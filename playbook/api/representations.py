# %% [markdown]
"""
# Representations

Decide which bodies come in and go out: strict input, patches that change only what they
name, and media types that odd clients survive.

| | |
|---|---|
| **Use it when** | a PATCH erases a field, or a client with an odd header gets 406 |
| **You need** | [resources](resources.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | patch, merge patch, accept, content negotiation, mass assignment, 413 |
| **Standard** | RFC 9110; RFC 5789; RFC 7396 |

```python
from playbook.api.representations import JSON, MERGE_PATCH, apply_patch, takes


# NotePatch, a subclass of Strict, has the fields that a client may change.
@app.patch("/notes/1", dependencies=[takes(MERGE_PATCH, JSON)])
def change_note(changes: NotePatch):
    changed = apply_patch(note, changes)
```

*Lift: 84 lines in 1 file; needs fastapi, pydantic, starlette.*

## See it break

A shop keeps a customer in memory. The folded cell defines the class `Customer` with
`name`, `phone`, `address` and `discount`; its object `ada` and the `url` for it; and
`reset()`, which gives Ada her first values again. It imports
`Annotated`; FastAPI's `FastAPI`, `HTTPException`, `Request`, `Depends` and `Body`;
`BaseModel`; and `serving`, `show`, `show_http` and `table`.
"""

# %% tags=["stage"]
from dataclasses import asdict, dataclass
from itertools import product
from typing import Annotated

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, ValidationError

from playbook.kit.lesson import lesson_folder, serving, show, show_http, table


@dataclass
class Customer:
    name: str
    phone: str | None
    address: dict | None
    discount: int = 0


url = "/customers/ada"
ada = Customer("Ada", "555-1", {"city": "London", "zip": "NW1"})


def reset():
    vars(ada).update(name="Ada", phone="555-1", discount=0)
    ada.address = {"city": "London", "zip": "NW1"}


# %%
first_shop = FastAPI()


class Changes(BaseModel):
    name: str | None = None
    phone: str | None = None
    discount: int | None = None


@first_shop.patch("/customers/ada")
def change_in_haste(changes: Changes, request: Request) -> Customer:
    accept = request.headers["accept"]
    if "application/json" not in accept and accept != "*/*":
        raise HTTPException(406, "this service gives JSON")
    for field, value in changes.model_dump().items():
        setattr(ada, field, value)
    return ada


print(ada)

# %% [markdown]
"""
Three clients send a PATCH. The first changes the phone. The second mistypes `phone` and
tries its luck with a discount. The third is a Java program; its library sends this
`Accept` header by itself. Predict: which requests are refused, and what is left of Ada?
"""

# %% tags=["predict"]
java = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
with serving(first_shop) as client:
    client.patch(url, json={"phone": "555-2"})
    client.patch(url, json={"fone": "555-3", "discount": "90"})
    client.patch(url, json={"name": "Ada"}, headers={"accept": java})
    show_http(client)

# %% [markdown]
"""
A field that was not sent got its default, `None`. So a change of the phone erased the
name. The typing error erased the phone and looked like a success.

The field `discount` was in the model because it is in the table. So a client could give
itself a discount. This is **mass assignment**: a client sets what only the service
should set.

`Accept` names **media types**, the data formats that a client takes. The Java client's
ends with `*/*`, which is anything. The check did not read it.

## The decision

| option for a change | good | costs |
|---|---|---|
| PUT of the whole | simplest meaning | a client erases fields that it does not know |
| JSON Patch (RFC 6902) | tests, moves, edits lists | clients compute operations |
| **JSON Merge Patch (RFC 7396)** | the body holds what changes | null means: remove |

We choose the **merge patch**. It cannot store null in a field, because null removes it.
A list is replaced as a whole. Choose JSON Patch for long lists.

What frameworks bring: DRF's `partial=True` separates "not sent" from null, and ignores
unknown fields. Django and Flask bring no patch. FastAPI ignores unknown fields, and
turns `"90"` into 90, unless the model forbids it. Only DRF reads `Accept` for you.
Django, Flask and Starlette can limit a body (`DATA_UPLOAD_MAX_MEMORY_SIZE`,
`MAX_CONTENT_LENGTH`, `max_body_size`).

## Build it

### The idea

Pydantic remembers which fields came in. `exclude_unset` leaves the others out:
"""

# %%
for body in ({}, {"phone": None}, {"phone": "555-2"}):
    print(body, "->", Changes(**body).model_dump(exclude_unset=True))

# %% [markdown]
"""
### Strict bodies

A client that sends an unknown field expects that something happens. So `Strict` refuses
it. It also refuses a wrong type: a client that sends `"90"` for a number has a mistake,
which is cheap to find today.
"""

# %% tags=["export"]
from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A body that comes in: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


# %% [markdown]
"""
The model of a patch lists what a client may change, and nothing else. Every field has a
default, which `exclude_unset` never lets through. A field that allows null can be
removed; `name` does not allow it. The folded cell defines `verdict(model, body)`.
"""


# %% tags=["stage"]
def verdict(model, body):
    try:
        model.model_validate_json(body)
        return "accepted"
    except ValidationError as error:
        return f"refused: {error.errors()[0]['msg']}"


# %%
class CustomerPatch(Strict):
    name: str = ""
    phone: str | None = None
    address: dict[str, str | None] | None = None


for body in ('{"phone": null}', '{"name": null}', '{"fone": "5"}', '{"discount": 9}'):
    print(body, "->", verdict(CustomerPatch, body))

# %% [markdown]
"""
### Merge

RFC 7396 defines the merge in ten lines of pseudocode. An object is merged field by
field, null removes a field, and everything else replaces what was there.
"""

# %% tags=["export"]
from typing import Any, NamedTuple


def merge_patch(target: Any, patch: Any) -> Any:
    """What `patch` makes of the JSON value `target`, in a new object (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def apply_patch(row: object, changes: BaseModel) -> bool:
    """Set the attributes of `row` that the client sent; whether that changed any."""
    changed = False
    for name, value in changes.model_dump(exclude_unset=True).items():
        before = getattr(row, name)
        after = merge_patch(before, value)
        if after != before:
            setattr(row, name, after)
            changed = True
    return changed


# %%
reset()
changes = CustomerPatch(phone=None, address={"zip": None, "street": "Baker Street"})
print(apply_patch(ada, changes), apply_patch(ada, changes), ada)

# %% [markdown]
"""
The second call changed nothing and returned False. So a service can leave `updated_at`
and a version number alone.

### The type of an answer

`Accept` is a list of **media ranges**, each with a weight `q` from 0 (never) to 1. The
first step reads the list. `ELEMENT` finds one range and its parameters: a comma in
quotes does not end them. `WEIGHT` finds `q`. `VARIANT` finds a parameter other than `q`
and `charset`, such as `version=2`: the client wants a variant of the type.
"""

# %% tags=["export"]
import re

ELEMENT = re.compile(r'(?:^|,)\s*([^\s;,"]+)((?:"(?:[^"\\]|\\.)*"|[^,"])*)')
WEIGHT = re.compile(r";\s*q\s*=\s*(\d+\.?\d*|\.\d+)\s*(;|$)")
VARIANT = re.compile(r";\s*(?!q\s*=|charset\s*=)[^\s;]")


class Range(NamedTuple):
    """One media range of an Accept header (RFC 9110, 12.5.1)."""

    name: str  # such as application/* or */*
    weight: float  # 0 (never) to 1
    variant: bool  # it has parameters of its own, such as version=2


def media_ranges(accept: str) -> list[Range]:
    """The ranges of an Accept header (RFC 9110, 12.5.1); an unreadable weight is 1."""
    ranges = []
    for name, rest in ELEMENT.findall(accept.lower()):
        parameters = re.sub('"[^"]*"', "", rest)
        number = WEIGHT.search(parameters)
        weight = min(float(number[1]), 1.0) if number else 1.0
        ranges.append(Range(name, weight, bool(VARIANT.search(parameters))))
    return ranges


# %%
print(*media_ranges(java), sep="\n")

# %% [markdown]
"""
The second step finds the range that decides: the most precise one that fits. Names are
ranked: `*/*` is 0, `application/*` is 1, `application/json` is 3. A variant ranks one
lower, since ours has no parameters; if it has `q=0`, only the variant is refused.
A client says "never" with `q=0`, or by leaving JSON out of a list that we can read.
What cannot be read is not "never".
"""

# %% tags=["export"]
from fastapi import Depends, HTTPException, Request

JSON = "application/json"
MAX_ACCEPT = 1000  # characters; a longer header is disregarded (RFC 9110, 12.5.1)
MEDIA_RANGE = re.compile(r"\*|(\*|[^*/]+)/(\*|[^*/]+)")


def quality(accept: str, offered: str) -> float:
    """How much a client wants the media type `offered`: 0 (never) to 1."""
    ranges = media_ranges(accept) if len(accept) <= MAX_ACCEPT else []
    if not any(MEDIA_RANGE.fullmatch(one.name) for one in ranges):
        return 1.0
    precision = {"*": 0, "*/*": 0, offered.split("/")[0] + "/*": 1, offered: 3}
    best = (-1, 0.0)
    for one in ranges:
        if one.name in precision and (one.weight > 0 or not one.variant):
            best = max(best, (precision[one.name] - one.variant, one.weight))
    return best[1]


async def gives_json(request: Request) -> None:
    """406 for a client that does not take JSON (RFC 9110, 15.5.7)."""
    if quality(",".join(request.headers.getlist("accept")), JSON) == 0:
        raise HTTPException(406, f"this resource is given as {JSON}")


# %% [markdown]
"""
These are nine headers, the first of them empty:

```text
(empty)
text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2
text/html
*/*, application/json;q=0
application/*;q=0, application/json
application/json;q=nonsense
json
text/html;a="x, application/json"
application/json;version=2;q=0, */*
```

The folded cell holds them in `ACCEPT`, each with the right weight of JSON. Predict:
which of them mean "never JSON"?
"""

# %% tags=["stage"]
ACCEPT = [
    ("", 1),
    (java, 0.2),
    ("text/html", 0),
    ("*/*, application/json;q=0", 0),
    ("application/*;q=0, application/json", 1),
    ("application/json;q=nonsense", 1),
    ("json", 1),
    ('text/html;a="x, application/json"', 0),
    ("application/json;version=2;q=0, */*", 1),
]

# %% tags=["predict"]
found = [(header, quality(header, JSON)) for header, _ in ACCEPT]
show(table(found, ["Accept", "weight of JSON"]))

# %% [markdown]
"""
### The type of a body

A body in a type that the service does not read is answered with 415. A header says what
would do: `Accept-Patch` for a patch, `Accept` for other bodies. Many generated clients
can only send `application/json`, so a patch may have that type, too. `Body` names the
type in the OpenAPI document.
"""

# %% tags=["export"]
MERGE_PATCH = "application/merge-patch+json"


def takes(*media_types: str) -> Any:
    """A dependency: 415 for a body of another type (RFC 9110, 15.5.16; RFC 5789)."""
    these = ", ".join(media_types)
    header = "Accept-Patch" if MERGE_PATCH in media_types else "Accept"

    async def check(request: Request) -> None:
        sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if sent not in media_types:
            raise HTTPException(415, f"send {these}, not {sent!r}", {header: these})

    return Depends(check)


# %%
shop = FastAPI(dependencies=[Depends(gives_json)])


@shop.patch("/customers/ada", dependencies=[takes(MERGE_PATCH, JSON)])
def change(changes: Annotated[CustomerPatch, Body(media_type=MERGE_PATCH)]):
    apply_patch(ada, changes)
    return ada


with serving(shop) as client:
    client.patch(url, data={"phone": "555-2"})
    show_http(client)

# %% [markdown]
"""
### The size of a body

A service reads a body into memory before it can validate it. `Content-Length` is what a
client claims, and a chunked body has none. So `BodyLimit` counts what arrives.
"""

# %% tags=["export"]
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: 413 as soon as more than `max_bytes` of a body have arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int = 1_048_576) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = 0

        async def receive_counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if scope["type"] == "http" and arrived > self.max_bytes:
                raise HTTPException(413, f"send at most {self.max_bytes:,} bytes")
            return message

        await self.app(scope, receive_counted, send)


# %% [markdown]
"""
## See it work

The three clients of the beginning come again. A fourth sends 17 chunks of 64 KiB.
"""

# %%
chunks = iter([b" " * 65_536] * 17)
with serving(BodyLimit(shop)) as client:
    client.patch(url, json={"phone": "555-2"})
    client.patch(url, json={"fone": "555-3", "discount": "90"})
    client.patch(url, json={"name": "Ada L."}, headers={"accept": java})
    client.patch(url, content=chunks, headers={"content-type": JSON})
statuses = [exchange.status for exchange in client.exchanges]
print(statuses, ada)

# %% [markdown]
"""
Bodies need four status codes. **406**: no answer in a type that the client takes.
**413**: too long. **415**: a type that the service does not read. **422**: the type is
right, the content is not.

## Check it

The folded cell imports `RFC_7396`, the examples in appendix A of the RFC: target, patch
and result. It also applies every combination of absent, null and new to Ada, and keeps
in `wrong` those that changed something else.
"""

# %% tags=["stage"]
from playbook.exercises.api.representations import RFC_7396

phones = ({}, {"phone": None}, {"phone": "new"})
addresses = ({}, {"address": None}, {"address": {"zip": None}}, {"address": {"a": "b"}})
wrong = []
for phone, address in product(phones, addresses):
    reset()
    sent = phone | address
    merged = {"phone": None, "address": None} | merge_patch(asdict(ada), sent)
    apply_patch(ada, CustomerPatch(**sent))
    wrong += [] if asdict(ada) == merged else [sent]

# %%
merged = [merge_patch(target, patch) for target, patch, _ in RFC_7396]
assert merged == [result for *_, result in RFC_7396], "an example of RFC 7396 differs"
assert wrong == [], "a patch changed what it did not name"
assert verdict(CustomerPatch, '{"discount": 1}') != "accepted", "a mass assignment"
assert found == ACCEPT, "an Accept header is misread"
assert statuses == [200, 422, 200, 413], f"the four clients got {statuses}"
print(len(merged), "examples of the RFC and", len(found), "headers are right")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `exclude_unset=True` | `exclude_unset=False` | a patch changed what it did not name |
| `extra="forbid"` | `extra="ignore"` | a mass assignment |
| `if number else 1.0` | `if number else 0.0` | an Accept header is misread |

## Your turn

The front end has a form. It knows the document as it was, `before`, and as the user
left it, `after`. Write `make_patch(before, after)`: the merge patch that it sends.
Applied to `before`, it must give `after`. It names nothing that stayed the same, in
inner objects too, because another user may have changed that meanwhile. Neither
document holds null.
"""


# %% tags=["exercise"]
def make_patch(before, after):
    """The smallest merge patch that turns `before` into `after`; both are objects."""
    raise NotImplementedError


# %%
from playbook.exercises.api.representations import HINTS, check

check(make_patch)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def make_patch(before, after):
    patch = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if old == value:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            value = make_patch(old, value)
        patch[name] = value
    return patch


assert check(make_patch)

# %% [markdown]
"""
## Take it with you

`playbook lift representations INTO` copies the recipe and its tests. Its seams:

| seam | what you give |
|---|---|
| model | a subclass of `Strict` for each body that comes in |
| row | for `apply_patch`: any object with attributes of the same names |
| application | `BodyLimit` as its middleware, `gives_json` as its dependency |

The folded cell makes a table of notes in SQLite, with one row and the ORM class `Note`.
It imports `Session`, and makes the `engine`.
"""

# %% tags=["stage"]
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[dict] = mapped_column(sa.JSON)


engine = sa.create_engine(f"sqlite:///{lesson_folder() / 'notes.db'}")
Base.metadata.create_all(engine)
with Session(engine) as session, session.begin():
    session.add(Note(id=1, tags={"urgent": "yes"}))


# %%
class NotePatch(Strict):
    tags: dict[str, str | None] = {}


app = FastAPI()


@app.patch("/notes/1", dependencies=[takes(MERGE_PATCH, JSON)])
def change_note(changes: NotePatch):
    with Session(engine) as session, session.begin():
        note = session.get_one(Note, 1)
        changed = apply_patch(note, changes)
        return {"changed": changed, "tags": note.tags}


with serving(app) as client:
    client.patch("/notes/1", json={"tags": {"urgent": None, "shop": "corner"}})
    show_http(client)

# %% [markdown]
"""
Traps:

- Once FastAPI has parsed the JSON, a strict model takes no text for a date or UUID.
  Mark the field: `Annotated[UUID, Field(strict=False)]`.
- A service may change a JSON column in place; SQLAlchemy does not notice.
  `merge_patch` returns a new object, so it does.
- With Starlette's own `max_body_size`, leave `BodyLimit` out.

Hand it over:

- **Front end**: send only what the user changed; null removes.
- **Reviewer**: every body is a `Strict` model of its own, never the table's model.
- **Security**: a field that only the service sets is in no such model.
- **Tests**: keep the tables of the RFC and of the `Accept` headers.
- **Operations**: a [proxy](../glossary.md#proxy) has a limit for bodies, too. Keep it
  above the service's.

## In short

A field that was not sent is not null, and only the fields that came in count. Input is
strict so that mistakes are found early. Negotiation is lenient, because what cannot be
read is not a refusal.

## Sources

RFC 7396 (merge patch) and its appendix A. RFC 5789 (PATCH). RFC 9110, 12.5.1 (Accept),
15.5.7 (406), 15.5.14 (413), 15.5.16 (415). OWASP API Security Top 10 2023, API3 (mass
assignment). Pydantic documentation, "Strict mode". DRF documentation, "Serializers".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Resources](resources.ipynb) · [course map](../index.ipynb) · Next: [Errors](errors.ipynb)
"""
