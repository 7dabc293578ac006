# %% [markdown]
"""
# GraphQL limits

Refuse a query that is too deep or too large before a statement runs. Or accept only the
queries that you know.

| | |
|---|---|
| **Use it when** | clients send GraphQL, and you have not written all their queries |
| **You need** | [graphql_api](graphql_api.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | query cost, depth, alias, fragment, introspection, persisted query |
| **Standard** | OWASP ASVS 5.0, 4.3.1 and 4.3.2; GraphQL, September 2025 |

```python
from playbook.api.graphql_limits import Limits, admit

document, weight = admit(schema, text, Limits(), variables)  # or Refused
result = await execute(schema, document, context_value=context)
```

*Lift: 115 lines in 1 file; needs graphql.*

## See it break

On the page before, Ada's screen took three statements. In GraphQL every client writes
its own queries. Mallory writes four:

- **large**: 73 bytes that ask for 100 packages and 100 releases of each.
- **aliases**: a list of one row, 90 times. An alias is a name that the client gives to
  a field, as in `a1: packages(first: 1)`.
- **100 levels** and **1,000 levels**: `{ packages { organization { packages { ...`.

The folded cell imports `tried(app, engine, queries)`, which sends `queries` over HTTP
and counts, and `unlimited(schema, reads)`, the service of the page before, with its
loaders. It defines `engine`, `reads`, Ada's `screen`, and all five `queries`.
`schema` is an object of graphql-core, the library below Strawberry. `bomb`, `execute`,
`FastAPI` and `Body` are for later. Which of Mallory's queries does the service refuse?
"""

# %% tags=["stage"]
from fastapi import Body, FastAPI

from playbook.exercises.api.graphql_limits import (
    aliased,
    bomb,
    deep,
    execute,
    stage,
    tried,
    unlimited,
)
from playbook.kit.lesson import lesson_url

engine, reads, schema = stage(lesson_url())
screen = """{
  packages(first: 20) { name organization { name } releases(first: 3) { version } }
}"""
queries = {
    "screen": screen,
    "large": "{ packages(first: 100) { releases(first: 100) { version } } }",
    "aliases": aliased(90),
    "100 levels": deep(100),
    "1,000 levels": deep(1000),
}

# %% tags=["predict"]
naive = tried(unlimited(schema, reads), engine, queries)

# %% [markdown]
"""
The loaders have made 100 levels cheap, because these levels go round in a circle.
Against aliases they cannot help. And 73 bytes have got 10,000 rows. The only refusal
was an accident: at 1,000 levels the parser reached the end of Python's stack.

## The decision

| option | good | costs |
|---|---|---|
| a timeout | stops everything | the database has worked until then |
| a limit of depth | ten lines | aliases are free |
| **depth and cost, before it runs** | the client learns why | lists need sizes |
| known queries only | nothing unknown runs | a step in the build of each client |
| Strawberry, Graphene | ready: depth, aliases | cost is not limited |

We choose **depth and cost** for a service that others write queries for. Choose **known
queries only** if all clients are yours. A timeout stands behind both.

## Build it

### The idea

A query is measured on its parsed text. Its **depth** is how many fields lie within each
other. Its **cost** is the number of values that the answer can hold: a field counts
once for each row of the lists above it. Its **statements** are its fields that ask the
database. With loaders, such a field asks once for all rows above it.
"""

# %% tags=["export"]
from dataclasses import dataclass, field
from typing import NamedTuple


class Refused(Exception):
    """The query is not run. The text is for the client."""


@dataclass(frozen=True)
class Limits:
    """What one query may ask for."""

    tokens: int = 1000  # words and signs of its text
    depth: int = 10  # fields within fields
    cost: int = 5000  # values in the answer
    statements: int = 20  # fields that ask the database
    also: frozenset[str] = frozenset()  # such fields with a plain value
    rows: int = 100  # what a list without `first` and `last` is counted as
    introspection: bool = False  # may it ask for the schema?


class Weight(NamedTuple):
    """What a query asks for at most."""

    depth: int
    cost: int
    statements: int


# %%
print("the screen:", 20 * (1 + 1 + 2 + 3 * 2), "values")

# %% [markdown]
"""
Each of 20 packages is a value, and has a name, an organization of two values, and three
releases of two. The numbers 20 and 3 can be literals, variables, or defaults of the
schema. `rows_of` reads them by graphql-core's own rules, so it sees what the
[resolver](../glossary.md#resolver) will see. `Scale` has what all functions below need;
fragments come later.
"""

# %% tags=["export"]
from typing import Any

import graphql as g

