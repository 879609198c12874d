"""Shortened LLaMA: depth pruning, the least important whole layers in one shot, the first and last few protected.

Source: Kim et al. 2024, "Shortened LLaMA: Depth Pruning for Large Language Models", Taylor+.
"""

from dataclasses import dataclass
from typing import cast, get_args

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture
from rankadaptor.bounds import check_whole
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning.depth import check_removable, remove_layers
from rankadaptor.pruning.importance import LayerCriterion, layer_importance
from rankadaptor.pruning.spec import Pruned, Pruner, PruneSpec, PruningSettings, check_rate, register

# Fields of width pruning, and the values that they hold when unset.
_UNSET_WIDTH = {"decoder_share": None, "group_reduction": "sum", "ranking": "local", "iterations": 1,
                "mlp_range": None, "uniform_width": False}


@dataclass(frozen=True)
class DepthPruning(PruningSettings):
    """Shortened LLaMA's part of a profile. Layers outside the range are protected."""

    importance: LayerCriterion
    blocks: dict[int, int]  # rate in percent -> decoder layers removed

    def __post_init__(self) -> None:
        super().__post_init__()
        for rate, count in self.blocks.items():
            check_rate(rate)
            check_whole(f"number of blocks at {rate} %", count, 1, self.end_layer - self.first_layer)


class Shortened(Pruner[DepthPruning]):
    """Shortened LLaMA; see `Pruner` for what each method does."""

    name = "shortened"
    title = "Shortened LLaMA"
    kind = "depth"
    criteria = get_args(LayerCriterion)
    window_tokens = 128
    settings = DepthPruning

    def check(self, spec: PruneSpec) -> None:
        """Raise BadInput if the spec is not one of depth pruning."""
        if spec.blocks_removed is None or spec.blocks_removed < 1 or spec.ratio is not None:
            raise BadInput(f"{self.name} needs blocks_removed of at least 1 and no ratio: got {spec.blocks_removed}")
        for name, unset in _UNSET_WIDTH.items():
            if getattr(spec, name) != unset:
                raise BadInput(f"{name} is {getattr(spec, name)!r}: it goes with llm-pruner alone, leave it away")

    def rates(self, settings: DepthPruning) -> list[int]:
        """Rates (percent) that have a number of layers."""
        return list(settings.blocks)

    def spec(self, settings: DepthPruning, rate_percent: int) -> PruneSpec:
        """The spec of one of the profile's rates."""
        return PruneSpec(
            **self.common_fields(settings, rate_percent),
            ratio=None,
            decoder_share=None,
            blocks_removed=settings.blocks[rate_percent],
        )

    def prune(self, model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
        """Remove the layers with the lowest scores."""
        self.shapes(architecture_of(model), spec)  # before scores are computed that are not needed
        scores = layer_importance(model, windows, cast(LayerCriterion, spec.importance))
        pruned, kept_layers, order = remove_layers(
            model, scores, spec.first_layer, spec.end_layer, spec.blocks_removed or 0)
        return Pruned(pruned, {"blocks": kept_layers}, {"blocks": scores.tolist(), "order": order})

    def shapes(self, dense: Architecture, spec: PruneSpec) -> Architecture:
        """Shapes with the first layers of the range removed: which ones go depends on the weights."""
        count = spec.blocks_removed or 0
        check_removable(count, spec.first_layer, spec.end_layer, len(dense.layers))
        return dense.depth_pruned(tuple(range(spec.first_layer, spec.first_layer + count)))


register(Shortened())
