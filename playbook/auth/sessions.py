# %% [markdown]
"""
# Sessions

Remember who signed in. Once a session has ended, refuse its next request, in every
process.

| | |
|---|---|
| **Use it when** | people sign in with a browser, and "sign out" must work at once |
| **You need** | [cookies](cookies.ipynb), [engines](../foundations/engines.ipynb) |
| **Time** | read 34 min, exercise 20 min |
| **Topics** | session, token, session fixation, idle timeout, sign out, revoke |
| **Standard** | OWASP ASVS 5.0, 7.2 to 7.4; NIST SP 800-63B-4, 5 |

```python
from playbook.auth.sessions import Lifetimes, end_sessions, find_session, start_session

token = start_session(db, user_id, now, Lifetimes(), old=token_of_the_browser)
session = find_session(db, token, now, Lifetimes())  # None: not signed in
end_sessions(db, user_id, keep=token)  # after a change of password
```

*Lift: 99 lines in 3 files; needs sqlalchemy.*

## See it break

During a **session** a service remembers who signed in. It makes a random
[token](../glossary.md#token), and the browser keeps it in a cookie. In this first
service a dictionary stands for the table:
"""

# %%
import secrets

from fastapi import FastAPI, Request, Response

names = {}  # by token
naive = FastAPI()


@naive.post("/sign-in/{name}")
def sign_in_naively(name: str, request: Request, response: Response):
    token = request.cookies.get("session") or secrets.token_urlsafe(32)
    names[token] = name
    response.set_cookie("session", token)


@naive.get("/me")
def read_me(request: Request):
    return {"name": names.get(request.cookies.get("session"))}


# %% [markdown]
"""
Mallory wants to be Ada. She tries three attacks:

- **A planted cookie.** Mallory signs in and puts her cookie into Ada's browser. A
  subdomain that she controls can do that. Then Ada signs in.
- **A copy of the table.** Mallory reads a backup of the database.
- **A script in the page.** One line of Mallory's JavaScript runs in Ada's browser and
  reads `document.cookie`.

The folded cell defines `attack`, which runs them over HTTP against any service.
`try_attacks(app, read_table)` shows whom the service takes Mallory for. The cell
imports `lesson_url`, `show` and `table`; `monday` is the first day of the lesson.
Predict: which attacks make Mallory Ada?
"""

# %% tags=["stage"]
import ssl
from datetime import UTC, datetime

import httpx

from playbook.kit.lesson import lesson_url, serving, show, table

monday = datetime(2026, 11, 2, tzinfo=UTC)
TLS = ssl.create_default_context()  # reads all certificates, so only once


def browser(url, cookie=None):
    headers = {} if cookie is None else {"cookie": cookie}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=TLS)


def sign_in(client, name):
    client.post(f"/sign-in/{name}").raise_for_status()


def who(client):
    answer = client.get("/me")
    return answer.json().get("name") or "nobody"


def attack(url, read_table, sign_in=sign_in, who=who, cookie="session"):
    """Whom the service at `url` takes Mallory for, after each of three attacks.

    `read_table()` returns all values in the table of sessions. `sign_in(client, name)`
    and `who(client)` use the service; without a session `who` returns "nobody".
    """

    def with_one_of(values):
        for value in values:
            with browser(url, f"{cookie}={value}") as mallory:
                if who(mallory) != "nobody":
                    return who(mallory)
        return "nobody"

    became = {}
    with browser(url) as mallory, browser(url) as ada:
        sign_in(mallory, "mallory")
        ada.cookies.update(mallory.cookies)
        sign_in(ada, "ada")
        became["a planted cookie"] = who(mallory)
        became["a copy of the table"] = with_one_of(read_table())
        cookies = [one for one in ada.cookies.jar if one.name == cookie]
        seen = [one for one in cookies if not one.has_nonstandard_attr("HttpOnly")]
        became["a script in the page"] = with_one_of(one.value for one in seen)
    return became


def try_attacks(app, read_table):
    with serving(app) as client:
        became = attack(str(client.base_url), read_table)
    show(table(became.items(), ["Mallory has", "and is"]))
    return became


