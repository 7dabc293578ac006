# %% [markdown]
"""
# Deny by default

Make each route say who may use it, and find the route that says nothing before a
stranger does.

| | |
|---|---|
| **Use it when** | some routes need a caller, and developers will add more routes |
| **You need** | [start_here](start_here.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | authentication, authorization, 401, 403, forgotten check, open route |
| **Standard** | RFC 9110 (11.6.1, 15.5.2, 15.5.4); OWASP ASVS 5.0 (8.2.1, 8.3.1) |

```python
from playbook.foundations.deny_by_default import (
    CallerFirst, anyone, caller_of, permission_of, refuse_undeclared,
)

current_caller = caller_of(find_caller, challenge="Bearer")
permission = permission_of(current_caller, may)  # dependencies=[permission("x:read")]
app.add_middleware(CallerFirst, caller=current_caller)
refuse_undeclared(app, current_caller)  # the last line of the factory, and one test
```

*Lift: 78 lines in 1 file; needs fastapi, starlette.*

## See it break

A clinic keeps records of patients. Its developers know that a check per route will be
forgotten. So the check is a dependency of the whole app.

The folded cell defines what colleagues wrote: the router `letters`, the app `reports`,
and `folder` with a scan. `ask(app, requests, callers)` sends requests and shows the
status codes. The cell also imports `serving` and `show_http`, and makes a list
`looked_up` for later.
"""

# %% tags=["stage"]
import itertools

from fastapi import APIRouter, FastAPI

from playbook.kit.lesson import lesson_folder, serving, show, show_http, table

TOKENS = {"Bearer ada-7f3a": "Ada", "Bearer mallory-91c2": "Mallory"}
looked_up = []
folder = lesson_folder()
(folder / "1.txt").write_text("the scan of a patient")
letters = APIRouter(prefix="/letters")
reports = FastAPI(openapi_url=None)


@letters.delete("/{number}")
def delete_letter(number: int): ...


@reports.get("/2026")
def read_report(): ...


def ask(app, requests, callers=("stranger", "Mallory", "Ada")):
    looked_up.clear()
    headers = {name: {"Authorization": token} for token, name in TOKENS.items()}
    codes = {name: [] for name in callers}
    with serving(app) as client:
        for request, name in itertools.product(requests, callers):
            method, path = request.split()
            body = {"text": "well"} if method == "PUT" else None
            answer = client.request(method, path, headers=headers.get(name), json=body)
            codes[name].append(str(answer.status_code))
    show(table(zip(requests, *codes.values(), strict=True), ["request", *callers]))
    return {name: " ".join(each) for name, each in codes.items()}


# %%
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles


def signed_in(request: Request):
    if "Authorization" not in request.headers:
        raise HTTPException(401)


app = FastAPI(dependencies=[Depends(signed_in)])


@app.get("/records/{number}")
def read_record(number: int):
    return {"record": number}


app.include_router(letters)
app.mount("/reports", reports)
app.mount("/scans", StaticFiles(directory=folder))

# %% [markdown]
"""
A stranger sends no `Authorization` header. Predict: which of these five requests does
the app refuse?
"""

# %% tags=["predict"]
requests = [
    "GET /records/1",
    "DELETE /letters/1",
    "GET /reports/2026",
    "GET /scans/1.txt",
]
_ = ask(app, [*requests, "GET /openapi.json"], callers=["stranger"])

# %% [markdown]
"""
A dependency runs only where FastAPI's own routes run. A mounted app has routes of its
own, files have no dependencies, and neither has the documentation. None of them says
anything, and silence means *open*.

## The decision

| option | good | costs |
|---|---|---|
| check in each route | easy to read | a forgotten check is an open route |
| check for the whole app | nothing to forget | misses mounts; sign-in is an exception |
| middleware, open paths | covers mounts | matches paths twice; no permissions |
| **each route says it, a walk looks** | exact, one place | one word per open route |

Frameworks bring the second option: DRF's `DEFAULT_PERMISSION_CLASSES`, Django's
`LoginRequiredMiddleware` (5.1), Flask's `before_request`. Django and DRF let single
views out of it.

We choose the **walk** over all routes. It finds silence when the program starts, and a
reviewer searches for one word, `anyone`. Choose the middleware when you cannot change
the app behind it.

## Build it

### The idea

A declaration is data. FastAPI keeps the dependencies of a route in `dependant`, so a
program can read them. It can also see where nothing can be declared (`False`):
"""

# %%
from fastapi.routing import iter_route_contexts

for route in iter_route_contexts(app.routes):
    print(f"{route.path:28}", hasattr(route, "dependant"))

