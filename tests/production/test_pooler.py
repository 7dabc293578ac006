"""Behind PgBouncer in transaction mode, with fewer sessions than clients: each transaction may run in another one.

Before Debian's server: the packaged one has a socket that only its own user reaches.
"""

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import ready
from playbook.kit.data import data_path
from playbook.kit.errors import InputError
from playbook.kit.live import serving
from playbook.kit.postgres import driver_url
from playbook.migrations.first_migration import current
from playbook.pantry.app import pantry
from playbook.pantry.history import downgrade, drift, heads, prepare, upgrade
from playbook.pantry.migrating import behind_pooler
from playbook.pantry.settings import Settings

PASSWORD, ANOTHER = "four quiet rivers and a spoon", "the spoon sailed up the river"
CLIENTS, ROUNDS = 16, 2
Pooler = Callable[..., str]


@pytest.fixture
def pooled(older_url: str, pooler_before: Pooler) -> str:
    """A new database, through a pooler with two sessions."""
    return driver_url(pooler_before(older_url))


def settings(url: str) -> Settings:
    given = {"require_email_verification": False, "rate_limits": False, "mail_url": "memory:"}
    return Settings(environment="test", database_url=url, **given)


def requests_of(name: str) -> list[tuple[str, str, dict[str, object], int]]:
    """A person's visit: method, path, what is sent, and the status that is due. Every kind of request there is."""
    person = {"email": f"{name}@example.com", "password": PASSWORD}
    key = {"idempotency-key": f'"{name}{name}"'}
    patch = {"content-type": "application/merge-patch+json", "if-match": "*"}
    change = {"currentPassword": PASSWORD, "newPassword": ANOTHER}
    return [
        ("POST", "/api/auth/sign-up/email", {"json": {"name": "A", **person}}, 200),
        ("GET", "/api/auth/get-session", {}, 200),
        ("GET", "/api/auth/get-session", {"params": {"disableCookieCache": "true"}}, 200),
        ("POST", "/organizations", {"json": {"slug": name, "name": "A"}}, 201),
        ("POST", "/packages", {"json": {"name": f"p-{name}", "organization": name}, "headers": key}, 201),
        ("POST", "/packages", {"json": {"name": f"p-{name}", "organization": name}, "headers": key}, 201),
        ("GET", "/packages?limit=20", {}, 200),
        ("GET", "/organizations?limit=5", {}, 200),
        ("GET", f"/packages/p-{name}", {}, 200),
        ("PATCH", f"/packages/p-{name}", {"json": {"summary": "x"}, "headers": patch}, 200),
        ("POST", "/api/auth/update-user", {"json": {"name": "B"}}, 200),
        ("GET", "/api/auth/list-sessions", {}, 200),
        ("POST", "/api/auth/change-password", {"json": change}, 200),
        ("DELETE", f"/packages/p-{name}", {"headers": {"if-match": "*"}}, 204),
        ("POST", "/api/auth/sign-out", {"json": {}}, 200),
        ("POST", "/api/auth/sign-in/email", {"json": person | {"password": ANOTHER}}, 200),
        ("GET", "/api/auth/get-session", {}, 200),
        ("GET", "/health", {}, 200),
    ]


def visit(base: str, number: int) -> Counter[str]:
    """Two visits; how often each request was answered otherwise than it should be."""
    wrong: Counter[str] = Counter()
    with httpx.Client(
        base_url=base, headers={"origin": "http://localhost:8000"}, timeout=120, trust_env=False
    ) as client:
        for _ in range(ROUNDS):
            for method, path, sent, due in requests_of(f"a{uuid.uuid4().hex[:12]}"):
                answer = client.request(method, path, **sent)
                if answer.status_code != due:
                    wrong[f"{method} {path.split('/a')[0]}: {answer.status_code} {answer.text[:200]}"] += 1
    return wrong


SESSION = """SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
    current_setting('lock_timeout'), current_setting('timezone'), current_setting('default_transaction_isolation'),
    (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
    pg_backend_pid()"""


