"""Pantry's migration environment. Alembic runs this file for each of its commands."""

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from playbook.foundations.database import Base, make_engine
from playbook.foundations.settings import SettingsError, load_settings
from playbook.migrations.first_migration import run_environment


def engine() -> sa.Engine:
    """The database that DATABASE_URL names. Raises CommandError, which the command line shows as one line."""
    try:
        made = make_engine(load_settings().database_url)
        if not context.is_offline_mode():
            made.connect().close()
    except SettingsError as error:
        raise CommandError(str(error)) from None
    except sa.exc.DBAPIError as error:
        raise CommandError(f"the database cannot be opened: {str(error.orig).strip().splitlines()[0]}") from None
    return made


def models() -> sa.MetaData:
    """All tables of Pantry: whatever the service imports. Late, because running a revision needs no model."""
    import playbook.production.pantry  # noqa: F401

    return Base.metadata


run_environment(engine, models)
