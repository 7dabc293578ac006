# %% [markdown]
"""
# API tokens

Let a machine sign in with a [token](../glossary.md#token) that does little, ends soon,
and is found when it leaks.

| | |
|---|---|
| **Use it when** | a build job, a script or another service calls your API |
| **You need** | [clock_and_identifiers](../foundations/clock_and_identifiers.ipynb) |
| **Time** | read 36 min, exercise 15 min |
| **Topics** | API key, personal access token, scope, expiry, secret scanning |
| **Standard** | RFC 6750, RFC 7617; OWASP ASVS 5.0, 13.2.1, 13.2.2 and 13.3.4 |

```python
from playbook.auth.api_tokens import add_token, find_token, revoke_leaks, sent_token

scopes, ends = ["packages:read"], now + timedelta(days=90)
token = add_token(db, "pantry", user_id, "CI", scopes, ends)  # to be shown once
sent = sent_token(request.headers.getlist("authorization"))  # None: no token was sent
granted = sent and find_token(db, sent, now, "pantry")  # falsy: 401; else Granted
owners = revoke_leaks(db, text_of_a_log, "pantry")  # whom to tell
```

*Lift: 124 lines in 3 files; needs sqlalchemy.*

## See it break

A machine cannot open a mail or a login page. So its owner makes a random text, an
**API token**, which the machine sends with each request. A first version:
"""

# %%
from fastapi import FastAPI, HTTPException, Request

users = {}  # by token
naive = FastAPI()


@naive.api_route("/packages/{name}", methods=["GET", "DELETE"])
def package(name, request: Request):
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token not in users:
        raise HTTPException(401)


# %% [markdown]
"""
Ada makes a token for a job that reads the package `idna` every night. The HTTP library
of the job logs the headers that it sends, and the log is public. With each long word of
the log as a token, Mallory tries to read and to delete `idna`, now and 365 days later.

The folded cell defines `a_year(app, make)`, which runs this over HTTP and returns rows
of day, request and status. `make_naively()` returns a token and puts it into `users`.
The cell imports `timedelta`, `lesson_url`, `show` and `table`, and makes `clock`.
Predict: which of Mallory's four requests succeed?
"""

# %% tags=["stage"]
import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta

from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.lesson import data_path, lesson_url, serving, show, table

clock = FixedClock(datetime(2026, 11, 2, tzinfo=UTC))


def make_naively():
    token = secrets.token_hex(32)
    users[token] = "ada"
    return token


def nightly_job(client, token):
    """What the job logs: it reads a package and checks the digest of a file."""
    header = f"Bearer {token}"
    answer = client.get("/packages/idna", headers={"Authorization": header})
    digest = hashlib.sha256(data_path("packages.csv").read_bytes()).hexdigest()
    lines = [f"authorization: {header}", f"{answer.status_code}", f"sha256 {digest}"]
    return "\n".join(["GET /packages/idna", *lines])


def tried(client, method, log):
    """The best status that a word of the log gets: a success, else 403, else 401."""
    statuses = []
    for word in re.findall(r"\w{40,}", log):
        headers = {"Authorization": f"Bearer {word}"}
        answer = client.request(method, "/packages/idna", headers=headers)
        statuses.append(answer.status_code)
    return min(statuses, key=lambda status: (status >= 400, -status))


def a_year(app, make):
    rows = []
    with serving(app) as client:
        log = nightly_job(client, make())
        for day in (0, 365):
            clock.advance(timedelta(days=day))
            for method in ("GET", "DELETE"):
                rows.append((day, f"{method} idna", tried(client, method, log)))
    show(table(rows, ["day", "Mallory's request", "status"]))
    return rows


# %% tags=["predict"]
broken = a_year(naive, make_naively)

