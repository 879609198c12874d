"""What RankAdaptor is compared with: allocations by a rule, and searches without its performance model."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import create_study, logging
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from rankadaptor.allocation import RankAllocation, SolutionSpace
from rankadaptor.search.loop import (
    Proposer,
    Round,
    SearchSettings,
    Space,
    best_first,
    mean_score,
    measured_scores,
    round_generator,
)
from rankadaptor.search.pool import Pool

_TRIES = 200  # proposals of TPE a round, of which those beyond the budget are dropped


logging.set_verbosity(logging.WARNING)  # a line a trial says nothing that a trace does not


def damage_allocation(
    space: SolutionSpace, importance: Mapping[str, Any], kept: Mapping[str, Any]
) -> RankAllocation:
    """Ranks in proportion to what pruning took, as much as the budget admits.

    Damage is Taylor's estimate of the loss it causes: the summed importance of what went. Width: of a layer's own heads
    and channels. Depth: of the blocks that went, each shared by the nearest blocks below and above that stayed.

    Args:
        importance, kept: As `pruning.checkpoints` writes them.
    """
    if "blocks" in kept:
        scores, present = np.asarray(importance["blocks"], dtype=float), sorted(kept["blocks"])
        damage = np.zeros(len(scores))
        for gone in sorted(set(range(len(scores))) - set(present)):
            beside = [*[p for p in present if p < gone][-1:], *[p for p in present if p > gone][:1]]
            damage[beside] += scores[gone] / len(beside)
    else:
        damage = np.array([
            sum(np.sum(scores[kind]) - np.asarray(scores[kind])[units[kind]].sum() for kind in units)
            for scores, units in zip(importance["layers"], kept["layers"], strict=True)
        ])
    return space.proportional(damage[list(space.free_layers)])


class RandomSearch:
    """Every proposal is random. A `search.Propose`."""

    def __init__(self, space: Space, settings: SearchSettings):
        self._space, self._settings = space, settings

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        generator = round_generator(self._settings, rounds)
        count = len(measured_scores(rounds)) + 8 * self._settings.batch
        return _unseen(self._space.sample(count, generator), rounds, self._settings.batch), None


class Mutation:
    """Proposals near the best measured so far, and no predictor: what BANANAS' gains came from (White et al. 2021)."""

    def __init__(self, space: Space, settings: SearchSettings):
        self._space, self._settings = space, settings

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        generator = round_generator(self._settings, rounds)
        measured = measured_scores(rounds)
        near = self._space.near(best_first(rounds)[0], len(measured) + 8 * self._settings.batch, generator)
        return _unseen([*near, *self._space.sample(len(measured) + 8, generator)], rounds, self._settings.batch), None


class TreeParzen:
    """Optuna's TPE (Bergstra et al. 2011), multivariate, over the places of ranks among the candidates.

    What it proposes beyond the budget it proposes again; in a pool, the allocation that is nearest to what it wants.
    """

    def __init__(self, space: Space, settings: SearchSettings):
        self._settings = settings
        self._pool = space if isinstance(space, Pool) else None
        whole = space.space if isinstance(space, Pool) else space
        assert isinstance(whole, SolutionSpace)
        self._whole = whole
        self._places = {rank: place for place, rank in enumerate(sorted(self._whole.candidates))}
        self._distributions: dict[str, BaseDistribution] = {
            str(layer): IntDistribution(0, len(self._places) - 1) for layer in self._whole.free_layers
        }

    def __call__(self, rounds: Sequence[Round]) -> tuple[list[RankAllocation], None]:
        measured = measured_scores(rounds)
        generator = round_generator(self._settings, rounds)
        study = create_study(direction="maximize", sampler=self._sampler(int(generator.integers(2**31))))
        study.add_trials([
            create_trial(
                params={name: self._places[allocation[int(name)]] for name in self._distributions},
                distributions=self._distributions,
                value=mean_score(measured[allocation]),
            )
            # TPE weighs old trials less: rounds in their order, whatever the order within one.
            for one in rounds for allocation in sorted(one.proposals)
        ])
        ranks = sorted(self._whole.candidates)
        found: list[RankAllocation] = []
        for _ in range(_TRIES):
            wanted = study.ask(self._distributions).params
            allocation = self._whole.fill([ranks[wanted[name]] for name in self._distributions])
            found += _unseen(self._offered(allocation, generator), rounds, 1, found)
            if len(found) == self._settings.batch:
                return found, None
        # Hardly anything that it wants is affordable, or a pool is spent: what is missing is random.
        more = (self._pool or self._whole).sample(len(measured) + 8 * self._settings.batch, generator)
        return found + _unseen(more, rounds, self._settings.batch - len(found), found), None

    def _offered(self, wanted: RankAllocation, generator: np.random.Generator) -> list[RankAllocation]:
        """What there is of what is wanted, best first."""
        if self._pool is None:
            return [wanted] if self._whole.within_budget(wanted) else []
        near = self._pool.near(wanted, len(self._pool.allocations), generator)
        return [wanted, *near] if wanted in self._pool.allocations else near

    def _sampler(self, seed: int) -> TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # `multivariate` is marked so
            return TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


def _unseen(
    candidates: Sequence[RankAllocation], rounds: Sequence[Round], count: int, chosen: Sequence[RankAllocation] = ()
) -> list[RankAllocation]:
    """The first so many that were neither measured nor chosen already, each once."""
    known = {*measured_scores(rounds), *chosen}
    return list(dict.fromkeys(one for one in candidates if one not in known))[:count]


SEARCHES: dict[str, Proposer] = {"random search": RandomSearch, "mutation": Mutation, "TPE": TreeParzen}
