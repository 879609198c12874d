"""Allocations whose scores are all known, on which a search is replayed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankadaptor.allocation import Encoding, RankAllocation, SolutionSpace


@dataclass(frozen=True)
class MeasuredPool:
    """Some allocations of a space, all of them measured; a `proposals.Space` of its own."""

    space: SolutionSpace
    allocations: tuple[RankAllocation, ...]

    @property
    def baseline(self) -> RankAllocation | None:
        """LoRA's own allocation; None where it was not measured."""
        baseline = self.space.baseline
        return baseline if baseline in self.allocations else None

    def encode(self, allocations: Sequence[RankAllocation] | np.ndarray, inputs: Encoding = "ranks") -> np.ndarray:
        """As `SolutionSpace.encode`."""
        return self.space.encode(allocations, inputs)

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """Draw `count` allocations without replacement; all of them if the pool holds no more."""
        return [self.allocations[place] for place in generator.permutation(len(self.allocations))[:count]]

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator
    ) -> list[RankAllocation]:
        """The `count` members nearest to an allocation, itself left out; ties are broken at random.

        The distance is the sum over free layers of |log2 of the ratio of ranks|, that is of doublings.
        """
        members = [member for member in self.sample(len(self.allocations), generator) if member != allocation]
        if not members:
            return []
        free = list(self.space.free_layers)
        doublings = np.log2(np.array(members)[:, free]) - np.log2(np.array(allocation)[free])  # (members, free layers)
        return [members[place] for place in np.argsort(np.abs(doublings).sum(axis=1), kind="stable")[:count]]