# %% tags=["predict"]
broken = try_attacks(naive, read_table=lambda: list(names))

# %% [markdown]
"""
The first attack is called **session fixation**: Mallory knew the token before Ada
signed in, and the sign-in kept it. For the second, the table held the tokens
themselves. For the third, the cookie was not marked `HttpOnly`.

## The decision

Where does a service store who is signed in?

| option | good | costs |
|---|---|---|
| signed cookie or JWT (Flask, Starlette) | no look-up | a copy is good to its end |
| memory of the process | fastest | two processes disagree |
| store of its own (Redis) | fast, expires by itself | one more server |
| Django's table `django_session` | ready | stores the token; no absolute end |
| **database, hash of a token** | one DELETE ends it | a look-up per request |

We choose the **database**. Choose a signed token for minutes, between services that
share no database. Choose Redis if your database cannot bear the look-ups.

## Build it

### The idea

The cookie holds a random token. The table holds only its SHA-256 hash. The token of a
request leads to the row, but the row does not lead back to the token.

The table has no foreign key, so it fits beside any table of users. Its key is the hash:
a database may use an integer id again, and an UPDATE by id could then reach another
session. A look-up returns values (`SignedIn`), no row that a commit would expire.
"""

# %% tags=["export"]
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import Timestamp

Db = sa.Connection | orm.Session
sessions = sa.Table(
    "sessions",
    sa.MetaData(),
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False, index=True),
    sa.Column("created_at", Timestamp, nullable=False),
    sa.Column("expires_at", Timestamp, nullable=False),
)


class SignedIn(NamedTuple):
    """A session that is alive. `moved`: its end has just moved to `expires_at`."""

    user_id: Any
    created_at: datetime
    expires_at: datetime
    moved: bool = False


# %%
from playbook.foundations.clock_and_identifiers import hash_token

engine = sa.create_engine(lesson_url(), poolclass=sa.QueuePool)
sessions.metadata.create_all(engine)
rows = {hash_token("a random token"): "ada"}
for sent in ("a random token", *rows):
    print(sent[:14], "opens the session of", rows.get(hash_token(sent)))

# %% [markdown]
"""
A password needs a slow hash, because people choose what others can guess. Nobody
guesses 256 random bits, so one fast hash is enough.

### How long it lasts

A session has two ends. The **idle end** moves on with use, and the **absolute end**
counts from the sign-in. Each move is a write, so it happens at most once per
`refresh_after`.
"""

# %% tags=["export"]
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Lifetimes:
    """How long a session lasts: since its last use, and since the sign-in."""

    idle: timedelta = timedelta(days=7)
    absolute: timedelta = timedelta(days=30)
    refresh_after: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.refresh_after < self.idle <= self.absolute:
            raise ValueError("lifetimes must be refresh_after < idle <= absolute")

    def moved_end(
        self, created_at: datetime, expires_at: datetime, now: datetime
    ) -> datetime | None:
        """Where a use at `now` moves the end of a session. None: it stays."""
        due = expires_at - self.idle + self.refresh_after
        end = min(now + self.idle, created_at + self.absolute)
        return end if now >= due and end > expires_at else None


# %% [markdown]
"""
A session begins on day 0 and is used on the days below. Predict: where does each use
move its end?
"""

# %% tags=["predict"]
lifetimes = Lifetimes()
end = monday + lifetimes.idle
for day in (0.5, 6, 12.5, 19, 25, 26):
    end = lifetimes.moved_end(monday, end, monday + timedelta(days=day)) or end
    print("used on day", day, "- ends on day", (end - monday) / timedelta(days=1))

# %% [markdown]
"""
From day 23 on, the absolute end is nearer than a week.

### Start and end

Every sign-in makes a new token, which stops session fixation, and ends the session that
the browser had. `old` has no default value, so no caller can forget it. `table` may be
a table of yours with these columns; `more` are its others.
"""

# %% tags=["export"]
import secrets
from collections.abc import Callable

from playbook.foundations.clock_and_identifiers import hash_token


