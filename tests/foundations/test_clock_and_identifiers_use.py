"""The model that the page's *Take it with you* shows, run as it is printed there, on SQLite."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from playbook.foundations.clock_and_identifiers import (
    Clock,
    FixedClock,
    Identifiers,
    SeededBytes,
    hash_token,
    is_token,
    new_token,
    uuid7_time,
)
from playbook.kit.course import Course

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


def test_a_key_is_found_by_the_hash_of_its_token() -> None:
    page = next(page for page in Course().playbooks if page.name == "clock_and_identifiers")
    shown = page.source.split("## Take it with you")[1]
    block = re.search(r"```python\n(.*?)```", shown, re.DOTALL)
    assert block is not None
    used = (uuid, datetime, Base, Mapped, mapped_column, String, Session, Identifiers, Clock, new_token, hash_token)
    names: dict[str, Any] = {each.__name__: each for each in used}
    names["__name__"] = __name__  # SQLAlchemy looks the annotations up in this module
    exec(block[1], names)
    api_key, new_key = names["ApiKey"], names["new_key"]

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    clock = FixedClock(NOON)
    with Session(engine) as session:
        token = new_key(session, Identifiers(clock, SeededBytes(1)), clock)
        session.commit()
        found = session.scalars(select(api_key).where(api_key.hash == hash_token(token))).one()
        assert is_token(token, "shop")
        assert token not in {found.hash, str(found.id)}
        assert isinstance(found.id, uuid.UUID)
        assert uuid7_time(found.id) == NOON
        assert found.made_at == NOON.replace(tzinfo=None), "the page says that SQLite drops the zone"
    engine.dispose()
