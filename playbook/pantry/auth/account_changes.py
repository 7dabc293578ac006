"""Changes of password, address and account, which a stolen session can make none of alone."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import orm

from playbook.auth import account_changes as changes
from playbook.auth.account_changes import Step, Yours
from playbook.auth.mail import Mail, link
from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password
from playbook.pantry.auth.password_reset import tell
from playbook.pantry.auth.passwords import replace_hash
from playbook.pantry.auth.second_step import end_passes, step_up
from playbook.pantry.auth.sessions import (
    REMEMBER,
    CurrentSession,
    SignedIn,
    cookies_of,
    end_sessions,
    is_fresh,
    look_up,
    remembered,
    set_cookies,
    start_session,
    user_view,
)
from playbook.pantry.auth.sign_in import Allowance, check_length, forget, spend
from playbook.pantry.auth.sign_up import (
    LINKS,
    VERIFY,
    Email,
    Link,
    after_the_answer,
    check_rules,
    link_refused,
    may_mail,
    new_link,
    own_columns,
    redirect,
    verification_mail,
)
from playbook.pantry.auth.tables import UserSession, Verification, delete_user
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body, keep_cookies
from playbook.pantry.catalog import File, PackageRole
from playbook.pantry.tokens import revoke_all
from playbook.schema.identity import Account, Member, Organization, User

GUESSES = Allowance(5, timedelta(hours=1))  # of the present password, by one session


def prove_again(auth: Auth, caller: SignedIn, password: str) -> Account:
    """The caller's password account, if they know the password: who stole a session does not. AuthError 400 or 429."""
    check_length(auth, password)
    guesses = ("password", str(caller.session.id))
    if auth.settings.rate_limits:
        spend(auth, GUESSES, *guesses)
    mine = sa.select(Account).where(Account.user_id == caller.user.id, Account.provider == "credential")
    account = auth.transact(lambda db: db.scalar(mine))
    if account is None or account.password_hash is None:
        raise AuthError(400, "CREDENTIAL_ACCOUNT_NOT_FOUND")
    if not check_password(password, account.password_hash).matches:
        raise AuthError(400, "INVALID_PASSWORD")
    auth.transact(lambda db: forget(db, guesses))
    return account


def signed_in_lately(auth: Auth, caller: SignedIn) -> bool:
    """Whether the caller signed in to this session within the setting `reauthentication`."""
    return is_fresh(auth, caller.session, min(auth.settings.reauthentication, auth.settings.session_fresh))


def still_signed_in(db: orm.Session, auth: Auth, request: Request, caller: SignedIn) -> None:
    """AuthError 401 when the session was ended since the request came: to compare a password takes a while."""
    if db.scalar(sa.select(UserSession.id).where(UserSession.id == caller.session.id)) is None:
        keep_cookies(request, cookies_of(auth).drop())
        raise AuthError(401, "UNAUTHORIZED")


account_routes = APIRouter(prefix="/api/auth")
APPROVE, CHANGE = changes.APPROVE, changes.PROVE  # the links of a change: to the old address, to the new


def replace_password(
    db: orm.Session, auth: Auth, request: Request, caller: SignedIn, account: Account, new_hash: str, renew: bool
) -> tuple[UserSession, str] | None:
    """Store the new hash. With `renew` every session ends, and the caller's goes on as a new one, which is returned."""
    still_signed_in(db, auth, request, caller)

    def replace(db: orm.Session) -> bool:
        return replace_hash(db, auth.clock, account.id, account.password_hash or "", new_hash)

    def end_all(db: orm.Session, user_id: UUID) -> None:
        if renew:
            end_sessions(db, user_id)
            revoke_all(db, user_id)

    if not changes.change_password(db, caller.user.id, replace, end_all, LINKS):
        raise AuthError(400, "INVALID_PASSWORD")  # somebody else has changed it since it was compared
    end_passes(db, caller.user.id)
    if not renew:
        return None
    remember = cookies_of(auth).read(request.headers.get("cookie", ""), REMEMBER) is None
    return start_session(db, auth, caller.user.id, request, remember, caller.session.second_factor_at)


class ChangePassword(Sent):
    newPassword: str
    currentPassword: str
    revokeOtherSessions: bool = False


@account_routes.post("/change-password", dependencies=[HASHING_TURN])
def change_password(
    request: Request, response: Response, auth: Service,
    sent: Annotated[ChangePassword, body(ChangePassword)], caller: CurrentSession,
) -> dict[str, Any]:  # fmt: skip
    """A new password for who knows the present one. `token` is the handle of the new session, if there is one."""
    check_rules(auth, sent.newPassword, caller.user.email, caller.user.name)
    step_up(auth, caller)
    account, new_hash = prove_again(auth, caller, sent.currentPassword), hash_password(sent.newPassword)
    renew = sent.revokeOtherSessions or auth.settings.revoke_sessions_on_change
    opened = auth.transact(lambda db: replace_password(db, auth, request, caller, account, new_hash, renew))
    tell(auth, caller.user.email, "Your password was changed. If that was not you, set a new one now.")
    set_cookies(response, remembered(auth, request, *opened) if opened else [])
    return {"token": str(opened[0].id) if opened else None, "user": user_view(caller.user, caller.session)}


