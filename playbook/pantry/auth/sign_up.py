"""Sign-up and the verification of an address, without telling strangers who has an account."""

import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final, cast
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from sqlalchemy import orm

from playbook.auth import mailed_links
from playbook.auth.mail import Mail, link
from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password
from playbook.auth.password_rules import PasswordRefused
from playbook.auth.second_factor import has_second_factor
from playbook.foundations.clock_and_identifiers import new_token
from playbook.foundations.deny_by_default import anyone
from playbook.foundations.write_skew import hold
from playbook.pantry.auth.cross_site import location
from playbook.pantry.auth.passwords import REFUSALS, rules_of
from playbook.pantry.auth.sessions import FACTORS, look_up, remembered, set_cookies, start_session, user_view
from playbook.pantry.auth.tables import UserSession, Verification
from playbook.pantry.auth.wire import Auth, AuthError, Sent, Service, Text, body
from playbook.schema.identity import Account, EmailTaken, User, add_user, normal_email

LINKS = cast(sa.Table, Verification.__table__)  # has the columns that `mailed_links` asks for, and an id
Link = sa.Row[Any]


def new_link(db: orm.Session, auth: Auth, user: User, purpose: str, email: str, lifetime: int) -> str:
    """A token for a mailed link, good for `lifetime` seconds. Only its hash is stored."""
    hold_once(db, user.id)
    given = (purpose, user.id, email, auth.clock.now(), timedelta(seconds=lifetime))
    return mailed_links.new_link(db, *given, table=LINKS, **own_columns(auth))


def own_columns(auth: Auth) -> dict[str, Any]:
    """What Pantry's links have besides: an id, and tokens with a prefix that scanners of repositories know."""
    return {"id": auth.ids.new(), "make_token": partial(new_token, "link", auth.random_bytes)}


def hold_once(db: orm.Session, user_id: UUID) -> None:
    """Keep the user until the commit, on engines without foreign keys: `hold_parents` sees objects, and no table.

    Raises LookupError when the user is gone.
    """
    held = ("users.id", user_id) in db.info.get("held", ())
    if db.get_bind().dialect.name != "postgresql" and not held and not hold(db, User.id, user_id):
        raise LookupError("a link for a user who is gone")


def find_link(db: orm.Session, token: str, *purposes: str) -> Link | None:
    """The row of a token for one of `purposes`, also when it has expired: Better Auth tells these apart."""
    row = mailed_links.read_link(db, token, LINKS)
    return row if row is not None and row.purpose in purposes else None


VERIFY: Final = "verify-email"
NOTICE: Final = "sign-up-notice"
SUBJECTS = {
    "verify-email": "Confirm your e-mail address",
    "reset-password": "Set a new password",
    "notice": "About your account",
}


def verification_mail(auth: Auth, user: User, email: str, token: str, callback: str) -> Mail:
    """The mail whose link proves `email`: the address of `user`, or the one they want. Nothing in it is theirs."""
    site, minutes = auth.settings.base_url, auth.settings.verification_lifetime // 60
    url = link(site, "/api/auth/verify-email", token=token, callbackURL=callback or "/")
    signed_up = f"Somebody signed up at {site} with this address and a password of their own."
    asked = signed_up if email == user.email else f"Somebody wants to use this address for their account at {site}."
    text = (
        f"{asked}\n\nIf that was you, this link confirms it, for {minutes} minutes:\n\n{url}\n\n"
        "If it was not you, do not open the link: without it they cannot use your address.\n"
    )
    return Mail(email, VERIFY, SUBJECTS[VERIFY], text, url, token)


def notice_mail(auth: Auth, user: User) -> Mail:
    """The mail to the owner of an address with which somebody signed up again."""
    text = f"Somebody signed up at {auth.settings.base_url} with this address, which has an account there already.\n\n"
    proven = "If that was you: sign in, or set a new password. If it was not you, nothing has changed.\n"
    unproven = "If that was you: ask there for a new password. The one chosen before may be somebody else's.\n"
    return Mail(user.email, "notice", SUBJECTS["notice"], text + (proven if user.email_verified else unproven))


MAIL_PAUSE = timedelta(minutes=1)


def may_mail(db: orm.Session, auth: Auth, user: User, *purposes: str) -> bool:
    """Whether one more mail may go to `user`, after those of `purposes` in the last day.

    If so, writes the user's row.
    """
    now, found = auth.clock.now(), sa.select(sa.func.count(), sa.func.max(Verification.created_at))
    today = Verification.created_at > now - timedelta(days=1)
    mine = (Verification.user_id == user.id, Verification.purpose.in_(purposes), today)
    sent, last = db.execute(found.where(*mine)).one()
    longest = timedelta(seconds=auth.settings.verification_lifetime)
    wait = bool(sent) and now - last < min(MAIL_PAUSE * 2 ** min(sent - 1, 20), longest)
    may = not (wait and auth.settings.rate_limits)
    return hold(db, User.id, user.id, alone=may) and may  # equal work; and no mail to who was deleted meanwhile


