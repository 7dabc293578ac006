# %% [markdown]
"""
# Sign up

Let people join, without telling strangers who has joined, and let nobody prepare an
account for somebody else.

| | |
|---|---|
| **Use it when** | people register themselves with an e-mail address |
| **You need** | [mailed links](mailed_links.ipynb) (*code*) |
| **Time** | read 26 min, exercise 15 min |
| **Topics** | registration, enumeration, pre-hijacking, address verification |
| **Standard** | OWASP ASVS 5.0, 6.3.6, 6.3.8, 6.4.1; CWE-204, CWE-208 |

```python
from playbook.auth.sign_up import find_sign_up, finish_sign_up, start_sign_up

token = start_sign_up(db, email, now, find_user)  # None: mail a notice instead
link = find_sign_up(db, token, now)  # good? Then rules and hash, which are slow
user_id = finish_sign_up(transact, token, now, find_user, add_user)
```

*Lift: 103 lines in 3 files; needs sqlalchemy.*

## See it break

Most sign-ups look like this one. It stores the user, mails a link that proves the
address, and lets nobody sign in before that.

`shop` stands for the service: `shop.run(function, ...)` calls `function(db, ...)` in
one transaction, and `shop.send(to, text)` mails. `shop.hash_password` is slow in a real
service, and `shop.now` is the time. With `tells` the service says that an address is
taken. Without it the answer is the same for everybody.
"""

# %%
from fastapi import Body, FastAPI, HTTPException

from playbook.auth.mailed_links import mailed_url, new_link, take_link


def usual_service(shop, tells):
    app = FastAPI()

    @app.post("/sign-up", status_code=202)
    def sign_up(email: str = Body(), password: str = Body(), name: str = Body()):
        if shop.run(find_user, email) is None:
            user_id = shop.run(add_user, email, shop.hash_password(password), False)
            token = shop.run(new_link, "verify", user_id, email, shop.now, hour)
            page = mailed_url("https://pantry.example/verify", token)
            shop.send(email, f"Hello {name}, prove your address: {page}")
        elif tells:
            raise HTTPException(409, "this address is taken")

    @app.post("/verify")
    def verify(token: str = Body(embed=True)):
        link = shop.run(take_link, token, "verify", shop.now)
        shop.run(prove, link.user_id)

    return app


# %% [markdown]
"""
Mallory tries five things, each with the address of another Ada:

- She **compares answers** for an address that is taken and one that is free.
- She **compares work**: what is done before the answer, which a clock can measure.
- She fills in the form with Ada's address and her own password, and **lets Ada click**.
- She **takes Ada's address**: nobody clicks, and Ada joins the next day.
- She **has a name with words**: *Win at evil.example*.

The first two are **enumeration**: Mallory learns which addresses have an account.

The folded cell defines `find_user`, `add_user(db, email, password_hash, verified)` and
`prove(db, user_id)`, and `side_by_side(ways)`, which makes a table. It imports `Shop`,
`crowd`, and `attack(make)`, which plays the five. It also imports `partial`, `show`,
`serving`, `lesson_url`, `on_postgres`, `capture_sql` and `sequence_diagram`. `hour` is
a lifetime. Predict: which of the ten succeed?
"""

# %% tags=["stage"]
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from playbook.exercises.auth.sign_up import Shop, attack, crowd, users
from playbook.kit.lesson import (
    lesson_url,
    on_postgres,
    sequence_diagram,
    serving,
    show,
    table,
)
from playbook.kit.stage import capture_sql

hour = timedelta(hours=1)
numbers = iter(range(1_000_000))


def find_user(db, email):
    return db.scalar(sa.select(users.c.id).where(users.c.email == email))


def add_user(db, email, password_hash, verified=True):
    row = {"id": f"user {next(numbers)}", "email": email, "verified": verified}
    db.execute(users.insert().values(row | {"password_hash": password_hash}))
    return row["id"]


def prove(db, user_id):
    mine = users.update().where(users.c.id == user_id).values(verified=True)
    db.execute(mine.returning(users.c.id))


def side_by_side(ways):
    """A table: what Mallory tries, and how it ends in each of the ways."""
    first = next(iter(ways.values()))
    rows = [(name, *[ends[name] for ends in ways.values()]) for name in first]
    return table(rows, ["Mallory", *ways])


# %% tags=["predict"]
ways = {
    "one that tells": attack(partial(usual_service, tells=True)),
    "one that does not": attack(partial(usual_service, tells=False)),
}
show(side_by_side(ways))

