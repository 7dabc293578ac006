"""The one pinned list, and the environment that Binder, CI and the README build from it."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from playbook.kit import binder, jupyter
from playbook.kit.data import ROOT
from playbook.kit.pairing import clean_environment

BINDER = ROOT / "binder"
LIST = (BINDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
HEADER = [line for line in LIST if line.startswith("#")]
PINS = [Requirement(line) for line in LIST if not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SYSTEMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    "macOS on Intel": {
        "sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "x86_64",
    },
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
}  # fmt: skip
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def versions(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Name to version of the pins that apply in `environment` (here, when it is not given)."""
    found: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice in one environment"
            found[name] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("line", [line for line in LIST if not line.startswith("#")])
def test_every_line_is_one_exact_pin(line: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*==[0-9][\w.!]*(?: ; .+)?", line), line
    assert not re.search(r"://|--|@|\*", line)


def test_the_header_has_the_command_that_made_the_list() -> None:
    command = next(line.strip("# ") for line in HEADER if "uv pip compile" in line)
    words = shlex.split(command)
    assert words[:4] == ["uv", "pip", "compile", "pyproject.toml"]
    assert words[words.index("-o") + 1] == "binder/requirements.txt"
    lowest = words[words.index("--python-version") + 1]
    assert lowest in SpecifierSet(PROJECT["requires-python"])
    assert str(SpecifierSet(PROJECT["requires-python"])) == f">={lowest}"
    assert not any(word.startswith(("/", "~")) or "://" in word for word in words), "a path or address of one machine"
    assert command in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "it says how to make the list anew"


@pytest.mark.parametrize(("system", "python"), list(itertools.product(SYSTEMS, PYTHONS)))
def test_every_dependency_is_pinned_as_pyproject_wants_it(system: str, python: str) -> None:
    own = {"python_version": python, "python_full_version": f"{python}.9"}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    environment = SYSTEMS[system] | own | cpython
    pinned = versions(environment)
    for wanted in map(Requirement, PROJECT["dependencies"]):
        if wanted.marker is None or wanted.marker.evaluate(environment):
            version = pinned.get(canonicalize_name(wanted.name))
            assert version is not None, f"{wanted} is not in binder/requirements.txt: make the list anew"
            assert wanted.specifier.contains(version), f"{wanted} is pinned to {version}: make the list anew"


def test_binder_takes_the_lowest_python_of_the_project() -> None:
    runtime = (BINDER / "runtime.txt").read_text(encoding="utf-8").strip()
    assert runtime.startswith("python-")
    assert PROJECT["requires-python"] == f">={runtime.removeprefix('python-')}"


def test_the_build_stops_at_the_first_error() -> None:
    script = BINDER / "postBuild"
    lines = script.read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "#!/bin/bash"
    assert commands[0] == "set -e"
    assert os.name != "posix" or os.access(script, os.X_OK), "git add --chmod=+x binder/postBuild"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """The command's output. A failure shows everything it wrote."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not stay: an environment has 700 MB, and pytest keeps what three runs left."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.skipif(os.name != "posix", reason="Binder is Linux: postBuild is a bash script")
@pytest.mark.timeout(1200)  # what is installed comes over the network
def test_a_fresh_environment_is_built_as_binder_does(clone: Path, folder: Path) -> None:
    run([sys.executable, "-m", "venv", str(folder / "env")], folder, dict(os.environ))
    programs = folder / "env" / "bin"
    inherited = {k: v for k, v in clean_environment().items() if not k.startswith(("PYTHON", "JUPYTER", "VIRTUAL_"))}
    environment = inherited | {"PATH": f"{programs}{os.pathsep}{inherited['PATH']}", "PIP_NO_COMPILE": "1"}

    small = ["pip", "download", "--no-deps", "--no-cache-dir", "--retries=1", "--timeout=20", "--dest=reached", "six"]
    reached = subprocess.run(small, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    if reached.returncode:
        reason = (reached.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"pip reaches no package index, so nothing can be installed: {reason}")

    # Dependencies first: Binder installs the list before it copies the repository, so nothing else is there.
    (folder / "list").mkdir()
    alone = folder / "list" / "requirements.txt"
    alone.write_bytes((clone / "binder" / "requirements.txt").read_bytes())
    run(["pip", "install", "-q", "-r", str(alone)], alone.parent, environment)

    home = folder / "home"
    home.mkdir()
    environment |= {"HOME": str(home)}
    run([str(clone / "binder" / "postBuild")], clone, environment)

    listed = json.loads(run(["pip", "list", "--format=json"], folder, environment))
    installed = {canonicalize_name(one["name"]): one["version"] for one in listed}
    installed.pop("pip")
    assert installed.pop(canonicalize_name(PROJECT["name"])) == PROJECT["version"]
    assert installed == versions(), "the list has everything that is installed, and nothing else is"
    run(["pip", "check"], folder, environment)

    for path in jupyter.DEFAULTS.rglob("*.json"):  # JupyterLab as `playbook lab` starts it
        assert (
            folder / "env" / "etc" / "jupyter" / path.relative_to(jupyter.DEFAULTS)
        ).read_bytes() == path.read_bytes()
    opened = clone / binder.LANDING_PAGE.removeprefix("lab/tree/")
    assert "Binder forgets your work" in json.loads(opened.read_text(encoding="utf-8"))["cells"][0]["source"]
    assert not list(home.glob(".jupyter*")), "postBuild must leave the user's own Jupyter settings alone"

    assert "Usage: playbook" in run(["playbook", "--help"], folder, environment)
    assert "settings" in run(["playbook", "list"], folder, environment)
    assert "1 playbook: 1 passed, 0 failed" in run(["playbook", "run", "settings"], folder, environment)
