"""RankAdaptor's search (Section 3.3, Figure 4): initialization, iteration, convergence.

Knows allocations and scores only. Real recoveries happen behind `objective(allocations) -> scores`, one mapping
task -> score per allocation: one recovery labels all tasks at once.

    result = search(space, objective, settings)                       # RankAdaptor
    result = search(space, objective, settings, proposer=RandomSearch)  # a rival, see `rivals`
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np

from rankadaptor.allocation import Inputs, RankAllocation
from rankadaptor.errors import BadInput
from rankadaptor.search.performance_model import MetaTask, Prediction
from rankadaptor.search.predictors import PREDICTORS, WITH_MEMBERS, Predictor, make_predictor

Scores = Mapping[str, float]
Objective = Callable[[list[RankAllocation]], list[Scores]]
Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Acquisition = Literal["greedy", "upper confidence", "thompson"]
Proposals = Literal["uniform", "near"]
Heads = Literal["mean", "tasks"]
Selection = Literal["measured", "predicted"]
_INITIAL, _ROUND = 1, 2  # draws of one seed for different ends
_BEST_MUTATED = 3  # of the measured allocations, whose surroundings are sampled with proposals "near"


class Space(Protocol):
    """What is searched: `allocation.SolutionSpace`, or a `Pool` of some of its allocations."""

    def sample(self, count: int, generator: np.random.Generator) -> list[RankAllocation]: ...

    def near(
        self, allocation: RankAllocation, count: int, generator: np.random.Generator
    ) -> list[RankAllocation]: ...

    def encode(self, allocations: Sequence[RankAllocation], inputs: Inputs) -> np.ndarray: ...


@dataclass(frozen=True)
class SearchSettings:
    initial: int  # random allocations really recovered before the first prediction
    rounds: int  # online rounds at most
    batch: int  # allocations really recovered a round
    candidates_per_round: int  # allocations sampled and predicted a round
    threshold: float  # converged when a round's mean |Q - P| is at most this share of the spread of all P so far ...
    patience: int  # ... for so many rounds in a row
    seed: int
    predictor: str = "paper"  # one of `predictors.PREDICTORS`
    inputs: Inputs = "ranks"  # what is read of an allocation; see `allocation.SolutionSpace.encode`
    heads: Heads = "mean"  # what is predicted: the mean over tasks, or every task
    acquisition: Acquisition = "greedy"  # highest Q (paper), Q plus its spread over members, or a member's Q at random
    proposals: Proposals = "uniform"  # sampled from all of S (paper), or half of them near the best measured
    selection: Selection = "measured"  # what is chosen at last: the best P, or the best Q (paper); rivals have no Q

    def __post_init__(self) -> None:
        for name, kind in (("acquisition", Acquisition), ("proposals", Proposals), ("heads", Heads),
                           ("inputs", Inputs), ("selection", Selection)):
            if getattr(self, name) not in get_args(kind):
                raise BadInput(f"unknown {name} {getattr(self, name)!r}: use one of {', '.join(get_args(kind))}")
        for name, least in (("initial", 1), ("rounds", 0), ("batch", 1), ("candidates_per_round", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} of a search is {getattr(self, name)}: give at least {least}")
        if self.predictor not in PREDICTORS:
            raise BadInput(f"unknown predictor {self.predictor!r}: use one of {', '.join(PREDICTORS)}")
        if self.acquisition == "thompson" and self.predictor not in WITH_MEMBERS:
            raise BadInput(f"acquisition thompson draws members, and predictor {self.predictor!r} has none: use one of"
                           f" {', '.join(WITH_MEMBERS)}")


@dataclass(frozen=True)
class Round:
    """One round of a search: what was proposed, what was predicted and what was measured."""

    number: int  # 0 is the initialization
    proposals: tuple[RankAllocation, ...]
    predictions: tuple[float, ...] | None  # Q of the mean over tasks; None in the initialization, and without a model
    scores: tuple[dict[str, float], ...]  # P, by task

    @property
    def gap(self) -> float | None:
        """Mean |Q - P| over the round's proposals; None where nothing was predicted."""
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
class Record:
    """Measured allocations of another block, which offline meta-learning starts from."""

    label: str  # such as shortened:30
    allocations: tuple[RankAllocation, ...]
    scores: tuple[Scores, ...]  # by task; the tasks may be others than the search's


@dataclass(frozen=True)
class SearchResult:
    rounds: tuple[Round, ...]
    converged: bool
    best: RankAllocation  # by the settings' `selection`, of the mean over tasks
    best_by_task: dict[str, RankAllocation]  # highest measured score on each task


# What comes next, given all rounds so far: proposals, and what was predicted of them. A function of the *set* of
# results, the number of rounds and the seed.
Propose = Callable[[Sequence[Round]], tuple[list[RankAllocation], list[float] | None]]
Proposer = Callable[[Space, SearchSettings], Propose]


def mean_score(scores: Scores) -> float:
    """Plain mean over tasks, by name: the last digit does not depend on their order."""
    return float(np.mean([scores[task] for task in sorted(scores)]))


