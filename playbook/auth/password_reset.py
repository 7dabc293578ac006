# %% [markdown]
"""
# Password reset

Let somebody back in who has forgotten the password, and nobody else.

| | |
|---|---|
| **Use it when** | people sign in with a password, which they will forget |
| **You need** | [mailed links](mailed_links.ipynb) (*code*) |
| **Time** | read 26 min, exercise 15 min |
| **Topics** | forgot password, recovery, host header, poisoned link, enumeration |
| **Standard** | OWASP ASVS 5.0, 6.3.8, 6.4.2, 6.4.3, 7.4.3 |

```python
from playbook.auth.password_reset import find_reset, finish_reset, start_reset

token = start_reset(db, email, now, find_user)  # after the answer; None: mail nothing
link = find_reset(db, token, now)  # good? Then rules and hash, which are slow
done = finish_reset(db, token, password_hash, now, set_password, end_sessions)
```

*Lift: 106 lines in 3 files; needs sqlalchemy.*

## See it break

Whoever has forgotten the password shows in another way that the account is theirs: by
reading its mailbox. The first version below uses the recipe of
[mailed links](mailed_links.ipynb).

`shop` stands for the service. `shop.run(function, ...)` calls `function(db, ...)` in
one transaction, and `shop.send(to, text)` mails.
"""

# %%
from fastapi import Body, FastAPI, HTTPException, Request

from playbook.auth.mailed_links import drop_links, find_link, new_link


def first_version(shop):
    app = FastAPI()

    @app.post("/forgot")
    def forgot(request: Request, email: str = Body(embed=True)):
        user_id = shop.run(find_user, email)
        if user_id is None:
            raise HTTPException(404, "nobody has this address")
        token = shop.run(new_link, "reset", user_id, email, monday, hour)
        shop.send(email, f"http://{request.headers['host']}/reset?token={token}")

    @app.post("/reset")
    def reset(token: str = Body(), password: str = Body()):
        link = shop.run(find_link, token, "reset", monday)
        if link is None:
            raise HTTPException(400, "ask for a new link")
        shop.run(set_password, link.user_id, link.email, hash_password(password))
        shop.run(drop_links, link.user_id, "reset")

    return app


# %% [markdown]
"""
Ada has an account, and Mallory a stolen session of hers. Mallory tries:

- **Host header**: she asks for Ada's link, with `Host: evil.example` in the request.
- **Who has an account**: she compares what she is told, and after how much work.
- **Access log**: she reads it while Ada thinks about a new password.
- **Older link**: she has an older mail. Ada has asked again since.
- **Two at once**: she and Ada use one link at the same moment.
- **Stolen session**: Ada sets a new password. Mallory goes on as before.
- **Change of address**: in the stolen session she had asked to give Ada's account
  Mallory's address. That link is in Mallory's mailbox.

The folded cell defines `find_user(db, email)`, which returns an id or None, and
`set_password`, which returns whether it has set one, and `end_sessions(db, user_id)`.
It imports `Shop` with its table `users`, `attack(make)`, which returns how each try
ends, `fifty`, `hash_password` (stands for a slow hash), `show`, `table`, `lesson_url`
and `on_postgres`. `monday` and `hour` are times. Predict: which of the seven succeed?
"""

# %% tags=["stage"]
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from playbook.exercises.auth.password_reset import (
    Shop,
    attack,
    fifty,
    hash_password,
    sessions,
    users,
)
from playbook.kit.lesson import lesson_url, on_postgres, show, table

monday = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
hour = timedelta(hours=1)


def find_user(db, email):
    return db.scalar(sa.select(users.c.id).where(users.c.email == email))


def set_password(db, user_id, email, password_hash):
    mine = users.update().where(users.c.id == user_id, users.c.email == email)
    done = mine.values(password_hash=password_hash).returning(users.c.id)
    return db.scalar(done) is not None


def end_sessions(db, user_id):
    db.execute(sessions.delete().where(sessions.c.user_id == user_id))


# %% tags=["predict"]
before = attack(first_version)
show(table(before.items(), ["Mallory tries", "first version"]))

# %% [markdown]
"""
Look at the first row. That mail is genuine, from the service to Ada's mailbox, and its
link brings Ada's [token](../glossary.md#token) to Mallory. `find_link` only looks:
between the look and the write another request has room. And 404 is not the only answer
that tells: so does the time that a look-up and a mail take.

## The decision

How does somebody get back in?

| option | good | costs |
|---|---|---|
| security questions | no mail | answers are public; ASVS 6.4.2 forbids them |
| a new password by mail | one step | anybody can change anybody's |
| a code to type | on another device | can be guessed: see *Your turn* |
| **a mailed link** | nothing to guess | the mailbox is the key to the account |
| Django's `PasswordResetView` | is there | mails first; two at once both pass |

We choose the **mailed link**. Choose a code for televisions. The mailbox is the key, so
a second factor must not be reset in this way.

## Build it

### The idea

The service answers before it looks. The link leads where a setting says. Setting the
password is one transaction, whose first statement **takes** the link. The recipe knows
no table of users. It calls your functions for what is yours.

### Start

`start_reset` runs after the answer. `more` goes to `new_link`.
"""

