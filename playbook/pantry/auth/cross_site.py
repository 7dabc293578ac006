"""Which requests another site may make with the browser of somebody who is signed in."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fastapi import Request
from starlette.datastructures import Headers

from playbook.auth.mail import origin
from playbook.pantry.auth.wire import FORMS, MESSAGES, AuthError, Service, read_body
from playbook.pantry.settings import Settings

ABSOLUTE = re.compile(r"(https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?)(?:[/?#].*)?", re.A | re.I | re.S)
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")  # what browsers drop, and the backslash, which they read as /
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def trusted_origins(settings: Settings) -> tuple[str, ...]:
    """Where the front end lives: the service's own origin and those of the settings."""
    return (settings.base_url, *settings.trusted_origins)


def origin_of(url: str) -> str:
    """The origin of an http(s) URL in the form of `Origin` (RFC 6454, 6.2); empty for all else, and for `user@host`."""
    match = ABSOLUTE.fullmatch(url)
    try:
        return origin(match[1]) if match else ""
    except ValueError:  # a port that cannot be
        return ""


def trusted_redirect(url: str, trusted: Sequence[str]) -> bool:
    """Whether a browser may be sent to `url`: a path that no reader takes for a host, or a page of a trusted origin."""
    if UNSAFE.search(url):
        return False
    if url.startswith("/"):
        path = re.split(r"[?#]", url)[0]
        return not url.startswith("//") and not re.search(r"%2f|%5c", path, re.IGNORECASE)
    return origin_of(url) in trusted


def location(url: str) -> str:
    """`url` for a Location header, which is ASCII:

    All else percent-encoded as UTF-8, as browsers do (RFC 3987, 3.1).
    """
    return quote(url, safe=PRINTABLE)


def check_origin(headers: Headers, trusted: Sequence[str]) -> None:
    """Raises AuthError 403 when what sent the request is not a page of a trusted origin (`Origin`, else `Referer`)."""
    sent = ",".join(headers.getlist("origin"))  # two of them are the origin of nobody
    if sent == "null" and headers.get("sec-fetch-site") == "same-origin":
        return
    source = sent or headers.get("referer", "")
    if source in ("", "null"):
        raise AuthError(403, "MISSING_OR_NULL_ORIGIN")
    if origin_of(source) not in trusted:
        raise AuthError(403, "INVALID_ORIGIN")


def check_first_sign_in(headers: Headers, trusted: Sequence[str]) -> None:
    """Login CSRF: a request without a cookie that a browser sent must come from a trusted page, too. AuthError 403."""
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate":
        raise AuthError(403, "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED")
    signs = ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
    if any(headers.get(name, "").strip() for name in signs):
        check_origin(headers, trusted)


REDIRECTS = {
    "callbackURL": "INVALID_CALLBACK_URL",
    "redirectTo": "INVALID_REDIRECT_URL",
    "errorCallbackURL": "INVALID_ERROR_CALLBACK_URL",
    "newUserCallbackURL": "INVALID_NEW_USER_CALLBACK_URL",
}


async def check_source(request: Request, auth: Service) -> None:
    """Refuse what another site's page made the browser send (AuthError 403). Reads no body."""
    trusted = trusted_origins(auth.settings)
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        if "cookie" in request.headers:
            check_origin(request.headers, trusted)
        elif request.scope["path"] in FORMS:
            check_first_sign_in(request.headers, trusted)


async def check_cross_site(request: Request, auth: Service) -> None:
    """`check_source`, and no redirects to other sites (AuthError 403), in the query or the body.

    A guard of `auth_app`. AuthError 400 for a body that cannot be read, or a redirect that is no text.
    """
    trusted, given = trusted_origins(auth.settings), list[tuple[str, Any]](request.query_params.multi_items())
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        sent = await read_body(request)
        given += sent.items() if isinstance(sent, dict) else []
    await check_source(request, auth)
    for name, url in given:
        if url and name in REDIRECTS and not isinstance(url, str):
            raise AuthError(400, None, f"{MESSAGES[REDIRECTS[name]]}: expected a string")
        if url and name in REDIRECTS and not trusted_redirect(url, trusted):
            raise AuthError(403, REDIRECTS[name])
