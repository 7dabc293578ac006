"""What the recipe promises, on SQLite: one user per address, whoever comes at once. Needs pytest and hypothesis."""

import unicodedata
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from playbook.foundations.clock_and_identifiers import Identifiers
from playbook.foundations.engines import Base
from playbook.schema.identity import (
    EMAIL_LIMIT,
    ROLES,
    Account,
    Member,
    Organization,
    User,
    add_user,
    normal_email,
)

NOW = datetime(2026, 11, 2, tzinfo=UTC)
MODELS = (User, Account, Organization, Member)


class Noon:
    def now(self) -> datetime:
        return NOW


IDS = Identifiers(Noon())


class Same:
    """Makes an id that exists."""

    def __init__(self, given: uuid.UUID) -> None:
        self.new = lambda: given


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}", connect_args={"timeout": 60})
    Base.metadata.create_all(engine, [sa.inspect(model).local_table for model in MODELS])
    yield engine
    engine.dispose()


def sign_up(engine: sa.Engine, email: str, **more: Any) -> User | str:
    try:
        with Session(engine, expire_on_commit=False) as db, db.begin():
            return add_user(db, Noon(), IDS, email, "Maria", **more)
    except ValueError as error:
        return type(error).__name__


def store(engine: sa.Engine, row: Base) -> str:
    try:
        with Session(engine) as db, db.begin():
            db.add(row)
    except sa.exc.IntegrityError:
        return "refused"
    return "stored"


def count(engine: sa.Engine) -> int:
    with Session(engine) as db:
        return len(db.scalars(sa.select(User)).all())


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
@example("a@b@example.com")
@example("a\n@example.com")
def test_whatever_is_typed_is_an_address_or_a_value_error(text: str) -> None:
    try:
        normal = normal_email(text)
    except ValueError:
        return
    local, _, domain = normal.rpartition("@")
    assert local
    assert "." in domain
    assert "@" not in local
    assert normal.isprintable()


@pytest.mark.parametrize(
    "wrong",
    ["", "maria", "@example.com", "maria@", "maria@localhost", "a b@example.com", "a@b@example.com", "a\n@example.com",
     "maria@.", "x" * 250 + "@example.com"],
)  # fmt: skip
def test_what_is_no_address_is_refused(engine: sa.Engine, wrong: str) -> None:
    with pytest.raises(ValueError, match="not an e-mail address"):
        normal_email(wrong)
    assert (sign_up(engine, wrong), count(engine)) == ("ValueError", 0)


def test_the_longest_address_is_one() -> None:
    longest = "x" * (EMAIL_LIMIT - len("@example.com")) + "@example.com"
    assert normal_email(longest) == longest


@pytest.mark.parametrize("spelling", ["Ä@example.com", "A\u0308@EXAMPLE.com", "ä@Example.Com "])
def test_spellings_of_one_address_are_one(engine: sa.Engine, spelling: str) -> None:
    assert normal_email(spelling) == "ä@example.com"
    sign_up(engine, "ä@example.com")
    assert (sign_up(engine, spelling), count(engine)) == ("EmailTaken", 1)


@pytest.mark.parametrize("other", ["maria+home@example.com", "m.aria@example.com"])
def test_tags_and_dots_are_other_addresses(engine: sa.Engine, other: str) -> None:
    sign_up(engine, "maria@example.com")
    assert isinstance(sign_up(engine, other), User)


def test_a_user_is_stored_with_an_id_and_times(engine: sa.Engine) -> None:
    sign_up(engine, "Maria@Example.com", image="https://example.com/maria.png")
    with Session(engine) as db:
        maria = db.scalars(sa.select(User)).one()
        assert isinstance(maria.id, uuid.UUID)
        assert (maria.email, maria.email_verified) == ("maria@example.com", False)
        assert (maria.name, maria.image) == ("Maria", "https://example.com/maria.png")
        assert maria.created_at == maria.updated_at == NOW


