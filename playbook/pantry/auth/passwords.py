"""What Pantry adds to the recipes for passwords: its table of accounts."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth import password_hashing
from playbook.foundations.clock_and_identifiers import Clock
from playbook.schema.identity import Account


def replace_hash(db: orm.Session, clock: Clock, account: UUID, old: str, new: str) -> bool:
    """Store `new` for the account, unless its hash is no longer `old`. Returns whether it was."""
    mine = sa.update(Account).where(Account.id == account).values(updated_at=clock.now())
    return password_hashing.replace_hash(db, mine, Account.password_hash, old, new)
