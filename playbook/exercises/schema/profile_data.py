"""The exercise of the page "Profile the data": checker, hints, wrong answers; and what the page's stage needs."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from packaging.utils import canonicalize_version
from packaging.version import InvalidVersion, Version  # noqa: F401  for WRONG

from playbook.kit.display import Shown, mermaid
from playbook.kit.exercises import checker
from playbook.kit.lesson import data_path, lesson_folder
from playbook.schema.profile_data import repair

# What the export does not say: a time without a zone is UTC, German times are UTC+1, American ones UTC-5.
MOMENT = """coalesce(TRY_CAST(uploaded_at AS TIMESTAMPTZ) AT TIME ZONE 'UTC',
    try_strptime(uploaded_at, '%d.%m.%Y %H:%M') - INTERVAL 1 HOUR,
    try_strptime(uploaded_at, '%m/%d/%Y %I:%M %p') + INTERVAL 5 HOUR,
    make_timestamp(TRY_CAST(uploaded_at AS BIGINT) * 1000000))"""
QUESTIONS = (
    "sha256 release",
    "package version sha256",
    "project release sha256",
    "mailbox team",
    "uploader_name mailbox",
    "project team",
    "project yanked",
    "uploaded_at yanked",
)
PROJECT = "lower(regexp_replace(package, '[-_.]+', '-', 'g'))"  # PEP 503


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database in memory."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def load(con: duckdb.DuckDBPyConnection, table: str, path: Path, options: str = "") -> None:
    """Make `table` of a CSV file, each column a text. `options` are those of DuckDB's `read_csv`."""
    source = f"read_csv('{path}', header = true, all_varchar = true{options and ', '}{options})"
    con.execute(f"CREATE OR REPLACE TABLE {table} AS FROM {source}")


