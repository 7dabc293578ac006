"""A script that is run by a fork behaves as in a process of its own."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import pytest
from ipykernel.kernelspec import make_ipkernel_cmd

from playbook.kit.running import environment

SOURCES = {
    "prints": "import sys; print('é', __name__, sys.argv == [__file__]); print('b', file=sys.stderr)",
    "an exit code": "raise SystemExit(3)",
    "an exit with words": "import sys; sys.exit('no')",
    "an exception": "def deep():\n    return 1 / 0\n\ndeep()",
    "a letter that the pipe does not know": "print('\u2192')",
    "work at the end": "import atexit, threading\natexit.register(print, 'last')\n"
    "threading.Timer(0.2, print, ['late']).start()",
    "where it is": "import os, sys, tempfile, time\n"
    "print(os.getcwd(), tempfile.gettempdir(), time.tzname, sorted(os.environ), sys.path[0])",
    "the order of a set": "print({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})",
    "its own main": "import sys, inspect\ndef f(): pass\nprint(sys.modules['__main__'].f is f, inspect.getsource(f))",
    "a module beside it": "import beside; print(beside.NAME)",
    "bytes": "import sys; sys.stdout.buffer.write(b'raw'); sys.stdout.flush()",
    "a process of its own": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'])",
    "another process": "import multiprocessing as m\nif __name__ == '__main__':\n"
    "    with m.get_context('spawn').Pool(1) as p: print(p.map(abs, [-1]))",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_as_in_a_process_of_its_own(source: str, tmp_path: Path) -> None:
    script, spool = tmp_path / "script.py", tmp_path / "spool"
    script.write_text(source, encoding="utf-8")
    (tmp_path / "beside.py").write_text("NAME = 'beside'", encoding="utf-8")
    spool.mkdir()
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "TMPDIR": str(spool), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "0"}
    env |= {"PYTHON_COLORS": "0"}
    command = [sys.executable, str(script)]
    assert forked.may_fork(command, env, {}) == hasattr(os, "pidfd_open")
    own = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)
    done = forked.run(command, 60, tmp_path, env)
    assert (done.returncode, done.stdout, done.stderr) == (own.returncode, own.stdout, own.stderr)


def test_a_service_that_tests_start_can_be_a_fork() -> None:
    command = [sys.executable, "-m", "playbook.kit.cli", "serve"]
    assert forked.may_fork(command, environment("duckdb:///x"), {}) == hasattr(os, "pidfd_open")


@pytest.mark.parametrize(
    "how",
    [
        ["-m", "beside"],
        ["-c", "import beside, sys; print(beside.NAME, sys.argv)"],
        ["-I", "-B", "-c", "import sys; print('' in sys.path, sys.argv, sys.dont_write_bytecode); import beside"],
    ],
)
def test_a_module_and_code(how: list[str], tmp_path: Path) -> None:
    source = "import sys\nNAME = 'beside'\nprint(__name__, sys.argv[1:], sys.path[0])\nsys.exit(len(sys.argv))"
    (tmp_path / "beside.py").write_text(source if how[0] == "-m" else "NAME = 'beside'", encoding="utf-8")
    command = [sys.executable, *how, "one", "two"]
    own = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
    done = forked.run(command, 60, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (own.returncode, own.stdout, own.stderr)


def test_signals_pipes_and_polls(tmp_path: Path) -> None:
    code = "import sys\nprint('begun', flush=True)\nprint(sys.stdin.readline())\nimport time; time.sleep(60)"
    pipe = subprocess.PIPE
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        with forked.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            assert process.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            process.send_signal(number)
            process.communicate(timeout=60)
            assert process.returncode == process.poll() == -number


def test_a_session_of_its_own(tmp_path: Path) -> None:
    """At once: who kills the group of a process must not find this process in it."""
    with forked.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as process:
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid != os.getpgid(0)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    with forked.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert os.getpgid(process.pid) == os.getpgid(0)
        process.kill()


def test_many_at_once(tmp_path: Path) -> None:
    made = [forked.Popen([sys.executable, "-c", f"raise SystemExit({number})"]) for number in range(20)]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda process: process.wait(60), made)) == list(range(20))


@pytest.mark.parametrize(
    ("command", "env", "options"),
    [
        (["-O", "-c", "0"], {}, {}),
        (["-c", "0"], {"PYTHONOPTIMIZE": "1"}, {}),
        (["-c", "0"], {"LC_ALL": "C.elsewhere"}, {}),
        (["-c", "0"], {}, {"preexec_fn": os.getpid}),
        (["-c", "0"], {}, {"pass_fds": [5]}),
    ],
)
def test_what_a_fork_cannot_do(command: list[str], env: dict[str, str], options: dict[str, object]) -> None:
    assert not forked.may_fork([sys.executable, *command], dict(os.environ) | env, options)


def test_a_kernel_can_be_a_fork() -> None:
    """The command that nbval starts kernels with: otherwise each would quietly be a slower process of its own."""
    command = make_ipkernel_cmd(extra_arguments=["-f", "connection.json"])
    assert forked.may_fork(command, dict(os.environ) | {"PYTHONHASHSEED": "1"}, {"start_new_session": True})


def test_what_never_ends_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('begun', flush=True)\nwhile True:\n    pass", encoding="utf-8")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        forked.run([sys.executable, script], 5, tmp_path)
    assert caught.value.output == b"begun\n"


def test_one_script_sees_nothing_of_another(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json\nprint(getattr(json, 'mark', None))\njson.mark = 1", encoding="utf-8")
    said = [forked.run([sys.executable, script], 60, tmp_path).stdout for _ in range(2)]
    assert said == [b"None\n", b"None\n"]
