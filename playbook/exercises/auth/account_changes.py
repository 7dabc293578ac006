"""The exercise of the page "Account changes": its checker, its hints, wrong answers; and the stories of its stage."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Body, Depends, FastAPI, HTTPException, Request

from playbook.auth.mailed_links import drop_links, find_link, links, mailed_url, new_link, take_link  # noqa: F401
from playbook.auth.password_reset import finish_reset, start_reset
from playbook.auth.sessions import Lifetimes, end_sessions, find_session, sessions, start_session
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.display import Shown, table
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, mermaid, on_postgres, serving
from playbook.kit.stage import together

# ---------------------------------------------------------------- the service without changes

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("email", sa.String, nullable=False, unique=True),
    sa.Column("password_hash", sa.String),
)
START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
MORNING, MINUTE = timedelta(hours=3), timedelta(minutes=1)  # how long ago somebody signed in
LIFETIMES = Lifetimes()


def hash_password(password: str) -> str:
    """Stands for the slow hash of the page on password hashing."""
    return hashlib.sha256(password.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who sends a request. `token` is the one in the cookie."""

    user_id: str
    signed_in_at: datetime
    token: str


class Shop:
    """Users, sessions and links in a new database. `mails`: (to, text), oldest first. `now` stands still."""

    def __init__(self, url: str, *names: str) -> None:
        self.engine = make_engine(url)
        for each in (metadata, sessions.metadata, links.metadata):
            each.create_all(self.engine)
        self.now = START
        self.mails: list[tuple[str, str]] = []
        for name in names:
            self.join(name)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(db, *args)` in one transaction."""
        return transaction(self.engine, lambda db: function(db, *args))

    def mail(self, to: str, page: str, token: str, text: str = "") -> None:
        """A mail with a link to a page of the service, `https://pantry.example/PAGE#TOKEN`."""
        self.mails.append((to, f"{text} {mailed_url(f'https://pantry.example/{page}', token)}".strip()))

    def tell(self, to: str, text: str) -> None:
        """A mail without a link."""
        self.mails.append((to, text))

    def mailbox(self, to: str) -> list[str]:
        return [text for address, text in self.mails if address == to]

    def join(self, name: str) -> None:
        """A user with the address NAME@example.com and the password `old`."""
        row = {"id": name, "email": f"{name}@example.com", "password_hash": hash_password("old")}
        self.run(lambda db: db.execute(users.insert().values(row)))

    def sign_in(self, name: str, ago: timedelta = MINUTE) -> str:
        """The token of a session that began a while ago."""
        return str(self.run(start_session, name, self.now - ago, LIFETIMES, None))

    def caller(self, request: Request) -> Caller:
        """A dependency: the session of the request's cookie, or 401."""
        token = request.cookies.get("session", "")
        found = self.run(find_session, token, self.now, LIFETIMES)
        if found is None:
            raise HTTPException(401)
        return Caller(found.user_id, found.created_at, token)

    def renewed(self, db: Any, me: Caller) -> str:
        """The token of a new session in place of the caller's, in the transaction of `db`."""
        return str(start_session(db, me.user_id, self.now, LIFETIMES, me.token))

    def user(self, user_id: str) -> Any:
        """The user's row, or None."""
        return self.run(lambda db: db.execute(sa.select(users).where(users.c.id == user_id)).one_or_none())

    def is_password(self, user_id: str, password: str) -> bool:
        return bool(self.user(user_id).password_hash == hash_password(password))

    def reset(self, email: str, password: str) -> bool:
        """What whoever reads the mailbox of `email` can do, as the page on password reset has it."""

        def find_user(db: Any, email: str) -> Any:
            return db.scalar(sa.select(users.c.id).where(users.c.email == email))

        def set_password(db: Any, user_id: str, email: str, password_hash: str) -> bool:
            mine = users.update().where(users.c.id == user_id, users.c.email == email)
            return db.scalar(mine.values(password_hash=password_hash).returning(users.c.id)) is not None

        token = self.run(start_reset, email, self.now, find_user)
        given = (hash_password(password), self.now, set_password, end_sessions)
        return token is not None and self.run(finish_reset, token, *given) is not None


