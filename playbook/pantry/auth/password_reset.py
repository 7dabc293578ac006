"""Password reset: by a link that works once and leads to this service only."""

from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import orm

from playbook.auth import mailed_links
from playbook.auth.mail import Mail, link
from playbook.auth.password_hashing import HASHING_TURN, hash_password
from playbook.auth.password_reset import RESET, find_reset, finish_reset, start_reset
from playbook.foundations.deny_by_default import anyone
from playbook.pantry.auth.sessions import end_sessions
from playbook.pantry.auth.sign_in import Allowance, address_of, recognize, spend
from playbook.pantry.auth.sign_up import (
    LINKS,
    SUBJECTS,
    Email,
    check_rules,
    hold_once,
    in_background,
    own_columns,
    redirect,
)
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body
from playbook.pantry.tokens import revoke_all
from playbook.schema.identity import Account, User


def drop_links(db: orm.Session, user_id: UUID, *purposes: str) -> None:
    """Links of these purposes, or with none named all, are dead from now on."""
    mailed_links.drop_links(db, user_id, *purposes, table=LINKS)


def reset_mail(auth: Auth, email: str, token: str, callback: str) -> Mail:
    """The mail with the link; its host is the settings', whatever `Host` the request had."""
    url = link(auth.settings.base_url, f"/api/auth/reset-password/{token}", callbackURL=callback)
    minutes = auth.settings.reset_lifetime // 60
    text = (
        f"Somebody asked for a new password for this address. This link works once, for {minutes} minutes:\n\n{url}\n\n"
        "If it was not you, do nothing.\n"
    )
    return Mail(email, RESET, SUBJECTS[RESET], text, url, token)


MAILS = Allowance(3, timedelta(minutes=20))  # reset mails to one address


def send_reset(auth: Auth, email: str, callback: str) -> bool:
    """Mail a link to the account of this address, if there is one. Returns whether a mail was posted."""

    def find_user(db: orm.Session, email: str) -> UUID | None:
        user_id = db.scalar(sa.select(User.id).where(User.email == email))
        if user_id is not None:
            hold_once(db, user_id)
        return user_id

    def work(db: orm.Session) -> str | None:
        lifetime = timedelta(seconds=auth.settings.reset_lifetime)
        return start_reset(db, email, auth.clock.now(), find_user, lifetime, LINKS, **own_columns(auth))

    try:
        if auth.settings.rate_limits:
            spend(auth, MAILS, RESET, email)
    except AuthError:  # too many: what they had is on its way
        return False
    token = auth.transact(work)
    if token is not None:
        auth.postbox.post(reset_mail(auth, email, token, callback))
    return token is not None


reset_routes = APIRouter(prefix="/api/auth")
SENT = "If this email exists in our system, check your email for the reset link"


class RequestReset(Sent):
    email: Email
    redirectTo: Text = ""


@reset_routes.post("/request-password-reset", dependencies=[Depends(anyone)])
def request_password_reset(auth: Service, sent: Annotated[RequestReset, body(RequestReset)]) -> dict[str, Any]:
    """Ask for a link. The answer is the same whoever asks and for whom."""
    in_background(auth, lambda: send_reset(auth, sent.email, sent.redirectTo))
    return {"status": True, "message": SENT}


def absolute(auth: Auth, url: str, **query: str) -> str:
    """`url` on the settings' base URL unless it is absolute, with the parameters `query` set in it."""
    parts = urlsplit(f"{auth.settings.base_url}{url}" if url.startswith("/") else url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in query]
    return urlunsplit(parts._replace(path=parts.path or "/", query=urlencode([*kept, *query.items()])))


@reset_routes.get("/reset-password/{token}", dependencies=[Depends(anyone)], response_model=None)
def open_reset_link(auth: Service, token: str, callbackURL: str | None = None) -> Response:
    """The link of the mail: 302 to the front end's form, with `token` or with `error`."""
    if callbackURL is None:
        words = "[query.callbackURL] Invalid input: expected string, received undefined"
        raise AuthError(400, "VALIDATION_ERROR", words)
    row = auth.transact(lambda db: find_reset(db, token, auth.clock.now(), LINKS))
    if row is None or not callbackURL:
        return redirect(absolute(auth, callbackURL or "/api/auth/error", error="INVALID_TOKEN"))
    return redirect(absolute(auth, callbackURL, token=token))


def set_password(db: orm.Session, auth: Auth, user_id: UUID, password_hash: str) -> None:
    """Store a new hash. Somebody who has signed in another way until now gets a password."""
    now = auth.clock.now()
    mine = sa.update(Account).where(Account.user_id == user_id, Account.provider == "credential")
    if not db.execute(mine.values(password_hash=password_hash, updated_at=now).returning(Account.id)).all():
        account = Account(
            id=auth.ids.new(), user_id=user_id, provider="credential", provider_account_id=str(user_id),
            password_hash=password_hash, created_at=now, updated_at=now,
        )  # fmt: skip
        db.add(account)


def use_link(db: orm.Session, auth: Auth, token: str, password_hash: str) -> bool:
    """Take the token and set the password; False when another request has taken it, it is too late, or for an address
    that is no longer the account's.
    """

    def set_if_theirs(db: orm.Session, user_id: UUID, email: str, password_hash: str) -> bool:
        proven = sa.true() if auth.settings.strict_proof else User.email_verified  # who has the link has the mailbox
        mine = sa.update(User).where(User.id == user_id, User.email == email)
        mine = mine.values(updated_at=User.updated_at, email_verified=proven)
        if not db.execute(mine.returning(User.id).execution_options(synchronize_session=False)).all():
            return False
        set_password(db, auth, user_id, password_hash)
        return True

    def end_all(db: orm.Session, user_id: UUID) -> None:
        if auth.settings.revoke_sessions_on_reset:
            end_sessions(db, user_id)
            revoke_all(db, user_id)  # whoever was in the account could have made one

    return finish_reset(db, token, password_hash, auth.clock.now(), set_if_theirs, end_all, LINKS) is not None


def tell(auth: Auth, email: str, text: str) -> None:
    """A notice to the owner of an account (OWASP ASVS 6.3.7)."""
    auth.postbox.post(Mail(email, "notice", SUBJECTS["notice"], text + "\n"))


class Reset(Sent):
    newPassword: str
    token: str = ""


@reset_routes.post("/reset-password", dependencies=[Depends(anyone), HASHING_TURN])
def reset_password(
    request: Request, auth: Service, sent: Annotated[Reset, body(Reset)], token: str = ""
) -> dict[str, bool]:
    """Set a new password with a link's token. Nobody is signed in by it: the new password is there to be used."""
    if not (token := sent.token or token):
        raise AuthError(400, "INVALID_TOKEN")
    check_rules(auth, sent.newPassword)
    row = auth.transact(lambda db: find_reset(db, token, auth.clock.now(), LINKS))
    if row is None:
        raise AuthError(400, "INVALID_TOKEN")
    check_rules(auth, sent.newPassword, row.email)
    password_hash = hash_password(sent.newPassword)

    def work(db: orm.Session) -> bool:
        used = use_link(db, auth, token, password_hash)
        if used:
            recognize(db, auth, row.email, address_of(request))  # or whoever is guessing would keep the owner out
        return used

    if not auth.transact(work):
        raise AuthError(400, "INVALID_TOKEN")
    tell(auth, row.email, "Your password was changed. If that was not you, ask for a new one now.")
    return {"status": True}
