"""Width pruning: a model without some of its heads and MLP channels."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from rankadaptor.architecture import Architecture, LayerShape
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.pruned_llama import PrunedLlamaConfig, PrunedLlamaForCausalLM
from rankadaptor.models.tied import is_tied
from rankadaptor.pruning.ranking import KeptUnits


def keep_units(model: PreTrainedModel, kept_units: Sequence[KeptUnits], plain: bool = False) -> PreTrainedModel:
    """A new model with the kept units only; weights are copied, the given model is left as it was.

    Args:
        model: A LLaMA, dense or pruned.
        kept_units: By layer, indices into the given model's units.
        plain: Make a stock LLaMA, which needs one shape for all layers.
    """
    before = architecture_of(model)
    layers = tuple(
        LayerShape(len(units.kv_heads) * (shape.heads // shape.kv_heads), len(units.kv_heads), len(units.channels))
        for shape, units in zip(before.layers, kept_units, strict=True)
    )
    after = replace(before, layers=layers)
    pruned = empty_like(model, after, plain)
    state = model.state_dict()
    for layer, (shape, units) in enumerate(zip(before.layers, kept_units, strict=True)):
        key_value = _head_channels(units.kv_heads, before.head_dim)
        query = _head_channels(units.kv_heads, before.head_dim * (shape.heads // shape.kv_heads))
        channels = torch.tensor(units.channels)
        prefix = f"model.layers.{layer}"
        for name, rows in (("self_attn.q_proj", query), ("self_attn.k_proj", key_value),
                           ("self_attn.v_proj", key_value), ("mlp.gate_proj", channels), ("mlp.up_proj", channels)):
            key = f"{prefix}.{name}.weight"
            state[key] = state[key][rows.to(state[key].device)]
        for name, columns in (("self_attn.o_proj", query), ("mlp.down_proj", channels)):
            key = f"{prefix}.{name}.weight"
            state[key] = state[key][:, columns.to(state[key].device)]
    pruned.load_state_dict(state)
    return pruned.to(model.device).eval()


def empty_like(model: PreTrainedModel, architecture: Architecture, plain: bool = False) -> PreTrainedModel:
    """A model of other shapes for weights to be loaded into: nothing is drawn at random.

    It is built in the model's dtype, not cast to it: a cast would round the rotary frequencies, which stay in float32.

    Args:
        model: A LLaMA, dense or pruned, whose configuration is taken over.
        architecture: Shapes by layer.
        plain: Make a stock LLaMA, which needs one shape for all layers.
    """
    settings = model.config.to_dict() | {"tie_word_embeddings": is_tied(model)}
    with no_init_weights():
        empty = empty_model(settings, architecture, plain, model.dtype)
    empty.tie_weights()
    empty.generation_config = copy.deepcopy(model.generation_config)
    return empty


def fits_stock_llama(architecture: Architecture) -> bool:
    """Whether a stock LLaMA can have these shapes: one for all layers, with heads that divide the hidden size.

    transformers 5 refuses other numbers of heads, though the size of a head is given.
    """
    heads = {shape.heads for shape in architecture.layers}
    return len(set(architecture.layers)) == 1 and architecture.hidden_size % heads.pop() == 0


def empty_model(
    settings: dict[str, Any], architecture: Architecture, plain: bool = False, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model of some shapes with weights that mean nothing, on torch's default device.

    Args:
        settings: Configuration of the dense model.
        architecture: Shapes by layer.
        plain: Make a stock LLaMA, which needs one shape for all layers.
        dtype: Of the weights.
    """
    settings = {name: value for name, value in settings.items() if name not in ("model_type", "layer_shapes")} | {
        "num_hidden_layers": len(architecture.layers),
        "original_layers": list(architecture.original_layers),
        "original_layer_count": architecture.original_layer_count,
        "head_dim": architecture.head_dim,
        "architectures": None,
        "dtype": None,
    }
    if plain:
        (shape,) = set(architecture.layers)
        settings |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
                     "intermediate_size": shape.mlp_width}
        return LlamaForCausalLM._from_config(LlamaConfig(**settings), dtype=dtype)
    settings |= {"layer_shapes": [[shape.heads, shape.kv_heads, shape.mlp_width] for shape in architecture.layers]}
    return PrunedLlamaForCausalLM._from_config(PrunedLlamaConfig(**settings), dtype=dtype)


def _head_channels(heads: Sequence[int], width: int) -> torch.Tensor:
    """Channel indices of whole heads.  # (heads * width,)"""
    return (torch.tensor(heads)[:, None] * width + torch.arange(width)).flatten()
