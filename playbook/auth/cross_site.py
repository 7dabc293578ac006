# %% [markdown]
"""
# Cross-site requests

Let only your own pages act with the browser's cookie, and send nobody to a page that
somebody else chose.

| | |
|---|---|
| **Use it when** | a cookie signs people in, or a parameter says where to go next |
| **You need** | [mail](mail.ipynb) (*code*) |
| **Time** | read 29 min, exercise 15 min |
| **Topics** | CSRF, login CSRF, Origin, Fetch Metadata, SameSite, open redirect |
| **Standard** | RFC 6454; W3C Fetch Metadata; OWASP ASVS 5.0, 3.5.1, 3.5.2, 3.7.2 |

```python
from playbook.auth.cross_site import RefuseForged, location, trusted_redirect

trusted = ["https://shop.example"]
app.add_middleware(RefuseForged, trusted=trusted)
if trusted_redirect(next, trusted):  # a path of ours, or a page of a trusted origin
    response.headers["Location"] = location(next)
```

*Lift: 70 lines in 2 files; needs starlette.*

## See it break

This is a service of Pantry. To keep it short, it asks for no password. `give` makes
somebody else the owner of the package `http`. The cookie is `HttpOnly` and
`SameSite=Lax`, as it should be.
"""

# %%
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse


def service(may_go=lambda url: True):
    app = FastAPI()
    package = {"owner": "ada"}

    @app.post("/sign-in")
    def sign_in(name: str):
        response = RedirectResponse("/me", 303)
        response.set_cookie("session", name, httponly=True, samesite="lax")
        return response

    @app.get("/me")
    def me(request: Request):
        return package | {"name": request.cookies.get("session", "nobody")}

    @app.post("/give")
    def give(request: Request, to: str):
        if request.cookies.get("session") == package["owner"]:
            package["owner"] = to

    @app.get("/welcome")
    def welcome(next: str):
        return RedirectResponse(next if may_go(next) else "/me")

    return app


# %% [markdown]
"""
Pantry is at `http://pantry.localhost`. Its blog is at `http://blog.pantry.localhost`,
and Mallory can write HTML there. Her own site is `http://evil.localhost`.

1. **Ada** is signed in, and opens Mallory's site. A script on it submits a form to
   `http://pantry.localhost/give?to=mallory`.
2. **Ada** is signed in, and opens a page of the blog with the same form.
3. **Bob** is not signed in, and opens Mallory's site. A form submits
   `/sign-in?name=mallory`.
4. **Carol** follows a link from a mail:
   `http://pantry.localhost/welcome?next=http://evil.localhost/sign-in`.

The folded cell imports `tell(service)`, which runs the four stories. Its browser is a
small program that sends a browser's headers; the course's tests compare it with
Chromium. The cell also imports `PANTRY`, `COLUMNS`, `GOES_TO`, `python_reads`,
`Headers`, `serving`, `show` and `table`. Who of the four is harmed?
"""

# %% tags=["stage"]
from starlette.datastructures import Headers

from playbook.exercises.auth.cross_site import (
    GOES_TO,
    PANTRY,
    python_reads,
    tell,
)
from playbook.kit.lesson import serving, show, table

COLUMNS = ["who", "cookie", "Origin", "status", "outcome"]

# %% tags=["predict"]
show(table(tell(service), COLUMNS))

