"""The registry of rivals, and what all of them have in common."""

import dataclasses

import numpy as np
import pytest
from test_allocation import space

from rankadaptor.errors import BadInput
from rankadaptor.search.loop import search
from rankadaptor.search.proposals import unmeasured
from rankadaptor.search.rivals import RIVALS, find_rival, register
from rankadaptor.search.rounds import mean_score
from rankadaptor.search.settings import SearchSettings

SETTINGS = SearchSettings(initial=6, rounds=8, batch=2, candidates_per_round=300, threshold=0.0, patience=1, seed=0)


def noise(allocations):
    """A score that is a function of the allocation and of nothing else."""
    return [{"a": np.random.default_rng(list(a)).normal()} for a in allocations]


@pytest.fixture
def toy():
    """A rival from outside the package: steps to the neighbours of the last allocation."""

    def neighbours(space, settings):
        return lambda rounds: (unmeasured(space.neighbours(rounds[-1].proposals[-1]), rounds, settings.batch), None)

    register("toy")(neighbours)
    yield "toy"
    del RIVALS["toy"]


def test_a_registered_rival_searches(toy):
    result = search(space(), noise, SETTINGS, proposer=find_rival(toy))
    assert [len(r.proposals) for r in result.rounds] == [6] + 8 * [2]
    last, following = result.rounds[-2:]
    assert set(following.proposals) <= set(space().neighbours(last.proposals[-1]))


def test_names_of_rivals_are_unique_and_known(toy):
    with pytest.raises(ValueError, match="rival 'toy' is registered already: give it another name"):
        register("toy")(RIVALS["mutation"])
    with pytest.raises(BadInput, match="unknown rival 'oracle': use one of random search, mutation, TPE, toy"):
        find_rival("oracle")
    assert find_rival("") is None


def test_rivals_select_by_measurement_alone():
    settings = dataclasses.replace(SETTINGS, selection="predicted", predictor="ridge")
    for proposer in RIVALS.values():
        result = search(space(), noise, settings, proposer=proposer)
        measured = {a: s for r in result.rounds for a, s in zip(r.proposals, r.scores, strict=True)}
        assert mean_score(measured[result.best]) == max(map(mean_score, measured.values()))


def test_rivals_predict_nothing_and_never_converge():
    settings = dataclasses.replace(SETTINGS, threshold=1e9)
    result = search(space(), noise, settings, proposer=RIVALS["mutation"])
    assert len(result.rounds) == 1 + settings.rounds
    assert not result.converged
