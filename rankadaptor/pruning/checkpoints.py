"""Pruned checkpoints as folders: safetensors, `config.json`, the tokenizer, what stayed and why.

`kept.json`: width {"layers": [{"kv_heads": [...], "channels": [...]}, ...]}, depth {"blocks": [...]}; indices into the
unpruned model, ascending. `importance.json`: width {"layers": [...]} of the same form, the scores of all units of the
unpruned model, and "later_steps" of iterative pruning; depth {"blocks": [...], "order": [...]}, the scores and the
blocks from the least important on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.export import save_model
from rankadaptor.models.gate import check_weights, read_architecture
from rankadaptor.pruning.spec import Pruned


def save_pruned(pruned: Pruned, folder: Path) -> None:
    """Write a pruned model, without a tokenizer, into a folder that does not have to exist."""
    save_model(pruned.model, folder)
    (folder / "kept.json").write_text(json.dumps(pruned.kept_units) + "\n")
    (folder / "importance.json").write_text(json.dumps(pruned.importance) + "\n")


def load_pruned(folder: Path | str, device: torch.device | None = None) -> PreTrainedModel:
    """Load a pruned checkpoint, which is checked before any weight is read.

    Args:
        folder: With `config.json` and safetensors; `kept.json` is checked where there is one.
        device: Where the model goes; None for a GPU if there is one.

    Raises:
        BadInput: if there is none, or if its JSON and its tensors disagree; the first disagreement is named.
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    check_weights(folder, architecture)
    _check_kept(folder, architecture)
    return load_model(folder, device)


def _check_kept(folder: Path, architecture: Architecture) -> None:
    """Raise BadInput if `kept.json` and `config.json` disagree on what stayed."""
    path = folder / "kept.json"
    if not path.is_file():
        return
    try:
        _compare_kept(path, json.loads(path.read_text(encoding="utf-8")), architecture)
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{path} does not list what pruning kept: restore the folder as it was written") from None


def _compare_kept(path: Path, content: dict[str, Any], architecture: Architecture) -> None:
    if "blocks" in content:
        if tuple(content["blocks"]) != architecture.original_layers:
            raise BadInput(f"{path} keeps blocks {content['blocks']}, config.json {list(architecture.original_layers)}:"
                           " restore the folder as it was written")
        return
    if len(content["layers"]) != len(architecture.layers):
        raise BadInput(f"{path} has {len(content['layers'])} layers, config.json {len(architecture.layers)}: restore"
                       " the folder as it was written")
    for layer, (units, shape) in enumerate(zip(content["layers"], architecture.layers, strict=True)):
        counts = len(units["kv_heads"]), len(units["channels"])
        if counts != (shape.kv_heads, shape.mlp_width):
            raise BadInput(f"{path} keeps {counts[0]} KV heads and {counts[1]} channels of layer {layer}, config.json"
                           f" {shape.kv_heads} and {shape.mlp_width}: restore the folder as it was written")
