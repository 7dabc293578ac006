# %% [markdown]
"""
# GraphQL

Let a client choose the fields that it gets, and know what that costs. Answer with one
statement for each relation. Let no error tell how the service works.

| | |
|---|---|
| **Use it when** | several front ends need different parts of the same data |
| **You need** | [relationships](../schema/relationships.ipynb) (*background*) |
| **Time** | read 27 min, exercise 15 min |
| **Topics** | GraphQL, resolver, loader, batching, N+1, over-fetching, REST |
| **Standard** | GraphQL specification, September 2025 |

```python
from playbook.api.graphql_api import batch, shown

owners = DataLoader(batch(read_owners, lambda owner: owner.id))  # new in each request
owner = await owners.load(package.owner_id)  # in a resolver
errors = [shown(error) for error in result.errors or ()]
```

*Lift: 36 lines in 1 file; needs graphql.*

## See it break

With **GraphQL**, a client sends a text that names the fields it wants, and gets JSON of
the same form. All queries go to one URL. The service publishes its types, which are
called the **schema**. Ada's start screen shows 20 packages, each with its organization
and its three newest releases:
"""

# %%
screen = """{
  packages(first: 20) { name organization { name } releases(first: 3) { version } }
}"""

# %% [markdown]
"""
`first` is an argument. For each field the service has a function that returns its
value, the **resolver**. The next cell defines the type `Package` with
[Strawberry](https://strawberry.rocks), a library for GraphQL. A package's organization
and its releases are in other tables, so their resolvers ask the `context`. This is an
object that the service makes for each query, and that all resolvers get.

The folded cell imports `strawberry`, `show`, `table` and `finished`, which runs a
coroutine. It defines the types `Organization` and `Release`, and `engine` with 200
packages. `reads` has a method for each statement, and returns rows. `Naive` is a
context: each `load` of it sends a statement at once. `cost_of(app, engine, use)` serves
`app`, calls `use(client)`, and counts requests, bytes and statements; `ask(query)` is
such a `use`. `rest` and `by_resource` are for later.
"""

# %% tags=["stage"]
import logging

import strawberry
from fastapi import Body, FastAPI

from playbook.exercises.api.graphql_api import (
    Reads,
    ask,
    by_resource,
    cost_of,
    finished,
    new_database,
    rest,
)
from playbook.kit.lesson import lesson_url, show, table

logging.getLogger("strawberry.execution").disabled = True  # errors: pages of text
engine = new_database(lesson_url())
reads = Reads(engine)


@strawberry.type
class Release:
    version: str


@strawberry.type
class Organization:
    name: str

    @strawberry.field
    async def packages(self, info: strawberry.Info, first: int = 20) -> list["Package"]:
        return await info.context.packages(first).load(self.name)


class OneByOne:
    """A statement at each call."""

    def __init__(self, read, many=False):
        self.read, self.many = read, many

    async def load(self, key):
        rows = self.read([key])
        return rows if self.many else rows[0]


class Naive:
    organization = OneByOne(reads.organizations)

    def packages(self, first):
        return OneByOne(lambda keys: reads.packages_of(keys, first), many=True)

    def releases(self, first):
        return OneByOne(lambda keys: reads.releases_of(keys, first), many=True)


# %%
@strawberry.type
class Package:
    name: str
    owner: strawberry.Private[str]  # its organization; not a field of the schema

    @strawberry.field
    async def organization(self, info: strawberry.Info) -> Organization:
        return await info.context.organization.load(self.owner)

    @strawberry.field
    async def releases(self, info: strawberry.Info, first: int = 3) -> list[Release]:
        return await info.context.releases(first).load(self.name)


@strawberry.type
class Query:
    @strawberry.field
    async def packages(self, first: int = 20) -> list[Package]:
        return reads.first_packages(first)  # rows: Strawberry reads row.name


schema = strawberry.Schema(Query)
print(schema.as_str().split("\n\n")[1])

# %% [markdown]
"""
The folded cell defines `serve(context)`, the usual way to serve `schema`, and
`counted`, which shows costs as a table. How many statements does the screen cause, and
how many do 40 packages?
"""

