"""Conditional requests: nobody overwrites what they have not seen, and nobody fetches what they have."""

import itertools
import json
import random
import threading
from asyncio import to_thread
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from before_sign_in import RESOURCES, finished, pantry
from fastapi import APIRouter, Depends, FastAPI, Response
from sqlalchemy import orm
from sqlalchemy.util.concurrency import await_, in_greenlet
from tables import make_tables

from playbook.api.conditional_requests import etag
from playbook.api.errors import PROBLEM_JSON
from playbook.api.representations import MERGE_PATCH
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.deny_by_default import anyone, refuse_undeclared
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.pantry.catalog import Package, Release
from playbook.pantry.conditions import Conditions, Reading, Writing, representation, unguarded_routes
from playbook.pantry.http import DOCUMENTATION, Caller, Transaction, create_app, current_caller
from playbook.pantry.organizations import OrganizationOut, organization_or_404, shown
from playbook.pantry.packages import package_or_404, package_out
from playbook.pantry.settings import Settings
from playbook.schema.identity import add_user
from playbook.schema.natural_keys import version_key

ORGANIZATION, PACKAGE = "/organizations/acme", "/packages/anvil"
AN_ORGANIZATION = {"slug": "a", "name": "A", "description": None}
READERS: dict[str, Any] = {
    ORGANIZATION: lambda session, slug: shown(organization_or_404(session, slug)),
    PACKAGE: lambda session, name: package_out(package_or_404(session, name, sa.true())),
}
CHANGES = {ORGANIZATION: {"description": "new"}, PACKAGE: {"summary": "new"}}


def make(url: str, clock: FixedClock, ids: Identifiers, *routers: APIRouter) -> FastAPI:
    engine = make_engine(url)
    make_tables(engine)
    ada = transaction(engine, lambda session: add_user(session, clock, ids, "ada@example.com", "Ada"))
    app = create_app(engine, routers, clock, ids, lambda request: Caller(ada.id, "Ada"), lambda *asked: True)
    return finished(app)


@pytest.fixture
def client(url: str, clock: FixedClock, ids: Identifiers) -> Iterator[LiveClient]:
    app = make(url, clock, ids, *RESOURCES)
    with serving(app) as client:
        client.app = app  # type: ignore[attr-defined]
        fill(client)
        yield client
        assert client.server_errors == []


def fill(client: LiveClient) -> None:
    client.post("/organizations", json={"slug": "acme", "name": "Acme", "description": "Anvils"})
    client.post("/packages", json={"name": "anvil", "organization": "acme", "summary": "heavy"})


