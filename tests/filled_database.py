"""The database that `playbook serve` makes from an empty one, made once in a process: migrated, with the catalogue.

For tests of a service in a process of its own whose subject is not its first start: half of what that takes is this.
"""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from playbook.kit.data import data_path
from playbook.pantry.app import prepare_alone
from playbook.pantry.settings import Settings


@cache
def _made() -> Path:
    path = Path(tempfile.mkdtemp()) / "filled.duckdb"
    prepare_alone(Settings(environment="test", database_url=f"duckdb:///{path}"), data_path("packages.csv"), print)
    assert [one.name for one in path.parent.iterdir()] == [path.name], "its log is a part of it"
    return path


def filled_database(folder: Path) -> str:
    """The URL of a copy in `folder`."""
    return f"duckdb:///{shutil.copy(_made(), folder / 'pantry.duckdb')}"
