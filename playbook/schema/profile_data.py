# %% [markdown]
"""
# Profile the data

Find out what a file really holds, its keys, dependencies and spellings, before you
design a table.

| | |
|---|---|
| **Use it when** | somebody gives you a file or an old table, and says what is in it |
| **You need** | [start here](../foundations/start_here.ipynb) (*background*) |
| **Time** | read 34 min, exercise 15 min |
| **Topics** | data profiling, candidate key, functional dependency, CSV, encoding |
| **Standard** | RFC 4180; PEP 440; PEP 503 |

```python
from playbook.schema.profile_data import candidate_keys, dependency, profile, repair

text, repaired = repair(path.read_bytes())  # lines that were not UTF-8
columns = profile(con, "uploads")  # con: a DuckDB connection
keys = candidate_keys(con, "uploads", size=2)
found = dependency(con, "uploads", ["sha256"], "size_bytes")
```

*Lift: 97 lines in 1 file; needs duckdb.*

## See it break

`packages.csv` has the 14,985 most downloaded packages of the public Python index, as
they are. Five constraints look obvious: names and ranks are unique; no two names differ
by hyphens only; each package has a version; and a list of October 2026 has no younger
release.

The folded cell makes `con`, a DuckDB connection, and loads the file. `try_rules` copies
a column into a table with the constraint. For later it imports `count`, `load_text`,
`count_and_load`, `normalize`, `QUESTIONS`, `picture`, `staged`, `data_path`,
`on_postgres`, `show` and `table`. Predict: which constraints do the rows accept?
"""

# %% tags=["stage"]
from playbook.exercises.schema.profile_data import (
    QUESTIONS,
    connect,
    count,
    count_and_load,
    load,
    load_text,
    normalize,
    picture,
    staged,
    try_rules,
)
from playbook.kit.lesson import data_path, on_postgres, show, table

con = connect()
load(con, "packages", data_path("packages.csv"))

# %% tags=["predict"]
rules = [
    ("name", "UNIQUE"),
    ("rank", "UNIQUE"),
    ("replace(name, '-', '')", "UNIQUE"),
    ("version", "NOT NULL"),
    ("last_release", "CHECK (value <= '2026-10')"),
]
refused = try_rules(con, "packages", rules)
show(table(refused, ["value", "constraint", "the database says"]))

# %% [markdown]
"""
Real rows refuse three constraints that any meeting would accept. Each may be right for
*new* rows: now that is a decision.

`legacy_uploads.csv` has 20,000 uploads of the system that Pantry replaces. DuckDB does
not load it: a line is not valid UTF-8. Its message recommends `ignore_errors`. Predict:
how many rows does DuckDB count in the file then, and how many does it load?
"""

# %% tags=["predict"]
legacy = data_path("legacy_uploads.csv")
counted, loaded = count_and_load(con, legacy, "ignore_errors = true")
print("counted", counted, "loaded", loaded)

# %% [markdown]
"""
Counting does not decode the names, and loading does. So eight rows are lost without a
message.

## The decision

| option | good | costs |
|---|---|---|
| read a sample | minutes | 8 rows of 20,000 are not in it |
| DuckDB's `SUMMARIZE` | one word, every column | estimates; one column at a time |
| a library (ydata-profiling) | histograms, a report | no keys, no dependencies |
| Django's `inspectdb` | models at once | reads the old schema, not the rows |
| **queries as functions** | exact, and each is a test | you must know what to ask |

We choose **queries as functions**: what decides on a constraint must be exact, and is
asked again when the file comes again. Choose `SUMMARIZE` when you have one minute, and
a library for statistics.

## Build it

### The idea

Do not ask which constraint is right. Count the rows that are against it, for every
constraint that could be. Load everything first, and as text: a type is a conclusion.

### Every line

A line that is not UTF-8 is mostly Latin-1 in Western Europe. That is a guess, so
`repair` also returns the numbers of these lines.
"""


# %% tags=["export"]
def repair(content: bytes) -> tuple[str, list[int]]:
    """`content` as text, and the numbers (from 1) of lines that were read as Latin-1.

    LF, CRLF and CR end a line, as in an editor; a byte order mark is left out.
    """
    lines, repaired = [], []
    content = content.removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("latin-1"))
            repaired.append(number)
    return "".join(lines), repaired


# %%
text, repaired = repair(legacy.read_bytes())
whole = load_text(con, "legacy", text)
print(count(con, "SELECT count(*) FROM legacy"), "rows; repaired lines:", repaired)