# %% [markdown]
"""
### Who is calling?

Two words declare a route: the dependency that `caller_of` makes, or `anyone`. You hand
in `find_caller`, which gets an `HTTPConnection`, a request or a websocket, and knows
cookies or [tokens](../glossary.md#token). `connection.scope` is a dictionary that lives
as long as the request. A request without a caller gets 401. RFC 9110 demands a
`WWW-Authenticate` header there. It names the *scheme*, a way to sign in, and is called
the *challenge*.
"""

# %% tags=["export"]
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

Caller = Callable[..., Any]  # a dependency


def caller_of(
    find_caller: Callable[[HTTPConnection], Any], challenge: str | None
) -> Caller:
    """A dependency: what `find_caller` finds, once per request. 401 when it is None."""

    async def current_caller(connection: HTTPConnection) -> Any:
        if "caller" not in connection.scope:
            found = await run_in_threadpool(find_caller, connection)
            connection.scope["caller"] = found
        if connection.scope["caller"] is None:
            headers = {"WWW-Authenticate": challenge} if challenge else None
            raise HTTPException(401, headers=headers)
        return connection.scope["caller"]

    return current_caller


async def anyone() -> None:
    """Declares a route open to everybody, signed in or not."""


# %% [markdown]
"""
The folded cell defines `find_caller`. It looks up a **bearer token**, which is good for
whoever sends it, and notes that it did. `who_am_i(caller)` serves one route, first to a
stranger with a guessed token and then to Ada.
"""


# %% tags=["stage"]
def find_caller(connection):
    looked_up.append(connection.url.path)
    return TOKENS.get(connection.headers.get("Authorization"))


def who_am_i(caller):
    app = FastAPI()
    app.add_api_route("/me", lambda name: name, dependencies=[Depends(caller)])
    with serving(app) as client:
        for token in ("Bearer guessed", "Bearer ada-7f3a"):
            client.get("/me?name=Ada", headers={"Authorization": token})
        show_http(client)
    return client.exchanges[0].response_headers.get("WWW-Authenticate")


# %%
current_caller = caller_of(find_caller, challenge="Bearer")
challenge = who_am_i(current_caller)

# %% [markdown]
"""
`Bearer` is the scheme for tokens. Never write `Basic` without meaning it: a browser
opens its password dialogue. For a cookie no scheme is registered. `challenge=None`
leaves the header out, and deviates from the RFC on purpose.

### May they?

You hand in a second function, `may(caller, action, target)`. The target is what the
path names, as text. 403 tells a caller that the thing exists. Where this is a secret,
the refusal is 404, which is also the answer for a thing that does not exist.
"""

# %% tags=["export"]
from fastapi import Depends


def permission_of(caller: Caller, may: Callable[..., bool]) -> Callable[..., Any]:
    """Makes dependencies: `permission(action)` is 403 for callers who may not do it."""
    asks = Depends(caller)

    def permission(action: str, refused: int = 403) -> Any:
        def check(connection: HTTPConnection, found: Any = asks) -> Any:
            if not may(found, action, connection.path_params):
                raise HTTPException(refused)
            return found

        check.__name__ = f"permission {action}"  # for those who list dependencies
        return Depends(check)

    return permission


# %% [markdown]
"""
A permission stands among the `dependencies`, or it is a parameter that gives the
caller. Here is the clinic again. Ada may read and write record 1, Mallory is signed in
and may nothing.
"""


# %%
def may(caller, action, target):
    return (caller, target["number"]) == ("Ada", "1")


permission = permission_of(current_caller, may)


def clinic():
    app = FastAPI(openapi_url=None)

    @app.put("/feedback", dependencies=[Depends(anyone)])
    def thank(feedback: dict): ...

    @app.get("/records/{number}", dependencies=[permission("records:read", 404)])
    def read(number: int): ...

    @app.put("/records/{number}")
    def write(number: int, record: dict, by: str = permission("records:write")) -> str:
        return by

    return app


requests = ["PUT /feedback", "GET /records/1", "PUT /records/1", "GET /records/2"]
_ = ask(clinic(), requests)

# %% [markdown]
"""
### The walk

`routes_of` goes through included routers and into mounted apps. For each route it
collects every dependency that will run, those of dependencies too. Files, the
documentation and plain Starlette routes have none. For them it notes the path.
"""

# %% tags=["export"]
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastapi.routing import iter_route_contexts


class Route(NamedTuple):
    """`calls`: the dependencies that run for it; its path if it can have none."""

    name: str  # `GET /records/{number}`; `ANY` for mounts and websockets
    endpoint: Any
    calls: frozenset[Any]


def calls_of(dependant: Any) -> frozenset[Any]:
    """Each function that runs for a dependency tree."""
    return frozenset({dependant.call}).union(*map(calls_of, dependant.dependencies))


