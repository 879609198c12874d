"""Shortened LLaMA: remove the least important whole blocks, one shot, the first and last few protected (Taylor+)."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models import architecture_of


def remove_blocks(
    model: PreTrainedModel, scores: torch.Tensor, first_layer: int, end_layer: int, count: int
) -> tuple[PreTrainedModel, list[int], list[int]]:
    """Remove the `count` blocks with the lowest scores among [first_layer, end_layer).

    Args:
        scores: One per block.  # (layers,)

    Returns:
        The shorter model (stock LLaMA, layers re-indexed), the kept blocks' original indices, and the order of all
        blocks, least important first.
    """
    layers = len(architecture_of(model).layers)
    order = torch.argsort(scores, stable=True).tolist()
    eligible = [block for block in order if first_layer <= block < end_layer]
    check_removable(count, first_layer, end_layer, layers)
    removed = set(eligible[:count])
    kept = [block for block in range(layers) if block not in removed]
    config = type(model.config)(**model.config.to_dict())
    config.num_hidden_layers = len(kept)
    config.original_layers, config.original_layer_count = kept, layers
    shorter = AutoModelForCausalLM.from_config(config).to(model.dtype)
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