# %% tags=["export"]
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from playbook.auth.mailed_links import Database, drop_links, links, new_link

RESET: Final = "reset-password"  # the purpose of its links


def start_reset(
    db: Database,
    email: str,
    now: datetime,
    find_user: Callable[[Any, str], Any],
    lifetime: timedelta = timedelta(hours=1),
    table: sa.Table = links,
    **more: Any,
) -> str | None:
    """A token to mail to `email`, or None: nobody has this address. Older links end."""
    user_id = find_user(db, email)
    if user_id is None:
        return None
    drop_links(db, user_id, RESET, table=table)
    return new_link(db, RESET, user_id, email, now, lifetime, table=table, **more)


# %%
shop = Shop(lesson_url())
shop.join("ada")
print(shop.run(start_reset, "nobody@example.com", monday, find_user))

# %% [markdown]
"""
### Look and finish

Rules for passwords and a slow hash come between the two. A made-up token costs a
look-up and no hash. A refused password does not use the link up.

All other links of the user end with this one, also a thief's link for a change of
address. All sessions end too: whoever knew the old password may be signed in.
"""

# %% tags=["export"]
from playbook.auth.mailed_links import find_link, take_link


def find_reset(
    db: Database, token: str, now: datetime, table: sa.Table = links
) -> sa.Row[Any] | None:
    """The link of a token that is good now, or None. Nothing is used up."""
    return find_link(db, token, RESET, now, table)


def finish_reset(
    db: Database,
    token: str,
    password_hash: str,
    now: datetime,
    set_password: Callable[[Any, Any, str, str], bool],
    end_sessions: Callable[[Any, Any], object],
    table: sa.Table = links,
) -> sa.Row[Any] | None:
    """Take the link and set the password. None: nothing was set, ask for a new link."""
    link = take_link(db, token, RESET, now, table)
    if link is None or not set_password(db, link.user_id, link.email, password_hash):
        return None
    drop_links(db, link.user_id, table=table)
    end_sessions(db, link.user_id)
    return link


# %%
older = shop.run(start_reset, "ada@example.com", monday, find_user)
newer = shop.run(start_reset, "ada@example.com", monday, find_user)
for token in (older, newer):
    print(shop.run(find_reset, token, monday) is not None)

# %% [markdown]
"""
Ada has a link in her mailbox. Then she changes her address in the account, and somebody
else gets the old mailbox. Predict: what does the old link do?
"""

# %% tags=["predict"]
moved = users.update().values(email="ada@new.example")
shop.run(lambda db: db.execute(moved))
given = (newer, hash_password("mine now"), monday, set_password, end_sessions)
print(shop.run(finish_reset, *given))

# %% [markdown]
"""
A link proves the address of its mail. `set_password` compares it with the user's
address in the same statement that writes.

## See it work

`shop.later(job)` runs a job after the answer, like `BackgroundTasks.add_task` of
FastAPI or a queue.
"""

# %%
from playbook.auth.mailed_links import mailed_url

PAGE = "https://pantry.example/new-password"  # from a setting


def service(shop):
    app = FastAPI()

    @app.post("/forgot", status_code=202)
    def forgot(email: str = Body(embed=True)):
        def job():
            token = shop.run(start_reset, email, monday, find_user)
            if token is not None:
                shop.send(email, mailed_url(PAGE, token))

        shop.later(job)

    @app.post("/reset")
    def reset(token: str = Body(), password: str = Body()):
        done = None
        if shop.run(find_reset, token, monday) is not None:
            given = (token, hash_password(password), monday, set_password, end_sessions)
            done = shop.run(finish_reset, *given)
        if done is None:
            raise HTTPException(400, "ask for a new link")
        shop.send(done.email, "Your password was changed. If it was not you: ...")

    return app


# %%
after = attack(service)
rows = [(story, before[story], after[story]) for story in before]
show(table(rows, ["Mallory tries", "first version", "the recipe"]))

# %% [markdown]
"""
A link from a request needs a list of hosts that may be named. A link from a setting
needs nothing: the recipe never sees the request.

The reset signs nobody in. The new password is there to be used, and a second factor is
asked for then.

## On PostgreSQL

`fifty(url, service)` sends fifty requests with one token at once, each with a password
of its own. Predict: how many succeed on each engine? Is the stored password that of a
request that succeeded?
"""

