# %% [markdown]
"""
# Account changes

Let people change address, password and account, so that a stolen session takes none
of them.

| | |
|---|---|
| **Use it when** | people change address or password themselves, or leave |
| **You need** | [mailed links](mailed_links.ipynb) (*code*) |
| **Time** | read 33 min, exercise 15 min |
| **Topics** | change e-mail, change password, re-authentication, account takeover |
| **Standard** | OWASP ASVS 5.0, 6.2.3, 6.3.7, 7.4.2, 7.4.3, 7.5.1 |

```python
from playbook.auth.account_changes import Yours, start_change
from playbook.auth.account_changes import approve_change, finish_change

yours = Yours(hold, find_user, set_address)  # functions of your project
step = start_change(db, user_id, new, now, yours)  # mail step.token to step.old
step = approve_change(db, token, now, yours)  # mail step.token to step.new
step = finish_change(db, token, now, yours)  # changed: tell step.old
```

*Lift: 122 lines in 3 files; needs sqlalchemy.*

## See it break

Ada wants another address. Mallory has a copy of Ada's session cookie, and does not know
the password.

`shop` stands for the service. `shop.run(function, ...)` calls `function(db, ...)` in
one transaction, and `shop.caller` is a dependency: who is signed in.
`unguarded(app, shop)` adds routes for password and deletion that want a session only.
`set_address` writes the new address.
"""

# %%
from fastapi import Body, Depends, FastAPI, HTTPException


def first_version(shop):
    app = FastAPI()
    unguarded(app, shop)

    @app.post("/email")
    def email(me=Depends(shop.caller), new: str = Body(embed=True)):
        shop.run(set_address, me.user_id, new)

    return app


# %% [markdown]
"""
Many packages mail a link to the new address, and change it on the click. Seven stories
try both ways:

- **Old session**: Ada signed in three hours ago. Mallory asks for an address of her
  own, opens its mails, and resets the password.
- **New session**: the same, one minute after the sign-in.
- **Mail filter**: the same, and a program clicks each link in Ada's mailbox. Then Ada
  sets a new password.
- **Copy of the cookie**: Ada sets a new password. Mallory goes on.
- **Password**: Mallory sets one.
- **Deletion**: three hours after the sign-in, Mallory deletes the account.
- **Typing error**: Ada mistypes the new address.

The folded cell defines `find_user(db, email)` and `set_address(db, user_id, new)`. It
imports `proving_service`, the second way, and `attack(make)`, which plays the stories.
It also imports `Shop`, `unguarded`, `side_by_side`, `drawn`, `carol_moves`, `MOVED`,
`rush`, `users`, `hash_password`, `end_sessions`, `partial`, `show`, `table`,
`lesson_url` and `on_postgres`. Predict: in which of the fourteen does nobody lose?
"""

# %% tags=["stage"]
from functools import partial

import sqlalchemy as sa

from playbook.auth.sessions import end_sessions
from playbook.exercises.auth.account_changes import (
    MOVED,
    Shop,
    attack,
    carol_moves,
    drawn,
    hash_password,
    proving_service,
    rush,
    side_by_side,
    unguarded,
    users,
)
from playbook.kit.lesson import lesson_url, on_postgres, show, table


def find_user(db, email):
    return db.scalar(sa.select(users.c.id).where(users.c.email == email))


def set_address(db, user_id, new):
    mine = users.update().where(users.c.id == user_id).values(email=new)
    db.execute(mine.returning(users.c.id))


# %% tags=["predict"]
ways = {
    "first version": attack(first_version),
    "new address proven": attack(partial(proving_service, set_address=set_address)),
}
show(side_by_side(ways))

# %% [markdown]
"""
Compare the two columns. Mallory can prove that an address of hers is hers.

A reset trusts whoever reads the mailbox. So the mailbox is the key to the account, and
its address deserves more care than the password.

## The decision

What must somebody show who asks for another address?

| option | good | costs |
|---|---|---|
| the session (Django, Flask: your own form) | one click | a cookie is enough |
| also the new mailbox (allauth) | no typing error | a thief has a mailbox, too |
| also a recent proof | a cookie is not enough | the password alone is |
| **also the old mailbox** | all three are needed | a lost mailbox needs a person |

We choose **all of them**. Use the new mailbox alone where people often lose the old
one, as with an employer; tell it in any case.

The proof (*re-authentication*) is a sign-in of the last ten minutes, or the password.

## Build it

### The proof, and what is yours

`check(password)` is yours, and so is what `Yours` holds. `hold(db, user_id)` returns
the address that the account has, and *writes* the user's row. Of two steps at the same
moment, one then comes after the other.
"""

# %% tags=["export"]
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from playbook.auth.mailed_links import Database, drop_links, links, new_link, take_link


