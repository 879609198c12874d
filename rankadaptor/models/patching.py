"""Temporary changes to a model: another forward method, another attention, fewer decoder layers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

_SDPA_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextlib.contextmanager
def replaced(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[int]:
    """Let modules compute `forward(module, ...)`. Restores their former forward methods on exit.

    Yields:
        The number of modules.
    """
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = partial(forward, module)
    try:
        yield len(modules)
    finally:
        for module, previous in zip(modules, before, strict=True):
            if previous is None:
                del vars(module)["forward"]  # the method of the class applies again
            else:
                vars(module)["forward"] = previous


@contextlib.contextmanager
def attending(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let a model use another attention implementation. Restores the former one on exit.

    On a GPU, cuDNN's attention is excluded meanwhile: it plans every new shape for longer than a batch takes.

    Args:
        implementation: Its name in `AttentionInterface`. One without an entry in `AttentionMaskInterface` gets no mask
            from transformers.
    """
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        with sdpa_kernel(_SDPA_BACKENDS) if model.device.type == "cuda" else contextlib.nullcontext():
            yield
    finally:
        model.config._attn_implementation = before


@contextlib.contextmanager
def restricted_to_layers(model: PreTrainedModel, positions: Sequence[int]) -> Iterator[None]:
    """Run the decoder with some of its layers only, in the given order. Restores all layers on exit.

    Args:
        positions: 0-based, in the model as it is loaded.
    """
    layers = model.model.layers
    model.model.layers = nn.ModuleList([layers[position] for position in positions])
    try:
        yield
    finally:
        model.model.layers = layers
