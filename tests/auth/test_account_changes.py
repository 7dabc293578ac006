"""`account_changes`: over real HTTP, on both engines; each security property is named after its source."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Request

from playbook.auth.mail import Mail
from playbook.auth.password_hashing import HASHING_TURN
from playbook.kit.live import LiveClient
from playbook.kit.stage import capture_sql
from playbook.pantry.auth import account_changes
from playbook.pantry.auth.account_changes import APPROVE, CHANGE, account_routes, remove
from playbook.pantry.auth.sessions import SESSION, cookies_of, start_session
from playbook.pantry.auth.tables import Invitation, UserSession, Verification
from playbook.pantry.catalog import File, Package, PackageRole, Release
from playbook.schema.identity import Account, Member, Organization, User, add_user
from tests.auth.conftest import ORIGIN, PASSWORD, Service

Start = Callable[..., Service]
ADA, NEW_ADDRESS, NEW = "ada@example.com", "ada@new.example", "nobody expects this new password"
MINUTE = timedelta(minutes=1)


def started(auth_service: Start, verified: bool = True, **settings: object) -> Service:
    """Ada, signed in in `client`; the mail about her sign-up is forgotten."""
    service = auth_service(**{"require_email_verification": False, "rate_limits": False} | settings)
    assert service.sign_up().status_code == 200
    if verified:
        service.auth.transact(lambda db: db.execute(sa.update(User).values(email_verified=True)))
    service.mails()
    service.sender.mails.clear()
    return service


def rows(service: Service, model: type[Any]) -> list[Any]:
    return list(service.auth.transact(lambda db: db.scalars(sa.select(model)).all()))


def ada(service: Service) -> User:
    return next(user for user in rows(service, User) if user.name == "Ada")


def ask(service: Service, new: str = NEW_ADDRESS, client: httpx.Client | None = None, **more: str) -> list[Mail]:
    """Ask for another address; the mails that followed."""
    before = len(service.mails())
    answer = service.post("/change-email", {"newEmail": new} | more, client)
    assert (answer.status_code, answer.json()) == (200, {"status": True})
    return service.mails()[before:]


def click(service: Service, mail: Mail, client: httpx.Client | None = None, callback: str = "") -> httpx.Response:
    """Open a link of a mail, as a program that wants JSON unless `callback` says where to go."""
    parts = urlsplit(mail.url or "")
    query = f"token={mail.token}" + (f"&callbackURL={callback}" if callback else "")
    answer = (client or service.client).get(f"{parts.path}?{query}")
    service.auth.postbox.drain()
    return answer


def code(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json().get("code")


def signed_in(service: Service, user_id: UUID) -> LiveClient:
    """A browser in which this user is signed in, without a password."""
    request = Request({"type": "http", "headers": [], "client": None})
    _, token = service.auth.transact(lambda db: start_session(db, service.auth, user_id, request))
    cookies = cookies_of(service.auth)
    cookie = f"{cookies.prefix}{SESSION}={cookies.signed(token)}"
    return LiveClient(str(service.client.base_url), headers={"origin": ORIGIN, "cookie": cookie})


def another_user(service: Service, email: str = "bob@example.com") -> UUID:
    auth = service.auth
    return auth.transact(lambda db: add_user(db, auth.clock, auth.ids, email, "Bob").id)


def change_password(service: Service, client: httpx.Client | None = None, **more: Any) -> httpx.Response:
    return service.post("/change-password", {"currentPassword": PASSWORD, "newPassword": NEW} | more, client)


def reset_token(service: Service, email: str = ADA) -> str:
    service.post("/request-password-reset", {"email": email, "redirectTo": "/"}, service.another_client())
    service.auth.postbox.drain()
    return service.sender.last(email, "reset-password").token or ""


def reset(service: Service, token: str, password: str = NEW) -> httpx.Response:
    return service.post("/reset-password", {"newPassword": password, "token": token}, service.another_client())


# ---------------------------------------------------------------- who may


@pytest.mark.proves("ASVS 7.5.1")
def test_asvs_7_5_1_an_old_session_cannot_ask_for_another_address(auth_service: Start) -> None:
    service = started(auth_service)
    service.clock.advance(timedelta(seconds=service.auth.settings.reauthentication))
    refused = service.post("/change-email", {"newEmail": NEW_ADDRESS})
    assert code(refused) == (403, "SESSION_NOT_FRESH")
    assert service.mails() == []
    assert [row.purpose for row in rows(service, Verification)] == ["verify-email"]
    assert service.sign_in().status_code == 200
    service.clock.advance(timedelta(seconds=service.auth.settings.reauthentication - 1))
    assert [mail.to for mail in ask(service)] == [ADA]


@pytest.mark.proves("ASVS 7.5.1")
def test_asvs_7_5_1_an_address_is_changed_in_no_other_way(auth_service: Start) -> None:
    service = started(auth_service)
    for sent in ({"email": NEW_ADDRESS}, {"email": NEW_ADDRESS, "name": "x"}, {"email": {"a": 1}}):
        assert code(service.post("/update-user", sent)) == (400, "EMAIL_CAN_NOT_BE_UPDATED")
    service.post("/update-user", {"name": "Ada", "emailVerified": False, "id": str(UUID(int=1))})
    assert (ada(service).email, ada(service).email_verified) == (ADA, True)


def test_deleting_wants_the_password_or_a_sign_in_of_a_moment_ago(auth_service: Start) -> None:
    service = started(auth_service)
    service.clock.advance(timedelta(seconds=service.auth.settings.reauthentication))
    for sent in ({}, {"password": ""}):
        assert code(service.post("/delete-user", sent)) == (400, "SESSION_EXPIRED")
    assert code(service.post("/delete-user", {"password": NEW})) == (400, "INVALID_PASSWORD")
    assert code(service.post("/delete-user", {"token": "made-up"})) == (404, "INVALID_TOKEN")
    assert len(rows(service, User)) == 1
    assert service.post("/delete-user", {"password": PASSWORD}).json() == {"success": True, "message": "User deleted"}
    service.sign_up()
    assert service.post("/delete-user").status_code == 200


def test_guesses_are_counted_by_session_and_a_right_one_makes_the_count_whole(auth_service: Start) -> None:
    service = started(auth_service, rate_limits=True)
    own = service.another_client()
    assert service.sign_in(client=own).status_code == 200

    def guess(password: str = NEW, client: httpx.Client | None = None) -> int:
        service.clock.advance(timedelta(milliseconds=200))  # the limits of an address are another page's
        return service.post("/verify-password", {"password": password}, client).status_code

    assert [guess() for _ in range(4)] == [400] * 4
    assert guess(PASSWORD) == 200
    assert [guess() for _ in range(5)] == [400] * 5
    refused = service.post("/delete-user", {"password": PASSWORD})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == refused.headers["x-retry-after"]
    assert guess(PASSWORD) == 429, "who guesses learns nothing more"
    assert guess(PASSWORD, own) == 200, "a thief must not use up the owner's"
    assert change_password(service, own).status_code == 200


def test_fifty_guesses_at_once_are_five(auth_service: Start) -> None:
    service = started(auth_service, rate_limits=True)
    cookie = {"origin": ORIGIN, "cookie": "; ".join(f"{k}={v}" for k, v in service.client.cookies.items())}

    def guess(number: int) -> int:
        with LiveClient(str(service.client.base_url), headers=cookie) as client:
            return service.post("/verify-password", {"password": f"guess number {number}"}, client).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(guess, range(20)))
    assert (statuses.count(400), statuses.count(429)) == (5, 15)


def test_an_account_without_a_password_says_so(auth_service: Start) -> None:
    service = started(auth_service)
    service.auth.transact(lambda db: db.execute(sa.update(Account).values(password_hash=None)))
    for answer in (change_password(service), service.post("/verify-password", {"password": PASSWORD})):
        assert code(answer) == (400, "CREDENTIAL_ACCOUNT_NOT_FOUND")
    service.auth.transact(lambda db: db.execute(sa.delete(Account)))
    assert code(change_password(service)) == (400, "CREDENTIAL_ACCOUNT_NOT_FOUND")


def test_routes_that_hash_wait_for_their_turn() -> None:
    turns = {route.path for route in account_routes.routes if HASHING_TURN in route.dependencies}  # type: ignore[attr-defined]
    assert turns == {f"/api/auth/{name}" for name in ("change-password", "verify-password", "delete-user")}


# ---------------------------------------------------------------- password


@pytest.mark.proves("ASVS 6.2.2")
def test_asvs_6_2_2_people_change_their_password(auth_service: Start) -> None:
    service = started(auth_service)
    assert change_password(service).status_code == 200
    assert service.sign_in(password=NEW).status_code == 200
    assert service.sign_in().status_code == 401


@pytest.mark.proves("ASVS 6.2.3")
def test_asvs_6_2_3_the_present_password_is_asked_for(auth_service: Start) -> None:
    service = started(auth_service)
    before = [account.password_hash for account in rows(service, Account)]
    for sent in ({"newPassword": NEW}, {"currentPassword": PASSWORD}, {"newPassword": NEW, "currentPassword": None}):
        assert code(service.post("/change-password", sent)) == (400, "VALIDATION_ERROR")
    assert code(change_password(service, currentPassword=NEW)) == (400, "INVALID_PASSWORD")
    assert code(change_password(service, currentPassword="x" * 1000)) == (400, "PASSWORD_TOO_LONG")
    assert code(change_password(service, newPassword="short")) == (400, "PASSWORD_TOO_SHORT")
    assert [account.password_hash for account in rows(service, Account)] == before
    assert service.mails() == []


@pytest.mark.proves("ASVS 7.4.3")
@pytest.mark.parametrize(
    ("setting", "asked", "ended"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_asvs_7_4_3_other_sessions_end(auth_service: Start, setting: bool, asked: bool, ended: bool) -> None:
    service = started(auth_service, revoke_sessions_on_change=setting)
    other, copied = service.another_client(), service.another_client()
    service.sign_in(client=other)
    copied.cookies.update(service.client.cookies)
    answer = change_password(service, revokeOtherSessions=asked)
    assert (answer.json()["token"] is not None) == ended
    assert service.whoami()["user"]["email"] == ADA, "the caller stays signed in"
    assert [service.whoami(client) is None for client in (other, copied)] == [ended, ended]


def test_a_session_that_is_not_to_be_remembered_stays_so(auth_service: Start) -> None:
    service = started(auth_service)
    service.sign_in(rememberMe=False)
    cookie = change_password(service).headers.get_list("set-cookie")[0]
    assert "session_token" in cookie
    assert "Max-Age" not in cookie
    [session] = rows(service, UserSession)
    assert session.expires_at - service.clock.now() == timedelta(days=1)


def test_a_reset_during_the_hashing_wins(auth_service: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = started(auth_service, revoke_sessions_on_reset=False)  # or the missing session would refuse
    token, hashed = reset_token(service), account_changes.hash_password
    during = "the reset was quicker than this"

    def slow(password: str) -> str:
        assert reset(service, token, during).status_code == 200
        return hashed(password)

    monkeypatch.setattr(account_changes, "hash_password", slow)
    assert code(change_password(service)) == (400, "INVALID_PASSWORD")
    assert service.sign_in(password=during).status_code == 200


def test_a_change_and_a_reset_at_once_have_one_success(auth_service: Start) -> None:
    service = started(auth_service)
    passwords = {"change": PASSWORD}
    for number in range(4):
        token, meeting = reset_token(service), threading.Barrier(2)
        service.sign_in(password=passwords["change"])
        wanted = [f"the changed password {number}", f"the password of reset {number}"]

        def one(way: str, token: str = token, meeting: threading.Barrier = meeting, wanted: list[str] = wanted) -> int:
            meeting.wait(30)
            if way == "reset":
                return reset(service, token, wanted[1]).status_code
            sent = {"currentPassword": passwords["change"], "newPassword": wanted[0]}
            return change_password(service, **sent).status_code

        with ThreadPoolExecutor(2) as threads:
            statuses = list(threads.map(one, ("change", "reset")))
        assert sorted(statuses)[0] == 200 < sorted(statuses)[1], statuses
        passwords["change"] = wanted[statuses.index(200)]
        assert service.sign_in(password=passwords["change"]).status_code == 200


@pytest.mark.proves("ASVS 7.4.1")
def test_asvs_7_4_1_a_session_that_ends_while_the_password_is_compared_does_nothing_more(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, checked = started(auth_service), account_changes.check_password

    def slow(password: str, stored: str | None) -> Any:
        service.auth.transact(lambda db: db.execute(sa.delete(UserSession)))
        return checked(password, stored)

    monkeypatch.setattr(account_changes, "check_password", slow)
    assert code(change_password(service)) == (401, "UNAUTHORIZED")
    assert rows(service, UserSession) == []
    monkeypatch.undo()
    assert service.sign_in().status_code == 200, "the password is the old one"
    monkeypatch.setattr(account_changes, "check_password", slow)
    assert code(service.post("/delete-user", {"password": PASSWORD})) == (401, "UNAUTHORIZED")
    assert len(rows(service, User)) == 1


# ---------------------------------------------------------------- name and image


def test_update_user_takes_name_and_image_and_sets_the_cookie_for_what_is_left(auth_service: Start) -> None:
    service = started(auth_service)
    service.clock.advance(timedelta(hours=10))
    answer = service.post("/update-user", {"name": "Countess", "role": "admin"})
    assert answer.json() == {"status": True}
    left = timedelta(seconds=service.auth.settings.session_lifetime) - timedelta(hours=10)
    assert f"Max-Age={round(left.total_seconds())}" in answer.headers["set-cookie"]
    service.post("/update-user", {"image": "http://app.example/a.png", "email": ""})
    assert (rows(service, User)[0].name, rows(service, User)[0].image) == ("Countess", "http://app.example/a.png")
    service.post("/update-user", {"image": None})
    assert rows(service, User)[0].image is None
    for sent in ({"name": None}, {"name": 5}, {"image": 5}, {"name": "x" * 201}):
        assert code(service.post("/update-user", sent)) == (400, "VALIDATION_ERROR")
    for sent in ({}, {"role": "admin"}):
        nothing = service.post("/update-user", sent)
        assert (nothing.status_code, nothing.json()) == (400, {"message": "No fields to update"})


# ---------------------------------------------------------------- address


@pytest.mark.proves("ASVS 7.5.1", "ASVS 6.3.7")
def test_nothing_changes_before_the_confirmation_and_the_old_address_is_told(auth_service: Start) -> None:
    service = started(auth_service)
    before = service.whoami()
    [approval] = ask(service)
    assert (approval.to, NEW_ADDRESS in approval.text) == (ADA, True)
    assert service.whoami() == before
    assert click(service, approval).json() == {"status": True}
    assert service.whoami() == before
    [_, proof] = service.mails()
    assert (proof.type, proof.to) == ("verify-email", NEW_ADDRESS)
    service.clock.advance(MINUTE)
    answer = click(service, proof)
    assert answer.json()["user"] == service.whoami()["user"]
    assert service.whoami()["session"] == before["session"], "sessions go on"
    assert "session_token" in answer.headers["set-cookie"]
    user = ada(service)
    assert (user.email, user.email_verified, user.updated_at) == (NEW_ADDRESS, True, service.clock.now())
    notice = service.mails()[-1]
    assert (notice.type, notice.to) == ("notice", ADA)
    assert service.sign_in(client=service.another_client()).status_code == 401
    assert service.sign_in(NEW_ADDRESS, service.another_client()).status_code == 200


@pytest.mark.proves("ASVS 6.3.7")
@pytest.mark.parametrize(("verified", "confirm"), [(False, True), (True, False)])
def test_asvs_6_3_7_without_an_approval_the_old_address_is_told_of_the_request(
    auth_service: Start, verified: bool, confirm: bool
) -> None:
    service = started(auth_service, verified, confirm_email_change=confirm)
    mails = ask(service)
    assert {(mail.type, mail.to) for mail in mails} == {("verify-email", NEW_ADDRESS), ("notice", ADA)}
    proof = next(mail for mail in mails if mail.token)
    stranger = service.another_client()
    assert click(service, proof, stranger, "%2Fdone").headers["location"] == "/done"
    assert "better-auth.session_token" not in stranger.cookies, "a link signs nobody in"
    assert (ada(service).email, service.mails()[-1].to) == (NEW_ADDRESS, ADA)


@pytest.mark.proves("ASVS 6.3.7")
def test_asvs_6_3_7_a_new_password_and_a_deletion_are_told(auth_service: Start) -> None:
    service = started(auth_service)
    change_password(service)
    service.post("/delete-user", {"password": NEW})
    assert [(mail.type, mail.to) for mail in service.mails()] == [("notice", ADA), ("notice", ADA)]


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_a_taken_address_gets_the_same_answer_the_same_work_and_the_same_mail(auth_service: Start) -> None:
    service = started(auth_service)
    another_user(service)
    answers, work, mails = [], [], []
    for new in (NEW_ADDRESS, "bob@example.com"):
        with capture_sql(service.auth.engine) as statements:
            held = service.hold_background()  # only what happens before the answer
            answers.append(service.post("/change-email", {"newEmail": new}))
            work.append([statement.sql for statement in statements])
        held.set()
        service.auth.postbox.drain()
        mails.append([(mail.type, mail.to, mail.subject) for mail in ask(service, new)])
        answers.append(click(service, service.sender.last(ADA)))
    assert {answer.content for answer in answers} == {b'{"status":true}'}
    assert {tuple(answer.headers) for answer in answers[::2]} == {tuple(answers[0].headers)}
    assert work[0] == work[1]
    assert mails[0] == mails[1]
    assert "bob@example.com" not in {mail.to for mail in service.mails()}


def test_the_address_is_taken_between_request_and_click(auth_service: Start) -> None:
    service = started(auth_service, confirm_email_change=False)
    proof = next(mail for mail in ask(service) if mail.token)
    another_user(service, NEW_ADDRESS)
    assert code(click(service, proof)) == (401, "INVALID_TOKEN")
    assert click(service, proof, callback="%2Fdone").headers["location"] == "/done?error=INVALID_TOKEN"
    assert (ada(service).email, len(rows(service, User))) == (ADA, 2)


def test_a_link_in_a_browser_of_somebody_else_is_refused(auth_service: Start) -> None:
    service = started(auth_service)
    bob = signed_in(service, another_user(service))
    [approval] = ask(service)
    for callback in ("", "%2Fdone"):
        answer = click(service, approval, bob, callback)
        if callback:
            assert answer.headers["location"] == "/done?error=INVALID_USER"
        else:
            assert code(answer) == (401, "INVALID_USER")
    assert service.mails() == [approval]
    click(service, approval)
    proof = service.mails()[-1]
    assert code(click(service, proof, bob)) == (401, "INVALID_USER")
    assert ada(service).email == ADA
    assert click(service, proof).status_code == 200


def test_the_approval_may_be_clicked_twice_and_mails_again_after_a_pause(auth_service: Start) -> None:
    service = started(auth_service, rate_limits=True)
    [approval] = ask(service)
    for mails in (1, 1, 2):
        if mails == 2:
            service.clock.advance(MINUTE)
        assert click(service, approval, callback="%2Fdone").headers["location"] == "/done"
        assert [mail.to for mail in service.mails()[1:]] == [NEW_ADDRESS] * mails
    first, second = service.mails()[1:]
    assert click(service, first).status_code == 200
    for used in (first, second, approval):
        assert code(click(service, used)) == (401, "INVALID_TOKEN")


def test_a_link_of_a_change_ends_in_time(auth_service: Start) -> None:
    service = started(auth_service)
    [approval] = ask(service)
    click(service, approval)
    service.clock.advance(timedelta(seconds=service.auth.settings.verification_lifetime))
    for mail in service.mails():
        assert code(click(service, mail, service.another_client())) == (401, "TOKEN_EXPIRED")


def test_ten_clicks_at_once_are_one_change(auth_service: Start) -> None:
    service = started(auth_service, confirm_email_change=False)
    proof = next(mail for mail in ask(service) if mail.token)
    meeting = threading.Barrier(10)

    def one(_: int) -> int:
        with service.another_client() as client:
            meeting.wait(30)
            return click(service, proof, client).status_code

    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(one, range(10)))
    assert (statuses.count(200), statuses.count(401)) == (1, 9)
    assert len([mail for mail in service.mails() if mail.type == "notice"]) == 2, "of the request, and of the change"


def test_a_new_request_ends_the_older_one(auth_service: Start) -> None:
    service = started(auth_service)
    [first] = ask(service)
    click(service, first)
    proof = service.mails()[-1]
    [second] = ask(service, "ada@third.example")
    assert [code(click(service, mail)) for mail in (first, proof)] == [(401, "INVALID_TOKEN")] * 2
    click(service, second)
    assert service.mails()[-1].to == "ada@third.example"


def test_an_approval_that_meets_a_newer_request_does_nothing(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, look_up = started(auth_service), account_changes.look_up
    [first] = ask(service)

    def meanwhile(*given: Any) -> Any:
        monkeypatch.undo()
        ask(service, "ada@third.example", signed_in(service, ada(service).id))
        return look_up(*given)

    monkeypatch.setattr(account_changes, "look_up", meanwhile)
    assert click(service, first).json() == {"status": True}
    assert [mail.to for mail in service.mails()] == [ADA, ADA]
    assert {row.purpose for row in rows(service, Verification)} == {APPROVE, "verify-email"}


def test_a_proof_that_meets_a_newer_request_changes_nothing(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, look_up = started(auth_service, confirm_email_change=False), account_changes.look_up
    proof = next(mail for mail in ask(service) if mail.token)

    def meanwhile(*given: Any) -> Any:
        monkeypatch.undo()
        ask(service, "ada@third.example", signed_in(service, ada(service).id))
        return look_up(*given)

    monkeypatch.setattr(account_changes, "look_up", meanwhile)
    assert code(click(service, proof)) == (401, "INVALID_TOKEN")
    assert ada(service).email == ADA


def test_a_request_that_meets_a_change_mails_nothing_to_the_old_address(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session was looked up before the change, the link would be made after it."""
    service, afterwards = started(auth_service, confirm_email_change=False), account_changes.after_the_answer
    proof = next(mail for mail in ask(service) if mail.token)

    def meanwhile(*given: Any) -> None:
        monkeypatch.undo()
        assert click(service, proof, service.another_client()).status_code == 200
        afterwards(*given)

    monkeypatch.setattr(account_changes, "after_the_answer", meanwhile)
    service.post("/change-email", {"newEmail": "ada@third.example"})
    service.auth.postbox.drain()
    assert "ada@third.example" not in {mail.to for mail in service.mails()}
    assert rows(service, Verification) == []


