"""What the recipe promises, on SQLite. Needs pytest, hypothesis and sqlalchemy, nothing else."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import orm

from playbook.auth.mailed_links import (
    FORM,
    drop_links,
    find_link,
    hash_of,
    links,
    mailed_url,
    new_link,
    purge_links,
    read_link,
    take_link,
)

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path}/links.sqlite", connect_args={"timeout": 60})
    links.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture(params=["connection", "session"])
def db(engine: sa.Engine, request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "connection":
        with engine.begin() as connection:
            yield connection
    else:
        with orm.Session(engine) as session, session.begin():
            yield session


def mailed(db: Any, purpose: str = "confirm", user_id: str | None = "7", email: str = "ada@example.com") -> str:
    return new_link(db, purpose, user_id, email, NOW, HOUR)


def purposes(db: Any) -> list[tuple[str, str]]:
    rows = db.execute(sa.select(links.c.user_id, links.c.purpose))
    return sorted((str(user), purpose) for user, purpose in rows)


def test_a_link_is_taken_once_and_says_whose_it_is(db: Any) -> None:
    token = mailed(db)
    link = take_link(db, token, "confirm", NOW)
    assert link is not None
    assert (link.user_id, link.email, link.purpose) == ("7", "ada@example.com", "confirm")
    assert (link.created_at, link.expires_at) == (NOW, NOW + HOUR)
    assert link.expires_at.tzinfo is UTC
    assert [take_link(db, token, "confirm", NOW), read_link(db, token)] == [None, None]


@pytest.mark.parametrize(("after", "good"), [(timedelta(0), True), (HOUR - timedelta(microseconds=1), True),
                                             (HOUR, False), (2 * HOUR, False)])  # fmt: skip
def test_a_link_is_good_until_it_expires(db: Any, after: timedelta, good: bool) -> None:
    token = mailed(db)
    assert (find_link(db, token, "confirm", NOW + after) is not None) == good
    assert (take_link(db, token, "confirm", NOW + after) is not None) == good
    assert (read_link(db, token) is None) == good, "an expired link can be read, and is not used up"


def test_another_zone_is_the_same_time(db: Any) -> None:
    token = mailed(db)
    rome = timezone(timedelta(hours=1))
    assert take_link(db, token, "confirm", (NOW + HOUR).astimezone(rome)) is None
    assert take_link(db, token, "confirm", (NOW + HOUR / 2).astimezone(rome)) is not None


def test_a_time_without_a_zone_is_refused(db: Any) -> None:
    with pytest.raises((ValueError, sa.exc.StatementError), match="time zone"):
        new_link(db, "confirm", "7", "ada@example.com", NOW.replace(tzinfo=None), HOUR)


def test_a_link_is_good_for_its_purpose_only(db: Any) -> None:
    token = mailed(db, "confirm")
    assert [find_link(db, token, "reset", NOW), take_link(db, token, "reset", NOW)] == [None, None]
    assert find_link(db, token, "confirm", NOW) is not None


def test_looking_uses_nothing_up(db: Any) -> None:
    token = mailed(db)
    assert all(find_link(db, token, "confirm", NOW) for _ in range(3))
    assert take_link(db, token, "confirm", NOW) is not None


def test_the_table_holds_nothing_that_opens_a_link(db: Any) -> None:
    token = mailed(db)
    row = db.execute(sa.select(links)).one()
    assert token not in str(row)
    assert len(token) == 43
    for value in row:
        assert take_link(db, str(value), "confirm", NOW) is None
    assert row.token_hash == hash_of(token)


def test_two_tokens_are_never_the_same_and_can_be_chosen(db: Any) -> None:
    assert len({mailed(db) for _ in range(50)}) == 50
    assert new_link(db, "confirm", "7", "a@b.example", NOW, HOUR, make_token=lambda: "chosen") == "chosen"
    assert take_link(db, "chosen", "confirm", NOW) is not None


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token=st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_a_token_that_is_not_known(engine: sa.Engine, token: str) -> None:
    with engine.begin() as db:
        mailed(db)
        assert [read_link(db, token), take_link(db, token, "confirm", NOW)] == [None, None]


def test_a_rollback_makes_the_link_good_again(engine: sa.Engine) -> None:
    with engine.begin() as db:
        token = mailed(db)
    with engine.connect() as db:
        assert take_link(db, token, "confirm", NOW) is not None
        db.rollback()
    with engine.begin() as db:
        assert take_link(db, token, "confirm", NOW) is not None


def test_of_fifty_at_once_one_succeeds(engine: sa.Engine) -> None:
    with engine.begin() as db:
        token = mailed(db)
    gate = threading.Barrier(16)

    def take(number: int) -> bool:
        if number < 16:
            gate.wait(60)
        with engine.begin() as db:
            return take_link(db, token, "confirm", NOW) is not None

    with ThreadPoolExecutor(16) as threads:
        assert sorted(threads.map(take, range(50))) == [False] * 49 + [True]


def test_dropping_ends_the_links_of_one_user_and_of_the_purposes_named(db: Any) -> None:
    for user in ("7", "8"):
        for purpose in ("confirm", "reset", "move"):
            mailed(db, purpose, user)
    drop_links(db, "7", "reset", "move")
    assert [purpose for user, purpose in purposes(db) if user == "7"] == ["confirm"]
    drop_links(db, "7")
    assert purposes(db) == [("8", "confirm"), ("8", "move"), ("8", "reset")]


def test_dropping_for_nobody_leaves_the_links_that_are_not_yet_anybodys(db: Any) -> None:
    token = mailed(db, "join", None)
    drop_links(db, None)
    drop_links(db, None, "join")
    assert read_link(db, token) is not None


def test_purging_deletes_what_has_expired_and_nothing_else(db: Any) -> None:
    old = mailed(db)
    young = new_link(db, "confirm", "7", "ada@example.com", NOW, 2 * HOUR)
    purge_links(db, NOW + HOUR - timedelta(seconds=1))
    assert len(purposes(db)) == 2
    purge_links(db, NOW + HOUR)
    assert [read_link(db, old) is None, read_link(db, young) is None] == [True, False]


def test_a_link_can_be_mailed_before_there_is_a_user(db: Any) -> None:
    link = take_link(db, mailed(db, "join", None), "join", NOW)
    assert link is not None
    assert (link.user_id, link.email) == (None, "ada@example.com")


def test_another_table_with_these_columns_serves(engine: sa.Engine) -> None:
    columns = [sa.Column(name, sa.String) for name in ("token_hash", "purpose", "email", "campaign")]
    times = [sa.Column(name, type(links.c.created_at.type)()) for name in ("created_at", "expires_at")]
    other = sa.Table("mailings", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
                     sa.Column("user_id", sa.Integer), *columns, *times)  # fmt: skip
    other.create(engine)
    with engine.begin() as db:
        more: dict[str, Any] = {"table": other, "campaign": "winter"}
        first, second, third = (new_link(db, "news", 7, "ada@example.com", NOW, HOUR, **more) for _ in range(3))
        assert read_link(db, first) is None
        found = find_link(db, first, "news", NOW, other)
        assert found is not None
        assert (found.campaign, found.user_id) == ("winter", 7)
        taken = take_link(db, first, "news", NOW, other)
        assert taken is not None
        assert taken.id == found.id
        drop_links(db, 8, table=other)
        assert read_link(db, second, other) is not None
        purge_links(db, NOW + HOUR, other)
        assert read_link(db, third, other) is None


def test_the_token_stands_where_no_browser_sends_it() -> None:
    assert mailed_url("https://pantry.example/confirm", "abc") == "https://pantry.example/confirm#abc"
    assert mailed_url("http://localhost:8000/a/b", "abc") == "http://localhost:8000/a/b#abc"


@pytest.mark.parametrize("page", ["/confirm", "//evil.example/confirm", "https://pantry.example", "pantry.example/x",
                                  "https://pantry.example/x?a=1", "https://pantry.example/x#y", "javascript:alert(1)",
                                  "https:///x", "https://pantry.example/x\nBcc: m@evil.example", ""])  # fmt: skip
def test_a_page_that_is_no_whole_url_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="should be like"):
        mailed_url(page, "abc")


def test_the_page_sends_nothing_before_the_button() -> None:
    before, _, handler = FORM.partition("onclick")
    assert "fetch" not in before
    assert "fetch" in handler
    assert "replaceState" in before