# %% [markdown]
"""
A **site** is `pantry.localhost` with all its subdomains and ports. This is what the
browser does by itself: with `SameSite=Lax` it sends no cookie with a POST of another
site. The blog is on the **same site**. `Strict` does not change that.

Nobody needed a cookie in the third story. Bob is signed in as Mallory, and the packages
that he publishes now are Mallory's: **login CSRF**. In the fourth, the link begins with
our name and ends at a page that asks for a password: an **open redirect**.

## The decision

What tells your page's request from theirs?

| option | good | costs |
|---|---|---|
| `SameSite`, and nothing else | one word | subdomains, ports, sign-in |
| a [token](../glossary.md#token) in each form (Django, Flask-WTF) | old browsers | each page must have one |
| take JSON only | no state | no plain form; one CORS mistake |
| **`Origin`, else `Referer`** | no state; one middleware | a list to keep |

We choose **`Origin`**, with `SameSite=Lax` behind it. Browsers add `Origin` to each
POST, and no script can change it. Starlette and FastAPI bring nothing. Choose a token
if you need browsers from before 2020.

## Build it

### The idea

An **origin** is scheme, host and port. A request that changes something must come from
an origin on a list:

```text
POST, PUT, PATCH, DELETE, WebSocket
   |
   |-- no cookie, no sign of a browser ---> pass: a program, which nobody tricks
   |
   '-- Origin, else Referer, on the list? --- yes ---> pass
                                         '--- no  ---> 403
GET, HEAD ---> pass: they must change nothing
```

### Whose page it is

`origin_of` writes an origin as browsers do. It takes no URL apart with a parser: two
parsers that disagree are a hole. It accepts a pattern of few characters.
"""

# %% tags=["export"]
import re

from playbook.auth.mail import origin

HOST = r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])"
FLAGS = re.ASCII | re.IGNORECASE | re.DOTALL
ABSOLUTE = re.compile(rf"(https?://{HOST}(?::[0-9]+)?)(?:[/?#].*)?", FLAGS)


def origin_of(url: str) -> str:
    """The origin of an http(s) URL (RFC 6454, 6.2), else an empty text."""
    match = ABSOLUTE.fullmatch(url)
    try:
        return origin(match[1]) if match else ""
    except ValueError:  # a port that cannot be
        return ""


# %%
for url in ("HTTP://Pantry.localhost:80/x", "http://pantry.localhost@evil.localhost"):
    print(repr(origin_of(url)))

# %% [markdown]
"""
### Who sent it

A few old browsers send only `Referer`. `Origin: null` is what a page says that hides
where it is: a sandboxed frame of anybody, but also a form of yours under
`Referrer-Policy: no-referrer`. The header `Sec-Fetch-Site` of **Fetch Metadata** tells
these two apart. A wrong list raises an error: an empty text on it would trust every URL
that has no origin.
"""

# %% tags=["export"]
from collections.abc import Sequence

from starlette.datastructures import Headers


def is_trusted(url: str, trusted: Sequence[str]) -> bool:
    """Whether `url` is of a `trusted` origin. ValueError if one of them is none."""
    return origin_of(url) in [origin(each) for each in trusted]


def sender_fault(headers: Headers, trusted: Sequence[str]) -> str | None:
    """Why the sender is not a page of a `trusted` origin; None when it is one."""
    sent = ",".join(headers.getlist("origin"))  # two are the origin of nobody
    if sent == "null" and headers.get("sec-fetch-site") == "same-origin":
        return None
    source = sent or headers.get("referer", "")
    if source in ("", "null"):
        return "no origin"
    if not is_trusted(source, trusted):
        return "another origin"
    return None


# %%
for sent in (
    {"origin": PANTRY},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"referer": f"http://evil.localhost/{PANTRY}"},
):
    print(sent, sender_fault(Headers(sent), [PANTRY]))

# %% [markdown]
"""
### Who must say it

A client without a cookie and without any sign of a browser is a program with a password
in its hand. Everything else must come from a trusted page, a sign-in too. Predict: what
do a browser of story 3, `curl` and Node's `fetch` hear? Node sends `Sec-Fetch-Mode`.
"""

# %% tags=["export"]
FETCH = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
SIGNS = ("cookie", "origin", "referer", *FETCH)


def forgery_fault(headers: Headers, trusted: Sequence[str]) -> str | None:
    """Why a request that changes something is refused; None when it may pass."""
    if not any(headers.get(name, "").strip() for name in SIGNS):
        return None
    return sender_fault(headers, trusted)


# %% tags=["predict"]
browser = {"origin": "http://evil.localhost", "sec-fetch-mode": "navigate"}
for sent in (browser, {"user-agent": "curl/8"}, {"sec-fetch-mode": "cors"}):
    print(forgery_fault(Headers(sent), [PANTRY]))

# %% [markdown]
"""
A server in Node that signs in for a user therefore adds `Origin`.

### One guard for all routes

A middleware stands before every route, so that no new route can forget it. A WebSocket
begins with a GET, and browsers ask nobody before they open one to another site. So it
is checked as well.
"""

