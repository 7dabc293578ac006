"""The reader's own copies: what is in them, that nothing of a reader's is lost, and what is remembered."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import forked
import nbformat
import pytest
from typer.testing import CliRunner

from playbook.kit import answers, cli, jupyter, jupyter_hooks, overview, pairing, progress, workbook
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError
from playbook.kit.maps import duration


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """The real course, in a folder that the test may change."""
    return copied(tmp_path / "course")


def copied(root: Path) -> Course:
    for name in ("playbook", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return Course(root)


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


# ---------------------------------------------------------------- what is in a copy


def test_every_copy_is_the_page_without_outputs_solution_and_pair(course: Course) -> None:
    where = workbook.places(course)
    assert sorted(workbook.make(course)) == sorted(where.values())
    for page in course.pairs:
        original, copy = read(page.notebook), read(where[page])
        first, *cells = copy.cells
        assert f"`playbook lab --fresh {page.name}`" in first.source
        assert "Imports come from the course" in first.source
        assert len(cells) == len(original.cells)
        for before, now in zip(original.cells, cells, strict=True):
            role = {"solution", "hint"} & set(before.metadata.get("tags", ()))
            assert now.cell_type == ("markdown" if role else before.cell_type)
            if before.cell_type == "code" and not role:
                assert (now.source, now.outputs, now.execution_count) == (before.source, [], None)
                assert "outputs_hidden" not in now.metadata.get("jupyter", {})
        text = where[page].read_text(encoding="utf-8")
        assert "jupytext" not in copy.metadata
        for solution in tagged(original, "solution"):
            assert json.dumps(solution.source)[1:-1] not in text
            assert f"`playbook solution {page.name}`" in text
        if page.track:
            shown = [cell.source for cell in cells if cell.source.startswith("<details>")]
            assert [hint in text for hint, text in zip(answers.hints(page), shown, strict=True)] == [True, True]


def needs_the_solution(page: Playbook) -> set[str]:
    """Names that a cell below the solution uses and that only the solution defines."""
    before: set[str] = set()
    solved: set[str] = set()
    used: set[str] = set()
    for cell in [c for c in read(page.notebook).cells if c.cell_type == "code"]:
        tree = ast.parse(cell.source)
        names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
        bound = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        bound |= {
            (a.asname or a.name).split(".")[0]
            for n in ast.walk(tree)
            if isinstance(n, (ast.Import, ast.ImportFrom))
            for a in n.names
        }
        if "solution" in cell.metadata.get("tags", ()):
            solved = bound - before
            continue
        if solved:
            used |= {n.id for n in names if isinstance(n.ctx, ast.Load)} & (solved - bound)
            solved -= bound
        before |= bound
    return used


def test_no_cell_needs_what_only_the_solution_defines(course: Course) -> None:
    assert {page.key: names for page in course.playbooks if (names := needs_the_solution(page))} == {}


def test_a_cell_that_needs_the_solution_would_be_found(course: Course) -> None:
    page = course.get("settings")
    notebook = read(page.notebook)
    notebook.cells.append(nbformat.v4.new_code_cell("print(IPv4Network)"))
    nbformat.write(notebook, page.notebook)
    assert needs_the_solution(page) == {"IPv4Network"}


def test_a_list_by_name_is_in_course_order(course: Course) -> None:
    workbook.make(course)
    names = [path.stem for path in sorted((course.root / "workbook").glob("*/*.ipynb"))]
    assert [re.sub(r"^\d+-", "", name) for name in names] == [page.name for page in course.playbooks]


def leads(path: Path) -> list[Path]:
    """Where the links to notebooks in the copy at `path` lead."""
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return [(path.parent / target).resolve() for target in re.findall(r"\]\(([^()\s#:]+\.ipynb)", text)]


def test_links_lead_from_copy_to_copy(course: Course) -> None:
    workbook.make(course)
    where = workbook.places(course)
    assert {target for path in where.values() for target in leads(path)} == set(where.values())
    before, after = course.neighbours(course.get("identity"))
    assert before
    assert after
    assert leads(where[course.get("identity")])[-3:] == [where[before], where[course.index], where[after]]


def test_on_binder_the_first_cell_says_that_it_does_not_last(course: Course) -> None:
    workbook.make(course, fleeting=True)
    for path in workbook.places(course).values():
        assert "Binder forgets your work" in read(path).cells[0].source
    assert "!playbook lab --zip" in read(workbook.places(course)[course.index]).cells[0].source


# ---------------------------------------------------------------- nothing is lost


def test_what_is_there_is_never_written_again(course: Course) -> None:
    workbook.make(course)
    where = workbook.places(course)
    mine, gone = where[course.get("settings")], where[course.get("engines")]
    mine.write_text("my own", encoding="utf-8")
    gone.unlink()
    assert workbook.make(course) == [gone]
    assert workbook.make(course) == []
    assert mine.read_text(encoding="utf-8") == "my own"


def test_a_page_without_a_notebook_is_left_out(course: Course) -> None:
    course.get("engines").notebook.unlink()
    workbook.make(course)
    assert not workbook.places(course)[course.get("engines")].exists()


def test_two_that_start_at_once_make_each_copy_once(course: Course) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom playbook.kit import workbook\n"
        "from playbook.kit.course import Course\ncourse = Course(Path(sys.argv[1]))\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\nprint(*workbook.make(course), sep='\\n')"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, course.root]
    processes = [forked.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    assert {process.stdout.readline() for process in processes} == {"ready\n"}
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    made = [Path(line) for process in processes for line in process.communicate(timeout=120)[0].split("\n") if line]
    there = [path for path in (course.root / "workbook").rglob("*") if path.is_file()]
    assert sorted(made) == sorted(there) == sorted(workbook.places(course).values())


def test_a_copy_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("the other lab's", encoding="utf-8")
    assert workbook._create(path, "ours") is False
    assert (path.read_text(encoding="utf-8"), list(tmp_path.iterdir())) == ("the other lab's", [path])


@pytest.mark.parametrize("linking", [True, False], ids=["links", "a system without links"])
def test_fresh_keeps_every_old_copy(course: Course, monkeypatch: pytest.MonkeyPatch, linking: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not linking:
        monkeypatch.setattr(os, "link", refuse)
    workbook.make(course)
    page = course.get("settings")
    path = workbook.places(course)[page]
    new = path.read_text(encoding="utf-8")
    for number, text in enumerate(("first", "second"), 1):
        path.write_text(text, encoding="utf-8")
        kept = workbook.begin_again(course, page)
        assert kept == path.with_name(f"02-settings-old-{number}.ipynb")
        assert kept.read_text(encoding="utf-8") == text
        assert path.read_text(encoding="utf-8") == new
    assert workbook.places(course)[page] == path
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_copies_keep_their_names_when_the_course_changes_its_order(course: Course) -> None:
    workbook.make(course)
    before = workbook.places(course)
    toml = course.root / "playbook" / "course.toml"
    text = toml.read_text(encoding="utf-8")
    first = text.replace('    "start_here",\n    "settings",', '    "settings",\n    "start_here",')
    assert first != text
    toml.write_text(
        first.replace('    "transactions",\n    "engines",', '    "engines",\n    "transactions",'), encoding="utf-8"
    )
    changed = Course(course.root)
    assert workbook.make(changed) == []
    now = workbook.places(changed)
    assert {page: now[page] for page in now} == {page: before[page] for page in now}
    workbook.begin_again(changed, changed.get("settings"))
    assert set(leads(now[changed.get("settings")])) <= set(before.values())


# ---------------------------------------------------------------- what has changed meanwhile


def change(path: Path, number: int, source: str) -> None:
    notebook = read(path)
    notebook.cells[number].source = source
    nbformat.write(notebook, path)


def test_a_page_that_changed_is_named_until_it_is_begun_again(course: Course) -> None:
    workbook.make(course)
    settings, engines = course.get("settings"), course.get("engines")
    change(settings.notebook, 2, "print('new in the course')")
    change(engines.notebook, -1, "Next: another page")  # links to neighbours are no change
    notebook = read(engines.notebook)
    notebook.cells[1].outputs = []
    nbformat.write(notebook, engines.notebook)
    change(workbook.places(course)[engines], 3, "print('mine')")  # and neither is what the reader writes
    (line,) = workbook.notices(course)
    assert line.startswith("changed in the course since your copy was made: settings; `playbook lab --fresh NAME`")
    workbook.begin_again(course, settings)
    assert workbook.notices(course) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"cells": 1, "metadata": {}}'])
def test_a_copy_that_is_no_notebook_any_more_is_named(course: Course, text: str) -> None:
    workbook.make(course)
    page = course.get("settings")
    workbook.places(course)[page].write_text(text, encoding="utf-8")
    says = "workbook/01-foundations/02-settings.ipynb is not a notebook any more: `playbook lab --fresh settings`"
    assert [line.startswith(says) for line in workbook.notices(course)] == [True]
    with pytest.raises(InputError, match="is not a notebook any more"):
        workbook.prepare(course, page)
    workbook.prepare(course, course.get("engines"))  # other pages open
    path, lines = workbook.prepare(course, page, fresh=True)
    assert lines == ["your copy of before is workbook/01-foundations/02-settings-old-1.ipynb"]
    assert workbook.readable(page, path)


def test_a_notebook_of_the_readers_own_in_the_place_of_a_copy_is_left_alone(course: Course) -> None:
    workbook.make(course)
    path = workbook.places(course)[course.get("settings")]
    nbformat.write(nbformat.v4.new_notebook(), path)
    assert workbook.notices(course) == []


# ---------------------------------------------------------------- folders that cannot be written


def test_a_workbook_that_cannot_be_written_is_said_in_one_line(course: Course) -> None:
    (course.root / "workbook").write_text("a file\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^workbook/ cannot be written \(.+\): make it a folder .* --edit`$"):
        workbook.prepare(course, course.index)
    assert (course.root / "workbook").read_text(encoding="utf-8") == "a file\n"


@pytest.fixture
def public() -> Iterator[Course]:
    """The course in a folder that every user may read: pytest's own folders are closed."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        yield copied(folder / "course")
    finally:
        shutil.rmtree(folder)


