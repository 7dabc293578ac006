"""What JupyterLab does with the course's own notebooks when it saves them: `jupyter/jupyter_server_config.json`."""

import copy
from pathlib import Path
from typing import Any

from playbook.kit import pairing
from playbook.kit.course import Course


def fold_before_save(model: dict[str, Any], path: str, contents_manager: Any, **_: Any) -> None:
    """Fold the cells of an original as their tags say. A text has no folding, and JupyterLab unfolds what it clears.

    `model` alone is changed, not the notebook it came with: the text that is saved beside it gets no such tags.
    """
    if model.get("type") != "notebook" or not model.get("content"):
        return
    file = Path(contents_manager.root_dir, path.strip("/")).resolve()
    for page in Course().pairs:
        if page.notebook == file:
            notebook = copy.deepcopy(model["content"])
            pairing.fold(notebook)
            model["content"] = notebook