def change(client: LiveClient, url: str, changes: dict[str, Any], **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.patch(url, content=json.dumps(changes), headers={"content-type": MERGE_PATCH, **named})


def publish(app: FastAPI, number: str) -> None:
    def work(session: orm.Session) -> None:
        now, package = app.state.clock.now(), session.scalars(sa.select(Package)).one()
        key = {"version": number, "version_key": version_key(number), "is_prerelease": False, "released_at": now}
        session.add(Release(id=app.state.identifiers.new(), package_id=package.id, created_at=now, **key))

    transaction(app.state.engine, work)


# ---------------------------------------------------------------- RFC 9110: precedence

NOW = '"1"'
SENT = {"absent": None, "current": NOW, "other": '"2"', "weak": f"W/{NOW}", "any": "*", "list": f'"2", {NOW}'}
STRONG = {"absent": True, "current": True, "other": False, "weak": False, "any": True, "list": True}
KNOWN = {"absent": False, "current": True, "other": False, "weak": True, "any": True, "list": True}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE"])
def test_precedence(client: LiveClient, method: str) -> None:
    """RFC 9110, 13.2.2, over every combination: If-Match decides first, then If-None-Match by the method."""
    reads = method in ("GET", "HEAD")
    for match, none in itertools.product(SENT, SENT):
        fill(client)  # what a DELETE has taken away
        tag = client.get(PACKAGE).headers["etag"]
        fields = {"if-match": SENT[match], "if-none-match": SENT[none]}
        headers = {name: value.replace(NOW, tag) for name, value in fields.items() if value}
        content = {} if method != "PATCH" else {"content": '{"summary": "new"}'}
        answer = client.request(method, PACKAGE, headers=headers | {"content-type": MERGE_PATCH}, **content)
        done = 200 if method != "DELETE" else 204
        passes = done if reads or match != "absent" else 428
        expected = 412 if not STRONG[match] else passes if not KNOWN[none] else 304 if reads else 412
        assert answer.status_code == expected, (match, none)


def test_dates_are_ignored_since_no_last_modified_is_sent(client: LiveClient) -> None:
    answer = client.get(PACKAGE, headers={"if-modified-since": "Fri, 31 Dec 2100 00:00:00 GMT"})
    assert answer.status_code == 200
    assert "last-modified" not in answer.headers
    headers = {"if-unmodified-since": "Mon, 01 Jan 1990 00:00:00 GMT", "if-match": answer.headers["etag"]}
    assert client.delete(PACKAGE, headers=headers).status_code == 204


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("url_path", [ORGANIZATION, PACKAGE, "/organizations", "/packages?limit=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_known_is_not_sent_again(client: LiveClient, method: str, url_path: str) -> None:
    first = client.request(method, url_path)
    tag = first.headers["etag"]
    assert tag == etag(client.get(url_path).content)
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = client.request(method, url_path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "vary"):
            assert again.headers[name] == first.headers[name]
        assert not {"content-type", "content-length"} & set(again.headers)
    assert client.request(method, url_path, headers={"if-none-match": '"x"'}).status_code == 200
    assert client.request(method, url_path, headers={"if-match": '"x"'}).status_code == 412
    assert client.request(method, url_path, headers={"if-match": tag}).status_code == 200
    assert client.request(method, url_path, headers={"if-none-match": "unquoted"}).status_code == 200
    assert client.request(method, url_path, headers={"if-match": "unquoted"}).status_code == 400


def test_the_body_is_the_one_that_the_tag_is_of(client: LiveClient) -> None:
    engine = client.app.state.engine  # type: ignore[attr-defined]
    for path, read in READERS.items():
        plain = client.get(path)
        key = path.rsplit("/", 1)[1]
        body = transaction(engine, lambda s, r=read, k=key: representation(r(s, k)))
        assert body == plain.content
        assert (etag(body), plain.headers["content-type"]) == (plain.headers["etag"], "application/json")


def test_equal_tags_are_equal_representations(client: LiveClient) -> None:
    rng, seen = random.Random(3), []
    for step in range(15):
        if step % 5 == 4:
            publish(client.app, f"{step}.0")  # type: ignore[attr-defined]
        else:
            change(client, PACKAGE, {"summary": rng.choice("abc")}, if_match="*")
        seen += [client.get(PACKAGE), client.get("/packages"), client.get("/organizations")]
    for a, b in itertools.combinations(seen, 2):
        assert (a.headers["etag"] == b.headers["etag"]) == (a.content == b.content)


def test_headers_of_the_endpoint_are_kept() -> None:
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.get("/linked", response_model=OrganizationOut)
    def linked(response: Response, conditions: Reading) -> Response:
        response.headers["Link"], response.headers["Cache-Control"] = "</next>", "public, max-age=60"
        stamp = "2026-11-02T09:00:00Z"
        values = AN_ORGANIZATION | {"created_at": stamp, "updated_at": stamp}
        return conditions.answer(OrganizationOut.model_validate(values))

    app = create_app(make_engine("duckdb:///:memory:linked"), [router])
    with serving(app) as client:
        first = client.get("/linked")
        same = client.get("/linked", headers={"if-none-match": first.headers["etag"]})
    for answer, status in ((first, 200), (same, 304)):
        assert answer.status_code == status
        assert (answer.headers["link"], answer.headers["cache-control"]) == ("</next>", "public, max-age=60")


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("url_path", [ORGANIZATION, PACKAGE])
def test_a_write_says_what_it_changes(client: LiveClient, url_path: str) -> None:
    before = client.get(url_path)
    tag = before.headers["etag"]
    for headers, status in (
        ({}, 428),
        ({"if_none_match": '"x"'}, 428),
        ({"if_none_match": "*"}, 412),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f"W/{tag}"}, 412),
        ({"if_match": tag, "if_none_match": tag}, 412),
        ({"if_match": "unquoted"}, 400),
    ):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for answer in (change(client, url_path, CHANGES[url_path], **headers), client.delete(url_path, headers=named)):
            assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_JSON), headers
            assert answer.headers.get("etag") == (tag if status == 412 else None)
        assert client.get(url_path).content == before.content
    for weak in (f"W/{tag}", f'"x", W/{tag}', f'W/{tag[:-1]}-gzip"'):
        refused = change(client, url_path, {}, if_match=weak)  # nothing has changed, and that is what it says
        assert (refused.json()["type"], "W/" in refused.json()["detail"]) == ("/problems/weak-tag", True)
        assert refused.headers["etag"] == tag
    for old in ('"x"', 'W/"x"', '"x-gzip"'):
        assert change(client, url_path, {}, if_match=old).json()["type"] == "/problems/precondition-failed"
    assert change(client, url_path, {}, if_match=f'{tag[:-1]}-gzip"').status_code == 200
    assert client.get(url_path, headers={"if-none-match": f'W/{tag[:-1]}-gzip"'}).status_code == 304
    changed = change(client, url_path, CHANGES[url_path], if_match=tag)
    assert changed.status_code == 200
    assert changed.headers["etag"] == client.get(url_path).headers["etag"] != tag
    assert change(client, url_path, CHANGES[url_path], if_match=tag).status_code == 412
    assert change(client, url_path, CHANGES[url_path], if_match=f'"x", {changed.headers["etag"]}').status_code == 200