def test_fifty_sign_ups_at_once_make_one_user(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as threads:
        emails = ["maria@example.com", "Maria@Example.com"] * 25
        heard = list(threads.map(lambda email: sign_up(engine, email), emails))
    assert [one for one in heard if isinstance(one, str)] == ["EmailTaken"] * 49
    assert count(engine) == 1


def test_what_else_the_database_refuses_is_no_taken_address(engine: sa.Engine) -> None:
    with Session(engine) as db, pytest.raises(sa.exc.IntegrityError, match="name"):
        add_user(db, Noon(), IDS, "maria@example.com", None)  # type: ignore[arg-type]
    maria = sign_up(engine, "maria@example.com")
    assert isinstance(maria, User)
    with Session(engine) as db, pytest.raises(sa.exc.IntegrityError, match="id"):
        add_user(db, Noon(), Same(maria.id), "martin@example.com", "Martin")  # type: ignore[arg-type]


def test_a_look_before_the_insert_is_not_needed(engine: sa.Engine) -> None:
    sent: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, *more: sent.append(sql.split()[0]))
    sign_up(engine, "maria@example.com")
    assert sent == ["INSERT"]


def test_the_database_refuses_a_spelling_that_went_past_the_function(engine: sa.Engine) -> None:
    row = User(id=IDS.new(), name="x", email="Maria@example.com", created_at=NOW, updated_at=NOW)
    assert store(engine, row) == "refused"


def test_an_address_that_was_given_up_brings_no_rights(engine: sa.Engine) -> None:
    maria = sign_up(engine, "weber@example.com")
    assert isinstance(maria, User)
    acme = Organization(id=IDS.new(), slug="acme", name="Acme", created_at=NOW, updated_at=NOW)
    owner = Member(id=IDS.new(), organization_id=acme.id, user_id=maria.id, role="owner", created_at=NOW)
    assert [store(engine, acme), store(engine, owner)] == ["stored", "stored"]
    with Session(engine) as db, db.begin():
        db.get_one(User, maria.id).email = normal_email("Rossi@example.com")
    assert isinstance(sign_up(engine, "weber@example.com"), User)
    with Session(engine) as db:
        owners = sa.select(User.email).join(Member, Member.user_id == User.id)
        assert db.scalars(owners).all() == ["rossi@example.com"]


def test_an_account_elsewhere_opens_one_user_and_a_person_is_a_member_once(engine: sa.Engine) -> None:
    users = [sign_up(engine, f"{name}@example.com") for name in ("maria", "martin")]
    times = {"created_at": NOW, "updated_at": NOW}

    def account(user: Any, provider: str) -> Account:
        return Account(id=IDS.new(), user_id=user.id, provider=provider, provider_account_id="7", **times)

    def member(user: Any, role: str = "admin") -> Member:
        return Member(id=IDS.new(), organization_id=acme, user_id=user.id, role=role, created_at=NOW)

    organizations = [Organization(id=IDS.new(), slug="acme", name="Acme", **times) for _ in range(2)]
    acme = organizations[0].id
    assert [store(engine, organization) for organization in organizations] == ["stored", "refused"]
    assert [store(engine, account(user, "github")) for user in users] == ["stored", "refused"]
    assert store(engine, account(users[1], "gitlab")) == "stored"
    assert [store(engine, member(user)) for user in [*users, users[0]]] == ["stored", "stored", "refused"]


@pytest.mark.parametrize("role", [*ROLES, "king"])
def test_only_the_roles_are_stored(engine: sa.Engine, role: str) -> None:
    maria = sign_up(engine, "maria@example.com")
    assert isinstance(maria, User)
    acme = Organization(id=IDS.new(), slug="acme", name="Acme", created_at=NOW, updated_at=NOW)
    row = Member(id=IDS.new(), organization_id=acme.id, user_id=maria.id, role=role, created_at=NOW)
    store(engine, acme)
    assert store(engine, row) == ("stored" if role in ROLES else "refused")


def test_no_secret_is_stored_as_it_is_and_each_foreign_key_has_an_index() -> None:
    for model in MODELS:
        table = sa.inspect(model).local_table
        assert isinstance(table, sa.Table)
        leading = {next(iter(index.columns)).name for index in table.indexes}
        assert {key.parent.name for key in table.foreign_keys} <= leading
        secrets = [c.name for c in table.columns if any(word in c.name for word in ("password", "token", "secret"))]
        assert all(name.endswith("_hash") for name in secrets)
