# %% [markdown]
"""
# Errors

Answer every failure of a service in one format. It tells a client what to do next, and
an attacker nothing.

| | |
|---|---|
| **Use it when** | clients must react to errors, or an answer shows a stack trace |
| **You need** | [resources](resources.ipynb) (*background*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | error handling, problem+json, stack trace, field errors, status 503 |
| **Standard** | RFC 9457; RFC 6901; OWASP ASVS 5.0, 16.5.1 |

```python
from playbook.api.errors import Problem, Problems, ProblemType, install_problems

ON_LOAN = ProblemType("/problems/on-loan", 409, "The book is on loan")
install_problems(app, Problems())  # once, after app.add_middleware
raise Problem(ON_LOAN, "It comes back on Friday.", book="emma")  # in a route
```

*Lift: 92 lines in 1 file; needs fastapi, starlette.*

## See it break

Three routes of a shop. The folded cell makes `SignUp`, a model with a password of at
least 15 characters, `engine`, a database without tables, and `passing`, what SQLAlchemy
raises if a database cannot answer now. It imports `FastAPI`, `HTTPException`,
`JSONResponse`, `sa` (SQLAlchemy) and `traceback`, and from the kit `serving`, `show`,
`table`, `show_http` and `on_postgres`.
"""

# %% tags=["stage"]
import traceback

import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException  # FastAPI's is a subclass of it
from starlette.middleware.trustedhost import TrustedHostMiddleware

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, show_http, table

engine = make_engine(lesson_url())
passing = (sa.exc.OperationalError, sa.exc.TimeoutError)


class SignUp(BaseModel):
    password: str = Field(min_length=15)


# %%
def add_routes(app):
    @app.get("/average")
    def average():
        return 1 / 0

    @app.post("/users")
    def sign_up(user: SignUp): ...

    @app.get("/stock")
    def stock():
        try:
            return sa.inspect(engine).get_columns("stock")
        except Exception:
            return JSONResponse({"error": traceback.format_exc()}, 500)


# %% [markdown]
"""
The folded cell defines two functions. `shop` makes an app with these routes and with
Starlette's check of the host name. `make_mistakes` sends five requests to it: to a path
that is not there, a sign-up with the password `hunter2`, the average, the stock, and
one with another host name. It shows and returns the format of each answer, and what it
tells that it should not. Predict: how many formats must a client know? Which answers
tell too much?
"""

# %% tags=["stage"]
MISTAKES = [
    ("a path that is not there", "GET", "/nowhere", {}),
    ("a short password", "POST", "/users", {"json": {"password": "hunter2"}}),
    ("the average", "GET", "/average", {}),
    ("the stock", "GET", "/stock", {}),
    ("another host", "GET", "/", {"headers": {"host": "evil.example"}}),
]


def shop():
    app = FastAPI()
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])
    add_routes(app)
    return app


def format_of(answer):
    if answer.headers["content-type"] != "application/json":
        return answer.headers["content-type"].split(";")[0]
    return ", ".join(f"{k}: {type(v).__name__}" for k, v in answer.json().items())


def make_mistakes(app):
    rows = []
    with serving(app, headers={"connection": "close"}) as client:
        for name, method, path, options in MISTAKES:
            answer = client.request(method, path, **options)
            told = [word for word in ("hunter2", "Traceback") if word in answer.text]
            rows.append((name, answer.status_code, format_of(answer), "".join(told)))
    show(table(rows, ["mistake", "status", "format", "tells"]))
    return rows


# %% tags=["predict"]
before = make_mistakes(shop())

# %% [markdown]
"""
FastAPI's own `detail` is a text for one error and a list for another. Starlette answers
in plain text, and the author of the stock had an idea of his own.

The author meant the stack trace to help. But no line of the shop sends the password
back: a validation error of FastAPI repeats the input, which then stands in the log of
each [proxy](../glossary.md#proxy) and monitor on the way.

## The decision

| option | good | costs |
|---|---|---|
| `{"error": "..."}` by hand | one line | a program can only compare sentences |
| the framework's default | no work | Django, Flask: HTML; DRF: two formats |
| 200 with `errors` (GraphQL) | partial answers | caches and monitors see a success |
| **problem details** | one format, its own [media type](../glossary.md#media-type) | a catalogue to keep |

We choose **problem details**, for every error. Spring and ASP.NET Core bring them, so
client libraries know them. Choose GraphQL's way if one request asks for twenty things
and nineteen can be given.

## Build it

### The idea

An error is a JSON object with a media type of its own. Its `type` names the kind of
error for programs. `about:blank` says no more than the status does.
"""

# %%
small = FastAPI()


@small.exception_handler(HTTPException)
async def as_json(request, error):
    body = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    return JSONResponse(body, error.status_code, media_type="application/problem+json")


