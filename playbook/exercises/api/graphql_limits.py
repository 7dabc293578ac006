"""The exercise of the page "GraphQL limits": its checker, its hints, wrong answers; and the service of its stage."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import graphql as g
import sqlalchemy as sa
from fastapi import Body, FastAPI
from strawberry.dataloader import DataLoader

from playbook.api.graphql_api import batch
from playbook.exercises.api.graphql_api import Cost, Reads, ask, cost_of, new_database
from playbook.kit.exercises import checker
from playbook.kit.lesson import show, table

SDL = """
type Query { packages(first: Int! = 20): [Package!]! }
type Package { name: String!  organization: Organization!  releases(first: Int! = 3): [Release!]! }
type Organization { name: String!  packages(first: Int! = 20): [Package!]! }
type Release { version: String! }
"""


def catalogue() -> g.GraphQLSchema:
    """The schema of the page before, written as text. Its resolvers have a loader for each relation."""
    schema = g.build_schema(SDL)

    def resolver(type_: str, name: str, key: str, of: str, many: bool = True) -> None:
        async def resolve(row: Any, info: g.GraphQLResolveInfo[Any], first: int = 0) -> Any:
            reads, loaders = info.context
            if (name, first) not in loaders:
                read = getattr(reads, {"packages": "packages_of", "releases": "releases_of"}.get(name, "organizations"))
                read = partial(read, first=first) if many else read
                loaders[name, first] = DataLoader(batch(read, lambda found: getattr(found, of), many))
            return await loaders[name, first].load(getattr(row, key))

        kind = schema.type_map[type_]
        assert isinstance(kind, g.GraphQLObjectType)
        kind.fields[name].resolve = resolve

    async def packages(_: Any, info: g.GraphQLResolveInfo[Any], first: int) -> Any:
        return info.context[0].first_packages(first)

    assert schema.query_type is not None
    schema.query_type.fields["packages"].resolve = packages
    resolver("Package", "organization", "owner", "name", many=False)
    resolver("Package", "releases", "name", "package")
    resolver("Organization", "packages", "name", "owner")
    return schema


async def execute(schema: g.GraphQLSchema, document: g.DocumentNode, reads: Reads) -> dict[str, Any]:
    """The answer, with new loaders."""
    result = g.execute(schema, document, context_value=(reads, {}))
    assert not isinstance(result, g.ExecutionResult)
    found: Any = await result
    errors = [{"message": error.message} for error in found.errors or ()]
    return {"data": found.data} | ({"errors": errors} if errors else {})


def unlimited(schema: g.GraphQLSchema, reads: Reads) -> FastAPI:
    """A service that runs whatever arrives."""
    app = FastAPI()

    @app.post("/graphql")
    async def graphql(query: str = Body(embed=True)) -> dict[str, Any]:
        try:
            return await execute(schema, g.parse(query), reads)
        except g.GraphQLError as error:
            return {"errors": [{"message": error.message}]}

    return app


def tried(app: FastAPI, engine: sa.Engine, queries: Mapping[str, str]) -> dict[str, Cost]:
    """Each query over HTTP: what it cost, shown as a table."""
    costs = {name: cost_of(app, engine, ask(query)) for name, query in queries.items()}
    columns = ["query", "bytes sent", "statements", "bytes received"]
    show(table([(name, cost.sent, cost.statements, cost.received) for name, cost in costs.items()], columns))
    return costs


def stage(url: str) -> tuple[sa.Engine, Reads, g.GraphQLSchema]:
    """The database of the page, what reads it, and the schema."""
    engine = new_database(url)
    return engine, Reads(engine), catalogue()


def deep(levels: int) -> str:
    """A query of `levels` levels: the first package's organization, its first package, and so on."""
    turns = levels // 2 - 1
    return "{ packages(first: 1) { " + "organization { packages(first: 1) { " * turns + "name" + " }" * (2 * turns + 2)


def aliased(times: int) -> str:
    """The same list of one row again and again, each under another name."""
    return "{" + "".join(f" a{number}: packages(first: 1) {{ name }}" for number in range(times)) + " }"


def bomb(fragments: int) -> str:
    """A chain of fragments, each of which uses the next one twice."""
    twice = "fragment f{} on Organization {{ ...f{} ...f{} }} "
    chain = "".join(twice.format(number, number + 1, number + 1) for number in range(fragments - 1))
    last = f"fragment f{fragments - 1} on Organization {{ packages {{ name }} }}"
    return "{ packages { organization { ...f0 } } } " + chain + last


HINTS = (
    "Look at `of_fragment`: there are three kinds of nodes in a selection set. Which of\n"
    "them can hold the field that you count?",
    "Count in a function of a selection set that calls itself. A field counts one if its\n"
    "name is the one; a fragment counts what is in it, each time that it is used.",
)

WRONG = (
    # the text has the word in other places, too
    """
def attempts(document, name):
    return g.print_ast(document).count(name)
""",
    # fields only: what stands in a fragment is not seen
    """
def attempts(document, name):
    [operation] = [one for one in document.definitions if isinstance(one, g.OperationDefinitionNode)]
    nodes = operation.selection_set.selections
    return sum(isinstance(node, g.FieldNode) and node.name.value == name for node in nodes)
""",
    # each field once, whatever its alias: as if the names in the answer did not matter
    """
def attempts(document, name):
    parts = {one.name.value: one for one in document.definitions if isinstance(one, g.FragmentDefinitionNode)}
    def found(selection_set):
        names = set()
        for node in selection_set.selections:
            if isinstance(node, g.FieldNode):
                names.add(node.name.value)
            elif isinstance(node, g.InlineFragmentNode):
                names |= found(node.selection_set)
            else:
                names |= found(parts[node.name.value].selection_set)
        return names
    [operation] = [one for one in document.definitions if isinstance(one, g.OperationDefinitionNode)]
    return int(name in found(operation.selection_set))
""",
    # the fields of all levels
    """
def attempts(document, name):
    count = 0
    class Visit(g.Visitor):
        def enter_field(self, node, *_):
            nonlocal count
            count += node.name.value == name
    g.visit(document, Visit())
    return count
""",
)

CASES = (
    ("one", "mutation { signIn(email: $e) { ok } }", 1),
    ("three aliases", "mutation { a: signIn { ok } b: signIn { ok } c: signIn { ok } }", 3),
    ("an alias that looks like it", "mutation { signIn: signOut { ok } other: signIn { ok } }", 1),
    ("a fragment that is used twice", "mutation { ...f ...f } fragment f on Mutation { a: signIn { ok } }", 2),
    ("a fragment in a fragment", "mutation { ...f } fragment f on Mutation { ...g } fragment g on Mutation "
     "{ a: signIn { ok } b: signIn { ok } }", 2),
    ("without a name of its own", "mutation { ... { a: signIn { ok } ... on Mutation { b: signIn { ok } } } }", 2),
    ("below another field", "mutation { signOut { signIn } }", 0),
)  # fmt: skip


@checker
def check(attempts: Callable[[g.DocumentNode, str], Any]) -> str:
    """Aliases, fragments, fragments in fragments; not what lies deeper."""
    for (about, text, number), again in itertools.product(CASES, (False, True)):
        document = g.parse(text)
        found = attempts(document, "signIn")
        if found != number:
            return f"not yet: {about}: {found} in place of {number}, for {text}"
        if again and attempts(document, "nothing") != 0:
            return "not yet: a field that is not asked for is counted"
    return "right"
