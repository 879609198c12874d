"""Profiles: everything a table needs, in one validated YAML file. No field has an implicit default.

`load_profile("smollm2")` reads the file of that name beside this one; a path to a YAML file of one's own works as well.
"""

import dataclasses
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.data.instruction_rows import RecoveryData
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationEngine, EvaluationSpec, GenerationSpec, PerplexitySpec, Split
from rankadaptor.models.base_model import BaseModel
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.plugins import load_plugins
from rankadaptor.pruning.spec import Block, BlockCriterion, PruneSpec, UnitCriterion
from rankadaptor.recovery.spec import LengthGrouping, Recipe, RecoverySpec, Scaling

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Calibration:
    samples: int  # N in Eq. 2
    tokens: int  # length of each sample
    seed: int


@dataclass(frozen=True)
class WidthPruning:
    """LLM-Pruner. The range is 0-based and end-exclusive."""

    importance: UnitCriterion
    first_layer: int
    end_layer: int
    calibration: Calibration
    ratios: dict[int, float]  # rate in percent -> LLM-Pruner's own ratio on the range
    match_decoder_share: bool  # solve the MLP width so that the rate of decoder parameters is met


@dataclass(frozen=True)
class DepthPruning:
    """Shortened LLaMA, Taylor+. Blocks outside the range are protected."""

    importance: BlockCriterion
    first_layer: int
    end_layer: int
    calibration: Calibration
    blocks: dict[int, int]  # rate in percent -> blocks removed


@dataclass(frozen=True)
class Adapters:
    lora_rank: int  # LoRA's rank, and the rank of layers that were not pruned
    lora_star_ranks: list[int]  # by quarters of depth, bottom to top
    adalora_init_rank: int
    alpha: int
    scaling: Scaling

    def __post_init__(self) -> None:
        ranks = [self.lora_rank, self.adalora_init_rank, self.alpha, *self.lora_star_ranks]
        if not self.lora_star_ranks or min(ranks) < 1 or self.adalora_init_rank <= self.lora_rank:
            raise BadInput(f"adapters have ranks {self.lora_rank}, {self.lora_star_ranks}, {self.adalora_init_rank} and"
                           f" alpha {self.alpha}: give numbers from 1, and AdaLoRA a start above lora_rank")


@dataclass(frozen=True)
class SearchMethod:
    """How a search predicts and proposes: fields of `search.SearchSettings`, which refuses what it does not know."""

    predictor: str
    inputs: Literal["ranks", "logarithms", "logarithms and squares"]
    heads: Literal["mean", "tasks"]
    acquisition: Literal["greedy", "upper confidence", "thompson"]
    proposals: Literal["uniform", "near"]
    selection: Literal["measured", "predicted"]


@dataclass(frozen=True)
class SearchSpace:
    candidates: list[int]
    budget_tolerance: float  # share over LoRA's trainable parameters that an allocation may cost
    signal: Literal["gold_probability", "accuracy", "held_out_loss"]  # what a recovery is scored by on the search split
    training_seed: int  # of every recovery made by a search; reports use other seeds
    records: str | None  # offline meta-learning starts from "rank_table" (the committed one), a path, or nothing
    method: SearchMethod

    def __post_init__(self) -> None:
        if not self.candidates or min(self.candidates) < 1 or self.budget_tolerance < 0:
            raise BadInput(f"search has candidates {self.candidates} and tolerance {self.budget_tolerance}:"
                           " give ranks of at least 1 and a tolerance of at least 0")


@dataclass(frozen=True)
class SearchBudget:
    initial: int  # recoveries before the first prediction
    rounds: int  # online rounds at most
    batch: int  # recoveries a round
    candidates_per_round: int  # allocations drawn and predicted a round
    threshold: float  # stop when |Q - P| stays under this share of the spread of all P so far ...
    patience: int  # ... for so many rounds

    def __post_init__(self) -> None:
        for name in ("initial", "batch", "candidates_per_round", "patience"):
            if getattr(self, name) < 1:
                raise BadInput(f"search.{name} is {getattr(self, name)}: give at least 1")
        if self.rounds < 0:
            raise BadInput(f"search.rounds is {self.rounds}: give at least 0")


