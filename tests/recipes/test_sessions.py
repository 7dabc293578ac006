"""What the recipe promises, on SQLite and DuckDB. Needs pytest, fastapi, httpx and uvicorn, nothing else.

`attack` is for your service, too: call it with the URL of a test instance, and with your own `sign_in` and `who`.
"""

import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from sqlalchemy import orm
from sqlalchemy.orm import Session

from playbook.auth.sessions import (
    Lifetimes,
    SignedIn,
    end_session,
    end_sessions,
    find_session,
    prolong_session,
    purge_sessions,
    sessions,
    start_session,
)

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 11, 2, tzinfo=UTC)


def engine_for(kind: str, folder: Path) -> sa.Engine:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[kind])
    return sa.create_engine(f"{kind}:///{folder}/sessions.db{ALONE[kind]}", poolclass=sa.QueuePool)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = engine_for(request.param, tmp_path)
    sessions.metadata.create_all(engine)
    yield engine
    engine.dispose()


class Model:
    """What the recipe promises, in plain Python: token -> [user, created, end]."""

    def __init__(self, times: Lifetimes) -> None:
        self.times = times
        self.alive: dict[str, list[Any]] = {}

    def start(self, token: str, user: str, now: datetime, old: str | None) -> None:
        self.alive.pop(old or "", None)
        self.alive[token] = [user, now, now + self.times.idle]

    def find(self, token: str, now: datetime) -> SignedIn | None:
        user, created, end = self.alive.get(token, (None, now, now))
        if end <= now:
            return None
        last_move = end - self.times.idle
        wanted = min(now + self.times.idle, created + self.times.absolute)
        moved = now - last_move >= self.times.refresh_after and wanted > end
        if moved:
            self.alive[token][2] = wanted
        return SignedIn(user, created, wanted if moved else end, moved)

    def end_all(self, user: str, keep: str | None) -> None:
        for token in [t for t, row in self.alive.items() if row[0] == user and t != keep]:
            del self.alive[token]


@pytest.mark.parametrize("orm_session", [False, True])
def test_it_answers_as_the_model_in_any_order_of_calls(engine: sa.Engine, orm_session: bool) -> None:
    chance = random.Random(f"{engine.dialect.name} {orm_session}")
    times = Lifetimes(idle=3 * DAY, absolute=8 * DAY, refresh_after=12 * HOUR)
    model, now, tokens = Model(times), START, ["unknown"]
    begin: Callable[[], Any] = (lambda: Session(engine)) if orm_session else engine.connect
    for _ in range(300):
        now += chance.choice([0, 1, 5, 13, 30]) * HOUR
        call = chance.choice(["start", "find", "find", "find", "end", "all", "purge"])
        token, user = chance.choice(tokens[-6:]), chance.choice(["1", "2", "3"])
        with begin() as db:
            if call == "start":
                old = chance.choice([None, token])
                new = start_session(db, user, now, times, old)
                model.start(new, user, now, old)
                tokens.append(new)
            elif call == "end":
                end_session(db, token)
                model.alive.pop(token, None)
            elif call == "all" and chance.random() < 0.3:
                keep = chance.choice([None, token])
                end_sessions(db, user, keep)
                model.end_all(user, keep)
            elif call == "purge":
                purge_sessions(db, now)
                assert all(row.expires_at > now for row in db.execute(sa.select(sessions)))
            elif call == "find":
                assert find_session(db, token, now, times) == model.find(token, now)
            db.commit()
    with begin() as db:
        for token in tokens:
            assert find_session(db, token, now, times) == model.find(token, now)
        for row in db.execute(sa.select(sessions)):
            assert row.expires_at <= row.created_at + times.absolute
            assert not set(row) & set(tokens)
    assert len(set(tokens)) == len(tokens)


