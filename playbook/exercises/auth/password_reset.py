"""The exercise of the page "Password reset": its checker, its hints, wrong answers; and the stories of its stage."""

import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from playbook.auth.mailed_links import find_link, links, new_link
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, on_postgres, serving
from playbook.kit.stage import capture_sql, together

# ---------------------------------------------------------------- the service without a reset

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("email", sa.String, nullable=False, unique=True),
    sa.Column("password_hash", sa.String, nullable=False),
)
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False),
)


def hash_password(password: str) -> str:
    """Stands for the slow hash of the page on password hashing."""
    return hashlib.sha256(password.encode()).hexdigest()


class Shop:
    """Users, sessions and links in a new database. `mails`: (to, text), oldest first. `jobs` wait for `work_off`."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        metadata.create_all(self.engine)
        links.metadata.create_all(self.engine)
        self.mails: list[tuple[str, str]] = []
        self.jobs: list[Callable[[], object]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(db, *args)` in one transaction."""
        return transaction(self.engine, lambda db: function(db, *args))

    def send(self, to: str, text: str) -> None:
        self.mails.append((to, text))

    def later(self, job: Callable[[], object]) -> None:
        self.jobs.append(job)

    def work_off(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()

    def join(self, name: str) -> None:
        """A user with the password `old`, and Mallory in a session of theirs."""

        def work(db: Any) -> None:
            db.execute(users.insert().values(id=name, email=f"{name}@example.com", password_hash=hash_password("old")))
            db.execute(sessions.insert().values(token=f"stolen from {name}", user_id=name))

        transaction(self.engine, work)

    def signed_in(self, name: str) -> bool:
        with self.engine.connect() as db:
            mine = sa.select(sessions.c.token).where(sessions.c.user_id == name)
            return db.scalar(mine) is not None

    def opens(self, name: str, password: str) -> bool:
        """Whether this is the password of `name`."""
        with self.engine.connect() as db:
            stored = db.scalar(sa.select(users.c.password_hash).where(users.c.id == name))
            return stored == hash_password(password)


Make = Callable[[Shop], FastAPI]


class Stories:
    """Mallory's seven tries against a service. Each has a victim of its own."""

    def __init__(self, shop: Shop, client: Any) -> None:
        self.shop, self.client = shop, client

    def ask(self, name: str, **headers: str) -> Any:
        """Ask for a link; the answer. The mail goes out afterwards."""
        sent = {"email": f"{name}@example.com"}
        with capture_sql(self.shop.engine) as before:
            answer = self.client.post("/forgot", json=sent, headers=headers)
        statements = len(before)
        self.shop.work_off()
        return answer.status_code, answer.text, statements

    def mailed(self, name: str) -> str:
        """The newest link in the mailbox of `name`."""
        mine = [text for to, text in self.shop.mails if to == f"{name}@example.com" and "://" in text]
        return mine[-1]

    def open(self, url: str) -> str:
        """Open a link as a browser does; the token that the page's script finds."""
        parts = urlsplit(url)
        self.client.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)
        return parts.fragment or parse_qs(parts.query)["token"][0]

    def reset(self, token: str, password: str) -> bool:
        sent = {"token": token, "password": password}
        return bool(self.client.post("/reset", json=sent).status_code < 300)

    def host_header(self, name: str) -> str:
        self.ask(name, host="evil.example")
        return f"the link leads to {urlsplit(self.mailed(name)).hostname}"

    def who_has_an_account(self, name: str) -> str:
        known, unknown = self.ask(name), self.ask(f"not-{name}")
        if known == unknown:
            return "the same answer, the same work before it"
        return f"{known[0]} or {unknown[0]}, after {known[2]} or {unknown[2]} statements"

    def access_log(self, name: str) -> str:
        self.ask(name)
        self.open(self.mailed(name))  # Ada sees the form, and thinks about a password
        queries = [parse_qs(urlsplit(each.path).query) for each in self.client.exchanges]
        found = [text for query in queries for text in query.get("token", [])]
        return "Mallory is in" if any([self.reset(token, "mallory") for token in found]) else "nothing there"

    def older_link(self, name: str) -> str:
        self.ask(name)
        older = self.open(self.mailed(name))
        self.ask(name)
        return "it works" if self.reset(older, "mallory") else "dead"

    def two_at_once(self, name: str) -> str:
        """Where a request looks for the link first, both have looked before one goes on."""
        self.ask(name)
        token = self.open(self.mailed(name))
        both = threading.Barrier(2)
        looked: set[int] = set()

        def meet(*event: Any) -> None:
            thread = threading.get_ident()
            if event[2].startswith("SELECT") and thread not in looked:
                looked.add(thread)
                both.wait(60)

        sa.event.listen(self.shop.engine, "after_cursor_execute", meet)
        answers = together(ada=lambda: self.reset(token, "ada"), mallory=lambda: self.reset(token, "mallory"))
        sa.event.remove(self.shop.engine, "after_cursor_execute", meet)
        return f"passwords set: {sum(answers.values())}"

    def change_of_address(self, name: str) -> str:
        mine = ("change-email", name, "mallory@evil.example", START, timedelta(hours=1))
        token = self.shop.run(new_link, *mine)
        self.stolen_session(name)
        link = self.shop.run(find_link, token, "change-email", START)
        return "dead" if link is None else "Mallory can take it over"

    def stolen_session(self, name: str) -> str:
        self.ask(name)
        assert self.reset(self.open(self.mailed(name)), "ada")
        return "still signed in" if self.shop.signed_in(name) else "signed out"


