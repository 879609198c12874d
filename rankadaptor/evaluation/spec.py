"""Frozen specs of what is measured of a model: zero-shot evaluation, perplexity and generation."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import BadInput
from rankadaptor.keys import later

Bos = Literal["none", "first", "every"]
BOS: tuple[str, ...] = get_args(Bos)
Split = Literal["search", "report", "tuning"]
EvaluationEngine = Literal["shared_context", "lm_eval"]


@dataclass(frozen=True)
class EvaluationSpec:
    """One zero-shot evaluation through lm-eval.

    Raises:
        BadInput: on an unknown engine or task, or less than one item per task.
    """

    numerics_version: ClassVar[int] = 1

    tasks: tuple[str, ...]  # names of registered benchmarks
    split: Split
    items_per_task: int | None  # None: every item of the split
    item_seed: int  # which items a limit picks
    batch_size: int
    tokenisation: Literal["joint"] = "joint"  # context and continuation tokenised as one string
    bos: bool = False  # exactly one BOS in front of every question
    engine: EvaluationEngine = later("shared_context")  # noqa: RUF009 (both give the same, to rounding)

    def __post_init__(self) -> None:
        if self.engine not in get_args(EvaluationEngine):
            raise BadInput(f"unknown engine {self.engine!r}: use one of {', '.join(get_args(EvaluationEngine))}")
        unknown = [task for task in self.tasks if task not in BENCHMARKS]
        if unknown:
            raise BadInput(f"unknown task {unknown[0]!r}: use some of {', '.join(BENCHMARKS)}")
        if self.items_per_task is not None and self.items_per_task < 1:
            raise BadInput(f"items_per_task is {self.items_per_task}: give at least 1, or null for every item")


@dataclass(frozen=True)
class GenerationSpec:
    """Continuations of some prompts; see `evaluation.generation`.

    Raises:
        BadInput: if there is no prompt, or a setting is out of its range.
    """

    numerics_version: ClassVar[int] = 1

    prompts: tuple[str, ...]
    max_new_tokens: int
    samples: int  # sampled continuations of each prompt, beside the greedy one
    temperature: float
    top_k: int
    top_p: float
    seed: int
    bos: bool = later(False, nested=True)  # exactly one BOS in front of every prompt

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
    """One measurement of perplexity; see `evaluation.perplexity` for the conventions.

    Raises:
        BadInput: on an unknown `bos`, or a setting out of its range.
    """

    numerics_version: ClassVar[int] = 1

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
