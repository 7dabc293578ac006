"""Find and mend a DuckDB file whose indexes have lost entries.

DuckDB before 2.0 loses them when a file is opened and closed after a crash without the CHECKPOINT that `open_duckdb`
makes: by an earlier release of this course, or by any other program. A look-up by index then misses rows, a unique key
is taken twice, and a DELETE of such a row is a fatal error. The rows themselves are all there, so a scan tells.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import sqlalchemy as sa

log = logging.getLogger(__name__)

KEYS_AT_ONCE = 500  # values in one look-up
NEWEST = 50  # rows whose entries in an index of several columns are tried: an entry is lost for the last rows written
COPY = "_mended_"  # the prefix of a table while it is copied


class DamagedDatabase(ValueError):
    """Rows collide under a unique key, and only a person can say which of them stays. The message is one line."""


@dataclass(frozen=True)
class Key:
    """An index, a primary key or a unique constraint, with its columns in order."""

    table: str
    columns: tuple[str, ...]
    unique: bool
    index: str | None = None  # its name, when it is an index of its own

    def __str__(self) -> str:
        return f"{self.table}({', '.join(self.columns)})"


@dataclass(frozen=True)
class Missing:
    """Rows that a look-up by `key` does not find."""

    key: Key
    rows: int

    def __str__(self) -> str:
        return f"{self.key}: {self.rows} {'row is' if self.rows == 1 else 'rows are'} not in the index"


@dataclass(frozen=True)
class Double:
    """Rows of one table with one value of a unique key. `rows`: their primary keys as text."""

    key: Key
    value: tuple[str, ...]
    rows: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}: {len(self.rows)} rows have {', '.join(map(repr, self.value))}: {', '.join(self.rows)}"


Damage = Missing | Double


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string in SQL. DuckDB reads it as the type of the column that it is compared with."""
    return "'" + text.replace("'", "''") + "'"


def in_memory(engine: sa.Engine) -> bool:
    """Whether nothing of the database is in a file, and so nothing can be damaged by a crash."""
    return (engine.url.database or ":memory:").startswith(":memory:")


@contextmanager
def opened(engine: sa.Engine) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB's own connection, out of the engine's pool and outside of SQLAlchemy's transactions."""
    with engine.connect() as connection:
        own = connection.connection.driver_connection
        assert own is not None
        yield own


