"""Each route of /api/auth for each kind of caller: from the app's routes, and run, as `test_authorization_matrix` does.

The table is written by hand. A route that is not in it fails the test. `-` in place of an answer: nothing there depends
on an organization. `*`: the roles are tried by `test_organizations.test_each_call_by_each_role`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import argon2
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from playbook.auth import password_hashing
from playbook.auth.api_tokens import add_token
from playbook.foundations.deny_by_default import anyone, routes_of
from playbook.kit.live import LiveClient
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.policy import PERMITS
from playbook.pantry.tokens import PREFIX, TABLE
from playbook.schema.identity import Account
from tests.auth.conftest import ORIGIN, PASSWORD, Service
from tests.auth.test_organizations import ROLE_CALLS, Team

# `signed` has an account and no organization; `outside` owns another one; `token` has an API token of an owner of acme.
PEOPLE = ("nobody", "token", "signed", "outside", "member", "admin", "owner")
NEW = "nobody expects this new password"

# Route; what it is about: its answers, in the order of PEOPLE.
MATRIX = """
GET /ok                                      -          200  200  200  -    -    -    -
GET /get-session                             -          null null 200  -    -    -    -
POST /get-session                            -          405  405  405  -    -    -    -
GET /list-sessions                           -          401  401  200  -    -    -    -
POST /revoke-session                         own        401  401  200  -    -    -    -
POST /revoke-other-sessions                  own        401  401  200  -    -    -    -
POST /revoke-sessions                        own        401  401  200  -    -    -    -
POST /sign-out                               own        200  200  200  -    -    -    -
POST /sign-up/email                          new        200  200  200  -    -    -    -
POST /send-verification-email                proven     200  200  400  -    -    -    -
POST /sign-in/email                          wrong      401  401  401  -    -    -    -
GET /verify-email                            no-link    401  401  401  -    -    -    -
POST /request-password-reset                 any        200  200  200  -    -    -    -
GET /reset-password/{token}                  no-link    302  302  302  -    -    -    -
POST /reset-password                         no-link    400  400  400  -    -    -    -
POST /change-password                        own        401  401  200  -    -    -    -
POST /verify-password                        own        401  401  200  -    -    -    -
POST /update-user                            own        401  401  200  -    -    -    -
POST /change-email                           own        401  401  200  -    -    -    -
POST /delete-user                            own        401  401  200  -    -    -    -
POST /two-factor/enable                      own        401  401  200  -    -    -    -
POST /two-factor/get-totp-uri                none       401  401  400  -    -    -    -
POST /two-factor/generate-backup-codes       none       401  401  400  -    -    -    -
POST /two-factor/disable                     none       401  401  200  -    -    -    -
POST /two-factor/verify-totp                 none       401  401  400  -    -    -    -
POST /two-factor/verify-backup-code          none       401  401  400  -    -    -    -
POST /organization/create                    new        401  401  200  200  200  200  200
POST /organization/check-slug                free       401  401  200  200  200  200  200
GET /organization/list                       own        401  401  200  200  200  200  200
GET /organization/get-full-organization      acme       401  401  *    *    *    *    *
POST /organization/set-active                acme       401  401  403  403  200  200  200
POST /organization/update                    acme       401  401  *    *    *    *    *
POST /organization/delete                    acme       401  401  *    *    *    *    *
POST /organization/has-permission            acme       401  401  401  401  200  200  200
GET /organization/list-members               acme       401  401  *    *    *    *    *
GET /organization/get-active-member          active     401  401  400  400  200  200  200
GET /organization/get-active-member-role     acme       401  401  403  403  200  200  200
POST /organization/update-member-role        acme       401  401  *    *    *    *    *
POST /organization/remove-member             acme       401  401  *    *    *    *    *
POST /organization/leave                     acme       401  401  400  400  200  200  200
POST /organization/invite-member             acme       401  401  *    *    *    *    *
POST /organization/accept-invitation         own        401  401  200  200  -    -    -
POST /organization/accept-invitation         another's  401  401  403  403  403  403  403
POST /organization/reject-invitation         own        401  401  200  200  -    -    -
POST /organization/reject-invitation         another's  401  401  403  403  403  403  403
POST /organization/cancel-invitation         acme       401  401  *    *    *    *    *
GET /organization/get-invitation             own        401  401  200  200  -    -    -
GET /organization/get-invitation             another's  401  401  403  403  403  403  403
GET /organization/list-invitations           acme       401  401  *    *    *    *    *
GET /organization/list-user-invitations      own        401  401  200  200  200  200  200
"""


# After these somebody is another one: signed out, with another password, a member of more or of less.
SPEND = {
    f"POST /api/auth/{call}"
    for call in (
        "revoke-session", "revoke-sessions", "sign-out", "change-password", "change-email", "delete-user",
        "two-factor/enable", "two-factor/disable", "organization/create", "organization/leave",
        "organization/accept-invitation",
    )
}  # fmt: skip


def rows_of(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """Route with its whole path, thing, and answers by person."""
    lines = [line.split() for line in text.splitlines() if line]
    return [
        (f"{method} /api/auth{path}", thing, dict(zip(PEOPLE, answers, strict=True)))
        for method, path, thing, *answers in lines
    ]


@dataclass
class World:
    """Acme, whose owner Olga is. Whoever asks is new when an earlier request may have changed what they are."""

    team: Team
    password_hash: str
    made: int = 0
    clients: list[LiveClient] = field(default_factory=list)
    same: dict[str, tuple[LiveClient, str]] = field(default_factory=dict)

    def somebody(self, who: str) -> str:
        """A new person of a kind, with a password; their name."""
        self.made += 1
        name, team, auth = f"{who}{self.made}", self.team, self.team.service.auth
        team.join(name)
        now = auth.clock.now()
        row = {
            "provider": "credential",
            "provider_account_id": str(team.ids[name]),
            "password_hash": self.password_hash,
        }
        account = Account(id=auth.ids.new(), user_id=team.ids[name], created_at=now, updated_at=now, **row)
        auth.transact(lambda db: db.add(account))
        if who in ("member", "admin", "owner"):
            team.add(name, who)
            assert team.post(name, "set-active", organizationId=team.acme).status_code == 200
        elif who == "outside":
            assert team.post(name, "create", name="Other", slug=f"other-{self.made}").status_code == 200
            assert team.post(name, "set-active", organizationId=None).status_code == 200
        return name

    def browser(self, who: str) -> tuple[LiveClient, str]:
        """What `who` asks with, and the address of theirs."""
        if who in ("nobody", "token"):
            headers = {"origin": ORIGIN} | ({"authorization": f"Bearer {self.token()}"} if who == "token" else {})
            self.clients.append(LiveClient(str(self.team.service.client.base_url), headers=headers))
            return self.clients[-1], "guest@example.com"
        name = self.somebody(who)
        return self.team.browsers[name], f"{name}@example.com"

    def token(self) -> str:
        """An API token of an owner of acme, with every scope."""
        auth = self.team.service.auth
        user, now = self.team.ids[self.somebody("owner")], auth.clock.now()
        more = {"id": auth.ids.new(), "created_at": now}
        given = (PREFIX, user, "ci", sorted(PERMITS), now + timedelta(days=1), TABLE)
        return str(auth.transact(lambda db: add_token(db, *given, **more)))

    def invitation(self, email: str) -> str:
        """What came by mail."""
        return self.team.invite("olga", email, resend=True).token

    def ask(self, who: str, route: str, thing: str) -> httpx.Response:
        method, path = route.split()
        if who not in self.same:
            self.same[who] = self.browser(who)
        client, email = self.same[who] if who in ("nobody", "token") or route not in SPEND else self.browser(who)
        sent = self.sent(path.removeprefix("/api/auth"), thing, email, client)
        if method == "GET":
            return client.get(path.replace("{token}", "no-link"), params=sent)
        return client.post(path, json=sent)

    def sent(self, path: str, thing: str, email: str, client: LiveClient) -> dict[str, Any]:
        """The parameters or the body of a request about `thing`."""
        if path == "/revoke-session":
            session = client.get("/api/auth/get-session").json()
            return {"token": session["session"]["token"] if session else str(UUID(int=1))}
        if path.endswith("-invitation") and thing in ("own", "another's"):
            token = self.invitation(email if thing == "own" else "somebody@example.com")
            return {"id" if "get-" in path else "invitationId": token}
        acme: dict[str, Any] = {"organizationId": self.team.acme}
        bodies: dict[str, dict[str, Any]] = {
            "/sign-up/email": {"name": "New", "email": f"new{self.made}@example.com", "password": NEW},
            "/send-verification-email": {"email": email},
            "/sign-in/email": {"email": email, "password": "a wrong password, of this length"},
            "/verify-email": {"token": "no-link"},
            "/request-password-reset": {"email": email, "redirectTo": "/reset"},
            "/reset-password/{token}": {"callbackURL": "/reset"},
            "/reset-password": {"newPassword": NEW, "token": "no-link"},
            "/change-password": {"newPassword": NEW, "currentPassword": PASSWORD},
            "/update-user": {"name": "Another"},
            "/change-email": {"newEmail": f"changed{self.made}@example.com"},
            "/two-factor/verify-totp": {"code": "123456"},
            "/two-factor/verify-backup-code": {"code": "123456"},
            "/organization/create": {"name": "New", "slug": f"new-{self.made}"},
            "/organization/check-slug": {"slug": "free"},
            "/organization/has-permission": acme | {"permissions": {"member": ["create"]}},
            "/organization/update": acme | {"data": {"name": "Acme"}},
            "/organization/update-member-role": acme | {"memberId": str(UUID(int=1)), "role": "member"},
            "/organization/remove-member": acme | {"memberIdOrEmail": str(UUID(int=1))},
            "/organization/invite-member": acme | {"email": "x@example.com", "role": "member"},
            "/organization/cancel-invitation": {"invitationId": str(UUID(int=1))},
        }
        if path in bodies:
            return bodies[path]
        if path in ("/verify-password", "/delete-user") or path.startswith("/two-factor/"):
            return {"password": PASSWORD}
        return acme if thing == "acme" else {}


@pytest.fixture
def world(auth_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    cheap = argon2.PasswordHasher(1, 64, 1)
    monkeypatch.setattr(password_hashing, "ARGON2", cheap)
    team = Team(auth_service(rate_limits=False))
    team.join("olga")
    team.acme = team.post("olga", "create", name="Acme", slug="acme").json()["id"]
    world = World(team, cheap.hash(PASSWORD))
    yield world
    for client in (*world.clients, *team.browsers.values()):
        client.close()


def not_in(app: FastAPI, table: str) -> set[str]:
    """The routes of `app` that have no row in `table`, and the rows that have no route."""
    return {route.name for route in routes_of(app.routes)} ^ {route for route, *_ in rows_of(table)}


def shown(answer: httpx.Response) -> str:
    """As the table writes it: `null` is the answer to nobody, with status 200."""
    return "null" if answer.status_code == 200 and answer.text == "null" else str(answer.status_code)


@pytest.mark.proves("ASVS 8.2.1", "ASVS 8.3.1")
def test_every_route_answers_every_caller_as_decided(world: World) -> None:
    app = better_auth(world.team.service.auth)
    assert not_in(app, MATRIX) == set(), "a route without a row, or a row without a route"
    wrong = []
    for route, thing, expected in rows_of(MATRIX):
        asked = [who for who in PEOPLE if expected[who] not in ("-", "*")]
        found = {who: shown(world.ask(who, route, thing)) for who in asked}
        wrong += [f"{route} {thing}: {found}"] if found != {who: expected[who] for who in asked} else []
    assert wrong == []


def test_what_is_left_out_is_tried_elsewhere_or_knows_no_organization() -> None:
    elsewhere = {call.replace(" ", " /api/auth/organization/") for call in ROLE_CALLS.values()}
    assert {route for route, _, expected in rows_of(MATRIX) if "*" in expected.values()} == elsewhere
    left_out = [(route, thing) for route, thing, expected in rows_of(MATRIX) if "-" in expected.values()]
    assert not [route for route, thing in left_out if "/organization/" in route and thing != "own"]
    assert not [route for route, _, expected in rows_of(MATRIX) if not expected["nobody"].strip("-*")]


def test_a_route_without_a_row_is_found(auth_service: Callable[..., Service]) -> None:
    app = better_auth(auth_service().auth)
    router = APIRouter()

    @router.post("/api/auth/organization/sell", dependencies=[Depends(anyone)])
    def sell() -> None: ...

    app.include_router(router)
    assert not_in(app, MATRIX) == {"POST /api/auth/organization/sell"}
    row = "POST /organization/sell                      acme       401  401  *    *    *    *    *\n"
    assert not_in(app, MATRIX + row) == set()