SIZES = ("first", "last")  # add your own names
Rows = int | None
Names = tuple[str, ...]


@dataclass(frozen=True)
class Scale:
    """One query on the scale. `known`: fragments that were weighed."""

    schema: g.GraphQLSchema
    fragments: dict[str, g.FragmentDefinitionNode]
    variables: g.VariableValues | None
    limits: Limits
    known: dict[tuple[str, Rows], Weight] = field(default_factory=dict)


def rows_of(on: Scale, kind: g.GraphQLField, node: g.FieldNode) -> Rows:
    """The `first` or `last` of a field. None: it has neither."""
    given = g.get_argument_values(kind, node, on.variables, hide_suggestions=True)
    named = [one.out_name or name for name, one in kind.args.items() if name in SIZES]
    sizes = [given[name] for name in named if isinstance(given.get(name), int)]
    if min(sizes, default=0) < 0:
        raise Refused(f"{node.name.value}: a number of rows is below 0")
    return max(sizes, default=None)


# %%
empty = Scale(schema, {}, None, Limits())
[asked] = g.parse("{ packages }").definitions[0].selection_set.selections
print(rows_of(empty, schema.query_type.fields["packages"], asked))

# %% [markdown]
"""
`weigh` adds up what stands between two braces. `of_field` multiplies the values below a
list. A list of no rows counts as one. In many schemas `first` stands at a
**connection**, an object that wraps the list: then the lists directly below have this
size. Which fields ask the database? The text does not say. So each field with braces
of its own counts as a statement, and those that `Limits.also` names.
"""


# %% tags=["export"]
def weigh(on: Scale, parent: Any, below: Any, rows: Rows, inside: Names) -> Weight:
    """The weight of a selection set. `rows`: of the connection that it is of."""
    depth = cost = statements = 0
    for node in below.selections if below else ():
        of = of_field if isinstance(node, g.FieldNode) else of_fragment
        one = of(on, parent, node, rows, inside)
        depth, cost = max(depth, one.depth), cost + one.cost
        statements += one.statements
    return Weight(depth, cost, statements)


def of_field(on: Scale, parent: Any, node: Any, rows: Rows, inside: Names) -> Weight:
    """The weight of a field with all below it."""
    name = node.name.value
    if name in ("__schema", "__type") and not on.limits.introspection:
        raise Refused("this service does not answer introspection")
    kind = getattr(parent, "fields", {}).get(name)
    if not isinstance(kind, g.GraphQLField):  # `__typename`; or it is not valid
        return Weight(1, 1, 0)
    size, child = rows_of(on, kind, node), g.get_named_type(kind.type)
    many = g.is_list_type(g.get_nullable_type(kind.type))
    sizes = (size, rows, on.limits.rows) if many else (1,)
    times = max(1, next(n for n in sizes if n is not None))
    below = weigh(on, child, node.selection_set, None if many else size, inside)
    asks = g.is_composite_type(child) or name in on.limits.also
    return Weight(1 + below.depth, times * (1 + below.cost), asks + below.statements)


# %%
for query in (screen, queries["aliases"], queries["100 levels"]):
    selected = g.parse(query).definitions[0].selection_set
    print(weigh(empty, schema.query_type, selected, None, ()))

# %% [markdown]
"""
A **fragment** is a selection with a name, and may be used many times. In a chain where
each uses the next one twice, every link doubles the work of weighing. So each is
weighed once, and then looked up. `bomb(10)` is the query
`{ packages { organization { ...f0 } } }`. Its fragment `f0` is `{ ...f1 ...f1 }`, and
so on. The last one, `f9`, is `{ packages { name } }`. What is the cost?
"""


# %% tags=["export"]
def of_fragment(on: Scale, parent: Any, node: Any, rows: Rows, inside: Names) -> Weight:
    """The weight of a fragment where it is used. `inside`: those around it."""
    if isinstance(node, g.InlineFragmentNode):
        kind = node.type_condition
        of = on.schema.get_type(kind.name.value) if kind else parent
        return weigh(on, of, node.selection_set, rows, inside)
    name = node.name.value
    if name in inside or len(inside) >= on.limits.depth:
        raise Refused(f"fragments within fragments, more than {on.limits.depth} deep")
    if name not in on.fragments:  # then it is not valid
        return Weight(0, 0, 0)
    if (name, rows) not in on.known:
        found = on.fragments[name]
        of = on.schema.get_type(found.type_condition.name.value)
        on.known[name, rows] = weigh(on, of, found.selection_set, rows, (*inside, name))
    return on.known[name, rows]


