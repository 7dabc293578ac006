"""The exercise of the page "Sign in": its checker, its hints, wrong answers; and what the page's stage needs."""

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from playbook.auth.throttling import (  # noqa: F401  some for WRONG
    Allowance,
    forget,
    give_back,
    spend,
    throttles,
)
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.display import show
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url
from playbook.kit.stage import Timeline, together

NINE = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
LONGEST_WAIT = 30  # seconds
SignIn = Callable[..., str]

# ---------------------------------------------------------------- what the page's stage needs

_tables = sa.MetaData()
users = sa.Table(
    "users",
    _tables,
    sa.Column("email", sa.String, primary_key=True),
    sa.Column("password_hash", sa.String, nullable=False),
)
sessions = sa.Table(
    "sessions",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("email", sa.String, nullable=False),
)


def hashed(password: str) -> str:
    """A fast stand-in for the slow hash: the page counts the comparisons instead."""
    return hashlib.sha256(password.encode()).hexdigest()[:8]


def find(db: sa.Connection | Session, email: str) -> tuple[str, str] | None:
    """The user of an address, here the address itself, and the stored hash."""
    user = db.execute(sa.select(users).where(users.c.email == email)).first()
    return (user.email, user.password_hash) if user else None


def start(db: sa.Connection | Session, email: str) -> str:
    """A new session."""
    number = (db.scalar(sa.select(sa.func.count()).select_from(sessions)) or 0) + 1
    db.execute(sessions.insert().values(number=number, email=email))
    return f"session {number}"


def told(function: Callable[..., Any], *args: Any) -> str:
    """What a call returns, or the exception that it raises."""
    try:
        return str(function(*args))
    except Exception as error:
        return repr(error)


class Accounts:
    """A new database with Ada's account, whose password is "right". `hashes` counts what `check` compared."""

    def __init__(self, url: str | None = None) -> None:
        self.engine = make_engine(url or lesson_url())
        self.now = NINE
        self.hashes = 0
        self.meanwhile: Callable[[], object] = lambda: None
        _tables.create_all(self.engine)
        throttles.create(self.engine)
        with self.engine.begin() as db:
            db.execute(users.insert().values(email="ada", password_hash=hashed("right")))

    def check(self, password: str, stored: str | None) -> bool:
        """Whether `stored` is the hash of `password`. `meanwhile` happens while it is compared."""
        self.hashes += 1
        self.meanwhile()
        return hashed(password) == (stored or hashed("nobody has this"))

    def change_password(self) -> None:
        """Ada's new password, which ends all her sessions."""
        transaction(self.engine, change_password)

    def sessions(self) -> int:
        with self.engine.connect() as db:
            return db.scalar(sa.select(sa.func.count()).select_from(sessions)) or 0


def change_password(db: Session) -> None:
    db.execute(users.update().values(password_hash=hashed("new")))
    db.execute(sessions.delete())


def attacks(sign_in: SignIn) -> list[tuple[str, int]]:
    """Three attacks of Mallory on `sign_in(accounts, email, password, network)`."""
    accounts = Accounts()
    for number in range(12):
        while sign_in(accounts, "ada", "a guess", f"network {number}") == "wrong":
            pass
    numbers = [("1. passwords compared", accounts.hashes)]
    for email in ("ada", "unknown"):
        accounts = Accounts()
        sign_in(accounts, email, "a guess", "network")
        numbers.append((f"2. hashes for {email}", accounts.hashes))
    accounts = Accounts()
    accounts.meanwhile = accounts.change_password
    sign_in(accounts, "ada", "right", "network")
    return [*numbers, ("3. sessions after the change", accounts.sessions())]


def race(sign_in: SignIn, keep: Callable[[Session, str, str], bool], url: str | None = None) -> str:
    """Ada changes her password. Before her commit Mallory, who knows the old one, signs in.

    `sign_in(accounts, email, password, network, keep)` is Mallory's. Shows a timeline; says in words how it ended.
    """
    accounts = Accounts(url)
    lanes = Timeline("Ada", "Mallory").watch(accounts.engine)
    written, decided, committed = threading.Event(), threading.Event(), threading.Event()
    compared = threading.Event()
    accounts.meanwhile = compared.set
    sa.event.listen(accounts.engine, "rollback", lambda _: decided.set())
    recording = ("users", "sessions", "COMMIT", "ROLLBACK", "error")
    attempts = 0

    def ada() -> None:
        compared.wait(LONGEST_WAIT)
        with Session(accounts.engine) as db, db.begin():
            change_password(db)
            written.set()
            decided.wait(0.3)  # on PostgreSQL Mallory waits for Ada; on DuckDB the write is refused at once
        committed.set()

    def keep_meanwhile(db: Session, user: str, stored: str) -> bool:
        nonlocal attempts
        attempts += 1
        (written if attempts == 1 else committed).wait(LONGEST_WAIT)
        return keep(db, user, stored)

    def mallory() -> Any:
        try:
            return sign_in(accounts, "ada", "right", "road", keep_meanwhile)
        finally:
            decided.set()

    heard = together(Ada=ada, Mallory=mallory)["Mallory"]
    begin = next((n for n, (lane, _) in enumerate(lanes.events) if lane == "Ada"), 0)
    lanes.events = [one for one in lanes.events[begin:] if any(word in one[1] for word in recording)]
    show(lanes.shown())
    return f"{keep.__name__}: Mallory hears {heard!r}; sessions: {accounts.sessions()}"


