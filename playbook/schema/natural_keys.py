# %% [markdown]
"""
# Natural keys

Tell when two names are one and which of two versions is newer, with texts that every
database can compare.

| | |
|---|---|
| **Use it when** | people type names or versions, and a table must compare them |
| **You need** | [start here](../foundations/start_here.ipynb) (*background*) |
| **Time** | read 27 min, exercise 15 min |
| **Topics** | natural key, normalized name, typosquatting, version sort order |
| **Standard** | PEP 440; PEP 503 |

```python
from playbook.schema.natural_keys import name_key, version_key

row = {"name_key": name_key(name), "version_key": version_key(version)}
newest = sa.select(releases).order_by(releases.c.version_key.desc()).limit(1)
```

*Lift: 47 lines in 1 file; needs packaging.*

## See it break

A **natural key** is a value from outside that identifies a row. A package index has
two: the name of a package, and the version of a release.

This is how Ada's index takes a release. `keys` are two functions: they make the keys of
what somebody typed. At first both are `str`, so a key is the text as it was typed.
"""

# %%
import sqlalchemy as sa

releases = sa.Table(
    "releases",
    sa.MetaData(),
    sa.Column("name_key", sa.String, primary_key=True),
    sa.Column("version_key", sa.String, primary_key=True),
    sa.Column("version", sa.String),
    sa.Column("author", sa.String),
)


def upload(db, keys, name, version, author):
    key = {"name_key": keys[0](name), "version_key": keys[1](version)}
    same_name = releases.c.name_key == key["name_key"]
    owner = db.scalar(sa.select(releases.c.author).where(same_name))
    if owner not in (None, author):
        return f"refused: the package is {owner}'s"
    if db.execute(sa.select(releases).filter_by(**key)).first():
        return "refused: the version exists"
    db.execute(releases.insert().values(**key, version=version, author=author))
    return "accepted"


# %% [markdown]
"""
Ada uploads 1.9, 1.10, 1.10.0 and 1.10rc1 of her package `foo-bar`, in this order. Then
Mallory uploads 1.11 of `Foo.Bar`. pip takes both names for one package: it does not
distinguish case, nor the signs `-`, `_` and `.`.

The folded cell defines `try_uploads(url, keys)`, which sends these uploads and shows
what was said to each. It returns that, and the version of `foo-bar` with the greatest
key. Its `typed(file, column)` is for later. The cell imports `show`, `table`,
`lesson_url` and `on_postgres`. Predict: which uploads are accepted, and which version
counts as the newest?
"""

# %% tags=["stage"]
import csv

from playbook.foundations.engines import make_engine
from playbook.kit.lesson import data_path, lesson_url, on_postgres, show, table
from playbook.kit.stage import rows_scanned

uploads = [
    ("foo-bar", "1.9", "Ada"),
    ("foo-bar", "1.10", "Ada"),
    ("foo-bar", "1.10.0", "Ada"),
    ("foo-bar", "1.10rc1", "Ada"),
    ("Foo.Bar", "1.11", "Mallory"),
]
newest_first = sa.select(releases.c.version).order_by(releases.c.version_key.desc())


def try_uploads(url, keys):
    engine = make_engine(url)
    releases.create(engine)
    with engine.begin() as db:
        said = [upload(db, keys, *one) for one in uploads]
        mine = releases.c.name_key == keys[0]("foo-bar")
        best = db.scalar(newest_first.where(mine))
    engine.dispose()
    rows = [(*one, words) for one, words in zip(uploads, said, strict=True)]
    show(table(rows, ["name", "version", "author", "said"]))
    return said, best


def typed(file, column):
    """The different values of a column of a file in `data/`, without the empty one."""
    with data_path(file).open(encoding="utf-8", errors="replace", newline="") as lines:
        values = {row[column] for row in csv.DictReader(lines)}
    return sorted(values - {""})


# %% tags=["predict"]
said, best = try_uploads(lesson_url(), keys=(str, str))
print("newest:", best)

# %% [markdown]
"""
As texts, 1.9 is greater than 1.10, because `9` is greater than `1`. 1.10 and 1.10.0 are
one version, and stand there twice. A client that installs `foo-bar` may now get
Mallory's code: it is a higher version of what pip takes for the same package.

Real data is worse. `typed(file, column)` returns the different values in a file.
`data/legacy_uploads.csv` is the export of an old system with 420 packages. How many
names do people type for them? And how many of the 3,518 versions of real packages are
more than numbers and dots?
"""

