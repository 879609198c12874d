"""RankAdaptor's search (Section 3.3, Figure 4): initialization, iteration, convergence.

Knows allocations and scores only. Real recoveries happen behind `objective(allocations) -> scores`, one mapping
task -> score per allocation: one recovery labels all tasks at once.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.performance_model import PerformanceModel, PerformanceModelSettings

Scores = Mapping[str, float]
Objective = Callable[[list[RankAllocation]], list[Scores]]


@dataclass(frozen=True)
class SearchSettings:
    initial: int  # random allocations really recovered before the first prediction
    rounds: int  # online rounds at most
    batch: int  # allocations really recovered a round
    candidates_per_round: int  # allocations sampled and predicted a round
    threshold: float  # converged when the mean |Q - P| of a round stays under this ...
    patience: int  # ... for so many rounds in a row
    seed: int
    hidden: tuple[int, ...] = (32, 32, 32)


@dataclass(frozen=True)
class Round:
    """One round of a search: what was proposed, what was predicted and what was measured."""

    number: int  # 0 is the initialization
    proposals: tuple[RankAllocation, ...]
    predictions: tuple[float, ...] | None  # Q of the mean over tasks; None in the initialization
    scores: tuple[dict[str, float], ...]  # P, by task

    @property
    def gap(self) -> float | None:
        """Mean |Q - P| over the round's proposals; None in the initialization."""
        if self.predictions is None:
            return None
        return float(np.mean([abs(q - mean_score(p)) for q, p in zip(self.predictions, self.scores, strict=True)]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"gap": self.gap}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Round":
        predictions = content["predictions"]
        return cls(
            content["number"],
            tuple(tuple(proposal) for proposal in content["proposals"]),
            None if predictions is None else tuple(predictions),
            tuple(content["scores"]),
        )


@dataclass(frozen=True)
class SearchResult:
    rounds: tuple[Round, ...]
    converged: bool
    best: RankAllocation  # highest measured mean over tasks
    best_by_task: dict[str, RankAllocation]  # highest measured score on each task


def mean_score(scores: Scores) -> float:
    return float(np.mean(list(scores.values())))


def search(
    space: SolutionSpace,
    objective: Objective,
    settings: SearchSettings,
    trace: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
    """Find an allocation by rounds of prediction and real recovery.

    Args:
        space: S and its budget; every proposal lies in it.
        objective: Really recovers and scores allocations.
        trace: Finished rounds of an earlier run of the same search; they are taken as they are.
        on_round: Called with every round that this call finishes.

    Returns:
        All rounds and the best *measured* allocations. The choice saw the search's scores only: retrain it with fresh
        seeds before reporting it.
    """
    asking = ask(space, settings, trace, on_round)
    try:
        proposals = next(asking)
        while True:
            proposals = asking.send(objective(proposals))
    except StopIteration as stop:
        return stop.value


def ask(
    space: SolutionSpace,
    settings: SearchSettings,
    trace: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> Generator[list[RankAllocation], list[Scores], SearchResult]:
    """The search as a coroutine: yields proposals, is sent their scores, returns the result. See `search`."""
    rounds = list(trace)
    while not _finished(rounds, settings):
        proposals, predictions = _iteration(space, rounds, settings) if rounds else _initialization(space, settings)
        if not proposals:
            break  # a small S, and all of it measured
        scores = yield list(proposals)
        rounds.append(Round(len(rounds), proposals, predictions, tuple(dict(s) for s in scores)))
        on_round(rounds[-1])
    measured = _measured(rounds)
    return SearchResult(
        tuple(rounds),
        has_converged(rounds, settings),
        _argmax({a: mean_score(s) for a, s in measured.items()}),
        {task: _argmax({a: s[task] for a, s in measured.items()}) for task in next(iter(measured.values()))},
    )


def has_converged(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    """Convergence phase: prediction has met reality, |Q - P| under the threshold for `patience` rounds in a row."""
    gaps = [one.gap for one in rounds[1:]][-settings.patience :]
    return len(gaps) == settings.patience and all(gap is not None and gap <= settings.threshold for gap in gaps)


def _finished(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    return bool(rounds) and (len(rounds) > settings.rounds or has_converged(rounds, settings))


def _initialization(space: SolutionSpace, settings: SearchSettings) -> tuple[tuple[RankAllocation, ...], None]:
    """Initialization phase: distinct random allocations of S (fewer if S holds no more), and no prediction."""
    generator = np.random.default_rng([settings.seed, 0])
    found: dict[RankAllocation, None] = {}
    for _ in range(100):
        found.update(dict.fromkeys(space.sample(settings.initial, generator)))
        if len(found) >= settings.initial:
            break
    return tuple(found)[: settings.initial], None


def _iteration(
    space: SolutionSpace, rounds: Sequence[Round], settings: SearchSettings
) -> tuple[tuple[RankAllocation, ...], tuple[float, ...]]:
    """Iteration phase: sample many allocations, predict them, propose the best not measured yet.

    A function of the *set* of results so far, the round's number and the seed.
    """
    measured = _measured(rounds)
    model = _fitted_model(space, measured, settings)
    generator = np.random.default_rng([settings.seed, len(rounds)])
    candidates = sorted(set(space.sample(settings.candidates_per_round, generator)) - measured.keys())
    if not candidates:
        return (), ()
    predicted = model.predict(np.array(candidates))
    chosen = np.argsort(-predicted, kind="stable")[: settings.batch]
    return tuple(candidates[i] for i in chosen), tuple(float(predicted[i]) for i in chosen)


def _fitted_model(
    space: SolutionSpace, measured: Mapping[RankAllocation, Scores], settings: SearchSettings
) -> PerformanceModel:
    """Meta-learned over the tasks' scores, then fitted to their mean."""
    allocations = np.array(sorted(measured))
    tasks = sorted(next(iter(measured.values())))
    scores = np.array([[measured[tuple(a)][task] for task in tasks] for a in allocations.tolist()])
    middle = (min(space.candidates) + max(space.candidates)) / 2
    model = PerformanceModel(
        allocations.shape[1], middle, PerformanceModelSettings(hidden=settings.hidden), settings.seed
    )
    model.meta_train(allocations, scores)
    model.fit(allocations, scores.mean(axis=1))
    return model


def _measured(rounds: Sequence[Round]) -> dict[RankAllocation, Scores]:
    return {a: s for one in rounds for a, s in zip(one.proposals, one.scores, strict=True)}


def _argmax(scores: Mapping[RankAllocation, float]) -> RankAllocation:
    """The allocation with the highest score; the smallest tuple among equals, so that ties do not depend on order."""
    best = max(scores.values())
    return min(allocation for allocation, score in scores.items() if score == best)
