"""Style and types: ruff over everything, strict mypy over the kit and over what the pages export."""

import subprocess
import sys
from pathlib import Path

import pytest

from playbook.kit import hook
from playbook.kit.budget import COLUMNS
from playbook.kit.course import Course
from playbook.kit.data import ROOT


def tool(*arguments: str, cwd: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--no-cache", "--output-format=concise", ".")


def test_everything_is_formatted() -> None:
    tool("ruff", "format", "--check", "--no-cache", ".")


LESSONS = [str(page.text) for page in Course().playbooks]


def test_pages_are_formatted() -> None:
    """`ruff format .` leaves them out: the landing page has the columns of all other files, lessons have 88."""
    tool("ruff", "format", "--check", "--no-cache", str(Course().index.text))
    # for a red one: `ruff format --line-length 88 PAGE`
    tool("ruff", "format", "--check", "--no-cache", "--line-length", str(COLUMNS), *LESSONS)


def test_a_page_that_is_not_formatted_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(f"# %%\nnumbers = [{', '.join(['1000'] * 14)}]\n", encoding="utf-8")
    tool("ruff", "format", "--check", "--no-cache", "--line-length", "120", str(page))
    with pytest.raises(AssertionError, match="would be reformatted"):
        tool("ruff", "format", "--check", "--no-cache", "--line-length", str(COLUMNS), str(page))


def exports(folder: Path) -> None:
    """The package as an import sees it: in place of each page its export cells, line for line."""
    pages = {pair.text for pair in Course().pairs}
    for path in sorted((ROOT / "playbook").rglob("*.py*")):
        if path.suffix in (".py", ".pyi", ".typed"):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            source = path.read_text(encoding="utf-8")
            copy.write_text(hook.exported(source) if path in pages else source, encoding="utf-8")
    (folder / "playbook" / "py.typed").touch()


def test_ruff_finds_nothing_in_what_the_pages_export(tmp_path: Path) -> None:
    """Demonstrations may bend a rule; what is lifted out of a page may not. Imports stand in the cell that needs them,
    the tables of the title cell are as wide as they are, and FastAPI's dependencies are calls in defaults."""
    exports(tmp_path)
    bent = ["--config", "lint.per-file-ignores = {}", "--ignore", "B008,E402,E501"]
    tool(
        "ruff",
        "check",
        "--no-cache",
        "--output-format=concise",
        "--config",
        str(ROOT / "pyproject.toml"),
        *bent,
        "playbook",
        cwd=tmp_path,
    )


def test_a_fault_in_an_export_would_be_found(tmp_path: Path) -> None:
    lesson = Course().playbooks[0]
    page = tmp_path / "page.py"
    page.write_text(hook.exported(lesson.source) + "\ndef late(a=[]):\n    return a\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"B006|mutable-argument-default"):
        tool(
            "ruff",
            "check",
            "--no-cache",
            "--output-format=concise",
            "--config",
            str(ROOT / "pyproject.toml"),
            "page.py",
            cwd=tmp_path,
        )


@pytest.fixture
def mypy_cache(request: pytest.FixtureRequest) -> str:
    return str(request.config.cache.mkdir("mypy")) if request.config.cache else "/dev/null"


def test_types_of_the_kit_and_of_what_the_pages_export(tmp_path: Path, mypy_cache: str) -> None:
    exports(tmp_path)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", mypy_cache]
    tool("mypy", "--strict", *config, "playbook", cwd=tmp_path)


def test_a_wrong_type_in_an_export_would_be_found(tmp_path: Path, mypy_cache: str) -> None:
    exports(tmp_path)
    lesson = Course().playbooks[0]
    page = tmp_path / lesson.text.relative_to(ROOT)
    page.write_text(page.read_text(encoding="utf-8") + "\nwrong: int = 'text'\n", encoding="utf-8")
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", mypy_cache]
    with pytest.raises(AssertionError, match="Incompatible types"):
        tool("mypy", "--strict", *config, str(page.relative_to(tmp_path)), cwd=tmp_path)
