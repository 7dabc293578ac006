# %% [markdown]
"""
# Password reset

Let somebody back in who has forgotten the password, and nobody else: by a link that works once, and whose sender cannot
be talked into writing another address on it.

| | |
|---|---|
| **Use it when** | people sign in with a password, which they will forget |
| **You need** | [mail](mail.ipynb), [sign_up](sign_up.ipynb), [sign_in](sign_in.ipynb), [sessions](sessions.ipynb) |
| **Time** | 18 minutes |
| **Topics** | password reset, forgot password, account recovery, reset token, single use, check then act, host header, poisoned link, security questions, revoke sessions, notice to the owner |
| **Standard** | OWASP ASVS 5.0 6.3.7, 6.3.8, 6.4.2, 6.4.3; NIST SP 800-63B-4 4.2; OWASP Forgot Password Cheat Sheet |
"""

# %% [markdown]
"""
## The decision

How does somebody show that an account is theirs when they cannot sign in?

| option | good | costs |
|---|---|---|
| security questions | no mail | the answers are on social media, and people forget them too; ASVS 6.4.2 forbids them |
| a new password by mail | one step | a password that lies in a mailbox for years; anybody can change anybody's |
| a code to type, by mail | works when the mail is read on another device | six digits can be guessed: tries must be counted |
| **a link with a long random token, by mail** | nothing to guess, nothing to type | opens where the mail is read; the mailbox is now the key to the account |

Choose a code for televisions and terminals; *Your turn* is about what it takes. The mailbox being the key is why a
second factor must not be resettable this way.
"""

# %% [markdown]
"""
## See it break

A first version: a token in a table, and a handler that looks it up, sets the password, and marks the token as used.
Ada asks for a link. Then two requests bring her token at the same moment, hers and that of somebody who has read it
over her shoulder. Before you run the cell: how many of the two set a password? And what is odd about the request for
the second link?
"""

# %%
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request

from playbook.auth.mail import Mail, SmtpSender
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.lesson import (
    checker,
    lesson_url,
    mail_server,
    on_postgres,
    sequence_diagram,
    serving,
    show,
    show_http,
)

demo = sa.MetaData()
tokens = sa.Table("tokens", demo, sa.Column("token", sa.String, primary_key=True), sa.Column("used", sa.Boolean))
passwords = sa.Table("passwords", demo, sa.Column("set_by", sa.String))
meeting = threading.Barrier(2)


def first_version(engine, sender):
    app = FastAPI()

    @app.post("/forgot")
    def forgot(request: Request):
        with engine.begin() as connection:
            connection.execute(tokens.insert().values(token="3f9a1c", used=False))
        url = f"http://{request.headers['host']}/reset?token=3f9a1c"
        sender.send(Mail("ada@example.com", "reset-password", "New password", f"Set it here: {url}", url, "3f9a1c"))

    @app.post("/reset")
    def reset(token: str, who: str):
        with engine.begin() as connection:
            row = connection.execute(sa.select(tokens).where(tokens.c.token == token, ~tokens.c.used)).first()
            if row is None:
                raise HTTPException(400, "invalid token")
            meeting.wait(30)
            connection.execute(passwords.insert().values(set_by=who))
        transaction(engine, lambda db: db.execute(tokens.update().where(tokens.c.token == token).values(used=True)))

    return app


engine, clock = make_engine(lesson_url()), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
demo.create_all(engine)
with mail_server() as smtp, serving(first_version(engine, SmtpSender(smtp.url, "me@pantry.test", clock))) as client:
    client.post("/forgot")
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda who: client.post(f"/reset?token=3f9a1c&who={who}"), ("ada", "mallory")))
    print("answers:", [answer.status_code for answer in answers])
    with engine.begin() as connection:
        print("passwords set by:", sorted(connection.scalars(sa.select(passwords.c.set_by))))
        connection.execute(tokens.delete())
    client.post("/forgot", headers={"host": "evil.example"})
    smtp.wait_for(2)
    print(f"mail to {smtp.messages[1]['to']}:", smtp.messages[1].get_content().strip())

