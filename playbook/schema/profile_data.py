# %% [markdown]
"""
# Profile the data

Find out what a file really holds, its keys, its dependencies, its spellings and its lies, before you draw a table.

| | |
|---|---|
| **Use it when** | somebody hands you a file or an old table and says that the schema is obvious |
| **You need** | nothing |
| **Time** | 18 minutes |
| **Topics** | data profiling, data quality, candidate key, primary key, unique constraint, functional dependency, normalization, third normal form, null, duplicates, deduplication, entity resolution, encoding, UTF-8, mojibake, CSV import, date formats, time zones, staging table, legacy system, DuckDB, SUMMARIZE |
| **Standard** | PEP 440; PEP 503; RFC 4180; RFC 5321 2.4 |
"""

# %% [markdown]
"""
## The decision

| option | good | costs |
|---|---|---|
| read a sample | minutes | faults are rare: 8 rows of 20,000 stop the import, and a sample of a hundred shows one in 25 tries |
| DuckDB's `SUMMARIZE` | one word, every column, fast | estimates distinct values, so it cannot tell a key; sees no two columns together |
| a library such as ydata-profiling | histograms, correlations, a report to click through | made for eyes: no keys of several columns, no dependencies; brings pandas, SciPy, Matplotlib |
| **SQL by hand, as functions that return rows** | exact, explains itself, every finding becomes an assert | you must know what to ask |

We take **SQL as functions**: what decides about a constraint has to be exact, and has to be checked again when the
file comes again. `SUMMARIZE` is for the first minute. Choose a library when the question is statistical.

## See it break

Two files: 14,985 real packages, and 20,000 uploads exported from the system that Pantry replaces. Here are five rules
that look obvious for packages. Before you run the cell: which of them do the rows accept?
"""

# %%
import duckdb

from playbook.kit.lesson import checker, data_path, lesson_folder, on_postgres, show, table

con = duckdb.connect(config={"threads": 1})
con.execute("SET TimeZone = 'UTC'")
path = {"path": str(data_path("packages.csv"))}
con.execute("CREATE TABLE packages AS FROM read_csv($path, header = true, all_varchar = true)", path)
answers = []
for rule, column, constraint in (
    ("no package twice", "name", "UNIQUE"),
    ("no rank twice", "rank", "UNIQUE"),
    ("no look-alikes: names differ by more than hyphens", "replace(name, '-', '')", "UNIQUE"),
    ("a package has a version", "version", "NOT NULL"),
    ("a list of October knows no November", "last_release", "CHECK (value <= '2026-10')"),
):
    con.execute(f"CREATE OR REPLACE TABLE attempt (value VARCHAR {constraint})")
    try:
        con.execute(f"INSERT INTO attempt SELECT {column} FROM packages")
        answers.append((rule, "accepted"))
    except duckdb.ConstraintException as error:
        answers.append((rule, str(error).removeprefix("Constraint Error: ").split(" with expression")[0]))
show(table(answers, ["rule", "what the rows say"]))

# %% [markdown]
"""
Three rules that any meeting would pass, refused by data that nobody made up. `uritemplate` and `uri-template` are two
packages, both among the 15,000 most downloaded. Each rule may still be right for *new* rows, but that is a decision
now, and no longer an accident in the night of the migration. The other file does not even load. DuckDB suggests a way
out:
"""

# %%
path = {"path": str(data_path("legacy_uploads.csv"))}
try:
    con.execute("CREATE OR REPLACE TABLE careless AS FROM read_csv($path, header = true, all_varchar = true)", path)
except duckdb.InvalidInputException as error:
    telling = ("Invalid", "Possible Solution: Enable")
    print("\n".join(line for line in str(error).splitlines() if line.startswith(telling)))