# %% tags=["stage"]
from strawberry.http import process_result


def serve(context):
    app = FastAPI()

    @app.post("/graphql")
    async def graphql(query: str = Body(embed=True)):
        return process_result(await schema.execute(query, context_value=context()))

    return app


def counted(**costs):
    columns = ["", "requests", "bytes sent", "bytes received", "statements"]
    show(table([(name, *cost[:4]) for name, cost in costs.items()], columns))


# %% tags=["predict"]
app = serve(Naive)
naive = cost_of(app, engine, ask(screen))
longer = cost_of(app, engine, ask(screen.replace("20", "40")))
counted(screen=naive, longer=longer)

# %% [markdown]
"""
Each package asked for its organization and for its releases: N+1, as on the page
[relationships](../schema/relationships.ipynb). Here a loader option of the ORM does not
help, because the client decides which relations are needed.

## The decision

| option | good | costs |
|---|---|---|
| **REST** | caches, every HTTP client | many requests for one screen |
| REST, a route for each screen | one small answer | a new route for each new screen |
| **GraphQL** | clients choose; one typed schema | loaders, limits, no HTTP cache |
| Django, DRF, Flask, Starlette | | a library: Strawberry, Graphene, Ariadne |

| your situation | choose |
|---|---|
| one front end, in the same team as the service | a route for each screen |
| several front ends, each with other parts of connected data | GraphQL for reads |
| programs of strangers, downloads, caches between | REST |
| writes | REST: each has a status, and can be repeated safely |

We choose **both**: REST for all writes, and **GraphQL for reads** beside it, over the
same functions that decide what a caller may see. Choose REST alone when one team makes
the service and its only front end.

## Build it

### The idea

A resolver does not read at once. It leaves its key with a **loader**, and waits. When
all resolvers of one level of the query wait, the loader calls one function with all
keys. Strawberry's loader is `DataLoader`. Its function must return one value for each
key, in the order of the keys. A database does not promise that, so `batch` puts the
rows in order:
"""

# %% tags=["export"]
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Keys = list[Any]


def batch(
    read: Callable[[Keys], Iterable[Any]],
    key_of: Callable[[Any], Any],
    many: bool = False,
) -> Callable[[Keys], Awaitable[list[Any]]]:
    """What a DataLoader calls. `read(keys)` gives the rows of all keys, in any order.

    A key gets the row whose `key_of(row)` it is, or None; with `many` the list of them.
    """

    async def load(keys: Keys) -> list[Any]:
        found = defaultdict(list)
        for row in read(keys):
            found[key_of(row)].append(row)
        lists = [found[key] for key in keys]
        return lists if many else [next(iter(rows), None) for rows in lists]

    return load


# %%
lengths = batch(lambda keys: ["four", "six", "eight"], len)
print(finished(lengths([5, 3, 9, 4])))

# %% [markdown]
"""
A loader also remembers what it has read, so each request needs its own: another caller
may see other rows. `first` is no part of the key, so there is a loader for each
`first`, and `lru_cache` keeps it. `twice` is a query that asks for the same list under
two names of its own, the **aliases** `a` and `b`. With these loaders, how many
statements do `screen` and `twice` cause?
"""

# %%
from functools import lru_cache, partial

from strawberry.dataloader import DataLoader


class Loaders:
    def __init__(self):
        read = batch(reads.organizations, lambda row: row.name)
        self.organization = DataLoader(read)
        self.packages = lru_cache(partial(many, reads.packages_of, "owner"))
        self.releases = lru_cache(partial(many, reads.releases_of, "package"))


def many(read, key, first):
    rows = partial(read, first=first)
    return DataLoader(batch(rows, lambda row: getattr(row, key), many=True))


# %% tags=["predict"]
twice = "{ a: packages(first: 20) { organization { name packages { name } } } "
twice += "b: packages(first: 20) { organization { packages { name } } } }"
loaded = cost_of(serve(Loaders), engine, ask(screen))
counted(screen=loaded, twice=cost_of(serve(Loaders), engine, ask(twice)))

