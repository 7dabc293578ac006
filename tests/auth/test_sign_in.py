"""Sign-in: how many guesses are compared, who is kept out, and what the answers tell; on both engines."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from fractions import Fraction
from typing import Any

import argon2
import httpx
import pytest
import sqlalchemy as sa
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import orm

from playbook.auth import password_hashing, password_rules
from playbook.auth.password_hashing import Verdict
from playbook.auth.sign_in import KNOWN_FOR, PER_ACCOUNT, PER_NETWORK, is_known
from playbook.auth.throttling import Allowance, forget, give_back, key_hash, network_of, throttles
from playbook.foundations.engines import make_engine
from playbook.kit.stage import capture_sql
from playbook.pantry.auth import account_changes, password_reset, sign_in
from playbook.pantry.auth.sign_in import MOST_COUNTS, AddressLimits, prove, recognize, spend
from playbook.pantry.auth.sign_up import register
from playbook.pantry.auth.tables import UserSession
from playbook.pantry.auth.wire import Auth, AuthError
from playbook.schema.identity import Account, User
from tests.auth.conftest import PASSWORD, Service

ADA, BOB, NOBODY = "ada@example.com", "bob@example.com", "nobody@example.com"
HOME, ROAD, MALLORY = "192.0.2.7", "198.51.100.9", "203.0.113.66"
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
CHEAP = argon2.PasswordHasher(1, 64, 1)
Start = Callable[..., Service]


class Comparisons:
    """Counts the passwords that are compared, against hashes that cost nothing."""

    def __init__(self) -> None:
        self.count, self.before = 0, lambda: None

    def __call__(self, password: str, stored: str | None) -> Verdict:
        self.count += 1
        self.before()
        return password_hashing.check_password(password, stored or CHEAP_NOBODY)


CHEAP_NOBODY = CHEAP.hash("nobody has this")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    counting = Comparisons()
    monkeypatch.setattr(sign_in, "check_password", counting)
    monkeypatch.setattr(password_hashing, "ARGON2", CHEAP)
    return counting


@pytest.fixture
def service(auth_service: Start, compared: Comparisons) -> Service:
    """Ada has an account; her address needs no verification."""
    service = auth_service(require_email_verification=False)
    join(service)
    return service


def join(service: Service, email: str = ADA, password: str = PASSWORD) -> None:
    stored = CHEAP.hash(password)
    service.auth.transact(lambda db: register(db, service.auth, "Ada", email, None, stored))


def enter(
    service: Service, email: str = ADA, password: str = PASSWORD, address: str = MALLORY, client: Any = None
) -> httpx.Response:
    """A sign-in over HTTP from `address`: a proxy on loopback says so, as uvicorn allows it to."""
    body = {"email": email, "password": password}
    return service.post("/sign-in/email", body, client, headers={"x-forwarded-for": address})


def attempt(auth: Auth, email: str, password: str, address: str) -> int:
    """The status of a sign-in without HTTP, and without the limits per address."""
    try:
        prove(auth, email, password, address)
    except AuthError as error:
        return error.status
    return 200


def strange(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def status(auth: Auth, allowance: Allowance, *key: str) -> int:
    try:
        spend(auth, allowance, *key)
    except AuthError as error:
        return error.status
    return 200


# ---------------------------------------------------------------- the allowance


@settings(
    max_examples=15, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    burst=st.integers(1, 4),
    steps=st.lists(st.one_of(st.just("try"), st.just("right"), st.integers(1, 150)), min_size=8, max_size=25),
)
def test_an_allowance_is_a_bucket_that_fills_again(service: Service, burst: int, steps: list[Any]) -> None:
    """The model: `burst` tokens, one more a minute, never more than `burst`; an attempt takes one if one is there."""
    auth, allowance, key = service.auth, Allowance(burst, MINUTE), str(service.auth.ids.new())
    tokens = Fraction(burst)
    for step in steps:
        if isinstance(step, int):
            service.clock.advance(timedelta(seconds=step))
            tokens = min(Fraction(burst), tokens + Fraction(step, 60))
        else:
            granted = status(auth, allowance, key) == 200
            assert granted == (tokens >= 1)
            tokens -= granted
            if step == "right" and granted:
                auth.transact(lambda db: give_back(db, allowance, (key,)))
                tokens += 1


def test_what_is_given_back_is_never_more_than_the_burst(service: Service) -> None:
    auth = service.auth
    for _ in range(5):
        auth.transact(lambda db: give_back(db, PER_NETWORK, ("k",)))  # nothing was taken
        status(auth, PER_NETWORK, "k")
        auth.transact(lambda db: give_back(db, PER_NETWORK, ("k",)))
        auth.transact(lambda db: give_back(db, PER_NETWORK, ("k",)))
    assert [status(auth, PER_NETWORK, "k") for _ in range(6)] == [200] * 5 + [429]


def test_the_wait_is_told_to_the_second(service: Service) -> None:
    auth, allowance = service.auth, Allowance(2, timedelta(seconds=90))
    assert [status(auth, allowance, "k") for _ in range(2)] == [200, 200]
    service.clock.advance(timedelta(seconds=29.5))
    with pytest.raises(AuthError) as refused:
        spend(auth, allowance, "k")
    assert refused.value.headers == {"X-Retry-After": "61", "Retry-After": "61"}
    service.clock.advance(timedelta(seconds=60))
    assert status(auth, allowance, "k") == 429
    service.clock.advance(timedelta(seconds=1))
    assert status(auth, allowance, "k") == 200


def test_keys_do_not_meet(service: Service) -> None:
    one = Allowance(1, MINUTE)
    keys = [("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", "b", "")]
    assert [status(service.auth, one, *key) for key in keys + keys] == [200] * 5 + [429] * 5
    service.auth.transact(lambda db: forget(db, ("a",), ("b", "a")))
    assert [status(service.auth, one, *key) for key in keys] == [200, 429, 429, 200, 429]


@pytest.mark.proves("ASVS 6.3.1")
@pytest.mark.parametrize("burst", [5, 1000])
def test_asvs_6_3_1_fifty_at_once_get_what_is_allowed_and_no_error(service: Service, url: str, burst: int) -> None:
    """On two engines, as if in two processes. With 1,000 allowed every one is granted: no conflict comes through."""
    other = make_engine(url)
    auths = [service.auth, Auth(service.auth.settings, other, *list(vars(service.auth).values())[2:])]
    answers = at_once(50, lambda n: status(auths[n % 2], Allowance(burst, MINUTE), "k"))
    assert sorted(answers) == [200] * min(burst, 50) + [429] * max(0, 50 - burst)
    row = sa.select(throttles.c.whole_at).where(throttles.c.key_hash == key_hash(("k",)))
    assert service.auth.transact(lambda db: db.scalar(row)) == service.clock.now() + MINUTE * min(burst, 50)
    other.dispose()


def test_give_back_and_spend_at_once_lose_nothing(service: Service) -> None:
    auth, allowance = service.auth, Allowance(1000, MINUTE)

    def work(number: int) -> None:
        spend(auth, allowance, "k")
        if number % 2:
            auth.transact(lambda db: give_back(db, allowance, ("k",)))

    at_once(20, work)
    assert auth.transact(lambda db: db.scalar(sa.select(throttles.c.whole_at))) == service.clock.now() + 10 * MINUTE


# ---------------------------------------------------------------- guessing


@pytest.mark.proves("ASVS 6.3.1")
def test_asvs_6_3_1_one_address_compares_five_and_then_one_a_minute(service: Service, compared: Comparisons) -> None:
    for minute in range(10):
        for second in (0, 20, 40):
            service.clock.advance(timedelta(seconds=20))
            enter(service, password=f"guess {minute} {second}")
    assert compared.count <= 5 + 10
    assert compared.count >= 5 + 8, "and the allowance comes back"


@pytest.mark.proves("ASVS 6.3.1")
def test_asvs_6_3_1_sixty_guesses_at_once_from_sixty_addresses(service: Service, compared: Comparisons) -> None:
    def guess(number: int) -> int:
        with service.another_client() as client:
            return enter(service, password=f"guess {number}", address=strange(number), client=client).status_code

    answers = at_once(60, guess)
    assert compared.count == answers.count(401) == PER_ACCOUNT.burst
    assert answers.count(429) == 60 - PER_ACCOUNT.burst, "and no 503"


@pytest.mark.proves("NIST 800-63B-4 3.2.2", "ASVS 6.3.1")
def test_nist_3_2_2_at_most_a_hundred_failures_while_nobody_signs_in(service: Service, compared: Comparisons) -> None:
    """Any number of networks, for fifty weeks; how often they come changes nothing once the burst is used up."""
    number = 0
    for week in range(50):
        for _ in range(PER_ACCOUNT.burst + 2 if week == 0 else 2):
            number += 1
            attempt(service.auth, ADA, f"guess {number}", strange(number))
        service.clock.advance(timedelta(weeks=1))
    assert 95 <= compared.count <= 100


@pytest.mark.proves("NIST 800-63B-4 3.2.2")
def test_nist_3_2_2_after_a_sign_in_earlier_failures_from_there_do_not_count(service: Service) -> None:
    for _ in range(4):
        for _ in range(4):
            assert attempt(service.auth, ADA, "mistyped", HOME) == 401
        service.clock.advance(timedelta(seconds=11))
        assert enter(service, address=HOME).status_code == 200
    assert attempt(service.auth, ADA, "mistyped", HOME) == 401


def test_a_right_password_gives_its_attempt_back(service: Service) -> None:
    for _ in range(15):
        service.clock.advance(timedelta(seconds=10))  # or the limit per address is met first
        assert enter(service, address=HOME).status_code == 200
    rows = service.auth.transact(lambda db: db.scalars(sa.select(throttles.c.whole_at)).all())
    assert len([whole_at for whole_at in rows if whole_at > service.clock.now()]) == 1, "only that the network is known"


def test_a_right_password_gives_it_back_before_the_address_is_verified(auth_service: Start, compared: Any) -> None:
    """As with Better Auth, which says so."""
    service = auth_service(strict_proof=False)
    join(service)
    for number in range(8):
        service.clock.advance(timedelta(seconds=10))
        assert enter(service, address=ROAD).json()["code"] == "EMAIL_NOT_VERIFIED", number
    known = service.auth.transact(lambda db: is_known(db, ADA, ROAD, service.clock.now()))
    assert not known, "nobody has signed in"


def test_before_the_address_is_proven_a_right_password_counts_as_a_wrong_one(
    auth_service: Start, compared: Comparisons
) -> None:
    """Or the number of refusals would say that the password is right."""
    service, seen = auth_service(), {}
    join(service)
    for email in (ADA, NOBODY):
        for _ in range(7):
            service.clock.advance(timedelta(seconds=5))
            answer = enter(service, email)
            seen.setdefault(email, []).append((answer.status_code, answer.text, answer.headers.get("retry-after")))
        service.clock.advance(timedelta(hours=1))
    assert seen[ADA] == seen[NOBODY]
    assert {status for status, *_ in seen[ADA]} == {401, 429}


# ---------------------------------------------------------------- nobody is locked out


@pytest.mark.proves("ASVS 6.1.1", "NIST 800-63B-4 3.2.2")
def test_asvs_6_1_1_ada_signs_in_from_a_known_network_during_the_attack(service: Service) -> None:
    """Also after she has signed out everywhere: that a network is known outlives the session."""
    assert enter(service, address=HOME).status_code == 200
    service.post("/revoke-sessions")
    for number in range(60):
        attempt(service.auth, ADA, f"guess {number}", strange(number))
    service.clock.advance(KNOWN_FOR - DAY)
    for number in range(20):
        attempt(service.auth, ADA, f"guess {number}", strange(number))
    assert enter(service, address=ROAD).status_code == 429
    assert enter(service, address=HOME).status_code == 200
    service.clock.advance(KNOWN_FOR - DAY)
    assert enter(service, address=HOME).status_code == 200, "known since the last sign-in, not since the first"


def test_a_network_is_forgotten_after_a_while(service: Service) -> None:
    auth = service.auth
    enter(service, address=HOME)
    service.clock.advance(KNOWN_FOR - timedelta(seconds=1))
    assert auth.transact(lambda db: is_known(db, ADA, HOME, service.clock.now()))
    service.clock.advance(timedelta(seconds=1))
    assert not auth.transact(lambda db: is_known(db, ADA, HOME, service.clock.now()))


@pytest.mark.proves("ASVS 6.1.1")
def test_asvs_6_1_1_who_has_reset_the_password_signs_in_from_there(service: Service) -> None:
    """What a reset calls: the network of the mailed link's reader is known, however busy the strangers are."""
    for number in range(60):
        attempt(service.auth, ADA, f"guess {number}", strange(number))
    assert enter(service, address=ROAD).status_code == 429
    service.auth.transact(lambda db: recognize(db, service.auth, ADA, ROAD))
    assert attempt(service.auth, ADA, "another guess", strange(99)) == 429, "strangers notice nothing"
    assert enter(service, address=ROAD).status_code == 200


