# %% [markdown]
"""
# Cross-site requests

Let only your own pages act with the browser's cookie, and send nobody to a page that somebody else chose.

| | |
|---|---|
| **Use it when** | a cookie signs people in, or a parameter says where to go next |
| **You need** | [settings](../foundations/settings.ipynb), [request_and_transaction](../foundations/request_and_transaction.ipynb), [wire](wire.ipynb) |
| **Time** | 20 minutes |
| **Topics** | csrf, xsrf, cross-site request forgery, login csrf, session riding, origin header, referer, null origin, fetch metadata, sec-fetch-site, sec-fetch-mode, samesite, lax, strict, same-site, same-origin, cors, preflight, csrf token, synchronizer token, double submit, open redirect, unvalidated redirect, callbackURL, redirectTo, backslash, trusted origins, allowlist |
| **Standard** | RFC 6454; RFC 6265bis; W3C Fetch Metadata; OWASP ASVS 5.0 (1.5.3, 3.5.1, 3.5.2, 3.5.3, 3.7.2); CWE-352, CWE-601 |
"""

# %% [markdown]
"""
## The decision

A browser adds the cookie to every request that goes to its host, whoever wrote the page that sends it. What tells
your page's requests from theirs?

| option | good | costs |
|---|---|---|
| `SameSite` on the cookie, and nothing else | one word | a *site* is every subdomain and every port; there is no cookie yet when somebody signs in |
| a random token in every form | works without any header | every page has to fetch it first; the contract that our front end speaks has no place for it |
| take JSON only: other sites need a preflight for it | no state | no form works without script; one generous CORS setting opens everything |
| **ask who sent it: `Origin`, else `Referer`, and Fetch Metadata** | no state; one guard for all routes | a list of trusted origins to keep; proxies must pass the headers on |

We take the **headers that a page cannot forge**, with `SameSite=Lax` and JSON behind them as second and third line.
Choose the token where pages are made on the server, for browsers older than 2020.
"""

# %% [markdown]
"""
## See it break

A service with the wire of the last page and a `SameSite=Lax; HttpOnly` cookie. Its company has a blog on a subdomain,
where somebody else can write HTML, and Mallory has a site. Ada is signed in and opens the blog; Bob is not and opens
Mallory's page; Carol follows a link to *us* in a mail. Before you run the cells: who of them is harmed?

Both servers are real. The browser is not: `Browser` sends the headers that a browser sends, takes `.localhost` names
for the two servers, and submits forms. The tests hold it against a real Chromium, header by header.
"""

# %%
import re
from urllib.parse import urljoin, urlsplit

import httpx


class Browser:
    """`page` is what it shows; `sent` what it has sent, oldest first, each with the answer's status."""

    def __init__(self, hosts):
        self.hosts, self.cookies, self.page, self.sent = hosts, {}, None, []

    def send(self, method, url, mode="navigate", **content):
        to, here = urlsplit(url), urlsplit(self.page or url)
        of_one_site = to.hostname.split(".")[-2:] == here.hostname.split(".")[-2:]  # browsers ask a list of suffixes
        relation = "same-origin" if to[:2] == here[:2] else "same-site" if of_one_site else "cross-site"
        headers = {"sec-fetch-site": relation if self.page else "none", "sec-fetch-mode": mode, "host": to.netloc}
        headers["sec-fetch-dest"] = "document" if mode == "navigate" else "empty"
        if self.page:  # another origin is not told the path
            headers["referer"] = self.page if relation == "same-origin" else f"{here.scheme}://{here.netloc}/"
        if method == "POST":
            headers["origin"] = f"{here.scheme}://{here.netloc}"
        if of_one_site or (method, mode) == ("GET", "navigate"):  # SameSite=Lax
            headers |= {"cookie": self.cookies[to.hostname]} if to.hostname in self.cookies else {}
        path = to._replace(scheme="", netloc="").geturl()
        answer = httpx.request(method, self.hosts[to.hostname] + path, headers=headers, trust_env=False, **content)
        self.sent.append(headers | {"request": f"{method} {to.path}", "status": answer.status_code})
        for value in answer.headers.get_list("set-cookie"):
            self.cookies[to.hostname] = value.split(";")[0]
        return answer

    def open(self, url, method="GET", **content):
        """Go to a page. A redirect is followed, and a form on a page of Mallory's is sent by her script."""
        answer = self.send(method, url, **content)
        if "location" in answer.headers and answer.is_redirect:
            return self.open(urljoin(url, answer.headers["location"]))
        self.page = url
        if form := re.search(r'<form method="post" action="(.*?)">(.*)</form>', answer.text):
            fields = dict(re.findall(r'name="(.*?)" value="(.*?)"', form[2]))
            return self.open(form[1], "POST", data=fields)
        return answer


