"""The fused LoRA pass: PEFT's losses and gradients, and a dropout of the same distribution."""

import numpy as np
import pytest
import torch
from helpers.models import assert_same_loss_and_gradients, loss_and_gradients, tiny_llama, with_lora
from peft.tuners.lora import Linear

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.models.kernels import fused_lora
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.fused_lora import dropped_indices, fused
from rankadaptor.models.kernels.products import packed_products

IDS = torch.randint(2, 96, (3, 11), generator=torch.Generator().manual_seed(0))


def test_losses_and_gradients_are_pefts():
    model = with_lora(tiny_llama())
    plain = loss_and_gradients(model, IDS)
    with fused(model) as fused_modules:
        assert len(fused_modules) == 4 * len(PROJECTIONS)
        assert_same_loss_and_gradients(loss_and_gradients(model, IDS), plain)
    assert loss_and_gradients(model, IDS)[0] == plain[0]  # PEFT's pass is back


def test_gradients_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(fused_lora, "dropped_indices", lambda count, rate: torch.tensor([0, 5, 6, count - 1]))
    draw = torch.Generator().manual_seed(2)
    shapes = ((5, 4), (3, 4), (2, 3, 4), (2, 4), (5, 2), (1, 4), (3, 1))  # of two modules, of ranks 2 and 1
    *bases, x, a, b, c, d = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    products = list(zip(packed_products(bases), packed_products([base.T for base in bases]), strict=True))
    for rate in (0.0, 0.2):
        for factors in ((a, b), (a, b, c, d)):
            count = len(factors) // 2
            group = fused_lora._Group(products[:count], [1.7, 0.6][:count], [], factors)
            assert torch.autograd.gradcheck(
                lambda x, *factors, rate=rate, group=group: fused_lora._FusedLora.apply(x, group, rate, *factors),
                [tensor.requires_grad_() for tensor in (x, *factors)])


def test_dropout_is_of_the_adapters_input_and_keeps_its_mean():
    model = with_lora(tiny_llama(), dropout=0.3)
    torch.manual_seed(0)
    with fused(model), torch.no_grad():
        module = model.get_base_model().model.layers[0].mlp.up_proj
        x = torch.randn(1, 7, 32)
        drawn = torch.stack([module(x) for _ in range(4000)])
        model.eval()
        exact = module(x)
    assert drawn.std(dim=0).min() > 0
    error = (drawn.mean(dim=0) - exact).abs() / (drawn.std(dim=0) / 4000**0.5)
    assert error.mean() < 1.2  # standard errors; 0.8 where the means agree
    assert error.max() < 5


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_dropped_indices_are_independent_draws(rate):
    """Counts are binomial, indices equally likely, and neighbours dropped together as often as independent ones."""
    torch.manual_seed(3)
    count, times = 400, 600
    dropped = np.zeros((times, count))
    for row in dropped:
        indices = dropped_indices(count, rate).numpy()
        assert np.all(np.diff(indices) > 0)
        row[indices] = 1
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(dropped.mean() - rate) < 4 * deviation / (times * count) ** 0.5
    assert dropped.sum(axis=1).std() == pytest.approx(deviation * count**0.5, rel=0.15)
    assert np.abs(dropped.mean(axis=0) - rate).max() < 5 * deviation / times**0.5
    assert (dropped[:, 1:] * dropped[:, :-1]).mean() == pytest.approx(rate**2, abs=5 * rate / (times * count) ** 0.5)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_are_left_to_peft(settings):
    with fused(with_lora(tiny_llama(), **settings)) as fused_modules:
        assert len(fused_modules) == 0


def test_float32_adapters_on_bfloat16_are_as_exact_as_pefts(monkeypatch):
    monkeypatch.setattr(fused_lora, "_fits", lambda adapter, weight: True)  # as on a GPU
    exact = loss_and_gradients(with_lora(tiny_llama()), IDS)
    model = with_lora(tiny_llama().bfloat16())
    plain = loss_and_gradients(model, IDS)
    with fused(model) as fused_modules:
        assert len(fused_modules) == 4 * len(PROJECTIONS)
        ours = loss_and_gradients(model, IDS)
    assert abs(ours[0] - exact[0]) <= 2 * abs(plain[0] - exact[0]) + 5e-3
    off, allowed = (
        torch.stack([(result[1][name] - gradient).norm() / gradient.norm() for name, gradient in exact[1].items()])
        for result in (ours, plain))
    assert off.mean() < 1.2 * allowed.mean()
    assert all(gradient.dtype == torch.float32 for gradient in ours[1].values())


@pytest.mark.parametrize(("base", "adapter"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_another_precision_is_left_to_peft_on_a_cpu(base, adapter):
    model = with_lora(tiny_llama())
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(getattr(torch, adapter if "lora" in name else base))
    with fused(model) as fused_modules:
        assert len(fused_modules) == 0


def test_a_mask_drops_what_indices_drop(monkeypatch):
    """A GPU draws a mask of the inputs that are not dropped. Every module drops other inputs."""
    model = with_lora(tiny_llama(), dropout=0.3)
    results = []
    for by_mask in (False, True):
        draw = torch.Generator().manual_seed(4)

        def drawn(x, rate, by_mask=by_mask, draw=draw):
            mask = torch.rand(x.shape, generator=draw) > rate
            return mask if by_mask else (~mask).flatten().nonzero()[:, 0]

        monkeypatch.setattr(fused_lora, "_drawn_drop", drawn)
        with fused(model):
            results.append(loss_and_gradients(model, IDS))
    assert_same_loss_and_gradients(*results)


def test_losses_and_gradients_with_equal_dropout_are_pefts(monkeypatch):
    """Masks in the order of the modules' forward passes: q, k, v, o, gate, up, down."""
    masks = []

    def drawn(x, rate):
        masks.append(torch.rand(x.shape, generator=torch.Generator().manual_seed(len(masks))) > rate)
        return masks[-1]

    monkeypatch.setattr(fused_lora, "_drawn_drop", drawn)
    model = with_lora(tiny_llama(), dropout=0.3)
    with fused(model) as fused_modules, quick_layers(model, fused_modules):
        ours = loss_and_gradients(model, IDS)
    for module in model.modules():
        if isinstance(module, Linear):
            module.lora_dropout["default"] = Dropped(masks)
    assert_same_loss_and_gradients(ours, loss_and_gradients(model, IDS))
    assert not masks


class Dropped(torch.nn.Dropout):
    """Drops by the first of a list of masks, and removes it from the list."""

    def __init__(self, masks):
        super().__init__(0.3)
        self.masks = masks

    def forward(self, x):
        return x * self.masks.pop(0).view(x.shape) / (1 - self.p)


def test_an_error_inside_leaves_pefts_pass_behind():
    model = with_lora(tiny_llama())
    with pytest.raises(ZeroDivisionError), fused(model):
        raise ZeroDivisionError
    assert not [module for module in model.modules() if "forward" in vars(module)]