# %% [markdown]
"""
### One column

`profile` shows what a column holds. `shapes` shows its patterns: each digit becomes a
9, each letter an A or a. The columns of a table come from the file, so `quoted` makes
them safe in SQL. Look for values that nobody typed.
"""

# %% tags=["export"]
from typing import Any

from duckdb import DuckDBPyConnection


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def profile(con: DuckDBPyConnection, table: str) -> list[tuple[Any, ...]]:
    """For each column: name, NULLs, distinct values, longest, most frequent value."""
    source = con.table(quoted(table))
    rows = []
    for name in source.columns:
        c = quoted(name)
        asked = f"count(*) - count({c}), count(DISTINCT {c}), max(length({c}::VARCHAR))"
        row = source.aggregate(f"{asked}, mode({c} ORDER BY {c})").fetchall()[0]
        rows.append((name, *row))
    return rows


def shapes(con: DuckDBPyConnection, table: str, column: str) -> list[tuple[Any, ...]]:
    """The patterns of a column and their rows, most frequent first."""
    shape = f"{quoted(column)}::VARCHAR"
    for pattern, sign in (("[0-9]", "9"), ("\\p{Lu}", "A"), ("\\p{Ll}", "a")):
        shape = f"regexp_replace({shape}, '{pattern}', '{sign}', 'g')"
    grouped = f"SELECT {shape}, count(*) FROM {quoted(table)} GROUP BY 1"
    return con.execute(f"{grouped} ORDER BY 2 DESC, 1").fetchall()


# %%
columns = [(*row[:-1], str(row[-1])[:28]) for row in profile(con, "legacy")]
show(table(columns, ["column", "NULL", "distinct", "longest", "most frequent"]))
show(table(shapes(con, "legacy", "uploaded_at"), ["shape of uploaded_at", "rows"]))

# %% [markdown]
"""
The most frequent time is the first second of 1970: somebody formatted a zero. A licence
of 392 characters is a whole text, and a name of 159 is ten people. Three forms of a
time have no time zone. Write down which zone you assume for each.

### Keys

A **candidate key** is a set of columns in which no two rows agree, without a smaller
such set inside. A column with a NULL is out, because SQL holds no two NULLs equal.
Predict: which keys of one or two columns has the export? Its first column is
`upload_id`.
"""

# %% tags=["export"]
from itertools import combinations


def candidate_keys(
    con: DuckDBPyConnection, table: str, size: int = 2
) -> list[tuple[str, ...]]:
    """The minimal sets of at most `size` columns with values, all different."""
    source = con.table(quoted(table))
    found: list[tuple[str, ...]] = []
    for number in range(1, size + 1):
        for names in combinations(source.columns, number):
            if any(set(key) <= set(names) for key in found):
                continue
            there = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
            values = f"({', '.join(map(quoted, names))})"
            asked = f"count(DISTINCT {values}) FILTER (WHERE {there}) = count(*)"
            if source.aggregate(asked).fetchone() == (True,):
                found.append(names)
    return found


# %% tags=["predict"]
con.execute("CREATE OR REPLACE TABLE uploads AS SELECT DISTINCT * FROM legacy")
keys = {name: candidate_keys(con, name) for name in ("packages", "legacy", "uploads")}
print(*keys.items(), count(con, "SELECT count(*) FROM uploads"), sep="\n")

# %% [markdown]
"""
40 rows of the export are in it twice, so no columns tell all rows apart. Without these
(`uploads`), one key is left.

### Dependencies

A **functional dependency** `A → B` means: the value of A determines the value of B.
Then B belongs into a table whose key is A. Old data always has exceptions, so the next
function counts the rows that must change. `tested` counts the values of A in several
rows, since the others can contradict nothing. `blind` is the share that is wrong if you
ignore A and always guess the most frequent B.
"""

# %% tags=["export"]
from collections.abc import Sequence
from typing import NamedTuple


class Dependency(NamedTuple):
    """How well columns determine a column. Rows with a NULL do not count."""

    rule: str
    tested: int  # values of the determinant in at least two rows
    broken: int  # those of them with more than one dependent value
    share: float  # rows to change (g3), of those with a tested value
    blind: float  # rows to change if one value is guessed for all


