# %% [markdown]
"""
# Sessions

Remember who signed in, and forget them at their next request, in every process.

| | |
|---|---|
| **Use it when** | people sign in with a browser, or "sign out everywhere" has to mean it |
| **You need** | [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb), [transactions](../foundations/transactions.ipynb), [identity](../schema/identity.ipynb), [wire](wire.ipynb), [cross_site](cross_site.ipynb) |
| **Time** | 20 minutes |
| **Topics** | session, session cookie, session fixation, session hijacking, opaque token, token hash, Set-Cookie, HttpOnly, Secure, SameSite, `__Host-` prefix, idle timeout, absolute timeout, session lifetime, remember me, sign out, log out everywhere, revoke session, list sessions, session rotation |
| **Standard** | OWASP ASVS 5.0 3.3, 7.2 to 7.5; NIST SP 800-63B-4 5; RFC 6265bis |
"""

# %% [markdown]
"""
## The decision

Where is it kept that somebody is signed in?

| option | good | costs |
|---|---|---|
| in a signed token that says who it is (JWT) | nobody is asked | cannot be ended: whoever copied it is signed in until it expires |
| in the memory of the process | fastest | a restart signs everybody out; two processes disagree |
| in a store of its own (Redis) | fast, expires by itself | one more thing to run; when its memory is full, people are signed out |
| **in the database: a random token's hash** | ended with one DELETE, everywhere; can be listed | a look-up a request, which [session_lookup](session_lookup.ipynb) makes cheap |

Choose the signed token for minutes, between services that share no database. Choose the store of its own when sessions
change far more often than accounts do.

How long? Seven days without use, thirty days in all, one day for a browser that is not to be remembered. NIST wants a
limit in all, of at most 30 days for a sign-in by password alone; with a second factor a day, and an hour without use.
"""

# %% [markdown]
"""
## See it break

A session as many services had it: a random number in a cookie and in a table. Mallory tries three things. She signs in
and plants *her* cookie in Alice's browser (another page on the same domain can do that) before Alice signs in. She
reads a backup of the table. And she gets one line of script into a page that Alice looks at. Before you run the cell:
which of the three make her Alice?
"""

# %%
import secrets

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, sequence_diagram, serving, show, show_http, table
from playbook.kit.live import LiveClient

COOKIE, WHO = "better-auth.session_token", "/api/auth/get-session"
BROWSER = {"origin": "http://localhost:8000"}  # the service's own pages


def naive_service(url):
    app, engine = FastAPI(), make_engine(url)
    app.state.engine = engine
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE sessions (token VARCHAR PRIMARY KEY, name VARCHAR)"))

    @app.post("/api/auth/demo/{name}")
    def sign_in(name: str, request: Request, response: Response):
        token = request.cookies.get(COOKIE) or secrets.token_hex(16)
        insert = "INSERT INTO sessions VALUES (:token, :name) ON CONFLICT (token) DO UPDATE SET name = excluded.name"
        with engine.begin() as connection:
            connection.execute(sa.text(insert), {"token": token, "name": name})
        response.set_cookie(COOKIE, token)

    @app.get(WHO)
    def get_session(request: Request):
        token = request.cookies.get(COOKIE)
        with engine.connect() as connection:
            name = connection.scalar(sa.text("SELECT name FROM sessions WHERE token = :token"), {"token": token})
        return name and {"session": {"token": token}, "user": {"name": name}}

    return app


# %%
def who(client, **headers):
    answer = client.get(WHO, headers=headers).json()
    return answer["user"]["name"] if answer else "nobody"


