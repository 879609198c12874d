"""A decoder with some of its layers only, for as long as it takes."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel


@contextlib.contextmanager
def layers_kept(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """Within, the decoder consists of some of its layers, in their order."""
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[position] for position in kept])
    try:
        yield
    finally:
        model.model.layers = layers
