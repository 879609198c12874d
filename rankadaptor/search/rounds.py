"""What a search has measured, as plain data: rounds, records of other blocks, and the result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation

Scores = Mapping[str, float]  # P by task: the measured performance of one recovered model, larger is better


@dataclass(frozen=True)
class Round:
    """One round of a search: what was proposed, what was predicted and what was measured."""

    number: int  # 0 is the initialization
    proposals: tuple[RankAllocation, ...]
    predictions: tuple[float, ...] | None  # Q, the predicted mean score over tasks; None where nothing was predicted
    scores: tuple[dict[str, float], ...]  # P, by task

    @property
    def gap(self) -> float | None:
        """Mean |Q - P| over the round's proposals; None where nothing was predicted."""
        if self.predictions is None:
            return None
        return float(np.mean([abs(q - mean_score(p)) for q, p in zip(self.predictions, self.scores, strict=True)]))

    def to_json(self) -> dict[str, Any]:
        """The round as a line of a search's trace."""
        return asdict(self) | {"gap": self.gap}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Round":
        """The round that `to_json` wrote."""
        predictions = content["predictions"]
        return cls(
            content["number"],
            tuple(tuple(proposal) for proposal in content["proposals"]),
            None if predictions is None else tuple(predictions),
            tuple(content["scores"]),
        )


@dataclass(frozen=True)
class Record:
    """Measured allocations of another block, from which offline meta-learning starts (Section 3.2)."""

    label: str  # such as shortened:30
    allocations: tuple[RankAllocation, ...]
    scores: tuple[Scores, ...]  # of each allocation; its tasks may differ from those of the search


@dataclass(frozen=True)
class SearchResult:
    """All rounds of a search and the allocations that it selects (R_H* of Eq. 4)."""

    rounds: tuple[Round, ...]
    converged: bool
    best: RankAllocation  # by the settings' `selection`, of the mean over tasks
    best_by_task: dict[str, RankAllocation]  # highest measured score on each task


def mean_score(scores: Scores) -> float:
    """Plain mean over tasks, summed in the order of their names: the last digit does not depend on their order."""
    return float(np.mean([scores[task] for task in sorted(scores)]))


def measured_scores(rounds: Sequence[Round]) -> dict[RankAllocation, Scores]:
    """Scores of every allocation that was measured."""
    return {
        allocation: scores
        for finished in rounds
        for allocation, scores in zip(finished.proposals, finished.scores, strict=True)
    }


def best_first(rounds: Sequence[Round]) -> list[RankAllocation]:
    """Measured allocations by their mean score; ties by their ranks, so that the order of measurement is no matter."""
    measured = measured_scores(rounds)
    return sorted(measured, key=lambda allocation: (-mean_score(measured[allocation]), allocation))


def highest(scores: Mapping[RankAllocation, float]) -> RankAllocation:
    """The allocation with the highest score; the smallest tuple among equals, so that ties do not depend on order."""
    best = max(scores.values())
    return min(allocation for allocation, score in scores.items() if score == best)
