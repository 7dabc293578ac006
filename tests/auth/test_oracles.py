"""What a stranger can learn of an address from any two or three requests: the same whether somebody has an account.

Each route that a stranger may call with an address is tested alone elsewhere. An oracle can be made of two: the first
changes something, the second shows it. So every sequence is played against an address in every state, and the whole
transcript is compared: statuses, headers, bodies, and the work that an answer waits for. Ids and tokens are masked.
"""

import itertools
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock
from weakref import WeakKeyDictionary

import httpx
import pytest
import sqlalchemy as sa

from playbook.auth import password_hashing
from playbook.foundations.engines import Base
from playbook.kit.live import LiveClient
from playbook.pantry.auth.sign_in import AddressLimits
from playbook.pantry.auth.sign_up import VERIFY, register
from playbook.pantry.auth.tables import delete_user
from playbook.schema.identity import Account, User, add_user
from tests.auth.conftest import PASSWORD, Service

VICTIM, MINE, OTHER = "victim@example.com", "nine copper kettles sing", "a lantern under seven bridges"
Start = Callable[..., Service]


@pytest.fixture(autouse=True)
def only_limits_of_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of network addresses do not look at accounts, and would end most sequences."""
    monkeypatch.setattr(AddressLimits, "take", lambda *given: None)


@pytest.fixture(autouse=True)
def hasher(cheap_hashes: None, monkeypatch: pytest.MonkeyPatch) -> Mock:
    counting = Mock(wraps=password_hashing.ARGON2)
    monkeypatch.setattr(password_hashing, "ARGON2", counting)
    return counting


# ---------------------------------------------------------------- the address


def free(service: Service) -> None: ...


def verified(service: Service) -> None:
    stored = password_hashing.hash_password(PASSWORD)
    service.auth.transact(
        lambda db: setattr(register(db, service.auth, "V", VICTIM, None, stored), "email_verified", True)
    )


def unproven(service: Service) -> None:
    stored = password_hashing.hash_password(PASSWORD)
    service.auth.transact(lambda db: register(db, service.auth, "V", VICTIM, None, stored))


def no_password(service: Service) -> None:
    def work(db: Any) -> None:
        add_user(db, service.auth.clock, service.auth.ids, VICTIM, "V").email_verified = True

    service.auth.transact(work)


def signed_up_over_http(service: Service) -> None:
    """With a link under way."""
    with service.another_client() as client:
        service.post("/sign-up/email", {"name": "V", "email": VICTIM, "password": PASSWORD}, client)
    service.mails()


def deleted(service: Service) -> None:
    verified(service)
    service.auth.transact(lambda db: delete_user(db, db.scalar(sa.select(User.id).where(User.email == VICTIM))))


STATES = [free, verified, no_password, signed_up_over_http]  # for pairs
MORE_STATES = [*STATES, unproven, deleted]

# ---------------------------------------------------------------- what a stranger sends

Step = tuple[str, str, dict[str, Any] | None]
NAMED = {"name": "Mallory", "email": VICTIM}
STRANGER: dict[str, Step] = {
    "sign up": ("POST", "/sign-up/email", NAMED | {"password": MINE}),
    "sign up otherwise": ("POST", "/sign-up/email", {"name": "M", "email": VICTIM.upper(), "password": OTHER}),
    "sign in": ("POST", "/sign-in/email", {"email": VICTIM, "password": MINE}),
    "sign in otherwise": ("POST", "/sign-in/email", {"email": VICTIM, "password": OTHER, "callbackURL": "/x"}),
    "ask for a link": ("POST", "/send-verification-email", {"email": VICTIM}),
    "ask for a reset": ("POST", "/request-password-reset", {"email": VICTIM, "redirectTo": "/r"}),
    "a made-up link": ("GET", "/verify-email?token=link_none&callbackURL=/v", None),
    "a made-up reset": ("POST", "/reset-password", {"newPassword": MINE, "token": "link_none"}),
    "who am I": ("GET", "/get-session", None),
}
SIGNED_IN: dict[str, Step] = {  # by somebody with an account of their own
    "want the address": ("POST", "/change-email", {"newEmail": VICTIM}),
    "ask for its link": ("POST", "/send-verification-email", {"email": VICTIM}),
    "sign up": STRANGER["sign up"],
    "sign in": STRANGER["sign in"],
    "be called so": ("POST", "/update-user", {"name": VICTIM, "image": VICTIM}),
    "list": ("GET", "/list-sessions", None),
    "click": ("GET", "", None),  # the newest link in the own mailbox
}


class Work:
    """The statements that requests wait for, and the hashes: counted, but not those of the postbox's threads."""

    def __init__(self, service: Service, hasher: Mock) -> None:
        self.service, self.hasher, self.verbs = service, hasher, []
        sa.event.listen(service.auth.engine, "before_cursor_execute", self.heard)

    def heard(self, connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if not threading.current_thread().name.startswith("ThreadPoolExecutor"):
            self.verbs.append(sql.split()[0])

    def taken(self) -> tuple[int, int]:
        """The number of statements, and of hashes made or compared, since the last call."""
        found = len(self.verbs), self.hasher.hash.call_count + self.hasher.verify.call_count
        self.verbs = []
        self.hasher.reset_mock()
        return found


IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(session|link)_\w{38}(\.[\w%.-]+)?")


def masked(text: str) -> str:
    return IDS.sub("<id>", text)


def played(service: Service, hasher: Mock, steps: Sequence[Step], client: LiveClient, own: str = "") -> list[Any]:
    """What the stranger sees, a step at a time. Work in the background is done before the next step."""
    work, transcript = Work(service, hasher), []
    work.taken()
    for method, path, sent in steps:
        if not path:
            mails = [mail.url for mail in service.mails() if mail.to == own and mail.url]
            path = mails[-1].split("/api/auth")[1] if mails else "/verify-email?token=none"
        answer = client.request(method, f"/api/auth{path}", json=sent, follow_redirects=False)
        headers = sorted((k, masked(v)) for k, v in answer.headers.multi_items() if k not in ("date", "x-request-id"))
        cost = work.taken()
        in_own_mailbox = [(mail.type, masked(mail.text)) for mail in service.mails() if own and mail.to == own]
        work.taken()
        transcript.append((path.split("?")[0], answer.status_code, headers, masked(answer.text), cost, in_own_mailbox))
    sa.event.remove(service.auth.engine, "before_cursor_execute", work.heard)
    return transcript


class Written:
    """The tables with rows, by the INSERTs that were sent: most plays write to five of thirty."""

    def __init__(self, engine: sa.Engine) -> None:
        self.names = set[str]()
        sa.event.listen(engine, "before_cursor_execute", self.heard)

    def heard(self, connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if "INSERT INTO" in sql:
            self.names.add(sql.split("INSERT INTO ")[1].split()[0].strip('"'))


WRITTEN: WeakKeyDictionary[sa.Engine, Written] = WeakKeyDictionary()


_numbers = itertools.count()


def send(service: Service, statements: Iterable[str]) -> None:
    """All of them as one text, in one transaction; unheard by whoever counts statements.

    The number makes each text another: psycopg prepares what it has seen before, and cannot prepare several statements.
    """
    connection = service.auth.engine.raw_connection()
    try:
        connection.cursor().execute(f"{'; '.join(statements)} -- {next(_numbers)}")
        connection.commit()
    finally:
        connection.close()


def empty(service: Service, names: set[str]) -> None:
    send(service, [f"DELETE FROM {t.name}" for t in reversed(Base.metadata.sorted_tables) if t.name in names])


def clean(service: Service) -> None:
    """As before the first request."""
    service.mails()
    heard = WRITTEN.get(service.auth.engine)
    if heard is None:  # the first time there may be rows of somebody else
        WRITTEN[service.auth.engine] = Written(service.auth.engine)
        empty(service, set(Base.metadata.tables))
    elif heard.names:
        empty(service, heard.names)
    service.sender.mails.clear()


class Moment:
    """The service and a browser as they are now: every row, every mail, the cookies."""

    def __init__(self, service: Service, client: LiveClient) -> None:
        self.service, self.cookies, self.mails = service, httpx.Cookies(client.cookies), service.mails()
        written = WRITTEN[service.auth.engine].names
        self.names = [table.name for table in Base.metadata.sorted_tables if table.name in written]
        if self.names:
            copies = [f"CREATE TABLE saved_{name} AS SELECT * FROM {name}" for name in self.names]
            send(service, [*(f"DROP TABLE IF EXISTS saved_{name}" for name in self.names), *copies])

    @contextmanager
    def again(self) -> Iterator[LiveClient]:
        """All that has happened since is undone, and a browser goes on from here."""
        self.service.mails()
        if written := WRITTEN[self.service.auth.engine].names:
            empty(self.service, written)  # alone: DuckDB takes no key again that the same transaction has deleted
        if self.names:
            send(self.service, [f"INSERT INTO {name} SELECT * FROM saved_{name}" for name in self.names])
        self.service.sender.mails[:] = self.mails
        with self.service.another_client() as client:
            client.cookies.update(self.cookies)
            yield client


@contextmanager
def met(service: Service, state: Callable[[Service], None], attacker: bool = False) -> Iterator[LiveClient]:
    """The stranger's browser, with an address in this state; signed in when they have an account of their own."""
    clean(service)
    state(service)
    with service.another_client() as client:
        if attacker:
            enter_attacker(service, client)
        yield client


def differing(
    service: Service, hasher: Mock, sequence: Sequence[str], steps: dict[str, Step],
    states: Sequence[Callable[[Service], None]] = STATES,
) -> list[str]:  # fmt: skip
    """The states of the address in which this sequence looks otherwise than for one that is free."""
    seen: dict[str, list[Any]] = {}
    for state in states:
        with met(service, state) as client:
            seen[state.__name__] = played(service, hasher, [steps[name] for name in sequence], client)
    return differences(sequence, seen)


def differing_pairs(
    service: Service, hasher: Mock, first: str, steps: dict[str, Step], attacker: bool = False
) -> list[str]:
    """The same for this step and each one after it. It is done once, and each of the others goes on from there."""
    seen = defaultdict[str, dict[str, list[Any]]](dict)
    own = "mallory@example.com" if attacker else ""
    for state in STATES:
        with met(service, state, attacker) as client:
            before = played(service, hasher, [steps[first]], client, own)
            moment = Moment(service, client)
        for second in steps:
            with moment.again() as client:
                seen[second][state.__name__] = before + played(service, hasher, [steps[second]], client, own)
    return [line for second, transcripts in seen.items() for line in differences((first, second), transcripts)]


def differences(sequence: Sequence[str], seen: dict[str, list[Any]]) -> list[str]:
    """What each state's transcript has otherwise than that of a free address."""
    found = []
    for name, transcript in seen.items():
        for step, one, other in zip(sequence, transcript, seen["free"], strict=True):
            if one != other:
                words = [f"{b!r}, for {name} {a!r}" for a, b in zip(one, other, strict=True) if a != b]
                found.append(f"{' > '.join(sequence)}, at {step!r}: {'; '.join(words)}")
    return found


def enter_attacker(service: Service, client: LiveClient) -> None:
    def work(db: Any) -> None:
        register(db, service.auth, "M", "mallory@example.com", None, stored).email_verified = True

    stored = password_hashing.hash_password(PASSWORD)
    service.auth.transact(work)
    assert service.sign_in("mallory@example.com", client).status_code == 200


# ---------------------------------------------------------------- the tests

TRIPLES = [
    ("sign up", "sign up otherwise", "sign in"), ("sign up", "sign up otherwise", "sign in otherwise"),
    ("sign up", "ask for a link", "sign in"), ("sign up", "ask for a reset", "sign in"),
    ("ask for a reset", "sign up", "sign in"), ("ask for a link", "sign up", "sign in"),
    ("sign in", "sign up", "sign in"), ("sign up", "sign in", "sign up"),
    ("ask for a reset", "ask for a reset", "ask for a reset"), ("sign up", *["sign in"] * 6),
]  # fmt: skip


@pytest.mark.proves("ASVS 6.3.8")
@pytest.mark.parametrize("first", STRANGER)
def test_asvs_6_3_8_no_two_requests_tell_who_has_an_account(auth_service: Start, hasher: Mock, first: str) -> None:
    assert differing_pairs(auth_service(), hasher, first, STRANGER) == []


@pytest.mark.proves("ASVS 6.3.8")
@pytest.mark.parametrize("sequence", TRIPLES, ids=" > ".join)
def test_asvs_6_3_8_nor_do_more(auth_service: Start, hasher: Mock, sequence: tuple[str, ...]) -> None:
    assert differing(auth_service(), hasher, sequence, STRANGER, states=MORE_STATES) == []


@pytest.mark.proves("ASVS 6.3.8")
@pytest.mark.parametrize("first", SIGNED_IN)
def test_asvs_6_3_8_nor_does_an_account_of_ones_own_help(auth_service: Start, hasher: Mock, first: str) -> None:
    assert differing_pairs(auth_service(), hasher, first, SIGNED_IN, attacker=True) == []


@pytest.mark.parametrize("url", ["duckdb"], indirect=True)
def test_the_comparison_finds_the_oracle_of_better_auth(auth_service: Start, hasher: Mock) -> None:
    service = auth_service(rate_limits=False, strict_proof=False)
    found = differing(service, hasher, ("sign up", "sign in"), STRANGER)
    assert found
    assert all("EMAIL_NOT_VERIFIED" in line or "403" in line for line in found)
    assert differing(auth_service(rate_limits=False, require_email_verification=False), hasher, ("sign up",), STRANGER)
    assert set(found) <= set(differing_pairs(service, hasher, "sign up", STRANGER)), "played on from a moment"


# ---------------------------------------------------------------- whose password it is


def click(service: Service) -> None:
    service.mails()
    url = service.sender.last(VICTIM, VERIFY).url or ""
    assert service.client.get(url.split("localhost:8000")[1]).status_code == 302


def password_hash(service: Service) -> str | None:
    return service.auth.transact(lambda db: db.scalar(sa.select(Account.password_hash)))


@pytest.mark.parametrize("mallory_first", [True, False])
def test_who_signed_up_with_somebody_elses_address_is_not_let_in_by_the_owners_click(
    auth_service: Start, mallory_first: bool
) -> None:
    """Two passwords for one unproven address: neither counts, and the mailbox decides."""
    service = auth_service(rate_limits=False)
    order = [MINE, PASSWORD] if mallory_first else [PASSWORD, MINE]
    for password in order:
        assert service.sign_up(VICTIM, password=password).status_code == 200
    click(service)
    assert [service.sign_in(VICTIM, password=password).status_code for password in order] == [401, 401]
    service.post("/request-password-reset", {"email": VICTIM, "redirectTo": "/r"})
    token = next(mail.token for mail in reversed(service.mails()) if mail.type == "reset-password")
    assert service.post("/reset-password", {"newPassword": OTHER, "token": token}).status_code == 200
    assert [service.sign_in(VICTIM, password=p).status_code for p in (MINE, PASSWORD, OTHER)] == [401, 401, 200]


def test_who_sends_the_form_twice_keeps_the_password(auth_service: Start) -> None:
    service = auth_service(rate_limits=False)
    for _ in range(3):
        service.sign_up(VICTIM)
    click(service)
    assert service.sign_in(VICTIM).status_code == 200


def test_a_stranger_changes_nothing_of_a_proven_account(auth_service: Start) -> None:
    service = auth_service(rate_limits=False)
    service.sign_up(VICTIM)
    click(service)
    before = password_hash(service)
    service.sign_up(VICTIM, password=MINE)
    assert password_hash(service) == before is not None
    assert service.sign_in(VICTIM).status_code == 200


def test_a_reset_proves_the_address(auth_service: Start) -> None:
    """The link was mailed to it, as the other one is."""
    service = auth_service(rate_limits=False)
    service.sign_up(VICTIM)
    service.post("/request-password-reset", {"email": VICTIM, "redirectTo": "/r"})
    token = next(mail.token for mail in service.mails() if mail.type == "reset-password")
    assert service.post("/reset-password", {"newPassword": OTHER, "token": token}).status_code == 200
    assert service.sign_in(VICTIM, password=OTHER).json()["user"]["emailVerified"] is True


def test_the_owner_of_an_unproven_address_who_signs_in_gets_the_link_again(auth_service: Start) -> None:
    service = auth_service()
    service.sign_up(VICTIM)
    service.mails()
    service.clock.advance(timedelta(minutes=2))
    for password, mails in ((MINE, 1), (PASSWORD, 2)):
        answer = service.sign_in(VICTIM, password=password)
        assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_EMAIL_OR_PASSWORD")
        assert [mail.type for mail in service.mails()] == [VERIFY] * mails
    click(service)
    assert service.sign_in(VICTIM).status_code == 200