# %%
from datetime import UTC, datetime

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, serving, show, table
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, auth_app, body
from playbook.pantry.settings import Settings

PANTRY, BLOG, EVIL = "http://pantry.localhost", "http://blog.pantry.localhost", "http://evil.localhost"
PASSWORDS = {name: f"the long password of {name}" for name in ("ada", "mallory")}


class SignIn(Sent):
    email: Text
    password: str


def lesson():
    router, sessions = APIRouter(prefix="/api/auth", dependencies=[Depends(anyone)]), {}

    @router.post("/sign-in/email")
    def sign_in(response: Response, auth: Service, sent: SignIn = body(SignIn)):
        if PASSWORDS.get(sent.email) != sent.password:
            raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD", "Invalid email or password")
        token = auth.random_bytes(16).hex()
        sessions[token] = sent.email
        response.set_cookie("session", token, httponly=True, samesite="lax")
        return {"user": sent.email}

    @router.get("/get-session")
    def get_session(request: Request):
        return sessions.get(request.cookies.get("session"))

    @router.post("/sign-out")
    def sign_out(request: Request):
        return {"success": sessions.pop(request.cookies.get("session"), None) is not None}

    @router.post("/update-user")
    def update_user(auth: Service):
        return auth.transact(lambda db: db.scalar(sa.text("SELECT 1")))

    @router.get("/verify-email")
    def verify_email(callbackURL: str = "/"):
        return Response(status_code=302, headers={"location": callbackURL})

    return router


def pantry(guards=(), engine=None):
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    settings, ids = Settings(environment="test", base_url=PANTRY), Identifiers(clock, SeededBytes(1))
    engine = engine or make_engine(lesson_url())
    return auth_app(Auth(settings, engine, clock, ids, Postbox(MemorySender()), SeededBytes(2)), [lesson()], guards)


# %%
def form(path, **fields):
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    script = "<script>document.forms[0].submit()</script>"
    return HTMLResponse(f'<form method="post" action="{PANTRY}/api/auth{path}">{inputs}</form>{script}')


others = FastAPI()
others.get("/recipes")(lambda: form("/sign-out"))
others.get("/kittens")(lambda: form("/sign-in/email", email="mallory", password=PASSWORDS["mallory"]))
others.get("/sign-in")(lambda: HTMLResponse("It looks like ours. Your password, please?"))
LINK = f"{PANTRY}/api/auth/verify-email?callbackURL={EVIL}/sign-in"
STORIES = (("ada", f"{BLOG}/recipes"), ("bob", f"{EVIL}/kittens"), ("carol", LINK))


def tell_stories(app):
    with serving(app) as ours, serving(others) as theirs:
        hosts = {urlsplit(url).hostname: str(theirs.base_url) for url in (BLOG, EVIL)}
        for who, url in STORIES:
            browser = Browser(hosts | {urlsplit(PANTRY).hostname: str(ours.base_url)})
            if who in PASSWORDS:
                browser.page = f"{PANTRY}/"
                browser.send(
                    "POST", f"{PANTRY}/api/auth/sign-in/email", "cors", json={"email": who, "password": PASSWORDS[who]}
                )
            browser.page = None
            browser.open(url)
            sent = [row for row in browser.sent if row["host"] == urlsplit(PANTRY).netloc][-1]
            ends = urlsplit(browser.page).hostname
            browser.page = f"{PANTRY}/"
            signed_in = browser.send("GET", f"{PANTRY}/api/auth/get-session", "cors").json()
            names = {"request": "request", "cookie": "cookie", "origin": "Origin", "sec-fetch-site": "Sec-Fetch-Site"}
            row = {shown: sent.get(name, "-") for name, shown in names.items()} | {"status": sent["status"]}
            row["cookie"] = "yes" if "cookie" in sent else "no"
            yield {"who": who} | row | {"then signed in": signed_in or "nobody", "page": ends}


