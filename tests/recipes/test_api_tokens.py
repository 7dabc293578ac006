"""What the recipe promises, on SQLite and DuckDB. Needs pytest, fastapi and httpx, nothing else."""

import base64
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from sqlalchemy import orm
from sqlalchemy.orm import Session

from playbook.auth.api_tokens import (
    BASIC,
    Granted,
    add_token,
    api_tokens,
    challenge,
    find_leaks,
    find_token,
    revoke_leaks,
    revoke_tokens,
    sent_token,
)
from playbook.foundations.clock_and_identifiers import hash_token, is_token, new_token

ALONE = {"sqlite": "", "duckdb": "?threads=1"}  # more would be woken for each statement, and these touch few rows
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 11, 2, tzinfo=UTC)
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def engine_for(kind: str, folder: Path) -> sa.Engine:
    pytest.importorskip({"sqlite": "sqlite3", "duckdb": "duckdb_sqlalchemy"}[kind])
    return sa.create_engine(f"{kind}:///{folder}/tokens.db{ALONE[kind]}", poolclass=sa.QueuePool)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    engine = engine_for(request.param, tmp_path)
    api_tokens.metadata.create_all(engine)
    yield engine
    engine.dispose()


def added(db: Any, user: str = "ada", scopes: Any = ("read",), ends: datetime = START + 90 * DAY) -> str:
    return add_token(db, "shop", user, "CI", scopes, ends)


# ---------------------------------------------------------------- the table and the look-up


@pytest.mark.parametrize("orm_session", [False, True])
def test_it_answers_as_the_model_in_any_order_of_calls(engine: sa.Engine, orm_session: bool) -> None:
    """The model in plain Python: token -> [user, scopes, end, when its use was noted]."""
    chance = random.Random(f"{engine.dialect.name} {orm_session}")
    model: dict[str, list[Any]] = {}
    tokens, now = ["unknown", new_token("shop")], START
    for _ in range(250):
        now += chance.choice([0, 20, 45, 600]) * timedelta(minutes=1)
        call = chance.choice(["add", "find", "find", "find", "revoke", "leak", "purge"])
        token, user = chance.choice(tokens[-6:]), chance.choice(["1", "2"])
        with Session(engine) if orm_session else engine.connect() as db:
            if call == "add":
                scopes, ends = chance.sample(["read", "write", "a:b"], chance.randint(1, 3)), now + 12 * HOUR
                tokens.append(added(db, user, scopes, ends))
                model[tokens[-1]] = [user, frozenset(scopes), ends, None]
            elif call == "revoke" and chance.random() < 0.4:
                theirs = {each for each, row in model.items() if row[0] == user}
                owners = revoke_tokens(db, api_tokens.c.user_id == user)
                assert owners == [user] * bool(theirs)
                model = {each: row for each, row in model.items() if each not in theirs}
            elif call == "leak" and chance.random() < 0.4:
                known = model.pop(token, None)
                assert revoke_leaks(db, f"header: {token}\n", "shop") == ([known[0]] if known else [])
            elif call == "purge":
                revoke_tokens(db, api_tokens.c.expires_at <= now)
                model = {each: row for each, row in model.items() if row[2] > now}
            elif call == "find":
                found, row = find_token(db, token, now, "shop"), model.get(token)
                assert (found and found[1:]) == (tuple(row[:2]) if row and row[2] > now else None)
                if row and found and (row[3] is None or now - row[3] >= HOUR):
                    row[3] = now
            rows = db.execute(sa.select(api_tokens.c["token_hash", "last_used_at"])).all()
            assert dict(map(tuple, rows)) == {hash_token(each): row[3] for each, row in model.items()}
            db.commit()


def test_no_column_has_the_token(engine: sa.Engine) -> None:
    with engine.begin() as db:
        token = added(db)
        [row] = db.execute(sa.select(api_tokens))
    assert not any(token in str(value) for value in row)
    assert row.token_hash == hash_token(token)
    assert row.id not in token, "the handle says nothing of the token"