@pytest.mark.proves("ASVS 6.1.1", "NIST 800-63B-4 3.2.2")
def test_asvs_6_1_1_a_reset_lets_the_owner_in_while_strangers_are_refused(service: Service) -> None:
    """The whole way over HTTP, on a new phone, while the guessing goes on."""
    for number in range(60):
        attempt(service.auth, ADA, f"guess {number}", strange(number))
    road = {"headers": {"x-forwarded-for": ROAD}}
    assert enter(service, address=ROAD).status_code == 429
    service.post("/request-password-reset", {"email": ADA, "redirectTo": "/reset"}, **road)
    token = next(mail.token for mail in service.mails() if mail.type == "reset-password")
    new = "a slow train rides the violet anchor"
    assert service.post("/reset-password", {"newPassword": new, "token": token}, **road).status_code == 200
    for number in range(100, 160):
        assert attempt(service.auth, ADA, f"guess {number}", strange(number)) == 429
    assert enter(service, password=new, address=ROAD).status_code == 200


def test_who_shares_a_known_network_cannot_guess_without_end(service: Service, compared: Comparisons) -> None:
    enter(service, address=HOME)
    compared.count = 0
    for _ in range(60):
        service.clock.advance(10 * MINUTE)
        attempt(service.auth, ADA, "a guess", HOME)
    assert compared.count == PER_ACCOUNT.burst
    assert attempt(service.auth, ADA, PASSWORD, ROAD) == 200, "nor keep Ada out elsewhere"


