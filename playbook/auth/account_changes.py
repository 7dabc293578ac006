# %% [markdown]
"""
# Account changes

Change the password, the address and the account itself, so that a stolen session can do none of it alone.

| | |
|---|---|
| **Use it when** | people change their password or address themselves, or leave |
| **You need** | [identity](../schema/identity.ipynb), [sessions](sessions.ipynb), [sign_up](sign_up.ipynb), [sign_in](sign_in.ipynb), [password_reset](password_reset.ipynb) |
| **Time** | 20 minutes |
| **Topics** | change password, change e-mail, update profile, delete account, re-authentication, step-up, sudo mode, session freshness, account takeover, stolen session, session hijacking, confirmation link, notice to the old address, compare and set, write skew, last owner, right to erasure |
| **Standard** | OWASP ASVS 5.0 6.2.2, 6.2.3, 6.3.7, 7.4.2, 7.4.3, 7.5.1; NIST SP 800-63B-4 4.6 |
"""

# %% [markdown]
"""
## The decision

Somebody is signed in and asks for another e-mail address. What must they show?

| option | good | costs |
|---|---|---|
| the session | one click | whoever has the cookie for a minute has the account for good |
| a recent sign-in, and a link to the new address | a thief of the cookie does not know the password; no typing error | who knows the password needs nothing else |
| **a recent sign-in, a link to the old address, then one to the new** | a thief needs the password *and* the old mailbox | two mails; who has lost the old mailbox needs a person to help |

Choose the second where people lose mailboxes more often than passwords, as when they change employers
(`PANTRY_CONFIRM_EMAIL_CHANGE=off`); the old address is told in any case. One that was never proven is not asked.

Why a recent sign-in and no field for the password? Better Auth's front end has none here, and signing in again works
with every factor that a later page adds. Its new session is the proof, for ten minutes.
"""

# %% [markdown]
"""
## See it break

What the earlier pages built is in place: hashed tokens, links that work once, a reset that ends every session. One
route is added, as it is written first. Mallory has Ada's cookie, from a browser that was left open, and not the
password. Before you run the cell: how many requests until Ada is locked out?
"""

# %%
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import APIRouter, Body

from playbook.auth.mail import MemorySender
from playbook.auth.password_hashing import hash_password
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base, make_engine
from playbook.kit.lesson import checker, lesson_url, on_postgres, sequence_diagram, serving, show, table
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth.cross_site import check_cross_site
from playbook.pantry.auth.links import link_routes
from playbook.pantry.auth.password_reset import reset_routes
from playbook.pantry.auth.sessions import CurrentSession, session_routes
from playbook.pantry.auth.sign_in import sign_in_routes
from playbook.pantry.auth.sign_up import register, sign_up_routes
from playbook.pantry.auth.wire import Auth, Service, auth_app
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings
from playbook.schema.identity import User, add_user

SITE, OLD, NEW = "http://localhost:8000", "seven lamps above the harbour", "the harbour sold its lamps"
ADA, MALLORY = "ada@example.com", "mallory@evil.example"


def service(url, *routers, **changes):
    settings, engine = Settings(environment="test", database_url=url, **changes), make_engine(url)
    Base.metadata.create_all(engine)
    clock, stored = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)), hash_password(OLD)
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), Postbox(MemorySender()), SeededBytes(2))
    auth.transact(lambda db: setattr(register(db, auth, "Ada", ADA, None, stored), "email_verified", True))
    routers = [session_routes, sign_up_routes, link_routes, sign_in_routes, reset_routes, *routers]
    return auth, auth_app(auth, routers, [check_cross_site])


def browser(server, stolen_from=None):
    return LiveClient(str(server.base_url), headers={"origin": SITE}, cookies=stolen_from and stolen_from.cookies)


def post(client, path, **sent):
    answer = client.post(f"/api/auth/{path}", json=sent)
    auth.postbox.drain()
    return answer


def in_short(answer):
    said = answer.json().get("code", "") if answer.content else answer.headers["location"]
    return f"{answer.status_code} {said}".strip()