def test_links_to_the_old_address_die_with_it(auth_service: Start) -> None:
    service = started(auth_service, verified=False)
    service.post("/send-verification-email", {"email": ADA})
    verify = service.mails()[-1]
    token = reset_token(service)
    proof = next(mail for mail in ask(service) if mail.token)
    assert click(service, proof, service.another_client()).status_code == 200
    assert code(reset(service, token)) == (400, "INVALID_TOKEN")
    assert code(click(service, verify, service.another_client())) == (401, "INVALID_TOKEN")
    assert rows(service, Verification) == []


def test_a_new_password_ends_a_change_that_somebody_else_has_begun(auth_service: Start) -> None:
    service = started(auth_service, confirm_email_change=False)
    proof = next(mail for mail in ask(service, "mallory@evil.example") if mail.token)
    assert change_password(service).status_code == 200
    assert code(click(service, proof, service.another_client())) == (401, "INVALID_TOKEN")


def test_a_reset_ends_a_change_that_somebody_else_has_begun(auth_service: Start) -> None:
    """What the mails promise: set a new password, and it ends."""
    service = started(auth_service, confirm_email_change=False)
    proof = next(mail for mail in ask(service, "mallory@evil.example") if mail.token)
    assert reset(service, reset_token(service)).status_code == 200
    assert code(click(service, proof, service.another_client())) == (401, "INVALID_TOKEN")


