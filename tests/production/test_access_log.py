"""No credential gets into a log: whatever is sent to any route, the process writes none of it."""

import itertools
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import forked
import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from filled_database import filled_database
from serve_process import DEADLINE, PASSWORD, Process, serve

from playbook.pantry.app import pantry
from playbook.pantry.settings import Settings

# What goes together into one request; what is alone would hide the others, since it is refused.
QUERY = (("token", "callbackURL", "error"), ("cursor", "limit", "sort"), ("cursor",), ("undeclared", "password"))
HEADERS = (
    ("cookie", "idempotency-key", "referer", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded",
     "x-api-key", "accept-language", "user-agent", "x-request-id"),
    ("authorization", "if-match", "if-none-match", "range"), ("origin",), ("accept", "content-encoding"),
)  # fmt: skip
PATHS = (
    "{}", "{}/", "/{}", "{}/more", "/v1{}", "{}%2f", "{};x", "{}?{}", "{}//", "{}.json",
)  # fmt: skip
FIELDS = ("email", "password", "token", "newPassword", "currentPassword", "newEmail", "callbackURL", "name", "image",
          "slug", "organization", "description", "redirectTo", "undeclared")  # fmt: skip


class Markers:
    """Texts that are in nothing else, and what each was part of."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}
        self.numbers = itertools.count(1)

    def new(self, of: str) -> str:
        marker = f"qz{next(self.numbers):06d}zq"
        self.sent[marker] = of
        return marker

    def found_in(self, text: str) -> dict[str, str]:
        """The markers that are in `text`, also in parts of another form."""
        return {m: self.sent[m] for m in set(re.findall(r"qz\d{6}zq", text.lower())) if m in self.sent}


@cache
def routes() -> list[tuple[str, list[str]]]:
    """The template of every path of both apps, with its methods."""
    app = pantry(Settings(environment="test", database_url="duckdb:///:memory:routes_of_the_log"))
    found: dict[str, set[str]] = {}
    for part in (app, app.state.auth_part):
        assert isinstance(part, FastAPI)
        for route in iter_route_contexts(part.routes):
            found.setdefault(str(route.path), set()).update(route.methods or ())
    app.state.engine.dispose()
    return sorted((path, sorted(methods)) for path, methods in found.items())


def filled(path: str, markers: Markers, what: str) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda p: markers.new(f"{what}: path {p[1]}"), path)


def ask(client: httpx.Client, method: str, url: str, **options: Any) -> int:
    return client.request(method, url, follow_redirects=False, **options).status_code


def bodies(markers: Markers, what: str) -> Iterator[dict[str, Any]]:
    """Bodies whose fields are texts, of another type, broken, and no JSON."""
    texts = {name: markers.new(f"{what}: body {name}") for name in FIELDS}
    yield {"json": texts}
    yield {
        "json": {**texts, "email": f"{markers.new(what)}@example.com", "newEmail": f"{markers.new(what)}@example.com"}
    }
    yield {"json": {name: [{markers.new(f"{what}: body {name}, name"): value}] for name, value in texts.items()}}
    yield {"json": markers.new(f"{what}: body")}
    broken = '{"token": "' + markers.new(f"{what}: broken body")
    yield {"content": broken, "headers": {"content-type": "application/json"}}
    yield {"data": {"token": markers.new(f"{what}: form")}}
    yield {"content": markers.new(f"{what}: body of unknown type"),
           "headers": {"content-type": markers.new(f"{what}: type")}}  # fmt: skip


def everything_at(client: httpx.Client, path: str, methods: list[str], markers: Markers) -> set[int]:
    """Every part of a request to one route, each with a marker of its own; the statuses."""
    seen = set()
    for method in methods:
        what = f"{method} {path}"
        for body in bodies(markers, what) if method in ("POST", "PUT", "PATCH", "DELETE") else [{}]:
            seen.add(ask(client, method, filled(path, markers, what), **body))
        for names in QUERY:
            query = {name: markers.new(f"{what}: query {name}") for name in names}
            seen.add(ask(client, method, filled(path, markers, what), params=query))
        for names in HEADERS:
            headers = {name: markers.new(f"{what}: header {name}") for name in names}
            if "x-request-id" in headers:
                headers["x-request-id"] += "!"  # one of the accepted form is meant to be in the log
            if "cookie" in headers:
                some = [markers.new(f"{what}: cookie") for _ in range(3)]
                headers["cookie"] = f"better-auth.session_token={headers['cookie']}.{some[0]}; {some[1]}={some[2]}"
            seen.add(ask(client, method, filled(path, markers, what), headers=headers))
    for method in ("GET", "POST", "BREW"):
        for form in PATHS:
            what = f"{method} {form.format(path, 'query')}"
            url = form.format(filled(path, markers, what), markers.new(f"{what}: name in a query"))
            seen.add(ask(client, method, str(client.base_url).rstrip("/") + url))
    return seen


def broken_requests(process: Process, markers: Markers) -> None:
    """What is no HTTP, or not what the routes see."""
    for form in (
        "GET /api/auth/reset-password/{} HTTP/9.9\r\n\r\n",
        "GET /api/auth/verify-email?token={}\r\n\r\n",
        "GET /api/auth/verify-email?token={} and more HTTP/1.1\r\n\r\n",
        "{} /health HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET {} HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET http://{}/api/auth/reset-password/x HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET http://x/api/auth/reset-password/{}?token=x HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: {}\r\nhost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\ncookie {}\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\ncookie: a={}\x00\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {}\r\n\r\n",
        "POST /api/auth/sign-in/email HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        "POST /api/auth/sign-in/email HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        'content-length: 900\r\n\r\n{{"password": "{}',
        "POST /api/auth/sign-in/email HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{}\r\n",
        "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: {}\r\n\r\n",
        "GET /api/auth/verify-email?token={} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET /packages/%1b%5b2J%0d%0a{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /" + "{}/" * 400 + " HTTP/1.1\r\nhost: x\r\n\r\n",
    ):
        count = form.count("{}")
        process.raw(form.format(*(markers.new(f"raw: {form[:40]!r}") for _ in range(count))).encode("latin-1"))


def flows(process: Process, markers: Markers) -> None:
    """Sign up, verify, forget, reset, change: every token that the service makes, used as a person uses it."""
    email = "ada@example.com"
    enter(process, email)
    process.post("/request-password-reset", {"email": email, "redirectTo": "/reset"})
    moved = httpx.URL(process.client.get(newest(process)).headers["location"])
    new = {"token": moved.params["token"], "newPassword": PASSWORD}
    assert process.post("/reset-password", new).status_code == 200
    assert process.post("/sign-in/email", {"email": email, "password": PASSWORD}).status_code == 200
    process.post("/change-email", {"newEmail": "new@example.com", "callbackURL": "/x"})
    for _ in range(2):  # the old address confirms, the new one is proven
        assert process.client.get(newest(process)).status_code == 302
    assert process.client.get("/api/auth/get-session").json()["user"]["email"] == "new@example.com"
    page = process.client.get("/packages?limit=1").json()
    assert process.client.get(page["next"]).status_code == 200, "a cursor"


def newest(process: Process) -> str:
    """The path of the link in the next mail that has one and was not taken yet."""
    taken = process.__dict__.setdefault("taken", set())
    until = time.monotonic() + DEADLINE
    while True:
        for mail in process.mails():
            if mail.get("url") and mail["token"] and mail["token"] not in taken:
                taken.add(mail["token"])
                return str(httpx.URL(mail["url"]).raw_path, "ascii")
        assert time.monotonic() < until, "no mail"
        time.sleep(0.02)


def enter(process: Process, email: str) -> None:
    assert process.sign_up(email).status_code == 200
    assert process.client.get(newest(process)).status_code == 302
    assert process.post("/sign-in/email", {"email": email, "password": PASSWORD}).status_code == 200


def secrets_of(process: Process) -> set[str]:
    mailed = {str(mail["token"]) for mail in process.mails() if mail.get("token")}
    cookies = {cookie.value or "" for cookie in process.client.cookies.jar}
    return {part for value in mailed | cookies for part in re.split(r"[.%]", value) if len(part) > 15}


@pytest.mark.proves("ASVS 14.2.1", "ASVS 16.2.5")
@pytest.mark.parametrize("signed_in", [False, True], ids=["a stranger", "signed in"])
def test_nothing_that_is_sent_to_any_route_is_in_the_log(tmp_path: Path, signed_in: bool) -> None:
    markers = Markers()
    with serve(filled_database(tmp_path), tmp_path, PANTRY_RATE_LIMITS="off") as process:
        if signed_in:
            flows(process, markers)
        seen = set()
        for number, (path, methods) in enumerate(routes()):
            if signed_in and not process.client.get("/api/auth/get-session").json():
                enter(process, f"ada{number}@example.com")
            seen |= everything_at(process.client, path, methods, markers)
        broken_requests(process, markers)
        secrets = secrets_of(process)
    log = process.log.read_text(encoding="utf-8")
    assert len(markers.sent) > 2000
    assert {200, 400, 401, 403, 404, 405, 422} <= seen
    assert not signed_in or len(secrets) >= 4
    assert markers.found_in(log) == {}
    assert {secret for secret in secrets if secret in log} == set()
    assert PASSWORD not in log
    lines = log.splitlines()
    assert all(line.isprintable() for line in lines)
    for path, _ in routes():  # and an operator still sees what was asked
        assert any(f' {path}" ' in line for line in lines if "pantry.access" in line), path


@pytest.mark.proves("ASVS 14.2.1", "ASVS 16.2.5")
def test_nothing_is_in_the_log_when_the_database_fails(tmp_path: Path, postgres_url: str) -> None:
    """Each table gone in turn (500, the statement and its values in the exception), then no connection at all."""
    markers, seen = Markers(), set()
    limits = {"PANTRY_RATE_LIMITS": "off", "PANTRY_REQUIRE_EMAIL_VERIFICATION": "off"}
    url = sa.make_url(postgres_url)
    admin = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    body = {name: markers.new(f"body {name}") for name in ("name", "slug", "organization", "token", "image")}
    body |= {"email": "qz999998zq@example.com", "newEmail": "qz999999zq@example.com", "currentPassword": PASSWORD,
             "newPassword": PASSWORD[::-1], "password": PASSWORD}  # fmt: skip
    markers.sent |= {"qz999998zq": "address", "qz999999zq": "new address"}
    with serve(postgres_url, tmp_path, **limits) as process:
        process.sign_up("ada@example.com")

        def everywhere(what: str) -> None:
            for path, methods in routes():
                for method in methods:
                    options: dict[str, Any] = {"json": body} if method in ("POST", "PUT", "PATCH") else {}
                    query = {"token": markers.new(f"{what}: {path}"), "callbackURL": "/x"} if "auth" in path else {}
                    seen.add(ask(process.client, method, filled(path, markers, what), params=query, **options))

        try:
            for name in ("sessions", "users", "accounts", "verifications", "packages", "organizations", "members"):
                with engine.connect() as connection:
                    connection.execute(sa.text(f"ALTER TABLE {name} RENAME TO gone"))
                    everywhere(f"without {name}")
                    connection.execute(sa.text(f"ALTER TABLE gone RENAME TO {name}"))
            engine.dispose()
            with admin.connect() as connection:
                connection.execute(sa.text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'))
                connection.execute(
                    sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                    {"name": url.database},
                )
                everywhere("without a database")
                connection.execute(sa.text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true'))
        finally:
            engine.dispose()
            admin.dispose()
        secrets = secrets_of(process)
    log = process.log.read_text(encoding="utf-8")
    assert {500, 503} <= seen
    assert markers.found_in(log) == {}
    assert {secret for secret in secrets if secret in log} == set()
    assert PASSWORD not in log
    assert "psycopg.errors.UndefinedTable 42P01" in log, "an operator learns nothing"
    assert "not currently accepting connections" in log, "an operator learns nothing"


FAILURES = {  # what is done after `configure()`, and what an operator must find in the log
    "message": ("try: raise ValueError(SECRET)\nexcept ValueError: log.exception('oh')", "ValueError"),
    "cause": (
        "try:\n try: raise KeyError(SECRET)\n except KeyError as e: raise RuntimeError(SECRET) from e\n"
        "except RuntimeError: log.exception('oh')",
        "KeyError",
    ),
    "context": (
        "try:\n try: raise KeyError(SECRET)\n finally: raise RuntimeError(SECRET)\n"
        "except RuntimeError: log.exception('oh')",
        "KeyError",
    ),
    "group": (
        "try: raise ExceptionGroup(SECRET, [TypeError(SECRET), ExceptionGroup('', [LookupError(SECRET)])])\n"
        "except* Exception: log.exception('oh')",
        "LookupError",
    ),
    "note": (
        "try:\n e = ValueError('x'); e.add_note(SECRET); raise e\nexcept ValueError: log.exception('oh')", "ValueError",
    ),
    "argument": ("log.error('failed: %s', RuntimeError(SECRET))", "failed: RuntimeError"),
    "the exception itself": ("log.error(RuntimeError(SECRET))", "RuntimeError"),
    "bad call": ("log.error('%s %d', SECRET, SECRET)", "%s %d"),
    "file": ("try: open('/nowhere/' + SECRET)\nexcept OSError: log.exception('oh')", "No such file or directory"),
    "warning": ("import warnings; warnings.warn('it is ' + SECRET, UserWarning)", "UserWarning at "),
    "thread": (
        "import threading\nt = threading.Thread(target=lambda: {}[SECRET]); t.start(); t.join()", "KeyError",
    ),
    "destructor": ("class C:\n def __del__(self): raise ValueError(SECRET)\nC()", "ValueError"),
    "task": (
        "import asyncio, gc\n"
        "async def bad(): raise ValueError(SECRET)\n"
        "async def main():\n t = asyncio.create_task(bad()); await asyncio.sleep(0); await asyncio.sleep(0); del t\n"
        " gc.collect()\nasyncio.run(main())",
        "Task exception was never retrieved",
    ),
    "callback": (
        "import asyncio\n"
        "async def main():\n asyncio.get_running_loop().call_soon(lambda s: {}[s], SECRET); await asyncio.sleep(0.01)\n"
        "asyncio.run(main())",
        "KeyError",
    ),
    "pydantic": (
        "from pydantic import BaseModel\nclass M(BaseModel): n: int\n"
        "try: M(n=SECRET)\nexcept ValueError: log.exception('oh')",
        "ValidationError",
    ),
    "serializer": (
        "from pydantic import BaseModel\nclass M(BaseModel): n: int\nM.model_construct(n=SECRET).model_dump_json()",
        "UserWarning at ",
    ),
    "response": (
        "from fastapi import FastAPI; import uvicorn, threading, httpx\n"
        "app = FastAPI()\n@app.get('/')\ndef f() -> int: return SECRET\n"
        "from playbook.kit.live import LiveServer\nimport playbook.kit.live\naccess_log.configure()\n"
        "s = LiveServer(app).start(); httpx.get(s.url, trust_env=False); s.errors; s.stop()",
        "ResponseValidationError",
    ),
    "start": (
        "from contextlib import asynccontextmanager; from fastapi import FastAPI; import uvicorn\n"
        "@asynccontextmanager\nasync def life(app):\n raise RuntimeError(SECRET)\n yield\n"
        "server = uvicorn.Server(uvicorn.Config(FastAPI(lifespan=life), port=0, log_config=None, access_log=False))\n"
        "try: server.run()\nexcept SystemExit: pass",
        "RuntimeError",
    ),
    "statement": (
        "import sqlalchemy as sa; from playbook.foundations.engines import make_engine\n"
        "try:\n with make_engine('duckdb:///:memory:x').connect() as c:\n"
        "  c.execute(sa.text('SELECT :x + nothing'), {'x': SECRET})\n"
        "except sa.exc.SQLAlchemyError: log.exception('oh')",
        "ProgrammingError",
    ),
    "smtp": (
        "import smtplib\ntry: raise smtplib.SMTPRecipientsRefused({SECRET: (550, SECRET.encode())})\n"
        "except OSError: log.exception('oh')",
        "SMTPRecipientsRefused",
    ),
    "line feed": ("log.error('%s', 'a\\n2026-11-02T09:00:00.000Z INFO forged\\x1b[2J\\u2028\\u202e')", r"a\n2026"),
}  # fmt: skip


@pytest.mark.proves("ASVS 16.2.5", "ASVS 16.4.1")
@pytest.mark.parametrize("kind", FAILURES)
def test_an_exception_is_logged_without_its_text(kind: str) -> None:
    code, shown = FAILURES[kind]
    program = (
        "import logging\nfrom playbook.pantry import access_log\naccess_log.configure()\n"
        "log = logging.getLogger('pantry.somewhere')\nSECRET = 'qz' + str(77) + 'zq'\n" + textwrap.dedent(code)
    )
    done = forked.run([sys.executable, "-c", program], 120, text=True)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert shown in output
    assert "qz77zq" not in output
    assert all(line.isprintable() for line in output.splitlines())
    assert not any(line.startswith("2026-11-02T09:00:00.000Z INFO forged") for line in output.splitlines())


def test_an_error_of_the_engine_has_no_values(url: str) -> None:
    """For whoever logs it otherwise: the text that SQLAlchemy makes names the statement and none of its values."""
    from playbook.foundations.engines import make_engine

    engine = make_engine(url)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as error:
        connection.execute(sa.text("SELECT * FROM nothing WHERE x = :x"), {"x": "qz000001zq"})
    assert "qz000001zq" not in str(error.value)
    engine.dispose()


def test_a_path_of_no_route_is_short_and_has_words_of_routes_only() -> None:
    from playbook.pantry.access_log import template

    words = frozenset({"", "api", "auth", "reset-password"})
    assert template({"path": "/api/auth/reset-password/secret/x"}, words) == "/api/auth/reset-password/*/*"
    assert template({"path": "/" + "a/" * 5000}, words) == "/*" * 8 + "/..."
    assert template({"path": ""}, words) == ""
    assert template({"path": "*"}, words) == "*"