def links_of(shop: Shop, user_id: str) -> set[str]:
    """The purposes of a user's links that are good now."""
    mine = sa.select(links.c.purpose).where(links.c.user_id == user_id, links.c.expires_at > shop.now)
    return set(shop.run(lambda db: db.scalars(mine).all()))


def unguarded(app: FastAPI, shop: Shop) -> None:
    """Routes for a new password and for a deletion that ask for a session and for nothing else."""

    @app.post("/password")
    def password(me: Any = Depends(shop.caller), new: str = Body(embed=True)) -> None:
        mine = users.update().where(users.c.id == me.user_id).values(password_hash=hash_password(new))
        shop.run(lambda db: db.execute(mine.returning(users.c.id)))

    @app.post("/delete")
    def delete(me: Any = Depends(shop.caller)) -> None:
        shop.run(lambda db: db.execute(users.delete().where(users.c.id == me.user_id)))


def proving_service(shop: Shop, set_address: Callable[..., object]) -> FastAPI:
    """What many packages bring: the new address is proven by a mailed link, and the session is enough to ask for it."""
    app = FastAPI()
    unguarded(app, shop)

    @app.post("/email")
    def email(me: Any = Depends(shop.caller), new: str = Body(embed=True)) -> None:
        given = ("change-email", me.user_id, new, shop.now, timedelta(hours=1))
        shop.mail(new, "prove", shop.run(new_link, *given))

    @app.post("/prove")
    def prove(token: str = Body(embed=True)) -> None:
        link = shop.run(take_link, token, "change-email", shop.now)
        shop.run(set_address, link.user_id, link.email)

    return app


# ---------------------------------------------------------------- the stories

Make = Callable[[Shop], FastAPI]


class Browser:
    """Sends requests with the cookie of one session."""

    def __init__(self, client: Any, token: str) -> None:
        self.client, self.token = client, token

    def post(self, path: str, **sent: Any) -> Any:
        """The answer. A new session in it is kept, as a browser keeps a cookie."""
        answer = self.client.post(path, json=sent, headers={"cookie": f"session={self.token}"})
        if answer.content and isinstance(answer.json(), dict):
            self.token = answer.json().get("session", self.token)
        return answer


class Stories:
    """What is tried against a service, each time with another Ada, whose name is given."""

    def __init__(self, shop: Shop, client: Any) -> None:
        self.shop, self.client = shop, client

    def browser(self, name: str, ago: timedelta = MINUTE) -> Browser:
        return Browser(self.client, self.shop.sign_in(name, ago))

    def open_all(self, address: str) -> list[int]:
        """Open each link in a mailbox and press the button there; the statuses."""
        urls = [urlsplit(text.split()[-1]) for text in self.shop.mailbox(address) if "://" in text]
        return [self.client.post(url.path, json={"token": url.fragment}).status_code for url in urls]

    def owner(self, name: str) -> str:
        """What Mallory has reached, after she has opened each link in her mailbox."""
        hers = f"{name}@evil.example"
        self.open_all(hers)
        if self.shop.reset(hers, "mallory"):
            return "taken over"
        return "no: Ada is asked" if self.shop.mailbox(f"{name}@example.com") else "no: refused"

    def old_session(self, name: str) -> str:
        self.browser(name, MORNING).post("/email", new=f"{name}@evil.example")
        return self.owner(name)

    def new_session(self, name: str) -> str:
        self.browser(name).post("/email", new=f"{name}@evil.example")
        return self.owner(name)

    def mail_filter(self, name: str) -> str:
        self.browser(name).post("/email", new=f"{name}@evil.example")
        self.open_all(f"{name}@example.com")
        self.browser(name).post("/password", old="old", new="ada")
        return "taken over" if self.owner(name) == "taken over" else "no: the link is dead"

    def copy_of_cookie(self, name: str) -> str:
        ada = self.browser(name)
        other, copy = self.browser(name), Browser(self.client, ada.token)
        assert ada.post("/password", old="old", new="ada").status_code == 200
        let_in = [each.post("/password", new="x").status_code != 401 for each in (ada, copy, other)]
        assert let_in[0]
        return "still signed in" if any(let_in[1:]) else "no: signed out"

    def password(self, name: str) -> str:
        self.browser(name).post("/password", new="mallory")
        return "set" if self.shop.user(name).password_hash == hash_password("mallory") else "no: refused"

    def deletion(self, name: str) -> str:
        self.browser(name, MORNING).post("/delete")
        return "no: refused" if self.shop.user(name) else "gone"

    def typing_error(self, name: str) -> str:
        self.browser(name).post("/email", new=f"{name}@exmaple.com")
        self.open_all(f"{name}@example.com")
        return "no: nothing changes" if self.shop.reset(f"{name}@example.com", "ada") else "Ada is locked out"


