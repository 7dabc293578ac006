# %% [markdown]
"""
# Catalog

Model packages, releases and files, and load 14,985 real packages in one transaction, with every refused row named by
its line.

| | |
|---|---|
| **Use it when** | names or versions are keys, or a file with thousands of rows has to get into a database |
| **You need** | [transactions](../foundations/transactions.ipynb), [profile_data](profile_data.ipynb), [identity](identity.ipynb) |
| **Time** | 20 minutes |
| **Topics** | catalog, packages, releases, files, normalized name, typosquatting, dependency confusion, version sort order, natural sort, bulk load, import csv, copy, staging table, upsert, idempotent load, rejected rows |
| **Standard** | PEP 440; PEP 503; PEP 508 |
"""

# %% [markdown]
"""
## The decision

How do 14,985 rows get from a file into the database?

| option | good | costs |
|---|---|---|
| an ORM object for each row | models check everything; the code is there | a round trip a row |
| `INSERT` with many rows, from Python | ten times faster | every value still passes through Python; checks are written twice |
| the engine reads the file straight into the table | fastest | one wrong row refuses the file, or a wrong value is in the table |
| **the engine reads into a staging table, SQL checks and moves** | nearly as fast; every bad row is known by line and reason before anything is written | a second table, and checks in SQL |

We take the **staging table**. DuckDB reads the file on both engines; on PostgreSQL the checked rows go over by
`COPY`. Choose ORM objects below a few hundred rows, or where each row needs a decision that only Python can make.

Two smaller choices follow from the standards. A name's key is its PEP 503 form. A version's key is a text that sorts
as PEP 440 orders versions, so that "newest first" is an index and not a program.
"""

# %% [markdown]
"""
## See it break

A table as one would write it at first. Before you run the cell: which of the four inserts are refused, and which
version is the newest?
"""

# %%
import sqlalchemy as sa
from sqlalchemy import orm

from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import transaction
from playbook.kit import lesson
from playbook.kit.lesson import checker, data_path, lesson_url, on_postgres, show, show_sql, table

naive = sa.MetaData()
columns = [sa.Column(name, sa.String, primary_key=name != "author") for name in ("name", "version", "author")]
first_try = sa.Table("packages", naive, *columns)
engine = make_engine(lesson_url())
naive.create_all(engine)
company, stranger = "the company", "a stranger"
uploads = [("foo-bar", "1.9", company), ("foo-bar", "1.10", company), ("Foo.Bar", "1.11", stranger), ("foo-bar", "1.10.0", company)]  # fmt: skip
with engine.begin() as connection:
    for name, version, author in uploads:
        connection.execute(first_try.insert().values(name=name, version=version, author=author))
    newest = connection.scalar(sa.select(sa.func.max(first_try.c.version)).where(first_try.c.name == "foo-bar"))
print(f"4 of 4 accepted; the newest foo-bar is {newest}")

# %% [markdown]
"""
Everything went wrong quietly. `Foo.Bar` and `foo-bar` are one name to every installer, so a stranger has published a
new version of the company's package. `1.10` and `1.10.0` are one version and are two rows. And 1.9 is newer than
1.10, because text compares `9` with `1`.

Now the loading. Row by row, a commit every 500 rows "so that it does not get slow", and a file with one bad row in
it:
"""

# %%
import csv
import itertools

month = sa.Column("month", sa.String, nullable=False)
loaded = sa.Table("loaded", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), month)
loaded.create(engine)
with data_path("packages.csv").open(encoding="utf-8", newline="") as file:
    real = list(itertools.islice(csv.DictReader(file), 1200))
rows = [{"name": row["name"], "month": row["last_release"]} for row in real if row["version"]]
rows.append({"name": "certifi", "month": None})
try:
    for start in range(0, len(rows), 500):
        with engine.begin() as connection:
            for row in rows[start : start + 500]:
                connection.execute(loaded.insert().values(row))
except sa.exc.IntegrityError as error:
    print(str(error.orig).splitlines()[0])
