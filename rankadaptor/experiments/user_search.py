"""The search for an allocation of a user's pruned model, as an experiment."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.destinations import require_writable
from rankadaptor.errors import RecoveryDiverged
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.plan import Plan
from rankadaptor.experiments.skeleton import Experiment, Run
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.traced_search import SearchSpec, described, traced_search
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.rounds import Round, Scores, SearchResult
from rankadaptor.search.settings import SearchSettings

_SIGNAL = "gold_probability"


@dataclass(frozen=True)
class UserSearch(Experiment):
    """One search; `run` returns a `SearchResult`."""

    model_inputs: Inputs
    scored: EvaluationSpec  # of every trial
    recovery: RecoverySpec  # of every trial; its allocation is a placeholder
    space: SolutionSpace
    settings: SearchSettings
    on_trial: Callable[[Scores], None]
    on_round: Callable[[Round], None]

    @property
    def title(self) -> str:
        """Title of the plan."""
        return "Search"

    @property
    def inputs(self) -> Inputs:
        """The user's model and data."""
        return self.model_inputs

    @property
    def workers(self) -> int:
        """One: rounds depend on each other."""
        return 1

    @property
    def is_sequential(self) -> bool:
        """True. `on_trial` and `on_round` are of this process, besides."""
        return True

    def check(self, plan: Plan) -> None:
        """Raises BadInput where the ledger cannot be written; model and data were checked when they were named."""
        if plan.missing:
            require_writable("the ledger", self.ledger.folder)

    def pieces(self, runner: Runner) -> list[Batches]:
        """The search."""
        return [self._search(runner)]

    def _search(self, runner: Runner) -> Batches:
        def trial(allocation: RankAllocation) -> Step:
            recovered = Step("recover", dataclasses.replace(self.recovery, allocation=allocation))
            return Step("evaluate", self.scored, recovered)

        spec = SearchSpec(described(self.space), self.settings, self.recovery, self.scored, _SIGNAL, "", "")
        search = traced_search(runner, self.space, spec, trial, lambda step: self._scores(runner, step),
                               on_round=self.on_round)
        try:
            while True:
                for step in next(search):
                    yield [step]  # one by one, so that each is reported when it ends
                    if ("evaluate", runner.key(step)) in runner.computed:
                        self.on_trial(self._scores(runner, step))
        except StopIteration as end:
            return end.value[0]

    def _scores(self, runner: Runner, trial: Step) -> Scores:
        """Gold probability by task; of a recovery that diverged, the least."""
        try:
            metrics = runner.results.metrics(trial)
        except RecoveryDiverged:
            return dict.fromkeys(self.scored.tasks, 0.0)
        return {task: metrics[task][_SIGNAL] for task in self.scored.tasks}

    def collect(self, run: Run, outcomes: Sequence[Any]) -> SearchResult:
        """The search's result. Raises StageFailed if a trial has no result on this machine."""
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
