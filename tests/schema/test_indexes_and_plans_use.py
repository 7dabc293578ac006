"""The page on indexes and plans: what it shows is run, its audit on PostgreSQL, and Pantry's own indexes."""

import pytest
import sqlalchemy as sa
from shown import shown_and_not_run

import playbook.pantry.app  # noqa: F401  # with it come all models
from playbook.foundations.engines import Base, make_engine
from playbook.schema.indexes_and_plans import Finding, audit, indexes, read_plan

# The lists of Pantry: the columns that an index must begin with.
LISTS = [
    ("packages", ("normalized_name",)),
    ("releases", ("package_id", "version_key")),
    ("members", ("organization_id", "user_id")),
    ("sessions", ("token_hash",)),
    ("verifications", ("token_hash",)),
    ("users", ("email",)),
    ("organizations", ("slug",)),
]
ONLY_ON_POSTGRESQL = [("packages", ("updated_at", "normalized_name"))]  # DuckDB would never read it


def test_what_the_page_shows_is_run_by_the_recipe_s_tests() -> None:
    assert shown_and_not_run("indexes_and_plans") == (2, [])


def test_pantry_has_no_fault_that_is_not_explained(url: str) -> None:
    """A new database on PostgreSQL has used no index yet; DuckDB would name each that it can never use."""
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    with engine.connect() as db:
        postgresql = db.dialect.name == "postgresql"
        found = audit(db, Base.metadata, [*LISTS, *(ONLY_ON_POSTGRESQL if postgresql else ())])
        there = indexes(db)
    engine.dispose()
    assert len(there) > 20
    assert [one for one in found if not (postgresql and one.fault == "unused")] == []


def test_a_fault_of_pantry_would_be_found(url: str) -> None:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
    with engine.begin() as db:
        db.exec_driver_sql("DROP INDEX ix_sessions_user_id")
        db.exec_driver_sql("CREATE INDEX twice ON users (email)")
    with engine.connect() as db:
        found = audit(db, Base.metadata, LISTS)
    engine.dispose()
    assert [one for one in found if one.fault != "unused"] == [
        Finding("double", "users", ("email",), "twice"),
        Finding("missing", "sessions", ("user_id",)),
    ]


def test_postgresql_s_other_kinds_of_index_are_neither_counted_on_nor_called_double(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    with engine.begin() as db:
        for statement in (
            "CREATE TABLE things (name VARCHAR, tags JSONB, kind VARCHAR)",
            "INSERT INTO things VALUES ('a', '{}', 'x'), ('b', '{}', 'x')",
            "CREATE INDEX z_name ON things (name)",
            "CREATE INDEX a_hash ON things USING hash (name)",
            "CREATE INDEX a_like ON things (name varchar_pattern_ops)",
            "CREATE INDEX by_tags ON things USING gin (tags)",
            "CREATE INDEX covering ON things (name) INCLUDE (kind)",
        ):
            db.exec_driver_sql(statement)
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as db, pytest.raises(sa.exc.IntegrityError):
        db.exec_driver_sql("CREATE UNIQUE INDEX CONCURRENTLY invalid ON things (kind)")
    with engine.connect() as db:
        there = [(one.name, one.columns) for one in indexes(db)]
        found = audit(db, sa.MetaData(), [("things", ("kind",)), ("things", ("name", "kind"))])
    engine.dispose()
    assert there == [("covering", ("name", "include kind")), ("z_name", ("name",))]
    assert [(one.fault, one.columns, one.name) for one in found] == [
        ("double", ("name",), "z_name"),
        ("missing", ("kind",), ""),
        ("missing", ("name", "kind"), ""),
        ("unused", ("name", "include kind"), "covering"),
    ]


def test_postgresql_is_asked_for_uses_partial_indexes_and_values(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    meta = sa.MetaData()
    things = sa.Table("things", meta, sa.Column("name", sa.String), sa.Column("kind", sa.String))
    with engine.begin() as db:
        meta.create_all(db)
        for statement in (
            "INSERT INTO things SELECT 'n' || i, 'k' || mod(i, 3) FROM generate_series(1, 5000) AS s(i)",
            "CREATE INDEX by_name ON things (name)",
            "CREATE INDEX by_lower ON things (lower(name))",
            "CREATE INDEX newest ON things (kind DESC NULLS LAST, name)",
            "CREATE INDEX of_one_kind ON things (kind) WHERE kind = 'k1'",
            "ANALYZE things",
        ):
            db.exec_driver_sql(statement)
    with engine.begin() as db:
        plan = read_plan(db, sa.select(things).where(things.c.name == "n7"))
        hidden = read_plan(db, sa.select(things).where(things.c.name.like("%'7%")))
        db.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with engine.connect() as db:
        found = audit(db, meta, [("things", ("name", "kind")), ("things", ("kind", "name"))])
    engine.dispose()
    assert (plan.kind, plan.table, plan.read, plan.rows) == ("Index Scan", "things", 1, 1)
    assert (hidden.kind, hidden.read, hidden.rows) == ("Seq Scan", 5000, 0)
    assert found == [
        Finding("unused", "things", ("kind", "name"), "newest"),
        Finding("unused", "things", ("lower(name)",), "by_lower"),
        Finding("wrong order", "things", ("name", "kind"), "newest"),
    ]
