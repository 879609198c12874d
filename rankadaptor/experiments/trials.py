"""Trials: recoveries that are really trained and scored, by which learning rates and allocations are chosen."""

import dataclasses
import functools
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput, RecoveryDiverged, shown
from rankadaptor.evaluation.spec import Split
from rankadaptor.experiments.methods import METHODS
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.traced_search import SearchSpec, described, traced_search
from rankadaptor.pipeline.trial_scores import HELD_OUT_LOSS, trial_scores
from rankadaptor.profiles import Budget, Profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import COMMITTED, read_table, records_beside, records_digest
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.rounds import Record, Scores, SearchResult, mean_score
from rankadaptor.search.settings import SearchSettings


class Trials:
    """Trials of one profile under one budget, all with one training seed of searches."""

    def __init__(self, runner: Runner, profile: Profile, budget: Budget, split: Split = "search", number: int = 0):
        """
        Args:
            split: Whose items trials are scored on.
            number: Of an independent search, counted from 0: each has a training seed of its own.
        """
        self._runner, self._profile, self._budget = runner, profile, budget
        self._signal, self._seed = profile.search.signal, profile.search.training_seed + number
        self._evaluation = profile.evaluation_spec(budget, split)

    def trial(self, pruned: Step, recovery: RecoverySpec) -> Step:
        """A recovery, scored on the items, or by the loss of held-out text."""
        recovered = Step("recover", recovery, pruned)
        if self._signal == HELD_OUT_LOSS:
            return Step("perplexity", self._profile.evaluation.perplexity, recovered)
        return Step("evaluate", self._evaluation, recovered)

    def scores(self, trial: Step, task: str = "") -> Scores:
        """Scores by task, larger is better. A recovery that diverged has finite scores, none above a real one.

        Args:
            task: The one that is wanted; empty for all.

        Raises:
            StageFailed: if the trial failed for another reason, such as lack of memory. The search can be continued on
                a machine that computes the trial.
        """
        results, outcome = self._runner.results, dict[str, Any]()
        try:
            if self._signal == HELD_OUT_LOSS:
                outcome["perplexity"] = results.perplexity(trial)
            else:
                outcome["metrics"] = results.metrics(trial)
        except RecoveryDiverged as error:
            outcome["diverged"] = error.reason
        return trial_scores(outcome, self._signal, [task] if task else self._evaluation.tasks)

    def best_of(self, pruned: Step, recoveries: Sequence[RecoverySpec]) -> Generator[list[Step], None, RecoverySpec]:
        """The recovery with the best mean score, the first of equals."""
        trials = [self.trial(pruned, recovery) for recovery in recoveries]
        yield trials
        return recoveries[int(np.argmax([mean_score(self.scores(trial)) for trial in trials]))]

    def learning_rate(
        self, method: str, pruned: Step, architecture: Architecture
    ) -> Generator[list[Step], None, float]:
        """The learning rate of a method: the best of its grid, by trials of the method that it is tuned as."""
        tuned = METHODS[METHODS[method].tuned_as]
        rates = tuned.learning_rates(self._budget)
        if len(rates) == 1:
            return rates[0]
        specs = [tuned.spec(self._profile, self._budget, architecture, rate, self._seed) for rate in rates]
        best = yield from self.best_of(pruned, specs)
        return best.recipe.learning_rate

    def search(
        self, block: Block, pruned: Step, architecture: Architecture, rate: float, rival: str = "", recoveries: int = 0,
        per_task: bool = False,
    ) -> Generator[list[Step], None, tuple[SearchResult, str]]:  # fmt: skip
        """The search for an allocation of one block, and the key of its trace.

        Args:
            rate: Learning rate of its trials.
            rival: A rival of `search.rivals.RIVALS` in place of the performance model, for `recoveries` trials.
            per_task: Whether each round recovers what every task's own prediction proposes.
        """
        settings = self.settings()
        if per_task:
            settings = dataclasses.replace(settings, acquisition="each task", heads="mean")
        if rival:
            settings = lasting(settings, recoveries)
        space = self._profile.solution_space(block, architecture)
        lowest = space.fill([min(space.candidates)] * len(space.free_layers))
        if not space.neighbours(lowest):
            raise BadInput(f"search.candidates {shown(self._profile.search.candidates)} leave {block} one allocation"
                           f" within the budget of rank {space.fixed_rank}: give more of them, or lower ones")
        return (yield from self.search_in(
            space, settings, pruned, rate, () if rival else self.records(block), rival))

    def settings(self) -> SearchSettings:
        """Settings of a search by the profile and the budget."""
        return SearchSettings(**dataclasses.asdict(self._budget.search),
                              **dataclasses.asdict(self._profile.search.method), seed=self._seed)

    def search_in(
        self, space: SolutionSpace, settings: SearchSettings, pruned: Step, rate: float,
        records: Sequence[Record] = (), rival: str = "", task: str = "",
    ) -> Generator[list[Step], None, tuple[SearchResult, str]]:  # fmt: skip
        """A search in a space of one's own, and the key of its trace.

        Args:
            rate: Learning rate of its trials.
            records: What it learns from offline.
            rival: What proposes in place of the performance model; empty where nothing does.
            task: The one whose scores it sees; empty for all.
        """
        measured = self._profile.evaluation.perplexity if self._signal == HELD_OUT_LOSS else self._evaluation
        spec = SearchSpec(described(space), settings, self.recovery((), rate), measured, self._signal,
                          records_digest(records), rival, task)
        return (yield from traced_search(
            self._runner, space, spec, lambda allocation: self.trial(pruned, self.recovery(allocation, rate)),
            lambda trial: self.scores(trial, task), records,
        ))

    def recovery(self, allocation: RankAllocation, rate: float) -> RecoverySpec:
        """LoRA with an allocation, under the seed of the trials."""
        return self._profile.lora_spec(self._budget, allocation, rate, self._seed)

    def records(self, block: Block) -> tuple[Record, ...]:
        """What the search on a block learns from offline: other blocks of a measured table, never that block."""
        source = self._profile.search.records
        if source is None or not self._runner.knows_layers:
            return ()
        path = Path(COMMITTED if source == "rank_table" else source)
        modified = path.stat().st_mtime_ns if path.is_file() else 0
        records = _read_records(path, modified, str(block), self._profile.adapters.scaling, self._signal)
        layers = self._runner.results.architecture(None).original_layer_count
        if wrong := [record for record in records if len(record.allocations[0]) != layers]:
            raise BadInput(f"records {source!r} of {wrong[0].label} are of another model, not of {layers} layers: set"
                           " search.records to null, or to a table of this model")
        return records


def lasting(settings: SearchSettings, recoveries: int) -> SearchSettings:
    """The settings with as many rounds as so many recoveries take."""
    rounds = -(-max(0, recoveries - settings.initial) // settings.batch)
    return dataclasses.replace(settings, rounds=rounds)


@functools.lru_cache(maxsize=32)
def _read_records(path: Path, modified: int, block: str, scaling: Scaling, signal: str) -> tuple[Record, ...]:
    """Records of a table, read once for as long as the file is not modified (ns, of the file system)."""
    return records_beside(read_table(path), block, scaling, signal)
