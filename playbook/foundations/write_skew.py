# %% [markdown]
"""
# Write skew

Keep a rule that spans several rows, although each transaction changes another row.

| | |
|---|---|
| **Use it when** | a parent may be deleted while a child is written |
| **You need** | [transactions](transactions.ipynb), [engines](engines.ipynb) (*code*) |
| **Time** | read 27 min, exercise 15 min |
| **Topics** | write skew, orphan, foreign key, referential integrity, key share lock |

```python
from playbook.foundations.write_skew import hold

if not hold(session, Organization.name, "acme"):  # stays until the commit
    raise HTTPException(404)
```

*Lift: 47 lines in 1 file; needs sqlalchemy.*

## See it break

Ada deletes the organization `acme`, but only if it has no packages. Bob publishes a
package in `acme`, but only if the organization exists.
"""

# %%
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import notice_conflicts, transaction


def delete(session, meanwhile=lambda: None):
    packages = session.scalar(sa.select(sa.func.count(Package.name)))
    meanwhile()
    if packages:
        return "refused"
    session.execute(sa.delete(Organization))
    return "deleted"


def publish(session, meanwhile=lambda: None):
    organization = session.get(Organization, "acme")
    meanwhile()
    if organization is None:
        return "refused"
    session.add(Package(name="httpx", organization="acme"))
    return "published"


# %% [markdown]
"""
Both run in `transaction`, which retries [conflicts](../glossary.md#conflict). The
publication comes in the middle of the deletion. Predict: what is each of them told, and
which rows are left? The folded cell defines the models `Organization` and `Package`,
and `meet(url, first, second)`, which runs `second` in the middle of `first`. It imports
`lesson_url`, the address of a new DuckDB, `lesson_folder` and `on_postgres`.
"""

# %% tags=["stage"]
from playbook.kit.lesson import lesson_folder, lesson_url, on_postgres, show
from playbook.kit.stage import Timeline


class Organization(Base):
    __tablename__ = "organizations"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)


class Package(Base):
    __tablename__ = "packages"
    name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    organization = orm.mapped_column(sa.ForeignKey(Organization.name), nullable=False)


def meet(url, first, second, timeline=True):
    engine = make_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    transaction(engine, lambda session: session.add(Organization(name="acme")))
    lanes = Timeline("Ada", "Bob").watch(engine)
    names = ("Ada", "Bob") if first is delete else ("Bob", "Ada")
    answers = {}

    def run_second():
        if names[1] not in answers:
            with lanes.lane(names[1]):
                answers[names[1]] = transaction(engine, second)

    with lanes.lane(names[0]):
        work = lambda session: first(session, run_second)  # noqa: E731
        answers[names[0]] = transaction(engine, work)
    if timeline:
        show(lanes.shown())
    with orm.Session(engine) as session:
        parents = sa.select(Organization.name)
        orphans = sa.select(Package.name).where(Package.organization.not_in(parents))
        found = session.scalars(orphans).all()
    engine.dispose()
    result = f"Ada: {answers['Ada']}, Bob: {answers['Bob']}, orphans: {found}"
    print(result)
    return result


# %% tags=["predict"]
broken = meet(lesson_url(), delete, publish)

# %% [markdown]
"""
Each transaction kept the rule, by what it could see. They wrote different rows, so
there was no conflict to retry. This is **write skew**. The package is an **orphan**: a
row whose parent does not exist.

The model `Package` declares a foreign key. But `Base` makes foreign keys on PostgreSQL
only, because a parent with children cannot be updated on DuckDB.

## The decision

| option | good | costs |
|---|---|---|
| foreign key, as Django makes it | the database checks | only parents; not on DuckDB |
| [SERIALIZABLE](../glossary.md#serializable) | keeps any rule | PostgreSQL only; more retries |
| `FOR UPDATE` on the parent | simple | PostgreSQL only; children wait |
| **both write or lock the parent** | any rule and engine | code must name the row |

We choose **both write or lock the parent**, beside foreign keys on PostgreSQL. Choose
SERIALIZABLE if nobody can name the row that all writers of a rule share. At this level
transactions have the effect of some order, one after another.

## Build it

### The idea

`delete` writes the parent's row. If `publish` writes it too, the two transactions
conflict, and one of them is retried and sees the other. The new value may be the old
one.
"""


# %%
def write_parent_and_publish(session):
    parent = sa.update(Organization).where(Organization.name == "acme")
    session.execute(parent.values(name=Organization.name))
    return publish(session)


idea = meet(lesson_url(), delete, write_parent_and_publish, timeline=False)

