"""Pruned models equal masked ones, importance equals its definition, checkpoints come back bit for bit."""

import pytest
import torch
from helpers.models import gradients, masked, tiny_llama
from transformers import LlamaForCausalLM

from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of, load_model
from rankadaptor.pruning import prune
from rankadaptor.pruning.importance import layer_importance, unit_importance
from rankadaptor.pruning.spec import PruneSpec


def spec(method="llm-pruner", **changes):
    width = method == "llm-pruner"
    settings = {"method": method, "rate_percent": 50, "importance": "element1" if width else "taylor",
                "first_layer": 1, "end_layer": 3, "ratio": 0.5 if width else None, "decoder_share": None,
                "blocks_removed": None if width else 1, "calibration_samples": 3, "calibration_tokens": 12, "seed": 0}
    return PruneSpec(**(settings | changes))


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randint(0, 96, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ratio", "kept_kv_heads"),
    [(4, 4, 0.5, 2), (4, 2, 0.5, 1), (4, 1, 0.5, 1), (8, 8, 0.4, 5)],
    ids=["multi-head", "grouped-query", "one KV head stays", "5 of 8 heads: no divisor of the hidden size"],
)
def test_pruned_logits_equal_masked_logits(heads, kv_heads, ratio, kept_kv_heads, windows):
    dense = tiny_llama(heads=heads, kv_heads=kv_heads)
    pruned = prune(dense, spec(ratio=ratio), windows)
    assert architecture_of(pruned.model).layers[1].kv_heads == kept_kv_heads
    zeroed = masked(tiny_llama(heads=heads, kv_heads=kv_heads), pruned.kept_units)
    ids = torch.randint(0, 96, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(pruned.model(ids).logits, zeroed(ids).logits, atol=1e-5, rtol=1e-5)
    assert pruned.model.num_parameters() < dense.num_parameters()
    assert pruned.model.num_parameters() == architecture_of(pruned.model).parameters()


def test_unit_importance_is_the_sum_over_its_group(windows):
    model = tiny_llama()
    grads = gradients(model, windows)
    salience = {name: (w * grads[name]).abs() for name, w in model.named_parameters()}
    importance = unit_importance(model, windows)
    for layer in range(4):
        def part(name, layer=layer):
            return salience[f"model.layers.{layer}.{name}.weight"]

        for channel in (0, 17):
            expected = (part("mlp.gate_proj")[channel].sum() + part("mlp.up_proj")[channel].sum()
                        + part("mlp.down_proj")[:, channel].sum())
            torch.testing.assert_close(importance[layer].channels[channel], expected)
        for head in range(2):  # a KV head of 8 channels owns two query heads, 16 channels
            own, queries = slice(8 * head, 8 * head + 8), slice(16 * head, 16 * head + 16)
            expected = (part("self_attn.q_proj")[queries].sum() + part("self_attn.o_proj")[:, queries].sum()
                        + part("self_attn.k_proj")[own].sum() + part("self_attn.v_proj")[own].sum())
            torch.testing.assert_close(importance[layer].kv_heads[head], expected)


def test_importance_leaves_no_trace(windows):
    model = tiny_llama()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    unit_importance(model, windows)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_least_important_units_go(windows):
    model = tiny_llama()
    importance = unit_importance(model, windows)
    units = prune(model, spec(), windows).kept_units["layers"][1]
    gone = sorted(set(range(48)) - set(units["channels"]))
    assert len(gone) == 24
    assert importance[1].channels[gone].max() <= importance[1].channels[units["channels"]].min()


def test_layers_out_of_range_are_whole(windows):
    pruned = prune(tiny_llama(), spec(), windows)
    shapes = architecture_of(pruned.model).layers
    assert [shape.mlp_width for shape in shapes] == [48, 24, 24, 48]
    assert [shape.kv_heads for shape in shapes] == [2, 1, 1, 2]


def test_layer_importance_is_the_sum_over_nine_tensors(windows):
    model = tiny_llama()
    grads = gradients(model, windows)
    scores = layer_importance(model, windows)
    for layer in range(4):
        named = [(n, w) for n, w in model.named_parameters() if n.startswith(f"model.layers.{layer}.")]
        assert len(named) == 9
        torch.testing.assert_close(
            scores[layer].float(), sum(((w * grads[n]).abs().sum() for n, w in named)), atol=1e-5, rtol=1e-4)


def test_layer_order_does_not_depend_on_the_batch(windows):
    """Gradients are linear: scoring windows one by one and adding signed gradients gives the same order."""
    model = tiny_llama(seed=3)
    total = {}
    for window in windows:
        for name, grad in gradients(model, window[None]).items():
            total[name] = total.get(name, 0) + grad
    weights = dict(model.named_parameters())
    summed = [sum((weights[n] * total[n]).abs().sum() for n in total if n.startswith(f"model.layers.{layer}."))
              for layer in range(4)]
    assert torch.argsort(torch.stack(summed)).tolist() == torch.argsort(layer_importance(model, windows)).tolist()


def test_depth_pruning_removes_the_least_important_layer_alone(windows):
    dense = tiny_llama()
    pruned = prune(dense, spec("shortened"), windows)
    order = pruned.importance["order"]
    gone = next(layer for layer in order if layer in (1, 2))
    assert pruned.kept_units["blocks"] == [layer for layer in range(4) if layer != gone]
    assert isinstance(pruned.model, LlamaForCausalLM)
    for position, original in enumerate(pruned.kept_units["blocks"]):
        for name, weight in pruned.model.model.layers[position].named_parameters():
            assert torch.equal(weight, dict(dense.model.layers[original].named_parameters())[name])
    with pytest.raises(BadInput, match="3 blocks are to go, but only 2 of 4 are not protected"):
        prune(dense, spec("shortened", blocks_removed=3), windows)


@pytest.mark.parametrize("method", ["llm-pruner", "shortened"])
def test_checkpoints_come_back_bit_for_bit_and_generate(method, windows, tmp_path):
    pruned = prune(tiny_llama(), spec(method), windows).model
    pruned.save_pretrained(tmp_path)
    again = load_model(tmp_path, torch.device("cpu"))
    assert type(again) is type(pruned)
    assert architecture_of(again) == architecture_of(pruned)
    for name, weight in pruned.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    prompt = torch.tensor([[5, 6, 7]])
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = again.generate(prompt, use_cache=True, **greedy)
    plain = pruned.generate(prompt, use_cache=False, **greedy)
    assert cached.tolist() == plain.tolist()
    assert not list(tmp_path.glob("*.bin"))


def test_depth_pruned_checkpoints_are_plain_llama(windows, tmp_path):
    pruned = prune(tiny_llama(), spec("shortened"), windows).model
    pruned.save_pretrained(tmp_path)
    stock = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(stock(ids).logits, pruned(ids).logits)


def test_a_range_of_layers_outside_the_model_is_refused(llama, windows):
    with pytest.raises(BadInput, match=r"layers 2\.\.8 do not lie in a model of 4 layers"):
        prune(llama, spec("shortened", first_layer=2, end_layer=9), windows)


@pytest.mark.parametrize("method", ["llm-pruner", "shortened"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_in_memory_is_the_one_on_disk(method, dtype, windows, tmp_path):
    """Rotary frequencies stay in float32: a cast to bfloat16 would change them."""
    cpu = torch.device("cpu")
    tiny_llama().to(dtype).save_pretrained(tmp_path / "dense")
    dense = load_model(tmp_path / "dense", cpu)
    assert dense.dtype == dtype
    pruned = prune(dense, spec(method), windows).model
    pruned.save_pretrained(tmp_path / "pruned")
    again = load_model(tmp_path / "pruned", cpu)
    assert pruned.dtype == again.dtype == dtype
    for model in (pruned, again):
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert torch.equal(model.model.rotary_emb.inv_freq, dense.model.rotary_emb.inv_freq)
    ids = torch.randint(0, 96, (2, 20))
    with torch.no_grad():
        assert torch.equal(pruned(ids).logits, again(ids).logits)


@pytest.mark.parametrize("kind", ["element1", "element2", "mixed"])
def test_importance_in_float16_does_not_vanish(kind, tmp_path):
    """With weights as small as a real model's, gradients of a mean loss lie below what float16 can hold."""
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight *= 1e-3
    model.half().save_pretrained(tmp_path)
    half = load_model(tmp_path, torch.device("cpu"))
    windows = torch.randint(0, 96, (8, 40), generator=torch.Generator().manual_seed(1))
    full = load_model(tmp_path, torch.device("cpu")).float()
    expected, measured = (unit_importance(model, windows, kind) for model in (full, half))
    for reference, layer in zip(expected, measured, strict=True):
        torch.testing.assert_close(layer.kv_heads, reference.kv_heads, rtol=0.05, atol=0)
        torch.testing.assert_close(layer.channels, reference.channels, rtol=0.2, atol=0)


def test_importance_restores_gradients_that_were_there(llama, windows):
    for parameter in llama.parameters():
        parameter.grad = torch.ones_like(parameter)
    scores = layer_importance(llama, windows)
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in llama.parameters())
    assert torch.equal(scores, layer_importance(tiny_llama(), windows))


def test_importance_that_is_no_number_is_refused(llama, windows):
    llama.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    for method in ("llm-pruner", "shortened"):
        with pytest.raises(BadInput, match="is not finite: use float32 or bfloat16"):
            prune(llama, spec(method), windows)


def test_pruning_layers_twice_keeps_the_first_models_numbers(windows):
    once = prune(tiny_llama(layers=6), spec("shortened", end_layer=5), windows).model
    twice = architecture_of(prune(once, spec("shortened", end_layer=4), windows).model)
    assert twice.original_layer_count == 6
    assert set(twice.original_layers) < set(architecture_of(once).original_layers)
    assert len(twice.original_layers) == 4


def test_a_share_is_reached_in_steps_that_never_rise(windows):
    """Few KV heads leave in leaps: the widths on the way fall evenly all the same."""
    model = tiny_llama(heads=4, kv_heads=2)  # at ratio 0.55 one of two KV heads goes, at three quarters of it none
    for iterations in (1, 4):
        pruned = prune(model, spec(ratio=0.55, decoder_share=0.12, iterations=iterations), windows)
        shapes = architecture_of(pruned.model)
        before = architecture_of(model).decoder_parameters()
        assert shapes.layers[1].kv_heads == 1
        assert 1 - shapes.decoder_parameters() / before == pytest.approx(0.12, abs=0.004)
