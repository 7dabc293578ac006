# %% [markdown]
"""
# Idempotency

Let a client send a POST again after a lost answer. The service acts once, and the
client gets the answer.

| | |
|---|---|
| **Use it when** | a request creates, sends or pays, and its answer can get lost |
| **You need** | [transactions](../foundations/transactions.ipynb) (*code*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | idempotency key, double charge, replay, lease, fencing token |
| **Standard** | draft-ietf-httpapi-idempotency-key-header-07; RFC 9110, 9.2.2 |

```python
from playbook.api.idempotency import call_once, once, one_commit, read_key

asked = await read_key(request, caller=str(user.id))
value = once(one_commit(engine), asked, work, now)  # work(session) returns JSON
value = call_once(one_commit(engine), asked, call, now)  # call(claim) returns work
```

*Lift: 108 lines in 1 file; needs fastapi, sqlalchemy.*

## See it break

A client makes up an **idempotency key** for each order. Three ways for the shop:

| way | what the shop does |
|---|---|
| plain | `INSERT` |
| look first | `INSERT` only if no row has this `item` |
| unique key | `INSERT` with the key, in a unique column |

Ada orders a coffee, and the answer gets lost. Her client sends the same order again,
with its key. Later she orders a second, with a new key.

The folded cell defines `naive(way)`, this morning in a shop of that way, `count(db)`
and `send(client, key)`. `told(function, ...)` returns in words what came of a call. It
imports `partial`, `show`, `table`, `serving`, `together`, `lesson_url`, `on_postgres`.
Ada means two coffees. How many orders has each shop, and what does Ada hear?
"""

# %% tags=["stage"]
from functools import partial

import sqlalchemy as sa

from playbook.exercises.api.idempotency import KILLED, crowd, send, told
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, table
from playbook.kit.stage import killed, together

texts = [sa.Column(name, sa.String) for name in ("item", "key")]
orders = sa.Table("orders", sa.MetaData(), *texts, sa.UniqueConstraint("key"))


def count(db):
    return db.scalar(sa.select(sa.func.count()).select_from(orders))


def add_order(db, key=None):
    db.execute(orders.insert().values(item="coffee", key=key))
    return {"order": count(db)}


def morning(order):
    order("ada-coffee-number-1")  # this answer gets lost
    return [order("ada-coffee-number-1"), order("ada-coffee-number-2")]


def naive(way):
    engine = make_engine(lesson_url())
    orders.create(engine)

    def order(key):
        with engine.begin() as db:
            if way == "look first" and count(db):
                return {"order": count(db)}
            return add_order(db, key if way == "unique key" else None)

    said = morning(partial(told, order))
    with engine.connect() as db:
        return [way, count(db), *said]


# %% tags=["predict"]
rows = [naive(way) for way in ("plain", "look first", "unique key")]
show(table(rows, ["way", "orders", "sent again", "second coffee"]))

# %% [markdown]
"""
An equal order can be a retry or a second wish, and only the key tells. A unique column
keeps the table right, but Ada hears an error for an order that exists. So the shop
keeps the key **and the answer**.

## The decision

| option | good | costs |
|---|---|---|
| `PUT` to a URL that the client chooses | no table | the client needs a name |
| key in a unique column | one line | the retry hears an error |
| **key and answer in a table** | any POST; the answer comes again | answers at rest |
| key and answer in Redis | fast, expires by itself | two commits |
| Django, DRF, Flask, Starlette | | have nothing for this |

We choose the **table**. Choose `PUT` where clients name the
[resource](../glossary.md#resource). Choose Redis where acting twice does no harm.

## Build it

### The idea

A key is a row with three states. Each arrow is one commit:

```text
           claim               work and answer             24 hours
  no row ---------> claimed ---------------------> answered -------> free
                     ^   |
         next claim  |   |  the work failed, or the process
                     |   v  died and its lease ran out
                   unfinished
```

**Work and answer are one commit**: a crash keeps both or none. The **claim** is a short
commit before them, so a second request hears at once that the first is at work. Its
**lease** limits it, or a dead process would block the key.

### The key

The header's value is a string in quotes (RFC 9651). A key has at least 16 characters: a
client that counts from 1 starts again after a restart. Two hashes (`digest`) bind the
key to its caller and to the request.
"""

