"""What the README promises: its commands are the ones that CI runs, and everything it names exists."""

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


def test_the_commands_of_the_course_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?:`|\bbin/)playbook ([a-z][a-z-]*)", README))
    exist = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert named
    assert named <= exist, named - exist


def test_the_files_that_the_readme_names_exist() -> None:
    tree = re.search(r"^## Layout\n+```\w*\n(.+?)^```", README, re.M | re.S)
    assert tree is not None
    named, parents = [], [""]
    for line in tree[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents[depth + 1 :] = [parents[depth] + name]
        named.append(parents[depth] + name)
    code = [name for name in re.findall(r"`((?:\.?\w[\w.-]*/)+[\w.-]*)`", README) if not name.startswith(".venv/")]
    missing = [name for name in named + code if not (ROOT / name).exists()]
    assert len(named) > 5
    assert missing == []


def test_the_links_of_the_readme_lead_somewhere() -> None:
    assert relative_links(README)
    assert broken(README, ROOT) == []


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
