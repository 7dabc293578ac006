"""Pantry as far as the course has built it: what `playbook serve` runs.

Only assembly happens here; every part is built and explained in a playbook. There is no sign-in yet, so every caller
is one developer who may do everything, and the service refuses to be production.
"""

from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy import orm

from playbook.api.conditional_requests import READERS, conditional_router
from playbook.api.errors import install_problems
from playbook.api.idempotency import install_idempotency
from playbook.api.pagination import paginated, replacing, sign_cursors
from playbook.api.resources import complete_methods, resources
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.database import make_engine, transaction
from playbook.foundations.http_service import Caller, create_app
from playbook.foundations.settings import Settings
from playbook.migrations.first_migration import prepare
from playbook.schema.catalog import Package, load_catalog
from playbook.schema.identity import Member, Organization, User, add_user

DEVELOPER = "developer@example.com"
MIRROR = "mirror"
BASELINE = "0002_catalog"  # what `create_all` made, before there were migrations


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
    """The service over the database of `settings`. An empty database is brought to head and filled from `catalog`.

    Raises WrongSchema, a ValueError, for a database that is not at head, and ValueError in production, where anybody
    could do anything. Both messages say what to do.
    """
    if settings.environment == "production":
        raise ValueError(
            "there is no sign-in yet, so PANTRY_ENVIRONMENT=production is refused: use development or test"
        )
    engine, clock = make_engine(settings.database_url), clock or SystemClock()
    ids = Identifiers(clock)
    prepare(engine, baseline=BASELINE)
    developer, mirror, filled = transaction(engine, lambda session: first_rows(session, clock, ids))
    if catalog is not None and not filled:
        load_catalog(engine, catalog, mirror, clock.now())
    app = create_app(
        engine,
        [conditional_router(replacing(resources, paginated), READERS)],
        clock,
        ids,
        lambda request: developer,
        lambda *asked: True,
        settings.max_body_bytes,
    )
    complete_methods(app)
    install_problems(app)
    install_idempotency(app)
    sign_cursors(app, settings.secret.get_secret_value())
    return app
