"""The gate of Pantry's own history, on both engines. A new revision is tested the day it is written.

The parameters come from the history itself, the functions from `migrations/test_migrations`. What is tested of them is
in `test_test_migrations.py`.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import before_sign_in  # noqa: F401  its imports register every table of Pantry
import pytest
import sqlalchemy as sa
from fastapi import HTTPException
from leftovers import leftovers, schema
from made_rows import fill

from playbook.api.idempotency import claim
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.data import ROOT
from playbook.migrations.test_migrations import Rows, Step, changes, contents, steps, walk
from playbook.pantry.history import PANTRY, downgrade, drift, heads, upgrade
from playbook.pantry.keys import LEASE, LIFETIME, LIMITS, answer_of, seconds

STEPS = steps(PANTRY)


@pytest.fixture
def engine(url: str) -> Any:
    made = make_engine(url)
    yield made
    made.dispose()


def test_there_is_one_head() -> None:
    assert len(heads()) == 1


def test_no_revision_is_left_out() -> None:
    files = {path.stem for path in (ROOT / "playbook" / "pantry" / "revisions" / "versions").glob("*.py")}
    assert [step.after for step in STEPS] == sorted(files)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_a_revision_goes_up_down_and_up(engine: sa.Engine, step: Step) -> None:
    """Nothing is left behind, rows survive, and what is lost is declared: one walk, looked at in two ways."""
    seen, arrived, left = list[set[str]](), list[Rows](), list[Rows]()
    for place in walk(engine, step, PANTRY):
        seen.append(schema(engine))
        arrived.append(contents(engine))
        if place < 2:
            assert fill(engine, Base.metadata, place, {}) == []
        left.append(contents(engine) if place < 2 else arrived[-1])
    assert leftovers(step, seen) == []
    assert changes(step, left, arrived) == []


def test_the_history_goes_up_and_down_without_a_row(engine: sa.Engine) -> None:
    """What a migration does to rows must not be what makes it work."""
    before = schema(engine)
    upgrade(engine)
    downgrade(engine, "base")
    assert schema(engine) == before


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.after)
def test_a_declared_loss_has_a_reason(step: Step) -> None:
    assert all(len(reason.split()) > 2 for reason in step.loses.values()), step.loses


def test_the_models_match(engine: sa.Engine) -> None:
    upgrade(engine)
    assert drift(engine, Base.metadata) == []


def test_the_made_rows_can_show_a_loss(engine: sa.Engine) -> None:
    """Every table took rows, and no column has one value only: otherwise its loss could go unseen."""
    upgrade(engine)
    for seed in (0, 1):
        assert fill(engine, Base.metadata, seed, {}) == []
    for name, rows in contents(engine).items():
        poor = [column for column in rows[0] if len({row[column] for row in rows}) < 2]
        assert poor == [], name


# ---------------------------------------------------------------- kept answers


OLDER = sa.table("idempotency_keys", *(sa.column(name) for name in ("key_hash", "fingerprint", "state", "status",
    "headers", "body")), sa.column("claim", sa.Uuid), *(sa.column(name, sa.DateTime(timezone=True)) for name in
    ("claimed_until", "created_at", "expires_at")))  # fmt: skip


def test_kept_answers_and_claims_outlive_their_new_table(engine: sa.Engine) -> None:
    """More rows than one portion has. Every byte comes again, and what goes down again is what was there."""
    now = datetime.now(UTC).replace(microsecond=0)
    headers = [("content-type", "text/plain; charset=latin-1"), ("x-name", "Andr\xe9"), ("x-name", "again")]
    kept = {"state": "answered", "status": 201, "headers": json.dumps(headers), "body": bytes(range(256))}
    rows = []
    for number in range(520):
        begun = now - timedelta(minutes=number)
        what = kept if number > 9 else {"state": "claimed", "status": None, "headers": None, "body": None}
        times = {"created_at": begun, "claimed_until": begun + LEASE, "expires_at": begun + LIFETIME}
        rows.append({"key_hash": f"{number:064}", "fingerprint": "f" * 64, "claim": UUID(int=number)} | times | what)
    expired = rows[-1] | {"key_hash": "e" * 64, "expires_at": now}
    upgrade(engine, "0005_throttles")
    with engine.begin() as connection:
        connection.execute(sa.insert(OLDER), [*rows, expired])
    upgrade(engine, "0006_answers_as_json")

    def asked(number: int, request: str = "f" * 64, later: int = 0) -> Any:
        known = f"{number:064}", request
        return transaction(engine, lambda db: claim(db, known, seconds(now) + later, LIMITS.lease))

    for number in (10, 499, 500, 501, 519):
        answer = answer_of(json.loads(asked(number)), replayed=False)
        assert (answer.status_code, bytes(answer.body)) == (201, bytes(range(256)))
        assert answer.raw_headers == [(name.encode(), value.encode("latin-1")) for name, value in headers]
    for number, request, later, status in ((0, "f" * 64, 59, 409), (10, "another", 0, 422)):
        with pytest.raises(HTTPException) as refused:
            asked(number, request, later)
        assert refused.value.status_code == status
    downgrade(engine, "0005_throttles")
    with engine.connect() as connection:
        there = connection.execute(sa.select(OLDER).order_by(OLDER.c.key_hash)).mappings().all()
    assert [dict(row) for row in there] == rows