def as_somebody_else(work: Callable[[], list[str]]) -> list[str]:
    """What `work` returns in a process that may not write what root or this user made read-only."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            answer = work()
        except BaseException as error:
            answer = [f"{type(error).__name__}: {error}"]
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, encoding="utf-8") as answered:
        found: list[str] = json.load(answered)
    return found


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such users and rights")
def test_a_read_only_folder(public: Course) -> None:
    page = public.get("settings")

    def prepare() -> list[str]:
        return workbook.prepare(public, page)[1]

    public.root.chmod(0o555)
    (line,) = as_somebody_else(prepare)
    assert line.startswith("InputError: workbook/ cannot be written (Permission denied): ")
    public.root.chmod(0o755)
    workbook.make(public)
    assert prepare() == []
    for folder in (public.root / "workbook", *(public.root / "workbook").glob("*/")):
        folder.chmod(0o555)
    (line,) = as_somebody_else(prepare)  # it can be read, so it opens
    assert line.startswith("workbook/ is read-only")

    complained: list[str] = []
    hint = as_somebody_else(lambda: [workbook.next_hint(public, "settings", complained.append), *complained])
    assert hint[0].startswith(answers.hints(page)[0])
    assert hint[1].endswith("workbook/progress.jsonl: Permission denied")


# ---------------------------------------------------------------- what is remembered


def test_lines_that_are_not_ours_are_left_out_and_named(tmp_path: Path) -> None:
    assert progress.read(tmp_path) == progress.Progress()
    progress.append(tmp_path, {"page": "a/b", "verdict": "not yet: x"})
    with (tmp_path / progress.LOG).open("ab") as file:
        file.write(b'{"page": 7}\n[]\n\n\xff\n{"page": "a/c", "ver')  # the last line was cut short
    progress.append(tmp_path, {"page": "a/c", "verdict": "right"})
    progress.append(tmp_path, {"page": "a/c", "verdict": "not yet: y"})
    progress.append(tmp_path, {"page": "a/b", "hint": 2})
    found = progress.read(tmp_path)
    assert found == progress.Progress(
        {"a/c"}, {"a/b": "not yet: x", "a/c": "not yet: y"}, {"a/b": 2}, unreadable=[2, 3, 5, 6]
    )


def test_notebooks_that_report_at_once_lose_nothing(tmp_path: Path) -> None:
    together = Barrier(8)

    def report(who: int) -> None:
        together.wait()
        for number in range(50):
            progress.append(tmp_path, {"page": f"{who}/{number}", "verdict": "right"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    found = progress.read(tmp_path)
    assert (len(found.solved), found.unreadable) == (400, [])


IN_A_KERNEL = """
import os
from playbook.exercises.foundations.start_here import check
from playbook.kit import progress