def attack(app, sign=str):
    """Who Mallory is after each attack. `sign` makes a cookie of a value: she knows the key, if there is one."""
    with serving(app, headers=BROWSER) as mallory, LiveClient(str(mallory.base_url), headers=BROWSER) as alice:
        mallory.post("/api/auth/demo/mallory")
        alice.cookies.update(mallory.cookies)
        alice.post("/api/auth/demo/alice")
        became = {"a cookie planted before the sign-in": who(mallory)}
        mallory.cookies.clear()

        def with_one_of(values):
            names = [who(mallory, cookie=f"{COOKIE}={cookie}") for value in values for cookie in (value, sign(value))]
            return next((name for name in names if name != "nobody"), "nobody")

        with app.state.engine.connect() as connection:
            stolen = [str(value) for row in connection.execute(sa.text("SELECT * FROM sessions")) for value in row]
        became["a backup of the table"] = with_one_of(stolen)
        read = [cookie.value for cookie in alice.cookies.jar if not cookie.has_nonstandard_attr("HttpOnly")]
        read += [str(value) for part in alice.get(WHO).json().values() for value in part.values()]
        became["a script in Alice's page"] = with_one_of(read)
    return became


broken = attack(naive_service(lesson_url()))
show(table([{"Mallory has": what, "and is": name} for what, name in broken.items()]))

# %% [markdown]
"""
All three. The first is *session fixation*: the token was known before it was worth something, and signing in did not
change it. The second reads a credential where only its hash should be. The third reads the cookie, and it would not
need to: the front end's own call answers with the token.

## Build it

The cookie is Better Auth's, signed, so that nonsense is refused before the database is asked. `HttpOnly`: no script
sees it. `SameSite=Lax`: other sites' forms do not carry it. `Secure` and a name that begins with `__Secure-`: neither
leaves, nor can be set, over plain http. `__Host-` is stricter, no subdomain can plant it, but Better Auth's helpers
look for the other name, so it is a setting.
"""

# %%
import base64
import hmac
from urllib.parse import quote, unquote

SESSION, CACHE, REMEMBER = "session_token", "session_data", "dont_remember"


class Cookies:
    """Better Auth's cookies: `PREFIX.NAME=VALUE.SIGNATURE`, HMAC-SHA-256 over the value, percent-encoded.

    `guard` stands before the name: `__Secure-` or `__Host-` (RFC 6265bis, 4.1.3), with `Secure`; empty for plain http.
    """

    def __init__(self, secret: str, guard: str = "") -> None:
        self.key, self.prefix = secret.encode(), f"{guard}better-auth."
        self.attributes = "; Path=/; HttpOnly; " + ("Secure; " if guard else "") + "SameSite=Lax"

    def signature(self, value: str) -> str:
        return base64.b64encode(hmac.digest(self.key, value.encode(), "sha256")).decode()

    def signed(self, value: str) -> str:
        """`value.signature`, ready for a cookie."""
        return quote(f"{value}.{self.signature(value)}", safe="!~*'()")

    def put(self, name: str, value: str, max_age: int | None = None) -> str:
        """A `Set-Cookie` value; without `max_age` (seconds) the cookie goes when the browser is closed."""
        lifetime = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{self.prefix}{name}={self.signed(value)}{lifetime}{self.attributes}"

    def drop(self, *names: str) -> list[str]:
        """The `Set-Cookie` values that take cookies from the browser: those named, or all three of a session."""
        return [f"{self.prefix}{name}=; Max-Age=0{self.attributes}" for name in names or (SESSION, CACHE, REMEMBER)]

    def read(self, header: str, name: str) -> str | None:
        """The value of cookie `name` in a `Cookie` header, the first of that name; None unless its signature is right."""
        pairs = (pair.strip().partition("=") for pair in header.split(";"))
        sent = unquote(next((value for key, _, value in pairs if key == self.prefix + name), "")[:1000])
        value, _, signature = sent.rpartition(".")
        genuine = hmac.compare_digest(signature.encode(), self.signature(value).encode())
        return value if value and genuine else None


# %%
from playbook.pantry.auth.wire import Auth


def cookies_of(auth: Auth) -> Cookies:
    """The cookies as the settings want them: guarded when the service is reached by https."""
    guard = "__Host-" if auth.settings.host_cookies else "__Secure-"
    secure = auth.settings.base_url.startswith("https:")
    return Cookies(auth.settings.secret.get_secret_value(), guard if secure else "")