# %% tags=["export"]
def routes_of(routes: Sequence[Any], prefix: str = "") -> Iterator[Route]:
    """All routes, those of mounted apps too."""
    for route in iter_route_contexts(routes):
        path = prefix + (route.path or "")
        inside = getattr(route, "routes", None)
        if inside:
            yield from routes_of(inside, path)
            continue
        methods = "/".join(sorted(getattr(route, "methods", None) or ["ANY"]))
        dependant = getattr(route, "dependant", None)
        calls = calls_of(dependant) if dependant else frozenset({path})
        yield Route(f"{methods} {path}", getattr(route, "endpoint", None), calls)


# %%
for route in routes_of(app.routes):
    print(f"{route.name:32}", signed_in in route.calls)

# %% [markdown]
"""
A route that says neither is refused when the program starts. For what cannot say
anything, you name its path in `open_paths`.
"""


# %% tags=["export"]
def refuse_undeclared(app: Any, caller: Caller, open_paths: Sequence[str] = ()) -> None:
    """ValueError names the routes without `caller` or `anyone`, save `open_paths`."""
    words = {caller, anyone, *open_paths}
    silent = [route.name for route in routes_of(app.routes) if not route.calls & words]
    if silent:
        raise ValueError(f"say who may use {', '.join(silent)}")


# %% [markdown]
"""
The folded cell defines `verdict(app, open_paths)`, the words of this error. We ask
about the app of the beginning, which does not know `current_caller`. Then we excuse two
paths. Predict: which of the two does it help?
"""


# %% tags=["stage"]
def verdict(app, open_paths=()):
    try:
        refuse_undeclared(app, current_caller, open_paths)
    except ValueError as error:
        return str(error)
    return "every route says it"


# %% tags=["predict"]
silent = verdict(app)
excused = verdict(app, open_paths=["/scans", "/letters/{number}"])
print(silent, excused, sep="\n\n")

# %% [markdown]
"""
A FastAPI route can declare, so its path excuses nothing.

### Before the body

A stranger sends a body that is not even JSON to `PUT /records/1`. The folded cell
defines `broken_body(app)`, which does this. Predict: what does the stranger learn, 401
or 422?
"""


# %% tags=["stage"]
def broken_body(app):
    headers = {"Content-Type": "application/json"}
    with serving(app) as client:
        answer = client.put("/records/1", content='{"text": ', headers=headers)
    print(answer.status_code, "challenge:", answer.headers.get("WWW-Authenticate"))
    return answer.status_code


# %% tags=["predict"]
late = broken_body(clinic())

# %% [markdown]
"""
FastAPI reads and parses the body before it runs a dependency. So strangers can make the
service read a body of any size. A middleware can ask first, at the moment when the body
is read: then the route is known.
"""


# %% tags=["export"]
class CallerFirst:
    """ASGI middleware: asks `caller` before the body is read, if the route needs it."""

    def __init__(self, app: Any, caller: Caller) -> None:
        self.app = app
        self.caller = caller
        self.known: dict[Any, bool] = {}  # endpoint: does it need the caller?

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        routes = scope["app"].routes if scope["type"] == "http" else []

        async def receive_after_caller() -> Any:
            endpoint = scope.get("endpoint")
            if endpoint not in self.known:
                self.known[endpoint] = needs_caller(routes, endpoint, self.caller)
            if self.known[endpoint]:
                try:
                    await self.caller(HTTPConnection(scope))
                except HTTPException:
                    raise
                except Exception as error:  # FastAPI would answer 400
                    raise HTTPException(503, headers={"Retry-After": "1"}) from error
            return await receive()

        await self.app(scope, receive_after_caller, send)


def needs_caller(routes: Sequence[Any], endpoint: Any, caller: Caller) -> bool:
    """Whether each route of `endpoint` names `caller`."""
    found = [route for route in routes_of(routes) if route.endpoint is endpoint]
    return bool(found) and all(caller in route.calls for route in found)


# %%
app = clinic()
app.add_middleware(CallerFirst, caller=current_caller)
early = broken_body(app)

# %% [markdown]
"""
## See it work

The clinic with its middleware, asked by three callers. The scans are open on purpose
here. Predict: what does a stranger get for `HEAD /records/1` and for `DELETE
/records/1`, which no route offers?
"""

# %% tags=["predict"]
app.mount("/scans", StaticFiles(directory=folder))
refuse_undeclared(app, current_caller, open_paths=["/scans"])
others = ["HEAD /records/1", "DELETE /records/1", "GET /scans/1.txt", "GET /docs"]
answers = ask(app, [*requests, *others])

