# %% [markdown]
"""
# First migration

Turn a changed model into a script that somebody has read, run it on both engines, and find every database that is not
what the models say.

| | |
|---|---|
| **Use it when** | a table exists that must not be lost, and its model is about to change |
| **You need** | [settings](../foundations/settings.ipynb), [transactions](../foundations/transactions.ipynb), [identity](../schema/identity.ipynb), [catalog](../schema/catalog.ipynb) |
| **Time** | 20 minutes |
| **Topics** | migration, schema migration, alembic, autogenerate, drizzle, push and pull, create_all, rename column, data loss, downgrade, rollback, naming convention, transactional DDL, schema drift, alembic check, offline SQL, alembic stamp, orphan rows, referential integrity, advisory lock |
| **Standard** | ISO/IEC 9075-2 (SQL-schema statements in transactions) |
"""

# %% [markdown]
"""
## The decision

How does a database follow the models?

| option | good | costs |
|---|---|---|
| `create_all` when the program starts | nothing to write | it makes missing tables and changes none: a new column is simply not there |
| SQL files by hand | you see what will run | one dialect a file; nothing compares the result with the models |
| push: compare and apply at once | the shortest way on a laptop | it guesses, and nobody reads the guess before it runs |
| **generate, review, migrate** (Alembic) | the comparison writes a draft, a person corrects it, the same file runs everywhere | a file for each change; somebody must really read it |

And what is left when the third of five pending migrations fails?

| option | good | costs |
|---|---|---|
| all pending ones in one transaction | all or nothing | the locks of the first are held until the last is done |
| **one transaction a migration** | two are done, the third left nothing, and that is where you go on | the program must be able to run at any of the five |
| no transaction | some statements cannot run in one | half a migration, repaired by hand |

Choose push for a database that you can throw away, and no transaction for the few statements that refuse one, such as
`CREATE INDEX CONCURRENTLY`, each alone in its migration.
"""

# %% [markdown]
"""
## See it break

A column is spelled `licence`, and the front end wants `license`. Somebody changes the model; a tool compares it with
the database and applies what it finds. Before you run the cell: which statements does it choose, and what do the three
rows say afterwards?
"""

# %%
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations

from playbook.foundations.engines import NAMING, Base, make_engine
from playbook.kit.lesson import checker, lesson_folder, lesson_url, on_postgres, serving, show, table


def models(licence):
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table("packages", metadata, sa.Column("name", sa.String, primary_key=True), sa.Column(licence, sa.String))
    return metadata


def fill(engine):
    with engine.begin() as connection:
        for row in ("'cryptography', 'Apache-2.0'", "'httpx', 'BSD-3-Clause'", "'pip', 'MIT'"):
            connection.execute(sa.text(f"INSERT INTO packages (name, licence) VALUES ({row})"))


def rows(engine):
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text("SELECT * FROM packages ORDER BY name")).mappings()]


engine = make_engine(lesson_url())
models("licence").create_all(engine)
fill(engine)
with engine.begin() as connection:
    comparison = MigrationContext.configure(connection)
    guess = produce_migrations(comparison, models("license")).upgrade_ops
    print(render_python_code(guess))
    for change in guess.ops[0].ops:
        Operations(comparison).invoke(change)
show(table(rows(engine)))

# %% [markdown]
"""
The licences are gone. The tool saw two states and not the step between them, so it had to guess. Drizzle and Django
stop and ask whether this was a rename; Alembic writes its guess into a file, for you to correct. No test of "up, down,
up" would have noticed: with an empty table the guess has a perfect inverse.

## Build it

Alembic is a folder of scripts, `versions/`, a file `env.py` that it runs for each command, and a row in the database
that says where it is. `alembic_config` puts them together and hands the engine to `env.py`. So the commands below can
be called from a program or a test, and a lesson can have a history in a folder of its own.
"""

# %% tags=["export"]
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

Location = str | Path  # of a history: a folder, or package:folder, found wherever the package is installed
HERE = "migrations"  # where nothing else is said: the folder that `alembic init migrations` makes
ONE_AT_A_TIME = threading.RLock()  # Alembic keeps the running environment in module globals