TRIES = (
    "host header",
    "who has an account",
    "access log",
    "older link",
    "two at once",
    "stolen session",
    "change of address",
)


def attack(make: Make) -> dict[str, str]:
    """How Mallory's tries end in the service that `make(shop)` returns."""
    shop = Shop(lesson_url())
    app = make(shop)
    app.get("/reset")(lambda: HTMLResponse("a form for the new password"))
    ends = {}
    with serving(app) as client:
        for number, story in enumerate(TRIES):
            shop.join(f"ada{number}")
            ends[story] = getattr(Stories(shop, client), story.replace(" ", "_"))(f"ada{number}")
    shop.engine.dispose()
    return ends


def fifty(url: str, make: Make) -> dict[str, Any]:
    """Fifty requests with one token at once, each with a password of its own."""
    shop = Shop(url)
    shop.join("ada")
    with serving(make(shop)) as client:
        stories = Stories(shop, client)
        stories.ask("ada")
        token = urlsplit(stories.mailed("ada")).fragment
        tried = {f"password {n}": (lambda n=n: stories.reset(token, f"password {n}")) for n in range(50)}
        worked = [password for password, done in together(**tried).items() if done is True]
        opens = [password for password in tried if shop.opens("ada", password)]
    shop.engine.dispose()
    return {"succeeded": len(worked), "its password is stored": worked == opens}


# ---------------------------------------------------------------- the exercise

HINTS = (
    "See 'Finish': which statement comes first there, and what does it return? Then think\n"
    "of what is left in the table when your function raises, or when it returns False.",
    "Count the try before you compare, in one statement that refuses the sixth. The count\n"
    "is committed also when the code is wrong. The right code ends the row.",
)

WRONG = (
    # looks in one transaction, counts in another
    """
def redeem(transact, codes, user_id, code, now):
    look = sa.select(codes.c.code_hash, codes.c.tries).where(codes.c.user_id == user_id, codes.c.expires_at > now)
    row = transact(lambda db: db.execute(look).one_or_none())
    if row is None or row.tries >= 5:
        return False
    mine = codes.c.user_id == user_id
    if row.code_hash == hidden(user_id, code):
        return bool(transact(lambda db: db.execute(codes.delete().where(mine).returning(codes.c.user_id)).all()))
    transact(lambda db: db.execute(codes.update().where(mine).values(tries=codes.c.tries + 1)))
    return False
""",
    # the wrong code raises, and the count is rolled back
    """
def redeem(transact, codes, user_id, code, now):
    def work(db):
        mine = [codes.c.user_id == user_id, codes.c.expires_at > now, codes.c.tries < 5]
        counted = codes.update().where(*mine).values(tries=codes.c.tries + 1)
        stored = db.scalar(counted.returning(codes.c.code_hash))
        if stored != hidden(user_id, code):
            raise ValueError
        db.execute(codes.delete().where(codes.c.user_id == user_id))
        return True
    try:
        return transact(work)
    except ValueError:
        return False
""",
    # counts nothing
    """
def redeem(transact, codes, user_id, code, now):
    mine = [codes.c.user_id == user_id, codes.c.expires_at > now, codes.c.code_hash == hidden(user_id, code)]
    taken = codes.delete().where(*mine).returning(codes.c.user_id)
    return transact(lambda db: db.scalar(taken)) is not None
""",
    # the right code works again
    """
def redeem(transact, codes, user_id, code, now):
    mine = [codes.c.user_id == user_id, codes.c.expires_at > now, codes.c.tries < 5]
    counted = codes.update().where(*mine).values(tries=codes.c.tries + 1)
    return transact(lambda db: db.scalar(counted.returning(codes.c.code_hash))) == hidden(user_id, code)
""",
    # one try too few
    """
def redeem(transact, codes, user_id, code, now):
    def work(db):
        mine = [codes.c.user_id == user_id, codes.c.expires_at > now]
        counted = codes.update().where(*mine).values(tries=codes.c.tries + 1)
        row = db.execute(counted.returning(codes.c.code_hash, codes.c.tries)).one_or_none()
        if row is None or row.tries >= 5 or row.code_hash != hidden(user_id, code):
            return False
        db.execute(codes.delete().where(*mine))
        return True
    return transact(work)
""",
    # never too late
    """
def redeem(transact, codes, user_id, code, now):
    def work(db):
        mine = [codes.c.user_id == user_id, codes.c.tries < 5]
        counted = codes.update().where(*mine).values(tries=codes.c.tries + 1)
        if db.scalar(counted.returning(codes.c.code_hash)) != hidden(user_id, code):
            return False
        db.execute(codes.delete().where(*mine[:1]))
        return True
    return transact(work)
""",
)

