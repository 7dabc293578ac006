"""Python processes that have imported the libraries already: `forked.run` and `forked.Popen`, as in `subprocess`.

The suite starts some eight hundred: each page as a script, `playbook` as a reader calls it, Pantry as an operator
starts it, the kernel of each notebook. Most of what each costs is imports. So each worker of the suite has a process,
without threads and connections, that imports the libraries once and forks for each; the course's own modules are
imported by the fork itself. Everything else is as in a process of its own, which runs each page once in
`test_scripts.py`. The order of sets and the locale are decided at an interpreter's start: each PYTHONHASHSEED and each
locale has a process that forks. Where a fork cannot be like a process of its own (other options and variables of the
interpreter, `preexec_fn`, systems without pidfd), such a one is what is made.
"""

import atexit
import contextlib
import gc
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

LIBRARIES = (
    "alembic.autogenerate",
    "alembic.command",
    "anyio._backends._asyncio",
    "argon2",
    "duckdb",
    "duckdb_sqlalchemy",
    "email.headerregistry",
    "encodings.idna",
    "fastapi",
    "fastapi.openapi.utils",
    "h11",
    "httpcore",
    "httpx",
    "jupytext",
    "nbclient",
    "nbformat",
    "packaging.version",
    "psycopg",
    "pydantic.v1",
    "pytest",
    "pydantic_settings",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.orm",
    "typer",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.http.h11_impl",
)
DRAWN = ("hypothesis", "hypothesis.internal.charmap")  # for programs that draw examples
# What these find out they keep: 1.5 s for a program that draws a text in a new folder, 10 ms each for one with DuckDB.
FOUND_ONCE = (
    ("hypothesis.internal.charmap", "charmap"),
    ("duckdb_sqlalchemy.config", "get_native_config"),
    ("duckdb_sqlalchemy._supports", "has_comment_support"),
)
KERNEL = ("ipykernel.kernelapp", "IPython.core.completer")  # not matplotlib, which a kernel tells where to draw
SEED = "PYTHONHASHSEED"
LOCALE = ("LANG", "LC_ALL", "LC_CTYPE")
# What a fork does as the interpreter would. Any other PYTHON... variable is read at an interpreter's own start.
READ = frozenset(
    {"PYTHONPATH", "PYTHON_COLORS", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", SEED}
)
# Options of the interpreter that a fork can do as well; that of the frozen modules is for debuggers.
FLAGS = frozenset({"-I", "-B", "-Xfrozen_modules=off"})
LARGEST = 200_000  # bytes of a request: arguments and environment


class Server:
    """A process that forks, for this process. `request` raises EOFError when it has ended."""

    def __init__(self, seed: str, libraries: tuple[str, ...]) -> None:
        self.owner, self.turn = os.getpid(), threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno()), *libraries]
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {SEED: seed}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=own)
        theirs.close()
        self.channel = ours

    def request(self, asked: Any, files: tuple[int, ...] = ()) -> int:
        with self.turn:
            socket.send_fds(self.channel, [json.dumps(asked).encode()], files)
            answer = self.channel.recv(LARGEST)
        if not answer:
            raise EOFError("the process that forks has ended")
        return int(answer)

    def close(self) -> None:
        if os.getpid() == self.owner:
            self.channel.close()
            self.process.wait(60)


_servers: dict[tuple[object, ...], Server] = {}


def server(seed: str, libraries: tuple[str, ...]) -> Server:
    """The one whose sets have the order of this seed, with these libraries more, in the locale of this process."""
    key = (seed, libraries, *map(os.environ.get, LOCALE))
    if key not in _servers or _servers[key].owner != os.getpid():
        _servers[key] = Server(seed, libraries)
        atexit.register(_servers[key].close)
    return _servers[key]


def may_fork(command: list[str], env: dict[str, str], options: dict[str, Any]) -> bool:
    """Whether a fork would be like a process of its own."""
    what = next((word for word in command[1:] if word not in FLAGS), "-")
    inherited = {name: value for name, value in env.items() if name in LOCALE}
    return (
        hasattr(os, "pidfd_open")
        and command[0] == sys.executable
        and (what in ("-m", "-c") or not what.startswith("-"))
        and ("-I" in command[1:3] or not any(name.startswith("PYTHON") and name not in READ for name in env))
        and all(os.environ.get(name) == value for name, value in inherited.items())
        and not any(options.get(name) for name in ("preexec_fn", "pass_fds", "shell"))
        and len(json.dumps([command, env])) < LARGEST
    )