naive_routes = APIRouter(prefix="/api/auth")


@naive_routes.post("/change-email")
def naive_change(auth: Service, caller: CurrentSession, newEmail: str = Body(embed=True)):
    auth.transact(lambda db: db.execute(sa.update(User).where(User.id == caller.user.id).values(email=newEmail)))
    return {"status": True}


# %%
auth, app = service(lesson_url(), naive_routes)
with serving(app) as server:
    ada, mailbox = browser(server), auth.postbox.sender
    post(ada, "sign-in/email", email=ADA, password=OLD)
    mallory = browser(server, stolen_from=ada)
    steps = {
        "Mallory: another address": post(mallory, "change-email", newEmail=MALLORY),
        "Mallory: a link": post(mallory, "request-password-reset", email=MALLORY, redirectTo="/"),
        "Mallory: a password": post(mallory, "reset-password", newPassword=NEW, token=mailbox.last(MALLORY).token),
        "Ada: to sign in": post(ada, "sign-in/email", email=ADA, password=OLD),
        "Ada: a link": post(ada, "request-password-reset", email=ADA, redirectTo="/"),
    }
show(table([{"who asks for what": step, "answer": in_short(answer)} for step, answer in steps.items()]))
print("mails to Ada:", len([mail for mail in mailbox.mails if mail.to == ADA]))

# %% [markdown]
"""
Three, and nobody tells Ada. The reset, built with care, did what it is for: it trusted whoever reads the mailbox. So
the mailbox is the key to the account, and its address deserves more care than the password.

## Build it

First the proof. The tries at a password are counted by **session**, not by account, or a thief could use up the
owner's; a right one makes the count whole again. Where the call has no field for a password, the sign-in must be new.
"""

# %%
from datetime import timedelta

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from sqlalchemy import orm

from playbook.auth.password_hashing import HASHING_TURN, check_password, hash_password, replace_hash
from playbook.pantry.auth.sessions import REMEMBER, SignedIn, cookies_of, end_sessions, is_fresh, start_session
from playbook.pantry.auth.sign_in import Allowance, check_length, forget, spend
from playbook.pantry.auth.wire import MESSAGES, Auth, AuthError, Sent, Service, Text, body, keep_cookies
from playbook.schema.identity import Account, Member, Organization, User, UserSession, Verification, delete_user

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


# %%
def signed_in_lately(auth: Auth, caller: SignedIn) -> bool:
    """Whether the caller signed in to this session within the setting `reauthentication`."""
    return is_fresh(auth, caller.session, min(auth.settings.reauthentication, auth.settings.session_fresh))


def still_signed_in(db: orm.Session, auth: Auth, request: Request, caller: SignedIn) -> None:
    """AuthError 401 when the session was ended since the request came: to compare a password takes a while."""
    if db.scalar(sa.select(UserSession.id).where(UserSession.id == caller.session.id)) is None:
        keep_cookies(request, cookies_of(auth).drop())
        raise AuthError(401, "UNAUTHORIZED")


# %% [markdown]
"""
The password. While it is compared and hashed, outside of the transaction, a reset may be quicker: the new hash is
stored only where the old one still stands. Mailed links and all sessions end; the caller goes on with a new cookie.
"""

# %%
from playbook.pantry.auth.password_reset import RESET, drop_links, tell

account_routes = APIRouter(prefix="/api/auth")
APPROVE, CHANGE = "approve-email-change", "change-email"  # the links of a change: to the old address, to the new


def replace_password(
    db: orm.Session, auth: Auth, request: Request, caller: SignedIn, account: Account, new_hash: str, renew: bool
) -> tuple[UserSession, str] | None:
    """Store the new hash. With `renew` every session ends, and the caller's goes on as a new one, which is returned."""
    still_signed_in(db, auth, request, caller)
    if not replace_hash(db, auth.clock, account.id, account.password_hash or "", new_hash):
        raise AuthError(400, "INVALID_PASSWORD")  # somebody else has changed it since it was compared
    drop_links(db, caller.user.id, RESET, APPROVE, CHANGE)
    if not renew:
        return None
    end_sessions(db, caller.user.id)
    remember = cookies_of(auth).read(request.headers.get("cookie", ""), REMEMBER) is None
    return start_session(db, auth, caller.user.id, request, remember)


