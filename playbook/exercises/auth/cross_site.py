"""The exercise of the page "Cross-site requests": checker, hints, wrong answers; and what the page's stage needs."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp

from playbook.auth.cross_site import origin_of, trusted_redirect  # noqa: F401  for WRONG
from playbook.kit.exercises import checker
from playbook.kit.live import NO_TLS, serving

# ---------------------------------------------------------------- what the page's stage needs

PANTRY, BLOG, EVIL = "http://pantry.localhost", "http://blog.pantry.localhost", "http://evil.localhost"


class Browser:
    """Sends the headers that a browser sends, follows redirects, submits forms. `tests/auth` compares it to Chromium.

    `page` is what it shows; `sent` what it has sent, oldest first, each with the answer's status. `hosts` maps names
    to the servers that stand for them.
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self.hosts = hosts
        self.cookies: dict[str, str] = {}
        self.page: str | None = None
        self.sent: list[dict[str, Any]] = []

    def send(self, method: str, url: str, mode: str = "navigate", **content: Any) -> httpx.Response:
        to, here = urlsplit(url), urlsplit(self.page or url)
        host = to.hostname or ""
        one_site = host.split(".")[-2:] == (here.hostname or "").split(".")[-2:]  # browsers ask a list of suffixes
        relation = "same-site" if one_site else "cross-site"
        if to[:2] == here[:2]:
            relation = "same-origin"
        headers = {"sec-fetch-site": relation if self.page else "none", "sec-fetch-mode": mode, "host": to.netloc}
        headers["sec-fetch-dest"] = "document" if mode == "navigate" else "empty"
        if self.page:  # another origin is not told the path
            headers["referer"] = self.page if relation == "same-origin" else f"{here.scheme}://{here.netloc}/"
        if method == "POST":
            headers["origin"] = f"{here.scheme}://{here.netloc}"
        lax = one_site or (method, mode) == ("GET", "navigate")
        if lax and host in self.cookies:
            headers["cookie"] = self.cookies[host]
        path = to._replace(scheme="", netloc="").geturl()
        options: Any = {"headers": headers, "trust_env": False, "verify": NO_TLS, "timeout": 60}
        answer = httpx.request(method, self.hosts[host] + path, **options, **content)
        self.sent.append(headers | {"request": f"{method} {to.path}", "status": answer.status_code})
        for value in answer.headers.get_list("set-cookie"):
            self.cookies[host] = value.split(";")[0]
        return answer

    def open(self, url: str, method: str = "GET", **content: Any) -> httpx.Response:
        """Go to a page. A redirect is followed, and a form on a page of Mallory's is sent by her script."""
        answer = self.send(method, url, **content)
        if "location" in answer.headers and answer.is_redirect:
            return self.open(urljoin(url, answer.headers["location"]))
        self.page = url
        form = re.search(r'<form method="post" action="(.*?)">(.*)</form>', answer.text)
        if form:
            fields = dict(re.findall(r'name="(.*?)" value="(.*?)"', form[2]))
            return self.open(form[1], "POST", data=fields)
        return answer


def form(url: str, **fields: str) -> HTMLResponse:
    """A page with a form that a script submits at once."""
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    script = "<script>document.forms[0].submit()</script>"
    return HTMLResponse(f'<form method="post" action="{url}">{inputs}</form>{script}')


others = FastAPI()  # Mallory's pages, on her site and on our blog
others.get("/cats")(lambda: form(f"{PANTRY}/give?to=mallory"))
others.get("/dogs")(lambda: form(f"{PANTRY}/sign-in?name=mallory"))
others.get("/sign-in")(lambda: HTMLResponse("It looks like ours. Your password, please?"))
LINK = f"{PANTRY}/welcome?next={EVIL}/sign-in"
STORIES = {
    "1 Ada": ("ada", f"{EVIL}/cats"),
    "2 Ada": ("ada", f"{BLOG}/cats"),
    "3 Bob": (None, f"{EVIL}/dogs"),
    "4 Carol": (None, LINK),
}


def tell(app: Callable[[], ASGIApp]) -> Iterator[list[str]]:
    """Four people and what becomes of them, each with a new service: `[who, cookie, Origin, status, outcome]`."""
    for who, (name, url) in STORIES.items():
        with serving(app()) as ours, serving(others) as theirs:
            hosts = {str(urlsplit(each).hostname): str(theirs.base_url) for each in (BLOG, EVIL)}
            browser = Browser(hosts | {"pantry.localhost": str(ours.base_url)})
            if name:
                browser.open(f"{PANTRY}/me")
                browser.send("POST", f"{PANTRY}/sign-in?name={name}", "cors")
            browser.page = None
            browser.open(url)
            to_us = [row for row in browser.sent if row["host"] == "pantry.localhost"]
            posts = [row for row in to_us if row["request"].startswith("POST")]
            sent = (posts or to_us)[-1]
            ends = urlsplit(browser.page or "").hostname
            browser.page = f"{PANTRY}/me"
            me = browser.send("GET", f"{PANTRY}/me", "cors").json()
            outcome = f"{me['name']} is signed in, {me['owner']} owns http, at {ends}"
            cookie = "yes" if "cookie" in sent else "no"
            yield [who, cookie, sent.get("origin", "none"), str(sent["status"]), outcome]


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


