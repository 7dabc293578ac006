"""Conditional requests (RFC 9110, 13): ETags, 304, 412 and 428."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from sqlalchemy import orm
from starlette.datastructures import Headers

from playbook.pantry.http import Transact, calls_of
from playbook.pantry.problems import MALFORMED, Problem, problem_type
from playbook.pantry.resources import organization_or_404, package_or_404, package_out, resources, shown

# New types of problem. 412 says that somebody was faster, or that a proxy made the tag weak; 428 says that the client
# did not even ask (RFC 6585).


CHANGED = problem_type("precondition-failed", 412, "It has changed since you read it", "Read it again, merge, retry.")
WEAKENED = problem_type("weak-tag", 412, "Nothing has changed, but the tag is weak", "Send it without `W/`.")
UNCONDITIONAL = problem_type("precondition-required", 428, "Say what you change", "Send `If-Match` with the ETag.")


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


# Reading. The tag is that of the bytes which are sent, since both are one variable. A 304 has the headers that the
# 200 would have had, for the copy that the client keeps is refreshed with them. `no-cache` does not forbid to keep
# it; it means: ask before you use it. `private`, because a permission was checked, and a shared cache checks none.


Exchange = tuple[Request, Response]


async def read_conditions(request: Request, response: Response) -> Exchange:
    """What a conditional GET needs of its request."""
    return request, response


def changed_problem(request: Request, current: str | None) -> Problem:
    """412 with the current tag. nginx and CDNs that compress make tags weak: that gets its own type and words."""
    headers = {"ETag": current} if current else None
    if current is not None and f"W/{current}" in (tags(request.headers, "If-Match") or ()):
        return Problem(WEAKENED, f"a proxy that compresses put W/ before it; If-Match takes {current}", headers)
    return Problem(CHANGED, "the tag is not the current one: read again, do not send this tag again", headers)


def answer_read(request: Request, response: Response, result: BaseModel) -> Response:
    """200 with the representation and its tag, or 304 without a body; `response` has the endpoint's own headers."""
    body = representation(result)
    response.headers["ETag"] = current = etag(body)
    response.headers.setdefault("Cache-Control", "private, no-cache")
    response.headers.add_vary_header("Accept")
    status = precondition(request.method, request.headers, current)
    if status == 412:
        raise changed_problem(request, current)
    answer = Response(status_code=304) if status == 304 else Response(body, media_type="application/json")
    answer.raw_headers.extend(response.headers.raw)
    return answer


# Writing. The check must be in the transaction that writes, or two clients pass it before either has written. So the
# endpoint's `transact` is replaced by one that reads the representation first, and if the commit meets a conflict,
# the next attempt checks again. After the work it reads once more: the answer has the new tag, and a client can go on
# editing without a GET.


T = TypeVar("T")
Reader = Callable[..., BaseModel]  # (session, **path parameters) -> what GET answers; raises 404


async def write_conditions(request: Request, response: Response) -> Exchange:
    """What a conditional write needs of its request; by its name `unguarded_routes` knows that a route has it."""
    return request, response


def current_tag(read: Reader, session: orm.Session, request: Request) -> str | None:
    """The tag of what is there. What is not there is None for PUT, which may create it, and 404 for other methods."""
    try:
        return etag(representation(read(session, **request.path_params)))
    except HTTPException as error:
        if error.status_code != 404 or request.method != "PUT":
            raise
        return None


def check_write(request: Request, current: str | None) -> None:
    """Raises Problem: 412 if a condition fails, 428 if the request does not say which state it changes."""
    if precondition(request.method, request.headers, current) is not None:
        raise changed_problem(request, current)
    if current is not None and "If-Match" not in request.headers:
        raise Problem(UNCONDITIONAL, "send If-Match with the ETag of what you read")


# `guarded` is that transaction. Whether the other client changes the row or deletes it makes no difference: to both
# engines it is a [conflict](../foundations/database.ipynb).


def guarded(transact: Transact, read: Reader, request: Request, response: Response) -> Transact:
    """`transact` that checks the precondition first, in the same transaction; an endpoint may use it once."""

    def run(work: Callable[[orm.Session], T]) -> T:  # on a conflict `checked` runs again, check included
        def checked(session: orm.Session) -> tuple[T, str | None]:
            check_write(request, current_tag(read, session, request))
            result = work(session)
            session.flush()
            return result, None if request.method == "DELETE" else current_tag(read, session, request)

        result, tag = transact(checked)
        if tag is not None:
            response.headers["ETag"] = tag
        return result

    return run