# %% [markdown]
"""
Compare the two columns. The password is hashed only where a user is stored, and the
mail is sent only there. The other three have nothing to do with answers:

- **Pre-hijacking**: Ada did want to join. Her click proves an address, and beside it
  stands Mallory's password.
- **Squatting**: a user who was never proven keeps the address from Ada.
- **Words**: the mail comes from a sender that filters trust, and says what Mallory
  typed.

## The decision

When does somebody choose the password?

| option | good | costs |
|---|---|---|
| with the address (Django) | one form | the click proves a stranger's password |
| with the address, again after the click | | typed twice; a user per attempt |
| **after the click** | nothing exists before it | two forms |
| no password: another service signs in | no mail | depends on the other service |

We choose **after the click**. Choose the last for a company whose people have accounts
elsewhere.

Pantry cannot choose: its front end sends the password first. If an unproven address
gets a second password, Pantry accepts neither. The owner sets a new one by a reset.

## Build it

### The idea

Sign-up stores an address and a link, and no user. It does so for every address: one
look, one INSERT, one mail. Only the mailbox hears the difference.

### Start

The row of a taken address opens nothing. It is there so that both kinds of addresses
cost the same.
"""

# %% tags=["export"]
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from playbook.auth.mailed_links import Database, find_link, links, new_link, take_link

SIGN_UP: Final = "sign-up"  # the purpose of a link to a free address
KNOWN: Final = "sign-up-known"  # of a row that opens nothing


def start_sign_up(
    db: Database,
    email: str,
    now: datetime,
    find_user: Callable[[Any, str], Any],
    lifetime: timedelta = timedelta(hours=1),
    table: sa.Table = links,
    **more: Any,
) -> str | None:
    """A token to mail to `email`. None: the address has an account, mail a notice."""
    user_id = find_user(db, email)
    purpose = SIGN_UP if user_id is None else KNOWN
    given = (purpose, user_id, email, now, lifetime)
    token = new_link(db, *given, table=table, **more)
    return token if user_id is None else None


# %%
shop = Shop(lesson_url())
shop.run(add_user, "bob@example.com", "a hash")
mailed = {}
for email in ("ada@example.com", "bob@example.com"):
    mailed[email] = shop.run(start_sign_up, email, shop.now, find_user)
    print(email, "a link" if mailed[email] else "a notice")

# %% [markdown]
"""
### Look and finish

Call `find_sign_up` first, then check the rules for passwords and compute the slow hash.
`finish_sign_up` comes last. `add_user(db, email)` is yours. The address is unique in
your table, because two links of one address can be used at once.
"""


# %% tags=["export"]
def find_sign_up(
    db: Database, token: str, now: datetime, table: sa.Table = links
) -> sa.Row[Any] | None:
    """The link of a token that is good now, or None. Nothing is used up."""
    return find_link(db, token, SIGN_UP, now, table)


def finish_sign_up(
    transact: Callable[[Callable[[Any], Any]], Any],
    token: str,
    now: datetime,
    find_user: Callable[[Any, str], Any],
    add_user: Callable[[Any, str], Any],
    table: sa.Table = links,
) -> Any:
    """Take the link and add the user; the new id. None: not good, or has joined."""

    def work(db: Any) -> Any:
        link = take_link(db, token, SIGN_UP, now, table)
        if link is None or find_user(db, link.email) is not None:
            return None
        return add_user(db, link.email)

    try:
        return transact(work)
    except sa.exc.DBAPIError:  # two links of one address at once: look again
        return transact(work)


# %% [markdown]
"""
Mallory signs up with Ada's address, so Ada has two links now. Ada uses both. Predict:
which of the two calls returns an id, and which None? And what does `find_sign_up` say
of a link after an hour?
"""

# %% tags=["predict"]
ada = "ada@example.com"
second = shop.run(start_sign_up, ada, shop.now, find_user)
late = shop.run(find_sign_up, second, shop.now + hour)
add = partial(add_user, password_hash="a hash")
for token in (mailed[ada], second):
    print(finish_sign_up(shop.transact, token, shop.now, find_user, add))
print(late)

# %% [markdown]
"""
A new link does not end the older one. Otherwise Mallory could end Ada's.

## See it work

`shop.later(function, ...)` calls a function after the answer, like
`BackgroundTasks.add_task` of FastAPI or a queue of mails.
"""


# %%
def service(shop):
    app = FastAPI()

    @app.post("/sign-up", status_code=202)
    def sign_up(email: str = Body(embed=True)):
        text = "You have an account here. Forgotten the password? Ask for a new one."
        token = shop.run(start_sign_up, email, shop.now, find_user)
        if token is not None:
            page = mailed_url("https://pantry.example/join", token)
            text = f"Choose a password, and you are in: {page}"
        shop.later(shop.send, email, text)

    @app.post("/join")
    def join(token: str = Body(), password: str = Body()):
        user_id = None
        if shop.run(find_sign_up, token, shop.now) is not None:
            add = partial(add_user, password_hash=shop.hash_password(password))
            given = (token, shop.now, find_user, add)
            user_id = finish_sign_up(shop.transact, *given)
        if user_id is None:
            raise HTTPException(400, "ask for a new link")

    return app


# %%
ways["the recipe"] = attack(service)
show(side_by_side(ways))

# %% [markdown]
"""
Ada can click on each mail: what she types behind the link is hers.

The next picture is drawn from what happened. Bob has an account and Carol has none.
Predict: which lines differ?
"""

# %% tags=["predict"]
with serving(service(shop)) as client, capture_sql(shop.engine) as statements:
    for email in ("bob@example.com", "carol@example.com"):
        client.post("/sign-up", json={"email": email})