def test_a_session_that_ends_while_its_end_moves_stays_ended(engine: sa.Engine) -> None:
    """The sign-out comes between the SELECT and the UPDATE. DuckDB reports a conflict, others find no row."""
    with engine.begin() as db:
        token = start_session(db, "ada", START, Lifetimes(), None)
    ended = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def end_it_first(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if sql.startswith("UPDATE") and not ended:
            ended.append(token)
            with engine.begin() as other:
                end_session(other, token)

    found = conflict = None
    try:
        with engine.begin() as db:
            found = find_session(db, token, START + 2 * DAY, Lifetimes())
    except sa.exc.DBAPIError as error:
        conflict = str(error)
    assert ended
    assert ("onflict" in str(conflict)) is (engine.dialect.name == "duckdb")
    assert found is None
    with engine.begin() as db:
        assert db.execute(sa.select(sessions)).all() == []
        assert find_session(db, token, START + 2 * DAY, Lifetimes()) is None
        assert prolong_session(db, token, START + 9 * DAY) is False


def test_times_are_utc_whatever_zone_they_came_in(engine: sa.Engine) -> None:
    tokyo = START.astimezone(timezone(9 * HOUR))
    with engine.begin() as db:
        token = start_session(db, "ada", tokyo, Lifetimes(), None)
        row = db.execute(sa.select(sessions)).one()
        assert (row.created_at, row.created_at.tzinfo) == (START, UTC)
        last = (START + 7 * DAY - timedelta(seconds=1)).astimezone(timezone(-5 * HOUR))
        with pytest.raises(sa.exc.StatementError, match="has no time zone"):
            find_session(db, token, datetime(2026, 11, 3), Lifetimes())
        found = find_session(db, token, last, Lifetimes())
        assert found is not None
        assert found.moved


def test_a_session_is_over_at_its_end(engine: sa.Engine) -> None:
    times = Lifetimes()
    just_before = START + times.idle - timedelta(microseconds=1)
    with engine.begin() as db:
        token = start_session(db, "ada", START, times, None)
        assert find_session(db, token, START + times.idle, times) is None
        purge_sessions(db, just_before)
        found = find_session(db, token, just_before, times)
        assert found == SignedIn("ada", START, just_before + times.idle, moved=True)


@pytest.mark.parametrize(
    "wrong", [{"refresh_after": 7 * DAY}, {"idle": 31 * DAY}, {"refresh_after": -HOUR}, {"absolute": timedelta(0)}]
)
def test_lifetimes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refresh_after < idle <= absolute"):
        Lifetimes(**wrong)


def test_a_token_has_256_random_bits(engine: sa.Engine) -> None:
    with engine.begin() as db:
        tokens = [start_session(db, "ada", START, Lifetimes(), None) for _ in range(20)]
    assert len(set(tokens)) == 20
    assert all(len(token) == 43 for token in tokens)


# ---------------------------------------------------------------- a table of one's own


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    name: orm.Mapped[str]
    password_hash: orm.Mapped[str] = orm.mapped_column(default="old")
    active: orm.Mapped[bool] = orm.mapped_column(default=True)


class Login(Base):
    """More columns, a key of its own, and integer ids of users."""

    __tablename__ = "logins"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    token_hash: orm.Mapped[str] = orm.mapped_column(unique=True)
    user_id: orm.Mapped[int]
    created_at = orm.mapped_column(sessions.c.created_at.type)
    expires_at = orm.mapped_column(sessions.c.expires_at.type)
    browser: orm.Mapped[str | None]


def test_any_table_with_these_columns_serves(engine: sa.Engine) -> None:
    logins: Any = Login.__table__
    Base.metadata.create_all(engine)

    def begin(db: Session, user: int, old: str | None = None) -> str:
        more = {"id": secrets.token_hex(8), "browser": "Firefox"}
        return start_session(db, user, START, Lifetimes(), old, lambda: f"t-{more['id']}", logins, **more)

    with Session(engine) as db:
        first, second, other = begin(db, 1), begin(db, 1), begin(db, 2)
        replaced = begin(db, 1, old=second)
        assert replaced.startswith("t-")
        found = find_session(db, first, START + 2 * DAY, Lifetimes(), logins)
        assert found == SignedIn(1, START, START + 9 * DAY, moved=True)
        assert find_session(db, second, START, Lifetimes(), logins) is None
        assert prolong_session(db, first, START + 3 * DAY, logins, browser="Safari")
        end_sessions(db, 1, keep=first, table=logins)
        left = db.execute(sa.select(Login.user_id, Login.browser).order_by(Login.user_id)).all()
        assert [tuple(row) for row in left] == [(1, "Safari"), (2, "Firefox")]
        end_session(db, other, logins)
        purge_sessions(db, START + 3 * DAY, logins)
        assert db.scalars(sa.select(Login)).all() == []


# ---------------------------------------------------------------- one's own request session


def keep_cookies(request: Request, lines: list[str]) -> None:
    request.state.lines = lines


def cookie_line(name: str, value: str, max_age: int) -> str:
    return f"{name}={value}; Max-Age={max_age}"


def cookie_values(lines: list[str], name: str) -> list[str]:
    pairs = [pair.strip(" ").partition("=") for line in lines for pair in line.split(";")]
    return [value for key, _, value in pairs if key == name]


def get_db(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as db:
        yield db


def current_user(request: Request, db: Annotated[Session, Depends(get_db)]) -> User:
    sent = cookie_values(request.headers.getlist("cookie"), "__Host-session")
    token = sent[0] if len(sent) == 1 else ""  # two: somebody has planted one
    found = find_session(db, token, datetime.now(UTC), Lifetimes())
    db.commit()  # the moved end stays, even if the route fails later
    user = found and db.get(User, int(found.user_id))
    if found is None or user is None or not user.active:
        raise HTTPException(401)
    if found.moved:
        left = found.expires_at - datetime.now(UTC)
        age = left // timedelta(seconds=1)
        keep_cookies(request, [cookie_line("__Host-session", token, age)])
    return user


@pytest.fixture
def shop(engine: sa.Engine) -> Iterator[TestClient]:
    Base.metadata.create_all(engine)
    app = FastAPI()
    app.state.engine = engine

    @app.get("/me")
    def me(request: Request, user: Annotated[User, Depends(current_user)]) -> dict[str, Any]:
        return {"name": user.name, "cookies": getattr(request.state, "lines", [])}

    @app.get("/fails")
    def fails(user: Annotated[User, Depends(current_user)]) -> None:
        raise HTTPException(404)

    with Session(engine) as db, db.begin():
        db.add_all([User(id=1, name="ada"), User(id=2, name="bob", active=False)])
    with TestClient(app) as client:
        yield client


def signed_in(shop: TestClient, user: int, age: timedelta) -> None:
    with shop.app.state.engine.begin() as db:  # type: ignore[attr-defined]
        token = start_session(db, str(user), datetime.now(UTC) - age, Lifetimes(), None)
    shop.cookies.clear()
    shop.headers["cookie"] = f"__Host-session={token}"


def test_a_planted_cookie_signs_nobody_in(shop: TestClient) -> None:
    signed_in(shop, 1, timedelta(0))
    good = shop.headers["cookie"]
    for planted in (f"{good}; {good}", f"\xa0{good}", f"\x85{good}"):
        assert shop.get("/me", headers={"cookie": planted.encode("latin-1")}).status_code == 401
    assert shop.get("/me").status_code == 200


def test_a_user_with_an_integer_id_is_found(shop: TestClient) -> None:
    assert shop.get("/me").status_code == 401
    signed_in(shop, 1, timedelta(0))
    assert shop.get("/me").json() == {"name": "ada", "cookies": []}
    signed_in(shop, 2, timedelta(0))
    assert shop.get("/me").status_code == 401, "not active"
    signed_in(shop, 3, timedelta(0))
    assert shop.get("/me").status_code == 401, "deleted"


def test_the_moved_end_stays_although_the_route_fails(shop: TestClient) -> None:
    signed_in(shop, 1, 2 * DAY)
    assert shop.get("/fails").status_code == 404
    with shop.app.state.engine.connect() as db:  # type: ignore[attr-defined]
        assert db.scalar(sa.select(sessions.c.expires_at)) > datetime.now(UTC) + 6 * DAY


def test_the_cookie_is_kept_no_longer_than_the_session(shop: TestClient) -> None:
    signed_in(shop, 1, 2 * DAY)
    [line] = shop.get("/me").json()["cookies"]
    assert line.startswith(shop.headers["cookie"]), "the cookie that is read is the one that is set"
    seconds = int(line.partition("Max-Age=")[2])
    assert 7 * 86_400 - 60 < seconds < 7 * 86_400


# ---------------------------------------------------------------- a sign-in while the password changes

STILL = """
UPDATE users SET password_hash = :hash
WHERE id = :id AND password_hash = :hash RETURNING id
"""


def test_an_old_password_opens_no_session_while_it_changes(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as db, db.begin():
        db.add(User(id=1, name="ada"))

    def sign_in(meanwhile: Callable[[], None]) -> str | None:
        with engine.begin() as db:
            compared = db.scalar(sa.select(User.password_hash))
            if compared != "old":
                return None
            meanwhile()
            if db.execute(sa.text(STILL), {"hash": compared, "id": 1}).first() is None:
                return None
            return start_session(db, "1", START, Lifetimes(), None)

    def change_password() -> None:
        with engine.begin() as db:
            db.execute(sa.update(User).values(password_hash="new").returning(User.id)).all()
            end_sessions(db, "1")

    assert sign_in(lambda: None)
    token = conflict = None
    try:
        token = sign_in(change_password)
    except sa.exc.DBAPIError as error:
        conflict = str(error)
    assert token is None
    assert ("onflict" in str(conflict)) is (engine.dialect.name == "duckdb")
    assert sign_in(lambda: None) is None  # the retry
    with engine.connect() as db:
        assert db.execute(sa.select(sessions)).all() == []


# ---------------------------------------------------------------- attacks on any service

TLS = ssl.create_default_context()  # reads all certificates, so only once


def browser(url: str, cookie: str | None = None) -> httpx.Client:
    headers = {} if cookie is None else {"cookie": cookie}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=TLS)


def sign_in(client: httpx.Client, name: str) -> None:
    client.post(f"/sign-in/{name}").raise_for_status()


def who(client: httpx.Client) -> str:
    answer = client.get("/me")
    return answer.json().get("name") or "nobody"


def attack(
    url: str,
    read_table: Callable[[], list[Any]],
    sign_in: Callable[[httpx.Client, str], None] = sign_in,
    who: Callable[[httpx.Client], str] = who,
    cookie: str = "session",
) -> dict[str, str]:
    """Whom the service at `url` takes Mallory for, after each of three attacks.

    `read_table()` returns all values in the table of sessions. `sign_in(client, name)`
    and `who(client)` use the service; without a session `who` returns "nobody".
    """

    def with_one_of(values: Any) -> str:
        for value in values:
            with browser(url, f"{cookie}={value}") as mallory:
                if who(mallory) != "nobody":
                    return who(mallory)
        return "nobody"

    became = {}
    with browser(url) as mallory, browser(url) as ada:
        sign_in(mallory, "mallory")
        ada.cookies.update(mallory.cookies)
        sign_in(ada, "ada")
        became["a planted cookie"] = who(mallory)
        became["a copy of the table"] = with_one_of(read_table())
        cookies = [one for one in ada.cookies.jar if one.name == cookie]
        seen = [one for one in cookies if not one.has_nonstandard_attr("HttpOnly")]
        became["a script in the page"] = with_one_of(one.value for one in seen)
    return became


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL of `app` on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def another_service(engine: sa.Engine, weak: bool) -> FastAPI:
    """A service with routes and a cookie of its own. `weak`: it keeps tokens in memory, as they are."""
    app = FastAPI()
    app.state.names = {}

    @app.post("/login")
    def login(email: str, request: Request, response: Response) -> None:
        old = request.cookies.get("sid")
        if weak:
            token = old or secrets.token_hex(16)
            app.state.names[token] = email
        else:
            with engine.begin() as db:
                token = start_session(db, email, datetime.now(UTC), Lifetimes(), old)
        response.set_cookie("sid", token, httponly=not weak)

    @app.get("/account")
    def account(request: Request) -> dict[str, str]:
        token = request.cookies.get("sid", "")
        with engine.begin() as db:
            found = find_session(db, token, datetime.now(UTC), Lifetimes())
        name = app.state.names.get(token) if weak else found and found.user_id
        if name is None:
            raise HTTPException(401)
        return {"email": name}

    return app


@pytest.mark.parametrize(("weak", "is_then"), [(True, "ada"), (False, "nobody")])
def test_the_attacks_run_against_a_service_with_other_routes(engine: sa.Engine, weak: bool, is_then: str) -> None:
    def log_in(client: httpx.Client, name: str) -> None:
        client.post("/login", params={"email": name}).raise_for_status()

    def account(client: httpx.Client) -> str:
        answer = client.get("/account")
        return "nobody" if answer.status_code == 401 else str(answer.json()["email"])

    def read_table() -> list[Any]:
        with engine.connect() as db:
            values = [value for row in db.execute(sa.select(sessions)) for value in row]
        return values or list(app.state.names)

    app = another_service(engine, weak)
    with served(app) as url:
        became = attack(url, read_table, log_in, account, cookie="sid")
    assert set(became.values()) == {is_then}
    assert len(became) == 3
