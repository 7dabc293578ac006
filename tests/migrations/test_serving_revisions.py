"""Which revisions a release serves from, how long a migration waits for a lock, and tables with an index on DuckDB."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.rollout import Front
from playbook.kit.stage import capture_sql
from playbook.pantry import history as pantry

PACKAGES = sa.Table("packages", sa.MetaData(), *[sa.Column(n, sa.String) for n in ("name", "licence", "license")])


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = make_engine(url)
    with made.connect():
        yield made
    made.dispose()


def run(engine: sa.Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def columns(engine: sa.Engine) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns("packages")}


def steps(folder: Path, *bodies: str) -> Path:
    """A history with Pantry's environment, a revision for each body."""
    (folder / "versions").mkdir()
    env = Path(pantry.__file__).parent / "revisions" / "env.py"
    (folder / "env.py").write_text(env.read_text(encoding="utf-8"), encoding="utf-8")
    for number, body in enumerate(bodies):
        before = repr(f"r{number - 1}") if number else "None"
        text = f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = 'r{number}'\ndown_revision = {before}\n"
        path = folder / "versions" / f"r{number}.py"
        path.write_text(f"{text}\n\ndef upgrade():\n    {body}\n", encoding="utf-8")
    return folder


CREATE = """op.create_table("packages", sa.Column("name", sa.String(), primary_key=True),
        sa.Column("licence", sa.String()), sa.Column("license", sa.String()), sa.Column("downloads", sa.Integer()))"""
ADD = "op.add_column('packages', sa.Column('summary', sa.String()))"
REQUIRE = "op.alter_column('packages', 'license', existing_type=sa.String(), nullable=False)"


def test_upgrade_itself_waits_four_seconds_for_a_lock(postgres_url: str, tmp_path: Path) -> None:
    engine = make_engine(postgres_url)
    history = steps(tmp_path, CREATE, "op.get_bind().info['seen'].append(op.get_bind().scalar(sa.text('%s')))")
    path = history / "versions" / "r1.py"
    path.write_text(path.read_text(encoding="utf-8").replace("%s", "SHOW lock_timeout"), encoding="utf-8")
    seen: list[str] = []
    sa.event.listen(engine, "connect", lambda connection, record: record.info.__setitem__("seen", seen))
    pantry.upgrade(engine, location=history)
    assert seen == ["4s"]
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW lock_timeout")) == "0", "it went back to the pool"
    engine.dispose()


# ---------------------------------------------------------------- DuckDB and tables with an index


def test_on_duckdb_a_batch_loses_what_is_committed_while_it_copies(tmp_path: Path) -> None:
    """What the page warns of. If this fails, DuckDB has learned to refuse it, and the page can say so."""
    engine = make_engine("duckdb:///:memory:batch")
    history = steps(tmp_path, CREATE, "op.drop_column('packages', 'licence')")
    pantry.upgrade(engine, "r0", history)
    run(engine, "CREATE INDEX ix_packages_licence ON packages (licence)")
    run(engine, PACKAGES.insert().values(name="pip", license="MIT"))
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda conn, cursor, sql, *rest: (
            run(engine, PACKAGES.update().values(license="BSD")) if sql.strip() == "DROP TABLE packages" else None
        ),
    )
    pantry.upgrade(engine, location=history)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT license FROM packages")) == "MIT"
    engine.dispose()


def test_a_column_with_an_index_goes_in_three_steps_beside_writers(engine: sa.Engine, tmp_path: Path) -> None:
    """The way the page names: no index while the table is altered, so no copy of it."""
    history = steps(
        tmp_path,
        CREATE + "\n    op.create_index('ix_packages_licence', 'packages', ['licence'])",
        "op.drop_index('ix_packages_licence', 'packages')",
        f"{REQUIRE}\n    op.drop_column('packages', 'licence')",
        "op.create_index('ix_packages_license', 'packages', ['license'])",
    )
    pantry.upgrade(engine, "r0", history)
    run(engine, PACKAGES.insert().values([{"name": f"p{i}", "licence": "a", "license": "a"} for i in range(100)]))
    wrote, ending, started = {f"p{i}": "a" for i in range(100)}, threading.Event(), threading.Barrier(3)
    front = Front()
    front.rotation.append("the writers' server")

    def writer(mine: int) -> None:
        started.wait(60)
        for number in itertools.count():
            if ending.is_set():
                return
            name = f"p{mine + 2 * (number % 50)}"
            change = PACKAGES.update().where(PACKAGES.c.name == name).values(license=f"{mine}-{number}")
            with front.server(number):
                transaction(engine, lambda session: session.execute(change), attempts=60)  # noqa: B023
            wrote[name] = f"{mine}-{number}"

    threads = [threading.Thread(target=writer, args=(mine,)) for mine in range(2)]
    for thread in threads:
        thread.start()
    started.wait(60)
    try:
        with capture_sql(engine) as statements:
            for revision in ("r1", "r2", "r3"):  # in one run Alembic would still copy: it remembers the index
                before = dict(wrote)
                while before == wrote:
                    time.sleep(0.001)
                with front.held() if engine.dialect.name == "duckdb" else nullcontext():
                    pantry.upgrade(engine, revision, history)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not any("CREATE TABLE" in s.sql or "DROP TABLE" in s.sql for s in statements), "the table was copied"
    assert columns(engine) == {"name", "license", "downloads"}
    with engine.connect() as connection:
        assert {row.name: row.license for row in connection.execute(sa.text("SELECT * FROM packages"))} == wrote