# %% tags=["export"]
import hashlib
import re

from fastapi import HTTPException, Request

Asked = tuple[str, str]
KEY = re.compile(r'"[!#-\[\]-~]{16,128}"')  # visible ASCII, no quote, no backslash


def digest(*parts: str | bytes) -> str:
    """SHA-256 over `parts`, which stay apart: ("ab", "c") is not ("a", "bc")."""
    return hashlib.sha256(ascii(parts).encode()).hexdigest()


async def read_key(request: Request, caller: str) -> Asked:
    """Digests: whose key it is, and what is asked. Raises 400 without a good key."""
    sent = request.headers.getlist("idempotency-key")
    if len(sent) != 1 or not KEY.fullmatch(sent[0]):
        raise HTTPException(400, 'send one Idempotency-Key: "16 to 128 characters"')
    kind = request.headers.get("content-type", "")
    asked = (request.method, request.url.path, request.url.query, kind)
    return digest(caller, sent[0]), digest(*asked, await request.body())


# %%
for text in ['"ada-coffee-number-1"', "ada-coffee-number-1", '"1"']:
    print(text, bool(KEY.fullmatch(text)))

# %% [markdown]
"""
### The table

The table has its own `MetaData` and no foreign key. `until` ends the lease, or the life
of the answer (seconds since 1970).

Each claim of unfinished work raises `attempt`. This **fencing token** stops a process
that was only slow: it holds an old number, and every write names its claim.
"""

# %% tags=["export"]
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

keys = sa.Table(
    "idempotency_keys",
    sa.MetaData(),
    sa.Column("key_hash", sa.String, primary_key=True),
    sa.Column("request_hash", sa.String, nullable=False),
    sa.Column("reference", sa.String, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False, index=True),
    sa.Column("answer", sa.String),  # JSON; NULL until the work is done
)


class Claim(NamedTuple):
    """The right to work. All attempts (1, 2, ...) at a request have one `reference`."""

    key_hash: str
    reference: str
    attempt: int


def write(db: Session, mine: Claim, values: dict[str, Any], old: Any = None) -> None:
    """Change the row of `mine`, whose answer is `old`. Raises 409 if it has changed."""
    update = sa.update(keys).filter_by(answer=old, **mine._asdict()).values(values)
    if db.execute(update.returning(keys.c.attempt)).first() is None:
        raise HTTPException(409, "another attempt is at work", {"Retry-After": "1"})


# %% [markdown]
"""
The folded cell defines `transact(work)`, which runs `work(session)` in one transaction,
on `engine`. Its `write_as(attempt)` stores a row of attempt 2, and writes to it as
`attempt`. What do attempts 1 and 2 hear?
"""

# %% tags=["stage"]
engine = make_engine(lesson_url())
orders.create(engine)
keys.metadata.create_all(engine)
transact = partial(transaction, engine)


def write_as(attempt):
    row = Claim(f"key {attempt}", "r", 2)
    values = row._asdict() | {"request_hash": "", "until": 0}
    transact(lambda db: db.execute(keys.insert(), values))
    transact(lambda db: write(db, row._replace(attempt=attempt), {"until": 60}))
    return "written"


# %% tags=["predict"]
written = [told(write_as, attempt) for attempt in (1, 2)]
print(written)

# %% [markdown]
"""
### Claim

Only an *answered* row becomes free by age. Unfinished work keeps its reference:
something outside may have happened under that name.
"""

# %% tags=["export"]
import secrets


