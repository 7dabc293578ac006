"""The exercise of the page "Sessions": its checker, its hints, wrong answers; and what the page's stage needs."""

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth.sessions import Lifetimes, sessions, start_session
from playbook.foundations.clock_and_identifiers import FixedClock, hash_token
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import is_conflict, transaction
from playbook.kit.display import Shown, mermaid
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, on_postgres
from playbook.kit.live import LiveClient, serving
from playbook.kit.stage import together

LONGEST_WAIT = 60  # seconds; a busy machine is no fault of the reader
Step = Callable[[sa.Connection, str, datetime], object]


class Lives:
    """Sessions that live and end, by the page's own functions. `drawn()` shows the states that their rows were in."""

    def __init__(self, engine: sa.Engine, table: sa.Table, start: datetime, lifetimes: Any, begin: Any, find: Any):
        self.engine, self.table, self.lifetimes = engine, table, lifetimes
        self.begin, self.find = begin, find
        self.start = self.now = start
        self.token = ""
        self.seen: dict[tuple[str, str], list[str]] = {}
        self.days: list[int] = []  # of each session that was used: on which day it was over

    def state(self) -> str:
        """What the table says of the session now."""
        with self.engine.connect() as db:
            ends = sa.select(self.table.c.expires_at).where(self.table.c.token_hash == hash_token(self.token))
            end = db.scalar(ends)
        if end is None:
            return "[*]"
        return "alive" if end > self.now else "expired"

    def step(self, event: str, do: Step) -> Any:
        """Do something with the session, and note what became of it."""
        before = self.state()
        with self.engine.begin() as db:
            result = do(db, self.token, self.now)
        self.note(before, event)
        return result

    def note(self, before: str, event: str) -> None:
        events = self.seen.setdefault((before, self.state()), [])
        if event not in events:
            events.append(event)

    def sign_in(self) -> None:
        self.now = self.start
        with self.engine.begin() as db:
            self.token = self.begin(db, "ada", self.now, self.lifetimes, None)
        self.note("[*]", "sign-in")

    def used_every(self, pause: timedelta, why: str, most: int = 60) -> None:
        """Sign in and use the session, until it is found no more: that is `why`, as the page says."""
        self.sign_in()
        found: Any = True
        while found is not None and self.now < self.start + timedelta(days=most):
            self.now += pause
            over = self.state() == "expired"
            if over:
                self.note("alive", why)
            found = self.step("use is refused" if over else "use", self.use)
        self.days.append((self.now - self.start).days)

    def use(self, db: sa.Connection, token: str, now: datetime) -> Any:
        return self.find(db, token, now, self.lifetimes)

    def ended(self, event: str, do: Step) -> None:
        """Sign in, and end the session."""
        self.sign_in()
        self.step(event, do)

    def drawn(self) -> Shown:
        """The states and what led from one to another, as a diagram."""
        lines = [f"  {before} --> {after} : {', '.join(events)}" for (before, after), events in self.seen.items()]
        return mermaid("\n".join(["stateDiagram-v2", *lines]))


def some_weeks(app: Any, clock: Any, engine: sa.Engine, end_sessions: Any) -> list[tuple[int, str, int, str]]:
    """Ada's weeks with a desk and a phone: day, request, status, and for how many days the answer keeps the cookie."""
    start = clock.now()
    rows: list[tuple[int, str, int, str]] = []

    def ask(name: str, client: Any, path: str, method: str = "GET", **headers: str) -> None:
        answer = client.request(method, path, headers=headers)
        _, found, age = answer.headers.get("set-cookie", "").partition("Max-Age=")
        days = f"{int(age.split(';')[0]) / 86_400:g} days" if found else ""
        rows.append(((clock.now() - start).days, f"{name}: {method} {path}", answer.status_code, days))

    with serving(app) as desk, LiveClient(str(desk.base_url)) as phone:
        ask("desk", desk, "/sign-in/ada", "POST")
        phone.post("/sign-in/ada")
        for path in ("/me", "/me?page=x", "/me", "/me"):
            clock.advance(timedelta(days=6))
            ask("desk", desk, path)
            phone.get("/me")
        ask("desk", desk, "/me")
        with engine.begin() as db:
            end_sessions(db, "ada", keep=phone.cookies["session"])
        copy = f"session={phone.cookies['session']}"
        ask("desk", desk, "/me")
        ask("phone", phone, "/me")
        ask("phone", phone, "/sign-out", "POST")
        phone.cookies.clear()
        ask("Mallory", phone, "/me", cookie=copy)
    return rows


