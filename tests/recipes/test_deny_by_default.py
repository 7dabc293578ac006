"""What the recipe promises: silence is found, callers are found first and once, refusals say what they must.

Needs pytest and what FastAPI's test client needs. No database.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import WebSocketDenialResponse

from playbook.foundations.deny_by_default import (
    CallerFirst,
    anyone,
    caller_of,
    permission_of,
    refuse_undeclared,
    routes_of,
)

looked_up: list[str] = []
asked: list[tuple[str, str, dict[str, Any]]] = []


def find_customer(connection: HTTPConnection) -> str | None:
    looked_up.append(connection.url.path)
    return connection.headers.get("x-customer")


def may(customer: str, action: str, target: Mapping[str, Any]) -> bool:
    asked.append((customer, action, dict(target)))
    return customer == "Ada"


customer = caller_of(find_customer, challenge='Bearer realm="shop"')
permission = permission_of(customer, may)
OPEN = Depends(anyone)
ASKS = Depends(customer)


def shop() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/orders/{order_id}", dependencies=[permission("orders:read", refused=404)])
    def read(order_id: int) -> int:
        return order_id

    @app.put("/orders/{order_id}", dependencies=[ASKS])
    def write(order_id: int, order: dict[str, Any], who: str = permission("orders:write")) -> str:
        return who

    @app.put("/feedback", dependencies=[OPEN])
    def thank(feedback: dict[str, Any]) -> None: ...

    @app.websocket("/prices", dependencies=[ASKS])
    async def prices(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("7")

    app.add_middleware(CallerFirst, caller=customer)
    return app


@pytest.fixture
def client() -> TestClient:
    looked_up.clear()
    asked.clear()
    return TestClient(shop())


ADA = {"x-customer": "Ada"}
MALLORY = {"x-customer": "Mallory"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/orders/7", {}, 401),
        ("GET", "/orders/7", MALLORY, 404),
        ("GET", "/orders/7", ADA, 200),
        ("PUT", "/orders/7", {}, 401),
        ("PUT", "/orders/7", MALLORY, 403),
        ("PUT", "/orders/7", ADA, 200),
        ("PUT", "/feedback", {}, 200),
        ("HEAD", "/orders/7", {}, 405),
        ("OPTIONS", "/orders/7", {}, 405),
        ("GET", "/nowhere", {}, 404),
    ],
)
def test_doors(client: TestClient, method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = client.request(method, path, headers=headers, json={} if method == "PUT" else None)
    assert answer.status_code == status
    challenge = answer.headers.get("www-authenticate")
    assert challenge == ('Bearer realm="shop"' if status == 401 else None)


def test_a_refusal_that_hides_looks_like_nothing_there(client: TestClient) -> None:
    hidden, nothing = client.get("/orders/7", headers=MALLORY), client.get("/nowhere")
    assert (hidden.status_code, hidden.content) == (nothing.status_code, nothing.content)


def test_the_rule_hears_who_what_and_which(client: TestClient) -> None:
    assert client.put("/orders/7", headers=ADA, json={}).json() == "Ada"
    assert asked == [("Ada", "orders:write", {"order_id": "7"})]
    assert looked_up == ["/orders/7"]  # by the middleware, the route and the permission together


def test_without_a_scheme_there_is_no_challenge() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(caller_of(lambda connection: None, challenge=None))])
    answer = TestClient(app).get("/")
    assert (answer.status_code, "www-authenticate" in answer.headers) == (401, False)


def test_a_socket_asks_too(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/prices"):
        pass
    assert refused.value.status_code == 401
    with client.websocket_connect("/prices", headers=ADA) as socket:
        assert socket.receive_text() == "7"


@pytest.mark.parametrize(("path", "who", "status", "reads"), [
    ("/orders/7", {}, 401, False),
    ("/orders/7", ADA, 422, True),
    ("/feedback", {}, 422, True),
])  # fmt: skip
def test_the_body_is_read_after_the_caller_is_known(path: str, who: dict[str, str], status: int, reads: bool) -> None:
    sizes: list[int] = []
    app = shop()

    async def metered(scope: Any, receive: Any, send: Any) -> None:
        async def count() -> Any:
            message = await receive()
            sizes.append(len(message.get("body", b"")))
            return message

        await app(scope, count, send)

    headers = who | {"Content-Type": "application/json"}
    assert TestClient(metered).put(path, content=b'{"a": ', headers=headers).status_code == status
    assert (sum(sizes) > 0) == reads


def test_an_endpoint_with_an_open_route_is_not_asked_early() -> None:
    app = FastAPI()

    def take(body: dict[str, int]) -> None: ...

    app.add_api_route("/closed", take, methods=["PUT"], dependencies=[ASKS])
    app.add_api_route("/open", take, methods=["PUT"], dependencies=[OPEN])
    app.add_middleware(CallerFirst, caller=customer)
    client = TestClient(app)
    assert client.put("/open", json={}).status_code == 200
    assert client.put("/closed", json={}).status_code == 401


def silent(app: Any, *open_paths: str) -> str:
    try:
        refuse_undeclared(app, customer, open_paths)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("where", ["route", "router", "including", "app", "nested dependency", "nowhere"])
def test_a_declaration_counts_wherever_it_stands(where: str) -> None:
    def here(place: str) -> list[Any]:
        return [ASKS] if place == where else []

    nested = [permission("orders:read")] if where == "nested dependency" else []
    router = APIRouter(prefix="/inner", dependencies=here("router"))
    router.add_api_route("/order", lambda: None, dependencies=here("route") + nested)
    outer = APIRouter(prefix="/outer")
    outer.include_router(router, dependencies=here("including"))
    app = FastAPI(openapi_url=None, dependencies=here("app"))
    app.include_router(outer)
    assert silent(app) == ("say who may use GET /outer/inner/order" if where == "nowhere" else "")


def test_what_cannot_declare_is_found_and_only_that_is_excused(tmp_path: Path) -> None:
    app = FastAPI(redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    inner = FastAPI(openapi_url=None)
    inner.add_api_route("/report", lambda: None)
    router = APIRouter()
    router.mount("/files", StaticFiles(directory=tmp_path))
    plain = Starlette(routes=[Mount("/deep", routes=[Route("/page", lambda request: PlainTextResponse("x"))])])
    app.include_router(router, prefix="/more")
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/inner", inner)
    app.mount("/plain", plain)
    app.add_api_websocket_route("/socket", lambda socket: None)
    found = [
        "GET/HEAD /openapi.json",
        "GET/HEAD /docs",
        "ANY /more/files",
        "ANY /static",
        "GET /inner/report",
        "GET/HEAD /plain/deep/page",
        "ANY /socket",
    ]
    assert silent(app) == f"say who may use {', '.join(found)}"
    paths = [name.split(" ")[1] for name in found]
    assert silent(app, *paths) == "say who may use GET /inner/report, ANY /socket"


def test_another_function_of_the_same_name_declares_nothing() -> None:
    async def current_caller() -> None: ...

    app = FastAPI(openapi_url=None)
    app.add_api_route("/", lambda: None, dependencies=[Depends(current_caller)])
    assert silent(app) == "say who may use GET /"


def test_a_permission_can_be_read_in_the_list() -> None:
    (read, *_) = routes_of(shop().routes)
    assert "permission orders:read" in {call.__name__ for call in read.calls}


def test_a_permission_may_stand_on_a_dependency_of_your_own() -> None:
    """For a rule that needs more than the caller, such as what the app was made with."""

    async def desk(found: Annotated[str, ASKS]) -> dict[str, str]:
        return {"Ada": "1"} if found == "Ada" else {}

    own = permission_of(desk, lambda desk, action, target: desk.get("Ada") == target["number"])
    app = FastAPI(openapi_url=None)
    app.add_api_route("/orders/{number}", lambda number: number, dependencies=[own("orders:read")])
    refuse_undeclared(app, customer)
    client = TestClient(app)
    codes = [client.get("/orders/1", headers=headers).status_code for headers in ({}, MALLORY, ADA)]
    assert codes == [401, 403, 200]


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_caller_who_cannot_be_found_out_is_no_fault_of_the_body(method: str) -> None:
    """FastAPI says 400 to whatever is raised while it reads a body, save an HTTPException."""

    def find(connection: HTTPConnection) -> str:
        raise ConnectionError("the database is away")

    caller = caller_of(find, challenge=None)
    app = FastAPI(openapi_url=None)
    app.add_api_route("/", lambda body: body, methods=["GET"], dependencies=[Depends(caller)])
    app.add_api_route("/", change, methods=["PUT"], dependencies=[Depends(caller)])
    app.add_middleware(CallerFirst, caller=caller)
    answer = TestClient(app, raise_server_exceptions=False).request(method, "/?body=1", content=b'{"a": 1}')
    assert answer.status_code == (503 if method == "PUT" else 500)
    assert answer.headers.get("retry-after") == ("1" if method == "PUT" else None)


def change(body: dict[str, int]) -> dict[str, int]:
    raise AssertionError("nobody may get here")
