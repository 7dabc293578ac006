"""The wire of /api/auth: the form of every error, the words of every wrong field, input that is read in one way only.

What can be asked of every route is asked of every route of the whole service, found in the service itself.
"""

import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator
from starlette.exceptions import HTTPException

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.kit.live import LiveClient, serving
from playbook.pantry.auth import wire
from playbook.pantry.auth.better_auth import SHORT_BODY, better_auth
from playbook.pantry.auth.wire import (
    FORM,
    FORMS,
    JSON,
    MAX_FIELDS,
    Auth,
    AuthError,
    Sent,
    Service,
    Text,
    auth_app,
    body,
    in_words,
    iso,
    keep_cookies,
    read_body,
    read_form,
)
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings

LEAKS = re.compile(r"Traceback|File \"|\.py|sqlalchemy|duckdb|psycopg|SELECT|INSERT|hunter2|violet", re.IGNORECASE)
NAMED = re.compile(r"\[((?:body|query)[^\]]*)\]")
VALUES: dict[str, Any] = {
    "string": "x", "boolean": True, "number": 7, "array": [], "object": {}, "null": None, "integer": 7,
}  # fmt: skip


# ---------------------------------------------------------------- a service of one's own


class Everything(Sent):
    name: Text
    short: str = ""
    count: int = 0
    ratio: float = 0.0
    flag: bool = False
    tags: list[str] = Field(default_factory=list)
    more: dict[str, str] = Field(default_factory=dict)
    maybe: Text | None = None

    @field_validator("short")
    @classmethod
    def quotes_what_it_refuses(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is too common")
        return value


class Required(Sent):
    flag: bool
    count: int
    tags: list[str]


class Alike(Sent):
    password: str
    again: str

    @model_validator(mode="after")
    def alike(self) -> "Alike":
        if self.password != self.again:
            raise ValueError(f"{self.again} is not the same")
        return self


own = APIRouter(prefix="/api/auth", dependencies=[Depends(anyone)])


@own.post("/sign-in/email")
def take_everything(sent: Annotated[Everything, body(Everything)]) -> dict[str, Any]:
    return sent.model_dump()


@own.post("/required")
async def take_required(request: Request, sent: Annotated[Required, body(Required)]) -> dict[str, Any]:
    return {"again": await read_body(request) == sent.model_dump()}


@own.post("/alike")
def take_alike(sent: Annotated[Alike, body(Alike)]) -> None: ...


@own.post("/optional")
def take_optional(sent: Annotated[Everything, body(Everything, optional=True)]) -> None: ...


@own.get("/number/{number}")
def take_number(number: int, times: int = 1) -> int:
    return number


@own.get("/raise/{what}")
def raise_it(request: Request, what: str) -> None:
    if what == "bug":
        raise RuntimeError("SELECT hunter2 FROM accounts")
    if what == "cookies":
        keep_cookies(request, ["a=; Max-Age=0", "b=1", "b=; Max-Age=0"])
        raise AuthError(401, "UNAUTHORIZED", headers={"X-Kept": "yes"})
    if what == "without-code":
        raise AuthError(400, None, "No fields to update")
    raise HTTPException(int(what), "hunter2", {"X-Kept": "yes"})


@own.get("/slow")
def select(auth: Service) -> int:
    return auth.transact(lambda db: db.scalar(sa.text("SELECT 1")))


def make_auth(url: str = "duckdb:///:memory:", engine: sa.Engine | None = None, **changes: Any) -> Auth:
    settings, clock = Settings(environment="test", database_url=url, **changes), FixedClock(datetime.now(UTC))
    ids, postbox = Identifiers(clock, SeededBytes(1)), Postbox(MemorySender())
    return Auth(settings, engine or make_engine(url), clock, ids, postbox, SeededBytes(2))


@pytest.fixture(scope="module")
def client() -> Iterator[LiveClient]:
    with serving(auth_app(make_auth(max_body_bytes=300_000), [own], guards=[])) as client:
        yield client


def in_form(answer: httpx.Response) -> dict[str, Any]:
    """The body, after all that holds for every error."""
    assert answer.headers["content-type"] == "application/json"
    assert {"message"} <= answer.json().keys() <= {"message", "code"}
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert not LEAKS.search(answer.text), answer.text
    return answer.json()


def nothing(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (404, b"")
    assert not {"content-type", "allow"} & answer.headers.keys()
    assert "x-request-id" in answer.headers


# ---------------------------------------------------------------- what is wrong with a field


@pytest.mark.proves("ASVS 15.3.5")
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("name", "string"), ("count", "number"), ("ratio", "number"), ("flag", "boolean"), ("tags", "array"),
        ("more", "object"), ("maybe", "string"),
    ],
)  # fmt: skip
def test_asvs_15_3_5_a_wrong_type_is_named_in_the_words_of_javascript(
    client: LiveClient, field: str, expected: str
) -> None:
    for received, value in VALUES.items():
        if received in (expected, "integer") or (field, received) == ("maybe", "null"):
            continue
        answer = client.post("/api/auth/sign-in/email", json={"name": "Ada", field: value})
        assert answer.status_code == 400
        words = f"[body.{field}] Invalid input: expected {expected}, received {received}"
        assert in_form(answer) == {"message": words, "code": "VALIDATION_ERROR"}