KEY = b"a key of the service, which no table holds"
START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
RIGHT, OTHERS = "271828", [f"{number:06}" for number in range(100)]


def hidden(user_id: str, code: str) -> str:
    """What the table holds of a code: with a key, since a thief of the table can hash a million codes."""
    return hmac.digest(KEY, f"{user_id}:{code}".encode(), "sha256").hex()


class Television:
    """A database with one code, and somebody who tries codes."""

    def __init__(self, url: str, redeem: Callable[..., Any]) -> None:
        self.engine = make_engine(url)
        self.redeem = redeem
        self.codes = sa.Table(
            "codes",
            sa.MetaData(),
            sa.Column("user_id", sa.String, primary_key=True),
            sa.Column("code_hash", sa.String, nullable=False),
            sa.Column("tries", sa.Integer, nullable=False),
            sa.Column("expires_at", links.c.expires_at.type, nullable=False),
        )
        self.codes.create(self.engine)

    def issue(self) -> None:
        row = {"user_id": "ada", "code_hash": hidden("ada", RIGHT), "tries": 0}
        row["expires_at"] = START + timedelta(minutes=10)

        transaction(self.engine, lambda db: db.execute(self.codes.delete()))
        transaction(self.engine, lambda db: db.execute(self.codes.insert().values(row)))

    def tries(self, code: str, minutes: int = 0, user_id: str = "ada") -> bool:
        def transact(work: Any) -> Any:
            return transaction(self.engine, work)

        said = self.redeem(transact, self.codes, user_id, code, START + timedelta(minutes=minutes))
        if said not in (True, False):
            raise AssertionError(f"not yet: `redeem` returns True or False, and this was {said!r}")
        return bool(said)

    def in_between(self, code: str) -> bool:
        """Try `code`; after its first SELECT, if there is one, five other tries run."""
        once: list[str] = []

        def others(*event: Any) -> None:
            if event[2].startswith("SELECT") and not once:
                once.append("now")
                for guess in OTHERS[:5]:
                    self.tries(guess)

        sa.event.listen(self.engine, "after_cursor_execute", others)
        said = self.tries(code)
        sa.event.remove(self.engine, "after_cursor_execute", others)
        return said and bool(once)


def tried(url: str, redeem: Callable[..., Any]) -> str:
    tv = Television(url, redeem)
    try:
        tv.issue()
        if tv.tries(RIGHT, user_id="bob") or tv.tries(OTHERS[0]):
            return "not yet: a wrong code was accepted, or the code of somebody else"
        if not tv.tries(RIGHT):
            return "not yet: Ada typed her code, and was refused"
        if tv.tries(RIGHT):
            return "not yet: a code works once, and it worked twice"
        tv.issue()
        if tv.tries(RIGHT, minutes=10):
            return "not yet: after ten minutes the code is over"
        tv.issue()
        for code in OTHERS[:4]:
            tv.tries(code)
        if not tv.tries(RIGHT):
            return "not yet: four wrong tries leave a fifth, and the right code was refused"
        tv.issue()
        for code in OTHERS[:5]:
            tv.tries(code)
        if tv.tries(RIGHT):
            return "not yet: after five wrong tries no code opens, and the sixth try was accepted"
        tv.issue()
        together(**{f"guess {n}": (lambda n=n: tv.tries(OTHERS[n])) for n in range(8)})
        if tv.tries(RIGHT):
            return "not yet: eight wrong tries came at once, and afterwards the right code was accepted"
        tv.issue()
        if tv.in_between(RIGHT):
            return "not yet: five wrong tries ran while this one was under way, and it was accepted as a sixth"
        tv.issue()
        opened = together(**{f"try {n}": lambda: tv.tries(RIGHT) for n in range(5)})
        if sum(each is True for each in opened.values()) != 1:
            return f"not yet: the right code came five times at once, and what was heard is {[*opened.values()]}"
    finally:
        tv.engine.dispose()
    return "right"


@checker
def check(redeem: Callable[..., Any]) -> str:
    """Tries one after the other, too late, and at once; on DuckDB and on PostgreSQL."""
    said = tried(lesson_url(), redeem)
    if said == "right":
        said = on_postgres(tried, redeem) or said
    return said