def end_session(db: Db, token: str, table: sa.Table = sessions) -> None:
    """End one session, as sign-out does. An unknown token is no error."""
    db.execute(table.delete().where(table.c.token_hash == hash_token(token)))


def start_session(
    db: Db,
    user_id: Any,
    now: datetime,
    lifetimes: Lifetimes,
    old: str | None,
    make_token: Callable[[], str] = secrets.token_urlsafe,
    table: sa.Table = sessions,
    **more: Any,
) -> str:
    """The token of a new session. The session of `old`, the browser's token, ends."""
    if old is not None:
        end_session(db, old, table)
    token = make_token()
    more |= {"token_hash": hash_token(token), "user_id": user_id, "created_at": now}
    db.execute(table.insert().values(expires_at=now + lifetimes.idle, **more))
    return token


# %%
with engine.begin() as db:
    first = start_session(db, "ada", monday, lifetimes, old=None)
    token = start_session(db, "ada", monday, lifetimes, old=first)
    print("sessions:", db.scalars(sa.select(sessions.c.user_id)).all())

# %% [markdown]
"""
### Find

When it is time, the look-up also moves the end: it writes, on a GET too. The UPDATE
names the hash and reports whether it found the row. So a session that another
transaction has ended in between stays ended.
"""


# %% tags=["export"]
def prolong_session(
    db: Db, token: str, end: datetime, table: sa.Table = sessions, **more: Any
) -> bool:
    """Move the end of a session. False: it has ended meanwhile."""
    move = table.update().where(table.c.token_hash == hash_token(token))
    moved = move.values(expires_at=end, **more).returning(table.c.user_id)
    return db.execute(moved).first() is not None


def find_session(
    db: Db, token: str, now: datetime, lifetimes: Lifetimes, table: sa.Table = sessions
) -> SignedIn | None:
    """The session that `token` opens, or None. Moves its end when it is time."""
    alive = [table.c.token_hash == hash_token(token), table.c.expires_at > now]
    columns = sa.select(table.c.user_id, table.c.created_at, table.c.expires_at)
    row = db.execute(columns.where(*alive)).first()
    if row is None:
        return None
    end = lifetimes.moved_end(row.created_at, row.expires_at, now)
    if end is None:
        return SignedIn(*row)
    if not prolong_session(db, token, end, table):
        return None
    return SignedIn(row.user_id, row.created_at, end, moved=True)


# %%
with engine.begin() as db:
    for day in (0.5, 6, 14):
        print(find_session(db, token, monday + timedelta(days=day), lifetimes))

# %% [markdown]
"""
### End many

A change of password ends all sessions but the caller's own. No look-up finds expired
rows; a daily job deletes them.
"""


# %% tags=["export"]
def end_sessions(
    db: Db, user_id: Any, keep: str | None = None, table: sa.Table = sessions
) -> None:
    """End all sessions of a user, or all but the one with the token `keep`."""
    ended = table.delete().where(table.c.user_id == user_id)
    if keep is not None:
        ended = ended.where(table.c.token_hash != hash_token(keep))
    db.execute(ended)


def purge_sessions(db: Db, now: datetime, table: sa.Table = sessions) -> None:
    """Delete the rows that have expired."""
    db.execute(table.delete().where(table.c.expires_at <= now))


# %% [markdown]
"""
The folded cell lets sessions live and end. `lives.drawn()` is a diagram of the states
of their rows; `lives.days` says when they were over.
"""

# %% tags=["stage"]
from playbook.exercises.auth.sessions import Lives

lives = Lives(engine, sessions, monday, lifetimes, start_session, find_session)
for days, why in ((1, "30 days since the sign-in"), (7, "7 days without use")):
    lives.used_every(timedelta(days=days), why)
    lives.step("cleanup", lambda db, token, now: purge_sessions(db, now))
lives.ended("sign-out", lambda db, token, now: end_session(db, token))
lives.ended("change of password", lambda db, token, now: end_sessions(db, "ada"))

# %%
show(lives.drawn())

