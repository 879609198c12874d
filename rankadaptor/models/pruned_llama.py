"""LLaMA with a number of heads and MLP channels per layer, registered with transformers' Auto classes.

A pruned model is a plain LLaMA checkpoint plus three entries of its `config.json`:
`layer_shapes` [[heads, kv_heads, mlp_width], ...], `original_layers` (0-based, in the unpruned model) and
`original_layer_count`. Depth-pruned models keep the stock class, since all their layers are alike.
"""

import copy

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP


class PrunedLlamaConfig(LlamaConfig):
    """LLaMA's configuration with one shape per layer."""

    model_type = "pruned_llama"

    layer_shapes: list[list[int]] | None = None  # (heads, kv_heads, mlp_width) of each layer
    original_layers: list[int] | None = None  # 0-based, in the unpruned model
    original_layer_count: int | None = None

    def for_layer(self, layer: int) -> LlamaConfig:
        """The configuration from which LLaMA's own modules build one layer."""
        config = copy.copy(self)
        if self.layer_shapes:
            heads, kv_heads, width = self.layer_shapes[layer]
            config.num_attention_heads, config.num_key_value_heads, config.intermediate_size = heads, kv_heads, width
        return config


def _narrow(model: LlamaModel, config: PrunedLlamaConfig) -> None:
    """Give every layer, in place, attention and an MLP of its own shape."""
    for index, layer in enumerate(model.layers):
        layer_config = config.for_layer(index)
        layer.self_attn = LlamaAttention(layer_config, index)
        layer.self_attn.config = config  # attention reads its implementation here, and it may change later
        layer.mlp = LlamaMLP(layer_config)


class PrunedLlamaModel(LlamaModel):
    """The decoder without the output head, whose layers may differ in heads and MLP width; everything else is stock."""

    config_class = PrunedLlamaConfig

    def __init__(self, config: PrunedLlamaConfig):
        super().__init__(config)
        _narrow(self, config)
        self.post_init()


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    """LLaMA whose layers may differ in heads and MLP width; everything else is stock."""

    config_class = PrunedLlamaConfig

    def __init__(self, config: PrunedLlamaConfig):
        super().__init__(config)
        _narrow(self.model, config)
        self.post_init()


AutoConfig.register("pruned_llama", PrunedLlamaConfig)
AutoModel.register(PrunedLlamaConfig, PrunedLlamaModel)
AutoModelForCausalLM.register(PrunedLlamaConfig, PrunedLlamaForCausalLM)
