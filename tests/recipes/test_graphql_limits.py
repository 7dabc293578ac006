"""What the recipe promises, with a shop. Needs pytest, hypothesis and graphql-core, nothing else."""

import asyncio
from inspect import isawaitable
from typing import Any

import graphql as g
import pytest
from graphql import build_schema, execute
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.api.graphql_limits import SIZES, Limits, Refused, Weight, admit, by_id, rows_of

SHOP = build_schema("""
type Query { orders(first: Int! = 10): [Order!]! }
type Order { id: ID! customer: Customer! }
type Customer { name: String! orders(first: Int! = 10): [Order!]! }
""")


async def answer(body, root, limits):  # type: ignore[no-untyped-def]
    variables, name = body.get("variables"), body.get("operationName")
    try:
        document, _ = admit(SHOP, body["query"], limits, variables, name)
    except Refused as refused:
        return {"errors": [{"message": str(refused)}]}
    result = execute(SHOP, document, root, variable_values=variables, operation_name=name)
    if isawaitable(result):  # not when no resolver is `async`
        result = await result
    found = {"data": result.data}
    if result.errors:
        found["errors"] = [error.formatted for error in result.errors]
    return found


SCHEMA = build_schema("""
type Query {
  item: Item
  items(first: Int! = 3, last: Int): [Item!]!
  some(first: Int): [Item]
  all: [Item!]!
  page(first: Int! = 2): Page!
  any: [Thing!]!
  search(by: Filter): [Item!]!
}
input Filter { word: String }
type Page { edges: [Edge!]!  total: Int! }
type Edge { node: Item! }
interface Named { name: String! }
type Item implements Named {
  name: String!  other: String  tags: [String!]!  item: Item  items(first: Int! = 3): [Item!]!
}
type Shop implements Named { name: String!  items(first: Int! = 3): [Item!]! }
union Thing = Item | Shop
""")
WIDE = Limits(tokens=100_000, depth=1000, cost=10**12, statements=10**12, also=frozenset({"other"}), rows=7)


def weight(text: str, limits: Limits = WIDE, variables: Any = None, operation: str | None = None) -> Weight:
    return admit(SCHEMA, text, limits, variables, operation)[1]


def refusal(text: str, limits: Limits = Limits(), variables: Any = None, operation: str | None = None) -> str:  # noqa: B008
    with pytest.raises(Refused) as caught:
        admit(SCHEMA, text, limits, variables, operation)
    return str(caught.value)


