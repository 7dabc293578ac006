"""Which requests another site may make with the browser of somebody who is signed in.

The recipe `auth/cross_site` decides who sent a request and where a browser may be sent. Here are Better Auth's words
for it, its rule for a first sign-in, and the names of its redirects.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers

from playbook.auth.cross_site import SAFE, forgery_fault, location, sender_fault, trusted_redirect
from playbook.pantry.auth.wire import FORMS, MESSAGES, AuthError, Service, read_body
from playbook.pantry.settings import Settings

__all__ = ["location"]  # for the routes that redirect

CODES = {"no origin": "MISSING_OR_NULL_ORIGIN", "another origin": "INVALID_ORIGIN"}
REDIRECTS = {
    "callbackURL": "INVALID_CALLBACK_URL",
    "redirectTo": "INVALID_REDIRECT_URL",
    "errorCallbackURL": "INVALID_ERROR_CALLBACK_URL",
    "newUserCallbackURL": "INVALID_NEW_USER_CALLBACK_URL",
}


def trusted_origins(settings: Settings) -> tuple[str, ...]:
    """Where the front end lives: the service's own origin and those of the settings."""
    return (settings.base_url, *settings.trusted_origins)


def refuse(fault: str | None) -> None:
    """AuthError 403 for a fault of the recipe; nothing for None."""
    if fault is not None:
        raise AuthError(403, CODES[fault])


def check_origin(headers: Headers, trusted: Sequence[str]) -> None:
    """Raises AuthError 403 when what sent the request is not a page of a trusted origin (`Origin`, else `Referer`)."""
    refuse(sender_fault(headers, trusted))


def check_first_sign_in(headers: Headers, trusted: Sequence[str]) -> None:
    """Login CSRF: a request without a cookie that a browser sent must come from a trusted page, too. AuthError 403."""
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate":
        raise AuthError(403, "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED")
    refuse(forgery_fault(headers, trusted))


async def check_source(request: Request, auth: Service) -> None:
    """Refuse what another site's page made the browser send (AuthError 403). Reads no body."""
    trusted = trusted_origins(auth.settings)
    if request.method not in SAFE:
        if "cookie" in request.headers:
            check_origin(request.headers, trusted)
        elif request.scope["path"] in FORMS:
            check_first_sign_in(request.headers, trusted)


async def check_cross_site(request: Request, auth: Service) -> None:
    """`check_source`, and no redirects to other sites (AuthError 403), in the query or the body.

    A guard of `auth_app`. AuthError 400 for a body that cannot be read, or a redirect that is no text.
    """
    trusted, given = trusted_origins(auth.settings), list[tuple[str, Any]](request.query_params.multi_items())
    if request.method not in SAFE:
        sent = await read_body(request)
        given += sent.items() if isinstance(sent, dict) else []
    await check_source(request, auth)
    for name, url in given:
        if url and name in REDIRECTS and not isinstance(url, str):
            raise AuthError(400, None, f"{MESSAGES[REDIRECTS[name]]}: expected a string")
        if url and name in REDIRECTS and not trusted_redirect(url, trusted):
            raise AuthError(403, REDIRECTS[name])
