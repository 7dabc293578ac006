"""Sign-in, and the throttles that make guessing slow and lock nobody out."""

import ipaddress
import math
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password
from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import Base, Timestamp
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.pantry.auth.cross_site import location
from playbook.pantry.auth.passwords import replace_hash
from playbook.pantry.auth.sessions import remembered, set_cookies, start_session, user_view
from playbook.pantry.auth.sign_up import after_the_answer, due_verification
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body
from playbook.pantry.http import client_ip
from playbook.schema.identity import Account, User, normal_email


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


SPEND = sa.text("""
    INSERT INTO throttles (key_hash, whole_at) VALUES (:row, :first)
    ON CONFLICT (key_hash) DO UPDATE SET whole_at = greatest(throttles.whole_at, :now) + :every
    WHERE throttles.whole_at <= :latest RETURNING key_hash
""").bindparams(*(sa.bindparam(name, type_=Timestamp()) for name in ("first", "now", "latest")))


def too_many(seconds: int) -> AuthError:
    """429, with Better Auth's header and the standard's (RFC 9110, 10.2.3)."""
    headers = {"X-Retry-After": str(seconds), "Retry-After": str(seconds)}
    return AuthError(429, None, "Too many requests. Please try again later.", headers)


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


sign_in_routes = APIRouter(prefix="/api/auth")


class SignIn(Sent):
    email: Text
    password: str
    callbackURL: Text = ""
    rememberMe: bool = True


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


RULES = (  # the path begins with, seconds, requests: Better Auth's defaults
    ("/api/auth/sign-in", 10, 3), ("/api/auth/sign-up", 10, 3), ("/api/auth/change-password", 10, 3),
    ("/api/auth/change-email", 10, 3), ("/api/auth/request-password-reset", 60, 3),
    ("/api/auth/send-verification-email", 60, 3), ("/api/auth", 10, 100),
)  # fmt: skip
MOST_COUNTS = 100_000


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