# %% tags=["predict"]
query, *parts = g.parse(bomb(10)).definitions
scale = Scale(schema, {one.name.value: one for one in parts}, None, Limits())
print(weigh(scale, schema.query_type, query.selection_set, None, ()))

# %% [markdown]
"""
The text has 485 characters. GraphQL would merge fields of the same name, and answer
with fewer values. The scale does not merge. So it may count too much, and not too
little.

A document can have several operations, and the request says which one is meant.
`weight_of` weighs this one, with the request's variables:
"""


# %% tags=["export"]
def weight_of(
    schema: g.GraphQLSchema, document: g.DocumentNode, limits: Limits,
    variables: dict[str, Any], operation: str | None = None,
) -> Weight:  # fmt: skip
    """The weight of the operation that would run. Or Refused, or GraphQLError."""
    chosen = g.get_operation_ast(document, operation)
    if chosen is None:
        raise Refused("no operation, or several: name the one to run")
    defined = chosen.variable_definitions or ()
    values = g.get_variable_values(schema, defined, variables, 1, hide_suggestions=True)
    if isinstance(values, list):
        raise values[0]
    parts = [o for o in document.definitions if isinstance(o, g.FragmentDefinitionNode)]
    scale = Scale(schema, {one.name.value: one for one in parts}, values, limits)
    root = schema.get_root_type(chosen.operation)
    return weigh(scale, root, chosen.selection_set, None, ())


# %%
hidden = "query($n: Int!) { packages(first: $n) { releases(first: $n) { version } } }"
print(weight_of(schema, g.parse(hidden), Limits(), {"n": 100}))

# %% [markdown]
"""
`admit` does all that has to happen before a query may run.
`parse` limits the words of the text, because the time of validation can grow with their
square. Each refusal is one sentence.
"""


# %% tags=["export"]
def admit(
    schema: g.GraphQLSchema, text: str, limits: Limits,
    variables: dict[str, Any] | None = None, operation: str | None = None,
) -> tuple[g.DocumentNode, Weight]:  # fmt: skip
    """The parsed query and its weight, if it is valid and within `limits`.

    Refused: nothing has run.
    """
    try:
        document = g.parse(text, max_tokens=limits.tokens)
        weight = weight_of(schema, document, limits, variables or {}, operation)
    except g.GraphQLError as error:
        raise Refused(error.message) from None
    for name, asked in weight._asdict().items():
        most = getattr(limits, name)
        if asked > most:
            raise Refused(f"{name}: {asked}, at most {most}")
    hide = not limits.introspection
    for fault in g.validate(schema, document, max_errors=1, hide_suggestions=hide):
        raise Refused(fault.message)
    return document, weight


# %%
def verdict(query, variables=None):
    try:
        return admit(schema, query, Limits(), variables)[1]
    except Refused as refused:
        return str(refused)


for rows in (10, -1, "10"):
    print(verdict(hidden, {"n": rows}))

# %% [markdown]
"""
A query for the schema itself is called **introspection**. Tools need it in development.
In production it is one more way to ask for much, so publish the schema as a file:
"""

# %%
print(verdict("{ __schema { types { name } } }"))

# %% [markdown]
"""
This is not for secrecy: a guessed field is answered. Each resolver still has to check
what its caller may see.

### Known queries only

The build of each client collects the client's queries, and the service keeps each under
its hash. The client sends the hash as `documentId` in place of the text. These are
called **persisted** queries. Apollo's *automatic* persisted queries are another thing:
there any client may register any text, which saves bytes and refuses nothing.
"""

# %% tags=["export"]
from collections.abc import Iterable
from hashlib import sha256


def by_id(texts: Iterable[str]) -> dict[str, str]:
    """The allowed queries, by their `documentId`."""
    return {f"sha256:{sha256(text.encode()).hexdigest()}": text for text in texts}


# %%
known = by_id([screen])
for document_id in by_id([screen, queries["large"]]):
    print(document_id[:15], document_id in known)

# %% [markdown]
"""
## See it work

`execute` runs an admitted query with new loaders:
"""

# %%
app = FastAPI()


@app.post("/graphql")
async def graphql(query: str = Body(embed=True)):
    try:
        document, _ = admit(schema, query, Limits())
    except Refused as refused:
        return {"errors": [{"message": str(refused)}]}
    return await execute(schema, document, reads)


limited = tried(app, engine, queries)

# %% [markdown]
"""
## Check it
"""