show(table(tell_stories(pantry())))

# %% [markdown]
"""
Ada is signed out: the blog is another *origin* but the same *site*, so `SameSite` lets her cookie through, `Strict`
as well as `Lax`. Bob is signed in, as Mallory: the recipes that he writes from now on are hers to read. No cookie was
needed for that, so no attribute of a cookie prevents it. Carol trusted the link because it begins with our name.

## Build it

Each refusal has a code of the contract.
"""

# %%
from playbook.pantry.auth.wire import MESSAGES

MESSAGES |= {
    "INVALID_ORIGIN": "Invalid origin",
    "MISSING_OR_NULL_ORIGIN": "Missing or null Origin",
    "INVALID_CALLBACK_URL": "Invalid callbackURL",
    "INVALID_REDIRECT_URL": "Invalid redirectURL",
    "INVALID_ERROR_CALLBACK_URL": "Invalid errorCallbackURL",
    "INVALID_NEW_USER_CALLBACK_URL": "Invalid newUserCallbackURL",
    "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED": (
        "Cross-site navigation login blocked. This request appears to be a CSRF attack."
    ),
}

# %% [markdown]
"""
First the redirects. What counts is where the *browser* goes, and it reads URLs by rules of its own (WHATWG URL): it
drops tabs and line feeds, reads a backslash as a slash, and turns full-width letters and `%2e` in a host into ASCII.
Python's `urlsplit` does none of that. Two parsers that disagree are how `https://ours@theirs` gets through (ASVS
1.5.3), so there is no parser here, but a pattern of the few characters about which nobody disagrees.
"""

# %%
import re
from collections.abc import Sequence
from urllib.parse import quote

from playbook.pantry.settings import Settings, origin

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


# %% [markdown]
"""
A path of our own begins with one slash, and the second character is where it goes wrong: `//evil` is a host. `%2f` is
refused because some proxies decode it on the way.
"""


# %%
def trusted_redirect(url: str, trusted: Sequence[str]) -> bool:
    """Whether a browser may be sent to `url`: a path that no reader takes for a host, or a page of a trusted origin."""
    if UNSAFE.search(url):
        return False
    if url.startswith("/"):
        path = re.split(r"[?#]", url)[0]
        return not url.startswith("//") and not re.search(r"%2f|%5c", path, re.IGNORECASE)
    return origin_of(url) in trusted


def location(url: str) -> str:
    """`url` for a Location header, which is ASCII: all else percent-encoded as UTF-8, as browsers do (RFC 3987, 3.1)."""
    return quote(url, safe=PRINTABLE)


# %% [markdown]
"""
Who sent a request? Browsers add `Origin` to every POST, and no script can change it; a few old ones send only
`Referer`. `null` is what a page says that hides where it is: a sandboxed frame of anybody, but also a form of ours
under `Referrer-Policy: no-referrer`. `Sec-Fetch-Site: same-origin` tells the two apart.
"""

# %%
from starlette.datastructures import Headers

from playbook.pantry.auth.wire import AuthError


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


# %% [markdown]
"""
That check is for requests with a cookie. Whoever sends none, neither cookie nor any sign of a browser, is a program
with the user's password in its hand, and there is nobody to be tricked. Signing in is the exception, because of Bob,
and because its paths take forms, which any page may send without being asked (ASVS 3.5.2): a browser without a cookie
has to show where it comes from. `Sec-Fetch-*` is sent over https and to loopback only, so its absence proves nothing.
Programs that pretend to be browsers fall under it too: Node's `fetch` sends `Sec-Fetch-Mode` and no `Origin`, so a
server that signs in for a user adds one.
"""


