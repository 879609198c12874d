"""Frozen specs of what is measured of a model: zero-shot evaluation, perplexity and generation."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from rankadaptor.bounds import ITEMS, ROWS, TOKENS, check_positive, check_seed, check_whole
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import BadInput, shown
from rankadaptor.keys import later

Bos = Literal["none", "first", "every"]
BOS: tuple[str, ...] = get_args(Bos)
Split = Literal["search", "report", "tuning", "unseen"]
EvaluationEngine = Literal["shared_context", "lm_eval"]
_MOST_PROMPTS, _MOST_CHARACTERS, _MOST_SAMPLES, _MOST_TOP_K = 1_000, 100_000, 1_000, 1_000_000
_MOST_TEMPERATURE = 100.0


@dataclass(frozen=True)
class EvaluationSpec:
    """One zero-shot evaluation through lm-eval.

    Raises:
        BadInput: on an unknown engine or task, a task that is named twice, or less than one item per task.
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
            raise BadInput(f"unknown task {shown(unknown[0])}: use some of {', '.join(BENCHMARKS)}")
        if len(set(self.tasks)) < len(self.tasks):
            raise BadInput(f"tasks {shown(' '.join(self.tasks))} repeat themselves: name each once")
        if self.items_per_task is not None:
            check_whole("items_per_task", self.items_per_task, 1, ITEMS)
        check_seed("item_seed", self.item_seed)
        check_whole("batch_size", self.batch_size, 1, ROWS)


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
        if len(set(self.prompts)) < len(self.prompts):  # their statistics are by prompt
            raise BadInput(f"prompts {shown(self.prompts)} repeat themselves: give each once")
        check_whole("number of prompts", len(self.prompts), 1, _MOST_PROMPTS)
        check_whole("characters of a prompt", max(map(len, self.prompts)), 1, _MOST_CHARACTERS)
        for name, least, most in (("max_new_tokens", 1, TOKENS), ("samples", 0, _MOST_SAMPLES),
                                  ("top_k", 1, _MOST_TOP_K)):
            check_whole(name, getattr(self, name), least, most)
        check_positive("temperature", self.temperature, _MOST_TEMPERATURE)
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}: give a share above 0, and at most 1")
        check_seed("seed of generation", self.seed)


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
        check_whole("window_tokens", self.window_tokens, 2, TOKENS)
        check_whole("batch_windows", self.batch_windows, 1, ROWS)
        if self.max_windows is not None:
            check_whole("max_windows", self.max_windows, 1, ITEMS)
