# %% [markdown]
"""
# Contract

Prove that the service answers as its OpenAPI document says. Then give the document to a
TypeScript front end, whose compiler refuses wrong calls.

| | |
|---|---|
| **Use it when** | a front end uses types that are made from your API's description |
| **You need** | [resources](resources.ipynb), [errors](errors.ipynb) (*background*) |
| **Time** | read 32 min, exercise 15 min |
| **Topics** | openapi, json schema, typescript, next.js, generated client, spectral |
| **Standard** | OpenAPI 3.1; JSON Schema 2020-12 |

```python
from playbook.api.contract import Exchange, undocumented

said = Exchange("GET", "/orders/1", 200, "application/json", answer.content)
assert undocumented(app.openapi(), said) == []
```

*Lift: 73 lines in 1 file; needs jsonschema.*

## See it break

An **API description** tells programs what a service takes and answers: paths,
parameters, and the bodies of each status. Its usual language is **OpenAPI**. FastAPI
makes such a document from the code, `shop.openapi()`.

A shop has one route. The folded cell imports `FastAPI`, `HTTPException`,
`JSONResponse`, `BaseModel` and `serving`. It defines `ROWS`, the orders 1, 2 and 3:
order 2 has no note (None), and order 3 has one more member, `gift`. `front_end(client,
number)` trusts the document: it calls `upper()` on the note, and shows
`detail[0]["msg"]` of an error. `taken` is for later.
"""

# %% tags=["stage"]
import json

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from playbook.kit.lesson import serving

ROWS = {
    1: {"number": 1, "note": "ring twice"},
    2: {"number": 2, "note": None},
    3: {"number": 3, "note": "", "gift": True},
}


