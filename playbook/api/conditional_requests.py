# %% [markdown]
"""
# Conditional requests

Let two people edit one thing without overwriting each other, and let clients ask "has it changed?" for a few bytes.

| | |
|---|---|
| **Use it when** | more than one client can change a resource, or a client asks again for what it has |
| **You need** | [http_service](../foundations/http_service.ipynb), [resources](resources.ipynb), [errors](errors.ipynb) |
| **Time** | 18 minutes |
| **Topics** | conditional requests, etag, entity tag, if-match, if-none-match, optimistic locking, optimistic concurrency, concurrent edits, lost update, precondition failed, precondition required, not modified, http cache, caching, revalidation, cache-control, vary, weak etag, strong etag, merge conflict, 304, 412, 428 |
| **Standard** | RFC 9110, 8.8.3 and 13; RFC 9111; RFC 6585, 3 |
"""

# %% [markdown]
"""
## The decision

Who wins when two people edit the same thing?

| option | good | costs |
|---|---|---|
| the last one | nothing to write | the other one's work is gone, and nobody is told |
| whoever locks it first | no work in vain | somebody goes to lunch with the lock; it needs an owner, an end and a way to break it |
| a version number in the body | easy to see | a rule of your own; DELETE and GET have no body; caches do not know it |
| **ETag and If-Match** | one rule for every resource and method; caches know the same tag | a client must handle 412 |

We take **the tag**. Choose locks where a merge is impossible or work is expensive, such as a drawing.

And what is the tag made of?

| option | good | costs |
|---|---|---|
| the time of the last change | there already | two changes in one tick look like none; HTTP dates have whole seconds |
| the row's `version` | cheap, no body needed | knows one row; the answer is made of more |
| **a hash of the representation** | equal tag, equal bytes, by construction: also for lists, joins, a new field | the body must be made before it is known |
| a weak tag, `W/"7"` | may ignore what does not matter | `If-Match` never accepts it |

We take **the hash**. A package's answer has the slug of its owner and its newest version: both change while the row
of the package, and its `version`, stay. A strong tag promises equal bytes, so a tag of one row would be a lie. Choose
the version where one row is the whole answer and making it is expensive.
"""

# %% [markdown]
"""
## See it break

Alice and Bob open the same form. Alice corrects the description, Bob adds to the one he sees. Before you run the
cell: which status codes do they get, and what is left of Alice's correction?
"""

# %%
import json
from datetime import UTC, datetime

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import checker, data_path, lesson_url, on_postgres, serving, show, show_http, table
from playbook.pantry.http import Caller, create_app
from playbook.pantry.problems import install_problems
from playbook.pantry.resources import MERGE_PATCH, complete_methods, resources
from playbook.schema.catalog import load_catalog
from playbook.schema.identity import Organization, add_user


def service(url, router, catalog=None, **options):
    """The service with a fixed clock; its only organization is "mirror". `options` are those of the engine."""
    engine, clock = make_engine(url, **options), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.create_all(engine)
    ids, now = Identifiers(clock, SeededBytes(1)), clock.now()
    mirror = Organization(id=ids.new(), slug="mirror", name="Mirror", description="Pakages", created_at=now)
    mirror.updated_at, mirror_id = now, mirror.id
    transaction(engine, lambda session: session.add(mirror))
    user = transaction(engine, lambda session: add_user(session, clock, ids, "alice@example.com", "Alice"))
    if catalog:
        load_catalog(engine, catalog, mirror_id, now)
    app = create_app(engine, [router], clock, ids, lambda request: Caller(user.id, user.name), lambda *asked: True)
    complete_methods(app)
    install_problems(app)
    return app


def patch(client, url, changes, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items() if value}
    return client.patch(url, content=json.dumps(changes), headers={"content-type": MERGE_PATCH, **names})


URL = "/organizations/mirror"
with serving(service(lesson_url(), resources)) as client:
    alice_sees, bob_sees = client.get(URL).json(), client.get(URL).json()
    alices = patch(client, URL, {"description": "Packages"})
    bobs = patch(client, URL, {"description": bob_sees["description"] + " of everybody"})
    print(f"Alice: {alices.status_code}, Bob: {bobs.status_code}, stored: {bobs.json()['description']!r}")

# %% [markdown]
"""
Two times 200, and Alice's correction is gone without a word. No transaction could help: each request was one. The
gap is between Bob's reading and his writing, and it lies on his screen.

The other waste: a dashboard asks for the same page of packages ten times, and nothing has changed.
"""


