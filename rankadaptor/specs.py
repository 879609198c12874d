"""What a stage computes, as plain data: frozen specs, canonical JSON, and the SHA-256 keys made from them.

A key is the SHA-256 of the canonical JSON of {stage, numerics version, spec, parent key, data revisions}. Nothing that
may differ between two machines (device, library versions, times, paths) is part of it. README, "Schemas", holds the
JSON forms.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rankadaptor.architecture import Ranges
from rankadaptor.errors import BadInput

# The paper's seven benchmarks, in the order of its tables.
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")

PruningMethod = Literal["llm-pruner", "shortened"]
PRUNERS: tuple[str, ...] = get_args(PruningMethod)

UnitCriterion = Literal["element1", "element2", "mixed", "vector", "l1", "l2", "random"]
UNIT_CRITERIA: tuple[str, ...] = get_args(UnitCriterion)
BlockCriterion = Literal["taylor", "perplexity", "magnitude"]
BLOCK_CRITERIA: tuple[str, ...] = get_args(BlockCriterion)
GroupReduction = Literal["sum", "mean", "max", "prod"]
GROUP_REDUCTIONS: tuple[str, ...] = get_args(GroupReduction)

Scaling = Literal["fixed_alpha", "constant", "rslora"]
SCALINGS: tuple[str, ...] = get_args(Scaling)

Bos = Literal["none", "first", "every"]
BOS: tuple[str, ...] = get_args(Bos)

# Of rows for recovery. "batches": each batch holds rows alike, which is fastest for small models, but gives tokens of
# short answers the greater weight. "micro_batches": batches are random, as the plain recipe's, and only cut so.
LengthGrouping = Literal["batches", "micro_batches"]
LENGTH_GROUPINGS: tuple[str, ...] = get_args(LengthGrouping)

Split = Literal["search", "report", "tuning"]

EvaluationEngine = Literal["shared_context", "lm_eval"]

# Raised by whoever changes what a stage computes: old results then stop being found, without being lost.
NUMERICS_VERSION = {"base": 1, "prune": 1, "recover": 2, "evaluate": 1, "perplexity": 1, "generate": 1, "search": 2,
                    "replay": 1}


_WITH_DROPOUT = {"batches": 4, "micro_batches": 5}  # of recoveries whose dropout is on, by length grouping


def _later(default: Any, nested: bool = False) -> Any:
    """A field that specs got after results were made: it stays out of keys while it holds its default.

    Args:
        nested: Also where the spec is part of another one. The first such fields were not, and searches have them.
    """
    return dataclasses.field(default=default, metadata={"later": True, "nested": nested})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text. Dataclasses become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stage_identity(stage: str, spec: Any, parent: str, revisions: dict[str, str]) -> dict[str, Any]:
    """Everything that a stage's result is a function of, as JSON-able data; `identity_key` makes the key of it.

    Args:
        stage: One of `NUMERICS_VERSION`.
        spec: The stage's frozen spec.
        parent: Key of the result this one is computed from; for a base model, the hash of its pinned
            identity; for a replay, the SHA-256 of its table.
        revisions: Pinned identities of the data read, such as {"benchmarks": "wheel:...#sha256"}.
    """
    return {
        "stage": stage,
        "numerics_version": _numerics_version(stage, spec),
        "spec": _spec_content(spec),
        "parent": parent,
        "revisions": revisions,
    }


def _numerics_version(stage: str, spec: Any) -> int:
    if isinstance(spec, RecoverySpec) and spec.recipe.lora_dropout:
        return _recovery_with_dropout(spec.method, spec.recipe.length_grouping)
    return NUMERICS_VERSION[stage]


def is_current(identity: dict[str, Any]) -> bool:
    """Whether this code would still look for the result of such an identity."""
    stage, version = identity["stage"], identity["numerics_version"]
    if stage == "recover" and (recipe := identity["spec"]["recipe"])["lora_dropout"]:
        return version == _recovery_with_dropout(identity["spec"]["method"], recipe.get("length_grouping", "batches"))
    return version == NUMERICS_VERSION.get(stage)


def _recovery_with_dropout(method: str, grouping: str) -> int:
    """Dropout is drawn in other ways since versions 3 to 5. All else changed by rounding alone: same number."""
    return NUMERICS_VERSION["recover"] if (method, grouping) == ("adalora", "batches") else _WITH_DROPOUT[grouping]


def _spec_content(value: Any, inner: bool = False) -> Any:
    """`dataclasses.asdict`, less the later fields that hold their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        which = "nested" if inner else "later"
        set_ones = [one.name for one in dataclasses.fields(value)
                    if not (one.metadata.get(which) and getattr(value, one.name) == one.default)]
        return {name: _spec_content(getattr(value, name), True) for name in set_ones}
    if isinstance(value, list | tuple):
        return [_spec_content(one, True) for one in value]
    if isinstance(value, dict):
        return {name: _spec_content(one, True) for name, one in value.items()}
    return value


