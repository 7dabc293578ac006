"""Pantry's tables of people on both engines: unique under concurrency, no secret as it is, a deletion that is whole."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from tables import make_tables

from playbook.foundations.clock_and_identifiers import Clock, Identifiers
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.course import Course
from playbook.pantry.auth.tables import Invitation, UserSession, Verification, delete_user
from playbook.schema.identity import Account, EmailTaken, Member, Organization, User, add_user, normal_email


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    make_tables(engine)
    yield engine
    engine.dispose()


def rows(engine: sa.Engine, model: type[Base]) -> int:
    return transaction(engine, lambda s: s.scalar(sa.select(sa.func.count()).select_from(model))) or 0


def test_fifty_sign_ups_at_once_make_one_user(engine: sa.Engine, clock: Clock, ids: Identifiers) -> None:
    start = threading.Barrier(8)

    def sign_up(number: int) -> str:
        if number < 8:
            start.wait(60)
        try:
            transaction(engine, lambda s: add_user(s, clock, ids, "Ada@example.com", "Ada"))
        except EmailTaken:
            return "taken"
        return "created"

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(sign_up, range(50)))
    assert (outcomes.count("created"), outcomes.count("taken"), rows(engine, User)) == (1, 49, 1)


def test_the_database_itself_refuses_a_second_spelling(engine: sa.Engine, clock: Clock, ids: Identifiers) -> None:
    now = clock.now()

    def bypass(session: orm.Session) -> None:
        session.add(User(id=ids.new(), name="x", email="Ada@example.com", created_at=now, updated_at=now))

    with pytest.raises(sa.exc.IntegrityError):
        transaction(engine, bypass)


def test_a_wrong_address_leaves_nothing(engine: sa.Engine, clock: Clock, ids: Identifiers) -> None:
    with pytest.raises(ValueError, match="not an e-mail address"):
        transaction(engine, lambda s: add_user(s, clock, ids, "nobody", "Nobody"))
    assert rows(engine, User) == 0


def test_deleting_a_user_takes_all_that_is_theirs_and_nothing_else(
    engine: sa.Engine, clock: Clock, ids: Identifiers
) -> None:
    now, later = clock.now(), clock.now() + timedelta(days=1)

    def fill(session: orm.Session) -> tuple[User, User]:
        users = [add_user(session, clock, ids, f"{name}@example.com", name) for name in ("ada", "grace")]
        organization = Organization(id=ids.new(), slug="acme", name="Acme", created_at=now, updated_at=now)
        session.add(organization)
        session.flush()
        for user in users:
            key = {"id": ids.new(), "user_id": user.id, "created_at": now}
            session.add(Account(**key, provider="credential", provider_account_id=str(user.id), updated_at=now))
            key["id"] = ids.new()
            session.add(UserSession(**key, token_hash=f"{user.id}"[:32], expires_at=later, updated_at=now))
            key["id"] = ids.new()
            proof = {"purpose": "verify-email", "email": user.email, "token_hash": user.name, "expires_at": later}
            session.add(Verification(**key, **proof))
            key["id"] = ids.new()
            session.add(Member(**key, organization_id=organization.id, role="owner"))
            offer = {"email": f"{user.name}@x.example", "role": "member", "token_hash": user.name, "expires_at": later}
            session.add(
                Invitation(id=ids.new(), organization_id=organization.id, inviter_id=user.id, created_at=now, **offer)
            )
        return users[0], users[1]

    ada, grace = transaction(engine, fill)
    assert transaction(engine, lambda s: delete_user(s, ada.id))
    for model in (User, Account, UserSession, Verification, Member):
        assert rows(engine, model) == 1, model
    assert rows(engine, Invitation) == 2
    inviters = transaction(engine, lambda s: s.scalars(sa.select(Invitation.inviter_id)).all())
    assert set(inviters) == {None, grace.id}


@pytest.mark.parametrize(("model", "column"), [(Member, "role"), (Invitation, "status")])
def test_only_known_roles_and_states_are_stored(engine: sa.Engine, model: type[Base], column: str) -> None:
    checks = [c for c in model.__table__.constraints if isinstance(c, sa.CheckConstraint)]  # type: ignore[attr-defined]
    assert any(column in str(check.sqltext) for check in checks)


def test_one_membership_and_one_invitation_for_each_person_and_organization() -> None:
    for model, columns in (
        (Member, {"organization_id", "user_id"}),
        (Invitation, {"organization_id", "email"}),
        (Account, {"provider", "provider_account_id"}),
        (UserSession, {"token_hash"}),
        (User, {"email"}),
        (Organization, {"slug"}),
    ):
        unique = [{c.name for c in index.columns} for index in model.__table__.indexes if index.unique]
        assert columns in unique, model


def test_every_foreign_key_is_served_by_an_index() -> None:
    for table in Base.metadata.tables.values():
        leading = {next(iter(index.columns)).name for index in (table.primary_key, *table.indexes)}
        for key in table.foreign_keys:
            assert key.parent.name in leading, f"deleting a {key.target_fullname} scans {table.name}"


def test_no_secret_is_stored_as_it_is_and_no_time_without_a_zone() -> None:
    for model in (User, Account, UserSession, Verification, Organization, Member, Invitation):
        for column in model.__table__.columns:
            secret = any(word in column.name for word in ("password", "token", "secret"))
            assert not secret or column.name.endswith("_hash"), column
            assert not isinstance(column.type, sa.DateTime), column


def test_a_page_s_order_follows_the_person(engine: sa.Engine, clock: Clock, ids: Identifiers) -> None:
    """The model and the function that *Take it with you* shows, run as they are printed there."""
    block = re.search(
        r"```python\n(.*?)```", Course().get("identity").source.split("## Take it with you")[1], re.DOTALL
    )
    assert block is not None

    class Shop(orm.DeclarativeBase):
        pass

    User.__table__.to_metadata(Shop.metadata)  # for the foreign key
    names: dict[str, Any] = {
        "Base": Shop,
        "UUID": UUID,
        "sa": sa,
        "User": User,
        "EmailTaken": EmailTaken,
        "normal_email": normal_email,
    }
    names |= {"Mapped": orm.Mapped, "mapped_column": orm.mapped_column, "Session": orm.Session, "datetime": datetime}
    names["__name__"] = __name__  # SQLAlchemy looks the annotations up in this module
    exec(block[1], names)
    order, move = names["Order"], names["move"]
    order.__table__.create(engine)

    people = [transaction(engine, lambda s, n=n: add_user(s, clock, ids, f"{n}@x.example", n)) for n in ("ada", "bob")]
    transaction(engine, lambda s: s.add(order(id=ids.new(), user_id=people[0].id)))
    later = clock.now() + timedelta(days=1)
    transaction(engine, lambda s: move(s, people[0].id, "Ada@New.example", later))
    with pytest.raises(EmailTaken):
        transaction(engine, lambda s: move(s, people[1].id, "ada@new.example", later))
    buyer = sa.select(User.email, User.updated_at).join(order, order.user_id == User.id)
    assert transaction(engine, lambda s: s.execute(buyer).one()) == ("ada@new.example", later)
