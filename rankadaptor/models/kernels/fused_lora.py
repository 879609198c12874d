"""LoRA's forward and backward pass in few operations, with a dropout that, on a CPU, draws only what it drops.

PEFT's own pass is right everywhere and slow: 16 operations a module where 8 do, on a half-precision base in float32;
on a CPU, a random number for every input where one for every dropped input does (at 5 %, a twentieth). Within `fused`,
plain LoRA modules compute

    y = W x + (s / (1 - p) B) A D x,     D: each input kept with probability 1 - p

as before, gradients by hand; modules of one input, such as a layer's q, k and v, share what they can (`FusedModules`).
Where adapters are in float32 on a base in half precision, products are taken in the base's precision, as autocast does,
and their gradients summed up in float32.

Plain counterpart: `peft.tuners.lora.Linear.forward`, equal to rounding without dropout, in distribution with it.
Switch: `fused`.
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

from rankadaptor.models.kernels.products import Multiply, packed_products, product
from rankadaptor.models.patching import replaced


@dataclass(frozen=True, eq=False)
class _Group:
    """Modules of one input."""

    products: Sequence[tuple[Multiply, Multiply]]  # with a module's W, and with its transpose
    scalings: Sequence[float]
    dropouts: Sequence[nn.Module]
    factors: Sequence[nn.Parameter]  # A (rank, in) and B (out, rank) of each module in turn

    def dropout_rates(self) -> set[float]:
        """The different shares of their inputs that the modules drop."""
        return {dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
                for dropout in self.dropouts}


class FusedModules:
    """Applies modules to one input: in one pass, if all are fused and have the same dropout rate."""

    def __init__(self, modules: Sequence[Linear]):
        """
        Args:
            modules: Those that are fused; their frozen weights and their scalings must not change meanwhile.
        """
        weights = [module.get_base_layer().weight.detach() for module in modules]
        multiply = packed_products([*weights, *(weight.T for weight in weights)])  # forward, and backward
        pairs = zip(multiply[: len(modules)], multiply[len(modules) :], strict=True)
        self._products = dict(zip(modules, pairs, strict=True))
        self._groups: dict[tuple[nn.Module, ...], _Group | None] = {}

    def __len__(self) -> int:
        """The number of fused modules."""
        return len(self._products)

    def __call__(self, modules: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Outputs of the modules, fused or not.  # (..., out) each

        Args:
            x: (..., in).
        """
        key = tuple(modules)
        if key not in self._groups:
            self._groups[key] = self._group(modules)
        group = self._groups[key]
        if group is None or len(rates := group.dropout_rates()) > 1:
            return [module(x) for module in modules]
        return _FusedLora.apply(x, group, rates.pop(), *group.factors)

    def _group(self, modules: Sequence[nn.Module]) -> _Group | None:
        fused_modules = [module for module in modules if isinstance(module, Linear) and module in self._products]
        if len(fused_modules) < len(modules):
            return None
        return _Group(
            products=[self._products[module] for module in fused_modules],
            scalings=[module.scaling["default"] for module in fused_modules],
            dropouts=[module.lora_dropout["default"] for module in fused_modules],
            factors=[factor.weight for module in fused_modules
                     for factor in (module.lora_A["default"], module.lora_B["default"])],
        )


@contextlib.contextmanager
def fused(adapted: PeftModel) -> Iterator[FusedModules]:
    """Let the plain LoRA modules of an adapter compute the fused pass.

    Left to PEFT: modules of other kinds (AdaLoRA's, variants such as DoRA), with a bias, quantised or merged, adapters
    of a lower precision than their base and, on a CPU, of another one.

    Yields:
        The fused modules, which apply several modules to one input.
    """
    modules = [module for module in adapted.modules() if isinstance(module, Linear) and _is_plain(module)]
    fused_modules = FusedModules(modules)
    with replaced(modules, lambda module, x: fused_modules([module], x)[0]):
        yield fused_modules


def _is_plain(module: Linear) -> bool:
    base = module.get_base_layer()
    return (
        type(base) is nn.Linear
        and base.bias is None
        and list(module.lora_A) == module.active_adapters == ["default"]
        and all(_fits(factor["default"].weight, base.weight) for factor in (module.lora_A, module.lora_B))
        and not (module.merged or module.disable_adapters or module.lora_variant or module.lora_bias["default"])
        and not base.weight.requires_grad
    )


