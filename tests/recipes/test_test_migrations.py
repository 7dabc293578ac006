"""What the recipe promises, on SQLite and, if installed, on DuckDB: each fault is found, what is right passes."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from playbook.migrations.test_migrations import Step, check_step, contents, lost, schema, steps, walk

ENV = """from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """import sqlalchemy as sa
from alembic import op

revision, down_revision, loses = {!r}, {!r}, {!r}


def upgrade():
    {}


def downgrade():
    {}
"""
MADE = (
    "op.create_table('things', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False), "
    "sa.Column('name', sa.String()), sa.Column('done', sa.Boolean(), nullable=False))"
)
ENGINES = ["sqlite", *(["duckdb"] if importlib.util.find_spec("duckdb_sqlalchemy") else [])]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    url = {"sqlite": "sqlite://", "duckdb": "duckdb:///:memory:?threads=1"}[request.param]  # more would be woken
    made = sa.create_engine(url, poolclass=sa.StaticPool)
    made.dialect.supports_sane_rowcount = request.param != "duckdb"  # Alembic asks how many rows it changed
    return made


History = Callable[..., tuple[Step, Path]]


@pytest.fixture
def history(tmp_path: Path) -> History:
    """The step of a revision that stands on a table `things`, and its folder."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV, encoding="utf-8")

    def write(up: str, down: str = "pass", loses: dict[str, str] | None = None) -> tuple[Step, Path]:
        revisions = [("1", None, {}, MADE, "op.drop_table('things')"), ("2", "1", loses or {}, up, down)]
        for name, *rest in revisions:
            (tmp_path / "versions" / f"{name}.py").write_text(REVISION.format(name, *rest), encoding="utf-8")
        return steps(tmp_path)[1], tmp_path

    return write


def fill(engine: sa.Engine, place: int) -> list[str]:
    """Three rows, in the columns that are there."""
    things = sa.Table("things", sa.MetaData(), autoload_with=engine)
    texts = ("", None, f"O'Brien ß {place}")
    rows = []
    for number, text in enumerate(texts):
        row = {"id": 10 * place + number, "name": text, "title": text, "size": number, "done": number == 1}
        rows.append({key: value for key, value in row.items() if key in things.c})
    with engine.begin() as connection:
        connection.execute(things.insert(), rows)
    return []


ADD, DROP = "op.add_column('things', sa.Column('size', sa.Integer()))", "op.drop_column('things', 'size')"
RENAME = "op.alter_column('things', '{}', new_column_name='{}')"
INDEX, NO_INDEX = "op.create_index('by_name', 'things', ['name'], unique=False)", "op.drop_index('by_name', 'things')"
BATCH = (
    "\n    with op.batch_alter_table('things') as batch: batch.alter_column('done', existing_type=sa.Boolean(), {})\n"
)
RULE = "\n    with op.batch_alter_table('things') as batch: batch.{}\n"
RIGHT = {
    "nothing": ("pass", "pass", {}),
    "an index": (INDEX, NO_INDEX, {}),
    "a default": (BATCH.format("server_default=sa.false()"), BATCH.format("server_default=None"), {}),
    "a column, declared": (ADD, DROP, {"things.size": "the old program has no place for it"}),
    "a column renamed": (RENAME.format("name", "title"), RENAME.format("title", "name"), {}),
    "changed, declared": ("op.execute('UPDATE things SET name = lower(name)')", "pass", {"things.name": "as is"}),
}
WRONG = {
    "a column, not declared": (ADD, DROP, {}, "2: changes or loses things.size"),
    "values changed": ("op.execute('UPDATE things SET name = name || id')", "pass", {}, "changes or loses things.name"),
    "rows gone": ("op.execute('DELETE FROM things WHERE done')", "pass", {}, "2: changes or loses things"),
    "values exchanged": ("op.execute('UPDATE things SET done = (id % 10 = 0)')", "pass", {}, "changes or loses things"),
    "one row more": (
        "op.execute(\"INSERT INTO things SELECT max(id) + 100, 'x', true FROM things\")", "pass", {},
        "2: changes or loses things",
    ),
    "an index left": (
        INDEX.replace("unique", "if_not_exists=True, unique"), "pass", {}, "2: the downgrade leaves things: indexes",
    ),
    "NOT NULL gone": (BATCH.format("nullable=True"), "pass", {}, "2: the downgrade lacks things: columns"),
    "a default left": (BATCH.format("server_default=sa.true()"), "pass", {}, "2: the downgrade leaves things: columns"),
    "declared and kept": ("pass", "pass", {"things.name": "a guess"}, "2: declares things.name, and keeps it"),
    "it runs once only": (ADD, "pass", {}, "2: the second upgrade fails: "),
    "the way back fails": ("pass", "op.execute('SELECT nonsense')", {}, "2: the downgrade fails: "),
    "needs an empty table": (
        "op.execute('INSERT INTO things SELECT id, name, done FROM things')", "pass", {}, "2: the upgrade fails: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_passes(engine: sa.Engine, history: History, case: str) -> None:
    step, folder = history(*RIGHT[case])
    assert check_step(engine, step, fill, folder) == []


@pytest.mark.parametrize("case", WRONG)
def test_each_fault_is_found(engine: sa.Engine, history: History, case: str) -> None:
    *code, words = WRONG[case]
    step, folder = history(*code)
    found = check_step(engine, step, fill, folder)
    assert any(words in line for line in found), found


RULES = {
    "UNIQUE": (
        "create_unique_constraint('one_name', ['id', 'name'])", "drop_constraint('one_name')", "unique_constraints",
    ),
    "CHECK": ("create_check_constraint('positive', 'id >= 0')", "drop_constraint('positive')", "check_constraints"),
    "a foreign key": (
        "create_foreign_key('to_self', 'things', ['id'], ['id'])", "drop_constraint('to_self')", "foreign_keys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_constraint_that_stays_is_found(history: History, rule: str) -> None:
    """On SQLite alone: DuckDB cannot add a constraint to a table."""
    add, drop, kind = RULES[rule]
    step, folder = history(RULE.format(add), RULE.format(drop))
    assert check_step(sa.create_engine("sqlite://", poolclass=sa.StaticPool), step, fill, folder) == []
    step, folder = history("pass", RULE.format(add))
    found = check_step(sa.create_engine("sqlite://", poolclass=sa.StaticPool), step, fill, folder)
    assert [line.partition(" {")[0] for line in found] == [
        f"2: the downgrade leaves things: {kind}",
        f"2: the second upgrade leaves things: {kind}",
    ]


def test_the_schema_knows_every_kind(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE a (id INTEGER PRIMARY KEY)",
            "CREATE TABLE b (a INTEGER REFERENCES a (id), n INTEGER CHECK (n > 0), u VARCHAR DEFAULT 'x', UNIQUE (u))",
            "CREATE INDEX by_n ON b (n)",
        ):
            connection.exec_driver_sql(statement)
    kinds = {line.partition(": ")[2].split(" {")[0] for line in schema(engine) if line.startswith("b: ")}
    assert kinds == {
        "primary key []", "columns", "foreign_keys", "indexes", "unique_constraints", "check_constraints",
    }  # fmt: skip


def test_a_table_that_took_no_row_is_named(engine: sa.Engine, history: History) -> None:
    step, folder = history("pass")
    found = check_step(engine, step, lambda *_: ["things"], folder)
    assert found == ["2: no row for things", "2: no row for things"]


def test_the_walk_stops_in_each_place(engine: sa.Engine, history: History) -> None:
    step, folder = history(ADD, DROP)
    at = []
    for place in walk(engine, step, folder):
        with engine.connect() as connection:
            at.append((place, connection.scalar(sa.text("SELECT version_num FROM alembic_version"))))
    assert at == [(0, "1"), (1, "2"), (2, "1"), (3, "2")]


def test_a_step_knows_what_it_stands_on(history: History) -> None:
    step, folder = history("pass", loses={"things": "why"})
    assert step == Step(("1",), "2", {"things": "why"})
    assert steps(folder)[0] == Step((), "1", {})


def test_contents_tell_types_apart(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    there = sa.Table("t", metadata, sa.Column("a", sa.Integer), sa.Column("b", sa.String))
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(there.insert(), [{"a": 1, "b": "1"}])
    assert contents(engine) == {"t": [{"a": "1", "b": "'1'"}]}


def test_a_row_that_was_replaced_by_a_copy_of_another_is_lost() -> None:
    old = [{"a": "1", "b": "2"}, {"a": "2", "b": "1"}]
    assert lost({"t": old}, {"t": [{"a": "1", "b": "1"}, {"a": "2", "b": "2"}]}) == {"t"}
    assert lost({"t": old}, {"t": [*old, {"a": "3", "b": "3"}]}) == set()
    assert lost({"t": old}, {}) == {"t"}
    assert lost({"t": old}, {}, new_columns=False) == set()
