"""The exercise of the page "Organizations": its checker, its hints, wrong answers; and the stories of its stage."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from fastapi import FastAPI, Header
from fastapi.responses import Response

from playbook.auth.organizations import Refused, invitations, invite, members, metadata
from playbook.foundations.clock_and_identifiers import hash_token
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.exercises import checker
from playbook.kit.lesson import lesson_folder, lesson_url, on_postgres, serving
from playbook.kit.stage import together

# ---------------------------------------------------------------- the stories

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
IN_TWO_DAYS = NOW + timedelta(days=2)
LONGEST_WAIT = 60  # seconds; a busy machine is no fault of the reader


class Person(NamedTuple):
    """An account. `verified`: it has proven its address."""

    id: str
    email: str
    verified: bool = True


BOB = Person("Bob", "bob@example.com")
MALLORY = Person("Mallory", "mallory@example.com")
WITH_BOBS_ADDRESS = Person("Mallory", "bob@example.com", verified=False)
SECOND_ADDRESS = Person("Mallory again", "second@example.com")
Accept = Callable[[Any, str, Person, datetime], object]


def is_refusal(error: BaseException) -> bool:
    """Whether it is the recipe's `Refused`, also the one of a page that is being changed."""
    return any(kind.__name__ == "Refused" for kind in type(error).__mro__)


def told(call: Callable[[], Any]) -> str:
    """What a call returns, as text, or what its refusal says."""
    try:
        return str(call() or "done")
    except Exception as error:
        if not is_refusal(error):
            raise
        return str(error)


def add(db: Any, organization_id: str, **roles: str) -> None:
    """Members, by id, as they are once they have joined."""
    for user_id, role in roles.items():
        row = {"organization_id": organization_id, "user_id": user_id, "role": role}
        db.execute(members.insert().values(row))


def naive(rule: Callable[[Any, Person], bool]) -> Accept:
    """How a service accepts that asks only `rule(invitation, user)`."""

    def accept(db: Any, token: str, user: Person, now: datetime) -> None:
        mine = sa.select(invitations).where(invitations.c.token_hash == hash_token(token))
        row = db.execute(mine).one()
        if not rule(row, user):
            raise Refused("not yours")
        add(db, row.organization_id, **{user.id: row.role})

    return accept


def play(accept: Accept) -> dict[str, str]:
    """Who came in, in each story."""
    engine = make_engine(lesson_url())
    metadata.create_all(engine)
    stories = {
        "Bob": (BOB, BOB.email, "ada"),
        "forwarded": (MALLORY, BOB.email, "ada"),
        "first": (WITH_BOBS_ADDRESS, BOB.email, "ada"),
        "removed": (SECOND_ADDRESS, SECOND_ADDRESS.email, "Mallory"),
    }
    ends = {}
    for story, (user, invited, inviter) in stories.items():

        def before(db: Any, story: str = story, invited: str = invited, inviter: str = inviter) -> str:
            add(db, story, ada="owner", Mallory="admin") if inviter == "Mallory" else add(db, story, ada="owner")
            token = invite(db, story, invited, "admin", inviter, IN_TWO_DAYS)
            db.execute(members.delete().where(members.c.user_id == "Mallory", members.c.organization_id == story))
            return token

        token = transaction(engine, before)

        def come(token: str = token, user: Person = user) -> object:
            return transaction(engine, lambda db: accept(db, token, user, NOW))

        told(come)
        inside = sa.select(members.c.user_id).where(members.c.organization_id == story, members.c.user_id != "ada")
        with engine.connect() as connection:
            ends[story] = ", ".join(connection.scalars(inside)) or "nobody"
    engine.dispose()
    return ends


def owners_of(db: Any) -> list[str]:
    """The owners of Acme."""
    owners = sa.select(members.c.user_id).where(members.c.organization_id == "acme", members.c.role == "owner")
    return list(db.scalars(owners.order_by(members.c.user_id)))


def remove(db: Any, name: str) -> str:
    """Delete a membership of Acme."""
    db.execute(members.delete().where(members.c.organization_id == "acme", members.c.user_id == name))
    return "has left"


def both_leave(url: str, leave: Callable[[Any, str, Callable[[], None]], str]) -> dict[str, int]:
    """Ada and Bob, the owners of Acme, leave at once. What how many are told, and how many owners are left."""
    engine = make_engine(url)
    metadata.create_all(engine)
    transaction(engine, lambda db: add(db, "acme", ada="owner", bob="owner"))
    meeting = threading.Barrier(2)

    def meet() -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(LONGEST_WAIT)
        meeting.abort()  # who comes again after a conflict does not wait

    def one(name: str) -> Callable[[], str]:
        return lambda: told(lambda: transaction(engine, lambda db: leave(db, name, meet)))

    heard = Counter(together(ada=one("ada"), bob=one("bob")).values())
    left = len(transaction(engine, owners_of))
    engine.dispose()
    return dict(sorted(heard.items())) | {"owners left": left}


