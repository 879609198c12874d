"""What proposes allocations to recover: the contract of the performance model and its rivals, and what they share.

A proposer is a function (or a class) of the space and the settings; it returns a function of all rounds so far, which
proposes the next allocations. Its proposals depend on the *set* of results, the number of rounds and the seed alone,
so that they do not change with the number of workers or the order in which recoveries end.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rankadaptor.allocation import Encoding, RankAllocation
from rankadaptor.search.rounds import Round, measured_scores
from rankadaptor.search.settings import SearchSettings

_INITIAL, _ROUND = 1, 2  # streams of one seed; `performance_model`, `predictors` and `guided` use 3 to 6


class Space(Protocol):
    """The space that is searched: `allocation.SolutionSpace`, or a `MeasuredPool` of some of its allocations."""

    @property
    def baseline(self) -> RankAllocation | None:
        """LoRA's own allocation; None where it is not in the space."""

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]:
        """Draw allocations at random."""

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator
    ) -> list[RankAllocation]:
        """Draw allocations that differ little from one."""

    def encode(self, allocations: Sequence[RankAllocation], inputs: Encoding) -> np.ndarray:
        """Encoding of a predictor.  # (n, features)"""


# From all rounds so far to the next proposals and their Q; None where nothing is predicted.
Propose = Callable[[Sequence[Round]], tuple[list[RankAllocation], list[float] | None]]
Proposer = Callable[[Space, SearchSettings], Propose]


def initial_proposals(space: Space, settings: SearchSettings) -> list[RankAllocation]:
    """Distinct random allocations of S, fewer if S holds no more; the same for every proposer.

    Where the settings start with LoRA, its allocation takes the place of the last random one: a search that measures
    it returns nothing that its own scores put below LoRA.

    Source: Section 3.3, "Initialization Phase".
    """
    generator = np.random.default_rng([settings.seed, _INITIAL])
    baseline = space.baseline if settings.start == "LoRA and random" else None
    draws: dict[RankAllocation, None] = {} if baseline is None else {baseline: None}
    for _ in range(100):
        draws.update(dict.fromkeys(space.sample(settings.initial, generator)))
        if len(draws) >= settings.initial:
            break
    return list(draws)[: settings.initial]


def round_generator(settings: SearchSettings, rounds: Sequence[Round]) -> np.random.Generator:
    """The generator of the round that follows some: a function of the seed and of their number."""
    return np.random.default_rng([settings.seed, _ROUND, len(rounds)])


def unmeasured(
    candidates: Sequence[RankAllocation], rounds: Sequence[Round], count: int, proposed: Sequence[RankAllocation] = ()
) -> list[RankAllocation]:
    """The first `count` candidates that were neither measured nor proposed already, without repetitions."""
    excluded = {*measured_scores(rounds), *proposed}
    return list(dict.fromkeys(candidate for candidate in candidates if candidate not in excluded))[:count]
