"""Who asks: the cookie of `/api/auth` opens the rest of the service, too."""

from fastapi import HTTPException, Request
from starlette.requests import HTTPConnection

from playbook.pantry.auth.cross_site import check_origin, trusted_origins
from playbook.pantry.auth.session_lookup import QuickSessions
from playbook.pantry.auth.sessions import SESSION, cookies_of, look_up
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.pantry.http import Caller, FindCaller, QuickCaller


def refuse_other_sites(request: HTTPConnection, auth: Auth) -> None:
    """HTTPException 403 for a request that changes something and was not sent by a page of ours."""
    if request.scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return
    try:
        check_origin(request.headers, trusted_origins(auth.settings))
    except AuthError as error:
        raise HTTPException(403, f"{error.message}: send this from a page of the service") from None


def session_caller(auth: Auth) -> FindCaller:
    """The `find_caller` of the resource API: whose session cookie it is. HTTPException 403 for another site's request.

    The cookie travels with whatever any site's page sends, so a request that changes something must come from a page of
    ours. And whoever works here is active: the session is prolonged, and `AnswerCookies` renews the cookie on whatever
    is answered, outside of what is kept for retries.
    """

    def find(request: Request) -> Caller | None:
        if cookies_of(auth).read(request.headers.get("cookie", ""), SESSION) is None:
            return None
        refuse_other_sites(request, auth)
        found = look_up(request, auth)
        if found is None:
            return None
        auth.admit(found.user.id)
        return Caller(found.user.id, found.user.name)

    return find


def quick_session_caller(auth: Auth, quick: QuickSessions) -> QuickCaller:
    """The same on the event loop, when one look-up is enough; it refuses what `session_caller` refuses."""

    async def find(request: HTTPConnection) -> Caller | None:
        cookie = request.headers.get("cookie", "")
        if not quick.works or (token := quick.cookies.read(cookie, SESSION)) is None:
            return None
        refuse_other_sites(request, auth)
        if (found := await quick.find(token, cookie)) is None:
            return None
        user = found[1]
        auth.admit(user.id)
        return Caller(user.id, user.name)

    return find
