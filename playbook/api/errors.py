# %% [markdown]
"""
# Errors

Answer every failure of a service in one format. It tells a client what to do next, and
an attacker nothing.

| | |
|---|---|
| **Use it when** | clients must react to errors, or an answer shows a stack trace |
| **You need** | [resources](resources.ipynb) (*background*) |
| **Time** | read 0 min, exercise 15 min |
| **Topics** | error handling, problem+json, stack trace, field errors, json pointer, 503 |
| **Standard** | RFC 9457; RFC 6901; OWASP ASVS 5.0, 16.5.1 |

```python
from playbook.api.errors import Problem, Problems, ProblemType, install_problems

ON_LOAN = ProblemType("/problems/on-loan", 409, "The book is on loan")
install_problems(app, Problems())  # once, after app.add_middleware
raise Problem(ON_LOAN, "It comes back on Friday.", book="emma")  # in a route
```

*Lift: 0 lines in 1 file; needs nothing.*

## See it break

Three routes of a shop. The folded cell makes `SignUp`, a model with an email and a
password of at least 15 characters, and `engine`, a database without tables. It imports
`FastAPI`, `JSONResponse`, `sa` (SQLAlchemy) and `traceback`, and from the kit
`serving`, `show_http` and `on_postgres`.
"""

# %% tags=["stage"]
import traceback

import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, show_http, table

engine = make_engine(lesson_url())


class SignUp(BaseModel):
    email: str
    password: str = Field(min_length=15)


# %%
def add_routes(app):
    @app.post("/users")
    def sign_up(user: SignUp): ...

    @app.get("/average")
    def average():
        return sum([]) / len([])

    @app.get("/stock")
    def stock():
        try:
            with engine.connect() as connection:
                return connection.scalar(sa.text("SELECT price FROM stock"))
        except Exception:
            return JSONResponse({"error": traceback.format_exc()}, 500)


# %% [markdown]
"""
The folded cell defines `shop()`, an app with these routes and Starlette's check of the
host name, and `make_mistakes(app)`, which sends five requests: to a path that is not
there, a sign-up with the password `hunter2`, the average, the stock, and one for
another host.

Predict: how many formats must a client know? Which answers tell too much?
"""

# %% tags=["stage"]
MISTAKES = [
    ("a path that is not there", "GET", "/nowhere", {}),
    ("a short password", "POST", "/users", {"json": {"password": "hunter2"}}),
    ("the average", "GET", "/average", {}),
    ("the stock", "GET", "/stock", {}),
    ("another host", "GET", "/", {"headers": {"host": "evil.example"}}),
]
SECRETS = ("hunter2", "Traceback", "SELECT")
CLOSE = {"connection": "close"}  # uvicorn ends a connection after an exception


def shop():
    app = FastAPI()
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])
    add_routes(app)
    return app


def format_of(answer):
    media_type = answer.headers["content-type"].split(";")[0]
    if media_type != "application/json":
        return media_type
    kinds = [f"{name}: {type(value).__name__}" for name, value in answer.json().items()]
    return f"json, {', '.join(kinds)}"


def make_mistakes(app):
    rows = []
    with serving(app, headers=CLOSE) as client:
        for name, method, path, options in MISTAKES:
            answer = client.request(method, path, **options)
            tells = ", ".join(word for word in SECRETS if word in answer.text)
            rows.append((name, answer.status_code, format_of(answer), tells))
    show(table(rows, ["mistake", "status", "format", "tells"]))
    return rows


# %% tags=["predict"]
before = make_mistakes(shop())

# %% [markdown]
"""
FastAPI's own `detail` is a text for one error and a list for another. Starlette answers
in plain text, and the author of the stock had an idea of his own.

The stack trace was meant to help. But no line of the shop sends the password back. A
validation error of FastAPI repeats the input, which then stands in the log of each
proxy and monitor on the way.

## The decision

| option | good | costs |
|---|---|---|
| `{"error": "..."}` by hand | one line | a program can only compare sentences |
| the framework's default | no work | Django, Flask: HTML; DRF: two formats; FastAPI: above |
| 200 with `errors` (GraphQL) | partial answers | caches and monitors see a success |
| **problem details** (RFC 9457) | one format, its own media type | a catalogue to keep |

We choose **problem details**, for every error. Spring and ASP.NET Core bring them, so
client libraries know them. Choose GraphQL's way if one request asks for twenty things
and nineteen can be given.

## Build it

### The idea

An error is a JSON object with a media type of its own. Its `type` names the kind of
error for programs. `about:blank` says no more than the status does.
"""

# %%
from starlette.exceptions import HTTPException  # FastAPI's is a subclass of it

small = FastAPI()


@small.exception_handler(HTTPException)
async def as_json(request, error):
    body = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    return JSONResponse(body, error.status_code, None, "application/problem+json")


with serving(small) as client:
    client.get("/nowhere")
    show_http(client)

