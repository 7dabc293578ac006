"""`expand_and_contract` on both engines: both columns, the backfill beside writers, migrations that give way.

The page's five releases run here without servers, and with one step left out or put wrong at a time.
"""

import ast
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import hook
from playbook.kit.course import Course
from playbook.kit.stage import capture_sql
from playbook.migrations import expand_and_contract as ec

PACKAGES = sa.Table(
    "packages",
    sa.MetaData(),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("licence", sa.String),
    sa.Column("license", sa.String),
    sa.Column("downloads", sa.Integer),
)
COPY = PACKAGES.c.licence, PACKAGES.c.license


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

ADD = "ALTER TABLE packages ADD COLUMN summary VARCHAR"
REQUIRE = "ALTER TABLE packages ALTER COLUMN license SET NOT NULL"


def ddl(*statements: str) -> Callable[[sa.Connection], None]:
    def change(connection: sa.Connection) -> None:
        for statement in statements:
            connection.execute(sa.text(statement))

    return change


def columns(engine: sa.Engine) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns("packages")}


def test_without_anybody_in_its_way_it_runs_once(packages: sa.Engine) -> None:
    assert ec.migrate(packages, ddl(ADD)) == 0
    assert "summary" in columns(packages)


def test_it_gives_way_until_the_others_are_done(packages: sa.Engine) -> None:
    """PostgreSQL: a transaction that has read the table. DuckDB: another change of the table's columns."""
    run(packages, PACKAGES.insert().values(name="pip", licence="MIT", license="MIT"))
    pauses: list[float] = []
    with packages.connect() as other:
        other.execute(sa.text("SELECT * FROM packages"))
        if packages.dialect.name == "duckdb":
            other.execute(sa.text("ALTER TABLE packages ADD COLUMN more VARCHAR"))

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            with packages.connect() as reader:  # it does not wait for the migration now
                assert reader.execute(sa.text("SELECT count(*) FROM packages")).scalar() == 1
            if len(pauses) == 3:
                other.commit()

        assert ec.migrate(packages, ddl(REQUIRE), lock_timeout=20, sleep=sleep) == len(pauses) >= 3
    assert all(0 <= seconds <= 1 for seconds in pauses)
    with pytest.raises(sa.exc.IntegrityError):
        run(packages, PACKAGES.insert().values(name="ruff"))


def test_it_ends_after_its_attempts_and_leaves_nothing(packages: sa.Engine) -> None:
    run(packages, PACKAGES.insert().values(name="pip", license="MIT"))
    pauses: list[float] = []
    with packages.connect() as other:
        other.execute(sa.text("ALTER TABLE packages ADD COLUMN more VARCHAR"))
        with pytest.raises(sa.exc.DBAPIError):
            ec.migrate(packages, ddl(ADD, REQUIRE), lock_timeout=20, attempts=3, sleep=pauses.append)
        other.rollback()
    assert len(pauses) == 2
    assert columns(packages).isdisjoint({"summary", "more"})


def test_what_is_wrong_in_itself_is_tried_once(packages: sa.Engine) -> None:
    pauses: list[float] = []
    with pytest.raises(sa.exc.ProgrammingError):
        ec.migrate(packages, ddl("UPDATE packages SET nothing = 1"), sleep=pauses.append)
    assert pauses == []


def test_its_wait_for_a_lock_does_not_go_back_to_the_pool(postgres_url: str) -> None:
    engine, seen = make_engine(postgres_url), list[str]()
    show = lambda connection: seen.append(connection.scalar(sa.text("SHOW lock_timeout")))  # noqa: E731
    ec.migrate(engine, show)
    ec.migrate(engine, show, lock_timeout=123)
    with engine.connect() as connection:
        show(connection)
    assert seen == ["200ms", "123ms", "0"]
    engine.dispose()


# ---------------------------------------------------------------- the page's five releases


@pytest.fixture
def page() -> dict[str, Any]:
    """The page's definitions, those of its demonstrations too; nothing of it is run."""
    playbook = Course().get("expand_and_contract")
    source = playbook.source.partition("## On PostgreSQL")[0]
    lines = source.split("\n")
    code = "\n".join("\n".join(lines[c.start : c.stop]) for c in hook.cells(source) if not c.markdown)
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    runs = {"lesson_url", "try_order", "engine"}

    def defines(node: ast.stmt) -> bool:
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        return isinstance(node, kept) and not (isinstance(node, ast.Assign) and names & runs)

    tree = ast.parse(code)
    tree.body = [node for node in tree.body if defines(node)]
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(tree, str(playbook.text), "exec"), found)
    return found