# %% [markdown]
"""
### Hold a row

PostgreSQL has a lock for this case. With `FOR KEY SHARE` a deletion of the parent has
to wait, and other children can be written at the same moment. `hold` takes this lock
there. On DuckDB and SQLite it writes the row, as above. With `alone`, it writes the row
on PostgreSQL too, so no other transaction can hold it.
"""

# %% tags=["export"]
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm


def hold(session: orm.Session, key: Any, value: Any, alone: bool = False) -> bool:
    """Whether a row has `value` in the column `key`. It stays until the commit."""
    column = getattr(key, "expression", key)
    row = column == value
    found: sa.Executable = (
        sa.select(column).where(row).with_for_update(read=True, key_share=True)
    )
    if alone or session.get_bind().dialect.name != "postgresql":
        again = sa.update(column.table).where(row).values({column.name: column})
        found = again.returning(column).execution_options(synchronize_session=False)
    if session.scalar(found) is None:
        return False
    session.info.setdefault("held", set()).add((str(column), value))
    return True


# %%
engine = make_engine(lesson_url())
Base.metadata.create_all(engine)
with orm.Session(engine) as session:
    session.add(Organization(name="acme"))
    print([hold(session, Organization.name, name) for name in ("acme", "no-such")])

# %% [markdown]
"""
### Hold every parent

A call that every writer must remember will be forgotten. So a listener runs before the
session writes its objects. It holds each parent that a new or changed object names. A
missing parent is refused with PostgreSQL's error code.
"""

# %% tags=["export"]
NO_PARENT = "23503"  # SQLSTATE of a foreign key violation


class NoParent(Exception):
    """A row names a parent that does not exist."""

    sqlstate = NO_PARENT


def parents_of(row: Any) -> Iterator[tuple[sa.ForeignKey, Any]]:
    """The foreign keys of `row` that are new or changed, with their new values."""
    state = sa.inspect(row)
    for key in state.mapper.local_table.foreign_keys:
        attribute = state.mapper.get_property_by_column(key.parent).key
        added = state.attrs[attribute].history.added
        if added and added[0] is not None:
            yield key, added[0]


# %%
print([value for key, value in parents_of(Package(name="httpx", organization="acme"))])

# %% [markdown]
"""
The set `held` is kept in `session.info`, a dictionary for notes about a session. It
saves a second UPDATE of the same parent. Parents that the same transaction makes are in
it too. It ends with the transaction, and at each **savepoint**, a mark to which a
transaction can go back:
"""


# %% tags=["export"]
@sa.event.listens_for(orm.Session, "before_flush")
def hold_parents(session: orm.Session, *unused: Any) -> None:
    """On engines without foreign keys: hold parents, or raise IntegrityError."""
    if session.get_bind().dialect.name not in ("duckdb", "sqlite"):
        return
    held = session.info.setdefault("held", set())
    for row in session.new:
        mapper = sa.inspect(row).mapper
        identity = mapper.primary_key_from_instance(row)
        held.update(zip(map(str, mapper.primary_key), identity, strict=True))
    for row in (*session.new, *session.dirty):
        for key, value in parents_of(row):
            known = (str(key.column), value) in held
            if not known and not hold(session, key.column, value):
                name = f"{key.parent} -> {key.column}"
                raise sa.exc.IntegrityError(name, {}, NoParent(f"{name}: no such row"))


@sa.event.listens_for(orm.Session, "after_transaction_end")
def let_go(session: orm.Session, ended: orm.SessionTransaction) -> None:
    """Forget what was held at the end of a transaction or savepoint, not of a flush."""
    if ended.parent is None or ended.nested:
        session.info.pop("held", None)


# %%
def publish_without_parent():
    with orm.Session(engine) as session, session.begin():
        session.add(Package(name="flask", organization="no-such"))


try:
    publish_without_parent()
except sa.exc.IntegrityError as error:
    print(error.orig)

# %% [markdown]
"""
## See it work

The same functions again, which have not changed, in both orders:
"""

# %%
here = [meet(lesson_url(), delete, publish)]
here += [meet(lesson_url(), publish, delete, timeline=False)]

# %% [markdown]
"""
## On PostgreSQL

A foreign key takes the lock `FOR KEY SHARE` itself, so `publish` needs no `hold` there.
A deletion that has waited checks the key once more. Its violation is among the errors
that `transaction` retries. The second run then refuses in its own words.
"""


# %%
def both_orders(url):
    later = meet(url, delete, publish, timeline=False)
    return [later, meet(url, publish, delete, timeline=False)]