def tables(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """The columns of each table and their types."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for table, column, kind in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE table_oid IN "
        "(SELECT table_oid FROM duckdb_tables() WHERE NOT internal AND NOT temporary) ORDER BY table_name, column_index"
    ).fetchall():
        found[table][column] = kind
    return dict(found)


def keys(connection: duckdb.DuckDBPyConnection) -> list[Key]:
    """All that is indexed. Left out: an index of an expression, which cannot be compared with a scan."""
    there = tables(connection)
    found = [
        Key(table, tuple(columns), True)
        for table, columns in connection.execute(
            "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
            "WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY ALL"
        ).fetchall()
    ]
    for table, name, unique, expressions in connection.execute(
        "SELECT table_name, index_name, is_unique, expressions FROM duckdb_indexes() ORDER BY ALL"
    ).fetchall():
        columns = tuple(part.strip("'\"") for part in expressions[1:-1].split(", "))
        if set(columns) <= set(there[table]):
            found.append(Key(table, columns, unique, name))
    return found


def row_names(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """For each table an expression that names a row: the primary key as text."""
    names = dict.fromkeys(tables(connection), "CAST(rowid AS VARCHAR)")
    for table, columns in connection.execute(
        "SELECT table_name, constraint_column_names FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY'"
    ).fetchall():
        names[table] = " || '/' || ".join(f"CAST({quoted(column)} AS VARCHAR)" for column in columns)
    return names


def doubles(connection: duckdb.DuckDBPyConnection, key: Key, name: str) -> list[Double]:
    """The rows that collide under a unique key. Grouping reads the table, never an index."""
    columns = ", ".join(f"CAST({quoted(column)} AS VARCHAR)" for column in key.columns)
    known = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key.columns)
    return [
        Double(key, tuple(value), tuple(rows))
        for *value, rows in connection.execute(
            f"SELECT {columns}, list({name} ORDER BY rowid) FROM {quoted(key.table)} WHERE {known} "
            "GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL"
        ).fetchall()
    ]


def not_found(connection: duckdb.DuckDBPyConnection, key: Key) -> int:
    """How many rows a look-up by an index of one column misses. Of a constraint's rows the last KEYS_AT_ONCE are asked.

    A constraint's own index is loaded when the file is opened, so it has never been seen to lose an entry.
    """
    table, (column,) = quoted(key.table), map(quoted, key.columns)
    newest = "" if key.index else f"ORDER BY rowid DESC LIMIT {KEYS_AT_ONCE}"
    counted = connection.execute(
        f"SELECT CAST({column} AS VARCHAR), count(*) FROM "
        f"(SELECT {column} FROM {table} WHERE {column} IS NOT NULL {newest}) GROUP BY ALL"
    ).fetchall()
    found = 0
    for start in range(0, len(counted), KEYS_AT_ONCE):
        part = ", ".join(literal(value) for value, _ in counted[start : start + KEYS_AT_ONCE])
        answer = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} IN ({part})")
        found += answer.fetchall()[0][0]
    return int(sum(rows for _, rows in counted) - found)


def not_refused(connection: duckdb.DuckDBPyConnection, key: Key, columns: Mapping[str, str], others: list[Key]) -> int:
    """How many of the NEWEST rows a unique index of several columns would take a second time.

    DuckDB looks nothing up in such an index, so a double is inserted, and rolled back.
    """
    fresh: dict[str, str] = {}
    for other in others:
        free = [column for column in other.columns if column not in key.columns]
        makers = {"UUID": "uuid()", "VARCHAR": "CAST(uuid() AS VARCHAR)", "INTEGER": "CAST(-1 - rowid AS INTEGER)"}
        column = next((column for column in free if columns[column] in makers), None)
        if column is None:
            return 0  # a double would be refused by the other key, whatever this one says
        fresh[column] = f"{makers[columns[column]]} AS {quoted(column)}"
    star = f"* REPLACE ({', '.join(fresh.values())})" if fresh else "*"
    table, taken = quoted(key.table), 0
    known = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in key.columns)
    newest = connection.execute(f"SELECT rowid FROM {table} WHERE {known} ORDER BY rowid DESC LIMIT {NEWEST}")
    for (row,) in newest.fetchall():
        connection.execute("BEGIN")
        try:
            connection.execute(f"INSERT INTO {table} SELECT {star} FROM {table} WHERE rowid = {row}")
            taken += 1
        except duckdb.ConstraintException:
            pass
        finally:
            connection.execute("ROLLBACK")
    return taken


def find_damage(engine: sa.Engine) -> list[Damage]:
    """What the indexes of a DuckDB file say otherwise than a scan does; empty for any other database.

    Each unique key is searched for doubles and each index of one column compared row by row. An index of several
    columns is tried with the newest rows if it is unique. Not found: what an index has of a row that is gone. `rebuild`
    mends that, too. Takes 0.8 s of processor time for the course's 15,000 packages with their releases.
    """
    if engine.dialect.name != "duckdb" or in_memory(engine):
        return []
    found: list[Damage] = []
    with opened(engine) as connection:
        there, names, every = tables(connection), row_names(connection), keys(connection)
        # Otherwise DuckDB answers a look-up of many rows by a scan, which has nothing to say about an index.
        connection.execute("SET GLOBAL index_scan_max_count = 9223372036854775807")
        try:
            for key in every:
                twice = doubles(connection, key, names[key.table]) if key.unique else []
                missing = 0
                if len(key.columns) == 1:
                    missing = not_found(connection, key)
                elif key.unique and not twice:
                    others = [o for o in every if o.unique and o.table == key.table and o != key]
                    missing = not_refused(connection, key, there[key.table], others)
                found += [*twice, *([Missing(key, missing)] if missing else [])]
        finally:
            connection.execute("RESET GLOBAL index_scan_max_count")
    return found


def rebuild(engine: sa.Engine, without: Mapping[str, Iterable[str]] | None = None) -> dict[str, int]:
    """Make all indexes and keys of a DuckDB file again, in one transaction: each table is copied as it was declared.

    `without` are rows to leave out, primary keys as text by table; what refers to them is left out, too, where the
    models say ON DELETE CASCADE, and set to NULL where they say so. Returns how many rows of each table were left out
    or changed. Raises DamagedDatabase, and changes nothing, while rows collide, or for a row that does not exist or
    that others refer to.
    """
    with opened(engine) as connection:
        connection.execute("BEGIN")
        try:
            names = row_names(connection)
            gone, emptied = consequences(connection, names, without or {})
            indexes = connection.execute("SELECT sql FROM duckdb_indexes()").fetchall()
            declared = connection.execute(
                "SELECT table_name, sql FROM duckdb_tables() WHERE NOT internal AND NOT temporary ORDER BY table_name"
            ).fetchall()
            for table, sql in declared:
                copy, columns = quoted(COPY + table), re.sub(r"^CREATE TABLE [^(]*", "", sql)
                connection.execute(f"CREATE TABLE {copy}{columns}")
                connection.execute(f"INSERT INTO {copy} {kept(table, names[table], gone, emptied)}")
                connection.execute(f"DROP TABLE {quoted(table)}")
                connection.execute(f"ALTER TABLE {copy} RENAME TO {quoted(table)}")
            for (sql,) in indexes:
                connection.execute(sql)
            connection.execute("COMMIT")
        except duckdb.ConstraintException as error:
            connection.execute("ROLLBACK")
            raise DamagedDatabase(f"rows collide under a unique key ({str(error).splitlines()[0]})") from None
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("CHECKPOINT")
    changed = {table: len(rows) for table, rows in gone.items() if rows}
    for (table, _), rows in emptied.items():
        changed[table] = changed.get(table, 0) + len(rows)
    return changed


def kept(table: str, name: str, gone: dict[str, set[str]], emptied: dict[tuple[str, str], set[str]]) -> str:
    """The SELECT of a table's rows that stay. NOT IN and CASE are never answered by an index."""
    replaced = [
        f"CASE WHEN {name} IN ({', '.join(map(literal, sorted(rows)))}) THEN NULL ELSE {quoted(column)} END "
        f"AS {quoted(column)}"
        for (of, column), rows in emptied.items()
        if of == table
    ]
    star = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
    select = f"SELECT {star} FROM {quoted(table)}"
    if not gone.get(table):
        return select
    return f"{select} WHERE {name} NOT IN ({', '.join(map(literal, sorted(gone[table])))})"


def references(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str, str | None]]:
    """The references of one column that the models declare and the file has: child, column, parent, ON DELETE."""
    from playbook.foundations.engines import Base

    there = tables(connection)
    return [
        (child.name, key.parent.name, key.column.table.name, key.ondelete)
        for child in Base.metadata.sorted_tables
        for key in sorted(child.foreign_keys, key=lambda key: key.parent.name)
        if key.parent.name in there.get(child.name, ()) and key.column.table.name in there
    ]