def search(
    space: Space,
    objective: Objective,
    settings: SearchSettings,
    records: Sequence[Record] = (),
    proposer: Proposer | None = None,
    trace: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
    """Find an allocation by rounds of prediction and real recovery.

    Args:
        space: S and its budget; every proposal lies in it.
        objective: Really recovers and scores allocations.
        records: Of other blocks, for offline meta-learning.
        proposer: A rival's, in place of the performance model's.
        trace: Finished rounds of an earlier run of the same search; they are taken as they are.
        on_round: Called with every round that this call finishes.

    Returns:
        All rounds and the best allocations. The choice saw the search's scores only: retrain it with fresh seeds before
        reporting it.

    Raises:
        BadInput: if the objective returns a score that is no number, or not one mapping an allocation.
    """
    return drive(ask(space, settings, records, proposer, trace, on_round), objective)


def drive(asking: Generator[Question, Answer, Result], answer: Callable[[Question], Answer]) -> Result:
    """Run a coroutine to its end: what it yields is answered, what it returns is returned."""
    try:
        question = next(asking)
        while True:
            question = asking.send(answer(question))
    except StopIteration as stop:
        return stop.value


def ask(
    space: Space,
    settings: SearchSettings,
    records: Sequence[Record] = (),
    proposer: Proposer | None = None,
    trace: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> Generator[list[RankAllocation], list[Scores], SearchResult]:
    """The search as a coroutine: yields proposals, is sent their scores, returns the result. See `search`."""
    guided = PerformanceGuided(space, settings, records)
    propose = proposer(space, settings) if proposer else guided
    rounds = list(trace)
    while not _finished(rounds, settings):
        proposals, predictions = propose(rounds) if rounds else _initialization(space, settings)
        if not proposals:
            break  # a small S, and all of it measured
        scores = yield list(proposals)
        _check(proposals, scores)
        predicted = None if predictions is None else tuple(predictions)
        rounds.append(Round(len(rounds), tuple(proposals), predicted, tuple(dict(s) for s in scores)))
        on_round(rounds[-1])
    measured = measured_scores(rounds)
    best = best_first(rounds)[0]
    if settings.selection == "predicted" and proposer is None:
        best = guided.best_predicted(rounds)
    tasks = sorted(next(iter(measured.values())))
    by_task = {task: _argmax({a: s[task] for a, s in measured.items()}) for task in tasks}
    return SearchResult(tuple(rounds), has_converged(rounds, settings), best, by_task)


# -- Convergence ------------------------------------------------------------------------------------------------------


def has_converged(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    """Prediction has met reality: |Q - P| stayed under the threshold for `patience` rounds in a row.

    The paper leaves its threshold open. Here it is a share of the standard deviation of all scores measured so far: a
    gap in the scores' own unit says nothing where allocations differ by less than it.
    """
    latest = range(len(rounds) - settings.patience, len(rounds))
    return latest.start > 0 and all(_met(rounds[: number + 1], settings.threshold) for number in latest)


def _met(rounds: Sequence[Round], threshold: float) -> bool:
    gap = rounds[-1].gap
    measured = [mean_score(scores) for scores in measured_scores(rounds).values()]
    rounding = 1e-6 * np.abs(measured).max()  # of single precision: equal scores are predicted no closer
    return gap is not None and gap <= threshold * np.std(measured) + rounding


def _finished(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    return bool(rounds) and (len(rounds) > settings.rounds or has_converged(rounds, settings))


# -- Initialization ---------------------------------------------------------------------------------------------------


def _initialization(space: Space, settings: SearchSettings) -> tuple[list[RankAllocation], None]:
    """Distinct random allocations of S (fewer if S holds no more), and no prediction; the same for every method."""
    generator = np.random.default_rng([settings.seed, _INITIAL])
    found: dict[RankAllocation, None] = {}
    for _ in range(100):
        found.update(dict.fromkeys(space.sample(settings.initial, generator)))
        if len(found) >= settings.initial:
            break
    return list(found)[: settings.initial], None


def round_generator(settings: SearchSettings, rounds: Sequence[Round]) -> np.random.Generator:
    """Of the round that follows some: a function of the seed and their number."""
    return np.random.default_rng([settings.seed, _ROUND, len(rounds)])


# -- Iteration --------------------------------------------------------------------------------------------------------


class PerformanceGuided:
    """Sample many allocations, predict them, propose the best not measured yet. A `Propose`."""

    def __init__(self, space: Space, settings: SearchSettings, records: Sequence[Record] = ()):
        self._space, self._settings, self._records = space, settings, records
        self._predictor: Predictor | None = None

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], list[float] | None]:
        generator = round_generator(self._settings, rounds)
        candidates, prediction = self._predicted(rounds, generator)
        known = set(measured_scores(rounds))
        chosen: list[int] = []
        for wish in self._wishes(prediction, generator):
            place = next((int(i) for i in np.argsort(-wish, kind="stable") if candidates[i] not in known), None)
            if place is None:
                break
            chosen.append(place)
            known.add(candidates[place])
        return [candidates[i] for i in chosen], [float(prediction.mean[i]) for i in chosen]

    def best_predicted(self, rounds: Sequence[Round]) -> RankAllocation:
        """The highest Q of all that was measured and of as many more allocations as a round samples (Section 3.3)."""
        candidates, prediction = self._predicted(rounds, round_generator(self._settings, rounds))
        return _argmax(dict(zip(candidates, prediction.mean.tolist(), strict=True)))

    def _predicted(
        self, rounds: Sequence[Round], generator: np.random.Generator
    ) -> tuple[list[RankAllocation], Prediction]:
        """Candidates, measured ones included, and their Q."""
        measured = measured_scores(rounds)
        ranked = best_first(rounds)
        count = self._settings.candidates_per_round
        around: list[RankAllocation] = []
        if self._settings.proposals == "near":
            for best in ranked[:_BEST_MUTATED]:
                around += self._space.near(best, count // (2 * _BEST_MUTATED), generator)
        candidates = [*self._space.sample(count - len(around), generator), *around, *ranked]
        predictor = self._learned(rounds[0])
        inputs = self._settings.inputs
        scores = _by_task([measured[allocation] for allocation in ranked])
        if self._settings.heads == "mean":
            scores = scores.mean(axis=1, keepdims=True)
        predictor.fit(self._space.encode(ranked, inputs), scores)  # (n, heads)
        return candidates, predictor.predict(self._space.encode(candidates, inputs))

    def _wishes(self, prediction: Prediction, generator: np.random.Generator) -> list[np.ndarray]:
        """What each of a round's proposals is to have most of.  # batch x (m,)"""
        batch, acquisition = self._settings.batch, self._settings.acquisition
        if acquisition == "upper confidence":
            return [prediction.mean + prediction.spread] * batch
        if acquisition == "thompson":
            return [prediction.members[member] for member in generator.integers(len(prediction.members), size=batch)]
        return [prediction.mean] * batch

    def _learned(self, start: Round) -> Predictor:
        """The predictor after offline meta-learning, on the records and on the tasks of the initialization."""
        if self._predictor is None:
            own = Record("initialization", start.proposals, start.scores)
            self._predictor = make_predictor(self._settings.predictor, self._settings.seed)
            self._predictor.meta_train(meta_tasks(self._space, (*self._records, own), self._settings))
        return self._predictor


def meta_tasks(space: Space, records: Sequence[Record], settings: SearchSettings) -> list[MetaTask]:
    """What offline meta-learning learns from: a task a benchmark and block; where every benchmark has a head, a task a
    block."""
    tasks: list[MetaTask] = []
    for record in records:
        if settings.heads == "tasks" and record.scores[0].keys() != records[-1].scores[0].keys():
            raise BadInput(f"record {record.label} has scores of {', '.join(sorted(record.scores[0]))}, the search of"
                           f" {', '.join(sorted(records[-1].scores[0]))}: heads by task need the same tasks, use mean")
        measured = dict(sorted(zip(record.allocations, record.scores, strict=True), key=lambda pair: pair[0]))
        inputs, scores = space.encode(list(measured), settings.inputs), _by_task(list(measured.values()))
        columns = range(scores.shape[1])
        heads = [columns] if settings.heads == "tasks" else [[column] for column in columns]
        tasks += [MetaTask(inputs, scores[:, list(several)]) for several in heads]
    return tasks


def _by_task(scores: Sequence[Scores]) -> np.ndarray:
    """# (n, tasks), tasks by name"""
    return np.array([[one[task] for task in sorted(scores[0])] for one in scores])


def measured_scores(rounds: Sequence[Round]) -> dict[RankAllocation, Scores]:
    return {a: s for one in rounds for a, s in zip(one.proposals, one.scores, strict=True)}


def best_first(rounds: Sequence[Round]) -> list[RankAllocation]:
    """All that was measured, by the mean over tasks; equals by their ranks, so that no order depends on when."""
    measured = measured_scores(rounds)
    return sorted(measured, key=lambda allocation: (-mean_score(measured[allocation]), allocation))


def _check(proposals: Sequence[RankAllocation], scores: Sequence[Scores]) -> None:
    if len(scores) != len(proposals):
        raise BadInput(f"the objective returned {len(scores)} scores of {len(proposals)} allocations: return one each")
    for allocation, of_tasks in zip(proposals, scores, strict=True):
        for task, score in of_tasks.items():
            if not math.isfinite(score):
                raise BadInput(f"the objective's score of allocation {' '.join(map(str, allocation))} on {task} is"
                               f" {score}: return a finite number, for a failed recovery the lowest there is")
        if not of_tasks or of_tasks.keys() != scores[0].keys():
            raise BadInput(f"the objective scored tasks {sorted(of_tasks)} of one allocation and {sorted(scores[0])} of"
                           " another: score the same tasks of all")


def _argmax(scores: Mapping[RankAllocation, float]) -> RankAllocation:
    """The allocation with the highest score; the smallest tuple among equals, so that ties do not depend on order."""
    best = max(scores.values())
    return min(allocation for allocation, score in scores.items() if score == best)
