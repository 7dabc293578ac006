"""POST /graphql: the catalogue for clients that choose their fields. Types and resolvers are in `graph_schema`.

Queries only. A write stays in REST, where it has a status, an ETag to compare and an idempotency key; a mutation would
need all three again. POST only: a URL is stored in logs and can be sent from any site, and a query may not fit in one.

Whatever is wrong with the request itself is a problem: no session, another site, too large, too often. What is wrong
with the query is GraphQL's, and stands in `errors` of a 200, which is what clients of GraphQL read (GraphQL over HTTP,
for `application/json`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import orm

from playbook.api.representations import JSON, Strict, gives_json, takes
from playbook.pantry.http import CurrentCaller, Transaction
from playbook.pantry.policy import VisibleOrganizations, VisiblePackages

if TYPE_CHECKING:
    from playbook.api.graphql_limits import Weight

# So many values of an answer, or statements, count as one request of the account's allowance.
VALUES_PER_REQUEST = 500
STATEMENTS_PER_REQUEST = 5

router = APIRouter(dependencies=[Depends(gives_json)])
Query = Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"^[^\x00]*$", description="A query in GraphQL.")]
Hash = Annotated[str, Field(max_length=200, pattern="^[!-~]+$", description="A known query: `sha256:` and its hash.")]
Operation = Annotated[str, Field(max_length=200, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]  # a Name of GraphQL's


class GraphQuery(Strict):
    """GraphQL over HTTP, 5.3: the parameters of a request, with either `query` or `documentId`.

    `extensions` is for other services, and ignored.
    """

    # Made by a factory, so that the document names no default that would not be valid.
    query: Query = Field(default_factory=str)
    document_id: Hash = Field(default_factory=str, alias="documentId")
    operation_name: Operation | None = Field(None, alias="operationName", description="Which operation to run.")
    variables: dict[str, Any] | None = Field(None, description="The values of its variables.")
    extensions: dict[str, Any] | None = Field(None, description="Ignored.")


class GraphAnswer(BaseModel):
    """`data` in the form of the query; left out when nothing has run. `errors` only if there are some."""

    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] | None = None


def text_of(asked: GraphQuery, known: Mapping[str, str] | None) -> str:
    """The query to run. `known`: the only ones that may; None: any. Raises Refused."""
    from playbook.api.graphql_limits import Refused, by_id

    if bool(asked.query) == bool(asked.document_id):
        raise Refused("send either `query` or `documentId`")
    if known is None and asked.document_id:
        raise Refused("this service knows no queries by `documentId`: send `query`")
    if known is None:
        return asked.query
    [name] = by_id([asked.query]) if asked.query else [asked.document_id]
    if name not in known:
        raise Refused(f"this service answers known queries only, and {name} is none")
    return known[name]


def requests(weight: "Weight") -> int:
    """As how many further requests a query counts."""
    return max(weight.cost // VALUES_PER_REQUEST, weight.statements // STATEMENTS_PER_REQUEST)


@router.post("/graphql", dependencies=[takes(JSON)], response_model=GraphAnswer)
def query_catalogue(
    asked: GraphQuery, request: Request, caller: CurrentCaller, visible_packages: VisiblePackages,
    visible_organizations: VisibleOrganizations, transact: Transaction,
) -> JSONResponse:  # fmt: skip
    """Read packages, releases and organizations in one request.

    The schema is `schema.graphql`. A query that is too deep, or whose answer could have too many values or take too
    many statements, is refused before it runs: `errors` says which limit it passed. Large queries count as several
    requests. A service may answer known queries only: then send the hash of one as `documentId`, or its text.
    """
    # Here and not above: Strawberry takes a third of a second to import. The first query pays it, in a thread, and not
    # each start of the service.
    from playbook.api.graphql_limits import Refused, admit
    from playbook.pantry import graph_schema

    limits = graph_schema.LIMITS if request.app.state.introspection else graph_schema.CLOSED
    variables, operation = asked.variables, asked.operation_name
    try:
        text = text_of(asked, request.app.state.known_queries)
        document, weight = admit(graph_schema.SCHEMA, text, limits, variables, operation)
    except Refused as refused:
        return JSONResponse({"errors": [{"message": str(refused)}]})
    spend: Callable[..., None] | None = getattr(request.app.state, "spend", None)
    if spend is not None and (times := requests(weight)):
        spend(caller.id, times)

    def work(session: orm.Session) -> dict[str, Any]:
        cursors = request.app.state.cursors
        context = partial(graph_schema.Context, session, cursors, visible_packages, visible_organizations)
        return graph_schema.run(context, document, variables, operation)

    return JSONResponse(transact(work))
