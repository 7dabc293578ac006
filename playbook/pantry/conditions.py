"""Conditional requests (RFC 9110, 13): ETags, 304, 412 and 428.

A GET answers with the tag of its bytes. A write says by `If-Match` which state it changes, and the comparison happens
in the transaction that writes, or two clients pass it before either has written.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.datastructures import Headers

from playbook.foundations.deny_by_default import calls_of
from playbook.pantry.errors import CHANGED, MALFORMED, UNCONDITIONAL, WEAKENED, Problem

Model = TypeVar("Model", bound=BaseModel)


def representation(model: BaseModel) -> bytes:
    """The body that is sent for `model`: the one place that turns it into bytes."""
    return model.model_dump_json(by_alias=True).encode()


def etag(body: bytes) -> str:
    """The strong entity tag of a representation: equal if and only if the bytes are (RFC 9110, 8.8.1)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


# Then the rules of RFC 9110. A header holds a list of tags, and a tag may contain a comma, so splitting at commas is
# wrong. `If-Match` compares strongly: only equal bytes are safe to build on. `If-None-Match` compares weakly: for a
# copy "as good as" will do. `*` is any representation at all. Where a header cannot be read, the safe side differs: a
# GET answers in full, a write is refused. And a proxy that compresses marks the tag: Apache sends `"abc-gzip"`. That
# names the compressed form of the same bytes, so the mark is taken off; our own tags never have one.


TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
MARK = re.compile(r'(?:--?|[;:])(?:gzip|x-gzip|deflate|br|zstd)"$')  # of Apache, Caddy, Jetty
TAGS = re.compile(rf"[ \t,]*{TAG.pattern}(?:[ \t]*,[ \t,]*{TAG.pattern})*[ \t,]*")


def tags(headers: Headers, name: str) -> list[str] | None:
    """The tags in the header `name`, or `["*"]`; None if it is not there, empty if it is malformed."""
    if (lines := headers.getlist(name)) == []:
        return None
    field = ", ".join(lines)
    if field.strip() == "*":
        return ["*"]
    return [MARK.sub('"', tag) for tag in TAG.findall(field)] if TAGS.fullmatch(field) else []


def matches(asked: list[str], current: str | None, weak: bool) -> bool:
    """Whether one of the tags is `current`, the tag of what is there; None: nothing is (RFC 9110, 8.8.3.2)."""
    if current is None or asked == ["*"]:
        return current is not None
    if weak:
        return current.removeprefix("W/") in [tag.removeprefix("W/") for tag in asked]
    return current in asked and not current.startswith("W/")


def precondition(method: str, headers: Headers, current: str | None) -> int | None:
    """304 or 412 if a condition of the request does not hold, else None, in the order of RFC 9110, 13.2.2.

    `If-Modified-Since` and `If-Unmodified-Since` are ignored, as they must be where no `Last-Modified` is sent. Raises
    Problem (400) for a malformed `If-Match`.
    """
    if (asked := tags(headers, "If-Match")) == []:
        raise Problem(MALFORMED, 'If-Match: send * or tags in double quotes, as in "abc"')
    if asked is not None and not matches(asked, current, weak=False):
        return 412
    if (known := tags(headers, "If-None-Match")) is not None and matches(known, current, weak=True):
        return 304 if method in ("GET", "HEAD") else 412
    return None


@dataclass(frozen=True)
class Conditions:
    """The conditions of one request, and the answer that gets the tag."""

    request: Request
    response: Response

    def answer(self, result: BaseModel) -> Response:
        """200 with `result` and its tag, or 304 without a body; both with the endpoint's own headers.

        A 304 has the headers of the 200, because the client's copy is refreshed with them. `no-cache` means: ask before
        you use it. `private`, because a permission was checked, and a shared cache checks none. Raises Problem (412).
        """
        body = representation(result)
        current = etag(body)
        headers = self.response.headers
        headers["ETag"] = current
        headers.setdefault("Cache-Control", "private, no-cache")
        headers.add_vary_header("Accept")
        status = precondition(self.request.method, self.request.headers, current)
        if status == 412:
            raise changed_problem(self.request, current)
        answer = Response(status_code=304) if status == 304 else Response(body, media_type="application/json")
        answer.raw_headers.extend(headers.raw)
        return answer

    def check(self, current: BaseModel) -> None:
        """For a write, in its transaction: `current` is what GET answers. Raises Problem: 412, or 428 without If-Match.

        When the commit meets a conflict, the transaction is done again, and this with it.
        """
        tag = etag(representation(current))
        if precondition(self.request.method, self.request.headers, tag) is not None:
            raise changed_problem(self.request, tag)
        if "If-Match" not in self.request.headers:
            raise Problem(UNCONDITIONAL, "send If-Match with the ETag of what you read")

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
    if f"W/{current}" in (tags(request.headers, "If-Match") or ()):
        return Problem(WEAKENED, f"a proxy that compresses put W/ before it; If-Match takes {current}", headers)
    return Problem(CHANGED, "the tag is not the current one: read again, do not send this tag again", headers)


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
