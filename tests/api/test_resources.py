"""Resources: what HTTP promises for a method holds for every URL, and a patch changes what it names."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from before_sign_in import RESOURCES, finished
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import make_tables

from playbook.api.representations import JSON, MERGE_PATCH, quality
from playbook.api.resources import allowed_methods
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.live import LiveClient, serving
from playbook.pantry import reads
from playbook.pantry.catalog import File, Package, PackageRole, Release
from playbook.pantry.http import Caller, create_app
from playbook.schema.identity import Member, add_user
from playbook.schema.natural_keys import version_key

PATCH = {"content-type": MERGE_PATCH}


@pytest.fixture
def client(url: str, clock: FixedClock, ids: Identifiers) -> Iterator[LiveClient]:
    engine = make_engine(url)
    make_tables(engine)
    ada = transaction(engine, lambda session: add_user(session, clock, ids, "ada@example.com", "Ada"))
    caller = Caller(ada.id, ada.name)
    app = finished(create_app(engine, RESOURCES, clock, ids, lambda request: caller, lambda *asked: True))
    with serving(app, headers={"if-match": "*"}) as client:  # whatever is there: conditions have their own tests
        client.app = app  # type: ignore[attr-defined]
        client.post("/organizations", json={"slug": "acme", "name": "Acme", "description": "Anvils"})
        client.post("/packages", json={"name": "Anvil.Tools", "organization": "acme", "summary": "heavy"})
        yield client


def test_created_things_are_where_location_says(client: LiveClient) -> None:
    for sent in client.exchanges[:2]:
        assert sent.status == 201
        location = sent.response_headers["location"]
        assert location.startswith("/")
        assert client.get(location).json() == sent.json()


def test_the_creator_owns_the_organization(client: LiveClient) -> None:
    with client.app.state.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.scalars(sa.select(Member.role)).all() == ["owner"]


@pytest.mark.parametrize("name", ["anvil-tools", "Anvil.Tools", "ANVIL__tools", "anvil-.-tools"])
def test_every_spelling_is_the_package(client: LiveClient, name: str) -> None:
    assert client.get(f"/packages/{name}").json()["name"] == "anvil-tools"
    assert client.post("/packages", json={"name": name, "organization": "acme"}).status_code in (409, 422)


def test_allow_is_complete_and_true_on_every_route(client: LiveClient) -> None:
    app = client.app  # type: ignore[attr-defined]
    paths = {r.path for r in iter_route_contexts(app.routes) if r.path and r.path.startswith(("/org", "/pack"))}
    assert len(paths) == 4
    for path in paths:
        real = path.format(slug="acme", name="anvil-tools")
        answer = client.request("TRACE", real)
        assert answer.status_code == 405
        allowed = answer.headers["allow"].split(", ")
        assert allowed == allowed_methods(app, real)
        assert {"GET", "HEAD", "OPTIONS"} <= set(allowed)
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"):
            status = client.request(method, real, json={}).status_code
            assert (status == 405) == (method not in allowed), (method, real)
        assert client.options(real).headers["allow"] == answer.headers["allow"]


def test_head_has_the_headers_of_get_and_no_body(client: LiveClient) -> None:
    for path in ("/organizations", "/packages/anvil-tools", "/packages/none", "/health"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        for name in ("content-type", "content-length"):
            assert head.headers[name] == get.headers[name]


fields = {"name": st.sampled_from(["New", " padded "]), "description": st.sampled_from([None, "", "new"])}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({}, {"name": "Acme", "description": "Anvils"}),
        ({"name": "New"}, {"name": "New", "description": "Anvils"}),
        ({"description": None}, {"name": "Acme", "description": None}),
        ({"description": ""}, {"name": "Acme", "description": ""}),
        ({"name": " New ", "description": "x"}, {"name": "New", "description": "x"}),
    ],
)
def test_a_patch_changes_what_it_names(
    client: LiveClient, clock: FixedClock, patch: dict[str, str | None], expected: dict[str, str | None]
) -> None:
    from datetime import timedelta

    before = client.get("/organizations/acme").json()
    clock.advance(timedelta(hours=1))
    after = client.patch("/organizations/acme", content=json.dumps(patch), headers=PATCH).json()
    assert {key: after[key] for key in expected} == expected
    assert after["created_at"] == before["created_at"]
    assert (after["updated_at"] != before["updated_at"]) == bool(patch)
    assert client.get("/organizations/acme").json() == after


@pytest.mark.parametrize(
    "patch", ['{"name": null}', '{"name": ""}', '{"name": 1}', '{"slug": "x"}', "[]", "null", '"x"', "{", ""]
)
def test_a_bad_patch_changes_nothing(client: LiveClient, patch: str) -> None:
    before = client.get("/organizations/acme").json()
    status = 400 if patch == "{" else 422  # 400: it is not even JSON
    assert client.patch("/organizations/acme", content=patch, headers=PATCH).status_code == status
    assert client.get("/organizations/acme").json() == before


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Acme"},
        {"slug": "Acme", "name": "Acme"},
        {"slug": "a", "name": "Acme"},
        {"slug": "acme-", "name": "Acme"},
        {"slug": "new\n", "name": "Acme"},
        {"slug": "new", "name": ""},
        {"slug": "new", "name": "x" * 101},
        {"slug": "new", "name": 5},
        {"slug": "new", "name": "Acme", "version": 7},
        {"slug": "new", "name": "Acme", "description": "x" * 2001},
    ],
)
def test_what_is_not_understood_is_refused(client: LiveClient, body: dict[str, object]) -> None:
    assert client.post("/organizations", json=body).status_code == 422
    assert len(client.get("/organizations").json()["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status", "hint"),
    [
        ("POST", "/organizations", "text/plain", 415, "accept"),
        ("POST", "/packages", "application/x-www-form-urlencoded", 415, "accept"),
        ("POST", "/packages", "", 415, "accept"),
        ("POST", "/organizations", MERGE_PATCH, 415, "accept"),
        ("PATCH", "/organizations/acme", "application/json-patch+json", 415, "accept-patch"),
        ("PATCH", "/packages/anvil-tools", "text/json", 415, "accept-patch"),
        ("PATCH", "/packages/anvil-tools", "application/json, application/json", 415, "accept-patch"),
    ],
)
def test_other_media_types_are_refused_with_what_would_do(
    client: LiveClient, method: str, path: str, content_type: str, status: int, hint: str
) -> None:
    answer = client.request(method, path, content="{}", headers={"content-type": content_type} if content_type else {})
    assert answer.status_code == status
    assert answer.headers[hint] == {"accept": JSON, "accept-patch": f"{MERGE_PATCH}, {JSON}"}[hint]


FORMS = (
    MERGE_PATCH, JSON, "Application/JSON", 'application/json; charset="utf-8"', "application/json;charset=UTF-8",
    "application/json ;", "application/merge-patch+json; charset=utf-8", 'application/json; profile="a;b,c"',
)  # fmt: skip


def test_a_patch_means_the_same_in_every_form_of_its_type(client: LiveClient) -> None:
    for number, content_type in enumerate(FORMS):
        for sent, now in ((f'{{"name": "N{number}"}}', "x"), ('{"description": null}', None)):
            body, headers = sent.replace("}", ', "description": "x"}') if now else sent, {"content-type": content_type}
            answer = client.patch("/organizations/acme", content=body, headers=headers)
            assert (answer.status_code, answer.json()["name"]) == (200, f"N{number}"), content_type
            assert answer.json()["description"] == now


JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"  # what HttpURLConnection sends by itself


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", 1),
        ("*/*", 1),
        ("application/*;q=0.5", 0.5),
        ("text/html", 0),
        ("text/html, application/json;q=0.3", 0.3),
        ("*/*, application/json;q=0", 0),
        ("application/*;q=0, application/json", 1),
        ("APPLICATION/JSON ; Q=0.7", 0.7),
        ("application/json;version=1;q=0.2", 0.2),
        # a weight is read in any form that shows a number; what shows none is not "never"
        (JAVA, 0.2),
        ("*", 1),
        ("*;q=0", 0),
        ("application/json;q=1.0000", 1),
        ("application/json;q=0.12345", 0.12345),
        ("application/json;q=0.0000", 0),
        ("application/json;q=.0", 0),
        ("application/json; q = 0.4", 0.4),
        ("application/json\t;\tq=0.4\t,\ttext/html", 0.4),
        ("application/json;q=nonsense", 1),
        ("application/json;q=0nonsense", 1),
        ("application/json;q=", 1),
        ("application/json;q", 1),
        ("application/json;q=-1", 1),
        ("application/json;q=2", 1),
        ("application/json;q=NaN", 1),
        ("text/html;q=nonsense", 0),
        # a header in which no range can be read takes anything
        ("", 1),
        (" ,, ", 1),
        ("json", 1),
        ("q=0.5", 1),
        ("application/*+json", 1),
        ("application/*+json, text/html", 0),
        ("application/problem+json", 0),
        ("text/*", 0),
        # parameters: another variant may be wanted, but its exclusion is not ours; charset says nothing about JSON
        ("application/json;version=2;q=0, */*", 1),
        ("application/json;version=2;q=0.5, application/json;q=0", 0),
        ('application/json;charset="utf-8";q=0, */*', 0),
        ("application/json;charset=utf-8", 1),
        ("application/json;q=0, application/*", 0),
        ("*/*;q=0, application/json;q=0.001", 0.001),
        # a comma or semicolon in quotes separates nothing; a quote that does not end hides nothing
        ('text/html;a="x, application/json;q=1"', 0),
        ('application/json;a="b;q=0"', 1),
        ('text/html;a="\\", application/json;q=0.5', 0.5),
        ('text/html;a="x, application/json;q=0.5', 0.5),
        # more than anybody needs is disregarded
        ("text/html," * 5000, 1),
        ("text/html;q=0.1," * 60, 0),
    ],
)
def test_quality_follows_the_most_precise_range(accept: str, expected: float) -> None:
    assert quality(accept, JSON) == expected


@pytest.mark.parametrize("piece", [',a\\"', "a,", "a;", ";q", '"', " ", "a;q ", '",', "a/*;q=0,"])
def test_the_work_of_an_accept_header_is_bounded(piece: str) -> None:
    """Elements looked at, not seconds: none of a long header, a few hundred of one that is read."""
    from playbook.api.representations import ELEMENT, MAX_ACCEPT

    assert quality(piece * 64_000, JSON) == 1
    assert len(ELEMENT.findall((piece * MAX_ACCEPT)[:MAX_ACCEPT])) <= MAX_ACCEPT


def test_accept_over_the_wire(client: LiveClient) -> None:
    import http.client

    for lines, status in (
        ([], 200),
        ([""], 200),
        ([JAVA], 200),
        (["*"], 200),
        (["text/html"], 406),
        (["text/html", "application/json;q=0.1"], 200),  # one list in two lines
        (["*/*", "application/json;q=0"], 406),
    ):
        for path in ("/organizations", "/packages", "/organizations/acme", "/packages/anvil-tools"):
            connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
            connection.putrequest("GET", path)  # sends no Accept by itself
            for line in lines:
                connection.putheader("Accept", line)
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status == status, (path, lines, answer.read())
            connection.close()


DATES = (
    "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "yesterday", "",
)  # fmt: skip


def test_no_form_of_a_date_matters_where_no_last_modified_is_sent(client: LiveClient) -> None:
    for header in ("if-modified-since", "if-unmodified-since", "if-range", "date"):
        for date in DATES:
            answer = client.get("/organizations/acme", headers={header: date})
            assert (answer.status_code, "last-modified" in answer.headers) == (200, False), (header, date)


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_no_accept_header_is_an_error(accept: str) -> None:
    assert 0 <= quality(accept, JSON) <= 1


def test_an_organization_with_packages_stays(client: LiveClient) -> None:
    assert client.delete("/organizations/acme").status_code == 409
    assert client.delete("/packages/anvil-tools").status_code == 204
    assert client.delete("/organizations/acme").status_code == 204
    assert [client.get(f"/{kind}").json()["items"] for kind in ("organizations", "packages")] == [[], []]
    assert client.post("/organizations", json={"slug": "acme", "name": "Acme"}).status_code == 201


def test_a_deleted_package_leaves_no_row_behind(client: LiveClient, clock: FixedClock, ids: Identifiers) -> None:
    engine, now = client.app.state.engine, clock.now()  # type: ignore[attr-defined]

    def publish(session: sa.orm.Session) -> None:  # type: ignore[name-defined]
        package = session.scalars(sa.select(Package)).one()
        owner = session.scalars(sa.select(Member)).one().user_id
        key = {"version": "1.0", "version_key": version_key("1.0"), "is_prerelease": False, "released_at": now}
        release = Release(id=ids.new(), package_id=package.id, created_at=now, **key)
        session.add(release)
        session.add(PackageRole(id=ids.new(), package_id=package.id, user_id=owner, role="uploader", created_at=now))
        session.flush()
        content = {"filename": "a-1.0.tar.gz", "kind": "sdist", "size_bytes": 1, "sha256": "0" * 64}
        session.add(File(id=ids.new(), release_id=release.id, uploaded_at=now, **content))

    transaction(engine, publish)
    assert client.get("/packages/anvil-tools").json()["latest_version"] == "1.0"
    assert client.delete("/packages/anvil-tools").status_code == 204
    with engine.connect() as connection:
        for model in (Package, Release, File, PackageRole):
            assert connection.scalar(sa.select(sa.func.count()).select_from(model)) == 0, model


def test_a_list_says_whether_it_is_complete(client: LiveClient) -> None:
    for number in range(3):
        client.post("/packages", json={"name": f"p{number}", "organization": "acme"})
    for limit, complete in ((1, False), (3, False), (4, True), (100, True)):
        answer = client.get(f"/packages?limit={limit}").json()
        assert (len(answer["items"]), answer["complete"]) == (min(limit, 4), complete)
    assert client.get("/packages?organization=none").json() == {
        "items": [],
        "complete": True,
        "next": None,
        "prev": None,
    }
    for limit in ("0", "101", "-1", "x"):
        assert client.get(f"/packages?limit={limit}").status_code == 422


def test_a_list_costs_one_statement_whatever_its_length(client: LiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from playbook.kit.stage import capture_sql

    on_the_loop: list[str] = []
    ask = reads.rows_of  # all that is asked there goes through it
    monkeypatch.setattr(
        reads, "rows_of", lambda cursor, sql, values: on_the_loop.append(sql) or ask(cursor, sql, values)
    )
    for number in range(10):
        client.post("/packages", json={"name": f"p{number}", "organization": "acme"})
    with capture_sql(client.app.state.engine) as statements:  # type: ignore[attr-defined]
        assert len(client.get("/packages").json()["items"]) == 11
    said = [*on_the_loop, *(s.sql for s in statements)]
    assert len([sql for sql in said if sql.lstrip().startswith("SELECT packages")]) == 1


def test_an_unknown_owner_is_a_conflict_with_what_is_there(client: LiveClient) -> None:
    assert client.post("/packages", json={"name": "x", "organization": "nobody"}).status_code == 409


@pytest.mark.parametrize("path", ["/organizations/none", "/packages/none", "/nowhere", "/organizations/"])
def test_what_is_not_there_is_404_for_every_method_it_would_have(client: LiveClient, path: str) -> None:
    assert client.get(path).status_code == 404
    if path.count("/") == 2 and not path.endswith("/"):
        assert client.patch(path, content="{}", headers=PATCH).status_code == 404
        assert client.delete(path).status_code == 404


NEWEST = {  # by package: versions, oldest first; `!` before one that was yanked; the newest that is shown
    "plain": (["1.9", "1.10", "1.2"], "1.10"),
    "only-pre": (["2.0a1", "2.0rc1"], "2.0rc1"),
    "pre": (["1.0", "2.0rc1"], "1.0"),
    "yanked": (["1.0", "!1.1", "1.1b1"], "1.0"),
    "all-yanked": (["!1.0"], None),
    "none": ([], None),
}


def test_the_list_and_the_package_name_the_same_newest_version(
    client: LiveClient, clock: FixedClock, ids: Identifiers
) -> None:
    engine, now = client.app.state.engine, clock.now()  # type: ignore[attr-defined]
    for name in NEWEST:
        client.post("/packages", json={"name": name, "organization": "acme"}).raise_for_status()

    def publish(session: sa.orm.Session) -> None:  # type: ignore[name-defined]
        for package in session.scalars(sa.select(Package).where(Package.normalized_name.in_(NEWEST))).all():
            for text in NEWEST[package.normalized_name][0]:
                version = text.removeprefix("!")
                key: dict[str, object] = {"version": version, "version_key": version_key(version)}
                key["is_prerelease"] = any(letter.isalpha() for letter in version)
                yanked = now if text != version else None
                times = {"released_at": now, "created_at": now, "yanked_at": yanked}
                session.add(Release(id=ids.new(), package_id=package.id, **key, **times))

    transaction(engine, publish)
    listed = {item["name"]: item["latest_version"] for item in client.get("/packages").json()["items"]}
    for name, (_, newest) in NEWEST.items():
        assert listed[name] == newest, name
        assert client.get(f"/packages/{name}").json()["latest_version"] == newest, name
    page = client.get("/packages?limit=3&sort=-name").json()
    assert [item["latest_version"] for item in page["items"]] == [listed[item["name"]] for item in page["items"]]
