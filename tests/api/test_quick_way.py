"""What is answered without FastAPI is what FastAPI answers, and whatever is not plain is left to it."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from playbook.api.errors import PROBLEM_JSON
from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.live import LiveClient, serving
from playbook.pantry import app as pantry_app
from playbook.pantry.app import Handover, pantry
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.limits import Counts, Rate
from playbook.pantry.quick_way import taken
from playbook.pantry.settings import Settings
from playbook.pantry.writes import Unknown
from playbook.schema.identity import Member

MONDAY = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ORIGIN = "http://localhost:8000"
PERSON = {"name": "Ada", "email": "ada@example.com", "password": "four quiet rivers and a spoon"}
LONG_WAY = {"content-type": "text/plain"}  # of a GET it says nothing, and is not plain


@dataclass
class Client:
    """`long` has what the quick way has handed on."""

    http: LiveClient
    app: FastAPI
    long: list[str]

    def ask(
        self, path: str, method: str = "GET", content: bytes | Iterable[bytes] | None = None, **headers: str
    ) -> tuple[httpx.Response, bool]:
        """The answer, and whether it was a quick one."""
        self.long.clear()
        return self.http.request(method, path, content=content, headers=headers), not self.long

    def post(self, path: str, body: Any, status: int = 201) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status
        return answer.json()


@pytest.fixture
def running(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    long: list[str] = []

    class Watched(Handover):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            long.append(scope["type"])
            await super().__call__(scope, receive, send)

    monkeypatch.setattr(pantry_app, "Handover", Watched)

    @contextmanager
    def run(**changes: Any) -> Iterator[Client]:
        given: dict[str, Any] = {
            "environment": "test",
            "database_url": url,
            "require_email_verification": False,
            "rate_limits": False,
        }
        app = pantry(Settings(**given | changes), clock=FixedClock(MONDAY), sender=MemorySender())
        with serving(app, headers={"origin": ORIGIN}) as client:
            yield Client(client, app, long)

    return run


def sign_up(client: Client) -> None:
    client.post("/api/auth/sign-up/email", PERSON, 200)


def publish(client: Client, count: int, begin: int = 0) -> None:
    if begin == 0:
        client.post("/organizations", {"slug": "acme", "name": "Acme"})
    for number in range(begin, count):
        body = {
            "name": f"Tool.{number:02}",
            "organization": "acme",
            "summary": 'ü "quoted" \\ 🙂',
            "private": number == 1,
        }
        client.post("/packages", body)


def what(answer: httpx.Response) -> Any:
    return answer.status_code, sorted(h for h in answer.headers.multi_items() if h[0] != "date"), answer.content


PLAIN = ["/api/auth/ok", "/packages", "/packages/tool-00", "/packages/Tool.00", "/packages/TOOL_01"]


def compare(client: Client, **sent: str) -> None:
    """Each plain question both ways, then with the tag of its answer."""
    for path in PLAIN:
        quick, was_quick = client.ask(path, **sent)
        long, was_long = client.ask(path, **sent, **LONG_WAY)
        assert (was_quick, was_long) == (True, False), (path, sent)
        assert what(quick) == what(long), (path, sent)
        assert quick.status_code == (304 if "if-none-match" in sent and path != PLAIN[0] else 200)
        if (tag := quick.headers.get("etag")) and "if-none-match" not in sent:
            again, was_quick = client.ask(path, **sent, **{"if-none-match": tag})
            assert was_quick
            assert again.status_code == 304
            assert what(again) == what(client.ask(path, **sent, **LONG_WAY, **{"if-none-match": tag})[0])


def test_both_ways_say_the_same(running: Callable[..., Any]) -> None:
    """Status, headers and bytes; by session and by token; of the only page and of the first; with and without a tag."""
    with running() as client:
        sign_up(client)
        made = client.post("/tokens", {"name": "ci", "scopes": ["packages:read"], "days": 1})
        token = {"authorization": f"Bearer {made['token']}"}
        client.ask("/packages", **token)  # its first use is noted, which is the long way's
        id = {"x-request-id": "from-the-test"}
        for begin, count in ((0, 2), (2, 21)):
            publish(client, count, begin)
            for sent in ({}, token, {"accept": "application/json"}, {"accept": "text/html, */*;q=0.1"}):
                compare(client, **sent, **id)
        compare(client, **id, **{"if-none-match": "*"})


NOT_PLAIN: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/packages?limit=2", {}), ("GET", "/packages?sort=-name", {}), ("GET", "/packages?limit=x", {}),
    ("GET", "/packages/", {}), ("GET", "/packages/missing", {}), ("GET", "/packages/tool%2D00", {}),
    ("GET", "/packages/tool-00/", {}), ("GET", "/packages/t%C3%BCr", {}), ("GET", "/packages/%00", {}),
    ("GET", "//packages", {}), ("GET", "/Packages", {}), ("GET", "/api/auth/ok?a=b", {}), ("GET", "/api/auth/ok/", {}),
    ("HEAD", "/packages", {}), ("HEAD", "/packages/tool-00", {}), ("HEAD", "/api/auth/ok", {}),
    ("OPTIONS", "/packages", {}), ("DELETE", "/packages", {}), ("POST", "/api/auth/ok", {}), ("BREW", "/packages", {}),
    ("GET", "/packages", {"accept": "text/html"}), ("GET", "/packages/tool-00", {"accept": "application/json;q=0"}),
    ("GET", "/packages", {"if-match": '"x"'}), ("GET", "/packages/tool-00", {"if-match": "x"}),
    ("GET", "/packages", {"authorization": "Bearer pantry_x"}), ("GET", "/packages", {"cookie": "theme=dark"}),
    ("GET", "/packages/tool-00", {"cookie": "better-auth.session_token=x.y"}),
]  # fmt: skip


async def broken(work: Any) -> Any:
    raise RuntimeError("a secret")


def test_what_is_not_plain_takes_the_long_way(running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """So does what is refused: for a token without the scope, and for a bug, which the long way meets, too."""
    with running() as client:
        sign_up(client)
        publish(client, 1)
        for method, path, sent in NOT_PLAIN:
            answer, quick = client.ask(path, method, **sent)
            assert not quick, (method, path, sent)
            kind = answer.headers.get("content-type")
            assert answer.status_code < 400 or path.startswith("/api/auth") or kind == PROBLEM_JSON
        made = client.post("/tokens", {"name": "ci", "scopes": ["organizations:read"], "days": 1})
        for path in ("/packages", "/packages/tool-00"):
            for _ in range(2):  # its first use is noted
                answer, quick = client.ask(path, authorization=f"Bearer {made['token']}")
                assert (answer.status_code, quick) == (403, False)
        monkeypatch.setattr(client.app.state, "read", broken)
        answer, quick = client.ask("/packages/tool-00")
        assert (answer.status_code, quick, answer.headers["content-type"]) == (500, False, PROBLEM_JSON)
        assert "secret" not in answer.text


def test_a_right_that_is_gone_is_gone_at_once(running: Callable[..., Any]) -> None:
    """A membership, by which a private package was seen; then the session."""
    with running() as client:
        sign_up(client)
        publish(client, 2)
        engine = client.app.state.engine
        assert client.ask("/packages/tool-01")[1]
        assert len(client.ask("/packages")[0].json()["items"]) == 2
        with engine.begin() as db:
            db.execute(sa.delete(Member))
        answer, quick = client.ask("/packages/tool-01")
        assert (answer.status_code, quick) == (404, False)
        answer, quick = client.ask("/packages")
        assert quick
        assert [item["name"] for item in answer.json()["items"]] == ["tool-00"]
        with engine.begin() as db:
            db.execute(sa.update(UserSession).values(token_hash="0" * 64))
        for path in ("/packages", "/packages/tool-00"):
            answer, quick = client.ask(path)
            assert (answer.status_code, quick) == (401, False)


def test_both_ways_count_on_one_account(running: Callable[..., Any]) -> None:
    """`ok` is allowed a hundred times by a clock that stands, an account three times in a thousand seconds.

    What is handed on is counted once.
    """
    with running(rate_limits=True, network_rate=10_000) as client:
        sign_up(client)
        client.app.state.spend.__self__.counts = Counts(Rate("account", 0.001, 3))
        assert client.ask("/packages/missing")[0].status_code == 404
        for path, allowed in (("/api/auth/ok", 100), ("/packages", 2)):
            answers = [client.ask(path, **(LONG_WAY if n % 2 else {})) for n in range(allowed + 2)]
            assert {answer.status_code for answer, _ in answers[:allowed]} == {200}
            assert answers[0][1]
            assert {(answer.status_code, quick) for answer, quick in answers[allowed:]} == {(429, False)}


# ---------------------------------------------------------------- what writes

NEW = {"name": "Tool.00", "organization": "acme", "summary": 'ü "quoted" 🙂', "private": True}
JSON = {"content-type": "application/json", "x-request-id": "from-the-test"}
LONG_JSON = {"content-type": "application/json; charset=utf-8", "x-request-id": "from-the-test"}
ANY = {"if-match": "*"}
MERGE = {"content-type": "application/merge-patch+json", "x-request-id": "from-the-test"}


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def start(client: Client) -> None:
    sign_up(client)
    client.post("/organizations", {"slug": "acme", "name": "Acme"})


def test_both_ways_of_a_write_say_the_same(running: Callable[..., Any]) -> None:
    """Status, headers and bytes; by session and by token; with all fields and the least; with a change and without."""
    with running() as client:
        start(client)
        scopes = [f"packages:{action}" for action in ("create", "publish", "read", "write")]
        made = client.post("/tokens", {"name": "ci", "scopes": scopes, "days": 1})
        token = {"authorization": f"Bearer {made['token']}"}
        client.ask("/packages", **token)  # its first use is noted, which is the long way's
        least = {"name": "Tool.00", "organization": "acme"}
        for new in (NEW, least):
            for sent in ({}, token):
                answers = []
                for kind in (JSON, LONG_JSON):
                    answer, quick = client.ask("/packages", "POST", body(new), **kind, **sent)
                    assert (answer.status_code, quick) == (201, kind is JSON)
                    answers.append(what(answer))
                    client.http.delete("/packages/tool-00", headers=ANY)
                assert answers[0] == answers[1]
        client.post("/packages", least)
        for changes in ({"summary": "second"}, {"summary": None}, {"private": True}, {}):
            for sent in ({}, token):
                answers = []
                for kind in (JSON, MERGE, LONG_JSON):
                    asked = kind | sent | ANY
                    answer, quick = client.ask("/packages/Tool_00", "PATCH", body(changes), **asked)
                    assert (answer.status_code, quick) == (200, kind is not LONG_JSON), (changes, answer.text)
                    answers.append(what(answer))
                    before = {"summary": "first", "private": False}
                    client.ask("/packages/tool-00", "PATCH", body(before), **LONG_JSON, **ANY)
                assert answers[0] == answers[1] == answers[2]


ONE = "/packages/taken"
REFUSED: list[tuple[str, bytes, dict[str, str], int]] = [
    ("POST /packages", b"", {}, 422),
    ("POST /packages", b"{", {}, 400),
    ("POST /packages", b"[]", {}, 422),
    ("POST /packages", b"{}", {}, 422),
    ("POST /packages", body(NEW | {"name": 5}), {}, 422),
    ("POST /packages", body(NEW | {"extra": 1}), {}, 422),
    ("POST /packages", body(NEW | {"private": None}), {}, 422),
    ("POST /packages", body(NEW | {"summary": "x" * 20_000}), {}, 422),
    ("POST /packages", b'{"name":"a","name":"b","organization":"acme"}', {}, 400),
    ("POST /packages", b'{"name":"a\\u0000","organization":"acme"}', {}, 400),
    ("POST /packages", body(NEW | {"name": "taken"}), {}, 409),
    ("POST /packages", body(NEW | {"organization": "other"}), {}, 403),
    ("POST /packages", body(NEW), {"origin": "https://evil.example"}, 403),
    ("POST /packages", body(NEW), {"cookie": ""}, 401),
    ("POST /packages", body(NEW), {"authorization": "Bearer pantry_x"}, 401),
    ("POST /packages", body(NEW), {"accept": "text/html"}, 406),
    ("POST /packages", body(NEW), {"content-type": MERGE["content-type"]}, 415),
    ("POST /packages?limit=2", body(NEW), {}, 422),
    (f"POST {ONE}", body(NEW), {}, 405),
    (f"PUT {ONE}", b"{}", ANY, 405),
    (f"PATCH {ONE}", b'{"summary":"x"}', {}, 428),
    (f"PATCH {ONE}", b'{"summary":"x"}', {"if-match": '"x"'}, 412),
    (f"PATCH {ONE}", b'{"summary":"x"}', {"if-match": "x"}, 400),
    (f"PATCH {ONE}", b'{"name":"x"}', ANY, 422),
    ("PATCH /packages/none", b"{}", ANY, 404),
]


def test_what_is_refused_is_refused_in_the_same_words_and_nothing_is_written(running: Callable[..., Any]) -> None:
    with running() as client:
        start(client)
        client.post("/packages", NEW | {"name": "taken"})
        before = client.http.get("/packages").text
        for asked, content, sent, status in REFUSED:
            method, path = asked.split()
            kind = sent.get("content-type", JSON["content-type"])
            long = LONG_JSON | sent | {"content-type": f"{kind}; charset=utf-8"}
            answer, quick = client.ask(path, method, content, **JSON | sent)
            assert (answer.status_code, quick) == (status, False), (asked, content, sent, answer.text)
            assert what(answer) == what(client.ask(path, method, content, **long)[0])
        assert client.http.get("/packages").text == before


def test_what_is_not_plain_is_written_by_the_long_way(running: Callable[..., Any]) -> None:
    """A key against doing it twice; a body in pieces, or a long one. Each is read whole by who answers."""
    with running() as client:
        start(client)
        spaces = b" " * 20_000
        forms: list[tuple[Any, dict[str, str]]] = [
            (body(NEW), {"idempotency-key": '"a-key-of-the-test-1"'}),
            (iter([body(NEW)[:9], body(NEW)[9:]]), {}),
            (body(NEW) + spaces, {}),
        ]
        for content, sent in forms:
            answer, quick = client.ask("/packages", "POST", content, **JSON, **sent)
            assert (answer.status_code, quick) == (201, False)
            client.http.delete("/packages/tool-00", headers=ANY)


def test_a_body_that_is_too_long_is_refused_where_little_is_taken(running: Callable[..., Any]) -> None:
    with running(max_body_bytes=1100) as client:
        start(client)
        answer, quick = client.ask("/packages", "POST", body(NEW | {"summary": "x" * 1100}), **JSON)
        assert (answer.status_code, quick) == (413, False)
        assert client.ask("/packages", "POST", body(NEW), **JSON)[1]


@pytest.mark.parametrize(("error", "status"), [(Unknown(), 503), (ValueError("a secret"), 500), (KeyError("x"), 500)])
def test_what_broke_in_the_middle_is_not_done_again(running: Callable[..., Any], error: Exception, status: int) -> None:
    """Nobody knows whether it is done. The answer is the long way's, for a bug too."""
    done: list[str] = []

    class Breaking:
        async def __call__(self, work: Any) -> Any:
            done.append("work")
            raise error

        async def one(self, statement: Any, values: Any) -> bool:
            done.append("one")
            raise error

        async def close(self) -> None:
            pass

    with running() as client:
        start(client)
        client.app.state.write = Breaking()
        for kind in (JSON, LONG_JSON):
            done.clear()
            answer, quick = client.ask("/packages", "POST", body(NEW), **kind)
            assert (answer.status_code, quick, done) == (status, False, ["one"])
            assert answer.headers["content-type"] == PROBLEM_JSON
            assert "secret" not in answer.text


def test_a_body_that_comes_in_pieces_is_given_back_whole() -> None:
    """Also one whose first piece could be all, and what came of a client that has gone."""
    pieces = [{"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.request", "body": b" "}]
    for messages in (pieces, [{"type": "http.disconnect"}], [{"type": "http.request", "body": b"{"}]):
        coming = iter(messages)

        async def receive(coming: Any = coming) -> Any:
            return next(coming)

        async def story(receive: Any = receive, messages: Any = messages) -> None:
            body, again = await taken(receive)
            assert body is None
            assert [await again() for _ in messages] == messages

        asyncio.run(story())
