"""Who asks: the cookie of `/api/auth` opens the rest of the service, too."""

from fastapi import HTTPException, Request

from playbook.pantry.auth.cross_site import check_origin, trusted_origins
from playbook.pantry.auth.sessions import SESSION, cookies_of, look_up
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.pantry.http import Caller, FindCaller


def session_caller(auth: Auth) -> FindCaller:
    """The `find_caller` of the resource API: whose session cookie it is. HTTPException 403 for another site's request.

    The cookie travels with whatever any site's page sends, so a request that changes something must come from a page of
    ours. And whoever works here is active: the session is prolonged, and `AnswerCookies` renews the cookie on whatever
    is answered, outside of what is kept for retries.
    """

    def find(request: Request) -> Caller | None:
        if cookies_of(auth).read(request.headers.get("cookie", ""), SESSION) is None:
            return None
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            try:
                check_origin(request.headers, trusted_origins(auth.settings))
            except AuthError as error:
                raise HTTPException(403, f"{error.message}: send this from a page of the service") from None
        found = look_up(request, auth)
        if found is None:
            return None
        auth.admit(found.user.id)
        return Caller(found.user.id, found.user.name)

    return find