@dataclass(frozen=True)
class TrainingBudget:
    steps: int
    batch_rows: int
    micro_batch_rows: int
    warmup_steps: int
    max_length_tokens: int
    lora_dropout: float
    weight_decay: float
    clip_norm: float
    length_grouping: LengthGrouping

    def recipe(self, learning_rate: float) -> Recipe:
        return Recipe(learning_rate=learning_rate, **dataclasses.asdict(self))


@dataclass(frozen=True)
class Budget:
    training_seeds: list[int]
    decided: bool  # false: every verdict prints "undecided"
    training: TrainingBudget
    learning_rates: list[float]  # one small grid for every LoRA; more than one is chosen on the search split
    adalora_learning_rates: list[float]  # AdaLoRA's own: its update is a product of three small factors
    search_items: int  # a task
    report_items: int | None  # a task; null for all
    search: SearchBudget
    per_task: bool  # also one allocation a task, each retrained

    def __post_init__(self) -> None:
        for name in ("training_seeds", "learning_rates", "adalora_learning_rates"):
            if not getattr(self, name):
                raise BadInput(f"{name} must not be empty: give at least one")
        for rate in (*self.learning_rates, *self.adalora_learning_rates):
            self.training.recipe(rate)  # refuses what no recovery could run
        if self.training.steps < 4:
            raise BadInput(f"steps is {self.training.steps}: AdaLoRA needs at least 4 to reallocate ranks")
        if self.search_items < 1 or (self.report_items is not None and self.report_items < 1):
            raise BadInput(f"search_items is {self.search_items} and report_items {self.report_items}: give at least 1")


@dataclass(frozen=True)
class Evaluation:
    engine: EvaluationEngine  # shared_context, or lm_eval for lm-eval's own backend
    batch_size: int  # of lm-eval's backend: choices at a time
    item_seed: int
    search_pool: int  # the search split draws from so many rows a task; recovery and calibration avoid all of them
    perplexity: PerplexitySpec
    generation: GenerationSpec


@dataclass(frozen=True)
class Pruning:
    llm_pruner: WidthPruning
    shortened: DepthPruning


