"""What stages of pages share: a process that is killed in the middle of its work."""

from pathlib import Path

import pytest

from playbook.kit.stage import killed

PROGRAM = """
import sys, time
from pathlib import Path
Path(sys.argv[1], "before").touch()
print("now", flush=True)
time.sleep(60)
Path(sys.argv[1], "after").touch()
"""


def test_a_process_is_killed_after_its_first_line(tmp_path: Path) -> None:
    killed(PROGRAM, str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["before"]


def test_a_program_that_fails_before_says_why() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        killed("1 / 0")
