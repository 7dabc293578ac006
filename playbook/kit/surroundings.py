"""What the process around a page or a command must be like: output that cannot fail, and asserts that are there."""

import io
import sys
from importlib.util import find_spec

NO_ASSERTS = (
    "asserts are switched off (`python -O` or PYTHONOPTIMIZE), so this page would check nothing: run it without"
)


def escape_what_cannot_be_shown() -> None:
    """Let standard output and error write a character that their encoding does not have as its escape (`\\u2192`).

    Into a pipe on Windows, or with `LANG=C`, the encoding may know no arrow. Python would end the program.
    """
    for stream in (sys.stdout, sys.stderr):
        # "surrogateescape" is Python's own choice with `LANG=C`, and ends a program as "strict" does.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def do_without_pandas() -> None:
    """Say once that there is no pandas. DuckDB looks for it at each statement with values, on all of `sys.path`.

    Not in a notebook, where a reader may install it and go on.
    """
    if not {"pandas", "IPython"} & set(sys.modules) and find_spec("pandas") is None:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # `import pandas` fails as before, at once


def refuse_without_asserts() -> None:
    """End a page that is run without asserts. In a notebook this is an error in the cell, in a script one line.

    Raises RuntimeError in IPython, SystemExit elsewhere.
    """
    if sys.flags.optimize:
        in_notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
        raise RuntimeError(NO_ASSERTS) if in_notebook else SystemExit(f"error: {NO_ASSERTS}")
