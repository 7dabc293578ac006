"""What migrations leave behind: a look at all that a database has, in two places of a step.

One query over the engine's catalogue: what is left behind is most often no table but a sequence, a view, an ENUM type.
On PostgreSQL whatever the installation did not bring has an OID from 16384 on. As a set, since a column that was
dropped and added again stands last, and no query by name can tell.
"""

import sqlalchemy as sa

from playbook.migrations.test_migrations import Step

DUCKDB = """
    SELECT 'table ' || table_name FROM duckdb_tables() WHERE NOT internal
    UNION ALL SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type ||
        CASE WHEN is_nullable THEN '' ELSE ' NOT NULL' END || coalesce(' DEFAULT ' || column_default, '')
        FROM duckdb_columns() WHERE NOT internal
    UNION ALL SELECT 'constraint of ' || table_name || ' ' || constraint_text
        FROM duckdb_constraints() WHERE constraint_type <> 'NOT NULL'
    UNION ALL SELECT sql FROM duckdb_indexes()
    UNION ALL SELECT 'sequence ' || sequence_name FROM duckdb_sequences() WHERE NOT temporary
    UNION ALL SELECT sql FROM duckdb_views() WHERE NOT internal
    UNION ALL SELECT 'type ' || type_name || coalesce(labels::VARCHAR, '') FROM duckdb_types() WHERE NOT internal
    UNION ALL SELECT 'macro ' || function_name FROM duckdb_functions() WHERE NOT internal
    UNION ALL SELECT 'schema ' || schema_name FROM duckdb_schemas() WHERE NOT internal"""
POSTGRESQL = """
    SELECT CASE WHEN relkind IN ('v', 'm') THEN 'view ' || pg_get_viewdef(oid) || ' '
        WHEN relkind = 'S' THEN 'sequence ' ELSE 'table ' END || relname
        FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'S', 'v', 'm')
    UNION ALL SELECT 'column ' || relname || '.' || attname || ' ' || format_type(atttypid, atttypmod) ||
        CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '') ||
        attidentity::text || attgenerated::text
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE pg_class.oid >= 16384 AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint of ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE oid >= 16384 AND contype <> 'n'
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid >= 16384 AND NOT indisprimary
    UNION ALL SELECT 'type ' || typname FROM pg_type WHERE oid >= 16384 AND typtype IN ('d', 'e', 'r')
    UNION ALL SELECT 'value ' || enumlabel || ' of ' || enumtypid::regtype FROM pg_enum
    UNION ALL SELECT 'function ' || oid::regprocedure || prosrc FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'policy ' || polname || ' of ' || polrelid::regclass FROM pg_policy
    UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE oid >= 16384
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384 AND NOT starts_with(nspname, 'pg_')"""


def schema(engine: sa.Engine) -> set[str]:
    """All that migrations have made in a database, a line each; not the order of columns, and nothing of Alembic's."""
    query = {"duckdb": DUCKDB, "postgresql": POSTGRESQL}[engine.dialect.name]
    with engine.connect() as connection:
        lines = connection.scalars(sa.text(query)).all()
    return {str(line).strip() for line in lines if "alembic_version" not in line}


def leftovers(step: Step, seen: list[set[str]]) -> list[str]:
    """How the tables differ between places 0 and 2, and between 1 and 3."""
    found = []
    ways = (("downgrade", seen[:1], seen[2:3]), ("second upgrade", seen[1:2], seen[3:]))
    for way, first, later in ways:
        for old, new in zip(first, later, strict=False):
            here = f"{step.after}: the {way}"
            found += [f"{here} leaves behind: {line}" for line in sorted(new - old)]
            found += [f"{here} does not bring back: {line}" for line in sorted(old - new)]
    return found
