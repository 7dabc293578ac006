# %% [markdown]
"""
# Identity

Model people, the ways they sign in, and the organizations they belong to, so that a changed address, a second address
and two sign-ups at once do no harm.

| | |
|---|---|
| **Use it when** | a table of users is about to be created, or has an `email` that other tables refer to |
| **You need** | [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb), [transactions](../foundations/transactions.ipynb), [profile_data](profile_data.ipynb) |
| **Time** | 18 minutes |
| **Topics** | users, accounts, sessions, verifications, organizations, members, roles, invitations, e-mail normalization, natural key, surrogate key, unique index, race condition, token hash, better auth schema |
| **Standard** | RFC 5321 2.4; RFC 9562; OWASP ASVS 5.0 6.2, 7.2 |
"""

# %% [markdown]
"""
## The decision

What identifies a person?

| option | good | costs |
|---|---|---|
| the e-mail address as primary key | no join to show it | people marry, companies rename their domain: every reference changes, or breaks |
| a number from a sequence | small | tells strangers how many you have; two databases cannot be merged |
| **a UUIDv7, the address a unique attribute** | never changes, made by any process, sorts by creation | 16 bytes; you need a join to show a name |

And where does the password belong?

| option | good | costs |
|---|---|---|
| `users.password_hash` | one table | a second way to sign in needs another column, then another; every query that reads users reads hashes |
| **`accounts`, one row a way to sign in** | password, GitHub and passkey are rows; `users` holds no secret | a join at sign-in |

We take the second of these, which is also what Better Auth's front end expects: `users`, `accounts`, `sessions`,
`verifications`. Choose a natural key when it is assigned by a body that never takes it back, as ISO does with
currency codes.
"""

# %% [markdown]
"""
## See it break

`profile_data` found one person under several spellings of one address. Here is the table that lets that happen, with
the address as its key. Maria signs up twice, from two devices. Then she marries. Before you run the cell: how many
Marias are there, and of what is she a member?
"""

# %%
import threading

import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import checker, er_diagram, lesson_url, on_postgres, show, show_sql, table

naive = sa.MetaData()
naive_users = sa.Table("users", naive, sa.Column("email", sa.String, primary_key=True), sa.Column("name", sa.String))
naive_members = sa.Table(
    "members", naive, sa.Column("email", sa.ForeignKey("users.email")), sa.Column("organization", sa.String)
)


def marry(url):
    engine = make_engine(url)
    naive.create_all(engine)
    with engine.begin() as connection:
        connection.execute(naive_users.insert().values(email="Maria.Weber@example.com", name="Maria"))
        connection.execute(naive_users.insert().values(email="maria.weber@example.com", name="Maria"))
        connection.execute(naive_members.insert().values(email="maria.weber@example.com", organization="acme"))
    with engine.begin() as connection:
        connection.execute(
            naive_users.update()
            .where(naive_users.c.email == "maria.weber@example.com")
            .values(email="maria.rossi@example.com")
        )
    with engine.connect() as connection:
        marias = connection.scalar(sa.select(sa.func.count()).where(naive_users.c.name == "Maria"))
        joined = sa.select(sa.func.count()).select_from(naive_users.join(naive_members))
        print(f"users called Maria: {marias}; memberships that still have a user: {connection.scalar(joined)}")


try:
    marry(lesson_url())
except sa.exc.IntegrityError as error:
    print(str(error.orig).splitlines()[0])

# %% [markdown]
"""
Two Marias, and her membership belongs to an address that is nobody's. A foreign key would not have saved her. It
refuses the change: she must keep her old name to stay a member.

The second failure needs two requests at once. "Look whether the address is taken, then insert" is what every first
version does:
"""

# %%
race = sa.MetaData()
racing_users = sa.Table("users", race, sa.Column("id", sa.Uuid, primary_key=True), sa.Column("email", sa.String))


def sign_up_twice_at_once(engine, users, insert):
    """Two threads look, find nobody, and insert. Returns how many rows the address has."""
    meeting, met = threading.Barrier(2), threading.Event()

    def sign_up():
        def work(session):
            taken = session.scalar(sa.select(users.c.id).where(users.c.email == "maria@example.com"))
            if not met.is_set():  # a second attempt has nobody to wait for
                meeting.wait(30)
                met.set()
            if taken is None:
                insert(session)

        try:
            transaction(engine, work)
        except sa.exc.IntegrityError:
            pass

    threads = [threading.Thread(target=sign_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).where(users.c.email == "maria@example.com"))