def alembic_config(engine: sa.Engine | str, location: Location = HERE, metadata: sa.MetaData | None = None) -> Config:
    """Alembic's configuration for one database and one history.

    `engine` may be the name of a dialect, for SQL without a connection. `location` is the folder with `env.py` and
    `versions/`. `metadata` is what a draft is compared with; to run revisions, none is needed.
    """
    given: dict[str, Any] = {"dialect" if isinstance(engine, str) else "engine": engine, "metadata": metadata}
    config = Config(cmd_opts=Namespace(quiet=True), attributes=given)
    options = {"script_location": str(location), "file_template": "%(rev)s", "revision_environment": "true"}
    for name, value in (options | {"path_separator": "os"}).items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config


# %% [markdown]
"""
The commands. None of them needs the models: a revision that imports a model breaks as soon as that changes again.
"""

# %% tags=["export"]
from contextlib import nullcontext

from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory


def upgrade(engine: sa.Engine, revision: str = "head", location: Location = HERE) -> None:
    """Run the revisions from where the database is to `revision`. Raises `alembic.util.CommandError`."""
    with ONE_AT_A_TIME:
        command.upgrade(alembic_config(engine, location), revision)


def downgrade(engine: sa.Engine, revision: str, location: Location = HERE) -> None:
    """Run the downgrades to `revision`: its id, "-1" for one step back, "base" for all of them."""
    with ONE_AT_A_TIME:
        command.downgrade(alembic_config(engine, location), revision)


def current(database: sa.Engine | sa.Connection) -> tuple[str, ...]:
    """The revisions the database is at, sorted: none before the first, more than one only on unmerged branches."""
    with database.connect() if isinstance(database, sa.Engine) else nullcontext(database) as connection:
        return tuple(sorted(MigrationContext.configure(connection).get_current_heads()))


def heads(location: Location = HERE) -> tuple[str, ...]:
    """The newest revisions of a history, sorted; more than one after two branches were merged in version control."""
    return tuple(sorted(ScriptDirectory.from_config(alembic_config("duckdb", location)).get_heads()))


# %% [markdown]
"""
What the engines need. On PostgreSQL a migration must not queue behind a long query, with everybody else queueing
behind *it* (`lock_timeout`), but may run long (`statement_timeout`). Two processes must not migrate at once (an
advisory lock; behind a pooler it ends with a transaction, so there all pending migrations run in one). And it needs
READ COMMITTED: a backfill with a snapshot from before the wait for a lock leaves out the row committed meanwhile.

DuckDB cannot alter a table that has an index, so its Alembic dialect copies the table, inside the transaction. Ours
goes two steps further. Foreign keys are left out, as in [engines](../foundations/engines.ipynb), and
`with op.batch_alter_table(...)` makes all its changes in one copy. On PostgreSQL the same lines are plain ALTERs.
"""

# %% tags=["export"]
from collections.abc import Iterator
from contextlib import contextmanager

from alembic.operations.batch import BatchOperationsImpl
from duckdb_sqlalchemy.alembic_impl import DuckDBImpl

from playbook.foundations.engines import TRANSACTION


def behind_pooler(connection: sa.Connection) -> bool:
    """Whether a pooler stands before PostgreSQL: the process that works is another than the one that was announced."""
    announced = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
    return bool(connection.scalar(sa.select(sa.func.pg_backend_pid())) != announced)


def take_turn(connection: sa.Connection, lock: int, settings: dict[str, str]) -> None:
    """Wait until nobody else has `lock`. From then on `settings` are those of the connection's transactions.

    Nobody else may have it until the connection is closed; behind a pooler, until the transaction ends that is open now.
    """
    pooled = behind_pooler(connection)
    connection.execute(sa.select((sa.func.pg_advisory_xact_lock if pooled else sa.func.pg_advisory_lock)(lock)))
    connection.info["transaction"] = TRANSACTION | settings
    if pooled:
        connection.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in settings.items())))
    else:
        connection.commit()


# %% tags=["export"]
LOCK = 7_350_116_223  # any number, the same in every process that migrates this database


