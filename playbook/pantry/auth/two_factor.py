"""The routes of the second factor: Better Auth's plugin `twoFactor`, by the recipe `auth/second_factor`.

A code works once. Guesses are counted for each account, and known networks apart, as passwords are; recovery codes are
counted for each network alone, so that nobody can keep the owner from theirs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from cryptography.fernet import InvalidToken
from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from sqlalchemy import orm

from playbook.auth import mailed_links, second_factor, throttling
from playbook.auth.password_hashing import HASHING_TURN
from playbook.auth.second_factor import (
    app_uri,
    box_of,
    enrol,
    has_second_factor,
    new_recovery_codes,
)
from playbook.auth.sign_in import PER_NETWORK, Attempt, is_known
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.transactions import somebody_was_first
from playbook.foundations.write_skew import hold
from playbook.pantry.auth.account_changes import prove_again, still_signed_in
from playbook.pantry.auth.password_reset import tell
from playbook.pantry.auth.second_step import (
    CHALLENGE,
    CODES,
    TRUST_DEVICE,
    TWO_FACTOR,
    end_passes,
    step_up,
    trust_device,
)
from playbook.pantry.auth.sessions import (
    FACTORS,
    REMEMBER,
    CurrentSession,
    SignedIn,
    cookies_of,
    end_sessions,
    hold_user,
    look_up,
    remembered,
    set_cookies,
    start_session,
    user_view,
)
from playbook.pantry.auth.sign_in import address_of, network_of, recognize, too_many
from playbook.pantry.auth.sign_up import LINKS
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, body
from playbook.schema.identity import Account, User

log = logging.getLogger("pantry.auth")
ISSUER = "Pantry"  # what authenticator apps show
two_factor_routes = APIRouter(prefix="/api/auth/two-factor")


def keys_of(auth: Auth) -> list[bytes]:
    """What the secrets at rest are encrypted with, before the recipe derives a key for each user."""
    return [auth.settings.secret.get_secret_value().encode()]


# ---------------------------------------------------------------- switching it on and off


class Password(Sent):
    password: str


class Enable(Password):
    method: Literal["totp", "otp"] = "totp"
    issuer: Annotated[str, Field(max_length=200)] = ISSUER


@two_factor_routes.post("/enable", dependencies=[HASHING_TURN])
def enable(
    request: Request, auth: Service, sent: Annotated[Enable, body(Enable)], caller: CurrentSession
) -> dict[str, Any]:
    """A new secret for an app, and recovery codes, shown this once. Nothing changes before the app's first code."""
    prove_again(auth, caller, sent.password)
    if sent.method == "otp":
        raise AuthError(400, "OTP_NOT_CONFIGURED")

    def work(db: orm.Session) -> tuple[bytes, list[str]]:
        still_signed_in(db, auth, request, caller)
        hold_user(db, caller.user.id)
        secret = enrol(db, caller.user.id, keys_of(auth), FACTORS)
        if secret is None:
            raise AuthError(400, "TOTP_ALREADY_ENABLED")
        return secret, new_recovery_codes(db, caller.user.id, table=CODES)

    secret, codes = auth.transact(work, retry=somebody_was_first)  # a second request, at once: the later one counts
    return {"method": "totp", "totpURI": app_uri(secret, sent.issuer, caller.user.email), "backupCodes": codes}


@two_factor_routes.post("/get-totp-uri", dependencies=[HASHING_TURN])
def get_totp_uri(auth: Service, sent: Annotated[Password, body(Password)], caller: CurrentSession) -> dict[str, str]:
    """The secret again, for another app."""
    secret = auth.transact(lambda db: secret_of(db, auth, caller))
    if secret is None:
        raise AuthError(400, "TOTP_NOT_ENABLED")
    prove_again(auth, caller, sent.password)
    step_up(auth, caller)
    return {"totpURI": app_uri(secret, ISSUER, caller.user.email)}


def secret_of(db: orm.Session, auth: Auth, caller: SignedIn) -> bytes | None:
    """None, too, when the secret was encrypted with a PANTRY_SECRET that is no longer there."""
    sealed = db.scalar(sa.select(FACTORS.c.sealed_secret).where(FACTORS.c.user_id == caller.user.id))
    try:
        return box_of(keys_of(auth), caller.user.id).decrypt(sealed) if sealed else None
    except InvalidToken:
        log.error("a second factor cannot be decrypted: was PANTRY_SECRET changed?")
        return None


@two_factor_routes.post("/generate-backup-codes", dependencies=[HASHING_TURN])
def generate_backup_codes(
    request: Request, auth: Service, sent: Annotated[Password, body(Password)], caller: CurrentSession
) -> dict[str, Any]:
    """New recovery codes, shown this once; the old ones end."""
    if not auth.transact(lambda db: has_second_factor(db, caller.user.id, FACTORS)):
        raise AuthError(400, "TWO_FACTOR_NOT_ENABLED")
    prove_again(auth, caller, sent.password)
    step_up(auth, caller)

    def work(db: orm.Session) -> list[str]:
        still_signed_in(db, auth, request, caller)
        # Written first: of two requests at once the codes of both would stay.
        hold(db, User.id, caller.user.id, alone=True)
        return new_recovery_codes(db, caller.user.id, table=CODES)

    codes = auth.transact(work)
    tell(auth, caller.user.email, "You have new recovery codes. If that was not you, set a new password now.")
    return {"status": True, "backupCodes": codes}