# %% [markdown]
"""
Starting one. The token has 190 random bits and is stored as its hash; it exists in the cookie and nowhere else. And a
new session *replaces* the one that the browser had: done here, it cannot be forgotten by one of the ways to sign in.
"""

# %%
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import hash_token, new_token
from playbook.pantry.http import browser_of, client_ip
from playbook.schema.identity import User, UserSession

SHORT = 86_400  # seconds: a session that is not to be remembered


def end_own_session(db: orm.Session, auth: Auth, request: Request) -> None:
    """End the session that the request's cookie opens, if there is one."""
    if (token := cookies_of(auth).read(request.headers.get("cookie", ""), SESSION)) is not None:
        db.execute(sa.delete(UserSession).where(UserSession.token_hash == hash_token(token)))


# %%
def start_session(
    db: orm.Session, auth: Auth, user_id: UUID, request: Request, remember: bool = True
) -> tuple[UserSession, str]:
    """A new session in place of the browser's old one (ASVS 7.2.4), and its token, which belongs into the cookie only."""
    end_own_session(db, auth, request)
    now, token = auth.clock.now(), new_token("session", auth.random_bytes)
    lifetime = min(auth.settings.session_lifetime if remember else SHORT, auth.settings.session_absolute_lifetime)
    row = UserSession(
        id=auth.ids.new(), user_id=user_id, token_hash=hash_token(token), expires_at=now + timedelta(seconds=lifetime),
        ip_address=client_ip(request.scope), user_agent=browser_of(request.scope), created_at=now, updated_at=now,
    )  # fmt: skip
    db.add(row)
    return row, token


# %% [markdown]
"""
Finding it, and moving its end on with use: once a day, because a write at every request would cost more than the
request. The move is an UPDATE of a row that must still be there, never a write of the whole row, so a session revoked
at the same moment stays revoked: one of the two finds the row changed and is done again, or finds it gone.
"""

# %%
from dataclasses import dataclass


@dataclass(frozen=True)
class SignedIn:
    """A session that is alive, and whose it is. `token` is the cookie's."""

    session: UserSession
    user: User
    token: str


def find_session(db: orm.Session, token: str, now: datetime) -> SignedIn | None:
    """The session that `token` opens; None when there is none, or its time is over."""
    query = sa.select(UserSession, User).join(User, User.id == UserSession.user_id)
    found = db.execute(query.where(UserSession.token_hash == hash_token(token), UserSession.expires_at > now)).first()
    return SignedIn(found[0], found[1], token) if found else None


def moved_end(auth: Auth, created_at: datetime, expires_at: datetime) -> datetime | None:
    """Where the end of a session moves when it is used now: at most once per `session_refresh_after`. None: it stays.

    Never beyond the absolute lifetime, which counts from the sign-in (ASVS 7.3.2).
    """
    settings, now = auth.settings, auth.clock.now()
    lifetime, longest = (timedelta(seconds=s) for s in (settings.session_lifetime, settings.session_absolute_lifetime))
    due = expires_at - lifetime + timedelta(seconds=settings.session_refresh_after)
    end = min(now + lifetime, created_at + longest)
    return end if now >= due and end > expires_at else None


def prolong(db: orm.Session, auth: Auth, session: UserSession) -> bool:
    """Move the end of the idle lifetime on, when it is time; whether it was moved."""
    if (end := moved_end(auth, session.created_at, session.expires_at)) is None:
        return False
    move = sa.update(UserSession).where(UserSession.id == session.id)
    move = move.values(expires_at=end, updated_at=auth.clock.now())
    return db.scalar(move.returning(UserSession.id)) is not None


# %% [markdown]
"""
A request carries the token, so looking it up is all there is to "is this somebody?". A cookie with a wrong signature is
no cookie: nothing is said. A well-signed one whose session is over is taken back. The mark `dont_remember` keeps a
session short: it is never prolonged, and its cookie has no `Max-Age`. When the row's end moves, the browser's must move
with it, or an active person is signed out: `keep_cookies` puts the cookie on the answer, also on an error.
"""

