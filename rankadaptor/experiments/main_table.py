"""The main tables: no recovery, LoRA, LoRA*, AdaLoRA and RankAdaptor on pruned models. The door for notebooks.

    table = main_table(profile="smollm2", blocks="llm-pruner:20", budget="quick")
    print(table.plan())      # what is there, what will run, at what cost
    result = table.run()     # runs what is missing, reads the rest
"""

import dataclasses
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rankadaptor.allocation import RankAllocation, validate_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput, StageFailed, did_you_mean
from rankadaptor.evaluation.spec import Split
from rankadaptor.experiments.block_table import BlockTable, BlockWork
from rankadaptor.experiments.methods import (
    BEST_MEASURED,
    LORA,
    METHODS,
    OWN,
    RANKADAPTOR,
    RANKADAPTOR_PER_TASK,
    SEARCHED,
    asked_methods,
)
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    parse_blocks,
    parse_ranks,
    report_seeds,
    text,
)
from rankadaptor.experiments.results import FinishedSearch
from rankadaptor.experiments.tables import TABLES
from rankadaptor.experiments.trials import Trials
from rankadaptor.models.base_model import base_model_folder, base_model_is_cached
from rankadaptor.models.gate import read_architecture
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import PRUNERS, Block
from rankadaptor.ranktable.meta_records import COMMITTED, best_measured, read_table
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.recovery.spec import RecoverySpec


def main_table(
    profile: str,
    blocks: Words = "",
    budget: str = "quick",
    seeds: Words = (),
    ledger: Path | str = DEFAULT_LEDGER,
    benchmarks: str = "",
    recovery_data: str = "",
    allocation: Words = "",
    table: str = "table2",
) -> "MainTable":
    """No recovery, LoRA and what a table compares with it, on some blocks of a profile.

    Args:
        profile: Name of a profile, or path of a YAML file.
        blocks: Such as "llm-pruner:20 shortened:50"; empty for all of the profile.
        budget: One of the profile's.
        seeds: Training seeds of reported recoveries; empty for the budget's.
        ledger: Folder of finished results.
        benchmarks: Folder of <task>/<split>.jsonl to use in place of the profile's source.
        recovery_data: File of instruction rows (.jsonl) to use in place of the profile's source.
        allocation: Ranks of one more row, one per layer of the unpruned model, such as "8 8 4 12 ..."; empty for none.
        table: One of `tables.TABLES`. table6 recovers nothing, and has perplexities beside the accuracies.

    Raises:
        BadInput: on anything unknown or missing, before anything runs; only whether an allocation fits a depth-pruned
            model is not known until it is pruned.
    """
    source = named_profile(profile)  # loads plugins, which may register tables
    source = with_data(source, text("benchmarks", benchmarks), text("recovery_data", recovery_data))
    budget, table = text("budget", budget, "quick"), text("table", table, "table2")
    if table not in TABLES:
        raise BadInput(f"unknown table {table!r}: use one of {', '.join(TABLES)}{did_you_mean(table, TABLES)}")
    contents = TABLES[table]
    if unknown := [method for method in contents.methods if method not in METHODS and method not in SEARCHED]:
        raise BadInput(f"{table} compares the unknown method {unknown[0]!r}: use some of {', '.join(METHODS)}")
    parsed = parse_blocks(blocks, source)
    ranks = parse_ranks(allocation)
    if ranks and not contents.methods:
        raise BadInput(f"allocation {allocation!r} was given for {table}, which recovers nothing: leave it out")
    # Where the layers are known before anything runs: depth pruning has yet to say which of them stay.
    narrows = any(PRUNERS[block.pruner].kind == "width" for block in parsed)
    if ranks and narrows and base_model_is_cached(source.base_model):
        validate_allocation(ranks, read_architecture(base_model_folder(source.base_model)))
    return MainTable(named_ledger(ledger), source, contents, parsed, budget, report_seeds(source, budget, seeds), ranks)


def with_data(profile: Profile, benchmarks: str, recovery_data: str) -> Profile:
    """A profile that reads other benchmarks (a folder) or other recovery rows (a file); empty to leave its own.

    Raises:
        BadInput: on benchmarks that are no folder, or rows that are no file; a pipe's content could be read only once.
    """
    if benchmarks:
        profile = dataclasses.replace(profile, benchmarks=Source("dir", benchmarks, None))
        if os.path.exists(benchmarks) and not Path(benchmarks).is_dir():
            raise BadInput(f"benchmarks {benchmarks!r} are no folder: name one that holds TASK/SPLIT.jsonl")
    if recovery_data:
        data = dataclasses.replace(
            profile.recovery_data, label=Path(recovery_data).name or recovery_data,
            source=Source("dir", recovery_data, None), rows_per_set=None,
        )
        if os.path.exists(recovery_data) and not Path(recovery_data).is_file():
            raise BadInput(f"recovery data {recovery_data!r} are no file: name a .jsonl of instruction rows")
        profile = dataclasses.replace(profile, recovery_data=data)
    return profile


