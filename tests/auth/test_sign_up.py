"""`sign_up`: what strangers can learn and cause, links, and many at once; over real HTTP, on both engines."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import argon2
import httpx
import pytest
import sqlalchemy as sa
from tables import make_tables

from playbook.auth import password_hashing
from playbook.auth.mail import Mail, SmtpSender
from playbook.auth.password_hashing import HASHING_TURN
from playbook.foundations.clock_and_identifiers import Identifiers, SystemClock, hash_token, is_token
from playbook.foundations.engines import make_engine
from playbook.kit.live import LiveClient, serving
from playbook.kit.smtp import mail_server
from playbook.kit.stage import Statement, capture_sql
from playbook.pantry.auth import sign_up
from playbook.pantry.auth.cross_site import check_cross_site
from playbook.pantry.auth.links import link_routes
from playbook.pantry.auth.sessions import session_routes
from playbook.pantry.auth.sign_up import (
    NOTICE,
    VERIFY,
    Email,
    SignUp,
    after_the_answer,
    due_notice,
    due_verification,
    new_link,
    new_user,
    register,
    sign_up_routes,
    verification_mail,
    with_query,
)
from playbook.pantry.auth.tables import UserSession, Verification, delete_user
from playbook.pantry.auth.wire import Auth, AuthError, auth_app
from playbook.pantry.postbox import Postbox
from playbook.pantry.settings import Settings
from playbook.schema.identity import Account, EmailTaken, User
from tests.auth.conftest import ORIGIN, PASSWORD, Service

Start = Callable[..., Service]
ON_DUCKDB = pytest.mark.parametrize("url", ["duckdb"], indirect=True)  # what does not depend on the database
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def hasher(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Hashes are cheap and counted."""
    counting = Mock(wraps=argon2.PasswordHasher(1, 64, 1))
    monkeypatch.setattr(password_hashing, "ARGON2", counting)
    return counting


class Closed:
    """A sender that lets nothing through before `open`: what the answer waits for would hang."""

    def __init__(self) -> None:
        self.open, self.mails = threading.Event(), []

    def send(self, mail: Mail) -> None:
        assert self.open.wait(30)
        self.mails.append(mail)


@contextmanager
def with_closed_mail(url: str, **settings: Any) -> Iterator[tuple[LiveClient, Auth, Closed]]:
    made, engine, sender = Settings(environment="test", database_url=url, **settings), make_engine(url), Closed()
    make_tables(engine)
    postbox, clock = Postbox(sender), SystemClock()
    auth = Auth(made, engine, clock, Identifiers(clock), postbox)
    try:
        with serving(
            auth_app(auth, [session_routes, sign_up_routes, link_routes], guards=[check_cross_site])
        ) as client:
            yield client, auth, sender
    finally:
        sender.open.set()
        postbox.close()
        engine.dispose()


def member(auth: Auth, name: str = "ada", verified: bool = True) -> User:
    """Somebody who has an account, made without HTTP and without a mail."""

    def work(db: Any) -> User:
        user = register(db, auth, name, f"{name}@example.com", None, "a hash")
        user.email_verified = verified
        return user

    return auth.transact(work)


def body(email: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "Mallory",
        "email": email,
        "password": PASSWORD,
        "image": "/m.png",
        "callbackURL": "/welcome",
    } | more


def verbs(statements: list[Statement]) -> list[str]:
    return [statement.sql.split()[0] for statement in statements]


