"""People, credentials and organizations: unique under concurrency, and no secret stored as it is."""

import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import Clock, Identifiers
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.schema.identity import (
    EMAIL_LIMIT,
    Account,
    EmailTaken,
    Invitation,
    Member,
    Organization,
    User,
    UserSession,
    Verification,
    add_user,
    delete_user,
    normal_email,
)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def rows(engine: sa.Engine, model: type[Base]) -> int:
    return transaction(engine, lambda s: s.scalar(sa.select(sa.func.count()).select_from(model))) or 0


@given(st.emails())
def test_the_normal_form_is_a_fixed_point(address: str) -> None:
    try:
        normal = normal_email(address)
    except ValueError:
        assert len(address) > EMAIL_LIMIT or not address.isprintable() or "." not in address.rpartition("@")[2]
        return
    assert normal_email(normal) == normal == normal.lower()
    assert normal_email(f"  {address.upper()}\n") == normal_email(address.upper().lower())
    assert unicodedata.is_normalized("NFC", normal)


@given(st.text(max_size=30))
def test_whatever_is_typed_is_an_address_or_a_value_error(text: str) -> None:
    try:
        normal = normal_email(text)
    except ValueError:
        return
    local, _, domain = normal.rpartition("@")
    assert local
    assert "." in domain


def test_fifty_sign_ups_at_once_make_one_user(engine: sa.Engine, clock: Clock, ids: Identifiers) -> None:
    start = threading.Barrier(8)

    def sign_up(number: int) -> str:
        if number < 8:
            start.wait(10)
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
        leading = {next(iter(index.columns)).name for index in table.indexes}
        for key in table.foreign_keys:
            assert key.parent.name in leading, f"deleting a {key.target_fullname} scans {table.name}"
