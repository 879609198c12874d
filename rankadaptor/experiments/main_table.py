"""Which results a table needs, in which order, and what is still missing. The door for notebooks.

    table = main_table(profile="smollm2", blocks="llm-pruner:20", budget="quick")
    print(table.plan())      # what is there, what will run, at what cost
    rows = table.run()       # runs what is missing, reads the rest

Killed anywhere, the next run goes on where the ledger ends.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankadaptor.allocation import (
    RankAllocation,
    SolutionSpace,
    quarters_allocation,
    uniform_allocation,
    validate_allocation,
)
from rankadaptor.architecture import Architecture
from rankadaptor.data.sources import Source, is_cached
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput, NotInLedger, RecoveryDiverged, StageFailed
from rankadaptor.evaluation.items import METRIC
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.methods import (
    ADALORA,
    LORA,
    LORA_STAR,
    MIRROR,
    OWN,
    RANKADAPTOR,
    RANKADAPTOR_PER_TASK,
    SHUFFLED,
)
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, Words, parse_blocks, parse_ranks, report_seeds
from rankadaptor.experiments.plan import Plan, StageKind, stage_kind
from rankadaptor.experiments.preflight import require
from rankadaptor.experiments.progress import ProgressBar
from rankadaptor.experiments.results import BlockResult, TableResult
from rankadaptor.experiments.table_rows import Rows
from rankadaptor.experiments.tables import TABLES, Contents
from rankadaptor.machine import computing_with
from rankadaptor.models.base_model import base_model_is_cached
from rankadaptor.pipeline.execution import Progress, Work, chosen_execution, follow
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.traced_search import SearchSpec, described, traced_search
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import COMMITTED, digest, read_table, records_beside
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.loop import Record, Scores, SearchResult, SearchSettings, drive, mean_score

_SHUFFLE_SEED = 5
_LOSS_OF_NOTHING = 20.0  # nats a token: above that of any guess


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
        table: One of `results.TABLES`. table6 recovers nothing, and has perplexities beside the accuracies.

    Raises:
        BadInput: on anything unknown or missing, before anything runs; only whether an allocation fits a depth-pruned
            model is not known until it is pruned.
    """
    if table not in TABLES:
        raise BadInput(f"unknown table {table!r}: use one of {', '.join(TABLES)}")
    contents, chosen = TABLES[table], load_profile(profile)
    if benchmarks:
        chosen = dataclasses.replace(chosen, benchmarks=Source("dir", benchmarks, None))
    if recovery_data:
        data = dataclasses.replace(
            chosen.recovery_data,
            label=Path(recovery_data).name,
            source=Source("dir", recovery_data, None),
            rows_per_set=None,
        )
        chosen = dataclasses.replace(chosen, recovery_data=data)
    parsed = parse_blocks(blocks, chosen)
    reported = report_seeds(chosen, budget, seeds)
    own = parse_ranks(allocation)
    if own and not contents.methods:
        raise BadInput(f"allocation {allocation!r} was given for {table}, which recovers nothing: leave it out")
    return MainTable(contents, chosen, parsed, budget, reported, Ledger(ledger), own)


@dataclass(frozen=True)
class BlockWork:
    """What was done on a block, in steps that the ledger holds: a row is made of them for every method."""

    pruned: Step
    methods: dict[str, list[RecoverySpec]] = field(default_factory=dict)  # -> a recovery a training seed
    by_task: dict[str, list[RecoverySpec]] = field(default_factory=dict)  # of the row with an allocation a task
    search: SearchResult | None = None
    search_key: str = ""
    rivals: dict[str, tuple[int, str]] = field(default_factory=dict)  # their searches: recoveries, key
    failed: dict[str, str] = field(default_factory=dict)  # methods that were not come to: why


