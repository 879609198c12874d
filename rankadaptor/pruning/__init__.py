"""The paper's two pruners: LLM-Pruner (width) and Shortened LLaMA (depth)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning.depth import check_removable, remove_blocks
from rankadaptor.pruning.importance import UnitImportance, block_importance, unit_importance
from rankadaptor.pruning.ranking import KeptUnits, rank_globally, rank_locally
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.pruning.width import keep_units


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

    Raises:
        BadInput: if the ranges do not fit the model, or a layer would lose everything.
    """
    spec = _resolved(spec, len(architecture_of(model).layers))
    if spec.method == "shortened":
        scores = block_importance(model, windows, spec.importance)  # type: ignore[arg-type]
        pruned, kept, order = remove_blocks(model, scores, spec.first_layer, spec.end_layer, spec.blocks_removed or 0)
        return Pruned(pruned, {"blocks": kept}, {"blocks": scores.tolist(), "order": order})
    return _prune_width(model, spec, windows)


def pruned_shapes(dense: Architecture, spec: PruneSpec) -> Architecture:
    """Shapes that pruning would leave, from configuration alone.

    Which blocks depth pruning removes is not known without weights: the first of its range stand for them, since all
    blocks of a dense model are alike.

    Raises:
        BadInput: as `prune`; and under global ranking, whose widths depend on the weights.
    """
    spec = _resolved(spec, len(dense.layers))
    if spec.method == "shortened":
        count = spec.blocks_removed or 0
        check_removable(count, spec.first_layer, spec.end_layer, len(dense.layers))
        return dense.depth_pruned(tuple(range(spec.first_layer, spec.first_layer + count)))
    if spec.ranking == "global":
        raise BadInput("widths under ranking global depend on the weights: prune the model, or use local")
    return dense.width_pruned(spec.ranges, spec.ratio or 0.0, spec.decoder_share)


def _resolved(spec: PruneSpec, layers: int) -> PruneSpec:
    """The spec with the ranges that it means in a model of so many layers; raises BadInput if they do not fit it."""
    if spec.uniform_width:
        return replace(spec, first_layer=0, end_layer=layers, mlp_range=None)
    spec.ranges.check(layers)
    return spec


def _prune_width(model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
    """In `spec.iterations` equal steps, each measured on what the step before left."""
    dense = architecture_of(model)
    current, scores = model, []
    kept = [KeptUnits(list(range(s.kv_heads)), list(range(s.mlp_width))) for s in dense.layers]
    for step in range(1, spec.iterations + 1):
        importance = unit_importance(current, windows, spec.importance, spec.group_reduction, spec.seed)  # type: ignore
        chosen = _select(importance, dense, architecture_of(current), spec, step / spec.iterations)
        current = keep_units(current, chosen, plain=spec.uniform_width and step == spec.iterations)
        kept = [KeptUnits([before.kv_heads[i] for i in now.kv_heads], [before.channels[i] for i in now.channels])
                for before, now in zip(kept, chosen, strict=True)]
        scores.append([{"kv_heads": i.kv_heads.tolist(), "channels": i.channels.tolist()} for i in importance])
    found: dict[str, Any] = {"layers": scores[0]}
    if len(scores) > 1:
        found["later_steps"] = scores[1:]  # of the units that each of them still had
    return Pruned(current, {"layers": [{"kv_heads": k.kv_heads, "channels": k.channels} for k in kept]}, found)


def _select(
    importance: list[UnitImportance], dense: Architecture, current: Architecture, spec: PruneSpec, way: float
) -> list[KeptUnits]:
    """Units that stay once this share of the way to the rate is gone."""
    ratio = (spec.ratio or 0.0) * way
    share = None if spec.decoder_share is None else spec.decoder_share * way
    if spec.ranking == "local":
        return rank_locally(importance, _shapes_on_the_way(dense, spec, way))
    if share is None:
        stay = int(_units(dense, spec.ranges) * (1 - ratio))
        return rank_globally(importance, current, spec.ranges, units=_units(current, spec.ranges) - stay)
    over = current.decoder_parameters() - dense.decoder_parameters() * (1 - share)
    return rank_globally(importance, current, spec.ranges, parameters=over)


def _shapes_on_the_way(dense: Architecture, spec: PruneSpec, way: float) -> Architecture:
    """Local ranking's shapes: heads by LLM-Pruner's rule, MLP widths too unless they are solved for a share of the
    decoder; then they fall evenly, since heads leave in leaps and a width must never rise again."""
    shapes = dense.width_pruned(spec.ranges, (spec.ratio or 0.0) * way)
    if spec.decoder_share is None:
        return shapes
    final = dense.width_pruned(spec.ranges, spec.ratio or 0.0, spec.decoder_share)
    widths = [before.mlp_width - int((before.mlp_width - after.mlp_width) * way)
              for before, after in zip(dense.layers, final.layers, strict=True)]
    return replace(shapes, layers=tuple(replace(shape, mlp_width=width)
                                        for shape, width in zip(shapes.layers, widths, strict=True)))


def _units(architecture: Architecture, ranges: Ranges) -> int:
    """Heads and channels that may go."""
    return (sum(architecture.layers[i].kv_heads for i in range(*ranges.attention))
            + sum(architecture.layers[i].mlp_width for i in range(*ranges.mlp)))
