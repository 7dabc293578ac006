"""Import jsonschema without the checkers of IRIs, which this course never asks for.

nbformat imports jsonschema, and jsonschema builds 38 grammars when `rfc3987_syntax` is installed (JupyterLab brings it):
1.1 of the 1.24 s that `import nbformat` takes. Import this module first; it is a plugin of pytest too, for nbval. A
program that imported jsonschema before keeps it as it is, and `rfc3987_syntax` stays importable for everybody else.
"""

import sys
from importlib.util import find_spec

GRAMMARS = "rfc3987_syntax"

if not {"jsonschema", GRAMMARS} & set(sys.modules) and find_spec("jsonschema"):
    sys.modules[GRAMMARS] = None  # type: ignore[assignment]  # what makes its import fail, which jsonschema allows for
    try:
        import jsonschema  # noqa: F401
    finally:
        del sys.modules[GRAMMARS]