# %%
from playbook.pantry.auth.wire import keep_cookies


def remembered(
    auth: Auth, request: Request, session: UserSession, token: str, remember: bool | None = None
) -> list[str]:
    """The `Set-Cookie` values that keep a browser signed in, or with `remember` False until it is closed.

    None goes on with what the browser was told at sign-in.
    """
    cookies = cookies_of(auth)
    was_short = cookies.read(request.headers.get("cookie", ""), REMEMBER) is not None
    if remember is False or (remember is None and was_short):
        return [cookies.put(SESSION, token), cookies.put(REMEMBER, "true")]
    left = session.expires_at - auth.clock.now()
    return [cookies.put(SESSION, token, int(left.total_seconds())), *(cookies.drop(REMEMBER) if was_short else [])]


def look_up(request: Request, auth: Auth) -> SignedIn | None:
    """Who is signed in. Any answer to the request renews the cookie when the session was prolonged, and clears a dead one."""
    cookies, header = cookies_of(auth), request.headers.get("cookie", "")
    if (token := cookies.read(header, SESSION)) is None:
        return None
    refresh = cookies.read(header, REMEMBER) is None and not request.query_params.get("disableRefresh")

    def work(db: orm.Session) -> tuple[SignedIn | None, bool]:
        found = find_session(db, token, auth.clock.now())
        return found, found is not None and refresh and prolong(db, auth, found.session)

    found, prolonged = auth.transact(work)
    if found is None:
        keep_cookies(request, cookies.drop())
    elif prolonged:
        keep_cookies(request, remembered(auth, request, found.session, token, True))
    return found


# %% [markdown]
"""
What the front end sees. `token` is where Better Auth repeats the cookie's secret; here it is the session's id, a
**handle**: it names a session to revoke, for its owner, and opens nothing.
"""

# %%
from typing import Any

from playbook.pantry.auth.wire import iso


def user_view(user: User) -> dict[str, Any]:
    """A user as the front end sees them."""
    return {
        "name": user.name, "email": user.email, "emailVerified": user.email_verified, "image": user.image,
        "createdAt": iso(user.created_at), "updatedAt": iso(user.updated_at), "id": str(user.id),
    }  # fmt: skip


def session_view(session: UserSession) -> dict[str, Any]:
    """A session as the front end sees it; `token` is the handle that revokes it."""
    return {
        "expiresAt": iso(session.expires_at), "token": str(session.id), "createdAt": iso(session.created_at),
        "updatedAt": iso(session.updated_at), "ipAddress": session.ip_address, "userAgent": session.user_agent,
        "userId": str(session.user_id), "id": str(session.id),
    }  # fmt: skip


# %%
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from playbook.foundations.deny_by_default import anyone
from playbook.pantry.auth.wire import MESSAGES, AuthError, Sent, Service, body

MESSAGES |= {
    "SESSION_NOT_FRESH": "Session is not fresh",
    "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED": (
        "POST method requires deferSessionRefresh to be enabled in session config"
    ),
}


def set_cookies(response: Response, cookies: list[str]) -> None:
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)


def current_caller(request: Request, auth: Service) -> SignedIn:
    """The session of the request, looked up once. AuthError 401 without one; `auth.admit` may refuse its account."""
    if not hasattr(request.state, "looked_up"):
        request.state.looked_up = look_up(request, auth)
        if request.state.looked_up is not None:
            auth.admit(request.state.looked_up.user.id)
    found: SignedIn | None = request.state.looked_up
    if found is None:
        raise AuthError(401, "UNAUTHORIZED")
    return found


CurrentSession = Annotated[SignedIn, Depends(current_caller)]

# %% [markdown]
"""
The routes. `get-session` answers nobody with 200 and `null`, as the front end expects, and forbids every cache to keep
the answer. The list wants a sign-in of today: it shows addresses and devices, which a stolen session should not get.
"""