def asked(told, folder):
    os.environ["JPY_SESSION_NAME"] = told
    os.chdir(folder)
    check(None)
    return progress.here()

ours, original = ROOT + "/workbook/01-foundations", ROOT + "/notebooks/foundations"
os.environ.pop("JPY_SESSION_NAME", None)
os.chdir(ours)
check(None)  # as nbclient and nbval run a notebook
assert progress.here() is None
assert asked(original + "/start_here.ipynb", original) is None
assert asked(ours + "/01-start_here.ipynb", original) is None  # started by a notebook, to run another one
assert not os.path.exists(ROOT + "/workbook/progress.jsonl")
assert str(asked(ours + "/01-start_here.ipynb", ours)) == ROOT + "/workbook"
assert str(asked(ours + "/01-start_here.ipynb", ours)) == ROOT + "/workbook"  # the same verdict again
os.rename(ROOT + "/workbook/progress.jsonl", ROOT + "/workbook/before")
os.mkdir(ROOT + "/workbook/progress.jsonl")
check(None)
"""


def test_a_verdict_counts_in_a_notebook_of_the_workbook_and_nowhere_else(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    workbook.make(course)
    cell = nbformat.v4.new_code_cell(IN_A_KERNEL.replace("ROOT", repr(str(course.root))))
    done = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for output in done.cells[0].outputs)
    lines = (course.root / "workbook" / "before").read_text(encoding="utf-8").splitlines()
    (line,) = map(json.loads, lines)
    assert line == {"page": "foundations/start_here", "verdict": printed.splitlines()[0]}
    assert printed.endswith("(not remembered: workbook/progress.jsonl: Is a directory)\n")

    # And never in a process that is no kernel, whatever its environment says.
    monkeypatch.setenv("JPY_SESSION_NAME", f"{course.root}/workbook/01-foundations/01-start_here.ipynb")
    monkeypatch.chdir(course.root / "workbook" / "01-foundations")
    assert progress.here() is None


def test_the_core_path_comes_first(course: Course) -> None:
    core = [page.key for page in course.core]
    nothing = overview.overview(course, progress.Progress())
    assert (nothing.done, nothing.next) == ((), course.core[0])
    assert nothing.count(course.core) == (f"0 of {len(core)}", duration(sum(p.minutes for p in course.core)))
    assert overview.overview(course, progress.Progress(set(core[:2]))).next == course.core[2] != course.playbooks[2]
    some = overview.overview(course, progress.Progress({core[0], core[2], "no/page"}))
    assert [some.status(page) for page in course.core[:4]] == ["done", "next", "done", "open"]
    assert some.count(course.core)[0] == f"2 of {len(core)}"
    rest = next(page for page in course.playbooks if page not in course.core)
    assert overview.overview(course, progress.Progress(set(core))).next == rest
    everything = overview.overview(course, progress.Progress({page.key for page in course.playbooks}))
    assert everything.next is None
    assert everything.count(course.playbooks) == (f"{len(course.playbooks)} of {len(course.playbooks)}", "0 min")


def test_the_landing_page_shows_what_is_done_only_in_the_workbook(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbook.make(course)
    progress.append(course.root / "workbook", {"page": "foundations/start_here", "verdict": "right"})
    progress.append(course.root / "workbook", {"page": "foundations/engines", "verdict": "right"})
    outside = overview.show_progress()._repr_mimebundle_()
    assert "✓" not in outside["text/markdown"]
    assert "Next: [Start here](foundations/start_here.ipynb), " in outside["text/markdown"]
    monkeypatch.setattr(progress, "here", lambda: course.root / "workbook")
    inside = overview.show_progress()._repr_mimebundle_()
    assert "Next: [Settings](01-foundations/02-settings.ipynb), " in inside["text/markdown"]
    assert "✓ [Start here](01-foundations/01-start_here.ipynb), [Settings]" in inside["text/markdown"]
    assert "Done beside it: ✓ [Engines](01-foundations/05-engines.ipynb)." in inside["text/markdown"]
    assert "Next: Settings, " in inside["text/plain"]


# ---------------------------------------------------------------- the commands


def call(course: Course, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["--course", str(course.root), *arguments], prog_name="playbook")


def test_hint_gives_one_hint_at_a_time_and_remembers(course: Course) -> None:
    first, second = answers.hints(course.get("settings"))
    assert call(course, "hint", "settings").output == f"{first}\n(1 of 2)\n"
    assert call(course, "hint", "engines").output.startswith(answers.hints(course.get("engines"))[0])
    assert call(course, "hint", "foundations/settings").output == f"{second}\n(2 of 2)\n"
    again = call(course, "hint", "settings").output
    assert again == f"{first}\n{second}\nThese are all hints. The solution: playbook solution settings\n"
    assert workbook.make(course)  # the hints were remembered before there was a copy


def test_solution_prints_what_the_checker_accepts(course: Course) -> None:
    printed = call(course, "solution", "settings").output
    assert printed == answers.solution(course.get("settings")) + "\n"
    assert printed.endswith("assert check(ProxySettings)\n")


@pytest.mark.parametrize("command", ["hint", "solution", "lab"])
def test_a_page_that_does_not_exist(course: Course, command: str) -> None:
    assert "did you mean settings?" in str(call(course, command, "setings").exception)


@pytest.mark.parametrize("command", ["hint", "solution"])
def test_a_page_without_an_exercise(course: Course, command: str) -> None:
    assert str(call(course, command, "index").exception).startswith("index has no exercise")


def test_progress_lists_the_pages_in_course_order(course: Course) -> None:
    workbook.make(course)
    progress.append(course.root / "workbook", {"page": "foundations/start_here", "verdict": "right"})
    progress.append(course.root / "workbook", {"page": "foundations/engines", "verdict": "not yet: something"})
    with (course.root / "workbook" / progress.LOG).open("a", encoding="utf-8") as file:
        file.write("?\n")
    change(course.get("engines").notebook, 2, "print('new')")
    output = call(course, "progress").output
    rows = re.findall(r"^(done|next|open) +(\w+)", output, re.M)
    assert [name for _, name in rows] == [page.name for page in course.playbooks]
    assert rows[:3] == [("done", "start_here"), ("next", "settings"), ("open", "clock_and_identifiers")]
    assert re.search(r"^open +engines +\d+ +not yet: something *$", output, re.M)
    assert f"core path: 1 of {len(course.core)} done, " in output
    assert "next: playbook lab settings\n" in output
    assert "line 3 of workbook/progress.jsonl cannot be read" in output
    assert "changed in the course since your copy was made: engines;" in output


def test_progress_says_when_it_cannot_be_read(course: Course) -> None:
    (course.root / "workbook" / progress.LOG).mkdir(parents=True)
    assert str(call(course, "progress").exception).startswith("workbook/progress.jsonl cannot be read: ")


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that `playbook lab` would become; tests/kit/test_cli.py and the browser start real ones."""
    found: list[list[str]] = []
    monkeypatch.setattr(cli, "_become", lambda command, folder: found.append(command))
    monkeypatch.setenv(jupyter.VARIABLE, "mine")
    return found


