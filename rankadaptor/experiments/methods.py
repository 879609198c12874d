"""The methods that tables compare: which adapter each trains, with which ranks, and how its learning rate is tuned.

A method of one's own is one `Method`, made known by `register`; `docs/extending.md` shows it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation, quarters_allocation, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.plugins import add_entry
from rankadaptor.profiles import Budget, Profile
from rankadaptor.recovery.spec import RecoverySpec

DENSE = "Dense"
NO_RECOVERY = "No recovery"
LORA = "LoRA"
LORA_STAR = "LoRA*"
ADALORA = "AdaLoRA"
OWN = "own allocation"
RANKADAPTOR = "RankAdaptor (one model)"
RANKADAPTOR_PER_TASK = "RankAdaptor (per task)"
MIRROR = "mirror of LoRA*"
SHUFFLED = ("LoRA* shuffled (1)", "LoRA* shuffled (2)")
DAMAGE = "ranks by pruning damage"
EVA = "EVA"
BEST_SEED = "LoRA, best of its seeds"
TUNED = "LoRA, tuned rate"

CEILING_RANKS = (2, 16)  # around LoRA's 8: what every layer would lose and win with fewer and more

_SHUFFLE_SEED = 5


@dataclass(frozen=True)
class Method:
    """A recovery whose ranks follow from the model's shapes alone; RankAdaptor's are searched."""

    label: str  # of its rows
    allocation: Callable[[Profile, Architecture], RankAllocation]
    tuned_as: str = LORA  # the method whose trials choose its learning rate; LoRA's serves every LoRA
    learning_rates: Callable[[Budget], list[float]] = lambda budget: budget.learning_rates  # that are tried
    changes: Callable[[Profile], Mapping[str, Any]] = lambda profile: {}  # to the fields of LoRA's `RecoverySpec`

    def spec(
        self, profile: Profile, budget: Budget, architecture: Architecture, learning_rate: float, seed: int
    ) -> RecoverySpec:
        """One recovery of a pruned model by this method."""
        lora = profile.lora_spec(budget, self.allocation(profile, architecture), learning_rate, seed)
        return dataclasses.replace(lora, **self.changes(profile))


METHODS: dict[str, Method] = {}


def register(method: Method) -> None:
    """Make a method known by its label.

    Raises:
        BadInput: if another method has that label.
    """
    add_entry(METHODS, "method", method.label, method)


def _uniform(profile: Profile, architecture: Architecture) -> RankAllocation:
    return uniform_allocation(profile.adapters.lora_rank, architecture)


def uniform_label(rank: int) -> str:
    """Label of LoRA with one rank other than the profile's."""
    return f"LoRA r={rank}"


def _one_rank(rank: int, profile: Profile, architecture: Architecture) -> RankAllocation:
    return uniform_allocation(rank, architecture)


def _lora_star(profile: Profile, architecture: Architecture) -> RankAllocation:
    """Ranks that rise by quarters of depth. Source: Section 2, Figure 2."""
    return quarters_allocation(architecture, profile.adapters.lora_star_ranks)


def _mirror(profile: Profile, architecture: Architecture) -> RankAllocation:
    return quarters_allocation(architecture, profile.adapters.lora_star_ranks[::-1])


def _shuffled(number: int, profile: Profile, architecture: Architecture) -> RankAllocation:
    """LoRA*'s ranks in another order of the layers that are there."""
    allocation = _lora_star(profile, architecture)
    ranks = [rank for rank in allocation if rank]
    order = np.random.default_rng([_SHUFFLE_SEED, number]).permutation(len(ranks))
    drawn = iter(ranks[place] for place in order)
    return tuple(next(drawn) if rank else 0 for rank in allocation)


def _adalora(profile: Profile) -> dict[str, Any]:
    # AdaLoRA has one scaling, alpha over its initial rank, whatever the profile says of LoRA's.
    return {"method": "adalora", "scaling": "fixed_alpha", "adalora_init_rank": profile.adapters.adalora_init_rank}


register(Method(LORA, _uniform))
register(Method(LORA_STAR, _lora_star))
register(Method(MIRROR, _mirror))
for _number, _label in enumerate(SHUFFLED):
    register(Method(_label, partial(_shuffled, _number)))
for _rank in CEILING_RANKS:
    register(Method(uniform_label(_rank), partial(_one_rank, _rank)))
register(Method(ADALORA, _uniform, ADALORA, lambda budget: budget.adalora_learning_rates, _adalora))
register(Method(EVA, _uniform, changes=lambda profile: {"method": "eva", "scaling": "fixed_alpha"}))
