# %% [markdown]
"""
# Pantry

Assemble a service from parts that keep different contracts, so that one command starts it, a wrong setting stops it,
and nothing it promised is lost when it stops.

| | |
|---|---|
| **Use it when** | the parts exist and must become one process; or two contracts (yours and a front end's) share a host |
| **You need** | [better_auth_contract](../auth/better_auth_contract.ipynb), [idempotency](../api/idempotency.ipynb), [first_migration](../migrations/first_migration.ipynb) |
| **Time** | 18 minutes |
| **Topics** | assembly, composition root, playbook serve, mounting, middleware order, ASGI, lifespan, graceful shutdown, housekeeping, expired sessions, default accounts, roles, permissions, production settings, migrations at start |
| **Standard** | OWASP ASVS 5.0 6.3.2, 8.2.1, 13.4; 12-factor |
"""

# %% [markdown]
"""
## The decision

The resource API answers in problem+json, keeps answers for retries, refuses unknown fields. `/api/auth` must answer as
Better Auth does: other error bodies, unknown fields ignored, an empty 404. How do both live at one address?

| option | good | costs |
|---|---|---|
| one app, every middleware for every route | one list of routes | each middleware must know which contract it is in; one that forgets breaks a front end, or worse |
| `app.mount("/api/auth", auth)` | FastAPI's own way | a mounted app still runs inside the outer one's middleware |
| two services behind a proxy | separate deployments | two of everything to run, and the browser's cookie must suit both |
| **two apps in one process, handed to by prefix, outside of all middleware** | neither sees the other's requests; one process, one pool, one settings object | start and stop must be joined by hand; two OpenAPI documents |

Choose two services when different teams deploy them, or when one must be scaled without the other.
"""

# %% [markdown]
"""
## See it break

One app: the auth routes are included beside the resources, with a handler for their errors. Ada signs up and works.
Before you run the cell: which of these five requests, all of which a front end or its client library really sends, get
what Better Auth would answer?
"""

# %%
import json
import logging
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from fastapi import APIRouter, Depends

from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import Base, make_engine
from playbook.kit.lesson import checker, data_path, lesson_url, on_postgres, serving, show, table
from playbook.pantry.auth.account_changes import account_routes
from playbook.pantry.auth.sessions import look_up, session_routes
from playbook.pantry.auth.sign_in import sign_in_routes
from playbook.pantry.auth.sign_up import sign_up_routes
from playbook.pantry.auth.wire import Auth, AuthError, answer_auth_error
from playbook.pantry.errors import install_problems
from playbook.pantry.http import Caller, create_app
from playbook.pantry.keys import install_idempotency
from playbook.pantry.settings import Settings
from playbook.pantry.strict_input import install_strict_input

logging.getLogger("pantry").addHandler(logging.NullHandler())  # the log of failures we provoke
PASSWORD, ANOTHER = "four quiet rivers and a spoon", "the spoon sailed up the river"


def parts(url, **changes):
    """Settings, a clock that stands, and a mailbox in memory."""
    given = {"environment": "test", "database_url": url, "require_email_verification": False, "rate_limits": False}
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    return Settings(**given | changes), clock, MemorySender()


def one_app(url):
    settings, clock, sender = parts(url)
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    ids = Identifiers(clock, SeededBytes(1))
    auth = Auth(settings, engine, clock, ids, Postbox(sender), SeededBytes(2))

    def find_caller(request):
        found = look_up(request, auth)
        return found and Caller(found.user.id, found.user.name)

    together = APIRouter(dependencies=[Depends(anyone)])  # each of their routes asks for the session itself
    for routes in (session_routes, sign_up_routes, sign_in_routes, account_routes):
        together.include_router(routes)
    app = create_app(engine, [together], clock, ids, find_caller)
    app.state.auth = auth
    app.add_exception_handler(AuthError, answer_auth_error)
    install_problems(app)
    install_strict_input(app)
    install_idempotency(app)
    return app, engine


def post(client, path, body, **headers):
    return client.post(f"/api/auth{path}", json=body, headers={"origin": "http://localhost:8000"} | headers)


