"""A connection that the server has closed is noticed before it is used, without asking the server about the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.kit import postgres
from playbook.pantry import connections
from playbook.pantry.connections import look_before_asking, suit_look_ups

PID = sa.text("SELECT pg_backend_pid()")


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    try:
        with postgres.server() as server, postgres.database(server) as url:
            engine = make_engine(url, pool_size=1, max_overflow=0)
            engine.dialect.asked = []  # type: ignore[attr-defined]
            ask = engine.dialect.do_ping
            engine.dialect.do_ping = lambda c: engine.dialect.asked.append(c) or ask(c)  # type: ignore
            yield look_before_asking(engine)
            engine.dispose()
    except postgres.PostgresUnavailable as error:
        pytest.skip(str(error))


def pid(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.execute(PID).scalar_one())


def test_a_living_connection_is_not_asked(engine: sa.Engine) -> None:
    assert pid(engine) == pid(engine) == pid(engine)
    assert engine.dialect.asked == []  # type: ignore[attr-defined]


def test_one_that_was_silent_for_long_is_asked(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE", 0)
    assert pid(engine) == pid(engine)
    assert len(engine.dialect.asked) == 1  # type: ignore[attr-defined]


def test_one_that_the_server_has_closed_is_replaced_at_once(engine: sa.Engine) -> None:
    before = pid(engine)
    other = make_engine(engine.url.render_as_string(hide_password=False))
    with other.begin() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before})
    other.dispose()
    assert pid(engine) != before
    assert len(engine.dialect.asked) == 1  # type: ignore[attr-defined]


def test_another_engine_is_left_as_it_is() -> None:
    duckdb = make_engine("duckdb:///:memory:connections")
    ping = duckdb.dialect.do_ping
    assert look_before_asking(duckdb).dialect.do_ping == ping


@pytest.mark.parametrize("where", [":memory:suited", "{tmp_path}/suited.duckdb"])
def test_duckdb_is_set_up_for_look_ups_and_recovered(where: str, tmp_path: Path) -> None:
    """Each connection, and before the CHECKPOINT of a file that is opened, which would compress what was written."""
    engine = suit_look_ups(make_engine(f"duckdb:///{where.format(tmp_path=tmp_path)}"))
    settings = sa.text(
        "SELECT current_setting('threads'), current_setting('force_compression'), current_setting('user')"
    )
    try:
        for _ in range(2):
            with engine.connect() as connection, engine.connect() as other:
                assert connection.execute(settings).one() == other.execute(settings).one()
                assert tuple(other.execute(settings).one()) == (1, "uncompressed", "recovered")
            engine.dispose()
    finally:
        engine.dispose()