# %% tags=["export"]
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

SAFE = ("GET", "HEAD", "OPTIONS")  # RFC 9110, 9.2.1: they change nothing


class RefuseForged:
    """ASGI: 403 for what another site's page makes a browser send."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self.app = app
        self.trusted = [origin(each) for each in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = None
        if scope["type"] == "websocket" or scope.get("method", "GET") not in SAFE:
            fault = forgery_fault(Headers(scope=scope), self.trusted)
        if fault is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await PlainTextResponse(fault, 403)(scope, receive, send)


# %%
with serving(RefuseForged(service(), [PANTRY])) as client:
    for sent in ({}, {"origin": PANTRY}, {"origin": "http://evil.localhost"}):
        answer = client.post("/sign-in?name=mallory", headers=sent)
        print(sent, answer.status_code, answer.text)

# %% [markdown]
"""
### Where to

What counts is where the *browser* goes, and it reads URLs by rules of its own (WHATWG
URL). It drops tabs and line feeds, and reads a backslash as a slash. Python does not.
So `trusted_redirect` accepts a path of yours, or an origin on the list. It refuses
`%2f` in a path, because some proxies decode it.
"""

# %% tags=["export"]
from urllib.parse import quote

UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")  # browsers drop them, or read a slash
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def trusted_redirect(url: str, trusted: Sequence[str]) -> bool:
    """Whether a browser may be sent to `url`: a path, or a page of a trusted origin."""
    if UNSAFE.search(url):
        return False
    if url.startswith("/"):
        path = re.split(r"[?#]", url)[0]
        hidden = re.search(r"%2f|%5c", path, re.IGNORECASE)
        return not url.startswith("//") and not hidden
    return is_trusted(url, trusted)


def location(url: str) -> str:
    """`url` for a Location header: ASCII, the rest percent-encoded (RFC 3987, 3.1)."""
    return quote(url, safe=PRINTABLE)


# %% [markdown]
"""
`GOES_TO` has URLs, and the host to which a browser on a page of Pantry goes for each.
`python_reads` is the host that `urlsplit` finds. The course's tests ask Node for the
browser's column. Predict: which host does each of the two read in `/.//evil.localhost`,
in `https:evil.localhost`, and in a slash, a backslash and `evil.localhost`?
"""

# %% tags=["predict"]
rows = [
    (ascii(url)[1:-1], python_reads(url), goes, trusted_redirect(url, [PANTRY]))
    for url, goes in GOES_TO.items()
]
show(table(rows, ["url", "for Python", "for a browser", "trusted"]))

# %% [markdown]
"""
A header is ASCII. With another letter in it, the answer would be a 500. `location`
encodes it as browsers do:
"""

# %%
print(location("/menü?next=/€"))

# %% [markdown]
"""
## See it work

The four stories again, with the middleware and the check of redirects:
"""


# %%
def guarded():
    app = service(may_go=lambda url: trusted_redirect(url, [PANTRY]))
    return RefuseForged(app, [PANTRY])


told = list(tell(guarded))
show(table(told, COLUMNS))

# %% [markdown]
"""
The guard asks no database. A flood of forged requests takes no connection away from
people.

## Check it

The folded cell imports four functions. `every_request()` has all combinations of the
headers that matter, and `harmless(headers)` says whether a page of ours sent them.
`short_urls()` are all texts of up to four troublesome characters, and `leads_away(url)`
knows the rules of browsers.
"""

# %% tags=["stage"]
from playbook.exercises.auth.cross_site import (
    every_request,
    harmless,
    leads_away,
    short_urls,
)

# %%
for headers in every_request():
    passed = forgery_fault(headers, [PANTRY]) is None
    assert passed == harmless(headers), "another site acts with the cookie"
outcomes = [outcome for *_, outcome in told]
assert "nobody is signed in" in outcomes[2], "another site signs Bob in"
assert outcomes[3].endswith("at pantry.localhost"), "a link leads Carol away"
accepted = [url for url in short_urls() if trusted_redirect(url, [PANTRY])]
assert accepted and not any(leads_away(url) for url in accepted), "a path leads away"
print("no other origin acts or signs in; no accepted redirect leaves the site")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `== "same-origin"` | `!= "none"` | another site acts with the cookie |
| `SIGNS = (` | `SIGNS = () and (` | another site acts with the cookie |
| `startswith("//")` | `startswith("///")` | a path leads away |

## Your turn

A page without script has a sign-in form at its top. After the sign-in, people should be
where they were. Only the `Referer` of the form's POST says so. Write `way_back(referer,
trusted)`, the value of `Location`; `trusted[0]` is the service itself.

- A page of the service: its path and query, as they were.
- A page of another trusted origin: the whole URL.
- Everything else, no `Referer`, and a page under `/sign-in`: `/`.
- The query parameters `token` and `code` are secrets from a mail. Leave them out.

Mallory cannot write the `Referer`. But she can link to a path of ours that does not
exist, and our 404 page has the form, too.
"""