def ada_signs_up(client, email="ada@example.com"):
    return post(client, "/sign-up/email", {"name": "Ada", "email": email, "password": PASSWORD})


CHANGE = {"currentPassword": PASSWORD, "newPassword": ANOTHER}


def five_requests(client):
    """What a front end sends, and the answer in short: status, and the code by which the client knows an error."""
    wrong = {"email": "ada@example.com", "password": "wrong"}
    yield "sign in, wrong password", "401 INVALID_EMAIL_OR_PASSWORD", post(client, "/sign-in/email", wrong)
    fresh = client.get("/api/auth/get-session", params={"disableCookieCache": "true"})
    yield "session, past all caches", "200", fresh
    yield "rename, with a field of its own", "200", post(client, "/update-user", {"name": "Ada", "theme": "dark"})
    yield "a path of another version", "404", client.get("/api/auth/sign-in/email")
    key = {"idempotency-key": '"change-of-monday"'}
    yield "new password, with a key", "200", post(client, "/change-password", CHANGE, **key)


def in_short(answer):
    if "json" not in answer.headers.get("content-type", ""):
        return str(answer.status_code)
    read = answer.json() or {}
    return f"{answer.status_code} {read.get('code') or read.get('type') or ''}".strip()


app, engine = one_app(lesson_url())
with serving(app) as client:
    ada_signs_up(client)
    show(table([(name, due, in_short(answer)) for name, due, answer in five_requests(client)],
               ("request", "Better Auth", "here")))  # fmt: skip
    print(*client.server_errors)

# %% [markdown]
"""
Each layer did its duty. The one for problems replaced error bodies in which the client looks for `code`. The one for
strict input refused a parameter it did not know. And the one that keeps answers for retries found a session's cookie in
one and refused to store it, which is right, and left Ada with a 500. Each can be taught an exception. The next layer
somebody writes will not have it.

## Build it

What is shown here is the source of the service itself, module by module. The resource API first, from its parts. Whose
caller it asks and what they may do are given: a test brings its own.
"""

# %%
import inspect

from playbook.pantry.app import resource_api

print(inspect.getsource(resource_api))

# %% [markdown]
"""
Who asks? The cookie of `/api/auth` opens the rest of the service, too. It travels with whatever any site's page sends,
so here as well a request that changes something must come from a page of ours. And who works here is active: the
session is prolonged, and `AnswerCookies` renews the cookie on whatever is answered, outside of what is kept for retries.
"""

# %%
from playbook.pantry.callers import session_caller

print(inspect.getsource(session_caller))

# %% [markdown]
"""
What may a caller do? The authorization track will make this a policy of its own. Until then the roles decide that the
data has: each action needs a role in the organization that owns the thing. What is not in the table, nobody may. That
the mirror of public packages has no members means that nobody may change it.
"""

# %%
from playbook.pantry.roles import by_membership

print(inspect.getsource(by_membership))

# %% [markdown]
"""
The handover. It stands outside of every middleware, so a request under `/api/auth` is never seen by one that was
written for the other contract.
"""

# %%
from starlette.types import ASGIApp, Receive, Scope, Send

from playbook.pantry.app import Handover

print(inspect.getsource(Handover))

# %% [markdown]
"""
Things expire: sessions, links, allowances, keys. Every reader checks the time, so an expired row does no harm, and
deleting it is housekeeping: now and then, in the background, and never a reason for the service to stop.
"""

# %%
from playbook.pantry.housekeeping import sweep, sweep_for_ever
from playbook.schema.identity import UserSession

print(inspect.getsource(sweep))
print(inspect.getsource(sweep_for_ever))

# %% [markdown]
"""
Starting. The database is brought to head or refused. There is no first user, no password that everybody knows: whoever
needs an account signs up.
"""

# %%
from playbook.pantry.app import pantry

print(inspect.getsource(pantry))

# %% [markdown]
"""
Stopping is the same in reverse, and the order matters. No new requests; then the mails that are still queued, because
somebody was told that a mail is on its way; then the engine. All of them share one budget of eight seconds, since Docker
kills after ten. The session look-up has a connection of its own and closes it itself.
"""

