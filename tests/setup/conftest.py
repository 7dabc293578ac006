"""What the tests of the set-up share: the repository as somebody else would get it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from playbook.kit.data import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as it stands, with what a commit of all of it would hold and nothing else.

    So a page that needs a file which git ignores fails here, as it would for whoever clones.
    """
    copy = tmp_path_factory.mktemp("clone") / "repository"
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:  # unpacked from an archive: there is no list of files
        return shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # not when it was deleted and that is not committed yet
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy
