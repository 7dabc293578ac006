"""Recipes lie below Pantry, and nothing runs back up."""

import re
import shutil
from pathlib import Path

import pytest

from playbook.kit import imports
from playbook.kit.course import Course
from playbook.kit.data import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's sources, to plant something in."""
    shutil.copytree(ROOT / "playbook", tmp_path / "playbook", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def findings(root: Path) -> list[str]:
    return list(imports.upward(Course(root), imports.graph(root)))


def plant(root: Path, module: str, line: str) -> None:
    """Add `line` to the first export cell of a page, or to the top of a plain module."""
    path = root / "playbook" / f"{module.replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    cell = re.search(r'^# %% tags=\["export"\]\n', source, re.M)
    at = cell.end() if cell else source.index('"""\n', 3) + 4
    path.write_text(f"{source[:at]}{line}\n{source[at:]}", encoding="utf-8")


def test_nothing_runs_back_up() -> None:
    assert findings(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        (
            "foundations.clock_and_identifiers",
            "import playbook.pantry.settings",
            "is a recipe and imports pantry.setti",
        ),
        ("auth.mail", "from playbook.pantry import errors", "auth.mail is a recipe and imports pantry.errors"),
        ("foundations.clock_and_identifiers", "from playbook.auth import mail", "imports auth.mail, which comes later"),
        ("pantry.settings", "from playbook.pantry.app import pantry", "a circle: pantry.app -> "),
    ],
)
def test_what_runs_back_up_is_named(copy: Path, module: str, line: str, said: str) -> None:
    plant(copy, module, line)
    assert any(said in found for found in findings(copy)), findings(copy)


def test_the_diagram_has_every_arrow_once_and_the_recipes_below(copy: Path) -> None:
    course, edges = Course(ROOT), imports.graph(ROOT)
    lines = str(imports.diagram(course, edges)).splitlines()
    arrows = [line.strip() for line in lines if "-->" in line]
    assert len(arrows) == len(set(arrows))
    assert lines[0] == "flowchart BT"  # from the bottom to the top
    assert lines.index("  subgraph recipes") < lines.index("  subgraph Pantry")
    assert "auth --> pantry" in arrows
    assert not [arrow for arrow in arrows if arrow.startswith("pantry ") and not arrow.endswith("pantry_auth")]


def test_the_diagram_of_one_track_has_its_modules_and_their_neighbours() -> None:
    shown = str(imports.diagram(Course(ROOT), imports.graph(ROOT), "pantry"))
    assert "pantry_settings --> pantry_app" in shown
    assert "schema_profile_data" not in shown


def test_the_map_of_pantry_names_every_module() -> None:
    text = (ROOT / "playbook" / "pantry" / "__init__.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)/?`", text))
    modules = {m.rpartition(".")[2] for m in imports.modules(ROOT) if m.startswith("pantry.") and "revisions." not in m}
    assert modules - named == set()
