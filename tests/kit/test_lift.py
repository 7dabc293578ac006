"""Recipes in a stranger's project: what goes along, what lands, what is never touched, and what is said later."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import small_course

from playbook.kit import anatomy, cli, closure, lift
from playbook.kit.course import Course
from playbook.kit.data import ROOT
from playbook.kit.errors import InputError

GROUND = '''\
# %% [markdown]
"""
# Ground

Stand on something.
"""

# %% tags=["export"]
import json
import os as system
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from decimal import Decimal

# Why there are two kinds.
Kind = Literal["a", "b"]
LOW, HIGH = 0, 9  # inclusive
REGISTRY: dict[str, Any] = {}


def decorated(function: Any) -> Any:
    """Marks."""
    return function


# %%
demonstration = "not exported"

# %% tags=["export"]
class Base:
    """The base."""

    other: "Other | None" = None


class Other(Base):
    """Named in a string only."""

    kind: Kind = "a"


def price(text: str) -> "Decimal":
    from decimal import Decimal

    return Decimal(text)


@decorated
def clamp(number: int, unused: str = "unrelated") -> int:
    """`number`, or the nearer bound."""
    unrelated = max(LOW, min(HIGH, number))  # a name of its own
    return unrelated


def unrelated() -> str:
    return json.dumps(system.name)


def hooks(*where: Any) -> Any:
    return lambda function: function


REGISTRY |= {"clamp": clamp}
'''
EVENTS = '''\
# %% [markdown]
"""
# Events

React to something.

| **Topics** | events |

## Take it with you

- **Reviewer**: see [Ground](../foundations/ground.ipynb).
"""

# %% tags=["export"]
import atexit

from playbook.foundations import ground
from playbook.foundations.ground import REGISTRY, Base as Root
from playbook.foundations.ground import clamp


class Router:
    def get(self, path: str):
        return lambda function: function


routes = Router()


@routes.get("/")
def page() -> int:
    """The page."""
    return clamp(3)


@atexit.register
def at_the_end() -> None:
    """Only its decorator makes it known."""


@atexit.register
def at_another_end() -> None: ...


# %% tags=["export"]
class Event(Root):
    """An event."""


REGISTRY["event"] = Event


def cheap() -> str:
    return "cheap"


def whole() -> float:
    return ground.price("1.5")


# Why a lookup goes by name.
def registered(name: str):
    return REGISTRY[name]
'''


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """Two pages: `ground`, and `events`, which uses it."""
    small_course.start(tmp_path / "course")
    root = tmp_path / "course"
    toml = small_course.TOML.replace("    # nothing yet", '    "ground",').replace("[]", '["events"]')
    (root / "playbook" / "course.toml").write_text(toml, encoding="utf-8")
    for key, text in (("foundations/ground", GROUND), ("api/events", EVENTS)):
        path = root / "playbook" / f"{key}.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
    return Course(root)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "shop" / "recipes"


def edit(course: Course, key: str, old: str, new: str) -> Course:
    """The course after an edit of a page's text."""
    small_course.replace(course.get(key), old, new)
    return Course(course.root)


def tell(course: Course, toml: str) -> Course:
    """The course with more in `course.toml`."""
    path = course.root / "playbook" / "course.toml"
    path.write_text(path.read_text(encoding="utf-8") + toml, encoding="utf-8")
    return Course(course.root)


def labels(course: Course, *roots: tuple[str, str]) -> dict[str, list[str]]:
    lifter = lift.Lifter(course)
    return {one.module.key: [part.label for part in one.parts] for one in lifter.closure.of(roots)}


def put(course: Course, name: str, into: Path, *only: str) -> lift.Plan:
    plan, _ = lift.plan(course, name, into, only)
    lift.write(plan.into, plan.new, plan.replaced)
    return plan


def states(course: Course, into: Path) -> dict[str, str]:
    return {change.symbol: change.explained for change in lift.compare(course, into).changes}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(*arguments: str | Path) -> int:
    return cli._exit_code([str(argument) for argument in arguments])


# ---------------------------------------------------------------- the closure


def test_a_symbol_brings_what_it_names(course: Course) -> None:
    found = labels(course, ("foundations/ground", "clamp"))
    assert found == {"foundations/ground": ["LOW, HIGH", "decorated", "clamp"]}


def test_strings_bring_types_and_nothing_else(course: Course) -> None:
    found = labels(course, ("foundations/ground", "Base"))
    assert found == {"foundations/ground": ["Kind", "Base", "Other"]}
    assert "unrelated" not in labels(course, ("foundations/ground", "clamp"))["foundations/ground"]


@pytest.mark.parametrize("written", ["Event", "Event.id", "list[Event]"])
def test_a_type_named_in_an_argument_comes_along(course: Course, written: str) -> None:
    """As `relationship("User")` does; a function's name in a string is a word like any other."""
    edited = edit(course, "events", "def cheap(", f'LINK = dict(to="{written}", how="whole")\n\n\ndef cheap(')
    found = labels(edited, ("api/events", "LINK"))["api/events"]
    assert "Event" in found
    assert "whole" not in found


