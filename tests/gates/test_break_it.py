"""Each change of a page's table *Break it* turns the assertion red that the table names.

That a change can fail to do so is proven in `tests/kit/test_breaks.py`.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import forked
import pytest

from playbook.kit import breaks
from playbook.kit.course import Course, Playbook

ROWS = [(page, change) for page in Course().playbooks for change in breaks.changes(page)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the changed copy. Not pytest's: as root, PostgreSQL must be able to enter it."""
    made = Path(tempfile.mkdtemp(prefix="break-it-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize(("page", "change"), ROWS, ids=[f"{page.key}-{change.line}" for page, change in ROWS])
def test_the_change_turns_its_assertion_red(
    page: Playbook,
    change: breaks.Change,
    folder: Path,
    packaged_server_for: Callable[[Playbook], None],
) -> None:
    packaged_server_for(page)

    def script(path: Path, cwd: Path, env: Mapping[str, str]) -> tuple[int, str]:
        done = forked.run([sys.executable, path], breaks.SECONDS, cwd, dict(env))
        return done.returncode, done.stderr.decode("utf-8")

    said = breaks.run(page, change, folder, script)
    where = f"playbook/{page.key}.py:{change.line}"
    assert said == f"AssertionError: {change.words}", f"{where}: {change.old!r} to {change.new!r} gave {said!r}"
