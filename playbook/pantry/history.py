"""Pantry's history of migrations: the recipes `migrations/first_migration` and `migrations/drift`, and what is its own.

That is the folder of its revisions, the connection (`playbook.pantry.migrating`), how the two engines differ, ids that
the command line gives to new revisions, and what the service does with the database that it finds at its start.
"""

import io
import logging
import re
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory

from playbook.migrations import drift as drift_recipe
from playbook.migrations import first_migration
from playbook.migrations.drift import NewerSchema, WrongSchema, check_revision
from playbook.migrations.first_migration import ONE_AT_A_TIME, CopyingDuckDB, Location, current
from playbook.pantry.migrating import migration_connection

PANTRY: Location = "playbook.pantry:revisions"
ID_LIMIT = 32  # characters: alembic_version.version_num is VARCHAR(32), and PostgreSQL means it
log = logging.getLogger("pantry")
URLS = {"duckdb": "duckdb://", "postgresql": "postgresql+psycopg://"}  # of engines that never connect
P = ParamSpec("P")
R = TypeVar("R")


def of_pantry(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose `location` is Pantry's history unless another is given."""
    parameters = signature(function)

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        given: dict[str, Any] = parameters.bind_partial(*arguments, **options).arguments
        return function(**{"location": PANTRY, **given})  # type: ignore[call-arg]

    return call


alembic_config = of_pantry(first_migration.alembic_config)
upgrade = of_pantry(first_migration.upgrade)
downgrade = of_pantry(first_migration.downgrade)
stamp = of_pantry(first_migration.stamp)
generate = of_pantry(first_migration.generate)


def heads(location: Location = PANTRY) -> tuple[str, ...]:
    """The newest revisions of a history, sorted; more than one after two branches were merged in version control."""
    return tuple(sorted(ScriptDirectory.from_config(alembic_config(None, location)).get_heads()))


def offline_sql(dialect: str, revisions: str = "base:head", location: Location = PANTRY) -> str:
    """The SQL of `revisions` ("FROM:TO") for review. Raises CommandError for what must look at the database first."""
    config = alembic_config(sa.create_engine(URLS[dialect]), location)
    config.output_buffer = buffer = io.StringIO()
    with ONE_AT_A_TIME:
        command.upgrade(config, revisions, sql=True)
    return buffer.getvalue()


# ---------------------------------------------------------------- two engines


class PantryDuckDB(CopyingDuckDB):
    """Alembic on DuckDB without foreign keys, as `foundations/engines`. Defining the class registers it."""

    __dialect__ = "duckdb"

    def add_constraint(self, const: Any, **options: Any) -> None:
        if not isinstance(const, sa.ForeignKeyConstraint):
            super().add_constraint(const, **options)

    def drop_constraint(self, const: sa.Constraint, **options: Any) -> None:
        if not isinstance(const, sa.ForeignKeyConstraint):
            super().drop_constraint(const, **options)


def readable_id(context: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:
    """Number and name a new revision of the command line, `0003_api_tokens`, unless somebody gave it an id."""
    for script in directives:
        if re.fullmatch("[0-9a-f]{12}", script.rev_id or ""):
            ids = [known.revision for known in context.opts["script"].walk_revisions()]
            number = 1 + max((int(match[0]) for i in ids if (match := re.match(r"\d+", i))), default=0)
            slug = re.sub(r"\W+", "_", (script.message or "").lower())
            script.rev_id = f"{number:04}_{slug}"[:ID_LIMIT].strip("_")


def exists_on(dialect: str, item: Any, kind: str) -> bool:
    """Whether `item` of the models is made on `dialect`."""
    only = getattr(item, "_ddl_if", None)  # Alembic itself does not ask: its issue 1491
    return (only is None or only.dialect == dialect) and (kind != "foreign_key_constraint" or dialect == "postgresql")


def alembic_options(dialect: str) -> dict[str, Any]:
    """Alembic's options, for the commands and for comparisons. CHECKs have names of ours on PostgreSQL only."""
    by_name = ["alembic.ext.checkconstraint_byname"] if dialect == "postgresql" else []
    return {
        "autogenerate_plugins": ["alembic.autogenerate.*", *by_name],
        "include_object": lambda item, name, kind, *_: exists_on(dialect, item, kind),
        "process_revision_directives": readable_id,
    }


def drift(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    """The differences between a database and models, sorted lines; empty when they agree."""
    return drift_recipe.drift(engine, metadata, **alembic_options(engine.dialect.name))


# ---------------------------------------------------------------- the start of the service


def prepare(engine: sa.Engine, location: Location = PANTRY, baseline: str = "head") -> None:
    """Bring an empty database to head. Raises WrongSchema for one that is behind, or has tables and no history.

    One that is ahead is served, with a warning in the log: during a rollout the new release has migrated, and a process
    of the release before may start again. To refuse would make an outage of it. So a revision of Pantry must suit the
    release before, as `migrations/expand_and_contract` has it. `baseline` is the revision that describes the databases
    made before there were revisions.
    """
    at, wanted, tables = current(engine), heads(location), set[str]()
    if at != wanted:
        with ONE_AT_A_TIME, migration_connection(engine) as connection:  # after whoever migrates at this moment
            at, tables = current(connection), set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    if at == wanted:
        return
    if at:
        try:
            check_revision(engine, location)
        except NewerSchema as ahead:
            log.warning("%s", ahead)
    elif tables:
        raise WrongSchema(
            "the database has tables and no migration history: use an empty one, or, if it was made before there were "
            f"migrations, run `alembic stamp {baseline}`, then `alembic upgrade head` and `alembic check`"
        )
    else:
        upgrade(engine, "head", location)