lenient = "read_csv($path, header = true, all_varchar = true, ignore_errors = true)"
print("counted:", con.execute(f"SELECT count(*) FROM {lenient}", path).fetchone()[0])
con.execute(f"CREATE OR REPLACE TABLE careless AS FROM {lenient}", path)
print("loaded: ", con.execute("SELECT count(*) FROM careless").fetchone()[0])
for column, pattern in (("package", "acryl%great%"), ("uploader_email", "laszlo%")):
    sql = f"SELECT {column}, count(*) FROM careless WHERE {column} ILIKE '{pattern}' GROUP BY ALL ORDER BY ALL"
    show(table(con.execute(sql).fetchall(), [column, "uploads"]))

# %% [markdown]
"""
Eight rows are gone without a word, and the count you would check with says that all are there: counting does not
decode names, loading does. What did come in has one package in seven spellings and one person at seven addresses.

## Build it

Get everything in first, as text, because a type is a conclusion and we have drawn none yet. A line that is not UTF-8
comes from something older, in Western Europe mostly Latin-1. That is a guess, so the numbers of those lines come back
too.
"""

# %% tags=["export"]
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from duckdb import DuckDBPyConnection


def repair(content: bytes) -> tuple[str, list[int]]:
    """`content` as text, and the numbers (from 1) of the lines that are not UTF-8 and were read as Latin-1.

    LF, CRLF and CR end a line, as in an editor; a byte order mark is left out.
    """
    lines, repaired = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("latin-1"))
            repaired.append(number)
    return "".join(lines), repaired


def quoted(name: str) -> str:
    """`name` as an SQL identifier: column names come from the file, so nobody has checked them."""
    return '"' + name.replace('"', '""') + '"'


# %% [markdown]
"""
Later somebody has to repair rows, and looks for them by line. A row's number is not its line: empty lines are no rows,
and a quoted value may hold line breaks. DuckDB and PostgreSQL count rows, so Python's `csv` splits the file here. A
fault of *form*, such as a field too many, ends the reading: what the fields after it mean, nobody knows.
"""

# %% tags=["export"]
import csv
import re
from collections.abc import Iterator
from pathlib import Path