# %%
from typing import Annotated, Any

from playbook.pantry.auth.sessions import CurrentSession, remembered, set_cookies, user_view
from playbook.pantry.auth.sign_up import check_rules

MESSAGES |= {
    "INVALID_PASSWORD": "Invalid password", "CREDENTIAL_ACCOUNT_NOT_FOUND": "Credential account not found",
    "SESSION_EXPIRED": "Session expired. Re-authenticate to perform this action.", "INVALID_USER": "Invalid user",
    "EMAIL_CAN_NOT_BE_UPDATED": "Email can not be updated",
}  # fmt: skip


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
    account, new_hash = prove_again(auth, caller, sent.currentPassword), hash_password(sent.newPassword)
    renew = sent.revokeOtherSessions or auth.settings.revoke_sessions_on_change
    opened = auth.transact(lambda db: replace_password(db, auth, request, caller, account, new_hash, renew))
    tell(auth, caller.user.email, "Your password was changed. If that was not you, set a new one now.")
    set_cookies(response, remembered(auth, request, *opened) if opened else [])
    return {"token": str(opened[0].id) if opened else None, "user": user_view(caller.user)}


# %% [markdown]
"""
Two small ones. `verify-password` is for a front end that asks before it shows something; nothing here trusts it
later. Name and image prove nothing, so the session is enough. An address among them is refused, not ignored.
"""

# %%
from pydantic import Field


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


# %%
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


# %% [markdown]
"""
The address. Every step begins by *writing* the user's row, if it has the old address still: of two steps at the same
moment, one then comes after the other and sees what it did.

The approval names the new address, or Ada could not tell Mallory's request from hers. It goes to a proven address only.
"""

# %%
from playbook.auth.mail import Mail, link
from playbook.pantry.auth.sign_up import VERIFY, new_link, verification_mail


def has_still(db: orm.Session, user: User) -> bool:
    """Whether the account still has the address of `user`. Locks its row."""
    same = sa.update(User).where(User.id == user.id, User.email == user.email).values(updated_at=User.updated_at)
    return db.scalar(same.returning(User.id).execution_options(synchronize_session=False)) is not None


def approval_mail(db: orm.Session, auth: Auth, user: User, new: str, callback: str) -> Mail:
    """To the present address: a link that allows the change to `new`."""
    token = new_link(db, auth, user, APPROVE, new, auth.settings.verification_lifetime)
    site, minutes = auth.settings.base_url, auth.settings.verification_lifetime // 60
    url = link(site, "/api/auth/verify-email", token=token, callbackURL=callback or "/")
    text = (
        f"Somebody who is signed in to your account at {site} wants to change its address to\n\n    {new}\n\n"
        f"If that was you, this link allows it, for {minutes} minutes:\n\n{url}\n\n"
        "If it was not you, do not open the link, and set a new password: that ends it.\n"
    )
    return Mail(user.email, VERIFY, "Allow the change of your e-mail address", text, url, token)


def proof_mail(db: orm.Session, auth: Auth, user: User, new: str, callback: str) -> Mail | None:
    """To the new address: a link that proves it. None when it is somebody's: they have asked for nothing."""
    if db.scalar(sa.select(User.id).where(User.email == new)) is not None:
        return None
    token = new_link(db, auth, user, CHANGE, new, auth.settings.verification_lifetime)
    return verification_mail(auth, user, new, token, callback)


# %% [markdown]
"""
The request. Whether the new address is somebody's is looked up after the answer, as on sign_up. The approval goes out
either way: if it did not come, the caller's own mailbox would say who has an account. Three requests, then one every
twenty minutes: this route sends mail to any address that somebody types.
"""