def test_a_use_that_a_revocation_overtakes_opens_nothing(engine: sa.Engine) -> None:
    """It comes between the SELECT and the UPDATE. DuckDB reports a conflict, others find no row."""
    with engine.begin() as db:
        token = added(db)
    ended = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def end_it_first(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if sql.startswith("UPDATE") and not ended:
            ended.append(token)
            with engine.begin() as other:
                revoke_tokens(other, api_tokens.c.user_id == "ada")

    found = conflict = None
    try:
        with engine.begin() as db:
            found = find_token(db, token, START, "shop")
    except sa.exc.DBAPIError as error:
        conflict = str(error)
    assert ended
    assert ("onflict" in str(conflict)) is (engine.dialect.name == "duckdb")
    assert found is None


@pytest.mark.parametrize("scopes", [[], ["a b"], [""], ['a"b'], ["a\\b"], ["a\nb"], ["ä"], "a b", "read", ["ok", " "]])
def test_scopes_that_no_header_can_say_are_refused(engine: sa.Engine, scopes: Any) -> None:
    with engine.begin() as db, pytest.raises(ValueError, match="list of scopes"):
        add_token(db, "shop", "ada", "CI", scopes, START)


def test_only_formed_tokens_of_this_service_are_looked_up(engine: sa.Engine) -> None:
    asked: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda c, cursor, sql, *rest: asked.append(sql))
    with engine.begin() as db:
        good = added(db)
        asked.clear()
        for wrong in ("", "x", good[:-1], f"{good}a", good.swapcase(), new_token("sho"), f"{good}\n", f" {good}"):
            assert find_token(db, wrong, START, "shop") is None
        assert asked == []
        assert find_token(db, good, START, "shop") is not None


def test_a_token_has_190_random_bits() -> None:
    tokens = {new_token("shop") for _ in range(200)}
    assert len(tokens) == 200
    assert all(len(token) == len("shop_") + 38 for token in tokens)
    assert len({token[5:37] for token in tokens}) == 200


# ---------------------------------------------------------------- what is sent, and refused


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("sent", "token"),
    [
        ([], None), ([""], None), (["Bearer t"], "t"), (["bearer t"], "t"), (["BEARER  t "], "t"), (["Bearer"], ""),
        (["Bearer a b"], "a b"), (["Token t"], None), (["t"], None), (["Bearer t", "Bearer t"], ""),
        (["Bearer t", basic(b"__token__:u")], ""), ([basic(b"__token__:t")], "t"),
        ([basic(b"__token__:t").replace("Basic", "bASIC")], "t"), ([basic(b"__token__:")], ""),
        ([basic(b"__token__:a:b")], "a:b"), ([basic(b"ada:t")], None), ([basic(b"__TOKEN__:t")], None),
        ([basic(b"__token__")], ""), ([basic(b"\xff:t")], None), (["Basic %"], None), (["Basic"], None),
        (["Basic X190b2tlbl9fOnQ"], None), (["Digest X190b2tlbl9fOnQ="], None), (["Basic X190b2tlbl9fOnQ=!"], None),
    ],
)  # fmt: skip
def test_what_an_authorization_says(sent: list[str], token: str | None) -> None:
    assert sent_token(sent) == token


def test_no_bytes_that_a_client_may_send_make_it_fail() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        noise = bytes(chance.choices(range(256), k=chance.randint(0, 30))).decode("latin-1")
        for scheme in ("", "Basic ", "Bearer ", "Basic X190b2tlbl9f"):
            assert isinstance(sent_token([scheme + noise]), str | None)


def test_a_challenge_says_what_rfc_6750_says() -> None:
    assert challenge("shop") == {"WWW-Authenticate": 'Bearer realm="shop"'}
    assert challenge("shop", "invalid_token")["WWW-Authenticate"] == 'Bearer realm="shop", error="invalid_token"'
    said = 'Bearer realm="shop", error="insufficient_scope", scope="a:b"'
    assert challenge("shop", "insufficient_scope", "a:b") == {"WWW-Authenticate": said}


# ---------------------------------------------------------------- the scanner


def noise(chance: random.Random, most: int) -> str:
    return "".join(chance.choices(ALPHABET + "_ /:=\"'@.,-\n", k=chance.randint(0, most)))


def test_it_finds_every_token_wherever_it_stands_and_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(300):
        tokens = [new_token("shop") for _ in range(chance.randint(0, 3))]
        text = noise(chance, 60)
        for token in tokens:
            put = chance.choice([token, basic(f"__token__:{token}".encode()), f"https://__token__:{token}@a.example/"])
            text += put + chance.choice(["\n", " ", '"', "/"]) + noise(chance, 60)
        found = list(find_leaks(text, "shop"))
        assert [token for _, token in found] == tokens or sorted(t for _, t in found) == sorted(tokens)
        for number, token in found:
            line = text.splitlines()[number - 1]
            assert token in line or BASIC.search(line)


