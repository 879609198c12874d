"""The paper's own protocol, and what it prints for methods that cannot have found anything.

    work = paper_protocol(profile="tiny", blocks="llm-pruner:50")
    print(work.plan())
    result = work.run()
    result.reported      # gains as the paper would print them
    result.unseen        # gains of the same choices, with fresh training seeds on questions that chose nothing

Where the paper leaves its protocol open, this is the reading that its text and its Table 7 suggest most: a search for
each task, which sees that task's accuracy on the very questions that are reported; one MLP on plain ranks; proposals
drawn from all of S, without a limit of parameters; an absolute threshold on |Q - P|; learning that goes on from round
to round; the allocation of the highest Q; one training seed, LoRA's as well as the search's.

The same protocol is given to random search (the best of as many recoveries), to LoRA with the best of as many training
seeds, and to the search whose model is told the same scores shuffled over the allocations. What it prints for these is
what it prints for nothing.
"""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankadaptor.allocation import RankAllocation, SolutionSpace, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.experiments.ablations import CANDIDATES
from rankadaptor.experiments.block_table import BlockTable, BlockWork
from rankadaptor.experiments.methods import LARGEST, LARGEST_CONSTANT, LORA, METHODS, asked_methods
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    parse_blocks,
    report_seeds,
    text,
)
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.skeleton import Run
from rankadaptor.experiments.table_rows import TableRows
from rankadaptor.experiments.tables import LEAST_GAIN, Contents
from rankadaptor.experiments.trials import Trials, lasting
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.rounds import measured_scores
from rankadaptor.search.settings import Labels, SearchSettings

AS_PAPER = "the paper's search"
SHUFFLED_SCORES = "the search, scores shuffled"
RANDOM = "random search"
BEST_OF_SEEDS = "LoRA, best of N seeds"
PLAYERS = (AS_PAPER, SHUFFLED_SCORES, RANDOM, BEST_OF_SEEDS)
THRESHOLD = 0.01  # of |Q - P|, in accuracy; the paper does not print its own
_LARGEST = (LARGEST, LARGEST_CONSTANT)
_CLAIMED = dict.fromkeys(PLAYERS, LEAST_GAIN)
_REPORTED = Contents("paper", "The paper's protocol", (LORA, *PLAYERS), _CLAIMED)
_UNSEEN = Contents("paper-unseen", "The same choices on unseen questions", (LORA, *PLAYERS), _CLAIMED)
_CEILING = Contents("paper-ceiling", "What ranks can add", (LORA, *_LARGEST))

Choices = dict[str, list[RecoverySpec]]  # task -> the recovery that is chosen for it, a training seed each


def paper_protocol(
    profile: str,
    blocks: Words = "llm-pruner:50",
    budget: str = "standard",
    seeds: Words = (),
    ledger: Path | str = DEFAULT_LEDGER,
) -> "PaperProtocol":
    """The paper's protocol on some blocks of a profile. Arguments as of `main_table.main_table`.

    Args:
        seeds: Training seeds of the fresh trainings; empty for the budget's.

    Raises:
        BadInput: as there.
    """
    source, budget = named_profile(profile), text("budget", budget, "standard")
    fresh = report_seeds(source, budget, seeds)
    if source.search.signal == "held_out_loss":
        source = _with_accuracy(source)
    return PaperProtocol(named_ledger(ledger), source, _REPORTED, parse_blocks(blocks, source), budget, fresh)


def _with_accuracy(profile: Profile) -> Profile:
    """The profile whose trials are scored by accuracy."""
    return dataclasses.replace(profile, search=dataclasses.replace(profile.search, signal="accuracy"))