def test_the_mails_have_nothing_that_a_stranger_chose(auth_service: Start) -> None:
    """Ada's address is not proven: whoever signed up with it may be somebody else, who chose name and new address."""
    service = started(auth_service, verified=False)
    service.post("/update-user", {"name": "You have won! Go to http://evil.example"})
    mails = ask(service, "win+evil.example@new.example")
    click(service, next(mail for mail in mails if mail.token))
    assert len(service.mails()) == 3
    assert not [mail for mail in service.mails() if "evil" in mail.text + mail.subject]


def test_requests_for_another_address_are_counted(auth_service: Start) -> None:
    service = started(auth_service, rate_limits=True)

    def request(new: str) -> int:
        service.clock.advance(timedelta(seconds=11))  # the limit of an address is 3 in 10 s
        return service.post("/change-email", {"newEmail": new}).status_code

    assert [request(f"{number}@new.example") for number in range(4)] == [200, 200, 200, 429]
    assert len(service.mails()) == 3
    service.clock.advance(20 * MINUTE)
    service.sign_in()
    assert request("later@new.example") == 200


# ---------------------------------------------------------------- leaving


def organization(service: Service, slug: str, **roles: UUID) -> UUID:
    """An organization with a member in each of the roles given."""
    auth = service.auth

    def work(db: Any) -> UUID:
        now, key = auth.clock.now(), auth.ids.new()
        db.add(Organization(id=key, slug=slug, name=slug, created_at=now, updated_at=now))
        db.flush()
        for role, user_id in roles.items():
            member = Member(id=auth.ids.new(), organization_id=key, user_id=user_id, role=role.rstrip("s"))
            member.created_at = now
            db.add(member)
        return key

    return auth.transact(work)


