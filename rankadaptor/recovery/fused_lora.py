"""LoRA's forward and backward pass in few operations, with a dropout that draws only what it drops.

PEFT's own pass is right everywhere and slow on CPUs: 16 operations a module where 8 do, and a random number for every
input where one for every dropped input does (at 5 %, a twentieth). Within `fused`, plain LoRA modules compute

    y = W x + s / (1 - p) B A D x,     D: each input kept with probability 1 - p

as before, gradients by hand; modules of one input, such as a layer's q, k and v, share what they can (`together`).
Without dropout, losses and gradients are PEFT's to rounding; with it, in distribution.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import nn

from rankadaptor.forwards import replaced
from rankadaptor.products import product


@contextlib.contextmanager
def fused(adapted: PeftModel) -> Iterator[int]:
    """Let the plain LoRA modules of an adapter on a CPU compute their pass as above; yields how many there are.

    Left as they are: modules of other kinds (AdaLoRA's, variants such as DoRA), with a bias, quantised, merged or in a
    precision of their own, and all on a GPU, where dropout costs nothing.
    """
    with replaced([one for one in adapted.modules() if isinstance(one, Linear) and _is_plain(one)], _forward) as count:
        yield count


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
    return together([module], x)[0]


def together(modules: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
    """Outputs of several modules for one input; those that are `fused` and drop alike, in one pass."""
    if not all(_is_fused(module) for module in modules) or len({_share(module) for module in modules}) > 1:
        return [module(x) for module in modules]
    parts = [part.weight for one in modules for part in (one.base_layer, one.lora_A["default"], one.lora_B["default"])]
    return _FusedLora.apply(x, [one.scaling["default"] for one in modules], _share(modules[0]), *parts)


def _is_fused(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _forward


def _share(module: Linear) -> float:
    dropout = module.lora_dropout["default"]
    return dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0


class _FusedLora(torch.autograd.Function):
    """Inputs: x (..., in), scalings, share of the inputs that is dropped; W (out, in), A (rank, in) and B (out, rank) of
    each module. Outputs: one (..., out) a module.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scalings: Sequence[float], share: float, *parts: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        bases, downs, ups = parts[::3], parts[1::3], parts[2::3]
        flat = x.reshape(-1, x.shape[-1])  # (tokens, in)
        dropped = [dropped_places(flat.numel(), share) for _ in bases] if share else []
        if share:
            lows = [product(down, _without(flat, some)) for some, down in zip(dropped, downs, strict=True)]
        else:
            lows = product(_joined(downs), flat).split([len(down) for down in downs])  # (rank, tokens) each
        ctx.scales = [scaling / (1 - share) for scaling in scalings]
        ctx.save_for_backward(flat, *parts, *lows, *dropped)
        ctx.count, ctx.shape = len(bases), x.shape
        return tuple(
            product(flat, base).addmm_(low.T, up.T, alpha=scale).view(*x.shape[:-1], -1)
            for base, low, up, scale in zip(bases, lows, ups, ctx.scales, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        count = ctx.count
        flat, *parts = ctx.saved_tensors
        bases, downs, ups = parts[: 3 * count : 3], parts[1 : 3 * count : 3], parts[2 : 3 * count : 3]
        lows, dropped = parts[3 * count : 4 * count], parts[4 * count :]
        flown = [gradient.reshape(len(flat), -1) for gradient in gradients]  # (tokens, out) each
        of_lows = [product(up.T, one).mul_(scale) for one, up, scale in zip(flown, ups, ctx.scales, strict=True)]
        of_ups = [product(low, one.T).T * scale for low, one, scale in zip(lows, flown, ctx.scales, strict=True)]
        if dropped:
            of_downs = [product(one, _without(flat, some).T) for one, some in zip(of_lows, dropped, strict=True)]
        else:
            of_low = _joined(of_lows)  # (ranks, tokens)
            of_downs = product(of_low, flat.T).split([len(down) for down in downs])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = product(flown[0], bases[0].T)
            for one, base in zip(flown[1:], bases[1:], strict=True):
                of_x.addmm_(one, base)
            if dropped:
                for one, down, some in zip(of_lows, downs, dropped, strict=True):
                    of_x += _zeroed(one.T @ down, some)
            else:
                of_x.addmm_(of_low.T, _joined(downs))
            of_x = of_x.view(ctx.shape)
        of_parts = [one for trio in zip([None] * count, of_downs, of_ups, strict=True) for one in trio]
        return of_x, None, None, *of_parts


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


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
