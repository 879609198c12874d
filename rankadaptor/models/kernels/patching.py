"""Putting another forward pass, or another attention, in the place of a model's own, for a while."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextlib.contextmanager
def replaced(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[int]:
    """Let modules compute `forward(module, ...)`; yields how many there are. What is behind it is back afterwards."""
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = partial(forward, module)
    try:
        yield len(modules)
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                del vars(module)["forward"]  # the class's own is behind it
            else:
                vars(module)["forward"] = own


@contextlib.contextmanager
def attending(model: PreTrainedModel, kind: str) -> Iterator[None]:
    """Let a model's layers attend by what `AttentionInterface` knows as `kind`: under no mask of transformers' own, if
    it is not registered with `AttentionMaskInterface`, too.

    On a GPU, PyTorch's attention is not cuDNN's meanwhile, which plans every shape anew, for longer than a batch takes.
    """
    own = model.config._attn_implementation
    model.config._attn_implementation = kind
    try:
        with sdpa_kernel(_KERNELS) if model.device.type == "cuda" else contextlib.nullcontext():
            yield
    finally:
        model.config._attn_implementation = own
