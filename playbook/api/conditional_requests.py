# %% [markdown]
"""
# Conditional requests

Let two people edit one thing, and lose nobody's work. Let clients ask "has it changed?"
for a few bytes.

| | |
|---|---|
| **Use it when** | two clients can change one resource, or ask again for it |
| **You need** | [transactions](../foundations/transactions.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | etag, if-match, if-none-match, optimistic locking, lost update |
| **Standard** | RFC 9110, 8.8.3 and 13; RFC 6585, 3 |

```python
from playbook.api.conditional_requests import check_write, etag, lock_row, not_modified

answer = not_modified(request, etag(body))  # GET: a 304, or None
check_write(request, etag(body))  # PUT, PATCH, DELETE: raises 412 or 428
lock_row(session, Note.id, number)  # before it, with a plain Session
```

*Lift: 53 lines in 1 file; needs fastapi, sqlalchemy.*

## See it break

A wiki page, read and saved over HTTP. The folded cell makes `Text`, the body of a
request. `new_engine(url)` makes the tables of `Wiki`, with the note 1, "Pakages".
Imported are `FastAPI`, `HTTPException`, `Request`, `Response`, from SQLAlchemy
`DeclarativeBase`, `Mapped`, `mapped_column` and `Session`, and from the kit
`lesson_url`, `serving`, `show`, `show_http`, `table` and `on_postgres`.
"""

# %% tags=["stage"]
import random
import threading

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, show_http, table
from playbook.kit.stage import Timeline, together


class Text(BaseModel):
    text: str


def new_engine(url, **options):
    engine = make_engine(url, **options)
    Wiki.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.merge(Note(id=1, text="Pakages"))
    return engine


# %%
class Wiki(DeclarativeBase):
    pass


class Note(Wiki):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]


def plain_wiki(engine):
    app = FastAPI()

    @app.get("/notes/{number}")
    def read(number: int):
        with Session(engine) as session:
            return {"text": session.get(Note, number).text}

    @app.put("/notes/{number}", status_code=204)
    def save(number: int, new: Text):
        with Session(engine) as session:
            session.get(Note, number).text = new.text
            session.commit()

    return app


# %% [markdown]
"""
Ada and Bob open the form at the same time. Ada corrects the spelling. Bob adds two
words to what he sees. The folded cell defines `two_editors(app)`, which plays this over
HTTP, shows it and returns the text that is stored. Later wikis answer a GET with a
header `ETag`, which each editor sends back; this one has none. Predict: which status
does Bob get, and what is stored in the end?
"""


# %% tags=["stage"]
def save_as(client, tag, text):
    return client.put("/notes/1", json={"text": text}, headers={"if-match": tag or ""})


def two_editors(app):
    timeline = Timeline("Ada", "Bob")
    with serving(app) as client:
        read = {}
        for name in timeline.lanes:
            read[name] = client.get("/notes/1")
            timeline.note(f"reads {read[name].json()['text']!r}", name)
        for name, text in (("Ada", "Packages"), ("Bob", "Pakages of all")):
            answer = save_as(client, read[name].headers.get("etag"), text)
            timeline.note(f"saves {text!r}: {answer.status_code}", name)
        show(timeline.shown())
        return client.get("/notes/1").json()["text"]


# %% tags=["predict"]
print("stored:", two_editors(plain_wiki(new_engine(lesson_url()))))

# %% [markdown]
"""
Nobody was told that Ada's correction is gone: a **[lost
update](../glossary.md#lost-update)**. No transaction can help. Each request was one,
and the gap lies on Bob's screen.

## The decision

| option | good | costs |
|---|---|---|
| the last one wins | nothing to write | lost updates |
| a lock while editing | no work in vain | needs an owner, an end, a way to break it |
| a version in the body | simple | DELETE has no body; caches do not know it |
| Django's `@condition` | built in | compares before the view and its transaction |
| **ETag, `If-Match`** | one rule for all methods and caches | clients handle `412` |

We choose the **ETag**. DRF, Flask and Starlette bring nothing for writes. SQLAlchemy's
`version_id_col` guards one request, but not the minutes a form is open. Choose
a lock where a merge is impossible.

## Build it

### The idea

The answer to a GET has a tag, `ETag`, that stands for its content. A write sends it
back as `If-Match`: a **conditional request**. If the tag is no longer current, the
service refuses with 412.
"""

# %%
notes = {1: "Pakages"}
small = FastAPI()


@small.get("/notes/1")
def read(response: Response):
    response.headers["ETag"] = f'"{notes[1]}"'
    return {"text": notes[1]}


@small.put("/notes/1", status_code=204)
def save(new: Text, request: Request):
    if request.headers["if-match"] != f'"{notes[1]}"':
        raise HTTPException(412)
    notes[1] = new.text