@contextmanager
def migration_connection(engine: sa.Engine, lock_timeout: str = "5s") -> Iterator[sa.Connection]:
    """A connection to migrate with, which waits for its turn; behind a pooler in a transaction, committed at the end."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.detach()  # closed at the end: neither its settings nor its lock go back to the pool
            take_turn(connection, LOCK, {"statement_timeout": "0", "lock_timeout": lock_timeout})
        yield connection
        connection.commit()


class PortableDuckDB(DuckDBImpl):
    """Alembic on DuckDB: defining the class registers it for the dialect."""

    __dialect__ = "duckdb"

    def requires_recreate_in_batch(self, batch_op: BatchOperationsImpl) -> bool:
        return any(name not in ("create_index", "drop_index") for name, *_ in batch_op.batch)

    def add_constraint(self, const: Any, **options: Any) -> None:
        if not isinstance(const, sa.ForeignKeyConstraint):
            super().add_constraint(const, **options)

    def drop_constraint(self, const: sa.Constraint, **options: Any) -> None:
        if not isinstance(const, sa.ForeignKeyConstraint):
            super().drop_constraint(const, **options)

    def drop_table(self, table: sa.Table, **options: Any) -> None:
        if not table.name.startswith("_alembic_tmp_"):  # left by a failed batch, whose error this one would hide;
            super().drop_table(table, **options)  # the rollback drops it


# %% [markdown]
"""
What all uses share. Random revision ids tell nobody anything, so ours are numbered and named. A type of our own is
written as the type it stands on: a revision may not depend on our code. Foreign keys are compared where they exist,
check constraints where their names are kept, both on PostgreSQL only; an index with `ddl_if` where that makes it.
"""

# %% tags=["export"]
import re

from alembic.operations.ops import MigrationScript

ID_LIMIT = 32  # characters: alembic_version.version_num is VARCHAR(32), and PostgreSQL means it


def readable_id(context: MigrationContext, revision: Any, directives: list[MigrationScript]) -> None:
    """Number and name a new revision, `0003_api_tokens`, unless somebody gave it an id."""
    for script in directives:
        if re.fullmatch("[0-9a-f]{12}", script.rev_id or ""):
            ids = [known.revision for known in context.opts["script"].walk_revisions()]
            number = 1 + max((int(match[0]) for i in ids if (match := re.match(r"\d+", i))), default=0)
            slug = re.sub(r"\W+", "_", (script.message or "").lower())
            script.rev_id = f"{number:04}_{slug}"[:ID_LIMIT].strip("_")


def plain_type(kind: str, item: Any, context: Any) -> str | bool:
    """How autogenerate writes a type decorator: as its plain type."""
    decorator = kind == "type" and isinstance(item, sa.types.TypeDecorator)
    return f"sa.{item.impl_instance!r}" if decorator else False


def exists_on(dialect: str, item: Any, kind: str) -> bool:
    """Whether `item` of the models is made on `dialect`."""
    only = getattr(item, "_ddl_if", None)  # Alembic itself does not ask: its issue 1491
    return (only is None or only.dialect == dialect) and (kind != "foreign_key_constraint" or dialect == "postgresql")


def alembic_options(dialect: str) -> dict[str, Any]:
    """The options of every migration context, for the commands and for comparisons."""
    by_name = ["alembic.ext.checkconstraint_byname"] if dialect == "postgresql" else []
    return {
        "transaction_per_migration": True,
        "compare_server_default": True,
        "autogenerate_plugins": ["alembic.autogenerate.*", *by_name],
        "include_object": lambda item, name, kind, *_: exists_on(dialect, item, kind),
        "process_revision_directives": readable_id,
        "render_item": plain_type,
    }


# %% [markdown]
"""
And the whole of an `env.py`, in one call. The naming convention belongs here too. A constraint that nobody named is
named by the engine, differently by each, and a later migration cannot drop what it cannot name.
"""

# %% tags=["export"]
from collections.abc import Callable

from alembic import context

from playbook.foundations.engines import NAMING


def run_environment(make: Callable[[], sa.Engine], models: Callable[[], sa.MetaData]) -> None:
    """What an `env.py` does. `make` and `models` are asked on the command line only; otherwise see `alembic_config`."""
    given, plain = context.config.attributes, sa.MetaData(naming_convention=NAMING)
    called = "metadata" in given
    if context.is_offline_mode():
        dialect = given["dialect"] if called else make().dialect.name
        context.configure(dialect_name=dialect, target_metadata=plain, literal_binds=True, **alembic_options(dialect))
        with context.begin_transaction():
            context.run_migrations()
        return
    engine, metadata = (given["engine"], given["metadata"]) if called else (make(), models())
    metadata = plain if metadata is None else metadata
    with migration_connection(engine, given.get("lock_timeout", "5s")) as connection:
        context.configure(connection=connection, target_metadata=metadata, **alembic_options(engine.dialect.name))
        with context.begin_transaction():
            context.run_migrations()


# %% [markdown]
"""
Writing a draft, and the SQL of a revision for whoever reviews it. A comparison needs something to compare with: a
database at head, best a PostgreSQL, since a draft made on DuckDB lacks the foreign keys of new columns.
"""

# %% tags=["export"]
import io


def generate(engine: sa.Engine, message: str, metadata: sa.MetaData | None = None, location: Location = HERE) -> Path:
    """Write the next revision: a draft of what `metadata` has and the database lacks, or an empty one without it.

    Returns its file. Raises CommandError for a draft against a database that is not at head.
    """
    with ONE_AT_A_TIME:
        made = command.revision(alembic_config(engine, location, metadata), message, metadata is not None)
    assert isinstance(made, Script)  # a list only from an env.py that asks for several
    return Path(made.path)


def offline_sql(dialect: str, revisions: str = "base:head", location: Location = HERE) -> str:
    """The SQL of `revisions` ("FROM:TO") for review. Raises CommandError for what must look at the database first."""
    with ONE_AT_A_TIME:
        config = alembic_config(dialect, location)
        config.output_buffer = buffer = io.StringIO()
        command.upgrade(config, revisions, sql=True)
    return buffer.getvalue()


# %% [markdown]
"""
The drift check: what does the database have that the models do not, and the other way round? Alembic compares, we say
it in words. DuckDB gives check constraints names of its own, so there we count them.
"""

# %% tags=["export"]
from alembic.autogenerate import compare_metadata


def in_words(change: Any, dialect: sa.Dialect) -> str:
    """One difference found by `compare_metadata`, as a line."""
    kind, *rest = change
    verb, what = kind.split("_", 1)
    if verb == "modify":
        _, table, column, _, *values = rest
        there, wanted = (v.compile(dialect) if isinstance(v, sa.types.TypeEngine) else v for v in values)
        shown = "differs" if what == "default" else f"is {there} in the database, {wanted} in the models"
        return f"{table}.{column}: {what} {shown}"
    item = next(part for part in rest if hasattr(part, "name"))
    name = f"{item.table.name}.{item.name}" if hasattr(item, "table") else item.name
    return f"{what.replace('fk', 'foreign key')} {name}: not in the {'database' if verb == 'add' else 'models'}"


def drift(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    """The differences between a database and models, sorted lines; empty when they agree.

    Not seen: another primary key, another text under a constraint's name, and, on DuckDB, foreign keys.
    """
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=alembic_options(engine.dialect.name))
        found = compare_metadata(context, metadata)
        lines = [in_words(c, engine.dialect) for part in found for c in (part if isinstance(part, list) else [part])]
        inspector = sa.inspect(connection)
        there = set(inspector.get_table_names()) if engine.dialect.name == "duckdb" else set()
        for table in (t for t in metadata.tables.values() if t.name in there):
            wanted = sum(isinstance(c, sa.CheckConstraint) for c in table.constraints)
            if (number := len(inspector.get_check_constraints(table.name))) != wanted:
                lines.append(f"check constraints of {table.name}: {number} in the database, {wanted} in the models")
    return sorted(lines)


# %% [markdown]
"""
A program must not serve from a database it was not made for: the fault would surface at one request in a thousand. It
migrates an empty one, for a developer's first start. Everything else is somebody's decision, so it stops and says
what to run, also to those whose tables were made by `create_all`, before there was a history.
"""


# %% tags=["export"]
class WrongSchema(ValueError):
    """The database is not at head. The message is one line and says what to run."""


def prepare(engine: sa.Engine, location: Location = HERE, baseline: str = "head", also: tuple[str, ...] = ()) -> None:
    """Bring an empty database to head. Raises WrongSchema for any other that is not at head, nor at one of `also`.

    `baseline` is the revision that describes the databases made before there were revisions; `also` are the revisions
    besides head that this program can serve from, while a change is rolled out.
    """
    at, wanted, tables = current(engine), heads(location), set[str]()
    serves = {wanted, *((revision,) for revision in also)}
    if at not in serves:
        with ONE_AT_A_TIME, migration_connection(engine) as connection:  # after whoever migrates at this moment
            at, tables = current(connection), set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    if at in serves:
        return
    if not at and not tables:
        upgrade(engine, "head", location)
    elif not at:
        raise WrongSchema(
            "the database has tables and no migration history: use an empty one, or, if it was made before there were "
            f"migrations, run `alembic stamp {baseline}`, then `alembic upgrade head` and `alembic check`"
        )
    else:
        names = f"the database is at {', '.join(at)}, this program needs {', '.join(wanted)}"
        known = {s.revision for s in ScriptDirectory.from_config(alembic_config(engine, location)).walk_revisions()}
        if known.issuperset(at):
            raise WrongSchema(f"{names}: run `alembic upgrade head`")
        raise WrongSchema(
            f"{names} and does not know that one: start the release that does, or there run `alembic downgrade "
            f"{', '.join(wanted)}`"
        )


# %% [markdown]
"""
Last, the proof that references hold where no foreign key does: the audit asks the models for every reference, and the
database for rows without a parent. On PostgreSQL it finds what `NOT VALID` or a careless restore has left behind.
"""

# %% tags=["export"]
from dataclasses import dataclass


@dataclass(frozen=True)
class Orphan:
    """A row whose reference points nowhere. `reference`: `members(user_id) -> users`; `key`: the row's primary key."""

    reference: str
    key: tuple[Any, ...]


