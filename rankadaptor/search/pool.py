"""Allocations of which all scores are known: what a search is replayed on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankadaptor.allocation import Inputs, RankAllocation, SolutionSpace


@dataclass(frozen=True)
class Pool:
    """Some allocations of a space, of which all scores are known: what a search is replayed on."""

    space: SolutionSpace
    allocations: tuple[RankAllocation, ...]

    def encode(self, allocations: Sequence[RankAllocation] | np.ndarray, inputs: Inputs = "ranks") -> np.ndarray:
        return self.space.encode(allocations, inputs)

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """So many of them, each once; all if there are no more."""
        return [self.allocations[place] for place in generator.permutation(len(self.allocations))[:count]]

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator
    ) -> list[RankAllocation]:
        """So many others, the nearest first: by how many doublings of ranks apart; chance decides among equals."""
        others = [other for other in self.sample(len(self.allocations), generator) if other != allocation]
        if not others:
            return []
        free = list(self.space.free_layers)
        steps = np.log2(np.array(others)[:, free]) - np.log2(np.array(allocation)[free])  # (others, free layers)
        return [others[place] for place in np.argsort(np.abs(steps).sum(axis=1), kind="stable")[:count]]
