"""Rank allocations R_H (Section 3.1), the solution space S (Section 4.1) and its budget of trainable parameters.

An allocation has one entry per decoder layer of the *unpruned* model, 0 where depth pruning removed the layer, so that
one performance model serves every pruner and rate of a base model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput

RankAllocation = tuple[int, ...]
MOST_RANK = 2**16  # wider than any projection of a LLaMA
Encoding = Literal["ranks", "logarithms", "logarithms and squares"]

# LoRA* of the motivating example (Section 2, Figure 2): rank by quarter of depth, bottom to top.
LORA_STAR_RANKS = (4, 6, 10, 12)


def parse_allocation(text: str) -> RankAllocation:
    """Read ranks written as "8 8 4 12" or "8,8,4,12"; an empty text is an empty allocation.

    Raises:
        BadInput: if a part is not a whole number.
    """
    parts = text.replace(",", " ").split()
    if not all(re.fullmatch(r"-?[0-9]{1,20}", part) for part in parts):
        raise BadInput(f"rank allocation {text!r} is not a list of whole numbers: write it as '8 8 4 12'")
    return tuple(map(int, parts))


def validate_allocation(allocation: Sequence[int], architecture: Architecture) -> RankAllocation:
    """Check an allocation against a model and return it as a tuple.

    Args:
        allocation: One rank per layer of the unpruned model.  # (l,)
        architecture: Of the pruned model.

    Raises:
        BadInput: on a wrong length, a rank below 1 on a layer that is present, or any rank on a removed layer.
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
        if rank > MOST_RANK:
            raise BadInput(f"rank of layer {layer} is {rank}: give at most {MOST_RANK}")
        if layer in present and rank < 1:
            raise BadInput(f"rank of layer {layer} is {rank}: give at least 1 to every layer that pruning left")
        if layer not in present and rank != 0:
            raise BadInput(f"rank of layer {layer} is {rank}, but depth pruning removed that layer: give 0")
    return ranks


def trainable_parameters(allocation: Sequence[int], architecture: Architecture) -> int:
    """LoRA parameters of an allocation: the sum over layers and their seven projections of rank x (in + out).

    Args:
        allocation: One rank per layer of the unpruned model.  # (l,)
    """
    return sum(rank * cost for rank, cost in zip(allocation, architecture.rank_costs(), strict=True))


def uniform_allocation(rank: int, architecture: Architecture) -> RankAllocation:
    """The same rank on every layer that is present: LoRA as LLM-Pruner and Shortened LLaMA use it."""
    present = set(architecture.original_layers)
    return tuple(rank if layer in present else 0 for layer in range(architecture.original_layer_count))


