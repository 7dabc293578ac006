"""Conditional requests (RFC 9110, 13) on every route: the recipe compares, and Pantry says what came out.

A GET answers with the tag of its bytes. A write says by `If-Match` which state it changes, and the comparison happens
in the transaction that writes, or two clients pass it before either has written.

`If-Modified-Since` and `If-Unmodified-Since` are ignored, as they must be where no `Last-Modified` is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from playbook.api.conditional_requests import check_match, check_write, etag, not_modified, read_tags
from playbook.api.errors import Problem
from playbook.foundations.deny_by_default import calls_of
from playbook.pantry.errors import CHANGED, MALFORMED, UNCONDITIONAL, WEAKENED

Model = TypeVar("Model", bound=BaseModel)


def representation(model: BaseModel) -> bytes:
    """The body that is sent for `model`: the one place that turns it into bytes."""
    return model.model_dump_json(by_alias=True).encode()


@dataclass(frozen=True)
class Conditions:
    """The conditions of one request, and the answer that gets the tag."""

    request: Request
    response: Response

    def answer(self, result: BaseModel) -> Response:
        """200 with `result` and its tag, or 304 without a body; both with the endpoint's own headers.

        A 304 has the headers of the 200, because the client's copy is refreshed with them. `no-cache` means: ask before
        you use it. `private`, because a permission was checked, and a shared cache checks none. Raises Problem: 412 or
        400 for who sends `If-Match` to a GET.
        """
        return self.answer_bytes(representation(result))

    def answer_bytes(self, body: bytes) -> Response:
        """`answer`, of the `representation` of a result."""
        current = etag(body)
        self.refuse_unless(check_match, current)
        headers = self.response.headers
        headers["ETag"] = current
        headers.setdefault("Cache-Control", "private, no-cache")
        headers.add_vary_header("Accept")
        answer = not_modified(self.request, current) or Response(body, media_type="application/json")
        del answer.headers["ETag"], answer.headers["Cache-Control"]  # those of the recipe's 304: the endpoint's stand
        answer.raw_headers.extend(headers.raw)
        return answer

    def check(self, current: BaseModel) -> None:
        """For a write, in its transaction: `current` is what GET answers. Raises Problem: 412, or 428 without If-Match.

        400 for an If-Match that cannot be read. When the commit meets a conflict, the transaction is done again, and
        this with it.
        """
        self.refuse_unless(check_write, etag(representation(current)))

    def refuse_unless(self, check: Callable[[Request, str], None], current: str) -> None:
        """Ask the recipe's `check`; what it refuses gets its type and its words here, and nowhere else."""
        try:
            check(self.request, current)
        except HTTPException as refused:
            if refused.status_code == 400:
                raise Problem(MALFORMED, 'If-Match: send * or tags in double quotes, as in "abc"') from None
            if refused.status_code == 428:
                raise Problem(UNCONDITIONAL, "send If-Match with the ETag of what you read") from None
            raise changed_problem(self.request, current) from None

    def tagged(self, changed: Model) -> Model:
        """`changed`, whose tag goes into the answer: the client can go on editing without a GET."""
        self.response.headers["ETag"] = etag(representation(changed))
        return changed


async def read_conditions(request: Request, response: Response) -> Conditions:
    """For a GET; the OpenAPI document knows by it what the route can answer."""
    return Conditions(request, response)


async def write_conditions(request: Request, response: Response) -> Conditions:
    """For a PATCH or DELETE; by it `unguarded_routes` knows that a route asks for `If-Match`."""
    return Conditions(request, response)


Reading = Annotated[Conditions, Depends(read_conditions)]
Writing = Annotated[Conditions, Depends(write_conditions)]


def changed_problem(request: Request, current: str) -> Problem:
    """412 with the current tag. nginx and CDNs that compress make tags weak: that gets its own type and words."""
    headers = {"ETag": current}
    if f"W/{current}" in read_tags(", ".join(request.headers.getlist("If-Match"))):
        return Problem(WEAKENED, f"a proxy that compresses put W/ before it; If-Match takes {current}", headers=headers)
    return Problem(CHANGED, "the tag is not the current one: read again, do not send this tag again", headers=headers)


# What the headers and status codes mean, for the OpenAPI document. A route cannot declare `If-Match` as its parameter:
# without it 422 would come before 428.
HEADERS = {"ETag": {"description": "the entity tag of the representation", "schema": {"type": "string"}}}
ON_READ: dict[int | str, dict[str, Any]] = {200: {"headers": HEADERS}, 304: {"description": "You have it already."}}
ON_DELETE: dict[int | str, dict[str, Any]] = {
    kind.status: {"description": kind.title} for kind in (CHANGED, UNCONDITIONAL)
}
ON_WRITE: dict[int | str, dict[str, Any]] = ON_DELETE | {200: {"headers": HEADERS}}
TAG_LIST = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
IF_MATCH: dict[str, Any] = {
    "parameters": [
        {"name": "If-Match", "in": "header", "required": True, "schema": {"type": "string", "pattern": TAG_LIST}}
    ]
}
IF_NONE_MATCH: dict[str, Any] = {
    "parameters": [{"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}}]
}


def unguarded_routes(app: FastAPI) -> list[str]:
    """Routes (`PATCH /packages/{name}`) of `app` that write over something without asking for `If-Match`."""
    found = []
    for route in iter_route_contexts(app.routes):
        writes = (route.methods or set()) & {"PUT", "PATCH", "DELETE"}
        if writes and write_conditions not in calls_of(route.dependant):
            found.append(f"{'/'.join(sorted(writes))} {route.path}")
    return found