print("stored:", two_editors(small))

# %% [markdown]
"""
Bob learns it. Three things are missing: a tag for any content, the whole syntax of
the headers, and a guard against two writes at the same moment.

### The tag

A *strong* tag promises equal bytes. So it is a hash of the bytes that are sent. A
column `version` can be hashed instead, if its row alone is the answer: joins and
renamed fields change the bytes, but not the version.
"""

# %% tags=["export"]
import hashlib


def etag(representation: bytes) -> str:
    """The strong entity tag of these bytes, in quotes (RFC 9110, 8.8.3)."""
    digest = hashlib.sha256(representation)
    return f'"{digest.hexdigest()[:32]}"'


# %%
print(etag(b'{"text": "Pakages"}'), etag(b'{"text": "Packages"}'))

# %% [markdown]
"""
### The headers

`If-Match` asks for a write only if one of its tags is current. `If-None-Match` asks for
an answer only if none is: a reader sends the tag of its copy. Both hold a list, a tag
may contain a comma, and `*` stands for any content. A [proxy](../glossary.md#proxy)
that compresses changes tags: Apache appends `-gzip`, which names the same content and
is taken off. nginx puts `W/` before: a *weak* tag.
"""

# %% tags=["export"]
import re

TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
TAGS = re.compile(rf"[ \t,]*{TAG.pattern}(?:[ \t]*,[ \t,]*{TAG.pattern})*[ \t,]*")
MARK = re.compile(r'(?:--?|[;:])(?:(?:x-)?gzip|deflate|br|zstd)"$')  # of the proxies


def read_tags(field: str) -> list[str]:
    """The tags of a header, or `["*"]`; empty if the header cannot be read."""
    if field.strip() == "*":
        return ["*"]
    if not TAGS.fullmatch(field):
        return []
    return [MARK.sub('"', tag) for tag in TAG.findall(field)]


# %%
for field in ('"a", W/"b"', '"a,b-gzip"', "*", "a"):
    print(f"{field:12} {read_tags(field)}")

# %% [markdown]
"""
A reader's copy may be "as good as" the current content, so `If-None-Match` compares
weakly. Only equal bytes are safe to build on, so `If-Match` compares strongly.
"""


# %% tags=["export"]
def matches(tags: list[str], current: str | None, weak: bool) -> bool:
    """Whether one of `tags` stands for `current`; None: there is no content."""
    if current is None or tags == ["*"]:
        return current is not None
    if weak:
        return current.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]
    return current in tags and not current.startswith("W/")


# %% [markdown]
"""
Predict: which comparisons are true?
"""

# %% tags=["predict"]
rows = []
for field in ('"1"', 'W/"1"', '"2"', "*"):
    found = [matches(read_tags(field), '"1"', weak) for weak in (False, True)]
    rows.append((field, *found))
show(table(rows, ["sent, current is 1", "If-Match", "If-None-Match"]))

# %% [markdown]
"""
### Reading and writing

A GET with the current tag gets 304 and no body. `no-cache` lets a browser keep the
answer, but ask before each use. A write gets 412 if it sent another tag, and 428 if it
sent none. `If-Match` is compared first. `If-None-Match: *` means "only create"; it does
not replace `If-Match`.
"""

# %% tags=["export"]
from fastapi import HTTPException, Request, Response


def not_modified(request: Request, current: str) -> Response | None:
    """The answer 304 to a GET whose client has the current content, or None."""
    field = ", ".join(request.headers.getlist("If-None-Match"))
    if not matches(read_tags(field), current, weak=True):
        return None
    return Response(None, 304, {"ETag": current, "Cache-Control": "private, no-cache"})


def check_match(request: Request, current: str | None) -> None:
    """Raises 412 if If-Match does not name the current tag, and 400 if unreadable."""
    headers = {} if current is None else {"ETag": current}
    lines = request.headers.getlist("If-Match")
    tags = read_tags(", ".join(lines))
    if lines and not tags:
        raise HTTPException(400, 'If-Match takes * or tags in quotes, as "abc".')
    if lines and not matches(tags, current, weak=False):
        raise HTTPException(412, "It has changed: read it again.", headers)


def check_write(request: Request, current: str | None) -> None:
    """Raises 412 or 428 unless a write knows the current tag, and 400 if unreadable."""
    check_match(request, current)
    if current is not None and not_modified(request, current):  # If-None-Match
        raise HTTPException(412, "It exists already.", {"ETag": current})
    if current is not None and "If-Match" not in request.headers:
        raise HTTPException(428, "Send If-Match with the ETag of what you read.")


# %%
for field in ('"1"', '"2"', '"1', "*"):
    request = Request({"type": "http", "headers": [(b"if-match", field.encode())]})
    try:
        check_write(request, '"1"')
        print(f"{field:4} may write")
    except HTTPException as error:
        print(f"{field:4} {error.status_code} {error.detail}")