# %%
session_routes = APIRouter(prefix="/api/auth")
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def is_fresh(auth: Auth, session: UserSession, seconds: int) -> bool:
    """Whether somebody signed in to this session less than `seconds` ago."""
    return auth.clock.now() - session.created_at < timedelta(seconds=seconds)


@session_routes.get("/get-session", dependencies=[Depends(anyone)], response_model=None)
def get_session(request: Request, response: Response, auth: Service) -> dict[str, Any] | None:
    """Who is signed in: 200 and null for nobody."""
    found = look_up(request, auth)
    response.headers.update(NO_STORE)
    return {"session": session_view(found.session), "user": user_view(found.user)} if found else None


@session_routes.post("/get-session", dependencies=[Depends(anyone)], response_model=None)
def post_get_session() -> None:
    raise AuthError(405, "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED", headers=NO_STORE)


# %%
@session_routes.get("/list-sessions")
def list_sessions(caller: CurrentSession, auth: Service) -> list[dict[str, Any]]:
    """The caller's sessions that are alive, oldest first. AuthError 403 when the sign-in was too long ago."""
    if not is_fresh(auth, caller.session, auth.settings.session_fresh):
        raise AuthError(403, "SESSION_NOT_FRESH")
    mine = sa.and_(UserSession.user_id == caller.user.id, UserSession.expires_at > auth.clock.now())
    query = sa.select(UserSession).where(mine).order_by(UserSession.created_at, UserSession.id)
    return [session_view(row) for row in auth.transact(lambda db: db.scalars(query).all())]


# %% [markdown]
"""
Ending. A session that is over is a row that is gone, so no flag can be forgotten in a query. `revoke-session` says 200
to any handle, and deletes only the caller's: a stranger's handle learns nothing from the answer.
"""


# %%
def end_sessions(db: orm.Session, user_id: UUID, but: UUID | None = None, only: UUID | None = None) -> None:
    """End the sessions of a user: all, all `but` one, or `only` one. They are refused from the next request on."""
    ended = sa.delete(UserSession).where(UserSession.user_id == user_id)
    if but is not None:
        ended = ended.where(UserSession.id != but)
    if only is not None:
        ended = ended.where(UserSession.id == only)
    db.execute(ended)


class Revoke(Sent):
    token: str


@session_routes.post("/revoke-session")
def revoke_session(
    sent: Annotated[Revoke, body(Revoke)], caller: CurrentSession, auth: Service, response: Response
) -> dict[str, bool]:
    """End one session of the caller, by its handle."""
    try:
        handle = UUID(sent.token)
    except ValueError:
        return {"status": True}
    auth.transact(lambda db: end_sessions(db, caller.user.id, only=handle))
    set_cookies(response, cookies_of(auth).drop() if handle == caller.session.id else [])
    return {"status": True}


# %%
@session_routes.post("/revoke-other-sessions")
def revoke_other_sessions(caller: CurrentSession, auth: Service) -> dict[str, bool]:
    auth.transact(lambda db: end_sessions(db, caller.user.id, but=caller.session.id))
    return {"status": True}


@session_routes.post("/revoke-sessions")
def revoke_sessions(caller: CurrentSession, auth: Service, response: Response) -> dict[str, bool]:
    auth.transact(lambda db: end_sessions(db, caller.user.id))
    set_cookies(response, cookies_of(auth).drop())
    return {"status": True}


@session_routes.post("/sign-out", dependencies=[Depends(anyone)])
def sign_out(
    request: Request, auth: Service, response: Response, sent: Annotated[Sent, body(Sent, optional=True)]
) -> dict[str, bool]:
    """End the session on the server, then in the browser. 200 also for who is signed out already."""
    auth.transact(lambda db: end_own_session(db, auth, request))
    set_cookies(response, cookies_of(auth).drop())
    return {"success": True}


# %% [markdown]
"""
## See it work

Signing in is a later page, so a route of this lesson signs in whoever it is told to. First Mallory again, and this
time she knows the key that signs the cookies:
"""