def founded(tables: sa.MetaData) -> sa.Engine:
    """A new database with the page's tables, and with Ada's organization Acme."""
    engine = make_engine(lesson_url())
    tables.create_all(engine)
    transaction(engine, lambda db: add(db, "acme", ada="owner"))
    return engine


def tried(engine: sa.Engine, set_role: Callable[..., None], user: str, role: str | None, by: str) -> str:
    """Call `set_role` in Acme; "done", or why it was refused."""
    return told(lambda: transaction(engine, lambda db: set_role(db, "acme", user, role, by=by)))


# ---------------------------------------------------------------- role by call

PEOPLE = {"owner": "ada", "admin": "anna", "member": "mark", "stranger": "mallory"}
CALLS: tuple[tuple[str, str, str, str], ...] = (
    ("invite a member", "POST", "/invitations", "member"),
    ("invite an owner", "POST", "/invitations", "owner"),
    ("make Tom admin", "PUT", "/members/tom", "admin"),
    ("make Tom owner", "PUT", "/members/tom", "owner"),
    ("remove Tom", "DELETE", "/members/tom", ""),
    ("remove Ada, the owner", "DELETE", "/members/ada", ""),
    ("leave", "DELETE", "/members/me", ""),
)


def service(engine: sa.Engine, set_role: Callable[..., None], invite: Callable[..., str]) -> FastAPI:
    """Acme over HTTP. Who calls stands in a header; a real service asks the session."""
    app = FastAPI()

    def answer(work: Callable[[Any], object]) -> Response:
        try:
            transaction(engine, work)
        except Exception as error:
            if not is_refusal(error):
                raise
            return Response(status_code=409 if type(error).__name__ == "LastOwner" else 403)
        return Response(status_code=204)

    @app.post("/invitations")
    def post(role: str, caller: str = Header()) -> Response:
        return answer(lambda db: invite(db, "acme", "new@example.com", role, caller, IN_TWO_DAYS))

    @app.put("/members/{user}")
    def put(user: str, role: str, caller: str = Header()) -> Response:
        return answer(lambda db: set_role(db, "acme", user, role, by=caller))

    @app.delete("/members/{user}")
    def delete(user: str, caller: str = Header()) -> Response:
        return answer(lambda db: set_role(db, "acme", caller if user == "me" else user, None, by=caller))

    return app


def matrix(set_role: Callable[..., None], invite: Callable[..., str]) -> list[dict[str, Any]]:
    """The status of each call by each role, each from the same members: Ada owns Acme, Tom is a member."""
    engine = make_engine(lesson_url())
    metadata.create_all(engine)

    def again(db: Any) -> None:
        db.execute(members.delete())

    def fill(db: Any) -> None:
        add(db, "acme", ada="owner", anna="admin", mark="member", tom="member")

    rows = []
    with serving(service(engine, set_role, invite)) as client:
        for call, method, path, role in CALLS:
            row: dict[str, Any] = {"call": call}
            for name, user in PEOPLE.items():
                transaction(engine, again)
                transaction(engine, fill)
                query = {"role": role} if role else {}
                row[name] = client.request(method, path, params=query, headers={"caller": user}).status_code
            rows.append(row)
    engine.dispose()
    return rows


# ---------------------------------------------------------------- the exercise

HINTS = (
    "Two calls of `set_role` are enough. Who must still be what when the second one is made?",
    "`set_role` refuses what must be refused: whoever is no owner any more can make nobody\n"
    "an owner, and the last owner stays. So only one order works. And think of somebody who\n"
    "hands over to themselves.",
)

WRONG = (
    # gives the organization away before there is another owner
    """
def hand_over(db, organization_id, to, by):
    set_role(db, organization_id, by, "admin", by=by)
    set_role(db, organization_id, to, "owner", by=by)
""",
    # looks first, then writes: two at once make two owners
    """
def hand_over(db, organization_id, to, by):
    here = members.c.organization_id == organization_id
    rows = db.execute(sa.select(members).where(here)).all()
    roles = {row.user_id: row.role for row in rows}
    if roles.get(by) != "owner" or to not in roles or to == by:
        raise Refused("not allowed")
    for user, role in ((to, "owner"), (by, "admin")):
        db.execute(members.update().where(here, members.c.user_id == user).values(role=role))
""",
    # asks nobody's role
    """
def hand_over(db, organization_id, to, by):
    here = members.c.organization_id == organization_id
    for user, role in ((to, "owner"), (by, "admin")):
        db.execute(members.update().where(here, members.c.user_id == user).values(role=role))
""",
    # keeps the old owner
    """
def hand_over(db, organization_id, to, by):
    set_role(db, organization_id, to, "owner", by=by)
""",
    # hands over to oneself
    """
def hand_over(db, organization_id, to, by):
    set_role(db, organization_id, to, "owner", by=by)
    if to != by:
        set_role(db, organization_id, by, "admin", by=by)
""",
)