# %%
def ask_ten_times(client, url):
    """Bytes of ten answers' bodies; the client shows the tag it has, as a browser does."""
    tag, received = None, []
    for _ in range(10):
        answer = client.get(url, headers={"if-none-match": tag} if tag else {})
        tag = answer.headers.get("etag")
        received.append(len(answer.content))
    return received


PAGE = "/packages?limit=100"
with serving(service(lesson_url(), resources, data_path("packages.csv"))) as client:
    plain = ask_ten_times(client, PAGE)
print(f"{sum(plain):,} bytes in ten answers of {plain[0]:,}")

# %% [markdown]
"""
## Build it

New types of problem. 412 says that somebody was faster, or that a proxy made the tag weak; 428 says that the client
did not even ask (RFC 6585).
"""

# %%
import hashlib

from pydantic import BaseModel

from playbook.pantry.problems import MALFORMED, Problem, problem_type

CHANGED = problem_type("precondition-failed", 412, "It has changed since you read it", "Read it again, merge, retry.")
WEAKENED = problem_type("weak-tag", 412, "Nothing has changed, but the tag is weak", "Send it without `W/`.")
UNCONDITIONAL = problem_type("precondition-required", 428, "Say what you change", "Send `If-Match` with the ETag.")


def representation(model: BaseModel) -> bytes:
    """The body that is sent for `model`: the one place that turns it into bytes."""
    return model.model_dump_json(by_alias=True).encode()


def etag(body: bytes) -> str:
    """The strong entity tag of a representation: equal if and only if the bytes are (RFC 9110, 8.8.1)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


# %% [markdown]
"""
Then the rules of RFC 9110. A header holds a list of tags, and a tag may contain a comma, so splitting at commas is
wrong. `If-Match` compares strongly: only equal bytes are safe to build on. `If-None-Match` compares weakly: for a copy
"as good as" will do. `*` is any representation at all. Where a header cannot be read, the safe side differs: a GET
answers in full, a write is refused. And a proxy that compresses marks the tag: Apache sends `"abc-gzip"`. That names
the compressed form of the same bytes, so the mark is taken off; our own tags never have one.
"""

# %%
import re

from starlette.datastructures import Headers

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


# %%
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


# %% [markdown]
"""
Reading. The tag is that of the bytes which are sent, since both are one variable. A 304 has the headers that the 200
would have had, for the copy that the client keeps is refreshed with them. `no-cache` does not forbid to keep it; it
means: ask before you use it. `private`, because a permission was checked, and a shared cache checks none.
"""

# %%
from fastapi import Request, Response

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


# %% [markdown]
"""
Writing. The check must be in the transaction that writes, or two clients pass it before either has written. So the
endpoint's `transact` is replaced by one that reads the representation first, and if the commit meets a conflict, the
next attempt checks again. After the work it reads once more: the answer has the new tag, and a client can go on
editing without a GET.
"""

# %%
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import HTTPException
from sqlalchemy import orm

from playbook.pantry.http import Transact

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


# %% [markdown]
"""
`guarded` is that transaction. Whether the other client changes the row or deletes it makes no difference: to both
engines it is a [conflict](../foundations/database.ipynb).
"""


# %%
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


# %% [markdown]
"""
A decorator brings both to an endpoint: `@conditional()` below `@router.get`, `@conditional(read)` below the methods
that write. FastAPI looks at a function's signature to know what to give it, so the decorator adds one parameter there.
"""

# %%
import inspect
from functools import wraps

from fastapi import Depends


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


# %% [markdown]
"""
The organizations and packages exist already. They are not written again: a router goes in and a router with the same
routes comes out, every GET and every writing method decorated. A route that writes and has no reader is an error, not
a gap. What the headers and status codes mean goes into the OpenAPI document.
"""

# %%
from collections.abc import Mapping

from fastapi import APIRouter
from fastapi.routing import APIRoute

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


# %%
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


# %%
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from playbook.pantry.http import calls_of
from playbook.pantry.resources import organization_or_404, package_or_404, package_out, resources, shown

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


# %% [markdown]
"""
## See it work

