# %% [markdown]
"""
# Request and transaction

Turn each request into one transaction and one answer. The answer is made after the
commit, and it carries an id that leads to the log.

| | |
|---|---|
| **Use it when** | an endpoint writes, or "it failed" must lead to a line of the log |
| **You need** | [transactions](transactions.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | commit after response, unit of work, yield, request id, correlation id |
| **Standard** | OWASP ASVS 5.0 (16.2, 16.4.1) |

```python
from playbook.foundations.request_and_transaction import (
    RequestId, Transact, transactions_of,
)

Transaction = Annotated[Transact, Depends(transactions_of(engine))]
transact(work)  # in an endpoint with the parameter `transact: Transaction`
service = RequestId(app)  # what the server serves
```

*Lift: 82 lines in 2 files; needs sqlalchemy, starlette.*

## See it break

An airline sells seats. `seat` is the primary key, so the database gives a seat to one
passenger only. The session comes from a dependency that commits when the endpoint is
done.

The folded cell imports `serving`, `show_http` and `on_postgres`. It defines
`new_engine()`, which makes a new database, and `rows_in(engine)`. In
`two_bookings(make_app)` Ada books seat 12A, and then Bob books the same seat.
"""

# %% tags=["stage"]
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, show_http


def new_engine(url=None):
    engine = make_engine(url or lesson_url())
    Base.metadata.create_all(engine)
    return engine


def rows_in(engine):
    with orm.Session(engine) as session:
        return {row.seat: row.passenger for row in session.scalars(sa.select(Booking))}


def two_bookings(make_app):
    engine = new_engine()
    app = make_app(engine)
    errors = []
    for passenger in ("Ada", "Bob"):
        with serving(app) as client:  # when the block ends, the request is over
            client.post(f"/bookings?seat=12A&passenger={passenger}")
            show_http(client)
        errors += [error.partition(":")[0] for error in client.server_errors]
    print("in the table:", rows_in(engine), "| in the server's log:", errors)


# %%
import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import orm


class Base(orm.DeclarativeBase): ...


class Booking(Base):
    __tablename__ = "bookings"
    seat = orm.mapped_column(sa.String, primary_key=True)
    passenger = orm.mapped_column(sa.String)


# %%
def commit_in_dependency(engine):
    def session_of_request():
        with orm.Session(engine) as session:
            yield session
            session.commit()

    app = FastAPI()

    @app.post("/bookings", status_code=201)
    def book(seat: str, passenger: str, session=Depends(session_of_request)):
        session.add(Booking(seat=seat, passenger=passenger))
        return {"seat": seat, "passenger": passenger}

    return app


# %% [markdown]
"""
Predict: which status codes do Ada and Bob get, and whose name is in the table?
"""

# %% tags=["predict"]
two_bookings(commit_in_dependency)

# %% [markdown]
"""
FastAPI runs what follows the `yield` after it has sent the answer. So the commit comes
last. Its failure reaches the log, but no client:

```text
endpoint     session.add(...)  return {...}
FastAPI                                      201 ---> Bob
dependency                                            commit ---> IntegrityError
```

This depends on the version: from 0.106 to 0.117 FastAPI ran this code before the
answer. An update moved the commit, and tests that see no failing commit stayed green.

## The decision

Where does the transaction of a request end?

| option | good | costs |
|---|---|---|
| each helper commits | easy to write | a failure in between leaves half of the work |
| dependency with `yield` | short endpoints | the commit comes after the answer |
| framework commits | before the answer | too late for a retry or a 409 |
| **endpoint passes a function** | before the answer, with retry | one more line |

Frameworks bring the third option: Django's `ATOMIC_REQUESTS` (also under DRF), and
`Depends(..., scope="function")` in FastAPI from 0.121 on. With Flask-SQLAlchemy, views
commit by hand.

We choose the **function**. A reviewer sees where the transaction begins and ends, and a
[conflict](../glossary.md#conflict) can be retried. Choose the third option for small
writes that never conflict.

## Build it

### The idea

The endpoint puts its statements into a function `work(session)`. `transaction`, from
the page [transactions](transactions.ipynb), runs the function and commits. The answer
is made one line later.
"""

# %%
from playbook.foundations.transactions import somebody_was_first, transaction


def commit_in_endpoint(engine):
    app = FastAPI()

    @app.post("/bookings", status_code=201)
    def book(seat: str, passenger: str):
        def work(session):
            session.add(Booking(seat=seat, passenger=passenger))

        transaction(engine, work)
        return {"seat": seat, "passenger": passenger}

    return app


