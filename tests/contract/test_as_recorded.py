"""Pantry answers what better-auth answered: every recorded exchange, on both engines, over real HTTP.

The recorded configurations are settings of Pantry. What differs on purpose is
in DEVIATIONS, each with its reason from the page's table.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from raw_http import send
from replay import UUID, Deviation, Forms, Target, key_of, recordings, replay
from tables import make_tables

from playbook.auth.mail import MemorySender
from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, SeededBytes
from playbook.foundations.engines import make_engine
from playbook.kit.live import serving
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.recorded import DIFFERENCES
from playbook.pantry.auth.sign_up import VERIFY, new_link
from playbook.pantry.auth.tables import delete_user
from playbook.pantry.auth.wire import Auth
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings
from playbook.schema.identity import User, add_user

BASE = "http://pantry.test"
SECRET = "the secret of the replay, thirty-two characters or more"
LINK = r"link_[0-9A-Za-z]{38}"
FORMS = Forms(
    user_id=UUID, session_id=UUID, cookie_token=r"session_[0-9A-Za-z]{38}", handle=UUID, verify_token=LINK,
    reset_token=LINK, handle_is_cookie=False, other_id=UUID, invitation_token=r"invitation_[0-9A-Za-z]{38}",
    absent_is_null=frozenset({"activeOrganizationId"}),
    extra_headers=frozenset({"x-request-id", "retry-after", "cache-control", "referrer-policy"}),
)  # fmt: skip

# What Better Auth was told, in Pantry's words. Pantry's own defaults are stricter.
LIKE_BETTER_AUTH: dict[str, Any] = {
    "environment": "test", "base_url": BASE, "secret": SECRET, "trusted_origins": (BASE, "http://app.example"),
    "password_min_length": 8, "password_blocklist": False, "rate_limits": False, "revoke_sessions_on_change": False,
    "require_email_verification": False, "confirm_email_change": False, "strict_proof": False,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "A": {},
    "B": {"require_email_verification": True},
    "C": {"rate_limits": True},
    "D": {"require_email_verification": True, "sign_in_after_verification": True},
    "E": {"session_lifetime": 4, "session_refresh_after": 1, "session_fresh": 2, "reset_lifetime": 1},
    "F": {},  # with changeEmail; F to G are in extra.json
    "G": {"confirm_email_change": True},
    "J": {},  # with the plugin of organizations; J and K are in organizations.json
    "K": {},
}  # fmt: skip


def error(status: int, message: str, code: str) -> dict[str, Any]:
    return {"status": status, "body": json.dumps({"message": message, "code": code})}


def verified(exchange: str) -> dict[str, Any]:
    """The recorded answer with a verified address."""
    found = next(e for _, _, group in recordings() for e in group if key_of(e) == exchange)
    return {"body": found["response"]["body"].replace('"emailVerified":false', '"emailVerified":true')}


WHY = {difference.what: difference.why for difference in DIFFERENCES}
GONE = Deviation(WHY["link of a deleted user, or of an old address"], error(401, "Invalid token", "INVALID_TOKEN"))
PROVEN = WHY["changed address"]
UNOFFERED = Deviation(WHY["deleting by a mailed link"], {"body": "", "headers": []})
DEVIATIONS: dict[str, Deviation] = {
    "11 well-signed token of an unknown user": GONE,
    "31 the first verification link is dead": GONE,
    "32 the first verification link is dead": GONE,
    **{
        key: Deviation(PROVEN, verified(key))
        for number in (31, 32)
        for key in (f"{number} the address is changed and still unverified", f"{number} sign-in with the new address")
    },
    "31 the link, somebody has the address by now": Deviation(
        WHY["address taken while a change waits"],
        error(401, "Invalid token", "INVALID_TOKEN") | {"headers": [["content-type", "application/json"]]},
    ),
    "35 the body before the origin, without": Deviation(
        WHY["check of origin and fields"], error(403, "Invalid origin", "INVALID_ORIGIN")
    ),
    "36 sign-in: spaces around the address": Deviation(
        WHY["white space around an address"],
        error(401, "Invalid email or password", "INVALID_EMAIL_OR_PASSWORD"),
    ),
    "36 verify-email, two callbackURLs": Deviation(
        WHY["one query parameter twice"],
        {
            "status": 302,
            "body": "",
            "headers": [["content-type", "application/json"], ["location", "/b?error=INVALID_TOKEN"]],
        },
    ),
    "36 delete-user/callback, bad token": UNOFFERED,
    "36 delete-user/callback, signed out": UNOFFERED,
    "37 a session_data cookie is cleared": Deviation(
        WHY["cookie `session_data`"],
        {"headers": [["cache-control", "no-store"], ["content-type", "application/json"], ["pragma", "no-cache"]]},
    ),
}

SIGNED_OUT = Deviation(
    WHY["organizations, signed out"],
    error(401, "Unauthorized", "UNAUTHORIZED") | {"headers": [["content-type", "application/json"]]},
)
ROLES = WHY["an empty or unknown role"]


def without(exchange: str, invitation: str) -> dict[str, Any]:
    """The recorded answer without one invitation."""
    found = next(e for _, _, group in recordings() for e in group if key_of(e) == exchange)
    value = json.loads(found["response"]["body"])
    listed = value if isinstance(value, list) else value["invitations"]
    listed[:] = [each for each in listed if each["id"] != invitation]
    return {"body": json.dumps(value)}


DEVIATIONS |= {
    **dict.fromkeys(("40 create, signed out", "40 update, signed out", "40 delete, signed out"), SIGNED_OUT),
    **dict.fromkeys(("41 list-user-invitations: signed out", "41 get-invitation, signed out"), SIGNED_OUT),
    "41 invite: unknown role": Deviation(ROLES, error(400, "ROLE_NOT_FOUND: king", "ROLE_NOT_FOUND")),
    "43 role: empty": Deviation(
        ROLES, error(400, "Role not found", "ROLE_NOT_FOUND") | {"headers": [["content-type", "application/json"]]}
    ),
    **{
        key: Deviation(WHY["older invitations of an address"], without(key, "<INVITATION#2>"))
        for key in ("41 list-invitations: all of them", "41 get-full-organization: members and invitations")
    },
    "42 accept: not verified": Deviation(
        WHY["answering an invitation"],
        error(
            403,
            "Email verification required before accepting or rejecting invitation",
            "EMAIL_VERIFICATION_REQUIRED_BEFORE_ACCEPTING_OR_REJECTING_INVITATION",
        ),
    ),
    "43 removed: get-full-organization": Deviation(
        WHY["sessions of a removed member"], {"status": 200, "body": "null"}
    ),
}


@contextmanager
def pantry_as(configuration: str, url: str) -> Iterator[Target]:
    settings = Settings(database_url=url, **LIKE_BETTER_AUTH | CONFIGURATIONS[configuration])
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    make_tables(engine)
    sender = MemorySender()
    postbox = Postbox(sender)
    auth = Auth(settings, engine, clock, Identifiers(clock, SeededBytes(1)), postbox, SeededBytes(2))

    def mails() -> list[dict[str, Any]]:
        postbox.drain()
        return [{"to": m.to, "type": m.type, "url": m.url, "token": m.token} for m in sender.mails]

    def token_of(name: str) -> str:
        def work(db: Any) -> str:
            user = add_user(db, clock, auth.ids, f"{name}@example.com", name)
            return new_link(db, auth, user, VERIFY, user.email, 60)

        return auth.transact(work)

    def expired() -> str:
        token = token_of("late")
        clock.advance(timedelta(seconds=61))
        return token

    def ghost() -> str:
        token = token_of("ghost")
        query = sa.select(User.id).where(User.email == "ghost@example.com")
        auth.transact(lambda db: delete_user(db, db.scalar(query)))
        return token

    with serving(better_auth(auth)) as client:
        actual = str(client.base_url)
        yield Target(
            BASE, SECRET, mails, lambda seconds: clock.advance(timedelta(seconds=seconds)), FORMS, clock.now,
            expired, ghost, DEVIATIONS, lambda base, *rest, **more: send(actual, *rest, **more),
        )  # fmt: skip
    postbox.close()
    engine.dispose()


# Not offered: change-email off (30), at once (33), deleting by a mailed link (34).
RECORDED = [r for r in recordings() if r[1] in CONFIGURATIONS and r[0] != "extra 30"]


@pytest.mark.parametrize(
    ("configuration", "exchanges"),
    [pytest.param(c, e, id=name.replace(" ", "_")) for name, c, e in RECORDED],
)
def test_answers_as_recorded(configuration: str, exchanges: list[dict[str, Any]], url: str) -> None:
    with pantry_as(configuration, url) as target:
        different = replay(target, exchanges)
    assert not different, "\n".join(different)