TRIES = {
    "old session": "old_session",
    "new session": "new_session",
    "mail filter": "mail_filter",
    "copy of the cookie": "copy_of_cookie",
    "password": "password",
    "deletion": "deletion",
    "typing error": "typing_error",
}


def attack(make: Make) -> dict[str, str]:
    """How each story ends in the service that `make(shop)` returns."""
    shop = Shop(lesson_url())
    ends = {}
    with serving(make(shop)) as client:
        for number, (story, method) in enumerate(TRIES.items()):
            shop.join(f"ada{number}")
            ends[story] = getattr(Stories(shop, client), method)(f"ada{number}")
    shop.engine.dispose()
    return ends


def side_by_side(ways: dict[str, dict[str, str]]) -> Shown:
    """A table: the stories, and how each ends in each of the ways."""
    return table([(story, *[ends[story] for ends in ways.values()]) for story in TRIES], ["story", *ways])


MOVED = ["carol@example.com", "carol@example.com", "carol@new.example"]  # the address after each step


def carol_moves(make: Make) -> list[tuple[str, str, str]]:
    """Carol changes her address: each step, the account's address after it, where the last mail went."""
    shop, rows = Shop(lesson_url(), "carol"), []
    with serving(make(shop)) as client:
        stories = Stories(shop, client)
        steps: dict[str, Callable[[], Any]] = {
            "the request": lambda: stories.browser("carol").post("/email", new=MOVED[-1]),
            "the old mailbox approves": lambda: stories.open_all(MOVED[0]),
            "the new mailbox is proven": lambda: stories.open_all(MOVED[-1]),
        }
        for name, step in steps.items():
            step()
            rows.append((name, shop.user("carol").email, shop.mails[-1][0]))
    shop.engine.dispose()
    return rows


WALKS = (
    ("approve_change", "finish_change", "finish_change"),
    ("start_change", "change_password", "approve_change"),
    ("approve_change", "approve_change", "start_change"),
    ("approve_change", "change_password", "finish_change"),
    ("an hour", "approve_change"),
    ("approve_change", "an hour", "finish_change"),
)


