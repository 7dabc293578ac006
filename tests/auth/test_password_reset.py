"""`password_reset`: over real HTTP, on both engines; each security property is named after its source."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base
from playbook.kit.stage import capture_sql
from playbook.pantry.auth import password_reset
from playbook.pantry.auth.password_reset import absolute, drop_links, set_password
from playbook.pantry.auth.sign_up import find_link
from playbook.pantry.auth.tables import Verification
from playbook.schema.identity import Account, User
from tests.auth.conftest import ORIGIN, PASSWORD, Service

Start = Callable[..., Service]
NEW = "nobody expects this new password"
ASKED = {"status": True, "message": "If this email exists in our system, check your email for the reset link"}


def started(auth_service: Start, **settings: object) -> Service:
    service = auth_service(**{"require_email_verification": False, "rate_limits": False} | settings)
    assert service.sign_up().status_code == 200
    return service


def token_for(service: Service, email: str = "ada@example.com", **body: str) -> str:
    assert service.post("/request-password-reset", {"email": email, "redirectTo": "/new"} | body).json() == ASKED
    service.auth.postbox.drain()
    return service.sender.last(email, "reset-password").token or ""


def reset(service: Service, token: str, password: str = NEW) -> int:
    return service.post("/reset-password", {"newPassword": password, "token": token}).status_code


def test_the_new_password_works_and_the_old_one_does_not(auth_service: Start) -> None:
    service = started(auth_service)
    assert reset(service, token_for(service)) == 200
    assert service.sign_in().status_code == 401
    assert service.sign_in(password=NEW).status_code == 200


@pytest.mark.proves("ASVS 6.4.3", "NIST 800-63B-4 4.2.2")
def test_fifty_uses_of_one_token_at_once_have_one_success(auth_service: Start) -> None:
    service = started(auth_service)
    token = token_for(service)
    gate = threading.Barrier(16)

    def use(number: int) -> int:
        if number < 16:
            gate.wait(30)
        return reset(service, token, f"{NEW} number {number}")

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(use, range(50)))
    assert (statuses.count(200), statuses.count(400)) == (1, 49)
    winner = statuses.index(200)
    assert service.sign_in(password=f"{NEW} number {winner}").status_code == 200


@pytest.mark.proves("ASVS 6.4.3")
def test_a_link_works_once_and_for_its_time(auth_service: Start) -> None:
    service = started(auth_service)
    token = token_for(service)
    assert [reset(service, token), reset(service, token, f"{NEW} again")] == [200, 400]
    late = token_for(service)
    service.clock.advance(timedelta(seconds=service.auth.settings.reset_lifetime))
    assert reset(service, late) == 400
    assert service.auth.transact(lambda db: find_link(db, late, "reset-password")) is not None


def test_a_new_link_makes_older_ones_dead_and_using_one_kills_the_rest(auth_service: Start) -> None:
    service = started(auth_service)
    older, newer = token_for(service), token_for(service)
    assert [reset(service, older), reset(service, newer)] == [400, 200]


def test_looking_and_a_refused_password_do_not_use_the_token_up(auth_service: Start) -> None:
    service = started(auth_service)
    token = token_for(service)
    for _ in range(2):
        answer = service.client.get(f"/api/auth/reset-password/{token}?callbackURL=%2Fnew")
        assert answer.headers["location"] == f"{ORIGIN}/new?token={token}"
        assert answer.headers["referrer-policy"] == "no-referrer"
    for bad in ("short", "x" * 129, "ada@example.com ada@example.com"):
        assert reset(service, token, bad) == 400
    assert reset(service, token) == 200


@pytest.mark.proves("ASVS 7.4.3")
@pytest.mark.parametrize("revoke", [True, False])
def test_asvs_7_4_3_a_reset_ends_every_session(auth_service: Start, revoke: bool) -> None:
    service = started(auth_service, revoke_sessions_on_reset=revoke)
    assert service.whoami() is not None
    reset(service, token_for(service))
    assert (service.whoami() is None) == revoke


@pytest.mark.proves("ASVS 6.3.7")
def test_asvs_6_3_7_the_owner_is_told(auth_service: Start) -> None:
    service = started(auth_service)
    reset(service, token_for(service))
    mails = service.mails()
    assert (mails[-1].type, mails[-1].to) == ("notice", "ada@example.com")
    assert mails[-1].token is None


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_known_and_unknown_addresses_get_the_same_answer_and_the_same_work(auth_service: Start) -> None:
    service = started(auth_service)
    service.auth.postbox.drain()
    answers, work = [], []
    for email in ("ada@example.com", "nobody@example.com"):
        with capture_sql(service.auth.engine) as statements:
            held = service.hold_background()  # only what happens before the answer
            answers.append(service.post("/request-password-reset", {"email": email}))
            work.append([statement.sql for statement in statements])
        held.set()
        service.auth.postbox.drain()
    assert answers[0].content == answers[1].content
    assert {name for name in answers[0].headers} == {name for name in answers[1].headers}
    assert work == [[], []]


@pytest.mark.proves("ASVS 6.3.8")
def test_the_answer_is_the_same_when_too_many_were_asked_for(auth_service: Start) -> None:
    service = started(auth_service, rate_limits=True)
    for _ in range(6):
        assert service.post("/request-password-reset", {"email": "ada@example.com"}).json() == ASKED
        service.clock.advance(timedelta(seconds=61))
        service.auth.postbox.drain()
    assert len([mail for mail in service.mails() if mail.type == "reset-password"]) == 3
    service.clock.advance(timedelta(minutes=20))
    assert token_for(service)


def test_the_mail_does_not_believe_the_host_header(auth_service: Start) -> None:
    service = started(auth_service)
    evil = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    body = {"email": "ada@example.com", "redirectTo": "/new"}
    service.client.post("/api/auth/request-password-reset", json=body, headers=evil)
    service.auth.postbox.drain()
    mail = service.sender.last("ada@example.com", "reset-password")
    url = urlsplit(mail.url or "")
    assert f"{url.scheme}://{url.netloc}" == ORIGIN
    assert parse_qs(url.query) == {"callbackURL": ["/new"]}
    assert "evil" not in mail.text
    followed = service.client.get(f"{url.path}?{url.query}", headers=evil)
    assert followed.headers["location"].startswith(f"{ORIGIN}/new?token=")


def test_the_mail_has_nothing_that_a_stranger_chose(auth_service: Start) -> None:
    """Whoever signs up with somebody else's address chooses the name."""
    service = auth_service(require_email_verification=False, rate_limits=False)
    service.sign_up(name="You have won! Go to http://evil.example")
    token_for(service)
    assert "evil" not in service.sender.last("ada@example.com", "reset-password").text