# %% [markdown]
"""
### Types

A client compares the `type`, never a sentence. `general` types stand for all errors of
their status that name no type of their own. Both below come from the recipe.
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
    """An error with its type; `members` become further members of the answer."""

    def __init__(self, kind: ProblemType, detail: str = "", **members: Any) -> None:
        super().__init__(kind.status, detail)
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
replaces it.
"""

# %% tags=["export"]
from collections.abc import Mapping, Sequence
from urllib.parse import quote

MAX_ERRORS = 20  # 80,000 unknown fields must not buy an answer of ten megabytes
QUOTING = ("value_error", "assertion_error", "union_tag_invalid")


def pointer(steps: Sequence[object]) -> str:
    """A JSON Pointer as a URI fragment: `#/a~1b` is the member "a/b"."""
    parts = ["#"]
    for step in steps:
        escaped = str(step)[:100].replace("~", "~0").replace("/", "~1")
        parts.append(quote(escaped, safe="~", errors="replace"))
    return "/".join(parts)


# %%
print(pointer(["lines", 0, "price"]), pointer(["a/b~"]))


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
try:
    SignUp(password="hunter2")
except ValueError as wrong:
    for error in wrong.errors():
        print(field_error(error | {"loc": ("body", *error["loc"])}))

# %% [markdown]
"""
To show words of its own, a validator raises pydantic's `PydanticCustomError` with a
fixed text.

### Any exception

`as_problem` turns every exception into a problem. Predict: which of the five answers
below have a `detail`?
"""

# %% tags=["export"]
from http.client import responses

from fastapi.exceptions import RequestValidationError


def as_problem(error: Exception, general: Sequence[ProblemType]) -> Problem:
    """What a client may know of `error`; `general`: types for errors that name none."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[:MAX_ERRORS]
        return Problem(INVALID, errors=[field_error(one) for one in first])
    http = error if isinstance(error, HTTPException) else HTTPException(500)
    status = http.status_code
    kinds = {kind.status: kind for kind in general}
    plain = ProblemType("about:blank", status, responses.get(status, "Error"))
    problem = Problem(kinds.get(status, plain))
    if status < 500 and isinstance(http.detail, str) and http.detail != plain.title:
        problem.detail = http.detail
    problem.headers = http.headers
    return problem


# %% tags=["predict"]
errors = [
    HTTPException(404, "There is no order 7."),
    HTTPException(500, "The password of the database is hunter2."),
    HTTPException(409, {"left": 3}),
    ZeroDivisionError("division by zero"),
    Problem(SOLD_OUT, "Only 3 pieces are left.", left=3),
]
for problem in [as_problem(error, [UNAVAILABLE]) for error in errors]:
    print(problem.status_code, problem.kind.uri, repr(problem.detail))

# %% [markdown]
"""
From 500 on, a detail is often the text of some exception. So only a `Problem` keeps it
there: its author chose the words. A detail that is no text is left out; such data
belongs into members.

### The answer

`Problems` is the value that an app hands in. `not_now` names exceptions that pass by
themselves, such as a database that is restarting. They become a 503 with `Retry-After`.
The log gets the cause.
"""

# %% tags=["export"]
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"
log = logging.getLogger("problems")


def problem_response(problem: Problem, request_id: str | None = None) -> Response:
    """The answer to a client (RFC 9457, 3.1)."""
    kind = problem.kind
    standard = {"type": kind.uri, "title": kind.title, "status": kind.status}
    body = standard | problem.members | standard  # members cannot replace them
    if problem.detail:
        body["detail"] = problem.detail
    if request_id:
        body["request_id"] = request_id
    content = json.dumps(body, default=str)  # ASCII: half an emoji cannot break it
    return Response(content, problem.status_code, problem.headers, PROBLEM_JSON)


# %%
problem = as_problem(errors[-1], [])
print(problem_response(problem, request_id="r-1").body.decode())


# %% tags=["export"]
@dataclass(frozen=True)
class Problems:
    """How an app answers errors. `leave_alone`: prefixes of paths of other formats."""

    general: Sequence[ProblemType] = (INVALID, UNAVAILABLE)
    request_id: Callable[[Request], str | None] = lambda request: None
    not_now: tuple[type[Exception], ...] = ()
    leave_alone: tuple[str, ...] = ()

    async def answer(self, request: Request, error: Exception) -> Response:
        """The exception handler."""
        if isinstance(error, self.not_now):
            log.error("not now: %s", type(error).__name__, exc_info=error)
            error = HTTPException(503, headers={"Retry-After": "1"})  # seconds
        problem = as_problem(error, self.general)
        if problem.status_code < 400:  # such as a 304 that was raised
            return Response(None, problem.status_code, problem.headers)
        return problem_response(problem, self.request_id(request))


# %% [markdown]
"""
### What no handler sees

