"""What `playbook serve` writes into its log, and what it never does.

A path or query may hold a credential (`/reset-password/TOKEN`, `?token=`, `?cursor=`), an exception's text may quote
what was sent or stored. So nothing is filtered out; only what is known to be harmless is written (OWASP ASVS 5.0,
14.2.1 and 16.2.5, CWE-532): of a request the route's *template*, of an exception its type and where it was raised. What
a stranger may choose is escaped (CWE-117).
"""

import logging
import logging.config
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TextIO

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playbook.pantry.redaction import hide

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
SHOWN = 8  # segments of a path that matches no route
REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
# Classes of SQLSTATE whose text is about the server and not about values: connection, authorization, no such database,
# out of resources, shut down, system error.
ABOUT_THE_SERVER = ("08", "28", "3D", "53", "57", "58")

log = logging.getLogger("pantry.access")


# ---------------------------------------------------------------- a request


def words_of(routes: Iterable[BaseRoute]) -> frozenset[str]:
    """The segments of all paths that are no parameters: `packages`, but not `{name}`."""
    paths = (str(getattr(route, "path", "")) for route in iter_route_contexts(list(routes)))
    return frozenset(part for path in paths for part in path.split("/") if "{" not in part)


def template(scope: Scope, words: frozenset[str]) -> str:
    """The path of the route that took the request: `/packages/{name}`.

    When there is none, what is no word of a route is a `*`: it may be a token, one slash too far.
    """
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    parts = str(scope.get("path", "")).split("/", SHOWN + 1)
    shown = [part if part in words else "*" for part in parts[: SHOWN + 1]]
    return "/".join(shown) + ("/..." if len(parts) > SHOWN + 1 else "")


class AccessLog:
    """ASGI, outside of the apps: one line for each request, when it is over.

    The client's address, the method, the route's template, the status (`-`: the client went before there was one), how
    long it took in milliseconds, the request id. `parts` are the apps whose routes there are.
    """

    def __init__(self, app: ASGIApp, parts: Iterable[FastAPI]) -> None:
        self.app = app
        self.words = frozenset[str]().union(*(words_of(part.routes) for part in parts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, request_id = time.perf_counter(), "-", b""

        async def noting(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = str(message["status"])
                request_id = next((value for name, value in message["headers"] if name == b"x-request-id"), b"")
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            address = (scope.get("client") or ("-",))[0]
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            path, took = template(scope, self.words), (time.perf_counter() - began) * 1000
            known = request_id.decode() if REQUEST_ID.fullmatch(request_id) else "-"
            log.info('%s "%s %s" %s %.1f ms %s', address, method, path, status, took, known)


# ---------------------------------------------------------------- an exception


def described(error: BaseException) -> str:
    """The type of `error`, and of its text what cannot be a value that somebody sent or stored."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror:
        return f"{kind}: [Errno {error.errno}] {error.strerror}"
    if type(error).__module__.startswith("psycopg"):
        return " ".join([kind, *about_database(error)])
    return kind


def about_database(error: Any) -> Iterator[str]:
    """Of an error of PostgreSQL: its SQLSTATE, the names of what it is about; its text when that has no values."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        if type(error).__name__ in ("OperationalError", "ConnectionTimeout"):  # there is no connection
            yield printable(" ".join(str(error).split()))[:500]
        return
    yield state
    diagnosis = error.diag
    for name in ("table_name", "column_name", "constraint_name"):
        if found := getattr(diagnosis, name, None):
            yield f"{name}={printable(found)}"
    if state[:2] in ABOUT_THE_SERVER and diagnosis.message_primary:
        yield printable(diagnosis.message_primary)


def exception_lines(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """Like Python's traceback, with `described` in place of each exception's text."""
    seen |= {id(error)}
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from exception_lines(before, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    for entry in traceback.format_tb(error.__traceback__):
        yield from entry.rstrip("\n").split("\n")
    yield described(error)
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions, 1):
            if id(inner) not in seen:
                yield f"{number} of {len(error.exceptions)} in it:"
                yield from (f"  {line}" for line in exception_lines(inner, seen))


def without_texts(formatted: str) -> str:
    """A traceback that somebody has made into text already: its places, and the type of its last exception."""
    lines = formatted.strip().split("\n")
    places = [line.strip() for line in lines if re.fullmatch(r'\s+File ".*", line \d+, in \S+', line)]
    last = re.match(r"[\w.]+", next((line for line in reversed(lines) if re.match(r"[\w.]+(:|$)", line)), ""))
    return "\n".join(["Traceback (most recent call last):", *places, last[0] if last else "Exception"])


# ---------------------------------------------------------------- a line


def printable(text: str) -> str:
    """`text` in one line of characters that a terminal only shows."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class OnlyKnown(logging.Formatter):
    """`2026-11-02T09:00:00.000Z INFO logger: message`, and below it where an exception was raised."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{moment}.{int(record.msecs):03d}Z {record.levelname} {record.name}: "
        text = head + self.message(record)
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(f"\n  {printable(line)}" for line in exception_lines(record.exc_info[1]))
        return hide(text)

    def message(self, record: logging.LogRecord) -> str:
        shown = described(record.msg) if isinstance(record.msg, BaseException) else str(record.msg)
        arguments = record.args
        if isinstance(arguments, tuple) and arguments:
            arguments = tuple(described(a) if isinstance(a, BaseException) else a for a in arguments)
        if arguments:
            with suppress(TypeError, ValueError, KeyError):  # a mistake in the call: without its arguments
                shown = shown % arguments
        if "Traceback (most recent call last)" in shown:  # of an app that did not start
            return without_texts(shown).replace("\n", "\n  ")
        if record.name.partition(".")[0] == "asyncio":
            # what follows are reprs: of a task with the text of its exception, of a callback with its arguments
            shown = re.split(r"\n|\((?!\))|<|exception=", shown)[0]
        return printable(shown)


def note_exception(where: str, error: BaseException | None) -> None:
    """Log an exception that reached the top of a thread or a destructor."""
    found = (type(error), error, error.__traceback__) if error is not None else None
    logging.getLogger("pantry").error("not caught in %s", where, exc_info=found)


def note_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """In place of `warnings.showwarning`: a warning's text may quote a value (pydantic's serializer does)."""
    logging.getLogger("py.warnings").warning("%s at %s:%d", category.__name__, filename, lineno)


def configure() -> None:
    """Set up the log of this process: requests to stdout, everything else to stderr, all of it `OnlyKnown`."""
    handler: dict[str, Any] = {"class": "logging.StreamHandler", "formatter": "known"}
    only = {"handlers": ["events"], "level": "INFO", "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"known": {"()": OnlyKnown}},
            "handlers": {
                "events": handler | {"stream": "ext://sys.stderr"},
                "requests": handler | {"stream": "ext://sys.stdout"},
            },
            "root": {"handlers": ["events"], "level": "WARNING"},
            "loggers": {
                "pantry": only,
                "uvicorn": only,
                "uvicorn.error": only,
                "pantry.access": only | {"handlers": ["requests"]},
            },
        }
    )
    logging.raiseExceptions = False  # else what cannot be logged is printed, arguments and all
    warnings.showwarning = note_warning

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        if not issubclass(failed.exc_type, SystemExit):
            note_exception("a thread", failed.exc_value)

    def unraisable(failed: "sys.UnraisableHookArgs") -> None:
        note_exception("a destructor or callback", failed.exc_value)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable
