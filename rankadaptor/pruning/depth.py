"""Shortened LLaMA: remove the least important whole blocks, one shot, the first and last few protected (Taylor+)."""

import torch
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning.width import empty_like


def remove_blocks(
    model: PreTrainedModel, scores: torch.Tensor, first_layer: int, end_layer: int, count: int
) -> tuple[PreTrainedModel, list[int], list[int]]:
    """Remove the `count` blocks with the lowest scores among [first_layer, end_layer).

    Args:
        scores: One per block.  # (layers,)

    Returns:
        The shorter model (stock LLaMA, layers re-indexed), the kept blocks' indices in the given model, and the order
        of all its blocks, least important first.
    """
    before = architecture_of(model)
    layers = len(before.layers)
    order = torch.argsort(scores, stable=True).tolist()
    eligible = [block for block in order if first_layer <= block < end_layer]
    check_removable(count, first_layer, end_layer, layers)
    removed = set(eligible[:count])
    kept = [block for block in range(layers) if block not in removed]
    after = before.depth_pruned(tuple(removed))
    shorter = empty_like(model, after, plain=len(set(after.layers)) == 1)
    state = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        if name.startswith("model.layers."):
            if int(parts[2]) in removed:
                continue
            parts[2] = str(kept.index(int(parts[2])))
        state[".".join(parts)] = weight
    shorter.load_state_dict(state)
    return shorter.to(model.device).eval(), kept, order


def check_removable(count: int, first_layer: int, end_layer: int, layers: int) -> None:
    """Raises BadInput if fewer than `count` blocks are not protected."""
    if count > end_layer - first_layer:
        raise BadInput(f"{count} blocks are to go, but only {end_layer - first_layer} of {layers} are not protected:"
                       " remove fewer")
