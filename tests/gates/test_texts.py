"""The repository works anywhere: no file names a folder of the machine it was written on."""

import subprocess
import sys
from pathlib import Path

from playbook.kit.data import ROOT

LARGE = 5_000_000  # bytes; data files are not texts of ours


def files() -> list[Path]:
    """What is or would be committed; without git, everything that is not hidden or made."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        found = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts and p.stat().st_size < LARGE)


def folders_of_this_machine() -> set[str]:
    """Where the repository, the environment and the home of whoever runs this lie; not folders everybody has."""
    places = {ROOT, Path(sys.prefix), Path.home()}
    outside = {place for place in places if place == ROOT or not place.is_relative_to(ROOT)}
    return {
        f"{place}/" for place in outside if len(place.parts) > 1 and place not in (Path("/usr"), Path("/usr/local"))
    }


def lines_with(needles: set[str], among: list[Path]) -> list[str]:
    found = []
    for path in among:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.split("\n"), 1):
            found += [f"{path.name}:{number}: {needle}" for needle in needles if needle in line]
    return found


def test_no_folder_of_this_machine_is_named() -> None:
    assert lines_with(folders_of_this_machine(), files()) == []


def test_files_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"pyproject.toml", "playbook/course.toml", "notebooks/index.ipynb", "tests/gates/test_texts.py"} <= names


def test_a_name_would_be_found(tmp_path: Path) -> None:
    needle = f"{ROOT}/"
    path = tmp_path / "lock.txt"
    path.write_text(f"first line\nfrom file://{needle}simple\n", encoding="utf-8")
    assert lines_with({needle}, [path]) == [f"lock.txt:2: {needle}"]


def test_texts_end_with_a_line_and_have_unix_line_ends() -> None:
    ours = [p for p in files() if p.suffix in (".py", ".md", ".toml", ".txt", ".ipynb") and p.stat().st_size]
    assert [p.name for p in ours if not p.read_bytes().endswith(b"\n") or b"\r\n" in p.read_bytes()] == []
