# %% [markdown]
"""
# Resources

Give each thing in your service a URL, and use HTTP's methods and status codes as
clients, caches and proxies already understand them.

| | |
|---|---|
| **Use it when** | you write the first endpoint, or a repeated request acts twice |
| **You need** | [start here](../foundations/start_here.ipynb) (*background*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | rest, crud, http methods, status codes, head, options, location, allow |
| **Standard** | RFC 9110 |

```python
from playbook.api.resources import METHODS, ask, broken_promises
from playbook.api.resources import complete_methods, path_of

complete_methods(app)  # HEAD, OPTIONS and a complete Allow header for every URL
location = path_of(request, "read_tag", name=name)  # a path for the Location header
answers = {method: ask(client, method, url, state) for method in METHODS}
assert broken_promises(answers) == []
```

*Lift: 83 lines in 1 file; needs starlette.*

## See it break

A shop keeps its orders in a dictionary. Its first API has one URL per function. It says
what went wrong in the body.
"""

# %%
from fastapi import APIRouter, FastAPI, HTTPException

orders = {1: "anvil", 2: "rocket"}
first_shop = FastAPI()


@first_shop.get("/listOrders")
def list_all_orders():
    return [f"/cancelOrder?number={number}" for number in orders]


@first_shop.get("/cancelOrder")
def cancel_order(number: int):
    return {"cancelled": orders.pop(number, "error: no such order")}


list_all_orders()

# %% [markdown]
"""
The folded cell defines `check_links(app, start)`. It is a link checker, a program that
looks for broken links. It serves `app` (with `serving`), reads the URL `start`, and
requests each link in it twice. It prints the status codes and the orders that are left.
Later, `show_http(client)` prints what a client sent and got.
"""

# %% tags=["stage"]
import re

from playbook.kit.lesson import serving, show, show_http, table


def check_links(app, start, method="GET"):
    rounds = []
    with serving(app) as client:
        links = re.findall(r'"(/[^"]+)"', client.get(start).text)
        for _ in (1, 2):
            rounds.append([client.request(method, url).status_code for url in links])
    requests = [f"{method} {url}" for url in links]
    rows = zip(requests, *rounds, strict=True)
    show(table(rows, ["request", "round 1", "round 2"]))
    print("orders left:", orders)


# %% [markdown]
"""
Predict: how many orders are left? And which status codes does the second round get?
"""

# %% tags=["predict"]
check_links(first_shop, "/listOrders")

# %% [markdown]
"""
The link checker did nothing wrong. HTTP promises that GET changes nothing, so it may
follow every link. The URL says `cancel`, but programs do not read English.

Nor do they read "no such order" in a body. Monitoring, retries and `raise_for_status`
look at the status code.

## The decision

| option | good | costs |
|---|---|---|
| a URL per function (`/cancelOrder`) | reads like code | programs know no promise |
| **resources, HTTP's methods** | programs know the promises | some nouns are invented |
| GraphQL | clients choose fields | one URL, one method: no HTTP cache |

We choose **resources**. A URL names a thing: a plural noun and a key, such as
`/orders/1`. The method says what happens to it. Choose functions for a computation
without state (`POST /render`).

Two methods are less known: HEAD (a GET without the body) and OPTIONS (which methods are
there?). The header `Allow` lists them. Frameworks bring a part:

| framework | HEAD | OPTIONS | `Allow` with status 405 |
|---|---|---|---|
| Flask | yes | yes | all methods of the URL |
| Django, DRF (class-based) | yes | yes | all methods of the view |
| Starlette | yes | no | the first route's methods |
| FastAPI | no | no | the first route's methods |

## Build it

### The idea

A method is **safe** if it only reads: GET, HEAD, OPTIONS. It is **idempotent** if
the same request sent twice leaves the same state as sent once: the safe methods, PUT
and DELETE. After a timeout, a client may repeat an idempotent request. POST and PATCH
promise neither.
"""

# %%
router = APIRouter()


@router.get("/orders/{number}")
def read_order(number: int):
    if number not in orders:
        raise HTTPException(404, f"there is no order {number}")
    return {"number": number, "item": orders[number]}


# %% [markdown]
"""
The folded cell adds three routes in the same style: `GET /orders` lists the links of
all orders, `PUT /orders/1` replaces an order's item, and `DELETE /orders/1` answers 204
(no content). It defines `new_shop()`, an application with these routes and two orders.
It imports `Request` and `Response`, and makes `hasty_shop` for the next section.
"""

# %% tags=["stage"]
from fastapi import Request, Response


@router.get("/orders")
def list_orders():
    return [f"/orders/{number}" for number in orders]


@router.put("/orders/{number}")
def replace_order(number: int, item: str):
    read_order(number)
    orders[number] = item
    return read_order(number)