def front_end(client, number):
    """What a page shows of an order, or of an error. It trusts the document."""
    answer = client.get(f"/orders/{number}")
    body = answer.json()
    try:
        if answer.status_code == 200:
            return f"order {body['number']}, note {body['note'].upper()!r}"
        return f"sorry: {body['detail'][0]['msg']}"
    except (AttributeError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def taken(exchanges):
    """What the lesson's client has kept, as the recipe takes it."""
    found = []
    for one in exchanges:
        media_type = one.response_headers.get("content-type", "").split(";")[0]
        said = (one.method, one.path, one.status, media_type, one.response_body)
        found.append(Exchange(*said))
    return found


# %%
shop = FastAPI()


class Order(BaseModel):
    number: int
    note: str


@shop.get("/orders/{number}")
def read_order(number: int) -> Order:
    if number not in ROWS:
        raise HTTPException(404, "there is no such order")
    return JSONResponse(ROWS[number])  # quick: FastAPI does not look at it


document = shop.openapi()
print(*document["paths"]["/orders/{number}"]["get"]["responses"])

# %% [markdown]
"""
The document knows the statuses 200 and 422. In 422, `detail` is a list. The front end
asks for the orders 1, 2, 3, 9 and `x`. Predict: which of the five does it show?
"""

# %% tags=["predict"]
with serving(shop) as client:
    for number in (1, 2, 3, 9, "x"):
        print(number, "->", front_end(client, number))
    kept = client.exchanges

# %% [markdown]
"""
FastAPI checks what a function returns, but it does not look into a `Response`. It does
not see a function's exceptions. So a document made from the code can be wrong: a `note`
is null where it says string. And the document knows no 404, whose `detail` is a text.

## The decision

How does the document come to say what the service does?

| option | good | costs |
|---|---|---|
| written by hand | designed before the code | differs from it soon |
| made from the code | always there | knows no `Response`, no exception |
| **made from the code, checked** | what it says is proved | a check in the tests |
| a server made from it | cannot differ | code that you did not write |
| Django, DRF, Flask, Starlette | add-ons make one | `openapi-core` can check it |

We choose a document that is **made from the code and checked** against real answers.
Choose one written by hand when several teams build servers for it.

## Build it

### The idea

OpenAPI 3.1 describes a body with **JSON Schema**, a language for the shape of JSON
values. The library `jsonschema` compares a value with a schema, and names what differs.
In a schema, `properties` are the members of an object:
"""

# %%
from jsonschema import Draft202012Validator

schema = document["components"]["schemas"]["Order"]
print(schema["properties"])
for row in ROWS.values():
    print([error.message for error in Draft202012Validator(schema).iter_errors(row)])

# %% [markdown]
"""
Null was found, and `gift` was not: an object may have more members than its schema
names. Such a member is often an old one under a new name.

With `additionalProperties` false, a schema allows no other members. `closed` adds that
to each object:
"""

# %% tags=["export"]
from typing import Any

Json = dict[str, Any]


def closed(part: Any) -> Any:
    """A copy of a schema whose objects have no members but those that it names."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    copy = {name: closed(inner) for name, inner in part.items()}
    if isinstance(part.get("properties"), dict):
        copy.setdefault("additionalProperties", False)
    return copy


# %%
for error in Draft202012Validator(closed(schema)).iter_errors(ROWS[3]):
    print(error.message)

# %% [markdown]
"""
### From a request to its operation

An **operation** is one method of one path. A path of the document may be a template:
`/orders/{number}` stands for `/orders/1`. A path without parameters comes first.
"""

# %% tags=["export"]
import re


def find_operation(document: Json, method: str, path: str) -> Json | None:
    """What the document says of `GET /orders/1`, or None. A query is ignored."""
    path = path.partition("?")[0]
    for template in sorted(document["paths"], key=lambda one: one.count("{")):
        fixed = re.split(r"\{[^{}]*\}", template)
        pattern = "[^/]+".join(re.escape(text) for text in fixed)
        operation: Json | None = document["paths"][template].get(method.lower())
        if operation is not None and re.fullmatch(pattern, path):
            return operation
    return None


# %%
for asked in ("GET /orders/1", "PUT /orders/1", "GET /orders/1/lines"):
    operation = find_operation(document, *asked.split())
    print(asked, "->", operation and operation["operationId"])

# %% [markdown]
"""
### From a status to its schema

An operation lists its answers by status. `4XX` is a class of them, and `default` is all
others. An answer lists [media types](../glossary.md#media-type), the formats of its
body. Any part may stand elsewhere in the document; then `$ref` says where, such as
`#/components/schemas/Order`.
"""


# %% tags=["export"]
def resolved(document: Json, part: Json) -> Json:
    """`part`, or what its `$ref` names in the document."""
    while "$ref" in part:
        place: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        part = place
    return part


def find_answer(document: Json, operation: Json, status: int) -> Json | None:
    """What an operation says of a status: itself, its class, the default, or None."""
    answers = operation["responses"]
    for name in (str(status), f"{status // 100}XX", "default"):
        if name in answers:
            return resolved(document, answers[name])
    return None


# %%
operation = find_operation(document, "GET", "/orders/1")
for status in (200, 404):
    answer = find_answer(document, operation, status)
    print(status, answer and answer["content"])

# %% [markdown]
"""
`faults` compares a body with the schema of its media type. `jsonschema` looks up a
`$ref` in the schema itself, so `components` are put into it. In a fault, `$` is the
whole body.
"""

# %% tags=["export"]
import json

from jsonschema import Draft202012Validator


def faults(document: Json, schema: Json, body: bytes) -> list[str]:
    """Where a JSON body differs from its schema, and how: `$.note: None is not ...`."""
    try:
        value = json.loads(body)
    except ValueError:
        return ["no JSON"]
    whole = closed({**schema, "components": document.get("components", {})})
    found = Draft202012Validator(whole).iter_errors(value)
    return sorted(f"{error.json_path}: {error.message}" for error in found)


# %%
as_json = find_answer(document, operation, 200)["content"]["application/json"]
print(faults(document, as_json["schema"], b'{"number": "2", "note": null}'))

# %% [markdown]
"""
### All together

`undocumented` will take one `Exchange`. `taken(kept)` makes them from the five requests
above, the first story:
"""

# %% tags=["export"]
from typing import NamedTuple


class Exchange(NamedTuple):
    """A request and its answer."""

    method: str
    path: str
    status: int
    media_type: str  # without parameters such as charset; ignored without a body
    body: bytes


# %%
first_story = taken(kept)
print(first_story[1])

# %% [markdown]
"""
The function goes down until something differs: operation, status, media type, and then
all members of the body.
"""


# %% tags=["export"]
def undocumented(document: Json, exchange: Exchange) -> list[str]:
    """What an answer has and its document does not say; empty when they agree.

    ValueError: the document is not OpenAPI 3.1, so its schemas are no JSON Schema.
    """
    if not document["openapi"].startswith("3.1"):
        raise ValueError(f"OpenAPI {document['openapi']}: make a document of 3.1")
    method, path, status, _, body = exchange
    media_type = exchange.media_type if body else ""
    operation = find_operation(document, method, path)
    if operation is None:
        return [f"{method} {path}: no such operation"]
    answer = find_answer(document, operation, status)
    if answer is None:
        return [f"{method} {path}: status {status}"]
    said = answer.get("content") or {"": {}}  # "": without a body
    if media_type not in said:
        return [f"{method} {path}: {status} with {media_type or 'no body'}"]
    schema = said.get(media_type, {}).get("schema", {})
    is_json = media_type.endswith(("/json", "+json"))
    found = faults(document, schema, body) if is_json else []
    return [f"{method} {path}: {status} {fault}" for fault in found]


# %%
print(undocumented(document, first_story[0]))

# %% [markdown]
"""
The first story again. Predict: about which of them does the document say something else
than the server?
"""

# %% tags=["predict"]
for exchange in first_story:
    print(exchange.path, undocumented(document, exchange))

# %% [markdown]
"""
A front end that shows an answer proves nothing: it showed order 3, too. The answer to
`x` is FastAPI's own, and so is its description.

## See it work

The shop is mended: the note may be null, `gift` has a place, and the route declares its
404. It returns a model, so FastAPI checks it.
"""

# %%
mended = FastAPI()


class Refusal(BaseModel):
    detail: str


class FullOrder(BaseModel):
    number: int
    note: str | None
    gift: bool = False


@mended.get("/orders/{number}", responses={404: {"model": Refusal}})
def read_full_order(number: int) -> FullOrder:
    if number not in ROWS:
        raise HTTPException(404, "there is no such order")
    return FullOrder(**ROWS[number])


with serving(mended) as client:
    for number in (1, 2, 3, 9, "x"):
        client.get(f"/orders/{number}")
    for exchange in taken(client.exchanges):
        print(exchange.path, undocumented(mended.openapi(), exchange))

# %% [markdown]
"""
A check of answers proves what was asked, and no more. Two programs add to it:

- **Schemathesis** makes requests from the document, good and bad ones, and compares the
  answers. Pantry's tests run it on every route.
- **Spectral** reads the document alone. Its OWASP rules for security found that
  Pantry's said nothing of [429](../glossary.md#too-many-requests), or of the size of
  some inputs. What is not mended has a written reason, a **waiver**.

### The front end

A test of the course compiles and runs the TypeScript of this section. `npx
openapi-typescript` makes types from the document, here from the mended shop's:

```ts
FullOrder: {
    number: number;
    note: string | null;
    gift: boolean;
};
```

The client `openapi-fetch` is `fetch` with these types:

```ts
import createClient from "openapi-fetch";
import type { paths } from "./shop.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });

export async function note(number: number): Promise<string> {
  const { data, error } = await client.GET("/orders/{number}", {
    params: { path: { number } },
  });
  if (error) return `sorry: ${JSON.stringify(error.detail)}`;
  return data.note === null ? "no note" : data.note.toUpperCase();
}
```

`tsc --strict` refuses what would crash:

| instead | `tsc` says |
|---|---|
| `data.note.toUpperCase()` | 'data.note' is possibly 'null' |
| `data.remark` | Property 'remark' does not exist |
| `client.GET("/order/{number}")` | Expected 2 arguments, but got 1 |
| `path: { nummer: 1 }` | 'nummer' does not exist |
| `error.detail[0].msg` | 'msg' does not exist |

### Next.js

In Next.js a **route handler** runs on the server, between browser and API. It takes and
returns the web's `Request` and `Response`, so the test runs it without Next. It needs
four things: the caller's session cookie goes along, new cookies come back, nothing is
cached for somebody else, and the API's address comes from the environment. A part of
`tests/contract/openapi_client/next.ts`, where `sessionOf` picks the session's cookies,
and `handedOn` copies status and new cookies:

```ts
export function pantry(request: Request) {
  const headers = new Headers({ cookie: sessionOf(request) });
  const origin = request.headers.get("origin"); // Pantry decides whether it is trusted
  if (origin !== null) headers.set("origin", origin);
  const never = { cache: "no-store", redirect: "manual" } as const;
  return createClient<paths>({ baseUrl, headers, ...never });
}

export async function GET(request: Request, { params }: Context): Promise<Response> {
  const { slug } = await params;
  if (!SLUG.test(slug)) return notFound(); // "..", too, would be another path
  const path = { slug };
  const { data, error, response } = await pantry(request).GET("/organizations/{slug}", {
    params: { path },
  });
  return handedOn(data ?? error, response);
}
```

The types know nothing of patterns. `fetch` makes `/organizations/..` into `/`, so a
value from a URL needs a check before it becomes a part of another URL.

## Check it
"""

# %%
agreed = [undocumented(document, one) for one in first_story]
assert agreed[0] == agreed[4] == [], "what agrees is found"
assert "None is not of type 'string'" in str(agreed[1]), "null goes unnoticed"
assert "'gift' was unexpected" in str(agreed[2]), "an unknown member goes unnoticed"
assert agreed[3] == ["GET /orders/9: status 404"], "an unknown status goes unnoticed"
page = Exchange("GET", "/orders/1", 200, "text/html", b"<h1>Hello")
assert undocumented(document, page), "an unknown media type goes unnoticed"
print("each kind of difference is found, and no other")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `Properties", False)` | `Properties", True)` | an unknown member goes unnoticed |
| `"default"):` | `"default", "200"):` | an unknown status goes unnoticed |
| `not in said:` | `== "a/b":` | an unknown media type goes unnoticed |

## Your turn

A story that never asks for an unknown order proves nothing of the 404. Write
`unseen(document, exchanges)`. It returns the answers that the document describes and no
exchange has shown, as sorted texts such as `GET /orders/{number} 404`. A status counts
for the name under which the document has it: itself, else its class, else `default`.
Exchanges that the document does not describe are ignored.
"""


# %% tags=["exercise"]
def unseen(document, exchanges):
    """The described answers that no exchange has shown."""
    raise NotImplementedError


# %%
from playbook.exercises.api.contract import HINTS, check

check(unseen)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def unseen(document, exchanges):
    shown = []
    for one in exchanges:
        operation = find_operation(document, one.method, one.path)
        if operation is not None:
            shown.append(find_answer(document, operation, one.status))
    missing = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if not any(resolved(document, answer) is one for one in shown):
                    missing.append(f"{method.upper()} {path} {status}")
    return sorted(missing)


assert check(unseen)

# %% [markdown]
"""
## Take it with you

`playbook lift contract INTO` copies the recipe and its tests. Its seams:

| seam | what your project does |
|---|---|
| document | gives one of OpenAPI 3.1: `app.openapi()`, or a file |
| exchange | makes one of what its test client returns |
| prefix | takes a path prefix of `servers` off before |

With a client of `httpx`, such as Starlette's `TestClient`, a hook checks every answer
of every test:

```python
def keep_contract(client, document):
    def check(response):
        response.read()
        media_type = response.headers.get("content-type", "").split(";")[0]
        request = response.request
        said = (request.method, request.url.path, response.status_code)
        exchange = Exchange(*said, media_type, response.content)
        assert undocumented(document, exchange) == []

    client.event_hooks["response"].append(check)
```

Traps:

- **HEAD, OPTIONS, 405, unknown paths** are mostly not in the document. Leave them out.
- **`{name:path}`** with a slash, and a media type `image/*`, are not found.
- **422** of an older FastAPI has an `input` that its document lacks.
- **`allOf`** with two objects that have members: a closed part refuses those of the
  other. Write one object, or say `additionalProperties` yourself.
- **Formats** such as `date-time` are not checked. Pass a `format_checker` to the
  validator.
- **Messages quote the body.** Keep them out of logs.

Hand it over:

- **Reviewer**: the published document is a file in the repository, so a change of the
  contract is a line of the review. Pantry's is `docs/openapi.json`; a test compares it
  with the service.
- **Front end**: makes its types from that file, with `tsc --strict`.
- **Security**: Spectral's OWASP rules, each waiver with a reason.
- **Tests**: the hook above, `unseen` of the whole suite, Schemathesis.

## In short

You can say why a document made from the code can differ from the service. You can prove
for any test that it does not. And you can give a front end types that turn a renamed
field into a compile error.

## Sources

OpenAPI Specification 3.1.1. JSON Schema 2020-12. Schemathesis and Spectral,
documentation. openapi-typescript and openapi-fetch, documentation. Next.js, "Route
Handlers".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [GraphQL limits](graphql_limits.ipynb) · [course map](../index.ipynb) · Next: [Password hashing](../auth/password_hashing.ipynb)
"""
