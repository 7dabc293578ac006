"""A route called without FastAPI answers as with it; what only FastAPI can give is refused when the service starts."""

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Body, Cookie, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from playbook.kit.live import serving
from playbook.pantry.direct import Direct

calls: list[str] = []


class Sent(BaseModel):
    size: int


class Wanted(BaseModel):
    limit: int = 20


class Got(BaseModel):
    who: str
    word: str
    limit: int
    size: int


async def who(request: Request) -> str:
    calls.append("who")
    return request.headers["x-who"]


Who = Annotated[str, Depends(who)]


async def checked(caller: Who, response: Response) -> None:
    calls.append(f"checked {caller}")
    response.headers["x-checked"] = caller


async def make(
    word: str, caller: Who, query: Annotated[Wanted, Query()], sent: Annotated[Sent, Body()], response: Response
) -> Got:
    calls.append("make")
    response.headers["location"] = f"/things/{word}"
    return Got(who=caller, word=word, limit=query.limit, size=sent.size)


def context_of(endpoint: Any, path: str = "/things/{word}", **options: Any) -> tuple[FastAPI, Any]:
    app = FastAPI(openapi_url=None)
    app.post(path, **options)(endpoint)
    (context,) = iter_route_contexts(app.routes)
    return app, context


def test_it_answers_as_fastapi_does_and_calls_each_dependency_once_in_order() -> None:
    app, context = context_of(make, status_code=201, dependencies=[Depends(checked)])
    calls.clear()
    with serving(app) as client:
        long = client.post("/things/a-b", json={"size": 3}, headers={"x-who": "Ada"})
    before = list(calls)
    calls.clear()
    route = Direct(context)
    assert route.path.fullmatch(b"/things/a-b")
    assert not any(
        route.path.fullmatch(path) for path in (b"/things/", b"/things/a/b", b"/things/a%20b", b"/things/\xc3")
    )
    scope = {"type": "http", "path_params": {"word": "a-b"}, "headers": [(b"x-who", b"Ada")]}
    answer = asyncio.run(route(Request(scope), {}, route.read(b'{"size": 3}')))
    assert calls == before == ["who", "checked Ada", "make"]
    assert (answer.status_code, bytes(answer.body)) == (long.status_code, long.content) == (201, long.content)
    assert sorted(answer.headers.items()) == sorted(pair for pair in long.headers.items() if pair[0] != "date")


def test_what_is_given_is_not_asked_for() -> None:
    _, context = context_of(make, dependencies=[Depends(checked)])
    route = Direct(context, [who])
    calls.clear()
    scope = {"type": "http", "path_params": {"word": "a"}, "headers": []}
    answer = asyncio.run(route(Request(scope), {who: "Bob"}, route.read(b'{"size": 3}')))
    assert calls == ["checked Bob", "make"]
    assert b'"who":"Bob"' in bytes(answer.body)


@pytest.mark.parametrize("sent", [b"{", b"[]", b"{}", b'{"size": "x"}', b""])
def test_a_bad_body_is_a_value_error(sent: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says, the long way says it better
        Direct(context_of(make)[1]).read(sent)


def plain(word: str) -> None: ...
async def number(word: int) -> None: ...
async def short(word: Annotated[str, Path(max_length=3)]) -> None: ...
async def header(word: str, x: Annotated[str, Header()]) -> None: ...
async def cookie(word: str, x: Annotated[str, Cookie()]) -> None: ...
async def tasks(word: str, later: BackgroundTasks) -> None: ...
async def parameter(word: str, x: int = 1) -> None: ...
async def required(word: str, query: Annotated[Sent, Query()]) -> None: ...
async def anything(word: str, sent: Annotated[Any, Body()]) -> None: ...
async def of_plain(word: str, found: Annotated[None, Depends(plain)]) -> None: ...


REFUSED = [plain, number, short, header, cookie, tasks, parameter, required, anything, of_plain]


@pytest.mark.parametrize("endpoint", REFUSED)
def test_what_only_fastapi_can_give_is_refused(endpoint: Any) -> None:
    with pytest.raises(ValueError, match=r"\w+ "):
        Direct(context_of(endpoint)[1])