def test_a_deletion_of_what_was_changed_is_refused(client: LiveClient) -> None:
    tag = client.get(PACKAGE).headers["etag"]
    publish(client.app, "1.0")  # type: ignore[attr-defined]
    assert client.delete(PACKAGE, headers={"if-match": tag}).status_code == 412
    gone = client.delete(PACKAGE, headers={"if-match": client.get(PACKAGE).headers["etag"]})
    assert gone.status_code == 204
    assert "etag" not in gone.headers
    for headers in ({}, {"if-match": tag}, {"if-match": "*"}):
        assert client.delete(PACKAGE, headers=headers).status_code == 404


def test_other_refusals_come_first(client: LiveClient) -> None:
    assert client.patch(PACKAGE, content="{}").status_code == 415
    assert change(client, PACKAGE, {"colour": "red"}).status_code == 422
    assert change(client, "/packages/none", {}).status_code == 404
    for action in ("packages:write", "packages:delete"):
        client.app.state.may = lambda db, caller, asked, target, action=action: asked != action  # type: ignore[attr-defined]
        method = "PATCH" if action.endswith("write") else "DELETE"
        sent = {"content-type": MERGE_PATCH}
        assert client.request(method, PACKAGE, content="{}", headers=sent).status_code == 403


def meet(barrier: threading.Barrier) -> None:
    """Wait for the other. On the event loop, where work runs in a greenlet, without stopping the loop."""
    if in_greenlet():
        await_(to_thread(barrier.wait, 10))
    else:
        barrier.wait(10)


OUTCOMES = {"PP": [[200, 412]], "PD": [[200, 412], [204, 404]], "DD": [[204, 404]]}


@pytest.mark.parametrize(("path", "kinds"), [(PACKAGE, "PP"), (ORGANIZATION, "PP"), (PACKAGE, "PD"), (PACKAGE, "DD")])
def test_of_two_at_once_one_passes(
    url: str, clock: FixedClock, ids: Identifiers, monkeypatch: pytest.MonkeyPatch, path: str, kinds: str
) -> None:
    meeting: list[threading.Barrier] = []
    turn, first = threading.Lock(), itertools.count()

    check = Conditions.check

    def both_have_checked(self: Conditions, current: Any) -> None:
        check(self, current)
        with turn:
            number = next(first)
        if number < 2:  # the first attempts of both pass the check before either writes
            meet(meeting[0])

    monkeypatch.setattr(Conditions, "check", both_have_checked)
    with serving(make(url, clock, ids, *RESOURCES)) as client, ThreadPoolExecutor(2) as threads:
        fill(client)
        for _ in range(5):
            tag, first = client.get(path).headers["etag"], itertools.count()
            meeting[:] = [threading.Barrier(2)]
            number = itertools.count()

            def act(kind: str, tag: str = tag, number: Any = number) -> int:
                if kind == "D":
                    return client.delete(path, headers={"if-match": tag}).status_code
                field = next(iter(CHANGES[path]))
                return change(client, path, {field: f"{tag} {next(number)}"}, if_match=tag).status_code

            statuses = sorted(threads.map(act, kinds))
            assert statuses in OUTCOMES[kinds]
            fill(client)
        assert client.server_errors == []


