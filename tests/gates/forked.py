"""Run pages as scripts in processes that have imported the libraries already.

The suite runs a page some eight times: on each engine, in nbval's kernel, and once for each change of its table *Break
it*. A quarter of that is imports. So one process, without threads and connections, imports the libraries once and
forks for each script; the course's own modules are imported by the script itself. Everything else is as in
`python SCRIPT`, which runs each page once in `test_scripts.py`.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = (
    "alembic.autogenerate",
    "alembic.command",
    "argon2",
    "duckdb",
    "duckdb_sqlalchemy",
    "encodings.idna",
    "fastapi",
    "httpx",
    "packaging.version",
    "psycopg",
    "pydantic_settings",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)


@dataclass(frozen=True)
class Done:
    """How a script ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Scripts:
    """Runs scripts one after the other. `close` ends the process that forks."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asks, self.answers = self.process.stdin, self.process.stdout

    def run(self, script: Path, cwd: Path, env: Mapping[str, str], spool: Path, seconds: float = 300) -> Done:
        """`python SCRIPT` in `cwd`, with `env` alone; `spool` is a folder for its output. Raises TimeoutExpired."""
        paths = [str(spool / name) for name in ("stdout", "stderr")]
        print(json.dumps([str(script), str(cwd), dict(env), *paths]), file=self.asks, flush=True)
        child = int(self.answers.readline())
        late = threading.Timer(seconds, os.kill, (child, 9))
        late.start()
        code = int(self.answers.readline())
        late.cancel()
        out, err = (Path(path).read_bytes() for path in paths)
        if code == -9:
            raise subprocess.TimeoutExpired(str(script), seconds, out, err)
        return Done(code, out, err)

    def close(self) -> None:
        self.asks.close()
        self.process.wait(60)
        self.answers.close()


def be_the_script(script: str, cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """In the forked process: what `python SCRIPT` would do."""
    import atexit
    import signal
    import time
    import types

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115  # until the process ends
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.argv = [script]
    sys.path[0:1] = [str(Path(script).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    code = 0
    try:
        exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        inner = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(inner), inner)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end, in this order
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Import, then fork for each line of standard input; tell the process and, when it has ended, its exit code."""
    for name in LIBRARIES:
        __import__(name)
    assert threading.active_count() == 1, "a library has started a thread: a fork would lose it"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            be_the_script(*json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