class Stepped:
    """What the page asks of a fleet, without servers and threads. At each look every release that serves writes a new
    row and an old one, then every release reads all rows that were written."""

    def __init__(self, engine: sa.Engine, models: dict[str, Any], rows: int) -> None:
        self.engine, self.models, self.running = engine, models, list[str]()
        self.wrote = {f"package-{number:03}": "MIT" for number in range(rows)}
        self.failed: list[str] = []
        self.seen: list[str] = []

    def __enter__(self) -> "Stepped":
        self.kept = self.engine.connect()  # without one a database in memory is gone
        return self

    def __exit__(self, *error: object) -> None:
        self.kept.close()
        self.engine.dispose()

    def ask(self, work: Callable[[orm.Session], Any]) -> Any:
        try:
            return transaction(self.engine, work, attempts=3)
        except sa.exc.DBAPIError as error:
            return type(error).__name__

    def look(self) -> None:
        self.seen.append(" and ".join(self.running))
        for release in self.running:
            for name in ("package-000", f"row {len(self.wrote)}"):
                text = f"{release}-{len(self.seen)}"
                row = {"name": name, "license": text}
                error = self.ask(lambda session: session.merge(self.models[release](**row)) and None)  # noqa: B023
                if error is None:
                    self.wrote[name] = text
                else:
                    self.failed.append(f"{release} cannot write: {error}")
        for release in self.running:
            model = self.models[release]
            found = self.ask(lambda session: dict(session.execute(sa.select(model.name, model.license)).all()))  # noqa: B023
            if found != self.wrote:
                self.failed.append(f"{release} reads something else")

    def start(self, release: str) -> None:
        self.running.append(release)

    def replace(self, release: str) -> None:
        self.look()
        self.start(release)
        self.look()
        self.running.pop(0)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def failures(self) -> list[str]:
        return self.failed

    def wrong_rows(self, column: str) -> int:
        query = sa.text(f"SELECT name, {column} FROM packages")
        found = self.ask(lambda session: dict(session.execute(query).all()))
        return sum(found.get(name) != text for name, text in self.wrote.items()) if isinstance(found, dict) else -1


def five_releases(
    page: dict[str, Any], url: str, fleet: type[Stepped] = Stepped
) -> tuple[list[str], list[str], int, int]:
    page["fleet_of"] = lambda url, models, rows: fleet(page["database"](url, rows), models, rows)
    seen, failed, left, wrong = page["five_releases"](url)
    return seen, failed, left, wrong


def test_five_releases_fail_no_request(url: str, page: dict[str, Any]) -> None:
    seen, *found = five_releases(page, url)
    assert found == [[], 0, 0]
    pairs = [f"{number} and {number + 1}" for number in range(5)]
    assert [serving for serving in seen if "and" in serving] == pairs


def without_backfill(page: dict[str, Any]) -> None:
    page["backfill"] = lambda *given, **more: 0
    page["differing"] = lambda *given: 0


def null_rows_only(page: dict[str, Any]) -> None:
    """Release 1 changes what release 2 has written: not NULL, but stale."""

    def only(engine: sa.Engine, *given: Any, **more: Any) -> int:
        run(engine, "UPDATE packages SET license = 'stale' WHERE name = 'package-001'")
        run(engine, "UPDATE packages SET license = licence WHERE license IS NULL")
        return 0

    page["backfill"] = only


def switch_writes_one(page: dict[str, Any]) -> None:
    page["RELEASES"]["4"] = page["model"]("license")


def no_dual_write(page: dict[str, Any]) -> None:
    page["RELEASES"] |= dict.fromkeys("23", page["model"]("licence"))


def old_column_stays_required(page: dict[str, Any]) -> None:
    page["expand"] = page["ddl"]("ADD license VARCHAR")


def contract_first(page: dict[str, Any]) -> None:
    """The last migration runs while release 4 still serves."""

    class Early(Stepped):
        def start(self, release: str) -> None:
            super().start(release)
            if release == "5":
                ec.migrate(self.engine, page["contract"])
                page["contract"] = lambda connection: None

    page["Fleet"] = Early


@pytest.mark.parametrize(
    "sabotage",
    [without_backfill, null_rows_only, switch_writes_one, no_dual_write, old_column_stays_required, contract_first],
)
def test_each_step_left_out_or_put_wrong_is_found(page: dict[str, Any], sabotage: Callable[[Any], None]) -> None:
    page["Fleet"] = Stepped
    sabotage(page)
    try:
        seen, failed, left, wrong = five_releases(page, f"duckdb:///:memory:{sabotage.__name__}", page["Fleet"])
    except sa.exc.IntegrityError as error:
        assert "NOT NULL" in str(error)  # noqa: PT017
    else:
        assert failed or left or wrong, seen