def sessions_of(pooled: str) -> list[tuple[object, ...]]:
    """What another client of the pooler finds in each of its two sessions."""
    plain = pooled.replace("+psycopg", "")
    with psycopg.connect(plain, prepare_threshold=None) as one, psycopg.connect(plain, prepare_threshold=None) as two:
        return [connection.execute(SESSION).fetchone() for connection in (one, two)]  # both transactions are open


def test_every_kind_of_request_by_many_at_once(pooled: str, older_url: str) -> None:
    """It starts on an empty database, and answers as without a pooler. Nothing of it stays in the shared sessions."""
    fresh = sessions_of(pooled)
    with serving(pantry(settings(pooled), data_path("packages.csv"))) as client:
        with ThreadPoolExecutor(CLIENTS) as threads:
            wrong = sum(threads.map(visit, [str(client.base_url)] * CLIENTS, range(CLIENTS)), Counter())
        assert not wrong, dict(wrong)
        assert not client.server_errors
        left = sessions_of(pooled)
    assert len({session[-1] for session in left}) == 2, "both were looked at"
    assert [session[:-1] for session in left] == [session[:-1] for session in fresh]
    engine = make_engine(older_url)
    assert drift(engine, Base.metadata) == []
    engine.dispose()


def test_it_knows_whether_there_is_a_pooler(pooled: str, older_url: str) -> None:
    for url, expected in ((pooled, True), (older_url, False)):
        engine = make_engine(url)
        with engine.connect() as connection:
            assert behind_pooler(connection) is expected
        engine.dispose()


def test_settings_hold_in_every_transaction_and_reach_nobody_else(pooled: str) -> None:
    engine = make_engine(pooled)
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "timezone", "transaction_isolation")

    def work(session: sa.orm.Session) -> list[object]:
        return [session.scalar(sa.text(f"SELECT current_setting('{name}')")) for name in names]

    for _ in range(4):
        assert transaction(engine, work) == ["30s", "1min", "UTC", "repeatable read"]
    engine.dispose()
    assert {session[:3] for session in sessions_of(pooled)} == {("0", "0", "0")}


def test_a_session_of_another_time_zone_changes_no_answer(older_url: str, pooler_before: Pooler) -> None:
    """The quick look-up has no transaction that could set the zone: what it says must not depend on the server's."""
    database = sa.make_url(older_url).database
    with sa.create_engine(older_url, isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(sa.text(f"ALTER DATABASE \"{database}\" SET timezone = 'Asia/Kathmandu'"))
    pooled = driver_url(pooler_before(older_url))
    assert {session[3] for session in sessions_of(pooled)} == {"Asia/Kathmandu"}
    with serving(pantry(settings(pooled)), headers={"origin": "http://localhost:8000"}) as client:
        person = {"name": "A", "email": "a@example.com", "password": PASSWORD}
        assert client.post("/api/auth/sign-up/email", json=person).status_code == 200
        quick = client.get("/api/auth/get-session").json()
        long = client.get("/api/auth/get-session", params={"disableRefresh": "true"}).json()
    assert quick == long
    assert quick["session"]["expiresAt"].endswith("Z")


@pytest.mark.parametrize("sessions", [1, 2])
def test_several_that_start_at_once_migrate_once(older_url: str, pooler_before: Pooler, sessions: int) -> None:
    """With one session, too: a lock must not need a second one, and must not outlive its transaction."""
    pooled = driver_url(pooler_before(older_url, pool_size=sessions))
    meeting = threading.Barrier(3)

    def start(_: int) -> tuple[str, ...]:
        engine = make_engine(pooled)
        meeting.wait(60)
        prepare(engine)
        found = current(engine)
        engine.dispose()
        return found

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(start, range(3))) == [heads()] * 3
    engine = make_engine(pooled)
    downgrade(engine, "0001_identity")
    upgrade(engine)
    assert drift(engine, Base.metadata) == []
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
    engine.dispose()


def test_statement_mode_is_refused_in_one_line(older_url: str, pooler_before: Pooler) -> None:
    pooled = driver_url(pooler_before(older_url, pool_mode="statement"))
    with pytest.raises(InputError, match=r"set its pool_mode to transaction$") as refused:
        ready.reach(pooled)
    assert "\n" not in str(refused.value)