def test_lab_opens_the_copy_and_edit_the_original(course: Course, became: list[list[str]]) -> None:
    assert call(course, "lab", "--edit").output == ""
    assert not (course.root / "workbook").exists()
    assert f"{len(course.pairs)} pages in workbook/" in call(course, "lab", "settings", "--LabApp.x=1").output
    assert os.environ[jupyter.VARIABLE].startswith(f"mine{os.pathsep}{jupyter.DEFAULTS}")
    assert call(course, "lab", "--edit", "settings").output == ""
    opened = [[word for word in command if "default_url" in word] for command in became]
    copy = "--LabApp.default_url=/lab/tree/workbook/01-foundations/02-settings.ipynb"
    assert opened[0] == ["--LabApp.default_url=/lab/tree/notebooks/index.ipynb"]
    assert opened[1] == [copy]
    assert opened[2] == ["--LabApp.default_url=/lab/tree/notebooks/foundations/settings.ipynb"]
    assert became[1][-1] == "--LabApp.x=1"
    assert "02-settings-old-1.ipynb" in call(course, "lab", "--fresh", "settings").output


@pytest.mark.parametrize(
    ("words", "opened", "rest"),
    [
        (["--allow-root", "settings"], "settings", ["--allow-root"]),
        (["--allow-root", "foundations/settings.py", "--debug"], "settings", ["--allow-root", "--debug"]),
        (["--ip", "0.0.0.0", "settings"], "settings", ["--ip", "0.0.0.0"]),
        (["--LabApp.x=1", "settings"], "settings", ["--LabApp.x=1"]),
        (["settings", "--ip", "engines"], "settings", ["--ip", "engines"]),
        (["--ip", "0.0.0.0"], "index", ["--ip", "0.0.0.0"]),
    ],
)
def test_options_of_jupyterlab_may_stand_before_the_name(
    course: Course, became: list[list[str]], words: list[str], opened: str, rest: list[str]
) -> None:
    assert call(course, "lab", "--edit", *words).exit_code == 0
    where = course.get(opened).notebook.relative_to(course.root).as_posix()
    (command,) = became
    assert command[-len(rest) - 1 :] == [f"--LabApp.default_url=/lab/tree/{where}", *rest]