class _Forked(subprocess.Popen[Any]):
    """A Popen whose process is a child of the server: that one starts it and hears how it ended."""

    _pidfd = -1

    def __init__(self, command: list[str], libraries: tuple[str, ...], options: dict[str, Any]) -> None:
        self._libraries = libraries
        self._session = bool(options.get("start_new_session"))
        super().__init__(command, **options)

    def _execute_child(self, args: Any, executable: Any, preexec: Any, close: Any, passed: Any, cwd: Any, env: Any,
                       info: Any, flags: Any, shell: Any, *pipes_and_rest: Any) -> None:  # fmt: skip
        read, _, _, write, _, errors = pipes = pipes_and_rest[:6]  # our ends and theirs; -1 is the one we have
        files = tuple(own if given == -1 else given for own, given in enumerate((read, write, errors)))
        given = dict(os.environ if env is None else env)
        self._server = server("random" if "-I" in args[1:3] else given.get(SEED) or "random", self._libraries)
        asked = [self._session, list(map(str, args)), str(cwd or Path.cwd()), given]
        self.pid = self._server.request(asked, files)
        self._child_created = True
        self._pidfd = os.pidfd_open(self.pid)
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        if not waiting.poll(0 if flags else None):
            return 0, 0
        os.close(self._pidfd)
        try:
            return self.pid, self._server.request(self.pid)
        except (EOFError, OSError):
            return self.pid, 0

    def _internal_poll(self, *given: Any, **more: Any) -> Any:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def Popen(command: list[Any], libraries: tuple[str, ...] = (), **options: Any) -> "subprocess.Popen[Any]":
    """`subprocess.Popen(command, **options)`, forked where that is the same. `libraries`: imported before, as well."""
    command = list(map(str, command))
    env = dict(os.environ if options.get("env") is None else options["env"])
    if may_fork(command, env, options):
        return _Forked(command, libraries, options)
    return subprocess.Popen(command, **options)


def run(command: list[Any], timeout: float, cwd: Path | None = None, env: dict[str, str] | None = None,
        libraries: tuple[str, ...] = (), **options: Any) -> "subprocess.CompletedProcess[Any]":  # fmt: skip
    """`subprocess.run(command, capture_output=True, ...)`, forked where that is the same. Raises TimeoutExpired."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, libraries, cwd=cwd, env=env, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# ---------------------------------------------------------------- in the process that forks


def be_the_program(command: list[str], cwd: str, env: dict[str, str]) -> None:
    """In the fork: what `python SCRIPT`, `python -m MODULE` or `python -c CODE` would do."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    flags = [word for word in command[1:3] if word in FLAGS]
    what, *rest = command[1 + len(flags) :]
    if "-I" in flags:
        env = {name: value for name, value in env.items() if not name.startswith("PYTHON")}
    sys.dont_write_bytecode = "-B" in flags or bool(env.get("PYTHONDONTWRITEBYTECODE"))
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115  # until the process ends
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    if env.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    first = [] if "-I" in flags else [{"-m": cwd, "-c": ""}.get(what, str(Path(what).parent))]
    sys.path[0:1] = [*first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__)
    sys.modules["__main__"] = main
    code = 0
    try:
        if what == "-m":
            sys.argv = ["-m", *rest[1:]]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            sys.argv, main.__file__ = [what, *rest], what
            exec(compile(Path(what).read_bytes(), what, "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        inner = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(inner), inner)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end, in this order
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def serve(number: int, libraries: list[str]) -> None:
    """Import, then answer requests: fork and tell the process; or wait for one that has ended, and tell its status."""
    channel = socket.socket(fileno=number)
    runpy.run_path(str(Path(__file__).parents[1] / "playbook" / "kit" / "quick.py"))  # before nbformat
    for name in (*LIBRARIES, *libraries):
        __import__(name)
    for name, function in FOUND_ONCE:
        if name in sys.modules:
            getattr(sys.modules[name], function)()
    if importlib.util.find_spec("pandas") is None:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # DuckDB looks for it at each statement with values
    assert threading.active_count() == 1, "a library has started a thread: a fork would lose it"
    gc.collect()
    gc.set_threshold(5000, 10, 10)  # forks inherit it
    gc.freeze()  # or each fork's collector would go over all of it, and copy its memory by that
    while True:
        asked, files, _, _ = socket.recv_fds(channel, LARGEST, 3)
        if not asked:
            return
        asked = json.loads(asked)
        if isinstance(asked, int):
            channel.send(str(os.waitpid(asked, 0)[1]).encode())
            continue
        session, *program = asked
        begun, begins = os.pipe()  # who kills its group must not find it in ours
        child = os.fork()
        if child == 0:
            channel.close()
            if session:
                os.setsid()
            os.write(begins, b"1")
            spare = [os.dup(file) if file < 3 else file for file in files]
            for own, file in enumerate(spare):
                os.dup2(file, own)
            os.closerange(3, 64)
            be_the_program(*program)
        os.read(begun, 1)
        for file in (*files, begun, begins):
            os.close(file)
        channel.send(str(child).encode())


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
