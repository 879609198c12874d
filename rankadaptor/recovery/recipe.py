"""The recipe of a recovery's training, and the names of LoRA's scalings."""

from dataclasses import dataclass
from typing import Literal, get_args

from rankadaptor.bounds import ROWS, TOKENS, check_amount, check_positive, check_whole
from rankadaptor.errors import BadInput
from rankadaptor.keys import later

Scaling = Literal["fixed_alpha", "constant", "rslora"]
SCALINGS: tuple[str, ...] = get_args(Scaling)

# "batches": the rows of a batch have about one length, which is fastest for small models, but gives tokens of short
# answers the greater weight. "micro_batches": batches are random, as in the plain recipe, and only cut by length.
LengthGrouping = Literal["batches", "micro_batches"]
LENGTH_GROUPINGS: tuple[str, ...] = get_args(LengthGrouping)

_MOST_STEPS, _MOST_DECAY, _MOST_NORM = 1_000_000, 10.0, 1e6


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained. LLM-Pruner's recipe at the paper's scale (LLM-Pruner's post_training.py)."""

    steps: int  # optimizer steps
    batch_rows: int  # examples an optimizer step (the effective batch)
    micro_batch_rows: int  # examples a forward pass, or their memory; changes memory and speed, not the batch
    learning_rate: float
    warmup_steps: int
    max_length_tokens: int
    lora_dropout: float
    weight_decay: float
    clip_norm: float
    length_grouping: LengthGrouping = later("batches", nested=True)  # that hold rows of about one length  # noqa: RUF009
    bos: bool = later(False, nested=True)  # exactly one BOS in front of every row, as in LLM-Pruner; a token of its own

    def __post_init__(self) -> None:
        if self.length_grouping not in LENGTH_GROUPINGS:
            raise BadInput(f"unknown length_grouping {self.length_grouping!r}: use one of"
                           f" {', '.join(LENGTH_GROUPINGS)}")
        for name, most in (("steps", _MOST_STEPS), ("batch_rows", ROWS), ("micro_batch_rows", ROWS),
                           ("max_length_tokens", TOKENS)):
            check_whole(name, getattr(self, name), 1, most)
        if not 0 < self.learning_rate < 1:
            raise BadInput(f"learning_rate is {self.learning_rate}: give a rate between 0 and 1, such as 1e-4")
        check_whole("warmup_steps", self.warmup_steps, 0, _MOST_STEPS)
        if not self.warmup_steps < self.steps:
            raise BadInput(f"warmup_steps is {self.warmup_steps} of {self.steps} steps:"
                           " warm-up must end before training does")
        if not 0 <= self.lora_dropout < 1:
            raise BadInput(f"lora_dropout is {self.lora_dropout}: give a share below 1, such as 0.05")
        check_amount("weight_decay", self.weight_decay, 0, _MOST_DECAY)
        check_positive("clip_norm", self.clip_norm, _MOST_NORM)  # at 0 nothing would be trained