there = on_postgres(both_orders)

# %% [markdown]
"""
Some rules are no foreign keys, such as "at least one owner". For those, use `hold(...,
alone=True)`: two transactions can share `FOR KEY SHARE`, and nothing checks the rule
after the wait.

## Check it
"""

# %%
transaction(engine, lambda session: session.add(Organization(name="acme")))
with orm.Session(engine) as session:
    assert not hold(session, Organization.name, "no-such"), "a missing row was held"
    session.add(Package(name="rich", organization="acme"))
    session.commit()
    assert not session.info.get("held"), "a row is held after the commit"
refused_ada = "Ada: refused, Bob: published, orphans: []"
refused_bob = "Ada: deleted, Bob: refused, orphans: []"
assert here == [refused_ada, refused_bob], "a package lost its organization"
assert there in (here, None), "PostgreSQL answers differently"
print("no orphan in either order, on either engine")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `yield key, added[0]` | `yield from ()` | a package lost its organization |
| `session.scalar(found) is None` | `False` | a missing row was held |
| `session.info.pop("held", None)` | `pass` | a row is held after the commit |

## Your turn

An organization must keep at least one owner. Alice and Bob, its two owners, leave at
the same moment. Each transaction counts two owners and deletes one, and the
organization has none. Write `leave` so that one of them gets `LastOwner`, on DuckDB and
on PostgreSQL. The table `groups` holds the organizations, with the column `name`.
`owners` has `organization` and `name`.
"""

# %%
from playbook.exercises.foundations.write_skew import HINTS, LastOwner, check, tables

groups, owners = tables["groups"], tables["owners"]


# %% tags=["exercise"]
def leave(session, organization, name):
    """Delete the owner `name`, or raise LastOwner if there is no other."""
    raise NotImplementedError


# %%
check(leave)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def leave(session, organization, name):
    # The rule is about the organization. Each change of its owners holds its row first.
    hold(session, groups.c.name, organization, alone=True)
    of_it = owners.c.organization == organization
    if session.scalar(sa.select(sa.func.count()).where(of_it)) <= 1:
        raise LastOwner(organization)
    session.execute(owners.delete().where(of_it, owners.c.name == name))


assert check(leave)

# %% [markdown]
"""
## Take it with you

`playbook lift write_skew INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| retry | runs the work in a loop that retries conflicts, such as `transaction` |
| engine | [snapshot isolation](../glossary.md#snapshot-isolation): `make_engine`, or `notice_conflicts` on SQLite |
| models | declare foreign keys; the listener reads them |

A shop on SQLite with integer ids. The foreign key is declared, and PostgreSQL would
check it. Here `hold` finds out in time for a 404:
"""


# %%
class Customer(Base):
    __tablename__ = "customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer = orm.mapped_column(sa.ForeignKey(Customer.id), nullable=False)


def order(session, customer):
    if not hold(session, Customer.id, customer):
        return "404 Not Found"
    session.add(Order(customer=customer))
    return "201 Created"


# %%
shop = notice_conflicts(sa.create_engine(f"sqlite:///{lesson_folder()}/shop.db"))
Base.metadata.create_all(shop)
transaction(shop, lambda session: session.add(Customer(id=7)))
for customer in (7, 8):
    print(transaction(shop, lambda session, who=customer: order(session, who)))

# %% [markdown]
"""
Traps:

- The listener sees ORM objects. An INSERT given as a statement needs its own `hold`.
- It looks at each column alone. A foreign key of two columns needs its own `hold`.
- It looks at columns before the flush. A parent set through a `relationship` is filled
  in during the flush, so the listener misses it.
- On DuckDB two children of one parent conflict. Many at the same moment need retries.

Hand it over:

- **Reviewer**: each rule over several rows names the row that all its writers hold.
- **Tests**: run both orders, with the second transaction in the middle of the first.
- **Migrations**: declare each foreign key; PostgreSQL gets it, DuckDB does not.

## In short

You can explain why two correct transactions can break a rule together. You can name the
row on which they must meet. You can say what a foreign key of PostgreSQL locks, and
what replaces it on an engine without one.

## Sources

H. Berenson et al., *A Critique of ANSI SQL Isolation Levels* (SIGMOD 1995), write skew.
PostgreSQL documentation, 13.2.2 (repeatable read), 13.3.2 (row-level locks). SQLAlchemy
documentation, "Session Events".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Engines](engines.ipynb) · [course map](../index.ipynb) · Next: [Request and transaction](request_and_transaction.ipynb)
"""
