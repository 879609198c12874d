"""Products with frozen float32 weights on a CPU, by oneDNN, which uses the widest instructions of every processor.

PyTorch hands float32 products to MKL, which stays at AVX2 on processors that are not Intel's. oneDNN, in the same
wheel, takes AVX-512 where there is any: 1.1 to 2.4 times the speed on an AMD EPYC, by its generation. Both add in
float32, in another order.

Plain counterpart: `torch.nn.functional.linear`, which computes all but large float32 products on a CPU. Switch:
`quick_products` for the linear layers of a model; `product` and `packed_products` for single weights.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rankadaptor.models.patching import replaced

# With fewer multiplications, oneDNN's greater cost of a call outweighs its gain: on an EPYC of the fourth generation,
# where the gain is smallest, products of 2**23 take as long either way, and the embedded model's, smaller still, a
# fifth longer.
_MIN_MULTIPLICATIONS = 2**24
_MAX_PACKED_BYTES = 2**31  # of all copies of weights in oneDNN's own order
_PACKED_FOR_TOKENS = 1024  # oneDNN selects its order for this number of tokens; results are right for any other


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T, without a gradient; by oneDNN for large float32 products on a CPU, else by PyTorch.  # (..., out)

    Args:
        x: (..., in).
        weight: (out, in). Strides of both are free: a transposed one costs nothing.
    """
    if _suits_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), None, "none", [], "")
    return functional.linear(x, weight)


Multiply = Callable[[torch.Tensor], torch.Tensor]  # (..., in) -> (..., out)


def packed_products(weights: Sequence[torch.Tensor]) -> list[Multiply]:
    """`product` with each weight, for many inputs (..., in), from copies of large weights in oneDNN's own order.

    Reordering takes 3 to 6 % of the time of a product. The copies live as long as the returned functions, and are made
    only if all weights take at most 2 GiB. Weights must not change meanwhile.

    Args:
        weights: (out, in) each.
    """
    fits = sum(weight.nbytes for weight in weights) <= _MAX_PACKED_BYTES
    return [_packed(weight) if fits else partial(product, weight=weight) for weight in weights]


def _packed(weight: torch.Tensor) -> Multiply:
    if not _suits_onednn(weight.new_empty(1).expand(_PACKED_FOR_TOKENS, weight.shape[1]), weight):
        return partial(product, weight=weight)
    copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _PACKED_FOR_TOKENS)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if not _suits_onednn(x, weight):
            return functional.linear(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), copy, None, "none", [], "")

    return multiply


def _suits_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.numel() * weight.shape[0] >= _MIN_MULTIPLICATIONS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _has_onednn()
    )


def _dense(x: torch.Tensor) -> torch.Tensor:
    """oneDNN reads dense matrices, in row-major or column-major order."""
    return x if x.dim() == 2 and x.T.is_contiguous() else x.contiguous()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))


class _FrozenLinear(torch.autograd.Function):
    """x W^T with a gradient for x alone; x (rows, in), W (out, in)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return product(grad_outputs[0], weight.T), None


@contextlib.contextmanager
def quick_products(model: nn.Module, pack: bool = False) -> Iterator[int]:
    """Let the linear layers of a model that have no bias multiply by `product`.

    Layers whose weight is trained stay with PyTorch while gradients are recorded.

    Args:
        pack: Multiply by `packed_products` where no gradients are recorded; weights must not change meanwhile.

    Yields:
        The number of such layers.
    """
    modules = [module for module in model.modules() if isinstance(module, nn.Linear) and _is_plain(module)]
    packed_modules = modules if pack else []
    multiply = dict(zip(packed_modules, packed_products([module.weight for module in packed_modules]), strict=True))

    def forward(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if module in multiply and not torch.is_grad_enabled():
            return multiply[module](x)
        return _linear(module, x)

    with replaced(modules, forward) as count:
        yield count


def _is_plain(module: nn.Linear) -> bool:
    return type(module) is nn.Linear and module.bias is None


def _linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return product(x, module.weight)
    if module.weight.requires_grad or not _suits_onednn(x, module.weight):
        return functional.linear(x, module.weight)
    flat = _FrozenLinear.apply(x.reshape(-1, x.shape[-1]), module.weight)  # (rows, out)
    return flat.view(*x.shape[:-1], -1)  # a view made outside the function, so that callers may change it in place
