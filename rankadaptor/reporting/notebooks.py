"""Executing notebooks: top to bottom in a fresh kernel, output stamped with the hash of its source."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import papermill

FOLDER = Path(__file__).parents[2] / "notebooks"


def run_notebook(name: str, target: Path, parameters: dict[str, Any]) -> None:
    """Execute `notebooks/NAME.ipynb` through papermill and keep the executed copy.

    Its streams are passed on as they come. The copy is stamped with the SHA-256 of the source notebook, and progress
    bars are cut to their last state.

    Raises:
        papermill.PapermillExecutionError: with the cell's own error; the copy then holds what ran.
    """
    source = FOLDER / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters,
            progress_bar=False,
            kernel_name="python3",
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            cwd=str(Path.cwd()),
        )
    finally:
        if target.is_file():
            _tidy(target, hashlib.sha256(source.read_bytes()).hexdigest())


def _tidy(path: Path, source_sha256: str) -> None:
    notebook = json.loads(path.read_text())
    notebook["metadata"]["source_sha256"] = source_sha256
    # Paths and times of one machine are no part of a result.
    for name in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(name, None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                output["text"] = _last_states("".join(output["text"]))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def _last_states(text: str) -> str:
    """What a terminal would show: of every line, what follows the last carriage return."""
    return "".join(line.rstrip("\r\n").rsplit("\r", 1)[-1] + "\n" for line in text.split("\n") if line.strip())
