"""Rank allocations, the solution space S of the paper (Section 4.1) and its budget of trainable parameters.

An allocation has one entry per layer of the *unpruned* model, 0 where depth pruning removed the layer, so that one
performance model serves every block of a base model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput

RankAllocation = tuple[int, ...]
Inputs = Literal["ranks", "logarithms", "logarithms and squares"]

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
    """LoRA*: ranks rise by quarters of the *original* depth (paper: layers 1-8, 9-16, 17-24, 25-32 of 32).

    Its mirror image, with as many parameters where layers are alike, takes the ranks the other way round.
    """
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

    def fill(self, free_ranks: Sequence[int] | np.ndarray) -> RankAllocation:
        """A whole allocation from the ranks of the free layers, in the order of `free_layers`."""
        ranks = list(uniform_allocation(self.fixed_rank, self.architecture))
        for layer, rank in zip(self.free_layers, free_ranks, strict=True):
            ranks[layer] = int(rank)
        return tuple(ranks)

    def within_budget(self, allocation: Sequence[int]) -> bool:
        return bool(self._affordable(np.array([allocation]))[0])

    def contains(self, allocation: Sequence[int]) -> bool:
        """Whether an allocation is one of S, budget included."""
        free = [allocation[layer] for layer in self.free_layers]
        return (
            set(free) <= set(self.candidates)
            and tuple(allocation) == self.fill(free)
            and self.within_budget(allocation)
        )

    def _affordable(self, allocations: np.ndarray) -> np.ndarray:
        """`within_budget` of many.

        Args:
            allocations: # (n, l)

        Returns:
            Whether, of each.  # (n,)
        """
        if self.budget_params is None:
            return np.ones(len(allocations), dtype=bool)
        return allocations @ np.array(self.architecture.rank_costs()) <= self.budget_params * (1 + self.tolerance)

    @property
    def size(self) -> int:
        """How many allocations there are, budget left aside: 6^26 for the paper's LLaMA-7B."""
        return len(self.candidates) ** len(self.free_layers)

    def encode(self, allocations: Sequence[RankAllocation] | np.ndarray, inputs: Inputs = "ranks") -> np.ndarray:
        """Ranks, or their logarithms, as a predictor reads them.

        Args:
            inputs: "ranks" as the paper has them; "logarithms", since 2 rather than 1 is a wider step than 24 rather
                than 23; "logarithms and squares" of these, since what one more doubling brings falls.

        Returns:
            Scaled to [-1, 1] over the candidates; 0 where a layer is gone.  # (n, l), with squares (n, 2 l)
        """
        ranks = np.asarray(allocations, dtype=float)
        scale = np.asarray if inputs == "ranks" else np.log2
        low, high = scale(float(min(self.candidates))), scale(float(max(self.candidates)))
        half = (high - low) / 2 or 1.0
        encoded = np.where(ranks > 0, (scale(np.maximum(ranks, 1.0)) - (high + low) / 2) / half, 0.0)
        return np.hstack([encoded, encoded**2]) if inputs == "logarithms and squares" else encoded

    def proportional(self, weights: Sequence[float] | np.ndarray) -> RankAllocation:
        """The largest allocation within budget whose free ranks are the candidates nearest to a multiple of weights.

        Args:
            weights: What each free layer deserves, at least 0 and not all 0.  # (free layers,)
        """
        given = np.asarray(weights, dtype=float)
        if given.shape != (len(self.free_layers),) or not np.isfinite(given).all() or min(given) < 0 or not given.any():
            raise BadInput(f"weights {weights!r} of {len(self.free_layers)} free layers: give one number from 0 for"
                           " each, not all of them 0")
        candidates = np.array(sorted(self.candidates))
        # Ranks grow with the scale, and change only where it carries a weight over a middle between two candidates.
        middles = (candidates[1:] + candidates[:-1]) / 2
        scales = np.unique([0.0, *(middles / given[given > 0][:, None]).ravel()])
        low, high = 0, len(scales) - 1
        while low < high:
            place = (low + high + 1) // 2
            if self.within_budget(self._scaled(given * scales[place], candidates, middles)):
                low = place
            else:
                high = place - 1
        return self._scaled(given * scales[low], candidates, middles)

    def _scaled(self, wanted: np.ndarray, candidates: np.ndarray, middles: np.ndarray) -> RankAllocation:
        """The candidates nearest to what is wanted, the higher of two as near."""
        return self.fill(candidates[np.searchsorted(middles * (1 - 1e-12), wanted, side="right")])

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator, layers: int = 2
    ) -> list[RankAllocation]:
        """So many draws within budget with other ranks on one to `layers` of the free layers.

        Raises:
            BadInput: if there is but one candidate, or nearly every such change exceeds the budget.
        """
        candidates = np.array(sorted(self.candidates))
        free, most = np.array(self.free_layers), min(layers, len(self.free_layers))
        found: list[RankAllocation] = []
        for _ in range(100 if len(candidates) > 1 else 0):
            batch = np.tile(allocation, (2 * count + 16, 1))  # (draws, layers)
            drawn = generator.random((len(batch), len(free))).argsort(axis=1)  # which layers change, for each draw
            changed = drawn < generator.integers(1, most + 1, size=(len(batch), 1))
            places = np.searchsorted(candidates, batch[:, free])
            moved = (places + generator.integers(1, len(candidates), size=places.shape)) % len(candidates)
            batch[:, free] = np.where(changed, candidates[moved], batch[:, free])
            found += map(tuple, batch[self._affordable(batch)].tolist())
            if len(found) >= count:
                return found[:count]
        raise BadInput(f"hardly any change of up to {layers} layers stays within {self.budget_params} parameters with"
                       f" candidates {self.candidates}: raise the budget or widen the candidates")

    def neighbours(self, allocation: RankAllocation) -> list[RankAllocation]:
        """Every allocation within budget that differs on one free layer, by one step among the candidates."""
        candidates = sorted(self.candidates)
        found = []
        for layer in self.free_layers:
            place = candidates.index(allocation[layer])
            for other in candidates[max(0, place - 1) : place + 2]:
                moved = (*allocation[:layer], other, *allocation[layer + 1 :])
                if other != allocation[layer] and self.within_budget(moved):
                    found.append(moved)
        return found

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """`count` draws, independent and uniform over the allocations within budget (by rejection)."""
        found: list[RankAllocation] = []
        drawn = 0
        fixed = self.fill([0] * len(self.free_layers))
        while len(found) < count:
            batch = np.tile(fixed, (max(count, 64), 1))  # (draws, layers)
            batch[:, self.free_layers] = generator.choice(self.candidates, size=(len(batch), len(self.free_layers)))
            found += map(tuple, batch[self._affordable(batch)].tolist())
            drawn += max(count, 64)
            if drawn > 200_000 + 200 * count:
                raise BadInput(f"fewer than 1 in 200 allocations fit the budget of {self.budget_params} parameters:"
                               " raise it or lower the candidates")
        return found[:count]
