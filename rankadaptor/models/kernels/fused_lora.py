"""LoRA's forward and backward pass in few operations, with a dropout that, on a CPU, draws only what it drops.

PEFT's own pass is right everywhere and slow: 16 operations a module where 8 do, on a half-precision base in float32;
on a CPU, a random number for every input where one for every dropped input does (at 5 %, a twentieth). Within `fused`,
plain LoRA modules compute

    y = W x + (s / (1 - p) B) A D x,     D: each input kept with probability 1 - p

as before, gradients by hand; modules of one input, such as a layer's q, k and v, share what they can (`Together`).
Without dropout, losses and gradients are PEFT's to rounding; with it, in distribution. Where adapters are in float32 on
a base in half precision, products are taken in the base's precision, as autocast does, and their gradients summed up in
float32.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import nn

from rankadaptor.models.kernels.patching import replaced
from rankadaptor.models.kernels.products import Multiply, packed, product


@dataclass(frozen=True, eq=False)
class _Group:
    """Modules of one input."""

    products: Sequence[tuple[Multiply, Multiply]]  # with a module's W, and with its transpose
    scalings: Sequence[float]
    dropouts: Sequence[nn.Module]
    parts: Sequence[nn.Parameter]  # A and B of each module in turn

    def shares(self) -> set[float]:
        """Of the inputs, the shares that modules drop."""
        return {one.p if isinstance(one, nn.Dropout) and one.training else 0.0 for one in self.dropouts}


class Together:
    """Applies modules to one input: those that are fused, and drop alike, in one pass."""

    def __init__(self, modules: Sequence[Linear]):
        """
        Args:
            modules: Those that are fused; their frozen weights and their scalings must not change meanwhile.
        """
        weights = [module.get_base_layer().weight.detach() for module in modules]
        multiply = packed([*weights, *(weight.T for weight in weights)])  # forward, and backward
        pairs = zip(multiply[: len(modules)], multiply[len(modules) :], strict=True)
        self._products = dict(zip(modules, pairs, strict=True))
        self._groups: dict[tuple[nn.Module, ...], _Group | None] = {}

    def __len__(self) -> int:
        """How many modules are fused."""
        return len(self._products)

    def __call__(self, modules: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Outputs of the modules, fused or not."""
        key = tuple(modules)
        if key not in self._groups:
            self._groups[key] = self._group(modules)
        group = self._groups[key]
        if group is None or len(shares := group.shares()) > 1:
            return [module(x) for module in modules]
        return _FusedLora.apply(x, group, shares.pop(), *group.parts)

    def _group(self, modules: Sequence[nn.Module]) -> _Group | None:
        ours = [module for module in modules if isinstance(module, Linear) and module in self._products]
        if len(ours) < len(modules):
            return None
        return _Group([self._products[one] for one in ours], [one.scaling["default"] for one in ours],
                      [one.lora_dropout["default"] for one in ours],
                      [part.weight for one in ours for part in (one.lora_A["default"], one.lora_B["default"])])


@contextlib.contextmanager
def fused(adapted: PeftModel) -> Iterator[Together]:
    """Let the plain LoRA modules of an adapter compute their pass as above; yields what applies several.

    Left as they are: modules of other kinds (AdaLoRA's, variants such as DoRA), with a bias, quantised or merged,
    adapters in less than their base's precision and, on a CPU, in another one.
    """
    modules = [one for one in adapted.modules() if isinstance(one, Linear) and _is_plain(one)]
    together = Together(modules)
    with replaced(modules, lambda module, x: together([module], x)[0]):
        yield together


def _is_plain(module: Linear) -> bool:
    base = module.get_base_layer()
    return (
        type(base) is nn.Linear
        and base.bias is None
        and list(module.lora_A) == module.active_adapters == ["default"]
        and all(_fits(part["default"].weight, base.weight) for part in (module.lora_A, module.lora_B))
        and not (module.merged or module.disable_adapters or module.lora_variant or module.lora_bias["default"])
        and not base.weight.requires_grad
    )


def _fits(adapter: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether an adapter is in its base's precision or, on a GPU, in a higher one."""
    if weight.device.type == "cpu":
        return adapter.dtype == weight.dtype
    return torch.promote_types(adapter.dtype, weight.dtype) == adapter.dtype


class _FusedLora(torch.autograd.Function):
    """Inputs: x (..., in), modules, the share of the inputs that is dropped, and A (rank, in) and B (out, rank) of each
    module. Outputs: one (..., out) a module.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, group: _Group, share: float, *parts: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])  # (tokens, in)
        scales = [scaling / (1 - share) for scaling in group.scalings]
        downs = [down.to(flat.dtype) for down in parts[::2]]
        ups = [(up * scale).to(flat.dtype) for up, scale in zip(parts[1::2], scales, strict=True)]
        drawn = [_drawn(flat, share) for _ in downs] if share else []
        if share:
            lows = [product(down, _less(flat, some)) for some, down in zip(drawn, downs, strict=True)]
        else:
            lows = product(_joined(downs), flat).split([len(down) for down in downs])  # (rank, tokens) each
        ctx.save_for_backward(flat, *downs, *ups, *lows, *drawn)
        ctx.products, ctx.scales, ctx.shape, ctx.dtypes = group.products, scales, x.shape, [one.dtype for one in parts]
        return tuple(
            forward(flat).addmm_(low.T, up.T).view(*x.shape[:-1], -1)
            for (forward, _), low, up in zip(group.products, lows, ups, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        count = len(ctx.products)
        flat, *rest = ctx.saved_tensors
        downs, ups, lows, drawn = (rest[i * count : (i + 1) * count] for i in range(4))
        flown = [gradient.reshape(len(flat), -1) for gradient in gradients]  # (tokens, out) each
        of_lows = [product(up.T, one) for one, up in zip(flown, ups, strict=True)]
        of_ups = [product(low, one.T).T * scale for low, one, scale in zip(lows, flown, ctx.scales, strict=True)]
        if drawn:
            of_downs = [product(one, _less(flat, some).T) for one, some in zip(of_lows, drawn, strict=True)]
        else:
            of_low = _joined(of_lows)  # (ranks, tokens)
            of_downs = product(of_low, flat.T).split([len(down) for down in downs])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.products[0][1](flown[0])
            for (_, backward), one in zip(ctx.products[1:], flown[1:], strict=True):
                of_x += backward(one)
            if drawn:
                for one, down, some in zip(of_lows, downs, drawn, strict=True):
                    of_x += _drop(one.T @ down, some)
            else:
                of_x.addmm_(of_low.T, _joined(downs))
            of_x = of_x.view(ctx.shape)
        of_parts = (one for pair in zip(of_downs, of_ups, strict=True) for one in pair)
        return of_x, None, None, *(one.to(dtype) for one, dtype in zip(of_parts, ctx.dtypes, strict=True))


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _drawn(x: torch.Tensor, share: float) -> torch.Tensor:
    """Which numbers of x are dropped: their places; on a GPU, where draws cost little, a mask of the others."""
    if x.device.type == "cpu":
        return dropped_places(x.numel(), share)
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - share)


def _less(x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """A copy of x less what is dropped."""
    if drawn.dtype == torch.bool:
        return torch.ops.aten.native_dropout_backward(x, drawn, 1.0)  # x * drawn, which would convert the mask first
    return _drop(x.clone(), drawn)


def _drop(x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """x less what is dropped, whose place it may take."""
    if drawn.dtype == torch.bool:
        return _less(x, drawn)
    x.view(-1).index_fill_(0, drawn, 0.0)
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