with engine.connect() as connection:
    inside = connection.scalar(sa.select(sa.func.count()).select_from(loaded))
    print(f"{inside:,} of {len(rows):,} rows are in, and starting again fails at the first")

# %% [markdown]
"""
## Build it

The key of a version. PEP 440 compares epoch, release, pre-, post-, development and local parts in turn, with rules
for each missing one. We write the parts so that comparing the text letter by letter gives the same order. A number
gets its length in front as a letter (`a9` before `b10`), and a missing part the mark that sorts where the standard
wants it. Only digits and small letters are used: other signs sort differently from one locale to the next. (More than
25 digits? Line 8,747 of the real file has version 3.14159265358979323846264338327950288419.)
"""

# %% tags=["export"]
from packaging.version import InvalidVersion, Version


def _number(n: int) -> str:
    """`n` so that text sorts as numbers do. Raises ValueError above 999 digits."""
    digits = str(n)
    if len(digits) > 999:
        raise ValueError(f"a number of {len(digits)} digits in a version")
    if len(digits) > 25:
        return f"z{len(digits):03}{digits}"
    return "abcdefghijklmnopqrstuvwxy"[len(digits) - 1] + digits


def _local_part(part: str | int) -> str:
    # Text before numbers (PEP 440, "Local version identifiers"); the closing 0 makes "ab" sort before "abc".
    return "2" + _number(part) if isinstance(part, int) else "1" + "".join("1" + letter for letter in part) + "0"


# %% tags=["export"]
def version_key(text: str) -> str:
    """A key for PEP 440 version `text`: equal for equal versions, and sorted as text in the order of versions.

    Raises ValueError for what is no version.
    """
    try:
        version = Version(text)
    except InvalidVersion:
        raise ValueError(f"not a version (PEP 440): {text!r}") from None
    release = list(version.release)
    while release and release[-1] == 0:
        release.pop()
    if version.pre:
        pre = {"a": "1", "b": "2", "rc": "3"}[version.pre[0]] + _number(version.pre[1])
    else:
        pre = "0" if version.dev is not None and version.post is None else "9"
    post = "0" if version.post is None else "1" + _number(version.post)
    dev = "9" if version.dev is None else "0" + _number(version.dev)
    local = (
        "".join(_local_part(int(p) if p.isdigit() else p) for p in version.local.split(".")) if version.local else ""
    )
    return _number(version.epoch) + "".join(map(_number, release)) + "0" + pre + post + dev + local + "0"


# %% [markdown]
"""
The tables. A package belongs to an organization and to nobody else. Its name's *form* may be typed in many ways, its
key only in one. The last two indexes are for lists read [page by page](../api/pagination.ipynb), by popularity and by
date of change. DuckDB would keep them up to date at every write and never read them, so only PostgreSQL has them.
"""

# %% tags=["export"]
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from playbook.foundations.engines import Base

NO_RANK = 2**31 - 1  # sorts a package without a rank after all others; the largest INTEGER
BY_RANK = f"coalesce(popularity_rank, {NO_RANK})"


