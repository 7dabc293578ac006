"""Pantry before sign-in: one developer who may do everything. What pages and tests before the auth track talk to.

The service itself is `playbook.pantry.app`; this one refuses to be production.
"""

from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy import orm

from playbook.api.resources import complete_methods
from playbook.foundations.clock_and_identifiers import Clock, Identifiers, SystemClock
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.pantry import organizations, packages
from playbook.pantry.app import BASELINE, mirror_of, resource_api
from playbook.pantry.catalog_file import load_catalog
from playbook.pantry.errors import install_problems
from playbook.pantry.headers import secure
from playbook.pantry.history import prepare
from playbook.pantry.http import Caller
from playbook.pantry.indexes import mend_indexes
from playbook.pantry.lists import sign_cursors
from playbook.pantry.settings import Settings
from playbook.pantry.strict_input import install_strict_input
from playbook.schema.identity import EmailTaken, Member, User, add_user

RESOURCES = [organizations.router, packages.router]
DEVELOPER = "developer@example.com"


def first_rows(session: orm.Session, clock: Clock, ids: Identifiers) -> tuple[Caller, UUID, bool]:
    """The developer and the organization "mirror", made when they are missing; whether there are packages."""
    mirror, filled = mirror_of(session, clock, ids)
    user = session.scalar(sa.select(User).where(User.email == DEVELOPER))
    if user is None:
        user = add_user(session, clock, ids, DEVELOPER, "Developer")
        now = clock.now()
        session.add(Member(id=ids.new(), organization_id=mirror, user_id=user.id, role="owner", created_at=now))
    return Caller(user.id, user.name, fresh=True), mirror, filled


def pantry(settings: Settings, catalog: Path | None = None, clock: Clock | None = None) -> FastAPI:
    """The service over the database of `settings`. An empty database is brought to head and filled from `catalog`.

    Raises WrongSchema, a ValueError, for a database that is behind, and ValueError in production, where anybody
    could do anything. Both messages say what to do.
    """
    if settings.environment == "production":
        raise ValueError("this service has no sign-in, so PANTRY_ENVIRONMENT=production is refused: `playbook serve`")
    engine, clock = make_engine(settings.database_url), clock or SystemClock()
    ids = Identifiers(clock)
    prepare(engine, baseline=BASELINE)
    mend_indexes(engine)
    try:
        developer, mirror, filled = transaction(engine, lambda session: first_rows(session, clock, ids))
    except (EmailTaken, sa.exc.IntegrityError):  # another process that starts was first: its rows are there now
        developer, mirror, filled = transaction(engine, lambda session: first_rows(session, clock, ids))
    if catalog is not None and not filled:
        load_catalog(engine, catalog, mirror, clock.now())
    app = resource_api(engine, settings, clock, ids, lambda request: developer, lambda *asked: True)
    secure(app, settings)
    return app


def finished(app: FastAPI) -> FastAPI:
    """What `resource_api` does to the app of `create_app`, without idempotency: for tests with own routes."""
    complete_methods(app)
    install_problems(app)
    install_strict_input(app)
    sign_cursors(app, "a secret of the tests, 32 characters")
    return app
