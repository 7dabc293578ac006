"""Find the course's data files, whatever the working directory, and notice when one is missing or cut short."""

import hashlib
import tomllib
from functools import cache
from pathlib import Path

from playbook.kit.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


@cache
def _manifest(folder: Path) -> dict[str, dict[str, object]]:
    try:
        return tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "data/manifest.toml is missing: run the course from a clone of its repository, "
            "or restore the file with `git checkout -- data`"
        ) from None


def data_path(name: str, folder: Path = DATA) -> Path:
    """The path of data file `name`, verified by size and SHA-256 against the folder's `manifest.toml`.

    Raises InputError when the file is missing, cut short or changed, and says how to get it back.
    """
    path = folder / name
    expected = _manifest(folder).get(name)
    if expected is None:
        known = ", ".join(sorted(_manifest(folder)))
        raise InputError(f"data/{name} is not listed in data/manifest.toml: known are {known}")
    restore = f"restore it with `git checkout -- data/{name}`"
    if not path.is_file():
        raise InputError(f"data/{name} is missing: {restore}")
    content = path.read_bytes()
    if len(content) == expected["bytes"] and hashlib.sha256(content).hexdigest() == expected["sha256"]:
        return path
    if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == expected["sha256"]:
        # Git takes such a file for unchanged and would not write it again, so it has to go first.
        raise InputError(
            f"data/{name} has the line ends of Windows, which Git put there: delete it, then "
            f"`git -c core.autocrlf=false checkout -- data/{name}`"
        )
    if len(content) != expected["bytes"]:
        raise InputError(f"data/{name} has {len(content):,} bytes instead of {expected['bytes']:,}: {restore}")
    raise InputError(f"data/{name} has been changed: {restore}")


def check_all(folder: Path = DATA) -> list[str]:
    """Verify every data file of the manifest; returns their names."""
    return [data_path(name, folder).name for name in sorted(_manifest(folder))]
