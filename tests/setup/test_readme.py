"""What the README promises: its commands are the ones that CI runs, what it shows has happened, what it names exists.

The same for CONTRIBUTING.md and ARCHITECTURE.md.
"""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from playbook.kit import cli
from playbook.kit.course import Playbook
from playbook.kit.data import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"]
SHORTER_THAN = 120  # lines of the README without its map: what a person reads before the first page
RUN, TEST = ".venv/bin/playbook run", ".venv/bin/python -m pytest"


def command(name: str, text: str = README) -> str:
    """The one line of the code block between `<!-- NAME-command -->` and `<!-- /NAME-command -->`."""
    blocks = re.findall(rf"^<!-- {name}-command -->\n+```\w*\n(.+)\n```\n+<!-- /{name}-command -->$", text, re.M)
    assert len(blocks) == 1, f"one block of one line, marked {name}-command"
    return str(blocks[0])


def prose(text: str) -> str:
    """Markdown without its code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def relative_links(text: str) -> list[str]:
    """The targets of links that do not lead to another host."""
    targets = re.findall(r"\]\(<?([^)>\s]+)", prose(text))
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def slug(heading: str) -> str:
    """The anchor that code hosts make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(text: str, folder: Path) -> list[str]:
    """The relative links in `text` that lead nowhere, seen from `folder`."""
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}
    found = []
    for target in relative_links(text):
        path, _, anchor = target.partition("#")
        if not (folder / path).exists() or (anchor and not path and anchor not in anchors):
            found.append(target)
    return found


# ---------------------------------------------------------------- commands


def test_both_commands_do_the_same_set_up() -> None:
    run, test = command("run"), command("test")
    assert run.endswith(f" && {RUN}")
    assert test.endswith(f" && {TEST}")
    assert run.removesuffix(RUN) == test.removesuffix(TEST)


def test_there_is_one_pinned_list_and_both_commands_name_it() -> None:
    for line in (command("run"), command("test")):
        assert re.findall(r"-r (\S+)", line) == ["binder/requirements.txt"]
    lists = ["*requirements*", "*.lock", "*environment*.yml"]
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *lists]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode == 0:
        assert listed.stdout.split() == ["binder/requirements.txt"]


def test_binder_installs_the_course_as_the_readme_does() -> None:
    install = r"pip (install [^&\n]*-e \.)"
    on_binder = re.findall(rf"^{install}$", (ROOT / "binder" / "postBuild").read_text(encoding="utf-8"), re.M)
    assert len(on_binder) == 1
    assert re.findall(install, command("run")) == on_binder


@pytest.mark.skipif(os.name != "posix", reason="CI runs on Linux: .ci/run is a bash script")
@pytest.mark.parametrize("code", [0, 7])
def test_ci_runs_the_readmes_test_command_whatever_it_says(tmp_path: Path, code: int) -> None:
    done = ci(tmp_path, README.replace(command("test"), f'echo "it ran, $REQUIRE_BROWSER$REQUIRE_NODE" && exit {code}'))
    assert f'+ echo "it ran, $REQUIRE_BROWSER$REQUIRE_NODE" && exit {code}\nit ran, 11\n' in done.stdout
    assert done.returncode == code


@pytest.mark.skipif(os.name != "posix", reason="CI runs on Linux: .ci/run is a bash script")
def test_ci_fails_when_the_readme_has_no_test_command(tmp_path: Path) -> None:
    done = ci(tmp_path, README.replace("test-command", "some-command"))
    assert (done.returncode, done.stderr.count("has no test command")) == (2, 1)


def ci(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/run` in a folder that has nothing but `readme` and things called chromium, node and npm."""
    (folder / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    programs = folder / "bin"
    programs.mkdir()
    for name in ("chromium", "node", "npm"):
        (programs / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    for name in ("REQUIRE_BROWSER", "REQUIRE_NODE"):
        environment.pop(name, None)
    return subprocess.run(
        ["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=60
    )


# ---------------------------------------------------------------- what is named exists


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def quoted(text: str) -> list[str]:
    """What stands between backquotes, outside of blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def exists(dotted: str) -> bool:
    """Whether `package.module.name` is a module of the course, or is defined at the top of one."""
    module, _, name = dotted.rpartition(".")
    for path in (ROOT / "playbook" / f"{dotted.replace('.', '/')}.py", ROOT / "playbook" / dotted.replace(".", "/")):
        if path.exists():
            return True
    source = ROOT / "playbook" / f"{module.replace('.', '/')}.py"
    if not source.is_file():
        return False
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return name in {node.name for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, kinds)}


@pytest.mark.parametrize("name", TEXTS)
def test_the_commands_of_the_course_that_a_text_names_exist(name: str) -> None:
    named = set(re.findall(r"(?:`|\bbin/|^)playbook ([a-z][a-z-]*)", text_of(name), re.M))
    exist = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert named
    assert named <= exist, named - exist


