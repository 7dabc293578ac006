"""A database that a test gets after another one is as new, or it is a new one."""

from collections.abc import Iterator

import psycopg
import pytest
import reused
import sqlalchemy as sa
from reused import Databases

from playbook.foundations.engines import Base, make_engine
from playbook.pantry.app import prepare
from playbook.pantry.history import current, drift, heads

USER = """INSERT INTO users (id, email, name, email_verified, created_at, updated_at)
    SELECT gen_random_uuid(), number || '@example.com', 'Ada', false, now(), now() FROM generate_series(1, {}) number"""


@pytest.fixture(scope="module")
def databases(postgres_server: str, database_options: str) -> Iterator[Databases]:
    made = Databases(postgres_server, prepare, database_options)
    yield made
    made.close()


def oid(url: str) -> int:
    with reused.connected(url) as connection:
        row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def left(databases: Databases, *statements: str) -> bool:
    """Whether a test that leaves this behind leaves the database to the next one, which then finds it as new."""
    with databases.database() as url:
        before = oid(url)
        with reused.connected(url) as connection:
            for statement in statements:
                connection.execute(statement.encode())
    with databases.database() as url:
        if oid(url) != before:
            return False
        engine = make_engine(url)
        assert current(engine) == heads()
        assert drift(engine, Base.metadata) == []
        with engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
        engine.dispose()
        return True


def test_rows_are_deleted(databases: Databases) -> None:
    changes = "UPDATE users SET name = 'Mallory'", "DELETE FROM users WHERE email < '2'"
    assert left(databases, USER.format(3), *changes)  # few: nothing for autovacuum, which would alter the catalogues
    assert left(databases, "BEGIN; DROP TABLE users CASCADE; ROLLBACK", "SET work_mem = '1MB'")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE hers (id integer)",
        "CREATE SCHEMA hers",
        "CREATE SEQUENCE hers",
        "ALTER TABLE users ADD COLUMN hers integer",
        "ALTER TABLE users ALTER COLUMN name SET DEFAULT 'Ada'",
        "ALTER TABLE users ALTER COLUMN name SET STATISTICS 5",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "CREATE INDEX hers ON users (name)",
        "DROP INDEX ix_packages_updated",
        "CREATE FUNCTION hers() RETURNS integer LANGUAGE SQL AS 'SELECT 1'",
        "COMMENT ON TABLE users IS 'hers'",
        "GRANT SELECT ON users TO PUBLIC",
        "SELECT lo_create(0)",
        "DELETE FROM alembic_version",
        "UPDATE alembic_version SET version_num = version_num",
        USER.format(100) + "; ANALYZE users",
        "VACUUM users",
        USER.format(2000),
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 7', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$",
    ],
)
def test_after_anything_else_it_is_a_new_one(databases: Databases, statement: str) -> None:
    assert not left(databases, statement)


def test_nothing_that_still_runs_finds_it(databases: Databases) -> None:
    with databases.database() as url:
        before, engine = oid(url), make_engine(url)
        working = engine.connect()
        working.exec_driver_sql(USER.format(3))  # neither committed nor rolled back, and it holds locks
        idle = psycopg.connect(reused.postgres._for_psycopg(url))
    with databases.database() as url:
        assert oid(url) == before
        with pytest.raises(psycopg.Error):
            idle.execute("SELECT 1")
        with pytest.raises(sa.exc.OperationalError):
            working.exec_driver_sql("SELECT 1")
        with pytest.raises(sa.exc.OperationalError), engine.connect():  # as its pool would, to go on
            pass
        with reused.connected(url) as connection:
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    engine.dispose()


def test_a_test_may_take_two_and_may_fail(databases: Databases) -> None:
    with databases.database() as first, databases.database() as second:
        two = {oid(first), oid(second)}
    assert len(two) == 2
    with databases.database() as first, databases.database() as second:
        assert {oid(first), oid(second)} == two
    with pytest.raises(ZeroDivisionError), databases.database():
        1 / 0  # noqa: B018
    assert left(databases)


def test_one_that_a_test_has_dropped_is_not_missed(databases: Databases) -> None:
    with databases.database() as url:
        databases.drop(url)
    assert left(databases)


def test_nothing_stays_at_the_end(postgres_server: str, database_options: str) -> None:
    made = Databases(postgres_server, prepare, database_options)
    with made.database() as one, made.database() as other:
        assert one != other
    kept = [*map(reused.name_of, made.facts)]
    made.close()
    with reused.connected(postgres_server) as connection:
        found = connection.execute("SELECT count(*) FROM pg_database WHERE datname = ANY(%s)", [kept]).fetchone()
    assert (len(kept), found) == (2, (0,))
