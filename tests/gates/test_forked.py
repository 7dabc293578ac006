"""A script that is run by a fork behaves as in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Scripts

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
    "its own main": "import sys, inspect\ndef f(): pass\nprint(sys.modules['__main__'].f is f, inspect.getsource(f))",
    "a module beside it": "import beside; print(beside.NAME)",
    "bytes": "import sys; sys.stdout.buffer.write(b'raw'); sys.stdout.flush()",
    "a process of its own": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'])",
    "another process": "import multiprocessing as m\nif __name__ == '__main__':\n"
    "    with m.get_context('spawn').Pool(1) as p: print(p.map(abs, [-1]))",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_as_in_a_process_of_its_own(source: str, scripts: Scripts, tmp_path: Path) -> None:
    script, spool = tmp_path / "script.py", tmp_path / "spool"
    script.write_text(source, encoding="utf-8")
    (tmp_path / "beside.py").write_text("NAME = 'beside'", encoding="utf-8")
    spool.mkdir()
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "TMPDIR": str(spool), "TZ": "Asia/Tokyo"}
    own = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, timeout=60)
    done = scripts.run(script, tmp_path, env, spool, 60)
    assert (done.returncode, done.stdout, done.stderr) == (own.returncode, own.stdout, own.stderr)


def test_what_never_ends_is_ended(scripts: Scripts, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('begun', flush=True)\nwhile True:\n    pass", encoding="utf-8")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        scripts.run(script, tmp_path, os.environ, tmp_path, seconds=5)
    assert caught.value.output == b"begun\n"


def test_one_script_sees_nothing_of_another(scripts: Scripts, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json\nprint(getattr(json, 'mark', None))\njson.mark = 1", encoding="utf-8")
    said = [scripts.run(script, tmp_path, os.environ, tmp_path).stdout for _ in range(2)]
    assert said == [b"None\n", b"None\n"]