def claim(db: Session, asked: Asked, now: int, lease: int) -> Claim | str:
    """Claim a key, or return its answer. Raises 409 (at work), 422 (other request)."""
    key_hash, request_hash = asked
    mine = Claim(key_hash, secrets.token_hex(16), attempt=1)
    values = {"request_hash": request_hash, "until": now + lease, "answer": None}
    row = db.execute(sa.select(keys).filter_by(key_hash=key_hash)).first()
    if row is None:
        db.execute(keys.insert().values(**mine._asdict(), **values))
        return mine
    expired = row.answer and row.until <= now
    if row.request_hash != request_hash and not expired:
        raise HTTPException(422, "the key belongs to another request")
    if row.answer and not expired:
        return str(row.answer)
    if row.until > now:
        raise HTTPException(409, "the first request is at work", {"Retry-After": "1"})
    before = Claim(key_hash, row.reference, row.attempt)
    if not row.answer:
        mine = before._replace(attempt=row.attempt + 1)
    write(db, before, mine._asdict() | values, row.answer)
    return mine


# %% [markdown]
"""
Four requests have one key. The first process is slow or dead; the others cannot know.
The lease is 60 seconds. What does each hear?
"""

# %% tags=["predict"]
coffee, cake = ("ada's key", "coffee"), ("ada's key", "cake")
requests = [(0, coffee), (59, coffee), (59, cake), (60, coffee)]
heard = [told(transact, lambda db: claim(db, one, now, 60)) for now, one in requests]
print(*heard, sep="\n")

# %% [markdown]
"""
Two requests at once both find no row. The primary key refuses the second INSERT, and
`begin` looks again. A second refusal means 409. `purge_keys` runs daily.
"""

# %% tags=["export"]
from collections.abc import Callable
from contextlib import suppress

Work = Callable[[Session], Any]
Transact = Callable[[Work], Any]


def begin(transact: Transact, asked: Asked, now: int, lease: int) -> Any:
    """`claim` in a commit of its own."""
    with suppress(sa.exc.DBAPIError):  # the other request was first: look again
        return transact(lambda db: claim(db, asked, now, lease))
    with suppress(sa.exc.IntegrityError):  # DuckDB: its key is there, its row not yet
        return transact(lambda db: claim(db, asked, now, lease))
    raise HTTPException(409, "the first request is at work", {"Retry-After": "1"})


def purge_keys(db: Session, now: int, unfinished: int = 30 * 24 * 60 * 60) -> None:
    """Delete expired answers, and claims that ended `unfinished` seconds ago."""
    expired = sa.and_(keys.c.answer.is_not(None), keys.c.until <= now)
    db.execute(keys.delete().where(expired | (keys.c.until <= now - unfinished)))


class Limits(NamedTuple):
    """`lease` and `lifetime` in seconds, `largest` answer in characters of JSON."""

    lease: int = 60  # longer than any request may take
    lifetime: int = 24 * 60 * 60  # longer than any client goes on trying
    largest: int = 64 * 1024


LIMITS = Limits()

# %%
one = partial(told, begin, transact, ("two at once", "tea"), 0, LIMITS.lease)
print(sorted(together(first=one, second=one).values()))

# %% [markdown]
"""
### Work and answer

What the work returns is kept. What it raises is not:

| the work | its writes | a retry |
|---|---|---|
| returns a value (JSON) | committed | gets this value |
| raises `HTTPException`, also 4xx | rolled back | works again |
| raises something else: a 500 | rolled back | works again |
| dies with its process | rolled back | 409 until the lease ends |
| is slower than its lease | rolled back if claimed again | gets the other's value |
| calls outside, and that fails | none | calls again, same reference |

A `transact` may repeat the work after a database [conflict](../glossary.md#conflict).
So `work` touches only the database. What happens outside stands in `call`, which runs
once per request, without an open transaction, and returns the work.
"""

# %% tags=["export"]
import json

Call = Callable[[Claim], Work]


def call_once(
    transact: Transact, asked: Asked, call: Call, now: int, limits: Limits = LIMITS
) -> Any:
    """`once`, for work that calls outside: `call(claim)` does so and returns `work`."""
    mine = begin(transact, asked, now, limits.lease)
    if isinstance(mine, str):
        return json.loads(mine)

    def work_and_answer(db: Session) -> str:
        answer = json.dumps(work(db))
        if len(answer) > limits.largest:
            raise ValueError("the answer is too long to be kept")
        write(db, mine, {"answer": answer, "until": now + limits.lifetime})
        return answer

    try:
        work = call(mine)
        return json.loads(transact(work_and_answer))
    except BaseException:
        with suppress(Exception):  # if this fails, the lease runs out
            transact(lambda db: write(db, mine, {"until": now}))
        raise