def test_an_account_is_not_disturbed_by_guesses_at_another(service: Service) -> None:
    join(service, BOB)
    for number in range(60):
        attempt(service.auth, BOB, f"guess {number}", strange(number))
    assert attempt(service.auth, ADA, PASSWORD, ROAD) == 200


# ---------------------------------------------------------------- what the answers tell


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_known_and_unknown_addresses_get_the_same_answers_for_the_same_work(
    service: Service, compared: Comparisons
) -> None:
    """Until the network's allowance is used up, until all strangers' is, and afterwards."""
    addresses = [MALLORY] * 7 + [strange(n) for n in range(50)] + [ROAD]

    def seen(email: str) -> Iterator[Any]:
        for address in addresses:
            service.clock.advance(timedelta(seconds=10 if address == MALLORY else 0))
            before = compared.count
            with capture_sql(service.auth.engine) as statements:
                answer = enter(service, email, "a guess", address)
            kept = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")}
            yield answer.status_code, kept, answer.content, [s.sql for s in statements], compared.count - before

    ada, nobody = list(seen(ADA)), list(seen(NOBODY))
    assert ada == nobody
    assert {answer[0] for answer in ada} == {401, 429}
    assert json.loads(ada[-1][2]) == {"message": "Too many requests. Please try again later."}


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_the_owners_sign_in_does_not_end_the_refusals(service: Service) -> None:
    enter(service, address=HOME)
    for number in range(60):
        attempt(service.auth, ADA, f"guess {number}", strange(number))
    assert enter(service, address=HOME).status_code == 200
    assert attempt(service.auth, ADA, "a guess", strange(99)) == 429