class VerifyPassword(Sent):
    password: str


class UpdateUser(Sent):
    name: Annotated[str, Field(max_length=200)] = ""
    image: Text | None = None
    email: Any = None


@account_routes.post("/verify-password", dependencies=[HASHING_TURN])
def verify_password(
    auth: Service, sent: Annotated[VerifyPassword, body(VerifyPassword)], caller: CurrentSession
) -> dict[str, bool]:
    """Whether the caller knows their password."""
    prove_again(auth, caller, sent.password)
    return {"status": True}


@account_routes.post("/update-user")
def update_user(
    request: Request, response: Response, auth: Service,
    sent: Annotated[UpdateUser, body(UpdateUser)], caller: CurrentSession,
) -> dict[str, bool]:  # fmt: skip
    """Change name or image. The cookie is set again, for what is left of its session."""
    if sent.email:
        raise AuthError(400, "EMAIL_CAN_NOT_BE_UPDATED")
    changes = sent.model_dump(include=sent.model_fields_set & {"name", "image"})
    if not changes:
        raise AuthError(400, None, "No fields to update")
    change = sa.update(User).where(User.id == caller.user.id).values(**changes, updated_at=auth.clock.now())
    auth.transact(lambda db: db.execute(change))
    set_cookies(response, remembered(auth, request, caller.session, caller.token))
    return {"status": True}


def has_still(db: orm.Session, user: User) -> bool:
    """Whether the account still has the address of `user`. Locks its row."""
    same = sa.update(User).where(User.id == user.id, User.email == user.email).values(updated_at=User.updated_at)
    return db.scalar(same.returning(User.id).execution_options(synchronize_session=False)) is not None


def yours_of(auth: Auth, user: User) -> Yours:
    """What the recipe asks of Pantry, as long as the account has the address that `user` has."""

    def hold(db: orm.Session, user_id: UUID) -> str | None:
        return user.email if has_still(db, user) else None

    def find_user(db: orm.Session, email: str) -> UUID | None:
        return db.scalar(sa.select(User.id).where(User.email == email))

    def set_address(db: orm.Session, user_id: UUID, new: str) -> None:
        changed = sa.update(User).where(User.id == user_id)
        changed = changed.values(email=new, email_verified=True, updated_at=auth.clock.now())
        db.execute(changed.returning(User.id).execution_options(synchronize_session=False))

    lifetime = timedelta(seconds=auth.settings.verification_lifetime)
    return Yours(hold, find_user, set_address, lifetime, LINKS)


def approval_mail(auth: Auth, user: User, step: Step, callback: str) -> Mail:
    """To the present address: a link that allows the change."""
    site, minutes, token = auth.settings.base_url, auth.settings.verification_lifetime // 60, step.token or ""
    url = link(site, "/api/auth/verify-email", token=token, callbackURL=callback or "/")
    text = (
        f"Somebody who is signed in to your account at {site} wants to change its address to\n\n    {step.new}\n\n"
        f"If that was you, this link allows it, for {minutes} minutes:\n\n{url}\n\n"
        "If it was not you, do not open the link, and set a new password: that ends it.\n"
    )
    return Mail(user.email, VERIFY, "Allow the change of your e-mail address", text, url, token)


def asked_mail(db: orm.Session, auth: Auth, user: User, new: str, approved: bool, callback: str) -> Mail | None:
    """To the mailbox that is asked first: the present one, or without `approved` the new one.

    None when the account has another address by now, or when the new one is asked and is somebody's.
    """
    now, yours = auth.clock.now(), yours_of(auth, user)
    step = changes.start_change(db, user.id, new, now, yours, **own_columns(auth))
    if step is None or approved:
        return approval_mail(auth, user, step, callback) if step else None
    step = changes.approve_change(db, step.token or "", now, yours, **own_columns(auth))
    return verification_mail(auth, user, new, step.token, callback) if step and step.token else None


REQUESTS = Allowance(3, timedelta(minutes=20))  # for another address, of one account
ASKED = "Another address was asked for, for your account. If that was not you, set a new password: that ends it."


class ChangeEmail(Sent):
    newEmail: Email
    callbackURL: Text = ""


@account_routes.post("/change-email")
def change_email(
    auth: Service, sent: Annotated[ChangeEmail, body(ChangeEmail)], caller: CurrentSession
) -> dict[str, bool]:
    """Ask for another address. AuthError 403 when the sign-in was too long ago. Nothing changes yet."""
    user, new = caller.user, sent.newEmail
    if new == user.email:
        raise AuthError(400, None, "Email is the same")
    if not signed_in_lately(auth, caller):
        raise AuthError(403, "SESSION_NOT_FRESH")
    step_up(auth, caller)
    if auth.settings.rate_limits:
        spend(auth, REQUESTS, CHANGE, str(user.id))
    approved = user.email_verified and auth.settings.confirm_email_change

    after_the_answer(auth, lambda db: asked_mail(db, auth, user, new, approved, sent.callbackURL))
    if not approved:
        tell(auth, user.email, ASKED)
    return {"status": True}


