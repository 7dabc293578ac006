"""A PostgreSQL database with Pantry's tables for one test after the other: to make one costs the server 100 ms.

A test leaves rows. They are deleted, and the next test gets the database under another name, where nothing that the
last one has left running finds it. It is as new: no session is left, in no catalogue of the server is another row or a
younger one (so nothing was created, altered, granted or analyzed), and no table is larger than what the planner takes a
new one for. Where one of this does not hold, it is dropped, and the next test gets a new one.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import sqlalchemy as sa

from playbook.foundations.engines import Base
from playbook.kit import postgres

PAGES = 8  # a table that was never vacuumed is planned for as if it had ten at least
# Not what autovacuum finds out of the catalogues themselves, in its own time. Objects of users begin at 16384.
CATALOGUES = """
    SELECT string_agg(format('SELECT count(*), max(xmin::text::bigint) FROM pg_catalog.%I %s', relname,
                             CASE relname WHEN 'pg_statistic' THEN 'WHERE starelid >= 16384' END),
                      ' UNION ALL ' ORDER BY relname)
      FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
       AND has_table_privilege(oid, 'SELECT')"""
MORE = """
    SELECT sum(relpages), sum(reltuples)::bigint FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM alembic_version
    UNION ALL SELECT count(setdatabase), datconnlimit FROM pg_database d
               LEFT JOIN pg_db_role_setting ON setdatabase = d.oid
               WHERE datname = current_database() AND datacl IS NULL GROUP BY datconnlimit"""
WITH_ROWS = """
    SELECT relname, pg_relation_size(oid) / current_setting('block_size')::int FROM pg_class
     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
       AND pg_relation_size(oid) > 0"""
# What a foreign key asks for each row takes longer than the rest, and all rows go. It needs a superuser.
UNCHECKED = """
    SELECT set_config('session_replication_role', 'replica', false) FROM pg_roles
     WHERE rolname = current_user AND rolsuper"""
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
Connection = psycopg.Connection[Any]


class Databases:
    """Of one server. `prepare` brings an empty database to head; `options` are those of CREATE DATABASE."""

    def __init__(self, server: str, prepare: Callable[[sa.Engine], None], options: str = "") -> None:
        self.server, self.prepare, self.options = server, prepare, options
        self.facts = dict[str, list[Any]]()  # of each that is as new, by its URL: what its catalogues say

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of one that is as new."""
        url, facts = self.facts.popitem() if self.facts else self.new()
        try:
            yield url
        finally:
            self.put_back(url, facts)

    def new(self) -> tuple[str, list[Any]]:
        url = self.named()
        self.administer(f"CREATE DATABASE {name_of(url)} {self.options}")
        engine = sa.create_engine(url)
        self.prepare(engine)
        engine.dispose()
        with connected(url) as connection:
            return url, facts_of(connection)

    def put_back(self, url: str, facts: list[Any]) -> None:
        """Keep it for the next test, or drop it."""
        try:
            url = self.renamed(url)
            with connected(url) as connection:
                if facts_of(connection) == facts and delete_rows(connection):
                    self.facts[url] = facts
        except psycopg.Error:  # the test has dropped it, or what is to be read and deleted
            pass
        finally:
            if url not in self.facts:
                self.drop(url)

    def renamed(self, url: str) -> str:
        """Its new URL, under which nobody is connected. Raises psycopg.Error for one that is not there."""
        new = self.named()
        with connected(self.server) as connection:
            while True:
                connection.execute(END_SESSIONS, [name_of(url)])
                with suppress(psycopg.errors.ObjectInUse):  # for five seconds it has waited for them to end
                    connection.execute(f"ALTER DATABASE {name_of(url)} RENAME TO {name_of(new)}".encode())
                    return new

    def drop(self, url: str) -> None:
        self.administer(f"DROP DATABASE IF EXISTS {name_of(url)} WITH (FORCE)")

    def close(self) -> None:
        for url in self.facts:
            self.drop(url)

    def named(self) -> str:
        url = sa.make_url(self.server).set(database=f"lesson_{secrets.token_hex(6)}")
        return url.render_as_string(hide_password=False)

    def administer(self, statement: str) -> None:
        with connected(self.server) as connection:
            connection.execute(statement.encode())


def name_of(url: str) -> str:
    return str(sa.make_url(url).database)


def connected(url: str) -> Connection:
    return psycopg.connect(postgres._for_psycopg(url), autocommit=True)


def facts_of(connection: Connection) -> list[Any]:
    """How many rows each catalogue has, and which transaction has made the youngest; and what is not in its rows."""
    row = connection.execute(CATALOGUES).fetchone()
    assert row is not None
    return [connection.execute(query).fetchall() for query in (row[0].encode(), MORE)]


def delete_rows(connection: Connection) -> bool:
    """Of Pantry's tables, all. False when one has grown too large for a new one."""
    pages = dict[str, int](connection.execute(WITH_ROWS).fetchall())
    if any(number > PAGES for number in pages.values()):
        return False
    connection.execute(UNCHECKED)
    tables = [table.name for table in reversed(Base.metadata.sorted_tables) if table.name in pages]
    connection.execute(";".join(f'DELETE FROM "{name}"' for name in tables).encode())
    return True
