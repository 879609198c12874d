"""A search whose recoveries are stages and whose rounds are kept in the ledger as they end."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.evaluation.spec import EvaluationSpec, PerplexitySpec
from rankadaptor.keys import identity_key, stage_identity
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.loop import ask
from rankadaptor.search.rivals import find_rival
from rankadaptor.search.rounds import Record, Round, Scores, SearchResult
from rankadaptor.search.settings import SearchSettings


@dataclass(frozen=True)
class SearchSpec:
    """Identity of a search: everything that its trace is a function of, beside the pruned model."""

    numerics_version: ClassVar[int] = 2

    space: dict[str, object]
    settings: SearchSettings
    recovery: RecoverySpec  # of every trial; its allocation is a placeholder
    evaluation: EvaluationSpec | PerplexitySpec
    signal: str
    records: str  # SHA-256 over what offline meta-learning started from; empty where there was nothing
    rival: str  # what proposes in place of the performance model; empty where nothing does


def traced_search(
    runner: Runner,
    space: SolutionSpace,
    spec: SearchSpec,
    trial: Callable[[RankAllocation], Step],
    score: Callable[[Step], Scores],
    records: Sequence[Record] = (),
    on_round: Callable[[Round], None] = lambda _: None,
) -> Generator[list[Step], None, tuple[SearchResult, str]]:
    """Yields batches of trials to be run; finished rounds are read from the search's trace, new ones appended to it.

    Args:
        spec: What the trace is a function of, beside what a trial's key stands for.
        trial: The evaluation of an allocation's recovery. Of an empty allocation it stands, by its key, for all that a
            score depends on: model, rows, items and the stages' numerics.
        score: Of a trial that was run.

    Returns:
        The result, and the search's key.
    """
    identity = stage_identity("search", spec, runner.key(trial(())), {})
    key = identity_key(identity)
    trace = [Round.from_json(content) for content in runner.ledger.read_trace(key)]
    # Nothing of a trace is computed again; what the ledger holds of it is named, so that a plan can count it.
    yield [step for one in trace for step in map(trial, one.proposals) if runner.find(step)]

    def keep(one: Round) -> None:
        runner.ledger.append_round(key, identity, one.number, one.to_json())
        on_round(one)

    proposer = find_rival(spec.rival)
    asking = ask(space, spec.settings, records, proposer, trace, keep)
    try:
        proposals = next(asking)
        while True:
            trials = [trial(allocation) for allocation in proposals]
            yield trials
            proposals = asking.send([score(step) for step in trials])
    except StopIteration as stop:
        return stop.value, key


def described(space: SolutionSpace) -> dict[str, object]:
    """A space as a search's spec holds it; the architecture is the pruned model's."""
    return {name: value for name, value in vars(space).items() if name != "architecture"}