with serving(small) as client:
    client.get("/nowhere")
    show_http(client)

# %% [markdown]
"""
### Types

A client compares the `type`, never a sentence. A service keeps its types in one module,
its *catalogue*. Two come with the recipe.
"""

# %% tags=["export"]
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException


class ProblemType(NamedTuple):
    """A kind of error: a URI for programs, a title for people."""

    uri: str
    status: int
    title: str


INVALID = ProblemType("/problems/invalid-input", 422, "Some input is not acceptable")
UNAVAILABLE = ProblemType("/problems/unavailable", 503, "Not possible just now")


class Problem(HTTPException):
    """An error with its type; `members`, save `headers`, go into the answer."""

    def __init__(self, kind: ProblemType, detail: str = "", **members: Any) -> None:
        super().__init__(kind.status, detail, members.pop("headers", None))
        self.kind = kind
        self.members = members


# %%
SOLD_OUT = ProblemType("/problems/sold-out", 409, "Sold out")
print(repr(Problem(SOLD_OUT, "Only 3 pieces are left.", left=3)))

# %% [markdown]
"""
### Errors of fields

A form shows each error beside its field. A JSON Pointer (RFC 6901) says where that is:
`#/lines/0/price`. The answer never repeats the value. Most messages of pydantic do not
contain it. The text of a validator's `ValueError` often does, so a fixed sentence
replaces it. The list has at most 20 errors: 80,000 unknown fields must not lead to an
answer of ten megabytes.
"""

# %% tags=["export"]
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

QUOTING = ("value_error", "assertion_error", "union_tag_invalid")  # their text quotes
MAX_ERRORS = 20


def pointer(steps: Sequence[object]) -> str:
    """A JSON Pointer as a URI fragment: `#/a~1b` is the member "a/b"."""
    names = [str(step)[:100].replace("~", "~0").replace("/", "~1") for step in steps]
    parts = [quote(name, safe="~", errors="replace") for name in names]
    return "/".join(["#", *parts])


# %%
print(pointer(["lines", 0, "a/b"]))


# %% tags=["export"]
def field_error(error: Mapping[str, Any]) -> dict[str, str]:
    """One of pydantic's errors, without what was sent."""
    place, *steps = error["loc"] or ("body",)
    if error["type"] == "json_invalid":
        steps = []  # the position in a text that is no JSON
    quotes = error["type"] in QUOTING
    detail = "This value is not acceptable" if quotes else error["msg"]
    if place == "body":
        return {"in": "body", "pointer": pointer(steps), "detail": detail}
    name = ".".join(map(str, steps))
    return {"in": str(place), "name": name[:100], "detail": detail}


# %%
leak = {"loc": ("body", "password"), "type": "value_error", "msg": "hunter2 is known"}
print(field_error(leak))

# %% [markdown]
"""
To show words of its own, a validator raises pydantic's `PydanticCustomError` with a
fixed text.

### Any exception

`as_problem` turns every exception into a problem. `general` types stand for all errors
of their status that name no type, those of validation included.
"""

# %% tags=["export"]
from http.client import responses

from fastapi.exceptions import RequestValidationError


def as_problem(error: Exception, general: Sequence[ProblemType]) -> Problem:
    """What a client may know of `error`; `general`: types for errors that name none."""
    if isinstance(error, Problem):
        return error
    kinds = {kind.status: kind for kind in general}
    if isinstance(error, RequestValidationError):
        found = [field_error(one) for one in error.errors()[:MAX_ERRORS]]
        return Problem(kinds.get(422, INVALID), errors=found)
    http = error if isinstance(error, HTTPException) else HTTPException(500)
    status = http.status_code
    plain = ProblemType("about:blank", status, responses.get(status, "Error"))
    problem = Problem(kinds.get(status, plain), headers=http.headers)
    if status < 500 and isinstance(http.detail, str) and http.detail != plain.title:
        problem.detail = http.detail
    return problem


# %%
print(as_problem(ZeroDivisionError("division by zero"), general=[UNAVAILABLE]).kind)

# %% tags=["export"]
import json

from fastapi import FastAPI, Request, Response

PROBLEM_JSON = "application/problem+json"


def problem_response(problem: Problem, request_id: str | None = None) -> Response:
    """The answer to a client (RFC 9457, 3.1)."""
    kind = problem.kind
    standard = {"type": kind.uri, "title": kind.title, "status": kind.status}
    body = standard | problem.members | standard  # members cannot replace them
    optional = {"detail": problem.detail, "request_id": request_id}
    body |= {name: value for name, value in optional.items() if value}
    content = json.dumps(body, default=str)  # ASCII: half an emoji cannot break it
    return Response(content, problem.status_code, problem.headers, PROBLEM_JSON)