The same two editors. Bob's client shows the tag of what Bob read, and is told. It reads again, and Bob adds his words
to Alice's:
"""


# %%
def edit(client, url, tag, words):
    return patch(client, url, {"description": words}, if_match=tag)


with serving(service(lesson_url(), conditional_resources)) as client:
    alice_read, bob_read = client.get(URL), client.get(URL)
    edit(client, URL, alice_read.headers["etag"], "Packages")
    client.shown = len(client.exchanges)
    edit(client, URL, bob_read.headers["etag"], bob_read.json()["description"] + " of everybody")
    bob_read = client.get(URL)
    edit(client, URL, bob_read.headers["etag"], bob_read.json()["description"] + " of everybody")
    client.delete(URL)
    show_http(client)

# %% [markdown]
"""
The last answer is 428: a client that does not say what it deletes might delete what it never saw. Now the dashboard:
"""

# %%
with serving(service(lesson_url(), conditional_resources, data_path("packages.csv"))) as client:
    received = ask_ten_times(client, PAGE)
    print(f"{sum(received):,} bytes instead of {sum(plain):,}: {[f'{size:,}' for size in received[:3]]} ...")
    tag = client.exchanges[0].response_headers["etag"]
    client.shown = len(client.exchanges)
    client.head(PAGE, headers={"if-none-match": f'"older", W/{tag}'})
    show_http(client)

# %% [markdown]
"""
Bytes and the time to send and parse them are saved, the query is not: the server makes the body to know its tag.

The comparison table of RFC 9110, 8.8.3.2, executed:
"""

# %%
PAIRS = [('W/"1"', 'W/"1"'), ('W/"1"', 'W/"2"'), ('W/"1"', '"1"'), ('"1"', '"1"')]
compared = [(a, b, matches([a], b, weak=False), matches([a], b, weak=True)) for a, b in PAIRS]
show(table(compared, ["tag 1", "tag 2", "strong (If-Match)", "weak (If-None-Match)"]))

# %% [markdown]
"""
## On PostgreSQL

Two clients send one tag at the same moment. We hold both until both have read the state, and both tags are current
then. Predict: two times 200?
"""

# %%
import threading
from concurrent.futures import ThreadPoolExecutor


def race(url, **options):
    """The status codes of two PATCH with one tag, both of which pass their first check; and how often was checked."""
    meeting, reads, counting = threading.Barrier(2), [], threading.Lock()

    def read_together(session, slug):
        found = READERS["/organizations/{slug}"](session, slug)
        with counting:
            reads.append(slug)
            first = len(reads) <= 2
        if first:
            meeting.wait(10)
        return found

    router = conditional_router(resources, READERS | {"/organizations/{slug}": read_together})
    with serving(service(url, router, **options)) as client, ThreadPoolExecutor(2) as threads:
        tag = client.get(URL).headers["etag"]
        answers = list(threads.map(lambda words: edit(client, URL, tag, words), ("Alice's", "Bob's")))
        winner = next((a for a in answers if a.status_code == 200), None)
        kept = winner is not None and client.get(URL).json() == winner.json()
    return sorted(answer.status_code for answer in answers), kept, len(reads) > 3


here = race(lesson_url())
print(f"answers {here[0]}, the winner's words are stored: {here[1]}, the loser checked again: {here[2]}")
there = on_postgres(race)
weaker = on_postgres(race, isolation_level="READ COMMITTED")
if there:
    print("PostgreSQL:", "the same" if there == here else there)
    print(f"PostgreSQL with READ COMMITTED: answers {weaker[0]}")

# %% [markdown]
"""
The second commit is refused on both engines: PostgreSQL lets its UPDATE wait for the first and then reports 40001,
DuckDB refuses at once. `transaction` runs the work again, the check is part of the work, and this time it fails. At
PostgreSQL's own default, READ COMMITTED, the check looks the same in the code and stops nobody: two times 200, one
change gone. A tag is only as good as the isolation below it.

## Check it