def test_what_is_missing_is_undefined_and_every_fault_is_told(client: LiveClient) -> None:
    answer = client.post("/api/auth/sign-in/email", json={"flag": "true", "name": "x" * 2001, "tags": [1]})
    assert in_form(answer)["message"] == (
        "[body.name] Too big: expected string to have <=2000 characters; "
        "[body.flag] Invalid input: expected boolean, received string; "
        "[body.tags.0] Invalid input: expected string, received number"
    )
    assert in_form(client.post("/api/auth/sign-in/email", json={}))["message"] == (
        "[body.name] Invalid input: expected string, received undefined"
    )
    assert in_form(client.post("/api/auth/required", json={}))["message"] == "; ".join(
        f"[body.{name}] Invalid input: expected {kind}, received undefined"
        for name, kind in (("flag", "boolean"), ("count", "number"), ("tags", "array"))
    )


def test_a_body_is_read_once_however_many_ask_for_it(client: LiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(wire, "json_fault", read.append)
    answer = client.post("/api/auth/required", json={"flag": True, "count": 1, "tags": []})
    assert answer.json() == {"again": True}
    assert len(read) == 1


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"[]", "array"),
        (b"null", "null"),
        (b'"x"', "string"),
        (b"5", "number"),
        (b"true", "boolean"),
        (b"", "undefined"),
    ],
)
def test_a_body_that_is_no_object(client: LiveClient, content: bytes, received: str) -> None:
    answer = client.post("/api/auth/sign-in/email", content=content, headers={"content-type": JSON})
    assert answer.status_code == 400
    words = f"[body] Invalid input: expected object, received {received}"
    assert in_form(answer) == {"message": words, "code": "VALIDATION_ERROR"}


def test_an_optional_body_may_be_missing_but_not_wrong(client: LiveClient) -> None:
    words = "[body.name] Invalid input: expected string, received undefined"  # of the fields, not of the body
    assert in_form(client.post("/api/auth/optional"))["message"] == words
    assert "[body] " in in_form(client.post("/api/auth/optional", json=[]))["message"]


def test_a_body_without_a_type_is_none(client: LiveClient) -> None:
    answer = client.post("/api/auth/sign-in/email", content=b'{"name": "Ada"}')
    assert "content-type" not in answer.request.headers
    assert "received undefined" in in_form(answer)["message"]