def shape(value: Any) -> Any:
    """`value` with the address and what is hexadecimal masked."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return re.sub(r"\b\w+@example|[0-9a-f]", "x", value) if isinstance(value, str) else value


def seen(answer: httpx.Response) -> Any:
    """What a stranger sees of an answer: status, names of the headers and all that does not vary by itself."""
    return answer.status_code, sorted(set(answer.headers) - {"date"}), answer.headers["content-length"]


def count(auth: Auth, model: Any, *where: Any) -> int:
    return auth.transact(lambda db: db.scalar(sa.select(sa.func.count()).select_from(model).where(*where))) or 0


def link_of(service: Service, email: str = "ada@example.com") -> str:
    """The newest link in a mailbox, as a path of the service."""
    service.auth.postbox.drain()
    url = service.sender.last(email, VERIFY).url
    assert url is not None
    assert url.startswith(f"{ORIGIN}/api/auth/verify-email?token=link_")
    return url.removeprefix(ORIGIN)


def click(service: Service, path: str, client: httpx.Client | None = None) -> httpx.Response:
    return (client or service.client).get(path, follow_redirects=False)


def links(service: Service, email: str = "ada@example.com") -> list[str]:
    return [mail.type for mail in service.mails() if mail.to == email]


# ---------------------------------------------------------------- what a stranger learns


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_a_sign_up_answers_alike_for_known_and_unknown(auth_service: Start) -> None:
    service = auth_service(rate_limits=False)
    member(service.auth, "ada"), member(service.auth, "eve", verified=False)
    answers = [service.post("/sign-up/email", body(f"{name}@example.com")) for name in ("ada", "eve", "bob", "bob")]
    assert len({str(seen(answer)) for answer in answers}) == 1
    assert len({str(shape(answer.json())) for answer in answers}) == 1
    assert answers[0].json()["token"] is None
    assert "set-cookie" not in answers[0].headers
    assert len({answer.json()["user"]["id"] for answer in answers}) == 4


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_a_sign_up_does_the_same_work_for_known_and_unknown(url: str, hasher: Mock) -> None:
    with with_closed_mail(url) as (client, auth, sender):
        member(auth, "ada"), member(auth, "eve", verified=False)
        costs = {}
        for turn in ("first", "second"):
            for name in ("ada", "eve", "bob"):
                hashed = hasher.hash.call_count
                with capture_sql(auth.engine) as statements:
                    answer = client.post("/api/auth/sign-up/email", json=body(f"{name}@example.com"))
                sql = verbs(statements)
                wrote = {"INSERT", "UPDATE"} & set(sql) != set()
                costs.setdefault(turn, set()).add(
                    (answer.status_code, hasher.hash.call_count - hashed, len(sql), sql.count("COMMIT"), wrote)
                )
        assert costs["first"] == costs["second"] == {(200, 1, 10, 2, True)}  # whatever is there, and however often
        assert sender.mails == []  # no answer waited for one


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_a_refusal_says_nothing_of_the_address(auth_service: Start, hasher: Mock) -> None:
    service = auth_service(rate_limits=False)
    member(service.auth)
    for wrong in ({"password": "short"}, {"password": "x" * 200}, {"name": 1}, {"callbackURL": "http://evil.example"}):
        with capture_sql(service.auth.engine) as statements:
            known, unknown = (service.post("/sign-up/email", body(f"{n}@example.com", **wrong)) for n in ("ada", "bob"))
        assert known.status_code in (400, 403)
        assert (known.status_code, known.text) == (unknown.status_code, unknown.text)
        assert verbs(statements) == []
    assert hasher.hash.call_count == 0


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_sending_again_looks_nothing_up_before_the_answer(url: str) -> None:
    with with_closed_mail(url) as (client, auth, sender):
        member(auth, "ada"), member(auth, "eve", verified=False)
        auth.postbox.submit(lambda: sender.open.wait(60))  # what is done after an answer waits here
        answers = []
        with capture_sql(auth.engine) as statements:
            for name in ("ada", "eve", "nobody"):
                sent = {"email": f"{name}@example.com"}
                answers.append(client.post("/api/auth/send-verification-email", json=sent))
            assert verbs(statements) == []
        assert {(str(seen(answer)), answer.text) for answer in answers} == {(str(seen(answers[0])), '{"status":true}')}
        sender.open.set()
        assert auth.postbox.drain()
        assert [(mail.to, mail.type) for mail in sender.mails] == [("eve@example.com", VERIFY)]


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_the_owner_of_a_taken_address_is_told_by_mail(auth_service: Start) -> None:
    service = auth_service()
    member(service.auth)
    service.post("/sign-up/email", body("Ada@Example.com"))
    (mail,) = service.mails()
    assert (mail.to, mail.type, mail.token, mail.url) == ("ada@example.com", "notice", None, None)
    assert "has an account" in mail.text
    assert ORIGIN in mail.text
    assert count(service.auth, User) == 1


def test_a_sign_up_with_a_taken_address_changes_nothing_of_the_account(auth_service: Start) -> None:
    service = auth_service()
    ada = member(service.auth)
    service.clock.advance(MINUTE)
    service.post("/sign-up/email", body("ada@example.com", name="Somebody else"))

    def read(db: Any) -> tuple[str, str | None, str | None, bool]:
        user, account = db.get(User, ada.id), db.scalars(sa.select(Account)).one()
        return user.name, user.image, account.password_hash, user.updated_at == ada.updated_at

    assert service.auth.transact(read) == ("ada", None, "a hash", True)


def test_without_verification_the_answer_tells_and_nobody_is_written_to(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    assert service.sign_up().json()["token"]
    again = service.sign_up(client=service.another_client())
    assert (again.status_code, again.json()["code"]) == (422, "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL")
    assert links(service) == [VERIFY]
    assert "set-cookie" not in again.headers
    assert count(service.auth, UserSession) == 1


def test_who_is_signed_in_is_told_about_their_own_address_only(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    service.sign_up()
    member(service.auth, "bob", verified=False)
    other = service.post("/send-verification-email", {"email": "bob@example.com"})
    assert (other.status_code, other.json()["code"]) == (400, "EMAIL_MISMATCH")
    assert service.post("/send-verification-email", {"email": "ADA@example.com"}).json() == {"status": True}
    assert links(service) == [VERIFY, VERIFY]
    click(service, link_of(service))
    done = service.post("/send-verification-email", {"email": "ada@example.com"})
    assert (done.status_code, done.json()["code"]) == (400, "EMAIL_ALREADY_VERIFIED")
    assert links(service, "bob@example.com") == []


# ---------------------------------------------------------------- what a stranger causes


def test_a_mail_has_no_word_of_who_asked_for_it(auth_service: Start) -> None:
    service = auth_service(rate_limits=False)
    words = "Your account is locked http://evil.example"
    sent = [
        body("bob@example.com"),
        body("ada+visit.evil.example@example.com", name=words, image="http://evil.example"),
    ]
    for each in (*sent, *sent):  # a link, then a notice
        assert service.post("/sign-up/email", each).status_code == 200
    mails = service.mails()
    assert [mail.type for mail in mails] == [VERIFY, VERIFY, "notice", "notice"]
    for plain, hostile in (mails[:2], mails[2:]):
        assert plain.subject == hostile.subject
        assert plain.text.replace(plain.token or "-", "-") == hostile.text.replace(hostile.token or "-", "-")
        assert "evil" not in hostile.text


@ON_DUCKDB
def test_a_link_begins_with_the_setting_and_not_with_the_host_that_was_sent(auth_service: Start) -> None:
    service = auth_service(rate_limits=False)
    service.post("/sign-up/email", body("ada@example.com", callbackURL=""), headers={"host": "evil.example"})
    service.post(
        "/send-verification-email",
        {"email": "ada@example.com", "callbackURL": "/a?b=1"},
        headers={"host": "evil.example", "x-forwarded-host": "evil.example"},
    )
    first, second = (mail.url or "" for mail in service.mails())
    assert first.startswith(f"{ORIGIN}/api/auth/verify-email?token=link_")
    assert first.endswith("&callbackURL=%2F")
    assert second.startswith(ORIGIN)
    assert second.endswith("&callbackURL=%2Fa%3Fb%3D1")


@ON_DUCKDB
def test_the_pause_between_mails_doubles_and_never_outlives_a_link(auth_service: Start) -> None:
    auth = auth_service(verification_lifetime=600).auth
    eve, clock, sent = member(auth, "eve", verified=False), auth.clock, []
    for minute in range(60):
        if auth.transact(lambda db: due_verification(db, auth, eve, "")) is not None:
            sent.append(minute)
        live = count(auth, Verification, Verification.expires_at > clock.now())
        assert live, "asked in vain, and no link works"
        clock.advance(MINUTE)
    assert sent == [0, 1, 3, 7, 15, 25, 35, 45, 55]  # 1, 2, 4, 8 minutes, then the lifetime
    clock.advance(timedelta(days=1))
    assert auth.transact(lambda db: due_verification(db, auth, eve, "")) is not None
    clock.advance(MINUTE)
    assert auth.transact(lambda db: due_verification(db, auth, eve, "")) is not None, "a new day begins at one minute"


@ON_DUCKDB
def test_notices_wait_for_links_but_links_do_not_wait_for_notices(auth_service: Start) -> None:
    auth = auth_service().auth
    eve = member(auth, "eve", verified=False)
    assert auth.transact(lambda db: due_notice(db, auth, eve)) is not None
    assert auth.transact(lambda db: due_notice(db, auth, eve)) is None
    assert auth.transact(lambda db: due_verification(db, auth, eve, "")) is not None, (
        "somebody else's notice kept it back"
    )
    auth.clock.advance(MINUTE)
    assert auth.transact(lambda db: due_notice(db, auth, eve)) is None
    assert count(auth, Verification, Verification.purpose == NOTICE) == 1


@ON_DUCKDB
def test_many_mails_in_the_books_are_no_overflow(auth_service: Start) -> None:
    service = auth_service()
    eve = member(service.auth, "eve", verified=False)
    service.auth.transact(lambda db: [new_link(db, service.auth, eve, VERIFY, eve.email, 60) for _ in range(60)])
    service.clock.advance(timedelta(hours=1))
    assert service.auth.transact(lambda db: due_verification(db, service.auth, eve, "")) is not None


@pytest.mark.parametrize("taken", [False, True])
def test_fifty_sign_ups_with_one_address_make_one_account_and_one_mail(auth_service: Start, taken: bool) -> None:
    service = auth_service()
    if taken:
        member(service.auth)
    answers = at_once(
        service, 50, lambda client, n: client.post("/api/auth/sign-up/email", json=body("ADA@example.com"))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert (count(service.auth, User), count(service.auth, Account), count(service.auth, UserSession)) == (1, 1, 0)
    assert links(service) == (["notice"] if taken else [VERIFY])


def at_once(service: Service, number: int, call: Callable[[httpx.Client, int], httpx.Response]) -> list[httpx.Response]:
    """`number` requests, of which the first eight start together. Past the limits for one network address."""
    gate, app = (
        threading.Barrier(8),
        auth_app(service.auth, [session_routes, sign_up_routes, link_routes], [check_cross_site]),
    )

    def one(n: int) -> httpx.Response:
        if n < 8:
            gate.wait(30)
        with httpx.Client(base_url=client.base_url, trust_env=False, verify=False, timeout=30) as browser:
            return call(browser, n)

    with serving(app) as client, ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, range(number)))


def test_fifty_sign_ups_with_one_address_have_one_winner_where_nothing_is_verified(auth_service: Start) -> None:
    service = auth_service(require_email_verification=False)
    answers = at_once(
        service, 50, lambda client, n: client.post("/api/auth/sign-up/email", json=body("ada@example.com"))
    )
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(422)) == (1, 49)
    assert (count(service.auth, User), count(service.auth, Account), count(service.auth, UserSession)) == (1, 1, 1)
    assert links(service) == [VERIFY]


def test_fifty_at_once_who_ask_for_a_link_again_cause_one_mail(auth_service: Start) -> None:
    service = auth_service()
    eve, gate = member(service.auth, "eve", verified=False), threading.Barrier(8)

    def ask(number: int) -> bool:
        if number < 8:
            gate.wait(30)
        return service.auth.transact(lambda db: due_verification(db, service.auth, eve, "")) is not None

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(50))) == 1


# ---------------------------------------------------------------- links


@pytest.mark.proves("ASVS 6.4.1", "NIST 800-63B-4 3.1.3.1")
def test_asvs_6_4_1_a_link_is_random_expires_and_is_stored_as_a_hash(auth_service: Start) -> None:
    service = auth_service(rate_limits=False, verification_lifetime=120)
    service.sign_up()
    service.post("/send-verification-email", {"email": "ada@example.com"})
    first, second = (mail.token or "" for mail in service.mails())
    assert first != second
    assert is_token(first, "link")
    assert is_token(second, "link")
    stored = service.auth.transact(lambda db: set(db.scalars(sa.select(Verification.token_hash))))
    assert stored == {hash_token(first), hash_token(second)}
    path = link_of(service)
    service.clock.advance(timedelta(seconds=120))
    late = click(service, path)
    assert (late.status_code, late.headers["location"]) == (302, "/?error=TOKEN_EXPIRED")
    program = click(service, f"/api/auth/verify-email?token={second}")
    assert (program.status_code, program.json()["code"]) == (401, "TOKEN_EXPIRED")
    assert count(service.auth, User, User.email_verified) == 0
    assert service.sign_in().status_code == 401


@pytest.mark.proves("ASVS 6.3.6", "NIST 800-63B-4 3.1.3.1")
def test_asvs_6_3_6_a_link_proves_the_address_and_signs_nobody_in(auth_service: Start) -> None:
    service = auth_service()
    service.sign_up()
    done = click(service, link_of(service))
    assert "set-cookie" not in done.headers
    assert service.whoami() is None
    assert count(service.auth, UserSession) == 0
    assert service.sign_in().status_code == 200


@pytest.mark.parametrize("signs_in", [False, True])
def test_a_second_click_is_no_error_and_changes_nothing(auth_service: Start, signs_in: bool) -> None:
    service = auth_service(sign_in_after_verification=signs_in, rate_limits=False)
    service.sign_up()
    service.post("/send-verification-email", {"email": "ada@example.com"})
    older, newer = (f"/api/auth/verify-email?token={mail.token}" for mail in service.mails())
    service.clock.advance(MINUTE)
    first = click(service, f"{older}&callbackURL=%2Fwelcome%3Fa%3D1", service.another_client())
    assert (first.status_code, first.headers["location"]) == (302, "/welcome?a=1")
    assert first.headers["referrer-policy"] == "no-referrer"
    assert ("set-cookie" in first.headers) == signs_in
    after = rows(service.auth)
    service.clock.advance(MINUTE)
    for again in (older, newer):
        answer = click(service, again, service.another_client())
        assert (answer.status_code, answer.json()) == (200, {"status": True, "user": None})
        assert "set-cookie" not in answer.headers
    assert rows(service.auth) == after


def rows(auth: Auth) -> list[Any]:
    return auth.transact(
        lambda db: [db.execute(sa.select(m.__table__)).all() for m in (User, UserSession, Verification)]
    )


def test_many_clicks_at_once_open_one_session(auth_service: Start) -> None:
    service = auth_service(sign_in_after_verification=True)
    service.sign_up()
    path = link_of(service)
    answers = at_once(service, 16, lambda client, n: client.get(path, follow_redirects=False))
    assert {(answer.status_code, answer.headers["location"]) for answer in answers} == {(302, "/")}
    assert sum("set-cookie" in answer.headers for answer in answers) == 1
    assert count(service.auth, UserSession) == 1


def test_a_link_that_proves_an_address_proves_no_other(auth_service: Start) -> None:
    service = auth_service()
    service.sign_up()
    path = link_of(service)
    service.auth.transact(lambda db: db.execute(sa.update(User).values(email="new@example.com")))
    answer = click(service, path)
    assert answer.headers["location"] == "/?error=INVALID_TOKEN"
    assert count(service.auth, User, User.email_verified) == 0


def test_a_link_dies_with_its_user_and_one_of_another_purpose_opens_nothing(auth_service: Start) -> None:
    service = auth_service()
    bob = member(service.auth, "bob", verified=False)
    for purpose in (NOTICE, "reset-password"):
        token = service.auth.transact(lambda db, p=purpose: new_link(db, service.auth, bob, p, bob.email, 3600))
        answer = click(service, f"/api/auth/verify-email?token={token}")
        assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_TOKEN")
    token = service.auth.transact(lambda db: new_link(db, service.auth, bob, VERIFY, bob.email, 3600))
    service.auth.transact(lambda db: delete_user(db, bob.id))
    assert click(service, f"/api/auth/verify-email?token={token}").json()["code"] == "INVALID_TOKEN"


def test_a_foreign_destination_is_refused_and_the_link_still_works(auth_service: Start) -> None:
    service = auth_service()
    service.sign_up()
    path = link_of(service).partition("&")[0]
    foreign = click(service, f"{path}&callbackURL=http%3A%2F%2Fevil.example")
    assert (foreign.status_code, foreign.json()["code"]) == (403, "INVALID_CALLBACK_URL")
    assert count(service.auth, User, User.email_verified) == 0
    assert click(service, path).status_code == 200
    assert count(service.auth, User, User.email_verified) == 1


@ON_DUCKDB
def test_a_head_request_and_a_missing_token_change_nothing(auth_service: Start) -> None:
    service = auth_service()
    service.sign_up()
    assert service.client.head(link_of(service)).status_code == 404
    missing = click(service, "/api/auth/verify-email")
    assert (missing.status_code, missing.json()["code"]) == (400, "VALIDATION_ERROR")
    assert missing.json()["message"].startswith("[query.token] ")
    assert count(service.auth, User, User.email_verified) == 0


@pytest.mark.parametrize(
    ("url_before", "after"),
    [
        ("/a", "/a?error=X"), ("/a?b=1%20c", "/a?b=1%20c&error=X"), ("/a?b#c", "/a?b&error=X#c"),
        ("/a#", "/a?error=X#"),
        ("http://app.example", "http://app.example/?error=X"), ("http://app.example?q", "http://app.example?q&error=X"),
    ],
)  # fmt: skip
def test_a_destination_keeps_what_it_has(url_before: str, after: str) -> None:
    assert with_query(url_before, error="X") == after


# ---------------------------------------------------------------- the rest


@ON_DUCKDB
@pytest.mark.parametrize(
    "email", ["a,b@example.com", '"a b"@example.com', "a@b", "a@exa<mple.com", "ä" * 200 + "@example.com"]
)
def test_an_address_that_cannot_be_written_to_is_refused(auth_service: Start, email: str) -> None:
    service = auth_service(rate_limits=False)
    for path in ("/sign-up/email", "/send-verification-email"):
        answer = service.post(path, body(email))
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
        assert answer.json()["message"] == "[body.email] Invalid email address"


def test_the_address_is_stored_in_its_normal_form_and_the_name_as_it_came(auth_service: Start) -> None:
    service = auth_service()
    answer = service.post("/sign-up/email", body(" Ada@Example.COM ", name=" Ada  L. "))
    assert answer.json()["user"]["email"] == "ada@example.com"
    stored = service.auth.transact(lambda db: db.execute(sa.select(User.name, User.email, User.image)).one())
    assert tuple(stored) == (" Ada  L. ", "ada@example.com", "/m.png")


def test_the_route_that_hashes_waits_for_its_turn() -> None:
    (route,) = (route for route in sign_up_routes.routes if getattr(route, "path", "") == "/api/auth/sign-up/email")
    assert HASHING_TURN in route.dependencies


def test_who_loses_the_race_after_the_look_gets_the_same_answer(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's insert commits between the look and ours."""
    service, real, raced = auth_service(), sign_up.register, []

    def late(db: Any, auth: Auth, *given: Any) -> User:
        if not raced:
            raced.append(auth.transact(lambda other: real(other, auth, "Quicker", *given[1:])))
        return real(db, auth, *given)

    monkeypatch.setattr(sign_up, "register", late)
    answer = service.post("/sign-up/email", body("ada@example.com"))
    assert (answer.status_code, answer.json()["token"], answer.json()["user"]["name"]) == (200, None, "Mallory")
    assert service.auth.transact(lambda db: db.scalars(sa.select(User.name)).all()) == ["Quicker"]
    assert links(service) == ["notice"]


