"""Products by oneDNN: those of PyTorch to rounding, with their gradients, and only where they may stand in."""

import pytest
import torch
from helpers.models import assert_same_loss_and_gradients, loss_and_gradients, tiny_llama
from torch.nn import functional

from rankadaptor.models.kernels import products
from rankadaptor.models.kernels.products import packed_products, product, quick_products

IDS = torch.randint(2, 96, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_minimum_size(monkeypatch):
    monkeypatch.setattr(products, "_MIN_MULTIPLICATIONS", 0)


def drawn(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (1, 1, 12)])
def test_products_are_pytorchs_own_in_any_shape_and_type(shape, dtype):
    x, weight = drawn(*shape, dtype=dtype), drawn(9, 12, dtype=dtype)
    output = product(x, weight)
    assert output.dtype == dtype
    torch.testing.assert_close(output, functional.linear(x, weight))


def test_strides_do_not_matter():
    x, weight = drawn(31, 20), drawn(20, 31)
    torch.testing.assert_close(product(x.T, weight), x.T @ weight.T)
    torch.testing.assert_close(product(weight, x.T), weight @ x)
    torch.testing.assert_close(product(x[::2, 3:15], weight[3:15, ::3].T), x[::2, 3:15] @ weight[3:15, ::3])
    torch.testing.assert_close(product(x[:, :1].expand(31, 20), weight.T), x[:, :1].expand(31, 20) @ weight)
    torch.testing.assert_close(product(x[::2][:1], weight[::2][:1].T[:20].T), x[:1] @ weight[:1, :20].T)
    torch.testing.assert_close(product(x[:, ::7][:, :1], weight[:, ::5][:, :1]), x[:, :1] @ weight[:, :1].T)
    torch.testing.assert_close(product(x.view(31, 4, 5).transpose(0, 1), weight[:7, :5]),
                               x.view(31, 4, 5).transpose(0, 1) @ weight[:7, :5].T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("room", [0, 2**31])
def test_copies_of_weights_multiply_as_the_weights_do(dtype, room, monkeypatch):
    monkeypatch.setattr(products, "_MAX_PACKED_BYTES", room)
    weights = [drawn(9, 12, dtype=dtype), drawn(12, 30, dtype=dtype).T]
    for x in (drawn(7, 12, dtype=dtype), drawn(2, 5, 12, dtype=dtype), drawn(12, 6, dtype=dtype).T):
        for weight, multiply in zip(weights, packed_products(weights), strict=True):
            torch.testing.assert_close(multiply(x), functional.linear(x, weight))


def test_copies_serve_passes_without_gradients_alone():
    model = tiny_llama()
    with torch.no_grad():
        plain = model(IDS).logits
        with quick_products(model, pack=True):
            torch.testing.assert_close(model(IDS).logits, plain, atol=1e-5, rtol=1e-4)
            with torch.enable_grad():
                model(IDS).logits.sum().backward()
            model.model.layers[0].mlp.up_proj.weight.mul_(2)
            stale = model(IDS).logits
        changed = model(IDS).logits
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
    torch.testing.assert_close(stale, plain, atol=1e-5, rtol=1e-4)
    assert (changed - plain).abs().max() > 1e-3


def test_sums_are_of_float32_and_no_coarser():
    """A product of bfloat16 or TF32 would be off by 1e-3 and more."""
    x, weight = drawn(300, 700), drawn(200, 700)
    exact = x.double() @ weight.double().T
    assert (product(x, weight) - exact).abs().max() < 1e-5 * exact.abs().max()


def test_it_is_onednn_that_multiplies(monkeypatch):
    """Where PyTorch has it; without, results are PyTorch's bit for bit."""
    x, weight = drawn(200, 300), drawn(100, 300)
    with torch.profiler.profile() as profile:
        product(x, weight)
    names = {event.key for event in profile.key_averages()}
    assert any("mkldnn" in name for name in names) == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(products, "_has_onednn", lambda: False)
    assert torch.equal(product(x, weight), functional.linear(x, weight))


def test_small_products_stay_with_pytorch(monkeypatch):
    monkeypatch.setattr(products, "_MIN_MULTIPLICATIONS", 10 * 10 * 10 + 1)
    x = drawn(10, 10)
    with torch.profiler.profile() as profile:
        product(x, x)
    assert not any("mkldnn" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("frozen", ["nothing", "q_proj", "down_proj", "proj"])
def test_losses_and_gradients_are_those_of_the_plain_model(frozen):
    model = tiny_llama().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = frozen not in name
    plain = loss_and_gradients(model, IDS)
    with quick_products(model) as count:
        assert count == 4 * 7 + 1
        assert_same_loss_and_gradients(loss_and_gradients(model, IDS), plain)
    assert loss_and_gradients(model, IDS)[0] == plain[0]  # the plain layers are back


def test_gradients_are_those_of_finite_differences():
    x, weight = drawn(6, 4, dtype=torch.float64).requires_grad_(), drawn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: products._FrozenLinear.apply(x, weight), (x,))


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4)])
def test_results_may_be_changed_in_place(shape):
    """As PEFT's AdaLoRA does."""
    layer = torch.nn.Linear(4, 5, bias=False).requires_grad_(False)
    x = drawn(*shape).requires_grad_()
    with quick_products(layer):
        result = layer(x)
        result += 1
        result.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(shape))


def test_layers_with_a_bias_and_subclasses_are_left_alone():
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Own(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    with quick_products(model) as count:
        assert count == 1
        assert "forward" in vars(model[2])


def test_an_error_inside_leaves_the_plain_layers_behind():
    model = tiny_llama()
    with pytest.raises(ZeroDivisionError), quick_products(model):
        raise ZeroDivisionError
    assert not [module for module in model.modules() if "forward" in vars(module)]