# %% [markdown]
"""
### In the transaction that writes

Two requests can both pass the check before either has written. So the check is part of
the transaction. `transaction` runs the work again if it meets a
[conflict](../glossary.md#conflict), and the check with it. The next section passes
`after_check`, a place to wait between the two.
"""

# %%
import json

from playbook.foundations.transactions import transaction


def body_of(note):
    return json.dumps({"text": note.text}).encode()


def guarded_wiki(engine, after_check=lambda: None):
    app = FastAPI()

    @app.get("/notes/{number}")
    def read(number: int, request: Request):
        body = transaction(engine, lambda db: body_of(db.get(Note, number)))
        tag = {"ETag": etag(body), "Cache-Control": "private, no-cache"}
        return not_modified(request, etag(body)) or Response(body, headers=tag)

    @app.put("/notes/{number}", status_code=204)
    def save(number: int, new: Text, request: Request):
        def work(db):
            note = db.get(Note, number)
            check_write(request, etag(body_of(note)))
            after_check()
            note.text = new.text

        transaction(engine, work)

    return app


kept = two_editors(guarded_wiki(new_engine(lesson_url())))

# %% [markdown]
"""
## See it work

Now both save at the same moment with the same tag. The folded cell defines
`race(make_app, engine)`. It holds both requests until both have passed the check, and
returns their statuses. Predict: which two?
"""

# %% tags=["stage"]
first_tag = etag(b'{"text": "Pakages"}')


def race(make_app, engine):
    turns = iter([threading.Barrier(2, timeout=60).wait] * 2)  # a retry does not wait
    with serving(make_app(engine, lambda: next(turns, bool)())) as client:
        works = {
            text: lambda text=text: save_as(client, first_tag, text) for text in "AB"
        }
        answers = together(**works)
    return sorted(answer.status_code for answer in answers.values())


# %% tags=["predict"]
raced = race(guarded_wiki, new_engine(lesson_url()))
print(raced)

# %% [markdown]
"""
The second commit meets a conflict. Its work runs again, reads the new text, and the
check fails this time.

The same wiki, asked by a client that has a copy, and by one that knows no tag:
"""

# %%
with serving(guarded_wiki(new_engine(lesson_url()))) as client:
    tag = client.get("/notes/1").headers["etag"]
    client.get("/notes/1", headers={"if-none-match": tag})
    client.put("/notes/1", json={"text": "Mine"})
    show_http(client)

# %% [markdown]
"""
A 304 saves the bytes of the body. The query still runs, because the tag is made of its
result.

## On PostgreSQL

Many services use a plain `Session` with `commit()`, at PostgreSQL's default isolation
READ COMMITTED. There no conflict is reported, so the row must be locked before it is
read. SQLite has no [row locks](../glossary.md#row-lock): an UPDATE that changes nothing
takes its only lock.
"""

# %% tags=["export"]
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session


def lock_row(session: Session, column: Any, value: Any) -> None:
    """Keep the row with this value from other writers until the end of the transaction.

    Call it before the row is read. For PostgreSQL, MySQL and SQLite.
    """
    statement: Any = sa.select(column).where(column == value).with_for_update()
    if session.get_bind().dialect.name == "sqlite":
        same = {column: column}
        statement = sa.update(column.class_).where(column == value).values(same)
    session.execute(statement)
    session.expire_all()  # what was read before the lock may be old


# %%
def session_wiki(engine, after_check, lock):
    app = FastAPI()

    @app.put("/notes/{number}", status_code=204)
    def save(number: int, new: Text, request: Request):
        with Session(engine) as session:
            if lock:
                lock_row(session, Note.id, number)
            note = session.get(Note, number)
            check_write(request, etag(body_of(note)))
            if not lock:
                after_check()  # with the lock, only one request comes so far
            note.text = new.text
            session.commit()

    return app


# %% [markdown]
"""
The folded cell defines `without_and_with(url)`: the race of before at READ COMMITTED,
first without the lock, then with it. Predict: which statuses do the two races end with?
"""

# %% tags=["stage"]
from functools import partial


def without_and_with(url):
    found = []
    for lock in (False, True):
        engine = new_engine(url, isolation_level="READ COMMITTED")
        found.append(race(partial(session_wiki, lock=lock), engine))
    return found


# %% tags=["predict"]
on_server = on_postgres(without_and_with)
print(on_server)

# %% [markdown]
"""
Without the lock the code looks right, and loses an update. The lock makes the second
request wait until the first has committed.

## Check it

Two clients read and write in a random order. Each write adds a word to what its client
has read. The folded cell defines `interleave(app, seed)`. It returns how many words
were accepted, and how many of them are missing in the end.
"""