# %% [markdown]
"""
Predict: which of these four answers have a `detail`?
"""

# %% tags=["predict"]
for error in (
    HTTPException(404, "There is no order 7."),
    HTTPException(500, "The password of the database is hunter2."),
    HTTPException(409, {"left": 3}),
    Problem(SOLD_OUT, "Only 3 pieces are left.", left=3),
):
    print(problem_response(as_problem(error, general=[])).body.decode())

# %% [markdown]
"""
From 500 on, a detail is often the text of some exception. So only a `Problem` keeps it
there: its author chose the words. A detail that is no text is left out; such data
belongs into members.

### The handler

`Problems` is the value that an app hands in. `not_now` names exceptions that pass by
themselves, such as a database that is restarting. They become a 503 with `Retry-After`.
The log gets the cause, under the id that the client was told.
"""

# %% tags=["export"]
import logging
from dataclasses import dataclass

log = logging.getLogger("problems")


@dataclass(frozen=True)
class Problems:
    """How an app answers errors. `leave_alone`: prefixes of paths of other formats."""

    general: Sequence[ProblemType] = (INVALID, UNAVAILABLE)
    request_id: Callable[[Request], str | None] = lambda request: None
    not_now: tuple[type[Exception], ...] = ()
    leave_alone: tuple[str, ...] = ()

    async def answer(self, request: Request, error: Exception) -> Response:
        if isinstance(error, self.not_now):
            log.error("%s: not now", self.request_id(request), exc_info=error)
            error = HTTPException(503, headers={"Retry-After": "1"})  # seconds
        problem = as_problem(error, self.general)
        if problem.status_code < 400:  # such as a 304 that was raised
            return Response(None, problem.status_code, problem.headers)
        return problem_response(problem, self.request_id(request))


def add_handlers(app: FastAPI, problems: Problems) -> None:
    """Answer what routes raise; also 500, and 404 of the router."""
    for kind in (HTTPException, RequestValidationError, *problems.not_now, Exception):
        app.add_exception_handler(kind, problems.answer)


# %% [markdown]
"""
A **[request id](../glossary.md#request-id)** names one request in the answer and in the
log, so that support finds the cause. It is always `r-1` here. Predict: which of the
five mistakes still get another format?
"""

# %% tags=["predict"]
problems = Problems(request_id=lambda request: "r-1", not_now=passing)
app = shop()
add_handlers(app, problems)
handled = make_mistakes(app)

# %% [markdown]
"""
### What no handler sees

A middleware can answer by itself, and a route can return an error instead of raising
it. So an outer middleware looks at every answer. It keeps the status and the headers of
an error, and replaces the body.
"""

# %% tags=["export"]
from functools import partial


async def only_problems(problems: Problems, request: Request, call_next: Any) -> Any:
    """The answer of the app; an error in another format becomes a problem."""
    response = await call_next(request)
    known = response.headers.get("content-type") == PROBLEM_JSON
    left_alone = request.url.path.startswith(problems.leave_alone)
    if response.status_code < 400 or known or left_alone:
        return response
    for name in ("content-type", "content-length", "content-encoding"):
        del response.headers[name]  # they describe the body that is dropped
    problem = await problems.answer(request, HTTPException(response.status_code, ""))
    problem.raw_headers += response.raw_headers
    return problem


def install_problems(app: FastAPI, problems: Problems) -> None:
    """Answer each error of `app` as a problem. Call it once, after `add_middleware`."""
    add_handlers(app, problems)
    app.middleware("http")(partial(only_problems, problems))


# %% [markdown]
"""
## See it work

The same mistakes again:
"""

# %%
app = shop()
install_problems(app, problems)
after = make_mistakes(app)

# %% [markdown]
"""
## On PostgreSQL

A database can say "not now" in many ways: no connection, a
[conflict](../glossary.md#conflict), a timeout. The folded cell defines `fail(url)`,
which makes one for real. A statement takes longer than its limit.
"""

# %% tags=["stage"]
log.disabled = True  # the page would show it


def fail(url):
    engine = make_engine(url)
    app = FastAPI()

    @app.get("/sleep")
    def sleep():
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 20")
            connection.exec_driver_sql("SELECT pg_sleep(60)")

    install_problems(app, problems)
    with serving(app) as client:
        client.get("/sleep")
        show_http(client)
        return client.exchanges[0].status


# %%
failed = on_postgres(fail)

# %% [markdown]
"""
## Check it

The folded cell reads the OpenAPI document of the app, and sends wrong requests to every
route of the running server. `refused` holds the kinds of errors that come back: status,
media type, request id. So a new route is asked without a new test. The recipe's tests
do the same with more mistakes.
"""

