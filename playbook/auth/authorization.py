# %% [markdown]
"""
# Authorization

Decide in one place whether this caller may do this to that, and prove it for each
route.

| | |
|---|---|
| **Use it when** | callers share one table, and each may touch only some of its rows |
| **You need** | [deny_by_default](../foundations/deny_by_default.ipynb) (*code*) |
| **Time** | read 30 min, exercise 15 min |
| **Topics** | broken object level authorization, BOLA, IDOR, roles, private things |
| **Standard** | OWASP API1:2023; OWASP ASVS 5.0, 8.2.1 to 8.2.3, 8.3.1, 8.4.1 |

```python
from playbook.auth.authorization import decide, matrix, permitted, refuse_unless

visible = permitted(PERMITS, "read", relations(caller))  # a condition, for lists
decision = decide(db, PERMITS, "write", relations(caller), documents.c.id == 7)
refuse_unless(decision)  # 404: does not exist for the caller; 403: may not
assert matrix(app, ask, people, things, requests) == DECIDED  # in a test
```

*Lift: 66 lines in 2 files; needs fastapi, sqlalchemy, starlette.*

## See it break

Teams of architects share one table of `documents`. Ada is an `editor` of the team
north, and Rita is a `reader` there. Mallory is an editor of another team, south. Rows
of `members` say this (`team`, `person`, `role`). A document may be `public`.

The folded cell defines the tables `documents` (`id`, `team`, `title`, `public`),
`members` and `guests` (`document`, `person`), and an `engine` of the course. Document 1
is north's, 2 is north's and public, 3 is south's. Gus is in no team, and a guest of
document 3: he may read it. The titles are `plan 1` to `plan 3`. `fill(engine)` begins
with these rows again. `named` gives the value of the header `caller`, which stands for
a session. `ask_all(app, requests, people)` sends requests and shows the answers. The
cell also imports `sa`, `Annotated`, `Depends`, `FastAPI`, `lesson_url`, `on_postgres`,
`show` and `table`.
"""

# %% tags=["stage"]
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Header

from playbook.exercises.auth.authorization import documents, fill, guests, members
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import lesson_url, on_postgres, serving, show, table


def named(caller: Annotated[str, Header()] = "nobody"):
    return caller


def ask_all(app, requests, people):
    rows = []
    with serving(app) as client:
        for request in requests:
            method, path = request.split()
            for person in people:
                answer = client.request(method, path, headers={"caller": person})
                shown = answer.text if answer.is_success else ""
                rows.append((request, person, answer.status_code, shown))
    show(table(rows, ["request", "caller", "status", "answer"]))
    return [row[2:] for row in rows]


engine = make_engine(lesson_url())
fill(engine)

# %%
naive = FastAPI()
Caller = Annotated[str, Depends(named)]


def own_teams(caller, *roles):
    own = sa.select(members.c.team).where(members.c.person == caller)
    return own.where(members.c.role.in_(roles)) if roles else own


@naive.get("/documents")
def list_naively(caller: Caller) -> list[str]:
    mine = documents.c.team.in_(own_teams(caller)) | documents.c.public
    with engine.begin() as db:
        return db.scalars(sa.select(documents.c.title).where(mine)).all()


@naive.delete("/documents/{number}")
def delete_naively(number: int, caller: Caller) -> str:
    with engine.begin() as db:
        if not db.scalar(own_teams(caller, "editor")):
            return "editors only"
        gone = documents.delete().where(documents.c.id == number)
        return f"deleted {db.scalar(gone.returning(documents.c.title))}"


# %% [markdown]
"""
Mallory asks for the list. She deletes document 3, which is her team's. Then she changes
the number in the URL. Predict: what does she see, and what does she delete?
"""

# %% tags=["predict"]
requests = ["GET /documents", "DELETE /documents/3", "DELETE /documents/1"]
stolen = ask_all(naive, requests, ["Mallory"])

# %% [markdown]
"""
This is **broken object level authorization** (BOLA, also IDOR), the first of OWASP's
risks for APIs. The list asks about the row. The deletion asks about the caller: *are
you an editor?* The question has three parts: may **this caller** do **this** to
**that**?

## The decision

| option | good | costs |
|---|---|---|
| a check in each route | nothing to learn | one is forgotten; lists differ |
| Django, DRF: `get_queryset`, `has_object_permission` | ready | two rules |
| [row-level security](../glossary.md#row-level-security) | the database refuses | no DuckDB |
| policy engine (OpenFGA) | for many services | a server; lists are hard |
| **policy as data, SQL conditions** | list and thing agree | a relation must be SQL |

Flask brings none of these. Starlette's `requires` asks about the caller only. We choose
**policy as data**. Choose an engine when several services with databases of their own
share the rules.

## Build it

### The idea

A **relation** says how a caller stands to a row. It is a condition on the row. A
**policy** says for each action which relations permit it. Nobody may do what the policy
does not list.
"""


