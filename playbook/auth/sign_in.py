# %% [markdown]
"""
# Sign in

Let people prove who they are, while anybody may guess a million times, and let no guesser lock them out.

| | |
|---|---|
| **Use it when** | people sign in with a password, or anything else can be guessed: a code, a PIN, an invitation |
| **You need** | [transactions](../foundations/transactions.ipynb), [passwords](password_hashing.ipynb), [wire](wire.ipynb), [sessions](sessions.ipynb), [sign_up](sign_up.ipynb) |
| **Time** | 20 minutes |
| **Topics** | sign in, sign-in, login, log in, brute force, online guessing, credential stuffing, password spraying, botnet, rate limit, rate limiting, throttling, account lockout, lock out, denial of service, 429, too many requests, Retry-After, X-Retry-After, token bucket, leaky bucket, GCRA, check then act, upsert, on conflict, client address, X-Forwarded-For, IPv6, user enumeration, session fixation, rehash |
| **Standard** | NIST SP 800-63B-4 3.2.2; OWASP ASVS 5.0 (2.4.1, 6.1.1, 6.3.1, 6.3.8); RFC 6585 4; CWE-307, CWE-645, CWE-367 |
"""

# %% [markdown]
"""
## The decision

Who is stopped, when somebody guesses Ada's password?

| option | good | costs |
|---|---|---|
| the account: five failures lock it | one column; guessing ends | whoever knows Ada's address locks her out, and can do so for ever |
| the network address that guesses | Ada is not touched | a million rented addresses have five guesses each |
| whoever cannot solve a puzzle (CAPTCHA) | no count | programs solve them for less than a cent; a screen reader does not |
| **the address; and all strangers together** | guessing ends; Ada gets in from where she has been before | two counts for each attempt; from a new place, during an attack, she needs her mailbox |

A *stranger* is a network from which nobody has signed in to this account for 90 days; all of them share one allowance.
Choose a mark in the browser (OWASP's device cookie) instead of the network where people's addresses change
daily; here it would be one cookie more than the front end's contract has. And where is it counted?

| option | good | costs |
|---|---|---|
| in the process | no write | each process allows the whole number; a restart allows it again |
| in a store of its own (Redis) | quick | one more thing to run, and to decide what holds when it is down |
| **in the database, in one statement** | holds across processes; two guesses cannot pass on one allowance | a write for each attempt, next to a hash that costs twenty times as much |

Choose the process for what protects only the process: there we count requests per address, as Better Auth does.
"""

# %% [markdown]
"""
## See it break

A sign-in without a limit, and one that locks an account after five failures (no hash, so that the cell is quick). Ada's
password is on Mallory's list of the most common ones. Then Mallory sends fifty guesses at the same time. Before you run
the cell: how many are compared each time, and what happens to Ada under the second rule?
"""

# %%
import asyncio
import math
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from fastapi import Body, FastAPI, HTTPException
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, sequence_diagram, serving, show, show_http, table

COMMON, ADA = FREQUENCY_LISTS["passwords"], "ada@example.com"  # most common first


def naive_service(url, password, most=math.inf, meanwhile=None):
    app, engine, app.state.compared = FastAPI(), make_engine(url), 0
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE people (password VARCHAR, failures INTEGER)"))
        connection.execute(sa.text("INSERT INTO people VALUES (:it, 0)"), {"it": password})

    @app.post("/sign-in")
    async def sign_in(password: str = Body(embed=True)):
        with engine.connect() as connection:
            ada = connection.execute(sa.text("SELECT * FROM people")).one()
        if ada.failures >= most:
            raise HTTPException(423, "This account is locked.")
        if meanwhile:
            await meanwhile.wait()  # a real hash takes its time; here all who have come this far meet
        app.state.compared += 1
        if password == ada.password:
            return {"signed_in": True}
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE people SET failures = failures + 1"))
        raise HTTPException(401, "Invalid email or password")

    return app


# %%
def guess(client, password, email=ADA, path="/sign-in", **headers):
    return client.post(path, json={"email": email, "password": password}, headers=headers).status_code