def orphans(engine: sa.Engine, metadata: sa.MetaData, limit: int = 100) -> list[Orphan]:
    """The rows without a parent, for every foreign key that `metadata` declares, at most `limit` for each."""
    found: list[Orphan] = []
    with engine.connect() as connection:
        for child in sorted(metadata.tables.values(), key=lambda table: table.name):
            for reference in sorted(child.foreign_key_constraints, key=lambda key: list(key.column_keys)):
                parent = reference.referred_table.alias()
                pairs = [(key.parent, parent.c[key.column.key]) for key in reference.elements]
                kept = sa.exists().where(*(there == here for here, there in pairs))
                lost = sa.select(*child.primary_key).where(*(here.is_not(None) for here, _ in pairs), ~kept)
                name = f"{child.name}({', '.join(reference.column_keys)}) -> {reference.referred_table.name}"
                rows = connection.execute(lost.order_by(*child.primary_key).limit(limit))
                found += [Orphan(name, tuple(row)) for row in rows]
    return found


# %% [markdown]
"""
## See it work

The respelling again, with a history in a folder of its own and Pantry's `env.py`. The draft is the guess from above.
Its reviewer replaces two lines by one, in each direction:
"""

# %%
import shutil
from importlib.resources import files

RENAMED = """def upgrade() -> None:
    op.alter_column("packages", "licence", new_column_name="license")


def downgrade() -> None:
    op.alter_column("packages", "license", new_column_name="licence")
"""