# %%
def relations(caller):
    invited = sa.select(guests.c.document).where(guests.c.person == caller)
    return {
        "public": documents.c.public,
        "guest": documents.c.id.in_(invited),
        "member": documents.c.team.in_(own_teams(caller)),
        "editor": documents.c.team.in_(own_teams(caller, "editor")),
    }


PERMITS = {"read": ["public", "guest", "member"], "delete": ["editor"]}

# %% [markdown]
"""
### For a list

`permitted` joins the relations with OR. The result is a condition for any SELECT: a
page, a count, a JOIN. `or_` begins with `false`, so an action without a relation is
permitted for no row.
"""

# %% tags=["export"]
from collections.abc import Collection, Mapping

import sqlalchemy as sa

Clause = sa.ColumnElement[bool]
Permits = Mapping[str, Collection[str]]  # by action: the relations that permit it
Relations = Mapping[str, Clause]  # of one caller: which rows have this relation


def permitted(permits: Permits, action: str, relations: Relations) -> Clause:
    """The rows on which `action` is permitted. KeyError for an unknown relation."""
    holding = [relations[name] for name in permits.get(action, ())]
    return sa.or_(sa.false(), *holding)


# %%
def rows_for(caller, action):
    with engine.begin() as db:
        found = sa.select(documents.c.id).where(
            permitted(PERMITS, action, relations(caller))
        )
        return db.scalars(found.order_by(documents.c.id)).all()


fill(engine)
people = ["Ada", "Rita", "Gus", "Mallory"]
actions = ["read", "delete", "sell"]
listed = {who: [rows_for(who, action) for action in actions] for who in people}
show(table([(who, *found) for who, found in listed.items()], ["", *actions]))

# %% [markdown]
"""
### For one thing

`decide` asks the same conditions about one row. It has three answers. For a row that
the caller may not even read, the answer is None: the row does not exist for this
caller. A 403 would tell that there is something.
"""

# %% tags=["export"]
from typing import Any

from starlette.exceptions import HTTPException


def decide(
    db: Any,
    permits: Permits,
    action: str,
    relations: Relations,
    thing: Clause,
    see: str = "read",
) -> bool | None:
    """Whether `action` is permitted on `thing`. None: it does not exist for them.

    `thing` is a condition that one row fulfils. One statement, in the transaction of
    `db`: let it be the one that acts.
    """
    seen = permitted(permits, see, relations).label("seen")
    may = permitted(permits, action, relations).label("may")
    found = db.execute(sa.select(seen, may).where(thing)).one_or_none()
    if found is None or not found[0]:
        return None
    return bool(found[1])


def refuse_unless(decision: bool | None) -> None:
    """Raises HTTPException: 404 for None, 403 for False."""
    if not decision:
        raise HTTPException(404 if decision is None else 403)


# %% [markdown]
"""
Predict: what may each person delete? Document 9 does not exist. An empty cell stands
for None.
"""


# %% tags=["predict"]
def may_delete(who, number):
    with engine.begin() as db:
        mine = documents.c.id == number
        return decide(db, PERMITS, "delete", relations(who), mine)


decisions = {who: [may_delete(who, number) for number in (1, 2, 9)] for who in people}
show(table([(who, *each) for who, each in decisions.items()], ["", 1, 2, 9]))

# %% [markdown]
"""
Compare documents 1 and 9 in Mallory's row.

### In the transaction that acts

A role may be taken away between the decision and the act. The next service decides in
the transaction that deletes, so the role is never older than the transaction.
`transaction(engine, work)` calls `work` again after a
[conflict](../glossary.md#conflict), which repeats decision and act. `openapi_url=None`
leaves out the routes that FastAPI adds, such as `/docs`: the matrix below would ask for
them.
"""

# %%
from playbook.foundations.transactions import transaction


