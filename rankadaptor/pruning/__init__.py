"""The paper's two pruners: LLM-Pruner (width) and Shortened LLaMA Taylor+ (depth)."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models import architecture_of
from rankadaptor.pruning.depth import remove_blocks
from rankadaptor.pruning.importance import block_importance, unit_importance
from rankadaptor.pruning.width import keep_units, select_units
from rankadaptor.specs import PruneSpec


@dataclass(frozen=True)
class Pruned:
    """A pruned model, and what was kept and why, as JSON-able data."""

    model: PreTrainedModel
    kept: dict[str, Any]  # width: per layer {"kv_heads": [...], "channels": [...]}; depth: {"blocks": [...]}
    importance: dict[str, Any]  # the scores that decided, same shape as the units of the unpruned model


def prune(model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
    """Prune a dense LLaMA.

    Args:
        model: Unpruned; left as it was.
        spec: What to remove.
        windows: Calibration token ids.  # (samples, tokens)
    """
    known = "taylor" if spec.method == "shortened" else "element1"
    if spec.importance != known:
        raise BadInput(f"importance {spec.importance!r} is not one of {spec.method}: use {known}")
    if spec.method == "shortened":
        scores = block_importance(model, windows)
        pruned, kept, order = remove_blocks(model, scores, spec.first_layer, spec.end_layer, spec.blocks_removed or 0)
        return Pruned(pruned, {"blocks": kept}, {"blocks": scores.tolist(), "order": order})
    importance = unit_importance(model, windows)
    target = architecture_of(model).width_pruned(
        spec.first_layer, spec.end_layer, spec.ratio or 0.0, spec.decoder_share
    )
    kept_units = select_units(importance, target)
    return Pruned(
        keep_units(model, kept_units, target),
        {"layers": [{"kv_heads": k.kv_heads, "channels": k.channels} for k in kept_units]},
        {"layers": [{"kv_heads": i.kv_heads.tolist(), "channels": i.channels.tolist()} for i in importance]},
    )
