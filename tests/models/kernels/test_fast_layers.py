"""LLaMA's layers in fewer operations: results and gradients are those of transformers, where they are replaced."""

import pytest
import torch
from helpers.models import assert_same_loss_and_gradients, loss_and_gradients, tiny_llama, with_lora
from torch.utils._python_dispatch import TorchDispatchMode

from rankadaptor.models.kernels import fast_layers
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.fused_lora import fused
from rankadaptor.models.patching import replaced
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec


def ids(rows, tokens, seed=0):
    return torch.randint(2, 96, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def models():
    """Query heads of one key and of several, and pruned to widths of their own."""
    width = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
    return {"grouped": tiny_llama(), "plain": tiny_llama(kv_heads=4, seed=1),
            "pruned": prune(tiny_llama(kv_heads=4), width, ids(3, 8)).model}


@pytest.mark.parametrize("name", ["grouped", "plain", "pruned"])
@pytest.mark.parametrize("tokens", [1, 11, fast_layers._SHORT_TOKENS, fast_layers._SHORT_TOKENS + 16])
def test_losses_and_gradients_equal_transformers_and_peft(name, tokens):
    model = with_lora(models()[name])
    batch = ids(3, tokens + 1)
    plain = loss_and_gradients(model, batch)
    with fused(model) as fused_modules, quick_layers(model, fused_modules) as count:
        assert count == 4 * 4 + 1  # attention, MLP and two norms a layer; the last norm
        assert_same_loss_and_gradients(loss_and_gradients(model, batch), plain)
    assert loss_and_gradients(model, batch)[0] == plain[0]  # transformers' own layers are back


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_without_gradients_and_adapters_logits_are_the_same(activation):
    model = tiny_llama(activation=activation)
    with torch.inference_mode():
        plain = model(ids(2, 30), use_cache=False).logits
        with quick_layers(model):
            torch.testing.assert_close(model(ids(2, 30), use_cache=False).logits, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_is_masked_as_ever(attention):
    model = tiny_llama()
    model.set_attn_implementation(attention)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    inputs = {"input_ids": ids(2, 6), "attention_mask": mask, "use_cache": False}
    plain = model(**inputs).logits
    with quick_layers(model):
        logits = model(**inputs).logits
    torch.testing.assert_close(logits[mask.bool()], plain[mask.bool()], atol=1e-5, rtol=1e-4)


def test_generation_with_a_cache_writes_the_same():
    model = tiny_llama()
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(ids(2, 5), **settings)
    with quick_layers(model):
        assert torch.equal(model.generate(ids(2, 5), **settings), plain)


def test_gradients_are_those_of_finite_differences():
    draw = torch.Generator().manual_seed(2)

    def drawn(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    weight, angles = drawn(6), drawn(1, 3, 4)
    cosines, sines = torch.cat([angles, 2 * angles], -1).cos(), torch.cat([angles, 3 * angles], -1).sin()
    assert torch.autograd.gradcheck(lambda x: fast_layers._Norm.apply(x, weight, 1e-3), drawn(2, 3, 6).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x: fast_layers._Rotary.apply(x, cosines, sines), drawn(2, 3, 2, 8).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda *states: fast_layers._ShortAttention.apply(*states, 0.7),
        [drawn(2, heads, 3, 4).requires_grad_() for heads in (4, 2, 2)])


def test_attention_is_pytorchs():
    draw = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, heads, 9, 5, generator=draw) for heads in (6, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(fast_layers._ShortAttention.apply(query, key, value, 0.3), expected)


def test_norms_that_are_trained_keep_their_gradients():
    model = tiny_llama().train()
    plain = loss_and_gradients(model, ids(2, 9))
    assert "model.norm.weight" in plain[1]
    with quick_layers(model):
        assert_same_loss_and_gradients(loss_and_gradients(model, ids(2, 9)), plain)


def test_other_precisions_are_left_alone():
    with quick_layers(tiny_llama().bfloat16()) as count:
        assert count == 0


def test_an_error_inside_leaves_the_plain_layers_behind():
    model = with_lora(tiny_llama())
    with pytest.raises(ZeroDivisionError), fused(model) as fused_modules, quick_layers(model, fused_modules):
        raise ZeroDivisionError
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_replaced_passes_lie_on_one_another():
    layer = torch.nn.Identity()
    with replaced([layer], lambda module, x: x + 1):
        with replaced([layer], lambda module, x: 10 * x) as count:
            assert (count, layer(3)) == (1, 30)
        assert layer(3) == 4
    assert layer(3) == 3


class Counted(TorchDispatchMode):
    """How many numbers are written; views write none."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **kwargs or {})
        written = output if isinstance(output, tuple | list) else [output]
        if not func.is_view and func.name() != "aten::_unsafe_view":
            self.count += sum(tensor.numel() for tensor in written if isinstance(tensor, torch.Tensor))
        return output


def test_a_step_writes_fewer_numbers():
    """A guard against computing more than is needed, by counts: times are the machine's."""
    model = with_lora(tiny_llama())
    with Counted() as plain:
        loss_and_gradients(model, ids(2, 20))
    with fused(model) as fused_modules, quick_layers(model, fused_modules), Counted() as quick:
        loss_and_gradients(model, ids(2, 20))
    assert quick.count < 0.8 * plain.count