# %% tags=["predict"]
names = typed("legacy_uploads.csv", "package")
versions = typed("packages.csv", "version")
odd = [one for one in versions if not one.replace(".", "").isdigit()]
print(len(names), "names,", len(odd), "odd versions, such as", min(odd), max(odd))

# %% [markdown]
"""
So lower case for names is not enough, and neither is a comparison of numbers for
versions.

## The decision

How does a database find the newest version?

| option | good | costs |
|---|---|---|
| read all, sort in Python | no column | each list reads every row |
| a column of type array | numbers compare | no letters; one engine |
| a number per release (PyPI) | any order | an upload changes other rows |
| **a text key** | one index, every engine | new rules: compute all again |
| Django, DRF, Flask, Starlette | | have nothing for this |

We choose the **text key**, for names too. The key is written with the row, beside the
text as it was typed. Choose to sort in Python if a package has few releases and no
query asks for the newest.

## Build it

### The name

PEP 503 has the rule: runs of `-`, `_` and `.` are one hyphen, and case does not count.
"""

# %% tags=["export"]
import re

NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
SIGNS = re.compile("[-_.]+")


def name_key(text: str) -> str:
    """Equal for equal names (PEP 503). Raises ValueError for what is no name."""
    if not NAME.fullmatch(text):
        raise ValueError(f"not a package name (PEP 508): {text[:40]!a}")
    return SIGNS.sub("-", text).lower()


# %% [markdown]
"""
The Kelvin sign, U+212A, looks like the letter K, and `.lower()` makes a plain `k` of
it. Predict: which of these names have the same key?
"""

# %% tags=["predict"]
pairs = [("Foo__Bar", "foo.bar"), ("uri-template", "uritemplate"), ("\u212aafka", "x")]
for pair in pairs:
    try:
        print(*map(name_key, pair))
    except ValueError as error:
        print(error)

# %% [markdown]
"""
Both `uri-template` and `uritemplate` exist, by different authors. A rule that joins
look-alikes would refuse real packages, so it is a warning for people and no key. The
check comes before `.lower()`, or the Kelvin sign would become a letter.

### The version

PEP 440 compares the parts of a version one after the other. A part that is missing has
a place in the order, too. The idea is to write each part so that a comparison of texts
gives the same result:

- A **number** gets a letter before it that counts its digits: `a9`, `b10`.
- A **missing** part is the digit `0` or `9`: before or after what could stand there.

These versions stand in ascending order. Blanks separate the parts of the key: epoch,
release, pre-release, post-release, development release, local part.

| version | key | |
|---|---|---|
| `1.9` | `a0 a1a90 9 0 9 0` | two numbers, then `0` ends the release |
| `1.10.dev3` | `a0 a1b100 0 0 0a3 0` | a development release is before all others |
| `1.10rc1` | `a0 a1b100 3a1 0 9 0` | `a`, `b`, `rc` are `1`, `2`, `3` |
| `1.10` | `a0 a1b100 9 0 9 0` | no pre-release: after all of them |
| `1.10.0` | `a0 a1b100 9 0 9 0` | zeros at the end do not count |
| `1.10+abc` | `a0 a1b100 9 0 9 11a1b1c00` | a build of somebody else |
| `1.10.post2` | `a0 a1b100 9 1a2 9 0` | a correction after the release |
| `1!0.1` | `a1 a0a10 9 0 9 0` | the epoch: all numbers begin anew |
"""

# %% tags=["export"]
from packaging.version import Version

LETTERS = "abcdefghijklmnopqrstuvwxy"
PRE = {"a": "1", "b": "2", "rc": "3"}


def number_key(number: int) -> str:
    """Sorts as numbers do. Raises ValueError above 999 digits."""
    digits = str(number)
    if len(digits) > 999:
        raise ValueError(f"a number of {len(digits)} digits")
    if len(digits) > len(LETTERS):
        return f"z{len(digits):03}{digits}"
    return LETTERS[len(digits) - 1] + digits


# %%
numbers = [9, 10, 123456, 10**30]
print(*map(number_key, numbers))

