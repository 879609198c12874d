"""Ranks by what pruning took from each layer: a rule that needs no search."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation, SolutionSpace, proportional_allocation


def damage_allocation(
    space: SolutionSpace, importance: Mapping[str, Any], remaining: Mapping[str, Any]
) -> RankAllocation:
    """Ranks in proportion to the damage of pruning, as large as the budget admits.

    Damage is Taylor's estimate of the loss that pruning causes (Eq. 2): the summed importance of what was removed.
    Under width pruning a layer lost heads and channels of its own; under depth pruning the importance of a removed
    decoder block is shared by the nearest remaining blocks below and above it.

    Args:
        importance: The content of `importance.json`, as `pruning` writes it.
        remaining: The content of `kept.json`, as `pruning` writes it.
    """
    if "blocks" in remaining:
        scores, present = np.asarray(importance["blocks"], dtype=float), sorted(remaining["blocks"])
        damage = np.zeros(len(scores))
        for removed in sorted(set(range(len(scores))) - set(present)):
            below, above = [b for b in present if b < removed][-1:], [b for b in present if b > removed][:1]
            beside = [*below, *above]
            damage[beside] += scores[removed] / len(beside)
    else:
        damage = np.array([
            sum(np.sum(scores[kind]) - np.asarray(scores[kind])[units[kind]].sum() for kind in units)
            for scores, units in zip(importance["layers"], remaining["layers"], strict=True)
        ])
    return proportional_allocation(space, damage[list(space.free_layers)])