def quarters_allocation(architecture: Architecture, ranks: Sequence[int] = LORA_STAR_RANKS) -> RankAllocation:
    """LoRA*: ranks rise by quarters of the *original* depth (paper: layers 1-8, 9-16, 17-24, 25-32 of 32).

    Args:
        ranks: From the bottom quarter to the top one; reversed, they give the mirror image of LoRA*.

    Source: Section 2, "A Motivating Example".
    """
    present = set(architecture.original_layers)
    count = architecture.original_layer_count
    return tuple(ranks[layer * len(ranks) // count] if layer in present else 0 for layer in range(count))


@dataclass(frozen=True)
class SolutionSpace:
    """S: every way to give each free layer one of the candidate ranks, within a budget of trainable parameters.

    Source: Section 3.1 (n candidates on l layers are n^l allocations) and Section 4.1 ({2, ..., 12} on 26 layers).
    """

    architecture: Architecture
    candidates: tuple[int, ...]  # ranks a free layer may take; the paper's {2, 4, 6, 8, 10, 12}
    free_layers: tuple[int, ...]  # original indices of the layers in the pruned range that are still present
    fixed_rank: int  # rank of every other layer that is present ("consistent with standard LoRA")
    budget_params: int | None  # largest number of trainable parameters; None for the paper's unconstrained space
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

    def fill(self, free_ranks: Sequence[int] | np.ndarray) -> RankAllocation:
        """Make a whole allocation from the ranks of the free layers, in the order of `free_layers`."""
        ranks = list(uniform_allocation(self.fixed_rank, self.architecture))
        for layer, rank in zip(self.free_layers, free_ranks, strict=True):
            ranks[layer] = int(rank)
        return tuple(ranks)

    def within_budget(self, allocation: Sequence[int]) -> bool:
        """Whether an allocation trains no more parameters than the budget and its tolerance admit."""
        return bool(self._affordable(np.array([allocation]))[0])

    def contains(self, allocation: Sequence[int]) -> bool:
        """Whether an allocation belongs to S, budget included."""
        free_ranks = [allocation[layer] for layer in self.free_layers]
        return (
            set(free_ranks) <= set(self.candidates)
            and tuple(allocation) == self.fill(free_ranks)
            and self.within_budget(allocation)
        )

    def _affordable(self, allocations: np.ndarray) -> np.ndarray:
        """`within_budget` for many allocations.

        Args:
            allocations: # (n, l)

        Returns:
            One truth value per allocation.  # (n,)
        """
        if self.budget_params is None:
            return np.ones(len(allocations), dtype=bool)
        return allocations @ np.array(self.architecture.rank_costs()) <= self.budget_params * (1 + self.tolerance)

    @property
    def baseline(self) -> RankAllocation | None:
        """LoRA's own allocation, its one rank on every layer; None where that rank is not among the candidates."""
        uniform = self.fill([self.fixed_rank] * len(self.free_layers))
        return uniform if self.contains(uniform) else None

    @property
    def size(self) -> int:
        """How many allocations S holds without its budget: 6^26 for the paper's LLaMA-7B."""
        return len(self.candidates) ** len(self.free_layers)

    def encode(self, allocations: Sequence[RankAllocation] | np.ndarray, inputs: Encoding = "ranks") -> np.ndarray:
        """Encode ranks, or their logarithms, as the inputs of a predictor.

        Args:
            allocations: # (n, l)
            inputs: "ranks" as in the paper (Section 3.2); "logarithms", since the step from 1 to 2 changes more than
                the step from 23 to 24; "logarithms and squares", since each further doubling gains less.

        Returns:
            Values scaled to [-1, 1] over the candidates; 0 where a layer was removed.  # (n, l), with squares (n, 2 l)
        """
        ranks = np.asarray(allocations, dtype=float)
        scale = np.asarray if inputs == "ranks" else np.log2
        low, high = scale(float(min(self.candidates))), scale(float(max(self.candidates)))
        half = (high - low) / 2 or 1.0
        encoded = np.where(ranks > 0, (scale(np.maximum(ranks, 1.0)) - (high + low) / 2) / half, 0.0)
        return np.hstack([encoded, encoded**2]) if inputs == "logarithms and squares" else encoded

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator, layers: int = 2
    ) -> list[RankAllocation]:
        """Draw `count` allocations within budget that differ from one on at least one and at most `layers` free layers.

        Raises:
            BadInput: if there is only one candidate, or nearly every such change exceeds the budget.
        """
        candidates = np.array(sorted(self.candidates))
        free, most = np.array(self.free_layers), min(layers, len(self.free_layers))
        draws: list[RankAllocation] = []
        for _ in range(100 if len(candidates) > 1 else 0):
            batch = np.tile(allocation, (2 * count + 16, 1))  # (draws, l)
            order = generator.random((len(batch), len(free))).argsort(axis=1)  # (draws, free), a permutation a row
            changed = order < generator.integers(1, most + 1, size=(len(batch), 1))
            places = np.searchsorted(candidates, batch[:, free])
            moved = (places + generator.integers(1, len(candidates), size=places.shape)) % len(candidates)
            batch[:, free] = np.where(changed, candidates[moved], batch[:, free])
            draws += map(tuple, batch[self._affordable(batch)].tolist())
            if len(draws) >= count:
                return draws[:count]
        raise BadInput(f"hardly any change of up to {layers} layers stays within {self.budget_params} parameters with"
                       f" candidates {self.candidates}: raise the budget or widen the candidates")

    def neighbours(self, allocation: RankAllocation) -> list[RankAllocation]:
        """Every allocation within budget that differs on one free layer, by one step among the candidates."""
        candidates = sorted(self.candidates)
        neighbours = []
        for layer in self.free_layers:
            place = candidates.index(allocation[layer])
            for rank in candidates[max(0, place - 1) : place + 2]:
                moved = (*allocation[:layer], rank, *allocation[layer + 1 :])
                if rank != allocation[layer] and self.within_budget(moved):
                    neighbours.append(moved)
        return neighbours

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """Draw `count` allocations, independent and uniform over those within budget, by rejection.

        Raises:
            BadInput: if hardly any allocation fits the budget.
        """
        draws: list[RankAllocation] = []
        tried = 0
        fixed = self.fill([0] * len(self.free_layers))
        while len(draws) < count:
            batch = np.tile(fixed, (max(count, 64), 1))  # (draws, l)
            batch[:, self.free_layers] = generator.choice(self.candidates, size=(len(batch), len(self.free_layers)))
            draws += map(tuple, batch[self._affordable(batch)].tolist())
            tried += max(count, 64)
            if tried > 200_000 + 200 * count:
                raise BadInput(f"fewer than 1 in 200 allocations fit the budget of {self.budget_params} parameters:"
                               " raise it or lower the candidates")
        return draws[:count]


def proportional_allocation(space: SolutionSpace, weights: Sequence[float] | np.ndarray) -> RankAllocation:
    """The largest allocation within budget whose free ranks are the candidates nearest to a multiple of the weights.

    Args:
        space: S and its budget.
        weights: One number from 0 per free layer, not all of them 0.  # (free layers,)

    Raises:
        BadInput: if the weights are not such numbers.
    """
    shares = np.asarray(weights, dtype=float)
    fits = shares.shape == (len(space.free_layers),) and np.isfinite(shares).all()
    if not fits or min(shares) < 0 or not shares.any():
        raise BadInput(f"weights {weights!r} of {len(space.free_layers)} free layers: give one number from 0 for"
                       " each, not all of them 0")
    candidates = np.array(sorted(space.candidates))
    middles = (candidates[1:] + candidates[:-1]) / 2

    def nearest(scale: float) -> RankAllocation:
        """Of two candidates that are equally near, the higher one."""
        return space.fill(candidates[np.searchsorted(middles * (1 - 1e-12), shares * scale, side="right")])

    # Ranks grow with the scale, and only at scales where a layer's share reaches the middle of two candidates: bisect
    # over these scales.
    scales = np.unique([0.0, *(middles / shares[shares > 0][:, None]).ravel()])
    low, high = 0, len(scales) - 1
    while low < high:
        place = (low + high + 1) // 2
        if space.within_budget(nearest(scales[place])):
            low = place
        else:
            high = place - 1
    return nearest(scales[low])
