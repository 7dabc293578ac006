"""Who asks: the session cookie of `/api/auth`, or the API token of a machine, opens the rest of the service.

A request with a token is the token's, whatever cookie it brings along: what a wrong token may not do, the cookie does
not do for it. An `Authorization` that is no token of ours, such as the password of a proxy, says nothing here.
"""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from fastapi import HTTPException, Request
from sqlalchemy import orm
from starlette.requests import HTTPConnection

from playbook.api.errors import Problem
from playbook.auth.api_tokens import challenge, find_token, sent_token
from playbook.auth.cross_site import SAFE, forgery_fault
from playbook.foundations.clock_and_identifiers import hash_token, is_token
from playbook.pantry.auth.cross_site import check_origin, trusted_origins
from playbook.pantry.auth.session_lookup import QuickSessions
from playbook.pantry.auth.sessions import SESSION, cookies_of, is_fresh, look_up
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.pantry.errors import BAD_TOKEN
from playbook.pantry.http import REALM, Caller, FindCaller, QuickCaller
from playbook.pantry.reads import Reader
from playbook.pantry.redaction import PREFIX
from playbook.pantry.tokens import TABLE, ApiToken
from playbook.schema.identity import User


def refuse_other_sites(request: HTTPConnection, auth: Auth) -> None:
    """HTTPException 403 for a request that changes something and was not sent by a page of ours."""
    if request.scope["method"] in SAFE:
        return
    try:
        check_origin(request.headers, trusted_origins(auth.settings))
    except AuthError as error:
        raise HTTPException(403, f"{error.message}: send this from a page of the service") from None


def by_session(auth: Auth, user: Any, session: Any) -> Caller:
    """The caller whose session it is; `auth.admit` may refuse the account. Fresh: as `change-email` asks for it."""
    auth.admit(user.id)
    seconds = min(auth.settings.reauthentication, auth.settings.session_fresh)
    return Caller(user.id, user.name, fresh=is_fresh(auth, session, seconds))


def session_caller(auth: Auth) -> FindCaller:
    """Whose session cookie it is. HTTPException 403 for another site's request.

    The cookie travels with whatever any site's page sends, so a request that changes something must come from a page of
    ours. And whoever works here is active: the session is prolonged, and `AnswerCookies` renews the cookie on whatever
    is answered, outside of what is kept for retries.
    """

    def find(request: Request) -> Caller | None:
        if cookies_of(auth).read(request.headers.get("cookie", ""), SESSION) is None:
            return None
        refuse_other_sites(request, auth)
        found = look_up(request, auth)
        return by_session(auth, found.user, found.session) if found else None

    return find


def quick_session_caller(auth: Auth, quick: QuickSessions) -> QuickCaller:
    """The same on the event loop, when one look-up is enough; it refuses what `session_caller` refuses."""

    async def find(request: HTTPConnection) -> Caller | None:
        cookie = request.headers.get("cookie", "")
        if (token := quick.cookies.read(cookie, SESSION)) is None:
            return None
        refuse_other_sites(request, auth)
        if (found := await quick.find(token, cookie)) is None:
            return None
        session, user = found
        return by_session(auth, user, session)

    return find


# ---------------------------------------------------------------- tokens


def token_of(request: HTTPConnection, auth: Auth) -> str | None:
    """The token that a request was sent with; None for none. HTTPException 403 for another site's with Basic.

    Browsers add no Bearer by themselves, so it needs no check of the `Origin`. Basic they do add, once they have seen
    the token in a URL; `twine` and `pip` are no browsers, and send no `Origin`.
    """
    sent = request.headers.getlist("authorization")
    token = sent_token(sent)
    basic = token is not None and sent[0][:6].lower() == "basic "
    if basic and request.scope["method"] not in SAFE:
        fault = forgery_fault(request.headers, trusted_origins(auth.settings))
        if fault is not None:
            raise HTTPException(403, f"{fault}: send this from a page of the service, or with Bearer")
    return token


def by_token(auth: Auth, user_id: Any, name: str, scopes: frozenset[str]) -> Caller:
    auth.admit(user_id)
    return Caller(user_id, name, scopes)


def token_caller(auth: Auth, token: str) -> Caller:
    """Whose token it is, and for what. Problem 401 for one that opens nothing."""

    def work(db: orm.Session) -> tuple[Any, str, frozenset[str]] | None:
        granted = find_token(db, token, auth.clock.now(), PREFIX, TABLE)
        if granted is None:
            return None
        name = db.scalar(sa.select(User.name).where(User.id == granted.user_id))
        return None if name is None else (granted.user_id, name, granted.scopes)

    found = auth.transact(work)
    if found is None:
        raise Problem(BAD_TOKEN, headers=challenge(REALM, "invalid_token"))
    return by_token(auth, *found)


NOTED = timedelta(hours=1)  # as the recipe notes uses


async def quick_token_caller(auth: Auth, read: Reader, token: str) -> Caller | None:
    """The same by one statement on the event loop; None when the long way must be taken, to note the use or refuse."""
    if not is_token(token, PREFIX):
        return None
    now = auth.clock.now()
    columns = sa.select(ApiToken.user_id, User.name, ApiToken.scopes, ApiToken.last_used_at)
    alive = columns.join(User, User.id == ApiToken.user_id)
    alive = alive.where(ApiToken.token_hash == hash_token(token), ApiToken.expires_at > now)
    row = await read(lambda db: db.execute(alive).one_or_none())
    if row is None:
        return None
    user_id, name, scopes, used = row
    if not isinstance(used, datetime) or used <= now - NOTED:
        return None
    return by_token(auth, user_id, name, frozenset(scopes.split()))


def any_caller(auth: Auth) -> FindCaller:
    """The `find_caller` of the resource API: by token or by session."""
    by_cookie = session_caller(auth)

    def find(request: Request) -> Caller | None:
        token = token_of(request, auth)
        return by_cookie(request) if token is None else token_caller(auth, token)

    return find


def quick_caller(auth: Auth, quick: QuickSessions, read: Reader) -> QuickCaller:
    """`any_caller` on the event loop, where the database can be asked from there."""
    by_cookie = quick_session_caller(auth, quick)

    async def find(request: HTTPConnection) -> Caller | None:
        token = token_of(request, auth)
        if token is None:
            return await by_cookie(request)
        return await quick_token_caller(auth, read, token)

    return find
