"""Pruning of LLaMA-family models, and the registry of pruners: the paper's two are `llm_pruner` and `shortened`.

`spec.Pruner` says what a pruner is; importing one that calls `register` makes it known everywhere.
"""

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning import llm_pruner, shortened  # noqa: F401 (they register, in the order of the paper's tables)
from rankadaptor.pruning.spec import PRUNERS, Block, Pruned, Pruner, PruneSpec, register

__all__ = ["PRUNERS", "Block", "PruneSpec", "Pruned", "Pruner", "prune", "pruned_shapes", "register"]


def prune(model: PreTrainedModel, spec: PruneSpec, windows: torch.Tensor) -> Pruned:
    """Prune a dense LLaMA.

    Args:
        model: Unpruned; left as it was.
        spec: What to remove.
        windows: Calibration token ids.  # (samples, tokens)

    Raises:
        BadInput: if the ranges do not fit the model, or a layer would lose everything.
    """
    return PRUNERS[spec.method].prune(model, spec.in_model(len(architecture_of(model).layers)), windows)


def pruned_shapes(dense: Architecture, spec: PruneSpec) -> Architecture:
    """Shapes that pruning would leave, from configuration alone.

    Which layers depth pruning removes is not known without weights: the first of its range stand for them, since all
    layers of a dense model are alike.

    Raises:
        BadInput: as `prune`; and under global ranking, whose widths depend on the weights.
    """
    return PRUNERS[spec.method].shapes(dense, spec.in_model(len(dense.layers)))