import uuid

engine = make_engine(lesson_url())
race.create_all(engine)
rows = sign_up_twice_at_once(
    engine,
    racing_users,
    lambda session: session.execute(racing_users.insert().values(id=uuid.uuid4(), email="maria@example.com")),
)
print(f"rows for one address: {rows}")

# %% [markdown]
"""
Snapshot isolation does not help: the two transactions wrote different rows. Only a unique index sees both.

## Build it

One function decides when two addresses are one. It lower-cases, because no provider that matters tells `Maria@` from
`maria@`, although RFC 5321 would allow it. It does *not* remove dots or `+tags`: these are other mailboxes at some
providers, and guessing wrong hands an account to a stranger.
"""

# %% tags=["export"]
import unicodedata

EMAIL_LIMIT = 254  # characters: RFC 5321 4.5.3.1.3, minus the angle brackets


def normal_email(text: str) -> str:
    """The form in which an address is stored and compared: NFC, without white space around it, lower case.

    Raises ValueError for what cannot be an address. Whether it exists, only a mail can tell.
    """
    address = unicodedata.normalize("NFC", text).strip().lower()
    local, at, domain = address.rpartition("@")
    clean = address.isprintable() and " " not in address and "@" not in local
    if not (at and local and "." in domain.strip(".") and clean) or len(address) > EMAIL_LIMIT:
        raise ValueError("not an e-mail address")
    return address


# %% [markdown]
"""
People and their ways in. Look for what is *not* there: no password in `users`, and no secret anywhere that could be
used as it stands. A session's token, a reset link's token, an invitation's token: whoever reads the database (a
backup, a replica, an injection) finds hashes.
"""

# %% tags=["export"]
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.engines import Base

HASH = sa.String(64)  # SHA-256 in hex: enough for a random token, never for a password