# %% tags=["predict"]
here = fifty(lesson_url(), service)
there = on_postgres(fifty, service)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
On DuckDB most requests met a [conflict](../glossary.md#conflict), and `shop.run` ran
them again. On PostgreSQL they waited for the row first. By then the row was gone.

## Check it
"""

# %%
assert "pantry.example" in after["host header"], "a request chose where the link leads"
assert "same" in after["who has an account"], "an answer tells who has an account"
assert after["older link"] == "dead", "an older link works"
assert after["stolen session"] == "signed out", "a thief's session survives"
assert after["change of address"] == "dead", "Mallory takes over by a link"
assert here["succeeded"] == 1 and there in (here, None), "of fifty not one succeeded"
print("one link, one password, one way in; and nobody learns who has an account")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `drop_links(db, user_id, RESET, table=table)` | `pass` | an older link works |
| `end_sessions(db, link.user_id)` | `pass` | a thief's session survives |
| `drop_links(db, link.user_id, table=table)` | `pass` | Mallory takes over by a link |

## Your turn

A television shows a form, and the mail is on the phone: six digits to type. There are
only a million, so tries must be counted: a code is good for ten minutes and five tries,
also when many come at once.

Write `redeem`. It returns whether `code` is right, and a right code works once. The
table `codes` has the columns `user_id`, `code_hash`, `tries` and `expires_at`; it has
one row per user. `hidden(user_id, code)` gives what stands in `code_hash`. (It uses a
key: a thief of the table could hash a million codes in a second.) `transact(work)` runs
`work(db)` in one transaction and returns its value. After a conflict it runs it again.
"""


# %% tags=["exercise"]
def redeem(transact, codes, user_id, code, now):
    """Whether this is the user's code; at most five tries."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.password_reset import HINTS, check, hidden

check(redeem)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def redeem(transact, codes, user_id, code, now):
    mine = codes.c.user_id == user_id
    alive = [mine, codes.c.expires_at > now, codes.c.tries < 5]
    counted = codes.update().where(*alive).values(tries=codes.c.tries + 1)
    # Counted and committed before anything is compared: at once means one by one.
    stored = transact(lambda db: db.scalar(counted.returning(codes.c.code_hash)))
    if stored != hidden(user_id, code):
        return False
    taken = codes.delete().where(mine, codes.c.code_hash == stored)
    return transact(lambda db: db.scalar(taken.returning(codes.c.user_id))) is not None


assert check(redeem)

# %% [markdown]
"""
## Take it with you

`playbook lift password_reset INTO` copies the recipe with what it needs of the links,
and its tests. `playbook lift mailed_links INTO` adds their URL, form and cleanup.

| seam | what your project does |
|---|---|
| `find_user(db, email)` | returns an id as text, or None: nobody has this address |
| `set_password(db, id, email, hash)` | sets it, if the address is still theirs |
| `end_sessions(db, id)` | ends all sessions of the user |
| transaction, table, clock | as for the links |
| after the answer | runs `start_reset` and the mail in the background |
| rules and hash | between `find_reset` and `finish_reset`, outside of a transaction |

With customers, who have integer ids, and `Session`, a `sessionmaker`:

```python
def find_customer(session, email):
    customer = session.scalar(select(Customer).where(Customer.email == email))
    return None if customer is None else str(customer.id)


def set_password(session, customer_id, email, password_hash):
    customer = session.get(Customer, int(customer_id), with_for_update=True)
    if customer is None or customer.email != email:
        return False
    customer.password_hash = password_hash
    return True


def reset(token, password, now):
    with Session.begin() as session:
        if find_reset(session, token, now) is None:
            return False
    own = (hash_password(password), now, set_password, end_sessions)
    with Session.begin() as session:
        return finish_reset(session, token, *own) is not None
```

Traps:

- Limit the mails to one address, and give the same answer when it is too many.
- Tell the owner of each change, at the address of the account.
- A sign-in with the old password may be under way. It must write the row whose hash it
  compared, in the transaction that starts its session.
- The form of `PAGE` takes its token from behind `#`, as `FORM` of
  [mailed links](mailed_links.ipynb) does.
- [Sign in](sign_in.ipynb) refuses unknown networks during an attack. Call its
  `recognize` after `finish_reset`, or the owner stays outside.

Hand it over:

- **Reviewer**: search for `headers["host"]`, `base_url` and `url_for` near mails.
- **Security**: nothing that runs before the answer may depend on the address.
- **Front end**: show the same words for each address.
- **Tests**: keep "fifty at once, one success", on your engine.
- **Operations**: a reset that was asked for just before a crash is asked for again.

## In short

You can say how a genuine mail can carry a link to an attacker, and what ends that. You
can explain why the answer comes before the look-up. You know what else has to end when
a password is set.

## Sources

OWASP Forgot Password Cheat Sheet. OWASP ASVS 5.0: 6.3.7 (notices), 6.3.8 (enumeration),
6.4.2 (no questions), 6.4.3 (recovery), 7.4.3 (sessions). NIST SP 800-63B-4, 4.2. J.
Kettle, *Practical HTTP Host header attacks* (2013). RFC 9110, 7.2.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Sign in](sign_in.ipynb) · [course map](../index.ipynb) · Next: [Account changes](account_changes.ipynb)
"""