def test_base_classes_and_imports_under_other_names_are_followed(course: Course) -> None:
    found = labels(course, ("api/events", "Event"))
    assert found["foundations/ground"] == ["Kind", "Base", "Other"]


def test_a_module_imported_whole_brings_what_is_used_of_it(course: Course) -> None:
    found = labels(course, ("api/events", "whole"))
    assert found["foundations/ground"] == ["price"]


def test_a_registry_brings_its_entries_and_a_router_its_routes(course: Course) -> None:
    found = labels(course, ("api/events", "registered"))
    assert {"REGISTRY", "clamp"} <= {*found["foundations/ground"]}
    assert "REGISTRY (changed)" in found["foundations/ground"]
    assert {"registered", "REGISTRY['event'] = ...", "Event"} <= {*found["api/events"]}
    assert "page" not in found["api/events"]
    assert "page" in labels(course, ("api/events", "routes"))["api/events"]


def test_an_undeclared_registration_goes_along_and_a_declared_one_with_its_symbols(course: Course) -> None:
    assert {"at_the_end", "at_another_end"} <= {*labels(course, ("api/events", "cheap"))["api/events"]}
    told = tell(course, '\n[lift.events.registrations]\nat_the_end = ["page"]\nat_another_end = ["cheap"]\n')
    assert labels(told, ("api/events", "cheap"))["api/events"] == ["at_another_end", "cheap"]
    assert "at_the_end" in labels(told, ("api/events", "routes"))["api/events"]


def test_the_check_asks_for_undeclared_registrations(course: Course) -> None:
    first, second = lift.findings(course)
    assert re.match(r"playbook/api/events.py:\d+: at_the_end may be registered", first)
    assert "at_another_end" in second
    line = int(first.split(":")[1])
    assert course.get("events").source.split("\n")[line - 1] == "@atexit.register"
    told = tell(course, '\n[lift.events.registrations]\nat_the_end = ["page"]\nat_another_end = ["cheap"]\n')
    assert lift.findings(told) == []


def test_a_recipe_brings_the_hooks_that_its_metadata_names() -> None:
    engines = labels(Course(), ("foundations/engines", "make_engine"))["foundations/engines"]
    assert {"add_returning", "leave_out_foreign_keys"} <= {*engines}
    assert "add_returning" not in labels(Course(), ("foundations/engines", "NAMING"))["foundations/engines"]
    held = labels(Course(), ("foundations/write_skew", "hold"))["foundations/write_skew"]
    assert {"hold_parents", "let_go"} <= {*held}


def test_text_is_verbatim_with_its_comments(course: Course, into: Path) -> None:
    put(course, "events", into)
    ground, events = ((into / name).read_text(encoding="utf-8") for name in ("ground.py", "events.py"))
    assert '# Why there are two kinds.\nKind = Literal["a", "b"]\nLOW, HIGH = 0, 9  # inclusive\n' in ground
    assert "\n\n\n# Why a lookup goes by name.\ndef registered(name: str):\n" in events
    source = course.get("events").source
    for part in closure.parse(source, "api/events").parts:
        assert part.text in source
        assert part.text in events


def test_imports_are_pruned_sorted_and_relative(course: Course, into: Path) -> None:
    put(course, "events", into, "Event", "whole", "registered")
    head = (into / "events.py").read_text(encoding="utf-8").split("\n\n\n")[0]
    assert head.split("\n\n", 1)[1].split("\n") == [
        "import atexit",
        "",
        "from . import ground",
        "from .ground import REGISTRY",
        "from .ground import Base as Root",
    ]
    text = (into / "ground.py").read_text(encoding="utf-8")
    assert "if TYPE_CHECKING:\n    from decimal import Decimal\n" in text
    assert "import json" not in text


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("from playbook.kit import data\n", r"api/events imports playbook.kit.data, which is no page"),
        ("from playbook.foundations.ground import nothing as x\n", r"imports 'nothing' from foundations/ground"),
        ("from json import *\n", r"cannot be lifted"),
        ("from .x import y\n", r"cannot be lifted"),
        ("import playbook.foundations.ground\n", r"write `from \.\.\. import"),
        ("import json as atexit\n", r"two imports are called 'atexit'"),
        ("def clamp() -> None: ...\n", r"'clamp' is imported and defined"),
        ("def (:\n", r"line \d+: not Python"),
        ("def late() -> None:\n    from playbook.foundations import ground\n", r"late imports .* when it runs"),
    ],
)
def test_what_cannot_be_lifted_is_said(course: Course, into: Path, line: str, error: str) -> None:
    edited = edit(course, "events", "class Event(Root):", f"{line}\n\nKEPT = data if 0 else x if 0 else atexit\n\n"
                  "class Event(Root):")  # fmt: skip
    with pytest.raises(InputError, match=error):
        put(edited, "events", into)
    assert not into.parent.exists()


