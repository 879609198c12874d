"""What a search of a user's model is written to, and read from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankadaptor.allocation import trainable_parameters
from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.files import scratch_beside
from rankadaptor.recovery.methods.lora import to_lora_config
from rankadaptor.recovery.portable import save_config
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.search.rounds import SearchResult, mean_score

ALLOCATION_FILE = "allocation.json"


def write_search(
    result: SearchResult, architecture: Architecture, origin: Mapping[str, Any], alpha: int, out: Path | str
) -> Path:
    """Write allocation.json, adapter_config.json (PEFT's), and the trace, one file per round; whole or not at all.

    Args:
        origin: What the search was made with: model and data, recipe (a mapping) and scaling.
        alpha: LoRA's.

    Raises:
        BadInput: if the folder exists.
    """
    target = new_folder(out)
    with scratch_beside(target) as scratch:
        folder = scratch / "found"
        folder.mkdir()
        content = {
            "allocation": result.best,
            "by_task": result.best_by_task,
            "trainable_parameters": trainable_parameters(result.best, architecture),
            "converged": result.converged,
            "recoveries": sum(len(entry.proposals) for entry in result.rounds),
        }
        (folder / ALLOCATION_FILE).write_text(json.dumps({**content, **origin}, indent=1) + "\n")
        for entry in result.rounds:
            (folder / f"round-{entry.number:03d}.json").write_text(json.dumps(entry.to_json(), indent=1) + "\n")
        save_config(to_lora_config(
            result.best, architecture, origin["scaling"], alpha, origin["recipe"]["lora_dropout"]), folder)
        folder.rename(target)
    return target


def read_search(folder: Path) -> dict[str, Any]:
    """The content of a search's folder: allocation, recipe, scaling and model.

    Raises:
        BadInput: if it is not there, or not what a search writes.
    """
    try:
        content = json.loads((folder / ALLOCATION_FILE).read_text(encoding="utf-8"))
        missing = {"allocation", "model_and_data", "recipe", "scaling"} - content.keys()
    except (OSError, ValueError, AttributeError):
        missing = {ALLOCATION_FILE}
    if missing:
        raise BadInput(f"{folder} holds no {ALLOCATION_FILE} that a search wrote (it lacks {min(missing)}): name its"
                       " --out")
    try:
        return content | {"recipe": Recipe(**content["recipe"])}
    except (TypeError, BadInput):
        raise BadInput(f"{folder / ALLOCATION_FILE} was edited, {content['recipe']!r} is no recipe: search anew"
                       ) from None


def best_score(result: SearchResult) -> float:
    """The mean over tasks that the search measured of its choice."""
    return max(mean_score(scores) for entry in result.rounds
               for allocation, scores in zip(entry.proposals, entry.scores, strict=True) if allocation == result.best)


def new_folder(out: Path | str) -> Path:
    """Raises BadInput if there is such a folder already, or none can be made."""
    target = Path(out)
    if target.exists():
        raise BadInput(f"{target} is there already: name a folder that is not, or remove it")
    with scratch_beside(target):
        pass
    return target
