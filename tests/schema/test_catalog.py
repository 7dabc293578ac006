"""The catalogue file in Pantry: a load is all or nothing, and doing it again changes nothing."""

import csv
import itertools
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from packaging.version import Version
from tables import make_tables

from playbook.foundations.clock_and_identifiers import Clock, FixedClock, Identifiers, uuid7_time
from playbook.foundations.engines import Base, make_engine
from playbook.foundations.transactions import transaction
from playbook.kit.data import data_path
from playbook.pantry.catalog import Package, Release
from playbook.pantry.catalog_file import CatalogFileError, LoadReport, load_catalog
from playbook.schema.identity import Organization
from playbook.schema.natural_keys import version_key

HEADER = ["rank", "name", "version", "last_release"]


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    make_tables(engine)
    yield engine
    assert engine.pool.checkedout() == 0
    engine.dispose()


@pytest.fixture
def organization(engine: sa.Engine, clock: Clock, ids: Identifiers) -> uuid.UUID:
    return new_organization(engine, clock, ids, "mirror")


def new_organization(engine: sa.Engine, clock: Clock, ids: Identifiers, slug: str) -> uuid.UUID:
    now = clock.now()
    organization = Organization(id=ids.new(), slug=slug, name=slug, created_at=now, updated_at=now)
    key = organization.id
    transaction(engine, lambda session: session.add(organization))
    return key


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def stored(engine: sa.Engine) -> list[tuple[object, ...]]:
    everything = sa.select(Package.normalized_name, Package.popularity_rank, Package.version, Release.version_key)
    with engine.connect() as connection:
        return [
            tuple(row) for row in connection.execute(everything.join(Release).order_by(*everything.selected_columns))
        ]


def test_the_real_file_twice(engine: sa.Engine, organization: uuid.UUID, clock: Clock) -> None:
    path = data_path("packages.csv")
    first = load_catalog(engine, path, organization, clock.now())
    before = stored(engine)
    again = load_catalog(engine, path, organization, clock.now())
    assert (first.read, first.packages_added, first.releases_added, len(first.rejected)) == (14985, 14971, 14971, 14)
    assert again == LoadReport(14985, 0, 0, 0, first.rejected)
    assert stored(engine) == before
    assert len(before) == 14971
    for row in first.rejected:
        line = path.read_text(encoding="utf-8").splitlines()[row.line - 1]
        assert line.split(",")[1:] == [row.name, "", ""]


def test_ids_are_of_the_time_of_the_load_and_rise_with_the_lines(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock
) -> None:
    """By the database's own function they had the server's time, and no server before PostgreSQL 18 has one."""
    load_catalog(engine, data_path("packages.csv"), organization, clock.now())
    of_package = sa.select(Package.id, Release.id).join(Release, Release.package_id == Package.id)
    with engine.connect() as connection:
        rows = connection.execute(of_package.order_by(Package.popularity_rank, Package.id)).all()
    for made in zip(*rows, strict=True):
        assert len(made) == 14_971
        assert list(made) == sorted(set(made))
        assert {uuid7_time(id) for id in made} == {clock.now()}


