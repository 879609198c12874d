"""Proposals guided by the performance model: the iteration phase of RankAdaptor (Section 3.3)."""

from collections.abc import Sequence

import numpy as np

from rankadaptor.allocation import RankAllocation
from rankadaptor.errors import BadInput
from rankadaptor.search.performance_model import MetaTask, Prediction
from rankadaptor.search.predictors import Predictor, make_predictor
from rankadaptor.search.proposals import Space, round_generator
from rankadaptor.search.rounds import Record, Round, Scores, best_first, highest, measured_scores
from rankadaptor.search.settings import SearchSettings

_BEST_MUTATED = 3  # of the measured allocations, whose surroundings are sampled with proposals "near"


class PerformanceGuided:
    """Samples many allocations, predicts them, and proposes the best that are not measured yet. A `Propose`.

    Source: Section 3.3, "Iteration Phase". Acquisitions and proposals other than the settings' defaults are ours.
    """

    def __init__(self, space: Space, settings: SearchSettings, records: Sequence[Record] = ()):
        """
        Args:
            records: Of other blocks, for offline meta-learning.
        """
        self._space, self._settings, self._records = space, settings, records
        self._predictor: Predictor | None = None

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], list[float] | None]:
        """A batch of proposals and their Q; fewer than a batch where S holds no more."""
        generator = round_generator(self._settings, rounds)
        candidates, prediction = self._predicted(rounds, generator)
        excluded = set(measured_scores(rounds))
        places: list[int] = []  # of the proposals among the candidates
        for utility in self._utilities(prediction, generator):
            order = np.argsort(-utility, kind="stable")
            place = next((int(place) for place in order if candidates[place] not in excluded), None)
            if place is None:
                break
            places.append(place)
            excluded.add(candidates[place])
        return [candidates[place] for place in places], [float(prediction.mean[place]) for place in places]

    def best_predicted(self, rounds: Sequence[Round]) -> RankAllocation:
        """The highest Q of all measured allocations and of as many more as a round samples.

        Source: Section 3.3, "Convergence Phase".
        """
        candidates, prediction = self._predicted(rounds, round_generator(self._settings, rounds))
        return highest(dict(zip(candidates, prediction.mean.tolist(), strict=True)))

    def _predicted(
        self, rounds: Sequence[Round], generator: np.random.Generator
    ) -> tuple[list[RankAllocation], Prediction]:
        """Candidates, measured ones included, and their Q after online learning on everything measured."""
        measured = measured_scores(rounds)
        ranked = best_first(rounds)
        count = self._settings.candidates_per_round
        around: list[RankAllocation] = []
        if self._settings.proposals == "near":
            for best in ranked[:_BEST_MUTATED]:
                around += self._space.near(best, count // (2 * _BEST_MUTATED), generator)
        candidates = [*self._space.sample(count - len(around), generator), *around, *ranked]
        predictor = self._meta_learned(rounds[0])
        inputs = self._settings.inputs
        scores = _by_task([measured[allocation] for allocation in ranked])
        if self._settings.heads == "mean":
            scores = scores.mean(axis=1, keepdims=True)
        predictor.fit(self._space.encode(ranked, inputs), scores)  # (n, heads)
        return candidates, predictor.predict(self._space.encode(candidates, inputs))

    def _utilities(self, prediction: Prediction, generator: np.random.Generator) -> list[np.ndarray]:
        """Utility of each candidate for every proposal of a batch, by the acquisition.  # batch x (m,)"""
        batch, acquisition = self._settings.batch, self._settings.acquisition
        if acquisition == "upper confidence":
            return [prediction.mean + prediction.spread] * batch
        if acquisition == "thompson":
            return [prediction.members[member] for member in generator.integers(len(prediction.members), size=batch)]
        return [prediction.mean] * batch

    def _meta_learned(self, start: Round) -> Predictor:
        """The predictor after offline meta-learning on the records and on the tasks of the initialization."""
        if self._predictor is None:
            initialization = Record("initialization", start.proposals, start.scores)
            self._predictor = make_predictor(self._settings.predictor, self._settings.seed)
            self._predictor.meta_train(meta_tasks(self._space, (*self._records, initialization), self._settings))
        return self._predictor


def meta_tasks(space: Space, records: Sequence[Record], settings: SearchSettings) -> list[MetaTask]:
    """Tasks of offline meta-learning: one per benchmark and block, or one per block where every benchmark has a head.

    Args:
        records: The last one is of the search itself.

    Raises:
        BadInput: if every benchmark has a head and the records are of different benchmarks.

    Source: Section 3.2, "Offline meta-learning".
    """
    tasks: list[MetaTask] = []
    for record in records:
        if settings.heads == "tasks" and record.scores[0].keys() != records[-1].scores[0].keys():
            raise BadInput(f"record {record.label} has scores of {', '.join(sorted(record.scores[0]))}, the search of"
                           f" {', '.join(sorted(records[-1].scores[0]))}: heads by task need the same tasks, use mean")
        measured = dict(sorted(zip(record.allocations, record.scores, strict=True), key=lambda pair: pair[0]))
        inputs, scores = space.encode(list(measured), settings.inputs), _by_task(list(measured.values()))
        columns = range(scores.shape[1])
        heads = [columns] if settings.heads == "tasks" else [[column] for column in columns]
        tasks += [MetaTask(inputs, scores[:, list(head)]) for head in heads]
    return tasks


def _by_task(scores: Sequence[Scores]) -> np.ndarray:
    """One row per allocation, one column per task, tasks in the order of their names.  # (n, tasks)"""
    return np.array([[of_tasks[task] for task in sorted(scores[0])] for of_tasks in scores])