Two editors, steps in random order: read, or write what was last read with one word added. Every word that got a 200
must be there in the end. The same orders without the guard must lose some, or this check could not fail.
"""

# %%
import itertools
import random


def interleave(url, router, seed, orders=6, steps=24):
    """The words whose change was answered with 200, and those that are missing in the end."""
    rng, accepted, lost = random.Random(seed), 0, 0
    with serving(service(url, router)) as client:
        for order in range(orders):
            url = f"/organizations/o{order}"
            client.post("/organizations", json={"slug": f"o{order}", "name": "O", "description": ""})
            seen, words = {editor: client.get(url) for editor in "ab"}, []
            for step in range(steps):
                editor = rng.choice("ab")
                if rng.random() < 0.5:
                    seen[editor] = client.get(url)
                    continue
                word, read = f"{editor}{step}", seen[editor]
                answer = edit(client, url, read.headers.get("etag"), f"{read.json()['description']} {word}")
                assert answer.status_code in (200, 412), answer.text
                words += [word] * (answer.status_code == 200)
            final = client.get(url).json()["description"].split()
            accepted, lost = accepted + len(words), lost + len(set(words) - set(final))
            assert len(final) == len(set(final))
    return accepted, lost


assert here == ([200, 412], True, True) and there in (here, None)
assert weaker is None or weaker[0] == [200, 200]
accepted, lost = interleave(lesson_url(), conditional_resources, seed=1)
assert accepted > 0 and lost == 0, f"{lost} of {accepted} changes are lost"
assert interleave(lesson_url(), resources, seed=1)[1] > 0, "the check cannot fail"
assert on_postgres(interleave, conditional_resources, 1) in ((accepted, 0), None)
assert [row[2:] for row in compared] == [(False, True), (False, False), (False, True), (True, True)]
print("no accepted change is lost in any order, on both engines")

# %% [markdown]
"""
Then the tag: equal if and only if the representation is, over random states, and also for a change that the row of
the package does not know about. And nothing that writes is unguarded.
"""

# %%
import sqlalchemy as sa

from playbook.schema.catalog import Package, Release, version_key


def release(session, number, ids, now):
    """A newer version: a row of another table."""
    package = session.scalars(sa.select(Package)).one()
    key = {"version": number, "version_key": version_key(number), "is_prerelease": False, "released_at": now}
    session.add(Release(id=ids.new(), package_id=package.id, created_at=now, **key))
    return package.version


with serving(app := service(lesson_url(), conditional_resources)) as client:
    rng, answers, tool = random.Random(2), [], "/packages/tool"
    client.post("/packages", json={"name": "tool", "organization": "mirror"})
    for _ in range(20):
        answers.append(client.get(tool))
        patch(client, tool, {"summary": rng.choice(["a", "b", "c", None])}, if_match=answers[-1].headers["etag"])
    now, ids = app.state.clock.now(), app.state.identifiers
    versions = []
    for number in ("1.0", "1.1"):
        versions.append(transaction(app.state.engine, lambda session: release(session, number, ids, now)))
        answers.append(client.get(tool))
    assert versions[0] == versions[1] and answers[-1].headers["etag"] != answers[-2].headers["etag"]
    assert edit(client, tool, answers[-2].headers["etag"], "x").status_code == 422  # not a field of packages
    assert patch(client, tool, {"summary": "x"}, if_match=answers[-2].headers["etag"]).status_code == 412
    for a, b in itertools.combinations(answers, 2):
        assert (a.headers["etag"] == b.headers["etag"]) == (a.content == b.content)
    changed = patch(client, tool, {"summary": "y"}, if_match=client.get(tool).headers["etag"])
    assert changed.headers["etag"] == client.get(tool).headers["etag"]
    for method in ("GET", "HEAD"):
        fresh = client.request(method, tool)
        same = client.request(method, tool, headers={"if-none-match": fresh.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert all(same.headers[name] == fresh.headers[name] for name in ("etag", "cache-control", "vary"))
    assert patch(client, tool, {"summary": "x"}, if_match="no-quotes").status_code == 400
assert unguarded_routes(app) == []
assert len(unguarded_routes(service(lesson_url(), resources))) == 4
print("equal tags mean equal bytes and no other do; 304 has the headers of 200; no route writes unasked")

# %% [markdown]
"""
## Your turn

Most 412s need not bother anybody: Alice changed the name, Bob the description. Write `save(client, url, read, mine)`
for a front end. `read` is the answer that the form was filled from, `mine` the fields its user changed, with their
new values.