def run(engine: sa.Engine, function: Callable[..., Any], *args: Any) -> Any:
    """`function(db, *args)` in one transaction, again after a conflict."""
    return transaction(engine, lambda db: function(db, *args))


def two_tabs(url: str, service: Callable[[sa.Engine, Any], Any]) -> dict[str, Any]:
    """Two requests of one session at the moment when its end moves. Both have read the row before one writes it."""
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, tzinfo=UTC))
    sessions.metadata.create_all(engine)
    token = run(engine, start_session, "ada", clock.now(), Lifetimes(), None)
    clock.advance(timedelta(days=6))
    meeting, arrived = threading.Barrier(2), itertools.count()

    @sa.event.listens_for(engine, "before_cursor_execute")
    def meet(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE sessions") and next(arrived) < 2:
            meeting.wait(LONGEST_WAIT)

    with serving(service(engine, clock)) as client:
        sent = {"cookie": f"session={token}"}
        answers = together(**{tab: lambda: client.get("/me", headers=sent) for tab in ("first", "second")})
    engine.dispose()
    statuses = sorted(answer.status_code for answer in answers.values())
    return {"statuses": statuses, "new cookies": sum("set-cookie" in answer.headers for answer in answers.values())}


HINTS = (
    "Two transactions that insert different rows do not conflict, and neither sees the\n"
    "row of the other. Look at the table `users`.",
    "What can you write that makes the second transaction wait, or fail? It must happen\n"
    "before you look which sessions there are.",
)

WRONG = (
    # no limit at all
    """
def start_limited(db, users, user_id, now, most):
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
    # two sign-ins at once do not see each other
    """
def start_limited(db, users, user_id, now, most):
    alive = [sessions.c.user_id == user_id, sessions.c.expires_at > now]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.desc())
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
    # the counter last: on PostgreSQL both have counted before one waits
    """
def start_limited(db, users, user_id, now, most):
    alive = [sessions.c.user_id == user_id, sessions.c.expires_at > now]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.desc())
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    token = start_session(db, user_id, now, Lifetimes(), old=None)
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    return token
""",
    # counts expired sessions
    """
def start_limited(db, users, user_id, now, most):
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    alive = [sessions.c.user_id == user_id]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.desc())
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
    # the newest ends
    """
def start_limited(db, users, user_id, now, most):
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    alive = [sessions.c.user_id == user_id, sessions.c.expires_at > now]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.asc())
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
    # one too few
    """
def start_limited(db, users, user_id, now, most):
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    alive = [sessions.c.user_id == user_id, sessions.c.expires_at > now]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.desc())
    too_old = db.scalars(hashes.offset(most - 2)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
    # everybody's sessions
    """
def start_limited(db, users, user_id, now, most):
    user = users.update().where(users.c.id == user_id)
    db.execute(user.values(sign_ins=users.c.sign_ins + 1).returning(users.c.id))
    alive = [sessions.c.expires_at > now]
    hashes = sa.select(sessions.c.token_hash).where(*alive).order_by(sessions.c.created_at.desc())
    too_old = db.scalars(hashes.offset(most - 1)).all()
    db.execute(sessions.delete().where(sessions.c.token_hash.in_(too_old)))
    return start_session(db, user_id, now, Lifetimes(), old=None)