# %%
from playbook.pantry.app import add_auth

print(inspect.getsource(add_auth))

# %% [markdown]
"""
## See it work

The same five requests. The database is empty at first; the service brings it to head. Then: is what must not be stored
anywhere in it, in any column of any table?
"""


# %%
def tables_holding(engine, secret):
    """The tables in which a text occurs, in any column."""
    with engine.connect() as connection:
        rows = {name: connection.execute(sa.select(found)).all() for name, found in Base.metadata.tables.items()}
    return sorted(name for name, found in rows.items() if any(secret in str(value) for row in found for value in row))


settings, clock, sender = parts(lesson_url())
app = pantry(settings, clock=clock, sender=sender)
with serving(app) as client:
    ada_signs_up(client)
    answers = list(five_requests(client))
    show(table([(name, due, in_short(answer)) for name, due, answer in answers], ("request", "Better Auth", "here")))
    cookie = answers[-1][2].headers["set-cookie"].split("=", 1)[1].split(".")[0]
    for what, secret in (("cookie", cookie), ("password", ANOTHER), ("user's name", "Ada")):
        print(f"the {what} is in {tables_holding(app.state.engine, secret) or 'no table'}")

# %% [markdown]
"""
The name is there to show that the search finds what is stored. Now what people may do. Eve is not signed in,
Bob is and belongs to nothing, Ada makes an organization. Predict her two 403 before you look.
"""

# %%
TRIES = {
    "make an organization": ("POST", "/organizations", {"slug": "{who}-team", "name": "Team"}),
    "publish for ada-team": ("POST", "/packages", {"name": "{who}-tool", "organization": "ada-team"}),
    "publish for the mirror": ("POST", "/packages", {"name": "{who}-httpx", "organization": "mirror"}),
    "read a package": ("GET", "/packages/httpx", None),
    "delete a mirrored package": ("DELETE", "/packages/httpx", None),
    "delete what ada-team published": ("DELETE", "/packages/ada-tool", None),
    "delete ada-team": ("DELETE", "/organizations/ada-team", None),
}


def attempt(client, who, name):
    method, path, body = TRIES[name]
    sent = json.loads(json.dumps(body).replace("{who}", who))
    headers = {"origin": "http://localhost:8000", "if-match": "*"}
    return client.request(method, path, json=sent, headers=headers).status_code


def who_may_what(url, catalog):
    """The status of every try: rows are tries, columns are people. Ada publishes first, and deletes last."""
    settings, clock, sender = parts(url)
    found = {name: {"": name} for name in TRIES}
    with serving(pantry(settings, catalog, clock, sender)) as client:
        ada_signs_up(client)
        ada = dict(client.cookies)
        for name in list(TRIES)[:3]:
            found[name]["ada"] = attempt(client, "ada", name)
        for who in ("eve", "bob", "ada"):
            client.cookies.clear()
            if who == "bob":
                ada_signs_up(client, "bob@example.com")
            client.cookies.update(ada if who == "ada" else {})
            for name in TRIES if who != "ada" else list(TRIES)[3:]:
                found[name][who] = attempt(client, who, name)
    return [[found[name][column] for column in ("", "eve", "bob", "ada")] for name in TRIES]


matrix = who_may_what(lesson_url(), data_path("packages.csv"))
show(table(matrix, ("", "Eve", "Bob", "Ada")))

# %% [markdown]
"""
The mirror belongs to nobody, so nobody may change it, Ada neither.

## On PostgreSQL

There the service is several processes. Two of them, started as an operator starts them (`playbook serve`, settings in
the environment), share one database. Ada signs in at one, is known to the other, and signs out there. Then both get SIGTERM.
"""

# %%
import os
import signal
import subprocess
import sys

from playbook.kit.lesson import lesson_folder
from playbook.kit.live import LiveClient