@two_factor_routes.post("/disable", dependencies=[HASHING_TURN])
def disable(
    request: Request, response: Response, auth: Service, sent: Annotated[Password, body(Password)],
    caller: CurrentSession,
) -> dict[str, bool]:  # fmt: skip
    """Back to the password alone. The caller's session goes on as a new one."""
    prove_again(auth, caller, sent.password)
    step_up(auth, caller)
    cookies, header = cookies_of(auth), request.headers.get("cookie", "")
    remember = cookies.read(header, REMEMBER) is None

    def work(db: orm.Session) -> tuple[UserSession, str]:
        still_signed_in(db, auth, request, caller)
        for table in (FACTORS, CODES):
            db.execute(table.delete().where(table.c.user_id == caller.user.id))
        end_passes(db, caller.user.id)
        mine = sa.update(UserSession).where(UserSession.user_id == caller.user.id)
        mine = mine.values(second_factor_at=None).returning(UserSession.id)
        db.execute(mine.execution_options(synchronize_session=False)).all()
        return start_session(db, auth, caller.user.id, request, remember)

    opened = auth.transact(work)
    if caller.session.second_factor_at is not None:
        text = "Your second factor was switched off. If that was not you, set a new password now."
        tell(auth, caller.user.email, text)
    dropped = cookies.drop(TRUST_DEVICE) if cookies.read(header, TRUST_DEVICE) else []
    set_cookies(response, [*remembered(auth, request, *opened), *dropped])
    return {"status": True}


# ---------------------------------------------------------------- a code, at sign-in or in a session


class Code(Sent):
    code: Annotated[str, Field(max_length=100)]
    trustDevice: bool = False


class BackupCode(Code):
    disableSession: bool = False


@dataclass(frozen=True)
class Guess(Attempt):
    """A code that somebody sends. `email`: of which second factor."""

    counted: bool = True

    def spend(self, engine: sa.Engine) -> int:
        return super().spend(engine) if self.counted else 0


@dataclass(frozen=True)
class RecoveryGuess(Guess):
    """A recovery code: nobody guesses 120 bits, so only each network is slowed down, and nobody locks the owner out."""

    def spend(self, engine: sa.Engine) -> int:
        key = ("recovery", self.email, self.network)
        return throttling.spend(engine, PER_NETWORK, key, self.now) if self.counted else 0


@dataclass(frozen=True)
class Asker:
    """Who sends a code: a session's owner, or who has given the password; then `token` is the cookie's that says so.

    `enabled`: whether the second factor counts; None when there is none.
    """

    user: User
    enabled: bool | None
    known: bool
    caller: SignedIn | None = None
    token: str = ""


def asker_of(request: Request, auth: Auth) -> Asker:
    """AuthError 401 for anybody else."""
    caller = look_up(request, auth)
    token = cookies_of(auth).read(request.headers.get("cookie", ""), TWO_FACTOR) or ""

    def read(db: orm.Session) -> Asker:
        user = caller.user if caller else challenged(db, auth, token)
        known = is_known(db, whose(user), network_of(address_of(request)), auth.clock.now())
        enabled = db.scalar(sa.select(FACTORS.c.confirmed).where(FACTORS.c.user_id == user.id))
        return Asker(user, enabled, known, caller, token)

    return auth.transact(read)


def challenged(db: orm.Session, auth: Auth, token: str) -> User:
    """Who has given the password, by the cookie of the second step. AuthError 401."""
    found = mailed_links.find_link(db, token, CHALLENGE, auth.clock.now(), LINKS)
    user = db.get(User, found.user_id) if found else None
    if user is None:
        raise AuthError(401, "INVALID_TWO_FACTOR_COOKIE")
    return user


Use = Callable[[orm.Session], bool]
Verified = tuple[UserSession | None, list[str]]  # the session, if one was wanted, and cookies


def verify(
    request: Request, response: Response, auth: Auth, sent: Code, asker: Asker, guess: Guess, use: Use, wrong: str
) -> dict[str, Any]:
    """Count the guess; then use the code and do what it is for, both or neither. AuthError 401 or 429."""
    if wait := guess.spend(auth.engine):
        raise too_many(wait)

    def work(db: orm.Session) -> Verified:
        if not use(db):
            raise AuthError(401, wrong)
        guess.entered(db)
        if asker.caller is None:
            return at_sign_in(db, auth, request, sent, asker)
        if asker.enabled:
            return again(db, auth, request, asker.caller), []
        return confirmed(db, auth, request, asker.caller)

    session, cookies = auth.transact(work)
    set_cookies(response, cookies)
    token = {"token": str(session.id)} if session else {}
    return {**token, "user": user_view(asker.user) | {"twoFactorEnabled": True}}