# %% [markdown]
"""
Both. The look and the mark are two steps, and between them there is room. Snapshot isolation does not help: the first
writes no row that the second writes.

And the mail is genuine, from our own server to Ada's mailbox, with a link to `evil.example`. Mallory asked for it with a
`Host` header of her choice. Ada, who did forget her password this morning, clicks.

## Build it

The token is a row of `verifications`, as for sign-up: only its hash is stored, and it names its purpose, so that no link
opens what another is for. A new link makes older ones dead. The mail leaves out the name of the account: whoever signs
up with your address chooses it, and would be writing text that our domain sends you.
"""

# %%
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth.mail import Mail, link
from playbook.pantry.auth.sign_up import SUBJECTS, new_link
from playbook.pantry.auth.wire import Auth
from playbook.schema.identity import User, Verification

RESET: Final = "reset-password"


def drop_links(db: orm.Session, user_id: UUID, *purposes: str) -> None:
    """Links of these purposes, or with none named all, are dead from now on."""
    mine = sa.delete(Verification).where(Verification.user_id == user_id)
    db.execute(mine.where(Verification.purpose.in_(purposes)) if purposes else mine)


def reset_mail(auth: Auth, email: str, token: str, callback: str) -> Mail:
    """The mail with the link; its host is the settings', whatever `Host` the request had."""
    url = link(auth.settings.base_url, f"/api/auth/reset-password/{token}", callbackURL=callback)
    minutes = auth.settings.reset_lifetime // 60
    text = (
        f"Somebody asked for a new password for this address. This link works once, for {minutes} minutes:\n\n{url}\n\n"
        "If it was not you, do nothing.\n"
    )
    return Mail(email, RESET, SUBJECTS[RESET], text, url, token)


# %% [markdown]
"""
The request answers first and looks later. Whether there is an account, a link to store, a mail to write: all of it
happens in the postbox's thread, so neither the answer nor its delay can depend on it. At most three mails, then one
every twenty minutes: otherwise anybody could fill a stranger's mailbox. A 429 would be heard by whoever asks, and say
that others have asked; so the answer stays the same there, too.
"""

# %%
from datetime import timedelta

from playbook.pantry.auth.sign_in import Allowance, spend
from playbook.pantry.auth.wire import AuthError

MAILS = Allowance(3, timedelta(minutes=20))  # reset mails to one address


def send_reset(auth: Auth, email: str, callback: str) -> bool:
    """Mail a link to the account of this address, if there is one. Returns whether a mail was posted."""

    def work(db: orm.Session) -> str | None:
        user = db.scalar(sa.select(User).where(User.email == email))
        if user is None:
            return None
        drop_links(db, user.id, RESET)
        return new_link(db, auth, user, RESET, email, auth.settings.reset_lifetime)

    try:
        if auth.settings.rate_limits:
            spend(auth, MAILS, RESET, email)
    except AuthError:  # too many: what they had is on its way
        return False
    token = auth.transact(work)
    if token is not None:
        auth.postbox.post(reset_mail(auth, email, token, callback))
    return token is not None


# %%
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from playbook.foundations.deny_by_default import anyone
from playbook.pantry.auth.sign_up import Email, in_background
from playbook.pantry.auth.wire import Sent, Service, Text, body

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


# %% [markdown]
"""
The link leads to us first, and on to the front end's form with the token or an error. Looking does not use it up:
mail scanners open links before people do. `Referrer-Policy` keeps the next page from telling others a URL with a token
in it.
"""

# %%
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fastapi import Response

from playbook.pantry.auth.sign_up import find_link, redirect


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
    row = auth.transact(lambda db: find_link(db, token, RESET))
    if row is None or row.expires_at <= auth.clock.now() or not callbackURL:
        return redirect(absolute(auth, callbackURL or "/api/auth/error", error="INVALID_TOKEN"))
    return redirect(absolute(auth, callbackURL, token=token))