# %%
from playbook.pantry.auth.sign_up import Email, after_the_answer

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
    if auth.settings.rate_limits:
        spend(auth, REQUESTS, CHANGE, str(user.id))
    approved = user.email_verified and auth.settings.confirm_email_change

    def work(db: orm.Session) -> Mail | None:
        if not has_still(db, user):
            return None
        drop_links(db, user.id, APPROVE, CHANGE)
        return (approval_mail if approved else proof_mail)(db, auth, user, new, sent.callbackURL)

    after_the_answer(auth, work)
    if not approved:
        tell(auth, user.email, ASKED)
    return {"status": True}


# %% [markdown]
"""
The two clicks. A browser that is signed in as somebody else is refused: its user was sent somebody's link. The first
may come twice, as mail scanners click too; it mails again after a pause. The second takes the link, changes the
address, and deletes all other links. Whether somebody else has the address by now, the unique index knows.
"""

# %%
from fastapi.responses import JSONResponse

from playbook.pantry.auth.links import LINKS
from playbook.pantry.auth.sessions import look_up
from playbook.pantry.auth.sign_up import link_refused, may_mail, redirect


def approve_change(
    request: Request, response: Response, auth: Auth, row: Verification, user: User, callback: str
) -> Response:
    """The present address agrees: now the new one is asked."""
    caller = look_up(request, auth)
    if caller is not None and caller.user.id != user.id:
        return link_refused(callback, "INVALID_USER")

    def work(db: orm.Session) -> Mail | None:
        wanted = has_still(db, user) and db.get(Verification, row.id) is not None  # no newer request
        return proof_mail(db, auth, user, row.email, callback) if wanted and may_mail(db, auth, user, CHANGE) else None

    after_the_answer(auth, work)
    return redirect(callback) if callback else JSONResponse({"status": True})


# %%
def move(db: orm.Session, auth: Auth, user: User, row: Verification) -> User | None:
    """Take the link and give the account its address. None when another request was first."""
    used = sa.delete(Verification).where(Verification.id == row.id).returning(Verification.id)
    mine = sa.update(User).where(User.id == user.id, User.email == user.email)
    change = mine.values(email=row.email, email_verified=True, updated_at=auth.clock.now()).returning(User.id)
    if not db.execute(used).all() or not db.execute(change).all():
        return None
    drop_links(db, user.id)
    return db.get(User, user.id, populate_existing=True)


def make_change(
    request: Request, response: Response, auth: Auth, row: Verification, user: User, callback: str
) -> Response:
    """The new address is proven: it is the account's. The old one is told."""
    caller = look_up(request, auth)
    if caller is not None and caller.user.id != user.id:
        return link_refused(callback, "INVALID_USER")
    try:
        moved = auth.transact(lambda db: move(db, auth, user, row))
    except sa.exc.IntegrityError:
        moved = None  # somebody else has the address by now
    if moved is None:
        return link_refused(callback, "INVALID_TOKEN")
    tell(auth, user.email, "Your account has another address now, not this one. If that was not you, write to us.")
    answer = redirect(callback) if callback else JSONResponse({"status": True, "user": user_view(moved)})
    set_cookies(answer, remembered(auth, request, caller.session, caller.token) if caller else [])
    return answer


LINKS |= {APPROVE: approve_change, CHANGE: make_change}

# %% [markdown]
"""
Leaving. With the account go its sessions, links, memberships and roles; what it uploaded stays. An organization must
keep an owner, which is no rule about one row: two owners who leave at once each see the other. So both write the
organization's `version`, as every writer of this rule does.
"""

# %%
from uuid import UUID

from playbook.pantry.catalog import File, PackageRole


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


# %%
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


# %% [markdown]
"""
## See it work

Mallory again, with a cookie of this morning. She tries all there is, then guesses the password.
"""