# ---------------------------------------------------------------- what lands


def test_what_lands(course: Course, into: Path) -> None:
    plan = put(course, "events", into)
    assert [*tree(into)] == ["README.md", "__init__.py", "events.py", "ground.py", "playbook.lock"]
    assert plan.recipe.lines == sum(
        bool(line.strip()) for one in plan.recipe.lifted for part in one.parts for line in part.text.split("\n")
    )
    first, second, *_ = (into / "events.py").read_text(encoding="utf-8").split("\n")
    assert first.startswith("# From playbook/api/events.py, backend-playbook ")
    assert second.startswith("# MIT License")
    readme = (into / "README.md").read_text(encoding="utf-8")
    assert "React to something." in readme
    assert "- **Reviewer**: see Ground." in readme  # its notebook is not here
    assert "from recipes.events import" in readme
    lock = json.loads((into / "playbook.lock").read_text(encoding="utf-8"))
    (base,) = [one["text"] for one in lock["files"]["events.py"] if one["symbol"] == "cheap"]
    assert base.strip() == 'def cheap() -> str:\n    return "cheap"'
    assert not [path for path in into.parent.iterdir() if path != into], "something was left beside the folder"


def test_a_dry_run_prints_and_writes_nothing(course: Course, into: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--course", course.root, "lift", "events", into, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"would write  {into / 'events.py'}" in said
    assert 'def cheap() -> str:\n    return "cheap"' in said
    assert not into.parent.exists()


def test_only_what_is_asked_for(course: Course, into: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--course", course.root, "lift", "ground", into, "--only", "clamp,price", "--only", "Kind") == 0
    said = capsys.readouterr().out
    assert "6 symbols" not in said
    assert "its tests:" not in said, "they stayed behind"
    text = (into / "ground.py").read_text(encoding="utf-8")
    assert [*closure.parse(text, "ground.py", page=False).by_name] == [
        "Kind",
        "LOW",
        "HIGH",
        "decorated",
        "price",
        "clamp",
    ]


def test_a_second_recipe_shares_the_modules_of_the_first(course: Course, into: Path) -> None:
    put(course, "ground", into, "clamp")
    before = tree(into)
    put(course, "events", into, "whole")
    text = (into / "ground.py").read_text(encoding="utf-8")
    assert {"clamp", "price"} <= {*closure.parse(text, "ground.py", page=False).by_name}
    assert states(course, into)["clamp"] == "same"
    again = lift.plan(course, "events", into, ["whole"])[0]
    assert again.written == {}
    assert [*before] == ["README.md", "__init__.py", "ground.py", "playbook.lock"]


def test_the_same_lift_again_changes_nothing(course: Course, into: Path) -> None:
    put(course, "events", into)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in into.rglob("*") if path.is_file()}
    assert put(course, "events", into).written == {}
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in into.rglob("*") if path.is_file()}


def test_the_projects_own_files_stay(course: Course, into: Path) -> None:
    into.mkdir(parents=True)
    (into / "__init__.py").write_text("mine = 1\n", encoding="utf-8")
    (into / "own.py").write_text("own = 1\n", encoding="utf-8")
    pyproject = into.parent / "pyproject.toml"
    pyproject.write_text("[project]\n", encoding="utf-8")
    put(course, "events", into)
    assert (into / "__init__.py").read_text(encoding="utf-8") == "mine = 1\n"
    assert (into / "own.py").read_text(encoding="utf-8") == "own = 1\n"
    assert pyproject.read_text(encoding="utf-8") == "[project]\n"
    assert {path.name for path in into.iterdir()} == {
        "README.md", "__init__.py", "events.py", "ground.py", "own.py", "playbook.lock",
    }  # fmt: skip


# ---------------------------------------------------------------- bad input


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert command(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line.removeprefix("error: ")


def make(text: str = "x = 1\n") -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


def test_an_unknown_page_or_symbol_has_a_near_match(
    course: Course, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("--course", course.root, "lift")
    assert refused(capsys, *start, "event", into) == "no playbook is called 'event': did you mean events?"
    assert "exports no 'Evnt': did you mean Event?" in refused(capsys, *start, "events", into, "--only", "Evnt")
    assert "it exports Router" in refused(capsys, *start, "events", into, "--only", "zzzzzz")
    assert "--only needs a symbol" in refused(capsys, *start, "events", into, "--only", ",")
    assert "exports nothing" in refused(capsys, *start, "index", into)
    edit(course, "ground", ' tags=["export"]', "")
    small_course.replace(course.get("ground"), ' tags=["export"]', "")
    assert "foundations/ground exports nothing" in refused(capsys, *start, "ground", into)
    assert not into.parent.exists()


@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("file.txt", "is a file: name a folder"),
        ("file.txt/recipes", "is a file, so"),
        ("my-shop", "did you mean my_shop?"),
        ("class", "cannot be a package's name"),
        ("course/playbook/api", "is inside the course"),
    ],
)
def test_a_folder_that_cannot_be_lifted_into(course: Course, tmp_path: Path, folder: str, error: str) -> None:
    make()(tmp_path / "file.txt")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=re.escape(error)):
        put(course, "events", tmp_path / folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["events.py", "README.md", "playbook.lock", "ground.py"])
