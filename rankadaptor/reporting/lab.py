"""What JupyterLab saves of this project's notebooks: their cells, and nothing of a run: Run All changes no tracked
file.

`.jupyter/jupyter_server_config.py` sets the hook, and `make lab` and `make explore` read that folder.
"""

from pathlib import PurePosixPath
from typing import Any

from rankadaptor.reporting.pages import PAGES

EXPLORER = "00_explore"
_METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
             "language_info": {"name": "python"}}


def without_outputs(model: dict[str, Any], path: str = "", **_: Any) -> None:
    """Take outputs, counts and a front end's metadata out of a notebook that is about to be saved: a hook of Jupyter's
    `ContentsManager.pre_save_hook`. Notebooks of other names, such as a user's copy, keep theirs.

    Args:
        model: What is saved, changed in place; `content` is the notebook.
        path: Where, relative to the folder that is served.
    """
    own = {EXPLORER, *(page.notebook for page in PAGES.values())}
    if model["type"] != "notebook" or PurePosixPath(path).name not in {f"{name}.ipynb" for name in own}:
        return
    notebook = model["content"]
    notebook["metadata"] = {name: dict(value) for name, value in _METADATA.items()}
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