# %%
def check_first_sign_in(headers: Headers, trusted: Sequence[str]) -> None:
    """Login CSRF: a request without a cookie that a browser sent must come from a trusted page, too. AuthError 403."""
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate":
        raise AuthError(403, "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED")
    signs = ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
    if any(headers.get(name, "").strip() for name in signs):
        check_origin(headers, trusted)


# %% [markdown]
"""
One guard for every route. It looks at the redirects of every request, in the query (also the second of two) and in
the body, so that no later page can forget it. It runs before the session is looked up. GET is not asked for its
origin, since it changes nothing (RFC 9110, 9.2.1): a route that breaks this rule has no protection here.
"""

# %%
from typing import Any

from fastapi import Request

from playbook.pantry.auth.wire import FORMS, Service, read_body

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


# %% [markdown]
"""
## See it work

The same three, and then requests that have to go on working.
"""

# %%
guarded = pantry(guards=[check_cross_site])
show(table(tell_stories(guarded)))

ADA = {"email": "ada", "password": PASSWORDS["ada"]}
with serving(pantry(guards=[check_cross_site])) as client:
    browser = Browser({"pantry.localhost": str(client.base_url)})
    browser.open(f"{PANTRY}/")
    browser.send("POST", f"{PANTRY}/api/auth/sign-in/email", data=ADA)  # a form of ours, without script
    browser.send("POST", f"{PANTRY}/api/auth/sign-out", "cors", json={})
    browser.open(f"{PANTRY}/api/auth/verify-email?callbackURL=/welcome")
    program = client.post("/api/auth/sign-in/email", json=ADA)
    pretender = client.post("/api/auth/sign-in/email", json=ADA, headers={"sec-fetch-mode": "cors"})
for row in browser.sent[1:]:
    print(row["request"], row["status"])
print(f"a program: {program.status_code}; Node's fetch: {pretender.status_code} {pretender.json()['code']}")

# %% [markdown]
"""
And URLs that pretend to lead to us. The middle columns are two parsers that read the same text; where they disagree,
somebody who checks with the one and follows with the other is led away. (The browser's column is data; a test asks
`new URL` of Node for each.)
"""

# %%
GOES_TO = {  # from a page of PANTRY: the host that a browser asks; None where it asks nobody
    "/welcome?next=//evil.localhost": "pantry.localhost",
    "/.//evil.localhost": "pantry.localhost",
    "//evil.localhost/": "evil.localhost",
    "/\\evil.localhost/": "evil.localhost",
    "/\t/evil.localhost/": "evil.localhost",
    "https:evil.localhost": "evil.localhost",
    "http:///evil.localhost": "evil.localhost",
    "http://pantry.localhost@evil.localhost/": "evil.localhost",
    "http://evil.localhost\\@pantry.localhost/": "evil.localhost",
    "http://pantry.localhost%2eevil.localhost/": "pantry.localhost.evil.localhost",
    "http://evil\u3002localhost/": "evil.localhost",
    "HTTP://PANTRY.localhost:80/welcome": "pantry.localhost",
    "javascript:alert(1)": None,
}


def python_reads(url):
    parts = urlsplit(url)
    return parts.hostname if parts.scheme else "pantry.localhost" if not parts.netloc else parts.netloc


columns = ("url", "for Python", "for a browser", "trusted")
rows = [(ascii(u)[1:-1], python_reads(u), goes, trusted_redirect(u, [PANTRY])) for u, goes in GOES_TO.items()]
show(table(rows, columns))

# %% [markdown]
"""
## On PostgreSQL

The guard asks nobody: no session, no row. So a flood of forged requests takes no connection away from people. Here
the pool has one connection, and somebody else holds it:
"""

# %%
import logging

logging.getLogger("pantry.auth").handlers = [logging.NullHandler()]
logging.getLogger("pantry.auth").propagate = False


def with_an_empty_pool(url):
    engine, forged_or_not = make_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1), {}
    with serving(pantry([check_cross_site], engine)) as client, engine.connect():
        for sender in (BLOG, PANTRY):
            headers = {"cookie": "session=x", "origin": sender}
            forged_or_not[sender] = client.post("/api/auth/update-user", headers=headers).status_code
    return forged_or_not


empty = on_postgres(with_an_empty_pool)
for sender, status in (empty or {}).items():
    print(f"from {sender}: {status}")

