"""Which units stay: the most important of each layer (local), or of all layers together (global)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput
from rankadaptor.pruning.importance import UnitImportance


@dataclass(frozen=True)
class KeptUnits:
    """Units of one layer that stay, ascending."""

    kv_heads: list[int]
    channels: list[int]

    def subset(self, units: "KeptUnits") -> "KeptUnits":
        """The units that a further pruning keeps, by their indices before the first one.

        Args:
            units: What the further pruning keeps, counted from 0 within these units.
        """
        return KeptUnits([self.kv_heads[unit] for unit in units.kv_heads],
                         [self.channels[unit] for unit in units.channels])


def rank_locally(importance: Sequence[UnitImportance], target: Architecture) -> list[KeptUnits]:
    """The most important units of each layer, as many as the target's shapes hold. Ties go to the lower index.

    Args:
        importance: By layer.
        target: Architecture after pruning, of as many layers.
    """
    return [
        KeptUnits(_top(scores.kv_heads, shape.kv_heads), _top(scores.channels, shape.mlp_width))
        for scores, shape in zip(importance, target.layers, strict=True)
    ]


def rank_globally(
    importance: Sequence[UnitImportance],
    architecture: Architecture,
    ranges: Ranges,
    units: int = 0,
    parameters: float | None = None,
) -> list[KeptUnits]:
    """The most important units of one pool of all heads and channels in their ranges, raw scores against raw scores.

    A layer keeps its best head and its best channel whatever they score. Ties: the later layer goes first, channels
    before heads, the higher index before the lower.
    Source: LLM-Pruner `prune_global`; there a layer that would lose every head or channel is not pruned at all.

    Args:
        importance: By layer.
        architecture: Of the model that the importance was measured on.
        ranges: Layers whose heads and whose channels may go.
        units: How many go.
        parameters: Replaces `units`: units go until at least so many parameters are gone.

    Raises:
        BadInput: if that would take the last head or channel of every layer.
    """
    pool: list[tuple[int, str, int]] = []
    scores: list[float] = []
    for layer, layer_scores in enumerate(importance):
        for part, values, (first, end) in (("kv_heads", layer_scores.kv_heads, ranges.attention),
                                           ("channels", layer_scores.channels, ranges.mlp)):
            if first <= layer < end:
                pool += [(layer, part, unit) for unit in range(len(values))]
                scores += values.tolist()
    removed: dict[tuple[int, str], set[int]] = {(layer, part): set() for layer, part, _ in pool}
    costs = {"kv_heads": [architecture.kv_head_parameters(shape) for shape in architecture.layers],
             "channels": [architecture.channel_parameters()] * len(architecture.layers)}
    goal = units if parameters is None else parameters
    order = torch.argsort(torch.tensor(scores, dtype=torch.float64), descending=True, stable=True).tolist()
    total = 0
    for layer, part, unit in (pool[position] for position in reversed(order)):
        if total >= goal:
            break
        if len(removed[layer, part]) + 1 < len(getattr(importance[layer], part)):
            removed[layer, part].add(unit)
            total += 1 if parameters is None else costs[part][layer]
    if total < goal:
        raise BadInput("what is to go would take the last head or channel of every layer: give a smaller ratio")
    return [
        KeptUnits(*(
            [unit for unit in range(len(values)) if unit not in removed.get((layer, part), ())]
            for part, values in (("kv_heads", layer_scores.kv_heads), ("channels", layer_scores.channels))
        ))
        for layer, layer_scores in enumerate(importance)
    ]


def _top(scores: torch.Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