two_bookings(commit_in_endpoint)

# %% [markdown]
"""
Now Bob is told that he has no seat. But 500 says that the server is broken. "The seat
is taken" would be true.

### The dependency

An endpoint should not know the engine, because a test uses another one. So
`transactions_of` makes a dependency for one engine. The type `Transact` describes what
an endpoint gets.
"""

# %% tags=["export"]
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from sqlalchemy import Engine, orm

from playbook.foundations.transactions import transaction

T = TypeVar("T")


class Transact(Protocol):
    """`transaction` on one engine: runs `work`, commits, returns what it returned."""

    def __call__(self, work: Callable[[orm.Session], T], **options: Any) -> T: ...


# %% tags=["export"]
def transactions_of(engine: Engine) -> Callable[[], Coroutine[Any, Any, Transact]]:
    """A FastAPI dependency: it gives an endpoint its `Transact` on `engine`."""

    def transact(work: Callable[[orm.Session], T], **options: Any) -> T:
        return transaction(engine, work, **options)

    async def transact_of() -> Transact:  # `async`, so FastAPI uses no thread for it
        return transact

    return transact_of


# %% [markdown]
"""
The next endpoint looks before it inserts. A raised 409 is an exception, so it rolls
back. `somebody_was_first`, also from the page transactions, is true for a conflict and
for a broken unique key.
"""

# %%
from typing import Annotated


def airline(engine):
    app = FastAPI()
    Transaction = Annotated[Transact, Depends(transactions_of(engine))]

    @app.post("/bookings", status_code=201)
    def book(seat: str, passenger: str, transact: Transaction) -> dict:
        def work(session):
            if session.get(Booking, seat):
                raise HTTPException(409, f"seat {seat} is taken")
            session.add(Booking(seat=seat, passenger=passenger))
            return {"seat": seat, "passenger": passenger}

        return transact(work, retry=somebody_was_first)

    return app


two_bookings(airline)

# %% [markdown]
"""
### An id per request

Bob reports: "It failed." Which of a million log lines is his? A *request id* stands in
the answer and in each log line of the request. A context variable holds it: each
request has a value of its own, also in the thread that runs the endpoint.
"""

# %% tags=["export"]
import logging
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Gives each log record a `request_id`. Add it to a handler, not to a logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


# %%
import io

stream = io.StringIO()  # a service has a file or stderr here
handler = logging.StreamHandler(stream)
handler.addFilter(RequestIdFilter())
handler.setFormatter(logging.Formatter("%(request_id)s %(name)s: %(message)s"))
log = logging.getLogger("airline")
log.addHandler(handler)
log.warning("started")
print(stream.getvalue())

# %% [markdown]
"""
The usual middleware sets the variable, and adds the id to the answer.

The folded cell defines `new_id()`, which counts. `example_app()` logs a line, then
divides. `three_requests(app)` asks for `/divide/1`, `/nowhere` and `/divide/0`. Then it
prints the log, without the lines of the traceback.
"""

# %% tags=["stage"]
import itertools

log.propagate = False
logging.getLogger("uvicorn.error").addHandler(handler)
new_id = map("request-{}".format, itertools.count(1)).__next__


def example_app():
    app = FastAPI()

    @app.get("/divide/{number}")
    def divide(number: int):
        log.warning("1 / %s", number)
        return 1 / number

    return app


def three_requests(app):
    stream.truncate(stream.seek(0))
    ids = []
    with serving(app, headers={"Connection": "close"}) as client:
        for path in ("/divide/1", "/nowhere", "/divide/0"):
            answer = client.get(path)
            ids.append(answer.headers.get("X-Request-Id"))
            print(path, answer.status_code, ids[-1])
    lines = [line for line in stream.getvalue().split("\n") if line[:7] == "request"]
    print("log:", *lines, sep="\n  ")
    return ids, lines


# %%
app = example_app()


@app.middleware("http")
async def add_id(request, call_next):
    request_id.set(new_id())
    response = await call_next(request)
    response.headers["X-Request-Id"] = request_id.get()
    return response


# %% [markdown]
"""
Predict: which of the three answers has no id?
"""

# %% tags=["predict"]
_ = three_requests(app)

# %% [markdown]
"""
Starlette makes the answer to an unhandled exception outside of all middleware that was
added to the app. So `RequestId` is not added. It wraps the whole app. A server calls an
ASGI app with `scope` (what the request says), `receive` (its body) and `send`. The
first message of an answer holds the status and the headers.

A client may send an id of its own, to follow one request through several services. The
header is foreign text on its way into the log. So only a narrow format is accepted.
"""