def guesses_needed(app):
    with serving(app) as mallory:
        return next((n for n, word in enumerate(COMMON[:60], 1) if guess(mallory, word) == 200), None)


def all_at_once(clients, **headers):
    """The statuses of fifty wrong guesses that are under way together, dealt out to `clients`."""
    with ThreadPoolExecutor(50) as threads:
        return list(threads.map(lambda n: guess(clients[n % len(clients)], f"guess {n}", **headers), range(50)))


no_limit = naive_service(lesson_url(), "starwars")
locking, racing = naive_service(lesson_url(), "starwars", 5), naive_service(lesson_url(), "?", 5, asyncio.Barrier(50))
found, _ = guesses_needed(no_limit), guesses_needed(locking)
with serving(locking) as ada, serving(racing) as mallory:
    locked_out = guess(ada, "starwars")
    all_at_once([mallory])
rows = [("none", "one after another", no_limit.state.compared, f"in, by guess number {found}")]
rows += [("five, then locked", "one after another", locking.state.compared, f"not in; Ada gets {locked_out}, too")]
rows += [("five, then locked", "fifty at the same time", racing.state.compared, "all were compared")]
show(table(rows, ("failures allowed", "guesses", "compared", "Mallory is")))

# %% [markdown]
"""
Without a limit the account was open at once. With the lock, five wrong guesses from anywhere keep Ada out until somebody
unlocks her. Nor does it stop guessing: all fifty read the count before any of them raised it, a lost update on purpose.

## Build it

An allowance: some attempts at once, then one after each interval. One time is enough to remember, at which it will be
whole again: an attempt moves that on by one interval, and is refused while it lies more than the burst ahead. This is
the *generic cell rate algorithm* of telephone networks. A row whose time is past means nothing and may be deleted.
"""

# %%
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.engines import Base


class Throttle(Base):
    """What is used up of an allowance. From `whole_at` on the row means nothing."""

    __tablename__ = "throttles"

    key_hash: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    whole_at: Mapped[datetime]


@dataclass(frozen=True)
class Allowance:
    """`burst` attempts at once, and then one after each `every`."""

    burst: int
    every: timedelta


def row_of(*key: str) -> str:
    """The row's name for a key. A hash: people type all kinds of things into the field for their address."""
    return hash_token("\0".join(key))


# %% [markdown]
"""
It is spent *before* the attempt, committed, and in one statement that reads, decides and writes while it holds the row.
Fifty of them at once queue up on PostgreSQL; on DuckDB they collide and are repeated. The statement runs outside of the
engine's usual isolation, where each of the fifty would be refused for having seen an older row.
"""

# %%
import math

from sqlalchemy import orm

from playbook.foundations.engines import Timestamp
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.pantry.auth.wire import Auth, AuthError

SPEND = sa.text("""
    INSERT INTO throttles (key_hash, whole_at) VALUES (:row, :first)
    ON CONFLICT (key_hash) DO UPDATE SET whole_at = greatest(throttles.whole_at, :now) + :every
    WHERE throttles.whole_at <= :latest RETURNING key_hash
""").bindparams(*(sa.bindparam(name, type_=Timestamp()) for name in ("first", "now", "latest")))


def too_many(seconds: int) -> AuthError:
    """429, with Better Auth's header and the standard's (RFC 9110, 10.2.3)."""
    headers = {"X-Retry-After": str(seconds), "Retry-After": str(seconds)}
    return AuthError(429, None, "Too many requests. Please try again later.", headers)


# %%
def spend(auth: Auth, allowance: Allowance, *key: str) -> None:
    """Take one attempt from what `key` is allowed, committed at once. AuthError 429 when none is left.

    The generic cell rate algorithm (ITU-T I.371, annex A). Spend before the attempt, or a hundred at once are free.
    """
    now, row, every = auth.clock.now(), row_of(*key), allowance.every
    latest = now + every * (allowance.burst - 1)
    asked = {"row": row, "first": now + every, "now": now, "every": every, "latest": latest}

    def work(db: orm.Session) -> timedelta:
        if db.scalar(SPEND, asked) is not None:
            return timedelta(0)
        whole_at = db.scalar(sa.select(Throttle.whole_at).where(Throttle.key_hash == row)) or now
        return max(whole_at - latest, timedelta(seconds=1))  # at least 1: one may have come back by now

    engine = auth.engine.execution_options(isolation_level="AUTOCOMMIT")
    if wait := transaction(engine, work, retry=somebody_was_first):
        raise too_many(math.ceil(wait.total_seconds()))


