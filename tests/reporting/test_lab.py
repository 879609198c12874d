"""Notebooks that are run and saved in JupyterLab are, in git, as they were."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager

from rankadaptor.reporting.lab import without_outputs
from rankadaptor.reporting.notebooks import FOLDER

ROOT = Path(__file__).parents[2]


def save_as_executed(folder, name):
    """Save a notebook as a front end does after Run All."""
    manager = LargeFileManager(root_dir=str(folder), pre_save_hook=without_outputs)
    model = manager.get(name, content=True, type="notebook")
    notebook = model["content"]
    notebook["metadata"] |= {"language_info": {"name": "python", "version": "3.11.7"}, "widgets": {"state": {}},
                             "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "x"}}
    for number, cell in enumerate(notebook["cells"], 1):
        cell["metadata"] |= {"execution": {"iopub.status.busy": "now"}, "scrolled": True}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [nbformat.v4.new_output("stream", name="stdout", text="a table\n")]
    manager.save({"type": "notebook", "content": notebook}, name)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_that_ran_is_saved_as_it_was(path, tmp_path):
    shutil.copy(path, tmp_path)
    save_as_executed(tmp_path, path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_notebook_of_ones_own_keeps_its_outputs(tmp_path):
    shutil.copy(FOLDER / "08_pruning.ipynb", tmp_path / "mine.ipynb")
    save_as_executed(tmp_path, "mine.ipynb")
    cells = json.loads((tmp_path / "mine.ipynb").read_text())["cells"]
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")


def test_what_was_written_in_a_notebook_is_saved(tmp_path):
    model = {"type": "notebook", "content": nbformat.read(FOLDER / "08_pruning.ipynb", 4)}
    model["content"]["cells"][0]["source"] = "# My heading"
    without_outputs(model=model, path="08_pruning.ipynb", contents_manager=None)
    assert model["content"]["cells"][0]["source"] == "# My heading"
    without_outputs(model={"type": "file", "content": "text"}, path="08_pruning.ipynb")


def test_the_servers_settings_name_the_hook():
    class Settings:
        ContentsManager = type("ContentsManager", (), {})

    path = ROOT / ".jupyter" / "jupyter_server_config.py"
    exec(compile(path.read_text(), path, "exec"), {"c": Settings})
    assert Settings.ContentsManager.pre_save_hook is without_outputs
