"""The exercise of the page "Write skew": its checker, its two hints, and answers that are wrong."""

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.foundations.write_skew import hold  # noqa: F401  for WRONG
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_url, on_postgres

LONGEST_WAIT = 30  # seconds

HINTS = (
    "See 'The idea': which row do Alice and Bob have in common? Which of them writes it?",
    "The row of the organization. Both must write it, or hold it alone, before they count.",
)

_tables = sa.MetaData()
groups = sa.Table("groups", _tables, sa.Column("name", sa.String, primary_key=True))
owners = sa.Table(
    "owners",
    _tables,
    sa.Column("organization", sa.String, nullable=False),
    sa.Column("name", sa.String, primary_key=True),
)
tables = _tables.tables
Leave = Callable[[orm.Session, str, str], None]


class LastOwner(Exception):
    """The last owner of an organization cannot leave it."""


WRONG = (
    # counts, then deletes another row than the other one
    """
def leave(session, organization, name):
    of_it = owners.c.organization == organization
    if session.scalar(sa.select(sa.func.count()).where(of_it)) <= 1:
        raise LastOwner(organization)
    session.execute(owners.delete().where(of_it, owners.c.name == name))
""",
    # deletes first and counts afterwards
    """
def leave(session, organization, name):
    of_it = owners.c.organization == organization
    session.execute(owners.delete().where(of_it, owners.c.name == name))
    if session.scalar(sa.select(sa.func.count()).where(of_it)) == 0:
        raise LastOwner(organization)
""",
    # one statement, which sees its own snapshot all the same
    """
def leave(session, organization, name):
    of_it = owners.c.organization == organization
    number = sa.select(sa.func.count()).where(of_it).scalar_subquery()
    gone = owners.delete().where(of_it, owners.c.name == name, number > 1).returning(owners.c.name)
    if session.scalar(gone) is None:
        raise LastOwner(organization)
""",
    # holds the row of the owner, which is not the one they share
    """
def leave(session, organization, name):
    hold(session, owners.c.name, name, alone=True)
    of_it = owners.c.organization == organization
    if session.scalar(sa.select(sa.func.count()).where(of_it)) <= 1:
        raise LastOwner(organization)
    session.execute(owners.delete().where(of_it, owners.c.name == name))
""",
    # on PostgreSQL a lock that both can have
    """
def leave(session, organization, name):
    hold(session, groups.c.name, organization)
    of_it = owners.c.organization == organization
    if session.scalar(sa.select(sa.func.count()).where(of_it)) <= 1:
        raise LastOwner(organization)
    session.execute(owners.delete().where(of_it, owners.c.name == name))
""",
    # a lock on a name, for nobody may leave
    """
def leave(session, organization, name):
    hold(session, groups.c.name, organization, alone=True)
    raise LastOwner(organization)
""",
)


@checker
def check(leave: Leave) -> str:
    """Carol leaves alone; then Alice, and Bob while she is leaving. On both engines."""
    said = both_leave(lesson_url(), leave)
    if said is None:
        said = on_postgres(both_leave, leave)
    return f"not yet: {said}" if said else "right"


def both_leave(url: str, leave: Leave) -> str | None:
    """What is wrong, or None."""
    engine = make_engine(url)
    try:
        _tables.create_all(engine)
        with engine.begin() as connection:
            connection.execute(groups.insert().values(name="acme"))
            rows = [{"organization": "acme", "name": name} for name in ("alice", "bob", "carol")]
            connection.execute(owners.insert(), rows)
        try:
            transaction(engine, lambda session: leave(session, "acme", "carol"))
        except LastOwner:
            return "carol, one of three owners, could not leave"
        refused = at_once(engine, leave)
        with engine.connect() as connection:
            left = connection.scalars(sa.select(owners.c.name).order_by(owners.c.name)).all()
    finally:
        engine.dispose()
    if "carol" in left:
        return "carol, one of three owners, left, and is still an owner"
    if not left:
        return f"on {engine.dialect.name} alice and bob left at the same moment, and acme has no owner"
    if len(left) == 2:
        return "neither alice nor bob could leave, although one of them may"
    return None if len(refused) == 1 else "the one who stays must get LastOwner"


def at_once(engine: sa.Engine, leave: Leave) -> list[str]:
    """Who got LastOwner. Bob begins when Alice has left and before she commits."""
    refused: list[str] = []
    failed: list[BaseException] = []
    bob_has_tried = threading.Event()

    def bobs_work(session: orm.Session) -> None:
        try:
            leave(session, "acme", "bob")
            session.flush()
        finally:
            bob_has_tried.set()

    def bob() -> None:
        try:
            transaction(engine, bobs_work)
        except LastOwner:
            refused.append("bob")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=bob, daemon=True)

    def alices_work(session: orm.Session) -> None:
        leave(session, "acme", "alice")
        session.flush()
        if thread.ident is None:
            thread.start()
            end = time.monotonic() + LONGEST_WAIT
            while not bob_has_tried.wait(0.02) and not blocked(engine) and time.monotonic() < end:
                pass

    try:
        transaction(engine, alices_work)
    except LastOwner:
        refused.append("alice")
    if thread.ident is not None:
        thread.join(LONGEST_WAIT)
    if failed:
        raise failed[0]
    return refused


def blocked(engine: sa.Engine) -> bool:
    """Whether a session of this database waits for a lock. Never on DuckDB, which raises at once."""
    if engine.dialect.name != "postgresql":
        return False
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text(waiting)))