def give_back(db: orm.Session, allowance: Allowance, *key: str) -> None:
    """Put one attempt back: it was right."""
    mine = sa.update(Throttle).where(Throttle.key_hash == row_of(*key))
    db.execute(mine.values(whole_at=Throttle.whole_at - sa.literal(allowance.every, sa.Interval())))


def forget(db: orm.Session, *keys: tuple[str, ...]) -> None:
    """Make the allowances of these keys whole."""
    db.execute(sa.delete(Throttle).where(Throttle.key_hash.in_([row_of(*key) for key in keys])))


# %% [markdown]
"""
The numbers. Five guesses are what a person needs who tries three old passwords; from then on one a minute. For all
strangers together NIST sets the limit: at most 100 failures in a row, and then only recovery helps. We give them 50 and
one more each week, so the hundredth comes after fifty weeks in which nobody has signed in. Each known network has as
many of its own: who shares Ada's network must not guess without end, and strangers must not use up what is hers.

A *network* is an IPv4 address or an IPv6 /64, the least that a household gets and may use as it likes. Who has a /48 has
65,536 of them; what stops them is the limit for all strangers.
"""

# %%
import ipaddress

from fastapi import Request

from playbook.pantry.http import client_ip

PER_ADDRESS = Allowance(5, timedelta(minutes=1))  # guesses at one account from one network
PER_ACCOUNT = Allowance(50, timedelta(weeks=1))  # guesses at one account from all strange networks, or one known one
KNOWN_FOR = timedelta(days=90)  # since the last sign-in from there; a session lasts 30 days at most
STRANGERS = "strangers"


def network_of(address: str) -> str:
    """The network that an IP address speaks for: itself, or the /64 of IPv6 (RFC 4291, 2.5.4). Other text as it is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def address_of(request: Request) -> str:
    """The client's IP address, empty for none. Behind a proxy that is trusted the server reads it from a header."""
    return client_ip(request.scope) or ""


# %% [markdown]
"""
"A session from there" would be the easy test for a known network, and forget Ada when she signs out, or when her sessions
are ended in an attack. So it is a row of its own in the same table: a key, and a time after which it means nothing.

After the right password, what failed from that network is disregarded (NIST). What strangers have used up is not: an
attacker would see the refusals end, and know that somebody has this account.
"""

# %%
KNOW = sa.text("""
    INSERT INTO throttles (key_hash, whole_at) VALUES (:row, :until)
    ON CONFLICT (key_hash) DO UPDATE SET whole_at = excluded.whole_at RETURNING key_hash
""").bindparams(sa.bindparam("until", type_=Timestamp()))


def recognize(db: orm.Session, auth: Auth, email: str, address: str) -> None:
    """Make the network of `address` known to the account: its owner was there, by password or by a mailed link."""
    until = auth.clock.now() + KNOWN_FOR
    db.execute(KNOW, {"row": row_of("known", email, network_of(address)), "until": until})


def is_known(db: orm.Session, auth: Auth, email: str, address: str) -> bool:
    """Whether the owner of the account was in this network within KNOWN_FOR."""
    row = Throttle.key_hash == row_of("known", email, network_of(address))
    return db.scalar(sa.select(Throttle.key_hash).where(row, Throttle.whole_at > auth.clock.now())) is not None