# %% [markdown]
"""
A forged request is refused although no connection is left; an honest one has to wait, and is told 503.

## Check it
"""

# %%
from itertools import product

assert empty in ({BLOG: 403, PANTRY: 503}, None)


def passes(check, **headers):
    try:
        check(Headers({name.replace("_", "-"): value for name, value in headers.items() if value}), [PANTRY])
    except AuthError:
        return False
    return True


OURS, THEIRS = (PANTRY, PANTRY.upper(), f"{PANTRY}:80"), (BLOG, EVIL, f"{PANTRY}.evil.localhost", f"{PANTRY}:81", "x")
SITES, MODES = ("", "none", "same-origin", "same-site", "cross-site"), ("", "navigate", "cors", "no-cors")
for site, mode, referer in product(SITES, MODES, ("", f"{PANTRY}/x", f"{EVIL}/x")):
    seen = {"sec_fetch_site": site, "sec_fetch_mode": mode}
    for check in (check_origin, check_first_sign_in):
        assert not any(passes(check, origin=origin, referer=referer, **seen) for origin in THEIRS)
        assert not passes(check, referer=f"{EVIL}/x", **seen)
        assert passes(check, origin="null", referer=referer, **seen) == (site == "same-origin")
    assert all(passes(check_origin, origin=origin, referer=referer, **seen) for origin in OURS)
    assert passes(check_origin, referer=referer, **seen) == (referer == f"{PANTRY}/x")
    forged = (site, mode) == ("cross-site", "navigate")
    assert all(passes(check_first_sign_in, origin=origin, **seen) != forged for origin in OURS)
assert passes(check_first_sign_in) and not passes(check_first_sign_in, sec_fetch_mode="cors")


