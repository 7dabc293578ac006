"""Importing the course, and `playbook --help`: what a reader waits for before anything happens.

The floor is a fresh interpreter that runs only those imports of the playbooks' export cells that name other people's
libraries, taken from their text. "Cold": the playbooks have no bytecode yet, as after `git clone`; "all cold": the
libraries and Python's own modules have none either, as where no bytecode may be written.
"""

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import ROOT, Row, Sample, main, parser, run, show, take_all

from playbook.kit import hook
from playbook.kit.course import Course

PACKAGES = ["sqlalchemy", "fastapi", "pydantic", "typer"]
AIM_IMPORT, AIM_HELP = 1.0, 0.5  # seconds
SMALLEST = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"


def library_imports(sources: Sequence[str]) -> list[str]:
    """The export cells' import statements of other people's modules, once each, in the order they are met."""
    own = sys.stdlib_module_names | {"playbook", None}
    found: dict[str, None] = {}
    for source in sources:
        for node in ast.parse(hook.exported(source)).body:
            match node:
                case ast.Import(names=[ast.alias(name=name), *_]) | ast.ImportFrom(module=name):
                    if name and name.partition(".")[0] not in own:
                        found[ast.unparse(node)] = None
    return list(found)


def kit() -> list[str]:
    return [f"playbook.kit.{path.stem}" for path in sorted((ROOT / "playbook" / "kit").glob("[!_]*.py"))]


def python(statements: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", "\n".join(statements)]


def work() -> None:
    chosen = parser(__doc__).parse_args()
    pages = [playbook for playbook in Course().pairs if playbook.text.exists()]
    libraries = python(library_imports([page.source for page in pages]))
    playbooks = python([f"import {page.module}" for page in pages])
    everything = python([f"import {module}" for module in [*(page.module for page in pages), *kit()]])
    script = shutil.which("playbook", path=os.path.dirname(sys.executable))
    show_help = [*([script] if script else [sys.executable, "-m", "playbook.kit.cli"]), "--help"]

    with tempfile.TemporaryDirectory(prefix="playbook-bench-") as folder:
        warm, all_cold = Path(folder) / "warm", Path(folder) / "cold"

        def env(cache: Path) -> dict[str, str]:
            # Empty: the reader's environment may say that no bytecode is written, and then nothing would ever be warm.
            return {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}

        own = warm / ROOT.relative_to(ROOT.anchor)  # Python mirrors the sources' whole path in its cache

        def row(
            name: str, command: list[str], against: Row | None = None, aim: float | None = None,
            cache: Path = warm, forget: Path | None = None,
        ) -> Row:  # fmt: skip
            def take() -> Sample:
                if forget:
                    shutil.rmtree(forget, ignore_errors=True)
                return {"seconds": run(command, env(cache))[0]}

            return Row(name, take, against, aim_seconds=aim)

        bare = row("Python, nothing imported", python(["pass"]))
        floor = row("floor: the libraries, warm", libraries)
        floor_cold = row("floor: the libraries, all cold", libraries, cache=all_cold, forget=all_cold)
        floor_help = row("floor: the smallest Typer program, --help", python([SMALLEST]))
        rows = [
            bare,
            floor,
            row(f"{len(pages)} playbooks, warm", playbooks, floor, AIM_IMPORT),
            row(f"{len(pages)} playbooks, cold", playbooks, floor, AIM_IMPORT, forget=own),
            row("playbooks and kit, warm", everything, floor, AIM_IMPORT),
            floor_cold,
            row(f"{len(pages)} playbooks, all cold", playbooks, floor_cold, cache=all_cold, forget=all_cold),
            floor_help,
            row("playbook --help, warm", show_help, floor_help, AIM_HELP),
            row("playbook --help, cold", show_help, floor_help, AIM_HELP, forget=own),
        ]
        for command in (everything, show_help, libraries, python([SMALLEST])):  # fills the cache
            run(command, env(warm))
        take_all(rows, 3 if chosen.quick else 9)
    show("Importing the course", rows, PACKAGES, ["Times are those of the whole process, Python's own start included."])


if __name__ == "__main__":
    main(work)