def service(engine):
    app = FastAPI(openapi_url=None)

    @app.get("/documents")
    def list_documents(caller: Caller) -> list[int]:
        visible = permitted(PERMITS, "read", relations(caller))
        found = sa.select(documents.c.id).where(visible).order_by(documents.c.id)
        return transaction(engine, lambda db: db.scalars(found).all())

    @app.delete("/documents/{number}")
    def delete_document(number: int, caller: Caller) -> str:
        def work(db):
            mine = documents.c.id == number
            refuse_unless(decide(db, PERMITS, "delete", relations(caller), mine))
            gone = documents.delete().where(mine).returning(documents.c.title)
            return f"deleted {db.scalar(gone)}"

        return transaction(engine, work)

    return app


_ = ask_all(service(engine), requests, ["Rita", "Mallory"])

# %% [markdown]
"""
### The matrix

Somebody will write the next route. A test must ask it, too, so the test takes the
routes from the app (`routes_of` of
[deny_by_default](../foundations/deny_by_default.ipynb)). You hand in `requests`, one
entry per route, and `ask`, which sends one request and describes the answer in a word.
"""

# %% tags=["export"]
from collections.abc import Callable, Sequence

from playbook.foundations.deny_by_default import routes_of

Matrix = dict[tuple[str, Any], list[str]]


def matrix(
    app: Any,
    ask: Callable[[str, Any, str], str],
    people: Sequence[str],
    things: Sequence[Any],
    requests: Collection[str],
) -> Matrix:
    """By route and thing: what `ask(route, thing, person)` says for each person.

    ValueError names routes (`GET /documents/{number}`) of `app` that are not in
    `requests`, and requests without a route.
    """
    odd = {route.name for route in routes_of(app.routes)} ^ set(requests)
    if odd:
        raise ValueError(f"not in both routes and requests: {', '.join(sorted(odd))}")
    pairs = [(route, thing) for route in requests for thing in things]
    return {pair: [ask(*pair, person) for person in people] for pair in pairs}


# %% [markdown]
"""
## See it work

The folded cell defines `matrix_of(url, service)`. It serves the app over HTTP with the
rows of `fill`. Its `ask` says the status. For the list it says whether the document is
in it: `seen` or `-`. Predict: in which rows do Rita, a reader of north, and Gus, a
guest of document 3, differ?
"""

# %% tags=["stage"]
ROUTES = ["GET /documents", "DELETE /documents/{number}"]


def matrix_of(url, service):
    engine = make_engine(url)
    app = service(engine)

    def ask(route, thing, person):
        fill(engine)
        method, path = route.format(number=thing).split()
        answer = client.request(method, path, headers={"caller": person})
        if "{" in route or not answer.is_success:
            return str(answer.status_code)
        return "seen" if thing in answer.json() else "-"

    with serving(app) as client:
        return matrix(app, ask, people, [1, 2, 3, 9], ROUTES)


# %% tags=["predict"]
here = matrix_of(lesson_url(), service)
show(table([(*pair, *row) for pair, row in here.items()], ["route", "on", *people]))

# %% [markdown]
"""
Review this table, and keep it in the test: it is the policy in the words of people.

A colleague adds a route that asks nothing. In `with_new_route` it stands beside the
others. What does the matrix say?
"""


# %% tags=["predict"]
def with_new_route(engine):
    app = service(engine)
    app.add_api_route("/documents/{number}/title", lambda number: "plan")
    return app


try:
    found = matrix_of(lesson_url(), with_new_route)
except ValueError as error:
    found = str(error)
print(found)

# %% [markdown]
"""
## On PostgreSQL

The conditions are plain SQL:
"""

# %%
there = on_postgres(matrix_of, service)
print("the same matrix" if there == here else there)

# %% [markdown]
"""
## Check it
"""

# %%
READ = {1: "seen seen - -", 2: "seen seen seen seen", 3: "- - seen seen", 9: "- - - -"}
DELETE = {1: "200 403 404 404", 2: "200 403 403 403", 3: "404 404 403 200"}
DELETE[9] = "404 404 404 404"
decided = [row.split() for rows in (READ, DELETE) for row in rows.values()]
assert stolen[2] == (200, '"deleted plan 1"'), "the naive service was not broken"
assert [row[2] for row in listed.values()] == [[]] * 4, "an unlisted action is open"
assert decisions["Mallory"] == [None, False, None], "a hidden row can be told"
assert list(here.values()) == decided, "somebody may more, or less, than decided"
assert there in (here, None), "PostgreSQL decides something else"
assert "/title" in str(found), "a route without a row was not found"
print("every route, person and document as decided; a hidden one is a missing one")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `action, ())]` | `action, relations)]` | an unlisted action is open |
| `is None or not found[0]:` | `is None:` | a hidden row can be told |
| `if odd:` | `if not requests:` | a route without a row was not found |