def serve(url, mail, **settings):
    """`playbook serve` in a process of its own, with an environment of its own; the process and its URL."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PANTRY_")}
    given = {"DATABASE_URL": url, "PANTRY_ENVIRONMENT": "test", "PANTRY_MAIL_URL": f"file:{mail}"} | settings
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=ours | given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split(",")[0].removeprefix("Pantry at ")


def two_processes(url):
    mail = lesson_folder() / "mail.jsonl"
    started = [serve(url, mail, PANTRY_REQUIRE_EMAIL_VERIFICATION="off") for _ in range(2)]
    with LiveClient(started[0][1]) as one, LiveClient(started[1][1]) as other:
        ada_signs_up(one)
        other.cookies.update(one.cookies)
        print("the other process knows", other.get("/api/auth/get-session").json()["user"]["email"])
        post(other, "/sign-out", {}, cookie="; ".join(f"{name}={value}" for name, value in one.cookies.items()))
        print("signed out there, here it is", one.get("/api/auth/get-session").json())
    for process, _ in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    sent = [json.loads(line)["type"] for line in mail.read_text(encoding="utf-8").splitlines()]
    print(f"both have stopped; mails that went out: {sent}")
    return sent


stopped = on_postgres(two_processes)

# %% [markdown]
"""
## Check it
"""

# %%
assert stopped in (["verify-email"], None)
assert matrix == [
    ["make an organization", 401, 201, 201],
    ["publish for ada-team", 401, 403, 201],
    ["publish for the mirror", 401, 403, 403],
    ["read a package", 401, 200, 200],
    ["delete a mirrored package", 401, 403, 403],
    ["delete what ada-team published", 401, 403, 204],
    ["delete ada-team", 401, 403, 204],
]

settings, clock, sender = parts(lesson_url())
app = pantry(settings, data_path("packages.csv"), clock, sender)
engine = app.state.engine
with engine.connect() as connection:
    counts = {
        name: connection.scalar(sa.select(sa.func.count()).select_from(t)) for name, t in Base.metadata.tables.items()
    }
assert counts["packages"] == 14_971
assert not any(counts[name] for name in ("users", "accounts", "sessions", "members")), "somebody is there already"

with serving(app) as client:
    ada_signs_up(client)
    assert client.post("/organizations", json={"slug": "x", "name": "X"}).status_code == 403, "no Origin, no change"
    evil = {"origin": "https://evil.example"}
    assert client.post("/organizations", json={"slug": "x", "name": "X"}, headers=evil).status_code == 403
    assert client.get("/api/auth").status_code == 404
    assert client.get("/api/authors").json()["type"] == "/problems/not-found", (
        "only whole path segments are handed over"
    )
    clock.advance(timedelta(days=7))
    sweep(engine, clock.now() - timedelta(seconds=1))
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(UserSession)) == 1, "deleted before its time"
    sweep(engine, clock.now())
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(UserSession)) == 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(sa.table("users"))) == 1
print(
    "nobody exists before the first sign-up; no change without our origin; sweeping takes what has expired, and no more"
)

# %% [markdown]
"""
## Your turn