def test_what_was_sent_is_not_repeated_even_by_a_validator_that_quotes_it(client: LiveClient) -> None:
    answer = client.post("/api/auth/sign-in/email", json={"name": "Ada", "short": "hunter2"})
    assert in_form(answer)["message"] == "[body.short] Invalid input"
    answer = client.post("/api/auth/alike", json={"password": "hunter2!", "again": "hunter2"})
    assert in_form(answer)["message"] == "[body] Invalid input"


@pytest.mark.proves("ASVS 15.3.3")
def test_asvs_15_3_3_members_that_the_model_does_not_name_are_dropped(client: LiveClient) -> None:
    answer = client.post("/api/auth/sign-in/email", json={"name": "Ada", "role": "admin", "id": 7})
    assert answer.status_code == 200
    assert answer.json().keys() == Everything.model_fields.keys()


def test_other_faults_keep_the_words_of_the_library() -> None:
    fault = {"type": "greater_than", "loc": ("count",), "msg": "Input should be greater than 0", "input": -1}
    assert in_words(fault, "query", {}) == "[query.count] Input should be greater than 0"


# ---------------------------------------------------------------- one way of reading

TWICE = b'{"name": "a", "name": "b"}'
HOSTILE_JSON = [
    b"{", b"{}{}", b"\xff", b"\xef\xbb\xbf{}", '{"name": "ä"}'.encode("utf-16"), TWICE, b'{"name": "\\u0000"}',
    b"[NaN]",    b'{"name": "\\ud800"}', b"[1e999]", b"9" * 5000, b"[" * 100_000, b"[" * 33 + b"]" * 33,
]  # fmt: skip
HOSTILE_FORMS = [
    b"name=a&name=b", b"name=%00", b"name=\0", b"na%00me=a", b"name=%ff", b"name=\xff", b"name=%ED%A0%80",
    b"&".join(b"f%d=" % number for number in range(MAX_FIELDS + 1)),
]  # fmt: skip


@pytest.mark.proves("ASVS 1.5.3", "ASVS 15.3.7")
@pytest.mark.parametrize(
    ("kind", "content"),
    [*((JSON, content) for content in HOSTILE_JSON), *((FORM, content) for content in HOSTILE_FORMS)],
)
def test_asvs_15_3_7_what_two_readers_could_read_differently_is_refused(
    client: LiveClient, kind: str, content: bytes
) -> None:
    answer = client.post("/api/auth/sign-in/email", content=content, headers={"content-type": kind})
    assert answer.status_code == 400, content[:40]
    word = "JSON" if kind == JSON else "form"
    assert in_form(answer) == {"message": f"Invalid {word} in request body", "code": "BAD_REQUEST"}


WITHOUT_NUL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(WITHOUT_NUL, WITHOUT_NUL, max_size=MAX_FIELDS))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_form_comes_back_as_it_was_written(fields: dict[str, str]) -> None:
    assert read_form(urlencode(fields).encode()) == fields


@pytest.mark.parametrize(
    ("named", "taken"),
    [
        (JSON, True), ("Application/JSON ; charset=utf-8", True), (FORM, True), ("text/plain", False),
        ("application/vnd.api+json", False), ("multipart/form-data; boundary=x", False),
        ("application/jsonp", False), ("*/*", False),
    ],
)  # fmt: skip
def test_only_two_types_are_taken(client: LiveClient, named: str, taken: bool) -> None:
    content = b"name=Ada" if "urlencoded" in named else b'{"name": "Ada"}'
    answer = client.post("/api/auth/sign-in/email", content=content, headers={"content-type": named})
    assert answer.status_code == (200 if taken else 415)
    if not taken:
        words = f'Content-Type "{named}" is not allowed. Allowed types: {FORM}, {JSON}'
        assert in_form(answer) == {"message": words, "code": "UNSUPPORTED_MEDIA_TYPE"}


def test_the_name_of_a_type_is_cut_and_cannot_break_out(client: LiveClient) -> None:
    kind = b'text/"<script>\xe9' + b"x" * 5000
    answer = client.post("/api/auth/sign-in/email", content=b"{}", headers=[(b"content-type", kind)])
    assert answer.status_code == 415
    assert len(in_form(answer)["message"]) < 250


