"""`first_migration`: Pantry's history on both engines, the commands, drift, the start of the service, orphans."""

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
from alembic.operations import Operations
from alembic.util import CommandError
from before_sign_in import BASELINE, pantry

from playbook.foundations.engines import NAMING, Base, Timestamp, make_engine
from playbook.kit.data import ROOT
from playbook.kit.live import serving
from playbook.migrations import first_migration as fm
from playbook.pantry import history as history_of_pantry
from playbook.pantry.settings import Settings

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
        history_of_pantry.upgrade(engine)
        assert fm.current(engine) == history_of_pantry.heads()
        assert fm.drift(engine, Base.metadata) == []
        assert set(sa.inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        history_of_pantry.downgrade(engine, "base")
        assert sa.inspect(engine).get_table_names() == ["alembic_version"]


def test_one_head_and_readable_ids() -> None:
    scripts = fm.ScriptDirectory.from_config(history_of_pantry.alembic_config("duckdb"))
    ids = [script.revision for script in scripts.walk_revisions()]
    assert len(history_of_pantry.heads()) == 1
    assert {"0001_identity", "0002_catalog"} <= set(ids)
    assert all(len(name) <= fm.ID_LIMIT for name in ids)
    assert all(Path(script.path).stem == script.revision for script in scripts.walk_revisions())


def test_revisions_depend_on_no_code_of_ours() -> None:
    for path in (ROOT / "playbook" / "pantry" / "revisions" / "versions").glob("*.py"):
        assert "playbook." not in path.read_text(encoding="utf-8"), path.name


def test_what_create_all_makes_is_the_baseline(engine: sa.Engine) -> None:
    """So a database made before there were migrations may be stamped with it."""
    history_of_pantry.upgrade(engine, BASELINE)
    inspector = sa.inspect(engine)
    tables = set(inspector.get_table_names()) - {"alembic_version"}
    before = sa.MetaData(naming_convention=NAMING)
    for name in tables:
        copy = Base.metadata.tables[name].to_metadata(before)
        there = {index["name"] for index in inspector.get_indexes(name)}
        copy.indexes -= {index for index in copy.indexes if index.name not in there}  # later revisions made them
    assert len(tables) == 11
    history_of_pantry.downgrade(engine, "base")
    before.create_all(engine)
    fm.command.stamp(history_of_pantry.alembic_config(engine), BASELINE)
    history_of_pantry.prepare(engine) if history_of_pantry.heads() == (BASELINE,) else history_of_pantry.upgrade(engine)
    assert fm.drift(engine, Base.metadata) == []


def test_foreign_keys_exist_on_postgresql_only(engine: sa.Engine) -> None:
    history_of_pantry.upgrade(engine)
    inspector = sa.inspect(engine)
    there = sum(len(inspector.get_foreign_keys(name)) for name in Base.metadata.tables)
    declared = sum(len(table.foreign_key_constraints) for table in Base.metadata.tables.values())
    assert there == (declared if engine.dialect.name == "postgresql" else 0)
    assert declared >= 13


# ---------------------------------------------------------------- drift

EVERYWHERE = {
    "ALTER TABLE users ADD COLUMN nickname VARCHAR": "column users.nickname: not in the models",
    "DROP INDEX ix_files_filename": "index files.ix_files_filename: not in the database",
    "CREATE INDEX ix_by_hand ON packages (summary)": "index packages.ix_by_hand: not in the models",
    "CREATE TABLE leftovers (id INTEGER)": "table leftovers: not in the models",
    "DROP TABLE verifications": "table verifications: not in the database",
}
ON_POSTGRESQL = {
    "ALTER TABLE organizations DROP COLUMN description": "column organizations.description: not in the database",
    "ALTER TABLE files ALTER size_bytes TYPE INTEGER": "files.size_bytes: type is INTEGER in the database, "
    "BIGINT in the models",
    "ALTER TABLE files ALTER filename DROP NOT NULL": "files.filename: nullable is True in the database, "
    "False in the models",
    "ALTER TABLE accounts ALTER provider SET DEFAULT 'github'": "accounts.provider: default differs",
    "ALTER TABLE users DROP CONSTRAINT ck_users_email_lower": "constraint users.ck_users_email_lower: not in the "
    "database",
    "ALTER TABLE users ADD CONSTRAINT by_hand CHECK (name <> '')": "constraint users.by_hand: not in the models",
    "ALTER TABLE members DROP CONSTRAINT fk_members_user_id": "foreign key members.fk_members_user_id: not in the "
    "database",
    "ALTER TABLE packages ADD CONSTRAINT by_hand UNIQUE (name)": "constraint packages.by_hand: not in the models",
    "COMMENT ON TABLE users IS 'people'": "table_comment users: not in the models",
    "COMMENT ON COLUMN users.name IS 'as typed'": "users.name: comment is as typed in the database, None in the models",
}


def test_drift_planted_by_hand_is_found(engine: sa.Engine) -> None:
    history_of_pantry.upgrade(engine)
    planted = EVERYWHERE | (ON_POSTGRESQL if engine.dialect.name == "postgresql" else {})
    for statement, line in planted.items():
        assert line not in fm.drift(engine, Base.metadata)
        run(engine, statement)
        assert line in fm.drift(engine, Base.metadata), statement


def test_drift_in_columns_constraints_and_uniqueness(engine: sa.Engine) -> None:
    """The same faults on both engines, by models that differ: DuckDB cannot alter a table that has an index."""

    def model(
        kind: Any = sa.String, nullable: bool = False, check: bool = True, unique: bool = True, *more: Any
    ) -> Any:
        rules = [sa.CheckConstraint("id > 0", "positive")] if check else []
        name = sa.Column("name", kind, nullable=nullable)
        return things(name, *rules, sa.Index(None, "name", unique=unique), *more)

    model().create_all(engine)
    assert fm.drift(engine, model()) == []
    assert fm.drift(engine, model(nullable=True)) == [
        "things.name: nullable is False in the database, True in the models"
    ]
    assert fm.drift(engine, model(sa.Integer)) == [
        "things.name: type is VARCHAR in the database, INTEGER in the models"
    ]
    assert fm.drift(engine, model(unique=False)) == [
        "index things.ix_things_name: not in the database",
        "index things.ix_things_name: not in the models",
    ]
    [line] = fm.drift(engine, model(check=False))
    assert line == (
        "check constraints of things: 1 in the database, 0 in the models"
        if engine.dialect.name == "duckdb"
        else "constraint things.ck_things_positive: not in the models"
    )
    added = model(sa.String, False, True, True, sa.Column("added", sa.String))
    assert fm.drift(engine, added) == ["column things.added: not in the database"]


def test_drift_ignores_what_is_not_there_to_compare() -> None:
    engine = make_engine("duckdb:///:memory:no_foreign_keys")
    metadata = things(sa.Column("parent", sa.ForeignKey("things.id")))
    metadata.create_all(engine)
    assert fm.drift(engine, metadata) == []


# ---------------------------------------------------------------- writing and running revisions


def test_a_draft_has_everything_and_no_type_of_ours(engine: sa.Engine, history: Path) -> None:
    made = fm.generate(engine, "First: things, and more!", things(sa.Column("at", Timestamp)), history)
    text = made.read_text(encoding="utf-8")
    assert made.name == "0001_first_things_and_more.py"
    assert "sa.Column('at', sa.DateTime(timezone=True), nullable=True)" in text
    assert "pk_things" in text
    assert "playbook" not in text
    fm.upgrade(engine, location=history)
    assert fm.drift(engine, things(sa.Column("at", Timestamp))) == []


def test_ids_are_numbered_named_and_short_enough(engine: sa.Engine, history: Path) -> None:
    long = fm.generate(engine, "a message that goes on and on and on and on", None, history)
    assert long.stem == "0001_a_message_that_goes_on_and"
    assert len(long.stem) <= fm.ID_LIMIT
    fm.upgrade(engine, location=history)
    assert fm.generate(engine, "next", None, history).stem == "0002_next"
    assert history_of_pantry.heads(history) == ("0002_next",)
    assert fm.current(engine) == (long.stem,)


def test_a_given_id_stays(engine: sa.Engine, history: Path) -> None:
    fm.command.revision(history_of_pantry.alembic_config(engine, history), "mine", rev_id="mine")
    assert history_of_pantry.heads(history) == ("mine",)


def test_a_draft_against_a_database_that_is_behind_is_refused(engine: sa.Engine, history: Path) -> None:
    fm.generate(engine, "one", None, history)
    with pytest.raises(CommandError, match="not up to date"):
        fm.generate(engine, "two", things(), history)


def test_a_renamed_column_keeps_its_rows_both_ways(engine: sa.Engine, history: Path) -> None:
    history_of_pantry.generate(
        engine, "things", things(sa.Column("licence", sa.String), sa.Index(None, "licence")), history
    )
    fm.upgrade(engine, location=history)
    run(engine, "INSERT INTO things (id, licence) VALUES (1, 'MIT')")
    draft = fm.generate(engine, "respell", things(sa.Column("license", sa.String)), history)
    assert "drop_column('things', 'licence')" in draft.read_text(encoding="utf-8"), "Alembic asks by now: see the page"
    swap = "op.drop_index('ix_things_{0}', 'things'); op.alter_column('things', '{0}', new_column_name='{1}'); "
    swap += "op.create_index('ix_things_{1}', 'things', ['{1}'])"
    write(draft, swap.format("licence", "license"), swap.format("license", "licence"))
    for _ in range(2):
        fm.upgrade(engine, location=history)
        assert fm.drift(engine, things(sa.Column("license", sa.String), sa.Index(None, "license"))) == []
        assert rows(engine, "SELECT id, license FROM things") == [(1, "MIT")]
        fm.downgrade(engine, "-1", history)
        assert rows(engine, "SELECT id, licence FROM things") == [(1, "MIT")]


def test_a_failing_migration_leaves_nothing_and_those_before_it_stay(engine: sa.Engine, history: Path) -> None:
    fm.generate(engine, "things", things(), history)
    second = fm.generate(engine, "fails", None, history)
    write(second, "op.add_column('things', sa.Column('a', sa.String())); op.execute('UPDATE things SET b = 1')")
    with pytest.raises(sa.exc.DBAPIError):
        fm.upgrade(engine, location=history)
    assert fm.current(engine) == ("0001_things",)
    assert [column["name"] for column in sa.inspect(engine).get_columns("things")] == ["id"]
    assert engine.pool.checkedout() == 0
    write(second, "op.add_column('things', sa.Column('a_longer_name', sa.String()))")
    fm.upgrade(engine, location=history)
    assert fm.current(engine) == history_of_pantry.heads(history)


def test_a_batch_changes_a_table_with_rows_and_an_index(engine: sa.Engine) -> None:
    """On DuckDB in one copy of the table, which keeps rows, keys and rules; on PostgreSQL as plain ALTERs."""
    things(
        sa.Column("a", sa.String), sa.Column("b", sa.Integer), sa.Column("c", sa.String),
        sa.CheckConstraint("b > 0", "b"), sa.Index(None, "a", unique=True),
    ).create_all(engine)  # fmt: skip
    run(engine, "INSERT INTO things (id, a, b, c) VALUES (1, 'x', 10, 'gone'), (2, 'y', 20, 'gone')")
    with fm.migration_connection(engine) as connection, connection.begin():
        op = Operations(fm.MigrationContext.configure(connection, opts=fm.alembic_options(engine.dialect.name)))
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
    assert fm.drift(engine, after) == []
    assert rows(engine, "SELECT id, a, b, d FROM things ORDER BY id") == [(1, "x", 10, "X"), (2, "y", 20, "Y")]
    for wrong in ("(1, 'z', 1, 'Z')", "(3, 'x', 1, 'Z')", "(3, 'z', 0, 'Z')", "(3, 'z', 1, '')", "(3, 'z', 1, NULL)"):
        with pytest.raises(sa.exc.IntegrityError):
            run(engine, f"INSERT INTO things (id, a, b, d) VALUES {wrong}")


def test_foreign_keys_in_a_revision_are_made_on_postgresql_only(engine: sa.Engine, history: Path) -> None:
    first = fm.generate(engine, "keys", None, history)
    write(
        first,
        "op.create_table('parents', sa.Column('id', sa.Integer, primary_key=True)); "
        "op.create_table('children', sa.Column('id', sa.Integer, primary_key=True), sa.Column('p', sa.Integer)); "
        "op.create_foreign_key('fk_children_p', 'children', 'parents', ['p'], ['id'])",
        "op.drop_constraint('fk_children_p', 'children', type_='foreignkey'); op.drop_table('children'); "
        "op.drop_table('parents')",
    )
    fm.upgrade(engine, location=history)
    keys = [key["name"] for key in sa.inspect(engine).get_foreign_keys("children")]
    assert keys == (["fk_children_p"] if engine.dialect.name == "postgresql" else [])
    fm.downgrade(engine, "base", history)
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]


