# %% [markdown]
"""
# Cookies

Say what a cookie may be trusted with, and send it so that nobody else can make, read or
plant it.

| | |
|---|---|
| **Use it when** | a browser keeps something for you: who it is, a voucher, a token |
| **You need** | [start here](../foundations/start_here.ipynb) (*background*) |
| **Time** | read 31 min, exercise 15 min |
| **Topics** | Set-Cookie, signature, HMAC, HttpOnly, SameSite, `__Host-`, Max-Age |
| **Standard** | OWASP ASVS 5.0, 3.3; RFC 6265bis |

```python
from playbook.auth.cookies import AnswerCookies, SignedCookie, keep_cookies

cookie = SignedCookie("__Host-user", [key])  # 32 random bytes
keep_cookies(request, [cookie.put("ada", now, timedelta(days=7))])
name = cookie.read(request.headers.getlist("cookie"), now)  # None: trust nothing
app = AnswerCookies(app)  # sets what was kept, on errors too
```

*Lift: 75 lines in 1 file; needs starlette.*

## See it break

A server sends a **cookie** in a line `Set-Cookie: name=value`. The browser keeps it,
and sends `Cookie: name=value` with each later request. This shop keeps there who
somebody is. `write(name)` makes the line, and `read(request)` gets the name back.
"""

# %%
from fastapi import FastAPI, Request, Response


def shop(write, read):
    app = FastAPI()

    @app.post("/sign-in/{name}")
    def sign_in(name: str, response: Response):
        response.headers.append("set-cookie", write(name))

    @app.get("/me")
    def me(request: Request):
        return {"name": read(request)}

    return app


# %% [markdown]
"""
Ada and Mallory sign in at `shop.example`. Mallory does three things:

- **Edited.** She changes the name in her own cookie.
- **Read.** A script of hers runs in a page of the shop, in Ada's browser. It reads
  `document.cookie` and sends it to her.
- **Planted.** She controls `blog.shop.example`. It sets her cookie for all of
  `shop.example`, in the browser of Bob, who has not signed in. What Bob buys there
  arrives in her account.

The folded cell defines `attack(app)`, which tries the three over HTTP. Its browsers
keep the rules of the standard, RFC 6265bis. It returns which name `/me` says after each
attack: twice to Mallory, then to Bob. The cell imports `serving`, `show` and `table`.
Predict: which three names?
"""

# %% tags=["stage"]
from playbook.exercises.auth.cookies import Browser
from playbook.kit.lesson import serving, show, table


def attack(app):
    """For whom the shop takes Mallory, Mallory and Bob after each attack."""

    def who(header):
        lines = {"cookie": header} if header else {}
        return client.get("/me", headers=lines).json()["name"] or "nobody"

    def signed_in(name):
        browser = Browser()
        line = client.post(f"/sign-in/{name}").headers["set-cookie"]
        client.cookies.clear()
        browser.store(line, "shop.example")
        return browser, line

    with serving(app) as client:
        mallory, line = signed_in("mallory")
        ada, _ = signed_in("ada")
        edited = mallory.header("shop.example").replace("mallory", "ada")
        bob = Browser()
        bob.store(f"{line}; Domain=shop.example", "blog.shop.example")
        return {
            "edited": who(edited),
            "read by a script": who(ada.script("shop.example")),
            "planted": who(bob.header("shop.example")),
        }


# %% tags=["predict"]
plain = shop(lambda name: f"user={name}", lambda request: request.cookies.get("user"))
broken = attack(plain)
show(table(broken.items(), ["cookie", "taken for"]))

# %% [markdown]
"""
A cookie is a note that the browser carries. Others can edit it, read it, or put another
one beside it.

## The decision

| option | good | costs |
|---|---|---|
| plain cookie | simple | anybody edits it: a language, a theme |
| **signed cookie** | nobody else can make one | everybody can read and copy it |
| encrypted cookie | nobody can read it | a copy of it still works |
| [token](../glossary.md#token), row in a table | can be ended | a look-up: [sessions](sessions.ipynb) |
| Flask's and Starlette's session | ready | signed JSON; no `__Host-` name |

We choose a **signed cookie** with all attributes that browsers offer. Choose a token
and a table when somebody must be able to end it: a signature cannot be taken back.
Django's `signing` and `set_signed_cookie` sign in the same way.

## Build it

### The idea

The server signs with a key that only it knows. The **signature** is an
[HMAC](../glossary.md#message-authentication-code): a hash of key and text. Whoever
changes the text needs another signature, and cannot make it.
"""

# %%
import hmac

key = b"for this page only, 32 bytes long"
for text in ("user=ada", "user=adb"):
    print(text, hmac.digest(key, text.encode(), "sha256").hex()[:16])