@pytest.mark.parametrize("name", TEXTS)
def test_the_files_that_a_text_names_exist(name: str) -> None:
    named = [path for path in quoted(text_of(name)) if re.fullmatch(r"(?:\.?\w[\w.-]*/)+[\w.-]*", path)]
    assert [path for path in named if not path.startswith(".venv/") and not (ROOT / path).exists()] == []


def test_the_files_of_the_layout_exist() -> None:
    tree = re.search(r"^## Layout\n+```\w*\n(.+?)^```", text_of("CONTRIBUTING.md"), re.M | re.S)
    assert tree is not None
    named, parents = [], [""]
    for line in tree[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents[depth + 1 :] = [parents[depth] + name]
        named.append(parents[depth] + name)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_names_of_the_architecture_exist() -> None:
    packages = "|".join(path.name for path in (ROOT / "playbook").iterdir() if path.is_dir())
    named = [name for name in quoted(text_of("ARCHITECTURE.md")) if re.fullmatch(rf"(?:{packages})(?:\.\w+)+", name)]
    assert len(named) > 15
    assert [name for name in named if not exists(name)] == []
    assert not exists("pantry.app.nothing_like_this")
    assert not exists("pantry.nothing.at_all")


@pytest.mark.parametrize("name", TEXTS)
def test_the_links_of_a_text_lead_somewhere(name: str) -> None:
    assert relative_links(text_of(name))
    assert broken(text_of(name), ROOT) == []


# ---------------------------------------------------------------- what a reader sees first


def differing(text: str) -> list[str]:
    """The blocks between `<!-- shown PAGE -->` and `<!-- /shown -->` that the page's stored notebook does not have."""
    found = []
    for page, shown in re.findall(r"^<!-- shown (\S+) -->$(.+?)^<!-- /shown -->$", text, re.M | re.S):
        cells = json.loads((ROOT / "notebooks" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        printed = ["".join(output.get("text", "")).rstrip() for cell in cells for output in cell.get("outputs", ())]
        for kind, block in re.findall(r"^```(\w+)\n(.+?)\n```$", shown, re.M | re.S):
            has = any(block in source for source in sources) if kind == "python" else block in printed
            found += [] if has else [block]
    return found


def test_the_failure_that_the_readme_shows_has_happened() -> None:
    assert len(re.findall(r"^<!-- shown \S+ -->$", README, re.M)) == 1
    assert differing(README) == []
    assert len(differing(README.replace("used: 60\n", "used: 120\n"))) == 1
    assert len(differing(README.replace("used + 60 > 100", "used + 60 > 10"))) == 1


def test_the_readme_is_short() -> None:
    before, _, rest = README.partition("<!-- map -->")
    own = before + rest.partition("<!-- /map -->")[2]
    assert len(own.splitlines()) <= SHORTER_THAN


def test_the_architecture_fits_one_screen() -> None:
    assert len(text_of("ARCHITECTURE.md").splitlines()) <= 70


def test_the_picture_is_small_and_of_this_page() -> None:
    [(says, picture)] = re.findall(r"!\[(.+?)\]\((\S+?)\)", README)
    content = (ROOT / picture).read_bytes()
    assert says
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) < 120_000


def test_the_links_of_a_page_lead_somewhere_from_its_notebook(pair: Playbook) -> None:
    assert relative_links(pair.prose), "every page has at least the link to the course map"
    assert broken(pair.prose, pair.notebook.parent) == []


def test_the_links_of_a_stored_notebook_lead_somewhere(pair: Playbook) -> None:
    cells = json.loads(pair.notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert relative_links(text)
    assert broken(text, pair.notebook.parent) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").touch()
    text = "# A heading, here\n[a](there.md) [b](gone.md) [c](#a-heading-here) [d](#none) `[e](code)` [f](mailto:x@y)"
    assert broken(text, tmp_path) == ["gone.md", "#none"]