# %% [markdown]
"""
Setting the password is one transaction, and its first statement **takes** the token: a DELETE that says whether it
deleted. Of fifty at once one gets the row. The others find nothing, or a conflict, after which they are run again and
find nothing. With the token go all links of the account, also those for a change of address that a thief may have asked
for, and every session: whoever had the password may be signed in with it.
"""

# %%
from playbook.pantry.auth.sessions import end_sessions
from playbook.schema.identity import Account


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


def use_link(db: orm.Session, auth: Auth, row: Verification, password_hash: str) -> bool:
    """Take the token and set the password; False when another request has taken it, it is too late, or for an address
    that is no longer the account's.
    """
    used = sa.delete(Verification).where(Verification.id == row.id, Verification.expires_at > auth.clock.now())
    mine = sa.update(User).where(User.id == row.user_id, User.email == row.email)
    proven = sa.true() if auth.settings.strict_proof else User.email_verified  # whoever has the link has the mailbox
    mine = mine.values(updated_at=User.updated_at, email_verified=proven).execution_options(synchronize_session=False)
    if not db.execute(used.returning(Verification.id)).all() or not db.execute(mine.returning(User.id)).all():
        return False
    set_password(db, auth, row.user_id, password_hash)
    drop_links(db, row.user_id)
    if auth.settings.revoke_sessions_on_reset:
        end_sessions(db, row.user_id)
    return True


# %% [markdown]
"""
Hashing is slow on purpose, so it happens before the transaction, and only for a token that exists: a made-up one costs
a look-up. A password that breaks the rules does not use the token up. The owner is told, at the address the account
has now.
"""

# %%
from playbook.auth.password_hashing import HASHING_TURN, hash_password
from playbook.pantry.auth.sign_in import address_of, recognize
from playbook.pantry.auth.sign_up import check_rules


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
    row = auth.transact(lambda db: find_link(db, token, RESET))
    if row is None or row.expires_at <= auth.clock.now():
        raise AuthError(400, "INVALID_TOKEN")
    check_rules(auth, sent.newPassword, row.email)
    password_hash = hash_password(sent.newPassword)

    def work(db: orm.Session) -> bool:
        used = use_link(db, auth, row, password_hash)
        if used:
            recognize(db, auth, row.email, address_of(request))  # or whoever is guessing would keep the owner out
        return used

    if not auth.transact(work):
        raise AuthError(400, "INVALID_TOKEN")
    tell(auth, row.email, "Your password was changed. If that was not you, ask for a new one now.")
    return {"status": True}


# %% [markdown]
"""
## See it work

Mallory asks first, with her `Host`. Then Ada, who is signed in on her phone, has forgotten her password at the desk. The
diagram is what happened:
"""

# %%
from playbook.auth.mail import MemorySender
from playbook.auth.mail_queue import Postbox
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import Base
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth.cross_site import check_cross_site
from playbook.pantry.auth.sessions import session_routes
from playbook.pantry.auth.sign_in import sign_in_routes
from playbook.pantry.auth.sign_up import register
from playbook.pantry.auth.wire import auth_app
from playbook.pantry.settings import Settings

OLD, NEW, FRONT = "seven lamps above the harbour", "the harbour sold its lamps", {"origin": "http://localhost:8000"}


def service(url, sender=None, **changes):
    """The sessions, sign-in and reset routes, with Ada as their only user."""
    settings, engine = Settings(environment="test", database_url=url, **changes), make_engine(url)
    Base.metadata.create_all(engine)
    clock = FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    postbox = Postbox(sender or MemorySender())
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), postbox, SeededBytes(2))
    stored = hash_password(OLD)

    def add_ada(db):
        register(db, auth, "Ada", "ada@example.com", None, stored).email_verified = True

    auth.transact(add_ada)
    return auth, auth_app(auth, [session_routes, sign_in_routes, reset_routes], [check_cross_site])


def ask_for_link(client, email="ada@example.com", **headers):
    asked = {"email": email, "redirectTo": "/new-password"}
    return client.post("/api/auth/request-password-reset", json=asked, headers=FRONT | headers)