# %% [markdown]
"""
### Sign for one name, check with each key

The name of the cookie is signed too. Otherwise a value that the server signed for
`theme` would be good for `user`. To change the key, put the new one first and keep the
old one behind it until its cookies have expired.
"""

# %% tags=["export"]
import base64
import hmac
from collections.abc import Iterable, Sequence


def sign(key: bytes, text: str) -> bytes:
    """HMAC-SHA-256 of `text`, 32 bytes. Raises ValueError for a short key."""
    if len(key) < 32:
        raise ValueError("a key has 32 random bytes or more")
    return hmac.digest(key, text.encode(), "sha256")


def signed(key: bytes, name: str, text: str) -> str:
    """`text.signature`, for a cookie called `name`."""
    signature = base64.urlsafe_b64encode(sign(key, f"{name}={text}"))
    return f"{text}.{signature.decode()}"


def genuine(keys: Sequence[bytes], name: str, value: str) -> str | None:
    """The text of a signed value, or None if none of `keys` signed it for `name`."""
    text = value.rpartition(".")[0]
    for key in keys:
        expected = signed(key, name, text)
        if hmac.compare_digest(expected.encode(), value.encode()):
            return text
    return None


# %%
new_key = b"the new key, which has 32 bytes too"
theme = signed(key, "theme", "ada")
print(theme)
print(genuine([new_key, key], "theme", theme), genuine([key], "user", theme))

# %% [markdown]
"""
`compare_digest` is a **constant-time comparison**: the same time wherever the texts
differ. `==` stops at the first difference; its time tells how much of a guess was
right.

### The lines

Each attribute tells the browser something:

| attribute | the browser |
|---|---|
| `HttpOnly` | shows the cookie to no script |
| `Secure` | sends it, and takes it, over https only |
| `SameSite=Lax` | does not send it with another site's POST or image |
| `Path=/`, no `Domain` | sends it to this host only, for all paths |
| `Max-Age=60` | deletes it after 60 seconds; without it, when it is closed |
| a name with `__Host-` | refuses it without `Secure` and `Path=/`, or with `Domain` |

So a subdomain cannot plant a `__Host-` name. A browser ignores a cookie of more than
4096 bytes without a word. A request may have several `Cookie` lines, and several
cookies of one name. Frameworks differ: Starlette takes the last, others the first.
`cookie_values` returns all of them. It strips what browsers strip, spaces and tabs.
`str.strip()` takes off the byte A0 too. A subdomain may plant a name with that byte
before `__Host-user`: for a browser it is no `__Host-` name.
"""

# %% tags=["export"]
LARGEST = 4096  # bytes of name and value (RFC 6265bis)


def cookie_line(
    name: str, value: str, max_age: int | None = None, secure: bool = True
) -> str:
    """A `Set-Cookie` value, `max_age` in seconds. ValueError if browsers drop it."""
    if len(f"{name}{value}".encode()) > LARGEST:
        raise ValueError(f"browsers drop cookies of more than {LARGEST} bytes")
    if name.startswith("__Host-") and not secure:
        raise ValueError("browsers drop a __Host- cookie that is not Secure")
    age = "" if max_age is None else f"; Max-Age={max_age}"
    https = "; Secure" if secure else ""
    return f"{name}={value}{age}; Path=/; HttpOnly{https}; SameSite=Lax"


def cookie_values(lines: Iterable[str], name: str) -> list[str]:
    """The values of cookies called `name`, in the order in which they were sent."""
    pairs = "; ".join(lines).split(";")
    parts = [pair.strip(" \t").partition("=") for pair in pairs]
    return [value for key, _, value in parts if key == name]


# %%
from datetime import UTC, datetime, timedelta

monday = datetime(2026, 11, 2, tzinfo=UTC)
week = timedelta(days=7)
print(cookie_line("__Host-user", "ada", max_age=60))
print(cookie_values(["theme=dark; user=ada", "user=mallory"], "user"))

# %% [markdown]
"""
### The cookie

`Max-Age` is a request to the browser. Mallory's program does not obey it, so the end is
part of the signed text. `quote` writes spaces, semicolons and other letters so that
they fit into the line.
"""

# %% tags=["export"]
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote, unquote