def whose(user: User) -> str:
    """Under which name guesses are counted. A network that only a password or a mail made known is a stranger here."""
    return f"second factor of {user.id}"


def guess_of(kind: type[Guess], request: Request, auth: Auth, asker: Asker) -> Guess:
    network, counted = network_of(address_of(request)), auth.settings.rate_limits
    return kind(whose(asker.user), network, auth.clock.now(), asker.known, counted=counted)


def at_sign_in(db: orm.Session, auth: Auth, request: Request, sent: Code, asker: Asker) -> Verified:
    """The session that the password alone did not open. AuthError 401 when the second step is over meanwhile."""
    if isinstance(sent, BackupCode) and sent.disableSession:
        return None, []
    now, cookies = auth.clock.now(), cookies_of(auth)
    if mailed_links.take_link(db, asker.token, CHALLENGE, now, LINKS) is None:
        raise AuthError(401, "INVALID_TWO_FACTOR_COOKIE")
    if auth.settings.rate_limits:
        recognize(db, auth, asker.user.email, address_of(request))
    remember = cookies.read(request.headers.get("cookie", ""), REMEMBER) is None
    session, token = start_session(db, auth, asker.user.id, request, remember, now)
    lines = [*remembered(auth, request, session, token), *cookies.drop(TWO_FACTOR)]
    if sent.trustDevice:
        lines += [trust_device(db, auth, asker.user, now), *cookies.drop(REMEMBER)]
    return session, lines


def again(db: orm.Session, auth: Auth, request: Request, caller: SignedIn) -> UserSession:
    """The second factor is fresh again in this session. AuthError 401 when it has ended meanwhile."""
    still_signed_in(db, auth, request, caller)
    mine = sa.update(UserSession).where(UserSession.id == caller.session.id)
    mine = mine.values(second_factor_at=auth.clock.now()).returning(UserSession.id)
    db.execute(mine.execution_options(synchronize_session=False)).all()
    return caller.session


def confirmed(db: orm.Session, auth: Auth, request: Request, caller: SignedIn) -> Verified:
    """From now on the account has a second factor. Every session that began without it ends, the caller's too."""
    still_signed_in(db, auth, request, caller)
    # A sign-in writes the account whose password it compared, a link its user: so they conflict with this. The value
    # must be another one: DuckDB takes an UPDATE that changes nothing for none.
    for table, whose in ((User, User.id), (Account, Account.user_id)):
        mine = sa.update(table).where(whose == caller.user.id).values(updated_at=auth.clock.now())
        db.execute(mine.returning(table.id).execution_options(synchronize_session=False)).all()
    end_sessions(db, caller.user.id)
    end_passes(db, caller.user.id)
    remember = cookies_of(auth).read(request.headers.get("cookie", ""), REMEMBER) is None
    opened = start_session(db, auth, caller.user.id, request, remember, auth.clock.now())
    return opened[0], remembered(auth, request, *opened)


@two_factor_routes.post("/verify-totp", dependencies=[Depends(anyone)])
def verify_totp(
    request: Request, response: Response, auth: Service, sent: Annotated[Code, body(Code)]
) -> dict[str, Any]:
    """The app's code: it ends a sign-in, confirms a new app, or makes the session fresh."""
    arrived = auth.clock.now()  # waiting for a database, or trying again, costs nobody a code
    asker = asker_of(request, auth)
    if asker.enabled is None or (asker.caller is None and not asker.enabled):
        raise AuthError(400, "TOTP_NOT_ENABLED")

    def use(db: orm.Session) -> bool:
        given = (asker.user.id, sent.code, arrived, keys_of(auth), not asker.enabled, FACTORS)
        try:
            return second_factor.use_code(db, *given)
        except InvalidToken:
            log.error("a second factor cannot be decrypted: was PANTRY_SECRET changed?")
            return False

    guess = guess_of(Guess, request, auth, asker)
    answer = verify(request, response, auth, sent, asker, guess, use, "INVALID_CODE")
    if not asker.enabled:
        tell(auth, asker.user.email, "A second factor protects your account now. If that was not you, write to us.")
    return answer


@two_factor_routes.post("/verify-backup-code", dependencies=[Depends(anyone)])
def verify_backup_code(
    request: Request, response: Response, auth: Service, sent: Annotated[BackupCode, body(BackupCode)]
) -> dict[str, Any]:
    """A recovery code in place of the app's. Its owner is told, since somebody may have found the list."""
    asker = asker_of(request, auth)
    if not asker.enabled:
        raise AuthError(400, "BACKUP_CODES_NOT_ENABLED")

    def use(db: orm.Session) -> bool:
        return second_factor.use_recovery_code(db, asker.user.id, sent.code, CODES)

    guess = guess_of(RecoveryGuess, request, auth, asker)
    answer = verify(request, response, auth, sent, asker, guess, use, "INVALID_BACKUP_CODE")
    tell(auth, asker.user.email, "A recovery code of your account was used. If that was not you, write to us now.")
    return answer
