"""The table of the recipe `api/idempotency`: a kept answer is one text of JSON, a claim has a reference and an attempt.

What is kept stays: a client that got its answer before the change gets the same bytes after it, and a claim holds as
long as it would have. Rows are read and written in portions, since a table of answers can be large. SQL alone cannot do
it on both engines, so this revision needs a connection.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0006_answers_as_json"
down_revision = "0005_throttles"
branch_labels = None
depends_on = None

loses = {"idempotency_keys": "what has expired goes, and so does an answer that cannot be read"}

LIFETIME, LEASE = timedelta(hours=24), timedelta(seconds=60)  # as they were when this was written
PORTION = 500
Row = dict[str, Any]

BEFORE = (
    ("key_hash", sa.String(64), False),
    ("fingerprint", sa.String(64), False),
    ("state", sa.String(), False),
    ("claim", sa.Uuid(), False),
    ("claimed_until", sa.DateTime(timezone=True), False),
    ("status", sa.Integer(), True),
    ("headers", sa.String(), True),
    ("body", sa.LargeBinary(), True),
    ("created_at", sa.DateTime(timezone=True), False),
    ("expires_at", sa.DateTime(timezone=True), False),
)
AFTER = (
    ("key_hash", sa.String(), False),
    ("request_hash", sa.String(), False),
    ("reference", sa.String(), False),
    ("attempt", sa.Integer(), False),
    ("until", sa.BigInteger(), False),
    ("answer", sa.String(), True),
)


def after(old: Row, now: datetime) -> Row | None:
    """A row of the new table, or None. Its `answer` is what Pantry keeps: status, fields, and the body as Latin-1."""
    if old["expires_at"] <= now:
        return None
    answer, until = None, old["claimed_until"]
    if old["state"] == "answered":
        try:
            fields = list(json.loads(old["headers"]))
            answer = json.dumps([old["status"], fields, bytes(old["body"]).decode("latin-1")])
        except (ValueError, TypeError):
            return None
        until = old["expires_at"]
    made = {"reference": old["claim"].hex, "attempt": 1, "until": int(until.timestamp()), "answer": answer}
    return {"key_hash": old["key_hash"], "request_hash": old["fingerprint"], **made}


def before(new: Row, now: datetime) -> Row | None:
    """A row of the older table, or None."""
    old = {"key_hash": new["key_hash"], "fingerprint": new["request_hash"], "state": "claimed"}
    old |= {"status": None, "headers": None, "body": None}
    try:
        begun = datetime.fromtimestamp(new["until"], UTC) - (LEASE if new["answer"] is None else LIFETIME)
        old |= {"claim": UUID(new["reference"]), "created_at": begun}
        old |= {"claimed_until": begun + LEASE, "expires_at": begun + LIFETIME}
        if new["answer"] is not None:
            status, fields, body = json.loads(new["answer"])
            kept = {"status": int(status), "headers": json.dumps(fields), "body": body.encode("latin-1")}
            old |= kept | {"state": "answered"}
    except (ValueError, TypeError, AttributeError, OverflowError, OSError):
        return None
    return old if old["expires_at"] > now else None


def columns_of(shape: Any) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=nullable) for name, kind, nullable in shape]


def remake(old: Any, new: Any, change: Callable[[Row, datetime], Row | None], *constraints: Any) -> None:
    """Replace the table of shape `old` by one of shape `new`, its rows changed one by one.

    They wait in a table without a key, so that the new one can have the name of the old one, and its key, too.
    """
    if context.is_offline_mode():
        raise CommandError(f"{revision} reads the rows that it changes: run it with a connection, not with --sql")
    there = sa.table("idempotency_keys", *(sa.column(name, kind) for name, kind, _ in old))
    kept = op.create_table("kept_idempotency_keys", *columns_of(new))
    connection, now, last = op.get_bind(), datetime.now(UTC), ""
    portion = sa.select(there).order_by(there.c.key_hash).limit(PORTION)
    while rows := connection.execute(portion.where(there.c.key_hash > last)).mappings().all():
        if changed := [made for row in rows if (made := change(dict(row), now)) is not None]:
            connection.execute(kept.insert(), changed)
        last = rows[-1]["key_hash"]
    op.drop_table("idempotency_keys")
    key = sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_idempotency_keys"))
    final = op.create_table("idempotency_keys", *columns_of(new), *constraints, key)
    connection.execute(final.insert().from_select([name for name, *_ in new], sa.select(kept)))
    op.drop_table("kept_idempotency_keys")


def upgrade() -> None:
    remake(BEFORE, AFTER, after)
    op.create_index(op.f("ix_idempotency_keys_until"), "idempotency_keys", ["until"], unique=False)


def downgrade() -> None:
    states = sa.CheckConstraint("state IN ('claimed', 'answered')", name=op.f("ck_idempotency_keys_state"))
    remake(AFTER, BEFORE, before, states)
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"], unique=False)