class ProtocolResult(NamedTuple):
    """What the protocol prints, and what becomes of it.

    Attributes:
        reported: One seed, the questions that chose.
        unseen: The same choices, trained with fresh seeds, on questions that chose nothing. Of the best seed, which
            cannot be trained with another one, the very training that was chosen.
        ceiling: LoRA and the largest rank in every layer, fresh seeds, on the reported questions.
        recoveries: Block -> task -> how many recoveries each player chose among.
        seed_scores: Block -> task -> accuracy of LoRA on the reported questions under each of its seeds, in order.
    """

    reported: TableResult
    unseen: TableResult
    ceiling: TableResult
    recoveries: Mapping[str, Mapping[str, int]]
    seed_scores: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def computed(self) -> tuple[tuple[str, str], ...]:
        """(stage, key) of what this run computed."""
        return self.reported.computed


class ProtocolWork(NamedTuple):
    """The finished steps of a block."""

    reported: BlockWork
    unseen: BlockWork
    ceiling: BlockWork
    recoveries: dict[str, int]
    seed_scores: dict[str, list[float]]


@dataclass(frozen=True)
class PaperProtocol(BlockTable):
    """See `paper_protocol`. `seeds` are those of the fresh trainings."""

    @property
    def seed(self) -> int:
        """The one training seed of the protocol."""
        return self.profile.search.training_seed

    def unseen_rows(self, runner: Runner) -> TableRows:
        """Rows on the unseen questions."""
        return TableRows(runner, self.profile, self.budget, self.seeds, _UNSEEN, "unseen")

    def _unpruned(self, runner: Runner) -> Generator[list[Step], None, None]:
        yield [*self.rows(runner).unrecovered_steps(None), *self.unseen_rows(runner).unrecovered_steps(None)]

    def block_work(  # type: ignore[override]
        self, runner: Runner, block: Block
    ) -> Generator[list[Step], None, ProtocolWork]:
        """Every player's choices on the reported questions; then the same choices on the unseen ones."""
        pruned = self.prune(block)
        yield [pruned]
        architecture = runner.results.architecture(pruned)
        rows, unseen = self.rows(runner), self.unseen_rows(runner)
        yield [*rows.unrecovered_steps(pruned), *unseen.unrecovered_steps(pruned)]
        rate, lora = self.budget.learning_rates[0], uniform_allocation(self.profile.adapters.lora_rank, architecture)
        player = _Player(runner, _with_accuracy(self.profile), self, block, pruned, architecture, rate)
        reported = {LORA: [player.recovery(lora)]}
        yield rows.report_steps(pruned, reported[LORA])

        choices: dict[str, Choices] = {}
        choices[AS_PAPER], recoveries = yield from player.search("measured")
        choices[SHUFFLED_SCORES], _ = yield from player.search("shuffled")
        choices[RANDOM] = yield from player.random(recoveries)
        choices[BEST_OF_SEEDS], scores = yield from player.best_seeds(lora, recoveries)
        for by_task in choices.values():
            yield [step for specs in by_task.values() for step in rows.report_steps(pruned, specs)]

        fresh = {LORA: self.lora_specs(lora, rate)}
        retrained = {name: by_task if name == BEST_OF_SEEDS else
                     {task: self.lora_specs(spec.allocation, rate) for task, (spec,) in by_task.items()}
                     for name, by_task in choices.items()}
        yield [step for specs in (fresh[LORA], *(specs for by_task in retrained.values() for specs in by_task.values()))
               for step in unseen.report_steps(pruned, specs)]
        ceiling = yield from self._ceiling(runner, pruned, architecture, fresh[LORA])
        return ProtocolWork(BlockWork(pruned, reported, choices), BlockWork(pruned, fresh, retrained),
                            BlockWork(pruned, ceiling), recoveries, scores)

    def _ceiling(
        self, runner: Runner, pruned: Step, architecture: Architecture, lora: list[RecoverySpec]
    ) -> Generator[list[Step], None, dict[str, list[RecoverySpec]]]:
        """LoRA, and the largest rank in every layer at its own rate, on the reported questions."""
        specs = {LORA: lora}
        trials = Trials(runner, self.profile, self.budget)
        for method in asked_methods(_LARGEST, self.profile, self.budget):
            rate = yield from trials.learning_rate(method, pruned, architecture)
            specs[method] = [METHODS[method].spec(self.profile, self.budget, architecture, rate, seed)
                             for seed in self.seeds]
        yield [step for several in specs.values() for step in self.rows(runner).report_steps(pruned, several)]
        return specs

    def collect(self, run: Run, outcomes: Sequence[Any]) -> ProtocolResult:  # type: ignore[override]
        """The three tables."""
        works = {str(block): outcome for block, outcome in zip(self.blocks, outcomes[1:], strict=True)}
        finished = {name: work for name, work in works.items() if isinstance(work, ProtocolWork)}

        def part(name: str) -> list[Any]:
            return [getattr(work, name, work) for work in works.values()]

        rows = self.rows(run.runner)
        return ProtocolResult(
            self.table_result(run, rows, part("reported"), _REPORTED, (self.seed,)),
            self.table_result(run, self.unseen_rows(run.runner), part("unseen"), _UNSEEN, self.seeds),
            self.table_result(run, rows, part("ceiling"), _CEILING, self.seeds),
            {name: work.recoveries for name, work in finished.items()},
            {name: work.seed_scores for name, work in finished.items()},
        )


