"""What the recipe promises, with the prices of a shop, on SQLite and DuckDB.

Needs pytest, hypothesis and sqlalchemy; duckdb-sqlalchemy where it is there.
"""

import csv
import itertools
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.schema.bulk_load import (
    Plan,
    Report,
    bulk_load,
    drop_staging,
    move,
    refuse,
    repeated,
    stage,
    staging,
)

meta = sa.MetaData()
items = sa.Table(
    "items",
    meta,
    sa.Column("sku", sa.String, unique=True, nullable=False),
    sa.Column("cents", sa.Integer, nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
)
labels = sa.Table("labels", meta, sa.Column("sku", sa.String, unique=True), sa.Column("label", sa.String))
raw = staging(["sku", "price", "label"], more=["cents"])


def prepare(row: dict[str, Any]) -> None:
    row["sku"] = row["sku"].strip()
    if not re.fullmatch("[0-9]{1,6}[.][0-9]{2}", row["price"]):
        raise ValueError("no price")
    row["cents"] = row["price"].replace(".", "")


cents = sa.cast(raw.c.cents, sa.Integer).label("cents")
rows = sa.select(raw.c.sku, cents, sa.literal(1).label("times"))
checks = [("no SKU", raw.c.sku == ""), ("a SKU twice", repeated(raw, raw.c.sku))]
also = {"times": items.c.times + 1}
plan = Plan(raw, checks, items, rows, ["sku"], changes=["cents"], also=also, prepare=prepare)
HEAD = b"sku,price,label\n"
numbers = itertools.count(1)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    url = "sqlite://"
    if request.param == "duckdb":
        pytest.importorskip("duckdb_sqlalchemy")
        url = f"duckdb:///:memory:bulk_load_{next(numbers)}"
    engine = sa.create_engine(url, poolclass=sa.QueuePool)
    meta.create_all(engine)
    yield engine
    engine.dispose()


def load(engine: sa.Engine, path: Path, content: bytes | None = None) -> Report:
    if content is not None:
        path.write_bytes(content)
    with engine.begin() as db:
        return bulk_load(db, path, plan)


def stored(engine: sa.Engine) -> list[tuple[object, ...]]:
    with engine.connect() as db:
        return [tuple(row) for row in db.execute(sa.select(items).order_by(items.c.sku))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a [1]*'s.csv"  # a name that is a pattern to DuckDB


def test_each_bad_row_is_named_and_the_others_are_loaded(engine: sa.Engine, path: Path) -> None:
    report = load(engine, path, HEAD + b"a,1.00,x\n,2.00,x\nb,much,x\na,3.00,x\nc,4.50,\n")
    refused = [(row["line"], row["reason"]) for row in report.rejected]
    assert refused == [(3, "no SKU"), (4, "no price"), (5, "a SKU twice")]
    assert report.rejected[1]["price"] == "much"
    assert (report.read, report.added, report.changed) == (5, 2, 0)
    assert stored(engine) == [("a", 100, 1), ("c", 450, 1)]


def test_loading_again_changes_nothing_and_a_new_price_one_row(engine: sa.Engine, path: Path) -> None:
    content = HEAD + b"a,1.00,x\nb,2.00,x\nc,,\n"
    load(engine, path, content)
    before = stored(engine)
    again = load(engine, path, content)
    assert (again.read, again.added, again.changed, len(again.rejected)) == (3, 0, 0, 1)
    assert stored(engine) == before
    later = load(engine, path, content.replace(b"2.00", b"2.50") + b"d,4.00,x\n")
    assert (later.added, later.changed) == (1, 1)
    assert stored(engine) == [("a", 100, 1), ("b", 250, 2), ("d", 400, 1)]


def test_without_changes_a_row_that_is_there_stays(engine: sa.Engine, path: Path) -> None:
    load(engine, path, HEAD + b"a,1.00,x\n")
    path.write_bytes(HEAD + b"a,9.00,x\n")
    with engine.begin() as db:
        report = bulk_load(db, path, plan._replace(changes=[]))
    assert (report.added, report.changed, stored(engine)) == (0, 0, [("a", 100, 1)])


def test_two_tables_from_one_file(engine: sa.Engine, path: Path) -> None:
    path.write_bytes(HEAD + b"a,1.00,x\nb,2.00,y\n,3.00,z\n")
    second = Plan(raw, [], labels, sa.select(raw.c.sku, raw.c.label), ["sku"])
    with engine.begin() as db:
        read, rejected = stage(db, path, plan)
        assert (read, len(rejected)) == (3, 1)
        assert [move(db, one) for one in (plan, second)] == [(2, 0), (2, 0)]
        drop_staging(db)
        found = db.execute(sa.select(labels).order_by(labels.c.sku)).all()
    assert [tuple(row) for row in found] == [("a", "x"), ("b", "y")]


def test_a_table_of_yours_with_the_same_name_is_left_alone(engine: sa.Engine, path: Path) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE staging (mine INTEGER)")
        db.exec_driver_sql("INSERT INTO staging VALUES (7)")
    assert load(engine, path, HEAD + b"a,1.00,x\n").added == 1
    with engine.connect() as db:
        assert db.exec_driver_sql("SELECT mine FROM staging").scalar_one() == 7


FORM = {
    "empty": (b"", "it is empty"),
    "another header": (b"sku,label,price\n", "line 1 is 'sku,label,price'"),
    "another delimiter": (b"sku;price;label\n", "line 1 is 'sku;price"),
    "cut short": (HEAD + b"a,1.00,x\n\nb,2.0", "line 4 has 2 fields instead of 3"),
    "a field more": (HEAD + b"a,1.00,x,y\n", "line 2 has 4 fields instead of 3"),
    "a comment": (HEAD + b"a,1.00,x\n# more\n", "line 3 has 1 fields"),
    "quote open": (HEAD + b'a,1.00,x\nb,2.00,"x\nc,3.00,x\n', "line 3: unexpected end of data"),
    "text after a quote": (HEAD + b'"a"b,1.00,x\n', "line 2: "),
    "a value without end": (HEAD + b"a," + b"x" * 200_000 + b",x\n", "line 2: field larger"),
    "Latin-1": (HEAD + b"a,1.00,x\r\n\r\r\nb,2.00,b\xe4d\n", "line 5 is not UTF-8"),
}


@pytest.mark.parametrize("form", FORM)
def test_a_fault_of_form_names_its_line_and_loads_nothing(engine: sa.Engine, path: Path, form: str) -> None:
    content, says = FORM[form]
    load(engine, path, HEAD + b"before,1.00,x\n")
    with pytest.raises(ValueError, match=re.escape(says)):
        load(engine, path, content)
    assert stored(engine) == [("before", 100, 1)]
    assert load(engine, path, HEAD + b"after,2.00,x\n").added == 1


def test_a_missing_file_is_an_oserror(engine: sa.Engine, path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        load(engine, path)


VALUES = [
    "",
    " ",
    "plain",
    "two\nlines",
    "two\r\nlines",
    "\r",
    'a "quote"',
    '"',
    "a,b",
    "\\",
    "\\.",
    "\\N",
    "NULL",
    "\t",
]
VALUES += ["\u2028", "\u212a", "\u0130", "\U0001f600", "'", "; DROP TABLE items", "$1", "%s", "{}", "x" * 100_000]


def test_every_text_arrives_as_it_is(engine: sa.Engine, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["sku", "price", "label"], *([f"s{n:02}", "1.00", v] for n, v in enumerate(VALUES))]
        )
    second = Plan(raw, [], labels, sa.select(raw.c.sku, raw.c.label), ["sku"])
    with engine.begin() as db:
        assert bulk_load(db, path, second).added == len(VALUES)
        assert list(db.scalars(sa.select(labels.c.label).order_by(labels.c.sku))) == VALUES


def test_a_nul_becomes_the_replacement_character(engine: sa.Engine, path: Path) -> None:
    report = load(engine, path, HEAD + b"a,1\x00,x\n")
    assert [row["price"] for row in report.rejected] == ["1\ufffd"]


def test_an_error_of_the_program_is_no_reason(engine: sa.Engine, path: Path) -> None:
    def broken(row: dict[str, Any]) -> None:
        raise KeyError("colour")

    path.write_bytes(HEAD + b"a,1.00,x\n")
    with pytest.raises(KeyError, match="colour"), engine.begin() as db:
        bulk_load(db, path, plan._replace(prepare=broken))
    assert load(engine, path).added == 1


def test_a_value_error_without_words_refuses_too(engine: sa.Engine, path: Path) -> None:
    def silent(row: dict[str, Any]) -> None:
        raise ValueError

    path.write_bytes(HEAD + b"a,1.00,x\n")
    with engine.begin() as db:
        report = bulk_load(db, path, plan._replace(prepare=silent))
    assert [row["reason"] for row in report.rejected] == ["refused"]
    assert stored(engine) == []


def test_a_reason_that_prepare_gave_is_kept(engine: sa.Engine, path: Path) -> None:
    path.write_bytes(HEAD + b"a,none,x\na,none,x\n")
    with engine.begin() as db:
        _, rejected = stage(db, path, plan)
        refuse(db, plan)  # once more changes nothing
        assert [row["reason"] for row in rejected] == ["no price", "no price"]
        assert db.scalar(sa.select(sa.func.count()).where(raw.c.reason == "no price")) == 2


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_line_of_a_row_is_the_one_where_it_begins(data: st.DataObject) -> None:
    """Lines are counted while the file is put together: one for each line end before the row."""
    ends = st.sampled_from(["\n", "\r\n", "\r"])
    text, line, expected = data.draw(st.sampled_from(["", "\ufeff"])) + "sku,price,label", 1, []

    def end() -> None:
        nonlocal text, line
        drawn = data.draw(ends)
        text += "\r\n" if text[-1] == "\r" and drawn == "\n" else drawn  # these would be one line end
        line += 1

    for number in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(1, 3))):
            end()
        expected.append(line)
        text += f'"s{number}",'
        for part in data.draw(st.sampled_from([["none"], ['"', "@", "none", '"'], ['"', "@", "@", 'a ""b""', '"']])):
            if part == "@":
                end()
            else:
                text += part
        text += ",x"
    for _ in range(data.draw(st.integers(0, 2))):
        end()
    engine = sa.create_engine("sqlite://")
    meta.create_all(engine)
    with TemporaryDirectory() as folder:
        report = load(engine, Path(folder, "lines.csv"), text.encode())
    assert [row["line"] for row in report.rejected] == expected
    assert (report.read, report.added) == (len(expected), 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["1.00", "2.00", "x"])), max_size=10))
def test_loaded_and_refused_is_read_and_a_slow_model_agrees(pairs: list[tuple[str, str]]) -> None:
    engine = sa.create_engine("sqlite://")
    meta.create_all(engine)
    text = "".join(f"{sku},{price},x\n" for sku, price in pairs)
    model: dict[str, int] = {}
    for number, (sku, price) in enumerate(pairs):
        if price != "x" and sku not in [one for one, _ in pairs[:number]]:
            model[sku] = int(Decimal(price) * 100)
    with TemporaryDirectory() as folder:
        report = load(engine, Path(folder, "model.csv"), HEAD + text.encode())
    assert report.added + len(report.rejected) == report.read == len(pairs)
    assert stored(engine) == [(sku, cents, 1) for sku, cents in sorted(model.items())]
