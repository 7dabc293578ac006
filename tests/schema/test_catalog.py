"""The catalogue: keys sort as PEP 440 does, a load is all or nothing, and doing it again changes nothing."""

import csv
import itertools
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name
from packaging.version import Version

from playbook.foundations.clock_and_identifiers import Clock, FixedClock, Identifiers
from playbook.foundations.database import Base, make_engine, transaction
from playbook.kit.data import data_path
from playbook.schema.catalog import CatalogFileError, LoadReport, Package, Release, load_catalog, version_key
from playbook.schema.identity import Organization

HEADER = ["rank", "name", "version", "last_release"]
number = st.integers(0, 10**30)
local = st.one_of(number.map(str), st.text("abcxyz0189", min_size=1, max_size=4))


@st.composite
def versions(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(["", "", "1!", "20!"])) + ".".join(map(str, draw(st.lists(number, min_size=1))))
    text += draw(
        st.sampled_from(["", "", "a", "b", "rc"]).flatmap(lambda p: number.map(lambda n: f"{p}{n}" if p else ""))
    )
    text += draw(st.one_of(st.just(""), number.map(lambda n: f".post{n}")))
    text += draw(st.one_of(st.just(""), number.map(lambda n: f".dev{n}")))
    return text + draw(st.one_of(st.just(""), st.lists(local, min_size=1, max_size=3).map(lambda p: "+" + ".".join(p))))


@given(versions(), versions())
def test_keys_compare_as_versions_do(one: str, other: str) -> None:
    a, b = Version(one), Version(other)
    assert (version_key(one) < version_key(other)) == (a < b)
    assert (version_key(one) == version_key(other)) == (a == b)


@given(versions())
def test_keys_have_only_signs_that_sort_alike_in_every_locale(version: str) -> None:
    assert set(version_key(version)) <= set("0123456789abcdefghijklmnopqrstuvwxyz")


@given(st.text(max_size=20))
def test_what_is_no_version_is_a_value_error(text: str) -> None:
    try:
        Version(text)
    except ValueError:
        with pytest.raises(ValueError, match="PEP 440"):
            version_key(text)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = make_engine(url)
    Base.metadata.create_all(engine)
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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rank,name\n1,a\n",
        b"rank,name,version,last_release\n1,a,1.0\n",
        b"rank,name,version,last_release\n1,a,1.0,2026-01,extra\n",
        b'rank,name,version,last_release\n1,"a,1.0,2026-01\n',
        b"rank,name,version,last_release\n1,a\xff,1.0,2026-01\n",
        b"name,rank,version,last_release\na,1,1.0,2026-01\n",
    ],
    ids=["empty", "columns missing", "row cut short", "row too long", "quote open", "not UTF-8", "columns swapped"],
)
def test_a_file_that_cannot_be_read_is_one_clear_error_and_loads_nothing(
    engine: sa.Engine, organization: uuid.UUID, clock: Clock, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(CatalogFileError, match=r"broken\.csv cannot be read") as raised:
        load_catalog(engine, path, organization, clock.now())
    assert "\n" not in str(raised.value)
    assert stored(engine) == []


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


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 99), names, st.sampled_from(["1.0", "1.0.0", "2", "x"])), max_size=12))
def test_loaded_plus_rejected_is_read_and_the_database_agrees_with_a_slow_model(
    rows: list[tuple[int, str, str]],
) -> None:
    now, key = datetime(2026, 1, 1, tzinfo=UTC), uuid.uuid4()
    engine = make_engine(f"duckdb:///:memory:{key.hex}")
    Base.metadata.create_all(engine)
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
    engine.dispose()


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
