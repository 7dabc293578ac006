"""What the tests' `prepare` sends again makes what Alembic makes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import prepared
import pytest
import sqlalchemy as sa

from playbook.foundations.engines import Base, make_engine
from playbook.kit import postgres
from playbook.pantry import app
from playbook.pantry.history import current, drift, heads
from playbook.pantry.history import prepare as real

FACTS = {
    "duckdb": "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_indexes()",
    "postgresql": """
        SELECT concat_ws(' ', table_name, column_name, ordinal_position, data_type, is_nullable, column_default)
          FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'""",
}


def made(url: str, prepare: Callable[[sa.Engine], None]) -> tuple[list[str], bool, list[str]]:
    engine = make_engine(url)
    prepare(engine)
    with engine.connect() as connection:
        facts = sorted(connection.exec_driver_sql(FACTS[engine.dialect.name]).scalars())
    found = drift(engine, Base.metadata), current(engine) == heads(), facts
    engine.dispose()
    return found


@pytest.fixture
def another_url(url: str, postgres_server: str) -> Iterator[str]:
    if url.startswith("duckdb"):
        yield f"{url}_again"
        return
    with postgres.database(postgres_server) as another:
        yield another


def test_a_database_that_is_prepared_again_is_as_the_first(url: str, another_url: str) -> None:
    remembered = prepared.Remembered(real)
    first = made(url, remembered)
    assert first[:2] == ([], True)
    assert len(remembered.texts) == 1
    assert made(another_url, remembered) == first


def test_one_with_tables_or_in_a_file_gets_the_real(url: str, tmp_path: Path) -> None:
    asked = list[sa.Engine]()
    remembered = prepared.Remembered(lambda engine, *given: asked.append(engine))
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE hers (id integer)")
    remembered(engine)
    in_a_file = make_engine(f"duckdb:///{tmp_path}/pantry.duckdb")
    remembered(in_a_file)
    assert asked == [engine, in_a_file]
    for each in asked:
        each.dispose()


def test_the_service_of_the_tests_begins_so() -> None:
    assert isinstance(app.prepare, prepared.Remembered)