def new_history():
    folder = lesson_folder()
    for name in ("env.py", "script.py.mako"):
        shutil.copy(files("playbook") / "pantry" / "revisions" / name, folder)
    (folder / "versions").mkdir()
    return folder


def review(draft, code):
    """What a person does in an editor: keep the head of the draft, write the two functions."""
    head = draft.read_text(encoding="utf-8").partition("def upgrade")[0]
    draft.write_text(head + code, encoding="utf-8")


def respell(url):
    engine, history, seen = make_engine(url), new_history(), []
    generate(engine, "packages", models("licence"), history)
    upgrade(engine, location=history)
    fill(engine)
    review(generate(engine, "respell licence", models("license"), history), RENAMED)
    for step, to in ((upgrade, "head"), (downgrade, "-1"), (upgrade, "head")):
        step(engine, to, history)
        seen.append(rows(engine))
    return engine, history, seen


engine, history, seen = respell(lesson_url())
show(table(seen[2]))
print(offline_sql("postgresql", "0001_packages:0002_respell_licence", history).strip())

# %% [markdown]
"""
What you know from Drizzle, in Alembic's terms; the last column says what came of it on this page. One difference to
keep in mind: Drizzle compares the models with a snapshot beside its SQL files, Alembic with a database at head.
"""

# %%
pulled = sa.MetaData()
pulled.reflect(engine, only=["packages"])
columns, kept = pulled.tables["packages"].c.keys(), sum(row["licence"] is not None for row in seen[1])
drizzle = [
    ("generate", "alembic revision --autogenerate -m TEXT", f"wrote {heads(history)[0]}"),
    ("migrate", "alembic upgrade head", f"now at {current(engine)[0]}"),
    ("push", "none: compare and invoke", f"ran {len(guess.ops[0].ops)} statements nobody had read"),
    ("pull", "none: reflect, or the tool sqlacodegen", f"read the columns {', '.join(columns)}"),
    ("check", "alembic heads", f"{len(heads(history))} head"),
    ("(its files are SQL)", "alembic upgrade A:B --sql", "the lines above"),
    ("none", "alembic downgrade -1", f"kept {kept} licences"),
]
show(table(drizzle, columns=["Drizzle", "Alembic", "here"]))

