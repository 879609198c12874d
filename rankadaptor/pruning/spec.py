"""What a pruning is: its frozen spec, the block that a table names it by, and the registry of pruners.

A new pruner is one file of this package: a subclass of `Pruner` whose instance is given to `register`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.bounds import LAYERS, TOKENS, check_seed, check_whole
from rankadaptor.errors import BadInput
from rankadaptor.keys import later
from rankadaptor.plugins import add_entry

GroupReduction = Literal["sum", "mean", "max", "prod"]
GROUP_REDUCTIONS: tuple[str, ...] = get_args(GroupReduction)
Ranking = Literal["local", "global"]
_MOST_SAMPLES = 100_000  # of calibration


def check_rate(rate_percent: int) -> None:
    """Raises BadInput unless a profile may offer a rate."""
    check_whole("pruning rate in percent", rate_percent, 1, 99)


@dataclass(frozen=True)
class PruneSpec:
    """One pruning. `llm-pruner` removes heads and MLP channels (width), `shortened` whole decoder layers (depth)."""

    numerics_version: ClassVar[int] = 1

    method: str  # name of a registered pruner
    rate_percent: int  # the global target, as the paper's tables call it
    importance: str  # one of the pruner's criteria
    first_layer: int  # 0-based; width: the range that is pruned, depth: the range that may be removed
    end_layer: int  # exclusive
    ratio: float | None  # width: LLM-Pruner's own `pruning_ratio` on that range
    decoder_share: float | None  # width: share of the decoder's parameters to remove; None keeps the plain ratio
    blocks_removed: int | None  # depth: how many decoder layers go
    calibration_samples: int
    calibration_tokens: int
    seed: int  # of the calibration windows, and of random importance
    group_reduction: GroupReduction = later("sum")  # over the tensors of a group  # noqa: RUF009
    ranking: Ranking = later("local")  # within each layer, or in one pool  # noqa: RUF009
    iterations: int = later(1)  # steps to the rate, importance measured anew before each
    mlp_range: tuple[int, int] | None = later(None)  # [first, end) of MLP pruning where it differs from the heads'
    uniform_width: bool = later(False)  # every layer alike, ends included: a plain LLaMA checkpoint

    @property
    def ranges(self) -> Ranges:
        """Layers whose heads and whose MLP channels may go."""
        attention = (self.first_layer, self.end_layer)
        return Ranges(attention, self.mlp_range or attention)

    def in_model(self, layers: int) -> Self:
        """The spec with the ranges that it has in a model of so many layers.

        Raises:
            BadInput: if the ranges do not fit the model.
        """
        if self.uniform_width:
            return replace(self, first_layer=0, end_layer=layers, mlp_range=None)
        self.ranges.check(layers)
        return self

    def __post_init__(self) -> None:
        if self.method not in PRUNERS:
            raise BadInput(f"unknown pruner {self.method!r}: use one of {', '.join(PRUNERS)}")
        pruner = PRUNERS[self.method]
        if self.importance not in pruner.criteria:
            raise BadInput(f"unknown importance {self.importance!r} of {self.method}: use one of"
                           f" {', '.join(pruner.criteria)}")
        check_whole("calibration_samples", self.calibration_samples, 1, _MOST_SAMPLES)
        check_whole("calibration_tokens", self.calibration_tokens, 2, TOKENS)
        check_seed("seed of the pruning", self.seed)
        for layer in (self.first_layer, self.end_layer, *(self.mlp_range or ())):
            check_whole("end of a range of layers", layer, 0, LAYERS)
        pruner.check(self)
        check_whole("rate_percent", self.rate_percent, 0, 100)


@dataclass(frozen=True)
class Block:
    """One pruned model of a table: a pruner at a rate, written `llm-pruner:20`."""

    pruner: str
    rate_percent: int

    @classmethod
    def parse(cls, text: str) -> "Block":
        """Read PRUNER:RATE.

        Raises:
            BadInput: on an unknown pruner, or a rate that is no whole number.
        """
        pruner, separator, rate = text.strip().partition(":")
        if not separator or pruner not in PRUNERS or not rate.isdecimal():
            raise BadInput(f"unknown block {text!r}: write PRUNER:RATE with PRUNER one of {', '.join(PRUNERS)}"
                           " and RATE a percentage of the profile, such as llm-pruner:20")
        return cls(pruner, int(rate))

    def __str__(self) -> str:
        return f"{self.pruner}:{self.rate_percent}"


@dataclass(frozen=True)
class Pruned:
    """A pruned model, and what stayed and why, as JSON-able data; `checkpoints` describes their forms."""

    model: PreTrainedModel
    kept_units: dict[str, Any]  # width: per layer {"kv_heads": [...], "channels": [...]}; depth: {"blocks": [...]}
    importance: dict[str, Any]  # the scores that decided, same shape as the units of the unpruned model


# -- pruners ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Windows of text that importance is measured on."""

    samples: int  # N in Eq. 2
    tokens: int  # length of each sample
    seed: int

    def __post_init__(self) -> None:
        check_whole("calibration.samples", self.samples, 1, _MOST_SAMPLES)
        check_whole("calibration.tokens", self.tokens, 2, TOKENS)
        check_seed("calibration.seed", self.seed)


