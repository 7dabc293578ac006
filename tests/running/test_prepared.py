"""What the tests find once in a process is what each app and each database would find."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import prepared
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, applications, routing

from playbook.foundations.engines import Base, make_engine
from playbook.kit import postgres
from playbook.kit.live import serving
from playbook.pantry import app
from playbook.pantry.history import current, drift, heads
from playbook.pantry.history import prepare as real
from playbook.pantry.settings import Settings

FACTS = {
    "duckdb": "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_indexes()",
    "postgresql": """
        SELECT concat_ws(' ', table_name, column_name, ordinal_position, data_type, is_nullable, column_default)
          FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'""",
}


def made(url: str, prepare: Callable[[sa.Engine], None]) -> tuple[list[str], bool, list[str]]:
    engine = make_engine(url)
    prepare(engine)
    with engine.connect() as connection:
        facts = sorted(connection.exec_driver_sql(FACTS[engine.dialect.name]).scalars())
    found = drift(engine, Base.metadata), current(engine) == heads(), facts
    engine.dispose()
    return found


@pytest.fixture
def another_url(url: str, postgres_server: str) -> Iterator[str]:
    if url.startswith("duckdb"):
        yield f"{url}_again"
        return
    with postgres.database(postgres_server) as another:
        yield another


def test_a_database_that_is_prepared_again_is_as_the_first(url: str, another_url: str) -> None:
    remembered = prepared.Remembered(real)
    first = made(url, remembered)
    assert first[:2] == ([], True)
    assert len(remembered.texts) == 1
    assert made(another_url, remembered) == first


def test_one_with_tables_or_in_a_file_gets_the_real(url: str, tmp_path: Path) -> None:
    asked = list[sa.Engine]()
    remembered = prepared.Remembered(lambda engine, *given: asked.append(engine))
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE hers (id integer)")
    remembered(engine)
    in_a_file = make_engine(f"duckdb:///{tmp_path}/pantry.duckdb")
    remembered(in_a_file)
    assert asked == [engine, in_a_file]
    for each in asked:
        each.dispose()


def test_the_service_of_the_tests_begins_so() -> None:
    assert isinstance(app.prepare, prepared.Remembered)


def service(**options: Any) -> FastAPI:
    """The resources; `state.auth_part` is the other part. Its database is gone."""
    made = app.pantry(Settings(environment="test", database_url="duckdb:///:memory:of_an_app", **options))
    made.state.engine.dispose()
    return made


@pytest.fixture
def apps() -> list[FastAPI]:
    """Both parts of a service, and those of a second one with another limit."""
    first, second = service(), service(max_body_bytes=4096)
    return [first, first.state.auth_part, second, second.state.auth_part]


def included(app: FastAPI) -> list[tuple[Any, Any]]:
    """Each route of a router, how it is included, and what is known of it there."""
    return [
        (router.include_context, candidate)
        for router in app.routes
        if isinstance(router, routing._IncludedRouter)
        for candidate in router.effective_candidates()
    ]


def test_what_is_known_of_a_route_is_what_fastapi_finds_out(apps: list[FastAPI]) -> None:
    for each in apps:
        found = included(each)
        assert len(found) >= 18
        for how, known in found:
            real = prepared.FIND_OUT(original_route=known.original_route, include_context=how)
            assert known.remembered_as is not known
            for name in routing._EffectiveRouteContext.__dataclass_fields__:
                if name not in ("app", "dependency_overrides_provider"):
                    assert repr(getattr(known, name)) == repr(getattr(real, name)), f"{known.path}: {name}"
            assert known.dependency_overrides_provider is real.dependency_overrides_provider is each


def test_only_what_is_alike_is_shared(apps: list[FastAPI]) -> None:
    first, first_auth, second, _ = apps
    for (_, one), (_, other) in zip(included(first), included(second), strict=True):
        assert one.dependant is not other.dependant  # another limit
        assert (one.max_body_size, other.max_body_size) == (1_048_576, 4096)
    for (_, one), (_, other) in zip(included(first), included(service()), strict=True):
        assert one.dependant is other.dependant
        assert one.app is not other.app
        for name in ("tags", "methods", "responses", "dependencies"):
            assert getattr(one, name) is not getattr(other, name)
    assert not {id(one.dependant) for _, one in included(first)} & {
        id(one.dependant) for _, one in included(first_auth)
    }


def test_each_app_has_its_own_answers() -> None:
    router = APIRouter()

    async def number() -> int:
        return 1

    @router.get("/number")
    async def read(found: Annotated[int, Depends(number)]) -> int:
        return found

    def asked(prefix: str = "", overrides: int | None = None, guard: Any = None) -> Any:
        own = FastAPI()
        own.include_router(router, prefix=prefix, dependencies=[Depends(guard)] if guard else [])
        if overrides is not None:
            own.dependency_overrides[number] = lambda: overrides
        with serving(own) as client:
            return client.get(f"{prefix}/number").json()

    def refuse(words: str) -> Any:
        def guard() -> None:
            raise HTTPException(403, words)

        return guard

    assert asked() == 1
    assert asked(overrides=2) == 2
    assert asked("/two", overrides=3) == 3
    assert asked(guard=refuse("one")) == {"detail": "one"}
    assert asked(guard=refuse("other")) == {"detail": "other"}
    assert asked() == 1


def test_the_document_is_what_fastapi_writes(apps: list[FastAPI]) -> None:
    for _ in range(2):
        for each in apps:
            about: dict[str, Any] = {"title": each.title, "version": each.version, "webhooks": []}
            real = prepared.WRITE(routes=each.routes, **about)
            assert applications.get_openapi(routes=each.routes, **about) == real
            assert list(real["paths"]) == list(applications.get_openapi(routes=each.routes, **about)["paths"])
    first = applications.get_openapi(routes=apps[0].routes, **about)
    first["paths"].clear()  # as if something were written into it
    assert applications.get_openapi(routes=apps[0].routes, **about)["paths"]
    assert applications.get_openapi(routes=apps[0].routes[1:], **about) != real
    other = applications.get_openapi(routes=apps[0].routes, **about | {"title": "Other"})
    assert other["info"]["title"] == "Other"