# ---------------------------------------------------------------- the exercise

HINTS = (
    "An allowance of one is a mark: a key that can be spent is new, within its interval.\n"
    'What is the key of "this network has tried this account"?',
    "Only a new pair of network and account spends from SPRAYED. A pair that was refused\n"
    "was not tried, so its mark must not stay. After a right password both are undone.",
)

SPRAYED = Allowance(6, timedelta(minutes=3))
HOUR = Allowance(1, timedelta(hours=1))

WRONG = (
    # one account, guessed ten times, is taken for ten
    """
def before(engine, email, network, now):
    return spend(engine, SPRAYED, ("spray", network), now)

def after(db, email, network):
    give_back(db, SPRAYED, ("spray", network))
""",
    # the mark of an account that was refused stays, and lets it through the next time
    """
def before(engine, email, network, now):
    if spend(engine, HOUR, ("tried", network, email), now):
        return 0
    return spend(engine, SPRAYED, ("spray", network), now)

def after(db, email, network):
    forget(db, ("tried", network, email))
    give_back(db, SPRAYED, ("spray", network))
""",
    # the mark of a right password stays: each further sign-in to one's own account is given back again
    """
def before(engine, email, network, now):
    if spend(engine, HOUR, ("tried", network, email), now):
        return 0
    wait = spend(engine, SPRAYED, ("spray", network), now)
    if wait:
        with engine.begin() as db:
            forget(db, ("tried", network, email))
    return wait

def after(db, email, network):
    give_back(db, SPRAYED, ("spray", network))
""",
    # one right password forgives everything that was tried
    """
def before(engine, email, network, now):
    if spend(engine, HOUR, ("tried", network, email), now):
        return 0
    wait = spend(engine, SPRAYED, ("spray", network), now)
    if wait:
        with engine.begin() as db:
            forget(db, ("tried", network, email))
    return wait

def after(db, email, network):
    forget(db, ("tried", network, email), ("spray", network))
""",
    # an office of people who know their passwords is stopped
    """
def before(engine, email, network, now):
    if spend(engine, HOUR, ("tried", network, email), now):
        return 0
    wait = spend(engine, SPRAYED, ("spray", network), now)
    if wait:
        with engine.begin() as db:
            forget(db, ("tried", network, email))
    return wait

def after(db, email, network):
    pass
""",
)


@checker
def check(before: Callable[..., Any], after: Callable[..., Any]) -> str:
    """Mallory from one network, an office behind one address, and Mallory with an account of her own."""
    engine = make_engine(lesson_url())
    throttles.create(engine)
    now = NINE

    def tries(who: object, right: bool = False, network: str = "203.0.113.66") -> str:
        wait = before(engine, f"{who}@example.com", network, now)
        if wait:
            return "refused"
        if right:
            with engine.begin() as db:
                after(db, f"{who}@example.com", network)
        return "compared"

    if "refused" in [tries("ada") for _ in range(10)]:
        return "not yet: one account, guessed ten times, is no spraying: another limit stops that"
    if "refused" in [tries(number) for number in range(5)]:
        return "not yet: Ada and five others are six accounts, and six are allowed"
    if tries("the 7th") == "compared":
        return "not yet: six accounts are allowed, and the seventh was compared"
    if tries("the 7th") == "compared":
        return "not yet: the seventh account was refused, and when it was tried again it was let through"
    if tries(3) == "refused":
        return "not yet: an account that was tried before is no further one"
    if tries("the 7th", network="198.51.100.9") == "refused":
        return "not yet: another network has done nothing"
    now += timedelta(minutes=3)
    if (tries("the 7th"), tries("the 8th")) != ("compared", "refused"):
        return "not yet: after three minutes one more account may be tried, and only one"
    office = "192.0.2.200"
    if "refused" in [tries(f"colleague {number}", right=True, network=office) for number in range(7)]:
        return "not yet: seven colleagues who all know their passwords were stopped"
    for number in range(7):
        typing = [tries(f"typing {number}", right=right, network=office) for right in (False, True)]
        if "refused" in typing:
            return "not yet: seven colleagues mistyped and then knew it: that is no spraying"
    if [tries(f"guessed {number}", network=office) for number in range(8)].count("compared") != 6:
        return "not yet: after all those right passwords this network may still try exactly six accounts"
    tried = 0
    for number in range(9):  # between two guesses Mallory signs in to an account of her own
        tried += tries(f"victim {number}", network="203.0.113.77") == "compared"
        tries("mallory", right=True, network="203.0.113.77")
    if tried > 6:
        return f"not yet: Mallory signs in to her own account after each guess, and tried {tried} of 9 accounts"
    return "right"