def set_new(client, token, password=NEW):
    return client.post("/api/auth/reset-password", json={"newPassword": password, "token": token}, headers=FRONT)


def sign_in(client, password):
    asked = {"email": "ada@example.com", "password": password}
    return client.post("/api/auth/sign-in/email", json=asked, headers=FRONT)


auth, app = service(lesson_url())
with serving(app) as desk, LiveClient(str(desk.base_url)) as phone:
    ask_for_link(desk, host="evil.example")
    auth.postbox.drain()
    print("Mallory's mail leads to", auth.postbox.sender.last("ada@example.com").url.split("/api")[0])
    sign_in(phone, OLD)
    start = len(desk.exchanges)
    ask_for_link(desk)
    auth.postbox.drain()
    mail = auth.postbox.sender.last("ada@example.com")
    with capture_sql(auth.engine) as statements:
        form = desk.get(mail.url.removeprefix("http://localhost:8000")).headers["location"]
        set_new(desk, mail.token)
        set_new(desk, mail.token, "and once more with the lamps")
        phone.get("/api/auth/get-session")
    auth.postbox.drain()
story = sorted(desk.exchanges[start:] + phone.exchanges[-1:], key=lambda exchange: exchange.started)
show(sequence_diagram(story, statements))
print("the front end's form:", form.split("=")[0] + "=...")
print("on the phone:", phone.exchanges[-1].json())
print("Ada is told:", auth.postbox.sender.mails[-1].text.strip())

# %% [markdown]
"""
A stranger's address, a wrong token, a password that the rules refuse. The first answer must be byte for byte Ada's:
"""

# %%
auth, app = service(lesson_url())
with serving(app) as client:
    known, unknown = ask_for_link(client), ask_for_link(client, "nobody@example.com")
    auth.postbox.drain()
    print("the same answer:", known.content == unknown.content, "| mails:", len(auth.postbox.sender.mails))
    token = auth.postbox.sender.last("ada@example.com").token
    client.shown = len(client.exchanges)
    set_new(client, "made-up")
    set_new(client, token, "ada@example.com!!")
    show_http(client)

# %% [markdown]
"""
## On PostgreSQL

Fifty requests with one token at once, each with another password. How many succeed, and whose password is it? On DuckDB
the losers meet a conflict at the commit, on PostgreSQL a row lock; `transaction` runs both again, and the row is gone.
"""


# %%
def fifty(url):
    auth, app = service(url, rate_limits=False)
    with serving(app) as client:
        ask_for_link(client)
        auth.postbox.drain()
        token = auth.postbox.sender.last("ada@example.com").token
        with ThreadPoolExecutor(16) as threads:
            answers = list(
                threads.map(lambda n: set_new(client, token, f"lamps in the harbour, {n} of them"), range(50))
            )
        statuses = [answer.status_code for answer in answers]
        winner = statuses.index(200)
        works = sign_in(client, f"lamps in the harbour, {winner} of them").status_code
        codes = {answer.json()["code"] for answer in answers if answer.status_code != 200}
    auth.postbox.close()
    return {"200": statuses.count(200), "400": statuses.count(400), "codes": codes, "the winner's password": works}


here, there = fifty(lesson_url()), on_postgres(fifty)
print(here)
print("the same on PostgreSQL:", there in (here, None))

# %% [markdown]
"""
## Check it
"""

# %%
assert here == {"200": 1, "400": 49, "codes": {"INVALID_TOKEN"}, "the winner's password": 200}
assert there in (here, None)