@router.delete("/orders/{number}", status_code=204)
def delete_order(number: int):
    read_order(number)
    del orders[number]


def new_shop():
    orders.clear()
    orders.update({1: "anvil", 2: "rocket"})
    app = FastAPI(redirect_slashes=False)
    app.include_router(router)
    return app


hasty_shop = new_shop()


@hasty_shop.post("/orders", status_code=201)
def create_in_haste(request: Request, response: Response):
    response.headers["Location"] = str(request.url_for("read_order", number=3))


# %%
check_links(new_shop(), "/orders")

# %% [markdown]
"""
### 201 and Location

The answer to a POST that creates is 201. Its `Location` header holds the URL of the new
order. The route of `hasty_shop` builds it with Starlette's own function:
`request.url_for("read_order", number=3)`. A client sends a `Host` header of its own
choice. Predict: which host stands in `Location`?
"""

# %% tags=["predict"]
with serving(hasty_shop) as client:
    client.post("/orders", headers={"host": "mallory.example"})
    show_http(client)

# %% [markdown]
"""
Caches store such answers, and mails hold such links: they send others to the attacker.
RFC 9110 allows a path in `Location`, and a path has no host. `path_of` also encodes it,
because names can hold spaces and question marks. `root_of` puts back a prefix such as
`/api` that a [proxy](../glossary.md#proxy) cut off.
"""

# %% tags=["export"]
from urllib.parse import quote

from starlette.requests import Request


def root_of(request: Request) -> str:
    """The prefix that a proxy cut off the path; the same in a mounted application."""
    return str(request.scope.get("app_root_path", request.scope.get("root_path", "")))


def path_of(request: Request, route: str, **values: object) -> str:
    """The encoded path of a route, for `Location`; NoMatchFound if there is none."""
    router = request.scope.get("router") or request.app
    path = root_of(request) + router.url_path_for(route, **values)
    return "/" + quote(path.lstrip("/"))  # "//" at the start would name a host


# %%
@router.post("/orders", status_code=201)
def create_order(item: str, request: Request, response: Response):
    number = max(orders, default=0) + 1
    orders[number] = item
    response.headers["Location"] = path_of(request, "read_order", number=number)
    return read_order(number)


with serving(new_shop()) as client:
    client.post("/orders?item=magnet", headers={"host": "mallory.example"})
    show_http(client)

# %% [markdown]
"""
### HEAD

Many link checkers send HEAD. RFC 9110 demands it of every server that has GET. FastAPI
does not bring it:
"""

# %%
check_links(new_shop(), "/orders", "HEAD")

# %% [markdown]
"""
A **middleware** wraps the whole application and sees each request first. In
[ASGI](../glossary.md#asynchronous-server-gateway-interface), the interface below
FastAPI, `scope` describes the request, and `receive` and `send` carry its messages.
This one runs HEAD as GET, and empties the body.
"""

