"""What a recovery is: the recipe of its training, and its frozen spec."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rankadaptor.errors import BadInput
from rankadaptor.keys import later

Scaling = Literal["fixed_alpha", "constant", "rslora"]
SCALINGS: tuple[str, ...] = get_args(Scaling)

# Of rows for recovery. "batches": each batch holds rows alike, which is fastest for small models, but gives tokens of
# short answers the greater weight. "micro_batches": batches are random, as the plain recipe's, and only cut so.
LengthGrouping = Literal["batches", "micro_batches"]
LENGTH_GROUPINGS: tuple[str, ...] = get_args(LengthGrouping)


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
    length_grouping: LengthGrouping = later("batches", nested=True)  # what holds rows of about one length  # noqa: RUF009

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


_WITH_DROPOUT = {"batches": 4, "micro_batches": 5}  # numerics version by length grouping


def recovery_numerics_version(method: str, lora_dropout: float, length_grouping: str) -> int:
    """Dropout is drawn in other ways since versions 3 to 5. Every other change was one of rounding: same number."""
    if not lora_dropout or (method, length_grouping) == ("adalora", "batches"):
        return 2
    return _WITH_DROPOUT[length_grouping]


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

    @property
    def numerics_version(self) -> int:
        return recovery_numerics_version(self.method, self.recipe.lora_dropout, self.recipe.length_grouping)

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise BadInput(f"unknown scaling {self.scaling!r}: use one of {', '.join(SCALINGS)}")
        if (self.method == "adalora") != (self.adalora_init_rank is not None):
            raise BadInput("adalora_init_rank goes with method adalora, and only with it")