# %% tags=["stage"]
def interleave(app, seed):
    chance = random.Random(seed)
    accepted = set()
    with serving(app) as client:
        read = dict.fromkeys("ab", client.get("/notes/1"))
        for step in range(80):
            name = chance.choice("ab")
            text = f"{read[name].json()['text']} {name}{step}"
            if chance.random() < 0.5:
                read[name] = client.get("/notes/1")
            elif save_as(client, read[name].headers.get("etag"), text).is_success:
                accepted.add(f"{name}{step}")
        stored = client.get("/notes/1").json()["text"].split()
    return len(accepted), len(accepted - set(stored))


# %%
for name, wiki in (("plain", plain_wiki), ("guarded", guarded_wiki)):
    accepted, lost = interleave(wiki(new_engine(lesson_url())), seed=1)
    print(f"{name}: {accepted} words accepted, {lost} lost")
statuses = [exchange.status for exchange in client.exchanges]
assert accepted > 0 and lost == 0, "an accepted change is lost"
assert kept == "Packages", "Bob overwrote Ada"
assert raced == [204, 412], "two writes at one moment both passed"
assert statuses == [200, 304, 428], "a write without a tag passes"
assert on_server in (None, [[204, 204], [204, 412]]), "the lock does not hold"
print("no accepted change is lost, in any order and at the same moment")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `return current in tags` | `return True` | an accepted change is lost |
| `sha256(representation)` | `sha256(b"")` | an accepted change is lost |
| `raise HTTPException(428,` | `HTTPException(428,` | a write without a tag passes |

## Your turn

Most answers 412 need not bother anybody: Ada changed the title, Bob the text. Write
`save(client, url, read, mine)` for a front end. `read` is the answer that filled the
form, `mine` the fields that its user changed, with their new values.

It sends `mine` with PATCH. On 412 it reads again. If another user has changed one of
the same fields to another value, it stores nothing and returns `{field: their value}`
for each of them. Otherwise it tries again. It returns `{}` when `mine` is stored. Any
other error is raised (`raise_for_status`), and after five attempts a `TimeoutError`.
"""


# %% tags=["exercise"]
def save(client, url, read, mine):
    """Store the fields in `mine`, or return what others made of them."""
    raise NotImplementedError


# %%
from playbook.exercises.api.conditional_requests import HINTS, check

check(save)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def save(client, url, read, mine):
    base = read.json()  # what the user saw; it stays the first one
    for _ in range(5):
        headers = {"if-match": read.headers["etag"]}
        answer = client.patch(url, json=mine, headers=headers)
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        # The tag of the 412 belongs to a state that no person has seen: read it.
        read = client.get(url).raise_for_status()
        now = read.json()
        theirs = {}
        for field, value in mine.items():
            if now[field] not in (base[field], value):
                theirs[field] = now[field]
        if theirs:
            return theirs
    raise TimeoutError(f"{url} was changed by others each time")


assert check(save)

# %% [markdown]
"""
## Take it with you

`playbook lift conditional_requests INTO` copies the recipe and its tests. What it asks
of your project:

| seam | what to do |
|---|---|
| `transaction(engine, work)` | in `work`: read, `check_write`, change |
| a plain `Session` | `lock_row`, read, `check_write`, change, `commit()` |
| errors | `HTTPException` with 400, 412, 428, for your [handler](errors.ipynb) |
| tag | `etag(body)`, of the bytes that a GET sends |

Traps:

- A GET may send `If-Match` too: then call `check_match` before `not_modified`.
- A tag of a version column must contain the id and the time of creation, or a row that
  was deleted and made again has the old tag.
- A response model that FastAPI serializes is not the bytes that you hashed. Return a
  `Response` with the body.
- nginx makes tags weak when it compresses. Then each write gets 412: take `W/` off, or
  switch compression off for these paths.
- If the content comes from several rows, lock the row that all its writers lock.

Hand it over:

- **Front end**: keep the ETag with the form. On 412 read again and merge; never send
  the tag of the 412.
- **Reviewer**: the check and the write are in one transaction.
- **Security**: check the permission before the tag, or a 304 tells strangers something.
- **Tests**: keep the random order of two clients, and the race.

## In short

A tag stands for what a client has read. The service compares it in the transaction that
writes, so the second of two writers learns of the first. The same tag saves readers the
body of what they have.

## Sources

RFC 9110, 8.8.1 to 8.8.3 (tags), 13.1 and 13.2 (conditions), 15.4.5 (304), 15.5.13
(412). RFC 6585, 3 (428). PostgreSQL documentation, 13.2.1 (READ COMMITTED). W3C Note,
"Detecting the Lost Update Problem Using Unreserved Checkout" (1999).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Signed cursors](cursors.ipynb) · [course map](../index.ipynb) · Next: [Idempotency](idempotency.ipynb)
"""