show(sequence_diagram(client.exchanges, statements))

# %% [markdown]
"""
What is left to measure is the difference between two INSERTs.

## On PostgreSQL

`crowd(url, service)` lets Ada ask for twenty links and use them all at once, one of
them twice, each with a password of its own. Predict: how many succeed?
"""

# %% tags=["predict"]
here = crowd(lesson_url(), service)
there = on_postgres(crowd, service)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
The unique address refused the others, and their second look found Ada.

## Check it
"""

# %%
ours = ways["the recipe"]
assert ours["compares answers"] == "all the same", "an answer tells who has joined"
assert ours["compares work"] == "all the same", "work tells who has joined"
assert "Ada is in" in ours["lets Ada click"], "a click proved a stranger's password"
assert late is None, "a link outlives its hour"
assert mailed["bob@example.com"] is None, "an owner was mailed a link to join"
once = {"succeeded": 1, "refused": 20, "accounts": 1, "its password": 1}
assert here == once and there in (once, None), "not one joined and twenty were refused"
print("same answer, same work, one account; and nothing exists before the click")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `token = new_link(` | `token = user_id or new_link(` | work tells who has joined |
| `token if user_id is None else None` | `token` | an owner was mailed a link to join |
| `timedelta(hours=1)` | `timedelta(days=9)` | a link outlives its hour |

## Your turn

Members of a team invite others by their address. An inviter must not learn who has an
account. Write `invite`. It returns the [token](../glossary.md#token) of a link for the
mail, good for seven days, and enters the address into the table `members` (`team`,
`email`, `state`), which the inviter sees. The state is `"invited"` until the link is
used, then `"member"`.

An address stands once in the list of a team. Invited again, it gets a new link, and its
state stays as it is. A link opens one team only. `users` is the table of accounts.
"""


# %% tags=["exercise"]
def invite(db, members, team, email, now):
    """The token of a link for the mail to `email`."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.sign_up import HINTS, check

check(invite)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def invite(db, members, team, email, now):
    mine = [members.c.team == team, members.c.email == email]
    if db.scalar(sa.select(members.c.state).where(*mine)) is None:
        row = {"team": team, "email": email, "state": "invited"}
        db.execute(members.insert().values(row))
    # Nobody looks for an account: what is not looked up cannot be told.
    return new_link(db, f"invite {team}", None, email, now, timedelta(days=7))


assert check(invite)

# %% [markdown]
"""
## Take it with you

`playbook lift sign_up INTO` copies the recipe with what it needs of the links, and its
tests. `playbook lift mailed_links INTO` adds their URL, form and cleanup.

| seam | what your project does |
|---|---|
| `find_user(db, email)` | returns an id as text, or None; `email` in one normal form |
| `add_user(db, email)` | adds the user, whose address is proven; returns the id |
| `transact(work)` | runs `work(db)` in one transaction |
| unique address | a [unique index](../glossary.md#unique-index) on the table of users |
| mail | one to each address, after the answer: a link, or a notice |
| rules and hash | between `find_sign_up` and `finish_sign_up` |

With members, who have integer ids, and `Session`, a `sessionmaker`:

```python
def find_member(session, email):
    member_id = session.scalar(select(Member.id).where(Member.email == email))
    return None if member_id is None else str(member_id)


def transact(work):
    with Session.begin() as session:
        return work(session)


def join(token, name, password, now):
    if transact(lambda session: find_sign_up(session, token, now)) is None:
        return None
    password_hash = hash_password(password)  # outside of a transaction: it is slow

    def add_member(session, email):
        member = Member(email=email, name=name, password_hash=password_hash)
        session.add(member)
        session.flush()  # now the member has its id
        return member.id

    return finish_sign_up(transact, token, now, find_member, add_member)
```

Traps:

- Two routes together can tell what none tells alone. Sign-in and reset must answer
  alike for an address that started to sign up.
- Limit the mails to one address, and give the same answer when it is too many.
- `normal_email` comes first: `Ada@Example.com` is Ada.
- The links hold addresses of people who never joined. `purge_links` deletes them.

Hand it over:

- **Reviewer**: each branch on "is there a user" before an answer does equal work.
- **Security**: try *pairs* of requests: sign up, then sign in.
- **Front end**: say "we have written to you" for each address; offer "send again".
- **Tests**: count hashes, statements and mails. A measured time proves nothing on a
  busy machine.

## In short

You can say what besides the answer tells who has joined. You can explain pre-hijacking,
and why it ends when the password comes after the click.

## Sources

OWASP ASVS 5.0, 6.3.6, 6.3.8, 6.4.1. A. Sudhodanan and A. Paverd, *Pre-hijacked
accounts* (USENIX Security 2022). OWASP Authentication Cheat Sheet, "Authentication and
Error Messages". NIST SP 800-63B-4, 3.1.3.1. CWE-204, CWE-208.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Session lookup](session_lookup.ipynb) · [course map](../index.ipynb) · Next: [Throttling](throttling.ipynb)
"""
