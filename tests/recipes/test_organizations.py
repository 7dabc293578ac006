"""What the recipe promises, on SQLite. Needs pytest, hypothesis and sqlalchemy, nothing else."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from playbook.auth.organizations import (
    ROLES,
    LastOwner,
    Refused,
    accept,
    hold_roles,
    invitations,
    invite,
    may_manage,
    members,
    metadata,
    set_role,
)

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=2)
PEOPLE = {"olga": "owner", "anna": "admin", "mark": "member", "tom": "member"}


def database(url: str = "sqlite://") -> sa.Engine:
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    return engine


def add(db: Any, organization_id: str = "acme", **roles: str) -> None:
    for user_id, role in roles.items():
        db.execute(members.insert().values(organization_id=organization_id, user_id=user_id, role=role))


def roles(db: Any, organization_id: str = "acme") -> dict[str, str]:
    here = sa.select(members.c.user_id, members.c.role).where(members.c.organization_id == organization_id)
    return {user_id: role for user_id, role in db.execute(here)}


@pytest.fixture(params=["connection", "session"])
def db(request: pytest.FixtureRequest) -> Iterator[Any]:
    engine = database()
    if request.param == "connection":
        with engine.begin() as connection:
            yield connection
    else:
        with orm.Session(engine) as session, session.begin():
            yield session
    engine.dispose()


def status(db: Any) -> list[str]:
    return list(db.scalars(sa.select(invitations.c.status)))


# ---------------------------------------------------------------- invitations


def test_who_was_invited_is_a_member_with_the_role(db: Any) -> None:
    add(db, olga="owner")
    token = invite(db, "acme", "bob@example.com", "admin", "olga", LATER)
    row = accept(db, token, "bob", "bob@example.com", NOW)
    assert (row.organization_id, row.email, row.role, row.inviter_id) == ("acme", "bob@example.com", "admin", "olga")
    assert roles(db) == {"olga": "owner", "bob": "admin"}
    assert status(db) == ["accepted"]
    with pytest.raises(Refused):
        accept(db, token, "carl", "bob@example.com", NOW)


@pytest.mark.parametrize("proven", [None, "", "mallory@example.com", "BOB@example.com"])
def test_nobody_else_accepts(db: Any, proven: str | None) -> None:
    add(db, olga="owner")
    token = invite(db, "acme", "bob@example.com", "member", "olga", LATER)
    with pytest.raises(Refused):
        accept(db, token, "mallory", proven, NOW)
    assert roles(db) == {"olga": "owner"}
    assert status(db) == ["pending"], "an attempt must not use it up"


def test_the_token_is_not_in_the_table_and_what_is_there_opens_nothing(db: Any) -> None:
    add(db, olga="owner")
    token = invite(db, "acme", "bob@example.com", "member", "olga", LATER)
    [row] = db.execute(sa.select(invitations)).all()
    assert token not in row
    for value in row:
        with pytest.raises(Refused):
            accept(db, str(value), "bob", "bob@example.com", NOW)


@pytest.mark.parametrize(("after", "good"), [(0, True), (2 * 86_400 - 1, True), (2 * 86_400, False)])
def test_an_invitation_is_good_until_it_expires(db: Any, after: int, good: bool) -> None:
    add(db, olga="owner")
    token = invite(db, "acme", "bob@example.com", "member", "olga", LATER)
    now = NOW + timedelta(seconds=after)
    if good:
        accept(db, token, "bob", "bob@example.com", now)
    else:
        with pytest.raises(Refused):
            accept(db, token, "bob", "bob@example.com", now)
    assert ("bob" in roles(db)) == good


@pytest.mark.parametrize("what", ["invited again", "canceled", "inviter is gone", "inviter is a member"])
def test_what_ends_an_invitation(db: Any, what: str) -> None:
    add(db, olga="owner", anna="admin")
    token = invite(db, "acme", "bob@example.com", "admin", "anna", LATER)
    if what == "invited again":
        assert invite(db, "acme", "bob@example.com", "member", "olga", LATER) != token
    elif what == "canceled":
        db.execute(invitations.update().values(status="canceled"))
    else:
        set_role(db, "acme", "anna", None if "gone" in what else "member", "olga")
    with pytest.raises(Refused):
        accept(db, token, "bob", "bob@example.com", NOW)


def test_a_member_does_not_become_a_second_one(db: Any) -> None:
    add(db, olga="owner", bob="member")
    token = invite(db, "acme", "bob@example.com", "admin", "olga", LATER)
    with pytest.raises(Refused):
        accept(db, token, "bob", "bob@example.com", NOW)
    assert roles(db)["bob"] == "member"


@pytest.mark.parametrize(("by", "role"), [*itertools.product([*PEOPLE, "stranger"], ROLES)])
def test_who_may_invite_whom(by: str, role: str) -> None:
    engine = database()
    with engine.begin() as db:
        add(db, **PEOPLE)
        add(db, "initech", stranger="owner")
        if may_manage(PEOPLE.get(by), role):
            assert invite(db, "acme", "bob@example.com", role, by, LATER)
        else:
            with pytest.raises(Refused):
                invite(db, "acme", "bob@example.com", role, by, LATER)
            assert status(db) == []
    engine.dispose()


@pytest.mark.parametrize("ended", ["", "accepted", "canceled"])
def test_nobody_replaces_an_offer_above_their_role(db: Any, ended: str) -> None:
    """An admin who invited an owner's future owner again would end that offer, and put a lower one in its place."""
    add(db, olga="owner", anna="admin")
    token = invite(db, "acme", "bob@example.com", "owner", "olga", LATER)
    if ended:
        db.execute(invitations.update().values(status=ended))
        assert invite(db, "acme", "bob@example.com", "member", "anna", LATER) != token
        return
    with pytest.raises(Refused):
        invite(db, "acme", "bob@example.com", "member", "anna", LATER)
    accept(db, token, "bob", "bob@example.com", NOW)
    assert roles(db)["bob"] == "owner"