# %%
@dataclass(frozen=True)
class Attempt:
    """Somebody who says they are `email`, from a network that is `known` to that account or not."""

    email: str
    network: str
    known: bool

    def spend(self, auth: Auth) -> None:
        """Count it, before anything is compared. AuthError 429 when there were too many."""
        spend(auth, PER_ADDRESS, "guess", self.email, self.network)
        spend(auth, PER_ACCOUNT, "from", self.email, self.network if self.known else STRANGERS)

    def was_right(self, db: orm.Session) -> None:
        """Give it back, with what failed from the same network before."""
        forget(db, ("guess", self.email, self.network), ("from", self.email, self.network))
        if not self.known:
            give_back(db, PER_ACCOUNT, "from", self.email, STRANGERS)


# %% [markdown]
"""
Three steps, since a transaction must not wait for a hash: read, compare, write. Who has no account is read, counted and
compared like everybody, against nobody's hash; so the answers, the refusals and the work are the same.
"""

# %%
import unicodedata

from playbook.auth.password_hashing import check_password
from playbook.pantry.auth.wire import MESSAGES
from playbook.schema.identity import Account, User

MESSAGES |= {
    "INVALID_EMAIL": "Invalid email",
    "INVALID_EMAIL_OR_PASSWORD": "Invalid email or password",
    "EMAIL_NOT_VERIFIED": "Email not verified",
    "PASSWORD_TOO_LONG": "Password too long",
}


def check_length(auth: Auth, password: str) -> None:
    """AuthError 400 for what is too long to be a password, before it is hashed. Counted as when it was chosen."""
    longest = auth.settings.password_max_length
    if len(password) > 4 * longest or len(unicodedata.normalize("NFKC", password)) > longest:
        raise AuthError(400, "PASSWORD_TOO_LONG")


def credential(db: orm.Session, email: str) -> tuple[User, Account] | None:
    """The user of an address and their password's account."""
    query = sa.select(User, Account).join(Account, Account.user_id == User.id)
    found = db.execute(query.where(User.email == email, Account.provider == "credential")).first()
    return (found[0], found[1]) if found else None


# %%
@dataclass(frozen=True)
class Proven:
    """Whose password it was. `outdated`: its hash is due to be replaced. `attempt` None: nothing is counted."""

    user: User
    account: Account
    outdated: bool
    attempt: Attempt | None


def prove(auth: Auth, email: str, password: str, address: str) -> Proven:
    """Who has this address and this password. AuthError 401 for nobody, 429 when too many have guessed."""

    def read(db: orm.Session) -> tuple[tuple[User, Account] | None, Attempt | None]:
        counted = auth.settings.rate_limits
        known = counted and is_known(db, auth, email, address)
        return credential(db, email), Attempt(email, network_of(address), known) if counted else None

    check_length(auth, password)
    found, attempt = auth.transact(read)
    if attempt is not None:
        attempt.spend(auth)
    verdict = check_password(password, found[1].password_hash if found else None)
    if found is None or not verdict.matches:
        raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD")
    return Proven(*found, verdict.outdated, attempt)


# %% [markdown]
"""
The session is opened in one transaction that also *writes* the hash which was compared. When the password was changed
meanwhile there is none to write, and the old one opens nothing. When it is being changed, both write one row, so one of
the two is done again. To lock the row is not enough: the change would go on, and end the sessions that it saw before.
"""

# %%
from playbook.auth.password_hashing import replace_hash
from playbook.pantry.auth.sessions import start_session
from playbook.schema.identity import UserSession


def still_has(db: orm.Session, account: Account) -> bool:
    """Whether the account's hash is still the one that was read. If so, writes it again."""
    mine = sa.update(Account).where(Account.id == account.id, Account.password_hash == account.password_hash)
    return db.scalar(mine.values(password_hash=account.password_hash).returning(Account.id)) is not None


def open_session(
    auth: Auth, request: Request, proven: Proven, new_hash: str | None, remember: bool
) -> tuple[UserSession, str]:
    """A new session, and its token. AuthError 401 when the password was changed since it was compared."""
    account, attempt, old = proven.account, proven.attempt, proven.account.password_hash or ""

    def work(db: orm.Session) -> tuple[UserSession, str]:
        holds = replace_hash(db, auth.clock, account.id, old, new_hash) if new_hash else still_has(db, account)
        if not holds:
            raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD")
        if attempt is not None:
            attempt.was_right(db)
            recognize(db, auth, attempt.email, attempt.network)
        return start_session(db, auth, proven.user.id, request, remember)

    return auth.transact(work)


