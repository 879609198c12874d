"""What a pruning is: its frozen spec, and the block (pruner and rate) that a table names it by."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from rankadaptor.architecture import Ranges
from rankadaptor.errors import BadInput
from rankadaptor.keys import later

PruningMethod = Literal["llm-pruner", "shortened"]
PRUNERS: tuple[str, ...] = get_args(PruningMethod)
UnitCriterion = Literal["element1", "element2", "mixed", "vector", "l1", "l2", "random"]
UNIT_CRITERIA: tuple[str, ...] = get_args(UnitCriterion)
BlockCriterion = Literal["taylor", "perplexity", "magnitude"]
BLOCK_CRITERIA: tuple[str, ...] = get_args(BlockCriterion)
GroupReduction = Literal["sum", "mean", "max", "prod"]
GROUP_REDUCTIONS: tuple[str, ...] = get_args(GroupReduction)


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

    numerics_version: ClassVar[int] = 1

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
    group_reduction: GroupReduction = later("sum")  # over the tensors of a group  # noqa: RUF009
    ranking: Literal["local", "global"] = later("local")  # within each layer, or in one pool
    iterations: int = later(1)  # steps to the rate, importance measured anew before each
    mlp_range: tuple[int, int] | None = later(None)  # [first, end) of MLP pruning where it differs from the heads'
    uniform_width: bool = later(False)  # every layer alike, ends included: a plain LLaMA checkpoint

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