def test_a_form_is_texts_so_a_boolean_in_it_is_refused(client: LiveClient) -> None:
    answer = client.post("/api/auth/sign-in/email", data={"name": "Ada", "flag": "false"})
    assert in_form(answer)["message"] == "[body.flag] Invalid input: expected boolean, received string"
    answer = client.post("/api/auth/sign-in/email", data={"name": "Zoë & Müller+Söhne=%"})
    assert answer.json()["name"] == "Zoë & Müller+Söhne=%"


# ---------------------------------------------------------------- the form of errors


def test_paths_and_methods_that_are_not_offered_are_404_without_a_body(client: LiveClient) -> None:
    for method, path in (
        ("GET", "/nowhere"), ("POST", "/nowhere"), ("GET", "/sign-in/email"), ("HEAD", "/slow"), ("OPTIONS", "/slow"),
        ("PUT", "/slow"), ("POST", "/slow"), ("GET", "/slow/"), ("GET", "//slow"), ("GET", "/SLOW"), ("GET", ""),
        ("GET", "/"), ("PROPFIND", "/slow"), ("TRACE", "/slow"),
    ):  # fmt: skip
        nothing(client.request(method, f"/api/auth{path}"))
    for path in ("/docs", "/openapi.json", "/redoc", "/api/auth/openapi.json", "/"):
        nothing(client.get(path))


def test_an_error_keeps_its_headers_and_cookies_and_may_have_no_code(client: LiveClient) -> None:
    answer = client.get("/api/auth/raise/cookies")
    assert in_form(answer) == {"message": "Unauthorized", "code": "UNAUTHORIZED"}
    assert answer.headers["x-kept"] == "yes"
    assert answer.headers.get_list("set-cookie") == ["a=; Max-Age=0", "b=; Max-Age=0"]
    assert in_form(client.get("/api/auth/raise/without-code")) == {"message": "No fields to update"}
    nothing(client.get("/api/auth/raise/404"))
    for status, code in ((403, "FORBIDDEN"), (422, "UNPROCESSABLE_ENTITY"), (429, "TOO_MANY_REQUESTS")):
        answer = client.get(f"/api/auth/raise/{status}")
        assert (answer.status_code, in_form(answer)["code"], answer.headers["x-kept"]) == (status, code, "yes")