# %% [markdown]
"""
Now Pantry. Its history is the folder `playbook/pantry/revisions`; the first two revisions are the tables of the schema track.
The service brings an empty database to head. On the command line, `alembic` finds its settings in `pyproject.toml`
(`[tool.alembic]`) and the database in `DATABASE_URL`:
"""

# %%
import os
from unittest.mock import patch

from alembic.config import CommandLine

from playbook.kit.data import ROOT
from playbook.pantry.app import pantry
from playbook.pantry.history import PANTRY
from playbook.pantry.settings import Settings

url = lesson_url(file=True)
with serving(pantry(Settings(environment="test", database_url=url))) as client:
    print(client.get("/health/ready").status_code)
with patch.dict(os.environ, {"DATABASE_URL": url}):
    CommandLine().main(["-c", str(ROOT / "pyproject.toml"), "check"])

# %% [markdown]
"""
Then somebody helps in production, by hand, at night. The check in words:
"""

# %%
engine = make_engine(url)
with engine.begin() as connection:
    connection.execute(sa.text("ALTER TABLE organizations ADD COLUMN nickname VARCHAR"))
    connection.execute(sa.text("DROP INDEX ix_users_email"))
    connection.execute(sa.text("CREATE TABLE users_backup AS SELECT * FROM users"))
print(*drift(engine, Base.metadata), sep="\n")

# %% [markdown]
"""
The second would cost most: from now on two people can have one address. Last, what a program says at its start:
"""

# %%
for name, arrange in {
    "empty": lambda engine: None,
    "behind": lambda engine: upgrade(engine, "0001_packages", history),
    "somebody else's": lambda engine: upgrade(engine, "0002_catalog", PANTRY),
    "made by create_all": models("licence").create_all,
}.items():
    engine = make_engine(lesson_url())
    arrange(engine)
    try:
        prepare(engine, history, baseline="0001_packages")
        print(f"{name}: starts")
    except WrongSchema as error:
        print(f"{name}: {error}")

# %% [markdown]
"""
## On PostgreSQL

The same files, and three licences kept. Then a history whose second revision fails at its second statement: what is
left of it? And a membership of nothing in nothing, which only one engine refuses:
"""

# %%
from uuid import UUID

FAILS = """def upgrade() -> None:
    op.add_column("packages", sa.Column("summary", sa.String()))
    op.execute("UPDATE packages SET summary = licens")
"""


def fail_half_way(url):
    engine, history = make_engine(url), new_history()
    generate(engine, "packages", models("licence"), history)
    review(generate(engine, "summaries", None, history), FAILS)
    try:
        upgrade(engine, location=history)
    except sa.exc.DBAPIError:
        columns = ", ".join(column["name"] for column in sa.inspect(engine).get_columns("packages"))
        print(f"{engine.dialect.name}: failed; at {current(engine)[0]}, columns {columns}")