def is_proven(
    since: datetime, now: datetime, password: str | None, check: Callable[[str], Any]
) -> bool:
    """Whether the password is right; without one, whether the sign-in is recent."""
    if password is not None:
        return bool(check(password))
    return now - since < timedelta(minutes=10)


@dataclass(frozen=True)
class Yours:
    """How the accounts of your project are read and written, and where links stand."""

    hold: Callable[[Any, Any], str | None]
    find_user: Callable[[Any, str], Any]
    set_address: Callable[[Any, Any, str], object]
    lifetime: timedelta = timedelta(hours=1)
    table: sa.Table = links


# %%
def hold(db, user_id):
    same = users.update().values(password_hash=users.c.password_hash)
    return db.scalar(same.where(users.c.id == user_id).returning(users.c.email))


shop, yours = Shop(lesson_url(), "ada", "bob"), Yours(hold, find_user, set_address)
for minutes, password in ((9, None), (10, None), (180, "old"), (1, "a guess")):
    then = shop.now - timedelta(minutes=minutes)
    print(minutes, password, is_proven(then, shop.now, password, "old".__eq__))

# %% [markdown]
"""
A wrong password is refused, however new the session is.

### The idea

Only the last of three steps writes the address. Each takes the link of the one before:

1. The request makes a link for the **old** mailbox.
2. The old mailbox approves, which makes a link for the **new** one.
3. The new mailbox is proven, and the address changes.
"""

# %% tags=["export"]
APPROVE: Final = "approve-email-change"  # the purpose of a link to the old address
PROVE: Final = "change-email"  # and of one to the new address


class Step(NamedTuple):
    """A step of a change. `token` is for a mail to the mailbox that is asked next."""

    old: str
    new: str
    token: str | None = None


def start_change(
    db: Database, user_id: Any, new: str, now: datetime, yours: Yours, **more: Any
) -> Step | None:
    """Ask the old mailbox. Older requests end. None: there is no such account.

    `more`: what `new_link` takes besides, such as columns of your table of links.
    """
    old = yours.hold(db, user_id)
    if old is None:
        return None
    drop_links(db, user_id, APPROVE, PROVE, table=yours.table)
    given = (APPROVE, user_id, new, now, yours.lifetime)
    return Step(old, new, new_link(db, *given, table=yours.table, **more))


# %%
step = shop.run(start_change, "ada", "bob@example.com", shop.now, yours)
print("to", step.old, "a link about", step.new)

# %% [markdown]
"""
### Approve

That address is Bob's, who has asked for nothing. Predict: what does he hear?
"""


# %% tags=["export"]
def approve_change(
    db: Database, token: str, now: datetime, yours: Yours, **more: Any
) -> Step | None:
    """The old mailbox agrees: ask the new one. `token` None: it is somebody's."""
    link = take_link(db, token, APPROVE, now, yours.table)
    old = None if link is None else yours.hold(db, link.user_id)
    if link is None or old is None:
        return None
    if yours.find_user(db, link.email) is not None:
        return Step(old, link.email)
    given = (PROVE, link.user_id, link.email, now, yours.lifetime)
    return Step(old, link.email, new_link(db, *given, table=yours.table, **more))


# %% tags=["predict"]
taken = shop.run(approve_change, step.token, shop.now, yours)
print(taken)

# %% [markdown]
"""
Look at the [token](../glossary.md#token). Ada's request was answered before, so she
learns nothing of Bob.

An old address that was never proven is not asked: a stranger may have signed up with
it. There, call `approve_change` at once, with the token of `start_change`.

### Finish

With the change go all links of the user: those in the old mailbox, too.
"""


# %% tags=["export"]
def finish_change(db: Database, token: str, now: datetime, yours: Yours) -> Step | None:
    """The new mailbox is proven: change. Raises IntegrityError if it was taken."""
    link = take_link(db, token, PROVE, now, yours.table)
    old = None if link is None else yours.hold(db, link.user_id)
    if link is None or old is None:
        return None
    yours.set_address(db, link.user_id, link.email)
    drop_links(db, link.user_id, table=yours.table)
    return Step(old, link.email)


# %%
step = shop.run(start_change, "ada", "ada@new.example", shop.now, yours)
step = shop.run(approve_change, step.token, shop.now, yours)
for _ in range(2):
    print(shop.run(finish_change, step.token, shop.now, yours))

# %% [markdown]
"""
### Password

To compare and to hash is slow: both come before the transaction, and a reset may be
quicker. So `replace(db)`, which is yours, stores the new hash only where the old one
still stands. A new password ends what somebody else may have begun.
"""


# %% tags=["export"]
def change_password(
    db: Database, user_id: Any, replace: Any, end_sessions: Any, table: sa.Table = links
) -> bool:
    """After `replace(db)`, end changes, resets, sessions. False: it stored nothing."""
    if not replace(db):
        return False
    drop_links(db, user_id, APPROVE, PROVE, "reset-password", table=table)
    end_sessions(db, user_id)
    return True


