"""Searches that RankAdaptor is compared with: the same loop, without its performance model.

A rival is one class (or function) that makes a `Propose` from the space and the settings, registered by the name that
specs and tables show:

    @register("random search")
    class RandomSearch: ...

Tables, figures and replays iterate `RIVALS`.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from optuna import Study, create_study, logging
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.errors import BadInput
from rankadaptor.plugins import add_entry
from rankadaptor.search.pool import MeasuredPool
from rankadaptor.search.proposals import Proposer, Space, round_generator, unmeasured
from rankadaptor.search.rounds import Round, best_first, mean_score, measured_scores
from rankadaptor.search.settings import SearchSettings

RIVALS: dict[str, Proposer] = {}
_Rival = TypeVar("_Rival", bound=Proposer)
_TRIES = 200  # proposals of TPE per round, of which those beyond the budget are dropped

logging.set_verbosity(logging.WARNING)  # a search's trace holds what Optuna would log of every trial


def register(name: str) -> Callable[[_Rival], _Rival]:
    """Decorate a proposer to add it to the rivals under a name.

    Raises:
        BadInput: if another rival has that name.
    """

    def add(proposer: _Rival) -> _Rival:
        entry: Proposer = proposer
        add_entry(RIVALS, "rival", name, entry)
        return proposer

    return add


def find_rival(name: str) -> Proposer | None:
    """The proposer of a rival; None, for the performance model, where the name is empty.

    Raises:
        BadInput: if no rival has that name.
    """
    if name and name not in RIVALS:
        raise BadInput(f"unknown rival {name!r}: use one of {', '.join(RIVALS)}")
    return RIVALS[name] if name else None


@register("random search")
class RandomSearch:
    """Proposes allocations at random. A `Propose`."""

    def __init__(self, space: Space, settings: SearchSettings):
        self._space, self._settings = space, settings

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        """A batch of proposals, none predicted."""
        generator = round_generator(self._settings, rounds)
        count = len(measured_scores(rounds)) + 8 * self._settings.batch
        return unmeasured(self._space.sample(count, generator), rounds, self._settings.batch), None


@register("mutation")
class Mutation:
    """Proposes allocations near the best measured one, without a predictor. A `Propose`.

    Source: White et al. 2021, whose BANANAS owes most of its gains to such mutations.
    """

    def __init__(self, space: Space, settings: SearchSettings):
        self._space, self._settings = space, settings

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        """A batch of proposals, none predicted."""
        generator = round_generator(self._settings, rounds)
        count = len(measured_scores(rounds))
        near = self._space.near(best_first(rounds)[0], count + 8 * self._settings.batch, generator)
        return unmeasured([*near, *self._space.sample(count + 8, generator)], rounds, self._settings.batch), None


@register("TPE")
class TreeParzen:
    """Optuna's TPE, multivariate, over the indices of ranks among the candidates. A `Propose`.

    A suggestion beyond the budget is drawn again; in a pool, the nearest allocations stand in for a suggestion.

    Source: Bergstra et al. 2011.
    """

    def __init__(self, space: Space, settings: SearchSettings):
        self._settings = settings
        self._pool = space if isinstance(space, MeasuredPool) else None
        whole = space.space if isinstance(space, MeasuredPool) else space
        assert isinstance(whole, SolutionSpace)
        self._whole = whole
        self._ranks = sorted(whole.candidates)
        self._distributions: dict[str, BaseDistribution] = {
            str(layer): IntDistribution(0, len(self._ranks) - 1) for layer in whole.free_layers
        }

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        """A batch of proposals, none predicted."""
        generator = round_generator(self._settings, rounds)
        study = self._study(rounds, int(generator.integers(2**31)))
        proposals: list[RankAllocation] = []
        for _ in range(_TRIES):
            places = study.ask(self._distributions).params
            suggestion = self._whole.fill([self._ranks[places[name]] for name in self._distributions])
            proposals += unmeasured(self._available(suggestion, generator), rounds, 1, proposals)
            if len(proposals) == self._settings.batch:
                return proposals, None
        # Hardly any suggestion is within budget, or a pool is used up: the rest of the batch is random.
        count = len(measured_scores(rounds)) + 8 * self._settings.batch
        more = (self._pool or self._whole).sample(count, generator)
        return proposals + unmeasured(more, rounds, self._settings.batch - len(proposals), proposals), None

    def _study(self, rounds: Sequence[Round], seed: int) -> Study:
        """A study of everything measured so far."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # `multivariate` is marked as experimental
            sampler = TPESampler(seed=seed, n_startup_trials=1, multivariate=True)
        study = create_study(direction="maximize", sampler=sampler)
        measured = measured_scores(rounds)
        study.add_trials([
            create_trial(
                params={name: self._ranks.index(allocation[int(name)]) for name in self._distributions},
                distributions=self._distributions,
                value=mean_score(measured[allocation]),
            )
            # TPE weighs old trials less: rounds stay in their order, allocations within one are sorted.
            for finished in rounds for allocation in sorted(finished.proposals)
        ])
        return study

    def _available(self, suggestion: RankAllocation, generator: np.random.Generator) -> list[RankAllocation]:
        """Allocations that can be measured in place of a suggestion, best first."""
        if self._pool is None:
            return [suggestion] if self._whole.within_budget(suggestion) else []
        near = self._pool.near(suggestion, len(self._pool.allocations), generator)
        return [suggestion, *near] if suggestion in self._pool.allocations else near