# %%
auth, app = service(lesson_url(), account_routes)
tries = [
    ("change-email", {"newEmail": MALLORY}), ("update-user", {"email": MALLORY}), ("delete-user", {}),
    ("change-password", {"newPassword": NEW, "currentPassword": "a guess"}),
    *[("verify-password", {"password": f"guess {number}"}) for number in range(5)],
]  # fmt: skip
with serving(app) as server:
    ada = browser(server)
    post(ada, "sign-in/email", email=ADA, password=OLD)
    mallory = browser(server, stolen_from=ada)
    auth.clock.advance(timedelta(hours=3))
    show(table([{"Mallory": path, "answer": in_short(post(mallory, path, **sent))} for path, sent in tries]))
    post(ada, "sign-in/email", email=ADA, password=OLD)
    print("Ada, in a session of her own:", in_short(post(ada, "verify-password", password=OLD)))

# %% [markdown]
"""
Now Ada changes her address. The diagram is what happened, with the statements of the last click:
"""


# %%
def click(client, mail):
    url = urlsplit(mail.url)
    answer = client.get(f"{url.path}?{url.query}")
    auth.postbox.drain()
    return answer


def now(client, step):
    email = client.get("/api/auth/get-session").json()["user"]["email"]
    return {"after": step, "the account's address": email, "last mail to": mailbox.mails[-1].to}


NEW_ADDRESS, mailbox = "ada@new.example", auth.postbox.sender
with serving(app) as server:
    client = browser(server, stolen_from=ada)
    post(client, "change-email", newEmail=NEW_ADDRESS, callbackURL="/settings")
    approval, known = mailbox.last(ADA), [now(client, "the request")]
    click(client, approval)
    known.append(now(client, "the old address agrees"))
    with capture_sql(auth.engine) as statements:
        click(client, mailbox.last(NEW_ADDRESS))
    known.append(now(client, "the new address is proven"))
story = [replace(e, path=e.path.split("?")[0]) for e in client.exchanges if "get-session" not in e.path]
show(sequence_diagram(story, statements))
show(table(known))
print(approval.text.replace(approval.token, "..."))

# %% [markdown]
"""
## On PostgreSQL

The two owners of a team leave at the same moment, in five teams, on both engines: first look, then delete, with a
meeting between the two; then as built.
"""


# %%
def two_owners(auth, slug):
    def work(db):
        now, ids = auth.clock.now(), auth.ids
        owners = [add_user(db, auth.clock, ids, f"{name}@{slug}.example", name).id for name in ("eve", "fay")]
        db.add(team := Organization(id=ids.new(), slug=slug, name=slug, created_at=now, updated_at=now))
        db.flush()
        for owner in owners:
            db.add(Member(id=ids.new(), organization_id=team.id, user_id=owner, role="owner", created_at=now))
        return owners

    return auth.transact(work)


def look_then_delete(db, user_id, meeting=threading.Barrier(2)):
    alone = left_without_owner(db, user_id)
    meeting.wait(30)
    return not alone and delete_user(db, user_id)


def both_leave(url):
    (auth, _), rows = service(url), []
    for way in (look_then_delete, remove):

        def leave(user_id, way=way):
            try:
                return str(auth.transact(lambda db: way(db, user_id)))
            except AuthError as error:
                return error.code

        with ThreadPoolExecutor(2) as threads:
            answers = {a for n in range(5) for a in threads.map(leave, two_owners(auth, f"{way.__name__}-{n}"))}
        left = auth.transact(lambda db: db.scalar(sa.select(sa.func.count(Member.id))))
        rows.append({"way": way.__name__, "answers": ", ".join(sorted(answers)), "owners of five teams": left})
    return rows


here, there = both_leave(lesson_url()), on_postgres(both_leave)
show(table(here))
print("the same on PostgreSQL:", there in (here, None))

# %% [markdown]
"""
## Check it
"""

# %%
assert [row["owners of five teams"] for row in here] == [0, 5] and there in (here, None)
assert [row["the account's address"] for row in known] == [ADA, ADA, NEW_ADDRESS], "changed before the confirmation"

