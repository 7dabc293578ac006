# %% [markdown]
"""
# Mailed links

Let a person prove that they read a mailbox: once, in time, and nobody in their place.

| | |
|---|---|
| **Use it when** | you confirm an address, reset a password or invite by mail |
| **You need** | [engines](../foundations/engines.ipynb) (*code*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | one-time token, mail scanner, token in the log, Referer |
| **Standard** | OWASP ASVS 5.0, 6.4.1, 6.4.3, 14.2.1; RFC 9110, 9.2.1 and 10.1.3 |

```python
from playbook.auth.mailed_links import mailed_url, new_link, take_link

token = new_link(db, "confirm", user_id, email, now, lifetime)
url = mailed_url("https://pantry.example/confirm", token)  # for the mail
link = take_link(db, token, "confirm", now)  # the row, once; then None
```

*Lift: 88 lines in 2 files; needs sqlalchemy.*

## See it break

Ada gives a service her address, and the service mails her a link with a random
**[token](../glossary.md#token)**. If the token comes back, somebody reads that mailbox.

There are two usual ways. Opening the link uses it. Or the link opens a page with a
`button`, which uses it. In both, `run(engine, statement)` commits each statement, as
Django does by default. The effect of a link is a row in the table `uses`.
"""

# %%
import sqlalchemy as sa
from fastapi import HTTPException

naive = sa.MetaData()
tokens = sa.Table("tokens", naive, sa.Column("token", sa.String))
uses = sa.Table("uses", naive, sa.Column("email", sa.String))


def naive_service(engine, button):
    def use(token):
        mine = tokens.c.token == token
        if not run(engine, sa.select(tokens).where(mine)):
            raise HTTPException(400)
        run(engine, uses.insert().values(email="ada@example.com"))
        run(engine, tokens.delete().where(mine))

    def mail():
        run(engine, tokens.insert().values(token="3f9a1c"))
        return "https://pantry.example/confirm?token=3f9a1c"

    return pages(use, button), mail


# %% [markdown]
"""
Four stories, each with a new link:

- **Scanner**: a filter opens each link of a mail (GET) and looks for viruses. Then Ada
  clicks.
- **Log**: Ada has opened the link and not yet pressed a button. Mallory reads the
  access log, with path and query of each request.
- **Backup**: Mallory reads a copy of the database before Ada clicks.
- **Double click**: Ada's two requests arrive at once.

The folded cell imports `run`, `pages(use, button)`, which makes the routes, and
`attack(make, metadata)`, which plays the stories and returns how each ended. It also
imports `partial`, `show`, `table`, `mermaid`, `serving`, `lesson_url`, `on_postgres`,
`make_engine`, and `transaction(engine, work)`, which commits what `work(db)` did. It
defines the times `monday` and `day`. Predict: which of the eight end well?
"""

# %% tags=["stage"]
from datetime import UTC, datetime, timedelta
from functools import partial

from playbook.exercises.auth.mailed_links import attack, pages, run
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import lesson_url, mermaid, on_postgres, serving, show, table
from playbook.kit.stage import together

monday = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
day = timedelta(days=1)

# %% tags=["predict"]
ways = {}
for way, button in {"opening uses it": False, "a button uses it": True}.items():
    ways[way] = attack(partial(naive_service, button=button), naive)
show(table([{"way": way} | ends for way, ends in ways.items()]))

# %% [markdown]
"""
RFC 9110 calls GET *safe*: it only reads. So opening must not use a link. But with a
button the token stays good while it stands in the log. A copy of the table opens every
link in it. And look, effect and DELETE are three steps: another request fits between
them.

## The decision

How does somebody prove that they read a mailbox?

| option | good | costs |
|---|---|---|
| a code to type | works on another device | can be guessed; count the tries |
| signed token (Django, itsdangerous) | no table | two at once both pass |
| **random token, hash in a table** | used once, can be deleted | a cleanup |

We choose the **table**. Choose a code for a television. Choose a signed token where
using it twice does no harm.

And where in the link does the token stand?

| option | good | costs |
|---|---|---|
| path or query | needs no script | in logs, and in the header `Referer` |
| **behind `#`** | no browser sends it | the page needs three lines of script |

We choose **`#`**: what is never sent stands in no log. `Referer` tells the next page
which URL led to it. Choose the query where pages must work without JavaScript. Then
keep it out of the log, and answer with the header `Referrer-Policy: no-referrer`.

## Build it

### The idea

The mail holds a random token, the table holds its SHA-256 hash. A hash does not lead
back to the token. The row says what the link is for (its `purpose`), whose it is, and
which address it proves.
"""