# %% [markdown]
"""
The route. Until an address is proven, its password answers and counts as a wrong one. Else two requests tell who has an
account: sign up as Ada, sign in: Better Auth's 403 if the address was free, 401 if not (`PANTRY_STRICT_PROOF=off`).
"""

# %%
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from playbook.auth.password_hashing import HASHING_TURN, hash_password
from playbook.foundations.deny_by_default import anyone
from playbook.pantry.auth.cross_site import location
from playbook.pantry.auth.sessions import remembered, set_cookies, user_view
from playbook.pantry.auth.sign_up import after_the_answer, due_verification
from playbook.pantry.auth.wire import Sent, Service, Text, body
from playbook.schema.identity import normal_email

sign_in_routes = APIRouter(prefix="/api/auth")


class SignIn(Sent):
    email: Text
    password: str
    callbackURL: Text = ""
    rememberMe: bool = True


# %%
@sign_in_routes.post("/sign-in/email", dependencies=[Depends(anyone), HASHING_TURN])
def sign_in_email(
    request: Request, response: Response, auth: Service, sent: Annotated[SignIn, body(SignIn)]
) -> dict[str, Any]:
    """Sign in with e-mail and password."""
    try:
        email = normal_email(sent.email)
    except ValueError:
        raise AuthError(400, "INVALID_EMAIL") from None
    proven = prove(auth, email, sent.password, address_of(request))
    if auth.settings.require_email_verification and not proven.user.email_verified:
        if auth.settings.verification_on_sign_in:
            after_the_answer(auth, lambda db: due_verification(db, auth, proven.user, sent.callbackURL))
        if auth.settings.strict_proof:
            raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD")
        if proven.attempt is not None:
            auth.transact(proven.attempt.was_right)
        raise AuthError(403, "EMAIL_NOT_VERIFIED")
    new_hash = hash_password(sent.password) if proven.outdated else None
    session, token = open_session(auth, request, proven, new_hash, sent.rememberMe)
    set_cookies(response, remembered(auth, request, session, token, sent.rememberMe))
    if sent.callbackURL:
        response.headers["location"] = location(sent.callbackURL)
    url = {"url": sent.callbackURL} if "callbackURL" in sent.model_fields_set else {}
    return {"redirect": bool(sent.callbackURL), "token": str(session.id), **url, "user": user_view(proven.user)}


# %% [markdown]
"""
Last, the limits per address that protect the process. The front end knows Better Auth's: three sign-ins within ten
seconds, and so on. They are counted as it counts them, in memory, before anything else is done.
"""

# %%
RULES = (  # the path begins with, seconds, requests: Better Auth's defaults
    ("/api/auth/sign-in", 10, 3), ("/api/auth/sign-up", 10, 3), ("/api/auth/change-password", 10, 3),
    ("/api/auth/change-email", 10, 3), ("/api/auth/request-password-reset", 60, 3),
    ("/api/auth/send-verification-email", 60, 3), ("/api/auth", 10, 100),
)  # fmt: skip
MOST_COUNTS = 100_000


# %%
class AddressLimits:
    """Requests of one network to one path. A window is over when nothing was allowed for its length.

    In this process only: not what protects an account. Not thread safe: for the event loop.
    """

    def __init__(self, auth: Auth) -> None:
        self.auth = auth
        self.seen: dict[tuple[str, str], tuple[int, datetime]] = {}

    async def guard(self, request: Request) -> None:
        """A dependency for every route, before anything is read."""
        if "counted" not in request.scope:  # the quick way of `session_lookup` may have done so
            path: str = request.scope["route"].path  # or each token in a path would have a count of its own
            self.take(address_of(request), path)

    def take(self, address: str, path: str) -> None:
        """Count a request. AuthError 429 when there were too many."""
        if not self.auth.settings.rate_limits:
            return
        now, key = self.auth.clock.now(), (network_of(address), path)
        window, most = next((window, most) for begin, window, most in RULES if path.startswith(begin))
        count, last = self.seen.pop(key, (0, now))
        left = last + timedelta(seconds=window) - now
        count = count if left > timedelta(0) else 0
        self.seen[key] = (count + 1, now) if count < most else (count, last)
        if len(self.seen) > MOST_COUNTS:
            self.seen.pop(next(iter(self.seen)))  # whoever was quiet longest
        if count >= most:
            raise too_many(math.ceil(left.total_seconds()))