def lose_a_parent(url):
    engine = make_engine(url)
    upgrade(engine, location=PANTRY)
    lost = {"id": UUID(int=1), "organization_id": UUID(int=2), "user_id": UUID(int=3)}
    try:
        with engine.begin() as connection:
            members = Base.metadata.tables["members"]
            connection.execute(members.insert().values(role="owner", created_at=sa.func.now(), **lost))
    except sa.exc.IntegrityError:
        print(f"{engine.dialect.name}: refused")
    for orphan in orphans(engine, Base.metadata):
        print(f"{engine.dialect.name}: {orphan.reference} points nowhere in row {orphan.key[0].int}")


print("PostgreSQL kept what DuckDB kept:", on_postgres(lambda url: respell(url)[2]) in (seen, None))
for lesson in (fail_half_way, lose_a_parent):
    lesson(lesson_url())
    on_postgres(lesson)

# %% [markdown]
"""
Both engines took the new column back. MySQL would not: it commits at each DDL statement.

## Check it
"""

# %%
PLANTED = {
    "ALTER TABLE users ADD COLUMN nickname VARCHAR": "column users.nickname: not in the models",
    "DROP INDEX ix_files_filename": "index files.ix_files_filename: not in the database",
    "CREATE TABLE leftovers (id INTEGER)": "table leftovers: not in the models",
    "DROP TABLE verifications": "table verifications: not in the database",
}


def history_holds(url):
    engine = make_engine(url)
    for _ in range(2):
        upgrade(engine, location=PANTRY)
        assert current(engine) == heads(PANTRY) and len(heads(PANTRY)) == 1
        assert (found := drift(engine, Base.metadata) + orphans(engine, Base.metadata)) == [], found
        downgrade(engine, "base", PANTRY)
        assert sa.inspect(engine).get_table_names() == ["alembic_version"], "a downgrade left something behind"
    upgrade(engine, location=PANTRY)
    for statement, line in PLANTED.items():
        assert line not in drift(engine, Base.metadata)
        with engine.begin() as connection:
            connection.execute(sa.text(statement))
        assert line in drift(engine, Base.metadata), f"not found: {statement}"
    return True


assert history_holds(lesson_url())
assert on_postgres(history_holds) in (True, None)
assert [row["license"] for row in seen[2]] == ["Apache-2.0", "BSD-3-Clause", "MIT"]
print("models = database, up, down and up again, on each engine; four planted faults found; three licences kept")

# %% [markdown]
"""
## Your turn

Each requirement of a project is one text, as somebody typed it: `httpx==0.28.1`, `flask >= 3`, `pip`. To ask "who
depends on flask?" the name needs a column of its own, required and indexed; what follows the name, or NULL, goes to
`rest`. Write the migration, both ways. The new program writes rows as well before somebody rolls back, and no text may
change on the way there and back, not by one space.
"""


# %%
def requirements(*columns, index):
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table("requirements", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns, sa.Index(None, index))
    return metadata


OLD = requirements(sa.Column("line", sa.String, nullable=False), index="line")
NEW = requirements(sa.Column("name", sa.String, nullable=False), sa.Column("rest", sa.String), index="name")


# %% tags=["exercise"]
def split(op: Operations) -> None:
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    op.drop_column("requirements", "line")


def join(op: Operations) -> None:
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.drop_column("requirements", "name")
    op.drop_column("requirements", "rest")


# %%
TYPED = {
    "httpx==0.28.1": ("httpx", "==0.28.1"),
    "pip": ("pip", None),
    "flask >= 3": ("flask", " >= 3"),
    "zope.interface[test] ; python_version < '4'": ("zope.interface", "[test] ; python_version < '4'"),
    "ruamel-yaml===1==2": ("ruamel-yaml", "===1==2"),
}
LATER = {"ruff": ("ruff", None), "uv~=0.9": ("uv", "~=0.9")}