def approve_change(
    request: Request, response: Response, auth: Auth, token: str, row: Link, user: User, callback: str
) -> Response:
    """The present address agrees: now the new one is asked.

    Not the recipe's: Better Auth opens links by GET, which scanners of mails do, too. So this one is not taken, and
    mails again after a pause. It ends with a newer request, with a new password and with the change.
    """
    caller = look_up(request, auth)
    if caller is not None and caller.user.id != user.id:
        return link_refused(callback, "INVALID_USER")

    def work(db: orm.Session) -> Mail | None:
        wanted = has_still(db, user) and db.get(Verification, row.id) is not None  # no newer request
        free = (
            db.scalar(sa.select(User.id).where(User.email == row.email)) is None
        )  # or its owner has asked for nothing
        if not wanted or not may_mail(db, auth, user, CHANGE) or not free:
            return None
        proof = new_link(db, auth, user, CHANGE, row.email, auth.settings.verification_lifetime)
        return verification_mail(auth, user, row.email, proof, callback)

    after_the_answer(auth, work)
    return redirect(callback) if callback else JSONResponse({"status": True})


def move(db: orm.Session, auth: Auth, user: User, token: str) -> User | None:
    """Take the link and give the account its address. None when another request was first."""
    step = changes.finish_change(db, token, auth.clock.now(), yours_of(auth, user))
    return db.get(User, user.id, populate_existing=True) if step else None


def make_change(
    request: Request, response: Response, auth: Auth, token: str, row: Link, user: User, callback: str
) -> Response:
    """The new address is proven: it is the account's. The old one is told."""
    caller = look_up(request, auth)
    if caller is not None and caller.user.id != user.id:
        return link_refused(callback, "INVALID_USER")
    try:
        moved = auth.transact(lambda db: move(db, auth, user, token))
    except sa.exc.IntegrityError:
        moved = None  # somebody else has the address by now
    if moved is None:
        return link_refused(callback, "INVALID_TOKEN")
    tell(auth, user.email, "Your account has another address now, not this one. If that was not you, write to us.")
    answer = redirect(callback) if callback else JSONResponse({"status": True, "user": user_view(moved)})
    set_cookies(answer, remembered(auth, request, caller.session, caller.token) if caller else [])
    return answer


def left_without_owner(db: orm.Session, user_id: UUID) -> list[str]:
    """The slugs of the organizations of which this user is the only owner."""
    other = orm.aliased(Member)
    same = other.organization_id == Member.organization_id
    others = sa.exists().where(same, other.role == "owner", other.user_id != user_id)
    query = sa.select(Organization.slug).join(Member, Member.organization_id == Organization.id)
    mine = query.where(Member.user_id == user_id, Member.role == "owner", ~others)
    return list(db.scalars(mine.order_by(Organization.slug)))


def remove(db: orm.Session, user_id: UUID) -> bool:
    """Delete the user with all that is theirs; whether there was one. AuthError 400 names what lacks another owner."""
    mine = sa.select(Member.organization_id).where(Member.user_id == user_id)
    changed = sa.update(Organization).where(Organization.id.in_(mine)).values(version=Organization.version + 1)
    db.execute(changed.execution_options(synchronize_session=False))
    if alone := left_without_owner(db, user_id):
        raise AuthError(400, "LAST_OWNER", f"Name another owner first: {', '.join(alone)}")
    db.execute(sa.delete(PackageRole).where(PackageRole.user_id == user_id))
    db.execute(sa.update(File).where(File.uploaded_by == user_id).values(uploaded_by=None))
    return delete_user(db, user_id)


class DeleteUser(Sent):
    password: str = ""
    token: str = ""
    callbackURL: Text = ""


@account_routes.post("/delete-user", dependencies=[HASHING_TURN])
def delete_account(
    request: Request, response: Response, auth: Service, sent: Annotated[DeleteUser, body(DeleteUser)],
    caller: CurrentSession,
) -> dict[str, Any]:  # fmt: skip
    """Delete the caller, who gives the password or has signed in a moment ago."""
    step_up(auth, caller)
    if sent.password:
        prove_again(auth, caller, sent.password)
    if sent.token:
        raise AuthError(404, "INVALID_TOKEN")  # links that delete are not mailed
    if not sent.password and not signed_in_lately(auth, caller):
        raise AuthError(400, "SESSION_EXPIRED")

    def work(db: orm.Session) -> bool:
        still_signed_in(db, auth, request, caller)
        return remove(db, caller.user.id)

    if auth.transact(work):
        tell(auth, caller.user.email, "Your account was deleted. If that was not you, write to us.")
    set_cookies(response, cookies_of(auth).drop())
    return {"success": True, "message": "User deleted"}
