"""Servers that Debian packages: a PostgreSQL older than the wheel's, and PgBouncer before a server.

Each runs in a temporary directory, on a free port of 127.0.0.1, and is gone at the end of the block. Neither runs as
root, so as root they run as `postgres`, a user that Debian's packages make.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from ports import free_port
from sqlalchemy.engine import make_url

USER = "postgres"
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
START_SECONDS = 60


class Missing(Exception):
    """The program is not installed here. The message is one line."""


def postgres_programs() -> Path:
    """The folder of the oldest PostgreSQL server that Debian's packages installed. Raises Missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda program: int(program.parts[-3]))
    if not found:
        raise Missing("Debian's package `postgresql` is not installed: nothing ran on a server older than the wheel's")
    return found[0].parent


def pgbouncer_program() -> str:
    """The path of PgBouncer. Raises Missing."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Missing("Debian's package `pgbouncer` is not installed: nothing ran behind a pooler")
    return found


@contextmanager
def folder_of_user() -> Iterator[Path]:
    """A temporary directory that belongs to the user the servers run as."""
    with tempfile.TemporaryDirectory(prefix="debian-", ignore_cleanup_errors=True) as name:
        if AS_ROOT:
            shutil.chown(name, USER, USER)
            Path(name).chmod(0o755)
        yield Path(name)


def as_user() -> dict[str, Any]:
    return {"user": USER, "group": USER, "extra_groups": []} if AS_ROOT else {}


@contextmanager
def running(command: list[str], folder: Path, url: str) -> Iterator[str]:
    """`command` for as long as the block runs, from when `url` answers on. Raises RuntimeError with its output."""
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, **as_user())
    try:
        ends = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(url, connect_timeout=5).close()
                break
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"{command[0]} did not start ({error}): {log.read_text()[-2000:]}") from None
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(2)  # PostgreSQL: disconnect all, then stop; PgBouncer: stop
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server of Debian's, where `postgres` needs no password and every other role does.

    Yields the URL of its database `postgres`. Raises Missing.
    """
    programs = postgres_programs()
    with folder_of_user() as folder:
        data, port = folder / "data", free_port()
        made = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run([*made, "--no-sync"], check=True, capture_output=True, cwd=folder, **as_user())
        (data / "pg_hba.conf").write_text("host all postgres all trust\nhost all all all scram-sha-256\n")
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
        # It need not survive a crash.
        for setting in ("listen_addresses=127.0.0.1", "fsync=off", "synchronous_commit=off", "full_page_writes=off"):
            command += ["-c", setting]
        with running(command, folder, f"postgresql://postgres@127.0.0.1:{port}/postgres") as url:
            yield url


@contextmanager
def pgbouncer(server_url: str, pool_mode: str = "transaction", pool_size: int = 2) -> Iterator[str]:
    """PgBouncer before the database that `server_url` names, with its own defaults. Yields the URL. Raises Missing."""
    program, target = pgbouncer_program(), make_url(server_url)
    place = target.query.get("host", target.host)  # a socket's folder stands in the query
    password = f" password={target.password}" if target.password else ""
    port = free_port()
    settings = [
        "[databases]",
        f"* = host={place} port={target.port or 5432} user={target.username}{password}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"pool_mode = {pool_mode}",
        f"default_pool_size = {pool_size}",
    ]
    with folder_of_user() as folder:
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(settings) + "\n")
        url = f"postgresql://{target.username}@127.0.0.1:{port}/{target.database}"
        with running([program, str(file)], folder, url) as answers:
            yield answers
