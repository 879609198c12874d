"""LLM-Pruner: width pruning, heads and MLP channels of a range of layers, one shot or in steps.

Source: Ma et al. 2023, "LLM-Pruner: On the Structural Pruning of Large Language Models"; Eq. 1 and 2 of the paper.
"""

from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning.importance import UnitCriterion, UnitImportance, unit_importance
from rankadaptor.pruning.ranking import KeptUnits, rank_globally, rank_locally
from rankadaptor.pruning.spec import (
    GROUP_REDUCTIONS,
    Pruned,
    Pruner,
    PruneSpec,
    PruningSettings,
    Ranking,
    check_rate,
    register,
)
from rankadaptor.pruning.width import fits_stock_llama, keep_units


@dataclass(frozen=True)
class WidthPruning(PruningSettings):
    """LLM-Pruner's part of a profile. The range of layers is the one that is pruned."""

    importance: UnitCriterion
    ratios: dict[int, float]  # rate in percent -> LLM-Pruner's own ratio on the range
    match_decoder_share: bool  # solve the MLP width so that the rate of decoder parameters is met

    def __post_init__(self) -> None:
        super().__post_init__()
        for rate, ratio in self.ratios.items():
            check_rate(rate)
            if not 0 < ratio < 1:
                raise BadInput(f"ratio at {rate} % is {ratio}: give a number between 0 and 1")