# %% tags=["export"]
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACCEPTED_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


# %% tags=["export"]
class RequestId:
    """ASGI middleware: `X-Request-Id` on each answer, and `request_id` in its logs.

    Wrap the app with it, and serve the result. `new_id` makes an id when the client
    sent none, or none that ACCEPTED_ID matches.
    """

    def __init__(self, app: ASGIApp, new_id: Callable[[], object] = uuid.uuid4) -> None:
        self.app = app
        self.new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        sent = Headers(scope=scope).get("X-Request-Id", "")
        current = sent if ACCEPTED_ID.fullmatch(sent) else str(self.new_id())
        request_id.set(current)

        async def send_with_id(message: Message) -> None:
            if message["type"].endswith("response.start"):
                MutableHeaders(scope=message)["X-Request-Id"] = current
            await send(message)

        await self.app(scope, receive, send_with_id)


# %%
answered_ids, lines = three_requests(RequestId(example_app(), new_id))

# %% [markdown]
"""
The last line is uvicorn's. It logs the exception after the answer, and has the id too,
because `RequestId` does not reset the variable.

Next, a client sends three ids. In a log of the format `id=...`, the second one would
forge two fields:
"""

# %%
kept = []
with serving(RequestId(example_app(), new_id)) as client:
    for sent in ("mobile-app-4711", "12345678 level=ERROR user=ada", "x" * 65):
        answer = client.get("/divide/1", headers={"X-Request-Id": sent})
        kept.append(answer.headers["X-Request-Id"])
print(kept)

# %% [markdown]
"""
## See it work

Now both parts together, with two requests at once. The folded cell defines
`race(make_app, url)`. Bob's work reads that seat 12A is free. At this moment Ada books
the seat. The table shows what happened, in its order. Predict: which status code does
Bob get?
"""

# %% tags=["stage"]
from playbook.kit.stage import Timeline


def race(make_app, url=None):
    engine = new_engine(url)
    timeline = Timeline("Bob", "Ada").watch(engine)
    app = make_app(engine)

    async def in_lane(scope, receive, send):
        query = scope.get("query_string", b"").decode()
        with timeline.lane(query.rpartition("=")[2]):
            await app(scope, receive, send)

    def post(passenger):
        answer = client.post(f"/bookings?seat=12A&passenger={passenger}")
        timeline.note(f"{answer.status_code} {answer.text}", passenger)

    @sa.event.listens_for(engine, "after_cursor_execute", once=True)
    def ada_books(*_):
        post("Ada")

    with serving(in_lane) as client:
        post("Bob")
    show(timeline.shown())
    return rows_in(engine), [answer.status for answer in client.exchanges]


# %% tags=["predict"]
after_race = race(lambda engine: RequestId(airline(engine), new_id))

# %% [markdown]
"""
Bob's first transaction was rolled back, and `work` ran again. Nothing had been sent, so
the client got one answer, and a true one.

The next app fails in the middle: its row is inserted, then its mail server is down.
"""


# %%
def unlucky(engine):
    app = FastAPI()

    @app.post("/bookings")
    def book(transact: Annotated[Transact, Depends(transactions_of(engine))]):
        def work(session):
            session.add(Booking(seat="1A", passenger="Ada"))
            session.flush()  # the INSERT has reached the database
            raise ConnectionError("the mail server is down")

        transact(work)

    return app


engine = new_engine()
with serving(RequestId(unlucky(engine), new_id)) as client:
    failure = client.post("/bookings")
print(failure.status_code, failure.headers["X-Request-Id"], rows_in(engine))

# %% [markdown]
"""
## On PostgreSQL

The same race, with the same answers:
"""

# %%
after_race_there = on_postgres(lambda url: race(airline, url))

# %% [markdown]
"""
A commit can fail on PostgreSQL too: by a constraint that is `DEFERRABLE`, at the level
[SERIALIZABLE](../glossary.md#serializable), or because the connection breaks.

## Check it
"""