# %% tags=["export"]
def dependency(
    con: DuckDBPyConnection, table: str, determinant: Sequence[str], dependent: str
) -> Dependency:
    """Test determinant → dependent on all rows. Shares are between 0 and 1."""
    *names, last = [quoted(name) for name in (*determinant, dependent)]
    there = " IS NOT NULL AND ".join([*names, last])
    sql = f"""
        WITH pairs AS (SELECT ({", ".join(names)}) AS a, {last} AS b, count(*) AS n
                       FROM {quoted(table)} WHERE {there} IS NOT NULL GROUP BY ALL),
             known AS (SELECT sum(n) AS n, max(n) AS kept, count(*) AS different
                       FROM pairs GROUP BY a),
             guess AS (SELECT sum(n) AS m FROM pairs GROUP BY b)
        SELECT count(*) FILTER (n > 1), count(*) FILTER (different > 1), sum(n - kept),
               sum(n) FILTER (n > 1), sum(n), (SELECT max(m) FROM guess) FROM known"""
    row = con.execute(sql).fetchone() or ()
    tested, broken, wrong, among, rows, most = (int(value or 0) for value in row)
    rule = f"{', '.join(determinant)} → {dependent}"
    shares = (wrong / max(among, 1), 1 - most / max(rows, 1))
    return Dependency(rule, tested, broken, *shares)


# %%
print(dependency(con, "uploads", ["sha256"], "size_bytes"))
print(dependency(con, "uploads", ["package"], "yanked"))

# %% [markdown]
"""
The digest determines the size. But the package does not determine whether an upload
was withdrawn (`yanked`): its `share` of wrong rows is that of a guess.

### The line of a row

Later somebody must repair rows and looks for them by line. The number of a row is not
its line: a quoted value may hold line breaks. So Python's `csv` reads here. A fault of
*form*, such as a field too many or another header, ends the reading.
"""

# %% tags=["export"]
import csv
from collections.abc import Iterator
from pathlib import Path


