"""Rank allocations, the solution space S of the paper (Section 4.1) and its budget of trainable parameters.

An allocation has one entry per layer of the *unpruned* model, 0 where depth pruning removed the layer, so that one
performance model serves every block of a base model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput

RankAllocation = tuple[int, ...]

# LoRA* of the motivating example (Section 2, Figure 2): rank by quarter of depth, bottom to top.
LORA_STAR_RANKS = (4, 6, 10, 12)


def parse_allocation(text: str) -> RankAllocation:
    """Ranks written as "8 8 4 12" or "8,8,4,12"; an empty text is an empty allocation."""
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise BadInput(f"rank allocation {text!r} is not a list of whole numbers: write it as '8 8 4 12'") from None


def validate_allocation(allocation: Sequence[int], architecture: Architecture) -> RankAllocation:
    """Check an allocation against a model and return it as a tuple.

    Raises:
        BadInput: on a wrong length, a rank below 1 on a layer that is there, or any rank on a layer that is not.
    """
    ranks = tuple(allocation)
    count = architecture.original_layer_count
    if len(ranks) != count:
        raise BadInput(f"rank allocation has {len(ranks)} entries, the model has {count} layers:"
                       " give one rank per decoder layer of the unpruned model")
    present = set(architecture.original_layers)
    for layer, rank in enumerate(ranks):
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise BadInput(f"rank of layer {layer} is {rank!r}: ranks are whole numbers")
        if layer in present and rank < 1:
            raise BadInput(f"rank of layer {layer} is {rank}: give at least 1 to every layer that pruning left")
        if layer not in present and rank != 0:
            raise BadInput(f"rank of layer {layer} is {rank}, but depth pruning removed that layer: give 0")
    return ranks


def trainable_parameters(allocation: Sequence[int], architecture: Architecture) -> int:
    """LoRA parameters of an allocation: sum over layers of rank x (in + out) over the seven projections."""
    return sum(rank * cost for rank, cost in zip(allocation, architecture.rank_costs(), strict=True))


def uniform_allocation(rank: int, architecture: Architecture) -> RankAllocation:
    """The same rank on every layer that is there: LoRA as LLM-Pruner and Shortened LLaMA use it."""
    present = set(architecture.original_layers)
    return tuple(rank if i in present else 0 for i in range(architecture.original_layer_count))


def quarters_allocation(architecture: Architecture, ranks: Sequence[int] = LORA_STAR_RANKS) -> RankAllocation:
    """LoRA*: ranks rise by quarters of the *original* depth (paper: layers 1-8, 9-16, 17-24, 25-32 of 32)."""
    present = set(architecture.original_layers)
    count = architecture.original_layer_count
    return tuple(ranks[i * len(ranks) // count] if i in present else 0 for i in range(count))


@dataclass(frozen=True)
class SolutionSpace:
    """S: every way to give each free layer one of the candidate ranks, within a budget of trainable parameters."""

    architecture: Architecture
    candidates: tuple[int, ...]  # ranks a free layer may take; the paper's {2, 4, 6, 8, 10, 12}
    free_layers: tuple[int, ...]  # original indices; the layers that were pruned and are still there
    fixed_rank: int  # rank of every other layer that is there ("consistent with standard LoRA")
    budget_params: int | None  # most trainable parameters, None for the paper's unconstrained space
    tolerance: float  # share by which the budget may be exceeded

    def __post_init__(self) -> None:
        if not self.candidates or min(self.candidates) < 1:
            raise BadInput(f"rank candidates are {self.candidates}: give ranks of at least 1")
        missing = set(self.free_layers) - set(self.architecture.original_layers)
        if not self.free_layers or missing:
            raise BadInput(f"free layers {sorted(missing) or '()'} are not in the pruned model: name layers that are")
        lowest = self.fill([min(self.candidates)] * len(self.free_layers))
        if not self.within_budget(lowest):
            raise BadInput(f"a budget of {self.budget_params} parameters admits no allocation, the smallest has"
                           f" {trainable_parameters(lowest, self.architecture)}: raise it or lower the candidates")

    def fill(self, free_ranks: Sequence[int]) -> RankAllocation:
        """A whole allocation from the ranks of the free layers, in the order of `free_layers`."""
        ranks = list(uniform_allocation(self.fixed_rank, self.architecture))
        for layer, rank in zip(self.free_layers, free_ranks, strict=True):
            ranks[layer] = int(rank)
        return tuple(ranks)

    def within_budget(self, allocation: Sequence[int]) -> bool:
        if self.budget_params is None:
            return True
        return trainable_parameters(allocation, self.architecture) <= self.budget_params * (1 + self.tolerance)

    def contains(self, allocation: Sequence[int]) -> bool:
        """Whether an allocation is one of S, budget included."""
        free = [allocation[layer] for layer in self.free_layers]
        return (
            set(free) <= set(self.candidates)
            and tuple(allocation) == self.fill(free)
            and self.within_budget(allocation)
        )

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """`count` draws, independent and uniform over the allocations within budget (by rejection)."""
        found: list[RankAllocation] = []
        drawn = 0
        while len(found) < count:
            batch = generator.choice(self.candidates, size=(max(count, 64), len(self.free_layers)))
            found.extend(a for a in map(self.fill, batch) if self.within_budget(a))
            drawn += len(batch)
            if drawn > 200_000 + 200 * count:
                raise BadInput(f"fewer than 1 in 200 allocations fit the budget of {self.budget_params} parameters:"
                               " raise it or lower the candidates")
        return found[:count]