def test_registering_twice_raises(auth_service: Start) -> None:
    auth = auth_service().auth
    member(auth)
    with pytest.raises(EmailTaken):
        member(auth)
    assert count(auth, Account) == 1


@ON_DUCKDB
def test_work_that_fails_after_the_answer_is_logged_and_does_not_stop_the_queue(
    auth_service: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = auth_service()

    def fail(db: Any) -> None:
        raise RuntimeError("no database")

    after_the_answer(service.auth, fail)
    after_the_answer(service.auth, lambda db: Mail("ada@example.com", "notice", "s", "t"))
    assert service.auth.postbox.drain(10)
    assert [mail.to for mail in service.mails()] == ["ada@example.com"]
    assert "in the background: RuntimeError" in caplog.text
    service.auth.postbox.close()
    with pytest.raises(AuthError, match="Service Unavailable") as error:
        after_the_answer(service.auth, lambda db: Mail("ada@example.com", "notice", "s", "t"))
    assert (error.value.status, error.value.headers) == (503, {"Retry-After": "60"})


@pytest.mark.proves("ASVS 6.3.8")
@pytest.mark.parametrize("lane", ["mails", "calls"])
def test_a_full_queue_is_said_to_everybody_alike(auth_service: Start, lane: str) -> None:
    """Swallowed, somebody waits for a mail that nobody will send; said to some only, it tells who has an account."""
    service = auth_service()
    member(service.auth)
    postbox, go_on = service.auth.postbox, threading.Event()
    if lane == "mails":
        service.sender.send = lambda mail: go_on.wait(60)  # type: ignore[method-assign,assignment,return-value]
        for number in range(postbox.mails.capacity):
            postbox.post(Mail(f"eve@{number}.example", "notice", "s", "t"))
    else:
        while postbox.submit(lambda: go_on.wait(60)):
            pass
    asked = {
        "/request-password-reset": lambda email: {"email": email},
        "/send-verification-email": lambda email: {"email": email},
    } | ({"/sign-up/email": body} if lane == "mails" else {})
    for path, sent in asked.items():
        known, unknown = (service.post(path, sent(f"{name}@example.com")) for name in ("ada", "nobody"))
        assert (known.status_code, known.headers["retry-after"]) == (503, "60"), path
        assert (known.status_code, known.content, seen(known)) == (unknown.status_code, unknown.content, seen(unknown))
        assert known.json()["code"] == "SERVICE_UNAVAILABLE"
    go_on.set()


@ON_DUCKDB
def test_texts_of_a_change_and_of_a_sign_up_differ(auth_service: Start) -> None:
    auth = auth_service().auth
    eve = new_user(auth, "Eve", "eve@example.com", None)
    own, other = (verification_mail(auth, eve, to, "T", "") for to in ("eve@example.com", "new@example.com"))
    assert "signed up" in own.text
    assert "signed up" not in other.text
    assert other.to == "new@example.com"
    assert "eve" not in other.text.lower()


def test_a_link_arrives_by_smtp_and_works(url: str) -> None:
    engine, clock = make_engine(url), SystemClock()
    make_tables(engine)
    with mail_server() as mails:
        settings = Settings(environment="test", database_url=url, mail_from="pantry@pantry.example")
        postbox = Postbox(SmtpSender(mails.url, settings.mail_from, clock))
        auth = Auth(settings, engine, clock, Identifiers(clock), postbox)
        with serving(auth_app(auth, [session_routes, sign_up_routes, link_routes], [check_cross_site])) as client:
            assert client.post("/api/auth/sign-up/email", json=body("ada@example.com")).status_code == 200
            assert postbox.close()
            (message,) = mails.inbox("ada@example.com")
            (found,) = re.findall(r"^http://localhost:8000(/\S+)$", message.get_content(), re.M)
            assert client.get(found).headers["location"] == "/welcome"
        assert count(auth, User, User.email_verified) == 1
    engine.dispose()


def test_what_is_exported_for_other_pages_says_what_is_wrong() -> None:
    from pydantic import TypeAdapter, ValidationError

    assert TypeAdapter(Email).validate_python("A@B.example") == "a@b.example"
    with pytest.raises(ValidationError, match="Invalid email address"):
        TypeAdapter(Email).validate_python("no address")
    assert list(SignUp.model_fields) == ["name", "email", "password", "image", "callbackURL", "rememberMe"]