# %% [markdown]
"""
## See it work

Ada signs in from home, and signs out. Mallory rents sixty addresses; the limits per address are left out, so that what
you see is the account's. (The hashes are cheap ones again, and counted.) Predict: does Ada get in from home, and from
her phone, which is on the way and in a network of its own?
"""

# %%
from datetime import UTC
from unittest.mock import Mock

import argon2

from playbook.auth import password_hashing
from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth.cross_site import check_cross_site
from playbook.pantry.auth.sessions import session_routes
from playbook.pantry.auth.sign_up import register
from playbook.pantry.auth.wire import auth_app
from playbook.pantry.settings import Settings

PASSWORD, PATH = "violet anchor rides a slow train", "/api/auth/sign-in/email"
BROWSER = {"origin": "http://localhost:8000"}
HOME, PHONE, MALLORY = ({"x-forwarded-for": address} for address in ("192.0.2.7", "198.51.100.9", "203.0.113.66"))
password_hashing.ARGON2 = hasher = Mock(wraps=argon2.PasswordHasher(1, 64, 1))


def service(url, guards=(check_cross_site,)):
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.create_all(engine)
    settings = Settings(environment="test", database_url=url, require_email_verification=False)
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), Postbox(MemorySender()), SeededBytes(2))
    if auth.transact(lambda db: credential(db, ADA)) is None:
        stored = hash_password(PASSWORD)
        auth.transact(lambda db: register(db, auth, "Ada", ADA, None, stored))
    return auth_app(auth, [session_routes, sign_in_routes], guards)


def sign_in(client, password=PASSWORD, email=ADA, **headers):
    return guess(client, password, email, PATH, **BROWSER, **headers)


def rented(number):
    return {"x-forwarded-for": f"2001:db8:{number:x}::1"}


def siege(url):
    app, answers = service(url), {}
    with serving(app) as mallory, LiveClient(str(mallory.base_url)) as home, LiveClient(str(mallory.base_url)) as phone:
        answers["Ada at home, before"] = sign_in(home, **HOME)
        home.post("/api/auth/sign-out", headers=BROWSER | HOME)
        for when, networks, pause in (("", 60, 0), (", a month later", 8, 30)):
            app.state.auth.clock.advance(timedelta(days=pause))
            hasher.reset_mock()
            statuses = [sign_in(mallory, f"guess {n}", **rented(n)) for n in range(networks)]
            assert hasher.verify.call_count == statuses.count(401)
            answers[f"Mallory, {networks} guesses from {networks} networks{when}"] = f"{statuses.count(401)} compared"
        answers["Ada at home"] = sign_in(home, **HOME)
        answers["Ada on her phone"] = sign_in(phone, **PHONE)
        return answers, phone


besieged, phone = siege(lesson_url())
show(table(besieged.items(), ("who", "answer")))
show_http(phone)

# %% [markdown]
"""
Home is known, so Mallory cannot use up what Ada may do there. On the way she is a stranger, and the strangers' allowance
is used up: she sets a new password by mail, which makes the network known from which she does it. What a sign-in from
home says to the database: two look-ups, two counts, then the hash while no connection is held, and one transaction that
writes. Nine statements in four transactions.
"""

# %%
app = service(lesson_url())
with serving(app) as ada:
    sign_in(ada, **HOME)
    with capture_sql(app.state.auth.engine) as statements:
        sign_in(ada, **HOME)
said = [statement for statement in statements if statement.sql not in ("BEGIN", "COMMIT")]
show(sequence_diagram(ada.exchanges[-1:], said))