def test_other_content_is_never_overwritten(course: Course, into: Path, place: str) -> None:
    make("mine = 1\n")(into / place)
    before = tree(into)
    with pytest.raises(InputError, match=r"exists with other content|cannot be read"):
        put(course, "events", into)
    assert tree(into) == before


def test_nothing_is_written_through_links(course: Course, into: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    into.mkdir(parents=True)
    (into / "events.py").symlink_to(outside / "new.py")  # leads nowhere yet
    with pytest.raises(InputError, match="is a link"):
        put(course, "events", into)
    (into / "events.py").unlink()
    (into / "tests").symlink_to(outside, target_is_directory=True)
    make("def test_it() -> None: ...\n")(course.root / lift.TESTS / "test_events.py")
    with pytest.raises(InputError, match="is a link"):
        put(course, "events", into)
    (into / "tests").unlink()
    (into / "playbook.lock").symlink_to(outside / "lock")
    with pytest.raises(InputError, match="is a link"):
        put(course, "events", into)
    assert [*outside.iterdir()] == []
    assert [path.name for path in into.iterdir()] == ["playbook.lock"]


DAMAGED = {
    "no JSON": lambda lock: "{",
    "a list": lambda lock: "[]",
    "no version": lambda lock: json.dumps({**lock, "version": None}),
    "no files": lambda lock: json.dumps({k: v for k, v in lock.items() if k != "files"}),
    "parts without text": lambda lock: json.dumps({**lock, "files": {"events.py": [{"symbol": ""}]}}),
    "a file outside": lambda lock: json.dumps({**lock, "files": {**lock["files"], "../x.py": []}}),
    "an absolute file": lambda lock: json.dumps({**lock, "files": {**lock["files"], "/x.py": []}}),
    "another kind of file": lambda lock: json.dumps({**lock, "files": {**lock["files"], "pyproject.toml": []}}),
    "a module it has not": lambda lock: json.dumps(
        {**lock, "recipes": {"api/events": {"roots": [], "security": False, "modules": ["x.py"]}}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_lock_is_said(course: Course, into: Path, damage: str) -> None:
    put(course, "events", into)
    path = into / "playbook.lock"
    path.write_text(DAMAGED[damage](json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    for call in (lambda: lift.plan(course, "ground", into), lambda: lift.compare(course, into)):
        with pytest.raises(InputError, match="take it back from version control"):
            call()


def test_a_lock_of_a_newer_course_is_said(course: Course, into: Path) -> None:
    put(course, "events", into)
    path = into / "playbook.lock"
    path.write_text(json.dumps({"version": lift.VERSION + 1, "new": {}}), encoding="utf-8")
    with pytest.raises(InputError, match="use the newer course"):
        lift.compare(course, into)


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ("[lift.evens]\n", "did you mean events"),
        ("[lift.events]\nsecurty = true\n", "did you mean security?"),
        ('[lift.events]\nsecurity = "yes"\n', "security should be true or false"),
        ('[lift.events]\nroots = "Event"\n', "roots should be a list"),
        ('[lift.events]\nroots = ["Evnt"]\n', "did you mean Event?"),
        ("[lift.events.registrations]\nat_the_end = []\n", "symbols that it belongs to"),
        ('[lift.events.registrations]\nat_end = ["page"]\n', "did you mean at_the_end?"),
        ('[lift.events]\ntests = ["tests/none.py"]\n', "tests/none.py does not exist"),
    ],
)
def test_wrong_metadata_is_said_by_lift_and_by_check(course: Course, into: Path, toml: str, error: str) -> None:
    told = tell(course, "\n" + toml)
    with pytest.raises(InputError, match=re.escape(error)):
        put(told, "events", into)
    assert any(error in line for line in lift.findings(told))


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("there", [False, True], ids=["a new folder", "among other files"])
@pytest.mark.parametrize("step", range(1, 12))
def test_an_interruption_leaves_nothing(
    course: Course, into: Path, monkeypatch: pytest.MonkeyPatch, there: bool, step: int
) -> None:
    """Ctrl-C at every single step of writing: afterwards all is as it was, or all is written."""
    if there:
        put(course, "ground", into, "clamp")
        make()(into / "own.py")
    before = tree(into) if there else {}
    plan, _ = lift.plan(course, "events", into)
    steps = 0

    def interrupted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "link", "replace"):
            patch.setattr(os, name, interrupted(getattr(os, name)))
        patch.setattr(Path, "write_text", interrupted(Path.write_text))
        try:
            lift.write(plan.into, plan.new, plan.replaced)
        except KeyboardInterrupt:
            # Undoing calls `os.replace` too: only the one step fails.
            assert (tree(into) if into.exists() else {}) == before
            assert there or not into.parent.exists()
        else:
            assert steps < step
    put(course, "events", into)
    assert set(states(course, into).values()) == {"same"}


def test_the_lock_is_written_last(course: Course, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make()(into / "own.py")
    make("def test_it() -> None: ...\n")(course.root / lift.TESTS / "test_events.py")
    moved: list[str] = []
    real = os.link
    monkeypatch.setattr(os, "link", lambda old, new: (moved.append(Path(new).name), real(old, new))[1])
    put(course, "events", into)
    assert moved[-1] == "playbook.lock"
    assert {"test_events.py", "events.py"} <= {*moved}


def test_a_lift_that_was_killed_half_way_is_finished_by_the_next(course: Course, into: Path) -> None:
    """A kill cannot be undone: the files that were moved already are whole, and the lock is not there yet."""
    make()(into / "own.py")
    plan, _ = lift.plan(course, "events", into)
    make(plan.new["ground.py"])(into / "ground.py")
    put(course, "events", into)
    assert set(states(course, into).values()) == {"same"}


def test_a_file_that_appears_meanwhile_stays(course: Course, into: Path) -> None:
    make()(into / "own.py")
    plan, _ = lift.plan(course, "events", into)
    make("theirs = 1\n")(into / "ground.py")
    before = tree(into)
    with pytest.raises(InputError, match="made meanwhile"):
        lift.write(plan.into, plan.new, plan.replaced)
    assert tree(into) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_without_permission(course: Course) -> None:
    with pytest.raises(InputError, match=r"cannot write to /proc/.*; nothing is written"):
        put(course, "events", Path("/proc/recipes"))


# ---------------------------------------------------------------- later


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def apart(course: Course, into: Path) -> Course:
    """The project and the course after a while: every state occurs."""
    put(course, "events", into)
    rewrite(into / "events.py", '"cheap"', '"dear"')
    rewrite(into / "ground.py", "max(LOW, min(HIGH, number))", "max(LOW, min(number, HIGH))")
    changed = edit(course, "events", "ground.price(", "1 + ground.price(")
    changed = edit(changed, "ground", "max(LOW, min(HIGH, number))", "min(HIGH, max(LOW, number))")
    return edit(changed, "events", "@atexit.register\ndef at_another_end() -> None: ...\n", "")


def test_every_state_is_told(apart: Course, into: Path) -> None:
    found = states(apart, into)
    assert found["page"] == "same"
    assert found["cheap"] == "changed by you"
    assert found["whole"] == "changed in the course"
    assert found["clamp"] == "both"
    assert found["at_another_end"] == "gone from the course"
    changes = {change.symbol: change for change in lift.compare(apart, into).changes}
    assert changes["clamp"].differences.count("--- as lifted") == 2
    assert '+    return 1 + ground.price("1.5")' in changes["whole"].differences
    assert '+    return "dear"' in changes["cheap"].differences
    assert changes["page"].differences == []


def test_what_the_project_removed_is_gone(course: Course, into: Path) -> None:
    put(course, "ground", into)
    rewrite(into / "ground.py", "def unrelated() -> str:\n    return json.dumps(system.name)\n", "")
    assert states(course, into)["unrelated"] == "gone from your project"
    (into / "ground.py").unlink()
    assert set(states(course, into).values()) == {"gone from your project"}


def test_layout_alone_is_no_change(course: Course, into: Path) -> None:
    put(course, "events", into)
    rewrite(into / "events.py", 'def cheap() -> str:\n    return "cheap"', "def cheap() -> str:\n\n    return 'cheap'")
    assert set(states(course, into).values()) == {"same"}
    rewrite(into / "events.py", "return 'cheap'", "return 'cheap'  # or not")
    assert states(course, into)["cheap"] == "changed by you"


def test_merge_keeps_both_sides_and_marks_conflicts(
    apart: Course, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--course", apart.root, "lifted", into, "--merge") == 1  # a conflict
    assert "ground.py" in capsys.readouterr().err
    events, ground = ((into / name).read_text(encoding="utf-8") for name in ("events.py", "ground.py"))
    assert '"dear"' in events
    assert "1 + ground.price" in events
    assert "at_another_end" not in events
    ast.parse(events)
    marked = ground[ground.index("<<<<<<< yours") : ground.index(">>>>>>> backend-playbook")]
    assert "min(number, HIGH)" in marked
    assert "min(HIGH, number)" in marked.split("||||||| as lifted")[1].split("=======")[0]
    assert "max(LOW, number)" in marked
    with pytest.raises(InputError, match=r"ground.py, line \d+: a conflict is not settled"):
        states(apart, into)
    ours = re.sub(r"<{7} yours\n(.*?)\|{7}.*?>{7}[^\n]*\n", r"\1", ground, flags=re.S)
    (into / "ground.py").write_text(ours, encoding="utf-8")
    found = states(apart, into)
    assert (found["clamp"], found["cheap"], found["whole"]) == ("changed by you", "changed by you", "same")
    assert "at_another_end" not in found


def test_merge_without_changes_in_the_course_touches_nothing(course: Course, into: Path) -> None:
    put(course, "events", into)
    rewrite(into / "events.py", '"cheap"', '"dear"')
    before = tree(into)
    assert lift.merge(lift.compare(course, into)) == ([], [])
    assert tree(into) == before


def test_merge_brings_what_the_recipe_needs_now(course: Course, into: Path) -> None:
    put(course, "events", into, "cheap")
    assert not (into / "ground.py").exists()
    changed = edit(course, "events", '    return "cheap"', '    return str(clamp(1)) + "cheap"')
    assert states(changed, into)["clamp"] == "changed in the course (new)"
    assert lift.merge(lift.compare(changed, into)) == (["events.py", "ground.py"], [])
    assert set(states(changed, into).values()) == {"same"}
    assert "from .ground import clamp" in (into / "events.py").read_text(encoding="utf-8")


def test_merge_takes_no_file_of_the_project_for_its_own(course: Course, into: Path) -> None:
    put(course, "events", into, "cheap")
    make("mine = 1\n")(into / "ground.py")
    changed = edit(course, "events", '    return "cheap"', '    return str(clamp(1)) + "cheap"')
    before = tree(into)
    with pytest.raises(InputError, match="exists with other content"):
        lift.merge(lift.compare(changed, into))
    assert tree(into) == before


def test_merge_makes_no_file_again_that_the_project_removed(course: Course, into: Path) -> None:
    put(course, "events", into)
    (into / "ground.py").unlink()
    changed = edit(course, "ground", "max(LOW, min(HIGH, number))", "min(HIGH, max(LOW, number))")
    assert lift.merge(lift.compare(changed, into)) == ([], [])
    assert not (into / "ground.py").exists()


def test_after_a_merge_what_left_the_course_is_the_projects_alone(apart: Course, into: Path) -> None:
    with pytest.raises(InputError, match=r"no longer in the course: .*at_another_end.* --merge"):
        lift.plan(apart, "ground", into)
    lift.merge(lift.compare(apart, into))
    rewrite(into / "ground.py", (into / "ground.py").read_text(encoding="utf-8"), GROUND.replace("# %%", "#"))
    lift.plan(apart, "events", into)
    assert lift.compare(apart, into).problems == []


@pytest.mark.parametrize("marked", [False, True])
def test_a_security_recipe_that_changed_in_the_course_fails(
    course: Course, into: Path, marked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tell(course, f"\n[lift.events]\nsecurity = {str(marked).lower()}\n")
    put(told, "events", into)
    rewrite(into / "events.py", '"cheap"', '"dear"')
    assert command("--course", told.root, "lifted", into) == 0  # only the project has changed
    edit(told, "ground", "max(LOW, min(HIGH, number))", "min(HIGH, max(LOW, number))")  # below the marked page
    capsys.readouterr()
    assert command("--course", told.root, "lifted", into) == (1 if marked else 0)
    assert ("security depends on it: api/events" in capsys.readouterr().err) is marked
    assert command("--course", told.root, "lifted", into, "--merge") == 0
    assert command("--course", told.root, "lifted", into) == 0


def test_a_page_or_root_that_left_the_course_is_told(course: Course, into: Path) -> None:
    put(course, "events", into)
    renamed = edit(course, "events", "def cheap(", "def cheaper(")
    assert lift.compare(renamed, into).problems == ["api/events exports cheap no longer"]
    assert states(renamed, into)["cheap"] == "gone from the course"
    toml = course.root / "playbook" / "course.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace('["events"]', "[]"), encoding="utf-8")
    found = lift.compare(Course(course.root), into)
    assert found.problems == ["api/events is no longer in the course"]
    assert {change.explained for change in found.changes} == {"gone from the course"}


def test_a_changed_course_is_merged_before_more_is_lifted(apart: Course, into: Path) -> None:
    with pytest.raises(InputError, match=r"first `playbook lifted .* --merge`"):
        put(apart, "events", into)


def test_a_changed_file_that_would_need_more_is_not_touched(course: Course, into: Path) -> None:
    put(course, "ground", into, "clamp")
    rewrite(into / "ground.py", "a name of its own", "mine")
    before = tree(into)
    with pytest.raises(InputError, match="was changed by you and lacks price"):
        put(course, "events", into, "whole")
    assert tree(into) == before


def test_nothing_was_lifted_here(course: Course, into: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        lift.compare(course, into)
    with pytest.raises(InputError, match="nothing was lifted into this folder"):
        lift.compare(course, tmp_path)


# ---------------------------------------------------------------- limits


def test_the_limits_hold(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tell(course, '\n[lift.events.registrations]\nat_the_end = ["page"]\nat_another_end = ["cheap"]\n')
    recipe = lift.Lifter(told).recipe(told.get("events"), ["Event"])
    monkeypatch.setattr(lift, "MAX_LINES", recipe.lines)
    assert recipe.over == ""
    monkeypatch.setattr(lift, "MAX_LINES", recipe.lines - 1)
    assert recipe.over.startswith(f"{recipe.lines} lines in 2 modules, at most {recipe.lines - 1} in 3")
    found = lift.findings(told)
    assert [line.partition(": ")[0] for line in found] == [
        "playbook/foundations/ground.py:1",
        "playbook/api/events.py:1",
    ]
    assert re.search(r": the recipe has \d+ lines in 2 modules", found[1])
    monkeypatch.setattr(lift, "MAX_LINES", 250)
    monkeypatch.setattr(lift, "MAX_MODULES", 1)
    assert len(lift.findings(told)) == 1
    assert lift.findings(tell(told, '[lift.events]\nover = "It is two things."\n')) == []


# ---------------------------------------------------------------- tests that go along


def test_a_test_goes_along_when_the_recipe_brings_what_it_needs(course: Course, into: Path) -> None:
    text = "from playbook.api.events import cheap\n\n\ndef test_it() -> None:\n    assert cheap() == 'cheap'\n"
    make(text)(course.root / lift.TESTS / "test_events.py")
    assert put(course, "events", into, "whole").notes == [
        "tests/test_events.py stays behind: it needs playbook.api.events.cheap"
    ]
    assert not (into / "tests").exists()
    put(course, "events", into)
    assert "from ..events import cheap\n" in (into / "tests" / "test_events.py").read_text(encoding="utf-8")
    assert (into / "tests" / "__init__.py").read_text(encoding="utf-8") == ""
    make(text.replace("api.events", "kit.lift"))(course.root / lift.TESTS / "test_events.py")
    assert any("needs playbook.kit.lift.cheap" in line for line in lift.findings(course))


# ---------------------------------------------------------------- the real pages, in a project without the course

# Imports every module below a folder, in an interpreter that has the libraries and not the course.
ALONE = """
import importlib, pathlib, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "playbook":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path[:] = [Without(), *(f for f in sys.meta_path if "playbook" not in f"{f}{type(f)}".lower())]
sys.path[:] = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(ROOT)]
"""
IMPORT_ALL = """
try:
    import playbook
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the course can be imported here")
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
for path in sorted(folder.glob("*/*.py")):
    importlib.import_module(f"{path.parent.name}.{path.stem}")
assert not [name for name in sys.modules if name.partition(".")[0] == "playbook"]
for page in sorted(folder.glob("*/README.md")):
    for code in __import__("re").findall("```python\\\\n(.*?)```", page.read_text(encoding="utf-8"), 16):
        compile(code, str(page), "exec", __import__("ast").PyCF_ALLOW_TOP_LEVEL_AWAIT)
"""
RUN_TESTS = """
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--rootdir", sys.argv[1], "-c", "/dev/null", sys.argv[1]]))
"""
LIFTED = tuple(p.name for p in Course().playbooks if anatomy.has_recipe(p))
WITH_TESTS = tuple(name for name in LIFTED if (ROOT / "tests" / "recipes" / f"test_{name}.py").is_file())


def alone(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code with `-I`, so that neither the environment nor the working folder gives a path to the course."""
    before = f"ROOT = {str(ROOT)!r}\n{ALONE}"
    command = [sys.executable, "-I", "-B", "-c", before + code, str(folder)]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return forked.run(command, 300, folder, env, forked.DRAWN, text=True)


def tool(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def ruff(folder: Path) -> str:
    """Ruff's own rules and the order of imports, at its own width, over every recipe of the course.

    Left out: a probe may fail with any exception (BLE001), and a key of another type is a wrong value (TRY004).
    """
    return tool(folder, "ruff", "check", "--isolated", "--no-cache", "--target-version=py311", "--extend-select=I",
                "--ignore=BLE001,TRY004", "--output-format=concise", *linted(folder))  # fmt: skip


def mypy(folder: Path, cache: str) -> str:
    """Strict, over the same modules; their tests are read by ruff alone."""
    options = ["--config-file=", "--python-version=3.11", f"--cache-dir={cache}", "--exclude=/tests/"]
    options.append("--disable-error-code=import-untyped")  # a library without types is the project's own affair
    return tool(folder, "mypy", "--strict", *options, *linted(folder))


def linted(folder: Path) -> list[str]:
    names = [f"with_{p.name}" for p in Course().playbooks]
    return [name for name in names if (folder / name).is_dir()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's project with every recipe of the course, each in a package of its own."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in LIFTED:
        put(Course(), name, folder / f"with_{name}")
    return folder


@pytest.fixture(scope="module")
def mypy_cache(request: pytest.FixtureRequest) -> str:
    return str(request.config.cache.mkdir("mypy_lifted")) if request.config.cache else "/dev/null"


def broken(project: Path, tmp_path: Path, place: str, old: str, new: str) -> Path:
    """A copy of the package of `place` in which something is changed."""
    package = place.partition("/")[0]
    for name, content in tree(project / package).items():
        path = tmp_path / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rewrite(tmp_path / place, old, new)
    return tmp_path


def test_the_real_recipes_are_imported_without_the_course(project: Path) -> None:
    done = alone(IMPORT_ALL, project)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("place", "old", "new", "error"),
    [
        ("with_mail/mail.py", "import smtplib\n", "", "NameError|ImportError"),
        ("with_mail/mail.py", "import re\n", "import playbook\nimport re\n", "No module named 'playbook'"),
        ("with_mail/README.md", "token=token)", "token=token", "SyntaxError"),
    ],
)
def test_a_missing_name_or_the_course_itself_would_be_noticed(
    project: Path, tmp_path: Path, place: str, old: str, new: str, error: str
) -> None:
    done = alone(IMPORT_ALL, broken(project, tmp_path, place, old, new))
    assert done.returncode != 0
    assert re.search(error, done.stderr), done.stderr


def test_ruff_finds_nothing_in_the_real_recipes(project: Path, tmp_path: Path) -> None:
    assert ruff(project) == ""
    unused = broken(project, tmp_path, "with_mail/mail.py", "import re\n", "import random\nimport re\n")
    assert "F401" in ruff(unused)


def test_mypy_finds_nothing_in_the_real_recipes(project: Path, tmp_path: Path, mypy_cache: str) -> None:
    assert mypy(project, mypy_cache) == ""
    wrong = broken(project, tmp_path, "with_mail/mail.py", 'host.strip("[]"), int', "[host], int")
    assert "Incompatible return value" in mypy(wrong, mypy_cache)


@pytest.mark.parametrize("name", WITH_TESTS)
def test_the_tests_that_landed_pass_there(project: Path, name: str) -> None:
    """Each in a process of its own: the hooks of one recipe would be there for another."""
    done = alone(RUN_TESTS, project / f"with_{name}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d* passed", done.stdout)


def test_every_recipe_has_tests_that_travel() -> None:
    assert {*LIFTED} <= {*WITH_TESTS}


@pytest.mark.parametrize("name", LIFTED)
def test_what_a_lifted_test_says_that_it_needs_is_what_it_needs(name: str, tmp_path: Path) -> None:
    """Its first lines are read in a foreign project, beside what `lift` prints."""
    text = (ROOT / "tests" / "recipes" / f"test_{name}.py").read_text(encoding="utf-8")
    said = re.match(r'""".*?Needs (.*), nothing else\.', text)
    if said is None:
        return  # it makes no such claim
    plan, _ = lift.plan(Course(), name, tmp_path / "into")
    left_out = {re.split(r"[><=]", need)[0] for need in plan.test_needs} - {*re.findall(r"[\w-]+", said[1])}
    assert left_out == set()


MUTATIONS = {
    "ids do not rise": ("clock_and_identifiers", "self._tail += 1 + fresh % 2**32", "self._tail = fresh % 2**73"),
    "the clock may go back": ("clock_and_identifiers", "self._time << 80", "time << 80"),
    "no lock": ("clock_and_identifiers", "(self._clock.now() - EPOCH) // MILLISECOND", "0"),
    "a checksum of the body only": ("clock_and_identifiers", "formed and text[-6:] ==", "formed and text[-6:] !="),
    "any prefix": ("clock_and_identifiers", "if not re.fullmatch(r\"[a-z]", "if not re.match(r\"[a-z]?"),
    "line breaks pass": ("mail", "in ENDS_A_LINE for", "in {'Zz'} for"),
    "two addresses": ("mail", "not ONE_ADDRESS.fullmatch(self.to)", "not ONE_ADDRESS.search(self.to)"),
    "a password in plain text": ("mail", "require_tls or self._login is not None", "require_tls"),
    "plain text": ("mail", "elif required:", "elif False:"),
    "refused for good is tried again": ("mail", "400 <= code < 500", "400 <= code < 600"),
    "a link is not encoded": ("mail", "quote(value, safe=\"!'()*\")", "value"),
    "the token is shown": ("mail", "token: str | None = field(default=None, repr=False)", "token: str | None = None"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_tests_that_landed_notice_a_changed_recipe(project: Path, tmp_path: Path, mutation: str) -> None:
    name, old, new = MUTATIONS[mutation]
    done = alone(RUN_TESTS, broken(project, tmp_path, f"with_{name}/{name}.py", old, new))
    assert done.returncode == 1, done.stdout
