"""`expand_and_contract`: both columns, the backfill beside writers, migrations that give way, traffic that counts.

The page's own demonstration runs here with more clients, and with one step left out or put wrong at a time.
"""

import ast
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Body, FastAPI, HTTPException
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import hook
from playbook.kit.course import Course
from playbook.kit.live import serving
from playbook.kit.stage import capture_sql
from playbook.migrations import expand_and_contract as ec
from playbook.migrations import first_migration as fm

PACKAGES = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("licence", sa.String),
    sa.Column("license", sa.String),
    sa.Column("downloads", sa.Integer),
)
COPY = PACKAGES, "licence", "license"


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = make_engine(url)
    with made.connect():
        yield made
    made.dispose()


@pytest.fixture
def packages(engine: sa.Engine) -> sa.Engine:
    PACKAGES.metadata.create_all(engine)
    return engine


def run(engine: sa.Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def both(engine: sa.Engine) -> dict[str, tuple[str | None, str | None]]:
    with engine.connect() as connection:
        return {row.name: (row.licence, row.license) for row in connection.execute(sa.select(PACKAGES))}


# ---------------------------------------------------------------- dual write


def model() -> Any:
    class Package(orm.declarative_base()):  # type: ignore[misc]
        __tablename__ = "packages"
        name = orm.mapped_column(sa.String, primary_key=True)
        license = orm.mapped_column("licence", sa.String)
        other = orm.mapped_column("license", sa.String)

    ec.dual_write(Package.license, Package.other)
    return Package


def test_each_way_to_assign_writes_both_columns(packages: sa.Engine) -> None:
    package = model()

    def make(session: orm.Session) -> None:
        session.add(package(name="made", license="MIT"))
        row = package(name="later")
        row.license = "MIT"
        session.add_all([row, package(name="changed", license="MIT"), package(name="emptied", license="MIT")])

    def change(session: orm.Session) -> None:
        session.get_one(package, "changed").license = "BSD"
        session.get_one(package, "emptied").license = None

    transaction(packages, make)
    transaction(packages, change)
    wanted = {"made": "MIT", "later": "MIT", "changed": "BSD", "emptied": None}
    assert both(packages) == {name: (text, text) for name, text in wanted.items()}


def test_a_write_repairs_the_other_column_even_when_nothing_changes_in_the_first(packages: sa.Engine) -> None:
    run(packages, PACKAGES.insert().values(name="old", licence="MIT"))
    package = model()
    transaction(packages, lambda session: setattr(session.get_one(package, "old"), "license", "MIT"))
    assert both(packages) == {"old": ("MIT", "MIT")}


def test_a_bulk_statement_goes_past_it_and_is_found(packages: sa.Engine) -> None:
    package = model()
    transaction(packages, lambda session: session.add(package(name="pip", license="MIT")))
    assert ec.differing(packages, *COPY) == 0
    transaction(packages, lambda session: session.execute(sa.update(package).values(license="BSD")))
    assert ec.differing(packages, *COPY) == 1


# ---------------------------------------------------------------- backfill


def fill(engine: sa.Engine, number: int, seed: int = 1) -> dict[str, str | None]:
    """Rows of each kind: not copied, stale, equal, NULL on either side. Returns what each must say."""
    draw = random.Random(seed)
    texts = [None, "MIT", "BSD", "GPL"]
    rows = [
        {"name": f"{draw.random():.9f}-{i}", "licence": draw.choice(texts), "license": draw.choice(texts)}
        for i in range(number)
    ]
    if rows:
        run(engine, PACKAGES.insert().values(rows))
    return {str(row["name"]): row["licence"] for row in rows}


@pytest.mark.parametrize(("number", "size"), [(0, 10), (1, 1), (57, 1), (57, 10), (60, 10), (57, 1000)])
def test_after_a_backfill_the_columns_agree_whatever_they_said(packages: sa.Engine, number: int, size: int) -> None:
    wanted = fill(packages, number)
    unequal = sum(old != new for old, new in both(packages).values())
    assert ec.differing(packages, *COPY) == unequal
    assert ec.backfill(packages, *COPY, size=size) == unequal
    assert both(packages) == {name: (text, text) for name, text in wanted.items()}
    assert ec.differing(packages, *COPY) == 0
    assert ec.backfill(packages, *COPY, size=size) == 0, "a second one has nothing to do"


def test_no_transaction_changes_more_rows_than_it_may(packages: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(packages, 95)
    run(packages, PACKAGES.update().values(license=None, licence="MIT"))
    changed, copy_range = list[int](), ec.copy_range

    def noted(*arguments: Any, **options: Any) -> tuple[Any, int]:
        last, number = copy_range(*arguments, **options)
        changed.append(number)
        return last, number

    monkeypatch.setattr(ec, "copy_range", noted)
    with capture_sql(packages) as statements:
        assert ec.backfill(packages, *COPY, size=10) == 95
    assert sum(changed) == 95
    assert max(changed) == 10
    assert [s.sql for s in statements].count("COMMIT") >= 10


def test_a_backfill_that_was_stopped_is_repeated(packages: sa.Engine) -> None:
    wanted = fill(packages, 50)

    def stop(conn: Any, cursor: Any, sql: str, *rest: Any, left: Any = itertools.count(3, -1)) -> None:  # noqa: B008
        if sql.startswith("UPDATE") and next(left) == 0:
            raise KeyboardInterrupt

    sa.event.listen(packages, "before_cursor_execute", stop)
    with pytest.raises(KeyboardInterrupt):
        ec.backfill(packages, *COPY, size=10)
    sa.event.remove(packages, "before_cursor_execute", stop)
    assert ec.differing(packages, *COPY) > 0
    ec.backfill(packages, *COPY, size=10)
    assert both(packages) == {name: (text, text) for name, text in wanted.items()}


def test_nothing_is_lost_between_a_backfill_and_writers_of_both_columns(packages: sa.Engine) -> None:
    wanted = fill(packages, 200)
    names, package, ending = sorted(wanted), model(), threading.Event()
    writes = [0] * 4

    def writer(mine: int) -> None:
        own = names[mine::4]
        for number in itertools.count():
            if ending.is_set() and number >= 20:
                return
            name = own[number % len(own)]
            text = f"{mine}-{number}"
            work = lambda session: setattr(session.get_one(package, name), "license", text)  # noqa: B023, E731
            transaction(packages, work, attempts=60)
            wanted[name], writes[mine] = text, number + 1

    threads = [threading.Thread(target=writer, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            ec.backfill(packages, *COPY, size=20)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert min(writes) >= 20
    assert both(packages) == {name: (text, text) for name, text in wanted.items()}


def test_a_write_of_the_old_column_alone_between_its_read_and_its_copy_is_not_missed(packages: sa.Engine) -> None:
    """Or the copy would be of what was there before."""
    run(packages, PACKAGES.insert().values(name="pip", licence="MIT"))

    written: list[str] = []

    def write(conn: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if sql.startswith("UPDATE") and not written:
            written.append(sql)
            run(packages, PACKAGES.update().values(licence="BSD"))

    sa.event.listen(packages, "before_cursor_execute", write)
    ec.backfill(packages, *COPY)
    assert both(packages) == {"pip": ("BSD", "BSD")}


# ---------------------------------------------------------------- migrations that give way


def steps(folder: Path, *bodies: str) -> Path:
    """A history with Pantry's environment, a revision for each body."""
    (folder / "versions").mkdir()
    env = Path(fm.__file__).parents[1] / "pantry" / "revisions" / "env.py"
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


def columns(engine: sa.Engine) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns("packages")}


def test_without_anybody_in_its_way_it_is_upgrade(engine: sa.Engine, tmp_path: Path) -> None:
    history = steps(tmp_path, CREATE, ADD)
    assert ec.migrate(engine, "r0", history) == 0
    assert fm.current(engine) == ("r0",)
    assert ec.migrate(engine, location=history) == 0
    assert "summary" in columns(engine)


def test_it_gives_way_until_the_others_are_done(engine: sa.Engine, tmp_path: Path) -> None:
    """PostgreSQL: a transaction that has read the table. DuckDB: another change of the table's columns."""
    history = steps(tmp_path, CREATE, REQUIRE)
    fm.upgrade(engine, "r0", history)
    run(engine, PACKAGES.insert().values(name="pip", licence="MIT", license="MIT"))
    pauses: list[float] = []
    with engine.connect() as other:
        other.execute(sa.text("SELECT * FROM packages"))
        if engine.dialect.name == "duckdb":
            other.execute(sa.text("ALTER TABLE packages ADD COLUMN more VARCHAR"))

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            with engine.connect() as reader:  # nobody waits for the migration now
                assert reader.execute(sa.text("SELECT count(*) FROM packages")).scalar() == 1
            if len(pauses) == 3:
                other.commit()

        assert ec.migrate(engine, location=history, lock_timeout="20ms", sleep=sleep) == len(pauses) >= 3
    assert all(0 <= seconds <= 1 for seconds in pauses)
    with pytest.raises(sa.exc.IntegrityError):
        run(engine, PACKAGES.insert().values(name="ruff"))


def test_it_ends_after_its_attempts_and_leaves_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    history = steps(tmp_path, CREATE, f"{ADD}\n    {REQUIRE}")
    fm.upgrade(engine, "r0", history)
    run(engine, PACKAGES.insert().values(name="pip", license="MIT"))
    pauses: list[float] = []
    with engine.connect() as other:
        other.execute(sa.text("ALTER TABLE packages ADD COLUMN more VARCHAR"))
        with pytest.raises(sa.exc.DBAPIError) as failure:
            ec.migrate(engine, location=history, lock_timeout="20ms", attempts=3, sleep=pauses.append)
        other.rollback()
    assert ec.gave_way(failure.value)
    assert len(pauses) == 2
    assert fm.current(engine) == ("r0",)
    assert columns(engine).isdisjoint({"summary", "more"})


def test_what_is_wrong_in_itself_is_tried_once(engine: sa.Engine, tmp_path: Path) -> None:
    history = steps(tmp_path, CREATE, "op.execute('UPDATE packages SET nothing = 1')")
    pauses: list[float] = []
    with pytest.raises(sa.exc.ProgrammingError):
        ec.migrate(engine, location=history, sleep=pauses.append)
    assert pauses == []
    assert fm.current(engine) == ("r0",)


def test_upgrade_itself_still_waits_five_seconds_for_a_lock(postgres_url: str, tmp_path: Path) -> None:
    engine = make_engine(postgres_url)
    history = steps(tmp_path, CREATE, "op.get_bind().info['seen'].append(op.get_bind().scalar(sa.text('%s')))")
    path = history / "versions" / "r1.py"
    path.write_text(path.read_text(encoding="utf-8").replace("%s", "SHOW lock_timeout"), encoding="utf-8")
    seen: list[str] = []
    sa.event.listen(engine, "connect", lambda connection, record: record.info.__setitem__("seen", seen))
    fm.upgrade(engine, location=history)
    run(engine, "UPDATE alembic_version SET version_num = 'r0'")
    ec.migrate(engine, location=history, lock_timeout="123ms")
    assert seen == ["5s", "123ms"]
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW lock_timeout")) == "0", "it went back to the pool"
    engine.dispose()


def test_a_release_serves_from_the_revisions_it_names(engine: sa.Engine, tmp_path: Path) -> None:
    history = steps(tmp_path, CREATE, ADD, REQUIRE)
    fm.prepare(engine, history, also=("r1",))
    assert fm.current(engine) == ("r2",), "an empty database is brought to head all the same"
    fm.prepare(engine, history, also=("r1",))
    for at, also, starts in [
        ("r1", ("r1",), True),
        ("r1", (), False),
        ("r0", ("r1",), False),
        ("r0", ("r0", "r1"), True),
    ]:
        run(engine, f"UPDATE alembic_version SET version_num = '{at}'")
        if starts:
            fm.prepare(engine, history, also=also)
        else:
            with pytest.raises(fm.WrongSchema, match=f"is at {at}, this program needs r2"):
                fm.prepare(engine, history, also=also)
        assert fm.current(engine) == (at,)


# ---------------------------------------------------------------- DuckDB and tables with an index


def test_on_duckdb_a_batch_loses_what_is_committed_while_it_copies(tmp_path: Path) -> None:
    """What the page warns of. If this fails, DuckDB has learned to refuse it, and the page can say so."""
    engine = make_engine("duckdb:///:memory:batch")
    history = steps(tmp_path, CREATE, "op.drop_column('packages', 'licence')")
    fm.upgrade(engine, "r0", history)
    run(engine, "CREATE INDEX ix_packages_licence ON packages (licence)")
    run(engine, PACKAGES.insert().values(name="pip", license="MIT"))
    sa.event.listen(
        engine,
        "before_cursor_execute",
        lambda conn, cursor, sql, *rest: (
            run(engine, PACKAGES.update().values(license="BSD")) if sql.strip() == "DROP TABLE packages" else None
        ),
    )
    fm.upgrade(engine, location=history)
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
    fm.upgrade(engine, "r0", history)
    run(engine, PACKAGES.insert().values([{"name": f"p{i}", "licence": "a", "license": "a"} for i in range(100)]))
    wrote, ending, started = {f"p{i}": "a" for i in range(100)}, threading.Event(), threading.Barrier(3)
    front = ec.Front()
    front.rotation.append("the writers' server")

    def writer(mine: int) -> None:
        started.wait(10)
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
    started.wait(10)
    try:
        with capture_sql(engine) as statements:
            for revision in ("r1", "r2", "r3"):  # in one run Alembic would still copy: it remembers the index
                before = dict(wrote)
                while before == wrote:
                    time.sleep(0.001)
                with ec.held(front) if engine.dialect.name == "duckdb" else nullcontext():
                    ec.migrate(engine, revision, history)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not any("CREATE TABLE" in s.sql or "DROP TABLE" in s.sql for s in statements), "the table was copied"
    assert columns(engine) == {"name", "license", "downloads"}
    with engine.connect() as connection:
        assert {row.name: row.license for row in connection.execute(sa.text("SELECT * FROM packages"))} == wrote


# ---------------------------------------------------------------- the front and the traffic


def test_requests_take_turns_and_a_server_is_removed_when_it_has_finished() -> None:
    front, removed, inside = ec.Front(), threading.Event(), threading.Event()
    front.rotation += ["a", "b"]
    taken = []
    for number in range(4):
        with front.server(number) as url:
            taken.append(url)
    assert taken == ["a", "b", "a", "b"]

    def remove() -> None:
        inside.wait(5)
        front.remove("a")
        removed.set()

    thread = threading.Thread(target=remove)
    thread.start()
    with front.server(0) as url:
        assert url == "a"
        inside.set()
        while "a" in front.rotation:
            time.sleep(0.001)
        assert not removed.is_set(), "removed while it was busy"
        with front.server(2) as next_url:
            assert next_url == "b"
    assert removed.wait(5)
    thread.join()


def test_a_server_that_does_not_finish_is_an_error() -> None:
    front = ec.Front()
    front.rotation.append("a")
    with front.server(0), pytest.raises(TimeoutError, match="1 requests"):
        front.remove("a", timeout=0.01)
    with pytest.raises(TimeoutError, match="no server"), front.server(0, timeout=0.01):
        pytest.fail("there is none")


def test_an_error_while_requests_are_held_lets_them_go_on() -> None:
    front = ec.Front()
    front.rotation += ["a", "b"]
    with pytest.raises(RuntimeError), ec.held(front):
        raise RuntimeError
    with front.server(1) as url:
        assert url == "b"


def test_who_comes_while_requests_are_held_waits_and_those_under_way_end_first() -> None:
    front, under_way, ends = ec.Front(), threading.Barrier(2), threading.Event()
    front.rotation += ["a", "b"]
    seen: list[str] = []

    def before() -> None:
        with front.server(0):
            under_way.wait(5)
            ends.wait(5)
            seen.append("before")

    def meanwhile() -> None:
        while front.rotation:
            time.sleep(0.001)
        waiting.set()
        with front.server(1) as url:
            seen.append(url)

    waiting = threading.Event()
    threads = [threading.Thread(target=work) for work in (before, meanwhile)]
    for thread in threads:
        thread.start()
    under_way.wait(5)
    threading.Timer(0.05, ends.set).start()
    with ec.held(front):
        assert waiting.wait(5)
        assert seen == ["before"]
        seen.append("held")
    for thread in threads:
        thread.join()
    assert seen == ["before", "held", "b"]


def test_an_error_frees_the_server() -> None:
    front = ec.Front()
    front.rotation.append("a")
    with pytest.raises(RuntimeError), front.server(0):
        raise RuntimeError
    front.remove("a", timeout=0.01)


def store(get: Callable[[str, dict[str, str]], str | None], put_status: int = 200) -> FastAPI:
    """A service over a dictionary that answers reads with `get`."""
    app, rows = FastAPI(), dict[str, str]()

    @app.put("/packages/{name}")
    def put(name: str, license: str = Body(embed=True)) -> dict[str, str]:
        if put_status != 200:
            raise HTTPException(put_status)
        rows[name] = license
        return {"license": license}

    @app.get("/packages/{name}")
    def read(name: str) -> dict[str, str | None]:
        if name not in rows:
            raise HTTPException(404)
        return {"license": get(name, rows)}

    return app


@pytest.mark.parametrize(
    ("app", "failed"),
    [
        (lambda: store(lambda name, rows: rows[name]), 0),
        (lambda: store(lambda name, rows: "MIT"), 2),
        (lambda: store(lambda name, rows: None), 2),
        (lambda: store(lambda name, rows: rows[name], 500), 1),
    ],
    ids=["right", "stale", "null", "refused"],
)
def test_traffic_counts_what_fails_in_each_round(app: Callable[[], FastAPI], failed: int) -> None:
    front = ec.Front()
    with serving(app()) as client:
        front.rotation.append(str(client.base_url))
        with ec.Traffic(front, clients=3) as traffic:
            assert ec.flow(traffic, 5) == (5 * 3 * failed, 5 * 3 * 3)
            assert ec.flow(traffic, 2) == (2 * 3 * failed, 2 * 3 * 3)
    assert not any(thread.is_alive() for thread in traffic.threads)


def test_a_server_that_is_not_there_fails_every_request() -> None:
    front = ec.Front()
    with serving(store(lambda name, rows: rows[name])) as client:
        front.rotation.append(str(client.base_url))
    with ec.Traffic(front) as traffic:
        assert ec.flow(traffic, 3) == (18, 18)
    assert {failure for done in traffic.rounds for failed in done for failure in failed} == {
        "PUT ConnectError",
        "GET ConnectError",
    }


def test_each_of_two_servers_writes_and_each_reads_it() -> None:
    """Two stores that know nothing of each other: whatever one writes, the other does not have."""
    front = ec.Front()
    with serving(store(lambda name, rows: rows[name])) as one, serving(store(lambda name, rows: rows[name])) as two:
        front.rotation += [str(one.base_url), str(two.base_url)]
        with httpx.Client(trust_env=False) as http:
            assert ec.write_and_read(http, front, 0, {}, "a") == ["GET 404"]
            assert ec.write_and_read(http, front, 3, {}, "b") == ["GET 404"]


# ---------------------------------------------------------------- the page's five releases


@pytest.fixture
def page() -> dict[str, Any]:
    """The page's definitions, those of its demonstrations too; nothing of it is run."""
    playbook = Course().get("expand_and_contract")
    source = playbook.source.partition("## Check it")[0]
    lines = source.split("\n")
    code = "\n".join("\n".join(lines[c.start : c.stop]) for c in hook.cells(source) if not c.markdown)
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    runs = {"lesson_url", "on_postgres"}

    def defines(node: ast.stmt) -> bool:
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        return isinstance(node, kept) and not (isinstance(node, ast.Assign) and names & runs)

    tree = ast.parse(code)
    tree.body = [node for node in tree.body if defines(node)]
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(tree, str(playbook.text), "exec"), found)
    return found


def test_five_releases_fail_no_request_and_the_rename_fails_those_of_the_old_one(
    url: str, page: dict[str, Any]
) -> None:
    make_traffic, migrate, fronts, served = page["Traffic"], page["migrate"], list[ec.Front](), list[bool]()

    def traffic(front: ec.Front, **options: Any) -> Any:
        fronts.append(front)
        return make_traffic(front, clients=3, **options)

    def noted(engine: sa.Engine, **options: Any) -> int:
        with fronts[-1].changed:
            served.append(bool(fronts[-1].rotation))
        return int(migrate(engine, **options))

    page["Traffic"], page["migrate"] = traffic, noted
    steps, failed, every_row_right, drift = page["five_releases"](url)
    assert [step["failed"] for step in steps] == ["0 of 36"] * 8
    assert (failed, every_row_right, drift) == ([], True, [])
    assert served == [url.startswith("postgresql")] * 2, "on DuckDB nobody may write while it migrates"
    assert [moment["failed"] for moment in page["plain_rename"](url)] == ["0 of 36", "36 of 36", "18 of 36", "0 of 36"]


def without_backfill(page: dict[str, Any]) -> None:
    page["backfill"] = lambda *given, **more: 0
    page["differing"] = lambda *given: 0


def null_rows_only(page: dict[str, Any]) -> None:
    """Release 1 changes what release 2 has written: not NULL, but stale."""

    def only(engine: sa.Engine, *given: Any, **more: Any) -> int:
        run(engine, "UPDATE packages SET license = 'stale' WHERE name = 'package-000'")
        run(engine, "UPDATE packages SET license = licence WHERE license IS NULL")
        return 0

    page["backfill"] = only


def switch_writes_one(page: dict[str, Any]) -> None:
    page["RELEASES"]["4 switch"] = (page["model"]("license"), page["EXPANDED"])


def no_dual_write(page: dict[str, Any]) -> None:
    page["RELEASES"]["2 dual write"] = (page["model"]("licence"), page["EXPANDED"])


def old_column_stays_required(page: dict[str, Any]) -> None:
    body = 'op.add_column("packages", sa.Column("license", sa.String()))'
    page["EXPANDED"] = page["history"]([page["STEPS"][0], ("0002_expand", body)])
    for release, (package, _, *also) in list(page["RELEASES"].items())[1:4]:
        page["RELEASES"][release] = (package, page["EXPANDED"], *also)


def contract_first(page: dict[str, Any]) -> None:
    """The last migration runs while release 4 still serves."""
    start, migrate = page["Fleet"].start, page["migrate"]

    def early(self: Any, release: str) -> None:
        start(self, release)
        if release == "5 contract":
            migrate(self.engine, location=page["CONTRACTED"], sleep=lambda seconds: None)

    page["Fleet"].start = early


@pytest.mark.parametrize(
    "sabotage",
    [without_backfill, null_rows_only, switch_writes_one, no_dual_write, old_column_stays_required, contract_first],
)
def test_each_step_left_out_or_put_wrong_is_found(page: dict[str, Any], sabotage: Callable[[Any], None]) -> None:
    sabotage(page)
    try:
        steps, failed, every_row_right, _ = page["five_releases"](f"duckdb:///:memory:{sabotage.__name__}")
    except (AssertionError, sa.exc.IntegrityError) as error:
        assert "too early to switch" in str(error) or "NOT NULL" in str(error)  # noqa: PT017
    else:
        assert failed or not every_row_right, steps