def _fits(adapter: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether an adapter is in its base's precision or, on a GPU, in a higher one."""
    if weight.device.type == "cpu":
        return adapter.dtype == weight.dtype
    return torch.promote_types(adapter.dtype, weight.dtype) == adapter.dtype


class _FusedLora(torch.autograd.Function):
    """Inputs: x (..., in), modules, their dropout rate, and A (rank, in) and B (out, rank) of each module.
    Outputs: (..., out) of each module.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, group: _Group, rate: float, *factors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])  # (tokens, in)
        scales = [scaling / (1 - rate) for scaling in group.scalings]
        a_factors = [a.to(flat.dtype) for a in factors[::2]]  # (rank, in) each
        b_factors = [(b * scale).to(flat.dtype) for b, scale in zip(factors[1::2], scales, strict=True)]
        drops = [_drawn_drop(flat, rate) for _ in a_factors] if rate else []
        if rate:
            low_rank = [product(a, _dropped(flat, drop)) for drop, a in zip(drops, a_factors, strict=True)]
        else:
            low_rank = product(_concatenated(a_factors), flat).split([len(a) for a in a_factors])
        # low_rank: A D x of each module, (rank, tokens)
        ctx.save_for_backward(flat, *a_factors, *b_factors, *low_rank, *drops)
        ctx.products, ctx.scales, ctx.shape = group.products, scales, x.shape
        ctx.dtypes = [factor.dtype for factor in factors]
        return tuple(
            multiply(flat).addmm_(low.T, b.T).view(*x.shape[:-1], -1)
            for (multiply, _), low, b in zip(group.products, low_rank, b_factors, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[Any, ...]:
        count = len(ctx.products)
        flat, *saved = ctx.saved_tensors
        a_factors, b_factors, low_rank, drops = (saved[i * count : (i + 1) * count] for i in range(4))
        grads = [grad_output.reshape(len(flat), -1) for grad_output in grad_outputs]  # (tokens, out) each
        grad_low_rank = [product(b.T, grad) for grad, b in zip(grads, b_factors, strict=True)]  # (rank, tokens) each
        grad_b = [product(low, grad.T).T * scale for low, grad, scale in zip(low_rank, grads, ctx.scales, strict=True)]
        if drops:
            grad_a = [product(grad_low, _dropped(flat, drop).T)
                      for grad_low, drop in zip(grad_low_rank, drops, strict=True)]
        else:
            all_grad_low_rank = _concatenated(grad_low_rank)  # (sum of ranks, tokens)
            grad_a = product(all_grad_low_rank, flat.T).split([len(a) for a in a_factors])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.products[0][1](grads[0])  # (tokens, in)
            for (_, multiply_transposed), grad in zip(ctx.products[1:], grads[1:], strict=True):
                grad_x += multiply_transposed(grad)
            if drops:
                for grad_low, a, drop in zip(grad_low_rank, a_factors, drops, strict=True):
                    grad_x += _drop_(grad_low.T @ a, drop)
            else:
                grad_x.addmm_(all_grad_low_rank.T, _concatenated(a_factors))
            grad_x = grad_x.view(ctx.shape)
        grad_factors = (grad for pair in zip(grad_a, grad_b, strict=True) for grad in pair)
        return grad_x, None, None, *(grad.to(dtype) for grad, dtype in zip(grad_factors, ctx.dtypes, strict=True))


def _concatenated(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(matrices)) if len(matrices) > 1 else matrices[0]


def _drawn_drop(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Which numbers of x are dropped: their flat indices on a CPU; on a GPU, where draws cost little, a mask of the
    others.
    """
    if x.device.type == "cpu":
        return dropped_indices(x.numel(), rate)
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - rate)


def _dropped(x: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """A copy of x with its dropped numbers set to 0."""
    if drop.dtype == torch.bool:
        return torch.ops.aten.native_dropout_backward(x, drop, 1.0)  # x * drop, which would convert the mask first
    return _drop_(x.clone(), drop)


def _drop_(x: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    """x with its dropped numbers set to 0, in place where `drop` are indices."""
    if drop.dtype == torch.bool:
        return _dropped(x, drop)
    x.view(-1).index_fill_(0, drop, 0.0)
    return x


def dropped_indices(count: int, rate: float) -> torch.Tensor:
    """Indices below `count` that independent draws drop, in rising order: gaps between them are geometric.  # (drops,)

    Draws from torch's global generator, about `rate * count` uniform numbers of 24 bits.
    """
    expected = rate * count
    positions = torch.zeros(1, dtype=torch.int64)  # 1-based, after a leading 0
    while int(positions[-1]) <= count:  # one round is enough but for one time in a billion
        uniform = torch.rand(int(expected + 6 * expected**0.5) + 16)
        gaps = 1 + uniform.neg_().log1p_().div_(math.log1p(-rate)).long()
        positions = torch.cat([positions, positions[-1] + gaps.cumsum(0)])
    return positions[1 : int(torch.searchsorted(positions, count, right=True))] - 1
