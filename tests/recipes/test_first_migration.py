"""What the recipe promises, in a shop on SQLite with rows. Needs pytest and alembic, nothing else."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from playbook.migrations.first_migration import (
    alembic_config,
    current,
    downgrade,
    generate,
    stamp,
    upgrade,
)

NAMING = {"pk": "pk_%(table_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
ENV = f"from {upgrade.__module__} import run_environment\n\nrun_environment(None, None)\n"


class Shouted(sa.types.TypeDecorator[str]):
    """A type of the program's own."""

    impl = sa.String(20)
    cache_ok = True


def orders(*columns: str, kind: Any = sa.String) -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=NAMING)
    key = sa.Column("id", sa.Integer, primary_key=True)
    sa.Table("orders", metadata, key, *(sa.Column(name, kind) for name in columns))
    return metadata


def rows(engine: sa.Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text("SELECT * FROM orders ORDER BY id")).mappings()]


def write(draft: Path, up: str, down: str = "pass") -> None:
    head = draft.read_text(encoding="utf-8").partition("def upgrade")[0]
    draft.write_text(f"{head}def upgrade():\n    {up}\n\n\ndef downgrade():\n    {down}\n", encoding="utf-8")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """The folder that `alembic init` makes, with another env.py."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    shutil.copy(Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako", folder)
    (folder / "env.py").write_text(ENV, encoding="utf-8")
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}")
    yield made
    made.dispose()


@pytest.fixture
def shop(engine: sa.Engine, history: Path) -> sa.Engine:
    """A database that `create_all` made, with a row, and a history whose baseline is its tables."""
    empty = sa.create_engine("sqlite://")
    generate(empty, "baseline", orders("total"), history)
    orders("total").create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO orders (id, total) VALUES (1, '12.50 EUR')"))
    return engine


def test_the_baseline_makes_what_create_all_makes(engine: sa.Engine, history: Path) -> None:
    generate(engine, "baseline", orders("total"), history)
    upgrade(engine, location=history)
    by_hand = sa.create_engine("sqlite://")
    orders("total").create_all(by_hand)
    there, here = (repr(sa.inspect(one).get_columns("orders")) for one in (engine, by_hand))
    assert there == here


def test_a_stamp_adopts_and_changes_nothing(shop: sa.Engine, history: Path) -> None:
    assert current(shop) == ()
    stamp(shop, "0001_baseline", history)
    assert current(shop) == ("0001_baseline",)
    assert rows(shop) == [{"id": 1, "total": "12.50 EUR"}]


def test_a_draft_of_a_rename_is_drop_and_add_and_is_not_run(shop: sa.Engine, history: Path) -> None:
    stamp(shop, "0001_baseline", history)
    draft = generate(shop, "rename", orders("price"), history).read_text(encoding="utf-8")
    assert "op.drop_column('orders', 'total')" in draft
    assert "op.add_column('orders', sa.Column('price'" in draft
    assert rows(shop) == [{"id": 1, "total": "12.50 EUR"}]


def test_a_corrected_draft_keeps_the_rows_both_ways(shop: sa.Engine, history: Path) -> None:
    stamp(shop, "0001_baseline", history)
    rename = 'op.alter_column("orders", "{}", new_column_name="{}")'
    draft = generate(shop, "rename", orders("price"), history)
    write(draft, rename.format("total", "price"), rename.format("price", "total"))
    for _ in range(2):
        upgrade(shop, location=history)
        assert rows(shop) == [{"id": 1, "price": "12.50 EUR"}]
        downgrade(shop, "-1", history)
        assert rows(shop) == [{"id": 1, "total": "12.50 EUR"}]


def test_names_are_numbered_readable_and_short(engine: sa.Engine, history: Path) -> None:
    first = generate(engine, "A Message that goes on and on and on!", None, history)
    second = generate(engine, "next", None, history)
    assert (first.name, second.name) == ("0001_a_message_that_goes_on_and.py", "0002_next.py")
    assert len(first.stem) <= 32, "alembic_version holds 32 characters"
    upgrade(engine, location=history)
    assert current(engine) == ("0002_next",)
    with engine.connect() as connection:
        assert current(connection) == ("0002_next",)


def test_a_draft_against_a_database_that_is_behind_is_refused(engine: sa.Engine, history: Path) -> None:
    generate(engine, "one", None, history)
    with pytest.raises(CommandError, match="not up to date"):
        generate(engine, "two", orders("total"), history)


def test_a_type_of_the_program_is_written_as_the_plain_one(engine: sa.Engine, history: Path) -> None:
    draft = generate(engine, "baseline", orders("total", kind=Shouted), history).read_text(encoding="utf-8")
    assert "sa.Column('total', sa.String(length=20)" in draft
    assert "Shouted" not in draft


def test_the_revisions_before_one_that_fails_stay(engine: sa.Engine, history: Path) -> None:
    for message, up in (("one", "pass"), ("two", "pass"), ("three", "op.execute('SELECT nonsense')"), ("four", "pass")):
        write(generate(engine, message, None, history), up)
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(engine, location=history)
    assert current(engine) == ("0002_two",)


def test_a_constraint_without_a_full_name_is_named_by_the_convention(engine: sa.Engine, history: Path) -> None:
    up = "op.create_table('t', sa.Column('n', sa.Integer()), sa.CheckConstraint('n > 0', name='low'))"
    write(generate(engine, "one", None, history), up)
    upgrade(engine, location=history)
    assert [rule["name"] for rule in sa.inspect(engine).get_check_constraints("t")] == ["ck_t_low"]


def test_sql_can_be_read_before_it_runs(
    engine: sa.Engine, history: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    generate(engine, "baseline", orders("total"), history)
    config = alembic_config(engine, history)
    with (tmp_path / "out.sql").open("w", encoding="utf-8") as config.output_buffer:
        command.upgrade(config, "base:head", sql=True)
    assert "CREATE TABLE orders" in (tmp_path / "out.sql").read_text(encoding="utf-8")
    assert current(engine) == ()


def test_the_command_line_asks_for_engine_models_and_connection(engine: sa.Engine, history: Path) -> None:
    """As an env.py of the reader's: `connect` is used, and its connection is the one that migrates."""
    generate(engine, "baseline", orders("total"), history)
    (history / "env.py").write_text(
        f"from alembic import context\nfrom {upgrade.__module__} import run_environment\n"
        "made = context.config.attributes.pop('made')\nrun_environment(*made)\n",
        encoding="utf-8",
    )
    used = []

    @contextmanager
    def connect(made: sa.Engine) -> Iterator[sa.Connection]:
        with made.connect() as connection:
            used.append(connection)
            yield connection

    config = alembic_config(None, history)
    config.attributes.clear()
    config.attributes["made"] = (lambda: engine, lambda: orders("total"), connect)
    command.upgrade(config, "head")
    assert len(used) == 1
    assert current(engine) == ("0001_baseline",)