# %% [markdown]
"""
The token may do all that Ada may do, and it never ends. And nobody found the leak. The
log holds the digest of a file, and the token looks just like it.

## The decision

What does a machine send?

| option | good | costs |
|---|---|---|
| the password of a user | nothing to build | may do everything; no second factor |
| DRF's `TokenAuthentication` | ready | no scope, no end; stored as it is |
| signed JWT | no look-up | a leaked one is good to its end |
| OpenID Connect of the build system | no stored secret | not every one offers it |
| **random token, hash in a table** | revoked at once | a look-up per request |

We choose the **random token**. Django, Flask and Starlette bring none. Choose OpenID
Connect, as PyPI's *trusted publishing* does, if your build system (CI) offers it.
Choose OAuth if other companies' programs act for your users.

## Build it

### The idea

The table holds the hash of a token, never the token. `id` is a name for it that may be
shown. A **scope** is a word for what the token may do, such as `packages:read`. The end
is required. `Timestamp` is UTC.
"""

# %% tags=["export"]
import base64
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import hash_token, is_token, new_token
from playbook.foundations.engines import Timestamp

Db = sa.Connection | orm.Session
api_tokens = sa.Table(
    "api_tokens",
    sa.MetaData(),
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("id", sa.String, nullable=False),
    sa.Column("user_id", sa.String, nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("scopes", sa.String, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
    sa.Column("last_used_at", Timestamp),
)

# %% [markdown]
"""
`new_token`, of the page
[clock_and_identifiers](../foundations/clock_and_identifiers.ipynb), makes a token with
a prefix and a checksum. `is_token` computes the checksum again. So a program can tell a
token from other text without a database. The last output is for lower case. The seed
keeps this output the same:
"""

# %%
from playbook.foundations.clock_and_identifiers import SeededBytes

example = new_token("pantry", SeededBytes(1))
print(example, is_token(example, "pantry"), is_token(example.lower(), "pantry"))


# %% tags=["export"]
def add_token(
    db: Db,
    prefix: str,
    user_id: Any,
    name: str,
    scopes: Iterable[str],
    ends: datetime,
    table: sa.Table = api_tokens,
    **more: Any,
) -> str:
    """A new token, whose hash is stored. ValueError: scopes (RFC 6749, 3.3)."""
    words = sorted(set(scopes))  # one str gives single letters, which are refused
    if not words or not all(re.fullmatch(r"[!#-\[\]-~]{2,}", word) for word in words):
        raise ValueError("give a list of scopes: no spaces, quotes, backslashes")
    token = new_token(prefix)
    row = {"id": secrets.token_hex(8), "token_hash": hash_token(token)} | more
    row |= {"user_id": user_id, "name": name, "scopes": " ".join(words)}
    db.execute(table.insert().values(row | {"expires_at": ends}))
    return token


# %%
engine = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)
api_tokens.metadata.create_all(engine)
start = clock.now()
reads = ["packages:read"]
with engine.begin() as db:
    token = add_token(db, "pantry", "ada", "CI", reads, start + timedelta(days=90))
    print(db.execute(sa.select(api_tokens.c["name", "scopes"])).one())

# %% [markdown]
"""
### Find it

A text without the right checksum costs no query. The owner wants to see which token is
still used. So the look-up notes the time, but at most once per hour: a write on each
request would be slow.
"""


# %% tags=["export"]
class Granted(NamedTuple):
    """What a token opens: its own id, whose it is, and for what."""

    id: Any
    user_id: Any
    scopes: frozenset[str]


def find_token(
    db: Db, token: str, now: datetime, prefix: str, table: sa.Table = api_tokens
) -> Granted | None:
    """What `token` opens, or None. Notes this use if the last is an hour old."""
    if not is_token(token, prefix):
        return None
    mine = table.c.token_hash == hash_token(token)
    columns = sa.select(*table.c["id", "user_id", "scopes", "last_used_at"])
    row = db.execute(columns.where(mine, table.c.expires_at > now)).first()
    if row is None:
        return None
    if row[3] is None or row[3] <= now - timedelta(hours=1):
        used = table.update().where(mine).values(last_used_at=now)
        if db.execute(used.returning(table.c.id)).first() is None:
            return None  # revoked meanwhile
    return Granted(row.id, row.user_id, frozenset(row.scopes.split()))


# %% [markdown]
"""
The token was made at hour 0 and lasts 90 days, or 2,160 hours. The next cell uses it
four times. It prints the hour, whether the token was found, and the noted use:
"""

# %%
for hours in (1, 1.5, 2, 2160):
    with engine.begin() as db:
        found = find_token(db, token, start + timedelta(hours=hours), "pantry")
        noted = db.scalar(sa.select(api_tokens.c.last_used_at)) - start
    print(hours, bool(found), noted)

# %% [markdown]
"""
At hour 1.5 nothing is written: the noted use is half an hour old.

### How it travels

A client sends the token as [Bearer](../glossary.md#bearer-token) (RFC 6750). Tools that
upload packages, such as `twine`, know only *Basic*: a user name and a password in
base64. PyPI takes the user `__token__` with the token as password. `sent_token` reads
both. The folded cell imports `basic(user, password)`, the header as the library `httpx`
makes it.
"""

# %% tags=["stage"]
from playbook.exercises.auth.api_tokens import basic


# %% tags=["export"]
def sent_token(authorization: Sequence[str]) -> str | None:
    """The token in the values of `Authorization`; None: none was sent."""
    if len(authorization) > 1:
        return ""  # which one counts? A proxy may think otherwise: no token
    scheme, _, sent = "".join(authorization).partition(" ")
    if scheme.lower() == "bearer":
        return sent.strip(" ")
    try:
        decoded = base64.b64decode(sent, validate=True).decode()
    except ValueError:
        return None
    user, _, password = decoded.partition(":")
    return password if (scheme.lower(), user) == ("basic", "__token__") else None


def challenge(realm: str, error: str = "", scope: str = "") -> dict[str, str]:
    """The header of a 401 or 403 (RFC 6750, 3). `error`: see there, 3.1."""
    given = {"realm": realm, "error": error, "scope": scope}
    said = [f'{name}="{value}"' for name, value in given.items() if value]
    return {"WWW-Authenticate": "Bearer " + ", ".join(said)}


# %%
for header in (f"Bearer {token}", basic("__token__", token), basic("ada", "secret")):
    print(header[:14], sent_token([header]) == token)

# %% [markdown]
"""
### How it is refused

A 401 or 403 says in `WWW-Authenticate` what was wrong, so that a program can tell the
cases apart: no token, a bad one, a scope that is missing. `challenge` makes it.
"""

# %%
print(challenge("pantry", "insufficient_scope", "packages:delete"))

# %% [markdown]
"""
### End it

A token ends when its owner revokes it. All tokens of an owner must end when the owner
is deleted or locked, and when the password is reset: somebody else may have made one.
"""


# %% tags=["export"]
def revoke_tokens(
    db: Db, which: sa.ColumnElement[bool], table: sa.Table = api_tokens
) -> list[Any]:
    """End the tokens that a condition names; whose they were."""
    gone = table.delete().where(which).returning(table.c.user_id)
    return sorted(set(db.scalars(gone)))


# %%
with engine.begin() as db:
    id = db.scalar(sa.select(api_tokens.c.id))  # the owner sees it in a list
    mine = sa.and_(api_tokens.c.user_id == "ada", api_tokens.c.id == id)
    print(revoke_tokens(db, mine), find_token(db, token, start, "pantry"))

# %% [markdown]
"""
### Find the leaked ones

The scanner looks for prefix and checksum. In a Basic header the token is base64, where
nobody sees the prefix. But the base64 of `__token__` is always the same.
"""

# %% tags=["export"]
BASIC = re.compile(r"X190b2tlbl9f[A-Za-z0-9+/]{20,400}=*")  # base64 of `__token__`


def find_leaks(text: str, prefix: str) -> Iterator[tuple[int, str]]:
    """The number of the line, from 1, and the token, for each token in `text`."""
    formed = re.compile(rf"{re.escape(prefix)}_[0-9A-Za-z]{{38}}")
    for number, line in enumerate(text.splitlines(), 1):
        decoded = (sent_token([f"Basic {each}"]) for each in BASIC.findall(line))
        for found in formed.findall(" ".join([line, *filter(None, decoded)])):
            if is_token(found, prefix):
                yield number, found


def revoke_leaks(
    db: Db, text: str, prefix: str, table: sa.Table = api_tokens
) -> list[Any]:
    """End each token in `text`. The ids of the users who have to be told."""
    hashes = {hash_token(token) for _, token in find_leaks(text, prefix)}
    return revoke_tokens(db, table.c.token_hash.in_(hashes), table)


# %% [markdown]
"""
The folded cell defines `log`, seven lines of a build job, and shows them with the long
words cut. The token of line 4 lacks its last character. Line 5 has only zeros, and line
7 a long name. Predict: in which lines does the scanner find a token?
"""

# %% tags=["stage"]
log = [
    f"authorization: Bearer {token}",
    f"authorization: {basic('__token__', token)}",
    f"pip install --index-url https://__token__:{token}@pantry.example/simple idna",
    f"PANTRY_TOKEN={token[:-1]}",
    f"PANTRY_TOKEN=pantry_{'0' * 38}  # put yours here",
    f"sha256 {hashlib.sha256(b'idna').hexdigest()}",
    f"see https://pantry.example/packages/pantry_{'tools' * 8}",
]


def log_table():
    rows = enumerate((re.sub(r"(?<=\w{7})\w{20,}", "...", line) for line in log), 1)
    return table(rows, ["line", "text"])


show(log_table())

# %% tags=["predict"]
print("lines:", [number for number, _ in find_leaks("\n".join(log), "pantry")])

# %% [markdown]
"""
How often is the scanner wrong? The folded cell imports `false_alarms`. It lets three
scanners read the files of `data/`, and 20,000 made lines with a prefix and 38 random
characters. No real token is in them.
"""

# %% tags=["stage"]
from playbook.exercises.auth.api_tokens import false_alarms

# %%
alarms = false_alarms(find_leaks)
show(table(alarms, ["scanner", "in data/", "in made lines"]))

# %% [markdown]
"""
## See it work

The same year again. A route asks for the scope, and then for what the owner may do: a
token never gets more than its user. The folded cell defines `user_may(user_id, action)`
and `run(function, ...)`, which calls `function(db, ...)` in a transaction. Its `make()`
gives a new token of Ada that may read, for 90 days.
"""

# %% tags=["stage"]
from playbook.foundations.transactions import transaction


def run(function, *args):
    return transaction(engine, lambda db: function(db, *args))


def user_may(user_id, action):
    return user_id == "ada"


def make():
    ends = clock.now() + timedelta(days=90)
    return run(add_token, "pantry", "ada", "CI", reads, ends)


# %%
service = FastAPI()


@service.api_route("/packages/{name}", methods=["GET", "DELETE"])
def package_of(name, request: Request):
    sent = sent_token(request.headers.getlist("authorization"))
    granted = sent and run(find_token, sent, clock.now(), "pantry")
    if not granted:
        error = "invalid_token" if sent else ""
        raise HTTPException(401, None, challenge("pantry", error))
    needed = {"GET": "packages:read", "DELETE": "packages:delete"}[request.method]
    if needed not in granted.scopes:
        raise HTTPException(
            403, None, challenge("pantry", "insufficient_scope", needed)
        )
    if not user_may(granted.user_id, needed):
        raise HTTPException(403)


# %% [markdown]
"""
Predict: which of Mallory's four requests succeed now?
"""

# %% tags=["predict"]
mended = a_year(service, make)

# %% [markdown]
"""
The scanner ends what Mallory can still do, and says whom to tell:
"""

# %%
leaked = make()
owners = run(revoke_leaks, f"authorization: Bearer {leaked}", "pantry")
print(owners, run(find_token, leaked, clock.now(), "pantry"))

# %% [markdown]
"""
## Check it
"""

# %%
assert mended[1][2] == 403, "a token may do what its scopes do not say"
assert [row[2] for row in mended[2:]] == [401, 401], "a token outlives its end"
assert alarms[-1][1:] == (0, 0), "the scanner reports other text"
found = [number for number, _ in find_leaks("\n".join(log), "pantry")]
assert found == [1, 2, 3], "the scanner overlooks a token"
print("little, not for ever, and found when it leaks")

# %% [markdown]
"""
**Break it.** Make one of these changes in *Build it*, run the page again, and see the
assertion fail:

| change | to | the assertion says |
|---|---|---|
| `mine, table.c.expires_at > now` | `mine` | a token outlives its end |
| `filter(None, decoded)` | `()` | the scanner overlooks a token |
| `if is_token(found, prefix):` | `if found:` | the scanner reports other text |

## Your turn

A token has to be replaced before its end, and the job must not stop meanwhile. Write
`rotate`: it makes a new token with the name, the user and the scopes of the old one,
for `lifetime`. The old one goes on for `overlap`, so that the job can be changed, but
never longer than it would have. For a token that opens nothing, `rotate` returns None
and makes none. Only an owner who is signed in may call it: a leaked token must not
renew itself.
"""


# %% tags=["exercise"]
def rotate(db, token, now, lifetime, overlap):
    """A new token in place of `token`, which ends `overlap` from now; or None."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.api_tokens import HINTS, check

check(rotate)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def rotate(db, token, now, lifetime, overlap):
    if (granted := find_token(db, token, now, "pantry")) is None:
        return None
    mine = api_tokens.c.token_hash == hash_token(token)
    columns = api_tokens.c["name", "expires_at"]
    name, end = db.execute(sa.select(columns).where(mine)).one()
    ends = api_tokens.update().where(mine).values(expires_at=min(end, now + overlap))
    db.execute(ends.returning(api_tokens.c.id))
    user, scopes = granted.user_id, granted.scopes
    return add_token(db, "pantry", user, name, scopes, now + lifetime)


assert check(rotate)

# %% [markdown]
"""
## Take it with you

`playbook lift api_tokens INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| transaction | passes a `Connection` or ORM `Session`; commits, retries |
| table | `api_tokens.metadata.create_all`; Alembic: in `target_metadata` |
| your table | `table=` with these columns; others go into `more` |
| user id | passes `str(user.id)`; revokes all of a user who is deleted or locked |
| permission | asks for the scope *and* for what the user may do |
| fresh sign-in | makes, renews tokens in a session that just began, never by a token |
| cleanup | once a day: `revoke_tokens(db, api_tokens.c.expires_at <= now)` |

With a request session and users with integer ids:

```python
def token_user(request: Request, db: Annotated[Session, Depends(get_db)]):
    sent = sent_token(request.headers.getlist("authorization"))
    if sent is None:
        raise HTTPException(401, headers=challenge("shop"))
    granted = find_token(db, sent, datetime.now(UTC), "shop")
    db.commit()  # the noted use stays, even if the route fails later
    user = granted and db.get(User, int(granted.user_id))
    if granted is None or user is None or not user.active:
        raise HTTPException(401, headers=challenge("shop", "invalid_token"))
    return user, granted.scopes
```

**A browser sends Basic by itself** once it has the token, from a URL for instance. So a
write with Basic needs the [cross-site check](cross_site.ipynb). Bearer does not: no
browser adds it. Never answer `WWW-Authenticate: Basic`, or browsers ask for a password.

**No [throttle](../glossary.md#throttle)** is needed for wrong tokens. Nobody guesses
190 random bits, and the checksum refuses most guesses without a query.

Hand it over:

- **Security**: give the pattern `shop_[0-9A-Za-z]{38}` to your secret scanner. Run
  `find_leaks` over logs and repositories.
- **Reviewer**: each route that takes a token asks for a scope. One answer shows the
  token, with `Cache-Control: no-store`. No log and no
  [idempotency](../api/idempotency.ipynb) table keeps it.
- **Operations**: tokens unused for a month can go; see `last_used_at`.
- **Tests**: keep the property "a token without the scope gets 403 on every route".

## In short

You can explain why a prefix and a checksum make a leak visible, and why a copy of the
table opens nothing. You know what a token may do: the part of its user's rights that
its scopes name, until its end.

## Sources

RFC 6750 (Bearer), 2.1 and 3. RFC 7617 (Basic). RFC 6749, 3.3 (scope). OWASP ASVS 5.0,
13.2.1, 13.2.2, 13.3.4. GitHub, *Behind GitHub's new authentication token formats*
(2021). PyPI, *API tokens* and *Secret reporting*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Authorization](authorization.ipynb) · [course map](../index.ipynb) · Next: [Second factor](second_factor.ipynb)
"""
