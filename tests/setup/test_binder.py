"""The one pinned list, and the environment that Binder, CI and the README build from it."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, distributions
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


def from_the_list(found: list[Distribution]) -> list[Distribution]:
    """What `pip install -r` of the list has put here, and pip itself; empty when that is not what is here.

    README's test command builds the environment of the tests from the list by pip. Where it still is exactly that, no
    line more and none less, each from an index, pip would only build it again, which takes a core for a minute. Any
    fault of the list (a line that is missing, that no index has, that another refuses) makes the two differ.
    """
    here = {canonicalize_name(one.name): one for one in found}
    here.pop(canonicalize_name(PROJECT["name"]), None)
    built = {name: one.version for name, one in here.items() if name != "pip"}
    of_somebodys_own = any(one.read_text("direct_url.json") for one in here.values())  # a folder, a branch, an archive
    return [*here.values()] if "pip" in here and built == versions() and not of_somebodys_own else []


def take_over(found: list[Distribution], env: Path) -> None:
    """The files of these distributions in another environment of this Python.

    Modules are linked where the file system can do that: they have 1 GB, and nobody writes to an installed module.
    """
    here, made = Path(sys.prefix), set[Path]()
    modules = env / Path(sysconfig.get_path("purelib")).relative_to(here)
    for one in found:
        for file in one.files or ():
            source = Path(os.path.normpath(str(one.locate_file(file))))
            if not source.is_file():  # compiled by pip, and removed since
                assert source.suffix == ".pyc", f"{source} is missing: {one.name} is damaged"
                continue
            target = env / source.relative_to(here)
            if target.exists():
                continue  # two distributions have it
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            if target.is_relative_to(env / "bin"):  # a script's first line names its Python
                target.write_bytes(source.read_bytes().replace(os.fsencode(here), os.fsencode(env)))
                target.chmod(0o755)
                continue
            if target.is_relative_to(modules):
                with suppress(OSError):
                    target.hardlink_to(source)
                    continue
            shutil.copy2(source, target)


@pytest.mark.parametrize("change", ["a line more", "a line less", "another version", "a folder", "no pip", None])
def test_another_environment_than_the_list_is_not_taken_over(change: str | None, tmp_path: Path) -> None:
    here = versions() | {"pip": "23.2.1", canonicalize_name(PROJECT["name"]): PROJECT["version"]}
    changes = {"a line more": {"six2": "1"}, "another version": {"zipp": "0.1"}}
    here |= changes.get(change or "", {})
    here.pop({"a line less": "zipp", "no pip": "pip"}.get(change or "", ""), None)
    for name, version in here.items():
        (about := tmp_path / f"{name.replace('-', '_')}-{version}.dist-info").mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        if change == "a folder" and name == "zipp":
            (about / "direct_url.json").write_text("{}", encoding="utf-8")
    taken = {one.name for one in from_the_list(list(distributions(path=[str(tmp_path)])))}
    assert taken == (set() if change else {*versions(), "pip"})


def install(clone: Path, folder: Path, environment: dict[str, str]) -> None:
    """The list, by pip. Skips where pip reaches no index."""
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


@pytest.mark.skipif(os.name != "posix", reason="Binder is Linux: postBuild is a bash script")
@pytest.mark.timeout(1200)  # what is installed comes over the network
def test_a_fresh_environment_is_built_as_binder_does(clone: Path, folder: Path) -> None:
    built = from_the_list(list(distributions(path=[sysconfig.get_path("purelib")])))
    run([sys.executable, "-m", "venv", "env", *(["--without-pip"] if built else [])], folder, dict(os.environ))
    programs = folder / "env" / "bin"
    inherited = {k: v for k, v in clean_environment().items() if not k.startswith(("PYTHON", "JUPYTER", "VIRTUAL_"))}
    environment = inherited | {"PATH": f"{programs}{os.pathsep}{inherited['PATH']}", "PIP_NO_COMPILE": "1"}
    if built:
        take_over(built, folder / "env")
    else:
        install(clone, folder, environment)

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