def test_a_wrong_parameter_is_named_with_its_place(client: LiveClient) -> None:
    answer = client.get("/api/auth/number/7?times=hunter2")
    assert (answer.status_code, in_form(answer)["code"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["message"].startswith("[query.times] ")
    assert in_form(client.get("/api/auth/number/hunter2"))["message"].startswith("[path.number] ")


def test_a_large_body_is_413_however_it_is_sent(client: LiveClient) -> None:
    def in_parts() -> Iterator[bytes]:
        yield from [b" " * 100_000] * 4

    for content in (b" " * 300_001, in_parts()):
        answer = client.post("/api/auth/sign-in/email", content=content, headers={"content-type": JSON})
        assert answer.status_code == 413
        assert in_form(answer) == {"message": "Payload Too Large", "code": "PAYLOAD_TOO_LARGE"}
    answer = client.post("/api/auth/sign-in/email", content=b" " * 300_000, headers={"content-type": JSON})
    assert answer.status_code == 400


@pytest.mark.proves("ASVS 16.5.1", "ASVS 16.5.4")
def test_asvs_16_5_4_an_unexpected_exception_is_logged_and_tells_nothing(
    client: LiveClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="pantry.auth")
    before = len(client.server_errors)
    answer = client.get("/api/auth/raise/bug", headers={"X-Request-Id": "chosen-by-client"})
    assert (answer.status_code, LEAKS.search(answer.text)) == (500, None)
    assert answer.json() == {"message": "Internal Server Error", "code": "INTERNAL_SERVER_ERROR"}
    assert (answer.headers["x-request-id"], answer.headers["connection"]) == ("chosen-by-client", "close")
    assert client.server_errors[before:] == ["RuntimeError: SELECT hunter2 FROM accounts"]
    assert "chosen-by-client: RuntimeError" in [record.getMessage() for record in caplog.records]
    assert client.get("/api/auth/number/7").json() == 7, "the process goes on"


def test_a_text_answer_that_is_no_error_is_left_alone() -> None:
    from fastapi.responses import PlainTextResponse

    router = APIRouter(dependencies=[Depends(anyone)])
    router.add_api_route("/text", lambda: PlainTextResponse("kept"))
    with serving(auth_app(make_auth(), [router], guards=[])) as client:
        assert client.get("/text").text == "kept"


@pytest.mark.proves("ASVS 16.5.1")
def test_asvs_16_5_1_a_database_that_is_gone_is_503_and_not_described(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="pantry.auth")
    with serving(auth_app(make_auth(postgres_url), [own], guards=[])) as client:
        assert client.get("/api/auth/slow").json() == 1
        server = sa.make_url(postgres_url)
        with sa.create_engine(server.set(database="postgres"), isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(sa.text(f'DROP DATABASE "{server.database}" WITH (FORCE)'))
        for _ in range(2):
            answer = client.get("/api/auth/slow")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert in_form(answer) == {"message": "Service Unavailable", "code": "SERVICE_UNAVAILABLE"}
            assert str(server.database) not in answer.text
            told = [record for record in caplog.records if answer.headers["x-request-id"] in record.getMessage()]
            assert str(server.database) in str(told[0].exc_info), "the log has the cause, under the request id"


def test_an_exhausted_pool_is_503(postgres_url: str) -> None:
    engine = make_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with serving(auth_app(make_auth(postgres_url, engine), [own], guards=[])) as client:
        with engine.connect():
            answer = client.get("/api/auth/slow")
        assert (answer.status_code, in_form(answer)["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert client.get("/api/auth/slow").json() == 1
    engine.dispose()


def test_a_route_that_names_nobody_stops_the_service_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter(prefix="/api/auth")
    router.add_api_route("/delete-everything", lambda: None, methods=["POST"])
    monkeypatch.setattr("playbook.pantry.auth.better_auth.liveness", router)
    with pytest.raises(ValueError, match=r"say who may use POST /api/auth/delete-everything$"):
        better_auth(make_auth())


def test_guards_run_first_and_before_every_route() -> None:
    def guard() -> None:
        raise AuthError(429, None, "Too many requests. Please try again later.", {"X-Retry-After": "7"})

    with serving(auth_app(make_auth(), [own], guards=[guard])) as client:
        for method, path in (("GET", "/slow"), ("POST", "/sign-in/email"), ("GET", "/number/x"), ("GET", "/raise/bug")):
            answer = client.request(method, f"/api/auth{path}", content=b"{", headers={"content-type": JSON})
            assert (answer.status_code, answer.headers["x-retry-after"]) == (429, "7")
        nothing(client.get("/api/auth/nowhere"))


# ---------------------------------------------------------------- times


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_time_has_milliseconds_and_z_or_the_client_reads_another_one(moment: datetime) -> None:
    written = iso(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written)
    assert datetime.fromisoformat(written) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# ---------------------------------------------------------------- every route of the whole service


def models_of(dependant: Any) -> Iterator[type[Sent]]:
    """The models of the bodies that a route's dependencies read."""
    for inner in dependant.dependencies:
        if getattr(inner.call, "__qualname__", "").startswith("body."):
            yield inspect.getclosurevars(inner.call).nonlocals["model"]
        yield from models_of(inner)


def routes(auth: Auth) -> Iterator[tuple[str, str, type[Sent] | None]]:
    for route in iter_route_contexts(better_auth(auth).routes):
        for method in route.methods or ():
            yield method, route.path, next(models_of(route.dependant), None)


def kinds(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a field takes; empty for any."""
    return {part["type"] for part in schema.get("anyOf", [schema]) if "type" in part}


def test_every_wrong_type_of_every_field_of_every_route_is_named(auth_service: Callable[..., Any]) -> None:
    service, tried = auth_service(rate_limits=False), 0
    for method, path, model in routes(service.auth):
        fields = model.model_json_schema().get("properties", {}) if model else {}
        good = {name: VALUES[min(kinds(schema))] for name, schema in fields.items() if kinds(schema)}
        good |= {name: "ada@example.com" for name in fields if "email" in name.lower()}
        good |= {name: schema["enum"][0] for name, schema in fields.items() if "enum" in schema}
        for name, schema in fields.items():
            for kind, value in VALUES.items():
                if not kinds(schema) or kind in kinds(schema) | {"integer"}:
                    continue
                sent = {key: other for key, other in good.items() if not re.search("URL|redirectTo|image", key)}
                answer = service.client.request(method, path, json=sent | {name: value})
                where = f"{method} {path} {name}: {kind}: {answer.text}"
                assert answer.status_code == 400, where
                if re.search("URL|redirectTo", name) and "code" not in in_form(answer):
                    assert re.fullmatch(r"Invalid \w+URL: expected a string", answer.json()["message"]), where
                else:
                    assert in_form(answer)["code"] == "VALIDATION_ERROR", where
                    assert set(NAMED.findall(answer.json()["message"])) == {f"body.{name}"}, where
                tried += 1
    assert tried > 80


def test_every_route_refuses_ambiguous_input_and_tells_nothing(auth_service: Callable[..., Any]) -> None:
    service = auth_service(rate_limits=False, require_email_verification=False)
    assert service.sign_up().status_code == 200
    found = list(routes(service.auth))
    assert {"/api/auth/sign-in/email", "/api/auth/sign-up/email", "/api/auth/update-user"} <= {
        path for _, path, _ in found
    }
    for method, template, model in found:
        path = re.sub(r"{.*?}", "missing", template)
        if method == "POST" and model is not None:
            for content in HOSTILE_JSON:
                answer = service.client.post(path, content=content, headers={"content-type": JSON})
                refused = {(400, "BAD_REQUEST")} | ({(401, "UNAUTHORIZED")} if len(content) > SHORT_BODY else set())
                assert (answer.status_code, in_form(answer)["code"]) in refused, f"{path} {content[:30]!r}"
            for kind in (FORM, "text/plain", "application/x-hunter"):
                answer = service.client.post(path, content=b"a=b", headers={"content-type": kind})
                assert answer.status_code == (400 if kind == FORM and path in FORMS else 415), f"{path} {kind}"
        for other in {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"} - {m for m, p, _ in found if p == template}:
            nothing(service.client.request(other, path))
        for url in (f"{path}/", f"{path}/missing", path.upper()):
            nothing(service.client.request(method, url))
        for url in (f"{path}?a=%00", f"{path}?token=%00&callbackURL=%00", f"{path}?token=%ff&callbackURL=%ff"):
            answer = service.client.request(method, url)
            assert answer.status_code < 500, f"{method} {url}: {answer.text}"
    assert not service.client.server_errors


def test_a_session_outlives_a_hundred_bad_requests_at_once(auth_service: Callable[..., Any]) -> None:
    service = auth_service(rate_limits=False, require_email_verification=False)
    assert service.sign_up().status_code == 200
    with ThreadPoolExecutor(8) as threads:
        contents = HOSTILE_JSON * 4 + [json.dumps({"name": 7}).encode()] * 48

        def send(content: bytes) -> int:
            return service.client.post(
                "/api/auth/update-user", content=content, headers={"content-type": JSON}
            ).status_code

        assert set(threads.map(send, contents)) == {400}
    assert service.whoami()["user"]["email"] == "ada@example.com"
    assert service.auth.engine.pool.checkedout() == 0