def test_a_constraint_named_by_the_convention_has_one_name_however_it_is_run(url: str, history: Path) -> None:
    """On the command line Alembic knows the models and their convention; a program's call must not differ."""
    engine = make_engine(url)
    first = fm.generate(engine, "things", None, history)
    write(first, "op.create_table('things', sa.Column('id', sa.Integer), sa.CheckConstraint('id > 0', name='low'))")
    fm.upgrade(engine, location=history)
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
        history_of_pantry.upgrade(engine)
        history_of_pantry.downgrade(engine, "0001_identity")
        history_of_pantry.upgrade(engine)
        found = fm.drift(engine, Base.metadata)
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
    fm.generate(engine, "things", things(sa.Column("old", sa.String)), history)
    fm.upgrade(engine, location=history)
    second = fm.generate(engine, "copy", None, history)
    write(second, "op.add_column('things', sa.Column('new', sa.String())); op.execute('UPDATE things SET new = old')")
    with engine.begin() as writer, ThreadPoolExecutor(1) as thread:
        writer.execute(sa.text("INSERT INTO things (id, old) VALUES (1, 'written meanwhile')"))
        migration = thread.submit(fm.upgrade, engine, "head", history)
        waiting_for_a_lock(engine)
        writer.commit()
        migration.result(20)
    assert rows(engine, "SELECT new FROM things") == [("written meanwhile",)]
    engine.dispose()