auth, app = service(lesson_url())
with serving(app) as client:
    sent = auth.postbox.sender
    tokens_sent = []
    for _ in range(5):
        assert ask_for_link(client).content == known.content
        auth.postbox.drain()
        tokens_sent += [mail.token for mail in sent.mails if mail.token not in tokens_sent]
    assert len(sent.mails) == 3, "anybody could fill Ada's mailbox"
    assert [set_new(client, token).status_code for token in tokens_sent[:2]] == [400, 400], "older links must be dead"
    with auth.engine.connect() as connection:
        rows = connection.execute(sa.select(Verification.__table__)).all()
    assert tokens_sent[2] not in str(rows), "a stolen database opens the account"
    auth.clock.advance(timedelta(seconds=auth.settings.reset_lifetime))
    assert set_new(client, tokens_sent[2]).status_code == 400, "too late"
    refused = client.get(f"/api/auth/reset-password/{tokens_sent[2]}?callbackURL=%2Fnew-password")
    assert refused.headers["location"] == "http://localhost:8000/new-password?error=INVALID_TOKEN"
    assert refused.headers["referrer-policy"] == "no-referrer"
    evil = client.get("/api/auth/reset-password/x?callbackURL=https%3A%2F%2Fevil.example")
    assert evil.json()["code"] == "INVALID_CALLBACK_URL", "an open redirect"
    assert sign_in(client, OLD).status_code == 200, "asking for a link changes nothing"

auth, app = service(lesson_url())
auth.postbox.close()  # nothing runs in the background any more: what is left is what happens before the answer
with serving(app) as client, capture_sql(auth.engine) as statements:
    ask_for_link(client), ask_for_link(client, "nobody@example.com")
    assert [statement.sql for statement in statements] == [], "work before the answer can be timed"
print("three mails, the last link alone works, for its time, once; nothing in the database opens anything")

# %% [markdown]
"""
## Your turn

A television shows a form and the mail is on the phone: six digits to type. There are only a million of them, so three
things change. Write `Codes`: `issue` makes a code for a user and returns it, `redeem` says whether it is right. A code
is good for ten minutes and five tries, also when the five come at once. A new one replaces the old. And think about
what is stored: the SHA-256 of six digits is found in a second, so a hash alone hides nothing.
"""

# %%
import secrets

codes = sa.Table(
    "codes", demo, sa.Column("user_id", sa.Uuid, primary_key=True), sa.Column("stored", sa.String),
    sa.Column("tries", sa.Integer), sa.Column("ends", sa.DateTime(timezone=True)),
)  # fmt: skip


# %% tags=["exercise"]
class Codes:
    """Six-digit codes in the table `codes`. `key` is the service's secret."""

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self.engine, self.key = engine, key

    def issue(self, user_id: UUID, now: datetime) -> str:
        code = f"{secrets.randbelow(1_000_000):06}"
        values = {"user_id": user_id, "stored": code, "tries": 0, "ends": now + timedelta(minutes=10)}
        transaction(self.engine, lambda db: db.execute(codes.delete().where(codes.c.user_id == user_id)))
        transaction(self.engine, lambda db: db.execute(codes.insert().values(values)))
        return code

    def redeem(self, user_id: UUID, code: str, now: datetime) -> bool:
        query = sa.select(codes.c.stored).where(codes.c.user_id == user_id, codes.c.ends > now)
        return transaction(self.engine, lambda db: db.scalar(query)) == code


# %%
import hashlib


@checker
def check_codes(kind):
    ada, now = UUID(int=1), datetime(2026, 11, 2, 9, 0, tzinfo=UTC)

    def new():
        engine = make_engine(lesson_url())
        demo.create_all(engine)
        made = kind(engine, b"the secret of the service")
        code = made.issue(ada, now)
        return made, code, [f"{(int(code) + n) % 1_000_000:06}" for n in range(1, 60)]

    made, code, wrong = new()
    with made.engine.connect() as connection:
        stored = str(connection.execute(sa.select(codes)).all())
    if not re.fullmatch("[0-9]{6}", code):
        return "not yet: a code is six digits"
    if code in stored:
        return "not yet: whoever reads the table knows the code"
    hashes = {getattr(hashlib, name)(code.encode()).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
    if any(found in stored for found in hashes):
        return "not yet: a million hashes are computed in a second; what does a thief of the table not have?"
    if made.redeem(ada, wrong[0], now) or not made.redeem(ada, code, now):
        return "not yet: the right code opens, a wrong one does not"
    if made.redeem(ada, code, now):
        return "not yet: a code works once"
    made, code, wrong = new()
    if made.redeem(ada, code, now + timedelta(minutes=10)):
        return "not yet: after ten minutes it is over"
    made, code, wrong = new()
    if any([made.redeem(ada, guess, now) for guess in wrong[:5]] + [made.redeem(ada, code, now)]):
        return "not yet: after five wrong tries the right one must not open either"
    made, code, wrong = new()
    for guess in wrong[:4]:
        made.redeem(ada, guess, now)
    if not made.redeem(ada, code, now):
        return "not yet: the fifth try still counts"
    made, old, wrong = new()
    newer = made.issue(ada, now)
    if newer != old and made.redeem(ada, old, now):
        return "not yet: a new code replaces the old one"
    made, code, wrong = new()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda guess: made.redeem(ada, guess, now), wrong[:16]))
    if made.redeem(ada, code, now):
        return "not yet: sixteen wrong tries at once did not use up five; count before you compare"
    with ThreadPoolExecutor(8) as threads:
        made, code, wrong = new()
        if sum(threads.map(lambda _: made.redeem(ada, code, now), range(5))) != 1:
            return "not yet: brought five times at once, it opened more or less than once"
    return "right"


