"""What the recipe promises, with a shop. Needs pytest, hypothesis, strawberry-graphql, nothing else."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import graphql as g
import pytest
import strawberry
from hypothesis import given
from hypothesis import strategies as st
from strawberry.dataloader import DataLoader

from playbook.api.graphql_api import batch, shown


class Row(NamedTuple):
    id: int
    name: str


@strawberry.enum
class State(Enum):
    PAID = "paid"


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


async def answer(schema, query, read_customers):  # type: ignore[no-untyped-def]
    customers = DataLoader(batch(read_customers, lambda row: row.id))
    result = await schema.execute(query, context_value={"customers": customers})
    errors = [shown(error) for error in result.errors or ()]
    return {"data": result.data} | ({"errors": errors} if errors else {})


@strawberry.type
class Query:
    @strawberry.field
    def orders(self, info: strawberry.Info) -> list[Order]:
        return [Order(id=1, customer_id=7), Order(id=2, customer_id=8), Order(id=3, customer_id=7)]

    @strawberry.field
    def broken(self) -> int | None:
        raise ValueError("s3cret")

    @strawberry.field
    def refused(self) -> int | None:
        raise g.GraphQLError("not in this month", extensions={"code": "CLOSED"})

    @strawberry.field
    def missing(self) -> int:
        return None  # type: ignore[return-value]

    @strawberry.field
    def number(self) -> int | None:
        return "s3cret"  # type: ignore[return-value]

    @strawberry.field
    async def later(self) -> int | None:
        return "s3cret"  # type: ignore[return-value]

    @strawberry.field
    def state(self) -> State | None:
        return "s3cret"  # type: ignore[return-value]

    @strawberry.field
    def many(self) -> list[Customer] | None:
        return 7  # type: ignore[return-value]

    @strawberry.field
    async def closed(self) -> int | None:
        raise g.GraphQLError("not in this month")

    @strawberry.field
    def page(self, first: int = 3) -> int | None:
        return first


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("strawberry.execution"), "disabled", True)


def ask(query: str, read: Any = lambda keys: []) -> dict[str, Any]:
    answered: dict[str, Any] = asyncio.run(answer(strawberry.Schema(Query), query, read))
    return answered


def test_a_shop_reads_the_customers_of_all_orders_at_once() -> None:
    asked: list[Sequence[int]] = []

    def read(keys: Sequence[int]) -> list[Row]:
        asked.append(list(keys))
        return [Row(8, "Bob"), Row(7, "Ada")]

    query = "{ a: orders { id customer { name } } b: orders { customer { id } } }"
    assert ask(query, read) == {
        "data": {
            "a": [{"id": n, "customer": {"name": name}} for n, name in ((1, "Ada"), (2, "Bob"), (3, "Ada"))],
            "b": [{"customer": {"id": n}} for n in (7, 8, 7)],
        },
    }, "`errors` is there only when there is one (GraphQL, 7.1)"
    assert asked == [[7, 8]]


def test_who_is_not_there_or_may_not_be_seen_is_null() -> None:
    assert ask("{ orders { customer { name } } }")["data"] == {"orders": [{"customer": None}] * 3}


keys = st.lists(st.integers(0, 6), unique=True, max_size=7)


@given(keys=keys, rows=st.lists(st.tuples(st.integers(0, 9), st.integers()), max_size=20))
def test_each_key_gets_its_rows_in_the_order_of_the_rows(keys: list[int], rows: list[tuple[int, int]]) -> None:
    asked: Counter[int] = Counter()

    def read(given: list[int]) -> list[tuple[int, int]]:
        asked.update(given)
        return rows

    lists = asyncio.run(batch(read, lambda row: row[0], many=True)(keys))
    assert lists == [[row for row in rows if row[0] == key] for key in keys]
    assert asked == Counter(keys)
    single = asyncio.run(batch(read, lambda row: row[0])(keys))
    assert single == [some[0] if some else None for some in lists]


def test_an_exception_is_logged_and_hidden(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        found = ask("{ here: broken }")
    assert found["data"] == {"here": None}
    [error] = found["errors"]
    assert error == {"message": "internal error", "locations": [{"line": 1, "column": 3}], "path": ["here"]}
    [record] = [one for one in caplog.records if one.name.endswith("graphql_api")]
    assert record.exc_info is not None
    assert "s3cret" in str(record.exc_info[1])
    assert "s3cret" not in str(found)


def test_what_is_said_to_the_client_arrives() -> None:
    [error] = ask("{ refused }")["errors"]
    assert (error["message"], error["extensions"]) == ("not in this month", {"code": "CLOSED"})
    [error] = ask("{ unknown }")["errors"]
    assert "unknown" in error["message"]


def test_a_fault_of_a_resolver_is_hidden_too() -> None:
    """null where the schema has none: the message would name the schema's types."""
    found = ask("{ missing }")
    assert found["data"] is None
    assert [error["message"] for error in found["errors"]] == ["internal error"]


@pytest.mark.parametrize("field", ["number", "later", "state", "many { name }"])
def test_a_value_that_does_not_fit_the_schema_is_logged_and_hidden(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """graphql-core says it with a GraphQLError of its own, which has the value or the type in its text."""
    with caplog.at_level(logging.ERROR):
        found = ask(f"{{ {field} }}")
    assert [error["message"] for error in found["errors"]] == ["internal error"]
    assert [one.levelname for one in caplog.records if one.name.endswith("graphql_api")] == ["ERROR"]


def test_what_the_client_has_done_wrong_is_said_to_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert [error["message"] for error in ask("{ closed }")["errors"]] == ["not in this month"]
        text, schema = "query($n: Int) { page(first: $n) }", strawberry.Schema(Query)
        for number, says in ((None, "Argument 'first' has invalid value"), ("x", "Variable '$n' has invalid value")):
            result = asyncio.run(schema.execute(text, variable_values={"n": number}))
            [error] = result.errors or []
            assert shown(error)["message"].startswith(says)
    assert [one for one in caplog.records if one.name.endswith("graphql_api")] == []
