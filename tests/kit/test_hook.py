"""Importing a playbook runs its export cells only, with the line numbers of the file the reader sees."""

import ast
import compileall
import importlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import playbook
from playbook.kit import hook
from playbook.kit.course import Course
from playbook.kit.data import ROOT
from playbook.kit.pairing import from_text

LESSON = '''\
# %% [markdown]
"""
# Greeting

Greet somebody.
"""

# %%
ran = []
raise SystemExit("a demonstration ran at import")

# %% tags=["export"]
def greet(name: str) -> str:
    if not name:
        raise ValueError("nobody to greet")
    return f"Hello {name}"


# %% tags=["exercise"]
ran.append("exercise")

# %% jupyter={"source_hidden": true} tags=["export", "solution"]
WORD = "Hello"
'''


class Package:
    """The package `playbook.made_here`, whose modules a test writes, for as long as the test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "made_here"
        self.folder.mkdir()
        self.imported: set[str] = set()

    def write(self, name: str, source: str) -> Path:
        path = self.folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return path

    def load(self, name: str) -> ModuleType:
        return importlib.import_module(f"playbook.made_here.{name.replace('/', '.')}")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    made = Package(tmp_path)
    monkeypatch.setattr(playbook, "__path__", [*playbook.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield made
    for name in [name for name in sys.modules if name.startswith("playbook.made_here")]:
        del sys.modules[name]


def test_only_export_cells_run(package: Package) -> None:
    package.write("greeting", LESSON)
    module = package.load("greeting")
    assert module.greet("you") == "Hello you"
    assert module.WORD == "Hello"
    assert not hasattr(module, "ran")


def test_the_title_cell_is_the_docstring(package: Package) -> None:
    package.write("greeting", LESSON)
    assert (package.load("greeting").__doc__ or "").strip() == "# Greeting\n\nGreet somebody."


def test_blanking_keeps_every_line_where_it_is() -> None:
    kept = hook.exported(LESSON).split("\n")
    lines = LESSON.split("\n")
    assert len(kept) == len(lines)
    assert all(after in ("", before) for before, after in zip(lines, kept, strict=True))


def test_a_traceback_names_the_line_of_the_file_and_shows_it(package: Package) -> None:
    path = package.write("greeting", LESSON)
    try:
        package.load("greeting").greet("")
    except ValueError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
    wanted = LESSON.split("\n").index('        raise ValueError("nobody to greet")') + 1
    assert (frame.filename, frame.lineno) == (str(path), wanted)
    assert frame.line == 'raise ValueError("nobody to greet")'
    assert linecache.getline(str(path), wanted).strip() == frame.line


def test_a_syntax_error_in_an_export_cell_names_file_and_line(package: Package) -> None:
    path = package.write("broken", '# %%\nx = 1\n\n# %% tags=["export"]\ndef f(:\n    pass\n')
    with pytest.raises(SyntaxError) as caught:
        package.load("broken")
    assert (caught.value.filename, caught.value.lineno) == (str(path), 5)


def test_a_syntax_error_in_any_other_cell_does_not_matter(package: Package) -> None:
    package.write("half_written", '# %%\ndef f(:\n\n# %% tags=["export"]\nanswer = 42\n')
    assert package.load("half_written").answer == 42


@pytest.mark.parametrize(
    "source",
    [
        "answer = 42\n",
        'answer = 42\ntext = """\n  # %% not a cell: it does not start the line\n"""\n',
        "answer = 42  # %% nor this\n",
        "answer = 42\n# %%time\n",
        "",
    ],
)
def test_a_file_without_cells_is_imported_whole(package: Package, source: str) -> None:
    package.write("plain", source)
    assert getattr(package.load("plain"), "answer", 42) == 42
    assert hook.exported(source).strip() == "" or list(hook.cells(source)) == []


def test_the_kit_and_the_rest_of_the_world_keep_pythons_loader() -> None:
    for name in ("playbook.kit.course", "json", "pytest"):
        module = sys.modules[name]
        assert module.__spec__ is not None
        assert not isinstance(module.__spec__.loader, hook.PlaybookLoader)
    assert hook.PlaybookFinder.find_spec("playbook.kit.hook") is None
    assert hook.PlaybookFinder.find_spec("playbook.kit") is None