def test_a_shop_answers_small_queries_and_refuses_large_ones() -> None:
    root = {"orders": lambda info, first: [{"id": n, "customer": {"name": "Ada"}} for n in range(first)]}
    body = {"query": "query q($n: Int!) { orders(first: $n) { id customer { name } } } query other { orders { id } }"}
    small = {**body, "variables": {"n": 2}, "operationName": "q"}
    orders = [{"id": str(n), "customer": {"name": "Ada"}} for n in (0, 1)]
    assert asyncio.run(answer(small, root, Limits())) == {"data": {"orders": orders}}
    large = {**body, "variables": {"n": 2000}, "operationName": "q"}
    assert asyncio.run(answer(large, root, Limits())) == {
        "errors": [{"message": "cost: 8000, at most 5000"}]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ item { name } }", (2, 2, 1)),
        ("{ items { name } }", (2, 6, 1)),
        ("{ items(first: 5) { name name: name a: name } }", (2, 20, 1)),
        ("{ items(first: 0) { name } }", (2, 2, 1)),  # a list of no rows is a statement, too
        ("{ items(first: 0) { items(first: 5) { name } } }", (3, 11, 2)),
        ("{ items(last: 9) { name } }", (2, 18, 1)),  # the default of `first` is smaller
        ("{ some { name } }", (2, 14, 1)),  # no size: `rows`
        ("{ some(first: null) { name } }", (2, 14, 1)),
        ("{ all { name tags } }", (2, 7 * (1 + 1 + 7), 1)),
        ("{ page { total edges { node { name } } } }", (4, 1 + 1 + 2 * 3, 3)),
        (
            "{ page(first: 4) { a: edges { node { name } } edges { node { items { name } } } } }",
            (5, 1 + 4 * 3 + 4 * 8, 6),
        ),
        ("{ items { __typename ... on Item { name } ...f } } fragment f on Named { name }", (2, 12, 1)),
        ("{ any { ... on Item { item { name } } ... on Shop { items { name } } } }", (3, 7 * (1 + 2 + 6), 3)),
        ("{ page { ...p } } fragment p on Page { edges { node { name } } }", (4, 1 + 2 * 3, 3)),
        ("{ item @skip(if: true) { name } }", (2, 2, 1)),  # what is skipped counts, too
        ("query($n: Int!) { items(first: $n) { name } }", (2, 8, 1)),
        ("query($n: Int! = 2) { items(first: $n) { name } }", (2, 8, 1)),
        ("query a { item { name } } query q { items { name } }", (2, 6, 1)),
        ("{ a: items(first: 1) { name } b: items(first: 1) { name } }", (2, 4, 2)),
        ("{ items { ...f } items { ...f } } fragment f on Item { item { name } }", (3, 18, 4)),
        ("{ items { name other } a: all { other } }", (2, 3 * 3 + 7 * 2, 4)),  # `other` is in `also`
    ],
)
def test_weights(text: str, expected: tuple[int, int, int]) -> None:
    variables = {"n": 4} if "$n" in text else None
    assert weight(text, variables=variables, operation="q" if "query q" in text else None) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{ item { ", "Syntax Error: Expected Name, found <EOF>."),
        ("", "Syntax Error: Unexpected <EOF>."),
        ("{ nothing }", "Cannot query field 'nothing' on type 'Query'."),
        ("{ item }", "Field 'item' of type 'Item' must have a selection of subfields."),
        ("{ itemz { name } }", "Cannot query field 'itemz' on type 'Query'."),  # and suggests no other
        ("mutation { item { name } }", "The mutation operation is not supported by the schema."),
        ("{ items(first: -1) { name } }", "items: a number of rows is below 0"),
        ("query($n: Int!) { items(first: $n) { name } }", "Variable '$n' has invalid value: Expected a value"),
        ("query a { item { name } } query b { item { name } }", "no operation, or several: name the one to run"),
        ("fragment f on Item { name }", "no operation, or several: name the one to run"),
        ("{ item { ...f } } fragment f on Item { item { ...f } }", "fragments within fragments, more than 10 deep"),
        ("{ item { ...f } }", "Unknown fragment 'f'."),
        ("{ item { ...f } } fragment f on Nothing { name }", "Unknown type 'Nothing'."),
        ("{ ... on Filter { word } }", "Fragment cannot condition on non composite type 'Filter'."),
        ("{ ...f } fragment f on Filter { word }", "Fragment 'f' cannot condition on non composite type 'Filter'."),
        ("{ x: __schema { types { name } } }", "this service does not answer introspection"),
        ("{ ...f } fragment f on Query { __type(name: \"I\") { name } }", "this service does not answer introspection"),
        ("{ items(first: 10000000000) { name } }", "Argument 'first' has invalid value"),
    ],
)  # fmt: skip
def test_one_sentence_says_what_is_wrong(text: str, says: str) -> None:
    found = refusal(text)
    assert found == says or (found.startswith(says) and "\n" not in found)


def test_depth_cost_statements_and_tokens_have_their_limits() -> None:
    text = "{ items(first: 10) { item { name } } }"
    assert weight(text, Limits(depth=3, cost=30, statements=2, tokens=14)) == (3, 30, 2)
    assert refusal(text, Limits(depth=2)) == "depth: 3, at most 2"
    assert refusal(text, Limits(cost=29)) == "cost: 30, at most 29"
    assert refusal(text, Limits(statements=1)) == "statements: 2, at most 1"
    assert "more than 13 tokens" in refusal(text, Limits(tokens=13))


def test_a_size_of_another_name_is_seen_when_it_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = build_schema("type Query { songs(limit: Int! = 10): [Song!]! } type Song { title: String! }")
    text = "{ songs(limit: 3000) { title } }"
    assert admit(schema, text, Limits())[1].cost == 200  # as many as `rows`, whatever the client asks for
    monkeypatch.setitem(rows_of.__globals__, "SIZES", (*SIZES, "limit"))
    with pytest.raises(Refused, match="cost: 6000, at most 5000"):
        admit(schema, text, Limits())


def test_a_thousand_levels_are_refused_however_they_are_written() -> None:
    fields = "{" + "item {" * 1000 + "name" + "}" * 1001
    inline = "{ item " + "{ ... " * 1000 + "{ name }" + "}" * 1001
    lists = "query($x: " + "[" * 1000 + "Int" + "]" * 1000 + ") { item { name } }"
    chain = "{ item { ...f0 } }" + "".join(f" fragment f{n} on Item {{ ...f{n + 1} }}" for n in range(1000))
    for text in (fields, inline, lists, chain):
        for tokens in (1000, 1_000_000):
            assert refusal(text, Limits(tokens=tokens))


