"""RankAdaptor's search (Section 3.3, Figure 4): initialization, iteration, convergence.

Works on allocations and scores alone. Recoveries are made by `objective(allocations) -> scores`, one mapping
task -> score per allocation: one recovery labels all tasks.

    result = search(space, objective, settings)                         # RankAdaptor
    result = search(space, objective, settings, proposer=RandomSearch)  # a rival, see `rivals`
"""

import math
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from rankadaptor.allocation import RankAllocation
from rankadaptor.errors import BadInput
from rankadaptor.search.convergence import has_converged
from rankadaptor.search.guided import PerformanceGuided
from rankadaptor.search.proposals import Proposer, Space, initial_proposals
from rankadaptor.search.rounds import Record, Round, Scores, SearchResult, best_first, highest, measured_scores
from rankadaptor.search.settings import SearchSettings

Objective = Callable[[list[RankAllocation]], list[Scores]]
Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


def search(
    space: Space,
    objective: Objective,
    settings: SearchSettings,
    records: Sequence[Record] = (),
    proposer: Proposer | None = None,
    trace: Sequence[Round] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
    """Approximate R_H* of Eq. 4 by rounds of prediction and recovery.

    Args:
        space: S and its budget; every proposal lies in it.
        objective: Recovers and scores allocations; P of Eq. 4, by task.
        records: Of other blocks, for offline meta-learning.
        proposer: A rival's, in place of the performance model's.
        trace: Finished rounds of an earlier run of the same search; they are not measured again.
        on_round: Called with every round that this call finishes.

    Returns:
        All rounds and the best allocations. The selection saw the scores of the search: retrain it with fresh seeds
        before reporting it.

    Raises:
        BadInput: if the objective returns a score that is not finite, or not one mapping per allocation.
    """
    return drive(ask(space, settings, records, proposer, trace, on_round), objective)


def drive(coroutine: Generator[Question, Answer, Result], answer: Callable[[Question], Answer]) -> Result:
    """Run a coroutine to its end: send it the answer to everything that it yields, and return its result."""
    try:
        question = next(coroutine)
        while True:
            question = coroutine.send(answer(question))
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
    """`search` as a coroutine: yields proposals, is sent their scores, returns the result."""
    guided = PerformanceGuided(space, settings, records)
    propose = proposer(space, settings) if proposer else guided
    rounds = list(trace)
    while not is_finished(rounds, settings):
        proposals, predictions = propose(rounds) if rounds else (initial_proposals(space, settings), None)
        if not proposals:
            break  # S is small, and all of it is measured
        scores = yield list(proposals)
        _check(proposals, scores)
        predicted = None if predictions is None else tuple(predictions)
        rounds.append(Round(len(rounds), tuple(proposals), predicted, tuple(dict(of_tasks) for of_tasks in scores)))
        on_round(rounds[-1])
    measured = measured_scores(rounds)
    best = best_first(rounds)[0]
    if settings.selection == "predicted" and proposer is None:
        best = guided.best_predicted(rounds)
    tasks = sorted(next(iter(measured.values())))
    by_task = {task: highest({allocation: scores[task] for allocation, scores in measured.items()}) for task in tasks}
    return SearchResult(tuple(rounds), has_converged(rounds, settings), best, by_task)


def is_finished(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    """Whether a search ends after these rounds: it converged, or has had all of its rounds."""
    return bool(rounds) and (len(rounds) > settings.rounds or has_converged(rounds, settings))


def _check(proposals: Sequence[RankAllocation], scores: Sequence[Scores]) -> None:
    """Raises BadInput unless there is one mapping of finite scores per proposal, all of the same tasks."""
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
