"""Pantry's history on both engines: the commands, drift, limits, the start of the service, orphans."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import before_sign_in  # noqa: F401  its imports register every table of Pantry
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import CommandLine
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from before_sign_in import BASELINE, pantry

from playbook.foundations.engines import NAMING, Base, Timestamp, make_engine
from playbook.kit.data import ROOT
from playbook.kit.live import serving
from playbook.migrations.drift import WrongSchema
from playbook.migrations.first_migration import current
from playbook.pantry import history as history_of_pantry
from playbook.pantry.history import drift, generate, upgrade
from playbook.pantry.migrating import LIMITS, migration_connection
from playbook.pantry.settings import Settings
from playbook.schema.relationships import Orphan, orphans

WHEN = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture
def engine(url: str) -> Any:
    made = make_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """An empty history with Pantry's environment."""
    for name in ("env.py", "script.py.mako"):
        shutil.copy(ROOT / "playbook" / "pantry" / "revisions" / name, tmp_path)
    (tmp_path / "versions").mkdir()
    return tmp_path


def things(*columns: Any, **more: Any) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table("things", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), *columns, **more)
    return metadata


def write(revision: Path, up: str, down: str = "pass") -> None:
    """Replace the two functions of a draft."""
    head = revision.read_text(encoding="utf-8").partition("def upgrade")[0]
    body = f"def upgrade():\n    {up}\n\n\ndef downgrade():\n    {down}\n"
    revision.write_text(head + body, encoding="utf-8")


def run(engine: sa.Engine, *statements: str) -> None:
    """Each in a transaction of its own: DuckDB minds what came before."""
    for statement in statements:
        with engine.begin() as connection:
            connection.execute(sa.text(statement))