@pytest.mark.parametrize("size", [20, 40])
def test_a_bomb_of_fragments_costs_the_service_little(size: int) -> None:
    chain = "".join(f" fragment f{n} on Item {{ ...f{n + 1} ...f{n + 1} }}" for n in range(size))
    text = "{ item { ...f0 } }" + chain + f" fragment f{size} on Item {{ name }}"
    calls = 0
    argument_values = g.get_argument_values

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return argument_values(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(g, "get_argument_values", counted)
        found = refusal(text, Limits(depth=100, tokens=10_000))
    assert found == f"cost: {1 + 2**size}, at most 5000"
    assert calls <= 2


def test_introspection_where_it_is_allowed() -> None:
    limits = Limits(introspection=True)
    document, _ = admit(SCHEMA, g.get_introspection_query(), limits)
    result = g.execute(SCHEMA, document)
    assert isinstance(result, g.ExecutionResult)
    assert result.errors is None
    assert "Did you mean 'item' or 'items'?" in refusal("{ itemz { name } }", limits)
    round_and_round = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"
    assert "introspection depth" in refusal(round_and_round, limits)


def test_known_queries_have_the_hash_that_clients_compute() -> None:
    """As `printf '{ item { name } }' | sha256sum` says."""
    first = "sha256:bb7587f3d5eae3bfb12d4efc14b2020a7047f0313131f27f5194c93a3cd7f36d"
    known = by_id(["{ item { name } }", "{ items { name } }"])
    assert list(known.values()) == ["{ item { name } }", "{ items { name } }"]
    assert known[first] == "{ item { name } }"


# ---------------------------------------------------------------- the weight is never less than the answer

FIELDS = st.deferred(lambda: st.lists(FIELD, min_size=1, max_size=3).map(" ".join))
SIZE = st.one_of(st.just(""), st.integers(0, 4).map("(first: {})".format), st.just("(first: $n)"))
FIELD = st.one_of(
    st.just("name"),
    st.just("other"),
    st.just("tags"),
    st.just("...f"),
    st.builds(lambda inner: f"item {{ {inner} }}", FIELDS),
    st.builds(lambda inner: f"... on Item {{ {inner} }}", FIELDS),
    st.builds(lambda number, size, inner: f"a{number}: items{size} {{ {inner} }}", st.integers(0, 99), SIZE, FIELDS),
)


def size_of(value: Any) -> int:
    """How many values an answer holds: objects, scalars, items of lists; a list itself is none."""
    if isinstance(value, dict):
        return 1 + sum(size_of(one) for one in value.values())
    return sum(size_of(one) for one in value) if isinstance(value, list) else 1


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(one) for one in value.values()), default=0)
    return max((depth_of(one) for one in value), default=0) if isinstance(value, list) else 0


class Item:
    """An item that holds as many others as it is asked for, and no more tags than `rows`."""

    name, other, tags = "a", "c", ("b",) * WIDE.rows

    @property
    def item(self) -> "Item":
        return self

    def items(self, info: Any, first: int) -> list["Item"]:
        return [self] * first


@settings(max_examples=150, deadline=None)
@given(fields=FIELDS, n=st.integers(0, 4))
def test_no_answer_is_larger_or_deeper_than_its_weight_or_takes_more_statements(fields: str, n: int) -> None:
    """A statement: what a field asks for all rows above it, so one for each place in the answer, whatever the row."""
    text = f"query($n: Int! = 3) {{ items(first: $n) {{ x: name {fields} }} }} "
    text += "fragment f on Item { y: name z: items(first: $n) { name } }"
    text = text if "...f" in fields else text.replace("x: name", "x: name ...f")
    try:
        document, (depth, cost, statements) = admit(SCHEMA, text, WIDE, {"n": n})
    except Refused as refused:
        if "conflict" not in str(refused):  # two fields of one name that differ
            raise
        return
    asked = set()

    def resolve(row: Any, info: g.GraphQLResolveInfo[Any], **arguments: Any) -> Any:
        if info.field_name == "other" or g.is_composite_type(g.get_named_type(info.return_type)):
            asked.add(tuple(step for step in info.path.as_list() if isinstance(step, str)))
        return g.default_field_resolver(row, info, **arguments)

    result = g.execute(SCHEMA, document, Item(), variable_values={"n": n}, field_resolver=resolve)
    assert isinstance(result, g.ExecutionResult)
    assert result.errors is None
    assert size_of(result.data) - 1 <= cost
    assert depth_of(result.data) <= depth
    assert 0 < len(asked) <= statements
