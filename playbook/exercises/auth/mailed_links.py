"""The exercise of the page "Mailed links": its checker, its hints, wrong answers; and the stories of its stage."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from playbook.auth.mailed_links import hash_of
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_folder, lesson_url, on_postgres, serving
from playbook.kit.stage import together

# ---------------------------------------------------------------- the stories

SITE = "https://pantry.example"
Make = Callable[[sa.Engine], tuple[FastAPI, Callable[[], str]]]  # a service, and what mails a link: its URL


def run(engine: sa.Engine, statement: Any) -> Any:
    """Execute one statement in a transaction of its own; its rows, if it has any."""

    def work(db: Any) -> Any:
        result = db.execute(statement)
        return result.all() if result.returns_rows else None

    return transaction(engine, work)


def pages(use: Callable[[str], object], button: bool) -> FastAPI:
    """Two usual ways: opening the link uses the token, or pressing the button of its page does."""
    app = FastAPI()
    if button:
        app.get("/confirm")(lambda: HTMLResponse("<button>Confirm</button>"))

        @app.post("/confirm")
        def confirm(sent: dict[str, str]) -> object:
            return use(sent["token"])

    else:
        app.get("/confirm")(lambda token: use(token))
    return app


def click(client: httpx.Client, url: str) -> int:
    """Open a mailed link as a browser does, and press the button if there is one. The last status."""
    page, token = re.split(r"\?token=|#", url.removeprefix(SITE))
    answer = client.get(url.removeprefix(SITE))  # like a browser, httpx sends nothing that stands behind a `#`
    if "<button" in answer.text:
        answer = client.post(page, json={"token": token})
    return answer.status_code


class Story:
    """A new database and service with one mailed link. `uses` is the table with a row for each effect."""

    def __init__(self, make: Make, metadata: sa.MetaData) -> None:
        self.engine = make_engine(lesson_url())
        self.metadata = metadata
        metadata.create_all(self.engine)
        self.app, mail = make(self.engine)
        self.url = mail()
        self.token = re.split(r"\?token=|#", self.url)[1]

    def used(self, client: httpx.Client, token: str) -> bool:
        return click(client, self.url.replace(self.token, token)) == 200

    def scanner(self, client: Any) -> str:
        client.get(self.url.removeprefix(SITE))
        return "well" if self.used(client, self.token) else "Ada is refused"

    def log(self, client: Any) -> str:
        client.get(self.url.removeprefix(SITE))
        queries = [parse_qs(urlsplit(each.path).query) for each in client.exchanges]
        return self.stolen(client, [text for query in queries for text in query.get("token", [])])

    def backup(self, client: Any) -> str:
        tables = [each for each in self.metadata.sorted_tables if each.name != "uses"]
        rows = [row for each in tables for row in run(self.engine, sa.select(each))]
        return self.stolen(client, [value for row in rows for value in row if isinstance(value, str)])

    def stolen(self, client: Any, found: list[str]) -> str:
        return "Mallory uses it" if any([self.used(client, each) for each in found]) else "well"

    def double_click(self, client: Any) -> str:
        """Where a request looks for the token first, both have looked before one goes on."""
        both = threading.Barrier(2)

        def meet(*event: Any) -> None:
            if event[2].startswith("SELECT"):
                both.wait(60)

        sa.event.listen(self.engine, "after_cursor_execute", meet)
        together(first=lambda: self.used(client, self.token), second=lambda: self.used(client, self.token))
        sa.event.remove(self.engine, "after_cursor_execute", meet)
        [[times]] = run(self.engine, sa.text("SELECT count(*) FROM uses"))
        return {1: "used once", 2: "used twice"}.get(times, f"used {times} times")


def attack(make: Make, metadata: sa.MetaData) -> dict[str, str]:
    """How the four stories end in the service that `make(engine)` returns, with a function that mails a link."""
    names = ("scanner", "log", "backup", "double click")

    def play(name: str) -> str:
        story = Story(make, metadata)
        with serving(story.app) as client:
            end: str = getattr(story, name.replace(" ", "_"))(client)
        story.engine.dispose()
        return end

    with ThreadPoolExecutor(len(names)) as threads:  # at once: each has a server, which stops slowly
        return dict(zip(names, threads.map(play, names), strict=True))


# ---------------------------------------------------------------- the exercise

HINTS = (
    "See 'Take'. What makes two requests safe there, although both begin at once?",
    "The seat is free, the link is good and in time: all three are conditions of the one\n"
    "statement that takes the seat, and that statement says what is left.",
)

WRONG = (
    # looks first, then writes what it has computed
    """
def take_seat(db, invitations, token, now):
    mine = invitations.c.token_hash == hash_of(token)
    row = db.execute(sa.select(invitations).where(mine, invitations.c.expires_at > now)).one_or_none()
    if row is None or row.seats == 0:
        return None
    db.execute(invitations.update().where(mine).values(seats=row.seats - 1))
    return row.seats - 1