# %% [markdown]
"""
405 tells a stranger which paths exist, and nothing of what is behind them.

## Check it
"""

# %%
expected = {
    "stranger": "200 401 401 401 405 405 200 404",
    "Mallory": "200 404 403 404 405 405 200 404",
    "Ada": "200 200 200 404 405 405 200 404",
}
assert answers == expected, "a door is open or shut that should not be"
assert challenge == "Bearer", "a 401 names no scheme"
assert silent.endswith("GET /reports/2026, ANY /scans"), "a silent route was not found"
assert "/scans" not in excused and "/letters" in excused, "a path excused too much"
assert early == 401, "a stranger's body was read"
assert len(looked_up) == 9, "a caller was looked up twice, or never"
print("every door as declared; silence is found; a stranger's body costs nothing")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `if not may(found` | `if may(found` | a door is open or shut that should not be |
| `yield from routes_of(inside, path)` | `pass` | a silent route was not found |
| `return bool(found) and` | `return False and` | a stranger's body was read |

## Your turn

Signed in is not yet permitted. A route that names only the caller lets every caller
pass, Mallory too. For reading this may be right. For writing it is rarely meant.

Write `written_by_all(app, caller)`. It returns the names of routes that need the caller
but no permission, and take POST, PUT, PATCH or DELETE. A test can then compare this
list with the one that a reviewer has accepted.
"""


# %% tags=["exercise"]
def written_by_all(app, caller):
    """Names such as `DELETE /letters/{number}`, in the order of the routes."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.deny_by_default import HINTS, check

check(written_by_all)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def written_by_all(app, caller):
    names = []
    for route in routes_of(app.routes):
        methods = set(route.name.split(" ")[0].split("/"))
        writes = methods & {"POST", "PUT", "PATCH", "DELETE"}
        if not writes or caller not in route.calls:
            continue
        words = [getattr(call, "__name__", "") for call in route.calls]
        if not any(word.startswith("permission ") for word in words):
            names.append(route.name)
    return names


assert check(written_by_all)

# %% [markdown]
"""
## Take it with you

`playbook lift deny_by_default INTO` copies the recipe and its tests. What it asks of
your project:

| seam | what you hand in |
|---|---|
| who is calling | `find_caller(connection)`: your user, or None; may ask the database |
| the rule | `may(caller, action, target)`: True or False |
| the scheme | `challenge`: `"Bearer"` for tokens, None for cookies only |
| open paths | the paths that cannot declare anything |

A shop with a session cookie:
"""

# %%
customer = caller_of(lambda connection: connection.cookies.get("name"), challenge=None)
permission = permission_of(customer, lambda who, what, order: order["order_id"] == "7")
shop = FastAPI(openapi_url=None)


@shop.get("/orders/{order_id}", dependencies=[permission("orders:read", 404)])
def read_order(order_id: int): ...


refuse_undeclared(shop, customer)
with serving(shop, cookies={"name": "Ada"}) as client:
    client.get("/orders/8")
    show_http(client)

# %% [markdown]
"""
Traps:

- The target is text: `"7"`, not 7. What the *body* names is not in it: call `may` in
  the endpoint.
- `anyone` on a router opens each later route of the router. Write it on routes.
- The walk sees routes. A middleware that answers by itself, and `app.frontend(...)`,
  are not in `app.routes`. Neither is a route that is added after the walk.
- A mounted app runs none of the outer app's dependencies. Declare its own routes.
- `find_caller` may fail, as when the database is away. Before a body this is a 503,
  because FastAPI makes a 400 of every other error there. Log the error in
  `find_caller`.

Hand it over:

- **Reviewer**: search for `anyone` and `open_paths` in each change.
- **Security**: the list of open routes is the attack surface for strangers.
- **Tests**: one test calls `refuse_undeclared(create_app(), current_caller)`.
- **Front end**: 401 means sign in, 403 means ask for a permission, 404 may be either.

## In short

A dependency of the whole app misses what is mounted, so a walk over all routes looks
for silence. 401 asks who you are, 403 says no, and 404 also hides that there is
something. The caller must be found before the body is read.

## Sources

RFC 9110, 11.6.1 (WWW-Authenticate), 15.5.2 (401), 15.5.4 (403, and 404 instead of it).
IANA, "HTTP Authentication Schemes". OWASP ASVS 5.0, 8.2.1 and 8.3.1. OWASP Top 10:2025,
A01 (broken access control). FastAPI documentation, "Global Dependencies" and "Sub
Applications". Django documentation, `LoginRequiredMiddleware`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Request and transaction](request_and_transaction.ipynb) · [course map](../index.ipynb) · Next: [Start and stop](start_and_stop.ipynb)
"""