""",
)

MOST = 3
START = datetime(2026, 11, 2, tzinfo=UTC)
StartLimited = Callable[[orm.Session, sa.Table, str, datetime, int], str]


class Trial:
    """A new database with four users. `start` signs one in with the reader's code."""

    def __init__(self, url: str, start_limited: StartLimited, table: sa.Table) -> None:
        self.start_limited, self.table = start_limited, table
        self.users = sa.Table(
            "users",
            sa.MetaData(),
            sa.Column("id", sa.String, primary_key=True),
            sa.Column("sign_ins", sa.Integer, nullable=False),
        )
        # Not `make_engine`: PostgreSQL stays at READ COMMITTED, where a second UPDATE waits and raises nothing.
        self.engine = sa.create_engine(url, poolclass=sa.QueuePool)
        with self.engine.begin() as db:
            self.table.create(db)
            self.users.create(db)
            db.execute(self.users.insert(), [{"id": n, "sign_ins": 0} for n in ("ada", "bob", "carol", "dora")])

    def start(self, name: str, hours: int) -> str:
        with orm.Session(self.engine) as db, db.begin():
            return self.start_in(db, name, hours)

    def start_in(self, db: orm.Session, name: str, hours: int) -> str:
        token = self.start_limited(db, self.users, name, START + timedelta(hours=hours), MOST)
        if not isinstance(token, str):
            raise AssertionError(f"return the token, not {type(token).__name__}")
        return token

    def row_of(self, token: str) -> sa.ColumnElement[bool]:
        return self.table.c.token_hash == hash_token(token)

    def move_end(self, token: str, hours: int) -> None:
        with self.engine.begin() as db:
            move = self.table.update().where(self.row_of(token)).values(expires_at=START + timedelta(hours=hours))
            db.execute(move.returning(self.table.c.user_id))

    def alive(self, tokens: list[str], hours: int) -> list[bool]:
        return [self.count(self.row_of(token), hours) == 1 for token in tokens]

    def count(self, condition: sa.ColumnElement[bool], hours: int) -> int:
        count = sa.select(sa.func.count()).select_from(self.table)
        with self.engine.connect() as db:
            return db.scalar(count.where(condition, self.table.c.expires_at > START + timedelta(hours=hours))) or 0

    def start_two_at_once(self, name: str, hours: int) -> int:
        """How many sessions are alive after two transactions that overlap. A conflict is tried again."""
        failed: list[BaseException] = []
        done = threading.Event()

        def second() -> None:
            try:
                try:
                    self.start(name, hours)
                except sa.exc.DBAPIError as error:
                    if not is_conflict(error):
                        raise
                    done.set()  # the first one commits, and then it is tried again
                    committed.wait(LONGEST_WAIT)
                    self.start(name, hours)
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        committed = threading.Event()
        thread = threading.Thread(target=second, daemon=True)
        with orm.Session(self.engine) as first, first.begin():
            self.start_in(first, name, hours)
            first.flush()
            thread.start()
            end = time.monotonic() + LONGEST_WAIT
            while not done.wait(0.02) and not blocked(self.engine) and time.monotonic() < end:
                pass
        committed.set()
        thread.join(LONGEST_WAIT)
        if failed:
            raise failed[0]
        return self.count(self.table.c.user_id == name, hours)


def blocked(engine: sa.Engine) -> bool:
    """Whether a session of this database waits for a lock. Never on DuckDB, which raises at once."""
    if engine.dialect.name != "postgresql":
        return False
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text(waiting)))


@checker
def check(start_limited: StartLimited, table: sa.Table) -> str:
    """Sign users in one after another, after an expiry, and two at once. On both engines."""
    said = on_one_engine(lesson_url(), start_limited, table)
    if said is None:
        said = on_postgres(on_one_engine, start_limited, table)
    return f"not yet: {said}" if said else "right"


def on_one_engine(url: str, start_limited: StartLimited, table: sa.Table) -> str | None:
    """The first thing that is wrong, in words; or None."""
    trial = Trial(url, start_limited, table)
    try:
        return one_by_one(trial) or at_once(trial)
    finally:
        trial.engine.dispose()


def one_by_one(trial: Trial) -> str | None:
    bob = trial.start("bob", 0)
    tokens = [trial.start("ada", hours) for hours in range(1, 5)]
    alive = trial.alive(tokens, 5)
    if not alive[-1]:
        return "the session that was just started is not alive"
    if trial.alive([bob], 5) != [True]:
        return "Bob's session ended when Ada signed in"
    if sum(alive) != MOST:
        return f"Ada may have {MOST} sessions, and after four sign-ins {sum(alive)} are alive"
    if alive[0]:
        return "a newer session ended, and the oldest one is alive"
    used, unused, newer = (trial.start("carol", hours) for hours in (1, 2, 3))
    trial.move_end(used, 200)
    trial.move_end(unused, 50)
    trial.move_end(newer, 200)
    newest = trial.start("carol", 100)  # `unused` is over by now, so three are alive with this one
    if trial.alive([used, newer, newest], 100) != [True, True, True]:
        return "an expired session counted as one of the three"
    return None


def at_once(trial: Trial) -> str | None:
    # One below the limit: two that each end the same oldest session would conflict.
    for hours in range(MOST - 1):
        trial.start("dora", hours)
    left = trial.start_two_at_once("dora", 10)
    if left != MOST:
        return f"two sign-ins at once leave {left} sessions on {trial.engine.dialect.name}; neither saw the other's"
    return None