# %% [markdown]
"""
No loader is behind the field `packages` of `Query`, so each alias reads this list. The
relations of both come from the same loaders, which remember what they have read. So a
query causes at most one statement for each relation, `first` and level.

### Errors

A resolver that fails must not tell the client how. GraphQL puts the text of an
exception into `errors`, next to the fields that did not fail:
"""

# %%
from graphql import GraphQLError


@strawberry.type
class Faulty:
    @strawberry.field
    def lost(self) -> int | None:
        raise ValueError("no answer from postgresql://pantry:s3cret@db")

    @strawberry.field
    def number(self) -> int | None:
        return "s3cret"

    @strawberry.field
    def closed(self) -> int | None:
        raise GraphQLError("not in this month")


failed = finished(strawberry.Schema(Faulty).execute("{ lost number closed }")).errors
for error in failed:
    print(error.message)

# %% [markdown]
"""
Only the last text is for the client: the service's own code raised a `GraphQLError`.
The second one is a `GraphQLError` too. But graphql-core, the library below Strawberry,
raised it, and it holds a value of the database. A traceback names the module:
"""

# %% tags=["export"]
import logging
from traceback import walk_tb

import graphql as g

log = logging.getLogger(__name__)


def of_service(cause: g.GraphQLError) -> bool:
    """Did graphql-core raise it, over a value that does not fit the schema?"""
    frames = [frame for frame, _ in walk_tb(cause.__traceback__)]
    module = str(frames[-1].f_globals["__name__"]) if frames else ""
    of_client = module == "graphql.execution.values"  # an argument
    return module.startswith("graphql.") and not of_client


def shown(error: g.GraphQLError) -> g.GraphQLFormattedError:
    """An error of the result as the client gets it.

    Of a resolver, a GraphQLError that it raised is for the client. Any other exception
    is logged, and the client gets its place only.
    """
    cause = error.original_error
    if cause is None or error.path is None:  # of the query, not of a resolver
        return error.formatted
    if isinstance(cause, g.GraphQLError) and not of_service(cause):
        return error.formatted
    log.error("resolver %s: %s", error.path, type(cause).__name__, exc_info=cause)
    hidden = g.GraphQLError("internal error", error.nodes, path=error.path)
    return hidden.formatted


# %%
log.disabled = True  # here only: the traceback has this machine's paths
for error in failed:
    print(error.path, shown(error)["message"])

# %% [markdown]
"""
Loaders make honest queries cheap. They do not stop a client that asks for a million
values, or for 1,000 levels. The page [graphql_limits](graphql_limits.ipynb) does, and
it belongs to every GraphQL service.

## See it work

The same screen by REST: `rest(reads)` has `/packages`, `/organizations/{name}` and
`/packages/{name}/releases`, and a route `/start-screen` for this screen alone.
`by_resource` is the front end that puts the screen together from these
[resources](../glossary.md#resource), and asks for each organization once. Which
receives the fewest bytes: `by_resource`, the route for the screen, or GraphQL?
"""

# %% tags=["predict"]
resources = cost_of(rest(reads), engine, by_resource)
own = cost_of(rest(reads), engine, lambda client: client.get("/start-screen").json())
counted(resources=resources, own_route=own, graphql=loaded)

# %% [markdown]
"""
Each request waits for a network. Resources also bring fields that the screen does not
show. The route that was written for the screen is as good as GraphQL, until the next
screen.

## Check it
"""

# %%
found = loaded.answer["data"]["packages"]
assert found == resources.answer == own.answer, "other rows arrive"
assert (naive.statements, longer.statements) == (41, 81), "N+1 has gone by itself"
assert loaded.statements == 3, "more than a statement for a relation"
assert loaded.requests == 1 < resources.requests, "one request is not enough"
seen = str([shown(error) for error in failed])
assert "s3cret" not in seen, "the client reads the password"
assert "not in this month" in seen, "what is for the client is hidden"
print("one request, three statements, and the same rows as by REST")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `found[key] for key in keys` | `found[key] for key in found` | other rows arrive |
| `found[key_of(row)].append(row)` | `found[key_of(row)] = [row]` | other rows arrive |
| `cause, g.GraphQLError` | `cause, Exception` | the client reads the password |