@pytest.mark.proves("ASVS 7.4.2")
def test_asvs_7_4_2_deleting_ends_every_session_and_leaves_no_row(auth_service: Start) -> None:
    service = started(auth_service)
    other = service.another_client()
    service.sign_in(client=other)
    answer = service.post("/delete-user", {"password": PASSWORD})
    assert len(answer.headers.get_list("set-cookie")) == 3
    assert (service.whoami(), service.whoami(other)) == (None, None)
    for model in (User, Account, UserSession, Verification):
        assert rows(service, model) == []
    assert service.sign_in().status_code == 401


def test_what_else_is_a_users_goes_and_what_they_uploaded_stays(auth_service: Start) -> None:
    service = started(auth_service)
    auth, me, now = service.auth, ada(service).id, service.clock.now()
    team = organization(service, "acme", owner=another_user(service), admin=me)

    def work(db: Any) -> None:
        package, release = auth.ids.new(), auth.ids.new()
        db.add(Package(id=package, organization_id=team, name="p", normalized_name="p", created_at=now, updated_at=now))
        db.flush()
        role = PackageRole(id=auth.ids.new(), package_id=package, user_id=me, role="uploader", created_at=now)
        made = Release(id=release, package_id=package, version="1", version_key="1", is_prerelease=False)
        made.released_at = made.created_at = now
        db.add_all([role, made])
        db.flush()
        file = File(id=auth.ids.new(), release_id=release, filename="p-1.tar.gz", kind="sdist", size_bytes=1)
        file.sha256, file.uploaded_by, file.uploaded_at = "0" * 64, me, now
        invitation = Invitation(id=auth.ids.new(), organization_id=team, email="x@y.example", role="member")
        invitation.inviter_id, invitation.token_hash = me, "0" * 64
        invitation.created_at = invitation.expires_at = now
        db.add_all([file, invitation])

    auth.transact(work)
    assert service.post("/delete-user").status_code == 200
    assert rows(service, PackageRole) == []
    assert [member.role for member in rows(service, Member)] == ["owner"]
    assert [file.uploaded_by for file in rows(service, File)] == [None]
    assert [invitation.inviter_id for invitation in rows(service, Invitation)] == [None]
    assert rows(service, Organization)[0].version == 2, "it counts changes of the members"


