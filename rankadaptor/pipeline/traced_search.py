"""A search whose recoveries are stages, and whose rounds the ledger stores as they end."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.evaluation.spec import EvaluationSpec, PerplexitySpec
from rankadaptor.keys import identity_key, later, stage_identity
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.traces import Trace
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.guided import PerformanceGuided
from rankadaptor.search.loop import ask, is_finished
from rankadaptor.search.proposals import Propose, initial_proposals
from rankadaptor.search.rivals import RandomSearch, find_rival
from rankadaptor.search.rounds import Record, Round, Scores, SearchResult, measured_scores
from rankadaptor.search.settings import SearchSettings


@dataclass(frozen=True)
class SearchSpec:
    """Identity of a search: everything that determines its trace, beside the pruned model."""

    numerics_version: ClassVar[int] = 2

    space: dict[str, object]
    settings: SearchSettings
    recovery: RecoverySpec  # of every trial; its allocation is a placeholder
    evaluation: EvaluationSpec | PerplexitySpec
    signal: str
    records: str  # SHA-256 over what offline meta-learning started from; empty where there was nothing
    rival: str  # what proposes in place of the performance model; empty where nothing does
    task: str = later("")  # the one task whose scores the search sees; empty for all


def traced_search(
    runner: Runner,
    space: SolutionSpace,
    spec: SearchSpec,
    trial: Callable[[RankAllocation], Step],
    score: Callable[[Step], Scores],
    records: Sequence[Record] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> Generator[list[Step], None, tuple[SearchResult, str]]:
    """Yields batches of trials to be run. Reads finished rounds from the search's trace, and appends new ones to it.

    Args:
        space: S, the allocations that may be proposed.
        spec: What determines the trace, beside the key of a trial.
        trial: Makes the evaluation of an allocation's recovery. The key of an empty allocation's trial stands for
            everything that a score depends on: model, rows, items and the stages' numerics.
        score: Reads the scores of a trial that was run.
        records: Where offline meta-learning starts from.
        on_round: Called with every finished round.

    Returns:
        The result, and the search's key.
    """
    identity = stage_identity("search", spec, runner.key(trial(())), {})
    key = identity_key(identity)
    stored = Trace(runner.ledger, key)
    trace = [Round.from_json(content) for content in stored.read(lambda content: _doubt(
        Round.from_json(content), runner, initial_proposals(space, spec.settings), trial, score))]
    # No round of a trace is computed again; its trials are yielded where the ledger has them, so that plans count them.
    yield [step for finished in trace for step in map(trial, finished.proposals) if runner.find(step)]

    def save_round(finished: Round) -> None:
        stored.append(identity, finished.to_json())
        on_round(finished)

    proposer = find_rival(spec.rival)
    if runner.is_planning and not is_finished(trace, spec.settings):
        # Random proposals of its own: those of two searches are hardly ever the same.
        seeded = dataclasses.replace(spec.settings, seed=int(key[:8], 16))
        guided = proposer or (lambda space, settings: PerformanceGuided(space, settings, records))
        planned = PlannedProposals(
            guided(space, spec.settings), RandomSearch(space, seeded),
            lambda allocation: runner.find(trial(allocation)) is not None)
        search = ask(space, spec.settings, records, lambda *_: planned, trace)
    else:
        search = ask(space, spec.settings, records, proposer, trace, save_round)
    try:
        proposals = next(search)
        while True:
            trials = [trial(allocation) for allocation in proposals]
            yield trials
            proposals = search.send([score(step) for step in trials])
    except StopIteration as stop:
        return stop.value, key


def _doubt(
    unsealed: Round, runner: Runner, initial: list[RankAllocation], trial: Callable[[RankAllocation], Step],
    score: Callable[[Step], Scores],
) -> str:  # fmt: skip
    """Why a round without a seal is not believed; empty if the results of all of its trials confirm it."""
    if unsealed.number == 0 and list(unsealed.proposals) != initial:
        return "the search begins with other proposals"
    for allocation, scores in zip(unsealed.proposals, unsealed.scores, strict=True):
        if runner.find(step := trial(allocation)) is None:
            return "the ledger lacks a trial of it"
        if dict(score(step)) != scores:
            return f"trial {runner.key(step)[:12]} has other scores"
    return ""


class PlannedProposals:
    """Proposals of a search that is only counted: its own as long as everything is measured, then random ones.

    Random proposals predict nothing, so that such a search takes all of its rounds. A `Propose`.
    """

    def __init__(self, own: Propose, random: Propose, is_measured: Callable[[RankAllocation], bool]):
        self._own, self._random, self._is_measured = own, random, is_measured

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], list[float] | None]:
        if not all(map(self._is_measured, measured_scores(rounds))):
            return self._random(rounds)
        proposals, predictions = self._own(rounds)
        return proposals, predictions if all(map(self._is_measured, proposals)) else None


def described(space: SolutionSpace) -> dict[str, object]:
    """Fields of a space for a search's spec; without the architecture, which the pruned model's key stands for."""
    return {name: value for name, value in vars(space).items() if name != "architecture"}
