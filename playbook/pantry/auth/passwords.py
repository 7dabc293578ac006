"""What Pantry adds to the recipes for passwords: its table of accounts, its settings, and Better Auth's codes."""

from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm

from playbook.auth import password_hashing
from playbook.auth.password_rules import PasswordRules, is_common
from playbook.foundations.clock_and_identifiers import Clock
from playbook.pantry.settings import Settings
from playbook.schema.identity import Account

# What is answered for the reason of a refusal. The codes and the first two texts are Better Auth's.
REFUSALS: Final = {
    "short": ("PASSWORD_TOO_SHORT", "Password too short"),
    "long": ("PASSWORD_TOO_LONG", "Password too long"),
    "guessable": (
        "PASSWORD_COMPROMISED",
        "This password is easy to guess: take several words that have nothing to do with you",
    ),
}


def rules_of(settings: Settings) -> PasswordRules:
    """The rules for a new password that the settings name. Nobody's password is made of Pantry's name."""
    listed = is_common if settings.password_blocklist else None
    return PasswordRules(settings.password_min_length, settings.password_max_length, ("pantry",), listed)


def replace_hash(db: orm.Session, clock: Clock, account: UUID, old: str, new: str) -> bool:
    """Store `new` for the account, unless its hash is no longer `old`. Returns whether it was."""
    mine = sa.update(Account).where(Account.id == account).values(updated_at=clock.now())
    return password_hashing.replace_hash(db, mine, Account.password_hash, old, new)
