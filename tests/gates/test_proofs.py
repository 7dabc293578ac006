"""The table of proofs is made from the tests, whole, and up to date."""

from pathlib import Path

import pytest

from tests.proofs import ELSEWHERE, PAGE, REQUIRED, missing, order, page, proofs


@pytest.fixture(scope="module")
def proven() -> dict[str, list[str]]:
    """What all tests prove: they are read once."""
    return proofs()


def test_every_requirement_is_proven_or_excused(proven: dict[str, list[str]]) -> None:
    assert missing(proven) == []
    assert not [requirement for requirement in ELSEWHERE if requirement in proven], "excused, and proven all the same"


def test_the_page_is_up_to_date(proven: dict[str, list[str]]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(proven), "run `python tests/proofs.py`"


@pytest.mark.parametrize("gone", REQUIRED[::5])
def test_a_requirement_without_a_test_is_missed(gone: str, proven: dict[str, list[str]]) -> None:
    found = {requirement: tests for requirement, tests in proven.items() if requirement != gone}
    assert missing(found) == ([] if gone in ELSEWHERE else [gone])


def test_marks_are_read_from_functions_and_classes(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        '@pytest.mark.proves("ASVS 6.2.10", "NIST 1")\ndef test_a(): ...\n'
        '@pytest.mark.proves("ASVS 6.2.2")\nclass TestB: ...\n@pytest.mark.slow\ndef test_c(): ...\n'
    )
    assert proofs(tmp_path) == {
        "ASVS 6.2.2": ["test_x.py::TestB"],
        "ASVS 6.2.10": ["test_x.py::test_a"],
        "NIST 1": ["test_x.py::test_a"],
    }
    assert sorted(["ASVS 6.2.10", "ASVS 6.2.2", "ASVS 10.1.1"], key=order) == [
        "ASVS 6.2.2",
        "ASVS 6.2.10",
        "ASVS 10.1.1",
    ]
