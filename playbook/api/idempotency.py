# %% [markdown]
"""
# Idempotency

Let a client send a POST again after a lost answer. The service acts once, and the
client gets the answer that it missed.

| | |
|---|---|
| **Use it when** | a request creates, sends, pays or publishes, and its answer can get lost |
| **You need** | [transactions](../foundations/database.ipynb) (*code*) |
| **Time** | read 40 min, exercise 15 min |
| **Topics** | idempotency, idempotency key, idempotent POST, duplicate request, double submit, double charge, exactly once, at least once, lost answer, crash recovery, replay, lease, fencing token |
| **Standard** | draft-ietf-httpapi-idempotency-key-header-07; RFC 9110, 9.2.2 |

```python
from playbook.api.idempotency import call_once, once, one_commit, read_key

asked = await read_key(request, caller=str(user.id))
value = once(one_commit(engine), asked, work, now)  # work(session) returns JSON
value = call_once(one_commit(engine), asked, call, now)  # call(claim) returns a work
```

*Lift: 0 lines in 1 file; needs nothing.*

## See it break

A shop takes orders. The client makes up a key for each order. Here are three ways to
write an order down:

| way | what the shop does with `item` and `key` |
|---|---|
| plain | `INSERT` |
| look first | `SELECT` an order with this `item`; `INSERT` only if there is none |
| unique key | `INSERT` with the key; a unique column refuses a duplicate |

The folded cell defines `morning(order)`, a customer on a bad line. She orders a coffee,
and the answer gets lost. She sends the same order again, with the same key. Later she
orders a second coffee, with a new key. `naive(way)` is her morning in a shop that works
this way. `show` and `table` display rows. All other names are explained where they are
used.

Two coffees are meant. Predict for each way: how many orders are in the table, and what
does she hear?
"""

# %% tags=["stage"]
from functools import partial

import sqlalchemy as sa
from fastapi import Body, Depends, FastAPI

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


def told(function, *args):
    try:
        result = function(*args)
    except Exception as error:
        return getattr(error, "detail", type(error).__name__)
    return f"attempt {result.attempt}" if hasattr(result, "attempt") else result


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
A unique column keeps the table right, but the customer hears an error for an order
that exists, and does not learn its number. Looking for an equal order cannot tell a retry
from a second wish. So the service must keep the key **and the answer**.

## The decision

| option | good | costs |
|---|---|---|
| `PUT` to a URL that the client chooses | HTTP promises it; no table | the client must choose the name |
| key in a unique column | one line | the retry hears an error, not the answer |
| **key and answer in a table** | any POST; the retry gets the answer | a table; answers at rest |
| answer in a cache (Redis) | fast, expires by itself | work and answer are not one commit |
| Django, DRF, Flask, Starlette | | bring nothing for this |

We choose the **table**. Choose `PUT` where the client names the resource, as for a file.
Choose a cache where acting twice is harmless.

## Build it

### The idea

The service looks for the key. If there is no answer, it works and keeps the answer:

```text
             commit              commit               after 24 hours
  no row  ----------->  claimed  ----------->  answered  ----------->  free
             claim       |  ^    work and answer,
                         |  |    together
                         v  |  claim again
                        free: the work failed, or
                        the process died and its lease ran out
```

Work and answer are one commit, so a crash loses both or none. The **claim** is a short
commit before the work. So a second request hears at once that the first is at work. A
claim has a **lease**: the time for which others believe it.

### The key

The header is a *string* of structured fields: it has quotes. A key has at least 16
characters, because a client that counts from 1 starts again after a restart. The
service keeps two digests. An equal key of another caller is another key.
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

`until` is the end of the lease, or of the time for which the answer is kept. Times are
whole seconds since 1970, which every engine stores alike. The table has its own
`MetaData` and no foreign key, so it fits beside any other tables. A `Transact` is what
your project has already: it runs `work(session)` in one transaction.
"""

# %% tags=["export"]
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

Work = Callable[[Session], Any]
Transact = Callable[[Work], Any]
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


# %% [markdown]
"""
Each claim of unfinished work raises `attempt`. The number is a **fencing token**: a
process that was only slow, and has lost its claim, holds an old number. So every write
names its claim:
"""


# %% tags=["export"]
def write(db: Session, mine: Claim, values: dict[str, Any], old: Any = None) -> None:
    """Change the row of `mine`, whose answer is `old`. Raises 409 if it is no more."""
    update = sa.update(keys).filter_by(answer=old, **mine._asdict()).values(values)
    if db.execute(update.returning(keys.c.attempt)).first() is None:
        raise HTTPException(409, "another attempt is at work", {"Retry-After": "1"})


# %% [markdown]
"""
The folded cell stores a row with attempt 2. `write_as(attempt)` writes to it, and
`told(function, ...)` returns in words what came of a call. Predict what attempt 1 hears.
"""

# %% tags=["stage"]
engine = make_engine(lesson_url())
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

A row is an answer, or a claim that still holds, or free. Only an *answer* gets free by
age. Unfinished work keeps its reference, however old it is.
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
Two first requests can meet. Both find no row, and the primary key refuses the second
INSERT. Its request then looks again, and finds the claim of the first:
"""