def test_the_last_owner_stays(auth_service: Start) -> None:
    service = started(auth_service)
    me, bob = ada(service).id, another_user(service)
    organization(service, "shared", owner=me, owners=bob)
    organization(service, "zebra", owner=me, admin=bob)
    organization(service, "acme", owner=me)
    organization(service, "other", owner=bob, member=me)
    refused = service.post("/delete-user", {"password": PASSWORD})
    assert refused.json() == {"message": "Name another owner first: acme, zebra", "code": "LAST_OWNER"}
    assert refused.status_code == 400
    assert service.whoami() is not None
    assert {row.version for row in rows(service, Organization)} == {1}, "a refusal changes nothing"
    service.auth.transact(lambda db: db.execute(sa.delete(Member).where(Member.user_id == bob)))
    assert service.post("/delete-user").json()["message"] == "Name another owner first: acme, shared, zebra"
    assert service.mails() == []


def test_two_owners_who_leave_at_once_leave_one(auth_service: Start) -> None:
    service = started(auth_service)
    for number in range(20):
        owners = [another_user(service, f"{name}{number}@team.example") for name in ("eve", "fay")]
        team = organization(service, f"team-{number}", owner=owners[0], owners=owners[1])
        browsers, meeting = [signed_in(service, owner) for owner in owners], threading.Barrier(2)

        def leave(client: LiveClient, meeting: threading.Barrier = meeting) -> str:
            meeting.wait(30)
            answer = service.post("/delete-user", client=client)
            return str(answer.json().get("code", answer.status_code))

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(leave, browsers)) == ["200", "LAST_OWNER"]
        left = [member.role for member in rows(service, Member) if member.organization_id == team]
        assert left == ["owner"]
        for client in browsers:
            client.close()


def test_an_account_that_is_deleted_twice_at_once_is_deleted_once(auth_service: Start) -> None:
    service = started(auth_service)
    me = ada(service).id
    with ThreadPoolExecutor(2) as threads:
        removed = list(threads.map(lambda _: service.auth.transact(lambda db: remove(db, me)), range(2)))
    assert sorted(removed) == [False, True]


def test_links_of_a_deleted_account_open_nothing(auth_service: Start) -> None:
    service = started(auth_service)
    [approval] = ask(service)
    click(service, approval)
    proof = service.mails()[-1]
    assert {row.purpose for row in rows(service, Verification)} == {APPROVE, CHANGE, "verify-email"}
    service.post("/delete-user")
    for mail in (approval, proof):
        assert code(click(service, mail)) == (401, "INVALID_TOKEN")