def numbered_rows(path: Path, header: Sequence[str]) -> Iterator[list[str | int]]:
    """The rows of a CSV file (RFC 4180) below `header`, each after the number (from 1) of the line on which it begins.

    LF, CRLF or CR ends a line. Empty lines and a byte order mark are skipped. Raises OSError, and ValueError with the
    line for a fault of form: another header, more or fewer fields, an open quote, a byte that is not UTF-8.
    """
    line, width = 1, 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for row in rows:
                if width == len(row) > 0:
                    yield [line, *row]
                elif not width and [field.strip() for field in row] != list(header):
                    raise ValueError(f"line 1 is {','.join(row)[:60]!r}")
                elif width and (len(row) > 1 or "".join(row).strip()):
                    raise ValueError(f"line {line} has {len(row)} fields instead of {width}")
                line, width = rows.line_num + 1, width or len(row)
        except UnicodeDecodeError:
            good = re.split("[\udc80-\udcff]", path.read_text("utf-8", "surrogateescape"), maxsplit=1)[0]
            raise ValueError(f"line {good.count(chr(10)) + 1} is not UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
    if not width:
        raise ValueError("it is empty")


# %% [markdown]
"""
Three questions about one column. What does it hold? Which *shapes* does it have, when every digit is a 9 and every
letter an A or a: dates in six forms become six lines. Which *spellings* does one thing have, when `key` says what is
equal?
"""


# %% tags=["export"]
def profile(connection: DuckDBPyConnection, table: str) -> list[tuple[object, ...]]:
    """For each column: name, empty, distinct, shortest, longest (characters), most frequent value, its share of 1."""
    return [
        connection.execute(f"""
            SELECT $name, count(*) - count(c), count(DISTINCT c), min(length(c)), max(length(c)),
                   mode(c ORDER BY c), max(n) FILTER (c IS NOT NULL) / count(*)
            FROM (SELECT {quoted(name)} AS c, count(*) OVER (PARTITION BY c) AS n FROM {quoted(table)})""",
            {"name": name}).fetchall()[0]
        for name in connection.table(quoted(table)).columns
    ]  # fmt: skip


def shapes(connection: DuckDBPyConnection, table: str, column: str) -> list[tuple[str, int]]:
    """The patterns of a text column and the rows that have each, most frequent first."""
    shape = quoted(column)
    for pattern, sign in (("[0-9]", "9"), ("\\p{Lu}", "A"), ("\\p{Ll}", "a")):
        shape = f"regexp_replace({shape}, '{pattern}', '{sign}', 'g')"
    sql = f"SELECT {shape} AS s, count(*) AS n FROM {quoted(table)} GROUP BY s ORDER BY n DESC, s"
    return connection.execute(sql).fetchall()


def spellings(connection: DuckDBPyConnection, table: str, column: str, key: str) -> list[tuple[str, list[str]]]:
    """Where `column` has several values for one value of the SQL expression `key`: that value, and its spellings."""
    listed = f"list(DISTINCT {quoted(column)} ORDER BY {quoted(column)})"
    sql = f"SELECT {key} AS k, {listed} AS l FROM {quoted(table)} GROUP BY k HAVING len(l) > 1 ORDER BY len(l) DESC, k"
    return connection.execute(sql).fetchall()


# %% [markdown]
"""
A *candidate key* is a set of columns in which no two rows agree and that has no smaller such set inside. We go up by
size and skip whatever contains a key already. NULL disqualifies: SQL never holds two unknowns equal, so `UNIQUE` lets
them in.
"""


# %% tags=["export"]
def candidate_keys(connection: DuckDBPyConnection, table: str, size: int = 2) -> list[tuple[str, ...]]:
    """The minimal sets of at most `size` columns whose values are all there and all different."""
    found: list[tuple[str, ...]] = []
    for count in range(1, size + 1):
        for names in combinations(connection.table(quoted(table)).columns, count):
            if any(set(key) <= set(names) for key in found):
                continue
            there = " AND ".join(f"{quoted(n)} IS NOT NULL" for n in names)
            different = f"count(DISTINCT ({', '.join(map(quoted, names))})) FILTER (WHERE {there})"
            if connection.execute(f"SELECT {different} = count(*) FROM {quoted(table)}").fetchone() == (True,):
                found.append(names)
    return found


# %% [markdown]
"""
A *functional dependency* A → B says that who knows A knows B, so B belongs into a table whose key is A. In old data
hardly one holds exactly, so we count the rows that would have to change, and put two numbers beside it that keep us
honest. *Tested*: the values of A in several rows; the others can break nothing. *Blind*: the share that is wrong when
you do not look at A and always say the most frequent B.
"""


# %% tags=["export"]
class Dependency(NamedTuple):
    """How well one set of columns determines a column. Rows with a NULL in either do not count; shares are of 1."""

    rule: str
    tested: int  # values of the determinant in at least two rows
    broken: int  # those of them with more than one dependent value
    wrong: int  # rows to change before it holds (g3 of Kivinen and Mannila)
    share: float  # wrong rows, of those with a tested value
    blind: float


def dependency_sql(table: str, determinant: Sequence[str], dependent: str) -> str:
    """One row: tested, broken, wrong, rows with a tested value, rows, rows with the most frequent dependent value."""
    a, b = ", ".join(map(quoted, determinant)), quoted(dependent)
    there = " AND ".join(f"{quoted(n)} IS NOT NULL" for n in (*determinant, dependent))
    return f"""
        WITH pairs AS (SELECT {a}, {b}, count(*) AS n FROM {quoted(table)} WHERE {there} GROUP BY {a}, {b}),
             known AS (SELECT sum(n) AS n, max(n) AS kept, count(*) AS different FROM pairs GROUP BY {a})
        SELECT count(*) FILTER (WHERE n > 1), count(*) FILTER (WHERE different > 1), sum(n - kept),
               sum(n) FILTER (WHERE n > 1), sum(n),
               (SELECT max(m) FROM (SELECT sum(n) AS m FROM pairs GROUP BY {b}) AS guesses)
        FROM known"""


def dependency(connection: DuckDBPyConnection, table: str, determinant: Sequence[str], dependent: str) -> Dependency:
    """Test determinant → dependent on all rows."""
    row = connection.execute(dependency_sql(table, determinant, dependent)).fetchone() or ()
    tested, broken, wrong, among, rows, most = (int(value or 0) for value in row)
    rule = f"{', '.join(determinant)} → {dependent}"
    return Dependency(rule, tested, broken, wrong, wrong / max(among, 1), 1 - most / max(rows, 1))


# %% [markdown]
"""
## See it work
"""

# %%
text, repaired = repair(data_path("legacy_uploads.csv").read_bytes())
whole = lesson_folder() / "repaired.csv"
whole.write_text(text, encoding="utf-8", newline="")
path = {"path": str(whole)}
con.execute("CREATE OR REPLACE TABLE legacy AS FROM read_csv($path, header = true, all_varchar = true)", path)
con.execute("CREATE OR REPLACE TABLE uploads AS SELECT DISTINCT * FROM legacy")
print("lines read as Latin-1:", repaired)
*_, last = numbered_rows(whole, con.table("legacy").columns)
print(f"row {con.table('legacy').shape[0]:,}, the last, begins on line {last[0]:,}: {last[1:4]}")
facts = [(*row[:5], f"{row[5][:24]} ({row[6]:.1%})") for row in profile(con, "legacy")]
show(table(facts, ["legacy", "empty", "distinct", "shortest", "longest", "most frequent"]))
estimated = dict(con.execute("SELECT column_name, approx_unique FROM (SUMMARIZE packages)").fetchall())
counted = [(row[0], row[2], estimated[row[0]]) for row in profile(con, "packages")]
show(table(counted, ["packages", "distinct", "SUMMARIZE"]))
for name in ("packages", "legacy", "uploads"):
    print(f"keys of {name}: {candidate_keys(con, name)}")

# %% [markdown]
"""
The most frequent time is the first second of 1970: a zero that somebody formatted. A licence of 392 characters is a
licence text, a name of 159 is ten people. `SUMMARIZE` sees more names than there are rows. The export has no key at
all, whatever columns you take, because 40 rows are there twice; without them (`uploads`) `upload_id` is one, and the
only one. The times:
"""

# %%
show(table(shapes(con, "uploads", "uploaded_at"), ["shape of uploaded_at", "uploads"]))
offset = "'2021-03-04T06:06:07+01:00'"
print("typed:", offset, " ::TIMESTAMP:", con.execute(f"SELECT {offset}::TIMESTAMP::VARCHAR").fetchone()[0])

# %% [markdown]
"""
Six forms, and a trap: the cast to `TIMESTAMP` accepts the offset and throws it away. 5,000 uploads would move by up
to nine hours without an error. `TIMESTAMPTZ` keeps it. What has no zone is taken for UTC, which nobody can check:
write it down. Now one column for each thing that should be equal, and for addresses the count of people after each
rule.
"""

# %%
MOMENT = """coalesce(TRY_CAST(uploaded_at AS TIMESTAMPTZ) AT TIME ZONE 'UTC',
    try_strptime(uploaded_at, '%d.%m.%Y %H:%M'), try_strptime(uploaded_at, '%m/%d/%Y %I:%M %p'),
    make_timestamp(TRY_CAST(uploaded_at AS BIGINT) * 1000000))"""
PACKAGE = "lower(regexp_replace(package, '[-_.]+', '-', 'g'))"  # PEP 503
rules = {"as typed": "uploader_email", "capitals are the same": "lower(uploader_email)"}
rules["+tag is ignored"] = f"regexp_replace({rules['capitals are the same']}, '[+].*@', '@')"
rules["example.org was our domain"] = f"replace({rules['+tag is ignored']}, '@example.org', '@example.com')"
so_far = rules["example.org was our domain"]
rules["one provider ignores dots"] = MAILBOX = f"""CASE WHEN {so_far} LIKE '%@postbox%'
    THEN replace(split_part({so_far}, '@', 1), '.', '') || '@postbox.example' ELSE {so_far} END"""
counts = ", ".join(f"count(DISTINCT {sql})" for sql in rules.values())
people = con.execute(f"SELECT {counts} FROM uploads").fetchone()
made = f"{PACKAGE} AS project, {MAILBOX} AS mailbox, {MOMENT} AS moment"
con.execute(f"CREATE OR REPLACE TABLE clean AS SELECT *, {made} FROM uploads")
show(table(list(zip(rules, people, strict=True)), ["rule", "people"]))

# %% [markdown]
"""
499 people become 153, and each rule is a claim about the world: RFC 5321 lets a host tell `Anna@` from `anna@`, and
the last rule is true of one provider only. Which of these dependencies would you build a table on?
"""

# %%
from packaging.utils import canonicalize_version

typed = [row[0] for row in con.execute("SELECT DISTINCT version FROM clean ORDER BY version").fetchall()]
lists = [typed, [canonicalize_version(version) for version in typed]]  # PEP 440: v1.0 is 1; what is no version stays
con.execute("CREATE OR REPLACE TABLE versions AS SELECT unnest($1) AS version, unnest($2) AS release", lists)
con.execute("CREATE OR REPLACE TABLE clean AS FROM clean JOIN versions USING (version)")
asked = (
    "sha256 size_bytes", "sha256 version", "sha256 release", "package version sha256", "project release sha256",
    "mailbox team", "mailbox uploader_name", "uploader_name mailbox", "project team", "project license",
    "project yanked", "uploaded_at yanked",
)  # fmt: skip
held = [dependency(con, "clean", question.split()[:-1], question.split()[-1]) for question in asked]
show(table([(*d[:4], f"{d.share:.2%}", f"{d.blind:.2%}") for d in held], Dependency._fields))

# %% [markdown]
"""
Read *share* against *blind*. `project → yanked` is wrong as often as no knowledge at all; `uploaded_at → yanked`
holds, tested on three times that are all invented. `sha256 → release` holds once versions are normal. `project →
license` says nothing before somebody maps the 21 texts to licences. What the model must decide, and where it does:

| finding | decision | where |
|---|---|---|
| 499 addresses, 153 mailboxes, 32 of them with several names | a person is neither an address nor a name: a key of its own; which rules may merge | [identity](identity.ipynb) |
| two names belong to two people each | no rule merges by name; what remains is asked, not guessed | identity |
| six mailboxes in two teams, one after the other | membership is a row with a time, not a column of the person | identity |
| 1,141 spellings of 420 packages; 23 pairs of look-alikes | the PEP 503 form is unique; look-alikes are watched, not forbidden | [catalog](catalog.ipynb) |
| 75 releases with two digests, 15 of them hidden by spelling | versions compared as PEP 440; which digest wins; a released file never changes | catalog |
| 14 packages without a version; 90 uploads whose version is none | reject with a reason, or a package without a release | catalog |
| 36 uploads without a date, 21 with an absurd one | the time may be unknown: NULL, never 1970 | catalog |
| about one upload in twenty comes from another team than the package's | who may publish is a role, not the uploader's team | catalog |

## On PostgreSQL

There is no `read_csv`: `COPY` fills a staging table of text columns, and it is strict. The server refuses what is not
UTF-8, and a NUL even in valid UTF-8, and one bad line refuses the whole file.
"""


# %%
def stage(url: str) -> None:
    import psycopg

    head = data_path("legacy_uploads.csv").read_bytes().split(b"\n")[:1600]
    fields = head[0].decode().split(",")
    mended = repair(b"\n".join(head))[0].encode()
    attempts = {"as exported": b"\n".join(head), "with a NUL": mended.replace(b"A", b"\0", 1), "repaired": mended}
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as pg:
        pg.execute(f"CREATE TABLE staging ({', '.join(f'{quoted(field)} text' for field in fields)})")
        for what, content in attempts.items():
            try:
                with pg.cursor().copy("COPY staging FROM STDIN (FORMAT csv, HEADER, ENCODING 'UTF8')") as copy:
                    copy.write(content)
                said = "accepted"
            except psycopg.Error as error:
                said = error.diag.message_primary
            print(f"{what}: {said}; {pg.execute('SELECT count(*) FROM staging').fetchone()[0]:,} rows")
        tested, broken, *_ = pg.execute(dependency_sql("staging", ["sha256"], "size_bytes")).fetchone()
        print(f"sha256 → size_bytes: {tested} tested, {broken} broken")
        (german,) = pg.execute("SELECT '04.03.2021 06:06'::timestamp").fetchone()
        print(f"04.03.2021, 4 March in German, is read as {german:%Y-%m-%d}")
        try:
            pg.execute("SELECT '2021-02-31'::timestamp")
        except psycopg.Error as error:
            print(f"31 February: {error.diag.message_primary}")


on_postgres(stage)

# %% [markdown]
"""
The statement for dependencies runs unchanged. The cast does not: with the default `DateStyle`, PostgreSQL takes the
German 4 March for 3 April, where DuckDB declined. Give every form its own `to_timestamp` pattern, chosen by shape.

## Check it

The helpers against the definitions, computed the slow way on rows full of repeats and NULLs; then the findings.
"""

# %%
import random
import re
from itertools import chain

from packaging.version import VERSION_PATTERN

dice = random.Random(7)
for _ in range(40):
    rows = [tuple(dice.choice([None, "x", "y", "z", "w"]) for _ in "abc") for _ in range(dice.randrange(1, 9))]
    con.execute("CREATE OR REPLACE TABLE small (a VARCHAR, b VARCHAR, c VARCHAR)")
    con.executemany("INSERT INTO small VALUES (?, ?, ?)", rows)
    sets = list(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
    taken = {s: [tuple(row[i] for i in s) for row in rows] for s in sets}
    unique = [s for s in sets if None not in chain(*taken[s]) and len(set(taken[s])) == len(rows)]
    minimal = [tuple("abc"[i] for i in s) for s in unique if not any(set(u) < set(s) for u in unique)]
    assert candidate_keys(con, "small", 3) == minimal
    pairs = [(row[0], row[1]) for row in rows if None not in row[:2]]
    kept = sum(max(pairs.count((x, y)) for y in "wxyz") for x in {x for x, _ in pairs})
    assert dependency(con, "small", ["a"], "b").wrong == len(pairs) - kept

found = {d.rule: d for d in held}
assert [row[1] for row in profile(con, "packages")] == [0, 0, 14, 14]
assert len(spellings(con, "packages", "name", "replace(name, '-', '')")) == 23
assert len(spellings(con, "uploads", "package", PACKAGE)) == 150
assert (len(repaired), con.execute("SELECT count(*) FROM legacy").fetchone()) == (8, (20_000,))
counted = con.execute("SELECT count(*), count(DISTINCT mailbox), count(moment) FROM clean").fetchone()
assert counted == (19_960, 153, 19_924)
valid = [version for version in typed if re.fullmatch(VERSION_PATTERN, version, re.VERBOSE | re.IGNORECASE)]
assert con.execute("SELECT count(*) FROM clean WHERE NOT list_contains($1, version)", [valid]).fetchone() == (90,)
assert (found["project, release → sha256"].broken, found["package, version → sha256"].broken) == (75, 60)
assert (found["mailbox → team"].broken, found["uploader_name → mailbox"].broken) == (6, 2)
print("keys are minimal and unique, dependencies count what must change; 23 look-alikes, 153 mailboxes, 75 conflicts")

# %% [markdown]
"""
## Your turn

Which uploads went *backwards*: the version was lower than one its package already had? The catalogue must know
whether "latest" means newest or highest. Write `backwards(rows)`. A row is (upload id, package, version as typed,
moment or None); the answer is the set of upload ids. The rows come as a database gives them: in no order.
"""


# %% tags=["exercise"]
def backwards(rows):
    raise NotImplementedError


# %%
from datetime import datetime


@checker
def check_backwards(backwards) -> str:
    day = [datetime(2020, 1, n) for n in range(1, 9)]
    for rows, expected, why in (
        ([(1, "a", "1.9", day[0]), (2, "a", "1.10", day[1])], set(), "1.10 comes after 1.9"),
        ([(2, "a", "1.0", day[1]), (1, "a", "2.0", day[0]), (3, "b", "0.1", day[2])], {2}, "only package a went back"),
        ([(n, "a", v, day[n]) for n, v in enumerate(("1.0", "2.0", "1.1", "1.2"))], {2, 3}, "1.2 is below 2.0 too"),
        ([(1, "a", "v1.0", day[0]), (2, "a", "1", day[1])], set(), "v1.0 and 1 are one version"),
        ([(1, "a", "2-SNAPSHOT", day[0]), (2, "a", "1.0", day[1])], set(), "2-SNAPSHOT is no version"),
        ([(1, "a", "9.0", datetime(1970, 1, 1)), (2, "a", "1.0", day[1])], set(), "nobody uploaded in 1970"),
        ([(1, "a", "9.0", day[1]), (2, "a", "1.0", datetime(2099, 12, 31))], set(), "nobody has uploaded in 2099"),
        ([(1, "a", "9.0", day[1]), (2, "a", "1.0", None)], set(), "upload 2 has no time"),
    ):
        if backwards(rows) != expected:
            return f"not yet: {why}"
    number = len(backwards(con.execute("SELECT upload_id, project, version, moment FROM clean").fetchall()))
    return "right" if number == 200 else f"not yet: 200 of the real uploads went backwards, you found {number}"


check_backwards(backwards)

# %% tags=["solution"]
from packaging.version import InvalidVersion, Version


def backwards(rows):
    highest, found = {}, set()
    for upload, package, typed, moment in sorted((r for r in rows if r[3]), key=lambda r: r[3]):
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if 2016 <= moment.year <= 2026:
            if version < highest.setdefault(package, version):
                found.add(upload)
            highest[package] = max(version, highest[package])
    return found


assert check_backwards(backwards)

# %% [markdown]
"""
## Hand it over

- **Reviewer**: each unique, NOT NULL and CHECK of a new table was run against the real rows.
- **Migration owner**: rows in the file = rows loaded + rows refused by line number; no reader option drops rows.
- **Test engineer**: findings are asserts; run them on the next export before anybody calls it the same.
- **Security reviewer**: a rule that merges two people hands over an account; merge verified addresses only.
- **Operator**: the assumed zone and encoding are written beside the import; new look-alike names are reported.

## Sources

J. Kivinen, H. Mannila, *Approximate inference of functional dependencies from relations* (the measure g3). Z.
Abedjan, L. Golab, F. Naumann, *Profiling relational data: a survey*. PEP 503 (normalized names), PEP 440 (versions).
RFC 4180 2; RFC 5321 2.4. DuckDB: "CSV Import", "SUMMARIZE". PostgreSQL: "COPY", "Date/Time Input Interpretation".
`data/README.md`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Decisions](../foundations/decisions.ipynb) · [course map](../index.ipynb) · Next: [Identity](identity.ipynb)
"""