@dataclass(frozen=True)
class MainTable(BlockTable):
    """See `main_table`."""

    allocation: RankAllocation = ()  # of one more row; none where empty
    search_split: Split = "search"  # whose items trials are scored on

    def block_work(self, runner: Runner, block: Block) -> Generator[list[Step], None, BlockWork]:
        """Prune, measure; recover with every method; search, and recover with what the searches found."""
        pruned = self.prune(block)
        yield [pruned]
        architecture = runner.results.architecture(pruned)
        rows = self.rows(runner)
        yield rows.unrecovered_steps(pruned)
        if not self.contents.methods:
            return BlockWork(pruned)
        trials = Trials(runner, self.profile, self.budget, self.search_split)
        rate = yield from trials.learning_rate(LORA, pruned, architecture)
        methods, failed = yield from self._fixed_methods(runner, trials, block, pruned, rate)
        for specs in methods.values():
            yield rows.final_steps(pruned, specs)
        searches: dict[str, list[FinishedSearch]] = {}
        by_task: dict[str, list[RecoverySpec]] = {}
        for method in (method for method in self.methods if method in SEARCHED):
            table = self._under(SEARCHED[method])
            try:
                searches[method] = yield from table.search_block(runner, block, pruned, architecture, rate)
            except StageFailed as error:
                failed[method] = str(error)
                continue
            methods[method] = table.searched_specs([search.best for search, _ in searches[method]], rate)
            yield rows.final_steps(pruned, methods[method])
            if method == RANKADAPTOR and self._has_row_per_task:
                best_by_task = [search.best_by_task for search, _ in searches[method]]
                by_task = {task: self.searched_specs([best[task] for best in best_by_task], rate)
                           for task in rows.tasks if all(task in best for best in best_by_task)}
                yield [step for specs in by_task.values() for step in rows.report_steps(pruned, specs)]
        whole = {RANKADAPTOR_PER_TASK: by_task} if set(by_task) == set(rows.tasks) else {}
        return BlockWork(pruned, methods, whole, searches, failed=failed)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have a row under the budget."""
        return asked_methods(self.contents.methods, self.profile, self.budget)

    def _under(self, scaling: Scaling | None) -> "MainTable":
        """This table with searches under another scaling than the profile's."""
        if scaling is None:
            return self
        adapters = dataclasses.replace(self.profile.adapters, scaling=scaling)
        return dataclasses.replace(self, profile=dataclasses.replace(self.profile, adapters=adapters))

    def search_block(
        self, runner: Runner, block: Block, pruned: Step, architecture: Architecture, rate: float
    ) -> Generator[list[Step], None, list[FinishedSearch]]:
        """The budget's independent searches on a block. There are no more of them than reported training seeds, since
        each of these retrains what one search found."""
        finished = []
        for number in range(min(self.budget.searches, len(self.seeds))):
            trials = Trials(runner, self.profile, self.budget, self.search_split, number)
            finished.append(FinishedSearch(*(yield from trials.search(block, pruned, architecture, rate))))
        return finished

    def searched_specs(self, allocations: Sequence[RankAllocation], rate: float) -> list[RecoverySpec]:
        """A recovery a training seed, of the allocations of independent searches in turn. With as many searches as
        seeds, an interval holds the noise of both; with fewer, that of searches in part; with one, none of it."""
        return [self.profile.lora_spec(self.budget, allocations[number % len(allocations)], rate, seed)
                for number, seed in enumerate(self.seeds)]

    def _fixed_methods(
        self, runner: Runner, trials: Trials, block: Block, pruned: Step, rate: float
    ) -> Generator[list[Step], None, tuple[dict[str, list[RecoverySpec]], dict[str, str]]]:
        """Recoveries of every method whose ranks are not searched, and of the user's allocation; and methods whose
        learning rate could not be chosen."""
        architecture = runner.results.architecture(pruned)
        methods: dict[str, list[RecoverySpec]] = {}
        failed: dict[str, str] = {}
        for method in self.methods:
            if method in SEARCHED:
                continue
            try:
                is_lora = METHODS[method].tuned_as == LORA
                tuned = rate if is_lora else (yield from trials.learning_rate(method, pruned, architecture))
            except StageFailed as error:
                failed[method] = str(error)
                continue
            methods[method] = [self.method_spec(method, runner, pruned, tuned, seed) for seed in self.seeds]
        if self.contents.best_measured:
            methods |= self._best_measured(block, rate)
        if self.allocation:
            # Which blocks of a depth-pruned model stay is a placeholder until it is pruned.
            is_known = runner.find(pruned) is not None
            ranks = validate_allocation(self.allocation, architecture) if is_known else self.allocation
            methods[OWN] = self.lora_specs(ranks, rate)
        return methods, failed

    def _best_measured(self, block: Block, rate: float) -> dict[str, list[RecoverySpec]]:
        """The best allocations that the profile's rank table holds of a block, by scaling; none where it holds none."""
        records, search = {}, self.profile.search
        if search.records is not None:
            table = read_table(COMMITTED if search.records == "rank_table" else search.records)
            for scaling in dict.fromkeys((self.profile.adapters.scaling, *self.budget.scalings)):
                best = best_measured(table, str(block), scaling, search.signal)
                if best is not None and scaling in BEST_MEASURED:
                    records[BEST_MEASURED[scaling]] = self._under(scaling).lora_specs(best, rate)
        return records

    @property
    def _has_row_per_task(self) -> bool:
        """Whether an allocation is recovered for each task; nobody reads the texts of seven models."""
        return self.budget.per_task and not self.contents.generates