# %% [markdown]
"""
### Work that calls outside

A payment cannot be rolled back. If its outcome is unknown, the shop must ask again
**under the same name**: `claim.reference`. It is stored before the first call, and no
failure deletes it.

The folded cell imports `Body`, `Depends` and `FastAPI`, and defines `bank_app` with its
list `charges`. The bank charges a reference once, and its first answer is an error. Two
requests with one key pay. What do they hear, and how often does the bank charge?
"""

# %% tags=["stage"]
from fastapi import Body, Depends, FastAPI

charges = []
bank_app = FastAPI()


@bank_app.put("/charges/{reference}")
def charge_card(reference: str):
    if reference not in charges:
        charges.append(reference)
        raise HTTPException(503)


# %% tags=["predict"]
def charge(claim):
    bank.put(f"/charges/{claim.reference}").raise_for_status()
    return lambda db: {"paid": True}


with serving(bank_app) as bank:
    print([told(call_once, transact, ("card", "pay"), charge, now) for now in (0, 1)])
print("charges:", len(charges))

# %% [markdown]
"""
The client sent again; the recipe itself never repeats a call. If a bank ignores
references, `claim.attempt` says when to look first: see *Your turn*.

### A session that commits

Many services call `session.commit()` in their work. Then work and answer would be two
commits. `one_commit` joins the session to an outer transaction.
"""


# %% tags=["export"]
def once(
    transact: Transact, asked: Asked, work: Work, now: int, limits: Limits = LIMITS
) -> Any:
    """What `work(session)` returned the one time that it was committed, as JSON."""
    return call_once(transact, asked, lambda claim: work, now, limits)


def one_commit(engine: sa.Engine, make: Callable[..., Session] = Session) -> Transact:
    """Run work in one transaction, in which its `session.commit()` only flushes."""

    def transact(work: Work) -> Any:
        options: Any = {"join_transaction_mode": "rollback_only"}
        with engine.begin() as connection, make(bind=connection, **options) as db:
            result = work(db)
            db.commit()
            return result

    return transact


# %% [markdown]
"""
`once` is for work that calls nothing outside. The body of this `work` was the body of
the route:
"""


# %%
def shop(engine):
    app = FastAPI()

    async def asked(request: Request):
        return await read_key(request, caller="ada")

    @app.post("/orders", status_code=201)
    def place_order(item: str = Body(embed=True), asked: Asked = Depends(asked)):
        def work(session):
            session.execute(orders.insert().values(item=item))
            session.commit()
            return {"order": count(session)}

        return once(one_commit(engine), asked, work, now=0)

    return app


with serving(shop(engine)) as client:
    print([send(client, "ada-breakfast-today") for _ in range(2)])

# %% [markdown]
"""
## See it work

The folded cell defines `day(url)`. Ada's morning goes over HTTP. Then 20 clients send
one key at once, and one of them again. At last another process takes an order and is
killed (SIGKILL) before its commit. Its client sends again after 59, 60 and 61 seconds.
How many orders are there in the evening?
"""


# %% tags=["stage"]
def day(url):
    engine = make_engine(url)
    orders.create(engine)
    keys.metadata.create_all(engine)
    with serving(shop(engine)) as client:
        order = partial(send, client)
        rows = dict(zip(["sent again", "second coffee"], morning(order), strict=True))
        rows["20 at once, and later"] = crowd(order)
    engine.dispose()
    killed(KILLED, url)
    again = partial(told, once, one_commit(engine), coffee, add_order)
    rows |= {f"{now} s after the kill": again(now) for now in (59, 60, 61)}
    with engine.connect() as db:
        return rows | {"orders": count(db)}


# %% tags=["predict"]
evening = day(lesson_url(file=True))
show(table(evening.items(), ["what", "heard, or found"]))

