"""A pruned model that stays in memory from one recovery to the next, while adapters come and go."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from rankadaptor.recovery.adapters import attach_adapter, load_adapter, merged
from rankadaptor.recovery.spec import RecoverySpec


class LoadedModel:
    """A base that every recovery finds as it was loaded, bit for bit. After an error it is of no more use."""

    def __init__(self, base: PreTrainedModel):
        self.base = base

    @contextlib.contextmanager
    def attached(self, spec: RecoverySpec) -> Iterator[PeftModel]:
        """The base with a fresh adapter, to be trained; its own weights are frozen."""
        adapted = attach_adapter(self.base, spec)
        try:
            yield adapted
        finally:
            adapted.unload()
            self.base.eval()

    @contextlib.contextmanager
    def recovered(self, adapter: Path) -> Iterator[PreTrainedModel]:
        """The base with a trained adapter merged into its weights, to be evaluated; they are put back afterwards.

        Copies of them take the memory of the adapted projections meanwhile: the main memory, not a GPU's.
        """
        adapted = load_adapter(self.base, adapter)
        with _restored(adapted):
            yield merged(adapted)


@contextlib.contextmanager
def _restored(adapted: PeftModel) -> Iterator[None]:
    """Puts the weights under an adapter back, exactly: what is added and taken off again is not what it was."""
    weights = [module.get_base_layer().weight for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    copies = [weight.detach().to("cpu", copy=True) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, copy in zip(weights, copies, strict=True):
                weight.copy_(copy)
