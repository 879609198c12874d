"""LoRA's forward and backward pass in few operations, with a dropout that draws only what it drops.

PEFT's own pass is right everywhere and slow on CPUs: 16 operations a module where 8 do, and a random number for every
input where one for every dropped input does (at 5 %, a twentieth). Within `fused`, plain LoRA modules compute

    y = W x + s / (1 - p) B A D x,     D: each input kept with probability 1 - p

as before, gradients by hand. Without dropout, losses and gradients are PEFT's to rounding; with it, in distribution.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import nn

from rankadaptor.products import product


@contextlib.contextmanager
def fused(adapted: PeftModel) -> Iterator[int]:
    """Let the plain LoRA modules of an adapter on a CPU compute their pass as above; yields how many there are.

    Left as they are: modules of other kinds (AdaLoRA's, variants such as DoRA), with a bias, quantised, merged or in a
    precision of their own, and all on a GPU, where dropout costs nothing.
    """
    modules = [module for module in adapted.modules() if isinstance(module, Linear) and _is_plain(module)]
    for module in modules:
        module.forward = partial(_forward, module)
    try:
        yield len(modules)
    finally:
        for module in modules:
            del module.forward  # the class's own is behind it


def _is_plain(module: Linear) -> bool:
    base = module.get_base_layer()
    return (
        type(base) is nn.Linear
        and base.bias is None
        and base.weight.device.type == "cpu"
        and list(module.lora_A) == module.active_adapters == ["default"]
        and base.weight.dtype == module.lora_A["default"].weight.dtype == module.lora_B["default"].weight.dtype
        and not (module.merged or module.disable_adapters or module.lora_variant or module.lora_bias["default"])
        and not base.weight.requires_grad
    )


def _forward(module: Linear, x: torch.Tensor) -> torch.Tensor:
    dropout = module.lora_dropout["default"]
    share = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    base, down, up = (part.weight for part in (module.base_layer, module.lora_A["default"], module.lora_B["default"]))
    return _FusedLora.apply(x, base, down, up, module.scaling["default"], share)


class _FusedLora(torch.autograd.Function):
    """Inputs: x (..., in), W (out, in), A (rank, in), B (out, rank), scaling, share of the inputs that is dropped."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, base: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float,
        share: float,
    ) -> torch.Tensor:  # fmt: skip
        flat = x.reshape(-1, x.shape[-1])  # (tokens, in)
        dropped = dropped_places(flat.numel(), share) if share else None
        low = product(_without(flat, dropped), down)  # (tokens, rank)
        ctx.scale = scaling / (1 - share)
        ctx.shape = x.shape
        ctx.save_for_backward(flat, low, base, down, up, dropped)
        return product(flat, base).addmm_(low, up.T, alpha=ctx.scale).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, low, base, down, up, dropped = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])  # (tokens, out)
        of_low = product(gradient, up.T).mul_(ctx.scale)  # (tokens, rank)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = product(gradient, base.T)
            if dropped is None:
                of_x.addmm_(of_low, down)
            else:
                of_x += _zeroed(of_low @ down, dropped)
            of_x = of_x.view(ctx.shape)
        of_up = product(low.T, gradient.T).T * ctx.scale
        return of_x, None, product(of_low.T, _without(flat, dropped).T), of_up, None, None


def _without(x: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    return x if dropped is None else _zeroed(x.clone(), dropped)


def _zeroed(x: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    x.view(-1).index_fill_(0, dropped, 0.0)
    return x


def dropped_places(count: int, share: float) -> torch.Tensor:
    """Places of `count` independent draws that fall to a share: gaps between them are geometric.  # (drops,), rising

    Draws from torch's global generator, about `share * count` uniform numbers of 24 bits.
    """
    expected = share * count
    found = torch.zeros(1, dtype=torch.int64)
    while int(found[-1]) <= count:  # the first piece is enough but for one time in a billion
        drawn = torch.rand(int(expected + 6 * expected**0.5) + 16)
        gaps = 1 + drawn.neg_().log1p_().div_(math.log1p(-share)).long()
        found = torch.cat([found, found[-1] + gaps.cumsum(0)])
    return found[1 : int(torch.searchsorted(found, count, right=True))] - 1
