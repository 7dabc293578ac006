"""The exercise of the page "Sign up": its checker, its hints, wrong answers; and the stories of its stage."""

import hashlib
import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import FastAPI

from playbook.auth.mailed_links import links, new_link  # noqa: F401  for WRONG
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, serving
from playbook.kit.stage import capture_sql, together

# ---------------------------------------------------------------- the service without a sign-up

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("email", sa.String, nullable=False, unique=True),
    sa.Column("password_hash", sa.String, nullable=False),
    sa.Column("verified", sa.Boolean, nullable=False),
)
START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


class Shop:
    """Users and links in a new database. `mails`: (to, text), oldest first. `jobs` wait for `work_off`."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        metadata.create_all(self.engine)
        links.metadata.create_all(self.engine)
        self.now = START
        self.hashes = 0
        self.mails: list[tuple[str, str]] = []
        self.jobs: list[Callable[[], object]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def transact(self, work: Callable[[Any], Any]) -> Any:
        """`work(db)` in one transaction."""
        return transaction(self.engine, work)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(db, *args)` in one transaction."""
        return transaction(self.engine, lambda db: function(db, *args))

    def hash_password(self, password: str) -> str:
        """Stands for the slow hash of the page on password hashing, and is counted."""
        self.hashes += 1
        return hashlib.sha256(password.encode()).hexdigest()

    def new_id(self) -> str:
        with self._lock:
            return f"user {next(self._numbers)}"

    def send(self, to: str, text: str) -> None:
        self.mails.append((to, text))

    def later(self, function: Callable[..., object], *args: Any) -> None:
        self.jobs.append(lambda: function(*args))

    def work_off(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()

    def lets_in(self, email: str, password: str) -> bool:
        """Whether somebody can sign in so: the address is proven, and the password is its own."""
        digest = hashlib.sha256(password.encode()).hexdigest()
        with self.engine.connect() as db:
            mine = sa.select(users.c.id).where(
                users.c.email == email, users.c.verified, users.c.password_hash == digest
            )
            return db.scalar(mine) is not None


Make = Callable[[Shop], FastAPI]


class Stories:
    """Mallory's tries against a service. Each has a victim of its own."""

    def __init__(self, shop: Shop, client: Any) -> None:
        self.shop, self.client = shop, client

    def sign_up(self, email: str, password: str, name: str = "Ada") -> tuple[Any, ...]:
        """Fill in the first form. The answer, and what was done before it."""
        hashes, mails = self.shop.hashes, len(self.shop.mails)
        sent = {"email": email, "password": password, "name": name}
        with capture_sql(self.shop.engine) as statements:
            answer = self.client.post("/sign-up", json=sent)
        work = (self.shop.hashes - hashes, len(statements), len(self.shop.mails) - mails)
        self.shop.work_off()
        return (answer.status_code, answer.text), work

    def click(self, email: str, password: str) -> bool:
        """Open the newest link of a mailbox, and type a password if its page asks for one."""
        mine = [text for to, text in self.shop.mails if to == email and "#" in text]
        if not mine:
            return False
        url = urlsplit(next(word for word in mine[-1].split() if "#" in word))
        sent = {"token": url.fragment, "password": password, "name": "Ada"}
        return bool(self.client.post(url.path, json=sent).status_code < 300)

    def answers(self, email: str) -> str:
        known = self.known(email)
        new, taken = self.sign_up(f"not-{email}", "mallory")[0], self.sign_up(known, "mallory")[0]
        return "all the same" if new == taken else f"{new[0]}, or {taken[0]} if taken"

    def work(self, email: str) -> str:
        known = self.known(email)
        new, taken = self.sign_up(f"not-{email}", "mallory")[1], self.sign_up(known, "mallory")[1]
        if new == taken:
            return "all the same"
        return f"{new[0]} hash and {new[2]} mail, or {taken[0]} and {taken[2]} if taken"

    def known(self, email: str) -> str:
        """An address with an account."""
        self.sign_up(email, "ada")
        assert self.click(email, "ada")
        return email

    def the_click(self, email: str) -> str:
        """Mallory fills in the form with Ada's address. Ada finds the mail, and does join."""
        self.sign_up(email, "mallory")
        self.click(email, "ada")
        return "Mallory is in" if self.shop.lets_in(email, "mallory") else "Ada is in, with her password"

    def the_address(self, email: str) -> str:
        """Mallory fills in the form with Ada's address. Ada deletes that mail, and joins the next day."""
        self.sign_up(email, "mallory")
        self.shop.mails.clear()
        self.shop.now += timedelta(days=1)
        self.sign_up(email, "ada")
        self.click(email, "ada")
        return "Ada is in, with her password" if self.shop.lets_in(email, "ada") else "Ada cannot join"

    def words(self, email: str) -> str:
        self.sign_up(email, "mallory", name="Win at evil.example")
        return "in Ada's mail" if any("evil" in text for _, text in self.shop.mails) else "in no mail"


TRIES = {
    "compares answers": "answers",
    "compares work": "work",
    "lets Ada click": "the_click",
    "takes Ada's address": "the_address",
    "has a name with words": "words",
}


def attack(make: Make) -> dict[str, str]:
    """How Mallory's tries end in the service that `make(shop)` returns."""
    shop = Shop(lesson_url())
    ends = {}
    with serving(make(shop)) as client:
        for number, (name, story) in enumerate(TRIES.items()):
            ends[name] = getattr(Stories(shop, client), story)(f"ada{number}@example.com")
    shop.engine.dispose()
    return ends


def crowd(url: str, make: Make, number: int = 20) -> dict[str, int]:
    """Ada asked for many links. Each is used, with a password of its own, all at once; and one of them twice."""
    shop = Shop(url)
    with serving(make(shop)) as client:
        stories = Stories(shop, client)
        for _ in range(number):
            stories.sign_up("ada@example.com", "")
        tokens = [urlsplit(text.split()[-1]).fragment for _, text in shop.mails]

        def use(n: int) -> int:
            sent = {"token": tokens[n % number], "password": f"password {n}", "name": "Ada"}
            return client.post("/join", json=sent).status_code

        done = together(**{f"link {n}": (lambda n=n: use(n)) for n in range(number + 1)})
        lets_in = [n for n in range(number + 1) if shop.lets_in("ada@example.com", f"password {n}")]
    with shop.engine.connect() as db:
        accounts = len(db.execute(sa.select(users)).all())
    shop.engine.dispose()
    statuses = list(done.values())
    succeeded = [n for n, status in enumerate(statuses) if status == 200]
    found = {"succeeded": len(succeeded), "refused": statuses.count(400), "accounts": accounts}
    return found | {"its password": int(succeeded == lets_in)}


# ---------------------------------------------------------------- the exercise

HINTS = (
    "See 'The idea': when does something exist that differs for the two kinds of people?\n"
    "Which of the tables do you need to read at all?",
    "Whoever is invited gets the same link and the same row in the list, with an account\n"
    "or without. What differs can wait until the link is used.",
)

WRONG = (
    # who has an account is a member at once
    """
def invite(db, members, team, email, now):
    known = db.scalar(sa.select(users.c.id).where(users.c.email == email)) is not None
    mine = [members.c.team == team, members.c.email == email]
    if db.scalar(sa.select(members.c.email).where(*mine)) is None:
        db.execute(members.insert().values(team=team, email=email, state="member" if known else "invited"))
    return new_link(db, f"invite {team}", None, email, now, timedelta(days=7))
""",
    # who has an account is told nothing
    """
def invite(db, members, team, email, now):
    mine = [members.c.team == team, members.c.email == email]
    if db.scalar(sa.select(members.c.email).where(*mine)) is None:
        db.execute(members.insert().values(team=team, email=email, state="invited"))
    if db.scalar(sa.select(users.c.id).where(users.c.email == email)) is not None:
        return None
    return new_link(db, f"invite {team}", None, email, now, timedelta(days=7))
""",
    # one statement more for who has an account
    """
def invite(db, members, team, email, now):
    mine = [members.c.team == team, members.c.email == email]
    if db.scalar(sa.select(members.c.email).where(*mine)) is None:
        db.execute(members.insert().values(team=team, email=email, state="invited"))
    user_id = db.scalar(sa.select(users.c.id).where(users.c.email == email))
    if user_id is not None:
        db.execute(users.update().where(users.c.id == user_id).values(verified=True).returning(users.c.id))
    return new_link(db, f"invite {team}", user_id, email, now, timedelta(days=7))
""",
    # a second invitation is a second row
    """
def invite(db, members, team, email, now):
    db.execute(members.insert().values(team=team, email=email, state="invited"))
    return new_link(db, f"invite {team}", None, email, now, timedelta(days=7))
""",
    # a second invitation makes a member an invited person again
    """
def invite(db, members, team, email, now):
    mine = [members.c.team == team, members.c.email == email]
    db.execute(members.delete().where(*mine))
    db.execute(members.insert().values(team=team, email=email, state="invited"))
    return new_link(db, f"invite {team}", None, email, now, timedelta(days=7))
""",
    # one link opens every team
    """
def invite(db, members, team, email, now):
    mine = [members.c.team == team, members.c.email == email]
    if db.scalar(sa.select(members.c.email).where(*mine)) is None:
        db.execute(members.insert().values(team=team, email=email, state="invited"))
    return new_link(db, "invite", None, email, now, timedelta(days=7))
""",
)


class Teams:
    """A database in which `ada` has an account and `bob` has none."""

    def __init__(self, invite: Callable[..., Any]) -> None:
        self.shop, self.invite = Shop(lesson_url()), invite
        self.members = sa.Table(
            "members",
            sa.MetaData(),
            sa.Column("team", sa.String, nullable=False),
            sa.Column("email", sa.String, nullable=False),
            sa.Column("state", sa.String, nullable=False),
        )
        self.members.create(self.shop.engine)
        ada = {"id": "1", "email": "ada@example.com", "password_hash": "-", "verified": True}
        self.shop.transact(lambda db: db.execute(users.insert().values(ada)))

    def invited(self, email: str, team: str = "acme") -> tuple[Any, list[str]]:
        """What `invite` returned, and the kinds of statements that it made."""
        with capture_sql(self.shop.engine) as statements:
            token = self.shop.run(self.invite, self.members, team, email, START)
        return token, [each.sql.split()[0] for each in statements]

    def states(self, email: str, team: str = "acme") -> list[str]:
        with self.shop.engine.connect() as db:
            mine = sa.select(self.members.c.state).where(self.members.c.email == email, self.members.c.team == team)
            return list(db.scalars(mine))

    def purpose(self, token: str) -> Any:
        from playbook.auth.mailed_links import read_link

        with self.shop.engine.connect() as db:
            link = read_link(db, token)
            return None if link is None else (link.purpose, link.email)


@checker
def check(invite: Callable[..., Any]) -> str:
    """Invite somebody with an account and somebody without; compare what the inviter can see; then do it again."""
    teams = Teams(invite)
    ada, bob = teams.invited("ada@example.com"), teams.invited("bob@example.com")
    lists = teams.states("ada@example.com"), teams.states("bob@example.com")
    for token, name in ((ada[0], "ada"), (bob[0], "bob")):
        if not isinstance(token, str) or teams.purpose(token) is None:
            return f"not yet: {name} is invited and gets no link; you returned {token!r}, which is no token of a link"
        if teams.purpose(token)[1] != f"{name}@example.com":
            return f"not yet: the link for {name} should prove the address of {name}"
    if lists[0] != lists[1]:
        return f"not yet: the list of the team says {lists[0]} of one guest and {lists[1]} of the other"
    if lists[0] != ["invited"]:
        return f"not yet: a guest who has not clicked yet is 'invited', once; the list says {lists[0]}"
    if ada[1] != bob[1]:
        return f"not yet: for one guest you ran {', '.join(ada[1])}, for the other {', '.join(bob[1])}"
    if teams.invited("ada@example.com", "globex")[0] and teams.purpose(ada[0]) == teams.purpose(
        teams.invited("ada@example.com", "initech")[0]
    ):
        return "not yet: the links of two teams have the same purpose, so each opens the other team"
    again = teams.invited("bob@example.com")
    if not isinstance(again[0], str) or again[0] == bob[0] or teams.states("bob@example.com") != ["invited"]:
        return (
            f"not yet: invited again, Bob gets a new link and stays once in the list: {teams.states('bob@example.com')}"
        )
    accepted = teams.members.update().where(teams.members.c.email == "bob@example.com").values(state="member")
    teams.shop.transact(lambda db: db.execute(accepted))
    teams.invited("bob@example.com")
    if teams.states("bob@example.com") != ["member"]:
        return f"not yet: Bob was a member, was invited again, and the list says {teams.states('bob@example.com')}"
    return "right"
