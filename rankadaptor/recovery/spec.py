"""The spec of a recovery, and the registry of adapter methods that it names.

An adapter method is a subclass of `AdapterMethod` that is registered: one file of `recovery/methods/`, which are all
imported with `rankadaptor.recovery`, or a module outside the package that calls `register` before the first spec that
names the method.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer

from rankadaptor.architecture import Architecture
from rankadaptor.bounds import LAYERS, RANKS, check_seed, check_whole
from rankadaptor.errors import BadInput, shown
from rankadaptor.plugins import add_entry
from rankadaptor.recovery.prompts import Example
from rankadaptor.recovery.recipe import SCALINGS, Recipe, Scaling

_VERSION_WITH_DROPOUT = {"batches": 4, "micro_batches": 5}  # numerics version by length grouping
_VERSION_WITHOUT_DROPOUT = 2


@dataclass(frozen=True)
class RecoverySpec:
    """One recovery: which adapter, how its ranks are allocated, and how it is trained."""

    method: str  # a registered adapter method; adalora and eva: the allocation has one rank, which they distribute
    allocation: tuple[int, ...]  # one rank per layer of the *unpruned* model, 0 where depth pruning removed it
    scaling: Scaling
    alpha: int
    recipe: Recipe
    seed: int
    adalora_init_rank: int | None = None  # AdaLoRA starts here and falls to the allocation's (uniform) rank

    @property
    def numerics_version(self) -> int:
        """Rises when training gives other results under an equal recipe; a part of keys, see `keys.Spec`."""
        return adapter_method(self.method).numerics_version(self.recipe)

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise BadInput(f"unknown scaling {self.scaling!r}: use one of {', '.join(SCALINGS)}")
        check_seed("training seed", self.seed)
        check_whole("alpha", self.alpha, 1, RANKS)
        check_whole("number of ranks in the allocation", len(self.allocation), 0, LAYERS)
        if max(self.allocation, default=0) > RANKS:
            raise BadInput(f"rank {shown(max(self.allocation))} is in the allocation: give ranks of at most {RANKS}")
        adapter_method(self.method).check_spec(self)


class AdapterMethod(ABC):
    """One way of adding trainable low-rank factors to a model, and what it needs beside plain training."""

    name: ClassVar[str]  # the value of `RecoverySpec.method`, and part of every key
    label: ClassVar[str]  # in error messages

    def check_spec(self, spec: "RecoverySpec") -> None:
        """Check the fields of a spec that depend on the method.

        Raises:
            BadInput: if one is missing, or belongs to another method.
        """
        if spec.adalora_init_rank is not None:
            raise BadInput("adalora_init_rank goes with method adalora, and only with it")

    def numerics_version(self, recipe: Recipe) -> int:
        """Version of the numerics of a training. Since versions 4 and 5 dropout is drawn in another way; all other
        changes were of rounding alone.
        """
        return _VERSION_WITH_DROPOUT[recipe.length_grouping] if recipe.lora_dropout else _VERSION_WITHOUT_DROPOUT

    @abstractmethod
    def peft_config(self, spec: "RecoverySpec", architecture: Architecture) -> LoraConfig:
        """The PEFT configuration of a spec whose allocation fits the model.

        Args:
            architecture: Of the pruned model.

        Raises:
            BadInput: if the method cannot be used with the spec on this model.
        """

    def initialise(self, adapted: PeftModel, spec: "RecoverySpec") -> None:  # noqa: B027
        """Set the initial weights of a fresh adapter, in place; default: PEFT's own, drawn under `spec.seed`."""

    def prepare(  # noqa: B027
        self, adapted: PeftModel, batches: Sequence[Sequence[Example]], spec: "RecoverySpec", pad_token_id: int
    ) -> None:
        """Change an adapter, in place, before training, for methods that read the training data first.

        Args:
            batches: Of the whole training, one an optimizer step.
        """

    def penalty(self, adapted: PeftModel) -> torch.Tensor | None:
        """A term that is added to the loss of every optimizer step; None: there is none.  # ()"""
        return None

    def after_step(self, adapted: PeftModel, step: int) -> None:  # noqa: B027
        """Called after every optimizer step, before gradients are set to zero.

        Args:
            step: 1-based.
        """

    def check_trained(self, ranks: dict[str, int], spec: "RecoverySpec") -> None:  # noqa: B027
        """Check the realised ranks of a trained adapter.

        Raises:
            RuntimeError: if the method did not do what it is for.
        """

    def realised_ranks(self, adapted: PeftModel) -> dict[str, int]:
        """Rank of every adapted module, by its name in the base model."""
        modules = adapted.get_base_model().named_modules()
        return {name: self.module_rank(module) for name, module in modules if isinstance(module, LoraLayer)}

    def module_rank(self, module: LoraLayer) -> int:
        """Rank of one adapted module."""
        return module.lora_A["default"].weight.shape[0]

    def uniform_rank(self, spec: "RecoverySpec", architecture: Architecture) -> int:
        """The one rank of a uniform allocation, for methods that distribute ranks themselves.

        Raises:
            BadInput: if the layers of the model have different ranks.
        """
        ranks = {spec.allocation[layer] for layer in architecture.original_layers}
        if len(ranks) != 1:
            raise BadInput(f"{self.label} starts from a uniform allocation, got ranks {sorted(ranks)}: give one rank")
        return ranks.pop()


ADAPTER_METHODS: dict[str, AdapterMethod] = {}


def register(method: AdapterMethod) -> None:
    """Make a method known by its name.

    Raises:
        BadInput: if the name is taken.
    """
    add_entry(ADAPTER_METHODS, "recovery method", method.name, method)


def adapter_method(name: str) -> AdapterMethod:
    """The method that is registered by a name.

    Raises:
        BadInput: if there is none.
    """
    if name not in ADAPTER_METHODS:
        raise BadInput(f"unknown recovery method {name!r}: use one of {', '.join(ADAPTER_METHODS)}")
    return ADAPTER_METHODS[name]
