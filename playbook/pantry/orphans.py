"""The proof that references hold where no foreign key does: rows whose parent is gone.

DuckDB gets no foreign keys, see `foundations/engines`. On PostgreSQL the audit finds what `NOT VALID` or a careless
restore has left behind.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True)
class Orphan:
    """A row whose reference points nowhere. `reference`: `members(user_id) -> users`; `key`: the row's primary key."""

    reference: str
    key: tuple[Any, ...]


def orphans(engine: sa.Engine, metadata: sa.MetaData, limit: int = 100) -> list[Orphan]:
    """The rows without a parent, for every foreign key that `metadata` declares, at most `limit` for each."""
    found: list[Orphan] = []
    with engine.connect() as connection:
        for child in sorted(metadata.tables.values(), key=lambda table: table.name):
            for reference in sorted(child.foreign_key_constraints, key=lambda key: list(key.column_keys)):
                parent = reference.referred_table.alias()
                pairs = [(key.parent, parent.c[key.column.key]) for key in reference.elements]
                kept = sa.exists().where(*(there == here for here, there in pairs))
                lost = sa.select(*child.primary_key).where(*(here.is_not(None) for here, _ in pairs), ~kept)
                name = f"{child.name}({', '.join(reference.column_keys)}) -> {reference.referred_table.name}"
                rows = connection.execute(lost.order_by(*child.primary_key).limit(limit))
                found += [Orphan(name, tuple(row)) for row in rows]
    return found
