"""Things expire: sessions, links, invitations, allowances, keys. Every reader checks the time, so they do no harm.

Deleting them is housekeeping: now and then, in the background, and never a reason for the service to stop.
"""

import asyncio
import logging
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import orm
from starlette.concurrency import run_in_threadpool

from playbook.auth.sessions import purge_sessions
from playbook.auth.throttling import purge_throttles
from playbook.foundations.clock_and_identifiers import Clock
from playbook.foundations.transactions import transaction
from playbook.pantry.auth.second_step import purge_enrolments
from playbook.pantry.auth.sessions import TABLE as SESSIONS
from playbook.pantry.auth.tables import Invitation, Verification
from playbook.pantry.keys import purge_keys
from playbook.pantry.tokens import purge_tokens

EVERY = 600.0  # seconds between two sweeps
log = logging.getLogger("pantry")


def sweep(engine: sa.Engine, now: datetime) -> None:
    """Delete what has expired: sessions, links, invitations, second factors that nobody has confirmed, API tokens.

    And idempotency keys, and allowances that are whole again.
    """

    def work(db: orm.Session) -> None:
        purge_sessions(db, now, SESSIONS)
        db.execute(sa.delete(Verification).where(Verification.expires_at <= now))
        db.execute(sa.delete(Invitation).where(Invitation.expires_at <= now))
        purge_enrolments(db, now)
        purge_throttles(db, now)
        purge_keys(db, now)
        purge_tokens(db, now)

    transaction(engine, work)


async def sweep_for_ever(engine: sa.Engine, clock: Clock) -> None:
    """`sweep` every EVERY seconds. A failure is logged and tried again: housekeeping must not stop the service."""
    while True:
        await asyncio.sleep(EVERY)
        try:
            await run_in_threadpool(sweep, engine, clock.now())
        except sa.exc.SQLAlchemyError as error:
            log.warning("sweep: %s", type(error).__name__)
