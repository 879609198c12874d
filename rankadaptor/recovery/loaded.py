"""A pruned model that stays in memory from one recovery to the next, while adapters are attached and removed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from rankadaptor.recovery.adapters import attach_adapter, load_adapter
from rankadaptor.recovery.merging import merged
from rankadaptor.recovery.spec import RecoverySpec


class LoadedModel:
    """A base model whose weights every recovery finds as they were loaded, bit for bit.

    An error inside `attached` or `recovered` may leave half an adapter behind: load the model anew after one.
    """

    def __init__(self, base: PreTrainedModel):
        self.base = base

    @contextlib.contextmanager
    def attached(self, spec: RecoverySpec) -> Iterator[PeftModel]:
        """Yields the base, frozen, with a fresh adapter to be trained. Removes the adapter on exit."""
        adapted = attach_adapter(self.base, spec)
        try:
            yield adapted
        finally:
            adapted.unload()
            self.base.eval()

    @contextlib.contextmanager
    def recovered(self, adapter: Path) -> Iterator[PreTrainedModel]:
        """Yields the base with a trained adapter merged into its weights, to be evaluated.

        Restores the weights on exit, from copies of the adapted projections, which take main memory and not a GPU's.
        """
        adapted = load_adapter(self.base, adapter)
        with _restored(adapted):
            yield merged(adapted)


@contextlib.contextmanager
def _restored(adapted: PeftModel) -> Iterator[None]:
    """Restores the weights under an adapter from copies: adding a product and subtracting it again would round."""
    weights = [module.get_base_layer().weight for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    copies = [weight.detach().to("cpu", copy=True) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, copy in zip(weights, copies, strict=True):
                weight.copy_(copy)