def test_no_token_and_no_password_stands_in_the_database(auth_service: Start) -> None:
    service = started(auth_service)
    token = token_for(service)
    with service.auth.engine.connect() as connection:
        everything = [connection.execute(sa.select(t)).all() for t in Base.metadata.sorted_tables]
    assert token not in str(everything)
    assert PASSWORD not in str(everything)


def test_a_link_of_another_purpose_opens_nothing(auth_service: Start) -> None:
    service = started(auth_service)
    service.auth.postbox.drain()
    verify = service.sender.last("ada@example.com", "verify-email").token or ""
    assert reset(service, verify) == 400
    assert service.client.get(f"/api/auth/verify-email?token={token_for(service)}").status_code == 401


def test_somebody_without_a_password_gets_one(auth_service: Start) -> None:
    service = started(auth_service)
    service.auth.transact(lambda db: db.execute(sa.delete(Account)))
    assert reset(service, token_for(service)) == 200
    assert service.sign_in(password=NEW).status_code == 200


def test_a_failing_database_costs_the_mail_and_nothing_else(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = started(auth_service)

    def fail(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(password_reset, "start_reset", fail)
    assert service.post("/request-password-reset", {"email": "ada@example.com"}).json() == ASKED
    assert service.auth.postbox.drain()
    assert "in the background: OperationalError" in caplog.text
    assert not [mail for mail in service.mails() if mail.type == "reset-password"]


def test_deleting_the_user_kills_the_link(auth_service: Start) -> None:
    service = started(auth_service)
    token = token_for(service)
    assert service.post("/delete-user", {"password": PASSWORD}).status_code == 200
    assert reset(service, token) == 400


def test_drop_links_takes_only_its_own(auth_service: Start) -> None:
    service = started(auth_service)
    token_for(service)
    service.sign_up("bob@example.com", service.another_client())
    users = service.auth.transact(lambda db: {user.email: user.id for user in db.scalars(sa.select(User))})

    def purposes(email: str) -> list[str]:
        mine = sa.select(Verification.purpose).where(Verification.user_id == users[email])
        return sorted(service.auth.transact(lambda db: db.scalars(mine).all()))

    service.auth.transact(lambda db: drop_links(db, users["ada@example.com"], "reset-password"))
    assert (purposes("ada@example.com"), purposes("bob@example.com")) == (["verify-email"], ["verify-email"])
    service.auth.transact(lambda db: drop_links(db, users["ada@example.com"]))
    assert (purposes("ada@example.com"), purposes("bob@example.com")) == ([], ["verify-email"])


def test_set_password_changes_one_account(auth_service: Start) -> None:
    service = started(auth_service)
    service.sign_up("bob@example.com", service.another_client())
    ada = service.whoami()["user"]["id"]
    service.auth.transact(lambda db: set_password(db, service.auth, uuid.UUID(ada), "another hash"))
    hashes = service.auth.transact(lambda db: db.scalars(sa.select(Account.password_hash)).all())
    assert sorted(value == "another hash" for value in hashes) == [False, True]


@pytest.mark.parametrize(
    ("callback", "query", "expected"),
    [
        ("/new", {"token": "t"}, f"{ORIGIN}/new?token=t"),
        ("/new?a=1%20b#frag", {"error": "E"}, f"{ORIGIN}/new?a=1+b&error=E#frag"),
        ("/new?token=old&x=1", {"token": "t"}, f"{ORIGIN}/new?x=1&token=t"),
        ("http://app.example", {"error": "E"}, "http://app.example/?error=E"),
    ],
)
def test_absolute_sets_the_query_as_better_auth_does(
    auth_service: Start, callback: str, query: dict[str, str], expected: str
) -> None:
    assert absolute(auth_service().auth, callback, **query) == expected


@pytest.mark.proves("ASVS 6.4.2")
def test_asvs_6_4_2_there_are_no_questions_and_no_hints() -> None:
    columns = {column.name for table in Base.metadata.tables.values() for column in table.columns}
    assert not [
        name for name in columns if any(word in name for word in ("hint", "question", "answer_hash", "secret_"))
    ]