def test_what_only_looks_like_one_is_no_leak() -> None:
    good, chance = new_token("shop"), random.Random(1)
    for place in range(5, len(good)):  # every single mistyped character
        wrong = good[:place] + ("a" if good[place] != "a" else "b") + good[place + 1 :]
        assert list(find_leaks(wrong, "shop")) == []
    made = "\n".join("shop_" + "".join(chance.choices(ALPHABET, k=38)) for _ in range(50_000))
    assert list(find_leaks(made, "shop")) == []
    assert list(find_leaks(good, "shoe")) == []
    assert [token for _, token in find_leaks(f"x{good}y", "shop")] == [good]


def test_a_prefix_is_text_and_no_pattern() -> None:
    assert list(find_leaks(new_token("shop"), "sh.p")) == []


# ---------------------------------------------------------------- a table of one's own, a request session, integer ids


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    name: orm.Mapped[str]
    active: orm.Mapped[bool] = orm.mapped_column(default=True)


class Key(Base):
    """More columns, and integer ids of users."""

    __tablename__ = "keys"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    token_hash: orm.Mapped[str] = orm.mapped_column(unique=True)
    user_id: orm.Mapped[int]
    name: orm.Mapped[str]
    scopes: orm.Mapped[str]
    expires_at = orm.mapped_column(api_tokens.c.expires_at.type)
    last_used_at = orm.mapped_column(api_tokens.c.last_used_at.type, nullable=True)
    made_by: orm.Mapped[str | None]


def test_any_table_with_these_columns_serves(engine: sa.Engine) -> None:
    keys: Any = Key.__table__
    Base.metadata.create_all(engine)
    with Session(engine) as db:

        def add(number: int) -> str:
            return add_token(
                db, "shop", number % 2, "CI", ["read"], START + number * DAY, keys, id=number, made_by="web"
            )

        first, second, _ = add(1), add(2), add(3)
        assert find_token(db, first, START, "shop", keys) == Granted(1, 1, frozenset({"read"}))
        assert db.scalars(sa.select(Key.last_used_at).order_by(Key.id)).all() == [START, None, None]
        assert revoke_tokens(db, sa.and_(keys.c.user_id == 1, keys.c.id == 2), keys) == [], "it is another user's"
        assert revoke_leaks(db, second, "shop", keys) == [0]
        assert revoke_tokens(db, keys.c.expires_at <= START + DAY, keys) == [1]
        assert db.scalars(sa.select(Key.id)).all() == [3]


def get_db(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as db:
        yield db


def token_user(request: Request, db: Annotated[Session, Depends(get_db)]) -> tuple[User, frozenset[str]]:
    sent = sent_token(request.headers.getlist("authorization"))
    if sent is None:
        raise HTTPException(401, headers=challenge("shop"))
    granted = find_token(db, sent, datetime.now(UTC), "shop")
    db.commit()  # the noted use stays, even if the route fails later
    user = granted and db.get(User, int(granted.user_id))
    if granted is None or user is None or not user.active:
        raise HTTPException(401, headers=challenge("shop", "invalid_token"))
    return user, granted.scopes


def test_the_use_with_a_request_session_and_integer_ids(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)
    app = FastAPI()
    app.state.engine = engine

    @app.get("/me")
    def me(found: Annotated[tuple[User, frozenset[str]], Depends(token_user)]) -> list[str]:
        user, scopes = found
        return [user.name, *sorted(scopes)]

    ends = datetime.now(UTC) + DAY
    with Session(engine) as db, db.begin():
        db.add_all([User(id=1, name="ada"), User(id=2, name="bob", active=False)])
        ada, bob, gone = (added(db, user, ["write", "read"], ends) for user in ("1", "2", "3"))
    with TestClient(app) as client:
        assert client.get("/me", headers={"authorization": f"Bearer {ada}"}).json() == ["ada", "read", "write"]
        assert client.get("/me", auth=("__token__", ada)).status_code == 200
        for token in (bob, gone, ada[:-1]):
            refused = client.get("/me", headers={"authorization": f"Bearer {token}"})
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Bearer realm="shop", error="invalid_token"'
        refused = client.get("/me", auth=httpx.BasicAuth("ada", "her password"))
        assert refused.headers["www-authenticate"] == 'Bearer realm="shop"'
    with engine.connect() as db:
        noted = db.scalars(sa.select(api_tokens.c.last_used_at).where(api_tokens.c.user_id == "1")).one()
        assert noted is not None
    assert is_token(ada, "shop")