# %% tags=["export"]
def begin(transact: Transact, asked: Asked, now: int, lease: int) -> Any:
    """`claim` in a commit of its own."""
    try:
        return transact(lambda db: claim(db, asked, now, lease))
    except sa.exc.DBAPIError:  # the other request was first: look again
        return transact(lambda db: claim(db, asked, now, lease))


# %% [markdown]
"""
Four requests have one key. The process of the first is slow, or dead: nobody can know.
`transact` is the `transaction` of an earlier page. Predict what each request hears.
"""

# %% tags=["predict"]
coffee, cake = ("ada's key", "coffee"), ("ada's key", "cake")
for now, asked in [(0, coffee), (59, coffee), (59, cake), (60, coffee)]:
    print(f"second {now:2}, {asked[1]}:", told(begin, transact, asked, now, 60))

# %% [markdown]
"""
### Work and answer

TODO
"""

# %% tags=["export"]
import json
from contextlib import suppress

Call = Callable[[Claim], Work]


class Limits(NamedTuple):
    """`lease` and `lifetime` in seconds, `largest` answer in characters of JSON."""

    lease: int = 60  # longer than any request may take
    lifetime: int = 24 * 60 * 60  # longer than any client goes on trying
    largest: int = 64 * 1024


# %% tags=["export"]
def call_once(
    transact: Transact, asked: Asked, call: Call, now: int, limits: Limits = Limits()
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
outside
"""

# %% tags=["stage"]
charges = []
bank_app = FastAPI()


@bank_app.put("/charges/{reference}")
def charge_card(reference: str):
    if reference not in charges:
        charges.append(reference)
        raise HTTPException(503)  # the card is charged, and the answer is lost


# %% tags=["predict"]
def charge(claim):
    bank.put(f"/charges/{claim.reference}").raise_for_status()
    return lambda db: {"paid": True}


with serving(bank_app) as bank:
    for now in (0, 1):
        print(told(call_once, transact, ("ada's card", "pay"), charge, now))
print("charges:", len(charges))

# %% [markdown]
"""
### A session that commits
"""


# %% tags=["export"]
def once(
    transact: Transact, asked: Asked, work: Work, now: int, limits: Limits = Limits()
) -> Any:
    """What `work(session)` returned the one time that it was committed, as JSON."""
    return call_once(transact, asked, lambda claim: work, now, limits)


def one_commit(engine: sa.Engine, make: Callable[..., Session] = Session) -> Transact:
    """Run work in one transaction, in which its `session.commit()` only flushes."""

    def transact(work: Work) -> Any:
        with engine.begin() as connection:
            with make(bind=connection, join_transaction_mode="rollback_only") as db:
                result = work(db)
                db.commit()
                return result

    return transact


# %%
def shop(engine):
    app = FastAPI()
    keys.metadata.create_all(engine)

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


# %% [markdown]
"""
## See it work
"""

# %% tags=["stage"]
KILLED = """
import sys, time
from playbook.api.idempotency import *
def work(session):
    session.execute(sa.text("INSERT INTO orders (item) VALUES ('coffee')"))
    print("at work", flush=True)
    time.sleep(60)
once(one_commit(sa.create_engine(sys.argv[1])), ("ada's key", "coffee"), work, 0)
"""


def day(url):
    engine = make_engine(url)
    orders.create(engine)
    with serving(shop(engine)) as client:

        def order(key):
            headers = {"Idempotency-Key": f'"{key}"'}
            answer = client.post("/orders", json={"item": "coffee"}, headers=headers)
            return f"{answer.status_code} {answer.text}"

        said = morning(order)
        at_once = [partial(order, "twenty-times-at-once")] * 20
        crowd = together(**{str(n): one for n, one in enumerate(at_once)})
        said.append(order("twenty-times-at-once"))
    engine.dispose()
    killed(KILLED, url)
    again = partial(told, once, one_commit(engine), coffee, add_order)
    after_kill = [again(now) for now in (59, 60, 61)]
    with engine.connect() as db:
        return said, set(crowd.values()), after_kill, count(db)


# %%
for line in day(lesson_url(file=True)):
    print(line)
print(on_postgres(day))