@pytest.mark.proves("ASVS 6.3.8")
def test_asvs_6_3_8_without_an_account_as_much_is_hashed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[str | None] = []
    monkeypatch.setattr(sign_in, "check_password", lambda _, stored: given_to.append(stored) or Verdict(False, False))
    assert (attempt(service.auth, NOBODY, "guess", HOME), attempt(service.auth, ADA, "guess", HOME)) == (401, 401)
    assert given_to[0] is None, "which check_password compares with the hash that nobody has"
    assert given_to[1] is not None


def test_nothing_that_was_typed_is_in_the_table(service: Service) -> None:
    enter(service, "my password@by.mistake", "guess", HOME)
    enter(service, address=HOME)
    rows = service.auth.transact(lambda db: db.scalars(sa.select(throttles.c.key_hash)).all())
    assert rows
    assert all(len(row) == 64 and set(row) <= set("0123456789abcdef") for row in rows)


def test_without_limits_nothing_is_counted(auth_service: Start, compared: Comparisons) -> None:
    service = auth_service(require_email_verification=False, rate_limits=False)
    join(service)
    assert {enter(service, password="a guess").status_code for _ in range(8)} == {401}
    assert enter(service).status_code == 200
    assert service.auth.transact(lambda db: db.scalars(sa.select(throttles.c.key_hash)).all()) == []


