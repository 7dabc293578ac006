"""The command line: what it prints, what it leaves behind, and how it ends."""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import forked
import new_page
import pytest
import small_course
from ports import free_port
from typer.testing import CliRunner

from playbook.kit import binder, book, cli, ready
from playbook.kit.course import Course
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError

COMMAND = [sys.executable, "-m", "playbook.kit.cli"]
SECRET = "hunter2"
DEADLINE = 240  # seconds, for what takes one: it only ends a test that would never end


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("PANTRY_")}
    return kept | more


def call(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The command as a reader runs it, in a process of its own."""
    return forked.run([*COMMAND, *arguments], DEADLINE, cwd, environment(**(env or {})), text=True)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a call that was bad input; checks that there is nothing else."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@contextmanager
def started(*arguments: str | Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command, running; ended for certain when the block ends."""
    process = forked.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**(env or {})),
        cwd=ROOT,
    )
    watch = threading.Timer(DEADLINE, process.kill)
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "course"
    small_course.start(root)
    small_course.with_kit(root)
    small_course.add(root, "foundations/first", topics="lost update")
    small_course.add(root, "foundations/second")
    small_course.add(root, "api/third")
    return root


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a course of the test's own stands: its pages import kit and exercises from there."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "course"))
    return tmp_path / "course"


@pytest.fixture
def root(made: Path, place: Path) -> Path:
    """A small course that the test may spoil."""
    return Path(shutil.copytree(made, place))


# ---------------------------------------------------------------- light


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    """So it answers at once; how fast that is, `playbook bench import` measures."""
    code = (
        "import sys\nfrom playbook.kit import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    print('code', end.code or 0)\n"
        "print('imported', *sorted(m for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT, check=True)
    shown, _, imported = done.stdout.partition("imported")
    assert "code 0" in shown
    for command in (
        "list",
        "find",
        "run",
        "hint",
        "solution",
        "progress",
        "lift",
        "lifted",
        "lab",
        "refresh",
        "check",
        "budget",
        "new",
        "serve",
        "postgres",
        "bench",
        "binder-url",
    ):
        assert re.search(rf"^\W*{command}\b", shown, re.M), command
    heavy = {"sqlalchemy", "duckdb", "nbformat", "jupytext", "uvicorn", "fastapi", "pydantic", "psycopg", "httpx"}
    assert heavy & set(imported.split()) == set()
    own = {m for m in imported.split() if m.startswith("playbook.") and not m.startswith("playbook.kit")}
    assert own == set(), "a page was imported"


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("sqlalchemy", "duckdb", "nbformat", "jupytext", "uvicorn", "fastapi", "pydantic", "psycopg", "asyncio")
    code = f"import sys, playbook.kit.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_command_the_help_is_shown() -> None:
    done = call()
    assert done.returncode == 0
    assert "Usage: playbook" in done.stdout


def test_the_installed_script_is_this_command_line() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="playbook")
    assert script.load() is cli.main


# ---------------------------------------------------------------- wrong input: one line, exit code 2


