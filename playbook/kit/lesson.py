"""What a playbook's demonstrations need, in one import: databases, live servers, display, exercises.

`from playbook.kit.lesson import lesson_url, on_postgres, serving, show, show_http, table`
"""

import atexit
import itertools
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playbook.kit import postgres, surroundings
from playbook.kit.data import data_path
from playbook.kit.display import er_diagram, mermaid, sequence_diagram, show, show_http, show_sql, table
from playbook.kit.exercises import checker
from playbook.kit.live import serving
from playbook.kit.postgres import on_postgres
from playbook.kit.smtp import mail_server

__all__ = [
    "checker",
    "data_path",
    "er_diagram",
    "lesson_folder",
    "lesson_url",
    "mail_server",
    "mermaid",
    "on_postgres",
    "sequence_diagram",
    "serving",
    "show",
    "show_http",
    "show_sql",
    "table",
]

surroundings.refuse_without_asserts()
surroundings.escape_what_cannot_be_shown()
surroundings.do_without_pandas()

# DuckDB wakes its other threads for statements that touch one row: more than their work in a lesson costs.
ALONE = "?threads=1"

_numbers = itertools.count(1)
_open = ExitStack()
atexit.register(_open.close)


def lesson_folder() -> Path:
    """A new empty temporary directory; deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="playbook-"))
    _open.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def lesson_url(file: bool = False) -> str:
    """The URL of a new, empty database, another one at every call, so that a cell can be run again.

    The embedded DuckDB, in memory or (with `file`) in a temporary file; on the PostgreSQL server that `DATABASE_URL`
    names, a new database, dropped when the process ends.
    """
    given = postgres.given_url()
    if given is not None:
        return _open.enter_context(postgres.database(given))
    if file:
        return f"duckdb:///{lesson_folder() / 'lesson.duckdb'}{ALONE}"
    return f"duckdb:///:memory:lesson_{os.getpid()}_{next(_numbers)}{ALONE}"
