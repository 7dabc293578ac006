"""The second factor: what somebody who knows the password tries, over HTTP, on both engines.

Whatever happens: an account has a second factor exactly when each of its sessions has given it. `honest` looks.
"""

import base64
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import argon2
import httpx
import psycopg
import pytest
import sqlalchemy as sa
from fastapi import Request
from pydantic import SecretStr
from sqlalchemy import orm

from playbook.auth import password_hashing, second_factor
from playbook.auth.second_factor import STEP, hotp, step_of
from playbook.auth.sign_in import PER_ACCOUNT, PER_NETWORK
from playbook.foundations.engines import Base
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth import sign_in
from playbook.pantry.auth.second_step import CHALLENGE, TRUSTED
from playbook.pantry.auth.sessions import SecondFactorMissing, start_session
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.tables import RecoveryCode, SecondFactor, UserSession, Verification, delete_user
from playbook.pantry.auth.two_factor import ISSUER
from playbook.pantry.housekeeping import sweep
from playbook.schema.identity import User
from tests.auth.conftest import PASSWORD, Service

Start = Callable[..., Service]
ADA, NEW, HOME, MALLORY = "ada@example.com", "nobody expects this new password", "192.0.2.1", "203.0.113.66"
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap hashes, and no limit of addresses, which would be met before those of accounts."""
    monkeypatch.setattr(password_hashing, "ARGON2", argon2.PasswordHasher(1, 64, 1))
    monkeypatch.setattr(AddressLimits, "take", lambda *given: None)


class Ada:
    """Her account, her app and her recovery codes. `client` is her browser at home."""

    def __init__(self, service: Service, enabled: bool = True) -> None:
        self.service, self.client = service, service.client
        self.client.headers["x-forwarded-for"] = HOME
        assert service.sign_up().status_code == 200
        self.secret, self.codes = b"", [""]
        if enabled:
            self.enable()
            assert self.code(self.next()).status_code == 200

    def enable(self) -> dict[str, Any]:
        answer = self.service.post("/two-factor/enable", {"password": PASSWORD}).json()
        [text] = parse_qs(urlsplit(answer["totpURI"]).query)["secret"]
        self.secret, self.codes = base64.b32decode(text), answer["backupCodes"]
        return dict(answer)

    def next(self) -> str:
        """The app's next code: the clock moves on."""
        self.service.clock.advance(timedelta(seconds=STEP))
        return hotp(self.secret, step_of(self.service.clock.now()))

    def code(self, code: str, client: LiveClient | None = None, **more: Any) -> httpx.Response:
        return self.service.post("/two-factor/verify-totp", {"code": code, **more}, client)

    def recover(self, code: str, client: LiveClient | None = None) -> httpx.Response:
        return self.service.post("/two-factor/verify-backup-code", {"code": code}, client)

    def browser(self, network: str = MALLORY) -> LiveClient:
        """Another browser, which has given the password."""
        client = self.service.another_client()
        client.headers["x-forwarded-for"] = network
        assert self.service.sign_in(client=client).json() == {
            "twoFactorRedirect": True,
            "twoFactorMethods": ["totp"],
        }
        return client

    @property
    def id(self) -> UUID:
        return self.service.auth.transact(lambda db: db.scalars(sa.select(User.id).where(User.email == ADA)).one())


@pytest.fixture
def ada(auth_service: Start) -> Ada:
    return Ada(auth_service(require_email_verification=False, rate_limits=False))


@pytest.fixture
def counted(auth_service: Start) -> Ada:
    return Ada(auth_service(require_email_verification=False))