# %%
from playbook.kit.stage import capture_sql
from playbook.schema.identity import add_user


def service(url, **settings):
    from datetime import UTC  # the imports are in here, because another process runs this function from its source

    from playbook.auth.mail import MemorySender
    from playbook.auth.mail_queue import Postbox
    from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
    from playbook.foundations.engines import Base, make_engine
    from playbook.pantry.auth.cross_site import check_cross_site
    from playbook.pantry.auth.wire import auth_app
    from playbook.pantry.settings import Settings
    from playbook.schema.identity import add_user

    settings, engine = Settings(environment="test", database_url=url, **settings), make_engine(url)
    Base.metadata.create_all(engine)
    clock, demo = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), APIRouter(prefix="/api/auth")
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), Postbox(MemorySender()), SeededBytes(2))

    @demo.post("/demo/{name}", dependencies=[Depends(anyone)])
    def sign_in(name: str, request: Request, response: Response, auth: Service, remember: bool = True):
        def work(db):
            user = db.scalar(sa.select(User).where(User.name == name))
            user = user or add_user(db, auth.clock, auth.ids, f"{name}@example.com", name)
            return start_session(db, auth, user.id, request, remember)

        session, token = auth.transact(work)
        set_cookies(response, remembered(auth, request, session, token, remember))
        return {"token": str(session.id)}

    app = auth_app(auth, [session_routes, demo], guards=[check_cross_site])
    app.state.engine = engine
    return app


app = service(lesson_url())
became = attack(app, sign=cookies_of(app.state.auth).signed)
show(table([{"Mallory has": what, "and is": name} for what, name in became.items()]))

# %% [markdown]
"""
Nobody, three times. Now Alice with two browsers; from the first she ends the second. The diagram and the exchanges are
what happened:
"""


# %%
def two_browsers(app):
    desk_server = serving(app, headers=BROWSER)
    with capture_sql(app.state.engine) as statements, desk_server as desk, LiveClient(str(desk.base_url)) as phone:
        phone.headers.update(BROWSER)
        desk.post("/api/auth/demo/alice")
        handle = phone.post("/api/auth/demo/alice").json()["token"]
        desk.post("/api/auth/revoke-session", json={"token": handle})
        phone.get(WHO)
        return sorted(desk.exchanges + phone.exchanges, key=lambda e: e.started), statements, phone


exchanges, statements, phone = two_browsers(service(lesson_url()))
show(sequence_diagram(exchanges, statements))
show_http(phone)

# %% [markdown]
"""
And time, by turning the clock. The session is used on some days, and asked for on each; on which day is it over?
"""


# %%
def last_day(days, **options):
    app = service(lesson_url())
    with serving(app, headers=BROWSER) as alice:
        alice.post("/api/auth/demo/alice", params=options)
        for day in range(1, 40):
            app.state.auth.clock.advance(timedelta(days=1))
            if day in days and who(alice) == "nobody":
                return day


ends = {
    "every day": last_day(range(40)),
    "every sixth day": last_day(range(0, 40, 6)),
    "after a week": last_day([7]),
    "every day, not to be remembered": last_day(range(40), remember=False),
}
show(table([{"used": use, "over on day": day} for use, day in ends.items()]))

# %% [markdown]
"""
## On PostgreSQL

Two processes, each with the service, one database. Alice signs in at the first and uses the second. Then she signs out
everywhere, at the first. Nothing tells the second, and it keeps nothing that it would have to be told about.
"""

# %%
import inspect
import socket
import subprocess
import sys

SECOND = f"""
import socket, sys, uvicorn
from playbook.pantry.auth.sessions import *

{inspect.getsource(service)}
listening = socket.socket(fileno=int(sys.argv[2]))
uvicorn.Server(uvicorn.Config(service(sys.argv[1]), log_config=None)).run(sockets=[listening])
"""


