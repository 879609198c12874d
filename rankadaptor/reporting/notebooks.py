"""Executing notebooks: top to bottom in a fresh kernel, output stamped with the hash of its source."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError

from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.experiments.parameters import check_declared

_INJECTED = "injected-parameters"  # papermill's tag
FOLDER = Path(__file__).parents[2] / "notebooks"


def declared_parameters(name: str) -> list[str]:
    """Parameters of `notebooks/NAME.ipynb`, as its cell tagged `parameters` declares them."""
    return list(papermill.inspect_notebook(FOLDER / f"{name}.ipynb"))


def run_notebook(name: str, target: Path, parameters: dict[str, Any], quiet: bool = False) -> None:
    """Execute `notebooks/NAME.ipynb` through papermill and keep the executed copy.

    The copy is stamped with the SHA-256 of the source notebook, progress bars are cut to their last state, and it
    replaces an earlier copy only once it ran to the end.

    Args:
        target: The executed copy.
        parameters: In place of those that the notebook declares.
        quiet: Whether what the notebook prints goes into the copy alone, and not to this process's streams as well.

    Raises:
        BadInput: on a parameter that the notebook does not declare, or where Jupyter lacks the kernel.
        StageFailed: if the kernel was killed.
        papermill.PapermillExecutionError: with the cell's own error; what ran is then in NAME.failed.ipynb.
    """
    check_declared(list(parameters), declared_parameters(name))
    source = FOLDER / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    running = target.with_name(f"{target.stem}.failed.ipynb")
    try:
        papermill.execute_notebook(
            str(source),
            str(running),
            parameters=parameters,
            progress_bar=False,
            kernel_name="python3",
            stdout_file=None if quiet else sys.stdout,
            stderr_file=None if quiet else sys.stderr,
            cwd=str(Path.cwd()),
        )
    except DeadKernelError:
        raise StageFailed("killed", f"the kernel of notebook {name} died, look for what kills processes here, often the"
                                    " system when memory ends: start again, what was finished is kept") from None
    except NoSuchKernel:
        raise BadInput("Jupyter has no kernel python3 here: make setup, or python -m ipykernel install --sys-prefix"
                       ) from None
    finally:
        if running.is_file():
            _tidy(running, hashlib.sha256(source.read_bytes()).hexdigest())
    os.replace(running, target)


def conclusion_of(executed: Path) -> str:
    """What the last code cell of an executed copy printed."""
    cells = [cell for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    return "".join("".join(output["text"]) for output in cells[-1]["outputs"] if output["output_type"] == "stream")


def _tidy(path: Path, source_sha256: str) -> None:
    """Stamp an executed copy, and take out what differs between machines."""
    notebook = json.loads(path.read_text())
    notebook["metadata"]["source_sha256"] = source_sha256
    # Paths and times of a machine are no part of a result.
    for part in [notebook, *notebook["cells"]]:
        part["metadata"].pop("execution", None)
        for name in ("input_path", "output_path", "start_time", "end_time", "duration"):
            part["metadata"].get("papermill", {}).pop(name, None)
    for cell in notebook["cells"]:
        if _INJECTED in cell["metadata"].get("tags", []):
            cell["id"] = _INJECTED  # papermill draws it at random
        if "outputs" in cell:
            cell["outputs"] = _merged_streams(cell["outputs"])
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _merged_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of pieces of one stream become one piece, as a terminal would show it."""
    merged: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            text = "".join(output["text"])
            if merged and merged[-1].get("name") == output["name"]:
                merged[-1]["text"] += text
                continue
            output["text"] = text
        merged.append(output)
    for output in merged:
        if output["output_type"] == "stream":
            output["text"] = _last_states(output["text"])
    return [output for output in merged if output.get("text") != ""]


def _last_states(text: str) -> str:
    """What a terminal would show: of every line, what follows the last carriage return."""
    return "".join(line.rstrip().rsplit("\r", 1)[-1] + "\n" for line in text.split("\n") if line.strip())