def test_columns_of_yours_are_written(tmp_path: Path) -> None:
    own = sa.MetaData()
    when = {"created_at": NOW.replace(tzinfo=None)}
    for table in (members, invitations):
        table.to_metadata(own).append_column(sa.Column("created_at", sa.DateTime, nullable=False))
    engine = sa.create_engine(f"sqlite:///{tmp_path}/own.sqlite")
    own.create_all(engine)
    with engine.begin() as db:
        add_owner = {"organization_id": "acme", "user_id": "olga", "role": "owner"}
        db.execute(own.tables["members"].insert().values(add_owner | when))
        given = ("acme", "bob@example.com", "member", "olga", LATER)
        token = invite(db, *given, make_token=lambda: "chosen", tables=own.tables, **when)
        assert token == "chosen"
        accept(db, token, "bob", "bob@example.com", NOW, own.tables, **when)
        assert len(db.execute(sa.select(own.tables["members"])).all()) == 2
    engine.dispose()


# ---------------------------------------------------------------- in a service with users of its own


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    confirmed: Mapped[bool]


def join(session: orm.Session, token: str, user: User, now: datetime) -> str | None:
    proven = user.email.lower() if user.confirmed else None
    try:
        row = accept(session, token, str(user.id), proven, now)
    except Refused:
        session.rollback()
        return None  # 403 Forbidden
    session.commit()
    return row.organization_id


def test_users_with_integer_ids_join() -> None:
    engine = database()
    Base.metadata.create_all(engine)
    with orm.Session(engine, expire_on_commit=False) as session:
        bob, mallory = User(email="Bob@example.com", confirmed=False), User(email="m@example.com", confirmed=True)
        session.add_all([bob, mallory])
        add(session, olga="owner")
        token = invite(session, "acme", "bob@example.com", "member", "olga", LATER)
        session.commit()
        assert [join(session, token, user, NOW) for user in (bob, mallory)] == [None, None]
        bob.confirmed = True
        session.commit()
        assert join(session, token, bob, NOW) == "acme"
        assert roles(session) == {"olga": "owner", str(bob.id): "member"}
    engine.dispose()


# ---------------------------------------------------------------- roles


def test_who_may_manage_whom() -> None:
    allowed = {(own, other) for own in ROLES for other in ROLES if may_manage(own, other)}
    expected = {("admin", "member"), ("admin", "admin"), ("owner", "member"), ("owner", "admin"), ("owner", "owner")}
    assert allowed == expected
    assert not may_manage(None, "member")
    with pytest.raises(ValueError, match="not in"):
        may_manage("owner", "king")


