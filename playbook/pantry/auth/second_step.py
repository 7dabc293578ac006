"""Between the password and the session: what a sign-in does when the account has a second factor.

Better Auth makes the session, takes it back, and gives the browser a cookie for the second step. Here no session is
made before that step: `start_session` refuses it. Cookie and trusted device are links without a mail: their tokens'
hashes are rows of `verifications`, so a password reset, a new address and a deletion end them as they end all links.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, cast
from uuid import UUID

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy import orm

from playbook.auth import mailed_links
from playbook.auth.second_factor import step_of
from playbook.foundations.clock_and_identifiers import new_token
from playbook.pantry.auth.sessions import (
    CACHE,
    FACTORS,
    REMEMBER,
    SESSION,
    SecondFactorMissing,
    SignedIn,
    cookies_of,
    end_own_session,
    start_session,
)
from playbook.pantry.auth.sign_up import LINKS, own_columns
from playbook.pantry.auth.tables import RecoveryCode, UserSession
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.schema.identity import User

CODES = cast(sa.Table, RecoveryCode.__table__)
CHALLENGE, TRUSTED = "second-factor", "trusted-device"  # purposes of links
TWO_FACTOR, TRUST_DEVICE = "two_factor", "trust_device"  # cookies
SECOND_STEP = timedelta(minutes=10)  # from the password to the code
TRUSTED_FOR = timedelta(days=30)  # from the last code on this device


class Entry(NamedTuple):
    """What a right password opens: a session with its token, or nothing yet. `cookies` come on top."""

    opened: tuple[UserSession, str] | None
    cookies: list[str]


def new_pass(db: orm.Session, auth: Auth, user: User, purpose: str, begins: datetime, lifetime: timedelta) -> str:
    """A token for a cookie; only its hash is stored."""
    own = own_columns(auth) | {"make_token": partial(new_token, "pass", auth.random_bytes)}
    return mailed_links.new_link(db, purpose, user.id, user.email, begins, lifetime, table=LINKS, **own)


def trusted_since(db: orm.Session, auth: Auth, request: Request, user_id: UUID) -> datetime | None:
    """When the second factor was given on this device, if it is to be trusted. Its token is used up by this."""
    token = cookies_of(auth).read(request.headers.get("cookie", ""), TRUST_DEVICE)
    found = mailed_links.find_link(db, token, TRUSTED, auth.clock.now(), LINKS) if token else None
    if token is None or found is None or found.user_id != user_id:
        return None
    taken = mailed_links.take_link(db, token, TRUSTED, auth.clock.now(), LINKS)
    return taken.created_at if taken is not None else None


def trust_device(db: orm.Session, auth: Auth, user: User, proven_at: datetime) -> str:
    """The `Set-Cookie` value of a device that needs no code until 30 days after the last one."""
    token = new_pass(db, auth, user, TRUSTED, proven_at, TRUSTED_FOR)
    left = proven_at + TRUSTED_FOR - auth.clock.now()
    return cookies_of(auth).put(TRUST_DEVICE, token, int(left.total_seconds()))


def after_the_password(db: orm.Session, auth: Auth, user: User, request: Request, remember: bool) -> Entry:
    """A session for who has no second factor, or is on a trusted device; for all others the cookie of the second step.

    The session that the browser had ends in both cases.
    """
    try:
        return Entry(start_session(db, auth, user.id, request, remember), [])
    except SecondFactorMissing:
        pass
    proven_at = trusted_since(db, auth, request, user.id)
    if proven_at is not None:
        device = trust_device(db, auth, user, proven_at)
        return Entry(start_session(db, auth, user.id, request, remember, proven_at), [device])
    end_own_session(db, auth, request)
    cookies = cookies_of(auth)
    token = new_pass(db, auth, user, CHALLENGE, auth.clock.now(), SECOND_STEP)
    sent = cookies.read(request.headers.get("cookie", ""), TRUST_DEVICE)
    lines = [] if remember else [cookies.put(REMEMBER, "true")]
    lines += cookies.drop(TRUST_DEVICE) if sent else []
    lines += cookies.drop(SESSION, CACHE)
    return Entry(None, [*lines, cookies.put(TWO_FACTOR, token, int(SECOND_STEP.total_seconds()))])


def end_passes(db: orm.Session, user_id: UUID) -> None:
    """End sign-ins under way, and the trust in devices: after a new password, or without a second factor."""
    mailed_links.drop_links(db, user_id, CHALLENGE, TRUSTED, table=LINKS)


def purge_enrolments(db: orm.Session, now: datetime) -> None:
    """Delete the apps that nobody has confirmed within a day, and their codes."""
    old = FACTORS.c.last_step < step_of(now - timedelta(days=1))
    db.execute(sa.delete(FACTORS).where(FACTORS.c.confirmed.is_(False), old))
    db.execute(sa.delete(CODES).where(CODES.c.user_id.not_in(sa.select(FACTORS.c.user_id))))


def step_up(auth: Auth, caller: SignedIn) -> None:
    """AuthError 403 when the account has a second factor, and it was not given lately in this session (ASVS 7.5.3).

    `verify-totp` in the session gives it again.
    """
    proven_at, within = caller.session.second_factor_at, timedelta(seconds=auth.settings.reauthentication)
    if proven_at is not None and auth.clock.now() - proven_at >= within:
        raise AuthError(403, "SESSION_NOT_FRESH")