auth, app = service(lesson_url(), account_routes, rate_limits=False)
with serving(app) as server:
    ada, other, stranger, mailbox = browser(server), browser(server), browser(server), auth.postbox.sender
    for client in (ada, other):
        post(client, "sign-in/email", email=ADA, password=OLD)
    auth.transact(lambda db: add_user(db, auth.clock, auth.ids, "bob@example.com", "Bob"))
    taken = post(ada, "change-email", newEmail="bob@example.com")
    click(ada, mailbox.mails[0])
    assert len(mailbox.mails) == 1, "a mail to somebody who asked for nothing"
    assert post(ada, "change-email", newEmail=NEW_ADDRESS).content == taken.content, "who has an account shows"
    post(stranger, "request-password-reset", email=ADA, redirectTo="/")
    approval, reset = mailbox.mails[1:]
    assert [in_short(click(stranger, approval)) for _ in range(2)] == ["302 /", "302 /"], "mail scanners click, too"
    proof = mailbox.last(NEW_ADDRESS)
    assert [in_short(click(stranger, proof)) for _ in range(2)] == ["302 /", "302 /?error=INVALID_TOKEN"]
    stale = post(stranger, "reset-password", newPassword=NEW, token=reset.token)
    assert in_short(stale) == "400 INVALID_TOKEN", "links to the old address are dead"

    copied = browser(server, stolen_from=ada)
    post(ada, "change-password", newPassword=NEW, currentPassword=OLD)
    shown = [client.get("/api/auth/get-session").json() is not None for client in (ada, other, copied)]
    assert shown == [True, False, False], "other sessions go, and copies of this one"
print("a session alone changes nothing, a link is for one step, and no organization is left alone")

# %% [markdown]
"""
## Your turn

"Write to us" is slow, and Mallory is quick. Put a link into the notice to the old address that undoes the change, for
seven days. `changed` is called in the transaction of a change, when the account has its new address, and returns the
token for that link; `undo` is called in a transaction with a token and says whether the old address is back.

Think of what Mallory does after a change: she sets a password, stays signed in, asks for further links, and moves on
to a second address; *her* first address then has such a link as well, to use before or after Ada uses hers.
"""

# %%
UNDO = "undo-email-change"


# %% tags=["exercise"]
def changed(db: orm.Session, auth: Auth, user: User, old: str) -> str:
    return new_link(db, auth, user, UNDO, old, 7 * 86_400)


def undo(db: orm.Session, auth: Auth, token: str) -> bool:
    row = find_link(db, token, UNDO)
    if row is None:
        return False
    db.execute(sa.update(User).where(User.id == row.user_id).values(email=row.email))
    return True


# %%
from playbook.pantry.auth.sign_up import find_link

DAY = timedelta(days=1)


@checker
def check_undo(changed, undo):
    def start():
        auth, _ = service(lesson_url())
        request = Request({"type": "http", "headers": [], "client": None})
        ada = auth.transact(lambda db: db.scalar(sa.select(User)))
        return auth, ada.id, lambda: auth.transact(lambda db: start_session(db, auth, ada.id, request))

    def move_to(auth, user_id, new):
        def work(db):
            user = db.get(User, user_id)
            old, user.email = user.email, new
            drop_links(db, user_id, RESET, APPROVE, CHANGE, VERIFY)
            db.flush()
            return changed(db, auth, user, old)

        auth.clock.advance(DAY)
        return auth.transact(work)

    def put_back(auth, token):
        auth.clock.advance(timedelta(hours=1))
        return auth.transact(lambda db: undo(db, auth, token))

    def state(auth, model=User):
        return auth.transact(lambda db: db.scalars(sa.select(model)).all())

    auth, ada, sign_in = start()
    token = move_to(auth, ada, MALLORY)
    sign_in()
    auth.transact(lambda db: new_link(db, auth, db.get(User, ada), CHANGE, "third@evil.example", 86_400))
    if put_back(auth, "made up") or not put_back(auth, token) or state(auth)[0].email != ADA:
        return "not yet: a made-up token does nothing, a right one brings the old address back"
    if state(auth, UserSession):
        return "not yet: Mallory is still signed in"
    if any(account.password_hash is not None for account in state(auth, Account)):
        return "not yet: the password may be Mallory's; without one, Ada asks for a link to set a new one"
    if any(link.purpose == CHANGE for link in state(auth, Verification)):
        return "not yet: a link that Mallory asked for moves the account away again"
    move_to(auth, ada, "ada@new.example")
    if put_back(auth, token):
        return "not yet: the link worked twice"

    auth, ada, sign_in = start()
    token = move_to(auth, ada, MALLORY)
    auth.clock.advance(7 * DAY)
    if put_back(auth, token):
        return "not yet: seven days are over"

    auth, ada, sign_in = start()
    token = move_to(auth, ada, MALLORY)
    auth.transact(lambda db: register(db, auth, "Bob", ADA, None, "a hash"))
    sign_in()
    if put_back(auth, token) or not state(auth, UserSession):
        return "not yet: somebody else has the old address by now, so nothing may change"

    auth, ada, sign_in = start()
    first, second = move_to(auth, ada, MALLORY), move_to(auth, ada, "second@evil.example")
    if not put_back(auth, first) or state(auth)[0].email != ADA:
        return "not yet: Mallory has moved on to a second address, and Ada's link is dead"
    if put_back(auth, second):
        return "not yet: after Ada's link, the one to Mallory's first address still works"

    auth, ada, sign_in = start()
    first, second = move_to(auth, ada, MALLORY), move_to(auth, ada, "second@evil.example")
    if not put_back(auth, second) or not put_back(auth, first) or state(auth)[0].email != ADA:
        return "not yet: Mallory used her link first, and Ada's is dead"
    return "right"


