# %% [markdown]
"""
# Organizations

Let people share what they work on: they join by invitation, each has a role, and one
owner always stays.

| | |
|---|---|
| **Use it when** | people work in teams, and one of them invites another |
| **You need** | [engines](../foundations/engines.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | member, role, invitation, last owner, write skew |
| **Standard** | OWASP ASVS 5.0, 8.2.1, 8.2.2, 8.3.2 |

```python
from playbook.auth.organizations import accept, invite, set_role

token = invite(db, "acme", email, "admin", "ada", expires_at)  # for one mail
accept(db, token, "bob", proven_address, now)  # Bob is an admin
set_role(db, "acme", "bob", "owner", by="ada")  # and None: Bob goes
```

*Lift: 122 lines in 3 files; needs sqlalchemy.*

## See it break

Ada owns the organization Acme. She invites `bob@example.com` to be an admin, and the
service mails him a link with a random [token](../glossary.md#token). Four stories:

- **Bob** opens the link, signed in with the invited address.
- **Forwarded**: Bob sends the mail on. Mallory opens the link, signed in as herself.
- **First**: Bob has no account yet. Mallory signs up with his address, which she cannot
  prove. The service shows her the open invitations of that address, with the links.
- **Removed**: Mallory is an admin. She invites a second address of hers. Ada removes
  her. Then she accepts with that address.

The folded cell imports `naive(rule)`, a service with this rule, and `play`, which
returns who came into Acme in each story. It also imports what later cells use:
`both_leave`, `owners_of`, `remove`, `founded`, `tried`, `matrix`, `lesson_url`,
`on_postgres`, `show` and `table`. It defines the times `monday` and `day`. Below it are
two usual rules. Predict: in which of the eight cases does Mallory get in?
"""

# %% tags=["stage"]
from datetime import UTC, datetime, timedelta

from playbook.exercises.auth.organizations import (
    both_leave,
    founded,
    matrix,
    naive,
    owners_of,
    play,
    remove,
    tried,
)
from playbook.kit.lesson import lesson_url, on_postgres, show, table

monday = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
day = timedelta(days=1)


# %% tags=["predict"]
def the_link(invitation, user):
    return True


def the_address(invitation, user):
    return invitation.email == user.email


ways = {rule.__name__: play(naive(rule)) for rule in (the_link, the_address)}
show(table([{"rule": name} | ends for name, ends in ways.items()]))

# %% [markdown]
"""
An address in an account is only what somebody typed. An invitation outlives the rights
of the person who sent it.

The second failure: Ada and Bob both own Acme, and both leave at the same moment.
`owners_of` reads who the owners are. `remove` deletes a member and returns "has left".
`both_leave(url, leave)` calls `leave` for both, in two transactions. In `meet`, each
waits until both are there. Predict: what are the two told, and how many owners are
left?
"""


# %% tags=["predict"]
def leave(db, name, meet):
    owners = owners_of(db)
    meet()
    return "the last owner stays" if owners == [name] else remove(db, name)


print(both_leave(lesson_url(), leave))

# %% [markdown]
"""
Each read that there are two owners, and each deleted a row of its own. That is [write
skew](../glossary.md#write-skew). Only an owner could make another one.

## The decision

What makes somebody a member?

| option | good | costs |
|---|---|---|
| the link alone | works with any account | works for any account |
| every account of a domain | no invitations | also who has left the company |
| an admin adds accounts | no mail | nobody has agreed |
| **link and proven address** | the right person, who agrees | they sign up first |

How does one owner stay?

| option | good | costs |
|---|---|---|
| count, then delete | simple | fails for two at once |
| a column `owner_id` | always one | only one owner; on holiday? |
| [SERIALIZABLE](../glossary.md#serializable) | no code | not on DuckDB |
| **write all owners' rows** | one statement | changes of owners wait |

We choose **link and proven address**, and **several owners whose rows are written
together**. Choose `owner_id` where one person signs the contract. Django's groups have
no invitations; django-organizations has one owner.

## Build it

### The tables

Both tables refer to your organizations and users by id. There is at most one invitation
for each organization and address. As on [mailed links](mailed_links.ipynb), the table
holds a hash of the token.
"""

# %% tags=["export"]
import sqlalchemy as sa