def pointing(connection: duckdb.DuckDBPyConnection, child: str, column: str, name: str, at: set[str]) -> set[str]:
    """The rows of `child` that refer to one of `at`. Read by a scan and compared here: an index may be wrong."""
    rows = connection.execute(f"SELECT {name}, CAST({quoted(column)} AS VARCHAR) FROM {quoted(child)}").fetchall()
    return {row for row, parent in rows if parent in at}


def consequences(
    connection: duckdb.DuckDBPyConnection, names: Mapping[str, str], without: Mapping[str, Iterable[str]]
) -> tuple[dict[str, set[str]], dict[tuple[str, str], set[str]]]:
    """All rows that go with those of `without`, and the references, by table and column, that become NULL."""
    gone: dict[str, set[str]] = defaultdict(set)
    emptied: dict[tuple[str, str], set[str]] = defaultdict(set)
    for table, rows in without.items():
        if table not in names:
            raise DamagedDatabase(f"there is no table {table!r}: there are {', '.join(sorted(names))}")
        known = {row for (row,) in connection.execute(f"SELECT {names[table]} FROM {quoted(table)}").fetchall()}
        for row in set(rows) - known:
            raise DamagedDatabase(f"{table} has no row {row!r}")
        gone[table] |= set(rows)
    size = -1
    while size != (size := sum(map(len, gone.values()))):
        for child, column, parent, on_delete in references(connection):
            found = pointing(connection, child, column, names[child], gone[parent]) - gone[child]
            if not found:
                continue
            if on_delete == "CASCADE":
                gone[child] |= found
            elif on_delete == "SET NULL":
                emptied[child, column] |= found
            else:
                raise DamagedDatabase(f"{len(found)} rows of {child} refer to what would go from {parent}")
    return gone, {key: rows - gone[key[0]] for key, rows in emptied.items()}


def describe(engine: sa.Engine, double: Double) -> Iterator[str]:
    """A line for each of the colliding rows: its key, when it was made, and how many rows refer to it."""
    with opened(engine) as connection:
        names, there = row_names(connection), tables(connection)[double.key.table]
        made = "CAST(created_at AS VARCHAR)" if "created_at" in there else "NULL"
        times: dict[str, str | None] = dict(
            connection.execute(f"SELECT {names[double.key.table]}, {made} FROM {quoted(double.key.table)}").fetchall()
        )
        for row in double.rows:
            counts = [
                f"{len(found)} of {child}"
                for child, column, parent, _ in references(connection)
                if parent == double.key.table and (found := pointing(connection, child, column, names[child], {row}))
            ]
            when = f", made {times[row]}" if times.get(row) else ""
            referred = f"referred to by {', '.join(counts)}" if counts else "no references"
            yield f"{double.key.table}={row}{when}, {referred}"


def mend_indexes(engine: sa.Engine) -> str | None:
    """What a start does: look, and mend what can be mended without a decision. Returns what it did in one line.

    Raises DamagedDatabase when rows collide: which of them stays is for a person to say.
    """
    damage = find_damage(engine)
    collisions = [found for found in damage if isinstance(found, Double)]
    if collisions:
        more = f" and {len(collisions) - 1} more" if len(collisions) > 1 else ""
        raise DamagedDatabase(
            f"the database has rows that a unique key forbids, {collisions[0]}{more}; it was opened after a crash in a "
            "way that loses index entries: `playbook repair` says what to do"
        )
    if not damage:
        return None
    rebuild(engine)
    line = (
        f"the indexes of the database had lost entries after a crash ({'; '.join(map(str, damage))}): "
        "all were made again, no row was changed"
    )
    log.warning(line)
    return line