def test_a_package_can_be_a_playbook(package: Package) -> None:
    package.write("deep/__init__", LESSON)
    package.write(
        "deep/below", '# %%\nraise SystemExit\n\n# %% tags=["export"]\nfrom playbook.made_here.deep import WORD\n'
    )
    assert package.load("deep").WORD == "Hello"
    assert package.load("deep/below").WORD == "Hello"
    assert package.load("deep").__path__ == [str(package.folder / "deep")]


def test_reload_sees_an_edit(package: Package) -> None:
    path = package.write("greeting", LESSON)
    module = package.load("greeting")
    before = path.stat()
    path.write_text(LESSON.replace('WORD = "Hello"', 'WORD = "Salve"'), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same second, same size
    assert importlib.reload(module).WORD == "Salve"


def test_other_metadata_on_the_header_line(package: Package) -> None:
    package.write(
        "headers",
        """\
        # %% A title jupyter={"source_hidden": true} tags=["export"]
        first = 1

        # %% tags=["export","other"] jupyter={"tags=": ["no"]}
        second = 2

        # %% [markdown] tags=["nav"]
        # words

        # %% tags=[]
        third = 3

        # %% hashtags=["export"]
        fourth = 4
        """,
    )
    module = package.load("headers")
    assert (module.first, module.second) == (1, 2)
    assert not hasattr(module, "third")
    assert not hasattr(module, "fourth")


# --- bytecode, each import in a process of its own, as a reader's would be ---


def python(package: Package, code: str, *options: str, **env: str) -> str:
    """What a new interpreter prints that can import `package`'s modules."""
    prepared = f"import playbook; playbook.__path__.append({str(package.folder.parent)!r})\n{code}"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    done = subprocess.run(
        [sys.executable, *options, "-c", prepared], env=clean | env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bytecode(package: Package) -> list[Path]:
    return sorted(package.folder.rglob("*.pyc"))


SAY = "from playbook.made_here.greeting import WORD; print(WORD)"


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(package: Package) -> None:
    path = package.write("greeting", LESSON)
    before = path.stat()
    assert python(package, SAY) == "Hello"
    assert len(bytecode(package)) == 1, "nothing was cached, so this test would prove nothing"
    path.write_text(LESSON.replace('WORD = "Hello"', 'WORD = "Salve"'), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert python(package, SAY) == "Salve"


def test_the_second_import_uses_the_bytecode(package: Package) -> None:
    package.write("greeting", LESSON)
    assert python(package, SAY) == "Hello"
    compiling_fails = "from playbook.kit import hook\nhook.exported = lambda source: 1 / 0\n"
    assert python(package, compiling_fails + SAY) == "Hello"


def test_bytecode_made_without_the_hook_is_not_used(package: Package) -> None:
    path = package.write("greeting", LESSON.replace("raise SystemExit", "print"))
    assert compileall.compile_file(str(path), quiet=2)
    assert bytecode(package), "compileall made nothing, so this test would prove nothing"
    assert python(package, SAY) == "Hello"


@pytest.mark.parametrize("keep", [0, 7, 15, 16, 17, 60])
def test_a_cached_file_cut_short_is_survived(package: Package, keep: int) -> None:
    package.write("greeting", LESSON)
    python(package, SAY)
    [cached] = bytecode(package)
    whole = cached.read_bytes()
    cached.write_bytes(whole[:keep])
    assert python(package, SAY) == "Hello"
    assert cached.read_bytes() == whole, "the broken file was not replaced"


def test_python_is_obeyed_that_writes_no_bytecode(package: Package) -> None:
    package.write("greeting", LESSON)
    assert python(package, SAY, PYTHONDONTWRITEBYTECODE="1") == "Hello"
    assert bytecode(package) == []


def test_optimised_code_is_kept_apart(package: Package) -> None:
    package.write("strict", '# %% tags=["export"]\ndef f():\n    assert False, "kept"\n')
    call = "from playbook.made_here.strict import f\ntry: print(f())\nexcept AssertionError as e: print(e)"
    assert python(package, call, "-O") == "None"
    assert python(package, call) == "kept"


def test_a_copied_tree_reports_its_own_files(package: Package, tmp_path: Path) -> None:
    package.write("greeting", LESSON)
    python(package, SAY)
    copied = tmp_path / "copy"
    copied.mkdir()
    package.folder.rename(copied / "made_here")
    package.folder = copied / "made_here"
    where = "from playbook.made_here import greeting; print(greeting.greet.__code__.co_filename)"
    assert python(package, where) == str(package.folder / "greeting.py")


def test_a_folder_that_cannot_be_written_is_survived(package: Package) -> None:
    package.write("greeting", LESSON)
    (package.folder / "__pycache__").write_text("in the way", encoding="utf-8")
    assert python(package, SAY) == "Hello"


def test_many_threads_may_import_at_once(package: Package) -> None:
    package.write("greeting", LESSON)
    together = textwrap.dedent("""
        import importlib, threading
        seen = []
        def load():
            start.wait()
            seen.append(importlib.import_module("playbook.made_here.greeting").WORD)
        start = threading.Barrier(8)
        threads = [threading.Thread(target=load) for _ in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
        print(seen == ["Hello"] * 8)
    """)
    assert python(package, together) == "True"


def test_coverage_counts_the_lines_of_the_file(package: Package, tmp_path: Path) -> None:
    """Executed and missing lines are those of the file the reader sees. Cells that an import does not run are left out
    by the project's own configuration, or each of them would count as untested."""
    source = LESSON.replace("raise SystemExit(", "print(")  # coverage does not count what follows a raise
    path = package.write("greeting", source)
    script = tmp_path / "use.py"
    script.write_text(
        f"import playbook; playbook.__path__.append({str(tmp_path)!r})\n"
        "from playbook.made_here.greeting import greet\ngreet('you')\n",
        encoding="utf-8",
    )
    configured = f"--rcfile={ROOT / 'pyproject.toml'}"
    report = tmp_path / "report.json"
    env = os.environ | {"COVERAGE_FILE": str(tmp_path / "coverage")}
    for command in (
        ["run", configured, f"--include={path}", str(script)],
        ["json", configured, "-q", "-o", str(report)],
    ):
        subprocess.run([sys.executable, "-m", "coverage", *command], env=env, check=True, timeout=60)
    [found] = json.loads(report.read_text())["files"].values()
    numbered = {line.strip(): number for number, line in enumerate(source.split("\n"), 1)}
    executed = ["def greet(name: str) -> str:", "if not name:", 'return f"Hello {name}"', 'WORD = "Hello"']
    assert found["executed_lines"] == sorted(numbered[line] for line in executed)
    assert found["missing_lines"] == [numbered['raise ValueError("nobody to greet")']]


# --- the hook reads cells as jupytext does ---


def test_cells_agree_with_jupytext(tmp_path: Path) -> None:
    """For every playbook: as many cells, of the same kind, with the same tags, holding the same lines."""
    for pair in Course().pairs:
        if not pair.text.is_file():
            continue
        theirs = from_text(pair).cells
        ours = list(hook.cells(pair.source))
        assert len(ours) == len(theirs), pair.key
        lines = pair.source.split("\n")
        for our, their in zip(ours, theirs, strict=True):
            where = f"{pair.key}, line {our.start}"
            assert our.markdown == (their.cell_type == "markdown"), where
            folded = {"hide-input", "hide-output"}  # written by the tools, not in the text
            assert our.tags == frozenset(their.metadata.get("tags", ())) - folded, where
            body = "\n".join(lines[our.start : our.stop]).strip()
            body = body.removeprefix('"""').removesuffix('"""').strip() if our.markdown else body
            assert body == their.source.strip(), where


def test_export_cells_parse_by_themselves() -> None:
    """What is exported is Python when everything else is blank: no cell ends inside a string or a bracket."""
    for pair in Course().pairs:
        if pair.text.is_file():
            ast.parse(hook.exported(pair.source), filename=str(pair.text))


# --- importing it is cheap ---


def test_importing_the_package_is_light() -> None:
    heavy = {"jupytext", "nbformat", "IPython", "sqlalchemy", "fastapi", "httpx", "duckdb", "pydantic", "rich", "typer"}
    code = "import playbook, playbook.kit, playbook.kit.hook, playbook.kit.course, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert heavy & set(done.stdout.split()) == set()
    assert "playbook.kit.rerun" not in done.stdout.split()


def test_install_is_done_once() -> None:
    before = list(sys.meta_path)
    hook.install()
    assert sys.meta_path == before
    assert sys.meta_path.count(hook.PlaybookFinder) == 1


def test_the_loader_is_a_source_loader() -> None:
    """inspect, linecache and debuggers ask the loader for the source; they must get the whole file."""
    pair = next(p for p in Course().pairs if p.text.is_file())
    loader = hook.PlaybookLoader(pair.module, str(pair.text))
    assert isinstance(loader, SourceFileLoader)
    assert loader.get_source(pair.module) == pair.source
