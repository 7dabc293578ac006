"""Whatever the environment of the reader: asserts are run or refused, and no character ends a program."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import small_course

from playbook.kit import answers, surroundings
from playbook.kit.course import Course
from playbook.kit.data import ROOT
from playbook.kit.surroundings import NO_ASSERTS

HARSH = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "warnings": {"PYTHONWARNINGS": "error"},
    "narrow": {"COLUMNS": "20", "NO_COLOR": "1"},
}


def python(*arguments: str | Path, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    ours = ("DATABASE_URL", "PANTRY_", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if k == "PYTHONPATH" or not k.startswith(ours)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=kept | more, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace", timeout=250
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("surroundings") / "course"
    small_course.start(root)
    small_course.with_kit(root)
    small_course.add(root, "foundations/first", topics="lost update → found")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small course that the test may spoil; its pages import kit and exercises from there."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "course"))
    return Path(shutil.copytree(made, tmp_path / "course"))


# ---------------------------------------------------------------- pandas


@pytest.mark.parametrize(
    ("loaded", "installed", "said"),
    [((), False, True), ((), True, False), (("IPython",), False, False), (("pandas",), False, False)],
    ids=["script", "installed", "notebook", "imported"],
)
def test_only_a_script_without_pandas_says_so(
    monkeypatch: pytest.MonkeyPatch, loaded: tuple[str, ...], installed: bool, said: bool
) -> None:
    for name in ("pandas", "IPython"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # put back as it was, at the end
        del sys.modules[name]
    for name in loaded:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    spec = ModuleSpec("pandas", None) if installed else None
    monkeypatch.setattr(surroundings, "find_spec", lambda name: spec)
    before = sys.modules.get("pandas", "not looked for")
    surroundings.do_without_pandas()
    assert sys.modules.get("pandas", "not looked for") is (None if said else before)
    if said:
        with pytest.raises(ModuleNotFoundError):
            __import__("pandas")


# ---------------------------------------------------------------- asserts


@pytest.mark.parametrize("level", ["1", "2"])
@pytest.mark.parametrize("command", ["run", "refresh"])
def test_a_false_assert_fails_whatever_the_reader_has_set(root: Path, level: str, command: str) -> None:
    small_course.replace(Course(root).get("first"), 'print("no database")', 'assert False, "planted"')
    done = python("-m", "playbook.kit.cli", "--course", root, command, "first", PYTHONOPTIMIZE=level)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AssertionError: planted" in done.stdout


@pytest.mark.parametrize("how", [{"option": "-O"}, {"option": "-OO"}, {"PYTHONOPTIMIZE": "1"}], ids=str)
def test_a_page_as_a_script_refuses_to_run_without_asserts(how: dict[str, str]) -> None:
    page = Course().get("decisions").text
    done = python(*filter(None, [how.get("option")]), page, **{k: v for k, v in how.items() if k != "option"})
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {NO_ASSERTS}\n")


def test_every_page_refuses_since_every_page_imports_what_refuses() -> None:
    """By itself, or through the module of its exercise."""
    refuses = ("from playbook.kit.lesson import", "from playbook.kit import lesson")
    texts = {p.key: p.source for p in Course().pairs}
    for page in Course().playbooks:
        if f"from playbook.exercises.{page.track}.{page.name} import" in page.source:
            texts[page.key] += answers.place(page).read_text(encoding="utf-8")
    assert [key for key, text in texts.items() if not any(line in text for line in refuses)] == []


def test_what_pages_export_can_be_imported_without_asserts() -> None:
    """A service may run so: its own modules do not check with asserts."""
    done = python("-O", "-c", "from playbook.schema import natural_keys; print(natural_keys.version_key('1.0'))")
    assert (done.returncode, done.stderr) == (0, "")


def test_pytest_refuses_to_run_without_asserts() -> None:
    done = python("-m", "pytest", "-n0", "-q", "tests/kit/test_maps.py", PYTHONOPTIMIZE="1")
    assert done.returncode == 4
    assert "every test would pass" in done.stderr


def test_a_kernel_without_asserts_says_so_in_the_cell() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "done = InteractiveShell.instance().run_cell('from playbook.kit.lesson import show')\n"
        "print(type(done.error_in_exec).__name__, done.error_in_exec)"
    )
    done = python("-O", "-c", code)
    assert f"RuntimeError {NO_ASSERTS}" in done.stdout


# ---------------------------------------------------------------- characters


@pytest.mark.parametrize("kind", HARSH)
@pytest.mark.parametrize("command", [["list"], ["find", "lost", "update"], ["run", "first", "-v"]])
def test_a_command_ends_well(root: Path, kind: str, command: list[str]) -> None:
    small_course.replace(Course(root).get("first"), 'print("no database")', 'print("a → b, \U0001f600")')
    done = python("-m", "playbook.kit.cli", "--course", root, *command, **HARSH[kind])
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("kind", HARSH)
def test_what_a_failing_page_printed_is_shown(root: Path, kind: str) -> None:
    small_course.replace(Course(root).get("first"), 'print("no database")', 'print("a → b")\nraise ValueError("é → ü")')
    done = python("-m", "playbook.kit.cli", "--course", root, "run", "first", "-v", **HARSH[kind])
    assert done.returncode == 1
    assert "UnicodeEncodeError" not in done.stdout + done.stderr
    assert "ValueError: " in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_script_writes_what_its_output_does_not_know_as_an_escape(encoding: str, tmp_path: Path) -> None:
    code = "from playbook.kit.lesson import show, table\nshow(table([('→ é',)], ['x']))"
    done = python("-c", code, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2192" in done.stdout


def test_an_encoding_error_that_the_reader_chose_is_kept(tmp_path: Path) -> None:
    code = "from playbook.kit.lesson import show, table\nshow(table([('→',)], ['x']))"
    assert "?" in python("-c", code, cwd=tmp_path, PYTHONIOENCODING="ascii:replace").stdout
