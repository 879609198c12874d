"""Depth pruning: a model without some of its decoder layers."""

import torch
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning.width import empty_like, fits_stock_llama


def remove_layers(
    model: PreTrainedModel, scores: torch.Tensor, first_layer: int, end_layer: int, count: int
) -> tuple[PreTrainedModel, list[int], list[int]]:
    """Remove the `count` layers with the lowest scores among [first_layer, end_layer).

    Args:
        model: Left as it was.
        scores: Importance by layer.  # (layers,)
        first_layer: 0-based; layers before it are protected.
        end_layer: Exclusive; layers from it on are protected.
        count: How many go.

    Returns:
        The shorter model (stock LLaMA, layers re-indexed), the kept layers' indices in the given model, and the order
        of all its layers, least important first.

    Raises:
        BadInput: if fewer than `count` layers are not protected, or none would stay.
    """
    before = architecture_of(model)
    layers = len(before.layers)
    check_removable(count, first_layer, end_layer, layers)
    order = torch.argsort(scores, stable=True).tolist()
    eligible = [layer for layer in order if first_layer <= layer < end_layer]
    removed = set(eligible[:count])
    kept_layers = [layer for layer in range(layers) if layer not in removed]
    after = before.depth_pruned(tuple(removed))
    shorter = empty_like(model, after, plain=fits_stock_llama(after))
    state = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            if int(parts[2]) in removed:
                continue
            parts[2] = str(kept_layers.index(int(parts[2])))
        state[".".join(parts)] = weight
    shorter.load_state_dict(state)
    return shorter.to(model.device).eval(), kept_layers, order


def check_removable(count: int, first_layer: int, end_layer: int, layers: int) -> None:
    """Raise BadInput if fewer than `count` of a model's layers are not protected, or none would stay."""
    if count >= layers:
        raise BadInput(f"{count} blocks are to go, and the model has {layers}: at least one must stay, remove fewer")
    if count > end_layer - first_layer:
        raise BadInput(f"{count} blocks are to go, but only {end_layer - first_layer} of {layers} are not protected:"
                       " remove fewer")
    if count >= layers:
        raise BadInput(f"{count} blocks are to go of a model that has {layers}: leave one at least")
