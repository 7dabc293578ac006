"""Sign-in, and the throttles that make guessing slow and lock nobody out."""

import math
import unicodedata
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import orm

from playbook.auth import sign_in, throttling
from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password
from playbook.auth.sign_in import Attempt, Proven, TooManyAttempts, WrongPassword, enter
from playbook.auth.throttling import Allowance, forget, network_of, throttles
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.engines import Base
from playbook.pantry.auth.cross_site import location
from playbook.pantry.auth.passwords import replace_hash
from playbook.pantry.auth.second_step import Entry, after_the_password
from playbook.pantry.auth.sessions import remembered, set_cookies, user_view
from playbook.pantry.auth.sign_up import after_the_answer, due_verification
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body
from playbook.pantry.http import client_ip
from playbook.pantry.memory import Memory, OwnMemory
from playbook.schema.identity import Account, User, normal_email

__all__ = ["Allowance", "forget", "network_of"]  # for the modules of Pantry that throttle, too

# The recipes `auth/throttling` and `auth/sign_in` have the count, the order of the steps and the known networks. Here
# are the refusals in Better Auth's words, the credential in our tables, and Better Auth's limits per address.

throttles.to_metadata(Base.metadata)  # for the migrations


def too_many(seconds: int) -> AuthError:
    """429, with Better Auth's header and the standard's (RFC 9110, 10.2.3)."""
    headers = {"X-Retry-After": str(seconds), "Retry-After": str(seconds)}
    return AuthError(429, None, "Too many requests. Please try again later.", headers)


def spend(auth: Auth, allowance: Allowance, *key: str) -> None:
    """Take one attempt from what `key` is allowed, committed at once. AuthError 429 when none is left."""
    wait = throttling.spend(auth.engine, allowance, key, auth.clock.now())
    if wait:
        raise too_many(wait)


def address_of(request: Request) -> str:
    """The client's IP address, empty for none. Behind a proxy that is trusted the server reads it from a header."""
    return client_ip(request.scope) or ""


def recognize(db: orm.Session, auth: Auth, email: str, address: str) -> None:
    """Make the network of `address` known to the account: its owner was there, by password or by a mailed link."""
    sign_in.recognize(db, email, network_of(address), auth.clock.now())


class FirstStep(Attempt):
    """A password whose being right may not be enough: the network becomes known when a session begins."""

    def entered(self, db: throttling.Database) -> None:
        self.was_right(db)


class Uncounted(Attempt):
    """An attempt while the setting `rate_limits` is off."""

    def spend(self, engine: sa.Engine) -> int:
        return 0

    def was_right(self, db: throttling.Database) -> None:
        pass

    def entered(self, db: throttling.Database) -> None:
        pass


def check_length(auth: Auth, password: str) -> None:
    """AuthError 400 for what is too long to be a password, before it is hashed. Counted as when it was chosen."""
    longest = auth.settings.password_max_length
    if len(password) > 4 * longest or len(unicodedata.normalize("NFKC", password)) > longest:
        raise AuthError(400, "PASSWORD_TOO_LONG")


Found = tuple[User, Account]


def credential(db: orm.Session, email: str) -> tuple[Found, str | None] | None:
    """The user of an address with their password's account, and its hash."""
    query = sa.select(User, Account).join(Account, Account.user_id == User.id)
    found = db.execute(query.where(User.email == email, Account.provider == "credential")).first()
    return ((found[0], found[1]), found[1].password_hash) if found else None


def prove(auth: Auth, email: str, password: str, address: str) -> Proven:
    """Who has this address and this password. AuthError 401 for nobody, 429 when too many have guessed."""
    check_length(auth, password)
    counted = FirstStep if auth.settings.rate_limits else Uncounted
    attempt = counted(email, network_of(address), auth.clock.now())
    try:
        return sign_in.prove(auth.engine, attempt, password, credential, check_password)
    except TooManyAttempts as error:
        raise too_many(error.args[0]) from None
    except WrongPassword:
        raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD") from None


def still_has(db: orm.Session, account: Account, stored: str) -> bool:
    """Whether the account's hash is still the one that was read. If so, writes it again."""
    mine = sa.update(Account).where(Account.id == account.id, Account.password_hash == stored)
    return db.scalar(mine.values(password_hash=stored).returning(Account.id)) is not None