# ---------------------------------------------------------------- the session


def stored_hash(service: Service) -> str:
    return service.auth.transact(lambda db: db.scalar(sa.select(Account.password_hash)))


def sessions_of(service: Service) -> int:
    return service.auth.transact(lambda db: db.scalar(sa.select(sa.func.count()).select_from(UserSession)))


def change_hash(service: Service, value: str) -> None:
    service.auth.transact(lambda db: db.execute(sa.update(Account).values(password_hash=value)))


def test_a_sign_in_that_is_overtaken_by_a_password_change_opens_nothing(
    service: Service, compared: Comparisons
) -> None:
    changed = CHEAP.hash("another password altogether")
    for outdated in (False, True):
        if outdated:
            change_hash(service, argon2.PasswordHasher(1, 8, 1).hash(PASSWORD))
        compared.before = lambda: change_hash(service, changed)
        answer = enter(service)
        assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_EMAIL_OR_PASSWORD")
        assert (sessions_of(service), stored_hash(service)) == (0, changed), "and the new password stands"
        compared.before = lambda: None


@pytest.mark.proves("ASVS 7.4.3")
@pytest.mark.parametrize("way", ["change", "reset", "delete"])
def test_no_session_of_the_old_password_survives_a_change_that_began_before_it(
    auth_service: Start, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The transaction that ends the password has its snapshot already; then somebody signs in with the old one."""
    service = auth_service(require_email_verification=False, rate_limits=False)
    service.sign_up(ADA)
    steps = {"change": "replace_password", "reset": "use_link", "delete": "remove"}
    module, name = password_reset if way == "reset" else account_changes, steps[way]
    real, begun, signed_in = getattr(module, name), threading.Event(), threading.Event()

    def held(db: orm.Session, *rest: Any) -> Any:
        db.scalars(sa.select(UserSession.id)).all()
        begun.set()
        assert signed_in.wait(60)
        return real(db, *rest)

    monkeypatch.setattr(module, name, held)
    new = "another spoon sailed up the river"
    if way == "reset":
        service.post("/request-password-reset", {"email": ADA, "redirectTo": "/"})
        path, body = "/reset-password", {"newPassword": new, "token": service.mails()[-1].token}
    elif way == "change":
        path, body = "/change-password", {"newPassword": new, "currentPassword": PASSWORD}
    else:
        path, body = "/delete-user", {"password": PASSWORD}
    with service.another_client() as thief, ThreadPoolExecutor(1) as threads:
        changing = threads.submit(service.post, path, body)
        assert begun.wait(60)
        assert service.sign_in(ADA, thief).status_code == 200
        assert service.whoami(thief) is not None
        signed_in.set()
        assert changing.result().status_code == 200
        assert service.whoami(thief) is None
    assert sessions_of(service) == (way == "change"), "that of who changed it, and no row of anybody else's"


def test_an_outdated_hash_is_replaced_and_the_password_still_holds(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored_hash(service)
    monkeypatch.setattr(password_hashing, "PASSES", 2)  # from now on
    monkeypatch.setattr(password_hashing, "ARGON2", argon2.PasswordHasher(2, 64, 1))
    assert enter(service).status_code == 200
    after = stored_hash(service)
    assert after != before
    assert CHEAP.verify(after, PASSWORD)


def test_a_hash_that_is_current_stays(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "check_password", lambda *_: Verdict(True, False))
    before, updated = service.auth.transact(
        lambda db: db.execute(sa.select(Account.password_hash, Account.updated_at)).one()
    )
    service.clock.advance(MINUTE)
    assert enter(service).status_code == 200
    account = service.auth.transact(lambda db: db.scalar(sa.select(Account)))
    assert (account.password_hash, account.updated_at) == (before, updated)


def test_a_deleted_account_opens_nothing(service: Service, compared: Comparisons) -> None:
    compared.before = lambda: service.auth.transact(lambda db: db.execute(sa.delete(Account)))
    assert enter(service).status_code == 401
    assert sessions_of(service) == 0


@pytest.mark.proves("ASVS 7.2.4")
def test_asvs_7_2_4_a_sign_in_replaces_the_browsers_session(service: Service) -> None:
    enter(service)
    old = service.client.cookies["better-auth.session_token"]
    enter(service)
    assert service.client.cookies["better-auth.session_token"] != old
    assert sessions_of(service) == 1
    with service.another_client() as client:
        client.headers["cookie"] = f"better-auth.session_token={old}"
        assert service.whoami(client) is None


def test_what_a_sign_in_asks_of_the_database(service: Service) -> None:
    """Fifteen statements and more would eat into what a sign-in may cost beside its hash."""
    for _ in range(2):
        with capture_sql(service.auth.engine) as statements, service.another_client() as client:
            assert enter(service, address=HOME, client=client).status_code == 200
    said = [s.sql.split()[0] for s in statements if s.sql not in ("BEGIN", "COMMIT")]
    held = ["UPDATE"] if service.auth.engine.dialect.name == "duckdb" else []  # the user, who has no foreign key there
    counted = ["SELECT", "SELECT", "INSERT", "INSERT", "UPDATE", "DELETE"]
    assert said == [*counted, *held, "SELECT", "INSERT", "INSERT"], "the last SELECT: is there a second factor?"


@pytest.mark.parametrize("password", ["A\u030a" * 100, "x" * 128, "ﬃ" * 42])
def test_a_password_is_as_long_as_it_was_when_it_was_chosen(service: Service, password: str) -> None:
    """200 code points typed, 100 after NFKC; 42 typed, 126 after it."""
    password_rules.PasswordRules(listed=None).check(password)
    change_hash(service, password_hashing.hash_password(password))
    assert enter(service, password=password).status_code == 200


@pytest.mark.parametrize("password", ["x" * 129, "ﬃ" * 43, "x" * 100_000])
def test_a_longer_one_is_refused_before_anything_is_done(
    service: Service, compared: Comparisons, password: str
) -> None:
    with capture_sql(service.auth.engine) as statements:
        answer = enter(service, password=password)
    assert (answer.status_code, answer.json()["code"]) == (400, "PASSWORD_TOO_LONG")
    assert (compared.count, statements) == (0, [])


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::/64"),
        ("", ""), ("unix socket", "unix socket"), ("192.0.2.7, 10.0.0.1", "192.0.2.7, 10.0.0.1"),
    ],
)  # fmt: skip
def test_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_household_of_ipv6_is_one_network(service: Service, compared: Comparisons) -> None:
    for number in range(10):
        attempt(service.auth, ADA, "a guess", f"2001:db8:0:1:{number:x}::{number:x}")
    assert compared.count == PER_NETWORK.burst


def limits_of(service: Service) -> tuple[AddressLimits, Callable[..., int]]:
    limits = AddressLimits(service.auth)

    def take(address: str = HOME, path: str = "/api/auth/sign-in/email", after: float = 0) -> int:
        service.clock.advance(timedelta(seconds=after))
        try:
            limits.take(address, path)
        except AuthError as error:
            return int(error.headers["Retry-After"])
        return 0

    return limits, take


@pytest.mark.parametrize("url", ["duckdb"], indirect=True)
@pytest.mark.proves("ASVS 2.4.1")
def test_asvs_2_4_1_the_windows_slide_as_better_auths_do(service: Service) -> None:
    _, take = limits_of(service)
    assert [take() for _ in range(4)] == [0, 0, 0, 10]
    assert take(after=4.5) == 6, "rounded up"
    assert take(after=5.5) == 0, "ten seconds after the last that was allowed"
    assert [take(after=9) for _ in range(4)] == [0, 0, 1, 0], "each allowed one begins the window anew"
    assert [take(address=strange(n)) for n in range(3)] == [0, 0, 0]
    assert [take(path="/api/auth/sign-up/email") for _ in range(4)] == [0, 0, 0, 10], "a path has its own"
    assert [take(path="/api/auth/request-password-reset") for _ in range(4)] == [0, 0, 0, 60]
    assert [take(path="/api/auth/get-session") for _ in range(101)] == [0] * 100 + [10]
    assert [take(f"2001:db8::{n}", "/api/auth/change-email") for n in range(1, 5)] == [0, 0, 0, 10]


@pytest.mark.parametrize("url", ["duckdb"], indirect=True)
def test_the_counts_take_bounded_memory(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_COUNTS == 100_000
    monkeypatch.setattr(sign_in, "MOST_COUNTS", 50)
    limits, take = limits_of(service)
    assert [take() for _ in range(4)] == [0, 0, 0, 10]
    for number in range(200):
        take(strange(number))
        take()
    assert len(limits.seen) == 50
    assert take() == 10, "who keeps coming is not forgotten"


def test_the_limit_comes_first_and_a_token_in_the_path_makes_no_difference(service: Service) -> None:
    evil = {"origin": "https://evil.example", "x-forwarded-for": ROAD}
    answers = [service.post("/sign-in/email", {}, headers=evil).status_code for _ in range(4)]
    assert answers == [403, 403, 403, 429] or answers == [400, 400, 400, 429]
    links = [f"/api/auth/reset-password/{number}?callbackURL=/x" for number in range(101)]
    answers = [service.client.get(link, headers={"x-forwarded-for": ROAD}).status_code for link in links]
    assert set(answers[:100]) == {302}
    assert answers[100] == 429


def test_only_a_proxy_is_believed_about_the_address(service: Service) -> None:
    """LiveServer listens on loopback, which uvicorn trusts as a proxy; two addresses in the header: the last counts."""
    enter(service, address="203.0.113.1, 198.51.100.77")
    user = sa.select(UserSession.ip_address).join(User)
    assert service.auth.transact(lambda db: db.scalar(user)) == "198.51.100.77"


def test_a_request_without_an_address_is_counted_like_any_other(service: Service) -> None:
    request = Request({"type": "http", "headers": [], "client": None})
    assert sign_in.address_of(request) == ""
    assert [attempt(service.auth, ADA, "guess", "") for _ in range(6)] == [401] * 5 + [429]