def test_the_database_sorts_versions_as_pep_440_does(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    texts = "1.0 1.10 1.9 1.0a1 1.0.dev1 1.0rc1 1.0.post1 1!0.1 1.0+local 1.0+local.10 1.0+local.9 0".split()  # noqa: SIM905
    rows = [(rank, f"p{rank}", text, "2026-01") for rank, text in enumerate(texts, 1)]
    load_catalog(engine, write(tmp_path / "v.csv", *rows), organization, clock.now())
    with engine.connect() as connection:
        in_order = connection.scalars(sa.select(Release.version).order_by(Release.version_key)).all()
    assert in_order == sorted(texts, key=Version)


WRONG = [
    (("1", "", "1.0", "2026-01"), "no name"),
    (("1", "bad name", "1.0", "2026-01"), "PEP 508"),
    (("1", "-bad", "1.0", "2026-01"), "PEP 508"),
    (("1", "bäd", "1.0", "2026-01"), "PEP 508"),
    (("1", "x", "", "2026-01"), "no version"),
    (("1", "x", "latest", "2026-01"), "PEP 440"),
    (("1", "x", "1.0", ""), "not a month"),
    (("1", "x", "1.0", "2026-13"), "not a month"),
    (("0", "x", "1.0", "2026-01"), "rank"),
    (("many", "x", "1.0", "2026-01"), "rank"),
    (("99999999999", "x", "1.0", "2026-01"), "rank"),
    (("3", "G_o.od", "2.0", "2026-01"), "earlier line"),
]


def test_every_bad_row_is_named_by_line_and_the_others_are_loaded(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    path = write(tmp_path / "mixed.csv", ("1", "G.o-od", "1.0", "2026-01"), *(row for row, _ in WRONG))
    report = load_catalog(engine, path, organization, clock.now())
    assert [row.line for row in report.rejected] == list(range(3, 3 + len(WRONG)))
    for found, (_, reason) in zip(report.rejected, WRONG, strict=True):
        assert reason in found.reason
    assert (report.read, report.packages_added) == (len(WRONG) + 1, 1)


FORM = {
    "empty": (b"", "it is empty"),
    "only a mark": (b"\xef\xbb\xbf", "it is empty"),
    "columns missing": (b"rank,name\n1,a\n", "line 1 is 'rank,name'"),
    "columns swapped": (b"name,rank,version,last_release\na,1,1.0,2026-01\n", "line 1 is 'name,rank"),
    "column renamed": (b"rank,name,version,released\n1,a,1.0,2026-01\n", "line 1 is 'rank,name,version,released'"),
    "column twice": (b"rank,name,version,version\n", "line 1 is 'rank,name,version,version'"),
    "a column more": (b"rank,name,version,last_release,url\n", "line 1 is 'rank,name,version,last_release,url'"),
    "no header": (b"1,a,1.0,2026-01\n", "line 1 is '1,a,1.0,2026-01'"),
    "a comment above": (b"# made today\n%(head)s", "line 1 is '# made today'"),
    "another delimiter": (b"rank;name;version;last_release\n", "line 1 is 'rank;name"),
    "row cut short": (b"%(head)s1,a,1.0,2026-01\n\n2,b,1.0\n", "line 4 has 3 fields instead of 4"),
    "row too long": (b"%(head)s1,a,1.0,2026-01,extra\n", "line 2 has 5 fields instead of 4"),
    "delimiter at the end": (b"%(head)s1,a,1.0,2026-01\n2,b,1.0,2026-01,\n", "line 3 has 5 fields instead of 4"),
    "a comment between": (b"%(head)s1,a,1.0,2026-01\n# more\n2,b,1.0,2026-01\n", "line 3 has 1 fields"),
    "quote open": (b'%(head)s1,z,1.0,2026-01\n2,"a,1.0,2026-01\n3,b,1,2026-01\n', "line 3: unexpected end of data"),
    "text after a quote": (b'%(head)s1,"al"pha,1.0,2026-01\n', "line 2: "),
    "a blank before a quote": (b'%(head)s1, "a,b",1.0,2026-01\n', "line 2 has 5 fields"),
    "a value without end": (b"%(head)s1,a,1.0,2026-01\n2," + b"x" * 200_000 + b",1,2026-01\n", "line 3: field larger"),
    "Latin-1": (b"%(head)s1,a,1.0,2026-01\r\n\r\r\n2,b\xe4d,1.0,2026-01\n", "line 5 is not UTF-8"),
    "not UTF-8 far below": (
        b"%(head)s" + b"1,a,1.0,2026-01\n" * 5000 + b"1,\xff,1.0,2026-01\n",
        "line 5002 is not UTF-8",
    ),
    "UTF-16": ("rank,name,version,last_release\n".encode("utf-16"), "line 1 is not UTF-8"),
    "UTF-16 without a mark": ("rank,name,version,last_release\n".encode("utf-16-le"), "line 1 is 'r\\x00a"),
}


@pytest.mark.parametrize("form", FORM)
def test_a_fault_of_form_is_one_clear_error_with_its_line_and_loads_nothing(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path, form: str
) -> None:
    content, says = FORM[form]
    path = tmp_path / "broken.csv"
    path.write_bytes(content.replace(b"%(head)s", ",".join(HEADER).encode() + b"\n"))
    with pytest.raises(CatalogFileError, match=r"broken\.csv cannot be read") as raised:
        load_catalog(engine, path, organization, clock.now())
    assert says in str(raised.value)
    assert "export it again as CSV in UTF-8" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert stored(engine) == []


GOOD = [["1", "a", "1.0", "2026-01"], ["2", "b", "2.0", "2026-02"]]
TAKEN = {
    "CRLF": b"%(head)s\r\n1,a,1.0,2026-01\r\n2,b,2.0,2026-02\r\n",
    "CR": b"%(head)s\r1,a,1.0,2026-01\r2,b,2.0,2026-02\r",
    "mixed": b"%(head)s\r\n1,a,1.0,2026-01\n2,b,2.0,2026-02\r",
    "a byte order mark": b"\xef\xbb\xbf%(head)s\r\n1,a,1.0,2026-01\r\n2,b,2.0,2026-02\r\n",
    "no end of line": b"%(head)s\n1,a,1.0,2026-01\n2,b,2.0,2026-02",
    "everything quoted": b'"rank","name","version","last_release"\n"1","a","1.0","2026-01"\n"2","b","2.0","2026-02"\n',
    "empty lines": b"%(head)s\n\n1,a,1.0,2026-01\n\r\n   \n2,b,2.0,2026-02\n\n\n",
    "white space": b"rank , name, version, last_release\n 1,a ,1.0, 2026-01\n2, b,2.0 ,2026-02 \n",
}


@pytest.mark.parametrize("form", TAKEN)
def test_what_other_programs_write_is_taken(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "a [1]*'s.csv"  # a name that is a pattern to DuckDB
    path.write_bytes(TAKEN[form].replace(b"%(head)s", ",".join(HEADER).encode()))
    report = load_catalog(engine, path, organization, clock.now())
    assert report == LoadReport(2, 2, 0, 2, ())
    assert stored(engine) == [(name, int(rank), 1, version_key(text)) for rank, name, text, _ in GOOD]


VALUES = [
    ("rank", ["1", "10", " 7", "7 ", "\xa07", "2147483647"], True),
    (
        "rank",
        ["", "0", "-1", "+7", "007", "1.5", "1.0", "1e3", "0x7", "1_000", "1,000", "٣", "NULL", "NaN", "true"],
        False,
    ),
    ("rank", ["2147483648", "9223372036854775808", "9" * 400, "1\n", "1\x00"], False),
    ("name", ["A", "a..b", "x" * 100, "1", "  b  "], True),
    (
        "name",
        ["", " ", "x" * 101, "x" * 5000, "a\x00b", "a\x07", "a\x1b[2J", "\u212a", "\uff41", "a\u200b", "a-", ".a"],
        False,
    ),
    ("name", ["al\npha", "al\rpha", "a,b", 'a"b', "NULL!", "a/../b", "a\t"], False),
    ("version", ["1", "v1.0", "1!2.3", "1." + "1." * 98 + "1", "1.0+local"], True),
    ("version", ["", " ", "1.0\n", "1.0\x1f", "1.0\u2028", "1.0\x00", "1." * 100 + "1", "1." * 3000 + "1"], False),
    ("version", ["9" * 1000, "9" * 5000, "1.0.po\u017ft1", "NULL"], False),
    ("last_release", ["1900-01", "2024-12", " 2024-01 ", "2099-12"], True),
    ("last_release", ["", "0000-01", "0001-01", "1899-12", "2100-01", "2024-00", "2024-13", "2024-1", "24-01"], False),
    (
        "last_release",
        ["2024-01-01", "2024/01", "01-2024", "-2024-01", "+2024-01", "\uff12024-01", "NULL", "2024-01\n"],
        False,
    ),
]


@pytest.mark.parametrize(("column", "texts", "taken"), VALUES)
def test_a_value_is_taken_or_refused_by_what_its_column_means(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path, column: str, texts: list[str], taken: bool
) -> None:
    rows = []
    for number, text in enumerate(texts, 1):
        row = {"rank": str(number), "name": f"p{number}", "version": "1.0", "last_release": "2026-01", column: text}
        rows.append(tuple(row.values()))
    report = load_catalog(engine, write(tmp_path / "values.csv", *rows), organization, clock.now())
    refused = [row.name or "" for row in report.rejected]
    assert refused == ([] if taken else [row[1].strip(" ").replace("\0", "\ufffd") for row in rows])
    assert len({row.line for row in report.rejected}) == len(refused)
    assert (report.read, report.packages_added) == (len(rows), len(rows) if taken else 0)
    if column == "rank" and taken:
        assert [row[1] for row in stored(engine)] == [int(text) for text in texts]


def test_the_largest_row_that_has_a_form_is_one_refused_row(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    """Longer values are a fault of form: `csv.field_size_limit()`."""
    largest = "\U0001f600" * csv.field_size_limit()
    path = write(tmp_path / "large.csv", (largest,) * 4, ("1", "a", "1.0", "2026-01"))
    report = load_catalog(engine, path, organization, clock.now())
    assert (report.read, [row.line for row in report.rejected], report.packages_added) == (2, [2], 1)


LINE_END = st.sampled_from(["\n", "\r\n", "\r"])
# What a row says, and the reason of its refusal; N is its number, so that no two are one package.
KINDS = [
    ("N,pN,1.0,2026-01", None),
    ('N,"pN","1.0",2026-01', None),
    ("N,pN,latest,2026-01", "not a version"),
    ("N,,1.0,2026-01", "no name"),
    ('N,"p@N",1.0,2026-01', "not a package name"),
    ('N,"""p"",@N",1.0,2026-01', "not a package name"),
    ('N,"p@N","1@.@0@",2026-01', "not a package name"),
    ('"@@N",pN,1.0,2026-01', "rank"),
    ("1.5,pN,1.0,2026-01", "rank"),
    ("N,pN,1.0,0000-01", "not a month"),
    ("N,p1,1.0,2026-01", "earlier line"),
    ("N,foreign,1.0,2026-01", "another organization"),
]


@st.composite
def files(draw: st.DrawFn) -> tuple[str, list[tuple[int, str]], int]:
    """A file's text, (line, reason) of each row that is refused, and how many rows it has.

    The lines are counted while the text is put together: one for each line end that was written before the row.
    """
    text, line, refused = draw(st.sampled_from(["", "\ufeff"])) + ",".join(HEADER), 1, []

    def end_line() -> None:
        nonlocal text, line
        end = draw(LINE_END)
        if text[-1] == "\r" and end == "\n":  # would be one line end, not two
            end = "\r\n"
        text, line = text + end, line + 1

    drawn = draw(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(KINDS)), max_size=8))
    seen_foreign = False
    rows = [(0, KINDS[0]), *drawn]
    for number, (empty, (row, reason)) in enumerate(rows, 1):
        for _ in range(empty + 1):
            end_line()
        if "foreign" in row:
            reason = "earlier line" if seen_foreign else reason
            seen_foreign = True
        if reason:
            refused.append((line, reason))
        for part in re.split("(@)", row.replace("N", str(number))):
            if part == "@":
                end_line()
            else:
                text += part
    for _ in range(draw(st.integers(0, 2))):
        end_line()
    return text, refused, len(rows)


@pytest.fixture
def with_foreign(engine: sa.Engine, organization: uuid.UUID, clock: Clock, ids: Identifiers, tmp_path: Path) -> None:
    """A package that belongs to another organization."""
    path = write(tmp_path / "foreign.csv", ("1", "foreign", "1.0", "2026-01"))
    load_catalog(engine, path, new_organization(engine, clock, ids, "foreign"), clock.now())


@pytest.mark.usefixtures("with_foreign")
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(file=files())
def test_the_line_of_a_refused_row_is_the_one_where_it_begins(
    engine: sa.Engine,
    organization: uuid.UUID,
    clock: Clock,
    tmp_path: Path,
    file: tuple[str, list[tuple[int, str]], int],
) -> None:
    text, refused, rows = file
    path = tmp_path / "made.csv"
    path.write_text(text, encoding="utf-8", newline="")
    report = load_catalog(engine, path, organization, clock.now())
    assert [row.line for row in report.rejected] == [line for line, _ in refused]
    for row, (_, reason) in zip(report.rejected, refused, strict=True):
        assert reason in row.reason
    assert report.read == rows


def test_a_missing_file_is_named(engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(CatalogFileError, match=r"nowhere\.csv"):
        load_catalog(engine, tmp_path / "nowhere.csv", organization, clock.now())


def test_a_failure_at_the_last_step_leaves_nothing(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    path = write(tmp_path / "one.csv", ("1", "a", "1.0", "2026-01"))

    def fail(step: str) -> None:
        if step == "releases":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_catalog(engine, path, organization, clock.now(), fail)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Package)) == 0
    assert load_catalog(engine, path, organization, clock.now()).packages_added == 1


def test_no_row_touches_another_organizations_package(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, ids: Identifiers, tmp_path: Path
) -> None:
    load_catalog(engine, write(tmp_path / "a.csv", ("1", "wanted", "1.0", "2026-01")), organization, clock.now())
    before = stored(engine)
    stranger = new_organization(engine, clock, ids, "stranger")
    rows = [("7", "Wanted", "9.9", "2026-02"), ("8", "own", "1.0", "2026-02")]
    report = load_catalog(engine, write(tmp_path / "b.csv", *rows), stranger, clock.now())
    assert (report.packages_added, report.packages_changed, report.releases_added) == (1, 0, 1)
    assert [(row.line, "another organization" in row.reason) for row in report.rejected] == [(2, True)]
    assert [row for row in stored(engine) if row[0] == "wanted"] == before


def test_two_loads_at_once_load_once(
    engine: sa.Engine, organization: uuid.UUID, clock: FixedClock, tmp_path: Path
) -> None:
    rows = [(n, f"p{n}", "1.0", "2026-01") for n in range(1, 2001)]
    path = write(tmp_path / "many.csv", *rows)
    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda _: load_catalog(engine, path, organization, clock.now()), range(4)))
    assert sum(report.packages_added for report in reports) == 2000
    assert len(stored(engine)) == 2000


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9])?", fullmatch=True)