# %% tags=["export"]
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: HEAD runs as GET and loses the body only (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


# %%
check_links(HeadAsGet(new_shop()), "/orders", "HEAD")

# %% [markdown]
"""
### Allow

Status 405 means: this URL exists, but not with this method. Its `Allow` must list the
methods that work. `/orders/1` has three routes, and FastAPI lists the methods of the
first. So we ask each route about each method.
"""

# %% tags=["export"]
from typing import Any

from starlette.routing import BaseRoute, Host, Match, Mount

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


def takes_method(route: BaseRoute, scope: Scope) -> bool:
    """Whether this route, or one that is mounted below it, takes the scope's method."""
    match, inner = route.matches(dict(scope))
    if match is Match.FULL and isinstance(route, Mount | Host):
        return any(takes_method(one, {**scope, **inner}) for one in route.routes or ())
    known = getattr(route, "methods", ()) is not None  # None: an endpoint class
    return match is Match.FULL and known


def allowed_methods(app: Any, path: str, root_path: str = "") -> list[str]:
    """All methods that an application or a router has at `path`, sorted."""
    found = set()
    scope = {"type": "http", "path": path, "root_path": root_path, "headers": []}
    for method in METHODS:
        if any(takes_method(route, scope | {"method": method}) for route in app.routes):
            found |= {method, "OPTIONS"}
    if "GET" in found:
        found.add("HEAD")
    return sorted(found)


# %%
allowed_methods(new_shop(), "/orders/1")

# %% [markdown]
"""
`complete_methods` puts this list into every 405, beside what the route itself named. An
OPTIONS request asks for nothing but the list, so its 405 becomes 204 (no content). The
body of the error stays as your project makes it.
"""

# %% tags=["export"]
from inspect import isawaitable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response


async def method_not_allowed(request: Request, error: Any) -> Any:
    """Answer 405 with the whole `Allow`, and OPTIONS with 204 (RFC 9110, 15.5.6)."""
    headers = dict(error.headers or {})
    own = headers.get("Allow", "").replace(" ", "").split(",")
    router = request.scope.get("router") or request.app
    routes = allowed_methods(router, request.scope["path"], root_of(request))
    headers["Allow"] = ", ".join(sorted({*own, *routes} - {""}))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    error.headers = headers
    respond = request.app.exception_handlers.get(HTTPException)
    if respond is None:
        return PlainTextResponse(error.detail, 405, headers)
    answer = respond(request, error)
    return await answer if isawaitable(answer) else answer


def complete_methods(app: Starlette) -> None:
    """Give every URL of `app` HEAD, OPTIONS and a complete `Allow` with status 405."""
    app.add_middleware(HeadAsGet)
    app.add_exception_handler(405, method_not_allowed)


# %%
shop = new_shop()
complete_methods(shop)
with serving(shop) as client:
    client.post("/orders/1")
    client.options("/orders/1")
    show_http(client)

# %% [markdown]
"""
### Ask the running service

Is a method really safe and idempotent? `ask` sends a request twice and compares the
state before, between and after. `state` is a function that returns all that may change.
Further arguments, such as `json=`, are the body.
"""

# %% tags=["export"]
from collections.abc import Callable, Mapping


def ask(
    client: Any, method: str, url: str, state: Callable[[], Any], **body: Any
) -> tuple[Any, int]:
    """Send a request twice: the first response, and how many changed the state."""
    before = state()
    response = client.request(method, url, **body)
    between = state()
    client.request(method, url, **body)
    return response, (before != between) + (between != state())


# %%
with serving(shop) as client:
    print(ask(client, "POST", "/orders?item=rope", orders.copy))

# %% [markdown]
"""
`broken_promises` compares all answers of one URL with what RFC 9110 promises.
"""

# %% tags=["export"]
SAFE = ("GET", "HEAD", "OPTIONS")


def broken_promises(answers: Mapping[str, tuple[Any, int]]) -> list[str]:
    """What `ask` found at one URL, by method, against RFC 9110 (9.2, 9.3.2, 15.5.6)."""
    status = {method: response.status_code for method, (response, _) in answers.items()}
    works = {method for method in status if status[method] != 405}
    found = []
    for method, (response, changes) in answers.items():
        if method in SAFE and changes > 0:
            found.append(f"{method} is not safe")
        elif method in ("PUT", "DELETE") and changes > 1:
            found.append(f"{method} is not idempotent")
        allow = response.headers.get("allow", "")
        if method not in works and set(allow.split(", ")) != works:
            found.append(f"Allow of {method} is {allow!r}")
    if status["GET"] != status["HEAD"]:
        found.append("GET and HEAD differ")
    return found


# %% [markdown]
"""
## See it work

The folded cell defines `ask_all(app, urls)`. It asks a served application about every
method of every URL, each time with the first two orders. It shows the status codes, and
returns the answers by URL and method. A plus sign stands for a request that changed the
orders: `+` for one of the two, `++` for both.
"""


# %% tags=["stage"]
def ask_all(app, urls):
    everything = {}
    rows = []
    with serving(app) as client:
        for url in urls:
            row = {"URL": url}
            everything[url] = {}
            for method in METHODS:
                orders.clear()
                orders.update({1: "anvil", 2: "rocket"})
                full = f"{url}?item=rope&number=1"
                response, changes = ask(client, method, full, orders.copy)
                everything[url][method] = response, changes
                row[method] = f"{response.status_code} {'+' * changes}".strip()
            rows.append(row)
    show(table(rows))
    return everything


# %% [markdown]
"""
The same DELETE sent twice gets 204 and then 404. Predict: which cells of the table have
two plus signs?
"""

# %% tags=["predict"]
answers = ask_all(shop, ["/orders", "/orders/1", "/orders/7"])

# %% [markdown]
"""
Idempotent is about the state of the service, not about the answer. The second DELETE
finds the order gone, which is what its client wants. A POST that may be repeated needs
an [idempotency](idempotency.ipynb) key.

The status codes of a service: **200**, the answer is in the body. **201**: created, see
`Location`. **204**: done, no body. **404**: this URL names nothing. **405**: not with
this method. Not in the table: **409**, the state forbids it now; **422**, the body is
wrong.

The first shop does not pass:
"""

# %%
found = broken_promises(ask_all(first_shop, ["/cancelOrder"])["/cancelOrder"])
print(found)

# %% [markdown]
"""
## Check it
"""

# %%
with serving(shop) as client:
    head = client.head("/orders/1")
    created = client.post("/orders?item=rope", headers={"host": "mallory.example"})
assert created.headers["location"] == "/orders/3", "Location is not the order's path"
assert (head.status_code, head.content) == (200, b""), "HEAD is refused"
for url, by_method in answers.items():
    assert broken_promises(by_method) == [], f"HTTP promises something else of {url}"
assert "GET is not safe" in found, "a GET that cancels an order is not noticed"

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `root_of(request) +` | `str(request.base_url) +` | Location is not the order's path |
| `"method": "GET"}` | `"method": "HEAD"}` | HEAD is refused |
| `{*own, *routes}` | `{*own}` | HTTP promises something else of /orders |

## Your turn

How is an order cancelled without a verb? Invent a noun: the **cancellation** of an
order. Write `add_cancellation(app, status, refund)`, which gives `app` two routes at
`/orders/{number}/cancellation`. `status` maps numbers of orders to `"paid"` or
`"shipped"`. `refund(number)` pays the money back, and raises if the bank does not
answer.

- PUT of a paid order pays back, sets its status to `"cancelled"`, and answers 201 with
  `Location`. PUT again answers 200, and pays nothing back.
- PUT of a shipped order is refused. So is PUT of an unknown one, for another reason.
- GET answers 200 if the order is cancelled. If not, there is no such resource.
- After a failed refund the client sends the same PUT again, and gets the money.
"""


# %% tags=["exercise"]
def add_cancellation(app, status, refund):
    """Give `app` GET and PUT of `/orders/{number}/cancellation`."""
    raise NotImplementedError


# %%
from playbook.exercises.api.resources import HINTS, check

check(add_cancellation)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def add_cancellation(app, status, refund):
    url = "/orders/{number}/cancellation"

    @app.get(url)
    def read_cancellation(number: int):
        if status.get(number) != "cancelled":
            raise HTTPException(404, f"order {number} has no cancellation")
        return {"order": number}

    @app.put(url)
    def put_cancellation(number: int, request: Request, response: Response):
        if number not in status:
            raise HTTPException(404, f"there is no order {number}")
        if status[number] == "shipped":
            raise HTTPException(409, "the order was shipped: send it back instead")
        if status[number] == "paid":
            refund(number)  # first: if it fails, the order is still paid
            status[number] = "cancelled"
            response.status_code = 201
            location = path_of(request, "read_cancellation", number=number)
            response.headers["Location"] = location
        return {"order": number}


assert check(add_cancellation)

# %% [markdown]
"""
## Take it with you

`playbook lift resources INTO` copies the recipe and its tests. Its seams:

| seam | what you give |
|---|---|
| application | a FastAPI or Starlette application, for `complete_methods` |
| name of a route | for `path_of`; FastAPI names a route after its function |
| client, state | for `ask`: any HTTP client; a function that reads your data |

The next service is Starlette without FastAPI. The folded cell makes its application
`app`, a set of `tags`, and the route `read_tag` at `/tags/{name}`; it imports
`JSONResponse`.
"""

# %% tags=["stage"]
from starlette.applications import Starlette
from starlette.responses import JSONResponse

tags = set()
app = Starlette()


async def read_tag(request):
    name = request.path_params["name"]
    return JSONResponse(name, 200 if name in tags else 404)


app.router.add_route("/tags/{name}", read_tag)


# %%
async def create_tag(request):
    name = await request.json()
    tags.add(name)
    location = path_of(request, "read_tag", name=name)
    return JSONResponse(name, 201, {"Location": location})


app.router.add_route("/tags", create_tag, methods=["POST"])
complete_methods(app)
with serving(app) as client:
    url = client.post("/tags", json="50% off?").headers["location"]
    client.get(url)
    show_http(client)
    answers = {method: ask(client, method, url, tags.copy) for method in METHODS}
print(broken_promises(answers))

# %% [markdown]
"""
Traps:

- FastAPI redirects `/orders/` to a whole URL, built from the `Host` header. Switch it
  off: `FastAPI(redirect_slashes=False)`.
- Add `CORSMiddleware` after `complete_methods`. It must see a browser's OPTIONS first.
- A mounted FastAPI application answers its own 405. Call `complete_methods` for it too.

Hand it over:

- **Front end**: trust the status code before the body, and follow `Location`.
- **Reviewer**: accept no verb in a path, and no GET that changes something.
- **Tests**: call `ask` and `broken_promises` for every URL of your service.
- **Operations**: a proxy may repeat GET, PUT and DELETE, but not POST.

## In short

A noun in the URL and HTTP's own methods tell programs what a request may do. Safe means
that nothing changes. Idempotent means that a repeated request changes nothing more.

## Sources

RFC 9110: 9.2 (safe, idempotent), 9.3 (methods), 10.2.1 (`Allow`), 10.2.2 (`Location`),
15 (status codes). R. Fielding, dissertation, chapter 5. Starlette documentation,
"Routing".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Test migrations](../migrations/test_migrations.ipynb) · [course map](../index.ipynb) · Next: [Representations](representations.ipynb)
"""
