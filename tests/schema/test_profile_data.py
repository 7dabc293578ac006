"""Reading a file for the first time: lines are counted as an editor counts them, whatever ends them."""

from pathlib import Path

import pytest

from playbook.schema.profile_data import numbered_rows, repair


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