@pytest.mark.parametrize("seed", range(3))
def test_no_update_is_lost_in_any_order(client: LiveClient, seed: int) -> None:
    """Editors of one organization, in threads: each adds words to what it read, and every accepted word stays."""

    def editor(name: str) -> list[str]:
        rng, accepted = random.Random(f"{seed} {name}"), []
        read = client.get(ORGANIZATION)
        for number in range(12):
            if rng.random() < 0.6:
                read = client.get(ORGANIZATION)
            words = f"{read.json()['description']} {name}{number}"
            answer = change(client, ORGANIZATION, {"description": words}, if_match=read.headers["etag"])
            assert answer.status_code in (200, 412), answer.text
            accepted += [f"{name}{number}"] * (answer.status_code == 200)
        return accepted

    with ThreadPoolExecutor(3) as threads:
        accepted = list(itertools.chain(*threads.map(editor, "abc")))
    stored = client.get(ORGANIZATION).json()["description"].split()
    assert accepted
    assert sorted(stored) == sorted(["Anvils", *accepted])


# ---------------------------------------------------------------- a route of another resource


def test_what_a_write_says_and_when(url: str, clock: FixedClock, ids: Identifiers) -> None:
    """A write route of its own: nothing is written by a request whose condition fails or that has none."""
    router = APIRouter(dependencies=[Depends(anyone)])

    @router.patch("/renamed/{slug}")
    def rename(slug: str, transact: Transaction, conditions: Writing) -> OrganizationOut:
        def work(session: orm.Session) -> OrganizationOut:
            found = organization_or_404(session, slug)
            conditions.check(shown(found))
            found.name += "!"
            session.flush()
            return shown(found)

        return conditions.tagged(transact(work))

    with serving(make(url, clock, ids, *RESOURCES, router)) as client:
        fill(client)

        def send(**headers: str) -> Any:
            return client.patch("/renamed/acme", headers={n.replace("_", "-"): value for n, value in headers.items()})

        tag = client.get(ORGANIZATION).headers["etag"]
        name = client.get(ORGANIZATION).json()["name"]
        assert send(if_match='"x"').status_code == send(if_none_match="*").status_code == 412
        assert send().status_code == 428
        assert client.get(ORGANIZATION).json()["name"] == name
        changed = send(if_match=tag)
        assert changed.status_code == 200
        assert changed.headers["etag"] == client.get(ORGANIZATION).headers["etag"] != tag
        assert send(if_match=tag).status_code == 412


# ---------------------------------------------------------------- the routes of the service


def test_every_route_of_pantry_that_writes_is_guarded() -> None:
    app = pantry(Settings(environment="test", database_url="duckdb:///:memory:guarded"))
    assert unguarded_routes(app) == ["DELETE /tokens/{token_id}"], "nothing of a token changes"
    refuse_undeclared(app, current_caller, DOCUMENTATION)
    document = app.openapi()
    found = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            headers = {p["name"]: p["required"] for p in operation.get("parameters", []) if p["in"] == "header"}
            if method in ("put", "patch", "delete") and path != "/tokens/{token_id}":  # nothing of a token changes
                assert headers.get("If-Match") is True, (method, path)
                assert {"412", "428"} <= operation["responses"].keys()
                found += 1
            if path in ("/organizations", "/packages", "/packages/{name}") and method == "get":
                assert headers.get("If-None-Match") is False
                assert "304" in operation["responses"]
                assert "ETag" in operation["responses"]["200"]["headers"]
    assert found >= 4
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_an_unguarded_route_is_found(clock: FixedClock, ids: Identifiers) -> None:
    router = APIRouter(dependencies=[Depends(anyone)])
    router.put("/things/{name}")(lambda name: None)
    app = make("duckdb:///:memory:unguarded", clock, ids, *RESOURCES, router)
    assert unguarded_routes(app) == ["PUT /things/{name}"]