# %% tags=["export"]
import hashlib

import sqlalchemy as sa

from playbook.foundations.engines import Timestamp


def hash_of(token: str) -> str:
    """What the table holds of a token, 64 hexadecimal digits."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass"))  # any JSON text
    return digest.hexdigest()


links = sa.Table(
    "links",
    sa.MetaData(),
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("user_id", sa.String, index=True),  # NULL: not yet anybody's
    sa.Column("email", sa.String, nullable=False),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
)

# %%
engine = make_engine(lesson_url())
links.metadata.create_all(engine)
print(sa.schema.CreateTable(links).compile(engine))

# %% [markdown]
"""
A password needs a slow hash, because people choose what others can guess. Nobody
guesses 256 random bits, so one fast hash is enough.

### Make

Any `table` with these six columns serves; `more` is for a table that has more.
"""

# %% tags=["export"]
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import orm

Database = sa.Connection | orm.Session


def new_link(
    db: Database,
    purpose: str,
    user_id: Any,
    email: str,
    now: datetime,
    lifetime: timedelta,
    *,
    make_token: Callable[[], str] = secrets.token_urlsafe,
    table: sa.Table = links,
    **more: Any,
) -> str:
    """The token of a new link, for one mail to `email`. It is stored nowhere."""
    token = make_token()
    row = {"token_hash": hash_of(token), "purpose": purpose, "user_id": user_id}
    row |= {"email": email, "created_at": now, "expires_at": now + lifetime}
    db.execute(table.insert().values(row | more))
    return token


# %%
mine = ("confirm", "ada", "ada@example.com", monday, day)
with engine.begin() as db:
    token = new_link(db, *mine)
    row = db.execute(sa.select(links)).one()
print(f"in the mail {len(token)} characters, and in the table: {token in row}")

# %% [markdown]
"""
### The URL and its page

`page` is a setting of yours. A link made from a request leads to the host that the
request names, which can be Mallory's. `FORM` is the page. Its script takes the token
out of the address bar, where other scripts and the history would find it. Only the
button sends it, and a double click sends it once.
"""

# %% tags=["export"]
import re

FORM = """<!doctype html><button>Confirm</button><script>
  const body = JSON.stringify({token: location.hash.slice(1)})
  history.replaceState(null, "", location.pathname)
  const headers = {"content-type": "application/json"}
  document.querySelector("button").onclick = async function () {
    this.disabled = true
    const answer = await fetch(location.pathname, {method: "POST", headers, body})
      .finally(() => { this.disabled = false })
    document.body.textContent = answer.ok ? "Done." : "This link is used or too old."
  }
</script>"""


def mailed_url(page: str, token: str) -> str:
    """The link for the mail. Raises ValueError if `page` is no whole URL of a page."""
    if not re.fullmatch(r"https?://[^/?#\s]+/[^?#\s]*", page):
        raise ValueError(f"{page!r} should be like https://pantry.example/confirm")
    return f"{page}#{token}"


# %%
for page in ("https://pantry.example/confirm", "/confirm"):
    try:
        print(mailed_url(page, "3f9a1c"))
    except ValueError as error:
        print(error)

# %% [markdown]
"""
### Take

To take a link is to delete its row, and the DELETE returns what it deleted. The check
is the write: there is no moment between them.
"""


# %% tags=["export"]
def take_link(
    db: Database, token: str, purpose: str, now: datetime, table: sa.Table = links
) -> sa.Row[Any] | None:
    """The link of a token, which is used up by this; None if it is not good."""
    mine = [table.c.token_hash == hash_of(token), table.c.purpose == purpose]
    taken = table.delete().where(*mine, table.c.expires_at > now)
    return db.execute(taken.returning(*table.c)).one_or_none()


# %%
with engine.begin() as db:
    for purpose in ("reset", "confirm", "confirm"):
        link = take_link(db, token, purpose, monday)
        print(purpose, "->", link and link.email)

# %% [markdown]
"""
Take a link in the transaction that has the effect. Here the effect fails. Predict: can
Ada use her link again?
"""

# %% tags=["predict"]
with engine.connect() as db:
    token = new_link(db, *mine)
    db.commit()
    take_link(db, token, "confirm", monday)
    db.rollback()
    print(take_link(db, token, "confirm", monday) is not None)

# %% [markdown]
"""
The DELETE is part of the transaction, as every other write is.

### Look, and drop