In production a proxy ends TLS, and someone will type `http://` all the same. Write `OnlyHttps`, the outermost layer of a
service whose base URL is https. Think before you write. What does a redirect do to a POST whose password has just
crossed the network in clear? Whose word do you take for the host in `Location`? The platform asks `/health` without
TLS, from inside. A browser that was here once should not even try `http://` again (HSTS, a year at least, also for
subdomains). And on a developer's `http://localhost:8000` none of it may happen.
"""


# %% tags=["exercise"]
class OnlyHttps:
    """ASGI. `scope["scheme"]` is what the proxy says the client used."""

    def __init__(self, app: ASGIApp, base_url: str) -> None:
        self.app, self.base_url = app, base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


# %%
from starlette.responses import PlainTextResponse

YEAR = 31_536_000


@checker
def check_only_https(layer):
    seen = []

    async def inner(scope, receive, send):
        if scope["type"] == "http":
            seen.append(scope["path"])
            await PlainTextResponse("reached")(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    def ask(client, method, path, scheme, **headers):
        return client.request(method, path, headers={"x-forwarded-proto": scheme} | headers)

    with serving(layer(inner, "https://pantry.example")) as client:
        secure = ask(client, "GET", "/packages", "https")
        parts = [part.strip() for part in secure.headers.get("strict-transport-security", "").lower().split(";")]
        ages = [part.removeprefix("max-age=") for part in parts if part.startswith("max-age=")]
        if secure.text != "reached" or not ages or int(ages[0]) < YEAR or "includesubdomains" not in parts:
            return "not yet: an answer over https should carry Strict-Transport-Security, a year, includeSubDomains"
        seen.clear()
        moved = ask(client, "GET", "/packages?sort=name", "http", host="evil.example")
        if moved.status_code not in (301, 307, 308) or seen:
            return "not yet: GET over http should be redirected, and not reach the service"
        if moved.headers.get("location") != "https://pantry.example/packages?sort=name":
            return (
                f"not yet: redirected to {moved.headers.get('location')}; whose host is that, and where is the query?"
            )
        posted = ask(client, "POST", "/api/auth/sign-in/email", "http")
        if posted.status_code < 400 or seen:
            return "not yet: a redirected POST works, so nobody notices that the password crosses the network in clear"
        if "strict-transport-security" in moved.headers:
            return "not yet: browsers ignore HSTS over http, since anybody could have put it there (RFC 6797, 8.1)"
        if ask(client, "GET", "/health", "http").text != "reached":
            return "not yet: the platform cannot ask /health, and restarts the service for ever"
    with serving(layer(inner, "http://localhost:8000")) as client:
        local = ask(client, "GET", "/packages", "http")
        if local.text != "reached" or "strict-transport-security" in local.headers:
            return "not yet: on http://localhost nothing may change"
    return "right"


check_only_https(OnlyHttps)

# %% tags=["solution"]
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse


class OnlyHttps:
    """ASGI, outermost: no service without TLS, but for /health."""

    def __init__(self, app: ASGIApp, base_url: str) -> None:
        self.app, self.base_url = app, base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.base_url.startswith("https:"):
            return await self.app(scope, receive, send)
        if scope["scheme"] != "https" and scope["path"] != "/health":
            query = scope["query_string"].decode("latin-1")
            url = self.base_url + scope["path"] + (f"?{query}" if query else "")
            refuse = PlainTextResponse("use https", 403)
            answer = RedirectResponse(url, 308) if scope["method"] in ("GET", "HEAD") else refuse
            return await answer(scope, receive, send)

        async def send_strict(message):
            if message["type"] == "http.response.start" and scope["scheme"] == "https":
                MutableHeaders(scope=message)["Strict-Transport-Security"] = f"max-age={2 * YEAR}; includeSubDomains"
            await send(message)

        await self.app(scope, receive, send_strict)


assert check_only_https(OnlyHttps)

# %% [markdown]
"""
## Hand it over

- **Operator**: `playbook serve`; settings from the environment, one line for each that is wrong. SIGTERM, then ten
  seconds. Behind a proxy set `FORWARDED_ALLOW_IPS` to its network: only from there `X-Forwarded-For` is believed, by
  default from nobody, and every client has the proxy's address and shares its limits. The log has templates of paths
  and types of errors, no URL and no value; the proxy's own log must do the same. In production there is no `/docs`.
- **Front end**: `/api/auth` speaks Better Auth, the rest problem+json. One cookie opens both; send requests that change
  something from an origin in `PANTRY_TRUSTED_ORIGINS`.
- **Security reviewer**: no account exists before the first sign-up. `tables_holding` is how you look for a secret.
- **Reviewer**: a new layer goes inside of one part, not around both, unless both contracts allow it.
- **Test engineer**: keep the matrix; a new action that is not in `NEEDS` is refused, and a row of the matrix says so.

## Sources

ASGI specification, "Lifespan". OWASP ASVS 5.0, 6.3.2 (no default accounts), 8.2.1 (function-level access), 13.4
(unintended information leakage). The Twelve-Factor App, IX (disposability). RFC 6797 (HSTS), 7.2 and 8.1. M. Seemann,
*Dependency Injection in .NET*, "Composition Root".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [A foreign contract](../auth/foreign_contract.ipynb) · [course map](../index.ipynb)
"""