# %% [markdown]
"""
## See it work

This service uses the recipe. The folded cell defines `set_cookie(request, token,
left)`, with `keep_cookies` of the page [cookies](cookies.ipynb): the cookie is
`HttpOnly` and is set on an error too. `Max-Age` is what is left of the session.
(`Secure` is off: the lesson speaks http.) `run(engine, function, ...)` calls
`function(db, ...)` in the course's [transaction](../foundations/transactions.ipynb),
which repeats it after a
[conflict](../glossary.md#conflict). The cell imports `AnswerCookies`, `Cookie`,
`Depends`, `HTTPException`, `on_postgres`, `some_weeks` and `two_tabs`.
`values_in_table` is for Mallory, and `clock` can be advanced.
"""

# %% tags=["stage"]
from fastapi import Cookie, Depends, HTTPException

from playbook.auth.cookies import AnswerCookies, cookie_line, keep_cookies
from playbook.exercises.auth.sessions import run, some_weeks, two_tabs
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.kit.lesson import on_postgres

clock = FixedClock(monday)


def set_cookie(request, token, left):
    age = left // timedelta(seconds=1)
    keep_cookies(request, [cookie_line("session", token, age, secure=False)])


def values_in_table():
    with engine.connect() as db:
        return [value for row in db.execute(sa.select(sessions)) for value in row]


# %%
def service(engine, clock):
    app = FastAPI()

    def caller(request: Request, session: str = Cookie("")):
        found = run(engine, find_session, session, clock.now(), lifetimes)
        if found is None:
            raise HTTPException(401)
        if found.moved:
            set_cookie(request, session, found.expires_at - clock.now())
        return found

    @app.post("/sign-in/{name}")
    def sign_in(name: str, request: Request, session: str = Cookie("")):
        token = run(engine, start_session, name, clock.now(), lifetimes, session)
        set_cookie(request, token, lifetimes.idle)

    @app.post("/sign-out")
    def sign_out(request: Request, session: str = Cookie("")):
        run(engine, end_session, session)
        set_cookie(request, "", timedelta(0))

    @app.get("/me")
    def me(page: int = 1, found: SignedIn = Depends(caller)):
        return {"name": found.user_id}

    return AnswerCookies(app)


became = try_attacks(service(engine, clock), values_in_table)

# %% [markdown]
"""
A script can send requests from Ada's page: `HttpOnly` hides only the token.

In `some_weeks`, Ada signs in at her desk and on her phone, and uses both every sixth
day; once with a mistake in the URL. On day 24 she changes her password on the phone and
signs out there. Mallory has a copy of that cookie. Predict: which `Max-Age` does the
desk get for the mistake, and which on day 24? Who gets a 401?
"""

# %% tags=["predict"]
weeks = some_weeks(service(engine, clock), clock, engine, end_sessions)
show(table(weeks, ["day", "request", "status", "Max-Age"]))

# %% [markdown]
"""
The 422 renews the cookie too, or the browser would drop it too early.

## On PostgreSQL

Two tabs ask at the moment when the end moves. Both write one row, so on both engines
one transaction fails, and `run` repeats it. In `two_tabs(url, service)` they meet
before they write. Predict: which statuses, and how many new cookies?
"""

# %% tags=["predict"]
here, there = two_tabs(lesson_url(), service), on_postgres(two_tabs, service)
print(here, "the same" if there == here else there)

# %% [markdown]
"""
The repeated one finds that the end has moved. (At READ COMMITTED, PostgreSQL's default,
it would wait.)

## Check it
"""

# %%
assert set(became.values()) == {"nobody"}, "Mallory is signed in as Ada"
assert lives.days[1] == 7, "a session outlives its idle end"
assert lives.days[0] == 30, "a session outlives its absolute end"
assert weeks[2][3] == "7 days", "an error loses the renewed cookie"
assert {weeks[6][2], weeks[-1][2]} == {401}, "an ended session is alive"
once = {"statuses": [200, 200], "new cookies": 1}
assert here == once and there in (once, None), "of two tabs, one gets an error"
print("planted, copied, over, signed out: no token opens a session")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `= make_token()` | `= old or make_token()` | Mallory is signed in as Ada |
| `, table.c.expires_at > now]` | `]` | a session outlives its idle end |
| `created_at + self` | `now + self` | a session outlives its absolute end |