class LlmPruner(Pruner[WidthPruning]):
    """LLM-Pruner; see `Pruner` for what each method does."""

    name = "llm-pruner"
    title = "LLM-Pruner"
    kind = "width"
    criteria = get_args(UnitCriterion)
    window_tokens = 64
    settings = WidthPruning

    def check(self, spec: PruneSpec) -> None:
        """Raise BadInput if the spec is not one of width pruning."""
        if spec.group_reduction not in GROUP_REDUCTIONS:
            raise BadInput(f"unknown group reduction {spec.group_reduction!r}: use one of"
                           f" {', '.join(GROUP_REDUCTIONS)}")
        if spec.ranking not in get_args(Ranking):
            raise BadInput(f"unknown ranking {spec.ranking!r}: use local or global")
        if spec.iterations < 1:
            raise BadInput(f"iterations is {spec.iterations}: give at least 1")
        if spec.uniform_width and spec.ranking == "global":
            raise BadInput("uniform_width was asked for with global ranking, which gives every layer its own width:"
                           " use local")
        if spec.ratio is None or not 0 < spec.ratio < 1 or spec.blocks_removed is not None:
            raise BadInput(f"{self.name} needs a ratio between 0 and 1 and no blocks_removed: got {spec.ratio}")
        if spec.decoder_share is not None and not 0 < spec.decoder_share < 1:
            raise BadInput(f"decoder_share is {spec.decoder_share}: give a share between 0 and 1, or none")

    def rates(self, settings: WidthPruning) -> list[int]:
        """Rates (percent) that have a ratio."""
        return list(settings.ratios)

    def spec(self, settings: WidthPruning, rate_percent: int) -> PruneSpec:
        """The spec of one of the profile's rates."""
        return PruneSpec(
            **self.common_fields(settings, rate_percent),
            ratio=settings.ratios[rate_percent],
            decoder_share=rate_percent / 100 if settings.match_decoder_share else None,
            blocks_removed=None,
        )

    def prune(self, model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
        """Prune in `spec.iterations` equal steps, each measured on what the step before left."""
        criterion = cast(UnitCriterion, spec.importance)
        dense = architecture_of(model)
        if spec.uniform_width:
            self.shapes(dense, spec)  # before importance is measured for shapes that no stock LLaMA has
        current, scores = model, []
        kept_units = [KeptUnits(list(range(shape.kv_heads)), list(range(shape.mlp_width))) for shape in dense.layers]
        for step in range(1, spec.iterations + 1):
            importance = unit_importance(current, windows, criterion, spec.group_reduction, spec.seed)
            selected = _select(importance, dense, architecture_of(current), spec, step / spec.iterations)
            current = keep_units(current, selected, plain=spec.uniform_width and step == spec.iterations)
            kept_units = [before.subset(units) for before, units in zip(kept_units, selected, strict=True)]
            scores.append([{"kv_heads": layer.kv_heads.tolist(), "channels": layer.channels.tolist()}
                           for layer in importance])
        written: dict[str, Any] = {"layers": scores[0]}
        if len(scores) > 1:
            written["later_steps"] = scores[1:]  # of the units that each of them still had
        layers = [{"kv_heads": units.kv_heads, "channels": units.channels} for units in kept_units]
        return Pruned(current, {"layers": layers}, written)

    def shapes(self, dense: Architecture, spec: PruneSpec) -> Architecture:
        """Shapes under local ranking.

        Raises:
            BadInput: under global ranking, or if a stock LLaMA is to be made of shapes that it cannot have.
        """
        if spec.ranking == "global":
            raise BadInput("widths under ranking global depend on the weights: prune the model, or use local")
        shapes = dense.width_pruned(spec.ranges, spec.ratio or 0.0, spec.decoder_share)
        if spec.uniform_width and not fits_stock_llama(shapes):
            others = " or ".join(map(str, _stock_ratios(dense, spec)))
            raise BadInput(f"ratio {spec.ratio} leaves {shapes.layers[0].heads} heads, which do not divide the hidden"
                           f" size {shapes.hidden_size} as a plain LLaMA's must:"
                           f"{f' use ratio {others}, or' if others else ''} prune without uniform width")
        return shapes


def _stock_ratios(dense: Architecture, spec: PruneSpec) -> list[float]:
    """The nearest ratios in hundredths, below and above the spec's, that leave a stock LLaMA; none, one or two."""
    below: list[float] = []
    above: list[float] = []
    for ratio in (percent / 100 for percent in range(1, 100)):
        try:
            fits = fits_stock_llama(dense.width_pruned(spec.ranges, ratio, spec.decoder_share))
        except BadInput:  # a layer would lose everything
            continue
        if fits:
            (below if ratio < (spec.ratio or 0.0) else above).append(ratio)
    return below[-1:] + above[:1]


def _select(
    importance: list[UnitImportance], dense: Architecture, current: Architecture, spec: PruneSpec, progress: float
) -> list[KeptUnits]:
    """Units that stay once the share `progress` of all that goes has gone."""
    ratio = (spec.ratio or 0.0) * progress
    share = None if spec.decoder_share is None else spec.decoder_share * progress
    if spec.ranking == "local":
        return rank_locally(importance, _local_shapes(dense, spec, progress))
    if share is None:
        remaining = int(_unit_count(dense, spec.ranges) * (1 - ratio))
        return rank_globally(importance, current, spec.ranges, units=_unit_count(current, spec.ranges) - remaining)
    excess = current.decoder_parameters() - dense.decoder_parameters() * (1 - share)
    return rank_globally(importance, current, spec.ranges, parameters=excess)


def _local_shapes(dense: Architecture, spec: PruneSpec, progress: float) -> Architecture:
    """Local ranking's shapes: heads by LLM-Pruner's rule, MLP widths too unless they are solved for a share of the
    decoder; then they fall evenly, since heads leave in leaps and a width must never rise again."""
    shapes = dense.width_pruned(spec.ranges, (spec.ratio or 0.0) * progress)
    if spec.decoder_share is None:
        return shapes
    final = dense.width_pruned(spec.ranges, spec.ratio or 0.0, spec.decoder_share)
    widths = [before.mlp_width - int((before.mlp_width - after.mlp_width) * progress)
              for before, after in zip(dense.layers, final.layers, strict=True)]
    return replace(shapes, layers=tuple(replace(shape, mlp_width=width)
                                        for shape, width in zip(shapes.layers, widths, strict=True)))


def _unit_count(architecture: Architecture, ranges: Ranges) -> int:
    """Heads and channels in their ranges."""
    return (sum(architecture.layers[layer].kv_heads for layer in range(*ranges.attention))
            + sum(architecture.layers[layer].mlp_width for layer in range(*ranges.mlp)))


register(LlmPruner())
