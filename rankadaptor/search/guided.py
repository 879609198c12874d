"""Proposals guided by the performance model: the iteration phase of RankAdaptor (Section 3.3)."""

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np

from rankadaptor.allocation import RankAllocation
from rankadaptor.errors import BadInput
from rankadaptor.search.performance_model import MetaTask, Prediction
from rankadaptor.search.predictors import IncrementalPredictor, Predictor, make_predictor
from rankadaptor.search.proposals import Space, round_generator
from rankadaptor.search.rounds import Record, Round, Scores, best_first, highest, measured_scores
from rankadaptor.search.settings import SearchSettings

_BEST_MUTATED = 3  # of the measured allocations, whose surroundings are sampled with proposals "near"
_LABELS = 6  # stream of one seed, see `proposals`


class PerformanceGuided:
    """Samples many allocations, predicts them, and proposes the best that are not measured yet. A `Propose`.

    Source: Section 3.3, "Iteration Phase". Acquisitions and proposals other than the settings' defaults are ours.
    """

    def __init__(self, space: Space, settings: SearchSettings, records: Sequence[Record] = ()):
        """
        Args:
            records: Of other blocks, for offline meta-learning.
        """
        self._space, self._settings = space, settings
        self._records = [dataclasses.replace(record, scores=tuple(_told(record.scores, settings)))
                         for record in records]
        self._predictor: Predictor | None = None

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], list[float] | None]:
        """A batch of proposals and their Q; fewer than a batch where S holds no more."""
        generator = round_generator(self._settings, rounds)
        candidates, predictions = self._predicted(self._told(rounds), generator)
        mean = np.mean([prediction.mean for prediction in predictions], axis=0)  # (m,)
        excluded = set(measured_scores(rounds))
        places: list[int] = []  # of the proposals among the candidates
        for utility in self._utilities(predictions, generator):
            order = np.argsort(-utility, kind="stable")
            place = next((int(place) for place in order if candidates[place] not in excluded), None)
            if place is None:
                break
            places.append(place)
            excluded.add(candidates[place])
        return [candidates[place] for place in places], [float(mean[place]) for place in places]

    def best_predicted(self, rounds: Sequence[Round]) -> RankAllocation:
        """The highest Q of all measured allocations and of as many more as a round samples.

        Source: Section 3.3, "Convergence Phase".
        """
        candidates, predictions = self._predicted(self._told(rounds), round_generator(self._settings, rounds))
        mean = np.mean([prediction.mean for prediction in predictions], axis=0)
        return highest(dict(zip(candidates, mean.tolist(), strict=True)))

    def _predicted(
        self, rounds: Sequence[Round], generator: np.random.Generator
    ) -> tuple[list[RankAllocation], list[Prediction]]:
        """Candidates, measured ones included, and their Q after online learning on everything measured: one of the mean
        over tasks, or one of each task."""
        ranked = best_first(rounds)
        count = self._settings.candidates_per_round
        around: list[RankAllocation] = []
        if self._settings.proposals == "near":
            for best in ranked[:_BEST_MUTATED]:
                around += self._space.near(best, count // (2 * _BEST_MUTATED), generator)
        candidates = [*self._space.sample(count - len(around), generator), *around, *ranked]
        inputs = self._space.encode(candidates, self._settings.inputs)
        tasks = sorted(rounds[0].scores[0]) if self._settings.acquisition == "each task" else [""]
        return candidates, [self._learned(rounds, task).predict(inputs) for task in tasks]

    def _learned(self, rounds: Sequence[Round], task: str) -> Predictor:
        """The predictor after online learning of all scores, or those of one task: at once, or round by round."""
        predictor, inputs = self._meta_learned(rounds[0]), self._settings.inputs
        goes_on = self._settings.learning == "continue"
        steps = [rounds[:1], *([finished] for finished in rounds[1:])] if goes_on else [rounds]
        for number, step in enumerate(steps):
            measured, ranked = measured_scores(step), best_first(step)
            scores = _by_task([{task: measured[place][task]} if task else measured[place] for place in ranked])
            if self._settings.heads == "mean":
                scores = scores.mean(axis=1, keepdims=True)
            learn = cast(IncrementalPredictor, predictor).go_on if number else predictor.fit
            learn(self._space.encode(ranked, inputs), scores)  # (n, heads)
        return predictor

    def _told(self, rounds: Sequence[Round]) -> Sequence[Round]:
        """The rounds with the scores that the performance model is told."""
        scores = iter(_told([scores for finished in rounds for scores in finished.scores], self._settings))
        return [dataclasses.replace(finished, scores=tuple(dict(next(scores)) for _ in finished.scores))
                for finished in rounds]

    def _utilities(self, predictions: Sequence[Prediction], generator: np.random.Generator) -> list[np.ndarray]:
        """Utility of each candidate for every proposal of a batch, by the acquisition.  # batch x (m,)"""
        batch, acquisition = self._settings.batch, self._settings.acquisition
        if acquisition == "each task":
            return [prediction.mean for prediction in predictions]
        prediction = predictions[0]
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


def _told(scores: Sequence[Scores], settings: SearchSettings) -> Sequence[Scores]:
    """The scores, or where the settings ask for it, the same ones in random order."""
    if settings.labels == "measured":
        return scores
    order = np.random.default_rng([settings.seed, _LABELS, len(scores)]).permutation(len(scores))
    return [scores[place] for place in order]


def _by_task(scores: Sequence[Scores]) -> np.ndarray:
    """One row per allocation, one column per task, tasks in the order of their names.  # (n, tasks)"""
    return np.array([[of_tasks[task] for task in sorted(scores[0])] for of_tasks in scores])
