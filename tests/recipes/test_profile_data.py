"""The recipe against the definitions, on rows full of repeats and NULLs. Needs pytest, hypothesis and DuckDB."""

import re
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import duckdb
import pytest
from duckdb import DuckDBPyConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.schema.profile_data import (
    candidate_keys,
    dependency,
    numbered_rows,
    profile,
    repair,
    shapes,
)

VALUES = st.sampled_from([None, "x", "y", "z", "w"])
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def con() -> Iterator[DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        yield connection


def fill(con: DuckDBPyConnection, rows: list[Any], columns: str = '"a" VARCHAR, "b" VARCHAR, "c" VARCHAR') -> None:
    con.execute(f'CREATE OR REPLACE TABLE "small one" ({columns})')
    if rows:
        con.executemany(f'INSERT INTO "small one" VALUES ({", ".join("?" * len(rows[0]))})', rows)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_keys_are_all_minimal_sets_without_repeats_and_nulls(con: DuckDBPyConnection, rows: list[Any]) -> None:
    fill(con, rows)
    sets = list(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
    taken = {each: [tuple(row[i] for i in each) for row in rows] for each in sets}
    unique = [each for each in sets if None not in chain(*taken[each]) and len(set(taken[each])) == len(rows)]
    minimal = [tuple("abc"[i] for i in each) for each in unique if not any(set(u) < set(each) for u in unique)]
    assert candidate_keys(con, "small one", 3) == minimal
    assert candidate_keys(con, "small one", 1) == [key for key in minimal if len(key) == 1]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([(0,), (0, 1)]))
def test_a_dependency_counts_what_must_change(con: DuckDBPyConnection, rows: list[Any], left: tuple[int, ...]) -> None:
    fill(con, rows)
    whole = [row for row in rows if None not in (*(row[i] for i in left), row[2])]
    groups: dict[Any, list[Any]] = {}
    for row in whole:
        groups.setdefault(tuple(row[i] for i in left), []).append(row[2])
    tested = [group for group in groups.values() if len(group) > 1]
    wrong = sum(len(group) - max(map(group.count, group)) for group in tested)
    rights = [row[2] for row in whole]
    found = dependency(con, "small one", ["abc"[i] for i in left], "c")
    assert (found.tested, found.broken) == (len(tested), sum(len(set(group)) > 1 for group in tested))
    assert found.share == pytest.approx(wrong / max(sum(map(len, tested)), 1))
    most = max(map(rights.count, rights), default=0)
    assert found.blind == pytest.approx(1 - most / max(len(rights), 1))


def test_a_dependency_says_what_it_is_about(con: DuckDBPyConnection) -> None:
    fill(con, [("x", "1", "a")])
    assert dependency(con, "small one", ["a", "b"], "c").rule == "a, b → c"


def test_an_empty_table_has_numbers_too(con: DuckDBPyConnection) -> None:
    fill(con, [])
    assert dependency(con, "small one", ["a"], "b")[1:] == (0, 0, 0.0, 1.0)
    assert [row[1:4] for row in profile(con, "small one")] == [(0, 0, None)] * 3


def test_a_profile_is_exact(con: DuckDBPyConnection) -> None:
    fill(con, [("x", None, "long"), ("x", None, "ä"), ("y", "1", "ä"), ("z", "1", "b")])
    assert profile(con, "small one") == [("a", 0, 3, 1, "x"), ("b", 2, 1, 1, "1"), ("c", 0, 3, 4, "ä")]


def test_shapes_tell_digits_and_letters_apart(con: DuckDBPyConnection) -> None:
    fill(con, [("4.3.21",), ("5.4.22",), ("Mai 2021",), (None,), ("ÄÖü",)], '"when?" VARCHAR')
    assert shapes(con, "small one", "when?") == [("9.9.99", 2), ("AAa", 1), ("Aaa 9999", 1), (None, 1)]


def test_a_table_with_types_has_a_profile_too(con: DuckDBPyConnection) -> None:
    fill(con, [(7, "2021-03-04"), (12, None)], '"id" INTEGER, "day" DATE')
    assert [row[:4] for row in profile(con, "small one")] == [("id", 0, 2, 2), ("day", 1, 1, 10)]
    assert shapes(con, "small one", "id") == [("9", 1), ("99", 1)]


@pytest.mark.parametrize("name", ["n", "N", "m", "s", "a", "b", "kept", "different", "pairs", "known"])
def test_a_column_may_have_a_name_of_the_recipe(con: DuckDBPyConnection, name: str) -> None:
    rows = [("10", "2"), ("10", "2"), ("20", "3"), ("20", "4"), ("300", "4")]
    results = []
    for one in ("plain", name):
        fill(con, rows, f'"{one}" VARCHAR, "other" VARCHAR')
        both = [dependency(con, "small one", [one], "other")[1:], dependency(con, "small one", ["other"], one)[1:]]
        results.append((both, shapes(con, "small one", one)))
    assert results[0] == results[1]


def test_names_from_a_file_are_no_sql(con: DuckDBPyConnection) -> None:
    fill(con, [("1", "x"), ("2", "x")], '"a"" OR 1" VARCHAR, "b); DROP TABLE t" VARCHAR')
    assert candidate_keys(con, "small one") == [('a" OR 1',)]
    assert [row[0] for row in profile(con, "small one")] == ['a" OR 1', "b); DROP TABLE t"]
    assert dependency(con, "small one", ['a" OR 1'], "b); DROP TABLE t").tested == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_repaired_lines_are_numbered_whatever_ends_them(end: bytes, mark: bytes) -> None:
    content = mark + end.join([b"name", b"Zo\xeb", "Zoë".encode(), b"", b"\xe4", b""])
    text, repaired = repair(content)
    assert repaired == [2, 5]
    assert text.encode() == end.join([b"name", "Zoë".encode(), "Zoë".encode(), b"", "ä".encode(), b""])


def test_rows_keep_their_values_and_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffa,b\r\n1,"x\r\n\ny"\r\n\n"""q""",\r3,é'.encode())
    assert list(numbered_rows(path, ["a", "b"])) == [[2, "1", "x\r\n\ny"], [6, '"q"', ""], [7, "3", "é"]]


def test_a_file_of_one_column_may_have_empty_values_only_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text('a\n1\n\n""\n2\n', encoding="utf-8")
    assert list(numbered_rows(path, ["a"])) == [[2, "1"], [4, ""], [5, "2"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"b,a\n1,2\n", "line 1 is 'b,a'"),
        (b"\na,b\n", "line 1 is ''"),
        (b"a,b\n1,2\n\n1,2,3\n", "line 4 has 3 fields instead of 2"),
        (b"a,b\n1\n", "line 2 has 1 fields instead of 2"),
        (b'a,b\n1,"2\n3\n', "line 2: unexpected end of data"),
        (b"a,b\r\n1,2\r\n3,\xe4\r\n", "line 3 is not UTF-8"),
        (b"a,b\r1,2\r3,\xe4\r", "line 3 is not UTF-8"),
    ],
)
def test_a_fault_of_form_is_told_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        list(numbered_rows(path, ["a", "b"]))


def test_a_header_may_have_spaces_and_a_line_of_spaces_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a, b \n  \n1,2\n", encoding="utf-8")
    assert list(numbered_rows(path, ["a", "b"])) == [[3, "1", "2"]]
