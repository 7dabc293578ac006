# %% [markdown]
"""
# Identity

Model people so that a new address, a second spelling and two sign-ups at once do no
harm.

| | |
|---|---|
| **Use it when** | you design a table of users, or other tables refer to an address |
| **You need** | [engines](../foundations/engines.ipynb) (*code*) |
| **Time** | read 35 min, exercise 15 min |
| **Topics** | user, account, organization, natural key, surrogate key, unique index |
| **Standard** | RFC 5321 (2.4); OWASP ASVS 5.0 (6.2) |

```python
from playbook.schema.identity import EmailTaken, add_user

clock = SystemClock()  # `playbook lift clock_and_identifiers INTO` brings it
ids = Identifiers(clock)  # one per process
with Session(engine, expire_on_commit=False) as db, db.begin():
    maria = add_user(db, clock, ids, email, name)
```

*Lift: 146 lines in 3 files; needs sqlalchemy.*

## See it break

Many services use the e-mail address as the **primary key**: the column that names a
row, and that other tables refer to. Here the table `admins` says who may change the
organization Acme. Maria Weber joins, and later she marries. Then Martin Weber comes to
Acme, and gets the address that is free.

The folded cell imports `sa` and `run_steps`, which runs SQL. After each step it joins
`users` and `admins`, and shows who is admin. For later it imports `two_at_once`,
`er_diagram`, `lesson_url`, `on_postgres` and `show`. Predict: who is admin after each
step?
"""

# %% tags=["stage"]
import sqlalchemy as sa

from playbook.exercises.schema.identity import run_steps, two_at_once
from playbook.kit.lesson import er_diagram, lesson_url, on_postgres, show

# %% tags=["predict"]
by_email = run_steps(
    "CREATE TABLE users (email VARCHAR PRIMARY KEY, name VARCHAR)",
    "CREATE TABLE admins (email VARCHAR)",
    "INSERT INTO users VALUES ('weber@acme.example', 'Maria')",
    "INSERT INTO admins VALUES ('weber@acme.example')",
    "UPDATE users SET email = 'rossi@acme.example' WHERE name = 'Maria'",
    "INSERT INTO users VALUES ('weber@acme.example', 'Martin')",
)

# %% [markdown]
"""
The rights stayed with the address, and the address went to Martin. A foreign key would
refuse Maria's new address. With `ON UPDATE CASCADE`, the database changes all tables,
but no log, no export and no other service.

The second failure takes two requests. `people` has an `id` as its key, so this sign-up
looks first whether the address is taken. Maria signs up on her phone. The answer is
slow, so she does it on her laptop too. `two_at_once` runs the laptop's transaction as
`meanwhile`, in the middle of the phone's. Predict: what is each of them told?
"""

# %% tags=["predict"]
columns = [sa.Column("id", sa.Integer), sa.Column("email", sa.String)]
people = sa.Table("people", sa.MetaData(), *columns)


def look_then_insert(db, number, meanwhile):
    taken = db.scalar(sa.select(people.c.id).where(people.c.email == "rossi@x.example"))
    meanwhile()
    if taken:
        return "taken"
    db.execute(people.insert().values(id=number, email="rossi@x.example"))
    return "created"


print(two_at_once(lesson_url(), people, look_then_insert, timeline=True), "rows")

# %% [markdown]
"""
Both looked before one of them had inserted. The two transactions wrote different rows,
so even [snapshot isolation](../glossary.md#snapshot-isolation) sees no
[conflict](../glossary.md#conflict). Only a **unique index** compares the rows.

## The decision

What names a person?

| option | good | costs |
|---|---|---|
| the e-mail address | no join to show it | it changes, and goes to others |
| a serial number | small | shows how many users you have |
| **a UUID, address unique** | never changes, made anywhere | a join to show a name |
| Django's `User` | comes with sign-in | `email` is not unique |

Where is the password?

| option | good | costs |
|---|---|---|
| a column of the user | one table | each other way to sign in is a new column |
| **a row of `accounts`** | a way to sign in is a row | a join at sign-in |

We choose a **UUID** and **accounts**. Choose a [natural
key](../glossary.md#natural-key) (one that means something) when an authority gives it
out and never takes it back, as ISO does with currencies.

## Build it

### The idea

The key means nothing (a **surrogate key**), so it never has to change. The address is a
value with a unique index. These are the same steps with an `id`:
"""

