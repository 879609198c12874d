"""Tables whose rows are methods on pruned models: what all of them share."""

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankadaptor.allocation import RankAllocation
from rankadaptor.errors import StageFailed
from rankadaptor.experiments.methods import METHODS
from rankadaptor.experiments.results import BlockResult, FinishedSearch, TableResult
from rankadaptor.experiments.skeleton import ProfileExperiment, Run
from rankadaptor.experiments.table_rows import TableRows
from rankadaptor.experiments.tables import Contents
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Budget
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.spec import RecoverySpec


@dataclass(frozen=True)
class BlockWork:
    """The finished steps of a block, from which the rows of every method are made."""

    pruned: Step
    methods: dict[str, list[RecoverySpec]] = field(default_factory=dict)  # -> a recovery a training seed
    # Methods whose rows have a recovery a task -> task -> a recovery a training seed.
    by_task: dict[str, dict[str, list[RecoverySpec]]] = field(default_factory=dict)
    searches: dict[str, list[FinishedSearch]] = field(default_factory=dict)  # method -> its independent searches
    rivals: dict[str, tuple[int, str]] = field(default_factory=dict)  # their searches: recoveries, key
    failed: dict[str, str] = field(default_factory=dict)  # methods that were not reached: why


@dataclass(frozen=True)
class BlockTable(ProfileExperiment):
    """A table over some blocks of a profile."""

    contents: Contents
    blocks: tuple[Block, ...]
    budget_name: str
    seeds: tuple[int, ...]  # training seeds of reported recoveries

    @property
    def budget(self) -> Budget:
        """The budget of the table's searches and trainings."""
        return self.profile.budget(self.budget_name)

    @property
    def title(self) -> str:
        """The table's title."""
        return self.contents.title

    def details(self) -> tuple[str, ...]:
        """Blocks, budget and seeds."""
        return (f"blocks {', '.join(map(str, self.blocks))} · budget {self.budget_name} ·"
                f" training seeds {', '.join(map(str, self.seeds))}",)

    @abstractmethod
    def block_work(self, runner: Runner, block: Block) -> Generator[list[Step], None, BlockWork]:
        """The work on one block, in batches of steps."""

    def pieces(self, runner: Runner) -> list[Batches]:
        """The unpruned model, and every block."""
        return [self._unpruned(runner), *(self.block_work(runner, block) for block in self.blocks)]

    def _unpruned(self, runner: Runner) -> Batches:
        yield self.rows(runner).unrecovered_steps(None)

    def rows(self, runner: Runner) -> TableRows:
        """Steps and rows of this table."""
        return TableRows(runner, self.profile, self.budget, self.seeds, self.contents)

    def method_spec(self, method: str, runner: Runner, pruned: Step, rate: float, seed: int) -> RecoverySpec:
        """One recovery of a pruned model by a registered method."""
        architecture = runner.results.architecture(pruned)
        return METHODS[method].spec(self.profile, self.budget, architecture, rate, seed)

    def lora_specs(self, allocation: RankAllocation, rate: float) -> list[RecoverySpec]:
        """LoRA with an allocation, a training seed each."""
        return [self.profile.lora_spec(self.budget, allocation, rate, seed) for seed in self.seeds]

    def collect(self, run: Run, outcomes: Sequence[Any]) -> TableResult:
        """Every row; of blocks without a pruned model, or a score of it, why there is none."""
        return self.table_result(run, self.rows(run.runner), outcomes[1:], self.contents, self.seeds)

    def table_result(
        self, run: Run, rows: TableRows, outcomes: Sequence[Any], contents: Contents, seeds: tuple[int, ...]
    ) -> TableResult:
        """A table of what the blocks' pieces returned: a `BlockWork`, or the StageFailed that ended one."""
        blocks, unfinished = {}, {}
        for block, outcome in zip(self.blocks, outcomes, strict=True):
            try:
                if isinstance(outcome, StageFailed):
                    raise outcome
                blocks[str(block)] = _block_result(run.runner, rows, block, outcome)
            except StageFailed as error:
                unfinished[str(block)] = str(error)
        return TableResult(
            contents, self.profile, self.budget_name, self.budget, seeds,
            run.runner.results.architecture(None), rows.dense(), blocks, run.computed, tuple(run.keys), unfinished,
            rows.split,
        )


def _block_result(runner: Runner, rows: TableRows, block: Block, work: BlockWork) -> BlockResult:
    """The rows of a block whose every step is in the ledger."""
    finished, failed = [rows.unrecovered(block, work.pruned)], dict(work.failed)
    for method, specs in work.methods.items():
        try:
            finished.append(rows.recovered(block, method, work.pruned, specs))
        except StageFailed as error:
            failed[method] = str(error)
    for method, by_task in work.by_task.items():
        try:
            finished.append(rows.per_task(block, method, work.pruned, by_task))
        except StageFailed as error:
            failed[method] = str(error)
    architecture = runner.results.architecture(work.pruned)
    return BlockResult(architecture, tuple(finished), work.searches, work.rivals, failed)