class User(Base):
    """A person. `email` is stored as `normal_email` gives it."""

    __tablename__ = "users"
    __table_args__ = (sa.Index(None, "email", unique=True), sa.CheckConstraint("email = lower(email)", "email_lower"))

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    email_verified: Mapped[bool] = mapped_column(default=False)
    image: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Account(Base):
    """One way to sign in: `provider` "credential" with a password hash, or an identity provider and its id for them."""

    __tablename__ = "accounts"
    __table_args__ = (sa.Index(None, "provider", "provider_account_id", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    provider: Mapped[str]
    provider_account_id: Mapped[str]
    password_hash: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# %% [markdown]
"""
A session's `id` is the handle that lists and revokes it and can be shown; its token exists only in the cookie.
`expires_at` moves with use, `created_at` does not: the absolute lifetime is counted from it.
"""


# %% tags=["export"]
class UserSession(Base):
    """A signed-in browser or program."""

    __tablename__ = "sessions"
    __table_args__ = (sa.Index(None, "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str] = mapped_column(HASH)
    expires_at: Mapped[datetime]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Verification(Base):
    """A link that was mailed. `purpose`: verify-email, reset-password, change-email; `email`: the address it proves."""

    __tablename__ = "verifications"
    __table_args__ = (sa.Index(None, "token_hash", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    purpose: Mapped[str]
    email: Mapped[str]
    token_hash: Mapped[str] = mapped_column(HASH)
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


# %% [markdown]
"""
Organizations own packages, people are members of them with one role each. `version` counts changes of the
organization *and of its members*: it is the row that every writer of the rule "one owner at least" writes (see the
exercise in [transactions](../foundations/transactions.ipynb)).
"""

# %% tags=["export"]
ROLES = ("member", "admin", "owner")  # each may do what the ones before it may


class Organization(Base):
    """An owner of packages. `slug` is its name in URLs."""

    __tablename__ = "organizations"
    __table_args__ = (sa.Index(None, "slug", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Member(Base):
    """A person in an organization, with one of ROLES."""

    __tablename__ = "members"
    __table_args__ = (
        sa.Index(None, "organization_id", "user_id", unique=True),
        sa.CheckConstraint("role IN ('member', 'admin', 'owner')", "role"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organizations.id", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    created_at: Mapped[datetime]


# %% [markdown]
"""
An invitation goes to an *address*: whoever is invited may not be a user yet, or may be one under another address.
"""


# %% tags=["export"]
class Invitation(Base):
    """An offer of membership to an address, at most one for each organization and address."""

    __tablename__ = "invitations"
    __table_args__ = (
        sa.Index(None, "organization_id", "email", unique=True),
        sa.Index(None, "token_hash", unique=True),
        sa.CheckConstraint("status IN ('pending', 'accepted', 'rejected', 'canceled')", "status"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organizations.id", ondelete="CASCADE"))
    email: Mapped[str]
    role: Mapped[str]
    inviter_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    token_hash: Mapped[str] = mapped_column(HASH)
    status: Mapped[str] = mapped_column(default="pending")
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


# %% [markdown]
"""
Creating a user leaves the decision to the index and translates its answer. No look-up first: it would cost a
statement and decide nothing.
"""

# %% tags=["export"]
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import Clock, Identifiers


class EmailTaken(ValueError):
    """Another user has this address."""


def add_user(session: orm.Session, clock: Clock, identifiers: Identifiers, email: str, name: str) -> User:
    """A new user, written to the open transaction. Raises EmailTaken, or ValueError for what is no address."""
    now = clock.now()
    user = User(id=identifiers.new(), email=normal_email(email), name=name.strip(), created_at=now, updated_at=now)
    session.add(user)
    try:
        session.flush()
    except sa.exc.IntegrityError:
        raise EmailTaken("another user has this address") from None
    return user


# %% [markdown]
"""
Deleting says what goes with a person and what stays. PostgreSQL would cascade; DuckDB has no foreign keys here. The
same statements run on both, children first, so that the embedded database never keeps what production removes.
"""


# %% tags=["export"]
def delete_user(session: orm.Session, user_id: UUID) -> bool:
    """Delete a user with sessions, accounts, links and memberships; invitations stay, without an inviter.

    Returns whether there was such a user. Does not look whether an organization loses its last owner.
    """
    session.execute(sa.update(Invitation).where(Invitation.inviter_id == user_id).values(inviter_id=None))
    for model in (UserSession, Account, Verification, Member):
        session.execute(sa.delete(model).where(model.user_id == user_id))
    found = session.scalars(sa.delete(User).where(User.id == user_id).returning(User.id)).all()
    return bool(found)


# %% [markdown]
"""
## See it work

The diagram is drawn from the classes above.
"""

# %%
show(er_diagram(User, Account, UserSession, Verification, Organization, Member, Invitation))

# %% [markdown]
"""
Maria signs up twice, marries, and stays who she is. Fifty sign-ups at once with one address leave one user:
"""

# %%
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta

from playbook.foundations.clock_and_identifiers import FixedClock, SeededBytes
from playbook.kit.stage import capture_sql


def setting():
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    return clock, Identifiers(clock, SeededBytes(1))


def new_database(url):
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    return engine


engine, (clock, identifiers) = new_database(lesson_url()), setting()
for spelling in ("Maria.Weber@example.com", " maria.weber@EXAMPLE.com"):
    try:
        maria = transaction(engine, lambda session: add_user(session, clock, identifiers, spelling, "Maria Weber"))
        print(f"{spelling!r} is stored as {maria.email!r}")
    except EmailTaken as error:
        print(f"{spelling!r}: {error}")

clock.advance(timedelta(days=900))
with capture_sql(engine) as statements:
    transaction(
        engine,
        lambda session: session.execute(
            sa.update(User).where(User.id == maria.id).values(email="maria.rossi@example.com", updated_at=clock.now())
        ),
    )
show_sql(statements)


# %%
def fifty_sign_ups(url):
    engine, (clock, identifiers) = new_database(url), setting()

    def sign_up(number):
        try:
            transaction(
                engine, lambda s: add_user(s, clock, identifiers, f"{'Mm'[number % 2]}aria@example.com", "Maria")
            )
        except EmailTaken:
            return "taken"
        return "created"

    with ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(sign_up, range(50)))
    with engine.connect() as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(User))
    engine.dispose()
    return {"created": outcomes.count("created"), "taken": outcomes.count("taken"), "rows": rows}


print(fifty_sign_ups(lesson_url()))

# %% [markdown]
"""
## On PostgreSQL

The same fifty, and then what foreign keys add: the naive marriage is refused, a member without an organization cannot
be written, and a deleted organization takes its members along.
"""


# %%
def with_foreign_keys(url):
    engine, (clock, identifiers) = new_database(url), setting()
    now = clock.now()

    def add_orphan(session):
        session.add(
            Member(id=identifiers.new(), organization_id=uuid.UUID(int=7), user_id=ada.id, role="owner", created_at=now)
        )

    ada = transaction(engine, lambda session: add_user(session, clock, identifiers, "ada@example.com", "Ada"))
    try:
        transaction(engine, add_orphan)
    except sa.exc.IntegrityError as error:
        print(str(error.orig).splitlines()[0])
    inspector = sa.inspect(engine)
    cascades = [
        (name, key["constrained_columns"][0], key["options"].get("ondelete"))
        for name in sorted(Base.metadata.tables)
        if name in ("accounts", "sessions", "verifications", "members", "invitations")
        for key in sorted(inspector.get_foreign_keys(name), key=lambda k: k["constrained_columns"])
    ]
    show(table(cascades, columns=["table", "column", "on delete"]))
    engine.dispose()


on_postgres(with_foreign_keys)
postgres_outcome = on_postgres(fifty_sign_ups)
print(postgres_outcome)

# %% [markdown]
"""
## Check it
"""

# %%
one = {"created": 1, "taken": 49, "rows": 1}
assert fifty_sign_ups(lesson_url()) == one
assert postgres_outcome in (one, None)

models = (User, Account, UserSession, Verification, Organization, Member, Invitation)
for column in (c for model in models for c in model.__table__.columns):
    secret = any(word in column.name for word in ("password", "token", "secret"))
    assert not secret or column.name.endswith("_hash"), f"{column} would hold a secret as it is"
    assert not isinstance(column.type, sa.DateTime), f"{column} must be a Timestamp"
assert not any("password" in column.name for column in User.__table__.columns)

for spelling in ("Ä@example.com", "A\u0308@EXAMPLE.com", "ä@Example.Com "):
    assert normal_email(spelling) == "ä@example.com" == normal_email(normal_email(spelling))
for wrong in (
    "",
    "maria",
    "@example.com",
    "maria@",
    "maria@localhost",
    "a b@example.com",
    "a@b@example.com",
    "a\n@example.com",
    "x" * 250 + "@example.com",
):
    try:
        normal_email(wrong)
    except ValueError:
        continue
    raise AssertionError(f"{wrong!r} was taken for an address")

engine, (clock, identifiers) = new_database(lesson_url()), setting()
gone = transaction(engine, lambda s: add_user(s, clock, identifiers, "gone@example.com", "Gone"))
assert transaction(engine, lambda s: delete_user(s, gone.id)) is True
assert transaction(engine, lambda s: delete_user(s, gone.id)) is False
print(
    "one user of fifty sign-ups on each engine, no secret in clear, no time without zone, nine wrong addresses refused"
)

# %% [markdown]
"""
## Your turn

The legacy export knows Maria under two addresses, so after the import she is two users. Write `merge(session, keep,
drop)`: afterwards only `keep` is there, with everything `drop` had. Think about these before you write: both are in
one organization, with different roles. Both have a password. `drop` is signed in somewhere. `drop` has invited
somebody.
"""


# %% tags=["exercise"]
def merge(session: orm.Session, keep: UUID, drop: UUID) -> None:
    for model in (UserSession, Account, Verification, Member):
        session.execute(sa.update(model).where(model.user_id == drop).values(user_id=keep))
    delete_user(session, drop)


# %%
def two_marias(session):
    clock, identifiers = setting()
    now, later = clock.now(), clock.now() + timedelta(days=7)

    def add(model, **values):
        row = model(id=identifiers.new(), created_at=now, **values)
        session.add(row)
        session.flush()
        return row.id

    keep = add_user(session, clock, identifiers, "maria@example.com", "Maria").id
    drop = add_user(session, clock, identifiers, "maria@old.example", "Maria").id
    slugs = ("both", "only-dropped", "kept-higher")
    both, only, higher = (add(Organization, slug=slug, name=slug, updated_at=now) for slug in slugs)
    roles = [(both, keep, "member"), (both, drop, "owner"), (only, drop, "admin"), (higher, keep, "owner")]
    for organization, user, role in [*roles, (higher, drop, "member")]:
        add(Member, organization_id=organization, user_id=user, role=role)
    for user in (keep, drop):
        key = {"provider": "credential", "provider_account_id": str(user), "password_hash": f"hash of {user}"}
        add(Account, user_id=user, updated_at=now, **key)
        add(UserSession, user_id=user, token_hash=f"session of {user}", expires_at=later, updated_at=now)
    add(Account, user_id=drop, provider="github", provider_account_id="maria", updated_at=now)
    invited = {"organization_id": both, "email": "x@example.com", "role": "member", "token_hash": "t"}
    add(Invitation, inviter_id=drop, expires_at=later, **invited)
    return keep, drop


@checker
def check_merge(merge):
    engine = new_database(lesson_url())
    keep, drop = transaction(engine, two_marias)
    try:
        transaction(engine, lambda session: merge(session, keep, drop))
    except sa.exc.IntegrityError:
        return "not yet: a unique rule was broken: what did both of them have already?"
    with orm.Session(engine) as session:
        if session.get(User, drop) or not session.get(User, keep):
            return "not yet: `drop` must be gone and `keep` must stay"
        roles = dict(
            session.execute(
                sa.select(Organization.slug, Member.role).join(Member, Member.organization_id == Organization.id)
            ).all()
        )
        if roles != {"both": "owner", "only-dropped": "admin", "kept-higher": "owner"}:
            return (
                f"not yet: in each organization her higher role must remain, but they are {dict(sorted(roles.items()))}"
            )
        if (
            session.scalar(sa.select(UserSession.token_hash)) != f"session of {keep}"
            or len(session.scalars(sa.select(UserSession)).all()) != 1
        ):
            return "not yet: whoever is signed in as `drop` must not become `keep`; `keep` stays signed in"
        accounts = session.execute(
            sa.select(Account.provider, Account.password_hash).where(Account.user_id == keep).order_by("provider")
        ).all()
        if [tuple(a) for a in accounts] != [("credential", f"hash of {keep}"), ("github", None)]:
            return "not yet: she keeps one password, `keep`'s, and the way in through GitHub"
        if session.scalar(sa.select(Invitation.inviter_id)) != keep:
            return "not yet: the invitation has lost who invited"
    return "right"


check_merge(merge)


# %% tags=["solution"]
def merge(session: orm.Session, keep: UUID, drop: UUID) -> None:
    kept = {m.organization_id: m for m in session.scalars(sa.select(Member).where(Member.user_id == keep))}
    for member in session.scalars(sa.select(Member).where(Member.user_id == drop)).all():
        other = kept.get(member.organization_id)
        if other is None:
            member.user_id = keep
        else:
            other.role = max(other.role, member.role, key=ROLES.index)
    session.flush()
    # Another way in is hers; another password may be one she forgot was leaked. Sessions and links end with `drop`.
    session.execute(
        sa.update(Account).where(Account.user_id == drop, Account.provider != "credential").values(user_id=keep)
    )
    session.execute(sa.update(Invitation).where(Invitation.inviter_id == drop).values(inviter_id=keep))
    delete_user(session, drop)


assert check_merge(merge)

# %% [markdown]
"""
## Hand it over

- **Front end**: identifiers are opaque strings; a session's `id` can be shown and revoked and is no credential.
- **Security reviewer**: columns named `password`, `token` or `secret` end in `_hash`, and a check fails when one does
  not.
- **Migration owner**: uniqueness is a unique *index*, since DuckDB cannot add a constraint; foreign keys exist on
  PostgreSQL only.
- **Reviewer**: an address goes through `normal_email` before it is stored or compared. Nothing refers to an address.
- **Test engineer**: keep "fifty sign-ups, one user" on both engines; it is the test that a look-up before the insert
  cannot pass.

## Sources

RFC 5321, 2.4 (case of the local part) and 4.5.3.1 (lengths). RFC 9562, 5.7 (UUIDv7). Better Auth documentation,
"Database: core schema". OWASP ASVS 5.0, 6.2 (password security), 7.2 (session management). DuckDB documentation,
"Constraints".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Profile the data](profile_data.ipynb) · [course map](../index.ipynb) · Next: [Natural keys](natural_keys.ipynb)
"""