""",
    # looks first, then takes without a condition
    """
def take_seat(db, invitations, token, now):
    good = [invitations.c.token_hash == hash_of(token), invitations.c.expires_at > now, invitations.c.seats > 0]
    if db.scalar(sa.select(invitations.c.seats).where(*good)) is None:
        return None
    taken = invitations.update().where(good[0]).values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats))
""",
    # takes the last seat again and again
    """
def take_seat(db, invitations, token, now):
    good = [invitations.c.token_hash == hash_of(token), invitations.c.expires_at > now]
    taken = invitations.update().where(*good).values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats))
""",
    # never ends
    """
def take_seat(db, invitations, token, now):
    good = [invitations.c.token_hash == hash_of(token), invitations.c.seats > 0]
    taken = invitations.update().where(*good).values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats))
""",
    # looks for the token itself
    """
def take_seat(db, invitations, token, now):
    good = [invitations.c.token_hash == token, invitations.c.expires_at > now, invitations.c.seats > 0]
    taken = invitations.update().where(*good).values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats))
""",
    # says nothing of the last seat
    """
def take_seat(db, invitations, token, now):
    good = [invitations.c.token_hash == hash_of(token), invitations.c.expires_at > now, invitations.c.seats > 0]
    taken = invitations.update().where(*good).values(seats=invitations.c.seats - 1)
    return db.scalar(taken.returning(invitations.c.seats)) or None
""",
)

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


class Team:
    """A database with two invitations: `ada` with two seats, `bob` with one. At no more than READ COMMITTED."""

    def __init__(self, url: str, take_seat: Callable[..., Any]) -> None:
        self.engine = sa.create_engine(url)
        self.take_seat = take_seat
        self.invitations = sa.Table(
            "invitations",
            sa.MetaData(),
            sa.Column("token_hash", sa.String, primary_key=True),
            sa.Column("seats", sa.Integer, nullable=False),
            sa.Column("expires_at", sa.DateTime, nullable=False),
        )
        self.invitations.create(self.engine)
        rows = [("ada", 2), ("bob", 1)]
        ends = START.replace(tzinfo=None) + timedelta(days=1)
        with self.engine.begin() as db:
            for token, seats in rows:
                db.execute(self.invitations.insert().values(token_hash=hash_of(token), seats=seats, expires_at=ends))

    def take(self, token: str, days: int = 0) -> Any:
        now = START.replace(tzinfo=None) + timedelta(days=days)
        with self.engine.begin() as db:
            return self.take_seat(db, self.invitations, token, now)

    def left(self, token: str) -> int:
        with self.engine.connect() as db:
            mine = self.invitations.c.token_hash == hash_of(token)
            return int(db.scalar(sa.select(self.invitations.c.seats).where(mine)) or 0)

    def take_in_between(self, token: str) -> list[Any]:
        """Another whole request runs after the first SELECT, if there is one; else after the request."""
        heard: list[Any] = []

        def other(*event: Any) -> None:
            if event[2].startswith("SELECT") and not heard:
                heard.append("at work")
                heard[0] = self.take(token)

        sa.event.listen(self.engine, "after_cursor_execute", other)
        mine = self.take(token)
        sa.event.remove(self.engine, "after_cursor_execute", other)
        return [mine, *(heard or [self.take(token)])]


def tried(url: str, take_seat: Callable[..., Any]) -> str:
    team = Team(url, take_seat)
    try:
        if team.take("carol") is not None or team.take(hash_of("ada")) is not None:
            return "not yet: somebody took a seat who does not know the token"
        if team.take("ada", days=1) is not None or team.left("ada") != 2:
            return "not yet: the invitation ended after a day, and a seat was taken later"
        first = team.take("ada")
        if first is None:
            return "not yet: Ada's invitation has two free seats, and the first guest was refused"
        if (first, team.left("ada"), team.left("bob")) != (1, 1, 1):
            return f"not yet: of two seats one is taken; you returned {first!r} and the table says {team.left('ada')}"
        if team.take("ada") != 0:
            return "not yet: the second guest took the last seat, so 0 seats are left, and this is not a refusal"
        if team.take("ada") is not None or team.left("ada") != 0:
            return "not yet: a third guest has no seat, and the table must not count below zero"
        heard = team.take_in_between("bob")
        if sorted(str(each) for each in heard) != ["0", "None"]:
            return f"not yet: two guests wanted the last seat at once; they heard {heard}, and the seat exists once"
    finally:
        team.engine.dispose()
    return "right"


@checker
def check(take_seat: Callable[..., Any]) -> str:
    """One guest after the other, too late, with a wrong token; then two at once, on SQLite and on PostgreSQL."""
    said = tried(f"sqlite:///{lesson_folder() / 'team.sqlite'}", take_seat)
    if said == "right":
        said = on_postgres(tried, take_seat) or said
    return said