@dataclass(frozen=True)
class Profile:
    name: str
    description: str
    workers: int  # processes that compute blocks of a table; 1 for models that keep all cores busy
    threads: int | None  # of a process on a CPU, which the last bits of sums depend on; None for a share of the cores
    stage_limit_s: float | None  # of wall time: what takes longer is stopped, and has timed out; null for no limit
    base_model: BaseModel
    benchmarks: Source
    recovery_data: RecoveryData
    pruning: Pruning
    adapters: Adapters
    search: SearchSpace
    evaluation: Evaluation
    cost: Cost
    budgets: dict[str, Budget]

    def __post_init__(self) -> None:
        if self.stage_limit_s is not None and not self.stage_limit_s > 0:
            raise BadInput(f"stage_limit_s is {self.stage_limit_s}: give seconds above 0, or null for no limit")

    def inputs(self) -> Inputs:
        """What steps of this profile are computed from."""
        return Inputs(
            self.base_model, self.benchmarks, self.recovery_data, self.evaluation.search_pool,
            self.evaluation.item_seed, self.threads, self.stage_limit_s, self.cost.accelerator_gigabytes is not None,
        )

    def budget(self, name: str) -> Budget:
        if name not in self.budgets:
            raise BadInput(f"unknown budget {name!r} in profile {self.name}: use one of {', '.join(self.budgets)}")
        return self.budgets[name]

    def blocks(self) -> list[Block]:
        """Every block of the profile, in the order of the paper's tables."""
        return [Block("llm-pruner", rate) for rate in self.pruning.llm_pruner.ratios] + [
            Block("shortened", rate) for rate in self.pruning.shortened.blocks
        ]

    def prune_spec(self, block: Block) -> PruneSpec:
        if block not in self.blocks():
            known = ", ".join(map(str, self.blocks()))
            raise BadInput(f"unknown block '{block}' in profile {self.name}: use some of {known}")
        width, depth = self.pruning.llm_pruner, self.pruning.shortened
        chosen = width if block.pruner == "llm-pruner" else depth
        rate = block.rate_percent
        share = rate / 100 if width.match_decoder_share else None
        return PruneSpec(
            method=block.pruner,
            rate_percent=rate,
            importance=chosen.importance,
            first_layer=chosen.first_layer,
            end_layer=chosen.end_layer,
            ratio=width.ratios[rate] if block.pruner == "llm-pruner" else None,
            decoder_share=share if block.pruner == "llm-pruner" else None,
            blocks_removed=depth.blocks[rate] if block.pruner == "shortened" else None,
            calibration_samples=chosen.calibration.samples,
            calibration_tokens=chosen.calibration.tokens,
            seed=chosen.calibration.seed,
        )

    def solution_space(self, block: Block, pruned: Architecture) -> SolutionSpace:
        """S of one pruned model: layers in the pruner's range that are still there are free."""
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
        """LoRA with an allocation; the profile's scaling unless another is given."""
        recipe = budget.training.recipe(learning_rate)
        return RecoverySpec("lora", allocation, scaling or self.adapters.scaling, self.adapters.alpha, recipe, seed)

    def evaluation_spec(self, budget: Budget, split: Split) -> EvaluationSpec:
        """All tasks on as many items of a split as the budget says; tuning items count as reported ones do."""
        items = budget.search_items if split == "search" else budget.report_items
        return EvaluationSpec(TASKS, split, items, self.evaluation.item_seed, self.evaluation.batch_size,
                              engine=self.evaluation.engine)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Read a profile by name, or by the path of a YAML file.

    Where its base model is one of the hub, `RANKADAPTOR_MODEL` may name a folder, or another commit, to use instead.

    Raises:
        BadInput: on an unknown name, a missing or unknown field, or a value of the wrong type; the message names it.
    """
    load_plugins()  # what a profile names may be registered by them
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise BadInput(f"unknown profile {name!r}: use one of {', '.join(names())}, or the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is not YAML ({' '.join(str(error).split())}): mend it") from None
    return _with_given_model(_read(Profile, content, path.stem))


def _with_given_model(profile: Profile) -> Profile:
    given, base = os.environ.get("RANKADAPTOR_MODEL") or "", profile.base_model
    if not given or base.source.kind != "hub":
        return profile
    source = Source("dir" if Path(given).is_dir() else "hub", given, None)
    return dataclasses.replace(profile, base_model=dataclasses.replace(base, source=source))


def _read(kind: Any, value: Any, where: str) -> Any:
    """Build a value of a type hint from YAML, strictly."""
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise BadInput(f"{where} is {value!r}: use one of {', '.join(map(str, arguments))}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise BadInput(f"{where} is {value!r}: give a list")
        return origin(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise BadInput(f"{where} is {value!r}: give a mapping")
        return {_read(arguments[0], k, where): _read(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise BadInput(f"{where} is {value!r}: give a value of type {kind.__name__}")
    return value


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    types_of = typing.get_type_hints(kind)
    hints = {field.name: types_of[field.name] for field in dataclasses.fields(kind)}
    # YAML says `llm-pruner`, Python `llm_pruner`.
    given = {str(k).replace("-", "_"): v for k, v in value.items()} if isinstance(value, dict) else None
    if given is None:
        raise BadInput(f"{where} is {value!r}: give a mapping with {', '.join(hints)}")
    for name in hints:
        if name not in given:
            raise BadInput(f"{where} lacks {name}: profiles have no implicit defaults, add it")
    for name in given:
        if name not in hints:
            raise BadInput(f"{where} has an unknown field {name}: use {', '.join(hints)}")
    return kind(**{name: _read(hint, given[name], f"{where}.{name}") for name, hint in hints.items()})