from playbook.foundations.engines import Timestamp

metadata = sa.MetaData()
members = sa.Table(
    "members",
    metadata,
    sa.Column("organization_id", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
)
invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("organization_id", sa.String, primary_key=True),
    sa.Column("email", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("inviter_id", sa.String, nullable=False),
    sa.Column("token_hash", sa.String, nullable=False, unique=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
)

# %% [markdown]
"""
The folded cell makes an `engine` with these tables and Ada's Acme:
"""

# %% tags=["stage"]
engine = founded(metadata)
with engine.connect() as db:
    show(table([row._mapping for row in db.execute(sa.select(members))]))

# %% [markdown]
"""
### Who may manage whom

The roles are member, admin and owner; each may do what those before it may. An admin
invites, changes and removes, but nobody above their own role. Otherwise an admin makes
a friend owner, who makes the admin owner. Predict: which of the four in `asked` may do
it?
"""

# %% tags=["export"]
ROLES = ("member", "admin", "owner")  # each may do what those before it may


class Refused(Exception):
    """The rules do not allow it: roll back."""


class LastOwner(Refused):
    """The organization would have no owner."""


def may_manage(own: str | None, *others: str) -> bool:
    """Whether `own` may give, change and take the roles `others`, which exist."""
    ranks = [ROLES.index(role) for role in others]
    return own in ("admin", "owner") and max(ranks) <= ROLES.index(own)


# %% tags=["predict"]
asked = [("admin", "admin"), ("admin", "owner"), ("member", "member"), (None, "member")]
print([may_manage(own, other) for own, other in asked])

# %% [markdown]
"""
### The idea: hold the roles

A rule that reads several rows is safe if the transaction also **writes** them. Of two
transactions that write one row, one fails or waits. `hold_roles` writes each role as it
was. It returns the roles of the people in question and of all owners.
"""

# %% tags=["export"]
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import orm

Database = sa.Connection | orm.Session
Tables = Mapping[str, sa.Table]  # with "members" and "invitations"


def hold_roles(
    db: Database, tables: Tables, organization_id: Any, *user_ids: Any
) -> dict[Any, str]:
    """The roles of these users and of all owners. The rows stay until the commit."""
    rows = tables["members"]
    some = sa.or_(rows.c.role == "owner", rows.c.user_id.in_(user_ids))
    same = rows.update().where(rows.c.organization_id == organization_id, some)
    held = same.values(role=rows.c.role).returning(rows.c.user_id, rows.c.role)
    return {user_id: role for user_id, role in db.execute(held)}


# %%
with engine.begin() as db:
    print(hold_roles(db, metadata.tables, "acme", "bob"))

# %% [markdown]
"""
### Invite

A second invitation replaces the first, whose token is dead. No admin may replace an
offer of the role owner. `more` are columns that only your table has.
"""

# %% tags=["export"]
from playbook.foundations.clock_and_identifiers import hash_token


def invite(
    db: Database,
    organization_id: Any,
    email: str,
    role: str,
    by: Any,
    expires_at: datetime,
    make_token: Callable[[], str] = secrets.token_urlsafe,
    tables: Tables = metadata.tables,
    **more: Any,
) -> str:
    """The token for one mail to `email`, in its stored form. Raises Refused."""
    token, rows = make_token(), tables["invitations"]
    key = {"organization_id": organization_id, "email": email}
    own = hold_roles(db, tables, organization_id, by).get(by)
    offer = sa.select(rows.c.role).filter_by(**key, status="pending")
    if not may_manage(own, role, db.scalar(offer) or role):
        raise Refused(f"may not invite: {role}")
    new = {"role": role, "inviter_id": by, "token_hash": hash_token(token)}
    new |= {"status": "pending", "expires_at": expires_at}
    again = rows.update().filter_by(**key).values(new).returning(rows.c.email)
    if db.execute(again).first() is None:
        db.execute(rows.insert().values(key | new | more))
    return token


# %%
given = ("acme", "bob@example.com", "admin", "ada", monday + 2 * day)
with engine.begin() as db:
    old, token = invite(db, *given), invite(db, *given)
    print(len(db.execute(sa.select(invitations)).all()), old == token)

# %% [markdown]
"""
### Accept

One UPDATE finds the invitation and marks it. Its conditions are the rule: the token, an
address that the caller has **proven**, the status and the time. Then the inviter's role
must still allow it.
"""


# %% tags=["export"]
def accept(
    db: Database,
    token: str,
    user_id: Any,
    proven: str | None,
    now: datetime,
    tables: Tables = metadata.tables,
    **more: Any,
) -> Any:
    """Make the user of `proven` a member. Returns the invitation, or raises Refused."""
    rows = tables["invitations"]
    mine = rows.update().filter_by(token_hash=hash_token(token), email=proven)
    good = mine.where(rows.c.status == "pending", rows.c.expires_at > now)
    taken = good.values(status="accepted").returning(*rows.c)
    if (row := db.execute(taken).one_or_none()) is None:
        raise Refused("no invitation that is good, for this address")
    roles = hold_roles(db, tables, row.organization_id, row.inviter_id, user_id)
    if not may_manage(roles.get(row.inviter_id), row.role):
        raise Refused("the inviter may not invite any more")
    if user_id in roles:
        raise Refused("a member already")
    new = {"organization_id": row.organization_id, "user_id": user_id}
    db.execute(tables["members"].insert().values(new | {"role": row.role} | more))
    return row


# %% [markdown]
"""
The same stories. `user.verified` says whether the account has proven its address.
Predict: who gets in?
"""


# %% tags=["predict"]
def with_recipe(db, token, user, now):
    proven = user.email if user.verified else None
    accept(db, token, user.id, proven, now)


ways["recipe"] = play(with_recipe)
show(table([{"rule": name} | ends for name, ends in ways.items()]))

# %% [markdown]
"""
### Change, remove, leave

One function does all three, under one rule. It computes the roles as they would be, and
looks for an owner among them. The role None takes a member out. Everybody may do that
to themselves.
"""


# %% tags=["export"]
def set_role(
    db: Database,
    organization_id: Any,
    user_id: Any,
    role: str | None,
    by: Any,
    tables: Tables = metadata.tables,
) -> None:
    """Give a member a role, or None: they go. Raises Refused or LastOwner."""
    roles = hold_roles(db, tables, organization_id, user_id, by)
    old = roles.get(user_id)
    wanted = [name for name in (old, role) if name is not None]
    leaves = role is None and by == user_id
    if old is None or not (leaves or may_manage(roles.get(by), *wanted)):
        raise Refused(f"may not make {old or 'a stranger'} {role}")
    if "owner" not in (roles | {user_id: role}).values():
        raise LastOwner("another owner is needed first")
    rows = tables["members"]
    change = rows.delete() if role is None else rows.update().values(role=role)
    db.execute(change.filter_by(organization_id=organization_id, user_id=user_id))


# %% [markdown]
"""
Bob accepts, and is an admin of Ada's Acme. `tried` calls `set_role` and returns what
came of it. The fourth step is the second again. Predict: what does each return?
"""

# %% tags=["predict"]
with engine.begin() as db:
    accept(db, token, "bob", "bob@example.com", monday)
steps = [("ada", "member", "bob"), ("ada", None, "ada"), ("bob", "owner", "ada")]
for user, role, by in [*steps, steps[1]]:
    print(f"{by} makes {user} {role}:", tried(engine, set_role, user, role, by))

# %% [markdown]
"""
## See it work

`matrix(set_role, invite)` serves Acme over HTTP. Ada is its only owner, Tom a
member. An owner, an admin, a member and a stranger try seven calls, each on a new Acme:
invite a member or an owner, make Tom admin or owner, remove Tom, remove Ada, leave. The
status 204 means done, 403 `Refused`, 409 `LastOwner`. Predict: which statuses does the
admin get?
"""

# %% tags=["predict"]
statuses = matrix(set_role, invite)
show(table(statuses))

# %% [markdown]
"""
## On PostgreSQL

Ada and Bob leave at once, now with the recipe. Both transactions write the rows of both
owners. On DuckDB, and on PostgreSQL above READ COMMITTED, one of
them has a [conflict](../glossary.md#conflict), and `both_leave` runs it again. At READ
COMMITTED, PostgreSQL's default, it waits, and then reads the rows as they are now.
Predict: what are they told?
"""


# %% tags=["predict"]
def leave_by_rule(db, name, meet):
    meet()
    set_role(db, "acme", name, None, by=name)
    return "has left"


here = both_leave(lesson_url(), leave_by_rule)
there = on_postgres(both_leave, leave_by_rule)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
## Check it
"""

# %%
ours, admin = ways["recipe"], [row["admin"] for row in statuses]
assert ours["Bob"] == "Bob", "the person who was invited is refused"
assert ours["forwarded"] == ours["first"] == "nobody", "not the invited person is in"
assert ours["removed"] == "nobody", "a removed admin is back"
assert admin == [204, 403, 204, 403, 204, 403, 204], "an admin may more, or less"
assert here["owners left"] == 1 and there in (here, None), "two owners left at once"
print("who was invited is in, and an owner stays")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `, email=proven)` | `)` | not the invited person is in |
| `(roles.get(row.inviter_id), ` | `("owner", ` | a removed admin is back |
| `"owner" not in (roles` | `"king" in (roles` | two owners left at once |

## Your turn

Ada wants to give Acme to Bob. Write `hand_over`: `to` becomes owner, and `by`, who was
an owner, becomes admin. It raises `Refused` if `by` is no owner, if `to` is no member,
and if both are the same person. Ada may click twice, and choose Bob and then Carl: only
one of them becomes owner. It runs in a transaction, on PostgreSQL at READ COMMITTED.
"""


# %% tags=["exercise"]
def hand_over(db, organization_id, to, by):
    """Give the organization to another member, who becomes its owner."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.organizations import HINTS, check

check(hand_over)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def hand_over(db, organization_id, to, by):
    if to == by:
        raise Refused("you have it already")
    # The first call holds the rows of all owners, so a second request waits or fails.
    set_role(db, organization_id, to, "owner", by=by)
    set_role(db, organization_id, by, "admin", by=by)


assert check(hand_over)

# %% [markdown]
"""
## Take it with you

`playbook lift organizations INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| transaction | `Connection` or `Session`; rolls back on `Refused`, retries conflicts |
| tables | `metadata.create_all`; or yours, `tables=Base.metadata.tables` |
| ids | passes `str(user.id)`; deletes the rows of a deleted organization |
| role | lets a request name only `ROLES`; another raises ValueError |
| founder | inserts the first member, an owner, with the organization |
| address | passes it as stored, in lower case; `proven=None` until it is proven |
| mail | mails the token behind `#`: `playbook lift mailed_links` |
| each request | reads the caller's role, never a copy in a cookie |
| cleanup | `DELETE FROM invitations WHERE expires_at <= now()` once a day |

With users that have integer ids:

```python
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    confirmed: Mapped[bool]


def join(session, token, user, now):
    proven = user.email.lower() if user.confirmed else None
    try:
        row = accept(session, token, str(user.id), proven, now)
    except Refused:
        session.rollback()
        return None  # 403 Forbidden
    session.commit()
    return row.organization_id
```

Traps:

- **Mail to anybody.** Invitations are mail: limit them, `playbook lift throttling`.
- **Withdraw.** The recipe has no call: ask `may_manage`, then delete the row.
- **A deleted user** may be the last owner: first let them leave by `set_role`.
- **A deleted organization** can get a member meanwhile. Without foreign keys, write its
  row in both transactions, see [write_skew](../foundations/write_skew.ipynb).

Hand it over:

- **Security**: `tests/test_organizations.py` has each role against each call.
- **Reviewer**: no `UPDATE members` outside of the recipe.
- **Front end**: no answer has the link of an open invitation; only the mail has it.
- **Operations**: an organization without an owner is an alarm.

## In short

You can say what an invitation proves, and what the account must prove. You can explain
how a rule over several rows holds when two requests come at once. You know why an admin
cannot make an owner.

## Sources

OWASP ASVS 5.0, 8.2 and 8.3. OWASP Authorization Cheat Sheet. CWE-269, CWE-367. A.
Fekete et al., *Making Snapshot Isolation Serializable* (2005). Better Auth, plugin
"Organization".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Account changes](account_changes.ipynb) · [course map](../index.ipynb) · Next: [Authorization](authorization.ipynb)
"""
