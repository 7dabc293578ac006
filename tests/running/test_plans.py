"""Look-ups on DuckDB by plans that are kept: they find what came later, and say what the long way says."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import duckdb
import pytest
import sqlalchemy as sa
from fastapi import Response
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import make_tables

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.pantry import first_page as first
from playbook.pantry import packages
from playbook.pantry import plans as module
from playbook.pantry.auth.session_lookup import SESSION_OF, USER_OF
from playbook.pantry.catalog import Package, PackageRole, Release
from playbook.pantry.connections import suit_look_ups
from playbook.pantry.first_page import first_page, note_end, one_package
from playbook.pantry.lists import Pager, cursors_of
from playbook.pantry.packages import PAGE_LIST, PackageQuery, page_of
from playbook.pantry.plans import LookUps, Plans, Unwritten, condition_of, literal, one_of
from playbook.pantry.policy import condition, seen
from playbook.schema.identity import Member, Organization

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ID = UUID("01890000-0000-7000-8000-000000000001")
TABLES = Package.metadata.tables


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = suit_look_ups(make_engine(f"duckdb:///:memory:plans-{uuid4()}"))
    make_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def plans(engine: sa.Engine) -> Iterator[Plans]:
    plans = Plans(engine)
    yield plans
    plans.close()


def insert(engine: sa.Engine, model: Any, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(model).values(**values))


def organization(engine: sa.Engine, slug: str, id: UUID = ID) -> None:
    insert(engine, Organization, id=id, slug=slug, name=slug, version=1, created_at=NOW, updated_at=NOW)


# ---------------------------------------------------------------- a plan that is kept

VISIBLE = condition_of(condition(ID, "packages:read"), first.TABLE)
ROWS: dict[str, dict[str, Any]] = {  # what comes after the plan was made
    "packages": {"organization_id": ID, "name": "a", "normalized_name": "a", "private": True, "version": 1},
    "organizations": {"slug": "acme", "name": "Acme", "version": 1},
    "members": {"organization_id": ID, "user_id": ID, "role": "owner"},
    "package_roles": {"package_id": ID, "user_id": ID, "role": "uploader"},
    "releases": {"package_id": ID, "version": "1", "version_key": "1", "is_prerelease": False, "released_at": NOW},
    "users": {"email": "ada@example.com", "name": "Ada", "email_verified": True},
    "sessions": {"user_id": ID, "token_hash": "h", "expires_at": NOW},
}
ASKED = {
    "packages": first.PACKAGES.format(literal("b"), f"private IS false OR id IN {one_of([ID])}"),
    "organizations": first.OWNERS + one_of([ID]),
    "members": VISIBLE.subqueries[0],
    "package_roles": VISIBLE.subqueries[1],
    "releases": first.RELEASES + one_of([ID, UUID(int=7)]),
    "users": USER_OF + literal(ID),
    "sessions": SESSION_OF + literal("h"),
}


# A package by its name, too.
ONE = ("packages", first.PACKAGE.format(literal("a"), f"private IS false OR id IN {one_of([ID])}"))


def other(number: int, value: Any) -> Any:
    """Another value than `value`, and than that of any other number."""
    if isinstance(value, UUID):
        return UUID(int=number)
    return f"zz{number}" if isinstance(value, str) else value


@pytest.mark.parametrize("others", [0, 50])
@pytest.mark.parametrize(("table", "sql"), [*ASKED.items(), ONE], ids=[*ASKED, "one"])
def test_a_kept_plan_finds_what_came_after_it_was_made(
    engine: sa.Engine, plans: Plans, table: str, sql: str, others: int
) -> None:
    """Whether the table was empty then, or full of rows that all are others."""
    columns = TABLES[table].columns
    row = {name: value for name, value in ROWS[table].items() if name in columns}
    row |= {name: NOW for name in ("created_at", "updated_at") if name in columns}
    row |= {"id": ID} if "id" in columns else {}
    with engine.begin() as connection:
        for number in range(100, 100 + others):
            like = {name: other(number, value) for name, value in row.items() if name not in ("role", "private")}
            connection.execute(sa.insert(TABLES[table]).values(**row | like))
    if others:
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("CHECKPOINT")
    for _ in range(3):
        assert plans.rows(sql) == []
    assert plans.known[sql] is not None
    insert(engine, TABLES[table], **row)
    assert len(plans.rows(sql)) == 1
    with engine.begin() as connection:
        connection.execute(sa.delete(TABLES[table]).where(*[columns[k] == v for k, v in row.items() if v is not None]))
    assert plans.rows(sql) == []


def test_the_setting_is_as_it_was(engine: sa.Engine, plans: Plans) -> None:
    before = plans.connection.execute("SELECT current_setting('disabled_optimizers')").fetchall()
    for _ in range(2):
        plans.rows("SELECT slug FROM organizations")
    assert plans.connection.execute("SELECT current_setting('disabled_optimizers')").fetchall() == before


def test_only_so_many_plans_are_kept(engine: sa.Engine) -> None:
    plans = Plans(engine, keep=3)
    try:
        for number in range(6):
            for _ in range(3):
                assert plans.rows(f"SELECT slug FROM organizations WHERE version = {number}") == []
        names = plans.connection.execute("SELECT count(*) FROM duckdb_prepared_statements()").fetchall()
        assert (len(plans.known), names) == (3, [(3,)])
    finally:
        plans.close()


def test_a_snapshot_is_of_one_moment(engine: sa.Engine, plans: Plans) -> None:
    with plans.snapshot():
        assert plans.rows("SELECT slug FROM organizations") == []
        organization(engine, "acme")
        assert plans.rows("SELECT slug FROM organizations") == []
    assert plans.rows("SELECT slug FROM organizations") == [("acme",)]


# ---------------------------------------------------------------- values in a text


@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_a_text_is_read_as_it_was_written(text: str) -> None:
    if "\0" in text:
        with pytest.raises(ValueError, match="NUL"):
            literal(text)
    else:
        assert duckdb.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]


def test_no_other_type_has_a_literal() -> None:
    assert duckdb.execute(f"SELECT {literal(ID)}").fetchall() == [(ID,)]
    for value in (1.5, b"x", None, ["a"]):
        with pytest.raises(TypeError):
            literal(value)  # type: ignore[arg-type]


def test_a_subquery_that_depends_on_the_row_is_refused() -> None:
    depends = sa.select(PackageRole.package_id).where(PackageRole.package_id == Package.id).correlate(None)
    with pytest.raises(ValueError, match="depends on the row"):
        condition_of(Package.id.in_(depends), first.TABLE)
    with pytest.raises(ValueError, match="depends on the row"):
        condition_of(Package.id == sa.select(PackageRole.package_id).scalar_subquery(), first.TABLE)


def test_a_subquery_that_finds_too_much_is_left_to_the_long_way(
    engine: sa.Engine, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    for number in range(2):
        assert VISIBLE.text(plans) is not None
        of = UUID(int=number + 1)
        insert(engine, Member, id=of, organization_id=of, user_id=ID, role="owner", created_at=NOW)
    assert VISIBLE.text(plans) is None


# ---------------------------------------------------------------- the first page

PEOPLE = [UUID(int=n) for n in (1, 2, 3)]
KINDS = ["package", "package", "member", "role", "release"]


@dataclass
class Both:
    """A database, asked in both ways."""

    engine: sa.Engine
    plans: Plans

    def change(self, number: int, private: bool, kind: str) -> None:
        """Add the thing of this number, or take it away when it is there."""
        number = number % 6 if kind == "member" else number  # there are so many pairs of a person and an organization
        person, of = PEOPLE[number % 3], UUID(int=number + 10)
        times = {"created_at": NOW, "updated_at": NOW}
        values: dict[str, Any] = {
            "package": {"id": of, "organization_id": UUID(int=5 + number % 2), "name": f"p{number}", "version": 1}
            | {"normalized_name": f"p{number}", "private": private, "popularity_rank": None, "summary": "'"} | times,
            "member": {"id": of, "organization_id": UUID(int=5 + number % 2), "user_id": person, "role": "member"}
            | {"created_at": NOW},
            "role": {"id": of, "package_id": of, "user_id": person, "role": "uploader", "created_at": NOW},
            "release": {"id": UUID(int=number + 1000 * private), "package_id": UUID(int=number // 3 + 10)}
            | {"version": f"{number}", "version_key": f"{number:02}-{private}", "is_prerelease": number % 2 == 0}
            | {"released_at": NOW, "created_at": NOW, "yanked_at": NOW if private else None},
        }[kind]  # fmt: skip
        model = {"package": Package, "member": Member, "role": PackageRole, "release": Release}[kind]
        table: Any = model.__table__
        keys = [column for column in table.primary_key]
        with self.engine.begin() as connection:
            row = sa.and_(*(column == values[column.name] for column in keys))
            if connection.execute(sa.select(sa.func.count()).select_from(table).where(row)).scalar_one():
                connection.execute(sa.delete(table).where(row))
            else:
                connection.execute(sa.insert(table).values(**values))

    def compare(self, person: UUID, limit: int) -> None:
        query, cursors = PackageQuery(limit=limit), cursors_of("a secret of the tests, 32 characters")
        visible = condition(person, "packages:read")
        pagers = [Pager(cursors, "/packages", Response()) for _ in range(2)]
        rows, links = transaction(self.engine, lambda db: page_of(db, pagers[0], query, visible))
        expected = [tuple(row) for row in rows], links
        found = first_page(self.plans, visible, limit)
        if found is None:
            note_end(self.plans, visible, limit, rows[-1][0] if links["next"] else None)
            found = first_page(self.plans, visible, limit)
        assert found is not None, "the long way's hint is too low"
        assert pagers[1].first_page(PAGE_LIST, query, found) == expected
        assert pagers[0].response.headers.items() == pagers[1].response.headers.items()
        for name in (f"p{2 * limit}", "'"):
            one = seen(packages.ONE, visible)
            alone = transaction(self.engine, lambda db: db.execute(one, {"key": name}).all())  # noqa: B023, done at once
            assert [row[:-1] for row in one_package(self.plans, visible, name) or ()] == [tuple(row) for row in alone]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    engine = suit_look_ups(make_engine(f"duckdb:///:memory:both-{uuid4()}"))
    make_tables(engine)
    for number in (5, 6):
        organization(engine, f"o{number}", UUID(int=number))
    both = Both(engine, Plans(engine))
    yield both
    both.plans.close()
    engine.dispose()


def test_the_first_page_is_the_same_in_both_ways(both: Both) -> None:
    """For three people, while packages, roles and releases come and go, with the hints and plans of before."""
    random = Random(7)
    for number in range(15):
        both.change(number, number % 3 == 0, "package")
    for _ in range(120):
        both.change(random.randrange(15), random.random() < 0.4, random.choice(KINDS))
        both.compare(random.choice(PEOPLE), random.randint(1, 6))


# ---------------------------------------------------------------- where they are done

SLUGS = "SELECT slug FROM organizations"


def where(plans: Plans) -> tuple[int, list[Any]]:
    return threading.get_ident(), plans.rows(SLUGS)


def on_a_loop(engine: sa.Engine, story: Callable[[LookUps], Any]) -> None:
    async def whole() -> None:
        look_ups = LookUps(engine)
        await look_ups(where)  # which opens the connections
        try:
            await story(look_ups)
        finally:
            look_ups.close()

    asyncio.run(whole())


def test_on_the_loop_while_nobody_else_uses_the_database(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW", 1e9)

    async def story(look_ups: LookUps) -> None:
        here = threading.get_ident()
        assert await look_ups(where) == (here, [])
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT 1"))
            found = await look_ups(where)
            assert found is not None
            assert found[0] != here, "it would wait for a commit"
        assert await look_ups(where) == (here, [])

    on_a_loop(engine, story)


def test_a_slow_one_sends_the_next_into_a_thread(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW", 1e9)

    async def story(look_ups: LookUps) -> None:
        here, now = threading.get_ident(), time.monotonic() + 10
        monkeypatch.setattr(module, "SLOW", -1)
        monkeypatch.setattr(module, "monotonic", iter([now, now, now + 60, now + 60, now + 70]).__next__)
        assert await look_ups(where) == (here, [])
        assert look_ups.in_thread_until == now + 660
        found = await look_ups(where)
        assert found is not None
        assert found[0] != here

    on_a_loop(engine, story)


def test_what_fails_is_the_long_ways_for_a_while(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST", 1e9)

    async def story(look_ups: LookUps) -> None:
        assert await look_ups(lambda plans: plans.rows("SELECT nothing FROM nowhere")) is None
        assert await look_ups(where) is None
        look_ups.rest_until = 0
        assert await look_ups(where) is not None

    on_a_loop(engine, story)


def test_what_the_work_raises_passes(engine: sa.Engine) -> None:
    def work(plans: Plans) -> None:
        with plans.snapshot():
            raise LookupError("nothing here")

    async def story(look_ups: LookUps) -> None:
        for _ in range(2):
            with pytest.raises(LookupError):
                await look_ups(work)
        assert await look_ups(where) is not None

    on_a_loop(engine, story)


def test_the_file_is_closed_with_the_engine(tmp_path: Path) -> None:
    engine = suit_look_ups(make_engine(f"duckdb:///{tmp_path}/plans.duckdb"))
    make_tables(engine)

    async def story(look_ups: LookUps) -> None:
        assert await look_ups(where) is not None
        engine.dispose()
        with duckdb.connect(f"{tmp_path}/plans.duckdb", read_only=True) as alone:  # refused beside another one
            assert alone.execute(SLUGS).fetchall() == []
        assert await look_ups(where) is not None
        engine.dispose()

    on_a_loop(engine, story)
    engine.dispose()


# ---------------------------------------------------------------- what nobody can have changed


class Asked:
    """A look-up of the slugs that counts how often it was done; `meanwhile` happens after it has read."""

    def __init__(self) -> None:
        self.count = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, plans: Plans) -> list[Any] | None:
        self.count += 1
        found = plans.rows(SLUGS)
        self.meanwhile()
        return found or None


def test_what_nobody_can_have_changed_is_not_asked_again(engine: sa.Engine) -> None:
    asked = Asked()

    async def story(look_ups: LookUps) -> None:
        assert await look_ups(asked, "slugs") is await look_ups(asked, "slugs") is None
        assert asked.count == 2, "the long way's answer was kept"
        organization(engine, "a", UUID(int=1))
        assert await look_ups(asked, "slugs") == await look_ups(asked, "slugs") == [("a",)]
        assert asked.count == 3
        assert await look_ups(asked, "others") == await look_ups(asked) == [("a",)]
        assert asked.count == 5
        organization(engine, "b", UUID(int=2))
        assert sorted(await look_ups(asked, "slugs") or ()) == [("a",), ("b",)]
        engine.dispose()
        asked.count = 0
        await look_ups(asked, "slugs")
        assert asked.count == 1, "others may have had the file"

    on_a_loop(engine, story)


def test_while_somebody_may_write_nothing_is_kept(engine: sa.Engine) -> None:
    """A connection that is out when it is asked, or goes out after it was read; whether it writes is not looked at."""
    asked = Asked()
    organization(engine, "a", UUID(int=1))

    def insert_b() -> None:
        asked.meanwhile = lambda: None
        organization(engine, "b", UUID(int=2))

    async def story(look_ups: LookUps) -> None:
        await look_ups(asked, "slugs")
        with engine.connect() as connection:
            for number in (2, 3):
                await look_ups(asked, "slugs")
                assert asked.count == number
            connection.execute(sa.delete(Organization))
            connection.commit()
            assert await look_ups(asked, "slugs") is None  # committed, and the connection is still out
        assert await look_ups(asked, "slugs") is None
        organization(engine, "a", UUID(int=1))
        asked.meanwhile = insert_b
        assert await look_ups(asked, "slugs") == [("a",)]  # of the moment in which it was read
        assert len(await look_ups(asked, "slugs") or ()) == 2

    on_a_loop(engine, story)


def test_only_so_much_is_kept(engine: sa.Engine) -> None:
    asked = Asked()
    organization(engine, "a", UUID(int=1))

    async def story(look_ups: LookUps) -> None:
        look_ups.unwritten.most = 3
        for number in range(10):
            await look_ups(asked, number)
            assert len(look_ups.unwritten.found) <= 3
        assert asked.count == 10

    on_a_loop(engine, story)


def test_where_the_pool_cannot_tell_nothing_is_kept() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    kept = Unwritten(engine)
    assert kept.now() is None
    kept.put("key", "value", kept.now())
    assert kept.get("key") is None
    engine.dispose()


def test_who_has_written_reads_it_whatever_others_do(engine: sa.Engine) -> None:
    """Two threads write, each a row of its own, and ask at once: what they have committed is what they are told."""
    for number in (1, 2):
        organization(engine, f"o{number}", UUID(int=number))
    stale: list[Any] = []

    def write_and_ask(look_ups: LookUps, number: int, loop: asyncio.AbstractEventLoop) -> None:
        def names(plans: Plans) -> dict[str, str]:
            return dict(plans.rows("SELECT slug, name FROM organizations"))

        change = sa.update(Organization).where(Organization.slug == f"o{number}")
        for turn in range(150):
            with engine.begin() as connection:
                connection.execute(change.values(name=f"{turn}"))
            told = asyncio.run_coroutine_threadsafe(look_ups(names, "names"), loop).result()
            if told is None or told[f"o{number}"] != f"{turn}":
                stale.append((number, turn, told))

    async def story(look_ups: LookUps) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(asyncio.to_thread(write_and_ask, look_ups, number, loop) for number in (1, 2)))

    on_a_loop(engine, story)
    assert stale == []