@dataclass(frozen=True)
class PruningSettings:
    """What a profile holds of every pruner; a pruner's own settings add how far it prunes at each rate."""

    importance: str  # one of the pruner's criteria
    first_layer: int  # 0-based
    end_layer: int  # exclusive
    calibration: Calibration

    def __post_init__(self) -> None:
        check_whole("end_layer", self.end_layer, 1, LAYERS)
        check_whole("first_layer", self.first_layer, 0, self.end_layer - 1)


Settings = TypeVar("Settings", bound=PruningSettings)


class Pruner(ABC, Generic[Settings]):
    """A pruning method.

    Attributes:
        name: In blocks, specs and profiles, such as llm-pruner.
        title: As people write it, such as LLM-Pruner.
        kind: Whether heads and MLP channels go, or whole decoder layers.
        criteria: Of importance; the first is the default.
        window_tokens: Length of a calibration window, by default.
        settings: Dataclass of this pruner's part of a profile; its YAML must give every field.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Literal["width", "depth"]]
    criteria: ClassVar[tuple[str, ...]]
    window_tokens: ClassVar[int]
    settings: ClassVar[type[PruningSettings]]

    @abstractmethod
    def check(self, spec: PruneSpec) -> None:
        """Raise BadInput if a field of the spec is wrong for this pruner; its importance is checked already."""

    @abstractmethod
    def rates(self, settings: Settings) -> list[int]:
        """Rates (percent) that a profile offers, in the order of its tables."""

    @abstractmethod
    def spec(self, settings: Settings, rate_percent: int) -> PruneSpec:
        """The spec of one of the profile's rates."""

    def common_fields(self, settings: Settings, rate_percent: int) -> dict[str, Any]:
        """Fields of a spec that every pruner fills alike; `spec` adds those that say how far to prune."""
        return {
            "method": self.name,
            "rate_percent": rate_percent,
            "importance": settings.importance,
            "first_layer": settings.first_layer,
            "end_layer": settings.end_layer,
            "calibration_samples": settings.calibration.samples,
            "calibration_tokens": settings.calibration.tokens,
            "seed": settings.calibration.seed,
        }

    @abstractmethod
    def prune(self, model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
        """Prune a dense LLaMA, which is left as it was; see `rankadaptor.pruning.prune`."""

    @abstractmethod
    def shapes(self, dense: Architecture, spec: PruneSpec) -> Architecture:
        """Shapes that `prune` would leave, without weights; see `rankadaptor.pruning.pruned_shapes`.

        Raises:
            BadInput: where `prune` would refuse the model, which a plan then does; under global ranking, where the
                weights decide.
        """


PRUNERS: dict[str, Pruner[Any]] = {}


def register(pruner: Pruner[Any]) -> None:
    """Make a pruner known to specs, blocks, profiles and the command line.

    Raises:
        BadInput: if its name is taken.
    """
    add_entry(PRUNERS, "pruner", pruner.name, pruner)