# %%
by_id = run_steps(
    "CREATE TABLE users (id INTEGER PRIMARY KEY, email VARCHAR UNIQUE, name VARCHAR)",
    "CREATE TABLE admins (id INTEGER)",
    "INSERT INTO users VALUES (1, 'weber@acme.example', 'Maria')",
    "INSERT INTO admins VALUES (1)",
    "UPDATE users SET email = 'rossi@acme.example' WHERE id = 1",
    "INSERT INTO users VALUES (2, 'weber@acme.example', 'Martin')",
)

# %% [markdown]
"""
### One spelling

An index compares letters, so one address needs one spelling. `normal_email` makes it
lower case, because to every large provider `Maria@` and `maria@` are one mailbox. It
keeps dots and `+tags`: at some providers these are other mailboxes. A wrong guess would
give an account to somebody else.

Unicode can write `ä` as one character or as two, an `a` and two dots. The form
[NFC](../glossary.md#unicode-normalization) has one. Predict: what do the four texts in
the second cell become?
"""

# %% tags=["export"]
import unicodedata

EMAIL_LIMIT = 254  # characters, RFC 5321 4.5.3.1.3 without the angle brackets


def normal_email(text: str) -> str:
    """An address as it is stored and compared: NFC, lower case, no space around it.

    Raises ValueError for no address. Only a mail can tell whether it exists.
    """
    address = unicodedata.normalize("NFC", text).strip().lower()
    local, _, domain = address.rpartition("@")
    whole = local and "." in domain.strip(".") and len(address) <= EMAIL_LIMIT
    clean = address.isprintable() and " " not in address and "@" not in local
    if not (whole and clean):
        raise ValueError("not an e-mail address")
    return address


# %% tags=["predict"]
typed = [" Maria+home@Acme.Example", "a\u0308@acme.example", "maria@acme", "a@b@c.d"]
for text in typed:
    try:
        address = normal_email(text)
        print(len(text), "->", len(address), address)
    except ValueError as error:
        print(text, error)

# %% [markdown]
"""
### A person

`users` holds no secret.
"""

# %% tags=["export"]
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.engines import Base