def test_a_connection_of_the_caller_is_used_and_its_transaction_decides(engine: sa.Engine, history: Path) -> None:
    generate(engine, "baseline", orders("total"), history)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))  # SQLite: also for DDL
    connects: list[Any] = []
    with engine.connect() as connection:
        sa.event.listen(engine, "engine_connect", connects.append)
        for wanted in ((), ("0001_baseline",)):
            config = alembic_config(engine, history)
            config.attributes["connection"] = connection
            with connection.begin() as transaction:
                command.upgrade(config, "head")
                assert current(connection) == ("0001_baseline",)
                transaction.commit() if wanted else transaction.rollback()
            with connection.begin():
                assert current(connection) == wanted
    assert connects == [], "a second connection, outside of the caller's transaction"


def test_on_sqlite_a_begin_of_yours_takes_the_tables_back(engine: sa.Engine, history: Path) -> None:
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    up = "op.create_table('t', sa.Column('n', sa.Integer())); op.execute('no')"
    write(generate(engine, "one", None, history), up)
    with pytest.raises(sa.exc.DBAPIError):
        upgrade(engine, location=history)
    assert not sa.inspect(engine).has_table("t")


def test_several_threads_can_migrate(tmp_path: Path, history: Path) -> None:
    def work(number: int) -> tuple[str, ...]:
        made = sa.create_engine(f"sqlite:///{tmp_path / str(number)}.sqlite")
        upgrade(made, location=history)
        downgrade(made, "base", history)
        upgrade(made, location=history)
        found = current(made)
        made.dispose()
        return found

    generate(sa.create_engine("sqlite://"), "baseline", orders("total"), history)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [("0001_baseline",)] * 4
