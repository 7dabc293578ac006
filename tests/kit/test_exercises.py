"""A checker answers in words, whatever the reader's code does, and never with a traceback."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from playbook.kit.exercises import Verdict, checker


@checker
def check_total(total: Callable[[list[dict[str, int]]], int]) -> str:
    """What is still wrong with `total(rows)`, the sum of the amounts."""
    rows = [{"amount": 2}, {"amount": 3}]
    assert all(total([row]) == row["amount"] for row in rows), "not yet: one row should give its own amount"
    if total([]) + 0 != 0:
        return "not yet: no rows are worth nothing"
    if total(rows) != 5:
        return "not yet: 2 and 3 are 5"
    return "right"


def right(rows: list[dict[str, int]]) -> int:
    return sum(row["amount"] for row in rows)


def unwritten(rows: Any) -> Any:
    raise NotImplementedError


def misspelled(rows: Any) -> Any:
    return sum(row["amuont"] for row in rows)


def endless(rows: Any) -> Any:
    return endless(rows)


def no_parameter() -> Any:
    return 0


def nothing(rows: Any) -> Any:
    pass


def leaves(rows: Any) -> Any:
    sys.exit(3)


def several_lines(rows: Any) -> Any:
    raise ValueError("first line\nsecond line")


def in_a_library(rows: Any) -> Any:
    return textwrap.dedent(rows)


def wordless(rows: Any) -> Any:
    raise RuntimeError


def run(rows: Any) -> Any:
    return {}["called run, as the checker's own wrapper is"]


SAID = {
    unwritten: "not yet: nothing is written yet",
    misspelled: 'not yet: your code raised KeyError: \'amuont\' at "return sum(row["amuont"] for row in rows)"',
    endless: ('not yet: your code raised RecursionError: maximum recursion depth exceeded at "return endless(rows)"'),
    no_parameter: "not yet: checking it raised TypeError: no_parameter() takes 0 positional arguments but 1 was given",
    nothing: "not yet: one row should give its own amount",
    leaves: 'not yet: your code raised SystemExit: 3 at "sys.exit(3)"',
    several_lines: (
        'not yet: your code raised ValueError: first line at "raise ValueError("first line\\nsecond line")"'
    ),
    in_a_library: None,
    wordless: 'not yet: your code raised RuntimeError at "raise RuntimeError"',
    run: (
        'not yet: your code raised KeyError: "called run, as the checker\'s own wrapper is"'
        ' at "return {}["called run, as the checker\'s own wrapper is"]"'
    ),
    (lambda rows: rows[0]["amount"] if rows else None): (
        "not yet: checking it raised TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'"
    ),
    (lambda rows: len(rows) and rows[0]["amount"]): "not yet: 2 and 3 are 5",
    None: "not yet: checking it raised TypeError: 'NoneType' object is not callable",
}


@pytest.mark.parametrize("work", SAID, ids=lambda work: getattr(work, "__name__", "None"))
def test_what_is_wrong_is_said_in_one_line(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = check_total(work)
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert out.startswith("not yet: ")
    assert "Traceback" not in out
    assert not verdict
    if (said := SAID[work]) is None:
        assert 'at "return textwrap.dedent(rows)"' in out, "the line is the reader's, not the library's"
    else:
        assert out == said + "\n"


def test_right_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_total(right)
    assert capsys.readouterr().out == "right\n"


def test_a_checker_without_a_verdict_is_not_right(capsys: pytest.CaptureFixture[str]) -> None:
    @checker
    def forgetful(work: object) -> str:
        return None  # type: ignore[return-value]

    assert not forgetful(1)
    assert repr(forgetful(1)) == "not yet: the checker itself gave no verdict, but None"


def test_stopping_it_is_left_to_the_reader() -> None:
    @checker
    def interrupted(work: object) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(1)


def test_only_the_exact_word_is_right() -> None:
    assert Verdict("right")
    assert not any(Verdict(text) for text in ("Right", "right.", "not yet: right", ""))


def test_checkers_keep_name_and_words() -> None:
    assert check_total.__name__ == "check_total"
    assert (check_total.__doc__ or "").startswith("What is still wrong")


def test_a_notebook_shows_the_verdict_once(capsys: pytest.CaptureFixture[str]) -> None:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(colors="nocolor")
    try:
        shell.run_cell("from playbook.kit.exercises import checker")
        shell.run_cell("@checker\ndef check(f):\n    return 'right' if f() == 1 else 'not yet: f() should be 1'")
        capsys.readouterr()
        shell.run_cell("said = check(lambda: 1)")
        assert capsys.readouterr().out == "right\n"
        assert shell.display_formatter is not None
        assert shell.display_formatter.format(shell.user_ns["said"]) == ({}, {}), "it would be shown again as a result"
        shell.run_cell("def mine():\n    return {}['x']")
        shell.run_cell("said = check(mine)")
        assert capsys.readouterr().out == "not yet: your code raised KeyError: 'x' at \"return {}['x']\"\n"
    finally:
        InteractiveShell.clear_instance()


def test_a_script_prints_it_once() -> None:
    program = "from playbook.kit.exercises import checker\n@checker\ndef c(x):\n    return 'right'\nc(1)\nassert c(1)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("right\nright\n", "", 0)
