"""A database's error as one line: what it said, and what to do about it. Never with the password."""

import re
from typing import Any
from urllib.parse import unquote, urlsplit

OLDEST = 13  # the first version of PostgreSQL that Pantry runs on
EMBEDDED = "or unset it to use the embedded database"

# What PostgreSQL and PgBouncer say when somebody connects; there is no SQLSTATE then.
ON_CONNECTING = {
    r"password authentication failed|no password supplied|SASL": "correct the user or the password in DATABASE_URL",
    r'role ".*" does not exist|no such user': "make the role (`createuser NAME`), or correct the user in DATABASE_URL",
    r'database ".*" does not exist|no such database': "make it (`createdb NAME`), or correct the name in DATABASE_URL",
    r"permission denied for database": "let the role in (`GRANT CONNECT ON DATABASE NAME TO ROLE`), or correct "
    "DATABASE_URL",
    r"no pg_hba\.conf entry|not permitted to log in": "let this role in from this address (pg_hba.conf, LOGIN), or "
    "correct DATABASE_URL",
    r"too many (?:clients|connections)|connection slots|no more connections": "all its connections are taken: stop a "
    "program that has some, raise the limit, or put a pooler into DATABASE_URL",
    r"starting up|shutting down|in recovery mode|not yet accepting": "wait until it is up, then start again",
    r"unsupported startup parameter": "take `options` out of DATABASE_URL and PGOPTIONS, or let the pooler ignore it "
    "(`ignore_startup_parameters`)",
    r"server certificate|SSL|sslmode": "correct `sslmode` and the certificates in DATABASE_URL",
}
STATEMENT_MODE = "the pooler is in statement mode, and Pantry needs transactions: set its pool_mode to transaction"
BY_STATE = {
    "25006": "it takes no writes, as a replica does: name the primary in DATABASE_URL",
    "3F000": "the role has no schema for its tables: `GRANT USAGE, CREATE ON SCHEMA public TO ROLE`",
    "42501": "the role lacks a right: `GRANT USAGE, CREATE ON SCHEMA public TO ROLE`, or name the owner of the tables "
    "in DATABASE_URL",
    "53100": "its disk is full: make room",
    "53200": "it is out of memory: give it more, or stop what takes it",
    "53300": "all its connections are taken: stop a program that has some, raise the limit, or use a pooler",
    "55P03": "another program holds a lock: wait until it is done, then start again",
    "57014": "it took too long, perhaps behind another program's lock: wait until that is done, then start again",
    "57P01": "it was stopped meanwhile: wait until it is up, then start again",
    "57P03": "wait until it is up, then start again",
}
OF_DUCKDB = {
    r"Could not set lock|Conflicting lock": "another program has it open: stop that, as one process at a time may "
    "write a DuckDB file",
    r"not a valid DuckDB database file": "that is no DuckDB database, or another program is making it now: name "
    "another file in DATABASE_URL, or stop that program",
    r"Is a directory": "that is no DuckDB database: name another file in DATABASE_URL",
    r"version number|newer version|older version": "another version of DuckDB wrote it: install that one, or name "
    "another file in DATABASE_URL",
    r"[Cc]hecksum|[Cc]orrupt|replaying WAL": "it is damaged: restore a backup of it",
    r"Permission denied|[Rr]ead-only": "let this user read and write the file and its directory",
    r"No such file or directory|does not exist": "make the directory first, or correct DATABASE_URL",
    r"No space left|[Dd]isk full|Out of disk": "the disk is full: make room",
}


def reason(error: BaseException, url: str) -> str:
    """The first line of what the driver said, without the password of `url`."""
    said = str(getattr(error, "orig", None) or error).strip()
    line = said.splitlines()[0].rstrip(":") if said else type(error).__name__
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return "it cannot be read"  # the URL; libpq's message may quote any part of it
    for secret in {password, unquote(password)} - {""}:
        line = line.replace(secret, "***")
    return line


def place(url: str) -> str:
    return urlsplit(url).hostname or "the local socket"


def advice(error: BaseException, url: str) -> str | None:
    """One line for an error that somebody can do something about; None for any other. `error` may be SQLAlchemy's."""
    cause: Any = getattr(error, "orig", None) or error
    said = str(cause)
    if not url.startswith("postgres"):
        file = re.sub(r"^duckdb:///", "", url)
        to_do = next((text for pattern, text in OF_DUCKDB.items() if re.search(pattern, said)), None)
        return f"the database file {file!r} cannot be opened ({reason(error, url)}): {to_do}" if to_do else None
    state = getattr(cause, "sqlstate", None)
    if state is None:
        to_do = next((text for pattern, text in ON_CONNECTING.items() if re.search(pattern, said)), None)
        verb = "cannot be reached"
    else:
        to_do, verb = BY_STATE.get(state), "refuses"
        if "statement pooling" in said:
            to_do = STATEMENT_MODE
        elif state == "08P01":  # what a pooler says of its own
            to_do = "look at the pooler's log, or name the server itself in DATABASE_URL"
    return f"PostgreSQL at {place(url)} {verb} ({reason(error, url)}): {to_do}" if to_do else None


def in_one_line(error: BaseException, url: str) -> str:
    """`advice`, or what the database said and where it is named."""
    if known := advice(error, url):
        return known
    if not url.startswith("postgres"):
        file, todo = re.sub(r"^duckdb:///", "", url), "stop the program that has it open, or correct DATABASE_URL"
        return f"the database file {file!r} cannot be opened ({reason(error, url)}): {todo}"
    if getattr(getattr(error, "orig", None) or error, "sqlstate", None) is None:
        said = f"PostgreSQL at {place(url)} cannot be reached ({reason(error, url)})"
        return f"{said}: start it, correct DATABASE_URL, {EMBEDDED}"
    return f"PostgreSQL at {place(url)} refuses ({reason(error, url)}): correct that, or DATABASE_URL"


def unfit(url: str, version: int, read_only: bool, may_create_databases: bool = True) -> str | None:
    """Why a server that answers cannot be used, in one line; None when it can. `version` is its server_version_num."""
    if version < OLDEST * 10_000:
        number = f"{version // 10_000}" if version >= 100_000 else f"{version // 10_000}.{version // 100 % 100}"
        return (
            f"PostgreSQL {number} at {place(url)} is not supported: Pantry needs {OLDEST} or newer; name another "
            "server in DATABASE_URL"
        )
    if read_only:
        return f"PostgreSQL at {place(url)} takes no writes, as a replica does: name the primary in DATABASE_URL"
    if not may_create_databases:
        return (
            f"the role at PostgreSQL at {place(url)} may not make databases, and each lesson gets one of its own: "
            "`ALTER ROLE NAME CREATEDB`, or name another role"
        )
    return None
