"""Sessions: start, find, prolong and end them, and the routes that read them."""

import base64
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, cast
from urllib.parse import quote, unquote
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import orm

from playbook.auth import sessions
from playbook.auth.cookies import cookie_line, cookie_values, sign
from playbook.auth.second_factor import has_second_factor
from playbook.auth.sessions import Lifetimes
from playbook.foundations.clock_and_identifiers import hash_token, new_token
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.write_skew import NoParent, hold
from playbook.pantry.auth.tables import SecondFactor, UserSession
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, body, iso, keep_cookies
from playbook.pantry.http import browser_of, client_ip
from playbook.schema.identity import User

SESSION, CACHE, REMEMBER = "session_token", "session_data", "dont_remember"


class Cookies:
    """Better Auth's cookies: `PREFIX.NAME=VALUE.SIGNATURE`, HMAC-SHA-256 over the value, percent-encoded.

    Not `SignedCookie`'s format: neither name nor end is signed, and of several cookies of a name the first counts.
    `guard` stands before the name: `__Secure-` or `__Host-` (RFC 6265bis, 4.1.3), with `Secure`; empty for plain http.
    """

    def __init__(self, secret: str, guard: str = "") -> None:
        self.key, self.prefix, self.secure = secret.encode(), f"{guard}better-auth.", bool(guard)

    def signature(self, value: str) -> str:
        return base64.b64encode(sign(self.key, value)).decode()

    def signed(self, value: str) -> str:
        """`value.signature`, ready for a cookie."""
        return quote(f"{value}.{self.signature(value)}", safe="!~*'()")

    def put(self, name: str, value: str, max_age: int | None = None) -> str:
        """A `Set-Cookie` value; without `max_age` (seconds) the cookie goes when the browser is closed."""
        return cookie_line(self.prefix + name, self.signed(value), max_age, self.secure)

    def drop(self, *names: str) -> list[str]:
        """The `Set-Cookie` values that take cookies from the browser: those named, or all three of a session."""
        return [cookie_line(self.prefix + name, "", 0, self.secure) for name in names or (SESSION, CACHE, REMEMBER)]

    def read(self, header: str, name: str) -> str | None:
        """The value of the first cookie `name` in a `Cookie` header; None unless its signature is right."""
        values = cookie_values([header], self.prefix + name)
        value, _, signature = unquote(values[0][:1000]).rpartition(".") if values else ("", "", "")
        genuine = hmac.compare_digest(signature.encode(), self.signature(value).encode())
        return value if value and genuine else None


def cookies_of(auth: Auth) -> Cookies:
    """The cookies as the settings want them: guarded when the service is reached by https."""
    guard = "__Host-" if auth.settings.host_cookies else "__Secure-"
    secure = auth.settings.base_url.startswith("https:")
    return Cookies(auth.settings.secret.get_secret_value(), guard if secure else "")


SHORT = 86_400  # seconds: a session that is not to be remembered
TABLE = cast(sa.Table, UserSession.__table__)
FACTORS = cast(sa.Table, SecondFactor.__table__)


class SecondFactorMissing(Exception):
    """A session was to begin by the password, or by a link, of an account that has a second factor."""


def lifetimes_of(auth: Auth, remember: bool = True) -> Lifetimes:
    """The recipe's lifetimes, from the settings. None is longer than the absolute one, whose end is not moved."""
    seconds = auth.settings
    absolute = timedelta(seconds=seconds.session_absolute_lifetime)
    idle = min(timedelta(seconds=seconds.session_lifetime if remember else SHORT), absolute)
    refresh_after = min(timedelta(seconds=seconds.session_refresh_after), idle - timedelta.resolution)
    return Lifetimes(idle, absolute, refresh_after)


def own_token(auth: Auth, request: Request) -> str | None:
    """The token in the request's cookie, whether it opens a session or not."""
    return cookies_of(auth).read(request.headers.get("cookie", ""), SESSION)


def end_own_session(db: orm.Session, auth: Auth, request: Request) -> None:
    """End the session that the request's cookie opens, if there is one."""
    if (token := own_token(auth, request)) is not None:
        sessions.end_session(db, token, TABLE)


def hold_user(db: orm.Session, user_id: UUID) -> None:
    """Where there are no foreign keys: IntegrityError unless the user exists, until the commit.

    What the unit of work does for objects (`hold_parents`), for a row that the recipe inserts.
    """
    db.flush()
    known = (str(User.__table__.c.id), user_id) in db.info.get("held", ())
    if db.get_bind().dialect.name != "postgresql" and not known and not hold(db, User.id, user_id):
        raise sa.exc.IntegrityError("sessions.user_id -> users.id", {}, NoParent("no such user"))


def start_session(
    db: orm.Session,
    auth: Auth,
    user_id: UUID,
    request: Request,
    remember: bool = True,
    proven_at: datetime | None = None,
) -> tuple[UserSession, str]:
    """A new session in place of the browser's old one (ASVS 7.2.4), and its token, for the cookie only.

    The row is not attached to `db`: it says what was stored. `proven_at`: when the second factor was given, if the
    account has one. Raises SecondFactorMissing without it, whatever way led here.
    """
    hold_user(db, user_id)
    if proven_at is None and has_second_factor(db, user_id, FACTORS):
        raise SecondFactorMissing(user_id)
    now, lifetimes = auth.clock.now(), lifetimes_of(auth, remember)
    more = {
        "id": auth.ids.new(), "updated_at": now,
        "ip_address": client_ip(request.scope), "user_agent": browser_of(request.scope),
        "second_factor_at": proven_at,
    }  # fmt: skip
    token = sessions.start_session(
        db, user_id, now, lifetimes, own_token(auth, request),
        lambda: new_token("session", auth.random_bytes), TABLE, **more,
    )  # fmt: skip
    ends = now + lifetimes.idle
    return UserSession(user_id=user_id, token_hash=hash_token(token), created_at=now, expires_at=ends, **more), token