## Your turn

Each user may have at most `most` sessions. Write `start_limited`: it starts a session
and returns its token; the oldest sessions of the user end. Two sign-ins can happen at
once, on DuckDB and on PostgreSQL (READ COMMITTED). Each runs in a transaction and again
after a [conflict](../glossary.md#conflict). The table `users` has an `id` and a counter
`sign_ins`. DuckDB has no [row locks](../glossary.md#row-lock) (`with_for_update`).
"""


# %% tags=["exercise"]
def start_limited(db, users, user_id, now, most):
    """The token of a new session; at most `most` sessions of the user are alive."""
    raise NotImplementedError


# %%
from playbook.exercises.auth.sessions import HINTS, check

check(start_limited, sessions)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def start_limited(db, users, user_id, now, most):
    # Two sign-ins insert different rows and do not conflict. Both write this one first.
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    alive = [sessions.c.user_id == user_id, sessions.c.expires_at > now]
    newest = sessions.c.created_at.desc()
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(newest)
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)


assert check(start_limited, sessions)

# %% [markdown]
"""
## Take it with you

`playbook lift sessions INTO` copies recipe and tests.

| seam | what your project does |
|---|---|
| transaction | passes a `Connection` or ORM `Session`; commits; retries conflicts |
| table | `sessions.metadata.create_all`; Alembic: a list as `target_metadata` |
| your table | `table=Login.__table__`, these columns and types; others go into `more` |
| user id | passes `str(user.id)`; ends all sessions of a user who is deleted |
| clock | passes `now` with a time zone |
| cookie | `HttpOnly`, `Secure`, `Max-Age` of what is left: `playbook lift cookies` |
| cross-site check | refuses writes of other [origins](../glossary.md#origin) |
| cleanup | calls `purge_sessions` once a day |

**Without a cross-site check the recipe is not safe.** Another site's page causes a
request, and the browser adds the cookie. `SameSite=Lax` does not stop your subdomains.
See [cross_site](cross_site.ipynb).

With a request session and users with integer ids:

```python
def current_user(request: Request, db: Annotated[Session, Depends(get_db)]):
    sent = cookie_values(request.headers.getlist("cookie"), "__Host-session")
    token = sent[0] if len(sent) == 1 else ""  # two: somebody has planted one
    found = find_session(db, token, datetime.now(UTC), Lifetimes())
    db.commit()  # the moved end stays, even if the route fails later
    user = found and db.get(User, int(found.user_id))
    if found is None or user is None or not user.active:
        raise HTTPException(401)
    if found.moved:
        left = found.expires_at - datetime.now(UTC)
        age = left // timedelta(seconds=1)
        keep_cookies(request, [cookie_line("__Host-session", token, age)])
    return user
```

That `commit` expires rows that were read before it, unless `expire_on_commit` is False.

**An old password.** Mallory signs in with it while Ada changes it: her session starts
after the change has ended all. So a sign-in writes the row whose hash it compared, in
one transaction with `start_session`, and refuses if no row comes back. See
[sign_in](sign_in.ipynb).

```sql
UPDATE users SET password_hash = :hash
WHERE id = :id AND password_hash = :hash RETURNING id
```

Hand it over:

- **Security**: run `attack`, which lies in `tests/test_sessions.py`, against a test
  instance, with your own `sign_in`, `who` and `read_table`.
- **Reviewer**: accept no cache before `find_session` and no token in a log.
- **Operations**: `DELETE FROM sessions` signs all users out.
- **Tests**: keep the property "an ended session is refused at the next request".

## In short

You can explain why a copy of the table opens nothing, and why each sign-in makes a new
token. You know which end moves, and what the browser must hear then.

## Sources

OWASP ASVS 5.0, 7.1.2 (limit), 7.2 to 7.4. NIST SP 800-63B-4, 2.1.3 and 5. OWASP Session
Management Cheat Sheet. M. Kolšek, *Session Fixation Vulnerability in Web-based
Applications* (2002).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Cross-site requests](cross_site.ipynb) · [course map](../index.ipynb) · Next: [Session lookup](session_lookup.ipynb)
"""