class MainTable:
    """See `main_table`.

    The work of a table is a generator of batches of steps, each batch computable once the ones before it are. `run`
    computes every batch; `plan` follows it as far as the ledger goes. Rows are made last, of what it returns.
    """

    def __init__(
        self,
        contents: Contents,
        profile: Profile,
        blocks: tuple[Block, ...],
        budget_name: str,
        seeds: tuple[int, ...],
        ledger: Ledger,
        allocation: RankAllocation = (),
    ):
        self.contents, self.allocation = contents, allocation
        self.profile, self.blocks, self.budget_name, self.seeds = profile, blocks, budget_name, seeds
        self.budget = profile.budget(budget_name)
        self.ledger = ledger
        self._settings = SearchSettings(
            **dataclasses.asdict(self.budget.search),
            **dataclasses.asdict(profile.search.method),
            seed=profile.search.training_seed,
        )
        self._bar = ProgressBar(profile.cost)
        self._open(self._bar.on_progress)
        self._used: dict[str, None] = {}  # keys of the stages that a run asked for
        # Before anything runs, where the layers are known: depth pruning has yet to say which of them stay.
        if allocation and base_model_is_cached(profile.base_model) and any(b.pruner == "llm-pruner" for b in blocks):
            validate_allocation(allocation, self._runner.results.architecture(None))

    def _open(self, progress: Progress) -> None:
        self._runner = Runner(self.profile.inputs(), self.ledger, progress)
        self._rows = Rows(self._runner, self.profile, self.budget, self.seeds, self.contents)

    def plan(self) -> Plan:
        """What this table needs, what of it the ledger lacks, and what that will cost. Computes nothing."""
        dense = self._rows.unrecovered_steps(None)
        needed = Counter(map(stage_kind, dense))
        missing = Counter(stage_kind(step) for step in dense if self._runner.find(step) is None)
        for block in self.blocks:
            most = self._most_stages()
            needed += most
            missing += self._missing_of(block, most)
        sources = (self.profile.benchmarks, self.profile.recovery_data.source)
        cached = base_model_is_cached(self.profile.base_model) and all(map(is_cached, sources))
        return Plan(
            self.contents.title, self.profile, self.budget_name, self.blocks, self.seeds, needed, missing,
            downloads=not cached,
        )

    def is_complete(self) -> bool:
        """Whether the ledger holds every stage."""
        return not self.plan().missing

    def _missing_of(self, block: Block, most: "Counter[StageKind]") -> "Counter[StageKind]":
        """`most`, less what the ledger holds; nothing if it holds all."""
        counted: set[str] = set()
        missing = Counter(most)
        try:
            with self._runner.reading_only():
                for batch in self._block(block):
                    links = {self._runner.key(link): link for step in batch for link in step.chain()}
                    present = {key for key, link in links.items() if self._runner.is_settled(link)} - counted
                    missing -= Counter(stage_kind(links[key]) for key in present)
                    counted |= present
                    if not links.keys() <= counted:
                        return missing
        except NotInLedger:
            return missing
        except StageFailed:
            return Counter()  # what comes after it is not computed any more
        return Counter()

    def run(self) -> TableResult:
        """Every row, computed where the ledger lacks it. Prints progress with the time that remains."""
        self._runner.computed.clear()
        self._used.clear()
        plan = self.plan()
        require(plan, self.ledger.folder)
        with self._bar.over(plan.missing_seconds()), computing_with(self.profile.threads):
            if plan.missing:
                run_ahead([self], self._finished)
            self._run_all(self._rows.unrecovered_steps(None))
            blocks, unfinished = self._driven()
        self._runner.release()
        return TableResult(
            self.contents,
            self.profile,
            self.budget_name,
            self.budget,
            self.seeds,
            self._runner.results.architecture(None),
            self._rows.dense(),
            blocks,
            tuple(self._runner.computed),
            tuple(self._used),
            unfinished,
        )

    def _driven(self) -> tuple[dict[str, BlockResult], dict[str, str]]:
        """Every block computed; of those without a pruned model, or a score of it, what became of them."""
        blocks, unfinished = {}, {}
        for block in self.blocks:
            try:
                blocks[str(block)] = self._result(block, drive(self._block(block), self._run_all))
            except StageFailed as error:
                unfinished[str(block)] = str(error)
        return blocks, unfinished

    def on(self, ledger: Ledger) -> "MainTable":
        """The same table on another ledger; nothing of it runs, so that it can be sent to another process."""
        return type(self)(self.contents, self.profile, self.blocks, self.budget_name, self.seeds, ledger,
                          self.allocation)

    def threads(self) -> int | None:
        """Of the process that follows the work."""
        return self.profile.threads

    def works(self) -> list[tuple[Runner, Work]]:
        """What is to be computed, in pieces that do not depend on each other."""
        return [(self._runner, work) for work in (self._unpruned(), *map(self._block, self.blocks))]

    def _unpruned(self) -> Work:
        yield self._rows.unrecovered_steps(None)

    def _finished(self, step: Step, share: float) -> None:
        """Told of the steps of other processes."""
        if share == 1:
            self._runner.computed.append((step.stage, self._runner.key(step)))
        self._bar.on_progress(step, share)

    def _run_all(self, steps: Sequence[Step]) -> None:
        """What fails is told by the row, or the search, that would have been made of it.

        What another process is at comes last, so that several share the work.
        """
        waiting = list(steps)
        while waiting:
            step = next((one for one in waiting if not self._runner.is_elsewhere(one)), waiting[0])
            waiting.remove(step)
            with contextlib.suppress(StageFailed):
                self._runner.run(step)
        for step in steps:
            self._used |= dict.fromkeys(map(self._runner.key, step.chain()))

    # -- the work of one block ----------------------------------------------------------------------------------------

    def _block(self, block: Block) -> Generator[list[Step], None, "BlockWork"]:
        pruned = Step("prune", self.profile.prune_spec(block))
        yield [pruned]
        architecture = self._runner.results.architecture(pruned)
        yield self._rows.unrecovered_steps(pruned)
        if not self.contents.methods:
            return BlockWork(pruned)
        rate = yield from self._learning_rate(LORA, pruned, architecture)
        methods, failed = {}, {}
        for method in self.contents.methods:
            if method == RANKADAPTOR:
                continue
            try:
                its = (yield from self._learning_rate(ADALORA, pruned, architecture)) if method == ADALORA else rate
            except StageFailed as error:
                failed[method] = str(error)
                continue
            methods[method] = [self._baseline(method, architecture, its, seed) for seed in self.seeds]
        if self.allocation:
            own = validate_allocation(self.allocation, architecture)
            methods[OWN] = [self._lora(own, rate, seed) for seed in self.seeds]
        for specs in methods.values():
            yield self._rows.final_steps(pruned, specs)
        if RANKADAPTOR not in self.contents.methods:
            return BlockWork(pruned, methods, failed=failed)
        try:
            found, key = yield from self._search(block, pruned, architecture, rate)
        except StageFailed as error:
            return BlockWork(pruned, methods, failed=failed | {RANKADAPTOR: str(error)})
        methods[RANKADAPTOR] = [self._lora(found.best, rate, seed) for seed in self.seeds]
        yield self._rows.final_steps(pruned, methods[RANKADAPTOR])
        by_task = {}
        if self._per_task and found.best_by_task.keys() == set(TASKS):
            by_task = {
                task: [self._lora(allocation, rate, seed) for seed in self.seeds]
                for task, allocation in found.best_by_task.items()
            }
            yield [step for specs in by_task.values() for step in self._rows.report_steps(pruned, specs)]
        return BlockWork(pruned, methods, by_task, found, key, failed=failed)

    def _result(self, block: Block, work: "BlockWork") -> BlockResult:
        """The rows of a block whose every step is in the ledger."""
        rows, failed = [self._rows.unrecovered(block, work.pruned)], dict(work.failed)
        for method, specs in work.methods.items():
            try:
                rows.append(self._rows.recovered(block, method, work.pruned, specs))
            except StageFailed as error:
                failed[method] = str(error)
        if work.by_task:
            try:
                rows.append(self._rows.per_task(block, work.pruned, work.by_task))
            except StageFailed as error:
                failed[RANKADAPTOR_PER_TASK] = str(error)
        return BlockResult(self._runner.results.architecture(work.pruned), tuple(rows), work.search, work.search_key,
                           work.rivals, failed)

    @property
    def _per_task(self) -> bool:
        """Whether an allocation is recovered for each task; nobody reads the texts of seven models."""
        return self.budget.per_task and not self.contents.generates

    def _most_stages(self) -> "Counter[StageKind]":
        """Stages of one block at most: every search round done, no allocation chosen twice."""
        unrecovered = Counter(map(stage_kind, self._rows.unrecovered_steps(None)))
        if not self.contents.methods:
            return unrecovered + Counter([StageKind("prune", None)])
        methods, search = self.contents.methods, self.budget.search
        trials = search.initial + search.rounds * search.batch if RANKADAPTOR in methods else 0
        by_task = min(len(TASKS), trials) if self._per_task else 0
        finals = len(self.seeds) * (len(methods) + bool(self.allocation) + by_task)
        grids = [self.budget.learning_rates, *([self.budget.adalora_learning_rates] if ADALORA in methods else [])]
        trials += sum(len(grid) for grid in grids if len(grid) > 1)
        return self._stages(trials, finals) + Counter([StageKind("prune", None)]) + unrecovered

    def _stages(self, trials: int, finals: int) -> "Counter[StageKind]":
        """So many trials of a search, and recoveries that are reported."""
        rows = self.budget.training.steps * self.budget.training.batch_rows
        trial = stage_kind(self._trial(Step("prune", self.profile.prune_spec(self.blocks[0])), self._lora((), 0.1, 0)))
        report = self._rows.report_step(None)
        return (
            Counter({StageKind("recover", rows): trials + finals})
            + Counter({trial: trials})
            + Counter({stage_kind(step): finals for step in [report, *self._rows.continued([report])]})
        )

    def _learning_rate(
        self, method: str, pruned: Step, architecture: Architecture
    ) -> Generator[list[Step], None, float]:
        """The best rate of the method's grid by the signal on the search split. LoRA's serves every LoRA."""
        grid = self.budget.adalora_learning_rates if method == ADALORA else self.budget.learning_rates
        if len(grid) == 1:
            return grid[0]
        seed = self.profile.search.training_seed
        trials = [self._trial(pruned, self._baseline(method, architecture, rate, seed)) for rate in grid]
        yield trials
        return grid[int(np.argmax([mean_score(self._scores(trial)) for trial in trials]))]

    def _search(
        self,
        block: Block,
        pruned: Step,
        architecture: Architecture,
        rate: float,
        rival: str = "",
        recoveries: int = 0,
    ) -> Generator[list[Step], None, tuple[SearchResult, str]]:
        """The search on one block.

        Args:
            rival: One of `rivals.SEARCHES` in place of the performance model, for ...
            recoveries: ... as many of them as RankAdaptor took.
        """
        seed, settings, signal = self.profile.search.training_seed, self._settings, self.profile.search.signal
        if rival:
            rounds = -(-max(0, recoveries - settings.initial) // settings.batch)
            settings = dataclasses.replace(settings, rounds=rounds)
        space = self._space(block, architecture)
        records = () if rival else self._records(block)
        measured = self.profile.evaluation.perplexity if signal == "held_out_loss" else self._search_evaluation()
        spec = SearchSpec(
            described(space), settings, self._lora((), rate, seed), measured, signal, digest(records), rival
        )
        return (yield from traced_search(
            self._runner, space, spec, lambda allocation: self._trial(pruned, self._lora(allocation, rate, seed)),
            self._scores, records,
        ))

    def _space(self, block: Block, architecture: Architecture) -> SolutionSpace:
        return self.profile.solution_space(block, architecture)

    def _trial(self, pruned: Step, recovery: RecoverySpec) -> Step:
        """A real recovery, scored on the search split, or by the loss of held-out text."""
        recovered = Step("recover", recovery, pruned)
        if self.profile.search.signal == "held_out_loss":
            return Step("perplexity", self.profile.evaluation.perplexity, recovered)
        return Step("evaluate", self._search_evaluation(), recovered)

    def _scores(self, trial: Step) -> Scores:
        """By task, larger is better; of a trial that diverged below every real score, and finite.

        Raises:
            StageFailed: if it failed otherwise: another machine may score it, and the search goes on there.
        """
        signal = self.profile.search.signal
        try:
            if signal == "held_out_loss":
                return {"text": -float(np.log(self._runner.results.perplexity(trial)))}
            metrics = self._runner.results.metrics(trial)
        except RecoveryDiverged:
            return {"text": -_LOSS_OF_NOTHING} if signal == "held_out_loss" else dict.fromkeys(TASKS, 0.0)
        return {task: metrics[task][METRIC[task] if signal == "accuracy" else signal] for task in TASKS}

    def _records(self, block: Block) -> tuple[Record, ...]:
        """What the search on a block learns from offline: never of that block."""
        source = self.profile.search.records
        if source is None:
            return ()
        table = read_table(COMMITTED if source == "rank_table" else source)
        found = records_beside(table, str(block), self.profile.adapters.scaling, self.profile.search.signal)
        layers = self._runner.results.architecture(None).original_layer_count
        if wrong := [one.label for one in found if len(one.allocations[0]) != layers]:
            raise BadInput(f"records {source!r} of {wrong[0]} are of another model, not of {layers} layers: set"
                           " search.records to null, or to a table of this model")
        return found

    # -- specs --------------------------------------------------------------------------------------------------------

    def _lora(self, allocation: RankAllocation, rate: float, seed: int) -> RecoverySpec:
        return self.profile.lora_spec(self.budget, allocation, rate, seed)

    def _baseline(self, method: str, architecture: Architecture, rate: float, seed: int) -> RecoverySpec:
        adapters = self.profile.adapters
        if method in (LORA_STAR, MIRROR, *SHUFFLED):
            return self._lora(self._quarters(method, architecture), rate, seed)
        uniform = self._lora(uniform_allocation(adapters.lora_rank, architecture), rate, seed)
        if method == ADALORA:
            # AdaLoRA knows one scaling, alpha over its initial rank, whatever the profile says of LoRA's.
            return dataclasses.replace(
                uniform, method="adalora", scaling="fixed_alpha", adalora_init_rank=adapters.adalora_init_rank
            )
        return uniform

    def _quarters(self, method: str, architecture: Architecture) -> RankAllocation:
        """LoRA*, its mirror image, or the same ranks in another order of layers."""
        rising = self.profile.adapters.lora_star_ranks
        if method == MIRROR:
            return quarters_allocation(architecture, rising[::-1])
        allocation = quarters_allocation(architecture, rising)
        if method in SHUFFLED:
            present = [rank for rank in allocation if rank]
            order = np.random.default_rng([_SHUFFLE_SEED, SHUFFLED.index(method)]).permutation(len(present))
            drawn = iter(present[place] for place in order)
            return tuple(next(drawn) if rank else 0 for rank in allocation)
        return allocation

    def _search_evaluation(self) -> EvaluationSpec:
        return self.profile.evaluation_spec(self.budget, "search")


def runs_ahead(profile: Profile) -> bool:
    """Whether tables of a profile are computed by processes of their own."""
    return chosen_execution(profile.workers) != ("local", 1)


def run_ahead(tables: Sequence[MainTable], on_progress: Progress) -> None:
    """Compute what the ledger lacks of several tables of one ledger, in processes of their own where `execution.chosen`
    says so; what they leave is read afterwards.

    Raises:
        BadInput: as `execution.chosen`, or as soon as a process ends with an error; what was finished is kept.
    """
    if not tables:
        return
    executor, workers = chosen_execution(tables[0].profile.workers)
    if executor == "ray":
        from rankadaptor.pipeline.ray_pool import conduct

        ledger = Ledger(tables[0].ledger.folder.absolute())
        conduct([table.on(ledger) for table in tables], workers, on_progress)
    elif workers > 1:
        with LocalPool(tables[0].ledger, workers, tables[0].profile.threads, on_progress) as pool:
            follow([work for table in tables for work in table.works()], pool, workers)