def rows(engine: sa.Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


# ---------------------------------------------------------------- Pantry's history


def test_models_and_migrated_database_are_equal_up_down_and_up(engine: sa.Engine) -> None:
    for _ in range(2):
        upgrade(engine)
        assert current(engine) == history_of_pantry.heads()
        assert drift(engine, Base.metadata) == []
        assert set(sa.inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        history_of_pantry.downgrade(engine, "base")
        assert sa.inspect(engine).get_table_names() == ["alembic_version"]


def test_one_head_and_readable_ids() -> None:
    scripts = ScriptDirectory.from_config(history_of_pantry.alembic_config("duckdb"))
    ids = [script.revision for script in scripts.walk_revisions()]
    assert len(history_of_pantry.heads()) == 1
    assert {"0001_identity", "0002_catalog"} <= set(ids)
    assert all(len(name) <= history_of_pantry.ID_LIMIT for name in ids)
    assert all(Path(script.path).stem == script.revision for script in scripts.walk_revisions())


def test_revisions_depend_on_no_code_of_ours() -> None:
    for path in (ROOT / "playbook" / "pantry" / "revisions" / "versions").glob("*.py"):
        assert "playbook." not in path.read_text(encoding="utf-8"), path.name


def test_what_create_all_makes_is_the_baseline(engine: sa.Engine) -> None:
    """So a database made before there were migrations may be stamped with it."""
    upgrade(engine, BASELINE)
    inspector = sa.inspect(engine)
    tables = set(inspector.get_table_names()) - {"alembic_version"}
    before = sa.MetaData(naming_convention=NAMING)
    for name in tables:
        copy = Base.metadata.tables[name].to_metadata(before)
        there = {index["name"] for index in inspector.get_indexes(name)}
        copy.indexes -= {index for index in copy.indexes if index.name not in there}  # later revisions made them
        columns = {column["name"] for column in inspector.get_columns(name)}
        for later in [column for column in copy.columns if column.name not in columns]:
            copy.constraints -= {key.constraint for key in later.foreign_keys}
            copy._columns.remove(later)  # type: ignore[attr-defined]
    assert len(tables) == 11
    history_of_pantry.downgrade(engine, "base")
    before.create_all(engine)
    command.stamp(history_of_pantry.alembic_config(engine), BASELINE)
    history_of_pantry.prepare(engine) if history_of_pantry.heads() == (BASELINE,) else upgrade(engine)
    assert drift(engine, Base.metadata) == []


def test_foreign_keys_exist_on_postgresql_only(engine: sa.Engine) -> None:
    upgrade(engine)
    inspector = sa.inspect(engine)
    there = sum(len(inspector.get_foreign_keys(name)) for name in Base.metadata.tables)
    declared = sum(len(table.foreign_key_constraints) for table in Base.metadata.tables.values())
    assert there == (declared if engine.dialect.name == "postgresql" else 0)
    assert declared >= 13


# ---------------------------------------------------------------- drift

EVERYWHERE = {
    "ALTER TABLE users ADD COLUMN nickname VARCHAR": "op.drop_column('users', 'nickname')",
    "DROP INDEX ix_files_filename": "op.create_index(op.f('ix_files_filename'), 'files', ",
    "CREATE INDEX ix_by_hand ON packages (summary)": "op.drop_index(op.f('ix_by_hand'), table_name='packages')",
    "CREATE TABLE leftovers (id INTEGER)": "op.drop_table('leftovers')",
    "DROP TABLE verifications": "op.create_table('verifications', ",
}
ON_POSTGRESQL = {
    "ALTER TABLE organizations DROP COLUMN description": "op.add_column('organizations', sa.Column('description', ",
    "ALTER TABLE files ALTER size_bytes TYPE INTEGER": "op.alter_column('files', 'size_bytes', "
    "existing_type=sa.INTEGER(), type_=sa.BigInteger(), ",
    "ALTER TABLE files ALTER filename DROP NOT NULL": "op.alter_column('files', 'filename', "
    "existing_type=sa.VARCHAR(), nullable=False",
    "ALTER TABLE accounts ALTER provider SET DEFAULT 'github'": "op.alter_column('accounts', 'provider', ",
    "ALTER TABLE users DROP CONSTRAINT ck_users_email_lower": "users: ",
    "ALTER TABLE packages ADD CONSTRAINT named CHECK (name <> '')": "op.drop_constraint(op.f('named'), 'packages', ",
    "ALTER TABLE members DROP CONSTRAINT fk_members_user_id": "op.create_foreign_key(op.f('fk_members_user_id'), ",
    "ALTER TABLE packages ADD CONSTRAINT by_hand UNIQUE (name)": "op.drop_constraint(op.f('by_hand'), 'packages', ",
    "COMMENT ON TABLE users IS 'people'": "op.drop_table_comment(",
    "COMMENT ON COLUMN users.name IS 'as typed'": "op.alter_column('users', 'name', existing_type=sa.VARCHAR(), "
    "comment=None, ",
}


def test_drift_planted_by_hand_is_found(engine: sa.Engine) -> None:
    upgrade(engine)
    assert drift(engine, Base.metadata) == []
    planted = EVERYWHERE | (ON_POSTGRESQL if engine.dialect.name == "postgresql" else {})
    run(engine, *planted)
    found = drift(engine, Base.metadata)
    missing = [line for line in planted.values() if not any(one.startswith(line) for one in found)]
    assert missing == [], "\n".join(found)


def test_drift_in_columns_constraints_and_uniqueness(engine: sa.Engine) -> None:
    """The same faults on both engines, by models that differ: DuckDB cannot alter a table that has an index."""

    def model(
        kind: Any = sa.String, nullable: bool = False, check: bool = True, unique: bool = True, *more: Any
    ) -> Any:
        rules = [sa.CheckConstraint("id > 0", "positive")] if check else []
        name = sa.Column("name", kind, nullable=nullable)
        return things(name, *rules, sa.Index(None, "name", unique=unique), *more)

    model().create_all(engine)
    assert drift(engine, model()) == []
    [line] = drift(engine, model(nullable=True))
    assert line.startswith("op.alter_column('things', 'name', existing_type=sa.")
    assert line.endswith(", nullable=True)")
    [line] = drift(engine, model(sa.Integer))
    assert "type_=sa.Integer()" in line
    lines = drift(engine, model(unique=False))
    assert [line.partition("(")[0] for line in lines] == ["op.create_index", "op.drop_index"]
    lines = drift(engine, model(check=False))
    assert lines[-1] == "things: 1 CHECK constraints, not 0"
    dropped = ["op.drop_constraint(op.f('ck_things_positive'), 'things', type_='check')"]
    assert lines[:-1] == ([] if engine.dialect.name == "duckdb" else dropped)
    added = model(sa.String, False, True, True, sa.Column("added", sa.String))
    assert drift(engine, added) == ["op.add_column('things', sa.Column('added', sa.String(), nullable=True))"]


def test_drift_ignores_what_is_not_there_to_compare() -> None:
    engine = make_engine("duckdb:///:memory:no_foreign_keys")
    metadata = things(sa.Column("parent", sa.ForeignKey("things.id")))
    metadata.create_all(engine)
    assert drift(engine, metadata) == []


# ---------------------------------------------------------------- writing and running revisions


def test_a_draft_has_everything_and_no_type_of_ours(engine: sa.Engine, history: Path) -> None:
    made = generate(engine, "First: things, and more!", things(sa.Column("at", Timestamp)), history)
    text = made.read_text(encoding="utf-8")
    assert made.name == "0001_first_things_and_more.py"
    assert "sa.Column('at', sa.DateTime(timezone=True), nullable=True)" in text
    assert "pk_things" in text
    assert "playbook" not in text
    upgrade(engine, location=history)
    assert drift(engine, things(sa.Column("at", Timestamp))) == []


def test_ids_are_numbered_named_and_short_enough(engine: sa.Engine, history: Path) -> None:
    long = generate(engine, "a message that goes on and on and on and on", None, history)
    assert long.stem == "0001_a_message_that_goes_on_and"
    assert len(long.stem) <= history_of_pantry.ID_LIMIT
    upgrade(engine, location=history)
    assert generate(engine, "next", None, history).stem == "0002_next"
    assert history_of_pantry.heads(history) == ("0002_next",)
    assert current(engine) == (long.stem,)


def test_a_given_id_stays(engine: sa.Engine, history: Path) -> None:
    command.revision(history_of_pantry.alembic_config(engine, history), "mine", rev_id="mine")
    assert history_of_pantry.heads(history) == ("mine",)


def test_a_draft_against_a_database_that_is_behind_is_refused(engine: sa.Engine, history: Path) -> None:
    generate(engine, "one", None, history)
    with pytest.raises(CommandError, match="not up to date"):
        generate(engine, "two", things(), history)


def test_a_renamed_column_keeps_its_rows_both_ways(engine: sa.Engine, history: Path) -> None:
    generate(engine, "things", things(sa.Column("licence", sa.String), sa.Index(None, "licence")), history)
    upgrade(engine, location=history)
    run(engine, "INSERT INTO things (id, licence) VALUES (1, 'MIT')")
    draft = generate(engine, "respell", things(sa.Column("license", sa.String)), history)
    assert "drop_column('things', 'licence')" in draft.read_text(encoding="utf-8"), "Alembic asks by now: see the page"
    swap = "op.drop_index('ix_things_{0}', 'things'); op.alter_column('things', '{0}', new_column_name='{1}'); "
    swap += "op.create_index('ix_things_{1}', 'things', ['{1}'])"
    write(draft, swap.format("licence", "license"), swap.format("license", "licence"))
    for _ in range(2):
        upgrade(engine, location=history)
        assert drift(engine, things(sa.Column("license", sa.String), sa.Index(None, "license"))) == []
        assert rows(engine, "SELECT id, license FROM things") == [(1, "MIT")]
        history_of_pantry.downgrade(engine, "-1", history)
        assert rows(engine, "SELECT id, licence FROM things") == [(1, "MIT")]


def test_a_failing_migration_leaves_nothing_and_those_before_it_stay(engine: sa.Engine, history: Path) -> None:
    generate(engine, "things", things(), history)
    second = generate(engine, "fails", None, history)
    write(second, "op.add_column('things', sa.Column('a', sa.String())); op.execute('UPDATE things SET b = 1')")
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(engine, location=history)
    assert current(engine) == ("0001_things",)
    assert [column["name"] for column in sa.inspect(engine).get_columns("things")] == ["id"]
    assert engine.pool.checkedout() == 0
    write(second, "op.add_column('things', sa.Column('a_longer_name', sa.String()))")
    upgrade(engine, location=history)
    assert current(engine) == history_of_pantry.heads(history)


def test_a_batch_changes_a_table_with_rows_and_an_index(engine: sa.Engine) -> None:
    """On DuckDB in one copy of the table, which keeps rows, keys and rules; on PostgreSQL as plain ALTERs."""
    things(
        sa.Column("a", sa.String), sa.Column("b", sa.Integer), sa.Column("c", sa.String),
        sa.CheckConstraint("b > 0", "b"), sa.Index(None, "a", unique=True),
    ).create_all(engine)  # fmt: skip
    run(engine, "INSERT INTO things (id, a, b, c) VALUES (1, 'x', 10, 'gone'), (2, 'y', 20, 'gone')")
    with migration_connection(engine) as connection, connection.begin():
        op = Operations(MigrationContext.configure(connection))
        op.add_column("things", sa.Column("d", sa.String()))
        op.execute("UPDATE things SET d = upper(a)")
        with op.batch_alter_table("things") as batch:
            batch.alter_column("d", existing_type=sa.String(), nullable=False)
            batch.drop_column("c")
            batch.create_check_constraint(op.f("ck_things_d"), "d <> ''")
            batch.create_index("ix_things_d", ["d"])
    after = things(
        sa.Column("a", sa.String), sa.Column("b", sa.Integer), sa.Column("d", sa.String, nullable=False),
        sa.CheckConstraint("b > 0", "b"), sa.CheckConstraint("d <> ''", "d"),
        sa.Index(None, "a", unique=True), sa.Index(None, "d"),
    )  # fmt: skip
    assert drift(engine, after) == []
    assert rows(engine, "SELECT id, a, b, d FROM things ORDER BY id") == [(1, "x", 10, "X"), (2, "y", 20, "Y")]
    for wrong in ("(1, 'z', 1, 'Z')", "(3, 'x', 1, 'Z')", "(3, 'z', 0, 'Z')", "(3, 'z', 1, '')", "(3, 'z', 1, NULL)"):
        with pytest.raises(sa.exc.IntegrityError):
            run(engine, f"INSERT INTO things (id, a, b, d) VALUES {wrong}")


def test_foreign_keys_in_a_revision_are_made_on_postgresql_only(engine: sa.Engine, history: Path) -> None:
    first = generate(engine, "keys", None, history)
    write(
        first,
        "op.create_table('parents', sa.Column('id', sa.Integer, primary_key=True)); "
        "op.create_table('children', sa.Column('id', sa.Integer, primary_key=True), sa.Column('p', sa.Integer)); "
        "op.create_foreign_key('fk_children_p', 'children', 'parents', ['p'], ['id'])",
        "op.drop_constraint('fk_children_p', 'children', type_='foreignkey'); op.drop_table('children'); "
        "op.drop_table('parents')",
    )
    upgrade(engine, location=history)
    keys = [key["name"] for key in sa.inspect(engine).get_foreign_keys("children")]
    assert keys == (["fk_children_p"] if engine.dialect.name == "postgresql" else [])
    history_of_pantry.downgrade(engine, "base", history)
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]


def test_a_constraint_named_by_the_convention_has_one_name_however_it_is_run(url: str, history: Path) -> None:
    """On the command line Alembic knows the models and their convention; a program's call must not differ."""
    engine = make_engine(url)
    first = generate(engine, "things", None, history)
    write(first, "op.create_table('things', sa.Column('id', sa.Integer), sa.CheckConstraint('id > 0', name='low'))")
    upgrade(engine, location=history)
    if engine.dialect.name == "postgresql":
        assert [c["name"] for c in sa.inspect(engine).get_check_constraints("things")] == ["ck_things_low"]
    assert "ck_things_low" in history_of_pantry.offline_sql("postgresql", location=history)
    engine.dispose()


@pytest.mark.parametrize("dialect", ["duckdb", "postgresql"])
def test_sql_for_review(dialect: str) -> None:
    sql = history_of_pantry.offline_sql(dialect, "base:0002_catalog")
    assert "CREATE TABLE packages" in sql
    assert ("FOREIGN KEY" in sql) is (dialect == "postgresql")
    assert sql.count("BEGIN;") == sql.count("COMMIT;") == 2, "one transaction a migration"
    assert "CREATE TABLE users" not in history_of_pantry.offline_sql(dialect, "0001_identity:0002_catalog")


def test_several_threads_of_one_process_can_migrate(tmp_path: Path) -> None:
    def work(number: int) -> list[str]:
        engine = make_engine(f"duckdb:///{tmp_path / f'{number}.duckdb'}")
        upgrade(engine)
        history_of_pantry.downgrade(engine, "0001_identity")
        upgrade(engine)
        found = drift(engine, Base.metadata)
        engine.dispose()
        return found

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [[]] * 4


# ---------------------------------------------------------------- on PostgreSQL


def waiting_for_a_lock(engine: sa.Engine) -> None:
    """Return when a session of this database waits for a lock."""
    until = time.monotonic() + 20
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while rows(engine, query) == [(0,)]:
        assert time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


def test_a_migration_sees_what_was_committed_while_it_waited(postgres_url: str, history: Path) -> None:
    """At REPEATABLE READ its snapshot would be older than its lock, and the backfill would leave a row out."""
    engine = make_engine(postgres_url)
    generate(engine, "things", things(sa.Column("old", sa.String)), history)
    upgrade(engine, location=history)
    second = generate(engine, "copy", None, history)
    write(second, "op.add_column('things', sa.Column('new', sa.String())); op.execute('UPDATE things SET new = old')")
    with engine.begin() as writer, ThreadPoolExecutor(1) as thread:
        writer.execute(sa.text("INSERT INTO things (id, old) VALUES (1, 'written meanwhile')"))
        migration = thread.submit(upgrade, engine, "head", history)
        waiting_for_a_lock(engine)
        writer.commit()
        migration.result(60)
    assert rows(engine, "SELECT new FROM things") == [("written meanwhile",)]
    engine.dispose()


def test_a_migration_gives_up_waiting_and_leaves_nothing(postgres_url: str, history: Path) -> None:
    engine = make_engine(postgres_url)
    generate(engine, "things", things(), history)
    upgrade(engine, location=history)
    write(
        generate(engine, "waits", None, history),
        "op.add_column('things', sa.Column('a', sa.String()))",
    )
    with engine.connect() as reader:
        reader.execute(sa.text("SELECT * FROM things"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            upgrade(engine, location=history)
    assert current(engine) == ("0001_things",)
    assert rows(engine, "SHOW lock_timeout") == [("0",)], "its settings went back to the pool"
    assert rows(engine, "SHOW transaction_isolation") == [("repeatable read",)]
    upgrade(engine, location=history)
    engine.dispose()


SLOW = "op.execute('SELECT pg_sleep(1.5)')"
EXCEPTION = "op.execute('SET LOCAL statement_timeout = 0'); "


def test_a_statement_has_a_limit_that_a_backfill_may_lift(
    postgres_url: str, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception ends with its transaction: the next revision has the limit again. What met it left nothing."""
    engine = make_engine(postgres_url)
    monkeypatch.setitem(LIMITS, "statement_timeout", "1s")
    for message, code in (("one", "pass"), ("backfill", EXCEPTION + SLOW), ("slow", SLOW), ("four", "pass")):
        write(generate(engine, message, None, history), f"op.execute('CREATE TABLE {message} ()'); {code}")
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        upgrade(engine, location=history)
    assert current(engine) == ("0002_backfill",)
    assert sorted(sa.inspect(engine).get_table_names()) == ["alembic_version", "backfill", "one"]
    engine.dispose()


def test_the_limits_are_those_of_each_transaction(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    with migration_connection(engine) as connection:
        for _ in range(2):
            assert {name: connection.scalar(sa.text(f"SHOW {name}")) for name in LIMITS} == LIMITS
            connection.commit()
    seconds = {name: float(limit.removesuffix("s")) for name, limit in LIMITS.items()}
    assert seconds["lock_timeout"] < seconds["statement_timeout"], "the error would never name the lock"
    assert rows(engine, "SHOW statement_timeout") == [("30s",)], "its settings went back to the pool"
    engine.dispose()


def test_processes_that_start_at_once_migrate_once(postgres_url: str) -> None:
    code = (
        "import sys; from playbook.foundations.engines import make_engine; "
        "from playbook.pantry.history import prepare; engine = make_engine(sys.argv[1]); "
        "print('ready', flush=True); sys.stdin.readline(); prepare(engine); print('done')"
    )
    command = [sys.executable, "-c", code, postgres_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in started]
    assert answers == [("done\n", "")] * 3
    engine = make_engine(postgres_url)
    assert drift(engine, Base.metadata) == []
    engine.dispose()


def test_a_lock_of_another_process_is_waited_for(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        history_of_pantry.prepare(engine)
        order.append("prepared")

    with ThreadPoolExecutor(1) as thread, migration_connection(engine):
        waiting = thread.submit(second)
        entered.wait(60)
        waiting_for_a_lock(engine)
        order.append("released")
    waiting.result(30)
    assert order == ["released", "prepared"]
    assert current(engine) == history_of_pantry.heads()
    engine.dispose()


def test_a_start_during_a_migration_waits_for_its_end(postgres_url: str, history: Path) -> None:
    """Otherwise it would find a database that is behind, and refuse."""
    engine = make_engine(postgres_url)
    generate(engine, "things", things(), history)
    write(
        generate(engine, "more", None, history),
        "op.add_column('things', sa.Column('a', sa.String()))",
    )
    upgrade(engine, "0001_things", history)
    with ThreadPoolExecutor(2) as threads, engine.connect() as reader:
        reader.execute(sa.text("SELECT * FROM things"))
        migration = threads.submit(upgrade, engine, "head", history)
        waiting_for_a_lock(engine)
        start = threads.submit(history_of_pantry.prepare, engine, history)
        wait([start], timeout=1)
        reader.rollback()
        migration.result(30)
        start.result(30)
    assert current(engine) == history_of_pantry.heads(history)
    engine.dispose()


# ---------------------------------------------------------------- the start of the service


def start(url: str) -> None:
    pantry(Settings(environment="test", database_url=url))


def test_the_service_migrates_an_empty_database_and_serves(url: str) -> None:
    with serving(pantry(Settings(environment="test", database_url=url))) as client:
        assert client.post("/organizations", json={"slug": "mine", "name": "Mine"}).status_code == 201


def test_the_service_starts_again_on_what_it_migrated(engine: sa.Engine, url: str) -> None:
    start(url)
    start(url)
    history_of_pantry.downgrade(engine, "base")
    start(url)
    assert current(engine) == history_of_pantry.heads()


def behind(engine: sa.Engine) -> None:
    upgrade(engine, "0001_identity")


def unknown(engine: sa.Engine) -> None:
    upgrade(engine)
    run(engine, "UPDATE alembic_version SET version_num = '9999_next_year'")


def without_history(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)


@pytest.mark.parametrize(
    ("arrange", "says"),
    [
        (behind, r"is at 0001_identity, this program needs \w+: run `alembic upgrade head`$"),
        (without_history, r"no migration history: .* run `alembic stamp 0002_catalog`, then `alembic upgrade head`"),
    ],
)
def test_the_service_refuses_any_other_database_in_one_line(
    engine: sa.Engine, url: str, arrange: Callable[[sa.Engine], None], says: str
) -> None:
    arrange(engine)
    before = current(engine), sorted(sa.inspect(engine).get_table_names())
    with pytest.raises(WrongSchema, match=says) as refused:
        start(url)
    assert "\n" not in str(refused.value)
    assert (current(engine), sorted(sa.inspect(engine).get_table_names())) == before, "refusing changed something"


def test_the_release_before_starts_and_serves_while_the_next_is_rolled_out(
    engine: sa.Engine, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next release has expanded the schema. The one before starts again, says so, and leaves the database alone."""
    unknown(engine)
    run(engine, "ALTER TABLE organizations ADD COLUMN motto VARCHAR")
    before = current(engine), sorted(sa.inspect(engine).get_table_names())
    with (
        caplog.at_level("WARNING", "pantry"),
        serving(pantry(Settings(environment="test", database_url=url))) as client,
    ):
        assert client.post("/organizations", json={"slug": "mine", "name": "Mine"}).status_code == 201
        assert client.get("/organizations/mine").json()["name"] == "Mine"
    [said] = [record.getMessage() for record in caplog.records if record.name == "pantry"]
    assert re.search(r"is at 9999_next_year, .* does not know that one: .* run `alembic downgrade \w+`$", said)
    assert (current(engine), sorted(sa.inspect(engine).get_table_names())) == before


# ---------------------------------------------------------------- the command line


@pytest.fixture
def alembic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`alembic ...` in the repository, as its program calls it: the exit code, and all that it wrote."""

    # Its default was bound to the standard output of the day it was imported.
    monkeypatch.setattr("alembic.config.Config.print_stdout", lambda self, text, *values: print(text % values))

    def run_command(url: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("DATABASE_URL", url)
        code = 0
        try:
            CommandLine(prog="alembic").main(["-c", str(ROOT / "pyproject.toml"), *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run_command


Alembic = Callable[..., tuple[int, str]]


@pytest.fixture
def server_url(url: str, tmp_path: Path) -> str:
    """A database that other processes can open."""
    return f"duckdb:///{tmp_path / 'pantry.duckdb'}" if url.startswith("duckdb") else url


PLANTED = {
    "remove_column": "ALTER TABLE organizations ADD COLUMN planted VARCHAR",
    "remove_index": "CREATE INDEX planted ON packages (summary)",
    "remove_table": "CREATE TABLE planted_too (id INTEGER)",
}
GREEN = "No new upgrade operations detected.\n"


def test_the_command_line_migrates_checks_and_shows_sql(server_url: str, alembic: Alembic) -> None:
    """`check` is green at head on both engines, and red with drift: DuckDB misses no index of the lists."""
    code, sql = alembic(server_url, "upgrade", "base:0001_identity", "--sql")
    assert code == 0
    assert ("FOREIGN KEY" in sql) is server_url.startswith("postgresql")
    assert alembic(server_url, "upgrade", "head")[0] == 0
    assert alembic(server_url, "check") == (0, GREEN)
    engine = make_engine(server_url)
    run(engine, *PLANTED.values())
    engine.dispose()
    code, found = alembic(server_url, "check")
    assert code != 0, "drift was not noticed"
    assert all(operation in found for operation in PLANTED), found


def test_the_real_program(tmp_path: Path) -> None:
    """`alembic` as a person or CI starts it, with the settings of pyproject.toml."""
    environment = os.environ | {"DATABASE_URL": f"duckdb:///{tmp_path / 'pantry.duckdb'}"}
    for arguments, wrote in ((("upgrade", "head"), ""), (("check",), GREEN)):
        command = [sys.executable, "-m", "alembic", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, wrote), done.stderr


def test_the_command_line_names_a_new_revision(engine: sa.Engine, history: Path) -> None:
    config = history_of_pantry.alembic_config(engine, history)
    config.set_main_option("revision_environment", "true")
    command.revision(config, "Something new")
    assert history_of_pantry.heads(history) == ("0001_something_new",)


def test_the_command_line_brings_a_database_without_history_to_head(server_url: str, alembic: Alembic) -> None:
    """What the service's message says to do, done."""
    engine = make_engine(server_url)
    upgrade(engine, BASELINE)
    run(engine, "DROP TABLE alembic_version")
    engine.dispose()
    for arguments in (("stamp", BASELINE), ("upgrade", "head"), ("check",)):
        code, wrote = alembic(server_url, *arguments)
        assert code == 0, wrote
    start(server_url)


def test_a_wrong_database_url_is_one_clear_line(alembic: Alembic) -> None:
    code, wrote = alembic("mysql://somewhere", "current")
    assert code != 0
    assert "Traceback" not in wrote
    assert "DATABASE_URL: should begin with duckdb:/// or postgresql://" in " ".join(wrote.split())


def test_a_database_that_cannot_be_opened_is_one_clear_line(tmp_path: Path, alembic: Alembic) -> None:
    code, wrote = alembic(f"duckdb:///{tmp_path / 'no' / 'folder.duckdb'}", "current")
    assert code != 0
    assert "Traceback" not in wrote
    assert "cannot be opened" in " ".join(wrote.split())


def test_the_history_is_part_of_what_is_installed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "playbook", source / "playbook", ignore=shutil.ignore_patterns("__pycache__"))
    # Only what says which files are packed: the rest needs a newer setuptools than every environment has.
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packing = re.findall(r"^\[tool\.setuptools\..*?(?=^\[|^#|\Z)", text, re.M | re.S)
    assert len(packing) == 2
    project = '[project]\nname = "backend-playbook"\nversion = "0"\n'
    (source / "pyproject.toml").write_text(project + "".join(packing), encoding="utf-8")
    installed = tmp_path / "installed"
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build_py", "-d", str(installed)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = (
        "import playbook, sys; from playbook.foundations.engines import make_engine; "
        "from playbook.pantry.history import *; "
        "engine = make_engine('duckdb:///:memory:wheel'); "
        "prepare(engine); print(playbook.__file__.startswith(sys.argv[1]), current(engine) == heads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, str(installed)]
    done = subprocess.run(
        command, cwd=installed, env=environment | {"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")
    assert (installed / "playbook" / "pantry" / "revisions" / "script.py.mako").is_file()


# ---------------------------------------------------------------- orphans


def audit(engine: sa.Engine, metadata: sa.MetaData, limit: int = 100) -> list[Orphan]:
    with engine.connect() as db:
        return orphans(db, metadata, limit)


def family() -> sa.MetaData:
    """A reference to a table itself, one of two columns, one that may be null, one to a unique column."""
    metadata = sa.MetaData()
    sa.Table(
        "people", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("boss", sa.ForeignKey("people.id")), sa.Column("email", sa.String, unique=True),
    )  # fmt: skip
    sa.Table(
        "rooms", metadata, sa.Column("house", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    )  # fmt: skip
    sa.Table(
        "desks", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("house", sa.String), sa.Column("number", sa.Integer), sa.Column("of", sa.ForeignKey("people.email")),
        sa.ForeignKeyConstraint(["house", "number"], ["rooms.house", "rooms.number"]),
    )  # fmt: skip
    return metadata


def test_orphans_are_found_for_every_kind_of_reference(engine: sa.Engine) -> None:
    metadata = family()
    metadata.create_all(engine)
    for table in ("people", "desks"):  # somebody dropped the constraints
        for key in sa.inspect(engine).get_foreign_keys(table):
            run(engine, f'ALTER TABLE {table} DROP CONSTRAINT "{key["name"]}"')
    run(
        engine,
        "INSERT INTO people VALUES (1, NULL, 'a@x'), (2, 1, 'b@x'), (3, 9, 'c@x')",
        "INSERT INTO rooms VALUES ('north', 1), ('south', 2)",
        "INSERT INTO desks VALUES (1, 'north', 1, 'a@x'), (2, 'north', 2, NULL), (3, 'north', NULL, 'gone@x')",
    )
    assert audit(engine, metadata) == [
        Orphan("desks(house, number) -> rooms", (2,)),
        Orphan("desks(of) -> people", (3,)),
        Orphan("people(boss) -> people", (3,)),
    ]


def test_orphans_are_limited_for_each_reference_and_sorted(engine: sa.Engine) -> None:
    metadata = things(sa.Column("parent", sa.Integer))
    metadata.create_all(engine)
    run(engine, "INSERT INTO things (id, parent) SELECT i, -1 FROM generate_series(1, 300) AS series(i)")
    declared = things(sa.Column("parent", sa.ForeignKey("things.id")))
    assert [orphan.key for orphan in audit(engine, declared)] == [(number,) for number in range(1, 101)]
    assert len(audit(engine, declared, limit=1000)) == 300


def test_pantry_has_no_orphans_and_an_orphan_of_pantry_is_found(engine: sa.Engine) -> None:
    upgrade(engine)
    assert audit(engine, Base.metadata) == []
    if engine.dialect.name == "postgresql":
        for name in ("fk_members_user_id", "fk_members_organization_id"):
            run(engine, f"ALTER TABLE members DROP CONSTRAINT {name}")
    lost = {"id": UUID(int=1), "organization_id": UUID(int=2), "user_id": UUID(int=3), "role": "owner"}
    with engine.begin() as connection:
        connection.execute(Base.metadata.tables["members"].insert().values(created_at=WHEN, **lost))
    assert audit(engine, Base.metadata) == [
        Orphan("members(organization_id) -> organizations", (UUID(int=1),)),
        Orphan("members(user_id) -> users", (UUID(int=1),)),
    ]