USAGE = [
    (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
    (["run", "--jbs", "3"], "No such option: --jbs (Possible options: --jobs)"),
    (["run", "--jobs", "0"], "Invalid value for '--jobs'"),
    (["find"], "Missing argument 'WORDS...'"),
    (["new"], "Missing argument 'TRACK/NAME'"),
    (["serve", "--port", "70000"], "Invalid value for '--port'"),
    (["serve", "extra"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_a_command_that_cannot_be_understood(arguments: list[str], says: str) -> None:
    line = refused(call(*arguments))
    assert says in line
    assert "--help` shows what there is" in line


WRONG = [
    (["run", "frist"], "no playbook is called 'frist': did you mean first?"),
    (["refresh", "api/thrid"], "no playbook is called 'api/thrid': did you mean api/third?"),
    (["lab", "secnd"], "did you mean second?"),
    (["lab", "first"], "notebooks/foundations/first.ipynb does not exist: make it with `playbook refresh first`"),
    (["run", "zzzzzz"], "`playbook list` shows them all"),
    (["refresh", "--from-notebook"], "name the playbooks whose notebooks you edited"),
    (["refresh", "--from-notebook", "first"], "notebooks/foundations/first.ipynb does not exist"),
    (["run", "--postgres", "--database", "duckdb:///x"], "exclude each other"),
    (["find", "?!"], "nothing to look for"),
    (["new", "fundations/x"], "no track is called 'fundations': did you mean foundations?"),
    (["new", "first"], "'first' is not TRACK/NAME"),
    (["new", "api/first"], "there is a playbook foundations/first already"),
    (["new", "api/queue"], "queue is a module of the standard library"),
    (["new", "api/BigThing"], "did you mean big_thing?"),
    (["new", "api/lambda"], "'lambda' cannot be a module's name"),
    (["new", "api/../up"], "is not TRACK/NAME"),
    (["bench"], "there are no benchmarks"),
    (["binder-url"], "--repo"),
    (["binder-url", "--repo", "somewhere"], "is not the address of a repository on a public host"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_is_asked_for_does_not_exist(root: Path, arguments: list[str], says: str) -> None:
    files = sorted(root.rglob("*"))
    assert says in refused(call("--course", root, *arguments))
    assert sorted(root.rglob("*")) == files


def test_a_folder_without_a_course(tmp_path: Path) -> None:
    assert "playbook/course.toml cannot be read" in refused(call("--course", tmp_path, "list"))


def test_a_course_file_that_cannot_be_read(root: Path) -> None:
    toml = root / "playbook" / "course.toml"
    toml.write_text("[[track]]\nname = 'x'\n")
    assert "every [[track]] needs a name, a title and a list" in refused(call("--course", root, "list"))
    toml.write_text("[[track\n")
    assert "playbook/course.toml cannot be read" in refused(call("--course", root, "list"))


def test_a_text_that_is_missing_is_said_before_anything_runs(root: Path) -> None:
    (root / "playbook" / "api" / "third.py").unlink()
    for command in ("run", "refresh", "list", "check"):
        line = refused(call("--course", root, command))
        assert line == "api/third is in course.toml but playbook/api/third.py does not exist"


BROKEN = ["nonsense", "mysql://u:hunter2@h/x", "postgresql://u:hunter2@h:port/x", "duckdb://file.db", "duckdb://"]


@pytest.mark.parametrize("url", BROKEN)
@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_broken_database_url(root: Path, url: str, command: str) -> None:
    arguments = ["serve", "--port", "0"] if command == "serve" else ["run", "first"]
    line = refused(call("--course", root, *arguments, env={"DATABASE_URL": url}))
    assert line.startswith("DATABASE_URL")
    assert "duckdb:///FILE or postgresql://USER:PASSWORD@HOST/NAME" in line
    assert SECRET not in line
    given = refused(call("--course", root, "run", "--database", url)) if command == "run" else "--database"
    assert given.startswith("--database")


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["run", "--postgres"], ["run", "--database"]])
def test_a_postgresql_server_that_does_not_answer(root: Path, command: list[str]) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/pantry"
    env = {"DATABASE_URL": url}
    if command[-1] == "--database":
        command, env = [*command, url], {}
    line = refused(call("--course", root, *command, env=env))
    assert "PostgreSQL at 127.0.0.1 cannot be reached" in line
    assert SECRET not in line


def test_a_database_file_that_cannot_be_opened(tmp_path: Path) -> None:
    line = refused(call("serve", "--port", "0", env={"DATABASE_URL": f"duckdb:///{tmp_path}/gone/x.duckdb"}))
    assert "cannot be opened" in line


def test_a_wrong_setting() -> None:
    assert "PANTRY_SECERT" in refused(call("serve", "--port", "0", env={"PANTRY_SECERT": SECRET}))


@pytest.mark.parametrize("command", ["serve", "lab"])
def test_a_port_in_use(root: Path, command: str) -> None:
    (root / "notebooks" / "index.ipynb").write_text("{}")
    with taken_port() as port:
        line = refused(call("--course", root, command, "--port", str(port)))
    assert line == f"port {port} is in use: stop the program that has it, or choose another with `--port`"


def test_an_address_that_is_not_this_machine() -> None:
    assert "is not an address of this machine" in refused(call("serve", "--port", "0", "--host", "192.0.2.1"))
    with pytest.raises(InputError, match=r"is not an address of this machine .*: use 127\.0\.0\.1"):
        ready.listen("nowhere.invalid", 0)


def put_data(root: Path) -> Path:
    import hashlib

    path, content = root / "data" / "things.csv", b"name\nhttpx\n"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (root / "data" / "manifest.toml").write_text(f'["things.csv"]\nbytes = {len(content)}\nsha256 = "{digest}"\n')
    return path


def test_a_data_file_that_is_missing_cut_short_or_changed(root: Path) -> None:
    path = put_data(root)
    assert call("--course", root, "run", "first").returncode == 0
    path.write_bytes(b"name\nhttpy\n")
    assert "data/things.csv has been changed: restore it" in refused(call("--course", root, "run", "first"))
    path.write_bytes(b"name\n")
    line = refused(call("--course", root, "run", "first"))
    assert line == "data/things.csv has 5 bytes instead of 11: restore it with `git checkout -- data/things.csv`"
    path.unlink()
    assert "data/things.csv is missing" in refused(call("--course", root, "run", "first"))
    (root / "data" / "manifest.toml").unlink()
    assert "data/manifest.toml is missing" in refused(call("--course", root, "run", "first"))


# ---------------------------------------------------------------- list, find


def test_list_shows_every_playbook_by_track(root: Path) -> None:
    done = call("--course", root, "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "foundations: the ground (32 min)" in lines
    assert "api: the contract (16 min)" in lines
    (third,) = [line for line in lines if line.startswith("third")]
    assert third.split("  ")[0] == "third"
    assert "Third" in third
    assert "16" in third
    assert third.endswith("Keep a number between its bounds, whatever comes in.")


@pytest.mark.parametrize("command", ["list", "find bounds", "--help", "binder-url --repo https://github.com/me/course"])
def test_a_reader_that_closes_the_pipe_hears_nothing(root: Path, command: str) -> None:
    line = f"'{sys.executable}' -m playbook.kit.cli --course '{root}' {command} | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stderr == ""


def test_find_gives_the_best_first_with_reason_and_command(root: Path) -> None:
    done = call("--course", root, "find", "lost", "updates")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "1. First (foundations/first, 16 minutes)",
        "   Keep a number between its bounds, whatever comes in.",
        '   begin at "See it break"; found by topic "lost update"',
        "   open: playbook lab first   (notebooks/foundations/first.ipynb)",
    ]


def test_find_shows_as_many_as_asked_for(root: Path) -> None:
    done = call("--course", root, "find", "bounds", "--limit", "1")
    assert "2. " not in done.stdout
    assert done.stdout.splitlines()[-1] == "2 more: `--limit 3` shows them"


def test_find_says_when_there_is_nothing(root: Path) -> None:
    done = call("--course", root, "find", "updaet")
    assert (done.returncode, done.stdout) == (1, "")
    advice = "(try one word of the subject, or `playbook list`, which shows all pages)"
    assert done.stderr == f"nothing found: 'updaet' occurs nowhere: did you mean 'update'? {advice}\n"


def test_find_shows_the_sentence_of_the_glossary_first(root: Path) -> None:
    text = '[[term]]\nterm = "hash flooding"\nsentence = "Many keys with one hash."\n'
    (root / "playbook" / "glossary.toml").write_text(text, encoding="utf-8")
    done = call("--course", root, "find", "hash", "flooding")
    assert (done.returncode, done.stdout) == (0, "hash flooding: Many keys with one hash. (glossary)\n")
    assert call("--course", root, "find", "flooding").returncode == 1


# ---------------------------------------------------------------- run


def test_run_runs_all_and_says_how_to_open_the_course(root: Path) -> None:
    done = call("--course", root, "run")
    assert done.returncode == 0
    *each, summary, last = done.stdout.splitlines()
    assert sorted(re.sub(r" +[\d.]+ s$", "", line) for line in each) == [
        "ok    api/third",
        "ok    foundations/first",
        "ok    foundations/second",
    ]
    assert re.fullmatch(r"3 playbooks: 3 passed, 0 failed, [\d.]+ s", summary)
    assert last == "open the course: playbook lab"
    assert done.stderr == ""


def test_a_failing_playbook_shows_its_cell_and_why_and_the_exit_code_says_so(root: Path) -> None:
    third = Course(root).get("third")
    small_course.replace(third, 'print("no database")', '# first\nprint("said before")\nraise ValueError("too much")')
    line = third.text.read_text().split("\n").index('raise ValueError("too much")') + 1
    done = call("--course", root, "run", "first", "third")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, text in enumerate(lines) if text.startswith("FAIL  api/third"))
    assert lines[at + 1] == f"      cell 6 (on-postgresql-2), playbook/api/third.py:{line}: # first"
    assert lines[at + 2] == "      ValueError: too much"
    assert any(text.startswith("ok    foundations/first") for text in lines)
    assert "2 playbooks: 1 passed, 1 failed" in lines[-1]
    assert "said before" not in done.stdout
    assert "      | said before" in call("--course", root, "run", "third", "--verbose").stdout.splitlines()


FAILURES = {
    "in a function of another cell": ("print(third(10**9))", 'third("x")', "TypeError: "),
    "while another was handled": (
        'print("no database")',
        "try:\n    {}['x']\nexcept KeyError:\n    raise RuntimeError('second') from None",
        "RuntimeError: second",
    ),
    "with a message of two lines": ('print("no database")', "raise ValueError('one\\ntwo')", "ValueError: one"),
    "a syntax error": ('print("no database")', "print(", "SyntaxError: "),
    "a group": ('print("no database")', "raise ExceptionGroup('several', [ValueError('x')])", "several"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_the_failing_cell_is_the_one_that_ran(root: Path, kind: str) -> None:
    old, new, error = FAILURES[kind]
    third = Course(root).get("third")
    small_course.replace(third, old, new)
    line = third.text.read_text().split("\n").index(new.split("\n")[0]) + 1
    done = call("--course", root, "run", "third")
    assert done.returncode == 1
    place, reason = done.stdout.splitlines()[1:3]
    number, where = re.fullmatch(r"      cell (\d) \(([a-z-]+-\d)\), playbook/api/third\.py:.*", place).groups()
    assert (number, where) == (("5", "see-it-work-2") if "third(" in old else ("6", "on-postgresql-2")), line
    assert error in reason


def test_a_script_that_ends_without_a_traceback_is_a_failure_all_the_same(root: Path) -> None:
    third = Course(root).get("third")
    small_course.replace(third, 'print("no database")', "import os\n\nos._exit(3)")
    assert "      ended with exit code 3: no error was shown" in call("--course", root, "run", "third").stdout
    small_course.replace(third, "os._exit(3)", "os.kill(os.getpid(), 9)")
    assert "      ended with signal 9" in call("--course", root, "run", "third").stdout


def test_a_script_sees_no_settings_and_an_empty_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    first = Course(root).get("first")
    code = (
        "import json\nimport os\n\n"
        f"with open({str(told)!r}, 'w') as file:\n"
        "    seen = [k for k in os.environ if k == 'DATABASE_URL' or k.startswith('PANTRY_')]\n"
        "    json.dump([seen, os.getcwd(), os.listdir()], file)"
    )
    small_course.replace(first, 'print("no database")', code)
    env = {"DATABASE_URL": "duckdb:///other.duckdb", "PANTRY_SECRET": "x"}
    done = call("--course", root, "run", "first", env=env)
    assert done.returncode == 0
    assert "DATABASE_URL is not used" in done.stderr
    seen, folder, files = json.loads(told.read_text())
    assert (seen, files) == ([], [])
    assert folder != str(ROOT)
    assert not Path(folder).exists()
    small_course.replace(first, "json.dump([seen,", "json.dump([os.environ.get('DATABASE_URL'),")
    assert call("--course", root, "run", "first", "--database", f"duckdb:///{tmp_path}/db.duckdb").returncode == 0
    assert json.loads(told.read_text())[0] == f"duckdb:///{tmp_path}/db.duckdb"


def meet(root: Path, folder: Path, name: str, other: str) -> None:
    """Let a page wait until the other page runs as well: for a minute, or until the file `alone` says not to wait."""
    code = (
        "import time\nfrom pathlib import Path\n\n"
        f"here = Path({str(folder)!r})\n(here / '{name}').touch()\nuntil = time.monotonic() + 60\n"
        f"while not (here / '{other}').exists():\n"
        "    assert time.monotonic() < until and not (here / 'alone').exists(), 'alone'\n    time.sleep(0.01)"
    )
    small_course.replace(Course(root).get(name), 'print("no database")', code)


@pytest.mark.parametrize(("jobs", "code"), [("2", 0), ("1", 1)])
def test_jobs_are_how_many_run_at_a_time(root: Path, tmp_path: Path, jobs: str, code: int) -> None:
    meet(root, tmp_path, "first", "second")
    meet(root, tmp_path, "second", "first")
    if jobs == "1":
        (tmp_path / "alone").touch()
    assert call("--course", root, "run", "first", "second", "--jobs", jobs).returncode == code


@pytest.mark.parametrize("command", ["run", "refresh"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_interrupted_ends_its_cells_and_lets_them_clean_up(
    root: Path, tmp_path: Path, number: int, code: int, command: str
) -> None:
    waits = (
        "import threading\nfrom pathlib import Path\n\n"
        f"here = Path({str(tmp_path)!r})\ntry:\n    (here / 'started').touch()\n    threading.Event().wait(50)\n"
        "finally:\n    (here / 'cleaned').touch()"
    )
    first = Course(root).get("first")
    small_course.replace(first, 'print("no database")', waits)
    with started("--course", root, command, "first") as process:
        wait_for((tmp_path / "started").exists)
        process.send_signal(number)
        assert process.wait(DEADLINE) == code
        assert (tmp_path / "cleaned").exists()
        assert "Traceback" not in process.stdout.read()
    assert not first.notebook.exists()


def wait_for(happened) -> None:
    until = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def on_a_terminal(*arguments: str | Path, interrupt: Callable[[], bool] = lambda: False, **env: str) -> tuple[int, str]:
    """Exit code and screen, without colours, of a command on a terminal of its own.

    Ctrl-C is typed once `interrupt()` is true.
    """
    process, ours = pty.fork()
    if process == 0:
        os.execve(COMMAND[0], [*COMMAND, *map(str, arguments)], environment(TERM="xterm", **env))
    shown, typed, until = b"", False, time.monotonic() + DEADLINE
    while time.monotonic() < until:
        if not typed and interrupt():
            os.write(ours, b"\x03")
            typed = True
        if select.select([ours], [], [], 0.05)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    else:
        os.kill(process, signal.SIGKILL)
    os.close(ours)
    screen = re.sub(r"\x1b\[[\d;]*m", "", shown.decode())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen


def test_a_terminal_gets_one_line_of_progress_and_a_file_does_not(root: Path) -> None:
    code, screen = on_a_terminal("--course", root, "run", "--jobs", "1")
    assert code == 0
    assert re.search(r"\r\x1b\[2K1 of 3 · \d+ s · foundations/second", screen)
    assert "3 of 3" in screen
    assert "\r\x1b[2Kok    foundations/first" in screen  # the line makes room for a result
    done = call("--course", root, "run")
    assert (done.stderr, done.stdout.count("ok  ")) == ("", 3)


def test_quiet_leaves_failures_and_the_sum(root: Path) -> None:
    small_course.replace(Course(root).get("third"), 'print("no database")', "1 / 0")
    code, screen = on_a_terminal("--course", root, "run", "-q")
    assert (code, " of 3" in screen, "ok  " in screen) == (1, False, False)
    assert screen.startswith("FAIL  api/third")
    assert "3 playbooks: 2 passed, 1 failed" in screen


@pytest.mark.parametrize("there", [True, False])
def test_where_no_browser_is_found_the_book_is_named_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """That the book opens as a file, test_book.py shows; which browser a machine has, no test may depend on."""
    first, opened = root / "book" / "index.html", list[str]()
    monkeypatch.setattr(book, "build", lambda course, into, report: first)
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or there)
    done = CliRunner().invoke(cli.app, ["--course", str(root), "book", "--open"])
    assert (done.exit_code, done.stdout, opened) == (0, f"open the book: {first}\n", [first.as_uri()])
    assert done.stderr == ("" if there else "no browser was found here: open that file in one\n")


@pytest.mark.parametrize("command", ["run", "refresh"])
def test_ctrl_c_says_what_was_done_and_leaves_nothing_half_done(root: Path, tmp_path: Path, command: str) -> None:
    waits = (
        "import threading\nfrom pathlib import Path\n\n"
        f"here = Path({str(tmp_path)!r})\ntry:\n    (here / 'started').touch()\n    threading.Event().wait(200)\n"
        "finally:\n    (here / 'cleaned').touch()"
    )
    course, temporary = Course(root), tmp_path / "temporary"
    temporary.mkdir()
    small_course.replace(course.get("second"), 'print("no database")', waits)
    pages = ("first", "second", "third")
    code, screen = on_a_terminal(
        "--course", root, command, *pages, "--jobs", "1", interrupt=(tmp_path / "started").exists, TMPDIR=str(temporary)
    )
    assert code == 130
    said = {"run": "1 of 3 ran; not: ", "refresh": "1 of 3 refreshed; as they were: "}[command]
    assert screen.rstrip().splitlines()[-1].endswith(f"interrupted: {said}foundations/second, api/third")
    assert (tmp_path / "cleaned").exists()
    assert list(temporary.iterdir()) == []
    stored = [course.get(name).notebook.exists() for name in pages]
    assert stored == [command == "refresh", False, False]
    assert not list(root.rglob("*.tmp"))


def test_run_on_the_packaged_postgresql(root: Path) -> None:
    code = "import os\n\nassert os.environ['DATABASE_URL'].startswith('postgresql'), 'embedded'"
    small_course.replace(Course(root).get("first"), 'print("no database")', code)
    assert "AssertionError: embedded" not in call("--course", root, "run", "first").stdout.replace("KeyError", "")
    done = call("--course", root, "run", "first", "--postgres")
    if "the packaged server" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------- refresh, check, new


def test_a_new_playbook_passes_check_once_it_is_written(place: Path) -> None:
    root = place
    new_page.make(root)
    (root / "playbook" / "api" / "clamp.py").unlink()
    (root / "playbook" / "exercises" / "api" / "clamp.py").unlink()
    toml = root / "playbook" / "course.toml"
    toml.write_text(toml.read_text().replace('["clamp"]', "[]"))
    done = call("--course", root, "new", "api/clamp")
    assert done.returncode == 0
    assert "fill every TODO in playbook/api/clamp.py and playbook/exercises/api/clamp.py" in done.stdout
    assert 'playbooks = ["clamp"]' in toml.read_text()
    assert "# nothing yet" in toml.read_text()
    made = Course(root).get("clamp")
    assert call("--course", root, "run", made.name).returncode == 1
    unfinished = call("--course", root, "check")
    assert unfinished.returncode == 2
    assert f"playbook/{made.key}.py:5: unfinished:" in unfinished.stdout
    assert f"playbook/exercises/{made.key}.py:8: unfinished:" in unfinished.stdout

    made.text.write_text(new_page.PAGE)
    (root / "playbook" / "exercises" / "api" / "clamp.py").write_text(new_page.EXERCISE)
    assert call("--course", root, "run", made.name).returncode == 0
    done = call("--course", root, "refresh")
    assert done.returncode == 0, done.stdout
    assert "2 refreshed, 0 failed" in done.stdout
    done = call("--course", root, "check")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "2 pages: texts and notebooks agree, every rule holds\n",
        "",
    )
    done = call("--course", root, "budget")
    assert done.returncode == 0
    assert re.search(r"^api/clamp +246 +30 +196 +9 +7 +71 +15 +8 *$", done.stdout, re.M), done.stdout
    assert done.stdout.endswith("1 page, 0 outside of the budget, 8 min to read\n")
    assert "api/clamp" not in call("--course", root, "budget", "--over").stdout

    notebook, text = made.notebook.read_text(), made.text.read_text()
    small_course.replace(made, "\nprint(refused)\n", "\nprint(refused)\n" + "# x\n" * 40)
    done = call("--course", root, "budget", "--over", "clamp")
    assert done.returncode == 1
    assert re.search(r"^api/clamp .* longest, gap *$", done.stdout, re.M), done.stdout
    made.text.write_text(text)
    made.notebook.write_text(notebook.replace('"outputs_hidden": true', '"outputs_hidden": false', 1))
    line = refused(call("--course", root, "check")).splitlines()[0]
    assert "is not folded as its tags in the text say; run `playbook refresh clamp`" in line


def test_check_opens_and_closes_with_text_and_notebook(root: Path) -> None:
    made = small_course.add(root, "api/bound_numbers")
    assert call("--course", root, "refresh").returncode == 0
    assert call("--course", root, "check").stdout == "5 pages: texts and notebooks agree, every rule holds\n"

    # Every gate of `check` is open now; each of these closes one.
    notebook = made.notebook.read_text()
    made.notebook.write_text(notebook.replace('print(\\"no database\\")', 'print(\\"edited\\")'))
    line = refused(call("--course", root, "check"))
    assert "notebooks/api/bound_numbers.ipynb: cell on-postgresql-2 differs from the text" in line
    assert "keep the text with `playbook refresh bound_numbers`" in line
    assert "keep the notebook with `playbook refresh --from-notebook bound_numbers`" in line

    done = call("--course", root, "refresh", "--from-notebook", "bound_numbers")
    assert done.returncode == 0, done.stderr
    assert 'print("edited")' in made.text.read_text()
    assert call("--course", root, "check").returncode == 0

    small_course.replace(made, "read 6 min, exercise 10 min", "half an hour")
    done = call("--course", root, "check")
    assert done.returncode == 2  # the text was edited without its notebook, too
    assert "Time is 'half an hour'" in done.stdout


def test_refresh_changes_nothing_when_a_cell_fails(root: Path) -> None:
    third = Course(root).get("third")
    third.notebook.parent.mkdir(parents=True)
    third.notebook.write_text("as it was")
    small_course.replace(third, 'print("no database")', '# first\nraise ValueError("too much")')
    text = third.text.read_text()
    line = text.split("\n").index("# first") + 1
    done = call("--course", root, "refresh", "third", "first")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = lines.index("FAIL   api/third")
    assert lines[at + 1] == f"       cell 6 (on-postgresql-2), playbook/api/third.py:{line}: # first"
    assert lines[at + 2] == "       ValueError: too much"
    assert lines[-1] == "1 refreshed, 1 failed"
    assert third.notebook.read_text() == "as it was"
    assert third.text.read_text() == text
    assert Course(root).get("first").notebook.is_file()


def test_a_notebook_that_fails_does_not_reach_the_text(root: Path) -> None:
    from playbook.kit import pairing

    third = Course(root).get("third")
    text = third.text.read_text()
    notebook = pairing.from_text(third)
    next(c for c in notebook.cells if c.cell_type == "code").source = "1 / 0"
    pairing.write_whole(third.notebook, pairing.dumps(notebook))
    done = call("--course", root, "refresh", "--from-notebook", "third")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert third.text.read_text() == text


def test_check_reports_broken_rules_with_exit_code_1(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from playbook.kit import check

    monkeypatch.setattr(check, "drift", lambda course: [])  # there are no notebooks here
    done = CliRunner().invoke(cli.app, ["--course", str(root), "check"])
    assert (done.exit_code, done.output) == (0, "4 pages: texts and notebooks agree, every rule holds\n")
    small_course.replace(Course(root).get("third"), "read 6 min, exercise 10 min", "half an hour")
    done = CliRunner().invoke(cli.app, ["--course", str(root), "check"])
    assert done.exit_code == 1
    assert "playbook/api/third.py:11: Time is 'half an hour'; write it as `read 33 min, exercise 15 min`" in done.output


def test_every_drifted_cell_is_one_line(root: Path) -> None:
    done = call("--course", root, "check")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 4
    assert all(
        line.startswith("error: notebooks/") and "does not exist: make it with `playbook refresh" in line
        for line in done.stderr.splitlines()
    )


# ---------------------------------------------------------------- lab, serve, postgres, bench, binder-url


def first_line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of output that matches; fails when the process ends before."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if match := re.search(pattern, line):
            return match
    raise AssertionError("".join(seen))


def answers(url: str) -> int:
    """The status of a GET, once there is a server; no proxy comes between."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + DEADLINE
    while True:
        try:
            with opener.open(url, timeout=10) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_answers_and_stops_cleanly(tmp_path: Path, number: int, code: int) -> None:
    env = {"DATABASE_URL": f"duckdb:///{tmp_path}/pantry.duckdb", "PANTRY_MAIL_URL": "memory:"}
    with started("serve", "--port", "0", env=env) as process:
        url = first_line(process, r"Pantry at (http://127\.0\.0\.1:\d+)")[1]
        assert answers(url + "/packages/HTTPX") == 401  # it is there, for who is signed in
        assert answers(url + "/api/auth/ok") == 200
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(DEADLINE) == code
        assert "Traceback" not in rest
        assert "Application shutdown complete" in rest


def test_ctrl_c_during_the_first_load_loads_nothing(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "pantry.duckdb"
    env = {"DATABASE_URL": f"duckdb:///{path}", "PANTRY_MAIL_URL": "memory:"}
    with started("serve", "--port", "0", env=env) as process:
        assert first_line(process, "the database is empty: loading the catalogue")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(DEADLINE) == 130
    assert rest == "interrupted: the service had not started; packages are loaded as a whole or not at all\n"
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT count(*) FROM packages").fetchone() == (0,)


def test_postgres_runs_until_it_is_interrupted() -> None:
    import psycopg

    # The URL that is set must not matter: this command starts a server.
    with started("postgres", env={"DATABASE_URL": "postgresql://nowhere.invalid/x"}) as process:
        line = first_line(process, r"PostgreSQL is running: (\S+)|error: (.*)")
        if line[2]:
            pytest.skip(line[2])
        url = line[1].replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stdout.read()
        assert process.wait(DEADLINE) == 130
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2)


def test_lab_opens_the_landing_page_and_hands_options_on(root: Path, tmp_path: Path) -> None:
    from playbook.kit import pairing

    index = Course(root).index
    pairing.write_whole(index.notebook, pairing.dumps(pairing.from_text(index)))
    port = free_port()
    env = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "CONFIG", "DATA")}
    options = ["--port", str(port), "--no-browser", "--IdentityProvider.token=t", "--allow-root"]
    with started("--course", root, "lab", *options, env=env) as process:
        assert first_line(process, rf"http://\S*:{port}/lab/tree/workbook/index\.ipynb")
        assert answers(f"http://127.0.0.1:{port}/api/contents/workbook/index.ipynb?token=t") == 200
        process.terminate()  # JupyterLab itself: it has taken the command's place
        process.stdout.read()
        assert process.wait(DEADLINE) is not None


def test_bench_runs_the_scripts_that_are_named(root: Path) -> None:
    folder = root / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "bench_import.py").write_text("print('importing')\n")
    (folder / "bench_bulk_load.py").write_text("print('loading')\nraise SystemExit(1)\n")
    assert call("--course", root, "bench", "import").stdout == "importing\n"
    done = call("--course", root, "bench")
    assert (done.returncode, done.stderr) == (1, "failed: bulk_load\n")
    assert "importing" in done.stdout
    assert refused(call("--course", root, "bench", "bulkload")).endswith("did you mean bulk_load?")


LINK = "?urlpath=lab/tree/workbook/index.ipynb"
REMOTES = [
    ("https://github.com/me/course", "gh/me/course/HEAD"),
    ("https://github.com/me/course.git/", "gh/me/course/HEAD"),
    ("git@github.com:me/course.git", "gh/me/course/HEAD"),
    ("ssh://git@github.com:22/me/course.git", "gh/me/course/HEAD"),
    ("https://me:secret@github.com/me/course.git", "gh/me/course/HEAD"),
    ("git@gitlab.com:group/sub/course.git", "gl/group%2Fsub%2Fcourse/HEAD"),
    ("https://codeberg.org/me/course.git", "git/https%3A%2F%2Fcodeberg.org%2Fme%2Fcourse/HEAD"),
    ("git@git.example.org:me/course.git", "git/https%3A%2F%2Fgit.example.org%2Fme%2Fcourse/HEAD"),
]


@pytest.mark.parametrize(("remote", "spec"), REMOTES)
def test_the_binder_link_of_a_remote(remote: str, spec: str) -> None:
    assert binder.launch_url(remote) == f"https://mybinder.org/v2/{spec}{LINK}"


def test_the_binder_link_of_a_branch() -> None:
    assert "/gh/me/course/feature%2Fx?" in binder.launch_url("https://github.com/me/course", "feature/x")


@pytest.mark.parametrize(
    "remote", ["/srv/git/course.git", "file:///srv/course.git", "../course", "C:\\course", "course"]
)
def test_a_remote_that_binder_cannot_reach_is_refused(remote: str) -> None:
    with pytest.raises(InputError, match="is not the address of a repository on a public host"):
        binder.launch_url(remote)


def test_a_refused_remote_does_not_show_its_password() -> None:
    with pytest.raises(InputError) as error:
        binder.launch_url("https://me:secret@github.com/")
    assert "secret" not in str(error.value)


def test_the_binder_link_comes_from_the_repository_itself(root: Path) -> None:
    for command in (["init", "-q"], ["remote", "add", "origin", "git@github.com:me/fork.git"]):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    done = call("--course", root, "binder-url", "--branch", "draft")
    assert done.stdout == f"https://mybinder.org/v2/gh/me/fork/draft{LINK}\n"
