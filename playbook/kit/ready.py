"""What is looked at before something is started: the port, `DATABASE_URL`, the database itself."""

import errno
import os
import socket

from playbook.kit import postgres
from playbook.kit.database_errors import in_one_line, unfit
from playbook.kit.errors import InputError

FORMS = "duckdb:///FILE or postgresql://USER:PASSWORD@HOST/NAME"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`, so that nobody else can take it before the server does.

    Raises InputError when the port is taken or not ours to use, or the host is not this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"{host!r} is not an address of this machine ({error.strerror}): use 127.0.0.1") from None
    bound = socket.socket(family, kind, protocol)
    if os.name == "posix":  # elsewhere the option lets two servers share a port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        reason = {
            errno.EADDRINUSE: f"port {port} is in use: stop the program that has it, or choose another with `--port`",
            errno.EACCES: f"port {port} is reserved for administrators: choose one above 1023 with `--port`",
            errno.EADDRNOTAVAIL: f"{host} is not an address of this machine: use `--host 127.0.0.1`",
        }.get(error.errno or 0, f"port {port} cannot be used ({error.strerror}): choose another with `--port`")
        raise InputError(reason) from None
    return bound


def database_url(url: str, source: str = "DATABASE_URL") -> str:
    """`url` in SQLAlchemy's form. Raises InputError, which never shows the value: it may hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(postgres.driver_url(url.strip()))
    except (ArgumentError, ValueError):
        raise InputError(f"{source} is not a database URL: give it the form {FORMS}") from None
    engine = parts.get_backend_name()
    if engine not in ("duckdb", "postgresql"):
        raise InputError(f"{source} names the engine {engine!r}, which Pantry does not run on: use {FORMS}")
    if engine == "duckdb" and (parts.host or not parts.database):
        raise InputError(f"{source} is a DuckDB URL without a file (three slashes, then the path): use {FORMS}")
    return parts.render_as_string(hide_password=False)


def reach(url: str) -> None:
    """Open the database once, as the service does. Another way to open a file after a crash loses entries of indexes.

    Raises InputError, in one line, when the service cannot use it.
    """
    from importlib import import_module

    import sqlalchemy as sa

    engine = import_module("playbook.foundations.engines").make_engine(url)
    problem = None
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                version = connection.scalar(sa.text("SELECT current_setting('server_version_num')::integer"))
                read_only = connection.scalar(sa.text("SELECT current_setting('transaction_read_only') = 'on'"))
                problem = unfit(url, version, read_only)
    except sa.exc.DBAPIError as error:
        if isinstance(error, sa.exc.ProgrammingError) and getattr(error.orig, "sqlstate", None) is None:
            postgres.reach(
                url
            )  # says what is wrong with the form of the URL, without the part that may be the password
        raise InputError(in_one_line(error, url)) from None
    finally:
        engine.dispose()
    if problem is not None:
        raise InputError(problem)