def said(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("code")


def honest(service: Service) -> list[bool]:
    """Of each session, whether it has given a second factor. Fails where that is not what the account asks for."""
    query = sa.select(UserSession.second_factor_at, SecondFactor.confirmed).outerjoin(
        SecondFactor, SecondFactor.user_id == UserSession.user_id
    )
    rows = service.auth.transact(lambda db: db.execute(query).all())
    assert [row.second_factor_at is not None for row in rows] == [bool(row.confirmed) for row in rows]
    return [row.second_factor_at is not None for row in rows]


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


# ---------------------------------------------------------------- once


@pytest.mark.proves("ASVS 6.5.1")
def test_asvs_6_5_1_of_many_that_send_one_code_at_once_one_is_signed_in(ada: Ada) -> None:
    thieves, code = [ada.browser() for _ in range(12)], ada.next()
    answers = at_once(12, lambda number: said(ada.code(code, thieves[number])))
    assert sorted(answers, key=str) == [(200, None)] + [(401, "INVALID_CODE")] * 11
    assert honest(ada.service) == [True, True]


@pytest.mark.proves("ASVS 6.5.1")
def test_asvs_6_5_1_of_many_that_send_one_recovery_code_at_once_one_is_signed_in(ada: Ada) -> None:
    thieves = [ada.browser() for _ in range(12)]
    answers = at_once(12, lambda number: said(ada.recover(ada.codes[0], thieves[number])))
    assert sorted(answers, key=str) == [(200, None)] + [(401, "INVALID_BACKUP_CODE")] * 11
    assert honest(ada.service) == [True, True]


@pytest.mark.proves("ASVS 6.5.1")
def test_asvs_6_5_1_one_second_step_opens_one_session(ada: Ada) -> None:
    """Fifty tabs of one browser, each with a recovery code of its own."""
    browser, codes = ada.browser(), ada.codes
    answers = at_once(10, lambda number: said(ada.recover(codes[number], browser)))
    assert answers.count((200, None)) >= 1
    left = ada.service.auth.transact(lambda db: db.scalars(sa.select(RecoveryCode.code_hash)).all())
    steps = sa.select(Verification.id).where(Verification.purpose == CHALLENGE)
    assert ada.service.auth.transact(lambda db: db.scalars(steps).all()) == []
    assert len(left) == 10 - answers.count((200, None)), "a code that opened nothing is not used up"
    assert len(honest(ada.service)) == 2, "the tabs share one cookie, so each new session ends the one before"


@pytest.mark.proves("ASVS 6.5.5")
def test_asvs_6_5_5_a_code_lives_for_thirty_seconds(ada: Ada) -> None:
    """From the beginning of its step; at sign-in as in a session."""
    clock, instant = ada.service.clock, timedelta(microseconds=1)
    moments = {-instant: 401, 30 * SECOND - instant: 200, 30 * SECOND: 401}
    for client in (None, ada.browser()):
        for moment, status in moments.items():
            clock.advance(timedelta(seconds=2 * STEP - clock.now().timestamp() % STEP))  # a step that is new
            code = hotp(ada.secret, step_of(clock.now()))
            clock.advance(moment)
            assert ada.code(code, client).status_code == status, moment
    assert honest(ada.service) == [True, True]


def test_a_code_that_came_in_time_is_not_late_because_the_database_was_busy(
    ada: Ada, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age counts when the request arrives. Here the step ends before the code is compared, and once more before
    the transaction that met a conflict is tried again.
    """
    code, tries = ada.next(), list[bool]()
    use = second_factor.use_code

    def slow(db: orm.Session, *given: Any) -> bool:
        ada.service.clock.advance(timedelta(seconds=STEP))
        tries.append(use(db, *given))
        if len(tries) == 1:
            raise sa.exc.OperationalError("", {}, psycopg.errors.SerializationFailure())
        return tries[-1]

    monkeypatch.setattr(second_factor, "use_code", slow)
    assert said(ada.code(code)) == (200, None)
    assert tries == [True, True]


# ---------------------------------------------------------------- at rest


@pytest.mark.proves("ASVS 6.5.2", "ASVS 6.5.3", "ASVS 6.5.4")
def test_asvs_6_5_2_the_tables_open_nothing(ada: Ada) -> None:
    """120 random bits a code, so that a fast hash is enough; and secrets of 160, encrypted."""
    browser = ada.browser()
    assert ada.code(ada.next(), browser, trustDevice=True).status_code == 200
    pending = ada.browser()
    with ada.service.auth.engine.connect() as connection:
        rows = [row for table in Base.metadata.tables.values() for row in connection.execute(sa.select(table))]
    everything = " ".join(str(value) for row in rows for value in row)
    letters = [code.replace("-", "") for code in ada.codes]
    tokens = [cookie.value.partition(".")[0] for each in (browser, pending) for cookie in each.cookies.jar]
    assert len([token for token in tokens if token.startswith(("pass_", "session_"))]) == 3
    assert not [
        text for text in [*ada.codes, *letters, *tokens, ada.secret.hex(), repr(ada.secret)] if text in everything
    ]
    assert {len(text) for text in letters} == {24}
    assert len(set(letters)) == 10
    assert len(ada.secret) == 20


@pytest.mark.proves("ASVS 6.5.3")
def test_asvs_6_5_3_secret_and_codes_are_from_the_systems_random_source(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    ada, asked = Ada(service, enabled=False), list[int]()
    source = secrets.token_bytes

    def counted(count: int) -> bytes:
        asked.append(count)
        return source(count)

    monkeypatch.setattr(secrets, "token_bytes", counted)
    ada.enable()
    assert sorted(asked) == [15] * 10 + [20]


def test_another_secret_of_the_service_leaves_the_recovery_codes(ada: Ada) -> None:
    """An operator changes PANTRY_SECRET: no app's code can be compared, and nobody is locked out for ever."""
    object.__setattr__(ada.service.auth.settings, "secret", SecretStr("another secret, of forty characters, here"))
    browser = ada.browser()
    assert said(ada.code(ada.next(), browser)) == (401, "INVALID_CODE")
    assert said(ada.recover(ada.codes[0], browser)) == (200, None)
    assert honest(ada.service) == [True, True]
    assert ada.service.post("/two-factor/get-totp-uri", {"password": PASSWORD}, browser).status_code == 400
    assert ada.service.post("/two-factor/disable", {"password": PASSWORD}, browser).status_code == 200
    assert not any(honest(ada.service))


# ---------------------------------------------------------------- guesses


@pytest.mark.proves("ASVS 6.6.3")
def test_asvs_6_6_3_a_network_guesses_five_times_and_then_once_a_minute(counted: Ada) -> None:
    thief = counted.browser()
    answers = [said(counted.code("000000", thief))[0] for _ in range(8)]
    assert answers == [401] * PER_NETWORK.burst + [429] * 3
    assert said(counted.code(counted.next(), thief))[0] == 429, "a right code is a guess, too"


@pytest.mark.proves("ASVS 6.6.3")
def test_asvs_6_6_3_strangers_share_one_allowance_and_keep_nobody_out(counted: Ada) -> None:
    """Mallory knows the password and signs in from a new network for each guess: that makes none of them known.

    Ada gets in all the same: from home, or with a recovery code.
    """
    thief = counted.browser()
    answers = []
    for number in range(PER_ACCOUNT.burst + 2):
        thief.headers["x-forwarded-for"] = f"10.0.0.{number}"
        assert counted.service.sign_in(client=thief).status_code == 200
        answers.append(said(counted.code("000000", thief))[0])
    assert answers == [401] * PER_ACCOUNT.burst + [429] * 2
    away = counted.browser("198.51.100.7")
    assert said(counted.code(counted.next(), away))[0] == 429
    assert said(counted.recover(counted.codes[0], away)) == (200, None)
    home = counted.browser(HOME)
    assert said(counted.code(counted.next(), home)) == (200, None)


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_a_wrong_password_costs_the_same_with_and_without_a_second_factor(auth_service: Start) -> None:
    """The same statements and the same answer: only who knows the password learns of the second factor."""
    service = auth_service(require_email_verification=False, rate_limits=False)
    Ada(service)
    with service.another_client() as other:
        assert service.sign_up("bob@example.com", other).status_code == 200
    seen = []
    for email in (ADA, "bob@example.com"):
        with service.another_client() as client, capture_sql(service.auth.engine) as statements:
            answer = service.sign_in(email, client, password="a wrong password")
        seen.append((answer.status_code, answer.content, [one.sql for one in statements]))
    assert seen[0] == seen[1]
    assert seen[0][0] == 401


# ---------------------------------------------------------------- no way around it


def test_the_password_alone_opens_nothing(ada: Ada) -> None:
    thief = ada.browser()
    assert ada.service.whoami(thief) is None
    for path in ("/list-sessions", "/revoke-sessions", "/two-factor/disable", "/two-factor/generate-backup-codes"):
        method = "GET" if path == "/list-sessions" else "POST"
        body = None if method == "GET" else {"password": PASSWORD}
        assert thief.request(method, f"/api/auth{path}", json=body).status_code == 401, path
    assert honest(ada.service) == [True]


def test_the_second_step_ends_after_ten_minutes(ada: Ada) -> None:
    browser = ada.browser()
    ada.service.clock.advance(10 * MINUTE)
    assert said(ada.code(ada.next(), browser)) == (401, "INVALID_TWO_FACTOR_COOKIE")


def test_the_second_step_of_one_is_not_anothers(ada: Ada) -> None:
    """Mallory has a second factor of her own."""
    service = ada.service
    with service.another_client() as client:
        service.sign_up("mallory@example.com", client)
        answer = service.post("/two-factor/enable", {"password": PASSWORD}, client).json()
        mine = base64.b32decode(parse_qs(urlsplit(answer["totpURI"]).query)["secret"][0])
        service.clock.advance(timedelta(seconds=STEP))
        assert ada.code(hotp(mine, step_of(service.clock.now())), client).status_code == 200
    thief = ada.browser()
    service.clock.advance(timedelta(seconds=STEP))
    assert said(ada.code(hotp(mine, step_of(service.clock.now())), thief)) == (401, "INVALID_CODE")
    assert said(ada.recover(answer["backupCodes"][0], thief)) == (401, "INVALID_BACKUP_CODE")


def test_a_reset_by_mail_does_not_go_around_it(ada: Ada) -> None:
    """It ends second steps under way, and the trust in devices; and the new password opens nothing alone."""
    service, trusting, waiting = ada.service, ada.browser(), ada.browser()
    assert ada.code(ada.next(), trusting, trustDevice=True).status_code == 200
    service.post("/request-password-reset", {"email": ADA, "redirectTo": "/reset"})
    token = service.mails()[-1].token
    with service.another_client() as thief:
        assert service.post("/reset-password", {"newPassword": NEW, "token": token}, thief).json() == {"status": True}
        assert service.whoami(thief) is None
        for client in (thief, trusting):
            answer = service.sign_in(client=client, password=NEW)
            assert answer.json()["twoFactorRedirect"] is True
            assert service.whoami(client) is None
    assert said(ada.code(ada.next(), waiting)) == (401, "INVALID_TWO_FACTOR_COOKIE")
    assert honest(service) == []


def test_a_link_that_verifies_and_signs_in_does_not_go_around_it(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False, sign_in_after_verification=True)
    ada = Ada(service, enabled=False)
    [mail] = [mail for mail in service.mails() if mail.type == "verify-email"]
    ada.enable()
    assert ada.code(ada.next()).status_code == 200
    with service.another_client() as thief:
        answer = thief.get(f"/api/auth/verify-email?token={mail.token}")
        assert (answer.status_code, answer.json()) == (200, {"status": True, "user": None})
        assert service.whoami(thief) is None
    assert honest(service) == [True]


def test_no_session_begins_without_it_whatever_way_leads_there(ada: Ada) -> None:
    request = Request({"type": "http", "headers": [], "client": None})
    with pytest.raises(SecondFactorMissing):
        ada.service.auth.transact(lambda db: start_session(db, ada.service.auth, ada.id, request))


def test_a_sign_in_that_overtakes_the_first_code_gets_no_session(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked whether there is a second factor, and there was none; then it is confirmed; then it writes."""
    service = auth_service(require_email_verification=False, rate_limits=False)
    ada = Ada(service, enabled=False)
    ada.enable()
    code, met = ada.next(), list[int]()

    def meanwhile(write: Callable[..., bool]) -> Callable[..., bool]:
        def looked_before(db: Any, *given: Any) -> bool:
            db.execute(sa.select(SecondFactor.confirmed)).all()
            if not met:
                met.append(ada.code(code).status_code)
            return write(db, *given)

        return looked_before

    for name in ("still_has", "replace_hash"):  # the cheap hash of the tests is one to be replaced
        monkeypatch.setattr(sign_in, name, meanwhile(getattr(sign_in, name)))
    with service.another_client() as thief:
        assert service.sign_in(client=thief).json().get("twoFactorMethods") == ["totp"]
    assert met == [200]
    assert honest(service) == [True]


# ---------------------------------------------------------------- on and off


def test_nothing_changes_before_the_first_code_and_then_all_other_sessions_end(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    ada = Ada(service, enabled=False)
    with service.another_client() as other:
        assert service.sign_in(client=other).status_code == 200
        ada.enable()
        assert service.whoami(other) is not None
        assert honest(service) == [False, False]
        before = service.whoami()["session"]["token"]
        answer = ada.code(ada.next()).json()
        assert service.whoami(other) is None
    assert service.whoami()["session"]["token"] == answer["token"] != before
    assert service.whoami()["user"]["twoFactorEnabled"] is answer["user"]["twoFactorEnabled"] is True
    assert honest(service) == [True]


@pytest.mark.proves("ASVS 6.3.7")
def test_asvs_6_3_7_the_owner_is_told(ada: Ada) -> None:
    service = ada.service
    browser = ada.browser()
    ada.recover(ada.codes[0], browser)
    service.post("/two-factor/generate-backup-codes", {"password": PASSWORD}, browser)
    service.post("/two-factor/disable", {"password": PASSWORD}, browser)
    told = [mail.text for mail in service.mails() if mail.type == "notice"]
    for words in ("protects your account", "recovery code of your", "new recovery codes", "switched off"):
        assert len([text for text in told if words in text]) == 1, words
    assert not [text for text in told for code in ada.codes if code in text]


SENSITIVE = {  # what a stolen session may not do alone, with a body that is otherwise good
    "/change-password": {"newPassword": NEW, "currentPassword": PASSWORD},
    "/delete-user": {"password": PASSWORD},
    "/two-factor/disable": {"password": PASSWORD},
    "/two-factor/generate-backup-codes": {"password": PASSWORD},
    "/two-factor/get-totp-uri": {"password": PASSWORD},
}


@pytest.mark.proves("ASVS 7.5.1", "ASVS 7.5.3")
@pytest.mark.parametrize("path", SENSITIVE)
def test_asvs_7_5_3_a_sensitive_change_wants_a_fresh_code(ada: Ada, path: str) -> None:
    ada.service.clock.advance(10 * MINUTE)
    before = dump(ada.service)
    assert said(ada.service.post(path, SENSITIVE[path])) == (403, "SESSION_NOT_FRESH")
    assert dump(ada.service) == before
    assert ada.code(ada.next()).status_code == 200
    assert ada.service.post(path, SENSITIVE[path]).status_code == 200
    honest(ada.service)


def test_a_new_address_wants_a_fresh_code_on_a_trusted_device(ada: Ada) -> None:
    service, trusting = ada.service, ada.browser()
    assert ada.code(ada.next(), trusting, trustDevice=True).status_code == 200
    service.clock.advance(10 * MINUTE)
    assert service.sign_in(client=trusting).json()["user"]["twoFactorEnabled"] is True
    new = {"newEmail": "ada@new.example"}
    assert said(service.post("/change-email", new, trusting)) == (403, "SESSION_NOT_FRESH")
    assert ada.code(ada.next(), trusting).status_code == 200
    assert service.post("/change-email", new, trusting).status_code == 200


def dump(service: Service) -> Any:
    models = (User, UserSession, SecondFactor, RecoveryCode)
    with service.auth.engine.connect() as db:
        return [sorted(map(str, db.execute(sa.select(model.__table__)))) for model in models]


def test_a_device_is_trusted_for_thirty_days_after_its_last_code(ada: Ada) -> None:
    service, browser = ada.service, ada.browser()
    assert ada.code(ada.next(), browser, trustDevice=True).status_code == 200
    for days in (10, 10, 9.99):
        service.clock.advance(timedelta(days=days))
        assert "token" in service.sign_in(client=browser).json()
    service.clock.advance(timedelta(days=0.01))
    assert service.sign_in(client=browser).json()["twoFactorRedirect"] is True
    honest(service)


def test_a_changed_password_ends_the_trust_in_devices(ada: Ada) -> None:
    service, browser = ada.service, ada.browser()
    assert ada.code(ada.next(), browser, trustDevice=True).status_code == 200
    changed = {"newPassword": NEW, "currentPassword": PASSWORD}
    assert service.post("/change-password", changed, browser).json()["user"]["twoFactorEnabled"] is True
    assert service.whoami(browser)["user"]["twoFactorEnabled"] is True
    honest(service)
    assert service.sign_in(client=browser, password=NEW).json()["twoFactorRedirect"] is True


def test_switched_off_nothing_of_it_is_left(ada: Ada) -> None:
    service, browser, waiting = ada.service, ada.browser(), ada.browser()
    ada.code(ada.next(), browser, trustDevice=True)
    assert service.post("/two-factor/disable", {"password": PASSWORD}).json() == {"status": True}
    assert dump(service)[2:] == [[], []]
    purposes = service.auth.transact(lambda db: db.scalars(sa.select(Verification.purpose)).all())
    assert not {CHALLENGE, TRUSTED} & set(purposes)
    assert honest(service) == [False, False], "the other browser stays signed in"
    assert "twoFactorEnabled" not in service.whoami(browser)["user"]
    assert said(ada.code(ada.next(), waiting)) == (401, "INVALID_TWO_FACTOR_COOKIE")
    with service.another_client() as client:
        assert service.sign_in(client=client).json()["token"]


def test_a_user_who_is_deleted_leaves_nothing_of_it(ada: Ada) -> None:
    ada.browser()
    assert ada.service.auth.transact(lambda db: delete_user(db, ada.id))
    assert dump(ada.service) == [[], [], [], []]
    assert ada.service.auth.transact(lambda db: db.scalars(sa.select(Verification.id)).all()) == []


def test_the_sweep_takes_what_was_not_finished(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    ada = Ada(service)
    ada.browser()
    with service.another_client() as other:
        service.sign_up("bob@example.com", other)
        service.post("/two-factor/enable", {"password": PASSWORD}, other)
    assert [len(rows) for rows in dump(service)[2:]] == [2, 20]
    service.clock.advance(timedelta(days=1))
    sweep(service.auth.engine, service.clock.now())
    assert [len(rows) for rows in dump(service)[2:]] == [1, 10]
    steps = sa.select(Verification.id).where(Verification.purpose == CHALLENGE)
    assert service.auth.transact(lambda db: db.scalars(steps).all()) == []


def test_app_shows_the_name_of_the_service(auth_service: Start) -> None:
    ada = Ada(auth_service(require_email_verification=False, rate_limits=False), enabled=False)
    uri = urlsplit(ada.enable()["totpURI"])
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", f"/{ISSUER}:ada%40example.com")