class User(Base):
    """A person. `email` is stored as `normal_email` gives it."""

    __tablename__ = "users"
    __table_args__ = (
        sa.Index(None, "email", unique=True),
        sa.CheckConstraint("email = lower(email)", "email_lower"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    email_verified: Mapped[bool] = mapped_column(default=False)
    image: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# %% [markdown]
"""
The folded cell makes `engine`, and `clock` and `ids` that give the same values in each
run. It imports `transaction` and defines three functions. `new(model, ...)` makes a row
with an id and the time of `clock`. `add(engine, row)` and `sign_up(engine, email)`
write. They return "added" and the new user, or the name of the error. Predict: what
becomes of the row in the next cell?
"""

# %% tags=["stage"]
from datetime import UTC

from playbook.foundations.clock_and_identifiers import (
    FixedClock,
    Identifiers,
    SeededBytes,
)
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction

engine = make_engine(lesson_url())
clock = FixedClock(datetime(2026, 11, 2, tzinfo=UTC))
ids = Identifiers(clock, SeededBytes(1))


def new(model, **values):
    times = {"created_at", "updated_at"} & set(model.__table__.columns.keys())
    return model(id=ids.new(), **dict.fromkeys(times, clock.now()), **values)


def told(engine, work):
    try:
        return transaction(engine, work)
    except (sa.exc.IntegrityError, ValueError) as error:
        return type(error).__name__


def add(engine, row):
    return told(engine, lambda db: db.merge(row).id and "added")


def sign_up(engine, email, name="Maria"):
    return told(engine, lambda db: add_user(db, clock, ids, email, name))


# %% tags=["predict"]
Base.metadata.create_all(engine)
print(add(engine, new(User, name="Maria", email="Weber@acme.example")))

# %% [markdown]
"""
The `CHECK` catches code that forgot `normal_email`.

`add_user` does not look first: that would cost a statement and decide nothing. It
inserts, and translates what the index says. Another refusal, such as a missing value,
is no taken address, and is raised as it is. `more` is for columns that you add.
"""

# %% tags=["export"]
from typing import Any

from sqlalchemy.orm import Session

from playbook.foundations.clock_and_identifiers import Clock, Identifiers


class EmailTaken(ValueError):
    """Another user has this address."""


def add_user(
    db: Session, clock: Clock, ids: Identifiers, email: str, name: str, **more: Any
) -> User:
    """A new user. Raises EmailTaken, or ValueError for no address: then roll back."""
    now = clock.now()
    values = {"id": ids.new(), "created_at": now, "updated_at": now, "name": name}
    address = normal_email(email)
    user = User(email=address, **values, **more)
    db.add(user)
    try:
        db.flush()
    except sa.exc.IntegrityError as error:
        said = str(error.orig).partition("\n")[0]
        if "email" not in said and address not in said:
            raise
        raise EmailTaken("another user has this address") from None
    return user


# %%
maria = sign_up(engine, "weber@acme.example")
print(maria.id, maria.created_at)
print(sign_up(engine, " Weber@Acme.example"), sign_up(engine, "weber"))

# %% [markdown]
"""
### The ways in

Each way to sign in is a row. `provider` is the name of another service, with the
person's id there. For a password it is `"credential"`, with the hash, and with the
user's own id as `provider_account_id`. One GitHub account opens one user.
"""


# %% tags=["export"]
class Account(Base):
    """One way to sign in. `provider_account_id`: the person's id at the provider."""

    __tablename__ = "accounts"
    __table_args__ = (sa.Index(None, "provider", "provider_account_id", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    provider: Mapped[str]
    provider_account_id: Mapped[str]
    password_hash: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# %%
Base.metadata.create_all(engine)
martin = sign_up(engine, "martin@acme.example")
their_id = {"provider": "github", "provider_account_id": "7"}
accounts = [new(Account, user_id=user.id, **their_id) for user in (maria, martin)]
github = [add(engine, account) for account in accounts]
print(github)

# %% [markdown]
"""
### Organizations

A member is a row, so a person may belong to many organizations, with one role in each.
`version` counts the changes of an organization **and of its members**. A rule such as
"one owner stays" is read from several rows, so whoever changes a member changes this
one row, too (see [write skew](../foundations/write_skew.ipynb)).
"""

# %% tags=["export"]
ROLES = ("member", "admin", "owner")  # each may do what those before it may


class Organization(Base):
    """What people work for together. `slug` is its name in URLs."""

    __tablename__ = "organizations"
    __table_args__ = (sa.Index(None, "slug", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# %% tags=["export"]
class Member(Base):
    """A person in an organization, with one of ROLES."""

    __tablename__ = "members"
    __table_args__ = (
        sa.Index(None, "organization_id", "user_id", unique=True),
        sa.CheckConstraint("role IN ('member', 'admin', 'owner')", "role"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("organizations.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID] = mapped_column(
        sa.ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    role: Mapped[str]
    created_at: Mapped[datetime]


# %%
show(er_diagram(User, Account, Organization, Member))

# %% [markdown]
"""
## See it work

Maria founds Acme and marries. Then Martin signs up with her old address, fifty times at
once and in two spellings. The folded cell defines `fifty(url, before)`. It makes the
tables, calls `before(engine)`, and returns what the fifty were told, and the names of
all members. Predict: who is told what, and who is a member?
"""

# %% tags=["stage"]
from collections import Counter

from playbook.kit.stage import together


def fifty(url, before):
    engine = make_engine(url, pool_timeout=60)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    before(engine)

    def client(email):
        return lambda: sign_up(engine, email, "Martin")

    emails = ["weber@acme.example", "Weber@Acme.example"] * 25
    clients = {f"client {n}": client(email) for n, email in enumerate(emails)}
    heard = Counter(
        getattr(each, "name", each) for each in together(**clients).values()
    )
    names = sa.select(User.name).join(Member, Member.user_id == User.id)
    members = transaction(engine, lambda db: db.scalars(names).all())
    engine.dispose()
    return sorted(heard.items()), members


# %% tags=["predict"]
def maria_marries(engine):
    maria = sign_up(engine, "weber@acme.example")
    acme = new(Organization, slug="acme", name="Acme")
    owner = new(Member, user_id=maria.id, organization_id=acme.id, role="owner")
    print(add(engine, acme), add(engine, owner))

    def marry(db):
        db.get_one(User, maria.id).email = normal_email("rossi@acme.example")

    transaction(engine, marry)


here = fifty(lesson_url(), maria_marries)
print(*here)

# %% [markdown]
"""
One sign-up made Martin, and the index refused 49. Maria is still the member, because
`members` refers to her id.

## On PostgreSQL

PostgreSQL also has the foreign keys: it refuses a member of an organization that does
not exist. DuckDB stores such a row, see [engines](../foundations/engines.ipynb). An
INSERT waits while another transaction has the same address. The fifty again:
"""

# %%
there = on_postgres(fifty, maria_marries)
print("the same as above" if there == here else there)

# %% [markdown]
"""
## Check it
"""

# %%
spellings = ["\u00e4@acme.example", "a\u0308@acme.example", " \u00c4@Acme.Example"]
assert by_id == "Maria", "Martin has Maria's rights"
one = ([("EmailTaken", 49), ("Martin", 1)], ["Maria"])
assert here == one, "fifty sign-ups made more than one user"
assert there in (here, None), "PostgreSQL did something else"
assert len({normal_email(text) for text in spellings}) == 1, "one address became two"
assert github == ["added", "IntegrityError"], "one GitHub account opens two users"
print("one user per address and per account; rights follow the person")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, run the page again, and see the assertion
fail:

| change | to | the assertion says |
|---|---|---|
| `"email", unique=True)` | `"email")` | fifty sign-ups made more than one user |
| `unicodedata.normalize("NFC", text)` | `text` | one address became two |
| `_account_id", unique=True` | `_account_id"` | one GitHub account opens two users |

## Your turn

Maria is two users: she once signed up with another address. Write `merge(db, keep,
drop)` for two ids of users. Afterwards the user `drop` is gone, and `keep` has what
`drop` had:

- where both are members, one membership is left, with the higher role;
- `drop`'s accounts move, but its password is deleted. It may have leaked long ago.
- each organization of `drop` has a `version` that is one higher.

DuckDB has no foreign keys here, so nothing is deleted by itself.
"""


# %% tags=["exercise"]
def merge(db, keep, drop):
    """Leave one user, `keep`, with all memberships and accounts of both."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.identity import HINTS, check

check(merge, User, Account, Organization, Member)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def merge(db, keep, drop):
    members = db.scalars(sa.select(Member).where(Member.user_id.in_([keep, drop])))
    by_user = {keep: {}, drop: {}}
    for member in members:
        by_user[member.user_id][member.organization_id] = member
    for organization_id, member in by_user[drop].items():
        db.get_one(Organization, organization_id).version += 1
        kept = by_user[keep].get(organization_id)
        if kept is None:
            member.user_id = keep
        else:
            kept.role = max(kept.role, member.role, key=ROLES.index)
            db.delete(member)
    db.flush()
    dropped = Account.user_id == drop
    db.execute(sa.delete(Account).where(dropped, Account.provider == "credential"))
    db.execute(sa.update(Account).where(dropped).values(user_id=keep))
    db.execute(sa.delete(User).where(User.id == drop))


assert check(merge, User, Account, Organization, Member)

# %% [markdown]
"""
## Take it with you

`playbook lift identity INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| transaction | passes an ORM `Session`, and rolls back when `add_user` raises |
| clock, ids | passes an object with `now()`, and one `Identifiers` per process |
| tables | `Base.metadata.create_all`, or Alembic with `target_metadata` |
| columns | adds its own to the models, and passes them as `more` |
| proof | sends a mail with a link, then sets `email_verified` |

With a model of a shop, whose orders follow the person to a new address:

```python
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(
        sa.ForeignKey("users.id", ondelete="SET NULL"), index=True
    )


def move(db: Session, user_id: UUID, email: str, now: datetime) -> None:
    user = db.get_one(User, user_id)
    user.email, user.updated_at = normal_email(email), now
    user.email_verified = False  # nobody has proven the new one
    try:
        db.flush()
    except sa.exc.IntegrityError:
        raise EmailTaken("another user has this address") from None
```

Traps:

- **Deleting a person.** Each foreign key says what goes along (`CASCADE`) and what
  stays without a name (`SET NULL`). On DuckDB you delete the children first.
- **Order of INSERTs.** The models have no `relationship()`: flush a parent first.
- **A user after the commit.** Without `expire_on_commit=False`, `maria.id` raises
  DetachedInstanceError.
- **`EmailTaken` tells who has an account.** The sign-up page hides that.

Hand it over:

- **Reviewer**: an address goes through `normal_email` before it is stored or compared.
  No table refers to an address.
- **Security**: mail goes to the stored address, never to the text that was typed:
  Unicode has two `K`, and the other one may be Mallory's.
- **Migrations**: uniqueness is a unique index, since DuckDB adds no constraint later.
- **Front end**: ids are texts; read nothing from them.
- **Tests**: keep "fifty sign-ups at once, one user", on both engines.

## In short

You can explain what happens when a key has a meaning, and that meaning changes. You
know why a look before the INSERT decides nothing. You know what a unique index
compares.

## Sources

RFC 5321, 2.4 (case of the local part) and 4.5.3.1 (lengths). Unicode Standard Annex 15
(NFC). RFC 9562, 5.7 (UUIDv7). OWASP ASVS 5.0, 6.2. Django documentation,
`django.contrib.auth`. Better Auth documentation, "Database: core schema".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Profile the data](profile_data.ipynb) · [course map](../index.ipynb) · Next: [Natural keys](natural_keys.ipynb)
"""