def leads_away(url):
    """Whether a browser would leave the site, by the rules of WHATWG URL for what has no host of ours in it."""
    read = url.strip("".join(map(chr, range(0x21)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")
    return read.startswith("//") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", read) is not None


short = ("".join(characters) for length in range(6) for characters in product("/\\\t\n :@?#.h", repeat=length))
accepted = [url for url in short if trusted_redirect(url, [PANTRY])]
assert accepted and not any(leads_away(url) for url in accepted)
assert not any(trusted_redirect(url, [PANTRY]) for url, goes in GOES_TO.items() if goes != "pantry.localhost")

with serving(pantry([check_cross_site])) as client:
    for path, name in product(("/sign-out", "/update-user", "/sign-in/email"), REDIRECTS):
        cookie = {"cookie": "theme=dark", "origin": EVIL}
        assert client.post(f"/api/auth{path}", json=ADA, headers=cookie).json()["code"] == "INVALID_ORIGIN"
        for content, url in (({"json": ADA | {name: EVIL}}, ""), ({"json": ADA}, f"?{name}=/&{name}={EVIL}")):
            answer = client.post(f"/api/auth{path}{url}", **content)
            assert (answer.status_code, answer.json()["code"]) == (403, REDIRECTS[name])
print("no page of another origin acts with the cookie or signs anybody in; no accepted redirect leaves the site")

# %% [markdown]
"""
## Your turn

A page without script has a sign-in form at its top, on every page. After signing in, people should be where they
were, and the only thing that says so is the `Referer` of the form's POST. Write `way_back(referer, trusted)`, the
value of `Location`; `trusted[0]` is the service itself.

- A page of the service: its path and query, as they were. A page of another trusted origin: the whole URL.
- Everything else, and no Referer at all: `/`.
- A page under `/sign-in` would lead in a circle: `/`.
- The query parameters `token` and `code` are credentials from a mail. They go; what else is there stays as it was.
- Mallory cannot write the Referer, but she can choose the page: a link to a path of *ours* that does not exist shows
  our 404 page, which has the form as well. What comes out must be safe by the rules of this page.
"""


# %% tags=["exercise"]
def way_back(referer: str, trusted: Sequence[str]) -> str:
    return referer if trusted_redirect(referer, trusted) else "/"  # replace this


# %%
@checker
def check_way_back(way_back):
    app = "https://app.localhost:8443"
    cases = {
        f"{PANTRY}/packages?q=a%20b&page=2": "/packages?q=a%20b&page=2",
        f"{PANTRY}/": "/",
        PANTRY: "/",
        "": "/",
        f"{app}/teams?id=7": f"{app}/teams?id=7",
        f"{app}/": f"{app}/",
        f"{EVIL}/packages": "/",
        f"{BLOG}/packages": "/",
        "about:blank": "/",
        "/packages": "/",
        f"{PANTRY}/sign-in?next=/packages": "/",
        f"{PANTRY}/sign-in/help": "/",
        f"{PANTRY}/sign-ins": "/sign-ins",
        f"{app}/sign-in": "/",
        f"{PANTRY}/welcome?token=link_7&step=2&code=": "/welcome?step=2",
        f"{PANTRY}/welcome?token=link_7": "/welcome",
        f"{app}/welcome?a=1&code=9": f"{app}/welcome?a=1",
        f"{PANTRY}/search?q=token&tokens=3&q=a%26token": "/search?q=token&tokens=3&q=a%26token",
        f"{PANTRY}//evil.localhost/": "/",
        f"{PANTRY}/%2Fevil.localhost/": "/",
        f"{PANTRY}/\\evil.localhost/": "/",
        f"{app}//evil.localhost/": f"{app}//evil.localhost/",
    }
    for referer, expected in cases.items():
        if (found := way_back(referer, [PANTRY, app])) != expected:
            return f"not yet: from {referer or 'nowhere'} the way back is {expected}, not {found}"
    return "right"


check_way_back(way_back)


# %% tags=["solution"]
def way_back(referer: str, trusted: Sequence[str]) -> str:
    source = origin_of(referer)
    if source not in trusted:
        return "/"
    parts = urlsplit(referer)
    if re.match(r"/sign-in(/|$)", parts.path):
        return "/"
    kept = [pair for pair in parts.query.split("&") if pair.split("=")[0] not in ("token", "code")]
    path = (parts.path or "/") + ("?" + "&".join(kept) if any(kept) else "")
    target = path if source == trusted[0] else source + path
    # Taking the origin away has made a new URL: http://ours//evil is a page of ours, //evil is not.
    return target if trusted_redirect(target, trusted) else "/"


assert check_way_back(way_back)

# %% [markdown]
"""
## Hand it over

- **Front end**: on another origin than the service, be in `PANTRY_TRUSTED_ORIGINS`, and let a proxy of yours pass
  `/api/auth` on: no CORS headers are sent. A server that signs in for somebody sets `Origin`.
- **Reviewer**: nothing changes by GET; a URL that came from outside passes `trusted_redirect` where it is *used*, and
  leaves through `location`.
- **Security reviewer**: trusted origins are exact, without wildcards, and every one of them can act as the user: a
  hole in one page of theirs is a hole here. Subdomains are not trusted.
- **Test engineer**: `tests/auth/test_cross_site.py` runs the attacks in Chromium and asks Node's URL parser; a new
  browser feature means a new row there.
- **Operator**: proxies must pass `Origin`, `Referer` and `Sec-Fetch-*`; many 403 with `INVALID_ORIGIN` after a move
  mean that the list was not moved.

## Sources

RFC 6454, 6.2 and 7 (Origin). WHATWG Fetch, "Origin header". RFC 6265bis, 4.1.2.7 and 8.8 (SameSite), 8.5 (cookies do
not see ports). W3C Fetch Metadata Request Headers, 2. WHATWG URL, 4.4 (parsing). RFC 9110, 9.2.1 (safe methods) and
10.1.3 (Referer). RFC 3987, 3.1. OWASP ASVS 5.0: 1.5.3, 3.5.1 to 3.5.3, 3.7.2. OWASP Cheat Sheets "Cross-Site Request
Forgery Prevention" and "Unvalidated Redirects and Forwards". A. Barth, C. Jackson, J. Mitchell, "Robust Defenses for
Cross-Site Request Forgery" (CCS 2008), for login CSRF.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mail queue](mail_queue.ipynb) · [course map](../index.ipynb) · Next: [Sessions](sessions.ipynb)
"""