class _Player:
    """Chooses recoveries of one block by the reported questions."""

    def __init__(
        self, runner: Runner, profile: Profile, table: PaperProtocol, block: Block, pruned: Step,
        architecture: Architecture, rate: float,
    ):  # fmt: skip
        self._trials = Trials(runner, profile, table.budget, "report")
        self._block, self._pruned, self._rate, self._tasks = block, pruned, rate, profile.tasks
        space = profile.solution_space(block, architecture)
        self._space: SolutionSpace = dataclasses.replace(
            space, candidates=tuple(CANDIDATES["the paper's"]), budget_params=None)

    def recovery(self, allocation: RankAllocation) -> RecoverySpec:
        """A recovery under the protocol's seed."""
        return self._trials.recovery(allocation, self._rate)

    def settings(self, labels: Labels) -> SearchSettings:
        """The paper's search with the budget's number of recoveries."""
        return dataclasses.replace(
            self._trials.settings(), predictor="paper", inputs="ranks", heads="mean", acquisition="greedy",
            proposals="uniform", selection="predicted", start="random", learning="continue", batch=1,
            threshold=THRESHOLD, threshold_unit="score", patience=1, labels=labels)

    def search(self, labels: Labels) -> Generator[list[Step], None, tuple[Choices, dict[str, int]]]:
        """A search a task: what each chose, and how many recoveries it measured."""
        choices, recoveries = {}, {}
        records = self._trials.records(self._block)
        for task in self._tasks:
            result, _ = yield from self._trials.search_in(
                self._space, self.settings(labels), self._pruned, self._rate, records, task=task)
            choices[task], recoveries[task] = [self.recovery(result.best)], len(measured_scores(result.rounds))
        return choices, recoveries

    def random(self, recoveries: Mapping[str, int]) -> Generator[list[Step], None, Choices]:
        """Of each task the best of as many random allocations."""
        settings = lasting(self.settings("measured"), max(recoveries.values()))
        result, _ = yield from self._trials.search_in(
            self._space, settings, self._pruned, self._rate, rival="random search")
        measured = list(measured_scores(result.rounds).items())  # in the order in which they were measured
        best = {task: measured[np.argmax([scores[task] for _, scores in measured[:count]])][0]
                for task, count in recoveries.items()}
        return {task: [self.recovery(allocation)] for task, allocation in best.items()}

    def best_seeds(
        self, lora: RankAllocation, recoveries: Mapping[str, int]
    ) -> Generator[list[Step], None, tuple[Choices, dict[str, list[float]]]]:
        """Of each task the best of as many training seeds of LoRA; and the accuracies under all of these."""
        first = self.recovery(lora)
        specs = [dataclasses.replace(first, seed=first.seed + number) for number in range(max(recoveries.values()))]
        trials = [self._trials.trial(self._pruned, spec) for spec in specs]
        yield trials
        scores = {task: [self._trials.scores(trial, task)[task] for trial in trials] for task in recoveries}
        return {task: [specs[np.argmax(scores[task][:count])]] for task, count in recoveries.items()}, scores