Some work is slow, like hashing a password, and some can be refused. Look first with
`find_link`, do it, and take the link at the end. `read_link` also finds an expired
link, for a page that says why. `drop_links` is for when a new link replaces the old
ones, or the address changes. `purge_links` is for a daily job.
"""


# %% tags=["export"]
def read_link(db: Database, token: str, table: sa.Table = links) -> sa.Row[Any] | None:
    """The link of a token, of any purpose, also when it has expired."""
    mine = sa.select(*table.c).where(table.c.token_hash == hash_of(token))
    return db.execute(mine).one_or_none()


def find_link(
    db: Database, token: str, purpose: str, now: datetime, table: sa.Table = links
) -> sa.Row[Any] | None:
    """A link that is good now, or None. Another request may take it before you do."""
    link = read_link(db, token, table)
    good = link is not None and link.purpose == purpose and link.expires_at > now
    return link if good else None


def drop_links(
    db: Database, user_id: Any, *purposes: str, table: sa.Table = links
) -> None:
    """End a user's links of these purposes, or with none named all of them."""
    old = sa.delete(table).where(table.c.user_id.in_([user_id]))  # None is nobody
    db.execute(old.where(table.c.purpose.in_(purposes)) if purposes else old)


def purge_links(db: Database, now: datetime, table: sa.Table = links) -> None:
    """Delete the links that have expired."""
    db.execute(table.delete().where(table.c.expires_at <= now))


# %% [markdown]
"""
The folded cell defines `walk(*steps)`. It makes a link, takes the steps, and returns
for each: the state before, the step with its result, the state after. A link is *good*,
*expired* or *gone*. The diagram is drawn from what happened on four walks. Predict:
which arrows leave *expired*?
"""


# %% tags=["stage"]
def state(db, token, now):
    link = read_link(db, token)
    if link is None:
        return "gone"
    return "good" if link.expires_at > now else "expired"


def walk(*steps):
    now = monday
    with engine.begin() as db:
        token = new_link(db, *mine)
        calls = {
            "find_link": lambda: find_link(db, token, "confirm", now),
            "take_link": lambda: take_link(db, token, "confirm", now),
            "drop_links": lambda: drop_links(db, "ada"),
            "purge_links": lambda: purge_links(db, now),
        }
        seen = [("[*]", "new_link", "good")]
        for step in steps:
            before, result = state(db, token, now), ""
            if step == "a day":
                now += day
            else:
                result = calls[step]()
            if step in ("find_link", "take_link"):
                step += " gives the row" if result else " gives None"
            seen.append((before, step, state(db, token, now)))
    return seen


# %% tags=["predict"]
arrows = walk("find_link", "purge_links", "take_link", "take_link", "find_link")
arrows += walk("a day", "find_link", "take_link", "purge_links", "take_link")
arrows += walk("drop_links", "take_link") + walk("a day", "drop_links")
lines = [f"  {before} --> {after}: {step}" for before, step, after in arrows]
show(mermaid("\n".join(["stateDiagram-v2", *dict.fromkeys(lines)])))

# %% [markdown]
"""
No other state leads back to *good*: only `new_link` makes one.

## See it work

The same service with the recipe:
"""


# %%
def service(engine):
    uses.create(engine)

    def use(token):
        def work(db):
            link = take_link(db, token, "confirm", monday)
            if link is None:
                raise HTTPException(400)
            db.execute(uses.insert().values(email=link.email))

        transaction(engine, work)

    def mail():
        token = transaction(engine, lambda db: new_link(db, *mine))
        return mailed_url("https://pantry.example/confirm", token)

    return pages(use, button=True), mail


ways["the recipe"] = attack(service, links.metadata)
show(table([{"way": way} | ends for way, ends in ways.items()]))

# %% [markdown]
"""
## On PostgreSQL

The folded cell defines `fifty(url)`: one link, fifty requests at once. On DuckDB two
DELETEs of one row [conflict](../glossary.md#conflict). On PostgreSQL the second waits
for the row, and above READ COMMITTED it conflicts too. After a conflict `transaction`
runs `work` again. Predict: how many requests succeed on each?
"""


# %% tags=["stage"]
def fifty(url):
    engine = make_engine(url)
    links.metadata.create_all(engine)
    app, mail = service(engine)
    token = mail().partition("#")[2]
    with serving(app) as client:
        one = partial(client.post, "/confirm", json={"token": token})
        heard = together(**{f"request {n}": one for n in range(50)}).values()
        statuses = [answer.status_code for answer in heard]
        used = len(run(engine, sa.select(uses)))
    engine.dispose()
    return {status: statuses.count(status) for status in (200, 400)} | {"uses": used}


