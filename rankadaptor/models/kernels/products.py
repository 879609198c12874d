"""Products with frozen float32 weights on a CPU, by oneDNN, which uses the widest instructions of every processor.

PyTorch hands float32 products to MKL, which stays at AVX2 on processors that are not Intel's. oneDNN, in the same
wheel, takes AVX-512 where there is any: 1.1 to 2.4 times the speed on an AMD EPYC, by its generation. Both add in
float32, in another order.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rankadaptor.models.kernels.patching import replaced

# Multiplications. oneDNN's greater cost of a call is not worth it below: on an EPYC of the fourth generation, where its
# gain is smallest, products of 2**23 are as fast either way, and the embedded model's, smaller still, a fifth slower.
_WORTH_IT = 2**24
_PACKED_BYTES = 2**31  # copies of weights in oneDNN's own order are kept up to here
_TOKENS = 1024  # that the order is chosen for; others are as right


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T, without a gradient. oneDNN's for float32 on a CPU where PyTorch has it, else PyTorch's own.  # (..., out)

    Args:
        x: (..., in).
        weight: (out, in). Strides of both are free: a transposed one costs nothing.
    """
    if _is_for_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), None, "none", [], "")
    return functional.linear(x, weight)


Multiply = Callable[[torch.Tensor], torch.Tensor]


def packed(weights: Sequence[torch.Tensor]) -> list[Multiply]:
    """The product above with each weight, for many inputs (..., in), by copies of large ones in oneDNN's own order.

    Of the time of a product, 3 to 6 % go into that order. Copies live as long as the functions do, and are made if they
    take no more than 2 GiB in all; weights must not change meanwhile.
    """
    keep = sum(weight.nbytes for weight in weights) <= _PACKED_BYTES
    return [_packed(weight) if keep else partial(product, weight=weight) for weight in weights]


def _packed(weight: torch.Tensor) -> Multiply:
    if not _is_for_onednn(weight.new_empty(1).expand(_TOKENS, weight.shape[1]), weight):
        return partial(product, weight=weight)
    copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _TOKENS)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if not _is_for_onednn(x, weight):
            return functional.linear(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), copy, None, "none", [], "")

    return multiply


def _is_for_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.numel() * weight.shape[0] >= _WORTH_IT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _has_onednn()
    )


def _dense(x: torch.Tensor) -> torch.Tensor:
    """oneDNN reads numbers that follow one another, in rows or in columns."""
    return x if x.dim() == 2 and x.T.is_contiguous() else x.contiguous()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))


class _Frozen(torch.autograd.Function):
    """x W^T with a gradient for x alone.  # x (rows, in)"""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return product(gradients[0], ctx.saved_tensors[0].T), None


@contextlib.contextmanager
def quick_products(model: nn.Module, pack: bool = False) -> Iterator[int]:
    """Let the linear layers of a model multiply as above, where they have no bias; yields how many there are.

    Layers whose weight is to be trained keep PyTorch's own while gradients are recorded.

    Args:
        pack: Keep copies of the weights as `packed` does, for products without gradients.
    """
    modules = [one for one in model.modules() if isinstance(one, nn.Linear) and _is_plain(one)]
    copied = modules if pack else []
    copies = dict(zip(copied, packed([module.weight for module in copied]), strict=True))

    def forward(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if module in copies and not torch.is_grad_enabled():
            return copies[module](x)
        return _forward(module, x)

    with replaced(modules, forward) as count:
        yield count


def _is_plain(module: nn.Linear) -> bool:
    return type(module) is nn.Linear and module.bias is None


def _forward(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return product(x, module.weight)
    if module.weight.requires_grad or not _is_for_onednn(x, module.weight):
        return functional.linear(x, module.weight)
    flat = _Frozen.apply(x.reshape(-1, x.shape[-1]), module.weight)
    return flat.view(*x.shape[:-1], -1)  # outside of the function, or it could not be changed in place