@dataclass(frozen=True)
class SignedIn:
    """A session that is alive, and whose it is. `token` is the cookie's."""

    session: UserSession
    user: User
    token: str


def find_session(db: orm.Session, token: str, now: datetime) -> SignedIn | None:
    """The session that `token` opens; None when there is none, or its time is over.

    Not the recipe's: session and user are one query.
    """
    query = sa.select(UserSession, User).join(User, User.id == UserSession.user_id)
    found = db.execute(query.where(UserSession.token_hash == hash_token(token), UserSession.expires_at > now)).first()
    return SignedIn(found[0], found[1], token) if found else None


def prolong(db: orm.Session, auth: Auth, found: SignedIn) -> bool:
    """Move the end of the idle lifetime on, when it is time; whether it was moved."""
    session, now = found.session, auth.clock.now()
    end = lifetimes_of(auth).moved_end(session.created_at, session.expires_at, now)
    if end is None or not sessions.prolong_session(db, found.token, end, TABLE, updated_at=now):
        return False
    orm.attributes.set_committed_value(session, "expires_at", end)  # as the row has it now
    orm.attributes.set_committed_value(session, "updated_at", now)
    return True


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
    """Who is signed in.

    Any answer to the request renews the cookie when the session was prolonged, and clears a dead one.
    """
    cookies, header = cookies_of(auth), request.headers.get("cookie", "")
    if (token := cookies.read(header, SESSION)) is None:
        return None
    refresh = cookies.read(header, REMEMBER) is None and not request.query_params.get("disableRefresh")

    def work(db: orm.Session) -> tuple[SignedIn | None, bool]:
        found = find_session(db, token, auth.clock.now())
        return found, found is not None and refresh and prolong(db, auth, found)

    found, prolonged = auth.transact(work)
    if found is None:
        keep_cookies(request, cookies.drop())
    elif prolonged:
        keep_cookies(request, remembered(auth, request, found.session, token, True))
    return found


def user_view(user: User, session: UserSession | None = None) -> dict[str, Any]:
    """A user as the front end sees them. Their `session` knows whether they have a second factor."""
    enabled = session is not None and session.second_factor_at is not None
    return {
        "name": user.name, "email": user.email, "emailVerified": user.email_verified, "image": user.image,
        "createdAt": iso(user.created_at), "updatedAt": iso(user.updated_at), "id": str(user.id),
    } | ({"twoFactorEnabled": True} if enabled else {})  # fmt: skip


def session_view(session: UserSession) -> dict[str, Any]:
    """A session as the front end sees it; `token` is the handle that revokes it.

    The organization that it works for is left out when there is none, so that who uses no organizations sees none.
    """
    active = session.active_organization_id
    works_for = {} if active is None else {"activeOrganizationId": str(active)}
    return works_for | {
        "expiresAt": iso(session.expires_at), "token": str(session.id), "createdAt": iso(session.created_at),
        "updatedAt": iso(session.updated_at), "ipAddress": session.ip_address, "userAgent": session.user_agent,
        "userId": str(session.user_id), "id": str(session.id),
    }  # fmt: skip


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
    return {"session": session_view(found.session), "user": user_view(found.user, found.session)} if found else None


@session_routes.post("/get-session", dependencies=[Depends(anyone)], response_model=None)
def post_get_session() -> None:
    raise AuthError(405, "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED", headers=NO_STORE)


@session_routes.get("/list-sessions")
def list_sessions(caller: CurrentSession, auth: Service) -> list[dict[str, Any]]:
    """The caller's sessions that are alive, oldest first. AuthError 403 when the sign-in was too long ago."""
    if not is_fresh(auth, caller.session, auth.settings.session_fresh):
        raise AuthError(403, "SESSION_NOT_FRESH")
    mine = sa.and_(UserSession.user_id == caller.user.id, UserSession.expires_at > auth.clock.now())
    query = sa.select(UserSession).where(mine).order_by(UserSession.created_at, UserSession.id)
    return [session_view(row) for row in auth.transact(lambda db: db.scalars(query).all())]


def end_sessions(db: orm.Session, user_id: UUID, keep: str | None = None) -> None:
    """End the sessions of a user, or all but the one with the token `keep`: refused from the next request on."""
    sessions.end_sessions(db, user_id, keep, TABLE)


def end_by_handle(db: orm.Session, user_id: UUID, handle: UUID) -> None:
    """End one session of a user, named by its id, which is all that a front end knows of it."""
    db.execute(sa.delete(UserSession).where(UserSession.user_id == user_id, UserSession.id == handle))


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
    auth.transact(lambda db: end_by_handle(db, caller.user.id, handle))
    set_cookies(response, cookies_of(auth).drop() if handle == caller.session.id else [])
    return {"status": True}


@session_routes.post("/revoke-other-sessions")
def revoke_other_sessions(caller: CurrentSession, auth: Service) -> dict[str, bool]:
    auth.transact(lambda db: end_sessions(db, caller.user.id, keep=caller.token))
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
