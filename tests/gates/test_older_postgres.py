"""The service on a PostgreSQL older than the packaged one: Debian's, where it is installed.

What is run again are tests that stand elsewhere, each once more on that server: tables, migrations, the load of the
catalogue, all routes and lists, the recorded exchanges of sign-in, and the second way of the session look-up. So every
statement that the service sends is sent to it.
"""

import os
import sys

import forked
import pytest

from playbook.kit.data import ROOT

SECONDS = 900
AGAIN = [  # in one process: to start pytest, and to collect, costs as much as some of them
    "tests/schema", "tests/migrations/test_revisions.py",
    "tests/api/test_every_route.py", "tests/api/test_pagination.py", "tests/api/test_idempotency.py",
    "tests/contract/test_as_recorded.py",
    "tests/auth/test_session_lookup.py",
    "tests/production/test_pantry.py", "tests/test_service.py",
]  # fmt: skip


@pytest.mark.timeout(SECONDS)
def test_on_an_older_server(older_server: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PLAYBOOK_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--on-postgresql", *AGAIN]
    done = forked.run(command, SECONDS, ROOT, environment | {"DATABASE_URL": older_server}, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