def in_two_processes(url):
    listening = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-c", SECOND, url, str(listening.fileno())]
    process = subprocess.Popen(command, pass_fds=[listening.fileno()])
    there = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with serving(service(url), headers=BROWSER) as first, LiveClient(there, headers=BROWSER) as second:
            first.post("/api/auth/demo/alice")
            second.cookies.update(first.cookies)
            before = who(second)
            first.post("/api/auth/revoke-sessions", json={})
            return f"in the second process: {before} before, {who(second)} after"
    finally:
        process.kill()
        process.wait()
        listening.close()


elsewhere = on_postgres(in_two_processes)
print(elsewhere)

# %% [markdown]
"""
## Check it
"""

# %%
assert elsewhere in ("in the second process: alice before, nobody after", None)
assert set(broken.values()) == {"alice"} and set(became.values()) == {"nobody"}, "ASVS 7.2.4, 3.3.4"
assert list(ends.values()) == [30, 30, 7, 1], "ASVS 7.3.1 and 7.3.2"

https = service(lesson_url(), base_url="https://pantry.example")
for cookie in cookies_of(https.state.auth).put(SESSION, "x"), *cookies_of(https.state.auth).drop():
    name, *attributes = cookie.split("; ")
    assert name.startswith("__Secure-") and {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
    assert "Domain" not in cookie, "ASVS 3.3.1 to 3.3.4"

app = service(lesson_url())
with serving(app, headers=BROWSER) as alice, LiveClient(str(alice.base_url), headers=BROWSER) as bob:
    bob.post("/api/auth/demo/bob")
    for path, sent in {"sign-out": {}, "revoke-sessions": {}, "revoke-session": None}.items():
        own = alice.post("/api/auth/demo/alice").json()
        cookie = f"{COOKIE}={alice.cookies[COOKIE]}"
        alice.post("/api/auth/revoke-session", json=bob.get(WHO).json()["session"])
        assert who(bob) == "bob", "nobody ends the session of somebody else"
        ended = alice.post(f"/api/auth/{path}", json=own if sent is None else sent)
        cleared = alice.get(WHO, headers={"cookie": cookie})
        assert cleared.json() is None and len(cleared.headers.get_list("set-cookie")) == 3, "ASVS 7.4.1"
        assert ended.headers.get_list("set-cookie") == cleared.headers.get_list("set-cookie")
    good = bob.cookies[COOKIE]
    bob.cookies.clear()
    with capture_sql(app.state.engine) as statements:
        for place in range(0, len(good), 7):
            forged = good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]
            answer = alice.get(WHO, headers={"cookie": f"{COOKIE}={forged}"})
            assert answer.json() is None and "set-cookie" not in answer.headers
    assert not statements, "a forged cookie costs no statement and clears nothing"
    assert who(bob, cookie=f"{COOKIE}={good}") == "bob"
print("revoked, signed out, expired: refused at the next request, in every process; forged or stolen: nobody")

# %% [markdown]
"""
## Your turn

ASVS 7.1.2 asks how many sessions one account may have, and what happens then. Write `start_limited`: like
`start_session`, but at most `most` sessions of a user are alive, and the oldest of them end. The service runs it in a
transaction. Think of a phone that signs in again, of sessions that have expired, and of two sign-ins at once.
"""


# %% tags=["exercise"]
def start_limited(db: orm.Session, auth: Auth, user_id: UUID, request: Request, most: int) -> tuple[UserSession, str]:
    return start_session(db, auth, user_id, request)


# %%
import threading