A middleware can answer by itself, as the host check does. A route can return an error
instead of raising it. So a last middleware looks at every answer. It keeps the status
and the headers of an error, and replaces the body.
"""

# %% tags=["export"]
from functools import partial

from fastapi import FastAPI


async def only_problems(problems: Problems, request: Request, call_next: Any) -> Any:
    """The answer of the app; an error in another format becomes a problem."""
    response = await call_next(request)
    known = response.headers.get("content-type") == PROBLEM_JSON
    left_alone = request.url.path.startswith(problems.leave_alone)
    if response.status_code < 400 or known or left_alone:
        return response
    for name in ("content-type", "content-length", "content-encoding"):
        del response.headers[name]  # they describe the body that is dropped
    problem = await problems.answer(request, HTTPException(response.status_code))
    problem.raw_headers += response.raw_headers
    return problem


def install_problems(app: FastAPI, problems: Problems) -> None:
    """Answer each error of `app` as a problem. Call it once, after `add_middleware`."""
    if app.debug:
        raise ValueError("debug=True shows stack traces to clients: switch it off")
    for kind in (HTTPException, RequestValidationError, *problems.not_now, Exception):
        app.add_exception_handler(kind, problems.answer)
    app.middleware("http")(partial(only_problems, problems))


# %% [markdown]
"""
## See it work

The same mistakes again. The request id is always `r-1` here. `passing` names what
SQLAlchemy raises if a database cannot answer now.
"""

# %%
passing = (sa.exc.OperationalError, sa.exc.TimeoutError)
problems = Problems(request_id=lambda request: "r-1", not_now=passing)
app = shop()
install_problems(app, problems)
after = make_mistakes(app)

# %% [markdown]
"""
The code of the stock is the same as before, only its client sees less. Now one answer
in full:
"""

# %%
with serving(app) as client:
    client.post("/users", json={"password": "hunter2"})
    show_http(client)

# %% [markdown]
"""
## On PostgreSQL

A database can say "not now" in many ways. The folded cell defines `fail(url)`. It makes
two of them for real: a statement takes longer than its limit, and then another request
holds the only connection of the pool.
"""

# %% tags=["stage"]
log.addHandler(logging.NullHandler())
log.propagate = False


def fail(url):
    engine = make_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    app = FastAPI()

    @app.get("/sleep")
    def sleep():
        with engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = 20"))
            connection.execute(sa.text("SELECT pg_sleep(60)"))

    install_problems(app, problems)
    with serving(app) as client:
        client.get("/sleep")
        with engine.connect():
            client.get("/sleep")
        show_http(client)
    return [exchange.status for exchange in client.exchanges]


# %%
failed = on_postgres(fail)

# %% [markdown]
"""
## Check it

The folded cell defines `refusals(app)`. It reads the OpenAPI document of the app, sends
wrong requests to every route of the running server, and returns the errors. So a new
route is asked without a new test. The recipe's tests contain the same loop.
"""

# %% tags=["stage"]
import re

BODIES = (b"", b"{", b"[]", b"null", b"\xff", b'{"hunter2": "hunter2"}')


def refusals(app):
    answers = []
    with serving(app, headers=CLOSE) as client:
        for template, operations in app.openapi()["paths"].items():
            path = re.sub("{.*?}", "missing", template)
            answers.append(client.request("BREW", path))
            answers.append(client.get(f"{path}/missing/missing"))
            for method, operation in operations.items():
                for body in BODIES if "requestBody" in operation else (b"",):
                    answers.append(client.request(method, path, content=body))
    return [answer for answer in answers if answer.status_code >= 400]


# %%
refused = refusals(app)
print(len(refused), "errors, with", {answer.status_code for answer in refused})

# %%
formats = {answer.headers["content-type"] for answer in refused}
ids = {answer.json()["request_id"] for answer in refused}
assert formats == {PROBLEM_JSON}, "an error of a route is no problem"
assert {row[2] for row in after} == {PROBLEM_JSON}, "a mistake gets another format"
assert not any(row[3] for row in after), "an answer tells a secret"
assert ids == {"r-1"}, "an error has no request id"
assert failed in (None, [503, 503]), "a failure that passes is no 503"
print("each error of each route is a problem, and tells no secret")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `problem.detail = http.detail` | `problem.detail = "SELECT"` | an answer tells a secret |
| `response.status_code < 400 or known` | `True` | a mistake gets another format |
| `self.request_id(request))` | `None)` | an error has no request id |

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

- A middleware that is added later stands outside, and its errors stay as they are.
- SQLite raises `OperationalError` for a missing table too. Read the log.
- A union of models adds the name of its branch to the pointer.
- Names given twice, half an emoji, deep nesting and endless numbers are another
  subject: Pantry refuses such JSON before a route reads it.

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
Previous: [Resources](resources.ipynb) · [course map](../index.ipynb) · Next: [Pagination](pagination.ipynb)
"""