# %% [markdown]
"""
The killed process left no order, and its lease ran out.

## On PostgreSQL

Here an INSERT of the same key waits for the first transaction. Without the short claim,
19 of 20 clients would wait, each with a connection.
"""

# %%
there = on_postgres(day)
print("the same" if there == evening else there)

# %% [markdown]
"""
## Check it
"""

# %%
assert written[0] != "written", "a process that lost its claim wrote"
assert "another request" in heard[2], "another request got through with the key"
assert len(charges) == 1, "the card was charged twice"
assert evening["orders"] == 4, "a retry acted twice, or an order is lost"
assert there in (evening, None), "PostgreSQL had another day"
print("acts once: sent again, at once, killed; one charge; the key is bound")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `**mine._asdict())` | `key_hash=mine[0])` | a process that lost its claim wrote |
| `row.request_hash !=` | `"" ==` | another request got through with the key |
| `mine = before` | `mine = mine` | the card was charged twice |

## Your turn

Another bank charges as often as it is asked. `bank.charge(reference, cents)` returns
`"paid"` or `"declined"`, or raises `TimeoutError`: the bank may have the charge or not.
`bank.find(reference)` returns `"paid"`, `"declined"`, `"pending"` (the bank decides) or
None (the bank never got it). Each `find` costs money.

Write `pay(bank, claim, cents)`. It returns `"paid"` or `"declined"`. While the outcome
is unknown it raises `HTTPException` with 503, and the client sends again later.
"""


# %% tags=["exercise"]
def pay(bank, claim, cents):
    """Charge once under `claim.reference`; `claim.attempt` is 1, 2, ..."""
    raise NotImplementedError


# %%
from playbook.exercises.api.idempotency import HINTS, check

check(pay)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def pay(bank, claim, cents):
    # A first attempt has nothing to look for.
    found = bank.find(claim.reference) if claim.attempt > 1 else None
    if found == "pending":
        raise HTTPException(503, "the bank has not decided yet")
    if found is not None:
        return found
    try:
        return bank.charge(claim.reference, cents)
    except TimeoutError:
        raise HTTPException(503, "the bank did not answer") from None


assert check(pay)

# %% [markdown]
"""
## Take it with you

`playbook lift idempotency INTO` copies recipe and tests. `shop` is a complete use.

| seam | what your project does |
|---|---|
| transaction | passes `one_commit(engine, SessionLocal)`, or its own function |
| table | `keys.metadata.create_all`; Alembic: `target_metadata` may be a list |
| caller | passes a text that no other caller has: `str(user.id)` |
| clock, limits | passes `int(time.time())`; a lease beyond the longest request |
| route | a plain `def`; renders the value, on a replay too: status, headers, cookies |

Traps:

- **Replay.** The value is kept, not the bytes.
- **Refusals.** A raised 402 is not kept. To keep it, return `{"declined": True}`.
- **Rollback.** Raise instead of `session.rollback()`: the answer needs the transaction.
- **JSON.** Return `Order.model_validate(row).model_dump(mode="json")`, not the row.
- **Connections.** Close the session that has read the user before you call `once`.
- **Conflicts.** On DuckDB, or above READ COMMITTED, pass a `transact` that retries.

Hand it over:

- **Front end**: one key per press of the button; `retries` says when to send again.
- **Reviewer**: accept no outside call in `work`.
- **Security**: return no secret from `work`: answers are stored for a day.
- **Operations**: run `purge_keys` daily.
- **Tests**: keep "sent again, at once or after a kill, it acts once".

## In short

You can explain why the claim is a commit of its own, and the answer is not. You know
what a retry hears after each failure. You name a payment before its first call.

## Sources

IETF draft-ietf-httpapi-idempotency-key-header-07, 2. RFC 9110, 9.2.2. RFC 9651, 3.3.3.
M. Kleppmann, *Designing Data-Intensive Applications*, chapter 8. SQLAlchemy 2.1,
"Joining a Session into an External Transaction".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Conditional requests](conditional_requests.ipynb) · [course map](../index.ipynb) · Next: [Retries](retries.ipynb)
"""