check_undo(changed, undo)


# %% tags=["solution"]
def changed(db: orm.Session, auth: Auth, user: User, old: str) -> str:
    return new_link(db, auth, user, UNDO, old, 7 * 86_400)


def undo(db: orm.Session, auth: Auth, token: str) -> bool:
    row = find_link(db, token, UNDO)
    if row is None or row.expires_at <= auth.clock.now():
        return False
    if db.scalar(sa.select(User.id).where(User.email == row.email)) is not None:
        return False
    # Older links of this kind lead further back, to whoever had the account first: they stay. All others go.
    older = sa.and_(Verification.purpose == UNDO, Verification.created_at < row.created_at)
    mine = sa.delete(Verification).where(Verification.user_id == row.user_id, ~older)
    if row.id not in db.scalars(mine.returning(Verification.id)).all():
        return False
    back = sa.update(User).where(User.id == row.user_id)
    db.execute(back.values(email=row.email, email_verified=True, updated_at=auth.clock.now()))
    db.execute(sa.update(Account).where(Account.user_id == row.user_id).values(password_hash=None))
    end_sessions(db, row.user_id)
    return True


assert check_undo(changed, undo)

# %% [markdown]
"""
## Hand it over

- **Front end**: on 403 `SESSION_NOT_FRESH` ask for the password, call `signIn.email`, then repeat the call. After
  `changeEmail` say "if the address can be used, a mail is on its way". On `LAST_OWNER` show the message.
- **Security reviewer**: search for `sa.update(User)`; only `move` writes an address. A link opened by a mail scanner
  counts as a click, so the approval alone protects nobody: the recent sign-in does, too.
- **Operator**: "write to us" in the notices needs an address and somebody who reads it; say how they know who writes.
- **Migration owner**: a table that gets a `user_id` gets a line in `remove`, or keeps rows of nobody on DuckDB.
- **Test engineer**: keep the two owners, on both engines, with a meeting between look and delete in the naive way.

## Sources

OWASP ASVS 5.0: 6.2.2 and 6.2.3 (password change), 6.3.7 (notices), 7.4.2 and 7.4.3 (sessions end), 7.5.1
(re-authentication). NIST SP 800-63B-4, 4.6 (notices to the owner). OWASP Authentication Cheat Sheet, "Change a user's
registered email address". A. Sudhodanan, A. Paverd, "Pre-hijacked accounts" (USENIX Security 2022).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Password reset](password_reset.ipynb) · [course map](../index.ipynb) · Next: [A foreign contract](foreign_contract.ipynb)
"""
