"""The methods that tables compare: which adapter each trains, with which ranks, and how its learning rate is tuned.

A method of one's own is one `Method`, made known by `register`; `docs/extending.md` shows it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rankadaptor.allocation import RankAllocation, quarters_allocation, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.plugins import add_entry
from rankadaptor.profiles import Budget, Profile
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.recovery.spec import RecoverySpec

DENSE = "Dense"
NO_RECOVERY = "No recovery"
LORA = "LoRA"
LORA_STAR = "LoRA*"
ADALORA = "AdaLoRA"
OWN = "own allocation"
RANKADAPTOR = "RankAdaptor (one model)"
RANKADAPTOR_CONSTANT = "RankAdaptor, constant scaling"  # one model; LoRA itself is the same under both scalings
RANKADAPTOR_PER_TASK = "RankAdaptor (per task)"
MIRROR = "mirror of LoRA*"
SHUFFLED = ("LoRA* shuffled (1)", "LoRA* shuffled (2)")
DAMAGE = "ranks by pruning damage"
EVA = "EVA"
BEST_SEED = "LoRA, best of its seeds"
TUNED = "LoRA, tuned rate"

LARGEST = "LoRA, largest rank"  # of the candidates, in every layer
LARGEST_CONSTANT = "LoRA, largest rank, constant scaling"
# The best of all allocations of LoRA's size that the rank table holds, retrained with fresh seeds.
BEST_MEASURED: dict[Scaling, str] = {"fixed_alpha": "best of the rank table",
                                     "constant": "best of the rank table, constant scaling"}

SEARCHED: dict[str, Scaling | None] = {RANKADAPTOR: None, RANKADAPTOR_CONSTANT: "constant"}  # None: the profile's
# Method -> the row that shows, under the same scaling, what ranks can add.
CEILINGS = {RANKADAPTOR: LARGEST, RANKADAPTOR_PER_TASK: LARGEST, RANKADAPTOR_CONSTANT: LARGEST_CONSTANT,
            LORA_STAR: LARGEST}
CEILING_RANKS = (1, 2, 4, 6, 12, 16, 24, 32, 64)  # of which profiles name some: fewer and more than LoRA's 8
CEILING_SCALINGS: tuple[Scaling, ...] = ("fixed_alpha", "constant")

_SHUFFLE_SEED = 5


@dataclass(frozen=True)
class Method:
    """A recovery whose ranks follow from the model's shapes alone; RankAdaptor's are searched."""

    label: str  # of its rows
    allocation: Callable[[Profile, Architecture], RankAllocation]
    tuned_as: str = LORA  # the method whose trials choose its learning rate; LoRA's serves every LoRA
    learning_rates: Callable[[Budget], list[float]] = lambda budget: budget.learning_rates  # that are tried
    changes: Callable[[Profile], Mapping[str, Any]] = lambda profile: {}  # to the fields of LoRA's `RecoverySpec`
    is_asked: Callable[[Profile, Budget], bool] = lambda profile, budget: True  # whether a budget has rows of it

    def spec(
        self, profile: Profile, budget: Budget, architecture: Architecture, learning_rate: float, seed: int
    ) -> RecoverySpec:
        """One recovery of a pruned model by this method."""
        lora = profile.lora_spec(budget, self.allocation(profile, architecture), learning_rate, seed)
        return dataclasses.replace(lora, **self.changes(profile))


METHODS: dict[str, Method] = {}
UNIFORM: dict[str, tuple[int, Scaling]] = {}  # label of the ceiling test's rows -> rank in every layer, scaling


def register(method: Method) -> None:
    """Make a method known by its label.

    Raises:
        BadInput: if another method has that label.
    """
    add_entry(METHODS, "method", method.label, method)


def _uniform(profile: Profile, architecture: Architecture) -> RankAllocation:
    return uniform_allocation(profile.adapters.lora_rank, architecture)


def uniform_label(rank: int, scaling: Scaling = "fixed_alpha") -> str:
    """Label of LoRA with one rank other than the profile's."""
    return f"LoRA r={rank}" if scaling == "fixed_alpha" else f"LoRA r={rank}, {scaling} scaling"


def _one_rank(rank: int, profile: Profile, architecture: Architecture) -> RankAllocation:
    return uniform_allocation(rank, architecture)


def _largest(profile: Profile, architecture: Architecture) -> RankAllocation:
    return uniform_allocation(max(profile.search.candidates), architecture)


def _with_scaling(scaling: Scaling, profile: Profile) -> dict[str, Any]:
    return {"scaling": scaling}


def _asks_for(scaling: Scaling, rank: int, profile: Profile, budget: Budget) -> bool:
    """Whether a budget has uniform ranks of this size under this scaling."""
    return rank in profile.adapters.ceiling_ranks and scaling in (profile.adapters.scaling, *budget.scalings)


def asked_methods(methods: Sequence[str], profile: Profile, budget: Budget) -> tuple[str, ...]:
    """Those of a table's methods that have a row under a budget."""
    return tuple(
        method for method in methods
        if (METHODS[method].is_asked(profile, budget) if method in METHODS
            else SEARCHED[method] in (None, *budget.scalings))
    )


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
# The rate of each of these is tuned for it: under alpha/r, a rank is partly a learning rate.
for _scaling in CEILING_SCALINGS:
    for _rank in CEILING_RANKS:
        UNIFORM[uniform_label(_rank, _scaling)] = _rank, _scaling
        register(Method(_label := uniform_label(_rank, _scaling), partial(_one_rank, _rank), _label,
                        changes=partial(_with_scaling, _scaling), is_asked=partial(_asks_for, _scaling, _rank)))
register(Method(LARGEST, _largest, LARGEST))
register(Method(LARGEST_CONSTANT, _largest, LARGEST_CONSTANT, changes=partial(_with_scaling, "constant"),
                is_asked=lambda profile, budget: "constant" in budget.scalings))
register(Method(ADALORA, _uniform, ADALORA, lambda budget: budget.adalora_learning_rates, _adalora))
register(Method(EVA, _uniform, changes=lambda profile: {"method": "eva", "scaling": "fixed_alpha"}))