# %% [markdown]
"""
## On PostgreSQL

Two services, each with connections of its own, one database, and fifty guesses at the same time. An allowance in
memory would have been two. A 503 would be a conflict that was repeated too often, and it would hit Ada as well.
"""


# %%
def two_services(url):
    with serving(service(url)) as one, serving(service(url)) as other:
        statuses = all_at_once([one, other], path=PATH, **BROWSER, **MALLORY)
        return {status: statuses.count(status) for status in sorted(set(statuses))}


together = {"DuckDB, or DATABASE_URL": two_services(lesson_url()), "PostgreSQL": on_postgres(two_services)}
for engine, statuses in together.items():
    print(f"{engine}: {statuses}")

# %% [markdown]
"""
## Check it
"""

# %%
assert all(statuses in ({401: 5, 429: 45}, None) for statuses in together.values()), "50 at once, in two services"
assert (found, no_limit.state.compared) == (52, 52) and locked_out == 423
assert (locking.state.compared, racing.state.compared) == (5, 50), "counted after the comparison"
assert list(besieged.values()) == [200, "50 compared", "4 compared", 200, 429], "ASVS 6.1.1, NIST 3.2.2"

app = service(lesson_url())
auth, seen = app.state.auth, {ADA: [], "nobody@example.com": []}
with serving(app) as mallory:
    for email in seen:
        for _ in range(7):
            hasher.reset_mock()
            with capture_sql(auth.engine) as statements:
                sign_in(mallory, "a guess", email, **MALLORY)
            last = mallory.exchanges[-1]
            headers = {k: v for k, v in last.response_headers.items() if k not in ("date", "x-request-id")}
            work = [statement.sql for statement in statements], hasher.verify.call_count
            seen[email].append((last.status, headers, last.response_body, work))
    assert seen[ADA] == seen["nobody@example.com"], "ASVS 6.3.8: the same answers, statements, and number of hashes"
    assert [status for status, *_ in seen[ADA]] == [401] * 5 + [429] * 2
    assert [sign_in(mallory, **HOME) for _ in range(7)] == [200] * 7, "who is right has not used anything up"

limits = AddressLimits(auth)
app = service(lesson_url(), guards=(limits.guard, check_cross_site))
with serving(app) as mallory:
    four = [sign_in(mallory, email=f"{n}@example.com", **rented(1)) for n in range(4)]
    assert four == [401, 401, 401, 429], "Better Auth's: three in ten seconds, whoever they are for"
    assert sign_in(mallory, **{"x-forwarded-for": "2001:db8:1:0:ffff::2"}) == 429, "and from the whole /64"
print("50 at once, 60 networks, a month: never more than allowed; Ada gets in from home; both addresses look alike")

# %% [markdown]
"""
## Your turn

Mallory turns it round: *one* password, the most common one, against a thousand accounts, from one network. No account
sees more than one guess. Write two functions. `before(auth, email, network)` is called before a password is compared,
and raises AuthError 429 when this network has tried more accounts than SPRAYED allows. Guessing one account again
within an hour is not another account. `after(db, email, network)` is called in the transaction of a right password: an
office of five hundred people who sign in behind one address has done nothing wrong. Build on what this page exports.
"""

# %%
SPRAYED = Allowance(6, timedelta(minutes=3))  # accounts of one network


# %% tags=["exercise"]
def before(auth: Auth, email: str, network: str) -> None:
    spend(auth, SPRAYED, "spray", network)


def after(db: orm.Session, email: str, network: str) -> None:
    pass