@pytest.mark.parametrize(
    ("by", "user", "role"), [*itertools.product([*PEOPLE, "stranger"], [*PEOPLE, "stranger"], [*ROLES, None])]
)
def test_each_role_by_each_call(by: str, user: str, role: str | None) -> None:
    """The rule, said once more in other words, with two owners and with one; and a refusal changes nothing."""
    for people in (PEOPLE | {"paul": "owner"}, PEOPLE):
        engine = database()
        with engine.begin() as db:
            add(db, **people)
            add(db, "initech", stranger="owner", olga="member")
            rank = {None: -1} | {name: number for number, name in enumerate(ROLES)}
            own, old = rank[people.get(by)], rank[people.get(user)]
            manages = own >= 1 and old <= own and rank[role] <= own
            allowed = old >= 0 and (manages or (by == user and role is None))
            changed = {**people, user: role}
            if allowed and "owner" in changed.values():
                set_role(db, "acme", user, role, by)
                assert roles(db) == {name: kept for name, kept in changed.items() if kept}
            else:
                with pytest.raises(Refused) as refused:
                    set_role(db, "acme", user, role, by)
                assert isinstance(refused.value, LastOwner) == allowed
                assert roles(db) == people
            assert roles(db, "initech") == {"stranger": "owner", "olga": "member"}
        engine.dispose()


@pytest.mark.parametrize("role", ["", "king", "Owner"])
def test_a_role_that_does_not_exist_takes_nobody_out_and_changes_nobody(role: str) -> None:
    engine = database()
    with engine.begin() as db:
        add(db, **PEOPLE)
        before = roles(db)
        for by, user in itertools.product(PEOPLE, PEOPLE):
            with pytest.raises((Refused, ValueError)):
                set_role(db, "acme", user, role, by)
            assert roles(db) == before
        with pytest.raises(ValueError, match="not in"):
            invite(db, "acme", "bob@example.com", role, "olga", LATER)
    engine.dispose()


STEPS = st.tuples(st.sampled_from(sorted(PEOPLE)), st.sampled_from(sorted(PEOPLE)), st.sampled_from([*ROLES, None]))


@settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whatever_is_called_an_owner_stays_and_nobody_rises_alone(steps: list[tuple[str, str, str | None]]) -> None:
    engine = database()
    with engine.connect() as db:
        add(db, **PEOPLE)
        for by, user, role in steps:
            before = roles(db)
            try:
                set_role(db, "acme", user, role, by)
            except Refused:
                assert roles(db) == before
            after = roles(db)
            assert "owner" in after.values()
            if user == by and user in after:
                assert ROLES.index(after[user]) <= ROLES.index(before[user]), "raised themselves"
    engine.dispose()


def test_the_roles_that_are_held_are_those_of_one_organization(db: Any) -> None:
    add(db, olga="owner", paul="owner", mark="member", tom="member")
    add(db, "initech", eve="owner", mark="owner")
    assert hold_roles(db, metadata.tables, "acme", "mark", "nobody") == {
        "olga": "owner", "paul": "owner", "mark": "member",
    }  # fmt: skip


@pytest.mark.parametrize("way", ["leave", "step down", "remove each other"])
def test_of_two_owners_who_go_at_once_one_stays(tmp_path: Path, way: str) -> None:
    """SQLite lets one write after the other. Whoever only reads first meets the other, who has read as well."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/race.sqlite", connect_args={"timeout": 60})
    metadata.create_all(engine)
    with engine.begin() as db:
        add(db, olga="owner", paul="owner")
    start, both_read, other = threading.Barrier(2), threading.Barrier(2), {"olga": "paul", "paul": "olga"}
    sa.event.listen(engine, "after_cursor_execute", lambda *event: event[2].startswith("SELECT") and both_read.wait(60))

    def go(name: str) -> str:
        user = other[name] if way == "remove each other" else name
        start.wait(60)
        try:
            with engine.begin() as db:
                set_role(db, "acme", user, "member" if way == "step down" else None, by=name)
        except Refused:
            return "refused"
        return "done"

    with ThreadPoolExecutor(2) as threads:
        heard = sorted(threads.map(go, ("olga", "paul")))
    engine.dispose()
    engine = sa.create_engine(engine.url)
    with engine.connect() as db:
        assert list(roles(db).values()).count("owner") == 1
    assert heard == ["done", "refused"]
    engine.dispose()