def identity_key(identity: dict[str, Any]) -> str:
    """The content address of a result: 64 hex digits, the SHA-256 of its identity's canonical JSON."""
    return sha256_text(canonical_json(identity))


@dataclass(frozen=True)
class Block:
    """One pruned model of a table: a pruning method at a rate, written `llm-pruner:20`."""

    pruner: PruningMethod
    rate_percent: int

    @classmethod
    def parse(cls, text: str) -> "Block":
        pruner, separator, rate = text.strip().partition(":")
        if not separator or pruner not in PRUNERS or not rate.isdecimal():
            raise BadInput(f"unknown block {text!r}: write PRUNER:RATE with PRUNER one of {', '.join(PRUNERS)}"
                           " and RATE a percentage of the profile, such as llm-pruner:20")
        return cls(pruner, int(rate))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.pruner}:{self.rate_percent}"


@dataclass(frozen=True)
class PruneSpec:
    """One pruning. `llm-pruner` removes heads and MLP channels (width), `shortened` whole blocks (depth)."""

    method: PruningMethod
    rate_percent: int  # the global target, as the paper's tables call it
    importance: UnitCriterion | BlockCriterion  # the first of llm-pruner, the second of shortened
    first_layer: int  # 0-based; width: the range that is pruned, depth: the range that may be removed
    end_layer: int  # exclusive
    ratio: float | None  # width: LLM-Pruner's own `pruning_ratio` on that range
    decoder_share: float | None  # width: share of the decoder's parameters to remove; None keeps the plain ratio
    blocks_removed: int | None  # depth: how many blocks go
    calibration_samples: int
    calibration_tokens: int
    seed: int  # of the calibration windows, and of random importance
    group_reduction: GroupReduction = _later("sum")  # over the tensors of a group  # noqa: RUF009
    ranking: Literal["local", "global"] = _later("local")  # within each layer, or in one pool
    iterations: int = _later(1)  # steps to the rate, importance measured anew before each
    mlp_range: tuple[int, int] | None = _later(None)  # [first, end) of MLP pruning where it differs from the heads'
    uniform_width: bool = _later(False)  # every layer alike, ends included: a plain LLaMA checkpoint

    @property
    def ranges(self) -> Ranges:
        attention = (self.first_layer, self.end_layer)
        return Ranges(attention, self.mlp_range or attention)

    def __post_init__(self) -> None:
        known = UNIT_CRITERIA if self.method == "llm-pruner" else BLOCK_CRITERIA
        if self.importance not in known:
            raise BadInput(f"unknown importance {self.importance!r} of {self.method}: use one of {', '.join(known)}")
        if self.group_reduction not in GROUP_REDUCTIONS:
            raise BadInput(f"unknown group reduction {self.group_reduction!r}: use one of"
                           f" {', '.join(GROUP_REDUCTIONS)}")
        if self.ranking not in ("local", "global"):
            raise BadInput(f"unknown ranking {self.ranking!r}: use local or global")
        for name, least in (("iterations", 1), ("calibration_samples", 1), ("calibration_tokens", 2)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: give at least {least}")
        if self.uniform_width and self.ranking == "global":
            raise BadInput("uniform_width was asked for with global ranking, which gives every layer its own width:"
                           " use local")
        if self.method == "llm-pruner":
            if self.ratio is None or not 0 < self.ratio < 1 or self.blocks_removed is not None:
                raise BadInput(f"llm-pruner needs a ratio between 0 and 1 and no blocks_removed: got {self.ratio}")
            if self.decoder_share is not None and not 0 < self.decoder_share < 1:
                raise BadInput(f"decoder_share is {self.decoder_share}: give a share between 0 and 1, or none")
            return
        if self.blocks_removed is None or self.blocks_removed < 1 or self.ratio is not None:
            raise BadInput(f"shortened needs blocks_removed of at least 1 and no ratio: got {self.blocks_removed}")
        widths = {"decoder_share": None, "group_reduction": "sum", "ranking": "local", "iterations": 1,
                  "mlp_range": None, "uniform_width": False}
        if given := [name for name, unset in widths.items() if getattr(self, name) != unset]:
            raise BadInput(f"{given[0]} is {getattr(self, given[0])!r}: it goes with llm-pruner alone, leave it away")


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained. LLM-Pruner's recipe at the paper's scale (REFERENCE: post_training.py)."""

    steps: int  # optimizer steps
    batch_rows: int  # examples a step (the effective batch)
    micro_batch_rows: int  # examples a forward pass, or what they take; changes memory and speed, not the batch
    learning_rate: float
    warmup_steps: int
    max_length_tokens: int
    lora_dropout: float
    weight_decay: float
    clip_norm: float
    length_grouping: LengthGrouping = _later("batches", nested=True)  # what holds rows of about one length  # noqa: RUF009

    def __post_init__(self) -> None:
        if self.length_grouping not in LENGTH_GROUPINGS:
            raise BadInput(f"unknown length_grouping {self.length_grouping!r}: use one of"
                           f" {', '.join(LENGTH_GROUPINGS)}")
        for name in ("steps", "batch_rows", "micro_batch_rows", "max_length_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}: give at least 1")
        if not (0 < self.learning_rate < 1 and math.isfinite(self.learning_rate)):
            raise BadInput(f"learning_rate is {self.learning_rate}: give a rate between 0 and 1, such as 1e-4")
        if not 0 <= self.warmup_steps < self.steps:
            raise BadInput(f"warmup_steps is {self.warmup_steps} of {self.steps} steps:"
                           " warm-up must end before training does")
        if not 0 <= self.lora_dropout < 1:
            raise BadInput(f"lora_dropout is {self.lora_dropout}: give a share below 1, such as 0.05")


@dataclass(frozen=True)
class RecoverySpec:
    """One recovery: which adapter, where its ranks go, and how it is trained."""

    method: Literal["lora", "adalora", "eva"]  # eva: the allocation (one rank) says how much there is to share out
    allocation: tuple[int, ...]  # one rank per layer of the *unpruned* model, 0 where depth pruning removed it
    scaling: Scaling
    alpha: int
    recipe: Recipe
    seed: int
    adalora_init_rank: int | None = None  # AdaLoRA starts here and falls to the allocation's (uniform) rank

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise BadInput(f"unknown scaling {self.scaling!r}: use one of {', '.join(SCALINGS)}")
        if (self.method == "adalora") != (self.adalora_init_rank is not None):
            raise BadInput("adalora_init_rank goes with method adalora, and only with it")


@dataclass(frozen=True)
class EvaluationSpec:
    """One zero-shot evaluation through lm-eval."""

    tasks: tuple[str, ...]
    split: Split
    items_per_task: int | None  # None: every item of the split
    item_seed: int  # which items a limit picks
    batch_size: int
    tokenisation: Literal["joint"] = "joint"  # context and continuation tokenised as one string
    bos: bool = False
    engine: EvaluationEngine = _later("shared_context")  # noqa: RUF009 (both give the same, to rounding)

    def __post_init__(self) -> None:
        if self.engine not in get_args(EvaluationEngine):
            raise BadInput(f"unknown engine {self.engine!r}: use one of {', '.join(get_args(EvaluationEngine))}")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise BadInput(f"unknown task {unknown[0]!r}: use some of {', '.join(TASKS)}")
        if self.items_per_task is not None and self.items_per_task < 1:
            raise BadInput(f"items_per_task is {self.items_per_task}: give at least 1, or null for every item")


@dataclass(frozen=True)
class GenerationSpec:
    """Continuations of some prompts; see `evaluation.generation`."""

    prompts: tuple[str, ...]
    max_new_tokens: int
    samples: int  # sampled continuations of each prompt, beside the greedy one
    temperature: float
    top_k: int
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts):
            raise BadInput("there are no prompts to continue, or an empty one: give some text each")
        for name, least in (("max_new_tokens", 1), ("samples", 0), ("top_k", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} is {getattr(self, name)}: give at least {least}")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise BadInput(f"temperature is {self.temperature} and top_p {self.top_p}: give numbers above 0, top_p at"
                           " most 1")


@dataclass(frozen=True)
class PerplexitySpec:
    """One measurement of perplexity; see `evaluation.perplexity` for the conventions."""

    window_tokens: int = 128
    bos: Bos = "first"  # one BOS at the start of the text, one in every window, or none
    batch_windows: int = 16
    max_windows: int | None = None  # None: all of the text

    def __post_init__(self) -> None:
        if self.bos not in BOS:
            raise BadInput(f"unknown bos {self.bos!r}: use one of {', '.join(BOS)}")
        for name, least in (("window_tokens", 2), ("batch_windows", 1), ("max_windows", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadInput(f"{name} is {value}: give at least {least}")
