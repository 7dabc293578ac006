"""Better Auth's own rows, moved into Pantry: who was signed in stays signed in, and old passwords go on working."""

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from better_auth_server import SECRET, running
from raw_http import send

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import hash_token
from playbook.kit.live import serving
from playbook.pantry.app import pantry
from playbook.pantry.auth.sign_up import new_user
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth
from playbook.pantry.settings import Settings
from playbook.schema.identity import Account

PERSON = {"name": "Alice", "email": "alice@example.com", "password": "correct-horse-1"}


def rows(url: str) -> dict[str, Any]:
    """The one row of each of Better Auth's tables."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {name: connection.execute(sa.select(sa.text("*")).select_from(sa.table(name))).mappings().one()
                 for name in ("user", "account", "session")}  # fmt: skip
    engine.dispose()
    return found


def take_over(auth: Auth, theirs: dict[str, Any]) -> None:
    user = new_user(auth, theirs["user"]["name"], theirs["user"]["email"], theirs["user"]["image"])
    times = {"created_at": auth.clock.now(), "updated_at": auth.clock.now()}
    account = Account(
        id=auth.ids.new(), user_id=user.id, provider=theirs["account"]["providerId"],
        provider_account_id=str(user.id), password_hash=theirs["account"]["password"], **times,
    )  # fmt: skip
    session = UserSession(
        id=auth.ids.new(), user_id=user.id, token_hash=hash_token(theirs["session"]["token"]),
        expires_at=theirs["session"]["expiresAt"].replace(tzinfo=UTC), **times,
    )  # fmt: skip
    for row in (user, account, session):
        auth.transact(lambda db, row=row: db.add(row))


@pytest.mark.usefixtures("better_auth_packages")
def test_their_sessions_and_passwords_go_on(postgres_url: str, tmp_path: Path) -> None:
    with running("A", postgres_url) as theirs:
        headers = {"content-type": "application/json", "origin": theirs.base_url}
        answer = send(theirs.base_url, "POST", "/api/auth/sign-up/email", headers, json.dumps(PERSON))
        cookie = answer.cookies[0].split(";")[0]
        moved = rows(postgres_url)
    assert ":" in moved["account"]["password"], "scrypt, as Better Auth writes it"

    settings = Settings(
        environment="test", database_url=f"duckdb:///{tmp_path}/pantry.duckdb", secret=SECRET, rate_limits=False,
        require_email_verification=False,
    )  # fmt: skip
    app = pantry(settings, sender=MemorySender())
    take_over(app.state.auth, moved)
    with serving(app, headers={"origin": settings.base_url}) as client:
        assert (
            client.get("/api/auth/get-session", headers={"cookie": cookie}).json()["user"]["email"] == PERSON["email"]
        )
        assert client.get("/packages", headers={"cookie": cookie}).status_code == 200
        assert client.get("/api/auth/get-session", headers={"cookie": f"{cookie}x"}).json() is None
        assert client.post("/api/auth/sign-in/email", json=PERSON).status_code == 200
    stored = app.state.auth.transact(lambda db: db.scalar(sa.select(Account.password_hash)))
    assert stored.startswith("$argon2id$"), "made again at the first sign-in"