def python_reads(url: str) -> str | None:
    """The host that Python's `urlsplit` finds, or ours for a path."""
    parts = urlsplit(url)
    if parts.scheme:
        return parts.hostname
    return parts.netloc or "pantry.localhost"


def every_request() -> Iterator[Headers]:
    """Requests with a cookie, of pages everywhere: each combination of the headers that matter."""
    origins = ("", "null", PANTRY, f"{PANTRY}:80", BLOG, EVIL, f"{PANTRY}.evil.localhost", f"{PANTRY}:81")
    referers = ("", f"{PANTRY}/x", f"{EVIL}/{PANTRY}")
    sites = ("", "none", "same-origin", "same-site", "cross-site")
    for origin, referer, site in product(origins, referers, sites):
        sent = {"origin": origin, "referer": referer, "sec-fetch-site": site, "cookie": "session=x"}
        yield Headers({name: value for name, value in sent.items() if value})


def harmless(headers: Headers) -> bool:
    """Whether a page of PANTRY sent it, by the standards' words; what no browser sends may be refused."""
    origin = headers.get("origin", "")
    if origin == "null":
        return headers.get("sec-fetch-site") == "same-origin"
    if origin:
        return origin in (PANTRY, f"{PANTRY}:80")
    return headers.get("referer", "").startswith(f"{PANTRY}/")


def leads_away(url: str) -> bool:
    """Whether a browser would leave the site, by the rules of WHATWG URL for what has no host of ours in it."""
    read = url.strip("".join(map(chr, range(0x21)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")
    return read.startswith("//") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", read) is not None


def short_urls() -> Iterator[str]:
    """Every text of at most four of the characters that make trouble."""
    for length in range(5):
        yield from map("".join, product("/\\\t\n :@?#.h", repeat=length))


# ---------------------------------------------------------------- the exercise

HINTS = (
    "`origin_of` tells whose page it was. Then take the URL apart, and keep its path and\n"
    "query as text: split the query at &, and decode nothing.",
    "When you take the origin away, you make a new URL. What does a browser read in it, if\n"
    "the path began with two slashes? A function of this page knows.",
)

WRONG = (
    # leaves the origin on pages of the service, and the credentials in the query
    """
def way_back(referer, trusted):
    return referer if trusted_redirect(referer, trusted) else "/"
""",
    # checks the URL that came, not the one that goes out
    """
def way_back(referer, trusted):
    source = origin_of(referer)
    if source not in trusted:
        return "/"
    parts = urlsplit(referer)
    if re.match(r"/sign-in(/|$)", parts.path):
        return "/"
    kept = [pair for pair in parts.query.split("&") if pair.split("=")[0] not in ("token", "code")]
    path = (parts.path or "/") + ("?" + "&".join(kept) if any(kept) else "")
    return path if source == trusted[0] else source + path
""",
    # a circle for one path only, and a page that has another name goes to it
    """
def way_back(referer, trusted):
    source = origin_of(referer)
    parts = urlsplit(referer)
    if source not in trusted or parts.path.startswith("/sign-in"):
        return "/"
    kept = [pair for pair in parts.query.split("&") if pair.split("=")[0] not in ("token", "code")]
    path = (parts.path or "/") + ("?" + "&".join(kept) if any(kept) else "")
    target = path if source == trusted[0] else source + path
    return target if trusted_redirect(target, trusted) else "/"
""",
    # drops whatever contains the word
    """
def way_back(referer, trusted):
    source = origin_of(referer)
    parts = urlsplit(referer)
    if source not in trusted or re.match(r"/sign-in(/|$)", parts.path):
        return "/"
    kept = [pair for pair in parts.query.split("&") if "token" not in pair and "code" not in pair]
    path = (parts.path or "/") + ("?" + "&".join(kept) if any(kept) else "")
    target = path if source == trusted[0] else source + path
    return target if trusted_redirect(target, trusted) else "/"
""",
)


@checker
def check(way_back: Callable[[str, Sequence[str]], str]) -> str:
    """Where the browser was, and where it goes."""
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
        found = way_back(referer, [PANTRY, app])
        if found != expected:
            return f"not yet: from {referer or 'nowhere'} the way back is {expected}, not {found}"
    return "right"