@checker
def check_start_limited(start_limited):
    auth = service(lesson_url()).state.auth
    alice, bob = (
        auth.transact(lambda db, n=n: add_user(db, auth.clock, auth.ids, f"{n}@x.org", n).id) for n in ("alice", "bob")
    )

    def start(user=alice, token=None, after=lambda: None, begin=lambda *asked: start_limited(*asked, 3)):
        header = [(b"cookie", f"{COOKIE}={cookies_of(auth).signed(token)}".encode())] if token else []
        request = Request({"type": "http", "headers": header, "client": None})
        auth.clock.advance(timedelta(seconds=1))
        return auth.transact(lambda db: (begin(db, auth, user, request), after())[0])[1]

    def alive(tokens):
        return [auth.transact(lambda db, t=t: find_session(db, t, auth.clock.now())) is not None for t in tokens]

    bobs, tokens = start(bob), [start() for _ in range(4)]
    if alive([bobs]) != [True]:
        return "not yet: Bob's session ended when Alice signed in"
    if alive(tokens) != [False, True, True, True]:
        return (
            f"not yet: of four sessions the last three should be alive, and {sum(alive(tokens))} are: {alive(tokens)}"
        )
    tokens.append(start(token=tokens[3]))
    if alive(tokens) != [False, True, True, False, True]:
        return "not yet: a browser that signs in again replaces its own session; no other has to end for it"
    start(begin=lambda *asked: start_session(*asked, remember=False), token=tokens[4])
    auth.clock.advance(timedelta(days=2))
    tokens.append(start())
    if alive(tokens[1:3] + tokens[5:]) != [True, True, True]:
        return "not yet: an expired session counted as one of the three"
    meeting = threading.Barrier(2)

    def both_have_written():
        try:
            meeting.wait(0.05)
        except threading.BrokenBarrierError:
            pass  # the other one collided, or waits for this one: go on

    threads = [threading.Thread(target=start, kwargs={"after": both_have_written}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mine = sa.and_(UserSession.user_id == alice, UserSession.expires_at > auth.clock.now())
    left = auth.transact(lambda db: db.scalar(sa.select(sa.func.count()).where(mine)))
    return "right" if left == 3 else f"not yet: two sign-ins at once leave {left} sessions; neither saw the other's"


check_start_limited(start_limited)


# %% tags=["solution"]
def start_limited(db: orm.Session, auth: Auth, user_id: UUID, request: Request, most: int) -> tuple[UserSession, str]:
    # Two sign-ins write different rows and would not collide. The user's row is one that both write.
    db.execute(sa.update(User).where(User.id == user_id).values(updated_at=User.updated_at))
    started = start_session(db, auth, user_id, request)  # first: it may end the browser's own
    db.flush()
    mine = sa.and_(UserSession.user_id == user_id, UserSession.expires_at > auth.clock.now())
    newest_first = (UserSession.created_at.desc(), UserSession.id.desc())
    too_old = db.scalars(sa.select(UserSession.id).where(mine).order_by(*newest_first).offset(most)).all()
    db.execute(sa.delete(UserSession).where(UserSession.id.in_(too_old)))
    return started


assert check_start_limited(start_limited)

# %% [markdown]
"""
## Hand it over

- **Front end**: `token` in JSON is for `revokeSession` and for nothing else. After any answer that clears the cookies,
  go to the sign-in page.
- **Security reviewer**: a session begins in `start_session` only; search for `UserSession(`. Revoking needs no fresh
  sign-in: it takes access away and gives none, and a front end for Better Auth would not know what to do with a 403.
- **Reviewer**: no cache between `find_session` and the database; a flow that changes a password or an address calls
  `end_sessions`.
- **Test engineer**: the property to keep is "refused at the next request", over every way to end a session.
- **Operator**: `PANTRY_HOST_COOKIES=on` unless a front end reads the cookie's name. Shorter lifetimes hold for sessions
  that start or are prolonged; after an incident, `DELETE FROM sessions` signs everybody out at once.

## Sources

OWASP ASVS 5.0, 3.3 (cookies), 7.1.2, 7.2 to 7.5. NIST SP 800-63B-4, sections 2.1.3 and 2.2.3 (reauthentication), 5.1
(session bindings) and 5.2. RFC 6265bis, 4.1.2 (attributes), 4.1.3 (prefixes), 8.6 (weak integrity: planted cookies).
OWASP Session Management Cheat Sheet. M. Kolšek, "Session Fixation Vulnerability in Web-based Applications" (2002).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Cross-site requests](cross_site.ipynb) · [course map](../index.ipynb) · Next: [Sign up](sign_up.ipynb)
"""
