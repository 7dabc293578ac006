"""Pantry's history of migrations: the recipes of first_migration, with the folder of its revisions handed in."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from playbook.migrations import first_migration
from playbook.migrations.first_migration import Location

PANTRY: Location = "playbook.pantry:revisions"
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
heads = of_pantry(first_migration.heads)
generate = of_pantry(first_migration.generate)
offline_sql = of_pantry(first_migration.offline_sql)
prepare = of_pantry(first_migration.prepare)