# %% [markdown]
"""
Above 25 digits, `z` and the number of digits come first. (Such versions exist: line
8,747 of `packages.csv` has π to 38 places.) A key consists of digits and small letters
only: databases sort other signs differently, by the language of the server.

The local part can mix words and numbers. Words come first, letter by letter.
"""


# %% tags=["export"]
def local_key(local: str) -> str:
    """The key of what stands behind `+`: words before numbers, short before long."""
    key = ""
    for part in local.split("."):
        if part.isdigit():
            key += "2" + number_key(int(part))
        else:
            key += "1" + "".join(f"1{letter}" for letter in part) + "0"
    return key


# %%
local_parts = ["ab", "abc", "9", "10"]
print(*map(local_key, local_parts))

# %% [markdown]
"""
`packaging`, the library that pip uses, reads the version. What is left is to put its
parts together:
"""


# %% tags=["export"]
def key_parts(version: Version) -> list[str]:
    """Epoch, release, pre-release, post-release, development release, local part."""
    release = list(version.release)
    while release and release[-1] == 0:
        release.pop()
    pre = "9"
    if version.pre:
        pre = PRE[version.pre[0]] + number_key(version.pre[1])
    elif version.dev is not None and version.post is None:
        pre = "0"
    post = "0" if version.post is None else "1" + number_key(version.post)
    dev = "9" if version.dev is None else "0" + number_key(version.dev)
    local = local_key(version.local) if version.local else ""
    numbers = "".join(map(number_key, release))
    return [number_key(version.epoch), numbers + "0", pre, post, dev, local + "0"]


def version_key(text: str) -> str:
    """Sorts as PEP 440 does, equal for equal versions. Raises ValueError for others."""
    try:
        return "".join(key_parts(Version(text)))
    except ValueError:  # `packaging` raises a subclass of it
        raise ValueError(f"not a version (PEP 440): {text[:40]!a}") from None


# %% [markdown]
"""
Predict: in which order does the key put these? One of them is no version.
"""

# %% tags=["predict"]
some = ["1.0", "1.0-1", "v1.0rc1", "1.0.dev1", "1.0.0+cpu", "1.0.post1", "1.0.x"]
keys = {}
for text in some:
    try:
        keys.setdefault(version_key(text), []).append(text)
    except ValueError as error:
        print(error)
for key in sorted(keys):
    print(key.ljust(20), *keys[key])

# %% [markdown]
"""
`1.0-1` is an old spelling of `1.0.post1`, and a `v` before the number means nothing.

## See it work

The same uploads, with the keys of the recipe:
"""

# %%
said, best = try_uploads(lesson_url(), keys=(name_key, version_key))
print("newest:", best)

# %% [markdown]
"""
The primary key of `releases` would refuse the third upload even if two requests come at
once. For Mallory's upload the owner was found by the key. But if Ada and Mallory are
the first to upload, at once, both find no owner. A table of packages, with the primary
key `name_key`, would refuse one.

## On PostgreSQL

The primary key is an index on `name_key, version_key`. The folded cell defines
`rows_read(url)`: it stores all 3,518 real versions as releases of one package. Then it
asks EXPLAIN how many rows PostgreSQL reads to find the newest by the key, and to find
the greatest text in `version`. It returns both numbers, and all versions, newest first.
What are the two numbers?
"""


# %% tags=["stage"]
def rows_read(url):
    engine = make_engine(url)
    releases.create(engine)
    rows = {version_key(one): one for one in versions}
    with engine.begin() as db:
        values = [
            {"name_key": "one", "version_key": key, "version": text, "author": "Ada"}
            for key, text in rows.items()
        ]
        db.execute(releases.insert(), values)
        mine = releases.c.name_key == "one"
        by_text = sa.select(releases.c.version).order_by(releases.c.version.desc())
        read = [
            rows_scanned(db, select.where(mine).limit(1))
            for select in (newest_first, by_text)
        ]
        in_order = db.scalars(newest_first.where(mine)).all()
    engine.dispose()
    return read, list(in_order)


# %% tags=["predict"]
there = on_postgres(rows_read)
if there:
    print(there[0])

# %% [markdown]
"""
By the key one row is read, from the end of the index. 200 of the 3,518 versions are
equal to another one, as `1.0` and `1.0.0` are.

## Check it
"""