# %%
expected = ({"12A": "Ada"}, [201, 409])
assert after_race == expected, "Bob was not told that the seat is taken"
assert after_race_there in (expected, None), "PostgreSQL answers something else"
assert rows_in(engine) == {}, "a failure in the middle left a row"
assert None not in answered_ids, "an answer has no id"
in_log = {line.split()[0] for line in lines}
assert in_log == set(answered_ids[::2]), "a log line has no id"
assert kept == ["mobile-app-4711", "request-7", "request-8"], "a wrong id was accepted"
print("told after the commit; all or nothing; an id on each answer and log line")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `work, **options)` | `work)` | Bob was not told that the seat is taken |
| `ACCEPTED_ID.fullmatch(sent)` | `ACCEPTED_ID.match(sent)` | a wrong id was accepted |
| `record.request_id = request_id.get()` | `pass` | a log line has no id |

## Your turn

A booking is confirmed by mail. Inside `work` the mail could go out twice, because
`work` may run twice. It could also go out for a booking that is rolled back. So `work`
should only *announce* what is to be done after the commit.

Write `transact_then`. It calls `work(session, later)`. Each function that `work` hands
to `later` is called once, in order, after the commit. After a rollback none is called.
A function that fails stops neither the others nor the answer: the booking is committed.
"""


# %% tags=["exercise"]
def transact_then(transact, work):
    """Run `work(session, later)` in a transaction; return what it returns."""
    raise NotImplementedError


# %%
from playbook.exercises.foundations.request_and_transaction import HINTS, check

check(transact_then)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def transact_then(transact, work):
    def attempt(session):
        calls = []  # of this attempt: what a rolled back attempt announced is forgotten
        return work(session, calls.append), calls

    result, calls = transact(attempt)
    for call in calls:
        try:
            call()
        except Exception:
            logging.getLogger("airline").exception("after the commit")
    return result


assert check(transact_then)

# %% [markdown]
"""
A process can still end between the commit and the mail. A mail that must not be lost
needs an *[outbox](../glossary.md#outbox)*: a row in the same transaction, sent by a
worker.

## Take it with you

`playbook lift request_and_transaction INTO` copies the recipe, `transaction` and the
tests. What the recipe asks of your project:

| seam | what you hand in |
|---|---|
| engine | `transactions_of(engine)`; one dependency per database |
| new ids | `RequestId(app, new_id)`; the default is UUIDv4 |
| log | `RequestIdFilter` on each handler, `%(request_id)s` in its format |

Routes can also stand outside of a factory. Then a test replaces the dependency:
"""


# %%
class Note(Base):
    __tablename__ = "notes"
    id = orm.mapped_column(sa.Integer, primary_key=True)
    text = orm.mapped_column(sa.String)


transact_of = transactions_of(sa.create_engine("sqlite:///production.db"))
Transaction = Annotated[Transact, Depends(transact_of)]
app = FastAPI()


@app.put("/notes/{number}")
def write_note(number: int, text: str, transact: Transaction):
    note = transact(lambda session: session.merge(Note(id=number, text=text)))
    return {"id": note.id, "text": note.text}


app.dependency_overrides[transact_of] = transactions_of(new_engine())
with serving(RequestId(app)) as client:
    client.put("/notes/1?text=milk")
    show_http(client)

# %% [markdown]
"""
Traps:

- An `async def` endpoint must not call `transact`: all other requests would wait. Write
  `def`, and FastAPI uses a thread.
- `work` may run several times. Mail, calls to other services and files come after it.
- `RequestId(app)` has no `routes` and no `dependency_overrides`. Keep both objects, or
  override `build_middleware_stack` in a subclass of FastAPI.
- Columns stay readable after the commit. A relationship must be loaded before it.

Hand it over:

- **Reviewer**: no `commit()` after a `yield`; one `transact` per endpoint that writes.
- **Front end**: show `X-Request-Id` beside "something went wrong".
- **Operations**: search the log for the id. Remove the header at the edge if clients
  must not choose ids. For traces across services, add W3C `traceparent`.
- **Tests**: keep "a failure in the middle leaves nothing" for each endpoint that writes
  two rows.

## In short

An answer is a promise, so the commit comes before it. An endpoint hands its work to a
function that commits and retries, and only then makes the answer. The request id must
be added outside of the app, or the answers that fail lack it.

## Sources

FastAPI documentation, "Dependencies with yield" and the release notes of 0.106, 0.118
and 0.121. Django documentation, "Tying transactions to HTTP requests". Starlette
documentation, "Middleware" (pure ASGI middleware). OWASP ASVS 5.0, 16.2 (logging) and
16.4.1 (log injection). Python documentation, `contextvars` and the "Logging Cookbook".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Write skew](write_skew.ipynb) · [course map](../index.ipynb) · Next: [Deny by default](deny_by_default.ipynb)
"""
