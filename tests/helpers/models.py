"""Tiny models, and what is computed with them."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec


def tiny_llama(
    layers: int = 4, heads: int = 4, kv_heads: int = 2, seed: int = 0, vocabulary: int = 96, activation: str = "silu"
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=8,
        intermediate_size=48, vocab_size=vocabulary, max_position_embeddings=512, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=True, initializer_range=0.2, hidden_act=activation,
    )
    return LlamaForCausalLM(config).eval()


def llamas() -> dict[str, LlamaForCausalLM]:
    """Dense, GQA or not, and pruned in width and in depth."""
    windows = torch.randint(2, 96, (3, 8), generator=torch.Generator().manual_seed(0))
    width = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
    depth = PruneSpec("shortened", 50, "magnitude", 1, 3, None, None, 1, 3, 8, 0)
    return {"grouped": tiny_llama(), "plain": tiny_llama(kv_heads=4, seed=1),
            "width": prune(tiny_llama(kv_heads=4), width, windows).model,
            "depth": prune(tiny_llama(), depth, windows).model}


def loss_and_gradients(model, tokens) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean next-token loss, and its gradients by the names of parameters that are trained."""
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}
    model.zero_grad()
    return loss.item(), found


def gradients(model, tokens) -> dict[str, torch.Tensor]:
    return loss_and_gradients(model, tokens)[1]


def assert_same_loss_and_gradients(found, plain) -> None:
    """Of two ways of computing one step: equal but for rounding."""
    assert found[0] == pytest.approx(plain[0], abs=2e-6)
    assert found[1].keys() == plain[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, plain[1][name], atol=2e-6, rtol=1e-4)


def with_lora(model, dropout: float = 0.0, **settings) -> PeftModel:
    """A trained-looking adapter of rank 3 in every projection: B is not 0."""
    config = LoraConfig(r=3, lora_alpha=5, target_modules=list(PROJECTIONS), lora_dropout=dropout,
                        task_type="CAUSAL_LM", **settings)
    adapted = get_peft_model(model, config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return adapted.train()


def masked(model: LlamaForCausalLM, kept: dict) -> LlamaForCausalLM:
    """The dense model itself, with what is not kept set to zero, or without the blocks that are gone."""
    if "blocks" in kept:
        model.model.layers = torch.nn.ModuleList([model.model.layers[i] for i in kept["blocks"]])
        for position, layer in enumerate(model.model.layers):
            layer.self_attn.layer_idx = position
        model.config.num_hidden_layers = len(kept["blocks"])
        return model
    config = model.config
    for layer, units in zip(model.model.layers, kept["layers"], strict=True):
        heads = torch.zeros(config.num_key_value_heads)
        heads[units["kv_heads"]] = 1
        per_head = config.num_attention_heads // config.num_key_value_heads * config.head_dim
        layer.self_attn.o_proj.weight.data *= heads.repeat_interleave(per_head)
        channels = torch.zeros(config.intermediate_size)
        channels[units["channels"]] = 1
        layer.mlp.down_proj.weight.data *= channels
    return model