def test_a_name_that_cannot_be_the_value_of_an_option_is_looked_up(course: Course, became: list[list[str]]) -> None:
    assert "did you mean settings?" in str(call(course, "lab", "--LabApp.x=1", "setings").exception)
    assert became == []


@pytest.mark.parametrize("arguments", [["--fresh"], ["--fresh", "--edit", "settings"]])
def test_fresh_needs_a_copy(course: Course, became: list[list[str]], arguments: list[str]) -> None:
    assert "`playbook lab --fresh NAME`" in str(call(course, "lab", *arguments).exception)
    assert (became, (course.root / "workbook").exists()) == ([], False)


def test_a_lab_that_shows_the_folder_already_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    server = {"url": "http://localhost:8888/", "root_dir": str(ROOT), "pid": os.getpid()}
    for name, info in {"1": server, "2": server | {"root_dir": "/other"}, "3": server | {"pid": 2**22 + 1}}.items():
        (tmp_path / f"jpserver-{name}.json").write_text(json.dumps(info), encoding="utf-8")
    (tmp_path / "jpserver-4.json").write_text("{", encoding="utf-8")
    (line,) = jupyter.running(ROOT)
    assert "at http://localhost:8888/lab;" in line


def test_the_zip_brings_the_workbook_back(course: Course, tmp_path: Path) -> None:
    assert "there is no workbook/ yet" in str(call(course, "lab", "--zip").exception)
    workbook.make(course)
    progress.append(course.root / "workbook", {"page": "foundations/start_here", "verdict": "right"})
    (course.root / "workbook" / ".ipynb_checkpoints").mkdir()
    (course.root / "workbook" / ".ipynb_checkpoints" / "x.ipynb").write_text("{}", encoding="utf-8")
    for _ in range(2):  # the second does not hold the first
        assert call(course, "lab", "--zip").output == "wrote  workbook/workbook.zip\n"
    with zipfile.ZipFile(course.root / "workbook" / "workbook.zip") as archive:
        archive.extractall(tmp_path)
    there = {p.relative_to(course.root) for p in (*workbook.places(course).values(),)}
    files = {p.relative_to(tmp_path) for p in (tmp_path / "workbook").rglob("*") if p.is_file()}
    assert files == there | {Path("workbook") / progress.LOG}