# %% tags=["predict"]
here = fifty(lesson_url())
there = on_postgres(fifty)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
Whoever comes second finds no row, and hears 400.

## Check it
"""

# %%
ours = ways["the recipe"]
assert ours["scanner"] == "well", "a scanner used the link up"
assert ours["log"] == "well", "the log holds a good token"
assert ours["backup"] == "well", "a copy of the table opens a link"
assert ours["double click"] == "used once", "one link was used twice"
once = {200: 1, 400: 49, "uses": 1}
assert here == once and there in (once, None), "not exactly one of fifty succeeded"
assert ("expired", "take_link gives None", "expired") in arrows, "too late, and taken"
print("used once, in time, by the mailbox: not by scanner, log or backup")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `return digest.hexdigest()` | `return token` | a copy of the table opens a link |
| `{page}#{token}` | `{page}?token={token}` | the log holds a good token |
| `= table.delete()` | `= table.update().values(user_id="")` | one link was used twice |

## Your turn

An invitation has seats: its link may be used several times, but never more often than
there are seats. The table `invitations` has the columns `token_hash`, `seats` (how many
are free) and `expires_at`.

Write `take_seat`. It takes a seat and returns how many are left, 0 for the last one. It
returns None, and changes nothing, if the token is unknown, too late, or no seat is
free. Another request can take a seat at any moment, and **nobody retries a conflict**:
the project runs PostgreSQL at its default, READ COMMITTED.
"""


# %% tags=["exercise"]
def take_seat(db, invitations, token, now):
    """How many seats are left after this one; None if there was none to take."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.mailed_links import HINTS, check

check(take_seat)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def take_seat(db, invitations, token, now):
    mine = invitations.c.token_hash == hash_of(token)
    free = [invitations.c.seats > 0, invitations.c.expires_at > now]
    # No look before it: the database checks and writes in one statement.
    taken = invitations.update().where(mine, *free)
    taken = taken.values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats))


assert check(take_seat)

# %% [markdown]
"""
## Take it with you

`playbook lift mailed_links INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| transaction | passes a `Connection` or ORM `Session`, commits, retries conflicts |
| table | `links.metadata.create_all`, or Alembic: `target_metadata` may be a list |
| user id | passes `str(user.id)`; drops all links when it deletes the user |
| clock | passes `now` with a time zone |
| mail | sends `mailed_url(page, token)`; `page` comes from a setting |
| cleanup | calls `purge_links` once a day |

With a newsletter, whose subscribers have integer ids:

```python
def ask(session: Session, subscriber: Subscriber, now: datetime) -> str:
    owner = str(subscriber.id)
    drop_links(session, owner, "subscribe")  # only the newest link is good
    lifetime = timedelta(days=2)
    return new_link(session, "subscribe", owner, subscriber.email, now, lifetime)


def confirm(session: Session, token: str, now: datetime) -> bool:
    link = take_link(session, token, "subscribe", now)
    if link is None:
        return False
    subscriber = session.get(Subscriber, int(link.user_id))
    if subscriber is None or subscriber.email != link.email:
        return False  # the link proves the address of that day
    subscriber.confirmed = True
    return True
```

Traps:

- Write no name or text of a stranger into the mail. It would come in your name.
- Turn off *click tracking* at your mail provider: it sends each link through its log.
- A content security policy can forbid scripts in a page. Then put the script of `FORM`
  into a file.
- Do not press the button by script. Some scanners run scripts.
- Limit the mails for each address, or anybody can fill Ada's mailbox.

Hand it over:

- **Reviewer**: accept no `find_link` as the only check before a write.
- **Security**: search the access log for a token of your own after a click.
- **Tests**: keep "fifty at once, one success", on your engine.
- **Front end**: after a 400 offer a new link, whatever the reason.

## In short

You can say why GET must not use a link, and where a token may stand. You can explain
why a hash is enough for a token, and why taking is one DELETE.

## Sources

OWASP ASVS 5.0, 6.4.1, 6.4.3 and 14.2.1 (no secrets in a URL's query). RFC 9110, 9.2.1
(safe methods) and 10.1.3 (`Referer` has no fragment). OWASP Forgot Password Cheat
Sheet, "URL Tokens". W3C Referrer Policy.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail threads](mail_threads.ipynb) · [course map](../index.ipynb) · Next: [Cookies](cookies.ipynb)
"""
