"""A clone on any system is the repository: Git on Windows changes no line end, and every name can exist there."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path, PureWindowsPath

import pytest

from playbook.kit import data
from playbook.kit.errors import InputError
from playbook.kit.pairing import clean_environment

WINDOWS = {
    "as installed": ["core.autocrlf=true"],
    "line ends of the system": ["core.eol=crlf"],
    "both": ["core.autocrlf=true", "core.eol=crlf"],
}
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody can clone: the files as they stand, committed. The copy that other tests use stays as it is."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: nothing can be cloned")
    folder = Path(shutil.copytree(clone, tmp_path_factory.mktemp("committed") / "repository"))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-q", "-m", "as it stands")
    return folder


def cloned(repository: Path, into: Path, options: list[str]) -> Path:
    """A clone with `options`, as `git -c` takes them; they hold in the clone afterwards, too."""
    chosen = [word for option in options for word in ("-c", option)]
    git(into, *chosen, "clone", "-q", *chosen, str(repository), "clone")
    return into / "clone"


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_clone_on_windows_has_the_same_bytes(repository: Path, tmp_path: Path, kind: str) -> None:
    clone = cloned(repository, tmp_path, WINDOWS[kind])
    names = git(clone, "ls-files", "-z").split("\0")[:-1]
    assert len(names) > 100
    assert [name for name in names if (clone / name).read_bytes() != (repository / name).read_bytes()] == []
    assert data.check_all(clone / "data") == data.check_all()
    assert git(clone, "status", "--porcelain") == ""


def test_in_a_clone_on_windows_check_is_green_and_a_page_runs(repository: Path, tmp_path: Path) -> None:
    clone = cloned(repository, tmp_path, WINDOWS["as installed"])
    for command in (["check"], ["run", "settings", "profile_data"]):
        done = subprocess.run(
            [sys.executable, "-m", "playbook.kit.cli", *command],
            cwd=clone,
            env=clean_environment() | {"PYTHONPATH": str(clone)},  # this clone's own modules
            capture_output=True,
            encoding="utf-8",
            timeout=250,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_options_would_change_line_ends(repository: Path, tmp_path: Path) -> None:
    """Without the attributes they do, or the tests above would prove nothing."""
    bare = Path(shutil.copytree(repository, tmp_path / "bare"))
    git(bare, "rm", "-q", ".gitattributes")
    git(bare, *IDENTITY, "commit", "-q", "-m", "without attributes")
    clone = cloned(bare, tmp_path, WINDOWS["as installed"])
    with pytest.raises(InputError, match="line ends"):
        data.check_all(clone / "data")


def test_every_file_has_an_attribute_and_those_of_the_manifest_are_never_converted(repository: Path) -> None:
    names = git(repository, "ls-files", "-z").split("\0")[:-1]
    asked = git(repository, "check-attr", "-z", "text", "eol", "--", *names).split("\0")[:-1]
    attributes = {(name, key): value for name, key, value in zip(*[iter(asked)] * 3, strict=True)}
    manifest = tomllib.loads((repository / "data" / "manifest.toml").read_text(encoding="utf-8"))
    assert manifest
    assert [name for name in manifest if attributes[f"data/{name}", "text"] != "unset"] == []
    converted = [
        n for n in names if (attributes[n, "text"], attributes[n, "eol"]) not in (("unset", "lf"), ("auto", "lf"))
    ]
    assert converted == []


# ---------------------------------------------------------------- the advice


def old_clone(repository: Path, folder: Path) -> Path:
    """A clone made on Windows before there were attributes, that has since pulled them: line ends stay as they are."""
    before = Path(shutil.copytree(repository, folder / "before"))
    git(before, "rm", "-q", ".gitattributes")
    git(before, *IDENTITY, "commit", "-q", "-m", "without attributes")
    clone = cloned(before, folder, WINDOWS["as installed"])
    shutil.copy(repository / ".gitattributes", clone)
    return clone


def test_the_advice_for_windows_line_ends_restores_the_file(repository: Path, tmp_path: Path) -> None:
    clone = old_clone(repository, tmp_path)
    for name in data._manifest(clone / "data"):
        with pytest.raises(InputError, match=rf"data/{re.escape(name)} has the line ends of Windows") as raised:
            data.data_path(name, clone / "data")
        assert "\n" not in str(raised.value)
        assert "delete it" in str(raised.value)
        [command] = re.findall(r"`git ([^`]*)`", str(raised.value))
        (clone / "data" / name).unlink()
        git(clone, *command.split())
        assert data.data_path(name, clone / "data").read_bytes() == (repository / "data" / name).read_bytes()


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_the_advice_for_a_damaged_file_restores_it(repository: Path, tmp_path: Path, damage: str) -> None:
    clone = cloned(repository, tmp_path, WINDOWS["as installed"])
    path = clone / "data" / "packages.csv"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content.replace(b"boto3", b"b0to3") if damage == "changed" else content[:-1])
    with pytest.raises(InputError) as raised:
        data.data_path("packages.csv", clone / "data")
    [command] = re.findall(r"`git ([^`]*)`", str(raised.value))
    git(clone, *command.split())
    assert data.data_path("packages.csv", clone / "data").read_bytes() == content


# ---------------------------------------------------------------- names


RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
LONGEST = 150  # characters below the repository: Windows allows 260 with the folder above, if nobody changed it


def impossible(names: list[str]) -> list[str]:
    """The names that a Windows system cannot have, or cannot tell apart."""
    found = []
    times = Counter(name.casefold() for name in names)
    for name in names:
        parts = PureWindowsPath(name).parts
        reserved = any(part.split(".")[0].rstrip().casefold() in RESERVED for part in parts)
        shape = any(re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part) for part in name.split("/"))
        if reserved or shape or len(name) > LONGEST or times[name.casefold()] > 1 or not name.isascii():
            found.append(name)
    return found


def test_every_name_can_exist_on_windows(repository: Path) -> None:
    assert impossible(git(repository, "ls-files", "-z").split("\0")[:-1]) == []


@pytest.mark.parametrize("name", ["a/NUL.txt", "com1", "a:b", "what?", "dot.", "space /x", "a\\b", "x" * 151, "é.py"])
def test_an_impossible_name_would_be_found(name: str) -> None:
    assert impossible(["README.md", name]) == [name]
    assert impossible(["Readme.md", "README.md"]) == ["Readme.md", "README.md"]


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps no executable bits")
def test_scripts_are_executable_and_nothing_is_a_link(repository: Path) -> None:
    modes = dict(reversed(line.split("\t")) for line in git(repository, "ls-files", "-s", "-z").split("\0")[:-1])
    scripts = {name for name in modes if (repository / name).read_bytes().startswith(b"#!")}
    assert {name for name, mode in modes.items() if mode.split()[0] == "100755"} == scripts
    assert {mode.split()[0] for mode in modes.values()} == {"100644", "100755"}