@dataclass(frozen=True)
class SignedCookie:
    """A cookie that only this service makes. `keys`: the first signs, all check."""

    name: str  # with `__Host-`, but where `secure` is False: on http, in development
    keys: Sequence[bytes]
    secure: bool = True

    def put(self, value: str, now: datetime, age: timedelta) -> str:
        """The `Set-Cookie` value that keeps `value` for `age`."""
        text = f"{quote(value, safe='')}.{int((now + age).timestamp())}"
        kept = signed(self.keys[0], self.name, text)
        return cookie_line(self.name, kept, age // timedelta(seconds=1), self.secure)

    def read(self, lines: Iterable[str], now: datetime) -> str | None:
        """The value that `put` was given; None if it is not ours, or too old."""
        values = cookie_values(lines, self.name)
        text = genuine(self.keys, self.name, values[0]) if len(values) == 1 else None
        if text is None:
            return None
        value, _, end = text.rpartition(".")
        return unquote(value) if now.timestamp() < int(end) else None


# %% [markdown]
"""
Ada's cookie was signed with the old key, and is good for seven days. She sends it after
six days, after eight, and twice in one request. Predict: what does `read` return?
"""

# %% tags=["predict"]
cookie = SignedCookie("__Host-user", [new_key, key])
line = SignedCookie("__Host-user", [key]).put("ada", monday, week).split(";")[0]
tries = {
    "after six days": cookie.read([line], monday + timedelta(days=6)),
    "after eight days": cookie.read([line], monday + timedelta(days=8)),
    "two cookies": cookie.read([line, line], monday),
}
print(tries)

# %% [markdown]
"""
If two cookies come, one is not ours, and `read` trusts neither. A planted cookie can
sign Ada out, but cannot make her somebody else.

### An answer that is an error

A cookie is often set before the route has run: by a dependency that finds out who it
is. FastAPI puts it on what the route returns. If the route raises, an error handler
makes another response. So the cookie must be added outside of the application.
"""

# %% tags=["export"]
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def keep_cookies(request: Request, lines: Iterable[str]) -> None:
    """Set these cookies on the answer to `request`, whatever it will be."""
    named = {line.partition("=")[0]: line for line in lines}
    request.scope["answer_cookies"].update(named)


class AnswerCookies:
    """ASGI, outermost: adds what `keep_cookies` kept. A cookie of the route wins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept: dict[str, str] = {}
        scope["answer_cookies"] = kept  # in the scope itself, for layers outside

        async def send_with_cookies(message: Message) -> None:
            if message["type"] == "http.response.start" and kept:
                headers = MutableHeaders(scope=message)
                own = {c.partition("=")[0]: c for c in headers.getlist("set-cookie")}
                del headers["set-cookie"]
                for line in (kept | own).values():
                    headers.append("set-cookie", line)
                if any("Max-Age=0" not in line for line in kept.values()):
                    headers["cache-control"] = "no-store"  # RFC 9111, 7.3
            await send(message)

        await self.app(scope, receive, send_with_cookies)


# %% [markdown]
"""
The folded cell defines `errors`. This application sets the cookie `plain` in a
dependency, and keeps the cookie `kept`; its routes are `/fine`, `/missing` (raises 404)
and `/bug` (raises RuntimeError). `names_of(response)` returns the cookies of an answer.
Predict: which answers set which cookie?
"""

# %% tags=["stage"]
from fastapi import Depends, HTTPException


def two_cookies(request: Request, response: Response):
    response.headers.append("set-cookie", cookie_line("plain", "1"))
    keep_cookies(request, [cookie_line("kept", "1")])


errors = FastAPI(dependencies=[Depends(two_cookies)])


@errors.get("/fine")
def fine():
    return {}


@errors.get("/missing")
def missing():
    raise HTTPException(404)


@errors.get("/bug")
def bug():
    raise RuntimeError


def names_of(response):
    lines = response.headers.get_list("set-cookie")
    return [line.partition("=")[0] for line in lines]


# %% tags=["predict"]
with serving(AnswerCookies(errors)) as client:
    answers = [client.get(path) for path in ("/fine", "/missing", "/bug")]
rows = [(one.status_code, *names_of(one)) for one in answers]
print(rows)

# %% [markdown]
"""
`AnswerCookies(app)` stands around the whole application. Added with `add_middleware` it
would miss the 500, which Starlette makes outside of all middleware. It also writes
`no-store`: a cache on the way must not hand Ada's cookie to Bob.

## See it work

Four shops: the plain cookie, a signature added, then `HttpOnly`, then `__Host-`.
Predict: which attacks does the signature alone stop?
"""


# %% tags=["predict"]
def signed_shop(cookie, leave_out=""):
    def write(name):
        return cookie.put(name, monday, week).replace(leave_out, "")

    def read(request):
        return cookie.read(request.headers.getlist("cookie"), monday)

    return shop(write, read)


on_http = SignedCookie("user", [key], secure=False)
shops = {
    "plain": broken,
    "signed": attack(signed_shop(on_http, leave_out="; HttpOnly")),
    "HttpOnly": attack(signed_shop(on_http)),
    "__Host-": attack(signed_shop(cookie)),
}
rows = [(what, *[names[what] for names in shops.values()]) for what in broken]
show(table(rows, ["attack", *shops]))

# %% [markdown]
"""
A signature says who made a value, and not who sends it. So each defence stops one
attack, and only together do they stop all.

## Check it
"""

# %%
best = shops["__Host-"]
assert best["edited"] == "nobody", "an edited cookie is trusted"
assert best["read by a script"] == "nobody", "a script reads the cookie"
assert best["planted"] == "nobody", "a subdomain plants a cookie"
assert tries["after eight days"] is None, "a cookie outlives its end"
assert tries["two cookies"] is None, "one of two cookies is trusted"
assert all("kept" in names_of(one) for one in answers), "an error loses the cookie"
print("edited, read, planted, old, twice: none is trusted; none is lost")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `; Path=/; HttpOnly` | `; Path=/` | a script reads the cookie |
| `if now.timestamp() < int(end) else` | `if end else` | a cookie outlives its end |
| `if len(values) == 1 else` | `if values else` | one of two cookies is trusted |

## Your turn

The shop gives a customer a voucher of 5, 10 or 15 percent for 30 days, in a signed
cookie. Write both functions. A voucher is for one customer: in the browser of another
one it is worth 0. The name of a customer is any text, which people choose themselves.
"""


# %% tags=["exercise"]
def give_voucher(cookie, customer, percent, now):
    """The `Set-Cookie` value of a voucher."""
    raise NotImplementedError


def read_voucher(cookie, lines, customer, now):
    """The percent of the voucher in these `Cookie` lines for `customer`, or 0."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.cookies import HINTS, check

check(give_voucher, read_voucher)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
import json


def give_voucher(cookie, customer, percent, now):
    # A list in JSON keeps its parts apart, whatever characters a name has.
    voucher = json.dumps([customer, percent])
    return cookie.put(voucher, now, timedelta(days=30))


def read_voucher(cookie, lines, customer, now):
    voucher = cookie.read(lines, now)
    if voucher is None:
        return 0
    owner, percent = json.loads(voucher)
    return percent if owner == customer else 0


assert check(give_voucher, read_voucher)

# %% [markdown]
"""
## Take it with you

`playbook lift cookies INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| key | `secrets.token_bytes(32)`, from settings, the same in every process |
| name | begins with `__Host-` over https; without it and `secure=False` on http |
| clock | passes `now` with a time zone |
| cookies of a request | `request.headers.getlist("cookie")`, not `request.cookies` |
| answer | `AnswerCookies` around the application, last; else `KeyError` |

A theme that nobody edits, in a service with routes of its own:

```python
theme = SignedCookie("__Host-theme", [key])


@app.post("/theme/{name}")
def choose_theme(name: str, request: Request):
    keep_cookies(request, [theme.put(name, datetime.now(UTC), timedelta(days=365))])


@app.get("/page")
def page(request: Request):
    chosen = theme.read(request.headers.getlist("cookie"), datetime.now(UTC))
    return {"theme": chosen or "light"}
```

To delete a cookie, send `cookie_line(name, "", 0)` with the same `secure`. For a format
that another program reads, call `sign` and write the value yourself.

Traps:

- **A copy.** A signature does not stop a copy. Put who it is for into the value.
- **A secret.** The value can be read: put no password and no address into it.
- **`request.cookies`** takes off A0, and the last of two cookies wins.
- **`response.headers["set-cookie"] = ...`** replaces the other cookies.
- **A subdomain.** `__Host-` is one host's. If two hosts need the cookie, a table and a
  token serve better than `Domain`.
- **`SameSite=Lax`** is no cross-site check: see [cross_site](cross_site.ipynb).

Hand it over:

- **Front end**: no script reads these cookies; ask the server who is signed in.
- **Reviewer**: accept no `Set-Cookie` that `cookie_line` has not made.
- **Security**: after a leak of the key, new cookies only: leave the old key out.
- **Operations**: to change the key, put the new one first, in every process.
- **Tests**: keep the table of attacks.

## In short

You can say which attack a signature, `HttpOnly` and a `__Host-` name each stop, and
that no one of them stops the others. You know why the end belongs into the signed text,
and why two cookies are none.

## Sources

OWASP ASVS 5.0, 3.3.1 to 3.3.5. RFC 6265bis (draft-ietf-httpbis-rfc6265bis), 4.1.2,
4.1.3, 5.7 and 8.6. RFC 2104 (HMAC). RFC 9111, 7.3. Starlette, `SessionMiddleware`;
Flask, `SecureCookieSessionInterface`; Django, `django.core.signing`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Mailed links](mailed_links.ipynb) · [course map](../index.ipynb) · Next: [Cross-site requests](cross_site.ipynb)
"""