# ---------------------------------------------------------------- JupyterLab


def test_an_original_that_lost_its_folding_gets_it_back_when_it_is_saved() -> None:
    page = Course().get("settings")
    stored = json.loads(page.notebook.read_text(encoding="utf-8"))
    lost = json.loads(json.dumps(stored))
    for cell in lost["cells"]:
        tags = [tag for tag in cell["metadata"].get("tags", ()) if tag not in pairing.BOOK_TAGS]
        cell["metadata"] = ({"tags": tags} if tags else {}) | {"mine": 1}
    before = json.dumps(lost)
    manager = type("Manager", (), {"root_dir": str(ROOT)})
    model: dict[str, Any] = {"type": "notebook", "content": lost}
    jupyter_hooks.fold_before_save(model, f"notebooks/{page.key}.ipynb", manager)
    cells = model["content"]["cells"]
    assert [c["metadata"] for c in cells] == [c["metadata"] | {"mine": 1} for c in stored["cells"]]
    assert json.dumps(lost) == before, "the text beside it is made from the same cells"
    for path, kind in (("workbook/01-foundations/02-settings.ipynb", "notebook"), (f"playbook/{page.key}.py", "file")):
        model = {"type": kind, "content": lost}
        jupyter_hooks.fold_before_save(model, path, manager)
        assert model["content"] is lost