# %%
@checker
def check_spraying(before, after):
    app = service(lesson_url())
    auth = app.state.auth

    def tries(who, right=False, network="203.0.113.66"):
        try:
            before(auth, f"{who}@example.com", network)
        except AuthError as error:
            return error.status
        if right:
            auth.transact(lambda db: after(db, f"{who}@example.com", network))
        return 401

    if any(tries("ada") == 429 for _ in range(10)):
        return "not yet: one account, guessed ten times, is no spraying: another limit stops that"
    if sum(tries(n) == 401 for n in range(5)) < 5:
        return "not yet: Ada and five others are six accounts, and six are allowed"
    if tries("the 7th") != 429:
        return "not yet: six accounts are allowed, and the seventh was compared"
    if tries("the 7th") != 429:
        return "not yet: the seventh account was refused, and when it was tried again it was let through"
    if tries(3) == 429:
        return "not yet: an account that was tried before is no further one"
    if tries("the 7th", network="198.51.100.9") == 429:
        return "not yet: another network has done nothing"
    auth.clock.advance(timedelta(minutes=3))
    if (tries("the 7th"), tries("the 8th")) != (401, 429):
        return "not yet: after three minutes one more account may be tried, and only one"
    office = "192.0.2.200"
    if any(tries(f"colleague {n}", right=True, network=office) == 429 for n in range(8)):
        return "not yet: eight colleagues who all know their passwords were stopped"
    for n in range(8):
        if tries(f"typing {n}", network=office) == 429 or tries(f"typing {n}", right=True, network=office) == 429:
            return "not yet: eight colleagues mistyped and then knew it: that is no spraying"
    if sum(tries(f"guessed {n}", network=office) == 401 for n in range(9)) != 6:
        return "not yet: after all those right passwords this network may still try exactly six accounts"
    tried = 0
    for n in range(60):  # between two guesses Mallory signs in to an account of her own
        tried += tries(f"victim {n}", network="203.0.113.77") == 401
        tries("mallory", right=True, network="203.0.113.77")
    if tried > 6:
        return f"not yet: Mallory signs in to her own account after each guess, and tried {tried} of 60 accounts"
    return "right"


check_spraying(before, after)


# %% tags=["solution"]
def before(auth: Auth, email: str, network: str) -> None:
    try:  # an allowance of one is a mark: whoever can spend it is the first within the hour
        spend(auth, Allowance(1, timedelta(hours=1)), "tried", network, email)
    except AuthError:
        return
    try:
        spend(auth, SPRAYED, "spray", network)
    except AuthError:  # it was not tried: with the mark left, the next request would pass as a repetition
        auth.transact(lambda db: forget(db, ("tried", network, email)))
        raise


def after(db: orm.Session, email: str, network: str) -> None:
    forget(db, ("tried", network, email))
    give_back(db, SPRAYED, "spray", network)


assert check_spraying(before, after)

# %% [markdown]
"""
## Hand it over

- **Front end**: 429 has `X-Retry-After` and `Retry-After` in seconds, which may be days. Offer "set a new password" with
  it: that works during an attack, too.
- **Operator**: say which proxy to believe (`FORWARDED_ALLOW_IPS`). Without it everybody behind the proxy is one
  address, and the fourth sign-in of the company within ten seconds is refused; with `*` everybody is whoever they say.
  `DELETE FROM throttles` forgives everybody, and forgets which networks are known. Watch the number of 429.
- **Security reviewer**: `spend` stands before each comparison of something that can be guessed. Accepted: whoever shares
  Ada's network can find out that she signs in from there, and has an allowance of their own; a legacy hash costs another
  time; a year without any sign-in allows 102 guesses, two more than NIST's hundred in a row.
- **Reviewer**: an attempt is given back in the transaction that uses it, never before; no look at the count without
  spending.
- **Test engineer**: count what was compared, not what was answered; fifty at the same time, on both engines.

## Sources

NIST SP 800-63B-4, 3.2.2 (throttling). OWASP ASVS 5.0, 2.4.1, 6.1.1, 6.3.1, 6.3.8. OWASP, "Slow Down Online Guessing
Attacks with Device Cookies" and Authentication Cheat Sheet, "Account Lockout". CWE-307 (no limit), CWE-645 (lockout),
CWE-367 (check, then use). ITU-T I.371, annex A (generic cell rate algorithm). RFC 6585, 4 (429); RFC 9110, 10.2.3
(Retry-After); RFC 4291, 2.5.4 and RFC 6177 (what a household gets). PostgreSQL documentation, INSERT, "ON CONFLICT".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Sign up](sign_up.ipynb) · [course map](../index.ipynb) · Next: [Password reset](password_reset.ipynb)
"""