It returns `{}` when the user's fields are stored and no change of anybody else is undone. If somebody else has changed
one of the *same* fields to something else, it stores nothing and returns `{field: their value}` for each of these, so
that the form can ask. Any other failure is raised. After five attempts it raises `TimeoutError`.
"""


# %% tags=["exercise"]
def save(client, url, read, mine):
    answer = patch(client, url, mine, if_match=read.headers["etag"])
    if answer.status_code == 412:  # the problem has the current tag: what is wrong with using it?
        answer = patch(client, url, mine, if_match=answer.headers["etag"])
    answer.raise_for_status()
    return {}


# %%
import httpx


@checker
def check_save(save):
    with serving(service(lesson_url(), conditional_resources)) as other:

        def run(mine, *changes):
            """`save`, with one change by somebody else before each of its PATCHes, as long as there are some."""
            slug, left = f"o{len(other.exchanges)}", list(changes)
            url = f"/organizations/{slug}"
            other.post("/organizations", json={"slug": slug, "name": "Old", "description": "old"})

            def meddle(request):
                if request.method == "PATCH" and left and (change := left.pop(0)) is not None:
                    patch(other, url, change, if_match="*") if change else other.delete(url, headers={"if-match": "*"})

            hooks = {"request": [meddle]}
            with httpx.Client(base_url=other.base_url, event_hooks=hooks, trust_env=False, timeout=30) as client:
                try:
                    result = save(client, url, client.get(url), mine)
                except (httpx.HTTPStatusError, TimeoutError) as error:
                    result = type(error)
            stored = other.get(url).json()
            return result, (stored.get("name"), stored.get("description"))

        if run({"name": "New"}) != ({}, ("New", "old")):
            return "not yet: with nobody else around, the name is stored and the result is {}"
        if run({"name": "New"}, {"description": "theirs"}) != ({}, ("New", "theirs")):
            return "not yet: they changed another field: both changes must be there in the end"
        if run({"name": "New"}, {"name": "Theirs"}) != ({"name": "Theirs"}, ("Theirs", "old")):
            return "not yet: they changed the same field: store nothing, return their value"
        if run({"name": "New", "description": "new"}, {"name": "Theirs"}) != ({"name": "Theirs"}, ("Theirs", "old")):
            return "not yet: one field in conflict: nothing is stored, and only that field is returned"
        if run({"name": "New"}, {"name": "New", "description": "theirs"}) != ({}, ("New", "theirs")):
            return "not yet: both changed the name to the same: nobody needs to be asked"
        if run({"name": "New"}, {"description": "1"}, {"name": "Theirs"}) != ({"name": "Theirs"}, ("Theirs", "1")):
            return "not yet: the second attempt can meet a change too"
        if run({"description": None}, {"name": "Theirs"}) != ({}, ("Theirs", None)):
            return "not yet: None is a new value like any other"
        if run({"description": "new"}, {"description": None}) != ({"description": None}, ("Old", None)):
            return "not yet: they removed the field you changed: that is a conflict, their value is None"
        if run({"name": "New"}, {})[0] is not httpx.HTTPStatusError:
            return "not yet: it was deleted meanwhile: raise the 404"
        if run({"name": "New"}, *({"description": str(n)} for n in range(9)))[0] is not TimeoutError:
            return "not yet: after five attempts, raise TimeoutError"
    return "right"


check_save(save)


# %% tags=["solution"]
def save(client, url, read, mine):
    # Three states count: what the user saw, what is stored now, and what the user wants. The tag of the 412 must not
    # be used: it belongs to a state nobody has looked at. And `base` stays the first one: it is what the user saw.
    base = read.json()
    for _ in range(5):
        answer = patch(client, url, mine, if_match=read.headers["etag"])
        if answer.status_code != 412:
            answer.raise_for_status()
            return {}
        read = client.get(url).raise_for_status()
        now = read.json()
        conflicts = {field: now[field] for field, value in mine.items() if now[field] not in (base[field], value)}
        if conflicts:
            return conflicts
    raise TimeoutError(f"{url} was changed by others each time")


assert check_save(save)

# %% [markdown]
"""
## Hand it over

- **Front end**: keep the ETag with the form; on 412 read again and merge, never retry with the tag of the 412 itself.
  A write answers with the next tag. On `weak-tag` nothing was lost: take `W/` off and send it again.
- **Reviewer**: a route that writes has `@conditional(read)`; one `transact` in it; `read` gives what GET gives.
- **Test engineer**: `unguarded_routes(app)` is empty; `If-Match: *` means "whatever is there": allow it to scripts and
  search for it in clients.
- **Operator**: a proxy that compresses should keep strong tags: nginx makes them weak, and every `If-Match` gets 412
  `weak-tag`; Apache's `-gzip` is understood. Other 412 are normal traffic, alert on none.
- **Security reviewer**: answers are `private`; the permission is checked before the tag, so a 304 tells nothing to
  somebody who may not read.

## Sources

RFC 9110, 8.8.1 (weak and strong), 8.8.3 (ETag, comparison table), 13.1 (If-Match, If-None-Match), 13.2 (evaluation and
precedence), 15.4.5 (304), 15.5.13 (412). RFC 6585, 3 (428). RFC 9111, 4.3 (validation), 5.2.2 (no-cache, private).
W3C Note, "Detecting the Lost Update Problem Using Unreserved Checkout" (1999).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Pagination](pagination.ipynb) · [course map](../index.ipynb) · Next: [Idempotency](idempotency.ipynb)
"""