# %% tags=["exercise"]
def way_back(referer, trusted):
    """Where the browser goes after a sign-in on the page `referer`."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.cross_site import HINTS, check

check(way_back)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from urllib.parse import urlsplit


def way_back(referer, trusted):
    source = origin_of(referer)
    parts = urlsplit(referer)
    if source not in trusted or re.match(r"/sign-in(/|$)", parts.path):
        return "/"
    pairs = parts.query.split("&")
    kept = [pair for pair in pairs if pair.split("=")[0] not in ("token", "code")]
    query = "?" + "&".join(kept) if any(kept) else ""
    path = (parts.path or "/") + query
    target = path if source == trusted[0] else source + path
    # Taking the origin away made a new URL: http://ours//evil is ours, //evil is not.
    return target if trusted_redirect(target, trusted) else "/"


assert check(way_back)

# %% [markdown]
"""
## Take it with you

`playbook lift cross_site INTO` copies recipe and tests. The middleware is one line:
`app.add_middleware(RefuseForged, trusted=TRUSTED)`.

| seam | what your project does |
|---|---|
| list of origins | names itself and each front end, exactly, without wildcards |
| application | any [ASGI](../glossary.md#asynchronous-server-gateway-interface) application; the middleware stands before the routes |
| answer | a plain 403; for your format, call `forgery_fault` in a dependency |
| redirects | asks `trusted_redirect` where the URL is *used*, and sends `location` |

The same as a dependency of FastAPI:

```python
def same_site_only(request: Request) -> None:
    if request.method not in SAFE:
        fault = forgery_fault(request.headers, TRUSTED)
        if fault:
            raise HTTPException(403, fault)
```

Traps:

- **GET.** A route that changes something by GET has no protection here.
- **CORS.** `allow_origins=["*"]` with credentials opens what this closes.
- **[Proxy](../glossary.md#proxy).** It must pass `Origin`, `Referer` and `Sec-Fetch-*`
  on.
- **Trust.** Each origin on the list can act as the user. A hole there is a hole here.

Hand it over:

- **Front end**: on another origin, be on the list; a server in Node sends `Origin`.
- **Reviewer**: nothing changes by GET; no redirect without `trusted_redirect`.
- **Security**: subdomains are not trusted.
- **Operations**: many 403 after a move mean that the list was not moved.
- **Tests**: send each route a POST with the `Origin` of a subdomain.

## In short

You know what `SameSite` does not stop: subdomains, and a sign-in. You can explain why
`Origin` is proof, and when its absence is none. A redirect is safe when every parser
reads the same host.

## Sources

RFC 6454, 6.2 and 7. RFC 6265bis, 4.1.2.7 and 8.8 (SameSite). W3C, *Fetch Metadata
Request Headers*. WHATWG URL, 4.4; Fetch, "Origin header". RFC 9110, 9.2.1. OWASP ASVS
5.0, 1.5.3, 3.5.1 to 3.5.3, 3.7.2. OWASP Cheat Sheets on CSRF and on redirects. A.
Barth, C. Jackson, J. Mitchell, *Robust Defenses for Cross-Site Request Forgery* (2008).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Cookies](cookies.ipynb) · [course map](../index.ipynb) · Next: [Sessions](sessions.ipynb)
"""
