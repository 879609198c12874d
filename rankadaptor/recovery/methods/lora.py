"""LoRA with a rank per layer: a rank allocation as a PEFT configuration.

PEFT matches `rank_pattern` keys softly and ignores those that match nothing. So keys here are escaped names of modules
that exist, and the ranks of the adapted model are compared with the allocation.
"""

import math
from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel

from rankadaptor.allocation import validate_allocation
from rankadaptor.architecture import PROJECTIONS, Architecture, module_name
from rankadaptor.keys import sha256_text
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.recovery.portable import pattern_key
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.recovery.spec import AdapterMethod, RecoverySpec, register

CONSTANT_SCALE = 2  # of LLM-Pruner's recipe: alpha 16 at rank 8


def to_lora_config(
    allocation: Sequence[int], architecture: Architecture, scaling: Scaling, alpha: int, dropout: float = 0.0
) -> LoraConfig:
    """The PEFT configuration of a rank allocation, for this model and no other.

    Args:
        allocation: One rank per layer of the unpruned model, shared by the layer's seven projections.
        architecture: Of the pruned model that the adapter is for.
        scaling: `fixed_alpha`: alpha / r, so a low rank takes larger steps; `constant`: 2 whatever the rank;
            `rslora`: alpha / sqrt(r).
        alpha: LoRA's alpha under `fixed_alpha` and `rslora`.
        dropout: Share of an adapter's inputs that is dropped in training.

    Raises:
        BadInput: if the allocation does not fit the model.
    """
    ranks = validate_allocation(allocation, architecture)
    by_module = {
        module_name(position, projection): ranks[original]
        for position, original in enumerate(architecture.original_layers)
        for projection in PROJECTIONS
    }
    default = max(by_module.values())
    return LoraConfig(
        r=default,
        lora_alpha=CONSTANT_SCALE * default if scaling == "constant" else alpha,
        rank_pattern={pattern_key(name): rank for name, rank in by_module.items()},
        alpha_pattern=(
            {pattern_key(name): CONSTANT_SCALE * rank for name, rank in by_module.items()}
            if scaling == "constant"
            else {}
        ),
        use_rslora=scaling == "rslora",
        target_modules=list(PROJECTIONS),
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


class Lora(AdapterMethod):
    """W x + s B A x with frozen W, and A (rank, in) and B (out, rank) trained (Hu et al. 2022, Eq. 3).

    Initial weights are nested: under one seed, rank 4 of a module is the first four rows of its rank 8, whatever ranks
    the other layers have. So two allocations that share a seed differ by their ranks and not by their draws.
    """

    name = "lora"
    label = "LoRA"

    def peft_config(self, spec: RecoverySpec, architecture: Architecture) -> LoraConfig:
        """The ranks of the allocation under the spec's scaling."""
        return to_lora_config(spec.allocation, architecture, spec.scaling, spec.alpha, spec.recipe.lora_dropout)

    def initialise(self, adapted: PeftModel, spec: RecoverySpec) -> None:
        """A is uniform within 1 / sqrt(inputs), PEFT's distribution, by one generator a module, row by row; B is 0.

        Raises:
            RuntimeError: if a module did not get the rank of the allocation.
        """
        architecture = architecture_of(adapted.get_base_model())
        self._check_ranks(adapted, spec.allocation, architecture)
        modules = dict(adapted.get_base_model().named_modules())
        for position, original in enumerate(architecture.original_layers):
            for projection in PROJECTIONS:
                weight = modules[module_name(position, projection)].lora_A["default"].weight  # (rank, in)
                seed = int(sha256_text(f"{spec.seed} {original} {projection}")[:15], 16)
                generator = torch.Generator().manual_seed(seed)
                with torch.no_grad():
                    weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) / math.sqrt(weight.shape[1]))

    def _check_ranks(self, adapted: PeftModel, allocation: Sequence[int], architecture: Architecture) -> None:
        ranks = self.realised_ranks(adapted)
        for position, original in enumerate(architecture.original_layers):
            for projection in PROJECTIONS:
                name = module_name(position, projection)
                if ranks.pop(name, None) != allocation[original]:
                    raise RuntimeError(f"{name} did not get rank {allocation[original]} of layer {original}")
        if ranks:
            raise RuntimeError(f"adapter on modules that belong to no layer: {sorted(ranks)[:3]}")


register(Lora())