def test_a_migration_gives_up_waiting_and_leaves_nothing(postgres_url: str, history: Path) -> None:
    engine = make_engine(postgres_url)
    fm.generate(engine, "things", things(), history)
    fm.upgrade(engine, location=history)
    write(
        fm.generate(engine, "waits", None, history),
        "op.add_column('things', sa.Column('a', sa.String()))",
    )
    with engine.connect() as reader:
        reader.execute(sa.text("SELECT * FROM things"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            fm.upgrade(engine, location=history)
    assert fm.current(engine) == ("0001_things",)
    assert rows(engine, "SHOW lock_timeout") == [("0",)], "its settings went back to the pool"
    assert rows(engine, "SHOW transaction_isolation") == [("repeatable read",)]
    fm.upgrade(engine, location=history)
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
    assert fm.drift(engine, Base.metadata) == []
    engine.dispose()


def test_a_lock_of_another_process_is_waited_for(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        history_of_pantry.prepare(engine)
        order.append("prepared")

    with ThreadPoolExecutor(1) as thread, fm.migration_connection(engine):
        waiting = thread.submit(second)
        entered.wait(10)
        waiting_for_a_lock(engine)
        order.append("released")
    waiting.result(30)
    assert order == ["released", "prepared"]
    assert fm.current(engine) == history_of_pantry.heads()
    engine.dispose()


def test_a_start_during_a_migration_waits_for_its_end(postgres_url: str, history: Path) -> None:
    """Otherwise it would find a database that is behind, and refuse."""
    engine = make_engine(postgres_url)
    fm.generate(engine, "things", things(), history)
    write(
        fm.generate(engine, "more", None, history),
        "op.add_column('things', sa.Column('a', sa.String()))",
    )
    fm.upgrade(engine, "0001_things", history)
    with ThreadPoolExecutor(2) as threads, engine.connect() as reader:
        reader.execute(sa.text("SELECT * FROM things"))
        migration = threads.submit(fm.upgrade, engine, "head", history)
        waiting_for_a_lock(engine)
        start = threads.submit(fm.prepare, engine, history)
        wait([start], timeout=1)
        reader.rollback()
        migration.result(30)
        start.result(30)
    assert fm.current(engine) == history_of_pantry.heads(history)
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
    assert fm.current(engine) == history_of_pantry.heads()


def behind(engine: sa.Engine) -> None:
    history_of_pantry.upgrade(engine, "0001_identity")


def unknown(engine: sa.Engine) -> None:
    history_of_pantry.upgrade(engine)
    run(engine, "UPDATE alembic_version SET version_num = '9999_next_year'")


def without_history(engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)


@pytest.mark.parametrize(
    ("arrange", "says"),
    [
        (behind, r"is at 0001_identity, this program needs \w+: run `alembic upgrade head`$"),
        (unknown, r"is at 9999_next_year, .* does not know that one: .* run `alembic downgrade \w+`$"),
        (without_history, r"no migration history: .* run `alembic stamp 0002_catalog`, then `alembic upgrade head`"),
    ],
)
def test_the_service_refuses_any_other_database_in_one_line(
    engine: sa.Engine, url: str, arrange: Callable[[sa.Engine], None], says: str
) -> None:
    arrange(engine)
    before = fm.current(engine), sorted(sa.inspect(engine).get_table_names())
    with pytest.raises(fm.WrongSchema, match=says) as refused:
        start(url)
    assert "\n" not in str(refused.value)
    assert (fm.current(engine), sorted(sa.inspect(engine).get_table_names())) == before, "refusing changed something"


# ---------------------------------------------------------------- the command line


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`alembic ...` in the repository, as a person types it."""
    environment = os.environ | {"DATABASE_URL": url}
    command = [sys.executable, "-m", "alembic", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def server_url(url: str, tmp_path: Path) -> str:
    """A database that other processes can open."""
    return f"duckdb:///{tmp_path / 'pantry.duckdb'}" if url.startswith("duckdb") else url


def test_the_command_line_migrates_checks_and_shows_sql(server_url: str) -> None:
    sql = alembic(server_url, "upgrade", "base:0001_identity", "--sql")
    assert sql.returncode == 0, sql.stderr
    assert ("FOREIGN KEY" in sql.stdout) is server_url.startswith("postgresql")
    assert alembic(server_url, "upgrade", "head").returncode == 0
    check = alembic(server_url, "check")
    assert (check.returncode, check.stdout) == (0, "No new upgrade operations detected.\n")
    engine = make_engine(server_url)
    run(engine, "ALTER TABLE organizations ADD COLUMN nickname VARCHAR")
    engine.dispose()
    found = alembic(server_url, "check")
    assert found.returncode != 0
    assert "nickname" in found.stdout


def test_the_command_line_brings_a_database_without_history_to_head(server_url: str) -> None:
    """What the service's message says to do, done."""
    engine = make_engine(server_url)
    history_of_pantry.upgrade(engine, BASELINE)
    run(engine, "DROP TABLE alembic_version")
    engine.dispose()
    for command in (("stamp", BASELINE), ("upgrade", "head"), ("check",)):
        done = alembic(server_url, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    start(server_url)


def test_a_wrong_database_url_is_one_clear_line() -> None:
    wrong = alembic("mysql://somewhere", "current")
    assert wrong.returncode != 0
    assert "Traceback" not in wrong.stderr
    assert "DATABASE_URL: should begin with duckdb:/// or postgresql://" in " ".join(wrong.stdout.split())


def test_a_database_that_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    wrong = alembic(f"duckdb:///{tmp_path / 'no' / 'folder.duckdb'}", "current")
    assert wrong.returncode != 0
    assert "Traceback" not in wrong.stderr
    assert "cannot be opened" in " ".join(wrong.stdout.split())


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
        "from playbook.migrations.first_migration import *; from playbook.pantry.history import *; "
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
    assert fm.orphans(engine, metadata) == [
        fm.Orphan("desks(house, number) -> rooms", (2,)),
        fm.Orphan("desks(of) -> people", (3,)),
        fm.Orphan("people(boss) -> people", (3,)),
    ]


def test_orphans_are_limited_for_each_reference_and_sorted(engine: sa.Engine) -> None:
    metadata = things(sa.Column("parent", sa.Integer))
    metadata.create_all(engine)
    run(engine, "INSERT INTO things (id, parent) SELECT i, -1 FROM generate_series(1, 300) AS series(i)")
    declared = things(sa.Column("parent", sa.ForeignKey("things.id")))
    assert [orphan.key for orphan in fm.orphans(engine, declared)] == [(number,) for number in range(1, 101)]
    assert len(fm.orphans(engine, declared, limit=1000)) == 300


def test_pantry_has_no_orphans_and_an_orphan_of_pantry_is_found(engine: sa.Engine) -> None:
    history_of_pantry.upgrade(engine)
    assert fm.orphans(engine, Base.metadata) == []
    if engine.dialect.name == "postgresql":
        for name in ("fk_members_user_id", "fk_members_organization_id"):
            run(engine, f"ALTER TABLE members DROP CONSTRAINT {name}")
    lost = {"id": UUID(int=1), "organization_id": UUID(int=2), "user_id": UUID(int=3), "role": "owner"}
    with engine.begin() as connection:
        connection.execute(Base.metadata.tables["members"].insert().values(created_at=WHEN, **lost))
    assert fm.orphans(engine, Base.metadata) == [
        fm.Orphan("members(organization_id) -> organizations", (UUID(int=1),)),
        fm.Orphan("members(user_id) -> users", (UUID(int=1),)),
    ]
