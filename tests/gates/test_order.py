"""Importing Pantry does nothing but define: no output, no files, no sockets, no engines, no page before its time."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

from playbook.kit import hook
from playbook.kit.course import Course, Playbook
from playbook.kit.data import ROOT

# Run in a process of its own: imports the pages in course order and reports, for each, what the import did.
WATCH = """
import importlib, io, json, os, sys

done = []

def watch(event, arguments):
    first = str(arguments[0]) if arguments else ""
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
        done.append(["writes" if writing else "reads", first])
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.mkdir", "os.remove", "tempfile.", "shutil.")):
        done.append([event, first])

for name in sys.argv[2:]:  # libraries may do as they like; they are not the subject
    importlib.import_module(name)

import duckdb, sqlalchemy, threading
def acting(module, name):
    real = getattr(module, name)
    def instead(*arguments, **options):
        done.append([f"{module.__name__}.{name}", str(arguments[:1])])
        return real(*arguments, **options)
    setattr(module, name, instead)
acting(sqlalchemy, "create_engine")
acting(duckdb, "connect")

report = {}
sys.addaudithook(watch)
sys.stdout = said = io.StringIO()
sys.stderr = said
before = set(sys.modules)
for module in json.loads(sys.argv[1]):
    done.clear()
    threads = threading.active_count()
    importlib.import_module(module)
    new = sorted(set(sys.modules) - before)
    before |= set(new)
    report[module] = {"did": list(done), "new": new, "threads": threading.active_count() - threads}
sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
print(json.dumps({"said": said.getvalue(), "report": report}))
"""


def command(*modules: str) -> list[str]:
    """Import `modules` one after the other, and tell what each in turn did."""
    return [sys.executable, "-B", "-c", WATCH, json.dumps(modules), *libraries(*Course().playbooks)]


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def libraries(*pages: Playbook) -> list[str]:
    """The libraries that the pages' exports import."""
    names = set()
    for playbook in pages:
        for node in ast.walk(ast.parse(hook.exported(playbook.source))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return sorted(name for name in names if name.split(".")[0] not in ("playbook", "__future__"))


@pytest.fixture(scope="module")
def imports() -> Any:
    """In a new interpreter."""
    modules = [playbook.module for playbook in Course().playbooks]
    return told(subprocess.run(command(*modules), capture_output=True, text=True, timeout=120))


def test_importing_all_of_pantry_says_nothing(imports: Any) -> None:
    assert imports["said"] == ""


def acted(report: Any) -> list[list[str]]:
    """What an import did beyond reading Python files: acts, files written, files of the course read."""
    allowed = (".py", ".pyc")
    return [
        [what, where]
        for what, where in report["did"]
        if not (what == "reads" and (where.endswith(allowed) or not Path(where).is_relative_to(ROOT)))
    ]


def test_importing_a_page_only_defines(lesson: Playbook, imports: Any) -> None:
    report = imports["report"][lesson.module]
    assert acted(report) == []
    assert report["threads"] == 0


def test_importing_a_page_loads_no_page_after_it(lesson: Playbook, imports: Any) -> None:
    """Pages are imported in course order, so what is new with a page is that page, or it reached ahead."""
    pages = {playbook.module for playbook in Course().pairs}
    assert [name for name in imports["report"][lesson.module]["new"] if name in pages] == [lesson.module]


# Pages whose exports are lifted into a test suite, and what they may need there. The service imports none of them.
FOR_TESTS = {"test_migrations": {"hypothesis"}}


def test_pantry_does_not_need_the_course(lesson: Playbook, imports: Any) -> None:
    """What is lifted out of a page must run without the kit, notebooks and test tools."""
    new = imports["report"][lesson.module]["new"]
    package = {"playbook.kit", "playbook.kit.hook", "playbook.kit.errors"}  # come with the package itself
    assert [name for name in new if name.startswith("playbook.kit") and name not in package] == []
    tools = {"IPython", "hypothesis", "jupytext", "nbclient", "nbformat", "pytest"} - FOR_TESTS.get(lesson.name, set())
    assert tools.isdisjoint(name.split(".")[0] for name in libraries(lesson))


def test_a_page_hides_no_module_that_it_or_a_library_imports(pair: Playbook) -> None:
    """A script's own folder comes first on the path: `import queue` next to a page called queue imports the page."""
    assert pair.name not in sys.stdlib_module_names
    found = importlib.util.find_spec(pair.name)
    # Without a loader it is a mere folder on the path, such as tests/contract, and nothing that anybody imports.
    assert found is None or found.loader is None, f"an installed library is called {pair.name}"


ACTS = {
    "prints": "print('loaded')",
    "opens a socket": "import socket\nsocket.socket().close()",
    "writes a file": "open('made.txt', 'w').close()",
    "makes an engine": "import sqlalchemy\nsqlalchemy.create_engine('sqlite://')",
    "connects": "import duckdb\nduckdb.connect().close()",
    "starts a process": "import subprocess, sys\nsubprocess.run([sys.executable, '-V'], capture_output=True)",
    "starts a thread": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
}


@pytest.mark.parametrize("act", ACTS)
def test_each_act_would_be_noticed(act: str, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(ACTS[act] + "\n", encoding="utf-8")
    seen = told(forked.run(command("loud"), 120, tmp_path, text=True))
    assert seen["said"] or acted(seen["report"]["loud"]) or seen["report"]["loud"]["threads"]