def due_verification(db: orm.Session, auth: Auth, user: User, callback: str) -> Mail | None:
    """A mail that proves the user's address, unless one went out a moment ago."""
    if not may_mail(db, auth, user, VERIFY):
        return None
    token = new_link(db, auth, user, VERIFY, user.email, auth.settings.verification_lifetime)
    return verification_mail(auth, user, user.email, token, callback)


def due_notice(db: orm.Session, auth: Auth, user: User) -> Mail | None:
    """A mail that tells of a second sign-up, unless one about signing up went out a moment ago."""
    due = may_mail(db, auth, user, VERIFY, NOTICE)
    new_link(db, auth, user, NOTICE if due else "none", user.email, 1)  # opens nothing: the row remembers when
    return notice_mail(auth, user) if due else None


def in_background(auth: Auth, call: Callable[[], object] | None = None) -> None:
    """Run `call` after the answer. AuthError 503 to everybody alike when no mail could be taken: say it, or lose it."""
    if auth.postbox.full or (call is not None and not auth.postbox.submit(call)):
        raise AuthError(503, "SERVICE_UNAVAILABLE", headers={"Retry-After": "60"})


def after_the_answer(auth: Auth, work: Callable[[orm.Session], Mail | None]) -> None:
    """Run `work` in a transaction and send its mail, both in the background: the answer takes as long for everybody."""

    def run() -> None:
        if (mail := auth.transact(work)) is not None:
            auth.postbox.post(mail)

    in_background(auth, run)


def check_rules(auth: Auth, password: str, *context: str) -> None:
    """AuthError 400 says which rule of the settings a new password breaks. `context`: words that count for nothing."""
    try:
        rules_of(auth.settings).check(password, context)
    except PasswordRefused as error:
        raise AuthError(400, *REFUSALS[error.reason]) from None


def new_user(auth: Auth, name: str, email: str, image: str | None) -> User:
    """A user of this moment, with an address that is not proven; stored nowhere yet."""
    now = auth.clock.now()
    return User(
        id=auth.ids.new(), name=name, email=email, email_verified=False, image=image, created_at=now, updated_at=now
    )


def register(db: orm.Session, auth: Auth, name: str, email: str, image: str | None, password_hash: str) -> User:
    """A new user who signs in with a password. `email` as `normal_email` gives it. Raises EmailTaken."""
    user = add_user(db, auth.clock, auth.ids, email, name, image=image)
    account = Account(
        id=auth.ids.new(), user_id=user.id, provider="credential", provider_account_id=str(user.id),
        password_hash=password_hash, created_at=user.created_at, updated_at=user.created_at,
    )  # fmt: skip
    db.add(account)
    return user


def address(text: str) -> str:
    """`normal_email` of an address that can be written to. Raises a ValueError in the words of zod."""
    try:
        return Mail(normal_email(text), "notice", "", "").to
    except ValueError:
        raise PydanticCustomError("email", "Invalid email address") from None  # its words are shown


Email = Annotated[str, Field(max_length=2000), AfterValidator(address)]


class SignUp(Sent):
    name: Annotated[str, Field(max_length=200)]
    email: Email
    password: Annotated[str, Field(min_length=1)]
    image: Text = ""
    callbackURL: Text = ""
    rememberMe: bool = True


Entry = tuple[User, Mail | None, tuple[UserSession, str] | None]  # whom to show, what to send, a session and its token


def unproven_password(db: orm.Session, email: str) -> str | None:
    """The hash of the password that somebody chose for an address which is not proven."""
    mine = sa.and_(User.email == email, User.email_verified.is_(False), Account.provider == "credential")
    return db.scalar(sa.select(Account.password_hash).join(User, User.id == Account.user_id).where(mine))


def drop_unproven(db: orm.Session, email: str, password_hash: str | None) -> None:
    """Let this password of an unproven address count for nothing; with None do the same work for nothing."""
    unproven = sa.select(User.id).where(User.email == email, User.email_verified.is_(False))
    mine = sa.update(Account).where(Account.user_id.in_(unproven), Account.password_hash == (password_hash or ""))
    db.execute(mine.values(password_hash=None).execution_options(synchronize_session=False).returning(Account.id)).all()


