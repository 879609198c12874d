"""LLM-Pruner: remove the least important heads and MLP channels of each layer (local ranking, one shot)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture
from rankadaptor.models import PrunedLlamaConfig, PrunedLlamaForCausalLM, architecture_of
from rankadaptor.pruning.importance import UnitImportance


@dataclass(frozen=True)
class KeptUnits:
    """Units of one layer that stay, ascending."""

    kv_heads: list[int]
    channels: list[int]


def select_units(importance: Sequence[UnitImportance], target: Architecture) -> list[KeptUnits]:
    """The most important units of each layer, as many as the target's shapes hold. Ties go to the lower index."""
    return [
        KeptUnits(_top(scores.kv_heads, shape.kv_heads), _top(scores.channels, shape.mlp_width))
        for scores, shape in zip(importance, target.layers, strict=True)
    ]


def _top(scores: torch.Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())


def keep_units(model: PreTrainedModel, kept: Sequence[KeptUnits], target: Architecture) -> PreTrainedModel:
    """A new model with the kept units only; weights are copied, the given model is left as it was."""
    dense = architecture_of(model)
    settings = {name: value for name, value in model.config.to_dict().items() if name != "model_type"}
    settings |= {
        "layer_shapes": [[s.heads, s.kv_heads, s.mlp_width] for s in target.layers],
        "original_layers": list(target.original_layers),
        "original_layer_count": target.original_layer_count,
        "head_dim": dense.head_dim,
        "architectures": None,
    }
    pruned = PrunedLlamaForCausalLM(PrunedLlamaConfig(**settings)).to(model.dtype)
    state = model.state_dict()
    for layer, (shape, units) in enumerate(zip(dense.layers, kept, strict=True)):
        kv = _head_channels(units.kv_heads, dense.head_dim)
        query = _head_channels(units.kv_heads, dense.head_dim * (shape.heads // shape.kv_heads))
        channels = torch.tensor(units.channels)
        prefix = f"model.layers.{layer}"
        for name, rows in (("self_attn.q_proj", query), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv),
                           ("mlp.gate_proj", channels), ("mlp.up_proj", channels)):
            key = f"{prefix}.{name}.weight"
            state[key] = state[key][rows.to(state[key].device)]
        for name, columns in (("self_attn.o_proj", query), ("mlp.down_proj", channels)):
            key = f"{prefix}.{name}.weight"
            state[key] = state[key][:, columns.to(state[key].device)]
    pruned.load_state_dict(state)
    return pruned.to(model.device).eval()


def _head_channels(heads: Sequence[int], width: int) -> torch.Tensor:
    """Channel indices of whole heads.  # (heads * width,)"""
    return (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten()