## Your turn

A screen shows how many releases a package has had since a number that the client
chooses: `releaseCount(since: 31)`. So the key of the loader is a pair, `(package,
since)`. Write `counts(db, releases, keys)`. It returns one number for each key, in the
order of the keys: how many rows of `releases` have this `package`, and a `number` of at
least `since`. `releases` has the columns `package` and `number`. Send one statement.
"""


# %% tags=["exercise"]
def counts(db, releases, keys):
    """For each key (package, since): how many releases there are from `since` on."""
    raise NotImplementedError


# %%
from playbook.exercises.api.graphql_api import HINTS, check

check(counts)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
import sqlalchemy as sa


def counts(db, releases, keys):
    lowest = min(since for _, since in keys)
    names = {package for package, _ in keys}
    numbers = sa.select(releases.c.package, releases.c.number).where(
        releases.c.package.in_(names), releases.c.number >= lowest
    )
    found = {name: [] for name in names}
    for package, number in db.execute(numbers):
        found[package].append(number)
    return [sum(one >= since for one in found[package]) for package, since in keys]


assert check(counts)

# %% [markdown]
"""
## Take it with you

`playbook lift graphql_api INTO` copies the recipe and its tests. Its seams:

| seam | what your project does |
|---|---|
| rows | `read(keys)` sends one statement, only for rows that the caller may see |
| keys | `key_of(row)` equals what a resolver passes to `load`, type included |
| loaders | new ones in each request, because they remember |
| errors | raise `GraphQLError` for what a client may read; all else is logged |

A shop:

```python
@strawberry.type
class Customer:
    id: int
    name: str


@strawberry.type
class Order:
    id: int
    customer_id: strawberry.Private[int]

    @strawberry.field
    async def customer(self, info: strawberry.Info) -> Customer | None:
        return await info.context["customers"].load(self.customer_id)


async def answer(schema, query, read_customers):
    customers = DataLoader(batch(read_customers, lambda row: row.id))
    result = await schema.execute(query, context_value={"customers": customers})
    errors = [shown(error) for error in result.errors or ()]
    return {"data": result.data} | ({"errors": errors} if errors else {})
```

Traps:

- **The rights are not in the query.** Each `read` has the same condition as REST.
- **A key of another type.** An argument of the type `strawberry.ID` is a text. With
  `"7"`, the row whose id is 7 is not found, and nothing says so. Convert it before
  `load`.
- **A statement that blocks.** `read` here is a plain function. Give each query a
  thread, with its own transaction and its own [event loop](../glossary.md#event-loop),
  or the service stands still meanwhile. A plain `def` route that calls `asyncio.run`
  does that in FastAPI.
- **Strawberry's `GraphQLRouter`** puts the text of each exception into the answer. Call
  `shown` in its `process_result`. It also answers GET: a query in a URL is kept in
  logs. Set `allow_queries_via_get=False`.
- **Strawberry logs errors itself**, text and all, as `strawberry.execution`.
- **An error** makes its field null. If the schema does not allow that, the nearest
  field above it that may be null becomes null. The rest arrives.
- **An empty `errors`** is against the standard. Leave it out.

Hand it over:

- **Reviewer**: no resolver reads without a loader.
- **Front end**: `errors` can stand beside `data`; the schema as a file.
- **Security**: [limits](graphql_limits.ipynb), before this is public.
- **Tests**: each screen within `at_most` of the page relationships, with two sizes.

## In short

You can say when a client should choose its fields, and when a route for its screen is
the better contract. You can answer a query with one statement for each relation on a
level. And you know why a loader lives as long as one request.

## Sources

GraphQL specification, September 2025, 6 (execution) and 7.1.6 (errors). GraphQL over
HTTP, draft. Strawberry documentation, "DataLoaders". OWASP GraphQL Cheat Sheet.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Retries](retries.ipynb) · [course map](../index.ipynb) · Next: [GraphQL limits](graphql_limits.ipynb)
"""