# %% tags=["export"]
def numbered_rows(path: Path, header: Sequence[str]) -> Iterator[list[str | int]]:
    """The rows, each after its line. ValueError for a fault of form (RFC 4180)."""
    line = 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for row in rows:
                if line == 1 and [name.strip() for name in row] != list(header):
                    raise ValueError(f"line 1 is {','.join(row)[:60]!r}")
                if line > 1 and len(row) == len(header):
                    yield [line, *row]
                elif line > 1 and (len(row) > 1 or "".join(row).strip()):
                    fields = f"{len(row)} fields instead of {len(header)}"
                    raise ValueError(f"line {line} has {fields}")
                line = rows.line_num + 1
        except UnicodeDecodeError:
            bad = repair(path.read_bytes())[1][0]
            raise ValueError(f"line {bad} is not UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
    if line == 1:
        raise ValueError("it is empty")


# %%
*_, last = numbered_rows(whole, con.table("legacy").columns)
print("row", count(con, "SELECT count(*) FROM legacy"), "begins on line", last[0])

# %% [markdown]
"""
## See it work

How many people are behind the addresses? Each rule below is a claim about the world,
and contains the rules above it. Predict the last number.
"""

# %% tags=["predict"]
lower = "lower(uploader_email)"
no_tag = f"regexp_replace({lower}, '[+].*@', '@')"
one_domain = f"replace({no_tag}, '@example.org', '@example.com')"
no_dots = f"replace(split_part({one_domain}, '@', 1), '.', '') || '@postbox.example'"
mailbox = f"CASE WHEN {no_tag} LIKE '%@postbox%' THEN {no_dots} ELSE {one_domain} END"
claims = {"as typed": "uploader_email", "capitals do not count": lower}
claims |= {"what follows a + does not": no_tag, "our old domain is ours": one_domain}
claims["one provider ignores dots"] = mailbox
distinct = "SELECT count(DISTINCT {}) FROM uploads"
people = [count(con, distinct.format(claim)) for claim in claims.values()]
show(table(zip(claims, people, strict=True), ["claim", "people"]))

# %% [markdown]
"""
`normalize` makes the table `clean`: `uploads` with one spelling for each `mailbox`,
`project` (PEP 503), `release` (PEP 440) and `moment`. Each of the `QUESTIONS` names the
columns of a dependency. `picture` draws an arrow for each
dependency, with the share of rows against it. A dotted arrow tells little more than a
guess.
"""

# %%
normalize(con, mailbox)
found = {}
for question in QUESTIONS:
    *determinant, dependent = question.split()
    found[question] = dependency(con, "clean", determinant, dependent)
rows = [(*d[:3], f"{d.share:.1%}", f"{d.blind:.1%}") for d in found.values()]
show(table(rows, Dependency._fields), picture(found.values()))

# %% [markdown]
"""
`uploaded_at → yanked` holds, but only three times were tested, and all three are made
up. What the model must decide, and where it does:

| finding | decision |
|---|---|
| 499 addresses are 153 mailboxes | a person is no address: [identity](identity.ipynb) |
| two names belong to two people each | no rule merges by name |
| six mailboxes are in two teams | a membership is a row |
| 23 pairs of look-alike packages | PEP 503 compares; look-alikes are allowed |
| 75 releases with two digests | PEP 440 compares; a file never changes |
| 14 packages without a version | refuse with a reason, or allow NULL |
| 36 uploads without a time | the time may be NULL, and is never 1970 |

## On PostgreSQL

`COPY` loads text, and one bad line refuses the whole file. `staged` sends the first
lines of the export, as they are and repaired. Then it casts two dates to a type, 4
March and 31 February in the German form. What does PostgreSQL say?
"""

# %% tags=["predict"]
there = on_postgres(staged)
show(table(there or [], ["sent", "PostgreSQL says"]))

# %% [markdown]
"""
`04.03` has two readings, and PostgreSQL takes the American one without a warning. Give
each form a `to_timestamp` pattern of its own, chosen by shape.

## Check it
"""

# %%
accepted = [said == "accepted" for _, _, said in refused]
assert accepted == [True, True, False, False, False], "the rows changed"
assert count(con, "SELECT count(*) FROM legacy") == counted, "rows were lost"
assert keys["uploads"] == [("upload_id",)], "a key is not minimal"
assert keys["legacy"] == [], "rows that are there twice have a key"
assert found["project release sha256"].broken == 75, "a conflict was missed"
assert (people[0], people[-1], last[0]) == (499, 153, 20_037), "miscounted"
print("every row, its line, its keys; 75 conflicts; 153 mailboxes")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `line.decode("latin-1")` | `""` | rows were lost |
| `any(set(key) <= set(names) for key in found)` | `False` | a key is not minimal |
| `(different > 1)` | `(different > 2)` | a conflict was missed |

## Your turn

Does "latest" mean newest or highest? Find the uploads that went *backwards*: their
version was lower than one that the package already had. Write `backwards(rows)`. A row
is (upload id, package, version as typed, moment or None). The answer is the set of
upload ids.
"""


# %% tags=["exercise"]
def backwards(rows):
    """The ids of uploads below the highest version that their package had so far."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.profile_data import HINTS, check

check(backwards)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea

# %% tags=["solution"]
from packaging.version import InvalidVersion, Version


def backwards(rows):
    # A zero or a "for ever" is no time; nor has an upload without one an order.
    dated = [row for row in rows if row[3] and 2000 < row[3].year < 2099]
    highest = {}
    found = set()
    for upload, package, typed, _ in sorted(dated, key=lambda row: row[3]):
        try:
            version = Version(typed)
        except InvalidVersion:
            continue
        if version < highest.get(package, version):
            found.add(upload)
        highest[package] = max(version, highest.get(package, version))
    return found


assert check(backwards)

# %% [markdown]
"""
## Take it with you

`playbook lift profile_data INTO` copies the recipe and its tests into your project.

| seam | what your project does |
|---|---|
| connection | passes one of DuckDB's: `duckdb.connect()`, in memory |
| table | loads CSV with `read_csv`, another database with `ATTACH` |
| types | loads a CSV as text: `all_varchar = true` |

A finding is a test of the next file. For the orders of a shop:

```python
def check_orders(con: DuckDBPyConnection) -> None:
    assert candidate_keys(con, "orders", size=1) == [("number",)]
    country = dependency(con, "orders", ["customer"], "country")
    assert country.share < 0.01, country
```

Traps:

- A dependency that held so far is no rule: ask its owner.
- `candidate_keys` tries every pair: with `size=3` and 40 columns these are 9,880 sets.
- Windows-1252 is not Latin-1: its `€` becomes invisible. Then decode `cp1252`.
- `'2021-03-04T06:06:07+01:00'::TIMESTAMP` drops the offset. Use `TIMESTAMPTZ`.

Hand it over:

- **Reviewer**: each constraint of a new table was tried on real rows.
- **Migrations**: rows of the file = rows loaded + rows refused by line.
- **Security**: a rule that merges two people gives an account away.

## In short

You can explain why a sample and a count both miss eight bad rows. You can tell a
dependency from a guess by two numbers. You know which constraints are decisions.

## Sources

J. Kivinen, H. Mannila, *Approximate inference of functional dependencies from
relations* (the measure g3). Z. Abedjan, L. Golab, F. Naumann, *Profiling relational
data: a survey*. RFC 4180, 2. DuckDB documentation, "CSV Import" and "SUMMARIZE".
PostgreSQL documentation, "COPY" and "Date/Time Input Interpretation". `data/README.md`.
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Decisions](../foundations/decisions.ipynb) · [course map](../index.ipynb) · Next: [Identity](identity.ipynb)
"""
