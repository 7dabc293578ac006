"""Pantry as far as the course has built it: what `playbook serve` runs.

Only assembly happens here; every part is built and explained in a playbook. There is no sign-in yet, so every caller
is one developer who may do everything, and the service refuses to be production.
"""

from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy import orm

from playbook.api.resources import complete_methods, resources
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.database import Base, make_engine, transaction
from playbook.foundations.http_service import Caller, create_app
from playbook.foundations.settings import Settings
from playbook.schema.catalog import Package, load_catalog
from playbook.schema.identity import Member, Organization, User, add_user

DEVELOPER = "developer@example.com"
MIRROR = "mirror"


def first_rows(session: orm.Session, clock: Clock, ids: Identifiers) -> tuple[Caller, UUID, bool]:
    """The developer and the organization "mirror", made when they are missing; whether there are packages."""
    now = clock.now()
    user = session.scalar(sa.select(User).where(User.email == DEVELOPER))
    if user is None:
        user = add_user(session, clock, ids, DEVELOPER, "Developer")
    mirror = session.scalar(sa.select(Organization).where(Organization.slug == MIRROR))
    if mirror is None:
        mirror = Organization(id=ids.new(), slug=MIRROR, name="Mirror", created_at=now, updated_at=now)
        session.add(mirror)
        session.flush()
        session.add(Member(id=ids.new(), organization_id=mirror.id, user_id=user.id, role="owner", created_at=now))
    filled = session.scalar(sa.select(Package.id).limit(1)) is not None
    return Caller(user.id, user.name), mirror.id, filled


def pantry(settings: Settings, catalog: Path | None = None, clock: Clock | None = None) -> FastAPI:
    """The service over the database of `settings`. Missing tables are made; empty ones are filled from `catalog`.

    Raises ValueError in production, where anybody could do anything.
    """
    if settings.environment == "production":
        raise ValueError(
            "there is no sign-in yet, so PANTRY_ENVIRONMENT=production is refused: use development or test"
        )
    engine, clock = make_engine(settings.database_url), clock or SystemClock()
    ids = Identifiers(clock)
    Base.metadata.create_all(engine)
    developer, mirror, filled = transaction(engine, lambda session: first_rows(session, clock, ids))
    if catalog is not None and not filled:
        load_catalog(engine, catalog, mirror, clock.now())
    app = create_app(
        engine, [resources], clock, ids, lambda request: developer, lambda *asked: True, settings.max_body_bytes
    )
    complete_methods(app)
    return app