def walk(
    shop: Shop, act: Callable[[Shop, str, dict[str, Any]], object], steps: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """A new Ada asks for another address, then `act(shop, step, tokens)` does each step: what was before, the step,
    after."""
    tokens, seen = dict[str, Any](), []
    shop.now = START
    for rows in (users, sessions, links):
        shop.run(lambda db, rows=rows: db.execute(rows.delete()))
    shop.join("ada")

    def state() -> str:
        good = links_of(shop, "ada")
        if shop.user("ada").email != "ada@example.com":
            return "changed"
        return "approving" if "approve-email-change" in good else "proving" if good else "unchanged"

    for step in ("start_change", *steps):
        before, label = state(), step
        if step == "an hour":
            shop.now += timedelta(hours=1)
        elif not act(shop, step, tokens):
            label = f"{step} gives None"
        seen.append((before, label, state()))
    return seen


def drawn(act: Callable[[Shop, str, dict[str, Any]], object]) -> tuple[Shown, list[tuple[str, str, str]]]:
    """The diagram of what happened on six walks, and its arrows."""
    shop = Shop(lesson_url())
    arrows = list(dict.fromkeys(arrow for steps in WALKS for arrow in walk(shop, act, steps)))
    shop.engine.dispose()
    lines = [f"  {before} --> {after}: {step}" for before, step, after in arrows]
    return mermaid("\n".join(["stateDiagram-v2", *lines])), arrows


def rush(url: str, make: Make) -> dict[str, int]:
    """Ada and Bob want one address, and have proven it both: each link is used ten times, all at once."""
    shop, wanted = Shop(url), "team@example.com"
    with serving(make(shop)) as client:
        stories = Stories(shop, client)
        for name in ("ada", "bob"):
            shop.join(name)
            stories.browser(name).post("/email", new=wanted)
            stories.open_all(f"{name}@example.com")
        tokens = [urlsplit(text.split()[-1]).fragment for text in shop.mailbox(wanted)] * 10
        clicks = {f"{n}": (lambda t=token: client.post("/prove", json={"token": t})) for n, token in enumerate(tokens)}
        statuses = [answer.status_code for answer in together(**clicks).values()]
    owners = [shop.user(name).email for name in ("ada", "bob")].count(wanted)
    shop.engine.dispose()
    return {"succeeded": statuses.count(200), "refused": statuses.count(400), "accounts with it": owners}


# ---------------------------------------------------------------- the exercise

HINTS = (
    "First look at 'Finish' and at 'Password': which statement decides, and what do both end\n"
    "afterwards? Then go through what Mallory has after three days, one thing at a time.",
    "Each undo link remembers when it was made. An older one leads back to somebody who had\n"
    "the account earlier. So this link ends the younger ones of its user, and no older one.",
)

WRONG = (
    # only puts the address back
    """
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None or db.scalar(sa.select(users.c.id).where(users.c.email == link.email)) is not None:
        return False
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email))
    return True
""",
    # looks, and leaves the link where it is
    """
def undo(db, users, undos, token, now, end_sessions):
    link = find_link(db, token, "undo", now, undos)
    if link is None or db.scalar(sa.select(users.c.id).where(users.c.email == link.email)) is not None:
        return False
    younger = [undos.c.user_id == link.user_id, undos.c.created_at > link.created_at]
    db.execute(undos.delete().where(*younger))
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email, password_hash=None))
    drop_links(db, link.user_id)
    end_sessions(db, link.user_id)
    return True
""",
    # ends every undo link, Ada's too
    """
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None or db.scalar(sa.select(users.c.id).where(users.c.email == link.email)) is not None:
        return False
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email, password_hash=None))
    drop_links(db, link.user_id, table=undos)
    drop_links(db, link.user_id)
    end_sessions(db, link.user_id)
    return True
""",
    # leaves Mallory's undo links
    """
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None or db.scalar(sa.select(users.c.id).where(users.c.email == link.email)) is not None:
        return False
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email, password_hash=None))
    drop_links(db, link.user_id)
    end_sessions(db, link.user_id)
    return True
""",
    # leaves the password
    """
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None or db.scalar(sa.select(users.c.id).where(users.c.email == link.email)) is not None:
        return False
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email))
    db.execute(undos.delete().where(undos.c.user_id == link.user_id, undos.c.created_at > link.created_at))
    drop_links(db, link.user_id)
    end_sessions(db, link.user_id)
    return True
""",
    # does not look whose the old address is by now, and hopes for the unique index
    """
def undo(db, users, undos, token, now, end_sessions):
    link = take_link(db, token, "undo", now, undos)
    if link is None:
        return False
    db.execute(users.delete().where(users.c.email == link.email))
    db.execute(users.update().where(users.c.id == link.user_id).values(email=link.email, password_hash=None))
    db.execute(undos.delete().where(undos.c.user_id == link.user_id, undos.c.created_at > link.created_at))
    drop_links(db, link.user_id)
    end_sessions(db, link.user_id)
    return True
""",
)

DAY = timedelta(days=1)
UNDOS = sa.Table(
    "undos",
    sa.MetaData(),
    *(sa.Column(column.name, column.type, primary_key=column.primary_key) for column in links.c),
)


class Story:
    """Ada's account moves from address to address, a day apart; each move makes an undo link to the address before."""

    def __init__(self, url: str, undo: Callable[..., Any]) -> None:
        self.shop, self.undo = Shop(url), undo
        UNDOS.create(self.shop.engine)
        self.shop.join("ada")

    def move(self, new: str) -> str:
        """The token that goes to the address of before."""
        self.shop.now += DAY

        def work(db: Any) -> str:
            old = db.scalar(sa.select(users.c.email).where(users.c.id == "ada"))
            db.execute(users.update().where(users.c.id == "ada").values(email=new))
            return new_link(db, "undo", "ada", old, self.shop.now, 7 * DAY, table=UNDOS)

        return str(self.shop.run(work))

    def back(self, token: str) -> bool:
        self.shop.now += timedelta(hours=1)
        said = self.shop.run(self.undo, users, UNDOS, token, self.shop.now, end_sessions)
        if said not in (True, False):
            raise AssertionError(f"not yet: `undo` returns True or False, and this was {said!r}")
        return bool(said)

    def rows(self, table: sa.Table) -> list[Any]:
        return list(self.shop.run(lambda db: db.execute(sa.select(table)).all()))

    def email(self) -> str:
        return str(self.shop.user("ada").email)


HERS = ("mallory@evil.example", "second@evil.example")


def undone(story: Story) -> str:
    token = story.move(HERS[0])
    story.shop.sign_in("ada")
    story.shop.run(new_link, "change-email", "ada", "third@evil.example", story.shop.now, DAY)
    if story.back("made up") or not story.back(token) or story.email() != "ada@example.com":
        return "a made-up token does nothing, and a right one brings the address of before back"
    if story.rows(sessions):
        return "Mallory is still signed in"
    if story.shop.user("ada").password_hash is not None:
        return "the password may be Mallory's, and it still opens the account"
    if story.rows(links):
        return "Mallory has asked for a further change, and can still finish it"
    story.move("ada@new.example")
    return "the link worked twice" if story.back(token) else ""


def too_late(story: Story) -> str:
    token = story.move(HERS[0])
    story.shop.now += 7 * DAY
    return "seven days are over, and the link still works" if story.back(token) else ""


def taken(story: Story) -> str:
    token = story.move(HERS[0])
    row = {"id": "bob", "email": "ada@example.com", "password_hash": "a hash"}
    story.shop.run(lambda db: db.execute(users.insert().values(row)))
    story.shop.sign_in("ada")
    kept = not story.back(token) and story.rows(sessions) and story.shop.user("bob") and story.email() == HERS[0]
    return "" if kept else "Bob has the address of before by now: then nothing may change, and `undo` returns False"


def ada_is_first(story: Story) -> str:
    first, second = story.move(HERS[0]), story.move(HERS[1])
    if not story.back(first) or story.email() != "ada@example.com":
        return "Mallory has moved on to a second address, and Ada's link does not bring hers back"
    return "after Ada's link, Mallory takes the account again with a link of her own" if story.back(second) else ""


def mallory_is_first(story: Story) -> str:
    first, second = story.move(HERS[0]), story.move(HERS[1])
    if story.back(second) and story.back(first) and story.email() == "ada@example.com":
        return ""
    return "Mallory used a link of her own first, and afterwards Ada's is dead"


def tried(url: str, undo: Callable[..., Any]) -> str:
    story = Story(url, undo)
    try:
        for play in (undone, too_late, taken, ada_is_first, mallory_is_first):
            if said := play(story):
                return f"not yet: {said}"
            story.shop.run(lambda db: [db.execute(each.delete()) for each in (users, UNDOS, links, sessions)])
            story.shop.join("ada")
    finally:
        story.shop.engine.dispose()
    return "right"


@checker
def check(undo: Callable[..., Any]) -> str:
    """An undo in time, too late, of a taken address, and before and after Mallory's own; on both engines."""
    said = tried(lesson_url(), undo)
    if said == "right":
        said = on_postgres(tried, undo) or said
    return said
