"""How the course starts JupyterLab: with its own defaults, beside whatever the reader has set up.

The defaults are files in `jupyter_defaults/`, which `binder/postBuild` copies into Binder's environment: no question
about news, no look for updates, a Python text opens as a notebook, and saving an original keeps its folding.
"""

import json
import os
from pathlib import Path

DEFAULTS = Path(__file__).parent / "jupyter_defaults"
VARIABLE = "JUPYTER_CONFIG_PATH"


def environment() -> dict[str, str]:
    """The variable that makes Jupyter read the defaults. A setting that the reader made in JupyterLab stays."""
    given = os.environ.get(VARIABLE, "")
    return {VARIABLE: os.pathsep.join(filter(None, [given, str(DEFAULTS)]))}


def options(root: Path, notebook: Path) -> list[str]:
    """JupyterLab's options: `root` is what it shows, `notebook` what it opens.

    Not the file itself as an argument: JupyterLab would take its folder for the root and hide the texts beside it.
    """
    where = notebook.relative_to(root).as_posix()
    return [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{where}"]


def running(root: Path) -> list[str]:
    """One line for each JupyterLab that shows `root` by now: in two of them one page can be saved over the other."""
    from jupyter_core.paths import jupyter_runtime_dir
    from jupyter_server.utils import check_pid  # `list_running_servers` lies in a module that takes a second

    found = []
    for path in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")):
        try:
            server = json.loads(path.read_text(encoding="utf-8"))
            if server["root_dir"] == str(root) and check_pid(server["pid"]):
                found.append(f"a JupyterLab shows this folder already, at {server['url']}lab; this is another one")
        except (OSError, ValueError, LookupError, TypeError):  # being written, or another program's
            continue
    return found