@pytest.fixture(scope="module")
def owner() -> Iterator[tuple[sa.Engine, uuid.UUID]]:
    """A database that all examples share, and the organization in it."""
    now, key = datetime(2026, 1, 1, tzinfo=UTC), uuid.uuid4()
    engine = make_engine(f"duckdb:///:memory:{key.hex}")
    make_tables(engine)
    with engine.begin() as connection:
        values = {"id": key, "slug": "owner", "name": "Owner", "created_at": now, "updated_at": now}
        connection.execute(Base.metadata.tables["organizations"].insert().values(version=1, **values))
    yield engine, key
    engine.dispose()


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(st.integers(1, 99), names, st.sampled_from(["1.0", "1.0.0", "2", "x"])), max_size=12))
def test_loaded_plus_rejected_is_read_and_the_database_agrees_with_a_slow_model(
    owner: tuple[sa.Engine, uuid.UUID], rows: list[tuple[int, str, str]]
) -> None:
    (engine, key), now = owner, datetime(2026, 1, 1, tzinfo=UTC)
    with engine.begin() as connection:
        connection.execute(sa.delete(Release))
        connection.execute(sa.delete(Package))
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "rows.csv", *((rank, name, version, "2026-01") for rank, name, version in rows))
        report = load_catalog(engine, path, key, now)
    model: dict[str, tuple[int, str]] = {}
    first: set[str] = set()
    for rank, name, version in rows:
        normalized = canonicalize_name(name)
        if version != "x" and normalized not in first:
            model[normalized] = (rank, version_key(version))
        first.add(normalized)
    assert report.packages_added + len(report.rejected) == report.read == len(rows)
    assert {row[0]: (row[1], row[3]) for row in stored(engine)} == model


def test_the_steps_are_reported_in_order(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    steps: list[str] = []
    load_catalog(engine, write(tmp_path / "a.csv", ("1", "a", "1", "2026-01")), organization, clock.now(), steps.append)
    assert steps == ["read", "packages", "releases", "done"]


def test_real_names_are_normal_in_sql_as_in_packaging(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path
) -> None:
    spelled = ["a-b", "A..B", "c__-d", "E.f_G", "h", "1-2"]
    path = write(tmp_path / "n.csv", *((n, name, "1.0", "2026-01") for n, name in enumerate(spelled, 1)))
    load_catalog(engine, path, organization, clock.now())
    expected = sorted({canonicalize_name(name) for name in spelled})
    assert [row[0] for row in stored(engine)] == expected
    assert all(a < b for a, b in itertools.pairwise(expected))