# %%
def replace_hash(db, user_id, old, new):
    mine = [users.c.id == user_id, users.c.password_hash == old]
    done = users.update().where(*mine).values(password_hash=new)
    return db.scalar(done.returning(users.c.id)) is not None


given = {"user_id": "bob", "new": hash_password("new")}
for old in ("of a reset", "old"):
    replace = partial(replace_hash, old=hash_password(old), **given)
    print(shop.run(change_password, "bob", replace, end_sessions))

# %% [markdown]
"""
### The walk

The folded cell defines `act(shop, step, tokens)`, which does a step. `drawn(act)` draws
what happened on six walks. The state is *approving* while the old mailbox has a
good link, and *proving* while the new one has. Predict: which arrows lead to *changed*?
"""


# %% tags=["stage"]
def act(shop, step, tokens):
    if step == "start_change":
        asked = shop.run(start_change, "ada", "ada@new.example", shop.now, yours)
        tokens["approve"] = asked.token
    elif step == "approve_change":
        asked = shop.run(approve_change, tokens["approve"], shop.now, yours)
        tokens["prove"] = asked.token if asked else tokens.get("prove")
    elif step == "finish_change":
        asked = shop.run(finish_change, tokens["prove"], shop.now, yours)
    else:
        asked = shop.run(change_password, "ada", lambda db: True, end_sessions)
    return asked


# %% tags=["predict"]
diagram, arrows = drawn(act)
show(diagram)

# %% [markdown]
"""
Follow the arrows back from *changed*: they lead through both mailboxes.

## See it work

The folded cell defines `proof(shop, me, password)`, which answers 403 unless
`is_proven`, and `account_routes(app, shop)`:

- `/password` compares the old one, calls `change_password`, and starts a new session
  for the caller. So a copy of the cookie is of an ended one.
- `/delete` wants the proof. One transaction deletes links, sessions and user.
"""


# %% tags=["stage"]
def proof(shop, me, password):
    check = partial(shop.is_password, me.user_id)
    if not is_proven(me.signed_in_at, shop.now, password, check):
        raise HTTPException(403, "sign in again, or send the password")


def account_routes(app, shop):
    @app.post("/password")
    def password(me=Depends(shop.caller), old: str = Body(), new: str = Body()):
        hashes = {"old": hash_password(old), "new": hash_password(new)}
        replace = partial(replace_hash, user_id=me.user_id, **hashes)

        def work(db):
            done = change_password(db, me.user_id, replace, end_sessions)
            return shop.renewed(db, me) if done else None

        session = shop.is_password(me.user_id, old) and shop.run(work)
        if not session:
            raise HTTPException(403, "this is not the present password")
        return {"session": session}

    @app.post("/delete")
    def delete(me=Depends(shop.caller), password=Body(None, embed=True)):
        proof(shop, me, password)

        def work(db):
            drop_links(db, me.user_id)
            end_sessions(db, me.user_id)
            db.execute(users.delete().where(users.c.id == me.user_id))

        shop.run(work)


# %%
def service(shop):
    app = FastAPI()
    account_routes(app, shop)

    @app.post("/email", status_code=202)
    def email(me=Depends(shop.caller), new: str = Body(), password=Body(None)):
        proof(shop, me, password)
        step = shop.run(start_change, me.user_id, new, shop.now, yours)
        shop.mail(step.old, "approve", step.token, f"Change the address to {new}?")

    @app.post("/approve")
    def approve(token: str = Body(embed=True)):
        step = shop.run(approve_change, token, shop.now, yours)
        if step is not None and step.token is not None:
            shop.mail(step.new, "prove", step.token)

    @app.post("/prove")
    def prove(token: str = Body(embed=True)):
        try:
            step = shop.run(finish_change, token, shop.now, yours)
        except sa.exc.IntegrityError:
            step = None
        if step is None:
            raise HTTPException(400, "ask again")
        shop.tell(step.old, "Your account has another address. Not you? Write to us.")

    return app


# %% [markdown]
"""
Carol changes her address. Predict: which is it after each step, and who got the last
mail?
"""

# %% tags=["predict"]
moves = carol_moves(service)
show(table(moves, ["after", "address", "last mail to"]))

# %%
ways["the recipe"] = attack(service)
show(side_by_side(ways))

# %% [markdown]
"""
After the mail filter, Ada's new password ended the change. So the first mail should
say: "Not you? Set a new password."

## On PostgreSQL

An address can be free at the second step and taken at the third. In `rush(url,
service)` Ada and Bob want one address, and both have a link to it. Each is used ten
times at once. Predict: how many requests succeed?
"""