## Your turn

A PATCH changes several fields, and not each caller may change each. An editor may
change `title`, and only an owner may change `public`. `fields` gives the action of each
field: `{"title": "write", "public": "publish"}`.

Write `refused(db, permits, fields, relations, thing, changes)`. It returns the set of
those names in `changes` that this caller may not change, or None for a row that the
caller may not `read`. Send one statement: two could see different roles.
"""


# %% tags=["exercise"]
def refused(db, permits, fields, relations, thing, changes):
    """The names in `changes` that the caller may not change. None: no such row."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.authorization import HINTS, check

check(refused)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def refused(db, permits, fields, relations, thing, changes):
    asked = [permitted(permits, "read", relations).label("seen")]
    for name in changes:
        may = permitted(permits, fields.get(name, ""), relations)
        asked.append(may.label(f"may {name}"))
    found = db.execute(sa.select(*asked).where(thing)).one_or_none()
    if found is None or not found[0]:
        return None
    return {name for name, may in zip(changes, found[1:], strict=True) if not may}


assert check(refused)

# %% [markdown]
"""
## Take it with you

`playbook lift authorization INTO` copies the recipe and its tests.

| seam | what your project hands in |
|---|---|
| relations | `relations(caller)`: conditions on the table, by name |
| policy | a dictionary: action, and the relations that permit it |
| transaction | a `Connection` or `Session`: the one that acts |
| refusals | `refuse_unless`, for Starlette and FastAPI; or your own errors |
| matrix | `ask`, `people`, `things`, `requests`; fresh rows for each request |

A shop with integer ids. Customers read their orders, and clerks of the branch refund:

```python
PERMITS = {"read": ["buyer", "clerk"], "refund": ["clerk"]}


def relations(user_id: int) -> dict[str, sa.ColumnElement[bool]]:
    works = sa.select(Clerk.branch_id).where(Clerk.user_id == user_id)
    return {"buyer": Order.user_id == user_id, "clerk": Order.branch_id.in_(works)}


def refund(db: Session, user_id: int, order_id: int) -> None:
    thing = Order.id == order_id
    refuse_unless(decide(db, PERMITS, "refund", relations(user_id), thing))
    db.get_one(Order, order_id).refunded = True
```

Traps:

- **No caller.** SQLAlchemy makes `Order.user_id == None` into `IS NULL`. A request
  without a user could then read each order without a buyer. Refuse it before you ask.
- **A name that is taken.** Where names are unique, a POST with the name of a hidden
  thing is 409. This tells that the name is in use. Say no more: not whose. Where that
  is too much, make names unique per team.
- **Create and move.** `decide` asks about a row as it is. For a new row, and for one
  that goes to another team, ask about that team too.
- **An alias.** A relation speaks of one table. A SELECT from an alias of it combines
  each row with every other, and lists hidden rows. SQLAlchemy only warns: make
  `SAWarning` an error in your tests.
- **Other tables** belong into a subquery (`in_`, `exists`). A plain join repeats rows.
  If the subquery reads the thing's table too, give that an `alias()` there.
- **NULL.** `column == value` is NULL for a NULL column. In `OR` it permits nothing; do
  not write `NOT` around it.
- **In flight.** A request may commit just after its role has gone. Where that is too
  late, `hold` the row of the role (`playbook lift write_skew`, `alone=True`). At READ
  COMMITTED, PostgreSQL's default, the row may go to another team in between, too. Put
  `permitted` into the WHERE of the UPDATE or DELETE as well.

Hand it over:

- **Reviewer**: every SELECT of the table has `permitted`; each action is a key of the
  policy.
- **Security**: the matrix in the test is the policy. Ask for it.
- **Front end**: 404 may mean "not for you". Do not cache what a role permits.
- **Tests**: keep the matrix, with routes from the app.
- **Operations**: index the columns of the relations.

## In short

You can explain why a check of the caller alone lets Mallory delete Ada's document. You
know why one condition serves lists and single things, and when 404 is the honest
answer. You can show a reviewer who may do what.

## Sources

OWASP API Security Top 10 2023, API1 and API3. OWASP ASVS 5.0, 8.2.1 to 8.2.3, 8.3.1,
8.3.2, 8.4.1. RFC 9110, 15.5.4 and 15.5.5. R. Pang et al., *Zanzibar* (USENIX ATC 2019).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Organizations](organizations.ipynb) · [course map](../index.ipynb) · Next: [API tokens](api_tokens.ipynb)
"""