# A decorator brings both to an endpoint: `@conditional()` below `@router.get`, `@conditional(read)` below the methods
# that write. FastAPI looks at a function's signature to know what to give it, so the decorator adds one parameter
# there.


def conditional(read: Reader | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an endpoint conditional: a GET without `read`, a PUT, PATCH or DELETE with it.

    `read` gives what GET of the same URL answers. Raises TypeError for a writing endpoint without a `transact`, and
    for an async one.
    """

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(endpoint)
        if read is not None and "transact" not in signature.parameters:
            raise TypeError(f"{endpoint.__name__} takes no `transact`: there is nothing to guard")
        if inspect.iscoroutinefunction(endpoint):
            raise TypeError(f"{endpoint.__name__} is async: write it with `def`, its transaction blocks")

        @wraps(endpoint)
        def run(*, exchange: Exchange, **arguments: Any) -> Any:
            if read is None:
                return answer_read(*exchange, endpoint(**arguments))
            return endpoint(**arguments | {"transact": guarded(arguments["transact"], read, *exchange)})

        needs: Any = Depends(read_conditions if read is None else write_conditions)
        added = inspect.Parameter("exchange", inspect.Parameter.KEYWORD_ONLY, default=needs, annotation=Exchange)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), added]
        )
        return run

    return decorate


# The organizations and packages exist already. They are not written again: a router goes in and a router with the
# same routes comes out, every GET and every writing method decorated. A route that writes and has no reader is an
# error, not a gap. What the headers and status codes mean goes into the OpenAPI document.


WRITES = {"PUT", "PATCH", "DELETE"}
HEADERS = {"ETag": {"description": "the entity tag of the representation", "schema": {"type": "string"}}}
ON_READ: dict[int | str, dict[str, Any]] = {200: {"headers": HEADERS}, 304: {"description": "You have it already."}}
ON_WRITE: dict[int | str, dict[str, Any]] = {
    kind.status: {"description": kind.title} for kind in (CHANGED, UNCONDITIONAL)
}


def header(name: str, required: bool, **rule: str) -> dict[str, Any]:
    """The parameter `name`, for `openapi_extra`. A route cannot declare it: without `If-Match` 422 would come first."""
    parameter = {"name": name, "in": "header", "required": required, "schema": {"type": "string", **rule}}
    return {"parameters": [parameter]}


TAG_LIST = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
IF_MATCH, IF_NONE_MATCH = header("If-Match", True, pattern=TAG_LIST), header("If-None-Match", False)


def conditional_router(router: APIRouter, readers: Mapping[str, Reader]) -> APIRouter:
    """`router` with conditional routes; `readers` by path. Raises ValueError for a path that writes and has none."""
    made = APIRouter()
    names = inspect.signature(made.add_api_route).parameters.keys() - {"path", "endpoint"}
    for route in router.routes:
        assert isinstance(route, APIRoute)
        options: dict[str, Any] = {name: getattr(route, name) for name in names if hasattr(route, name)}
        endpoint, writes = route.endpoint, (route.methods or set()) & WRITES
        if writes and route.path not in readers:
            raise ValueError(f"{route.path} writes: give its reader, so that it can be guarded")
        if writes:
            endpoint = conditional(readers[route.path])(endpoint)
            tagged = {} if writes == {"DELETE"} else {200: {"headers": HEADERS}}
            options["responses"] = ON_WRITE | tagged | route.responses
            options["openapi_extra"] = IF_MATCH | (route.openapi_extra or {})
        elif "GET" in (route.methods or ()):
            endpoint = conditional()(endpoint)
            options["responses"] = ON_READ | route.responses
            options["openapi_extra"] = IF_NONE_MATCH | (route.openapi_extra or {})
        made.add_api_route(route.path, endpoint, **options)
    return made


READERS: dict[str, Reader] = {
    "/organizations/{slug}": lambda session, slug: shown(organization_or_404(session, slug)),
    "/packages/{name}": lambda session, name: package_out(package_or_404(session, name)),
}
conditional_resources = conditional_router(resources, READERS)


def unguarded_routes(app: FastAPI) -> list[str]:
    """Routes (`PATCH /packages/{name}`) of `app` that write over something without asking for `If-Match`."""
    found = []
    for route in iter_route_contexts(app.routes):
        writes = (route.methods or set()) & WRITES
        if writes and "write_conditions" not in calls_of(route.dependant):
            found.append(f"{'/'.join(sorted(writes))} {route.path}")
    return found