def open_session(auth: Auth, request: Request, proven: Proven, new_hash: str | None, remember: bool) -> Entry:
    """A new session, or the second step. AuthError 401 when the password was changed since it was compared."""

    def keep(db: orm.Session, found: Found, stored: str) -> bool:
        account = found[1]
        if new_hash is None:
            return still_has(db, account, stored)
        return replace_hash(db, auth.clock, account.id, stored, new_hash)

    def start(db: orm.Session, found: Found) -> Entry:
        entry = after_the_password(db, auth, found[0], request, remember)
        if entry.opened is not None and auth.settings.rate_limits:
            recognize(db, auth, found[0].email, address_of(request))
        return entry

    try:
        entry: Entry = enter(auth.engine, proven, keep, start)
    except WrongPassword:
        raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD") from None
    return entry


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
    """Sign in with e-mail and password: a session, or without one the second step."""
    try:
        email = normal_email(sent.email)
    except ValueError:
        raise AuthError(400, "INVALID_EMAIL") from None
    proven = prove(auth, email, sent.password, address_of(request))
    user: User = proven.user[0]
    if auth.settings.require_email_verification and not user.email_verified:
        if auth.settings.verification_on_sign_in:
            after_the_answer(auth, lambda db: due_verification(db, auth, user, sent.callbackURL))
        if auth.settings.strict_proof:
            raise AuthError(401, "INVALID_EMAIL_OR_PASSWORD")
        auth.transact(proven.attempt.was_right)
        raise AuthError(403, "EMAIL_NOT_VERIFIED")
    new_hash = hash_password(sent.password) if proven.verdict.outdated else None
    entry = open_session(auth, request, proven, new_hash, sent.rememberMe)
    if entry.opened is None:
        set_cookies(response, entry.cookies)
        return {"twoFactorRedirect": True, "twoFactorMethods": ["totp"]}
    session, token = entry.opened
    set_cookies(response, [*remembered(auth, request, session, token, sent.rememberMe), *entry.cookies])
    if sent.callbackURL:
        response.headers["location"] = location(sent.callbackURL)
    url = {"url": sent.callbackURL} if "callbackURL" in sent.model_fields_set else {}
    return {"redirect": bool(sent.callbackURL), "token": str(session.id), **url, "user": user_view(user, session)}


RULES = (  # the path begins with, seconds, requests: Better Auth's defaults
    ("/api/auth/sign-in", 10, 3), ("/api/auth/sign-up", 10, 3), ("/api/auth/change-password", 10, 3),
    ("/api/auth/change-email", 10, 3), ("/api/auth/request-password-reset", 60, 3), ("/api/auth/two-factor", 10, 3),
    ("/api/auth/send-verification-email", 60, 3), ("/api/auth", 10, 100),
)  # fmt: skip
MOST_COUNTS = 100_000


class AddressLimits:
    """Requests of one network to one path. A window is over when nothing was allowed for its length.

    In memory, of the process or of all that serve together: not what protects an account.
    """

    def __init__(self, auth: Auth, memory: Memory | None = None) -> None:
        self.auth = auth
        self.seen = OwnMemory(MOST_COUNTS) if memory is None else memory

    def take(self, address: str, path: str) -> None:
        """Count a request. AuthError 429 when there were too many."""
        if not self.auth.settings.rate_limits:
            return
        now, key = self.auth.clock.now().timestamp(), f"{network_of(address)} {path}"
        window, most = next((window, most) for begin, window, most in RULES if path.startswith(begin))
        with self.seen.of(key) as kept:
            count, last = kept
            left = window - (now - last)
            count = count if left > 0 else 0
            kept[:] = (count + 1, now) if count < most else (count, last)
        if count >= most:
            raise too_many(math.ceil(left))


async def count_address(request: Request) -> None:
    """A guard of `auth_app`: the limits of the network and the path, before anything is read. AuthError 429."""
    if "counted" not in request.scope:  # the quick way of `session_lookup` may have done so
        limits: AddressLimits = request.app.state.limits
        path: str = request.scope["route"].path  # or each token in a path would have a count of its own
        limits.take(address_of(request), path)
