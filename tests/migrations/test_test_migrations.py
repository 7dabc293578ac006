"""What looks at Pantry's history: each kind of fault is found on both engines, and rows are made for any table."""

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_rows
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from leftovers import leftovers, schema

from playbook.foundations.engines import NAMING, make_engine
from playbook.kit.data import ROOT
from playbook.kit.hook import PlaybookLoader
from playbook.migrations import test_migrations as tm
from playbook.migrations.first_migration import current, downgrade

ENVIRONMENT = "from playbook.migrations.first_migration import run_environment\nrun_environment(None, None)\n"
REVISION = """import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on, loses = {!r}, {!r}, None, None, {!r}

def upgrade():
    {}

def downgrade():
    {}
"""
BASE = (
    "op.create_table('things', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False), "
    "sa.Column('name', sa.String(), nullable=False), sa.Column('note', sa.String()), "
    "sa.Column('done', sa.Boolean(), nullable=False)); op.create_index('ix_things_note', 'things', ['note'])"
)
NO_MODELS = sa.MetaData()
History = Callable[..., Path]


@pytest.fixture
def engine(url: str) -> Any:
    made = make_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Writes a history: each revision a name, what it stands on, upgrade, downgrade and what it declares."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT, encoding="utf-8")

    def write(*revisions: tuple[Any, ...]) -> Path:
        for name, below, up, down, loses in revisions:
            text = REVISION.format(name, below, loses, up, down)
            (tmp_path / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def second(history: History, up: str, down: str, loses: dict[str, str] | None = None) -> tuple[tm.Step, Path]:
    """The step of a revision that stands on a table with rows."""
    folder = history(("1", None, BASE, "op.drop_table('things')", {}), ("2", "1", up, down, loses or {}))
    return tm.steps(folder)[1], folder


def findings(engine: sa.Engine, step: tm.Step, folder: Path, given: made_rows.Given | None = None) -> list[str]:
    """One walk over made rows, looked at in two ways, as the gate of Pantry's history does."""
    if current(engine):
        downgrade(engine, "base", folder)
    seen, arrived, left, found = list[set[str]](), list[tm.Rows](), list[tm.Rows](), list[str]()
    try:
        for place in tm.walk(engine, step, folder):
            seen.append(schema(engine))
            arrived.append(tm.contents(engine))
            empty = made_rows.fill(engine, NO_MODELS, place, given or {}) if place < 2 else []
            found += [f"{step.after}: no row for {name}" for name in empty]
            left.append(tm.contents(engine))
    except tm.StepFailed as failed:
        return [*found, str(failed), *leftovers(step, seen)]
    return found + leftovers(step, seen) + tm.changes(step, left, arrived)


# ---------------------------------------------------------------- what is right passes


ADD = "op.add_column('things', sa.Column('size', sa.Integer()))"
DROP = "op.drop_column('things', 'size')"
RENAME = (
    "op.drop_index('ix_things_note', 'things'); op.alter_column('things', '{0}', new_column_name='{1}'); "
    "op.create_index('ix_things_note', 'things', ['{2}'])"
)
RIGHT = {
    "nothing": ("pass", "pass"),
    "a column, declared": (ADD, DROP, {"things.size": "the old program has no place for it"}),
    "a column renamed": (RENAME.format("name", "title", "note"), RENAME.format("title", "name", "note")),
    "an indexed column renamed": (RENAME.format("note", "rest", "rest"), RENAME.format("rest", "note", "note")),
    "an index": ("op.create_index('ix_name', 'things', ['name'])", "op.drop_index('ix_name', 'things')"),
    "a sequence": ("op.execute('CREATE SEQUENCE numbers')", "op.execute('DROP SEQUENCE numbers')"),
    "lower case, declared": (
        "op.execute('UPDATE things SET name = lower(name)')",
        "pass",
        {"things.name": "from now on in small letters"},
    ),
    "a row of its own, declared": (
        "op.execute(\"INSERT INTO things VALUES (-1, 'first', NULL, true)\")",
        "op.execute('DELETE FROM things WHERE id = -1')",
        {"things": "one more"},
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_passes(engine: sa.Engine, history: History, case: str) -> None:
    step, folder = second(history, *RIGHT[case])
    assert findings(engine, step, folder) == []


# ---------------------------------------------------------------- what is wrong is found


def nullable(yes: bool) -> str:
    return (
        "\n    with op.batch_alter_table('things') as batch:\n"
        f"        batch.alter_column('done', existing_type=sa.Boolean(), nullable={yes})\n"
    )


REQUIRED = (
    "\n    with op.batch_alter_table('things') as batch:\n"
    "        batch.add_column(sa.Column('size', sa.Integer(), nullable=False))\n"
)
BACK_EMPTY = (
    "\n    with op.batch_alter_table('things') as batch:\n        batch.add_column(sa.Column('note', sa.String()))\n"
    "        batch.create_index('ix_things_note', ['note'])\n"
)
LOSE_NOTE = (
    "\n    with op.batch_alter_table('things') as batch:\n        batch.drop_index('ix_things_note')\n"
    "        batch.drop_column('note')\n"
)
DOUBLE = "INSERT INTO things SELECT -id, name, note, done FROM things WHERE id > 5 ON CONFLICT DO NOTHING"
EXCHANGE = "UPDATE things SET done = NOT done WHERE id IN (SELECT min(id) FROM things GROUP BY done)"
WRONG = {
    "a column left behind": (ADD, "pass", "the downgrade leaves behind: column things.size integer"),
    "an index not brought back": (
        "op.drop_index('ix_things_note', 'things', if_exists=True)",
        "pass",
        "the downgrade does not bring back: create index ix_things_note",
    ),
    "NOT NULL not brought back": (
        nullable(True),
        "pass",
        "the downgrade does not bring back: column things.done boolean not null",
    ),
    "a sequence left behind": ("op.execute('CREATE SEQUENCE IF NOT EXISTS n')", "pass", "leaves behind: sequence n"),
    "a view left behind": ("op.execute('CREATE OR REPLACE VIEW v AS SELECT 1')", "pass", "view "),
    "a schema left behind": ("op.execute('CREATE SCHEMA IF NOT EXISTS s')", "pass", "leaves behind: schema s"),
    "it runs once only": ("op.execute('CREATE SEQUENCE n')", "pass", "the second upgrade fails: "),
    "works on an empty table only": (REQUIRED, DROP, "the upgrade fails: "),
    "its way back works on an empty table only": (
        DROP.replace("size", "done"),
        REQUIRED.replace("'size', sa.Integer()", "'done', sa.Boolean()"),
        "the downgrade fails: ",
    ),
    "what only the new program writes does not fit": (nullable(True), nullable(False), "the downgrade fails: "),
    "a column that comes back empty": (LOSE_NOTE, BACK_EMPTY, "changes or loses things.note"),
    "a new column, not declared": (ADD, DROP, "changes or loses things.size"),
    "values changed": ("op.execute('UPDATE things SET name = name || id')", "pass", "changes or loses things.name"),
    "rows gone": ("op.execute('DELETE FROM things WHERE done')", "pass", "changes or loses things"),
    "rows doubled": (f"op.execute('{DOUBLE}')", "pass", "changes or loses things"),
    "values exchanged between rows": (f"op.execute('{EXCHANGE}')", "pass", "changes or loses things"),
}


def test_the_error_of_a_failed_batch_is_the_one_that_is_told(engine: sa.Engine, history: History) -> None:
    """On DuckDB the clean-up of a batch would raise another one: "Current transaction is aborted"."""
    [line] = findings(engine, *second(history, REQUIRED, DROP))
    assert "null" in line.lower()


def test_a_declaration_that_is_not_true_is_found(engine: sa.Engine, history: History) -> None:
    step, folder = second(history, "pass", "pass", {"things.name": "a guess"})
    assert findings(engine, step, folder) == ["2: declares things.name, and keeps it"]


@pytest.mark.parametrize("case", WRONG)
def test_each_fault_is_found(engine: sa.Engine, history: History, case: str) -> None:
    up, down, line = WRONG[case]
    found = findings(engine, *second(history, up, down))
    assert any(there.startswith("2: ") and line in there.lower() for there in found), found


ON_POSTGRESQL = {
    "type color": "CREATE TYPE color AS ENUM ('red')",
    "value blue of mood": "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'blue'",
    "function double(integer)": "CREATE OR REPLACE FUNCTION double(i int) RETURNS int LANGUAGE sql AS 'SELECT 2 * i'",
    "CREATE TRIGGER loud": "CREATE OR REPLACE TRIGGER loud BEFORE UPDATE ON things FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "policy mine of things": "CREATE POLICY mine ON things",
    "constraint of things named CHECK": "ALTER TABLE things ADD CONSTRAINT named CHECK (name IS NOT NULL)",
    "column things.id integer NOT NULL DEFAULT 7": "ALTER TABLE things ALTER id SET DEFAULT 7",
    "view  SELECT 1": "CREATE MATERIALIZED VIEW IF NOT EXISTS seen AS SELECT 1 AS one",
    "CREATE INDEX part": "CREATE INDEX IF NOT EXISTS part ON things (lower(name)) WHERE done",
}  # fmt: skip


@pytest.mark.parametrize("line", ON_POSTGRESQL)
def test_leftovers_that_no_model_knows_are_found(postgres_url: str, history: History, line: str) -> None:
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TYPE mood AS ENUM ('green')")
    step, folder = second(history, f"op.execute({ON_POSTGRESQL[line]!r})", "pass")
    found = findings(engine, step, folder)
    assert any("the downgrade leaves behind: " in there and line in there for there in found), found
    engine.dispose()


def test_a_merge_is_a_step_with_two_beginnings(engine: sa.Engine, history: History) -> None:
    left = "op.create_table('left_one', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False))"
    folder = history(
        ("1", None, BASE, "op.drop_table('things')", {}),
        ("2", "1", left, "op.drop_table('left_one')", {}),
        ("3", "1", ADD, DROP, {}),
        ("4", ("2", "3"), "op.create_index('ix_name', 'things', ['name'])", "op.drop_index('ix_name', 'things')", {}),
    )
    steps = tm.steps(folder)
    assert {*steps[-1].before} == {"2", "3"}
    assert steps[0].after == "1"
    assert findings(engine, steps[-1], folder) == []
    assert current(engine) == ("4",)


# ---------------------------------------------------------------- made rows


def zoo(metadata: sa.MetaData) -> sa.Table:
    """A column of every type that both engines have."""
    kinds = [
        sa.String(3), sa.Text(), sa.SmallInteger(), sa.Integer(), sa.BigInteger(), sa.Boolean(), sa.Numeric(8, 3),
        sa.Date(), sa.Time(), sa.DateTime(), sa.DateTime(timezone=True), sa.Interval(), sa.Float(), sa.REAL(),
        sa.Double(), sa.Uuid(), sa.LargeBinary(), sa.JSON(), sa.ARRAY(sa.Integer()),
        sa.Enum("red", "green", name="color"),
    ]  # fmt: skip
    columns = [sa.Column(f"c{number}", kind, nullable=False) for number, kind in enumerate(kinds)]
    return sa.Table("zoo", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), *columns)


def test_rows_are_made_for_every_type_and_come_back_as_they_went(engine: sa.Engine) -> None:
    zoo(metadata := sa.MetaData())
    metadata.create_all(engine)
    there = made_rows.reflected(engine, NO_MODELS).tables["zoo"]
    made = made_rows.sample(made_rows.row_of(there, {}), 12, 1)
    assert made_rows.put(engine, there, made) >= 10
    with engine.connect() as connection:
        back = {row["id"]: dict(row) for row in connection.execute(there.select()).mappings()}
    sent = {row["id"]: row for row in reversed(made)}  # of two with one key the first was taken
    for key, row in back.items():
        for name, value in row.items():
            wanted = sent[key][name]
            near = (
                pytest.approx(wanted, rel=1e-6) if type(wanted) is float else wanted
            )  # PostgreSQL writes REAL shorter
            assert value == near, f"{name}: {value!r}"


def test_rows_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    there = zoo(sa.MetaData())
    first, again, other = (repr(made_rows.sample(made_rows.row_of(there, {}), 6, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_rows_respect_rules_keys_and_references(engine: sa.Engine) -> None:
    """Two references that share a column, one to the table itself, and CHECKs as each engine writes them."""
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table("teams", metadata, sa.Column("id", sa.Uuid, primary_key=True))
    sa.Table(
        "people", metadata, sa.Column("team", sa.ForeignKey("teams.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True), sa.Column("email", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False), sa.Column("age", sa.Integer, nullable=False),
        sa.CheckConstraint("email = lower(email)", "email"), sa.CheckConstraint("role IN ('a''s', 'b')", "role"),
        sa.CheckConstraint("age >= 0", "age"), sa.Index(None, "email", unique=True),
    )  # fmt: skip
    sa.Table(
        "badges", metadata, sa.Column("id", sa.Uuid, primary_key=True), sa.Column("team", sa.ForeignKey("teams.id")),
        sa.Column("number", sa.Integer), sa.Column("before", sa.ForeignKey("badges.id")),
        sa.ForeignKeyConstraint(["team", "number"], ["people.team", "people.number"]),
    )  # fmt: skip
    metadata.create_all(engine)
    for seed in (0, 1):
        assert made_rows.fill(engine, metadata, seed, {}) == []
    rows = tm.contents(engine)
    assert min(map(len, rows.values())) >= made_rows.MADE, {name: len(there) for name, there in rows.items()}
    assert {row["role"] for row in rows["people"]} == {repr("a's"), repr("b")}
    people = {(row["team"], row["number"]) for row in rows["people"]}
    badges = [(row["team"], row["number"]) for row in rows["badges"] if "None" not in (row["team"], row["number"])]
    assert badges
    assert people.issuperset(badges)
    assert {row["before"] for row in rows["badges"]} - {"None"} <= {row["id"] for row in rows["badges"]}


def test_a_table_that_takes_no_row_is_named_and_can_be_helped(engine: sa.Engine, history: History) -> None:
    up = (
        "op.create_table('odd', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False), "
        "sa.Column('year', sa.Integer(), nullable=False), "
        "sa.CheckConstraint('year BETWEEN 2001 AND 2009', name=op.f('ck_odd_year')))"
    )
    step, folder = second(history, up, "op.drop_table('odd')", {"odd": "the table begins here"})
    assert "2: no row for odd" in findings(engine, step, folder)
    given = {"odd.year": st.integers(2001, 2009)}
    assert findings(engine, step, folder, given=given) == []


def test_a_type_that_nobody_taught_it_is_an_error() -> None:
    with pytest.raises((NotImplementedError, KeyError)):
        made_rows.of_type(sa.types.NullType())


def test_contents_tell_types_apart(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    there = sa.Table("t", metadata, sa.Column("a", sa.Integer), sa.Column("b", sa.Boolean), sa.Column("d", sa.Date))
    metadata.create_all(engine)
    made_rows.put(engine, there, [{"a": 1, "b": True, "d": dt.date(2026, 11, 2)}])
    assert tm.contents(engine) == {"t": [{"a": "1", "b": "True", "d": "datetime.date(2026, 11, 2)"}]}


# ---------------------------------------------------------------- a page that is called like a test


def test_the_page_is_imported_as_a_page_though_pytest_rewrites_files_of_such_names() -> None:
    assert type(tm.__loader__) is PlaybookLoader
    assert not hasattr(tm, "history"), "a demonstration ran at import"


def test_pytest_finds_no_test_in_the_page_nor_in_its_exercise() -> None:
    targets = ["playbook/migrations", "playbook/exercises/migrations"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "no tests collected" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout.lower(), done.stdout


def test_the_service_does_not_load_what_is_for_tests() -> None:
    code = (
        "import sys, playbook.pantry.app; "
        "print([name for name in ('hypothesis', 'playbook.migrations.test_migrations') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