# %% tags=["predict"]
here = rush(lesson_url(), service)
there = on_postgres(rush, service)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
The [unique index](../glossary.md#unique-index) refused the slower one. Its transaction
was undone.

## Check it
"""

# %%
ours = ways["the recipe"]
assert [row[1] for row in moves] == MOVED, "it changed before the confirmation"
old = {ours["old session"], ours["deletion"]}
assert old == {"no: refused"}, "an old session is proof enough"
assert ours["mail filter"] != "taken over", "a change outlives Ada's new password"
assert ours["copy of the cookie"] == "no: signed out", "a copy of the cookie survives"
assert taken.token is None, "a mail to somebody who asked for nothing"
once = {"succeeded": 1, "refused": 19, "accounts with it": 1}
assert here == once and there in (once, None), "two accounts have one address"
print("a cookie alone changes nothing, and nothing changes before both mailboxes")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `(minutes=10)` | `(hours=9)` | an old session is proof enough |
| `APPROVE, PROVE, "reset-password"` | `""` | a change outlives Ada's new password |
| `end_sessions(db, user_id)` | `pass` | a copy of the cookie survives |

## Your turn

The notice to the old address shall hold a link that undoes the change, for seven days.
At each change the service calls `new_link(db, "undo", user_id, old, now, seven_days,
table=undos)`; `undos` has the columns of `links`.

Write `undo`. It returns whether the account has the address of that link again; if not,
nothing has changed. Nothing stays that Mallory set up. (A user whose `password_hash` is
NULL resets the password.)

Mallory had the account for three days. She set a password, stayed signed in and asked
for further changes. She also moved on to a second address: so her *first* one was sent
an undo link, too.
"""


# %% tags=["exercise"]
def undo(db, users, undos, token, now, end_sessions):
    """Whether the account of this undo link has its address of before again."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.account_changes import HINTS, check

check(undo)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None or find_user(db, link.email) is not None:
        return False
    # Older links lead to whoever had the account earlier: they stay.
    mine = undos.c.user_id == link.user_id
    db.execute(undos.delete().where(mine, undos.c.created_at > link.created_at))
    drop_links(db, link.user_id)
    back = users.update().where(users.c.id == link.user_id)
    db.execute(back.values(email=link.email, password_hash=None))
    end_sessions(db, link.user_id)
    return True


assert check(undo)

# %% [markdown]
"""
## Take it with you

`playbook lift account_changes INTO` copies recipe and tests. `playbook lift
mailed_links INTO` adds URL, form and cleanup of the links.

| seam | what your project does |
|---|---|
| `hold(db, id)` | writes or locks the user's row; the address, or None |
| `find_user(db, email)` | an id, or None: nobody has this address |
| `set_address(db, id, new)` | sets it, as proven; a unique index refuses a taken one |
| `replace(db)` | stores the new hash, if the old one still stands; says whether |
| `end_sessions(db, id)` | ends all; then start a new one for the caller |
| `check(password)` | compares; counts tries by **session**, or Mallory uses up Ada's |
| ids, transaction, table, clock | as for the links; ids are text |

With `Session`, a `sessionmaker`, your `find_customer(session, email)`, and customers
with integer ids, so that `start_change` gets `str(customer.id)`:

```python
def hold(session, customer_id):
    customer = session.get(Customer, int(customer_id), with_for_update=True)
    return None if customer is None else customer.email


def set_address(session, customer_id, new):
    session.get(Customer, int(customer_id)).email = new
    session.flush()  # a taken address is refused here


yours = Yours(hold, find_customer, set_address)


def prove(token, now):
    try:
        with Session.begin() as session:
            return finish_change(session, token, now, yours)
    except IntegrityError:
        return None  # somebody was quicker with this address
```

Traps:

- Limit the requests: this route mails to any address.
- A session can end while a password is compared. Look again in the transaction.
- A session younger than ten minutes can delete the account. If that is final, ask for
  the password.
- Before a deletion, ask what is left alone, like a team without an owner.

Hand it over:

- **Reviewer**: only `set_address` may write `email`; look at the route for the name.
- **Front end**: on 403 ask for the password. Then say "if the address can be used, a
  mail is on its way".
- **Operations**: "write to us" needs a rule how people prove who they are.
- **Tests**: keep "unchanged after each step but the last".

## In short

You can say why an address deserves more care than a password, and why proving the new
one stops no thief. You know what a new password must end.

## Sources

OWASP ASVS 5.0: 6.2.3 (present password), 6.3.7 (notices), 7.4.2, 7.4.3 (sessions),
7.5.1 (re-authentication). NIST SP 800-63B-4, 4.6. OWASP Authentication Cheat Sheet.
A. Sudhodanan and A. Paverd, *Pre-hijacked accounts* (USENIX Security 2022).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Password reset](password_reset.ipynb) · [course map](../index.ipynb) · Next: [Organizations](organizations.ipynb)
"""
