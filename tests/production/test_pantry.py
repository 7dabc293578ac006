"""`pantry`: the whole service, assembled, as `playbook serve` runs it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import forked
import pytest
import sqlalchemy as sa
from fastapi import HTTPException
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from playbook.auth.mail import MemorySender
from playbook.auth.throttling import throttles
from playbook.foundations.clock_and_identifiers import FixedClock
from playbook.foundations.deny_by_default import refuse_undeclared
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.data import data_path
from playbook.kit.live import LiveClient, serving
from playbook.migrations.drift import WrongSchema
from playbook.pantry.app import Handover, pantry
from playbook.pantry.auth.better_auth import better_auth
from playbook.pantry.auth.tables import UserSession, Verification
from playbook.pantry.history import drift, upgrade
from playbook.pantry.housekeeping import EVERY, sweep
from playbook.pantry.http import DOCUMENTATION, Caller, current_caller
from playbook.pantry.plans import Desk
from playbook.pantry.policy import may
from playbook.pantry.settings import Settings
from playbook.schema.identity import Account, User

ORIGIN = "http://localhost:8000"
PASSWORD = "four quiet rivers and a spoon"
ADA = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}


def settings_for(url: str, **changes: Any) -> Settings:
    return Settings(**{"environment": "test", "database_url": url, "require_email_verification": False} | changes)


@contextmanager
def running(url: str, clock: FixedClock | None = None, **changes: Any) -> Iterator[tuple[LiveClient, MemorySender]]:
    sender = MemorySender()
    app = pantry(settings_for(url, **changes), clock=clock, sender=sender)
    with serving(app, headers={"origin": ORIGIN}) as client:
        client.app = app  # type: ignore[attr-defined]
        yield client, sender


def sign_up(client: LiveClient, **changes: str) -> None:
    assert client.post("/api/auth/sign-up/email", json=ADA | changes).status_code == 200


def carrying(cookies: dict[str, str]) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


def test_one_cookie_opens_both_parts(url: str) -> None:
    with running(url) as (client, _):
        assert client.get("/packages").status_code == 401
        sign_up(client)
        assert client.get("/packages").status_code == 200
        assert client.post("/organizations", json={"slug": "acme", "name": "Acme"}).status_code == 201
        assert client.post("/api/auth/sign-out", json={}).status_code == 200
        assert client.get("/packages").status_code == 401


def test_a_revoked_session_is_refused_at_the_next_request_everywhere(url: str) -> None:
    with running(url) as (client, _):
        sign_up(client)
        cookie = dict(client.cookies)
        client.post("/api/auth/revoke-sessions", json={})
        client.cookies.clear()
        for path in ("/packages", "/organizations"):
            assert client.get(path, headers=carrying(cookie)).status_code == 401
        assert client.get("/api/auth/get-session", headers=carrying(cookie)).json() is None


@pytest.mark.proves("ASVS 6.3.2")
def test_asvs_6_3_2_there_is_no_default_account(url: str) -> None:
    engine = make_engine(url)
    service = serving(pantry(settings_for(url), data_path("packages.csv"), sender=MemorySender()))
    with service, engine.connect() as connection:
        for model in (User, Account, UserSession):
            assert connection.scalar(sa.select(sa.func.count()).select_from(model)) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM packages")) == 14_971
    engine.dispose()


def test_the_second_start_keeps_what_is_there(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path / 'pantry.duckdb'}"
    with running(url) as (client, _):
        sign_up(client)
        cookie = dict(client.cookies)
    with running(url) as (client, _):
        answer = client.get("/api/auth/get-session", headers=carrying(cookie))
        assert answer.json()["user"]["email"] == "ada@example.com"


def test_refuses_a_database_that_is_behind(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine, "0002_catalog")
    with pytest.raises(WrongSchema, match="alembic upgrade head"):
        pantry(settings_for(url), sender=MemorySender())
    engine.dispose()


def test_the_migrated_database_has_the_models_tables(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine)
    assert drift(engine, Base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("path", ["/api/auth", "/api/auth/", "/api/auth/no-such", "/api/auth/sign-in/email"])
def test_under_api_auth_an_unknown_path_is_an_empty_404(path: str, url: str) -> None:
    with running(url) as (client, _):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (404, b"")
        other = client.get("/api/authors")
        assert (other.status_code, other.headers["content-type"]) == (404, "application/problem+json")


def test_neither_part_sees_the_other_ones_requests() -> None:
    seen: list[str] = []

    def part(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(name)

        return app

    import asyncio

    handover = Handover(part("rest"), "/api/auth", part("auth"))
    for scope in (
        {"type": "http", "path": "/api/auth"},
        {"type": "http", "path": "/api/auth/x"},
        {"type": "http", "path": "/api/authx"},
        {"type": "http", "path": "/"},
        {"type": "lifespan"},
    ):
        asyncio.run(handover(scope, None, None))  # type: ignore[arg-type]
    assert seen == ["auth", "auth", "rest", "rest", "rest"]


def test_every_route_of_both_parts_says_who_may_use_it() -> None:
    app = pantry(settings_for("duckdb:///:memory:declared"), sender=MemorySender())
    refuse_undeclared(app, current_caller, DOCUMENTATION)


def dependencies_in_threads(dependant: Dependant) -> set[str]:
    """The names of those that FastAPI sends to a thread, because they are plain `def`."""
    calls = [inner.call for inner in dependant.dependencies if inner.call is not None]
    plain = {c.__name__ for c in calls if not (iscoroutinefunction(c) or isasyncgenfunction(c))}
    return plain.union(*map(dependencies_in_threads, dependant.dependencies))


def test_a_dependency_goes_to_a_thread_only_to_ask_the_database() -> None:
    """Each way to a thread and back costs as much as a small statement, at every request."""
    app = pantry(settings_for("duckdb:///:memory:threads"), sender=MemorySender())
    for part in (app, better_auth(app.state.auth)):
        for route in iter_route_contexts(part.routes):
            if (dependant := getattr(route, "dependant", None)) is not None:
                asking = {name for name in dependencies_in_threads(dependant) if not name.startswith("permission ")}
                assert asking <= {"current_caller"}, route.path


def test_what_is_not_in_the_table_nobody_may(url: str) -> None:
    with running(url) as (client, _):
        sign_up(client)
        client.post("/organizations", json={"slug": "acme", "name": "Acme"})
        user = client.get("/api/auth/get-session").json()["user"]
        ada, engine = Caller(UUID(user["id"]), "Ada"), client.app.state.engine  # type: ignore[attr-defined]

        def ask(action: str, target: dict[str, str]) -> bool:
            return transaction(engine, lambda db: may(db, ada, action, target))

        assert ask("organizations:delete", {"slug": "acme"})
        assert not ask("organizations:sell", {"slug": "acme"})
        assert not ask("organizations:write", {})
        assert not ask("packages:create", {"organization": "no-such"})
        with pytest.raises(HTTPException, match="404"):
            ask("packages:write", {"name": "no-such-package"})


def test_roles_are_ordered(url: str) -> None:
    with running(url) as (client, _):
        sign_up(client)
        client.post("/organizations", json={"slug": "acme", "name": "Acme"})
        client.post("/packages", json={"name": "tool", "organization": "acme"})
        engine = client.app.state.engine  # type: ignore[attr-defined]
        statuses = {}
        for role in ("member", "admin", "owner"):
            transaction(engine, lambda db, role=role: db.execute(sa.text("UPDATE members SET role = :r"), {"r": role}))
            patch = {"if-match": "*", "content-type": "application/merge-patch+json"}
            answers = (
                client.post("/packages", json={"name": f"by-{role}", "organization": "acme"}),
                client.patch("/packages/tool", content='{"summary": "x"}', headers=patch),
                client.patch("/organizations/acme", content='{"name": "x"}', headers=patch),
                client.delete("/organizations/acme", headers=patch),
            )
            statuses[role] = [answer.status_code for answer in answers]
    assert statuses == {
        "member": [201, 403, 403, 403],
        "admin": [201, 200, 200, 403],
        "owner": [201, 200, 200, 409],  # it owns packages
    }


def test_sweep_deletes_what_has_expired_and_nothing_else(url: str, clock: FixedClock) -> None:
    with running(url, clock, rate_limits=True) as (client, _):
        sign_up(client)
        client.post("/api/auth/sign-in/email", json={"email": ADA["email"], "password": "wrong"})
        engine = client.app.state.engine  # type: ignore[attr-defined]

        def rows() -> list[int]:
            with engine.connect() as connection:
                models = (UserSession, Verification, throttles, User)
                return [connection.scalar(sa.select(sa.func.count()).select_from(model)) or 0 for model in models]

        before = rows()
        assert before[0] == before[1] == before[3] == 1
        assert before[2] >= 1
        sweep(engine, clock.now())
        assert rows() == before
        clock.advance(timedelta(hours=1))
        sweep(engine, clock.now())
        assert rows()[1:] == [0, 1, 1], "a stranger's failure counts for a week"
        clock.advance(timedelta(days=7))
        sweep(engine, clock.now())
        assert rows() == [0, 0, 0, 1]
    assert EVERY >= 60


def test_mails_that_are_queued_go_out_before_the_service_stops(url: str) -> None:
    with running(url) as (client, sender):
        sign_up(client)
    assert [mail.type for mail in sender.mails] == ["verify-email"]


# ---------------------------------------------------------------- as a process


def serve(url: str, **environ: str) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PANTRY_", "DATABASE_URL"))}
    command = [sys.executable, "-m", "playbook.kit.cli", "serve", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return forked.Popen(command, env=ours | {"DATABASE_URL": url} | environ, **pipes)


def test_two_processes_share_a_session_and_its_end(postgres_url: str, tmp_path: Path) -> None:
    """Revoked in one process, refused at the next request in another, on the quick way and on the long one."""
    mail = tmp_path / "mail.jsonl"
    environ = {
        "PANTRY_ENVIRONMENT": "test",
        "PANTRY_REQUIRE_EMAIL_VERIFICATION": "off",
        "PANTRY_MAIL_URL": f"file:{mail}",
    }
    processes = [serve(postgres_url, **environ)]
    try:
        urls = [str(processes[0].stdout and processes[0].stdout.readline()).split(",")[0].removeprefix("Pantry at ")]
        processes.append(serve(postgres_url, **environ))
        urls.append(
            str(processes[1].stdout and processes[1].stdout.readline()).split(",")[0].removeprefix("Pantry at ")
        )
        with LiveClient(urls[0], headers={"origin": ORIGIN}) as one, LiveClient(urls[1]) as other:
            sign_up(one)
            cookies = carrying(dict(one.cookies))
            for path in ("/api/auth/get-session", "/api/auth/get-session?disableRefresh=true"):
                assert other.get(path, headers=cookies).json()["user"]["name"] == "Ada"
            assert other.get("/packages", headers=cookies).status_code == 200
            assert one.post("/api/auth/revoke-sessions", json={}).status_code == 200
            for path in ("/api/auth/get-session", "/api/auth/get-session?disableRefresh=true"):
                assert other.get(path, headers=cookies).json() is None
            assert other.get("/packages", headers=cookies).status_code == 401
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert [json.loads(line)["to"] for line in mail.read_text().splitlines()] == ["ada@example.com"]


def test_starts_in_production_with_settings_of_its_own(postgres_url: str) -> None:
    process = serve(
        postgres_url, PANTRY_ENVIRONMENT="production", PANTRY_BASE_URL="https://pantry.example",
        PANTRY_SECRET="kR7wq2Lx9vTn4bYc6mZp8sDf1gHj3aQe", PANTRY_MAIL_URL="smtp://127.0.0.1:1",
    )  # fmt: skip
    try:
        url = str(process.stdout and process.stdout.readline()).split(",")[0].removeprefix("Pantry at ")
        with LiveClient(url, headers={"origin": "https://pantry.example"}) as client:
            assert client.get("/ready").status_code == 200
            answer = client.post("/api/auth/sign-out", json={})
            names = [cookie.split("=")[0] for cookie in answer.headers.get_list("set-cookie")]
            assert names[0] == "__Secure-better-auth.session_token"
            assert all("; Secure;" in cookie for cookie in answer.headers.get_list("set-cookie"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_wrong_setting_stops_it_with_one_line(tmp_path: Path) -> None:
    process = serve(f"duckdb:///{tmp_path / 'x.duckdb'}", PANTRY_SESSION_LIFETIM="60")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "did you mean PANTRY_SESSION_LIFETIME" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("fault", [sa.exc.OperationalError("SELECT", {}, Exception("gone")), RuntimeError("a bug")])
@pytest.mark.parametrize("method", ["GET", "PATCH", "POST"])
def test_a_caller_who_cannot_be_looked_up_is_no_fault_of_the_request(
    method: str, fault: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a body the caller is looked up while FastAPI reads it, and FastAPI answers 400 to what is raised there."""

    def fail(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        raise fault

    def away(desk: Desk, work: Any) -> None:
        raise duckdb.Error("the quick way fails first")

    with running("duckdb:///:memory:lookup") as (client, _):
        sign_up(client)
        monkeypatch.setattr(Desk, "work", away)
        sa.event.listen(client.app.state.engine, "before_cursor_execute", fail)  # type: ignore[attr-defined]
        path = "/organizations" if method == "POST" else "/organizations/acme"
        key = {"idempotency-key": '"sixteen-characters"'} if method == "POST" else {}
        answer = client.request(method, path, json={"slug": "acme", "name": "Acme"}, headers=key)
        sa.event.remove(client.app.state.engine, "before_cursor_execute", fail)  # type: ignore[attr-defined]
    gone = isinstance(fault, sa.exc.OperationalError)
    assert answer.status_code in ([503] if gone else [500, 503])
    assert answer.headers["content-type"] == "application/problem+json"
    assert gone or "RuntimeError" in caplog.text