class Package(Base):
    """A named package. `normalized_name` (PEP 503) is its natural key; `popularity_rank` 1 is the most downloaded."""

    __tablename__ = "packages"
    __table_args__ = (
        sa.Index(None, "normalized_name", unique=True),
        sa.Index("ix_packages_popularity", sa.text(BY_RANK), "normalized_name").ddl_if("postgresql"),
        sa.Index("ix_packages_updated", "updated_at", "normalized_name").ddl_if("postgresql"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organizations.id"), index=True)
    name: Mapped[str]
    normalized_name: Mapped[str]
    summary: Mapped[str | None]
    popularity_rank: Mapped[int | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# %% [markdown]
"""
Beside its organization a package has people of its own, and releases. Yanking keeps a release's row: an installer that
asks for exactly this version still gets it, all others no longer see it.
"""


# %% tags=["export"]
class PackageRole(Base):
    """What a person may do with one package beyond their role in its organization: "maintainer" or "uploader"."""

    __tablename__ = "package_roles"
    __table_args__ = (
        sa.Index(None, "package_id", "user_id", unique=True),
        sa.CheckConstraint("role IN ('maintainer', 'uploader')", "role"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    package_id: Mapped[UUID] = mapped_column(sa.ForeignKey("packages.id", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    created_at: Mapped[datetime]


# %% tags=["export"]
class Release(Base):
    """One version of a package: `version` as typed, `version_key` to compare; `released_at` may be exact to the month."""

    __tablename__ = "releases"
    __table_args__ = (sa.Index(None, "package_id", "version_key", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    package_id: Mapped[UUID] = mapped_column(sa.ForeignKey("packages.id", ondelete="CASCADE"))
    version: Mapped[str]
    version_key: Mapped[str]
    is_prerelease: Mapped[bool]
    released_at: Mapped[datetime]
    yanked_at: Mapped[datetime | None]
    yanked_reason: Mapped[str | None]
    created_at: Mapped[datetime]


class File(Base):
    """A file of a release. `size_bytes` and `sha256` (hex) are those of the content, and never change."""

    __tablename__ = "files"
    __table_args__ = (
        sa.Index(None, "filename", unique=True),
        sa.CheckConstraint("kind IN ('sdist', 'wheel')", "kind"),
        sa.CheckConstraint("size_bytes >= 0", "size"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("releases.id", ondelete="CASCADE"), index=True)
    filename: Mapped[str]
    kind: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    uploaded_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("users.id", ondelete="SET NULL"), index=True)
    uploaded_at: Mapped[datetime]


# %% [markdown]
"""
The loader, in three steps. First DuckDB takes the [numbered rows](profile_data.ipynb) as text into a staging table: at
this point nothing is wrong with any value, and each row knows its line. A fault of *form*, such as a field too many,
refuses the whole file. Version keys are the one thing SQL cannot do, so Python makes them, once for each *distinct*
version.
"""

# %% tags=["export"]
import csv
import json
import tempfile
from pathlib import Path

from playbook.schema.profile_data import numbered_rows

HEADER = "rank,name,version,last_release"
READ = """CREATE OR REPLACE TEMP TABLE raw AS
    SELECT line, trim(name) AS name, trim(version) AS version, trim(rank) AS rank, trim(month) AS month,
           regexp_replace(lower(trim(name)), '[-_.]+', '-', 'g') AS normalized_name
    FROM read_csv($1, header = false, auto_detect = false, delim = ',', quote = '"', escape = '"', new_line = '\\r\\n',
                  parallel = false, max_line_size = 3000000, columns = {
                  'line': 'BIGINT', 'rank': 'VARCHAR', 'name': 'VARCHAR', 'version': 'VARCHAR', 'month': 'VARCHAR'})"""
# One JSON text: DuckDB takes 80 times as long to bind a Python list of this size.
KEYS = """CREATE OR REPLACE TEMP TABLE keys AS SELECT unnest(from_json($1,
    '[{"version": "VARCHAR", "version_key": "VARCHAR", "is_prerelease": "BOOLEAN"}]'), recursive := true)"""


class CatalogFileError(ValueError):
    """The file as a whole cannot be read: it is missing, cut short, not UTF-8, or has other columns."""


# %% tags=["export"]
def read_file(duck: sa.Connection, path: Path) -> None:
    """Read `path` into DuckDB's temporary tables `raw` and `keys`. Raises CatalogFileError."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "rows.csv"
        try:
            with plain.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(numbered_rows(path, HEADER.split(",")))
        except (OSError, ValueError) as error:
            to_do = "nothing was loaded; mend the file, or export it again as CSV in UTF-8"
            raise CatalogFileError(f"{path.name} cannot be read as {HEADER}: {error}; {to_do}") from None
        duck.exec_driver_sql(READ, (str(plain),))
    versions = duck.exec_driver_sql("SELECT DISTINCT version FROM raw WHERE version <> ''").scalars().all()
    keys = []
    for version in versions:
        try:
            key, early = version_key(version), Version(version).is_prerelease
        except ValueError:
            continue  # no key: the check below gives the reason
        keys.append({"version": version, "version_key": key, "is_prerelease": early})
    duck.exec_driver_sql(KEYS, (json.dumps(keys),))


# %% [markdown]
"""
Second, one statement gives each row a reason to be refused, or none. The order of the lines matters: the first reason
found is the one reported. Values are held against a pattern, because a cast is generous: DuckDB casts `1.5` to 2.
"""

# %% tags=["export"]
from dataclasses import dataclass

CHECK = """CREATE OR REPLACE TEMP TABLE checked AS
    SELECT raw.line, raw.name, raw.normalized_name, raw.version, keys.version_key, keys.is_prerelease,
           try_cast(raw.rank AS INTEGER) AS rank, try_strptime(raw.month, '%Y-%m')::TIMESTAMPTZ AS released_at,
           CASE
               WHEN coalesce(raw.name, '') = '' THEN 'no name'
               WHEN NOT regexp_full_match(raw.name, '[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?')
                   THEN 'not a package name (PEP 508)'
               WHEN length(raw.name) > 100 THEN 'a name of more than 100 letters'
               WHEN coalesce(raw.version, '') = '' THEN 'no version'
               WHEN length(raw.version) > 200 THEN 'a version of more than 200 letters'
               WHEN keys.version_key IS NULL OR NOT regexp_full_match(raw.version, '[!-~]+')
                   THEN 'not a version (PEP 440)'
               WHEN regexp_full_match(raw.month, '(19|20)[0-9][0-9]-(0[1-9]|1[0-2])') IS NOT TRUE
                   THEN 'last_release is not a month such as 2026-10'
               WHEN regexp_full_match(raw.rank, '[1-9][0-9]*') IS NOT TRUE OR try_cast(raw.rank AS INTEGER) IS NULL
                   THEN 'rank is not a positive whole number'
               WHEN row_number() OVER (PARTITION BY raw.normalized_name ORDER BY raw.line) > 1
                   THEN 'same package as on an earlier line'
           END AS reason
    FROM raw LEFT JOIN keys USING (version)"""

# %% [markdown]
"""
What a load tells: how much was read, what became of it, and each row that was refused.
"""


# %% tags=["export"]
@dataclass(frozen=True)
class RejectedRow:
    """A row that was not loaded. `line` is the one on which it begins, counted from 1 as an editor does."""

    line: int
    name: str | None
    reason: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did, in rows. `read` = loaded or unchanged + rejected."""

    read: int
    packages_added: int
    packages_changed: int
    releases_added: int
    rejected: tuple[RejectedRow, ...]


def check_rows(duck: sa.Connection) -> tuple[int, list[RejectedRow]]:
    """How many rows were read, and those that cannot be loaded, by line."""
    duck.exec_driver_sql(CHECK)
    read: int = duck.exec_driver_sql("SELECT count(*) FROM checked").scalar_one()
    rows = duck.exec_driver_sql("SELECT line, name, reason FROM checked WHERE reason IS NOT NULL ORDER BY line")
    return read, [RejectedRow(*row) for row in rows]


# %% [markdown]
"""
Third, the good rows get into a temporary table `incoming` of the target database. On DuckDB they are there already.
To PostgreSQL they go as CSV through `COPY`, block by block, so memory stays flat, and with ids: 13 to 17 make none.
"""

# %% tags=["export"]
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import orm

from playbook.foundations.clock_and_identifiers import FixedClock, Identifiers, counting_on
from playbook.foundations.engines import make_engine
from playbook.foundations.transactions import somebody_was_first, transaction
from playbook.foundations.write_skew import hold
from playbook.schema.identity import Organization

GOOD = """SELECT line, normalized_name, name, rank, version, version_key, is_prerelease, released_at, {}, {}
    FROM checked WHERE reason IS NULL"""
INCOMING_ON_POSTGRESQL = """CREATE TEMP TABLE incoming (line bigint, normalized_name varchar, name varchar, rank integer,
    version varchar, version_key varchar, is_prerelease boolean, released_at timestamptz, package_id uuid,
    release_id uuid) ON COMMIT DROP"""


# %% tags=["export"]
@contextmanager
def incoming_rows(target: sa.Connection, path: Path, ids: Identifiers) -> Iterator[tuple[int, list[RejectedRow]]]:
    """The good rows of `path` as table `incoming` in the open transaction of `target`; rows read, and those refused."""
    good = GOOD.format(*(f"{counting_on(ids.new(), 'line')} AS {name}" for name in ("package_id", "release_id")))
    if target.dialect.name == "duckdb":
        read_file(target, path)
        outcome = check_rows(target)
        target.exec_driver_sql(f"CREATE OR REPLACE TEMP TABLE incoming AS {good}")
        yield outcome
        target.exec_driver_sql("DROP TABLE incoming")
        return
    with make_engine("duckdb:///:memory:").begin() as duck, tempfile.TemporaryDirectory() as folder:
        read_file(duck, path)
        outcome = check_rows(duck)
        rows = Path(folder) / "good.csv"
        duck.exec_driver_sql(f"COPY ({good}) TO '{rows}' (HEADER false)")
        target.exec_driver_sql(INCOMING_ON_POSTGRESQL)
        with target.connection.cursor().copy("COPY incoming FROM STDIN (FORMAT csv)") as copy, rows.open("rb") as file:
            while block := file.read(1 << 20):
                copy.write(block)
        yield outcome


# %% [markdown]
"""
From here on both engines run the same statements, each for all rows at once. A row whose package belongs to another
organization is refused: otherwise whoever can import a file could publish under anybody's name. What is there and
equal is left alone, so loading again changes nothing.
"""

# %% tags=["export"]
FOREIGN = """SELECT i.line, i.name, 'the package belongs to another organization' FROM incoming i
    JOIN packages p ON p.normalized_name = i.normalized_name AND p.organization_id <> :organization ORDER BY i.line"""
CHANGE_PACKAGES = """UPDATE packages SET popularity_rank = i.rank, version = packages.version + 1, updated_at = :now
    FROM incoming i WHERE packages.normalized_name = i.normalized_name AND packages.organization_id = :organization
      AND packages.popularity_rank IS DISTINCT FROM i.rank RETURNING 1"""
HOLD_PACKAGES = """UPDATE packages SET version = packages.version FROM incoming i
    WHERE packages.normalized_name = i.normalized_name AND packages.organization_id = :organization AND NOT EXISTS
      (SELECT 1 FROM releases r WHERE r.package_id = packages.id AND r.version_key = i.version_key) RETURNING 1"""
ADD_PACKAGES = """INSERT INTO packages
    (id, organization_id, name, normalized_name, popularity_rank, version, created_at, updated_at)
    SELECT i.package_id, :organization, i.name, i.normalized_name, i.rank, 1, :now, :now FROM incoming i
    WHERE NOT EXISTS (SELECT 1 FROM packages p WHERE p.normalized_name = i.normalized_name)"""
ADD_RELEASES = """INSERT INTO releases (id, package_id, version, version_key, is_prerelease, released_at, created_at)
    SELECT i.release_id, p.id, i.version, i.version_key, i.is_prerelease, i.released_at, :now
    FROM incoming i JOIN packages p ON p.normalized_name = i.normalized_name AND p.organization_id = :organization
    WHERE NOT EXISTS (SELECT 1 FROM releases r WHERE r.package_id = p.id AND r.version_key = i.version_key)"""

# %% [markdown]
"""
All of it in one transaction, which holds the rows that get children. Two people may load at once. Then one of them
meets a name that was not there a moment ago; the next attempt sees it and leaves it alone. `step` hears what is done.
"""


# %% tags=["export"]
def load_catalog(
    engine: sa.Engine, path: Path, organization_id: UUID, now: datetime, step: Callable[[str], None] = lambda name: None
) -> LoadReport:
    """Load the packages and latest releases of a catalogue file into one organization, all in one transaction.

    `step` is called with "read", "packages", "releases" and "done", in this order. Raises CatalogFileError for a file
    that cannot be read, ValueError without the organization; then, and at any other error, nothing is loaded.
    """

    def work(session: orm.Session) -> LoadReport:
        target, values = session.connection(), {"organization": organization_id, "now": now}

        def rows_of(sql: str) -> int:
            return target.execute(sa.text(sql), values).rowcount

        if not hold(session, Organization.id, organization_id):
            raise ValueError(f"there is no organization {organization_id}: give the id of one that exists")
        step("read")
        with incoming_rows(target, path, Identifiers(FixedClock(now))) as (read, rejected):
            foreign = target.execute(sa.text(FOREIGN), {"organization": organization_id})
            rejected = sorted([*rejected, *(RejectedRow(*row) for row in foreign)], key=lambda row: row.line)
            step("packages")
            changed = len(target.execute(sa.text(CHANGE_PACKAGES), values).all())  # RETURNING leaves no rowcount
            target.execute(sa.text(HOLD_PACKAGES), values)  # before the new ones are there, which nobody can delete
            added = rows_of(ADD_PACKAGES)
            step("releases")
            return LoadReport(read, added, changed, rows_of(ADD_RELEASES), tuple(rejected))

    report = transaction(engine, work, retry=somebody_was_first)
    step("done")
    return report


# %% [markdown]
"""
## See it work
"""

# %%
from datetime import UTC, timedelta

from playbook.foundations.clock_and_identifiers import SeededBytes
from playbook.kit.stage import capture_sql

show(lesson.er_diagram(Organization, Package, PackageRole, Release, File))


# %%
def database_with_organization(url):
    engine, clock = make_engine(url), FixedClock(datetime(2026, 11, 2, 9, 0, tzinfo=UTC))
    Base.metadata.create_all(engine)
    ids, now = Identifiers(clock, SeededBytes(1)), clock.now()
    organization = Organization(id=ids.new(), slug="mirror", name="Mirror", created_at=now, updated_at=now)
    transaction(engine, lambda session: session.add(organization))
    return engine, clock, ids, organization.id


engine, clock, ids, mirror = database_with_organization(lesson_url())
steps = []
report = load_catalog(engine, data_path("packages.csv"), mirror, clock.now(), steps.append)
print(f"{report.read:,} rows read, {report.packages_added:,} packages and {report.releases_added:,} releases added")
print(f"steps: {', '.join(steps)}")
show(table([(r.line, r.name, r.reason) for r in report.rejected], columns=["line", "name", "reason"]))

# %% [markdown]
"""
14 rows of the real file have neither version nor month. They are in the report, with the line to look at, and not in
the table. Loading again changes nothing; a file in which one package has risen changes one row:
"""

# %%
again = load_catalog(engine, data_path("packages.csv"), mirror, clock.now())
print(again.packages_added, again.packages_changed, again.releases_added, len(again.rejected))

edited = lesson.lesson_folder() / "edited.csv"
text = data_path("packages.csv").read_text(encoding="utf-8")
edited.write_text(text.replace("1,boto3,1.44.5,", "3,Boto3,1.44.10,"), encoding="utf-8")
later = load_catalog(engine, edited, mirror, clock.now() + timedelta(days=1))
print(later.packages_added, later.packages_changed, later.releases_added, len(later.rejected))

# %% [markdown]
"""
Added, changed, releases added, rejected. The new row says `Boto3`, the package is `boto3`: one rank has changed and
one release is new. Which is the newest? The database knows, and uses an index for it. Then the file that failed
half-way at the top, and one that was cut short on its way here:
"""

# %%
newest = (
    sa.select(Release.version)
    .join(Package, Package.id == Release.package_id)
    .where(Package.normalized_name == "boto3")
    .order_by(Release.version_key.desc())
)
with capture_sql(engine) as statements:
    print(transaction(engine, lambda session: session.scalars(newest).all()))
show_sql(statements)

cut = lesson.lesson_folder() / "cut.csv"
cut.write_text(text[: len(text) // 2], encoding="utf-8")
engine, clock, ids, mirror = database_with_organization(lesson_url())
try:
    load_catalog(engine, cut, mirror, clock.now())
except CatalogFileError as error:
    print(error)
with engine.connect() as connection:
    print(connection.scalar(sa.select(sa.func.count()).select_from(Package)), "packages")

# %% [markdown]
"""
What does bulk buy? An object for each row is a statement for each row. Here are those that write, for all rows:
"""

# %%
engine, clock, ids, mirror = database_with_organization(lesson_url())
with capture_sql(engine) as statements:
    load_catalog(engine, data_path("packages.csv"), mirror, clock.now())
writing = [statement for statement in statements if statement.sql.startswith(("INSERT", "UPDATE"))]
print(f"{len(writing)} statements write {report.read:,} rows")

# %% [markdown]
"""
## On PostgreSQL

The same function. The rows come through `COPY`, the rest is the same four statements.
"""


# %%
def load_on(url):
    engine, clock, _, mirror = database_with_organization(url)
    first = load_catalog(engine, data_path("packages.csv"), mirror, clock.now())
    again = load_catalog(engine, data_path("packages.csv"), mirror, clock.now())
    versions = transaction(
        engine, lambda s: s.scalars(sa.select(Release.version).order_by(Release.version_key, Release.version)).all()
    )
    engine.dispose()
    return first, again, versions


postgres_outcome = on_postgres(load_on)
if postgres_outcome:
    print(f"{postgres_outcome[0].packages_added:,} packages added, {len(postgres_outcome[0].rejected)} rows rejected")

# %% [markdown]
"""
## Check it

The order of the keys is the order of the versions: over all 3,518 versions of the real file, as both databases sort
them, and over the examples of PEP 440.
"""

# %%
for outcome in (load_on(lesson_url()), postgres_outcome):
    if outcome is None:
        continue
    first, again, versions = outcome
    assert (first.read, first.packages_added, first.releases_added, len(first.rejected)) == (14_985, 14_971, 14_971, 14)
    assert (again.packages_added, again.packages_changed, again.releases_added, len(again.rejected)) == (0, 0, 0, 14)
    in_order = [Version(v) for v in versions]
    assert all(a <= b for a, b in itertools.pairwise(in_order)), "the database sorts versions differently from PEP 440"

pep440 = """1.dev0 1.0.dev456 1.0a1 1.0a2.dev456 1.0a12.dev456 1.0a12 1.0b1.dev456 1.0b2 1.0b2.post345.dev456
    1.0b2.post345 1.0rc1.dev456 1.0rc1 1.0 1.0+abc.5 1.0+abc.7 1.0+5 1.0.post456.dev34 1.0.post456 1.0.15 1.1.dev1 1!0.1"""
keys = [version_key(v) for v in pep440.split()]
assert keys == sorted(keys) and len(set(keys)) == len(keys)
for one, other in (("1.0", "1.0.0"), ("1.0a1", "1.0alpha1"), ("1.0.post1", "1.0-1"), ("v1.0", "1.0")):
    assert version_key(one) == version_key(other)

bad = lesson.lesson_folder() / "bad.csv"
lines = "good,1.0,2026-01 ,1.0,2026-01 -bad-,1.0,2026-01 a,,2026-01 b,1.0-x-y,2026-01 c,1.0,2026-13 Good,2.0,2026-02"
numbered = [f"{rank},{line}" for rank, line in enumerate(lines.split(" "), 1)]
bad.write_text("\n".join(["rank,name,version,last_release", *numbered, "0,d,1.0,2026-01\n"]), encoding="utf-8")
engine, clock, ids, mirror = database_with_organization(lesson_url())
report = load_catalog(engine, bad, mirror, clock.now())
assert [r.line for r in report.rejected] == [3, 4, 5, 6, 7, 8, 9] and report.packages_added == 1
stranger = Organization(id=ids.new(), slug="stranger", name="Stranger", created_at=clock.now(), updated_at=clock.now())
stranger_id = stranger.id
transaction(engine, lambda session: session.add(stranger))
taken = load_catalog(engine, bad, stranger_id, clock.now())
assert (taken.packages_added, taken.releases_added) == (0, 0)
assert taken.rejected[0].reason == "the package belongs to another organization"
print("14,971 in and 14 named on each engine; again no change; versions in order; seven faults found; nothing foreign")

# %% [markdown]
"""
## Your turn

Which release does an installer take when nobody asks for a version? The highest that is not yanked, and a pre-release
only when there is nothing else (PEP 440, "Handling of pre-releases"). Write `installed(session, name)`: the version's
text, or None. One statement is enough. `name` comes as somebody typed it.
"""


# %% tags=["exercise"]
def installed(session: orm.Session, name: str) -> str | None:
    newest = sa.select(Release.version).join(Package, Package.id == Release.package_id).where(Package.name == name)
    return session.scalar(newest.order_by(Release.version.desc()).limit(1))


# %%
CASES = {
    "plain": (["1.9", "1.10", "1.2"], "1.10"),
    "with-pre": (["1.0", "2.0rc1", "2.0.dev1"], "1.0"),
    "only-pre": (["1.0a1", "1.0b2", "1.0b10"], "1.0b10"),
    "post": (["1.0", "1.0.post1", "1.0a1"], "1.0.post1"),
    "yanked": (["1.0", "!1.1", "1.2b1"], "1.0"),
    "yanked-final": (["!1.0", "2.0a1"], "2.0a1"),
    "all-yanked": (["!1.0", "!2.0a1"], None),
}


@checker
def check_installed(installed):
    engine, clock, ids, organization = database_with_organization(lesson_url())
    now = clock.now()

    def fill(session):
        for name, (versions, _) in CASES.items():
            package = Package(
                id=ids.new(),
                organization_id=organization,
                name=name,
                normalized_name=name,
                created_at=now,
                updated_at=now,
            )
            session.add(package)
            for typed in versions:
                text = typed.lstrip("!")
                key = {"version": text, "version_key": version_key(text), "is_prerelease": Version(text).is_prerelease}
                yanked = now if typed[0] == "!" else None
                times = {"created_at": now, "released_at": now, "yanked_at": yanked}
                session.add(Release(id=ids.new(), package_id=package.id, **key, **times))

    transaction(engine, fill)
    for name, (versions, expected) in CASES.items():
        found = transaction(engine, lambda session, name=name: installed(session, name))
        if found != expected:
            return f"not yet: of {', '.join(versions)} (! is yanked) an installer takes {expected}, yours took {found}"
    if transaction(engine, lambda session: installed(session, "With_Pre")) != "1.0":
        return "not yet: somebody typed With_Pre for with-pre"
    if transaction(engine, lambda session: installed(session, "no-such")) is not None:
        return "not yet: an unknown package has no version"
    return "right"


check_installed(installed)

# %% tags=["solution"]
from packaging.utils import canonicalize_name


def installed(session: orm.Session, name: str) -> str | None:
    return session.scalar(
        sa.select(Release.version)
        .join(Package, Package.id == Release.package_id)
        .where(Package.normalized_name == canonicalize_name(name), Release.yanked_at.is_(None))
        .order_by(Release.is_prerelease, Release.version_key.desc())  # False sorts before True
        .limit(1)
    )


assert check_installed(installed)

# %% [markdown]
"""
## Hand it over

- **Front end**: show `name` as it was typed, link and compare by `normalized_name`.
- **Security reviewer**: one key a name, and no import touches another organization's package: see the check with the
  stranger.
- **Migration owner**: `version_key` is derived; a change of its rules means computing all of them again, in one
  migration.
- **Operator**: a load is one transaction. Stop it at any moment and nothing has happened; run it again and nothing is
  doubled.
- **Test engineer**: keep "sorted by key = sorted by PEP 440" over real versions, and "load twice = load once".

## Sources

PEP 440, "Summary of permitted suffixes and relative ordering" and "Handling of pre-releases". PEP 503, "Normalized
names". PEP 508, "Names". PEP 592 (yanked releases). PostgreSQL documentation, 14.4 "Populating a Database". DuckDB
documentation, "CSV Import". A. Birsan, "Dependency Confusion" (2021).
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Identity](identity.ipynb) · [course map](../index.ipynb) · Next: [First migration](../migrations/first_migration.ipynb)
"""