# %%
ran = [cost.statements for cost in limited.values()]
assert ran == [3, 0, 0, 0, 0], "a hostile query ran"
assert limited["screen"].answer == naive["screen"].answer, "the screen has changed"
assert "20100" in str(verdict(hidden, {"n": 100})), "a variable hides the size"
assert "cost" in str(verdict(bomb(10))), "a fragment counts only once"
print("Ada's screen as before; Mallory's queries: no statement")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `times * (1 + below.cost)` | `1 + below.cost` | a hostile query ran |
| `asked > most` | `asked > 9_999` | a hostile query ran |
| `cost + one.cost` | `max(cost, one.cost)` | a fragment counts only once |

## Your turn

Aliases have another use. A service counts sign-in requests, and allows five in a
minute. Mallory sends one request with a thousand passwords: `a1: signIn(...) a2:
signIn(...)`. Write `attempts(document, name)`: how many times the operation of the
parsed `document` asks for the field `name` at its first level. Each use of a fragment
counts. The document has one operation, and its fragments use each other in no circle.
"""


# %% tags=["exercise"]
def attempts(document, name):
    """How many times the field `name` would be resolved at the first level."""
    raise NotImplementedError


# %%
from playbook.exercises.api.graphql_limits import HINTS, check

check(attempts)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def attempts(document, name):
    fragments, count = {}, 0
    for one in document.definitions:
        if isinstance(one, g.FragmentDefinitionNode):
            fragments[one.name.value] = one.selection_set
        else:
            waiting = [one.selection_set]
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, g.FieldNode):
                count += node.name.value == name
            elif isinstance(node, g.InlineFragmentNode):
                waiting.append(node.selection_set)
            else:
                waiting.append(fragments[node.name.value])
    return count


assert check(attempts)

# %% [markdown]
"""
## Take it with you

`playbook lift graphql_limits INTO` copies the recipe and its tests. Its seams:

| seam | what your project does |
|---|---|
| schema | graphql-core's: in Strawberry `schema._schema` |
| sizes | each list has `first`, `last` or a name in `SIZES`, with a default |
| limits | about twice the largest of your own screens |
| statements | a loader for each relation; `also` has the other fields that ask |
| refusal | answers `str(refused)` in `errors`; nothing has run |

A shop, with a list of orders:

```python
SHOP = build_schema('''
type Query { orders(first: Int! = 10): [Order!]! }
type Order { id: ID! customer: Customer! }
type Customer { name: String! orders(first: Int! = 10): [Order!]! }
''')


async def answer(body, root, limits):
    variables, name = body.get("variables"), body.get("operationName")
    try:
        document, _ = admit(SHOP, body["query"], limits, variables, name)
    except Refused as refused:
        return {"errors": [{"message": str(refused)}]}
    result = execute(
        SHOP, document, root, variable_values=variables, operation_name=name
    )
    if isawaitable(result):  # not when no resolver is `async`
        result = await result
    found = {"data": result.data}
    if result.errors:
        found["errors"] = [error.formatted for error in result.errors]
    return found
```

Traps:

- **A list without a size** counts as `Limits.rows`, and its resolver has to keep to
  that. A size in an input object, as in `page: {limit: 9}`, is not seen. A list
  of lists counts as one list.
- **Without loaders** a field asks once for each row above it, and `statements` is too
  low.
- **Requests are not equal.** Count the weight against a caller's allowance.
- **A known query has variables**, and the client chooses them. So `admit` it as well.
- **`error.formatted`** has the text of any exception. If you have lifted
  [graphql_api](graphql_api.ipynb), call its `shown` there.
- **The body is the client's.** Check that `query` is a text and `variables` is a dict
  or null, for example with a Pydantic model. `admit` expects that.
- **Batches.** Some servers take a list of queries in one request. Refuse that.
- **Mutations** are weighed as well; how often one field may be asked for, is yours.

Hand it over:

- **Front end**: the limits, and what the weight of each screen is.
- **Security**: introspection off; hostile queries in a test, each with 0 statements.
- **Operations**: log refused queries by their hash; a text may hold somebody's data.
- **Tests**: each screen is admitted with half of the limits.

## In short

You can tell the depth, cost and statements of a query from its text, with variables,
aliases and fragments. A hostile query ends before a statement runs, with one line that
says why. And you know when to accept only known queries.

## Sources

OWASP ASVS 5.0, 4.3 (GraphQL). OWASP GraphQL Cheat Sheet. GraphQL specification,
September 2025, 5 (validation). GraphQL over HTTP, draft, appendix on persisted
documents. graphql-core 3.3, `parse`, `validate` and `get_argument_values`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [GraphQL](graphql_api.ipynb) · [course map](../index.ipynb) · Next: [Contract](contract.ipynb)
"""