# %%
by_key = sorted(versions, key=version_key)
in_order = [Version(one) for one in by_key]
equal = {version_key(one): Version(one) for one in versions}
assert len(equal) <= len(set(in_order)) == 3318, "equal versions have two keys"
assert in_order == sorted(in_order), "the keys sort differently from packaging"
assert len({name_key(one) for one in names}) == 420, "one package has two names"
assert said[-1] == "refused: the package is Ada's", "Mallory published foo-bar"
assert best == "1.10", "another version counts as the newest"
if there:
    there_in_order = sorted(there[1], key=Version, reverse=True)
    assert there == ([1, 3318], there_in_order), "PostgreSQL sorts differently"
print(len(versions), "versions sort as packaging sorts them")

# %% [markdown]
"""
**Break it.** Make a change in *Build it*, and see the assertion fail:

| change | to | the assertion says |
|---|---|---|
| `LETTERS[len(digits) - 1]` | `""` | the keys sort differently from packaging |
| `release[-1] == 0` | `release[-1] < 0` | equal versions have two keys |
| `"[-_.]+"` | `"[-_]+"` | one package has two names |

## Your turn

Which version does an installer take if nobody asks for one? The highest that is not
*yanked*, which is to say withdrawn by its author. A pre-release counts only if there is
nothing else. Write `installed(db, table, name)`: it returns the version as it was
typed, or None. `name` comes as somebody typed it. `table` has the columns `name_key`,
`version_key`, `version`, `is_prerelease` and `yanked` (two booleans).
"""


# %% tags=["exercise"]
def installed(db, table, name):
    """The version that an installer takes, or None."""
    raise NotImplementedError


# %%
from playbook.exercises.schema.natural_keys import HINTS, check

check(installed)

# %% tags=["hint"]
print(HINTS[0])  # where to look

# %% tags=["hint"]
print(HINTS[1])  # the idea


# %% tags=["solution"]
def installed(db, table, name):
    mine = table.c.name_key == name_key(name)
    # False sorts before True
    order = [table.c.is_prerelease, table.c.version_key.desc()]
    found = sa.select(table.c.version).where(mine, ~table.c.yanked).order_by(*order)
    return db.scalar(found.limit(1))


assert check(installed)

# %% [markdown]
"""
## Take it with you

`playbook lift natural_keys INTO` copies recipe and tests. Its seams:

| seam | what your project does |
|---|---|
| columns | keeps the text as it was typed, and its key; both are `NOT NULL` |
| index | a [unique index](../glossary.md#unique-index) on the keys |
| write | computes the keys in the one place that writes the row |
| look-up | compares keys: `name_key(typed)` |
| errors | answers a ValueError with 422 |

A model of a registry of plug-ins, with the keys made by the model itself:

```python
class Plugin(Base):
    __tablename__ = "plugins"
    __table_args__ = (sa.UniqueConstraint("name_key", "version_key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    name_key: Mapped[str]
    version: Mapped[str]
    version_key: Mapped[str]

    @validates("name", "version")
    def add_key(self, field, text):
        make_key = {"name": name_key, "version": version_key}[field]
        setattr(self, f"{field}_key", make_key(text))
        return text
```

Traps:

- **`UPDATE` and bulk inserts** go around `validates`. Compute the keys there, too.
- **Other rules.** npm and Cargo have their own order of versions (SemVer): the idea
  serves, `key_parts` does not.
- **Length.** A key is longer than its version: refuse long versions first.

Hand it over:

- **Front end**: show the text, link by the key.
- **Security**: two names with one key are one package. Report look-alikes to a person.
- **Migrations**: a new rule means that all keys are computed again, in one migration.
- **Tests**: keep "sorted by key is sorted by `packaging`", over real versions.

## In short

A natural key needs a rule that says when two texts are one. Store the text, and beside
it a key that has the rule inside. Then equality, uniqueness and order are those of
texts, and an index can help.

## Sources

PEP 440, "Summary of permitted suffixes and relative ordering" and "Handling of
pre-releases". PEP 503, "Normalized names". PEP 508, "Names". PEP 592 (yanked releases).
A. Birsan, "Dependency Confusion" (2021). Unicode, "Unicode Collation Algorithm".
"""

# %% [markdown] tags=["nav"]
"""
Previous: [Identity](identity.ipynb) · [course map](../index.ipynb) · Next: [Bulk load](bulk_load.ipynb)
"""