@checker
def check_split(split, join) -> str:
    engine, every = make_engine(lesson_url()), TYPED | LATER
    OLD.create_all(engine)

    def insert(metadata, rows):
        with engine.begin() as connection:
            connection.execute(metadata.tables["requirements"].insert(), rows)

    def migrate(step, metadata, direction):
        with migration_connection(engine) as connection, connection.begin():
            step(Operations(MigrationContext.configure(connection, opts=alembic_options(engine.dialect.name))))
        with engine.connect() as connection:
            found = list(connection.execute(sa.text("SELECT * FROM requirements ORDER BY id")).mappings())
        wrong = [f"{line!r} is now {dict(row)}" for line, row in zip(every, found, strict=False) if not kept(line, row)]
        wrong += drift(engine, metadata)
        assert not wrong, f"not yet: after the {direction}, {wrong[0]}"

    def kept(line, row):
        return row["line"] == line if "line" in row else (row.get("name"), row.get("rest")) == every[line]

    insert(OLD, [{"id": number, "line": line} for number, line in enumerate(TYPED)])
    migrate(split, NEW, "upgrade")
    insert(NEW, [{"id": 10 + i, "name": name, "rest": rest} for i, (name, rest) in enumerate(LATER.values())])
    migrate(join, OLD, "downgrade")
    migrate(split, NEW, "second upgrade")
    return "right"


check_split(split, join)


# %% tags=["solution"]
def split(op: Operations) -> None:
    op.add_column("requirements", sa.Column("name", sa.String()))
    op.add_column("requirements", sa.Column("rest", sa.String()))
    # Cut where the name ends, and keep the rest as it is: joining is then the exact inverse.
    op.execute("UPDATE requirements SET name = regexp_replace(line, '[^A-Za-z0-9._-].*$', '')")
    op.execute("UPDATE requirements SET rest = nullif(substr(line, length(name) + 1), '')")
    # Only now can the name be required; and in a batch, since DuckDB makes no index after an UPDATE.
    with op.batch_alter_table("requirements") as batch:
        batch.alter_column("name", existing_type=sa.String(), nullable=False)
        batch.drop_index("ix_requirements_line")
        batch.drop_column("line")
        batch.create_index("ix_requirements_name", ["name"])


def join(op: Operations) -> None:
    op.add_column("requirements", sa.Column("line", sa.String()))
    op.execute("UPDATE requirements SET line = name || coalesce(rest, '')")  # anything || NULL is NULL
    with op.batch_alter_table("requirements") as batch:
        batch.alter_column("line", existing_type=sa.String(), nullable=False)
        batch.drop_index("ix_requirements_name")
        batch.drop_column("name")
        batch.drop_column("rest")
        batch.create_index("ix_requirements_line", ["line"])


assert check_split(split, join)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: read the SQL (`alembic upgrade A:B --sql`), not the Python. Ask of each `drop_column` where its data
  went, and of each revision whether it imports anything of ours.
- **Migration owner**: a revision that has run somewhere is never edited; a mistake is corrected by the next one. Make
  drafts against PostgreSQL. On DuckDB alter tables in `op.batch_alter_table`, make no index after an UPDATE, and migrate
  while nobody writes: the copy loses what others commit meanwhile, and an index made beside writers ends the process.
  A `server_default` is a constant on DuckDB: a table with a function there (`now()`, `uuid()`, the sequence of an integer
  key) that is altered before a crash cannot be opened again.
- **Operator**: run `alembic upgrade head` before the new release starts; a release refuses to start on any schema that
  it does not know. (One that serves on both sides of its migration starts first:
  [expand_and_contract](expand_and_contract.ipynb).) A migration waits 5 seconds for a lock, then fails and leaves
  nothing. Run it again.
- **Security reviewer**: the user that migrates owns the tables. The user that serves needs no right to alter them.
- **Test engineer**: keep "models = migrated database" on both engines (`drift` and `alembic check`), and every
  migration's test with rows in the table.

## Sources

Alembic documentation, "Auto Generating Migrations" (what is detected, and what is not), "Generating SQL Scripts",
"Running Batch Migrations". SQLAlchemy documentation, "Configuring Constraint Naming Conventions". PostgreSQL
documentation, 13.2 (transaction isolation), 13.3.5 (advisory locks), 19.11 (`lock_timeout`). DuckDB documentation,
"ALTER TABLE" and "Indexes: limitations". Drizzle documentation, "Migrations with Drizzle Kit". P. Sadalage and
S. Ambler, *Refactoring Databases*.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Bulk load](../schema/bulk_load.ipynb) · [course map](../index.ipynb) · Next: [Expand and contract](expand_and_contract.ipynb)
"""