def enter(db: orm.Session, auth: Auth, request: Request, sent: SignUp, new_hash: str, doubtful: str | None) -> Entry:
    """Register; for an address that is taken tell its owner, and show a user who is not stored.

    AuthError 422 instead where addresses need not be verified. Raises EmailTaken when another request was first.
    `doubtful`: the hash of another password for this address, also unproven.
    """
    proof, image = auth.settings.require_email_verification, sent.image or None
    if proof and auth.settings.strict_proof:
        drop_unproven(db, sent.email, doubtful)
    owner = db.scalar(sa.select(User).where(User.email == sent.email))
    if owner is not None and not proof:
        raise AuthError(422, "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL")
    if owner is not None:
        return new_user(auth, sent.name, sent.email, image), due_notice(db, auth, owner), None
    user = register(db, auth, sent.name, sent.email, image, new_hash)
    token = new_link(db, auth, user, VERIFY, user.email, auth.settings.verification_lifetime)
    mail = verification_mail(auth, user, user.email, token, sent.callbackURL)
    return user, mail, None if proof else start_session(db, auth, user.id, request, sent.rememberMe)


sign_up_routes = APIRouter(prefix="/api/auth")


@sign_up_routes.post("/sign-up/email", dependencies=[Depends(anyone), HASHING_TURN])
def sign_up_email(
    request: Request, response: Response, auth: Service, sent: Annotated[SignUp, body(SignUp)]
) -> dict[str, Any]:
    """Register. When addresses must be verified, the answer is the same for one that is taken."""
    if auth.settings.require_email_verification:
        in_background(auth)
    check_rules(auth, sent.password, sent.name, sent.email)
    password_hash = hash_password(sent.password)

    def register_or_tell() -> Entry:
        doubt = auth.settings.require_email_verification and auth.settings.strict_proof
        stored = auth.transact(lambda db: unproven_password(db, sent.email)) if doubt else None
        doubtful = None if not doubt or check_password(sent.password, stored).matches else stored
        return auth.transact(lambda db: enter(db, auth, request, sent, password_hash, doubtful))

    try:
        user, mail, opened = register_or_tell()
    except EmailTaken:
        user, mail, opened = register_or_tell()
    if mail is not None:
        auth.postbox.post(mail)
    set_cookies(response, remembered(auth, request, *opened, sent.rememberMe) if opened else [])
    return {"token": str(opened[0].id) if opened else None, "user": user_view(user)}


class SendVerification(Sent):
    email: Email
    callbackURL: Text = ""


@sign_up_routes.post("/send-verification-email", dependencies=[Depends(anyone)])
def send_verification_email(
    request: Request, auth: Service, sent: Annotated[SendVerification, body(SendVerification)]
) -> dict[str, bool]:
    """Mail the link again. Who is not signed in learns nothing about the address."""
    caller = look_up(request, auth)
    if caller is not None and caller.user.email != sent.email:
        raise AuthError(400, "EMAIL_MISMATCH")
    if caller is not None and caller.user.email_verified:
        raise AuthError(400, "EMAIL_ALREADY_VERIFIED")

    def work(db: orm.Session) -> Mail | None:
        user = db.scalar(sa.select(User).where(User.email == sent.email, User.email_verified.is_(False)))
        return due_verification(db, auth, user, sent.callbackURL) if user is not None else None

    after_the_answer(auth, work)
    return {"status": True}


def redirect(url: str) -> Response:
    """302, and the next page is not told the URL that led there: it holds a token."""
    headers = {"location": location(url), "referrer-policy": "no-referrer"}
    return Response(status_code=302, headers=headers, media_type="application/json")


def with_query(url: str, **query: str) -> str:
    """`url` with more query parameters, the ones it has kept as they are."""
    rest, hash_sign, fragment = url.partition("#")
    if re.fullmatch(r"https?://[^/?#]+", rest):
        rest += "/"
    joined = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return f"{rest}{'&' if '?' in rest else '?'}{joined}{hash_sign}{fragment}"


def link_refused(callback: str, code: str) -> Response:
    """A link that does not work: back to the front end, or AuthError 401 for a program."""
    if not callback:
        raise AuthError(401, code)
    return redirect(with_query(callback, error=code))


def confirm_address(
    request: Request, response: Response, auth: Auth, token: str, row: Link, user: User, callback: str
) -> Any:
    """The address is proven. Of several clicks only one changes anything, and only that one may sign in."""

    def work(db: orm.Session) -> tuple[UserSession, str] | None:
        unproven = sa.update(User).where(User.id == user.id, User.email == row.email, User.email_verified.is_(False))
        done = db.execute(unproven.values(email_verified=True, updated_at=auth.clock.now()).returning(User.id)).all()
        # Who reads the mailbox has at most one factor: Better Auth signs in here without the other one.
        enough = auth.settings.sign_in_after_verification and not has_second_factor(db, user.id, FACTORS)
        return start_session(db, auth, user.id, request) if done and enough else None

    if user.email != row.email:
        return link_refused(callback, "INVALID_TOKEN")
    opened = auth.transact(work)
    answer = redirect(callback) if callback else JSONResponse({"status": True, "user": None})
    set_cookies(answer, remembered(auth, request, *opened, True) if opened else [])
    return answer