def count(con: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value of a query."""
    row = con.execute(query).fetchone()
    return row[0] if row else None


def count_and_load(con: duckdb.DuckDBPyConnection, path: Path, options: str) -> tuple[int, int]:
    """How many rows DuckDB counts in a CSV file, and how many it loads of the same."""
    counted = count(con, f"SELECT count(*) FROM read_csv('{path}', all_varchar = true, {options})")
    load(con, "careless", path, options)
    return counted, count(con, "SELECT count(*) FROM careless")


def load_text(con: duckdb.DuckDBPyConnection, table: str, text: str) -> Path:
    """Write `text` to a file, load it, and return where it is."""
    path = lesson_folder() / f"{table}.csv"
    path.write_text(text, encoding="utf-8", newline="")
    load(con, table, path)
    return path


def try_rules(
    con: duckdb.DuckDBPyConnection, table: str, rules: Iterable[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Copy a column, or an expression, into a table with a constraint. What the database says to each."""
    answers = []
    for expression, constraint in rules:
        con.execute(f"CREATE OR REPLACE TABLE attempt (value VARCHAR {constraint})")
        try:
            con.execute(f"INSERT INTO attempt SELECT {expression} FROM {table}")
            said = "accepted"
        except duckdb.ConstraintException as error:
            said = str(error).removeprefix("Constraint Error: ").split(" with expression")[0]
        answers.append((expression, constraint, said))
    return answers


def normalize(con: duckdb.DuckDBPyConnection, mailbox: str) -> None:
    """Make the table `clean`: `uploads` with `project`, `mailbox`, `moment` and `release`, each in one spelling."""
    made = f"{PROJECT} AS project, {mailbox} AS mailbox, {MOMENT} AS moment"
    con.execute(f"CREATE OR REPLACE TABLE clean AS SELECT *, {made} FROM uploads")
    typed = [row[0] for row in con.execute("SELECT DISTINCT version FROM clean ORDER BY version").fetchall()]
    lists = [typed, [canonicalize_version(version) for version in typed]]  # what is no version stays as it is
    con.execute("CREATE OR REPLACE TABLE versions AS SELECT unnest($1) AS version, unnest($2) AS release", lists)
    con.execute("CREATE OR REPLACE TABLE clean AS FROM clean JOIN versions USING (version)")


def picture(dependencies: Iterable[Any]) -> Shown:
    """An arrow for each dependency, with the share of wrong rows; dotted where it tells little more than a guess."""
    lines = ["flowchart LR"]
    for one in dependencies:
        left, right = one.rule.split(" → ")
        arrow = "-->" if one.share < one.blind / 2 and one.tested > 10 else "-.->"
        name = left.replace(", ", "_")
        lines.append(f'  {name}["{left}"] {arrow}|"{one.share:.1%}"| {right}')
    return mermaid("\n".join(lines))


def staged(url: str) -> list[tuple[str, str]]:
    """What PostgreSQL says to the first lines of the export by COPY, and to two dates as it reads them by default."""
    import psycopg

    head = data_path("legacy_uploads.csv").read_bytes().split(b"\n")[:1600]
    mended = repair(b"\n".join(head))[0].encode()
    columns = ", ".join(f'"{name}" text' for name in head[0].decode().split(","))
    said = []
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE staging ({columns})")
        copy_in = "COPY staging FROM STDIN (FORMAT csv, HEADER, ENCODING 'UTF8')"
        for what, content in (("as exported", b"\n".join(head)), ("repaired", mended)):
            try:
                with connection.cursor().copy(copy_in) as copy:
                    copy.write(content)
                said.append((what, "accepted"))
            except psycopg.Error as error:
                said.append((what, str(error.diag.message_primary)))
        for day in ("04.03.2021", "31.02.2021"):
            try:
                row = connection.execute(f"SELECT '{day}'::date::text").fetchone()
                said.append((day, row[0] if row else ""))
            except psycopg.Error as error:
                said.append((day, str(error.diag.message_primary)))
    return said


def dated(rows: Iterable[Any]) -> list[Any]:
    """The rows with a time that can be, by time. For WRONG."""
    return sorted((row for row in rows if row[3] and 2000 < row[3].year < 2099), key=lambda row: row[3])


HINTS = (
    "See 'One column': which values of a date are no dates? And what does the order of\n"
    "the rows tell you, when they come from a database?",
    "Sort the rows that count by their moment. Keep the highest version of each package\n"
    "so far, and compare as `packaging.version.Version`, never as text.",
)

WRONG = (
    # versions as text
    """
def backwards(rows):
    highest, found = {}, set()
    for upload, package, version, moment in dated(rows):
        if version < highest.get(package, version):
            found.add(upload)
        highest[package] = max(version, highest.get(package, version))
    return found
""",
    # in the order in which the rows come
    """
def backwards(rows):
    highest, found = {}, set()
    for upload, package, typed, moment in rows:
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if moment and 2000 < moment.year < 2099:
            if version < highest.get(package, version):
                found.add(upload)
            highest[package] = max(version, highest.get(package, version))
    return found
""",
    # compares with the last version, not with the highest
    """
def backwards(rows):
    last, found = {}, set()
    for upload, package, typed, moment in dated(rows):
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if version < last.get(package, version):
            found.add(upload)
        last[package] = version
    return found
""",
    # takes a zero and a "for ever" for times
    """
def backwards(rows):
    highest, found = {}, set()
    for upload, package, typed, moment in sorted((r for r in rows if r[3]), key=lambda r: r[3]):
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if version < highest.get(package, version):
            found.add(upload)
        highest[package] = max(version, highest.get(package, version))
    return found
""",
    # one highest version for all packages
    """
def backwards(rows):
    highest, found = None, set()
    for upload, package, typed, moment in dated(rows):
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if highest and version < highest:
            found.add(upload)
        highest = max(version, highest or version)
    return found
""",
)

Row = tuple[int, str, str, datetime | None]
DAYS = [datetime(2020, 1, number) for number in range(1, 9)]
CASES: Sequence[tuple[list[Row], set[int], str]] = (
    ([(1, "a", "1.9", DAYS[0]), (2, "a", "1.10", DAYS[1])], set(), "1.9 and then 1.10 is forwards"),
    (
        [(2, "a", "1.0", DAYS[1]), (1, "a", "2.0", DAYS[0]), (3, "b", "0.1", DAYS[2])],
        {2},
        "a has 2.0 and, a day later, 1.0; b has 0.1 after that; and the rows come in another order",
    ),
    (
        [(n, "a", version, DAYS[n]) for n, version in enumerate(("1.0", "2.0", "1.1", "1.2"))],
        {2, 3},
        "1.0, 2.0, 1.1, 1.2, each a day later: the last two are lower than one that the package already had",
    ),
    ([(1, "a", "v1.0", DAYS[0]), (2, "a", "1", DAYS[1])], set(), "v1.0 and 1 are one version"),
    ([(1, "a", "2-SNAPSHOT", DAYS[0]), (2, "a", "1.0", DAYS[1])], set(), "2-SNAPSHOT is no version"),
    (
        [(1, "a", "9.0", datetime(1970, 1, 1)), (2, "a", "1.0", DAYS[1])],
        set(),
        "9.0 was uploaded in the first second of 1970, or so it says, and 1.0 in 2020",
    ),
    (
        [(1, "a", "9.0", DAYS[1]), (2, "a", "1.0", datetime(2099, 12, 31))],
        set(),
        "9.0 was uploaded in 2020, and 1.0 in 2099, or so it says",
    ),
    ([(1, "a", "9.0", DAYS[1]), (2, "a", "1.0", None)], set(), "9.0 was uploaded in 2020, and 1.0 nobody knows when"),
)


def real_uploads() -> list[Row]:
    """The uploads of the export, in an order of no meaning."""
    with connect() as con:
        load_text(con, "legacy", repair(data_path("legacy_uploads.csv").read_bytes())[0])
        con.execute("CREATE TABLE uploads AS SELECT DISTINCT * FROM legacy")
        normalize(con, "uploader_email")
        rows = con.execute("SELECT upload_id::INTEGER, project, version, moment FROM clean ORDER BY sha256, upload_id")
        return rows.fetchall()


REAL = 200  # as data/make_legacy_uploads.py has planted them


@checker
def check(backwards: Callable[..., Any]) -> str:
    """Eight packages of one to four uploads; then the uploads of the export."""
    for rows, expected, what in CASES:
        found = backwards(list(rows))
        if found != expected:
            return f"not yet: {what}; you found {sorted(found) if found else 'none'}"
    number = len(backwards(real_uploads()))
    if number != REAL:
        return f"not yet: {REAL} uploads of the export went backwards, and you found {number}"
    return "right"