class Companies:
    """A database with Acme, of Ada, and Initech, of Eve. At no more than READ COMMITTED."""

    def __init__(self, url: str, hand_over: Callable[..., object]) -> None:
        self.engine = sa.create_engine(url)
        self.hand_over = hand_over
        members.create(self.engine)
        with self.engine.begin() as db:
            add(db, "acme", ada="owner", bob="member", carl="admin")
            add(db, "initech", eve="owner", ada="member")

    def call(self, to: str, by: str) -> str:
        """ "done", or "refused" with everything as it was."""
        try:
            with self.engine.begin() as db:
                self.hand_over(db, "acme", to, by)
        except Exception as error:
            if not is_refusal(error):
                raise
            return "refused"
        return "done"

    def roles(self, organization_id: str = "acme") -> dict[str, str]:
        with self.engine.connect() as db:
            here = sa.select(members).where(members.c.organization_id == organization_id)
            return {row.user_id: row.role for row in db.execute(here.order_by(members.c.user_id))}

    def in_between(self) -> list[str]:
        """Ada hands over to Bob; after its first SELECT, if there is one, or after it, she hands over to Carl."""
        heard: list[str] = []

        def other(*event: Any) -> None:
            if event[2].startswith("SELECT") and not heard:
                heard.append("at work")
                heard[0] = self.call("carl", "ada")

        sa.event.listen(self.engine, "after_cursor_execute", other)
        mine = self.call("bob", "ada")
        sa.event.remove(self.engine, "after_cursor_execute", other)
        return [mine, *(heard or [self.call("carl", "ada")])]


def tried_over(url: str, hand_over: Callable[..., object]) -> str:
    for name, to, by in (("an admin", "carl", "carl"), ("a member", "bob", "bob"), ("a stranger", "bob", "mallory")):
        acme = Companies(url_of(url, f"{by}.sqlite"), hand_over)
        heard, roles = acme.call(to, by), acme.roles()
        close(acme)
        if heard != "refused" or roles != {"ada": "owner", "bob": "member", "carl": "admin"}:
            return f"not yet: {name} called it; that should raise Refused and change nothing, and the roles are {roles}"
    acme = Companies(url_of(url, "one.sqlite"), hand_over)
    for to in ("mallory", "ada"):
        who = "somebody who is no member" if to == "mallory" else "herself"
        if acme.call(to, "ada") != "refused" or list(acme.roles().values()).count("owner") != 1:
            return f"not yet: Ada handed Acme over to {who}; that should raise Refused, and she stays the owner"
    heard, roles = acme.call("bob", "ada"), acme.roles()
    initech = acme.roles("initech")
    close(acme)
    if heard != "done" or roles != {"ada": "admin", "bob": "owner", "carl": "admin"}:
        return f"not yet: Ada, the only owner, handed Acme over to Bob; it was {heard}, and the roles are {roles}"
    if initech != {"ada": "member", "eve": "owner"}:
        return "not yet: the roles of another organization have changed"
    acme = Companies(url_of(url, "two.sqlite"), hand_over)
    heard_both, roles = acme.in_between(), acme.roles()
    close(acme)
    if list(roles.values()).count("owner") != 1:
        return (
            f"not yet: Ada handed over to Bob and to Carl at once; both were told {heard_both}, the roles are {roles}"
        )
    return "right"


def url_of(url: str, name: str) -> str:
    """A file of its own for each database on SQLite; on PostgreSQL the one that is there."""
    return f"sqlite:///{lesson_folder() / name}" if url == "sqlite" else url


def close(companies: Companies) -> None:
    members.drop(companies.engine)
    companies.engine.dispose()


@checker
def check(hand_over: Callable[..., object]) -> str:
    """By people who may not, to people who cannot, in order, and two at once; on SQLite and on PostgreSQL."""
    said = tried_over("sqlite", hand_over)
    if said == "right":
        said = on_postgres(tried_over, hand_over) or said
    return said
