"""Pantry's migration environment. Alembic runs this file for each of its commands."""

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from playbook.foundations.engines import Base, make_engine
from playbook.foundations.settings import SettingsError
from playbook.kit.database_errors import advice, in_one_line
from playbook.migrations.first_migration import run_environment
from playbook.pantry.history import alembic_options
from playbook.pantry.migrating import migration_connection
from playbook.pantry.settings import load_settings


def engine() -> sa.Engine:
    """The database that DATABASE_URL names. Raises CommandError, which the command line shows as one line."""
    try:
        url = load_settings().database_url
        made = make_engine(url)
        if not context.is_offline_mode():
            made.connect().close()
    except SettingsError as error:
        raise CommandError(str(error)) from None
    except sa.exc.DBAPIError as error:
        raise CommandError(in_one_line(error, url)) from None
    return made


def models() -> sa.MetaData:
    """All tables of Pantry: whatever the service imports. Late, because running a revision needs no model."""
    import playbook.pantry.app  # noqa: F401

    return Base.metadata


called = "engine" in context.config.attributes  # by a program, which wants the error itself
try:
    database = context.config.attributes.get("engine") or engine()
    run_environment(lambda: database, models, migration_connection, **alembic_options(database.dialect.name))
except sa.exc.DBAPIError as error:
    # On the command line only; and a mistake in a revision is found by its traceback.
    known = None if called else advice(error, load_settings().database_url)
    if known is None:
        raise
    raise CommandError(known) from None
