"""What the recipe promises, for FastAPI and Starlette. Needs pytest, fastapi and httpx, nothing else."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from playbook.api.resources import (
    METHODS,
    allowed_methods,
    ask,
    broken_promises,
    complete_methods,
    path_of,
)

BOOKS = "DELETE, GET, HEAD, OPTIONS"
tags: set[str] = set()


async def read_tag(request: Request) -> Response:
    name = request.path_params["name"]
    return JSONResponse(name, 200 if name in tags else 404)


async def delete_tag(request: Request) -> Response:
    tags.discard(request.path_params["name"])
    return Response(status_code=204)


async def create_tag(request: Request) -> Response:
    name = await request.json()
    tags.add(name)
    return JSONResponse(name, 201, {"Location": path_of(request, "read_tag", name=name)})


class Shelf(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("a shelf")


def routes() -> list[Any]:
    return [
        Route("/tags/{name:path}", delete_tag, methods=["DELETE"]),
        Route("/tags/{name:path}", read_tag),
        Route("/tags", create_tag, methods=["POST"]),
    ]


def starlette() -> Starlette:
    return Starlette(routes=[*routes(), Route("/shelf", Shelf)])


def fastapi() -> FastAPI:
    app, router = FastAPI(redirect_slashes=False), APIRouter()
    router.delete("/tags/{name:path}")(delete_tag)
    router.get("/tags/{name:path}")(read_tag)
    router.post("/tags")(create_tag)
    app.include_router(router)
    app.add_route("/shelf", Shelf)
    return app


@pytest.fixture(params=[starlette, fastapi])
def client(request: pytest.FixtureRequest) -> TestClient:
    tags.clear()
    tags.add("red")
    app = request.param()
    complete_methods(app)
    return TestClient(app, base_url="http://mallory.example")


def test_allow_is_complete_whatever_route_comes_first(client: TestClient) -> None:
    refused = client.put("/tags/red")
    assert (refused.status_code, refused.headers["allow"]) == (405, BOOKS)
    assert refused.text  # the project's own words
    assert client.get("/tags").headers["allow"] == "OPTIONS, POST"


def test_options_is_answered_with_the_same_list(client: TestClient) -> None:
    answer = client.options("/tags/red")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", BOOKS)
    assert client.options("/nowhere").status_code == 404
    assert allowed_methods(client.app, "/nowhere") == []


def test_a_class_of_methods_is_asked_for_its_own(client: TestClient) -> None:
    assert client.post("/shelf").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("kind", ["routes", "app"])
def test_what_is_mounted_is_looked_into(kind: str) -> None:
    below = Starlette(routes=routes())
    complete_methods(below)  # an application of its own answers its own 405
    app = Starlette(routes=[Mount("/below", routes=routes()) if kind == "routes" else Mount("/below", below)])
    complete_methods(app)
    client = TestClient(app)
    assert client.put("/below/tags/red").headers["allow"] == BOOKS
    assert client.post("/below/tags", json="a b").headers["location"] == "/below/tags/a%20b"
    assert allowed_methods(app, "/below/tags/red") == BOOKS.split(", ")


def test_head_is_get_without_the_body(client: TestClient) -> None:
    for path in ("/tags/red", "/tags/none", "/shelf", "/nowhere"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers == get.headers


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("make", [starlette, fastapi])
def test_the_body_of_405_is_the_projects_own(make: Any, own: bool) -> None:
    app = make()
    complete_methods(app)
    if own:
        app.add_exception_handler(
            HTTPException, lambda request, error: JSONResponse("own", error.status_code, error.headers)
        )
    answer = TestClient(app).put("/tags/red")
    assert (answer.status_code, answer.headers["allow"]) == (405, BOOKS)
    assert (answer.text == '"own"') == own


@pytest.mark.parametrize("name", ["blue", "50% off?", "a b", "é#ü", "/evil.example", "//evil.example", "a/b"])
def test_location_is_a_path_that_leads_to_what_was_created(client: TestClient, name: str) -> None:
    location = client.post("/tags", json=name).headers["location"]
    assert location.startswith("/tags/")
    assert client.get(location).json() == name
    assert client.post("/tags", json="%2e").headers["location"] == "/tags/%252e"


def test_location_cannot_name_a_host() -> None:
    async def create(request: Request) -> Response:
        return Response(status_code=201, headers={"Location": path_of(request, "any", rest="/evil.example")})

    app = Starlette(routes=[Route("/", create, methods=["POST"]), Route("/{rest:path}", read_tag, name="any")])
    for root_path in ("", "/"):
        location = TestClient(app, root_path=root_path).post("/").headers["location"]
        assert location[0] == "/" != location[1]


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_a_prefix_that_a_proxy_took_away_comes_back(make: Any) -> None:
    app = make()
    complete_methods(app)
    client = TestClient(app, root_path="/shop")
    assert client.post("/tags", json="new").headers["location"] == "/shop/tags/new"
    assert client.put("/shop/tags/red").headers["allow"] == BOOKS


def test_the_promises_hold_and_a_broken_one_is_named(client: TestClient) -> None:
    for url, body in (("/tags/red", None), ("/tags", "new"), ("/nowhere", None)):
        answers = {method: ask(client, method, url, tags.copy, json=body) for method in METHODS}
        assert broken_promises(answers) == []


def test_each_broken_promise_is_named() -> None:
    count = [0]

    async def counted(request: Request) -> Response:
        count[0] += 1
        return Response(status_code=405 if request.method == "HEAD" else 200)

    app = Starlette(routes=[Route("/", counted, methods=["GET", "PUT", "POST"])])
    client = TestClient(app)
    answers = {method: ask(client, method, "/", count.copy) for method in METHODS}
    assert [answers[method][1] for method in ("GET", "PUT", "POST", "PATCH")] == [2, 2, 2, 0]
    broken = broken_promises(answers)
    for words in ("GET is not safe", "PUT is not idempotent", "GET and HEAD differ", "Allow of PATCH is"):
        assert any(sentence.startswith(words) for sentence in broken), words
    assert not any(sentence.startswith("POST") for sentence in broken)


def test_head_sends_no_byte_and_a_405_without_allow_gets_one() -> None:
    async def refuse(request: Request) -> Response:
        raise HTTPException(405)

    app = Starlette(routes=[Route("/", refuse), Route("/shelf", Shelf)])
    complete_methods(app)
    assert TestClient(app).get("/").headers["allow"] == "GET, HEAD, OPTIONS"
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "HEAD", "path": "/shelf", "headers": [], "query_string": b""}
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    assert [message.get("body", b"") for message in sent] == [b"", b""]