check_codes(Codes)

# %% tags=["solution"]
import hmac


class Codes:
    """Six-digit codes in the table `codes`. `key` is the service's secret."""

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self.engine, self.key = engine, key

    def hidden(self, user_id: UUID, code: str) -> str:
        # With a key that is not in the database a thief of the table cannot try the million.
        return hmac.digest(self.key, f"{user_id}:{code}".encode("utf-8", "replace"), "sha256").hex()

    def issue(self, user_id: UUID, now: datetime) -> str:
        code = f"{secrets.randbelow(1_000_000):06}"
        values = {"stored": self.hidden(user_id, code), "tries": 0, "ends": now + timedelta(minutes=10)}

        def work(db: orm.Session) -> None:
            if not db.execute(
                codes.update().where(codes.c.user_id == user_id).values(values).returning(codes.c.tries)
            ).all():
                db.execute(codes.insert().values(user_id=user_id, **values))

        transaction(self.engine, work)
        return code

    def redeem(self, user_id: UUID, code: str, now: datetime) -> bool:
        alive = (codes.c.user_id == user_id) & (codes.c.ends > now) & (codes.c.tries < 5)
        take = codes.update().where(alive).values(tries=codes.c.tries + 1).returning(codes.c.stored)
        # The try is counted, and committed, before anything is compared: at once means one after the other here.
        stored = transaction(self.engine, lambda db: db.scalar(take))
        if stored is None or not hmac.compare_digest(stored, self.hidden(user_id, code)):
            return False
        mine = codes.delete().where(codes.c.user_id == user_id, codes.c.stored == stored).returning(codes.c.user_id)
        return transaction(self.engine, lambda db: db.scalar(mine)) is not None


assert check_codes(Codes)

# %% [markdown]
"""
## Hand it over

- **Front end**: show the same words whether the address is known or not. Your form gets `token` or `error` in its URL;
  take it out of the address bar (`history.replaceState`) before you load anything from elsewhere.
- **Security reviewer**: the host of every link is `PANTRY_BASE_URL`; search for `headers["host"]`. The token is taken by
  a DELETE that says whether it deleted.
- **Operator**: the mail queue is in the process. A reset that was asked for a second before a crash is asked for again.
- **Test engineer**: keep "fifty at once, one success" on both engines. No look-up before the write can pass it.
- **Reviewer**: nothing happens before the answer that an unknown address would not cause as well.

## Sources

OWASP Forgot Password Cheat Sheet. OWASP ASVS 5.0: 6.3.7 (notices), 6.3.8 (enumeration), 6.4.2 (no questions), 6.4.3
(recovery). NIST SP 800-63B-4, 4.2 (account recovery). J. Kettle, "Practical HTTP Host header attacks" (2013). RFC 9110,
7.2 (Host). W3C Referrer Policy.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Sign in](sign_in.ipynb) · [course map](../index.ipynb) · Next: [Account changes](account_changes.ipynb)
"""