# %% tags=["stage"]
refused = set()
with serving(app, headers={"connection": "close"}) as client:
    for path, operations in app.openapi()["paths"].items():
        for method in ("brew", *operations):
            options = {"content": b"{"} if method == "post" else {}
            answer = client.request(method, path, **options)
            told = answer.json().get("request_id")
            refused.add((answer.status_code, answer.headers["content-type"], told))

# %%
show(table(sorted(refused), ["status", "media type", "request id"]))
assert {row[2] for row in after} == {PROBLEM_JSON}, "a mistake gets another format"
assert {row[1] for row in refused} == {PROBLEM_JSON}, "a route's error is no problem"
assert not any(row[3] for row in after), "an answer tells a secret"
assert {row[2] for row in refused} == {"r-1"}, "an error has no request id"
assert failed in (None, 503), "a failure that passes is no 503"

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `field_error(one) for one` | `one for one` | an answer tells a secret |
| `response.status_code < 400 or known` | `True` | a mistake gets another format |
| `self.request_id(request))` | `"r-2")` | an error has no request id |

## Your turn

The other end: a front end shows what went wrong. Write `read_problem(response)`. It
gets an answer of httpx, from this service or from a proxy in front of it, and returns
two things:

- The text to show: the `detail`, or else the `title`. For an answer that is no problem
  it is `"HTTP 502"`, with the status of the response.
- A dictionary of fields. A key is a tuple of steps: the pointer `#/lines/0/a~1b`
  becomes `("lines", "0", "a/b")`. The value is the detail of that error. Errors outside
  of the body are left out.
"""


# %% tags=["exercise"]
def read_problem(response):
    """What to show for an error: a text, and the errors of fields by their steps."""
    raise NotImplementedError


# %%
from playbook.exercises.api.errors import HINTS, check

check(read_problem)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from urllib.parse import unquote


def steps_of(pointer):
    # The percent-encoding is the URI's, so it comes off first. "~1" is replaced before
    # "~0": "~01" stands for "~1", and must not become "/".
    parts = unquote(pointer).split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def read_problem(response):
    media_type = response.headers.get("content-type", "").split(";")[0].strip()
    problem = {}
    if media_type.lower() == PROBLEM_JSON:
        problem = response.json()
    status = f"HTTP {response.status_code}"
    text = problem.get("detail") or problem.get("title") or status
    fields = {}
    for error in problem.get("errors", []):
        if "pointer" in error:
            fields[steps_of(error["pointer"])] = error["detail"]
    return text, fields


assert check(read_problem)

# %% [markdown]
"""
## Take it with you

`playbook lift errors INTO` copies the recipe and its tests. What it asks of your
project:

| seam | what to hand in |
|---|---|
| request id | `request_id(request)`: for example a value of `request.state`, or None |
| database | `not_now=(OperationalError, TimeoutError)`, both of SQLAlchemy |
| types | your catalogue: one module of constants; `general`, one type per status |
| other formats | `leave_alone=("/oauth/",)`: paths with a standard of their own |

A library lends books:
"""

# %%
ON_LOAN = ProblemType("/problems/on-loan", 409, "The book is on loan")
library = FastAPI()
install_problems(library, Problems())


@library.post("/loans/{book}")
def lend(book: str):
    raise Problem(ON_LOAN, "It comes back on Friday.", book=book)


with serving(library) as client:
    client.post("/loans/emma")
    show_http(client)

# %% [markdown]
"""
Traps:

- `FastAPI(debug=True)` shows stack traces, whatever you install.
- A middleware that is added later stands outside, and its errors stay as they are.
- SQLite raises `OperationalError` for a missing table too. Read the log.
- A union of models adds the name of its branch to the pointer.
- JSON with a name twice, half an emoji, deep nesting or endless numbers is another
  subject: Pantry refuses it before a route reads it.

Hand it over:

- **Front end**: compare `type`; show `detail`, or else `title`. Expect other formats
  from proxies.
- **Reviewer**: no `except Exception` in a route; no text of an exception in a
  `Problem`.
- **Security**: read each `Problem` with a status of 500 or more and a detail.
- **Tests**: send wrong requests to every route, as the recipe's tests do.
- **Operations**: alert on 500, which is always a defect. 503 is load, or the database.

## In short

An error has one format, and a type that a program can compare. Handlers see what a
route raises; only an outer middleware sees every answer. Neither the input nor the
cause goes into an answer: the log has the cause.

## Sources

RFC 9457, 3.1 (members), 3.2 (extensions), 4.2.1 (`about:blank`). RFC 6901, 4 and 6. RFC
9110, 10.2.3 (`Retry-After`) and 15.5 (status codes). OWASP ASVS 5.0, 16.5.1 (generic
errors).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Representations](representations.ipynb) · [course map](../index.ipynb) · Next: [Keyset pagination](pagination.ipynb)
"""
